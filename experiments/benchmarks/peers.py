"""PyTorch beside this library: the same arrays, the same parameters, forward or with the gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

from experiments.benchmarks.harness import Contender, compiled, fastest, with_gradient
from upsampling.interop.torch import load_state_dict


def parameters(module: torch.nn.Module) -> int:
    """How many numbers the module learns."""
    return sum(p.numel() for p in module.parameters())


def layer(
    ours: nnx.Module, theirs: torch.nn.Module, maps: Sequence[np.ndarray], cotangent: np.ndarray, gradient: bool
) -> Contender:
    """A layer with the parameters of `theirs`, of `maps`; with gradient, those of parameters and maps."""
    structure, state = nnx.split(load_state_dict(ours, theirs.state_dict()))

    def apply(state: Any, *maps: jax.Array) -> jax.Array:
        return nnx.merge(structure, state)(*maps)

    if gradient:
        return compiled(with_gradient(apply, range(1 + len(maps))), state, *maps, cotangent)
    return compiled(apply, state, *maps)


def in_torch(
    function: Callable,
    maps: Sequence[np.ndarray],
    cotangent: np.ndarray,
    gradient: bool,
    others: Sequence[torch.Tensor] = (),
    order: torch.memory_format = torch.contiguous_format,
) -> Contender:
    """A function of PyTorch, of `maps` given with channels last; with gradient, those of maps and `others`."""
    *given, cotangent = (torch.from_numpy(a).movedim(-1, 1).contiguous(memory_format=order) for a in (*maps, cotangent))
    if not gradient:

        def forward() -> torch.Tensor:
            with torch.no_grad():
                return function(*given)

        return Contender(forward)
    for array in (*given, *others):
        array.requires_grad_()
    return Contender(lambda: torch.autograd.grad(function(*given), (*given, *others), cotangent))


def fastest_in_torch(
    function: Callable,
    maps: Sequence[np.ndarray],
    cotangent: np.ndarray,
    gradient: bool,
    others: Sequence[torch.Tensor] = (),
) -> dict[str, Contender]:
    """The faster of channels first and last in memory, as `torch`."""
    last = torch.channels_last if cotangent.ndim == 4 else torch.channels_last_3d
    orders = (torch.contiguous_format, last)
    ways = {order: in_torch(function, maps, cotangent, gradient, others, order) for order in orders}
    return fastest(ways, "torch")
