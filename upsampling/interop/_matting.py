"""Loaders for IndexNet and A2U, by the names in their authors' code."""

import numpy as np

from upsampling.interop._guided import pointwise
from upsampling.interop._states import Loaded, State, batch_norm, from_conv, loads, normalization
from upsampling.nn.matting import A2U, IndexNet


@loads(IndexNet)
def _indexnet(layer: IndexNet, state: State) -> Loaded:
    """Of a depthwise index, `indexnet1` to `indexnet4` side by side; of a holistic one, `indexnet`."""
    *window, inner, out = layer.kernel.shape
    if layer.index == "holistic":
        name = "indexnet." if layer.norm is None else "indexnet.0."
        yield layer.kernel, from_conv(state.take(name + "weight", (out, inner, *window)))
        if layer.norm is not None and layer.last is not None:
            yield from batch_norm(state, "indexnet.1.", layer.norm)
            yield layer.last, state.take("indexnet.3.weight", (*layer.last.shape[::-1], 1, 1))[:, :, 0, 0].T
        return
    names, channels = [f"indexnet{n}." for n in range(1, 5)], out // 4

    def side_by_side(name: str, *shape: int) -> np.ndarray:
        """(channels, ...) of each block to one axis, in the order of the layer's channels."""
        blocks = [state.take(block + name, shape) for block in names]
        stacked = np.stack(blocks, 1 if layer.index == "o2o" else 0)
        return stacked.reshape(-1, *shape[1:])

    yield layer.kernel, from_conv(side_by_side("0.weight", channels, inner, *window))
    if layer.norm is None or layer.last is None:
        return
    for entry, parameter in {
        "weight": layer.norm.scale,
        "bias": layer.norm.bias,
        "running_mean": layer.norm.mean,
        "running_var": layer.norm.var,
    }.items():
        yield parameter, side_by_side(f"1.{entry}", channels)
    state.skip(*(f"{name}1.num_batches_tracked" for name in names))
    last = side_by_side("3.weight", channels, inner, 1, 1)
    own = last.reshape(4, channels, channels).swapaxes(1, 2) if layer.index == "m2o" else last.ravel()
    yield layer.last, own


@loads(A2U)
def _a2u(layer: A2U, state: State) -> Loaded:
    state.skip("bconv_DP.1.weight", "bconv_DP.1.bias")
    for name, linear in (("U", layer.first), ("V", layer.second), ("UP", layer.prediction)):
        yield from pointwise(state, f"bconv_{name}.1.", linear)
    yield from normalization(state, "bnu.0.", layer.first_norm)
    yield from normalization(state, "bnv.0.", layer.second_norm)
