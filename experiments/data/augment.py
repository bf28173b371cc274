"""Random changes to training examples. Each takes an example and a NumPy generator and returns a new example."""

from collections.abc import Sequence

import numpy as np

from experiments.data import Example


def flip(example: Example, rng: np.random.Generator, axes: Sequence[int]) -> Example:
    """Mirrors image and label along each of `axes` with probability one half."""
    mirrored = tuple(axis for axis in axes if rng.random() < 0.5)
    return Example(image=np.flip(example["image"], mirrored), label=np.flip(example["label"], mirrored))


def crop(example: Example, rng: np.random.Generator, size: tuple[int, int]) -> Example:
    """Cuts a window of `size` from a uniformly random place."""
    top, left = (int(rng.integers(0, n - s + 1)) for n, s in zip(example["label"].shape, size, strict=True))
    window = (slice(top, top + size[0]), slice(left, left + size[1]))
    return Example(image=example["image"][window], label=example["label"][window])


def intensity(example: Example, rng: np.random.Generator) -> Example:
    """Changes brightness by up to 10 % of the range, contrast by up to 20 % and gamma by up to a fifth."""
    image = np.clip(example["image"], 0, 1) ** np.float32(np.exp(rng.uniform(-0.2, 0.2)))
    image = (image - 0.5) * np.float32(rng.uniform(0.8, 1.2)) + np.float32(0.5 + rng.uniform(-0.1, 0.1))
    return Example(image=image, label=example["label"])
