"""Which method for which need, computed from the results of runs: `python -m experiments choose --from FOLDER...`."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import upsampling as up
from experiments import console, files, tasks
from experiments.results import design_name, shown_name

BUDGETS = (1.5, 3.0)  # times the lowest cost
_SAME_COST = 1.05  # costs as close as this are one: a step's time is not measured more exactly
_SAME_SHIFT = 0.01  # pixels, the accuracy of the analytic figures

Found = tuple[Mapping[str, Any], Mapping[str, Any]]
"""What a run's results.json and timing.json hold."""


@dataclass(frozen=True)
class Choose:
    """Say which upsampling method serves which need, from the results of one run or several."""

    runs: Annotated[tuple[Path, ...], tyro.conf.arg(name="from", metavar="PATH")]
    """Folders of finished runs; or a RESULTS.json, for the runs that it holds."""


def prepare(command: Choose) -> list[Found]:
    """Reads the results of the runs.

    Raises:
      ValueError, OSError: a path holds no results, or those of another version.
    """
    if not command.runs:
        raise ValueError("--from: give the folder of at least one finished run.")
    found = [run for path in command.runs for run in (_evidence(path) if path.is_file() else [_run(path)])]
    if not all({"designs", "analytic", "primary", "measures"} <= run.keys() for run, _ in found):
        raise ValueError(f"--from {' '.join(map(str, command.runs))}: there are results of another version.")
    return found


def _run(folder: Path) -> Found:
    for name in ("results.json", "timing.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"--from {folder}: no finished run here (there is no {name}).")
    return files.read_json(folder / "results.json"), files.read_json(folder / "timing.json")


def _evidence(path: Path) -> list[Found]:
    """The runs that `evidence` gathered."""
    try:
        stored = files.read_json(path)
        if not isinstance(stored, list):
            raise TypeError("it is no list of runs")
        return [(run["results"], run["timing"]) for run in stored]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--from {path}: this is no RESULTS.json, as `evidence` writes it.") from error


def show(found: Sequence[Found]) -> None:
    """Prints the table."""
    rows = choose(found)
    if not rows:
        console.say("Nothing to choose from: the runs hold no figures of two methods or more.")
        return
    for row in rows:
        same = f"; not told from it: {row['not told from it']}" if row["not told from it"] != "–" else ""
        console.say(f"{row['need']}: {row['method']}", f"    {row['why']} ({row['found on']}){same}")
    console.say("", NOTE)


NOTE = (
    "The method with the best mean among those that meet the need; beside it the others that the seeds cannot tell "
    "from it. A cost is the median time of a training step on the machine of the run; where not every method has "
    "one, its operations."
)


# --- the choice -------------------------------------------------------------------------------------------------------


def choose(found: Iterable[Found]) -> list[dict[str, str]]:
    """A row for each need and run: the method, why, and which others cannot be told from it.

    The control design, a network that makes up for any upsampler, has no say where another one was run beside it.
    """
    rows: list[dict[str, str]] = []
    for results, timing in found:
        designs = {name: of for name, of in results["designs"].items() if len(of["methods"]) > 1}
        shown = {name: of for name, of in designs.items() if name != "unet"} or designs
        for name, of in shown.items():
            rows += _by_need(
                results, of, timing.get(name, {}), f"{results['data']['name']}, {design_name(name, results)}"
            )
        rows += _least_shift(results["analytic"])
    order = list(dict.fromkeys(row["need"] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["need"]))


def costs(of: Mapping[str, Any], timing: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """What cost is, and that of each method: a step's time where it was measured, else its operations."""
    times = {
        name: [job["step_ms"] for job in timing.get(name, {}).values() if job["step_ms"] is not None]
        for name in of["methods"]
    }
    if all(times.values()):
        return "ms per training step", {name: float(np.median(ms)) for name, ms in times.items()}
    counted = {name: m["operations_per_step"] for name, m in of["methods"].items()}
    return "Mflop per training step", {name: n / 1e6 for name, n in counted.items() if n}


def _by_need(
    results: Mapping[str, Any], of: Mapping[str, Any], timing: Mapping[str, Any], where: str
) -> list[dict[str, str]]:
    primary = results["primary"]
    info, methods = results["measures"][primary], of["methods"]
    unit, cost = costs(of, timing)
    mean = {name: m["summary"][primary]["mean"] for name, m in methods.items()}
    usable = [name for name in methods if mean[name] is not None]
    ranked = sorted(usable, key=lambda name: mean[name], reverse=not info["lower_is_better"])
    letters = of["groups"][primary]

    def row(need: str, meets: Callable[[str], bool]) -> list[dict[str, str]]:
        able = [name for name in ranked if meets(name)]
        if not able:
            return []
        first, *others = able
        same = [name for name in others if set(letters[name]) & set(letters[first])]
        price = [f"{cost[first]:.3g} {unit}"] if first in cost else []
        why = ", ".join([f"{info['title']} {mean[first]:.3f}", *price])
        named = [shown_name(name, methods[name]) for name in (first, *same)]
        return [_row(need, named[0], why, named[1:], where)]

    rows = row(tasks.of_results(results).words.best, lambda name: True)
    if len(cost) > 1:
        least = min(cost.values())
        rows += row("lowest cost", lambda name: name in cost and cost[name] <= _SAME_COST * least)
        for budget in BUDGETS:
            rows += row(
                f"best at up to {budget:g} × the lowest cost",
                lambda name, budget=budget: name in cost and cost[name] <= budget * least,
            )
    rows += row("no guide at hand", lambda name: not methods[name]["uses_guide"])
    return rows + row(
        "any size or factor, no guide", lambda name: not methods[name]["uses_guide"] and _takes_size(name)
    )


def _takes_size(name: str) -> bool:
    """Whether a method's layer is called with the size that is wanted; without it, it enlarges by whole factors."""
    found = up.nn.available().get(name)
    if found is None or not isinstance(found.build, type):
        return False
    return "size" in inspect.signature(found.build.__call__).parameters


def _least_shift(analytic: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """The method that moves a straight edge least, over all angles and places."""
    if not analytic or not analytic["methods"]:
        return []
    edges = {name: m["edges"] for name, m in analytic["methods"].items()}
    first, *others = sorted(edges, key=lambda name: edges[name]["rms"])
    same = [name for name in others if edges[name]["rms"] <= edges[first]["rms"] + _SAME_SHIFT]
    why = f"moves an edge by {edges[first]['rms']:.2f} px (RMS), by {edges[first]['worst']:.2f} at most"
    return [_row("least shift of an edge", first, why, same, f"analytic, factor {analytic['stride']}")]


def _row(need: str, method: str, why: str, same: Sequence[str], where: str) -> dict[str, str]:
    return {"need": need, "method": method, "why": why, "not told from it": ", ".join(same) or "–", "found on": where}


COMMANDS: dict[type, tuple[Callable, Callable]] = {Choose: (prepare, show)}
