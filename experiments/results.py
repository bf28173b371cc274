"""What a run found: from the figures that its trainings stored to its files and its table."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import upsampling as up
from experiments import files, runs
from experiments.data import Dataset
from experiments.statistics import estimate
from experiments.tasks.segmentation import MEASURES, baseline


def collect(
    folder: Path, data: Dataset, methods: Sequence[str], seeds: Sequence[int], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes results.json, timing.json and results.csv from what the trainings stored; returns the first two.

    Times are kept apart so that two runs with the same seed give the same results.json, byte for byte.
    """
    known = up.nn.available()
    outcomes, timing = {}, {}
    for method in methods:
        jobs = {seed: files.read_json(runs.job_folder(folder, method, seed) / "result.json") for seed in seeds}
        timing[method] = {str(seed): job.pop("timing") for seed, job in jobs.items()}
        first = jobs[seeds[0]]
        outcomes[method] = {
            "family": known[method].family,
            "paper": known[method].paper,
            **{k: first[k] for k in ("parameters", "upsampler_parameters", "operations_per_step", "temporary_bytes")},
            "summary": {
                measure: estimate([job["figures"][measure]["mean"] for job in jobs.values()])._asdict()
                for measure in MEASURES
            },
            "seeds": {str(seed): {k: job[k] for k in ("figures", "loss", "validation")} for seed, job in jobs.items()},
        }
    results = {
        "data": {"name": data.name, "description": data.description, "classes": data.classes},
        "settings": settings,
        "baseline": baseline(data),
        "methods": outcomes,
    }
    files.write_json(folder / "timing.json", timing)
    files.write_json(folder / "results.json", results)
    files.write_text(folder / "results.csv", _csv(results))
    return files.read_json(folder / "results.json"), files.read_json(folder / "timing.json")


def _csv(results: Mapping[str, Any]) -> str:
    """A row per training, a column per measure and class."""
    rows = [
        ((method, seed), entry["figures"])
        for method, outcome in results["methods"].items()
        for seed, entry in outcome["seeds"].items()
    ]
    if results["baseline"]:
        rows.append(((results["baseline"]["name"], ""), results["baseline"]["figures"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [(measure, name) for measure in MEASURES for name in ("mean", *results["data"]["classes"])]
    writer.writerow(["method", "seed", *(f"{measure} {name}" for measure, name in columns)])
    for head, figures in rows:
        flat = {m: {"mean": f["mean"], **f["classes"]} for m, f in figures.items()}
        writer.writerow([*head, *(flat[measure][name] for measure, name in columns)])
    return text.getvalue()


def rows(results: Mapping[str, Any], timing: Mapping[str, Any]) -> tuple[list[dict[str, str]], dict[str, int]]:
    """The table of a run: its rows, and for each measure the row of the best method."""
    table = []
    for method, outcome in results["methods"].items():
        seconds = [job["step_ms"] for job in timing[method].values() if job["step_ms"] is not None]
        table.append(
            {"method": method}
            | {measure.title: _figure(outcome["summary"][name]) for name, measure in MEASURES.items()}
            | {
                "params": f"{outcome['parameters']:,}",
                "upsamplers'": f"{outcome['upsampler_parameters']:,}",
                "ms/step": f"{np.median(seconds):.0f}" if seconds else "–",
                "temporaries MB": f"{outcome['temporary_bytes'] / 1e6:.0f}",
            }
        )
    best = {}
    for name, measure in MEASURES.items():
        means = [outcome["summary"][name]["mean"] for outcome in results["methods"].values()]
        best[measure.title] = int(np.argmin(means) if measure.lower_is_better else np.argmax(means))
    if results["baseline"]:
        found = results["baseline"]["figures"]
        figures = {measure.title: f"{found[name]['mean']:.3f}" for name, measure in MEASURES.items()}
        table.append(dict.fromkeys(table[0], "–") | {"method": results["baseline"]["name"]} | figures)
    return table, best


def _figure(summary: Mapping[str, float | None]) -> str:
    interval = "" if summary["half_width"] is None else f" ± {summary['half_width']:.3f}"
    return f"{summary['mean']:.3f}{interval}"
