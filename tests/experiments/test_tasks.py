"""What a task is: a module and a line. A small one is made up here and goes through the whole engine."""

import dataclasses
import json
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import choose, comparison, rates, study, tasks, trials
from experiments.data import pictures
from experiments.data.loader import StoredBatches
from experiments.models import blocks
from experiments.statistics import Sums
from experiments.tasks import Measure, Task, Words

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8)).astype(np.uint8)


@dataclass(frozen=True)
class Doubling(comparison.Comparison):
    def trained(self):
        return ["plain"]

    def load(self):
        parts = {"train": IMAGES[:4], "validation": IMAGES[4:5], "test": IMAGES[4:]}
        named = {part: {f"{part} {i}": image for i, image in enumerate(images)} for part, images in parts.items()}
        return pictures.from_parts("noise", "Noise.", named)


class Net(nnx.Module):
    def __init__(self, method, seed):
        self.up = blocks.make_upsampler(method, 1, 2, rngs=nnx.Rngs(seed))
        self.gain = nnx.Param(jnp.ones(()))

    def __call__(self, image):
        return self.gain[...] * self.up(image)


def trial(job, rate, config, data, shared):
    model = Net(job.method, job.seed)
    structure, params, rest = nnx.split(model, nnx.Param, ...)
    large = IMAGES[:4, :, :, None] / np.float32(255)

    def apply(params, small):
        return nnx.merge(structure, params, rest)(small)

    def measure(made):
        wrong = np.array([[np.abs(m - i.astype(float)).mean()] for m, i in zip(made, IMAGES[4:], strict=False)])
        return {name: Sums(wrong[None], np.ones((1, *wrong.shape))) for name in ("error", trials.CURVE)}

    def predict(params, _):
        made = apply(params, IMAGES[4:, ::2, ::2, None] / np.float32(255))[..., 0]
        return list(np.clip(np.round(255 * np.asarray(made)), 0, 255).astype(np.uint8))

    made_of = trials.Trial(
        model,
        params,
        rest,
        lambda params, rest, batch: (jnp.mean((apply(params, batch["small"]) - batch["large"]) ** 2), rest),
        StoredBatches({"small": large[:, ::2, ::2], "large": large}, size=config.batch, seed=job.seed),
        validate=lambda *variables: {"error": float(measure(predict(*variables)[:1])["error"].value()[0])},
        predict=predict,
        measure=measure,
        variant=None,
        receptive_field=(1, 1),
    )
    return made_of, config.options(rate, validations=1)


TASK = Task(
    name="doubling",
    settings=Doubling,
    resolve=Doubling.resolved,
    measures={"error": Measure("error", "mean absolute error", lower_is_better=True, brief=True)},
    primary="error",
    followed=("error",),
    bins=(0, 1),
    stage=comparison.stage,
    trial=trial,
    words=Words(
        heading="Doubling noise",
        where={"plain": "Plainly"},
        better="doubled better",
        best="best doubling",
        unit="images",
        beyond="anything",
        titles={"plain": "Plain"},
        design=lambda name, settings: "Doubled.",
        settings=lambda settings, designs: ["Set."],
        curve="Error",
        curve_says="All of it.",
        level="error",
        across="bin",
    ),
)


def test_a_module_and_a_line_make_a_task(monkeypatch, tmp_path):
    known = tasks.known()
    monkeypatch.setattr(tasks, "known", lambda: (*known, TASK))
    config = Doubling(methods=("nearest", "bilinear", "transposed_conv"), seeds=(0, 1), steps=3, batch=2, quiet=True)
    result = study.run(config, out=tmp_path / "run")
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["task"] == "doubling"
    assert set(result.values("plain")) == {"nearest", "bilinear", "transposed_conv"}
    assert result.values("plain")["nearest"].shape == (2,)
    assert "Doubling noise" in (tmp_path / "run" / "report.html").read_text()
    assert choose.choose([(result.results, result.timing)])[0]["need"] == "best doubling"
    again = study.run(Doubling(resume=tmp_path / "run", quiet=True))
    assert again.results == result.results
    together = study.run(dataclasses.replace(config, seeds=(0, 1, 2), seeds_at_once=2), out=tmp_path / "together")
    for method in result.values("plain"):
        # Rounding may turn a byte of what is predicted.
        np.testing.assert_allclose(together.values("plain")[method][:2], result.values("plain")[method], rtol=1e-4)
    # Where one of the two is missing, both are made again.
    (tmp_path / "together" / "plain" / "transposed_conv" / "seed1" / "result.json").unlink()
    again = study.run(Doubling(resume=tmp_path / "together", quiet=True))
    assert again.results == together.results
    # The checkpoint of both is in the folder of the first, which is done.
    seeds = tmp_path / "together" / "plain" / "transposed_conv"
    (seeds / "seed1" / "result.json").unlink()
    checkpoint = seeds / "seed0" / "checkpoint.npz"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"seed0/checkpoint\.npz: damaged .* --redo damaged"):
        study.run(Doubling(resume=tmp_path / "together", quiet=True))
    again = study.run(Doubling(resume=tmp_path / "together", redo=("damaged",), quiet=True))
    assert again.results == together.results


def test_seeds_that_are_trained_together_are_tried_with_the_same_rates():
    config = Doubling(methods=("nearest", "bilinear"), seeds=(0, 1, 2, 3, 4), learning_rate=(0.1, 0.01))

    def seeds(**changed):
        found = rates.together(dataclasses.replace(config, **changed))
        return [[job.seed for job in jobs] for jobs in found if jobs[0].method == "nearest"]

    assert [job for jobs in rates.together(config) for job in jobs] == config.jobs()
    assert seeds(seeds_at_once=3) == [[0, 1], [2, 3, 4]]  # two of them decide the rate
    assert seeds(seeds_at_once=2) == [[0, 1], [2, 3], [4]]
    assert seeds(seeds_at_once=3, learning_rate=(0.1,)) == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize("task", tasks.known(), ids=lambda task: task.name)
def test_what_each_task_says_of_itself_fits(task):
    config = task.resolve(task.settings())
    assert tasks.of(config) is task is tasks.named(task.name)
    assert task.primary in task.measures
    assert set(task.followed) <= set(task.measures)
    kinds = {design.partition(" ")[0] for design in config.trained()}
    assert kinds <= set(task.words.where) & set(task.words.titles)
    assert {job.design for job in config.jobs()} == set(config.trained())


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match=r"no task is called 'painting'\. Known: segmentation"):
        tasks.named("painting")
