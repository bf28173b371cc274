"""Region metrics from the confusion matrix: IoU, Dice, generalized Dice, pixel accuracy, frequency-weighted IoU."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from upsampling import _arguments
from upsampling.metrics import _labels
from upsampling.metrics._labels import Axes, LabelMap
from upsampling.metrics.accumulators import ConfusionCounts, check_absent, divide, metric, to_device
from upsampling.primitives._common import core, floating

Weights = Literal["square", "simple", "uniform"]


def confusion_matrix(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    axes: Axes | None = None,
) -> jax.Array:
    """How many pixels of each true class were given each class.

    Args:
      prediction: `(*batch, H, W)` integer labels, 0 to num_classes - 1.
      target: the same shape; may also hold `ignore_index`.
      num_classes: number of classes (static).
      ignore_index: label of the target whose pixels are not counted (static).
      axes: the spatial axes; the last two if None.

    Returns:
      `(*batch, num_classes, num_classes)` int32 pixel counts, rows target, columns prediction. Sum over the batch axes
      and add over batches before dividing: a data set's figure is not the mean of batch figures.

    Raises:
      TypeError: labels that are not integers (logits).
      ValueError: shapes that differ; labels out of range. Inside jit labels cannot be read, and a pixel whose label is
        out of range in either map is not counted.

    >>> import jax.numpy as jnp
    >>> confusion_matrix(jnp.array([[0, 1, 1]]), jnp.array([[0, 0, 1]]), num_classes=2)
    Array([[1, 1],
           [0, 1]], dtype=int32)
    """
    return _matrix("confusion_matrix", prediction, target, num_classes, ignore_index, axes)


def _matrix(
    function: str,
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None,
    axes: Axes | None,
) -> jax.Array:
    *maps, num_classes, ignore_index, spacing = _labels.check_pair(
        function, prediction, target, num_classes, ignore_index, axes
    )
    return _confusion_matrix(*maps, num_classes, ignore_index, len(spacing))


@core((2, 3, 4), inline=False)
def _confusion_matrix(prediction, target, num_classes, ignore_index, rank):
    batch = target.shape[:-rank]
    pair, known = pairs(prediction, target, num_classes, ignore_index)
    flat = math.prod(batch), math.prod(target.shape[-rank:])
    counts = _labels.count_labels(pair.reshape(flat), known.reshape(flat), num_classes**2)
    return counts.reshape(*batch, num_classes, num_classes)


def pairs(prediction, target, num_classes: int, ignore_index: int | None) -> tuple[jax.Array, jax.Array]:
    """Which cell of the confusion matrix a pixel counts in, row by row, and whether it counts."""
    known = (prediction >= 0) & (prediction < num_classes) & (target >= 0) & (target < num_classes)
    if ignore_index is not None:
        known &= target != ignore_index
    return jnp.where(known, target * num_classes + prediction, 0), known


@metric
def iou(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    needs_target: bool = False,
    absent: float = math.nan,
    axes: Axes | None = None,
) -> ConfusionCounts:
    """Intersection over union, per image and class: |P ∩ T| / |P ∪ T| (Jaccard).

    Arguments and errors as in `confusion_matrix`, and:

    Args:
      needs_target: whether a class that is predicted only counts as absent too, and not as 0, as MONAI's Dice has it by
        default (static).
      absent: the value of a class that is in neither map: NaN, or a number, as `jax_debug_nans` asks for (static).

    Returns:
      `(*batch, num_classes)` float. `absent` where a class is in neither map, 0 where it is in one map only.
      `iou.accumulate` gives the confusion matrix of the batch: add up over batches, then `.compute()`.

    >>> import jax.numpy as jnp
    >>> iou(jnp.array([[0, 1, 1]]), jnp.array([[0, 0, 1]]), num_classes=3)
    Array([0.5, 0.5, nan], dtype=float32)
    """
    figure = iou_of_targets if _arguments.flag("iou", "needs_target", needs_target) else iou_of
    matrix = _matrix("iou", prediction, target, num_classes, ignore_index, axes)
    return ConfusionCounts(matrix, figure, ignore_index, absent=check_absent("iou", absent))


@metric
def mean_iou(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    absent: float = math.nan,
    axes: Axes | None = None,
) -> ConfusionCounts:
    """Mean over the classes present of their intersection over union, per image.

    Arguments and errors as in `iou`. A class is present if it is in either map; in one only, its IoU is 0.

    Returns:
      `(*batch,)` float; `absent` where an image has no counted pixel. The mean IoU of a data set, as it is published,
      is that of the summed matrices, which `mean_iou.accumulate` gives, and not the mean over images.

    >>> import jax.numpy as jnp
    >>> mean_iou(jnp.array([[0, 1, 1]]), jnp.array([[0, 0, 1]]), num_classes=3)
    Array(0.5, dtype=float32)
    """
    matrix = _matrix("mean_iou", prediction, target, num_classes, ignore_index, axes)
    return ConfusionCounts(matrix, mean_iou_of, ignore_index, absent=check_absent("mean_iou", absent))


@metric
def dice(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    needs_target: bool = False,
    absent: float = math.nan,
    axes: Axes | None = None,
) -> ConfusionCounts:
    """Dice coefficient (the F1 of pixels), per image and class: 2 |P ∩ T| / (|P| + |T|).

    Arguments, absent classes, errors and `dice.accumulate` as in `iou`.

    >>> import jax.numpy as jnp
    >>> dice(jnp.array([[0, 1, 1, 1]]), jnp.array([[0, 0, 0, 1]]), num_classes=2)
    Array([0.5, 0.5], dtype=float32)
    """
    figure = dice_of_targets if _arguments.flag("dice", "needs_target", needs_target) else dice_of
    matrix = _matrix("dice", prediction, target, num_classes, ignore_index, axes)
    return ConfusionCounts(matrix, figure, ignore_index, absent=check_absent("dice", absent))


@metric
def generalized_dice(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    weights: Weights = "square",
    absent: float = math.nan,
    axes: Axes | None = None,
) -> ConfusionCounts:
    """Generalized Dice (Crum et al. 2006), per image: one Dice of all classes, small ones weighted up.

        2 sum_c w_c |P_c ∩ T_c| / sum_c w_c (|P_c| + |T_c|)

    Args:
      weights: w_c of a class of n true pixels (static): "square", 1 / n^2 (Sudre et al. 2017); "simple", 1 / n; or
        "uniform", 1. A class that is predicted only has the largest weight of the others, as in MONAI.
      The others, and errors: as in `iou`.

    Returns:
      `(*batch,)` float; `absent` where an image has no counted pixel. `generalized_dice.accumulate` as in `iou`: its
      weights are those of all pixels added up.

    >>> import jax.numpy as jnp
    >>> generalized_dice(jnp.array([[0, 0, 0, 1]]), jnp.array([[0, 0, 1, 1]]), num_classes=2, weights="uniform")
    Array(0.75, dtype=float32)
    """
    figure = _GENERALIZED[_arguments.one_of("generalized_dice", "weights", weights, get_args(Weights))]
    matrix = _matrix("generalized_dice", prediction, target, num_classes, ignore_index, axes)
    return ConfusionCounts(matrix, figure, ignore_index, absent=check_absent("generalized_dice", absent))


@metric
def pixel_accuracy(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    absent: float = math.nan,
    axes: Axes | None = None,
) -> ConfusionCounts:
    """Share of pixels that got their class: `(*batch,)`, `absent` where an image has no counted pixel.

    Arguments and errors as in `iou`; `pixel_accuracy.accumulate` as in `iou`.

    >>> import jax.numpy as jnp
    >>> pixel_accuracy(jnp.array([[0, 1, 1, 1]]), jnp.array([[0, 0, 0, 1]]), num_classes=2)
    Array(0.5, dtype=float32)
    """
    matrix = _matrix("pixel_accuracy", prediction, target, num_classes, ignore_index, axes)
    return ConfusionCounts(matrix, pixel_accuracy_of, absent=check_absent("pixel_accuracy", absent))


@metric
def frequency_weighted_iou(
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    absent: float = math.nan,
    axes: Axes | None = None,
) -> ConfusionCounts:
    """IoU of the classes weighted by their share of the true pixels: `(*batch,)` (Long et al. 2015, section 5).

    Arguments and errors as in `iou`; `frequency_weighted_iou.accumulate` too.

    >>> import jax.numpy as jnp
    >>> frequency_weighted_iou(jnp.array([[0, 1, 1, 1]]), jnp.array([[0, 0, 0, 1]]), num_classes=2)
    Array(0.33333334, dtype=float32)
    """
    matrix = _matrix("frequency_weighted_iou", prediction, target, num_classes, ignore_index, axes)
    return ConfusionCounts(matrix, frequency_weighted_iou_of, absent=check_absent("frequency_weighted_iou", absent))


def iou_of(matrix: jax.Array | np.ndarray, ignore_index: int | None = None, *, absent: float = math.nan) -> jax.Array:
    """IoU per class of a confusion matrix `(*batch, C, C)`, or of a sum of them: TP / (TP + FP + FN).

    A class in neither map is `absent`; so is the class `ignore_index`, if it is one of the classes.

    >>> import jax.numpy as jnp
    >>> iou_of(jnp.array([[3, 1], [0, 4]]))
    Array([0.75, 0.8 ], dtype=float32)
    """
    return _figure("iou_of", matrix, _iou, ignore_index, absent)


def mean_iou_of(
    matrix: jax.Array | np.ndarray, ignore_index: int | None = None, *, absent: float = math.nan
) -> jax.Array:
    """Mean IoU over the classes present of a confusion matrix `(*batch, C, C)`, or of a sum of them.

    `absent` for an empty matrix; the class `ignore_index` is left out, if it is one of the classes.

    >>> import jax.numpy as jnp
    >>> mean_iou_of(jnp.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    Array(0.775, dtype=float32)
    """
    return _figure("mean_iou_of", matrix, _mean_iou, ignore_index, absent)


def dice_of(matrix: jax.Array | np.ndarray, ignore_index: int | None = None, *, absent: float = math.nan) -> jax.Array:
    """Dice per class of a confusion matrix `(*batch, C, C)`, or of a sum of them: 2 TP / (2 TP + FP + FN).

    Absent classes as in `iou_of`.

    >>> import jax.numpy as jnp
    >>> dice_of(jnp.array([[3, 0], [2, 4]]))
    Array([0.75, 0.8 ], dtype=float32)
    """
    return _figure("dice_of", matrix, _dice, ignore_index, absent)


def iou_of_targets(
    matrix: jax.Array | np.ndarray, ignore_index: int | None = None, *, absent: float = math.nan
) -> jax.Array:
    """`iou_of`, with `absent` for a class that has no true pixel, whatever was predicted."""
    return _figure("iou_of_targets", matrix, _iou_of_targets, ignore_index, absent)


def dice_of_targets(
    matrix: jax.Array | np.ndarray, ignore_index: int | None = None, *, absent: float = math.nan
) -> jax.Array:
    """`dice_of`, with `absent` for a class that has no true pixel, whatever was predicted."""
    return _figure("dice_of_targets", matrix, _dice_of_targets, ignore_index, absent)


def generalized_dice_of(
    matrix: jax.Array | np.ndarray, ignore_index: int | None = None, *, absent: float = math.nan
) -> jax.Array:
    """Generalized Dice of a confusion matrix `(*batch, C, C)`, or of a sum of them, with weights "square".

    `absent` for an empty matrix; the class `ignore_index` is left out, if it is one of the classes.

    >>> import jax.numpy as jnp
    >>> generalized_dice_of(jnp.array([[3, 1], [0, 4]]))
    Array(0.875, dtype=float32)
    """
    return _figure("generalized_dice_of", matrix, _generalized_by_square, ignore_index, absent)


def generalized_dice_simple_of(
    matrix: jax.Array | np.ndarray, ignore_index: int | None = None, *, absent: float = math.nan
) -> jax.Array:
    """`generalized_dice_of` with weights "simple"."""
    return _figure("generalized_dice_simple_of", matrix, _generalized_by_size, ignore_index, absent)


def generalized_dice_uniform_of(
    matrix: jax.Array | np.ndarray, ignore_index: int | None = None, *, absent: float = math.nan
) -> jax.Array:
    """`generalized_dice_of` with weights "uniform"."""
    return _figure("generalized_dice_uniform_of", matrix, _generalized_alike, ignore_index, absent)


def pixel_accuracy_of(matrix: jax.Array | np.ndarray, *, absent: float = math.nan) -> jax.Array:
    """Share of correct pixels of a confusion matrix `(*batch, C, C)`, or of a sum of them; `absent` for an empty one.

    >>> import jax.numpy as jnp
    >>> pixel_accuracy_of(jnp.array([[3, 1], [0, 4]]))
    Array(0.875, dtype=float32)
    """
    return _figure("pixel_accuracy_of", matrix, _pixel_accuracy, None, absent)


def frequency_weighted_iou_of(matrix: jax.Array | np.ndarray, *, absent: float = math.nan) -> jax.Array:
    """Frequency-weighted IoU of a confusion matrix `(*batch, C, C)`, or of a sum of them; `absent` for an empty one.

    >>> import jax.numpy as jnp
    >>> frequency_weighted_iou_of(jnp.array([[3, 1], [0, 4]]))
    Array(0.775, dtype=float32)
    """
    return _figure("frequency_weighted_iou_of", matrix, _frequency_weighted_iou, None, absent)


Figure = Callable[[Any, int | None, float | None], Any]


def _figure(function: str, matrix: Any, figure: Figure, ignore_index: int | None, absent: float) -> jax.Array:
    """A figure of a checked matrix. NumPy stays NumPy until then, since its counts may need their 64 bits."""
    if not isinstance(matrix, np.ndarray):
        matrix = _arguments.array(function, "matrix", matrix, floating=False)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{function}: matrix must be (*batch, classes, classes); got shape {matrix.shape}.")
    if not jnp.issubdtype(matrix.dtype, jnp.number) or jnp.issubdtype(matrix.dtype, jnp.complexfloating):
        raise TypeError(f"{function}: matrix must hold counts; got {matrix.dtype}.")
    if ignore_index is not None:
        ignore_index = _arguments.number(function, "ignore_index", ignore_index, minimum=None)
    value = check_absent(function, absent)
    if isinstance(matrix, np.ndarray):
        return to_device(figure(matrix, ignore_index, value))
    return _compiled_figure(matrix, figure, ignore_index, value)


@core((1, 2, 3), inline=False)
def _compiled_figure(matrix, figure, ignore_index, absent):
    return figure(matrix, ignore_index, absent)


def _margins(matrix: Any) -> tuple[Any, Any, Any]:
    """Diagonal, row sums and column sums."""
    margins = matrix.diagonal(axis1=-2, axis2=-1), matrix.sum(-1), matrix.sum(-2)
    # Floating from here on: sums of two margins could leave the range of 32-bit integers.
    hits, true, predicted = (m.astype(np.float64 if isinstance(m, np.ndarray) else floating()) for m in margins)
    return hits, true, predicted


def _counted(ignore_index: int | None, union: Any) -> Any:
    """The union of each class, 0 for the ignored one: it has no true pixel left, so that nothing is said of it."""
    xp = np if isinstance(union, np.ndarray) else jnp
    if ignore_index is None or not 0 <= ignore_index < union.shape[-1]:
        return union
    others = np.arange(union.shape[-1]) != ignore_index
    return xp.where(xp.broadcast_to(others, union.shape), union, 0)


def _iou(matrix: Any, ignore_index: int | None, absent: float | None) -> Any:
    hits, true, predicted = _margins(matrix)
    return divide(hits, _counted(ignore_index, true + predicted - hits), absent)


def _mean_iou(matrix: Any, ignore_index: int | None, absent: float | None) -> Any:
    hits, true, predicted = _margins(matrix)
    union = _counted(ignore_index, true + predicted - hits)
    return divide(divide(hits, union, 0.0).sum(-1), (union > 0).sum(-1), absent)


def _dice(matrix: Any, ignore_index: int | None, absent: float | None) -> Any:
    hits, true, predicted = _margins(matrix)
    return divide(2 * hits, _counted(ignore_index, true + predicted), absent)


def _of_targets(matrix: Any, union: Any) -> Any:
    """The union of each class, 0 for those that have no true pixel."""
    true = matrix.sum(-1)
    return (np if isinstance(true, np.ndarray) else jnp).where(true > 0, union, 0)


def _iou_of_targets(matrix: Any, ignore_index: int | None, absent: float | None) -> Any:
    hits, true, predicted = _margins(matrix)
    return divide(hits, _of_targets(matrix, _counted(ignore_index, true + predicted - hits)), absent)


def _dice_of_targets(matrix: Any, ignore_index: int | None, absent: float | None) -> Any:
    hits, true, predicted = _margins(matrix)
    return divide(2 * hits, _of_targets(matrix, _counted(ignore_index, true + predicted)), absent)


def _generalized(matrix: Any, ignore_index: int | None, absent: float | None, power: int) -> Any:
    hits, true, predicted = _margins(matrix)
    xp = np if isinstance(true, np.ndarray) else jnp
    union = _counted(ignore_index, true + predicted)
    counted = union > 0
    # Relative to the smallest class, whose weight is then one: the square of a count may leave the range of float32.
    smallest = xp.where(counted & (true > 0), true, np.inf).min(-1, keepdims=True)
    smallest = xp.where(xp.isfinite(smallest), smallest, 1)
    weights = xp.where(true > 0, smallest / xp.where(true > 0, true, 1), 1) ** power
    weights = xp.where(counted, weights, 0)
    return divide(2 * (weights * hits).sum(-1), (weights * union).sum(-1), absent)


def _generalized_by_square(matrix: Any, ignore_index: int | None, absent: float | None) -> Any:
    return _generalized(matrix, ignore_index, absent, 2)


def _generalized_by_size(matrix: Any, ignore_index: int | None, absent: float | None) -> Any:
    return _generalized(matrix, ignore_index, absent, 1)


def _generalized_alike(matrix: Any, ignore_index: int | None, absent: float | None) -> Any:
    return _generalized(matrix, ignore_index, absent, 0)


def _pixel_accuracy(matrix: Any, ignore_index: int | None, absent: float | None) -> Any:
    hits, true, _ = _margins(matrix)
    return divide(hits.sum(-1), true.sum(-1), absent)


def _frequency_weighted_iou(matrix: Any, ignore_index: int | None, absent: float | None) -> Any:
    hits, true, predicted = _margins(matrix)
    iou = divide(hits, true + predicted - hits, 0.0)
    return divide((true * iou).sum(-1), true.sum(-1), absent)


_GENERALIZED: dict[Weights, Callable[..., jax.Array]] = {
    "square": generalized_dice_of,
    "simple": generalized_dice_simple_of,
    "uniform": generalized_dice_uniform_of,
}
