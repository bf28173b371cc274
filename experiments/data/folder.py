"""`folder`: images and label masks from disk, in one of the layouts of `LAYOUTS`.

Every file is read and checked before training starts; what is wrong is an error that names the file.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from experiments.data import Dataset, Example, Split, augment

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_IN_MEMORY = 2**30  # bytes of decoded images that are kept rather than read anew at every step
_SPLITS = ("train", "validation", "test")

Pair = tuple[Path, Path]


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files and what the values in its masks mean.

    Attributes:
      folders: image and mask folder of each split; or of "all", which is then split.
      classes: name of each label; none means that the masks tell how many there are.
      values: label of each value in a mask; none means that values are labels.
      ignore: the value of pixels that count nowhere, or None.
      flips: the axes along which a mirrored image is as likely as the image.
      shuffle: whether "all" is split at random (seeded), or in order, for slices of a stack, whose neighbours must
        not be torn apart.
      gap: images left out between splits taken in order.
    """

    folders: Mapping[str, tuple[str, str]]
    classes: tuple[str, ...] = ()
    values: Mapping[int, int] | None = None
    ignore: int | None = None
    flips: tuple[int, ...] = (1,)
    shuffle: bool = True
    gap: int = 0


LAYOUTS: dict[str, Layout] = {
    # Any pairs: images/NAME.* and masks/NAME.*. Masks hold labels from 0, with 255 for pixels to ignore; or 0 and 255.
    "pairs": Layout(folders={"all": ("images", "masks")}, ignore=255),
    # Brostow et al. 2009 as the SegNet tutorial repository arranges it (Kendall, Badrinarayanan and Cipolla).
    "camvid": Layout(
        folders={"train": ("train", "trainannot"), "validation": ("val", "valannot"), "test": ("test", "testannot")},
        classes=(
            *("sky", "building", "pole", "road", "pavement", "tree"),
            *("sign", "fence", "car", "pedestrian", "bicyclist"),
        ),
        ignore=11,
    ),
    # The ISBI 2012 challenge's 30 serial sections (Arganda-Carreras et al. 2015): a stack, mirrored either way alike.
    "isbi2012": Layout(
        folders={"all": ("images", "masks")},
        classes=("membrane", "cell"),
        values={0: 0, 255: 1},
        flips=(0, 1),
        shuffle=False,
        gap=1,
    ),
}


def load(path: Path, layout: str = "pairs", *, seed: int = 0) -> Dataset:
    """Finds, reads and checks all images and masks below `path`.

    Args:
      path: the data set's folder.
      layout: one of `LAYOUTS`.
      seed: of the random split, where the layout has none of its own.

    Raises:
      ValueError: an unknown layout, an image without a mask or a mask without an image, a file that is no image, an
        image and mask of unequal sizes, a label out of range, too few images to split.
      FileNotFoundError: a missing folder.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"--layout {layout!r} is not known. Known: {', '.join(LAYOUTS)}.")
    rules = LAYOUTS[layout]
    if not path.is_dir():
        raise FileNotFoundError(f"--path {path}: there is no such folder.")
    parts = {part: _pairs(path / images, path / masks) for part, (images, masks) in rules.folders.items()}
    if "all" in parts:
        parts = _split(parts["all"], rules, seed)
    pairs = [pair for part in parts.values() for pair in part]
    with ThreadPoolExecutor() as pool:
        # Sizes and kinds first: whether all images are grey decides how each is decoded.
        grey = all(list(pool.map(_is_grey, (image for image, _ in pairs))))
        values = sorted(set().union(*pool.map(_mask_values, (mask for _, mask in pairs))))
        rules = _with_classes(rules, values)
        read = functools.partial(_read, rules=rules, channels=1 if grey else 3)
        keep = sum(_decoded_bytes(image, 1 if grey else 3) for image, _ in pairs) <= _IN_MEMORY
        checked = list(pool.map(lambda pair: read(pair) if keep else (read(pair), None)[1], pairs))
    splits, start = {}, 0
    for part, members in parts.items():
        stored = checked[start : start + len(members)]
        start += len(members)
        examples = _Examples(stored) if keep else _Examples(members, read)
        splits[part] = Split(names=tuple(image.stem for image, _ in members), examples=examples)
    return Dataset(
        name=path.name if layout == "pairs" else layout,
        description=(
            f"{layout} layout, {len(rules.classes)} classes: "
            f"{', '.join(f'{len(splits[part])} {part}' for part in _SPLITS)} images."
        ),
        classes=rules.classes,
        channels=1 if grey else 3,
        ignore_index=None if rules.ignore is None else len(rules.classes),
        augment=augment.intensity,
        flips=rules.flips,
        **splits,
    )


class _Examples(Sequence):
    """Examples as floats, made from stored bytes or read from disk when asked for."""

    def __init__(self, stored: Sequence, read=lambda item: item):
        self._stored, self._read = stored, read

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index):
        image, label = self._read(self._stored[index])
        return Example(image=image.astype(np.float32) / np.float32(255), label=label.astype(np.int32))


def _pairs(images: Path, masks: Path) -> list[Pair]:
    """Images and masks of the same name, in natural order (2 before 10)."""
    found = []
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder. The layout needs {images} and {masks}.")
        files: dict[str, Path] = {}
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() not in _ENDINGS or file.name.startswith("."):
                continue
            if file.stem in files:
                raise ValueError(f"{file}: {files[file.stem].name} beside it has the same name.")
            files[file.stem] = file
        if not files:
            raise ValueError(f"{folder}: no images here.")
        found.append(files)
    by_name, mask_by_name = found
    for name in by_name.keys() - mask_by_name.keys():
        raise ValueError(f"{by_name[name]}: there is no mask named {name}.* in {masks}.")
    for name in mask_by_name.keys() - by_name.keys():
        raise ValueError(f"{mask_by_name[name]}: there is no image named {name}.* in {images}.")
    return [(by_name[name], mask_by_name[name]) for name in sorted(by_name, key=_natural)]


def _natural(name: str) -> list:
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in re.split(r"(\d+)", name) if piece]


def _split(pairs: list[Pair], rules: Layout, seed: int) -> dict[str, list[Pair]]:
    """70 % train, 15 % validation, 15 % test: at random, or in order with a gap between."""
    held_out = max(1, round(0.15 * len(pairs)))
    train = len(pairs) - 2 * held_out - 2 * rules.gap
    if train < 1:
        raise ValueError(f"{pairs[0][0].parent}: {len(pairs)} images are too few to split into three parts.")
    if rules.shuffle:
        pairs = [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))]
    validation = train + rules.gap
    return {
        "train": pairs[:train],
        "validation": pairs[validation : validation + held_out],
        "test": pairs[len(pairs) - held_out :],
    }


def _with_classes(rules: Layout, found: Sequence[int]) -> Layout:
    """The layout with its classes filled in from the values found in all masks, if it names none."""
    if rules.classes:
        return rules
    fields = {"folders": rules.folders, "flips": rules.flips, "shuffle": rules.shuffle, "gap": rules.gap}
    if found == [0, 255]:
        return Layout(classes=("0", "255"), values={0: 0, 255: 1}, **fields)
    labels = [value for value in found if value != rules.ignore]
    names = tuple(str(label) for label in range(max(labels, default=0) + 1))
    if len(names) > 255:
        raise ValueError(f"the masks hold labels up to {len(names) - 1}; allowed are 0 to 254, and 255 to ignore.")
    if len(names) < 2:
        raise ValueError(f"the masks hold the values {found} only: there is nothing to tell apart.")
    return Layout(classes=names, ignore=rules.ignore, **fields)


def _open(path: Path) -> Image.Image:
    """The decoded image; ValueError names the file if it is not one, or is cut short."""
    try:
        image = Image.open(path)
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}).") from error
    return image


def _is_grey(path: Path) -> bool:
    return _open(path).mode in ("1", "L", "LA", "I;16")


def _decoded_bytes(path: Path, channels: int) -> int:
    with Image.open(path) as image:
        return image.width * image.height * (channels + 1)


def _labels(path: Path) -> np.ndarray:
    """The mask's values, `(H, W)`; a palette image gives its indices."""
    image = _open(path)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "P", "I", "I;16"):
        raise ValueError(f"{path}: a mask has one value per pixel; this image is of mode {image.mode}.")
    return np.asarray(image)


def _mask_values(path: Path) -> set[int]:
    return set(np.unique(_labels(path)).tolist())


def _read(pair: Pair, *, rules: Layout, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Image `(H, W, channels)` and label map `(H, W)` as bytes, checked against each other and the layout."""
    path, mask_path = pair
    opened = _open(path)
    if opened.mode.startswith("I;16"):  # convert() would clip 16 bits to 8
        opened = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
    image = np.asarray(opened.convert("L" if channels == 1 else "RGB"))
    image = image.reshape(*image.shape[:2], channels)
    values = _labels(mask_path)
    if image.shape[:2] != values.shape:
        raise ValueError(
            f"{mask_path}: the mask is {values.shape[1]} × {values.shape[0]} pixels, "
            f"its image {path.name} is {image.shape[1]} × {image.shape[0]}."
        )
    classes = len(rules.classes)
    meaning = rules.values or {label: label for label in range(classes)}
    if rules.ignore is not None:
        meaning = {**meaning, rules.ignore: classes}
    strange = sorted(set(np.unique(values).tolist()) - meaning.keys())
    if strange:
        raise ValueError(f"{mask_path}: the mask holds {strange[0]}; allowed are {', '.join(map(str, meaning))}.")
    table = np.zeros(max(meaning) + 1, np.uint8)
    table[list(meaning)] = list(meaning.values())
    return image, table[values]
