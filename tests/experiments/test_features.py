"""Features without labels: the objectives against plain NumPy, the probe, and a run from settings to figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from experiments import __main__ as command
from experiments import example, study
from experiments.tasks import features

STRIDE = 2


def backbone(image):
    """What the tests take for a backbone: brightness, slopes and a square of each cell, without parameters."""
    cells = up.area(image, tuple(n // STRIDE for n in image.shape[1:3]))
    return jnp.concatenate([cells, jnp.roll(cells, 1, 1) - cells, jnp.roll(cells, 1, 2) - cells, cells**2], axis=-1)


def wrong_backbone(image):
    return image


def small(**options):
    settings = {
        "backbone": f"{__name__}:backbone",
        "methods": ("bilinear", "guided_filter"),
        "objective": ("untrained", "anyup"),
        "seeds": (0, 1),
        "stride": STRIDE,
        "crop": 32,
        "crops": 4,
        "batch": 2,
        "steps": 3,
        "probe_steps": 20,
        "quiet": True,
    }
    return features.Features(**settings | options)


@pytest.fixture(scope="module")
def found():
    return study.run(small(), data=example.data)


# --- objectives -------------------------------------------------------------------------------------------------------


def test_the_loss_is_cosine_and_scaled_error():
    random = np.random.default_rng(0)
    made, target = random.normal(size=(2, 2, 3, 4, 5))
    cosine = (made * target).sum(-1) / np.sqrt((made**2).sum(-1) * (target**2).sum(-1))
    low, high = target.min(-1, keepdims=True), target.max(-1, keepdims=True)
    scaled = ((made - target) / (high - low + 1e-6)) ** 2
    loss = features.cosine_mse(jnp.asarray(made), jnp.asarray(target))
    np.testing.assert_allclose(loss, (1 - cosine).mean() + scaled.mean(), rtol=1e-5)
    assert features.cosine_mse(jnp.asarray(target), jnp.asarray(target)) < 1e-6
    # A pixel without features has no direction, and no slope that is not a number.
    assert np.isfinite(jax.grad(features.cosine_mse)(jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 2, 2, 3)))).all()


def test_views_hold_features_at_two_resolutions():
    image = jax.random.uniform(jax.random.key(0), (2, 16, 24, 1))
    of = features.views(image, backbone, STRIDE)
    assert {name: array.shape[1:3] for name, array in of.items()} == {"low": (4, 6), "high": (8, 12), "guide": (8, 12)}
    np.testing.assert_array_equal(of["low"], backbone(of["guide"]))


def test_features_of_a_crop_are_compared_where_it_is():
    """An upsampler that knows the features of the whole image has no error but the border's."""
    image = jax.random.uniform(jax.random.key(0), (3, 16, 16, 1))
    plain = lambda image: up.area(image, tuple(n // STRIDE for n in image.shape[1:3]))  # noqa: E731
    of = features.crop_views(image, plain, STRIDE, jax.random.key(1))
    assert of["high"].shape == (3, 4, 4, 1)
    whole = plain(image)
    for i, (row, column) in enumerate(np.asarray(of["place"])):
        np.testing.assert_allclose(of["high"][i], whole[i, row : row + 4, column : column + 4], atol=1e-6)
    within = lambda x, guide: whole  # noqa: E731
    regularizer = features.cosine_mse(up.area(whole, (4, 4)), of["low"])
    np.testing.assert_allclose(features.anyup_loss(within, of), 0.1 * regularizer, atol=1e-5)
    assert not np.allclose(of["changed"], of["guide"], atol=0.02)


# --- the probe --------------------------------------------------------------------------------------------------------


def test_the_probe_finds_what_a_plane_parts_and_skips_what_is_ignored():
    points = jax.random.normal(jax.random.key(0), (4, 8, 8, 3)) * 100.0
    label = jnp.where(points @ jnp.array([1.0, -2.0, 0.5]) > 0, 1, 0)
    spoiled = label.at[:, :4].set(7)
    options = {"classes": 2, "steps": 200, "batch": 4, "rate": 0.1}
    probe = features.train_probe(points, spoiled, 0, ignore_index=7, **options)
    assert np.mean(jnp.argmax(probe(points), -1) == label) > 0.97


# --- networks ---------------------------------------------------------------------------------------------------------


def test_the_image_is_the_guide_of_every_method_that_takes_one():
    x, image = jnp.ones((1, 4, 4, 8)), jnp.ones((1, 8, 8, 3))
    for method in ("bilinear", "jbu", "fade"):
        layer = features.FeatureUpsampler(method, 8, 3, 2, ("small",), 0)
        assert nnx.eval_shape(layer, x, image).shape == (1, 8, 8, 8)


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_compares_methods_by_their_probes(found):
    assert list(found.results["designs"]) == ["untrained", "anyup"]
    plain, trained = (found.results["designs"][name]["methods"] for name in ("untrained", "anyup"))
    assert set(plain) == {"bilinear", "guided_filter"}
    # What has nothing to learn is the same under every objective; what has learnt is not.
    figure = lambda of, method: of[method]["seeds"]["0"]["figures"]["mean_iou"]["mean"]  # noqa: E731
    assert figure(plain, "bilinear") == figure(trained, "bilinear") > 0
    losses = [len(trained[method]["seeds"]["0"]["loss"]) for method in ("bilinear", "guided_filter")]
    assert losses == [1, 3]
    assert "paired" in trained["guided_filter"]


def test_untrained_upsamplers_stay_as_they_were_made(found):
    """One step is counted, at a rate of zero."""
    config = small()
    first = features.FeatureUpsampler("guided_filter", 4, 1, STRIDE, config.variants, 0)
    stage = features.stage(features.Job("untrained", "", 0), config, found.data, None, {}, None)
    probe = features.train_probe(
        first(jnp.asarray(stage.features), jnp.asarray(stage.image)),
        jnp.asarray(stage.label),
        0,
        classes=2,
        ignore_index=None,
        steps=20,
        batch=2,
        rate=config.probe_learning_rate,
    )
    ((x, image),) = [chunk.inputs for chunk in stage.chunks("test")]
    expected = np.argmax(probe(first(x, image)), -1)
    agree = [np.mean(a == b) for a, b in zip(found.predictions("untrained", "guided_filter", 0), expected, strict=True)]
    assert min(agree) > 0.999


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crop", "90"), "--crop 90: must be a multiple of 32"),
        (("--backbone", "trunks"), "--backbone trunks: must be trunk, random, or your own function"),
        (("--backbone", "math:no_such"), "--backbone math:no_such:"),
        (("--probe-learning-rate", "0"), "--probe-learning-rate 0: must be above 0"),
        (("--crops", "4", "--batch", "8"), "--crops 4: must be at least 8"),
        (("--path", "."), "--data folder and --path DIR go together"),
        (("--methods", "deconv"), "--methods deconv: needs the network's own way down"),
        (("--methods", "bilinera"), "Did you mean bilinear?"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["features", *options]) == 2
    assert message in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.iterdir())


def test_a_backbone_of_another_stride_is_refused():
    with pytest.raises(ValueError, match=r"gave \(1, 32, 32, 1\) for images \(1, 32, 32, 1\); with --stride 2"):
        study.run(small(backbone=f"{__name__}:wrong_backbone"), data=example.data)
