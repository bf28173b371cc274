"""What the networks are made of, but for the upsampler."""

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

import upsampling as up
from experiments import methods

Skips = Literal["inner", "all", "none"]
Downsampling = Literal["strided", "pool"]
Decoder = Literal["full", "thin"]


class Block(nnx.Module):
    """Two 3x3 convolutions, each followed by batch normalisation and a ReLU.

    Normalising each image by itself would take from a crop what tells sky from road: how bright it is.
    """

    def __init__(self, in_features: int, features: int, *, rngs: nnx.Rngs):
        self.first = nnx.Conv(in_features, features, (3, 3), use_bias=False, rngs=rngs)
        self.first_norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)
        self.second = nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)
        self.second_norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.first_norm(self.first(x)))
        return jax.nn.relu(self.second_norm(self.second(x)))


class ThinBlock(nnx.Module):
    """A 1x1 convolution, batch normalization and a ReLU."""

    def __init__(self, in_features: int, features: int, *, rngs: nnx.Rngs):
        self.convolution = nnx.Conv(in_features, features, (1, 1), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.convolution(x)))


DECODERS: dict[Decoder, type[Block] | type[ThinBlock]] = {"full": Block, "thin": ThinBlock}


class MaxPool(nnx.Module):
    """The largest of each 2x2 pixels."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return up.max_pool_with_indices(x, 2)[0]


def fits(method: up.nn.Method, downsampling: Downsampling) -> bool:
    """Whether a method finds in an encoder that goes down this way what it needs of it."""
    return not (method.ties_encoder if downsampling == "pool" else method.needs_pooling)


def has_skip(skips: Skips, level: int) -> bool:
    """Whether a level hands its features to the decoder; level 0 is the full resolution."""
    return skips == "all" or (skips == "inner" and level > 0)


def random_streams(seed: int) -> tuple[nnx.Rngs, nnx.Rngs, nnx.Rngs]:
    """For the body, the upsamplers and the gates: none moves what the others draw."""
    key = jax.random.key(seed)
    return nnx.Rngs(seed), nnx.Rngs(jax.random.fold_in(key, 1)), nnx.Rngs(jax.random.fold_in(key, 2))


def make_down(features: int, downsampling: Downsampling, *, rngs: nnx.Rngs) -> nnx.Conv | MaxPool:
    """Halves the resolution: by a strided 4x4 convolution or by 2x2 max-pooling, whatever the upsampler."""
    return nnx.Conv(features, features, (4, 4), strides=2, rngs=rngs) if downsampling == "strided" else MaxPool()


def make_upsampler(
    name: str,
    features: int,
    scale: int,
    *,
    kernel: nnx.Variable | None = None,
    variants: tuple[str, ...] = (),
    rngs: nnx.Rngs,
) -> up.nn.Upsampler:
    """The upsampler called `name`, by `scale`.

    Args:
      kernel: of the convolution that it undoes, for a method that uses it.
      variants: named settings to take where the method has them.

    Raises:
      ValueError: a method that uses a kernel, where there is none.
    """
    method = methods.find(name)
    if method.ties_encoder and kernel is None:
        raise ValueError(f"upsampler {name!r} does not go with downsampling 'pool', which has no kernel to share.")
    options = {"kernel": kernel} if method.ties_encoder else {}
    return method.create(features, scale, rngs=rngs, variant=methods.variant_of(name, variants), **options)


_EXTENT = 24  # pixels of the input: more than any window among the methods, and few enough to be quick


@functools.cache  # the same for all seeds
def receptive_field(name: str, variant: str | None, features: int, scale: int) -> tuple[int, int]:
    """Rows and columns of an upsampler's input that one of its output pixels depends on, whatever it has learnt."""
    window = (4, 4) if scale == 2 else (2 * scale,) * 2
    layer = make_upsampler(
        name,
        features,
        scale,
        kernel=nnx.Param(jnp.ones((*window, features, features))),
        variants=() if variant is None else (variant,),
        rngs=nnx.Rngs(0),
    )
    structure, params, rest = nnx.split(layer, nnx.Param, ...)
    # Values that start at zero hide what a layer will look at once it is trained.
    key = jax.random.key(1)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), params)
    # So nearly the same everywhere that no weight by likeness falls to zero.
    guide = 1e-3 * jax.random.normal(key, (1, _EXTENT * scale, _EXTENT * scale, features))
    guides = (guide,) if methods.find(name).uses_guide else ()

    def upsample(x: jax.Array) -> jax.Array:
        # With a batch axis, as networks call their layers.
        return nnx.merge(structure, params, rest)(x[None], *guides)[0]

    return up.analysis.receptive_field(upsample, features, scale, size=_EXTENT)


def check_fit(name: str, downsampling: Downsampling) -> None:
    """Raises ValueError for a method that needs the other way down."""
    if not fits(methods.find(name), downsampling):
        raise ValueError(f"upsampler {name!r} does not go with downsampling {downsampling!r}.")


def descend(encoders: Sequence[Callable], downs: Sequence[Callable], image: jax.Array) -> list[jax.Array]:
    """The features of each level, the full resolution first."""
    features = [encoders[0](image)]
    for down, encoder in zip(downs, encoders[1:], strict=True):
        features.append(encoder(down(features[-1])))
    return features


def extend_to_multiple(image: jax.Array, multiple: int) -> jax.Array:
    """Repeats the last row and column until both sizes are multiples of `multiple`."""
    rows, columns = (-n % multiple for n in image.shape[-3:-1])
    return jnp.pad(image, [(0, 0)] * (image.ndim - 3) + [(0, rows), (0, columns), (0, 0)], mode="edge")
