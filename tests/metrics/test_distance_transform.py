import functools
import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from tests.compiling import planned_as_for_users
from tests.metrics.metric_maps import membranes
from upsampling import metrics
from upsampling.primitives._common import map_in_groups

# `metrics.distance_transform` is the function.
distance_transform_module = importlib.import_module("upsampling.metrics.distance_transform")

FUNCTIONS = [metrics.distance_transform, metrics.signed_distance_transform, metrics.nearest_background]


def scipy_distance(mask, spacing=None):
    """scipy's transform, with infinity where there is no background (scipy's own answer there is arbitrary)."""
    if np.all(mask):
        return np.full(mask.shape, np.inf)
    return ndimage.distance_transform_edt(mask, sampling=spacing)


def masks(shape, seed=0):
    """Blobs, thin lines, nearly empty and nearly full, empty, full, one pixel, and noise, all of one shape."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=shape)
    out = [ndimage.gaussian_filter(noise, s) > 0 for s in (1, 3)]
    out += [noise > 0, noise > -2.5, noise > 2.5, np.ones(shape, bool), np.zeros(shape, bool)]
    one = np.ones(shape, bool)
    one.flat[rng.integers(one.size)] = False
    line, corner = np.ones(shape, bool), np.ones(shape, bool)
    line[shape[0] // 3] = False
    corner.flat[-1] = False
    return np.stack([*out, one, ~one, line, ~line, corner])


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((37,), (0.3,)),
        ((40, 33), (1.0, 1.0)),
        ((40, 33), (0.5, 2.0)),
        ((1, 33), (1.0, 1.0)),
        ((40, 1), (1.0, 0.7)),
        ((1, 1), (1.0, 1.0)),
        ((9, 12, 14), (1.0, 1.0, 1.0)),
        ((9, 2, 14), (2.0, 0.5, 1.25)),
    ],
)
def test_against_scipy(shape, spacing):
    given = masks(shape)
    got = metrics.distance_transform(given, spacing)
    assert got.dtype == jnp.float32
    for mask, d in zip(given, got, strict=True):
        np.testing.assert_allclose(d, scipy_distance(mask, spacing), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("spacing", [(0.5, 2.0), (1.0, 1.0, 1.0)])
def test_signed_against_scipy(spacing):
    given = masks((9, 12, 14)[: len(spacing)])
    for mask, d in zip(given, metrics.signed_distance_transform(given, spacing), strict=True):
        expected = scipy_distance(mask, spacing) - scipy_distance(~mask, spacing)
        np.testing.assert_allclose(d, expected, atol=1e-5, rtol=1e-6)


def test_real_masks_against_scipy():
    given = membranes(3)
    got = metrics.distance_transform(given)
    for mask, d in zip(given, got, strict=True):
        np.testing.assert_allclose(d, scipy_distance(mask), atol=1e-4, rtol=0)


@pytest.mark.parametrize("sides", [(300, 200), (120, 700)])
def test_many_groups_of_rows(sides):
    """Larger than a group of rows, with seeds in few columns, in many, and far away."""
    given = np.ones((4, *sides), bool)
    given[0, :3, 5:9] = False
    given[1, :40, : sides[1] // 2] = np.random.default_rng(0).random((40, sides[1] // 2)) < 0.9
    given[2, ::97, ::89] = False
    given[3, -1, -1] = given[3, 0, 0] = given[3, 0, 31] = False
    for mask, d in zip(given, metrics.distance_transform(given), strict=True):
        np.testing.assert_allclose(d, scipy_distance(mask), atol=1e-4, rtol=0)


@pytest.mark.parametrize("spacing", [(1.0,), (0.5, 2.0), (1.0, 3.0, 0.4)])
def test_nearest_background_is_there_and_that_far(spacing):
    given = masks((9, 12, 8)[: len(spacing)], seed=3)
    index = np.asarray(metrics.nearest_background(given, spacing))
    for mask, at in zip(given, index, strict=True):
        if mask.all():
            assert (at == -1).all()
            continue
        assert not mask[tuple(np.moveaxis(at, -1, 0))].any()
        here = np.moveaxis(np.indices(mask.shape), 0, -1)
        far = np.sqrt((((at - here) * spacing) ** 2).sum(-1))
        np.testing.assert_allclose(far, scipy_distance(mask, spacing), atol=1e-5)


def test_other_axes():
    given = masks((9, 12))
    # The order of the axes is the order of the spacing, and of the index.
    got = np.asarray(metrics.distance_transform(np.moveaxis(given, 0, 1), (2.0, 0.5), axes=(2, 0)))
    for i, mask in enumerate(given):
        np.testing.assert_allclose(got[:, i], scipy_distance(mask, (0.5, 2.0)), rtol=1e-6)
    index = np.asarray(metrics.nearest_background(np.moveaxis(given, 0, -1), axes=(1, 0)))
    here = np.moveaxis(np.indices(index.shape[:-1]), 0, -1)[..., 1::-1]
    for i, mask in enumerate(given):
        far = np.sqrt(((index - here) ** 2).sum(-1))[..., i]
        np.testing.assert_allclose(far if not mask.all() else np.inf, scipy_distance(mask), rtol=1e-6)
    one = metrics.distance_transform(given[0], axes=-1)
    np.testing.assert_allclose(one[0], scipy_distance(given[0, 0]))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
class TestAll:
    def test_batches_jit_and_vmap(self, function):
        given = jnp.asarray(masks((13, 10)))
        whole = function(given.reshape(4, 3, 13, 10))
        chex.assert_trees_all_equal(whole, jax.jit(jax.vmap(jax.vmap(function)))(given.reshape(4, 3, 13, 10)))
        chex.assert_trees_all_equal(whole[1, 0], function(given[3]))
        chex.assert_trees_all_equal(whole[:0, 0], function(given[:0]))
        chex.assert_trees_all_equal(whole[0, :, :0], function(given[:3, :0]))

    def test_masks_may_be_integers_but_not_logits(self, function):
        mask = masks((13, 10))[0]
        for dtype in (np.uint8, np.int64, np.int8):
            chex.assert_trees_all_equal(function(mask), function(mask.astype(dtype) * 7))
        for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
            with pytest.raises(TypeError, match=rf"{function.__name__}: mask must be bool or integer; got"):
                function(jnp.asarray(mask, dtype))
            with pytest.raises(TypeError, match=rf"{function.__name__}: mask"):
                jax.jit(function)(jnp.asarray(mask, dtype))

    def test_arguments(self, function):
        mask = np.ones((4, 5), bool)
        name = function.__name__
        for spacing, error in [
            ((1.0, 0.0), ValueError),
            ((1.0, -1.0), ValueError),
            ((1.0, np.inf), ValueError),
            (1e16, ValueError),
            ((1.0, 1e-16), ValueError),
            ("ab", TypeError),
            ((1.0, True), TypeError),
        ]:
            with pytest.raises(error, match=rf"{name}: spacing"):
                function(mask, spacing)
        with pytest.raises(ValueError, match=rf"{name}: spacing must be finite and above 0; got 0.0"):
            function(mask, (1.0, 0.0))
        with pytest.raises(ValueError, match=rf"{name}: spacing must be one number or 2"):
            function(mask, (1.0, 1.0, 1.0), axes=(0, 1))
        with pytest.raises(TypeError, match=rf"{name}: spacing must be static"):
            jax.jit(lambda s: function(mask, (s, s)))(1.0)
        for axes in [(0, 2), (0, -2), (0, 0), (0, 1, 2), ()]:
            with pytest.raises(ValueError, match=rf"{name}: axes"):
                function(mask, axes=axes)
        with pytest.raises(ValueError, match=rf"{name}: axes"):
            function(mask[0])
        with pytest.raises(ValueError, match=rf"{name}: axes must name 1 to 3"):
            function(np.ones((2,) * 4, bool), axes=(0, 1, 2, 3))
        with pytest.raises(TypeError, match=rf"{name}: mask"):
            function(None)


def test_64_bits():
    with jax.enable_x64(True):
        got = metrics.distance_transform(masks((13, 10)), (0.3, 0.7))
        assert got.dtype == jnp.float64
        for mask, d in zip(masks((13, 10)), got, strict=True):
            np.testing.assert_allclose(d, scipy_distance(mask, (0.3, 0.7)), rtol=1e-13)


def test_differentiating_past_it():
    """The mask has no gradient, and what is weighted by its distances has theirs."""
    mask = jnp.asarray(masks((13, 10))[0])

    def weighted(x):
        return jnp.sum(x * metrics.distance_transform(mask) + x * metrics.distance_transform(x > 0))

    x = jax.random.normal(jax.random.key(0), mask.shape)
    expected = metrics.distance_transform(mask) + metrics.distance_transform(x > 0)
    chex.assert_trees_all_close(jax.jit(jax.grad(weighted))(x), expected)


def test_both_ways_along_a_line_agree():
    """What an accelerator runs is tested here too: every distance, with and without the index."""
    seeds = ~jnp.asarray(masks((19, 23)))
    far = jnp.iinfo(jnp.int16).max // 2
    steps = jnp.where(seeds, 0, far).astype(jnp.int16)
    here = jnp.broadcast_to(jnp.arange(19 * 23).reshape(19, 23), seeds.shape)

    def doubling(*state, reach=np.inf, multiples=1):
        line = distance_transform_module._line_by_doubling
        return jax.jit(functools.partial(line, axis=-2, reach=reach, multiples=multiples))(*state)

    by_rows = jax.jit(distance_transform_module._line_by_rows)
    (expected,) = by_rows(steps)
    chex.assert_trees_all_equal(doubling(steps)[0], expected)
    for line in (by_rows, doubling, functools.partial(doubling, multiples=3)):
        found, index = map(np.asarray, line(steps, here))
        np.testing.assert_array_equal(found, expected)
        away = np.abs(index // 23 - np.arange(19)[:, None])
        known = found < far
        assert known.any()
        np.testing.assert_array_equal(away[known], found[known])
    near, expected = np.asarray(doubling(steps, reach=3)[0]), np.asarray(expected)
    np.testing.assert_array_equal(near[expected <= 3], expected[expected <= 3])


@pytest.mark.parametrize("spacing", [1e12, 1e-12])
def test_any_unit(spacing):
    given = masks((13, 10))[0]
    got = metrics.distance_transform(given, spacing)
    np.testing.assert_allclose(got, scipy_distance(given) * spacing, rtol=1e-6)


def test_sides_too_long_for_16_bits():
    mask = np.ones((2, 40_000), bool)
    mask[0, 17] = False
    got = metrics.distance_transform(mask.T)
    np.testing.assert_allclose(got.T, scipy_distance(mask), rtol=1e-6)


def test_groups_of_rows_do_not_change_the_result():
    f = jnp.where(~jnp.asarray(masks((19, 23)))[0], 0.0, jnp.inf)
    rows = lambda *x: distance_transform_module._envelope_of_rows(*x, carried=1, last=22, spacing=1.0)  # noqa: E731
    grouped = jax.jit(functools.partial(map_in_groups, rows, 7))  # 19 rows: the last group is filled up
    chex.assert_trees_all_equal(grouped(f), jax.jit(rows)(f))


def test_all_pixels_of_rows_at_once():
    """What a GPU runs, along both axes of a batch."""
    f, spacing = jnp.where(~jnp.asarray(masks((19, 23))), 0.0, jnp.inf), 0.7
    for axis in (-2, -1):
        envelope = functools.partial(distance_transform_module._envelope_at_once, axis=axis, spacing=spacing)
        last = f.shape[axis] - 1
        rows = functools.partial(distance_transform_module._envelope_of_rows, carried=1, last=last, spacing=spacing)
        flat = jnp.moveaxis(f, axis, -1)
        (want,) = jax.jit(rows)(flat.reshape(-1, last + 1))
        (got,) = jax.jit(envelope)(f)
        np.testing.assert_allclose(np.moveaxis(got, axis, -1), want.reshape(flat.shape), rtol=1e-6)


@pytest.mark.parametrize(("spacing", "limit"), [(1.0, 0.5), (1.0, 2.5), (1.0, 9), (0.1, 0.3)])
def test_limited(spacing, limit):
    """A distance of three pixels of 0.1 is not above 0.3, though 0.3 / 0.1 < 3 in floating point."""
    given = masks((30, 41))
    whole = np.stack([scipy_distance(m, (spacing, spacing)) for m in given])
    of = functools.partial(distance_transform_module.squared_distance, spacing=(spacing, spacing), limit=limit)
    near = np.sqrt(jax.jit(of)(~given))
    within = whole <= limit * (1 + 1e-9)
    np.testing.assert_allclose(near[within], whole[within], rtol=1e-6)
    assert (near[~within] > limit).all()


def test_needed():
    given = masks((30, 41))
    whole = np.stack([scipy_distance(m) for m in given])
    needed = np.random.default_rng(0).random(given.shape) < 0.01
    squared = jax.jit(functools.partial(distance_transform_module.squared_distance, spacing=(1.0, 1.0)))
    np.testing.assert_allclose(np.sqrt(squared(~given, needed=needed))[needed], whole[needed], rtol=1e-6)


def test_nothing_pairwise_is_stored():
    """Temporaries stay within a few images, far below pixels x side."""
    mask = jax.ShapeDtypeStruct((512, 512), bool)
    for function, images in ((metrics.distance_transform, 12), (metrics.nearest_background, 24)):
        memory = planned_as_for_users(function).lower(mask).compile().memory_analysis()
        assert memory.temp_size_in_bytes < images * 512 * 512 * 4
