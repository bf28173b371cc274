"""The feature pyramid: only the upsampler changes, and its parts are put together as they should."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from experiments.models.fpn import FPN


def make(method="bilinear", **options):
    if "downsampling" not in options and up.nn.available()[method].needs_pooling:
        options["downsampling"] = "pool"
    model = FPN(1, 3, method, **{"width": 4, "depth": 2, "seed": 5} | options)
    model.eval()
    return model


def rest(model):
    """All parameters but the upsamplers' own, by path."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {path: leaf[...] for path, leaf in flat if path[0] != "upsamplers"}


# One method of each kind: without parameters, with, sharing the encoder's kernel or its maxima, with a guide.
@pytest.mark.parametrize("method", ["bicubic", "sub_pixel_conv", "deconv", "max_unpool", "dysample", "flow_alignment"])
def test_only_the_upsampler_changes_and_it_matters(method):
    downsampling = "pool" if up.nn.available()[method].needs_pooling else "strided"
    model, nearest = make(method), make("nearest", downsampling=downsampling)
    chex.assert_trees_all_equal(rest(model), rest(nearest))
    image = jax.random.normal(jax.random.key(0), (2, 13, 18, 1))
    logits = model(image)
    chex.assert_shape(logits, (2, 13, 18, 3))
    chex.assert_tree_all_finite(logits)
    assert not np.allclose(logits, nearest(image), atol=1e-4)


def test_every_level_reaches_the_logits():
    """The levels' sum before the head is the sum of what each level gives with the others' branches silenced."""
    image = jax.random.normal(jax.random.key(0), (1, 16, 16, 1))
    model = make(depth=2)
    model.head.bias[...] = jnp.zeros(3)
    whole, parts = model(image), []
    for level in range(3):
        alone = make(depth=2)
        alone.head.bias[...] = jnp.zeros(3)
        for other in range(3):
            if other != level:
                alone.branches[other][-1].norm.scale[...] *= 0
        assert len(alone.branches[level]) == max(level, 1)
        parts.append(alone(image))
    assert all(np.ptp(part) > 1e-3 for part in parts)
    np.testing.assert_allclose(sum(parts), whole, atol=1e-4)


@pytest.mark.parametrize("skips", ["inner", "all", "none"])
def test_skips_decide_which_levels_add_the_encoder(skips):
    model = make(skips=skips, attention_gate=True)
    expected = {"inner": [False, True, True], "all": [True, True, True], "none": [False, False, True]}[skips]
    assert [lateral is not None for lateral in model.laterals] == expected
    assert [gate is not None for gate in model.gates] == expected[:2]
    plain = make(skips=skips)
    image = jax.random.normal(jax.random.key(0), (1, 16, 16, 1))
    assert np.allclose(model(image), plain(image), atol=1e-4) == (skips == "none")


def test_a_method_that_lacks_what_it_needs_is_refused():
    with pytest.raises(ValueError, match="'deconv' does not go with downsampling 'pool'"):
        make("deconv", downsampling="pool")
