"""Which data a command works with: the options that say so, shared by all commands."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.data import Dataset, brain, folder, layouts

_Path = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
_Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]


@dataclass(frozen=True)
class Source:
    """The data, and how its files are to be understood."""

    data: Literal["brain", "folder"] = "brain"
    """brain: MRI slices that come with nilearn. folder: images and masks at --path."""
    path: _Path = None
    """The folder of --data folder."""
    layout: str = "pairs"
    """How --path is laid out: pairs (images/NAME, masks/NAME, or in train, val and test, or by lists), camvid,
    isbi2012, cityscapes, voc, oxford-pet, ade20k, nnunet, coco."""
    labels: _Text = None
    """What the values in masks mean, where they are not 0, 1, 2, ...: 0=background,255=cell. A value may be a range
    (128-255=cell) or a color (#ff0000=cell)."""
    classes: _File = None
    """The same from a file: a line per class with its name, or value and name, or red green blue and name."""
    ignore: _Text = None
    """Values in masks, with commas between, of pixels that count nowhere. Without it 255, but where masks hold 0 and
    255 alone."""
    mask_suffix: str = ""
    """What a mask's name has after its image's name, such as _mask."""
    unlabeled: Literal["refuse", "skip"] = "refuse"
    """What to do about images without a mask."""
    intensities: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """Values of images that become 0 and 1, what lies beyond cut off. Without it found over all images."""

    reduce: int = 1
    """Read images and masks N times smaller: the mean of N x N pixels of an image, and of a mask the value that most of
    them have."""

    def check_source(self) -> None:
        """Raises ValueError for options that do not go together."""
        if (self.data == "folder") != (self.path is not None):
            raise ValueError("--data folder and --path DIR go together; give both or neither.")
        if self.layout not in layouts.LAYOUTS:
            raise ValueError(f"--layout {self.layout!r} is not known. Known: {', '.join(layouts.LAYOUTS)}.")
        for name in OF_FOLDER:
            if self.data != "folder" and getattr(self, name) != getattr(Source, name):
                raise ValueError(f"--{name.replace('_', '-')} is for --data folder.")
        if self.reduce < 1:
            raise ValueError(f"--reduce {self.reduce}: must be at least 1.")
        if self.intensities is not None and not self.intensities[0] < self.intensities[1]:
            raise ValueError(f"--intensities {self.intensities[0]:g} {self.intensities[1]:g}: must be low, then high.")

    def survey(self) -> folder.Survey:
        """What the folder holds; for `--data folder`."""
        return folder.survey(self.path, folder.Options(**{name: getattr(self, name) for name in OF_FOLDER}))

    def load(self) -> Dataset:
        """Reads and checks the data.

        Raises:
          ValueError, OSError: they cannot be read, or not be understood.
        """
        self.check_source()
        return brain.load() if self.data == "brain" else folder.dataset(self.survey())


FIELDS = tuple(field.name for field in dataclasses.fields(Source))
OF_FOLDER = tuple(name for name in FIELDS if name not in ("data", "path"))
