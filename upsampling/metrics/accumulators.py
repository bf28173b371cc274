"""Accumulators: the sums that a metric is made of, which add up over images, batches and devices.

Every metric is a ratio of sums, so the figure of a data set comes from adding the sums, not from averaging the figures
of its images. `metric` makes both forms of a metric, per image and over a data set, from one function.
"""

import dataclasses
import functools
import inspect
import json
import math
import numbers
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast

import jax
import jax.core
import jax.export
import jax.numpy as jnp
import numpy as np

from upsampling import _arguments
from upsampling.primitives._common import accumulator, core, floating

Parameters = ParamSpec("Parameters")
Sums_co = TypeVar("Sums_co", covariant=True)


class PerImage(Protocol[Sums_co]):
    """What the function of a metric returns: something known of each image."""

    def compute(self) -> jax.Array:
        """The metric's value for each image."""
        ...

    def total(self) -> Sums_co:
        """What all images together contribute to the figure of a data set."""
        ...


class Metric(Protocol[Parameters, Sums_co]):
    """A metric: called, it gives a value per image; its attribute `accumulate` gives sums that add up."""

    __name__: str

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> jax.Array:
        """The metric's value for each image."""
        ...

    def accumulate(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Sums_co:
        """What a batch contributes to the figure of a data set."""
        ...


def metric(function: Callable[Parameters, PerImage[Sums_co]]) -> Metric[Parameters, Sums_co]:
    """Makes a metric of a function that returns an accumulator with batch axes.

    The result takes the function's arguments and returns the value of each image. Its attribute `accumulate` takes the
    same arguments and returns the accumulator summed over the batch: add those of all batches, then `.compute()`.

    >>> import jax.numpy as jnp
    >>> @metric
    ... def share_of_zeros(maps):
    ...     return Ratio(jnp.sum(maps == 0, (-2, -1))[..., None], jnp.array([maps[0].size] * len(maps))[:, None])
    >>> maps = jnp.array([[[0, 1]], [[0, 0]]])
    >>> share_of_zeros(maps)
    Array([[0.5],
           [1. ]], dtype=float32)
    >>> sum(share_of_zeros.accumulate(batch) for batch in (maps, maps[:1])).compute()
    Array([0.6666667], dtype=float32)
    """

    @functools.wraps(function)
    def per_image(*args: Parameters.args, **kwargs: Parameters.kwargs) -> jax.Array:
        return function(*args, **kwargs).compute()

    @functools.wraps(function)
    def accumulate(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Sums_co:
        return function(*args, **kwargs).total()

    signature, name = inspect.signature(function), function.__name__
    public, sums = (
        cast(Any, per_image),
        cast(Any, accumulate),
    )  # their types do not say that functions take attributes
    for form, returned in ((public, jax.Array), (sums, Accumulator)):
        form.__signature__ = signature.replace(return_annotation=returned)
        form.__annotations__ = function.__annotations__ | {"return": returned}
    accumulate.__name__, accumulate.__qualname__ = "accumulate", f"{function.__qualname__}.accumulate"
    accumulate.__doc__ = (
        f"What a batch contributes to the `{name}` of a data set: add up over batches, then `.compute()`.\n\n"
        f"Arguments and errors as in `{name}`. The sums are over all batch axes."
    )
    public.accumulate = accumulate
    return public


def divide(numerator: jax.Array | np.ndarray, denominator: jax.Array | np.ndarray, absent: float | None = None) -> Any:
    """numerator / denominator in floating point; where the denominator is 0 (nothing to measure), `absent`, or NaN.

    Sums of 64 bits on the host stay there.
    """
    if isinstance(numerator, (np.ndarray, np.generic)):
        xp, wide = np, np.dtype(np.float64)
    else:
        given = (x.dtype for x in (numerator, denominator) if jnp.issubdtype(x.dtype, jnp.floating))
        xp, wide = jnp, accumulator(floating(), *given)
    numerator, denominator = (x.astype(wide) for x in (numerator, denominator))
    zero = denominator == 0
    return xp.where(zero, math.nan if absent is None else absent, numerator / xp.where(zero, 1, denominator))


def check_absent(function: str, absent: Any) -> float | None:
    """The value of what is absent, as a Python number; None for NaN, which is not equal to itself."""
    if isinstance(absent, (bool, np.bool_)) or not isinstance(absent, numbers.Real):
        raise TypeError(f"{function}: absent must be a number, NaN included; got {absent!r}.")
    return None if math.isnan(absent) else float(absent)


def to_device(value: Any) -> jax.Array:
    """What was computed on the host, as a JAX array."""
    return jax.device_put(np.asarray(value, floating())) if isinstance(value, (np.ndarray, np.generic)) else value


@functools.partial(jax.jit, static_argnums=0)
def _compiled(value: Callable[[Any], jax.Array], sums: Any) -> jax.Array:
    return value(sums)


def _add_leaf(a: Any, b: Any) -> Any:
    """Adds on the host in 64 bits when both are concrete, so that no data set is too large; else in place."""
    if isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer):
        return jnp.add(a, b)
    a, b = (np.asarray(x) for x in jax.device_get((a, b)))
    wide = np.int64 if np.issubdtype(a.dtype, np.integer) else np.float64
    return np.add(a, b, dtype=wide)


def _sum_images(sums: Any, kept_axes: int) -> Any:
    """Sums over all axes but the last `kept_axes`."""
    return jax.tree.map(lambda x: x.sum(tuple(range(x.ndim - kept_axes))), sums)


class Accumulator:
    """Sums that add up over batches, with `+`, `merge` or the builtin `sum`, and are finished by `compute`.

    Each is a pytree, so that it can leave a compiled function, and `jax.lax.psum` adds it up over devices. Outside jit
    the sums are added on the host in 64 bits. Inside jit they are 32-bit (counts up to 2**31 - 1, some thousand frames
    of 2048x1024) unless jax_enable_x64 is set.
    """

    def compute(self) -> jax.Array:
        """The metric's value, for whatever has been added up."""
        leaves = jax.tree.leaves(self)
        if all(isinstance(leaf, (np.ndarray, np.generic)) for leaf in leaves):
            return to_device(self._value())
        return _compiled(type(self)._value, self)

    def _value(self) -> Any:
        """What `compute` gives: of sums on the host, on the host."""
        raise NotImplementedError

    def total(self) -> Self:
        """Summed over images: over all axes in front of those that one image has."""
        raise NotImplementedError

    def merge(self, other: Self) -> Self:
        """Both added up; raises TypeError unless they are of the same metric."""
        if jax.tree.structure(self) != jax.tree.structure(other):
            raise TypeError(f"{type(self).__name__}.merge: only sums of the same metric add up; got {other!r}.")
        return jax.tree.map(_add_leaf, self, other)

    def __add__(self, other: Self) -> Self:
        if not isinstance(other, Accumulator):
            return NotImplemented
        return self.merge(other)

    def __radd__(self, other: int) -> Self:
        if other != 0:  # where the builtin sum starts
            return NotImplemented
        return self


# A field that is part of the pytree's structure, not of its sums.
_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ratio(Accumulator):
    """A ratio of sums: `numerator` and `denominator` add up; `compute()` divides them.

    `kept_axes` says how many axes the sums of one image have: the last one, of classes, unless said otherwise. `absent`
    is the value where the denominator is 0; None stands for NaN.

    >>> import jax.numpy as jnp
    >>> first, second = Ratio(jnp.array(1), jnp.array(2)), Ratio(jnp.array(5), jnp.array(6))
    >>> float((first + second).compute())  # 6 / 8, not the mean of 1/2 and 5/6
    0.75
    """

    numerator: jax.Array | np.ndarray
    denominator: jax.Array | np.ndarray
    kept_axes: int = dataclasses.field(default=1, metadata=_STATIC)
    absent: float | None = dataclasses.field(default=None, metadata=_STATIC)

    def _value(self) -> Any:
        return divide(self.numerator, self.denominator, self.absent)

    def total(self) -> Self:
        """Summed over images: over all axes but the last `kept_axes`."""
        return _sum_images(self, self.kept_axes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrecisionRecall(Accumulator):
    """Two ratios, of what was predicted and of what is true; `compute()` is their harmonic mean F1 = 2 P R / (P + R).

    F1 is `absent` where neither map has anything (None stands for NaN), and 0 where only one has.
    """

    precision: Ratio
    recall: Ratio
    absent: float | None = dataclasses.field(default=None, metadata=_STATIC)

    def _value(self) -> Any:
        precision, recall = (divide(part.numerator, part.denominator, 0.0) for part in (self.precision, self.recall))
        xp = np if isinstance(precision, np.ndarray) else jnp
        both = precision + recall
        f1 = 2 * precision * recall / xp.where(both > 0, both, 1)
        neither = (self.precision.denominator == 0) & (self.recall.denominator == 0)
        return xp.where(neither, math.nan if self.absent is None else self.absent, f1)

    def total(self) -> Self:
        """Both ratios summed over images."""
        return dataclasses.replace(self, precision=self.precision.total(), recall=self.recall.total())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConfusionCounts(Accumulator):
    """A confusion matrix that adds up, and the figure that `compute()` takes from it.

    Attributes:
      matrix: `(..., classes, classes)` pixel counts, rows target, columns prediction.
      figure: function of the matrix, such as `iou_of`; called with `ignore_index` and `absent=` too, if there are.
      ignore_index: the class that is not counted.
      absent: the value of a class that is in neither map; None stands for NaN.
      kept_axes: how many axes the counts of one image have: three for several trimap widths.

    >>> import jax.numpy as jnp
    >>> from upsampling import metrics
    >>> counts = metrics.iou.accumulate(jnp.array([[0, 1, 1]]), jnp.array([[0, 0, 1]]), num_classes=2)
    >>> (counts + counts).matrix
    array([[2, 2],
           [0, 2]])
    >>> (counts + counts).compute()
    Array([0.5, 0.5], dtype=float32)
    """

    matrix: jax.Array | np.ndarray
    figure: Callable[..., jax.Array] = dataclasses.field(metadata=_STATIC)
    ignore_index: int | None = dataclasses.field(default=None, metadata=_STATIC)
    kept_axes: int = dataclasses.field(default=2, metadata=_STATIC)
    absent: float | None = dataclasses.field(default=None, metadata=_STATIC)

    def compute(self) -> jax.Array:
        """The figure of the matrix."""
        ignored = () if self.ignore_index is None else (self.ignore_index,)
        return self.figure(self.matrix, *ignored, **({} if self.absent is None else {"absent": self.absent}))

    def total(self) -> Self:
        """Summed over images: over all axes but the last `kept_axes`."""
        return _sum_images(self, self.kept_axes)


@dataclasses.dataclass(frozen=True)
class ImageValues:
    """`(*batch, classes)` values, not below 0, of a metric whose figure for a data set is the mean over the images with
    the class. Where an image has not the class the value is -1: `compute` puts `absent` there, or NaN for None."""

    values: jax.Array
    absent: float | None

    def compute(self) -> jax.Array:
        """The values themselves."""
        return _or_absent(self.values, self.absent)

    def total(self) -> Ratio:
        """The sum over all images, and their number, class by class."""
        return Ratio(*_known_sums(self.values, tuple(range(self.values.ndim - 1)), False), absent=self.absent)


@core(1, inline=False)
def _or_absent(values: jax.Array, absent: float | None) -> jax.Array:
    return jnp.where(values < 0, math.nan if absent is None else absent, values)


def image_mean(values: jax.Array, axes: int | tuple[int, ...] = 0, *, absent: float = math.nan) -> Ratio:
    """The mean over images as a `Ratio` that streams, leaving out images where the value is NaN (the class is absent).

    For figures defined as a mean over images: Csurka's boundary F1, the surface distances. `hausdorff_distance`
    accumulates in this way already.

    Args:
      values: one value per image and class, such as `boundary_f1` returns.
      axes: the axes of images, to be averaged.
      absent: the mean of a class that no image has.

    Returns:
      `Ratio` of (sum of values, number of values), with `axes` gone.

    >>> import jax.numpy as jnp
    >>> image_mean(jnp.array([[1.0, jnp.nan], [3.0, 5.0]])).compute()
    Array([2., 5.], dtype=float32)
    """
    name = "image_mean"
    values, absent_value = _arguments.array(name, "values", values), check_absent(name, absent)
    given: Any = _arguments.as_sequence(axes)
    none = isinstance(given, (tuple, list)) and not given
    over = () if none else _arguments.per_axis(name, "axes", given, None, minimum=None)
    if any(not -values.ndim <= axis < values.ndim for axis in over) or len({a % values.ndim for a in over}) < len(over):
        raise ValueError(f"{name}: axes={over} must be different axes of values of shape {values.shape}.")
    return Ratio(*_known_sums(values, over, True), absent=absent_value)


@core((1, 2), inline=False)
def _known_sums(values: jax.Array, axes: tuple[int, ...], nan: bool) -> tuple[jax.Array, jax.Array]:
    """The sum and the number of the known values, those that are not NaN or, without `nan`, not below 0."""
    known = ~jnp.isnan(values) if nan else ~(values < 0)
    return jnp.sum(jnp.where(known, values, 0), axes), jnp.sum(known, axes)


# --- in exported programs ---------------------------------------------------------------------------------------------


def _figures() -> dict[str, Callable[..., jax.Array]]:
    from upsampling.metrics import confusion

    names = (name for name in vars(confusion) if name.endswith(("_of", "_of_targets")))
    return {name: getattr(confusion, name) for name in names if not name.startswith("_")}


def _to_bytes(static: tuple[Any, ...]) -> bytes:
    """The fields that are part of a pytree's structure, as `jax.export` stores them: a figure by its name."""
    names: dict[Any, str] = {figure: name for name, figure in _figures().items()}
    if any(callable(field) and field not in names for field in static):
        raise ValueError(f"ConfusionCounts: figure must be one of {', '.join(names.values())} to be serialized.")
    return json.dumps([names[field] if callable(field) else field for field in static]).encode()


def _from_bytes(stored: bytes) -> tuple[Any, ...]:
    return tuple(_figures()[field] if isinstance(field, str) else field for field in json.loads(stored))


for _kind in (Ratio, PrecisionRecall, ConfusionCounts):
    jax.export.register_pytree_node_serialization(
        _kind,
        serialized_name=f"upsampling.metrics.{_kind.__name__}",
        serialize_auxdata=_to_bytes,
        deserialize_auxdata=_from_bytes,
    )
