"""NAF, AnyUp, JAFAR and LoftUp as layers. What they compute is in tests/interop/test_attention.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

import upsampling as up
from tests.compiling import planned_as_for_users
from tests.nn.layers import small
from upsampling import attention
from upsampling.nn import _layers
from upsampling.primitives import _common


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


X, GUIDE = normal(0, 2, 4, 3, 4), normal(1, 2, 8, 9, 3)


def make(**options):
    settings = {"guide_features": 3, "dim": 16, "heads": 4, "kernel_size": 3, "blocks": 1, "groups": 4, **options}
    return up.nn.NAF(4, (2, 3), **settings, rngs=nnx.Rngs(0))


def test_it_attends_by_its_queries():
    layer = make()
    queries = layer.queries(GUIDE, (8, 9))
    assert queries.shape == (2, 8, 9, 16)
    np.testing.assert_array_equal(layer(X, GUIDE), up.neighborhood_attention(X, queries, kernel_size=3, heads=4))


def test_any_size_and_any_guide():
    layer = make()
    assert layer(X, GUIDE, size=(4, 7)).shape == (2, 4, 7, 4)
    assert layer(X[0], normal(2, 30, 5, 3), size=7).shape == (7, 7, 4)
    # An average of pixels: what is the same everywhere stays.
    np.testing.assert_allclose(layer(jnp.full_like(X, 3.0), GUIDE, size=(5, 8)), 3, atol=1e-5)


def test_no_parameter_depends_on_the_channels_of_the_input():
    counts = [[leaf.shape for leaf in jax.tree.leaves(nnx.state(small("naf", n, guide_features=3)))] for n in (4, 12)]
    assert counts[0] == counts[1]


def test_heads_are_the_authors_or_by_the_channels():
    options = {"guide_features": 3, "dim": 16, "blocks": 0, "groups": 2, "rngs": nnx.Rngs(0)}
    assert [up.nn.NAF(n, **options).heads for n in (32, 24, 4)] == [4, 4, 4]
    assert [up.nn.NAF(n, **options, heads=None).heads for n in (32, 64, 16, 24, 8, 3)] == [4, 4, 2, 1, 1, 1]


@pytest.mark.parametrize("groups", [4, None])
def test_normalization_and_its_derivatives_are_flaxs(groups):
    """First and second ones, of what is far from zero too; in float64, where nothing but a formula tells them apart."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        shapes = ((2, 5, 4, 8), (2, 5, 4, 8), (8,), (8,))
        x, direction, scale, bias = (normal(i, *shape).astype(jnp.float64) for i, shape in enumerate(shapes))
        options = {"epsilon": 1e-5, "use_fast_variance": False, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        theirs = nnx.LayerNorm(8, **options) if groups is None else nnx.GroupNorm(8, groups, **options)
        theirs.scale[...], theirs.bias[...] = scale, bias
        graph, state = nnx.split(theirs)

        def ours(x, state):
            norm = nnx.merge(graph, state)
            if isinstance(norm, nnx.GroupNorm):
                return _layers.group_norm(x, norm)
            assert norm.scale is not None
            assert norm.bias is not None
            return _layers.layer_norm(x, norm.scale[...], norm.bias[...])

        @functools.partial(jax.jit, static_argnums=0)
        def derivatives(apply, x, state):
            gradient = jax.grad(lambda x, state: jnp.sum(jnp.sin(apply(x, state))), (0, 1))
            along = lambda x: gradient(x, state)[0]  # noqa: E731
            return apply(x, state), gradient(x, state), jax.jvp(along, (x,), (direction,))[1]

        expected = derivatives(lambda x, state: nnx.merge(graph, state)(x), x + 3, state)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
        jax.tree.map(close, derivatives(ours, x + 3, state), expected)


def test_the_gradient_of_a_variance_sums_no_deviations():
    """They add up to zero, which JAX does not know: with the cotangents of mean and variance no map is summed."""
    x = jnp.ones((2, 5, 4, 8))

    def sums(moments):
        y, pull_back = jax.vjp(moments, x)
        program = jax.make_jaxpr(pull_back)(y)
        return sum(e.primitive.name == "reduce_sum" and e.invars[0].aval.size == x.size for e in program.eqns)

    def plain(x):
        mean = _layers._mean(4, x)
        return mean, _layers._mean(4, (x - mean) ** 2)

    assert sums(functools.partial(_layers._moments, 4)) == 0
    assert sums(plain) == 1


def test_gelu_is_rounded_once():
    x = jnp.linspace(-6, 6, 1001, dtype=jnp.bfloat16)
    exact = np.asarray(x, np.float64) * special.ndtr(np.asarray(x, np.float64))
    # Far below zero one and what is nearly minus one are added up, as PyTorch does: up to 6 times their last place.
    np.testing.assert_allclose(np.asarray(_layers.gelu(x), np.float64), exact, rtol=2**-8, atol=5e-7)
    with jax.enable_x64(True):
        wide = jnp.linspace(-6, 6, 1001, dtype=jnp.float64)
        np.testing.assert_allclose(_layers.gelu(wide), wide * special.ndtr(np.asarray(wide)), atol=1e-15)


def test_the_guide_is_made_smaller_beyond_four_times_the_output():
    """To four times its smaller side, and not a pixel earlier."""
    layer = make()
    for guide, shown in (((8, 12), (8, 12)), ((9, 6), (8, 6)), ((6, 13), (6, 8))):
        image = normal(2, 1, *guide, 3)
        smaller = up.bilinear(image, shown)
        queries = jnp.concatenate([layer.pixels(smaller), layer.surroundings(smaller)], axis=-1)
        expected = attention.rotary_embedding(up.area(queries, (2, 3)), heads=4)
        np.testing.assert_allclose(layer.queries(image, (2, 3)), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["naf", "anyup", "jafar", "loftup"])
def test_one_way_to_say_the_size(name):
    """The call's, or the layer's, or the guide's; a guide beside a size may have any."""
    fixed, scaled = small(name, 4, guide_features=3, size=(5, 7)), small(name, 4, (2, 3), guide_features=3)
    shape = lambda layer, guide, **options: jax.eval_shape(lambda x, g: layer(x, g, **options), X, guide).shape  # noqa: E731
    assert shape(fixed, GUIDE) == (2, 5, 7, 4)
    assert shape(fixed, GUIDE, size=6) == (2, 6, 6, 4)
    assert shape(scaled, GUIDE) == (2, 8, 9, 4)
    assert shape(scaled, GUIDE[:, :7, :5]) == (2, 7, 5, 4)
    assert shape(scaled, GUIDE[:, :3, :2], size=(9, 4)) == (2, 9, 4, 4)
    with pytest.raises(ValueError, match=rf"{type(fixed).__name__}: give one of size and scale; got size=8, scale=3"):
        small(name, 4, 3, size=8)


def test_no_parameter_of_anyup_depends_on_the_channels_of_the_input():
    counts = [[leaf.shape for leaf in jax.tree.leaves(nnx.state(small("anyup", n, guide_features=3)))] for n in (4, 12)]
    assert counts[0] == counts[1]


def test_loftup_by_tiles_of_rows_is_loftup(monkeypatch):
    """With gradients, and rows that are no whole number of tiles."""
    layer = small("loftup", 4, guide_features=3)
    x, guide = normal(3, 1, 3, 4, 4), normal(4, 1, 11, 6, 3)

    def both(x, guide):
        return layer(x, guide), jax.grad(lambda *maps: jnp.sum(layer(*maps) ** 3), (0, 1))(x, guide)

    whole = jax.jit(both)(x, guide)
    monkeypatch.setattr(_common, "TILE_BYTES", 3000)
    tiled = jax.jit(lambda *maps: both(*maps))
    assert "scan" in str(tiled.trace(x, guide).jaxpr)
    # It takes sines of what it multiplied by large numbers. With jax 0.12 gradients differ by up to 1.3e-5.
    for a, b, tolerance in zip(
        jax.tree.leaves(tiled(x, guide)), jax.tree.leaves(whole), (5e-6, 2e-5, 2e-5), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def test_features_are_unified_some_at_a_time(monkeypatch):
    x, kernel = normal(5, 2, 3, 4, 7), normal(6, 3, 3, 4)
    core = attention._unify_features.__wrapped__
    whole = core(x, kernel)
    monkeypatch.setattr(_common, "TILE_BYTES", 1000)
    assert "scan" in str(jax.make_jaxpr(lambda x: core(x, kernel))(x))
    np.testing.assert_allclose(core(x, kernel), whole, atol=1e-6)


@pytest.mark.parametrize("name", ["anyup", "jafar", "loftup", "jbu", "naf", "uplift", "liif", "freqfusion", "a2u"])
def test_memory_is_bounded(name):
    """From a vision transformer's 37x37x384 to 518x518, compiled and not run: below twice the output beside it.

    Or to 517x517, which tiles of equal height do not make without overlapping.
    """
    size, channels = (518 if name in ("a2u", "liif", "loftup") else 517), (384 if name == "a2u" else 3)
    options = {"size": size} | ({} if name == "liif" else {"guide_features": channels})
    layer = nnx.eval_shape(lambda: up.nn.create(name, 384, **options, rngs=nnx.Rngs(0)))
    structure, state = nnx.split(layer)
    x, guide = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 37, 37, 384), (1, size, size, channels)))
    apply = planned_as_for_users(lambda state, x, guide: nnx.merge(structure, state)(x, guide))
    program = apply.lower(state, x, guide).compile()
    assert program.memory_analysis().temp_size_in_bytes < 2 * 4 * size**2 * 384


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(heads=3), "NAF: heads=3 must divide features=4"),
        (lambda: make(dim=24), r"NAF: dim must be a multiple of 4 \* heads=16 and of 2 \* groups=8; got 24"),
        (lambda: make(groups=3), r"NAF: dim must be a multiple .* of 2 \* groups=6; got 16"),
        (lambda: make(kernel_size=4), r"NAF: kernel_size must be odd, .*; got \(4,\)"),
        (lambda: make()(X, size=8), "NAF: guide must be given"),
        (lambda: make()(X, GUIDE[0], size=8), "NAF: guide must be .*got shape"),
        (lambda: up.nn.AnyUp(4, dim=12, rngs=nnx.Rngs(0)), "AnyUp: dim must be a multiple of 4, heads=4 and groups=8"),
        (lambda: up.nn.AnyUp(4, unify_kernel_size=2, rngs=nnx.Rngs(0)), "AnyUp: unify_kernel_size must be odd"),
        (lambda: up.nn.AnyUp(4, share=-0.1, rngs=nnx.Rngs(0)), "AnyUp: share must be finite and above 0; got -0.1"),
        (lambda: up.nn.JAFAR(4, heads=3, rngs=nnx.Rngs(0)), "JAFAR: dim must be a multiple of 4, heads=3"),
        (lambda: up.nn.LoftUp(5, rngs=nnx.Rngs(0)), r"LoftUp: heads=4 must divide features \+ 4 \* place_freq.*=25"),
        (lambda: make()(X, GUIDE, size=3), "queries must have .*at least its height and width"),
    ],
)
def test_errors_explain(call, message):
    with pytest.raises(ValueError, match=message):
        call()
