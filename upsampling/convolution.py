"""Learned upsampling whose weights are the same everywhere: transposed, adjoint and sub-pixel convolutions.

All are one linear map, `stamp`, with other geometry, and a pixel shuffle.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from upsampling import _arguments
from upsampling.primitives._common import accumulator
from upsampling.primitives.transposed_conv import Geometry
from upsampling.primitives.transposed_conv import transposed_conv as apply_transposed_conv

Numbers = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


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
) -> jax.Array:
    """Stamps `kernel`, weighted by each input pixel, on the output at every stride step.

    Along each axis, with full result `f[i * stride + j * dilation] += x[i] * kernel[j]`, the output is `f` less
    `padding`. The kernel is not flipped, as in PyTorch, TensorFlow, Keras and ONNX.

    Args:
      x: (*batch, *spatial, in), any number of batch axes, none included.
      kernel: (*window, in // groups, out). Its window decides the number of spatial axes, 1 to 3. A PyTorch weight
        (in, out // groups, *window) of a convolution without groups transposes to it.
      bias: (out,), added to every pixel.
      strides: pixels between stamps, one number or one per axis.
      padding: pixels cropped from the full result: one number, one per axis, or a (low, high) pair per axis. "VALID"
        crops nothing. "SAME" gives `size * strides`. "CIRCULAR" does too, with what falls over an edge wrapped round
        to the other side.
      output_padding: pixels cropped less at the high end, below `max(strides, dilation)`.
      dilation: pixels between the taps of the kernel.
      groups: number of channel groups that do not mix. Output block `n` of `out // groups` reads input block `n`.

    Returns:
      (*batch, *transposed_conv_size(...), out), in the dtype that the arguments promote to. Half precision accumulates
      in float32.

    Raises:
      ValueError: shapes that do not fit, numbers out of range, or a padding that leaves nothing.
      TypeError: arrays that are not floating, or geometry that is not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> up.transposed_conv(jnp.array([[1.0], [2.0]]), jnp.ones((3, 1, 1)), strides=2, padding="VALID")[:, 0]
    Array([1., 1., 3., 2., 2.], dtype=float32)

    Source: Zeiler et al. 2010, "Deconvolutional networks"; Dumoulin and Visin 2016, arXiv:1603.07285, chapter 4.
    """
    name = "transposed_conv"
    x, kernel = _arguments.array(name, "x", x), _arguments.array(name, "kernel", kernel)
    rank = _rank(name, x, kernel)
    strides, dilation, groups = _spacing(name, strides, dilation, groups, rank)
    _check_channels(name, x, kernel, groups)
    out = kernel.shape[-1]
    if bias is not None:
        bias = _arguments.array(name, "bias", bias)
        if bias.shape != (out,):
            raise ValueError(f"{name}: bias must have shape ({out},), one number per output channel; got {bias.shape}.")
    spatial = x.shape[-1 - rank : -1]
    circular = padding == "CIRCULAR"
    low, size = _crop(name, spatial, kernel.shape[:rank], strides, padding, output_padding, dilation)
    geometry = Geometry(strides, dilation, low, size, groups)
    return _transposed_conv(*_promote(x, kernel, bias), geometry, circular)


def transposed_conv_size(
    size: Numbers,
    kernel_size: Numbers,
    strides: Numbers,
    padding: Padding = 0,
    output_padding: Numbers = 0,
    dilation: Numbers = 1,
) -> tuple[int, ...]:
    """The output's spatial size of `transposed_conv`.

    With zero padding it is `(size - 1) * stride - low - high + dilation * (kernel_size - 1) + 1 + output_padding`.

    Args:
      size: the input's spatial size, one number per axis. A single number means one axis.
      kernel_size, strides, padding, output_padding, dilation: as in `transposed_conv`.

    Returns:
      The output's spatial size, one number per axis.

    Raises:
      ValueError, TypeError: what `transposed_conv` raises.

    Example: a much-read introduction to segmentation takes a 2×2 map through a 3×3 kernel with stride 2 and without
    padding, and prints a 4×4 result. The stamps begin at 0 and 2 and are 3 wide, so the result is 5 wide:

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
    size = _arguments.per_axis(name, "size", size, 1 if isinstance(size, int) else None)
    window = _arguments.per_axis(name, "kernel_size", kernel_size, len(size))
    strides, dilation, _ = _spacing(name, strides, dilation, 1, len(size))
    return _crop(name, size, window, strides, padding, output_padding, dilation)[1]


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
    y, kernel = _arguments.array(name, "y", y), _arguments.array(name, "kernel", kernel)
    rank = _rank(name, y, kernel, "y")
    strides, dilation, groups = _spacing(name, strides, dilation, groups, rank)
    if kernel.shape[-1] % groups:
        raise ValueError(f"{name}: groups={groups} must divide the kernel's {kernel.shape[-1]} output channels.")
    if y.shape[-1] != kernel.shape[-1]:
        raise ValueError(
            f"{name}: y must have the {kernel.shape[-1]} channels that the convolution with this kernel puts out; "
            f"got y {y.shape} and kernel {kernel.shape}."
        )
    low, size = _adjoint_crop(
        name, y.shape[-1 - rank : -1], kernel.shape[:rank], strides, padding, dilation, output_size
    )
    geometry = Geometry(strides, dilation, low, size, groups)
    y, kernel = _promote(y, kernel)
    return _transposed_conv(y, _swap_channels(kernel, groups), None, geometry, padding == "CIRCULAR")


def pixel_shuffle(x: jax.Array, scale: Numbers, *, order: str = "CRD") -> jax.Array:
    """Deals groups of `prod(scale)` channels out to blocks of `scale` pixels.

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


def pixel_unshuffle(x: jax.Array, scale: Numbers, *, order: str = "CRD") -> jax.Array:
    """Gathers blocks of `scale` pixels into channels: the inverse of `pixel_shuffle`.

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


def sub_pixel_conv(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, *, scale: Numbers = 2, padding: Padding = "SAME"
) -> jax.Array:
    """Convolves at low resolution to `prod(scale)` times the channels, then deals them out to pixels.

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
    x, kernel = _arguments.array(name, "x", x), _arguments.array(name, "kernel", kernel)
    rank = _rank(name, x, kernel)
    scale = _arguments.per_axis(name, "scale", scale, rank)
    _check_channels(name, x, kernel, 1)
    out = kernel.shape[-1]
    if out % math.prod(scale):
        raise ValueError(
            f"{name}: kernel must have a multiple of {math.prod(scale)} output channels for scale={scale}; "
            f"got {kernel.shape}."
        )
    if bias is not None:
        bias = _arguments.array(name, "bias", bias)
        if bias.shape != (out,):
            raise ValueError(f"{name}: bias must have shape ({out},), one number per output channel; got {bias.shape}.")
    pads = _conv_padding(name, x.shape[-1 - rank : -1], kernel.shape[:rank], padding)
    return _sub_pixel_conv(*_promote(x, kernel, bias), scale, pads, padding == "CIRCULAR")


# Arguments.


def _rank(function: str, x: jax.Array, kernel: jax.Array, argument: str = "x") -> int:
    """The number of spatial axes, which is the kernel's; checks that both arrays have enough axes and no empty one."""
    rank = kernel.ndim - 2
    if rank not in (1, 2, 3) or 0 in kernel.shape:
        raise ValueError(
            f"{function}: kernel must be (*window, in, out) with 1, 2 or 3 window axes, none empty; got {kernel.shape}."
        )
    if x.ndim < rank + 1 or 0 in x.shape[-1 - rank :]:
        raise ValueError(
            f"{function}: {argument} must be (*batch, {rank} spatial axes, channels) as the kernel {kernel.shape} has "
            f"it, with no empty spatial axis; got {x.shape}."
        )
    return rank


def _spacing(function: str, strides: Any, dilation: Any, groups: Any, rank: int) -> tuple[tuple, tuple, int]:
    return (
        _arguments.per_axis(function, "strides", strides, rank),
        _arguments.per_axis(function, "dilation", dilation, rank),
        _arguments.number(function, "groups", groups),
    )


def _check_channels(function: str, x: jax.Array, kernel: jax.Array, groups: int) -> None:
    if kernel.shape[-1] % groups:
        raise ValueError(f"{function}: groups={groups} must divide the kernel's {kernel.shape[-1]} output channels.")
    if x.shape[-1] != kernel.shape[-2] * groups:
        raise ValueError(
            f"{function}: x must have {kernel.shape[-2] * groups} channels, the kernel's {kernel.shape[-2]} in each of "
            f"{groups} groups; got x {x.shape} and kernel {kernel.shape}."
        )


def _crop(
    function: str, size: tuple, window: tuple, strides: tuple, padding: Any, output_padding: Any, dilation: tuple
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is cropped before the first pixel of the full result, and the size of the output."""
    rank = len(size)
    padding = _arguments.padding(function, padding, rank, names=("SAME", "VALID", "CIRCULAR"))
    more = _arguments.per_axis(function, "output_padding", output_padding, rank, minimum=0)
    extents = tuple(d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True))
    if padding in ("SAME", "CIRCULAR"):
        if any(more):
            raise ValueError(
                f"{function}: output_padding must be 0 with padding={padding!r}, which fixes the output's size; "
                f"got {output_padding!r}."
            )
        low = tuple(max(e - s, 0) // 2 for e, s in zip(extents, strides, strict=True))
        return low, tuple(n * s for n, s in zip(size, strides, strict=True))
    if any(m >= max(s, d) for m, s, d in zip(more, strides, dilation, strict=True)):
        raise ValueError(
            f"{function}: output_padding must be below the larger of stride and dilation on each axis; "
            f"got {output_padding!r} with strides={strides} and dilation={dilation}."
        )
    pairs = ((0, 0),) * rank if padding == "VALID" else padding
    result = tuple(
        (n - 1) * s + e - low - high + m
        for n, s, e, (low, high), m in zip(size, strides, extents, pairs, more, strict=True)
    )
    if min(result) < 1:
        raise ValueError(
            f"{function}: padding={padding!r} leaves nothing of the full result of size "
            f"{tuple((n - 1) * s + e for n, s, e in zip(size, strides, extents, strict=True))}."
        )
    return tuple(low for low, _ in pairs), result


def _adjoint_crop(
    function: str, size: tuple, window: tuple, strides: tuple, padding: Any, dilation: tuple, output_size: Any
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """As `_crop`, for the adjoint of the convolution that maps `output_size` to `size`."""
    rank = len(size)
    padding = _arguments.padding(function, padding, rank, names=("SAME", "VALID", "CIRCULAR"))
    extents = tuple(d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True))
    pairs = ((0, 0),) * rank if isinstance(padding, str) else padding
    if padding in ("SAME", "CIRCULAR"):
        least = tuple((n - 1) * s + 1 for n, s in zip(size, strides, strict=True))
        default = tuple(n * s for n, s in zip(size, strides, strict=True))
    else:
        least = tuple(
            (n - 1) * s + e - low - high for n, s, e, (low, high) in zip(size, strides, extents, pairs, strict=True)
        )
        default = tuple(max(1, n) for n in least)
    most = tuple(n + s - 1 for n, s in zip(least, strides, strict=True))
    if min(most) < 1:
        raise ValueError(
            f"{function}: no convolution with padding={padding!r} and a window of {extents} pixels puts out {size}."
        )
    result = default if output_size is None else _arguments.per_axis(function, "output_size", output_size, rank)
    if any(not low <= n <= high for low, n, high in zip(least, result, most, strict=True)):
        raise ValueError(
            f"{function}: output_size must be one that the convolution maps to {size}, from {least} to {most}; "
            f"got {result}."
        )
    if padding == "SAME":
        low = tuple(max((n - 1) * s + e - r, 0) // 2 for n, s, e, r in zip(size, strides, extents, result, strict=True))
    elif padding == "CIRCULAR":
        low = tuple((e - 1) // 2 for e in extents)
    else:
        low = tuple(low for low, _ in pairs)
    return low, result


def _conv_padding(function: str, size: tuple, window: tuple, padding: Any) -> tuple[tuple[int, int], ...]:
    """The pixels by which a convolution of stride 1 pads its input."""
    padding = _arguments.padding(function, padding, len(size), names=("SAME", "VALID", "CIRCULAR"))
    if padding == "VALID":
        padding = ((0, 0),) * len(size)
    elif isinstance(padding, str):
        padding = tuple(((k - 1) // 2, k // 2) for k in window)
    if any(n + low + high < k for n, k, (low, high) in zip(size, window, padding, strict=True)):
        raise ValueError(f"{function}: the kernel's window {window} is larger than the input {size} with its padding.")
    return padding


def _shuffle_arguments(function: str, x: Any, scale: Any, order: Any) -> tuple[jax.Array, tuple[int, ...]]:
    x = _arguments.array(function, "x", x, floating=False)
    scale = _arguments.per_axis(function, "scale", scale, None)
    _arguments.one_of(function, "order", order, ("CRD", "DCR"))
    if len(scale) > 3 or x.ndim < len(scale) + 1:
        raise ValueError(
            f"{function}: x must be (*batch, *spatial, channels) with the 1, 2 or 3 spatial axes of scale={scale}; "
            f"got {x.shape}."
        )
    return x, scale


def _promote(*arrays: jax.Array | None) -> tuple:
    dtype = jnp.result_type(*(a for a in arrays if a is not None))
    return tuple(None if a is None else a.astype(dtype) for a in arrays)


# Computation.


@functools.partial(jax.jit, static_argnums=(3, 4), inline=True)
def _transposed_conv(x, kernel, bias, geometry: Geometry, circular: bool):
    rank = len(geometry.strides)
    batch = x.shape[: -1 - rank]
    wide = accumulator(x.dtype)
    y = x.reshape(math.prod(x.shape[: -1 - rank]), *x.shape[-1 - rank :]).astype(wide)
    if circular:
        full = geometry._replace(low=(0,) * rank, size=_full_size(y, kernel, geometry))
        y = _wrap(apply_transposed_conv(full, y, kernel.astype(wide)), geometry.low, geometry.size)
    else:
        y = apply_transposed_conv(geometry, y, kernel.astype(wide))
    if bias is not None:
        y = y + bias.astype(wide)
    return y.astype(x.dtype).reshape(*batch, *y.shape[1:])


def _full_size(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> tuple[int, ...]:
    shapes = zip(x.shape[1:-1], kernel.shape, geometry.strides, geometry.dilation, strict=False)
    return tuple((n - 1) * s + d * (k - 1) + 1 for n, k, s, d in shapes)


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


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _pixel_shuffle(x, scale: tuple[int, ...], order: str):
    rank = len(scale)
    *batch, channels = x.shape[: x.ndim - 1 - rank] + x.shape[-1:]
    spatial = x.shape[-1 - rank : -1]
    blocks = (channels // math.prod(scale), *scale) if order == "CRD" else (*scale, channels // math.prod(scale))
    x = x.reshape(math.prod(batch), *spatial, *blocks)
    block, channel = (2 + rank, 1 + rank) if order == "CRD" else (1 + rank, 1 + 2 * rank)
    axes = itertools.chain(*((1 + a, block + a) for a in range(rank)))
    x = x.transpose(0, *axes, channel)
    return x.reshape(*batch, *(n * s for n, s in zip(spatial, scale, strict=True)), x.shape[-1])


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _pixel_unshuffle(x, scale: tuple[int, ...], order: str):
    rank = len(scale)
    batch, channels = x.shape[: x.ndim - 1 - rank], x.shape[-1]
    spatial = tuple(n // s for n, s in zip(x.shape[-1 - rank : -1], scale, strict=True))
    x = x.reshape(math.prod(batch), *itertools.chain(*zip(spatial, scale, strict=True)), channels)
    pixels, block = (tuple(range(first, 1 + 2 * rank, 2)) for first in (1, 2))
    channel = (1 + 2 * rank,)
    x = x.transpose(0, *pixels, *((channel + block) if order == "CRD" else (block + channel)))
    return x.reshape(*batch, *spatial, channels * math.prod(scale))


@functools.partial(jax.jit, static_argnums=(3, 4, 5), inline=True)
def _sub_pixel_conv(x, kernel, bias, scale: tuple[int, ...], pads: tuple, circular: bool):
    rank = len(scale)
    window = kernel.shape[:rank]
    wide = accumulator(x.dtype)
    y = x.reshape(math.prod(x.shape[: -1 - rank]), *x.shape[-1 - rank :]).astype(wide)
    if circular:
        y = jnp.pad(y, ((0, 0), *pads, (0, 0)), mode="wrap")
        pads = ((0, 0),) * rank
    # A convolution of stride 1 is a transposed one with the flipped kernel.
    low = tuple(k - 1 - first for k, (first, _) in zip(window, pads, strict=True))
    size = tuple(n + sum(p) - k + 1 for n, k, p in zip(y.shape[1:], window, pads, strict=False))
    ones = (1,) * rank
    y = apply_transposed_conv(Geometry(ones, ones, low, size, 1), y, lax.rev(kernel.astype(wide), tuple(range(rank))))
    if bias is not None:
        y = y + bias.astype(wide)
    y = y.astype(x.dtype).reshape(*x.shape[: -1 - rank], *y.shape[1:])
    return _pixel_shuffle(y, scale, "CRD")
