"""Sampling at predicted positions, and the positions that methods predict.

All are `grid_sample` at other positions: the primitive and its derivatives are in `_sample`.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from upsampling import _arguments
from upsampling.primitives._common import accumulator
from upsampling.primitives.grid_sample import Rule, mirror, sample

_METHODS = ("nearest", "bilinear", "bicubic")
_EDGES = ("replicate", "zero", "reflect", "symmetric")


def grid_sample(x: jax.Array, positions: jax.Array, *, method: str = "bilinear", edge: str = "replicate") -> jax.Array:
    """The image at any positions.

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included.
      positions: (*batch, H', W', 2), row and column in input pixels. Pixel centres are at whole numbers: (0, 0) is the
        first pixel's, (-0.5, -0.5) its outer corner. `positions_from_grid` makes them of PyTorch's normalised grid.
        Half precision cannot tell pixels apart in images of more than 256 (bfloat16) or 2048 pixels a side: positions
        are computed with in float32 at least, so give them in float32.
      method: "nearest" (of two equally near the even one), "bilinear", or "bicubic" with PyTorch's a of -0.75.
      edge: what is beyond the image. "replicate": its nearest pixel. "zero": zeros. "reflect": its mirror image at the
        outermost pixels' centres. "symmetric": its mirror image at their outer edges, which repeats them. PyTorch's
        padding_mode "reflection" is "reflect" with align_corners=True and "symmetric" without.

    Returns:
      (*batch, H', W', channels), in the dtype of `x`. Half precision accumulates in float32. It is differentiable, to
      any order, by image and positions. Where bilinear sampling has a kink, at whole positions, the derivative is that
      to the higher side; beyond a replicated edge, and on it, it is zero, both as in PyTorch.

      A position that is not a number counts as beyond the low edge, as do infinite ones with a mirrored edge: they give
      the first row or column, or zeros, and no gradient.

    Raises:
      ValueError: shapes that do not fit, or an unknown method or edge.
      TypeError: arrays that are not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> x = jnp.array([[0.0, 1.0], [2.0, 3.0]])[..., None]
    >>> up.grid_sample(x, jnp.array([[[0.5, 0.5], [0.25, 1.0], [1.0, -7.0]]]))[..., 0]
    Array([[1.5, 1.5, 2. ]], dtype=float32)

    Source: Jaderberg et al. 2015, arXiv:1506.02025, equation 5.
    """
    name = "grid_sample"
    x = _map(name, x)
    positions = _at_outputs(name, "positions", positions, x, (2,))
    _arguments.one_of(name, "method", method, _METHODS)
    _arguments.one_of(name, "edge", edge, _EDGES)
    return _grid_sample(x, positions, method, edge)


def positions_from_grid(grid: jax.Array, size: int | Sequence[int], *, align_corners: bool = False) -> jax.Array:
    """The positions for `grid_sample` from the normalised grid of PyTorch's `F.grid_sample`.

    Args:
      grid: (..., 2), x (column) and y (row), from -1 to 1.
      size: height and width of the image that is sampled, one number for both or one each.
      align_corners: whether -1 and 1 are the outermost pixels' centres, or else their outer edges.

    Returns:
      (..., 2), row and column in pixels, in the dtype of `grid`.

    Raises:
      ValueError: a last axis that is not 2, or a size below 1.
      TypeError: a grid that is not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> grid = jnp.array([[-1.0, 0.0], [1.0, 1.0]])
    >>> up.positions_from_grid(grid, (5, 9))
    Array([[ 2. , -0.5],
           [ 4.5,  8.5]], dtype=float32)
    >>> up.positions_from_grid(grid, (5, 9), align_corners=True)
    Array([[2., 0.],
           [4., 8.]], dtype=float32)

    Source: the documentation of PyTorch's `F.grid_sample`.
    """
    name = "positions_from_grid"
    grid = _arguments.array(name, "grid", grid)
    size = _arguments.per_axis(name, "size", size, 2)
    if not grid.ndim or grid.shape[-1] != 2:
        raise ValueError(f"{name}: grid must be (..., 2), x and y; got shape {grid.shape}.")
    return _positions_from_grid(grid, size, bool(align_corners))


def dysample(
    x: jax.Array, offsets: jax.Array, scope: jax.Array | None = None, *, scale: int | Sequence[int] = 2
) -> jax.Array:
    """Bilinear upsampling whose every output pixel, in each channel group, is moved by a predicted offset.

    Output pixel p lies at q = (p + 0.5) / scale - 0.5 in the input, and reads there plus 0.25 * offset, or plus
    0.5 * sigmoid(scope) * offset. Beyond the image its nearest pixel counts.

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included.
      offsets: (*batch, H * scale, W * scale, groups, 2), what the layer's convolution predicts: rows and columns, whose
        quarters are input pixels. `groups` divides the channels; group g moves the g-th block of them.
      scope: of the same shape, the logits of how far each offset reaches, at most half of it: the dynamic scope.
      scale: the factor, one whole number or one per axis.

    Returns:
      (*batch, H * scale, W * scale, channels), in the dtype of `x`.

    Raises:
      ValueError: shapes that do not fit, or groups that do not divide the channels.
      TypeError: arrays that are not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> x = jnp.arange(8.0).reshape(1, 4, 2)
    >>> offsets = jnp.zeros((2, 8, 2, 2)).at[..., 1, 1].set(2.0)  # moves the second channel by half a pixel
    >>> up.dysample(x, offsets)[0].T
    Array([[0. , 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6. ],
           [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7. , 7. ]], dtype=float32)

    Source: Liu et al. 2023, arXiv:2308.15085, equations 3 to 6, with the static scope and the bilinear first positions.
    """
    name = "dysample"
    x = _map(name, x)
    scale = _arguments.per_axis(name, "scale", scale, 2)
    size = (x.shape[-3] * scale[0], x.shape[-2] * scale[1])
    offsets = _at_outputs(name, "offsets", offsets, x, ("groups", 2), size)
    if scope is not None:
        scope = _arguments.array(name, "scope", scope)
        if scope.shape != offsets.shape:
            raise ValueError(f"{name}: scope must have the shape of offsets, {offsets.shape}; got {scope.shape}.")
    if not offsets.shape[-2] or x.shape[-1] % offsets.shape[-2]:
        raise ValueError(
            f"{name}: offsets must have a number of groups that divides the {x.shape[-1]} channels of x; "
            f"got {offsets.shape[-2]}, in shape {offsets.shape}."
        )
    return _dysample(x, offsets, scope, scale)


def flow_warp(x: jax.Array, flow: jax.Array, *, align_corners: bool = True, edge: str = "zero") -> jax.Array:
    """Upsamples a map by a predicted flow: each output pixel reads where the flow points.

    In coordinates from -1 to 1 along each axis, output pixel p of N reads at g(p) + flow[p] / N. This is what the
    authors' code computes; their equation 3 divides by the factor between the levels, as if the first pixels' centres
    lay upon each other.

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included.
      flow: (*batch, H', W', 2), rows and columns, in halves of an output pixel. The authors' convolution predicts
        columns first.
      align_corners: whether -1 and 1 are the outermost pixels' centres, as in the authors' code, or else their outer
        edges, where zero flow is bilinear interpolation as convolutions of stride 2 place pixels.
      edge: what is beyond the image, as in `grid_sample`.

    Returns:
      (*batch, H', W', channels), in the dtype of `x`.

    Raises:
      ValueError: shapes that do not fit, or an unknown edge.
      TypeError: arrays that are not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> x = jnp.arange(4.0).reshape(1, 4, 1)
    >>> up.flow_warp(x, jnp.zeros((2, 7, 2)))[0, :, 0]
    Array([0. , 0.5, 1. , 1.5, 2. , 2.5, 3. ], dtype=float32)

    Source: Li et al. 2020, arXiv:2002.10120, equations 3 and 4.
    """
    name = "flow_warp"
    x = _map(name, x)
    flow = _at_outputs(name, "flow", flow, x, (2,))
    _arguments.one_of(name, "edge", edge, _EDGES)
    return _flow_warp(x, flow, bool(align_corners), edge)


# Arguments.


def _map(function: str, x: Any) -> jax.Array:
    x = _arguments.array(function, "x", x)
    if x.ndim < 3 or 0 in x.shape[-3:-1]:
        raise ValueError(f"{function}: x must be (*batch, H, W, channels) with no empty image; got shape {x.shape}.")
    if math.prod(x.shape[-3:-1]) > jnp.iinfo(jnp.int32).max:
        raise ValueError(f"{function}: x must have fewer than 2**31 pixels an image; got shape {x.shape}.")
    return x


def _at_outputs(
    function: str, argument: str, given: Any, x: jax.Array, last: tuple, size: tuple[int, int] | None = None
) -> jax.Array:
    """Returns `given` as an array of shape (*batch, *size, *last), where a name in `last` stands for any number."""
    given = _arguments.array(function, argument, given)
    batch = x.shape[:-3]
    wanted = (*batch, *(size or ("H'", "W'")), *last)
    fits = given.ndim == len(wanted) and all(
        isinstance(want, str) or n == want for n, want in zip(given.shape, wanted, strict=True)
    )
    if not fits:
        shape = ", ".join(map(str, wanted))
        raise ValueError(f"{function}: {argument} must be ({shape}) for x of shape {x.shape}; got shape {given.shape}.")
    return given


# Computation.


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _grid_sample(x, positions, method: str, edge: str):
    return _sample_groups(x, positions[..., None, :], method, edge)


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _positions_from_grid(grid, size: tuple[int, int], align_corners: bool):
    n = jnp.asarray(size, grid.dtype)
    g = grid[..., ::-1]
    return (g + 1) * (n - 1) / 2 if align_corners else ((g + 1) * n - 1) / 2


@functools.partial(jax.jit, static_argnums=(3,), inline=True)
def _dysample(x, offsets, scope, scale: tuple[int, int]):
    dtype = accumulator(x.dtype, offsets.dtype)
    offsets = offsets.astype(dtype)
    offsets = offsets * (0.25 if scope is None else 0.5 * jax.nn.sigmoid(scope.astype(dtype)))
    rows, columns = (
        (jnp.arange(n * s, dtype=dtype) + 0.5) / s - 0.5 for n, s in zip(x.shape[-3:-1], scale, strict=True)
    )
    first = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1)
    return _sample_groups(x, first[..., None, :] + offsets, "bilinear", "replicate")


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)
def _flow_warp(x, flow, align_corners: bool, edge: str):
    dtype = accumulator(x.dtype, flow.dtype)
    axes = []
    for n, outputs in zip(x.shape[-3:-1], flow.shape[-3:-1], strict=True):
        places = jnp.arange(outputs, dtype=dtype)
        if align_corners:
            axes.append((places * ((n - 1) / max(outputs - 1, 1)), (n - 1) / (2 * outputs)))
        else:
            axes.append(((places + 0.5) * (n / outputs) - 0.5, n / (2 * outputs)))
    (rows, row_step), (columns, column_step) = axes
    first = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1)
    positions = first + flow.astype(dtype) * jnp.asarray((row_step, column_step), dtype)
    return _grid_sample(x, positions, "bilinear", edge)


def _sample_groups(x: jax.Array, positions: jax.Array, method: str, edge: str) -> jax.Array:
    """(*batch, H, W, channels) at (*batch, H', W', groups, 2), where groups are blocks of channels."""
    *batch, height, width, channels = x.shape
    *_, rows, columns, groups, _ = positions.shape
    if not x.size or not positions.size:
        return jnp.zeros((*batch, rows, columns, channels), x.dtype)
    n = math.prod(batch)
    positions = positions.astype(accumulator(x.dtype, positions.dtype)).reshape(n, rows, columns, groups, 2)
    positions, rule = _within_reach(positions, (height, width), method, edge)
    y = sample(x.reshape(n, height, width, groups, -1), positions, rule)
    return y.reshape(*batch, rows, columns, channels)


def _within_reach(positions: jax.Array, size: tuple[int, int], method: str, edge: str) -> tuple[jax.Array, Rule]:
    """Positions that lie in the image, or just as far beyond it as its pixels reach, and the rule to sample them by."""
    mirrored = edge in ("reflect", "symmetric")
    axes = []
    for axis, n in enumerate(size):
        position = positions[..., axis]
        if mirrored and method == "bicubic":
            # Its taps are mirrored, one by one, as in PyTorch.
            axes.append(jnp.where(jnp.isfinite(position), position, 0))
        elif edge == "zero" or method == "bicubic":
            axes.append(_clip(position, -2, n + 1))
        else:
            axes.append(_clip(mirror(position, n, edge) if mirrored else position, 0, n - 1))
    kept = "replicate" if mirrored and method != "bicubic" else edge
    return jnp.stack(axes, axis=-1), Rule(method, kept)


def _clip(position: jax.Array, low: int, high: int) -> jax.Array:
    """Clips, with no gradient from either bound on; what is not a number becomes `low`."""
    return jnp.where(position > low, jnp.where(position < high, position, high), low)
