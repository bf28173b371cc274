"""The loader for UPLiFT."""

from collections.abc import Sequence

from flax import nnx

from upsampling.interop._convolution import from_transposed
from upsampling.interop._states import Loaded, State, batch_norm, conv_shape, from_conv, loads, normalization
from upsampling.nn.uplift import ConvBlock, UPLiFT


@loads(UPLiFT)
def _uplift(layer: UPLiFT, state: State) -> Loaded:
    """The authors' `UPLiFT` with a local attender, of either form."""
    for number, blocks in enumerate(layer.encoder):
        yield from _blocks(state, f"encoder.block_{number}.", blocks)
    yield from _blocks(state, "decoder.block_0.", layer.before)
    yield from _blocks(state, "decoder.block_1.", layer.after)
    if layer.form.refiner:
        yield from _blocks(state, "refiner.", layer.refiner)
        yield from _pointwise(state, "ref_outc.", layer.refined_kernel, layer.refined_bias)
    inner, out = layer.up_kernel.shape[2:]
    yield layer.up_kernel, from_transposed(state.take("decoder.up_1.up.weight", (inner, out, 2, 2)), 1)
    yield layer.up_bias, state.take("decoder.up_1.up.bias", (out,))
    yield from _pointwise(state, "attender.conv1.", layer.logits_kernel, layer.logits_bias)


def _blocks(state: State, name: str, blocks: Sequence[ConvBlock]) -> Loaded:
    for number, block in enumerate(blocks):
        yield from _block(state, f"{name}blocks.{number}.conv.", block)


def _block(state: State, name: str, block: ConvBlock) -> Loaded:
    number = 0
    for kernel, norm in zip(block.kernels, block.norms, strict=True):
        yield kernel, from_conv(state.take(f"{name}{number}.weight", conv_shape(kernel.shape)))
        own = f"{name}{number + 1}."
        yield from batch_norm(state, own, norm) if isinstance(norm, nnx.BatchNorm) else normalization(state, own, norm)
        number += 3  # and a ReLU
    yield from _pointwise(state, f"{name}{number}.", block.last, block.bias)


def _pointwise(state: State, name: str, kernel: nnx.Variable, bias: nnx.Variable) -> Loaded:
    """A 1x1 `Conv2d`."""
    inner, out = kernel.shape
    yield kernel, state.take(name + "weight", (out, inner, 1, 1))[:, :, 0, 0].T
    yield bias, state.take(name + "bias", (out,))
