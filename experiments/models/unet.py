"""A small U-Net (Ronneberger et al. 2015, arXiv:1505.04597) in which the upsampler is the only thing that changes."""

import jax
import jax.numpy as jnp
from flax import nnx

import upsampling as up
from experiments.models import blocks


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
      upsampler: a name that `methods.find` knows.
      width: channels at full resolution.
      depth: number of halvings.
      downsampling: "strided" or "pool".
      skips: which levels hand their features to the decoder: "inner", all but the full resolution, "all", or "none".
      attention_gate: whether the coarser level's features gate those of a skip (Oktay et al. 2018).
      decoder: what follows the upsampler and the skip: "full", two 3x3 convolutions, or "thin", one of a single pixel,
        which cannot mend what the upsampler did to a boundary.
      variants: named settings to take where the method has them.
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
        downsampling: blocks.Downsampling = "strided",
        skips: blocks.Skips = "inner",
        attention_gate: bool = False,
        decoder: blocks.Decoder = "full",
        variants: tuple[str, ...] = (),
        seed: int = 0,
    ):
        blocks.check_fit(upsampler, downsampling)
        body, sampler, gate = blocks.random_streams(seed)
        features = [width * 2**level for level in range(depth + 1)]
        self.depth = depth
        self.skips: blocks.Skips = skips
        self.encoders = nnx.List([blocks.Block(channels, width, rngs=body)])
        self.downs, self.projections, self.upsamplers, self.decoders, self.gates = (nnx.List() for _ in range(5))
        for level in range(depth):
            fine, coarse = features[level], features[level + 1]
            skip = blocks.has_skip(skips, level)
            down = blocks.make_down(fine, downsampling, rngs=body)
            self.downs.append(down)
            self.encoders.append(blocks.Block(fine, coarse, rngs=body))
            self.projections.append(nnx.Conv(coarse, fine, (1, 1), rngs=body))
            self.decoders.append(blocks.DECODERS[decoder](fine * (2 if skip else 1), fine, rngs=body))
            kernel = down.kernel if isinstance(down, nnx.Conv) else None
            self.upsamplers.append(
                blocks.make_upsampler(upsampler, fine, 2, kernel=kernel, variants=variants, rngs=sampler)
            )
            self.gates.append(
                up.nn.AttentionGate(fine, coarse, projected=False, rngs=gate) if attention_gate and skip else None
            )
        self.head = nnx.Conv(width, num_classes, (1, 1), rngs=body)

    def __call__(self, image: jax.Array) -> jax.Array:
        height, width = image.shape[-3:-1]
        *features, x = blocks.descend(self.encoders, self.downs, blocks.extend_to_multiple(image, 2**self.depth))
        for level in reversed(range(self.depth)):
            coarse, skip, gate = x, features[level], self.gates[level]
            x = self.upsamplers[level](self.projections[level](coarse), skip)
            if blocks.has_skip(self.skips, level):
                x = jnp.concatenate([x, skip if gate is None else gate(skip, coarse)], axis=-1)
            x = self.decoders[level](x)
        return self.head(x)[..., :height, :width, :]
