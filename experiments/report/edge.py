"""Figures of the analytic design: where each method puts an edge whose place is known."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report import series
from experiments.report.drawing import Area, Dot, Drawing, Line, Scale, Text, bottom_axis, box, signed, text_width

Results = Mapping[str, Any]


def by_shift(analytic: Results) -> list[str]:
    """The methods of the analytic design, the least displacement first."""
    found = analytic["methods"]
    return sorted(found, key=lambda name: found[name]["edges"]["rms"])


def displacement_range(analytic: Results, width: float) -> Drawing:
    """How far each method moves an edge, over all places in a cell; drawn large, with the pixels behind."""
    names, narrow = by_shift(analytic), width < 500
    step, top = (44, 26) if narrow else (30, 30)
    bottom = top + step * len(names)
    left = 8.0 if narrow else 24 + max(text_width(name) for name in names)
    right = width - 8 if narrow else width - 130
    edges = {name: analytic["methods"][name]["edges"] for name in names}
    most = max(0.55, *(max(map(abs, figures["curve"]["displacement"])) for figures in edges.values()))
    scale = Scale(-1.08 * most, 1.08 * most, left, right)
    drawing = Drawing(width, bottom + 44, "Where each method puts an edge, in pixels from its true place")
    large = f"displacement in pixels; drawn at {scale(1) - scale(0):.0f} times its size"
    bottom_axis(drawing, scale, bottom, bottom, large, 5)
    drawing.add(Text(scale(0), top - 14, "true edge", "ink", 12, "middle"))
    drawing.add(Text(width - 6, top - 14, "RMS, all angles", "soft", 12, "end"))
    for i, (name, figures) in enumerate(edges.items()):
        above, y = top + step * i, top + step * i + step / 2
        _pixels(drawing, scale, most, y - 2 if narrow else above, above + step)
        words, name_at, anchor = (y - 8, left, "start") if narrow else (y + 4.5, left - 16, "end")
        drawing.add(
            Text(name_at, words, name, "ink", 13, anchor, of=name),
            Text(width - 6, words, f"{figures['rms']:.2f} px", "ink", 13, "end", of=name),
        )
        _moved(drawing, scale, name, figures["curve"]["displacement"], y + 10 if narrow else y)
    return drawing


def _pixels(drawing: Drawing, scale: Scale, most: float, top: float, bottom: float) -> None:
    """The pixels beside the true edge, every other one shaded, and the edge."""
    # Pixels end where the edge is: this one lies along the grid, between two of them.
    for k in range(-math.ceil(most) - 1, math.ceil(most) + 1):
        if k % 2 and scale(k) < scale(k + 1):
            drawing.add(Area(box(scale(k), top, scale(k + 1), bottom), "line", 0.4))
    drawing.add(Line([(scale(0), top), (scale(0), bottom)], "ink", 1.5))


def _moved(drawing: Drawing, scale: Scale, name: str, displacement: list[float], y: float) -> None:
    """A bar from the least to the largest displacement, and a dot at the mean."""
    low, high, middle = min(displacement), max(displacement), float(np.mean(displacement))
    color = "warn" if abs(middle) > 0.05 else "accent"
    hint = f"{name}: from {signed(low, 2)} to {signed(high, 2)} px"
    drawing.add(
        Area(box(scale(low), y - 5, scale(high), y + 5), color, 0.5, name),
        Dot(scale(middle), y, 4.5, color, of=name, hint=hint),
    )


def displacement_curves(analytic: Results, width: float) -> Drawing:
    """Displacement against the edge's true place within a cell, a panel for each method, all to one scale."""
    names, across = by_shift(analytic), 2 if width < 500 else 4
    gap, indent = 18, 28
    panel = (width - indent - 6 - gap * (across - 1)) / across
    tall, head, foot = 150, 44, 28
    lines = -(-len(names) // across)
    drawing = Drawing(width, lines * (head + tall + foot) + 16, "Displacement of an edge by its place within a cell")
    curves = {name: analytic["methods"][name]["edges"]["curve"] for name in names}
    most = max(0.5, 1.08 * max(max(map(abs, curve["displacement"])) for curve in curves.values()))
    stride = analytic["stride"]
    for i, name in enumerate(names):
        row, column = divmod(i, across)
        left, top = indent + column * (panel + gap), row * (head + tall + foot) + head
        x, y = Scale(0, stride, left, left + panel), Scale(-most, most, top + tall, top)
        for tick in y.ticks(5):
            drawing.add(Line([(left, y(tick)), (left + panel, y(tick))], "ink" if tick == 0 else "line", 1))
            if column == 0:
                drawing.add(Text(left - 6, y(tick) + 4, f"{tick:g}".replace("-", "−"), "soft", 11, "end"))
        for tick in range(stride + 1):
            if stride <= 4 or tick % (stride // 4) == 0:
                drawing.add(Text(x(tick), top + tall + 15, str(tick), "soft", 11, "middle"))
        points = [(x(a), y(b)) for a, b in zip(curves[name]["offset"], curves[name]["displacement"], strict=True)]
        drawing.add(
            Area([(points[0][0], y(0)), *points, (points[-1][0], y(0))], "accent", 0.2, name),
            Line(points, "accent", 2, of=name),
            Text(left, top - 24, _fitting(name, panel), "ink", 12.5, bold=True),
            Text(left, top - 8, f"{max(map(abs, curves[name]['displacement'])):.2f} px at most", "soft", 12),
        )
    drawing.add(Text(indent, drawing.height - 4, "across: the edge’s true place within a cell, px", "soft", 12))
    return drawing


def _fitting(name: str, width: float) -> str:
    """A name, shortened where it has no room."""
    while text_width(name, 13) > width:
        name = name.rstrip("…")[:-1] + "…"
    return name


def by_angle(analytic: Results, width: float) -> Drawing:
    """Displacement against the direction of the edge."""
    found = {name: analytic["methods"][name]["edges"] for name in by_shift(analytic)}
    curves = {n: list(zip(m["angles"], m["by_angle"]["rms"], strict=True)) for n, m in found.items()}
    return _lines(curves, "displacement, RMS, px", "angle of the edge’s normal, degrees", width)


def by_curvature(analytic: Results, width: float) -> Drawing:
    """Displacement of the edges of discs against their radius."""
    found = {name: analytic["methods"][name]["discs"] for name in by_shift(analytic)}
    curves = {n: list(zip(m["radii"], m["bias"], strict=True)) for n, m in found.items()}
    return _lines(curves, "displacement of a disc’s edge, mean, px", "radius of the disc, px", width)


def by_line_width(analytic: Results, width: float) -> Drawing:
    """The share that is found of thin lines against their width."""
    found = {name: analytic["methods"][name]["lines"] for name in by_shift(analytic)}
    curves = {n: list(zip(m["widths"], m["recall"], strict=True)) for n, m in found.items()}
    return _lines(curves, "share found of a thin line", "width of the line, px", width)


def _lines(curves: dict, title: str, across: str, width: float) -> Drawing:
    return series.lines(curves, {name: name for name in curves}, title, across, width, dots=True)
