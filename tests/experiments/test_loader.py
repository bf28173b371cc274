"""Batches: the same for the same seed, from any place on, with image and label cut from the same place."""

import numpy as np
import pytest

from experiments.data import Dataset, Example, Split, augment, loader


def dataset(augmentation=lambda example, rng: example):
    """Images whose every pixel says where it is, as does the label."""
    label = np.arange(20 * 30, dtype=np.int32).reshape(20, 30)
    examples = [Example(image=(label + 1000 * i)[..., None].astype(np.float32), label=label) for i in range(5)]
    split = Split(names=tuple("abcde"), examples=examples)
    return Dataset("numbers", "", ("x",), 1, None, split, split, split, augmentation, flips=(0, 1))


def test_same_seed_same_batches():
    one, same, other = (loader.batches(dataset(), size=4, crop=(8, 9), seed=s) for s in (3, 3, 4))
    first = [next(one) for _ in range(6)]
    for batch, again in zip(first, [next(same) for _ in range(6)], strict=True):
        np.testing.assert_array_equal(batch["image"], again["image"])
        np.testing.assert_array_equal(batch["label"], again["label"])
    assert any((b["image"] != next(other)["image"]).any() for b in first)
    assert first[0]["image"].shape == (4, 8, 9, 1)
    assert first[0]["image"].dtype == np.float32
    assert first[0]["label"].dtype == np.int32


def test_an_iterator_goes_on_from_anothers_state():
    one, other = (loader.batches(dataset(), size=4, crop=(8, 9), seed=0) for _ in range(2))
    for _ in range(7):  # past the end of the five examples
        next(one)
    other.set_state(one.get_state())
    for _ in range(3):
        np.testing.assert_array_equal(next(one)["image"], next(other)["image"])


def test_image_and_label_stay_together_and_all_flips_and_examples_come():
    batches = loader.batches(dataset(), size=8, crop=(8, 9), seed=0)
    flips, examples, tops, lefts = set(), set(), set(), set()
    for _ in range(20):
        batch = next(batches)
        for image, label in zip(batch["image"][..., 0], batch["label"], strict=True):
            number = (image - label) / 1000
            assert (number == number[0, 0]).all()
            examples.add(int(number[0, 0]))
            flips.add((int(np.sign(label[0, 1] - label[0, 0])), int(np.sign(label[1, 0] - label[0, 0]))))
            tops.add(int(label.min()) // 30)
            lefts.add(int(label.min()) % 30)
    assert examples == set(range(5))
    assert flips == {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    assert tops == set(range(13))  # every place that a window fits in, the first and the last too
    assert lefts == set(range(22))


def test_every_epoch_augments_anew():
    noisy = dataset(lambda example, rng: Example(image=example["image"] + rng.random(), label=example["label"]))
    batches = loader.batches(noisy, size=5, crop=(20, 30), seed=0)
    seen = {round(float(v), 6) for _ in range(4) for v in next(batches)["image"].min(axis=(1, 2, 3)) % 1000}
    assert len(seen) == 20


def test_intensity_changes_the_image_by_at_most_what_it_says():
    example = Example(
        image=np.linspace(0, 1, 50, dtype=np.float32).reshape(5, 10, 1), label=np.zeros((5, 10), np.int32)
    )
    for seed in range(30):
        image = augment.intensity(example, np.random.default_rng(seed))["image"]
        assert image.dtype == np.float32
        assert (np.diff(image.ravel()) > 0).all()  # order stays
        assert image.min() >= -0.2 - 1e-6
        assert image.max() <= 1.2 + 1e-6
        assert 0.8 - 1e-6 <= image.max() - image.min() <= 1.2 + 1e-6


def test_stored_batches_give_every_example_once_an_epoch_in_changing_order():
    arrays = {"x": np.arange(10), "y": np.arange(10) * 2}
    batches, same, other = (loader.StoredBatches(arrays, size=3, seed=s) for s in (0, 0, 1))
    epochs = [np.concatenate([next(batches)["x"] for _ in range(3)]) for _ in range(4)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 9  # what does not fill a batch waits
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert set(np.concatenate(epochs).tolist()) == set(range(10))
    same.set_state({"next": 5})
    batch = next(same)
    np.testing.assert_array_equal(batch["x"], epochs[1][6:])
    np.testing.assert_array_equal(batch["y"], 2 * batch["x"])
    assert same.get_state() == {"next": 6}
    assert any((next(other)["x"] != epoch[:3]).any() for epoch in epochs[:1])
    with pytest.raises(ValueError, match="a batch of 11 needs as many stored examples; there are 10"):
        loader.StoredBatches(arrays, size=11, seed=0)
