"""`brain`: coronal slices of the MNI ICBM152 T1 template, with labels background, grey and white matter.

The template and its tissue maps (Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033) come with the nilearn
package, so nothing is downloaded. They are clean: two intensity thresholds alone reach a mean IoU of 0.92. So every
slice is given a contrast change, a bias field and Rician noise, drawn anew in training and once and for all for
validation and test; and the thresholds, fitted to slices degraded in the same way, stay as the baseline.
"""

import functools
import hashlib

import numpy as np

from experiments.data import Baseline, Dataset, Example, Split

CLASSES = ("background", "grey matter", "white matter")
GAP = 6  # mm left out between slabs; a voxel is 1 mm
_CORONAL = slice(40, 200)  # slices (y) with enough brain in them to be worth a look
_SAGITTAL, _AXIAL = slice(18, 178), slice(0, 160)  # a window of 160 x 160 pixels around the brain
_TRAIN, _HELD_OUT = 20, 8  # slices per slab


def load() -> Dataset:
    """Reads the template from the installed nilearn package and cuts it into slices, splits and seeded test images."""
    image, label = _volumes()
    parts = slabs(_CORONAL.start, _CORONAL.stop)
    splits = {}
    for number, (name, slices) in enumerate(parts.items()):
        examples = [Example(image=image[:, :, y, None], label=label[:, :, y]) for y in slices]
        if name != "train":
            # Seeded by part and slice: the same images in every run, whatever is trained.
            examples = [degrade(e, np.random.default_rng((number, y))) for e, y in zip(examples, slices, strict=True)]
        splits[name] = Split(names=tuple(f"y={y}" for y in slices), examples=examples)
    return Dataset(
        name="brain",
        description=(
            "Coronal 1 mm slices of the MNI ICBM152 T1 template, 160 × 160 pixels, with contrast changes, a bias field "
            f"and Rician noise of 2 to 6 %; {', '.join(f'{len(s)} {n}' for n, s in splits.items())} slices in "
            f"interleaved slabs, {GAP} mm apart."
        ),
        classes=CLASSES,
        channels=1,
        ignore_index=None,
        augment=degrade,
        flips=(1,),
        generated=True,
        baseline=_thresholds(splits["train"]),
        # Not of the degraded slices: powers differ in the last bit from one processor to another.
        digest=hashlib.blake2b(image.tobytes() + label.tobytes(), digest_size=16).hexdigest(),
        **splits,
    )


def slabs(start: int, stop: int) -> dict[str, tuple[int, ...]]:
    """Slices of each split: train slabs, and between them validation and test in turn, `GAP` slices left out between.

    Example:

    >>> {name: len(slices) for name, slices in slabs(40, 200).items()}
    {'train': 80, 'validation': 16, 'test': 16}
    """
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    order = ("train", "validation", "train", "test")
    at, turn = start, 0
    while at < stop:
        name = order[turn % len(order)]
        length = _TRAIN if name == "train" else _HELD_OUT
        parts[name].extend(range(at, min(at + length, stop)))
        at, turn = at + length + GAP, turn + 1
    return {name: tuple(slices) for name, slices in parts.items()}


def degrade(example: Example, rng: np.random.Generator) -> Example:
    """Gives a clean slice what a scanner would: another contrast, a bias field, Rician noise, in this order.

    Contrast is a gamma between 0.8 and 1.25; the field a smooth cubic surface within 20 % of one; the noise that of the
    magnitude of a complex signal (Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618) with a standard deviation of
    2 to 6 % of the brightest tissue.
    """
    image = example["image"][..., 0]
    image = image ** np.float32(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
    image = image * _bias_field(image.shape, rng)
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(rng.uniform(0.02, 0.06))
    return Example(image=np.hypot(image + real, imaginary)[..., None], label=example["label"])


def _bias_field(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A random cubic polynomial of both coordinates, scaled to lie within 1 ± 0.2 and reach one end of it at most."""
    rows, columns = (np.vander(np.linspace(-1, 1, n), 4, increasing=True) for n in shape)
    coefficients = rng.standard_normal((4, 4)) * (np.add.outer(np.arange(4), np.arange(4)) <= 3)
    surface = rows @ coefficients @ columns.T
    surface -= surface.mean()
    return (1 + rng.uniform(0.05, 0.2) * surface / np.abs(surface).max()).astype(np.float32)


@functools.cache
def _volumes() -> tuple[np.ndarray, np.ndarray]:
    """The template and its labels as `(rows, columns, slices)`: head up, left to right, back to front."""
    # nilearn takes seconds to import and `folder` does not need it.
    from nilearn import datasets

    def read(load) -> np.ndarray:
        volume = load(resolution=1).get_fdata(dtype=np.float32)
        return np.ascontiguousarray(volume[_SAGITTAL, :, _AXIAL].transpose(2, 0, 1)[::-1])

    image = read(datasets.load_mni152_template)
    grey, white = read(datasets.load_mni152_gm_template), read(datasets.load_mni152_wm_template)
    label = np.argmax([1 - grey - white, grey, white], axis=0).astype(np.int32)
    return image, label


def _thresholds(train: Split) -> Baseline:
    """The two thresholds that give the best mean IoU on degraded training slices."""
    examples = [degrade(e, np.random.default_rng((len(train), i))) for i, e in enumerate(train.examples)]
    low, high = fit_thresholds(
        np.stack([e["image"][..., 0] for e in examples]), np.stack([e["label"] for e in examples])
    )
    return Baseline(
        name="two thresholds",
        description=f"intensity below {low:.3f} is background, above {high:.3f} white matter",
        predict=lambda image: np.digitize(image[..., 0], [low, high]).astype(np.int32),
    )


def fit_thresholds(image: np.ndarray, label: np.ndarray, levels: int = 256) -> tuple[float, float]:
    """The pair of thresholds, out of `levels` evenly spaced ones, with the best mean IoU for three ordered classes."""
    edges = np.linspace(image.min(), image.max(), levels + 1)
    # counts[c, i]: pixels of class c below edge i. A pair (i, j) then predicts class 1 between the two edges.
    counts = np.stack([np.histogram(image[label == c], edges)[0] for c in range(3)])
    below = np.concatenate([np.zeros((3, 1)), np.cumsum(counts, axis=1)], axis=1)
    total = below[:, -1]
    i, j = np.triu_indices(levels + 1)
    hits = np.stack([below[0, i], below[1, j] - below[1, i], total[2] - below[2, j]])
    predicted = np.stack([below.sum(0)[i], below.sum(0)[j] - below.sum(0)[i], total.sum() - below.sum(0)[j]])
    iou = hits / np.maximum(predicted + total[:, None] - hits, 1)
    best = int(np.argmax(iou.mean(0)))
    return float(edges[i[best]]), float(edges[j[best]])
