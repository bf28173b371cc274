"""Covariances in boxes and their gradient, against NumPy pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from upsampling.primitives.box_covariance import box_covariance

RANDOM = np.random.default_rng(0)


def expected(a, b, radius):
    """The covariance in float64, of (h, w, channels), and its gradient to a for a cotangent of ones."""
    covariance, gradient = np.zeros(a.shape), np.zeros(a.shape)
    h, w, _ = a.shape
    for i in range(h):
        for j in range(w):
            box = np.s_[max(i - radius, 0) : i + radius + 1, max(j - radius, 0) : j + radius + 1]
            da, db = (x[box] - x[box].mean((0, 1)) for x in (a.astype(float), b.astype(float)))
            covariance[i, j] = (da * db).mean((0, 1))
            gradient[box] += db / db[..., 0].size
    return covariance, gradient


# The last is summed in a loop.
@pytest.mark.parametrize(("size", "radius"), [((7, 5), 1), ((1, 6), 2), ((1, 1), 3), ((4, 40), 17)])
@pytest.mark.parametrize("level", [0, 60000])
def test_covariance_and_gradient(size, radius, level):
    a, b = (np.round(level + 50 * RANDOM.standard_normal((*size, 2))).astype(np.float32) for _ in range(2))
    value, gradient = expected(a, b, radius)
    y, pull = jax.vjp(lambda a, b: box_covariance(a, b, radius), a, b)
    # Deviations are exact but for their mean's rounding: what is far from zero is rounded by its spacing.
    rounding = 1e-6 * 50 + 1e-7 * level
    np.testing.assert_allclose(y, value, atol=50 * 4 * rounding)
    np.testing.assert_allclose(pull(jnp.ones_like(y))[0], gradient, atol=4 * rounding)


def test_derivatives_of_any_order_batches_and_one_channel():
    with jax.enable_x64(True):
        a, b = (jnp.asarray(RANDOM.standard_normal((2, 4, 3, c))) for c in (1, 2))
        with jax.numpy_rank_promotion("allow"):  # of the checks
            check_grads(lambda a, b: jnp.sin(box_covariance(a, b, 1)), (a, b), order=2)
        y = box_covariance(a, b, 1)
        np.testing.assert_allclose(
            y[1], expected(np.repeat(np.asarray(a[1]), 2, -1), np.asarray(b[1]), 1)[0], atol=1e-12
        )
        mapped = jax.vmap(lambda a, b: box_covariance(a, b, 1), in_axes=(0, None))(a, b[0])
        np.testing.assert_allclose(mapped[1], box_covariance(a[1], b[0], 1), atol=1e-12)


def test_what_is_not_a_number_stays_in_its_boxes():
    a = RANDOM.standard_normal((6, 7, 1)).astype(np.float32)
    a[2, 3] = np.nan
    bad = np.isnan(box_covariance(jnp.asarray(a), jnp.ones_like(a), 1))[..., 0]
    assert bad[1:4, 2:5].all()
    assert bad.sum() == 9
