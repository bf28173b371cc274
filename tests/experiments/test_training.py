"""The loop: it learns, and a run that was stopped ends with the same numbers as one that was not."""

import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import checkpoints, interruption, training


class Lines:
    """Endless batches of points on a line, the n-th a function of n."""

    def __init__(self):
        self.place = 0

    def __iter__(self):
        return self

    def __next__(self):
        rng = np.random.default_rng(self.place)
        self.place += 1
        x = rng.normal(size=(16, 3)).astype(np.float32)
        x = x[jax.process_index() :: jax.process_count()]  # the rows of this process, where there are several
        return {"x": x, "y": x @ np.float32([1, -2, 0.5])}

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


def loss(params, statistics, batch):
    """Squared error, and a running mean of the inputs, which a resumed run must take up too."""
    error = jnp.mean((batch["x"].astype(params["w"].dtype) @ params["w"] - batch["y"]) ** 2).astype(jnp.float32)
    return error, {"mean": 0.9 * statistics["mean"] + 0.1 * batch["x"].mean(axis=0)}


def fit(folder, steps=40, progress=lambda step, loss: None, loss=loss, log=None, checkpoint_every=300.0, **options):
    return training.fit(
        {"w": jnp.zeros(3)},
        {"mean": jnp.zeros(3)},
        loss,
        Lines(),
        training.Options(steps=steps, learning_rate=0.5, **options),
        folder=folder,
        validate=lambda params, statistics: {"error": float(jnp.abs(params["w"] - jnp.array([1, -2, 0.5])).max())},
        progress=progress,
        log=log or (lambda step, metrics: None),
        checkpoint_every=checkpoint_every,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole"))


def test_it_learns_and_records(whole):
    assert len(whole.history.loss) == 40
    assert len(whole.history.seconds) == 39
    assert [v["step"] for v in whole.history.validation] == [8, 16, 24, 32, 40]
    assert whole.history.loss[-1] < 0.01 * whole.history.loss[0]
    assert whole.history.validation[-1]["error"] < 0.1  # it was 2 before the first step
    assert (whole.statistics["mean"] != 0).all()
    assert whole.cost.operations > 0
    assert whole.cost.compile_seconds > 0


@pytest.mark.parametrize("stop_at", [1, 8, 21, 40])
@pytest.mark.parametrize(
    ("number", "exception"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, interruption.Terminated)]
)
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, whole, stop_at, number, exception):
    def interrupt(step, _):
        if step == stop_at:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(tmp_path, progress=interrupt)
    assert stopped.type is exception
    steps = []
    resumed = fit(tmp_path, progress=lambda step, _: steps.append(step))
    assert steps == list(range(stop_at + 1, 41))
    assert resumed.history.loss == whole.history.loss
    assert resumed.history.validation == whole.history.validation
    chex.assert_trees_all_equal(resumed[:2], whole[:2])


def test_a_fault_between_checkpoints_goes_back_to_the_last_one(tmp_path, whole):
    def fault(step, _):
        if step == 13:
            raise RuntimeError("power failure")

    with pytest.raises(RuntimeError, match="power failure"):
        fit(tmp_path, progress=fault)
    steps = []
    resumed = fit(tmp_path, progress=lambda step, _: steps.append(step))
    assert steps[0] == 9
    chex.assert_trees_all_equal(resumed[:2], whole[:2])


def test_a_finished_run_is_not_trained_again(tmp_path, whole):
    fit(tmp_path)
    steps = []
    again = fit(tmp_path, progress=lambda step, _: steps.append(step))
    assert steps == []
    chex.assert_trees_all_equal(again[:2], whole[:2])
    assert again.cost.operations == whole.cost.operations


def test_signals_work_as_before_once_the_loop_is_left(tmp_path):
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    fit(tmp_path, steps=2)
    assert [signal.getsignal(number) for number in numbers] == before


class Weighed(Lines):
    """The same of another seed, with a weight of the loss from some batch on."""

    def __init__(self, seed, weight=1.0, since=0):
        self.place, self._weight, self._since = 1000 * seed, weight, since

    def __next__(self):
        weight = self._weight if self.place % 1000 >= self._since else 1.0
        return {**super().__next__(), "weight": np.full(16, weight, np.float32)}


def together(folder, batches, progress=lambda step, loss: None, steps=40):
    """`fit_together`, of lanes whose first watches."""
    lanes = [
        training.Lane(
            {"w": jnp.full(3, 0.1 * i)},
            {"mean": jnp.zeros(3)},
            of,
            lambda params, statistics: {"error": float(jnp.abs(params["w"]).max())},
            *([] if i else [progress]),
            folder=folder and folder / f"seed{i}",
        )
        for i, of in enumerate(batches)
    ]

    def weighed(params, statistics, batch):
        value, statistics = loss(params, statistics, batch)
        return value * batch["weight"].mean(), statistics

    return training.fit_together(lanes, weighed, training.Options(steps=steps, learning_rate=0.5))


def test_lanes_go_as_if_alone():
    found = together(None, [Weighed(0), Weighed(1), Weighed(2)])
    (alone,) = together(None, [Weighed(0)])
    chex.assert_trees_all_close(found[0][:2], alone[:2], rtol=1e-6)
    np.testing.assert_allclose(found[0].history.loss, alone.history.loss, rtol=1e-5)
    assert [v["step"] for v in found[2].history.validation] == [8, 16, 24, 32, 40]
    assert found[2].history.loss[-1] < 0.01 * found[2].history.loss[0]
    assert found[0].history.loss != found[1].history.loss
    assert found[0].cost.operations == pytest.approx(alone.cost.operations, rel=0.02)


def test_a_lane_that_is_lost_does_not_stop_the_others(tmp_path):
    batches = [Weighed(0), Weighed(1, weight=np.inf, since=10), Weighed(2)]
    found = together(tmp_path, batches)
    assert [isinstance(of, training.Diverged) for of in found] == [False, True, False]
    assert (found[1].step, len(found[1].history.loss)) == (11, 11)
    assert training.divergence(tmp_path / "seed1")["step"] == 11
    assert np.isfinite(found[2].history.loss).all()
    assert len(found[2].history.loss) == 40


@pytest.mark.parametrize("stop_at", [5, 20])
def test_lanes_that_were_stopped_go_on_to_the_same_numbers(tmp_path, stop_at):
    def batches():
        return [Weighed(0), Weighed(1, weight=np.inf, since=10)]

    def interrupt(step, _):
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    expected, lost = together(None, batches())
    with pytest.raises(interruption.Terminated):
        together(tmp_path, batches(), progress=interrupt)
    steps = []
    found, again = together(tmp_path, batches(), progress=lambda step, _: steps.append(step))
    assert steps == list(range(stop_at + 1, 41))
    assert again.step == lost.step == 11
    assert found.history.loss == expected.history.loss
    assert found.history.validation == expected.history.validation
    chex.assert_trees_all_equal(found[:2], expected[:2])
    # A lane that is to be trained anew takes the others with it, who end as they did.
    (tmp_path / "seed1" / training.DIVERGED).unlink()
    steps.clear()
    found, again = together(tmp_path, batches(), progress=lambda step, _: steps.append(step))
    assert steps == list(range(1, 41))
    chex.assert_trees_all_equal(found[:2], expected[:2])


def test_a_checkpoint_comes_every_so_many_seconds(tmp_path, whole):
    def fault(step, _):
        if step == 13:
            raise RuntimeError("power failure")

    with pytest.raises(RuntimeError, match="power failure"):
        fit(tmp_path, progress=fault, checkpoint_every=1e-9)
    steps = []
    resumed = fit(tmp_path, progress=lambda step, _: steps.append(step))
    assert steps[0] == 13  # the twelfth was stored
    chex.assert_trees_all_equal(resumed[:2], whole[:2])


def test_checkpoints_come_no_more_often_than_that(tmp_path, monkeypatch):
    now, stored, save = 0.0, [], checkpoints.save

    def tick(step, _):
        nonlocal now
        now += 1

    def noting(path, state, place):
        stored.append(len(place["histories"][0]["loss"]))
        save(path, state, place)

    monkeypatch.setattr(training.time, "monotonic", lambda: now)
    monkeypatch.setattr(checkpoints, "save", noting)
    fit(tmp_path, progress=tick, checkpoint_every=4.5)
    assert stored == [5, 8, 13, 16, 21, 24, 29, 32, 37, 40]  # five seconds on, and at each validation


def test_nothing_is_stored_without_a_folder(whole):
    chex.assert_trees_all_equal(fit(None)[:2], whole[:2])


def test_the_log_has_every_step_and_every_validation(tmp_path):
    entries = []
    outcome = fit(tmp_path, log=lambda step, metrics: entries.append((step, metrics)))
    losses = [(step, m["loss"]) for step, m in entries if "loss" in m]
    assert losses == list(enumerate(outcome.history.loss, 1))
    assert [step for step, m in entries if "validation/error" in m] == [8, 16, 24, 32, 40]


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(tmp_path):
    seen = []

    def noting(params, statistics, batch):
        seen.append(params["w"].dtype)
        return loss(params, statistics, batch)

    outcome = fit(tmp_path, loss=noting, precision="bfloat16")
    assert set(seen) == {jnp.bfloat16.dtype}
    assert outcome.params["w"].dtype == jnp.float32
    assert outcome.history.validation[-1]["error"] < 0.2


def test_a_loss_that_is_not_finite_stops_the_training_and_is_not_met_again(tmp_path):
    def explodes(params, statistics, batch):
        error, statistics = loss(params, statistics, batch)
        return error / (jnp.abs(params["w"]).sum() < 1), statistics  # infinite once the weights have grown

    with pytest.raises(training.Diverged, match=r"loss is (inf|nan) at step") as diverged:
        fit(tmp_path, loss=explodes)
    assert 1 < diverged.value.step < 40
    assert len(diverged.value.history.loss) == diverged.value.step
    found = training.divergence(tmp_path)
    assert (found["step"], found["loss"]) == (diverged.value.step, repr(diverged.value.loss))
    assert (tmp_path / "diverged.npz").exists()
    steps = []
    with pytest.raises(training.Diverged, match=r"loss is (inf|nan) at step") as again:
        fit(tmp_path, loss=explodes, progress=lambda step, _: steps.append(step))
    assert (again.value.step, steps) == (diverged.value.step, [])
    (tmp_path / "diverged.json").write_text("{")
    with pytest.raises(checkpoints.Damaged, match=r"diverged\.json: damaged"):
        fit(tmp_path, loss=explodes)


def test_parameters_that_the_last_step_breaks_are_a_divergence(tmp_path):
    def pointed(params, statistics, batch):
        return jnp.sqrt((params["w"] ** 2).sum()), statistics  # zero, and its slope is no number

    with pytest.raises(training.Diverged, match="parameters are not finite at step 1"):
        fit(tmp_path, loss=pointed, steps=1)
    assert training.divergence(tmp_path) == {"step": 1, "loss": "0.0"}


def test_validations_are_spread_evenly():
    assert [v["step"] for v in fit(None, steps=6).history.validation] == [1, 2, 4, 5, 6]


def test_one_step_is_enough_for_a_run(tmp_path):
    outcome = fit(tmp_path, steps=1)
    assert len(outcome.history.loss) == 1
    assert [v["step"] for v in outcome.history.validation] == [1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outcome.params))
