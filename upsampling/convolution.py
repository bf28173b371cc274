"""Learned upsampling whose weights are the same everywhere: transposed, adjoint and sub-pixel convolutions.

A transposed convolution stamps its kernel on the output at every stride step, so that an output pixel `m * stride + r`
sums over the taps `j` with `j * dilation = r (mod stride)` and over no others. The pixels of one phase `r` are thus an
ordinary convolution of the input with every `stride`-th tap, and all phases together are one ordinary convolution with
`prod(strides)` times the channels, whose result a pixel shuffle deals out. No zeros are multiplied.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from upsampling import _checks

Numbers = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


class _Geometry(NamedTuple):
    """The static facts of a transposed convolution, one entry per spatial axis (`groups` aside).

    `low` is what is cropped before the first output pixel; `size` is the output's size. Pixels that no tap reaches
    are zero.
    """

    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    low: tuple[int, ...]
    size: tuple[int, ...]
    groups: int


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
    x, kernel = _checks.array(name, "x", x), _checks.array(name, "kernel", kernel)
    rank = _rank(name, x, kernel)
    strides, dilation, groups = _spacing(name, strides, dilation, groups, rank)
    _check_channels(name, x, kernel, groups)
    out = kernel.shape[-1]
    if bias is not None:
        bias = _checks.array(name, "bias", bias)
        if bias.shape != (out,):
            raise ValueError(f"{name}: bias must have shape ({out},), one number per output channel; got {bias.shape}.")
    spatial = x.shape[-1 - rank : -1]
    circular = padding == "CIRCULAR"
    low, size = _crop(name, spatial, kernel.shape[:rank], strides, padding, output_padding, dilation)
    geometry = _Geometry(strides, dilation, low, size, groups)
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
    size = _checks.per_axis(name, "size", size, 1 if isinstance(size, int) else None)
    window = _checks.per_axis(name, "kernel_size", kernel_size, len(size))
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
    y, kernel = _checks.array(name, "y", y), _checks.array(name, "kernel", kernel)
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
    geometry = _Geometry(strides, dilation, low, size, groups)
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
    x, kernel = _checks.array(name, "x", x), _checks.array(name, "kernel", kernel)
    rank = _rank(name, x, kernel)
    scale = _checks.per_axis(name, "scale", scale, rank)
    _check_channels(name, x, kernel, 1)
    out = kernel.shape[-1]
    if out % math.prod(scale):
        raise ValueError(
            f"{name}: kernel must have a multiple of {math.prod(scale)} output channels for scale={scale}; "
            f"got {kernel.shape}."
        )
    if bias is not None:
        bias = _checks.array(name, "bias", bias)
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
        _checks.per_axis(function, "strides", strides, rank),
        _checks.per_axis(function, "dilation", dilation, rank),
        _checks.number(function, "groups", groups),
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
    padding = _checks.padding(function, padding, rank, names=("SAME", "VALID", "CIRCULAR"))
    more = _checks.per_axis(function, "output_padding", output_padding, rank, minimum=0)
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
    padding = _checks.padding(function, padding, rank, names=("SAME", "VALID", "CIRCULAR"))
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
    result = default if output_size is None else _checks.per_axis(function, "output_size", output_size, rank)
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
    padding = _checks.padding(function, padding, len(size), names=("SAME", "VALID", "CIRCULAR"))
    if padding == "VALID":
        padding = ((0, 0),) * len(size)
    elif isinstance(padding, str):
        padding = tuple(((k - 1) // 2, k // 2) for k in window)
    if any(n + low + high < k for n, k, (low, high) in zip(size, window, padding, strict=True)):
        raise ValueError(f"{function}: the kernel's window {window} is larger than the input {size} with its padding.")
    return padding


def _shuffle_arguments(function: str, x: Any, scale: Any, order: Any) -> tuple[jax.Array, tuple[int, ...]]:
    x = _checks.array(function, "x", x, floating=False)
    scale = _checks.per_axis(function, "scale", scale, None)
    _checks.one_of(function, "order", order, ("CRD", "DCR"))
    if len(scale) > 3 or x.ndim < len(scale) + 1:
        raise ValueError(
            f"{function}: x must be (*batch, *spatial, channels) with the 1, 2 or 3 spatial axes of scale={scale}; "
            f"got {x.shape}."
        )
    return x, scale


def _promote(*arrays: jax.Array | None) -> tuple:
    dtype = jnp.result_type(*(a for a in arrays if a is not None))
    return tuple(None if a is None else a.astype(dtype) for a in arrays)


def _wide(dtype: Any) -> Any:
    """The dtype to accumulate in."""
    return jnp.promote_types(dtype, jnp.float32)


# Computation.


@functools.partial(jax.jit, static_argnums=(3, 4), inline=True)
def _transposed_conv(x, kernel, bias, geometry: _Geometry, circular: bool):
    rank = len(geometry.strides)
    batch = x.shape[: -1 - rank]
    wide = _wide(x.dtype)
    y = x.reshape(-1, *x.shape[-1 - rank :]).astype(wide)
    if circular:
        full = geometry._replace(low=(0,) * rank, size=_full_size(y, kernel, geometry))
        y = _wrap(_stamp(full, y, kernel.astype(wide)), geometry.low, geometry.size)
    else:
        y = _stamp(geometry, y, kernel.astype(wide))
    if bias is not None:
        y = y + bias.astype(wide)
    return y.astype(x.dtype).reshape(*batch, *y.shape[1:])


def _full_size(x: jax.Array, kernel: jax.Array, geometry: _Geometry) -> tuple[int, ...]:
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


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _stamp(geometry: _Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(n, *spatial, in), (*window, in // groups, out) -> (n, *geometry.size, out)."""
    return _by_phases(geometry, x, kernel, _convolve)


def _stamp_jvp(geometry, primals, tangents):
    # The map is linear in each argument. Each tangent is written in the form whose transpose, which is what a gradient
    # runs, is fast: of the first, a strided convolution; of the second, one product of matrices per phase.
    (x, kernel), (dx, dkernel) = primals, tangents
    parts = []
    if not isinstance(dx, SymbolicZero):
        parts.append(_by_dilation(geometry, dx, kernel))
    if not isinstance(dkernel, SymbolicZero):
        parts.append(_by_phases(geometry, x, dkernel, _convolve_by_columns))
    y = _stamp(geometry, x, kernel)
    return y, sum(parts) if parts else jnp.zeros_like(y)


_stamp.defjvp(_stamp_jvp, symbolic_zeros=True)


def _by_dilation(geometry: _Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`_stamp` as the convolution of an input with zeros between its pixels."""
    rank = len(geometry.strides)
    pads = []
    for axis, (s, d, low, size) in enumerate(
        zip(geometry.strides, geometry.dilation, geometry.low, geometry.size, strict=True)
    ):
        reach = d * (kernel.shape[axis] - 1)
        pads.append((reach - low, size - 1 + low - (x.shape[1 + axis] - 1) * s))
    return lax.conv_general_dilated(
        x,
        lax.rev(kernel, tuple(range(rank))),
        (1,) * rank,
        pads,
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_dimension_numbers(rank),
        feature_group_count=geometry.groups,
    )


class _Phase(NamedTuple):
    """Along one axis: output pixels `m * stride + residue` sum `x[m - shift - u * spacing] * taps[u]` over `u`.

    Their taps are `kernel[first::every]`. Without dilation all phases have the same shift and spacing, so that one
    `_Phase` holds several `residues`, `0, 1, ...`, and every so many taps belong to each.
    """

    first: int
    every: int
    residues: int
    shift: int
    spacing: int


def _phases(window: int, stride: int, dilation: int) -> list[_Phase]:
    """The phases of one axis in the order of their residues, which are multiples of `gcd(stride, dilation)`."""
    if dilation == 1:
        return [_Phase(0, 1, min(window, stride), 0, 1)]
    common = math.gcd(stride, dilation)
    every = stride // common
    first = sorted(range(every), key=lambda p: p * dilation % stride)
    return [_Phase(p, every, 1, p * dilation // stride, dilation // common) for p in first]


def _by_phases(geometry: _Geometry, x: jax.Array, kernel: jax.Array, convolve: Callable) -> jax.Array:
    """`_stamp` as ordinary convolutions, by `convolve`, whose results are interleaved."""
    rank = len(geometry.strides)
    axes = tuple(zip(geometry.low, geometry.size, geometry.strides, strict=True))
    rows = tuple((low // s, -(-(low + n) // s)) for low, n, s in axes)
    phases = [_phases(*a) for a in zip(kernel.shape[:rank], geometry.strides, geometry.dilation, strict=True)]

    def interleave(chosen: tuple[_Phase, ...]) -> jax.Array:
        """(n, rows, phases, rows, phases, ..., out), the last axes complete, the first as `chosen`."""
        axis = len(chosen)
        if axis == rank:
            return _one_phase(x, kernel, chosen, rows, geometry.groups, convolve)
        y = lax.concatenate([interleave((*chosen, phase)) for phase in phases[axis]], 2 + 2 * axis)
        # What no tap reaches is zero: residues between the multiples of the common divisor, or beyond a short kernel.
        stride, dense = geometry.strides[axis], geometry.dilation[axis] == 1
        gap = 0 if dense else stride // y.shape[2 + 2 * axis] - 1
        margin = [(0, 0, 0)] * y.ndim
        margin[2 + 2 * axis] = (0, stride - y.shape[2 + 2 * axis] if dense else gap, gap)
        return lax.pad(y, jnp.zeros((), y.dtype), margin)

    y = interleave(())
    y = y.reshape(y.shape[0], *((stop - start) * s for (start, stop), (_, _, s) in zip(rows, axes, strict=True)), -1)
    first = tuple(low - start * s for (start, _), (low, _, s) in zip(rows, axes, strict=True))
    last = tuple(f + n for f, n in zip(first, geometry.size, strict=True))
    return lax.slice(y, (0, *first, 0), (y.shape[0], *last, y.shape[-1]))


def _one_phase(
    x: jax.Array, kernel: jax.Array, phases: tuple[_Phase, ...], rows: tuple, groups: int, convolve: Callable
) -> jax.Array:
    """(n, rows, count, rows, count, ..., out), the residues that `phases` hold."""
    rank, counts = len(phases), tuple(p.residues for p in phases)
    taps = kernel[tuple(slice(p.first, None, p.every) for p in phases)]
    windows = tuple(-(-n // c) for n, c in zip(taps.shape, counts, strict=False))
    lengths = tuple(stop - start for start, stop in rows)
    out = kernel.shape[-1]
    pads = tuple(
        (p.shift + (w - 1) * p.spacing - start, stop - p.shift - n)
        for p, w, n, (start, stop) in zip(phases, windows, x.shape[1:], rows, strict=False)
    )
    if 0 in windows or any(-p >= n for n, pair in zip(x.shape[1:], pads, strict=False) for p in pair):
        # No tap, or no input pixel, reaches this phase.
        return jnp.zeros((x.shape[0], *itertools.chain(*zip(lengths, counts, strict=True)), out), x.dtype)
    # Deal the taps out: (window, count, ...) per axis, then the counts to the output channels of each group.
    margins = [(0, w * c - n, 0) for w, c, n in zip(windows, counts, taps.shape, strict=False)]
    taps = lax.pad(taps, jnp.zeros((), taps.dtype), [*margins, (0, 0, 0), (0, 0, 0)])
    taps = taps.reshape(*itertools.chain(*zip(windows, counts, strict=True)), -1, groups, out // groups)
    even, odd = tuple(range(0, 2 * rank, 2)), tuple(range(1, 2 * rank, 2))
    taps = taps.transpose(*even, 2 * rank, 2 * rank + 1, *odd, 2 * rank + 2)
    taps = lax.rev(taps, tuple(range(rank))).reshape(*windows, kernel.shape[-2], -1)
    y = convolve(x, taps, pads, tuple(p.spacing for p in phases), groups)
    y = y.reshape(*y.shape[: 1 + rank], groups, *counts, out // groups)
    order = itertools.chain(*((1 + a, 2 + rank + a) for a in range(rank)))
    y = y.transpose(0, *order, 1 + rank, 2 + 2 * rank)
    return y.reshape(*y.shape[: 1 + 2 * rank], out)


def _convolve(x: jax.Array, taps: jax.Array, pads: tuple, spacing: tuple, groups: int) -> jax.Array:
    """An ordinary convolution of stride 1."""
    rank = len(spacing)
    cut = [(0, 0, 0), *((min(low, 0), min(high, 0), 0) for low, high in pads), (0, 0, 0)]
    return lax.conv_general_dilated(
        lax.pad(x, jnp.zeros((), x.dtype), cut),
        taps,
        (1,) * rank,
        [(max(low, 0), max(high, 0)) for low, high in pads],
        rhs_dilation=spacing,
        dimension_numbers=_dimension_numbers(rank),
        feature_group_count=groups,
    )


def _convolve_by_columns(x: jax.Array, taps: jax.Array, pads: tuple, spacing: tuple, groups: int) -> jax.Array:
    """`_convolve` as the product of a matrix of shifted inputs, side by side, with a matrix of taps.

    Its transpose to the taps is a product of matrices too, where that of a convolution would be one with a window as
    large as an image, for which XLA has no fast code on a CPU.
    """
    rank, windows = len(spacing), taps.shape[: len(spacing)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])
    lengths = tuple(n - (w - 1) * d for n, w, d in zip(x.shape[1:], windows, spacing, strict=False))
    columns = [
        lax.slice(x, (0, *start, 0), (x.shape[0], *(f + n for f, n in zip(start, lengths, strict=True)), x.shape[-1]))
        for start in itertools.product(*(range(0, w * d, d) for w, d in zip(windows, spacing, strict=True)))
    ]
    pixels = x.shape[0] * math.prod(lengths)
    if groups == 1:
        columns = lax.concatenate(columns, rank + 1).reshape(pixels, -1)
        y = columns @ taps.reshape(-1, taps.shape[-1])
    else:
        columns = jnp.stack(columns, rank + 1).reshape(pixels, len(columns), groups, -1)
        taps = taps.reshape(len(columns[0]), -1, groups, taps.shape[-1] // groups)
        y = jnp.einsum("ptgi,tigo->pgo", columns, taps)
    return y.reshape(x.shape[0], *lengths, -1)


def _swap_channels(kernel: jax.Array, groups: int) -> jax.Array:
    """(*window, in // groups, out) -> (*window, out // groups, in), group by group."""
    *window, inner, out = kernel.shape
    kernel = kernel.reshape(*window, inner, groups, out // groups)
    return jnp.moveaxis(kernel, -1, -3).swapaxes(-1, -2).reshape(*window, out // groups, groups * inner)


def _dimension_numbers(rank: int) -> tuple[str, str, str]:
    axes = "DHW"[-rank:]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _pixel_shuffle(x, scale: tuple[int, ...], order: str):
    rank = len(scale)
    *batch, channels = x.shape[: x.ndim - 1 - rank] + x.shape[-1:]
    spatial = x.shape[-1 - rank : -1]
    blocks = (channels // math.prod(scale), *scale) if order == "CRD" else (*scale, channels // math.prod(scale))
    x = x.reshape(-1, *spatial, *blocks)
    block, channel = (2 + rank, 1 + rank) if order == "CRD" else (1 + rank, 1 + 2 * rank)
    axes = itertools.chain(*((1 + a, block + a) for a in range(rank)))
    x = x.transpose(0, *axes, channel)
    return x.reshape(*batch, *(n * s for n, s in zip(spatial, scale, strict=True)), x.shape[-1])


@functools.partial(jax.jit, static_argnums=(1, 2), inline=True)
def _pixel_unshuffle(x, scale: tuple[int, ...], order: str):
    rank = len(scale)
    batch, channels = x.shape[: x.ndim - 1 - rank], x.shape[-1]
    spatial = tuple(n // s for n, s in zip(x.shape[-1 - rank : -1], scale, strict=True))
    x = x.reshape(-1, *itertools.chain(*zip(spatial, scale, strict=True)), channels)
    pixels, block = (tuple(range(first, 1 + 2 * rank, 2)) for first in (1, 2))
    channel = (1 + 2 * rank,)
    x = x.transpose(0, *pixels, *((channel + block) if order == "CRD" else (block + channel)))
    return x.reshape(*batch, *spatial, -1)


@functools.partial(jax.jit, static_argnums=(3, 4, 5), inline=True)
def _sub_pixel_conv(x, kernel, bias, scale: tuple[int, ...], pads: tuple, circular: bool):
    rank = len(scale)
    wide = _wide(x.dtype)
    y = x.reshape(-1, *x.shape[-1 - rank :]).astype(wide)
    if circular:
        y = jnp.pad(y, ((0, 0), *pads, (0, 0)), mode="wrap")
        pads = ((0, 0),) * rank
    y = _convolution(y, kernel.astype(wide), pads)
    if bias is not None:
        y = y + bias.astype(wide)
    y = y.astype(x.dtype).reshape(*x.shape[: -1 - rank], *y.shape[1:])
    return _pixel_shuffle(y, scale, "CRD")


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _convolution(x: jax.Array, kernel: jax.Array, pads: tuple) -> jax.Array:
    """A convolution of stride 1."""
    return _convolve(x, kernel, pads, (1,) * len(pads), 1)


def _convolution_jvp(pads, primals, tangents):
    # As in `_stamp_jvp`.
    (x, kernel), (dx, dkernel) = primals, tangents
    ones = (1,) * len(pads)
    parts = []
    if not isinstance(dx, SymbolicZero):
        parts.append(_convolve(dx, kernel, pads, ones, 1))
    if not isinstance(dkernel, SymbolicZero):
        parts.append(_convolve_by_columns(x, dkernel, pads, ones, 1))
    y = _convolution(x, kernel, pads)
    return y, sum(parts) if parts else jnp.zeros_like(y)


_convolution.defjvp(_convolution_jvp, symbolic_zeros=True)
