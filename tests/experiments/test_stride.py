"""The networks whose last step up is the method alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from experiments.models.stride import CoarseClassifier, Frozen, Head, StrideNet, Trunk, coarse_labels
from experiments.tasks import segmentation
from tests.nn.layers import compiled

METHODS = sorted(up.nn.available())


@pytest.fixture(scope="module")
def trunk():
    made = Trunk(1, 4, 4, depth=1, seed=3)
    made.eval()
    return made


@pytest.fixture(scope="module")
def seen(trunk):
    return trunk(jax.random.normal(jax.random.key(0), (2, 16, 24, 1)))


def make(method, trunk, **options):
    return Head(4, 3, method, 4, kernel=trunk.down.kernel, variants=("features", "small"), seed=3, **options)


@pytest.fixture(scope="module")
def nearest(trunk):
    return make("nearest", trunk)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_what_it_needs_and_starts_beside_the_same_convolutions(method, trunk, seen, nearest):
    head = make(method, trunk)
    head.eval()
    chex.assert_shape(compiled(head, *seen), (2, 16, 24, 3))
    chex.assert_trees_all_equal(nnx.state(head.inward), nnx.state(nearest.inward))
    chex.assert_trees_all_equal(nnx.state(head.outward), nnx.state(nearest.outward))


def test_the_trunk_gives_features_at_the_stride_and_the_guide_that_its_convolution_saw(trunk, seen):
    features, guide = seen
    chex.assert_shape(features, (2, 4, 6, 4))
    chex.assert_shape(guide, (2, 16, 24, 4))
    chex.assert_trees_all_close(features, jax.nn.relu(trunk.body(trunk.down(guide))), atol=1e-6)


def test_deconvolution_takes_the_trunks_kernel_shared_or_frozen(trunk):
    assert make("deconv", trunk).upsampler.kernel is trunk.down.kernel
    frozen = Head(4, 3, "deconv", 4, kernel=Frozen(trunk.down.kernel[...]))
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(frozen, nnx.Param))]
    assert ("upsampler", "kernel") not in paths
    assert ("upsampler", "bias") in paths


def test_end_to_end_takes_any_size(trunk):
    network = StrideNet(trunk, make("bilinear", trunk), 4)
    network.eval()
    image = jax.random.normal(jax.random.key(1), (1, 13, 18, 1))
    repeated = jnp.pad(image, ((0, 0), (0, 3), (0, 2), (0, 0)), mode="edge")
    chex.assert_trees_all_close(network(image), network(repeated)[:, :13, :18], atol=1e-5)


def test_coarse_labels_are_the_share_of_each_class_in_what_counts():
    label = np.array([[0, 0, 1, 1], [0, 2, 1, 3], [3, 3, 0, 1], [3, 3, 2, 2]])[None]
    shares, weight = coarse_labels(jnp.asarray(label), 2, 3, 3)
    np.testing.assert_allclose(shares[0, 0], [[0.75, 0, 0.25], [0, 1, 0]])
    np.testing.assert_allclose(shares[0, 1], [[0, 0, 0], [0.25, 0.25, 0.5]])
    np.testing.assert_allclose(weight[0], [[1, 0.75], [0, 1]])


def test_the_coarse_loss_is_cross_entropy_with_the_shares():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (2, 8, 12))
    logits = rng.normal(size=(2, 2, 3, 3)).astype(np.float32)
    logs = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    total = count = 0.0
    for n, i, j in np.ndindex(2, 8, 12):
        if label[n, i, j] < 3:
            total -= logs[n, i // 4, j // 4, label[n, i, j]]
            count += 1
    found = segmentation.coarse_loss(jnp.asarray(logits), jnp.asarray(label), 3)
    assert found == pytest.approx(total / count, rel=1e-5)
    classifier = CoarseClassifier(Trunk(1, 4, 4, depth=1), 4, 3, seed=0)
    chex.assert_shape(classifier(jnp.ones((1, 8, 12, 1))), (1, 2, 3, 3))
