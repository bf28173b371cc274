"""Which method for which need: computed from results, and from nothing else."""

import json

import pytest

from experiments import __main__ as command
from experiments import choose, console
from tests.experiments import synthetic


def results(**changed):
    """A study of four methods: mean Boundary IoU, letters of the grouping, milliseconds of a step."""
    told = {
        "nearest": (0.27, "d", 5.0, "interpolation", False),
        "bilinear": (0.38, "c", 5.2, "interpolation", False),
        "sub_pixel_conv": (0.44, "b", 14.0, "convolution", False),
        "fade": (0.52, "a", 30.0, "reassembly", True),
        "sapa": (0.50, "ab", 20.0, "reassembly", True),
    }
    told |= changed
    methods = {
        name: {
            "summary": {"biou": {"mean": mean}},
            "variant": "small" if name == "sapa" else None,
            "family": family,
            "uses_guide": guide,
            "operations_per_step": 1e6 * cost,
        }
        for name, (mean, _, cost, family, guide) in told.items()
    }
    of = {"methods": methods, "groups": {"biou": {name: letters for name, (_, letters, *_) in told.items()}}}
    found = {
        "data": {"name": "blobs"},
        "settings": {"decoder": "full", "model": "unet", "stride": [4]},
        "primary": "biou",
        "measures": {"biou": {"title": "BIoU", "lower_is_better": False}},
        "analytic": None,
        "designs": {"frozen": of},
    }
    times = {
        name: {"0": {"step_ms": cost}, "1": {"step_ms": 3 * cost}, "2": {"step_ms": cost}}
        for name, (*_, cost, _, _) in told.items()
    }
    return found, {"frozen": times}


def chosen(*found):
    return {row["need"]: row["method"] for row in choose.choose(found)}


def test_each_need_gets_its_method():
    assert chosen(results()) == {
        "best boundaries at any cost": "fade",
        "lowest cost": "bilinear",  # 4 % dearer than nearest, which is the same cost, and better
        "best at up to 1.5 × the lowest cost": "bilinear",
        "best at up to 3 × the lowest cost": "sub_pixel_conv",
        "no guide at hand": "sub_pixel_conv",
        "any size or factor, no guide": "bilinear",
    }


def test_what_cannot_be_told_apart_is_named_with_its_variant():
    first = choose.choose([results()])[0]
    assert first["not told from it"] == "sapa (small)"
    assert first["why"] == "BIoU 0.520, 30 ms per training step"
    assert first["found on"] == "blobs, frozen"


def test_of_an_error_less_is_better():
    found, timing = results()
    found["measures"]["biou"]["lower_is_better"] = True
    assert chosen((found, timing))["best boundaries at any cost"] == "nearest"


def test_without_times_operations_are_the_cost():
    found, timing = results(nearest=(0.27, "d", 9.0, "interpolation", False))
    for method in timing["frozen"].values():
        for job in method.values():
            job["step_ms"] = None
    row = next(row for row in choose.choose([(found, timing)]) if row["need"] == "lowest cost")
    assert (row["method"], row["why"]) == ("bilinear", "BIoU 0.380, 5.2 Mflop per training step")


def test_a_method_that_takes_a_size_serves_any_factor():
    assert chosen(results(dysample=(0.43, "b", 9.0, "sampling", False)))["any size or factor, no guide"] == "dysample"


def test_the_control_has_no_say_beside_another_design():
    found, timing = results()
    found["designs"]["unet"] = found["designs"]["frozen"]
    assert {row["found on"] for row in choose.choose([(found, timing)])} == {"blobs, frozen"}
    found["settings"]["stride"] = [8]
    assert {row["found on"] for row in choose.choose([(found, timing)])} == {"blobs, frozen at factor 8"}
    del found["designs"]["frozen"]
    timing["unet"] = timing.pop("frozen")
    assert {row["found on"] for row in choose.choose([(found, timing)])} == {"blobs, unet"}
    found["settings"]["decoder"] = "thin"
    assert {row["found on"] for row in choose.choose([(found, timing)])} == {"blobs, unet with a thin decoder"}
    found["settings"]["model"] = "fpn"
    assert {row["found on"] for row in choose.choose([(found, timing)])} == {"blobs, unet as a feature pyramid"}


def test_the_least_shift_comes_from_the_analytic_design():
    found, timing = results()
    found["analytic"] = synthetic.analytic()
    row = choose.choose([(found, timing)])[-1]
    assert (row["need"], row["method"]) == ("least shift of an edge", "bicubic")
    assert row["why"] == "moves an edge by 0.18 px (RMS), by 0.26 at most"


def test_a_need_that_no_method_meets_has_no_row():
    found, timing = results()
    for method in found["designs"]["frozen"]["methods"].values():
        method["uses_guide"] = True
    assert "no guide at hand" not in chosen((found, timing))
    found["designs"] = {}
    assert choose.choose([(found, timing)]) == []


def test_the_command_reads_several_runs(tmp_path, monkeypatch, capsys):
    for name in ("one", "two"):
        found, timing = results()
        found["data"]["name"] = name
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(found))
        (tmp_path / name / "timing.json").write_text(json.dumps(timing))
    monkeypatch.setattr(console, "console", console.Console(width=200))
    assert command.main(["choose", "--from", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    printed = capsys.readouterr().out
    assert "one, frozen" in printed
    assert "two, frozen" in printed
    assert "sapa (small)" in printed


@pytest.mark.parametrize("held", [None, "{}"])
def test_what_is_no_finished_run_is_refused(held, tmp_path, capsys):
    if held:
        (tmp_path / "results.json").write_text(held)
        (tmp_path / "timing.json").write_text(held)
    assert command.main(["choose", "--from", str(tmp_path)]) == 2
    assert "error: --from" in capsys.readouterr().out
