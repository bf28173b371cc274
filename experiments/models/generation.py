"""A small generator whose way up is any upsampling method, and the critic that it is trained against."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

import upsampling as up
from experiments.models import blocks
from experiments.models.enlarger import Enlarger

SIDE = 16  # pixels of what is generated
_START = 4


class Generator(nnx.Module):
    """Numbers to an image of 16 x 16 pixels: twice a 3x3 convolution and the upsampler by 2, then 1x1.

    In DCGAN the transposed convolutions are all there is. Here each step up has a convolution before it, so that a
    method that learns nothing goes in its place; and nothing follows the last step up but a sum over channels, so that
    what it does to the spectrum stays. Features are normalized per pixel and not per batch (Karras et al. 2018,
    arXiv:1710.10196), which goes with every method.

    Shapes: `(batch, latent)` to `(batch, 16, 16, 1)` in [-1, 1].

    Source: after Radford et al. 2016, arXiv:1511.06434.
    """

    def __init__(
        self, method: str, *, features: int = 16, latent: int = 32, variants: tuple[str, ...] = (), seed: int = 0
    ):
        body, sampler, other = blocks.random_streams(seed)
        widths = (4 * features, 2 * features, features)
        self.width = widths[0]
        self.inward = nnx.Linear(latent, _START * _START * widths[0], rngs=body)
        self.convolutions = nnx.List([nnx.Conv(a, b, (3, 3), rngs=body) for a, b in itertools.pairwise(widths)])
        self.ups = nnx.List(
            [Enlarger(method, width, 2, variants=variants, body=other, sampler=sampler) for width in widths[1:]]
        )
        self.outward = nnx.Conv(features, 1, (1, 1), rngs=body)

    def __call__(self, latent: jax.Array) -> jax.Array:
        x = _active(self.inward(_normalized(latent)).reshape(-1, _START, _START, self.width))
        for convolution, step in zip(self.convolutions, self.ups, strict=True):
            x = step(_active(convolution(x)))
        return jnp.tanh(self.outward(x))


def _active(x: jax.Array) -> jax.Array:
    return _normalized(jax.nn.leaky_relu(x, 0.2))


def _normalized(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-8)


class Critic(nnx.Module):
    """Two strided 4x4 convolutions and a linear map: `(batch, 16, 16, 1)` to `(batch,)`, large for what seems real.

    The linear map also sees how much the batch varies, so that samples that are all alike give themselves away (Karras
    et al. 2018, arXiv:1710.10196, section 3).
    """

    def __init__(self, *, features: int = 16, seed: int = 0):
        rngs = nnx.Rngs(seed + 2**20)
        widths = (1, 2 * features, 4 * features)
        self.convolutions = nnx.List(
            [nnx.Conv(a, b, (4, 4), strides=2, rngs=rngs) for a, b in itertools.pairwise(widths)]
        )
        self.outward = nnx.Linear(_START * _START * (widths[-1] + 1), 1, rngs=rngs)

    def __call__(self, image: jax.Array) -> jax.Array:
        for convolution in self.convolutions:
            image = jax.nn.leaky_relu(convolution(image), 0.2)
        # The root of a variance of 0 has no slope.
        spread = jnp.mean(jnp.sqrt(jnp.var(image, axis=0) + 1e-8))
        image = jnp.concatenate([image, jnp.broadcast_to(spread, (*image.shape[:-1], 1))], -1)
        return self.outward(image.reshape(len(image), -1))[:, 0]


class UnevenTransposedConv(up.nn.TransposedConv):
    """A transposed convolution of 3x3 at stride 2, which does not divide it: the known cause of checkerboards."""

    def __init__(self, features: int, scale: int = 2, *, rngs: nnx.Rngs):
        super().__init__(features, scale, kernel_size=3, rngs=rngs)
