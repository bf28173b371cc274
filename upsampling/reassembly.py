"""Upsampling with predicted weights: `reassemble`, and the weights that methods predict for it."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from upsampling import _checks
from upsampling._reassemble import Geometry, combine, compare

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
    scale = _checks.per_axis(name, "scale", scale, None)
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
    x, queries = _map(name, "x", x, rank), _checks.array(name, "queries", queries)
    spatial = x.shape[-1 - rank : -1]
    scale, places = (), ()
    if all(isinstance(c, int) for c in centres):
        scale = _checks.per_axis(name, "centres", centres, rank)
    else:
        places = _centres(name, spatial, centres)
    window, dilation = _window(name, window, dilation, rank)
    _checks.one_of(name, "edge", edge, _EDGES)
    geometry = Geometry(spatial, scale, places, window, dilation, _groups(name, groups, x))
    expected = (*x.shape[: -1 - rank], *geometry.output, x.shape[-1])
    if queries.shape != expected:
        raise ValueError(f"{name}: queries must have shape {expected} for x of shape {x.shape}; got {queries.shape}.")
    return _compared(*_promote(x, queries), geometry, edge)


# Arguments.

_EDGES = {"zero": "constant", "replicate": "edge", "reflect": "reflect"}  # and what jnp.pad calls them


def _map(function: str, argument: str, x: Any, rank: int) -> jax.Array:
    x = _checks.array(function, argument, x)
    if rank > 3 or x.ndim < rank + 1 or 0 in x.shape[-1 - rank :]:
        raise ValueError(
            f"{function}: {argument} must be (*batch, *spatial, channels) with {rank} spatial axes (1, 2 or 3), none "
            f"empty; got {x.shape}."
        )
    return x


def _centres(function: str, spatial: tuple[int, ...], centres: Any) -> tuple[tuple[int, ...], ...]:
    checked = tuple(_checks.per_axis(function, "centres", tuple(c), None, minimum=0) for c in map(np.ravel, centres))
    if any(max(c) >= n for c, n in zip(checked, spatial, strict=True)):
        raise ValueError(f"{function}: centres must be input pixels, below {spatial}.")
    return checked


def _window(function: str, window: Any, dilation: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    window = _checks.per_axis(function, "window", window, rank)
    if not all(k % 2 for k in window):
        raise ValueError(f"{function}: window must be odd, so that it has a centre; got {window}.")
    return window, _checks.per_axis(function, "dilation", dilation, rank)


def _groups(function: str, groups: Any, x: jax.Array) -> int:
    groups = _checks.number(function, "groups", groups)
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
    weights = _checks.array(function, "weights", weights)
    leading = (*x.shape[: -1 - rank], *size)
    inner = weights.shape[len(leading) :]
    if weights.shape[: len(leading)] != leading or len(inner) != 1 + rank or 0 in inner:
        raise ValueError(
            f"{function}: weights must be (*batch, *size, groups, *window), here {leading} and {1 + rank} axes more, "
            f"none empty, for x of shape {x.shape}; got {weights.shape}."
        )
    window, dilation = _window(function, weights.shape[-rank:], dilation, rank)
    groups = _groups(function, inner[0], x)
    _checks.one_of(function, "edge", edge, _EDGES)
    geometry = Geometry(x.shape[-1 - rank : -1], scale, centres, window, dilation, groups)
    return _combined(*_promote(x, weights), geometry, edge)


# Computation.


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _combined(x, weights, geometry: Geometry, edge: str):
    rank = len(geometry.size)
    batch = x.shape[: -1 - rank]
    y = combine(geometry, _extend(x, geometry, edge), weights.reshape(math.prod(batch), *weights.shape[len(batch) :]))
    return y.reshape(*batch, *geometry.output, x.shape[-1])


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _compared(x, y, geometry: Geometry, edge: str):
    rank = len(geometry.size)
    batch = x.shape[: -1 - rank]
    w = compare(geometry, _extend(x, geometry, edge), y.reshape(math.prod(batch), *y.shape[len(batch) :]))
    return w.reshape(*batch, *w.shape[1:])


def _extend(x: jax.Array, geometry: Geometry, edge: str) -> jax.Array:
    """(*batch, *size, channels) -> (n, *padded, channels)."""
    x = x.reshape(-1, *geometry.size, x.shape[-1])
    margins = [(0, 0), *((r, r) for r in geometry.reach), (0, 0)]
    return jnp.pad(x, margins, mode=_EDGES[edge])
