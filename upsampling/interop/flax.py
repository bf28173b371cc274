"""Kernels and layers from `flax.nnx.ConvTranspose` and `flax.linen.ConvTranspose`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from upsampling import _arguments
from upsampling._arguments import Numbers, Padding
from upsampling.nn.convolution import TransposedConv


def transposed_conv_kernel(kernel: jax.Array, *, transpose_kernel: bool = False) -> jax.Array:
    """The kernel for `upsampling.transposed_conv` from that of a Flax `ConvTranspose`, NNX or Linen.

    Flax flips its kernel in space, or, with `transpose_kernel`, takes that of the convolution whose adjoint it is.

    Args:
      kernel: (*window, in, out), or (*window, out, in) with `transpose_kernel`.
      transpose_kernel: as the Flax layer has it.

    Returns:
      (*window, in, out).

    Raises:
      ValueError: too few or too many axes.
      TypeError: a kernel that is not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> from upsampling.interop import flax
    >>> flax.transposed_conv_kernel(jnp.arange(3.0).reshape(3, 1, 1))[:, 0, 0]
    Array([2., 1., 0.], dtype=float32)
    """
    kernel = _arguments.array("transposed_conv_kernel", "kernel", kernel)
    transpose_kernel = _arguments.flag("transposed_conv_kernel", "transpose_kernel", transpose_kernel)
    if kernel.ndim not in (3, 4, 5):
        raise ValueError(
            f"transposed_conv_kernel: kernel must be (*window, in, out) with 1, 2 or 3 window axes; got {kernel.shape}."
        )
    if transpose_kernel:
        return kernel.swapaxes(-1, -2)
    return jnp.flip(kernel, tuple(range(kernel.ndim - 2)))


def transposed_conv(
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    strides: Numbers | None = None,
    padding: Padding = "SAME",
    kernel_dilation: Numbers | None = None,
    transpose_kernel: bool = False,
) -> TransposedConv:
    """The layer that computes what a Flax `ConvTranspose` with these parameters and arguments does.

    Args:
      kernel, bias: the Flax layer's parameters; from Linen, `params["kernel"]` and `params["bias"]`.
      strides, padding, kernel_dilation, transpose_kernel: the Flax layer's arguments, with Flax's meaning: explicit
        padding is of the input with zeros between its pixels, not what is cropped from the result.

    Returns:
      An `upsampling.nn.TransposedConv` in the parameters' dtype.

    Raises:
      ValueError: arguments that do not fit the kernel, or a result that `upsampling.transposed_conv` does not have:
        explicit padding beyond the kernel's reach, or "CIRCULAR" with `transpose_kernel` and an odd difference of
        window and stride, which Flax shifts by one pixel.

    Example:

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from upsampling.interop import flax
    >>> theirs = nnx.ConvTranspose(3, 2, (3, 3), strides=(2, 2), padding="VALID", rngs=nnx.Rngs(0))
    >>> layer = flax.transposed_conv(theirs.kernel[...], theirs.bias[...], strides=(2, 2), padding="VALID")
    >>> x = jnp.arange(48.0).reshape(4, 4, 3)
    >>> bool(jnp.allclose(layer(x), theirs(x), atol=1e-4))
    True
    """
    name = "transposed_conv"
    kernel = transposed_conv_kernel(kernel, transpose_kernel=transpose_kernel)
    rank = kernel.ndim - 2
    steps = _arguments.per_axis(name, "strides", 1 if strides is None else strides, rank)
    dilation = _arguments.per_axis(name, "kernel_dilation", 1 if kernel_dilation is None else kernel_dilation, rank)
    reach = tuple(d * (k - 1) for k, d in zip(kernel.shape, dilation, strict=False))
    padding, more = _convert_padding(name, padding, steps, dilation, reach, transpose_kernel)
    layer = TransposedConv(
        kernel.shape[-2],
        steps,
        out_features=kernel.shape[-1],
        kernel_size=kernel.shape[:rank],
        padding=padding,
        output_padding=more,
        dilation=dilation,
        use_bias=bias is not None,
        param_dtype=kernel.dtype,
        rngs=nnx.Rngs(0),
    )
    layer.kernel[...] = kernel
    if layer.bias is not None:
        layer.bias[...] = _arguments.shaped(name, "bias", bias, layer.bias.shape)
    return layer


def _convert_padding(
    name: str,
    padding: Padding,
    steps: tuple[int, ...],
    dilation: tuple[int, ...],
    reach: tuple[int, ...],
    transpose_kernel: bool,
) -> tuple[Padding, tuple[int, ...]]:
    """`padding` and `output_padding` for `upsampling.transposed_conv` from Flax's padding."""
    more = (0,) * len(steps)
    pads = _arguments.padding(name, padding, len(steps), names=("SAME", "VALID", "CIRCULAR"))
    if pads == "VALID":
        # Flax fills up to `size * stride` where the kernel is shorter than the stride.
        more = tuple(max(s - r - 1, 0) for s, r in zip(steps, reach, strict=True))
    elif pads == "CIRCULAR":
        if transpose_kernel and any(r + 1 > s and (r + 1 - s) % 2 for r, s in zip(reach, steps, strict=True)):
            raise ValueError(
                f"{name}: padding='CIRCULAR' with transpose_kernel and strides={steps} for a window of "
                f"{tuple(r + 1 for r in reach)} pixels cannot be converted: Flax shifts its result by one pixel."
            )
    elif not isinstance(pads, str):
        low = tuple(r - p for r, (p, _) in zip(reach, pads, strict=True))
        high = tuple(r - p for r, (_, p) in zip(reach, pads, strict=True))
        more = tuple(max(-h, 0) for h in high)
        if min(low) < 0 or any(m >= max(s, d) for m, s, d in zip(more, steps, dilation, strict=True)):
            raise ValueError(
                f"{name}: padding={pads!r} cannot be converted: it reaches beyond the kernel's {reach} pixels."
            )
        pads = tuple((lo, max(hi, 0)) for lo, hi in zip(low, high, strict=True))
    return pads, more


def from_nnx(layer: nnx.ConvTranspose) -> TransposedConv:
    """The layer that computes what a `flax.nnx.ConvTranspose` does, with a copy of its parameters.

    Raises:
      TypeError: another layer.
      ValueError: a layer with a mask, or what `transposed_conv` raises.

    Example:

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from upsampling.interop import flax
    >>> theirs = nnx.ConvTranspose(3, 2, (4, 4), strides=(2, 2), padding="CIRCULAR", rngs=nnx.Rngs(0))
    >>> x = jnp.arange(48.0).reshape(4, 4, 3)
    >>> bool(jnp.allclose(flax.from_nnx(theirs)(x), theirs(x), atol=1e-4))
    True
    """
    if not isinstance(layer, nnx.ConvTranspose):
        raise TypeError(f"from_nnx: layer must be a flax.nnx.ConvTranspose; got {type(layer).__name__}.")
    if layer.mask is not None:
        raise ValueError("from_nnx: layer must have no mask; multiply its kernel by the mask and remove it.")
    padding: Any = layer.padding  # checked there; Flax's type has more
    ours = transposed_conv(
        layer.kernel[...],
        None if layer.bias is None else layer.bias[...],
        strides=layer.strides,
        padding=padding,
        kernel_dilation=layer.kernel_dilation,
        transpose_kernel=layer.transpose_kernel,
    )
    ours.dtype = layer.dtype
    return ours
