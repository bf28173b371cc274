"""The triangular factor of the covariance in a box around each pixel, by orthogonal steps.

A covariance squares what it measures. Where the channels of a guide differ by one part in a thousand, their covariances
are singular to one part in a million, and float32 has no more digits than that. The factor R of the deviations
themselves, for which R^T R is the covariance, keeps them.

The factors of two sets of pixels, and the difference of the sets' means, give the factor of both together. So those of
the boxes come from the pixels along one axis, and then from these along the other.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from upsampling.primitives._common import pad_edges, with_axes

# A factor: of each row its entry on the diagonal, (1, *batch, h, w), and those right of it, (n, *batch, h, w).
Rows = tuple[tuple[jax.Array, jax.Array], ...]


def box_factor(x: jax.Array, penalty: jax.Array, radius: int) -> jax.Array:
    """R, for which R^T R is the covariance of x and the penalty's; in a box of `2 * radius + 1` pixels, cropped.

    Args:
      x: (*batch, h, w, columns).
      penalty: (*batch, 1, 1, rows, rows), of the first columns alone, a factor as R itself.
      radius: of the box, in pixels.

    Returns:
      The first rows, (*batch, h, w, rows, columns), upper triangular and not negative on the diagonal.
    """
    values = jnp.moveaxis(x, -1, 0)  # columns come first: the last axes are long
    more = x.shape[-1] - penalty.shape[-1]
    whole = jnp.pad(penalty, [*((0, 0),) * (penalty.ndim - 1), (0, more)])
    whole = [jnp.broadcast_to(jnp.moveaxis(whole[..., k, :], -1, 0), values.shape) for k in range(penalty.shape[-1])]
    rows: Rows = tuple((row[k : k + 1], row[k + 1 :]) for k, row in enumerate(whole))
    means, count = jnp.zeros_like(values), np.ones(values.shape[-2:])
    for axis in (-2, -1):
        rows, means, count = _along(axis, radius, rows, means, values, count)
    factor = jnp.stack([jnp.concatenate([jnp.zeros_like(values[:k]), *row]) for k, row in enumerate(rows)])
    root = jnp.asarray(np.sqrt(count), x.dtype)[..., None, None]
    return jnp.moveaxis(factor, (0, 1), (-2, -1)) / with_axes(root, factor.ndim)


def _along(
    axis: int, radius: int, rows: Rows, means: jax.Array, values: jax.Array, count: np.ndarray
) -> tuple[Rows, jax.Array, np.ndarray]:
    """Merges the sets of pixels within the radius of each place on an axis, counted from the last.

    Args:
      rows: the factor of the set at each place, of sums of products in place of means.
      means: (channels, *batch, h, w), those of the set less `values`, so that what differs little is not rounded.
      values: (channels, *batch, h, w), of one pixel in the set.
      count: (h, w), the pixels in the set.
    """
    n, rank = values.shape[axis], values.ndim
    reach = min(radius, n - 1)
    margins = [(reach, reach) if d == rank + axis else (0, 0) for d in range(rank)]
    # Sets beyond the image count nothing.
    outside = [(*margin, 0) for margin in margins]
    rows = jax.tree.map(lambda a: lax.pad(a, jnp.zeros((), a.dtype), outside), rows)
    moving = rows, pad_edges(means, margins), pad_edges(values, margins)
    places = np.arange(n) + np.arange(2 * reach + 1)[:, None] - reach
    inside = ((places >= 0) & (places < n)).astype(float)
    before = np.cumsum(inside, 0) - inside
    share = inside / np.maximum(before + inside, 1)
    along = [1] * rank
    along[axis] = n
    weight = np.sqrt(before * share).reshape(-1, *along) * np.sqrt(count)
    weight, share = (jnp.asarray(a, values.dtype) for a in (weight, share.reshape(-1, *along)))

    def merge(k: Any, merged: tuple[Rows, jax.Array]) -> tuple[Rows, jax.Array]:
        others, other_means, other_values = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, k, n, axis), moving)
        rows, means = merged
        apart = other_means + (other_values - values) - means
        return _merged(rows, others, apart * weight[k]), means + apart * share[k]

    nothing = jax.tree.map(lambda a: jnp.zeros_like(lax.slice_in_dim(a, 0, n, axis=axis)), rows), jnp.zeros_like(means)
    rows, means = lax.fori_loop(0, 2 * reach + 1, merge, nothing)
    return rows, means, count * inside.sum(0).reshape(along[-2:])


def _merged(a: Rows, b: Rows, observation: jax.Array) -> Rows:
    """The factor of the rows of two factors and of one more row, by Householder's reflections.

    The diagonal of `a` must not be negative; that of the result is not.
    """
    merged: list[tuple[jax.Array, jax.Array]] = []
    below = [(observation[:1], observation[1:])]
    for (pivot, rest), other in zip(a, b, strict=True):
        below = [other, *below]
        norm = jnp.sqrt(sum((column**2 for column, _ in below), start=pivot**2))
        divisor = jnp.where(norm == 0, 1, norm)
        reflected = sum((column * columns for column, columns in below), start=pivot * rest) / divisor
        merged.append((norm, reflected))
        change = (rest + reflected) / (pivot + divisor)
        reduced = [columns - column * change for column, columns in below]
        below = [(row[:1], row[1:]) for row in reduced]
    return tuple(merged)
