"""Many devices: eight simulated ones, and two processes, give what one device gives, to rounding, and resume."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import devices, runs
from experiments.data import loader
from tests.compiling import QUICKLY
from tests.experiments import test_training as toy
from tests.experiments.test_loader import dataset

HERE = Path(__file__).parent
COMMON = """
    import sys
    from pathlib import Path
    import jax, numpy as np
    from experiments import devices
    folder = Path(sys.argv[1])
"""
SCORES = """
    from experiments.data import Dataset, Example, Split
    from experiments import trials
    from experiments.tasks import segmentation as task

    def scores():
        rng = np.random.default_rng(0)
        label = [(rng.random((12, 10 + i // 5)) < 0.5).astype(np.int32) for i in range(11)]
        split = Split(tuple("abcdefghijk"), [Example(image=m[..., None].astype(np.float32), label=m) for m in label])
        data = Dataset("d", "", ("a", "b"), 1, None, split, split, split, None, ())
        above = jax.jit(lambda level, x: (x[..., 0] > level).astype(int))
        maps = trials.predict(above, (np.float32(0.5),), list(task.chunks(split)))
        wrong = [np.roll(m, 1, 0) for m in maps]
        iou = task.evaluate(wrong, split, data, ("mean_iou",))["mean_iou"]["mean"]
        return np.array([np.mean([np.mean(m == t) for m, t in zip(maps, label, strict=True)]), iou])
"""
TRAIN = """
    from tests.experiments import test_training as toy
    steps = []
    def progress(step, loss):
        steps.append(step)
        if len(sys.argv) > 4:
            import time; time.sleep(0.05)
    own = folder / str(jax.process_index())
    own.mkdir(exist_ok=True)
    found = toy.fit(own, progress=progress)
    np.savez(own / "done.npz", loss=found.history.loss, first=steps[:1], w=found.params["w"],
             mean=found.statistics["mean"], devices=jax.device_count(), scores=scores())
"""


def script(tmp_path, *parts):
    path = tmp_path / "script.py"
    path.write_text("\n".join(map(textwrap.dedent, parts)))
    return path


def environment(count):
    flags = f"{QUICKLY} --xla_force_host_platform_device_count={count}"
    return os.environ | {"PYTHONPATH": str(HERE.parents[1]), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def expected_scores():
    names = {}
    exec("import jax\nimport numpy as np\n" + textwrap.dedent(SCORES), names)
    return names["scores"]()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The toy's training and the scores on one device."""
    return toy.fit(tmp_path_factory.mktemp("alone")), expected_scores()


def assert_same(path, alone, count):
    outcome, scores = alone
    with np.load(path) as found:
        assert found["devices"] == count
        np.testing.assert_allclose(found["loss"], outcome.history.loss, rtol=2e-5)
        np.testing.assert_allclose(found["w"], outcome.params["w"], rtol=1e-5)
        np.testing.assert_allclose(found["mean"], outcome.statistics["mean"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["scores"], scores, rtol=1e-6)


def test_eight_devices_give_the_losses_and_scores_of_one(tmp_path, alone):
    path = script(tmp_path, COMMON, SCORES, TRAIN)
    subprocess.run([sys.executable, path, tmp_path], env=environment(8), check=True)
    assert_same(tmp_path / "0" / "done.npz", alone, 8)


def start_two(tmp_path, *more):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    join = "devices.initialize(sys.argv[2], 2, int(sys.argv[3]))\nassert jax.process_count() == 2"
    path = script(tmp_path, COMMON, join, SCORES, TRAIN)
    return [
        subprocess.Popen(
            [sys.executable, path, tmp_path, f"localhost:{port}", str(i), *more],
            env=environment(2),
            stderr=subprocess.PIPE,
        )
        for i in (0, 1)
    ]


def test_two_processes_stop_together_and_go_on_to_the_losses_of_one_device(tmp_path, alone):
    run = start_two(tmp_path, "slowly")
    while not (tmp_path / "1" / "checkpoint.npz").exists() and run[1].poll() is None:
        time.sleep(0.02)
    run[1].send_signal(signal.SIGTERM)  # to one of them
    for process in run:
        _, told = process.communicate(timeout=60)
        assert b"Terminated" in told
    assert not (tmp_path / "0" / "done.npz").exists()
    for process in start_two(tmp_path):
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0, told
    for i in "01":
        assert_same(tmp_path / i / "done.npz", alone, 4)
    first = [int(np.load(tmp_path / i / "done.npz")["first"][0]) for i in "01"]
    assert first[0] == first[1] > 8


def test_a_process_whose_peer_has_ended_says_how_to_go_on_and_waits_for_none(tmp_path, monkeypatch, capsys):
    def lost():
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer\nmore")

    with pytest.raises(jax.errors.JaxRuntimeError), runs.told_how_to_go_on(tmp_path, "..."):
        lost()  # one process alone has another fault
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(runs.Stopped) as stopped, runs.told_how_to_go_on(tmp_path, "the command"):
        lost()
    assert re.search(
        r"Connection closed by peer\. .* are safe\. Go on with all processes: the command", str(stopped.value)
    )
    ended, copy = [], tmp_path / "copy"
    copy.mkdir()
    monkeypatch.setattr(devices, "_copies", [copy])
    monkeypatch.setattr(devices.os, "_exit", ended.append)
    devices.leave()
    assert ended == [1]
    assert not copy.exists()


def test_processes_share_batches_between_them():
    whole = loader.batches(dataset(), size=4, crop=(8, 9), seed=0)
    parts = [loader.batches(dataset(), size=4, crop=(8, 9), seed=0, part=(i, 2)) for i in (0, 1)]
    arrays = {"x": np.arange(10)}
    stored = loader.StoredBatches(arrays, size=4, seed=0)
    halves = [loader.StoredBatches(arrays, size=4, seed=0, part=(i, 2)) for i in (0, 1)]
    for _ in range(4):
        batch = next(whole)
        for i, part in enumerate(parts):
            np.testing.assert_array_equal(next(part)["image"], batch["image"][i::2])
        batch = next(stored)["x"]
        for i, half in enumerate(halves):
            np.testing.assert_array_equal(next(half)["x"], batch[i::2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:1", None, 0), "go together; give all three or none"),
        (("localhost:1", 2, 2), "--process 2: must be from 0 to 1"),
    ],
)
def test_processes_must_know_one_another(arguments, message):
    with pytest.raises(ValueError, match=message):
        devices.initialize(*arguments)


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, False),  # a shell within an allocation
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_clusters_are_found_by_what_they_say(variables, several, monkeypatch):
    for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert devices._is_one_of_several() == several
