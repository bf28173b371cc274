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


def as_words(labels: jax.Array, num_classes: int) -> jax.Array:
    """The set of the one class that a label names, none where it is negative: (images, words, *spatial) uint32."""
    first = jnp.arange(0, num_classes, _WORD, dtype=labels.dtype).reshape(1, -1, *[1] * (labels.ndim - 1))
    bit = labels[:, None] - first
    one = jnp.uint32(1) << jnp.clip(bit, 0, _WORD - 1).astype(jnp.uint32)
    return jnp.where((bit >= 0) & (bit < _WORD), one, jnp.uint32(0))


def holds(words: jax.Array, slot: jax.Array) -> jax.Array:
    """Whether a set has a class: (images, places, *spatial) bool.

    Args:
      words: the sets, (images, words, *spatial).
      slot: the classes that are asked for, (images, places, *spatial) or such that broadcasts to it; what is no class
        gets any answer.
    """
    each = [words[:, k, None] >> (slot % _WORD).astype(jnp.uint32) for k in range(words.shape[1])]
    found = each[0]
    for k, here in enumerate(each[1:], start=1):
        found = jnp.where(slot < k * _WORD, found, here)
    return found & 1 == 1


def count(words: jax.Array, num_classes: int) -> jax.Array:
    """How many of an image's sets have each class: (images, words, *spatial) to (images, num_classes) int32."""
    each = [(words[:, k // _WORD] >> jnp.uint32(k % _WORD) & 1).astype(jnp.int32) for k in range(num_classes)]
    # All in one reduction: a CPU adds up single ones a number at a time.
    add = lambda a, b: [i + j for i, j in zip(a, b, strict=True)]  # noqa: E731
    return jnp.stack(lax.reduce(each, [jnp.int32(0)] * num_classes, add, range(1, words.ndim - 1)), axis=1)


def dilate(words: jax.Array, element: StructuringElement) -> jax.Array:
    """The sets of all classes that are within the disk: (images, words, *spatial)."""
    return jnp.stack([_dilate_words(words[:, k], element) for k in range(words.shape[1])], axis=1)


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
