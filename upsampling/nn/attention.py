"""Attention upsampling as layers: NAF, AnyUp, JAFAR and LoftUp."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from upsampling import _arguments, attention, interpolation
from upsampling._arguments import Numbers
from upsampling.nn import _layers
from upsampling.nn._sizes import AnySize
from upsampling.nn.registry import register
from upsampling.primitives import _common
from upsampling.primitives._common import Tiles, accumulator, after, core, over_tiles, with_axes


def _through(blocks: Iterable[Callable[[jax.Array], jax.Array]], x: jax.Array) -> jax.Array:
    """(*batch, H, W, channels) through one block after the other, which keep the shape."""
    # Without a batch axis XLA for CPUs keeps a map of ones for each sigmoid.
    images = x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
    return functools.reduce(lambda y, block: block(y), blocks, images).reshape(x.shape)


class ImageBlock(nnx.Module):
    """Normalization, SiLU, convolution; twice."""

    def __init__(self, width: int, window: int, groups: int, rngs: nnx.Rngs, options: dict[str, Any]):
        # Conventional names, those of the authors' state dict.
        self.norm1 = nnx.GroupNorm(width, groups, epsilon=1e-5, use_fast_variance=False, rngs=rngs, **options)
        self.conv1 = nnx.Conv(width, width, (window, window), padding="REFLECT", rngs=rngs, **options)
        self.norm2 = nnx.GroupNorm(width, groups, epsilon=1e-5, use_fast_variance=False, rngs=rngs, **options)
        self.conv2 = nnx.Conv(width, width, (window, window), padding="REFLECT", rngs=rngs, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = _layers.convolution(jax.nn.silu(_layers.group_norm(x, self.norm1)), self.conv1)
        return _layers.convolution(jax.nn.silu(_layers.group_norm(x, self.norm2)), self.conv2)


class ImageBranch(nnx.Module):
    """A convolution and blocks, all with windows of one size, mirrored at the edges."""

    def __init__(
        self, channels: int, width: int, window: int, blocks: int, groups: int, rngs: nnx.Rngs, options: dict[str, Any]
    ):
        self.stem = nnx.Conv(channels, width, (window, window), padding="REFLECT", rngs=rngs, **options)
        self.blocks = nnx.List([ImageBlock(width, window, groups, rngs, options) for _ in range(blocks)])

    def __call__(self, x: jax.Array) -> jax.Array:
        return _through(self.blocks, _layers.convolution(x, self.stem))


@register(
    "naf",
    family="reassembly",
    paper="Chambon et al. 2025, arXiv:2511.18452",
    uses_guide=True,
    spatial_axes=(2,),
    variants={"small": {"dim": 16, "kernel_size": 3, "heads": None, "blocks": 1, "groups": 2}},
)
class NAF(AnySize):
    """Neighborhood attention with queries and keys from the guide: `upsampling.neighborhood_attention` as a layer.

    The guide passes two small networks side by side, one of single pixels and one of 3x3 windows. Their outputs,
    averaged to the output's size and rotated by their position (`attention.rotary_embedding`), are the queries, and the
    means of those over each pixel of the input are the keys. No parameter depends on the input, so that a trained layer
    serves maps from any encoder: its weights can be loaded into a layer for other `features`.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      size: the output's size, in place of `scale`.
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
    output's. With `size=`, the layer's or the call's, it upsamples to any size at least that of the input, and takes a
    guide of any size, which is first brought bilinearly to four times the output's size where it is larger.

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
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
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
        self._set_sizes(features, scale, size, guide_features)
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
        x, high, target = self._checked(x, guide, size)
        x, high = _layers.cast(self.dtype or jnp.result_type(x, self.pixels.stem.kernel[...]), x, high)
        options = {"kernel_size": self.kernel_size, "heads": self.heads, "rotary_base": self.base}
        return attention.neighborhood_attention(x, self._unrotated(high, target), **options)

    def queries(self, guide: jax.Array, size: tuple[int, ...]) -> jax.Array:
        """The queries of each output pixel, `(*batch, *size, dim)`."""
        return attention.rotary_embedding(self._unrotated(guide, size), heads=self.heads, base=self.base)

    def _unrotated(self, guide: jax.Array, size: tuple[int, ...]) -> jax.Array:
        height, width = guide.shape[-3:-1]
        if height > 4 * size[0] or width > 4 * size[1]:
            least = 4 * min(size)
            guide = interpolation.bilinear(guide, (min(height, least), min(width, least)))
        queries = jnp.concatenate([self.pixels(guide), self.surroundings(guide)], axis=-1)
        return interpolation.area(queries, size)


def _heads(features: int) -> int:
    return max((heads for heads in (1, 2, 4) if features % (8 * heads) == 0), default=1)


# --- AnyUp and JAFAR --------------------------------------------------------------------------------------------------


class ResidualBlock(nnx.Module):
    """Normalization, SiLU and a 1x1 convolution, twice, added to the input."""

    def __init__(self, width: int, groups: int, rngs: nnx.Rngs, options: dict[str, Any]):
        # Names of the authors' state dict of JAFAR.
        self.norm1 = nnx.GroupNorm(width, groups, epsilon=1e-5, use_fast_variance=False, rngs=rngs, **options)
        self.conv1 = nnx.Linear(width, width, use_bias=False, rngs=rngs, **options)
        self.norm2 = nnx.GroupNorm(width, groups, epsilon=1e-5, use_fast_variance=False, rngs=rngs, **options)
        self.conv2 = nnx.Linear(width, width, use_bias=False, rngs=rngs, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv1(jax.nn.silu(_layers.group_norm(x, self.norm1)))
        return _layers.add_in_place(x, self.conv2(jax.nn.silu(_layers.group_norm(y, self.norm2))))


class Blocks(nnx.Module):
    """Residual blocks, one after the other."""

    def __init__(self, width: int, blocks: int, groups: int, rngs: nnx.Rngs, options: dict[str, Any]):
        self.blocks = nnx.List([ResidualBlock(width, groups, rngs, options) for _ in range(blocks)])

    def __call__(self, x: jax.Array) -> jax.Array:
        return _through(self.blocks, x)


class Encoder(Blocks):
    """A convolution without bias, mirrored at edges, and residual blocks."""

    def __init__(
        self, channels: int, width: int, window: int, blocks: int, groups: int, rngs: nnx.Rngs, options: dict[str, Any]
    ):
        self.stem = nnx.Conv(channels, width, (window, window), padding="REFLECT", use_bias=False, rngs=rngs, **options)
        super().__init__(width, blocks, groups, rngs, options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(_layers.convolution(x, self.stem))


class CrossAttention(nnx.Module):
    """Normalized and projected queries and keys, and attention with the mean of the heads' weights.

    The authors' modules also project values, and what they attend to, and use neither. A bias of the keys adds the same
    to all logits of a query, so there is none.
    """

    def __init__(self, dim: int, heads: int, rngs: nnx.Rngs, options: dict[str, Any]):
        self.heads = heads
        self.conv = nnx.Conv(dim, dim, (3, 3), use_bias=False, rngs=rngs, **options)
        self.query_norm = nnx.Param(jnp.ones(dim, options["param_dtype"]))
        self.key_norm = nnx.Param(jnp.ones(dim, options["param_dtype"]))
        self.query = nnx.Linear(dim, dim, rngs=rngs, **options)
        self.key = nnx.Linear(dim, dim, use_bias=False, rngs=rngs, **options)

    def __call__(self, x: jax.Array, queries: jax.Array, keys: jax.Array, **window: Any) -> jax.Array:
        queries = self.query(_layers.rms_norm(_layers.convolution(queries, self.conv), self.query_norm[...]))
        keys = self.key(_layers.rms_norm(keys, self.key_norm[...]))
        return attention.neighborhood_attention(x, queries, keys, heads=self.heads, average_heads=True, **window)


class ImageAttender(AnySize):
    """What AnyUp and JAFAR share: encoders of the guide, and the keys and queries that they make of it."""

    def _set_encoders(
        self,
        dim: int,
        kernel_size: int,
        heads: int,
        blocks: int,
        groups: int,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> tuple[int, int, int, tuple[int, int, nnx.Rngs, dict[str, Any]]]:
        """Checks the numbers and makes the guide's encoders; `dim`, `heads`, `groups`, and what other encoders take."""
        name = type(self).__name__
        (kernel_size,) = _arguments.odd(name, "kernel_size", (kernel_size,), 1)
        dim, heads = _arguments.number(name, "dim", dim), _arguments.number(name, "heads", heads)
        blocks = _arguments.number(name, "blocks", blocks, minimum=0)
        groups = _arguments.number(name, "groups", groups)
        if dim % math.lcm(4, heads, groups):
            raise ValueError(f"{name}: dim must be a multiple of 4, heads={heads} and groups={groups}; got {dim}.")
        _layers.check_parameters(name, rngs, param_dtype, dtype)
        self.dtype = dtype
        parts = (blocks, groups, rngs, {"dtype": dtype, "param_dtype": param_dtype})
        self.image_encoder = Encoder(self.guide_features, dim, kernel_size, *parts)
        self.key_encoder, self.query_encoder = (Encoder(dim, dim, 1, *parts) for _ in range(2))
        self.frequencies = nnx.Param(jnp.asarray(attention.rotary_frequencies(dim), param_dtype))
        return dim, heads, groups, parts

    def _keys_and_queries(
        self, guide: jax.Array, size: tuple[int, ...], target: tuple[int, ...]
    ) -> tuple[jax.Array, jax.Array]:
        """What the guide makes for a map of `size`, and for an output of the size `target`."""
        image = attention.learned_rotary_embedding(self.image_encoder(guide), self.frequencies[...])
        keys = interpolation.area(self.key_encoder(image), size)
        return keys, interpolation.area(self.query_encoder(after(image, keys)), target)


_SMALL: dict[str, Any] = {"dim": 16, "heads": 2, "blocks": 1, "groups": 2}


@register(
    "anyup",
    family="reassembly",
    paper="Wimmer et al. 2025, arXiv:2510.12764",
    uses_guide=True,
    spatial_axes=(2,),
    variants={"small": {**_SMALL, "unify_kernel_size": 3}, "natten": {"neighborhood": True}},
)
class AnyUp(ImageAttender):
    """Attention to a share of the image around each pixel, with queries and keys from the guide and any features.

    An encoder of single pixels maps the guide, whose places then rotate it (`attention.learned_rotary_embedding`). One
    more makes queries of it, averaged to the output's size; another, averaged to the input's, and the input itself,
    unified (`attention.unify_features`) and encoded, make the keys. No parameter depends on the input's channels, so
    that a trained layer serves maps from any encoder: its weights can be loaded into a layer for other `features`.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given. Published weights are for images, 3.
      dim: channels of queries and keys.
      kernel_size: of the guide's first convolution, odd.
      unify_kernel_size: of the filters that unify the input, odd.
      share: how far attention reaches, as a share of the image's height and width.
      neighborhood: whether the rectangle attended to has one size for all pixels, twice the share rounded to an odd
        number, as in the authors' faster form for NATTEN, the variant "natten" of `create`; weights are the same.
      heads: number of attention heads, whose weights are averaged.
      blocks: residual blocks in each encoder.
      groups: of the encoders' normalization. 4, `heads` and `groups` must divide `dim`.
      dtype, param_dtype, rngs: as in `TransposedConv`. Attention weights are computed at least in float32.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H', W', guide_features)` to `(*batch, *size, features)`.
    The size is the call's `size=`, or the layer's, or the guide's. A guide that decides the size has `scale` times the
    input's, or any other of at least the input's; beside a `size=` it may have any.

    The defaults are the authors'. The variant "small" of `create` is a network of a hundredth of the parameters, for a
    CPU.

    Raises:
      ValueError: a guide that is missing or does not fit, channels that do not match, or numbers that do not divide.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.AnyUp(8, guide_features=3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 4, 8)), jnp.ones((8, 8, 3)), size=(7, 9)).shape
    (7, 9, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        dim: int = 128,
        kernel_size: int = 1,
        unify_kernel_size: int = 5,
        share: float = 0.1,
        neighborhood: bool = False,
        heads: int = 4,
        blocks: int = 2,
        groups: int = 8,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "AnyUp"
        self._set_sizes(features, scale, size, guide_features)
        window = _arguments.odd(name, "unify_kernel_size", (unify_kernel_size,) * 2, 2)
        self.share = _arguments.width(name, "share", share)
        self.neighborhood = _arguments.flag(name, "neighborhood", neighborhood)
        numbers = (dim, kernel_size, heads, blocks, groups)
        dim, heads, _, parts = self._set_encoders(*numbers, dtype, param_dtype, rngs)
        self.filters = _layers.parameter(rngs, nnx.initializers.normal(1.0), (*window, dim), param_dtype)
        self.features_encoder = Blocks(dim, *parts)
        self.aggregation = Encoder(2 * dim, dim, 3, *parts)
        self.attention = CrossAttention(dim, heads, *parts[2:])

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x`, to `size` if it is given, along the edges of `guide`."""
        x, high, target = self._checked(x, guide, size)
        x, high = _layers.cast(self.dtype or jnp.result_type(x, self.filters[...]), x, high)
        keys, queries = self._keys_and_queries(high, x.shape[-3:-1], target)
        own = self.features_encoder(attention.unify_features(_layers.unit_length(x), self.filters[...]))
        keys = self.aggregation(jnp.concatenate([keys, own], axis=-1))
        if not self.neighborhood:
            return self.attention(x, queries, keys, share=self.share)
        return self.attention(x, queries, keys, kernel_size=tuple(map(self._window, x.shape[-3:-1])))

    def _window(self, n: int) -> int:
        """The number of pixels on an axis of n that the neighborhood has."""
        return max(3, round(2 * self.share * n)) // 2 * 2 + 1 if self.share < 0.5 else n


@register(
    "jafar",
    family="reassembly",
    paper="Couairon et al. 2025, arXiv:2506.11136",
    uses_guide=True,
    spatial_axes=(2,),
    variants={"small": _SMALL},
)
class JAFAR(ImageAttender):
    """Attention to all pixels, with queries from the guide, and keys from the guide that the features modulate.

    An encoder of single pixels maps the guide, whose places then rotate it (`attention.learned_rotary_embedding`). One
    more makes queries of it, averaged to the output's size; another, averaged to the input's, makes the keys, which are
    normalized, scaled and shifted by what an encoder makes of the input.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given. Published weights are for images, 3.
      dim: channels of queries and keys.
      kernel_size: of the guide's first convolution, odd.
      heads: number of attention heads, whose weights are averaged.
      blocks: residual blocks in each encoder.
      groups: of normalization. 4, `heads` and `groups` must divide `dim`.
      dtype, param_dtype, rngs: as in `TransposedConv`. Attention weights are computed at least in float32.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H', W', guide_features)` to `(*batch, *size, features)`.
    The size is the call's `size=`, or the layer's, or the guide's. A guide that decides the size has `scale` times the
    input's, or any other of at least the input's; beside a `size=` it may have any.

    The defaults are the authors'. The variant "small" of `create` is a network of a hundredth of the parameters, for a
    CPU.

    Raises:
      ValueError: a guide that is missing or does not fit, channels that do not match, or numbers that do not divide.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.JAFAR(8, guide_features=3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 4, 8)), jnp.ones((8, 8, 3)), size=(7, 9)).shape
    (7, 9, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        dim: int = 128,
        kernel_size: int = 1,
        heads: int = 4,
        blocks: int = 2,
        groups: int = 8,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self._set_sizes(features, scale, size, guide_features)
        numbers = (dim, kernel_size, heads, blocks, groups)
        dim, heads, self.groups, parts = self._set_encoders(*numbers, dtype, param_dtype, rngs)
        options = parts[-1]
        self.features_encoder = Encoder(self.features, dim, 1, *parts)
        self.gamma, self.beta = (nnx.Linear(dim, dim, use_bias=False, rngs=rngs, **options) for _ in range(2))
        self.attention = CrossAttention(dim, heads, rngs, options)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x`, to `size` if it is given, along the edges of `guide`."""
        x, high, target = self._checked(x, guide, size)
        x, high = _layers.cast(self.dtype or jnp.result_type(x, self.gamma.kernel[...]), x, high)
        keys, queries = self._keys_and_queries(high, x.shape[-3:-1], target)
        queries = _layers.normalize_groups(queries, self.groups)
        own = self.features_encoder(_layers.unit_length(x))
        keys = self.gamma(own) * _layers.normalize_groups(keys, self.groups) + self.beta(own)
        return self.attention(x, queries, keys, kernel_size=None)


# --- LoftUp -----------------------------------------------------------------------------------------------------------


class TransformerBlock(nnx.Module):
    """Attention of each pixel to all pixels of the low-resolution map, then two linear layers; both are added to it.

    A bias of the keys adds the same to all logits of a query, so there is none.
    """

    def __init__(self, width: int, hidden: int, heads: int, rngs: nnx.Rngs, options: dict[str, Any]):
        self.heads = heads
        self.query_norm, self.map_norm, self.norm = (
            nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs, **options) for _ in range(3)
        )
        self.query, self.value, self.out = (nnx.Linear(width, width, rngs=rngs, **options) for _ in range(3))
        self.key = nnx.Linear(width, width, use_bias=False, rngs=rngs, **options)
        self.hidden = nnx.Linear(width, hidden, rngs=rngs, **options)
        self.contract = nnx.Linear(hidden, width, rngs=rngs, **options)

    def seen(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What is attended to: values and keys."""
        x = _norm(x, self.map_norm)
        return self.value(x), self.key(x)

    def __call__(self, y: jax.Array, values: jax.Array, keys: jax.Array) -> jax.Array:
        queries = self.query(_norm(y, self.query_norm))
        attended = attention.neighborhood_attention(values, queries, keys, kernel_size=None, heads=self.heads)
        y = y + self.out(attended)
        return y + self.contract(_layers.gelu(self.hidden(_norm(y, self.norm))))


@register(
    "loftup",
    family="reassembly",
    paper="Huang et al. 2025, arXiv:2504.14032",
    uses_guide=True,
    spatial_axes=(2,),
    variants={
        "small": {
            "frequencies": 4,
            "place_frequencies": 2,
            "highest": 3.0,
            "heads": None,
            "blocks": 1,
        }
    },
)
class LoftUp(AnySize):
    """A transformer whose queries are the pixels of the guide, with their places, and whose keys are the input's.

    Sines and cosines of the places and colors of the guide (`attention.fourier_features`) pass two 3x3 convolutions
    with batch normalization. In each block every pixel attends to the whole input, to which places are added in the
    same way. Unlike the other layers here, the output is no average of the input's pixels.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given. Published weights are for images, 3.
      frequencies, place_frequencies: how many, for the guide and for places in the input.
      highest: logarithm of the highest frequency, in radians; that of the lowest is -2. At the authors' 10 the last bit
        of a guide in float32 turns an angle by a thousandth, so that programs differ by as much.
      heads: number of attention heads, which must divide `features + 4 * place_frequencies`. None takes the largest of
        4, 2 and 1 that does.
      blocks: blocks of the transformer.
      normalize: whether the input's channels are normalized first, as in the authors' whole upsampler.
      dtype, param_dtype, rngs: as in `TransposedConv`. Fourier features and attention weights are computed at least in
        float32.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H', W', guide_features)` to `(*batch, *size, features)`.
    The size is the call's `size=`, or the layer's, or the guide's. A guide that decides the size has `scale` times the
    input's, or any other of at least the input's; beside a `size=` it may have any, and is brought to that size
    bilinearly.

    The channels of each guide are brought to -0.5 to 0.5; the authors take the extremes of all images of a batch
    together, so that theirs is this for batches of one. Batch normalization has the running averages, as in the
    authors' evaluation, until `layer.train()`. With them the image is computed by tiles of rows.

    The defaults are the authors', with positions "sine" as in all published weights. The variant "small" of `create`
    has one block and few frequencies, for a CPU.

    Raises:
      ValueError: a guide that is missing or does not fit, channels that do not match, or numbers that do not divide.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.LoftUp(8, guide_features=3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 4, 8)), jnp.ones((8, 8, 3)), size=(7, 9)).shape
    (7, 9, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        frequencies: int = 20,
        place_frequencies: int = 5,
        highest: float = 10.0,
        heads: int | None = 4,
        blocks: int = 2,
        normalize: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "LoftUp"
        self._set_sizes(features, scale, size, guide_features)
        frequencies = _arguments.number(name, "frequencies", frequencies)
        place_frequencies = _arguments.number(name, "place_frequencies", place_frequencies)
        self.highest = _arguments.finite(name, "highest", highest)
        width = self.features + 4 * place_frequencies
        heads = max(n for n in (1, 2, 4) if width % n == 0) if heads is None else heads
        heads = _arguments.divisor(name, "heads", heads, **{"features + 4 * place_frequencies": width})
        blocks = _arguments.number(name, "blocks", blocks, minimum=0)
        normalize = _arguments.flag(name, "normalize", normalize)
        _layers.check_parameters(name, rngs, param_dtype, dtype)
        self.dtype = dtype
        options: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        normal = nnx.initializers.normal(1.0)
        values = 2 + self.guide_features
        inward = 2 * frequencies * values + self.guide_features
        self.features_norm = nnx.LayerNorm(self.features, epsilon=1e-5, rngs=rngs, **options) if normalize else None
        self.place_biases = _layers.parameter(rngs, normal, (2, place_frequencies, 2), param_dtype)
        self.guide_biases = _layers.parameter(rngs, normal, (2, frequencies, values), param_dtype)
        self.guide_norm = nnx.LayerNorm(inward, epsilon=1e-5, rngs=rngs, **options)
        self.convs, self.norms = nnx.List([]), nnx.List([])
        for channels in (inward, width):
            # Rows are padded, or are there, before.
            self.convs.append(nnx.Conv(channels, width, (3, 3), padding=((0, 0), (1, 1)), rngs=rngs, **options))
            self.norms.append(nnx.BatchNorm(width, use_running_average=True, momentum=0.9, rngs=rngs, **options))
        self.blocks = nnx.List([TransformerBlock(width, self.features, heads, rngs, options) for _ in range(blocks)])
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs, **options)
        self.outward = nnx.Linear(width, self.features, rngs=rngs, **options)
        self.outward_norm = nnx.LayerNorm(self.features, epsilon=1e-6, rngs=rngs, **options)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x`, to `size` if it is given, along the edges of `guide`."""
        x, high, target = self._checked(x, guide, size)
        (x,) = _layers.cast(self.dtype or jnp.result_type(x, self.outward.kernel[...]), x)
        if high.shape[-3:-1] != target:
            high = interpolation.bilinear(high, target)
        x = x if self.features_norm is None else _norm(x, self.features_norm)
        x = _with_places(x, self.place_biases[...], self.highest)
        seen = [block.seen(x) for block in self.blocks]
        image = _between_extremes(high)
        height, tiles = target[0], Tiles.of(target[0], self._rows_at_once(image))
        if tiles.length == height or not all(norm.use_running_average for norm in self.norms):
            return self._rows(image, None, None, seen, x.dtype)
        # Two more rows on each side, for the two convolutions.
        beyond = (2, 2)
        image = jnp.pad(image, [(0, 0)] * (image.ndim - 3) + [beyond, (0, 0), (0, 0)])
        rows, inside = (
            jnp.asarray(np.pad(np.linspace(-1, 1, height), beyond), image.dtype),
            jnp.asarray(np.pad(np.ones(height, bool), beyond)),
        )

        def tile(first: jax.Array) -> jax.Array:
            cut = lambda a, axis: lax.dynamic_slice_in_dim(a, first, tiles.length + 4, axis)  # noqa: E731
            return self._rows(cut(image, -3), cut(rows, 0), cut(inside, 0), seen, x.dtype)

        return over_tiles(tile, tiles)

    def _rows(
        self,
        image: jax.Array,
        rows: jax.Array | None,
        inside: jax.Array | None,
        seen: list[tuple[jax.Array, jax.Array]],
        dtype: jnp.dtype,
    ) -> jax.Array:
        """The output of a whole image; or of a part whose rows have these places, without the two outer ones.

        `inside` says which rows of a part are in the image.
        """
        waves = attention._fourier_features(image, self.guide_biases[...], rows, -2.0, self.highest)
        y = _norm(jnp.concatenate([waves, image], axis=-1).astype(dtype), self.guide_norm)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = _layers.relu(_layers.batch_norm(_layers.convolution(_zero_outside(y, inside), conv), norm))
            inside = None if inside is None else inside[1:-1]
        for block, (values, keys) in zip(self.blocks, seen, strict=True):
            y = block(y, values, keys)
        return _norm(self.outward(_norm(y, self.norm)), self.outward_norm)

    def _rows_at_once(self, image: jax.Array) -> int:
        """How many rows of all images have maps that fit."""
        batch = image.shape[:-3]
        images = max(math.prod(batch), 1) if _arguments.is_static(*batch) else 1
        channels = max(self.guide_norm.num_features, 2 * self.norm.num_features)
        return max(_common.TILE_BYTES // (images * image.shape[-2] * channels * 4), 1)


def _norm(x: jax.Array, norm: nnx.LayerNorm) -> jax.Array:
    """What `norm` computes, without promotion of dtypes."""
    assert norm.scale is not None
    assert norm.bias is not None
    return _layers.layer_norm(x, norm.scale[...], norm.bias[...], norm.epsilon)


@core(2)
def _with_places(x: jax.Array, biases: jax.Array, highest: float) -> jax.Array:
    """`x` with the waves of its pixels' places as more channels."""
    places = attention._fourier_features(x[..., :0], biases, None, -2.0, highest)
    return jnp.concatenate([x, places.astype(x.dtype)], axis=-1)


@core()
def _between_extremes(image: jax.Array) -> jax.Array:
    """The channels of each image from -0.5 to 0.5."""
    wide = image.astype(accumulator(image.dtype))
    low, high = (f(wide, axis=(-3, -2), keepdims=True) for f in (jnp.min, jnp.max))
    return (wide - low) / jnp.maximum(high - low, 1e-4) - 0.5


@core()
def _zero_outside(y: jax.Array, inside: jax.Array | None) -> jax.Array:
    """Zeros for the rows that are not inside; or one more row of them on both sides of a whole image."""
    if inside is None:
        return jnp.pad(y, [(0, 0)] * (y.ndim - 3) + [(1, 1), (0, 0), (0, 0)])
    return jnp.where(with_axes(inside[:, None, None], y.ndim), y, jnp.zeros((), y.dtype))
