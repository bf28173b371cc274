"""No images: results without images, of the shapes that others have, and gradients of zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import upsampling as up
from tests.modes.calls import CALLS

MEANS = {"image_mean", "boundary_loss"}  # over the images too
RUN = ["bicubic", "transposed_conv", "max_unpool", "sapa", "joint_bilateral", "guided_filter, joint", "flow_warp"]


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.batched])
def test_no_images(name):
    call = CALLS[name]
    some, none = (jax.eval_shape(call.function, *call.arrays(n)) for n in (3, 0))
    for a, b in zip(jax.tree.leaves(some), jax.tree.leaves(none), strict=True):
        has_images = a.shape[:1] == (3,) and not name.endswith("accumulate") and name not in MEANS
        assert b.shape == ((0, *a.shape[1:]) if has_images else a.shape)
    if call.differentiable:
        jax.eval_shape(jax.grad(call.loss, call.differentiable), *call.arrays(0))


@pytest.mark.parametrize("name", RUN)
def test_gradients_of_nothing(name):
    call = CALLS[name]
    gradients = jax.jit(jax.grad(call.loss, call.differentiable))(*call.arrays(0))
    for g in gradients:
        np.testing.assert_array_equal(g, np.zeros(g.shape))


@pytest.mark.parametrize("shape", [(2, 0, 4), (0, 4), (4, 0)])
def test_no_pixels(shape):
    """What has a value per pixel has none; a metric has nothing to measure, and says so."""
    nothing = np.zeros(shape, np.int32)
    assert up.metrics.level_sets(nothing, 3).shape == (*shape, 3)
    assert up.metrics.distance_transform(nothing).shape == shape
    with pytest.raises(ValueError, match="iou: prediction must have at least 1 pixel"):
        up.metrics.iou(nothing, nothing, 3)


def test_no_channels():
    nothing = jnp.zeros((2, 6, 4, 0))
    assert up.resize(nothing, scale=2).shape == (2, 12, 8, 0)
    values, indices = up.max_pool_with_indices(nothing)
    assert values.shape == indices.shape == (2, 3, 2, 0)
    assert up.max_unpool(values, indices, (6, 4)).shape == (2, 6, 4, 0)
    assert up.grid_sample(nothing, jnp.zeros((2, 3, 3, 2))).shape == (2, 3, 3, 0)
    assert up.pixel_shuffle(nothing, 2).shape == (2, 12, 8, 0)


def test_sums_over_no_channels_are_zero():
    """And what is alike in no channel is alike: a joint bilateral filter keeps its spatial weights."""
    none, some, high = jnp.zeros((2, 6, 4, 0)), jnp.ones((2, 6, 4, 3)), jnp.zeros((2, 12, 8, 0))
    for y in (
        up.transposed_conv(none, jnp.ones((2, 2, 0, 4)), jnp.arange(4.0)),
        up.sub_pixel_conv(none, jnp.ones((3, 3, 0, 16)), jnp.repeat(jnp.arange(4.0), 4)),
    ):
        np.testing.assert_array_equal(y, np.broadcast_to(np.arange(4.0), (2, 12, 8, 4)))
    np.testing.assert_array_equal(up.deconv(none, jnp.ones((2, 2, 3, 0))), np.zeros((2, 12, 8, 3)))
    assert up.transposed_conv(some, jnp.ones((2, 2, 3, 0))).shape == high.shape
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (2, 6, 4, 3)), jnp.float32)
    flat = jnp.zeros((2, 12, 8, 1))
    np.testing.assert_allclose(up.joint_bilateral(x, high), up.joint_bilateral(x, flat), atol=1e-6)
    same = up.sapa(x, high, none, kernel_size=3)
    np.testing.assert_allclose(same, up.sapa(x, flat, flat[:, ::2, ::2], kernel_size=3), atol=1e-6)
    for y in (
        up.reassemble(none, jnp.ones((2, 12, 8, 1, 3, 3))),
        up.carafe(none, jnp.ones((2, 6, 4, 36)), kernel_size=3),
        up.joint_bilateral(none, high),
        up.guided_filter(none, flat),
        up.guided_filter(none, high, none, form="joint"),
        up.neighborhood_attention(none, jnp.ones((2, 12, 8, 4)), kernel_size=3),
    ):
        assert y.shape == high.shape
