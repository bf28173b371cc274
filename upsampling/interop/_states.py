"""Reading PyTorch state dicts: which loader belongs to which layer, and errors that name the entry.

A loader takes a layer and a `State` and yields each parameter with its new value, so that nothing is stored before
everything has been found. `loads` registers it for its layers.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

Loaded = Iterator[tuple[nnx.Variable, np.ndarray]]
Loader = TypeVar("Loader", bound=Callable[[Any, Any], Loaded])

LOADERS: dict[type, Callable[[Any, "State"], Loaded]] = {}


def loads(*layers: type) -> Callable[[Loader], Loader]:
    """Registers a loader for these layers and those derived from them; a decorator."""

    def decorate(loader: Loader) -> Loader:
        LOADERS.update(dict.fromkeys(layers, loader))
        return loader

    return decorate


class HasKernel(Protocol):
    """A layer with a kernel, and perhaps a bias."""

    @property
    def kernel(self) -> nnx.Variable: ...

    @property
    def bias(self) -> nnx.Variable | None: ...


class State:
    """The entries of a state dict whose names begin with `prefix`, as NumPy arrays; it notes which were taken."""

    def __init__(self, state: Mapping[str, Any], prefix: str):
        if prefix and not prefix.endswith(".") and any(key.startswith(f"{prefix}.") for key in state):
            prefix = f"{prefix}."
        self._prefix = prefix
        self._given = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        self._left = set(self._given)

    def __contains__(self, name: str) -> bool:
        return name in self._given

    @property
    def names(self) -> set[str]:
        """Names, without the prefix."""
        return set(self._given)

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array called `name`.

        Raises:
          ValueError: there is none, or its shape is another.
        """
        if name not in self._given:
            found = ", ".join(map(repr, sorted(self._prefix + key for key in self._given))) or "nothing"
            raise ValueError(
                f"load_state_dict: state lacks {self._prefix + name!r}; under prefix={self._prefix!r} it has {found}."
            )
        array = to_numpy("load_state_dict", repr(self._prefix + name), self._given[name])
        if not (jnp.issubdtype(array.dtype, jnp.floating) or np.issubdtype(array.dtype, np.integer)):
            raise TypeError(
                f"load_state_dict: {self._prefix + name!r} must be an array of real numbers; got {array.dtype}."
            )
        if array.shape != tuple(shape):
            raise ValueError(
                f"load_state_dict: {self._prefix + name!r} must have shape {tuple(shape)}; got {array.shape}."
            )
        self._left.discard(name)
        return array

    def skip(self, *names: str) -> None:
        """Ignores entries, if they are there, that hold no parameter of the layer."""
        self._left -= set(names)

    def reject_rest(self) -> None:
        """Raises ValueError if an entry was neither taken nor skipped."""
        if self._left:
            extra = ", ".join(repr(self._prefix + name) for name in sorted(self._left))
            raise ValueError(f"load_state_dict: state has {extra}, which the layer has no use for.")


# What training programs call the state dict in their checkpoints. Of two the first: averaged weights are what counts.
_WRAPPERS = ("state_dict_ema", "model_ema", "params_ema", "state_dict", "model_state_dict", "model", "net", "params")
_INNER = ("sd", *_WRAPPERS)


def unwrapped(state: Any, prefix: str) -> Mapping[str, Any]:
    """The state dict in a checkpoint, without the `module.` that `DataParallel` puts before every name.

    Raises:
      TypeError: what is neither a state dict nor holds one.
    """
    names = _WRAPPERS
    while isinstance(state, Mapping) and any(isinstance(value, Mapping) for value in state.values()):
        name = next((name for name in names if isinstance(state.get(name), Mapping)), None)
        if name is None:
            raise TypeError(
                f"load_state_dict: state must be a mapping of names to arrays; its entries {sorted(map(str, state))} "
                f"are no arrays, and none of them is called {', '.join(map(repr, _WRAPPERS))}. Give the right one."
            )
        state, names = state[name], _INNER
    if not isinstance(state, Mapping):
        raise TypeError(
            f"load_state_dict: state must be a mapping of names to arrays, such as module.state_dict(); "
            f"got {type(state).__name__}."
        )
    parallel = "module."
    if state and not prefix.startswith(parallel) and all(str(key).startswith(parallel) for key in state):
        return {key.removeprefix(parallel): value for key, value in state.items()}
    return state


def batch_norm(state: State, name: str, norm: nnx.BatchNorm) -> Loaded:
    """A `BatchNorm1d/2d/3d` whose names begin with `name` (its dot included), with its running averages."""
    yield from normalization(state, name, norm)
    yield norm.mean, state.take(name + "running_mean", norm.mean.shape)
    yield norm.var, state.take(name + "running_var", norm.var.shape)
    state.skip(name + "num_batches_tracked")


def normalization(state: State, name: str, norm: Any) -> Loaded:
    """A `GroupNorm` or another layer with a scale and a bias."""
    yield norm.scale, state.take(name + "weight", norm.scale.shape)
    yield norm.bias, state.take(name + "bias", norm.bias.shape)


def convolution(state: State, name: str, layer: HasKernel) -> Loaded:
    """A `Conv1d/2d/3d` whose names begin with `name` (its dot included)."""
    yield layer.kernel, from_conv(state.take(name + "weight", conv_shape(layer.kernel.shape)))
    if layer.bias is not None:
        yield layer.bias, state.take(name + "bias", layer.bias.shape)


def from_conv(weight: np.ndarray) -> np.ndarray:
    """(out, in // groups, *window) -> (*window, in // groups, out)."""
    return np.moveaxis(weight, (1, 0), (-2, -1))


def conv_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(*window, in // groups, out) -> (out, in // groups, *window)."""
    *window, inner, out = shape
    return (out, inner, *window)


def to_numpy(function: str, argument: str, value: Any) -> np.ndarray:
    """`value` as a NumPy array; a PyTorch tensor is read through its own methods.

    Raises:
      TypeError: it is no array, as lists of unequal lengths are none.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            # PyTorch makes no NumPy array of bfloat16.
            value = value.float()
        value = value.numpy()
    try:
        return np.asarray(value)
    except ValueError:
        raise TypeError(f"{function}: {argument} must be an array; got {type(value).__name__}.") from None
