"""State dicts of DySample and SFNet's alignment, against their modules written out in PyTorch."""

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
import torch
import torch.nn.functional as F
from flax import nnx

import upsampling as up
from tests.interop.agreement import agree, first, last, normal, shaken
from upsampling.interop.torch import load_state_dict


class Theirs(torch.nn.Module):
    """DySample as published: channels run over x and y, groups, then phases; group g moves the g-th block."""

    def __init__(self, features, scale, style, groups, scoped, bias=True):
        super().__init__()
        self.scale, self.style, self.groups = scale, style, groups
        phases = scale * scale
        shape = (features // phases, 2 * groups) if style == "pl" else (features, 2 * groups * phases)
        self.offset = torch.nn.Conv2d(*shape, 1)
        if scoped:
            self.scope = torch.nn.Conv2d(*shape, 1, bias=bias)
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
    bias = scale == 3  # of 2023; without it since 2024
    theirs = Theirs(36, scale, style, 2, scoped, bias)
    options = {"style": style, "groups": 2, "dynamic_scope": scoped, "rngs": nnx.Rngs(0)}
    layer = up.nn.DySample(36, scale, scope_bias=bias, **options)
    state = {f"up.{name}": value for name, value in theirs.state_dict().items()}
    assert load_state_dict(layer, state, prefix="up.") is layer
    if scoped:
        with pytest.raises(
            ValueError, match=f"state has .* 'scope.bias': give the layer scope_bias={bias}, which makes"
        ):
            load_state_dict(up.nn.DySample(36, scale, scope_bias=not bias, **options), state, prefix="up")
        agree(layer, theirs, lambda module, x: module(x), normal(0, 2, 5, 4, 36))
    x = normal(1, 1, 4, 5, 36)
    np.testing.assert_allclose(layer(x), last(theirs(first(x))), atol=1e-4)


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


class Gated(torch.nn.Module):
    """SFNet's second module: both maps warped, and mixed by a gate, of features or of what pools them."""

    def __init__(self, features, hidden, pooled):
        super().__init__()
        conv = lambda inputs, out, k=1: torch.nn.Conv2d(inputs, out, k, padding=k // 2, bias=False)  # noqa: E731
        self.pooled = pooled
        self.down_h, self.down_l = conv(features, hidden), conv(features, hidden)
        self.flow_make = conv(2 * hidden, 4, 3)
        self.flow_gate = torch.nn.Sequential(conv(4 if pooled else 2 * hidden, 1, 3), torch.nn.Sigmoid())

    def forward(self, x, fine):
        size = fine.shape[2:]
        coarse = F.interpolate(self.down_h(x), size, mode="bilinear", align_corners=True)
        both = torch.cat([coarse, self.down_l(fine)], 1)
        flow = self.flow_make(both).movedim(1, -1) / torch.tensor([size[1], size[0]] * 2)
        rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
        grid = torch.stack([columns, rows], -1)
        warped = [
            F.grid_sample(a, grid + f, align_corners=True) for a, f in ((x, flow[..., :2]), (fine, flow[..., 2:]))
        ]
        if self.pooled:
            both = torch.cat([a.mean(1, True) for a in (coarse, fine)] + [a.amax(1, True) for a in (coarse, fine)], 1)
        gate = self.flow_gate(both)
        return gate * warped[0] + (1 - gate) * warped[1]


@pytest.mark.parametrize("pooled", [False, True])
def test_flow_alignment_with_a_gate(pooled):
    layer = up.nn.FlowAlignment(6, flow_features=4, gate="pooled" if pooled else "features", rngs=nnx.Rngs(0))
    maps = normal(0, 2, 5, 4, 6), normal(1, 2, 9, 8, 6)
    agree(layer, shaken(Gated(6, 4, pooled)), lambda module, x, fine: module(x, fine), *maps)


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
