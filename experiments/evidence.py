"""The evidence that is committed, RESULTS.md and RESULTS.json: `python -m experiments evidence --from FOLDER...`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import choose, console, files, results, tasks
from experiments.choose import Found

# mIoU / Boundary IoU of SegFormer-B1 on ADE20K, as FADE's authors publish them (Lu et al. 2022, arXiv:2207.10392).
FADE_TABLE = {
    "bilinear": (41.68, 27.80),
    "carafe": (42.82, 29.84),
    "fade_lite": (43.49, 31.55),
    "fade": (44.41, 32.65),
}


@dataclass(frozen=True)
class Evidence:
    """Gather the results of finished runs into the document that is committed."""

    runs: Annotated[tuple[Path, ...], tyro.conf.arg(name="from", metavar="FOLDER")]
    """Folders of finished runs; or a former RESULTS.json, whose runs are kept."""
    notes: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Markdown that explains what was found, to stand at the end."""
    out: Path = Path(__file__).parent
    """Folder for RESULTS.md and RESULTS.json, which are written over."""


def prepare(command: Evidence) -> tuple[Evidence, list[Found]]:
    """Reads the results of the runs; raises ValueError or OSError as `choose.prepare` does."""
    if command.notes is not None and not command.notes.is_file():
        raise FileNotFoundError(f"--notes {command.notes}: there is no such file.")
    return command, choose.prepare(choose.Choose(command.runs))


def write(prepared: tuple[Evidence, list[Found]]) -> None:
    """Writes both files."""
    command, found = prepared
    kept = [{"results": _without_histories(run), "timing": timing} for run, timing in found]
    files.write_json(command.out / "RESULTS.json", kept)
    notes = command.notes.read_text(encoding="utf-8") if command.notes else ""
    files.write_text(command.out / "RESULTS.md", document(found, notes))
    console.say(f"Evidence: {command.out / 'RESULTS.md'}")


def _without_histories(run: Mapping[str, Any]) -> dict[str, Any]:
    """Results without losses and validations, which nobody reads here and which fill most of the file."""
    designs = {}
    for name, of in run["designs"].items():
        methods = {
            method: {
                **outcome,
                "seeds": {
                    seed: {"figures": {m: _mean(f) for m, f in one["figures"].items()}}
                    for seed, one in outcome["seeds"].items()
                },
            }
            for method, outcome in of["methods"].items()
        }
        designs[name] = {**of, "methods": methods}
    return {**run, "designs": designs}


def _mean(figure: Any) -> Any:
    """A figure's mean; evidence that is read again holds no more of it."""
    return figure["mean"] if isinstance(figure, Mapping) else figure


def document(found: Sequence[Found], notes: str = "") -> str:
    """RESULTS.md, with `notes` at its end."""
    lines = [
        f"# {_heading(found)}",
        "",
        "Written by `python -m experiments evidence --from FOLDER...` from the runs below; not edited by hand. "
        "Differences are paired by seed; ± is Student's 95 % interval over seeds. Methods that share a letter cannot "
        "be told apart (all pairs, Holm's procedure, 5 % in all). A name in brackets is a variant: its figures are not "
        "those of the paper's own network.",
    ]
    for run, timing in found:
        lines += _run(run, timing)
    lines += ["", "## Which method for which need", "", *_table(choose.choose(found)), "", choose.NOTE]
    return "\n".join([*lines, *_published(found), *(["", notes.strip()] if notes else []), ""])


def _heading(found: Sequence[Found]) -> str:
    """What the tasks of the runs ask."""
    asked = (tasks.of_results(run).words.heading for run, _ in found)
    asked = dict.fromkeys(heading.removeprefix("What the upsampler does ") for heading in asked)
    return f"What upsampling methods do {', '.join(asked)}"


def _run(run: Mapping[str, Any], timing: Mapping[str, Any]) -> list[str]:
    task = "" if "task" not in run else f"{run['task'].capitalize()}: "
    lines = ["", f"## {task}{run['data']['name']}", "", run["data"]["description"], ""]
    lines += [" ".join(results.verdict(run)), ""] if run["designs"] else []
    for of in (run["analytic"], *run["analytic"]["others"]) if run["analytic"] else ():
        for what, measured in (("bare", of["methods"]), ("trained on shapes", of["trained"])):
            if measured:
                lines += [f"### Edges known exactly, factor {of['stride']}, {what}, hundredths of a pixel", ""]
                lines += [*_table(results.analytic_rows(measured)), ""]
    for design, of in run["designs"].items():
        seeds = ", ".join(map(str, of["seeds"]))
        lines += [f"### {design}, seeds {seeds}, against {of['against']}", ""]
        lines += [*_table(results.rows(run, timing, design)[0]), ""]
        lines += [line for sentence in results.ahead(run, design) for line in (sentence, "")]
    machines = {tuple(job["machine"].items()) for d in timing.values() for m in d.values() for job in m.values()}
    lines += ["Settings: " + ", ".join(f"{name} {_word(value)}" for name, value in run["settings"].items()) + "."]
    lines += ["Machine: " + "; ".join(", ".join(f"{k} {v}" for k, v in machine) for machine in sorted(machines)) + "."]
    return lines


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    if not rows:
        return []
    lines = ["| " + " | ".join(rows[0]) + " |", "| --- |" + " ---: |" * (len(rows[0]) - 1)]
    return [*lines, *("| " + " | ".join(row.values()) + " |" for row in rows)]


def _published(found: Sequence[Found]) -> list[str]:
    """Ours beside FADE's table, for the methods and designs that are in both: networks and data differ."""
    rows = []
    for run, _ in found:
        for design, of in run["designs"].items() if "boundary_iou" in run["measures"] else ():
            shared = [name for name in FADE_TABLE if name in of["methods"]]
            if len(shared) < 2 or "bilinear" not in shared:
                continue
            base = of["methods"]["bilinear"]["summary"]["boundary_iou"]["mean"]
            for name in shared:
                ours, theirs = of["methods"][name], FADE_TABLE[name]
                rows.append(
                    {
                        "method": results.shown_name(name, ours),
                        "published mIoU / Boundary IoU": f"{theirs[0]:.2f} / {theirs[1]:.2f}",
                        "published gain in Boundary IoU": f"{theirs[1] - FADE_TABLE['bilinear'][1]:+.2f}",
                        "ours, gain in Boundary IoU (2 %), hundredths": (
                            f"{100 * (ours['summary']['boundary_iou']['mean'] - base):+.2f}"
                        ),
                        "found on": f"{run['data']['name']}, {design}",
                    }
                )
    if not rows:
        return []
    text = (
        "FADE's table is of SegFormer-B1 on ADE20K: another network, other data, other steps. What can be held against "
        "it is the order of the methods, not the size of the differences."
    )
    return ["", "## Beside published figures", "", text, "", *_table(rows)]


COMMANDS: dict[type, tuple[Callable, Callable]] = {Evidence: (prepare, write)}
