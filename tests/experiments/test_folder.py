"""Images and masks from disk: the layouts, the splits, and an error that names the file for all that can be wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.data import folder

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def pairs(tmp_path):
    """Ten grey images with masks 0 and 1."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(10):
        mask = (np.indices((12, 14)).sum(0) > 8 + i).astype(np.uint8)
        Image.fromarray((mask * 100 + rng.integers(0, 50, mask.shape)).astype(np.uint8)).save(
            tmp_path / "images" / f"{i}.png"
        )
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path


def test_pairs_are_read_and_split_by_seed(pairs):
    data = folder.load(pairs)
    assert data.classes == ("0", "1")
    assert (data.channels, data.ignore_index) == (1, 2)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [6, 2, 2]
    names = data.train.names + data.validation.names + data.test.names
    assert sorted(names) == [str(i) for i in range(10)]
    assert folder.load(pairs, seed=0).train.names == data.train.names
    assert folder.load(pairs, seed=1).train.names != data.train.names
    for name, example in zip(data.test.names, data.test.examples, strict=True):
        np.testing.assert_array_equal(example["label"], np.asarray(Image.open(pairs / "masks" / f"{name}.png")))
        stored = np.asarray(Image.open(pairs / "images" / f"{name}.png"))
        np.testing.assert_allclose(example["image"][..., 0], stored / 255, atol=1e-7)
        assert example["image"].dtype == np.float32
        assert example["label"].dtype == np.int32


def test_images_too_large_to_keep_are_read_when_asked_for(pairs, monkeypatch):
    kept = folder.load(pairs, reduce=2)
    monkeypatch.setattr(folder, "_IN_MEMORY", 0)
    read = folder.load(pairs, reduce=2)
    for one, other in zip(kept.train.examples, read.train.examples, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])


@pytest.mark.parametrize("by", [2, 3])
@pytest.mark.parametrize("colored", [False, True])
def test_a_folder_read_smaller_has_means_and_the_most_frequent_labels(pairs, by, colored):
    rng = np.random.default_rng(1)
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
    for path in (pairs / "masks").iterdir():
        mask = rng.integers(0, 3, (12, 14)).astype(np.uint8)
        Image.fromarray(colors[mask] if colored else mask).save(path)
    options = {"labels": "#000000=a,#ff0000=b,#00ff00=c"} if colored else {}
    data = folder.load(pairs, reduce=by, **options)
    assert f"read at 1/{by} of its size" in data.description
    assert data.digest != folder.load(pairs, reduce=by + 1, **options).digest
    tied = 0
    for name, example in zip(data.train.names, data.train.examples, strict=True):
        image, mask = (np.asarray(Image.open(pairs / kind / f"{name}.png")) for kind in ("images", "masks"))
        if colored:
            mask = (mask[..., None, :] == colors).all(-1).argmax(-1)
        assert example["label"].shape == example["image"].shape[:2] == (12 // by, 14 // by)
        for row, column in np.ndindex(*example["label"].shape):
            block = np.s_[row * by : (row + 1) * by, column * by : (column + 1) * by]
            np.testing.assert_allclose(example["image"][row, column], image[block].mean() / 255, rtol=1e-6)
            values = mask[block].ravel().tolist()
            most = [v for v in values if values.count(v) == max(map(values.count, values))]
            tied += most[0] != most[-1]
            assert example["label"][row, column] == most[-1 if (row + column) % 2 else 0]
    assert tied
    with pytest.raises(ValueError, match=r"\.png: 14 × 12 pixels are too few for --reduce 13"):
        folder.load(pairs, reduce=13)


def test_masks_of_0_and_255_are_two_classes(pairs):
    for path in (pairs / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    data = folder.load(pairs)
    assert data.classes == ("0", "255")
    assert data.ignore_index is None
    assert set(np.unique(data.train.examples[0]["label"])) == {0, 1}


def test_255_among_labels_is_ignored(pairs):
    mask = np.asarray(Image.open(pairs / "masks" / "3.png")).copy()
    mask[0] = 255
    Image.fromarray(mask).save(pairs / "masks" / "3.png")
    data = folder.load(pairs)
    assert data.classes == ("0", "1")
    every = {n: e for s in (data.train, data.validation, data.test) for n, e in zip(s.names, s.examples, strict=True)}
    assert (every["3"]["label"][0] == data.ignore_index).all()


def test_palette_masks_give_their_indices(pairs):
    path = pairs / "masks" / "2.png"
    stored = np.asarray(Image.open(path))
    mask = Image.fromarray(stored)
    mask.putpalette([0, 0, 0, 255, 0, 0] + [7] * 762)
    mask.save(path)
    assert Image.open(path).mode == "P"
    data = folder.load(pairs)
    every = {n: e for s in (data.train, data.validation, data.test) for n, e in zip(s.names, s.examples, strict=True)}
    np.testing.assert_array_equal(every["2"]["label"], stored)


def test_one_colour_image_makes_all_three_channels(pairs):
    Image.new("RGB", (14, 12), (255, 0, 51)).save(pairs / "images" / "4.png")
    data = folder.load(pairs)
    assert data.channels == 3
    assert {e["image"].shape for e in data.train.examples} == {(12, 14, 3)}


def test_sixteen_bits_are_scaled_not_clipped(pairs):
    ramp = np.linspace(0, 65535, 12 * 14).reshape(12, 14).astype(np.uint16)
    Image.fromarray(ramp).save(pairs / "images" / "5.png")
    data = folder.load(pairs)
    every = {n: e for s in (data.train, data.validation, data.test) for n, e in zip(s.names, s.examples, strict=True)}
    np.testing.assert_allclose(every["5"]["image"][..., 0], ramp / 65535, atol=1 / 255)


def _corrupt(path):
    (path / "images" / "1.png").write_bytes(b"not an image")


def _cut_short(path):
    file = path / "images" / "1.png"
    file.write_bytes(file.read_bytes()[:60])


def _without_mask(path):
    (path / "masks" / "1.png").unlink()


def _without_image(path):
    (path / "images" / "1.png").unlink()


def _unequal(path):
    Image.new("L", (14, 13)).save(path / "masks" / "1.png")


def _colour_mask(path):
    Image.new("RGB", (14, 12), (255, 0, 0)).save(path / "masks" / "1.png")


def _same_stem(path):
    Image.new("L", (14, 12)).save(path / "images" / "1.bmp")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_corrupt, r"images/1\.png: cannot be read as an image"),
        (_cut_short, r"images/1\.png: cannot be read as an image"),
        (_without_mask, r"images/1\.png: there is no mask named 1\.\*"),
        (_without_image, r"masks/1\.png: there is no image named 1\.\*"),
        (_unequal, r"masks/1\.png: the mask is 14 × 13 pixels, its image 1\.png is 14 × 12"),
        (_colour_mask, r"masks/1\.png: a mask has one value per pixel, and .* hold colors .*--labels '#000000=NAME,"),
        (_same_stem, r"images/1\.png: 1\.bmp beside it has the same name"),
    ],
)
def test_what_is_wrong_is_named(pairs, harm, message):
    harm(pairs)
    with pytest.raises(ValueError, match=message):
        folder.load(pairs)


def test_a_label_out_of_range_is_named(tmp_path):
    for name in ("train", "trainannot", "val", "valannot", "test", "testannot"):
        (tmp_path / name).mkdir()
        Image.new("L" if "annot" in name else "RGB", (8, 8), 0).save(tmp_path / name / "a.png")
    assert len(folder.load(tmp_path, "camvid").test) == 1
    Image.new("L", (8, 8), 12).save(tmp_path / "valannot" / "a.png")
    with pytest.raises(ValueError, match=r"valannot/a\.png: the mask holds 12; allowed are 0, 1, .*11"):
        folder.load(tmp_path, "camvid")


def test_more_labels_than_a_byte_holds_are_refused(pairs):
    Image.fromarray(np.full((12, 14), 300, np.uint16)).save(pairs / "masks" / "1.png")
    with pytest.raises(ValueError, match="labels up to 300; allowed are 0 to 254"):
        folder.load(pairs)


def test_masks_of_one_value_are_refused(pairs):
    for path in (pairs / "masks").iterdir():
        Image.new("L", (14, 12)).save(path)
    with pytest.raises(ValueError, match=r"the values \[0\] only: there is nothing to tell apart"):
        folder.load(pairs)


def test_missing_folders_unknown_layouts_and_too_few_images(pairs, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        folder.load(pairs / "nowhere")
    with pytest.raises(FileNotFoundError, match="train: there is no such folder"):
        folder.load(pairs, "camvid")
    with pytest.raises(ValueError, match=r"'canvid' is not known\. .*camvid"):
        folder.load(pairs, "canvid")
    for i in range(2, 10):
        (pairs / "images" / f"{i}.png").unlink()
        (pairs / "masks" / f"{i}.png").unlink()
    with pytest.raises(ValueError, match="2 images are too few"):
        folder.load(pairs)
    empty = tmp_path_factory.mktemp("empty")
    (empty / "images").mkdir()
    (empty / "masks").mkdir()
    with pytest.raises(ValueError, match="images: no images here"):
        folder.load(empty)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared images lie beside the checkout only where it is developed")
@pytest.mark.parametrize(
    ("layout", "sizes", "shape", "classes"),
    [("camvid", (92, 26, 30), (360, 480, 3), 11), ("isbi2012", (20, 4, 4), (512, 512, 1), 2)],
)
def test_known_layouts(layout, sizes, shape, classes):
    data = folder.load(SHARED / layout, layout)
    assert tuple(len(s) for s in (data.train, data.validation, data.test)) == sizes
    assert data.train.examples[0]["image"].shape == shape
    assert len(data.classes) == classes
    found = set().union(*(np.unique(e["label"]).tolist() for e in data.test.examples))
    assert found <= set(range(classes)) | {data.ignore_index}


@pytest.mark.skipif(not SHARED.exists(), reason="the shared images lie beside the checkout only where it is developed")
def test_sections_of_a_stack_are_split_in_order_with_a_gap():
    data = folder.load(SHARED / "isbi2012", "isbi2012")
    parts = [[int(n) for n in s.names] for s in (data.train, data.validation, data.test)]
    assert parts == [list(range(20)), list(range(21, 25)), list(range(26, 30))]
