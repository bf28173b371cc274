"""Weighted window sums and their derivatives: what every reassembly method computes.

Each output pixel `p` has a window of `x` around the input pixel `q(p)`. For channel group `g` and tap `t`:

- a window sum makes each output pixel a weighted sum of the pixels of its window,
  `y[p, g, c] = sum_t w[p, g, t] * x[q(p) + t * dilation, g, c]`;
- a window correlation takes the inner product of each output pixel with each pixel of its window,
  `w[p, g, t] = sum_c y[p, g, c] * x[q(p) + t * dilation, g, c]`;
- a fold adds each output pixel, times its weights, to the pixels of its window,
  `x[q, g, c] = sum_{p, t : q(p) + t * dilation = q} w[p, g, t] * y[p, g, c]`.

Each is linear in both of its arguments, and its derivatives are the other two: correlation and fold give the gradients
of a window sum with respect to weights and input. They are primitives with these rules, so that derivatives of any
order, forward or reverse, are as fast as the functions. None of them stores the windows as an array, and none scatters.

Each has a form that XLA fuses everywhere, one for GPUs, a single kernel, and one for TPUs, with columns in the last
axis, which programs for several devices hold: others hold kernels by hand there (`windows_on_tpu`). Window sum and
correlation have one more for a CPU.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.interpreters import ad
from jax.typing import DTypeLike

from upsampling._arguments import Edge, is_static
from upsampling.primitives import _common, resample_on_tpu
from upsampling.primitives._common import (
    UNROLLED_TAPS,
    Tiles,
    accumulator,
    block_rows,
    core,
    make_primitive,
    over_tiles,
    pad_axis,
    pad_edges,
    rows_of_parts,
    tile_length,
    tile_places,
    with_axes,
    zeros,
)
from upsampling.primitives.resample import resample
from upsampling.primitives.taps import Taps


class Geometry(NamedTuple):
    """The static facts of a window sum, one entry per spatial axis (`groups` aside).

    The window of the output pixel `p` is centered on the input pixel `p // scale`; or, where `centers` are given, on
    `centers[axis][p]`, and then `scale` is empty. `size` is that of the map before padding. The primitives take `x`
    padded on both sides by the reach of the window, `dilation * (window // 2)` pixels.
    """

    size: tuple[int, ...]
    scale: tuple[int, ...]
    centers: tuple[tuple[int, ...], ...]
    window: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def around(
        cls, size: tuple[int, ...], centers: Sequence[np.ndarray], window: tuple[int, ...], groups: int = 1
    ) -> "Geometry":
        """Windows around `centers`, one array per axis.

        A scale replaces them where each input pixel in turn is the center of equally many output pixels.
        """
        scale = tuple(max(len(c) // n, 1) for n, c in zip(size, centers, strict=True))
        uniform = all(np.array_equal(c, np.arange(n * s) // s) for n, s, c in zip(size, scale, centers, strict=True))
        places = () if uniform else tuple(tuple(c.tolist()) for c in centers)
        return cls(size, scale if uniform else (), places, window, (1,) * len(size), groups)

    @property
    def uniform(self) -> bool:
        """Whether every input pixel has equally many output pixels centered on it."""
        return not self.centers

    @property
    def reach(self) -> tuple[int, ...]:
        """How many pixels `x` is padded by on each side."""
        return tuple(d * (k // 2) for k, d in zip(self.window, self.dilation, strict=True))

    @property
    def extent(self) -> tuple[int, ...]:
        """From a window's first pixel to its last, and the pixels between."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.window, self.dilation, strict=True))

    @property
    def padded(self) -> tuple[int, ...]:
        """The spatial size of `x` with its padding."""
        return tuple(n + d * (k - 1) for n, k, d in zip(self.size, self.window, self.dilation, strict=True))

    @property
    def output(self) -> tuple[int, ...]:
        """The spatial size of `y` and `w`."""
        if self.centers:
            return tuple(map(len, self.centers))
        return tuple(n * s for n, s in zip(self.size, self.scale, strict=True))

    @property
    def central(self) -> tuple[np.ndarray, ...]:
        """For each axis the pixel of `x`, before padding, that each output's window is centered on."""
        if self.centers:
            return tuple(map(np.asarray, self.centers))
        return tuple(np.arange(n * s) // s for n, s in zip(self.size, self.scale, strict=True))

    @property
    def starts(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Each tap's index in the window, and the pixel of `x` that it reads for the first input pixel."""
        for tap in itertools.product(*map(range, self.window)):
            yield tap, tuple(t * d for t, d in zip(tap, self.dilation, strict=True))


# For maps with any batch axes, unchecked. Both arguments have the same dtype.

# NumPy's words.
_PAD_MODES: dict[Edge, str] = {"replicate": "edge", "reflect": "reflect", "symmetric": "symmetric"}


@core((2, 3))
def window_sum(x: jax.Array, w: jax.Array, geometry: Geometry, edge: Edge | None) -> jax.Array:
    """(*batch, *size, channels), (*batch, *output, groups, *window) -> (*batch, *output, channels).

    Without an edge, `x` has its padding: (*batch, *padded, channels).
    """
    batch = x.shape[: -1 - len(geometry.size)]
    w = w.reshape(math.prod(batch), *w.shape[len(batch) :])
    y = window_sum_p.bind(_pad(x, geometry, edge), w, geometry=geometry)
    return y.reshape(*batch, *geometry.output, x.shape[-1])


@core((2, 3))
def window_correlation(x: jax.Array, y: jax.Array, geometry: Geometry, edge: Edge) -> jax.Array:
    """(*batch, *size, channels), (*batch, *output, channels) -> (*batch, *output, groups, *window)."""
    batch = x.shape[: -1 - len(geometry.size)]
    y = y.reshape(math.prod(batch), *y.shape[len(batch) :])
    w = window_correlation_p.bind(_pad(x, geometry, edge), y, geometry=geometry)
    return w.reshape(*batch, *w.shape[1:])


def window_distances(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The squared distance of each output pixel to each pixel of its window, of which those beyond the edge replicate.

    (*batch, *size, channels), (*batch, *output, channels) -> (*batch, *output, groups, *window). Not bilinear, so not a
    primitive: JAX differentiates it.
    """
    batch = x.shape[: -1 - len(geometry.size)]
    x, y = _pad(x, geometry, "replicate"), y.reshape(math.prod(batch), *y.shape[len(batch) :])
    in_rows: Callable = functools.partial(_window_correlation_by_rows, geometry=geometry, compute=_distances)
    at_once: Callable = in_rows if _is_large(geometry) else functools.partial(_distances_on_gpu, geometry=geometry)
    # Or the differences, as many as there are taps, are kept for the gradient.
    in_rows, at_once = (jax.checkpoint(form, prevent_cse=False) for form in (in_rows, at_once))

    on_tpu = functools.partial(_distances_on_tpu, geometry=geometry)
    w = lax.platform_dependent(x, y, cuda=at_once, rocm=at_once, tpu=on_tpu, default=in_rows)
    return w.reshape(*batch, *w.shape[1:])


def window_softmax(logits: jax.Array, rank: int, *per_axis: np.ndarray) -> jax.Array:
    """The softmax over each window, the last `rank` axes, computed in float32 at least.

    Args:
      logits: (*batch, *output, groups, *window).
      rank: number of spatial axes.
      per_axis: for each spatial axis (output, window), logits to add that depend on this axis alone; or none.
    """
    wide = logits.astype(accumulator(logits.dtype))
    if any(table.any() for table in per_axis):
        total = 0
        for axis, table in enumerate(per_axis):
            shape = [1] * (2 * rank + 1)
            shape[axis], shape[rank + 1 + axis] = table.shape
            total = total + table.reshape(shape)
        wide = wide + with_axes(jnp.asarray(total, wide.dtype), wide.ndim)
    return jax.nn.softmax(wide, axis=tuple(range(-rank, 0))).astype(logits.dtype)


def _pad(x: jax.Array, geometry: Geometry, edge: Edge | None) -> jax.Array:
    """(*batch, *size, channels) -> (n, *padded, channels)."""
    rank = len(geometry.size)
    x = x.reshape(math.prod(x.shape[: -1 - rank]), *x.shape[-1 - rank :])
    if edge is None:
        return x
    if edge == "zero":
        return _pad_zeros(x, geometry.reach)
    return _pad_p.bind(x, reach=geometry.reach, mode=_PAD_MODES[edge])


# Padding with pixels of the image is linear, and its transpose adds them up where they came from. In JAX it is a
# concatenation for each axis and side, all of which accelerators write: there it is one gather, or one kernel by hand.
# But an axis that is cut over devices is not gathered in parts, and symbolic sizes have no table of pixels. For several
# devices edges are added to a map with room for them: put beside it they would move all of a map that is cut.


def _pad_edges(x: jax.Array, *, reach: tuple[int, ...], mode: Any) -> jax.Array:
    margins = [(0, 0), *((r, r) for r in reach), (0, 0)]
    return pad_edges(x, margins) if mode == "edge" else jnp.pad(x, margins, mode=mode)


def _pad_edges_in_place(x: jax.Array, *, reach: tuple[int, ...], mode: Any, devices: int | None = None) -> jax.Array:
    del devices
    if not is_static(*x.shape[1:-1]):
        return _pad_edges(x, reach=reach, mode=mode)
    for (axis, taps), r in zip(_edge_taps(x.shape, reach, mode), reach, strict=True):
        total = pad_axis(x, axis, r, r)
        for start in (0, taps.outputs - r):
            places = taps.indices[start : start + r, 0]
            if r:
                first, last = int(places.min()), int(places.max()) + 1
                edge = lax.slice_in_dim(x, first, last, axis=axis).take(places - first, axis, mode="clip")
                total = total + pad_axis(edge, axis, start, taps.outputs - r - start)
        x = total
    return x


def _add_edges(
    y: jax.Array, *, reach: tuple[int, ...], mode: Any, pad: Callable = _pad_edges, devices: int | None = None
) -> jax.Array:
    """The transpose."""
    del devices
    like = jax.typeof(y).update(shape=_unpadded(y.shape, reach))
    (x,) = jax.linear_transpose(functools.partial(pad, reach=reach, mode=mode), like)(y)
    return x


def _pad_edges_on_gpu(x: jax.Array, *, reach: tuple[int, ...], mode: Any) -> jax.Array:
    if not is_static(*x.shape[1:-1]):
        return _pad_edges(x, reach=reach, mode=mode)
    # Written once: inside a window sum of many taps and channels XLA would write what each of them reads.
    return lax.optimization_barrier(resample(x, _edge_taps(x.shape, reach, mode)))


def _add_edges_on_gpu(y: jax.Array, *, reach: tuple[int, ...], mode: Any) -> jax.Array:
    if not is_static(*y.shape[1:-1]):
        return _add_edges(y, reach=reach, mode=mode)
    taps = _edge_taps(_unpadded(y.shape, reach), reach, mode)
    return resample(y, [(axis, own.transpose) for axis, own in taps])


def _edges_by_hand(x: ShapedArray, *, reach: tuple[int, ...], mode: Any, transposed: bool) -> Callable | None:
    """What pads, or the transpose, on a TPU, if there is a kernel for it."""
    if not is_static(*x.shape):
        return None
    taps = _edge_taps(_unpadded(x.shape, reach) if transposed else x.shape, reach, mode)
    operators = [(axis, own.transpose) for axis, own in taps] if transposed else taps
    if not resample_on_tpu.takes_by_columns(x, operators):
        return None
    return lambda x, **_: resample_on_tpu.by_columns(x, operators=operators)


def _edge_taps(shape: Sequence[int], reach: tuple[int, ...], mode: Any) -> list[tuple[int, Taps]]:
    """What pads an array of this shape, axis by axis."""
    places = [np.pad(np.arange(n), r, mode=mode) for n, r in zip(shape[1:-1], reach, strict=True)]
    return [(axis, Taps(shape[axis], p[:, None], np.ones((len(p), 1)))) for axis, p in enumerate(places, start=1)]


def _unpadded(shape: Sequence[int], reach: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *(n - 2 * r for n, r in zip(shape[1:-1], reach, strict=True)), shape[-1])


# The forms of the primitives, for (n, *padded, channels), (n, *output, groups, *window) and (n, *output, channels).


def _window_sum(x: jax.Array, w: jax.Array, *, geometry: Geometry) -> jax.Array:
    """A sum over the taps, which XLA fuses into one loop."""
    if _is_large(geometry):
        return _window_sum_by_rows(x, w, geometry=geometry, compute=_window_sum)
    dtype, wide = x.dtype, accumulator(x.dtype)
    w = _split(geometry, w)
    terms = (
        w[(..., *tap, None)].astype(wide) * _read(geometry, x, start).astype(wide) for tap, start in geometry.starts
    )
    y = functools.reduce(jnp.add, terms)
    return y.astype(dtype).reshape(x.shape[0], *geometry.output, x.shape[-1])


def _window_sum_in_tiles(x: jax.Array, w: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Some rows of a large output at a time: around uneven centers XLA for CPUs may write what each tap reads."""
    dtype, wide, (height, *across) = x.dtype, accumulator(x.dtype), geometry.output
    images = x.shape[0] if is_static(x.shape[0]) else 1
    row_bytes = images * math.prod(across) * x.shape[-1] * wide.itemsize * math.prod(geometry.window)
    if geometry.uniform or _is_large(geometry) or row_bytes * height <= 4 * _common.MOST_BYTES:
        return _window_sum(x, w, geometry=geometry)
    length, x = tile_length(height, max(_common.TILE_BYTES // row_bytes, 1)), _grouped(geometry, x)
    tiles = Tiles(1, tile_places(height, length))

    def tile(top: jax.Array, rows: jax.Array) -> jax.Array:
        weights = lax.dynamic_slice_in_dim(w, top, length, 1)
        centers = (rows, *map(np.asarray, geometry.centers[1:]))
        terms = (
            weights[(..., *tap, None)].astype(wide) * _take(x, centers, start).astype(wide)
            for tap, start in geometry.starts
        )
        y = functools.reduce(jnp.add, terms).astype(dtype)
        return y.reshape(y.shape[0], length, math.prod(across), -1)

    y = over_tiles(tile, tiles, own=(jnp.asarray(np.asarray(geometry.centers[0])[tiles.rows()], jnp.int32),))
    return y.reshape(y.shape[0], height, *across, -1)


def _window_correlation(x: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    """One sum over channels for each tap."""
    if _is_large(geometry):
        return _window_correlation_by_rows(x, y, geometry=geometry, compute=_window_correlation)
    dtype, wide = x.dtype, accumulator(x.dtype)
    y = _split(geometry, _grouped(geometry, y)).astype(wide)
    products = [(y * _read(geometry, x, start).astype(wide)).sum(-1) for _, start in geometry.starts]
    w = jnp.stack(products, -1).astype(dtype)
    return w.reshape(x.shape[0], *geometry.output, geometry.groups, *geometry.window)


def _window_correlation_in_blocks(x: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Block by block of rows, one product of matrices for each input pixel: its output pixels times its window.

    On a CPU this is thirty times faster than sums, which XLA does not vectorise. A block's windows fit the caches.
    """
    if _is_large(geometry):
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
            read = [_read(part, inputs, start) for _, start in geometry.starts]
        else:
            inputs = _grouped(geometry, _slice(x, (image,), (1,)))
            own = lax.dynamic_slice_in_dim(jnp.asarray(geometry.centers[0]), first, rows)
            centers = (own, *map(np.asarray, geometry.centers[1:]))
            read = [_take(inputs, centers, start) for _, start in geometry.starts]
        windows = jnp.stack([a.reshape(-1, groups, a.shape[-1]) for a in read], 1).astype(wide)
        values = values.reshape(rows, places[0], *itertools.chain(*zip(across[1:], places[1:], strict=True)), -1)
        values = values.transpose(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2), 2 * rank)
        values = values.reshape(-1, math.prod(places), groups, windows.shape[-1]).astype(wide)
        w = jnp.einsum("qpgc,qtgc->qpgt", values, windows, precision=lax.Precision.HIGHEST).astype(dtype)
        w = w.reshape(rows, *across[1:], *places, groups, count)
        w = w.transpose(*itertools.chain(*((a, rank + a) for a in range(rank))), 2 * rank, 2 * rank + 1)
        return w.reshape(height, *geometry.output[1:], groups, *geometry.window)

    w = lax.map(block, jnp.arange(x.shape[0] * blocks))
    return w.reshape(x.shape[0], *geometry.output, groups, *geometry.window)


def _distances(x: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    y = _split(geometry, _grouped(geometry, y))
    w = jnp.stack([((y - _read(geometry, x, start)) ** 2).sum(-1) for _, start in geometry.starts], -1)
    return w.reshape(x.shape[0], *geometry.output, geometry.groups, *geometry.window)


def _fold(w: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Phase by phase of the output, a sum over the taps, which XLA fuses into one loop.

    A phase has one output pixel for each input pixel. So each tap shifts all of them by the same distance, and nothing
    needs to be scattered.
    """
    if not geometry.uniform:
        return _fold_in_rows(w, y, geometry=geometry)
    if _is_large(geometry):
        return _fold_by_rows(w, y, geometry=geometry, compute=_fold)
    dtype, wide = w.dtype, accumulator(y.dtype)
    reach = tuple(p - n for p, n in zip(geometry.padded, geometry.size, strict=True))
    phases, pick = _phases(geometry)

    def add(total: jax.Array, phase) -> tuple[jax.Array, None]:
        weights, values = (_pad_zeros(pick(a, phase), reach).astype(wide) for a in (w, y))
        for tap, start in geometry.starts:
            first = tuple(r - s for r, s in zip(reach, start, strict=True))
            own, seen = (_part(a, first, geometry.padded) for a in (weights[(..., *tap)], values))
            terms = own[..., None] * _grouped(geometry, seen)
            total += terms.reshape(total.shape)
        return total, None

    total = zeros((y.shape[0], *geometry.padded, y.shape[-1]), jax.typeof(y).update(dtype=wide))
    return lax.scan(add, total, phases)[0].astype(dtype)


def _fold_in_rows(w: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    """Row by row of the input: products of matrices sum the rows that see it, gathers what is seen of its columns.

    Where windows move inward at edges a few pixels are the center of many outputs, and there are as many phases. Here
    as many products are spent on each row and column as windows see it.
    """
    dtype, wide, rank = w.dtype, accumulator(y.dtype), len(geometry.size)
    if rank == 1:  # a row of its own
        sizes, windows, steps = ((1, *a) for a in (geometry.size, geometry.window, geometry.dilation))
        one = Geometry(sizes, (), ((0,), *geometry.centers), windows, steps, geometry.groups)
        return _fold_in_rows(jnp.expand_dims(w, (1, -2)), y[:, None], geometry=one)[:, 0]
    w, y = w.astype(wide), _grouped(geometry, y).astype(wide)
    by_row, *by_column = seen_by(geometry)

    def row(places: jax.Array) -> jax.Array:
        output, tap = places[..., 0], places[..., 1]
        # (seen by, n, *columns, groups, *taps of columns) and (n, seen by, *columns, groups, channels of one)
        weights = w.at[(slice(None), output, *[slice(None)] * rank, tap)].get(mode="fill", fill_value=0)
        values = y.take(output, 1, mode="fill", fill_value=0)
        taps = weights.shape[rank + 2 :]
        weights = weights.reshape(*weights.shape[: rank + 2], -1)
        total = jnp.einsum("kn...gt,nk...gc->n...gtc", weights, values, precision=lax.Precision.HIGHEST)
        total = total.reshape(*total.shape[: rank + 1], *taps, total.shape[-1])
        for axis, (output, tap) in enumerate(np.moveaxis(table, -1, 0) for table in by_column):
            total = jnp.moveaxis(total, rank + 1, 2 + axis)
            total = total.at[(*[slice(None)] * (1 + axis), output, tap)].get(mode="fill", fill_value=0).sum(2 + axis)
        return total

    x = jnp.moveaxis(lax.map(row, jnp.asarray(by_row, jnp.int32)), 0, 1)
    return x.astype(dtype).reshape(x.shape[0], *geometry.padded, -1)


# The forms for a GPU: one kernel each. Of plain sums XLA makes a kernel for every few taps, of loops several for each
# step. Few taps that shift all pixels alike are written out, as what XLA computes without tables of pixels, and what is
# cut along an axis that devices share. Else a sum over gathers, which XLA makes one kernel of, whatever their number.


def _window_sum_on_gpu(x: jax.Array, w: jax.Array, *, geometry: Geometry, rows: jax.Array | None = None) -> jax.Array:
    """`rows`: those that outputs read, (output, window), in place of the geometry's."""
    if _is_short(geometry):
        return _window_sum(x, w, geometry=geometry)
    dtype, wide, rank = x.dtype, accumulator(x.dtype), len(geometry.size)
    w = jnp.moveaxis(w, rank + 1, -1)[..., None]
    y = (w.astype(wide) * _windows(geometry, x, rows).astype(wide)).sum(range(rank + 1, 2 * rank + 1))
    return y.astype(dtype).reshape(y.shape[0], *geometry.output, -1)


def _window_correlation_on_gpu(
    x: jax.Array, y: jax.Array, *, geometry: Geometry, rows: jax.Array | None = None
) -> jax.Array:
    """Taps that are written out are one sum, of products that are put side by side."""
    dtype, wide, rank = x.dtype, accumulator(x.dtype), len(geometry.size)
    y = _grouped(geometry, y).astype(wide)
    if _is_short(geometry):
        y = _split(geometry, y)
        products = [jnp.expand_dims(y * _read(geometry, x, start).astype(wide), -2) for _, start in geometry.starts]
        w = lax.concatenate(products, y.ndim - 1).sum(-1)
    else:
        y = jnp.expand_dims(y, range(rank + 1, 2 * rank + 1))
        w = jnp.moveaxis((y * _windows(geometry, x, rows).astype(wide)).sum(-1), -1, rank + 1)
    return w.astype(dtype).reshape(x.shape[0], *geometry.output, geometry.groups, *geometry.window)


def _distances_on_gpu(x: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    y = _split(geometry, _grouped(geometry, y))
    squares = [jnp.expand_dims((y - _read(geometry, x, start)) ** 2, -2) for _, start in geometry.starts]
    w = lax.concatenate(squares, y.ndim - 1).sum(-1)
    return w.reshape(x.shape[0], *geometry.output, geometry.groups, *geometry.window)


def _fold_on_gpu(w: jax.Array, y: jax.Array, *, geometry: Geometry, rows: jax.Array | None = None) -> jax.Array:
    """Terms that are written out are those of all phases and taps, each of which reads weights and outputs with a
    stride.

    `rows`: what sees those of `x`, as of `seen_by`, in place of the geometry's.
    """
    dtype, wide = w.dtype, accumulator(y.dtype)
    # In float32 from here on: half precision would be padded, and its slices written, by kernels of their own.
    w, y = w.astype(wide), _grouped(geometry, y).astype(wide)
    if _is_short(geometry, math.prod(geometry.scale)):
        reach = tuple((p - n) * s for p, n, s in zip(geometry.padded, geometry.size, geometry.scale, strict=True))
        w, y = _pad_zeros(w, reach), _pad_zeros(y, reach)
        terms = []
        for phase, (tap, start) in itertools.product(itertools.product(*map(range, geometry.scale)), geometry.starts):
            read = [slice(None)]
            for place, first, s, r, p in zip(phase, start, geometry.scale, reach, geometry.padded, strict=True):
                begin = r - first * s + place
                read.append(slice(begin, begin + (p - 1) * s + 1, s))
            terms.append(w[(*read, Ellipsis, *tap, None)] * y[tuple(read)])
        x = functools.reduce(jnp.add, terms)
    else:
        x = _fold_by_gathers(w, y, geometry, rows)
    # Or else a caller's slice of the result becomes a slice of every term, and these are written to memory.
    return lax.optimization_barrier(x.astype(dtype).reshape(x.shape[0], *geometry.padded, -1))


def _fold_by_gathers(w: jax.Array, y: jax.Array, geometry: Geometry, rows: jax.Array | None) -> jax.Array:
    """Takes and returns channels by groups."""
    rank = len(geometry.size)
    sees = jnp.ones((1,) * (2 * rank + 3), bool)
    for axis, table in enumerate(seen_by(geometry)):
        table = table if axis or rows is None else rows
        output, tap = table[..., 0], table[..., 1]
        before = [slice(None)] * (1 + 2 * axis)
        w = jnp.moveaxis(w, axis - rank, 2 + 2 * axis).at[(*before, output, tap)].get(mode="clip")
        y = y.at[(*before, output)].get(mode="clip")
        others = [a for a in range(2 * rank + 3) if a not in (1 + 2 * axis, 2 + 2 * axis)]
        sees &= jnp.expand_dims(output < geometry.output[axis], others)
    sees, w, y = (_inner_last(rank, a) for a in (sees, w[..., None], y))
    # Not gathers that fill up: those of the weights are dearer, and XLA would write them.
    return jnp.where(sees, w * y, jnp.zeros((), w.dtype)).sum(range(rank + 1, 2 * rank + 1))


def _is_short(geometry: Geometry, phases: int = 1) -> bool:
    """Whether every tap shifts all pixels alike, and taps of all phases are few enough to be written out."""
    return geometry.uniform and phases * math.prod(geometry.window) <= UNROLLED_TAPS


def _windows(geometry: Geometry, x: jax.Array, rows: jax.Array | None) -> jax.Array:
    """(n, *padded, channels) -> (n, *output, *window, groups, channels of one). Not to be stored."""
    x = _grouped(geometry, x)
    for axis, table in enumerate(_taps(geometry)):
        table = table if axis or rows is None else rows
        x = x.take(table, 1 + 2 * axis, mode="clip")
    return _inner_last(len(geometry.size), x)


def _inner_last(rank: int, a: jax.Array) -> jax.Array:
    """(n, *(outer, inner), ...) -> (n, *outer, *inner, ...). XLA cuts a sum over axes that do not follow each other."""
    outer, inner = range(1, 2 * rank + 1, 2), range(2, 2 * rank + 2, 2)
    return a.transpose(0, *outer, *inner, *range(2 * rank + 1, a.ndim))


# The forms for a TPU. Its memory holds the last two axes in tiles of 8x128, so columns are last here, channels before
# them. What a tap reads is shifted by whole rows, which costs nothing; and along each row shifted and repeated by a
# product with a matrix of zeros and ones, since the matrix unit moves single columns faster than anything else there.
# That is exact, but spreads a NaN along its row.

_LANES = 128
_TAPS_ON_TPU = 32  # written out: each is a matrix product, and they compile slowly


def window_sum_on_tpu(x: jax.Array, w: jax.Array, *, geometry: Geometry) -> jax.Array:
    if not _is_narrow(x.dtype):
        return _window_sum(x, w, geometry=geometry)
    if _is_wide(geometry):
        return _window_sum_by_columns(x, w, geometry=geometry)
    seen, w, wide = _seen(geometry, x), _columns_last(geometry, w), accumulator(x.dtype)
    terms = []
    for tap, start in geometry.starts:
        pixels = seen(start).astype(wide)
        terms.append(_weights_of(w, tap, pixels.shape).astype(wide) * pixels)
    y = functools.reduce(jnp.add, terms).astype(x.dtype)
    return jnp.moveaxis(y.reshape(y.shape[0], *geometry.output[:-1], x.shape[-1], y.shape[-1]), -1, -2)


def window_correlation_on_tpu(
    x: jax.Array, y: jax.Array, *, geometry: Geometry, dtype: DTypeLike | None = None
) -> jax.Array:
    """`dtype` is that of the result, if not the one of `x`."""
    if not _is_narrow(x.dtype):
        return _window_correlation(x, y, geometry=geometry)
    if _is_high(geometry):
        return _window_correlation_by_rows(x, y, geometry=geometry, compute=window_correlation_on_tpu)
    if _is_wide(geometry):
        return _correlate_by_columns(x, y, geometry, _products, dtype or x.dtype)
    seen, y, wide = _seen(geometry, x), _columns_last(geometry, _grouped(geometry, y)), accumulator(x.dtype)
    products = [(y.astype(wide) * seen(start).astype(wide)).sum(-2) for _, start in geometry.starts]
    w = jnp.moveaxis(jnp.stack(products, -2).astype(dtype or x.dtype), -1, -3)
    return w.reshape(x.shape[0], *geometry.output, geometry.groups, *geometry.window)


def window_correlation_like_on_tpu(x: jax.Array, y: jax.Array, like: jax.Array, *, geometry: Geometry) -> jax.Array:
    """In the dtype of a third array."""
    return window_correlation_on_tpu(x, y, geometry=geometry, dtype=like.dtype)


def fold_on_tpu(w: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    """For each column of the window a sum over its rows, and one matrix product that shifts and sums its columns.

    In the dtype of `w`.
    """
    if not _is_narrow(y.dtype):
        return _fold(w, y, geometry=geometry)
    if _is_wide(geometry):
        return _fold_by_columns(w, y, geometry=geometry)
    dtype, wide, rank = w.dtype, accumulator(y.dtype), len(geometry.size)
    w, y = _columns_last(geometry, w), _columns_last(geometry, _grouped(geometry, y))
    phases = [(pick(w).astype(wide), pick(y).astype(wide)) for pick in _row_phases(geometry)]
    slack = tuple(p - n for p, n in zip(geometry.padded, geometry.size, strict=True))
    zero, parts = jnp.zeros((), wide), []
    for column in range(geometry.window[-1]):
        shifted = []
        for tap in itertools.product(*map(range, geometry.window[:-1])):
            terms = [_weights_of(weights, (*tap, column), values.shape) * values for weights, values in phases]
            first = [t * d for t, d in zip(tap, geometry.dilation, strict=False)]
            margins = [(f, s - f, 0) for f, s in zip(first, slack, strict=False)]
            shifted.append(lax.pad(functools.reduce(jnp.add, terms), zero, [(0, 0, 0), *margins, *[(0, 0, 0)] * 3]))
        parts += _columns_put_back(geometry, column, functools.reduce(jnp.add, shifted))
    x = jnp.moveaxis(functools.reduce(jnp.add, parts), -1, rank)
    return x.astype(dtype).reshape(*x.shape[: 1 + rank], -1)


def _columns_last(geometry: Geometry, a: jax.Array) -> jax.Array:
    """(n, *output, ...) -> (n, *rows, ..., columns), each axis of rows split into (size, scale) where there is one."""
    rows = geometry.output[:-1]
    if geometry.uniform:
        rows = tuple(itertools.chain(*zip(geometry.size[:-1], geometry.scale[:-1], strict=True)))
    rest = a.shape[len(geometry.size) :]
    return jnp.moveaxis(a.reshape(a.shape[0], *rows, *rest), 1 + len(rows), -1)


def _weights_of(w: jax.Array, tap: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    """(n, *rows, groups, *window, columns) -> one tap's, for every channel: (n, *rows, groups, channels, columns)."""
    w = w[(..., *tap, slice(None))]
    return lax.broadcast_in_dim(w, shape, (*range(w.ndim - 1), w.ndim))


def _seen(geometry: Geometry, x: jax.Array) -> Callable[[tuple[int, ...]], jax.Array]:
    """A function of where a tap starts, to the pixels that it reads: (n, *rows, groups, channels, columns)."""
    rank = len(geometry.size)
    x = jnp.moveaxis(_grouped(geometry, x), rank, -1)
    blocks = [
        (inputs, own, _parts(lax.slice_in_dim(x, inputs.start, inputs.stop, axis=-1)))
        for _, inputs, own in _column_blocks(geometry)
    ]

    def seen(start: tuple[int, ...]) -> jax.Array:
        *rows, column = start
        columns = []
        for inputs, own, parts in blocks:
            if geometry.uniform:
                chosen = (slice(f, f + n) for f, n in zip(rows, geometry.size, strict=False))
                parts = parts[(slice(None), *chosen)]
            columns.append(_times(parts, _selection(inputs, own + column, parts.dtype), x.dtype))
        y = lax.concatenate(columns, columns[0].ndim - 1)
        if geometry.uniform:
            places = itertools.chain(*zip(geometry.size[:-1], geometry.scale[:-1], strict=True))
            kept = (0, *range(1, 2 * rank - 2, 2), *range(2 * rank - 1, 2 * rank + 2))
            return lax.broadcast_in_dim(y, (y.shape[0], *places, *y.shape[rank:]), kept)
        return _take(y, tuple(map(np.asarray, geometry.centers[:-1])), tuple(rows))

    return seen


def _row_phases(geometry: Geometry) -> Iterator[Callable[[jax.Array], jax.Array]]:
    """Functions that take, from (n, *rows, ...) with columns last, one row for each row of `x`."""
    if geometry.uniform:
        for place in itertools.product(*map(range, geometry.scale[:-1])):
            yield functools.partial(_each_at, place=place)
    else:
        tables = [_outputs_of(c, n) for c, n in zip(geometry.centers[:-1], geometry.size, strict=False)]
        for rows in itertools.product(*tables):
            yield functools.partial(_each_row, rows=rows)


def _each_at(a: jax.Array, place: tuple[int, ...]) -> jax.Array:
    for axis, index in enumerate(place, start=2):
        a = lax.index_in_dim(a, index, axis, keepdims=False)
    return a


def _each_row(a: jax.Array, rows: tuple) -> jax.Array:
    for axis, row in enumerate(rows, start=1):
        a = a.take(row, axis, mode="fill", fill_value=0)
    return a


# Windows of more taps on a TPU, column by column in a loop, whose body is what a small window is: rows shifted in
# place, columns by a product. Groups are images of their own, and rows are cut where windows stop to move, as at edges.
# In place of the form above for few taps it was ahead for some and far behind for others, whose weights XLA then holds
# with taps in the last axes.

_RUNS, _PHASES = 4, 4  # of rows on an axis that are taken apart, and of outputs to a center


def _window_sum_by_columns(x: jax.Array, w: jax.Array, *, geometry: Geometry) -> jax.Array:
    if _is_high(geometry):
        return _window_sum_by_rows(x, w, geometry=geometry, compute=_window_sum_by_columns)
    dtype, wide, rank = x.dtype, accumulator(x.dtype), len(geometry.size)
    x = as_images(geometry, x)

    def sums(block: tuple[_Run, ...]) -> jax.Array:
        own = _taps_first(geometry, _outputs(block, w))
        if _is_still(geometry, block):
            terms = _flat(geometry, own)[..., None, :].astype(wide) * _window_of(geometry, block, x).astype(wide)
            return terms.sum((0, 1)).reshape(own.shape[rank], *own.shape[rank + 1 : -1], x.shape[-2], own.shape[-1])
        seen = _seen_in(geometry, block, x)

        def add(total: jax.Array, column: Any, weights: jax.Array) -> jax.Array:
            read = seen(column)
            for tap in np.ndindex(*geometry.window[:-1]):
                total = total + _apart(block, weights[tap]).astype(wide)[..., None, :] * read(tap).astype(wide)
            return total

        shape = (own.shape[rank], *_split_shape(block), x.shape[-2], own.shape[-1])
        total = _over_columns(geometry, add, zeros(shape, jax.typeof(x).update(dtype=wide)), own)
        return total.reshape(shape[0], *own.shape[rank + 1 : -1], *shape[-2:])

    y = _join(geometry, [sums(block) for block in _blocks(geometry)], 1)
    return from_images(geometry, y.astype(dtype))


def _correlate_by_columns(
    x: jax.Array, y: jax.Array, geometry: Geometry, compute: Callable, dtype: DTypeLike, in_parts: bool = True
) -> jax.Array:
    """What `compute` makes of outputs and the pixels that a tap reads, (..., channels, columns) -> (..., columns)."""
    n, rank, count = x.shape[0], len(geometry.size), geometry.window[-1]
    x, y = as_images(geometry, x), as_images(geometry, y)

    def of_taps(block: tuple[_Run, ...]) -> jax.Array:
        """(columns of the window, taps of one, n * groups, *rows, columns)."""
        rows = _outputs(block, y)
        if _is_still(geometry, block):
            values = rows.reshape(1, 1, rows.shape[0], -1, *rows.shape[-2:])
            w = compute(values, _window_of(geometry, block, x, in_parts)).astype(dtype)
            return w.reshape(*w.shape[:3], *rows.shape[1:-2], w.shape[-1])
        seen = _seen_in(geometry, block, x, in_parts)
        split = (rows.shape[0], *_split_shape(block), *rows.shape[-2:])

        def taps(column: Any) -> jax.Array:
            read = seen(column)
            pixels = map(read, np.ndindex(*geometry.window[:-1]))
            if _is_wide(geometry):
                # Outputs of a center are no axis of their own in what a loop writes: it would be one of two last.
                w = [compute(rows, jnp.broadcast_to(own, split).reshape(rows.shape)) for own in pixels]
            else:
                w = [compute(rows.reshape(split), own) for own in pixels]
            return jnp.stack(w).astype(dtype).reshape(len(w), *rows.shape[:-2], rows.shape[-1])

        return lax.map(taps, jnp.arange(count)) if _is_wide(geometry) else jnp.stack([taps(c) for c in range(count)])

    w = _join(geometry, [of_taps(block) for block in _blocks(geometry)], 3)
    w = w.reshape(count, *geometry.window[:-1], n, geometry.groups, *geometry.output)
    return w.transpose(rank, *range(rank + 2, 2 * rank + 2), rank + 1, *range(1, rank), 0)


def _products(values: jax.Array, pixels: jax.Array) -> jax.Array:
    return (values.astype(jnp.float32) * pixels.astype(jnp.float32)).sum(-2)


def _distances_on_tpu(x: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    if not _is_narrow(x.dtype) or _is_high(geometry):
        return _window_correlation_by_rows(x, y, geometry=geometry, compute=_distances)
    squares = lambda values, pixels: ((values - pixels) ** 2).sum(-2)  # noqa: E731
    form = lambda x, y, in_parts: _correlate_by_columns(x, y, geometry, squares, x.dtype, in_parts)  # noqa: E731
    # What shifts numbers in parts shifts them exactly, but no derivative.
    distances = jax.custom_jvp(functools.partial(form, in_parts=True))
    in_one = jax.checkpoint(functools.partial(form, in_parts=False), prevent_cse=False)
    distances.defjvp(lambda primals, tangents: (distances(*primals), jax.jvp(in_one, primals, tangents)[1]))
    return distances(x, y)


def _fold_by_columns(w: jax.Array, y: jax.Array, *, geometry: Geometry) -> jax.Array:
    """For each column of the window a sum over its rows, and one matrix product that shifts and sums its columns."""
    if _is_high(geometry):
        return _fold_by_rows(w, y, geometry=geometry, compute=_fold_by_columns)
    dtype, wide = w.dtype, accumulator(y.dtype)
    y, zero = as_images(geometry, y), jnp.zeros((), wide)

    def folded(block: tuple[_Run, ...]) -> jax.Array:
        if _is_still(geometry, block):
            rows, own = _outputs(block, y), _flat(geometry, _taps_first(geometry, _outputs(block, w)))
            rows = rows.reshape(rows.shape[0], -1, *rows.shape[-2:])
            terms = own[..., None, :].astype(wide) * rows[None, None].astype(wide)
            return _window_back(geometry, block, terms.sum(3))
        values = [a.astype(wide) for a in _phases_of(geometry, block, _outputs(block, _owned(block, y)))]
        read = [run.read(n, k, d) for run, n, k, d in zip(block, *_rows_of(geometry), strict=True)]

        def add(x: jax.Array, column: Any, weights: jax.Array) -> jax.Array:
            shifted = []
            for tap in np.ndindex(*geometry.window[:-1]):
                phases = zip(_phases_of(geometry, block, weights[tap]), values, strict=True)
                terms = [_sum_in_place(block, own.astype(wide)[..., None, :] * seen) for own, seen in phases]
                term, margins = functools.reduce(jnp.add, terms), []
                for axis, (rows, t, d) in enumerate(zip(read, tap, geometry.dilation, strict=False), start=1):
                    margins.append((t * d, len(rows) - term.shape[axis] - t * d, 0))
                shifted.append(lax.pad(term, zero, [(0, 0, 0), *margins, *[(0, 0, 0)] * 2]))
            return functools.reduce(jnp.add, _columns_put_back(geometry, column, functools.reduce(jnp.add, shifted)), x)

        x = zeros((y.shape[0], *map(len, read), y.shape[-2], geometry.padded[-1]), jax.typeof(y).update(dtype=wide))
        x = _over_columns(geometry, add, x, _taps_first(geometry, _outputs(block, w)))
        margins = [(rows.start, n - rows.stop, 0) for rows, n in zip(read, geometry.padded, strict=False)]
        return lax.pad(x, zero, [(0, 0, 0), *margins, (0, 0, 0), (0, 0, 0)])

    x = functools.reduce(jnp.add, map(folded, _blocks(geometry)))
    return from_images(geometry, x.astype(dtype))


def _is_narrow(dtype: jnp.dtype) -> bool:
    """Whether three bfloat16 hold a number exactly."""
    return jnp.finfo(dtype).nmant < 24


def _is_high(geometry: Geometry) -> bool:
    """Whether a column of the window has too many taps to be written out."""
    return math.prod(geometry.window[:-1]) > _TAPS_ON_TPU


def _is_wide(geometry: Geometry) -> bool:
    """Whether the columns of the window are a loop."""
    return math.prod(geometry.window) > _TAPS_ON_TPU


def _over_columns(geometry: Geometry, add: Callable, total: Any, weights: jax.Array) -> Any:
    """`add(total, column, weights of its taps)` for each column of the window."""
    if _is_wide(geometry):
        numbered = (jnp.arange(geometry.window[-1]), weights)
        return lax.scan(lambda total, own: (add(total, *own), None), total, numbered)[0]
    for column in range(geometry.window[-1]):
        total = add(total, column, weights[column])
    return total


def as_images(geometry: Geometry, a: jax.Array) -> jax.Array:
    """(n, *rows, columns, channels of all groups) -> (n * groups, *rows, channels of one, columns)."""
    rank = len(geometry.size)
    a = jnp.moveaxis(_grouped(geometry, a), (rank + 1, rank), (1, -1))
    return a.reshape(a.shape[0] * geometry.groups, *a.shape[2:])


def from_images(geometry: Geometry, a: jax.Array) -> jax.Array:
    """The inverse."""
    rank = len(geometry.size)
    a = a.reshape(a.shape[0] // geometry.groups, geometry.groups, *a.shape[1:])
    a = jnp.moveaxis(a, (1, -1), (rank + 1, rank))
    return a.reshape(*a.shape[: rank + 1], a.shape[-2] * a.shape[-1])


def _taps_first(geometry: Geometry, w: jax.Array) -> jax.Array:
    """(n, *output, groups, *window) -> (columns of the window, *its rows, n * groups, *output)."""
    rank = len(geometry.size)
    w = w.transpose(2 * rank + 1, *range(rank + 2, 2 * rank + 1), 0, rank + 1, *range(1, rank + 1))
    return w.reshape(*w.shape[:rank], w.shape[rank] * geometry.groups, *w.shape[rank + 2 :])


class _Run(NamedTuple):
    """Output pixels of one axis, from `first` on: `scale` around each of the centers.

    The centers follow each other if the run is even. Of the outputs those from `start` to `stop` are its own.
    """

    first: int
    centers: np.ndarray
    scale: int
    start: int
    stop: int

    @property
    def even(self) -> bool:
        return bool(np.all(np.diff(self.centers) == 1))

    @property
    def end(self) -> int:
        return self.first + len(self.centers) * self.scale

    def read(self, size: int, window: int, dilation: int) -> range:
        """The pixels of the padded map that it reads; all, if it is not even."""
        first, last = (self.centers[0], self.centers[-1]) if self.even else (0, size - 1)
        return range(int(first), int(last) + dilation * (window - 1) + 1)


def _blocks(geometry: Geometry) -> list[tuple[_Run, ...]]:
    """The rows of the output, cut into blocks of a run on each axis."""
    return list(itertools.product(*map(_runs_of, geometry.size[:-1], geometry.central[:-1])))


def _runs_of(size: int, centers: np.ndarray) -> list[_Run]:
    """Few even runs, as where windows move inward at edges; else a single one."""
    total, starts = len(centers), np.flatnonzero(np.diff(centers, prepend=-1))
    runs: list[_Run] = []
    for first, scale in zip(starts.tolist(), np.diff(starts, append=total).tolist(), strict=True):
        last = runs[-1] if runs else None
        if last is not None and last.scale == scale and last.centers[-1] + 1 == centers[first]:
            runs[-1] = last._replace(centers=np.append(last.centers, centers[first]), stop=first + scale)
        else:
            runs.append(_Run(first, centers[first : first + 1], scale, first, first + scale))
    if len(runs) > _RUNS:
        return [_Run(0, centers, 1, 0, total)]
    # The longest is continued over all rows: what is not cut out of an array is not written anew.
    number = max(range(len(runs)), key=lambda i: len(runs[i].centers))
    _, own, scale, start, stop = runs[number]
    low, high = int(own[0]) - start // scale, int(own[-1]) + (total - stop) // scale
    if start % scale == (total - stop) % scale == 0 and low >= 0 and high < size:
        runs[number] = _Run(0, np.arange(low, high + 1), scale, start, stop)
    return runs


def _rows_of(geometry: Geometry) -> tuple[tuple[int, ...], ...]:
    """Size, window and dilation of the axes of rows."""
    return geometry.size[:-1], geometry.window[:-1], geometry.dilation[:-1]


def _split_shape(block: tuple[_Run, ...]) -> tuple[int, ...]:
    return tuple(itertools.chain(*((len(run.centers), run.scale) for run in block)))


def _outputs(block: tuple[_Run, ...], a: jax.Array) -> jax.Array:
    """The rows of a block of (n, *rows, ...)."""
    for axis, run in enumerate(block, start=1):
        a = lax.slice_in_dim(a, run.first, run.end, axis=axis)
    return a


def _owned(block: tuple[_Run, ...], a: jax.Array) -> jax.Array:
    """(n, *rows, ...) with zeros where outputs of a block are not its own."""
    for axis, run in enumerate(block, start=1):
        if (run.first, run.end) != (run.start, run.stop):
            margins = [(0, 0, 0)] * a.ndim
            margins[axis] = (run.start, a.shape[axis] - run.stop, 0)
            a = lax.pad(lax.slice_in_dim(a, run.start, run.stop, axis=axis), jnp.zeros((), a.dtype), margins)
    return a


def _apart(block: tuple[_Run, ...], a: jax.Array) -> jax.Array:
    """(n, *rows of a block, ...) -> (n, *(centers, scale), ...)."""
    return a.reshape(a.shape[0], *_split_shape(block), *a.shape[1 + len(block) :])


def _phases_of(geometry: Geometry, block: tuple[_Run, ...], a: jax.Array) -> list[jax.Array]:
    """(n, *rows of a block, ...) -> arrays (n, *centers, ...), on each axis one for each output of a center.

    Where these are many, one array (n, *(centers, outputs of one), ...). Of an uneven run centers are all pixels of
    the map.
    """
    parts = [a]
    for axis, (run, size) in reversed(list(enumerate(zip(block, geometry.size, strict=False), start=1))):
        if not run.even:
            tables = _outputs_of(run.centers, size)
            parts = [part.take(rows, axis, mode="fill", fill_value=0) for part in parts for rows in tables]
            continue
        parts = [part.reshape(*part.shape[:axis], -1, run.scale, *part.shape[1 + axis :]) for part in parts]
        if run.scale <= _PHASES:
            parts = [lax.index_in_dim(p, i, axis + 1, keepdims=False) for p in parts for i in range(run.scale)]
    return parts


def _sum_in_place(block: tuple[_Run, ...], a: jax.Array) -> jax.Array:
    """Sums over the axes that `_phases_of` leaves."""
    for axis, run in enumerate(block, start=1):
        if run.even and run.scale > _PHASES:
            a = a.sum(axis + 1)
    return a


def _join(geometry: Geometry, parts: list[jax.Array], front: int) -> jax.Array:
    """What is the own of all blocks, whose axes of rows begin at `front`, put together."""
    for axis in reversed(range(len(geometry.size) - 1)):
        runs, joined = _runs_of(geometry.size[axis], geometry.central[axis]), []
        longest = max(range(len(runs)), key=lambda i: runs[i].end - runs[i].first)
        for i in range(0, len(parts), len(runs)):
            group = parts[i : i + len(runs)]
            if runs[longest].end - runs[longest].first < geometry.output[axis]:
                joined.append(lax.concatenate(group, front + axis))
                continue
            # In its place, or all would be written once more.
            whole = group[longest]
            for run, part in zip(runs, group, strict=True):
                if part is not group[longest]:
                    whole = lax.dynamic_update_slice_in_dim(whole, part, run.start, front + axis)
            joined.append(whole)
        parts = joined
    (whole,) = parts
    return whole


def _column_blocks(geometry: Geometry) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Output columns in blocks as wide as a tile, the columns that a block reads, the first for each output."""
    slack = geometry.padded[-1] - geometry.size[-1]
    first = geometry.central[-1]
    for start in range(0, len(first), _LANES):
        own = first[start : start + _LANES]
        low, high = int(own.min()), int(own.max())
        yield slice(start, start + len(own)), slice(low, high + slack + 1), own - low


def _selection(inputs: slice, chosen: Any, dtype: jnp.dtype) -> jax.Array:
    """(inputs, outputs): ones where an output is the input that is chosen for it."""
    chosen = chosen[None] if isinstance(chosen, jax.Array) else chosen
    return jnp.asarray(np.arange(inputs.stop - inputs.start)[:, None] == chosen, dtype)


def _columns_put_back(geometry: Geometry, column: Any, sums: jax.Array) -> Iterator[jax.Array]:
    """From (..., output columns) summands (..., padded columns): each where a column of the window read it."""
    for outputs, inputs, own in _column_blocks(geometry):
        matrix = _selection(inputs, own + column * geometry.dilation[-1], sums.dtype)
        yield _in_padded(geometry, inputs, sums[..., outputs], matrix)


def _in_padded(geometry: Geometry, inputs: slice, part: jax.Array, matrix: jax.Array) -> jax.Array:
    """Sums of the last axis, by a matrix (inputs, ...), among the columns of the padded map."""
    dimensions = (((part.ndim - 1,), (1,)), ((), ()))
    part = lax.dot_general(part, matrix, dimensions, precision=lax.Precision.HIGHEST)
    margin = (inputs.start, geometry.padded[-1] - inputs.stop, 0)
    return lax.pad(part, jnp.zeros((), part.dtype), [*[(0, 0, 0)] * (part.ndim - 1), margin])


def _seen_in(
    geometry: Geometry, block: tuple[_Run, ...], x: jax.Array, in_parts: bool = True
) -> Callable[[Any], Callable]:
    """A function of a column of the window, to one of the row of a tap in it, to the pixels that the tap reads.

    Of `x` with columns last they are (n * groups, *(centers, 1), channels of one, columns).
    """
    ranges = [run.read(n, k, d) for run, n, k, d in zip(block, *_rows_of(geometry), strict=True)]
    for axis, rows in enumerate(ranges, start=1):
        x = lax.slice_in_dim(x, rows.start, rows.stop, axis=axis)
    blocks = [
        (inputs, own, _parts(lax.slice_in_dim(x, inputs.start, inputs.stop, axis=-1), in_parts))
        for _, inputs, own in _column_blocks(geometry)
    ]

    def seen(column: Any) -> Callable[[tuple[int, ...]], jax.Array]:
        pairs = [
            (parts, _selection(inputs, own + column * geometry.dilation[-1], parts.dtype))
            for inputs, own, parts in blocks
        ]

        def read(tap: tuple[int, ...]) -> jax.Array:
            columns = []
            for parts, matrix in pairs:
                for axis, (run, t, d) in enumerate(zip(block, tap, geometry.dilation, strict=False), start=1):
                    if run.even:
                        parts = lax.slice_in_dim(parts, t * d, t * d + len(run.centers), axis=axis)
                    else:
                        parts = parts.take(run.centers + t * d, axis, mode="clip")
                columns.append(_times(parts, matrix, x.dtype))
            y = lax.concatenate(columns, columns[0].ndim - 1)
            return jnp.expand_dims(y, range(2, 2 * len(block) + 1, 2))

        return read

    return seen


def _times(parts: jax.Array, matrix: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The columns that a matrix of zeros and ones selects of what the parts side by side are summands of."""
    matrix = jnp.tile(matrix, (parts.shape[-1] // matrix.shape[0], 1))
    dimensions = (((parts.ndim - 1,), (0,)), ((), ()))
    kind = jnp.bfloat16 if dtype == jnp.bfloat16 else jnp.float32
    return lax.dot_general(parts, matrix, dimensions, lax.Precision.HIGHEST, preferred_element_type=kind)


def _parts(x: jax.Array, wanted: bool = True) -> jax.Array:
    """The summands, side by side in the last axis, whose sum is `x` exactly: the matrix unit multiplies bfloat16."""
    if x.dtype == jnp.bfloat16:
        return x
    rest, parts = x.astype(jnp.float32), []
    if not wanted:
        return rest
    for _ in range(3):
        part = lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7)
        parts.append(part.astype(jnp.bfloat16))
        rest = rest - part
    return lax.concatenate(parts, x.ndim - 1)


# Outputs that all see one window, as at edges where it moves inward, are one product with all of its taps.


def _is_still(geometry: Geometry, block: tuple[_Run, ...]) -> bool:
    return bool(block) and len(_blocks(geometry)) > 1 and all(len(run.centers) == 1 for run in block)


def _window_of(geometry: Geometry, block: tuple[_Run, ...], x: jax.Array, in_parts: bool = True) -> jax.Array:
    """The window of a block's outputs, (columns of it, taps of one, n * groups, 1, channels of one, columns)."""
    count = geometry.window[-1]
    for axis, (run, n, k, d) in enumerate(zip(block, *_rows_of(geometry), strict=True), start=1):
        rows = run.read(n, k, d)
        x = lax.slice_in_dim(x, rows.start, rows.stop, d, axis)
    x = x.reshape(x.shape[0], -1, *x.shape[-2:])
    columns = []
    for _, inputs, own in _column_blocks(geometry):
        parts = _parts(lax.slice_in_dim(x, inputs.start, inputs.stop, axis=-1), in_parts)
        part = _times(parts, _selection(inputs, _all_columns(geometry, own), parts.dtype), x.dtype)
        columns.append(part.reshape(*part.shape[:-1], count, len(own)))
    return lax.concatenate(columns, 4).transpose(3, 1, 0, 2, 4)[:, :, :, None]


def _window_back(geometry: Geometry, block: tuple[_Run, ...], window: jax.Array) -> jax.Array:
    """The transpose, without the axis of one, to (n * groups, *padded rows, channels of one, padded columns)."""
    zero, parts = jnp.zeros((), window.dtype), []
    for outputs, inputs, own in _column_blocks(geometry):
        matrix = _selection(inputs, _all_columns(geometry, own), window.dtype)
        part = window[..., outputs].transpose(2, 1, 3, 0, 4)
        parts.append(_in_padded(geometry, inputs, part.reshape(*part.shape[:3], matrix.shape[-1]), matrix))
    x = functools.reduce(jnp.add, parts)
    x = x.reshape(x.shape[0], *geometry.window[:-1], *x.shape[-2:])
    margins = []
    for run, padded, (n, k, d) in zip(block, geometry.padded, zip(*_rows_of(geometry), strict=True), strict=False):
        rows = run.read(n, k, d)
        margins.append((rows.start, padded - rows.stop, d - 1))
    return lax.pad(x, zero, [(0, 0, 0), *margins, (0, 0, 0), (0, 0, 0)])


def _all_columns(geometry: Geometry, own: np.ndarray) -> np.ndarray:
    """What all columns of a window read of a block of columns, one after the other."""
    return (np.arange(geometry.window[-1])[:, None] * geometry.dilation[-1] + own).reshape(-1)


def _flat(geometry: Geometry, w: jax.Array) -> jax.Array:
    """With taps first: those of one column in one axis, and rows in one."""
    rank = len(geometry.size)
    return w.reshape(w.shape[0], math.prod(w.shape[1:rank]), w.shape[rank], -1, w.shape[-1])


# Windows of many taps, row by row, by any of the forms.


class _Rows(NamedTuple):
    """What it takes to sum windows by one row of taps after the other.

    Attributes:
      geometry: of one row of taps.
      shape: of `x`, without images and channels.
      pick: `(x, number)` to the part of it under row `number`.
      put: `(x, part, number)` to `x` with the part added.
    """

    geometry: Geometry
    shape: tuple[int, ...]
    pick: Callable[[jax.Array, jax.Array], jax.Array]
    put: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _row_of_taps(geometry: Geometry) -> _Rows:
    size = geometry.padded[0] - geometry.dilation[0] * (geometry.window[0] - 1)

    def pick(x: jax.Array, number: jax.Array) -> jax.Array:
        return lax.dynamic_slice_in_dim(x, number * geometry.dilation[0], size, 1)

    def put(x: jax.Array, part: jax.Array, number: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(x, pick(x, number) + part, number * geometry.dilation[0], 1)

    return _Rows(geometry._replace(window=(1, *geometry.window[1:])), geometry.padded, pick, put)


def _window_sum_by_rows(
    x: jax.Array, w: jax.Array, *, geometry: Geometry, compute: Callable, rows: _Rows | None = None
) -> jax.Array:
    row, _, pick, _ = rows or _row_of_taps(geometry)
    wide = accumulator(x.dtype)

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        taps = lax.dynamic_slice_in_dim(w, number, 1, -len(geometry.window))
        return total + compute(pick(x, number).astype(wide), taps.astype(wide), geometry=row), None

    total = zeros((x.shape[0], *geometry.output, x.shape[-1]), jax.typeof(x).update(dtype=wide))
    return lax.scan(add, total, jnp.arange(geometry.window[0]))[0].astype(x.dtype)


def _window_correlation_by_rows(
    x: jax.Array, y: jax.Array, *, geometry: Geometry, compute: Callable, rows: _Rows | None = None
) -> jax.Array:
    row, _, pick, _ = rows or _row_of_taps(geometry)
    w = lax.map(lambda number: compute(pick(x, number), y, geometry=row), jnp.arange(geometry.window[0]))
    w = jnp.moveaxis(w, 0, -1 - len(geometry.window))
    return w.reshape(*y.shape[:-1], geometry.groups, *geometry.window)


def _fold_by_rows(
    w: jax.Array, y: jax.Array, *, geometry: Geometry, compute: Callable, rows: _Rows | None = None
) -> jax.Array:
    row, shape, _, put = rows or _row_of_taps(geometry)
    wide = accumulator(y.dtype)

    def add(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        taps = lax.dynamic_slice_in_dim(w, number, 1, -len(geometry.window))
        part = compute(taps.astype(wide), y.astype(wide), geometry=row)
        return put(total, part, number), None

    total = zeros((y.shape[0], *shape, y.shape[-1]), jax.typeof(y).update(dtype=wide))
    return lax.scan(add, total, jnp.arange(geometry.window[0]))[0].astype(w.dtype)


# Uneven windows on several devices, which may share a map by rows: a gather along all rows would bring these together.
# So they are in as many groups as there are devices. A group is an image of its own, with what it reads of its
# neighbors' rows, and a table of the rows that its outputs read. Where all devices can have images of their own, maps
# are taken to be cut so, and nothing is in groups.


class _Groups(NamedTuple):
    """How the rows of a geometry are in groups.

    Attributes:
      geometry: that of one group, but for the rows that its outputs read.
      own: how many rows of the map it has.
      padded: the rows of the map with its padding.
      first: the first of these that the first group reads. What the next one reads begins `own` rows below.
      taps: (groups, outputs, window), the rows that outputs read, counted from the first that the group reads.
    """

    geometry: Geometry
    own: int
    padded: int
    first: int
    taps: np.ndarray

    @classmethod
    def of(cls, geometry: Geometry, images: Any, devices: int) -> "_Groups | None":
        """None where there are none."""
        height, outputs = geometry.size[0], geometry.output[0]
        if geometry.uniform or not is_static(images) or images % devices == 0:
            return None
        if height % devices or outputs % devices:
            return None
        own = height // devices
        taps = next(_taps(geometry)).reshape(devices, outputs // devices, -1) - own * np.arange(devices)[:, None, None]
        first, length = int(taps.min()), int(np.ptp(taps)) + 1
        reach = geometry.dilation[0] * (geometry.window[0] - 1)
        one = geometry._replace(
            size=(length - reach, *geometry.size[1:]), centers=((0,) * taps.shape[1], *geometry.centers[1:])
        )
        return cls(one, own, geometry.padded[0], first, taps - first)

    @property
    def seen_by(self) -> np.ndarray:
        """As the function of this name has it, for each group: (groups, rows that one reads, most, 2)."""
        return _seen_by(self.taps, self.geometry.padded[0])

    def each(self, form: Callable[..., jax.Array], rows: np.ndarray, *arrays: jax.Array) -> jax.Array:
        """What a form makes of each group's arrays and rows: (n, groups, ...)."""
        one = lambda rows, *arrays: form(*arrays, geometry=self.geometry, rows=rows)  # noqa: E731
        return jax.vmap(one, (0, *[1] * len(arrays)), 1)(jnp.asarray(rows, jnp.int32), *arrays)

    def split(self, a: jax.Array) -> jax.Array:
        """(n, outputs, ...) -> (n, groups, outputs of one, ...)."""
        return a.reshape(a.shape[0], *self.taps.shape[:2], *a.shape[2:])

    def join(self, a: jax.Array) -> jax.Array:
        """The inverse."""
        return a.reshape(a.shape[0], -1, *a.shape[3:])

    def read(self, x: jax.Array) -> jax.Array:
        """(n, padded rows, ...) -> (n, groups, rows that one reads, ...)."""
        return rows_of_parts(x, 1, len(self.taps), self.own, self.first, self.geometry.padded[0])

    def put_back(self, x: jax.Array) -> jax.Array:
        """The transpose."""
        like = jax.typeof(x).update(shape=(x.shape[0], self.padded, *x.shape[3:]))
        return jax.linear_transpose(self.read, like)(x)[0]

    @property
    def rows(self) -> _Rows:
        """Row by row of taps, as products with zeros and ones, for a TPU: exact, but they spread a NaN over a group."""
        count, outputs, _ = self.taps.shape
        length, *others = self.geometry.padded
        centers = (tuple(range(count * outputs)), *self.geometry.centers[1:])
        row = self.geometry._replace(
            size=(count * outputs, *self.geometry.size[1:]), centers=centers, window=(1, *self.geometry.window[1:])
        )

        def move(a: jax.Array, number: jax.Array, axis: int) -> jax.Array:
            chosen = lax.dynamic_index_in_dim(jnp.asarray(self.taps, jnp.int32), number, 2)
            # (groups, outputs, rows that one reads)
            matrices = (chosen == jnp.arange(length)[None, None]).astype(a.dtype)
            a = lax.dot_general(a, matrices, (((2,), (axis,)), ((1,), (0,))), lax.Precision.HIGHEST)
            return jnp.moveaxis(a, (0, -1), (1, 2))

        pick = lambda x, number: self.join(move(x, number, 2))  # noqa: E731
        put = lambda x, part, number: x + move(self.split(part), number, 1)  # noqa: E731
        return _Rows(row, (count, length, *others), pick, put)


# On GPUs taps that are not written out are, of windows that are even, the sums of other platforms (`elsewhere`).


def _on_gpus(
    form: Callable, elsewhere: Callable, x: jax.Array, other: jax.Array, *, geometry: Geometry, devices: int
) -> jax.Array:
    """What a form makes of `x` and of an array of outputs: another of these."""
    groups = _Groups.of(geometry, x.shape[0], devices)
    if groups is None:
        alike = geometry.uniform and not _is_short(geometry)
        return (elsewhere if alike else form)(x, other, geometry=geometry)
    return groups.join(groups.each(form, groups.taps, groups.read(x), groups.split(other)))


_window_sum_on_gpus = functools.partial(_on_gpus, _window_sum_on_gpu, _window_sum)
_window_correlation_on_gpus = functools.partial(_on_gpus, _window_correlation_on_gpu, _window_correlation)


def _fold_on_gpus(w: jax.Array, y: jax.Array, *, geometry: Geometry, devices: int) -> jax.Array:
    groups = _Groups.of(geometry, y.shape[0], devices)
    if groups is None:
        alike = geometry.uniform and not _is_short(geometry, math.prod(geometry.scale))
        return (_fold if alike else _fold_on_gpu)(w, y, geometry=geometry)
    wide = w.astype(accumulator(w.dtype))  # or groups would be rounded before they are added
    return groups.put_back(groups.each(_fold_on_gpu, groups.seen_by, groups.split(wide), groups.split(y))).astype(
        w.dtype
    )


def _window_sum_on_tpus(x: jax.Array, w: jax.Array, *, geometry: Geometry, devices: int) -> jax.Array:
    groups = _groups_on_tpus(geometry, x, devices)
    if groups is None:
        return window_sum_on_tpu(x, w, geometry=geometry)
    x = groups.read(x)
    return _window_sum_by_rows(x, w, geometry=geometry, compute=_window_sum_by_columns, rows=groups.rows)


def _window_correlation_on_tpus(
    x: jax.Array, y: jax.Array, *, geometry: Geometry, devices: int, dtype: DTypeLike | None = None
) -> jax.Array:
    groups = _groups_on_tpus(geometry, x, devices)
    if groups is None:
        return window_correlation_on_tpu(x, y, geometry=geometry, dtype=dtype)
    compute = lambda x, y, geometry: _correlate_by_columns(x, y, geometry, _products, dtype or x.dtype)  # noqa: E731
    return _window_correlation_by_rows(groups.read(x), y, geometry=geometry, compute=compute, rows=groups.rows)


def _fold_on_tpus(w: jax.Array, y: jax.Array, *, geometry: Geometry, devices: int) -> jax.Array:
    groups = _groups_on_tpus(geometry, y, devices)
    if groups is None:
        return fold_on_tpu(w, y, geometry=geometry)
    wide = w.astype(accumulator(w.dtype))
    x = _fold_by_rows(wide, y, geometry=geometry, compute=_fold_by_columns, rows=groups.rows)
    return groups.put_back(x).astype(w.dtype)


def _groups_on_tpus(geometry: Geometry, a: jax.Array, devices: int) -> _Groups | None:
    forms_fit = len(geometry.size) > 1 and _is_narrow(a.dtype)
    return _Groups.of(geometry, a.shape[0], devices) if forms_fit else None


# Pieces.


def _is_large(geometry: Geometry) -> bool:
    """Whether the window has so many taps that it is summed row by row."""
    return math.prod(geometry.window) > UNROLLED_TAPS and geometry.window[0] > 1


def _split(geometry: Geometry, a: jax.Array) -> jax.Array:
    """(n, *output, ...) -> (n, *(size, scale), ...), each output axis split in two; unchanged without a scale."""
    if not geometry.uniform:
        return a
    rest = a.shape[1 + len(geometry.size) :]
    return a.reshape(a.shape[0], *itertools.chain(*zip(geometry.size, geometry.scale, strict=True)), *rest)


def _grouped(geometry: Geometry, a: jax.Array) -> jax.Array:
    """(..., channels) -> (..., groups, channels of one)."""
    return a.reshape(*a.shape[:-1], geometry.groups, a.shape[-1] // geometry.groups)


def _read(geometry: Geometry, x: jax.Array, start: tuple[int, ...]) -> jax.Array:
    """The pixels that one tap of every window reads, by groups, in a shape that broadcasts with that of `_split`."""
    if not geometry.uniform:
        return _take(_grouped(geometry, x), tuple(map(np.asarray, geometry.centers)), start)
    x = _grouped(geometry, _part(x, start, geometry.size))
    return x.reshape(x.shape[0], *itertools.chain(*((n, 1) for n in geometry.size)), *x.shape[-2:])


def _take(x: jax.Array, centers: tuple, start: tuple[int, ...]) -> jax.Array:
    for axis, (first, rows) in enumerate(zip(start, centers, strict=True), start=1):
        x = x.take(rows + first, axis, mode="clip")
    return x


def _part(a: jax.Array, first: tuple[int, ...], sizes: tuple[int, ...]) -> jax.Array:
    """A part of the spatial axes, which follow the first, cut axis by axis.

    Where rows are cut over devices, all taps of one row of the window so share one exchange of edges.
    """
    for axis, (begin, n) in enumerate(zip(first, sizes, strict=True), start=1):
        a = lax.slice_in_dim(a, begin, begin + n, axis=axis)
    return a


def _slice(a: jax.Array, first: tuple, sizes: tuple[int, ...]) -> jax.Array:
    """A part of the first axes of an array."""
    rest = a.ndim - len(first)
    return _cut(a, (*first, *(0,) * rest), (*sizes, *a.shape[len(first) :]))


def _cut(a: jax.Array, first: Sequence[Any], sizes: Sequence[int]) -> jax.Array:
    """`lax.dynamic_slice`, which with x64 on takes Python's numbers for 64 bits and refuses those of 32 beside them."""
    return lax.dynamic_slice(a, [jnp.asarray(begin, jnp.int32) for begin in first], sizes)


def _pad_zeros(a: jax.Array, reach: tuple[int, ...]) -> jax.Array:
    """Pads the spatial axes, which follow the first, with zeros."""
    margins = [(0, 0, 0), *((r, r, 0) for r in reach), *[(0, 0, 0)] * (a.ndim - 1 - len(reach))]
    return lax.pad(a, jnp.zeros((), a.dtype), margins)


def _phases(geometry: Geometry) -> tuple[tuple, Callable]:
    """The phases of a uniform geometry to scan over, and a function that takes one of them, (n, *size, ...), from (n,
    *output, ...)."""
    places = list(itertools.product(*map(range, geometry.scale)))
    rank = len(geometry.size)

    def pick(a: jax.Array, place: tuple) -> jax.Array:
        a = _split(geometry, a)
        first, sizes = [0] * a.ndim, list(a.shape)
        for axis in range(rank):
            first[2 + 2 * axis], sizes[2 + 2 * axis] = place[axis], 1
        a = _cut(a, first, sizes)
        return a.reshape(a.shape[0], *geometry.size, *a.shape[1 + 2 * rank :])

    return tuple(jnp.asarray(column, jnp.int32) for column in zip(*places, strict=True)), pick


def _taps(geometry: Geometry) -> Iterator[np.ndarray]:
    """For each axis (output, window): the pixel of the padded `x` that each output's taps read."""
    for own, k, d in zip(geometry.central, geometry.window, geometry.dilation, strict=True):
        yield own[:, None] + np.arange(k) * d


def seen_by(geometry: Geometry) -> Iterator[np.ndarray]:
    """For each axis (padded, most, 2): the outputs that see a pixel of the padded `x`, and with which tap.

    Filled up with an output past the last.
    """
    for taps, padded in zip(_taps(geometry), geometry.padded, strict=True):
        yield _seen_by(taps, padded)


def _seen_by(taps: np.ndarray, pixels: int) -> np.ndarray:
    """(..., outputs, window), the pixel that each tap reads -> (..., pixels, most, 2)."""
    *several, outputs, _ = taps.shape
    seen: list[list[tuple[int, int]]] = [[] for _ in range(math.prod(several) * pixels)]
    for number, table in enumerate(taps.reshape(-1, *taps.shape[-2:])):
        for (output, tap), pixel in np.ndenumerate(table):
            seen[number * pixels + pixel].append((output, tap))
    most = max(map(len, seen))
    table = np.array([[*own, *[(outputs, 0)] * (most - len(own))] for own in seen])
    return table.reshape(*several, pixels, most, 2)


def _outputs_of(centers: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
    """(most, size): the output pixels centered on each input pixel, filled up with a number past the last pixel."""
    owned: list[list[int]] = [[] for _ in range(size)]
    for output, center in enumerate(centers):
        owned[center].append(output)
    most = max(map(len, owned))
    return np.array([[*o, *[len(centers)] * (most - len(o))] for o in owned]).T


# The primitives.


def _shapes(geometry: Geometry, n: int, c: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The shapes of x, w and y."""
    return (
        (n, *geometry.padded, c),
        (n, *geometry.output, geometry.groups, *geometry.window),
        (n, *geometry.output, c),
    )


def _by_hand(kernel: str, a: ShapedArray, b: ShapedArray, *, geometry: Geometry) -> Callable | None:
    """The kernel of `windows_on_tpu` with this name, if it takes such operands."""
    from upsampling.primitives import windows_on_tpu

    maps = b if kernel == "fold" else a
    taken = windows_on_tpu.takes_sums(geometry, maps.shape[-1], a.dtype, b.dtype)
    return getattr(windows_on_tpu, kernel) if taken else None


def _correlation_like_by_hand(
    x: ShapedArray, y: ShapedArray, like: ShapedArray, *, geometry: Geometry
) -> Callable | None:
    kernel = _by_hand("window_correlation", x, y, geometry=geometry)
    return kernel and (lambda x, y, like, *, geometry: kernel(x, y, geometry=geometry, dtype=like.dtype))


window_sum_p = make_primitive(
    "window_sum",
    lambda x, w, *, geometry: _shapes(geometry, x[0], x[-1])[2],
    _window_sum,
    static=("geometry",),
    cpu=_window_sum_in_tiles,
    gpu=_window_sum_on_gpu,
    several=_window_sum_on_gpus,
    tpu=window_sum_on_tpu,
    tpus=_window_sum_on_tpus,
    by_hand_on_tpu=functools.partial(_by_hand, "window_sum"),
)
window_correlation_p = make_primitive(
    "window_correlation",
    lambda x, y, *, geometry: _shapes(geometry, x[0], x[-1])[1],
    _window_correlation,
    static=("geometry",),
    cpu_alone=_window_correlation_in_blocks,
    gpu=_window_correlation_on_gpu,
    several=_window_correlation_on_gpus,
    tpu=window_correlation_on_tpu,
    tpus=_window_correlation_on_tpus,
    by_hand_on_tpu=functools.partial(_by_hand, "window_correlation"),
)
# For TPUs, where maps may be in half precision and what is made of them not.
window_correlation_like_p = make_primitive(
    "window_correlation_like",
    lambda x, y, like, *, geometry: _shapes(geometry, x[0], x[-1])[1],
    window_correlation_like_on_tpu,
    static=("geometry",),
    tpu=window_correlation_like_on_tpu,
    tpus=lambda x, y, like, *, geometry, devices: _window_correlation_on_tpus(
        x, y, geometry=geometry, devices=devices, dtype=like.dtype
    ),
    by_hand_on_tpu=_correlation_like_by_hand,
    like=2,
)
fold_p = make_primitive(
    "fold",
    lambda w, y, *, geometry: _shapes(geometry, y[0], y[-1])[0],
    _fold,
    static=("geometry",),
    gpu=_fold_on_gpu,
    several=_fold_on_gpus,
    tpu=fold_on_tpu,
    tpus=_fold_on_tpus,
    by_hand_on_tpu=functools.partial(_by_hand, "fold"),
)

_pad_p = make_primitive(
    "pad_window",
    lambda x, *, reach, mode: (x[0], *(n + 2 * r for n, r in zip(x[1:-1], reach, strict=True)), x[-1]),
    _pad_edges,
    static=("reach", "mode"),
    gpu=_pad_edges_on_gpu,
    several=_pad_edges_in_place,
    tpu=_pad_edges,
    tpus=_pad_edges_in_place,
    by_hand_on_tpu=functools.partial(_edges_by_hand, transposed=False),
)
_add_edges_p = make_primitive(
    "add_edges",
    lambda y, *, reach, mode: _unpadded(y, reach),
    _add_edges,
    static=("reach", "mode"),
    gpu=_add_edges_on_gpu,
    several=functools.partial(_add_edges, pad=_pad_edges_in_place),
    tpu=_add_edges,
    tpus=functools.partial(_add_edges, pad=_pad_edges_in_place),
    by_hand_on_tpu=functools.partial(_edges_by_hand, transposed=True),
)

ad.deflinear2(_pad_p, lambda y, _, **params: [_add_edges_p.bind(y, **params)])
ad.deflinear2(_add_edges_p, lambda x, _, **params: [_pad_p.bind(x, **params)])
ad.defbilinear(
    window_sum_p,
    lambda y, x, w, *, geometry: fold_p.bind(w, y, geometry=geometry),
    lambda y, x, w, *, geometry: window_correlation_p.bind(x, y, geometry=geometry),
)
ad.defbilinear(
    window_correlation_p,
    lambda w, x, y, *, geometry: fold_p.bind(w, y, geometry=geometry),
    lambda w, x, y, *, geometry: window_sum_p.bind(x, w, geometry=geometry),
)
ad.defbilinear(
    fold_p,
    lambda x, w, y, *, geometry: window_correlation_p.bind(x, y, geometry=geometry),
    lambda x, w, y, *, geometry: window_sum_p.bind(x, w, geometry=geometry),
)
