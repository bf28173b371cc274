"""Frequency-aware upsampling, as in FreqFusion: filters predicted for each pixel, and moves of each pixel."""

import jax
import jax.numpy as jnp
import numpy as np

from upsampling import _arguments, reassembly, sampling
from upsampling._arguments import Edge, Numbers
from upsampling.primitives._common import accumulator, core, with_axes
from upsampling.primitives.window_sum import Geometry, window_correlation, window_softmax, window_sum


def low_pass(
    x: jax.Array,
    logits: jax.Array,
    *,
    scale: Numbers = 2,
    size: Numbers | None = None,
    hamming: bool = True,
    edge: Edge = "zero",
) -> jax.Array:
    """Smooths, and enlarges, a map with a low-pass filter predicted for each output pixel.

    The filter is `softmax(logits)` over a square window, times a Hamming window, and again with the sum of one. What it
    takes away from a map, `x - low_pass(x, logits, scale=1)`, is its high frequencies.

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      logits: (*batch, h * scale, w * scale, k * k), k odd.
      scale: the factor, one whole number or one per axis.
      size: that of the logits and the result, in place of `scale`, as in `sapa`.
      hamming: whether the weights are multiplied by a Hamming window.
      edge: what lies beyond the image, as in `reassemble`. The authors' code has zeros with mmcv, and "reflect" where
        mmcv is missing.

    Returns:
      (*batch, h * scale, w * scale, channels), in the dtype that the arguments promote to.

    Raises:
      ValueError: shapes that do not fit, a number of taps that is no odd square, or an unknown edge.
      TypeError: arrays that are not floating, or geometry that is not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.frequency import low_pass
    >>> x = jnp.zeros((1, 5, 1)).at[0, 2].set(1.0)
    >>> y = low_pass(x, jnp.zeros((1, 5, 9)), scale=1)[0, :, 0]  # Hamming's window is 0.08, 1, 0.08
    >>> [f"{value:.3f}" for value in y]
    ['0.000', '0.059', '0.743', '0.059', '0.000']

    Source: Chen et al. 2024, arXiv:2408.12879, sections 3.2 and 3.4, and the authors' code.
    """
    name = "low_pass"
    _, factors, output = reassembly._scale_or_size(name, scale, size)
    x = _arguments.spatial_map(name, "x", x)
    taps = jnp.shape(logits)[-1] if jnp.ndim(logits) else 0
    side = round(taps**0.5)
    if side**2 != taps or side % 2 == 0:
        raise ValueError(f"{name}: logits must have k * k channels, k odd; got {taps}.")
    logits = _arguments.guide(name, logits, x, factors, taps, size=output, argument="logits")
    hamming = _arguments.flag(name, "hamming", hamming)
    return _low_pass(x, logits, side, hamming, _arguments.one_of(name, "edge", edge, _arguments.EDGES))


@core((2, 3, 4))
def _low_pass(x: jax.Array, logits: jax.Array, side: int, hamming: bool, edge: Edge) -> jax.Array:
    size = logits.shape[-3:-1]
    window = np.log(np.hamming(side)) if hamming and side > 1 else np.zeros(side)
    tables = [np.broadcast_to(window, (n, side)) for n in size]
    # Weights times the window, again with the sum of one: a softmax with the window's logarithm added.
    weights = window_softmax(logits.reshape(*logits.shape[:-1], 1, side, side), 2, *tables)
    geometry = reassembly._around_nearest(x.shape[-3:-1], size, (side, side))
    return window_sum(*_arguments.promote(x, weights), geometry, edge)


def neighbor_cosines(x: jax.Array, *, dilation: int = 2) -> jax.Array:
    """The cosine of the angle between each pixel's channels and those of its eight neighbors, `dilation` pixels away.

    Beyond the image it is zero.

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included.
      dilation: how far away the neighbors are, in pixels.

    Returns:
      (*batch, H, W, 8), rows of neighbors from the upper left to the lower right.

    Raises:
      ValueError: too few axes, an empty image, or a dilation below 1.
      TypeError: an array that is not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.frequency import neighbor_cosines
    >>> neighbor_cosines(jnp.array([[[3.0, 0.0], [1.0, 1.0]]]), dilation=1)[0, 0, 4].round(3)  # to the right
    Array(0.707, dtype=float32)

    Source: Chen et al. 2024, arXiv:2408.12879, section 3.3.
    """
    name = "neighbor_cosines"
    x = _arguments.spatial_map(name, "x", x)
    return _neighbor_cosines(x, _arguments.number(name, "dilation", dilation))


@core(1)
def _neighbor_cosines(x: jax.Array, dilation: int) -> jax.Array:
    wide = x.astype(accumulator(x.dtype))
    # PyTorch's bound. The root of zero has no derivative.
    squares = jnp.maximum(jnp.sum(wide**2, -1, keepdims=True), 1e-16)
    directions = (wide * jax.lax.rsqrt(squares)).astype(x.dtype)
    geometry = Geometry(x.shape[-3:-1], (1, 1), (), (3, 3), (dilation, dilation), 1)
    cosines = window_correlation(directions, directions, geometry, "zero")
    cosines = cosines.reshape(*x.shape[:-1], 9)
    return jnp.concatenate([cosines[..., :4], cosines[..., 5:]], -1)


def shifted(x: jax.Array, offsets: jax.Array, *, step: Numbers = 2) -> jax.Array:
    """Samples each pixel, in each channel group, where an offset moves it to.

    Args:
      x: (*batch, H, W, channels), any number of batch axes, none included.
      offsets: (*batch, H, W, groups, 2), rows and columns, in `step` pixels. `groups` divides the channels; group g
        moves the g-th block of them. Beyond the image's edge its nearest pixel is repeated.
      step: what an offset of one moves by, in pixels, one number or one per axis; a pixel of the map before it was
        enlarged, in FreqFusion.

    Returns:
      (*batch, H, W, channels), in the dtype of `x`.

    Raises:
      ValueError: shapes that do not fit, or groups that do not divide the channels.
      TypeError: arrays that are not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.frequency import shifted
    >>> x = jnp.arange(4.0).reshape(1, 4, 1)
    >>> shifted(x, jnp.full((1, 4, 1, 2), 0.25))[0, :, 0]
    Array([0.5, 1.5, 2.5, 3. ], dtype=float32)

    Source: Chen et al. 2024, arXiv:2408.12879, section 3.3.
    """
    name = "shifted"
    x = _arguments.spatial_map(name, "x", x)
    offsets = _arguments.shaped(name, "offsets", offsets, (*x.shape[:-1], "groups", 2), f"for x of shape {x.shape}")
    _arguments.divisor(name, "the groups of offsets", offsets.shape[-2], channels=x.shape[-1])
    return _shifted(x, offsets, _arguments.per_axis(name, "step", step, 2, real=True))


@core(2)
def _shifted(x: jax.Array, offsets: jax.Array, step: tuple[float, float]) -> jax.Array:
    dtype = accumulator(x.dtype, offsets.dtype)
    places = [jnp.arange(n, dtype=dtype) for n in x.shape[-3:-1]]
    own = jnp.stack(jnp.meshgrid(*places, indexing="ij"), axis=-1)[..., None, :]
    moves = offsets.astype(dtype) * with_axes(jnp.asarray(step, dtype), offsets.ndim)
    return sampling._sample_groups(x, with_axes(own, offsets.ndim) + moves, "bilinear", "replicate")
