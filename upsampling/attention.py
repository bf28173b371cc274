"""Upsampling by attention: each output pixel asks the low-resolution pixels around it what they have for it."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from upsampling import _arguments, _windows, interpolation
from upsampling.primitives._common import accumulator


def neighborhood_attention(
    x: jax.Array, queries: jax.Array, keys: jax.Array | None = None, *, window: int = 9, heads: int = 4
) -> jax.Array:
    """Weighs the pixels nearest to each output pixel by how well their keys answer its query: the operator of NAF.

        y[p] = sum_q softmax over q of (queries[p] . keys[q] / sqrt(d)) x[q],    d channels of queries to a head

    Each head attends with its own block of the channels of queries and keys, and fills its own block of channels of
    the output. The q are the `window`-squared pixels of `x` around the one that p lies in; at the edges the square
    moves inward, and where the image is smaller than the window it is the whole image.

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      queries: (*batch, H, W, query channels), H and W at least h and w; the result has this size.
      keys: (*batch, h, w, query channels); if not given, as in NAF, the mean of the queries of each pixel of `x`.
      window: side of the square, odd.
      heads: number of heads; divides the channels and the query channels.

    Returns:
      (*batch, H, W, channels) in the dtype of `x`; half precision computes in float32.

    Raises:
      ValueError: shapes that do not fit, a window that is even, or heads that do not divide the channels.
      TypeError: arrays that are not floating, or numbers that are not static.

    Where H is no whole number of times h, pixels of `x` are counted as the authors' code counts them: it enlarges keys
    and values to the output's size by nearest neighbours and takes every `H // h`-th pixel, so that some pixels of `x`
    come twice, that is with twice the weight, and fewer than `window` are seen.

    NAF and AnyUp (Wimmer et al. 2025, arXiv:2510.12764) both attend to a window of the low-resolution map with queries
    and keys from the image. NAF's is the one here since it fits `upsampling.reassemble`: its window has one size for
    every pixel, however large the image; a head is a channel group; and values are taken as they are. AnyUp's window
    is a share of the image, so that its taps grow with the map, and its size varies from pixel to pixel.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> x = jnp.array([0.0, 0.0, 1.0, 1.0]).reshape(1, 4, 1)
    >>> seen = jnp.array([-9.0, -9.0, -9.0, 9.0, 9.0, 9.0, 9.0, 9.0]).reshape(1, 8, 1)  # the edge is a pixel earlier
    >>> up.neighborhood_attention(x, seen, window=3, heads=1)[0, :, 0].round(2)
    Array([0., 0., 0., 1., 1., 1., 1., 1.], dtype=float32)

    Source: Chambon et al. 2025, arXiv:2511.18452, section 3; Hassani et al. 2023, arXiv:2204.07143.
    """
    name = "neighborhood_attention"
    x, queries = _arguments.array(name, "x", x), _arguments.array(name, "queries", queries)
    for argument, array in (("x", x), ("queries", queries)):
        if array.ndim < 3 or 0 in array.shape[-3:]:
            raise ValueError(
                f"{name}: {argument} must be (*batch, height, width, channels), none of the last three empty; "
                f"got shape {array.shape}."
            )
    heads = _arguments.number(name, "heads", heads)
    window = _arguments.number(name, "window", window)
    if window % 2 == 0:
        raise ValueError(f"{name}: window must be odd; got {window}.")
    if queries.shape[:-3] != x.shape[:-3] or any(
        m < n for n, m in zip(x.shape[-3:-1], queries.shape[-3:-1], strict=True)
    ):
        raise ValueError(
            f"{name}: queries must have the batch axes of x {x.shape} and at least its height and width; "
            f"got shape {queries.shape}."
        )
    if x.shape[-1] % heads or queries.shape[-1] % heads:
        raise ValueError(
            f"{name}: heads={heads} must divide the {x.shape[-1]} channels of x and the {queries.shape[-1]} of queries."
        )
    if keys is not None:
        keys = _arguments.array(name, "keys", keys)
        if keys.shape != (*x.shape[:-1], queries.shape[-1]):
            raise ValueError(
                f"{name}: keys must have the size of x and the channels of queries, "
                f"{(*x.shape[:-1], queries.shape[-1])}; got shape {keys.shape}."
            )
    return _attention(x, queries, keys, window, heads)


@functools.partial(jax.jit, static_argnums=(3, 4), inline=True)
def _attention(x, queries, keys, window: int, heads: int):
    queries = queries.astype(accumulator(queries.dtype))
    keys = interpolation.area(queries, x.shape[-3:-1]) if keys is None else keys.astype(queries.dtype)
    sizes = zip(x.shape[-3:-1], queries.shape[-3:-1], strict=True)
    centres, counts = zip(*(neighbours(n, m, window) for n, m in sizes), strict=True)
    queries = queries * math.sqrt(heads / queries.shape[-1])
    logits = _windows.products(queries, keys, centres, window, heads)
    with np.errstate(divide="ignore"):
        # A pixel seen twice has twice the weight, one not seen none.
        rows, columns = (np.log(count) for count in counts)
    return _windows.reassemble(x, _windows.softmax(logits, rows, columns), centres)


def neighbours(n: int, m: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The window of each of m output pixels on an axis of n, as neighbourhood attention places it.

    Returns:
      Middle pixels, (m,), and how often each pixel of the window around them is seen, (m, window).
    """
    dilation = m // n
    phase, step = np.arange(m) % dilation, np.arange(m) // dilation
    length = -(-(m - phase) // dilation)  # output pixels of that phase
    first = np.clip(step - window // 2, 0, np.maximum(length - window, 0))
    tap = first[:, None] + np.arange(window)
    under = (2 * (phase[:, None] + tap * dilation) + 1) * n // (2 * m)
    # Where the image is smaller than the window it may begin outside, but has its middle inside.
    centre = np.minimum(under[:, 0] + window // 2, n - 1)
    counts = np.zeros((m, window))
    row, column = np.nonzero(tap < length[:, None])
    np.add.at(counts, (row, (under - centre[:, None] + window // 2)[row, column]), 1)
    return centre, counts


def rotate(x: jax.Array, *, heads: int = 1, base: float = 100.0) -> jax.Array:
    """Turns the channels of each pixel by angles that grow with its place, so that products of two tell their distance.

    In each head, channels c and c + d/2 are the two coordinates of a point that is turned by 2 pi u / base^(4 f / d);
    u is the row in the first half of those pairs and the column in the second, from -1 to 1 over the image, and f, from
    0 to d/4 - 1, the number of the pair.

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included.
      heads: number of blocks of channels that are turned alike; 4 * heads divides the channels.
      base: ratio of the longest period to the shortest, nearly.

    Returns:
      The same shape and dtype.

    Raises:
      ValueError: too few axes, or channels that 4 * heads does not divide.
      TypeError: an array that is not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling import attention
    >>> bool(jnp.allclose(jnp.linalg.norm(attention.rotate(jnp.ones((5, 7, 8))), axis=-1), 8**0.5))
    True

    Source: Su et al. 2021, arXiv:2104.09864; Heo et al. 2024, arXiv:2403.13298, and as NAF uses it.
    """
    x = _arguments.array("rotate", "x", x)
    heads = _arguments.number("rotate", "heads", heads)
    base = _arguments.number("rotate", "base", base, real=True)
    if x.ndim < 3 or x.shape[-1] % (4 * heads):
        raise ValueError(
            f"rotate: x must be (*batch, height, width, channels) with a multiple of 4 * heads={4 * heads} channels; "
            f"got shape {x.shape}."
        )
    return _rotate(x, heads, base)


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _rotate(x, heads: int, base: float):
    *_, height, width, channels = x.shape
    half = channels // heads // 2
    angles = np.zeros((height, width, half))
    periods = rotation_periods(channels, heads, base)
    for axis, n in enumerate((height, width)):
        places = (2 * np.arange(n) + 1) / n - 1
        turns = 2 * np.pi * places[:, None] / periods
        block = slice(axis * half // 2, (axis + 1) * half // 2)
        angles[..., block] = turns[:, None] if axis == 0 else turns
    wide = x.astype(accumulator(x.dtype))
    pairs = wide.reshape(*x.shape[:-1], heads, 2, half)
    first, second = pairs[..., 0, :], pairs[..., 1, :]
    cos, sin = (jnp.asarray(f(angles)[..., None, :], wide.dtype) for f in (np.cos, np.sin))
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-2)
    return turned.reshape(x.shape).astype(x.dtype)


def rotation_periods(channels: int, heads: int, base: float) -> np.ndarray:
    """The periods of `rotate`, (channels / heads / 4,), in half images."""
    quarter = channels // heads // 4
    return base ** (np.arange(quarter) / quarter)
