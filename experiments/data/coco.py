"""COCO's annotations to label maps: polygons and run lengths, drawn one over the other."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.path import Path as Outline

from experiments.data.labels import Meaning

CROWD = 255  # a group whose members are not told apart, drawn coarsely


@dataclass(frozen=True)
class Drawn:
    """A mask that is drawn from annotations when it is read.

    Attributes:
      path: the file with the annotations.
      name: of the image.
      size: its height and width.
      shapes: label and COCO segmentation of each object, in the order in which they are drawn.
    """

    path: Path
    name: str
    size: tuple[int, int]
    shapes: Sequence[tuple[int, Any]]

    @property
    def digest(self) -> str:
        """Of what is drawn."""
        told = json.dumps([self.size, list(self.shapes)])
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()

    def draw(self) -> np.ndarray:
        """The mask `(H, W)`: 0 where nothing is, else the label of the last object drawn."""
        mask = np.zeros(self.size, np.uint8)
        for label, segmentation in self.shapes:
            try:
                inside = _inside(segmentation, self.size)
            except (ValueError, TypeError, KeyError, IndexError) as error:
                raise ValueError(f"{self.path}: a segmentation of {self.name} cannot be read ({error!r}).") from error
            mask[inside] = label
        return mask


class Found(NamedTuple):
    """Names of the categories, and name, image file and mask of each image."""

    classes: tuple[str, ...]
    images: list[tuple[str, Path, Drawn]]


def read(path: Path, images: Path) -> Found:
    """Reads a file of instances. Categories are labels from 1, in order of their ids; 0 is the background.

    Larger objects are drawn first, so that what is in front of them, which is smaller as a rule, is seen.

    Raises:
      ValueError: the file is not of COCO's kind, or an image that it names is missing.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        categories = sorted(told["categories"], key=lambda category: category["id"])
        label = {category["id"]: i + 1 for i, category in enumerate(categories)}
        objects: dict[Any, list[Mapping]] = {}
        for entry in told["annotations"]:
            objects.setdefault(entry["image_id"], []).append(entry)
        found = []
        for image in told["images"]:
            file = images / image["file_name"]
            if not file.is_file():
                raise ValueError(f"{file}: there is no such file; {path.name} names it.")
            own = sorted(objects.get(image["id"], ()), key=lambda entry: -entry.get("area", 0))
            shapes = [
                (CROWD if entry.get("iscrowd") else label[entry["category_id"]], entry["segmentation"]) for entry in own
            ]
            size = int(image["height"]), int(image["width"])
            found.append((str(Path(image["file_name"]).with_suffix("")), file, Drawn(path, file.name, size, shapes)))
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not COCO's annotations of instances ({error!r}).") from error
    if not found:
        raise ValueError(f"{path}: it names no images.")
    return Found(tuple(str(category["name"]) for category in categories), found)


def meaning(classes: Sequence[str]) -> Meaning:
    """Background and categories; crowds are ignored."""
    names = ("background", *classes)
    if len(names) > CROWD:
        raise ValueError(f"{len(names)} categories are more than the {CROWD} that a mask holds.")
    return Meaning(names, {label: label for label in range(len(names))}, frozenset({CROWD}))


def _inside(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Which pixels a segmentation covers: polygons, or run lengths plain or packed."""
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        return _from_runs(unpack(counts) if isinstance(counts, (str, bytes)) else counts, segmentation["size"], size)
    covered = np.zeros(size, bool)
    for polygon in segmentation:
        covered |= _polygon(np.asarray(polygon, float).reshape(-1, 2), size)
    return covered


def _polygon(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels whose center is inside: a pixel reaches from its number to the next."""
    covered = np.zeros(size, bool)
    low = np.floor(points.min(0)).astype(int).clip(0, size[::-1])
    high = np.ceil(points.max(0)).astype(int).clip(0, size[::-1])
    columns, rows = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
    if rows.size:
        centers = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], 1)
        covered[low[1] : high[1], low[0] : high[0]] = Outline(points).contains_points(centers).reshape(rows.shape)
    return covered


def _from_runs(counts: Sequence[int], told: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Runs of zeros and ones in turn, column by column."""
    if tuple(told) != size or sum(counts) != size[0] * size[1]:
        raise ValueError(f"run lengths of {told} pixels for an image of {size}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size, order="F")


def unpack(packed: str | bytes) -> list[int]:
    """COCO's packed run lengths: five bits a character from 48 up, the sixth says that more follow; from the third run
    on, a number is the difference to the one before the last.

    Example:

    >>> unpack("52203")
    [5, 2, 2, 2, 5]
    """
    text = packed.encode() if isinstance(packed, str) else packed
    counts: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        while True:
            piece = text[at] - 48
            at += 1
            value |= (piece & 31) << shift
            shift += 5
            if not piece & 32:
                break
        if piece & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts
