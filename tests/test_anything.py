"""Upsample Anything against a plain statement of it in PyTorch: the fit, and what it makes of a map."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import upsampling as up
from tests.optional import F, torch


def rendered(x, guide, parameters, radius, reach):
    """(c, h, w) by (3, H, W) and four maps (h, w); each weight is written out."""
    (h, w), (height, width) = x.shape[1:], guide.shape[1:]
    across, down, turn, colors = parameters
    across, down, colors = across.exp().clamp_min(1e-6), down.exp().clamp_min(1e-6), colors.exp().clamp_min(1e-6)
    angle = math.pi * torch.tanh(turn)
    sized = lambda a, size: F.interpolate(a[None], size, mode="bilinear")[0]  # noqa: E731
    low = sized(guide, (h, w))
    limit = torch.ceil(reach * sized(torch.maximum(across, down)[None], (height, width))[0]).clamp(1, radius).detach()
    rows, columns = torch.arange(height, dtype=x.dtype), torch.arange(width, dtype=x.dtype)
    under = [((a + 0.5) * n / m).floor().long() for a, n, m in ((rows, h, height), (columns, w, width))]
    logits, values = [], []
    for i in range(-radius, radius + 1):
        for j in range(-radius, radius + 1):
            q = (under[0] + i).clamp(0, h - 1)[:, None], (under[1] + j).clamp(0, w - 1)[None]
            dy = rows[:, None] - ((q[0].to(x.dtype) + 0.5) * height / h - 0.5)
            dx = columns - ((q[1].to(x.dtype) + 0.5) * width / w - 0.5)
            c, s = torch.cos(angle)[q], torch.sin(angle)[q]
            logit = -((dx * c + dy * s) ** 2) / (2 * across[q] ** 2 + 1e-8)
            logit = logit - (dy * c - dx * s) ** 2 / (2 * down[q] ** 2 + 1e-8)
            logit = logit - ((guide - low[:, q[0], q[1]]) ** 2).sum(0) / (2 * colors[q] ** 2 + 1e-8)
            logits.append(torch.where(i * i + j * j <= limit**2, logit, -torch.inf))
            values.append(x[:, q[0], q[1]])
    return (torch.stack(logits).softmax(0)[:, None] * torch.stack(values)).sum(0)


def upsampled(x, guide, steps, radius, sigma, reach):
    start = [math.log(sigma)] * 2 + [0.0, math.log(0.12)]
    parameters = [torch.full(x.shape[1:], value, dtype=x.dtype, requires_grad=True) for value in start]
    small = F.interpolate(guide[None].detach(), x.shape[1:], mode="bicubic")[0]
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    falls = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1e-9 / 1e-1) ** (step / 5100))
    for _ in range(steps):
        optimizer.zero_grad()
        F.l1_loss(rendered(small, guide.detach(), parameters, radius, reach), guide.detach()).backward()
        optimizer.step()
        falls.step()
    return rendered(x, guide, [p.detach() for p in parameters], radius, reach)


def maps(size, output):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 5))
    # An image with edges, and some noise.
    rows, columns = np.mgrid[: output[0], : output[1]]
    image = np.stack([rows > 0.4 * output[0], columns > rows, rows * 0.5 < columns], -1) * 0.7 + 0.1
    return x, np.stack([image, image[::-1]]) + 0.05 * rng.standard_normal((2, *output, 3))


@pytest.mark.parametrize(
    ("size", "output", "settings"),
    [((3, 4), (12, 16), {}), ((4, 3), (9, 11), {"sigma": 1.0, "reach": 0.6, "radius": 3, "steps": 10})],
)
def test_it_is_the_authors_fit(size, output, settings):
    """In 64 bits: Adam makes steps of all lengths from gradients of any, and so of their rounding.

    And in few steps where windows change while they are fitted, which they do by whole pixels.
    """
    x, guide = maps(size, output)
    given = {"steps": 51, "radius": 2, "sigma": 16.0, "reach": 2.0} | settings
    first = lambda a: torch.tensor(np.moveaxis(a, -1, 0).copy(), requires_grad=True)  # noqa: E731
    tensors = [(first(a), first(g)) for a, g in zip(x, guide, strict=True)]
    expected = [upsampled(a, g, **given) for a, g in tensors]
    weights = np.random.default_rng(1).standard_normal((2, *output, 5))
    for y, w in zip(expected, weights, strict=True):
        y.backward(first(w).detach())
    with jax.enable_x64(True):
        y, pull = jax.vjp(lambda x, guide: up.upsample_anything(x, guide, **given), jnp.asarray(x), jnp.asarray(guide))
        slopes = pull(jnp.asarray(weights))
        assert y.dtype == jnp.float64
        y, slopes = np.asarray(y), [np.asarray(slope) for slope in slopes]
    for n, (own, theirs) in enumerate(zip(y, expected, strict=True)):
        np.testing.assert_allclose(own, np.moveaxis(theirs.detach().numpy(), 0, -1), atol=1e-5)
        for slope, tensor in zip(slopes, tensors[n], strict=True):
            other = np.moveaxis(tensor.grad.numpy(), 0, -1)
            np.testing.assert_allclose(slope[n], other, atol=1e-3 * max(1, np.abs(other).max()))
    # 32 bits, and half precision, are the same but for that rounding.
    for dtype, bound in ((jnp.float32, 0.1), (jnp.bfloat16, 0.2)):
        rough = up.upsample_anything(jnp.asarray(x[0], dtype), jnp.asarray(guide[0], dtype), **given)
        assert rough.dtype == dtype
        assert np.abs(np.asarray(rough, np.float64) - y[0]).mean() < bound


def test_steps_make_the_guide_itself():
    """The fit's own task: the guide from its small self, better with each number of steps; and any mean stays."""
    _, guide = maps((4, 5), (16, 20))
    guide = jnp.asarray(guide[0], jnp.float32)
    small = up.bicubic(guide, (4, 5))
    errors = [float(jnp.abs(up.upsample_anything(small, guide, steps=n, radius=2) - guide).mean()) for n in (0, 20)]
    assert errors[1] < 0.9 * errors[0]  # the rest is noise
    y = up.upsample_anything(jnp.full((4, 5, 1), 3.0), guide, steps=2, radius=1)
    np.testing.assert_allclose(y, 3, atol=1e-5)


def test_errors():
    x, guide = jnp.ones((4, 4, 2)), jnp.ones((8, 8, 3))
    for message, call in {
        "guide must have the batch axes of x": lambda: up.upsample_anything(x[None], guide),
        r"at least its height and width; got shape \(3, 8, 3\)": lambda: up.upsample_anything(x, guide[:3]),
        "steps must be at least 0; got -1": lambda: up.upsample_anything(x, guide, steps=-1),
        "sigma must be finite and above 0": lambda: up.upsample_anything(x, guide, sigma=0.0),
    }.items():
        with pytest.raises(ValueError, match=f"upsample_anything: .*{message}"):
            call()
