"""All forms, run on a CPU, against loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from upsampling.primitives import _common, window_sum, windows_on_tpu
from upsampling.primitives.window_sum import Geometry


def by_loops(g, x, w, y):
    """Window sum, correlation and fold in float64, output pixel by output pixel."""
    x, w, y = (np.asarray(a, np.float64) for a in (x, w, y))
    channels = x.shape[-1] // g.groups
    w, sums = w.reshape(*w.shape[: -len(g.window)], -1), np.zeros(y.shape)
    products, folded = np.zeros(w.shape), np.zeros(x.shape)
    for pixel in np.ndindex(*g.output):
        if g.uniform:
            centers = [p // s for p, s in zip(pixel, g.scale, strict=True)]
        else:
            centers = [c[p] for p, c in zip(pixel, g.centers, strict=True)]
        for number, tap in enumerate(np.ndindex(*g.window)):
            read = tuple(c + t * d for c, t, d in zip(centers, tap, g.dilation, strict=True))
            at, seen = (slice(None), *pixel), (slice(None), *read)
            for group in range(g.groups):
                own = slice(group * channels, (group + 1) * channels)
                weight = w[(*at, group, number)][:, None]
                sums[(*at, own)] += weight * x[(*seen, own)]
                products[(*at, group, number)] += (y[(*at, own)] * x[(*seen, own)]).sum(-1)
                folded[(*seen, own)] += weight * y[(*at, own)]
    return sums, products.reshape(*products.shape[:-1], *g.window), folded


def centered(n, m):
    return tuple((np.arange(m) * n // m).tolist())


GEOMETRIES = {
    "scale, dilation, groups": Geometry((3, 4), (2, 3), (), (3, 5), (1, 2), 2),
    "uneven centers": Geometry((3, 4), (), (centered(3, 5), centered(4, 7)), (3, 3), (1, 1), 1),
    "more uneven": Geometry((6, 3), (), (centered(6, 9), centered(3, 4)), (3, 3), (1, 1), 1),
    "windows that move inward": Geometry(
        (6, 4), (), ((1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4), (1, 1, 2, 2)), (3, 3), (2, 1), 2
    ),
    "one axis, uneven": Geometry((4,), (), (centered(4, 7),), (3,), (2,), 1),
    "one axis, wider than a tile": Geometry((70,), (2,), (), (3,), (1,), 1),
    "three axes": Geometry((2, 3, 3), (3, 1, 2), (), (1, 3, 3), (1, 1, 1), 1),
    "many taps": Geometry((2, 4), (1, 2), (), (5, 7), (1, 1), 1),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_forms(name, dtype, monkeypatch):
    for module, limit, n in (
        (window_sum, "UNROLLED_TAPS", 30),
        (window_sum, "_PHASES", 2),
        (_common, "MOST_BYTES", 0),
        (_common, "TILE_BYTES", 4000),
    ):
        monkeypatch.setattr(module, limit, n)
    g, rng = GEOMETRIES[name], np.random.default_rng(0)
    shapes = ((2, *g.padded, 4), (2, *g.output, g.groups, *g.window), (2, *g.output, 4))
    x, w, y = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)
    sums, products, folded = by_loops(g, x, w, y)
    maps = {"x": x, "w": w, "y": y}
    cores = {
        "window_sum_on_tpu": ("xw", sums),
        "_window_sum_on_gpu": ("xw", sums),
        "_window_sum_in_tiles": ("xw", sums),
        "window_correlation_on_tpu": ("xy", products),
        "_window_correlation_on_gpu": ("xy", products),
        "fold_on_tpu": ("wy", folded),
        "_fold_on_gpu": ("wy", folded),
        "_fold": ("wy", folded),
    }
    # In three groups of rows, where they are uneven and three divides them.
    kinds = {"window_sum": ("xw", sums), "window_correlation": ("xy", products), "fold": ("wy", folded)}
    on_several = {f"_{name}_on_{devices}": kind for name, kind in kinds.items() for devices in ("gpus", "tpus")}

    @jax.jit
    def computed(maps):
        made = {}
        for core, (taken, _) in {**cores, **on_several}.items():
            form = functools.partial(getattr(window_sum, core), **({"devices": 3} if core in on_several else {}))
            for most in (32, 4) if core.endswith("_on_tpu") else (32,):  # taps written out, and in a loop over columns
                monkeypatch.setattr(window_sum, "_TAPS_ON_TPU", most)
                made[f"{core} {most}"] = form(*(maps[name] for name in taken), geometry=g)
        return made

    # bfloat16 holds eight bits, and sums of up to 35 products are rounded once.
    tolerance = {"rtol": 2e-5, "atol": 2e-5} if dtype == jnp.float32 else {"rtol": 2**-8, "atol": 1e-4}
    for core, got in computed(maps).items():
        assert got.dtype == dtype
        want = {**cores, **on_several}[core.split()[0]][1]
        np.testing.assert_allclose(np.asarray(got, np.float64), want, **tolerance, err_msg=core)


@pytest.mark.parametrize("name", ["scale, dilation, groups", "uneven centers", "many taps"])
def test_distances(name, monkeypatch):
    """Row by row and all at once, against |x|^2 - 2 x y + |y|^2."""
    monkeypatch.setattr(window_sum, "_TAPS_ON_TPU", 8)
    g, rng = GEOMETRIES[name], np.random.default_rng(0)
    x, y = (rng.standard_normal((2, *size, 4)).astype(np.float32) for size in (g.padded, g.output))
    w = np.zeros((2, *g.output, g.groups, *g.window), np.float32)
    products = lambda a, b: by_loops(g, a, w, b)[1]  # noqa: E731
    want = products(x**2, np.ones_like(y)) - 2 * products(x, y) + products(np.ones_like(x), y**2)
    for form in (window_sum._distances, window_sum._distances_on_gpu, window_sum._distances_on_tpu):
        got = jax.jit(functools.partial(form, geometry=g))(x, y)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    # The gradients of the sum of the distances times w; w is what is wanted, and any would do.
    total = lambda x, y: (window_sum._distances_on_tpu(x, y, geometry=g) * want).sum()  # noqa: E731
    ones_of_x, _, folded_ones = by_loops(g, np.ones_like(x), want, np.ones_like(y))
    sums, _, folded = by_loops(g, x, want, y)
    right = 2 * (x * folded_ones - folded), 2 * (y * ones_of_x - sums)
    for own, expected in zip(jax.jit(jax.grad(total, (0, 1)))(x, y), right, strict=True):
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    if name == "many taps":
        rows = functools.partial(window_sum._window_correlation_by_rows, geometry=g, compute=window_sum._distances)
        np.testing.assert_allclose(jax.jit(rows)(x, y), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric"])
def test_padding_by_gathers_and_in_place(mode):
    """Against NumPy's padding, also of an image smaller than the margin, and each transpose by inner products."""
    reach, rng = (1, 4), np.random.default_rng(0)
    x, y = rng.standard_normal((2, 5, 3, 2)), rng.standard_normal((2, 7, 11, 2))
    want = np.pad(x, [(0, 0), (1, 1), (4, 4), (0, 0)], mode=mode)
    options = {"reach": reach, "mode": mode}
    for pad, add in (
        (window_sum._pad_edges, window_sum._add_edges),
        (window_sum._pad_edges_on_gpu, window_sum._add_edges_on_gpu),
        (
            window_sum._pad_edges_in_place,
            functools.partial(window_sum._add_edges, pad=window_sum._pad_edges_in_place, devices=2),
        ),
    ):
        small = jnp.asarray(x, jnp.float32)
        np.testing.assert_array_equal(pad(small, **options), want.astype(np.float32))
        np.testing.assert_allclose(np.vdot(add(jnp.asarray(y, jnp.float32), **options), x), np.vdot(y, want), rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "output", "window", "dilation", "groups", "dtype"),
    [
        ((3, 5), (6, 10), (3, 5), (1, 1), 1, jnp.float32),
        ((4, 7), (9, 7), (3, 3), (1, 2), 2, jnp.bfloat16),
        ((3, 90), (6, 270), (1, 3), (1, 1), 1, jnp.float32),
        ((9, 6), (18, 6), (3, 3), (3, 2), 1, jnp.float32),
    ],
)
def test_kernels_for_a_tpu_compute_the_three_sums(size, output, window, dilation, groups, dtype):
    centers = [np.arange(m) * n // m for n, m in zip(size, output, strict=True)]
    geometry = window_sum.Geometry.around(size, centers, window, groups)._replace(dilation=dilation)
    shapes = ((2, *geometry.padded, 6 * groups), (2, *output, groups, *window), (2, *output, 6 * groups))
    rng = np.random.default_rng(0)
    x, w, y = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    assert windows_on_tpu.takes_sums(geometry, x.shape[-1], dtype)
    for name, *arrays in (("window_sum", x, w), ("window_correlation", x, y), ("fold", w, y)):
        by_hand = functools.partial(getattr(windows_on_tpu, name), geometry=geometry, interpret=True)
        made, expected = jax.jit(by_hand)(*arrays), getattr(window_sum, f"_{name}")(*arrays, geometry=geometry)
        assert made.dtype == expected.dtype == dtype
        rounding = 5e-7 if dtype == jnp.float32 else float(jnp.finfo(dtype).eps) / 2
        made, expected = (np.asarray(a, np.float64) for a in (made, expected))
        np.testing.assert_allclose(made, expected, atol=rounding * np.abs(expected).max(), err_msg=name)
    if dtype == jnp.bfloat16:  # maps in half precision, but weights and products in float32
        weights = w.astype(jnp.float32) + 2**-12
        folded = functools.partial(windows_on_tpu.fold, geometry=geometry, interpret=True)
        products = functools.partial(windows_on_tpu.window_correlation, geometry=geometry, dtype=jnp.float32)
        x, y = (a.astype(jnp.float32) for a in (x, y))
        for made, expected in (
            (jax.jit(folded)(weights, y.astype(dtype)), window_sum._fold(weights, y, geometry=geometry)),
            (
                jax.jit(functools.partial(products, interpret=True))(x.astype(dtype), y.astype(dtype)),
                window_sum._window_correlation(x, y, geometry=geometry),
            ),
        ):
            assert made.dtype == jnp.float32
            np.testing.assert_allclose(made, expected, atol=5e-7 * np.abs(expected).max())
