"""Upsampling by attention: each output pixel attends to the low-resolution pixels around it."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from upsampling import _arguments, interpolation
from upsampling._arguments import Numbers
from upsampling.primitives import _common
from upsampling.primitives._common import (
    Read,
    Tiles,
    accumulator,
    blocks_of,
    core,
    in_parts,
    over_tiles,
    tile_length,
    with_axes,
)
from upsampling.primitives.transposed_conv import convolve
from upsampling.primitives.window_attention import attended, attention
from upsampling.primitives.window_sum import Geometry, window_correlation, window_softmax, window_sum


def neighborhood_attention(
    x: jax.Array,
    queries: jax.Array,
    keys: jax.Array | None = None,
    *,
    kernel_size: Numbers | None = 9,
    heads: int = 4,
    share: float | None = None,
    average_heads: bool = False,
    rotary_base: float | None = None,
) -> jax.Array:
    """Weights pixels near to each output pixel, or all, by how well their keys match its query.

        y[p] = sum_q softmax over q of (queries[p] . keys[q] / sqrt(d)) x[q],    d channels of queries to a head

    The operator of NAF, AnyUp, JAFAR and LoftUp, which differ in the q that p sees:

    - `kernel_size`: a rectangle of as many pixels of `x`, around the pixel that p lies in. At the edges it moves
      inward, and where the image is smaller than the rectangle it is the whole image. An even one reaches one pixel
      further up and left. NAF's, and that of all methods made of NATTEN's operator.
    - `share`: all pixels of `x` that lie, at least in part, within this share of the image's height and width from p's
      center. AnyUp's; the rectangle grows with the map and is cut off at edges.
    - neither (`kernel_size=None`): all pixels. JAFAR's and LoftUp's.

    Each head attends with its own block of the channels of queries and keys. It gives its own block of channels of
    the output; or, with `average_heads`, all channels are summed with the mean of the heads' weights.

    The weights of many pixels are never held at once: what would take more than 64 MB is computed by tiles of the
    output, in which gradients compute the weights anew.

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      queries: (*batch, H, W, query channels); the result has this size. With `kernel_size` H and W are at least h and
        w.
      keys: (*batch, h, w, query channels); if not given, as in NAF, the mean of the queries of each pixel of `x`.
      kernel_size: height and width of the rectangle, one number or two; None for all pixels.
      heads: number of heads; divides the query channels, and the channels unless heads are averaged.
      share: in place of `kernel_size`, above 0.
      average_heads: whether the heads' weights are averaged.
      rotary_base: if given, queries are turned first, as by `rotary_embedding` with this base, and not kept twice but
        on a GPU. Given keys are turned already.

    Returns:
      (*batch, H, W, channels) in the dtype of `x`; half precision computes in float32.

    Raises:
      ValueError: shapes that do not fit, a kernel_size below 1, a share out of range, or heads that do not divide the
        channels.
      TypeError: arrays that are not floating, or numbers that are not static.

    Where H is no whole number of times h, pixels in the rectangle of `kernel_size` are counted as NAF's code counts
    them: it enlarges keys and values to the output's size by nearest neighbors and takes every `H // h`-th pixel, so
    that some pixels of `x` come twice, that is with twice the weight, and fewer than `kernel_size` are seen.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> x = jnp.array([0.0, 0.0, 1.0, 1.0]).reshape(1, 4, 1)
    >>> seen = jnp.array([-9.0, -9.0, -9.0, 9.0, 9.0, 9.0, 9.0, 9.0]).reshape(1, 8, 1)  # the edge is a pixel earlier
    >>> up.neighborhood_attention(x, seen, kernel_size=3, heads=1)[0, :, 0].round(2)
    Array([0., 0., 0., 1., 1., 1., 1., 1.], dtype=float32)

    Source: Chambon et al. 2025, arXiv:2511.18452, section 3; Wimmer et al. 2025, arXiv:2510.12764, section 3.2;
    Couairon et al. 2025, arXiv:2506.11136, section 3; Hassani et al. 2023, arXiv:2204.07143.
    """
    name = "neighborhood_attention"
    x, queries = _arguments.spatial_map(name, "x", x), _arguments.spatial_map(name, "queries", queries)
    for argument, given in (("x", x), ("queries", queries)):
        _arguments.static_size(name, argument, given, 2)
    if not queries.shape[-1]:
        raise ValueError(f"{name}: queries must have at least 1 channel; got shape {queries.shape}.")
    window = None if kernel_size is None else _arguments.per_axis(name, "kernel_size", kernel_size, 2)
    if share is not None:
        window, share = None, _arguments.width(name, "share", share)
    average_heads = _arguments.flag(name, "average_heads", average_heads)
    divided = {} if average_heads else {"channels": x.shape[-1]}
    heads = _arguments.divisor(name, "heads", heads, **divided, query_channels=queries.shape[-1])
    larger = all(m >= n for n, m in zip(x.shape[-3:-1], queries.shape[-3:-1], strict=True))
    if queries.shape[:-3] != x.shape[:-3] or not (larger or window is None):
        raise ValueError(
            f"{name}: queries must have the batch axes of x {x.shape} and at least its height and width; "
            f"got shape {queries.shape}."
        )
    if rotary_base is not None:
        rotary_base = _arguments.number(name, "rotary_base", rotary_base, real=True)
        _arguments.divisor(name, "4 * heads", 4 * heads, query_channels=queries.shape[-1])
    if keys is not None:
        shape = (*x.shape[:-1], queries.shape[-1])
        keys = _arguments.shaped(name, "keys", keys, shape, "the size of x and the channels of queries")
    return _neighborhood_attention(x, queries, keys, window, share, heads, average_heads, rotary_base)


@core((3, 4, 5, 6, 7))
def _neighborhood_attention(
    x: jax.Array,
    queries: jax.Array,
    keys: jax.Array | None,
    window: tuple[int, int] | None,
    share: float | None,
    heads: int,
    average: bool,
    base: float | None,
) -> jax.Array:
    wide = accumulator(queries.dtype)
    size, output = x.shape[-3:-1], queries.shape[-3:-1]
    turned = lambda q: q if base is None else _turned(q, heads, base)  # noqa: E731
    keys = interpolation._to_size(turned(queries).astype(wide), size, "area") if keys is None else keys
    factor = math.sqrt(heads / keys.shape[-1])
    scaled = lambda keys: keys.astype(wide) * factor  # noqa: E731  # keys are fewer than queries
    if share is not None:
        seen = [windows_of_share(n, m, share) for n, m in zip(size, output, strict=True)]
    elif window is not None:
        seen = [neighbor_windows(n, m, k) for n, m, k in zip(size, output, window, strict=True)]
    else:
        seen = None
    batch = x.shape[:-3]
    images = max(math.prod(batch), 1) if _arguments.is_static(*batch) else 1
    taps = math.prod(size) if seen is None else math.prod(counts.shape[1] for _, counts in seen)
    geometry, tables = None, []
    if seen is not None:
        centers, counts = zip(*seen, strict=True)
        geometry = Geometry.around(size, centers, (counts[0].shape[1], counts[1].shape[1]), heads)
        with np.errstate(divide="ignore"):
            # A pixel that is seen twice has twice the weight, one that is not seen none.
            tables = [np.log(count) for count in counts]
    if geometry is None or images * math.prod(output) * heads * taps * wide.itemsize > _common.MOST_BYTES:
        flat = lambda a: a.reshape(math.prod(batch), *a.shape[-3:])  # noqa: E731
        y = in_parts(
            lambda parts, x, q, k: _attend_in_tiles(x, q, k, seen, heads, average, base, images, parts),
            (1,) if seen is None else (size[0], output[0]),  # all pixels are in any part
            images,
            *(flat(a) for a in (x, queries, scaled(keys))),
        )
        y = y.astype(x.dtype).reshape(*batch, *output, x.shape[-1])
        if geometry is None or average:
            return y
        return attended(y, x, turned(queries), keys, geometry, *tables, factor=factor)

    def pure(x: jax.Array, queries: jax.Array, keys: jax.Array) -> jax.Array:
        logits = window_correlation(scaled(keys), queries.astype(wide), geometry, "zero")
        weights, of_values = window_softmax(logits, 2, *tables), geometry
        if average:
            weights, of_values = _mean_of_heads(weights, -3), geometry._replace(groups=1)
        return window_sum(x.astype(weights.dtype), weights, of_values, "zero").astype(x.dtype)

    if average:
        return pure(x, turned(queries), keys)
    return attention(pure, x, turned(queries), keys, geometry, *tables, factor=factor)


def _mean_of_heads(weights: jax.Array, axis: int) -> jax.Array:
    # Not a reduction: XLA for CPUs fuses it with those of the softmax, and for some shapes writes where it must not.
    heads = weights.shape[axis]
    total = functools.reduce(jnp.add, (lax.slice_in_dim(weights, h, h + 1, axis=axis) for h in range(heads)))
    return total / heads


def neighbor_windows(n: int, m: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The window of each of m output pixels on an axis of n, as neighborhood attention places it.

    Returns:
      The windows' central pixels, (m,), and how often each pixel of the window is seen, (m, window); or
      (m, window + 1), the last never, for an even window, so that it has a center.
    """
    dilation = m // n
    phase, step = np.arange(m) % dilation, np.arange(m) // dilation
    length = -(-(m - phase) // dilation)  # output pixels of that phase
    first = np.clip(step - window // 2, 0, np.maximum(length - window, 0))
    tap = first[:, None] + np.arange(window)
    under = (2 * (phase[:, None] + tap * dilation) + 1) * n // (2 * m)
    # Where the image is smaller than the window, the window may begin outside, but its center lies inside.
    center = np.minimum(under[:, 0] + window // 2, n - 1)
    counts = np.zeros((m, window + 1 - window % 2))
    row, column = np.nonzero(tap < length[:, None])
    np.add.at(counts, (row, (under - center[:, None] + window // 2)[row, column]), 1)
    return center, counts


def windows_of_share(n: int, m: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The window of each of m output pixels on an axis of n, as AnyUp places it: all pixels within a share of the axis.

    Returns:
      The windows' central pixels, (m,), and which pixels of the window are seen, as ones, (m, window), window odd.
    """
    # In the authors' precision: a pixel that touches the window's end is in or out by its rounding.
    single = np.float32
    places = (np.arange(m, dtype=single) + single(0.5)) / single(m)
    ends = (np.clip(places + sign * single(share), single(0), single(1)) * single(n) for sign in (-1, 1))
    first, end = (bound(place).astype(int) for bound, place in zip((np.floor, np.ceil), ends, strict=True))
    width = int((end - first).max())
    reach = width // 2
    center = np.minimum(first + reach, n - 1)
    tap = center[:, None] + np.arange(-reach, reach + 1)
    return center, ((tap >= first[:, None]) & (tap < end[:, None])).astype(float)


# --- attention by tiles of the output ---------------------------------------------------------------------------------

Seen = Sequence[tuple[np.ndarray, np.ndarray]]


class _Columns(NamedTuple):
    """How an axis of output pixels is cut into tiles, and which pixels of the map each reads: as many, from `first` on.

    `logits`, (tiles, length, read), are the logarithms of how often a pixel is seen by another; None where all are seen
    once.
    """

    places: np.ndarray
    first: np.ndarray
    read: int
    logits: np.ndarray | None

    @property
    def length(self) -> int:
        """The pixels of one tile."""
        return self.places.shape[1]


def _table(seen: tuple[np.ndarray, np.ndarray], n: int) -> np.ndarray:
    """(outputs, n), how often each pixel of an axis is seen by an output."""
    centers, counts = seen
    taps = centers[:, None] + np.arange(counts.shape[1]) - counts.shape[1] // 2
    table = np.zeros((len(centers), n))
    row, column = np.nonzero(counts)
    table[row, taps[row, column]] = counts[row, column]
    return table


def _logarithms(table: np.ndarray) -> np.ndarray | None:
    with np.errstate(divide="ignore"):
        logits = np.log(table)
    return logits if np.any(logits) else None


def _columns_that_see(seen: tuple[np.ndarray, np.ndarray], n: int, places: np.ndarray) -> _Columns:
    """Tiles of these pixels, (tiles, length), that see these windows of an axis of n."""
    table = _table(seen, n)[places]
    first, read = blocks_of(table)
    parts = np.stack([part[:, f : f + read] for part, f in zip(table, first, strict=True)])
    return _Columns(places, first, read, _logarithms(parts))


def _attend_in_tiles(
    x: jax.Array,
    queries: jax.Array,
    keys: jax.Array,
    seen: Seen | None,
    heads: int,
    average: bool,
    base: float | None,
    images: int,
    parts: int,
) -> jax.Array:
    """(n, h, w, channels), (n, H, W, query channels), (n, h, w, query channels) -> (n, H, W, channels).

    Tiles follow each other down the image, as high as fits; side by side, about two pixels of the map wide, they are
    computed together.
    """
    n, height, width, _ = queries.shape
    dtype, size, output = keys.dtype, x.shape[1:3], (height, width)
    if seen is None:
        # One axis of queries, and one of keys.
        total, count = height * width, math.prod(size)
        most = max(_common.TILE_BYTES // (images * heads * count * dtype.itemsize), 1)
        tiles = Tiles.of(total, most)
        read, by_rows = Read(np.zeros(len(tiles.places), int), 1, 0, 1), None
        columns = _Columns(np.zeros((1, 1), int), np.zeros(1, int), count, None)
        queries, base = queries if base is None else _turned(queries, heads, base), None
        queries = queries.reshape(n, total, 1, queries.shape[-1])
        x, keys = (a.reshape(n, 1, count, a.shape[-1]) for a in (x, keys))
    else:
        length, wide = (min(max(2 * -(-m // k), 8), m) for m, k in zip((height, width), size, strict=True))
        # All columns at once, filled up to whole tiles.
        filled = np.minimum(np.arange(-(-width // wide) * wide), width - 1).reshape(-1, wide)
        columns, rows = _columns_that_see(seen[1], size[1], filled), _table(seen[0], size[0])
        most = length * parts
        tiles = Tiles.of(height, most, parts)
        read = tiles.read(rows)
        row_bytes = images * heads * len(columns.first) * wide * columns.read * dtype.itemsize
        while most > 1 and tiles.parts * tiles.length * read.block * row_bytes > _common.TILE_BYTES:
            most = -(-most // 2)
            tiles = Tiles.of(height, most, parts)
            read = tiles.read(rows)
        by_rows = _logarithms(tiles.table(rows, read))
    split = lambda a, groups: a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)  # noqa: E731
    x, keys = split(x.astype(dtype), 1 if average else heads), split(keys, heads)
    width = queries.shape[2]
    table = lambda logits: None if logits is None else jnp.asarray(logits, dtype)  # noqa: E731
    by_columns = table(columns.logits)

    def pixels(a: jax.Array, first: jax.Array) -> jax.Array:
        """What a tile reads: (n, rows, tiles, columns, groups, channels of one)."""
        a = a if read.block == a.shape[1] else lax.dynamic_slice_in_dim(a, first, read.block, 1)
        places = columns.first[:, None] + np.arange(columns.read)
        return a[:, :, None] if len(places) == 1 else a.take(places, 2, mode="clip")

    def attend(q: jax.Array, first: jax.Array, x: jax.Array, keys: jax.Array, by_rows: jax.Array | None) -> jax.Array:
        """(n, length, width, query channels) -> (n, length, width, channels)."""
        across = (len(columns.first), columns.length)
        q = jnp.pad(split(q, heads), [(0, 0), (0, 0), (0, math.prod(across) - width), (0, 0), (0, 0)])
        q = q.reshape(*q.shape[:2], *across, *q.shape[3:]).astype(dtype)
        logits = jnp.einsum("ntbuhd,nsbchd->nbhtusc", q, pixels(keys, first), precision=lax.Precision.HIGHEST)
        if by_rows is not None:
            logits = logits + by_rows[None, None, None, :, None, :, None]
        if by_columns is not None:
            logits = logits + by_columns[None, :, None, None, :, None, :]
        weights = jax.nn.softmax(logits, axis=(-2, -1))
        weights = _mean_of_heads(weights, 2) if average else weights
        y = jnp.einsum("nbhtusc,nsbchv->ntbuhv", weights, pixels(x, first), precision=lax.Precision.HIGHEST)
        return y.reshape(*y.shape[:2], math.prod(across), x.shape[-2] * x.shape[-1])[:, :, :width]

    def tile(
        first: jax.Array,
        begin: jax.Array,
        queries: jax.Array,
        x: jax.Array,
        keys: jax.Array,
        top: jax.Array,
        by_rows: jax.Array | None,
    ) -> jax.Array:
        q = lax.dynamic_slice_in_dim(queries, first, tiles.length, 1)
        return attend(q if base is None else _turned(q, heads, base, top, height), begin, x, keys, by_rows)

    shared, logits = jnp.asarray(read.first, jnp.int32), table(by_rows)
    if len(shared) == tiles.parts == 1:
        whole = queries if base is None else _turned(queries, heads, base)
        y = attend(whole, shared[0], x, keys, None if logits is None else logits[0, 0])
    else:
        own = (jnp.asarray(tiles.rows()[..., 0], jnp.int32), logits)
        of_map = lambda a: tiles.cut(a, 1, read.begin, read.length, own=size[0] // tiles.parts)  # noqa: E731
        y = over_tiles(tile, tiles, [tiles.cut(queries, 1), of_map(x), of_map(keys)], [shared], own)
    return y.reshape(n, *output, y.shape[-1])


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
    return _turned(x, heads, base)


def _turned(
    x: jax.Array, heads: int, base: float, top: jax.Array | None = None, height: int | None = None
) -> jax.Array:
    """The `rotary_embedding` of an image; or of a part of one of this height, whose first row is the image's `top`."""
    *_, rows, width, channels = x.shape
    wide, half = x.astype(accumulator(x.dtype)), channels // heads // 2
    periods = rotary_periods(channels, heads, base)

    def table(f: Callable) -> jax.Array:
        """(1, ..., rows, width, 1, half)."""
        axes = []
        for axis, n in enumerate((height or rows, width)):
            places = (2 * np.arange(n) + 1) / n - 1
            turns = jnp.asarray(f(2 * np.pi * places[:, None] / periods), wide.dtype)
            if axis == 0 and top is not None:
                turns = lax.dynamic_slice_in_dim(turns, top, rows)
            axes.append(jnp.broadcast_to(jnp.expand_dims(turns, 1 - axis), (rows, width, half // 2)))
        return with_axes(jnp.concatenate(axes, -1)[:, :, None], x.ndim + 1)

    pairs = wide.reshape(*x.shape[:-1], heads, 2, half)
    first, second = pairs[..., 0, :], pairs[..., 1, :]
    cos, sin = table(np.cos), table(np.sin)
    rotated = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-2)
    return rotated.reshape(x.shape).astype(x.dtype)


def rotary_periods(channels: int, heads: int, base: float) -> np.ndarray:
    """The periods of `rotary_embedding`, (channels / heads / 4,), in half images."""
    quarter = channels // heads // 4
    return base ** (np.arange(quarter) / quarter)


def learned_rotary_embedding(x: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Rotates pairs of channels by angles that are a learned linear function of the pixel's place, as JAFAR does.

    Channels c and c + channels / 2 are the coordinates of a point. The angle of channel c, which turns its share of
    the point, is `row * frequencies[0, c] + column * frequencies[1, c]`, with rows and columns from 0 to 1 between the
    centers of the outermost pixels.

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included.
      frequencies: (2, channels), in radians. `rotary_frequencies` has their first values.

    Returns:
      The same shape and dtype.

    Raises:
      ValueError: too few axes, an odd number of channels, or frequencies of another shape.
      TypeError: arrays that are not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling import attention
    >>> frequencies = jnp.asarray(attention.rotary_frequencies(8), jnp.float32)
    >>> y = attention.learned_rotary_embedding(jnp.ones((5, 7, 8)), frequencies)
    >>> print(y.shape, y[0, 0, 0])  # at the first pixel no angle
    (5, 7, 8) 1.0

    Source: Couairon et al. 2025, arXiv:2506.11136, and the authors' code; also AnyUp's.
    """
    name = "learned_rotary_embedding"
    x = _arguments.spatial_map(name, "x", x)
    _arguments.static_size(name, "x", x, 2)
    if x.shape[-1] % 2:
        raise ValueError(f"{name}: x must have an even number of channels; got shape {x.shape}.")
    frequencies = _arguments.shaped(name, "frequencies", frequencies, (2, x.shape[-1]), "a row for each axis")
    return _learned_rotary_embedding(x, frequencies)


@core()
def _learned_rotary_embedding(x: jax.Array, frequencies: jax.Array) -> jax.Array:
    wide = x.astype(accumulator(x.dtype))
    rows, columns = (jnp.asarray(np.linspace(0, 1, n), wide.dtype) for n in x.shape[-3:-1])
    by_row, by_column = frequencies.astype(wide.dtype)
    angles = rows[:, None, None] * by_row[None, None] + columns[None, :, None] * by_column[None, None]
    # By halves: with both at once an array of turned pairs would be written.
    first, second = jnp.split(wide, 2, axis=-1)
    cos, sin = (jnp.split(with_axes(f(angles), wide.ndim), 2, axis=-1) for f in (jnp.cos, jnp.sin))
    halves = (first * cos[0] - second * sin[0], second * cos[1] + first * sin[1])
    return jnp.concatenate(halves, axis=-1).astype(x.dtype)


def rotary_frequencies(channels: int, base: float = 100.0) -> np.ndarray:
    """The first frequencies of `learned_rotary_embedding`, (2, channels): whole turns down to one `base`-th of one.

    Rows turn the first half of the channels, columns the second.
    """
    quarter = np.tile(2 * np.pi * base ** -np.linspace(0, 1, channels // 4), 2)
    frequencies = np.zeros((2, channels))
    frequencies[0, : channels // 2], frequencies[1, channels // 2 :] = quarter, quarter
    return frequencies


def fourier_features(x: jax.Array, biases: jax.Array, *, lowest: float = -2.0, highest: float = 10.0) -> jax.Array:
    """Sines and cosines of each pixel's place and channels at many frequencies, as LoftUp takes an image.

    With rows and columns from -1 to 1 between the centers of the outermost pixels, and the channels, as the values v,
    it is sin(f v + biases[0, f, v]) for all v of the first frequency f, then of the next, and the same of cosines and
    `biases[1]`. The frequencies, in radians, are e^`lowest` to e^`highest` in a geometric series.

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included; without channels, the places alone.
      biases: (2, number of frequencies, 2 + channels).
      lowest, highest: logarithms of the frequencies. At the authors' 10 the last bit of a value turns by a thousandth.

    Returns:
      (*batch, H, W, 2 * number of frequencies * (2 + channels)), in the dtype of `x`, at least float32.

    Raises:
      ValueError: too few axes, or biases of another shape.
      TypeError: arrays that are not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling import attention
    >>> attention.fourier_features(jnp.ones((4, 6, 3)), jnp.zeros((2, 20, 5))).shape
    (4, 6, 200)

    Source: Huang et al. 2025, arXiv:2504.14032, and the authors' code; Fu et al. 2024, arXiv:2403.10516.
    """
    name = "fourier_features"
    x = _arguments.spatial_map(name, "x", x)
    _arguments.static_size(name, "x", x, 2)
    shape = (2, "frequencies", 2 + x.shape[-1])
    biases = _arguments.shaped(name, "biases", biases, shape, "two more than the channels of x")
    lowest, highest = (_arguments.finite(name, *given) for given in (("lowest", lowest), ("highest", highest)))
    return _fourier_features(x, biases, None, lowest, highest)


@core((3, 4))
def _fourier_features(
    x: jax.Array, biases: jax.Array, rows: jax.Array | None, lowest: float, highest: float
) -> jax.Array:
    """Of an image, or of the part of one whose rows have these places."""
    x = x.astype(accumulator(x.dtype))
    all_rows, columns = (jnp.asarray(np.linspace(-1, 1, n), x.dtype) for n in x.shape[-3:-1])
    rows = all_rows if rows is None else rows
    places = (with_axes(rows[:, None, None], x.ndim), with_axes(columns[None, :, None], x.ndim))
    values = [*(jnp.broadcast_to(place, (*x.shape[:-1], 1)) for place in places), x]
    values = jnp.concatenate(values, axis=-1)[..., None, :]
    frequencies = jnp.asarray(np.exp(np.linspace(lowest, highest, biases.shape[1])), x.dtype)
    angles = values * with_axes(frequencies[:, None], values.ndim)
    waves = [
        f(angles + with_axes(bias.astype(x.dtype), angles.ndim))
        for f, bias in zip((jnp.sin, jnp.cos), biases, strict=True)
    ]
    return jnp.concatenate([w.reshape(*x.shape[:-1], math.prod(biases.shape[1:])) for w in waves], axis=-1)


def unify_features(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Maps features of any number of channels to a fixed number, as AnyUp does, so that one network serves all.

        y[p, k] = mean over c of softmax over k of (sum_o kernel[o, k] x[p + o, c] / number of the o inside the image)

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included.
      kernel: (*kernel_size, channels of the result), odd sizes: the same filters for every channel.

    Returns:
      (*batch, H, W, channels of the result) in the dtype of `x`; half precision computes in float32.

    Raises:
      ValueError: too few axes, or a kernel of another rank or of an even size.
      TypeError: arrays that are not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling import attention
    >>> attention.unify_features(jnp.ones((4, 6, 384)), jnp.ones((5, 5, 8)))[0, 0, 0]
    Array(0.125, dtype=float32)

    Source: Wimmer et al. 2025, arXiv:2510.12764, section 3.1.
    """
    name = "unify_features"
    x = _arguments.spatial_map(name, "x", x)
    _arguments.static_size(name, "x", x, 3, 0)
    kernel = _arguments.shaped(name, "kernel", kernel, ("height", "width", "channels"))
    _arguments.odd(name, "the window of kernel", kernel.shape[:2], 2)
    return _unify_features(x, kernel)


@core()
def _unify_features(x: jax.Array, kernel: jax.Array) -> jax.Array:
    *batch, height, width, channels = x.shape
    wide, window = accumulator(x.dtype), kernel.shape[:2]
    inside = [
        np.convolve(np.ones(n), np.ones(k), "full")[k // 2 :][:n] for n, k in zip(x.shape[-3:-1], window, strict=True)
    ]
    taps = jnp.asarray(inside[0][:, None] * inside[1], wide)[None, None, :, :, None]
    # Images stay in front, where devices share them.
    maps = jnp.moveaxis(x.astype(wide).reshape(-1, height, width, channels), -1, 1)
    kernel, pads = kernel.astype(wide)[:, :, None], [(k // 2, k // 2) for k in window]

    def total(maps: jax.Array) -> jax.Array:
        """(n, channels, H, W) -> (n, H, W, channels of the result)"""
        flat = maps.reshape(math.prod(maps.shape[:2]), height, width, 1)
        y = convolve(flat, kernel, pads=pads, dilation=(1, 1), groups=1)
        return jax.nn.softmax(y.reshape(*maps.shape, y.shape[-1]) / taps, axis=-1).sum(1)

    images = max(math.prod(batch), 1) if _arguments.is_static(*batch) else 1
    at_once = tile_length(
        channels, max(_common.TILE_BYTES // (images * height * width * kernel.shape[-1] * wide.itemsize), 1)
    )
    whole = channels // at_once * at_once
    y = total(maps[:, : channels - whole + at_once])
    if whole > at_once:
        parts = maps[:, channels - whole + at_once :]
        parts = parts.reshape(parts.shape[0], whole // at_once - 1, at_once, *parts.shape[2:])
        parts = jnp.moveaxis(parts, 1, 0)
        y, _ = lax.scan(jax.checkpoint(lambda y, part: (y + total(part), None), prevent_cse=False), y, parts)
    return (y / channels).astype(x.dtype).reshape(*batch, height, width, kernel.shape[-1])
