import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

from tests.metrics.metric_maps import blobs, drawn, volumes
from upsampling import metrics


def kervadec(mask):
    """The signed distance of the boundary loss as its authors compute it, with scipy."""
    if not mask.any() or mask.all():
        return np.zeros(mask.shape)
    outside = ~mask
    return ndimage.distance_transform_edt(outside) * outside - (ndimage.distance_transform_edt(mask) - 1) * mask


def test_level_sets_are_those_of_the_authors():
    for target, spacing in ((drawn()[1], None), (volumes()[1], (1, 1, 1))):
        got = metrics.level_sets(target, 3, spacing=spacing)
        expected = np.stack([[kervadec(t == c) for c in range(3)] for t in target])
        np.testing.assert_allclose(got, np.moveaxis(expected, 1, -1), rtol=1e-6)


def test_spacing_void_and_axes():
    target = blobs((12, 14), 3, 0)
    target[3:5, 4:9] = 9
    got = metrics.level_sets(np.stack([target, target], -1), 3, 9, spacing=(2.0, 0.5), axes=(0, 1))
    chex.assert_trees_all_equal(got[:, :, 0], got[:, :, 1])
    for c in range(3):
        inside = target == c
        out, into = (ndimage.distance_transform_edt(m, sampling=(2.0, 0.5)) for m in (~inside, inside))
        expected = np.where(target == 9, 0, np.where(inside, 0.5 - into, out))
        np.testing.assert_allclose(got[:, :, 1, c], expected, rtol=1e-6)


def test_value_and_gradient():
    target = jnp.asarray(drawn()[1])
    phi = metrics.level_sets(target, 3)
    logits = jax.random.normal(jax.random.key(0), phi.shape)
    probabilities = jax.nn.softmax(logits)
    expected = np.mean(np.asarray(probabilities, float) * np.asarray(phi, float))
    np.testing.assert_allclose(metrics.boundary_loss(probabilities, phi), expected, rtol=1e-5)
    # Linear in the probabilities; the distances take no gradient.
    wrt_p, wrt_phi = jax.grad(metrics.boundary_loss, argnums=(0, 1))(probabilities, phi)
    np.testing.assert_allclose(wrt_p, phi / phi.size, rtol=1e-6)
    assert not wrt_phi.any()
    some = jax.jit(lambda x: metrics.boundary_loss(jax.nn.softmax(x), phi[:2, :3, :3]))
    chex.assert_numerical_grads(some, (logits[:2, :3, :3],), order=1)


def test_jit_vmap_and_inside_a_step():
    target = jnp.asarray(drawn()[1])
    phi = metrics.level_sets(target, 3)

    @jax.jit
    @jax.grad
    def step(logits, target):
        return metrics.boundary_loss(jax.nn.softmax(logits), jax.vmap(lambda t: metrics.level_sets(t, 3))(target))

    logits = jax.random.normal(jax.random.key(0), phi.shape)
    expected = jax.grad(lambda x: jnp.mean(jax.nn.softmax(x) * phi))(logits)
    np.testing.assert_allclose(step(logits, target), expected, atol=1e-9, rtol=1e-5)
    each = jax.vmap(metrics.boundary_loss)(phi / 9, phi)
    np.testing.assert_allclose(each.mean(), metrics.boundary_loss(phi / 9, phi), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_float32(dtype):
    target = jnp.asarray(drawn()[1])
    phi = metrics.level_sets(target, 3)
    probabilities = jax.nn.softmax(jax.random.normal(jax.random.key(0), phi.shape)).astype(dtype)
    got = metrics.boundary_loss(probabilities, phi)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, metrics.boundary_loss(probabilities.astype(jnp.float32), phi), rtol=1e-6)
    assert jax.grad(metrics.boundary_loss)(probabilities, phi).dtype == dtype


def test_64_bits():
    with jax.enable_x64(True):
        target = jnp.asarray(drawn()[1][:2])
        phi = metrics.level_sets(target, 3)
        assert phi.dtype == metrics.boundary_loss(phi, phi).dtype == jnp.float64


@pytest.mark.mixes_dtypes
def test_training_with_optax_moves_the_boundary():
    """From a boundary in the wrong place the boundary loss alone finds the true one."""
    maps = jnp.asarray(drawn()[1])
    target, phi = maps[0], metrics.level_sets(maps, 3)[0]
    logits = 2.0 * jax.nn.one_hot(jnp.roll(target, 4, axis=1), 3)
    optimiser = optax.adam(0.3)

    def step(carry, _):
        logits, state = carry
        gradient = jax.grad(lambda x: metrics.boundary_loss(jax.nn.softmax(x), phi))(logits)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(logits, updates), state), None

    def farthest_error(logits):
        """How far outside of a class's true region it is predicted."""
        return jnp.max(jnp.take_along_axis(phi, jnp.argmax(logits, -1)[..., None], -1))

    assert farthest_error(logits) >= 3
    (logits, _), _ = jax.lax.scan(step, (logits, optimiser.init(logits)), length=60)
    assert farthest_error(logits) <= 1


def test_arguments():
    labels = np.zeros((4, 4), int)
    with pytest.raises(TypeError, match=r"level_sets: target .*argmax"):
        metrics.level_sets(labels.astype(np.float32), 2)
    with pytest.raises(ValueError, match=r"level_sets: target has label 5 .*ignore_index=9"):
        metrics.level_sets(labels + 5, 2, 9)
    with pytest.raises(ValueError, match="level_sets: num_classes"):
        metrics.level_sets(labels, 0)
    with pytest.raises(ValueError, match="level_sets: spacing"):
        metrics.level_sets(labels, 2, spacing=(1, 0))
    phi = metrics.level_sets(labels, 2)
    with pytest.raises(ValueError, match=r"boundary_loss: .*same shape"):
        metrics.boundary_loss(phi[..., :1], phi)
    with pytest.raises(TypeError, match="boundary_loss: probabilities"):
        metrics.boundary_loss(labels, labels)
    with pytest.raises(TypeError, match="boundary_loss: level_sets"):
        metrics.boundary_loss(phi, phi.astype(int))
