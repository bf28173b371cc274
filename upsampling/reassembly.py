"""Upsampling with predicted weights: `reassemble`, and the weights that methods predict for it."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from upsampling import _arguments, interpolation
from upsampling.convolution import pixel_shuffle
from upsampling.primitives._common import accumulator
from upsampling.primitives.transposed_conv import Geometry as TransposedConvGeometry
from upsampling.primitives.transposed_conv import transposed_conv
from upsampling.primitives.window_sum import Geometry, window_correlation, window_sum

Numbers = int | Sequence[int]


def reassemble(
    x: jax.Array, weights: jax.Array, *, scale: Numbers = 2, dilation: Numbers = 1, edge: str = "zero"
) -> jax.Array:
    """Each output pixel as a weighted sum of the input pixels around it, with weights of its own.

    With `r = window // 2`, the output pixel `p` is `sum_t weights[p, g, t] * x[p // scale + (t - r) * dilation]` for
    the channels of group `g`.

    Args:
      x: (*batch, *spatial, channels), any number of batch axes, none included.
      weights: (*batch, *spatial * scale, groups, *window), a window of odd sizes for every output pixel and each of
        `groups` blocks of neighbouring channels. They are used as they are, not normalised.
      scale: the factor: one whole number for each of the 1 to 3 spatial axes, or one for two axes.
      dilation: pixels between the taps of the window, one number or one per axis.
      edge: what windows see beyond the image: "zero", "replicate" for the nearest pixel, or "reflect" for the image
        mirrored about its last pixel.

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
    x = _map(name, "x", x, len(scale))
    size = tuple(n * s for n, s in zip(x.shape[-1 - len(scale) : -1], scale, strict=True))
    return _reassemble(name, x, weights, scale, (), size, dilation, edge)


def reassemble_to(
    x: jax.Array,
    weights: jax.Array,
    centres: Sequence[Sequence[int]],
    *,
    dilation: Numbers = 1,
    edge: str = "zero",
) -> jax.Array:
    """`reassemble` to any size: the output pixel `p` is centred on the input pixel `centres[axis][p]` of each axis.

    Args:
      x, dilation, edge: as in `reassemble`.
      weights: (*batch, *size, groups, *window).
      centres: for each spatial axis as many input pixels as the output has pixels.

    Returns:
      (*batch, *size, channels).

    Raises:
      ValueError, TypeError: what `reassemble` raises, and ValueError for a centre outside the image.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.reassembly import reassemble_to
    >>> reassemble_to(jnp.array([[1.0], [2.0], [4.0]]), jnp.ones((5, 1, 1)), [(0, 0, 1, 2, 2)])[:, 0]
    Array([1., 1., 2., 4., 4.], dtype=float32)
    """
    name = "reassemble_to"
    x = _map(name, "x", x, len(centres))
    places = _centres(name, x.shape[-1 - len(centres) : -1], centres)
    return _reassemble(name, x, weights, (), places, tuple(map(len, places)), dilation, edge)


def similarities(
    x: jax.Array,
    queries: jax.Array,
    centres: Sequence[int] | Sequence[Sequence[int]],
    window: Numbers,
    *,
    groups: int = 1,
    dilation: Numbers = 1,
    edge: str = "zero",
) -> jax.Array:
    """The inner product of each output pixel's query with every input pixel of its window: logits for `reassemble`.

    Args:
      x: (*batch, *spatial, channels), the keys.
      queries: (*batch, *size, channels).
      centres: the factor of each spatial axis, as `reassemble` has it, or the centres, as `reassemble_to` has them.
      window: the window's size, odd, one number or one per axis.
      groups: number of blocks of neighbouring channels, each of which has an inner product of its own.
      dilation, edge: as in `reassemble`.

    Returns:
      (*batch, *size, groups, *window).

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
    name, rank = "similarities", len(centres)
    x, queries = _map(name, "x", x, rank), _arguments.array(name, "queries", queries)
    spatial = x.shape[-1 - rank : -1]
    scale, places = (), ()
    if all(isinstance(c, int) for c in centres):
        scale = _arguments.per_axis(name, "centres", centres, rank)
    else:
        places = _centres(name, spatial, centres)
    window, dilation = _window(name, window, dilation, rank)
    _arguments.one_of(name, "edge", edge, _EDGES)
    geometry = Geometry(spatial, scale, places, window, dilation, _groups(name, groups, x))
    expected = (*x.shape[: -1 - rank], *geometry.output, x.shape[-1])
    if queries.shape != expected:
        raise ValueError(f"{name}: queries must have shape {expected} for x of shape {x.shape}; got {queries.shape}.")
    return _compared(*_promote(x, queries), geometry, edge)


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
      groups: number of blocks of neighbouring channels, each with weights of its own.

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
    rank = len(scale)
    x, logits = _map(name, "x", x, rank), _arguments.array(name, "logits", logits)
    window, _ = _window(name, kernel_size, 1, rank, "kernel_size")
    groups = _groups(name, groups, x)
    expected = (*x.shape[:-1], groups * math.prod(window) * math.prod(scale))
    if logits.shape != expected:
        raise ValueError(
            f"{name}: logits must be {expected}, groups * prod(kernel_size) * prod(scale) channels for each pixel of x "
            f"{x.shape}; got {logits.shape}."
        )
    logits = pixel_shuffle(logits, scale)
    return reassemble(x, _softmax(logits.reshape(*logits.shape[:-1], groups, *window), rank), scale=scale)


def sapa(
    x: jax.Array, queries: jax.Array, keys: jax.Array, *, scale: Numbers = 2, kernel_size: Numbers = 5
) -> jax.Array:
    """SAPA: similarity-aware point affiliation, weights by how alike a guide's pixel and the pixels around it are.

    The weights are the softmax over each window of the inner products `<queries[p], keys[q]>`. Beyond the image keys
    and values are zero, and count in the softmax, as in the authors' code.

    Args:
      x: (*batch, *spatial, channels), any number of batch axes, none included.
      queries: (*batch, *spatial * scale, embedding), from the high-resolution guide.
      keys: (*batch, *spatial, embedding), from `x`. The authors' three forms differ in what queries and keys are:
        normalised features (inner product), projections of them (bilinear), and queries mixed from both resolutions
        (gated, see `gated_queries`).
      scale: the factor: one whole number for each of the 1 to 3 spatial axes, or one for two axes.
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
    scale = _arguments.per_axis(name, "scale", scale, None)
    rank = len(scale)
    x, keys = _map(name, "x", x, rank), _map(name, "keys", keys, rank)
    if keys.shape[:-1] != x.shape[:-1]:
        raise ValueError(f"{name}: keys must have the batch and size of x, {x.shape[:-1]}; got {keys.shape}.")
    queries = _arguments.guide(name, queries, x, scale, keys.shape[-1], argument="queries")
    window, _ = _window(name, kernel_size, 1, rank, "kernel_size")
    # Logits are exponentiated: what half precision rounds off them would be a factor.
    wide = accumulator(keys.dtype, queries.dtype)
    weights = _softmax(similarities(keys.astype(wide), queries.astype(wide), scale, window), rank)
    return reassemble(x, weights.astype(jnp.result_type(x, keys, queries)), scale=scale)


def gated_queries(
    from_guide: jax.Array, from_map: jax.Array, gate_logits: jax.Array, *, scale: Numbers = 2
) -> jax.Array:
    """The queries of SAPA's gated form: `g * from_guide + (1 - g) * from_map`, with `g = sigmoid(gate_logits)`.

    Args:
      from_guide: (*batch, *spatial * scale, embedding).
      from_map: (*batch, *spatial, embedding), brought to the guide's size by nearest neighbour.
      gate_logits: (*batch, *spatial, 1), brought there likewise.
      scale: as in `sapa`.

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
    scale = _arguments.per_axis(name, "scale", scale, None)
    from_map = _map(name, "from_map", from_map, len(scale))
    from_guide = _arguments.guide(name, from_guide, from_map, scale, from_map.shape[-1], argument="from_guide")
    gate = _gate(name, from_map, gate_logits, scale)
    return gate * from_guide + (1 - gate) * interpolation.nearest(from_map, scale=scale)


def fade(
    x: jax.Array,
    guide: jax.Array,
    guide_logits: jax.Array,
    map_logits: jax.Array,
    gate_logits: jax.Array,
    *,
    scale: Numbers = 2,
    kernel_size: Numbers = 5,
) -> jax.Array:
    """FADE: weights from the encoder's and the decoder's features together, and a gate that lets the encoder's pass.

    With every map of the low resolution brought to the high one by nearest neighbour, the weights are
    `softmax(guide_logits + map_logits)`, the gate is `g = sigmoid(gate_logits)`, and the result is
    `g * guide + (1 - g) * reassemble(x, weights)`.

    Args:
      x: (*batch, *spatial, channels), the decoder's map; any number of batch axes, none included.
      guide: (*batch, *spatial * scale, channels), the encoder's.
      guide_logits: (*batch, *spatial * scale, prod(kernel_size)), predicted from the guide.
      map_logits: (*batch, *spatial, prod(kernel_size)), predicted from `x`; in the paper by the same convolution.
      gate_logits: (*batch, *spatial, 1), predicted from `x`.
      scale: the factor: one whole number for each of the 1 to 3 spatial axes, or one for two axes.
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
    scale = _arguments.per_axis(name, "scale", scale, None)
    rank = len(scale)
    x = _map(name, "x", x, rank)
    guide = _arguments.guide(name, guide, x, scale, x.shape[-1])
    window, _ = _window(name, kernel_size, 1, rank, "kernel_size")
    taps = math.prod(window)
    map_logits = _map(name, "map_logits", map_logits, rank)
    if map_logits.shape != (*x.shape[:-1], taps):
        raise ValueError(f"{name}: map_logits must be {(*x.shape[:-1], taps)}; got {map_logits.shape}.")
    guide_logits = _arguments.guide(name, guide_logits, x, scale, taps, argument="guide_logits")
    gate = _gate(name, x, gate_logits, scale)
    logits = guide_logits + interpolation.nearest(map_logits, scale=scale)
    weights = _softmax(logits.reshape(*logits.shape[:-1], 1, *window), rank)
    return gate * guide + (1 - gate) * reassemble(x, weights, scale=scale)


def _gate(function: str, x: jax.Array, logits: Any, scale: tuple[int, ...]) -> jax.Array:
    logits = _arguments.array(function, "gate_logits", logits)
    if logits.shape != (*x.shape[:-1], 1):
        raise ValueError(f"{function}: gate_logits must be {(*x.shape[:-1], 1)}; got {logits.shape}.")
    return interpolation.nearest(jax.nn.sigmoid(logits), scale=scale)


def _softmax(logits: jax.Array, rank: int) -> jax.Array:
    """Over windows, the last axes, in float32 at least."""
    wide = logits.astype(accumulator(logits.dtype))
    return jax.nn.softmax(wide, axis=tuple(range(-rank, 0))).astype(logits.dtype)


# What the methods predict their weights with.


def project(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """(..., in), (in, out), (out,) -> (..., out): a convolution by one pixel. Half precision accumulates in float32."""
    wide = accumulator(x.dtype)
    y = jnp.matmul(x, kernel, preferred_element_type=wide)
    return (y if bias is None else y + bias.astype(wide)).astype(x.dtype)


def encode(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, *, dilation: tuple[int, ...] | None = None, groups: int = 1
) -> jax.Array:
    """A convolution that keeps the size: (*batch, *spatial, in), (*window, in // groups, out) -> (..., out)."""
    rank = kernel.ndim - 2
    ones, dilation = (1,) * rank, dilation or (1,) * rank
    wide = accumulator(x.dtype)
    size = x.shape[-1 - rank : -1]
    # A convolution of stride 1 is a transposed one with the flipped kernel.
    flipped = jnp.flip(kernel, tuple(range(rank))).astype(wide)
    low = tuple(d * (k - 1) // 2 for k, d in zip(kernel.shape, dilation, strict=False))
    y = x.reshape(math.prod(x.shape[: -1 - rank]), *size, x.shape[-1]).astype(wide)
    y = transposed_conv(TransposedConvGeometry(ones, dilation, low, size, groups), y, flipped)
    return (y + bias.astype(wide)).astype(x.dtype).reshape(*x.shape[:-1], kernel.shape[-1])


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Each pixel's channels with mean 0 and variance 1, then scaled and shifted."""
    wide = x.astype(accumulator(x.dtype))
    centred = wide - wide.mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return (normal * scale + bias).astype(x.dtype)


# Arguments.

_EDGES = {"zero": "constant", "replicate": "edge", "reflect": "reflect"}  # and what jnp.pad calls them


def _map(function: str, argument: str, x: Any, rank: int) -> jax.Array:
    x = _arguments.array(function, argument, x)
    if rank > 3 or x.ndim < rank + 1 or 0 in x.shape[-1 - rank :]:
        raise ValueError(
            f"{function}: {argument} must be (*batch, *spatial, channels) with {rank} spatial axes (1, 2 or 3), none "
            f"empty; got {x.shape}."
        )
    return x


def _centres(function: str, spatial: tuple[int, ...], centres: Any) -> tuple[tuple[int, ...], ...]:
    checked = tuple(_arguments.per_axis(function, "centres", tuple(c), None, minimum=0) for c in map(np.ravel, centres))
    if any(max(c) >= n for c, n in zip(checked, spatial, strict=True)):
        raise ValueError(f"{function}: centres must be input pixels, below {spatial}.")
    return checked


def _window(
    function: str, window: Any, dilation: Any, rank: int, argument: str = "window"
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    window = _arguments.per_axis(function, argument, window, rank)
    if not all(k % 2 for k in window):
        raise ValueError(f"{function}: {argument} must be odd, so that it has a centre; got {window}.")
    return window, _arguments.per_axis(function, "dilation", dilation, rank)


def _groups(function: str, groups: Any, x: jax.Array) -> int:
    groups = _arguments.number(function, "groups", groups)
    if x.shape[-1] % groups:
        raise ValueError(f"{function}: groups={groups} must divide the {x.shape[-1]} channels of x {x.shape}.")
    return groups


def _promote(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    dtype = jnp.result_type(*arrays)
    return tuple(a.astype(dtype) for a in arrays)


def _reassemble(
    function: str,
    x: jax.Array,
    weights: Any,
    scale: tuple[int, ...],
    centres: tuple[tuple[int, ...], ...],
    size: tuple[int, ...],
    dilation: Any,
    edge: Any,
) -> jax.Array:
    rank = len(size)
    weights = _arguments.array(function, "weights", weights)
    leading = (*x.shape[: -1 - rank], *size)
    inner = weights.shape[len(leading) :]
    if weights.shape[: len(leading)] != leading or len(inner) != 1 + rank or 0 in inner:
        raise ValueError(
            f"{function}: weights must be (*batch, *size, groups, *window), here {leading} and {1 + rank} axes more, "
            f"none empty, for x of shape {x.shape}; got {weights.shape}."
        )
    window, dilation = _window(function, weights.shape[-rank:], dilation, rank)
    groups = _groups(function, inner[0], x)
    _arguments.one_of(function, "edge", edge, _EDGES)
    geometry = Geometry(x.shape[-1 - rank : -1], scale, centres, window, dilation, groups)
    return _combined(*_promote(x, weights), geometry, edge)


# Computation.


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _combined(x, weights, geometry: Geometry, edge: str):
    rank = len(geometry.size)
    batch = x.shape[: -1 - rank]
    weights = weights.reshape(math.prod(batch), *weights.shape[len(batch) :])
    y = window_sum(geometry, _extend(x, geometry, edge), weights)
    return y.reshape(*batch, *geometry.output, x.shape[-1])


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _compared(x, y, geometry: Geometry, edge: str):
    rank = len(geometry.size)
    batch = x.shape[: -1 - rank]
    w = window_correlation(geometry, _extend(x, geometry, edge), y.reshape(math.prod(batch), *y.shape[len(batch) :]))
    return w.reshape(*batch, *w.shape[1:])


def _extend(x: jax.Array, geometry: Geometry, edge: str) -> jax.Array:
    """(*batch, *size, channels) -> (n, *padded, channels)."""
    x = x.reshape(math.prod(x.shape[: -1 - len(geometry.size)]), *geometry.size, x.shape[-1])
    margins = [(0, 0), *((r, r) for r in geometry.reach), (0, 0)]
    return jnp.pad(x, margins, mode=_EDGES[edge])
