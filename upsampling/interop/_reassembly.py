"""Loaders for the layers of the reassembly family, by the names in their authors' code."""

from flax import nnx

from upsampling.interop._states import Loaded, State, conv_shape, from_conv, loads
from upsampling.nn.reassembly import CARAFE, FADE, SAPA


@loads(CARAFE)
def _carafe(layer: CARAFE, state: State) -> Loaded:
    yield from _pixel(state, "channel_compressor", layer.compressor_kernel, layer.compressor_bias, len(layer.scale))
    yield from _window(state, "content_encoder", layer.encoder_kernel, layer.encoder_bias)


@loads(SAPA)
def _sapa(layer: SAPA, state: State) -> Loaded:
    for name, scale, bias in (
        ("norm_x", layer.norm_scale, layer.norm_bias),
        ("norm_y", layer.guide_norm_scale, layer.guide_norm_bias),
    ):
        yield scale, state.take(name + ".weight", scale.shape)
        yield bias, state.take(name + ".bias", bias.shape)
    if layer.value_kernel is not None:
        yield from _pixel(state, "v", layer.value_kernel, layer.value_bias, 0)
    if layer.similarity == "inner":
        return
    gated = layer.similarity == "gated"
    if layer.similarity == "joined":
        # The guide's channels, then the input's.
        kernels, (_, out) = (layer.query_kernel, layer.map_query_kernel), layer.query_kernel.shape
        both = state.take("q.weight", (out, sum(kernel.shape[0] for kernel in kernels))).T
        yield layer.query_kernel, both[: kernels[0].shape[0]]
        yield layer.map_query_kernel, both[kernels[0].shape[0] :]
        if layer.query_bias is not None:
            yield layer.query_bias, state.take("q.bias", (out,))
    else:
        yield from _pixel(state, "qy" if gated else "q", layer.query_kernel, layer.query_bias, 0)
    yield from _pixel(state, "k", layer.key_kernel, layer.key_bias, 0)
    if gated:
        yield from _pixel(state, "qx", layer.map_query_kernel, layer.map_query_bias, 0)
        yield from _pixel(state, "gate", layer.gate_kernel, layer.gate_bias, 0)


@loads(FADE)
def _fade(layer: FADE, state: State) -> Loaded:
    rank = len(layer.encoder_kernel.shape) - 2
    if layer.gate_kernel is not None:
        yield from _pixel(state, "gate_generator.conv", layer.gate_kernel, layer.gate_bias, rank)
    # The authors publish two forms of one computation, each with names of its own.
    if "kernel_generator.conv2_kernels" in state:
        guide, low = "kernel_generator.conv1_en", "kernel_generator.conv1_de"
        kernel, bias = "kernel_generator.conv2_kernels", "kernel_generator.conv2_bias"
    else:
        guide, low = "ker_generator.compressor_en", "ker_generator.compressor_de"
        kernel, bias = "ker_generator.content_encoder.weight", "ker_generator.content_encoder.bias"
    yield from _pixel(state, guide, layer.guide_kernel, layer.guide_bias, rank)
    yield from _pixel(state, low, layer.map_kernel, None, rank)
    yield layer.encoder_kernel, from_conv(state.take(kernel, conv_shape(layer.encoder_kernel.shape)))
    yield layer.encoder_bias, state.take(bias, layer.encoder_bias.shape)
    if layer.guide_features != layer.features and layer.gate_kernel is not None:
        yield from _pixel(state, "aligner.conv", layer.aligner_kernel, layer.aligner_bias, rank)


def _pixel(state: State, name: str, kernel: nnx.Param, bias: nnx.Param | None, rank: int) -> Loaded:
    """A linear layer, or a convolution by one pixel of `rank` axes: (out, in, 1, ...) -> (in, out)."""
    inner, out = kernel.shape
    yield kernel, state.take(name + ".weight", (out, inner, *(1,) * rank)).reshape(out, inner).T
    if bias is not None:
        yield bias, state.take(name + ".bias", bias.shape)


def _window(state: State, name: str, kernel: nnx.Param, bias: nnx.Param) -> Loaded:
    yield kernel, from_conv(state.take(name + ".weight", conv_shape(kernel.shape)))
    yield bias, state.take(name + ".bias", bias.shape)
