"""Tables of the pages and of the README, from the code, the committed benchmarks and the committed runs.

A page has a table where it says `<!-- table: NAME -->`, by the names in `TABLES`.
"""

import functools
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import upsampling as up
from experiments import __main__ as command_line
from experiments import choose, results
from upsampling._operations import count

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "RESULTS.json"
_SPACE = "\u00a0"  # at which no line is broken
_SIZE, _FEATURES, _SCALE = 64, 64, 2  # of the maps that costs in the table of methods are of


def markdown(rows: Sequence[Mapping[str, str]], left: int = 1, right: int | None = None) -> str:
    """A table of Markdown: the first columns aligned to the left, `right` after them, or all, to the right."""
    names = list(rows[0])
    figures = range(left, len(names) if right is None else left + right)
    lines = [names, ["---:" if n in figures else "---" for n in range(len(names))]]
    lines += [[row[n] for n in names] for row in rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# --- the methods ------------------------------------------------------------------------------------------------------


# What the authors' repositories state of their code and weights, as read in November 2026.
LICENCES = {
    "carafe": "Apache-2.0 (mmcv)",
    "sapa": "none stated",
    "fade": "MIT",
    "fade_lite": "MIT",
    "dysample": "MIT",
    "flow_alignment": "MIT",
    "jbu": "MIT",
    "guided_filter": "none stated",
    "naf": "Apache-2.0",
    "anyup": "CC-BY-4.0",
    "jafar": "Apache-2.0",
    "loftup": "MIT",
    "uplift": "MIT",
    "freqfusion": "none stated",
    "indexnet": "non-commercial",
    "a2u": "MIT; weights non-commercial",
    "liif": "BSD-3-Clause",
}


def methods() -> str:
    """Every registered method: what it is, what it takes, and what it costs by formula, with its authors' settings."""
    rows = []
    for name, method in up.nn.available().items():
        if method.family == "own":
            continue  # registered by an example
        parameters, multiply_adds = _cost(name)
        takes = ["guide" if not method.needs_pooling else "the map before pooling"] if method.uses_guide else []
        takes += ["encoder's kernel"] if method.ties_encoder else []
        takes += ["`out_features`"] if method.changes_channels else []
        rows.append(
            {
                "method": f"`{name}`",
                "family": method.family,
                "takes": ", ".join(takes) or "–",
                "sizes": _sizes(method),
                "axes": _axes(method.spatial_axes),
                "parameters": f"{parameters:,}",
                "MAC per pixel": f"{multiply_adds:,.0f}",
                "licence": LICENCES.get(name, "–"),
                "source": _linked(method.paper),
                "variants": ", ".join(f"`{v}`" for v in method.variants) or "–",
            }
        )
    return markdown(rows, left=5, right=2)


def _sizes(method: Any) -> str:
    if "size" in method.options:
        return "any"
    fraction = "float" in str(method.signature.parameters["scale"].annotation)
    return "any factor" if fraction else "whole factors"


def _axes(axes: Sequence[int]) -> str:
    return str(axes[0]) if len(axes) == 1 else f"{min(axes)} to {max(axes)}"


def _linked(paper: str) -> str:
    paper = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)
    return re.sub(r"doi:(10\.[^\s,;]+)", r"[doi:\1](https://doi.org/\1)", paper)


@functools.cache
def _cost(name: str) -> tuple[int, float]:
    """Parameters, and multiply-adds per output pixel."""
    method = up.nn.find(name)
    layer = nnx.eval_shape(lambda: method.create(_FEATURES, _SCALE, rngs=nnx.Rngs(0)))
    structure, state = nnx.split(layer)
    shapes = [(1, n, n, _FEATURES) for n in (_SIZE, _SIZE * _SCALE)][: 1 + method.uses_guide]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    traced = jax.make_jaxpr(lambda state, *maps: nnx.merge(structure, state)(*maps))(state, *arrays)
    learned = jax.tree.leaves(nnx.split(layer, nnx.Param, ...)[1])
    return sum(math.prod(leaf.shape) for leaf in learned), count(traced.jaxpr).multiply_adds / (_SIZE * _SCALE) ** 2


# --- how frameworks place pixels --------------------------------------------------------------------------------------


def conventions(inputs: int = 4, outputs: int = 8) -> str:
    """A row of pixels 0, 1, 2, ... at another size, as each framework has it."""
    made = _by_convention(jnp.arange(float(inputs)), [(method, outputs) for method in ("nearest", "linear", "cubic")])
    rows = []
    for name, found in made.items():
        row = {"`convention=`": f"`{name}`"}
        for method, y in zip(("nearest", "linear", "cubic"), found, strict=True):
            figures = [] if y is None else np.round(y, 3) + 0.0
            row[method] = _in_lines([f"{float(v):.3g}" for v in figures]) or "–"
        rows.append(row)
    return markdown(rows, left=4)


def _by_convention(x: jax.Array, cases: Sequence[tuple[str, int]]) -> dict[str, list[np.ndarray | None]]:
    """`x` by methods at other sizes of all axes, by convention; None where a framework has no such method."""

    @jax.jit  # one program for all
    def made() -> list[list[jax.Array | None]]:
        return [
            [
                up.resize(x, (size,) * x.ndim, method=method, convention=name, axes=tuple(range(x.ndim)))
                if method in preset.methods or method in preset.antialiased
                else None
                for method, size in cases
            ]
            for name, preset in up.conventions.PRESETS.items()
        ]

    return dict(zip(up.conventions.PRESETS, jax.tree.map(np.asarray, made()), strict=True))


def _in_lines(figures: Sequence[str], most: int = 4) -> str:
    """At most so many in a line, which is not broken elsewhere."""
    lines = [_SPACE.join(figures[n : n + most]) for n in range(0, len(figures), most)]
    return "<br>".join(lines)


def distances(origin: str) -> str:
    """How far the other conventions are from one: the largest difference on a random picture in [0, 1]."""
    cases, made = _resized()
    titles = [f"{method} {'×' if size > 24 else '÷'} {max(size / 24, 24 / size):g}" for method, size in cases]
    rows = []
    for name, found in made.items():
        if name != origin:
            of = [
                "–" if a is None or b is None else f"{np.abs(a - b).max():.2f}"
                for a, b in zip(found, made[origin], strict=True)
            ]
            rows.append({"`convention=`": f"`{name}`", **dict(zip(titles, of, strict=True))})
    return markdown(rows)


@functools.cache
def _resized() -> tuple[list[tuple[str, int]], dict[str, list[np.ndarray | None]]]:
    """A random picture at other sizes, by convention; None where a framework has no such method."""
    picture = jnp.asarray(np.random.default_rng(0).random((24, 24)), jnp.float32)
    cases = [("nearest", 36), ("linear", 48), ("cubic", 48), ("linear", 12), ("cubic", 12)]
    return cases, _by_convention(picture, cases)


# --- speed ------------------------------------------------------------------------------------------------------------

# Group, its peer's key, and the peer's name.
_PEERS = (
    ("interpolation", "torch", "PyTorch's `F.interpolate`"),
    ("interpolation", "jax.image", "`jax.image.resize`"),
    ("interpolation", "cv2", "OpenCV's `cv2.resize`"),
    ("convolution", "torch", "PyTorch's `conv_transpose`"),
    ("convolution", "flax", "`flax.nnx.ConvTranspose`"),
    ("convolution", "padded", "padding by hand, as Equinox has it"),
    ("reassembly", "unfold", "PyTorch's unfold"),
    ("sampling", "torch", "PyTorch's `grid_sample`"),
    ("metrics", "scipy", "SciPy's distance transform"),
    ("metrics", "opencv", "OpenCV's distance transform and erosion"),
    ("metrics", "surface-distance", "surface-distance"),
    ("metrics", "scipy and opencv", "a whole evaluation with SciPy and OpenCV"),
)


def _rows(group: str) -> list[dict[str, Any]]:
    path = ROOT / "experiments" / "benchmarks" / "results" / f"{group}-cpu.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def speed() -> str:
    """Time over that of the peer, geometric means over the cells of the committed benchmarks."""
    rows = []
    for group, peer, title in _PEERS:
        row = {"group": f"`{group}`", "against": title}
        for column, gradient in (("forward", False), ("with gradient", True)):
            ratios = [
                cell["contenders"][peer]["ratio"]
                for cell in _rows(group)
                if peer in cell["contenders"] and cell["name"].endswith("gradient") == gradient
            ]
            row[column] = f"{math.exp(np.mean(np.log(ratios))):.2f}" if ratios else ""
        rows.append(row)
    return markdown(rows, left=2)


def layers_speed() -> str:
    """What each method takes, in bilinear interpolations."""
    found: dict[str, dict[str, str]] = {}
    for cell in _rows("layers"):
        name, _, what = cell["name"].partition(" ")
        row = found.setdefault(name, {"method": f"`{name}`"})
        ratio = cell["contenders"]["bilinear"]["ratio"]
        column = "with gradient" if what.endswith("gradient") else "forward"
        row[column] = f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}"
    return markdown(list(found.values()))


# --- the study --------------------------------------------------------------------------------------------------------


@functools.cache
def _runs() -> list[dict[str, Any]]:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def widest(data: str, design: str) -> dict[str, Any]:
    """The committed run of a data set that compares the most methods in a design; of these that of the most seeds."""
    runs = [r["results"] for r in _runs() if r["results"]["data"]["name"] == data and design in r["results"]["designs"]]
    return max(runs, key=lambda r: _extent(r["designs"][design]))


def _extent(design: dict[str, Any]) -> tuple[int, int]:
    return len(design["methods"]), len(design["seeds"])


def _shown(name: str, of: Mapping[str, Any]) -> str:
    return f"`{name}`" + (f" ({of['variant']})" if of.get("variant") else "")


def frozen(data: str = "brain") -> str:
    """The methods on frozen trunks, best first."""
    run = widest(data, "frozen")
    of, against, measure = run["designs"]["frozen"], run["against"], run["primary"]
    ranked = sorted(of["methods"].items(), key=lambda m: -m[1]["summary"][measure]["mean"])
    rows = []
    for name, method in ranked:
        paired = method.get("paired", {}).get(measure)
        summary = method["summary"]
        rows.append(
            {
                "method": _shown(name, method),
                run["measures"][measure]["title"]: f"{summary[measure]['mean']:.3f}",
                f"over `{against}`": "–" if name == against or not paired else _interval(paired),
                "mean IoU": f"{summary['mean_iou']['mean']:.3f}",
                "group": of["groups"][measure][name],
            }
        )
    return markdown(rows)


def _interval(paired: Mapping[str, Any]) -> str:
    return f"{paired['mean']:+.3f} ± {paired['half_width']:.3f}".replace("-", "−").replace(" ", _SPACE)


def analytic(factor: int = 4) -> str:
    """Where bare interpolators put a known edge, and what they leave of thin lines."""
    for run in _runs():
        of = run["results"]["analytic"]
        for one in (of, *of["others"]) if of else ():
            if one["stride"] == factor:
                return markdown(results.analytic_rows(one["methods"]))
    raise LookupError(f"RESULTS.json holds no analytic run of factor {factor}.")


def choice(*where: str) -> str:
    """Which method for which need, as `python -m experiments choose` says, of runs with one of these words.

    Of runs of the same data and design, that of the most methods, and then of the most seeds, is told. A need has a row
    for each method.
    """
    widest: dict[tuple[str, str], tuple[tuple[int, int], dict[str, str]]] = {}
    for run in choose.prepare(choose.Choose((RESULTS,))):
        extent = max(map(_extent, run[0]["designs"].values()), default=(0, 0))
        for row in choose.choose([run]):
            key = row["need"], row["found on"]
            if any(word in row["found on"] for word in where) and extent > widest.get(key, ((-1, 0),))[0]:
                widest[key] = extent, row
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for _, row in widest.values():
        told = f"{row['found on']}: {row['why']}".replace(" per training step", "")
        told += "" if row["not told from it"] == "–" else f"; not told from it: {row['not told from it']}"
        line = rows.setdefault((row["need"], row["method"]), {"need": row["need"], "method": f"`{row['method']}`"})
        line["found on"] = "<br>".join(filter(None, (line.get("found on"), told)))
    needs = list(dict.fromkeys(need for need, _ in rows))
    return markdown([rows[key] for key in sorted(rows, key=lambda key: needs.index(key[0]))], left=3)


def commands() -> str:
    """The commands of `python -m experiments`, each with its example."""
    rows = []
    for name, command in command_line._NAMED.items():
        first = (inspect.getdoc(command) or "").partition("\n\n")[0].replace("\n", " ")
        example = f"python -m experiments {name} {command_line.example_of(name)}"
        rows.append({"command": f"`{name}`", "what": first, "for example": f"`{example}`"})
    return markdown(rows, left=3)


def evidence() -> str:
    """experiments/RESULTS.md, its headings one level down."""
    text = (ROOT / "experiments" / "RESULTS.md").read_text(encoding="utf-8")
    return re.sub(r"^#", "##", text.partition("\n")[2], flags=re.MULTILINE)


# --- words of the code ------------------------------------------------------------------------------------------------


def definitions() -> str:
    """The part of `upsampling.metrics`' docstring that tells the definitions."""
    return (up.metrics.__doc__ or "").partition("Definitions\n-----------\n")[2].strip()


def sums() -> str:
    """The table of what metrics add up over a data set."""
    text = up.metrics.__doc__ or ""
    return "\n".join(line for line in text.partition("Definitions\n")[0].splitlines() if line.startswith("|"))


def edges() -> str:
    """The words for what lies beyond the image, from CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("The words for `edge`:")[2]
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def changes() -> str:
    """CHANGELOG.md without its heading."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("\n")[2]


TABLES: dict[str, Callable[[], str]] = {
    "methods": methods,
    "conventions": conventions,
    "conventions made smaller": functools.partial(conventions, 5, 3),
    **{f"distances from {name}": functools.partial(distances, name) for name in up.conventions.PRESETS},
    "speed": speed,
    "speed of layers": layers_speed,
    "frozen": frozen,
    "frozen isbi2012": functools.partial(frozen, "isbi2012"),
    "analytic": analytic,
    "analytic 2": functools.partial(analytic, 2),
    "choice": functools.partial(choice, "frozen", "analytic"),
    "choice for pictures": functools.partial(choice, "photographs"),
    "commands": commands,
    "evidence": evidence,
    "definitions": definitions,
    "sums": sums,
    "edges": edges,
    "changes": changes,
}


def filled(text: str) -> str:
    """The text of a page with its tables in it."""
    return re.sub(r"<!-- table: ([\w ]+) -->", lambda found: TABLES[found[1]](), text)
