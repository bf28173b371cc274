"""Interpolation as layers. They have no parameters."""

from collections.abc import Sequence
from typing import ClassVar

import jax
from flax import nnx

from upsampling import _arguments, conventions, interpolation
from upsampling._arguments import Numbers
from upsampling.conventions import Convention, Preset
from upsampling.nn import _layers
from upsampling.nn.registry import Upsampler, register


class Interpolate(Upsampler):
    """Resizes by a fixed factor, or to a fixed size: `upsampling.resize` as a layer.

    Args:
      scale: factor, one number for both axes of an image or one per spatial axis. Give this or `size`.
      size: size of the output.
      method, convention, antialias: as in `upsampling.resize`.
      features: channels of the input; any number if not given.
      rngs: not used.

    Shapes: `(*batch, *spatial, channels)` to `(*batch, *spatial * scale, channels)`.

    Raises:
      ValueError: both or neither of size and scale, numbers out of range, an unknown method or convention, or one that
        do not go together; when called, channels that do not match.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> up.nn.Interpolate(scale=(2, 3), method="bicubic")(jnp.ones((8, 8, 1))).shape
    (16, 24, 1)
    """

    def __init__(
        self,
        scale: float | Sequence[float] | None = None,
        *,
        size: Numbers | None = None,
        method: conventions.Method = "bilinear",
        convention: Preset | Convention = "torch",
        antialias: bool | None = None,
        features: int | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        name = type(self).__name__
        if (size is None) == (scale is None):
            raise ValueError(f"{name}: give one of size and scale; got size={size!r}, scale={scale!r}.")
        self.scale = None if scale is None else _layers.per_axis(name, "scale", scale, None, real=True)
        self.size = None if size is None else _layers.per_axis(name, "size", size, None)
        _layers.check_interpolation(name, method, convention, antialias)
        _layers.check_unused(name, rngs)
        self.method: conventions.Method = method
        self.convention: Preset | Convention = convention
        self.antialias = antialias
        self.features = None if features is None else _arguments.number(name, "features", features)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Resizes `x`, to `size` if it is given; `guide` is accepted, as by every layer, and not used."""
        name, rank = type(self).__name__, len(self.size or self.scale or ())
        given = self.size if size is None else _layers.per_axis(name, "size", size, rank)
        if self.features is not None:
            x = _layers.checked_map(name, x, self.features, rank, floating=False)
        return interpolation.resize(
            x,
            given,
            scale=self.scale if given is None else None,
            method=self.method,
            convention=self.convention,
            antialias=self.antialias,
        )


class _Named(Interpolate):
    """`Interpolate` by one method."""

    _method: ClassVar[conventions.Method]

    def __init__(
        self,
        scale: float | Sequence[float] | None = None,
        *,
        size: Numbers | None = None,
        convention: Preset | Convention = "torch",
        antialias: bool | None = None,
        features: int | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        options = {"size": size, "convention": convention, "antialias": antialias, "features": features, "rngs": rngs}
        super().__init__(scale, method=self._method, **options)


@register("nearest", family="interpolation", paper="the sample-and-hold of signal processing")
class Nearest(_Named):
    """Repeats the nearest pixel. Arguments as in `Interpolate`."""

    _method = "nearest"


@register("bilinear", family="interpolation", paper="the tensor product of linear interpolation")
class Bilinear(_Named):
    """Averages the two nearest pixels of each axis by their distance. Arguments as in `Interpolate`."""

    _method = "bilinear"


@register("bicubic", family="interpolation", paper="Keys 1981, doi:10.1109/TASSP.1981.1163711")
class Bicubic(_Named):
    """Averages the four nearest pixels of each axis by Keys' cubic kernel. Arguments as in `Interpolate`."""

    _method = "bicubic"
