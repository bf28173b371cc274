"""Close-ups for the viewer: where methods differ in how they render a boundary, not in what they take a thing for."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

from experiments.data import Dataset, Example, Split

NEAR = 3  # pixels from the true boundary, within which methods may differ by rendition alone
MOST = 6  # close-ups of a design
_WHOLE = 220  # longest side of the small picture that shows where a close-up is
TRUTH, PREDICTED = "#00e5ff", "#ff2d55"
_ACROSS = 4

Predictions = Mapping[str, Sequence[np.ndarray]]


class Window(NamedTuple):
    """A square of a test image.

    Attributes:
      image: its place in the split.
      top, left, side: in pixels.
      differing: pixels near the true boundary on which not all methods agree.
      far: pixels farther off that some method has wrong: 0 where only the rendition differs.
      shared: pixels that all methods have wrong alike.
    """

    image: int
    top: int
    left: int
    side: int
    differing: int
    far: int
    shared: int

    def cut(self, array: np.ndarray) -> np.ndarray:
        return array[self.top : self.top + self.side, self.left : self.left + self.side]


# --- where ------------------------------------------------------------------------------------------------------------


def clear_examples(split: Split, predictions: Predictions, ignore_index: int | None) -> list[Window]:
    """A few windows that show rendition alone, best first, no two of one image where there are images enough.

    The window of an image is, among those without any error far from the true boundary, the one in which pixels that
    differ outnumber those that all methods have wrong alike most; if all windows have such errors, the one in which
    differing pixels outnumber them most. Windows without errors come first.
    """
    found = [
        window(i, example["label"], [maps[i] for maps in predictions.values()], ignore_index)
        for i, example in enumerate(split.examples)
    ]
    found = [w for w in found if w.differing] or found
    return sorted(found, key=lambda w: (w.far > 0, w.far + w.shared - w.differing, w.image))[:MOST]


def window(image: int, truth: np.ndarray, maps: Sequence[np.ndarray], ignore_index: int | None) -> Window:
    """The window of one image."""
    counted = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    near = distance(truth) < NEAR
    wrong = np.any([m != truth for m in maps], axis=0) & counted
    # A single method is held against the truth.
    differs = wrong if len(maps) == 1 else np.any([m != maps[0] for m in maps], axis=0) & counted
    side = max(min(truth.shape) // 4, min(24, *truth.shape))
    differing, far = _sums(differs & near, side), _sums(wrong & ~near, side)
    shared = _sums(wrong & ~differs, side)
    score = np.where(far == 0, differing - shared + 2 * differs.size, differing - far)
    top, left = map(int, np.unravel_index(int(np.argmax(score)), score.shape))
    return Window(image, top, left, side, *(int(of[top, left]) for of in (differing, far, shared)))


def distance(truth: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest one that touches the true boundary, as the measures have it."""
    touches = np.zeros(truth.shape, bool)
    for axis in (0, 1):
        change = np.diff(truth, axis=axis) != 0
        before, after = [(0, 0)] * 2, [(0, 0)] * 2
        before[axis], after[axis] = (1, 0), (0, 1)
        touches |= np.pad(change, before) | np.pad(change, after)
    if not touches.any():
        return np.full(truth.shape, np.inf)
    return ndimage.distance_transform_edt(~touches)


def _sums(marked: np.ndarray, side: int) -> np.ndarray:
    """How many marked pixels each square of this side holds, by its top left pixel."""
    sums = np.pad(marked.astype(int), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    return sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]


# --- for the page -----------------------------------------------------------------------------------------------------


def viewer(
    windows: Sequence[Window], data: Dataset, predictions: Predictions, shown: Mapping[str, str]
) -> dict[str, Any]:
    """What the page's viewer takes: the methods' names, and of each close-up its image and everyone's label maps."""
    names = list(predictions)
    return {
        "methods": [{"name": name, "shown": shown[name]} for name in names],
        "ignore": data.ignore_index,
        "closeups": [_closeup(w, data.test, [predictions[name][w.image] for name in names]) for w in windows],
    }


def _closeup(w: Window, split: Split, maps: Sequence[np.ndarray]) -> dict[str, Any]:
    image = as_bytes(split.examples[w.image]["image"])
    height, width = image.shape[:2]
    return {
        "name": split.names[w.image],
        "side": w.side,
        "at": [round(100 * x, 2) for x in (w.left / width, w.top / height, w.side / width, w.side / height)],
        "far": w.far,
        "image": png(w.cut(image)),
        "whole": png(image, _WHOLE),
        "truth": runs(w.cut(split.examples[w.image]["label"])),
        "maps": [runs(w.cut(m)) for m in maps],
    }


def as_bytes(image: np.ndarray) -> np.ndarray:
    """An image as (H, W) or (H, W, 3) bytes; a gray one is stretched to its brightest thousandth."""
    if image.shape[-1] < 3:
        gray = image[..., 0] / max(1.0, float(np.percentile(image[..., 0], 99.8)))
        return np.round(255 * np.clip(gray, 0, 1)).astype(np.uint8)
    return np.round(255 * np.clip(image[..., :3], 0, 1)).astype(np.uint8)


def png(image: np.ndarray, longest: int | None = None) -> str:
    """Bytes as a PNG in a data URI, made smaller if a side is longer than `longest`."""
    picture = Image.fromarray(image)
    if longest:
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def runs(labels: np.ndarray) -> list[int]:
    """A label map, row by row, as label, length, label, length, and so on.

    >>> runs(np.array([[0, 0, 2], [2, 2, 1]]))
    [0, 2, 2, 3, 1, 1]
    """
    flat = labels.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]]))
    return np.stack([flat[starts], lengths], axis=1).ravel().tolist()


# --- files ------------------------------------------------------------------------------------------------------------


def sheet(example: Example, w: Window, maps: Mapping[str, np.ndarray]) -> Figure:
    """A close-up by every method, side by side: the true boundary and over it the predicted one."""
    image, truth = w.cut(as_bytes(example["image"])), w.cut(example["label"])
    panels = [("image and truth", None), *((name, w.cut(m)) for name, m in maps.items())]
    rows = -(-len(panels) // _ACROSS)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "upsampling"}):
        figure = Figure(figsize=(2.6 * _ACROSS, 2.85 * rows), layout="constrained")
        axes = figure.subplots(rows, _ACROSS, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, (name, labels) in zip(axes.flat, panels, strict=False):
            axis.imshow(image, interpolation="nearest", **({"cmap": "gray"} if image.ndim == 2 else {}))
            axis.set_title(name, fontsize=10)
            axis.add_collection(LineCollection(list(edges(truth)), colors=TRUTH, linewidths=2.6))
            if labels is not None:
                axis.add_collection(LineCollection(list(edges(labels)), colors=PREDICTED, linewidths=1.3))
    return figure


def edges(labels: np.ndarray) -> np.ndarray:
    """The lines between pixels of different labels, `(n, 2, 2)`: (x, y) of both ends, whole at pixel centers."""
    rows, columns = np.nonzero(labels[:, 1:] != labels[:, :-1])
    upright = np.stack([columns + 0.5, rows - 0.5, columns + 0.5, rows + 0.5], axis=-1)
    rows, columns = np.nonzero(labels[1:] != labels[:-1])
    level = np.stack([columns - 0.5, rows + 0.5, columns + 0.5, rows + 0.5], axis=-1)
    return np.concatenate([upright, level]).reshape(-1, 2, 2)
