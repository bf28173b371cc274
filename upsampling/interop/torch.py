"""Weights from PyTorch state dicts. PyTorch itself is not imported: tensors are read through their own methods."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from upsampling import _arguments
from upsampling.interop import _attention as _attention  # registers its loaders, as do all of these
from upsampling.interop import _frequency as _frequency
from upsampling.interop import _guided as _guided
from upsampling.interop import _implicit as _implicit
from upsampling.interop import _matting as _matting
from upsampling.interop import _reassembly as _reassembly
from upsampling.interop import _sampling as _sampling
from upsampling.interop import _uplift as _uplift
from upsampling.interop._convolution import from_transposed
from upsampling.interop._states import LOADERS, State, to_numpy, unwrapped

Layer = TypeVar("Layer", bound=nnx.Module)


def load_state_dict(layer: Layer, state: Mapping[str, Any], prefix: str = "") -> Layer:
    """Loads the state dict of a PyTorch module into the layer that computes the same.

    | layer | PyTorch |
    | --- | --- |
    | `TransposedConv`, `Deconv` | `ConvTranspose1d/2d/3d` |
    | `SubPixelConv` | a convolution and `PixelShuffle` |
    | `ResizeConv` | `Upsample` and a convolution |
    | `CARAFE` | mmcv's `CARAFEPack` |
    | `SAPA` | the authors' `SAPA`, or with similarity "gated" or "joined" `SAPAExp` with `q_mode` "gate" or "cat" |
    | `FADE`, `FADELite` | the authors' modules of these names, of FADE either form; not gated, their `SemiShiftUp` |
    | `Interpolate`, `MaxUnpool` | `Upsample`, `MaxUnpool2d`: nothing to load |
    | `JBU`, `JBUStack` | FeatUp's `JBULearnedRange`, `JBUStack` |
    | `GuidedFilter` | the maps of the guide in Wu et al.'s networks, and their `ConvGuidedFilter` |
    | `NAF`, `JAFAR` | the authors' modules of these names |
    | `AnyUp` | the authors' `AnyUp`, with or without NATTEN |
    | `LoftUp` | the authors' `UpsamplerwithChannelNorm`, or without `normalize` their `LoftUp` |
    | `UPLiFT` | the authors' `UPLiFT` with a local attender, of features, or of latents with that form |
    | `FreqFusion` | the authors' `FreqFusion` |
    | `IndexNet` | the authors' `DepthwiseM2OIndexBlock`, `DepthwiseO2OIndexBlock` or `HolisticIndexBlock` |
    | `A2U` | the authors' `InterChannelUpDown`, without `bconv_DP`, which pools |
    | `LIIF` | the `imnet` of the authors' `LIIF`; the entries of its `encoder` are ignored |
    | `DySample` | the authors' `DySample`, of 2023 with `scope_bias=True` |
    | `AttentionGate` | Oktay et al.'s `GridAttentionBlock2D` of mode "concatenation" |
    | `FlowAlignment` | SFNet's `AlignedModule`; with a gate `AlignedModulev2` or `AlignedModulev2PoolingAtten` |

    The layer's stride, padding and the like are its own and must be those of the PyTorch module.

    Args:
      layer: the layer, changed in place. Its parameters keep their dtype.
      state: names to NumPy arrays or PyTorch tensors, `weight` and, if the layer has one, `bias`; or a checkpoint that
        has them as `state_dict`, `model` or the like. A `module.` before all names is taken off. In an
        `nn.Sequential` with one convolution the names may carry its number, as in `0.weight`.
      prefix: what precedes the names, such as `"decoder.up1."`; the last dot may be left out. Other entries are
        ignored.

    Returns:
      The layer.

    Raises:
      ValueError: a name that is missing or too many, or an array of the wrong shape; the message names it.
      TypeError: a layer that has no counterpart, a state that is no mapping, or an entry that is no array of reals.

    Example:

    >>> import jax.numpy as jnp, numpy as np
    >>> import upsampling as up
    >>> from flax import nnx
    >>> state = {"up.weight": np.ones((8, 3, 4, 4), np.float32), "up.bias": np.zeros(3, np.float32)}
    >>> layer = up.nn.TransposedConv(8, out_features=3, kernel_size=4, padding=1, rngs=nnx.Rngs(0))
    >>> up.interop.torch.load_state_dict(layer, state, prefix="up.")(jnp.ones((5, 5, 8))).shape
    (10, 10, 3)
    """
    loader = next((LOADERS[kind] for kind in type(layer).__mro__ if kind in LOADERS), None)
    if loader is None:
        known = ", ".join(kind.__name__ for kind in LOADERS)
        raise TypeError(f"load_state_dict: layer must be one of {known}; got {type(layer).__name__}.")
    entries = State(unwrapped(state, prefix), prefix)
    loaded = list(loader(layer, entries))
    entries.reject_rest()
    for parameter, value in loaded:
        parameter[...] = jnp.asarray(value, parameter.dtype)
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
    weight = to_numpy("transposed_conv_kernel", "weight", weight)
    groups = _arguments.number("transposed_conv_kernel", "groups", groups)
    if weight.ndim not in (3, 4, 5) or weight.shape[0] % groups:
        raise ValueError(
            "transposed_conv_kernel: weight must be (in, out // groups, *window) with 1, 2 or 3 window axes and a "
            f"multiple of groups={groups} input channels; got shape {weight.shape}."
        )
    return from_transposed(weight, groups)
