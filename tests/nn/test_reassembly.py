"""Layers of the reassembly family: options, first values and errors. tests/interop has what they compute."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from upsampling.nn._layers import project_and_encode
from upsampling.nn.reassembly import _sapa_of_keys, _sapa_of_queries

GUIDED = ["sapa", "fade", "fade_lite"]


def test_carafe_starts_as_the_mean_of_its_window():
    layer = up.nn.CARAFE(3, kernel_size=3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (6, 5, 3))
    mean = up.reassemble(x, jnp.full((12, 10, 1, 3, 3), 1 / 9))
    np.testing.assert_allclose(layer(x), mean, atol=0.05)


def test_first_values_are_the_authors():
    """Deviations of 0.001 in CARAFE's encoder and 0.02 in SAPA's projections; Xavier's bound in FADE."""
    carafe, sapa, fade = (up.nn.create(name, 64, rngs=nnx.Rngs(0)) for name in ("carafe", "sapa", "fade"))
    assert abs(float(carafe.encoder_kernel[...].std()) / 0.001 - 1) < 0.05
    assert abs(float(sapa.query_kernel[...].std()) / 0.02 - 1) < 0.05
    assert abs(float(jnp.abs(fade.guide_kernel[...]).max()) / np.sqrt(6 / 128) - 1) < 0.05


@pytest.mark.parametrize("method", ["carafe", *GUIDED])
def test_constants_stay_within(method):
    """Weights sum to one, so that away from the zeros around the image a constant map keeps its value."""
    layer = up.nn.create(method, 4, (3, 2), kernel_size=3, rngs=nnx.Rngs(0))
    y = layer(jnp.full((5, 6, 4), 2.0), jnp.full((15, 12, 4), 2.0))
    np.testing.assert_allclose(y[3:-3, 2:-2], 2, rtol=1e-5)


@pytest.mark.parametrize("method", GUIDED)
def test_guides_are_checked(method):
    layer, x = up.nn.create(method, 4, 2, guide_features=3, rngs=nnx.Rngs(0)), jnp.ones((2, 5, 6, 4))
    name = type(layer).__name__
    assert layer(x, jnp.ones((2, 10, 12, 3))).shape == (2, 10, 12, 4)
    with pytest.raises(ValueError, match=rf"{name}: guide must be given, a map of shape \(2, 10, 12, 3\)"):
        layer(x)
    for wrong in ((2, 10, 5, 3), (2, 10, 12, 4), (10, 12, 3)):
        with pytest.raises(ValueError, match=rf"{name}: guide must be .*, 3 channels.* here \(2, 10, 12, 3\)"):
            layer(x, jnp.ones(wrong))
    with pytest.raises(TypeError, match=rf"{name}: guide must be floating"):
        layer(x, jnp.ones((2, 10, 12, 3), int))


@pytest.mark.parametrize("method", GUIDED)
def test_guides_matter(method):
    layer = up.nn.create(method, 4, 2, kernel_init=nnx.initializers.normal(1.0), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (5, 6, 4))
    a, b = (layer(x, jax.random.normal(jax.random.key(i), (10, 12, 4))) for i in (1, 2))
    assert jnp.abs(a - b).max() > 0.1


@pytest.mark.mixes_dtypes
@pytest.mark.parametrize("method", ["carafe", *GUIDED])
def test_dtypes(method):
    layer = up.nn.create(method, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x, guide = jnp.ones((3, 3, 4)), jnp.ones((6, 6, 4))
    assert layer(x, guide).dtype == jnp.bfloat16
    layer = up.nn.create(method, 4, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(layer))} == {jnp.dtype(jnp.bfloat16)}
    assert layer(x, guide).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rngs: up.nn.CARAFE(4, groups=3, rngs=rngs), "CARAFE: groups=3 must divide features=4"),
        (lambda rngs: up.nn.CARAFE(4, kernel_size=4, rngs=rngs), "CARAFE: kernel_size must be odd"),
        (lambda rngs: up.nn.CARAFE(4, encoder_kernel_size=2, rngs=rngs), "CARAFE: encoder_kernel_size must be odd"),
        (lambda rngs: up.nn.CARAFE(4, rngs=rngs)(jnp.ones((3, 3, 5))), "CARAFE: x must have features=4 channels"),
        (lambda rngs: up.nn.SAPA(4, similarity="cosine", rngs=rngs), "SAPA: similarity='cosine' is not known"),
        (
            lambda rngs: up.nn.SAPA(4, similarity="inner", guide_features=3, rngs=rngs),
            "SAPA: guide_features=3 must equal features=4",
        ),
        (lambda rngs: up.nn.FADE(4, kernel_size=2, rngs=rngs), "FADE: kernel_size must be odd"),
        (lambda rngs: up.nn.FADELite(4, guide_features=0, rngs=rngs), "FADELite: guide_features must be at least 1"),
    ],
)
def test_errors_explain(call, message):
    with pytest.raises(ValueError, match=message):
        call(nnx.Rngs(0))


def test_sapa_is_the_same_by_projected_keys():
    shapes = ((2, 3, 4, 3), (2, 5, 9, 2), (2,), (2,), (2, 4), (4,), (3,), (3,), (3, 4))
    keys = jax.random.split(jax.random.key(0), len(shapes))
    x, guide, *linear = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    linear = ((linear[:2], *linear[2:4]), (linear[4:6], linear[6], None))
    by_keys, by_queries = (jax.jit(functools.partial(f, window=(3, 3))) for f in (_sapa_of_keys, _sapa_of_queries))
    np.testing.assert_allclose(by_keys(x, guide, *linear), by_queries(x, guide, *linear), rtol=1e-5, atol=1e-5)


def projected_and_encoded(x, projection, projection_bias, kernel, bias, dilation):
    """A projection of each pixel, zeros around that, and a sum over the taps of the window."""
    size, window = x.shape[-1 - len(dilation) : -1], kernel.shape[: len(dilation)]
    y, reach = x @ projection + projection_bias, [d * (k // 2) for k, d in zip(window, dilation, strict=True)]
    y = jnp.pad(y, [(0, 0)] * (x.ndim - 1 - len(size)) + [(r, r) for r in reach] + [(0, 0)])
    total = bias
    for tap in itertools.product(*map(range, window)):
        read = [slice(t * d, t * d + n) for t, d, n in zip(tap, dilation, size, strict=True)]
        total = total + y[(Ellipsis, *read, slice(None))] @ kernel[tap]
    return total


@pytest.mark.parametrize(
    ("shape", "window", "dilation"),
    [((2, 5, 6), (3, 3), (1, 2)), ((1, 2), (3, 5), (3, 1)), ((2, 2, 7), (3,), (1,)), ((2, 3, 3), (3, 1, 3), (1, 1, 1))],
)
def test_a_projection_and_an_encoder_are_one_convolution(shape, window, dilation):
    """Also at the edges, where a bias of the projection does not reach beyond the image."""
    given = ((*shape, 3), (3, 7), (7,), (*window, 7, 4), (4,))
    arrays = [jax.random.normal(key, s) for key, s in zip(jax.random.split(jax.random.key(0), 5), given, strict=True)]

    @functools.partial(jax.jit, static_argnums=0)
    def with_gradients(function, *arrays):
        y, pull_back = jax.vjp(functools.partial(function, dilation=dilation), *arrays)
        return [y, *pull_back(jnp.sin(y))]

    made = with_gradients(project_and_encode, *arrays)
    with jax.numpy_rank_promotion("allow"):
        stated = with_gradients(projected_and_encoded, *arrays)
    for own, expected in zip(made, stated, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("features", [6, 9])
def test_a_projection_that_compresses_is_computed_first(features):
    arrays = (jnp.ones((5, 6, features)), jnp.ones((features, 7)), jnp.ones(7), jnp.ones((3, 3, 7, 4)), jnp.ones(4))
    traced, compresses = jax.jit(project_and_encode).trace(*arrays), features * (3 * 3 * 4 - 7) >= 3 * 3 * 7 * 4
    for platform in ("cpu", "tpu"):
        program = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("5x6x7x" in program) == (compresses or platform == "tpu")
    np.testing.assert_allclose(project_and_encode(*arrays)[2, 2], 9 * 7 * (features + 1) + 1, rtol=1e-6)
