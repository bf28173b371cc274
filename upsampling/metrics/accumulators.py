"""Sums that stream: every metric is a ratio of sums, so a data set's figure comes from adding, not from averaging.

A `*_sums` function returns what one batch contributes; contributions add up with `+` (or the builtin `sum`, or
`jax.lax.psum` over devices, since each is a pytree); `.value()` finishes them.
"""

import dataclasses
from typing import Any, Self

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from upsampling import _arguments


def divide(numerator: Any, denominator: Any) -> jax.Array:
    """numerator / denominator in floating point, NaN where the denominator is 0 (nothing was there to measure)."""
    if isinstance(numerator, np.ndarray):  # 64-bit sums on the host: divide before they narrow to 32 bits
        zero = denominator == 0
        return jnp.asarray(np.where(zero, np.nan, numerator / np.where(zero, 1, denominator)), jnp.result_type(float))
    numerator, denominator = (x.astype(jnp.result_type(x, float)) for x in (numerator, denominator))
    zero = denominator == 0
    return jnp.where(zero, jnp.nan, numerator / jnp.where(zero, 1, denominator))


def _add_leaf(a: Any, b: Any) -> Any:
    """Adds on the host in 64 bits when both are concrete, so that no data set is too large; else in place."""
    if isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer):
        return jnp.add(a, b)
    a, b = np.asarray(a), np.asarray(b)
    wide = np.int64 if np.issubdtype(a.dtype, np.integer) else np.float64
    return np.add(a, b, dtype=wide)


class _Sums:
    """What all sums share: they add up."""

    def total(self) -> Self:
        """Summed over all axes but the last, that of classes."""
        return jax.tree.map(lambda x: x.sum(tuple(range(x.ndim - 1))), self)

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        return jax.tree.map(_add_leaf, self, other)

    def __radd__(self, other: int) -> Self:
        if other != 0:  # where the builtin sum starts
            return NotImplemented
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ratio(_Sums):
    """A ratio of sums: `numerator` and `denominator` add up over images, batches and devices; `value()` divides them.

    Outside jit the sums are added on the host in 64 bits. Inside jit they are 32-bit (counts up to 2**31 - 1, some
    thousand frames of 2048x1024) unless jax_enable_x64 is set.

    >>> import jax.numpy as jnp
    >>> first, second = Ratio(jnp.array(1), jnp.array(2)), Ratio(jnp.array(5), jnp.array(6))
    >>> float((first + second).value())  # 6 / 8, not the mean of 1/2 and 5/6
    0.75
    """

    numerator: jax.Array | np.ndarray
    denominator: jax.Array | np.ndarray

    def value(self) -> jax.Array:
        """numerator / denominator; NaN where the denominator is 0."""
        return divide(self.numerator, self.denominator)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrecisionRecall(_Sums):
    """Two ratios, of what was predicted and of what is true; `value()` is their harmonic mean F1 = 2 P R / (P + R).

    F1 is NaN where neither map has anything, and 0 where only one has.
    """

    precision: Ratio
    recall: Ratio

    def value(self) -> jax.Array:
        """The harmonic mean of precision and recall."""
        precision, recall = self.precision.value(), self.recall.value()
        neither = jnp.isnan(precision) & jnp.isnan(recall)
        p, r = jnp.nan_to_num(precision), jnp.nan_to_num(recall)
        f1 = 2 * p * r / jnp.where(p + r > 0, p + r, 1)
        return jnp.where(neither, jnp.nan, f1)


def image_mean(values: jax.Array, axes: int | tuple[int, ...] = 0) -> Ratio:
    """The mean over images as a `Ratio` that streams, leaving out images where the value is NaN (the class is absent).

    For figures defined as a mean over images: Csurka's boundary F1, the Hausdorff distance, the surface distances.

    Args:
      values: one value per image and class, such as `boundary_f1` returns.
      axes: the axes of images, to be averaged.

    Returns:
      `Ratio` of (sum of values, number of values), with `axes` gone.

    >>> import jax.numpy as jnp
    >>> image_mean(jnp.array([[1.0, jnp.nan], [3.0, 5.0]])).value()
    Array([2., 5.], dtype=float32)
    """
    values = _arguments.array("image_mean", "values", values)
    known = ~jnp.isnan(values)
    return Ratio(jnp.sum(jnp.where(known, values, 0), axes), jnp.sum(known, axes))
