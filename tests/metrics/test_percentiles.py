import jax
import jax.numpy as jnp
import numpy as np
import pytest

from upsampling.metrics import _percentiles

percentile = jax.jit(_percentiles.percentile, static_argnums=(3, 4), static_argnames="linear")


def lists(seed, size=4000):
    """Distances of four classes with many ties, one class with a single element, one with none, some infinite."""
    rng = np.random.default_rng(seed)
    values = np.sqrt(rng.integers(0, 400, (2, size))).astype(np.float32)
    values[0, :300] = rng.random(300)
    slot = rng.choice([0, 1, 4], (2, size), p=[0.6, 0.1, 0.3])
    slot[:, 17] = 2
    values[1, (slot[1] == 1).nonzero()[0][:30]] = np.inf
    return values, slot


@pytest.mark.parametrize("percent", [0, 95, 99.9])
def test_linear_is_that_of_numpy(percent):
    values, slot = lists(0)
    got = percentile(jnp.asarray(values), jnp.asarray(slot), None, 4, percent, linear=True)
    for image in range(2):
        for c in range(3):
            some = values[image][slot[image] == c].astype(float)
            with np.errstate(invalid="ignore"):
                expected = np.percentile(some, percent)
            if not np.isnan(expected):  # numpy interpolates between infinities to NaN
                np.testing.assert_allclose(got[image, c], expected, rtol=1e-5)
        assert got[image, 3] == -1


@pytest.mark.parametrize(("percent", "weighted"), [(0, True), (50, False), (95, True), (95, False)])
def test_step_is_the_least_value_that_enough_do_not_exceed(percent, weighted):
    values, slot = lists(1)
    weight = np.random.default_rng(2).choice([0.7071068, 1, 1.4142135], values.shape).astype(np.float32)
    given = jnp.asarray(weight) if weighted else None
    got = percentile(jnp.asarray(values), jnp.asarray(slot), given, 4, percent, linear=False)
    for image in range(2):
        for c in range(3):
            mine = slot[image] == c
            order = np.argsort(values[image][mine])
            reached = np.cumsum((weight[image][mine] if weighted else np.ones(mine.sum()))[order].astype(float))
            enough = np.searchsorted(reached, percent / 100 * reached[-1] * (1 - 1e-6))
            assert got[image, c] == values[image][mine][order][min(enough, mine.sum() - 1)]
        assert got[image, 3] == -1


@pytest.mark.parametrize("percent", [60, 95])
def test_rounding_skips_no_value(percent):
    """Weights that are all equal: exactly so many percent of a class are below or at its value."""
    counts = np.arange(20, 420, 20)
    slot = np.repeat(np.arange(20), counts)[None]
    values = np.concatenate([np.arange(n) for n in counts])[None].astype(np.float32)
    got = percentile(values, slot, np.ones_like(values), 20, percent, linear=False)
    np.testing.assert_array_equal(got[0], counts * percent // 100 - 1)


@pytest.mark.parametrize("count", [20_000_000, 16_777_217, 99, 0])
@pytest.mark.parametrize("percent", [95, 50, 99, 0, 100])
def test_a_large_count_is_not_rounded(count, percent):
    """More elements than float32 can count one by one."""
    whole, rest = _percentiles._share(jnp.int32(count), percent)
    assert int(whole) == count * percent // 100
    np.testing.assert_allclose(rest, count * percent % 100 / 100, atol=1e-5)


def test_64_bits():
    with jax.enable_x64(True):
        values, slot = lists(0)
        got = percentile(jnp.asarray(values.astype(float)) / 3, jnp.asarray(slot), None, 4, 95, linear=True)
        assert got.dtype == jnp.float64
        expected = np.percentile(values[0][slot[0] == 0].astype(float) / 3, 95)
        np.testing.assert_allclose(got[0, 0], expected, rtol=1e-12)


def test_negative_zero_is_zero():
    values = jnp.array([[-0.0, 1.0, 0.0]])
    assert percentile(values, jnp.zeros((1, 3), jnp.int32), None, 1, 50, linear=True)[0, 0] == 0
