"""A small U-Net (Ronneberger et al. 2015, arXiv:1505.04597) in which the upsampler is the only thing that changes."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

import upsampling as up

Skips = Literal["inner", "all", "none"]
Downsampling = Literal["strided", "pool"]


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


class MaxPool(nnx.Module):
    """The largest of each 2x2 pixels."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return up.max_pool_with_indices(x, 2)[0]


def fits(method: up.nn.Method, downsampling: Downsampling) -> bool:
    """Whether a method finds in an encoder that goes down this way what it needs of it."""
    return not (method.ties_encoder if downsampling == "pool" else method.needs_pooling)


class UNet(nnx.Module):
    """Encoder and decoder with `depth` halvings; level `l` has `width * 2**l` channels.

    A level goes down by a strided 4x4 convolution, or by 2x2 max-pooling, whatever the upsampler: a deconvolution
    needs the convolution's kernel, max-unpooling the pooling's maxima. It comes up by a 1x1 convolution to the channels
    of the level above, then the upsampler, which keeps the channels and is handed the encoder's features of its level
    as a guide, then the skip connection. So methods differ in the upsampler and in nothing else: for one seed all other
    parameters start with the same values.

    Args:
      channels: channels of the image.
      num_classes: channels of the logits.
      upsampler: a name in `upsampling.nn.available()`.
      width: channels at full resolution.
      depth: number of halvings.
      downsampling: "strided" or "pool".
      skips: which levels hand their features to the decoder: "inner", all but the full resolution, "all", or "none".
      seed: of the parameters.

    Raises:
      ValueError: an upsampler that needs the other way down.

    Shapes: `(batch, H, W, channels)` to `(batch, H, W, num_classes)`, for any H and W: inside, the image is extended
    by repeating its last row and column to a multiple of `2**depth`. `train()` and `eval()` say whether batch
    normalisation uses the batch's statistics or the averages it kept.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        upsampler: str,
        *,
        width: int = 8,
        depth: int = 3,
        downsampling: Downsampling = "strided",
        skips: Skips = "inner",
        seed: int = 0,
    ):
        body, sampler = nnx.Rngs(seed), nnx.Rngs(jax.random.fold_in(jax.random.key(seed), 1))
        features = [width * 2**level for level in range(depth + 1)]
        self.depth = depth
        self.skips: Skips = skips
        self.encoders = nnx.List([Block(channels, width, rngs=body)])
        self.downs, self.projections, self.upsamplers, self.decoders = (nnx.List() for _ in range(4))
        method = up.nn.available()[upsampler]
        if not fits(method, downsampling):
            raise ValueError(f"UNet: upsampler {upsampler!r} does not go with downsampling {downsampling!r}.")
        for level in range(depth):
            fine, coarse = features[level], features[level + 1]
            down = nnx.Conv(fine, fine, (4, 4), strides=2, rngs=body) if downsampling == "strided" else MaxPool()
            self.downs.append(down)
            self.encoders.append(Block(fine, coarse, rngs=body))
            self.projections.append(nnx.Conv(coarse, fine, (1, 1), rngs=body))
            self.decoders.append(Block(fine * (2 if self._skips(level) else 1), fine, rngs=body))
            options = {"kernel": down.kernel} if method.ties_encoder else {}
            self.upsamplers.append(up.nn.create(upsampler, fine, scale=2, rngs=sampler, **options))
        self.head = nnx.Conv(width, num_classes, (1, 1), rngs=body)

    def _skips(self, level: int) -> bool:
        return self.skips == "all" or (self.skips == "inner" and level > 0)

    def __call__(self, image: jax.Array) -> jax.Array:
        height, width = image.shape[-3:-1]
        x = _extend(image, 2**self.depth)
        features = []
        for level in range(self.depth):
            x = self.encoders[level](x)
            features.append(x)
            x = self.downs[level](x)
        x = self.encoders[self.depth](x)
        for level in reversed(range(self.depth)):
            x = self.upsamplers[level](self.projections[level](x), features[level])
            if self._skips(level):
                x = jnp.concatenate([x, features[level]], axis=-1)
            x = self.decoders[level](x)
        return self.head(x)[..., :height, :width, :]


def _extend(image: jax.Array, multiple: int) -> jax.Array:
    """Repeats the last row and column until both sizes are multiples of `multiple`."""
    rows, columns = (-n % multiple for n in image.shape[-3:-1])
    return jnp.pad(image, [(0, 0)] * (image.ndim - 3) + [(0, rows), (0, columns), (0, 0)], mode="edge")
