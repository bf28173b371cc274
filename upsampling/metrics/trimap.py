"""Errors near the true boundary: the trimap IoU, and the error rate as a function of the distance from it."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from upsampling.metrics import _labels, _surfaces, confusion
from upsampling.metrics._labels import Axes, LabelMap, Spacing
from upsampling.metrics._surfaces import BoundaryDefinition, Unit, Void
from upsampling.metrics.accumulators import ConfusionCounts, Ratio, check_absent, metric
from upsampling.metrics.distance_transform import squared_distance
from upsampling.primitives._common import core, with_axes


@metric
def trimap_iou(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    width: float | Sequence[float] = 3,
    unit: Unit = "pixels",
    void: Void = "background",
    spacing: Spacing | None = None,
    absent: float = math.nan,
    axes: Axes | None = None,
) -> ConfusionCounts:
    """IoU of the pixels in a trimap, those near the true boundary (Kohli et al. 2009), by width, per image and class.

    The trimap holds the pixels on both sides that are less than `width` from a pixel that touches the true boundary, in
    Euclidean distance. So a trimap of width 1 is the pixels that touch it, and one of width w is w pixels on each side.
    A pixel touches the boundary if it shares a side with a pixel of another class.

    Args:
      prediction: `(*batch, H, W)` integer labels, 0 to num_classes - 1.
      target: the same shape; may also hold `ignore_index`.
      num_classes: number of classes (static).
      ignore_index: label of the target whose pixels are not counted (static).
      width: one width or several, in `unit` (static).
      unit: "pixels" (or what `spacing` is in), or "diagonal", a fraction of the image's diagonal (static).
      void: whether pixels beside void touch a boundary (static): they do for "background" and "uncounted", they do not
        for "neutral".
      spacing: size of a pixel, one number or one per axis (static).
      absent: the value of a class that is in the trimap in neither map, NaN or a number (static).
      axes: the spatial axes, 1 to 3 of them (static); the last ones if None, as many as `spacing` has, or two.

    Returns:
      `(*batch, num_classes)` float, or `(*batch, widths, num_classes)` for several widths. `absent` where a class is in
      the trimap in neither map, 0 where in one only. `trimap_iou.accumulate` gives the confusion matrix of the batch's
      trimaps: add up over batches, then `.compute()`, or take `pixel_accuracy_of` its `.matrix` for the share of pixels
      that Kohli et al. plot.

    Raises:
      TypeError: labels that are not integers (logits); arguments of the wrong type.
      ValueError: shapes that differ, labels out of range, a width that is not above 0, unknown names. Inside jit labels
        cannot be read, and a pixel whose label is out of range is not counted.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> trimap_iou(jnp.roll(target, 1, axis=1), target, num_classes=2, width=(1, 9))
    Array([[0.6       , 0.5       ],
           [0.84615386, 0.6       ]], dtype=float32)
    """
    chosen = width, unit, void, spacing, axes
    matrix = _trimap("trimap_iou", prediction, target, num_classes, ignore_index, *chosen)
    kept_axes, value = 3 if isinstance(width, Sequence) else 2, check_absent("trimap_iou", absent)
    return ConfusionCounts(matrix, confusion.iou_of, ignore_index, kept_axes, value)


def trimap_confusion_matrix(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    width: float | Sequence[float] = 3,
    unit: Unit = "pixels",
    void: Void = "background",
    spacing: Spacing | None = None,
    axes: Axes | None = None,
) -> jax.Array:
    """`confusion_matrix` of the pixels in a trimap, those near the true boundary.

    Arguments and errors as in `trimap_iou`.

    Returns:
      `(*batch, num_classes, num_classes)` int32 pixel counts, rows target, columns prediction; or `(*batch, widths,
      num_classes, num_classes)` for several widths.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> trimap_confusion_matrix(jnp.roll(target, 1, axis=1), target, num_classes=2, width=1)
    Array([[12,  4],
           [ 4,  8]], dtype=int32)
    """
    chosen = width, unit, void, spacing, axes
    return _trimap("trimap_confusion_matrix", prediction, target, num_classes, ignore_index, *chosen)


def _trimap(function, prediction, target, num_classes, ignore_index, width, unit, void, spacing, axes) -> jax.Array:
    prediction, target, definition = _surfaces.checked(
        function, prediction, target, num_classes, ignore_index, spacing, axes, void
    )
    widths = _lengths(function, "width", width, unit, target.shape, definition.spacing)
    if not widths or min(widths) <= 0:
        raise ValueError(f"{function}: width must be above 0; got {width!r}.")
    matrix = _trimap_confusion_matrix(prediction, target, definition, widths)
    return matrix if isinstance(width, Sequence) else matrix[..., 0, :, :]


def _lengths(
    function: str,
    argument: str,
    given: float | Sequence[float],
    unit: Unit,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
) -> tuple[float, ...]:
    values = given if isinstance(given, Sequence) else (given,)
    return tuple(_surfaces.length(function, argument, value, unit, shape, spacing) for value in values)


@core((2, 3), inline=False)
def _trimap_confusion_matrix(
    prediction, target, definition: BoundaryDefinition, widths: tuple[float, ...]
) -> jax.Array:
    num_classes, beyond = definition.num_classes, _beyond(target, definition)

    def images(prediction, target):
        squared = _squared_from_boundary(prediction, target, definition, max(widths))
        pair, known = confusion.pairs(prediction, target, num_classes, definition.ignore_index)
        trimaps = (known & (squared < min(width, beyond) ** 2) for width in widths)
        counts = [_labels.count_labels(pair, trimap, num_classes**2) for trimap in trimaps]
        return jnp.stack(counts, axis=1).reshape(-1, len(widths), num_classes, num_classes)

    return _labels.over_images(images, len(definition.spacing), 1, prediction, target)


def _beyond(target: jax.Array, definition: BoundaryDefinition) -> float:
    """Farther than any pixel is from another; its square fits 32 bits, as that of a given length might not."""
    return 2 * _surfaces.diagonal(target.shape, definition.spacing)


def _squared_from_boundary(prediction, target, definition: BoundaryDefinition, limit: float) -> jax.Array:
    """Squared distance of every pixel to the nearest one that touches the true boundary."""
    _, true, _ = _surfaces.encode(prediction, target, definition)
    return squared_distance(_surfaces.touches_another(true, frame=False), definition.spacing, limit)


DISTANCES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, float("inf"))


@metric
def error_by_distance(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    distances: Sequence[float] = DISTANCES,
    unit: Unit = "pixels",
    void: Void = "background",
    spacing: Spacing | None = None,
    absent: float = math.nan,
    axes: Axes | None = None,
) -> Ratio:
    """Error rate as a function of the distance from the true boundary, per image and class.

    The share of a class's true pixels with another label, among those whose distance to the nearest pixel that touches
    the true boundary is in [distances[k], distances[k + 1]). Pixels that touch it have distance 0: see `trimap_iou`.

    Args:
      prediction: `(*batch, H, W)` integer labels, 0 to num_classes - 1.
      target: the same shape; may also hold `ignore_index`.
      num_classes: number of classes (static).
      ignore_index: label of the target whose pixels are not counted (static).
      distances: the edges of the bins, increasing, in `unit`; the last may be infinity (static).
      unit: "pixels" (or what `spacing` is in), or "diagonal", fractions of the image's diagonal (static).
      void: as in `trimap_iou` (static).
      spacing: size of a pixel, one number or one per axis (static).
      absent: the value of a bin that holds no pixel of a class, NaN or a number (static).
      axes: the spatial axes, 1 to 3 of them (static); the last ones if None, as many as `spacing` has, or two.

    Returns:
      `(*batch, len(distances) - 1, num_classes)` float; `absent` where a bin holds no pixel of a class. Images without
      any boundary are infinitely far from one, and count in a last bin that is open. `error_by_distance.accumulate`
      gives wrong pixels and pixels, summed over the batch, as a `Ratio`; the curve over all classes is
      numerator.sum(-1) / denominator.sum(-1).

    Raises:
      TypeError: labels that are not integers (logits); arguments of the wrong type.
      ValueError: shapes that differ, labels out of range, distances that do not increase, unknown names. Inside jit
        labels cannot be read; a pixel whose label is out of range is not counted in the target, and is an error in the
        prediction.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> error_by_distance(jnp.roll(target, 1, axis=1), target, num_classes=2, distances=(0, 1, float("inf")))
    Array([[0.25      , 0.33333334],
           [0.        , 0.        ]], dtype=float32)
    """
    name = "error_by_distance"
    prediction, target, definition = _surfaces.checked(
        name, prediction, target, num_classes, ignore_index, spacing, axes, void
    )
    if not isinstance(distances, Sequence) or isinstance(distances, str):
        raise TypeError(f"{name}: distances must be a sequence of numbers; got {distances!r}.")
    is_open = len(distances) > 0 and distances[-1] == float("inf")
    bins = _lengths(name, "distances", distances[:-1] if is_open else distances, unit, target.shape, definition.spacing)
    bins += (float("inf"),) if is_open else ()
    if len(bins) < 2 or any(a >= b for a, b in itertools.pairwise(bins)):
        raise ValueError(f"{name}: distances must be at least 2 and increase; got {distances!r}.")
    ratio = _error_by_distance(prediction, target, definition, bins)
    return dataclasses.replace(ratio, absent=check_absent(name, absent))


@core((2, 3), inline=False)
def _error_by_distance(prediction, target, definition: BoundaryDefinition, bins: tuple[float, ...]) -> Ratio:
    num_classes, count = definition.num_classes, len(bins) - 1

    def images(prediction, target):
        squared = _squared_from_boundary(prediction, target, definition, bins[-1])
        edges = jnp.asarray(np.square(np.minimum(bins, _beyond(target, definition))), squared.dtype)
        place = jnp.sum(squared[..., None] >= with_axes(edges, squared.ndim + 1), axis=-1, dtype=jnp.int32) - 1
        # Infinitely far is beyond the open last bin's start, and must not be beyond its end.
        place = jnp.where(jnp.isinf(squared) & np.isinf(bins[-1]), count - 1, place)
        known = (target >= 0) & (target < num_classes) & (place >= 0) & (place < count)
        if definition.ignore_index is not None:
            known &= target != definition.ignore_index
        slot = jnp.where(known, place * num_classes + target, 0)
        wrong, pixels = (
            _labels.count_labels(slot, where, count * num_classes).reshape(-1, count, num_classes)
            for where in (known & (prediction != target), known)
        )
        return Ratio(wrong, pixels, kept_axes=2)

    return _labels.over_images(images, len(definition.spacing), 1, prediction, target)
