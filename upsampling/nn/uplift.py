"""UPLiFT as a layer."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from upsampling import _arguments, convolution, interpolation, reassembly
from upsampling._arguments import Numbers
from upsampling.nn import _layers
from upsampling.nn._sizes import AnySize
from upsampling.nn.registry import register
from upsampling.primitives import _common
from upsampling.primitives._common import core

Kind = Literal["features", "latents"]


class Form(NamedTuple):
    """What the networks for one kind of features are made of.

    Attributes:
      name: what it is called.
      norm: after each 3x3 convolution.
      encoder, before, after, refiner: the numbers of 3x3 convolutions of the blocks there.
      noise: channels of noise that the decoder and the refiner see.
    """

    name: Kind
    norm: Literal["batch", "layer"]
    encoder: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    refiner: tuple[int, ...] = ()
    noise: int = 0


_FORMS = {
    form.name: form
    for form in (
        Form("features", "batch", (1,), (2,), (2,)),
        Form("latents", "layer", (1, 1), (1,), (1, 1), (1,) * 12, 4),
    )
}

# What a block sees beside its other inputs: nothing, or noise of its size.
Draw = Callable[[jax.Array], tuple[jax.Array, ...]]


class ConvBlock(nnx.Module):
    """3x3 convolutions, each with normalization and ReLU, and a 1x1 convolution; the input is added.

    The input's channels beyond those of the result are left out of the sum, and missing ones are zero. It may come in
    parts, side by side in the channels; they are not copied together.
    """

    def __init__(self, inputs: int, width: int, count: int, norm: str, rngs: nnx.Rngs, param_dtype: DTypeLike):
        draw = _layers.LECUN
        widths = (inputs, *(width,) * count)
        kernels = [_layers.parameter(rngs, draw, (3, 3, *pair), param_dtype) for pair in itertools.pairwise(widths)]
        self.kernels = nnx.List(kernels)
        layer_norm = lambda: nnx.LayerNorm(width, epsilon=1e-6, param_dtype=param_dtype, rngs=rngs)  # noqa: E731
        batch_norm = lambda: _layers.make_batch_norm(width, param_dtype, rngs)  # noqa: E731
        self.norms = nnx.List([batch_norm() if norm == "batch" else layer_norm() for _ in range(count)])
        self.last = _layers.parameter(rngs, draw, (width, width), param_dtype)
        self.bias = nnx.Param(jnp.zeros(width, param_dtype))

    def __call__(self, *parts: jax.Array) -> jax.Array:
        seen = parts
        for kernel, norm in zip(self.kernels, self.norms, strict=True):
            y = _convolved(seen, kernel[...].astype(parts[0].dtype))
            seen = (_layers.relu(_normalized(y, norm)),)
        (y,) = seen
        return _added(parts, _layers.project(y, self.last[...].astype(y.dtype), self.bias[...].astype(y.dtype)))


def _normalized(x: jax.Array, norm: Any) -> jax.Array:
    if isinstance(norm, nnx.BatchNorm):
        return _layers.batch_norm(x, norm)
    return _layers.layer_norm(x, norm.scale[...], norm.bias[...], norm.epsilon)


def _through(blocks: Sequence[ConvBlock], *parts: jax.Array) -> jax.Array:
    """One block after the other, of which the first sees the parts."""
    y = blocks[0](*parts)
    for block in blocks[1:]:
        y = block(y)
    return y


@core((1, 2, 3))
def _noise(key: jax.Array, number: int, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(key, number), shape, dtype)


def _convolved(parts: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
    ends = list(itertools.accumulate(part.shape[-1] for part in parts))
    kernels = (
        lax.slice_in_dim(kernel, end - part.shape[-1], end, axis=-2) for part, end in zip(parts, ends, strict=True)
    )
    return functools.reduce(jnp.add, map(_layers.encode, parts, kernels))


def _added(parts: Sequence[jax.Array], y: jax.Array) -> jax.Array:
    """The parts, side by side, and `y`, with the channels of `y`."""
    first: list[jax.Array] = []
    missing = y.shape[-1]
    for part in parts:
        first.append(lax.slice_in_dim(part, 0, min(missing, part.shape[-1]), axis=-1))
        missing -= first[-1].shape[-1]
    return _sum_of_channels(y, *first)


@core()
def _sum_of_channels(y: jax.Array, *parts: jax.Array) -> jax.Array:
    x = parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)
    return y + jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, y.shape[-1] - x.shape[-1])])


@register(
    "uplift",
    family="reassembly",
    paper="Walmer et al. 2026, arXiv:2601.17950",
    uses_guide=True,
    spatial_axes=(2,),
    variants={
        "small": {"image_features": (8, 8), "hidden": 8, "neighbors": 9},
        "latents": {"form": "latents", "image_features": (64, 128, 256, 512, 512), "hidden": 512},
    },
)
class UPLiFT(AnySize):
    """Doubles the size again and again by one small network, which picks among pixels with an image's help.

    An encoder sees the image once, at its own size. In each step a decoder sees the map and the image's features,
    brought to the sizes before and after by the nearest pixels, and puts out the logits of a few pixels around each
    output pixel (`upsampling.reassembly.attend_to_neighbors`). So the values stay those of the input, averaged; but in
    the form "latents", in which a refiner makes new ones of them.

    Args:
      features: channels of the input and the output.
      scale: factor, one whole number for both axes or one per axis. The result of the last step is brought to it by
        bilinear interpolation, with antialiasing, where it is no power of two.
      size: the output's size, in place of `scale`.
      guide_features: channels of the guide; `features` if not given. Published weights are for images, 3.
      image_features: channels of the encoder's blocks; the last two are seen by the decoder.
      hidden: channels of the decoder's blocks.
      neighbors: how many pixels are picked among: 5, 9, 13, 17 or 25.
      form: "features", or "latents" of an autoencoder for diffusion: with layer normalization, more convolutions, noise
        beside what the decoder sees, drawn from the call's `key=`, and a refiner of 12 blocks after it.
      steps: how many times the size is doubled; None for as often as the output's size needs.
      guide_scale: what the guide is resized by before the encoder sees it. The authors have 16 / 14 for networks whose
        patches have 14 pixels, so that the image fits the doubled features.
      dtype, param_dtype, rngs: as in `TransposedConv`. Weights are computed at least in float32.

    Shapes: `(*batch, H, W, features)` and a guide `(*batch, H', W', guide_features)` to `(*batch, *size, features)`.
    The size is the call's `size=`, or the layer's, or the guide's, which is then `scale` times the input's, or any
    other of at least the input's.

    All weights that the authors publish load: the defaults are those for DINOv2 (`uplift_dinov2-s14`, whose
    `guide_scale` is 16 / 14) and DINOv3 (`uplift_dinov3-splus16`), the variant "latents" of `create` is that for the
    autoencoder of Stable Diffusion 1.5 (`uplift_sd1.5vae`, 4 features; the image in [0, 1]). The variant "small" is for
    a CPU. Batch normalization uses its running averages until `layer.train()` is called, and again after
    `layer.eval()`.

    Raises:
      ValueError: a guide that is missing or does not fit, channels that do not match, numbers out of range, or a key
        that is missing or has no use.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> from flax import nnx
    >>> layer = up.nn.create("uplift", 8, size=(14, 14), guide_features=3, variant="small", rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((4, 4, 8)), jnp.ones((16, 16, 3))).shape
    (14, 14, 8)
    """

    def __init__(
        self,
        features: int,
        scale: Numbers | None = 2,
        *,
        size: Numbers | None = None,
        guide_features: int | None = None,
        image_features: Sequence[int] = (16, 32, 64, 128, 128),
        hidden: int = 64,
        neighbors: int = 17,
        form: Kind = "features",
        steps: int | None = None,
        guide_scale: float = 1.0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        name = "UPLiFT"
        self._set_sizes(features, scale, size, guide_features)
        widths = _arguments.widths(name, "image_features", image_features)
        if len(widths) < 2:
            raise ValueError(f"{name}: image_features must have at least two numbers; got {widths}.")
        hidden = _arguments.number(name, "hidden", hidden)
        neighbors = _arguments.number(name, "neighbors", neighbors)
        if neighbors not in reassembly.NEIGHBORHOODS:
            raise ValueError(f"{name}: neighbors must be 5, 9, 13, 17 or 25; got {neighbors}.")
        self.steps = None if steps is None else _arguments.number(name, "steps", steps)
        self.guide_scale = _arguments.width(name, "guide_scale", guide_scale)
        self.dtype = dtype
        _layers.check_parameters(name, rngs, param_dtype, dtype)
        self.form = _FORMS[_arguments.one_of(name, "form", form, _FORMS)]

        def blocks(inputs: int, width: int, counts: Sequence[int]) -> nnx.List:
            pairs = zip(itertools.pairwise((inputs, *(width,) * len(counts))), counts, strict=True)
            return nnx.List([ConvBlock(*pair, count, self.form.norm, rngs, param_dtype) for pair, count in pairs])

        noise, pairs = self.form.noise, itertools.pairwise((self.guide_features, *widths))
        self.encoder = nnx.List([blocks(*pair, self.form.encoder) for pair in pairs])
        self.before = blocks(self.features + widths[-1] + noise, hidden, self.form.before)
        self.up_kernel = _layers.parameter(rngs, _layers.LECUN, (2, 2, hidden, hidden), param_dtype)
        self.up_bias = nnx.Param(jnp.zeros(hidden, param_dtype))
        self.after = blocks(hidden + widths[-2] + noise, hidden, self.form.after)
        self.logits_kernel = _layers.parameter(rngs, _layers.LECUN, (hidden, neighbors), param_dtype)
        self.logits_bias = nnx.Param(jnp.zeros(neighbors, param_dtype))
        if self.form.refiner:
            self.refiner = blocks(self.features + widths[-1] + noise, hidden, self.form.refiner)
            self.refined_kernel = _layers.parameter(rngs, _layers.LECUN, (hidden, self.features), param_dtype)
            self.refined_bias = nnx.Param(jnp.zeros(self.features, param_dtype))

    def __call__(
        self,
        x: jax.Array,
        guide: jax.Array | None = None,
        *,
        size: Numbers | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Upsamples `x`, to `size` if it is given, with the help of `guide`; `key` draws the noise of "latents"."""
        if (key is None) == bool(self.form.noise):
            needed = "draws noise: give" if key is None else "draws no noise: it takes no"
            raise ValueError(f"UPLiFT: form={self.form.name!r} {needed} key=, such as jax.random.key(0).")
        x, high, target = self._checked(x, guide, size)
        x, high = _layers.cast(self.dtype or jnp.result_type(x, self.up_kernel[...]), x, high)
        ratio = max(m / n for n, m in zip(x.shape[-3:-1], target, strict=True))
        steps = self.steps or max(math.ceil(math.log2(ratio)), 1)
        if self.guide_scale != 1:
            # A hair more, for factors that are no binary fractions: 16 / 14 of 14 is 16.
            size = tuple(math.floor(n * self.guide_scale + 1e-6) for n in high.shape[-3:-1])
            high = interpolation.bilinear(high, size, antialias=True)
        seen = [high]
        for blocks in self.encoder:
            seen.append(_through(blocks, seen[-1]))
        draw = self._draw(key)
        for step in range(steps):
            doubled: Any = tuple(2 * n for n in x.shape[-3:-1])
            logits = self.logits(x, seen[-1], seen[-2], draw)
            final = step + 1 == steps and not self.form.refiner
            x = reassembly._attend_and_resize(x, logits, target if final else doubled)
            if self.form.refiner:
                x = self.refined(x, seen[-1], draw)
        return interpolation.bilinear(x, target, antialias=True) if x.shape[-3:-1] != target else x

    def _draw(self, key: jax.Array | None) -> Draw:
        numbers = itertools.count()

        def draw(like: jax.Array) -> tuple[jax.Array, ...]:
            if key is None:
                return ()
            return (_noise(key, next(numbers), (*like.shape[:-1], self.form.noise), like.dtype),)

        return draw

    def refined(self, x: jax.Array, seen: jax.Array, draw: Draw) -> jax.Array:
        """New values of those that were picked, with the image's features."""
        y = _through(self.refiner, x, interpolation.nearest(seen, x.shape[-3:-1]), *draw(x))
        return _layers.project(y, self.refined_kernel[...].astype(y.dtype), self.refined_bias[...].astype(y.dtype))

    def logits(self, x: jax.Array, before: jax.Array, after: jax.Array, draw: Draw = lambda like: ()) -> jax.Array:
        """The logits of twice the size of `x`, with the image's features for before and after the doubling."""
        small, large = x.shape[-3:-1], tuple(2 * n for n in x.shape[-3:-1])
        y = _through(self.before, x, interpolation.nearest(before, small), *draw(x))
        kernel, bias = (p[...].astype(y.dtype) for p in (self.up_kernel, self.up_bias))
        doubled = convolution.transposed_conv(y, kernel, bias, strides=2, padding=0)
        y = doubled + interpolation.bilinear(y, large, convention="torch_align_corners")
        y = _through(self.after, y, interpolation.nearest(_common.after(after, x), large), *draw(y))
        kernel, bias = (p[...].astype(y.dtype) for p in (self.logits_kernel, self.logits_bias))
        return _added((y,), _layers.project(y, kernel, bias))
