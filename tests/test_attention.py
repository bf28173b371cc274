"""Neighborhood attention against plain statements of it: the paper's, and NATTEN's over enlarged maps."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import upsampling as up
from tests.optional import F, torch
from upsampling import attention
from upsampling.primitives import _common


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seen(p, m, window, dilation):
    """Where neighborhood attention looks from pixel p of m: `window` pixels `dilation` apart, inward at edges.

    Of two that are equally near the first is taken.
    """
    phase = range(p % dilation, m, dilation)
    return sorted(sorted(phase, key=lambda q: abs(q - p))[:window])


def naf(x, queries, keys, window, heads):
    """As the authors compute it: keys and values are enlarged by nearest neighbours, then attended to with dilation."""
    (h, w), (height, width) = x.shape[:2], queries.shape[:2]
    enlarge = lambda a: F.interpolate(a.permute(2, 0, 1)[None], (height, width), mode="nearest-exact")[0]  # noqa: E731
    large_keys, values = enlarge(keys).permute(1, 2, 0), enlarge(x).permute(1, 2, 0)
    window = (window, window) if isinstance(window, int) else window
    rows = [seen(i, height, window[0], height // h) for i in range(height)]
    columns = [seen(j, width, window[1], width // w) for j in range(width)]
    y = []
    for i in range(height):
        for j in range(width):
            k = large_keys[rows[i]][:, columns[j]].reshape(-1, heads, keys.shape[-1] // heads)
            v = values[rows[i]][:, columns[j]].reshape(-1, heads, x.shape[-1] // heads)
            q = queries[i, j].reshape(heads, -1)
            logits = torch.einsum("phd,hd->hp", k, q) / q.shape[-1] ** 0.5
            y.append(torch.einsum("hp,phc->hc", logits.softmax(-1), v).reshape(-1))
    return torch.stack(y).reshape(height, width, -1)


CASES = {
    "whole factors": ((5, 4), (10, 12), 3, 2),
    "any size": ((4, 5), (9, 13), 3, 1),
    "one pixel for one": ((5, 4), (5, 4), 3, 1),
    "window as large as the image": ((3, 5), (6, 5), 5, 1),
    "window larger than the image": ((2, 1), (5, 4), 5, 2),
    "even, one per axis": ((6, 5), (12, 11), (4, 3), 1),
    "even and larger than the image": ((3, 5), (7, 10), (4, 2), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_neighborhood_attention(case):
    size, output, window, heads = CASES[case]
    x, queries, keys = normal(0, *size, 4), normal(1, *output, 8), normal(2, *size, 8)

    def ours(x, queries, keys):
        return up.neighborhood_attention(x, queries, keys, kernel_size=window, heads=heads)

    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, queries, keys)]
    expected = naf(*leaves, window, heads)
    cotangent = normal(3, *expected.shape)

    @jax.jit
    def pulled(cotangent, *arrays):
        y, pull = jax.vjp(ours, *arrays)
        return y, pull(cotangent)

    y, gradients = pulled(cotangent, x, queries, keys)
    np.testing.assert_allclose(y, expected.detach(), rtol=0, atol=1e-6)
    theirs = torch.autograd.grad(expected, leaves, torch.tensor(cotangent, dtype=torch.float64))
    for a, b in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1, float(b.abs().max())))


def in_share(n, m, share):
    """Which of n pixels AnyUp's window shows to each of m: arXiv:2510.12764, as the authors round it."""
    center = (torch.arange(m, dtype=torch.float32) + 0.5) / m
    first = ((center - share).clamp(0.0, 1.0) * n).floor()
    end = ((center + share).clamp(0.0, 1.0) * n).ceil()
    pixel = torch.arange(n)
    return (pixel >= first[:, None]) & (pixel < end[:, None])


def dense(x, queries, keys, mask, heads, average):
    """Attention of all pixels to all that the mask, (output pixels, pixels), shows them."""
    split = lambda a: a.reshape(-1, heads, a.shape[-1] // heads)  # noqa: E731
    logits = torch.einsum("phd,qhd->hpq", split(queries), split(keys)) / (queries.shape[-1] / heads) ** 0.5
    weights = logits.masked_fill(~mask, -torch.inf).softmax(-1)
    y = weights.mean(0) @ x.reshape(-1, x.shape[-1]) if average else torch.einsum("hpq,qhc->phc", weights, split(x))
    return y.reshape(*queries.shape[:2], -1)


WIDE = {
    "all": ((3, 5), (7, 4), {"kernel_size": None, "heads": 2}),
    "all, averaged": ((4, 3), (9, 10), {"kernel_size": None, "heads": 4, "average_heads": True}),
    "share": ((6, 7), (13, 21), {"share": 0.15, "heads": 2, "average_heads": True}),
    "share, heads apart": ((7, 5), (3, 10), {"share": 0.3, "heads": 2}),
    "share of less than a pixel": ((2, 1), (5, 3), {"share": 0.01, "heads": 1}),
}


@pytest.mark.parametrize("case", WIDE)
def test_all_pixels_and_a_share_of_the_image(case):
    size, output, options = WIDE[case]
    average = options.get("average_heads", False)
    x, queries, keys = normal(0, *size, 3 if average else 4), normal(1, *output, 8), normal(2, *size, 8)
    axes = zip(size, output, strict=True)
    rows, columns = (in_share(n, m, options.get("share", 1.0)) for n, m in axes)
    mask = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(np.prod(output), np.prod(size))
    leaves = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, queries, keys)]
    expected = dense(*leaves, mask, options["heads"], average)
    cotangent = normal(3, *expected.shape)
    y, pull = jax.vjp(lambda *arrays: up.neighborhood_attention(*arrays, **options), x, queries, keys)
    np.testing.assert_allclose(y, expected.detach(), atol=1e-5)
    theirs = torch.autograd.grad(expected, leaves, torch.tensor(cotangent, dtype=torch.float64))
    for a, b in zip(jax.jit(pull)(cotangent), theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_share_is_rounded_as_the_authors_round_it():
    for n, m in ((37, 518), (16, 224), (10, 40), (5, 64), (1, 7), (30, 30), (14, 9)):
        for share in (0.1, 0.25, 0.05):
            centers, counts = attention.windows_of_share(n, m, share)
            table = np.zeros((m, n), bool)
            row, column = np.nonzero(counts)
            table[row, centers[row] + column - counts.shape[1] // 2] = True
            np.testing.assert_array_equal(table, in_share(n, m, share))


TILED = {
    "all": ((5, 4), (7, 6), 1, {"kernel_size": None, "rotary_base": 7.0}),
    "all, averaged": ((5, 4), (7, 6), 1, {"kernel_size": None, "average_heads": True}),
    "windows": ((6, 7), (20, 29), 1, {"kernel_size": (4, 3), "rotary_base": 7.0}),
    "windows, averaged": ((6, 7), (12, 28), 1, {"kernel_size": 3, "average_heads": True}),
    "share": ((9, 6), (31, 17), 1, {"share": 0.1, "average_heads": True}),
    "windows, in parts": ((8, 7), (24, 29), 8, {"kernel_size": (4, 3), "rotary_base": 7.0}),
    "share, in parts": ((8, 6), (24, 17), 8, {"share": 0.2, "average_heads": True}),
}


@pytest.mark.parametrize("case", TILED)
def test_tiles_are_what_is_computed_at_once(case, monkeypatch):
    """Values, and gradients in which the tiles' weights are computed anew; and queries that are turned tile by tile.

    In parts as in programs for three devices, which share two images.
    """
    size, output, parts, options = TILED[case]
    x, queries, keys = normal(0, 2, *size, 4), normal(1, 2, *output, 8), normal(2, 2, *size, 8)
    cotangent, turn = normal(3, 2, *output, 4), options.get("rotary_base")

    def pulled(base):
        # Not `up.neighborhood_attention`, whose program is kept for these shapes.
        window, share = options.get("kernel_size"), options.get("share")
        window = (window, window) if isinstance(window, int) else window
        average = options.get("average_heads", False)
        options_of_core = (window, share, 2, average, base)

        def core(x, queries, keys):
            if turn is not None and base is None:
                queries = attention.rotary_embedding(queries, heads=2, base=turn)
            return attention._neighborhood_attention.__wrapped__(x, queries, keys, *options_of_core)

        y, pull = jax.vjp(core, x, queries, keys)
        return y, *pull(cotangent)

    expected = jax.jit(lambda: pulled(None))()
    monkeypatch.setattr(_common, "MOST_BYTES", 0)
    monkeypatch.setattr(_common, "TILE_BYTES", 5000 if parts == 1 else 300_000)
    found, tiles_of = [1], _common.Tiles.of
    monkeypatch.setattr(_common.Tiles, "of", lambda *a: found.append((t := tiles_of(*a)).parts) or t)
    if parts > 1:
        monkeypatch.setattr(_common, "_devices", lambda _: 3)
    tiled = jax.jit(lambda: pulled(turn))  # another function, or else it would be the program above
    assert "scan" in str(tiled.trace().jaxpr)
    assert parts in found
    for a, b in zip(tiled(), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_window_moves_inward_at_edges():
    centers, counts = attention.neighbor_windows(5, 10, 3)
    assert centers.tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    assert (counts == 1).all()
    # Thirteen pixels of five: every second of the enlarged map, where some of the five come twice.
    centers, counts = attention.neighbor_windows(5, 13, 3)
    assert (counts.sum(1) == 3).all()
    assert set(np.unique(counts)) == {0, 1, 2}


def test_keys_are_the_means_of_queries():
    x, queries = normal(0, 3, 4, 2), normal(1, 7, 9, 4)
    keys = np.moveaxis(F.adaptive_avg_pool2d(torch.tensor(queries).permute(2, 0, 1), (3, 4)).numpy(), 0, -1)
    y = up.neighborhood_attention(x, queries, kernel_size=3, heads=1)
    np.testing.assert_allclose(y, up.neighborhood_attention(x, queries, keys, kernel_size=3, heads=1), atol=1e-5)


def test_one_window_over_everything_is_attention():
    x, queries, keys = normal(0, 3, 3, 4), normal(1, 6, 9, 8), normal(2, 3, 3, 8)
    flat = lambda a: jnp.asarray(a).reshape(1, -1, 2, a.shape[-1] // 2)  # noqa: E731
    expected = jax.nn.dot_product_attention(flat(queries), flat(keys), jnp.pad(flat(x), [(0, 0)] * 3 + [(0, 2)]))
    y = up.neighborhood_attention(x, queries, keys, kernel_size=3, heads=2)
    np.testing.assert_allclose(y, expected[..., :2].reshape(6, 9, 4), atol=1e-5)


def test_rotation():
    x = normal(0, 2, 5, 6, 16)
    y = attention.rotary_embedding(jnp.asarray(x), heads=2, base=100.0)
    # Complex numbers make the formula one line: channels c and c + 4 of a head of 8.
    periods = 100.0 ** (np.arange(2) / 2)
    rows, columns = ((np.arange(n) + 0.5) / n * 2 - 1 for n in (5, 6))
    angles = np.concatenate(
        np.broadcast_arrays((2 * np.pi * rows[:, None] / periods)[:, None], 2 * np.pi * columns[:, None] / periods), -1
    )
    heads = x.reshape(2, 5, 6, 2, 2, 4)
    turned = (heads[..., 0, :] + 1j * heads[..., 1, :]) * np.exp(1j * angles)[:, :, None]
    np.testing.assert_allclose(y, np.stack([turned.real, turned.imag], -2).reshape(x.shape), atol=1e-5)


def test_batches_and_transforms():
    x, queries = jnp.asarray(normal(0, 2, 3, 3, 4, 4)), jnp.asarray(normal(1, 2, 3, 6, 12, 8))

    def function(x, queries):
        return up.neighborhood_attention(x, queries, kernel_size=3, heads=2)

    y = function(x, queries)
    chex.assert_shape(y, (2, 3, 6, 12, 4))
    np.testing.assert_allclose(function(x[1, 2], queries[1, 2]), y[1, 2], atol=1e-5)
    dx, dq, dy = (jnp.asarray(normal(n, *a.shape)) for n, a in ((2, x), (3, queries), (4, y)))

    @jax.jit  # one program, which shares what they have in common
    def transformed(x, queries, dx, dq, dy):
        same, forward = jax.jvp(function, (x, queries), (dx, dq))
        return same, jax.vmap(function, 1, 1)(x, queries), forward, jax.vjp(function, x, queries)[1](dy)

    same, mapped, forward, backward = transformed(x, queries, dx, dq, dy)
    np.testing.assert_allclose(mapped, y, atol=1e-5)
    np.testing.assert_allclose(same, y, atol=1e-5)
    np.testing.assert_allclose((dx * backward[0]).sum() + (dq * backward[1]).sum(), (forward * dy).sum(), rtol=1e-3)


def test_dtypes():
    x, queries = normal(0, 3, 4, 4), normal(1, 6, 12, 8)
    with jax.enable_x64(True):
        exact = up.neighborhood_attention(x.astype(np.float64), queries.astype(np.float64), kernel_size=3, heads=2)
        assert exact.dtype == jnp.float64
        np.testing.assert_allclose(up.neighborhood_attention(x, queries, kernel_size=3, heads=2), exact, atol=1e-5)
    for dtype in (jnp.bfloat16, jnp.float16):
        y = up.neighborhood_attention(jnp.asarray(x, dtype), jnp.asarray(queries), kernel_size=3, heads=2)
        assert y.dtype == dtype
        error = jnp.abs(y.astype(jnp.float32) - exact.astype(np.float32)).max()
        assert error < 2 * float(jnp.finfo(dtype).eps) * float(np.abs(exact).max())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, q: up.neighborhood_attention(x[0, 0], q), "neighborhood_attention: x must be .*got shape"),
        (lambda x, q: up.neighborhood_attention(x[0], q), "queries must have the batch axes of x"),
        (lambda x, q: up.neighborhood_attention(q, x), "at least its height and width; got shape"),
        (lambda x, q: up.neighborhood_attention(x, q, kernel_size=(3, 0)), "kernel_size must be at least 1; got 0"),
        (lambda x, q: up.neighborhood_attention(x, q, share=0.0), "share must be finite and above 0; got 0.0"),
        (
            lambda x, q: up.neighborhood_attention(x, q, heads=3, average_heads=True),
            "heads=3 must divide query_channels=8",
        ),
        (lambda x, q: up.neighborhood_attention(x, q, heads=3), "heads=3 must divide channels=4 and query_channels=8"),
        (
            lambda x, q: up.neighborhood_attention(x, q, q),
            r"keys must have shape \(2, 4, 4, 8\), the size of x and the channels of queries",
        ),
        (
            lambda x, q: attention.rotary_embedding(x, heads=2),
            r"rotary_embedding: x must have a multiple of 4 \* heads=8 channels",
        ),
    ],
)
def test_errors_explain(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((2, 4, 4, 4)), jnp.ones((2, 8, 8, 8)))
