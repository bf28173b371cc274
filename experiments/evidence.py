"""The evidence that is committed, RESULTS.md and RESULTS.json: `python -m experiments evidence --from FOLDER...`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from experiments import choose, console, files, results, tasks
from experiments.choose import Found
from experiments.tasks import features

# mIoU / Boundary IoU of SegFormer-B1 on ADE20K, as FADE's authors publish them (Lu et al. 2022, arXiv:2207.10392).
FADE_TABLE = {
    "bilinear": (41.68, 27.80),
    "carafe": (42.82, 29.84),
    "indexnet": (41.50, 28.27),
    "a2u": (41.45, 27.31),
    "fade_lite": (43.49, 31.55),
    "fade": (44.41, 32.65),
}
_NOTES = "<!-- notes -->"  # what follows was written by hand


@dataclass(frozen=True)
class Evidence:
    """Gather the results of finished runs into the document that is committed."""

    runs: Annotated[tuple[Path, ...], tyro.conf.arg(name="from", metavar="PATH")]
    """Folders of finished runs; a RESULTS.json stands for the runs that it holds, so that runs can be added to it."""
    notes: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Markdown that explains what was found, to stand at the end; if not given, what stands there now."""
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
    path = command.out / "RESULTS.md"
    notes = command.notes.read_text(encoding="utf-8") if command.notes else _notes(path)
    files.write_text(path, document(found, notes))
    console.say(f"Evidence: {path}")


def _notes(path: Path) -> str:
    """The notes of a RESULTS.md, if there is one."""
    return path.read_text(encoding="utf-8").partition(_NOTES)[2] if path.is_file() else ""


def _without_histories(run: Mapping[str, Any]) -> dict[str, Any]:
    """Results without losses and validations, which nobody reads here and which fill most of the file."""
    designs = {}
    for name, of in run["designs"].items():
        methods = {
            method: {
                **outcome,
                "seeds": {
                    seed: {"figures": {m: {"mean": f["mean"]} for m, f in one["figures"].items()}}
                    for seed, one in outcome["seeds"].items()
                },
            }
            for method, outcome in of["methods"].items()
        }
        designs[name] = {**of, "methods": methods}
    return {**run, "designs": designs}


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
    return "\n".join([*lines, *_published(found), *(["", _NOTES, "", notes.strip()] if notes else []), ""])


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
        lines += [f"### {results.design_name(design, run)}, seeds {seeds}, against {of['against']}", ""]
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


class Published(NamedTuple):
    """A table of another publication, and what of ours is held against it.

    Attributes:
      task: whose runs are.
      figures: of each method, as published.
      columns: what these are.
      compared: the column whose gain over bilinear is held against ours.
      measure: ours.
      text: of what the table is.
      apart: designs that nothing of it can be held against.
    """

    task: str
    figures: Mapping[str, tuple[float, ...]]
    columns: tuple[str, ...]
    compared: int
    measure: str
    text: str
    apart: tuple[str, ...] = ()


PUBLISHED = (
    Published(
        "segmentation",
        FADE_TABLE,
        ("mIoU", "Boundary IoU"),
        1,
        "boundary_iou",
        "FADE's table is of SegFormer-B1 on ADE20K: another network, other data, other steps.",
    ),
    Published(
        "features",
        features.PUBLISHED,
        ("COCO-Stuff", "VOC", "ADE20K", "Cityscapes"),
        2,
        "mean_iou",
        "JAFAR's table is of linear probes, mean IoU, on features of DINOv2-S/14: another backbone, other data, other "
        "steps. FeatUp there is four layers of JBU and a projection, LiFT a network of its own.",
        apart=("untrained",),
    ),
)


def _published(found: Sequence[Found]) -> list[str]:
    """Ours beside published figures, for the methods that are in both: networks and data differ."""
    lines = []
    for table in PUBLISHED:
        rows = []
        for run, _ in found:
            if tasks.of_results(run).name == table.task:
                rows += [row for design, of in run["designs"].items() for row in _beside(table, run, design, of)]
        if rows:
            text = f"{table.text} What can be held against it is the order of the methods, not the size of differences."
            lines += ["", text, "", *_table(rows)]
    return ["", "## Beside published figures", *lines] if lines else []


def _beside(table: Published, run: Mapping[str, Any], design: str, of: Mapping[str, Any]) -> list[dict[str, str]]:
    shared = [name for name in table.figures if name in of["methods"]]
    if design in table.apart or len(shared) < 2 or "bilinear" not in shared:
        return []
    mean = lambda name: of["methods"][name]["summary"][table.measure]["mean"]  # noqa: E731
    ours = lambda name: f"{100 * (mean(name) - mean('bilinear')):+.2f}" if name in shared else "–"  # noqa: E731
    column, title = table.columns[table.compared], run["measures"][table.measure]["title"]
    gain = lambda name: table.figures[name][table.compared] - table.figures["bilinear"][table.compared]  # noqa: E731
    return [
        {
            "method": results.shown_name(name, of["methods"][name]) if name in shared else name,
            f"published {' / '.join(table.columns)}": " / ".join(f"{v:.2f}" for v in table.figures[name]),
            f"published gain, {column}": f"{gain(name):+.2f}",
            f"ours, gain in {title}, hundredths": ours(name),
            "found on": f"{run['data']['name']}, {results.design_name(design, run)}" if name in shared else "–",
        }
        for name in table.figures
    ]


COMMANDS: dict[type, tuple[Callable, Callable]] = {Evidence: (prepare, write)}
