"""NAF as a layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from tests.nn.layers import small
from upsampling import attention


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


def test_the_guide_is_made_smaller_beyond_four_times_the_output():
    """To four times its smaller side, and not a pixel earlier."""
    layer = make()
    for guide, shown in (((8, 12), (8, 12)), ((9, 6), (8, 6)), ((6, 13), (6, 8))):
        image = normal(2, 1, *guide, 3)
        smaller = up.bilinear(image, shown)
        queries = jnp.concatenate([layer.pixels(smaller), layer.surroundings(smaller)], axis=-1)
        expected = attention.rotary_embedding(up.area(queries, (2, 3)), heads=4)
        np.testing.assert_allclose(layer.queries(image, (2, 3)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(heads=3), "NAF: heads=3 must divide features=4"),
        (lambda: make(dim=24), r"NAF: dim must be a multiple of 4 \* heads=16 and of 2 \* groups=8; got 24"),
        (lambda: make(groups=3), r"NAF: dim must be a multiple .* of 2 \* groups=6; got 16"),
        (lambda: make(kernel_size=4), r"NAF: kernel_size must be odd, .*; got \(4,\)"),
        (lambda: make()(X, size=8), "NAF: guide must be given"),
        (lambda: make()(X, GUIDE[0], size=8), "NAF: guide must be .*got shape"),
        (lambda: make()(X, GUIDE, size=3), "queries must have .*at least its height and width"),
    ],
)
def test_errors_explain(call, message):
    with pytest.raises(ValueError, match=message):
        call()
