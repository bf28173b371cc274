"""The task: its loss and its measures, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import Dataset, Example, Split
from experiments.tasks import segmentation


def test_loss_is_cross_entropy_plus_dice():
    logits = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    label = jax.random.randint(jax.random.key(1), (2, 5, 4), 0, 3)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    t = np.eye(3)[np.asarray(label)]
    entropy = -(t * np.log(p)).sum(-1).mean()
    dice = 1 - (2 * (p * t).sum((0, 1, 2)) + 2) / ((p + t).sum((0, 1, 2)) + 2)
    assert segmentation.loss(logits, label) == pytest.approx(entropy + dice.mean(), rel=1e-5)


def test_ignored_pixels_lose_and_teach_nothing():
    logits = jax.random.normal(jax.random.key(0), (1, 6, 4, 3))
    label = jax.random.randint(jax.random.key(1), (1, 6, 4), 0, 3).at[:, 3:].set(3)
    whole, gradient = jax.value_and_grad(segmentation.loss)(logits, label, 3)
    assert whole == pytest.approx(float(segmentation.loss(logits[:, :3], label[:, :3])), rel=1e-6)
    assert (gradient[:, 3:] == 0).all()
    assert (gradient[:, :3] != 0).all()
    nothing, gradient = jax.value_and_grad(segmentation.loss)(logits, jnp.full(label.shape, 3), 3)
    assert nothing == 0
    assert (gradient == 0).all()


def test_evaluation_covers_images_of_several_sizes_and_ignores():
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 3, shape).astype(np.int32) for shape in [(9, 9), (7, 12), (9, 9), (7, 12), (9, 9)]]
    for label in labels:
        label[0] = 3
    split = Split(tuple("abcde"), [Example(image=np.zeros((*x.shape, 1), np.float32), label=x) for x in labels])
    data = Dataset("mixed", "", ("x", "y", "z"), 1, 3, split, split, split, lambda e, _: e, flips=())
    perfect = segmentation.evaluate([np.where(x == 3, 0, x) for x in labels], split, data)
    for name, measure in segmentation.MEASURES.items():
        if name == "far_error_3px":  # in noise, nothing is as far from a boundary
            assert np.isnan(perfect[name]["mean"])
        else:
            assert perfect[name]["mean"] == (0 if measure.lower_is_better else 1)
    worse = [rng.integers(0, 3, x.shape) for x in labels]
    figures = segmentation.evaluate(worse, split, data)
    p, t = (np.concatenate([m[x != 3] for m, x in zip(maps, labels, strict=True)]) for maps in (worse, labels))
    iou = [((p == c) & (t == c)).sum() / ((p == c) | (t == c)).sum() for c in range(3)]
    np.testing.assert_allclose(list(figures["mean_iou"]["classes"].values()), iou, rtol=1e-6)
    assert figures["boundary_f1_1px"]["mean"] < 1
    assert figures["surface_distance"]["mean"] > 0


def test_distances_are_those_of_the_images_and_a_missed_class_is_a_diagonal_away():
    label = np.zeros((2, 8, 15), np.int32)
    label[:, :, 7:] = 1
    label[1, 3:5, 3:5] = 2
    prediction = np.where(label == 2, 0, label)
    prediction[0, :, 7:9] = 0  # the edge is two pixels off
    split = Split(("a", "b"), [Example(image=np.zeros((8, 15, 1), np.float32), label=x) for x in label])
    data = Dataset("edges", "", ("x", "y", "z"), 1, None, split, split, split, lambda e, _: e, flips=())
    figures = segmentation.evaluate(list(prediction), split, data)
    assert figures["hausdorff_95"]["classes"]["y"] == pytest.approx((2 + 0) / 2)
    # The frame is no boundary: two edges of 8 pixels, all 2 pixels apart.
    assert figures["surface_distance"]["classes"]["y"] == pytest.approx((2 + 0) / 2)
    assert figures["hausdorff_95"]["classes"]["z"] == pytest.approx(17)
    # 16 pixels of 8 of the edge's length are wrong, and in the second image 4 of a square's boundary; none is far off.
    square = 8 + 4 * 1 + 4 * (2**0.5 / 2)
    assert figures["wrong_area_2px"]["mean"] == pytest.approx((16 + 4) / (8 + square), rel=1e-5)
    assert figures["far_error_3px"]["mean"] == 0
    assert figures["boundary_iou_1px"]["classes"]["z"] == 0
    # Within three pixels of the edge between 6 and 7, two of the six columns are missed by y and taken by x.
    only = segmentation.evaluate([prediction[0]], Split(("a",), split.examples[:1]), data, ("trimap_iou_3px",))
    assert list(only) == ["trimap_iou_3px"]
    assert 0 < only["trimap_iou_3px"]["classes"]["y"] < 1


def test_a_class_that_is_nowhere_does_not_spoil_the_mean():
    label = np.zeros((6, 6), np.int32)
    label[2:] = 1
    split = Split(("a",), [Example(image=np.zeros((6, 6, 1), np.float32), label=label)])
    data = Dataset("two of three", "", ("x", "y", "z"), 1, None, split, split, split, lambda e, _: e, flips=())
    figures = segmentation.evaluate([label], split, data)
    assert figures["mean_iou"]["mean"] == 1
    assert np.isnan(figures["mean_iou"]["classes"]["z"])
