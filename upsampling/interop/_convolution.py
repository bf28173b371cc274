"""Loaders for the layers of the convolution and interpolation families."""

import numpy as np

from upsampling.interop._states import Loaded, State, convolution, loads
from upsampling.nn.convolution import Deconv, MaxUnpool, ResizeConv, SubPixelConv, TransposedConv
from upsampling.nn.interpolation import Interpolate


@loads(Interpolate, MaxUnpool)
def _nothing(layer: Interpolate | MaxUnpool, state: State) -> Loaded:
    yield from ()


@loads(TransposedConv)
def _transposed(layer: TransposedConv, state: State) -> Loaded:
    *window, inner, out = layer.kernel.shape
    block = _sequential_number(state)
    weight = state.take(block + "weight", (inner * layer.groups, out // layer.groups, *window))
    yield layer.kernel, from_transposed(weight, layer.groups)
    if layer.bias is not None:
        yield layer.bias, state.take(block + "bias", layer.bias.shape)


@loads(Deconv, SubPixelConv, ResizeConv)
def _convolution(layer: Deconv | SubPixelConv | ResizeConv, state: State) -> Loaded:
    # A ConvTranspose's weight is that of the convolution it transposes: (in, out) there is (out, in) here.
    return convolution(state, _sequential_number(state), layer)


def from_transposed(weight: np.ndarray, groups: int) -> np.ndarray:
    """(in, out // groups, *window) -> (*window, in // groups, out)."""
    inner, outer, *window = weight.shape
    blocks = weight.reshape(groups, inner // groups, outer, *window)
    return np.moveaxis(blocks, (1, 0, 2), (-3, -2, -1)).reshape(*window, inner // groups, groups * outer)


def _sequential_number(state: State) -> str:
    """The number, with its dot, where all names are those of one module of an `nn.Sequential`; else nothing."""
    parents = {key.rpartition(".")[0] for key in state.names}
    if len(parents) == 1:
        parent = parents.pop()
        if parent.isdigit():
            return f"{parent}."
    return ""
