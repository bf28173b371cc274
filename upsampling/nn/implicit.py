"""LIIF as a layer."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from upsampling import _arguments, implicit
from upsampling._arguments import Numbers
from upsampling.nn import _layers
from upsampling.nn._sizes import AnySize
from upsampling.nn.registry import register
from upsampling.primitives._common import core, with_axes


@register(
    "liif",
    family="sampling",
    paper="Chen et al. 2021, arXiv:2012.09161",
    spatial_axes=(2,),
    variants={"small": {"hidden": (32,)}},
)
class LIIF(AnySize):
    """A local implicit image function: a small network says what is at a place, from the features near it.

    The network sees the nine pixels around one of the input (`unfold`), the step from its center to the output pixel,
    and the output pixel's size (`cell`); what it says from each of the four pixels around the place is blended
    (`upsampling.implicit.local_ensemble`). Its first layer is taken as a 3x3 convolution at the input's size, which is
    the same and `scale` squared times cheaper.

    Args:
      features: channels of the input.
      scale: factor, one whole number for both axes or one per axis.
      size: the output's size, in place of `scale`.
      out_features: channels of the output; `features` if not given. Published weights are for images, 3.
      hidden: channels of the network's hidden layers.
      ensemble, unfold, cell: whether the network has that part; all in the authors' form.
      dtype, param_dtype, rngs: as in `TransposedConv`.

    Shapes: `(*batch, H, W, features)` to `(*batch, *size, out_features)`. The size is the call's `size=`, or the
    layer's, or `scale` times the input's. It is any, also below the input's.

    The defaults are the authors'; the variant "small" of `create` has one hidden layer of 32 channels, for a CPU. The
    authors' network for images is trained with targets in [-1, 1], and beyond the factors that it saw, 4, they give it
    the cell of 4; that is left to the caller.

    Raises:
      ValueError: channels that do not match, or numbers out of range.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.LIIF(8, out_features=3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 4, 8)), size=(7, 9)).shape
    (7, 9, 3)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        out_features: int | None = None,
        hidden: Sequence[int] = (256, 256, 256, 256),
        ensemble: bool = True,
        unfold: bool = True,
        cell: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "LIIF"
        self._set_sizes(features, scale, size)
        out = _layers.or_features(name, "out_features", out_features, features)
        widths = (*_arguments.widths(name, "hidden", hidden), out)
        self.ensemble = _arguments.flag(name, "ensemble", ensemble)
        window = 3 if _arguments.flag(name, "unfold", unfold) else 1
        cell = _arguments.flag(name, "cell", cell)
        self.dtype = dtype
        _layers.check_parameters(name, rngs, param_dtype, dtype)
        inputs = (window**2 * features + (4 if cell else 2), *widths[:-1])

        def uniform(layer: int, *shape: int) -> nnx.Param:
            # PyTorch's first values.
            bound = 1 / math.sqrt(inputs[layer])
            return nnx.Param(jax.random.uniform(rngs.params(), shape, param_dtype, -bound, bound))

        self.kernel = uniform(0, window, window, features, widths[0])
        self.step_kernel = uniform(0, 2, widths[0])
        self.cell_kernel = uniform(0, 2, widths[0]) if cell else None
        self.bias = uniform(0, widths[0])
        later = range(1, len(widths))
        self.kernels = nnx.List([uniform(n, widths[n - 1], widths[n]) for n in later])
        self.biases = nnx.List([uniform(n, widths[n]) for n in later])

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x`, to `size` if it is given; `guide` is accepted, as by every layer, and not used."""
        x = _layers.checked_map("LIIF", x, self.features, 2)
        target = self._target(x, size)
        if target is None:
            assert self.scale is not None
            target = tuple(n * s for n, s in zip(x.shape[-3:-1], self.scale, strict=True))
        given = (self.kernel, self.bias, self.step_kernel, self.cell_kernel, *self.kernels, *self.biases)
        x, kernel, bias, steps, cells, *later = _layers.cast(self.dtype, x, *map(_layers.value, given))
        count = len(self.kernels)
        ratios = tuple(n / m for n, m in zip(x.shape[-3:-1], target, strict=True))
        first = _layers.encode(x, kernel, _with_cell(bias, cells, ratios))

        def predict(pixels: jax.Array, places: jax.Array) -> jax.Array:
            y = _moved(pixels, places, steps)
            for kernel, bias in zip(later[:count], later[count:], strict=True):
                y = _layers.project(_layers.relu(y), kernel, bias)
            return y

        return implicit.local_ensemble(first, predict, size=target, ensemble=self.ensemble)


@core(2)
def _with_cell(bias: jax.Array, cells: jax.Array | None, ratios: tuple[float, ...]) -> jax.Array:
    """The bias, and what an output pixel adds whose height and width are these shares of an input pixel's, halved."""
    return bias if cells is None else bias + 2 * (ratios[0] * cells[0] + ratios[1] * cells[1])


@core()
def _moved(pixels: jax.Array, places: jax.Array, kernel: jax.Array) -> jax.Array:
    """`pixels + places @ kernel`, (H, W, 2) and (2, channels), as two sums along one axis each."""
    rows, columns = places[:, :1, :1].astype(pixels.dtype), places[:1, :, 1:].astype(pixels.dtype)
    rows, columns = rows * with_axes(kernel[0], 3), columns * with_axes(kernel[1], 3)
    return pixels + with_axes(rows, pixels.ndim) + with_axes(columns, pixels.ndim)
