"""Attention upsampling as a layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from upsampling import _arguments, attention, interpolation
from upsampling._arguments import Numbers
from upsampling.nn import _layers
from upsampling.nn.registry import Upsampler, register


class ImageBlock(nnx.Module):
    """Normalization, SiLU, convolution; twice."""

    def __init__(self, width: int, window: int, groups: int, rngs: nnx.Rngs, options: dict[str, Any]):
        # Conventional names, those of the authors' state dict.
        self.norm1 = nnx.GroupNorm(width, groups, epsilon=1e-5, use_fast_variance=False, rngs=rngs, **options)
        self.conv1 = nnx.Conv(width, width, (window, window), padding="REFLECT", rngs=rngs, **options)
        self.norm2 = nnx.GroupNorm(width, groups, epsilon=1e-5, use_fast_variance=False, rngs=rngs, **options)
        self.conv2 = nnx.Conv(width, width, (window, window), padding="REFLECT", rngs=rngs, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv1(jax.nn.silu(_layers.group_norm(x, self.norm1)))
        return self.conv2(jax.nn.silu(_layers.group_norm(x, self.norm2)))


class ImageBranch(nnx.Module):
    """A convolution and blocks, all with windows of one size, mirrored at the edges."""

    def __init__(
        self, channels: int, width: int, window: int, blocks: int, groups: int, rngs: nnx.Rngs, options: dict[str, Any]
    ):
        self.stem = nnx.Conv(channels, width, (window, window), padding="REFLECT", rngs=rngs, **options)
        self.blocks = nnx.List([ImageBlock(width, window, groups, rngs, options) for _ in range(blocks)])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


@register(
    "naf",
    family="reassembly",
    paper="Chambon et al. 2025, arXiv:2511.18452",
    uses_guide=True,
    spatial_axes=(2,),
    variants={"small": {"dim": 16, "kernel_size": 3, "heads": None, "blocks": 1, "groups": 2}},
)
class NAF(Upsampler):
    """Neighborhood attention with queries and keys from the guide: `upsampling.neighborhood_attention` as a layer.

    The guide passes two small networks side by side, one of single pixels and one of 3x3 windows. Their outputs,
    averaged to the output's size and rotated by their position (`attention.rotary_embedding`), are the queries, and the
    means of those over each pixel of the input are the keys. No parameter depends on the input, so that a trained layer
    serves maps from any encoder: its weights can be loaded into a layer for other `features`.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      guide_features: channels of the guide; `features` if not given. Published weights are for images, 3.
      dim: channels of the queries, those of both networks together.
      kernel_size: side of the square that is attended to, odd.
      heads: number of attention heads, which must divide `features`; `4 * heads` must divide `dim`. None takes the
        largest of 4, 2 and 1 that leaves each head a whole number of channels of the input, at least 8, or else 1.
      blocks: pairs of convolutions in each network.
      groups: of the networks' normalization; `2 * groups` must divide `dim`.
      base: of the rotary embedding's periods.
      dtype, param_dtype, rngs: as in `TransposedConv`. Attention weights are computed at least in float32.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H * scale, W * scale, guide_features)` to
    `(*batch, H * scale, W * scale, features)`. A guide of another size, at least that of the input, decides the
    output's. Called with `size=`, it upsamples to any size at least that of the input, and takes a guide of any size,
    which is first brought bilinearly to four times the output's size where it is larger.

    The defaults are the authors'. The variant "small" of `create` is a network of a hundredth of the parameters, for a
    CPU. What the authors do in training alone, rescaling the rotation's coordinates at random, is left out.

    Raises:
      ValueError: a guide that is missing or does not fit, channels that do not match, or numbers that do not divide.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.NAF(8, guide_features=3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 4, 8)), jnp.ones((8, 8, 3))).shape
    (8, 8, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers = 2,
        *,
        guide_features: int | None = None,
        dim: int = 256,
        kernel_size: int = 9,
        heads: int | None = 4,
        blocks: int = 2,
        groups: int = 8,
        base: float = 100.0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "NAF"
        self.features, self.scale = _layers.sizes(name, features, scale, (2,))
        self.guide_features = _layers.or_features(name, "guide_features", guide_features, features)
        (self.kernel_size,) = _arguments.odd(name, "kernel_size", (kernel_size,), 1)
        heads = _heads(features) if heads is None else heads
        self.heads = _arguments.divisor(name, "heads", heads, features=features)
        self.base = _arguments.number(name, "base", base, real=True)
        self.dim = _arguments.number(name, "dim", dim)
        blocks = _arguments.number(name, "blocks", blocks, minimum=0)
        groups = _arguments.number(name, "groups", groups)
        self.dtype = dtype
        if self.dim % (4 * self.heads) or self.dim % (2 * groups):
            raise ValueError(
                f"{name}: dim must be a multiple of 4 * heads={4 * self.heads} and of 2 * groups={2 * groups}; "
                f"got {dim}."
            )
        _layers.check_parameters(name, rngs, param_dtype, dtype)
        options = {"dtype": dtype, "param_dtype": param_dtype}
        self.pixels = ImageBranch(self.guide_features, dim // 2, 1, blocks, groups, rngs, options)
        self.surroundings = ImageBranch(self.guide_features, dim // 2, 3, blocks, groups, rngs, options)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x` by `scale`, or to `size`, along the edges of `guide`."""
        x = _layers.checked_map("NAF", x, self.features, 2)
        if size is None:
            high = _arguments.guide("NAF", guide, x, self.scale, self.guide_features, any_size=True)
            target = high.shape[-3:-1]
        else:
            target = _arguments.per_axis("NAF", "size", size, 2)
            given = () if guide is None else _arguments.array("NAF", "guide", guide).shape[-3:-1]
            high = _arguments.guide("NAF", guide, x, None, self.guide_features, size=given)
        x, high = _layers.cast(self.dtype or jnp.result_type(x, self.pixels.stem.kernel[...]), x, high)
        queries = self.queries(high, target)
        return attention.neighborhood_attention(x, queries, kernel_size=self.kernel_size, heads=self.heads)

    def queries(self, guide: jax.Array, size: tuple[int, ...]) -> jax.Array:
        """The queries of each output pixel, `(*batch, *size, dim)`."""
        height, width = guide.shape[-3:-1]
        if height > 4 * size[0] or width > 4 * size[1]:
            least = 4 * min(size)
            guide = interpolation.bilinear(guide, (min(height, least), min(width, least)))
        queries = jnp.concatenate([self.pixels(guide), self.surroundings(guide)], axis=-1)
        queries = interpolation.area(queries, size)
        return attention.rotary_embedding(queries, heads=self.heads, base=self.base)


def _heads(features: int) -> int:
    return max((heads for heads in (1, 2, 4) if features % (8 * heads) == 0), default=1)
