"""Interpolation as layers. They have no parameters."""

from typing import Any

import jax
from flax import nnx

from upsampling import interpolation
from upsampling.nn.registry import register


class Interpolate(nnx.Module):
    """Resizes by a fixed factor, or to a fixed size: `upsampling.resize` as a layer.

    Args:
      scale: factor, one number for both axes of an image or one per spatial axis. Give this or `size`.
      size: size of the output.
      method, convention, antialias: as in `upsampling.resize`.

    Shapes: `(*batch, *spatial, channels)` to `(*batch, *spatial * scale, channels)`.

    Raises, when called, what `upsampling.resize` raises.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> up.nn.Interpolate(scale=(2, 3), method="bicubic")(jnp.ones((8, 8, 1))).shape
    (16, 24, 1)
    """

    def __init__(
        self,
        scale: Any = None,
        *,
        size: Any = None,
        method: str = "bilinear",
        convention: Any = "torch",
        antialias: bool = False,
    ):
        # Lists hold modules in NNX; geometry is plain data.
        self.scale = tuple(scale) if isinstance(scale, list) else scale
        self.size = tuple(size) if isinstance(size, list) else size
        self.method = method
        self.convention = convention
        self.antialias = antialias

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Resizes `x`; `guide` is accepted, as by every layer, and not used."""
        return interpolation.resize(
            x,
            self.size,
            scale=self.scale,
            method=self.method,
            convention=self.convention,
            antialias=self.antialias,
        )


class Nearest(Interpolate):
    """Repeats the nearest pixel. Arguments as in `Interpolate`."""

    def __init__(self, scale: Any = None, **options: Any):
        super().__init__(scale, method="nearest", **options)


class Bilinear(Interpolate):
    """Weighs the two nearest pixels of each axis by their distance. Arguments as in `Interpolate`."""

    def __init__(self, scale: Any = None, **options: Any):
        super().__init__(scale, method="bilinear", **options)


class Bicubic(Interpolate):
    """Weighs the four nearest pixels of each axis by Keys' cubic kernel. Arguments as in `Interpolate`."""

    def __init__(self, scale: Any = None, **options: Any):
        super().__init__(scale, method="bicubic", **options)


# `create` hands every layer its channels and random numbers; interpolation needs neither.


@register("nearest", family="interpolation", paper="the sample-and-hold of signal processing")
def _nearest(features: int, scale: Any, *, rngs: nnx.Rngs, **options: Any) -> Nearest:
    return Nearest(scale, **options)


@register("bilinear", family="interpolation", paper="the tensor product of linear interpolation")
def _bilinear(features: int, scale: Any, *, rngs: nnx.Rngs, **options: Any) -> Bilinear:
    return Bilinear(scale, **options)


@register("bicubic", family="interpolation", paper="Keys 1981, doi:10.1109/TASSP.1981.1163711")
def _bicubic(features: int, scale: Any, *, rngs: nnx.Rngs, **options: Any) -> Bicubic:
    return Bicubic(scale, **options)
