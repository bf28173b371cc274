"""`create` builds every method by name, alike."""

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import upsampling as up

METHODS = sorted(up.nn.available())
# A scale of one and sizes of one pixel are the ends of what a layer takes.
SHAPES = [((6, 5, 4), 2), ((2, 3, 5, 6, 4), 3), ((1, 1, 1, 4), (2, 3)), ((7, 4), (2,)), ((3, 2, 4, 5, 4), (1, 2, 2))]
# These follow images, or positions in images: two spatial axes.
IMAGES = {"dysample", "flow_alignment", "guided_filter", "jbu", "joint_bilateral", "naf"}


def guide_for(method, shape):
    """A guide, for the methods that cannot do without one."""
    if up.nn.available()[method].uses_guide:
        return jax.random.normal(jax.random.key(1), shape)
    return None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "scale"), SHAPES)
def test_any_batch_axes_and_scales(method, shape, scale):
    if method in IMAGES and not isinstance(scale, int) and len(scale) != 2:
        with pytest.raises(ValueError, match="scale must be one number or 2 of them"):
            up.nn.create(method, 4, scale, rngs=nnx.Rngs(0))
        return
    layer = up.nn.create(method, 4, scale, rngs=nnx.Rngs(0))
    factors = (scale,) * 2 if isinstance(scale, int) else scale
    batch, spatial = shape[: -len(factors) - 1], shape[-len(factors) - 1 : -1]
    expected = (*batch, *(n * s for n, s in zip(spatial, factors, strict=True)), 4)
    chex.assert_shape(layer(jnp.ones(shape), guide_for(method, expected)), expected)


@pytest.mark.parametrize("method", METHODS)
def test_under_jit_vmap_and_grad(method):
    layer = up.nn.create(method, 4, rngs=nnx.Rngs(0))
    structure, state = nnx.split(layer)
    x = jax.random.normal(jax.random.key(0), (3, 5, 6, 4))

    guide = guide_for(method, (3, 10, 12, 4))

    def apply(state, x, guide):
        return nnx.merge(structure, state)(x, guide)

    y = layer(x, guide)
    chex.assert_trees_all_close(jax.jit(apply)(state, x, guide), y, atol=1e-5)
    chex.assert_trees_all_close(jax.vmap(apply, (None, 0, 0))(state, x, guide), y, atol=1e-5)
    gradients = jax.grad(lambda state, x: jnp.sum(apply(state, x, guide) ** 2), argnums=(0, 1))(state, x)
    chex.assert_tree_all_finite(gradients)
    for leaf in jax.tree.leaves(gradients):
        assert jnp.abs(leaf).max() > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_half_precision_in_half_precision_out(method, dtype):
    """With parameters in the same precision, as mixed-precision training casts them."""
    layer = up.nn.create(method, 4, rngs=nnx.Rngs(0))
    structure, state = nnx.split(layer)
    x = jax.random.normal(jax.random.key(0), (3, 5, 6, 4))
    guide = guide_for(method, (3, 10, 12, 4))
    exact = layer(x, guide)
    y = nnx.merge(structure, jax.tree.map(lambda leaf: leaf.astype(dtype), state))(x.astype(dtype), guide)
    assert y.dtype == dtype
    # Inputs and parameters are rounded too: each sum of tens of terms moves by a few units in the last place.
    assert jnp.abs(y.astype(jnp.float32) - exact).max() < 16 * jnp.finfo(dtype).eps * jnp.abs(exact).max()


@pytest.mark.parametrize("method", METHODS)
def test_layers_take_a_guide(method):
    layer = up.nn.create(method, 4, rngs=nnx.Rngs(0))
    x, guide = jnp.ones((2, 4, 4, 4)), jnp.ones((2, 8, 8, 4))
    y = layer(x, guide)
    if not up.nn.available()[method].uses_guide:
        chex.assert_trees_all_equal(y, layer(x))


def test_available_lists_families_and_papers():
    methods = up.nn.available()
    classic = {"nearest", "bilinear", "bicubic", "transposed_conv", "deconv", "sub_pixel_conv"}
    assert classic <= methods.keys()
    for name, method in methods.items():
        assert method.name == name
        assert method.family in {"interpolation", "convolution", "reassembly", "sampling"}
        assert method.paper
    families = [method.family for method in methods.values()]
    assert families == sorted(families, key=["interpolation", "convolution", "reassembly", "sampling"].index)
    with pytest.raises(TypeError):
        methods["mine"] = methods["nearest"]


def test_unknown_names_offer_the_nearest():
    with pytest.raises(ValueError, match=r"create: name='transpose_conv' .*Did you mean 'transposed_conv'"):
        up.nn.create("transpose_conv", 4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("features", [0, -1])
def test_features_must_be_positive(features):
    with pytest.raises(ValueError, match="create: features must be at least 1"):
        up.nn.create("nearest", features, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [0, -2])
def test_scale_must_be_positive(method, scale):
    with pytest.raises(ValueError, match=r"scale must be .*; got"):
        up.nn.create(method, 4, scale, rngs=nnx.Rngs(0))(jnp.ones((4, 4, 4)), guide_for(method, (8, 8, 4)))


@pytest.mark.parametrize("method", METHODS)
def test_unknown_options_are_named(method):
    with pytest.raises(TypeError, match=rf"create: '{method}' was given an option it does not have: .*colour"):
        up.nn.create(method, 4, rngs=nnx.Rngs(0), colour="red")
