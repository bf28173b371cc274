import jax
import numpy as np
import pytest
from scipy import ndimage
from skimage import segmentation

from tests.metrics.metric_maps import blobs, camvid, drawn, perturbed, volumes
from upsampling import metrics


def distance(target, spacing=None):
    """Distance to the nearest pixel that touches a boundary: skimage's thick boundaries, scipy's distances."""
    touches = segmentation.find_boundaries(target, connectivity=1, mode="thick")
    if not touches.any():
        return np.full(target.shape, np.inf)
    return ndimage.distance_transform_edt(~touches, sampling=spacing)


def matrix(prediction, target, where, num_classes):
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (target[where], prediction[where]), 1)
    return counts


def iou(counts):
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    return np.where(union > 0, np.diag(counts) / np.maximum(union, 1), np.nan)


def test_trimap_is_that_of_skimage_and_scipy():
    prediction, target = drawn()
    widths = (1, 2, 3.5, 60)
    counts = np.asarray(metrics.trimap_confusion_matrix(prediction, target, 3, width=widths))
    values = np.asarray(metrics.trimap_iou(prediction, target, 3, width=widths))
    for image, (p, t) in enumerate(zip(prediction, target, strict=True)):
        expected = [matrix(p, t, distance(t) < width, 3) for width in widths]
        np.testing.assert_array_equal(counts[image], expected)
        np.testing.assert_allclose(values[image], [iou(m) for m in expected], rtol=1e-6)
    sums = [metrics.trimap_iou.accumulate(prediction, target, 3, width=widths)] * 2
    total = 2 * counts.sum(0)
    np.testing.assert_array_equal(sum(sums).matrix, total)
    np.testing.assert_allclose(sum(sums).compute(), [iou(m) for m in total], rtol=1e-6)
    alone = metrics.trimap_iou(prediction[0], target[0], 3, width=2)
    np.testing.assert_array_equal(alone, values[0, 1])
    # A straight boundary: one pixel on each side for a width of 1, three for 3.
    half = (np.arange(16) >= 8).astype(int) + np.zeros((5, 1), int)
    counts = np.asarray(metrics.trimap_confusion_matrix(half, half, 2, width=(1, 3)))
    np.testing.assert_array_equal(counts.sum((-2, -1)), [5 * 2 * 1, 5 * 2 * 3])


def test_real_frames():
    """CamVid; a neutral void makes no boundary, and streaming sums the counts."""
    target = camvid(2)
    prediction = np.stack([perturbed(np.minimum(t, 10), i, 3.0) for i, t in enumerate(target)])
    known = target != 11
    far = np.stack([distance(t) for t in target])
    distances = (0, 1, 2, 5, 30, np.inf)

    @jax.jit
    def figures(*maps):
        trimap = {"width": 0.01, "unit": "diagonal"}
        return (
            metrics.trimap_confusion_matrix(*maps, 11, 11, **trimap),
            metrics.trimap_iou.accumulate(*maps, 11, 11, **trimap),
            metrics.error_by_distance(*maps, 11, 11, distances=distances),
            metrics.error_by_distance.accumulate(*maps, 11, 11, distances=distances),
        )

    counts, trimaps, got, sums = figures(prediction, target)
    expected = [matrix(prediction[i], target[i], known[i] & (far[i] < 6), 11) for i in range(2)]
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_allclose(metrics.iou_of(counts.sum(0)), iou(np.sum(expected, 0)), rtol=1e-6)
    np.testing.assert_array_equal(trimaps.matrix, np.sum(expected, 0))
    np.testing.assert_allclose(trimaps.compute(), iou(np.sum(expected, 0)), rtol=1e-6)

    wrong, pixels = np.zeros((2, 2, 5, 11))
    for i, k, c in np.ndindex(2, 5, 11):
        where = (target[i] == c) & (far[i] >= distances[k]) & (far[i] < distances[k + 1])
        wrong[i, k, c], pixels[i, k, c] = (where & (prediction[i] != c)).sum(), where.sum()
    np.testing.assert_allclose(got, np.where(pixels > 0, wrong / np.maximum(pixels, 1), np.nan), rtol=1e-6)
    np.testing.assert_array_equal(sums.numerator, wrong.sum(0))
    np.testing.assert_array_equal(sums.denominator, pixels.sum(0))
    # Errors of this prediction come from its boundaries.
    rates = np.asarray(sums.numerator).sum(-1) / np.asarray(sums.denominator).sum(-1)
    assert (np.diff(rates[:4]) < 0).all()


def test_neutral_void_makes_no_boundary():
    target = blobs((24, 30), 3, 4)
    prediction = perturbed(target, 2)
    masked = np.where(blobs((24, 30), 6, 9) == 0, 7, target)
    # Between pixels of two known classes only: a pixel touches if a neighbour differs and neither is void.
    touches = np.zeros(target.shape, bool)
    for axis in (0, 1):
        for by in (1, -1):
            other = np.roll(masked, by, axis)
            edge = [slice(None)] * 2
            edge[axis] = 0 if by == 1 else -1
            differs = (other != masked) & (other != 7) & (masked != 7)
            differs[tuple(edge)] = False
            touches |= differs
    far = ndimage.distance_transform_edt(~touches)
    got = metrics.trimap_confusion_matrix(prediction, masked, 3, 7, width=2.5, void="neutral")
    np.testing.assert_array_equal(got, matrix(prediction, masked, (far < 2.5) & (masked != 7), 3))
    also = metrics.trimap_confusion_matrix(prediction, masked, 3, 7, width=2.5)
    assert also.sum() > got.sum()


def test_volumes_with_spacing():
    prediction, target = volumes()
    spacing = (2.0, 0.5, 1.25)
    got = metrics.trimap_confusion_matrix(prediction, target, 3, width=2.1, spacing=spacing)
    expected = [matrix(p, t, distance(t, spacing) < 2.1, 3) for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_array_equal(got, expected)


def test_images_without_a_boundary_are_far_from_one():
    target = np.ones((5, 6), int)
    prediction = target.copy()
    prediction[0, 0] = 0
    is_open, closed, trimap = jax.jit(
        lambda *maps: (
            metrics.error_by_distance(*maps, 2, distances=(0, 4, np.inf)),
            metrics.error_by_distance(*maps, 2, distances=(0, 4)),
            metrics.trimap_iou(*maps, 2, width=100),
        )
    )(prediction, target)
    np.testing.assert_allclose(is_open, [[np.nan, np.nan], [np.nan, 1 / 30]], rtol=1e-6)
    assert np.isnan(closed).all()
    assert np.isnan(trimap).all()


@pytest.mark.parametrize("function", [metrics.error_by_distance, metrics.error_by_distance.accumulate])
@pytest.mark.parametrize(
    ("distances", "error"),
    [
        ((0,), ValueError),
        ((), ValueError),
        ((0, 2, 2), ValueError),
        ((3, 1), ValueError),
        ((-1, 2), ValueError),
        ((0, np.nan), ValueError),
        ((0, np.inf, np.inf), ValueError),
        ((0, "1"), TypeError),
        (3, TypeError),
        ("03", TypeError),
    ],
)
def test_distances(function, distances, error):
    labels = np.zeros((4, 4), int)
    with pytest.raises(error, match=r"^error_by_distance: distances"):
        function(labels, labels, 2, distances=distances)


@pytest.mark.parametrize("function", [metrics.trimap_iou, metrics.trimap_confusion_matrix])
@pytest.mark.parametrize(
    ("width", "error"),
    [(0, ValueError), ((1, 0), ValueError), ((), ValueError), (np.inf, ValueError), ("3", TypeError)],
)
def test_widths(function, width, error):
    labels = np.zeros((4, 4), int)
    with pytest.raises(error, match=rf"{function.__name__}: width"):
        function(labels, labels, 2, width=width)
