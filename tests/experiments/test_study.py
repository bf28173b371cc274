"""The main job from the command line: what it writes, that it repeats itself, resumes, and refuses well."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import upsampling as up
from experiments import __main__ as command
from experiments import console, designs, files, runs, settings, study, training
from experiments.tasks import segmentation

ROOT = Path(__file__).parents[2]
NETWORK = (
    "--width 4 --depth 1 --features 4 --batch 2 --crop 16 --steps 6 --trunk-steps 2 --head-steps 6 --crops 4 "
    "--head-learning-rate 0.01"
)
SMALL = (*NETWORK.split(), "--methods", "nearest", "deconv", "--seeds", "0")
UNET, FROZEN = ("--design", "unet"), ("--design", "frozen")


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
    small = [*SMALL, *options] if "--design" in options else [*SMALL, *UNET, *options]
    return command.main(["segmentation", "--data", "folder", "--path", str(images), *small, "--out", str(out)])


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    assert run(images, out) == 0
    return out


@pytest.fixture(scope="module")
def frozen(images, tmp_path_factory):
    """Two seeds of heads on frozen trunks."""
    out = tmp_path_factory.mktemp("runs") / "frozen"
    assert run(images, out, *FROZEN, "--methods", "nearest", "bilinear", "deconv", "--seeds", "0", "1") == 0
    return out


def test_a_run_leaves_everything_it_says(finished):
    assert {p.name for p in finished.iterdir()} == {
        *("config.json", "data.json", "results.json", "results.csv", "timing.json", "report.html", "figures", "unet")
    }
    results = json.loads((finished / "results.json").read_text())
    methods = results["designs"]["unet"]["methods"]
    assert list(methods) == ["nearest", "deconv"]
    for outcome in methods.values():
        seed = outcome["seeds"]["0"]
        assert len(seed["loss"]) == 6
        assert seed["validation"][-1]["step"] == 6
        assert len(seed["curve"]) == len(segmentation.DISTANCES) - 1
        for name, measure in segmentation.MEASURES.items():
            figures = seed["figures"][name]
            if figures["classes"]:
                assert figures["classes"].keys() == {"0", "1"}
                assert figures["mean"] == pytest.approx(np.mean(list(figures["classes"].values())))
            assert 0 <= figures["mean"] <= (np.inf if measure.lower_is_better else 1)
            assert outcome["summary"][name] == {"mean": pytest.approx(figures["mean"]), "half_width": None}
    nearest, deconv = methods.values()
    assert nearest["upsampler_parameters"] == 0
    assert deconv["upsampler_parameters"] == 4  # a bias per channel; the kernel is the encoder's
    assert deconv["parameters"] == nearest["parameters"] + 4
    timing = json.loads((finished / "timing.json").read_text())["unet"]
    assert timing["deconv"]["0"]["step_ms"] > 0
    assert timing["deconv"]["0"]["machine"]["platform"] == jax.default_backend()
    for method in ("nearest", "deconv"):
        stored = {p.name for p in (finished / "unet" / method / "seed0").iterdir()}
        assert stored == {"checkpoint.npz", "predictions.npz", "sums.npz", "result.json"}


def test_frozen_heads_share_a_trunk_and_are_held_against_one_method(frozen):
    results = json.loads((frozen / "results.json").read_text())
    assert results["against"] == "bilinear"
    design = results["designs"]["frozen"]
    assert {p.name for p in (frozen / "trunks" / "stride4").iterdir()} == {"seed0", "seed1"}
    for name in ("nearest", "deconv"):
        outcome = design["methods"][name]
        for measure in segmentation.MEASURES:
            ours, theirs = (
                [seed["figures"][measure]["mean"] for seed in design["methods"][m]["seeds"].values()]
                for m in (name, "bilinear")
            )
            difference = np.subtract(ours, theirs)
            assert outcome["paired"][measure]["mean"] == pytest.approx(difference.mean(), abs=1e-9)
            # Student's t for one degree of freedom is 12.706; the standard error of two values half their difference.
            width = 12.7062 * abs(np.diff(difference)[0]) / 2
            assert outcome["paired"][measure]["half_width"] == pytest.approx(width, rel=1e-4, abs=1e-9)
    assert "bilinear" in design["groups"]["boundary_iou_1px"]
    assert design["methods"]["bilinear"]["paired"] == {}
    nearest, deconv = design["methods"]["nearest"], design["methods"]["deconv"]
    assert deconv["parameters"] == nearest["parameters"] + 4  # the trunk's kernel is used and not trained


def test_one_program_serves_all_seeds(frozen):
    timing = json.loads((frozen / "timing.json").read_text())["frozen"]
    for seeds in timing.values():
        assert seeds["0"]["compile_s"] == seeds["1"]["compile_s"] > 0


def test_csv_holds_the_figures_of_json(finished):
    results = json.loads((finished / "results.json").read_text())
    table = list(csv.DictReader((finished / "results.csv").open()))
    assert [tuple(row.values())[:3] for row in table] == [("unet", "nearest", "0"), ("unet", "deconv", "0")]
    for row in table:
        figures = results["designs"]["unet"]["methods"][row["method"]]["seeds"][row["seed"]]["figures"]
        assert float(row["boundary_iou mean"]) == figures["boundary_iou"]["mean"]
        assert float(row["mean_iou 1"]) == figures["mean_iou"]["classes"]["1"]


def test_figures_agree_with_the_stored_predictions(finished, images):
    """The confusion of the stored label maps, counted here with NumPy."""
    with np.load(finished / "unet" / "deconv" / "seed0" / "predictions.npz") as stored:
        names = stored["names"]
        prediction = np.stack([stored[f"label{i}"] for i in range(len(names))])
    truth = np.stack([np.asarray(Image.open(images / "masks" / f"{name}.png")) for name in names])
    iou = [((prediction == c) & (truth == c)).sum() / ((prediction == c) | (truth == c)).sum() for c in (0, 1)]
    results = json.loads((finished / "results.json").read_text())
    assert results["designs"]["unet"]["methods"]["deconv"]["seeds"]["0"]["figures"]["mean_iou"][
        "mean"
    ] == pytest.approx(np.mean(iou), 1e-6)


def test_the_same_seed_gives_the_same_results(finished, images, tmp_path):
    assert run(images, tmp_path / "again") == 0
    for name in ("results.json", "results.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes()


def test_a_stopped_run_is_resumed_to_the_same_results(finished, images, tmp_path, monkeypatch, capsys):
    fit, calls = training.fit_together, []

    def interrupted_fit(lanes, *arguments, **options):
        def step(number, loss):
            lanes[0].progress(number, loss)
            calls.append(number)
            if len(calls) == 9:  # in the middle of the second training
                os.kill(os.getpid(), signal.SIGINT)

        return fit([lanes[0]._replace(progress=step)], *arguments, **options)

    monkeypatch.setattr(training, "fit_together", interrupted_fit)
    out = tmp_path / "stopped"
    assert run(images, out) == 130
    assert "--resume" in capsys.readouterr().out
    assert not (out / "results.json").exists()
    assert command.main(["segmentation", "--resume", str(out)]) == 0
    assert calls == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]  # no step was done twice
    assert (out / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_a_frozen_run_stopped_between_seeds_takes_up_its_trunk(frozen, images, tmp_path, monkeypatch):
    trial, calls = designs.TASK.trial, []

    def interrupted(job, *arguments):
        calls.append(job)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return trial(job, *arguments)

    monkeypatch.setattr(designs.TASK, "trial", interrupted)
    out = tmp_path / "stopped"
    options = (*FROZEN, "--methods", "nearest", "bilinear", "deconv", "--seeds", "0", "1")
    assert run(images, out, *options) == 130
    assert command.main(["segmentation", "--resume", str(out)]) == 0
    assert (out / "results.json").read_bytes() == (frozen / "results.json").read_bytes()


def test_the_page_can_be_written_anew(finished):
    page = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    assert command.main(["report", str(finished)]) == 0
    assert (finished / "report.html").read_bytes() == page


def test_several_seeds_give_intervals_in_any_setting(images, tmp_path):
    options = ("--seeds", "0", "1", "--precision", "bfloat16", "--downsampling", "pool", "--skips", "none")
    assert run(images, tmp_path / "seeds", *options, "--methods", "max_unpool") == 0
    results = json.loads((tmp_path / "seeds" / "results.json").read_text())
    outcome = results["designs"]["unet"]["methods"]["max_unpool"]
    values = [seed["figures"]["mean_iou"]["mean"] for seed in outcome["seeds"].values()]
    assert values[0] != values[1]
    # Student's t for one degree of freedom is 12.706; the standard error of two values half their difference.
    expected = {
        "mean": pytest.approx(np.mean(values)),
        "half_width": pytest.approx(12.7062 * abs(np.diff(values)[0]) / 2),
    }
    assert outcome["summary"]["mean_iou"] == expected


def test_the_pyramid_and_the_gates_are_settings_that_the_run_keeps(images, tmp_path):
    options = ("--model", "fpn", "--attention-gate", "--skips", "all", "--steps", "1", "--methods", "flow_alignment")
    assert run(images, tmp_path / "fpn", *options) == 0
    results = json.loads((tmp_path / "fpn" / "results.json").read_text())
    assert results["settings"]["model"] == "fpn"
    assert results["settings"]["attention_gate"] is True
    outcome = results["designs"]["unet"]["methods"]["flow_alignment"]
    assert outcome["upsampler_parameters"] == 4 * 2 * 2 + 9 * 4 * 2
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
        (["--methods", "no.such.module:Up"], "--methods no.such.module:Up: "),
        ([*UNET, "--methods", "max_unpool"], "--methods max_unpool: needs --downsampling pool"),
        ([*UNET, "--downsampling", "pool"], "--methods deconv: needs --downsampling strided"),
        (["--against", "bilinea"], r"--against bilinea: not known"),
        (["--against", "carafe"], "--against carafe: must be one of the methods compared: nearest "),
        (["--stride", "3"], "--stride 3: must be 2, 4, 8 or 16"),
        (["--crop", "30"], "--crop 30: must be a multiple of --stride 4"),
        (["--crops", "4"], "--crops 4: must be at least --batch 8"),
        (["--head-steps", "0"], "--head-steps 0: must be at least 1"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--seeds", "-1"], "--seeds -1: must be at least 0"),
        (["--crop", "200"], "--crop 200: image y=.* has only 160 × 160 pixels"),
        (["--learning-rate", "nan"], "--learning-rate nan: must be above 0"),
        (["--data", "folder"], "--data folder and --path DIR go together"),
        (["--path", "somewhere"], "--data folder and --path DIR go together"),
        (["--data", "folder", "--path", "nowhere"], "--path nowhere: there is no such folder"),
        (["--resume", "nowhere"], "nowhere: no run here"),
        (["--resume", "nowhere", "--steps", "7"], "give no other option of the study beside it"),
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


@pytest.fixture
def moved(images, finished, tmp_path):
    """A copy of the images, and of the run as if it had been made with them."""
    shutil.copytree(images, tmp_path / images.name)
    shutil.copytree(finished, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"path": str(tmp_path / images.name)}))
    return tmp_path / images.name, tmp_path / "run"


def test_data_that_changed_are_not_mixed_with_those_of_the_run(moved, capsys):
    """A file more or less moves images between training and test."""
    path, folder = moved
    stored = json.loads((folder / "data.json").read_text())
    assert {part: of["images"] for part, of in stored["parts"].items()} == {"train": 12, "validation": 2, "test": 2}
    assert command.main(["report", str(folder)]) == 0  # the same files elsewhere are the same data
    for kind in ("images", "masks"):
        (path / kind / "20.png").write_bytes((path / kind / "3.png").read_bytes())
    capsys.readouterr()
    for arguments in (["report", str(folder)], ["segmentation", "--resume", str(folder)]):
        assert command.main(arguments) == 2
        assert re.search("the data are not those that this run began with .*gained", capsys.readouterr().out)
    for kind in ("images", "masks"):
        (path / kind / "20.png").unlink()
    mask = np.asarray(Image.open(path / "masks" / "3.png"))
    Image.fromarray(1 - mask).save(path / "masks" / "3.png")
    assert command.main(["report", str(folder)]) == 2
    assert "the names are the same, but files, classes or ranges have changed" in capsys.readouterr().out
    path.rename(path.with_name("elsewhere"))
    assert command.main(["report", str(folder)]) == 2
    told = r"there is no such folder\. The run's data are where .*config\.json says: change it there"
    assert re.search(told, capsys.readouterr().out)


def resume(folder, *options):
    return command.main(["segmentation", "--resume", str(folder), *options])


def test_sigterm_stores_and_says_how_to_go_on(moved, monkeypatch, capsys):
    _, folder = moved
    shutil.rmtree(folder / "unet" / "deconv")
    fit = training.fit_together

    def terminated(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return fit(*arguments, **options)

    monkeypatch.setattr(training, "fit_together", terminated)
    assert resume(folder) == 143
    told = r"Stopped\. To go on: python -m experiments segmentation --resume"
    assert re.search(told, capsys.readouterr().out)
    monkeypatch.undo()

    def terminated_at_the_end(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(study, "conclude", terminated_at_the_end)
    assert resume(folder) == 143
    assert re.search(told, capsys.readouterr().out)


def test_a_training_that_diverges_is_told_and_stops_no_other(finished, moved, monkeypatch, capsys):
    _, folder = moved
    own = folder / "unet" / "nearest" / "seed0"
    shutil.rmtree(own)
    fit = training.fit_together

    def diverging(lanes, *arguments, **options):
        files.write_json(lanes[0].folder / "diverged.json", {"step": 3, "loss": "nan"})
        return [training.Diverged(3, float("nan"), training.History())]

    own.mkdir()
    monkeypatch.setattr(training, "fit_together", diverging)
    assert resume(folder) == 0
    told = r"Diverged and left out of the design unet: nearest, seed 0, at step 3\."
    assert re.search(told, capsys.readouterr().out.replace("\n", " "))
    results = json.loads((folder / "results.json").read_text())
    assert list(results["designs"]["unet"]["methods"]) == ["deconv"]
    assert results["diverged"] == [
        {"design": "unet", "method": "nearest", "seed": 0, "step": 3, "loss": "nan", "trunk": False}
    ]
    assert re.search(told, (folder / "report.html").read_text())
    monkeypatch.setattr(training, "fit_together", fit)
    monkeypatch.setattr(designs.TASK, "trial", None)  # it is not trained again
    assert resume(folder) == 0
    monkeypatch.undo()
    assert resume(folder, "--redo", "diverged") == 0
    assert (folder / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_a_run_in_which_all_diverges_ends_with_a_page(images, tmp_path, monkeypatch, capsys):
    def diverging(*arguments, **options):
        raise training.Diverged(2, float("inf"), training.History())

    monkeypatch.setattr(designs.TASK, "stage", diverging)
    assert run(images, tmp_path / "out", *FROZEN, "--methods", "nearest") == 0
    assert "the trunk of seed 0 at step" in capsys.readouterr().out.replace("\n", " ")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["designs"] == {}
    assert results["diverged"][0]["trunk"] is True
    assert "the trunk of seed 0 at step" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("name", ["predictions.npz", "sums.npz", "result.json"])
def test_a_damaged_file_is_named_with_its_remedy(moved, name, monkeypatch, capsys):
    _, folder = moved
    file = folder / "unet" / "nearest" / "seed0" / name
    damaged = bytearray(file.read_bytes())
    for at in range(60, len(damaged), 97):
        damaged[at] ^= 4
    file.write_bytes(damaged)
    for arguments in (["report", str(folder)], ["segmentation", "--resume", str(folder)]):
        assert command.main(arguments) == 2
        assert re.search(rf"nearest/seed0/{name}: damaged .* --redo damaged", capsys.readouterr().out)
    redone = []
    monkeypatch.setattr(
        designs.TASK, "trial", lambda job, *_: redone.append(job) or (_ for _ in ()).throw(KeyboardInterrupt)
    )
    assert resume(folder, "--redo", "damaged") == 130
    assert redone == [("unet", "nearest", 0)]  # and nothing else


def test_a_damaged_checkpoint_is_redone_to_the_same_results(finished, moved, capsys):
    _, folder = moved
    own = folder / "unet" / "deconv" / "seed0"
    (own / "result.json").unlink()
    (own / "checkpoint.npz").write_bytes((own / "checkpoint.npz").read_bytes()[:-9])
    assert resume(folder) == 2
    assert re.search(r"deconv/seed0/checkpoint\.npz: damaged .* --redo damaged", capsys.readouterr().out)
    assert resume(folder, "--redo", "damaged") == 0
    assert (folder / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_two_processes_do_not_work_on_one_run(moved, capsys):
    _, folder = moved
    hold = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / "config.json")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    holder.stdout.readline()
    assert resume(folder) == 1
    assert "another process is working on this run" in capsys.readouterr().out
    holder.kill()  # a process that dies lets go
    holder.wait()
    with runs.locked(folder):
        assert resume(folder) == 1
    with runs.locked(folder):
        pass


def test_a_full_disk_is_one_line_that_says_what_is_safe(moved, capsys):
    """A limit on the size of files: what a full disk does, and can be set in a test."""
    _, folder = moved
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        assert resume(folder) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    printed = capsys.readouterr().out
    assert re.search(
        r"error: .*File too large\. Finished trainings and the last checkpoint are safe\. .*--resume", printed
    )
    assert "Traceback" not in printed


_READ_ONLY = """
import ctypes, os, sys
# A superuser writes everywhere, but for this right; before there are threads, which have their own.
libc, header, rights = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capget(header, rights) == 0
rights[0] &= ~0b110
assert libc.capset(header, rights) == 0
from experiments import __main__ as command
from experiments import training
run = sys.argv[1]
def fit_where_nothing_can_be_written(lanes, *arguments, **options):
    for path, _, _ in os.walk(run):
        os.chmod(path, 0o555)
    lanes[0].folder.mkdir(parents=True)
training.fit_together = fit_where_nothing_can_be_written
sys.exit(command.main(["segmentation", "--resume", run]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="drops a right as Linux names it")
def test_a_folder_that_became_read_only_ends_the_process_with_one_line(moved):
    _, folder = moved
    shutil.rmtree(folder / "unet" / "deconv")
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _READ_ONLY, str(folder)],
            capture_output=True,
            text=True,
            timeout=600,
            cwd=ROOT,
        )
    finally:
        for path, _, _ in os.walk(folder):
            os.chmod(path, 0o755)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    told = r"error: .*Permission denied\. Finished trainings and the last checkpoint are safe\. .*--resume"
    assert re.search(told, ended.stdout)


def test_a_folder_that_cannot_be_written_is_left_as_it_was(images, tmp_path, monkeypatch, capsys):
    write = files.write_json

    def full(path, value):
        if path.name == "config.json":
            raise OSError(28, "No space left on device")
        return write(path, value)

    monkeypatch.setattr(files, "write_json", full)
    assert run(images, tmp_path / "new" / "deep") == 2
    assert "No space left" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": -5}, r"config\.json: --steps -5: must be at least 1"),
        ({"steps": "many"}, r"config\.json: steps 'many': must be a whole number or null"),
        ({"weight_decay": True}, r"weight_decay True: must be a number"),
        ({"model": "vit"}, r"model 'vit': must be 'unet' or 'fpn'"),
        ({"seeds": 3}, r"seeds 3: must be a list of whole numbers or null"),
        ({"methods": ["bilinea"]}, r"--methods bilinea: not known"),
        ({"new": 1}, r"stored by another version"),
    ],
)
def test_a_config_edited_by_hand_is_checked_like_a_new_one(moved, changed, message, capsys):
    _, folder = moved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    assert resume(folder) == 2
    assert re.search(message, capsys.readouterr().out)


def test_a_run_stored_before_a_setting_came_has_it_by_default(moved):
    _, folder = moved
    before, config = settings.stored(folder, designs.TASK), json.loads((folder / "config.json").read_text())
    later = {"reduce": config.pop("reduce"), "seeds_at_once": config.pop("seeds_at_once")}
    (folder / "config.json").write_text(json.dumps(config))
    assert later == {"reduce": 1, "seeds_at_once": 1}
    assert settings.stored(folder, designs.TASK) == before
    del config["steps"]  # of a preset, which may have been another
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"its settings differ in {'steps'}"):
        settings.stored(folder, designs.TASK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint-every", "0"], "--checkpoint-every 0: must be above 0"),
        (["--redo", "damaged"], "--redo is for a run that goes on"),
    ],
)
def test_options_of_a_session_are_checked(options, message, capsys):
    assert command.main(["segmentation", *options]) == 2
    assert message in capsys.readouterr().out


def test_presets_fill_in_what_was_not_given():
    filled = settings.resolve(settings.Segmentation(steps=7))
    assert filled.steps == 7
    assert None not in (filled.width, filled.depth, filled.batch, filled.crop, filled.features, filled.head_steps)
    assert filled.design == ("analytic", "frozen", "unet")
    jobs = filled.jobs()
    frozen = [job for job in jobs if job.design == "frozen"]
    assert frozen == [("frozen", m, s) for s in range(5) for m in (*settings.CLASSIC, "guided_filter")]
    assert [job for job in jobs if job.design == "unet"] == [
        ("unet", m, s) for s in range(3) for m in ("nearest", "bilinear")
    ]


def test_the_preset_of_the_paper():
    paper = settings.resolve(settings.Segmentation(preset="paper"))
    assert paper.trained() == ["frozen", "frozen x8", "head", "unet"]
    assert [paper.stride_of(design) for design in paper.trained()] == [4, 8, 4, 4]
    assert (paper.analytic_stride, paper.width, paper.steps, len(paper.seeds)) == ((2, 4, 8), 32, 4000, 10)
    assert set(paper.methods) == set(up.nn.available())
    assert paper.variants == ("features",)  # the authors' own settings
    assert {job.method for job in paper.jobs() if job.design == "unet"} == set(settings.CLASSIC)
    # An option given overrides the preset's.
    assert settings.resolve(settings.Segmentation(preset="paper", stride=(2,))).analytic_stride == (2,)
    assert settings.resolve(settings.Segmentation(preset="paper", seeds=(3,))).seeds == (3,)


def test_what_was_asked_for_holds_for_all_designs():
    chosen = settings.resolve(settings.Segmentation(methods=("nearest", "bicubic"), seeds=(7,)))
    assert {(job.method, job.seed) for job in chosen.jobs()} == {("nearest", 7), ("bicubic", 7)}
    assert chosen.against == "nearest"  # bilinear is not there


def test_all_methods_are_those_that_fit():
    def methods_of(**options):
        return set(settings.resolve(settings.Segmentation(methods=("all",), **options)).methods)

    assert methods_of(design=("unet",)) == set(up.nn.available()) - {"max_unpool"}
    assert methods_of(design=("unet",), downsampling="pool") == set(up.nn.available()) - {"deconv"}
    assert methods_of(design=("frozen",)) == set(up.nn.available())


def test_batches_of_one_train_at_several_strides_and_rates(images, tmp_path):
    options = ("--batch", "1", "--methods", "nearest", "--stride", "4", "2", "--head-learning-rate", "1e-9", "0.01")
    assert run(images, tmp_path / "one", *FROZEN, *options, "--seeds", "0", "1", "2") == 0
    results = json.loads((tmp_path / "one" / "results.json").read_text())
    assert list(results["designs"]) == ["frozen", "frozen x2"]
    for design, place in (("frozen", "frozen"), ("frozen x2", "frozen-x2")):
        kept = results["designs"][design]["methods"]["nearest"]
        folder = tmp_path / "one" / place / "nearest"
        tried = {
            rate: [
                json.loads((folder / f"seed{seed}" / f"rate{rate:g}" / "result.json").read_text()) for seed in (0, 1)
            ]
            for rate in (1e-9, 1e-2)
        }
        # Judged by validation images alone; the third seed is trained with the choice only.
        quality = {r: np.mean([t["validation"][-1][segmentation.PRIMARY] for t in of]) for r, of in tried.items()}
        assert kept["learning_rate"] == max(quality, key=quality.get)
        assert [p.name for p in (folder / "seed2").iterdir()] == [f"rate{kept['learning_rate']:g}"]
        for seed in (0, 1):
            own = tried[kept["learning_rate"]][seed]
            assert kept["seeds"][str(seed)]["figures"] == own["figures"]
        assert kept["receptive_field"] == [1, 1]
    before = (tmp_path / "one" / "results.json").read_bytes()
    assert command.main(["report", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one" / "results.json").read_bytes() == before


TOY = '''
import jax
import upsampling as up
from flax import nnx

class Toy(nnx.Module):
    """Nearest, then a 3x3 box filter."""

    def __init__(self, features, scale=2, *, rngs):
        self.features, self.scale = features, scale

    def __call__(self, x, guide=None):
        y = up.nearest(x, scale=self.scale)
        return jax.lax.reduce_window(y, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") / 9
'''


def test_a_users_own_module_is_compared_without_editing_the_repository(images, tmp_path, monkeypatch):
    (tmp_path / "my_upsamplers.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    options = ("--design", "frozen", "unet", "--methods", "nearest", "my_upsamplers:Toy", "--steps", "1")
    assert run(images, tmp_path / "own", *options) == 0
    results = json.loads((tmp_path / "own" / "results.json").read_text())
    for design in ("frozen", "unet"):
        assert list(results["designs"][design]["methods"]) == ["nearest", "my_upsamplers:Toy"]


def test_the_terminal_table_fits_eighty_columns(monkeypatch, capsys):
    rows = [dict.fromkeys(("method", "mean IoU", "Boundary IoU", "F1 at 1 px", "F1 at 2 px"), "0.812")] * 2
    monkeypatch.setattr(console, "console", console.Console(width=80))
    console.table("a table", rows, {"mean IoU": [1]})
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80
