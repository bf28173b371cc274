"""Images with label maps: what a data set is, and the data sets by name."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np


class Example(TypedDict):
    """One image, `(H, W, channels)` float32 in about [0, 1], and its label map, `(H, W)` int32."""

    image: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Split:
    """A part of a data set: examples that can be read in any order, and their names."""

    names: tuple[str, ...]
    examples: Sequence[Example]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Baseline:
    """A prediction that needs no training, to hold the networks against: an image to its label map."""

    name: str
    description: str
    predict: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """A segmentation data set.

    Attributes:
      name: what it is called.
      description: a sentence for the report: what it shows and how it was split.
      classes: name of each label, in order.
      channels: of the images.
      ignore_index: the label of pixels that count nowhere, or None.
      train, validation, test: its parts.
      augment: what training does to an example before it is cropped, with a random generator.
      flips: the axes (0 rows, 1 columns) along which a mirrored image is as likely as the image.
      generated: whether the test images were made here, so that a run must store them to be understood later.
      baseline: a prediction without training, or None.
      digest: of all that training sees, which a run that goes on is held against; empty where none is known.
      notes: what a reader should know of how the data were read, and all that is odd about them.
    """

    name: str
    description: str
    classes: tuple[str, ...]
    channels: int
    ignore_index: int | None
    train: Split
    validation: Split
    test: Split
    augment: Callable[[Example, np.random.Generator], Example]
    flips: tuple[int, ...]
    generated: bool = False
    baseline: Baseline | None = None
    digest: str = ""
    notes: tuple[str, ...] = ()


PARTS = ("train", "validation", "test")


def identity(data: Dataset) -> dict[str, Any]:
    """What a run stores of its data, to know them again: classes, digest, and the names in each part."""
    return {
        "name": data.name,
        "classes": list(data.classes),
        "digest": data.digest or _digest(data),
        "parts": {part: {"images": len(getattr(data, part)), "names": [*getattr(data, part).names]} for part in PARTS},
    }


def _digest(data: Dataset) -> str:
    """Of all arrays, for data that bring no digest of their own."""
    found = hashlib.blake2b(repr((data.classes, data.ignore_index)).encode(), digest_size=16)
    for part in PARTS:
        for example in getattr(data, part).examples:
            for array in (example["image"], example["label"]):
                found.update(repr((part, array.shape, str(array.dtype))).encode())
                found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def refuse_other(stored: Mapping[str, Any], data: Dataset, where: str) -> None:
    """Raises ValueError if `data` are not those whose identity a run stored; the message says what differs."""
    now = identity(data)
    if now["digest"] == stored["digest"] and now["parts"] == stored["parts"]:
        return
    differences = []
    for part in PARTS:
        before, after = (set(of["parts"][part]["names"]) for of in (stored, now))
        for names, verb in ((after - before, "gained"), (before - after, "lost")):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                differences.append(f"{part} has {verb} {min(names)}{more}")
    told = "; ".join(differences) or "the names are the same, but files, classes or ranges have changed"
    raise ValueError(
        f"{where}: the data are not those that this run began with ({told}). Its training and test images would be "
        "mixed. Put the data back as they were, or begin a new run."
    )
