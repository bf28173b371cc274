"""Boundary metrics of label maps: Boundary IoU and boundary F1."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from upsampling import _checks
from upsampling.metrics import labels
from upsampling.metrics.distance import squared_distance
from upsampling.metrics.sums import PrecisionRecall, Ratio

_UNITS = ("diagonal", "pixels")


def boundary_iou(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    width: float = 0.02,
    unit: str = "diagonal",
) -> jax.Array:
    """Boundary IoU (Cheng et al. 2021): the IoU of the inner bands along the boundaries, per image and class.

    The band of a class is what an erosion of its mask by a 3x3 square, iterated d times after a zero pad, takes away:
    its pixels within chessboard distance d of another class or of the image's edge. d = round(width x diagonal), at
    least 1, as in the authors' code; or `width` pixels.

    Args:
      prediction: `(*batch, H, W)` integer labels, 0 to num_classes - 1.
      target: the same shape; may also hold `ignore_index`.
      num_classes: number of classes (static).
      ignore_index: label of the target whose pixels are void (static). They belong to no class in either map.
      width: band width, in `unit` (static).
      unit: "diagonal", a fraction of the image's diagonal, or "pixels" (static).

    Returns:
      `(*batch, num_classes)` float: |Pd ∩ Td| / |Pd ∪ Td|. NaN where a class is in neither map, 0 where in one only.

    Raises:
      TypeError: labels that are not integers (logits).
      ValueError: shapes that differ, labels out of range, a width that is not one. Inside jit labels cannot be read,
        and a pixel whose label is out of range belongs to no class.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> boundary_iou(jnp.roll(target, 1, axis=1), target, num_classes=2, width=1, unit="pixels")
    Array([0.7307692 , 0.33333334], dtype=float32)
    """
    return _boundary_iou("boundary_iou", prediction, target, num_classes, ignore_index, width, unit).value()


def boundary_iou_sums(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    width: float = 0.02,
    unit: str = "diagonal",
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
    return _total(_boundary_iou("boundary_iou_sums", prediction, target, num_classes, ignore_index, width, unit))


def boundary_f1(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    tolerance: float = 1,
    unit: str = "pixels",
) -> jax.Array:
    """Boundary F1, the BF score (Csurka et al. 2013), per image and class.

    Precision is the share of the predicted boundary pixels within a Euclidean distance `tolerance` (inclusive) of a
    true boundary pixel of the class; recall the share of the true ones within it of a predicted one; F1 = 2 P R / (P +
    R). A class's boundary is those of its pixels that have a pixel of another class above, below, left or right of
    them. The image's edge is no boundary.

    Args:
      prediction: `(*batch, H, W)` integer labels, 0 to num_classes - 1.
      target: the same shape; may also hold `ignore_index`.
      num_classes: number of classes (static).
      ignore_index: label of the target whose pixels are void (static). They belong to no class in either map.
      tolerance: distance, in `unit` (static).
      unit: "pixels", or "diagonal", a fraction of the image's diagonal (static).

    Returns:
      `(*batch, num_classes)` float. NaN where a class has a boundary in neither map, 0 where in one only.

    Raises:
      TypeError: labels that are not integers (logits).
      ValueError: shapes that differ, labels out of range, a negative tolerance. Inside jit labels cannot be read, and a
        pixel whose label is out of range belongs to no class.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> boundary_f1(jnp.roll(target, 2, axis=1), target, num_classes=2, tolerance=1)
    Array([0.57142854, 0.72727275], dtype=float32)
    """
    return _boundary_f1("boundary_f1", prediction, target, num_classes, ignore_index, tolerance, unit).value()


def boundary_f1_sums(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    tolerance: float = 1,
    unit: str = "pixels",
) -> PrecisionRecall:
    """What a batch contributes to a data set's boundary F1: boundary pixels matched and in all, of both maps.

    Arguments and errors as in `boundary_f1`. The value is the F1 of all boundary pixels together; Csurka et al. take
    the mean over images instead, which is `image_mean(boundary_f1(...))`.

    Returns:
      `PrecisionRecall` of `(num_classes,)` counts, summed over the batch. Add them up, then `.value()`.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> boundary_f1_sums(target[None], target[None], num_classes=2).value()
    Array([1., 1.], dtype=float32)
    """
    sums = _boundary_f1("boundary_f1_sums", prediction, target, num_classes, ignore_index, tolerance, unit)
    return _total(sums)


def _total(sums: Any) -> Any:
    """Sums over all axes but the last, that of classes."""
    return jax.tree.map(lambda x: x.sum(tuple(range(x.ndim - 1))), sums)


def _length(function: str, argument: str, value: Any, unit: str, shape: tuple[int, ...], minimum: float) -> float:
    """A length in pixels, from pixels or from a fraction of the diagonal."""
    _checks.one_of(function, "unit", unit, _UNITS)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{function}: {argument} must be a Python number; got {value!r}.")
    if not math.isfinite(value) or value < minimum:
        raise ValueError(f"{function}: {argument} must be finite and at least {minimum}; got {value!r}.")
    if unit == "pixels":
        return value
    if value > 1:
        raise ValueError(
            f'{function}: {argument}={value!r} is a fraction of the diagonal, at most 1. For pixels give unit="pixels".'
        )
    return value * math.hypot(*shape)


def _boundary_iou(function, prediction, target, num_classes, ignore_index, width, unit) -> Ratio:
    prediction, target, num_classes, ignore_index, _ = labels.check_pair(
        function, prediction, target, num_classes, ignore_index
    )
    width = _length(function, "width", width, unit, target.shape[-2:], minimum=0)
    if unit == "pixels" and (width != int(width) or width < 1):
        raise ValueError(f"{function}: width in pixels must be whole and at least 1; got {width!r}.")
    return _boundary_iou_counts(prediction, target, num_classes, ignore_index, max(1, round(width)))


@partial(jax.jit, static_argnums=(2, 3, 4))
def _boundary_iou_counts(prediction, target, num_classes, ignore_index, width):
    def images(prediction, target):
        prediction, target = _known(prediction, target, num_classes, ignore_index)
        predicted, true = (_near_another_label(x, width) for x in (prediction, target))
        both = labels.count_labels(target, predicted & true & (prediction == target), num_classes)
        sizes = (labels.count_labels(*band, num_classes) for band in ((prediction, predicted), (target, true)))
        return Ratio(both, sum(sizes) - both)

    return labels.over_images(images, 2, 1, prediction, target)


def _known(prediction, target, num_classes, ignore_index):
    """Both maps with -1 for what belongs to no class: void pixels, and labels out of range."""
    void = jnp.zeros(target.shape, bool) if ignore_index is None else target == ignore_index
    return (jnp.where(void | (x < 0) | (x >= num_classes), -1, x) for x in (prediction, target))


def _near_another_label(x: jax.Array, width: int) -> jax.Array:
    """Whether a square of 2 width + 1 pixels holds another label or lies partly outside: every class's band at once."""
    lowest, highest = x, x
    for axis in (1, 2):
        window, edges = [1] * x.ndim, [(0, 0)] * x.ndim
        window[axis], edges[axis] = 2 * width + 1, (width, width)
        # Outside the image is a label of its own, -2, which none inside has.
        lowest, highest = (jnp.pad(y, edges, constant_values=-2) for y in (lowest, highest))
        lowest = lax.reduce_window(lowest, jnp.iinfo(x.dtype).max, lax.min, window, (1,) * x.ndim, "VALID")
        highest = lax.reduce_window(highest, jnp.iinfo(x.dtype).min, lax.max, window, (1,) * x.ndim, "VALID")
    return lowest != highest


def _boundary_f1(function, prediction, target, num_classes, ignore_index, tolerance, unit) -> PrecisionRecall:
    prediction, target, num_classes, ignore_index, _ = labels.check_pair(
        function, prediction, target, num_classes, ignore_index
    )
    tolerance = _length(function, "tolerance", tolerance, unit, target.shape[-2:], minimum=0)
    return _boundary_f1_counts(prediction, target, num_classes, ignore_index, float(tolerance))


@partial(jax.jit, static_argnums=(2, 3, 4))
def _boundary_f1_counts(prediction, target, num_classes, ignore_index, tolerance):
    classes = jnp.arange(num_classes)[:, None, None]

    def images(prediction, target):
        maps = _known(prediction, target, num_classes, ignore_index)
        predicted, true = ((x[:, None] == classes) & _beside_another_label(x)[:, None] for x in maps)
        return PrecisionRecall(_matched(predicted, true, tolerance), _matched(true, predicted, tolerance))

    return labels.over_images(images, 2, num_classes, prediction, target)


def _beside_another_label(x: jax.Array) -> jax.Array:
    """Whether one of the four neighbours has another label. Beyond the image there is none."""
    differs = jnp.zeros(x.shape, bool)
    for axis in (1, 2):
        step = jnp.diff(x, axis=axis) != 0
        edges = [(0, 0)] * x.ndim
        for side in ((1, 0), (0, 1)):
            edges[axis] = side
            differs |= jnp.pad(step, edges)
    return differs


def _matched(these: jax.Array, those: jax.Array, tolerance: float) -> Ratio:
    """How many of these pixels are within `tolerance` of one of those, and how many there are, per image and class."""
    squared = squared_distance(those, (1.0, 1.0), limit=tolerance, needed=these)
    matched = these & (squared <= tolerance**2)
    return Ratio(*(jnp.sum(x, axis=(-2, -1), dtype=jnp.int32) for x in (matched, these)))
