"""Checkpoints: what is read is what was written, or an error that names the file."""

import errno
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import checkpoints, files

STATE = {
    "weights": jnp.arange(12.0).reshape(3, 4),
    "half": jnp.array([1.5, -2.25], jnp.bfloat16),
    "count": jnp.int32(7),
    "key": jax.random.key(3),
    "nested": (jnp.ones((2, 0)), [jnp.array(True)]),
}
PLACE = {"history": [1.0, 2.5], "batches": {"next": 3}}


@pytest.fixture
def path(tmp_path):
    checkpoints.save(tmp_path / "checkpoint.npz", STATE, PLACE)
    return tmp_path / "checkpoint.npz"


def test_what_is_read_is_what_was_written(path):
    state, place = checkpoints.load(path, jax.tree.map(jnp.zeros_like, STATE))
    assert place == PLACE
    chex.assert_trees_all_equal_shapes_and_dtypes(state, STATE)
    chex.assert_trees_all_equal(jax.random.key_data(state.pop("key")), jax.random.key_data(STATE["key"]))
    chex.assert_trees_all_equal(state, {name: leaf for name, leaf in STATE.items() if name != "key"})
    checkpoints.examine(path)


def test_a_checkpoint_that_is_damaged_anywhere_is_refused(path):
    whole = path.read_bytes()
    rng = random.Random(0)
    for at in [*rng.sample(range(len(whole)), 60), *range(60), *range(len(whole) - 40, len(whole))]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            state, place = checkpoints.load(path, STATE)
        except checkpoints.Damaged:
            continue
        else:  # a bit that means nothing, as a date in the archive
            assert place == PLACE
            chex.assert_trees_all_equal(state["weights"], STATE["weights"])
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(checkpoints.Damaged, match=r"checkpoint\.npz: damaged"):
            checkpoints.load(path, STATE)
        with pytest.raises(checkpoints.Damaged, match=r"checkpoint\.npz: damaged"):
            checkpoints.examine(path)


def test_names_and_shapes_are_part_of_what_was_written(path):
    """The archive's checksums are of values alone."""
    with np.load(path) as stored:
        arrays = dict(stored)
    weights = "state['weights']"
    for other in ({weights: arrays[weights].reshape(4, 3)}, {weights: None, "state['width']": arrays[weights]}):
        np.savez(path, **{name: array for name, array in (arrays | other).items() if array is not None})
        with pytest.raises(checkpoints.Damaged, match="its contents have changed"):
            checkpoints.examine(path)


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "weights": jnp.zeros((4, 3))},
        {**STATE, "weights": jnp.zeros((3, 4), jnp.int32)},
        {**STATE, "more": jnp.zeros(())},
    ],
)
def test_a_checkpoint_of_another_network_is_refused(path, other):
    with pytest.raises(checkpoints.Damaged, match=r"weights|another network"):
        checkpoints.load(path, other)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(path, {**STATE, "count": jnp.int32(8)}, PLACE)
    assert int(checkpoints.load(path, STATE)[0]["count"]) == 7
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.npz"]


def test_sealed_json_tells_a_changed_digit(tmp_path):
    path = tmp_path / "result.json"
    written = files.write_sealed(path, {"figures": [0.125, float("nan")], "name": "é"})
    assert files.read_sealed(path) == written == {"figures": [0.125, None], "name": "é"}
    path.write_text(path.read_text().replace("0.125", "0.925"))
    with pytest.raises(ValueError, match="contents have changed"):
        files.read_sealed(path)


TRAINING = """
    import sys, time
    from pathlib import Path
    from tests.experiments import test_training as toy
    folder = Path(sys.argv[1])
    outcome = toy.fit(folder, steps=60, progress=lambda step, loss: time.sleep(0.01), checkpoint_every=0.02)
    toy.np.savez(folder / "done.npz", w=outcome.params["w"], mean=outcome.statistics["mean"], loss=outcome.history.loss)
"""


def test_a_training_killed_at_any_moment_ends_with_the_same_bytes(tmp_path):
    """A few kills in each run of the suite; more by UPSAMPLING_KILLS."""
    kills = int(os.environ.get("UPSAMPLING_KILLS", "2"))
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(TRAINING))
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(here.parents[1]), "JAX_PLATFORMS": "cpu"}
    rng = random.Random(0)

    def start(folder):
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, str(script), str(folder)], env=environment)

    def until(condition, process):
        while not condition() and process.poll() is None:
            time.sleep(0.002)

    assert start(tmp_path / "whole").wait() == 0
    folder = tmp_path / "killed"
    stored = folder / "checkpoint.npz"
    for _ in range(kills):
        before = stored.stat().st_mtime_ns if stored.exists() else 0
        process = start(folder)
        # Wherever it is: starting, training, or writing.
        until(lambda: stored.exists() and stored.stat().st_mtime_ns != before, process)  # noqa: B023
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.wait()
    assert start(folder).wait() == 0
    with np.load(tmp_path / "whole" / "done.npz") as whole, np.load(folder / "done.npz") as killed:
        assert {name: whole[name].tobytes() for name in whole} == {name: killed[name].tobytes() for name in killed}
