"""Pictures without labels, as luma: photographs that installed packages ship, digits, and any folder.

Luma is what super-resolution is measured on: MATLAB's `rgb2ycbcr` of 8-bit colors, from 16 to 235, rounded; a gray
picture is taken as it is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

import upsampling as up
from experiments.data import PARTS, Split

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
TEST_SIDE = 288  # pixels: a multiple of 2, 3 and 4; one size for all, so that a network is compiled once

# Of scikit-image but for china and flower, which are scikit-learn's. Its moon is left out: a smaller picture whose
# pixels were repeated, of which any method restores nothing but the repetition.
_PHOTOGRAPHS = {
    "train": ("china", "flower", "brick", "gravel", "hubble_deep_field"),
    "validation": ("rocket", "grass"),
    "test": ("astronaut", "camera", "chelsea", "coffee", "coins", "motorcycle"),
}
_DIV2K = ("DIV2K_train_HR", "DIV2K_valid_HR")


@dataclass(frozen=True, eq=False)
class Pictures:
    """A data set of pictures.

    Attributes:
      name: what it is called.
      description: a sentence for the report.
      train, validation, test: its parts; an example is `{"image": (H, W) uint8}`.
      digest: of all of it.
      notes: what a reader should know of how it was read.
    """

    name: str
    description: str
    train: Split
    validation: Split
    test: Split
    digest: str
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    generated: bool = False


def luma(picture: np.ndarray) -> np.ndarray:
    """`(H, W, 3)` 8-bit colors to `(H, W)` luma, 8-bit, as MATLAB's rgb2ycbcr (ITU-R BT.601); gray stays as it is.

    Example:

    >>> luma(np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]], np.uint8))
    array([[235,  16,  81]], dtype=uint8)
    """
    if picture.ndim == 2:
        return picture
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return np.floor(16.5 + picture[..., :3].astype(np.float64) @ weights).astype(np.uint8)


def cut_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """The top left of an image whose sides are multiples of the factor."""
    height, width = (n - n % scale for n in image.shape[:2])
    return image[:height, :width]


def reduced(image: np.ndarray, scale: int) -> np.ndarray:
    """An image `(H, W)` of 8 bits, sides multiples of the factor, made smaller as MATLAB's `imresize` does, rounded."""
    size = tuple(n // scale for n in image.shape)
    small = up.bicubic(jnp.asarray(image, jnp.float32)[..., None], size, convention="matlab")[..., 0]
    return as_bytes(np.asarray(small))


def as_bytes(image: np.ndarray) -> np.ndarray:
    """Gray levels as 8 bits: cut to 0 to 255 and rounded, halves up as MATLAB does."""
    return np.floor(np.clip(image, 0, 255) + 0.5).astype(np.uint8)


def photographs() -> Pictures:
    """Thirteen photographs of scikit-image and scikit-learn; of those for testing the middle."""
    parts = {part: {name: luma(_photograph(name)) for name in names} for part, names in _PHOTOGRAPHS.items()}
    parts["test"] = {name: _middle(image, TEST_SIDE) for name, image in parts["test"].items()}
    return from_parts(
        "photographs",
        f"Photographs that scikit-image and scikit-learn ship, as luma: {_counts(parts)}; of a test image the middle "
        f"{TEST_SIDE} × {TEST_SIDE} pixels.",
        parts,
    )


def digits(factor: int = 4) -> Pictures:
    """scikit-learn's 1797 handwritten digits of 8x8 pixels, enlarged by a cubic spline; by turns of ten into parts."""
    from scipy import ndimage
    from sklearn import datasets

    # Spline zoom of order 3 on the half-pixel grid: whoever compares spectra should know how these were made.
    small = datasets.load_digits().images * (255 / 16)
    large = [ndimage.zoom(i, factor, order=3, mode="nearest", grid_mode=True) for i in small]
    images = {f"{i:04d}": np.clip(np.round(a), 0, 255).astype(np.uint8) for i, a in enumerate(large)}
    parts = {part: {n: images[n] for n in images if int(n) % 10 in _TURNS[part]} for part in PARTS}
    side = 8 * factor
    return from_parts(
        "digits",
        f"scikit-learn's handwritten digits, enlarged from 8 × 8 to {side} × {side} pixels by a cubic spline: "
        f"{_counts(parts)}. What lies above the spectrum of 8 × 8 pixels is the spline's.",
        parts,
    )


_TURNS = {"train": range(7), "validation": (7,), "test": (8, 9)}


def folder(path: Path | None, test: Path | None = None) -> Pictures:
    """Pictures below a folder.

    What is found: `DIV2K_train_HR` and `DIV2K_valid_HR`, of which every tenth picture for training becomes one for
    validation; `train`, `val` and `test`; else all pictures, of which by name every fifth is for testing and every
    fifth for validation. Of a benchmark that holds each picture many times (Set5, Set14: `image_SRF_2/*_HR.png`, or
    `HR` or `original` beside `LR...`) its full-size pictures are taken, once.

    Args:
      path: where to; None trains on `photographs`.
      test: a folder whose pictures are all for testing, in place of those of `path`.

    Raises:
      ValueError, OSError: no pictures, or one that cannot be read.
    """
    shipped = photographs() if path is None else None
    if shipped is not None:
        found = {
            part: dict(zip(s.names, (e["image"] for e in s.examples), strict=True)) for part, s in _splits(shipped)
        }
        if test is not None:
            found["train"] |= found["test"]
    else:
        found = {part: _read(files) for part, files in _parted(path).items()}
    if test is not None:
        found["test"] = _read(full_size(test))
    places = [p.name for p in (path, test) if p is not None]
    return from_parts(" and ".join(places), f"Pictures as luma: {_counts(found)}.", found)


def full_size(path: Path) -> list[Path]:
    """The pictures below a folder, each once and at full size, sorted.

    Raises:
      ValueError, OSError: there are none, or there is no folder.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder.")
    below = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
    marked = [p for p in below if p.stem.endswith("_HR")]
    if marked:  # one copy per factor, cut to its multiples: the first
        first = marked[0].parent
        return [p for p in marked if p.parent == first]
    for name in ("HR", "original", "GTmod12"):
        kept = [p for p in below if p.parent.name == name]
        if kept:
            return kept
    small = ("LR", "bicubic", "unknown")
    kept = [p for p in below if not any(part.startswith(small) for part in p.relative_to(path).parts[:-1])]
    if not kept:
        raise ValueError(f"{path}: no pictures here ({', '.join(ENDINGS)}).")
    return kept


def _parted(path: Path) -> dict[str, list[Path]]:
    """The files of each part."""
    train, valid = (path / name for name in _DIV2K)
    if train.is_dir() and valid.is_dir():
        return _held_out(full_size(train)) | {"test": full_size(valid)}
    named = {part: path / {"validation": "val"}.get(part, part) for part in PARTS}
    if named["train"].is_dir():
        given = {part: full_size(place) for part, place in named.items() if place.is_dir()}
        if "test" not in given:
            raise ValueError(f"{path}: there is train, and no test beside it.")
        return given if "validation" in given else given | _held_out(given["train"])
    files = full_size(path)
    return {
        "train": [f for i, f in enumerate(files) if i % 5 not in (3, 4)],
        "validation": files[3::5] or files[:1],
        "test": files[4::5] or files[:1],
    }


def _held_out(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Every tenth, or the last of fewer, for validation."""
    if len(files) < 2:
        raise ValueError(f"{files[0].parent}: needs two pictures, one to train on and one for validation.")
    kept = files[9::10] or files[-1:]
    return {"train": [f for f in files if f not in set(kept)], "validation": list(kept)}


def _read(files: Sequence[Path]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for path in files:
        try:
            with Image.open(path) as picture:
                gray = picture.mode in ("1", "L", "LA")
                found[path.stem] = luma(np.asarray(picture.convert("L" if gray else "RGB")))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read as a picture ({error}).") from error
    return found


def from_parts(name: str, description: str, parts: Mapping[str, Mapping[str, np.ndarray]]) -> Pictures:
    """A data set of named arrays in each part; raises ValueError where a part has none."""
    digest = hashlib.blake2b(digest_size=16)
    for part in PARTS:
        if not parts[part]:
            raise ValueError(f"{name}: no pictures for {part}.")
        for each, image in parts[part].items():
            digest.update(repr((part, each, image.shape)).encode())
            digest.update(np.ascontiguousarray(image).data)
    splits: dict[str, Any] = {
        part: Split(tuple(images), [{"image": image} for image in images.values()])  # type: ignore[list-item]
        for part, images in parts.items()
    }
    return Pictures(name, description, **splits, digest=digest.hexdigest())


def _splits(data: Pictures) -> list[tuple[str, Split]]:
    return [(part, getattr(data, part)) for part in PARTS]


def _counts(parts: Mapping[str, Mapping[str, Any]]) -> str:
    train, validation, test = (len(parts[part]) for part in PARTS)
    return f"{train} for training, {validation} for validation, {test} for testing"


def _photograph(name: str) -> np.ndarray:
    if name in ("china", "flower"):
        from sklearn import datasets

        return np.asarray(datasets.load_sample_image(f"{name}.jpg"))
    from skimage import data

    return np.asarray(data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)())


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    top, left = ((n - side) // 2 for n in image.shape)
    return image[top : top + side, left : left + side]
