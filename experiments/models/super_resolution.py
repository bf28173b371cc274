"""Networks from a small luma image to a large one, whose way up is any upsampling method."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

import upsampling as up
from experiments.models import blocks
from experiments.models.enlarger import Enlarger

Network = Literal["espcn", "edsr"]


class ESPCN(nnx.Module):
    """Two convolutions at low resolution, the upsampler, and a 1x1 convolution: nothing after it mends what it does.

    As in the paper all of the work is done at low resolution; with `sub_pixel_conv` the last two layers are its last
    one, in two factors. It differs in that the network adds to the bicubic enlargement (as in Kim et al. 2016,
    arXiv:1511.04587), so that it starts there, and in ReLU for tanh.

    Shapes: `(batch, h, w, 1)` to `(batch, h * scale, w * scale, 1)`.

    Source: Shi et al. 2016, arXiv:1609.05158.
    """

    def __init__(self, method: str, scale: int, *, features: int = 16, variants: tuple[str, ...] = (), seed: int = 0):
        body, sampler, other = blocks.random_streams(seed)
        self.first = nnx.Conv(1, 2 * features, (5, 5), rngs=body)
        self.second = nnx.Conv(2 * features, features, (3, 3), rngs=body)
        self.outward = nnx.Conv(features, 1, (1, 1), kernel_init=nnx.initializers.zeros, rngs=body)
        self.up = Enlarger(method, features, scale, rough=1, variants=variants, body=other, sampler=sampler)
        self.scale = scale

    def __call__(self, image: jax.Array) -> jax.Array:
        rough = enlarged(image, self.scale)
        x = jax.nn.relu(self.second(jax.nn.relu(self.first(image))))
        return rough + self.outward(self.up(x, rough))


class EDSR(nnx.Module):
    """Residual blocks without normalization, the upsampler (twice by 2 for a factor of 4), and a 3x3 convolution.

    Smaller than the paper's; and the network adds to the bicubic enlargement, so that it starts there.

    Shapes: as of `ESPCN`.

    Source: Lim et al. 2017, arXiv:1707.02921.
    """

    def __init__(
        self,
        method: str,
        scale: int,
        *,
        features: int = 16,
        depth: int = 4,
        variants: tuple[str, ...] = (),
        seed: int = 0,
    ):
        body, sampler, other = blocks.random_streams(seed)
        pairs = [[nnx.Conv(features, features, (3, 3), rngs=body) for _ in range(2)] for _ in range(depth)]
        self.inward = nnx.Conv(1, features, (3, 3), rngs=body)
        self.blocks = nnx.List([nnx.List(pair) for pair in pairs])
        self.last = nnx.Conv(features, features, (3, 3), rngs=body)
        self.outward = nnx.Conv(features, 1, (3, 3), kernel_init=nnx.initializers.zeros, rngs=body)
        steps = (2, 2) if scale == 4 else (scale,)
        self.ups = nnx.List(
            [Enlarger(method, features, step, variants=variants, body=other, sampler=sampler) for step in steps]
        )
        self.scale = scale

    def __call__(self, image: jax.Array) -> jax.Array:
        first = x = self.inward(image)
        for one, two in self.blocks:
            x = x + two(jax.nn.relu(one(x)))
        x = first + self.last(x)
        for step in self.ups:
            x = step(x)
        return enlarged(image, self.scale) + self.outward(x)


NETWORKS: dict[Network, type[ESPCN] | type[EDSR]] = {"espcn": ESPCN, "edsr": EDSR}


def enlarged(image: jax.Array, scale: int) -> jax.Array:
    """The bicubic enlargement, as MATLAB makes it, in the image's precision."""
    return up.bicubic(image.astype(jnp.float32), scale=scale, convention="matlab").astype(image.dtype)
