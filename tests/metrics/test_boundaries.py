import cv2
import numpy as np
import pytest
from scipy import ndimage

from tests.metrics.metric_maps import blobs, camvid, perturbed
from upsampling import metrics


def opencv_band(mask, dilation_ratio):
    """The Boundary IoU authors' definition (Cheng et al. 2021), with OpenCV's erosion."""
    height, width = mask.shape
    dilation = max(1, round(dilation_ratio * np.sqrt(height**2 + width**2)))
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=dilation)
    return mask & ~eroded[1:-1, 1:-1].astype(bool)


def opencv_boundary_iou(prediction, target, num_classes, ratio, void=None):
    counted = np.ones(target.shape, bool) if void is None else target != void
    bands = [
        (opencv_band((prediction == c) & counted, ratio), opencv_band((target == c) & counted, ratio))
        for c in range(num_classes)
    ]
    return np.array([[(p & t).sum(), (p | t).sum()] for p, t in bands], float).T


def scipy_boundary_f1(prediction, target, num_classes, tolerance, void=None):
    """Csurka et al. 2013 from scipy's erosion and distance transform: matched and all, of prediction and target."""
    counted = np.ones(target.shape, bool) if void is None else target != void

    def edge(mask):
        return mask & ~ndimage.binary_erosion(mask, border_value=1)

    def matched(these, those):
        near = ndimage.distance_transform_edt(~those) <= tolerance if those.any() else np.zeros_like(these)
        return (these & near).sum(), these.sum()

    edges = [(edge((prediction == c) & counted), edge((target == c) & counted)) for c in range(num_classes)]
    return np.array([[*matched(p, t), *matched(t, p)] for p, t in edges], float).T


def f1_of(counts):
    matched_p, p, matched_t, t = counts
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = np.nan_to_num(matched_p / p), np.nan_to_num(matched_t / t)
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
    return np.where(p + t > 0, f1, np.nan)


def ratio_of(counts):
    return np.where(counts[1] > 0, counts[0] / np.maximum(counts[1], 1), np.nan)


def drawn():
    """Pairs 40x40 of three classes: blobs, thin lines, empty, full and one-pixel masks, a class in one map only."""
    line = np.zeros((40, 40), int)
    line[20] = 1
    line[:, 7] = 2
    dot = np.zeros((40, 40), int)
    dot[3, 4] = 1
    full = np.ones((40, 40), int)
    maps = [blobs((40, 40), 3, 0), blobs((40, 40), 3, 1), line, dot, full, np.zeros_like(full)]
    pairs = [(perturbed(m, 5), m) for m in maps] + [(np.roll(m, 2, 1), m) for m in maps]
    pairs += [(maps[2], maps[3]), (maps[4], maps[5]), (maps[3], maps[4]), (maps[5], maps[3])]
    return tuple(np.stack(x) for x in zip(*pairs, strict=True))


@pytest.mark.parametrize("ratio", [0.02, 0.001, 0.06, 0.5])
def test_boundary_iou_is_that_of_opencv_erosion(ratio):
    prediction, target = drawn()
    got = metrics.boundary_iou(prediction, target, 3, width=ratio)
    for image, (p, t) in enumerate(zip(prediction, target, strict=True)):
        np.testing.assert_allclose(got[image], ratio_of(opencv_boundary_iou(p, t, 3, ratio)), rtol=1e-6)


def test_boundary_iou_of_real_frames():
    target = camvid(3)
    prediction = np.stack([perturbed(np.minimum(t, 10), i) for i, t in enumerate(target)])
    got = metrics.boundary_iou(prediction, target, 11, 11)
    sums = metrics.boundary_iou_sums(prediction, target, 11, 11)
    counts = [opencv_boundary_iou(p, t, 11, 0.02, void=11) for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_allclose(got, [ratio_of(c) for c in counts], rtol=1e-6)
    np.testing.assert_array_equal([sums.numerator, sums.denominator], sum(counts))
    np.testing.assert_allclose(sums.value(), ratio_of(sum(counts)), rtol=1e-6)


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 3, 100])
def test_boundary_f1_is_that_of_scipy_distances(tolerance):
    prediction, target = drawn()
    got = metrics.boundary_f1(prediction, target, 3, tolerance=tolerance)
    for image, (p, t) in enumerate(zip(prediction, target, strict=True)):
        np.testing.assert_allclose(got[image], f1_of(scipy_boundary_f1(p, t, 3, tolerance)), rtol=1e-6)


def test_boundary_f1_of_real_frames():
    target = camvid(3)
    prediction = np.stack([perturbed(np.minimum(t, 10), i) for i, t in enumerate(target)])
    got = metrics.boundary_f1(prediction, target, 11, 11, tolerance=0.0075, unit="diagonal")
    sums = metrics.boundary_f1_sums(prediction, target, 11, 11, tolerance=0.0075, unit="diagonal")
    counts = [scipy_boundary_f1(p, t, 11, 0.0075 * 600, void=11) for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_allclose(got, [f1_of(c) for c in counts], rtol=1e-6)
    parts = [sums.precision.numerator, sums.precision.denominator, sums.recall.numerator, sums.recall.denominator]
    np.testing.assert_array_equal(parts, sum(counts))
    np.testing.assert_allclose(sums.value(), f1_of(sum(counts)), rtol=1e-6)


def test_absent_classes_and_classes_in_one_map():
    empty, full = np.zeros((6, 6), int), np.ones((6, 6), int)
    np.testing.assert_array_equal(metrics.boundary_iou(full, full, 3), [np.nan, 1, np.nan])
    np.testing.assert_array_equal(metrics.boundary_iou(full, empty, 3), [0, 0, np.nan])
    dot = empty.copy()
    dot[2, 2] = 1
    np.testing.assert_array_equal(metrics.boundary_f1(dot, dot, 3), [1, 1, np.nan])
    np.testing.assert_array_equal(metrics.boundary_f1(dot, empty, 3), [0, 0, np.nan])
    # The image's edge is no boundary: one class that fills the image has none.
    np.testing.assert_array_equal(metrics.boundary_f1(full, full, 3), [np.nan, np.nan, np.nan])
