"""The loader for UPLiFT."""

from upsampling.interop._convolution import from_transposed
from upsampling.interop._states import Loaded, State, batch_norm, conv_shape, from_conv, loads
from upsampling.nn.uplift import ConvBlock, UPLiFT


@loads(UPLiFT)
def _uplift(layer: UPLiFT, state: State) -> Loaded:
    """The authors' `UPLiFT` with a local attender and batch normalization."""
    for number, block in enumerate(layer.encoder):
        yield from _block(state, f"encoder.block_{number}.blocks.0.conv.", block)
    yield from _block(state, "decoder.block_0.blocks.0.conv.", layer.before)
    yield from _block(state, "decoder.block_1.blocks.0.conv.", layer.after)
    inner, out = layer.up_kernel.shape[2:]
    yield layer.up_kernel, from_transposed(state.take("decoder.up_1.up.weight", (inner, out, 2, 2)), 1)
    yield layer.up_bias, state.take("decoder.up_1.up.bias", (out,))
    inner, out = layer.logits_kernel.shape
    yield layer.logits_kernel, state.take("attender.conv1.weight", (out, inner, 1, 1))[:, :, 0, 0].T
    yield layer.logits_bias, state.take("attender.conv1.bias", (out,))


def _block(state: State, name: str, block: ConvBlock) -> Loaded:
    number = 0
    for kernel, norm in zip(block.kernels, block.norms, strict=True):
        yield kernel, from_conv(state.take(f"{name}{number}.weight", conv_shape(kernel.shape)))
        yield from batch_norm(state, f"{name}{number + 1}.", norm)
        number += 3  # and a ReLU
    inner, out = block.last.shape
    yield block.last, state.take(f"{name}{number}.weight", (out, inner, 1, 1))[:, :, 0, 0].T
    yield block.bias, state.take(f"{name}{number}.bias", (out,))
