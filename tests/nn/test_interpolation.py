"""Interpolation as layers: what the functions do, with nothing to train."""

import chex
import jax
import pytest
from flax import nnx

import upsampling as up

X = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic"])
def test_named_layers_are_the_functions(name):
    layer = up.nn.create(name, 3, scale=(2, 3), rngs=nnx.Rngs(0))
    chex.assert_trees_all_equal(layer(X), getattr(up, name)(X, scale=(2, 3)))
    assert type(layer) is getattr(up.nn, name.capitalize())


def test_interpolate_passes_on_what_it_is_given():
    layer = up.nn.Interpolate(size=[8, 3], method="bicubic", antialias=True)
    chex.assert_trees_all_equal(layer(X), up.resize(X, (8, 3), method="bicubic", antialias=True))
    aligned = up.nn.Bilinear(1.5, convention="torch_align_corners")
    chex.assert_trees_all_equal(aligned(X), up.bilinear(X, scale=1.5, convention="torch_align_corners"))


def test_label_maps_keep_their_dtype():
    labels = jax.random.randint(jax.random.key(0), (5, 7, 3), 0, 9)
    layer = up.nn.create("nearest", 3, rngs=nnx.Rngs(0))
    chex.assert_trees_all_equal(layer(labels), up.nearest(labels, scale=2))


def test_there_is_nothing_to_train():
    assert jax.tree.leaves(nnx.state(up.nn.Bilinear(2))) == []


def test_errors_come_from_the_constructor():
    with pytest.raises(ValueError, match="give one of size and scale"):
        up.nn.Interpolate(2, size=4)
    with pytest.raises(ValueError, match="Did you mean 'bilinear'"):
        up.nn.Interpolate(2, method="bilinaer")
