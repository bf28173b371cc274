"""Images of 8 bits, resized in the integers and the float32 of the framework, so that every grey level is its own.

Frameworks do not resize such images as they resize floats. Pillow and PyTorch round the weights to fixed point, and
each axis's result to 8 bits before the next. OpenCV rounds weights to 11 bits for linear, sums in float32 for area,
and for cubic leaves it to Intel's IPP where there are 1, 3 or 4 channels. Where a sum lies between two grey levels
the last bit decides; so the order of the sums, and which of them are fused multiply-adds, are the framework's here too.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from upsampling.conventions import Convention, PlainMethod
from upsampling.primitives.resample import _sum
from upsampling.primitives.taps import Axis, Taps, operators

METHODS: dict[str, tuple[PlainMethod, ...]] = {
    "pillow": ("box", "linear", "hamming", "cubic", "lanczos3", "mks2013", "mks2021"),
    "torch": ("linear", "cubic"),
    "opencv": ("linear", "cubic", "area"),
}
"""The methods that each arithmetic has, beside those that copy pixels."""


def resize_eight_bit(
    x: jax.Array,
    axes: tuple[int, ...],
    geometry: tuple[Axis, ...],
    method: PlainMethod,
    convention: Convention,
    antialias: bool,
) -> jax.Array:
    """Resizes uint8 `x` along `axes` to uint8, by one of the `METHODS` of the convention's arithmetic."""
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    axes, geometry = tuple(axes[i] for i in order), tuple(geometry[i] for i in order)
    if convention.eight_bit == "opencv":
        return _opencv(x, axes, geometry, method)
    passes = [
        (axis, taps)
        for axis, taps in zip(axes, operators(geometry, method, convention, antialias, wide=True), strict=True)
        if not taps.identity
    ]
    if convention.eight_bit == "torch" or not _rows_first(geometry):
        passes = passes[::-1]
    for axis, taps in passes:
        x = _fixed_point(x, axis, taps, 22 if convention.eight_bit == "pillow" else _bits(taps))
    return x


# --- Pillow and PyTorch: each axis in fixed point ---------------------------------------------------------------------


def _rows_first(geometry: tuple[Axis, ...]) -> bool:
    """Whether Pillow starts with the rows of an image: where it loses more than twice as many of them as columns."""
    if len(geometry) != 2:
        return False
    rows, columns = geometry
    return rows.m < rows.n and rows.n - rows.m > 2 * (columns.n - columns.m)


def _bits(taps: Taps) -> int:
    """The bits that PyTorch gives weights behind the point: as many as 15 have room for."""
    return next(bits for bits in range(23) if int(0.5 + taps.weights.max() * 2 ** (bits + 1)) >= 1 << 15)


def _fixed_point(x: jax.Array, axis: int, taps: Taps, bits: int) -> jax.Array:
    weights = taps.weights * (1 << bits)
    whole = Taps(taps.size, taps.indices, np.trunc(weights + np.copysign(0.5, weights)))
    total = _sum(x.astype(jnp.int32), axis, whole) + (1 << (bits - 1))
    return jnp.clip(total >> bits, 0, 255).astype(jnp.uint8)


# --- OpenCV -----------------------------------------------------------------------------------------------------------


def _opencv(x: jax.Array, axes: tuple[int, ...], geometry: tuple[Axis, ...], method: PlainMethod) -> jax.Array:
    steps = [1 / (axis.m / axis.n if axis.scale is None else axis.scale) for axis in geometry]
    channels = 1 if x.ndim - 1 in axes else x.shape[-1]
    if all(axis.n == axis.m for axis in geometry):
        return x
    if method == "area" and min(steps) < 1:
        return _linear(x, axes, [_flat(axis, step) for axis, step in zip(geometry, steps, strict=True)])
    halves = method == "linear" and steps == [2, 2] and channels not in (1, 3, 4)
    if method == "area" or halves:
        return _area(x, axes, geometry, steps, channels)
    centers = [(np.arange(axis.m) + 0.5) * step - 0.5 for axis, step in zip(geometry, steps, strict=True)]
    if method == "linear":
        rows, columns = map(_linear_weights, centers)
        inside = (columns[0] >= 0) & (columns[0] < geometry[1].n - 1)
        columns = columns[0], np.where(inside, columns[1], np.float32(0))
        return _linear(x, axes, [rows, columns])
    if channels in (1, 3, 4) and min(axis.n for axis in geometry) > 3:
        return _cubic_in_float(x, axes, centers, channels)
    return _cubic_in_fixed_point(x, axes, centers, channels)


def _read(x: jax.Array, axis: int, index: np.ndarray) -> jax.Array:
    """The pixels at `index`, edge pixels for those beyond."""
    return jnp.take(x, jnp.asarray(np.clip(index, 0, x.shape[axis] - 1)), axis, mode="clip")


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _rounded(x: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)


def _linear_weights(center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first pixel and the second one's weight."""
    center = center.astype(np.float32)
    first = np.floor(center)
    return first.astype(int), center - first


def _flat(axis: Axis, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The same of linear interpolation with flat steps, which area is where an axis grows."""
    i = np.arange(axis.m, dtype=float)
    first = np.floor(i * step).astype(int)
    fraction = ((i + 1) - (first + 1) / step).astype(np.float32)
    return first, np.where(fraction <= 0, np.float32(0), fraction - np.floor(fraction))


def _linear(x: jax.Array, axes: tuple[int, ...], weights: Sequence[tuple[np.ndarray, np.ndarray]]) -> jax.Array:
    """In 11 bits along columns; along rows, products lose their last bits before they are added."""
    x = x.astype(jnp.int32)
    (rows, down), (columns, across) = weights

    def whole(weight: np.ndarray, axis: int) -> jax.Array:
        return jnp.asarray(_along(np.rint(weight * np.float32(2048)).astype(np.int32), axis, x.ndim))

    axis = axes[1]
    x = _read(x, axis, columns) * whole(1 - across, axis) + _read(x, axis, columns + 1) * whole(across, axis)
    axis = axes[0]
    x = x >> 4
    upper = (_read(x, axis, rows) * whole(1 - down, axis)) >> 16
    lower = (_read(x, axis, rows + 1) * whole(down, axis)) >> 16
    return ((upper + lower + 2) >> 2).astype(jnp.uint8)


def _cubic_weights(distances: Sequence[np.ndarray], real: type) -> np.ndarray:
    """Keys' cubic with a = -0.75 at the distances of four pixels, (4, m), in this precision."""
    first, second, third, fourth = (distance.astype(real) for distance in distances)

    def outer(d: np.ndarray) -> np.ndarray:
        return ((real(-0.75) * d + real(3.75)) * d - real(6)) * d + real(3)

    def inner(d: np.ndarray) -> np.ndarray:
        return (real(1.25) * d - real(2.25)) * d * d + real(1)

    return np.stack([outer(first), inner(second), inner(third), outer(fourth)])


def _cubic_in_float(x: jax.Array, axes: tuple[int, ...], centers: Sequence[np.ndarray], channels: int) -> jax.Array:
    """As IPP: float32 throughout, rounded at the end."""
    x = x.astype(jnp.float32)
    for axis, center in ((axes[1], centers[1]), (axes[0], centers[0])):
        first = np.floor(center)
        # All distances come from that of the first pixel, rounded.
        distance = np.float32(1) + (center - first).astype(np.float32)
        distances = (distance, distance - np.float32(1), np.float32(2) - distance, np.float32(3) - distance)
        weights = _cubic_weights(distances, np.float64).astype(np.float32)
        pixels = [_read(x, axis, first.astype(int) + k) for k in range(-1, 3)]
        terms = [(pixel, _along(weight, axis, x.ndim)) for pixel, weight in zip(pixels, weights, strict=True)]
        if axis == axes[1] and channels == 4:
            x = _across_four_channels(terms, first, x.shape[axis], axis)
        else:
            x = (_in_pairs(1, 0, 3, 2) if axis == axes[0] else _IPP_ACROSS[channels])(*terms)
    return _rounded(x)


def _across_four_channels(terms: Sequence["Term"], first: np.ndarray, size: int, axis: int) -> jax.Array:
    """As IPP sums rows of four channels: in one order by fours of columns, in others what is over and the edges."""
    inside = (first >= 1) & (first <= size - 3)
    over = inside & (np.cumsum(inside) > inside.sum() // 4 * 4)
    of_columns = lambda chosen: jnp.asarray(_along(chosen, axis, terms[0][0].ndim))  # noqa: E731
    y = jnp.where(of_columns(inside), _in_pairs(0, 2, 1, 3)(*terms), _in_order(*terms))
    return jnp.where(of_columns(over), _in_pairs(3, 0, 2, 1)(*terms), y)


def _cubic_in_fixed_point(
    x: jax.Array, axes: tuple[int, ...], centers: Sequence[np.ndarray], channels: int
) -> jax.Array:
    """As OpenCV itself: weights in 11 bits, and rounded from float32 where its vectors reach, from integers beyond."""
    weights, firsts = [], []
    for center in centers:
        center = center.astype(np.float32)
        first = np.floor(center)
        t, a, one = center - first, np.float32(-0.75), np.float32(1)
        f = np.float32
        outer = ((a * (t + one) - f(5) * a) * (t + one) + f(8) * a) * (t + one) - f(4) * a
        second = ((a + f(2)) * t - (a + f(3))) * t * t + one
        third = ((a + f(2)) * (one - t) - (a + f(3))) * (one - t) * (one - t) + one
        exact = np.stack([outer, second, third, one - outer - second - third])
        weights.append(np.rint(exact * np.float32(2048)).astype(np.int32))
        firsts.append(first.astype(int))
    (rows, columns), (down, across), rank = firsts, weights, x.ndim
    axis = axes[1]
    x = x.astype(jnp.int32)
    parts = [_read(x, axis, columns + k - 1) * jnp.asarray(_along(across[k], axis, rank)) for k in range(4)]
    x = functools.reduce(jnp.add, parts)
    axis = axes[0]
    pixels = [_read(x, axis, rows + k - 1) for k in range(4)]
    whole = functools.reduce(
        jnp.add, [pixel * jnp.asarray(_along(down[k], axis, rank)) for k, pixel in enumerate(pixels)]
    )
    whole = jnp.clip((whole + (1 << 21)) >> 22, 0, 255).astype(jnp.uint8)
    scaled = down.astype(np.float32) * np.float32(2.0**-22)
    floats = [(pixel.astype(jnp.float32), _along(scaled[k], axis, rank)) for k, pixel in enumerate(pixels)]
    total = _product(*floats[3])
    for term in floats[2::-1]:
        total = total + _product(*term)
    # The places along a row, channels included, that vectors of 8 reach.
    places = np.arange(x.shape[axes[1]])[:, None] * channels + np.arange(channels)
    reached = places < places.size // 8 * 8
    shape = [1] * rank
    shape[axes[1]] = x.shape[axes[1]]
    if channels > 1:
        shape[-1] = channels
    return jnp.where(jnp.asarray(reached.reshape(shape)), _rounded(total), whole)


def _area(
    x: jax.Array, axes: tuple[int, ...], geometry: tuple[Axis, ...], steps: Sequence[float], channels: int
) -> jax.Array:
    """Sums of whole pixels where the steps are whole, of fractions in float32 elsewhere."""
    whole = [round(step) for step in steps]
    if all(abs(step - near) < np.finfo(float).eps for step, near in zip(steps, whole, strict=True)):
        x = x.astype(jnp.int32)
        for i, step in enumerate(whole):
            parts = [_read(x, axes[i], np.arange(geometry[i].m) * step + k) for k in range(step)]
            x = functools.reduce(jnp.add, parts)
        if whole == [2, 2] and channels in (1, 3, 4):
            return ((x + 2) >> 2).astype(jnp.uint8)
        return _rounded(x.astype(jnp.float32) * np.float32(1 / (whole[0] * whole[1])))
    x = x.astype(jnp.float32)
    for i in (1, 0):
        index, weights = _overlaps(geometry[i], steps[i])
        total = jnp.zeros((), jnp.float32)
        for k in range(index.shape[1]):
            term = _product(_read(x, axes[i], index[:, k]), _along(weights[:, k], axes[i], x.ndim))
            total = term if k == 0 else total + term
        x = total
    return _rounded(x)


def _overlaps(axis: Axis, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that each output pixel covers and the parts of it that they make up, (m, k), in order."""
    start = np.arange(axis.m) * step
    end, covered = start + step, np.minimum(step, axis.n - start)
    last = np.minimum(np.floor(end).astype(int), axis.n - 1)
    first = np.minimum(np.ceil(start).astype(int), last)
    index = first[:, None] - 1 + np.arange((last - first).max() + 2)
    before, after = index == first[:, None] - 1, index == last[:, None]
    within = (index >= first[:, None]) & (index < last[:, None])
    sliver = 1e-3
    part = np.where(before & (first - start > sliver)[:, None], ((first - start) / covered)[:, None], 0)
    part = np.where(within, (1 / covered)[:, None], part)
    over = end - last
    rest = np.minimum(np.minimum(over, 1), covered) / covered
    part = np.where(after & (over > sliver)[:, None], rest[:, None], part)
    return np.clip(index, 0, axis.n - 1), part.astype(np.float32)


# --- float32 to the last bit ------------------------------------------------------------------------------------------

# A compiler may fuse a product and a sum, or may not. Here all products are exact, so that either gives the same.

Term = tuple[jax.Array, np.ndarray]


def _halves(x: jax.Array | np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Two parts of at most 12 bits each, whose sum is x."""
    x = jnp.asarray(x)
    high = lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.int32) & jnp.int32(-4096), jnp.float32)
    return high, x - high


def _parts(x: jax.Array, weight: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """The product as a sum of a part that is exact and a part that is as good as exact, being small."""
    (high, low), (heavy, light) = _halves(x), _halves(weight)
    return high * heavy, (high * light + low * heavy) + low * light


def _product(x: jax.Array, weight: np.ndarray) -> jax.Array:
    """The product, rounded once."""
    large, small = _parts(x, weight)
    return large + small


def _fused(x: jax.Array, weight: np.ndarray, addend: jax.Array) -> jax.Array:
    """The product and the addend, rounded once."""
    large, small = _parts(x, weight)
    total = addend + large
    back = total - addend
    lost = (addend - (total - back)) + (large - back)
    return total + (lost + small)


def _in_pairs(*order: int) -> Callable[..., jax.Array]:
    """Two fused pairs, added."""

    def form(*terms: Term) -> jax.Array:
        a, b, c, d = (terms[k] for k in order)
        return _fused(*b, _product(*a)) + _fused(*d, _product(*c))

    return form


def _in_order(*terms: Term) -> jax.Array:
    """One product, to which the others are fused."""
    total = _product(*terms[0])
    for term in terms[1:]:
        total = _fused(*term, total)
    return total


def _in_plain_pairs(*terms: Term) -> jax.Array:
    """Two pairs of products, added."""
    a, b, c, d = (_product(*term) for term in terms)
    return (a + b) + (c + d)


# How IPP sums a row, by the number of channels; of four see `_across_four_channels`.
_IPP_ACROSS = {1: _in_plain_pairs, 3: _in_order}
