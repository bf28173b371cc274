"""NAF as a layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


X, GUIDE = normal(0, 2, 4, 3, 4), normal(1, 2, 8, 9, 3)


def make(**options):
    settings = {"guide_features": 3, "dim": 16, "heads": 4, "window": 3, "groups": 4, **options}
    return up.nn.NAF(4, (2, 3), **settings, rngs=nnx.Rngs(0))


def test_it_attends_by_its_queries():
    layer = make()
    queries = layer.queries(GUIDE, (8, 9))
    assert queries.shape == (2, 8, 9, 16)
    np.testing.assert_array_equal(layer(X, GUIDE), up.neighborhood_attention(X, queries, window=3, heads=4))


def test_any_size_and_any_guide():
    layer = make()
    assert layer(X, GUIDE, size=(4, 7)).shape == (2, 4, 7, 4)
    assert layer(X[0], normal(2, 30, 5, 3), size=7).shape == (7, 7, 4)
    # An average of pixels: what is the same everywhere stays.
    np.testing.assert_allclose(layer(jnp.full_like(X, 3.0), GUIDE, size=(5, 8)), 3, atol=1e-5)


def test_no_parameter_depends_on_the_channels_of_the_input():
    shapes = [jax.tree.map(jnp.shape, nnx.state(up.nn.NAF(n, guide_features=3, rngs=nnx.Rngs(0)))) for n in (4, 12)]
    assert jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1])


def test_heads_follow_the_channels():
    heads = [up.nn.NAF(n, guide_features=3, rngs=nnx.Rngs(0)).heads for n in (32, 64, 16, 24, 8, 3)]
    assert heads == [4, 4, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(heads=3), "NAF: heads=3 must divide features=4"),
        (lambda: make(dim=24), r"NAF: dim must be a multiple of 4 \* heads=16 and of 2 \* groups=8; got 24"),
        (lambda: make(groups=3), r"NAF: dim must be a multiple .* of 2 \* groups=6; got 16"),
        (lambda: make(window=4), "NAF: window must be odd; got 4"),
        (lambda: make()(X, size=8), "NAF: guide must be given"),
        (lambda: make()(X, GUIDE[0], size=8), "NAF: guide must be .*got shape"),
        (lambda: make()(X, GUIDE, size=3), "queries must have .*at least its height and width"),
    ],
)
def test_errors_explain(call, message):
    with pytest.raises(ValueError, match=message):
        call()
