"""LIIF against a plain statement of it in PyTorch, under the names of its checkpoints."""

import itertools

import numpy as np
import pytest
from flax import nnx

import upsampling as up
from tests.interop.agreement import agree, normal, shaken
from tests.optional import F, torch
from upsampling.interop.torch import load_state_dict


class LIIF(torch.nn.Module):
    """The network, asked for each output pixel by its coordinates from -1 to 1, as arXiv:2012.09161 has them."""

    def __init__(self, features, out, hidden, ensemble=True, unfold=True, cell=True):
        super().__init__()
        self.ensemble, self.unfold, self.cell = ensemble, unfold, cell
        widths = [features * (9 if unfold else 1) + (4 if cell else 2), *hidden]
        layers = [a for n, m in itertools.pairwise(widths) for a in (torch.nn.Linear(n, m), torch.nn.ReLU())]
        self.imnet = torch.nn.Module()
        self.imnet.layers = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], out))

    def forward(self, x, size):
        n, c, h, w = x.shape
        features = F.unfold(x, 3, padding=1).reshape(n, 9 * c, h, w) if self.unfold else x
        middle = lambda m: (torch.arange(m) * 2 + 1) / m - 1  # noqa: E731
        places = torch.stack(torch.meshgrid(*map(middle, size), indexing="ij"), -1)
        own = torch.stack(torch.meshgrid(middle(h), middle(w), indexing="ij"), -1)
        parts, areas = [], []
        for down in (-1, 1) if self.ensemble else (0,):
            for right in (-1, 1) if self.ensemble else (0,):
                moved = places + torch.tensor([down / h, right / w]) + (1e-6 if self.ensemble else 0)
                moved = moved.clamp(-1 + 1e-6, 1 - 1e-6)
                pixel = [((moved[..., a] + 1) * m / 2 - 0.5).round().long() for a, m in ((0, h), (1, w))]
                step = (places - own[pixel[0], pixel[1]]) * torch.tensor([h, w])
                given = [features[:, :, pixel[0], pixel[1]].movedim(1, -1), step.expand(n, *size, 2)]
                if self.cell:
                    given.append(torch.tensor([2 * h / size[0], 2 * w / size[1]]).expand(n, *size, 2))
                parts.append(self.imnet.layers(torch.cat(given, -1)))
                areas.append(step.prod(-1).abs() + 1e-9)
        total = sum(areas)
        return sum(p * (a / total)[..., None] for p, a in zip(parts, areas[::-1], strict=True)).movedim(-1, 1)


@pytest.mark.parametrize(
    ("size", "options"),
    [((7, 11), {}), ((8, 12), {"cell": False, "unfold": False}), ((9, 7), {"ensemble": False}), ((3, 4), {})],
)
def test_liif(size, options):
    theirs = shaken(LIIF(5, 3, (8, 6), **options))
    layer = up.nn.LIIF(5, out_features=3, hidden=(8, 6), rngs=nnx.Rngs(0), **options)
    agree(layer, theirs, lambda module, x: module(x, size), normal(0, 2, 4, 6, 5), size=size)


def test_a_checkpoint_is_unwrapped():
    """As the authors store it, beside the encoder."""
    theirs = shaken(LIIF(4, 3, (6,)))
    state = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    checkpoint = {"epoch": 1, "model": {"name": "liif", "sd": state | {"module.encoder.head.weight": torch.ones(3)}}}
    layers = [up.nn.LIIF(4, out_features=3, hidden=(6,), rngs=nnx.Rngs(n)) for n in range(2)]
    load_state_dict(layers[0], checkpoint)
    load_state_dict(layers[1], theirs.state_dict(), prefix="imnet")
    x = normal(0, 3, 4, 4)
    np.testing.assert_array_equal(layers[0](x), layers[1](x))
    with pytest.raises(TypeError, match=r"its entries \['epoch', 'other'\] are no arrays, and none of them is called"):
        load_state_dict(layers[0], {"epoch": 1, "other": state})
