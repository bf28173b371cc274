"""Upsampling to any size by a function of the place: local implicit functions."""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from upsampling import _arguments
from upsampling._arguments import Numbers
from upsampling.primitives._common import core, floating, with_axes
from upsampling.primitives.resample import resample
from upsampling.primitives.taps import Taps

Predict = Callable[[jax.Array, jax.Array], jax.Array]
Axes = tuple[tuple[int, int], ...]  # the sizes of input and output along each axis
Sides = tuple[int | None, ...]


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
        (*batch, H, W, out). It is called once for each of the four.
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
    if not _arguments.flag(name, "ensemble", ensemble):
        return predict(_read(x, axes, (None, None)), _steps(axes, (None, None)))
    parts = (
        _weighted(predict(_read(x, axes, corner), _steps(axes, corner)), axes, corner)
        for corner in itertools.product((0, 1), repeat=2)
    )
    return functools.reduce(jnp.add, parts)


def output_places(n: int, m: int) -> np.ndarray:
    """Where the centers of m output pixels lie on an axis of n."""
    return (2 * np.arange(m) + 1) * n / (2 * m) - 0.5


def nearest_pixels(n: int, m: int, side: int | None) -> np.ndarray:
    """For each of m output pixels, the pixel of n before it (side 0) or after it (side 1), or else the nearest."""
    # In whole numbers: a pixel's own center counts as before it.
    before = ((2 * np.arange(m) + 1) * n - m) // (2 * m)
    found = np.round(output_places(n, m)) if side is None else before + side
    return np.clip(found, 0, n - 1).astype(int)


def _shares(n: int, m: int, side: int | None) -> np.ndarray:
    """The share that each output pixel takes from the pixel on that side; the length to the other one decides."""
    own, other = (np.abs(output_places(n, m) - nearest_pixels(n, m, s)) for s in (side, 0 if side else 1))
    # Where both are the same pixel, at its center, they share alike.
    total = own + other
    return np.where(total > 0, other / np.where(total > 0, total, 1), 0.5)


@core((1, 2))
def _read(x: jax.Array, axes: Axes, sides: Sides) -> jax.Array:
    """The pixels on these sides of each output pixel."""
    taps = (
        Taps(n, nearest_pixels(n, m, side)[:, None], np.ones((m, 1))) for (n, m), side in zip(axes, sides, strict=True)
    )
    return resample(x, list(enumerate(taps, x.ndim - 3)))


@core((0, 1))
def _steps(axes: Axes, sides: Sides) -> jax.Array:
    """From those pixels to the output pixels, (H, W, 2), in halves of a pixel."""
    steps = (2 * (output_places(n, m) - nearest_pixels(n, m, side)) for (n, m), side in zip(axes, sides, strict=True))
    return jnp.asarray(np.stack(np.meshgrid(*steps, indexing="ij"), -1), floating())


@core((1, 2))
def _weighted(x: jax.Array, axes: Axes, sides: Sides) -> jax.Array:
    rows, columns = (_shares(n, m, side) for (n, m), side in zip(axes, sides, strict=True))
    weights = jnp.asarray((rows[:, None] * columns)[..., None], floating())
    return (x.astype(weights.dtype) * with_axes(weights, x.ndim)).astype(x.dtype)
