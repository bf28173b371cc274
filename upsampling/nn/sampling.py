"""Sampling at predicted positions, as layers."""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from upsampling import _arguments, convolution, interpolation, sampling
from upsampling._arguments import EDGES, Edge, Numbers
from upsampling.nn import _layers
from upsampling.nn._sizes import AnySize
from upsampling.nn.initializers import Initializer
from upsampling.nn.registry import Upsampler, register
from upsampling.primitives._common import core

Style = Literal["lp", "pl"]
Gate = Literal["features", "pooled"]

_NEARLY_ZERO = nnx.initializers.normal(0.001)


@register("dysample", family="sampling", paper="Liu et al. 2023, arXiv:2308.15085", spatial_axes=(2,))
class DySample(Upsampler):
    """Bilinear upsampling whose positions a 1x1 convolution moves: `upsampling.dysample` as a layer.

    It starts as bilinear interpolation, nearly: offsets are drawn with a deviation of 0.001, as in the authors' code.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      size: the output's size, if it is not `scale` times the input's. `scale`, 2 if not given, decides the parameters.
      style: "lp", offsets predicted at the low resolution, linear then pixel shuffle, or "pl", the shuffle first, so
        that the convolution has `prod(scale)` times fewer parameters; `features` must be a multiple of that.
      groups: number of channel groups that move by themselves. The authors have 4.
      dynamic_scope: whether a second convolution decides how far each offset reaches.
      scope_bias: whether that convolution has a bias, as the authors' had in 2023; since 2024 theirs has none.
      kernel_init: initializer of the offsets' kernel. That of the scope starts at zero, where all reach a quarter.
      dtype, param_dtype, rngs: as in `TransposedConv`. Positions are computed at least in float32.

    Shapes: `(*batch, H, W, features)` to `(*batch, H * scale, W * scale, features)`; or to `(*batch, *size, features)`,
    called with `size=`, by offsets that are interpolated from those at the scaled size.

    Raises:
      ValueError: channels that do not match, `groups` or a shuffle that does not divide them, or an unknown style.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.DySample(8, scale=2, style="pl", dynamic_scope=True, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 6, 8))).shape
    (8, 12, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        style: Style = "lp",
        groups: int = 4,
        dynamic_scope: bool = False,
        scope_bias: bool = False,
        kernel_init: Initializer = _NEARLY_ZERO,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "DySample"
        scale = 2 if scale is None and size is not None else scale
        self.features, self.scale = _layers.sizes(name, features, scale, (2,))
        self.size = None if size is None else _layers.per_axis(name, "size", size, 2)
        self.style = _arguments.one_of(name, "style", style, get_args(Style))
        self.groups = _arguments.divisor(name, "groups", groups, features=features)
        dynamic_scope = _arguments.flag(name, "dynamic_scope", dynamic_scope)
        scope_bias = _arguments.flag(name, "scope_bias", scope_bias)
        self.dtype = dtype
        phases = math.prod(self.scale)
        if style == "pl" and features % phases:
            raise ValueError(
                f"{name}: features={features} must be a multiple of the {phases} phases of scale={self.scale} "
                "with style='pl'."
            )
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init)
        inner, outer = (features, 2 * self.groups * phases) if style == "lp" else (features // phases, 2 * self.groups)

        def pointwise(init: Initializer, bias: bool) -> tuple[nnx.Param, nnx.Param | None]:
            kernel = _layers.parameter(rngs, init, (1, 1, inner, outer), param_dtype)
            return kernel, nnx.Param(jnp.zeros(outer, param_dtype)) if bias else None

        self.offset_kernel, self.offset_bias = pointwise(kernel_init, True)
        self.scope_kernel, self.scope_bias = pointwise(_layers.ZEROS, scope_bias) if dynamic_scope else (None, None)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x` by `scale`, or to `size`; `guide` is accepted, as by every layer, and not used."""
        x = _layers.checked_map("DySample", x, self.features, 2)
        size = self.size if size is None else _arguments.per_axis("DySample", "size", size, 2)
        given = (self.offset_kernel, self.offset_bias, self.scope_kernel, self.scope_bias)
        x, *parameters = _layers.cast(self.dtype, x, *map(_layers.value, given))
        offsets = self._predict(x, size, *parameters[:2])
        scope = None if self.scope_kernel is None else self._predict(x, size, *parameters[2:])
        return sampling.dysample(x, offsets, scope, scale=self.scale, size=size)

    def _predict(
        self, x: jax.Array, size: tuple[int, ...] | None, kernel: jax.Array, bias: jax.Array | None
    ) -> jax.Array:
        """(*batch, *size, groups, 2): two numbers for each pixel and group, interpolated from those of `scale`."""
        if self.style == "pl":
            y = _layers.encode(convolution.pixel_shuffle(x, self.scale), kernel, bias)
        else:
            y = convolution.sub_pixel_conv(x, kernel, bias, scale=self.scale)
        if size is not None:
            y = interpolation.bilinear(y, size)
        return y.reshape(*y.shape[:-1], self.groups, 2)


@register(
    "flow_alignment",
    family="sampling",
    paper="Li et al. 2020, arXiv:2002.10120",
    uses_guide=True,
    spatial_axes=(2,),
)
class FlowAlignment(AnySize):
    """Warps a map by a flow that it and the encoder's features predict: SFNet's flow alignment module.

    Both maps are brought to `flow_features` channels by 1x1 convolutions, the coarse one to the fine one's size, and a
    3x3 convolution of the two predicts the flow (`upsampling.flow_warp`). None has a bias, as in the authors' code.

    With a `gate` it is the module of their later networks: a second flow warps the guide too, and the result is the
    mean of both, weighted by what a 3x3 convolution and a sigmoid make of the two maps.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given.
      flow_features: channels that the flow is predicted from; half of `features` if not given.
      gate: None, for the warped input alone, the authors' `AlignedModule`; "features", weights from the two maps that
        predict the flow, `AlignedModulev2`; or "pooled", from the means and maxima over channels of the coarse one of
        these and of the guide, `AlignedModulev2PoolingAtten`. With a gate the guide has `features` channels.
      align_corners: how the two maps lie upon each other, as in `upsampling.flow_warp`.
      edge: what is beyond the image, as in `upsampling.grid_sample`.
      kernel_init, dtype, param_dtype, rngs: as in `TransposedConv`. Positions are computed at least in float32.

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
    >>> layer = up.nn.FlowAlignment(8, guide_features=4, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 6, 8)), jnp.ones((8, 12, 4))).shape
    (8, 12, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        flow_features: int | None = None,
        gate: Gate | None = None,
        align_corners: bool = True,
        edge: Edge = "zero",
        kernel_init: Initializer = _layers.LECUN,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "FlowAlignment"
        self._set_sizes(features, scale, size, guide_features)
        hidden = _layers.or_features(name, "flow_features", flow_features, max(features // 2, 1))
        self.gate = None if gate is None else _arguments.one_of(name, "gate", gate, get_args(Gate))
        if gate is not None and self.guide_features != features:
            raise ValueError(
                f"{name}: guide_features={self.guide_features} must equal features={features} with gate={gate!r}, "
                "which adds the guide to the input."
            )
        self.align_corners = _arguments.flag(name, "align_corners", align_corners)
        self.edge: Edge = _arguments.one_of(name, "edge", edge, EDGES)
        self.dtype = dtype
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init)
        shapes = ((1, 1, features, hidden), (1, 1, self.guide_features, hidden), (3, 3, 2 * hidden, 4 if gate else 2))
        kernels = (_layers.parameter(rngs, kernel_init, shape, param_dtype) for shape in shapes)
        self.coarse_kernel, self.fine_kernel, self.flow_kernel = kernels
        seen = 4 if gate == "pooled" else 2 * hidden
        self.gate_kernel = _layers.parameter(rngs, kernel_init, (3, 3, seen, 1), param_dtype) if gate else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x` along the flow from it to `guide`."""
        x, guide = self._checked_alike(x, guide, size)
        kernels = (self.coarse_kernel, self.fine_kernel, self.flow_kernel)
        x, coarse, fine, last = _layers.cast(self.dtype, x, *(kernel[...] for kernel in kernels))
        convention = "torch_align_corners" if self.align_corners else "torch"
        low = interpolation.bilinear(_layers.encode(x, coarse), guide.shape[-3:-1], convention=convention)
        high = _layers.encode(guide.astype(x.dtype), fine)
        both = jnp.concatenate([low, high], axis=-1)
        flow = _layers.encode(both, last)
        warped = lambda a, flow: sampling.flow_warp(a, flow, align_corners=self.align_corners, edge=self.edge)  # noqa: E731
        if self.gate_kernel is None:
            return warped(x, flow)
        up_flow, down_flow = jnp.split(flow, 2, axis=-1)
        guide = guide.astype(x.dtype)
        seen = _pooled(low, guide) if self.gate == "pooled" else both
        logits = _layers.encode(seen, self.gate_kernel[...].astype(x.dtype))
        return _mixed(warped(x, up_flow), warped(guide, down_flow), logits)


@core()
def _pooled(low: jax.Array, guide: jax.Array) -> jax.Array:
    """The means over the channels of both, then the maxima: four channels."""
    parts = [pool(a, axis=-1, keepdims=True) for pool in (jnp.mean, jnp.max) for a in (low, guide)]
    return jnp.concatenate(parts, axis=-1)


@core()
def _mixed(x: jax.Array, guide: jax.Array, logits: jax.Array) -> jax.Array:
    weight = jax.nn.sigmoid(logits)
    return weight * x + (1 - weight) * guide
