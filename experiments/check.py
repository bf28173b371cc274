"""The check of a data set: what would be trained on, said and drawn before anything is trained."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments import console, files
from experiments.data import PARTS, Dataset, Example, labels
from experiments.data import folder as folders
from experiments.data.source import Source
from experiments.report.drawing import COLORS, SERIES

_ROWS = 40  # of a table; a set with more values has none that can be read
_SHOWN = 4  # images of each part on the sheet


@dataclass(frozen=True)
class Check(Source):
    """Read a data set, print what would be trained on, and draw a sheet of it.

    What is refused here is what `segmentation` refuses, with the option that settles it.
    """

    sheet: Annotated[Path, tyro.conf.arg(metavar="PNG")] = Path("check.png")
    """Where the sheet goes; a file that is there is replaced."""


def prepare(command: Check) -> tuple[Check, Dataset]:
    """Reads the data.

    Raises:
      ValueError, OSError: they cannot be trained on; what the masks hold is printed first.
    """
    command.check_source()
    if command.sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet {command.sheet}: must end in .png.")
    if command.data != "folder":
        return command, command.load()
    found = command.survey()
    try:
        data = folders.dataset(found)
    except labels.Misread as error:
        _print_census(error.census, None)
        raise
    _print_census(found.census, folders.meaning_of(found))
    return command, data


def report(prepared: tuple[Check, Dataset]) -> None:
    """Prints what would be trained on, and draws the sheet."""
    command, data = prepared
    console.say(f"{data.name}: {data.description}")
    console.table("What would be trained on", [_row(data, part) for part in PARTS])
    console.table("Pixels of each class", _shares(data))
    console.say(*data.notes)
    with files.atomic(command.sheet) as temporary:
        draw(data, temporary)
    console.say(f"Sheet: {command.sheet}")


def _print_census(census: labels.Census, meaning: labels.Meaning | None) -> None:
    rows = labels.table(census, meaning)
    console.table(f"Values in {census.images} masks", rows[:_ROWS])
    if len(rows) > _ROWS:
        console.say(f"... and {len(rows) - _ROWS} values more.")


def _row(data: Dataset, part: str) -> dict[str, str]:
    """A part's number of images, their sizes and the range that the network sees."""
    split = getattr(data, part)
    sizes, low, high = Counter(), np.inf, -np.inf
    for example in split.examples:
        sizes[example["label"].shape] += 1
        low, high = min(low, float(example["image"].min())), max(high, float(example["image"].max()))
    (height, width), number = sizes.most_common(1)[0]
    more = f" ({number} of {len(split)}; {len(sizes) - 1} other sizes)" if len(sizes) > 1 else ""
    return {
        "part": part,
        "images": str(len(split)),
        "height × width": f"{height} × {width}{more}",
        "channels": str(data.channels),
        "range": f"{low:.3f} to {high:.3f}",
    }


def _shares(data: Dataset) -> list[dict[str, str]]:
    """Each class's share of the pixels of each part."""
    names = [*data.classes, *(("ignored",) if data.ignore_index is not None else ())]
    rows = [{"label": str(label) if label < len(data.classes) else "–", "class": n} for label, n in enumerate(names)]
    for part in PARTS:
        counts = np.zeros(len(names), np.int64)
        for example in getattr(data, part).examples:
            counts += np.bincount(example["label"].ravel(), minlength=len(names))
        for row, share in zip(rows, counts / max(counts.sum(), 1), strict=True):
            row[part] = f"{100 * share:.2f} %"
    return rows


# --- the sheet --------------------------------------------------------------------------------------------------------


def draw(data: Dataset, path: Path) -> None:
    """Draws images of each part beside their labels, with the boundaries as the network is to find them, as PNG."""
    columns = 2 * _SHOWN
    height, width = data.test.examples[0]["label"].shape
    side = 2.0
    figure = Figure(figsize=(side * columns, side * len(PARTS) * height / width + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(PARTS), columns, squeeze=False)
    colors = palette(len(data.classes))
    for part, row in zip(PARTS, axes, strict=True):
        split = getattr(data, part)
        # Spread over the part, whose neighbors may look alike.
        chosen = np.unique(np.linspace(0, len(split) - 1, _SHOWN).round().astype(int))
        for axis in row:
            axis.set_axis_off()
        for k, i in enumerate(chosen):
            example = split.examples[int(i)]
            row[2 * k].imshow(_visible(example), interpolation="nearest")
            row[2 * k + 1].imshow(colored(example["label"], colors), interpolation="nearest")
            row[2 * k].set_title(_short(f"{part}: {split.names[int(i)]}"), fontsize=7, loc="left", parse_math=False)
    handles = [Patch(color=color, label=name) for name, color in zip(data.classes, colors, strict=True)][:_ROWS]
    if data.ignore_index is not None:
        handles.append(Patch(facecolor=_IGNORED, edgecolor="0.5", label="ignored"))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 12), fontsize=7)
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.savefig(path, format="png", dpi=100)


_IGNORED = (1.0, 1.0, 1.0)


def palette(classes: int) -> np.ndarray:
    """A color per class, `(classes, 3)`: the page's while they last, then hues as far apart as can be."""
    own = [tuple(int(COLORS[name][0][i : i + 2], 16) / 255 for i in (1, 3, 5)) for name in SERIES]
    golden = 0.618034
    more = [tuple(hsv_to_rgb(((k * golden) % 1, 0.75, 0.55 + 0.4 * (k % 3) / 2))) for k in range(classes - len(own))]
    return np.array([*own, *more][:classes])


def colored(label: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """A label map as a picture; what is ignored is white."""
    return np.concatenate([colors, [_IGNORED]])[np.minimum(label, len(colors))]


def _visible(example: Example) -> np.ndarray:
    image = np.clip(example["image"], 0, 1)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 :]}"


COMMANDS: dict[type, tuple[Callable, Callable]] = {Check: (prepare, report)}
"""For each command what checks it and what carries it out."""
