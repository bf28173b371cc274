"""How far the boundaries of label maps lie apart: Hausdorff, average surface distance, normalized surface Dice."""

import math
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from upsampling import _arguments
from upsampling.metrics import _labels
from upsampling.metrics._percentiles import percentile as percentile_of_classes
from upsampling.metrics._surfaces import Elements, Rule, diagonal, distances, rule
from upsampling.metrics.accumulators import PrecisionRecall, Ratio
from upsampling.metrics.boundaries import matched

_MISSING = ("infinity", "diagonal", "nan")
_PERCENTILES = ("larger", "union")
_INTERPOLATIONS = ("linear", "step")
_AVERAGES = ("pooled", "mean", "prediction", "target")


def hausdorff_distance(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    percentile: float = 100,
    percentile_of: str = "larger",
    interpolation: str | None = None,
    missing: str = "infinity",
    boundary: str = "inside",
    frame: bool = True,
    void: str = "background",
    spacing: Any = None,
    axes: int | tuple[int, ...] | None = None,
) -> jax.Array:
    """Hausdorff distance of the boundaries, or a percentile of it (HD95), per image and class.

    The largest distance from a point of one boundary to the nearest point of the other, of both directions.

    Args:
      prediction: `(*batch, H, W)` integer labels, 0 to num_classes - 1.
      target: the same shape; may also hold `ignore_index`.
      num_classes: number of classes (static).
      ignore_index: label of the target whose pixels are void (static).
      percentile: of the distances, 0 to 100, instead of the largest (static).
      percentile_of: "larger", the larger of the two directions' percentiles (surface-distance, MONAI), or "union", the
        percentile of both directions' distances together (MedPy's hd95) (static).
      interpolation: "linear", between the two nearest distances (numpy, MedPy, MONAI), or "step", the least distance
        that at least so many percent of the boundary do not exceed (surface-distance). None is "step" for
        `boundary="elements"`, where linear has no meaning, and "linear" otherwise (static).
      missing: the distance if a class has a boundary in one map only: "infinity", "diagonal" (of the image, in the
        unit of `spacing`) or "nan" (static).
      boundary: what the boundary of a class is (static), see `upsampling.metrics`: "inside", its pixels that share a
        side with a pixel that is not; "between", the points between pixels where four meet of which some are inside;
        "elements", these points, weighted by the length of the boundary there.
      frame: whether a class that touches the image's frame has a boundary there (static).
      void: what void pixels do (static). "background": they belong to no class in either map, and boundaries run along
        them. "neutral": the same, but no boundaries run along them. "uncounted": boundaries are what they are in both
        maps, and distances from void pixels are left out.
      spacing: size of a pixel, one number or one per axis (static). Distances are in its unit; pixels if None.
      axes: the spatial axes, 1 to 3 of them (static); the last ones if None, as many as `spacing` has, or two.

    Returns:
      `(*batch, num_classes)` float. NaN where a class has a boundary in neither map. A data set's figure is the mean
      over images: `image_mean(hausdorff_distance(...))` streams it.

    Raises:
      TypeError: labels that are not integers (logits); arguments of the wrong type.
      ValueError: shapes that differ, labels out of range, a percentile that is not one, unknown names. Inside jit
        labels cannot be read, and a pixel whose label is out of range belongs to no class.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> hausdorff_distance(jnp.roll(target, 2, axis=1), target, num_classes=3)
    Array([ 2.,  2., nan], dtype=float32)
    """
    name = "hausdorff_distance"
    _arguments.one_of(name, "percentile_of", percentile_of, _PERCENTILES)
    _arguments.one_of(name, "missing", missing, _MISSING)
    if interpolation is None:
        interpolation = "step" if boundary == "elements" else "linear"
    _arguments.one_of(name, "interpolation", interpolation, _INTERPOLATIONS)
    if isinstance(percentile, bool) or not isinstance(percentile, (int, float)):
        raise TypeError(f"{name}: percentile must be a Python number; got {percentile!r}.")
    if not 0 <= percentile <= 100:
        raise ValueError(f"{name}: percentile must be from 0 to 100; got {percentile!r}.")
    *maps, num_classes, ignore_index, spacing = _labels.check_pair(
        name, prediction, target, num_classes, ignore_index, axes, spacing
    )
    which = rule(name, num_classes, ignore_index, spacing, void, boundary, frame)
    if boundary == "elements" and interpolation == "linear":
        raise ValueError(f'{name}: interpolation="linear" has no meaning for weighted boundary="elements".')
    value = _hausdorff_distance(*maps, which, float(percentile), percentile_of == "union", interpolation == "linear")
    return jnp.where(jnp.isinf(value), _distance_if_missing(missing, maps[1].shape, which), value)


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _hausdorff_distance(prediction, target, which: Rule, percent: float, union: bool, linear: bool) -> jax.Array:
    def images(prediction, target):
        both = [_Flat.of(*x, rank=len(which.spacing)) for x in distances(prediction, target, which)]
        if percent == 100:
            return jnp.fmax(*(_farthest(x, which.num_classes) for x in both))
        if union:
            both = [jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *both)]
        each = [
            percentile_of_classes(jnp.sqrt(x.squared), x.slot, x.size, which.num_classes, percent, linear) for x in both
        ]
        return jnp.fmax(each[0], each[-1])

    return _labels.over_images(images, len(which.spacing), which.num_classes, prediction, target)


class _Flat(NamedTuple):
    """Squared distances, classes and sizes of elements, all `(images, elements)`."""

    squared: jax.Array
    slot: jax.Array
    size: jax.Array | None

    @classmethod
    def of(cls, x: Elements, squared: jax.Array, rank: int) -> Self:
        slot, size = x
        if slot.ndim == 4 and slot.shape[1] > 2**rank:  # points between pixels, of many classes
            slot, squared, size = _classes_that_meet(slot, squared, size, 2**rank)
        squared, slot = (part.reshape(part.shape[0], -1) for part in (squared, slot))
        return cls(squared, slot, None if size is None else size.reshape(slot.shape))


def _classes_that_meet(slot: jax.Array, squared: jax.Array, size: jax.Array | None, most: int) -> tuple:
    """The same elements with an axis of `most` places instead of all classes: no more of them meet in a point."""
    none, found = slot.shape[1], []
    place = jnp.full_like(slot[:, :1], -1)
    for _ in range(most):
        place = jnp.min(jnp.where(slot > place, slot, none), axis=1, keepdims=True)
        here = slot == place
        of_place = (jnp.max(jnp.where(here, x, 0), axis=1, keepdims=True) for x in (squared, size) if x is not None)
        found.append((place, *of_place))
    slot, squared, *sizes = (jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    return slot, squared, sizes[0] if sizes else None


def _farthest(x: _Flat, num_classes: int) -> jax.Array:
    """The largest distance per image and class; NaN without a boundary."""
    largest = jnp.full((x.squared.shape[0], num_classes + 1), -1, x.squared.dtype)
    largest = largest.at[jnp.arange(x.squared.shape[0])[:, None], x.slot].max(x.squared)[:, :-1]
    return jnp.where(largest < 0, jnp.nan, jnp.sqrt(jnp.abs(largest)))


def _distance_if_missing(missing: str, shape: tuple[int, ...], which: Rule) -> float:
    """The distance of a class that one map only has."""
    across = diagonal(shape[-len(which.spacing) :], which.spacing)
    return {"infinity": math.inf, "diagonal": across, "nan": math.nan}[missing]


def average_surface_distance(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    average: str = "pooled",
    missing: str = "infinity",
    boundary: str = "inside",
    frame: bool = True,
    void: str = "background",
    spacing: Any = None,
    axes: int | tuple[int, ...] | None = None,
) -> jax.Array:
    """Average symmetric surface distance (ASSD) of the boundaries, per image and class.

    Args:
      average: over what (static). "pooled": the distances of both directions together (Heimann et al. 2009; MONAI with
        symmetric=True; MedPy's assd since 0.5). "mean": the mean of the two directions' averages (MedPy's assd before).
        "prediction" or "target": the distances from that map's boundary to the other's (the two figures of
        surface-distance; MedPy's asd and MONAI with symmetric=False are "prediction").
      The others: as in `hausdorff_distance`. With `boundary="elements"` the averages are weighted by size.

    Returns:
      `(*batch, num_classes)` float, in the unit of `spacing`. NaN where a class has a boundary in neither map; for
      one map only see `missing`.

    Raises:
      As `hausdorff_distance`.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> average_surface_distance(jnp.roll(target, 2, axis=1), target, num_classes=2)[1]
    Array(1., dtype=float32)
    """
    chosen = average, missing, boundary, frame, void, spacing, axes
    predicted, true, far = _sums("average_surface_distance", prediction, target, num_classes, ignore_index, *chosen)
    both = (predicted.value() + true.value()) / 2
    value = both if average == "mean" else _choose(average, predicted, true).value()
    in_one_map = (predicted.denominator > 0) != (true.denominator > 0)
    return jnp.where(in_one_map, far, value)


def average_surface_distance_sums(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    average: str = "pooled",
    missing: str = "infinity",
    boundary: str = "inside",
    frame: bool = True,
    void: str = "background",
    spacing: Any = None,
    axes: int | tuple[int, ...] | None = None,
) -> Ratio:
    """What a batch contributes to a data set's `average_surface_distance`: distances summed, and boundary in all.

    Arguments and errors as in `average_surface_distance`. `average="mean"` is no ratio of sums; take
    `image_mean(average_surface_distance(...))` for the mean over images. `missing="nan"` leaves out the images where
    the class is in one map only; otherwise every boundary element of such an image has that distance.

    Returns:
      `Ratio` of `(num_classes,)` sums over the batch. Add them up, then `.value()`.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> average_surface_distance_sums(jnp.roll(target, 2, axis=1)[None], target[None], num_classes=2).value()[1]
    Array(1., dtype=float32)
    """
    name = "average_surface_distance_sums"
    if average == "mean":
        raise ValueError(
            f'{name}: average="mean" is not a ratio of sums. Take image_mean(average_surface_distance(...)), '
            "or another average: 'pooled', 'prediction', 'target'."
        )
    chosen = average, missing, boundary, frame, void, spacing, axes
    predicted, true, _ = _sums(name, prediction, target, num_classes, ignore_index, *chosen)
    sums = _choose(average, predicted, true)
    if missing == "nan":
        known = jnp.isfinite(sums.numerator)
        sums = Ratio(jnp.where(known, sums.numerator, 0), jnp.where(known, sums.denominator, 0))
    return sums.total()


def _choose(average: str, predicted: Ratio, true: Ratio) -> Ratio:
    if average == "pooled":
        return Ratio(predicted.numerator + true.numerator, predicted.denominator + true.denominator)
    return predicted if average == "prediction" else true


def _sums(
    function, prediction, target, num_classes, ignore_index, average, missing, boundary, frame, void, spacing, axes
) -> tuple[Ratio, Ratio, float]:
    _arguments.one_of(function, "average", average, _AVERAGES)
    _arguments.one_of(function, "missing", missing, _MISSING)
    *maps, num_classes, ignore_index, spacing = _labels.check_pair(
        function, prediction, target, num_classes, ignore_index, axes, spacing
    )
    which = rule(function, num_classes, ignore_index, spacing, void, boundary, frame)
    far = _distance_if_missing(missing, maps[1].shape, which)
    return *_summed_distances(*maps, which, math.inf if missing == "nan" else far), far


@partial(jax.jit, static_argnums=2)
def _summed_distances(prediction, target, which: Rule, far: float) -> tuple[Ratio, Ratio]:
    """Distances summed, and boundary, of the predicted and the true one; `far` stands for what is infinitely far."""

    def images(prediction, target):
        return tuple(summed(*x) for x in distances(prediction, target, which))

    def summed(x: Elements, squared: jax.Array) -> Ratio:
        distance = jnp.where(jnp.isinf(squared), far, jnp.sqrt(squared))
        return Ratio(x.total(which.num_classes, each=distance), x.total(which.num_classes))

    return _labels.over_images(images, len(which.spacing), which.num_classes, prediction, target)


def normalized_surface_dice(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    tolerance: float = 1,
    unit: str = "pixels",
    boundary: str = "inside",
    frame: bool = True,
    void: str = "background",
    spacing: Any = None,
    axes: int | tuple[int, ...] | None = None,
) -> jax.Array:
    """Normalized surface Dice (NSD, Nikolov et al. 2018), per image and class.

    The share of both boundaries together that lies within a Euclidean distance `tolerance` (inclusive) of the other.
    `boundary="elements"` is the paper's definition and that of surface-distance, "inside" that of MONAI without
    subvoxels.

    Args:
      tolerance, unit: as in `boundary_f1`; in the unit of `spacing` unless `unit="diagonal"`.
      The others: as in `hausdorff_distance`.

    Returns:
      `(*batch, num_classes)` float. NaN where a class has a boundary in neither map, 0 where in one only.

    Raises:
      As `hausdorff_distance`, and ValueError for a negative tolerance.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> normalized_surface_dice(jnp.roll(target, 2, axis=1), target, num_classes=2)[1]
    Array(0.6666667, dtype=float32)
    """
    chosen = tolerance, unit, boundary, frame, void, spacing, axes
    name = "normalized_surface_dice"
    return _surface_dice(matched(name, prediction, target, num_classes, ignore_index, *chosen)).value()


def normalized_surface_dice_sums(
    prediction: Any,
    target: Any,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    tolerance: float = 1,
    unit: str = "pixels",
    boundary: str = "inside",
    frame: bool = True,
    void: str = "background",
    spacing: Any = None,
    axes: int | tuple[int, ...] | None = None,
) -> Ratio:
    """What a batch contributes to a data set's `normalized_surface_dice`: boundary matched, and in all.

    Arguments and errors as in `normalized_surface_dice`.

    Returns:
      `Ratio` of `(num_classes,)` sums over the batch. Add them up, then `.value()`.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> normalized_surface_dice_sums(target[None], target[None], num_classes=2).value()
    Array([1., 1.], dtype=float32)
    """
    chosen = tolerance, unit, boundary, frame, void, spacing, axes
    name = "normalized_surface_dice_sums"
    return _surface_dice(matched(name, prediction, target, num_classes, ignore_index, *chosen)).total()


def _surface_dice(both: PrecisionRecall) -> Ratio:
    return _choose("pooled", both.precision, both.recall)
