"""Errors near the true boundary: the trimap IoU, and the error rate as a function of the distance from it."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from upsampling.metrics import _labels, confusion
from upsampling.metrics._surfaces import Rule, diagonal, encode, length, rule, touches_another
from upsampling.metrics.accumulators import Ratio
from upsampling.metrics.distance_transform import squared_distance


def trimap_iou(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    width: float | Sequence[float] = 3,
    unit: str = "pixels",
    void: str = "background",
    spacing: Any = None,
    axes: int | tuple[int, ...] | None = None,
) -> jax.Array:
    """IoU of the pixels in a band along the true boundary (Kohli et al. 2009), by band width, per image and class.

    The band holds the pixels of either side that are less than `width` from a pixel that touches the true boundary, in
    Euclidean distance. So a band of width 1 is the pixels that touch it, and one of width w is w pixels on each side.
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
      axes: the spatial axes, 1 to 3 of them (static); the last ones if None, as many as `spacing` has, or two.

    Returns:
      `(*batch, num_classes)` float, or `(*batch, widths, num_classes)` for several widths. NaN where a class is in the
      band of neither map, 0 where in one only.

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
    return confusion.iou_of(matrix, ignore_index)


def trimap_confusion_matrix(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    width: float | Sequence[float] = 3,
    unit: str = "pixels",
    void: str = "background",
    spacing: Any = None,
    axes: int | tuple[int, ...] | None = None,
) -> jax.Array:
    """`confusion_matrix` of the pixels in a band along the true boundary: what `trimap_iou` streams by.

    Sum it over the batch axes, add over batches, and take `iou_of`, or `pixel_accuracy_of` for the share of pixels that
    Kohli et al. plot.

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
    *maps, num_classes, ignore_index, spacing = _labels.check_pair(
        function, prediction, target, num_classes, ignore_index, axes, spacing
    )
    widths = _lengths(function, "width", width, unit, maps[0].shape[-len(spacing) :], spacing)
    if not widths or min(widths) <= 0:
        raise ValueError(f"{function}: width must be above 0; got {width!r}.")
    which = rule(function, num_classes, ignore_index, spacing, void)
    matrix = _trimap_confusion_matrix(*maps, which, widths)
    return matrix if isinstance(width, Sequence) else matrix[..., 0, :, :]


def _lengths(
    function: str, argument: str, given: Any, unit: str, shape: tuple[int, ...], spacing: tuple[float, ...]
) -> tuple[float, ...]:
    given = given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    return tuple(length(function, argument, value, unit, shape, spacing) for value in given)


@partial(jax.jit, static_argnums=(2, 3))
def _trimap_confusion_matrix(prediction, target, which: Rule, widths: tuple[float, ...]) -> jax.Array:
    num_classes, beyond = which.num_classes, _beyond(target, which)

    def images(prediction, target):
        squared = _squared_from_boundary(prediction, target, which, max(widths))
        pair, known = confusion.pairs(prediction, target, num_classes, which.ignore_index)
        bands = (known & (squared < min(width, beyond) ** 2) for width in widths)
        counts = [_labels.count_labels(pair, band, num_classes**2) for band in bands]
        return jnp.stack(counts, axis=1).reshape(-1, len(widths), num_classes, num_classes)

    return _labels.over_images(images, len(which.spacing), 1, prediction, target)


def _beyond(target: jax.Array, which: Rule) -> float:
    """Farther than any pixel is from another; its square fits 32 bits, as that of a given length might not."""
    return 2 * diagonal(target.shape[-len(which.spacing) :], which.spacing)


def _squared_from_boundary(prediction, target, which: Rule, limit: float) -> jax.Array:
    """Squared distance of every pixel to the nearest one that touches the true boundary."""
    _, true, _ = encode(prediction, target, which)
    return squared_distance(touches_another(true, frame=False), which.spacing, limit)


DISTANCES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, float("inf"))


def error_by_distance(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    distances: Sequence[float] = DISTANCES,
    unit: str = "pixels",
    void: str = "background",
    spacing: Any = None,
    axes: int | tuple[int, ...] | None = None,
) -> jax.Array:
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
      axes: the spatial axes, 1 to 3 of them (static); the last ones if None, as many as `spacing` has, or two.

    Returns:
      `(*batch, len(distances) - 1, num_classes)` float; NaN where a bin holds no pixel of a class. Images without any
      boundary are infinitely far from one, and count in a last bin that is open.

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
    chosen = distances, unit, void, spacing, axes
    return _error_by_distance("error_by_distance", prediction, target, num_classes, ignore_index, *chosen).value()


def error_by_distance_sums(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    distances: Sequence[float] = DISTANCES,
    unit: str = "pixels",
    void: str = "background",
    spacing: Any = None,
    axes: int | tuple[int, ...] | None = None,
) -> Ratio:
    """What a batch contributes to a data set's `error_by_distance`: wrong pixels, and pixels, per bin and class.

    Arguments and errors as in `error_by_distance`.

    Returns:
      `Ratio` of `(len(distances) - 1, num_classes)` counts, summed over the batch. Add them up, then `.value()`. The
      curve over all classes is numerator.sum(-1) / denominator.sum(-1).

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> error_by_distance_sums(1 - target, target, num_classes=2, distances=(0, 1)).value()
    Array([[1., 1.]], dtype=float32)
    """
    chosen = distances, unit, void, spacing, axes
    sums = _error_by_distance("error_by_distance_sums", prediction, target, num_classes, ignore_index, *chosen)
    return jax.tree.map(lambda x: x.sum(tuple(range(x.ndim - 2))), sums)


def _error_by_distance(
    function, prediction, target, num_classes, ignore_index, distances, unit, void, spacing, axes
) -> Ratio:
    *maps, num_classes, ignore_index, spacing = _labels.check_pair(
        function, prediction, target, num_classes, ignore_index, axes, spacing
    )
    if not isinstance(distances, Sequence) or isinstance(distances, str):
        raise TypeError(f"{function}: distances must be a sequence of numbers; got {distances!r}.")
    *edges, last = distances if len(distances) else (None,)
    shape = maps[0].shape[-len(spacing) :]
    finite = edges if last == float("inf") else distances
    bins = _lengths(function, "distances", finite, unit, shape, spacing)
    bins += () if len(bins) == len(distances) else (float("inf"),)
    if len(bins) < 2 or any(a >= b for a, b in itertools.pairwise(bins)):
        raise ValueError(f"{function}: distances must be at least 2 and increase; got {distances!r}.")
    which = rule(function, num_classes, ignore_index, spacing, void)
    return _errors(*maps, which, bins)


@partial(jax.jit, static_argnums=(2, 3))
def _errors(prediction, target, which: Rule, bins: tuple[float, ...]) -> Ratio:
    num_classes, count = which.num_classes, len(bins) - 1

    def images(prediction, target):
        squared = _squared_from_boundary(prediction, target, which, bins[-1])
        edges = jnp.asarray(np.square(np.minimum(bins, _beyond(target, which))), squared.dtype)
        band = jnp.sum(squared[..., None] >= edges, axis=-1) - 1
        # Infinitely far is beyond the open last bin's start, and must not be beyond its end.
        band = jnp.where(jnp.isinf(squared) & np.isinf(bins[-1]), count - 1, band)
        known = (target >= 0) & (target < num_classes) & (band >= 0) & (band < count)
        if which.ignore_index is not None:
            known &= target != which.ignore_index
        slot = jnp.where(known, band * num_classes + target, 0)
        wrong, pixels = (
            _labels.count_labels(slot, where, count * num_classes).reshape(-1, count, num_classes)
            for where in (known & (prediction != target), known)
        )
        return Ratio(wrong, pixels)

    return _labels.over_images(images, len(which.spacing), 1, prediction, target)
