"""Definitions by argument against tools that have them: directed, other distances, all pixels, connectivity, Dice."""

import re

import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial.distance
import skimage.metrics
from medpy.metric import binary

import upsampling as up
from tests.metrics.metric_maps import drawn, volumes
from tests.metrics.test_surface_distances import CLASSES, per_class, together
from tests.optional import monai_metrics, sitk, torch, torchmetrics_classification, torchmetrics_segmentation
from upsampling import metrics

close = np.testing.assert_allclose


def one_hot(labels):
    return torch.from_numpy(np.moveaxis(np.eye(CLASSES, dtype=np.float32)[np.asarray(labels)], -1, 1).copy())


@pytest.fixture(scope="module")
def found():
    """Each definition of one pair of batches, in one program."""

    def of(*maps):
        def hausdorff(**how):
            return metrics.hausdorff_distance(*maps, CLASSES, **how)

        return {
            "directed": hausdorff(direction="prediction"),
            "directed 95": hausdorff(direction="prediction", percentile=95),
            "directed to the prediction": hausdorff(direction="target"),
            "chessboard": hausdorff(distance="chessboard"),
            "taxicab": hausdorff(distance="taxicab"),
            "taxicab average": metrics.average_surface_distance(
                *maps, CLASSES, average="prediction", distance="taxicab"
            ),
            "pixels": hausdorff(boundary="pixels"),
            "pixels directed": hausdorff(boundary="pixels", direction="prediction"),
            "corners": hausdorff(connectivity=2),
            "corners average": metrics.average_surface_distance(*maps, CLASSES, average="prediction", connectivity=2),
            "boundary iou": metrics.boundary_iou(*maps, CLASSES, region="euclidean", width=3, unit="pixels"),
        }

    return {name: np.asarray(value) for name, value in together(of, *drawn()).items()}


def where_both(values):
    """Without classes that are in one map only."""
    both = per_class(lambda p, t: 0.0, *map(np.asarray, drawn()))
    return values + both


@pytest.mark.filterwarnings("ignore:the (ground truth|prediction) of class")
@pytest.mark.parametrize("metric", ["chessboard", "taxicab"])
def test_monai_s_distances_and_direction(found, metric):
    maps = [one_hot(x) for x in drawn()]
    options = {"include_background": True, "distance_metric": metric}
    close(where_both(found[metric]), where_both(monai_metrics.compute_hausdorff_distance(*maps, **options).numpy()))
    directed = monai_metrics.compute_hausdorff_distance(*maps, include_background=True, directed=True)
    close(where_both(found["directed"]), where_both(directed.numpy()), rtol=1e-6)
    directed = monai_metrics.compute_hausdorff_distance(*maps, include_background=True, directed=True, percentile=95)
    close(where_both(found["directed 95"]), where_both(directed.numpy()), rtol=1e-5)
    average = monai_metrics.compute_average_surface_distance(*maps, include_background=True, distance_metric="taxicab")
    close(where_both(found["taxicab average"]), where_both(average.numpy()), rtol=1e-6)


def test_both_directions_make_the_whole(found):
    whole = metrics.hausdorff_distance(*drawn(), CLASSES)
    close(np.maximum(found["directed"], found["directed to the prediction"]), whole)


def test_all_pixels_are_scikit_image_s_and_scipy_s(found):
    prediction, target = map(np.asarray, drawn())
    close(where_both(found["pixels"]), per_class(skimage.metrics.hausdorff_distance, prediction, target), rtol=1e-6)

    def directed(p, t):
        return scipy.spatial.distance.directed_hausdorff(np.argwhere(p), np.argwhere(t))[0]

    close(where_both(found["pixels directed"]), per_class(directed, prediction, target), rtol=1e-6)


def test_connectivity_is_medpy_s(found):
    prediction, target = map(np.asarray, drawn())
    for name, tool in (("corners", binary.hd), ("corners average", binary.asd)):
        expected = per_class(lambda p, t, tool=tool: tool(p, t, connectivity=2), prediction, target)
        close(where_both(found[name]), expected, rtol=1e-5)
    first, second = (np.asarray(x)[:1] for x in volumes())
    expected = per_class(lambda p, t: binary.hd(p, t, connectivity=3), first, second)
    actual = metrics.hausdorff_distance(first, second, CLASSES, connectivity=3, axes=(-3, -2, -1))
    close(actual + 0 * expected, expected, rtol=1e-5)


def test_boundary_iou_by_distance(found):
    """MetricsReloaded's: pixels of the mask less than `width` from one that an erosion takes away."""

    def tool(*masks):
        near = []
        for mask in masks:
            border = mask & ~scipy.ndimage.binary_erosion(mask)
            near.append(mask & (scipy.ndimage.distance_transform_edt(~border) < 3))
        return (near[0] & near[1]).sum() / (near[0] | near[1]).sum()

    close(where_both(found["boundary iou"]), per_class(tool, *map(np.asarray, drawn())), rtol=1e-6)


def test_generalized_dice_and_dice_of_targets_are_monai_s():
    rng = np.random.default_rng(0)
    target = rng.choice(CLASSES, (4, 6, 7), p=[0.6, 0.3, 0.1])
    prediction = np.where(rng.random(target.shape) < 0.7, target, rng.integers(0, CLASSES, target.shape))
    target[0] = np.where(target[0] == 2, 0, target[0])  # predicted, but not there
    maps = one_hot(prediction), one_hot(target)
    for weights in ("square", "simple", "uniform"):
        expected = monai_metrics.compute_generalized_dice(*maps, weight_type=weights, sum_over_classes=True)
        close(metrics.generalized_dice(prediction, target, CLASSES, weights=weights), expected[:, 0], rtol=1e-5)
    for needs_target in (True, False):
        expected = monai_metrics.compute_dice(*maps, ignore_empty=needs_target)
        close(metrics.dice(prediction, target, CLASSES, needs_target=needs_target), expected, rtol=1e-6)
        expected = monai_metrics.compute_iou(*maps, ignore_empty=needs_target)
        close(metrics.iou(prediction, target, CLASSES, needs_target=needs_target), expected, rtol=1e-6)
    total = sum(
        metrics.generalized_dice.accumulate(p[None], t[None], CLASSES) for p, t in zip(prediction, target, strict=True)
    )
    whole = metrics.confusion_matrix(prediction, target, CLASSES).sum(0)
    close(total.compute(), metrics.generalized_dice_of(np.asarray(whole)), rtol=1e-6)
    nothing = np.zeros((2, 2), int), np.full((2, 2), 9)
    assert metrics.generalized_dice(*nothing, 3, ignore_index=9, absent=1) == 1


def test_overlap_and_all_pixels_are_simpleitk_s(found):
    prediction, target = map(np.asarray, drawn())

    def tool(p, t):
        images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (p, t)]
        distances, overlap = sitk.HausdorffDistanceImageFilter(), sitk.LabelOverlapMeasuresImageFilter()
        distances.Execute(*images)
        overlap.Execute(*images)
        apart = distances.GetHausdorffDistance(), distances.GetAverageHausdorffDistance()
        return *apart, overlap.GetDiceCoefficient(), overlap.GetJaccardCoefficient()

    ours = (
        found["pixels"],
        metrics.average_surface_distance(prediction, target, CLASSES, boundary="pixels", average="mean"),
        metrics.dice(prediction, target, CLASSES),
        metrics.iou(prediction, target, CLASSES),
    )
    for number, value in enumerate(ours):
        expected = per_class(lambda p, t, number=number: tool(p, t)[number], prediction, target)
        close(where_both(value), expected, rtol=1e-5)


def test_overlap_and_distances_are_torchmetrics(found):
    prediction, target = map(np.array, drawn())
    maps, options = (torch.from_numpy(prediction), torch.from_numpy(target)), {"input_format": "index"}
    expected = torchmetrics_segmentation.mean_iou(*maps, num_classes=CLASSES, per_class=True, **options)
    close(metrics.iou(prediction, target, CLASSES, absent=-1), expected, rtol=1e-5)
    expected = torchmetrics_segmentation.dice_score(*maps, num_classes=CLASSES, average="none", **options)
    close(metrics.dice(prediction, target, CLASSES), expected, rtol=1e-5)
    for function, ours in (("multiclass_jaccard_index", metrics.iou), ("multiclass_f1_score", metrics.dice)):
        tool = getattr(torchmetrics_classification, function)
        expected = [tool(p, t, num_classes=CLASSES, average="none").numpy() for p, t in zip(*maps, strict=True)]
        close(ours(prediction, target, CLASSES, absent=0), expected, rtol=1e-5)
    # It takes the distances of classes that are in both maps only.
    whole = np.isfinite(where_both(found["chessboard"])).all(1)
    assert whole.sum() > 2
    maps = [m[torch.from_numpy(whole)] for m in maps]
    for ours, options in (("chessboard", {}), ("taxicab", {}), ("directed", {"directed": True})):
        distance = "euclidean" if ours == "directed" else ours
        tool = torchmetrics_segmentation.hausdorff_distance
        options |= {"input_format": "index", "include_background": True, "distance_metric": distance}
        close(found[ours][whole], tool(*maps, num_classes=CLASSES, **options), rtol=1e-5)
    for theirs, ours in (("square", "square"), ("simple", "simple"), ("linear", "uniform")):
        tool = torchmetrics_segmentation.generalized_dice_score
        expected = tool(*maps, CLASSES, per_class=False, weight_type=theirs, input_format="index")
        close(metrics.generalized_dice(*map(np.asarray, maps), CLASSES, weights=ours), expected.ravel(), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"direction": "forth"}, "direction='forth' is not known"),
        ({"direction": "target", "percentile_of": "union"}, 'percentile_of="union" is of both directions'),
        ({"distance": "cityblock"}, "distance='cityblock' is not known"),
        ({"distance": "taxicab", "spacing": (1, 2)}, "distance='taxicab' counts pixels, so spacing must be 1"),
        ({"connectivity": 3}, "connectivity must be from 1 to 2"),
        ({"connectivity": 2, "boundary": "pixels"}, "and 1 otherwise; got 2 with boundary='pixels'"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        up.metrics.hausdorff_distance(np.zeros((4, 4), int), np.zeros((4, 4), int), 2, **call)
