"""`resize` against the frameworks whose numbers it promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from upsampling import interpolation

TORCH_MODES = {
    "linear": {1: "linear", 2: "bilinear", 3: "trilinear"},
    "cubic": {2: "bicubic"},
    "lanczos3": {2: "lanczos"},
}


def torch_resize(x, size=None, scale=None, method="linear", align_corners=False, antialias=False):
    """F.interpolate on a channels-last NumPy array with one batch axis."""
    rank = x.ndim - 2
    mode = TORCH_MODES.get(method, {}).get(rank, method)
    options = {}
    if method in TORCH_MODES:
        options = {"align_corners": align_corners, "antialias": antialias}
    tensor = torch.from_numpy(x).movedim(-1, 1).contiguous()
    if rank == 2:
        # PyTorch 2.13 antialiases contiguous (N, C, H, W) to an output of width 1 wrongly: every row equals the first.
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    y = F.interpolate(tensor, size, scale, mode, **options)
    return np.moveaxis(y.numpy(), 1, -1)


def cases(seed, count, largest=40):
    """Shapes and either a size or a scale: up, down, equal and one pixel."""
    generator = np.random.default_rng(seed)
    for i in range(count):
        shape = tuple(int(n) for n in generator.integers(1, largest + 1, 2))
        if i % 2:
            yield shape, tuple(int(n) for n in generator.integers(1, largest + 1, 2)), None
        else:
            scale = generator.uniform(1 / np.array(shape), 3)
            yield shape, None, tuple(float(s) for s in np.where(generator.random(2) < 0.3, np.ceil(scale), scale))


def image(seed, *shape):
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize("method", ["nearest", "nearest-exact", "linear", "cubic", "area"])
def test_torch(method):
    for i, (shape, size, scale) in enumerate(cases(1, 20)):
        x = image(i, 1, *shape, 2)
        expected = torch_resize(x, size, scale, method)
        actual = interpolation.resize(x, size, scale=scale, method=method)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=0 if "nearest" in method else 1e-5)


@pytest.mark.parametrize("method", ["linear", "cubic", "lanczos3"])
def test_torch_antialias(method):
    for i, (shape, size, scale) in enumerate(cases(2, 20)):
        x = image(i, 1, *shape, 2)
        expected = torch_resize(x, size, scale, method, antialias=True)
        actual = interpolation.resize(x, size, scale=scale, method=method, antialias=True)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_torch_align_corners(method, antialias):
    for i, (shape, size, scale) in enumerate(cases(3, 20)):
        x = image(i, 1, *shape, 2)
        expected = torch_resize(x, size, scale, method, True, antialias)
        actual = interpolation.resize(
            x, size, scale=scale, method=method, convention="torch_align_corners", antialias=antialias
        )
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(7,), (4, 5, 6)])
def test_torch_other_ranks(size):
    x = image(0, 2, *(5, 6, 7)[: len(size)], 2)
    for method in ("nearest", "nearest-exact", "linear", "area"):
        actual = interpolation.resize(x, size, method=method)
        np.testing.assert_allclose(actual, torch_resize(x, size, method=method), rtol=0, atol=1e-5)


def test_gradient_is_the_adjoint_and_has_no_scatter():
    x = image(0, 2, 5, 6, 3)

    def loss(x):
        return jnp.sum(jnp.sin(interpolation.bicubic(x, (9, 4))))

    xt = torch.from_numpy(np.moveaxis(x, -1, 1).copy()).requires_grad_()
    torch.sin(F.interpolate(xt, (9, 4), mode="bicubic")).sum().backward()
    np.testing.assert_allclose(jax.grad(loss)(x), np.moveaxis(xt.grad.numpy(), 1, -1), atol=1e-5)
    assert " scatter(" not in jax.jit(jax.grad(loss)).lower(x).compile().as_text()
