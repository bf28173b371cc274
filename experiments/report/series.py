"""Several methods in one plot: a color and a dash for each, a legend, and curves of one figure against another."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report.drawing import (
    SERIES,
    Dot,
    Drawing,
    Line,
    Scale,
    Text,
    bottom_axis,
    left_axis,
    padded,
    text_width,
)

_DASHES = ((), (6, 3), (2, 2))


Results = Mapping[str, Any]


class Look(NamedTuple):
    """How a method is drawn where several are in one plot."""

    color: str
    dash: tuple[float, ...]


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A color and a dash for each name; the dash changes where the colors begin again."""
    rounds = ((i % len(SERIES), i // len(SERIES) % len(_DASHES)) for i in range(len(names)))
    return {name: Look(SERIES[i], _DASHES[k]) for name, (i, k) in zip(names, rounds, strict=True)}


def distinct(of: Results, primary: str, lower_is_better: bool) -> list[str]:
    """The methods to draw in colors: all of a few; of many the one compared to, the best four and the worst two."""
    mean = {name: value(m["summary"][primary]["mean"]) for name, m in of["methods"].items()}
    if len(mean) <= len(SERIES):
        return list(mean)
    ordered = sorted(mean, key=lambda name: mean[name], reverse=not lower_is_better)
    chosen = {of["against"], *ordered[:4], *ordered[-2:]}
    return [name for name in mean if name in chosen]


def legend(
    drawing: Drawing, looks: Mapping[str, Look], shown: Mapping[str, str], others: Sequence[str], y: float
) -> float:
    """Names with their lines, as many in a row as fit; returns where the drawing ends."""
    entries = [(look, shown[name], name) for name, look in looks.items()]
    if others:
        entries.append((Look("soft", ()), f"{len(others)} other{'s' * (len(others) > 1)}", None))
    x = 6.0
    for (color, dash), text, name in entries:
        wide = 34 + text_width(text, 12.5) + 18
        if x > 6 and x + wide > drawing.width:
            x, y = 6.0, y + 22
        drawing.add(Line([(x, y - 4), (x + 26, y - 4)], color, 2.5 if name else 1, dash, of=name))
        drawing.add(Text(x + 33, y, text, "ink", 12.5, of=name))
        x += wide
    return y + 12


def lines(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    shown: Mapping[str, str],
    title: str,
    across: str,
    width: float,
    colored: Sequence[str] | None = None,
    dots: bool = False,
) -> Drawing:
    """Curves of every method, points (x, y), with a legend; those not `colored` are thin and gray."""
    colored = list(curves) if colored is None else colored
    others = [name for name in curves if name not in colored]
    tall, left, top = 210, 48, 30
    drawing = Drawing(width, 0, f"{title} by {across}")
    points = np.array([point for curve in curves.values() for point in curve])
    x = Scale(*padded(points[:, 0], 0.02), left, width - 10)
    y = Scale(*padded(np.quantile(points[:, 1], (0, 0.995))), top + tall, top)
    bottom_axis(drawing, x, top, top + tall, across)
    left_axis(drawing, y, left, width - 10, title)
    look = looks(colored)
    for name in (*others, *colored):
        color, dash = look.get(name, Look("soft", ()))
        at = [(x(a), y(b)) for a, b in curves[name]]
        drawing.add(Line(at, color, 1.8 if name in look else 1, dash, 1 if name in look else 0.45, name))
        if dots:
            drawing.add(*(Dot(*point, 2.6, color, of=name) for point in at))
    drawing.height = legend(drawing, look, shown, others, top + tall + 60)
    return drawing


def value(stored: float | None, missing: float = math.nan) -> float:
    """A figure as read from JSON, which has no NaN."""
    return missing if stored is None else stored
