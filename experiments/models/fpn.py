"""A small feature pyramid network whose levels are fused for segmentation (Kirillov et al. 2019, arXiv:1901.02446)."""

import jax
from flax import nnx

import upsampling as up
from experiments.models import blocks


class Stage(nnx.Module):
    """A 3x3 convolution with batch normalisation and a ReLU, then, if asked, bilinear interpolation by two."""

    def __init__(self, features: int, enlarge: bool, *, rngs: nnx.Rngs):
        self.enlarge = enlarge
        self.convolution = nnx.Conv(features, features, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.convolution(x)))
        return up.bilinear(x, scale=2) if self.enlarge else x


class FPN(nnx.Module):
    """The U-Net's encoder; a pyramid, all of whose levels have as many channels; and the sum of its levels.

    The pyramid goes from coarse to fine: what comes from the coarser level is upsampled by the method under study, and
    the encoder's features of the level are added through a 1x1 convolution. Then every level goes through as many
    stages of convolution and bilinear interpolation as it lies below the full resolution, and all are added: that part
    is Kirillov et al.'s, and the same for all methods.

    The pyramid of Lin et al. 2017 (arXiv:1612.03144) upsamples in its own channels. Here a 1x1 convolution leads to the
    channels of the encoder's level and another back, so that methods that share the encoder's kernel or maxima, or
    compare features with its guide, find in this network what they find in the U-Net. For one seed all parameters but
    the upsamplers' start with the same values.

    Arguments, errors and shapes are the `UNet`'s; `skips` says which levels add the encoder's features, the coarsest
    always. The pyramid has `2 * width` channels.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        upsampler: str,
        *,
        width: int = 8,
        depth: int = 3,
        downsampling: blocks.Downsampling = "strided",
        skips: blocks.Skips = "inner",
        attention_gate: bool = False,
        variants: tuple[str, ...] = (),
        seed: int = 0,
    ):
        blocks.check_fit(upsampler, downsampling)
        body, sampler, gate = blocks.random_streams(seed)
        features = [width * 2**level for level in range(depth + 1)]
        pyramid = 2 * width
        self.depth = depth
        self.encoders = nnx.List([blocks.Block(channels, width, rngs=body)])
        self.downs, self.inward, self.outward, self.upsamplers, self.gates = (nnx.List() for _ in range(5))
        for level in range(depth):
            fine, skip = features[level], blocks.has_skip(skips, level)
            down = blocks.make_down(fine, downsampling, rngs=body)
            self.downs.append(down)
            self.encoders.append(blocks.Block(fine, features[level + 1], rngs=body))
            self.inward.append(nnx.Conv(pyramid, fine, (1, 1), rngs=body))
            self.outward.append(nnx.Conv(fine, pyramid, (1, 1), rngs=body))
            kernel = down.kernel if isinstance(down, nnx.Conv) else None
            self.upsamplers.append(
                blocks.make_upsampler(upsampler, fine, 2, kernel=kernel, variants=variants, rngs=sampler)
            )
            self.gates.append(
                up.nn.AttentionGate(fine, pyramid, projected=False, rngs=gate) if attention_gate and skip else None
            )
        self.laterals = nnx.List(
            nnx.Conv(features[level], pyramid, (1, 1), rngs=body)
            if level == depth or blocks.has_skip(skips, level)
            else None
            for level in range(depth + 1)
        )
        self.branches = nnx.List(
            nnx.List(Stage(pyramid, level > 0, rngs=body) for _ in range(max(level, 1))) for level in range(depth + 1)
        )
        self.head = nnx.Conv(pyramid, num_classes, (1, 1), rngs=body)

    def __call__(self, image: jax.Array) -> jax.Array:
        height, width = image.shape[-3:-1]
        features = blocks.descend(self.encoders, self.downs, blocks.extend_to_multiple(image, 2**self.depth))
        x = self.laterals[self.depth](features[self.depth])
        fused = self._to_full_size(x, self.depth)
        for level in reversed(range(self.depth)):
            coarse, skip, gate, lateral = x, features[level], self.gates[level], self.laterals[level]
            x = self.outward[level](self.upsamplers[level](self.inward[level](coarse), skip))
            if lateral is not None:
                x = x + lateral(skip if gate is None else gate(skip, coarse))
            fused = fused + self._to_full_size(x, level)
        return self.head(fused)[..., :height, :width, :]

    def _to_full_size(self, x: jax.Array, level: int) -> jax.Array:
        for stage in self.branches[level]:
            x = stage(x)
        return x
