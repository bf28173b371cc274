"""The study from Python: own upsampler, data and network, figures as arrays, and no folder unless one is asked for."""

import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx
from matplotlib.figure import Figure

from experiments import example, logs, study, trials
from experiments.data import own

METHODS = ["bilinear", "experiments.example:Blurred"]


@pytest.fixture(scope="module")
def told():
    """What the example prints, and what its run tells a sink."""
    return {"printed": io.StringIO(), "entries": []}


@pytest.fixture(scope="module")
def stored(tmp_path_factory, told):
    """The example's run, kept in a folder."""
    run = study.run
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(told["printed"]):
        sinks = [told["entries"].append]
        patch.setattr(study, "run", lambda *a, **k: run(*a, **{**k, "sinks": [*k["sinks"], *sinks]}))
        out = tmp_path_factory.mktemp("runs") / "own"
        return example.main(steps=2, out=out, json_lines=True, tensorboard=True, quiet=True)


def test_the_example_says_what_it_found(stored, told):
    printed = told["printed"].getvalue()
    assert "experiments.example:Blurred: Boundary IoU" in printed
    assert "unet-differences" in printed
    assert "(32, 32)" in printed
    assert "entries told while training: 16" in printed  # of four trainings two steps and two validations


def test_results_are_arrays_and_figures(stored):
    values = stored.values("unet")
    assert list(values) == METHODS
    assert values["bilinear"].shape == (2,)
    maps = stored.predictions("unet", "bilinear", 1)
    truth = [label for _, label in example.data.test]
    iou = [
        sum(((m == c) & (t == c)).sum() for m, t in zip(maps, truth, strict=True))
        / sum(((m == c) | (t == c)).sum() for m, t in zip(maps, truth, strict=True))
        for c in (0, 1)
    ]
    assert stored.values("unet", "mean_iou")["bilinear"][1] == pytest.approx(np.mean(iou), abs=1e-6)
    assert [row["method"] for row in stored.table("unet")] == ["bilinear", "Blurred"]  # tables name the class alone
    assert all(isinstance(figure, Figure) for figure in stored.figures().values())


def test_an_own_network_is_named(stored):
    assert stored.results["settings"]["model"] == "TwoSteps"
    assert "a TwoSteps, trained for 2 steps" in (stored.folder / "report.html").read_text()


def test_upsamplers_of_an_own_network_are_counted():
    plain, learned = (example.TwoSteps(1, 2, method) for method in ("bilinear", "transposed_conv"))
    added = [trials.count(nnx.state(model, nnx.Param)) for model in (plain, learned)]
    assert trials.upsampler_parameters(plain, "bilinear") == 0
    assert trials.upsampler_parameters(learned, "transposed_conv") == added[1] - added[0] > 0


def test_a_sink_is_told_every_step_and_every_validation(stored, told):
    entries = told["entries"]
    places = {f"unet/{name.replace(':', '.')}/seed{seed}" for name in METHODS for seed in (0, 1)}
    assert {entry.training for entry in entries} == places
    losses = stored.results["designs"]["unet"]["methods"]["bilinear"]["seeds"]["0"]["loss"]
    of = "unet/bilinear/seed0"
    found = [(e.step, e.metrics["loss"]) for e in entries if e.training == of and "loss" in e.metrics]
    assert found == list(enumerate(losses, 1))
    assert any("validation/mean_iou" in entry.metrics for entry in entries)
    lines = [json.loads(line) for line in (stored.folder / of / "steps.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == losses
    assert len(list((stored.folder / "tensorboard" / of).iterdir())) == 1


def test_a_run_goes_on_with_the_same_data_and_network(stored):
    again = study.run(study.Segmentation(resume=stored.folder, quiet=True), data=example.data, model=example.TwoSteps)
    assert again.results == stored.results
    other = SimpleNamespace(**{**vars(example.data), "test": example.discs(6, 3)})
    with pytest.raises(ValueError, match="the data are not those that this run began with"):
        study.run(study.Segmentation(resume=stored.folder), data=other, model=example.TwoSteps)


def test_nothing_is_stored_unless_a_folder_is_given(tmp_path, monkeypatch):
    places = []

    def train(run, sinks, *, page):
        places.append(run.folder)
        assert (run.folder / "config.json").exists()
        return study.Result({}, {}, run.data, {}, run.folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "train", train)
    found = study.run(study.Segmentation(design=("unet",), methods=("bilinear",), crop=16), data=example.data)
    assert found.folder is None
    assert not places[0].exists()
    assert list(tmp_path.iterdir()) == []


def image(*shape):
    return np.zeros(shape, np.float32)


def labels(high=2):
    return np.arange(16 * 16).reshape(16, 16) % high


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({"train": None}, TypeError, "no attribute train"),
        ({"classes": ("one",)}, ValueError, "2 to 255 classes; got 1"),
        ({"test": []}, ValueError, r"data\.test: there are no examples"),
        ({"test": [image(16, 16)]}, TypeError, r"data\.test\[0\]: must be an image and its labels; got ndarray"),
        ({"test": [(image(16, 17), labels())]}, ValueError, r"data\.test\[0\]: must be \(H, W, channels\)"),
        ({"test": [(image(16, 16), labels() * 1.0)]}, ValueError, r"labels must be whole numbers; got float64"),
        ({"test": [(image(16, 16), labels(3))]}, ValueError, r"label 2 is none of the 2 classes"),
        ({"test": [(image(16, 16) + np.nan, labels())]}, ValueError, "not finite"),
        ({"test": [(image(16, 16, 3), labels())]}, ValueError, "images have 1 and 3 channels"),
    ],
)
def test_data_that_cannot_be_are_refused(attributes, error, message):
    pair = [(image(16, 16), labels())]
    found = {"classes": ("a", "b"), "train": pair, "validation": pair, "test": pair} | attributes
    data = SimpleNamespace(**{name: value for name, value in found.items() if value is not None})
    with pytest.raises(error, match=message):
        own.adapt(data)


def test_data_are_filled_in_where_they_say_nothing():
    examples = [{"image": image(16, 16, 3), "label": np.full((16, 16), 9)}] * 2
    data = own.adapt(
        SimpleNamespace(classes=("a", "b"), train=examples, validation=examples, test=examples, ignore_index=9)
    )
    assert (data.channels, data.ignore_index, data.flips, data.train.names) == (3, 9, (), ("0", "1"))
    assert data.train.examples[1]["label"].dtype == np.int32
    assert own.adapt(data) is data


def test_the_interface_of_a_sink_is_a_function():
    assert logs.Entry("unet/nearest/seed0", 1, {"loss": 0.5}).metrics["loss"] == 0.5
