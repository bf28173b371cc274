"""Upsampling to any size by a function of the place: local implicit functions."""

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from upsampling import _arguments
from upsampling._arguments import Numbers
from upsampling.primitives import _common
from upsampling.primitives._common import (
    Tiles,
    accumulator,
    core,
    floating,
    in_parts,
    over_tiles,
    with_axes,
)
from upsampling.primitives.resample import resample
from upsampling.primitives.taps import Taps

Predict = Callable[[jax.Array, jax.Array], jax.Array]
Axes = tuple[tuple[int, int], ...]  # the sizes of input and output along each axis
Sides = tuple[int | None, ...]
Table = tuple[jax.Array, jax.Array]  # steps and shares along an axis, seen from each side


def local_ensemble(
    x: jax.Array,
    predict: Predict,
    *,
    scale: Numbers = 2,
    size: Numbers | None = None,
    ensemble: bool = True,
) -> jax.Array:
    """Blends what a function says of each output pixel, seen from each of the four pixels of `x` around it.

        y[p] = sum over the four q around p of area(p, opposite of q) predict(x[q], 2 (p - q))

    Each weight is the area of the rectangle between p and the pixel diagonally opposite of q, as in bilinear
    interpolation, in parts of their sum. Beyond the image's edge the outermost pixels are seen twice.

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      predict: takes the pixels q of `x`, one for each output pixel, (*batch, H, W, channels), and the steps from their
        centers to that of the output pixel, (H, W, 2), rows and columns, in halves of a pixel of `x`. Returns
        (*batch, H, W, out), each pixel from its own values alone. It is called once for each of the four, on a GPU for
        all by `jax.vmap`; and where the pixels for all four take more than 64 MB, for some rows at a time, in a loop
        of the compiled program.
      scale: the factor, one whole number or one per axis; the output's size is that of `x` times `scale`.
      size: the output's size, in place of `scale`.
      ensemble: whether all four are asked, or only the nearest.

    Returns:
      (*batch, H, W, out), in the dtype of what `predict` returns.

    Raises:
      ValueError: too few axes, an empty image, or numbers below 1.
      TypeError: an array that is not floating, or a `predict` that cannot be called.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from upsampling.implicit import local_ensemble
    >>> x = jnp.array([0.0, 4.0, 2.0]).reshape(1, 3, 1)
    >>> y = local_ensemble(x, lambda pixels, steps: pixels, size=(1, 5))  # constant around each pixel: bilinear
    >>> bool(jnp.allclose(y, up.bilinear(x, (1, 5)), atol=1e-6))
    True

    Source: Chen et al. 2021, arXiv:2012.09161, equation 4 and figure 2.
    """
    name = "local_ensemble"
    x = _arguments.spatial_map(name, "x", x)
    _arguments.static_size(name, "x", x, 2)
    if not callable(predict):
        raise TypeError(f"{name}: predict must be a function of pixels and steps; got {predict!r}.")
    inputs = x.shape[-3:-1]
    if size is None:
        factors = _arguments.per_axis(name, "scale", scale, 2)
        size = tuple(n * s for n, s in zip(inputs, factors, strict=True))
    outputs = _arguments.per_axis(name, "size", size, 2)
    axes = tuple(zip(inputs, outputs, strict=True))
    sides: Sides = (0, 1) if _arguments.flag(name, "ensemble", ensemble) else (None,)
    batch = x.shape[:-3]
    images = max(math.prod(batch), 1) if _arguments.is_static(*batch) else 1
    row_bytes = images * len(sides) ** 2 * outputs[1] * x.shape[-1] * accumulator(x.dtype).itemsize
    if row_bytes * outputs[0] > _common.MOST_BYTES:
        most = _common.TILE_BYTES // row_bytes
        compute = lambda parts, x: _in_tiles(x, predict, axes, sides, Tiles.of(outputs[0], most, parts))  # noqa: E731
        return in_parts(compute, (inputs[0], outputs[0]), images, x)
    rows, columns = (_steps_and_shares(*axis, sides) for axis in axes)
    return _blended(predict, _read(x, axes, sides), rows, columns)


def _blended(predict: Predict, pixels: jax.Array, rows: Table, columns: Table) -> jax.Array:
    """The sum of what is said of pixels seen from each corner, (sides, sides, *batch, H, W, channels), by its share."""

    def one(pixels: jax.Array, rows: Table, columns: Table) -> jax.Array:
        steps, shares = zip(rows, columns, strict=True)
        return _weighted(predict(pixels, _pairs(*steps)), *shares)

    # Of one after the other a GPU writes and reads what they have added up to.
    at_once = functools.partial(_at_once, one)
    one_by_one = functools.partial(_one_by_one, one)
    return lax.platform_dependent(pixels, rows, columns, cuda=at_once, rocm=at_once, default=one_by_one)


def _one_by_one(one: Callable[..., jax.Array], pixels: jax.Array, rows: Table, columns: Table) -> jax.Array:
    of = lambda table, side: (table[0][side], table[1][side])  # noqa: E731
    corners = itertools.product(range(len(pixels)), repeat=2)
    return functools.reduce(jnp.add, (one(pixels[i, j], of(rows, i), of(columns, j)) for i, j in corners))


def _at_once(one: Callable[..., jax.Array], pixels: jax.Array, rows: Table, columns: Table) -> jax.Array:
    of_a_row = jax.vmap(one, (0, None, 0))
    return jax.vmap(of_a_row, (0, 0, None))(pixels, rows, columns).sum((0, 1))


def _in_tiles(x: jax.Array, predict: Predict, axes: Axes, sides: Sides, tiles: Tiles) -> jax.Array:
    """The sum over the corners, by some rows of the output at a time."""
    n, height = axes[0]
    chosen = np.stack([np.eye(n)[nearest_pixels(n, height, side)] for side in sides], -1)
    read = tiles.read(chosen.sum(-1))
    # For each tile which of the rows that it reads its own rows see, the steps from there, and their shares.
    matrices = np.moveaxis(tiles.table(chosen, read), -1, 2)
    of_rows = [jnp.moveaxis(table[:, jnp.asarray(tiles.rows())], 0, 2) for table in _steps_and_shares(n, height, sides)]
    low, columns = _read(x, axes[1:], sides), _steps_and_shares(*axes[1], sides)

    def tile(_: jax.Array, begin: jax.Array, low: jax.Array, matrix: jax.Array, rows: Table) -> jax.Array:
        seen = lax.dynamic_slice_in_dim(low, begin, read.block, -3)
        pixels = jnp.einsum("arh,b...hwc->ab...rwc", matrix, seen, precision=lax.Precision.HIGHEST)
        return _blended(predict, pixels, rows, columns)

    cut = tiles.cut(low, -3, read.begin, read.length, own=n // tiles.parts)
    own = (jnp.asarray(matrices, x.dtype), tuple(of_rows))
    return over_tiles(tile, tiles, [cut], [jnp.asarray(read.first, jnp.int32)], own)


def output_places(n: int, m: int) -> np.ndarray:
    """Where the centers of m output pixels lie on an axis of n."""
    return (2 * np.arange(m) + 1) * n / (2 * m) - 0.5


def nearest_pixels(n: int, m: int, side: int | None) -> np.ndarray:
    """For each of m output pixels, the pixel of n before it (side 0) or after it (side 1), or else the nearest."""
    # In whole numbers: a pixel's own center counts as before it.
    before = ((2 * np.arange(m) + 1) * n - m) // (2 * m)
    found = np.round(output_places(n, m)) if side is None else before + side
    return np.clip(found, 0, n - 1).astype(int)


@core((0, 1, 2))
def _steps_and_shares(n: int, m: int, sides: Sides) -> Table:
    """The steps from those pixels to the output pixels, in halves of a pixel, and what share these take from them."""
    steps = [2 * (output_places(n, m) - nearest_pixels(n, m, side)) for side in sides]
    shares = [np.ones(m) if side is None else _shares(n, m, side) for side in sides]
    return jnp.asarray(np.stack(steps), floating()), jnp.asarray(np.stack(shares), floating())


def _shares(n: int, m: int, side: int) -> np.ndarray:
    """The share that each output pixel takes from the pixel on that side; the length to the other one decides."""
    own, other = (np.abs(output_places(n, m) - nearest_pixels(n, m, s)) for s in (side, 1 - side))
    # Where both are the same pixel, at its center, they share alike.
    total = own + other
    return np.where(total > 0, other / np.where(total > 0, total, 1), 0.5)


@core((1, 2))
def _read(x: jax.Array, axes: Axes, sides: Sides) -> jax.Array:
    """The pixels on these sides of each output pixel, along the last spatial axes: an axis of sides for each in front.

    All at once: for each corner alone a TPU would look up, and move, whole maps. What rows read stands side by side,
    where devices share them.
    """
    places = [np.stack([nearest_pixels(n, m, side) for side in sides]) for n, m in axes]
    places[:-1] = [a.T for a in places[:-1]]
    first, count = x.ndim - 1 - len(axes), len(axes)
    taps = (Taps(n, a.reshape(-1, 1), np.ones((a.size, 1))) for (n, _), a in zip(axes, places, strict=True))
    y = resample(x, list(enumerate(taps, first)))
    y = y.reshape(*x.shape[:first], *itertools.chain.from_iterable(a.shape for a in places), x.shape[-1])
    return jnp.moveaxis(y, range(first + count - 1, first + 2 * count - 1), range(count))


@core()
def _pairs(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """(H,), (W,) -> (H, W, 2)."""
    return jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), -1)


@core()
def _weighted(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    weights = rows[:, None, None] * columns[None, :, None]
    return (x.astype(weights.dtype) * with_axes(weights, x.ndim)).astype(x.dtype)
