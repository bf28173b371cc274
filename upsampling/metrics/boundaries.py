"""Boundary IoU and boundary F1 of label maps."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from upsampling.metrics import _labels
from upsampling.metrics._surfaces import (
    BEYOND,
    VOID,
    Elements,
    Rule,
    encode,
    length,
    matches,
    rule,
)
from upsampling.metrics.accumulators import PrecisionRecall, Ratio


def boundary_iou(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    width: float = 0.02,
    unit: str = "diagonal",
    void: str = "background",
    axes: int | tuple[int, ...] | None = None,
) -> jax.Array:
    """Boundary IoU (Cheng et al. 2021): the IoU of the inner bands along the boundaries, per image and class.

    The band of a class is what an erosion of its mask by a 3x3 square, iterated d times after a zero pad, takes away:
    its pixels within chessboard distance d of another class or of the outside of the image. d = round(width x
    diagonal), at least 1, as in the authors' code; or `width` pixels.

    Args:
      prediction: `(*batch, H, W)` integer labels, 0 to num_classes - 1.
      target: the same shape; may also hold `ignore_index`.
      num_classes: number of classes (static).
      ignore_index: label of the target whose pixels are void (static).
      width: band width, in `unit` (static).
      unit: "diagonal", a fraction of the image's diagonal, or "pixels" (static).
      void: what void pixels do (static). "background": they belong to no class in either map, and bands run along
        them. "neutral": the same, but no bands run along them. "uncounted": both maps' bands are what they are, and
        void pixels are left out of the counts; what is predicted on them then matters to the pixels around.
      axes: the spatial axes, 1 to 3 of them (static); the last two if None.

    Returns:
      `(*batch, num_classes)` float: |Pd ∩ Td| / |Pd ∪ Td|. NaN where a class has a band in neither map, 0 where in one
      only.

    Raises:
      TypeError: labels that are not integers (logits); arguments of the wrong type.
      ValueError: shapes that differ, labels out of range, a width that is not one, unknown names. Inside jit labels
        cannot be read, and a pixel whose label is out of range belongs to no class.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> boundary_iou(jnp.roll(target, 1, axis=1), target, num_classes=2, width=1, unit="pixels")
    Array([0.7307692 , 0.33333334], dtype=float32)
    """
    name = "boundary_iou"
    return _boundary_iou(name, prediction, target, num_classes, ignore_index, width, unit, void, axes).value()


def boundary_iou_sums(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    width: float = 0.02,
    unit: str = "diagonal",
    void: str = "background",
    axes: int | tuple[int, ...] | None = None,
) -> Ratio:
    """What a batch contributes to a data set's `boundary_iou`: pixels of intersection and union of the bands.

    Arguments and errors as in `boundary_iou`.

    Returns:
      `Ratio` of `(num_classes,)` counts, summed over the batch. Add them up, then `.value()`.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> sums = sum(boundary_iou_sums(jnp.roll(target, k, 1), target, 2, width=1, unit="pixels") for k in (0, 1))
    >>> sums.value()
    Array([0.86, 0.6 ], dtype=float32)
    """
    name = "boundary_iou_sums"
    return _boundary_iou(name, prediction, target, num_classes, ignore_index, width, unit, void, axes).total()


def _boundary_iou(function, prediction, target, num_classes, ignore_index, width, unit, void, axes) -> Ratio:
    *maps, num_classes, ignore_index, spacing = _labels.check_pair(
        function, prediction, target, num_classes, ignore_index, axes
    )
    pixels = length(function, "width", width, unit, maps[0].shape[-len(spacing) :], spacing)
    if unit == "pixels" and (pixels != int(pixels) or pixels < 1):
        raise ValueError(f"{function}: width in pixels must be whole and at least 1; got {width!r}.")
    which = rule(function, num_classes, ignore_index, spacing, void)
    widest = max(maps[0].shape[-len(spacing) :])  # all of the image is in the band
    return _boundary_iou_counts(*maps, which, min(max(1, round(pixels)), widest))


@partial(jax.jit, static_argnums=(2, 3))
def _boundary_iou_counts(prediction, target, which: Rule, width: int) -> Ratio:
    def images(prediction, target):
        prediction, target, counted = encode(prediction, target, which)
        counted = True if counted is None else counted
        predicted, true = (_near_another_class(x, width) & counted for x in (prediction, target))
        both, *sizes = (
            _labels.count_labels(x, where, which.num_classes)
            for x, where in (
                (target, predicted & true & (prediction == target)),
                (prediction, predicted),
                (target, true),
            )
        )
        return Ratio(both, sum(sizes) - both)

    return _labels.over_images(images, len(which.spacing), 1, prediction, target)


def _near_another_class(x: jax.Array, width: int) -> jax.Array:
    """Whether the square of 2 width + 1 pixels around a pixel holds another class or what is beyond the image.

    That is so if the least and the largest label in it differ: the bands of all classes at once. Void is in neither.
    """
    most, least = jnp.iinfo(x.dtype).max, jnp.iinfo(x.dtype).min
    void = x == VOID
    lowest, highest = jnp.where(void, most, x), jnp.where(void, least, x)
    for axis in range(1, x.ndim):
        window, edges = [1] * x.ndim, [(0, 0)] * x.ndim
        window[axis], edges[axis] = 2 * width + 1, (width, width)
        lowest, highest = (jnp.pad(y, edges, constant_values=BEYOND) for y in (lowest, highest))
        lowest = lax.reduce_window(lowest, most, lax.min, window, (1,) * x.ndim, "VALID")
        highest = lax.reduce_window(highest, least, lax.max, window, (1,) * x.ndim, "VALID")
    return lowest != highest


def boundary_f1(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    tolerance: float = 1,
    unit: str = "pixels",
    boundary: str = "inside",
    frame: bool = False,
    void: str = "background",
    spacing: Any = None,
    axes: int | tuple[int, ...] | None = None,
) -> jax.Array:
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
        "elements", these points, weighted by the length of the boundary there.
      frame: whether a class that touches the image's frame has a boundary there (static).
      void: what void pixels do (static). "background": they belong to no class in either map, and boundaries run along
        them. "neutral": the same, but no boundaries run along them. "uncounted": boundaries are what they are in both
        maps, and those on void pixels are left out of the counts.
      spacing: size of a pixel, one number or one per axis (static).
      axes: the spatial axes, 1 to 3 of them (static); the last ones if None, as many as `spacing` has, or two.

    Returns:
      `(*batch, num_classes)` float. NaN where a class has a boundary in neither map, 0 where in one only.

    Raises:
      TypeError: labels that are not integers (logits); arguments of the wrong type.
      ValueError: shapes that differ, labels out of range, a negative tolerance, unknown names. Inside jit labels
        cannot be read, and a pixel whose label is out of range belongs to no class.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> boundary_f1(jnp.roll(target, 2, axis=1), target, num_classes=2, tolerance=1)
    Array([0.57142854, 0.72727275], dtype=float32)
    """
    chosen = tolerance, unit, boundary, frame, void, spacing, axes
    return matched("boundary_f1", prediction, target, num_classes, ignore_index, *chosen).value()


def boundary_f1_sums(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    tolerance: float = 1,
    unit: str = "pixels",
    boundary: str = "inside",
    frame: bool = False,
    void: str = "background",
    spacing: Any = None,
    axes: int | tuple[int, ...] | None = None,
) -> PrecisionRecall:
    """What a batch contributes to a data set's boundary F1: boundary matched and in all, of both maps.

    Arguments and errors as in `boundary_f1`. The value is the F1 of all boundaries together; Csurka et al. take the
    mean over images instead, which is `image_mean(boundary_f1(...))`.

    Returns:
      `PrecisionRecall` of `(num_classes,)` counts, summed over the batch. Add them up, then `.value()`.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> boundary_f1_sums(target[None], target[None], num_classes=2).value()
    Array([1., 1.], dtype=float32)
    """
    chosen = tolerance, unit, boundary, frame, void, spacing, axes
    return matched("boundary_f1_sums", prediction, target, num_classes, ignore_index, *chosen).total()


def matched(
    function, prediction, target, num_classes, ignore_index, tolerance, unit, boundary, frame, void, spacing, axes
) -> PrecisionRecall:
    """Boundary within `tolerance` of the other map's, and in all, of both maps, per image and class; checks all."""
    *maps, num_classes, ignore_index, spacing = _labels.check_pair(
        function, prediction, target, num_classes, ignore_index, axes, spacing
    )
    tolerance = length(function, "tolerance", tolerance, unit, maps[0].shape[-len(spacing) :], spacing)
    which = rule(function, num_classes, ignore_index, spacing, void, boundary, frame)
    return _matched(*maps, which, tolerance)


@partial(jax.jit, static_argnums=(2, 3))
def _matched(prediction, target, which: Rule, tolerance: float) -> PrecisionRecall:
    def images(prediction, target):
        both = matches(prediction, target, which, tolerance)
        total = partial(Elements.total, num_classes=which.num_classes)
        return PrecisionRecall(*(Ratio(total(x, where=near), total(x)) for x, near in both))

    return _labels.over_images(images, len(which.spacing), which.num_classes, prediction, target)
