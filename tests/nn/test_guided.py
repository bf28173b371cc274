"""Layers with a guide: what they compute, learn and refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

import upsampling as up
from tests.nn.layers import compiled, small
from tests.optional import F, torch


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


X, GUIDE = normal(0, 2, 4, 3, 4), normal(1, 2, 8, 9, 3)


def test_joint_bilateral_passes_on_what_it_is_given():
    layer = up.nn.JointBilateral(4, (2, 3), guide_features=3, radius=1, sigma_spatial=0.8, sigma_range=0.6)
    expected = up.joint_bilateral(X, GUIDE, radius=1, sigma_spatial=0.8, sigma_range=0.6)
    np.testing.assert_array_equal(layer(X, GUIDE), expected)
    assert jax.tree.leaves(nnx.state(layer)) == []


def test_jbu_is_its_two_functions_and_a_correction():
    layer = up.nn.JBU(4, (2, 3), guide_features=3, key_features=5, radius=1, rngs=nnx.Rngs(0))
    layer.range_temp[...], layer.sigma_spatial[...] = jnp.asarray(0.3), jnp.asarray(0.7)
    kernel = layer.kernel(GUIDE)
    gelu = lambda a: a * 0.5 * (1 + special.erf(a / np.sqrt(2)))  # noqa: E731
    weights = [(np.asarray(part.kernel), np.asarray(part.bias)) for part in (*layer.range_proj, *layer.fixup_proj)]
    embedding = gelu(np.asarray(GUIDE) @ weights[0][0] + weights[0][1]) @ weights[1][0] + weights[1][1]
    bilateral = up.bilateral_kernel(jnp.asarray(embedding), radius=1, temperature=np.exp(0.3), sigma_spatial=0.7)
    seen = np.concatenate([bilateral.reshape(2, 8, 9, 9), GUIDE], -1)
    correction = gelu(seen @ weights[2][0] + weights[2][1]) @ weights[3][0] + weights[3][1]
    np.testing.assert_allclose(kernel, bilateral + 0.1 * correction.reshape(2, 8, 9, 3, 3), atol=1e-5)
    np.testing.assert_allclose(layer(X, GUIDE), up.learned_bilateral(X, kernel), atol=1e-5)


def test_jbu_temperature_is_bounded():
    layer = up.nn.JBU(4, (2, 3), guide_features=3, key_features=5, radius=1, rngs=nnx.Rngs(0))
    layer.range_temp[...] = jnp.asarray(200.0)  # exp overflows float32
    assert jnp.isfinite(layer(X, GUIDE)).all()


def test_guided_filter_maps_the_guide_at_both_sizes():
    layer = up.nn.GuidedFilter(4, (2, 3), guide_features=3, hidden=5, radius=2, epsilon=0.1, rngs=nnx.Rngs(0))
    first, second = ((np.asarray(part.kernel), np.asarray(part.bias)) for part in layer.guide_map.layers)
    guides = (np.asarray(GUIDE), np.asarray(up.area(GUIDE, X.shape[1:3])))
    mapped = [np.maximum(g @ first[0] + first[1], 0) @ second[0] + second[1] for g in guides]
    expected = up.guided_filter(X, *mapped, radius=2, epsilon=0.1)
    np.testing.assert_allclose(layer(X, GUIDE), expected, atol=1e-5)


def test_guided_filter_without_a_map():
    guide = GUIDE[..., :1]
    layer = up.nn.GuidedFilter(
        4,
        (2, 3),
        guide_features=1,
        guide_map=False,
        average=True,
        convention="torch",
        rngs=nnx.Rngs(0),
    )
    expected = up.guided_filter(X, guide, form="channelwise", average=True, convention="torch")
    np.testing.assert_array_equal(layer(X, guide), expected)
    assert jax.tree.leaves(nnx.state(layer)) == []


def test_convolutional_guided_filter():
    """Wu et al. 2018, section 3.3, in PyTorch: a dilated depthwise mean, and slopes from three 1x1 convolutions."""
    guide = normal(2, 2, 8, 9, 4)
    layer = up.nn.GuidedFilter(
        4,
        (2, 3),
        guide_map=False,
        mean="conv",
        slope_hidden=6,
        radius=2,
        rngs=nnx.Rngs(0),
    )
    assert [part.kernel.shape for part in layer.slopes.layers] == [(8, 6), (6, 6), (6, 4)]
    layer.kernel[...] = jnp.abs(normal(3, 3, 3, 4)) + 0.1
    first = lambda a: torch.tensor(np.moveaxis(np.asarray(a), -1, 1))  # noqa: E731
    weight = torch.tensor(np.asarray(layer.kernel[...]).transpose(2, 0, 1)[:, None])
    box = lambda a: F.conv2d(a, weight, padding=2, dilation=2, groups=4)  # noqa: E731
    count = box(torch.ones(1, 4, 4, 3))
    x, high = first(X), first(guide)
    low = F.adaptive_avg_pool2d(high, (4, 3))
    mean_x, mean_low = box(x) / count, box(low) / count
    a = torch.cat([box(low * x) / count - mean_low * mean_x, box(low * low) / count - mean_low**2], 1)
    for n, part in enumerate(layer.slopes.layers):
        a = torch.einsum("nchw,cd->ndhw", F.relu(a) if n else a, torch.tensor(np.asarray(part.kernel[...])))
    b = mean_x - a * mean_low
    a, b = (F.interpolate(p, (8, 9), mode="bilinear", align_corners=True) for p in (a, b))
    np.testing.assert_allclose(layer(X, guide), (a * high + b).permute(0, 2, 3, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [("naf", {}, 740_608), ("jbu", {}, 11_174), ("guided_filter", {}, 8_320), ("naf", {"variant": "small"}, 6_512),
     ("jbu", {"variant": "small"}, 4_214), ("guided_filter", {"variant": "small"}, 2_128)],
)  # fmt: skip
def test_defaults_are_the_authors_settings_and_small_variants_have_a_name(name, options, count):
    """Parameters at 64 channels, of the guide too."""
    layer = up.nn.create(name, 64, rngs=nnx.Rngs(0), **options)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param))) == count


def test_joint_bilateral_has_a_variant_for_features():
    settings = [up.nn.create("joint_bilateral", 8, rngs=nnx.Rngs(0), variant=v) for v in (None, "features")]
    assert [layer.sigma_range for layer in settings] == [0.1, 1.0]


def test_guided_filter_takes_normalization():
    layer = up.nn.GuidedFilter(4, (2, 3), guide_features=3, mean="conv", norm=nnx.BatchNorm, rngs=nnx.Rngs(0))
    assert [len(part.norms) for part in (layer.guide_map, layer.slopes)] == [1, 2]
    before = layer.guide_map.norms[0].mean[...]
    y = layer(X, GUIDE)
    assert y.shape == (2, 8, 9, 4)
    assert (layer.guide_map.norms[0].mean[...] != before).any()


@pytest.mark.parametrize("name", ["joint_bilateral", "jbu", "guided_filter", "naf"])
def test_guides_that_do_not_fit(name):
    layer = small(name, 4, (2, 3), guide_features=3)
    kind = type(layer).__name__
    with pytest.raises(ValueError, match=rf"{kind}: guide must be given, a map of shape \(2, 8, 9, 3\)"):
        layer(X)
    for guide in (GUIDE[:, :3], GUIDE[..., :2], GUIDE[0]):
        with pytest.raises(ValueError, match=rf"{kind}: guide must be .*\(2, 8, 9, 3\) .*got shape"):
            layer(X, guide)
    with pytest.raises(ValueError, match=f"{kind}: x must have features=4 channels"):
        layer(X[..., :3], GUIDE)
    with pytest.raises(ValueError, match=f"{kind}: scale must be one number or 2 of them"):
        small(name, 4, (2, 2, 2))


def test_a_stack_to_the_size_of_its_guide():
    """Each layer makes half of the next one's size, rounded up."""
    layer = up.nn.JBUStack(4, 4, radius=1, key_features=4, rngs=nnx.Rngs(0))
    x, guide = X[:1], jax.random.normal(jax.random.key(2), (1, 15, 11, 3))
    expected = x
    for part, size in zip(layer.layers, ((8, 6), (15, 11)), strict=True):
        expected = compiled(part, expected, up.area(guide, size))
    np.testing.assert_allclose(
        compiled(layer, x, guide), expected + 0.1 * layer.fixup_proj(expected), rtol=0, atol=1e-5
    )


def test_flow_alignment_to_the_size_of_its_guide():
    """With no flow it is bilinear interpolation to that size."""
    layer = up.nn.FlowAlignment(4, guide_features=3, align_corners=False, edge="replicate", rngs=nnx.Rngs(0))
    layer.flow_kernel[...] = jnp.zeros_like(layer.flow_kernel[...])
    y = layer(X[:1], jnp.ones((1, 15, 11, 3)))
    np.testing.assert_allclose(y, up.bilinear(X[:1], (15, 11)), rtol=0, atol=1e-5)


@pytest.mark.mixes_dtypes
@pytest.mark.parametrize("name", ["jbu", "guided_filter", "naf"])
def test_dtypes(name):
    layer = small(name, 4, (2, 3), guide_features=3, dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))
    exact = compiled(small(name, 4, (2, 3), guide_features=3), X, GUIDE)
    y = compiled(layer, X, GUIDE)
    assert y.dtype == jnp.bfloat16
    assert jnp.abs(y.astype(jnp.float32) - exact).max() < 16 * jnp.finfo(jnp.bfloat16).eps * jnp.abs(exact).max()
    half = small(name, 4, (2, 3), guide_features=3, param_dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(nnx.state(half, nnx.Param)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: up.nn.JBUStack(4, 6, rngs=nnx.Rngs(0)), "JBUStack: scale must be a power of two; got 6"),
        (lambda: up.nn.JBUStack(4, 1, rngs=nnx.Rngs(0)), "JBUStack: scale must be at least 2; got 1"),
        (lambda: up.nn.JBUStack(4, 2, rngs=nnx.Rngs(0))(X), "JBUStack: guide must be given"),
        (lambda: up.nn.JBU(4, radius=-1, rngs=nnx.Rngs(0)), "JBU: radius must be at least 0; got -1"),
        (lambda: up.nn.GuidedFilter(4, mean="bocks", rngs=nnx.Rngs(0)), "GuidedFilter: mean='bocks' is not known"),
        (
            lambda: up.nn.GuidedFilter(4, guide_features=3, guide_map=False, rngs=nnx.Rngs(0)),
            "guide_features=3 without guide_map must be features=4 or 1",
        ),
        (
            lambda: up.nn.GuidedFilter(4, guide_features=1, guide_map=False, mean="conv", rngs=nnx.Rngs(0)),
            "guide_features=1 without guide_map must be features=4\\.",
        ),
    ],
)
def test_errors_explain(call, message):
    with pytest.raises(ValueError, match=message):
        call()
