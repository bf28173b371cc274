"""What the values in masks mean: counted over the whole set, then settled by a layout, by options, or by plain rules.

Nothing is guessed. Masks are labels as they stand if their values are 0, 1, 2 and so on, with 255 for pixels to ignore,
or if they are 0 and 255 alone. Everything else is refused, with what was found and the option that settles it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data import pixels

MANY = 64  # labels without names: more are hardly meant
_IGNORED = 255
_IGNORED_SHARE = 0.25  # of all pixels: more is hardly meant either
_MOST = 255  # labels that a byte holds beside the one that is ignored


class Misread(ValueError):
    """Masks that are no label maps as they stand; `census` says what is in them."""

    def __init__(self, message: str, census: "Census"):
        super().__init__(message)
        self.census = census


# --- what is there ----------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What one mask holds: pixels of each value or packed color, and how the file keeps them."""

    path: Path
    counts: Mapping[int, int]
    colored: bool
    one_bit: bool
    palette: Mapping[int, int] | None
    lossy: bool


def seen(mask: pixels.Mask, path: Path) -> Seen:
    """Counts a mask."""
    colored = mask.array.ndim == 3
    values = packed(mask.array) if colored else mask.array
    if values.dtype == np.uint8:
        table = np.bincount(values.ravel(), minlength=256)
        counts = {int(v): int(table[v]) for v in np.flatnonzero(table)}
    else:
        found, number = np.unique(values, return_counts=True)
        counts = dict(zip(found.tolist(), number.tolist(), strict=True))
    palette = None
    if mask.palette is not None:
        palette = {v: int(packed(mask.palette[v])) for v in counts if v < len(mask.palette)}
    return Seen(path, counts, colored, mask.depth == "1-bit", palette, mask.lossy)


def packed(colors: np.ndarray) -> np.ndarray:
    """Colors `(..., 3)` as one number each, 0xRRGGBB; 16-bit ones as 0xRRRRGGGGBBBB."""
    bits = 8 * colors.dtype.itemsize
    red, green, blue = (colors[..., k].astype(np.int64) for k in range(3))
    return (red << 2 * bits) | (green << bits) | blue


class Row(NamedTuple):
    """A value: its share of all pixels, and in how many masks it is."""

    value: int
    share: float
    images: int


@dataclass(frozen=True)
class Census:
    """What all masks of a set hold.

    Attributes:
      rows: a row per value, in order.
      images: number of masks.
      colored: whether values are packed colors.
      one_bit: number of masks of one bit per pixel, whose ones are counted as `one`.
      one: the value that the ones of one-bit masks stand for.
      first: the first mask that holds each value.
      beside: the values that some mask holds beside 255.
      lossy: number of masks whose format changes values.
      notes: what the reader should know of how the masks are stored.
    """

    rows: Sequence[Row]
    images: int
    colored: bool = False
    one_bit: int = 0
    one: int = 1
    first: Mapping[int, Path] = field(default_factory=dict)
    beside: frozenset[int] = frozenset()
    lossy: int = 0
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> list[int]:
        return [row.value for row in self.rows]

    def share(self, values: Iterable[int]) -> float:
        """The share of pixels that have one of `values`."""
        wanted = set(values)
        return sum(row.share for row in self.rows if row.value in wanted)

    def shown(self, value: int) -> str:
        """A value as options write it."""
        return f"#{value:06x}" if self.colored else str(value)


def census(masks: Sequence[Seen], *, by_color: bool, told: bool = False, one: int | None = None) -> Census:
    """Counts all masks of a set.

    Args:
      masks: what is in each.
      by_color: whether the meaning is given by colors; then palettes are looked up.
      told: whether the meaning is given at all; then palettes need not agree.
      one: what the ones of one-bit masks stand for; without it 255 where the other masks hold 0 and 255 alone, else 1.

    Raises:
      ValueError: masks with values beside masks with colors, or palettes that contradict one another.
    """
    colored = by_color or any(mask.colored for mask in masks)
    many = set().union(*(mask.counts for mask in masks if not mask.one_bit))
    if one is None:
        one = 255 if many and many <= {0, 255} else 1
    total, images, first, beside = Counter(), Counter(), {}, set()
    for mask in masks:
        counts = _meant(mask, colored, one)
        if _IGNORED in counts:
            beside |= counts.keys() - {_IGNORED}
        for value, number in counts.items():
            total[value] += number
            images[value] += 1
            first.setdefault(value, mask.path)
    everything = max(sum(total.values()), 1)
    rows = [Row(value, total[value] / everything, images[value]) for value in sorted(total)]
    notes = []
    one_bit = sum(mask.one_bit for mask in masks)
    if 0 < one_bit < len(masks):
        path = next(mask.path for mask in masks if mask.one_bit)
        notes.append(f"{one_bit} masks have one bit per pixel ({path.name}); their ones are taken for {one}.")
    lossy = [mask.path for mask in masks if mask.lossy]
    if lossy:
        notes.append(f"{len(lossy)} masks are JPEG, which changes values ({lossy[0].name}): store masks as PNG.")
    if not (colored or told):
        _refuse_contradicting_palettes(masks)
    return Census(rows, len(masks), colored, one_bit, one, first, frozenset(beside), len(lossy), tuple(notes))


def _meant(mask: Seen, colored: bool, one: int) -> Mapping[int, int]:
    """A mask's counts, in the terms of the set."""
    if not colored:
        return {one * v: n for v, n in mask.counts.items()} if mask.one_bit else mask.counts
    if mask.colored:
        return mask.counts
    if mask.palette is not None:
        counts: Counter[int] = Counter()
        for value, number in mask.counts.items():
            counts[mask.palette.get(value, 0)] += number
        return counts
    return {0x010101 * (255 * v if mask.one_bit else v): n for v, n in mask.counts.items()}


def _refuse_contradicting_palettes(masks: Sequence[Seen]) -> None:
    """An index that is one color here and another there cannot be a label."""
    known: dict[int, tuple[int, Path]] = {}
    for mask in masks:
        for value, color in (mask.palette or {}).items():
            other, path = known.setdefault(value, (color, mask.path))
            if color != other:
                raise ValueError(
                    f"{mask.path}: index {value} of its palette is #{color:06x}, and in {path.name} it is "
                    f"#{other:06x}; say what the colors mean, by --labels '#{other:06x}=NAME,...', or the indices, by "
                    "--labels 0=NAME,... (or --classes FILE)."
                )


# --- what it means ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Meaning:
    """What the values in masks stand for.

    Attributes:
      classes: name of each label.
      labels: value or packed color to label.
      ignored: values of pixels that count nowhere; their label is the number of classes.
      colored: whether values are packed colors.
      one: the value that the ones of one-bit masks stand for.
    """

    classes: tuple[str, ...]
    labels: Mapping[int, int]
    ignored: frozenset[int] = frozenset()
    colored: bool = False
    one: int | None = None

    def map(self, mask: pixels.Mask, path: Path) -> np.ndarray:
        """Label map `(H, W)`, bytes.

        Raises:
          ValueError: a value that has no meaning.
        """
        values = self._values(mask)
        strange = sorted(set(np.unique(values).tolist()) - self.labels.keys() - self.ignored)
        if strange:
            known = [*self.labels, *sorted(self.ignored)]
            shown = ", ".join(map(self._shown, known[:20])) + (", ..." if len(known) > 20 else "")
            raise ValueError(f"{path}: the mask holds {self._shown(strange[0])}; allowed are {shown}.")
        meant = {**self.labels, **dict.fromkeys(self.ignored, len(self.classes))}
        if min(meant) >= 0 and max(meant) < 2**16:
            table = np.zeros(max(meant) + 1, np.uint8)
            table[list(meant)] = list(meant.values())
            return table[values]
        order = np.array(sorted(meant))
        return np.array([meant[v] for v in order.tolist()], np.uint8)[np.searchsorted(order, values)]

    def _values(self, mask: pixels.Mask) -> np.ndarray:
        if self.colored:
            if mask.array.ndim == 3:
                return packed(mask.array)
            if mask.palette is not None:
                return packed(mask.palette)[mask.array]
            return 0x010101 * (mask.array.astype(np.int64) * (255 if mask.depth == "1-bit" else 1))
        return mask.array * np.uint8(self.one or 1) if mask.depth == "1-bit" else mask.array

    def _shown(self, value: int) -> str:
        return f"#{value:06x}" if self.colored else str(value)


def given(labels: str | None, classes: Path | None, ignore: str | None) -> Meaning | None:
    """The meaning that options give: `--labels`, `--classes` and `--ignore`; None without the first two.

    Args:
      labels: as `0=background,255=cell`; a value may be a range, `128-255`, or a color, `#ff0000`.
      classes: a file with a line per class: a name, whose value is its number from 0; or a value and a name; or red,
        green, blue and a name; or #rrggbb and a name.
      ignore: values or colors of pixels that count nowhere, with commas between.

    Raises:
      ValueError: what cannot be understood, naming the option.
      OSError: the file cannot be read.

    Example:

    >>> given("0=background,128-255=cell", None, None).classes
    ('background', 'cell')
    """
    if labels is not None and classes is not None:
        raise ValueError("--labels and --classes say the same in two ways; give one of them.")
    ignored, ignored_colored = _ignored(ignore)
    if labels is not None:
        entries = [_entry(part, f"--labels {labels}") for part in labels.split(",") if part.strip()]
    elif classes is not None:
        entries = _listed_classes(classes)
    else:
        return None
    option = f"--labels {labels}" if labels is not None else f"--classes {classes}"
    colored = {colored for *_, colored in entries} | ({ignored_colored} if ignored else set())
    if len(colored) > 1:
        raise ValueError(f"{option}: give values or colors, not both.")
    names: dict[str, int] = {}
    meant: dict[int, int] = {}
    for low, high, name, _ in entries:
        label = names.setdefault(name, len(names))
        for value in range(low, high + 1):
            if value in meant or value in ignored:
                raise ValueError(f"{option}: {value} is given twice.")
            meant[value] = label
    if not 2 <= len(names) <= _MOST:
        raise ValueError(f"{option}: there must be 2 to {_MOST} classes; got {len(names)}.")
    return Meaning(tuple(names), meant, ignored, colored == {True})


def _ignored(text: str | None) -> tuple[frozenset[int], bool]:
    values, colored = set(), set()
    for part in (text or "").split(","):
        if part.strip():
            low, high, is_color = _value(part.strip(), f"--ignore {text}")
            values.update(range(low, high + 1))
            colored.add(is_color)
    if len(colored) > 1:
        raise ValueError(f"--ignore {text}: give values or colors, not both.")
    return frozenset(values), colored == {True}


def _entry(part: str, option: str) -> tuple[int, int, str, bool]:
    value, equals, name = part.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"{option}: write VALUE=NAME, with commas between; got {part.strip()!r}.")
    low, high, colored = _value(value.strip(), option)
    return low, high, name.strip(), colored


def _value(text: str, option: str) -> tuple[int, int, bool]:
    """Lowest and highest value that a text names, and whether they are colors."""
    try:
        if text.startswith("#"):
            if len(text) != 7:
                raise ValueError
            return int(text[1:], 16), int(text[1:], 16), True
        low, dash, high = text.partition("-")
        found = int(low), int(high if dash else low), False
        if not 0 <= found[0] <= found[1] < 2**16:
            raise ValueError
        return found
    except ValueError:
        raise ValueError(
            f"{option}: {text!r} is no value; write a number such as 3, a range such as 128-255, or a color such as "
            "#ff0000."
        ) from None


def _listed_classes(path: Path) -> list[tuple[int, int, str, bool]]:
    """The lines of a file of classes."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--classes {path}: not UTF-8 text ({error}).") from error
    option = f"--classes {path}"
    if all(len(words) > 3 and all(w.isdecimal() and int(w) < 256 for w in words[:3]) for words in lines):
        colors = [(int(r) << 16 | int(g) << 8 | int(b), " ".join(name)) for r, g, b, *name in lines]
        return [(color, color, name, True) for color, name in colors]
    if all(len(words) > 1 and (words[0].isdecimal() or words[0].startswith("#")) for words in lines):
        parted = [(_value(value, option), " ".join(name)) for value, *name in lines]
        return [(low, high, name, colored) for (low, high, colored), name in parted]
    return [(i, i, " ".join(words), False) for i, words in enumerate(lines)]


def settle(found: Census, option: Meaning | None, published: Meaning | None, ignore: str | None) -> Meaning:
    """What the masks mean: as options say, or as the layout's authors published, or by the plain rules.

    Raises:
      Misread: none of them settles it.
    """
    if option is not None:
        return option
    ignored, colored = _ignored(ignore)
    if published is not None:
        return published if ignore is None else _also_ignoring(published, ignored)
    if found.colored:
        if len(found.rows) > MANY:
            raise Misread(
                f"the masks hold {len(found.rows)} colors, too many for labels: they are stored with loss or smoothed, "
                "or they are no masks.",
                found,
            )
        some = ",".join(f"{found.shown(v)}=NAME" for v in found.values[:3])
        raise Misread(
            f"{next(reversed(found.first.values()))}: a mask has one value per pixel, and the masks hold colors "
            f"({_few(found)}): say what they mean, by --labels '{some}' or --classes FILE.",
            found,
        )
    if colored:
        raise ValueError(f"--ignore {ignore}: the masks hold values, not colors.")
    return _plain(found, ignored, chosen=ignore is not None)


def _also_ignoring(meaning: Meaning, ignored: frozenset[int]) -> Meaning:
    """The meaning with more values left out."""
    kept = {value: label for value, label in meaning.labels.items() if value not in ignored}
    names = [name for label, name in enumerate(meaning.classes) if label in kept.values()]
    labels = {value: names.index(meaning.classes[label]) for value, label in kept.items()}
    return Meaning(tuple(names), labels, meaning.ignored | ignored, meaning.colored, meaning.one)


def _plain(found: Census, ignored: frozenset[int], *, chosen: bool) -> Meaning:
    """Values that are labels as they stand."""
    if found.values == [0, 255] and not chosen:
        return Meaning(("0", "255"), {0: 0, 255: 1}, one=found.one)
    void = ignored if chosen else frozenset({_IGNORED})
    labels = [value for value in found.values if value not in void]
    gaps = sorted(set(range(max(labels, default=0) + 1)) - set(labels))
    if labels and max(labels) >= _MOST:
        raise Misread(
            f"{found.first[max(labels)]}: the masks hold labels up to {max(labels)}; allowed are 0 to {_MOST - 1}, and "
            f"{_IGNORED} to ignore. {_advice(found, labels)}",
            found,
        )
    if len(labels) > MANY or (gaps and _is_soft(found)):
        raise Misread(
            f"the masks hold {len(found.rows)} values ({_few(found)}), too many for labels without names: they are "
            f"stored with loss (JPEG), or smoothed, or no masks. {_advice(found, labels)}",
            found,
        )
    if gaps:
        raise Misread(
            f"the masks hold the values {_few(found)}, which are no labels 0, 1, 2, ...: {_spoken(gaps)} "
            f"{'is' if len(gaps) == 1 else 'are'} missing. {_advice(found, found.values)}",
            found,
        )
    if found.lossy:
        raise Misread(
            f"{found.lossy} of {found.images} masks are JPEG, which changes values: some of {_few(found)} may be no "
            f"labels. {_advice(found, found.values)}",
            found,
        )
    if len(labels) < 2:
        raise Misread(f"the masks hold the values {found.values} only: there is nothing to tell apart.", found)
    if not chosen:
        _refuse_much_ignored(found, labels)
    return Meaning(tuple(map(str, range(max(labels) + 1))), {v: v for v in range(max(labels) + 1)}, void, one=found.one)


def _refuse_much_ignored(found: Census, labels: Sequence[int]) -> None:
    """Much of it, or as much as there is of all labels but one, or in masks of their own, is a class more likely."""
    share = found.share([_IGNORED])
    shares = sorted(row.share for row in found.rows if row.value in labels)
    alone = share > 0 and found.beside <= {0}
    if share > _IGNORED_SHARE or share > sum(shares[:-1]) or alone:
        rarest = min((row for row in found.rows if row.value in labels), key=lambda row: row.share)
        named = ",".join(f"{v}=NAME" for v in [*labels[:3], _IGNORED])
        raise Misread(
            f"255 would be ignored, and it is {share:.1%} of all pixels, in {found.rows[-1].images} of {found.images} "
            f"masks ({_few(found)}; label {rarest.value} is {_share(rarest.share)}, first in "
            f"{found.first[rarest.value].name}). If it is to be ignored, say --ignore 255; if it is a class, say "
            f"--labels {named}.",
            found,
        )


def _is_soft(found: Census) -> bool:
    """Whether the values are two or more levels with steps between, as smoothing or JPEG leaves them."""
    rare = [row for row in found.rows if row.share < 0.01]
    return len(rare) > 3 and len(rare) > len(found.rows) / 2


def _advice(found: Census, labels: Sequence[int]) -> str:
    if _is_soft(found):
        return "Store them again without loss, or say where one class ends: --labels 0-127=background,128-255=NAME."
    if len(labels) <= 8:
        return f"Say what they mean: --labels {','.join(f'{v}=NAME' for v in labels)}, or --classes FILE."
    return "Say what they mean: --labels VALUE=NAME,..., or --classes FILE."


def _few(found: Census) -> str:
    shown = [f"{found.shown(row.value)} {_share(row.share)}" for row in found.rows]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", *shown[-2:]])


def _spoken(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) if len(values) <= 4 else f"{values[0]}, {values[1]}, ..., {values[-1]}"


def _share(share: float) -> str:
    """A share as a percentage that never reads as none or all."""
    if share >= 0.001 or share == 0:
        return f"{100 * share:.1f} %"
    return "below 0.1 %"


def table(found: Census, meaning: Meaning | None) -> list[dict[str, str]]:
    """The census as rows of a table."""
    rows = []
    for value, share, images in found.rows:
        row = {"value": found.shown(value)}
        if meaning is not None:
            label = meaning.labels.get(value)
            ignored = "ignored" if value in meaning.ignored else "no meaning"
            row |= {"class": meaning.classes[label] if label is not None else ignored}
        rows.append(row | {"pixels": _share(share), "images": f"{images} of {found.images}"})
    return rows
