"""FreqFusion as a layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from upsampling import _arguments, convolution, frequency, interpolation
from upsampling._arguments import EDGES, Edge, Numbers
from upsampling.nn import _layers
from upsampling.nn._sizes import AnySize
from upsampling.nn.initializers import Initializer
from upsampling.nn.registry import register
from upsampling.primitives._common import core

_XAVIER = nnx.initializers.xavier_uniform()
_TINY = nnx.initializers.normal(0.001)


@register(
    "freqfusion",
    family="reassembly",
    paper="Chen et al. 2024, arXiv:2408.12879",
    uses_guide=True,
    spatial_axes=(2,),
    variants={"small": {"compressed_features": 16}},
)
class FreqFusion(AnySize):
    """Upsampling by a low-pass filter predicted for each pixel, then by offsets from local similarity; and sharpening.

    Input and guide are compressed. Filters for the guide's high frequencies sharpen the compressed guide, which then
    predicts low-pass filters; these enlarge what the same convolution makes of the input, to be added to them; and the
    sums enlarge the input (`upsampling.frequency.low_pass`). Offsets, from both compressed maps and from how like each
    pixel's neighbors are to it, at last move each pixel (`upsampling.frequency.shifted`).

    The layer returns the upsampled input. `fuse` also returns the guide with its high frequencies raised, for a
    decoder to add or to join; in the authors' feature pyramid the two are added.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis. The authors have 2.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given.
      kernel_size: window of the low-pass filters, odd.
      highpass_kernel_size: window of the filters for high frequencies, odd.
      encoder_kernel_size: window of the convolutions that predict, odd.
      compressed_features: channels that both maps are compressed to.
      resample: whether pixels are moved. The authors' module leaves it out unless asked, their networks ask for it.
      groups: blocks of channels that move by themselves.
      normalize: whether the compressed maps are normalized, in groups of 8 channels, before offsets are predicted.
      hamming, edge: as in `upsampling.frequency.low_pass`.
      kernel_init, filter_init: initializers, of the filters' convolutions and of the others.
      dtype, param_dtype, rngs: as in `TransposedConv`. Filters and positions are computed at least in float32.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H', W', guide_features)` to `(*batch, *size, features)`.
    The size is the call's `size=`, or the layer's, or the guide's, which is then `scale` times the input's, or any
    other of at least the input's. A guide of another size than the call's is brought to it bilinearly.

    Raises:
      ValueError: a guide that is missing or does not fit, channels that do not match, or numbers that do not divide.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.FreqFusion(8, guide_features=4, compressed_features=8, rngs=nnx.Rngs(0))
    >>> x, guide = jnp.ones((4, 4, 8)), jnp.ones((8, 8, 4))
    >>> layer(x, guide).shape, [y.shape for y in layer.fuse(x, guide)]
    ((8, 8, 8), [(8, 8, 8), (8, 8, 4)])
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        kernel_size: int = 5,
        highpass_kernel_size: int = 3,
        encoder_kernel_size: int = 3,
        compressed_features: int = 64,
        resample: bool = True,
        groups: int = 4,
        normalize: bool = True,
        hamming: bool = True,
        edge: Edge = "zero",
        kernel_init: Initializer = _XAVIER,
        filter_init: Initializer = _TINY,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "FreqFusion"
        self._set_sizes(features, scale, size, guide_features)
        (low,) = _arguments.odd(name, "kernel_size", (kernel_size,), 1)
        (high,) = _arguments.odd(name, "highpass_kernel_size", (highpass_kernel_size,), 1)
        (window,) = _arguments.odd(name, "encoder_kernel_size", (encoder_kernel_size,), 1)
        inner = _arguments.number(name, "compressed_features", compressed_features)
        resample = _arguments.flag(name, "resample", resample)
        normalize = _arguments.flag(name, "normalize", normalize)
        if resample:
            self.groups = _arguments.divisor(name, "groups", groups, features=self.features)
            if normalize and inner % 8:
                raise ValueError(f"{name}: compressed_features must be a multiple of 8 to be normalized; got {inner}.")
        self.hamming = _arguments.flag(name, "hamming", hamming)
        self.edge: Edge = _arguments.one_of(name, "edge", edge, EDGES)
        self.dtype = dtype
        _layers.check_parameters(name, rngs, param_dtype, dtype, kernel_init=kernel_init, filter_init=filter_init)
        options = {"rngs": rngs, "param_dtype": param_dtype}
        self.guide_compressor = Predictor(self.guide_features, inner, 1, kernel_init, **options)
        self.map_compressor = Predictor(self.features, inner, 1, kernel_init, **options)
        self.low = Predictor(inner, low**2, window, filter_init, **options)
        self.high = Predictor(inner, high**2, window, filter_init, **options)
        self.resampler = Resampler(inner, self.groups, window, normalize, kernel_init, **options) if resample else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None) -> jax.Array:
        """Upsamples `x`, to `size` if it is given, with filters that `guide` and `x` predict."""
        return self._fuse(x, guide, size, sharpen=False)[0]

    def fuse(
        self, x: jax.Array, guide: jax.Array | None = None, *, size: Numbers | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The upsampled `x`, and `guide` with its high frequencies added once more."""
        y, sharpened = self._fuse(x, guide, size, sharpen=True)
        assert sharpened is not None
        return y, sharpened

    def _fuse(self, x: Any, guide: Any, size: Any, *, sharpen: bool) -> tuple[jax.Array, jax.Array | None]:
        x, high, target = self._checked(x, guide, size)
        x, high = _layers.cast(self.dtype or jnp.result_type(x, self.low.kernel[...]), x, high)
        high = interpolation.bilinear(high, target)

        def filtered(a: jax.Array, logits: jax.Array) -> jax.Array:
            return frequency.low_pass(a, logits, size=target, hamming=self.hamming, edge=self.edge)

        fine, coarse = self.guide_compressor(high), self.map_compressor(x)
        high_logits = self.high(fine)
        fine = _sharpened(fine, filtered(fine, high_logits))
        own = self.low(fine)
        logits = own + filtered(self.low(coarse), own)
        y = filtered(x, logits)
        if self.resampler is not None:
            step = tuple(m / n for n, m in zip(x.shape[-3:-1], target, strict=True))
            y = frequency.shifted(y, self.resampler(fine, coarse), step=step)
        if not sharpen:
            return y, None
        high_logits = high_logits + filtered(self.high(coarse), logits)
        return y, _sharpened(high, filtered(high, high_logits))


@core()
def _sharpened(x: jax.Array, low: jax.Array) -> jax.Array:
    """`x` with its high frequencies added once more."""
    return 2 * x - low


class Predictor(nnx.Module):
    """A convolution that keeps the size."""

    def __init__(
        self, inputs: int, out: int, window: int, init: Initializer, *, rngs: nnx.Rngs, param_dtype: DTypeLike
    ):
        self.kernel = _layers.parameter(rngs, init, (window, window, inputs, out), param_dtype)
        self.bias = nnx.Param(jnp.zeros(out, param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        return _layers.encode(x, self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype))


class Resampler(nnx.Module):
    """Offsets of each pixel, and how much of them is used, from both maps and the likeness of their neighbors."""

    def __init__(
        self,
        inputs: int,
        groups: int,
        window: int,
        normalize: bool,
        init: Initializer,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike,
    ):
        self.groups = groups
        options = {"rngs": rngs, "param_dtype": param_dtype}

        def make(phases: int) -> Predictor:
            return Predictor(inputs + 8, 2 * groups * phases, window, init, **options)

        self.offset, self.scope, self.guide_offset, self.guide_scope = make(4), make(4), make(1), make(1)
        norms = [
            nnx.GroupNorm(
                inputs, inputs // 8, epsilon=1e-5, use_fast_variance=False, param_dtype=param_dtype, rngs=rngs
            )
            for _ in range(2 if normalize else 0)
        ]
        self.norms = nnx.List(norms)

    def __call__(self, fine: jax.Array, coarse: jax.Array) -> jax.Array:
        """(*batch, H, W, groups, 2), in pixels of the coarse map."""
        if self.norms:
            fine, coarse = (_layers.group_norm(x, n) for x, n in zip((fine, coarse), self.norms, strict=True))
        fine, coarse = (jnp.concatenate([x, frequency.neighbor_cosines(x)], -1) for x in (fine, coarse))
        size = fine.shape[-3:-1]

        def both(low: Predictor, high: Predictor) -> jax.Array:
            # The coarse map says something for each of four pixels.
            return interpolation.nearest(convolution.pixel_shuffle(low(coarse), 2), size) + high(fine)

        offsets = both(self.offset, self.guide_offset) * jax.nn.sigmoid(both(self.scope, self.guide_scope))
        return offsets.reshape(*offsets.shape[:-1], self.groups, 2)
