"""Transposed convolution against PyTorch and Flax."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from jax import lax

import upsampling as up
from experiments.benchmarks import peers
from experiments.benchmarks.harness import Case, Contender, compiled, with_gradient

DESCRIPTION = (
    "`up.transposed_conv` with padding SAME and, on a CPU, PyTorch's `conv_transpose` (the faster of channels first "
    "and last, as many threads as cores), `flax.nnx.ConvTranspose`, and padded: zeros put between the pixels, then a "
    "convolution, whose gradient is the faster one (Equinox since its pull request 1259). Float32. With gradient: the "
    "output and the gradients of input and kernel. What is behind PyTorch is XLA's convolution on a CPU. Tried in "
    "jaxlib 0.10.2, by processor time: its options for oneDNN, XNNPACK and YNNPACK gain less than a tenth in every "
    "case; one product of matrices for all taps, added where they overlap, takes 1.0 to 3.5 times what kernel 3 with "
    "stride 2 does."
)

PEERS = ("torch", "flax")

# Spatial shape with the batch, channels in, channels out.
_SHAPES = (((8, 32, 32), 128, 64), ((8, 64, 64), 64, 32), ((2, 128, 128), 32, 16), ((1, 256, 256), 16, 16))
_KERNELS = ((2, 2), (3, 2), (4, 2), (4, 4), (8, 4))


def cases() -> Iterator[Case]:
    """Every shape, kernel and stride, and one case with three spatial axes, forward and with the gradient."""
    for gradient in (False, True):
        for shape, inner, out in _SHAPES:
            for window, stride in _KERNELS:
                yield _case(shape, inner, out, window, stride, gradient)
        yield _case((1, 16, 16, 16), 64, 32, 4, 2, gradient)


def _case(shape: tuple[int, ...], inner: int, out: int, window: int, stride: int, gradient: bool) -> Case:
    rng, rank = np.random.default_rng(0), len(shape) - 1
    x = rng.standard_normal((*shape, inner), np.float32)
    kernel = rng.standard_normal((*(window,) * rank, inner, out), np.float32)
    y = rng.standard_normal((shape[0], *(n * stride for n in shape[1:]), out), np.float32)
    functions = {
        "upsampling": functools.partial(up.transposed_conv, strides=stride),
        "flax": _flax(inner, out, window, stride, rank),
        "padded": functools.partial(_padded, stride=stride),
    }
    name = f"{'x'.join(map(str, shape))}x{inner} to {out}, kernel {window}, stride {stride}"
    arguments = (x, kernel)
    if gradient:
        name += ", with gradient"
        functions = {peer: with_gradient(function, (0, 1)) for peer, function in functions.items()}
        arguments = (x, kernel, y)
    contenders = {peer: compiled(function, *arguments) for peer, function in functions.items()}
    if jax.default_backend() == "cpu":
        contenders |= _torch(x, kernel, y, stride, gradient)
    return Case(name, contenders)


def _flax(inner: int, out: int, window: int, stride: int, rank: int) -> Callable:
    layer = nnx.ConvTranspose(inner, out, (window,) * rank, strides=(stride,) * rank, use_bias=False, rngs=nnx.Rngs(0))
    structure, state = nnx.split(layer)

    def apply(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return nnx.merge(structure, jax.tree.map(lambda _: kernel, state))(x)

    return apply


def _padded(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    window, rank = kernel.shape[0], kernel.ndim - 2
    spare = window + stride - 2
    low = window - 1 if stride > window - 1 else -(-spare // 2)
    apart = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *[(low, spare - low, stride - 1)] * rank, (0, 0, 0)])
    last = lax.conv_dimension_numbers(x.shape, kernel.shape, _LAST[rank])
    return lax.conv_general_dilated(apart, kernel, (1,) * rank, "VALID", dimension_numbers=last)


_LAST = {2: ("NHWC", "HWIO", "NHWC"), 3: ("NHWDC", "HWDIO", "NHWDC")}


def _torch(x: np.ndarray, kernel: np.ndarray, y: np.ndarray, stride: int, gradient: bool) -> dict[str, Contender]:
    spare = kernel.shape[0] - stride
    weight = torch.from_numpy(kernel).movedim((-2, -1), (0, 1)).contiguous()
    convolve = functools.partial(
        F.conv_transpose2d if x.ndim == 4 else F.conv_transpose3d,
        weight=weight,
        stride=stride,
        padding=-(-spare // 2),
        output_padding=spare % 2,
    )
    return peers.fastest_in_torch(convolve, (x,), y, gradient, (weight,))
