"""Layers that go to any size: the one that the call names, or the layer, or else the guide's, or the scale's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from tests.nn.layers import compiled, small
from upsampling import implicit, reassembly
from upsampling.primitives import _common

NAMES = ["a2u", "freqfusion", "indexnet", "liif", "uplift", "flow_alignment", "guided_filter", "jbu", "joint_bilateral"]
NAMES += ["sapa", "fade", "fade_lite"]
# The guide has the channels of the input, which IndexNet needs.
X, GUIDE = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(5, 4, 4), (11, 9, 4)]))


@pytest.mark.parametrize("name", NAMES)
def test_sizes(name):
    """Three ways to say one size are one computation; and a guide beside a size may have any."""
    guide = None if name == "liif" else GUIDE
    by_layer, by_call = small(name, 4, size=(11, 9)), small(name, 4)
    y = compiled(by_layer, X, guide)
    assert y.shape == (11, 9, 4)
    assert bool(jnp.isfinite(y).all())
    np.testing.assert_allclose(y, jax.jit(lambda x, g: by_call(x, g, size=(11, 9)))(X, guide), atol=1e-6)
    if guide is not None:
        np.testing.assert_allclose(y, compiled(by_call, X, guide), atol=1e-6)
    assert jax.eval_shape(lambda x, g: by_layer(x, g, size=12), X, guide).shape == (12, 12, 4)
    assert jax.eval_shape(by_call, X, jnp.ones((10, 8, 4))).shape == (10, 8, 4)
    with pytest.raises(ValueError, match="give one of size and scale; got size=7, scale=3"):
        up.nn.find(name).create(4, 3, size=7, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", ["bilinear", "dysample"])
def test_sizes_without_a_guide(name):
    by_layer, by_call = small(name, 4, None, size=(11, 9)), small(name, 4)
    np.testing.assert_array_equal(by_layer(X), by_call(X, size=(11, 9)))
    assert by_layer(X, size=12).shape == (12, 12, 4)
    assert by_call(X).shape == (10, 8, 4)


def test_a_guide_beside_a_size_is_brought_to_it():
    """On any number of spatial axes; and the output is no smaller than the input."""
    layer = small("sapa", 4, 2)
    expected = layer(X, up.bilinear(GUIDE, (10, 8), antialias=True))
    np.testing.assert_allclose(layer(X, GUIDE, size=(10, 8)), expected, atol=1e-6)
    line = small("sapa", 4, size=(7,))
    assert line(jnp.ones((5, 4)), jnp.ones((9, 4))).shape == (7, 4)
    with pytest.raises(ValueError, match=r"SAPA: size must be at least that of x \(5, 4, 4\); got \(4, 4\)"):
        layer(X, GUIDE, size=4)


def in_tiles(monkeypatch, tile_bytes, parts, function, *arrays):
    """Values and gradients, of whole maps and by tiles of some rows, that fit nothing, in so many parts.

    In more than one as in programs for three devices, which share two images.
    """

    def both(*arrays):
        return function(*arrays), jax.grad(lambda *a: jnp.sum(jnp.sin(function(*a))), range(len(arrays)))(*arrays)

    whole = jax.jit(both)(*arrays)
    for name, most in (("MOST_BYTES", 0), ("BLOCK_BYTES", 0), ("TILE_BYTES", tile_bytes)):
        monkeypatch.setattr(_common, name, most)
    found, tiles_of = set(), _common.Tiles.of
    monkeypatch.setattr(_common.Tiles, "of", lambda *a: found.add((t := tiles_of(*a)).parts) or t)
    if parts > 1:
        monkeypatch.setattr(_common, "_devices", lambda _: 3)
    tiled = jax.jit(lambda *a: both(*a))
    assert "scan" in str(tiled.trace(*arrays).jaxpr)
    assert max(found) == parts
    for a, b in zip(jax.tree.leaves(tiled(*arrays)), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


# Rows of the input and output. Fourteen in two parts are tiles of three, which overlap.
TILED = [(5, 7, 600, 1), (6, 14, 5184, 2)]


@pytest.mark.parametrize(("rows", "height", "tile_bytes", "parts"), TILED)
def test_uplift_by_tiles_is_uplift(monkeypatch, rows, height, tile_bytes, parts):
    shapes = ((2, rows, 4, 3), (2, 2 * rows, 8, 17))
    x, logits = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate(shapes))

    def upsample(x, logits):
        if not _common.MOST_BYTES:
            return reassembly._attend_and_resize.__wrapped__(x, logits, (height, 9))
        return up.bilinear(reassembly.attend_to_neighbors(x, logits), (height, 9), antialias=True)

    in_tiles(monkeypatch, tile_bytes // 4 if parts > 1 else tile_bytes, parts, upsample, x, logits)


@pytest.mark.parametrize(("rows", "height", "tile_bytes", "parts"), TILED)
@pytest.mark.parametrize("ensemble", [True, False])
def test_liif_by_tiles_is_liif(monkeypatch, ensemble, rows, height, tile_bytes, parts):
    def predict(pixels, steps):
        return jnp.sin(pixels[..., :2] + steps[None])

    upsample = functools.partial(implicit.local_ensemble, predict=predict, size=(height, 9), ensemble=ensemble)
    tile_bytes = tile_bytes if ensemble else tile_bytes // 4
    in_tiles(monkeypatch, tile_bytes, parts, upsample, jax.random.normal(jax.random.key(0), (2, rows, 4, 3)))


def test_corners_at_once_are_one_after_the_other():
    """As GPUs ask for them, and other devices."""
    pixels = jax.random.normal(jax.random.key(0), (2, 2, 3, 5, 4, 6))
    rows, columns = (tuple(jax.random.normal(jax.random.key(n), (2, 2, n))) for n in (5, 4))

    def one(pixels, rows, columns):
        row, of_row = (a.reshape(1, 5, 1, 1) for a in rows)
        column, of_column = (a.reshape(1, 1, 4, 1) for a in columns)
        return jnp.sin(pixels * row + column) * of_row * of_column

    values = [form(one, pixels, rows, columns) for form in (implicit._at_once, implicit._one_by_one)]
    np.testing.assert_allclose(*values, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("indexnet", {"guide_features": 3}, "IndexNet: guide_features=3 must equal features=4 with index='m2o'"),
        ("indexnet", {"index": "m20"}, "IndexNet: index='m20' is not known. Did you mean 'm2o'"),
        ("a2u", {"groups": 3}, "A2U: groups=3 must divide guide_features=4"),
        ("uplift", {"neighbors": 7}, "UPLiFT: neighbors must be 5, 9, 13, 17 or 25; got 7"),
        ("uplift", {"image_features": (8,)}, r"UPLiFT: image_features must have at least two numbers; got \(8,\)"),
        ("freqfusion", {"groups": 3}, "FreqFusion: groups=3 must divide features=4"),
        ("freqfusion", {"compressed_features": 9}, "FreqFusion: compressed_features must be a multiple of 8"),
        ("liif", {"hidden": (8, 0)}, "LIIF: hidden must be at least 1; got 0"),
    ],
)
def test_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        up.nn.find(name).create(4, rngs=nnx.Rngs(0), **options)


def test_batch_normalization_learns_its_averages_in_training_alone():
    """As in PyTorch: by the batch in training, by running averages else."""
    layer = up.nn.IndexNet(4, rngs=nnx.Rngs(0))
    assert layer.norm is not None
    layer(X, GUIDE)
    assert not layer.norm.mean[...].any()
    layer.train()
    y = layer(X, GUIDE)
    assert layer.norm.mean[...].any()
    layer.eval()
    assert float(jnp.abs(layer(X, GUIDE) - y).max()) > 1e-3
