"""Loaders for layers with a guide: FeatUp's joint bilateral upsampling, the guided filter, a gate, and NAF."""

from typing import Any

import numpy as np
from flax import nnx

from upsampling.attention import rotary_periods
from upsampling.interop._states import HasKernel, Loaded, State, batch_norm, convolution, loads
from upsampling.nn.attention import NAF, ImageBranch
from upsampling.nn.gate import AttentionGate
from upsampling.nn.guided import JBU, AdaptiveNorm, GuidedFilter, JBUStack, Pointwise


@loads(JBU)
def _jbu(layer: JBU, state: State) -> Loaded:
    """`JBULearnedRange`; a GELU and a dropout are between its two convolutions."""
    return _jbu_called("", layer, state)


@loads(JBUStack)
def _jbu_stack(layer: JBUStack, state: State) -> Loaded:
    """`JBUStack`; its convolution is the second of its module, after a dropout."""
    for number, part in enumerate(layer.layers, start=1):
        yield from _jbu_called(f"up{number}.", part, state)
    yield from pointwise(state, "fixup_proj.1.", layer.fixup_proj)


def _jbu_called(name: str, layer: JBU, state: State) -> Loaded:
    yield layer.range_temp, state.take(name + "range_temp", ())
    yield layer.sigma_spatial, state.take(name + "sigma_spatial", ())
    for module, layers in (("range_proj", layer.range_proj), ("fixup_proj", layer.fixup_proj)):
        for number, part in zip((0, 3), layers, strict=True):
            yield from pointwise(state, f"{name}{module}.{number}.", part)


@loads(GuidedFilter)
def _guided_filter(layer: GuidedFilter, state: State) -> Loaded:
    """The guided filter's own parts in the networks of Wu et al.; what stands under `lr` is their network before it."""
    state.skip(*(name for name in state.names if name.startswith("lr.")))
    if layer.guide_map is not None:
        named = "guided_map_conv1.weight" in state
        yield from _sequence(state, "guided_map_conv1." if named else "guided_map.", layer.guide_map, named)
    if layer.mean == "conv":
        name = "gf." if "gf.box_filter.weight" in state else ""
        weight = state.take(f"{name}box_filter.weight", (layer.features, 1, 3, 3))
        yield layer.kernel, weight.transpose(2, 3, 0, 1)[..., 0]
        yield from _sequence(state, f"{name}conv_a.", layer.slopes, named=False)


def _sequence(state: State, name: str, part: Pointwise, named: bool) -> Loaded:
    """Convolutions, each but the last with its normalization and a ReLU after it; or two that have names."""
    number = 0
    for n, linear in enumerate(part.layers):
        own = f"{name[:-2]}{n + 1}." if named else f"{name}{number}."
        yield from pointwise(state, own, linear)
        number += 3 if part.norms else 2
        if n < len(part.norms):
            yield from _norm(state, f"{name}{number - 2}.", part.norms[n])


def _norm(state: State, name: str, norm: Any) -> Loaded:
    if isinstance(norm, AdaptiveNorm):
        yield norm.w_0, state.take(name + "w_0", (1,))
        yield norm.w_1, state.take(name + "w_1", (1,))
        yield from batch_norm(state, name + "bn.", norm.bn)
    elif isinstance(norm, nnx.BatchNorm):
        yield from batch_norm(state, name, norm)
    else:
        raise TypeError(f"load_state_dict: norm must be BatchNorm or AdaptiveNorm; got {type(norm).__name__}.")


@loads(AttentionGate)
def _gate(layer: AttentionGate, state: State) -> Loaded:
    """`GridAttentionBlock2D`, whose `W` only a projected gate has."""
    yield from convolution(state, "theta.", layer.skip)
    yield from convolution(state, "phi.", layer.gating)
    yield from convolution(state, "psi.", layer.psi)
    if layer.out is not None and layer.norm is not None:
        yield from convolution(state, "W.0.", layer.out)
        yield from batch_norm(state, "W.1.", layer.norm)


@loads(NAF)
def _naf(layer: NAF, state: State) -> Loaded:
    """`NAF`; all parameters are the image encoder's. The rotary periods are not learned and must be the layer's."""
    yield from _branch(state, "image_encoder.encoder.", layer.pixels)
    yield from _branch(state, "image_encoder.sem_encoder.", layer.surroundings)
    name = "image_encoder.rope.periods"
    if name in state:
        expected = rotary_periods(layer.dim, layer.heads, layer.base)
        periods = state.take(name, expected.shape)
        if not np.allclose(periods, expected, rtol=1e-5):
            raise ValueError(
                f"load_state_dict: {name!r} must be those of the layer's base={layer.base}, {expected}; got {periods}."
            )


def _branch(state: State, name: str, branch: ImageBranch) -> Loaded:
    yield from convolution(state, f"{name}0.", branch.stem)
    for number, block in enumerate(branch.blocks, start=1):
        for part in (1, 2):
            yield from convolution(state, f"{name}{number}.conv{part}.", getattr(block, f"conv{part}"))
            norm = getattr(block, f"norm{part}")
            yield norm.scale, state.take(f"{name}{number}.norm{part}.weight", norm.scale.shape)
            yield norm.bias, state.take(f"{name}{number}.norm{part}.bias", norm.bias.shape)


def pointwise(state: State, name: str, layer: HasKernel) -> Loaded:
    """A 1x1 `Conv2d` for a linear layer."""
    inner, out = layer.kernel.shape
    yield layer.kernel, state.take(name + "weight", (out, inner, 1, 1))[:, :, 0, 0].T
    if layer.bias is not None:
        yield layer.bias, state.take(name + "bias", (out,))
