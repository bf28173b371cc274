"""The main job from the command line: what it writes, that it repeats itself, resumes, and refuses well."""

import csv
import json
import os
import re
import signal

import jax
import numpy as np
import pytest
from PIL import Image

import upsampling as up
from experiments import __main__ as command
from experiments import console, study, training
from experiments.tasks import segmentation

SMALL = (
    "--width",
    "4",
    "--depth",
    "1",
    "--batch",
    "2",
    "--crop",
    "16",
    "--steps",
    "6",
    "--methods",
    "nearest",
    "deconv",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Sixteen noisy discs and their masks."""
    path = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    (path / "images").mkdir()
    (path / "masks").mkdir()
    for i in range(16):
        rows, columns = np.indices((20, 24))
        mask = np.hypot(rows - rng.uniform(6, 14), columns - rng.uniform(6, 18)) < rng.uniform(4, 8)
        noisy = np.clip(80 + 90 * mask + rng.normal(0, 20, mask.shape), 0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(path / "images" / f"{i}.png")
        Image.fromarray(mask.astype(np.uint8)).save(path / "masks" / f"{i}.png")
    return path


def run(images, out, *options):
    return command.main(
        ["segmentation", "--data", "folder", "--path", str(images), *SMALL, "--out", str(out), *options]
    )


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    assert run(images, out) == 0
    return out


def test_a_run_leaves_everything_it_says(finished):
    assert {p.name for p in finished.iterdir()} == {
        *("config.json", "results.json", "results.csv", "timing.json", "report.html", "methods")
    }
    results = json.loads((finished / "results.json").read_text())
    assert list(results["methods"]) == ["nearest", "deconv"]
    for outcome in results["methods"].values():
        seed = outcome["seeds"]["0"]
        assert len(seed["loss"]) == 6
        assert seed["validation"][-1]["step"] == 6
        for name, measure in segmentation.MEASURES.items():
            figures = seed["figures"][name]
            assert figures["classes"].keys() == {"0", "1"}
            assert figures["mean"] == pytest.approx(np.mean(list(figures["classes"].values())))
            assert 0 <= figures["mean"] <= (np.inf if measure.lower_is_better else 1)
            assert outcome["summary"][name] == {"mean": pytest.approx(figures["mean"]), "half_width": None}
    nearest, deconv = results["methods"].values()
    assert nearest["upsampler_parameters"] == 0
    assert deconv["upsampler_parameters"] == 4  # a bias per channel; the kernel is the encoder's
    assert deconv["parameters"] == nearest["parameters"] + 4
    timing = json.loads((finished / "timing.json").read_text())
    assert timing["deconv"]["0"]["step_ms"] > 0
    assert timing["deconv"]["0"]["machine"]["platform"] == jax.default_backend()
    for method in ("nearest", "deconv"):
        assert (finished / "methods" / method / "seed0" / "checkpoints" / "6").is_dir()


def test_csv_holds_the_figures_of_json(finished):
    results = json.loads((finished / "results.json").read_text())
    table = list(csv.DictReader((finished / "results.csv").open()))
    assert [(row["method"], row["seed"]) for row in table] == [("nearest", "0"), ("deconv", "0")]
    for row in table:
        figures = results["methods"][row["method"]]["seeds"][row["seed"]]["figures"]
        assert float(row["boundary_iou mean"]) == figures["boundary_iou"]["mean"]
        assert float(row["mean_iou 1"]) == figures["mean_iou"]["classes"]["1"]


def test_figures_agree_with_the_stored_predictions(finished, images):
    """The confusion of the stored label maps, counted here with NumPy."""
    with np.load(finished / "methods" / "deconv" / "seed0" / "predictions.npz") as stored:
        names = stored["names"]
        prediction = np.stack([stored[f"label{i}"] for i in range(len(names))])
    truth = np.stack([np.asarray(Image.open(images / "masks" / f"{name}.png")) for name in names])
    iou = [((prediction == c) & (truth == c)).sum() / ((prediction == c) | (truth == c)).sum() for c in (0, 1)]
    results = json.loads((finished / "results.json").read_text())
    assert results["methods"]["deconv"]["seeds"]["0"]["figures"]["mean_iou"]["mean"] == pytest.approx(
        np.mean(iou), 1e-6
    )


def test_the_page_stands_alone(finished):
    page = (finished / "report.html").read_text()
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']{0,40})""", page)
    assert len(sources) >= 4
    assert all(source.startswith("data:image/") for source in sources)
    assert "<link" not in page
    assert "<script" not in page
    for method in ("nearest", "deconv"):
        assert f"<td>{method}</td>" in page


def test_the_same_seed_gives_the_same_results(finished, images, tmp_path):
    assert run(images, tmp_path / "again") == 0
    for name in ("results.json", "results.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes()


def test_a_stopped_run_is_resumed_to_the_same_results(finished, images, tmp_path, monkeypatch, capsys):
    fit, calls = training.fit, []

    def interrupted_fit(*arguments, progress, **options):
        def step(number, loss):
            progress(number, loss)
            calls.append(number)
            if len(calls) == 9:  # in the middle of the second training
                os.kill(os.getpid(), signal.SIGINT)

        return fit(*arguments, progress=step, **options)

    monkeypatch.setattr(training, "fit", interrupted_fit)
    out = tmp_path / "stopped"
    assert run(images, out) == 130
    assert "--resume" in capsys.readouterr().out
    assert not (out / "results.json").exists()
    assert command.main(["segmentation", "--resume", str(out)]) == 0
    assert calls == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]  # no step was done twice
    assert (out / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_the_page_can_be_written_anew(finished):
    page = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    assert command.main(["report", str(finished)]) == 0
    assert (finished / "report.html").read_bytes() == page


def test_several_seeds_give_intervals_in_any_setting(images, tmp_path):
    options = ("--seeds", "0", "1", "--precision", "bfloat16", "--downsampling", "pool", "--skips", "none")
    assert run(images, tmp_path / "seeds", *options, "--methods", "max_unpool") == 0
    results = json.loads((tmp_path / "seeds" / "results.json").read_text())
    outcome = results["methods"]["max_unpool"]
    values = [seed["figures"]["mean_iou"]["mean"] for seed in outcome["seeds"].values()]
    assert values[0] != values[1]
    # Student's t for one degree of freedom is 12.706; the standard error of two values half their difference.
    expected = {
        "mean": pytest.approx(np.mean(values)),
        "half_width": pytest.approx(12.7062 * abs(np.diff(values)[0]) / 2),
    }
    assert outcome["summary"]["mean_iou"] == expected
    assert "±" in (tmp_path / "seeds" / "report.html").read_text()


def test_the_pyramid_and_the_gates_are_settings_that_the_run_keeps(images, tmp_path):
    options = ("--model", "fpn", "--attention-gate", "--skips", "all", "--steps", "1", "--methods", "flow_alignment")
    assert run(images, tmp_path / "fpn", *options) == 0
    results = json.loads((tmp_path / "fpn" / "results.json").read_text())
    assert results["settings"]["model"] == "fpn"
    assert results["settings"]["attention_gate"] is True
    outcome = results["methods"]["flow_alignment"]
    assert outcome["upsampler_parameters"] == 4 * 2 * 2 + 9 * 4 * 2
    assert "One small feature pyramid network per upsampling method" in (tmp_path / "fpn" / "report.html").read_text()
    assert command.main(["report", str(tmp_path / "fpn")]) == 0


def test_an_existing_folder_is_left_alone(finished, images, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    assert run(images, finished) == 2
    assert re.search(r"--out .* is there already", capsys.readouterr().out)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "bilinea"], r"--methods bilinea: not known\. Did you mean bilinear\? Known: nearest "),
        (["--methods", "nearest", "nearest"], "--methods: give at least one, each once"),
        (["--methods", "max_unpool"], "--methods max_unpool: needs --downsampling pool"),
        (["--downsampling", "pool"], "--methods deconv: needs --downsampling strided"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--seeds", "-1"], "--seeds -1: must be at least 0"),
        (["--crop", "200"], "--crop 200: image y=.* has only 160 × 160 pixels"),
        (["--learning-rate", "nan"], "--learning-rate must be above 0"),
        (["--data", "folder"], "--data folder and --path DIR go together"),
        (["--path", "somewhere"], "--data folder and --path DIR go together"),
        (["--data", "folder", "--path", "nowhere"], "--path nowhere: there is no such folder"),
        (["--resume", "nowhere"], "nowhere: no run here"),
        (["--resume", "nowhere", "--steps", "7"], "give no other option beside it"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line_and_leaves_nothing(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["segmentation", *options]) == 2
    printed = capsys.readouterr().out
    assert re.search("error: .*" + message, printed)
    assert len(printed.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_bad_image_is_refused_before_anything_is_written(images, tmp_path, capsys):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for file in (images / folder).iterdir():
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "images" / "7.png").write_bytes(b"")
    assert run(tmp_path, tmp_path / "out") == 2
    assert "7.png: cannot be read as an image" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_presets_fill_in_what_was_not_given():
    filled = study.resolve(study.Segmentation(steps=7))
    assert filled.steps == 7
    assert None not in (filled.width, filled.depth, filled.batch, filled.crop)
    assert filled.jobs() == [(method, 0) for method in study.CLASSIC]


def test_all_methods_are_those_that_fit():
    strided, pooled = (study.resolve(study.Segmentation(methods=("all",), downsampling=d)) for d in ("strided", "pool"))
    assert set(strided.methods) == set(up.nn.available()) - {"max_unpool"}
    assert set(pooled.methods) == set(up.nn.available()) - {"deconv"}


def test_the_terminal_table_fits_eighty_columns(monkeypatch, capsys):
    rows = [dict.fromkeys(("method", "mean IoU", "Boundary IoU", "F1 at 1 px", "F1 at 2 px"), "0.812")] * 2
    monkeypatch.setattr(console, "console", console.Console(width=80))
    console.table("a table", rows, {"mean IoU": 1})
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80
