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


def dilate(members: jax.Array, element: StructuringElement, slot: jax.Array) -> jax.Array:
    """Whether there is a member of a class within the disk.

    Args:
      members: `(images, classes, *spatial)` bool.
      element: the disk.
      slot: `(images, places, *spatial)`, the classes that are asked for; what is no class gets any answer.

    Returns:
      `(images, places, *spatial)` bool.
    """
    found = jnp.zeros(slot.shape, jnp.uint32)
    for start in range(0, members.shape[1], _WORD):
        word = _dilate_words(_packed(members[:, start : start + _WORD]), element)[:, None]
        here = word >> ((slot - start) % _WORD).astype(jnp.uint32)
        found = here if start == 0 else jnp.where(slot < start, found, here)
    return found & 1 == 1


def _packed(members: jax.Array) -> jax.Array:
    bit = jnp.arange(members.shape[1], dtype=jnp.uint32).reshape(1, -1, *[1] * (members.ndim - 2))
    return jnp.sum(members.astype(jnp.uint32) << bit, axis=1, dtype=jnp.uint32)


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
