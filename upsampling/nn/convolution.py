"""Learned upsampling with the same kernel everywhere, as layers."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from upsampling import _arguments, convolution, interpolation, pooling
from upsampling.nn import initializers
from upsampling.nn.registry import register

Initializer = Callable[..., jax.Array]
_LECUN = nnx.initializers.lecun_normal()


def _cast(dtype: Any, *arrays: jax.Array | None) -> tuple:
    """The arrays in the dtype they are computed in: `dtype`, or the one they promote to."""
    dtype = dtype or jnp.result_type(*(a for a in arrays if a is not None))
    return tuple(None if a is None else a.astype(dtype) for a in arrays)


def _check_channels(function: str, x: jax.Array, features: int, spatial: int, argument: str = "x") -> jax.Array:
    x = _arguments.array(function, argument, x)
    if x.ndim < spatial + 1:
        raise ValueError(
            f"{function}: {argument} must be (*batch, {spatial} spatial axes, channels); got shape {x.shape}."
        )
    if x.shape[-1] != features:
        raise ValueError(f"{function}: {argument} must have features={features} channels; got shape {x.shape}.")
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
      padding, output_padding, dilation: as in `upsampling.transposed_conv`; padding "SAME" gives `size * scale`.
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
        output_padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_init: Initializer | None = None,
        bias_init: Initializer = nnx.initializers.zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.features = features
        self.scale = _arguments.per_axis("TransposedConv", "scale", scale, None)
        self.padding = _static(padding)
        self.output_padding = _static(output_padding)
        self.dilation = _static(dilation)
        self.groups = groups
        self.dtype = dtype
        out = out_features or features
        window = _window("TransposedConv", kernel_size, self.scale)
        if features % groups or out % groups:
            raise ValueError(f"TransposedConv: groups={groups} must divide features={features} and out_features={out}.")
        kernel_init = kernel_init or _keep_variance(self.scale)
        shape = (*window, features // groups, out)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (out,), param_dtype)) if use_bias else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _check_channels("TransposedConv", x, self.features, len(self.scale))
        x, kernel, bias = _cast(self.dtype, x, self.kernel[...], None if self.bias is None else self.bias[...])
        return convolution.transposed_conv(
            x,
            kernel,
            bias,
            strides=self.scale,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
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
      padding, dilation, groups: the convolution's.
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
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_init: Initializer = _LECUN,
        bias_init: Initializer = nnx.initializers.zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.features = features
        self.scale = _arguments.per_axis("Deconv", "scale", scale, None)
        self.padding = _static(padding)
        self.dilation = _static(dilation)
        self.groups = groups
        self.dtype = dtype
        if kernel is None:
            out = out_features or features
            _check_groups("Deconv", groups, features, out)
            shape = (*_window("Deconv", kernel_size, self.scale), out // groups, features)
            kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        elif not isinstance(kernel, nnx.Variable):
            raise TypeError(
                f"Deconv: kernel must be the nnx.Param of the encoder's convolution, to be shared; "
                f"got {type(kernel).__name__}."
            )
        else:
            _check_tied(kernel, features, out_features, kernel_size, self.scale, groups)
        self.kernel = kernel
        self.bias = nnx.Param(bias_init(rngs.params(), (kernel.shape[-2] * groups,), param_dtype)) if use_bias else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _check_channels("Deconv", x, self.features, len(self.scale))
        x, kernel, bias = _cast(self.dtype, x, self.kernel[...], None if self.bias is None else self.bias[...])
        y = convolution.deconv(
            x, kernel, strides=self.scale, padding=self.padding, dilation=self.dilation, groups=self.groups
        )
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
        self.scale = _arguments.per_axis("SubPixelConv", "scale", scale, None)
        self.padding = _static(padding)
        self.dtype = dtype
        window = _arguments.per_axis("SubPixelConv", "kernel_size", kernel_size, len(self.scale))
        out = (out_features or features) * math.prod(self.scale)
        init = initializers.icnr(self.scale, kernel_init)
        self.kernel = nnx.Param(init(rngs.params(), (*window, features, out), param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (out,), param_dtype)) if use_bias else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _check_channels("SubPixelConv", x, self.features, len(self.scale))
        x, kernel, bias = _cast(self.dtype, x, self.kernel[...], None if self.bias is None else self.bias[...])
        return convolution.sub_pixel_conv(x, kernel, bias, scale=self.scale, padding=self.padding)


@register("resize_conv", family="convolution", paper="Odena et al. 2016, doi:10.23915/distill.00003")
class ResizeConv(nnx.Module):
    """Interpolates, then convolves at the high resolution, where every output pixel has the same number of taps.

    Args:
      features: channels of the input.
      scale: factor, one number for both axes of an image or one per spatial axis.
      out_features: channels of the output; `features` if not given.
      method, convention: the interpolation, as in `upsampling.resize`. The paper prefers nearest.
      kernel_size: window of the convolution.
      padding: padding of the convolution.
      use_bias: whether to add a bias.
      kernel_init, bias_init, dtype, param_dtype, rngs: as in `TransposedConv`.

    Shapes: `(*batch, *spatial, features)` to `(*batch, *spatial * scale, out_features)`.

    Raises:
      ValueError: channels that do not match, or numbers out of range.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.ResizeConv(8, scale=2, out_features=3, method="bilinear", rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((16, 16, 8))).shape
    (32, 32, 3)
    """

    def __init__(
        self,
        features: int,
        scale: float | tuple[float, ...] = 2,
        *,
        out_features: int | None = None,
        method: str = "nearest",
        convention: Any = "torch",
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
        self.scale = _arguments.per_axis("ResizeConv", "scale", scale, None, real=True)
        self.method = method
        self.convention = convention
        self.padding = _static(padding)
        self.dtype = dtype
        window = _arguments.per_axis("ResizeConv", "kernel_size", kernel_size, len(self.scale))
        out = out_features or features
        self.kernel = nnx.Param(kernel_init(rngs.params(), (*window, features, out), param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (out,), param_dtype)) if use_bias else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _check_channels("ResizeConv", x, self.features, len(self.scale))
        x, kernel, bias = _cast(self.dtype, x, self.kernel[...], None if self.bias is None else self.bias[...])
        x = interpolation.resize(x, scale=self.scale, method=self.method, convention=self.convention)
        return convolution.sub_pixel_conv(x, kernel, bias, scale=1, padding=self.padding)


@register(
    "max_unpool",
    family="convolution",
    paper="Badrinarayanan et al. 2017, arXiv:1511.00561",
    uses_guide=True,
    needs_pooling=True,
)
class MaxUnpool(nnx.Module):
    """Puts each value where an encoder's max-pooling found its maximum: `upsampling.max_unpool` as a layer.

    It has no parameters and leaves all but one pixel in a window zero, for the convolutions after it to fill.

    Args:
      features: channels of the input, which are those of the pooled map.
      scale: the pooling's window and stride, one whole number for both axes of an image or one per spatial axis.
      rngs: not used.

    Call it with the map that was pooled as `guide`, or, where the encoder kept them, with `indices=`.

    Shapes: `(*batch, *spatial, features)` to the size of the guide, or to `(*batch, *spatial * scale, features)`.

    Raises:
      ValueError: channels that do not match, a guide whose pooling has another shape than the input, or neither guide
        nor indices.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> layer = up.nn.MaxUnpool(1)
    >>> before = jnp.array([[1.0, 5.0, 2.0, 2.0], [3.0, 4.0, 2.0, 0.0]])[..., None]
    >>> values, indices = up.max_pool_with_indices(before, 2)
    >>> layer(10 * values, before)[..., 0]
    Array([[ 0., 50., 20.,  0.],
           [ 0.,  0.,  0.,  0.]], dtype=float32)
    >>> bool((layer(10 * values, before) == layer(10 * values, indices=indices)).all())
    True
    """

    def __init__(self, features: int, scale: int | tuple[int, ...] = 2, *, rngs: nnx.Rngs | None = None):
        self.features = features
        self.scale = _arguments.per_axis("MaxUnpool", "scale", scale, None)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, indices: jax.Array | None = None) -> jax.Array:
        """Unpools `x` by `indices`, or else by those of pooling `guide`."""
        rank = len(self.scale)
        x = _check_channels("MaxUnpool", x, self.features, rank)
        size = tuple(n * s for n, s in zip(x.shape[-1 - rank : -1], self.scale, strict=True))
        if guide is not None:
            guide = _check_channels("MaxUnpool", guide, self.features, rank, "guide")
            size = guide.shape[-1 - rank : -1]
            if indices is None:
                indices = pooling.max_pool_with_indices(guide, self.scale)[1]
        if indices is None:
            raise ValueError(
                "MaxUnpool: guide, the map that the encoder pooled, or indices, where its maxima were, must be given."
            )
        if indices.shape != x.shape:
            raise ValueError(
                f"MaxUnpool: the indices of the pooled guide must have the shape of x, {x.shape}; got {indices.shape}."
            )
        return pooling.max_unpool(x, indices, size)


@register("dupsampling", family="convolution", paper="Tian et al. 2019, arXiv:1903.02120")
class DUpsampling(nnx.Module):
    """Projects each pixel linearly to a block of pixels, by a matrix that can be read off the labels before training.

    Args:
      features: channels of the input.
      scale: factor, one whole number for both axes of an image or one per spatial axis.
      out_features: channels of the output, the classes where it makes logits; `features` if not given.
      temperature: whether to divide the result by a learned number, which starts at 1, as the paper does for the
        softmax of the logits.
      kernel_init: initialiser of the matrix, for the shape (*scale, features, out_features).
        `initializers.label_blocks` is the paper's.
      dtype, param_dtype, rngs: as in `TransposedConv`.

    Shapes: `(*batch, *spatial, features)` to `(*batch, *spatial * scale, out_features)`.

    Raises:
      ValueError: channels that do not match, or numbers out of range.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.DUpsampling(32, scale=4, out_features=3, temperature=True, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((8, 8, 32))).shape
    (32, 32, 3)
    """

    def __init__(
        self,
        features: int,
        scale: int | tuple[int, ...] = 2,
        *,
        out_features: int | None = None,
        temperature: bool = False,
        kernel_init: Initializer | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.features = features
        self.scale = _arguments.per_axis("DUpsampling", "scale", scale, None)
        self.dtype = dtype
        shape = (*self.scale, features, out_features or features)
        # One tap reaches each output pixel, so the blocks' pixels do not count towards the fan-in.
        kernel_init = kernel_init or _keep_variance(self.scale)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.temperature = nnx.Param(jnp.ones((), param_dtype)) if temperature else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _check_channels("DUpsampling", x, self.features, len(self.scale))
        x, kernel, temperature = _cast(
            self.dtype, x, self.kernel[...], None if self.temperature is None else self.temperature[...]
        )
        y = convolution.transposed_conv(x, kernel, strides=self.scale)
        return y if temperature is None else y / temperature


def _static(given: Any) -> Any:
    """`given` with tuples for lists, which NNX would take for lists of modules."""
    return tuple(_static(g) for g in given) if isinstance(given, (list, tuple)) else given


def _keep_variance(strides: tuple[int, ...]) -> Initializer:
    """Keeps the variance of the input: an output pixel sums `kernel_size / stride` taps per axis, not `kernel_size`."""
    return nnx.initializers.variance_scaling(float(math.prod(strides)), "fan_in", "truncated_normal")


def _check_groups(function: str, groups: int, features: int, out: int) -> None:
    _arguments.number(function, "groups", groups)
    if features % groups or out % groups:
        raise ValueError(f"{function}: groups={groups} must divide features={features} and out_features={out}.")


def _window(function: str, kernel_size: Any, scale: tuple[int, ...]) -> tuple[int, ...]:
    if kernel_size is None:
        return tuple(2 * s for s in scale)
    return _arguments.per_axis(function, "kernel_size", kernel_size, len(scale))


def _check_tied(
    kernel: nnx.Variable, features: int, out_features: Any, kernel_size: Any, scale: tuple, groups: int
) -> None:
    """Raises ValueError unless the encoder's kernel is what the layer's other arguments say."""
    shape = kernel.shape
    window = shape[:-2] if kernel_size is None else _window("Deconv", kernel_size, scale)
    inner = out_features // groups if out_features else (shape[-2] if len(shape) > 1 else "in")
    expected = (*window, inner, features)
    if len(shape) != len(scale) + 2 or shape != expected:
        raise ValueError(
            f"Deconv: kernel must be (*window, out_features // groups, features) with {len(scale)} window axes, "
            f"here {expected}; got shape {shape}."
        )
