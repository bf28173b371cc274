"""Loaders for AnyUp, JAFAR and LoftUp, by the names in their authors' code.

Of PyTorch's attention AnyUp and JAFAR use the weights alone, so that its values and its output are ignored here. So are
biases of keys, which add the same to all logits of a query.
"""

import numpy as np
from flax import nnx

from upsampling.interop._guided import pointwise
from upsampling.interop._states import HasKernel, Loaded, State, convolution, loads
from upsampling.nn.attention import JAFAR, AnyUp, Blocks, CrossAttention, Encoder, LoftUp, ResidualBlock


@loads(AnyUp)
def _anyup(layer: AnyUp, state: State) -> Loaded:
    """`AnyUp`, with either form of its attention."""
    names = ("norm1", "conv1", "norm2", "conv2"), ("block.0", "block.2", "block.3", "block.5")
    renamed = dict(zip(*names, strict=True))
    for name in ("image_encoder", "key_encoder", "query_encoder", "aggregation"):
        yield from _encoder(state, name, getattr(layer, name), renamed)
    basis = state.take("key_features_encoder.0.basis", (layer.filters.shape[-1], 1, *layer.filters.shape[:2]))
    yield layer.filters, np.moveaxis(basis[:, 0], 0, -1)
    yield from _blocks(state, "key_features_encoder", layer.features_encoder, renamed)
    yield from _cross_attention(state, layer.attention)
    yield layer.frequencies, state.take("rope.freqs", layer.frequencies.shape)


@loads(JAFAR)
def _jafar(layer: JAFAR, state: State) -> Loaded:
    """`JAFAR`; its checkpoint has the state as `jafar`."""
    for name in ("image_encoder", "key_encoder", "query_encoder"):
        yield from _encoder(state, name, getattr(layer, name), {})
    yield from _encoder(state, "key_features_encoder", layer.features_encoder, {})
    for name in ("gamma", "beta"):
        yield from pointwise(state, f"sft_key.{name}.", getattr(layer, name))
    yield from _cross_attention(state, layer.attention)
    yield layer.frequencies, state.take("rope.freqs", layer.frequencies.shape)


@loads(LoftUp)
def _loftup(layer: LoftUp, state: State) -> Loaded:
    """`UpsamplerwithChannelNorm` of a `LoftUp` with positions "sine"; or, without `normalize`, the latter alone."""
    own = ""
    if layer.features_norm is not None:
        yield from _norm(state, "channelnorm.norm.", layer.features_norm)
        own = "upsampler."
    for name, biases in (("lr_pe", layer.place_biases), ("fourier_feat.1", layer.guide_biases)):
        # Stored as (2, values, frequencies), but read as the other.
        pair, frequencies, values = biases.shape
        yield biases, state.take(f"{own}{name}.biases", (pair, values, frequencies)).reshape(biases.shape)
    yield from _norm(state, f"{own}first_conv.0.norm.", layer.guide_norm)
    for number, conv, norm in zip((1, 4), layer.convs, layer.norms, strict=True):
        yield from convolution(state, f"{own}first_conv.{number}.", conv)
        name = f"{own}first_conv.{number + 1}."
        yield from _norm(state, name, norm)
        yield norm.mean, state.take(name + "running_mean", norm.mean.shape)
        yield norm.var, state.take(name + "running_var", norm.var.shape)
        state.skip(name + "num_batches_tracked")
    for number, block in enumerate(layer.blocks):
        name = f"{own}ca_transformer.layers.{number}."
        yield from _norm(state, name + "0.norm_q.", block.query_norm)
        yield from _norm(state, name + "0.norm_kv.", block.map_norm)
        width = block.query.kernel.shape[0]
        weights = np.split(state.take(name + "0.attention.in_proj_weight", (3 * width, width)), 3)
        biases = np.split(state.take(name + "0.attention.in_proj_bias", (3 * width,)), 3)
        for part, weight, bias in zip((block.query, block.key, block.value), weights, biases, strict=True):
            yield part.kernel, weight.T
            if part.bias is not None:
                yield part.bias, bias
        yield from _linear(state, name + "0.attention.out_proj.", block.out)
        yield from _norm(state, name + "1.net.0.", block.norm)
        yield from _linear(state, name + "1.net.1.", block.hidden)
        yield from _linear(state, name + "1.net.4.", block.contract)
    yield from _norm(state, f"{own}ca_transformer.norm.", layer.norm)
    yield from pointwise(state, f"{own}final_conv.0.", layer.outward)
    yield from _norm(state, f"{own}final_conv.1.", layer.outward_norm)


def _encoder(state: State, name: str, encoder: Encoder, renamed: dict[str, str]) -> Loaded:
    yield from convolution(state, f"{name}.0.", encoder.stem)
    yield from _blocks(state, name, encoder, renamed)


def _blocks(state: State, name: str, encoder: Blocks, renamed: dict[str, str]) -> Loaded:
    for number, block in enumerate(encoder.blocks, start=1):
        yield from _block(state, f"{name}.{number}.", block, renamed)


def _block(state: State, name: str, block: ResidualBlock, renamed: dict[str, str]) -> Loaded:
    for part in ("norm1", "norm2"):
        yield from _norm(state, f"{name}{renamed.get(part, part)}.", getattr(block, part))
    for part in ("conv1", "conv2"):
        yield from pointwise(state, f"{name}{renamed.get(part, part)}.", getattr(block, part))


def _cross_attention(state: State, layer: CrossAttention) -> Loaded:
    name, inner = "cross_decode.", "cross_decode.cross_attn."
    dim = layer.query_norm.shape[0]
    yield from convolution(state, name + "conv2d.", layer.conv)
    if inner + "q_proj.weight" in state:
        # AnyUp's form for NATTEN.
        norms = name
        yield from pointwise(state, inner + "q_proj.", layer.query)
        yield from pointwise(state, inner + "k_proj.", layer.key)
        state.skip(inner + "k_proj.bias")
    else:
        norms, inner = inner, inner + "attention."
        if inner + "q_proj_weight" in state:
            # PyTorch's names where values have other channels than queries.
            query, key = (state.take(f"{inner}{part}_proj_weight", (dim, dim)) for part in "qk")
        else:
            query, key, _ = np.split(state.take(inner + "in_proj_weight", (3 * dim, dim)), 3)
        yield layer.query.kernel, query.T
        yield layer.key.kernel, key.T
        assert layer.query.bias is not None
        yield layer.query.bias, state.take(inner + "in_proj_bias", (3 * dim,))[:dim]
        state.skip(inner + "v_proj_weight", inner + "out_proj.weight", inner + "out_proj.bias", norms + "norm_v.weight")
    yield layer.query_norm, state.take(norms + "norm_q.weight", (dim,))
    yield layer.key_norm, state.take(norms + "norm_k.weight", (dim,))


def _linear(state: State, name: str, layer: HasKernel) -> Loaded:
    yield layer.kernel, state.take(name + "weight", layer.kernel.shape[::-1]).T
    if layer.bias is not None:
        yield layer.bias, state.take(name + "bias", layer.bias.shape)


def _norm(state: State, name: str, norm: nnx.GroupNorm | nnx.LayerNorm | nnx.BatchNorm) -> Loaded:
    for part, key in ((norm.scale, "weight"), (norm.bias, "bias")):
        assert part is not None
        yield part, state.take(name + key, part.shape)
