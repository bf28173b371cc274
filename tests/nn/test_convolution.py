"""Layers of the convolution family: what they compute, and how they start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up


def test_transposed_conv_passes_its_geometry_on():
    layer = up.nn.TransposedConv(
        4,
        (2, 3),
        out_features=6,
        kernel_size=3,
        padding=[1, 0],
        output_padding=1,
        dilation=2,
        groups=2,
        rngs=nnx.Rngs(0),
    )
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 4))
    expected = up.transposed_conv(
        x,
        layer.kernel[...],
        layer.bias[...],
        strides=(2, 3),
        padding=(1, 0),
        output_padding=1,
        dilation=2,
        groups=2,
    )
    np.testing.assert_array_equal(layer(x), expected)


def test_padding_may_leave_nothing_of_small_inputs():
    """What is left depends on the input, which the constructor does not know."""
    layer = up.nn.TransposedConv(4, kernel_size=2, padding=[(2, 0), (0, 3)], rngs=nnx.Rngs(0))
    assert jax.eval_shape(layer, jnp.ones((3, 3, 4))).shape == (4, 3, 4)
    with pytest.raises(ValueError, match=r"padding=.* leaves nothing of the full result"):
        layer(jnp.ones((1, 3, 4)))


def test_deconv_is_the_adjoint_of_the_convolution_it_shares():
    down = nnx.Conv(
        4,
        6,
        (3, 3),
        strides=2,
        kernel_dilation=2,
        feature_group_count=2,
        padding="CIRCULAR",
        use_bias=False,
        rngs=nnx.Rngs(0),
    )
    layer = up.nn.Deconv(
        6, kernel=down.kernel, padding="CIRCULAR", dilation=2, groups=2, use_bias=False, rngs=nnx.Rngs(0)
    )
    assert layer.kernel is down.kernel
    x, y = jax.random.normal(jax.random.key(0), (1, 8, 6, 4)), jax.random.normal(jax.random.key(1), (1, 4, 3, 6))
    np.testing.assert_allclose(layer(y), jax.vjp(down, x)[1](y)[0], atol=1e-5)


def test_deconv_groups_must_divide():
    with pytest.raises(ValueError, match="Deconv: groups=3 must divide features=4"):
        up.nn.Deconv(4, groups=3, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("order", ["CRD", "DCR"])
def test_icnr_starts_without_a_checkerboard(order):
    kernel = up.nn.initializers.icnr((2, 3), order=order)(jax.random.key(0), (3, 3, 4, 5 * 6))
    x = jax.random.normal(jax.random.key(1), (2, 4, 5, 4))
    maps = up.sub_pixel_conv(x, kernel, scale=1)
    y = up.pixel_shuffle(maps, (2, 3), order=order)
    one = y[:, ::2, ::3]
    np.testing.assert_array_equal(y, jnp.repeat(jnp.repeat(one, 2, 1), 3, 2))
    # The phases share one draw, and channels do not.
    assert len(np.unique(kernel)) == 3 * 3 * 4 * 5


def test_icnr_keeps_the_variance_of_its_initializer():
    kernel = up.nn.initializers.icnr(2)(jax.random.key(0), (3, 3, 64, 64 * 4))
    assert abs(kernel.var() * 3 * 3 * 64 - 1) < 0.05
    given = up.nn.initializers.icnr(2, nnx.initializers.ones)(jax.random.key(0), (1, 1, 2, 8), jnp.float16)
    assert given.dtype == jnp.float16
    assert (given == 1).all()


def test_initializers_give_the_dtype_that_is_asked_for():
    draws = [
        (up.nn.initializers.bilinear(2), (4, 4, 1, 3)),
        (up.nn.initializers.label_blocks(np.zeros((1, 4, 4), int), 2), (2, 2, 3, 2)),
        (up.nn.initializers.icnr(2), (3, 3, 4, 8)),
    ]
    for init, shape in draws:
        assert init(jax.random.key(0), shape, jnp.float16).dtype == jnp.float16
        assert init(jax.random.key(0), shape).dtype == jnp.float32


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_bilinear_kernel_resizes_bilinearly(stride):
    window = 2 * stride - stride % 2
    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    expected = up.bilinear(x, scale=stride)
    dense = up.nn.initializers.bilinear(stride)(jax.random.key(0), (window, window, 3, 3))
    depthwise = up.nn.initializers.bilinear(stride)(jax.random.key(0), (window, window, 1, 3))
    inner = (slice(None), slice(stride, -stride), slice(stride, -stride))
    np.testing.assert_allclose(up.transposed_conv(x, dense, strides=stride)[inner], expected[inner], atol=1e-5)
    np.testing.assert_allclose(
        up.transposed_conv(x, depthwise, strides=stride, groups=3)[inner], expected[inner], atol=1e-5
    )


def test_resize_conv_interpolates_then_convolves():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    layer = up.nn.ResizeConv(3, (2, 3), out_features=2, method="bilinear", padding="VALID", rngs=nnx.Rngs(0))
    conv = nnx.Conv(3, 2, (3, 3), padding="VALID", rngs=nnx.Rngs(0))
    conv.kernel[...] = layer.kernel[...]
    np.testing.assert_allclose(layer(x), conv(up.bilinear(x, scale=(2, 3))), atol=1e-5)


def test_max_unpool_by_guide_and_by_indices():
    guide = jax.random.normal(jax.random.key(0), (2, 7, 9, 3))
    values, indices = up.max_pool_with_indices(guide, (2, 3))
    layer = up.nn.MaxUnpool(3, (2, 3))
    y = layer(values, guide)
    assert y.shape == guide.shape
    np.testing.assert_array_equal(jnp.where(y != 0, guide, 0), y)
    np.testing.assert_array_equal(layer(values, guide, indices=indices), y)
    assert layer(values, indices=indices).shape == (2, 6, 9, 3)


def test_max_unpool_errors():
    layer, x = up.nn.MaxUnpool(3), jnp.ones((4, 4, 3))
    with pytest.raises(ValueError, match=r"MaxUnpool: guide, .* or indices, .* must be given"):
        layer(x)
    with pytest.raises(ValueError, match="MaxUnpool: guide must have features=3 channels"):
        layer(x, jnp.ones((8, 8, 2)))
    with pytest.raises(ValueError, match=r"MaxUnpool: the indices of the pooled guide must have the shape of x"):
        layer(x, jnp.ones((6, 8, 3)))


def test_dupsampling_rebuilds_labels_from_their_principal_directions():
    # Four kinds of block, so that four numbers say all of a block.
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, (4, 2, 3))
    tiles = rng.integers(0, 4, (2, 5, 4))
    labels = kinds[tiles].transpose(0, 1, 3, 2, 4).reshape(2, 10, 12)
    init = up.nn.initializers.label_blocks(labels, 3)
    layer = up.nn.DUpsampling(4, (2, 3), out_features=3, kernel_init=init, rngs=nnx.Rngs(0))
    one_hot = jax.nn.one_hot(labels, 3)
    code = jnp.einsum("nhawbc,abfc->nhwf", one_hot.reshape(2, 5, 2, 4, 3, 3), layer.kernel[...])
    np.testing.assert_allclose(layer(code), one_hot, atol=1e-5)
    fewer = init(jax.random.key(0), (2, 3, 3, 3))
    np.testing.assert_allclose(jnp.abs(fewer), jnp.abs(layer.kernel[:, :, :3]), atol=1e-6)


def test_dupsampling_temperature_divides():
    layer = up.nn.DUpsampling(4, temperature=True, rngs=nnx.Rngs(0))
    x = jnp.ones((3, 3, 4))
    cold = layer(x)
    layer.temperature[...] = jnp.float32(4)
    np.testing.assert_allclose(layer(x), cold / 4, rtol=1e-6)


@pytest.mark.parametrize("method", ["transposed_conv", "dupsampling"])
@pytest.mark.parametrize("out_features", [64, 16])
def test_variance_is_kept(method, out_features):
    layer = up.nn.available()[method].create(64, out_features=out_features, rngs=nnx.Rngs(0))
    y = layer(jax.random.normal(jax.random.key(0), (1, 32, 32, 64)))
    assert 0.8 < float(y[:, 2:-2, 2:-2].var()) < 1.25


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: up.nn.initializers.icnr(0), "icnr: scale must be at least 1"),
        (lambda: up.nn.initializers.icnr(2, order="RCD"), "icnr: order='RCD' is not known"),
        (
            lambda: up.nn.initializers.icnr(2)(jax.random.key(0), (3, 3, 4, 6)),
            "icnr: shape must end in a multiple of 4",
        ),
        (lambda: up.nn.initializers.bilinear(0), "bilinear: strides must be at least 1"),
        (lambda: up.nn.initializers.bilinear(2)(jax.random.key(0), (4, 4, 2, 3)), "bilinear: shape must have as many"),
        (lambda: up.nn.initializers.label_blocks(np.ones((1, 4, 4)), 2), "label_blocks: labels must be whole numbers"),
        (
            lambda: up.nn.initializers.label_blocks(np.ones((1, 4, 4), int), 2)(jax.random.key(0), (2, 2, 9, 2)),
            "label_blocks: shape must be .* at most 8 features",
        ),
        (
            lambda: up.nn.initializers.label_blocks(np.ones((1, 1, 4), int), 2)(jax.random.key(0), (2, 2, 2, 2)),
            "hold no whole block of",
        ),
    ],
)
def test_initializer_errors_explain(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["transposed_conv", "deconv"])
def test_layers_to_an_explicit_size(name):
    """As a U-Net of odd sizes needs it."""
    layer = up.nn.create(name, 3, kernel_size=4, rngs=nnx.Rngs(0))
    assert jax.eval_shape(lambda x: layer(x, output_size=(9, 7)), jnp.ones((2, 5, 4, 3))).shape == (2, 9, 7, 3)
    assert jax.eval_shape(layer, jnp.ones((2, 5, 4, 3))).shape == (2, 10, 8, 3)
