"""An upsampler in a network that has nothing at the high resolution: super-resolution's, or a generator."""

import jax
from flax import nnx

import upsampling as up
from experiments import methods
from experiments.models import blocks


class Enlarger(nnx.Module):
    """The upsampler called `name`, by `scale`; what a method wants of an encoder is made of the input itself.

    A guide is a 3x3 convolution of a rough enlargement. A method that undoes a strided convolution shares the kernel of
    one that takes this guide down again and is added to the input. All other methods have neither.

    Args:
      name: that `methods.find` knows.
      features: channels of the input and the output.
      scale: the factor.
      rough: channels of the rough enlargement, if other than `features`.
      variants: named settings to take where the method has them.
      body, sampler: random streams of the convolutions beside the upsampler, and of the upsampler.

    Shapes: `(batch, h, w, features)`, and a rough enlargement `(batch, h * scale, w * scale, rough)`, by default the
    bicubic one of the input, to `(batch, h * scale, w * scale, features)`.
    """

    def __init__(
        self,
        name: str,
        features: int,
        scale: int,
        *,
        rough: int | None = None,
        variants: tuple[str, ...] = (),
        body: nnx.Rngs,
        sampler: nnx.Rngs,
    ):
        method, self.scale = methods.find(name), scale
        guided, tied = method.uses_guide, method.ties_encoder
        self.guide = nnx.Conv(rough or features, features, (3, 3), rngs=body) if guided or tied else None
        self.down = nnx.Conv(features, features, (2 * scale,) * 2, strides=scale, rngs=body) if tied else None
        kernel = self.down.kernel if tied else None
        self.upsampler = blocks.make_upsampler(name, features, scale, kernel=kernel, variants=variants, rngs=sampler)

    def __call__(self, x: jax.Array, rough: jax.Array | None = None) -> jax.Array:
        guide = None
        if self.guide is not None:
            guide = self.guide(up.bicubic(x, scale=self.scale) if rough is None else rough)
        if self.down is not None:
            x = x + self.down(guide)
        return self.upsampler(x, guide)
