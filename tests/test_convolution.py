"""Transposed convolutions against PyTorch, ONNX Runtime and sums written from the definition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jax import lax

from upsampling.convolution import (
    deconv,
    pixel_shuffle,
    pixel_unshuffle,
    sub_pixel_conv,
    transposed_conv,
    transposed_conv_size,
)

TORCH_CONV = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def torch_kernel(kernel, groups):
    """(*window, in // groups, out) -> PyTorch's (in, out // groups, *window)."""
    *window, inner, out = kernel.shape
    blocks = np.asarray(kernel).reshape(*window, inner, groups, out // groups)
    return np.ascontiguousarray(np.moveaxis(blocks, [-2, -3, -1], [0, 1, 2]).reshape(groups * inner, -1, *window))


def channels_first(x):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def random_cases(count, seed):
    """Transposed convolutions drawn over all that PyTorch has: (shape of x, shape of kernel, arguments)."""
    rng = np.random.default_rng(seed)
    cases = []
    while len(cases) < count:
        rank = int(rng.integers(1, 4))
        pick = lambda low, high, rank=rank: tuple(int(n) for n in rng.integers(low, high + 1, rank))  # noqa: E731
        strides, window, dilation = pick(1, 4), pick(1, (7, 7, 4)[rank - 1]), pick(1, 3)
        if rng.random() < 0.5:
            dilation = (1,) * rank
        size = pick(1, (17, 17, 5)[rank - 1])
        output_padding = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(strides, dilation, strict=True))
        padding = pick(0, 3)
        groups, inner, outer = (int(n) for n in rng.integers(1, 4, 3))
        if rng.random() < 0.2:
            inner = 1
        full = [
            (n - 1) * s + d * (k - 1) + 1 - 2 * p + o
            for n, s, d, k, p, o in zip(size, strides, dilation, window, padding, output_padding, strict=True)
        ]
        if min(full) < 1:
            continue
        arguments = dict(
            strides=strides, padding=padding, output_padding=output_padding, dilation=dilation, groups=groups
        )
        cases.append(((int(rng.integers(1, 3)), *size, inner * groups), (*window, inner, outer * groups), arguments))
    return cases


def close(actual, expected, tolerance=1e-4):
    """Equal to `tolerance` relative to the largest value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1e-3, np.abs(expected).max(initial=0)))


@pytest.mark.parametrize("seed", range(8))
def test_output_and_gradients_are_pytorchs(seed):
    for x_shape, kernel_shape, arguments in random_cases(12, seed):
        rng = np.random.default_rng(seed)
        x, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, kernel_shape))
        bias = rng.standard_normal(kernel_shape[-1]).astype(np.float32)
        rank = len(kernel_shape) - 2
        theirs = [channels_first(x), torch.tensor(torch_kernel(kernel, arguments["groups"])), torch.tensor(bias)]
        for t in theirs:
            t.requires_grad_()
        torch_arguments = {"stride" if k == "strides" else k: v for k, v in arguments.items()}
        expected = TORCH_CONV[rank](*theirs, **torch_arguments)
        y, pull = jax.vjp(lambda *a, arguments=arguments: transposed_conv(*a, **arguments), x, kernel, bias)
        close(y, np.moveaxis(expected.detach().numpy(), 1, -1))
        g = rng.standard_normal(y.shape).astype(np.float32)
        expected = torch.autograd.grad(expected, theirs, channels_first(g))
        actual = pull(g)
        close(actual[0], np.moveaxis(expected[0].numpy(), 1, -1))
        close(torch_kernel(actual[1], arguments["groups"]), expected[1].numpy())
        close(actual[2], expected[2].numpy())
