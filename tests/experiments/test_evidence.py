"""The document that is committed: gathered from results, with their settings, and nothing else."""

import json

import pytest

from experiments import __main__ as command
from experiments import evidence
from tests.experiments import synthetic


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a made-up study, and what its results say."""
    folder = tmp_path_factory.mktemp("study")
    found, timing, *_ = synthetic.study(folder, methods=("nearest", "bilinear", "carafe"), seeds=(0, 1, 2), images=4)
    return folder, found, timing


def test_the_document_holds_the_figures_of_its_runs(study, tmp_path):
    folder, found, timing = study
    (tmp_path / "notes.md").write_text("## Why\n\nBecause.\n")
    notes = ("--notes", str(tmp_path / "notes.md"))
    assert command.main(["evidence", "--from", str(folder), *notes, "--out", str(tmp_path)]) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.endswith("\n\n## Why\n\nBecause.\n")
    assert command.main(["evidence", "--from", str(tmp_path / "RESULTS.json"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "RESULTS.md").read_text() == text  # the notes stay where no others are given
    for design, of in found["designs"].items():
        assert f"### {design}, seeds 0, 1, 2, against bilinear" in text
        for name, outcome in of["methods"].items():
            assert f"| {name} |" in text
            assert f"{outcome['summary']['mean_iou']['mean']:.3f} ± " in text
    assert f"head_steps {found['settings']['head_steps']}" in text
    stored = json.loads((tmp_path / "RESULTS.json").read_text())
    assert stored[0]["timing"] == timing
    assert stored[0]["results"]["designs"]["frozen"]["groups"] == found["designs"]["frozen"]["groups"]
    assert '"loss"' not in json.dumps(stored[0]["results"]["designs"])


def test_runs_are_added_to_the_evidence_that_there_is(study, tmp_path, capsys):
    folder = study[0]
    assert command.main(["evidence", "--from", str(folder), "--out", str(tmp_path)]) == 0
    before = (tmp_path / "RESULTS.md").read_text(), (tmp_path / "RESULTS.json").read_text()
    file = str(tmp_path / "RESULTS.json")
    assert command.main(["evidence", "--from", file, "--out", str(tmp_path)]) == 0
    assert ((tmp_path / "RESULTS.md").read_text(), (tmp_path / "RESULTS.json").read_text()) == before
    assert command.main(["evidence", "--from", file, str(folder), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "RESULTS.md").read_text().count("### frozen, seeds") == 2
    (tmp_path / "other.json").write_text("{}")
    assert command.main(["choose", "--from", str(tmp_path / "other.json")]) == 2
    assert "other.json: this is no RESULTS.json" in capsys.readouterr().out


def test_ours_stands_beside_published_figures_of_the_same_methods(study):
    _, found, timing = study
    text = "\n".join(evidence._published([(found, timing)]))
    of = found["designs"]["frozen"]["methods"]
    gain = of["carafe"]["summary"]["boundary_iou"]["mean"] - of["bilinear"]["summary"]["boundary_iou"]["mean"]
    assert f"| carafe | 42.82 / 29.84 | +2.04 | {100 * gain:+.2f} | blobs, frozen |" in text
    assert "| indexnet | 41.50 / 28.27 | +0.47 | – | – |" in text
    assert "nearest" not in text


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    assert command.main(["evidence", "--from", str(tmp_path)]) == 2
    assert "no finished run here" in capsys.readouterr().out
    assert command.main(["evidence", "--from", str(tmp_path), "--notes", str(tmp_path / "none.md")]) == 2
    assert "none.md: there is no such file" in capsys.readouterr().out
