"""Upsamplers of image matting as layers: IndexNet and A2U."""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from upsampling import _arguments, convolution, interpolation, matting
from upsampling._arguments import Numbers
from upsampling.nn import _layers
from upsampling.nn._sizes import AnySize
from upsampling.nn.initializers import Initializer
from upsampling.nn.registry import register
from upsampling.primitives._common import accumulator, core

Index = Literal["m2o", "o2o", "holistic"]

_KAIMING = nnx.initializers.he_normal()


@register(
    "indexnet",
    family="reassembly",
    paper="Lu et al. 2019, arXiv:1908.00672",
    uses_guide=True,
    spatial_axes=(2,),
)
class IndexNet(AnySize):
    """The nearest pixel times a learned index map: `upsampling.matting.index_upsample` with the network of the map.

    Four blocks of convolutions look at the guide's cells of 2x2 pixels, one for each pixel of the cell. In the
    authors' networks the encoder also pools its map, the guide here, by these indices, softmax in the place of the
    sigmoid's plain values; a decoder alone does without.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis. The authors have 2; the cells are 2x2 for any.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given, and necessarily, unless `index="holistic"`.
      index: "m2o", an index map for each channel, from all of the guide's; "o2o", from that channel alone; or
        "holistic", one for all channels.
      nonlinear: whether a block has batch normalization, ReLU6 and a 1x1 convolution after its first convolution.
      context: whether it sees 4x4 pixels around the cell, or else the cell alone.
      kernel_init: initializer of the kernels; by default He's normal.
      dtype, param_dtype, rngs: as in `TransposedConv`.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H', W', guide_features)` to `(*batch, *size, features)`.
    The size is the call's `size=`, or the layer's, or the guide's, which is then `scale` times the input's, or any
    other of at least the input's. A guide of another size than the call's is brought to it bilinearly.

    The defaults are those of the authors' published network. Batch normalization uses its running averages until
    `layer.train()` is called, and again after `layer.eval()`.

    Raises:
      ValueError: a guide that is missing or does not fit, channels that do not match, or an unknown index.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.IndexNet(8, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 4, 8)), jnp.ones((8, 8, 8))).shape
    (8, 8, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        index: Index = "m2o",
        nonlinear: bool = True,
        context: bool = True,
        kernel_init: Initializer = _KAIMING,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "IndexNet"
        self._set_sizes(features, scale, size, guide_features)
        self.index = _arguments.one_of(name, "index", index, get_args(Index))
        nonlinear = _arguments.flag(name, "nonlinear", nonlinear)
        window = 4 if _arguments.flag(name, "context", context) else 2
        self.dtype = dtype
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init)
        channels = self.guide_features
        if index != "holistic" and channels != self.features:
            raise ValueError(
                f"{name}: guide_features={channels} must equal features={self.features} with index={index!r}, whose "
                "index maps are for the guide's channels."
            )
        # The blocks side by side: channels of a block are adjacent, or with "o2o" the blocks of a channel.
        maps, inner = (4, 2 * channels) if index == "holistic" else (4 * channels, 4 * channels)
        first = inner if nonlinear else maps
        taken = 1 if index == "o2o" else channels
        self.kernel = _layers.parameter(rngs, kernel_init, (window, window, taken, first), param_dtype)
        self.norm = _layers.make_batch_norm(first, param_dtype, rngs) if nonlinear else None
        shape = {"m2o": (4, channels, channels), "o2o": (maps,), "holistic": (inner, 4)}[index]
        draw = _unit if index == "o2o" else kernel_init
        self.last = _layers.parameter(rngs, draw, shape, param_dtype) if nonlinear else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x`, to `size` if it is given, by the index map of `guide`."""
        x, high, target = self._checked(x, guide, size)
        x, high = _layers.cast(self.dtype or jnp.result_type(x, self.kernel[...]), x, high)
        return matting.index_upsample(x, self.logits(interpolation.bilinear(high, target)), size=target)

    def logits(self, guide: jax.Array) -> jax.Array:
        """The logits of the index map, (*batch, H, W, features), or 1 for a holistic index, for a guide of its size."""
        y = matting.whole_cells(guide)
        groups = self.guide_features if self.index == "o2o" else 1
        y = _over_cells(y, self.kernel[...].astype(y.dtype), groups)
        if self.norm is not None and self.last is not None:
            y = jax.nn.relu6(_layers.batch_norm(y, self.norm))
            y = _last_of_blocks(y, self.last[...].astype(y.dtype))
        order = "DCR" if self.index == "m2o" else "CRD"
        height, width = guide.shape[-3:-1]
        return convolution.pixel_shuffle(y, 2, order=order)[..., :height, :width, :]


def _unit(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """He's normal for kernels of one pixel and one channel: a factor for each channel."""
    return jax.random.normal(key, shape, dtype) * jnp.sqrt(jnp.asarray(2, dtype))


@core(2)
def _over_cells(x: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
    """A convolution of stride 2 over cells of 2x2 pixels, with zeros around the image."""
    wide = accumulator(x.dtype)
    margin = (kernel.shape[0] - 2) // 2
    y = x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:]).astype(wide)
    y = lax.conv_general_dilated(
        y,
        kernel.astype(wide),
        (2, 2),
        [(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y.astype(x.dtype).reshape(*x.shape[:-3], *y.shape[1:])


@core()
def _last_of_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The 1x1 convolution of each block: (4, in, out), one matrix a block; (in, out); or a factor for each channel."""
    if kernel.ndim == 1:
        return x * kernel.reshape((1,) * (x.ndim - 1) + kernel.shape)
    if kernel.ndim == 2:
        return _layers.project(x, kernel)
    wide = accumulator(x.dtype)
    blocks = x.reshape(*x.shape[:-1], *kernel.shape[:2]).astype(wide)
    return jnp.einsum("...bi,bio->...bo", blocks, kernel.astype(wide)).astype(x.dtype).reshape(x.shape)


@register(
    "a2u",
    family="reassembly",
    paper="Dai et al. 2021, arXiv:2011.14288",
    uses_guide=True,
    spatial_axes=(2,),
)
class A2U(AnySize):
    """Affinity-aware upsampling: `upsampling.matting.a2u` with a network that predicts affinities from the guide.

    The guide's averages over `encoder_kernel_size` squared parts of the image make two kernels, which filter the guide
    itself; the inner products of what they find in each cell of 2x2 pixels, times numbers that the guide's mean makes,
    are the logits. So all weights of an image come from one number for each cell.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis. The authors have 2; the cells are 2x2 for any.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given.
      kernel_size: window of the reassembly, odd.
      encoder_kernel_size: side of the kernels that filter the guide.
      share: whether all channels of the guide are filtered alike.
      groups: of the normalization after the filters; the authors have 32. None takes the largest of 32, 16, 8, 4, 2
        and 1 that divides the guide's channels.
      kernel_init: initializer of the kernels; by default He's normal.
      dtype, param_dtype, rngs: as in `TransposedConv`. Weights are computed at least in float32.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H', W', guide_features)` to `(*batch, *size, features)`.
    The size is the call's `size=`, or the layer's, or the guide's, which is then `scale` times the input's, or any
    other of at least the input's. A guide of another size than the call's is brought to it bilinearly.

    The defaults are those of the authors' published network. What predicts how their encoder pools is left out.

    Raises:
      ValueError: a guide that is missing or does not fit, channels that do not match, or numbers that do not divide.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.A2U(8, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 4, 8)), jnp.ones((8, 8, 8))).shape
    (8, 8, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        kernel_size: int = 3,
        encoder_kernel_size: int = 6,
        share: bool = True,
        groups: int | None = None,
        kernel_init: Initializer = _KAIMING,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "A2U"
        self._set_sizes(features, scale, size, guide_features)
        (self.kernel_size,) = _arguments.odd(name, "kernel_size", (kernel_size,), 1)
        self.encoder_kernel_size = _arguments.number(name, "encoder_kernel_size", encoder_kernel_size)
        share = _arguments.flag(name, "share", share)
        channels = self.guide_features
        groups = math.gcd(32, channels) if groups is None else groups
        groups = _arguments.divisor(name, "groups", groups, guide_features=channels)
        self.dtype = dtype
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init)
        options: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}

        def linear(out: int) -> nnx.Linear:
            return nnx.Linear(channels, out, kernel_init=kernel_init, **options)

        self.first, self.second = (linear(1 if share else channels) for _ in range(2))
        self.first_norm, self.second_norm = (
            nnx.GroupNorm(channels, groups, epsilon=1e-5, use_fast_variance=False, **options) for _ in range(2)
        )
        self.prediction = linear(4 * self.kernel_size**2)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x`, to `size` if it is given, by the affinities of `guide`."""
        x, high, target = self._checked(x, guide, size)
        x, high = _layers.cast(self.dtype or jnp.result_type(x, self.first.kernel[...]), x, high)
        logits = self.logits(interpolation.bilinear(high, target))
        return matting.a2u(x, logits, size=target, kernel_size=self.kernel_size)

    def logits(self, guide: jax.Array) -> jax.Array:
        """The logits of each pixel's window, (*batch, H, W, taps), for a guide of that size."""
        whole = matting.whole_cells(guide)
        parts = interpolation.area(whole, (self.encoder_kernel_size,) * 2)

        prediction = _linear(interpolation.area(whole, (1, 1))[..., 0, 0, :], self.prediction)
        # Both read the guide: together they are one convolution where one is used.
        found = matting._cell_convolutions(whole, _linear(parts, self.first), _linear(parts, self.second))
        first, second = (
            _layers.relu(_layers.group_norm(y, norm), 0.01)
            for y, norm in zip(found, (self.first_norm, self.second_norm), strict=True)
        )
        return matting.affinity_logits(first, second, prediction, guide.shape[-3:-1])


def _linear(x: jax.Array, layer: nnx.Linear) -> jax.Array:
    assert layer.bias is not None
    return _layers.project(x, layer.kernel[...].astype(x.dtype), layer.bias[...].astype(x.dtype))
