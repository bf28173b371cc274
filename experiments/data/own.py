"""A user's own data, as any object with the attributes of `Dataset`: checked, and filled in where it says nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.data import PARTS, Dataset, Example, Split


def adapt(data: Any) -> Dataset:
    """The data set that an object stands for.

    Args:
      data: an object with these attributes:

        - `classes`: name of each label, in order;
        - `train`, `validation`, `test`: each a sequence of pairs of an image `(H, W, channels)` or `(H, W)`, in about
          [0, 1], and a label map `(H, W)` of whole numbers; or of dictionaries with `image` and `label`; or a `Split`;

        and if it has them, the others of `Dataset`: `name`, `description`, `ignore_index`, `augment`, `flips`,
        `baseline`, `digest`.

    Raises:
      TypeError: an attribute is missing, or an example is no pair.
      ValueError: an image or a label map that cannot be, naming the part and the place in it.
    """
    if isinstance(data, Dataset):
        return data
    missing = [name for name in ("classes", *PARTS) if not hasattr(data, name)]
    if missing:
        raise TypeError(f"data: {type(data).__name__} has no attribute {', '.join(missing)}; see `data.own.adapt`.")
    classes = tuple(map(str, data.classes))
    if not 2 <= len(classes) <= 255:
        raise ValueError(f"data: there must be 2 to 255 classes; got {len(classes)}.")
    ignore = getattr(data, "ignore_index", None)
    parts = {part: _split(getattr(data, part), part, len(classes), ignore) for part in PARTS}
    channels = {example["image"].shape[-1] for split in parts.values() for example in (split.examples[0],)}
    if len(channels) > 1:
        raise ValueError(f"data: images have {' and '.join(map(str, sorted(channels)))} channels.")
    counted = ", ".join(f"{len(split)} {part}" for part, split in parts.items())
    return Dataset(
        name=getattr(data, "name", type(data).__name__),
        description=getattr(data, "description", f"{len(classes)} classes: {counted} images."),
        classes=classes,
        channels=channels.pop(),
        ignore_index=ignore,
        augment=getattr(data, "augment", lambda example, rng: example),
        flips=tuple(getattr(data, "flips", ())),
        baseline=getattr(data, "baseline", None),
        digest=getattr(data, "digest", ""),
        **parts,
    )


def _split(part: Any, name: str, classes: int, ignore: int | None) -> Split:
    examples = part.examples if isinstance(part, Split) else part
    if len(examples) == 0:
        raise ValueError(f"data.{name}: there are no examples.")
    names = tuple(map(str, getattr(part, "names", range(len(examples)))))
    return Split(names, _Checked(examples, name, classes, ignore))


class _Checked(Sequence):
    """Examples as the study takes them, checked when they are asked for: there may be more than fit into memory."""

    def __init__(self, examples: Sequence, part: str, classes: int, ignore: int | None):
        self._examples, self._part, self._classes, self._ignore = examples, part, classes, ignore

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        found = self._examples[index]
        where = f"data.{self._part}[{index}]"
        try:
            image, label = (found["image"], found["label"]) if isinstance(found, Mapping) else found
        except (TypeError, ValueError, KeyError):
            raise TypeError(f"{where}: must be an image and its labels; got {type(found).__name__}.") from None
        image, label = np.asarray(image, np.float32), np.asarray(label)
        image = image[..., None] if image.ndim == 2 else image
        if image.ndim != 3 or label.shape != image.shape[:2]:
            raise ValueError(f"{where}: must be (H, W, channels) and (H, W); got {image.shape} and {label.shape}.")
        if not np.issubdtype(label.dtype, np.integer):
            raise ValueError(f"{where}: labels must be whole numbers; got {label.dtype}.")
        strange = label[(label < 0) | (label >= self._classes)]
        strange = strange if self._ignore is None else strange[strange != self._ignore]
        if strange.size:
            raise ValueError(f"{where}: label {strange.flat[0]} is none of the {self._classes} classes.")
        if not np.isfinite(image).all():
            raise ValueError(f"{where}: the image holds numbers that are not finite.")
        return Example(image=image, label=label.astype(np.int32))
