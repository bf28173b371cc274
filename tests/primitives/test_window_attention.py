"""Attention's kernels for GPUs and TPUs: interpreted on a CPU against sums in NumPy, and what programs hold them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.interpreters import mlir
from jax.sharding import Mesh, PartitionSpec

import upsampling as up
from upsampling.attention import neighbor_windows
from upsampling.primitives import _common, window_attention, windows_on_tpu
from upsampling.primitives.window_attention import Form, attend, gradients_of
from upsampling.primitives.window_sum import Geometry, window_correlation, window_softmax, window_sum


def stated(x, queries, keys, cotangent, form):
    """Values and gradients of x, queries and keys in float64, one output pixel after another."""
    geometry = form.geometry
    if form.source == "normalized":
        mean, variance = queries.mean(-1, keepdims=True), queries.var(-1, keepdims=True)
        queries = np.append((queries - mean) / np.sqrt(variance + 1e-5), np.ones((*queries.shape[:-1], 1)), -1)
    split = lambda a: a.reshape(*a.shape[:-1], geometry.groups, -1)  # noqa: E731
    x, queries, keys, cotangent = map(split, (x, queries, keys, cotangent))
    y, gradients = np.zeros_like(cotangent), [np.zeros_like(a) for a in (x, queries, keys)]
    centers = geometry.centers or [np.arange(n * s) // s for n, s in zip(geometry.size, geometry.scale, strict=True)]
    for image, *place, group in np.ndindex(*y.shape[:-1]):
        own, logits, seen = (image, *place, group), [], []
        for tap in itertools.product(*map(range, geometry.window)):
            pixel = [c[p] + t - k // 2 for c, p, t, k in zip(centers, place, tap, geometry.window, strict=True)]
            inside = all(0 <= q < n for q, n in zip(pixel, geometry.size, strict=True))
            seen.append((image, *pixel, group) if inside else None)
            key = keys[seen[-1]] if inside else np.zeros(keys.shape[-1])
            added = sum(table[p][t] for table, p, t in zip(form.tables, place, tap, strict=False))
            product = (
                form.factor * queries[own] @ key if form.most is None else -0.5 * ((queries[own] - key) ** 2).sum()
            )
            logits.append(product + added)
        weights = np.exp(np.array(logits) - max(logits))
        weights /= weights.sum()
        values = np.stack([np.zeros(x.shape[-1]) if at is None else x[at] for at in seen])
        y[own] = weights @ values
        slopes = weights * (values @ cotangent[own] - y[own] @ cotangent[own])
        for at, weight, slope in zip(seen, weights, slopes, strict=True):
            key = np.zeros(keys.shape[-1]) if at is None else keys[at]
            apart = (
                (form.factor * key, form.factor * queries[own])
                if form.most is None
                else (key - queries[own], queries[own] - key)
            )
            gradients[1][own] += slope * apart[0]
            if at is not None:
                gradients[0][at] += weight * cotangent[own]
                gradients[2][at] += slope * apart[1]
    if form.source == "normalized":
        slopes, normal = gradients[1][..., 0, :-1], queries[..., 0, :-1]
        slopes = slopes - slopes.mean(-1, keepdims=True) - normal * (slopes * normal).mean(-1, keepdims=True)
        gradients[1] = (slopes / np.sqrt(variance + 1e-5))[..., None, :]
    return [a.reshape(*a.shape[:-2], -1) for a in (y, *gradients)]


def uneven(size, output, window, groups):
    centers = [np.arange(m) * n // m for n, m in zip(size, output, strict=True)]
    return Form(Geometry.around(size, centers, window, groups))


def moved_inward(size, output, window, groups, most=None):
    """NAF's windows: some pixels are seen twice, others never."""
    centers, counts = zip(*(neighbor_windows(*axis) for axis in zip(size, output, window, strict=True)), strict=True)
    with np.errstate(divide="ignore"):
        tables = tuple(tuple(map(tuple, np.log(count).tolist())) for count in counts)
    factor = 1.0 if most else 0.5
    return Form(Geometry.around(size, centers, tuple(c.shape[1] for c in counts), groups), tables, most, factor=factor)


CASES = {
    "odd sizes": (uneven((3, 5), (6, 10), (3, 3), 1), 3, 5, jnp.float32),
    "no whole factor, groups": (uneven((3, 4), (4, 9), (1, 5), 2), 6, 2, jnp.float32),
    "windows that move inward": (moved_inward((4, 3), (8, 7), (3, 2), 2), 2, 4, jnp.float32),
    "distances": (moved_inward((4, 3), (8, 7), (3, 2), 1, 1e30), 3, 2, jnp.float32),
    "normalized": (uneven((3, 2), (4, 5), (3, 3), 1)._replace(source="normalized"), 2, 5, jnp.float32),
    "one axis, bfloat16": (uneven((5,), (70,), (3,), 1), 2, 1, jnp.bfloat16),
    "one pixel, float16": (uneven((1, 1), (2, 2), (5, 5), 1), 1, 1, jnp.float16),
}


def check(form, channels, shapes, dtype, state, kernels=window_attention, roundings=1):
    """Interprets the kernels of `x`, arrays of these shapes and a cotangent; `state` says what they should compute.

    `roundings` says how many there are to half precision on the way.
    """
    attend, gradients_of = kernels.attend, kernels.gradients_of
    size, output = form.geometry.size, form.geometry.output
    shapes = ((2, *size, channels), *shapes, (2, *output, channels))
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(2 * rng.normal(size=shape), dtype) for shape in shapes]

    @jax.jit
    def interpreted(*arrays):
        y = attend(*arrays[:-1], form=form, dtype=jnp.float32, interpret=True)
        return [*y, *gradients_of(*arrays, form=form, interpret=True)]

    made = interpreted(*arrays)
    assert [a.dtype for a in made] == [jnp.float32, *[dtype] * form.arrays]
    for own, expected in zip(made, state(*(np.asarray(a, np.float64) for a in arrays), form), strict=True):
        largest = np.abs(expected).max()
        tolerance = 1e-6 if own.dtype == jnp.float32 else roundings * float(jnp.finfo(dtype).eps) / 2
        np.testing.assert_allclose(np.asarray(own, np.float64), expected, atol=tolerance * largest, rtol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_sums_over_windows_and_their_gradients(case):
    form, channels, inner, dtype = CASES[case]
    more = form.source == "normalized"
    check(form, channels, ((2, *form.geometry.output, inner), (2, *form.geometry.size, inner + more)), dtype, stated)


# By name: the form, channels of `x` and of queries, the dtype, and what of the kernels' sizes is small.
ON_A_TPU = {
    "windows that move inward": (moved_inward((4, 3), (8, 7), (3, 2), 2), 2, 4, jnp.float32, {}),
    "no whole factor": (uneven((3, 4), (4, 5), (3, 3), 1), 3, 2, jnp.float32, {"_WRITTEN_OUT": 0}),
    "distances, blocks of rows": (
        moved_inward((4, 3), (9, 7), (3, 3), 1, 1e30),
        3,
        2,
        jnp.float32,
        {"_BLOCK_BYTES": 1},
    ),
    "normalized, in loops": (
        uneven((3, 2), (5, 5), (3, 5), 1)._replace(source="normalized"),
        3,
        40,
        jnp.bfloat16,
        {"_HELD": 4, "_WRITTEN_OUT": 0},
    ),
    "blocks of columns": (uneven((2, 90), (4, 270), (3, 3), 1), 9, 5, jnp.float32, {"_WRITTEN_OUT": 0}),
    "blocks of columns that are no vector": (
        uneven((3, 130), (3, 130), (1, 5), 1),
        2,
        1,
        jnp.bfloat16,
        {"_BLOCK_BYTES": 1},
    ),
}


@pytest.mark.parametrize("case", ON_A_TPU)
def test_kernels_for_a_tpu_compute_the_same(case, monkeypatch):
    form, channels, inner, dtype, sizes = ON_A_TPU[case]
    for name, value in sizes.items():
        monkeypatch.setattr(windows_on_tpu, name, value)
    shapes = ((2, *form.geometry.output, inner), (2, *form.geometry.size, inner + (form.source == "normalized")))
    check(form, channels, shapes, dtype, stated, windows_on_tpu)


def stated_of_given(x, logits, *others):
    """The same of logits that are given: values, and gradients of all arrays."""
    *others, cotangent, form = others
    geometry, gradients = form.geometry, [np.zeros_like(a) for a in (x, logits, *others)]
    y, by_x, by_logits = np.zeros_like(cotangent), *(np.zeros_like(a) for a in (x, logits))
    taps, own = list(itertools.product(*map(range, geometry.window))), x.shape[-1] // geometry.groups
    for image, *place, group in np.ndindex(*y.shape[:-1], geometry.groups):
        center = [c[p] for c, p in zip(geometry.central, place, strict=True)]
        phase = [p % s for p, s in zip(place, geometry.scale, strict=False)]
        channels = slice(group * own, (group + 1) * own)
        at = (image, *place)
        if form.source == "blocks":
            counts = (geometry.groups, *geometry.window, *geometry.scale)
            at = (image, *center, [np.ravel_multi_index((group, *tap, *phase), counts) for tap in taps])
        low = (image, *center)
        summed = logits[at] + (others[0][low] if others else 0)
        weights = np.exp(summed - summed.max())
        weights /= weights.sum()
        pixels = [[c + t - k // 2 for c, t, k in zip(center, tap, geometry.window, strict=True)] for tap in taps]
        inside = [all(0 <= q < n for q, n in zip(pixel, geometry.size, strict=True)) for pixel in pixels]
        values = np.stack(
            [x[(image, *q, channels)] if i else np.zeros(own) for q, i in zip(pixels, inside, strict=True)]
        )
        own_y, own_c = weights @ values, cotangent[(image, *place, channels)]
        left = 1.0
        if form.source == "gated":
            share, guide = 1 / (1 + np.exp(-others[1][low])), others[2][(image, *place)]
            gradients[3][low] += (guide - own_y) @ own_c * share * (1 - share)
            gradients[4][(image, *place)] = share * own_c
            own_y, left = share * guide + (1 - share) * own_y, 1 - share
        y[(image, *place, channels)] = own_y
        slopes = left * weights * (values @ own_c - weights @ values @ own_c)
        by_logits[at] += slopes
        if others:
            gradients[2][low] += slopes
        for pixel, weight, i in zip(pixels, weights, inside, strict=True):
            if i:
                by_x[(image, *pixel, channels)] += left * weight * own_c
    return [y, by_x, by_logits, *gradients[2:]]


def given(source, size, scale, window, groups=1):
    return Form(Geometry(size, scale, (), window, (1,) * len(size), groups), source=source)


GIVEN = {
    "blocks in groups": (given("blocks", (3, 5), (2, 3), (3, 5), 2), 4, jnp.float32),
    "blocks along one axis, float16": (given("blocks", (33,), (3,), (5,)), 3, jnp.float16),
    "of two sizes, no whole factor": (uneven((3, 4), (4, 9), (1, 5), 1)._replace(source="sizes"), 3, jnp.float32),
    "gated": (given("gated", (3, 5), (2, 2), (3, 3)), 5, jnp.float32),
    "gated, one pixel, bfloat16": (uneven((1, 1), (2, 3), (5, 5), 1)._replace(source="gated"), 1, jnp.bfloat16),
}


@pytest.mark.parametrize(
    ("kernels", "case"),
    [
        *((window_attention, case) for case in GIVEN),
        *((windows_on_tpu, case) for case in ("blocks in groups", "gated", "gated, one pixel, bfloat16")),
    ],
)
def test_kernels_take_logits_that_are_given(kernels, case):
    form, channels, dtype = GIVEN[case]
    geometry = form.geometry
    size, output, taps = (2, *geometry.size), (2, *geometry.output), np.prod(geometry.window)
    shapes = ((*output, taps), (*size, taps), (*size, 1), (*output, channels))[: form.arrays - 1]
    if form.source == "blocks":
        shapes = ((*size, geometry.groups * taps * np.prod(geometry.scale)),)
    # On a TPU the cotangent, less the share of the guide, is as wide as the maps are.
    roundings = 2 if kernels is windows_on_tpu and form.source == "gated" else 1
    check(form, channels, shapes, dtype, stated_of_given, kernels, roundings)


def stated_of_weights(x, w, cotangent, form):
    """A window sum with weights that are given, and the gradients of `x` and weights."""
    geometry, (y, by_x, by_w) = form.geometry, (np.zeros_like(a) for a in (cotangent, x, w))
    taps, own = list(itertools.product(*map(range, geometry.window))), x.shape[-1] // geometry.groups
    for image, *place, group in np.ndindex(*y.shape[:-1], geometry.groups):
        channels, at = slice(group * own, (group + 1) * own), (image, *place)
        for number, tap in enumerate(taps, start=group * len(taps)):
            steps = zip(geometry.central, place, tap, geometry.dilation, geometry.reach, strict=True)
            pixel = [c[p] + t * d - r for c, p, t, d, r in steps]
            if all(0 <= q < n for q, n in zip(pixel, geometry.size, strict=True)):
                seen = (image, *pixel, channels)
                y[(*at, channels)] += w[(*at, number)] * x[seen]
                by_x[seen] += w[(*at, number)] * cotangent[(*at, channels)]
                by_w[(*at, number)] = x[seen] @ cotangent[(*at, channels)]
    return y, by_x, by_w


WEIGHTED = {
    "groups, dilated": (
        Geometry((3, 5), (2, 1), (), (3, 5), (2, 1), 2),
        6,
        jnp.float32,
    ),
    "no whole factor": (uneven((3, 4), (4, 9), (1, 5), 1).geometry, 3, jnp.float32),
    "smaller, bfloat16": (uneven((5, 4), (2, 3), (3, 3), 1).geometry, 5, jnp.bfloat16),
    "one axis, float16": (Geometry((33,), (3,), (), (5,), (3,), 1), 2, jnp.float16),
}


@pytest.mark.parametrize("case", WEIGHTED)
def test_kernels_take_weights_that_are_given(case):
    geometry, channels, dtype = WEIGHTED[case]
    weights = (2, *geometry.output, geometry.groups * np.prod(geometry.window))
    check(Form(geometry, source="weights"), channels, (weights,), dtype, stated_of_weights)


@pytest.mark.parametrize("kernels", [window_attention, windows_on_tpu])
def test_distances_are_bounded_as_elsewhere(kernels):
    form = moved_inward((2, 2), (4, 4), (3, 3), 1, 100.0)
    key = jnp.asarray([0.0, 50.0, 100.0, 1e20]).reshape(1, 2, 2, 1)
    x, query = jnp.arange(4.0).reshape(1, 2, 2, 1), jnp.full((1, 4, 4, 1), 0.5)
    arrays = (x, query, key)
    (y,) = kernels.attend(*arrays, form=form, dtype=jnp.float32, interpret=True)
    by_x, by_query, by_key = kernels.gradients_of(*arrays, jnp.ones_like(y), form=form, interpret=True)
    weights = np.exp([-0.125, -50, -50, -50])
    weights /= weights.sum()
    np.testing.assert_allclose(y, weights @ np.arange(4), rtol=1e-6)
    np.testing.assert_allclose(by_x[0, ..., 0].reshape(-1), 16 * weights, rtol=1e-6)
    # Only the nearest is near enough to have a slope.
    assert by_key[0, 1, 1, 0] == by_key[0, 0, 1, 0] == 0
    assert np.isfinite(by_query).all()


# --- in programs ------------------------------------------------------------------------------------------------------


def arrays_of(batch=(2,), dtype=jnp.float32):
    rng = np.random.default_rng(1)
    shapes = ((3, 4, 2), (6, 8, 3), (3, 4, 3))
    return tuple(jnp.asarray(rng.normal(size=(*batch, *shape)), dtype) for shape in shapes)


sapa = functools.partial(up.sapa, kernel_size=3)


def total(*arrays):
    return jnp.sum(jnp.sin(sapa(*arrays)))


gradient = jax.grad(total, (0, 1, 2))


def compiled_anew(function):
    """JAX keeps the programs of a function, and does not know what has changed since."""
    return jax.jit(lambda *arrays: function(*arrays))


def total_of_fade(x, guide, guide_logits, map_logits, gate_logits):
    return jnp.sum(jnp.sin(up.fade(x, guide, guide_logits, map_logits, gate_logits, kernel_size=3)))


def total_of_weighted(x, weights):
    return jnp.sum(jnp.sin(up.reassemble(x, weights, scale=2)))


def arrays_of_fade(batch=()):
    rng = np.random.default_rng(2)
    shapes = ((3, 4, 2), (6, 8, 2), (6, 8, 9), (3, 4, 9), (3, 4, 1))
    return tuple(jnp.asarray(rng.normal(size=(*batch, *shape)), jnp.float32) for shape in shapes)


@pytest.fixture
def on_a_cpu():
    """Programs for a CPU hold the kernels too, interpreted. Yields which were taken."""
    taken = []

    def interpreted(kernels):
        def run(*arrays, form, dtype):
            taken.append(kernels)
            if not jax.typeof(arrays[0]).manual_axis_type.varying:
                return kernels(*arrays, form=form, dtype=dtype, interpret=True)

            # JAX does not interpret kernels of arrays that vary over devices: the same for each device's own.
            def pure(x, queries, keys):
                weights = window_softmax(window_correlation(keys, queries, form.geometry, "zero"), 2)
                return window_sum(x, weights, form.geometry, "zero")

            x, queries, keys, *cotangent = arrays
            y, pull_back = jax.vjp(pure, x, queries, keys)
            return pull_back(*cotangent) if cotangent else (y,)

        return run

    def lower(context, *operands, form, kernels):
        return window_attention.lower_on_gpu(context, *operands, form=form, kernels=kernels, run=interpreted(kernels))

    mlir.register_lowering(window_attention._instead_p, lower, platform="cpu")
    yield taken
    mlir.register_lowering(window_attention._instead_p, window_attention.lower_elsewhere, platform="cpu")


def test_kernels_take_the_place_of_the_sums_under_every_transformation(on_a_cpu, monkeypatch):
    single, several = arrays_of(()), arrays_of((2,))
    mesh = Mesh(np.array(jax.devices()[:1]), ("devices",))
    shared = functools.partial(jax.shard_map, mesh=mesh, out_specs=PartitionSpec())
    some = (PartitionSpec(), PartitionSpec("devices"), PartitionSpec())
    programs = {
        "gradient": (gradient, single, {attend, gradients_of}),
        "vmap of gradient": (jax.vmap(gradient), several, {attend, gradients_of}),
        "gradient of vmap": (
            jax.grad(lambda *arrays: jax.vmap(total, (0, 0, None))(*arrays).sum(), (0, 1, 2)),
            (*several[:2], single[2]),
            {attend, gradients_of},
        ),
        "gradient of vmap, gated": (
            jax.grad(lambda *arrays: jax.vmap(total_of_fade, (0, 0, 0, None, 0))(*arrays).sum(), (0, 1, 2, 3, 4)),
            (*arrays_of_fade((2,))[:3], arrays_of_fade()[3], arrays_of_fade((2,))[4]),
            {attend, gradients_of},
        ),
        "gradient of vmap, weights": (
            jax.grad(lambda *arrays: jax.vmap(total_of_weighted, (0, None))(*arrays).sum(), (0, 1)),
            (several[0], jnp.sin(jnp.arange(432.0)).reshape(6, 8, 1, 3, 3)),
            {attend, gradients_of},
        ),
        "of one argument": (jax.grad(total, 1), single, {attend, gradients_of}),
        "shard_map": (
            shared(lambda *arrays: jax.lax.psum(sapa(*arrays), "devices"), in_specs=some),
            several,
            {attend},
        ),
        "gradient of shard_map": (
            jax.grad(lambda *a: shared(lambda *b: jax.lax.psum(total(*b), "devices"), in_specs=some)(*a), (0, 1, 2)),
            several,
            {attend, gradients_of},
        ),
        "tangent": (lambda *arrays: jax.jvp(total, arrays, arrays), single, {attend}),
        "gradient of gradients": (
            jax.grad(lambda *arrays: sum(jnp.sum(g**2) for g in gradient(*arrays)), (0, 2)),
            single,
            {attend, gradients_of},
        ),
    }
    made = {}
    for name, (program, arrays, wanted) in programs.items():
        on_a_cpu.clear()
        made[name] = compiled_anew(program)(*arrays)
        assert set(on_a_cpu) == wanted, name
    monkeypatch.setenv(_common.SWITCH, "0")
    on_a_cpu.clear()
    for name, (program, arrays, _) in programs.items():
        expected = compiled_anew(program)(*arrays)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6, err_msg=name), made[name], expected
        )
    assert not on_a_cpu


def kernels_in(function, *arrays, platform="cuda"):
    return jax.jit(function).trace(*arrays).lower(lowering_platforms=(platform,)).as_text().count("xla.gpu.triton")


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="this JAX lowers Pallas only with a GPU at hand")
def test_programs_for_a_gpu_hold_one_kernel_and_two_for_the_gradient(monkeypatch):
    arrays, guide = arrays_of(), jnp.ones((2, 6, 8, 3))
    assert kernels_in(sapa, *arrays) == 1
    assert kernels_in(gradient, *arrays) == 1 + 2
    neighbors = functools.partial(up.neighborhood_attention, heads=1, kernel_size=3)
    assert kernels_in(neighbors, *arrays) == 1
    monkeypatch.setattr(_common, "MOST_BYTES", 1000)
    assert kernels_in(neighbors, *arrays_of((1,))) == 1  # in place of tiles
    assert kernels_in(up.joint_bilateral, arrays[0], guide) == 1
    assert kernels_in(jax.grad(total_of_weighted, (0, 1)), arrays[0], jnp.ones((2, 6, 8, 2, 3, 3))) == 1 + 1
    assert kernels_in(functools.partial(up.reassemble, edge="reflect"), guide, jnp.ones((2, 12, 16, 1, 3, 3))) == 0
    assert kernels_in(jax.grad(total_of_fade, (0, 1, 2, 3, 4)), *arrays_of_fade((2, 1))) == 1 + 2
    layer = up.nn.SAPA(2, guide_features=3, kernel_size=3, rngs=nnx.Rngs(0))
    assert kernels_in(jax.grad(lambda *maps: jnp.sum(jnp.sin(layer(*maps))), (0, 1)), arrays[0], guide) == 1 + 2
    assert kernels_in(functools.partial(up.carafe, kernel_size=3), arrays[0], jnp.ones((2, 3, 4, 36))) == 1
    assert kernels_in(sapa, *arrays_of(dtype=jnp.bfloat16)) == 1
    assert kernels_in(sapa, *arrays, platform="cpu") == 0
    assert kernels_in(sapa, *arrays_of((0,))) == 0
    exported = jax.export.export(jax.jit(sapa), platforms=("cpu", "cuda"))(*arrays)
    assert "triton" not in str(exported.mlir_module())
    monkeypatch.setenv(_common.SWITCH, "0")
    assert kernels_in(lambda *arrays: sapa(*arrays), *arrays) == 0


def test_a_jax_without_the_back_end_does_without(monkeypatch):
    monkeypatch.setattr(_common, "_has_triton", lambda: False)
    assert kernels_in(lambda *arrays: sapa(*arrays), *arrays_of()) == 0


def test_programs_for_a_tpu_hold_one_kernel_and_one_for_the_gradient(monkeypatch):
    def kernels(function, *arrays):
        lowered = jax.jit(function).trace(*arrays).lower(lowering_platforms=("tpu",))
        return lowered.as_text().count('kernel_name = "window_attention')  # and sums in whose place they are

    arrays, guide = arrays_of((2,)), jnp.ones((2, 6, 8, 3))
    assert kernels(sapa, *arrays) == 1
    assert kernels(jax.vmap(gradient), *arrays) == 1 + 1
    assert kernels(functools.partial(up.neighborhood_attention, heads=1, kernel_size=3), *arrays) == 1
    assert kernels(up.joint_bilateral, arrays[0], guide) == 1
    mesh, axis = Mesh(np.array(jax.devices()[:1]), ("devices",)), PartitionSpec("devices")
    assert kernels(jax.shard_map(gradient, mesh=mesh, in_specs=axis, out_specs=axis), *arrays) == 1 + 1
    with jax.enable_x64(True):
        assert kernels(lambda *arrays: gradient(*arrays), *arrays) == 1 + 1
    # Which have none: one axis, other dtypes, more than the chip holds; or none are wanted.
    assert kernels(up.reassemble, arrays[0], jnp.ones((2, 6, 8, 1, 3, 3))) == 0  # kernels of its own
    assert kernels(functools.partial(up.sapa, scale=(2,), kernel_size=(3,)), *(a[0, 0] for a in arrays)) == 0
    assert kernels(sapa, *(a.astype(jnp.float16) for a in arrays)) == 0
    large = [jax.ShapeDtypeStruct((1, n, n, channels), jnp.float32) for n, channels in ((64, 999), (128, 9), (64, 9))]
    assert kernels(sapa, *large) == 0
    monkeypatch.setenv(_common.SWITCH_ON_TPU, "0")
    assert kernels(lambda *arrays: sapa(*arrays), *arrays) == 0
