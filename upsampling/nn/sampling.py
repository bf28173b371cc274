"""Sampling at predicted positions, as layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from upsampling import _arguments, convolution, interpolation, sampling
from upsampling.nn.convolution import Initializer, _cast, _check_channels
from upsampling.nn.registry import register

_LECUN = nnx.initializers.lecun_normal()


@register("dysample", family="sampling", paper="Liu et al. 2023, arXiv:2308.15085")
class DySample(nnx.Module):
    """Bilinear upsampling whose positions a 1x1 convolution moves: `upsampling.dysample` as a layer.

    It starts as bilinear interpolation, nearly: offsets are drawn with a deviation of 0.001, as in the authors' code.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      style: "lp", offsets predicted at the low resolution, linear then pixel shuffle, or "pl", the shuffle first, so
        that the convolution has `prod(scale)` times fewer parameters; `features` must be a multiple of that.
      groups: number of channel groups that move by themselves. The authors have 4.
      dynamic_scope: whether a second convolution decides how far each offset reaches.
      kernel_init: initialiser of the offsets' kernel. That of the scope starts at zero, where all reach a quarter.
      dtype, param_dtype, rngs: as in `TransposedConv`. Positions are computed at least in float32.

    Shapes: `(*batch, H, W, features)` to `(*batch, H * scale, W * scale, features)`.

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
        scale: int | tuple[int, ...] = 2,
        *,
        style: str = "lp",
        groups: int = 4,
        dynamic_scope: bool = False,
        kernel_init: Initializer | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.features = features
        self.scale = _arguments.per_axis("DySample", "scale", scale, 2)
        self.style = _arguments.one_of("DySample", "style", style, ("lp", "pl"))
        self.groups = _arguments.number("DySample", "groups", groups)
        self.dtype = dtype
        phases = self.scale[0] * self.scale[1]
        if features % self.groups:
            raise ValueError(f"DySample: groups={groups} must divide features={features}.")
        if style == "pl" and features % phases:
            raise ValueError(
                f"DySample: features={features} must be a multiple of the {phases} phases of scale={self.scale} "
                "with style='pl'."
            )
        inner, outer = (features, 2 * self.groups * phases) if style == "lp" else (features // phases, 2 * self.groups)
        kernel_init = kernel_init or nnx.initializers.normal(0.001)

        def convolve(init: Initializer) -> tuple[nnx.Param, nnx.Param]:
            kernel = nnx.Param(init(rngs.params(), (1, 1, inner, outer), param_dtype))
            return kernel, nnx.Param(jnp.zeros(outer, param_dtype))

        self.offset_kernel, self.offset_bias = convolve(kernel_init)
        self.scope_kernel, self.scope_bias = convolve(nnx.initializers.zeros) if dynamic_scope else (None, None)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _check_channels("DySample", x, self.features, 2)
        given = (self.offset_kernel, self.offset_bias, self.scope_kernel, self.scope_bias)
        x, *parameters = _cast(self.dtype, x, *(None if p is None else p[...] for p in given))
        offsets = self._predict(x, *parameters[:2])
        scope = None if self.scope_kernel is None else self._predict(x, *parameters[2:])
        return sampling.dysample(x, offsets, scope, scale=self.scale)

    def _predict(self, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        """(*batch, H * scale, W * scale, groups, 2): two numbers for each pixel and group."""
        if self.style == "pl":
            y = convolution.sub_pixel_conv(convolution.pixel_shuffle(x, self.scale), kernel, bias, scale=1)
        else:
            y = convolution.sub_pixel_conv(x, kernel, bias, scale=self.scale)
        return y.reshape(*y.shape[:-1], self.groups, 2)


@register("flow_alignment", family="sampling", paper="Li et al. 2020, arXiv:2002.10120", uses_guide=True)
class FlowAlignment(nnx.Module):
    """Warps a map by a flow that it and the encoder's features predict: SFNet's flow alignment module.

    Both maps are brought to `flow_features` channels by 1x1 convolutions, the coarse one to the fine one's size, and a
    3x3 convolution of the two predicts the flow (`upsampling.flow_warp`). None has a bias, as in the authors' code.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      guide_features: channels of the guide; `features` if not given.
      flow_features: channels that the flow is predicted from; half of `features` if not given.
      align_corners: how the two maps lie upon each other, as in `upsampling.flow_warp`.
      edge: what is beyond the image, as in `upsampling.grid_sample`.
      kernel_init, dtype, param_dtype, rngs: as in `TransposedConv`. Positions are computed at least in float32.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H * scale, W * scale, guide_features)` to
    `(*batch, H * scale, W * scale, features)`.

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
        scale: int | tuple[int, ...] = 2,
        *,
        guide_features: int | None = None,
        flow_features: int | None = None,
        align_corners: bool = True,
        edge: str = "zero",
        kernel_init: Initializer = _LECUN,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "FlowAlignment"
        self.features = features
        self.scale = _arguments.per_axis(name, "scale", scale, 2)
        self.guide_features = _arguments.number(
            name, "guide_features", features if guide_features is None else guide_features
        )
        hidden = _arguments.number(
            name, "flow_features", max(features // 2, 1) if flow_features is None else flow_features
        )
        self.align_corners = bool(align_corners)
        self.edge = edge
        self.dtype = dtype
        shapes = ((1, 1, features, hidden), (1, 1, self.guide_features, hidden), (3, 3, 2 * hidden, 2))
        kernels = (nnx.Param(kernel_init(rngs.params(), shape, param_dtype)) for shape in shapes)
        self.coarse_kernel, self.fine_kernel, self.flow_kernel = kernels

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x` along the flow from it to `guide`."""
        x = _check_channels("FlowAlignment", x, self.features, 2)
        guide = _arguments.guide("FlowAlignment", guide, x, self.scale, self.guide_features)
        kernels = (self.coarse_kernel, self.fine_kernel, self.flow_kernel)
        x, coarse, fine, last = _cast(self.dtype, x, *(kernel[...] for kernel in kernels))
        convention = "torch_align_corners" if self.align_corners else "torch"
        low = interpolation.bilinear(
            convolution.sub_pixel_conv(x, coarse, scale=1), scale=self.scale, convention=convention
        )
        high = convolution.sub_pixel_conv(guide.astype(x.dtype), fine, scale=1)
        flow = convolution.sub_pixel_conv(jnp.concatenate([low, high], axis=-1), last, scale=1)
        return sampling.flow_warp(x, flow, align_corners=self.align_corners, edge=self.edge)
