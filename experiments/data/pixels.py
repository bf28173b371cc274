"""Files to arrays: what a file of an image or a mask holds, without loss, in whatever depth it is stored.

Read are what Pillow reads (16-bit colors too, which Pillow itself halves), every page of a TIFF, and the slices of
NIfTI volumes.
"""

import contextlib
import functools
import hashlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".nii.gz", ".nii")
_STACKED = (".tif", ".tiff", ".gif", ".nii.gz", ".nii")  # endings of files that may hold several images
_LOSSY = (".jpg", ".jpeg")
_GREY = ("1", "L", "LA", "La", "I", "F")  # and I;16 in its byte orders

Depth = Literal["1-bit", "8-bit", "16-bit", "32-bit", "float"]


class Place(NamedTuple):
    """Where pixels are: a file, or one file per channel, and the page in it."""

    paths: tuple[Path, ...]
    page: int = 0

    @property
    def path(self) -> Path:
        """The file that messages name."""
        return self.paths[0]


class Look(NamedTuple):
    """An image as it is stored, `(H, W)` or `(H, W, 3)`, in which depth, and whether EXIF told to turn it."""

    array: np.ndarray
    depth: Depth
    turned: bool


class Mask(NamedTuple):
    """A mask as it is stored.

    Attributes:
      array: `(H, W)` values, of a palette image its indices; or `(H, W, 3)` colors.
      depth: of the stored file.
      palette: `(indices, 3)` colors of the indices, or None.
      lossy: whether the format changes values when it stores them.
    """

    array: np.ndarray
    depth: Depth
    palette: np.ndarray | None = None
    lossy: bool = False


def ending(path: Path) -> str | None:
    """The ending by which a file is known as an image, or None."""
    name = path.name.lower()
    return None if name.startswith(".") else next((e for e in ENDINGS if name.endswith(e)), None)


def stem(path: Path) -> str:
    """The name without the ending."""
    found = ending(path)
    return path.name[: -len(found)] if found else path.stem


def shown(name: str) -> str:
    """A file's name as text that can be printed and stored anywhere: bytes that are no UTF-8 are written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def pages(path: Path) -> int:
    """The number of images in a file.

    Raises:
      ValueError: the file is no image.
    """
    found = ending(path)
    if found not in _STACKED:
        return 1
    if found in (".nii", ".nii.gz"):
        return _volume(path).shape[2]
    with _named(path), Image.open(path) as image:
        return getattr(image, "n_frames", 1)


class Content:
    """The bytes of a file, read once, for all its pages.

    Attributes:
      digest: of the bytes.
    """

    def __init__(self, path: Path):
        self._path = path
        with _named(path):
            self._bytes = path.read_bytes()
        self.digest = hashlib.blake2b(self._bytes, digest_size=16).hexdigest()

    def image(self, page: int = 0) -> Look:
        """An image, upright, its colors as RGB.

        Raises:
          ValueError: the file cannot be read as an image.
        """
        if ending(self._path) in (".nii", ".nii.gz"):
            array = _slice(_volume(self._path), page)
            return Look(array, _depth_of(array), False)
        with _named(self._path):
            opened = self._open(page)
            array, depth = _decoded(opened, self._bytes)
            upright = np.ascontiguousarray(_upright(array, opened))
            return Look(upright, depth, turned=opened.getexif().get(_ORIENTATION, 1) not in (0, 1))

    def mask(self, page: int = 0) -> Mask:
        """A mask, upright, as values or, where the channels differ, as colors.

        Raises:
          ValueError: the file cannot be read as an image, or holds values that are no whole numbers.
        """
        found = ending(self._path)
        if found in (".nii", ".nii.gz"):
            array = _slice(_volume(self._path), page)
            return Mask(self._whole(array), _depth_of(array))
        with _named(self._path):
            opened = self._open(page)
            if opened.mode == "P":
                opened.load()
                colors = np.array(opened.getpalette("RGB"), np.uint8).reshape(-1, 3)
                return Mask(_upright(np.asarray(opened), opened), "8-bit", colors)
            array, depth = _decoded(opened, self._bytes)
            array = _upright(array, opened)
        if array.ndim == 3 and (array == array[..., :1]).all():
            array = np.ascontiguousarray(array[..., 0])
        return Mask(self._whole(array), depth, lossy=found in _LOSSY)

    def _open(self, page: int) -> Image.Image:
        image = Image.open(io.BytesIO(self._bytes))
        if page:
            image.seek(page)
        return image

    def _whole(self, array: np.ndarray) -> np.ndarray:
        if not np.issubdtype(array.dtype, np.floating):
            return array
        if not (np.isfinite(array).all() and (array == np.round(array)).all()):
            raise ValueError(f"{self._path}: a mask holds labels; this one holds numbers that are not whole.")
        return array.astype(np.int32)


def image(place: Place) -> Look:
    """The image at a place; several files are its channels."""
    looks = [Content(path).image(place.page) for path in place.paths]
    return looks[0] if len(looks) == 1 else stacked(looks, place.paths)


def stacked(looks: Sequence[Look], paths: Sequence[Path]) -> Look:
    """One image of several channels, each from a file of its own."""
    for look, path in zip(looks, paths, strict=True):
        if look.array.shape != looks[0].array.shape or look.array.ndim != 2:
            raise ValueError(f"{path}: as a channel it must be grey and as large as {paths[0].name}.")
    return Look(np.stack([look.array for look in looks], -1), looks[0].depth, looks[0].turned)


def reduced(look: Look, mask: Mask, by: int) -> tuple[Look, Mask]:
    """Image and mask at a `by`-th of their size; what fills no whole block at the right and the bottom is left out.

    Of images a block of `by` x `by` pixels becomes its mean, of masks the value that most of its pixels have. Where
    several are as frequent, the first of them in reading order is taken in every other block, as on a checkerboard, and
    the last in the others: one rule for all would move every boundary by a quarter of a pixel.
    """
    image = _blocks(look.array.astype(np.float32), by).mean(axis=2)
    values = mask.array
    colored = values.ndim == 3
    if colored:  # one number for each color
        values = (values.astype(np.int64) * (1, 2**16, 2**32)).sum(-1)
    blocks = _blocks(values, by)
    counts = sum((blocks == other[:, :, None]).astype(np.int32) for other in np.moveaxis(blocks, 2, 0))
    last = by * by - 1 - counts[..., ::-1].argmax(2)
    odd = np.indices(last.shape).sum(0) % 2 == 1
    chosen = np.where(odd, last, counts.argmax(2))[..., None]
    kept = np.take_along_axis(_blocks(mask.array, by), chosen[..., None] if colored else chosen, axis=2)[:, :, 0]
    return look._replace(array=image), mask._replace(array=kept)


def _blocks(array: np.ndarray, by: int) -> np.ndarray:
    """`(H, W, ...)` to `(H // by, W // by, by * by, ...)`."""
    rows, columns = (n // by for n in array.shape[:2])
    cut = array[: rows * by, : columns * by].reshape(rows, by, columns, by, *array.shape[2:])
    return np.moveaxis(cut, 1, 2).reshape(rows, columns, by * by, *array.shape[2:])


_ORIENTATION, _BITS_PER_SAMPLE, _SAMPLE_FORMAT = 0x0112, 258, 339  # TIFF tags
_UNSIGNED, _SIGNED = 1, 2  # sample formats


def _upright(array: np.ndarray, opened: Image.Image) -> np.ndarray:
    """Turned and mirrored as the EXIF orientation says (1 to 8, TIFF 6.0)."""
    orientation = opened.getexif().get(_ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, 0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _decoded(opened: Image.Image, stored: bytes) -> tuple[np.ndarray, Depth]:
    mode = opened.mode
    if mode in ("RGB", "RGBA", "LA") and ";16" in (_raw_mode(opened) or ""):
        return _sixteen_bits(opened, stored), "16-bit"
    tags = getattr(opened, "tag_v2", {})
    bits, (kind, *_) = max(tags.get(_BITS_PER_SAMPLE, (8,))), tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))
    opened.load()
    if mode.startswith("I;16"):
        return np.asarray(opened).astype(np.uint16), "16-bit"
    if mode in _GREY:
        depth: Depth = {"1": "1-bit", "I": "32-bit", "F": "float"}.get(mode, "8-bit")
        array = np.asarray(opened.convert("L") if mode in ("LA", "La") else opened)
        if mode == "1":
            return array.astype(np.uint8), depth
        # Pillow's modes know no signed bytes, and no unsigned numbers of 32 bits.
        other = {("L", 8, _SIGNED): np.int8, ("I", 32, _UNSIGNED): np.uint32}.get((mode, bits, kind))
        return array if other is None else array.view(other), depth
    if bits > 8:
        raise ValueError(f"its {bits}-bit colors, one plane per color, cannot be read without loss")
    return np.asarray(opened.convert("RGB")), "8-bit"


def _sixteen_bits(opened: Image.Image, stored: bytes) -> np.ndarray:
    """Colors of 16 bits: Pillow keeps the upper byte, so they are decoded again in the other byte order."""
    raw = _raw_mode(opened)
    order = raw[-1] if raw[-1] != "N" else sys.byteorder[0].upper()
    lower = Image.open(io.BytesIO(stored))
    lower.seek(opened.tell())
    swapped = raw[:-1] + {"B": "L", "L": "B"}[order]
    # A tile says how its bytes are to be understood: the raw mode alone, or first among other things.
    lower.tile = [t._replace(args=swapped if isinstance(t.args, str) else (swapped, *t.args[1:])) for t in lower.tile]
    array = (np.asarray(opened).astype(np.uint16) << 8) | np.asarray(lower)
    return array[..., 0] if opened.mode == "LA" else array[..., :3]


def _raw_mode(opened: Image.Image) -> str | None:
    args: Any = opened.tile[0].args if opened.tile else None
    return args[0] if isinstance(args, tuple) and args else args


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns whatever a decoder raises into a ValueError that names the file."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path}: cannot be read as an image (of no known format, or a depth unknown to Pillow)."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error}).") from error


@functools.lru_cache(maxsize=2)
def _volume(path: Path) -> np.ndarray:
    """A NIfTI volume `(X, Y, slices)`; kept while its slices are read."""
    import nibabel  # it comes with nilearn, and takes a second to import

    try:
        volume = np.asanyarray(nibabel.load(path).dataobj)
    except Exception as error:  # nibabel's own, zlib's, and whatever a damaged header leads to
        raise ValueError(f"{path}: cannot be read as a NIfTI volume ({error}).") from error
    volume = volume[..., 0] if volume.ndim == 4 and volume.shape[3] == 1 else volume
    if volume.ndim != 3:
        raise ValueError(f"{path}: a volume has three axes; this one is {' × '.join(map(str, volume.shape))}.")
    return volume


def _slice(volume: np.ndarray, page: int) -> np.ndarray:
    """A slice with rows from top to bottom, as viewers show it: the last of Y first."""
    return np.ascontiguousarray(volume[:, ::-1, page].T)


def _depth_of(array: np.ndarray) -> Depth:
    if np.issubdtype(array.dtype, np.floating):
        return "float"
    return {1: "8-bit", 2: "16-bit"}.get(array.dtype.itemsize, "32-bit")
