"""The exact Euclidean distance transform: one pass per axis, each the lower envelope of parabolas.

The squared distance separates over axes: D(p) = min_q |p - q|² = min_{q1} ((p1 - q1)² + min_{q2} ((p2 - q2)² + ...)).
The first pass is a distance along a line, by doubling. Every further pass is out[i] = min_k f[i ± k] + k², taken with
k = 1, 2, ... until k² is no less than the largest value that is still needed: no further pixel can then be nearer. So
a pass costs pixels x (largest distance), at most pixels x side, works in place on whole arrays, and nothing pairwise
is ever stored.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

_UNROLL = 8  # shifts per step of the loop, so that XLA reads and writes the running minimum once for all of them


def shift(x: jax.Array, by: int, axis: int, fill: float | int | bool) -> jax.Array:
    """out[i] = x[i - by] along `axis`, with `fill` moving in from outside."""
    n = x.shape[axis]
    by = max(-n, min(n, by))
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (by, -by, 0)
    return lax.pad(x, jnp.asarray(fill, x.dtype), edges)


def squared_distance(
    seeds: jax.Array, spacing: tuple[float, ...], limit: float = math.inf, needed: jax.Array | None = None
) -> jax.Array:
    """Squared distance from every pixel to the nearest seed, over the last len(spacing) axes; infinity without seeds.

    Args:
      seeds: `(*batch, *spatial)` bool.
      spacing: pixel size along each spatial axis.
      limit: distances above it need not be found; they come back too large or infinite.
      needed: like `seeds`; where False, the result may be too large.

    Returns:
      float32 (float64 with x64 enabled): exact integers for spacing 1 up to 2**24.
    """
    rank = len(spacing)
    squared = _along_line(seeds, spacing[-1], limit) ** 2
    for axis in range(2, rank + 1):
        squared = _envelope(squared, -axis, spacing[-axis], limit, needed if axis == rank else None)
    return squared


def _along_line(seeds: jax.Array, spacing: float, limit: float) -> jax.Array:
    """Distance to the nearest seed along the last axis: after a step it is right within `reach`, which doubles."""
    n = seeds.shape[-1]
    steps = jnp.where(seeds, 0.0, jnp.inf)
    reach, last = 0, min(n - 1, limit / spacing)
    while reach < last:
        by = reach + 1
        moved = jnp.minimum(shift(steps, by, steps.ndim - 1, jnp.inf), shift(steps, -by, steps.ndim - 1, jnp.inf))
        steps = jnp.minimum(steps, moved + by)
        reach += by
    return steps * spacing


def _envelope(f: jax.Array, axis: int, spacing: float, limit: float, needed: jax.Array | None) -> jax.Array:
    """out[i] = min_k f[i ± k] + (k spacing)²: the lower envelope of parabolas, nearest parabolas first."""
    axis, n = axis % f.ndim, f.shape[axis]
    last = int(min(n - 1, limit // spacing))
    if last == 0:
        return f
    groups = -(-last // _UNROLL)
    room = groups * _UNROLL
    edges = [(0, 0, 0)] * f.ndim
    edges[axis] = (room, room, 0)
    padded = lax.pad(f, jnp.asarray(jnp.inf, f.dtype), edges)
    # A line of the image without seeds stays infinite; where there are none at all, nothing is worth waiting for.
    spatial = tuple(range(axis, f.ndim))
    waited_for = jnp.isfinite(jnp.min(f, axis=spatial, keepdims=True))
    if needed is not None:
        waited_for &= needed

    def unfinished(state):
        k, least = state
        worst = jnp.max(jnp.where(waited_for, least, 0), initial=0)
        return (k <= last) & (worst > (k * spacing) ** 2)

    def step(state):
        k, least = state
        for j in range(_UNROLL):
            left = lax.dynamic_slice_in_dim(padded, room - (k + j), n, axis)
            right = lax.dynamic_slice_in_dim(padded, room + (k + j), n, axis)
            least = jnp.minimum(least, jnp.minimum(left, right) + ((k + j) * spacing) ** 2)
        return k + _UNROLL, least

    return lax.while_loop(unfinished, step, (jnp.int32(1), f))[1]
