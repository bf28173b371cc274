"""Batches without end in a fixed order: augmented crops, read ahead by grain, or stored arrays."""

import functools
from collections.abc import Mapping
from typing import Self

import grain
import numpy as np

from experiments.data import Dataset, Example, augment

_EPOCHS = 2**31  # as good as without end; grain's own endless length overflows in batches of one


def batches(
    data: Dataset, *, size: int, crop: tuple[int, int], seed: int, part: tuple[int, int] = (0, 1)
) -> grain.DatasetIterator:
    """An endless iterator of `{"image": (size, *crop, channels), "label": (size, *crop)}`.

    With `part` (i, n), for process i of n, of every batch the rows i, i + n, i + 2 n and so on.

    The n-th batch depends on `seed` and n alone, so runs with the same seed see the same batches, and an iterator that
    is given the state of another (`get_state`, `set_state`) goes on from there.
    """
    return iter(
        grain.MapDataset.source(data.train.examples)
        .seed(seed)
        .shuffle()
        .repeat(_EPOCHS)
        .random_map(functools.partial(_augmented, data=data, crop=crop))
        .slice(slice(part[0], None, part[1]))
        .batch(size // part[1])
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    )


def _augmented(example: Example, rng: np.random.Generator, *, data: Dataset, crop: tuple[int, int]) -> Example:
    example = augment.crop(data.augment(example, rng), rng, crop)
    example = augment.flip(example, rng, data.flips)
    return Example(image=np.ascontiguousarray(example["image"]), label=np.ascontiguousarray(example["label"]))


class Numbered:
    """Endless batches, of which the n-th depends on n alone; so the place in them is a number, and can be stored."""

    _next = 0

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """The batch of this number, from 0."""
        raise NotImplementedError

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        number, self._next = self._next, self._next + 1
        return self.batch(number)

    def get_state(self) -> dict[str, int]:
        return {"next": self._next}

    def set_state(self, state: Mapping[str, int]) -> None:
        self._next = state["next"]


class StoredBatches(Numbered):
    """Endless batches of stored arrays, in an order that depends on the seed alone; its place can be stored.

    Args:
      arrays: by name, all with the examples on the first axis, at least `size` of them.
      size: examples in a batch.
      seed: of the order, which changes from epoch to epoch. What does not fill a batch waits for the next epoch.
      part: as in `batches`.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], *, size: int, seed: int, part: tuple[int, int] = (0, 1)):
        self._arrays, self._size, self._seed, self._part = arrays, size, seed, part
        self._count = len(next(iter(arrays.values())))
        if self._count < size:
            raise ValueError(f"a batch of {size} needs as many stored examples; there are {self._count}.")

    def batch(self, number: int) -> dict[str, np.ndarray]:
        epoch, number = divmod(number, self._count // self._size)
        order = np.random.default_rng((self._seed, epoch)).permutation(self._count)
        chosen = order[number * self._size : (number + 1) * self._size][self._part[0] :: self._part[1]]
        return {name: array[chosen] for name, array in self._arrays.items()}
