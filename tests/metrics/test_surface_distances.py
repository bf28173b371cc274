"""Against surface-distance 0.1, MedPy 0.5.2 and MONAI 1.6.1, each in its own definition."""

import functools

import jax.numpy as jnp
import monai.metrics
import numpy as np
import pytest
import surface_distance
import torch
from medpy.metric import binary
from surface_distance import lookup_tables

from tests.metrics.metric_maps import blobs, camvid, drawn, membranes, perturbed, volumes
from upsampling import metrics
from upsampling.metrics._surface_elements import corners, element_sizes
from upsampling.metrics._surfaces import Elements
from upsampling.metrics.surface_distances import _Flat

SPACINGS = [(0.7, 2.0), (2.0, 0.5, 1.25)]
CLASSES = 3


def pairs(rank):
    return drawn() if rank == 2 else volumes()


def per_class(tool, prediction, target, num_classes=CLASSES):
    """`tool` of the masks of each class, where both maps have it; NaN elsewhere."""
    out = np.full((len(target), num_classes), np.nan)
    for image, (p, t) in enumerate(zip(prediction, target, strict=True)):
        for c in range(num_classes):
            if (p == c).any() and (t == c).any():
                out[image, c] = tool(p == c, t == c)
    return out


def agree(got, expected, rtol=2e-6):
    """Equal where the tool has an answer; and it has many."""
    known = ~np.isnan(expected)
    assert known.sum() > 10
    np.testing.assert_allclose(np.asarray(got)[known], expected[known], rtol=rtol, atol=1e-6)


@functools.cache
def deepmind_distances(p, t, shape, spacing):
    masks = (np.frombuffer(x, bool).reshape(shape) for x in (t, p))
    return surface_distance.compute_surface_distances(*masks, spacing)


def deepmind(function, spacing):
    return lambda p, t: function(deepmind_distances(p.tobytes(), t.tobytes(), p.shape, spacing))


@pytest.mark.parametrize("spacing", SPACINGS)
class TestDeepMind:
    """surface-distance: elements of marching squares and cubes, weighted by size. Without spacing: further down."""

    @pytest.mark.parametrize("percent", [100, 95])
    def test_hausdorff_distance(self, spacing, percent):
        prediction, target = pairs(len(spacing))
        tool = deepmind(lambda d: surface_distance.compute_robust_hausdorff(d, percent), spacing)
        got = metrics.hausdorff_distance(
            prediction, target, CLASSES, percentile=percent, boundary="elements", spacing=spacing
        )
        agree(got, per_class(tool, prediction, target))

    def test_average_surface_distance(self, spacing):
        prediction, target = pairs(len(spacing))
        for which, average in enumerate(("target", "prediction")):
            tool = deepmind(lambda d, k=which: surface_distance.compute_average_surface_distance(d)[k], spacing)
            got = metrics.average_surface_distance(
                prediction, target, CLASSES, average=average, boundary="elements", spacing=spacing
            )
            agree(got, per_class(tool, prediction, target))

    def test_normalized_surface_dice(self, spacing):
        prediction, target = pairs(len(spacing))
        tool = deepmind(lambda d: surface_distance.compute_surface_dice_at_tolerance(d, 1.4), spacing)
        got = metrics.normalized_surface_dice(
            prediction, target, CLASSES, tolerance=1.4, boundary="elements", spacing=spacing
        )
        agree(got, per_class(tool, prediction, target))


@pytest.mark.parametrize("boundary", ["elements", "between"])
def test_more_classes_than_meet_in_a_point(boundary):
    """Seven classes in which up to four meet, some of them only in this or that map."""
    target = np.stack([blobs((24, 26), 7, seed, 1.5) for seed in range(3)])
    prediction = np.stack([perturbed(t, 3) for t in target])
    got = metrics.hausdorff_distance(prediction, target, 7, percentile=90, boundary=boundary, interpolation="step")
    for c in range(7):
        masks = (prediction == c).astype(int), (target == c).astype(int)
        alone = metrics.hausdorff_distance(*masks, 2, percentile=90, boundary=boundary, interpolation="step")
        np.testing.assert_array_equal(got[:, c], alone[:, 1])
    if boundary == "elements":
        tool = deepmind(lambda d: surface_distance.compute_robust_hausdorff(d, 90), (1.0, 1.0))
        agree(got, per_class(tool, prediction, target, 7))


def test_no_element_is_lost_where_four_classes_meet():
    rng = np.random.default_rng(0)
    present = np.argsort(rng.random((2, 7, 5, 6)), axis=1) < rng.integers(0, 5, (2, 1, 5, 6))
    assert (present.sum(1) == 4).any()
    slot = np.where(present, np.arange(7)[:, None, None], 7)
    squared, size = rng.random((2, *slot.shape), np.float32)
    flat = _Flat.of(Elements(jnp.asarray(slot), jnp.asarray(size)), jnp.asarray(squared), rank=2)
    assert flat.slot.shape == (2, 4 * 5 * 6)
    for image, c in np.ndindex(2, 7):
        kept = np.asarray(flat.slot[image]) == c
        for got, given in ((flat.squared, squared), (flat.size, size)):
            np.testing.assert_array_equal(np.sort(got[image][kept]), np.sort(given[image, c][present[image, c]]))


@pytest.mark.parametrize("spacing", [*SPACINGS, (1.0, 1.0), (1.0, 1.0, 1.0)])
def test_sizes_of_elements(spacing):
    """surface-distance's tables, which it wrote down and this library computes, code for code."""
    rank = len(spacing)
    if rank == 2:
        kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL
        table = lookup_tables.create_table_neighbour_code_to_contour_length(spacing)
    else:
        kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
        table = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    bits = [int(np.asarray(kernel)[corner]) for corner in corners(rank)]
    theirs = [table[sum(bit for k, bit in enumerate(bits) if code >> k & 1)] for code in range(len(table))]
    np.testing.assert_allclose(element_sizes(spacing), theirs, rtol=1e-6)
    np.testing.assert_array_equal(element_sizes((0.3,)), [0, 1, 1, 0])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_medpy(spacing):
    prediction, target = pairs(len(spacing))
    hausdorff, average = (
        functools.partial(f, prediction, target, CLASSES, spacing=spacing)
        for f in (metrics.hausdorff_distance, metrics.average_surface_distance)
    )

    def tool(function):
        return per_class(lambda p, t: function(p, t, voxelspacing=spacing), prediction, target)

    agree(hausdorff(), tool(binary.hd))
    if len(spacing) == 2:  # how distances are sorted does not depend on the rank
        agree(hausdorff(percentile=95, percentile_of="union"), tool(binary.hd95))
    agree(average(), tool(binary.assd))
    agree(average(average="prediction"), tool(binary.asd))
    # MedPy's assd before 0.5.
    agree(average(average="mean"), (tool(binary.asd) + tool(lambda p, t, **o: binary.asd(t, p, **o))) / 2)


@pytest.mark.filterwarnings("ignore:the (ground truth|prediction) of class")
@pytest.mark.parametrize("spacing", SPACINGS)
def test_monai(spacing):
    """Where a class is in one map only MONAI too says infinity and 0 (and NaN for percentiles of infinities)."""
    prediction, target = pairs(len(spacing))

    def one_hot(x):
        return torch.tensor(np.moveaxis(x[..., None] == np.arange(CLASSES), -1, 1))

    maps = one_hot(prediction), one_hot(target)
    shared = {"include_background": True, "spacing": spacing}
    ours = functools.partial(metrics.hausdorff_distance, prediction, target, CLASSES, spacing=spacing)
    for percent in (100, 95) if len(spacing) == 2 else (100,):
        asked = None if percent == 100 else percent
        theirs = monai.metrics.compute_hausdorff_distance(*maps, percentile=asked, **shared).numpy()
        present = ~np.isnan(theirs)
        np.testing.assert_allclose(np.asarray(ours(percentile=percent))[present], theirs[present], rtol=1e-5)
        assert np.isinf(theirs).any() == (percent == 100)
    for average, symmetric in (("pooled", True), ("prediction", False)):
        theirs = monai.metrics.compute_average_surface_distance(*maps, symmetric=symmetric, **shared).numpy()
        got = metrics.average_surface_distance(prediction, target, CLASSES, average=average, spacing=spacing)
        present = ~np.isnan(theirs)
        np.testing.assert_allclose(np.asarray(got)[present], theirs[present], rtol=1e-5)
    for boundary in ("inside", "elements"):
        theirs = monai.metrics.compute_surface_dice(
            *maps, [1.4] * CLASSES, use_subvoxels=boundary == "elements", **shared
        )
        got = metrics.normalized_surface_dice(
            prediction, target, CLASSES, tolerance=1.4, boundary=boundary, spacing=spacing
        )
        np.testing.assert_allclose(got, theirs.numpy(), rtol=1e-5)


def test_real_masks_of_512():
    target = membranes(2).astype(int)
    prediction = np.stack([perturbed(t, i, 3.0) for i, t in enumerate(target)])
    tool = deepmind(lambda d: surface_distance.compute_robust_hausdorff(d, 95), (1.0, 1.0))
    got = metrics.hausdorff_distance(prediction, target, 2, percentile=95, boundary="elements")
    np.testing.assert_allclose(got, per_class(tool, prediction, target, 2), rtol=1e-6)
    tool = deepmind(lambda d: surface_distance.compute_surface_dice_at_tolerance(d, 2), (1.0, 1.0))
    got = metrics.normalized_surface_dice(prediction, target, 2, tolerance=2, boundary="elements")
    np.testing.assert_allclose(got, per_class(tool, prediction, target, 2), rtol=1e-6)


def test_real_frames_with_void():
    """CamVid, void taken out of both maps, against MedPy's definition spelled out with scipy."""
    from scipy import ndimage

    target = camvid(2)
    prediction = np.stack([perturbed(np.minimum(t, 10), i, 3.0) for i, t in enumerate(target)])
    masked = np.where(target == 11, 11, prediction)
    shared = [[c for c in range(11) if (p == c).any() and (t == c).any()] for p, t in zip(masked, target, strict=True)]

    def edge(mask):
        return mask & ~ndimage.binary_erosion(mask)

    def both(p, t):
        p, t = edge(p), edge(t)
        return ndimage.distance_transform_edt(~t)[p], ndimage.distance_transform_edt(~p)[t]

    lists = {(i, c): both(masked[i] == c, target[i] == c) for i in range(2) for c in shared[i]}
    assert len(lists) > 12
    hd95 = np.asarray(metrics.hausdorff_distance(prediction, target, 11, 11, percentile=95))
    assd = np.asarray(metrics.average_surface_distance(prediction, target, 11, 11))
    for at, two in lists.items():
        np.testing.assert_allclose(hd95[at], max(np.percentile(d, 95) for d in two), rtol=1e-5)
        np.testing.assert_allclose(assd[at], np.concatenate(two).mean(), rtol=1e-5)
    sums = metrics.average_surface_distance_sums(prediction, target, 11, 11, missing="nan").value()
    for c in range(11):
        some = [d for (_, of), two in lists.items() if of == c for d in two]
        np.testing.assert_allclose(sums[c], np.concatenate(some).mean() if some else np.nan, rtol=1e-5)


@pytest.mark.parametrize("missing", ["infinity", "diagonal", "nan"])
def test_classes_in_one_map_only(missing):
    """Class 0 touches the frame in both maps; class 1 is in one of them, class 2 in none."""
    empty = np.zeros((6, 8), int)
    dot = empty.copy()
    dot[2, 2] = 1
    prediction, target = np.stack([dot, empty, dot]), np.stack([empty, dot, dot])
    far = {"infinity": np.inf, "diagonal": 10.0, "nan": np.nan}[missing]
    expected = [[far, np.nan], [far, np.nan], [0, np.nan]]
    np.testing.assert_allclose(metrics.hausdorff_distance(prediction, target, 3, missing=missing)[:, 1:], expected)
    got = metrics.average_surface_distance(prediction, target, 3, missing=missing)
    np.testing.assert_allclose(got[:, 1:], expected)
    sums = metrics.average_surface_distance_sums(prediction, target, 3, missing=missing)
    pooled = {"infinity": np.inf, "diagonal": 20 / 4, "nan": 0}[missing]
    np.testing.assert_allclose(sums.value()[1:], [pooled, np.nan])
    if missing == "diagonal":
        for average in ("mean", "target"):
            got = metrics.average_surface_distance(prediction, target, 3, missing=missing, average=average)
            np.testing.assert_allclose(got[:, 1:], expected)
        got = metrics.hausdorff_distance(prediction, target, 3, missing=missing, percentile=95, spacing=0.5)
        np.testing.assert_allclose(got[:, 1], [5, 5, 0])
        got = metrics.normalized_surface_dice(prediction, target, 3)
        np.testing.assert_allclose(got[:, 1:], [[0, np.nan], [0, np.nan], [1, np.nan]])


def test_without_the_frame_a_class_that_fills_the_image_has_no_boundary():
    full = np.ones((6, 8), int)
    assert metrics.average_surface_distance(full, full, 2)[1] == 0
    assert np.isnan(metrics.average_surface_distance(full, full, 2, frame=False)).all()


def test_lines_and_single_pixels():
    """One axis, and images of one pixel."""
    prediction, target = np.array([[0, 0, 1, 1, 1, 0, 0, 0]]), np.array([[0, 1, 1, 0, 0, 0, 0, 0]])
    assert metrics.hausdorff_distance(prediction, target, 2, spacing=(0.5,))[0, 1] == 1
    assert metrics.hausdorff_distance(prediction, target, 2, boundary="elements", spacing=(0.5,))[0, 1] == 1
    np.testing.assert_array_equal(metrics.hausdorff_distance([[1]], [[1]], 2), [np.nan, 0])
    np.testing.assert_array_equal(metrics.normalized_surface_dice([[1]], [[1]], 2, boundary="elements"), [np.nan, 1])
