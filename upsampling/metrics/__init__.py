"""Segmentation metrics that compile: exact, batched, on the accelerator.

    from upsampling import metrics

    metrics.boundary_iou(prediction, target, num_classes=11, ignore_index=11)   # (*batch, 11)

Label maps `(*batch, H, W)` of integers go in, one value per image and class comes out; NaN where a class is in neither
map. All functions run under jit and vmap, with everything but the maps static. Volumes and lines are named by `axes=`,
or by a `spacing` per axis.

The figure of a data set comes from sums over all images, not from the mean of the images' figures. So every metric has
an attribute `accumulate`, which takes the same arguments and returns what a batch contributes: an accumulator, a pytree
that adds up over batches with `+` (or `.merge`, or the builtin `sum`) and over devices with `jax.lax.psum`, and is
finished by `.compute()`.

    total = sum(metrics.boundary_iou.accumulate(p, t, num_classes=11, ignore_index=11) for p, t in batches)
    total.compute()                                                                         # (11,)

In one compiled function that goes through the frames one by one, metrics that look at the same boundaries share their
distances, since XLA sees that they are the same:

    contributions = jax.jit(lambda p, t: jax.lax.map(lambda maps: (
        metrics.hausdorff_distance.accumulate(*maps, 11, percentile=95),
        metrics.average_surface_distance.accumulate(*maps, 11),
    ), (p, t)))(predictions, targets)   # with a first axis of frames: sum it with jax.tree.map

| metric | what `.accumulate` adds up | over a data set `.compute()` gives |
| --- | --- | --- |
| `iou`, `mean_iou`, `dice`, `pixel_accuracy`, `frequency_weighted_iou` | confusion `.matrix` | that of all pixels |
| `generalized_dice` | confusion `.matrix` | that of all pixels, with their weights |
| `trimap_iou` | confusion `.matrix` of the trimaps | the IoU of all trimaps |
| `boundary_iou` | intersection, union of the boundary regions | their ratio |
| `boundary_f1` | boundary matched, and in all, of both maps | F1 of all boundaries |
| `error_by_distance` | wrong pixels, pixels | the error rate |
| `average_surface_distance` | distances, boundary | the average over all boundaries |
| `normalized_surface_dice` | boundary matched, boundary in all | the share matched |
| `hausdorff_distance` | values, number of images | the mean over the images with the class |
| any of them: `image_mean(boundary_f1(...))` | values, number of images | the mean over the images with the class |

`confusion_matrix` and `trimap_confusion_matrix` are the matrices per image; `iou_of`, `mean_iou_of`, `dice_of`,
`pixel_accuracy_of` and `frequency_weighted_iou_of` take a figure from a matrix.

A class in one map only gets 0 for IoU, Dice, Boundary IoU, boundary F1, trimap IoU and normalized surface Dice; for the
distances see `missing=`, infinity by default.

Definitions
-----------

Public tools differ in what follows, and the arguments here say which of them is meant. The tests compare with scipy
1.17.1, scikit-image 0.26.0, scikit-learn 1.9.1, OpenCV 5.0.0, surface-distance 0.1, MedPy 0.5.2, MONAI 1.6.1,
SimpleITK 2.5.7 and torchmetrics 1.9.0.

`boundary=`: what the boundary of a class is.

- "inside": the pixels of the class that share a side with a pixel that is not of it, at their centres. The boundaries
  of two neighbouring classes are one pixel apart.
- "between": the points where four pixels meet (two on a line, eight in a volume), if some of them are of the class and
  some are not. Neighbouring classes share them.
- "elements": the surface elements at these points: each weighted by the length (area) of the boundary that runs through
  the block of pixels around it, by marching squares (cubes).
- "pixels": all pixels of the class, for Hausdorff and surface distances.

`connectivity=`: what pixels "inside" have for neighbors: 1, those that share a side; 2 or 3, those that share an edge
or a corner too.

`distance=`, of Hausdorff and surface distances: "euclidean", "chessboard" or "taxicab".

`frame=`: whether a class that touches the image's frame has a boundary there.

`void=`: what pixels of `ignore_index` do.

- "background": they are of no class in either map. Both maps have the same boundary along them, which counts as found.
- "neutral": the same, but there is no boundary along them.
- "uncounted": boundaries are where they are in each map, and what lies on void pixels is left out of the counts.

| tool | metric here | boundary | frame | also |
| --- | --- | --- | --- | --- |
| Boundary IoU (Cheng et al. 2021) | `boundary_iou` | inside, to a depth | yes | `width=0.02` of the diagonal, rounded |
| MetricsReloaded Boundary IoU | `boundary_iou` | inside, by distance | yes | `region="euclidean", unit="pixels"` |
| its panoptic form | `boundary_iou` | inside, to a depth | yes | `void="uncounted"` |
| BF score (Csurka et al. 2013), SegNet | `boundary_f1` | "inside" | no | 0.0075 of the diagonal; mean over images |
| DAVIS (Perazzi et al. 2016) | `boundary_f1` | "between" | no | `ceil(0.008 diagonal)` pixels; two empty maps: 1 |
| trimap (Kohli et al. 2009) | `trimap_iou` | both sides | no | share of pixels: `pixel_accuracy_of` |
| surface-distance, HD | `hausdorff_distance` | "elements" | yes | `percentile_of="larger", interpolation="step"` |
| surface-distance, ASD | `average_surface_distance` | "elements" | yes | `average="prediction"`, `"target"` |
| surface-distance, NSD | `normalized_surface_dice` | "elements" | yes | |
| MedPy hd95 | `hausdorff_distance` | "inside" | yes | `percentile=95, percentile_of="union"` |
| MedPy asd | `average_surface_distance` | "inside" | yes | `average="prediction"` |
| MedPy assd | `average_surface_distance` | "inside" | yes | `average="pooled"`; before MedPy 0.5 `"mean"` |
| MedPy, connectivity=2 | `hausdorff_distance` | "inside" | yes | `connectivity=2`, and for `asd`, `assd` |
| MONAI Hausdorff | `hausdorff_distance` | "inside" | yes | `percentile_of="larger", interpolation="linear"` |
| its directed form | `hausdorff_distance` | "inside" | yes | `direction="prediction"` |
| MONAI distance_metric | both distances | "inside" | yes | `distance="chessboard"` or `"taxicab"` |
| scikit-image, SimpleITK Hausdorff | `hausdorff_distance` | "pixels" | | |
| SimpleITK average Hausdorff | `average_surface_distance` | "pixels" | | `average="mean"` |
| torchmetrics Hausdorff | `hausdorff_distance` | "inside" | yes | `direction="prediction"`; `distance=` |
| SciPy directed_hausdorff | `hausdorff_distance` | "pixels" | | `direction="prediction"` |
| MONAI surface distance | `average_surface_distance` | "inside" | yes | `average="prediction"`; symmetric: `"pooled"` |
| MONAI surface Dice | `normalized_surface_dice` | "inside" | yes | use_subvoxels: "elements" |
| MONAI Dice, IoU | `dice`, `iou` | | | `needs_target=True`; with ignore_empty=False `absent=1` instead |
| MONAI generalized Dice | `generalized_dice` | | | sum_over_classes=True; `weights=` |

What two maps without the class give is `absent=`: NaN in surface-distance, MONAI and torchmetrics' Dice, 1 in DAVIS
(`absent=1`), 0 in torchmetrics' Jaccard index and F1 (`absent=0`), -1 in its mean IoU by class (`absent=-1`). What a
class in one map only gives the distances is `missing=`: infinity in surface-distance and MONAI.

What DAVIS and surface-distance do with void: DAVIS takes it out of both maps ("background"), the others have none. The
matching of BSDS (Martin et al. 2004), where a boundary pixel may be used only once, is none of these.
"""

from upsampling.metrics.accumulators import Accumulator, ConfusionCounts, PrecisionRecall, Ratio, image_mean
from upsampling.metrics.boundaries import boundary_f1, boundary_iou
from upsampling.metrics.boundary_loss import boundary_loss, level_sets
from upsampling.metrics.confusion import (
    confusion_matrix,
    dice,
    dice_of,
    frequency_weighted_iou,
    frequency_weighted_iou_of,
    generalized_dice,
    generalized_dice_of,
    iou,
    iou_of,
    mean_iou,
    mean_iou_of,
    pixel_accuracy,
    pixel_accuracy_of,
)
from upsampling.metrics.distance_transform import distance_transform, nearest_background, signed_distance_transform
from upsampling.metrics.surface_distances import average_surface_distance, hausdorff_distance, normalized_surface_dice
from upsampling.metrics.trimap import error_by_distance, trimap_confusion_matrix, trimap_iou

__all__ = [
    "Accumulator",
    "ConfusionCounts",
    "PrecisionRecall",
    "Ratio",
    "average_surface_distance",
    "boundary_f1",
    "boundary_iou",
    "boundary_loss",
    "confusion_matrix",
    "dice",
    "dice_of",
    "distance_transform",
    "error_by_distance",
    "frequency_weighted_iou",
    "frequency_weighted_iou_of",
    "generalized_dice",
    "generalized_dice_of",
    "hausdorff_distance",
    "image_mean",
    "iou",
    "iou_of",
    "level_sets",
    "mean_iou",
    "mean_iou_of",
    "nearest_background",
    "normalized_surface_dice",
    "pixel_accuracy",
    "pixel_accuracy_of",
    "signed_distance_transform",
    "trimap_confusion_matrix",
    "trimap_iou",
]
