"""What a run's page shows: everything that its template takes, and the figures' files beside it."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments import choose, results, tasks
from experiments.data import Dataset
from experiments.report import closeups, differences, drawing, edge, figures, tables, words
from experiments.report.drawing import NARROW, WIDE, Drawing
from experiments.results import shown_name
from experiments.settings import kind

Results = Mapping[str, Any]
Predictions = Mapping[str, closeups.Predictions]
Windows = Mapping[str, Sequence[closeups.Window]]
Chart = Callable[[float], Drawing | None]
"""A figure, as a function of the width to draw for; None where there is nothing to show."""

_HERE = Path(__file__).parent


def windows(found: Results, data: Dataset, predictions: Predictions) -> Windows:
    """Where each design's close-ups are; none where no label maps are predicted."""
    if not isinstance(data, Dataset):
        return {}
    return {name: closeups.clear_examples(data.test, predictions[name], data.ignore_index) for name in found["designs"]}


def context(
    found: Results, timing: Results, data: Any, predictions: Predictions, where: Windows, config: Results
) -> dict[str, Any]:
    """The template's variables."""
    task = tasks.of_results(found)
    drawn = charts(found, timing)
    designs, analytic = list(found["designs"]), found["analytic"]
    return {
        "results": found,
        "verdict": words.verdict(found),
        "designs": [_design(name, found, timing, data, predictions[name], where.get(name), drawn) for name in designs],
        "analytic": analytic and _analytic(analytic, drawn),
        "others": [tables.analytic(of) | {"stride": of["stride"]} for of in (analytic or {}).get("others", ())],
        "needs": [{k: words.typeset(v) for k, v in row.items()} for row in choose.choose([(found, timing)])],
        "needs_note": choose.NOTE,
        "bounds": words.bounds(found),
        "command": words.command(config),
        "date": config.get("date"),
        "machines": words.machines(timing),
        "settings": task.words.settings(found["settings"], {kind(name) for name in designs}),
        "task": task.words,
        **assets(),
    }


def assets() -> dict[str, Markup]:
    """Style and script, which every page holds."""
    return {
        "css": Markup(drawing.css() + (_HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup((_HERE / "page.js").read_text(encoding="utf-8")),
    }


def _design(
    name: str,
    found: Results,
    timing: Results,
    data: Any,
    maps: closeups.Predictions,
    where: Sequence[closeups.Window] | None,
    drawn: Mapping[str, Chart],
) -> dict[str, Any]:
    of, primary, measures = found["designs"][name], found["primary"], found["measures"]
    shown = {n: shown_name(n, method) for n, method in of["methods"].items()}
    first = next(iter(found["designs"].values()))["methods"]
    secondary = [functools.partial(differences.forest, of, m, measures[m]) for m in measures if m != primary]
    task = tasks.of_results(found)
    seen: dict[str, Any] = {"viewer": None, "far": False}
    if where is not None:
        viewer = closeups.viewer(where, data, maps, shown) | {"against": of["against"]}
        seen = {"viewer": _json(viewer), "far": any(w.far for w in where)}
    drawings = task.pictures(name, found, data, maps) if task.pictures else []
    return {
        "name": name,
        "title": words.title(found, name),
        "words": task.words.design(name, found["settings"]),
        "of": of,
        "shown": shown,
        "new_methods": of["methods"] is first or not first.keys() >= shown.keys(),
        "forest": both(drawn.get(f"{name}-differences")),
        "other_forests": _small(*secondary) if len(shown) > 1 else [],
        "undecided": words.undecided(of, primary),
        "distance": both(drawn[f"{name}-{curve_name(found)}"]),
        "pareto": both(drawn.get(f"{name}-cost")),
        "table": tables.trained(found, timing, name),
        **seen,
        "pictures": [
            {"title": of.title, "panels": [(caption, closeups.png(image)) for caption, image in of.panels]}
            for of in drawings
        ],
        "ahead": [words.typeset(sentence) for sentence in results.ahead(found, name)],
        "small": _small(
            *(chart for k, chart in drawn.items() if k.startswith((f"{name}-training", f"{name}-classes-")))
        ),
    }


def _analytic(of: Results, drawn: Mapping[str, Chart]) -> dict[str, Any]:
    return {
        "stride": of["stride"],
        "range": both(drawn["analytic-range"]),
        "curves": both(drawn["analytic-curves"]),
        "small": _small(*(drawn[f"analytic-{k}"] for k in ("angles", "discs", "thin-lines"))),
        "table": tables.analytic(of),
        "trained": [
            {"stride": each["stride"], "table": tables.analytic({**each, "methods": each["trained"]})}
            for each in (of, *of["others"])
            if each["trained"]
        ],
        "trained_range": both(drawn.get("analytic-trained-range")),
    }


# --- figures ----------------------------------------------------------------------------------------------------------


def charts(found: Results, timing: Results) -> dict[str, Chart]:
    """Every figure by name."""
    drawn: dict[str, Chart] = {}
    primary, measures, make = found["primary"], found["measures"], functools.partial
    info, lower = measures[primary], measures[primary]["lower_is_better"]
    if found["analytic"]:
        of_edges = {
            "range": edge.displacement_range,
            "curves": edge.displacement_curves,
            "angles": edge.by_angle,
            "discs": edge.by_curvature,
            "thin-lines": edge.by_line_width,
        }
        drawn |= {f"analytic-{name}": make(chart, found["analytic"]) for name, chart in of_edges.items()}
        if found["analytic"]["trained"]:
            of_trained = {**found["analytic"], "methods": found["analytic"]["trained"]}
            drawn["analytic-trained-range"] = make(edge.displacement_range, of_trained)
    for design, of in found["designs"].items():
        if len(of["methods"]) > 1:
            drawn[f"{design}-differences"] = make(differences.forest, of, primary, info)
        drawn[f"{design}-{curve_name(found)}"] = _curve(found, of)
        if len(of["methods"]) > 2:
            drawn[f"{design}-cost"] = make(figures.pareto, of, timing[design], primary, info)
        drawn[f"{design}-training"] = make(figures.training, of, primary, lower)
        for measure in (primary, "mean_iou") if found["data"]["classes"] else ():
            classes = make(figures.per_class, of, measure, measures[measure], found["data"]["classes"])
            drawn[f"{design}-classes-{measure}"] = classes
    return drawn


def curve_name(found: Results) -> str:
    """The name of the curve's figure."""
    return tasks.of_results(found).words.curve.lower().replace(" ", "-")


def _curve(found: Results, of: Results) -> Chart:
    """The curve that a task measures beside its measures."""
    primary, task = found["primary"], tasks.of_results(found).words
    draw = figures.by_bin if task.signed else figures.by_distance
    return functools.partial(draw, of, primary, found["measures"][primary]["lower_is_better"], task.level, task.across)


def save(found: Results, timing: Results, data: Any, predictions: Predictions, where: Windows, folder: Path) -> None:
    """Writes every figure, and a sheet of each design's first close-up, as PNG and SVG files."""
    for name, chart in charts(found, timing).items():
        drawn = chart(WIDE)
        if drawn:
            drawing.save(drawn, folder / name)
    for design, of in found["designs"].items():
        maps = predictions[design]
        for w in where.get(design, ())[:1]:
            shown = {shown_name(name, method): maps[name][w.image] for name, method in of["methods"].items()}
            drawing.save_figure(closeups.sheet(data.test.examples[w.image], w, shown), folder / f"{design}-close-up")


def both(chart: Chart | None) -> Markup | None:
    """A figure as drawn for a screen and for a phone; the page shows one of them."""
    wide, narrow = (chart(width) if chart else None for width in (WIDE, NARROW))
    if wide is None or narrow is None:
        return None
    return Markup(f'<div class="wide">{drawing.svg(wide)}</div><div class="narrow">{drawing.svg(narrow)}</div>')


def _small(*charts: Chart) -> list[Markup]:
    """Figures as drawn for a phone, for rows of small ones."""
    drawn = [chart(NARROW) for chart in charts]
    return [Markup(drawing.svg(one)) for one in drawn if one]


def _json(value: Any) -> Markup:
    """JSON that may stand in a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
