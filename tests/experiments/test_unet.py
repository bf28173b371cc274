"""The network: for one seed the methods differ in the upsampler and in nothing else."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from experiments.models.unet import UNet
from tests.nn.layers import compiled

METHODS = sorted(up.nn.available())
IMAGE = np.random.default_rng(0).standard_normal((2, 16, 16, 1), np.float32)


def make(method="bilinear", **options):
    if "downsampling" not in options and up.nn.available()[method].needs_pooling:
        options["downsampling"] = "pool"
    model = UNet(1, 3, method, **{"width": 4, "depth": 2, "seed": 5, "variants": ("features", "small")} | options)
    model.eval()
    return model


def rest(model):
    """All parameters but the upsamplers' own, by path."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {path: leaf[...] for path, leaf in flat if path[0] != "upsamplers"}


@functools.cache
def nearest(downsampling):
    """The model, and its logits of `IMAGE`."""
    model = make("nearest", downsampling=downsampling, depth=1)
    return model, compiled(model, IMAGE)


@pytest.mark.parametrize("method", METHODS)
def test_for_one_seed_the_upsampler_differs_and_nothing_else(method):
    model = make(method, depth=1)
    other, logits = nearest("pool" if up.nn.available()[method].needs_pooling else "strided")
    chex.assert_trees_all_equal(rest(model), rest(other))
    own = compiled(model, IMAGE)
    chex.assert_shape(own, (2, 16, 16, 3))
    assert np.allclose(own, logits, atol=1e-4) == (method == "nearest")


def test_another_seed_is_another_network():
    one, other = rest(make("deconv", depth=1)), rest(make("deconv", depth=1, seed=6))
    assert any((leaf != other[path]).any() for path, leaf in one.items())


@pytest.mark.parametrize("skips", ["inner", "all", "none"])
def test_skips_decide_which_decoders_see_the_encoder(skips):
    model = make(skips=skips)
    taken = [decoder.first.in_features // decoder.first.out_features for decoder in model.decoders]
    assert taken == {"inner": [1, 2], "all": [2, 2], "none": [1, 1]}[skips]
    # Without a full-resolution skip, an image's finest detail reaches the logits through the coarse levels alone.
    image = jax.random.normal(jax.random.key(0), (1, 16, 16, 1))
    model.projections[0].kernel[...] *= 0
    model.projections[0].bias[...] *= 0
    assert (np.ptp(model(image), axis=(1, 2)).max() > 1e-3) == (skips == "all")


def test_deconvolution_shares_the_encoders_kernel():
    model = make("deconv")
    for down, upsampler in zip(model.downs, model.upsamplers, strict=True):
        assert upsampler.kernel is down.kernel
    structure, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    paths = [path for path, _ in nnx.to_flat_state(params)]
    kernels = [path for path in paths if path[0] == "upsamplers" and path[-1] == "kernel"]
    assert kernels == []  # counted, stored and trained once, as the encoder's
    # And the one kernel gathers the gradient of both uses: cutting the decoder's use changes it.
    image = jax.random.normal(jax.random.key(0), (1, 16, 16, 1))

    def loss(params, cut):
        model = nnx.merge(structure, params, statistics)
        if cut:
            for upsampler in model.upsamplers:
                upsampler.kernel = nnx.Param(jax.lax.stop_gradient(upsampler.kernel[...]))
        return jnp.sum(model(image) ** 2)

    both, encoder_only = (jax.grad(loss)(params, cut)["downs"][0]["kernel"] for cut in (False, True))
    assert not np.allclose(both[...], encoder_only[...], rtol=1e-3)


@pytest.mark.parametrize("size", [(16, 16), (13, 18), (1, 1), (3, 5)])
def test_any_size(size):
    model = make("deconv")
    logits = model(jnp.ones((2, *size, 1)))
    chex.assert_shape(logits, (2, *size, 3))
    chex.assert_tree_all_finite(logits)


def test_sizes_beyond_a_multiple_repeat_the_edge():
    model = make("bicubic")
    image = jax.random.normal(jax.random.key(1), (1, 14, 15, 1))
    repeated = jnp.pad(image, ((0, 0), (0, 2), (0, 1), (0, 0)), mode="edge")
    chex.assert_trees_all_close(model(image), model(repeated)[:, :14, :15], atol=1e-5)


def test_width_and_depth():
    model = make(width=8, depth=3)
    assert [down.in_features for down in model.downs] == [8, 16, 32]
    assert model.encoders[-1].second.out_features == 64


def test_training_normalises_by_the_batch_and_keeps_account():
    model = make()
    image = 3 + jax.random.normal(jax.random.key(0), (4, 16, 16, 1))
    before = model.encoders[0].first_norm.mean[...]
    evaluated = model(image)
    chex.assert_trees_all_equal(model.encoders[0].first_norm.mean[...], before)
    model.train()
    trained = model(image)
    expected = 0.1 * model.encoders[0].first(image).mean(axis=(0, 1, 2))
    chex.assert_trees_all_close(model.encoders[0].first_norm.mean[...], expected, rtol=1e-4)
    assert not np.allclose(trained, evaluated, atol=1e-2)


def test_a_network_that_pools_has_no_strided_convolutions():
    pooled, strided = make(downsampling="pool"), make()
    kernels = [path for path in rest(pooled) if path[0] == "downs"]
    assert kernels == []
    assert any(path[0] == "downs" for path in rest(strided))
    chex.assert_shape(pooled(jnp.ones((2, 13, 18, 1))), (2, 13, 18, 3))


def test_unpooling_puts_values_where_the_encoder_found_its_maxima():
    model = make("max_unpool", depth=1)
    seen = {}
    unpool = model.upsamplers[0]

    class Spy(nnx.Module):
        def __call__(self, x, guide=None):
            seen["guide"], seen["y"] = guide, unpool(x, guide)
            return seen["y"]

    model.upsamplers[0] = Spy()
    model(jax.random.normal(jax.random.key(0), (1, 8, 8, 1)))
    guide, y = np.asarray(seen["guide"]), np.asarray(seen["y"])
    blocks = guide.reshape(1, 4, 2, 4, 2, -1)
    largest = np.broadcast_to(blocks.max(axis=(2, 4), keepdims=True), blocks.shape).reshape(guide.shape)
    assert (guide[y != 0] == largest[y != 0]).all()
    assert ((y != 0).reshape(1, 4, 2, 4, 2, -1).sum(axis=(2, 4)) <= 1).all()


@pytest.mark.parametrize(("method", "downsampling"), [("deconv", "pool"), ("max_unpool", "strided")])
def test_a_method_that_lacks_what_it_needs_is_refused(method, downsampling):
    with pytest.raises(ValueError, match=f"'{method}' does not go with downsampling '{downsampling}'"):
        make(method, downsampling=downsampling)


def test_the_gate_is_its_formula():
    """Equations 1 and 2 of Oktay et al., with loops over pixels."""
    gate = up.nn.AttentionGate(6, 5, projected=False, rngs=nnx.Rngs(0))
    skip, gating = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(1, 4, 6, 6), (1, 2, 3, 5)]))
    x, g = np.asarray(skip, np.float64)[0], np.asarray(gating, np.float64)[0]
    w_x, w_g, psi = (np.asarray(c.kernel[...], np.float64) for c in (gate.skip, gate.gating, gate.psi))
    alpha = np.zeros((2, 3, 1))
    for i, j in np.ndindex(2, 3):
        window = np.einsum("abc,abch->h", x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2], w_x)
        hidden = np.maximum(window + g[i, j] @ w_g[0, 0] + np.asarray(gate.gating.bias[...]), 0)
        alpha[i, j] = 1 / (1 + np.exp(-(hidden @ psi[0, 0] + np.asarray(gate.psi.bias[...]))))
    expected = x * np.asarray(up.bilinear(jnp.asarray(alpha, jnp.float32), scale=2))
    np.testing.assert_allclose(gate(skip, gating)[0], expected, atol=1e-5)
    assert alpha.min() > 0.6  # it starts open


@pytest.mark.parametrize("skips", ["inner", "all", "none"])
def test_gates_stand_on_skips_and_change_nothing_else(skips):
    gated, plain = make(skips=skips, attention_gate=True), make(skips=skips)
    assert [gate is not None for gate in gated.gates] == [skips == "all", skips != "none"]
    image = jax.random.normal(jax.random.key(0), (1, 16, 16, 1))
    own = {path: leaf for path, leaf in rest(gated).items() if path[0] != "gates"}
    chex.assert_trees_all_equal(own, rest(plain))
    if skips == "none":
        np.testing.assert_array_equal(gated(image), plain(image))
        return
    assert not np.allclose(gated(image), plain(image), atol=1e-4)
    for gate in gated.gates:
        if gate is not None:
            gate.psi.bias[...] = jnp.full(1, 30.0)
    np.testing.assert_allclose(gated(image), plain(image), atol=1e-5)
    # The gates of two methods start alike.
    other = rest(make("deconv", skips=skips, attention_gate=True))
    chex.assert_trees_all_equal(
        {p: v for p, v in rest(gated).items() if p[-1] != "bias"}, {p: v for p, v in other.items() if p[-1] != "bias"}
    )
