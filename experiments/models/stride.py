"""Networks whose last step up is the method alone: a trunk at stride s, then 1x1, the upsampler by s, and a 1x1 head.

Nothing after the upsampler mends its boundaries, so the methods differ in how they render one, and in little else.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import methods
from experiments.models import blocks
from experiments.models.unet import UNet


class Frozen(nnx.Variable):
    """A value that a network uses and does not train, such as the kernel of a trunk that is trained already."""


class Trunk(nnx.Module):
    """Features at stride s: a block at full resolution, one strided convolution, and a small U-Net.

    The U-Net works at stride s, where it upsamples bilinearly between convolutions; the way to the full resolution is
    no part of the trunk.

    Args:
      channels: channels of the image.
      features: channels of the features and of the guide.
      stride: s.
      depth: halvings of the U-Net at stride s.
      seed: of the parameters.

    Shapes: `(batch, H, W, channels)`, H and W multiples of s, to the features `(batch, H / s, W / s, features)` and
    the guide `(batch, H, W, features)`, which is what the strided convolution saw.
    """

    def __init__(self, channels: int, features: int, stride: int, *, depth: int = 2, seed: int = 0):
        body, *_ = blocks.random_streams(seed)
        self.block = blocks.Block(channels, features, rngs=body)
        self.down = nnx.Conv(features, features, (2 * stride,) * 2, strides=stride, rngs=body)
        self.body = UNet(features, features, "bilinear", width=features, depth=depth, skips="all", seed=seed + 1)

    def __call__(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        guide = self.block(image)
        return jax.nn.relu(self.body(self.down(guide))), guide


class CoarseClassifier(nnx.Module):
    """A trunk and a 1x1 convolution to logits at stride s: how a trunk is trained without any upsampler."""

    def __init__(self, trunk: Trunk, features: int, num_classes: int, *, seed: int):
        self.trunk = trunk
        self.head = nnx.Conv(features, num_classes, (1, 1), rngs=nnx.Rngs(seed))

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.head(self.trunk(image)[0])


class Head(nnx.Module):
    """1x1 convolution, the upsampler by s, 1x1 convolution to logits.

    For one seed the two convolutions start with the same values, whatever the method.

    Args:
      features: channels of the features and of the guide.
      num_classes: channels of the logits.
      upsampler: a name that `methods.find` knows.
      stride: s.
      in_features: channels of the input, if other than `features`.
      guide_features: channels of the guide, if other than `features`: then a 1x1 convolution of its own brings it to
        `features` channels.
      kernel: of the trunk's strided convolution, for methods that use it.
      variants: named settings to take where the method has them.
      seed: of the parameters.

    Shapes: `(batch, h, w, in_features)` and a guide `(batch, h * s, w * s, guide_features)`, which most methods do not
    need, to `(batch, h * s, w * s, num_classes)`.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        upsampler: str,
        stride: int,
        *,
        in_features: int | None = None,
        guide_features: int | None = None,
        kernel: nnx.Variable | None = None,
        variants: tuple[str, ...] = (),
        seed: int = 0,
    ):
        body, sampler, _ = blocks.random_streams(seed)
        self.inward = nnx.Conv(in_features or features, features, (1, 1), rngs=body)
        self.upsampler = blocks.make_upsampler(
            upsampler, features, stride, kernel=kernel, variants=variants, rngs=sampler
        )
        self.outward = nnx.Conv(features, num_classes, (1, 1), rngs=body)
        mapped = guide_features and methods.find(upsampler).uses_guide
        self.guide = nnx.Conv(guide_features, features, (1, 1), rngs=body) if mapped else None

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        if self.guide is not None:
            guide = self.guide(guide)
        return self.outward(self.upsampler(self.inward(x), guide))


class StrideNet(nnx.Module):
    """Trunk and head as one network, for training end to end; images of any size."""

    def __init__(self, trunk: Trunk, head: Head, stride: int):
        self.trunk, self.head, self.stride = trunk, head, stride

    def __call__(self, image: jax.Array) -> jax.Array:
        height, width = image.shape[-3:-1]
        logits = self.head(*self.trunk(blocks.extend_to_multiple(image, self.stride)))
        return logits[..., :height, :width, :]


def coarse_labels(label: jax.Array, stride: int, num_classes: int, ignore_index: int | None) -> tuple:
    """Labels averaged over cells of `stride` squared pixels: the share of each class, and how much of a cell counts.

    Args:
      label: `(batch, H, W)`, H and W multiples of `stride`.

    Returns:
      Shares `(batch, H / stride, W / stride, num_classes)`, which sum to one where anything counts, and weights
      `(batch, H / stride, W / stride)`.
    """
    one_hot = jax.nn.one_hot(label, num_classes)  # all zero for the label that is ignored, which is no class
    if ignore_index is not None:
        one_hot = jnp.where((label == ignore_index)[..., None], 0, one_hot)
    batch, height, width, _ = one_hot.shape
    cells = one_hot.reshape(batch, height // stride, stride, width // stride, stride, num_classes).mean((2, 4))
    weight = cells.sum(-1)
    return cells / jnp.maximum(weight, 1e-6)[..., None], weight
