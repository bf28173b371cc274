"""Loaders for the layers of the sampling family."""

import numpy as np

from upsampling.interop._states import Loaded, State, conv_shape, from_conv, loads
from upsampling.nn.sampling import DySample, FlowAlignment


@loads(DySample)
def _dysample(layer: DySample, state: State) -> Loaded:
    """The authors' `DySample`; its buffer `init_pos` is the same for all. Their scope has a bias before 2024."""
    state.skip("init_pos")
    if layer.scope_kernel is not None and (layer.scope_bias is None) == ("scope.bias" in state):
        wanted = layer.scope_bias is None
        raise ValueError(
            f"load_state_dict: state has {'a' if wanted else 'no'} 'scope.bias': "
            f"give the layer scope_bias={wanted}, which makes one that trains as theirs does."
        )
    parts = {"offset.": (layer.offset_kernel, layer.offset_bias), "scope.": (layer.scope_kernel, layer.scope_bias)}
    for name, (kernel, bias) in parts.items():
        if kernel is not None:
            weight = from_conv(state.take(name + "weight", conv_shape(kernel.shape)))
            yield kernel, groups_first(weight, layer.groups)
        if bias is not None:
            yield bias, groups_first(state.take(name + "bias", bias.shape), layer.groups)


def groups_first(channels: np.ndarray, groups: int) -> np.ndarray:
    """(..., x and y, groups, phases) in one axis -> (..., groups, row and column, phases) in one axis."""
    apart = channels.reshape(*channels.shape[:-1], 2, groups, -1)[..., ::-1, :, :]
    return apart.swapaxes(-3, -2).reshape(channels.shape)


@loads(FlowAlignment)
def _flow_alignment(layer: FlowAlignment, state: State) -> Loaded:
    """The authors' `AlignedModule` and those with a gate, whose flows have columns first."""
    for name, kernel in (("down_h", layer.coarse_kernel), ("down_l", layer.fine_kernel)):
        yield kernel, from_conv(state.take(f"{name}.weight", conv_shape(kernel.shape)))
    flow = from_conv(state.take("flow_make.weight", conv_shape(layer.flow_kernel.shape)))
    pairs = flow.reshape(*flow.shape[:-1], -1, 2)
    yield layer.flow_kernel, pairs[..., ::-1].reshape(flow.shape)
    if layer.gate_kernel is not None:
        yield layer.gate_kernel, from_conv(state.take("flow_gate.0.weight", conv_shape(layer.gate_kernel.shape)))
