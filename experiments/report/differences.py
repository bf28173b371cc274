"""The forest plot: how far each method lies from the one that all are held against."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from experiments.report.drawing import (
    Area,
    Dot,
    Drawing,
    Line,
    Scale,
    Text,
    bottom_axis,
    box,
    gridlines,
    padded,
    signed,
    text_width,
)
from experiments.results import shown_name

Results = Mapping[str, Any]


class Row(NamedTuple):
    """A method in the forest plot."""

    name: str
    shown: str
    mean: float
    half: float | None
    bootstrap: tuple[float, float] | None
    letters: str
    color: str
    text: str


def forest_rows(of: Results, measure: str, lower_is_better: bool) -> list[Row]:
    """Every method's difference to `against`, best first; colored where the grouping tells it from `against`."""
    against, groups = of["against"], of["groups"][measure]
    paired = {name: m["paired"][measure] for name, m in of["methods"].items() if measure in m["paired"]}
    largest = max((max(abs(d["mean"]), d["half_width"] or 0.0) for d in paired.values()), default=1.0)
    digits = 3 if largest > 0.005 else 4 if largest > 0.0005 else 6
    rows = []
    for name, method in of["methods"].items():
        shown, letters = shown_name(name, method), groups[name]
        if name == against:
            text = f"itself {method['summary'][measure]['mean']:.{digits}f}"
            rows.append(Row(name, shown, 0.0, None, None, letters, "soft", text))
            continue
        d = paired[name]
        apart = not set(letters) & set(groups[against])
        better = (d["mean"] < 0) == lower_is_better
        half, low = d["half_width"], d["bootstrap_low"]
        text = signed(d["mean"], digits) + ("" if half is None else f" ± {half:.{digits}f}")
        bootstrap = None if low is None or half is None else (low, d["bootstrap_high"])
        color = ("accent" if better else "warn") if apart else "soft"
        rows.append(Row(name, shown, d["mean"], half, bootstrap, letters, color, text))
    return sorted(rows, key=lambda row: row.mean, reverse=not lower_is_better)


def forest(of: Results, measure: str, info: Results, width: float) -> Drawing:
    """Paired differences to `against`: the interval over seeds, the crossed bootstrap's, and the groups' letters.

    On a wide drawing a method is a line: name, interval, figures, letters. On a narrow one the words stand above the
    interval.
    """
    rows, title = forest_rows(of, measure, info["lower_is_better"]), f"{info['title']}, difference to {of['against']}"
    narrow = width < 500
    step, top = (46, 30) if narrow else (30, 34)
    bottom = top + step * len(rows)
    columns, count = _columns(rows)
    letters_at = width - 12 - 10 * (count - 1)
    text_at = letters_at - (18 if narrow else 28)
    left = 8.0 if narrow else 24 + min(300, max(text_width(row.shown) for row in rows))
    right = width - 8 if narrow else text_at - 18 - max(text_width(row.text) for row in rows)
    scale, ticks = Scale(*_reach(rows), left, right), 4 if narrow else 7
    drawing = Drawing(width, bottom + 60, f"{title}, by method")
    bottom_axis(drawing, scale, bottom, bottom, title, ticks)
    drawing.add(Text(width - 6, top - 16, "group", "soft", 12, "end"), *_directions(scale, bottom + 52, info))
    for i, row in enumerate(rows):
        above, y = top + step * i, top + step * i + step / 2
        if i:
            drawing.add(Line([(0, above), (width, above)], "line", 0.7))
        gridlines(drawing, scale, y if narrow else above, above + step, ticks)
        drawing.add(Line([(scale(0), y if narrow else above), (scale(0), above + step)], "ink", 1.2))
        words, color = y - 8 if narrow else y + 4.5, "ink" if row.color == "soft" else row.color
        name_at, anchor = (left, "start") if narrow else (left - 16, "end")
        drawing.add(
            Text(name_at, words, row.shown, "ink", 13, anchor, of=row.name),
            Text(text_at, words, row.text, color, 13, "end", of=row.name),
            *_letters(row, letters_at, words, columns),
        )
        _interval(drawing, row, scale, y + 10 if narrow else y)
    return drawing


def _interval(drawing: Drawing, row: Row, scale: Scale, y: float) -> None:
    if row.bootstrap:
        low, high = map(scale, row.bootstrap)
        drawing.add(Area(box(low, y - 6, high, y + 6), row.color, 0.22, row.name))
    hint = f"{row.shown}: {row.text}"
    if row.half is None:
        drawing.add(Dot(scale(row.mean), y, 4, row.color, True, row.name, hint))
        return
    ends = row.mean - row.half, row.mean + row.half
    drawing.add(Line([(scale(e), y) for e in ends], row.color, 2, of=row.name))
    for end, sign in zip(ends, (1, -1), strict=True):
        # An arrow where the interval goes on beyond the plot, else a bar.
        beyond = not scale.low <= end <= scale.high
        reach = 6 * sign if beyond else 0
        x = scale(end)
        drawing.add(
            Line(
                [(x + reach, y - 4), (x, y), (x + reach, y + 4)] if beyond else [(x, y - 4), (x, y + 4)],
                row.color,
                2,
                of=row.name,
            )
        )
    drawing.add(Dot(scale(row.mean), y, 4.5, row.color, False, row.name, hint))


def _reach(rows: Sequence[Row]) -> tuple[float, float]:
    """What the plot spans: all means, and intervals as far as they are not many times wider than the others.

    Wide is measured by the means' range or the median interval, whichever is more: a single small difference is drawn
    with its whole interval.
    """
    means = [0.0, *(row.mean for row in rows)]
    halves = [row.half for row in rows if row.half is not None]
    span = max(max(means) - min(means), median(halves) if halves else 0.0, 1e-6)
    ends = [row.mean + k * row.half for row in rows if row.half is not None for k in (-1, 1)]
    ends += [end for row in rows if row.bootstrap for end in row.bootstrap]
    low = max(min([*means, *ends]), min(means) - 1.5 * span)
    high = min(max([*means, *ends]), max(means) + 1.5 * span)
    return padded((low, high))


def _directions(scale: Scale, y: float, info: Results) -> list[Text]:
    left, right = ("better", "worse") if info["lower_is_better"] else ("worse", "better")
    return [Text(scale.start, y, f"← {left}", "soft", 12), Text(scale.end, y, f"{right} →", "soft", 12, "end")]


def _columns(rows: Sequence[Row]) -> tuple[str, int]:
    """The letters that have columns of their own, so that groups are seen as columns, and how many columns there are.

    Where there are too many for that, none has: each row's letters stand side by side.
    """
    found = "".join(sorted({letter for row in rows for letter in row.letters}))
    return (found, len(found)) if len(found) <= 6 else ("", max(len(row.letters) for row in rows))


def _letters(row: Row, left: float, y: float, columns: str) -> list[Text]:
    places = [columns.index(c) if columns else i for i, c in enumerate(row.letters)]
    return [Text(left + 10 * p, y, c, "ink", 13, "middle") for p, c in zip(places, row.letters, strict=True)]
