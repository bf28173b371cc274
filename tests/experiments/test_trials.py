"""What a training leaves in its folder is trusted only if it is whole, and of these images; and what it is made of."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from experiments import checkpoints, files, training, trials
from experiments.data import Split

TEST = Split(("a", "b"), [])


@pytest.fixture
def place(tmp_path):
    """The folder of a training that is done."""
    label = np.zeros((2, 3), np.uint8)
    files.write_arrays(tmp_path / "predictions.npz", names=np.array(TEST.names), label0=label, label1=label + 1)
    files.write_arrays(tmp_path / "sums.npz", **{"mean_iou/0": np.ones((1, 2, 2)), "mean_iou/1": np.ones((1, 2, 2))})
    files.write_sealed(tmp_path / "result.json", {"figures": {}})
    return tmp_path


def test_what_is_stored_is_of_these_images(place):
    found = trials.stored(place, TEST)
    assert found.predictions[1].tolist() == [[1, 1, 1], [1, 1, 1]]
    with pytest.raises(checkpoints.Damaged, match=r"predictions\.npz: damaged \(it is of other images\)"):
        trials.stored(place, Split(("b", "a"), []))


def test_a_checkpoint_of_several_matters_though_the_training_that_holds_it_is_done(place):
    (place / training.CHECKPOINT).write_bytes(b"cut short")
    trials.examine(place, TEST)
    with pytest.raises(checkpoints.Damaged, match=r"checkpoint\.npz: damaged"):
        trials.examine(place, TEST, together=True)


def test_predictions_are_cut_to_the_size_of_the_truth_and_stay_in_order():
    def labels(level, x):
        return jnp.round(x[..., 0] + level)

    def chunk(places, size):
        image = np.broadcast_to(np.float32(places).reshape(-1, 1, 1, 1), (len(places), 8, 8, 1))
        return trials.Chunk(places, (image,), np.zeros((len(places), *size), np.int32))

    maps = trials.predict(labels, (np.float32(1),), [chunk([2, 0], (5, 6)), chunk([1], (8, 7))])
    assert [m.shape for m in maps] == [(5, 6), (8, 7), (5, 6)]
    assert [int(m[0, 0]) for m in maps] == [1, 2, 3]


def test_a_layer_made_of_layers_is_counted_once():
    class Network(nnx.Module):
        def __init__(self):
            self.up = up.nn.JBUStack(4, 2, guide_features=4, radius=1, key_features=4, rngs=nnx.Rngs(0))

    network = Network()
    assert sum(isinstance(module, up.nn.Upsampler) for _, module in nnx.iter_modules(network)) > 1
    assert trials.upsampler_parameters(network, "jbu") == trials.count(nnx.state(network, nnx.Param)) > 0
