"""Figures of the designs that train: error by distance, cost and quality, training, classes.

Each takes the width to draw for: a wide one for a screen or a sheet, a narrow one for a phone.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import choose, statistics
from experiments.report import series
from experiments.report.drawing import Area, Dot, Drawing, Line, Scale, Text, bottom_axis, left_axis, padded, text_width
from experiments.results import shown_name

Results = Mapping[str, Any]


# --- error by distance ------------------------------------------------------------------------------------------------


def by_distance(of: Results, primary: str, lower_is_better: bool, level: str, across: str, width: float) -> Drawing:
    """The error rate by distance, and how it differs from that of `against`."""
    names = series.distinct(of, primary, lower_is_better)
    narrow, others = width < 500, [name for name in of["methods"] if name not in names]
    bins = _bins(of["distances"])
    drawing = Drawing(width, 0, f"{level[:1].upper()}{level[1:]} by {across.removesuffix(', px')}")
    tall, indent, gap = 230, 54, 60
    panel = width - indent - 6 if narrow else (width - 2 * indent - gap / 2) / 2
    corners = [(indent, 30), (indent, 30 + tall + 88) if narrow else (2 * indent + gap / 2 + panel, 30)]
    differs = {name: _curve_difference(of, name) for name in of["methods"] if name != of["against"]}
    _share_panel(drawing, of, names, others, bins, corners[0], panel, tall, level, across)
    if differs:
        _difference_panel(drawing, of, names, others, differs, bins, corners[1], panel, tall, across)
    last = corners[1 if differs else 0][1] + tall + 62
    drawing.height = series.legend(drawing, series.looks(names), _shown(of), others, last)
    return drawing


def by_bin(of: Results, primary: str, lower_is_better: bool, level: str, across: str, width: float) -> Drawing:
    """A curve that may be below 0, on a linear scale, against the middle of its bins."""
    middles = [(low + high) / 2 for low, high in itertools.pairwise(of["distances"])]
    curves = {
        name: [(x, v) for x, e in zip(middles, method["curve"], strict=True) if (v := e["mean"]) is not None]
        for name, method in of["methods"].items()
    }
    names = series.distinct(of, primary, lower_is_better)
    return series.lines(curves, _shown(of), level, across, width, names, dots=True)


def _bins(edges: Sequence[float | None]) -> list[str]:
    """The bins' names; the last is open."""
    ends = [None if e is None or math.isinf(e) else e for e in edges]
    return [f"{low:g}+" if high is None else f"{low:g}–{high:g}" for low, high in itertools.pairwise(ends)]


def _curve_difference(of: Results, name: str) -> list[tuple[float, float]]:
    """Mean and half width of the paired difference to `against` in every bin."""
    curves = [
        np.array([[series.value(v) for v in seed["curve"]] for seed in of["methods"][n]["seeds"].values()])
        for n in (name, of["against"])
    ]
    return [tuple(statistics.estimate(column)) for column in (curves[0] - curves[1]).T]


def _share_panel(drawing, of, names, others, bins, corner, panel, tall, level, across) -> None:
    left, top = corner
    # The scale has no place for 0: there a curve ends.
    means = {n: [series.value(e["mean"]) or math.nan for e in of["methods"][n]["curve"]] for n in (*others, *names)}
    positive = [v for curve in means.values() for v in curve if v > 0]
    high = max(positive, default=1.0)
    low = max(min(positive, default=0.1), high * 1e-5)
    # A share ends at 1.
    most = 1.5 * high if high > 1 else min(1.0, high * 1.5)
    y = Scale(low / 1.5, most, top + tall, top, log=True)
    x = _bin_axis(drawing, bins, left, top, panel, tall, across)
    left_axis(drawing, y, left, left + panel, level)
    for name in (*others, *names):
        halves = [series.value(e["half_width"]) for e in of["methods"][name]["curve"]]
        _band(drawing, x, y, means[name], halves, series.looks(names).get(name), name)


def _difference_panel(drawing, of, names, others, differs, bins, corner, panel, tall, across) -> None:
    left, top = corner
    means = [mean for curve in differs.values() for mean, _ in curve if not math.isnan(mean)]
    ends = [mean + k * half for curve in differs.values() for mean, half in curve if half < 1 for k in (-1, 1)]
    span = max(max([0, *means]) - min([0, *means]), 1e-6)
    low, high = padded(
        (
            max(min([0, *means, *ends]), min([0, *means]) - span / 2),
            min(max([0, *means, *ends]), max([0, *means]) + span / 2),
        )
    )
    y = Scale(low, high, top + tall, top)
    x = _bin_axis(drawing, bins, left, top, panel, tall, across)
    left_axis(drawing, y, left, left + panel, f"difference to {of['against']}")
    drawing.add(Line([(left, y(0)), (left + panel, y(0))], "ink", 1.2))
    for name in (*others, *names):
        if name in differs:
            _band(drawing, x, y, *zip(*differs[name], strict=True), series.looks(names).get(name), name)


def _bin_axis(drawing: Drawing, bins: Sequence[str], left: float, top: float, panel: float, tall: float, across: str):
    """Ticks below a panel; returns where each bin is."""
    at = [left + panel * (i + 0.5) / len(bins) for i in range(len(bins))]
    for x, name in zip(at, bins, strict=True):
        drawing.add(Text(x, top + tall + 16, name, "soft", 11.5, "middle"))
    drawing.add(Text(left + panel / 2, top + tall + 34, across, "soft", 12, "middle"))
    return at


def _band(drawing, x, y, means, halves, look: series.Look | None, name: str) -> None:
    """A curve with its band; thin and gray where the method has no color of its own."""
    known = [i for i, mean in enumerate(means) if not math.isnan(mean)]
    sure = [i for i in known if not math.isnan(halves[i])]
    if look and sure:
        upper = [(x[i], y(means[i] + halves[i])) for i in sure]
        lower = [(x[i], y(means[i] - halves[i])) for i in reversed(sure)]
        drawing.add(Area([*upper, *lower], look.color, 0.16, name))
    points = [(x[i], y(means[i])) for i in known]
    color, dash = look or ("soft", ())
    if len(points) > 1:
        drawing.add(Line(points, color, 2 if look else 1, dash, 1.0 if look else 0.45, name))
    if look:
        drawing.add(*(Dot(*point, 2.8, color, of=name) for point in points))


# --- cost and quality -------------------------------------------------------------------------------------------------


def pareto(of: Results, timing: Results, primary: str, info: Results, width: float) -> Drawing | None:
    """Boundary quality against the cost of a step, and the methods worth their cost joined; None without costs."""
    unit, cost = choose.costs(of, timing)
    quality = {name: of["methods"][name]["summary"][primary] for name in cost}
    quality = {name: q for name, q in quality.items() if q["mean"] is not None}
    if len(quality) < 2:
        return None
    cost = {name: cost[name] for name in quality}
    front = statistics.pareto(cost, {n: q["mean"] for n, q in quality.items()}, info["lower_is_better"])
    tall, left, top = (300, 46, 30) if width < 500 else (340, 56, 34)
    drawing = Drawing(width, top + tall + 44, f"{info['title']} against {unit}")
    ends = [q["mean"] + k * series.value(q["half_width"], 0) for q in quality.values() for k in (-1, 1)]
    means = [q["mean"] for q in quality.values()]
    span = max(max(means) - min(means), 1e-6)
    low, high = padded((max(min(ends), min(means) - span / 2), min(max(ends), max(means) + span / 2)))
    x = Scale(min(cost.values()) / 1.15, max(cost.values()) * 1.3, left, width - 8, log=True)
    y = Scale(low, high, top + tall, top) if not info["lower_is_better"] else Scale(low, high, top, top + tall)
    bottom_axis(drawing, x, top, top + tall, unit, 9)
    left_axis(drawing, y, left, width - 8, info["title"])
    steps = [(x(cost[n]), y(quality[n]["mean"])) for n in front]
    stairs = [p for a, b in itertools.pairwise(steps) for p in (a, (b[0], a[1]))] + steps[-1:]
    stairs.append((width - 8, stairs[-1][1]))
    pairs = list(itertools.pairwise(stairs))
    drawing.add(Line(stairs, "accent", 1.5, (5, 3), 0.8))
    places = {name: (x(cost[name]), y(q["mean"])) for name, q in quality.items()}
    for name, (at, level) in places.items():
        q, color = quality[name], "accent" if name in front else "soft"
        if q["half_width"] is not None:
            drawing.add(Line([(at, y(q["mean"] + k * q["half_width"])) for k in (-1, 1)], color, 1.5, (), 0.6, name))
        hint = f"{shown_name(name, of['methods'][name])}: {q['mean']:.3f}, {cost[name]:.3g} {unit}"
        drawing.add(Dot(at, level, 4.5, color, name not in front, name, hint))
    shown = {name: shown_name(name, of["methods"][name]) for name in places}
    walls = [(min(a[0], b[0]), min(a[1], b[1]) - 1, max(a[0], b[0]), max(a[1], b[1]) + 1) for a, b in pairs]
    drawing.add(*_labels(places, shown, front, walls, (left, top, width - 2, top + tall)))
    return drawing


def _labels(places, shown: Mapping[str, str], front: Sequence[str], walls: list, frame: tuple) -> list[Text | Line]:
    """Names beside their dots, each where it covers least else; those on the front choose first."""
    taken = [*walls, *((x - 6, y - 6, x + 6, y + 6) for x, y in places.values())]
    marks: list[Text | Line] = []
    for name in sorted(places, key=lambda n: (n not in front, places[n])):
        x, y = places[name]
        wide = text_width(shown[name], 12.5)
        beside = [(side, rise) for reach in range(5) for side in (1, -1) for rise in ((4 - 14 * reach), 4 + 14 * reach)]
        boxes = [
            (x + 9, y + rise - 11, x + 9 + wide, y + rise + 3)
            if side > 0
            else (x - 9 - wide, y + rise - 11, x - 9, y + rise + 3)
            for side, rise in beside
        ]
        k = int(np.argmin([_overlap(b, taken) + _outside(b, frame) + i for i, b in enumerate(boxes)]))
        side, rise = beside[k]
        taken.append(boxes[k])
        if abs(rise - 4) > 14:
            marks.append(Line([(x, y), (x + 8 * side, y + rise - 4)], "soft", 0.8))
        color, anchor = "ink" if name in front else "soft", "start" if side > 0 else "end"
        marks.append(Text(x + 9 * side, y + rise, shown[name], color, 12, anchor, name in front, True, name))
    return marks


def _overlap(a: tuple, boxes: Sequence[tuple]) -> float:
    """The area that a box shares with others."""
    return sum(max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1])) for b in boxes)


def _outside(a: tuple, frame: tuple) -> float:
    """What it costs a label to leave the frame."""
    return 1000 * sum(max(0, frame[k] - a[k]) + max(0, a[k + 2] - frame[k + 2]) for k in (0, 1))


# --- training, classes ------------------------------------------------------------------------------------------------


def training(of: Results, primary: str, lower_is_better: bool, width: float) -> Drawing:
    """The training loss of every method against the step, seeds averaged and smoothed."""
    curves = {}
    for name, method in of["methods"].items():
        loss = _smoothed(np.mean([seed["loss"] for seed in method["seeds"].values()], axis=0))
        shown = np.unique(np.linspace(0, len(loss) - 1, 100).astype(int))
        curves[name] = [(float(i + 1), float(loss[i])) for i in shown]
    names = series.distinct(of, primary, lower_is_better)
    return series.lines(curves, _shown(of), "training loss", "step", width, names)


def per_class(of: Results, measure: str, info: Results, classes: Sequence[str], width: float) -> Drawing | None:
    """A measure of every class: a dot for each method, seeds averaged; None for a measure without classes."""
    seeds = {name: list(m["seeds"].values()) for name, m in of["methods"].items()}
    if not next(iter(seeds.values()))[0]["figures"][measure]["classes"]:
        return None
    values = {
        name: [float(np.mean([series.value(s["figures"][measure]["classes"][c]) for s in some])) for c in classes]
        for name, some in seeds.items()
    }
    names = series.distinct(of, measure, info["lower_is_better"])
    step, top = 40, 16
    drawing = Drawing(width, 0, f"{info['title']} by class")
    left = 16 + max(text_width(c) for c in classes)
    known = [v for row in values.values() for v in row if not math.isnan(v)]
    scale = Scale(*padded(known or [0, 1]), left, width - 10)
    bottom = top + step * len(classes)
    bottom_axis(drawing, scale, top, bottom, info["title"], 5)
    for i, name in enumerate(classes):
        y = top + step * (i + 0.5)
        drawing.add(Text(left - 10, y + 4, name, "ink", 13, "end"))
        drawing.add(Line([(left, y + step / 2), (width - 10, y + step / 2)], "line", 0.7))
        for k, (method, row) in enumerate(values.items()):
            if not math.isnan(row[i]):
                color = series.looks(names)[method].color if method in names else "soft"
                at = y + 0.75 * step * ((k + 0.5) / len(values) - 0.5)
                hint = f"{shown_name(method, of['methods'][method])}, {name}: {row[i]:.3f}"
                drawing.add(Dot(scale(row[i]), at, 3.2, color, of=method, hint=hint))
    others = [name for name in values if name not in names]
    drawing.height = series.legend(drawing, series.looks(names), _shown(of), others, bottom + 60)
    return drawing


def _smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean over a thirtieth of the steps, of as many as there are at the ends."""
    kernel = np.ones(max(1, len(values) // 30))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _shown(of: Results) -> dict[str, str]:
    return {name: shown_name(name, method) for name, method in of["methods"].items()}
