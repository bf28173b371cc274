"""Layers of the sampling family: what they compute, and how they start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from tests.optional import F, torch


@pytest.mark.parametrize("style", ["lp", "pl"])
@pytest.mark.parametrize("scale", [2, (3, 1)])
def test_dysample_starts_nearly_bilinear(style, scale):
    layer = up.nn.DySample(12, scale, style=style, groups=3, dynamic_scope=True, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 12))
    y = up.bilinear(x, scale=scale)
    assert 0 < jnp.abs(layer(x) - y).max() < 0.05
    without = up.nn.DySample(12, scale, style=style, groups=3, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(without(x), y, atol=1e-5)
    assert abs(float(layer.offset_kernel[...].std()) - 0.001) < 0.0005
    assert (layer.scope_kernel[...] == 0).all()


def test_dysample_to_any_size():
    """By offsets between those of the scaled size; at that size, by these."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 4))
    for style in ("lp", "pl"):
        layer = up.nn.DySample(4, style=style, groups=2, dynamic_scope=True, rngs=nnx.Rngs(0))
        layer.offset_bias[...] = jax.random.normal(jax.random.key(1), layer.offset_bias.shape)
        np.testing.assert_allclose(layer(x, size=(10, 8)), layer(x), atol=1e-6)
        offsets = layer._predict(x, None, layer.offset_kernel[...], layer.offset_bias[...])
        between = up.bilinear(offsets.reshape(2, 10, 8, 4), (9, 7)).reshape(2, 9, 7, 2, 2)
        np.testing.assert_allclose(layer(x, size=(9, 7)), up.dysample(x, between, size=(9, 7)), atol=1e-5)
    with pytest.raises(ValueError, match="DySample: size must be at least 1"):
        layer(x, size=0)


def test_dysample_has_the_papers_parameters():
    """Table 1 of the paper counts offsets of all groups and phases; a shuffle before the convolution saves most."""
    count = lambda **options: sum(  # noqa: E731
        leaf.size for leaf in jax.tree.leaves(nnx.state(up.nn.DySample(64, rngs=nnx.Rngs(0), **options), nnx.Param))
    )
    assert count() == 64 * 32 + 32
    assert count(dynamic_scope=True) == 2 * 64 * 32 + 32
    assert count(dynamic_scope=True, scope_bias=True) == 2 * (64 * 32 + 32)
    assert count(style="pl", groups=8) == 16 * 16 + 16


def test_offsets_reach_the_pixels_they_are_predicted_for():
    """With a kernel of zeros the bias alone moves: group by group and phase by phase, rows and columns."""
    for style in ("lp", "pl"):
        layer = up.nn.DySample(8, (2, 2), style=style, groups=2, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
        bias = np.zeros(
            (2, 2, 2, 2) if style == "lp" else (2, 2, 1, 1), np.float32
        )  # group, axis, phase row and column
        bias[1, 0] = 1.0
        layer.offset_bias[...] = jnp.asarray(bias.ravel())
        x = jnp.broadcast_to(jnp.arange(6.0)[:, None, None], (6, 5, 8))
        moved = layer(x) - up.bilinear(x, scale=2)
        np.testing.assert_allclose(moved[2:-2, ..., :4], 0, atol=1e-5)
        np.testing.assert_allclose(moved[2:-2, ..., 4:], 0.25, atol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
def test_flow_alignment_is_its_module(align_corners):
    layer = up.nn.FlowAlignment(
        6, (2, 3), guide_features=5, flow_features=4, align_corners=align_corners, rngs=nnx.Rngs(0)
    )
    x, guide = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 4, 3, 6), (2, 8, 9, 5)]))
    names = ("coarse_kernel", "fine_kernel", "flow_kernel")
    coarse, fine, last = (torch.tensor(np.asarray(getattr(layer, n)[...])).permute(3, 2, 0, 1) for n in names)
    image, detail = (torch.tensor(np.asarray(a)).movedim(-1, 1).requires_grad_() for a in (x, guide))
    low = F.interpolate(F.conv2d(image, coarse), (8, 9), mode="bilinear", align_corners=align_corners)
    flow = F.conv2d(torch.cat([low, F.conv2d(detail, fine)], 1), last, padding=1)
    lines = [torch.linspace(-1, 1, n) if align_corners else (2 * torch.arange(n) + 1) / n - 1 for n in (8, 9)]
    grid = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1) + flow.movedim(1, -1) / torch.tensor([8.0, 9.0])
    expected = F.grid_sample(image, grid.flip(-1), align_corners=align_corners)
    z = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    y, pull = jax.vjp(layer, x, guide)
    np.testing.assert_allclose(y, expected.movedim(1, -1).detach(), atol=1e-4)
    for ours, theirs in zip(
        pull(z.movedim(1, -1).numpy()), torch.autograd.grad(expected, (image, detail), z), strict=True
    ):
        np.testing.assert_allclose(ours, theirs.movedim(1, -1), atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: up.nn.DySample(6, rngs=nnx.Rngs(0)), "DySample: groups=4 must divide features=6"),
        (
            lambda: up.nn.DySample(8, 3, style="pl", rngs=nnx.Rngs(0)),
            "DySample: features=8 must be a multiple of the 9",
        ),
        (lambda: up.nn.DySample(8, style="xy", rngs=nnx.Rngs(0)), "DySample: style='xy' is not known"),
        (lambda: up.nn.DySample(8, (2, 2, 2), rngs=nnx.Rngs(0)), "DySample: scale must be one number or 2 of them"),
        (lambda: up.nn.DySample(8, rngs=nnx.Rngs(0))(jnp.ones((4, 4, 7))), "DySample: x must have features=8 channels"),
        (lambda: up.nn.FlowAlignment(8, rngs=nnx.Rngs(0))(jnp.ones((4, 4, 8))), "FlowAlignment: guide must be given"),
        (
            lambda: up.nn.FlowAlignment(8, rngs=nnx.Rngs(0))(jnp.ones((4, 4, 8)), jnp.ones((8, 3, 8))),
            r"FlowAlignment: guide must be .*\(8, 8, 8\) .* got shape \(8, 3, 8\)",
        ),
        (lambda: up.nn.FlowAlignment(8, flow_features=0, rngs=nnx.Rngs(0)), "flow_features must be at least 1"),
    ],
)
def test_errors_explain(call, message):
    with pytest.raises(ValueError, match=message):
        call()
