import inspect
import pickle
import pydoc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics.metric_maps import blobs, perturbed
from upsampling import metrics
from upsampling.metrics.accumulators import metric


def batches():
    target = np.stack([blobs((24, 24), 4, seed) for seed in range(6)])
    return np.stack([perturbed(t, seed) for seed, t in enumerate(target)]), target


def test_a_ratio_of_sums_is_not_the_mean_of_ratios():
    prediction, target = batches()
    sums = metrics.boundary_iou.accumulate(prediction, target, 4).compute()
    means = np.nanmean(metrics.boundary_iou(prediction, target, 4), axis=0)
    assert np.abs(sums - means).max() > 1e-4


def test_sums_outgrow_32_bits_on_the_host():
    ratio = metrics.Ratio(jnp.array(2**30), jnp.array(2**31 - 1))
    total = sum([ratio] * 8)
    assert int(total.numerator) == 2**33
    np.testing.assert_allclose(total.compute(), 2**30 / (2**31 - 1), rtol=1e-6)


def test_sums_outgrow_24_bits_on_the_host():
    """Distances and sizes are float32, in which 2**24 + 1 is 2**24."""
    large, one = (metrics.Ratio(jnp.array([x, x]), jnp.array([x, 1.0])) for x in (2.0**24, 1.0))
    total = sum([one] * 8, start=large)
    np.testing.assert_array_equal(total.numerator, [2**24 + 8, 2**24 + 8])
    assert total.numerator.dtype == np.float64
    np.testing.assert_array_equal(total.compute(), np.float32([1, (2**24 + 8) / 9]))


def test_nothing_to_measure_is_nan():
    zero = metrics.Ratio(jnp.array(0), jnp.array(0))
    assert np.isnan(zero.compute())
    assert np.isnan((zero + zero).compute())
    one = metrics.Ratio(jnp.array(0), jnp.array(3))
    assert np.isnan(metrics.PrecisionRecall(zero, zero).compute())
    assert metrics.PrecisionRecall(one, zero).compute() == 0
    assert metrics.PrecisionRecall(zero, one).compute() == 0


def test_different_sums_do_not_add():
    ratio = metrics.Ratio(jnp.array(1), jnp.array(2))
    matrix = jnp.array([[3, 1], [0, 4]])
    iou = metrics.ConfusionCounts(matrix, metrics.iou_of)
    for other in (
        metrics.PrecisionRecall(ratio, ratio),
        metrics.Ratio(jnp.array([[1]]), jnp.array([[2]]), kept_axes=2),
        iou,
    ):
        with pytest.raises(TypeError, match=r"merge: only sums of the same metric add up"):
            ratio + other
        with pytest.raises(TypeError, match=r"merge: only sums of the same metric add up"):
            ratio.merge(other)
    for other in (metrics.ConfusionCounts(matrix, metrics.dice_of), metrics.ConfusionCounts(matrix, metrics.iou_of, 1)):
        with pytest.raises(TypeError, match=r"merge: only sums of the same metric"):
            iou + other
    for other in (1, "0"):
        with pytest.raises(TypeError):
            other + ratio
        with pytest.raises(TypeError):
            ratio + other


def test_merge_is_addition():
    one, other = metrics.Ratio(jnp.array([1]), jnp.array([2])), metrics.Ratio(jnp.array([5]), jnp.array([6]))
    np.testing.assert_array_equal(one.merge(other).compute(), [0.75])
    np.testing.assert_array_equal((one + other).compute(), [0.75])
    assert sum([one]) is one


def test_confusion_counts_give_matrix_and_figure():
    matrix = np.array([[3, 1], [0, 4]])
    counts = metrics.ConfusionCounts(np.stack([matrix, matrix]), metrics.iou_of)
    np.testing.assert_array_equal(counts.total().matrix, 2 * matrix)
    np.testing.assert_allclose(counts.total().compute(), [0.75, 0.8], rtol=1e-6)
    ignoring = metrics.ConfusionCounts(matrix, metrics.iou_of, ignore_index=0)
    np.testing.assert_allclose(ignoring.compute(), [np.nan, 0.8], rtol=1e-6)
    several = metrics.ConfusionCounts(np.stack([[matrix, matrix]] * 3), metrics.iou_of, kept_axes=3)
    np.testing.assert_array_equal(several.total().matrix, [3 * matrix] * 2)


def test_image_mean_leaves_absent_classes_out():
    values = jnp.array([[1.0, jnp.nan, jnp.nan], [2.0, 4.0, jnp.nan]])
    np.testing.assert_array_equal(metrics.image_mean(values).compute(), [1.5, 4, np.nan])
    np.testing.assert_array_equal(metrics.image_mean(values[None], axes=(0, 1)).compute(), [1.5, 4, np.nan])
    # No axis: one image by itself, as a map over images has it.
    np.testing.assert_array_equal(metrics.image_mean(values[0], axes=()).denominator, ~jnp.isnan(values[0]))
    streamed = metrics.image_mean(values[:1]) + metrics.image_mean(values[1:])
    np.testing.assert_array_equal(streamed.compute(), [1.5, 4, np.nan])
    with pytest.raises(TypeError, match="image_mean: values"):
        metrics.image_mean(jnp.array([1, 2]))


ALL = [
    metrics.iou,
    metrics.mean_iou,
    metrics.dice,
    metrics.pixel_accuracy,
    metrics.frequency_weighted_iou,
    metrics.trimap_iou,
    metrics.boundary_iou,
    metrics.boundary_f1,
    metrics.error_by_distance,
    metrics.hausdorff_distance,
    metrics.average_surface_distance,
    metrics.normalized_surface_dice,
]


@pytest.mark.parametrize("function", ALL, ids=lambda f: f.__name__)
def test_a_metric_is_a_function(function):
    """For inspect, pickle and help, in both forms."""
    name = function.__name__
    assert getattr(metrics, name) is function
    assert pickle.loads(pickle.dumps(function)) is function
    assert pickle.loads(pickle.dumps(function.accumulate)) is function.accumulate
    for form, returned in ((function, jax.Array), (function.accumulate, metrics.Accumulator)):
        assert inspect.isfunction(form)
        signature = inspect.signature(form)
        assert list(signature.parameters)[:4] == ["prediction", "target", "num_classes", "ignore_index"]
        assert signature.return_annotation is form.__annotations__["return"] is returned
    page = pydoc.render_doc(function, renderer=pydoc.plaintext)
    assert f"{name}(prediction: " in page.replace("(\n    ", "(")  # Python 3.13 gives each argument a line
    assert f"Arguments and errors as in `{name}`" in function.accumulate.__doc__
    assert function.accumulate.__name__ == "accumulate"
    assert function.accumulate.__module__ == function.__module__


def test_a_metric_of_ones_own():
    @metric
    def wrong(prediction, target):
        """Share of wrong pixels."""
        difference = prediction != target
        return metrics.Ratio(difference.sum((-2, -1))[..., None], jnp.full((len(target), 1), target[0].size))

    prediction, target = (jnp.asarray(x) for x in batches())
    each = (prediction != target).mean((1, 2))[:, None]
    np.testing.assert_allclose(wrong(prediction, target), each, rtol=1e-6)
    total = wrong.accumulate(prediction[:2], target[:2]) + wrong.accumulate(
        prediction=prediction[2:], target=target[2:]
    )
    np.testing.assert_allclose(total.compute(), each.mean(0), rtol=1e-6)
    assert wrong.__doc__ == "Share of wrong pixels."
