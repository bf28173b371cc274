"""Upsampling by attention: each output pixel attends to the low-resolution pixels around it."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from upsampling import _arguments, interpolation
from upsampling.primitives._common import accumulator, core, with_axes
from upsampling.primitives.window_sum import Geometry, window_correlation, window_softmax, window_sum


def neighborhood_attention(
    x: jax.Array, queries: jax.Array, keys: jax.Array | None = None, *, kernel_size: int = 9, heads: int = 4
) -> jax.Array:
    """Weights the pixels nearest to each output pixel by how well their keys match its query: the operator of NAF.

        y[p] = sum_q softmax over q of (queries[p] . keys[q] / sqrt(d)) x[q],    d channels of queries to a head

    Each head attends with its own block of the channels of queries and keys, and gives its own block of channels of
    the output. The q are a square of `kernel_size` pixels a side of `x`, around the pixel that p lies in; at the edges
    the square moves inward, and where the image is smaller than the square it is the whole image.

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      queries: (*batch, H, W, query channels), H and W at least h and w; the result has this size.
      keys: (*batch, h, w, query channels); if not given, as in NAF, the mean of the queries of each pixel of `x`.
      kernel_size: side of the square, odd.
      heads: number of heads; divides the channels and the query channels.

    Returns:
      (*batch, H, W, channels) in the dtype of `x`; half precision computes in float32.

    Raises:
      ValueError: shapes that do not fit, a kernel_size that is even, or heads that do not divide the channels.
      TypeError: arrays that are not floating, or numbers that are not static.

    Where H is no whole number of times h, pixels of `x` are counted as the authors' code counts them: it enlarges keys
    and values to the output's size by nearest neighbors and takes every `H // h`-th pixel, so that some pixels of `x`
    come twice, that is with twice the weight, and fewer than `kernel_size` are seen.

    NAF and AnyUp (Wimmer et al. 2025, arXiv:2510.12764) both attend to a window of the low-resolution map with queries
    and keys from the image. NAF's is the one here since it fits `upsampling.reassemble`: its window has one size for
    every pixel, however large the image; a head is a channel group; and values are taken as they are. AnyUp's window
    is a share of the image, so that its taps grow with the map, and its size varies from pixel to pixel.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> x = jnp.array([0.0, 0.0, 1.0, 1.0]).reshape(1, 4, 1)
    >>> seen = jnp.array([-9.0, -9.0, -9.0, 9.0, 9.0, 9.0, 9.0, 9.0]).reshape(1, 8, 1)  # the edge is a pixel earlier
    >>> up.neighborhood_attention(x, seen, kernel_size=3, heads=1)[0, :, 0].round(2)
    Array([0., 0., 0., 1., 1., 1., 1., 1.], dtype=float32)

    Source: Chambon et al. 2025, arXiv:2511.18452, section 3; Hassani et al. 2023, arXiv:2204.07143.
    """
    name = "neighborhood_attention"
    x, queries = _arguments.spatial_map(name, "x", x), _arguments.spatial_map(name, "queries", queries)
    for argument, given in (("x", x), ("queries", queries)):
        _arguments.static_size(name, argument, given, 2)
    (window,) = _arguments.odd(name, "kernel_size", kernel_size, 1)
    heads = _arguments.divisor(name, "heads", heads, channels=x.shape[-1], query_channels=queries.shape[-1])
    larger = all(m >= n for n, m in zip(x.shape[-3:-1], queries.shape[-3:-1], strict=True))
    if queries.shape[:-3] != x.shape[:-3] or not larger:
        raise ValueError(
            f"{name}: queries must have the batch axes of x {x.shape} and at least its height and width; "
            f"got shape {queries.shape}."
        )
    if keys is not None:
        shape = (*x.shape[:-1], queries.shape[-1])
        keys = _arguments.shaped(name, "keys", keys, shape, "the size of x and the channels of queries")
    return _neighborhood_attention(x, queries, keys, window, heads)


@core((3, 4))
def _neighborhood_attention(
    x: jax.Array, queries: jax.Array, keys: jax.Array | None, window: int, heads: int
) -> jax.Array:
    queries = queries.astype(accumulator(queries.dtype))
    size = x.shape[-3:-1]
    keys = interpolation._to_size(queries, size, "area") if keys is None else keys.astype(queries.dtype)
    sizes = zip(size, queries.shape[-3:-1], strict=True)
    centers, counts = zip(*(neighbor_windows(n, m, window) for n, m in sizes), strict=True)
    queries = queries * math.sqrt(heads / queries.shape[-1])
    geometry = Geometry.around(size, centers, (window, window), heads)
    logits = window_correlation(keys, queries, geometry, "zero")
    with np.errstate(divide="ignore"):
        # A pixel that is seen twice has twice the weight, one that is not seen none.
        weights = window_softmax(logits, 2, *map(np.log, counts))
    return window_sum(x.astype(weights.dtype), weights, geometry, "zero").astype(x.dtype)


def neighbor_windows(n: int, m: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The window of each of m output pixels on an axis of n, as neighborhood attention places it.

    Returns:
      The windows' central pixels, (m,), and how often each pixel of the window is seen, (m, window).
    """
    dilation = m // n
    phase, step = np.arange(m) % dilation, np.arange(m) // dilation
    length = -(-(m - phase) // dilation)  # output pixels of that phase
    first = np.clip(step - window // 2, 0, np.maximum(length - window, 0))
    tap = first[:, None] + np.arange(window)
    under = (2 * (phase[:, None] + tap * dilation) + 1) * n // (2 * m)
    # Where the image is smaller than the window, the window may begin outside, but its center lies inside.
    center = np.minimum(under[:, 0] + window // 2, n - 1)
    counts = np.zeros((m, window))
    row, column = np.nonzero(tap < length[:, None])
    np.add.at(counts, (row, (under - center[:, None] + window // 2)[row, column]), 1)
    return center, counts


def rotary_embedding(x: jax.Array, *, heads: int = 1, base: float = 100.0) -> jax.Array:
    """Rotates pairs of channels by angles that grow with the pixel's place: inner products then depend on distance.

    In a head of d channels, channels c and c + d/2 are the coordinates of a point, which is rotated by the angle
    2 pi u / base^(4 f / d). u is the row in the first half of those pairs and the column in the second, from -1 to 1
    over the image, and f, from 0 to d/4 - 1, is the number of the pair.

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included.
      heads: number of blocks of channels that are rotated alike; 4 * heads divides the channels.
      base: about the ratio of the longest period to the shortest.

    Returns:
      The same shape and dtype.

    Raises:
      ValueError: too few axes, or channels that 4 * heads does not divide.
      TypeError: an array that is not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling import attention
    >>> bool(jnp.allclose(jnp.linalg.norm(attention.rotary_embedding(jnp.ones((5, 7, 8))), axis=-1), 8**0.5))
    True

    Source: Su et al. 2021, arXiv:2104.09864; Heo et al. 2024, arXiv:2403.13298, and as NAF uses it.
    """
    name = "rotary_embedding"
    x = _arguments.spatial_map(name, "x", x)
    heads = _arguments.number(name, "heads", heads)
    base = _arguments.number(name, "base", base, real=True)
    if x.shape[-1] % (4 * heads):
        raise ValueError(f"{name}: x must have a multiple of 4 * heads={4 * heads} channels; got shape {x.shape}.")
    return _rotary_embedding(x, heads, base)


@core((1, 2))
def _rotary_embedding(x: jax.Array, heads: int, base: float) -> jax.Array:
    *_, height, width, channels = x.shape
    half = channels // heads // 2
    angles = np.zeros((height, width, half))
    periods = rotary_periods(channels, heads, base)
    for axis, n in enumerate((height, width)):
        places = (2 * np.arange(n) + 1) / n - 1
        turns = 2 * np.pi * places[:, None] / periods
        block = slice(axis * half // 2, (axis + 1) * half // 2)
        angles[..., block] = turns[:, None] if axis == 0 else turns
    wide = x.astype(accumulator(x.dtype))
    pairs = wide.reshape(*x.shape[:-1], heads, 2, half)
    first, second = pairs[..., 0, :], pairs[..., 1, :]
    cos, sin = (with_axes(jnp.asarray(f(angles)[..., None, :], wide.dtype), first.ndim) for f in (np.cos, np.sin))
    rotated = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-2)
    return rotated.reshape(x.shape).astype(x.dtype)


def rotary_periods(channels: int, heads: int, base: float) -> np.ndarray:
    """The periods of `rotary_embedding`, (channels / heads / 4,), in half images."""
    quarter = channels // heads // 4
    return base ** (np.arange(quarter) / quarter)
