"""Order statistics of many classes at once, without sorting: a radix selection by histograms.

The bits of a non-negative floating number order as the number does. The digit of the wanted element is read off a
histogram per class, most significant digits first, and only elements that share the digits so far stay in play.
"""

import jax
import jax.numpy as jnp
from jax import lax

from upsampling.metrics._labels import per_slot
from upsampling.primitives._common import floating

_DIGIT = 11  # bits: three rounds for float32, and histograms that fit a cache


def percentile(
    values: jax.Array,
    slot: jax.Array,
    weight: jax.Array | None,
    num_classes: int,
    percent: float,
    linear: bool,
) -> jax.Array:
    """The percentile of each class's values.

    Args:
      values: `(images, elements)` floating, not negative, infinity allowed.
      slot: `(images, elements)` class of each; num_classes for none.
      weight: `(images, elements)`, or None where each counts as 1.
      percent: 0 to 100 (static).
      linear: whether to interpolate between the two nearest elements, as numpy.percentile does, which needs weights of
        1; else the least value that at least `percent` of the weight does not exceed.

    Returns:
      `(images, num_classes)`; -1 without elements.
    """
    empty = jnp.zeros((values.shape[0], num_classes + 1), jnp.int32)
    weights = [jnp.ones(values.shape, jnp.int32)] if weight is None else _digits(weight)
    total = _joined([per_slot(empty, slot, w)[:, :-1] for w in weights])
    if weight is not None:
        wanted, between = jnp.maximum(total * (percent / 100) * (1 - 1e-6), 0.5), None
    elif linear:
        whole, between = _share(jnp.maximum(total - 1, 0), percent)
        wanted = whole + 1
    else:
        whole, rest = _share(total, percent)
        wanted, between = jnp.maximum(whole + (rest > 0).astype(whole.dtype), 1), None
    least, reached = _select(values, slot, weights, wanted)
    if between is not None:
        # The next element: the same value again if there are more of it, else the least of the larger ones.
        larger = jnp.where(values > _of_class(least, slot, jnp.inf), values, jnp.inf)
        following = per_slot(jnp.full(empty.shape, jnp.inf, values.dtype), slot, larger, "min")[:, :-1]
        following = jnp.where((reached > wanted) | (between == 0), least, following)
        least = jnp.where(following == least, least, least + between * (following - least))
    return jnp.where(total > 0, least, -1)


def _share(count: jax.Array, percent: float) -> tuple[jax.Array, jax.Array]:
    """Whole part and rest of count * percent / 100, without rounding a large count to 24 bits."""
    hundreds, ones = count // 100, count % 100
    kind = floating()
    rest = hundreds.astype(kind) * (percent % 1) + ones.astype(kind) * percent / 100
    whole = jnp.floor(rest).astype(count.dtype)
    return hundreds * int(percent) + whole, rest - whole.astype(kind)


def _digits(weight: jax.Array) -> list[jax.Array]:
    """Weights as integers of two digits, in units of 1/65536 of the largest.

    A histogram of integers is exact and the same in whatever order an accelerator adds; float32 would drop additions to
    a full bin. Of each digit some eight million fit.
    """
    units = jnp.round(weight / jnp.max(weight, initial=0) * (2**16 - 1)).astype(jnp.int32)
    return [units >> 8, units & 255]


def _joined(sums: list[jax.Array]) -> jax.Array:
    """The sum of weights from the sums of their digits."""
    return sums[0] if len(sums) == 1 else sums[0].astype(floating()) * 256.0 + sums[1].astype(floating())


def _of_class(of: jax.Array, slot: jax.Array, none: float) -> jax.Array:
    """The class's value, for every element."""
    return jnp.take_along_axis(jnp.pad(of, ((0, 0), (0, 1)), constant_values=none), slot, axis=1)


def _select(
    values: jax.Array, slot: jax.Array, weights: list[jax.Array], wanted: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The least value of each class up to which the weights reach `wanted`, and what they reach there."""
    images, num_classes = wanted.shape
    kind = jnp.int64 if values.dtype == jnp.float64 else jnp.int32
    # The bits of -0 are the least integer: not those of 0.
    bits = lax.bitcast_convert_type(jnp.abs(values), kind)
    rounds = -(-jnp.iinfo(kind).bits // _DIGIT)

    def narrow_down(step, state):
        prefix, below, _ = state
        digit = bits >> ((rounds - 1 - step) * _DIGIT).astype(kind)
        in_play = (slot < num_classes) & (digit >> _DIGIT == _of_class(prefix, slot, 0))
        bins = jnp.where(in_play, slot, num_classes), digit & (2**_DIGIT - 1)
        empty = jnp.zeros((images, num_classes + 1, 2**_DIGIT), jnp.int32)
        histograms = [per_slot(empty, bins, weight)[:, :-1] for weight in weights]
        upto = [
            start[..., None] + jnp.cumsum(h, axis=-1, dtype=jnp.int32)
            for start, h in zip(below, histograms, strict=True)
        ]
        enough = _joined(upto) >= wanted[..., None]
        # Where rounding leaves the sum of all short of what is wanted, it is the last element.
        last = 2**_DIGIT - 1 - jnp.argmax((_joined(histograms) > 0)[..., ::-1], axis=-1)
        chosen = jnp.where(enough.any(-1), jnp.argmax(enough, axis=-1), last)[..., None]
        reached = jnp.take_along_axis(_joined(upto), chosen, -1)[..., 0]
        below = [jnp.take_along_axis(u - h, chosen, -1)[..., 0] for u, h in zip(upto, histograms, strict=True)]
        return (prefix << _DIGIT) | chosen[..., 0].astype(kind), below, reached

    start = [jnp.zeros_like(wanted, dtype=jnp.int32) for _ in weights]
    state = jnp.zeros_like(wanted, dtype=kind), start, jnp.zeros_like(wanted)
    prefix, _, reached = lax.fori_loop(0, rounds, narrow_down, state)
    return lax.bitcast_convert_type(prefix, values.dtype), reached
