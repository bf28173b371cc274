"""`folder`: images and label masks from disk, in one of the layouts of `layouts.LAYOUTS`.

Every file is read before training starts: what the masks hold, and in which range the images lie, is found over the
whole set and stated. What is wrong is an error that names the file; what is odd is a warning that does.
"""

import functools
import hashlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data import Dataset, Example, Split, augment, coco, labels, layouts, pixels
from experiments.data.layouts import Matching, Pair, Tree

_IN_MEMORY = 2**30  # bytes of decoded images that are kept rather than read anew at every step
_PARTS = ("train", "validation", "test")
_BITS = (8, 10, 12, 14, 16)  # depths that cameras and scanners have
_NARROW = 0.01  # of the range, which an image spans at least

Range = tuple[float, float]


@dataclass(frozen=True)
class Options:
    """How a folder is to be read; each is the command line's option of its name.

    Attributes:
      layout: one of `layouts.LAYOUTS`.
      labels: what the values in masks mean, as `0=background,255=cell`.
      classes: a file that says so, with a line per class.
      ignore: values of pixels that count nowhere.
      mask_suffix: what a mask's name has after its image's name.
      unlabeled: whether images without a mask are refused or left out, "refuse" or "skip".
      intensities: values of images that become 0 and 1; without it found over the set.
      reduce: how many times smaller than stored images and masks are read.
      seed: of the random split, where the layout has none of its own.
    """

    layout: str = "pairs"
    labels: str | None = None
    classes: Path | None = None
    ignore: str | None = None
    mask_suffix: str = ""
    unlabeled: str = "refuse"
    intensities: Range | None = None
    reduce: int = 1
    seed: int = 0


class Seen(NamedTuple):
    """What one pair holds: of the image its size, depth, channels and range, of the mask its values; and a digest."""

    size: tuple[int, int]
    channels: int
    depth: str
    turned: bool
    low: float
    high: float
    whole: bool
    mask: labels.Seen
    digest: str


@dataclass(frozen=True)
class Survey:
    """What a folder holds, before it is known whether the masks make sense.

    Attributes:
      path: the folder, without links.
      options: how it is read.
      tree: what the layout found.
      parts: the pairs of train, validation and test.
      seen: what each pair holds, in the order of the parts.
      census: what all masks hold.
      kept: the arrays of each pair, or None where all would take too much memory.
    """

    path: Path
    options: Options
    tree: Tree
    parts: Mapping[str, Sequence[Pair]]
    seen: Sequence[Seen]
    census: labels.Census
    kept: Sequence[tuple[np.ndarray, pixels.Mask]] | None


def load(path: Path, layout: str = "pairs", **options) -> Dataset:
    """Finds, reads and checks all images and masks below `path`.

    Args:
      path: the data set's folder.
      layout: one of `layouts.LAYOUTS`.
      **options: the others of `Options`.

    Raises:
      ValueError: an unknown layout, an image without a mask or a mask without an image, a file that is no image, an
        image and mask of unequal sizes, masks that are no label maps, too few images to split.
      FileNotFoundError: a missing folder.
    """
    return dataset(survey(path, Options(layout, **options)))


def survey(path: Path, options: Options) -> Survey:
    """Finds and reads all images and masks below `path`; errors are those of `load`, but for what masks mean."""
    tree = layouts.find(path, options.layout, Matching(options.mask_suffix, options.unlabeled))
    option = labels.given(options.labels, options.classes, options.ignore)
    parts = _three_parts(tree, options.seed)
    pairs = [pair for part in _PARTS for pair in parts[part]]
    seen, kept = _read_all(pairs, options.reduce)
    of = option or tree.meaning
    census = labels.census(
        [s.mask for s in seen], by_color=of is not None and of.colored, told=of is not None, one=of and of.one
    )
    return Survey(path.resolve(), options, tree, parts, seen, census, kept)


def dataset(found: Survey) -> Dataset:
    """The data set that a survey found.

    Raises:
      labels.Misread: the masks are no label maps as they stand.
      ValueError: a mask that holds what has no meaning.
    """
    options, tree = found.options, found.tree
    meaning = meaning_of(found)
    ranges = _ranges(found)
    channels = max(s.channels for s in found.seen)
    pairs = [pair for part in _PARTS for pair in found.parts[part]]
    if found.kept is None:
        whole: Sequence = [(pair, s.depth) for pair, s in zip(pairs, found.seen, strict=True)]
        read: Callable = functools.partial(
            _read_anew, reduce=options.reduce, meaning=meaning, ranges=ranges, channels=channels
        )
    else:
        whole = [
            _Stored(array, meaning.map(mask, pair.mask.path), s.depth)
            for (array, mask), pair, s in zip(found.kept, pairs, found.seen, strict=True)
        ]
        read = functools.partial(_from_stored, ranges=ranges, channels=channels)
    splits, start = {}, 0
    for part in _PARTS:
        members = found.parts[part]
        stored, start = whole[start : start + len(members)], start + len(members)
        splits[part] = Split(names=tuple(p.name for p in members), examples=_Examples(stored, read))
    return Dataset(
        name=found.path.name if options.layout == "pairs" else options.layout,
        description=(
            f"{options.layout} layout{_size_in_words(options.reduce)}, {len(meaning.classes)} classes: "
            f"{', '.join(f'{len(splits[part])} {part}' for part in _PARTS)} images."
        ),
        classes=meaning.classes,
        channels=channels,
        ignore_index=len(meaning.classes) if meaning.ignored else None,
        augment=augment.intensity,
        flips=tree.flips,
        digest=_digest(found, meaning, ranges),
        notes=(*tree.notes, *_notes(found, meaning, ranges)),
        **splits,
    )


def meaning_of(found: Survey) -> labels.Meaning:
    """What the masks mean; errors are those of `dataset`."""
    options = found.options
    option = labels.given(options.labels, options.classes, options.ignore)
    meaning = labels.settle(found.census, option, found.tree.meaning, options.ignore)
    _refuse_strange(found, meaning)
    return meaning


# --- parts ------------------------------------------------------------------------------------------------------------


def _three_parts(tree: Tree, seed: int) -> dict[str, Sequence[Pair]]:
    """Train, validation and test: as the layout has them, or split here.

    All pairs are split 70 : 15 : 15. Where only one part beside the training images has masks, as published data sets
    keep those of their test images, it is the test part, and a tenth of the training images is for validation.
    """
    parts = dict(tree.parts)
    if "all" in parts:
        return dict(zip(_PARTS, _cut(parts["all"], (0.15, 0.15), tree, seed), strict=True))
    if set(parts) == set(_PARTS):
        return parts
    if "train" not in parts or len(parts) != 2:
        raise ValueError(f"only {' and '.join(parts)} have images: there must be train, and validation or test.")
    test = next(part for part in parts if part != "train")
    train, validation = _cut(parts["train"], (0.1,), tree, seed)
    return {"train": train, "validation": validation, "test": parts[test]}


def _cut(pairs: Sequence[Pair], shares: Sequence[float], tree: Tree, seed: int) -> list[list[Pair]]:
    """What remains of the pairs, and a part for each share of them.

    The slices of a stack stay together. Where there are too few stacks for that, or pairs are neighbors by themselves,
    parts follow one another with a pair between left out; else they are drawn at random.
    """
    by_stack: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_stack.setdefault(pair.stack, []).append(pair)
    in_order = tree.in_order or len(by_stack) <= len(shares) < len(pairs)
    units = [[pair] for pair in pairs] if in_order else list(by_stack.values())
    gap = 1 if in_order else 0
    sizes = [max(1, round(share * len(units))) for share in shares]
    first = len(units) - sum(sizes) - gap * len(sizes)
    if first < 1:
        raise ValueError(
            f"{pairs[0].image.path.parent}: {len(units)} images are too few to split into {len(shares) + 1} parts."
        )
    if not in_order:
        units = [units[i] for i in np.random.default_rng(seed).permutation(len(units))]
    cut, start = [], 0
    for size in (first, *sizes):
        cut.append(list(itertools.chain(*units[start : start + size])))
        start += size + gap
    return cut


# --- reading ----------------------------------------------------------------------------------------------------------


def _size_in_words(reduce: int) -> str:
    return "" if reduce == 1 else f", read at 1/{reduce} of its size"


def _read_all(pairs: Sequence[Pair], reduce: int) -> tuple[list[Seen], list | None]:
    """Reads every pair once; keeps the arrays while they fit into memory."""
    seen: list[Seen] = []
    kept: list = []
    held, full = 0, threading.Event()
    # A file of many pages is read once for all of them.
    files = [list(of) for _, of in itertools.groupby(pairs, lambda pair: (pair.image.paths, pair.mask.path))]
    with ThreadPoolExecutor() as pool:
        for found in pool.map(lambda of: list(_seen(of, reduce, keep=not full.is_set())), files):
            for one, arrays in found:
                seen.append(one)
                if arrays is not None:
                    held += arrays[0].nbytes + arrays[1].array.nbytes
                    kept.append(arrays)
            if held >= _IN_MEMORY:
                full.set()
                kept.clear()
    return seen, None if full.is_set() else kept


def _seen(
    pairs: Sequence[Pair], reduce: int, keep: bool
) -> Iterator[tuple[Seen, tuple[np.ndarray, pixels.Mask] | None]]:
    """What the pairs of one file hold."""
    contents = [pixels.Content(path) for path in pairs[0].image.paths]
    drawn = isinstance(pairs[0].mask, coco.Drawn)
    masks = None if drawn else pixels.Content(pairs[0].mask.path)
    for pair in pairs:
        looks = [content.image(pair.image.page) for content in contents]
        look = looks[0] if len(looks) == 1 else pixels.stacked(looks, pair.image.paths)
        mask = _mask(pair, masks)
        _refuse_unequal(pair, look, mask)
        look, mask = _reduced(pair, look, mask, reduce)
        array = look.array
        low, high = float(array.min()), float(array.max())
        if not np.isfinite(low + high):  # NaN passes through both
            raise ValueError(f"{pair.image.path}: the image holds numbers that are not finite.")
        yield (
            Seen(
                size=array.shape[:2],
                channels=1 if array.ndim == 2 else 3,
                depth=look.depth,
                turned=look.turned,
                low=low,
                high=high,
                whole=look.depth != "float" or bool((array == np.round(array)).all()),
                mask=labels.seen(mask, pair.mask.path),
                digest="".join([*(c.digest for c in contents), masks.digest if masks else pair.mask.digest]),
            ),
            (array, mask) if keep else None,
        )


def _mask(pair: Pair, content: pixels.Content | None) -> pixels.Mask:
    if content is None:
        return pixels.Mask(pair.mask.draw(), "8-bit")
    return content.mask(pair.mask.page)


def _arrays(pair: Pair, reduce: int) -> tuple[np.ndarray, pixels.Mask]:
    """Image and mask, read anew."""
    look = pixels.image(pair.image)
    content = None if isinstance(pair.mask, coco.Drawn) else pixels.Content(pair.mask.path)
    look, mask = _reduced(pair, look, _mask(pair, content), reduce)
    return look.array, mask


def _reduced(pair: Pair, look: pixels.Look, mask: pixels.Mask, by: int) -> tuple[pixels.Look, pixels.Mask]:
    if by == 1:
        return look, mask
    height, width = look.array.shape[:2]
    if min(height, width) < by:
        raise ValueError(f"{pair.image.path}: {width} × {height} pixels are too few for --reduce {by}.")
    return pixels.reduced(look, mask, by)


def _refuse_unequal(pair: Pair, look: pixels.Look, mask: pixels.Mask) -> None:
    (height, width), (rows, columns) = look.array.shape[:2], mask.array.shape[:2]
    if (height, width) != (rows, columns):
        turned = " once it is turned as its EXIF orientation says" if look.turned else ""
        raise ValueError(
            f"{pair.mask.path}: the mask is {columns} × {rows} pixels, its image {pair.image.path.name} is "
            f"{width} × {height}{turned}."
        )


def _refuse_strange(found: Survey, meaning: labels.Meaning) -> None:
    """Raises ValueError for a mask with a value that means nothing; the census tells it without reading."""
    strange = [v for v in found.census.values if v not in meaning.labels and v not in meaning.ignored]
    if strange:
        known = ", ".join(map(found.census.shown, [*meaning.labels, *sorted(meaning.ignored)][:40]))
        raise labels.Misread(
            f"{found.census.first[strange[0]]}: the mask holds {found.census.shown(strange[0])}; allowed are {known}.",
            found.census,
        )


# --- examples ---------------------------------------------------------------------------------------------------------


class _Stored(NamedTuple):
    """A pair in memory: the image as it is stored, its label map as bytes, and the image's depth."""

    array: np.ndarray
    label: np.ndarray
    depth: str


def _read_anew(
    place: tuple[Pair, str], *, reduce: int, meaning: labels.Meaning, ranges: Mapping[str, Range], channels: int
) -> Example:
    pair, depth = place
    array, mask = _arrays(pair, reduce)
    stored = _Stored(array, meaning.map(mask, pair.mask.path), depth)
    return _from_stored(stored, ranges=ranges, channels=channels)


def _from_stored(stored: _Stored, *, ranges: Mapping[str, Range], channels: int) -> Example:
    """The image scaled to [0, 1], what lies beyond the range cut off, and its labels."""
    low, high = ranges[stored.depth]
    image = (stored.array.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    image = np.clip(image, 0, 1)
    if image.ndim == 2:
        image = np.repeat(image[..., None], channels, axis=-1)
    return Example(image=image, label=stored.label.astype(np.int32))


class _Examples(Sequence):
    """Examples made from what is stored, or read from disk, when they are asked for."""

    def __init__(self, stored: Sequence, read: Callable):
        self._stored, self._read = stored, read

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index: int) -> Example:
        return self._read(self._stored[index])


# --- ranges -----------------------------------------------------------------------------------------------------------


def _ranges(found: Survey) -> dict[str, Range]:
    """For each depth of image the values that become 0 and 1: as told, or as found over the set.

    Bytes span 0 to 255 and single bits 0 and 1. Whole numbers from 0 on span the depth that holds them, of 8, 10, 12,
    14 and 16 bits: a camera's 12 bits in a file of 16 are 12. Other numbers from 0 to 1 are taken as they are. All else
    spans what is there.
    """
    by_depth: dict[str, list[Seen]] = {}
    for s in found.seen:
        by_depth.setdefault(s.depth, []).append(s)
    if found.options.intensities is not None:
        return dict.fromkeys(by_depth, found.options.intensities)
    return {depth: _range(depth, of) for depth, of in by_depth.items()}


def _range(depth: str, seen: Sequence[Seen]) -> Range:
    low, high = min(s.low for s in seen), max(s.high for s in seen)
    if depth in ("1-bit", "8-bit") and low >= 0:
        return (0.0, 1.0 if depth == "1-bit" else 255.0)
    if low >= 0 and high <= 1 and depth == "float":
        return (0.0, 1.0)
    if low >= 0 and all(s.whole for s in seen):
        bits = next((bits for bits in _BITS if high < 2**bits), None)
        if bits is not None:
            return (0.0, float(2**bits - 1))
    return (low, high if high > low else low + 1)


# --- what is said of it -----------------------------------------------------------------------------------------------


def _notes(found: Survey, meaning: labels.Meaning, ranges: Mapping[str, Range]) -> list[str]:
    """What a reader should know: how images are scaled, and all that is odd, each naming a file."""
    pairs = [pair for part in _PARTS for pair in found.parts[part]]
    notes = [f"{depth} images: {low:g} becomes 0 and {high:g} becomes 1." for depth, (low, high) in ranges.items()]
    depths = Counter(s.depth for s in found.seen)
    if len(depths) > 1:
        rare = min(depths, key=lambda depth: depths[depth])
        path = next(p.image.path for p, s in zip(pairs, found.seen, strict=True) if s.depth == rare)
        counted = ", ".join(f"{number} of {depth}" for depth, number in depths.items())
        notes.append(f"Images of several depths ({counted}), each scaled by its own: {path} is {rare}.")
    notes += _odd(pairs, found.seen, lambda s: s.low == s.high, "{n} images are one value all over ({path}).")
    notes += _odd(
        pairs,
        found.seen,
        lambda s: 0 < s.high - s.low < _NARROW * (ranges[s.depth][1] - ranges[s.depth][0]),
        "{n} images span less than a hundredth of that range, as if in other units than the rest ({path}).",
    )
    notes += _odd(pairs, found.seen, lambda s: s.turned, "{n} images are turned as their EXIF says ({path}).")
    notes += _odd(
        pairs,
        found.seen,
        lambda s: set(s.mask.counts) <= meaning.ignored and not s.mask.one_bit and not meaning.colored,
        "{n} masks are ignored all over ({path}).",
    )
    notes += found.census.notes
    absent = [name for label, name in enumerate(meaning.classes) if label not in _present(found, meaning)]
    if absent:
        notes.append(f"No mask has a pixel of {', '.join(absent[:8])}{', ...' if len(absent) > 8 else ''}.")
    return notes + _twice(found)


def _odd(pairs: Sequence[Pair], seen: Sequence[Seen], test: Callable[[Seen], bool], text: str) -> list[str]:
    odd = [pair.image.path for pair, s in zip(pairs, seen, strict=True) if test(s)]
    return [text.format(n=len(odd), path=odd[0])] if odd else []


def _present(found: Survey, meaning: labels.Meaning) -> set[int]:
    return {meaning.labels[value] for value in found.census.values if value in meaning.labels}


def _twice(found: Survey) -> list[str]:
    """Pairs that are, byte for byte, in the training part and in another."""
    parts = [part for part in _PARTS for _ in found.parts[part]]
    digests = [s.digest for s in found.seen]
    trained = {digest for digest, part in zip(digests, parts, strict=True) if part == "train"}
    pairs = [pair for part in _PARTS for pair in found.parts[part]]
    leaked = [
        pair.image.path
        for pair, digest, part in zip(pairs, digests, parts, strict=True)
        # The pages of one file share its digest.
        if part != "train" and digest in trained and pair.name == pair.stack
    ]
    return [f"{len(leaked)} held-out images are training images too ({leaked[0]})."] if leaked else []


def _digest(found: Survey, meaning: labels.Meaning, ranges: Mapping[str, Range]) -> str:
    """Of all that training sees: the bytes of the files, which part each is in, and what their values mean."""
    pairs = [(part, pair.name) for part in _PARTS for pair in found.parts[part]]
    told = {
        "pairs": [[*pair, s.digest] for pair, s in zip(pairs, found.seen, strict=True)],
        "labels": sorted(meaning.labels.items()),
        "ignored": sorted(meaning.ignored),
        "ranges": sorted(ranges.items()),
    }
    if found.options.reduce != 1:
        told["reduce"] = found.options.reduce
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()
