"""The figures of a run's page, as images that the page carries inside."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.data import Example, Split

# Okabe and Ito's colours, told apart by colour-blind readers too; yellow is left out, which white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "upsampling",  # the same run gives the same page
}
_TRUTH, _PREDICTED = "#00e5ff", "#ff2d55"
_PICTURES = 4
_COLUMNS = 4


def colours(names: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """A colour, a dash and a marker for each name; dash and marker change where the colours begin again."""
    dashes, markers = ("-", "--", ":", "-."), "os^D"
    rounds = ((i % len(COLOURS), i // len(COLOURS) % 4) for i in range(len(names)))
    return {name: (COLOURS[i], dashes[k], markers[k]) for name, (i, k) in zip(names, rounds, strict=True)}


def curves(methods: Mapping[str, Any]) -> str:
    """Training loss, and mean and Boundary IoU of the validation images, against the step; seeds averaged."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        axes = figure.subplots(1, 3)
        for name, (colour, dash, marker) in colours(list(methods)).items():
            seeds = methods[name]["seeds"].values()
            loss = _smoothed(np.mean([seed["loss"] for seed in seeds], axis=0))
            axes[0].plot(np.arange(1, len(loss) + 1), loss, dash, color=colour, label=name, lw=1.2)
            for axis, measure in zip(axes[1:], ("mean_iou", "boundary_iou"), strict=True):
                marks = [mark["step"] for mark in next(iter(seeds))["validation"]]
                values = np.mean(
                    [[np.nan if m[measure] is None else m[measure] for m in s["validation"]] for s in seeds], axis=0
                )
                axis.plot(marks, values, dash, marker=marker, ms=3, color=colour, lw=1.2)
        for axis, title in zip(axes, ("training loss", "validation mean IoU", "validation Boundary IoU"), strict=True):
            axis.set_title(title, loc="left")
            axis.set_xlabel("step")
        figure.legend(loc="outside lower center", ncols=min(len(methods), 7))
        return _embed(figure, "svg")


def per_class(results: Mapping[str, Any]) -> str:
    """IoU and Boundary IoU of every class: a dot per method, seeds averaged; an upright bar for the baseline."""
    methods, classes = results["methods"], results["data"]["classes"]
    rows = np.arange(len(classes))
    with mpl.rc_context(_STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(11, 1.0 + (0.12 * len(methods) + 0.15) * len(classes)), layout="constrained")
        measures = {"mean_iou": "IoU", "boundary_iou": "Boundary IoU"}
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (measure, title) in zip(axes, measures.items(), strict=True):
            for i, (name, (colour, _, marker)) in enumerate(colours(list(methods)).items()):
                seeds = methods[name]["seeds"].values()
                per_seed = [[_value(seed["figures"][measure]["classes"][c]) for c in classes] for seed in seeds]
                offset = 0.7 * ((i + 0.5) / len(methods) - 0.5)
                axis.plot(np.mean(per_seed, axis=0), rows + offset, marker, ms=5, color=colour, label=name)
            if results["baseline"]:
                values = [_value(results["baseline"]["figures"][measure]["classes"][c]) for c in classes]
                axis.vlines(values, rows - 0.4, rows + 0.4, colors="#8a8a92", label=results["baseline"]["name"])
            axis.set_yticks(rows, classes)
            axis.hlines(rows[1:] - 0.5, *axis.get_xlim(), colors="#d0d0d6", lw=0.6)
            axis.margins(x=0.02)
            axis.set_title(title, loc="left")
        axes[0].invert_yaxis()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7))
        return _embed(figure, "svg")


def telling(split: Split, predictions: Mapping[str, Sequence[np.ndarray]]) -> list[int]:
    """A few test images that show the difference: from each stretch of the split the one with most disagreement."""
    disagreement = [
        _disagreement([maps[i] for maps in predictions.values()], example["label"]).sum()
        for i, example in enumerate(split.examples)
    ]
    stretches = np.array_split(np.arange(len(split)), min(_PICTURES, len(split)))
    return [int(max(stretch, key=lambda i: disagreement[i])) for stretch in stretches]


def boundaries(example: Example, predictions: Mapping[str, np.ndarray], ignore_index: int | None) -> str:
    """Each method's boundary over the true one: the whole picture above, below it where methods differ most."""
    image, truth = example["image"], example["label"]
    counted = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    top, left, side = _window(_disagreement(list(predictions.values()), truth) & counted)
    grey = {"cmap": "gray", "vmin": 0, "vmax": max(1.0, float(np.percentile(image, 99.8)))}
    shown = image[..., 0] if image.shape[-1] == 1 else np.clip(image, 0, 1)
    panels = [("image and truth", None), *predictions.items()]
    height, width = truth.shape
    blocks = -(-len(panels) // _COLUMNS)
    with mpl.rc_context(_STYLE | {"axes.grid": False}):
        column = 3.0
        size = (column * _COLUMNS, (column * (height / width + 1) + 0.3) * blocks)
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
        grid = figure.subplots(2 * blocks, _COLUMNS, squeeze=False, height_ratios=(height / width, 1) * blocks)
        for axis in grid.flat:
            axis.set_axis_off()
        for i, (name, labels) in enumerate(panels):
            block, place = divmod(i, _COLUMNS)
            whole, part = grid[2 * block : 2 * block + 2, place]
            whole.set_title(name, fontsize=11)
            for axis, thick in ((whole, 0.8), (part, 2.0)):
                axis.imshow(shown, interpolation="nearest", **(grey if shown.ndim == 2 else {}))
                axis.add_collection(LineCollection(edges(truth), colors=_TRUTH, linewidths=thick))
                if labels is not None:
                    axis.add_collection(LineCollection(edges(labels), colors=_PREDICTED, linewidths=thick))
            part.set_xlim(left - 0.5, left + side - 0.5)
            part.set_ylim(top + side - 0.5, top - 0.5)
            whole.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, ec="#ffd60a", lw=1.5))
        return _embed(figure, "png")


def edges(labels: np.ndarray) -> np.ndarray:
    """The lines between pixels of different labels, `(n, 2, 2)`: (x, y) of both ends, whole at pixel centres."""
    rows, columns = np.nonzero(labels[:, 1:] != labels[:, :-1])
    upright = np.stack([columns + 0.5, rows - 0.5, columns + 0.5, rows + 0.5], axis=-1)
    rows, columns = np.nonzero(labels[1:] != labels[:-1])
    level = np.stack([columns - 0.5, rows + 0.5, columns + 0.5, rows + 0.5], axis=-1)
    return np.concatenate([upright, level]).reshape(-1, 2, 2)


def _value(stored: float | None) -> float:
    """A figure as read from JSON, which has no NaN."""
    return np.nan if stored is None else stored


def _disagreement(maps: Sequence[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Pixels on which not all label maps agree: a single one with the truth."""
    maps = maps if len(maps) > 1 else [*maps, truth]
    return np.any([m != maps[0] for m in maps], axis=0)


def _window(differs: np.ndarray) -> tuple[int, int, int]:
    """Top, left and side of the square, a fifth of the image's shorter side, that holds most differing pixels."""
    side = max(min(differs.shape) // 5, min(24, *differs.shape))
    sums = np.pad(differs, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return int(top), int(left), side


def _smoothed(values: np.ndarray) -> np.ndarray:
    """A running mean over a thirtieth of the steps, of as many as there are at the ends."""
    reach = max(1, len(values) // 30)
    kernel = np.ones(reach)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _embed(figure: Figure, kind: str) -> str:
    """The figure as a data URI."""
    buffer = io.BytesIO()
    # No date in the file: the same run gives the same page.
    figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
