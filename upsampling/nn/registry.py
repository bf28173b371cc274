"""Every upsampler by name: `create` builds one, `available` lists them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
from flax import nnx

from upsampling import _arguments

Build = TypeVar("Build", bound=Callable[..., Any])


class Upsampler(Protocol):
    """What every layer is: it maps `(*batch, *spatial, channels)` to `(*batch, *spatial * scale, channels)`."""

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array: ...


class Method(NamedTuple):
    """One entry of `available()`.

    Attributes:
      name: what `create` takes.
      family: `interpolation`, `convolution`, `reassembly` or `sampling`.
      paper: the source of the method.
      uses_guide: whether the layer reads its second argument, a high-resolution guide.
      ties_encoder: whether the layer takes the kernel of an encoder's convolution as `kernel=`.
      needs_pooling: whether the layer needs an encoder that max-pools, whose map before the pooling is its guide.
      build: makes the layer from `(features, scale, rngs=..., **options)`.
    """

    name: str
    family: str
    paper: str
    uses_guide: bool
    ties_encoder: bool
    needs_pooling: bool
    build: Callable[..., Upsampler]


_FAMILIES = ("interpolation", "convolution", "reassembly", "sampling")
_METHODS: dict[str, Method] = {}


def register(
    name: str,
    *,
    family: str,
    paper: str,
    uses_guide: bool = False,
    ties_encoder: bool = False,
    needs_pooling: bool = False,
) -> Callable[[Build], Build]:
    """Enters a layer, or a function that builds one, into `available()` under `name`; a decorator."""

    def enter(build: Build) -> Build:
        _METHODS[name] = Method(name, family, paper, uses_guide, ties_encoder, needs_pooling, build)
        return build

    return enter


def available() -> Mapping[str, Method]:
    """The methods that `create` knows, by name, in order of family.

    Example:

    >>> import upsampling as up
    >>> up.nn.available()["sub_pixel_conv"].paper
    'Shi et al. 2016, arXiv:1609.05158'
    """
    return MappingProxyType(dict(sorted(_METHODS.items(), key=lambda item: _FAMILIES.index(item[1].family))))


def create(name: str, features: int, scale: int | tuple[int, ...] = 2, *, rngs: nnx.Rngs, **options: Any) -> Upsampler:
    """Builds the upsampling layer called `name`.

    Args:
      name: one of `available()`.
      features: channels of the map it will be given. The result has as many, unless an option (`out_features=`)
        says otherwise.
      scale: factor, one whole number for both axes of an image or one per spatial axis.
      rngs: where parameters draw their first values from. Layers without parameters draw nothing.
      **options: the layer's own arguments, as its class documents them.

    Returns:
      A Flax NNX module; `layer(x, guide=None)` takes `(*batch, *spatial, features)`.

    Raises:
      ValueError: an unknown name (the nearest is offered), a number out of range, or options the layer lacks.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.create("sub_pixel_conv", features=8, scale=2, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 16, 16, 8))).shape
    (4, 32, 32, 8)
    """
    method = _METHODS[_arguments.one_of("create", "name", name, _METHODS)]
    features = _arguments.number("create", "features", features)
    try:
        return method.build(features, scale, rngs=rngs, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise TypeError(f"create: {name!r} was given an option it does not have: {error}.") from error
