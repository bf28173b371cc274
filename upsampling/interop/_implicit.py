"""The loader for LIIF."""

from upsampling.interop._states import Loaded, State, loads
from upsampling.nn.implicit import LIIF


@loads(LIIF)
def _liif(layer: LIIF, state: State) -> Loaded:
    """`LIIF`, of which the network that says what is at a place; or that network, `imnet`, alone."""
    state.skip(*(name for name in state.names if name.startswith("encoder.")))
    name = "imnet.layers." if any(name.startswith("imnet.") for name in state.names) else "layers."
    *window, inner, out = layer.kernel.shape
    features = inner * window[0] * window[1]
    cells = 0 if layer.cell_kernel is None else 2
    # Channels of the unfolded map, rows and columns of its window; then the step, then the cell.
    first = state.take(f"{name}0.weight", (out, features + 2 + cells)).T
    yield layer.kernel, first[:features].reshape(inner, *window, out).transpose(1, 2, 0, 3)
    yield layer.step_kernel, first[features : features + 2]
    if layer.cell_kernel is not None:
        yield layer.cell_kernel, first[features + 2 :]
    yield layer.bias, state.take(f"{name}0.bias", (out,))
    for number, (kernel, bias) in enumerate(zip(layer.kernels, layer.biases, strict=True), start=1):
        # A ReLU is between each two.
        yield kernel, state.take(f"{name}{2 * number}.weight", kernel.shape[::-1]).T
        yield bias, state.take(f"{name}{2 * number}.bias", bias.shape)
