"""Training-free upsampling of any map: anisotropic Gaussians are fitted to the guide, and then applied to the map."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from upsampling import _arguments, interpolation
from upsampling.primitives._common import accumulator, core


class Gaussians(NamedTuple):
    """What is fitted for each pixel of the map, (h, w): the widths, the direction and the range of its Gaussian.

    Attributes:
      across, down: logarithms of the widths along the direction and at right angles to it, in pixels of the guide.
      angle: the direction is `pi * tanh(angle)`.
      colors: logarithm of the width in the guide's values.
    """

    across: jax.Array
    down: jax.Array
    angle: jax.Array
    colors: jax.Array


def upsample_anything(
    x: jax.Array,
    guide: jax.Array,
    *,
    steps: int = 51,
    learning_rate: float = 0.1,
    radius: int = 8,
    sigma: float = 16.0,
    sigma_range: float = 0.12,
    reach: float = 2.0,
) -> jax.Array:
    """Upsample Anything: a joint bilateral filter with a Gaussian of its own for each pixel, fitted to the guide alone.

        y[p] = sum_q w(p, q) x[q] / sum_q w(p, q)
        w(p, q) = exp(-|R_q (p - q)|^2 in widths of q - |guide[p] - guide[q]|^2 / (2 sigma_range_q^2))

    over the pixels q of `x` near p. First the guide is made as small as `x`, by bicubic interpolation, and the
    Gaussians are fitted so that they enlarge it to the guide again: `steps` steps of Adam on the mean absolute
    difference, from circles. Then they enlarge `x`. Nothing is trained before, and nothing of `x` but its size is used
    in the fit. All is one compiled program; each image has its own fit.

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      guide: (*batch, H, W, guide channels), an image in [0, 1], at least as large as `x`. The result has its size.
      steps: of Adam. 0 leaves the Gaussians as circles.
      learning_rate: of the first step; it falls to its `1e-8`th part in 5100 steps, as the authors' does.
      radius: how far away pixels q are seen at most, in pixels of `x`.
      sigma: the width that all Gaussians start with, in pixels of the guide.
      sigma_range: the width in the guide's values that they start with.
      reach: pixels q are seen up to as many widths of the Gaussians, interpolated at p, rounded up; counted in pixels
        of `x`, as in the authors' code.

    Returns:
      (*batch, H, W, channels) in the dtype of `x`. It is differentiated with the fitted Gaussians held fixed.

    Raises:
      ValueError: batch axes that differ, a guide smaller than `x`, empty images, or numbers out of range.
      TypeError: arrays that are not floating, or numbers that are not static.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> guide = jnp.zeros((8, 8, 3)).at[:, 4:].set(1.0)  # the edge of the image is that of the map
    >>> x = jnp.zeros((2, 2, 1)).at[:, 1:].set(5.0)
    >>> up.upsample_anything(x, guide, radius=1)[3, :, 0].round(2)
    Array([0., 0., 0., 0., 5., 5., 5., 5.], dtype=float32)

    Memory: for one row of `x` at a time, `(2 * radius + 1)^2` weights for each of its output pixels, and the windows of
    `x` there.

    Time: from 16x16x384 to 224x224 it is 65e9 operations by formula, five sixths of them the fit's, one after the other
    in 51 steps of 16 rows forward and back. On a CPU that took 25 seconds of processor time, without the fit half a
    second, and 0.1 GB beside the output. On an accelerator it has not been timed; its authors state 0.419 s of theirs,
    for an image of this size on a GPU.

    Source: Seo et al. 2025, arXiv:2511.16301, and the authors' code, where the weight of a pixel falls by the widths of
    that pixel, and beyond the edge the outermost pixels are counted again.
    """
    name = "upsample_anything"
    x = _arguments.spatial_map(name, "x", x)
    guide = _arguments.spatial_map(name, "guide", guide)
    for argument, given in (("x", x), ("guide", guide)):
        _arguments.static_size(name, argument, given, 2)
    smaller = any(m < n for n, m in zip(x.shape[-3:-1], guide.shape[-3:-1], strict=True))
    if x.shape[:-3] != guide.shape[:-3] or smaller:
        raise ValueError(
            f"{name}: guide must have the batch axes of x {x.shape} and at least its height and width; "
            f"got shape {guide.shape}."
        )
    if not guide.shape[-1]:
        raise ValueError(f"{name}: guide must have at least 1 channel; got shape {guide.shape}.")
    steps = _arguments.number(name, "steps", steps, minimum=0)
    radius = _arguments.number(name, "radius", radius, minimum=1)
    if (2 * radius + 1) ** 2 >= 2**31:
        raise ValueError(f"{name}: radius must give windows of fewer than 2**31 pixels; got {radius}.")
    settings = _Settings(
        _arguments.width(name, "learning_rate", learning_rate),
        _arguments.width(name, "sigma", sigma),
        _arguments.width(name, "sigma_range", sigma_range),
        _arguments.width(name, "reach", reach),
    )
    return _upsample_anything(x, guide, steps, radius, settings)


class _Settings(NamedTuple):
    learning_rate: float
    sigma: float
    sigma_range: float
    reach: float


@core((2, 3, 4))
def _upsample_anything(x: jax.Array, guide: jax.Array, steps: int, radius: int, settings: _Settings) -> jax.Array:
    batch, wide = x.shape[:-3], accumulator(x.dtype, guide.dtype)
    given = x.astype(wide).reshape(math.prod(batch), *x.shape[-3:])
    image = guide.astype(wide).reshape(math.prod(batch), *guide.shape[-3:])

    def one(x: jax.Array, guide: jax.Array) -> jax.Array:
        blocks = _Blocks.of(x.shape[:2], guide.shape[:2], radius)
        fitted = _fit(lax.stop_gradient(guide), blocks, steps, settings)
        return blocks.joined(_rendered(fitted, x, guide, blocks, settings.reach))

    y = jax.vmap(one)(given, image)
    return y.astype(x.dtype).reshape(*batch, *y.shape[1:])


class _Blocks(NamedTuple):
    """Output pixels by the input pixel that they lie in: (h, w, rows, columns), where rows and columns are the most.

    Attributes:
      size: h and w.
      radius: how many pixels a window reaches.
      pixels: for each axis, (n, most), the output pixels in each input pixel; free places repeat the last.
      used: for each axis, (n, most), whether the place is not free.
      where: for each axis, (m,), the place of each output pixel, counted through all input pixels.
    """

    size: tuple[int, ...]
    radius: int
    pixels: tuple[np.ndarray, np.ndarray]
    used: tuple[np.ndarray, np.ndarray]
    where: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, size: tuple[int, ...], output: tuple[int, ...], radius: int) -> "_Blocks":
        pixels, used, where = [], [], []
        for n, m in zip(size, output, strict=True):
            under = (2 * np.arange(m) + 1) * n // (2 * m)
            first, count = np.searchsorted(under, np.arange(n)), np.bincount(under, minlength=n)
            place = np.arange(count.max())
            pixels.append(first[:, None] + np.minimum(place, count[:, None] - 1))
            used.append(place < count[:, None])
            where.append(under * len(place) + np.arange(m) - first[under])
        return cls(size, radius, *map(tuple, (pixels, used, where)))

    def split(self, a: jax.Array) -> jax.Array:
        """(H, W, ...) -> (h, rows, w, columns, ...)."""
        a = a.take(jnp.asarray(self.pixels[0].ravel()), 0, mode="clip")
        a = a.take(jnp.asarray(self.pixels[1].ravel()), 1, mode="clip")
        return a.reshape(*self.pixels[0].shape, *self.pixels[1].shape, *a.shape[2:])

    def joined(self, a: jax.Array) -> jax.Array:
        """(h, rows, w, columns, ...) -> (H, W, ...)."""
        h, rows, w, columns = a.shape[:4]
        a = a.reshape(h * rows, w * columns, *a.shape[4:])
        return a.take(jnp.asarray(self.where[0]), 0, mode="clip").take(jnp.asarray(self.where[1]), 1, mode="clip")

    def windows(self, a: jax.Array, row: jax.Array) -> jax.Array:
        """(h, w, ...) -> (w, taps, ...): the windows of one row's pixels; beyond the edge the nearest pixel."""
        h, w = self.size
        steps = np.arange(-self.radius, self.radius + 1)
        rows = a.take(jnp.clip(row + jnp.asarray(steps), 0, h - 1), 0, mode="clip")
        columns = np.clip(np.arange(w)[:, None] + steps, 0, w - 1)
        seen = jnp.moveaxis(rows.take(jnp.asarray(columns.ravel()), 1, mode="clip"), 0, 1)
        # (w * k, k rows, ...) -> (w, k rows, k columns, ...).
        seen = seen.reshape(w, len(steps), len(steps), *a.shape[2:]).swapaxes(1, 2)
        return seen.reshape(w, len(steps) ** 2, *a.shape[2:])


def _rendered(g: Gaussians, x: jax.Array, guide: jax.Array, blocks: _Blocks, reach: float) -> jax.Array:
    """(h, w, channels) by the Gaussians, to (h, rows, w, columns, channels)."""
    split, limits = blocks.split(guide), blocks.split(_limits(g, guide.shape[:2], blocks.radius, reach))
    low = interpolation._to_size(guide, blocks.size, "linear")
    maps = _maps(g, low, guide.shape[:2], blocks.size)

    def row(number: jax.Array) -> jax.Array:
        weights = _row_weights(maps, split[number], limits[number], number, blocks, guide.shape[:2])
        values = blocks.windows(x, number)
        return jnp.einsum("wrct,wtd->rwcd", weights, values, precision=lax.Precision.HIGHEST)

    return lax.map(jax.checkpoint(row), jnp.arange(blocks.size[0]))


def _maps(g: Gaussians, low: jax.Array, output: tuple[int, ...], size: tuple[int, ...]) -> jax.Array:
    """What a weight needs of each pixel of the map, (h, w, 7 + guide channels): see `_row_weights`."""
    across, down, colors = (jnp.maximum(jnp.exp(a), 1e-6) for a in (g.across, g.down, g.colors))
    angle = math.pi * jnp.tanh(g.angle)
    precisions = (1 / (2 * s**2 + 1e-8) for s in (across, down, colors))
    centers = (
        jnp.broadcast_to(((jnp.arange(n, dtype=low.dtype) + 0.5) * (m / n) - 0.5).reshape(shape), size)
        for n, m, shape in zip(size, output, ((-1, 1), (1, -1)), strict=True)
    )
    return jnp.concatenate([jnp.stack([*precisions, jnp.cos(angle), jnp.sin(angle), *centers], -1), low], -1)


def _limits(g: Gaussians, output: tuple[int, ...], radius: int, reach: float) -> jax.Array:
    """How far each output pixel sees, in pixels of the map."""
    widest = lax.stop_gradient(jnp.maximum(jnp.exp(g.across), jnp.exp(g.down)))
    at_outputs = interpolation._to_size(widest[..., None], output, "linear")[..., 0]
    return jnp.clip(jnp.ceil(reach * at_outputs), 1, radius)


def _row_weights(
    maps: jax.Array, guide: jax.Array, limits: jax.Array, row: jax.Array, blocks: _Blocks, output: tuple[int, ...]
) -> jax.Array:
    """The weights of the output pixels in one row of the map: (w, rows, columns, taps), from their guide and limits."""
    seen = blocks.windows(maps, row)[:, None, None]  # (w, 1, 1, taps, ...)
    across, down, colors, cosine, sine, q_row, q_column = (seen[..., n] for n in range(7))
    p_row = jnp.asarray(blocks.pixels[0], maps.dtype)[row][None, :, None, None]
    p_column = jnp.asarray(blocks.pixels[1], maps.dtype)[:, None, :, None]
    dy, dx = p_row - q_row, p_column - q_column
    along, beside = dx * cosine + dy * sine, dy * cosine - dx * sine
    own = jnp.moveaxis(guide, 0, 1)[..., None, :]  # (w, rows, columns, 1, channels)
    difference = jnp.sum((own - seen[..., 7:]) ** 2, -1)
    logits = -(along**2) * across - beside**2 * down - difference * colors
    squares = jnp.asarray(np.arange(-blocks.radius, blocks.radius + 1) ** 2, maps.dtype)
    far = (squares[:, None] + squares[None]).reshape(1, 1, 1, -1)
    near = far <= jnp.moveaxis(limits, 0, 1)[..., None] ** 2
    return jax.nn.softmax(jnp.where(near, logits, -jnp.inf), axis=-1)


def _fit(guide: jax.Array, blocks: _Blocks, steps: int, settings: _Settings) -> Gaussians:
    """The Gaussians that enlarge the guide, made as small as the map, to itself again."""
    dtype, (height, width) = guide.dtype, guide.shape[:2]
    small = interpolation._to_size(guide, blocks.size, "cubic")
    low = interpolation._to_size(guide, blocks.size, "linear")
    split = blocks.split(guide)
    used = [jnp.asarray(u, dtype) for u in blocks.used]
    rate = 1e-8 ** (1 / 5100)

    def row_loss(number: jax.Array, maps: jax.Array, limits: jax.Array) -> jax.Array:
        weights = _row_weights(maps, split[number], limits[number], number, blocks, (height, width))
        y = jnp.einsum("wrct,wtd->rwcd", weights, blocks.windows(small, number), precision=lax.Precision.HIGHEST)
        counted = used[0][number][:, None, None, None] * used[1][None, :, :, None]
        return jnp.sum(jnp.abs(y - split[number]) * counted)

    def loss(g: Gaussians) -> jax.Array:
        maps = _maps(g, low, (height, width), blocks.size)
        limits = blocks.split(_limits(g, (height, width), blocks.radius, settings.reach))
        row = jax.checkpoint(lambda number: row_loss(number, maps, limits))
        return lax.map(row, jnp.arange(blocks.size[0])).sum() / guide.size

    def step(carry: Any, number: jax.Array) -> tuple[Any, None]:
        g, mean, square = carry
        slopes = jax.grad(loss)(g)
        mean = jax.tree.map(lambda m, s: 0.9 * m + 0.1 * s, mean, slopes)
        square = jax.tree.map(lambda v, s: 0.999 * v + 0.001 * s**2, square, slopes)
        count = number.astype(dtype)
        length = settings.learning_rate * rate**count / (1 - 0.9 ** (count + 1))
        root = jnp.sqrt(1 - 0.999 ** (count + 1))
        g = jax.tree.map(lambda p, m, v: p - length * m / (jnp.sqrt(v) / root + 1e-8), g, mean, square)
        return (g, mean, square), None

    start = [math.log(settings.sigma), math.log(settings.sigma), 0.0, math.log(settings.sigma_range)]
    # Like the guide, so that under shard_map they vary as it does.
    first = Gaussians(*(jnp.full_like(small[..., 0], value) for value in start))
    zero = jax.tree.map(jnp.zeros_like, first)
    (fitted, _, _), _ = lax.scan(step, (first, zero, zero), jnp.arange(steps))
    return jax.tree.map(lax.stop_gradient, fitted)
