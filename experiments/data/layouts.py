"""Where data sets keep their images and masks, and what their authors say the masks mean: the layouts by name."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from experiments.data import coco, pixels, published
from experiments.data.labels import Meaning
from experiments.data.pixels import Place

_IMAGES = ("images", "image", "imgs", "img")
_MASKS = ("masks", "mask", "labels", "label", "annotations", "gt")
_PARTS = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing")}


class Pair(NamedTuple):
    """An image and its mask: a name, where they are, and the stack they are a slice of."""

    name: str
    image: Place
    mask: "Place | coco.Drawn"
    stack: str


@dataclass(frozen=True)
class Tree:
    """What a layout finds.

    Attributes:
      parts: the pairs of "train", "validation" and "test"; of some of them; or of "all". What is missing is taken from
        the others.
      meaning: what values in masks stand for as published, or None where the masks themselves must tell.
      flips: the axes along which a mirrored image is as likely as the image.
      in_order: whether the images are neighbors, as slices of one stack are, which must not be torn apart.
      notes: what the reader should know.
    """

    parts: Mapping[str, Sequence[Pair]]
    meaning: Meaning | None = None
    flips: tuple[int, ...] = (1,)
    in_order: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Matching:
    """How a mask is found for an image.

    Attributes:
      mask_suffix: what a mask's name has after its image's name, such as `_mask`.
      unlabeled: whether images without a mask are refused or left out.
    """

    mask_suffix: str = ""
    unlabeled: str = "refuse"


def find(path: Path, layout: str, matching: Matching) -> Tree:
    """Finds the images and masks below `path`.

    Raises:
      ValueError: an unknown layout, or an image without a mask, or a mask without an image.
      FileNotFoundError: a missing folder or list.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"--layout {layout!r} is not known. Known: {', '.join(LAYOUTS)}.")
    if not path.is_dir():
        raise FileNotFoundError(f"--path {path}: there is no such folder.")
    return LAYOUTS[layout](path, matching)


# --- any pairs --------------------------------------------------------------------------------------------------------


def _pairs(path: Path, how: Matching) -> Tree:
    """Images and masks of the same name.

    In `images/` and `masks/`; or in these within `train/`, `val/` and `test/`; or in `images/train/`, `masks/train/`
    and so on; or beside one another, told apart by --mask-suffix. Lists `train.txt`, `val.txt`, `test.txt` in the
    folder say what belongs to which part.
    """
    parts, notes = _own_folders(path, how)
    if parts:
        return Tree(parts, notes=notes)
    images, masks = (_synonym(path, names) or path / names[0] for names in (_IMAGES, _MASKS))
    if how.mask_suffix and not images.is_dir():
        images = masks = path
    every, notes = _matched(images, masks, how)
    lists = {part: file for part, names in _PARTS.items() if (file := _list_of(path, names))}
    if not lists:
        return Tree({"all": every}, notes=notes)
    parts, left = _by_lists(every, lists)
    return Tree(parts, notes=(*notes, *left))


def _own_folders(path: Path, how: Matching) -> tuple[dict[str, list[Pair]], tuple[str, ...]]:
    """Pairs by part, where folders tell the parts."""
    found: dict[str, list[Pair]] = {}
    notes: list[str] = []
    for part, names in _PARTS.items():
        for name in names:
            inside = [_synonym(path / name, of) for of in (_IMAGES, _MASKS)]
            above = [s / name if (s := _synonym(path, of)) else None for of in (_IMAGES, _MASKS)]
            for images, masks in (inside, above):
                if images is not None and masks is not None and images.is_dir() and masks.is_dir():
                    found[part], more = _matched(images, masks, how)
                    notes.extend(more)
    return found, tuple(notes)


def _synonym(path: Path, names: Sequence[str]) -> Path | None:
    return next((path / name for name in names if (path / name).is_dir()), None)


def _list_of(path: Path, names: Iterable[str]) -> Path | None:
    folders = (path, path / "splits", path / "ImageSets" / "Segmentation")
    return next((f for folder in folders for name in names if (f := folder / f"{name}.txt").is_file()), None)


def _by_lists(pairs: Sequence[Pair], lists: Mapping[str, Path]) -> tuple[dict[str, list[Pair]], tuple[str, ...]]:
    """Pairs by part as lists say: a name a line, with or without folder and ending."""
    by_name: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_name.setdefault(_key(pair.stack), []).append(pair)
        if pair.name != pair.stack:
            by_name.setdefault(_key(pair.name), []).append(pair)
    parts: dict[str, list[Pair]] = {}
    owner: dict[str, Path] = {}
    for part, file in lists.items():
        parts[part] = []
        for name in _listed_names(file):
            if name in owner:
                raise ValueError(f"{file}: {name} is in {owner[name].name} too.")
            if name not in by_name:
                raise ValueError(f"{file}: it lists {name}, of which there is no image with a mask.")
            owner[name] = file
            parts[part].extend(by_name[name])
        if not parts[part]:
            raise ValueError(f"{file}: it lists no image.")
    left = len(pairs) - sum(map(len, parts.values()))
    return parts, (f"{left} images are in no list and left out.",) if left else ()


def _listed_names(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    return [_key(pixels.stem(Path(line.split("\t")[0].strip()))) for line in lines if line.strip()]


def _matched(images: Path, masks: Path, how: Matching) -> tuple[list[Pair], tuple[str, ...]]:
    """Images and the masks of the same names, in natural order (2 before 10)."""
    suffix = how.mask_suffix
    by_name, mask_by_name = _files(images, images, masks), _files(masks, images, masks)
    if images == masks:
        by_name = {name: file for name, file in by_name.items() if not name.endswith(suffix)}
    mask_by_name = {n.removesuffix(suffix): f for n, f in mask_by_name.items() if n.endswith(suffix)}
    without = [name for name in by_name if name not in mask_by_name]
    if without and how.unlabeled == "refuse":
        raise ValueError(
            f"{by_name[without[0]]}: there is no mask named {without[0]}{suffix}.* in {masks}. "
            f"{_hint(without[0], masks, suffix)}"
        )
    for name in mask_by_name.keys() - by_name.keys():
        raise ValueError(f"{mask_by_name[name]}: there is no image named {name}.* in {images}.")
    notes = (f"{len(without)} images without a mask are left out ({by_name[without[0]].name}).",) if without else ()
    pairs = []
    for name in sorted(by_name.keys() & mask_by_name.keys(), key=_natural):
        pairs.extend(_paged(by_name[name], mask_by_name[name]))
    if not pairs:
        raise ValueError(f"{images}: no image here has a mask.")
    return pairs, notes


def _hint(name: str, masks: Path, suffix: str) -> str:
    near = [] if suffix else [s for f in masks.iterdir() if (s := _key(pixels.stem(f))).startswith(name) and s != name]
    named = f"Masks seem to be named by --mask-suffix {near[0][len(name) :]}. " if near else ""
    return f"{named}To leave images without a mask out: --unlabeled skip."


def _files(folder: Path, images: Path, masks: Path) -> dict[str, Path]:
    """The images in a folder by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder. The layout needs {images} and {masks}.")
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if pixels.ending(file) is None or file.is_dir():
            continue
        name = _key(pixels.stem(file))
        if name in files:
            raise ValueError(f"{file}: {files[name].name} beside it has the same name.")
        files[name] = file
    if not files:
        raise ValueError(f"{folder}: no images here.")
    return files


def _key(name: str) -> str:
    """A name as all systems agree on it: Macs part letters and accents (NFD), others do not (NFC)."""
    return unicodedata.normalize("NFC", pixels.shown(name))


def _paged(image: Path, mask: Path) -> list[Pair]:
    """A pair per page of two files."""
    pages, others = pixels.pages(image), pixels.pages(mask)
    if pages != others:
        raise ValueError(f"{mask}: the mask has {others} pages, its image {image.name} has {pages}.")
    name = _key(pixels.stem(image))
    if pages == 1:
        return [Pair(name, Place((image,)), Place((mask,)), name)]
    return [Pair(f"{name}:{i + 1}", Place((image,), i), Place((mask,), i), name) for i in range(pages)]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """The key to sort by: digits by their number."""
    pieces = re.split(r"([0-9]+)", name)
    return [(0, int(p), "") if i % 2 else (1, 0, p) for i, p in enumerate(pieces) if p]


# --- data sets as published -------------------------------------------------------------------------------------------


def _camvid(path: Path, how: Matching) -> Tree:
    """Brostow et al. 2009 as the SegNet tutorial repository arranges it (Kendall, Badrinarayanan and Cipolla)."""
    folders = {"train": ("train", "trainannot"), "validation": ("val", "valannot"), "test": ("test", "testannot")}
    parts = {part: _matched(path / images, path / masks, how)[0] for part, (images, masks) in folders.items()}
    return Tree(parts, published.CAMVID)


def _isbi2012(path: Path, how: Matching) -> Tree:
    """The ISBI 2012 challenge's 30 serial sections (Arganda-Carreras et al. 2015): a stack, mirrored either way alike.

    As the organizers' `train-volume.tif` and `train-labels.tif`, or as files in `images/` and `masks/`.
    """
    if (path / "train-volume.tif").is_file():
        pairs = _paged(path / "train-volume.tif", path / "train-labels.tif")
    else:
        pairs, _ = _matched(path / "images", path / "masks", how)
    return Tree({"all": pairs}, published.ISBI2012, flips=(0, 1), in_order=True)


def _cityscapes(path: Path, how: Matching) -> Tree:
    """Cordts et al. 2016, arXiv:1604.01685: fine annotations, the 19 classes that are evaluated."""
    images, masks = path / "leftImg8bit", path / "gtFine"
    parts = {}
    for part, folder in (("train", "train"), ("test", "val")):
        pairs = []
        for city in _folders(images / folder):
            for file in sorted(city.glob("*_leftImg8bit.png")):
                name = file.name.removesuffix("_leftImg8bit.png")
                mask = _existing(masks / folder / city.name / f"{name}_gtFine_labelIds.png", file)
                pairs.append(Pair(_key(name), Place((file,)), Place((mask,)), _key(name)))
        parts[part] = _some(pairs, images / folder)
    return Tree(parts, published.CITYSCAPES)


def _voc(path: Path, how: Matching) -> Tree:
    """Everingham et al. 2010: Pascal VOC 2012, segmentation; 21 classes with the background, 255 void."""
    inside = (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012", path / "VOC2007", path / "VOCdevkit" / "VOC2007")
    root = next((folder for folder in inside if (folder / "SegmentationClass").is_dir()), path)
    parts = {}
    for part, name in (("train", "train"), ("test", "val")):
        file = _existing(root / "ImageSets" / "Segmentation" / f"{name}.txt")
        parts[part] = _some([_voc_pair(root, name, file) for name in _listed_names(file)], file)
    return Tree(parts, published.VOC)


def _voc_pair(root: Path, name: str, file: Path) -> Pair:
    image = _existing(root / "JPEGImages" / f"{name}.jpg", file)
    return Pair(name, Place((image,)), Place((_existing(root / "SegmentationClass" / f"{name}.png", file),)), name)


def _oxford_pet(path: Path, how: Matching) -> Tree:
    """Parkhi et al. 2012: the Oxford-IIIT Pet data set; in a trimap 1 is the pet, 2 the rest, 3 not classified."""
    root = path / "oxford-iiit-pet" if (path / "oxford-iiit-pet").is_dir() else path
    parts = {}
    for part, name in (("train", "trainval"), ("test", "test")):
        file = _existing(root / "annotations" / f"{name}.txt")
        lines = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        names = [line for line in lines if not line.startswith("#")]
        pairs = []
        for name in names:
            image = _existing(root / "images" / f"{name}.jpg", file)
            mask = _existing(root / "annotations" / "trimaps" / f"{name}.png", file)
            pairs.append(Pair(name, Place((image,)), Place((mask,)), name))
        parts[part] = _some(pairs, file)
    return Tree(parts, published.OXFORD_PET)


def _ade20k(path: Path, how: Matching) -> Tree:
    """Zhou et al. 2017: the scene parsing benchmark; 150 classes from 1, and 0 for what is none of them."""
    root = path / "ADEChallengeData2016" if (path / "ADEChallengeData2016").is_dir() else path
    parts = {
        part: _matched(root / "images" / folder, root / "annotations" / folder, how)[0]
        for part, folder in (("train", "training"), ("test", "validation"))
    }
    return Tree(parts, published.ADE20K)


def _nnunet(path: Path, how: Matching) -> Tree:
    """Isensee et al. 2021, nnU-Net's raw data: imagesTr/CASE_0000.*, labelsTr/CASE.*, and dataset.json."""
    told = _json(path / "dataset.json")
    tree = {"train": ("imagesTr", "labelsTr")}
    if (path / "imagesTs").is_dir() and (path / "labelsTs").is_dir():
        tree["test"] = ("imagesTs", "labelsTs")
    parts = {part: _cases(path / images, path / labels) for part, (images, labels) in tree.items()}
    if len(parts) == 1:
        parts = {"all": parts["train"]}
    return Tree(parts, _nnunet_meaning(path / "dataset.json", told))


def _cases(images: Path, labels: Path) -> list[Pair]:
    files = _files(images, images, labels)
    pairs = []
    for case, label in _files(labels, images, labels).items():
        channels = [file for name, file in sorted(files.items()) if re.fullmatch(re.escape(case) + "_[0-9]{4}", name)]
        if len(channels) not in (1, 3):
            raise ValueError(f"{label}: it needs one or three channels {case}_0000.* in {images}; got {len(channels)}.")
        counted = [pixels.pages(file) for file in (label, *channels)]
        if len(set(counted)) > 1:
            raise ValueError(f"{label}: the labels have {counted[0]} slices, the image has {counted[1]}.")
        for i in range(counted[0]):
            name = case if counted[0] == 1 else f"{case}:{i + 1}"
            pairs.append(Pair(name, Place(tuple(channels), i), Place((label,), i), case))
    return sorted(pairs, key=lambda pair: _natural(pair.name))


def _nnunet_meaning(path: Path, told: Mapping) -> Meaning:
    """Labels of dataset.json: name to value (version 2), or value to name (version 1)."""
    try:
        labels = told["labels"]
        by_name = {v: int(k) for k, v in labels.items()} if all(k.isdecimal() for k in labels) else labels
        ignored = frozenset({by_name["ignore"]} if "ignore" in by_name else ())
        named = sorted((value, name) for name, value in by_name.items() if name != "ignore")
        return Meaning(tuple(name for _, name in named), {value: i for i, (value, _) in enumerate(named)}, ignored)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: its labels must be name to number, each one number; regions are not read ({error!r})."
        ) from error


def _coco(path: Path, how: Matching) -> Tree:
    """Lin et al. 2014, arXiv:1405.0312: annotations/instances_PART*.json with images in PART*/ or images/PART*/; or
    PART/_annotations.coco.json beside the images."""
    found: dict[str, coco.Found] = {}
    for part, names in _PARTS.items():
        for name in names:
            beside = path / name / "_annotations.coco.json"
            files = [beside] if beside.is_file() else sorted((path / "annotations").glob(f"instances_{name}*.json"))
            for file in files:
                folder = file.stem.removeprefix("instances_")
                folders = [path / name] if file == beside else [path / folder, path / "images" / folder]
                images = next((f for f in folders if f.is_dir()), None)
                if images is None:
                    raise FileNotFoundError(f"{file}: there is no folder {folders[0]} with its images.")
                found[part] = coco.read(file, images)
    if "train" not in found:
        raise FileNotFoundError(f"{path}: the layout coco needs {path / 'annotations' / 'instances_train*.json'}.")
    if len({of.classes for of in found.values()}) > 1:
        raise ValueError(f"{path}: the parts have other categories than one another.")
    parts = {
        part: [Pair(_key(n), Place((image,)), mask, _key(n)) for n, image, mask in of.images]
        for part, of in found.items()
    }
    return Tree({"all": parts["train"]} if len(parts) == 1 else parts, coco.meaning(next(iter(found.values())).classes))


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such folder.")
    return sorted(entry for entry in path.iterdir() if entry.is_dir())


def _existing(path: Path, named_in: Path | None = None) -> Path:
    if not path.is_file():
        why = f" {named_in} names it." if named_in else ""
        raise FileNotFoundError(f"{path}: there is no such file.{why}")
    return path


def _some(pairs: list[Pair], where: Path) -> list[Pair]:
    if not pairs:
        raise ValueError(f"{where}: no images here.")
    return pairs


def _json(path: Path) -> Mapping:
    try:
        return json.loads(_existing(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}).") from error


LAYOUTS: dict[str, Callable[[Path, Matching], Tree]] = {
    "pairs": _pairs,
    "camvid": _camvid,
    "isbi2012": _isbi2012,
    "cityscapes": _cityscapes,
    "voc": _voc,
    "oxford-pet": _oxford_pet,
    "ade20k": _ade20k,
    "nnunet": _nnunet,
    "coco": _coco,
}
