"""Learned upsampling with the same kernel everywhere, as layers."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from upsampling import _arguments, conventions, convolution, interpolation, pooling
from upsampling._arguments import Numbers, Padding
from upsampling.conventions import Convention, Preset
from upsampling.nn import _layers, initializers
from upsampling.nn.initializers import Initializer
from upsampling.nn.registry import Upsampler, register
from upsampling.primitives._common import with_axes

_PADDINGS: tuple[Literal["SAME", "VALID", "CIRCULAR"], ...] = ("SAME", "VALID", "CIRCULAR")


@register("transposed_conv", family="convolution", paper="Zeiler et al. 2010, doi:10.1109/CVPR.2010.5539957")
class TransposedConv(Upsampler):
    """Adds a multiple of a learned kernel at every stride: `upsampling.transposed_conv` as a layer.

    Args:
      features: channels of the input.
      scale: stride, one whole number for both axes of an image or one per spatial axis.
      out_features: channels of the output; `features` if not given.
      kernel_size: window; `2 * scale` if not given, the least that overlaps evenly and can express bilinear
        interpolation.
      padding, output_padding, dilation: as in `upsampling.transposed_conv`; padding "SAME" gives `size * scale`.
      groups: number of channel groups.
      use_bias: whether to add a bias.
      kernel_init, bias_init: initializers. The kernel's default keeps the variance of the input: an output pixel is
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
        scale: Numbers = 2,
        *,
        out_features: int | None = None,
        kernel_size: Numbers | None = None,
        padding: Padding = "SAME",
        output_padding: Numbers = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_init: Initializer | None = None,
        bias_init: Initializer = _layers.ZEROS,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "TransposedConv"
        self.features, self.scale = _layers.sizes(name, features, scale)
        rank = len(self.scale)
        out = _layers.or_features(name, "out_features", out_features, features)
        window = _window_size(name, kernel_size, self.scale)
        self.padding: Padding = _arguments.padding(name, padding, rank, names=_PADDINGS)
        self.output_padding = _arguments.per_axis(name, "output_padding", output_padding, rank, minimum=0)
        self.dilation = _arguments.per_axis(name, "dilation", dilation, rank)
        self.groups = _arguments.divisor(name, "groups", groups, features=features, out_features=out)
        self.dtype = dtype
        # The rules on output_padding are the function's, here for an input of which any padding leaves something.
        pads = ((0, 0),) * rank if isinstance(self.padding, str) else self.padding
        large = tuple(sum(pair) + 1 for pair in pads)
        convolution._crop(name, large, window, self.scale, self.padding, self.output_padding, self.dilation)
        kernel_init = _layers.keep_variance(self.scale) if kernel_init is None else kernel_init
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init, bias_init=bias_init)
        use_bias = _arguments.flag(name, "use_bias", use_bias)
        shape = (*window, features // self.groups, out)
        self.kernel = _layers.parameter(rngs, kernel_init, shape, param_dtype)
        self.bias = _layers.parameter(rngs, bias_init, (out,), param_dtype) if use_bias else None

    def __call__(
        self, x: jax.Array, guide: jax.Array | None = None, *, output_size: Numbers | None = None
    ) -> jax.Array:
        """Upsamples `x`, to `output_size` where one is given; `guide` is accepted, as by every layer, and not used."""
        x = _layers.checked_map("TransposedConv", x, self.features, len(self.scale))
        x, kernel, bias = _layers.cast(self.dtype, x, self.kernel[...], _layers.value(self.bias))
        return convolution.transposed_conv(
            x,
            kernel,
            bias,
            strides=self.scale,
            padding=self.padding,
            output_padding=self.output_padding if output_size is None else 0,
            dilation=self.dilation,
            groups=self.groups,
            output_size=output_size,
        )


@register("deconv", family="convolution", paper="Zeiler and Fergus 2014, arXiv:1311.2901", ties_encoder=True)
class Deconv(Upsampler):
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
        scale: Numbers = 2,
        *,
        kernel: nnx.Param[jax.Array] | None = None,
        out_features: int | None = None,
        kernel_size: Numbers | None = None,
        padding: Padding = "SAME",
        dilation: Numbers = 1,
        groups: int = 1,
        use_bias: bool = True,
        kernel_init: Initializer = _layers.LECUN,
        bias_init: Initializer = _layers.ZEROS,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "Deconv"
        self.features, self.scale = _layers.sizes(name, features, scale)
        rank = len(self.scale)
        self.padding: Padding = _arguments.padding(name, padding, rank, names=_PADDINGS)
        self.dilation = _arguments.per_axis(name, "dilation", dilation, rank)
        self.dtype = dtype
        out = _layers.or_features(name, "out_features", out_features, features)
        window = _window_size(name, kernel_size, self.scale)
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init, bias_init=bias_init)
        use_bias = _arguments.flag(name, "use_bias", use_bias)
        channels = {"features": features} if out_features is None else {"features": features, "out_features": out}
        self.groups = _arguments.divisor(name, "groups", groups, **channels)
        if kernel is None:
            kernel = _layers.parameter(rngs, kernel_init, (*window, out // self.groups, features), param_dtype)
        else:
            given_window = None if kernel_size is None else window
            _check_tied(kernel, features, rank, given_window, None if out_features is None else out // self.groups)
        self.kernel = kernel
        out = kernel.shape[-2] * self.groups
        self.bias = _layers.parameter(rngs, bias_init, (out,), param_dtype) if use_bias else None

    def __call__(
        self, x: jax.Array, guide: jax.Array | None = None, *, output_size: Numbers | None = None
    ) -> jax.Array:
        """Upsamples `x`, to `output_size` where one is given; `guide` is accepted, as by every layer, and not used."""
        x = _layers.checked_map("Deconv", x, self.features, len(self.scale))
        x, kernel, bias = _layers.cast(self.dtype, x, self.kernel[...], _layers.value(self.bias))
        y = convolution.deconv(
            x,
            kernel,
            strides=self.scale,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            output_size=output_size,
        )
        return y if bias is None else y + with_axes(bias, y.ndim)


@register("sub_pixel_conv", family="convolution", paper="Shi et al. 2016, arXiv:1609.05158")
class SubPixelConv(Upsampler):
    """Convolves at low resolution, then shuffles channels into pixels: `upsampling.sub_pixel_conv` as a layer.

    Args:
      features: channels of the input.
      scale: factor, one whole number for both axes of an image or one per spatial axis.
      out_features: channels of the output; `features` if not given.
      kernel_size: window of the convolution.
      padding: padding of the convolution.
      use_bias: whether to add a bias.
      kernel_init: initializer of one phase's kernel; all phases start alike (ICNR, Aitken et al. 2017), so that the
        layer starts as a convolution followed by nearest-neighbor upsampling, without a checkerboard.
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
        scale: Numbers = 2,
        *,
        out_features: int | None = None,
        kernel_size: Numbers = 3,
        padding: Padding = "SAME",
        use_bias: bool = True,
        kernel_init: Initializer = _layers.LECUN,
        bias_init: Initializer = _layers.ZEROS,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "SubPixelConv"
        self.features, self.scale = _layers.sizes(name, features, scale)
        out = _layers.or_features(name, "out_features", out_features, features) * math.prod(self.scale)
        window = _arguments.per_axis(name, "kernel_size", kernel_size, len(self.scale))
        self.padding: Padding = _arguments.padding(name, padding, len(self.scale), names=_PADDINGS)
        self.dtype = dtype
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init, bias_init=bias_init)
        use_bias = _arguments.flag(name, "use_bias", use_bias)
        init = initializers.icnr(self.scale, kernel_init)
        self.kernel = _layers.parameter(rngs, init, (*window, features, out), param_dtype)
        self.bias = _layers.parameter(rngs, bias_init, (out,), param_dtype) if use_bias else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _layers.checked_map("SubPixelConv", x, self.features, len(self.scale))
        x, kernel, bias = _layers.cast(self.dtype, x, self.kernel[...], _layers.value(self.bias))
        return convolution.sub_pixel_conv(x, kernel, bias, scale=self.scale, padding=self.padding)


@register("resize_conv", family="convolution", paper="Odena et al. 2016, doi:10.23915/distill.00003")
class ResizeConv(Upsampler):
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
        scale: float | Sequence[float] = 2,
        *,
        out_features: int | None = None,
        method: conventions.Method = "nearest",
        convention: Preset | Convention = "torch",
        kernel_size: Numbers = 3,
        padding: Padding = "SAME",
        use_bias: bool = True,
        kernel_init: Initializer = _layers.LECUN,
        bias_init: Initializer = _layers.ZEROS,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "ResizeConv"
        self.features, self.scale = _layers.sizes(name, features, scale, real=True)
        out = _layers.or_features(name, "out_features", out_features, features)
        _layers.check_interpolation(name, method, convention)
        self.method: conventions.Method = method
        self.convention: Preset | Convention = convention
        window = _arguments.per_axis(name, "kernel_size", kernel_size, len(self.scale))
        self.padding: Padding = _arguments.padding(name, padding, len(self.scale), names=_PADDINGS)
        self.dtype = dtype
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init, bias_init=bias_init)
        use_bias = _arguments.flag(name, "use_bias", use_bias)
        self.kernel = _layers.parameter(rngs, kernel_init, (*window, features, out), param_dtype)
        self.bias = _layers.parameter(rngs, bias_init, (out,), param_dtype) if use_bias else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _layers.checked_map("ResizeConv", x, self.features, len(self.scale))
        x, kernel, bias = _layers.cast(self.dtype, x, self.kernel[...], _layers.value(self.bias))
        x = interpolation.resize(x, scale=self.scale, method=self.method, convention=self.convention)
        return convolution.sub_pixel_conv(x, kernel, bias, scale=1, padding=self.padding)


@register(
    "max_unpool",
    family="convolution",
    paper="Badrinarayanan et al. 2017, arXiv:1511.00561",
    uses_guide=True,
    needs_pooling=True,
)
class MaxUnpool(Upsampler):
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

    def __init__(self, features: int, scale: Numbers = 2, *, rngs: nnx.Rngs | None = None):
        self.features, self.scale = _layers.sizes("MaxUnpool", features, scale)
        _layers.check_unused("MaxUnpool", rngs)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, indices: jax.Array | None = None) -> jax.Array:
        """Unpools `x` by `indices`, or else by those of pooling `guide`."""
        rank = len(self.scale)
        x = _layers.checked_map("MaxUnpool", x, self.features, rank)
        size = tuple(n * s for n, s in zip(x.shape[-1 - rank : -1], self.scale, strict=True))
        if guide is not None:
            guide = _layers.checked_map("MaxUnpool", guide, self.features, rank, "guide")
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
class DUpsampling(Upsampler):
    """Projects each pixel linearly to a block of pixels, by a matrix that can be read off the labels before training.

    Args:
      features: channels of the input.
      scale: factor, one whole number for both axes of an image or one per spatial axis.
      out_features: channels of the output, the classes where it makes logits; `features` if not given.
      temperature: whether to divide the result by a learned number, which starts at 1, as the paper does for the
        softmax of the logits.
      kernel_init: initializer of the matrix, for the shape (*scale, features, out_features).
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
        scale: Numbers = 2,
        *,
        out_features: int | None = None,
        temperature: bool = False,
        kernel_init: Initializer | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "DUpsampling"
        self.features, self.scale = _layers.sizes(name, features, scale)
        out = _layers.or_features(name, "out_features", out_features, features)
        temperature = _arguments.flag(name, "temperature", temperature)
        self.dtype = dtype
        # One tap reaches each output pixel, so the blocks' pixels do not count towards the fan-in.
        kernel_init = _layers.keep_variance(self.scale) if kernel_init is None else kernel_init
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init)
        self.kernel = _layers.parameter(rngs, kernel_init, (*self.scale, features, out), param_dtype)
        self.temperature = nnx.Param(jnp.ones((), param_dtype)) if temperature else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _layers.checked_map("DUpsampling", x, self.features, len(self.scale))
        x, kernel, temperature = _layers.cast(self.dtype, x, self.kernel[...], _layers.value(self.temperature))
        y = convolution.transposed_conv(x, kernel, strides=self.scale)
        return y if temperature is None else y / temperature


def _window_size(layer: str, kernel_size: Any, scale: tuple[int, ...]) -> tuple[int, ...]:
    """The window of a kernel, `2 * scale` if not given."""
    if kernel_size is None:
        return tuple(2 * s for s in scale)
    return _arguments.per_axis(layer, "kernel_size", kernel_size, len(scale))


def _check_tied(kernel: Any, features: int, rank: int, window: tuple[int, ...] | None, inner: int | None) -> None:
    """Raises unless the encoder's kernel is a parameter of the shape that the layer's other arguments say."""
    if not isinstance(kernel, nnx.Variable):
        raise TypeError(
            "Deconv: kernel must be the nnx.Param of the encoder's convolution, to be shared; "
            f"got {type(kernel).__name__}."
        )
    shape = kernel.shape
    expected = (
        *(shape[:-2] if window is None else window),
        (shape[-2] if len(shape) > 1 else "in") if inner is None else inner,
        features,
    )
    if len(shape) != rank + 2 or shape != expected:
        raise ValueError(
            f"Deconv: kernel must be (*window, out_features // groups, features) with {rank} window axes, "
            f"here {expected}; got shape {shape}."
        )
