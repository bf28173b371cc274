"""The exact Euclidean distance transform, one axis after the other.

The squared distance to the nearest seed separates over the axes (Felzenszwalb & Huttenlocher 2012, section 3):

    D(p) = min_q |p - q|² = min_{q1} ((p1 - q1)² + min_{q2} ((p2 - q2)² + ...))

The first axis is a distance along a line. Every further one is a lower envelope of parabolas, g[i] = min_k f[i ± k] +
k², taken with k = 1, 2, ... over whole rows, until k² exceeds what any pixel still waiting could gain, or until it is
cheaper to go through the columns that have seeds. So a pass costs pixels x (how far the farthest pixel has to look, or
the number of such columns), at most pixels x side; it works in place on arrays of the image's size, and nothing
pairwise is ever stored. A GPU takes the minimum over all pixels of a short row at once.
"""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from upsampling import _arguments
from upsampling.metrics import _labels
from upsampling.metrics._labels import Axes, Spacing
from upsampling.primitives._common import core, floating, map_in_groups, with_axes

# A step of the loops takes this many shifts, so that XLA reads and writes the running minimum once for all of them; in
# a small image fewer, which compile sooner.
_UNROLL, _STEPS = 8, 16
# Rows are worked on in groups of this many pixels: each group stops as soon as its own pixels are done, and stays in a
# processor's first cache. An accelerator wants everything at once.
_GROUP_CPU, _GROUP = 2**13, 2**26
# On a GPU loops wait for the processor in each step. A row of up to so many pixels goes through all pairs in place of
# them, where pixels may look farther than this share of it; and distances along a line grow by so many shifts a step.
_AT_ONCE, _FEW, _MULTIPLES = 512, 8, 8


def distance_transform(
    mask: jax.typing.ArrayLike, spacing: Spacing | None = None, *, axes: Axes | None = None
) -> jax.Array:
    """Exact Euclidean distance of every pixel of the mask to the nearest pixel of the background.

    Args:
      mask: `(*batch, *spatial)` bool or integer, nonzero in the foreground.
      spacing: size of a pixel, in whatever unit the distances should have: one number for all axes (1 if None), or one
        per axis, and then there are as many spatial axes as numbers, 1 to 3 (static).
      axes: the spatial axes (static). If None, the last `len(spacing)`, or the last two.

    Returns:
      float32 (float64 for 64-bit JAX) of the mask's shape: distance between pixel centres, 0 in the background.
      Infinity where the image has no background. With spacing 1 the squares are exact up to 2**24, that is distances
      up to 4096 pixels; otherwise exact to rounding.

    Raises:
      TypeError: a mask that is floating (logits, probabilities), or spacing that is traced.
      ValueError: axes or spacing that do not fit.

    >>> import jax.numpy as jnp
    >>> distance_transform(jnp.array([[0, 1, 1, 1], [1, 1, 1, 1]]))
    Array([[0.       , 1.       , 2.       , 3.       ],
           [1.       , 1.4142135, 2.236068 , 3.1622777]], dtype=float32)
    >>> distance_transform(jnp.array([True, True, False]), spacing=(0.5,))  # one spatial axis
    Array([1. , 0.5, 0. ], dtype=float32)
    """
    mask, spacing, axes = _checked("distance_transform", mask, spacing, axes)
    return _distance_transform(mask, spacing, axes)


def signed_distance_transform(
    mask: jax.typing.ArrayLike, spacing: Spacing | None = None, *, axes: Axes | None = None
) -> jax.Array:
    """Distance to the background in the mask, and minus the distance to the mask in the background.

    Between pixel centres, so it steps from 1 to -1 across the boundary, and 0 does not occur. Where the mask is empty
    it is minus infinity, where it is full, infinity.

    Arguments and errors as in `distance_transform`.

    >>> import jax.numpy as jnp
    >>> signed_distance_transform(jnp.array([[0, 0, 1, 1, 1]]))
    Array([[-2., -1.,  1.,  2.,  3.]], dtype=float32)
    """
    mask, spacing, axes = _checked("signed_distance_transform", mask, spacing, axes)
    return _signed_distance_transform(mask, spacing, axes)


def nearest_background(
    mask: jax.typing.ArrayLike, spacing: Spacing | None = None, *, axes: Axes | None = None
) -> jax.Array:
    """Where the nearest pixel of the background is: the index whose distance `distance_transform` gives.

    Of several that are equally near it gives one, always the same for the same mask.

    Arguments and errors as in `distance_transform`.

    Returns:
      `(*mask.shape, len(axes))` int32: an index along each spatial axis, last; -1 where there is no background.

    >>> import jax.numpy as jnp
    >>> nearest_background(jnp.array([[0, 1], [1, 1]]))[1, 1]
    Array([0, 0], dtype=int32)
    """
    mask, spacing, axes = _checked("nearest_background", mask, spacing, axes)
    return _nearest_background(mask, spacing, axes)


def _checked(
    function: str, mask: jax.typing.ArrayLike, spacing: Spacing | None, axes: Axes | None
) -> tuple[jax.Array, tuple[float, ...], tuple]:
    if isinstance(mask, np.ndarray) and np.issubdtype(mask.dtype, np.integer):
        mask = mask != 0  # 64 bits must not wrap to 0
    mask = _arguments.array(function, "mask", mask, floating=False)
    if jnp.issubdtype(mask.dtype, jnp.inexact):
        raise TypeError(f"{function}: mask must be bool or integer; got {mask.dtype}. Compare first, as in logits > 0.")
    axes, spacing = _labels.geometry(function, mask.ndim, axes, spacing)
    return mask, spacing, axes


@core((1, 2), inline=False)
def _distance_transform(mask, spacing, axes):
    last = tuple(range(-len(axes), 0))
    squared = squared_distance(~jnp.moveaxis(mask, axes, last).astype(bool), spacing)
    return jnp.moveaxis(jnp.sqrt(squared), last, axes)


@core((1, 2), inline=False)
def _signed_distance_transform(mask, spacing, axes):
    return _distance_transform(mask, spacing, axes) - _distance_transform(~mask.astype(bool), spacing, axes)


@core((1, 2), inline=False)
def _nearest_background(mask, spacing, axes):
    last = tuple(range(-len(axes), 0))
    seeds = ~jnp.moveaxis(mask, axes, last).astype(bool)
    shape = seeds.shape[-len(axes) :]
    here = with_axes(jnp.arange(math.prod(shape), dtype=jnp.int32).reshape(shape), seeds.ndim)
    squared, nearest = _nearest((seeds, here + jnp.zeros_like(seeds, dtype=jnp.int32)), spacing, math.inf, None)
    nearest = jnp.where(jnp.isfinite(squared), nearest, -1)
    index = jnp.stack([jnp.where(nearest < 0, -1, i) for i in jnp.unravel_index(nearest, shape)], axis=-1)
    return jnp.moveaxis(index, [a - 1 for a in last], [a - 1 for a in axes])


def squared_distance(
    seeds: jax.Array, spacing: tuple[float, ...], limit: float = math.inf, needed: jax.Array | None = None
) -> jax.Array:
    """Squared distance of every pixel to the nearest seed, over the last len(spacing) axes; infinity without seeds.

    Args:
      seeds: `(*batch, *spatial)` bool.
      spacing: pixel size along each spatial axis (static).
      limit: distances above it need not be found, and come back too large or infinite (static).
      needed: like `seeds`; where False, the result may be too large.
    """
    return _nearest((seeds,), spacing, limit, needed)[0]


def steps(seeds: jax.Array, rank: int, distance: Literal["chessboard", "taxicab"]) -> jax.Array:
    """Steps from every pixel to the nearest seed over the last `rank` axes, a king's (chessboard) or along axes only.

    Infinity without seeds. Taxicab's separate over the axes; chessboard's are counted square by square.
    """
    far = jnp.where(seeds, jnp.zeros((), floating()), jnp.inf)
    if distance == "taxicab":
        for axis in range(-rank, 0):
            place = jnp.arange(far.shape[axis], dtype=far.dtype)
            place = place.reshape([-1 if a == axis else 1 for a in range(-far.ndim, 0)])
            before = lax.cummin(far - place, axis % far.ndim) + place
            after = lax.cummin(far + place, axis % far.ndim, reverse=True) - place
            far = jnp.minimum(before, after)
        return far
    window, edges = [1] * seeds.ndim, [(0, 0)] * seeds.ndim
    for axis in range(-rank, 0):
        window[axis], edges[axis] = 3, (1, 1)

    def grow(loop: tuple) -> tuple:
        radius, reached, far = loop
        larger = lax.reduce_window(reached, False, lax.bitwise_or, window, [1] * seeds.ndim, edges)
        return radius + 1, larger, jnp.where(larger & ~reached, radius.astype(far.dtype), far)

    def unfinished(loop: tuple) -> jax.Array:
        radius, reached, _ = loop
        return (radius < max(seeds.shape[-rank:])) & ~jnp.all(reached)

    return lax.while_loop(unfinished, grow, (jnp.int32(1), seeds, far))[2]


# What follows works on a tuple (f,) of distances, or (f, index) that carries along which seed each is the distance of.


def _nearest(state: tuple, spacing: tuple[float, ...], limit: float, needed: jax.Array | None) -> tuple:
    """From seeds to squared distances: along the last axis but one (whole rows at a time), the last, then the rest."""
    rank = len(spacing)
    first, *others = [-1] if rank == 1 else [-2, -1, -3][:rank]
    seeds, *index = state
    if not seeds.size:
        return seeds.astype(floating()), *index
    kind = jnp.int16 if seeds.shape[first] < 2**14 else jnp.int32
    far = jnp.iinfo(kind).max // 2
    steps = jnp.where(seeds, 0, far).astype(kind)
    doubling = partial(_line_by_doubling, axis=first, reach=limit / spacing[first])
    if rank == 1:
        steps, *index = doubling(steps, *index)
    else:
        on_gpu = partial(doubling, multiples=_MULTIPLES)
        forms = {"cpu": _line_by_rows, "cuda": on_gpu, "rocm": on_gpu, "default": doubling}
        steps, *index = lax.platform_dependent(steps, *index, **forms)
    squared = jnp.where(steps < far, (steps.astype(floating()) * spacing[first]) ** 2, jnp.inf)
    state = (squared, *index)
    for axis in others:
        state = _envelope(state, axis, spacing[axis], limit, needed if axis == others[-1] else None)
    return state


def _nearer(a: tuple, b: tuple) -> tuple:
    """The smaller distance of two, with its index; the first if they are equal."""
    if len(a) == 1:
        return (jnp.minimum(a[0], b[0]),)
    closer = b[0] < a[0]
    return tuple(jnp.where(closer, y, x) for x, y in zip(a, b, strict=True))


def _farther(state: tuple, by: int | jax.Array) -> tuple:
    """These distances, of seeds `by` steps farther away; infinite ones stay as they are."""
    steps, *index = state
    return (jnp.minimum(steps + jnp.asarray(by, steps.dtype), jnp.iinfo(steps.dtype).max // 2), *index)


def _line_by_rows(*state: jax.Array) -> tuple:
    """Steps to the nearest seed along the last axis but one: one row after the other, down and up."""
    last = state[0].shape[-2] - 1

    def pass_on(state, source, sink):
        before, here = (tuple(lax.dynamic_slice_in_dim(x, row, 1, -2) for x in state) for row in (source, sink))
        here = _nearer(here, _farther(before, 1))
        return tuple(lax.dynamic_update_slice_in_dim(x, y, sink, -2) for x, y in zip(state, here, strict=True))

    state = lax.fori_loop(0, last, lambda row, state: pass_on(state, row, row + 1), state)
    return lax.fori_loop(0, last, lambda row, state: pass_on(state, last - row, last - row - 1), state)


def _line_by_doubling(*state: jax.Array, axis: int, reach: float, multiples: int = 1) -> tuple:
    """The same along any axis, right within a distance that doubles: few steps, for an accelerator.

    Or that grows by more `multiples` in each step, which a GPU reads and writes the map once for.
    """
    right_within, n = 0, state[0].shape[axis]
    far = jnp.iinfo(state[0].dtype).max // 2
    while right_within < min(n - 1, reach):
        by, before = right_within + 1, state
        for _ in range(multiples):
            right_within += by
            away = right_within // by * by
            for side in (away, -away):
                there = (shift(before[0], side, axis, far), *(shift(x, side, axis, 0) for x in before[1:]))
                state = _nearer(state, _farther(there, away))
            if right_within >= min(n - 1, reach):
                break
    return state


def shift(x: jax.Array, by: int, axis: int, fill: float | int | bool) -> jax.Array:
    """out[i] = x[i - by] along `axis`, and `fill` where i - by is outside of x."""
    n = x.shape[axis]
    by = max(-n, min(n, by))
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (by, -by, 0)
    return lax.pad(x, jnp.asarray(fill, x.dtype), edges)


def _envelope(state: tuple, axis: int, spacing: float, limit: float, needed: jax.Array | None) -> tuple:
    """g[i] = min_k f[i ± k] + (k spacing)² along an axis, in groups of rows."""
    n = state[0].shape[axis]
    last = int(min(n - 1, limit / spacing * (1 + 1e-6)))
    if last == 0 or not state[0].size:
        return state
    arrays = (*state, *(() if needed is None else (needed,)))
    loops = partial(_envelope_in_groups, axis=axis, carried=len(state), last=last, spacing=spacing)
    if len(state) > 1 or not n // _FEW <= last < _AT_ONCE:
        return loops(*arrays)
    at_once = partial(_envelope_at_once, axis=axis, spacing=spacing)
    return lax.platform_dependent(*arrays, cuda=at_once, rocm=at_once, default=loops)


def _envelope_at_once(f: jax.Array, *_: jax.Array, axis: int, spacing: float) -> tuple:
    """The same, every pixel of a row for each: one reduction, whose pairs a GPU keeps in registers."""
    f = jnp.moveaxis(f, axis, -1)
    place = jnp.arange(f.shape[-1], dtype=f.dtype)
    away = with_axes(((place[:, None] - place[None, :]) * spacing) ** 2, f.ndim + 1)
    return (jnp.moveaxis(jnp.min(f[..., None, :] + away, -1), -1, axis),)


def _envelope_in_groups(*arrays: jax.Array, axis: int, carried: int, last: int, spacing: float) -> tuple:
    n = arrays[0].shape[axis]
    moved = tuple(jnp.moveaxis(x, axis, -1) for x in arrays)
    shape = moved[0].shape
    flat = tuple(x.reshape(-1, n) for x in moved)
    rows = partial(_envelope_if_needed, carried=carried, last=last, spacing=spacing)
    grouped = partial(map_in_groups, rows)
    out = lax.platform_dependent(
        *flat, cpu=partial(grouped, max(1, _GROUP_CPU // n)), default=partial(grouped, max(1, _GROUP // n))
    )
    return tuple(jnp.moveaxis(x.reshape(shape), -1, axis) for x in out)


def _envelope_if_needed(*arrays: jax.Array, carried: int, last: int, spacing: float) -> tuple:
    """Skips a group of rows in which no result is needed."""
    envelope = partial(_envelope_of_rows, carried=carried, last=last, spacing=spacing)
    if len(arrays) == carried:
        return envelope(*arrays)
    return lax.cond(jnp.any(arrays[carried]), envelope, lambda *arrays: arrays[:carried], *arrays)


def _envelope_of_rows(*arrays: jax.Array, carried: int, last: int, spacing: float) -> tuple:
    """The lower envelope of parabolas in each row `(rows, n)`."""
    state = arrays[:carried]
    f, n = state[0], state[0].shape[1]
    unroll = max(1, min(_UNROLL, last // _STEPS))
    room = -(-last // unroll) * unroll
    padded = tuple(jnp.pad(x, ((0, 0), (room, room)), constant_values=jnp.inf if x is f else 0) for x in state)

    # A pixel stops looking at distance k once nothing there can be nearer: (k spacing)² + (the row's least f) >= g.
    # Rows without any seed stay infinite: nothing to wait for.
    least = jnp.min(f, axis=1, keepdims=True)
    waiting = jnp.isfinite(least) if len(arrays) == carried else jnp.isfinite(least) & arrays[carried]

    with_seeds = jnp.any(jnp.isfinite(f), axis=0)
    sources = jnp.sum(with_seeds, dtype=jnp.int32)
    column = jnp.arange(n, dtype=jnp.int32)[None, :]

    def away(columns):
        return (columns.astype(f.dtype) * spacing) ** 2

    def far_enough(k, g):
        gain = jnp.max(jnp.where(waiting, g[0] - least, 0))
        return (k <= last) & (gain > away(k))

    def look_farther(loop):
        k, g = loop
        for j in range(unroll):
            for side in (-1, 1):
                there = (lax.dynamic_slice_in_dim(x, room + side * (k + j), n, 1) for x in padded)
                g = _nearer(g, _plus(there, away(k + j)))
        return k + unroll, g

    def visit_sources(count, g):
        # Where there are fewer of them than a multiple of the unrolled step, some are visited twice. Nothing but their
        # places is behind a condition: the partitioner would gather what is.
        most = -(-n // unroll) * unroll
        places = lambda: jnp.nonzero(with_seeds, size=most)[0].astype(jnp.int32)  # noqa: E731
        source = lax.cond(count > 0, places, lambda: jnp.broadcast_to(count, (most,)))  # zeros

        def visit(loop):
            k, g = loop
            for j in range(unroll):
                there = (lax.dynamic_slice_in_dim(x, source[k + j], 1, 1) for x in state)
                g = _nearer(g, _plus(there, away(column - source[k + j])))
            return k + unroll, g

        return lax.while_loop(lambda loop: loop[0] < count, visit, (jnp.int32(0), g))[1]

    # Looking k columns far on both sides costs as much as visiting 2 k columns, so all that have seeds are visited
    # once looking has cost as much.
    k, g = lax.while_loop(lambda loop: (2 * loop[0] < sources) & far_enough(*loop), look_farther, (jnp.int32(1), state))
    return visit_sources(jnp.where(far_enough(k, g), sources, 0), g)


def _plus(state: Any, squared: jax.Array) -> tuple:
    f, *index = state
    return (f + squared, *index)
