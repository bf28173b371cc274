"""Predicted weights applied to windows of an array: the one trilinear form of the reassembly family.

For every output pixel `p`, centred on the input pixel `q(p)`, channel group `g` and tap `t`, the form sums

    form(x, w, y) = sum  w[p, g, t] * y[p, g, c] * x[q(p) + t * dilation, g, c]

It is linear in each of its three arguments, and its derivatives to them are the three functions of this file:

- `window_sum(x, w)`, the derivative to `y`: each output pixel is a weighted sum of its window;
- `window_correlation(x, y)`, the derivative to `w`: the inner products of each output pixel with its window;
- `fold(w, y)`, the derivative to `x`: each output pixel put back, weighted, where its window was.

The derivatives of each are thus the other two. They are primitives that know this, so that derivatives of any order
and direction are as fast as the functions, and none of them holds the windows as an array or scatters.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad

from upsampling.primitives._common import UNROLLED_TAPS, accumulator, block_rows, make_primitive


class Geometry(NamedTuple):
    """The static facts of a reassembly, one entry per spatial axis (`groups` aside).

    `size` is that of the map the windows are centred on; the arrays `x` are larger by the reach of the window on both
    sides, `dilation * (window // 2)` pixels. The output pixel `p` is centred on the input pixel `p // scale`, or, with
    `centres` given, on `centres[axis][p]`, and then `scale` is empty.
    """

    size: tuple[int, ...]
    scale: tuple[int, ...]
    centres: tuple[tuple[int, ...], ...]
    window: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def uniform(self) -> bool:
        """Whether every input pixel has equally many output pixels centred on it."""
        return not self.centres

    @property
    def reach(self) -> tuple[int, ...]:
        """By how much `x` is larger on each side."""
        return tuple(d * (k // 2) for k, d in zip(self.window, self.dilation, strict=True))

    @property
    def padded(self) -> tuple[int, ...]:
        """The spatial size of `x`."""
        return tuple(n + d * (k - 1) for n, k, d in zip(self.size, self.window, self.dilation, strict=True))

    @property
    def output(self) -> tuple[int, ...]:
        """The spatial size of `y` and `w`."""
        if self.centres:
            return tuple(map(len, self.centres))
        return tuple(n * s for n, s in zip(self.size, self.scale, strict=True))

    @property
    def starts(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Each tap's place in the window, and in `x` for the first input pixel."""
        for tap in itertools.product(*map(range, self.window)):
            yield tap, tuple(t * d for t, d in zip(tap, self.dilation, strict=True))


def window_sum(geometry: Geometry, x: jax.Array, w: jax.Array) -> jax.Array:
    """(n, *padded, channels), (n, *output, groups, *window) -> (n, *output, channels)."""
    return _window_sum_p.bind(x, w, geometry=geometry)


def window_correlation(geometry: Geometry, x: jax.Array, y: jax.Array) -> jax.Array:
    """(n, *padded, channels), (n, *output, channels) -> (n, *output, groups, *window)."""
    return _window_correlation_p.bind(x, y, geometry=geometry)


def fold(geometry: Geometry, w: jax.Array, y: jax.Array) -> jax.Array:
    """(n, *output, groups, *window), (n, *output, channels) -> (n, *padded, channels)."""
    return _fold_p.bind(w, y, geometry=geometry)


# How they are computed.


def _window_sum(x: jax.Array, w: jax.Array, *, geometry: Geometry) -> jax.Array:
    """A weighted sum over the taps, which XLA fuses into one loop."""
    if _many(geometry):
        return _window_sum_by_rows(x, w, geometry=geometry)
    dtype, wide = x.dtype, accumulator(x.dtype)
    w = _split(geometry, w)
    terms = (
        w[(..., *tap, None)].astype(wide) * _seen(geometry, x, start).astype(wide) for tap, start in geometry.starts
    )
    y = functools.reduce(jnp.add, terms)
    return y.astype(dtype).reshape(x.shape[0], *geometry.output, x.shape[-1])


def _window_correlation(x: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    """One sum over channels for each tap."""
    if _many(geometry):
        return _window_correlation_by_rows(x, y, geometry=geometry, compute=_window_correlation)
    dtype, wide = x.dtype, accumulator(x.dtype)
    y = _split(geometry, _grouped(geometry, y)).astype(wide)
    products = [(y * _seen(geometry, x, start).astype(wide)).sum(-1) for _, start in geometry.starts]
    w = jnp.stack(products, -1).astype(dtype)
    return w.reshape(x.shape[0], *geometry.output, geometry.groups, *geometry.window)


def _window_correlation_in_blocks(x: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Block by block of rows, a product of matrices for each input pixel: its window, and its output pixels.

    On a CPU this is thirty times faster than sums, which XLA does not vectorise. A block's windows stay in the caches.
    """
    if _many(geometry):
        return _window_correlation_by_rows(x, y, geometry=geometry, compute=_window_correlation_in_blocks)
    dtype, wide, count = x.dtype, accumulator(x.dtype), math.prod(geometry.window)
    rank, uniform, groups = len(geometry.size), geometry.uniform, geometry.groups
    places, across = (geometry.scale, geometry.size) if uniform else ((1,) * rank, geometry.output)
    rows = block_rows(across[0], math.prod(across[1:]) * count * x.shape[-1] * wide.itemsize)
    blocks, height = across[0] // rows, rows * places[0]
    part = geometry._replace(size=(rows, *geometry.size[1:]))

    def block(number: jax.Array) -> jax.Array:
        image, first = number // blocks, number % blocks * rows
        # Slices of the whole arrays: an array in another shape would be copied for the loop.
        values = _slice(y, (image, first * places[0]), (1, height))
        if uniform:
            inputs = _slice(x, (image, first), (1, part.padded[0]))
            seen = [_seen(part, inputs, start) for _, start in geometry.starts]
        else:
            inputs = _grouped(geometry, _slice(x, (image,), (1,)))
            own = lax.dynamic_slice_in_dim(jnp.asarray(geometry.centres[0]), first, rows)
            centres = (own, *map(np.asarray, geometry.centres[1:]))
            seen = [_take(inputs, centres, start) for _, start in geometry.starts]
        windows = jnp.stack([a.reshape(-1, groups, a.shape[-1]) for a in seen], 1).astype(wide)
        values = values.reshape(rows, places[0], *itertools.chain(*zip(across[1:], places[1:], strict=True)), -1)
        values = values.transpose(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2), 2 * rank)
        values = values.reshape(-1, math.prod(places), groups, windows.shape[-1]).astype(wide)
        w = jnp.einsum("qpgc,qtgc->qpgt", values, windows, precision=lax.Precision.HIGHEST).astype(dtype)
        w = w.reshape(rows, *across[1:], *places, groups, count)
        w = w.transpose(*itertools.chain(*((a, rank + a) for a in range(rank))), 2 * rank, 2 * rank + 1)
        return w.reshape(height, *geometry.output[1:], groups, *geometry.window)

    w = lax.map(block, jnp.arange(x.shape[0] * blocks))
    return w.reshape(x.shape[0], *geometry.output, groups, *geometry.window)


def _fold(w: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Phase by phase of the output, a weighted sum over the taps, which XLA fuses into one loop.

    A phase holds one output pixel for each input pixel that windows are centred on, so that where the windows were is
    a shift, the same for all, and nothing needs to be scattered.
    """
    if _many(geometry):
        return _fold_by_rows(w, y, geometry=geometry)
    dtype, wide = y.dtype, accumulator(y.dtype)
    reach = tuple(p - n for p, n in zip(geometry.padded, geometry.size, strict=True))
    phases, pick = _phases(geometry)

    def add(total: jax.Array, phase) -> tuple[jax.Array, None]:
        weights, values = (_surround(pick(a, phase), reach).astype(wide) for a in (w, y))
        for tap, start in geometry.starts:
            first = tuple(r - s for r, s in zip(reach, start, strict=True))
            last = tuple(f + p for f, p in zip(first, geometry.padded, strict=True))
            where = (slice(None), *(slice(f, e) for f, e in zip(first, last, strict=True)))
            terms = weights[where][(..., *tap, None)] * _grouped(geometry, values[where])
            total += terms.reshape(total.shape)
        return total, None

    total = jnp.zeros((y.shape[0], *geometry.padded, y.shape[-1]), wide)
    return lax.scan(add, total, phases)[0].astype(dtype)


def _window_sum_by_rows(x: jax.Array, w: jax.Array, *, geometry: Geometry) -> jax.Array:
    row, pick, _ = _row_of_taps(geometry)
    wide = accumulator(x.dtype)

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        taps = lax.dynamic_slice_in_dim(w, number, 1, -len(geometry.window))
        return total + _window_sum(pick(x, number).astype(wide), taps.astype(wide), geometry=row), None

    total = jnp.zeros((x.shape[0], *geometry.output, x.shape[-1]), wide)
    return lax.scan(add, total, jnp.arange(geometry.window[0]))[0].astype(x.dtype)


def _window_correlation_by_rows(x: jax.Array, y: jax.Array, *, geometry: Geometry, compute: Callable) -> jax.Array:
    row, pick, _ = _row_of_taps(geometry)
    rows = lax.map(lambda number: compute(pick(x, number), y, geometry=row), jnp.arange(geometry.window[0]))
    rows = jnp.moveaxis(rows, 0, -1 - len(geometry.window))
    return rows.reshape(*y.shape[:-1], geometry.groups, *geometry.window)


def _fold_by_rows(w: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    row, pick, put = _row_of_taps(geometry)
    wide = accumulator(y.dtype)

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        taps = lax.dynamic_slice_in_dim(w, number, 1, -len(geometry.window))
        part = _fold(taps.astype(wide), y.astype(wide), geometry=row)
        return put(total, pick(total, number) + part, number), None

    total = jnp.zeros((y.shape[0], *geometry.padded, y.shape[-1]), wide)
    return lax.scan(add, total, jnp.arange(geometry.window[0]))[0].astype(y.dtype)


# Pieces.


def _many(geometry: Geometry) -> bool:
    """Whether the window is taken row by row."""
    return math.prod(geometry.window) > UNROLLED_TAPS and geometry.window[0] > 1


def _row_of_taps(geometry: Geometry) -> tuple[Geometry, Callable, Callable]:
    """The geometry of one row of taps, and how to read and write the part of `x` that row `number` sees."""
    size = geometry.padded[0] - geometry.dilation[0] * (geometry.window[0] - 1)
    row = geometry._replace(window=(1, *geometry.window[1:]))

    def pick(x: jax.Array, number: jax.Array) -> jax.Array:
        return lax.dynamic_slice_in_dim(x, number * geometry.dilation[0], size, 1)

    def put(x: jax.Array, part: jax.Array, number: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(x, part, number * geometry.dilation[0], 1)

    return row, pick, put


def _split(geometry: Geometry, a: jax.Array) -> jax.Array:
    """(n, *output, ...) with each output axis in two, input pixel and place within it, where that is possible."""
    if not geometry.uniform:
        return a
    rest = a.shape[1 + len(geometry.size) :]
    return a.reshape(a.shape[0], *itertools.chain(*zip(geometry.size, geometry.scale, strict=True)), *rest)


def _grouped(geometry: Geometry, a: jax.Array) -> jax.Array:
    """(..., channels) -> (..., groups, channels of one)."""
    return a.reshape(*a.shape[:-1], geometry.groups, a.shape[-1] // geometry.groups)


def _seen(geometry: Geometry, x: jax.Array, start: tuple[int, ...]) -> jax.Array:
    """What one tap of every window sees, by groups, in a shape that broadcasts with that of `_split`."""
    if not geometry.uniform:
        return _take(_grouped(geometry, x), tuple(map(np.asarray, geometry.centres)), start)
    last = tuple(f + n for f, n in zip(start, geometry.size, strict=True))
    x = _grouped(geometry, lax.slice(x, (0, *start, 0), (x.shape[0], *last, x.shape[-1])))
    return x.reshape(x.shape[0], *itertools.chain(*((n, 1) for n in geometry.size)), *x.shape[-2:])


def _take(x: jax.Array, centres: tuple, start: tuple[int, ...]) -> jax.Array:
    for axis, (first, rows) in enumerate(zip(start, centres, strict=True), start=1):
        x = x.take(rows + first, axis, mode="clip")
    return x


def _slice(a: jax.Array, first: tuple, sizes: tuple[int, ...]) -> jax.Array:
    """A part of the first axes of an array."""
    rest = a.ndim - len(first)
    return lax.dynamic_slice(a, (*first, *(0,) * rest), (*sizes, *a.shape[len(first) :]))


def _surround(a: jax.Array, reach: tuple[int, ...]) -> jax.Array:
    """Zeros around the spatial axes, which follow the first."""
    margins = [(0, 0, 0), *((r, r, 0) for r in reach), *[(0, 0, 0)] * (a.ndim - 1 - len(reach))]
    return lax.pad(a, jnp.zeros((), a.dtype), margins)


def _phases(geometry: Geometry) -> tuple[tuple, Callable]:
    """What to scan over for the phases, and a function that picks from (n, *output, ...) one phase, (n, *size, ...)."""
    if geometry.uniform:
        places = list(itertools.product(*map(range, geometry.scale)))
        rank = len(geometry.size)

        def pick(a: jax.Array, place: tuple) -> jax.Array:
            a = _split(geometry, a)
            first, sizes = [0] * a.ndim, list(a.shape)
            for axis in range(rank):
                first[2 + 2 * axis], sizes[2 + 2 * axis] = place[axis], 1
            a = lax.dynamic_slice(a, first, sizes)
            return a.reshape(a.shape[0], *geometry.size, *a.shape[1 + 2 * rank :])

        return tuple(jnp.asarray(column, jnp.int32) for column in zip(*places, strict=True)), pick

    tables = [_outputs_of(centres, n) for centres, n in zip(geometry.centres, geometry.size, strict=True)]
    places = list(itertools.product(*(range(len(table)) for table in tables)))
    columns = tuple(
        jnp.asarray(table[[place[axis] for place in places]], jnp.int32) for axis, table in enumerate(tables)
    )

    def pick_rows(a: jax.Array, rows: tuple) -> jax.Array:
        for axis, row in enumerate(rows, start=1):
            a = a.take(row, axis, mode="fill", fill_value=0)
        return a

    return columns, pick_rows


def _outputs_of(centres: tuple[int, ...], size: int) -> np.ndarray:
    """(most, size): the output pixels centred on each input pixel, filled up with one number past the last."""
    owned: list[list[int]] = [[] for _ in range(size)]
    for output, centre in enumerate(centres):
        owned[centre].append(output)
    most = max(map(len, owned))
    return np.array([[*o, *[len(centres)] * (most - len(o))] for o in owned]).T


# The primitives.


def _shapes(geometry: Geometry, n: int, c: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The shapes of x, w and y."""
    return (
        (n, *geometry.padded, c),
        (n, *geometry.output, geometry.groups, *geometry.window),
        (n, *geometry.output, c),
    )


_window_sum_p = make_primitive(
    "window_sum",
    lambda x, w, *, geometry: x.update(shape=_shapes(geometry, x.shape[0], x.shape[-1])[2]),
    _window_sum,
    static=("geometry",),
)
_window_correlation_p = make_primitive(
    "window_correlation",
    lambda x, y, *, geometry: x.update(shape=_shapes(geometry, x.shape[0], x.shape[-1])[1]),
    _window_correlation,
    static=("geometry",),
    cpu_alone=_window_correlation_in_blocks,
)
_fold_p = make_primitive(
    "fold",
    lambda w, y, *, geometry: w.update(shape=_shapes(geometry, y.shape[0], y.shape[-1])[0]),
    _fold,
    static=("geometry",),
)

ad.defbilinear(
    _window_sum_p,
    lambda y, x, w, *, geometry: fold(geometry, w, y),
    lambda y, x, w, *, geometry: window_correlation(geometry, x, y),
)
ad.defbilinear(
    _window_correlation_p,
    lambda w, x, y, *, geometry: fold(geometry, w, y),
    lambda w, x, y, *, geometry: window_sum(geometry, x, w),
)
ad.defbilinear(
    _fold_p,
    lambda x, w, y, *, geometry: window_correlation(geometry, x, y),
    lambda x, w, y, *, geometry: window_sum(geometry, x, w),
)
