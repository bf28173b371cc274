"""Weights from PyTorch state dicts. PyTorch itself is not imported: tensors are read through their own methods."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from upsampling import _checks
from upsampling.nn.convolution import Deconv, MaxUnpool, ResizeConv, SubPixelConv, TransposedConv
from upsampling.nn.interpolation import Interpolate


def load_state_dict(layer: nnx.Module, state: Mapping[str, Any], prefix: str = "") -> nnx.Module:
    """Loads the state dict of a PyTorch module into the layer that computes the same.

    | layer | PyTorch |
    | --- | --- |
    | `TransposedConv`, `Deconv` | `ConvTranspose1d/2d/3d` |
    | `SubPixelConv` | a convolution and `PixelShuffle` |
    | `ResizeConv` | `Upsample` and a convolution |
    | `Interpolate`, `MaxUnpool` | `Upsample`, `MaxUnpool2d`: nothing to load |

    The layer's stride, padding and the like are its own and must be those of the PyTorch module.

    Args:
      layer: the layer, changed in place. Its parameters keep their dtype.
      state: names to NumPy arrays or PyTorch tensors, `weight` and, if the layer has one, `bias`. In an
        `nn.Sequential` with one convolution the names may carry its number, as in `0.weight`.
      prefix: what precedes the names, such as `"decoder.up1."`. Other entries are left aside.

    Returns:
      The layer.

    Raises:
      ValueError: a name that is missing or too many, or an array of the wrong shape; the message names it.
      TypeError: a layer that has no counterpart.

    Example:

    >>> import jax.numpy as jnp, numpy as np
    >>> import upsampling as up
    >>> from flax import nnx
    >>> state = {"up.weight": np.ones((8, 3, 4, 4), np.float32), "up.bias": np.zeros(3, np.float32)}
    >>> layer = up.nn.TransposedConv(8, out_features=3, kernel_size=4, padding=1, rngs=nnx.Rngs(0))
    >>> up.interop.torch.load_state_dict(layer, state, prefix="up.")(jnp.ones((5, 5, 8))).shape
    (10, 10, 3)
    """
    given = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    if isinstance(layer, (Interpolate, MaxUnpool)):
        _reject_extra(given, set(), prefix)
        return layer
    convert: Callable[[np.ndarray], np.ndarray]
    if isinstance(layer, TransposedConv):
        groups = layer.groups
        convert, invert = (lambda w: _from_transposed(w, groups)), (lambda shape: _transposed_shape(shape, groups))
    elif isinstance(layer, (Deconv, SubPixelConv, ResizeConv)):
        convert, invert = _from_conv, _conv_shape
    else:
        raise TypeError(
            "load_state_dict: layer must be a TransposedConv, Deconv, SubPixelConv, ResizeConv, Interpolate or "
            f"MaxUnpool; got {type(layer).__name__}."
        )
    names = {"weight"} | ({"bias"} if layer.bias is not None else set())
    block = _sequential_number(given)
    weight = _array(given, block + "weight", prefix, invert(layer.kernel.shape))
    bias = _array(given, block + "bias", prefix, layer.bias.shape) if layer.bias is not None else None
    _reject_extra(given, {block + name for name in names}, prefix)
    layer.kernel[...] = jnp.asarray(convert(weight), layer.kernel.dtype)
    if layer.bias is not None:
        layer.bias[...] = jnp.asarray(bias, layer.bias.dtype)
    return layer


def transposed_conv_kernel(weight: Any, groups: int = 1) -> np.ndarray:
    """The kernel for `upsampling.transposed_conv` from the weight of a PyTorch `ConvTranspose1d/2d/3d`.

    Args:
      weight: (in, out // groups, *window), a NumPy array or a PyTorch tensor.
      groups: the module's.

    Returns:
      (*window, in // groups, out).

    Raises:
      ValueError: too few or too many axes, or input channels that `groups` does not divide.

    Example:

    >>> import numpy as np
    >>> from upsampling.interop import torch
    >>> torch.transposed_conv_kernel(np.ones((8, 3, 4, 4)), groups=2).shape
    (4, 4, 4, 6)
    """
    weight = _to_numpy(weight)
    groups = _checks.number("transposed_conv_kernel", "groups", groups)
    if weight.ndim not in (3, 4, 5) or weight.shape[0] % groups:
        raise ValueError(
            "transposed_conv_kernel: weight must be (in, out // groups, *window) with 1, 2 or 3 window axes and a "
            f"multiple of groups={groups} input channels; got shape {weight.shape}."
        )
    return _from_transposed(weight, groups)


def _from_transposed(weight: np.ndarray, groups: int) -> np.ndarray:
    """(in, out // groups, *window) -> (*window, in // groups, out)."""
    inner, outer, *window = weight.shape
    blocks = weight.reshape(groups, inner // groups, outer, *window)
    return np.moveaxis(blocks, (1, 0, 2), (-3, -2, -1)).reshape(*window, inner // groups, groups * outer)


def _transposed_shape(shape: tuple[int, ...], groups: int) -> tuple[int, ...]:
    *window, inner, out = shape
    return (inner * groups, out // groups, *window)


def _from_conv(weight: np.ndarray) -> np.ndarray:
    """(out, in // groups, *window) -> (*window, in // groups, out)."""
    return np.moveaxis(weight, (1, 0), (-2, -1))


def _conv_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    *window, inner, out = shape
    return (out, inner, *window)


def _sequential_number(given: Mapping[str, Any]) -> str:
    """`"0."` where all names are those of module 0 of an `nn.Sequential`, and so on; else nothing."""
    parents = {key.rpartition(".")[0] for key in given}
    if len(parents) == 1:
        parent = parents.pop()
        if parent.isdigit():
            return f"{parent}."
    return ""


def _array(given: Mapping[str, Any], name: str, prefix: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in given:
        found = ", ".join(map(repr, sorted(prefix + key for key in given))) or "nothing"
        raise ValueError(f"load_state_dict: state lacks {prefix + name!r}; under prefix={prefix!r} it has {found}.")
    array = _to_numpy(given[name])
    if array.shape != tuple(shape):
        raise ValueError(f"load_state_dict: {prefix + name!r} must have shape {tuple(shape)}; got {array.shape}.")
    return array


def _reject_extra(given: Mapping[str, Any], known: set[str], prefix: str) -> None:
    extra = sorted(prefix + key for key in given.keys() - known)
    if extra:
        raise ValueError(f"load_state_dict: state has {', '.join(map(repr, extra))}, which the layer has no use for.")


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            # NumPy has no bfloat16 that PyTorch knows of.
            value = value.float()
        value = value.numpy()
    return np.asarray(value)
