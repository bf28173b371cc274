"""State dicts of PyTorch modules give PyTorch's numbers."""

import subprocess
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from flax import nnx

import upsampling as up
from upsampling.interop.torch import load_state_dict, transposed_conv_kernel


def first(x):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("as_numpy", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transposed_convolutions(rank, as_numpy):
    make = {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}[rank]
    theirs = make(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2)
    state = theirs.state_dict()
    if as_numpy:
        state = {k: v.numpy() for k, v in state.items()}
    layer = up.nn.TransposedConv(
        4,
        (2,) * rank,
        out_features=6,
        kernel_size=3,
        padding=1,
        output_padding=1,
        groups=2,
        dilation=2,
        rngs=nnx.Rngs(0),
    )
    assert load_state_dict(layer, state) is layer
    x = np.random.default_rng(0).standard_normal((2, *range(4, 4 + rank), 4)).astype(np.float32)
    close(layer(x), last(theirs(first(x))))
    kernel = transposed_conv_kernel(state["weight"], groups=2)
    np.testing.assert_array_equal(kernel, layer.kernel[...])


def test_deconvolution_takes_a_transposed_convolution():
    theirs = torch.nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)
    layer = up.nn.Deconv(4, out_features=3, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 4)).astype(np.float32)
    close(load_state_dict(layer, theirs.state_dict())(x), last(theirs(first(x))))


def test_blocks():
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 4)).astype(np.float32)
    shuffle = torch.nn.Sequential(torch.nn.Conv2d(4, 3 * 9, 3, padding=1), torch.nn.PixelShuffle(3))
    layer = load_state_dict(up.nn.SubPixelConv(4, 3, out_features=3, rngs=nnx.Rngs(0)), shuffle.state_dict())
    close(layer(x), last(shuffle(first(x))))
    for mode in ("nearest", "bilinear"):
        resize = torch.nn.Sequential(
            torch.nn.Upsample(scale_factor=2, mode=mode), torch.nn.Conv2d(4, 3, 3, padding=1, bias=False)
        )
        layer = up.nn.ResizeConv(4, out_features=3, method=mode, use_bias=False, rngs=nnx.Rngs(0))
        close(load_state_dict(layer, resize.state_dict())(x), last(resize(first(x))))
        upsample = torch.nn.Upsample(scale_factor=2, mode=mode)
        layer = load_state_dict(up.nn.Interpolate(2, method=mode), upsample.state_dict())
        close(layer(x), last(upsample(first(x))))


def test_a_prefix_picks_one_module_of_a_network():
    network = torch.nn.ModuleDict(
        {"up1": torch.nn.ConvTranspose2d(4, 3, 2, 2), "up2": torch.nn.ConvTranspose2d(3, 2, 2, 2)}
    )
    layer = up.nn.TransposedConv(3, out_features=2, kernel_size=2, rngs=nnx.Rngs(0))
    load_state_dict(layer, network.state_dict(), prefix="up2.")
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 3)).astype(np.float32)
    close(layer(x), last(network["up2"](first(x))))


def test_parameters_keep_their_dtype():
    layer = up.nn.TransposedConv(4, out_features=3, kernel_size=2, param_dtype=jnp.float16, rngs=nnx.Rngs(0))
    theirs = torch.nn.ConvTranspose2d(4, 3, 2, 2).to(torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX warns of what it casts by itself
        load_state_dict(layer, theirs.state_dict())
    assert layer.kernel.dtype == jnp.float16
    np.testing.assert_allclose(layer.bias[...], theirs.bias.detach().float().numpy(), rtol=1e-3)


def test_bfloat16_keeps_its_range():
    layer = up.nn.TransposedConv(1, kernel_size=2, use_bias=False, rngs=nnx.Rngs(0))
    load_state_dict(layer, {"weight": torch.full((1, 1, 2, 2), 1e30, dtype=torch.bfloat16)})
    np.testing.assert_allclose(layer.kernel[...], 1e30, rtol=2**-8)  # bfloat16's rounding


def test_torch_is_not_imported():
    code = "import sys, upsampling; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


WEIGHT, BIAS = np.zeros((4, 3, 2, 2), np.float32), np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("state", "prefix", "message"),
    [
        ({"bias": BIAS}, "", "state lacks 'weight'; under prefix='' it has 'bias'"),
        ({"up.weight": WEIGHT}, "up.", "state lacks 'up.bias'; under prefix='up.' it has 'up.weight'"),
        ({"up.weight": WEIGHT}, "down.", "state lacks 'down.weight'; under prefix='down.' it has nothing"),
        ({"weight": WEIGHT[:3], "bias": BIAS}, "", r"'weight' must have shape \(4, 3, 2, 2\); got \(3, 3, 2, 2\)"),
        ({"weight": WEIGHT, "bias": BIAS[:2]}, "", r"'bias' must have shape \(3,\); got \(2,\)"),
        ({"weight": WEIGHT, "bias": BIAS, "scale": BIAS}, "", "state has 'scale', which the layer has no use for"),
    ],
)
def test_wrong_states_are_named(state, prefix, message):
    layer = up.nn.TransposedConv(4, out_features=3, kernel_size=2, rngs=nnx.Rngs(0))
    before = layer.kernel[...]
    with pytest.raises(ValueError, match=message):
        load_state_dict(layer, state, prefix)
    # Nothing is half loaded.
    np.testing.assert_array_equal(layer.kernel[...], before)


def test_other_errors():
    with pytest.raises(TypeError, match=r"load_state_dict: layer must be one of .*TransposedConv.*; got DUpsampling"):
        load_state_dict(up.nn.DUpsampling(4, rngs=nnx.Rngs(0)), {})
    with pytest.raises(ValueError, match="state has 'weight', which the layer has no use for"):
        load_state_dict(up.nn.Interpolate(2), {"weight": WEIGHT})
    with pytest.raises(ValueError, match=r"weight must be .* groups=3"):
        transposed_conv_kernel(WEIGHT, groups=3)
    with pytest.raises(ValueError, match="weight must be"):
        transposed_conv_kernel(BIAS)
