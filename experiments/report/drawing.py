"""Charts as lists of marks, in pixels from the top left: drawn once, written as SVG for a page and as files.

Inside a page colors are its CSS variables, so that a chart follows it into the dark, and text is text. Files are
written with matplotlib in the light colors.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from experiments import files

# Okabe and Ito's colors, told apart by color-blind readers too; yellow is left out, which white swallows. Each by name
# as (light, dark): what it is on a white and on a dark page.
COLORS = {
    "paper": ("#ffffff", "#16171a"),
    "panel": ("#f5f6f8", "#1f2125"),
    "ink": ("#1a1a1e", "#ececf0"),
    "soft": ("#5c5c66", "#a6a6b2"),
    "line": ("#e0e1e6", "#34363d"),
    "accent": ("#0067a3", "#62b6f2"),
    "warn": ("#c24a00", "#ff9659"),
    "c0": ("#0072B2", "#56a8e6"),
    "c1": ("#D55E00", "#ff8a42"),
    "c2": ("#009E73", "#2fd0a0"),
    "c3": ("#B3578F", "#e29bc7"),
    "c4": ("#C98A00", "#ffc04d"),
    "c5": ("#2f9fd6", "#9bd9ff"),
    "c6": ("#444450", "#d5d5de"),
}
SERIES = tuple(name for name in COLORS if name[0] == "c" and name[1:].isdigit())
_STYLE = {
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "upsampling",  # the same run gives the same files
}
WIDE, NARROW = 860, 350  # what charts are drawn for: a screen or a sheet, and a phone
_DPI = 100  # pixels of a drawing per inch of a file


# --- marks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line through points (x, y)."""

    points: Sequence[tuple[float, float]]
    color: str = "ink"
    width: float = 1.5
    dash: tuple[float, ...] = ()
    opacity: float = 1.0
    of: str | None = None


@dataclass(frozen=True)
class Area:
    """A filled polygon."""

    points: Sequence[tuple[float, float]]
    color: str = "ink"
    opacity: float = 1.0
    of: str | None = None


@dataclass(frozen=True)
class Dot:
    """A disc, or a circle if hollow. The hint is shown where a pointer rests on it."""

    x: float
    y: float
    radius: float = 4.5
    color: str = "ink"
    hollow: bool = False
    of: str | None = None
    hint: str | None = None


@dataclass(frozen=True)
class Text:
    """A line of text; x is its start, middle or end, y its baseline."""

    x: float
    y: float
    text: str
    color: str = "ink"
    size: float = 13
    anchor: str = "start"
    bold: bool = False
    halo: bool = False
    of: str | None = None


Mark = Line | Area | Dot | Text


@dataclass
class Drawing:
    """Marks on a sheet. `of` of a mark is the method it shows, which the page highlights."""

    width: float
    height: float
    title: str
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        self.marks += marks


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    """The corners of a rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def text_width(text: str, size: float = 13) -> float:
    """About how wide a text is in a sans-serif face."""
    return size * sum(0.27 if c in "iljtf.,:;|'()[]! " else 0.86 if c in "mwMW%" else 0.64 for c in text)


# --- scales -----------------------------------------------------------------------------------------------------------


class Scale(NamedTuple):
    """From values to pixels, evenly or by their logarithm; values beyond the ends are drawn at the ends."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, max(value, self._least())))
        share = (value - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _least(self) -> float:
        return self.low if self.log else -math.inf

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the scale."""
        if not self.log:
            values = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        else:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = np.array([m * 10.0**p for p in powers for m in (1, 2, 5)])
            if np.sum((values >= self.low) & (values <= self.high)) > most:
                values = np.array([10.0**p for p in powers])
        slack = 1e-9 * abs(self.high - self.low)
        return [float(v) for v in values if self.low - slack <= v <= self.high + slack]


def padded(values: Iterable[float], share: float = 0.06, least: float = 1e-9) -> tuple[float, float]:
    """The range of values with a margin on both sides."""
    values = list(values)
    low, high = min(values), max(values)
    margin = share * max(high - low, least)
    return low - margin, high + margin


def plain(value: float) -> str:
    """A tick's label."""
    text = f"{value:.10g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.0e}".replace("e-0", "e-")
    return text.replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """A difference, with the sign that typesetters use."""
    return f"{value:+.{digits}f}".replace("-", "−")


def bottom_axis(drawing: Drawing, scale: Scale, top: float, bottom: float, title: str = "", most: int = 6) -> None:
    """Gridlines upright over the plot, and below it ticks and the title."""
    gridlines(drawing, scale, top, bottom, most)
    for tick in scale.ticks(most):
        label = plain(tick)
        at = min(scale(tick), drawing.width - text_width(label, 12) / 2 - 1)  # the last one may stand at the end
        drawing.add(Text(at, bottom + 16, label, "soft", 12, "middle"))
    drawing.add(Text((scale.start + scale.end) / 2, bottom + 34, title, "soft", 12, "middle"))


def gridlines(drawing: Drawing, scale: Scale, top: float, bottom: float, most: int = 6) -> None:
    """Upright lines at the ticks."""
    drawing.add(*(Line([(scale(tick), top), (scale(tick), bottom)], "line", 1) for tick in scale.ticks(most)))


def left_axis(drawing: Drawing, scale: Scale, left: float, right: float, title: str = "", most: int = 6) -> None:
    """Gridlines across the plot, ticks beside it, and the title above."""
    for tick in scale.ticks(most):
        y = scale(tick)
        drawing.add(Line([(left, y), (right, y)], "line", 1), Text(left - 6, y + 4, plain(tick), "soft", 12, "end"))
    drawing.add(Text(left, min(scale.start, scale.end) - 10, title, "ink", 13, bold=True))


# --- the page ---------------------------------------------------------------------------------------------------------


def svg(drawing: Drawing) -> str:
    """The drawing as an element of a page, in the page's colors."""
    size = f'viewBox="0 0 {_n(drawing.width)} {_n(drawing.height)}"'
    parts = [f'<svg {size} role="img" aria-label="{escape(drawing.title)}">']
    parts += [_element(mark) for mark in drawing.marks]
    return "".join([*parts, "</svg>"])


def _element(mark: Mark) -> str:
    of = f' data-of="{escape(mark.of)}"' if mark.of else ""
    if isinstance(mark, Line):
        dash = f' stroke-dasharray="{" ".join(map(_n, mark.dash))}"' if mark.dash else ""
        opacity = f' opacity="{_n(mark.opacity)}"' if mark.opacity < 1 else ""
        look = f'class="s-{mark.color}" stroke-width="{_n(mark.width)}"{dash}{opacity}'
        return f'<path {look} d="{_path(mark.points)}"{of}/>'
    if isinstance(mark, Area):
        return f'<path class="f-{mark.color}" d="{_path(mark.points)}Z" opacity="{_n(mark.opacity)}"{of}/>'
    if isinstance(mark, Dot):
        look = f"s-{mark.color} hollow" if mark.hollow else f"f-{mark.color}"
        at = f'cx="{_n(mark.x)}" cy="{_n(mark.y)}" r="{_n(mark.radius)}"'
        hint = f"<title>{escape(mark.hint)}</title>" if mark.hint else ""
        return f'<circle class="{look}" {at}{of}>{hint}</circle>'
    look = f"f-{mark.color}" + (" bold" if mark.bold else "") + (" halo" if mark.halo else "")
    at = f'x="{_n(mark.x)}" y="{_n(mark.y)}" font-size="{_n(mark.size)}" text-anchor="{mark.anchor}"'
    return f'<text class="{look}" {at}{of}>{escape(mark.text)}</text>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def css() -> str:
    """The colors as CSS variables, light and dark, and the classes that drawings use."""
    light, dark = ("".join(f"--{name}:{pair[k]};" for name, pair in COLORS.items()) for k in (0, 1))
    classes = "".join(f".s-{name}{{stroke:var(--{name})}}.f-{name}{{fill:var(--{name})}}" for name in COLORS)
    # What is printed is printed on white.
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{classes}"


# --- files ------------------------------------------------------------------------------------------------------------


def figure(drawing: Drawing) -> Figure:
    """The drawing as a figure of matplotlib."""
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(drawing.width / _DPI, drawing.height / _DPI))
        axes = drawn.add_axes((0, 0, 1, 1), xlim=(0, drawing.width), ylim=(drawing.height, 0))
        axes.set_axis_off()
        for order, mark in enumerate(drawing.marks):
            _draw(axes, mark, order)
    return drawn


def save(drawing: Drawing, path: Path) -> None:
    """Writes the drawing beside `path`, as PNG and as SVG."""
    save_figure(figure(drawing), path)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG and SVG, without a date: the same run gives the same files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        for kind, metadata in (("png", None), ("svg", {"Date": None})):
            with files.atomic(path.with_name(f"{path.name}.{kind}")) as temporary:
                figure.savefig(temporary, format=kind, dpi=2 * _DPI, metadata=metadata)


def _draw(axes: Any, mark: Mark, order: int) -> None:
    color, point = COLORS[mark.color][0], 72 / _DPI
    if isinstance(mark, Line):
        dash = {"dashes": [d / mark.width for d in mark.dash]} if mark.dash else {}
        axes.plot(
            *zip(*mark.points, strict=True),
            color=color,
            lw=mark.width * point,
            alpha=mark.opacity,
            zorder=order,
            solid_capstyle="butt",
            **dash,
        )
    elif isinstance(mark, Area):
        axes.fill(*zip(*mark.points, strict=True), color=color, alpha=mark.opacity, lw=0, zorder=order)
    elif isinstance(mark, Dot):
        face = COLORS["paper"][0] if mark.hollow else color
        size = 2 * mark.radius * point
        axes.plot(mark.x, mark.y, "o", ms=size, mfc=face, mec=color, mew=1.5 if mark.hollow else 0, zorder=order)
    else:
        axes.text(
            mark.x,
            mark.y,
            mark.text,
            color=color,
            size=mark.size * point,
            ha={"start": "left", "middle": "center", "end": "right"}[mark.anchor],
            va="baseline",
            weight="bold" if mark.bold else "normal",
            path_effects=[withStroke(linewidth=2.5, foreground=COLORS["paper"][0])] if mark.halo else None,
            parse_math=False,
            zorder=order,
        )
