"""Batches of augmented crops without end, read ahead by grain in a fixed order."""

import functools

import grain
import numpy as np

from experiments.data import Dataset, Example, augment


def batches(data: Dataset, *, size: int, crop: tuple[int, int], seed: int) -> grain.DatasetIterator:
    """An endless iterator of `{"image": (size, *crop, channels), "label": (size, *crop)}`.

    The n-th batch depends on `seed` and n alone, so runs with the same seed see the same batches, and an iterator that
    is given the state of another (`get_state`, `set_state`) goes on from there.
    """
    return iter(
        grain.MapDataset.source(data.train.examples)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(functools.partial(_augmented, data=data, crop=crop))
        .batch(size)
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    )


def _augmented(example: Example, rng: np.random.Generator, *, data: Dataset, crop: tuple[int, int]) -> Example:
    example = augment.crop(data.augment(example, rng), rng, crop)
    example = augment.flip(example, rng, data.flips)
    return Example(image=np.ascontiguousarray(example["image"]), label=np.ascontiguousarray(example["label"]))
