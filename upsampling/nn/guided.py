"""Upsampling along the edges of a guide, as layers: joint bilateral, FeatUp's learned one, and the guided filter."""

import itertools
import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from upsampling import _arguments, guided, interpolation
from upsampling._arguments import Numbers
from upsampling.conventions import Convention, Preset
from upsampling.nn import _layers
from upsampling.nn._sizes import AnySize
from upsampling.nn.registry import Upsampler, register
from upsampling.primitives._common import core

Mean = Literal["box", "conv"]
Norm = Callable[..., Callable[..., jax.Array]]


@register(
    "joint_bilateral",
    family="reassembly",
    paper="Kopf et al. 2007, doi:10.1145/1276377.1276497",
    uses_guide=True,
    spatial_axes=(2,),
    variants={"features": {"sigma_range": 1.0}},
)
class JointBilateral(AnySize):
    """Averages near pixels that look alike in the guide: `upsampling.joint_bilateral` as a layer, with no parameters.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given.
      radius, sigma_spatial: as in `upsampling.joint_bilateral`.
      sigma_range: the same. The default, the paper's, is for images in [0, 1]; the variant "features" of `create` has
        1.0, for normalized feature maps.
      rngs: not used.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H * scale, W * scale, guide_features)` to
    `(*batch, H * scale, W * scale, features)`. A guide of another size, at least that of the input,
    decides the output's. With `size=`, the layer's or the call's, the guide may have any size, and is brought to that
    one bilinearly.

    Raises:
      ValueError: a guide that is missing or does not fit, channels that do not match, or numbers out of range.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> layer = up.nn.JointBilateral(8, guide_features=3, radius=1)
    >>> layer(jnp.ones((4, 4, 8)), jnp.ones((8, 8, 3))).shape
    (8, 8, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        radius: int = 2,
        sigma_spatial: float = 0.5,
        sigma_range: float = 0.1,
        rngs: nnx.Rngs | None = None,
    ):
        name = "JointBilateral"
        self._set_sizes(features, scale, size, guide_features)
        self.radius = _arguments.number(name, "radius", radius, minimum=0)
        self.sigma_spatial = _arguments.width(name, "sigma_spatial", sigma_spatial)
        self.sigma_range = _arguments.width(name, "sigma_range", sigma_range)
        _layers.check_unused(name, rngs)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x` along the edges of `guide`."""
        x, guide = self._checked_alike(x, guide, size)
        return guided.joint_bilateral(
            x, guide, radius=self.radius, sigma_spatial=self.sigma_spatial, sigma_range=self.sigma_range
        )


@register(
    "jbu",
    family="reassembly",
    paper="Fu et al. 2024, arXiv:2403.10516",
    uses_guide=True,
    spatial_axes=(2,),
    variants={"small": {"key_features": 16, "radius": 2}},
)
class JBU(AnySize):
    """FeatUp's joint bilateral upsampling with a learned range kernel; `JBUStack` is several of them.

    Two 1x1 convolutions map the guide to what the range kernel compares (`upsampling.bilateral_kernel`), two more
    correct the kernel by a tenth of what they make of it and the guide, and the bicubically enlarged input is filtered
    by it (`upsampling.learned_bilateral`). The dropout of the authors' training is left out. The defaults are the
    authors'; the variant "small" of `create` has half the channels and a radius of 2, for a CPU.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given. Published weights are for images, 3.
      key_features: channels that the range kernel compares.
      radius: of the kernel, in pixels of the output.
      dtype, param_dtype, rngs: as in `TransposedConv`. The kernel is computed at least in float32.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H * scale, W * scale, guide_features)` to
    `(*batch, H * scale, W * scale, features)`. A guide of another size, at least that of the input,
    decides the output's. With `size=`, the layer's or the call's, the guide may have any size, and is brought to that
    one bilinearly.

    Raises:
      ValueError: a guide that is missing or does not fit, channels that do not match, or numbers out of range.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.JBU(8, guide_features=3, radius=1, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 4, 8)), jnp.ones((8, 8, 3))).shape
    (8, 8, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        key_features: int = 32,
        radius: int = 3,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "JBU"
        self._set_sizes(features, scale, size, guide_features)
        key_features = _arguments.number(name, "key_features", key_features)
        self.radius = _arguments.number(name, "radius", radius, minimum=0)
        self.dtype = dtype
        _layers.check_parameters(name, rngs, param_dtype, dtype)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        taps = (2 * self.radius + 1) ** 2
        self.range_proj = nnx.List(
            [
                nnx.Linear(self.guide_features, key_features, **options),
                nnx.Linear(key_features, key_features, **options),
            ]
        )
        self.fixup_proj = nnx.List([nnx.Linear(n, taps, **options) for n in (self.guide_features + taps, taps)])
        # The temperature's logarithm is learned.
        self.range_temp = nnx.Param(jnp.zeros((), param_dtype))
        self.sigma_spatial = nnx.Param(jnp.ones((), param_dtype))

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x` along the edges of `guide`."""
        x, high = self._checked_alike(x, guide, size)
        x, high = _layers.cast(self.dtype or jnp.result_type(x, self.range_temp[...]), x, high)
        return guided.learned_bilateral(x, self.kernel(high))

    def kernel(self, guide: jax.Array) -> jax.Array:
        """The corrected kernel of each pixel of the guide, (*batch, H, W, k, k)."""
        kernel = guided.bilateral_kernel(
            _two_layers(self.range_proj, guide),
            radius=self.radius,
            temperature=_temperature(self.range_temp[...]),
            sigma_spatial=self.sigma_spatial[...],
        )
        flat = kernel.reshape(*kernel.shape[:-2], math.prod(kernel.shape[-2:]))
        first, second = self.fixup_proj
        weights, bias = first.kernel[...].astype(guide.dtype), _layers.value(first.bias)
        hidden = _layers.project_both(flat.astype(guide.dtype), guide, weights, bias)
        correction = second(_layers.gelu(hidden))
        return _layers.add_share(kernel, correction.reshape(kernel.shape), 0.1)


@core()
def _temperature(logarithm: jax.Array) -> jax.Array:
    return jnp.clip(jnp.exp(logarithm), 1e-4, 1e4)


def _two_layers(layers: nnx.List, x: jax.Array) -> jax.Array:
    return layers[1](_layers.gelu(layers[0](x)))


class JBUStack(Upsampler):
    """FeatUp's upsampler: layers of `JBU` that double the size one after the other, then a 1x1 convolution.

    Each layer's guide is the given one, averaged to the size that the layer makes. A tenth of what the convolution
    makes of the result is added to it. The dropout of the authors' training is left out.

    Args:
      features: channels of the input and the output.
      scale: factor of both axes, a power of two above one. The authors have 16, four layers.
      guide_features: channels of the guide; an image's 3, if not given.
      key_features, radius, dtype, param_dtype, rngs: as in `JBU`.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H * scale, W * scale, guide_features)` to
    `(*batch, H * scale, W * scale, features)`. A guide of another size, at least that of the input, decides the
    output's, and each layer's size is the next one's half, rounded up. With `any_guide=True` the output has `scale`
    times the input's size whatever the guide's, as in the authors' code: with a network of stride 14 the image is
    smaller than 16 times its features.

    Raises:
      ValueError: a scale that is no power of two, a guide that is missing or does not fit, or channels that do not
        match.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.JBUStack(8, scale=4, radius=1, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((2, 2, 8)), jnp.ones((8, 8, 3))).shape
    (8, 8, 8)

    Source: Fu et al. 2024, arXiv:2403.10516, section 3.2, and the authors' code.
    """

    def __init__(
        self,
        features: int,
        scale: int = 16,
        *,
        guide_features: int = 3,
        key_features: int = 32,
        radius: int = 3,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "JBUStack"
        self.features = _arguments.number(name, "features", features)
        self.scale = _arguments.number(name, "scale", scale, minimum=2)
        self.guide_features = _arguments.number(name, "guide_features", guide_features)
        key_features = _arguments.number(name, "key_features", key_features)
        radius = _arguments.number(name, "radius", radius, minimum=0)
        self.dtype = dtype
        _layers.check_parameters(name, rngs, param_dtype, dtype)
        layers = self.scale.bit_length() - 1
        if self.scale != 2**layers:
            raise ValueError(f"{name}: scale must be a power of two; got {scale}.")
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.layers = nnx.List(
            [
                JBU(features, guide_features=guide_features, key_features=key_features, radius=radius, **options)
                for _ in range(layers)
            ]
        )
        self.fixup_proj = nnx.Linear(features, features, **options)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, any_guide: bool = False) -> jax.Array:
        """Upsamples `x` along the edges of `guide`."""
        x = _layers.checked_map("JBUStack", x, self.features, 2)
        given = _arguments.array("JBUStack", "guide", guide).shape[-3:-1] if any_guide and guide is not None else None
        guide = _arguments.guide(
            "JBUStack", guide, x, (self.scale,) * 2, self.guide_features, size=given, any_size=not any_guide
        )
        for left in reversed(range(len(self.layers))):
            # Each layer doubles the size; or the sizes are those that halve the guide's, rounded up.
            doubled = tuple(2 * n for n in x.shape[-3:-1])
            halved = tuple(-(-n // 2**left) for n in guide.shape[-3:-1])
            size = doubled if any_guide else tuple(map(max, halved, x.shape[-3:-1]))
            x = self.layers[len(self.layers) - 1 - left](x, interpolation.area(guide, size))
        return _layers.add_share(x, self.fixup_proj(x), 0.1)


@register(
    "guided_filter",
    family="reassembly",
    paper="Wu et al. 2018, arXiv:1803.05619",
    uses_guide=True,
    spatial_axes=(2,),
    variants={"small": {"hidden": 16, "convention": "torch"}},
)
class GuidedFilter(AnySize):
    """The guided filter with learned parts: `upsampling.guided_filter`, channel by channel, as a layer.

    Three forms, as in the paper. The guide is mapped to `features` channels by two 1x1 convolutions with a ReLU
    between, at its own size and averaged to that of the input (`guide_map`, the default); or taken as it is. The
    linear functions are fitted in a box (`mean="box"`, the default); or, with `mean="conv"`, means are taken by a
    learned dilated 3x3 convolution, and slopes made of covariance and variance by three learned 1x1 convolutions. The
    defaults are the authors' for segmentation; the variant "small" of `create` has 16 channels in the map of the
    guide, and enlarges on the half-pixel grid. Their networks for images are
    `hidden=15, leak=0.2, map_bias=False, map_norm=AdaptiveNorm, epsilon=1e-4`.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given. Without `guide_map` it is 1 or `features`, and
        `features` where `mean="conv"`.
      guide_map: whether the guide is mapped.
      hidden: channels between the two convolutions of the map. For images the authors have 15.
      leak: slope below zero of the ReLU between them. For images the authors have 0.2.
      map_bias: whether the first of them has a bias.
      map_norm: the normalization after the first of them, as `norm`, which it is if not given.
      mean: "box" or "conv".
      slope_hidden: channels between the convolutions that make slopes, for `mean="conv"`.
      radius: of the box, or the convolution's dilation.
      epsilon, average, convention: as in `upsampling.guided_filter`.
      norm: the class of the normalization after each convolution but the last, such as `flax.nnx.BatchNorm`, called
        with the number of channels and `rngs=`; none if not given. The authors have it in networks for images, and not
        in those for segmentation.
      dtype, param_dtype, rngs: as in `TransposedConv`. The fit is computed at least in float32.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H * scale, W * scale, guide_features)` to
    `(*batch, H * scale, W * scale, features)`. A guide of another size, at least that of the input,
    decides the output's. With `size=`, the layer's or the call's, the guide may have any size, and is brought to that
    one bilinearly.

    Raises:
      ValueError: a guide that is missing or does not fit, channels that do not match, or numbers out of range.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.GuidedFilter(8, guide_features=3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 4, 8)), jnp.ones((8, 8, 3))).shape
    (8, 8, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        guide_map: bool = True,
        hidden: int = 64,
        leak: float = 0.0,
        map_bias: bool = True,
        map_norm: Norm | None = None,
        mean: Mean = "box",
        slope_hidden: int = 32,
        radius: int = 1,
        epsilon: float = 1e-2,
        average: bool = False,
        convention: Preset | Convention = "torch_align_corners",
        norm: Norm | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "GuidedFilter"
        self._set_sizes(features, scale, size, guide_features)
        guide_map = _arguments.flag(name, "guide_map", guide_map)
        hidden = _arguments.number(name, "hidden", hidden)
        self.mean = _arguments.one_of(name, "mean", mean, get_args(Mean))
        slope_hidden = _arguments.number(name, "slope_hidden", slope_hidden)
        self.radius = _arguments.number(name, "radius", radius, minimum=0)
        self.epsilon = _arguments.width(name, "epsilon", epsilon)
        self.average = _arguments.flag(name, "average", average)
        _layers.check_interpolation(name, "bilinear", convention)
        self.convention: Preset | Convention = convention
        leak = _arguments.number(name, "leak", leak, real=True, zero=True)
        map_bias = _arguments.flag(name, "map_bias", map_bias)
        for argument, given in (("norm", norm), ("map_norm", map_norm)):
            if given is not None:
                _layers.check_callable(name, argument, given)
        self.dtype = dtype
        _layers.check_parameters(name, rngs, param_dtype, dtype)
        if not guide_map and self.guide_features not in ((1, features) if mean == "box" else (features,)):
            raise ValueError(
                f"{name}: guide_features={self.guide_features} without guide_map must be features={features}"
                f"{' or 1' if mean == 'box' else ''}."
            )
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        widths = (self.guide_features, hidden, features)
        self.guide_map = (
            Pointwise(widths, map_norm or norm, options, use_bias=(map_bias, True), leak=leak) if guide_map else None
        )
        if mean == "conv":
            self.kernel = nnx.Param(jnp.ones((3, 3, features), param_dtype))
            slopes = (2 * features, slope_hidden, slope_hidden, features)
            self.slopes = Pointwise(slopes, norm, options, use_bias=(False,) * 3)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x` along the edges of `guide`."""
        x, high = self._checked_alike(x, guide, size)
        parameters = jax.tree.leaves(nnx.state(self, nnx.Param))
        x, high = _layers.cast(self.dtype or jnp.result_type(x, *parameters), x, high)
        low = interpolation.area(high, x.shape[-3:-1])
        if self.guide_map is not None:
            high, low = self.guide_map(high), self.guide_map(low, apart=True)
        if self.mean == "conv":
            return guided.convolutional_guided_filter(
                x, high, low, self.kernel[...], self.slopes, radius=self.radius, convention=self.convention
            )
        return guided.guided_filter(
            x,
            high,
            low,
            radius=self.radius,
            epsilon=self.epsilon,
            form="channelwise",
            average=self.average,
            convention=self.convention,
        )


class Pointwise(nnx.Module):
    """1x1 convolutions with ReLUs between, leaky ones if asked for, and a layer of `norm` before each of those."""

    def __init__(
        self,
        widths: tuple[int, ...],
        norm: Norm | None,
        options: dict,
        *,
        use_bias: tuple[bool, ...],
        leak: float = 0.0,
    ):
        pairs = zip(itertools.pairwise(widths), use_bias, strict=True)
        self.layers = nnx.List([nnx.Linear(a, b, use_bias=bias, **options) for (a, b), bias in pairs])
        made = [] if norm is None else [norm(width, rngs=options["rngs"]) for width in widths[1:-1]]
        self.norms = nnx.List(made)
        self.leak = leak

    def __call__(self, x: jax.Array, *, apart: bool = False) -> jax.Array:
        """With `apart`, XLA does not join the products with those of another call, whose results it would then cut."""
        for n, layer in enumerate(self.layers[:-1]):
            x = _pointwise(x, layer, apart)
            x = _layers.relu(self.norms[n](x) if self.norms else x, self.leak)
        y = _pointwise(x, self.layers[-1], apart)
        return _apart(y) if apart else y


class AdaptiveNorm(nnx.Module):
    """What Wu et al. have in place of batch normalization in networks for images: a learned mix of it and its input.

        y = w_0 x + w_1 batch_norm(x),    w_0 = 1 and w_1 = 0 at first

    Running averages are in use until `layer.train()` is called.

    Args:
      features: channels of the input.
      rngs: not used.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> up.nn.AdaptiveNorm(3, rngs=nnx.Rngs(0))(jnp.full((2, 2, 3), 4.0)).mean()
    Array(4., dtype=float32)

    Source: Chen et al. 2017, arXiv:1709.00643, equation 3, as Wu et al. 2018, arXiv:1803.05619, use it.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.w_0, self.w_1 = nnx.Param(jnp.ones(1)), nnx.Param(jnp.zeros(1))
        self.bn = nnx.BatchNorm(
            features, use_running_average=True, momentum=0.001, epsilon=1e-3, use_fast_variance=False, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return _mixed(x, _layers.batch_norm(x, self.bn), self.w_0[...], self.w_1[...])


@core()
def _mixed(x: jax.Array, normal: jax.Array, own: jax.Array, other: jax.Array) -> jax.Array:
    own, other = (w.astype(x.dtype).reshape((1,) * x.ndim) for w in (own, other))
    return own * x + other * normal


def _pointwise(x: jax.Array, layer: nnx.Linear, apart: bool) -> jax.Array:
    """The layer in the dtype of `x`, which may be wider than its parameters: moments are."""
    kernel, bias = layer.kernel[...], None if layer.bias is None else layer.bias[...].astype(x.dtype)
    return _layers.project(x, (_apart(kernel) if apart else kernel).astype(x.dtype), bias)


@core()
def _apart(x: jax.Array) -> jax.Array:
    """`x`, through which XLA does not look; but for a TPU, where nothing is gained."""
    return lax.platform_dependent(x, tpu=lambda x: x, default=lax.optimization_barrier)
