"""Images with label maps: what a data set is, and the data sets by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

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
