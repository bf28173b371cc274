"""Sampling at predicted positions: `grid_sample`, and the positions that methods predict for it."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from upsampling import _arguments
from upsampling._arguments import Edge
from upsampling.primitives._common import accumulator, core, with_axes
from upsampling.primitives.grid_sample import Rule, mirror, sample

Method = Literal["nearest", "bilinear", "bicubic"]


@_arguments.hinted
def grid_sample(
    x: jax.Array, positions: jax.Array, *, method: Method = "bilinear", edge: Edge = "replicate"
) -> jax.Array:
    """Interpolates an image or a volume at any positions.

    Args:
      x: (*batch, H, W, channels), or (*batch, D, H, W, channels); any number of batch axes, none included.
      positions: (*batch, H', W', 2), row and column in input pixels, or (*batch, D', H', W', 3), plane, row and column
        of a volume. Pixel centers are at whole numbers: (0, 0) is the first pixel's, (-0.5, -0.5) its outer corner.
        `positions_from_grid` makes them of PyTorch's normalized grid.
        Half precision cannot tell pixels apart in images of more than 256 (bfloat16) or 2048 pixels a side: positions
        are computed with in float32 at least, so give them in float32.
      method: "nearest" (of two equally near the even one), "bilinear" (trilinear in a volume), or, for images,
        "bicubic" with PyTorch's a of -0.75.
      edge: what lies beyond the image: "zero"; "replicate", its nearest pixel, the default of plain sampling;
        "reflect", its mirror image about the centers of its outermost pixels; or "symmetric", about their outer edges,
        which repeats them. PyTorch's padding_mode "reflection" is "reflect" with align_corners=True and "symmetric"
        without.

    Returns:
      (*batch, H', W', channels) or (*batch, D', H', W', channels), in the dtype of `x`. Half precision accumulates in
      float32. It is differentiable, to any order, with respect to image and positions. Where bilinear sampling has a
      kink, at whole positions, the derivative is that to the higher side; beyond a replicated edge, and on it, it is
      zero, both as in PyTorch.

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
    positions = _arguments.array(name, "positions", positions)
    rank = 3 if positions.shape[-1:] == (3,) else 2
    x = _image(name, x, rank)
    positions = _at_outputs(name, "positions", positions, x, rank)
    _arguments.one_of(name, "method", method, get_args(Method))
    _arguments.one_of(name, "edge", edge, _arguments.EDGES)
    if rank == 2:
        return _grid_sample(x, positions, method, edge)
    if method == "bicubic":
        raise ValueError(f"{name}: method='bicubic' is for images, as in PyTorch; got positions with 3 coordinates.")
    return _sample_volume(x, positions, method, edge)


def affine_grid(theta: jax.Array, size: int | Sequence[int], *, align_corners: bool = False) -> jax.Array:
    """The normalized grid of an affine map, as PyTorch's `F.affine_grid`: for `positions_from_grid`.

    Output pixel p, whose coordinates run from -1 to 1 along each axis, reads the input at `theta @ (x, y, 1)`.

    Args:
      theta: (*batch, 2, 3) for images or (*batch, 3, 4) for volumes, any number of batch axes, none included.
      size: the output's spatial size, one number for all axes or one each.
      align_corners: whether -1 and 1 are the outermost pixels' centers, or else their outer edges.

    Returns:
      (*batch, H, W, 2), or (*batch, D, H, W, 3): x (column), y (row) and, in a volume, z (plane), in the dtype of
      `theta`.

    Raises:
      ValueError: another shape of theta, or a size below 1.
      TypeError: a theta that is not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> x = jnp.arange(4.0).reshape(1, 4, 1)
    >>> mirrored = up.affine_grid(jnp.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), (1, 4))
    >>> up.grid_sample(x, up.positions_from_grid(mirrored, (1, 4)))[0, :, 0]
    Array([3., 2., 1., 0.], dtype=float32)

    Source: Jaderberg et al. 2015, arXiv:1506.02025, equation 1; the documentation of PyTorch's `F.affine_grid`.
    """
    name = "affine_grid"
    theta = _arguments.array(name, "theta", theta)
    if theta.ndim < 2 or theta.shape[-2:] not in ((2, 3), (3, 4)):
        raise ValueError(f"{name}: theta must be (*batch, 2, 3) or (*batch, 3, 4); got shape {theta.shape}.")
    size = _arguments.per_axis(name, "size", size, theta.shape[-2])
    return _affine_grid(theta, size, _arguments.flag(name, "align_corners", align_corners))


def positions_from_grid(grid: jax.Array, size: int | Sequence[int], *, align_corners: bool = False) -> jax.Array:
    """The positions for `grid_sample` from the normalized grid of PyTorch's `F.grid_sample`.

    Args:
      grid: (..., 2), x (column) and y (row), from -1 to 1; or (..., 3), with z (plane) after them.
      size: the spatial size of what is sampled, planes first; one number for all axes or one each.
      align_corners: whether -1 and 1 are the outermost pixels' centers, or else their outer edges.

    Returns:
      (..., 2), row and column in pixels, or (..., 3), plane, row and column; at least in float32, since half precision
      cannot tell pixels apart.

    Raises:
      ValueError: a last axis that is neither 2 nor 3, or a size below 1.
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
    rank = 3 if grid.shape[-1:] == (3,) else 2
    grid = _arguments.shaped(name, "grid", grid, (*("...",) * max(grid.ndim - 1, 0), rank), "x and y in the last axis")
    size = _arguments.per_axis(name, "size", size, rank)
    return _positions_from_grid(grid, size, _arguments.flag(name, "align_corners", align_corners))


def dysample(
    x: jax.Array,
    offsets: jax.Array,
    scope: jax.Array | None = None,
    *,
    scale: int | Sequence[int] = 2,
    size: int | Sequence[int] | None = None,
) -> jax.Array:
    """Bilinear upsampling that moves each output pixel, in each channel group, by a predicted offset.

    Output pixel p lies at q = (p + 0.5) / scale - 0.5 in the input. It samples there plus 0.25 * offset, or plus
    0.5 * sigmoid(scope) * offset. The edge is "replicate", as in the authors' code.

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included.
      offsets: (*batch, H * scale, W * scale, groups, 2), what the layer's convolution predicts: rows and columns, in
        quarters of an input pixel. `groups` divides the channels; group g moves the g-th block of them.
      scope: of the same shape, the dynamic scope: logits of the share of each offset that is used, at most half of it.
      scale: the factor, one whole number or one per axis.
      size: the output's spatial size, one whole number or one per axis, in place of `scale` where it is no multiple.

    Returns:
      (*batch, H * scale, W * scale, channels) or (*batch, *size, channels), in the dtype of `x`.

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
    x = _image(name, x)
    if size is None:
        scale = _arguments.per_axis(name, "scale", scale, 2)
        size = (x.shape[-3] * scale[0], x.shape[-2] * scale[1])
    else:
        size = _arguments.per_axis(name, "size", size, 2)
    shape = (*x.shape[:-3], *size, "groups", 2)
    offsets = _arguments.shaped(name, "offsets", offsets, shape, f"for x of shape {x.shape}")
    _arguments.divisor(name, "the groups of offsets", offsets.shape[-2], channels=x.shape[-1])
    if scope is not None:
        scope = _arguments.shaped(name, "scope", scope, offsets.shape, "that of offsets")
    return _dysample(x, offsets, scope)


def flow_warp(x: jax.Array, flow: jax.Array, *, align_corners: bool = True, edge: Edge = "zero") -> jax.Array:
    """Upsamples a map by a predicted flow: each output pixel samples where the flow points.

    In coordinates from -1 to 1 along each axis, output pixel p of N samples at g(p) + flow[p] / N. This is what the
    authors' code computes; their equation 3 divides by the factor between the levels, as if the first pixels' centers
    coincided.

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included.
      flow: (*batch, H', W', 2), rows and columns, in halves of an output pixel. The authors' convolution predicts
        columns first.
      align_corners: whether -1 and 1 are the outermost pixels' centers, as in the authors' code, or else their outer
        edges, with which zero flow is bilinear interpolation on the half-pixel grid.
      edge: what lies beyond the image, as in `grid_sample`. The default is the authors'.

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
    x = _image(name, x)
    flow = _at_outputs(name, "flow", flow, x)
    align_corners = _arguments.flag(name, "align_corners", align_corners)
    _arguments.one_of(name, "edge", edge, _arguments.EDGES)
    return _flow_warp(x, flow, align_corners, edge)


# Arguments.


def _image(function: str, x: jax.Array, rank: int = 2) -> jax.Array:
    x = _arguments.spatial_map(function, "x", x, rank)
    size = x.shape[-1 - rank : -1]
    if _arguments.is_static(*size) and math.prod(size) > jnp.iinfo(jnp.int32).max:
        raise ValueError(f"{function}: x must have fewer than 2**31 pixels an image; got shape {x.shape}.")
    # The rows of all planes are numbered in floats.
    if rank == 3 and _arguments.is_static(*size) and size[0] * size[1] > 2**24:
        raise ValueError(f"{function}: x must have at most 2**24 rows in all its planes; got shape {x.shape}.")
    return x


def _at_outputs(function: str, argument: str, given: jax.Array, x: jax.Array, rank: int = 2) -> jax.Array:
    """A number per axis for each output pixel, of any number of them."""
    shape = (*x.shape[: -1 - rank], *("D'", "H'", "W'")[-rank:], rank)
    return _arguments.shaped(function, argument, given, shape, f"for x of shape {x.shape}")


# Computation.


@core((2, 3))
def _grid_sample(x: jax.Array, positions: jax.Array, method: Method, edge: Edge) -> jax.Array:
    return _sample_groups(x, positions[..., None, :], method, edge)


@core((2, 3))
def _sample_volume(x: jax.Array, positions: jax.Array, method: Method, edge: Edge) -> jax.Array:
    """Samples the image of all planes below one another, at whole rows: one for nearest, four for trilinear."""
    *batch, depth, height, width, channels = x.shape
    outputs = positions.shape[-4:-1]
    if not x.size or not positions.size:
        return jnp.zeros((*batch, *outputs, channels), x.dtype)
    n = math.prod(batch)
    wide = accumulator(x.dtype)
    image = x.reshape(n, depth * height, width, 1, channels).astype(wide)
    positions = positions.astype(accumulator(x.dtype, positions.dtype)).reshape(n, outputs[0], -1, 1, 3)
    positions, rule = _within_reach(positions, (depth, height, width), method, edge)
    plane, row, column = (positions[..., axis] for axis in range(3))

    def at(planes: jax.Array, rows: jax.Array, weight: jax.Array | None) -> jax.Array:
        inside = (planes >= 0) & (planes < depth) & (rows >= 0) & (rows < height)
        whole = jnp.clip(planes, 0, depth - 1) * height + jnp.clip(rows, 0, height - 1)
        y = sample(image, jnp.stack([whole, column], -1), rule)
        share = inside.astype(wide) if weight is None else jnp.where(inside, weight, 0).astype(wide)
        return y * share[..., None]

    if method == "nearest":
        y = at(jnp.round(plane), jnp.round(row), None)
    else:
        planes, rows = jnp.floor(plane), jnp.floor(row)
        down, across = plane - planes, row - rows
        parts = [
            at(planes + i, rows + j, (down if i else 1 - down) * (across if j else 1 - across))
            for i, j in itertools.product((0, 1), (0, 1))
        ]
        y = functools.reduce(jnp.add, parts)
    return y.astype(x.dtype).reshape(*batch, *outputs, channels)


@core((1, 2))
def _affine_grid(theta: jax.Array, size: tuple[int, ...], align_corners: bool) -> jax.Array:
    dtype, rank = theta.dtype, len(size)
    batch, maps = theta.shape[:-2], theta.astype(accumulator(dtype))
    column = lambda k: maps[..., k].reshape(*batch, *(1,) * rank, rank)  # noqa: E731
    grid = column(rank)
    # x runs along the last axis, y along the one before, z along that before.
    for k, n in enumerate(size[::-1]):
        i = np.arange(n)
        places = np.zeros(n) if n == 1 else 2 * i / (n - 1) - 1 if align_corners else (2 * i + 1) / n - 1
        places = places.reshape(*(1,) * (len(batch) + rank - 1 - k), n, *(1,) * (k + 1))
        grid = grid + column(k) * jnp.asarray(places, grid.dtype)
    return grid.astype(dtype)


@core((1, 2))
def _positions_from_grid(grid: jax.Array, size: tuple[int, ...], align_corners: bool) -> jax.Array:
    g = grid[..., ::-1].astype(accumulator(grid.dtype))
    n = with_axes(jnp.asarray(size, g.dtype), g.ndim)
    return (g + 1) * (n - 1) / 2 if align_corners else ((g + 1) * n - 1) / 2


@core()
def _dysample(x: jax.Array, offsets: jax.Array, scope: jax.Array | None) -> jax.Array:
    dtype = accumulator(x.dtype, offsets.dtype)
    offsets = offsets.astype(dtype)
    offsets = offsets * (0.25 if scope is None else 0.5 * jax.nn.sigmoid(scope.astype(dtype)))
    rows, columns = (
        (jnp.arange(m, dtype=dtype) + 0.5) / (m / n) - 0.5
        for n, m in zip(x.shape[-3:-1], offsets.shape[-4:-2], strict=True)
    )
    first = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1)
    return _sample_groups(x, with_axes(first[..., None, :], offsets.ndim) + offsets, "bilinear", "replicate")


@core((2, 3))
def _flow_warp(x: jax.Array, flow: jax.Array, align_corners: bool, edge: Edge) -> jax.Array:
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
    steps = jnp.asarray((row_step, column_step), dtype)
    positions = with_axes(first, flow.ndim) + flow.astype(dtype) * with_axes(steps, flow.ndim)
    return _grid_sample(x, positions, "bilinear", edge)


def _sample_groups(x: jax.Array, positions: jax.Array, method: Method, edge: Edge) -> jax.Array:
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


def _within_reach(positions: jax.Array, size: tuple[int, ...], method: Method, edge: Edge) -> tuple[jax.Array, Rule]:
    """Positions moved into the image, or as far beyond it as its pixels have weight, and the rule to sample them by."""
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
    edge = "replicate" if mirrored and method != "bicubic" else edge
    return jnp.stack(axes, axis=-1), Rule(method, edge)


def _clip(position: jax.Array, low: int, high: int) -> jax.Array:
    """Clips, with no gradient from either bound on; what is not a number becomes `low`."""
    return jnp.where(position > low, jnp.where(position < high, position, high), low)
