"""The check of a data set: what it says, what it draws, and that it refuses what a run would refuse."""

import numpy as np
import pytest
from PIL import Image

from experiments import __main__ as command
from experiments import check, console


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setattr(console.console, "_width", 120)


@pytest.fixture
def cells(tmp_path):
    """Ten discs with masks 0 and 255, and a thirteenth as large."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    rows, columns = np.indices((20, 24))
    for i in range(10):
        mask = np.hypot(rows - 10, columns - 12) < 3 + i % 4
        Image.fromarray((60 + 100 * mask + i).astype(np.uint8)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path


def run(path, *options):
    return command.main(["check", "--data", "folder", "--path", str(path), *options])


def test_it_says_what_would_be_trained_on(cells, tmp_path, wide, capsys):
    sheet = tmp_path / "sheet.png"
    assert run(cells, "--sheet", str(sheet), "--labels", "0=background,255=cell") == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    share = np.mean([np.asarray(Image.open(cells / "masks" / f"{i}.png")) > 0 for i in range(10)])
    assert ["255", "cell", f"{100 * share:.1f}", "%", "10", "of", "10"] in lines
    assert [line[:2] for line in lines if line and line[0] in ("train", "validation", "test")] == [
        ["train", "6"],
        ["validation", "2"],
        ["test", "2"],
    ]
    assert "20 × 24" in printed
    assert "0 becomes 0 and 255 becomes 1" in printed
    assert f"Sheet: {sheet}" in printed


def test_the_sheet_shows_images_beside_their_labels(cells, tmp_path):
    assert run(cells, "--sheet", str(tmp_path / "sheet.png")) == 0
    with Image.open(tmp_path / "sheet.png") as opened:
        assert opened.format == "PNG"
        picture = np.asarray(opened.convert("RGB")).reshape(-1, 3)
    colors = (255 * check.palette(2)).round().astype(int)
    for color in colors:  # each class covers some of the sheet
        assert (np.abs(picture - color).max(-1) <= 2).sum() > 1000


def test_what_cannot_be_trained_on_is_shown_and_refused(cells, tmp_path, wide, capsys):
    Image.fromarray(np.full((20, 24), 1, np.uint8)).save(cells / "masks" / "3.png")
    assert run(cells, "--sheet", str(tmp_path / "sheet.png")) == 2
    printed = capsys.readouterr().out
    assert "Values in 10 masks" in printed
    assert "1 of 10" in printed
    assert "error: 255 would be ignored" in printed
    assert not (tmp_path / "sheet.png").exists()
    assert run(cells, "--ignore", "255", "--sheet", str(tmp_path / "sheet.png")) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sheet", "sheet.jpg"], r"--sheet sheet.jpg: must end in .png"),
        (["--intensities", "5", "5"], "--intensities 5 5: must be low, then high"),
        (["--layout", "canvid"], "--layout 'canvid' is not known"),
    ],
)
def test_wrong_options_are_one_line(cells, options, message, capsys):
    assert run(cells, *options) == 2
    assert message in capsys.readouterr().out


def test_options_of_folders_are_for_folders(capsys):
    assert command.main(["check", "--labels", "0=a,1=b"]) == 2
    assert "--labels is for --data folder" in capsys.readouterr().out


def test_colors_of_many_classes_differ():
    colors = check.palette(40)
    assert colors.shape == (40, 3)
    assert len({tuple(color) for color in colors.round(3)}) == 40
    label = np.array([[0, 39, 40]])
    np.testing.assert_array_equal(check.colored(label, colors)[0], [colors[0], colors[39], (1, 1, 1)])
