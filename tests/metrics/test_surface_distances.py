"""Against surface-distance 0.1, MedPy 0.5.2 and MONAI 1.6.1, each in its own definition."""

import functools

import jax
import numpy as np
import pytest
import surface_distance
from medpy.metric import binary
from surface_distance import lookup_tables

from tests.metrics.metric_maps import blobs, camvid, drawn, membranes, perturbed, volumes
from tests.optional import monai_metrics, torch
from upsampling import metrics
from upsampling.metrics._surface_elements import corners, element_sizes

SPACINGS = [(0.7, 2.0), (2.0, 0.5, 1.25)]
CLASSES = 3
MISSING = ("infinity", "diagonal", "nan")


def pairs(rank):
    return drawn() if rank == 2 else volumes()


def together(function, *maps):
    """Several metrics in one program, which compiles sooner than one for each: they share their distances."""
    return jax.jit(function)(*maps)


@functools.cache
def figures(spacing, boundary):
    """Every figure of the pairs that is compared with a tool's."""
    how = {"boundary": boundary, "spacing": spacing}

    def of(*maps):
        found = {
            average: metrics.average_surface_distance(*maps, CLASSES, average=average, **how)
            for average in ("pooled", "mean", "prediction", "target")
        }
        found["hausdorff"] = metrics.hausdorff_distance(*maps, CLASSES, **how)
        found["surface dice"] = metrics.normalized_surface_dice(*maps, CLASSES, tolerance=1.4, **how)
        if boundary == "elements" or len(spacing) == 2:  # how distances are sorted does not depend on the rank
            found["hd95"] = metrics.hausdorff_distance(*maps, CLASSES, percentile=95, **how)
        if boundary == "inside" and len(spacing) == 2:
            union = {"percentile": 95, "percentile_of": "union"}
            found["hd95 of the union"] = metrics.hausdorff_distance(*maps, CLASSES, **union, **how)
        return found

    return together(of, *pairs(len(spacing)))


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
        tool = deepmind(lambda d: surface_distance.compute_robust_hausdorff(d, percent), spacing)
        got = figures(spacing, "elements")["hausdorff" if percent == 100 else "hd95"]
        agree(got, per_class(tool, *pairs(len(spacing))))

    def test_average_surface_distance(self, spacing):
        for which, average in enumerate(("target", "prediction")):
            tool = deepmind(lambda d, k=which: surface_distance.compute_average_surface_distance(d)[k], spacing)
            agree(figures(spacing, "elements")[average], per_class(tool, *pairs(len(spacing))))

    def test_normalized_surface_dice(self, spacing):
        tool = deepmind(lambda d: surface_distance.compute_surface_dice_at_tolerance(d, 1.4), spacing)
        agree(figures(spacing, "elements")["surface dice"], per_class(tool, *pairs(len(spacing))))


def test_more_classes_than_meet_in_a_point():
    """Seven classes in which up to four meet, some of them only in this or that map."""
    target = np.stack([blobs((24, 26), 7, seed, 1.5) for seed in range(3)])
    prediction = np.stack([perturbed(t, 3) for t in target])

    @functools.partial(jax.jit, static_argnums=2)
    def hd90(prediction, target, num_classes):
        how = {"percentile": 90, "interpolation": "step"}
        return {
            boundary: metrics.hausdorff_distance(prediction, target, num_classes, boundary=boundary, **how)
            for boundary in ("elements", "between")
        }

    got = hd90(prediction, target, 7)
    for c in range(7):
        alone = hd90((prediction == c).astype(int), (target == c).astype(int), 2)
        for boundary in ("elements", "between"):
            np.testing.assert_array_equal(got[boundary][:, c], alone[boundary][:, 1])
    tool = deepmind(lambda d: surface_distance.compute_robust_hausdorff(d, 90), (1.0, 1.0))
    agree(got["elements"], per_class(tool, prediction, target, 7))


@pytest.mark.parametrize(
    ("boundary", "void"), [("elements", "uncounted"), ("between", "neutral"), ("between", "background")]
)
def test_no_element_is_lost_where_four_classes_meet(boundary, void):
    """Of seven classes each is what it is alone, in noise, where most points have three or four and some are void."""
    prediction, target = np.random.default_rng(0).integers(0, 7, (2, 2, 9, 11))
    target[:, 2:4, 5:7] = 255

    @functools.partial(jax.jit, static_argnums=2)
    def of(prediction, target, num_classes):
        how = {"ignore_index": 255, "boundary": boundary, "void": void}
        return (
            metrics.average_surface_distance(prediction, target, num_classes, **how),
            metrics.normalized_surface_dice(prediction, target, num_classes, tolerance=1, **how),
            metrics.hausdorff_distance(prediction, target, num_classes, **how),
        )

    together = of(prediction, target, 7)
    for c in range(7):
        alone = of((prediction == c).astype(int), np.where(target == 255, 255, target == c), 2)
        for got, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(got[:, c], expected[:, 1], rtol=1e-6)


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
    ours = figures(spacing, "inside")

    def tool(function):
        return per_class(lambda p, t: function(p, t, voxelspacing=spacing), *pairs(len(spacing)))

    agree(ours["hausdorff"], tool(binary.hd))
    if len(spacing) == 2:
        agree(ours["hd95 of the union"], tool(binary.hd95))
    agree(ours["pooled"], tool(binary.assd))
    agree(ours["prediction"], tool(binary.asd))
    # MedPy's assd before 0.5.
    agree(ours["mean"], (tool(binary.asd) + tool(lambda p, t, **o: binary.asd(t, p, **o))) / 2)


@pytest.mark.filterwarnings("ignore:the (ground truth|prediction) of class")
@pytest.mark.parametrize("spacing", SPACINGS)
def test_monai(spacing):
    """Where a class is in one map only MONAI too says infinity and 0 (and NaN for percentiles of infinities)."""
    prediction, target = pairs(len(spacing))

    def one_hot(x):
        return torch.tensor(np.moveaxis(x[..., None] == np.arange(CLASSES), -1, 1))

    maps = one_hot(prediction), one_hot(target)
    shared = {"include_background": True, "spacing": spacing}
    ours = {boundary: figures(spacing, boundary) for boundary in ("inside", "elements")}
    for percent in (100, 95) if len(spacing) == 2 else (100,):
        asked, name = (None, "hausdorff") if percent == 100 else (percent, "hd95")
        theirs = monai_metrics.compute_hausdorff_distance(*maps, percentile=asked, **shared).numpy()
        present = ~np.isnan(theirs)
        np.testing.assert_allclose(np.asarray(ours["inside"][name])[present], theirs[present], rtol=1e-5)
        assert np.isinf(theirs).any() == (percent == 100)
    for average, symmetric in (("pooled", True), ("prediction", False)):
        theirs = monai_metrics.compute_average_surface_distance(*maps, symmetric=symmetric, **shared).numpy()
        present = ~np.isnan(theirs)
        np.testing.assert_allclose(np.asarray(ours["inside"][average])[present], theirs[present], rtol=1e-5)
    for boundary in ("inside", "elements"):
        theirs = monai_metrics.compute_surface_dice(
            *maps, [1.4] * CLASSES, use_subvoxels=boundary == "elements", **shared
        )
        np.testing.assert_allclose(ours[boundary]["surface dice"], theirs.numpy(), rtol=1e-5)


def test_real_masks_of_512():
    target = membranes(2).astype(int)
    prediction = np.stack([perturbed(t, i, 3.0) for i, t in enumerate(target)])
    hd95, nsd = together(
        lambda *maps: (
            metrics.hausdorff_distance(*maps, 2, percentile=95, boundary="elements"),
            metrics.normalized_surface_dice(*maps, 2, tolerance=2, boundary="elements"),
        ),
        prediction,
        target,
    )
    tool = deepmind(lambda d: surface_distance.compute_robust_hausdorff(d, 95), (1.0, 1.0))
    np.testing.assert_allclose(hd95, per_class(tool, prediction, target, 2), rtol=1e-6)
    tool = deepmind(lambda d: surface_distance.compute_surface_dice_at_tolerance(d, 2), (1.0, 1.0))
    np.testing.assert_allclose(nsd, per_class(tool, prediction, target, 2), rtol=1e-6)


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
    hd95, assd, sums = together(
        lambda *maps: (
            metrics.hausdorff_distance(*maps, 11, 11, percentile=95),
            metrics.average_surface_distance(*maps, 11, 11),
            metrics.average_surface_distance.accumulate(*maps, 11, 11, missing="nan").compute(),
        ),
        prediction,
        target,
    )
    for at, two in lists.items():
        np.testing.assert_allclose(hd95[at], max(np.percentile(d, 95) for d in two), rtol=1e-5)
        np.testing.assert_allclose(assd[at], np.concatenate(two).mean(), rtol=1e-5)
    for c in range(11):
        some = [d for (_, of), two in lists.items() if of == c for d in two]
        np.testing.assert_allclose(sums[c], np.concatenate(some).mean() if some else np.nan, rtol=1e-5)


@functools.cache
def figures_of_classes_in_one_map():
    """Class 0 touches the frame in both maps; class 1 is in one of them, class 2 in none."""
    empty = np.zeros((6, 8), int)
    dot = empty.copy()
    dot[2, 2] = 1

    def of(*maps):
        hausdorff, average = (
            functools.partial(f, *maps, 3) for f in (metrics.hausdorff_distance, metrics.average_surface_distance)
        )
        sums = functools.partial(metrics.average_surface_distance.accumulate, *maps, 3)
        return {
            "hausdorff": {missing: hausdorff(missing=missing) for missing in MISSING},
            "pooled": {missing: average(missing=missing) for missing in MISSING},
            "sums": {missing: sums(missing=missing) for missing in MISSING},
            "others": [average(missing="diagonal", average=which) for which in ("mean", "target")],
            "hd95": hausdorff(missing="diagonal", percentile=95, spacing=0.5),
            "surface dice": metrics.normalized_surface_dice(*maps, 3),
        }

    return together(of, np.stack([dot, empty, dot]), np.stack([empty, dot, dot]))


@pytest.mark.parametrize("missing", MISSING)
def test_classes_in_one_map_only(missing):
    got = figures_of_classes_in_one_map()
    far = {"infinity": np.inf, "diagonal": 10.0, "nan": np.nan}[missing]
    expected = [[far, np.nan], [far, np.nan], [0, np.nan]]
    np.testing.assert_allclose(got["hausdorff"][missing][:, 1:], expected)
    np.testing.assert_allclose(got["pooled"][missing][:, 1:], expected)
    pooled = {"infinity": np.inf, "diagonal": 20 / 4, "nan": 0}[missing]
    np.testing.assert_allclose(got["sums"][missing].compute()[1:], [pooled, np.nan])
    if missing == "diagonal":
        for values in got["others"]:
            np.testing.assert_allclose(values[:, 1:], expected)
        np.testing.assert_allclose(got["hd95"][:, 1], [5, 5, 0])
        np.testing.assert_allclose(got["surface dice"][:, 1:], [[0, np.nan], [0, np.nan], [1, np.nan]])


def test_without_the_frame_a_class_that_fills_the_image_has_no_boundary():
    full = np.ones((6, 8), int)
    with_frame, without = together(
        lambda x: [metrics.average_surface_distance(x, x, 2, frame=frame) for frame in (True, False)], full
    )
    assert with_frame[1] == 0
    assert np.isnan(without).all()


def test_lines_and_single_pixels():
    """One axis, and images of one pixel."""
    inside, elements, distance, dice = together(
        lambda prediction, target, pixel: (
            metrics.hausdorff_distance(prediction, target, 2, spacing=(0.5,)),
            metrics.hausdorff_distance(prediction, target, 2, boundary="elements", spacing=(0.5,)),
            metrics.hausdorff_distance(pixel, pixel, 2),
            metrics.normalized_surface_dice(pixel, pixel, 2, boundary="elements"),
        ),
        np.array([[0, 0, 1, 1, 1, 0, 0, 0]]),
        np.array([[0, 1, 1, 0, 0, 0, 0, 0]]),
        np.array([[1]]),
    )
    assert inside[0, 1] == elements[0, 1] == 1
    np.testing.assert_array_equal(distance, [np.nan, 0])
    np.testing.assert_array_equal(dice, [np.nan, 1])
