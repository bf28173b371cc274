import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics.metric_maps import blobs, perturbed
from upsampling import metrics


def batches():
    target = np.stack([blobs((24, 24), 4, seed) for seed in range(6)])
    return np.stack([perturbed(t, seed) for seed, t in enumerate(target)]), target


def test_a_ratio_of_sums_is_not_the_mean_of_ratios():
    prediction, target = batches()
    sums = metrics.boundary_iou_sums(prediction, target, 4).value()
    means = np.nanmean(metrics.boundary_iou(prediction, target, 4), axis=0)
    assert np.abs(sums - means).max() > 1e-4


def test_sums_outgrow_32_bits_on_the_host():
    ratio = metrics.Ratio(jnp.array(2**30), jnp.array(2**31 - 1))
    total = sum([ratio] * 8)
    assert int(total.numerator) == 2**33
    np.testing.assert_allclose(total.value(), 2**30 / (2**31 - 1), rtol=1e-6)


def test_nothing_to_measure_is_nan():
    zero = metrics.Ratio(jnp.array(0), jnp.array(0))
    assert np.isnan(zero.value())
    assert np.isnan((zero + zero).value())
    one = metrics.Ratio(jnp.array(0), jnp.array(3))
    assert np.isnan(metrics.PrecisionRecall(zero, zero).value())
    assert metrics.PrecisionRecall(one, zero).value() == 0
    assert metrics.PrecisionRecall(zero, one).value() == 0


def test_different_sums_do_not_add():
    ratio = metrics.Ratio(jnp.array(1), jnp.array(2))
    with pytest.raises(TypeError):
        ratio + metrics.PrecisionRecall(ratio, ratio)
    with pytest.raises(TypeError):
        1 + ratio


def test_image_mean_leaves_absent_classes_out():
    values = jnp.array([[1.0, jnp.nan, jnp.nan], [2.0, 4.0, jnp.nan]])
    np.testing.assert_array_equal(metrics.image_mean(values).value(), [1.5, 4, np.nan])
    np.testing.assert_array_equal(metrics.image_mean(values[None], axes=(0, 1)).value(), [1.5, 4, np.nan])
    streamed = metrics.image_mean(values[:1]) + metrics.image_mean(values[1:])
    np.testing.assert_array_equal(streamed.value(), [1.5, 4, np.nan])
    with pytest.raises(TypeError, match="image_mean: values"):
        metrics.image_mean(jnp.array([1, 2]))
