"""Binary dilation by a disk, of many classes at once: which pixels have one of a set within a distance.

A pixel's word holds a bit per class, so that one pass over the image serves 32 of them. Where the disk is small that is
far less work than the distances of every class (see `distance_transform.py`), and just as exact.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

# A disk, row by row: at each offset along all axes but the last, half its width along the last.
StructuringElement = dict[tuple[int, ...], int]

_WORD = 32
# The most shifted images to combine; for larger disks distances are cheaper.
_MOST = 128


def disk(spacing: tuple[float, ...], radius: float) -> StructuringElement | None:
    """The pixels within `radius`, inclusive, in the unit of `spacing` (a ball, in a volume); None if they are many."""
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


# Squared distances may be this factor too large: three pixels of size 0.1 are within 0.3, but 0.3 / 0.1 < 3.
_SLACK = 1 + 1e-6


def within_squared(squared: jax.Array, radius: float) -> jax.Array:
    """Whether distances, given squared, are at most `radius`, by the same rule as `disk`."""
    return squared <= radius**2 * _SLACK


def dilate(members: jax.Array, element: StructuringElement) -> jax.Array:
    """Whether a pixel has a member of the class within the disk: `(images, classes, *spatial)` bool in and out."""
    classes = members.shape[1]
    words = [_dilate_words(_packed(members[:, start : start + _WORD]), element) for start in range(0, classes, _WORD)]
    return jnp.concatenate([_unpacked(word, min(_WORD, classes - k * _WORD)) for k, word in enumerate(words)], axis=1)


def _bit(count: int, rank: int) -> jax.Array:
    return jnp.arange(count, dtype=jnp.uint32).reshape(1, -1, *[1] * rank)


def _packed(members: jax.Array) -> jax.Array:
    bits = members.astype(jnp.uint32) << _bit(members.shape[1], members.ndim - 2)
    return jnp.sum(bits, axis=1, dtype=jnp.uint32)


def _unpacked(words: jax.Array, classes: int) -> jax.Array:
    return (words[:, None] >> _bit(classes, words.ndim - 1)) & 1 == 1


def _dilate_words(x: jax.Array, element: StructuringElement) -> jax.Array:
    """The union of x over the disk: first along the last axis, for every width that occurs, then over its rows."""
    n, widest = x.shape[-1], max(element.values())
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(widest, widest)])
    widened = [x]
    for k in range(1, widest + 1):
        widened.append(
            widened[-1] | padded[..., widest - k : widest - k + n] | padded[..., widest + k : widest + k + n]
        )
    used = sorted(set(element.values()))
    reach = [max(offset) for offset in zip(*element, strict=True)]
    edges = [(0, 0), *((r, r) for r in reach), (0, 0)]
    # Kept apart, or XLA widens again for every row.
    by_width = dict(zip(used, lax.optimization_barrier([jnp.pad(widened[w], edges) for w in used]), strict=True))
    out = jnp.zeros_like(x)
    for offset, width in element.items():
        window = (slice(r + k, r + k + m) for r, k, m in zip(reach, offset, x.shape[1:], strict=False))
        out |= by_width[width][(slice(None), *window)]
    return out
