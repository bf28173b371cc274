"""State dicts of DySample and SFNet's alignment, against their modules written out in PyTorch."""

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
import torch
import torch.nn.functional as F
from flax import nnx

import upsampling as up
from upsampling.interop.torch import load_state_dict


class Theirs(torch.nn.Module):
    """DySample as published: channels run over x and y, groups, then phases; group g moves the g-th block."""

    def __init__(self, features, scale, style, groups, scoped):
        super().__init__()
        self.scale, self.style, self.groups = scale, style, groups
        phases = scale * scale
        shape = (features // phases, 2 * groups) if style == "pl" else (features, 2 * groups * phases)
        self.offset = torch.nn.Conv2d(*shape, 1)
        if scoped:
            self.scope = torch.nn.Conv2d(*shape, 1)
        self.register_buffer("init_pos", torch.zeros(1, 2 * groups * phases, 1, 1))

    def forward(self, x):
        n, features, height, width = x.shape
        s, groups = self.scale, self.groups
        source = F.pixel_shuffle(x, s) if self.style == "pl" else x
        moves = self.offset(source)
        moves = moves * torch.sigmoid(self.scope(source)) * 0.5 if hasattr(self, "scope") else moves * 0.25
        if self.style == "lp":
            moves = F.pixel_shuffle(moves, s)
        moves = moves.reshape(n, 2, groups, s * height, s * width)
        blocks = []
        for g in range(groups):
            column = (torch.arange(s * width) + 0.5) / s + moves[:, 0, g]  # from the image's outer edge
            row = ((torch.arange(s * height) + 0.5) / s)[:, None] + moves[:, 1, g]
            grid = torch.stack([2 * column / width - 1, 2 * row / height - 1], -1)
            block = x[:, g * features // groups : (g + 1) * features // groups]
            blocks.append(F.grid_sample(block, grid, padding_mode="border", align_corners=False))
        return torch.cat(blocks, 1)


@pytest.mark.parametrize("style", ["lp", "pl"])
@pytest.mark.parametrize("scoped", [False, True])
@pytest.mark.parametrize("scale", [2, 3])
def test_dysample(style, scoped, scale):
    torch.manual_seed(0)
    theirs = Theirs(36, scale, style, 2, scoped)
    layer = up.nn.DySample(36, scale, style=style, groups=2, dynamic_scope=scoped, rngs=nnx.Rngs(0))
    state = {f"up.{name}": value for name, value in theirs.state_dict().items()}
    assert load_state_dict(layer, state, prefix="up.") is layer
    x = torch.randn(2, 36, 5, 4)
    np.testing.assert_allclose(layer(x.movedim(1, -1).numpy()), theirs(x).movedim(1, -1).detach(), atol=1e-4)


def test_flow_alignment():
    rng = np.random.default_rng(0)
    shapes = {"down_h.weight": (3, 6, 1, 1), "down_l.weight": (3, 4, 1, 1), "flow_make.weight": (2, 6, 3, 3)}
    state = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    layer = load_state_dict(up.nn.FlowAlignment(6, guide_features=4, rngs=nnx.Rngs(0)), state)
    x, fine = (torch.tensor(rng.standard_normal(s), dtype=torch.float32) for s in [(1, 6, 5, 4), (1, 4, 10, 8)])
    down_h, down_l, flow_make = (torch.tensor(w) for w in state.values())
    coarse = F.interpolate(F.conv2d(x, down_h), (10, 8), mode="bilinear", align_corners=True)
    flow = F.conv2d(torch.cat([coarse, F.conv2d(fine, down_l)], 1), flow_make, padding=1)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 10), torch.linspace(-1, 1, 8), indexing="ij")
    grid = torch.stack([columns + flow[:, 0] / 8, rows + flow[:, 1] / 10], -1)
    expected = F.grid_sample(x, grid, align_corners=True).movedim(1, -1)
    np.testing.assert_allclose(layer(*(a.movedim(1, -1).numpy() for a in (x, fine))), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset.bias": None}, "state lacks 'offset.bias'"),
        ({"offset.weight": np.ones((32, 8, 3, 3))}, r"'offset.weight' must have shape \(32, 8, 1, 1\)"),
        ({"scope.weight": np.ones((32, 8, 1, 1))}, "state has 'scope.weight', which the layer has no use for"),
    ],
)
def test_errors_name_the_entry(change, message):
    state = {"offset.weight": np.ones((32, 8, 1, 1)), "offset.bias": np.ones(32)} | change
    state = {name: value for name, value in state.items() if value is not None}
    layer = up.nn.DySample(8, rngs=nnx.Rngs(0))
    before = layer.offset_kernel[...]
    with pytest.raises(ValueError, match=message):
        load_state_dict(layer, state)
    np.testing.assert_array_equal(before, layer.offset_kernel[...])
    assert layer.offset_kernel[...].dtype == jnp.float32
