"""Upsampling by what a guide says of each pixel, as image matting does: index maps and affinities."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from upsampling import _arguments, convolution, interpolation, reassembly
from upsampling._arguments import Numbers
from upsampling.primitives import _common
from upsampling.primitives._common import accumulator, core, pad_edges, written_on_tpu
from upsampling.primitives.window_sum import Geometry, window_softmax, window_sum

_Arrays = tuple[jax.Array, ...]


def index_upsample(x: jax.Array, logits: jax.Array, *, scale: Numbers = 2, size: Numbers | None = None) -> jax.Array:
    """IndexNet's upsampling: the nearest pixel, times a learned index map, `sigmoid(logits)`.

    It is what max-unpooling does, with an index map that is not 0 or 1 and that the guide predicts.

    Args:
      x: (*batch, *spatial, channels), any number of batch axes, none included.
      logits: (*batch, *spatial * scale, channels), or 1 in place of the channels, for all of them.
      scale: the factor: one whole number for each of the 1 to 3 spatial axes, or one for two axes.
      size: that of the logits and the result, in place of `scale`, where it is not a whole number of times as large.

    Returns:
      (*batch, *spatial * scale, channels), in the dtype that the arguments promote to.

    Raises:
      ValueError: shapes that do not fit, or numbers out of range.
      TypeError: arrays that are not floating, or geometry that is not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.matting import index_upsample
    >>> index_upsample(jnp.array([[1.0], [2.0]]), jnp.array([[9.0], [0.0], [-9.0], [9.0]]), scale=(2,))[:, 0].round(2)
    Array([1. , 0.5, 0. , 2. ], dtype=float32)

    Source: Lu et al. 2019, arXiv:1908.00672, section 3.
    """
    name = "index_upsample"
    rank, factors, output = reassembly._scale_or_size(name, scale, size)
    x = _arguments.spatial_map(name, "x", x, rank)
    channels = 1 if jnp.shape(logits)[-1:] == (1,) else x.shape[-1]
    logits = _arguments.guide(name, logits, x, factors, channels, size=output, argument="logits")
    return _index_upsample(*_arguments.promote(x, logits), rank)


@core(2)
def _index_upsample(x: jax.Array, logits: jax.Array, rank: int) -> jax.Array:
    size = logits.shape[-1 - rank : -1]
    return jax.nn.sigmoid(logits) * interpolation._to_size(x, size, "nearest")


def a2u(
    x: jax.Array,
    logits: jax.Array,
    *,
    scale: Numbers = 2,
    size: Numbers | None = None,
    kernel_size: Numbers = 3,
) -> jax.Array:
    """A2U's upsampling: weights from affinities that a guide predicts, `softmax(sigmoid(logits))` over each window.

    The sigmoid bounds the logits, so that no weight is more than e times another. Beyond the image `x` is zero.

    Args:
      x: (*batch, *spatial, channels), any number of batch axes, none included.
      logits: (*batch, *spatial * scale, prod(kernel_size)), such as `affinity_logits` makes.
      scale: the factor: one whole number for each of the 1 to 3 spatial axes, or one for two axes.
      size: that of the logits and the result, in place of `scale`, where it is not a whole number of times as large.
        The window of an output pixel is then around the pixel that PyTorch's nearest interpolation takes for it.
      kernel_size: the window, odd, one number or one per axis. With 1 the weights are the sigmoids.

    Returns:
      (*batch, *spatial * scale, channels), in the dtype that the arguments promote to.

    Raises:
      ValueError: shapes that do not fit, a window of even size, or numbers out of range.
      TypeError: arrays that are not floating, or geometry that is not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.matting import a2u
    >>> a2u(jnp.array([[9.0], [9.0], [0.0]]), jnp.zeros((6, 3)), scale=(2,), kernel_size=3)[:, 0]  # the mean
    Array([6., 6., 6., 6., 3., 3.], dtype=float32)

    Source: Dai et al. 2021, arXiv:2011.14288, section 3.
    """
    name = "a2u"
    rank, factors, output = reassembly._scale_or_size(name, scale, size)
    x = _arguments.spatial_map(name, "x", x, rank)
    window = _arguments.odd(name, "kernel_size", kernel_size, rank)
    taps = math.prod(window)
    logits = _arguments.guide(name, logits, x, factors, taps, size=output, argument="logits")
    return _a2u(x, logits, window)


@core(2)
def _a2u(x: jax.Array, logits: jax.Array, window: tuple[int, ...]) -> jax.Array:
    rank = len(window)
    weights = jax.nn.sigmoid(logits.astype(accumulator(logits.dtype)))
    weights = weights.reshape(*logits.shape[:-1], 1, *window)
    if math.prod(window) > 1:
        weights = window_softmax(weights, rank)
    geometry = reassembly._around_nearest(x.shape[-1 - rank : -1], logits.shape[-1 - rank : -1], window)
    return window_sum(*_arguments.promote(x, weights.astype(jnp.result_type(x, logits))), geometry, "zero")


def affinity_logits(first: jax.Array, second: jax.Array, prediction: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """A2U's logits from two features of each cell of 2x2 pixels, and the image's own prediction from their affinity.

    The affinity of a cell is `<first, second> / sqrt(channels)`. Each of the cell's four pixels has, for each tap of
    its window, a number of the prediction times that.

    Args:
      first, second: (*batch, h, w, channels).
      prediction: (*batch, taps * 4), taps, then rows and columns of the cell.
      size: at most (2 * h, 2 * w), to which the result is cropped.

    Returns:
      (*batch, *size, taps).

    Raises:
      ValueError: shapes that do not fit.
      TypeError: arrays that are not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.matting import affinity_logits
    >>> affinity_logits(jnp.ones((1, 2, 4)), jnp.ones((1, 2, 4)), jnp.arange(4.0), (2, 3))[..., 0]
    Array([[0., 2., 0.],
           [4., 6., 4.]], dtype=float32)

    Source: Dai et al. 2021, arXiv:2011.14288, section 3.2, and the authors' code.
    """
    name = "affinity_logits"
    first = _arguments.spatial_map(name, "first", first)
    second = _arguments.shaped(name, "second", second, first.shape, "that of first")
    prediction = _arguments.shaped(name, "prediction", prediction, (*first.shape[:-3], "taps * 4"))
    size = _arguments.per_axis(name, "size", size, 2)
    if prediction.shape[-1] % 4 or any(m > 2 * n for n, m in zip(first.shape[-3:-1], size, strict=True)):
        raise ValueError(
            f"{name}: prediction must have 4 numbers for each tap, and size be at most twice that of first "
            f"{first.shape[-3:-1]}; got shape {prediction.shape} and size={size}."
        )
    return _affinity_logits(*_arguments.promote(first, second, prediction), size)


@core(3)
def _affinity_logits(first: jax.Array, second: jax.Array, prediction: jax.Array, size: tuple[int, ...]) -> jax.Array:
    dtype, wide = first.dtype, accumulator(first.dtype)
    affinity = jnp.sum(first.astype(wide) * second.astype(wide), -1, keepdims=True) / math.sqrt(first.shape[-1])
    # A TPU would write the prediction for each pixel, with small axes last.
    logits = written_on_tpu(affinity * prediction.astype(wide)[..., None, None, :])
    logits = convolution._pixel_shuffle(logits, (2, 2), "CRD")
    return logits[..., : size[0], : size[1], :].astype(dtype)


def cell_convolution(x: jax.Array, kernels: jax.Array) -> jax.Array:
    """A convolution of stride 2 with a kernel for each image, the same for all channels or one for each.

    Windows are centered on cells of 2x2 pixels, beyond the image is zero: PyTorch's with padding `(k - 1) // 2`.

    Args:
      x: (*batch, H, W, channels), H and W even.
      kernels: (*batch, k, k, 1) or (*batch, k, k, channels).

    Returns:
      (*batch, H / 2, W / 2, channels).

    Raises:
      ValueError: shapes that do not fit.
      TypeError: arrays that are not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.matting import cell_convolution
    >>> cell_convolution(jnp.arange(8.0).reshape(2, 4, 1), jnp.ones((2, 2, 1)))[..., 0]
    Array([[10., 18.]], dtype=float32)

    Source: Dai et al. 2021, arXiv:2011.14288, section 3.2.
    """
    name = "cell_convolution"
    x = _arguments.spatial_map(name, "x", x)
    channels = 1 if jnp.shape(kernels)[-1:] == (1,) else x.shape[-1]
    kernels = _arguments.shaped(name, "kernels", kernels, (*x.shape[:-3], "k", "k", channels))
    if x.shape[-3] % 2 or x.shape[-2] % 2 or 0 in kernels.shape[-3:]:
        raise ValueError(
            f"{name}: x must have even height and width, and kernels must not be empty; got shapes {x.shape} and "
            f"{kernels.shape}."
        )
    return _cell_convolutions(*_arguments.promote(x, kernels))[0]


@core()
def _cell_convolutions(x: jax.Array, *kernels: jax.Array) -> _Arrays:
    """One for each of the kernels, which are of one size."""

    def apart(form: Callable[..., jax.Array]) -> Callable[..., _Arrays]:
        return lambda x, *kernels: tuple(form(x, k) for k in kernels)

    # What the taps of windows read is written, as many maps as taps in a row.
    large = not _arguments.is_static(*x.shape) or x.size * x.dtype.itemsize > _common.TILE_BYTES
    by_taps, default = apart(_by_taps), apart(_by_taps if large else _by_windows)
    on_tpu = _by_convolution if _arguments.is_static(*x.shape) and x.size else default
    return lax.platform_dependent(x, *kernels, cuda=by_taps, rocm=by_taps, tpu=on_tpu, default=default)


def _by_taps(x: jax.Array, kernels: jax.Array) -> jax.Array:
    """A sum over the taps, each of which reads every second pixel: one pass, and no array but the padded x."""
    *batch, height, width, _ = x.shape
    dtype, k, axes = accumulator(x.dtype), kernels.shape[-2], (len(batch), len(batch) + 1)
    low = (k - 1) // 2
    margins = [(0, 0, 0)] * len(batch) + [(low, max(k - 2 - low, 0), 0)] * 2 + [(0, 0, 0)]
    x, kernels = lax.pad(x, jnp.zeros((), x.dtype), margins), kernels.astype(dtype)
    terms = []
    for tap in np.ndindex(k, k):
        read = x
        for axis, first, n in zip(axes, tap, (height, width), strict=True):
            read = lax.slice_in_dim(read, first, first + n - 1, 2, axis)
        weight = kernels[(..., *tap, slice(None))]
        terms.append(read.astype(dtype) * weight.reshape(*batch, 1, 1, weight.shape[-1]))
    return functools.reduce(jnp.add, terms).astype(x.dtype)


def _by_windows(x: jax.Array, kernels: jax.Array) -> jax.Array:
    """A sum over windows of cells whose four pixels are groups of channels: its gradient is faster on a CPU."""
    *batch, height, width, channels = x.shape
    k = kernels.shape[-2]
    low = (k - 1) // 2
    reach = max(-(-low // 2), (k - 1 - low) // 2)
    margin = (2 * reach - low, 2 * reach + 2 - (k - low))
    kernels = jnp.pad(kernels, [(0, 0)] * len(batch) + [margin, margin, (0, 0)])
    window = 2 * reach + 1
    kernels = kernels.reshape(*batch, window, 2, window, 2, kernels.shape[-1])
    first = len(batch)
    order = (*range(first), first + 1, first + 3, first + 4, first, first + 2)
    weights = kernels.transpose(order).reshape(*batch, 1, 1, 4 * kernels.shape[-1], window, window)
    cells = convolution._pixel_unshuffle(x, (2, 2), "DCR")
    size = (height // 2, width // 2)
    weights = jnp.broadcast_to(weights, (*batch, *size, *weights.shape[-3:]))
    geometry = Geometry(size, (1, 1), (), (window, window), (1, 1), weights.shape[-3])
    y = window_sum(cells, weights, geometry, "zero")
    return y.reshape(*batch, *size, 4, channels).astype(accumulator(x.dtype)).sum(-2).astype(x.dtype)


def _by_convolution(x: jax.Array, *kernels: jax.Array) -> _Arrays:
    """One strided convolution, of which each channel of each image is a group: on a TPU a quarter of the time.

    `x` is in it once for each of the kernels: with several results for a group the compiler does not see, of its
    gradient, that channels stay apart, and multiplies by zeros.
    """
    *batch, height, width, channels = x.shape
    images, k, count = math.prod(batch), kernels[0].shape[-2], len(kernels)
    low = (k - 1) // 2

    def side_by_side(arrays: Sequence[jax.Array]) -> jax.Array:
        """(*batch, rows, columns, channels) of each -> (rows, columns, groups), images first, as devices share them."""
        a = jnp.stack([jnp.broadcast_to(a, (*a.shape[:-1], channels)) for a in arrays], len(batch))
        a = jnp.moveaxis(a.reshape(images * count, *a.shape[-3:]), 0, 2)
        return a.reshape(*a.shape[:2], -1)

    y = lax.conv_general_dilated(
        side_by_side([x] * count)[None],
        side_by_side(kernels)[:, :, None],
        (2, 2),
        [(low, max(k - 2 - low, 0))] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=count * images * channels,
        precision=lax.Precision.HIGHEST,
    )
    y = jnp.moveaxis(y.reshape(height // 2, width // 2, images * count, channels), 2, 0)
    y = y.reshape(*batch, count, *y.shape[1:])
    return tuple(lax.index_in_dim(y, n, len(batch), keepdims=False) for n in range(count))


def whole_cells(x: jax.Array) -> jax.Array:
    """(*batch, H, W, channels) with an even number of rows and columns: the last ones are repeated where they are odd.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.matting import whole_cells
    >>> whole_cells(jnp.arange(3.0).reshape(1, 3, 1))[..., 0]
    Array([[0., 1., 2., 2.],
           [0., 1., 2., 2.]], dtype=float32)
    """
    return _whole_cells(_arguments.spatial_map("whole_cells", "x", x))


@core()
def _whole_cells(x: jax.Array) -> jax.Array:
    rows, columns = (-n % 2 for n in x.shape[-3:-1])
    return pad_edges(x, [(0, 0)] * (x.ndim - 3) + [(0, rows), (0, columns), (0, 0)])
