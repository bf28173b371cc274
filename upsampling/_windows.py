"""Windows of a map around places that are fixed while tracing, for weights that compare pixels with each other."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from upsampling import reassembly

Centres = Sequence[np.ndarray]  # for each axis, the pixel in the middle of each output pixel's window


def under(n: int, m: int) -> np.ndarray:
    """The pixel, of n on an axis, that each of m output pixels has its middle in."""
    return (2 * np.arange(m) + 1) * n // (2 * m)


def products(
    queries: jax.Array, keys: jax.Array, centres: Centres, window: int, groups: int = 1, *, edge: str = "zero"
) -> jax.Array:
    """Inner products of each query (*batch, H, W, channels) with the keys (*batch, h, w, channels) in its window.

    Returns:
      (*batch, H, W, groups, window, window), one product for each block of channels.
    """
    places = _scale(keys, centres) or tuple(tuple(c.tolist()) for c in centres)
    return reassembly.similarities(keys, queries, places, window, groups=groups, edge=edge)


def reassemble(x: jax.Array, weights: jax.Array, centres: Centres, *, edge: str = "zero") -> jax.Array:
    """Sums the windows of `x` (*batch, h, w, channels) by weights (*batch, H, W, groups, k, k), in the weights' dtype.

    Returns:
      (*batch, H, W, channels) in the dtype of `x`.
    """
    wide, scale = x.astype(weights.dtype), _scale(x, centres)
    if scale:
        y = reassembly.reassemble(wide, weights, scale=scale, edge=edge)
    else:
        y = reassembly.reassemble_to(wide, weights, [tuple(c.tolist()) for c in centres], edge=edge)
    return y.astype(x.dtype)


def softmax(logits: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """Softmax over windows (*batch, H, W, groups, k, k), after adding logits of rows (H, k) and of columns (W, k)."""
    if rows.any() or columns.any():
        logits = logits + jnp.asarray(rows[:, None, None, :, None] + columns[:, None, None, :], logits.dtype)
    return jax.nn.softmax(logits, axis=(-2, -1))


def _scale(x: jax.Array, centres: Centres) -> tuple[int, ...]:
    """The factor of each axis, if every pixel is in the middle of that many windows, one after the other; else none."""
    scale = tuple(max(len(c) // n, 1) for n, c in zip(x.shape[-3:-1], centres, strict=True))
    uniform = all(
        np.array_equal(c, np.arange(n * s) // s) for n, s, c in zip(x.shape[-3:-1], scale, centres, strict=True)
    )
    return scale if uniform else ()
