import math

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology

from tests.metrics.metric_maps import blobs, camvid, drawn, perturbed, volumes
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


@pytest.mark.parametrize("ratio", [0.02, 0.06, 0.5])
def test_boundary_iou_is_that_of_opencv_erosion(ratio):
    prediction, target = drawn()
    got = np.asarray(metrics.boundary_iou(prediction, target, 3, width=ratio))
    for image, (p, t) in enumerate(zip(prediction, target, strict=True)):
        np.testing.assert_allclose(got[image], ratio_of(opencv_boundary_iou(p, t, 3, ratio)), rtol=1e-6)


def test_boundary_iou_without_the_frame():
    """An erosion for which all that is beyond the image is of the class."""
    prediction, target = drawn()

    def region(mask):
        return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=2, border_value=1)

    got = np.asarray(metrics.boundary_iou(prediction, target, 3, width=2, unit="pixels", frame=False))
    for image, (p, t) in enumerate(zip(prediction, target, strict=True)):
        regions = [(region(p == c), region(t == c)) for c in range(3)]
        counts = np.array([[(a & b).sum(), (a | b).sum()] for a, b in regions], float).T
        np.testing.assert_allclose(got[image], ratio_of(counts), rtol=1e-6)


def test_boundary_iou_of_real_frames():
    target = camvid(3)
    prediction = np.stack([perturbed(np.minimum(t, 10), i) for i, t in enumerate(target)])
    got = metrics.boundary_iou(prediction, target, 11, 11)
    sums = metrics.boundary_iou.accumulate(prediction, target, 11, 11)
    counts = [opencv_boundary_iou(p, t, 11, 0.02, void=11) for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_allclose(got, [ratio_of(c) for c in counts], rtol=1e-6)
    np.testing.assert_array_equal([sums.numerator, sums.denominator], sum(counts))
    np.testing.assert_allclose(sums.compute(), ratio_of(sum(counts)), rtol=1e-6)


@pytest.mark.parametrize("tolerance", [0, 1.5, 100])
def test_boundary_f1_is_that_of_scipy_distances(tolerance):
    prediction, target = drawn()
    got = np.asarray(metrics.boundary_f1(prediction, target, 3, tolerance=tolerance))
    for image, (p, t) in enumerate(zip(prediction, target, strict=True)):
        np.testing.assert_allclose(got[image], f1_of(scipy_boundary_f1(p, t, 3, tolerance)), rtol=1e-6)


def test_boundary_f1_of_real_frames():
    target = camvid(3)
    prediction = np.stack([perturbed(np.minimum(t, 10), i) for i, t in enumerate(target)])
    got = metrics.boundary_f1(prediction, target, 11, 11, tolerance=0.0075, unit="diagonal")
    sums = metrics.boundary_f1.accumulate(prediction, target, 11, 11, tolerance=0.0075, unit="diagonal")
    counts = [scipy_boundary_f1(p, t, 11, 0.0075 * 600, void=11) for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_allclose(got, [f1_of(c) for c in counts], rtol=1e-6)
    parts = [sums.precision.numerator, sums.precision.denominator, sums.recall.numerator, sums.recall.denominator]
    np.testing.assert_array_equal(parts, sum(counts))
    np.testing.assert_allclose(sums.compute(), f1_of(sum(counts)), rtol=1e-6)


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


def davis_f(prediction, target, tolerance):
    """The contour measure F of DAVIS 2016 for two masks: pixel-wide boundaries between pixels, dilated by a disk."""

    def between(mask):
        right, down = np.roll(mask, -1, 1), np.roll(mask, -1, 0)
        right[:, -1], down[-1] = mask[:, -1], mask[-1]
        corner = np.roll(down, -1, 1)
        corner[:, -1] = down[:, -1]
        return (mask ^ right) | (mask ^ down) | (mask ^ corner)

    p, t = between(prediction), between(target)
    disk = morphology.disk(tolerance)
    precision = (p & (cv2.dilate(t.astype(np.uint8), disk) > 0)).sum() / max(p.sum(), 1)
    recall = (t & (cv2.dilate(p.astype(np.uint8), disk) > 0)).sum() / max(t.sum(), 1)
    if not p.any() and not t.any():
        return np.nan  # 1 in DAVIS
    return 2 * precision * recall / (precision + recall) if precision + recall else 0


def test_boundary_f1_is_that_of_davis():
    """skimage's disk and OpenCV's dilation, as in the DAVIS 2016 evaluation."""
    prediction, target = drawn()
    tolerance = math.ceil(0.05 * math.hypot(40, 40))
    got = metrics.boundary_f1(prediction, target, 3, tolerance=tolerance, boundary="between")
    expected = [[davis_f(p == c, t == c, tolerance) for c in range(3)] for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_volumes():
    """Three axes: erosion by a cube, and the boundary's voxels by their faces."""
    prediction, target = volumes()

    def band(mask):
        return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3, 3)), iterations=2)

    def counts(p, t):
        both = [(band(p == c), band(t == c)) for c in range(3)]
        return np.array([[(a & b).sum(), (a | b).sum()] for a, b in both], float).T

    got = metrics.boundary_iou(prediction, target, 3, width=2, unit="pixels", axes=(-3, -2, -1))
    expected = [ratio_of(counts(p, t)) for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    got = metrics.boundary_f1(prediction, target, 3, tolerance=2, spacing=(1, 1, 1))
    expected = [f1_of(scipy_boundary_f1(p, t, 3, 2)) for p, t in zip(prediction, target, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def pair_with_void():
    target = blobs((32, 36), 3, 4)
    prediction = perturbed(target, 2)
    target[blobs((32, 36), 6, 9) == 0] = 7
    prediction[5:9, 5:9], target[20:22] = 1, 7
    return prediction, target


@pytest.mark.parametrize("void", ["background", "neutral", "uncounted"])
def test_what_void_does(void):
    prediction, target = pair_with_void()
    unknown = target == 7

    def masks(c):
        p, t = prediction == c, target == c
        return (p if void == "uncounted" else p & ~unknown), t

    def band(mask):
        grown = mask | unknown if void == "neutral" else mask
        inner = ndimage.binary_erosion(grown, np.ones((3, 3)), iterations=3)
        return mask & ~inner & ~(unknown if void == "uncounted" else np.zeros_like(unknown))

    bands = [[band(m) for m in masks(c)] for c in range(3)]
    counts = np.array([[(p & t).sum(), (p | t).sum()] for p, t in bands], float).T
    got = metrics.boundary_iou(prediction, target, 3, 7, width=3, unit="pixels", void=void)
    np.testing.assert_allclose(got, ratio_of(counts), rtol=1e-6)

    def edge(mask):
        grown = mask | unknown if void == "neutral" else mask
        return mask & ~ndimage.binary_erosion(grown, border_value=1)

    def matched(these, those):
        near = ndimage.distance_transform_edt(~those) <= 2
        counted = these & ~unknown
        return (counted & near).sum(), counted.sum()

    edges = [[edge(m) for m in masks(c)] for c in range(3)]
    counts = np.array([[*matched(p, t), *matched(t, p)] for p, t in edges], float).T
    got = metrics.boundary_f1(prediction, target, 3, 7, tolerance=2, void=void)
    np.testing.assert_allclose(got, f1_of(counts), rtol=1e-6)
    assert counts[3].sum() > 100


@pytest.mark.parametrize("void", ["background", "neutral", "uncounted"])
def test_what_void_does_between_pixels(void):
    """Points between pixels: some of the pixels around are inside, some outside, and void is neither if neutral."""
    prediction, target = pair_with_void()
    unknown = target == 7

    def corners(x, fill):
        x = np.pad(x, 1, constant_values=fill)
        return np.stack([x[:-1, :-1], x[1:, :-1], x[:-1, 1:], x[1:, 1:]])

    hidden = corners(unknown, False)
    counts = []
    for c in range(3):
        points = []
        for x in (prediction, target):
            inside = x == c if void == "uncounted" else (x == c) & ~unknown
            outside = ~inside & ~unknown if void == "neutral" else ~inside
            points.append(corners(inside, False).any(0) & corners(outside, True).any(0))
        known = ~hidden.any(0) if void == "uncounted" else np.ones_like(points[0])
        far = [ndimage.distance_transform_edt(~x) for x in points[::-1]]
        counts += [
            [n for x, d in zip(points, far, strict=True) for n in ((x & known & (d <= 1)).sum(), (x & known).sum())]
        ]
    expected = f1_of(np.array(counts, float).T)
    got = metrics.boundary_f1(prediction, target, 3, 7, boundary="between", frame=True, void=void)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("void", ["background", "neutral"])
def test_what_is_predicted_on_void_does_not_matter(void):
    prediction, target = pair_with_void()
    other = np.where(target == 7, (prediction + 1) % 3, prediction)
    iou, f1 = {"width": 3, "unit": "pixels", "void": void}, {"tolerance": 2, "void": void}
    for function, how in ((metrics.boundary_iou, iou), (metrics.boundary_f1, f1)):
        np.testing.assert_array_equal(function(prediction, target, 3, 7, **how), function(other, target, 3, 7, **how))


def test_an_ignored_class_of_its_own_has_no_value():
    prediction, target = drawn()
    for function in (metrics.boundary_iou, metrics.boundary_f1):
        assert np.isnan(function(prediction, target, 3, ignore_index=1)[:, 1]).all()


@pytest.mark.parametrize("boundary", ["inside", "between", "elements"])
def test_any_number_of_classes(boundary):
    """Sets of classes are words of 32 bits: here are classes at the ends of words, and in the third."""
    prediction, target = drawn()
    names = np.array([31, 32, 69])
    how = {"tolerance": 2, "boundary": boundary}
    got = np.asarray(metrics.normalized_surface_dice(names[prediction], names[target], 70, **how))
    np.testing.assert_allclose(got[:, names], metrics.normalized_surface_dice(prediction, target, 3, **how), rtol=1e-6)
    assert np.isnan(np.delete(got, names, axis=1)).all()


def test_one_pixel():
    np.testing.assert_array_equal(metrics.boundary_iou([[1]], [[1]], 2), [np.nan, 1])
    np.testing.assert_array_equal(metrics.boundary_f1([[1]], [[0]], 2), [np.nan, np.nan])
    np.testing.assert_array_equal(metrics.boundary_f1([[1]], [[0]], 2, frame=True), [0, 0])
