"""Learned upsampling with the same kernel everywhere, as layers."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from upsampling import _checks, convolution
from upsampling.nn import initializers
from upsampling.nn.registry import register

Initializer = Callable[..., jax.Array]
_LECUN = nnx.initializers.lecun_normal()


def _cast(dtype: Any, *arrays: jax.Array | None) -> tuple:
    """The arrays in the dtype they are computed in: `dtype`, or the one they promote to."""
    dtype = dtype or jnp.result_type(*(a for a in arrays if a is not None))
    return tuple(None if a is None else a.astype(dtype) for a in arrays)


def _check_channels(function: str, x: jax.Array, features: int, spatial: int) -> jax.Array:
    x = _checks.array(function, "x", x)
    if x.ndim < spatial + 1:
        raise ValueError(f"{function}: x must be (*batch, {spatial} spatial axes, channels); got shape {x.shape}.")
    if x.shape[-1] != features:
        raise ValueError(f"{function}: x must have features={features} channels; got shape {x.shape}.")
    return x


@register("transposed_conv", family="convolution", paper="Zeiler et al. 2010, doi:10.1109/CVPR.2010.5539957")
class TransposedConv(nnx.Module):
    """Stamps a learned kernel at every stride step: `upsampling.transposed_conv` as a layer.

    Args:
      features: channels of the input.
      scale: stride, one whole number for both axes of an image or one per spatial axis.
      out_features: channels of the output; `features` if not given.
      kernel_size: window; `2 * scale` if not given, the least that overlaps evenly and can express bilinear
        interpolation.
      padding: as in `upsampling.transposed_conv`; "SAME" gives `size * scale`.
      groups: number of channel groups.
      use_bias: whether to add a bias.
      kernel_init, bias_init: initialisers. The kernel's default keeps the variance of the input: an output pixel is
        the sum of `kernel_size / scale` taps per axis, not `kernel_size`.
      dtype: what to compute in; promoted from input and parameters if not given.
      param_dtype: what parameters are kept in.
      rngs: where parameters draw their first values from.

    Shapes: `(*batch, *spatial, features)` to `(*batch, *spatial * scale, out_features)`.

    Raises:
      ValueError: channels that do not match, or numbers out of range.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.TransposedConv(8, scale=2, out_features=3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((16, 16, 8))).shape
    (32, 32, 3)
    """

    def __init__(
        self,
        features: int,
        scale: int | tuple[int, ...] = 2,
        *,
        out_features: int | None = None,
        kernel_size: int | tuple[int, ...] | None = None,
        padding: Any = "SAME",
        groups: int = 1,
        use_bias: bool = True,
        kernel_init: Initializer | None = None,
        bias_init: Initializer = nnx.initializers.zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.features = features
        self.scale = _checks.per_axis("TransposedConv", "scale", scale, None)
        self.padding = padding
        self.groups = groups
        self.dtype = dtype
        out = out_features or features
        window = _window("TransposedConv", kernel_size, self.scale)
        if features % groups or out % groups:
            raise ValueError(f"TransposedConv: groups={groups} must divide features={features} and out_features={out}.")
        if kernel_init is None:
            kernel_init = nnx.initializers.variance_scaling(
                scale=float(math.prod(self.scale)), mode="fan_in", distribution="truncated_normal"
            )
        shape = (*window, features // groups, out)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (out,), param_dtype)) if use_bias else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _check_channels("TransposedConv", x, self.features, len(self.scale))
        x, kernel, bias = _cast(self.dtype, x, self.kernel[...], None if self.bias is None else self.bias[...])
        return convolution.transposed_conv(
            x, kernel, bias, strides=self.scale, padding=self.padding, groups=self.groups
        )


@register("deconv", family="convolution", paper="Zeiler and Fergus 2014, arXiv:1311.2901", ties_encoder=True)
class Deconv(nnx.Module):
    """The adjoint of a strided convolution, with that convolution's own kernel: `upsampling.deconv` as a layer.

    Args:
      features: channels of the input, which are the channels that the convolution puts out.
      scale: the convolution's stride, one whole number for both axes of an image or one per spatial axis.
      kernel: the convolution's `nnx.Param`, `(*window, in, out)`. The layer holds a reference to it, not a copy: both
        train one kernel, and NNX counts and saves it once. Without it the layer makes a kernel of its own, which can be
        handed to an encoder as `layer.kernel`.
      out_features: channels of the output, which are the channels that the convolution takes; read from `kernel`, or
        `features` if not given.
      kernel_size: window of the layer's own kernel, `2 * scale` if not given.
      padding: the convolution's padding.
      use_bias: whether to add a bias. The adjoint has none.
      kernel_init, bias_init, dtype, param_dtype, rngs: as in `TransposedConv`.

    Shapes: `(*batch, *spatial, features)` to `(*batch, *spatial * scale, out_features)`.

    Raises:
      ValueError: a kernel whose shape does not fit `features`, `out_features`, `kernel_size` or the number of axes.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> down = nnx.Conv(4, 8, (4, 4), strides=2, rngs=nnx.Rngs(0))
    >>> layer = up.nn.Deconv(8, scale=2, kernel=down.kernel, rngs=nnx.Rngs(1))
    >>> layer(down(jnp.ones((16, 16, 4)))).shape
    (16, 16, 4)
    """

    def __init__(
        self,
        features: int,
        scale: int | tuple[int, ...] = 2,
        *,
        kernel: nnx.Param | None = None,
        out_features: int | None = None,
        kernel_size: int | tuple[int, ...] | None = None,
        padding: Any = "SAME",
        use_bias: bool = True,
        kernel_init: Initializer = _LECUN,
        bias_init: Initializer = nnx.initializers.zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.features = features
        self.scale = _checks.per_axis("Deconv", "scale", scale, None)
        self.padding = padding
        self.dtype = dtype
        if kernel is None:
            shape = (*_window("Deconv", kernel_size, self.scale), out_features or features, features)
            kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        elif not isinstance(kernel, nnx.Variable):
            raise TypeError(
                f"Deconv: kernel must be the nnx.Param of the encoder's convolution, to be shared; "
                f"got {type(kernel).__name__}."
            )
        else:
            _check_tied(kernel, features, out_features, kernel_size, self.scale)
        self.kernel = kernel
        self.bias = nnx.Param(bias_init(rngs.params(), (kernel.shape[-2],), param_dtype)) if use_bias else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _check_channels("Deconv", x, self.features, len(self.scale))
        x, kernel, bias = _cast(self.dtype, x, self.kernel[...], None if self.bias is None else self.bias[...])
        y = convolution.deconv(x, kernel, strides=self.scale, padding=self.padding)
        return y if bias is None else y + bias


@register("sub_pixel_conv", family="convolution", paper="Shi et al. 2016, arXiv:1609.05158")
class SubPixelConv(nnx.Module):
    """Convolves at low resolution, then deals channels out to pixels: `upsampling.sub_pixel_conv` as a layer.

    Args:
      features: channels of the input.
      scale: factor, one whole number for both axes of an image or one per spatial axis.
      out_features: channels of the output; `features` if not given.
      kernel_size: window of the convolution.
      padding: padding of the convolution.
      use_bias: whether to add a bias.
      kernel_init: initialiser of one phase's kernel; all phases start alike (ICNR, Aitken et al. 2017), so that the
        layer starts as a convolution followed by nearest-neighbour upsampling, without a checkerboard.
      bias_init, dtype, param_dtype, rngs: as in `TransposedConv`.

    Shapes: `(*batch, *spatial, features)` to `(*batch, *spatial * scale, out_features)`.

    Raises:
      ValueError: channels that do not match, or numbers out of range.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.SubPixelConv(8, scale=3, out_features=1, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((16, 16, 8))).shape
    (48, 48, 1)
    """

    def __init__(
        self,
        features: int,
        scale: int | tuple[int, ...] = 2,
        *,
        out_features: int | None = None,
        kernel_size: int | tuple[int, ...] = 3,
        padding: Any = "SAME",
        use_bias: bool = True,
        kernel_init: Initializer = _LECUN,
        bias_init: Initializer = nnx.initializers.zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.features = features
        self.scale = _checks.per_axis("SubPixelConv", "scale", scale, None)
        self.padding = padding
        self.dtype = dtype
        window = _checks.per_axis("SubPixelConv", "kernel_size", kernel_size, len(self.scale))
        out = (out_features or features) * math.prod(self.scale)
        init = initializers.icnr(self.scale, kernel_init)
        self.kernel = nnx.Param(init(rngs.params(), (*window, features, out), param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (out,), param_dtype)) if use_bias else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _check_channels("SubPixelConv", x, self.features, len(self.scale))
        x, kernel, bias = _cast(self.dtype, x, self.kernel[...], None if self.bias is None else self.bias[...])
        return convolution.sub_pixel_conv(x, kernel, bias, scale=self.scale, padding=self.padding)


def _window(function: str, kernel_size: Any, scale: tuple[int, ...]) -> tuple[int, ...]:
    if kernel_size is None:
        return tuple(2 * s for s in scale)
    return _checks.per_axis(function, "kernel_size", kernel_size, len(scale))


def _check_tied(kernel: nnx.Variable, features: int, out_features: Any, kernel_size: Any, scale: tuple) -> None:
    """Raises ValueError unless the encoder's kernel is what the layer's other arguments say."""
    shape = kernel.shape
    window = shape[:-2] if kernel_size is None else _window("Deconv", kernel_size, scale)
    expected = (*window, out_features or (shape[-2] if len(shape) > 1 else "in"), features)
    if len(shape) != len(scale) + 2 or shape != expected:
        raise ValueError(
            f"Deconv: kernel must be (*window, out_features, features) with {len(scale)} window axes, "
            f"here {expected}; got shape {shape}."
        )
