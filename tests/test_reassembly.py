"""Reassembly against sums written from the definition, in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from upsampling import _reassemble
from upsampling.reassembly import reassemble, reassemble_to


def close(actual, expected, tolerance=1e-4):
    """Equal to `tolerance` relative to the largest value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1e-3, np.abs(expected).max(initial=0)))


def normal(seed, *shapes, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def walk(x, centres, window, dilation, edge):
    """Every output pixel, its tap and the input pixel the tap sees; nothing where that is zero."""
    spatial = x.shape[1:-1]
    for pixel in itertools.product(*(range(len(c)) for c in centres)):
        for tap in np.ndindex(*window):
            seen = [
                c[p] + (t - k // 2) * d for c, p, t, k, d in zip(centres, pixel, tap, window, dilation, strict=True)
            ]
            if edge == "replicate":
                seen = [min(max(i, 0), n - 1) for i, n in zip(seen, spatial, strict=True)]
            elif not all(0 <= i < n for i, n in zip(seen, spatial, strict=True)):
                continue
            yield pixel, tap, tuple(seen)


def reassembled(x, weights, centres, dilation, edge):
    """The definition: (n, *spatial, c), (n, *size, groups, *window)."""
    rank, groups = len(centres), weights.shape[1 + len(centres)]
    y = np.zeros((x.shape[0], *map(len, centres), x.shape[-1]))
    for pixel, tap, seen in walk(x, centres, weights.shape[2 + rank :], dilation, edge):
        weight = weights[(slice(None), *pixel, slice(None), *tap)].astype(float)
        value = x[(slice(None), *seen)].reshape(x.shape[0], groups, -1)
        y[(slice(None), *pixel)] += (weight[..., None] * value).reshape(x.shape[0], -1)
    return y


def pulled_back(x, weights, y, centres, dilation, edge):
    """The gradients of `(reassembled * y).sum()`."""
    rank, groups = len(centres), weights.shape[1 + len(centres)]
    dx, dweights = np.zeros(x.shape), np.zeros(weights.shape)
    for pixel, tap, seen in walk(x, centres, weights.shape[2 + rank :], dilation, edge):
        there = (slice(None), *pixel, slice(None), *tap)
        weight, value = weights[there].astype(float), x[(slice(None), *seen)].reshape(x.shape[0], groups, -1)
        g = y[(slice(None), *pixel)].reshape(x.shape[0], groups, -1).astype(float)
        dx[(slice(None), *seen)] += (weight[..., None] * g).reshape(x.shape[0], -1)
        dweights[there] += (value * g).sum(-1)
    return dx, dweights


def repeated(spatial, scale):
    return [np.repeat(np.arange(n), s).tolist() for n, s in zip(spatial, scale, strict=True)]


# Spatial size, scale, window, dilation, groups, channels, edge.
CASES = [
    ((5, 4), (2, 2), (3, 3), (1, 1), 1, 3, "zero"),
    ((3, 7), (3, 2), (5, 3), (1, 2), 2, 4, "replicate"),
    ((1, 1), (4, 4), (5, 5), (1, 1), 1, 2, "replicate"),
    ((1, 2), (1, 3), (7, 1), (3, 1), 3, 3, "zero"),
    ((6,), (3,), (5,), (2,), 2, 6, "zero"),
    ((3, 2, 4), (2, 1, 2), (3, 1, 3), (1, 1, 1), 1, 2, "replicate"),
]


@pytest.mark.parametrize("unrolled", [1, 128])
@pytest.mark.parametrize(("spatial", "scale", "window", "dilation", "groups", "channels", "edge"), CASES)
def test_outputs_and_gradients(monkeypatch, unrolled, spatial, scale, window, dilation, groups, channels, edge):
    """With the taps in one loop, and row by row."""
    monkeypatch.setattr(_reassemble, "UNROLLED", unrolled)
    jax.clear_caches()
    size = tuple(n * s for n, s in zip(spatial, scale, strict=True))
    x, weights, g = normal(0, (2, *spatial, channels), (2, *size, groups, *window), (2, *size, channels))
    y, pull = jax.vjp(
        functools.partial(reassemble, scale=scale, dilation=dilation, edge=edge), jnp.asarray(x), jnp.asarray(weights)
    )
    centres = repeated(spatial, scale)
    close(y, reassembled(x, weights, centres, dilation, edge), 1e-5)
    for actual, expected in zip(pull(g), pulled_back(x, weights, g, centres, dilation, edge), strict=True):
        close(actual, expected, 1e-5)


@pytest.mark.parametrize("edge", ["zero", "replicate"])
def test_any_size(edge):
    centres, dilation = [(0, 0, 1, 1, 1, 2, 3), (3, 2, 0, 0, 4)], (1, 2)
    x, weights, g = normal(0, (2, 4, 5, 4), (2, 7, 5, 2, 3, 3), (2, 7, 5, 4))
    y, pull = jax.vjp(
        functools.partial(reassemble_to, centres=centres, dilation=dilation, edge=edge),
        jnp.asarray(x),
        jnp.asarray(weights),
    )
    close(y, reassembled(x, weights, centres, dilation, edge), 1e-5)
    for actual, expected in zip(pull(g), pulled_back(x, weights, g, centres, dilation, edge), strict=True):
        close(actual, expected, 1e-5)
