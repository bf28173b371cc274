"""Upsampling with predicted weights, as layers: small networks that predict, and the functions that upsample by it."""

import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from upsampling import _arguments, interpolation, reassembly
from upsampling._arguments import Numbers
from upsampling.nn import _layers
from upsampling.nn._sizes import AnySize
from upsampling.nn.initializers import Initializer
from upsampling.nn.registry import Upsampler, register
from upsampling.primitives._common import accumulator, core
from upsampling.primitives.window_attention import normalized

Similarity = Literal["inner", "bilinear", "gated", "joined"]

_XAVIER = nnx.initializers.xavier_uniform()
_SMALL, _TINY = nnx.initializers.normal(0.02), nnx.initializers.normal(0.001)


@register("carafe", family="reassembly", paper="Wang et al. 2019, arXiv:1905.02188")
class CARAFE(Upsampler):
    """Content-aware reassembly of features: `upsampling.carafe` with a compressor and an encoder that predict for it.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes of an image or one per spatial axis.
      kernel_size: window of the reassembly, odd, one number or one per axis.
      groups: number of channel groups with weights of their own.
      encoder_kernel_size, encoder_dilation: window and dilation of the content encoder.
      compressed_features: channels that the input is projected to before it is encoded.
      compressor_init, encoder_init, bias_init: initializers. The encoder's default is the authors', a normal of
        standard deviation 0.001, so that the layer starts as the mean over its window.
      dtype: what to compute in; promoted from input and parameters if not given.
      param_dtype: what parameters are kept in.
      rngs: where parameters draw their first values from.

    Shapes: `(*batch, *spatial, features)` to `(*batch, *spatial * scale, features)`.

    Raises:
      ValueError: channels that do not match, a window of even size, or numbers out of range.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.CARAFE(8, scale=2, kernel_size=3, compressed_features=4, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((16, 16, 8))).shape
    (32, 32, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers = 2,
        *,
        kernel_size: Numbers = 5,
        groups: int = 1,
        encoder_kernel_size: Numbers = 3,
        encoder_dilation: Numbers = 1,
        compressed_features: int = 64,
        compressor_init: Initializer = _XAVIER,
        encoder_init: Initializer = _TINY,
        bias_init: Initializer = _layers.ZEROS,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "CARAFE"
        self.features, self.scale = _layers.sizes(name, features, scale)
        rank = len(self.scale)
        self.kernel_size = _arguments.odd(name, "kernel_size", kernel_size, rank)
        self.groups = _arguments.divisor(name, "groups", groups, features=features)
        self.encoder_dilation = _arguments.per_axis(name, "encoder_dilation", encoder_dilation, rank)
        self.dtype = dtype
        inner = _arguments.number(name, "compressed_features", compressed_features)
        out = self.groups * math.prod(self.kernel_size) * math.prod(self.scale)
        window = _arguments.odd(name, "encoder_kernel_size", encoder_kernel_size, rank)
        initializers = {"compressor_init": compressor_init, "encoder_init": encoder_init, "bias_init": bias_init}
        _layers.check_parameters(name, rngs, param_dtype, dtype, **initializers)
        self.compressor_kernel = _layers.parameter(rngs, compressor_init, (features, inner), param_dtype)
        self.compressor_bias = _layers.parameter(rngs, bias_init, (inner,), param_dtype)
        self.encoder_kernel = _layers.parameter(rngs, encoder_init, (*window, inner, out), param_dtype)
        self.encoder_bias = _layers.parameter(rngs, bias_init, (out,), param_dtype)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """Upsamples `x`; `guide` is accepted, as by every layer, and not used."""
        x = _layers.checked_map("CARAFE", x, self.features, len(self.scale))
        parameters = (self.compressor_kernel, self.compressor_bias, self.encoder_kernel, self.encoder_bias)
        x, *parameters = _layers.cast(self.dtype, x, *(p[...] for p in parameters))
        logits = _layers.project_and_encode(x, *parameters, dilation=self.encoder_dilation)
        return reassembly.carafe(x, logits, scale=self.scale, kernel_size=self.kernel_size, groups=self.groups)


@register("sapa", family="reassembly", paper="Lu et al. 2022, arXiv:2209.12866", uses_guide=True)
class SAPA(AnySize):
    """Similarity-aware point affiliation: `upsampling.sapa` with layer normalization and projections before it.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes of an image or one per spatial axis.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given.
      similarity: how pixels are compared. "inner": the inner product of the normalized features, which has no
        projections and needs as many channels in the guide as in the input. "bilinear": the inner product of their
        projections, what the authors publish as SAPA. "gated": with queries mixed from both resolutions. There the
        input's share of the queries comes from features that are not normalized, as in the authors' code, where the
        paper has normalized ones. "joined": with queries from both resolutions side by side, which the authors call
        `cat`; the input's are not normalized either.
      kernel_size: window of the reassembly, odd, one number or one per axis.
      embedding_features: channels of queries and keys, for all but "inner".
      use_bias: whether the projections have biases, for all but "inner".
      embed_values: whether what is averaged is a projection of the normalized input, and not the input.
      kernel_init, bias_init: initializers of the projections. The default is the authors', a normal of standard
        deviation 0.02.
      dtype: what to compute in; promoted from input and parameters if not given. The guide is converted to it.
      param_dtype, rngs: as in `CARAFE`.

    Call it with the encoder's map as `guide`.

    Shapes: `(*batch, *spatial, features)` and `(*batch, *spatial * scale, guide_features)` to
    `(*batch, *spatial * scale, features)`. A guide of another size, at least that of the input,
    decides the output's. With `size=`, the layer's or the call's, the guide may have any size, and is brought to that
    one bilinearly.

    Raises:
      ValueError: channels that do not match, no guide or one of another shape, a window of even size, numbers out of
        range, or an unknown similarity.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.SAPA(8, guide_features=4, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((6, 6, 8)), jnp.ones((12, 12, 4))).shape
    (12, 12, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        similarity: Similarity = "bilinear",
        kernel_size: Numbers = 5,
        embedding_features: int = 64,
        use_bias: bool = True,
        embed_values: bool = False,
        kernel_init: Initializer = _SMALL,
        bias_init: Initializer = _layers.ZEROS,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "SAPA"
        self._set_sizes(features, scale, size, guide_features, (1, 2, 3))
        self.similarity = _arguments.one_of(name, "similarity", similarity, get_args(Similarity))
        self.kernel_size = _arguments.odd(name, "kernel_size", kernel_size, self.rank)
        self.dtype = dtype
        if similarity == "inner" and self.guide_features != features:
            raise ValueError(
                f"{name}: guide_features={guide_features} must equal features={features} with similarity='inner', "
                "which compares them as they are."
            )
        inner = _arguments.number(name, "embedding_features", embedding_features)
        use_bias = _arguments.flag(name, "use_bias", use_bias)
        embed_values = _arguments.flag(name, "embed_values", embed_values)
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init, bias_init=bias_init)

        def linear(channels: int, out: int, bias: bool = use_bias) -> tuple[nnx.Param, nnx.Param | None]:
            return (
                _layers.parameter(rngs, kernel_init, (channels, out), param_dtype),
                _layers.parameter(rngs, bias_init, (out,), param_dtype) if bias else None,
            )

        def norm(channels: int) -> tuple[nnx.Param, nnx.Param]:
            return nnx.Param(jnp.ones(channels, param_dtype)), nnx.Param(jnp.zeros(channels, param_dtype))

        self.guide_norm_scale, self.guide_norm_bias = norm(self.guide_features)
        self.norm_scale, self.norm_bias = norm(features)
        if similarity != "inner":
            self.query_kernel, self.query_bias = linear(self.guide_features, inner)
            self.key_kernel, self.key_bias = linear(features, inner)
        if similarity in ("gated", "joined"):
            # Side by side, the guide's bias is that of both.
            self.map_query_kernel, self.map_query_bias = linear(features, inner, use_bias and similarity == "gated")
        if similarity == "gated":
            self.gate_kernel, self.gate_bias = linear(features, 1)
        self.value_kernel, self.value_bias = linear(features, features) if embed_values else (None, None)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x` by its similarity with `guide`."""
        x, high = self._checked_alike(x, guide, size)
        size = high.shape[-1 - self.rank : -1]
        x, norm_scale, norm_bias = _layers.cast(self.dtype, x, self.norm_scale[...], self.norm_bias[...])
        high, guide_norm = high.astype(x.dtype), (self.guide_norm_scale[...], self.guide_norm_bias[...])
        if self.similarity == "bilinear" and self.value_kernel is None:
            linear = (self.query_kernel, self.key_kernel, self.query_bias, self.key_bias)
            linear = (None if p is None else p[...].astype(x.dtype) for p in linear)
            return _sapa_of_projections(x, high, norm_scale, norm_bias, *guide_norm, *linear, self.kernel_size)
        keys = normal = _layers.layer_norm(x, norm_scale, norm_bias)
        queries = _layers.layer_norm(high, *guide_norm)
        if self.similarity != "inner":
            queries = _project(queries, self.query_kernel, self.query_bias)
            keys = _project(normal, self.key_kernel, self.key_bias)
        if self.similarity == "gated":
            gate = _project(normal, self.gate_kernel, self.gate_bias)
            from_map = _project(x, self.map_query_kernel, self.map_query_bias)
            queries = reassembly.gated_queries(queries, from_map, gate, size=size)
        if self.similarity == "joined":
            from_map = _project(x, self.map_query_kernel, None)
            queries = queries + interpolation.nearest(from_map, size)
        if self.value_kernel is not None:
            x = _project(normal, self.value_kernel, self.value_bias)
        return reassembly.sapa(x, queries, keys, size=size, kernel_size=self.kernel_size)


@register("fade", family="reassembly", paper="Lu et al. 2022, arXiv:2207.10392", uses_guide=True)
class FADE(AnySize):
    """Mixes decoder and encoder features: `upsampling.fade` with the convolutions that predict for it.

    The weights come from a semi-shift convolution: encoder and decoder features are compressed and go through the same
    convolution, each at its own resolution, whose bias thus counts twice, as in the authors' code.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes of an image or one per spatial axis.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given. If they differ, a convolution by one pixel brings
        the guide that passes the gate to `features` channels.
      kernel_size: window of the reassembly, odd, one number or one per axis.
      encoder_kernel_size: window of the semi-shift convolution.
      compressed_features: channels that both maps are projected to before it; None for what `FADELite` has.
      gated: whether the guide passes the gate; without it the result is the reassembled input alone, the authors'
        `SemiShiftUp`.
      kernel_init, bias_init, dtype, param_dtype, rngs: as in `SAPA`. The kernels' default is the authors', Xavier's
        uniform.

    Call it with the encoder's map as `guide`.

    Weights of the authors' modules load, of both their forms. So do those of a port of the first form (`FADE_H2L` with
    einops, beside the authors'), which has the same names but mixes the compressed guide's channels with the phases of
    the semi-shift convolution: trained there, they mean something else here and in the authors' code.

    Shapes: `(*batch, *spatial, features)` and `(*batch, *spatial * scale, guide_features)` to
    `(*batch, *spatial * scale, features)`. A guide of another size, at least that of the input,
    decides the output's. With `size=`, the layer's or the call's, the guide may have any size, and is brought to that
    one bilinearly.

    Raises:
      ValueError: channels that do not match, no guide or one of another shape, a window of even size, or numbers out
        of range.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.FADE(8, guide_features=4, kernel_size=3, compressed_features=4, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((6, 6, 8)), jnp.ones((12, 12, 4))).shape
    (12, 12, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        kernel_size: Numbers = 5,
        encoder_kernel_size: Numbers = 3,
        compressed_features: int | None = 64,
        gated: bool = True,
        kernel_init: Initializer = _XAVIER,
        bias_init: Initializer = _layers.ZEROS,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = type(self).__name__
        self._set_sizes(features, scale, size, guide_features, (1, 2, 3))
        rank = self.rank
        self.kernel_size = _arguments.odd(name, "kernel_size", kernel_size, rank)
        self.dtype = dtype
        window = _arguments.odd(name, "encoder_kernel_size", encoder_kernel_size, rank)
        taps = math.prod(self.kernel_size)
        lite = compressed_features is None
        inner = taps if lite else _arguments.number(name, "compressed_features", compressed_features)
        self.groups = taps if lite else 1
        gated = _arguments.flag(name, "gated", gated)
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init, bias_init=bias_init)

        def kernel(*shape: int) -> nnx.Param:
            return _layers.parameter(rngs, kernel_init, shape, param_dtype)

        def bias(channels: int) -> nnx.Param:
            return _layers.parameter(rngs, bias_init, (channels,), param_dtype)

        self.gate_kernel, self.gate_bias = (kernel(features, 1), bias(1)) if gated else (None, None)
        self.guide_kernel, self.guide_bias = kernel(self.guide_features, inner), bias(inner)
        self.map_kernel = kernel(features, inner)
        self.encoder_kernel, self.encoder_bias = kernel(*window, inner // self.groups, taps), bias(taps)
        if self.guide_features != features and gated:
            self.aligner_kernel, self.aligner_bias = kernel(self.guide_features, features), bias(features)

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x` with weights from it and from `guide`."""
        x, high = self._checked_alike(x, guide, size)
        size = high.shape[-1 - self.rank : -1]
        x, encoder, encoder_bias = _layers.cast(self.dtype, x, self.encoder_kernel[...], self.encoder_bias[...])
        high = high.astype(x.dtype)
        guide_kernel, guide_bias, map_kernel = (
            p[...].astype(x.dtype) for p in (self.guide_kernel, self.guide_bias, self.map_kernel)
        )
        encode = functools.partial(_layers.project_and_encode, kernel=encoder, bias=encoder_bias, groups=self.groups)
        guide_logits, map_logits = encode(high, guide_kernel, guide_bias), encode(x, map_kernel, None)
        if self.gate_kernel is None:
            return reassembly.fade(x, None, guide_logits, map_logits, None, size=size, kernel_size=self.kernel_size)
        if self.guide_features != self.features:
            high = _project(high, self.aligner_kernel, self.aligner_bias)
        gate = _project(x, self.gate_kernel, self.gate_bias)
        return reassembly.fade(x, high, guide_logits, map_logits, gate, size=size, kernel_size=self.kernel_size)


@register("fade_lite", family="reassembly", paper="Lu et al. 2024, arXiv:2407.13500", uses_guide=True)
class FADELite(FADE):
    """FADE with a convolution of its own for each tap of the window, which has far fewer parameters.

    Encoder and decoder features are compressed to as many channels as the window has taps, and the semi-shift
    convolution is one per channel.

    Args:
      features, scale, size, guide_features, kernel_size, encoder_kernel_size, gated: as in `FADE`.
      kernel_init, bias_init, dtype, param_dtype, rngs: as in `FADE`.

    Shapes and errors are those of `FADE`.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.FADELite(8, kernel_size=3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((6, 6, 8)), jnp.ones((12, 12, 8))).shape
    (12, 12, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        kernel_size: Numbers = 5,
        encoder_kernel_size: Numbers = 3,
        gated: bool = True,
        kernel_init: Initializer = _XAVIER,
        bias_init: Initializer = _layers.ZEROS,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            features,
            scale,
            size=size,
            guide_features=guide_features,
            kernel_size=kernel_size,
            encoder_kernel_size=encoder_kernel_size,
            compressed_features=None,
            gated=gated,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )


@core(10)
def _sapa_of_projections(
    x: jax.Array,
    guide: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    guide_scale: jax.Array,
    guide_shift: jax.Array,
    query_kernel: jax.Array,
    key_kernel: jax.Array,
    query_bias: jax.Array | None,
    key_bias: jax.Array | None,
    window: tuple[int, ...],
) -> jax.Array:
    """`sapa` whose queries and keys are projections of the normalized guide and input."""
    of_queries, of_keys = (functools.partial(form, window=window) for form in (_sapa_of_queries, _sapa_of_keys))
    linear = (((guide_scale, guide_shift), query_kernel, query_bias), ((scale, shift), key_kernel, key_bias))
    if query_kernel.shape[0] > query_kernel.shape[1]:
        return of_queries(x, guide, *linear)
    return lax.platform_dependent(x, guide, *linear, cuda=of_keys, default=of_queries)


def _sapa_of_queries(x: jax.Array, guide: jax.Array, *linear: tuple, window: tuple[int, ...]) -> jax.Array:
    pairs = zip((guide, x), linear, strict=True)
    queries, keys = (_layers.project(_layers.layer_norm(a, *norm), *weights) for a, (norm, *weights) in pairs)
    return reassembly._sapa(x, queries, keys, window)


def _sapa_of_keys(x: jax.Array, guide: jax.Array, *linear: tuple, window: tuple[int, ...]) -> jax.Array:
    """The same with the queries' projection made of the keys, which are fewer: a . (K b) in place of (K' a) . b.

    A GPU would write the queries, and read them for every gradient. Of a guide with more channels than queries there
    would be more to compare.
    """
    wide = accumulator(x.dtype)
    product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)

    def rows(norm: tuple, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        """(channels + 1, embedding): what multiplies each normalized channel, and what is added."""
        constant = product(norm[1][None], kernel)
        return jnp.concatenate([norm[0][:, None] * kernel, constant if bias is None else constant + bias[None]])

    of_guide, of_map = (rows(*jax.tree.map(lambda a: a.astype(wide), own)) for own in linear)
    both = product(of_map, of_guide.T)
    normal = normalized(x.astype(wide))[0].astype(x.dtype)
    keys = _layers.project(normal, both[:-1].astype(x.dtype), both[-1])
    return reassembly._sapa_of_normalized(x, guide, keys, window)


def _project(x: jax.Array, kernel: nnx.Param, bias: nnx.Param | None) -> jax.Array:
    return _layers.project(x, kernel[...].astype(x.dtype), None if bias is None else bias[...].astype(x.dtype))
