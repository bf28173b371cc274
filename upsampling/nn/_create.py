"""`create`. The stub beside this file, which is generated, tells type checkers and editors each method's options."""

from typing import Any

from flax import nnx

from upsampling._arguments import Numbers
from upsampling.nn.registry import Upsampler, lookup

MethodName = str
"""The names of `available()`; to type checkers, which read the stub, a Literal of them."""


def create(
    name: MethodName, features: int, scale: Numbers = 2, *, rngs: nnx.Rngs, variant: str | None = None, **options: Any
) -> Upsampler:
    """Builds the upsampling layer called `name`.

    Args:
      name: one of `available()`; or a layer of your own, as `"package.module:Class"`: a `flax.nnx.Module` that takes
        `features`, `scale`, `rngs` and its options by keyword. To type checkers such a name, and one that is read while
        the program runs, is unknown: they know `find(name).create(...)`.
      features: channels of the map it will be given. The result has as many, unless the method maps channels
        (`available()[name].changes_channels`) and `out_features=` says otherwise.
      scale: factor, one whole number for both axes of an image or one per spatial axis.
      rngs: where parameters draw their first values from. Layers without parameters draw nothing.
      variant: a named set of options, such as `"small"`, that `available()[name].variants` lists. Without it the
        defaults are the authors' settings. Options given beside it go first.
      **options: the layer's own arguments, as its class documents them and `available()[name].options` lists them.

    Returns:
      A Flax NNX module; `layer(x, guide=None)` takes `(*batch, *spatial, features)`.

    Raises:
      ValueError: an unknown name or variant (the nearest is offered), or a number out of range.
      TypeError: an option that the layer lacks (the nearest is offered), or an argument of another type.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.create("sub_pixel_conv", features=8, scale=2, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 16, 16, 8))).shape
    (4, 32, 32, 8)
    """
    return lookup("create", name).create(features, scale, rngs=rngs, variant=variant, **options)
