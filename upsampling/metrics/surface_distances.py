"""How far the boundaries of label maps lie apart: Hausdorff, average surface distance, normalized surface Dice."""

import dataclasses
import math
from typing import Literal, NamedTuple, Self, get_args

import jax
import jax.numpy as jnp

from upsampling import _arguments
from upsampling.metrics import _labels, _surfaces
from upsampling.metrics._labels import Axes, LabelMap, Spacing
from upsampling.metrics._percentiles import percentile as percentile_of_classes
from upsampling.metrics._surfaces import Boundary, BoundaryDefinition, Distance, SurfaceElements, Unit, Void
from upsampling.metrics.accumulators import ImageValues, Ratio, check_absent, divide, metric
from upsampling.metrics.boundaries import within_tolerance
from upsampling.primitives._common import core

Missing = Literal["infinity", "diagonal", "nan"]
PercentileOf = Literal["larger", "union"]
Interpolation = Literal["linear", "step"]
Average = Literal["pooled", "mean", "prediction", "target"]
Direction = Literal["both", "prediction", "target"]


@metric
def hausdorff_distance(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    percentile: float = 100,
    percentile_of: PercentileOf = "larger",
    interpolation: Interpolation | None = None,
    direction: Direction = "both",
    distance: Distance = "euclidean",
    missing: Missing = "infinity",
    boundary: Boundary = "inside",
    connectivity: int = 1,
    frame: bool = True,
    void: Void = "background",
    spacing: Spacing | None = None,
    absent: float = math.nan,
    axes: Axes | None = None,
) -> ImageValues:
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
      direction: "both", or the directed distance from the boundary of the "prediction" to the target's, or from that of
        the "target" to the prediction's (static).
      distance: "euclidean"; or, in pixels, "chessboard", the larger of the differences along the axes, or "taxicab",
        their sum (static).
      missing: the distance if a class has a boundary in one map only: "infinity", "diagonal" (of the image, in the
        unit of `spacing`) or "nan" (static).
      boundary: what the boundary of a class is (static), see `upsampling.metrics`: "inside", its pixels that share a
        side with a pixel that is not; "between", the points between pixels where four meet of which some are inside;
        "elements", the surface elements at these points, weighted by the length of the boundary there; "pixels", all
        of its pixels.
      connectivity: what pixels "inside" have for neighbors (static): 1, those that share a side; 2, or in a volume 3,
        those that share an edge or a corner too, as MedPy counts.
      frame: whether a class that touches the image's frame has a boundary there (static).
      void: what void pixels do (static). "background": they belong to no class in either map, and boundaries run along
        them. "neutral": the same, but no boundaries run along them. "uncounted": boundaries are what they are in both
        maps, and distances from void pixels are left out.
      spacing: size of a pixel, one number or one per axis (static). Distances are in its unit; pixels if None.
      absent: the value of a class that has a boundary in neither map, NaN or a number (static).
      axes: the spatial axes, 1 to 3 of them (static); the last ones if None, as many as `spacing` has, or two.

    Returns:
      `(*batch, num_classes)` float. `absent` where a class has a boundary in neither map. A data set's figure is the
      mean over the images that have the class: `hausdorff_distance.accumulate` gives their sum and number, as a
      `Ratio`.

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
    _arguments.one_of(name, "percentile_of", percentile_of, get_args(PercentileOf))
    _arguments.one_of(name, "direction", direction, get_args(Direction))
    _arguments.one_of(name, "missing", missing, get_args(Missing))
    _arguments.one_of(name, "boundary", boundary, get_args(Boundary))
    if direction != "both" and percentile_of == "union":
        raise ValueError(f'{name}: percentile_of="union" is of both directions; got direction={direction!r}.')
    if interpolation is None:
        interpolation = "step" if boundary == "elements" else "linear"
    _arguments.one_of(name, "interpolation", interpolation, get_args(Interpolation))
    percentile = _arguments.number(name, "percentile", percentile, real=True, zero=True)
    if percentile > 100 or 0 < percentile < 1:
        raise ValueError(f"{name}: percentile must be 0, or from 1 to 100, in percent; got {percentile!r}.")
    prediction, target, definition = _surfaces.checked(
        name,
        prediction,
        target,
        num_classes,
        ignore_index,
        spacing,
        axes,
        void,
        boundary,
        frame,
        connectivity,
        distance,
    )
    if boundary == "elements" and interpolation == "linear":
        raise ValueError(f'{name}: interpolation="linear" has no meaning for weighted boundary="elements".')
    far = _distance_if_missing(missing, target.shape, definition)
    chosen = percentile, percentile_of == "union", interpolation == "linear", far, direction
    values = _hausdorff_distance(prediction, target, definition, *chosen)
    return ImageValues(values, check_absent(name, absent))


@core((2, 3, 4, 5, 6, 7), inline=False)
def _hausdorff_distance(
    prediction,
    target,
    definition: BoundaryDefinition,
    percent: float,
    union: bool,
    linear: bool,
    far: float | None,
    direction: Direction,
) -> jax.Array:
    """The distances, -1 for a class without a boundary in both maps; `far` for what is infinitely far."""

    def images(prediction, target):
        both = [_Flat.of(*x) for x in _surfaces.distances(prediction, target, definition)]
        if percent == 100:
            return directed([_farthest(x, definition.num_classes) for x in both])
        if union:
            both = [jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *both)]
        each = [
            percentile_of_classes(jnp.sqrt(x.squared), x.slot, x.size, definition.num_classes, percent, linear)
            for x in both
        ]
        return directed(each)

    def directed(each: list[jax.Array]) -> jax.Array:
        if direction == "both":
            return jnp.maximum(each[0], each[-1])
        own, other = each if direction == "prediction" else each[::-1]
        return jnp.where((own < 0) & (other >= 0), jnp.inf, own)

    values = _labels.over_images(images, len(definition.spacing), definition.num_classes, prediction, target)
    return jnp.where(jnp.isinf(values), math.nan if far is None else far, values)


class _Flat(NamedTuple):
    """Squared distances, classes and sizes of surface elements, all `(images, elements)`."""

    squared: jax.Array
    slot: jax.Array
    size: jax.Array | None

    @classmethod
    def of(cls, x: SurfaceElements, squared: jax.Array) -> Self:
        squared, slot = (part.reshape(part.shape[0], -1) for part in (squared, x.slot))
        return cls(squared, slot, None if x.size is None else x.size.reshape(slot.shape))


def _farthest(x: _Flat, num_classes: int) -> jax.Array:
    """The largest distance per image and class; -1 without a boundary."""
    largest = jnp.full((x.squared.shape[0], num_classes + 1), -1, x.squared.dtype)
    largest = _labels.per_slot(largest, x.slot, x.squared, "max")[:, :-1]
    return jnp.where(largest < 0, -1, jnp.sqrt(jnp.abs(largest)))


def _distance_if_missing(missing: Missing, shape: tuple[int, ...], definition: BoundaryDefinition) -> float | None:
    """The distance of a class that one map only has; None for NaN, which is not equal to itself."""
    across = _surfaces.diagonal(shape, definition.spacing)
    return {"infinity": math.inf, "diagonal": across, "nan": None}[missing]


_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _SurfaceDistances:
    """Distances summed, and boundary, of the predicted and the true one, `(*batch, classes)`.

    far: the distance of a class that has a boundary in one map only; None for NaN.
    absent: the value of a class that has a boundary in neither; None for NaN.
    """

    predicted: Ratio
    true: Ratio
    average: Average = dataclasses.field(metadata=_STATIC)
    far: float | None = dataclasses.field(metadata=_STATIC)
    absent: float | None = dataclasses.field(metadata=_STATIC)

    def compute(self) -> jax.Array:
        """The average distance per image and class."""
        return _averages(self)

    def total(self) -> Ratio:
        """Distances summed over the batch, and boundary; leaves out what is NaN per image."""
        if self.average == "mean":
            raise ValueError(
                'average_surface_distance.accumulate: average="mean" is not a ratio of sums. Take '
                "image_mean(average_surface_distance(...)), or another average: 'pooled', 'prediction', 'target'."
            )
        sums = self._chosen()
        if self.far is None:
            known = jnp.isfinite(sums.numerator)
            sums = Ratio(jnp.where(known, sums.numerator, 0), jnp.where(known, sums.denominator, 0))
        return dataclasses.replace(sums, absent=self.absent).total()

    def _chosen(self) -> Ratio:
        if self.average == "pooled":
            return _pooled(self.predicted, self.true)
        return self.predicted if self.average == "prediction" else self.true


@jax.jit
def _averages(x: _SurfaceDistances) -> jax.Array:
    if x.average == "mean":
        value = sum(divide(part.numerator, part.denominator, 0.0) for part in (x.predicted, x.true)) / 2
    else:
        chosen = x._chosen()
        value = divide(chosen.numerator, chosen.denominator, 0.0)
    predicted, true = (part.denominator > 0 for part in (x.predicted, x.true))
    far, absent = (math.nan if v is None else v for v in (x.far, x.absent))
    return jnp.where(predicted != true, far, jnp.where(predicted, value, absent))


def _pooled(predicted: Ratio, true: Ratio) -> Ratio:
    """The ratio of both maps' boundaries together."""
    return Ratio(predicted.numerator + true.numerator, predicted.denominator + true.denominator)


@metric
def average_surface_distance(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    average: Average = "pooled",
    distance: Distance = "euclidean",
    missing: Missing = "infinity",
    boundary: Boundary = "inside",
    connectivity: int = 1,
    frame: bool = True,
    void: Void = "background",
    spacing: Spacing | None = None,
    absent: float = math.nan,
    axes: Axes | None = None,
) -> _SurfaceDistances:
    """Average symmetric surface distance (ASSD) of the boundaries, per image and class.

    Args:
      average: over what (static). "pooled": the distances of both directions together (Heimann et al. 2009; MONAI with
        symmetric=True; MedPy's assd since 0.5). "mean": the mean of the two directions' averages (MedPy's assd before).
        "prediction" or "target": the distances from that map's boundary to the other's (the two figures of
        surface-distance; MedPy's asd and MONAI with symmetric=False are "prediction").
      The others: as in `hausdorff_distance`. With `boundary="elements"` the averages are weighted by size.

    Returns:
      `(*batch, num_classes)` float, in the unit of `spacing`. `absent` where a class has a boundary in neither map; for
      one map only see `missing`. `average_surface_distance.accumulate` gives distances and boundary, summed over the
      batch, as a `Ratio`: there `missing="nan"` leaves out the images where the class is in one map only; otherwise all
      of the boundary in such an image has that distance. `average="mean"` is no ratio of sums, and a ValueError there:
      take `image_mean(average_surface_distance(...))` for the mean over images.

    Raises:
      As `hausdorff_distance`.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> average_surface_distance(jnp.roll(target, 2, axis=1), target, num_classes=2)[1]
    Array(1., dtype=float32)
    """
    name = "average_surface_distance"
    _arguments.one_of(name, "average", average, get_args(Average))
    _arguments.one_of(name, "missing", missing, get_args(Missing))
    prediction, target, definition = _surfaces.checked(
        name,
        prediction,
        target,
        num_classes,
        ignore_index,
        spacing,
        axes,
        void,
        boundary,
        frame,
        connectivity,
        distance,
    )
    far = _distance_if_missing(missing, target.shape, definition)
    predicted, true = _summed_distances(prediction, target, definition, math.inf if far is None else far)
    return _SurfaceDistances(predicted, true, average, far, check_absent(name, absent))


@core((2, 3), inline=False)
def _summed_distances(prediction, target, definition: BoundaryDefinition, far: float) -> tuple[Ratio, Ratio]:
    """Distances summed, and boundary, of the predicted and the true one; `far` stands for what is infinitely far."""

    def images(prediction, target):
        predicted, true = _surfaces.distances(prediction, target, definition, by_class=True)
        return summed(*predicted), summed(*true)

    def summed(x: SurfaceElements, squared: jax.Array) -> Ratio:
        distance = jnp.where(jnp.isinf(squared), far, jnp.sqrt(squared))
        return Ratio(x.total(definition.num_classes, each=distance), x.total(definition.num_classes))

    return _labels.over_images(images, len(definition.spacing), definition.num_classes, prediction, target)


@metric
def normalized_surface_dice(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    tolerance: float = 1,
    unit: Unit = "pixels",
    boundary: Boundary = "inside",
    frame: bool = True,
    void: Void = "background",
    spacing: Spacing | None = None,
    absent: float = math.nan,
    axes: Axes | None = None,
) -> Ratio:
    """Normalized surface Dice (NSD, Nikolov et al. 2018), per image and class.

    The share of both boundaries together that lies within a Euclidean distance `tolerance` (inclusive) of the other.
    `boundary="elements"` is the paper's definition and that of surface-distance, "inside" that of MONAI without
    subvoxels.

    Args:
      tolerance, unit: as in `boundary_f1`; in the unit of `spacing` unless `unit="diagonal"`.
      The others: as in `hausdorff_distance`.

    Returns:
      `(*batch, num_classes)` float. `absent` where a class has a boundary in neither map, 0 where in one only.
      `normalized_surface_dice.accumulate` gives boundary matched and in all, summed over the batch, as a `Ratio`.

    Raises:
      As `hausdorff_distance`, and ValueError for a negative tolerance.

    >>> import jax.numpy as jnp
    >>> target = jnp.zeros((8, 8), int).at[2:6, 2:6].set(1)
    >>> normalized_surface_dice(jnp.roll(target, 2, axis=1), target, num_classes=2)[1]
    Array(0.6666667, dtype=float32)
    """
    name = "normalized_surface_dice"
    prediction, target, definition = _surfaces.checked(
        name, prediction, target, num_classes, ignore_index, spacing, axes, void, boundary, frame
    )
    both = within_tolerance(name, prediction, target, definition, tolerance, unit)
    return dataclasses.replace(_pooled(both.precision, both.recall), absent=check_absent(name, absent))
