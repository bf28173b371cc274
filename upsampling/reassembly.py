"""Upsampling with predicted weights: `reassemble`, and the weights that methods predict for it."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from upsampling import _arguments, conventions, convolution, interpolation
from upsampling._arguments import Edge, Numbers
from upsampling.primitives import _common
from upsampling.primitives._common import (
    Tiles,
    accumulator,
    core,
    in_parts,
    over_tiles,
    pad_edges,
)
from upsampling.primitives.taps import Axis, operators
from upsampling.primitives.window_attention import (
    attention,
    attention_of_normalized,
    normalized,
    reassembled,
    weighted,
)
from upsampling.primitives.window_sum import Geometry, window_correlation, window_softmax, window_sum


def reassemble(
    x: jax.Array, weights: jax.Array, *, scale: Numbers = 2, dilation: Numbers = 1, edge: Edge = "zero"
) -> jax.Array:
    """Each output pixel as a weighted sum of the input pixels around it, with weights of its own.

    With `r = window // 2`, the output pixel `p` is `sum_t weights[p, g, t] * x[p // scale + (t - r) * dilation]` for
    the channels of group `g`.

    Args:
      x: (*batch, *spatial, channels), any number of batch axes, none included.
      weights: (*batch, *spatial * scale, groups, *window), a window of odd sizes for every output pixel and each of
        `groups` blocks of adjacent channels. They are used as they are, not normalised.
      scale: the factor: one whole number for each of the 1 to 3 spatial axes, or one for two axes.
      dilation: pixels between the taps of the window, one number or one per axis.
      edge: what lies beyond the image: "zero", the default of plain operators on windows; "replicate", its nearest
        pixel; "reflect", its mirror image about the centers of its outermost pixels; or "symmetric", about their outer
        edges, which repeats them.

    Returns:
      (*batch, *spatial * scale, channels), in the dtype that the arguments promote to. Half precision accumulates in
      float32.

    Raises:
      ValueError: shapes that do not fit, a window of even size, numbers out of range, or an unknown edge.
      TypeError: arrays that are not floating, or geometry that is not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> x = jnp.array([[1.0], [2.0], [4.0]])
    >>> weights = jnp.tile(jnp.array([[[0.25, 0.75, 0.0]], [[0.0, 0.75, 0.25]]]), (3, 1, 1))
    >>> up.reassemble(x, weights, scale=(2,), edge="replicate")[:, 0]
    Array([1.  , 1.25, 1.75, 2.5 , 3.5 , 4.  ], dtype=float32)

    Source: Wang et al. 2019, arXiv:1905.02188, equation 3.
    """
    name = "reassemble"
    scale = _arguments.per_axis(name, "scale", scale, None)
    x = _arguments.spatial_map(name, "x", x, len(scale))
    geometry = Geometry(x.shape[-1 - len(scale) : -1], scale, (), (), (), 1)
    return _reassemble(name, x, weights, geometry, dilation, edge)


def reassemble_to(
    x: jax.Array,
    weights: jax.Array,
    centers: Sequence[Sequence[int]],
    *,
    dilation: Numbers = 1,
    edge: Edge = "zero",
) -> jax.Array:
    """`reassemble` to any size: the output pixel `p` is centered on the input pixel `centers[axis][p]` of each axis.

    Args:
      x, dilation, edge: as in `reassemble`.
      weights: (*batch, *size, groups, *window).
      centers: for each spatial axis as many input pixels as the output has pixels.

    Returns:
      (*batch, *size, channels).

    Raises:
      ValueError, TypeError: what `reassemble` raises, and ValueError for a center outside the image.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.reassembly import reassemble_to
    >>> reassemble_to(jnp.array([[1.0], [2.0], [4.0]]), jnp.ones((5, 1, 1)), [(0, 0, 1, 2, 2)])[:, 0]
    Array([1., 1., 2., 4., 4.], dtype=float32)
    """
    name = "reassemble_to"
    x = _arguments.spatial_map(name, "x", x, len(centers))
    size = x.shape[-1 - len(centers) : -1]
    return _reassemble(name, x, weights, Geometry(size, (), _centers(name, size, centers), (), (), 1), dilation, edge)


def similarities(
    x: jax.Array,
    queries: jax.Array,
    centers: Sequence[int] | Sequence[Sequence[int]],
    kernel_size: Numbers,
    *,
    groups: int = 1,
    dilation: Numbers = 1,
    edge: Edge = "zero",
) -> jax.Array:
    """The inner product of each output pixel's query with each pixel of its window: logits for `reassemble`.

    Args:
      x: (*batch, *spatial, channels), the keys.
      queries: (*batch, *size, channels).
      centers: the factor of each spatial axis, as `reassemble` has it, or the centers, as `reassemble_to` has them.
      kernel_size: the window's size, odd, one number or one per axis.
      groups: number of blocks of adjacent channels, each with an inner product of its own.
      dilation, edge: as in `reassemble`.

    Returns:
      (*batch, *size, groups, *kernel_size).

    Raises:
      ValueError, TypeError: what `reassemble` raises.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.reassembly import similarities
    >>> similarities(jnp.array([[1.0], [2.0], [4.0]]), jnp.ones((3, 1)), (1,), 3)[:, 0]
    Array([[0., 1., 2.],
           [1., 2., 4.],
           [2., 4., 0.]], dtype=float32)
    """
    name, rank = "similarities", len(centers)
    x = _arguments.spatial_map(name, "x", x, rank)
    size = x.shape[-1 - rank : -1]
    scale, places = (), ()
    if all(isinstance(c, int) for c in centers):
        scale = _arguments.per_axis(name, "centers", centers, rank)
    else:
        places = _centers(name, size, centers)
    window = _arguments.odd(name, "kernel_size", kernel_size, rank)
    dilation = _arguments.per_axis(name, "dilation", dilation, rank)
    _arguments.one_of(name, "edge", edge, _arguments.EDGES)
    groups = _arguments.divisor(name, "groups", groups, channels=x.shape[-1])
    geometry = Geometry(size, scale, places, window, dilation, groups)
    shape = (*x.shape[: -1 - rank], *geometry.output, x.shape[-1])
    queries = _arguments.shaped(name, "queries", queries, shape, f"for x of shape {x.shape}")
    return window_correlation(*_arguments.promote(x, queries), geometry, edge)


# Methods.


def carafe(
    x: jax.Array, logits: jax.Array, *, scale: Numbers = 2, kernel_size: Numbers = 5, groups: int = 1
) -> jax.Array:
    """CARAFE: content-aware reassembly with weights that an encoder predicts at the low resolution.

    `reassemble(x, softmax(pixel_shuffle(logits)))`, the softmax over each window.

    Args:
      x: (*batch, *spatial, channels), any number of batch axes, none included.
      logits: (*batch, *spatial, groups * prod(kernel_size) * prod(scale)), what the content encoder puts out, its
        channels in the order of the authors' code: group, row and column in the window, row and column in the block.
      scale: the factor: one whole number for each of the 1 to 3 spatial axes, or one for two axes.
      kernel_size: the window, odd, one number or one per axis.
      groups: number of blocks of adjacent channels, each with weights of its own.

    Returns:
      (*batch, *spatial * scale, channels), in the dtype that the arguments promote to.

    Raises:
      ValueError: shapes that do not fit, a window of even size, or numbers out of range.
      TypeError: arrays that are not floating, or geometry that is not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> up.carafe(jnp.ones((8, 8, 16)), jnp.zeros((8, 8, 9 * 4)), scale=2, kernel_size=3).shape
    (16, 16, 16)

    Source: Wang et al. 2019, arXiv:1905.02188, section 3.
    """
    name = "carafe"
    scale = _arguments.per_axis(name, "scale", scale, None)
    x = _arguments.spatial_map(name, "x", x, len(scale))
    window = _arguments.odd(name, "kernel_size", kernel_size, len(scale))
    groups = _arguments.divisor(name, "groups", groups, channels=x.shape[-1])
    shape = (*x.shape[:-1], groups * math.prod(window) * math.prod(scale))
    logits = _arguments.shaped(
        name, "logits", logits, shape, f"groups * prod(kernel_size) * prod(scale) channels for x of shape {x.shape}"
    )
    return _carafe(x, logits, scale, window, groups)


@core((2, 3, 4))
def _carafe(x: jax.Array, logits: jax.Array, scale: tuple[int, ...], window: tuple[int, ...], groups: int) -> jax.Array:
    rank = len(scale)
    geometry = Geometry(x.shape[-1 - rank : -1], scale, (), window, (1,) * rank, groups)

    def pure(x: jax.Array, logits: jax.Array) -> jax.Array:
        logits = convolution._pixel_shuffle(logits, scale, "CRD")
        weights = window_softmax(logits.reshape(*logits.shape[:-1], groups, *window), rank)
        return window_sum(*_arguments.promote(x, weights), geometry, "zero")

    return reassembled(pure, x, logits, geometry=geometry, source="blocks")


def sapa(
    x: jax.Array,
    queries: jax.Array,
    keys: jax.Array,
    *,
    scale: Numbers = 2,
    size: Numbers | None = None,
    kernel_size: Numbers = 5,
) -> jax.Array:
    """SAPA: similarity-aware point affiliation, weights from the similarity of a guide's pixel to the pixels around it.

    The weights are the softmax over each window of the inner products `<queries[p], keys[q]>`. Beyond the image keys
    and values are zero, and count in the softmax, as in the authors' code.

    Args:
      x: (*batch, *spatial, channels), any number of batch axes, none included.
      queries: (*batch, *spatial * scale, embedding), from the high-resolution guide.
      keys: (*batch, *spatial, embedding), from `x`. The authors' three forms differ in what queries and keys are:
        normalised features (inner product), projections of them (bilinear), and queries mixed from both resolutions
        (gated, see `gated_queries`).
      scale: the factor: one whole number for each of the 1 to 3 spatial axes, or one for two axes.
      size: that of the queries and the result, in place of `scale`, where it is not a whole number of times as large.
        The window of an output pixel is then around the pixel that PyTorch's nearest interpolation takes for it.
      kernel_size: the window, odd, one number or one per axis.

    Returns:
      (*batch, *spatial * scale, channels), in the dtype that the arguments promote to.

    Raises:
      ValueError: shapes that do not fit, a window of even size, or numbers out of range.
      TypeError: arrays that are not floating, or geometry that is not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> up.sapa(jnp.ones((4, 4, 16)), jnp.ones((8, 8, 3)), jnp.ones((4, 4, 3))).shape
    (8, 8, 16)

    Source: Lu et al. 2022, arXiv:2209.12866, section 4.
    """
    name = "sapa"
    rank, factors, output = _scale_or_size(name, scale, size)
    x, keys = _arguments.spatial_map(name, "x", x, rank), _arguments.spatial_map(name, "keys", keys, rank)
    if keys.shape[:-1] != x.shape[:-1]:
        raise ValueError(f"{name}: keys must have the batch and size of x, {x.shape[:-1]}; got shape {keys.shape}.")
    queries = _arguments.guide(name, queries, x, factors, keys.shape[-1], size=output, argument="queries")
    return _sapa(x, queries, keys, _arguments.odd(name, "kernel_size", kernel_size, rank))


@core(3)
def _sapa(x: jax.Array, queries: jax.Array, keys: jax.Array, window: tuple[int, ...]) -> jax.Array:
    rank = len(window)
    geometry = _around_nearest(x.shape[-1 - rank : -1], queries.shape[-1 - rank : -1], window)
    pure = functools.partial(_sum_by_similarity, geometry=geometry, dtype=jnp.result_type(x, keys, queries))
    return attention(pure, x, queries, keys, geometry)


@core(3)
def _sapa_of_normalized(x: jax.Array, guide: jax.Array, keys: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """`sapa` with the guide, normalized and followed by a 1, as queries: the last channel of keys is added."""
    rank = len(window)
    geometry = _around_nearest(x.shape[-1 - rank : -1], guide.shape[-1 - rank : -1], window)
    dtype = jnp.result_type(x, keys, guide)

    def pure(x: jax.Array, guide: jax.Array, keys: jax.Array) -> jax.Array:
        queries, _ = normalized(guide.astype(accumulator(keys.dtype, guide.dtype)))
        queries = jnp.concatenate([queries, jnp.ones((*queries.shape[:-1], 1), queries.dtype)], -1)
        return _sum_by_similarity(x, queries, keys, geometry=geometry, dtype=dtype)

    return attention_of_normalized(pure, x, guide, keys, geometry=geometry)


def _sum_by_similarity(
    x: jax.Array, queries: jax.Array, keys: jax.Array, *, geometry: Geometry, dtype: DTypeLike
) -> jax.Array:
    """The sum over windows of `x`, with weights in `dtype`: the softmax of the products of queries and keys."""
    # Logits are exponentiated: what half precision rounds off them would be a factor.
    wide = accumulator(keys.dtype, queries.dtype)
    logits = window_correlation(keys.astype(wide), queries.astype(wide), geometry, "zero")
    weights = window_softmax(logits, len(geometry.size)).astype(dtype)
    return window_sum(*_arguments.promote(x, weights), geometry, "zero")


def gated_queries(
    from_guide: jax.Array,
    from_map: jax.Array,
    gate_logits: jax.Array,
    *,
    scale: Numbers = 2,
    size: Numbers | None = None,
) -> jax.Array:
    """The queries of SAPA's gated form: `g * from_guide + (1 - g) * from_map`, with `g = sigmoid(gate_logits)`.

    Args:
      from_guide: (*batch, *spatial * scale, embedding).
      from_map: (*batch, *spatial, embedding), brought to the guide's size by nearest neighbor.
      gate_logits: (*batch, *spatial, 1), brought there likewise.
      scale, size: as in `sapa`.

    Returns:
      (*batch, *spatial * scale, embedding).

    Raises:
      ValueError, TypeError: what `sapa` raises.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.reassembly import gated_queries
    >>> gated_queries(jnp.ones((4, 1)), jnp.zeros((2, 1)), jnp.array([[0.0], [9.0]]), scale=(2,))[:, 0].round(2)
    Array([0.5, 0.5, 1. , 1. ], dtype=float32)

    Source: Lu et al. 2022, arXiv:2209.12866, equation 11.
    """
    name = "gated_queries"
    rank, factors, output = _scale_or_size(name, scale, size)
    from_map = _arguments.spatial_map(name, "from_map", from_map, rank)
    channels = from_map.shape[-1]
    from_guide = _arguments.guide(name, from_guide, from_map, factors, channels, size=output, argument="from_guide")
    gate_logits = _arguments.shaped(name, "gate_logits", gate_logits, (*from_map.shape[:-1], 1))
    return _gated_queries(from_guide, from_map, gate_logits, rank)


@core(3)
def _gated_queries(from_guide: jax.Array, from_map: jax.Array, gate_logits: jax.Array, rank: int) -> jax.Array:
    size = from_guide.shape[-1 - rank : -1]
    gate = _gate(gate_logits, size)
    return gate * from_guide + (1 - gate) * interpolation._to_size(from_map, size, "nearest")


def fade(
    x: jax.Array,
    guide: jax.Array | None,
    guide_logits: jax.Array,
    map_logits: jax.Array,
    gate_logits: jax.Array | None,
    *,
    scale: Numbers = 2,
    size: Numbers | None = None,
    kernel_size: Numbers = 5,
) -> jax.Array:
    """FADE: weights from the encoder's and the decoder's features together, and a gate that lets the encoder's pass.

    With every map of the low resolution brought to the high one by nearest neighbor, the weights are
    `softmax(guide_logits + map_logits)`, the gate is `g = sigmoid(gate_logits)`, and the result is
    `g * guide + (1 - g) * reassemble(x, weights)`.

    Args:
      x: (*batch, *spatial, channels), the decoder's map; any number of batch axes, none included.
      guide: (*batch, *spatial * scale, channels), the encoder's.
      guide_logits: (*batch, *spatial * scale, prod(kernel_size)), predicted from the guide.
      map_logits: (*batch, *spatial, prod(kernel_size)), predicted from `x`; in the paper by the same convolution.
      gate_logits: (*batch, *spatial, 1), predicted from `x`; or None, and `guide` None, for no gate, the reassembled
        input alone.
      scale: the factor: one whole number for each of the 1 to 3 spatial axes, or one for two axes.
      size: that of the guide and the result, in place of `scale`, as in `sapa`.
      kernel_size: the window, odd, one number or one per axis.

    Returns:
      (*batch, *spatial * scale, channels), in the dtype that the arguments promote to.

    Raises:
      ValueError: shapes that do not fit, a window of even size, or numbers out of range.
      TypeError: arrays that are not floating, or geometry that is not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> x, guide = jnp.ones((4, 4, 16)), jnp.ones((8, 8, 16))
    >>> low, high = jnp.zeros((4, 4, 9)), jnp.zeros((8, 8, 9))
    >>> up.fade(x, guide, high, low, jnp.zeros((4, 4, 1)), kernel_size=3).shape
    (8, 8, 16)

    Source: Lu et al. 2022, arXiv:2207.10392, section 3; Lu et al. 2024, arXiv:2407.13500.
    """
    name = "fade"
    rank, factors, output = _scale_or_size(name, scale, size)
    x = _arguments.spatial_map(name, "x", x, rank)
    if (guide is None) != (gate_logits is None):
        raise ValueError(f"{name}: guide and gate_logits must be given both, or both be None, for no gate.")
    if guide is not None:
        guide = _arguments.guide(name, guide, x, factors, x.shape[-1], size=output)
    window = _arguments.odd(name, "kernel_size", kernel_size, rank)
    taps = math.prod(window)
    map_logits = _arguments.shaped(name, "map_logits", map_logits, (*x.shape[:-1], taps))
    guide_logits = _arguments.guide(name, guide_logits, x, factors, taps, size=output, argument="guide_logits")
    if gate_logits is not None:
        gate_logits = _arguments.shaped(name, "gate_logits", gate_logits, (*x.shape[:-1], 1))
    return _fade(x, guide, guide_logits, map_logits, gate_logits, window)


@core(5)
def _fade(
    x: jax.Array,
    guide: jax.Array | None,
    guide_logits: jax.Array,
    map_logits: jax.Array,
    gate_logits: jax.Array | None,
    window: tuple[int, ...],
) -> jax.Array:
    rank = len(window)
    size = guide_logits.shape[-1 - rank : -1]
    geometry = _around_nearest(x.shape[-1 - rank : -1], size, window)

    def pure(x: jax.Array, guide_logits: jax.Array, map_logits: jax.Array, *mixed: jax.Array) -> jax.Array:
        logits = guide_logits + interpolation._to_size(map_logits, size, "nearest")
        weights = window_softmax(logits.reshape(*logits.shape[:-1], 1, *window), rank)
        y = window_sum(*_arguments.promote(x, weights), geometry, "zero")
        if not mixed:
            return y
        gate_logits, guide = mixed
        gate = _gate(gate_logits, size)
        return gate * guide + (1 - gate) * y

    if guide is None or gate_logits is None:
        return reassembled(pure, x, guide_logits, map_logits, geometry=geometry, source="sizes")
    arrays = (x, guide_logits, map_logits, gate_logits, guide)
    return reassembled(pure, *arrays, geometry=geometry, source="gated")


def attend_to_neighbors(
    x: jax.Array, logits: jax.Array, *, scale: Numbers = 2, size: Numbers | None = None
) -> jax.Array:
    """UPLiFT's local attender: weights over a few pixels around each output pixel, `softmax(logits)`.

    The pixels are, in rows: 5, the pixel and those beside it; 9, a square of 3x3; 13, up to two steps along rows and
    columns; 17, up to two pixels away in eight directions; 25, a square of 5x5. Beyond the image's edge its nearest
    pixel is repeated.

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      logits: (*batch, h * scale, w * scale, taps), of 5, 9, 13, 17 or 25 taps.
      scale: the factor, one whole number or one per axis.
      size: that of the logits and the result, in place of `scale`, as in `sapa`.

    Returns:
      (*batch, h * scale, w * scale, channels), in the dtype that the arguments promote to.

    Raises:
      ValueError: shapes that do not fit, or another number of taps.
      TypeError: arrays that are not floating, or geometry that is not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.reassembly import attend_to_neighbors
    >>> attend_to_neighbors(jnp.array([[[0.0], [5.0], [10.0]]]), jnp.zeros((1, 3, 5)), scale=1)[..., 0]  # the mean
    Array([[1., 5., 9.]], dtype=float32)

    Source: Walmer et al. 2026, arXiv:2601.17950, and the authors' code.
    """
    name = "attend_to_neighbors"
    _, factors, output = _scale_or_size(name, scale, size)
    x = _arguments.spatial_map(name, "x", x)
    taps = jnp.shape(logits)[-1] if jnp.ndim(logits) else 0
    if taps not in NEIGHBORHOODS:
        raise ValueError(f"{name}: logits must have 5, 9, 13, 17 or 25 channels, one per tap; got {taps}.")
    return _attend_to_neighbors(x, _arguments.guide(name, logits, x, factors, taps, size=output, argument="logits"))


# Which pixels of a square around its center are looked at, by their number.
_ROWS, _COLUMNS = np.mgrid[-2:3, -2:3]
NEIGHBORHOODS: dict[int, np.ndarray] = {
    5: np.abs(_ROWS[1:4, 1:4]) + np.abs(_COLUMNS[1:4, 1:4]) <= 1,
    9: np.ones((3, 3), bool),
    13: np.abs(_ROWS) + np.abs(_COLUMNS) <= 2,
    17: (_ROWS * _COLUMNS == 0) | (np.abs(_ROWS) == np.abs(_COLUMNS)),
    25: np.ones((5, 5), bool),
}


@core()
def _attend_to_neighbors(x: jax.Array, logits: jax.Array) -> jax.Array:
    square = _square_weights(logits, jnp.result_type(x, logits))
    geometry = _around_nearest(x.shape[-3:-1], logits.shape[-3:-1], square.shape[-2:])
    return window_sum(*_arguments.promote(x, square), geometry, "replicate")


def _square_weights(logits: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Weights in a square, (..., 1, k, k), with zeros where none is looked at."""
    seen = NEIGHBORHOODS[logits.shape[-1]]
    weights = jax.nn.softmax(logits.astype(accumulator(logits.dtype)), axis=-1).astype(dtype)
    zero, parts, first = jnp.zeros_like(weights[..., :1]), [], 0
    for used, run in itertools.groupby(seen.ravel()):
        length = len(list(run))
        parts.append(weights[..., first : first + length] if used else jnp.repeat(zero, length, -1))
        first += length if used else 0
    return jnp.concatenate(parts, -1).reshape(*weights.shape[:-1], 1, *seen.shape)


@core(2)
def _attend_and_resize(x: jax.Array, logits: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`attend_to_neighbors` by a whole factor, and bilinear interpolation with antialiasing of that to `size`.

    Tile by tile of rows where it is large. Two tiles at least: of one, and of what is not cut, XLA for CPUs computes
    the pixels anew for each one that reads them.
    """
    batch, channels = x.shape[:-3], x.shape[-1]
    images = max(math.prod(batch), 1) if _arguments.is_static(*batch) else 1
    row_bytes = images * size[1] * channels * accumulator(x.dtype).itemsize
    if row_bytes * size[0] <= _common.BLOCK_BYTES or size[0] == 1:
        return interpolation._to_size(_attend_to_neighbors(x, logits), size, "linear", antialias=True)
    most = max(_common.TILE_BYTES // row_bytes, 1)
    flat = lambda a: a.reshape(math.prod(batch), *a.shape[-3:])  # noqa: E731
    tiles_of = functools.partial(Tiles.of, size[0], min(most, -(-size[0] // 2)))
    compute = lambda parts, x, logits: _attend_in_tiles(x, logits, size, tiles_of(parts))  # noqa: E731
    y = in_parts(compute, (x.shape[-3], size[0]), images, flat(x), flat(logits))
    return y.reshape(*batch, *size, channels)


def _attend_in_tiles(x: jax.Array, logits: jax.Array, size: tuple[int, int], tiles: Tiles) -> jax.Array:
    """(n, h, w, channels), (n, H, W, taps) -> (n, *size, channels), by some rows at a time."""
    (h, w), (high, wide) = x.shape[1:3], logits.shape[1:3]
    factor, reach = high // h, NEIGHBORHOODS[logits.shape[-1]].shape[0] // 2
    (rows,) = operators((Axis(high, size[0]),), "linear", conventions.torch, True)
    matrix = rows.matrix().reshape(size[0], h, factor)
    read = tiles.read(np.abs(matrix).sum(-1))
    matrices = tiles.table(matrix, read)
    geometry = Geometry((read.block, w), (factor, wide // w), (), (2 * reach + 1,) * 2, (1, 1), 1)
    dtype = accumulator(x.dtype)
    x, own = pad_edges(x, [(0, 0), (reach, reach), (0, 0), (0, 0)]), h // tiles.parts
    cuts = [
        tiles.cut(x, 1, read.begin, read.length + 2 * reach, own=own),
        tiles.cut(logits, 1, read.begin * factor, read.length * factor, own=own * factor),
    ]

    def tile(_: jax.Array, begin: jax.Array, x: jax.Array, logits: jax.Array, matrix: jax.Array) -> jax.Array:
        low = lax.dynamic_slice_in_dim(x, begin, read.block + 2 * reach, 1)
        low = pad_edges(low, [(0, 0), (0, 0), (reach, reach), (0, 0)])
        weights = lax.dynamic_slice_in_dim(logits, begin * factor, read.block * factor, 1)
        y = window_sum(low, _square_weights(weights, x.dtype), geometry, None).astype(dtype)
        y = jnp.einsum("rh,nhwc->nrwc", matrix, y, precision=lax.Precision.HIGHEST)
        return interpolation._to_size(y, (tiles.length, size[1]), "linear", antialias=True).astype(x.dtype)

    matrices = jnp.asarray(matrices.reshape(*matrices.shape[:3], -1), dtype)
    return over_tiles(tile, tiles, cuts, [jnp.asarray(read.first, jnp.int32)], (matrices,))


# Cores that methods share.


def _around_nearest(
    size: tuple[int, ...], output: tuple[int, ...], window: tuple[int, ...], groups: int = 1
) -> Geometry:
    """Windows around the pixels that nearest interpolation enlarges a map with."""
    nearest = operators(tuple(map(Axis, size, output)), "nearest", conventions.torch)
    return Geometry.around(size, [found.indices[:, 0] for found in nearest], window, groups)


def _gate(logits: jax.Array, size: tuple[int, ...]) -> jax.Array:
    return interpolation._to_size(jax.nn.sigmoid(logits), size, "nearest")


# Arguments.


def _scale_or_size(
    function: str, scale: Numbers, size: Numbers | None
) -> tuple[int, tuple[int, ...] | None, tuple[int, ...] | None]:
    """The number of spatial axes, and the size if it is given, else the scale."""
    if size is None:
        scale = _arguments.per_axis(function, "scale", scale, None)
        return len(scale), scale, None
    size = _arguments.per_axis(function, "size", size, None)
    return len(size), None, size


def _centers(function: str, size: tuple[int, ...], centers: Any) -> tuple[tuple[int, ...], ...]:
    checked = tuple(_arguments.per_axis(function, "centers", tuple(c), None, minimum=0) for c in map(np.ravel, centers))
    if any(max(c) >= n for c, n in zip(checked, size, strict=True)):
        raise ValueError(f"{function}: centers must be input pixels, below {size}.")
    return checked


def _reassemble(
    function: str, x: jax.Array, weights: jax.Array, geometry: Geometry, dilation: Numbers, edge: Edge
) -> jax.Array:
    """Checks the weights, which decide window and groups of the geometry, and sums."""
    rank = len(geometry.size)
    names = (*x.shape[: -1 - rank], *geometry.output, "groups", *("k",) * rank)
    weights = _arguments.shaped(function, "weights", weights, names, f"for x of shape {x.shape}")
    groups, *window = weights.shape[-1 - rank :]
    geometry = geometry._replace(
        window=_arguments.odd(function, "the window of weights", tuple(window), rank),
        dilation=_arguments.per_axis(function, "dilation", dilation, rank),
        groups=_arguments.divisor(function, "the groups of weights", groups, channels=x.shape[-1]),
    )
    _arguments.one_of(function, "edge", edge, _arguments.EDGES)
    return weighted(*_arguments.promote(x, weights), geometry, edge)
