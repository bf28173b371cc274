"""What the page of an analysis shows: responses to waves by family, and the table."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.report import drawing, page, series, tables
from experiments.report.page import Chart
from experiments.results import shown_name

Found = Mapping[str, Any]

_TITLES = {
    "interpolation": "Interpolation",
    "convolution": "Convolution",
    "reassembly": "Reassembly",
    "sampling": "Sampling",
}


COLUMNS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "gain": ("what a constant is multiplied by", lambda m: _figure(m["gain"], 3)),
    "uneven": (
        "how much the phases differ on a constant input, over the gain: the checkerboard",
        lambda m: _figure(m["unevenness"], 3),
    ),
    "shift, px": ("how far the picture moves, along columns", lambda m: _figure(m["shift"][1], 2)),
    "ripple": (
        "largest change of amplitude of waves up to 1/4 cycle per input pixel",
        lambda m: _figure(m["passband_ripple"], 3),
    ),
    "images": (
        "share of a white input's energy beyond 1/2 cycle per input pixel, where nothing should be",
        lambda m: _figure(m["imaging_energy"], 3),
    ),
    "position": (
        "how much the result changes when the input moves by a pixel",
        lambda m: _figure(m["equivariance_error"], 3),
    ),
    "sees": (
        "input pixels, rows × columns, behind one output pixel",
        lambda m: "{} × {}".format(*m["receptive_field"]),
    ),
    "lost": (
        "share of a white picture's energy that going down by means of cells and up again changes",
        lambda m: _figure(m["lost"], 3),
    ),
    "params": ("parameters", lambda m: f"{m['parameters']:,}"),
    "MAC/px": (
        "multiply-adds per output pixel, by formula",
        lambda m: f"{m['multiply_adds_per_pixel']:,.0f}",
    ),
    "flop/px": (
        "floating-point operations per output pixel, by formula",
        lambda m: f"{m['operations_per_pixel']:,.0f}",
    ),
    "XLA": (
        "operations as XLA counts them in the program for this machine, over those by formula",
        lambda m: _figure(m["counted"], 2),
    ),
    "flop/byte": (
        "operations per byte of arguments and results",
        lambda m: f"{m['intensity']:,.1f}",
    ),
    "traffic": (
        "bytes moved over arguments and results once, in the program for this machine",
        lambda m: _figure(m["traffic"], 2),
    ),
    "faults": (
        "what an interpolator should not do; not said of a method that learns",
        lambda m: "–" if m["faults"] is None else ", ".join(m["faults"]) or "none",
    ),
}
"""What each column means, and how to take it from a method's figures."""


def rows(found: Found) -> list[dict[str, str]]:
    """The table."""
    return [
        {"method": shown_name(name, m)} | {column: take(m) for column, (_, take) in COLUMNS.items()}
        for name, m in found["methods"].items()
    ]


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def brief(found: Found) -> list[dict[str, str]]:
    """The columns that fit a terminal; the page has all."""
    kept = ("method", "gain", "uneven", "shift, px", "images", "sees", "faults")
    return [{column: row[column] for column in kept} for row in rows(found)]


def table(found: Found) -> dict[str, Any]:
    """The same for the page, the columns with what they mean."""
    named = [{"name": "method", "meaning": ""}, *({"name": n, "meaning": m} for n, (m, _) in COLUMNS.items())]
    cells = [[tables.cell(text, tables.number(text)) for text in row.values()] for row in rows(found)]
    return {"columns": named, "rows": cells, "baseline": None, "marked": False}


def context(found: Found) -> dict[str, Any]:
    """The template's variables."""
    return {
        "settings": found["settings"],
        "verdict": verdict(found),
        "figures": [{"title": title, "drawing": page.both(chart)} for title, chart in charts(found).items()],
        "table": table(found),
        "disagreements": disagreements(found),
        **page.assets(),
    }


def verdict(found: Found) -> list[str]:
    """The faults that were found, by name."""
    by_fault: dict[str, list[str]] = {}
    for name, of in found["methods"].items():
        for fault in of["faults"] or ():
            by_fault.setdefault(fault, []).append(name)
    told = [f"{fault.capitalize()}: {', '.join(names)}." for fault, names in by_fault.items()]
    fixed = [name for name, of in found["methods"].items() if of["faults"] is not None]
    sound = f"{', '.join(fixed)}: no change of a constant, no shift, no matter where a pixel lies."
    return told or ([sound] if fixed else ["All of these methods learn what they do."])


def disagreements(found: Found) -> list[str]:
    """Why XLA's count is more than 10 % off the formulas', by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, of in found["methods"].items():
        if of["disagreement"]:
            by_reason.setdefault(of["disagreement"], []).append(shown_name(name, of))
    return [f"{', '.join(names)}: {reason}." for reason, names in by_reason.items()]


def charts(found: Found) -> dict[str, Chart]:
    """Responses of each family's methods."""
    families = dict.fromkeys(of["family"] for of in found["methods"].values())
    return {_TITLES.get(family, family): functools.partial(_responses, found, family) for family in families}


def _responses(found: Found, family: str, width: float) -> drawing.Drawing:
    of_family = {name: of for name, of in found["methods"].items() if of["family"] == family}
    curves = {name: list(zip(of["frequencies"], of["response"], strict=True)) for name, of in of_family.items()}
    names = {name: shown_name(name, of) for name, of in of_family.items()}
    return series.lines(curves, names, "amplitude", "frequency, cycles per input pixel", width)


def save(found: Found, folder: Path) -> None:
    """Writes every figure as PNG and SVG files."""
    for title, chart in charts(found).items():
        drawn = chart(drawing.WIDE)
        if drawn:
            drawing.save(drawn, folder / f"responses-{title.lower()}")
