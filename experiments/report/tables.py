"""The page's tables: columns with what they mean, and cells with the number they are sorted by."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments import results
from experiments.report import edge, words

Results = Mapping[str, Any]

_MEANINGS = {
    "group": "methods that share a letter cannot be told apart by the first measure",
    "sees": "pixels of the upsampler's input, rows × columns, that one of its output pixels depends on",
    "rate": "highest learning rate; where several were offered, the one that did best on validation images",
    "params": "parameters of all that was trained with the method",
    "upsampler's": "parameters that the upsampler adds",
    "Mflop/step": "millions of floating-point operations of a training step, as XLA counts them",
    "ms/step": "median time of a training step, in milliseconds",
    "temporaries MB": "memory of a training step beyond its inputs and results, as XLA counts it",
}


def trained(found: Results, timing: Results, design: str) -> dict[str, Any]:
    """The table of a design; what is untrained stands apart, since it is not sorted."""
    rows, best = results.rows(found, timing, design)
    measures, against = found["measures"], found["designs"][design]["against"]
    meanings = _MEANINGS | {m["title"]: m["meaning"] for m in measures.values()}
    meanings[f"± {against}"] = f"{measures[found['primary']]['title']} less that of {against}, paired by seed"
    cells = [
        [cell(text, number(text), i in best.get(column, ())) for column, text in row.items()]
        for i, row in enumerate(rows)
    ]
    columns = [{"name": column, "meaning": meanings.get(column, "")} for column in rows[0]]
    count = len(found["designs"][design]["methods"])
    return {"columns": columns, "rows": cells[:count], "baseline": cells[count:], "marked": any(best.values())}


def number(text: str) -> float | None:
    """The number that a cell begins with.

    >>> number("-0.113 ± 0.017"), number("12,345"), number("carafe")
    (-0.113, 12345.0, None)
    """
    match = re.match(r"[+-]?[\d,]*\.?\d+", text)
    return float(match.group().replace(",", "")) if match else None


def analytic(of: Results) -> dict[str, Any]:
    """The figures of every method of the analytic design, the least displacement first."""
    methods, columns = of["methods"], _analytic_columns(of)
    rows = []
    for name in edge.by_shift(of):
        values = [take(methods[name]) for _, take in columns.values()]
        rows.append([cell(name, None), *(cell(f"{value:.2f}", value) for value in values)])
    named = [{"name": "method", "meaning": ""}, *({"name": n, "meaning": m} for n, (m, _) in columns.items())]
    return {"columns": named, "rows": rows, "baseline": [], "marked": False}


def _analytic_columns(of: Results) -> dict[str, tuple[str, Callable[[Results], float]]]:
    """What each column means, and how to take it from a method's figures."""
    stride, widths = of["stride"], next(iter(of["methods"].values()))["lines"]["widths"]
    found: dict[str, tuple[str, Callable[[Results], float]]] = {
        "bias, px": ("mean displacement of straight edges outwards", lambda m: m["edges"]["bias"]),
        "RMS, px": ("root of its mean square, over all angles and places", lambda m: m["edges"]["rms"]),
        "worst, px": ("the largest displacement", lambda m: m["edges"]["worst"]),
        "shift, px": (
            "how far the picture moves along an axis: the half-pixel shift of corner-anchored grids",
            lambda m: m["shift"]["column"],
        ),
        "stretch, px": ("how much farther out it lies at the frame", lambda m: m["shift"]["stretch"]),
        f"disc of {stride} px": (
            f"displacement of the edge of a disc with a radius of {stride} pixels, below 0 where it shrinks",
            lambda m: _at(m["discs"], "radii", stride, "bias"),
        ),
        "corner loss, px²": (
            "area lost at a right corner, mean over directions",
            lambda m: _at(m["corners"], "openings", 90, "loss"),
        ),
        "letters, px": ("wrong area per length of boundary of letters and spirals", lambda m: m["strokes"]["mean"]),
    }
    for width in widths:
        found[f"{width} px line"] = (
            f"share found of a line {width} {'pixel' if width == 1 else 'pixels'} wide",
            lambda m, width=width: _at(m["lines"], "widths", width, "recall"),
        )
    return found


def _at(of: Results, axis: str, value: float, figure: str) -> float:
    """The figure where the axis is next to a value."""
    return of[figure][int(np.argmin(np.abs(np.array(of[axis]) - value)))]


def cell(text: str, value: float | None, best: bool = False) -> dict[str, Any]:
    return {"text": words.typeset(text), "value": value, "best": best}
