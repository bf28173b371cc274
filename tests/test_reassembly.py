"""Reassembly against sums written from the definition, in float64."""

import functools
import itertools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiling import planned_as_for_users
from upsampling._arguments import Edge
from upsampling.primitives import _common
from upsampling.primitives import window_sum as primitive
from upsampling.reassembly import carafe, fade, gated_queries, reassemble, reassemble_to, sapa, similarities


def close(actual, expected, tolerance=1e-4):
    """Equal to `tolerance` relative to the largest value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1e-3, np.abs(expected).max(initial=0)))


def normal(seed, *shapes, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@functools.cache
def padded(n, edge):
    """The pixels of an axis, and 20 beyond it on both sides, by NumPy's padding."""
    mode = {"replicate": "edge", "reflect": "reflect", "symmetric": "symmetric"}[edge]
    return np.pad(np.arange(n), 20, mode).tolist()


def walk(x, centers, window, dilation, edge):
    """Every output pixel, its tap and the input pixel that the tap reads; nothing where that is zero."""
    spatial = x.shape[1:-1]
    for pixel in itertools.product(*(range(len(c)) for c in centers)):
        for tap in np.ndindex(*window):
            seen = [
                c[p] + (t - k // 2) * d for c, p, t, k, d in zip(centers, pixel, tap, window, dilation, strict=True)
            ]
            if edge != "zero":
                seen = [padded(n, edge)[i + 20] for i, n in zip(seen, spatial, strict=True)]
            elif not all(0 <= i < n for i, n in zip(seen, spatial, strict=True)):
                continue
            yield pixel, tap, tuple(seen)


def reassembled(x, weights, centers, dilation, edge):
    """The definition: (n, *spatial, c), (n, *size, groups, *window)."""
    rank, groups = len(centers), weights.shape[1 + len(centers)]
    y = np.zeros((x.shape[0], *map(len, centers), x.shape[-1]))
    for pixel, tap, seen in walk(x, centers, weights.shape[2 + rank :], dilation, edge):
        weight = weights[(slice(None), *pixel, slice(None), *tap)].astype(float)
        value = x[(slice(None), *seen)].reshape(x.shape[0], groups, -1)
        y[(slice(None), *pixel)] += (weight[..., None] * value).reshape(x.shape[0], -1)
    return y


def pulled_back(x, weights, y, centers, dilation, edge):
    """The gradients of `(reassembled * y).sum()`."""
    rank, groups = len(centers), weights.shape[1 + len(centers)]
    dx, dweights = np.zeros(x.shape), np.zeros(weights.shape)
    for pixel, tap, seen in walk(x, centers, weights.shape[2 + rank :], dilation, edge):
        there = (slice(None), *pixel, slice(None), *tap)
        weight, value = weights[there].astype(float), x[(slice(None), *seen)].reshape(x.shape[0], groups, -1)
        g = y[(slice(None), *pixel)].reshape(x.shape[0], groups, -1).astype(float)
        dx[(slice(None), *seen)] += (weight[..., None] * g).reshape(x.shape[0], -1)
        dweights[there] += (value * g).sum(-1)
    return dx, dweights


def check(ours, x, weights, g, centers, dilation, edge):
    """Output and gradients, in one compiled program."""

    @jax.jit
    def pulled(x, weights, g):
        y, pull = jax.vjp(ours, x, weights)
        return y, *pull(g)

    y, *gradients = pulled(x, weights, g)
    close(y, reassembled(x, weights, centers, dilation, edge), 1e-5)
    for actual, expected in zip(gradients, pulled_back(x, weights, g, centers, dilation, edge), strict=True):
        close(actual, expected, 1e-5)


def repeated(spatial, scale):
    return [np.repeat(np.arange(n), s).tolist() for n, s in zip(spatial, scale, strict=True)]


# Spatial size, scale, window, dilation, groups, channels, edge.
CASES = [
    ((5, 4), (2, 2), (3, 3), (1, 1), 1, 3, "zero"),
    ((3, 7), (3, 2), (5, 3), (1, 2), 2, 4, "replicate"),
    ((1, 1), (4, 4), (5, 5), (1, 1), 1, 2, "replicate"),
    ((1, 2), (1, 3), (7, 1), (3, 1), 3, 3, "zero"),
    ((6,), (3,), (5,), (2,), 2, 6, "zero"),
    ((6,), (1,), (5,), (2,), 1, 2, "reflect"),
    ((3,), (2,), (7,), (1,), 2, 2, "symmetric"),
    ((3, 2, 4), (2, 1, 2), (3, 1, 3), (1, 1, 1), 1, 2, "replicate"),
]


@pytest.mark.parametrize("unrolled", [1, 128])
@pytest.mark.parametrize(("spatial", "scale", "window", "dilation", "groups", "channels", "edge"), CASES)
def test_outputs_and_gradients(monkeypatch, unrolled, spatial, scale, window, dilation, groups, channels, edge):
    """With the taps in one loop, and row by row. Which, is decided anew in each program."""
    monkeypatch.setattr(primitive, "UNROLLED_TAPS", unrolled)
    size = tuple(n * s for n, s in zip(spatial, scale, strict=True))
    x, weights, g = normal(0, (2, *spatial, channels), (2, *size, groups, *window), (2, *size, channels))
    ours = functools.partial(reassemble, scale=scale, dilation=dilation, edge=edge)
    check(ours, x, weights, g, repeated(spatial, scale), dilation, edge)


@pytest.mark.parametrize("edge", get_args(Edge))
def test_any_size(edge):
    centers, dilation = [(0, 0, 1, 1, 1, 2, 3), (3, 2, 0, 0, 4)], (1, 2)
    x, weights, g = normal(0, (2, 4, 5, 4), (2, 7, 5, 2, 3, 3), (2, 7, 5, 4))
    ours = functools.partial(reassemble_to, centers=centers, dilation=dilation, edge=edge)
    check(ours, x, weights, g, centers, dilation, edge)


@pytest.mark.parametrize("uniform", [True, False])
def test_gradient_to_the_weights_in_blocks_of_rows(monkeypatch, uniform):
    """Two or three blocks of two rows, in each of two images."""
    monkeypatch.setattr(_common, "BLOCK_BYTES", 900)
    assert primitive.block_rows(4, 3 * 9 * 4 * 4) == primitive.block_rows(6, 3 * 9 * 4 * 4) == 2
    scale, centers = (2, 3), [(0, 1, 1, 3, 2, 3), (0, 2, 1)]
    ours = functools.partial(reassemble, scale=scale) if uniform else functools.partial(reassemble_to, centers=centers)
    centers = repeated((4, 3), scale) if uniform else centers
    size = tuple(map(len, centers))
    x, weights, g = normal(0, (2, 4, 3, 4), (2, *size, 2, 3, 3), (2, *size, 4))
    check(ours, x, weights, g, centers, (1, 1), "zero")


def by_gathers(x, weights, scale, dilation=1):
    """Plain JAX of two spatial axes, differentiated by JAX: the reference for derivatives of derivatives."""
    *_, h, w, c = x.shape
    groups, k = weights.shape[-3], weights.shape[-1]
    r = dilation * (k // 2)
    padded = jnp.pad(x, ((0, 0), (r, r), (r, r), (0, 0)))
    rows = jnp.arange(h * scale)[:, None] // scale + dilation * jnp.arange(k)[None]
    columns = jnp.arange(w * scale)[:, None] // scale + dilation * jnp.arange(k)[None]
    seen = padded[:, rows[:, None, :, None], columns[None, :, None, :]].reshape(
        -1, h * scale, w * scale, k, k, groups, c // groups
    )
    return jnp.einsum("nhwijgc,nhwgij->nhwgc", seen, weights).reshape(-1, h * scale, w * scale, c)


def test_derivatives_of_derivatives():
    x, weights = map(jnp.asarray, normal(0, (2, 3, 4, 4), (2, 6, 8, 2, 3, 3)))

    def ours(x, weights):
        return reassemble(jnp.sin(x), jnp.cos(weights))

    def reference(x, weights):
        return by_gathers(jnp.sin(x), jnp.cos(weights), 2)

    def penalty(f):
        """The gradient of squared gradients: reverse over reverse."""

        def inner(x, weights):
            return sum((g**2).mean() for g in jax.grad(lambda *a: (f(*a) ** 2).sum(), argnums=(0, 1))(x, weights))

        return jax.grad(inner, argnums=(0, 1))(x, weights)

    def curvature(f):
        """A Hessian times a vector: forward over reverse."""
        return jax.jvp(jax.grad(lambda *a: (f(*a) ** 2).sum(), argnums=(0, 1)), (x, weights), (x, weights))[1]

    def tangent(f):
        return jax.jvp(f, (x, weights), (jnp.ones_like(x), weights))

    derivatives = (tangent, curvature, penalty)
    a, b = jax.jit(lambda: tuple([derivative(f) for derivative in derivatives] for f in (ours, reference)))()
    jax.tree.map(close, a, b)


def test_vmap():
    x, weights, g = map(jnp.asarray, normal(0, (3, 2, 3, 4, 4), (3, 2, 6, 8, 1, 3, 3), (3, 2, 6, 8, 4)))
    one_by_one = jnp.stack([reassemble(a, b) for a, b in zip(x, weights, strict=True)])
    close(jax.vmap(reassemble)(x, weights), one_by_one, 1e-6)
    close(jax.vmap(reassemble, (None, 0))(x[0], weights), jnp.stack([reassemble(x[0], b) for b in weights]), 1e-6)
    close(jax.vmap(reassemble, (1, None), 1)(x.swapaxes(0, 1), weights[0])[:, 1], reassemble(x[1], weights[0]), 1e-6)

    def pulled(x, weights, g):
        return jax.vjp(reassemble, x, weights)[1](g)

    for batched, single in zip(jax.vmap(pulled)(x, weights, g), pulled(x[1], weights[1], g[1]), strict=True):
        close(batched[1], single, 1e-6)


def test_batch_axes_and_none():
    x, weights = normal(0, (2, 3, 5, 4, 3), (2, 3, 10, 8, 1, 3, 3))
    y = reassemble(x, weights)
    assert y.shape == (2, 3, 10, 8, 3)
    close(reassemble(x[1, 2], weights[1, 2]), y[1, 2], 1e-6)
    assert reassemble(x[:0], weights[:0]).shape == (0, 3, 10, 8, 3)


def test_similarities_are_inner_products():
    keys, queries = normal(0, (2, 4, 3, 6), (2, 8, 9, 6))
    ours = similarities(keys, queries, (2, 3), (3, 5), groups=2, dilation=2, edge="replicate")
    expected = np.zeros((2, 8, 9, 2, 3, 5))
    for pixel, tap, seen in walk(keys, repeated((4, 3), (2, 3)), (3, 5), (2, 2), "replicate"):
        products = keys[(slice(None), *seen)] * queries[(slice(None), *pixel)]
        expected[(slice(None), *pixel, slice(None), *tap)] = products.reshape(2, 2, 3).sum(-1)
    close(ours, expected, 1e-5)


def softmax(logits, axes):
    weights = np.exp(logits - logits.max(axes, keepdims=True))
    return weights / weights.sum(axes, keepdims=True)


def enlarged(x, scale):
    return x.repeat(scale[0], -3).repeat(scale[1], -2)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_carafe_is_its_formula():
    """The channels of the logits are groups, windows and blocks, in this order."""
    x, logits = normal(0, (2, 3, 2, 4), (2, 3, 2, 2 * 15 * 6))
    blocks = logits.astype(float).reshape(2, 3, 2, 2, 3, 5, 2, 3).transpose(0, 1, 6, 2, 7, 3, 4, 5)
    weights = softmax(blocks.reshape(2, 6, 6, 2, 3, 5), (-2, -1))
    expected = reassembled(x, weights, repeated((3, 2), (2, 3)), (1, 1), "zero")
    close(carafe(x, logits, scale=(2, 3), kernel_size=(3, 5), groups=2), expected, 1e-5)


def test_the_softmax_over_windows_rounds_once():
    logits = jnp.asarray(normal(0, (50, 1, 5, 5))[0], jnp.bfloat16)
    exact = softmax(np.asarray(logits, np.float64), (-2, -1))
    ours = primitive.window_softmax(logits, 2)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float64), exact, rtol=2.0**-7.9)  # half a unit in the last place


def test_sapa_is_its_formula():
    x, queries, keys = normal(0, (1, 3, 2, 4), (1, 6, 6, 3), (1, 3, 2, 3))
    centers, logits = repeated((3, 2), (2, 3)), np.zeros((1, 6, 6, 1, 5, 5))
    for pixel, tap, seen in walk(keys, centers, (5, 5), (1, 1), "zero"):
        logits[(0, *pixel, 0, *tap)] = queries[(0, *pixel)] @ keys[(0, *seen)]
    expected = reassembled(x, softmax(logits, (-2, -1)), centers, (1, 1), "zero")
    close(sapa(x, queries, keys, scale=(2, 3)), expected, 1e-5)
    # Logits are computed in float32: with bfloat16 they would be wrong by up to a quarter.
    half = [jnp.asarray(a, jnp.bfloat16) for a in (x, 9 * queries, 9 * keys)]
    exact = sapa(*(a.astype(jnp.float32) for a in half), scale=(2, 3))
    assert sapa(*half, scale=(2, 3)).dtype == jnp.bfloat16
    close(sapa(*half, scale=(2, 3)).astype(jnp.float32), exact, 0.02)


def test_gated_queries_and_fade_are_their_formulas():
    x, guide, high, low, gate = normal(0, (3, 2, 4), (6, 6, 4), (6, 6, 9), (3, 2, 9), (3, 2, 1))
    scale, g = (2, 3), enlarged(sigmoid(gate.astype(float)), (2, 3))
    close(gated_queries(guide, x, gate, scale=scale), g * guide + (1 - g) * enlarged(x, scale), 1e-5)
    weights = softmax((high + enlarged(low, scale)).astype(float).reshape(1, 6, 6, 1, 3, 3), (-2, -1))
    y = reassembled(x[None], weights, repeated((3, 2), scale), (1, 1), "zero")[0]
    close(fade(x, guide, high, low, gate, scale=scale, kernel_size=3), g * guide + (1 - g) * y, 1e-5)


def test_to_a_size_that_is_no_multiple():
    """Windows are around the pixels that nearest interpolation takes, and it enlarges what the low resolution has."""
    size, odd = (3, 4), (5, 9)
    centers = tuple([p * n // m for p in range(m)] for n, m in zip(size, odd, strict=True))
    x, keys, queries, guide, high = normal(0, (1, *size, 4), (1, *size, 3), (1, *odd, 3), (1, *odd, 4), (1, *odd, 9))
    low, gate = normal(1, (1, *size, 9), (1, *size, 1))

    def nearest(a):
        return a[:, centers[0]][:, :, centers[1]].astype(float)

    logits = np.zeros((1, *odd, 1, 3, 3))
    for pixel, tap, seen in walk(keys, centers, (3, 3), (1, 1), "zero"):
        logits[(0, *pixel, 0, *tap)] = queries[(0, *pixel)] @ keys[(0, *seen)]
    expected = reassembled(x, softmax(logits, (-2, -1)), centers, (1, 1), "zero")
    close(sapa(x, queries, keys, size=odd, kernel_size=3), expected, 1e-5)
    g = sigmoid(nearest(gate))
    close(gated_queries(guide, x, gate, size=odd), g * guide + (1 - g) * nearest(x), 1e-5)
    weights = softmax((high + nearest(low)).reshape(1, *odd, 1, 3, 3), (-2, -1))
    expected = g * guide + (1 - g) * reassembled(x, weights, centers, (1, 1), "zero")
    close(fade(x, guide, high, low, gate, size=odd, kernel_size=3), expected, 1e-5)
    with pytest.raises(ValueError, match=r"sapa: queries must be .* here \(1, 5, 8, 3\)"):
        sapa(x, queries, keys, size=(5, 8))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_accumulates_in_float32(dtype):
    # Sums of 4096 ones: a half-precision sum would stop growing at 256 or 2048.
    x, weights = jnp.ones((2, 1), dtype), jnp.ones((2, 1, 4097), dtype)
    assert (reassemble(x, weights, scale=(1,), edge="replicate").astype(jnp.float32) >= 4096).all()
    wide = jax.vjp(lambda *a: reassemble(*a, scale=(1,)), jnp.ones((1, 4096), dtype), jnp.ones((1, 1, 1), dtype))[1]
    gradient = wide(jnp.ones((1, 4096), dtype))[1]
    assert gradient.dtype == dtype
    assert gradient.item() == 4096
    spread = jax.vjp(lambda x: reassemble(x, jnp.ones((4096, 1, 1), dtype), scale=(4096,)), jnp.ones((1, 1), dtype))[1]
    assert spread(jnp.ones((4096, 1), dtype))[0].item() == 4096


def test_half_precision_is_not_rounded_row_by_row():
    """Three rows of taps that sum to 257 each, which bfloat16 does not have: 771 rounds to 772, and 3 * 256 is 768."""
    taps = np.zeros((43, 3))  # more than are unrolled
    taps[20:23] = [1, 128, 128]
    weights = jnp.broadcast_to(jnp.asarray(taps, jnp.bfloat16), (43, 3, 1, 43, 3))
    x = jnp.ones((43, 3, 1), jnp.bfloat16)
    y, pull = jax.vjp(lambda x: reassemble(x, weights, scale=(1, 1), edge="zero"), x)
    assert y[21, 1, 0] == 772
    assert pull(y * 0 + 1)[0][21, 1, 0] == 772


def test_float64():
    with jax.enable_x64(True):
        x, weights = normal(0, (2, 3, 2, 4), (2, 6, 4, 1, 3, 3), dtype=np.float64)
        y = reassemble(x, weights)
        assert y.dtype == jnp.float64
        close(y, reassembled(x, weights, repeated((3, 2), (2, 2)), (1, 1), "zero"), 1e-14)


def test_temporaries_are_smaller_than_the_output():
    """Forward and with gradient; the patches would be 25 times the input, 6 times the output."""
    x, weights = jnp.ones((2, 64, 64, 64)), jnp.ones((2, 128, 128, 1, 5, 5))
    y = jnp.ones((2, 128, 128, 64))

    def both(x, weights, y):
        value, pull = jax.vjp(reassemble, x, weights)
        return value, pull(y)

    forward = planned_as_for_users(reassemble).lower(x, weights).compile().memory_analysis()
    gradient = planned_as_for_users(both).lower(x, weights, y).compile().memory_analysis()
    assert forward.temp_size_in_bytes < 0.5 * y.nbytes
    assert gradient.temp_size_in_bytes < y.nbytes


def test_no_scatter():
    x, weights, y = jnp.ones((1, 4, 4, 2)), jnp.ones((1, 7, 7, 1, 3, 3)), jnp.ones((1, 7, 7, 2))
    centers = [(0, 0, 1, 1, 2, 2, 3)] * 2
    text = jax.jit(lambda x, w, y: jax.vjp(lambda *a: reassemble_to(*a, centers), x, w)[1](y)).lower(x, weights, y)
    assert "scatter" not in text.as_text()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: reassemble(x, w[..., :2]), r"reassemble: the window of weights must be odd.*got \(3, 2\)"),
        (lambda x, w: reassemble(x, w[:, :5]), r"reassemble: weights must have shape \(2, 6, 8, groups, k, k\)"),
        (lambda x, w: reassemble(x, w, scale=3), r"weights must have shape \(2, 9, 12, groups, k, k\)"),
        (lambda x, w: reassemble(x, w[:, :, :, 0]), "weights must have shape"),
        (lambda x, w: reassemble(x, jnp.repeat(w, 3, 3)), "the groups of weights=3 must divide channels=4"),
        (lambda x, w: reassemble(x, w, edge="wrap"), "reassemble: edge='wrap' is not known"),
        (lambda x, w: reassemble(x, w, scale=0), "scale must be at least 1"),
        (lambda x, w: reassemble(x, w, dilation=0), "dilation must be at least 1"),
        (lambda x, w: reassemble(x[0, 0], w, scale=2), "x must be .* with 2 spatial axes"),
        (lambda x, w: reassemble_to(x, w, [(0,) * 6, (4,) * 8]), r"centers must be input pixels, below \(3, 4\)"),
        (lambda x, w: reassemble_to(x, w, [(0,) * 6, (-1,) * 8]), "centers must be at least 0"),
        (lambda x, w: similarities(x, x, (2, 2), 3), r"queries must have shape \(2, 6, 8, 4\), for x of shape"),
        (lambda x, w: carafe(x, x), r"carafe: logits must have shape \(2, 3, 4, 100\)"),
        (lambda x, w: carafe(x, x, groups=3), "carafe: groups=3 must divide channels=4"),
        (lambda x, w: carafe(x, x, kernel_size=4), "carafe: kernel_size must be odd"),
        (lambda x, w: sapa(x, x, x), "sapa: queries must be .* here"),
        (lambda x, w: sapa(x, x, x[:1]), "sapa: keys must have the batch and size of x"),
        (lambda x, w: fade(x, x, x, x, x), "fade: guide must be"),
        (lambda x, w: fade(x, jnp.ones((2, 6, 8, 4)), x, x, x), r"fade: map_logits must have shape \(2, 3, 4, 25\)"),
    ],
)
def test_errors_explain(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((2, 3, 4, 4)), jnp.ones((2, 6, 8, 1, 3, 3)))


def test_types_are_checked():
    with pytest.raises(TypeError, match="reassemble: weights must be floating"):
        reassemble(jnp.ones((2, 2, 1)), jnp.ones((4, 4, 1, 1, 1), int))
    with pytest.raises(TypeError, match="scale must be whole numbers"):
        reassemble(jnp.ones((2, 2, 1)), jnp.ones((4, 4, 1, 1, 1)), scale=1.5)
