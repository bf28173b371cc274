"""Boundary IoU and boundary F1 of label maps."""

import dataclasses
import math
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from upsampling import _arguments
from upsampling.metrics import _labels, _surfaces
from upsampling.metrics._labels import Axes, LabelMap, Spacing
from upsampling.metrics._surfaces import Boundary, BoundaryDefinition, Unit, Void
from upsampling.metrics.accumulators import PrecisionRecall, Ratio, check_absent, metric
from upsampling.metrics.distance_transform import squared_distance
from upsampling.primitives._common import core

Region = Literal["chessboard", "euclidean"]


@metric
def boundary_iou(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    width: float = 0.02,
    unit: Unit = "diagonal",
    region: Region = "chessboard",
    frame: bool = True,
    void: Void = "background",
    absent: float = math.nan,
    axes: Axes | None = None,
) -> Ratio:
    """Boundary IoU (Cheng et al. 2021): the IoU of the pixels along the inside of the boundaries, per image and class.

    The boundary region of a class is what an erosion of its mask by a 3x3 square, iterated d times after a zero pad,
    takes away: its pixels within chessboard distance d of another class or of the outside of the image. d = round(width
    x diagonal), at least 1, as in the authors' code; or `width` pixels.

    Args:
      prediction: `(*batch, H, W)` integer labels, 0 to num_classes - 1.
      target: the same shape; may also hold `ignore_index`.
      num_classes: number of classes (static).
      ignore_index: label of the target whose pixels are void (static).
      width: width of the boundary region, in `unit` (static).
      unit: "diagonal", a fraction of the image's diagonal, or "pixels" (static).
      region: what the boundary region is (static): "chessboard", as above; or "euclidean", the pixels of the class less
        than `width` from a pixel of its boundary, which shares a side with another class, as in MetricsReloaded.
      frame: whether a class that touches the image's frame has a boundary there (static).
      void: what void pixels do (static). "background": they belong to no class in either map, and boundaries run along
        them. "neutral": the same, but no boundaries run along them. "uncounted": both maps' boundary regions are what
        they are, and void pixels are left out of the counts; what is predicted on them matters to the pixels around.
      absent: the value of a class that has a boundary region in neither map, NaN or a number (static).
      axes: the spatial axes, 1 to 3 of them (static); the last two if None.

    Returns:
      `(*batch, num_classes)` float: |Pd ∩ Td| / |Pd ∪ Td|. `absent` where a class is so, 0
      where in one only. `boundary_iou.accumulate` gives both counts, summed over the batch, as a `Ratio`.

    Raises:
      TypeError: labels that are not integers (logits); arguments of the wrong type.
      ValueError: shapes that differ, labels out of range, a width that is not one, unknown names. Inside jit labels
        cannot be read, and a pixel whose label is out of range belongs to no class.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> boundary_iou(jnp.roll(target, 1, axis=1), target, num_classes=2, width=1, unit="pixels")
    Array([0.7307692 , 0.33333334], dtype=float32)
    >>> batches = [(jnp.roll(target, k, axis=1), target) for k in (0, 1)]
    >>> sum(boundary_iou.accumulate(*maps, 2, width=1, unit="pixels") for maps in batches).compute()
    Array([0.86, 0.6 ], dtype=float32)
    """
    name = "boundary_iou"
    prediction, target, definition = _surfaces.checked(
        name, prediction, target, num_classes, ignore_index, None, axes, void, frame=frame
    )
    shape, spacing = target.shape, definition.spacing
    pixels = _surfaces.length(name, "width", width, unit, shape, spacing)
    if unit == "pixels" and (pixels != int(pixels) or pixels < 1):
        raise ValueError(f"{name}: width in pixels must be whole and at least 1; got {width!r}.")
    widest = max(shape[-len(spacing) :])  # all of the image
    _arguments.one_of(name, "region", region, get_args(Region))
    ratio = _boundary_iou(prediction, target, definition, min(max(1, round(pixels)), widest), region)
    return dataclasses.replace(ratio, absent=check_absent(name, absent))


@core((2, 3, 4), inline=False)
def _boundary_iou(prediction, target, definition: BoundaryDefinition, width: int, region: Region) -> Ratio:
    def images(prediction, target):
        prediction, target, counted = _surfaces.encode(prediction, target, definition)
        counted = True if counted is None else counted
        if region == "euclidean":
            near = partial(_near_own_boundary, width=width, definition=definition)
        else:
            near = partial(_near_another_class, width=width, frame=definition.frame)
        predicted, true = (near(x) & counted for x in (prediction, target))
        both, *sizes = (
            _labels.count_labels(x, where, definition.num_classes)
            for x, where in (
                (target, predicted & true & (prediction == target)),
                (prediction, predicted),
                (target, true),
            )
        )
        return Ratio(both, sum(sizes) - both)

    return _labels.over_images(images, len(definition.spacing), 1, prediction, target)


def _near_own_boundary(x: jax.Array, width: int, definition: BoundaryDefinition) -> jax.Array:
    """Whether a pixel is less than `width` from a pixel of its class that shares a side with another class."""
    classes = jnp.arange(definition.num_classes, dtype=x.dtype).reshape(1, -1, *[1] * (x.ndim - 1))
    own = x[:, None] == classes
    edges = own & _surfaces.touches_another(x, definition.frame)[:, None]
    squared = squared_distance(edges, definition.spacing, width, own)
    return jnp.any(own & (squared < width**2), axis=1)


def _near_another_class(x: jax.Array, width: int, frame: bool) -> jax.Array:
    """Whether the square of 2 width + 1 pixels around a pixel holds another class or what is beyond the image's frame.

    That is so if the least and the largest label in it differ: the boundaries of all classes at once. Void is neither,
    nor is what is beyond the image if the frame is no boundary.
    """
    most, least = jnp.iinfo(x.dtype).max, jnp.iinfo(x.dtype).min
    void = x == _surfaces.VOID
    ends = [jnp.where(void, most, x), jnp.where(void, least, x)]
    beyond = [_surfaces.BEYOND] * 2 if frame else [most, least]
    for axis in range(1, x.ndim):
        window, edges = [1] * x.ndim, [(0, 0)] * x.ndim
        window[axis], edges[axis] = 2 * width + 1, (width, width)
        ends = [jnp.pad(y, edges, constant_values=fill) for y, fill in zip(ends, beyond, strict=True)]
        ends = [
            lax.reduce_window(y, np.asarray(start, x.dtype), of, window, (1,) * x.ndim, "VALID")
            for y, start, of in zip(ends, (most, least), (lax.min, lax.max), strict=True)
        ]
    return ends[0] != ends[1]


@metric
def boundary_f1(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    tolerance: float = 1,
    unit: Unit = "pixels",
    boundary: Boundary = "inside",
    frame: bool = False,
    void: Void = "background",
    spacing: Spacing | None = None,
    absent: float = math.nan,
    axes: Axes | None = None,
) -> PrecisionRecall:
    """Boundary F1, the BF score (Csurka et al. 2013), per image and class.

    Precision is the share of the predicted boundary within a Euclidean distance `tolerance` (inclusive) of the true
    boundary of the class; recall the share of the true boundary within it of the predicted one; F1 = 2 P R / (P + R).

    SegNet's and MATLAB's `bfscore` take 0.0075 of the diagonal: `tolerance=0.0075, unit="diagonal"`. DAVIS takes
    `boundary="between", tolerance=math.ceil(0.008 * diagonal)`, and calls two empty maps 1 where this says NaN.

    Args:
      prediction: `(*batch, H, W)` integer labels, 0 to num_classes - 1.
      target: the same shape; may also hold `ignore_index`.
      num_classes: number of classes (static).
      ignore_index: label of the target whose pixels are void (static).
      tolerance: distance, in `unit` (static).
      unit: "pixels" (or what `spacing` is in), or "diagonal", a fraction of the image's diagonal (static).
      boundary: what the boundary of a class is (static), see `upsampling.metrics`: "inside", its pixels that share a
        side with a pixel that is not; "between", the points between pixels where four meet of which some are inside;
        "elements", the surface elements at these points, weighted by the length of the boundary there.
      frame: whether a class that touches the image's frame has a boundary there (static).
      void: what void pixels do (static). "background": they belong to no class in either map, and boundaries run along
        them. "neutral": the same, but no boundaries run along them. "uncounted": boundaries are what they are in both
        maps, and those on void pixels are left out of the counts.
      spacing: size of a pixel, one number or one per axis (static).
      absent: the value of a class that has a boundary in neither map, NaN or a number (static).
      axes: the spatial axes, 1 to 3 of them (static); the last ones if None, as many as `spacing` has, or two.

    Returns:
      `(*batch, num_classes)` float. `absent` where a class has a boundary in neither map, 0 where in one only.
      `boundary_f1.accumulate` gives the F1 of all boundaries together, as `PrecisionRecall`; Csurka et al. take the
      mean over images instead, which is `image_mean(boundary_f1(...))`.

    Raises:
      TypeError: labels that are not integers (logits); arguments of the wrong type.
      ValueError: shapes that differ, labels out of range, a negative tolerance, unknown names. Inside jit labels
        cannot be read, and a pixel whose label is out of range belongs to no class.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> boundary_f1(jnp.roll(target, 2, axis=1), target, num_classes=2, tolerance=1)
    Array([0.57142854, 0.72727275], dtype=float32)
    """
    prediction, target, definition = _surfaces.checked(
        "boundary_f1", prediction, target, num_classes, ignore_index, spacing, axes, void, boundary, frame
    )
    both = within_tolerance("boundary_f1", prediction, target, definition, tolerance, unit)
    return dataclasses.replace(both, absent=check_absent("boundary_f1", absent))


def within_tolerance(
    function: str,
    prediction: jax.Array,
    target: jax.Array,
    definition: BoundaryDefinition,
    tolerance: float,
    unit: Unit,
) -> PrecisionRecall:
    """Boundary within `tolerance` of the other map's, and in all, of both maps, per image and class; maps checked."""
    tolerance = _surfaces.length(function, "tolerance", tolerance, unit, target.shape, definition.spacing)
    return _within_tolerance(prediction, target, definition, tolerance)


@core((2, 3), inline=False)
def _within_tolerance(prediction, target, definition: BoundaryDefinition, tolerance: float) -> PrecisionRecall:
    def images(prediction, target):
        precision, recall = (Ratio(*sums) for sums in _surfaces.within(prediction, target, definition, tolerance))
        return PrecisionRecall(precision, recall)

    return _labels.over_images(images, len(definition.spacing), definition.num_classes, prediction, target)
