import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from tests.metrics.metric_maps import blobs, camvid, perturbed
from upsampling import metrics

ALL = [
    metrics.confusion_matrix,
    metrics.iou,
    metrics.mean_iou,
    metrics.dice,
    metrics.pixel_accuracy,
    metrics.frequency_weighted_iou,
]
PER_CLASS = {metrics.iou: sklearn.metrics.jaccard_score, metrics.dice: sklearn.metrics.f1_score}


@pytest.fixture(scope="module")
def pair():
    target = np.stack([blobs((21, 34), 5, seed) for seed in range(3)])
    prediction = np.stack([perturbed(t, seed) for seed, t in enumerate(target)])
    target[0, :3, :7] = 9  # void
    prediction[1][prediction[1] == 4] = 3
    target[1][target[1] == 4] = 3  # class 4 in neither map of image 1
    prediction[2][prediction[2] == 2] = 1  # class 2 in the target of image 2 only
    return prediction, target


def oracle(function, prediction, target, num_classes, ignore=9):
    """scikit-learn's, on the pixels that are not void."""
    known = target != ignore
    prediction, target = prediction[known], target[known]
    classes = np.arange(num_classes)
    if function is metrics.confusion_matrix:
        return sklearn.metrics.confusion_matrix(target, prediction, labels=classes)
    if function is metrics.pixel_accuracy:
        return sklearn.metrics.accuracy_score(target, prediction)
    if function is metrics.frequency_weighted_iou:
        return sklearn.metrics.jaccard_score(target, prediction, average="weighted")
    either = [(target == c).any() or (prediction == c).any() for c in classes]
    if function is metrics.mean_iou:
        return sklearn.metrics.jaccard_score(target, prediction, labels=classes[either], average="macro")
    values = PER_CLASS[function](target, prediction, labels=classes, average=None, zero_division=0)
    return np.where(either, values, np.nan)


@pytest.mark.parametrize("function", ALL, ids=lambda f: f.__name__)
class TestAgainstScikitLearn:
    def test_blobs(self, function, pair):
        got = np.asarray(function(*pair, 5, 9))
        for image, (p, t) in enumerate(zip(*pair, strict=True)):
            np.testing.assert_allclose(got[image], oracle(function, p, t, 5), rtol=1e-6)

    def test_real_frames(self, function):
        target = camvid(2)
        prediction = np.stack([perturbed(np.minimum(t, 10), 0) for t in target])
        got = np.asarray(function(prediction, target, 11, 11))
        for image, (p, t) in enumerate(zip(prediction, target, strict=True)):
            np.testing.assert_allclose(got[image], oracle(function, p, t, 11, ignore=11), rtol=1e-5)

    def test_batches_jit_and_vmap(self, function, pair):
        pair = jnp.asarray(pair)
        whole = function(*pair, 5, 9)
        nested = function(*pair[:, :, None, None], 5, 9)
        chex.assert_trees_all_close(whole, nested[:, 0, 0])
        chex.assert_trees_all_close(whole[1], function(*pair[:, 1], 5, 9))
        jitted = jax.jit(function, static_argnames=("num_classes", "ignore_index"))
        chex.assert_trees_all_close(whole, jitted(*pair, num_classes=5, ignore_index=9))
        chex.assert_trees_all_close(whole, jax.vmap(lambda p, t: function(p, t, 5, 9))(*pair))

    def test_other_axes(self, function, pair):
        moved = [np.moveaxis(x, 0, -1) for x in pair]
        chex.assert_trees_all_equal(function(*pair, 5, 9), function(*moved, 5, 9, axes=(0, 1)))
        volumes = function(*pair, 5, 9, axes=(0, 1, 2))
        np.testing.assert_allclose(volumes, oracle(function, *pair, 5), rtol=1e-6)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int16, np.uint32, bool])
    def test_integer_types(self, function, dtype):
        p, t = np.array([[0, 1, 1]]), np.array([[0, 0, 1]])
        chex.assert_trees_all_equal(function(p, t, 2), function(p.astype(dtype), t.astype(dtype), 2))

    def test_logits_are_refused(self, function):
        labels = jnp.zeros((4, 4), jnp.int32)
        for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
            with pytest.raises(TypeError, match=rf"{function.__name__}: prediction.*{jnp.dtype(dtype)}.*argmax"):
                function(labels.astype(dtype), labels, 2)
            with pytest.raises(TypeError, match=rf"{function.__name__}: target"):
                jax.jit(lambda a, b: function(a, b, 2))(labels, labels.astype(dtype))

    @pytest.mark.parametrize("bad", [-1, 5, 9, 2**32 + 1])
    def test_labels_out_of_range(self, function, bad):
        labels = np.zeros((4, 4), np.int64)
        wrong = labels.copy()
        wrong[1, 2] = bad
        with pytest.raises(ValueError, match=rf"{function.__name__}: prediction has label {bad} "):
            function(wrong, labels, 5, 9)  # the target alone may hold ignore_index
        if bad != 9:
            with pytest.raises(ValueError, match=rf"{function.__name__}: target has label {bad} .*ignore_index=9"):
                function(labels, wrong, 5, 9)
        if bad < 2**31:
            # Inside jit the pixel is not counted, as if it were void.
            compiled = jax.jit(lambda p, t: function(p, t, 5))(jnp.asarray(wrong), jnp.asarray(labels))
            void = labels.copy()
            void[1, 2] = 9
            chex.assert_trees_all_equal(compiled, function(labels, void, 5, 9))

    def test_arguments(self, function):
        labels = jnp.zeros((4, 4), jnp.int32)
        with pytest.raises(ValueError, match=rf"{function.__name__}: .*same shape"):
            function(labels, labels[None], 2)
        with pytest.raises(ValueError, match=rf"{function.__name__}: num_classes"):
            function(labels, labels, 0)
        with pytest.raises(TypeError, match=rf"{function.__name__}: num_classes"):
            jax.jit(function)(labels, labels, 2)
        with pytest.raises(TypeError, match=rf"{function.__name__}: ignore_index"):
            function(labels, labels, 2, 1.0)
        with pytest.raises(ValueError, match=rf"{function.__name__}: axes"):
            function(labels[0], labels[0], 2)
        with pytest.raises(ValueError, match=rf"{function.__name__}: axes"):
            function(labels, labels, 2, axes=(0, 0))
        with pytest.raises(ValueError, match=rf"{function.__name__}: .*at least 1 pixel"):
            function(labels[:0], labels[:0], 2)
        with pytest.raises(TypeError, match=rf"{function.__name__}: prediction must be an array"):
            function("labels", labels, 2)


FIGURES = {
    metrics.iou: metrics.iou_of,
    metrics.mean_iou: metrics.mean_iou_of,
    metrics.dice: metrics.dice_of,
    metrics.pixel_accuracy: metrics.pixel_accuracy_of,
    metrics.frequency_weighted_iou: metrics.frequency_weighted_iou_of,
}


def test_figures_of_a_data_set_come_from_summed_counts(pair):
    total = sum(np.asarray(metrics.confusion_matrix(p, t, 5, 9), np.int64) for p, t in zip(*pair, strict=True))
    chex.assert_trees_all_equal(total, np.asarray(metrics.confusion_matrix(*pair, 5, 9).sum(0), np.int64))
    for function, of in FIGURES.items():
        expected = oracle(function, *pair, 5)
        np.testing.assert_allclose(of(total), expected, rtol=1e-6)
        np.testing.assert_allclose(of(jnp.asarray(total)), expected, rtol=1e-6)
        assert not np.allclose(np.nanmean(function(*pair, 5, 9), 0), expected)
        sums = [function.accumulate(p, t, 5, 9) for p, t in zip(*pair, strict=True)]
        np.testing.assert_array_equal(sum(sums).matrix, total)
        np.testing.assert_allclose(sum(sums).compute(), expected, rtol=1e-6)
        whole = function.accumulate(*pair, 5, 9)
        np.testing.assert_array_equal(whole.matrix, total)
        np.testing.assert_allclose(whole.compute(), expected, rtol=1e-6)


def test_counts_beyond_32_bits_stay_right_on_the_host():
    matrix = np.array([[3, 1], [0, 4]], np.int64) * 2**40
    np.testing.assert_allclose(metrics.iou_of(matrix), [0.75, 0.8], rtol=1e-6)
    np.testing.assert_allclose(metrics.iou_of(jnp.array([[3, 1], [0, 4]]) * 2**28), [0.75, 0.8], rtol=1e-6)
    np.testing.assert_allclose(metrics.dice_of(jnp.array([[3, 0], [2, 4]]) * 2**27), [0.75, 0.8], rtol=1e-6)
    # Streamed too: four of these counts leave the range of 32 bits.
    counts = metrics.ConfusionCounts(jnp.array([[3, 1], [0, 4]]) * 2**28, metrics.iou_of)
    np.testing.assert_array_equal(sum([counts] * 4).matrix, np.array([[3, 1], [0, 4]]) * 2**30)
    np.testing.assert_allclose(sum([counts] * 4).compute(), [0.75, 0.8], rtol=1e-6)


def test_labels_of_64_bits_do_not_wrap_into_range():
    """Inside jit, where they cannot be read: they are of no class, as all that is out of range."""
    with jax.enable_x64(True):
        prediction, target = jnp.array([[0, 1, 2**32 + 1, -(2**32)]]), jnp.array([[0, 1, 1, 0]])
        got = jax.jit(lambda p, t: metrics.confusion_matrix(p, t, 2))(prediction, target)
        np.testing.assert_array_equal(got, [[1, 0], [0, 1]])


def test_an_ignored_class_of_its_own_has_no_value():
    prediction, target = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 0]])
    np.testing.assert_array_equal(metrics.iou(prediction, target, 2, ignore_index=0), [np.nan, 0.5])
    np.testing.assert_array_equal(metrics.mean_iou(prediction, target, 2, ignore_index=0), 0.5)
    for form in (metrics.iou.accumulate, metrics.mean_iou.accumulate):
        sums = form(prediction, target, 2, ignore_index=0)
        np.testing.assert_array_equal(np.nanmean((sums + sums).compute()), 0.5)
    np.testing.assert_array_equal(metrics.dice(prediction, target, 2, ignore_index=0), [np.nan, np.float32(2 / 3)])


def test_void_everywhere():
    void = np.full((3, 3), 255)
    assert np.isnan(metrics.iou(np.zeros_like(void), void, 2, 255)).all()
    assert np.isnan(metrics.mean_iou(np.zeros_like(void), void, 2, 255))
    assert np.isnan(metrics.pixel_accuracy(np.zeros_like(void), void, 2, 255))
    assert np.isnan(metrics.frequency_weighted_iou(np.zeros_like(void), void, 2, 255))


def test_matrix_arguments():
    for of in FIGURES.values():
        with pytest.raises(ValueError, match=rf"{of.__name__}: matrix"):
            of(jnp.zeros((2, 3)))
        with pytest.raises(TypeError, match=rf"{of.__name__}: matrix"):
            of("matrix")


@pytest.mark.parametrize("function", ALL, ids=lambda f: f.__name__)
def test_no_images(function):
    maps = np.zeros((0, 4, 4), int)
    one = function(np.zeros((4, 4), int), np.zeros((4, 4), int), 2)
    assert function(maps, maps, 2).shape == (0, *one.shape)


def test_one_pixel():
    np.testing.assert_array_equal(metrics.iou([[1]], [[1]], 3), [np.nan, 1, np.nan])
    np.testing.assert_array_equal(metrics.mean_iou([[1]], [[1]], 3), 1)
