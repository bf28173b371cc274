"""Learned upsampling whose weights are the same everywhere: transposed, adjoint and sub-pixel convolutions.

All are one linear map, the transposed convolution of `primitives.transposed_conv` with other geometry, and a pixel
shuffle.
"""

import functools
import itertools
import math
import numbers
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from upsampling import _arguments
from upsampling._arguments import Numbers, Padding
from upsampling.primitives._common import accumulator, core, with_axes, written_on_tpu
from upsampling.primitives.transposed_conv import Geometry, convolve, full_size
from upsampling.primitives.transposed_conv import transposed_conv as apply_transposed_conv

ChannelOrder = Literal["CRD", "DCR"]
"""Which runs slowest in the channels before a pixel shuffle: the output's channels, or the pixels of the block."""


@_arguments.hinted
def transposed_conv(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Numbers = 2,
    padding: Padding = "SAME",
    output_padding: Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    output_size: Numbers | None = None,
) -> jax.Array:
    """Transposed convolution: every input pixel adds its multiple of `kernel` to the output, `strides` pixels apart.

    Along each axis, with full result `f[i * stride + j * dilation] += x[i] * kernel[j]`, the output is `f` less
    `padding`. The kernel is not flipped, as in PyTorch, TensorFlow, Keras and ONNX.

    Args:
      x: (*batch, *spatial, in), any number of batch axes, none included.
      kernel: (*window, in // groups, out). Its window decides the number of spatial axes, 1 to 3. A PyTorch weight
        (in, out // groups, *window) of a convolution without groups transposes to it.
      bias: (out,), added to every pixel.
      strides: output pixels from one input pixel to the next, one number or one per axis.
      padding: pixels cropped from the full result: one number, one per axis, or a (low, high) pair per axis. "VALID"
        crops nothing. "SAME" gives `size * strides`. "CIRCULAR" does too, with what falls over an edge wrapped round
        to the other side.
      output_padding: pixels cropped less at the high end, below `max(strides, dilation)`.
      dilation: pixels between the taps of the kernel.
      groups: number of channel groups that do not mix. Output block `n` of `out // groups` reads input block `n`.
      output_size: the output's spatial size, one number or one per axis, in place of `output_padding`. With pixels as
        padding it is what `output_padding` can make of it, as in PyTorch; with "SAME" anything from
        `(size - 1) * strides` to `size * strides`, cropped alike on both sides, one pixel more at the high end, as in
        TensorFlow and by the `output_padding` of Keras.

    Returns:
      (*batch, *transposed_conv_size(...), out), in the dtype that the arguments promote to. Half precision accumulates
      in float32.

    Raises:
      ValueError: shapes that do not fit, numbers out of range, a padding that leaves nothing, or an `output_size` that
        the other arguments do not allow.
      TypeError: arrays that are not floating, or geometry that is not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> up.transposed_conv(jnp.array([[1.0], [2.0]]), jnp.ones((3, 1, 1)), strides=2, padding="VALID")[:, 0]
    Array([1., 1., 3., 2., 2.], dtype=float32)

    Source: Zeiler et al. 2010, "Deconvolutional networks"; Dumoulin and Visin 2016, arXiv:1603.07285, chapter 4.
    """
    name = "transposed_conv"
    kernel, rank = _kernel(name, kernel)
    strides, dilation = _spacing(name, strides, dilation, rank)
    groups = _arguments.divisor(name, "groups", groups, out=kernel.shape[-1])
    x, bias = _map_and_bias(name, x, bias, kernel, groups)
    given, window = x.shape[-1 - rank : -1], kernel.shape[:rank]
    low, size = _crop(name, given, window, strides, padding, output_padding, dilation)
    if output_size is not None:
        _arguments.static_size(name, "x", x, rank)
        low, size = _crop_to(name, given, window, strides, padding, output_padding, dilation, output_size)
    geometry = Geometry(strides, dilation, low, size, groups)
    return _transposed_conv(*_arguments.promote(x, kernel, bias), geometry, _is_circular(name, "x", x, rank, padding))


@_arguments.hinted
def transposed_conv_size(
    size: Numbers,
    kernel_size: Numbers,
    strides: Numbers = 2,
    padding: Padding = "SAME",
    output_padding: Numbers = 0,
    dilation: Numbers = 1,
) -> tuple[int, ...]:
    """The output's spatial size of `transposed_conv`, with the same defaults.

    It is `size * strides` with padding "SAME", the default, and "CIRCULAR". With the (low, high) pixels of a number or
    of pairs it is `(size - 1) * stride - low - high + dilation * (kernel_size - 1) + 1 + output_padding`.

    Args:
      size: the input's spatial size, one number per axis. A single number means one axis.
      kernel_size, strides, padding, output_padding, dilation: as in `transposed_conv`.

    Returns:
      The output's spatial size, one number per axis.

    Raises:
      ValueError, TypeError: what `transposed_conv` raises.

    Example: a much-read introduction to segmentation takes a 2×2 map through a 3×3 kernel with stride 2 and without
    padding, and prints a 4×4 result. The two pixels' kernels begin at 0 and 2 and are 3 wide, so the result is 5 wide:

    >>> import upsampling as up
    >>> up.transposed_conv_size((2, 2), kernel_size=3, strides=2, padding=0)
    (5, 5)

    "SAME" crops to size times stride, and this gives the 4 that was printed:

    >>> up.transposed_conv_size((2, 2), kernel_size=3, strides=2, padding="SAME")
    (4, 4)

    PyTorch's `ConvTranspose2d(3, 3, 3, stride=2, padding=1)` crops one pixel on every side:

    >>> up.transposed_conv_size((2, 2), kernel_size=3, strides=2, padding=1)
    (3, 3)

    The arrays agree:

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.ones((2, 2, 3)), jnp.ones((3, 3, 3, 3))
    >>> [up.transposed_conv(x, kernel, strides=2, padding=padding).shape for padding in (0, "SAME", 1)]
    [(5, 5, 3), (4, 4, 3), (3, 3, 3)]

    Source: Dumoulin and Visin 2016, arXiv:1603.07285, relationship 14.
    """
    name = "transposed_conv_size"
    size = _arguments.per_axis(name, "size", size, 1 if isinstance(size, numbers.Integral) else None)
    window = _arguments.per_axis(name, "kernel_size", kernel_size, len(size))
    strides, dilation = _spacing(name, strides, dilation, len(size))
    return _crop(name, size, window, strides, padding, output_padding, dilation)[1]


@_arguments.hinted
def deconv(
    y: jax.Array,
    kernel: jax.Array,
    *,
    strides: Numbers = 2,
    padding: Padding = "SAME",
    dilation: Numbers = 1,
    groups: int = 1,
    output_size: Numbers | None = None,
) -> jax.Array:
    """The exact adjoint of the strided convolution with the same kernel: `<conv(x), y> = <x, deconv(y)>`.

    The convolution is that of `flax.nnx.Conv` and of PyTorch (a cross-correlation), here with the same arguments.

    Args:
      y: (*batch, *spatial, out), what the convolution puts out; any number of batch axes, none included.
      kernel: (*window, in // groups, out), the convolution's own. Its window decides the number of spatial axes.
      strides, dilation, groups: the convolution's.
      padding: the convolution's: one number, one per axis, a (low, high) pair per axis, "VALID", "SAME" or "CIRCULAR".
      output_size: the size of what the convolution took, one number or one per axis. A strided convolution maps up to
        `stride` sizes to one; without this, "SAME" and "CIRCULAR" give `size * strides`, the others the smallest.

    Returns:
      (*batch, *output_size, in), in the dtype that the arguments promote to. Half precision accumulates in float32.

    Raises:
      ValueError: shapes that do not fit, numbers out of range, or an `output_size` that the convolution does not map
        to the size of `y`.
      TypeError: arrays that are not floating, or geometry that is not whole numbers.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> import upsampling as up
    >>> kernel = jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    >>> conv = lambda x: jax.lax.conv_general_dilated(x, kernel, (2,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))
    >>> x, y = jnp.arange(6.0).reshape(1, 6, 1), jnp.array([2.0, 3.0, 5.0]).reshape(1, 3, 1)
    >>> float(jnp.vdot(conv(x), y)), float(jnp.vdot(x, up.deconv(y, kernel, strides=2)))
    (146.0, 146.0)

    Source: Zeiler et al. 2010, "Deconvolutional networks"; Shi et al. 2016, arXiv:1609.07009, section 2.
    """
    name = "deconv"
    kernel, rank = _kernel(name, kernel)
    strides, dilation = _spacing(name, strides, dilation, rank)
    groups = _arguments.divisor(name, "groups", groups, out=kernel.shape[-1])
    what = f"as the convolution with the kernel {kernel.shape} puts out"
    y = _arguments.spatial_map(name, "y", y, rank, channels=kernel.shape[-1], what=what)
    if output_size is not None:
        _arguments.static_size(name, "y", y, rank)
    low, size = _adjoint_crop(
        name, y.shape[-1 - rank : -1], kernel.shape[:rank], strides, padding, dilation, output_size
    )
    geometry = Geometry(strides, dilation, low, size, groups)
    y, kernel = _arguments.promote(y, kernel)
    return _transposed_conv(
        y, _swap_channels(kernel, groups), None, geometry, _is_circular(name, "y", y, rank, padding)
    )


@_arguments.hinted
def pixel_shuffle(x: jax.Array, scale: Numbers, *, order: ChannelOrder = "CRD") -> jax.Array:
    """Moves each group of `prod(scale)` channels into a block of `scale` pixels.

    Args:
      x: (*batch, *spatial, channels * prod(scale)), any number of batch axes, none included.
      scale: the factor: one number for each spatial axis, or one number for two axes.
      order: how the input's channels run. "CRD": output channel first, then row and column in the block, as in
        PyTorch's `PixelShuffle`. "DCR": row and column first, as in TensorFlow's `depth_to_space`. The names
        are ONNX's.

    Returns:
      (*batch, *spatial * scale, channels), in the dtype of `x`.

    Raises:
      ValueError: channels that `prod(scale)` does not divide, too few axes, or an unknown order.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> up.pixel_shuffle(jnp.arange(8).reshape(1, 2, 4), 2)[..., 0]
    Array([[0, 1, 4, 5],
           [2, 3, 6, 7]], dtype=int32)

    Source: Shi et al. 2016, arXiv:1609.05158, equation 4.
    """
    x, scale = _shuffle_arguments("pixel_shuffle", x, scale, order)
    if x.shape[-1] % math.prod(scale):
        raise ValueError(
            f"pixel_shuffle: x must have a multiple of {math.prod(scale)} channels for scale={scale}; got {x.shape}."
        )
    return _pixel_shuffle(x, scale, order)


@_arguments.hinted
def pixel_unshuffle(x: jax.Array, scale: Numbers, *, order: ChannelOrder = "CRD") -> jax.Array:
    """Moves each block of `scale` pixels into channels: the inverse of `pixel_shuffle`.

    Args:
      x: (*batch, *spatial * scale, channels), any number of batch axes, none included.
      scale: the factor: one number for each spatial axis, or one number for two axes.
      order: how the output's channels run, as in `pixel_shuffle`.

    Returns:
      (*batch, *spatial, channels * prod(scale)), in the dtype of `x`.

    Raises:
      ValueError: a spatial size that `scale` does not divide, too few axes, or an unknown order.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> up.pixel_unshuffle(jnp.arange(8).reshape(2, 4, 1), 2)
    Array([[[0, 1, 4, 5],
            [2, 3, 6, 7]]], dtype=int32)

    Source: Shi et al. 2016, arXiv:1609.05158.
    """
    x, scale = _shuffle_arguments("pixel_unshuffle", x, scale, order)
    spatial = x.shape[-1 - len(scale) : -1]
    if any(n % s for n, s in zip(spatial, scale, strict=True)):
        raise ValueError(f"pixel_unshuffle: scale={scale} must divide the spatial size of x; got {spatial}.")
    return _pixel_unshuffle(x, scale, order)


@_arguments.hinted
def sub_pixel_conv(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, scale: Numbers = 2, padding: Padding = "SAME"
) -> jax.Array:
    """Convolves at low resolution to `prod(scale)` times the channels, then shuffles those into pixels.

    Args:
      x: (*batch, *spatial, in), any number of batch axes, none included.
      kernel: (*window, in, out * prod(scale)), with the channels in PyTorch's order (see `pixel_shuffle`).
      bias: (out * prod(scale),), added before the shuffle.
      scale: the factor, one number or one per axis.
      padding: the convolution's: one number, one per axis, a (low, high) pair per axis, "VALID", "SAME" or "CIRCULAR".

    Returns:
      (*batch, *spatial * scale, out) for "SAME" and "CIRCULAR", in the dtype that the arguments promote to.
      Half precision accumulates in float32.

    Raises:
      ValueError: shapes that do not fit, numbers out of range, or a window larger than the padded input.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> up.sub_pixel_conv(jnp.ones((8, 8, 16)), jnp.ones((3, 3, 16, 3 * 4)), scale=2).shape
    (16, 16, 3)

    Source: Shi et al. 2016, arXiv:1609.05158.
    """
    name = "sub_pixel_conv"
    kernel, rank = _kernel(name, kernel)
    scale = _arguments.per_axis(name, "scale", scale, rank)
    x, bias = _map_and_bias(name, x, bias, kernel, 1)
    if kernel.shape[-1] % math.prod(scale):
        raise ValueError(
            f"{name}: kernel must have a multiple of {math.prod(scale)} output channels for scale={scale}; "
            f"got {kernel.shape}."
        )
    pads = _conv_padding(name, x.shape[-1 - rank : -1], kernel.shape[:rank], padding)
    return _sub_pixel_conv(*_arguments.promote(x, kernel, bias), scale, pads, _is_circular(name, "x", x, rank, padding))


# Arguments.


def _is_circular(function: str, argument: str, x: jax.Array, rank: int, padding: Padding) -> bool:
    """Whether pixels are wrapped around; raises TypeError for symbolic sizes, on which that depends."""
    circular = isinstance(padding, str) and padding == "CIRCULAR"
    if circular:
        _arguments.static_size(function, argument, x, rank)
    return circular


def _kernel(function: str, kernel: Any) -> tuple[jax.Array, int]:
    """The kernel as a JAX array, and its number of spatial axes."""
    kernel = _arguments.array(function, "kernel", kernel)
    if kernel.ndim not in (3, 4, 5) or 0 in kernel.shape[:-2]:
        raise ValueError(
            f"{function}: kernel must be (*window, in, out) with 1, 2 or 3 window axes, none empty; got {kernel.shape}."
        )
    return kernel, kernel.ndim - 2


def _map_and_bias(
    function: str, x: Any, bias: Any, kernel: jax.Array, groups: int
) -> tuple[jax.Array, jax.Array | None]:
    """The input and the bias, checked to fit the kernel."""
    *_, inner, out = kernel.shape
    what = f"{inner} in each of groups={groups} for the kernel {kernel.shape}"
    x = _arguments.spatial_map(function, "x", x, kernel.ndim - 2, channels=inner * groups, what=what)
    if bias is not None:
        bias = _arguments.shaped(function, "bias", bias, (out,), "one number per output channel")
    return x, bias


def _spacing(function: str, strides: Any, dilation: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (
        _arguments.per_axis(function, "strides", strides, rank),
        _arguments.per_axis(function, "dilation", dilation, rank),
    )


def _padding(function: str, padding: Any, rank: int) -> str | tuple[tuple[int, int], ...]:
    """Either "SAME" or "CIRCULAR", or a (low, high) pair per axis."""
    padding = _arguments.padding(function, padding, rank, names=("SAME", "VALID", "CIRCULAR"))
    return ((0, 0),) * rank if padding == "VALID" else padding


def _crop(
    function: str, size: tuple, window: tuple, strides: tuple, padding: Any, output_padding: Any, dilation: tuple
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is cropped before the first pixel of the full result, and the size of the output."""
    pads = _padding(function, padding, len(size))
    more = _arguments.per_axis(function, "output_padding", output_padding, len(size), minimum=0)
    if isinstance(pads, str):
        if any(more):
            raise ValueError(
                f"{function}: output_padding must be 0 with padding={pads!r}, which fixes the output's size; "
                f"got {output_padding!r}."
            )
        extents = _extents(window, dilation)
        low = tuple(max(e - s, 0) // 2 for e, s in zip(extents, strides, strict=True))
        return low, tuple(n * s for n, s in zip(size, strides, strict=True))
    if any(m >= max(s, d) for m, s, d in zip(more, strides, dilation, strict=True)):
        raise ValueError(
            f"{function}: output_padding must be below the larger of stride and dilation on each axis; "
            f"got {output_padding!r} with strides={strides} and dilation={dilation}."
        )
    full = full_size(size, window, strides, dilation)
    result = tuple(n - low - high + m for n, (low, high), m in zip(full, pads, more, strict=True))
    if any(n < 1 for n in result):
        raise ValueError(f"{function}: padding={pads!r} leaves nothing of the full result of size {full}.")
    return tuple(low for low, _ in pads), result


def _crop_to(
    function: str,
    size: tuple,
    window: tuple,
    strides: tuple,
    padding: Any,
    output_padding: Any,
    dilation: tuple,
    output_size: Any,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`_crop` to an explicit size."""
    result = _arguments.per_axis(function, "output_size", output_size, len(size))
    pads = _padding(function, padding, len(size))
    if any(_arguments.per_axis(function, "output_padding", output_padding, len(size), minimum=0)):
        raise ValueError(
            f"{function}: give one of output_padding and output_size; got {output_padding!r} and {result}."
        )
    full = full_size(size, window, strides, dilation)
    if isinstance(pads, str):
        most = tuple(n * s for n, s in zip(size, strides, strict=True))
        least = most if pads == "CIRCULAR" else tuple(n - s for n, s in zip(most, strides, strict=True))
        low = tuple(max(n - m, 0) // 2 for n, m in zip(full, result, strict=True))
        if pads == "CIRCULAR":
            low = _crop(function, size, window, strides, padding, 0, dilation)[0]
    else:
        least = tuple(n - low - high for n, (low, high) in zip(full, pads, strict=True))
        most = tuple(n + max(s, d) - 1 for n, s, d in zip(least, strides, dilation, strict=True))
        low = tuple(low for low, _ in pads)
    if any(not bottom <= n <= top for bottom, n, top in zip(least, result, most, strict=True)):
        least = tuple(max(n, 1) for n in least)
        raise ValueError(f"{function}: output_size must be from {least} to {most} for x of size {size}; got {result}.")
    return low, result


def _adjoint_crop(
    function: str, size: tuple, window: tuple, strides: tuple, padding: Any, dilation: tuple, output_size: Any
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """As `_crop`, for the adjoint of the convolution that maps `output_size` to `size`."""
    pads, extents = _padding(function, padding, len(size)), _extents(window, dilation)
    if isinstance(pads, str):
        least = tuple((n - 1) * s + 1 for n, s in zip(size, strides, strict=True))
        default = tuple(n * s for n, s in zip(size, strides, strict=True))
    else:
        full = full_size(size, window, strides, dilation)
        least = tuple(n - low - high for n, (low, high) in zip(full, pads, strict=True))
        default = tuple(max(1, n) for n in least)
    most = tuple(n + s - 1 for n, s in zip(least, strides, strict=True))
    if any(n < 1 for n in most):
        raise ValueError(
            f"{function}: no convolution with padding={pads!r} and a window of {extents} pixels puts out {size}."
        )
    result = default if output_size is None else _arguments.per_axis(function, "output_size", output_size, len(size))
    if any(not low <= n <= high for low, n, high in zip(least, result, most, strict=True)):
        raise ValueError(
            f"{function}: output_size must be one that the convolution maps to {size}, from {least} to {most}; "
            f"got {result}."
        )
    if not isinstance(pads, str):
        return tuple(low for low, _ in pads), result
    if pads == "CIRCULAR":
        return tuple((e - 1) // 2 for e in extents), result
    full = full_size(size, window, strides, dilation)
    return tuple(max(n - r, 0) // 2 for n, r in zip(full, result, strict=True)), result


def _extents(window: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """The pixels from a kernel's first tap to its last."""
    return tuple(d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True))


def _conv_padding(function: str, size: tuple, window: tuple, padding: Any) -> tuple[tuple[int, int], ...]:
    """The pixels by which a convolution of stride 1 pads its input."""
    pads = _padding(function, padding, len(size))
    if isinstance(pads, str):
        pads = tuple(((k - 1) // 2, k // 2) for k in window)
    if any(n + low + high < k for n, k, (low, high) in zip(size, window, pads, strict=True)):
        raise ValueError(f"{function}: the kernel's window {window} is larger than the input {size} with its padding.")
    return pads


def _shuffle_arguments(function: str, x: Any, scale: Any, order: Any) -> tuple[jax.Array, tuple[int, ...]]:
    scale = _arguments.per_axis(function, "scale", scale, None)
    _arguments.one_of(function, "order", order, get_args(ChannelOrder))
    return _arguments.spatial_map(function, "x", x, len(scale), floating=False), scale


# Computation.


@core((3, 4))
def _transposed_conv(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, geometry: Geometry, circular: bool
) -> jax.Array:
    def compute(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if not circular:
            return apply_transposed_conv(geometry, x, kernel)
        rank, dtype, wide = len(geometry.strides), x.dtype, accumulator(x.dtype)
        size = full_size(x.shape[1:-1], kernel.shape[:rank], geometry.strides, geometry.dilation)
        full = geometry._replace(low=(0,) * rank, size=size)
        # Folded before it is rounded.
        y = apply_transposed_conv(full, x.astype(wide), kernel.astype(wide))
        return _wrap(y, geometry.low, geometry.size).astype(dtype)

    return _add_bias(compute, x, kernel, bias)


def _add_bias(
    compute: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, kernel: jax.Array, bias: jax.Array | None
) -> jax.Array:
    """`compute(x, kernel) + bias` with the batch axes of `x` merged into one, the sum in float32 at least."""
    rank, wide = kernel.ndim - 2, accumulator(x.dtype)
    batch = x.shape[: -1 - rank]
    # In the dtype of `x`: the primitive accumulates in float32, and a GPU would write a float32 map for it.
    y = compute(x.reshape(math.prod(batch), *x.shape[-1 - rank :]), kernel)
    if bias is not None:
        y = (y.astype(wide) + with_axes(bias.astype(wide), y.ndim)).astype(x.dtype)
    return y.reshape(*batch, *y.shape[1:])


def _wrap(y: jax.Array, low: tuple[int, ...], size: tuple[int, ...]) -> jax.Array:
    """Folds each spatial axis onto a circle of `size` pixels, on which pixel `low` of `y` is the first."""
    for axis, (first, n) in enumerate(zip(low, size, strict=True), start=1):
        turns = []
        for start in range(first % n - n if first % n else 0, y.shape[axis], n):
            part = lax.slice_in_dim(y, max(start, 0), min(start + n, y.shape[axis]), axis=axis)
            margin = [(0, 0, 0)] * y.ndim
            margin[axis] = (max(-start, 0), n - max(-start, 0) - part.shape[axis], 0)
            turns.append(lax.pad(part, jnp.zeros((), y.dtype), margin))
        y = functools.reduce(jnp.add, turns)
    return y


def _swap_channels(kernel: jax.Array, groups: int) -> jax.Array:
    """(*window, in // groups, out) -> (*window, out // groups, in), group by group."""
    *window, inner, out = kernel.shape
    kernel = kernel.reshape(*window, inner, groups, out // groups)
    return jnp.moveaxis(kernel, -1, -3).swapaxes(-1, -2).reshape(*window, out // groups, groups * inner)


@core((1, 2))
def _pixel_shuffle(x: jax.Array, scale: tuple[int, ...], order: str) -> jax.Array:
    rank = len(scale)
    *batch, channels = x.shape[: x.ndim - 1 - rank] + x.shape[-1:]
    spatial = x.shape[-1 - rank : -1]
    blocks = (channels // math.prod(scale), *scale) if order == "CRD" else (*scale, channels // math.prod(scale))
    x = x.reshape(math.prod(batch), *spatial, *blocks)
    block, channel = (2 + rank, 1 + rank) if order == "CRD" else (1 + rank, 1 + 2 * rank)
    axes = itertools.chain(*((1 + a, block + a) for a in range(rank)))
    x = x.transpose(0, *axes, channel)
    return x.reshape(*batch, *(n * s for n, s in zip(spatial, scale, strict=True)), x.shape[-1])


@core((1, 2))
def _pixel_unshuffle(x: jax.Array, scale: tuple[int, ...], order: str) -> jax.Array:
    rank = len(scale)
    batch, channels = x.shape[: x.ndim - 1 - rank], x.shape[-1]
    spatial = tuple(n // s for n, s in zip(x.shape[-1 - rank : -1], scale, strict=True))
    x = x.reshape(math.prod(batch), *itertools.chain(*zip(spatial, scale, strict=True)), channels)
    pixels, block = (tuple(range(first, 1 + 2 * rank, 2)) for first in (1, 2))
    channel = (1 + 2 * rank,)
    x = x.transpose(0, *pixels, *((channel + block) if order == "CRD" else (block + channel)))
    return x.reshape(*batch, *spatial, channels * math.prod(scale))


@core((3, 4, 5))
def _sub_pixel_conv(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, scale: tuple[int, ...], pads: tuple, circular: bool
) -> jax.Array:
    rank = len(scale)

    def compute(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if circular:
            x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode="wrap")
        return convolve(x, kernel, pads=((0, 0),) * rank if circular else pads, dilation=(1,) * rank, groups=1)

    y = _add_bias(compute, x, kernel, bias)
    # Or the gradient of a bias is summed as the shuffle's transpose has it, with axes of a TPU's vectors nearly empty.
    return _pixel_shuffle(y if bias is None else written_on_tpu(y), scale, "CRD")
