"""Which pixels have one of a set within a distance, for sets of many classes at once: dilation by a disk, in bits.

A pixel's word holds a bit per class, so that one pass over the image serves 32 of them. Where the disk is small that is
far less work than the distances of every class (see `distance.py`), and just as exact.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

# The rows of a disk: half its width along the last axis, at each offset along the others.
Rows = dict[tuple[int, ...], int]

_WORD = 32
# The most shifted images to put together; for larger disks distances are cheaper.
_MOST = 128


def rows_of(spacing: tuple[float, ...], radius: float) -> Rows | None:
    """The rows of a disk (a ball, in a volume) in the unit of `spacing`, inclusive; None if it is not a small one."""
    *others, last = spacing
    if radius > _MOST * min(spacing):
        return None
    reach = [range(-int(radius / s + 1), int(radius / s + 1) + 1) for s in others]
    if math.prod(map(len, reach)) > 4 * _MOST:
        return None
    rest = {
        offset: radius**2 * _SLACK - sum((k * s) ** 2 for k, s in zip(offset, others, strict=True))
        for offset in itertools.product(*reach)
    }
    rows = {offset: int(math.sqrt(r) / last) for offset, r in rest.items() if r >= 0}
    return rows if len(rows) + 2 * max(rows.values()) <= _MOST else None


_SLACK = 1 + 1e-6  # a distance of three pixels of size 0.7 must be within 2.1


def within_squared(squared: jax.Array, radius: float) -> jax.Array:
    """The same for squared distances: distance <= radius."""
    return squared <= radius**2 * _SLACK


def near(members: jax.Array, rows: Rows) -> jax.Array:
    """Whether a pixel has a member of the class within the disk: `(images, classes, *spatial)` bool in and out."""
    classes = members.shape[1]
    words = [_dilated(_packed(members[:, start : start + _WORD]), rows) for start in range(0, classes, _WORD)]
    return jnp.concatenate([_unpacked(word, min(_WORD, classes - k * _WORD)) for k, word in enumerate(words)], axis=1)


def _bit(count: int, rank: int) -> jax.Array:
    return jnp.arange(count, dtype=jnp.uint32).reshape(-1, *[1] * rank)


def _packed(members: jax.Array) -> jax.Array:
    bits = members.astype(jnp.uint32) << _bit(members.shape[1], members.ndim - 2)
    return jnp.sum(bits, axis=1, dtype=jnp.uint32)


def _unpacked(words: jax.Array, classes: int) -> jax.Array:
    return (words[:, None] >> _bit(classes, words.ndim - 1)) & 1 == 1


def _dilated(x: jax.Array, rows: Rows) -> jax.Array:
    """The union of x over the disk: first along the last axis, for every width that occurs, then of these rows."""
    n, widest = x.shape[-1], max(rows.values())
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(widest, widest)])
    widened = [x]
    for k in range(1, widest + 1):
        widened.append(
            widened[-1] | padded[..., widest - k : widest - k + n] | padded[..., widest + k : widest + k + n]
        )
    used = sorted(set(rows.values()))
    reach = [max(offset) for offset in zip(*rows, strict=True)]
    edges = [(0, 0), *((r, r) for r in reach), (0, 0)]
    # Kept apart, or XLA widens again for every row.
    by_width = dict(zip(used, lax.optimization_barrier([jnp.pad(widened[w], edges) for w in used]), strict=True))
    out = jnp.zeros_like(x)
    for offset, width in rows.items():
        window = (slice(r + k, r + k + m) for r, k, m in zip(reach, offset, x.shape[1:], strict=False))
        out |= by_width[width][(slice(None), *window)]
    return out
