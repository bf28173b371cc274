"""Published data sets as their authors lay them out, and a user's own, drawn in small."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from experiments.data import PARTS, coco, folder, published

ROWS, COLUMNS = 12, 16
COLOR = np.random.default_rng(0).integers(0, 255, (ROWS, COLUMNS, 3)).astype(np.uint8)


def draw(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def mask(*values):
    """Columns of these values."""
    return np.repeat(np.asarray(values, np.uint8), -(-COLUMNS // len(values)))[None, :COLUMNS].repeat(ROWS, 0)


def names(data):
    return {part: list(getattr(data, part).names) for part in PARTS}


def labels(data, part="test", i=0):
    return sorted(np.unique(getattr(data, part).examples[i]["label"]).tolist())


def test_cityscapes(tmp_path):
    for part, count in (("train", 10), ("val", 2)):
        for i in range(count):
            name = f"bonn_{i:06}_000019"
            draw(tmp_path / "leftImg8bit" / part / "bonn" / f"{name}_leftImg8bit.png", COLOR)
            draw(tmp_path / "gtFine" / part / "bonn" / f"{name}_gtFine_labelIds.png", mask(7, 33, 4, 255))
            draw(tmp_path / "gtFine" / part / "bonn" / f"{name}_gtFine_color.png", COLOR)
    data = folder.load(tmp_path, "cityscapes")
    assert len(data.classes) == 19
    assert (data.classes[0], data.classes[18], data.ignore_index) == ("road", "bicycle", 19)
    assert labels(data) == [0, 18, 19]
    # The masks of the published test part are withheld: what is published for validation is the test here.
    assert [len(n) for n in names(data).values()] == [9, 1, 2]
    assert names(data)["test"] == ["bonn_000000_000019", "bonn_000001_000019"]


def test_voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for i in range(14):
        draw(root / "JPEGImages" / f"2007_{i}.jpg", COLOR)
        draw(root / "SegmentationClass" / f"2007_{i}.png", mask(0, 15, 255, 20))
    draw(root / "JPEGImages" / "2008_1.jpg", COLOR)  # most images of VOC have no mask
    write(root / "ImageSets" / "Segmentation" / "train.txt", "\n".join(f"2007_{i}" for i in range(10)))
    write(root / "ImageSets" / "Segmentation" / "val.txt", "\n".join(f"2007_{i}" for i in range(10, 14)) + "\n")
    data = folder.load(tmp_path, "voc")
    assert (len(data.classes), data.classes[15], data.ignore_index) == (21, "person", 21)
    assert labels(data) == [0, 15, 20, 21]
    assert names(data)["test"] == [f"2007_{i}" for i in range(10, 14)]
    (root / "SegmentationClass" / "2007_11.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2007_11\.png: there is no such file\. .*val\.txt names it"):
        folder.load(tmp_path, "voc")


def test_oxford_pet_has_two_classes_and_a_border_that_does_not_count(tmp_path):
    for i in range(14):
        draw(tmp_path / "images" / f"Abyssinian_{i}.jpg", COLOR)
        draw(tmp_path / "annotations" / "trimaps" / f"Abyssinian_{i}.png", mask(1, 3, 2))
        write(tmp_path / "annotations" / "trimaps" / f"._Abyssinian_{i}.png", "what a Mac leaves behind")
    lines = [f"Abyssinian_{i} 1 1 1" for i in range(14)]
    write(tmp_path / "annotations" / "trainval.txt", "\n".join(lines[:11]))
    write(tmp_path / "annotations" / "test.txt", "\n".join(["#Image CLASS-ID SPECIES BREED ID", *lines[11:]]))
    data = folder.load(tmp_path, "oxford-pet")
    assert (data.classes, data.ignore_index) == (("background", "pet"), 2)
    label = data.test.examples[0]["label"][0]
    assert (label[0], label[7], label[-1]) == (1, 2, 0)
    assert [len(n) for n in names(data).values()] == [10, 1, 3]


def test_ade20k(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for folder_name, part, count in (("training", "train", 10), ("validation", "val", 2)):
        for i in range(count):
            draw(root / "images" / folder_name / f"ADE_{part}_{i:08}.jpg", COLOR)
            draw(root / "annotations" / folder_name / f"ADE_{part}_{i:08}.png", mask(0, 1, 150))
    data = folder.load(tmp_path, "ade20k")
    assert len(data.classes) == len(set(data.classes)) == 150
    assert (data.classes[0], data.classes[12], data.classes[149]) == ("wall", "person", "flag")
    assert labels(data) == [0, 149, 150]
    assert len(data.test) == 2


def test_isbi2012_as_its_organizers_pack_it(tmp_path):
    volume = np.arange(30, dtype=np.uint8)[:, None, None] + np.zeros((30, ROWS, COLUMNS), np.uint8)
    volume[:, 0] = 100
    tifffile.imwrite(tmp_path / "train-volume.tif", volume, photometric="minisblack")
    tifffile.imwrite(tmp_path / "train-labels.tif", np.stack([mask(0, 255)] * 30), photometric="minisblack")
    data = folder.load(tmp_path, "isbi2012")
    assert data.classes == ("membrane", "cell")
    places = [[int(n.rpartition(":")[2]) - 1 for n in of] for of in names(data).values()]
    assert places == [[*range(20)], [*range(21, 25)], [*range(26, 30)]]  # as with single files
    np.testing.assert_allclose(data.test.examples[1]["image"][5, 5] * 255, 27, atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_nnunet_volumes_are_split_by_case(tmp_path, version):
    nibabel = pytest.importorskip("nibabel")
    listed = {"0": "background", "1": "liver", "2": "tumor"}
    told = listed if version == 1 else {name: int(value) for value, name in listed.items()} | {"ignore": 3}
    write(tmp_path / "dataset.json", json.dumps({"labels": told, "file_ending": ".nii.gz"}))
    volume = np.random.default_rng(0).integers(-1000, 1000, (COLUMNS, ROWS, 3)).astype(np.int16)
    values = [0, 1, 2] if version == 1 else [0, 1, 3]
    truth = np.stack([np.roll(mask(*values), k, 1).T for k in range(3)], -1)
    for kind in ("imagesTr", "labelsTr"):
        (tmp_path / kind).mkdir()
    for case in "abcdefg":
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "imagesTr" / f"liver_{case}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(truth, np.eye(4)), tmp_path / "labelsTr" / f"liver_{case}.nii.gz")
    data = folder.load(tmp_path, "nnunet")
    assert data.classes == ("background", "liver", "tumor")
    assert data.ignore_index == (None if version == 1 else 3)
    assert [len({n.partition(":")[0] for n in of}) for of in names(data).values()] == [5, 1, 1]
    assert [len(of) for of in names(data).values()] == [15, 3, 3]
    low, high = int(volume.min()), int(volume.max())
    assert any(f"{low} becomes 0 and {high} becomes 1" in note for note in data.notes)
    image, label = data.test.examples[1]["image"][..., 0], data.test.examples[1]["label"]
    np.testing.assert_allclose(image, (volume[:, ::-1, 1].T - low) / (high - low), atol=1e-6)
    np.testing.assert_array_equal(label, truth[:, ::-1, 1].T)


def test_nnunet_images_of_three_channels(tmp_path):
    write(tmp_path / "dataset.json", json.dumps({"labels": {"background": 0, "road": 1}, "file_ending": ".png"}))
    for i in range(8):
        draw(tmp_path / "labelsTr" / f"case{i}.png", mask(0, 1))
        for k in range(3):
            draw(tmp_path / "imagesTr" / f"case{i}_000{k}.png", COLOR[..., k])
    data = folder.load(tmp_path, "nnunet")
    np.testing.assert_allclose(data.test.examples[0]["image"] * 255, COLOR, atol=1e-4)
    (tmp_path / "imagesTr" / "case3_0002.png").unlink()
    with pytest.raises(ValueError, match=r"case3\.png: it needs one or three channels .* got 2"):
        folder.load(tmp_path, "nnunet")


SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]


def instances(count, first=0, counts=None):
    crowd = {"counts": counts or [0, 3, ROWS * COLUMNS - 3], "size": [ROWS, COLUMNS]}
    return {
        "images": [
            {"id": first + i, "file_name": f"{first + i:012}.jpg", "height": ROWS, "width": COLUMNS}
            for i in range(count)
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [
            entry
            for i in range(count - 1)  # the last image is all background
            for entry in (
                {"image_id": first + i, "category_id": 18, "segmentation": SQUARE, "area": 12, "iscrowd": 0},
                {"image_id": first + i, "category_id": 3, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]], "area": 81},
                {"image_id": first + i, "category_id": 3, "segmentation": crowd, "area": 3, "iscrowd": 1},
            )
        ],
    }


def test_coco(tmp_path):
    for part, count, first in (("train2017", 10, 0), ("val2017", 3, 20)):
        for i in range(count):
            draw(tmp_path / part / f"{first + i:012}.jpg", COLOR)
        write(tmp_path / "annotations" / f"instances_{part}.json", json.dumps(instances(count, first)))
    data = folder.load(tmp_path, "coco")
    assert (data.classes, data.ignore_index) == (("background", "car", "dog"), 3)
    expected = np.zeros((ROWS, COLUMNS), int)
    expected[:9, :9] = 1
    expected[1:4, 2:6] = 2  # the smaller is in front
    expected[:3, 0] = 3  # a crowd does not count; its run goes down the column
    np.testing.assert_array_equal(data.test.examples[0]["label"], expected)
    assert labels(data, i=2) == [0]
    (tmp_path / "val2017" / "000000000021.jpg").unlink()
    with pytest.raises(ValueError, match=r"000000000021\.jpg: there is no such file; instances_val2017\.json names it"):
        folder.load(tmp_path, "coco")


def test_coco_beside_its_images(tmp_path):
    for part, count, first in (("train", 6, 0), ("valid", 2, 20), ("test", 2, 30)):
        for i in range(count):
            draw(tmp_path / part / f"{first + i:012}.jpg", COLOR)
        write(tmp_path / part / "_annotations.coco.json", json.dumps(instances(count, first)))
    assert [len(n) for n in names(folder.load(tmp_path, "coco")).values()] == [6, 2, 2]


def test_coco_that_cannot_be_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the layout coco needs .*instances_train\*\.json"):
        folder.load(tmp_path, "coco")
    for part, count, first in (("train", 6, 0), ("valid", 2, 20)):
        for i in range(count):
            draw(tmp_path / part / f"{first + i:012}.jpg", COLOR)
        write(tmp_path / part / "_annotations.coco.json", json.dumps(instances(count, first)))
    other = instances(2, 20) | {"categories": [{"id": 18, "name": "dog"}]}
    write(tmp_path / "valid" / "_annotations.coco.json", json.dumps(other | {"annotations": []}))
    with pytest.raises(ValueError, match="the parts have other categories than one another"):
        folder.load(tmp_path, "coco")
    write(tmp_path / "valid" / "_annotations.coco.json", json.dumps(other))
    with pytest.raises(
        ValueError, match=r"_annotations\.coco\.json: not COCO's annotations of instances \(KeyError\(3\)"
    ):
        folder.load(tmp_path, "coco")


def test_nnunet_that_cannot_be_is_named(tmp_path):
    for told, message in (
        ("{", r"dataset\.json: not JSON"),
        ('{"labels": {"background": 0, "tumor": [1, 2]}}', r"dataset\.json: its labels must be name to number"),
    ):
        draw(tmp_path / "imagesTr" / "a_0000.png", COLOR[..., 0])
        draw(tmp_path / "labelsTr" / "a.png", mask(0, 1))
        write(tmp_path / "dataset.json", told)
        with pytest.raises(ValueError, match=message):
            folder.load(tmp_path, "nnunet")


def packed(counts):
    """Run lengths as COCO packs them: the inverse of `coco.unpack`, written from the format's description."""
    text = ""
    for i, value in enumerate(counts):
        rest = value - counts[i - 2] if i > 2 else value
        while True:
            piece, rest = rest & 31, rest >> 5
            more = rest != (-1 if piece & 16 else 0)
            text += chr(48 + (piece | 32 if more else piece))
            if not more:
                break
    return text


def test_packed_run_lengths():
    for counts in ([0, 3, 189], [5, 2, 1000, 7, 3, 70000, 1], [100, 40, 3, 39]):
        assert coco.unpack(packed(counts)) == counts
    assert coco._inside({"counts": packed([0, 3, 3]), "size": [2, 3]}, (2, 3)).tolist() == [
        [True, True, False],
        [True, False, False],
    ]
    with pytest.raises(ValueError, match="run lengths"):
        coco._inside({"counts": [1, 2], "size": [2, 3]}, (2, 3))


def test_polygons_cover_the_pixels_whose_centers_they_hold():
    inside = coco._inside([[0.4, 0.4, 3.6, 0.4, 3.6, 2.4, 0.4, 2.4]], (4, 5))
    assert np.argwhere(inside).tolist() == [[r, c] for r in (0, 1) for c in (0, 1, 2, 3)]


def test_camvid_and_isbi2012_mean_what_they_did():
    assert (len(published.CAMVID.classes), published.CAMVID.ignored) == (11, {11})
    assert published.ISBI2012.labels == {0: 0, 255: 1}


# --- a user's own -----------------------------------------------------------------------------------------------------


def pairs(path, images, masks, count=8, first=0, name="{}", mask_name="{}"):
    for i in range(first, first + count):
        draw(path / images / f"{name.format(i)}.jpg", COLOR)
        draw(path / masks / f"{mask_name.format(i)}.png", mask(0, 1))


@pytest.mark.parametrize("tree", ["{part}/images", "images/{part}"])
@pytest.mark.parametrize("spelled", ["val", "validation"])
def test_parts_in_folders_of_their_own(tmp_path, tree, spelled):
    for part, count, first in (("train", 4, 0), (spelled, 2, 4), ("test", 3, 6)):
        images = tree.format(part=part)
        pairs(tmp_path, images, images.replace("images", "labels"), count, first)
    assert names(folder.load(tmp_path)) == {
        "train": ["0", "1", "2", "3"],
        "validation": ["4", "5"],
        "test": ["6", "7", "8"],
    }


def test_two_parts_alone_are_training_and_test(tmp_path):
    pairs(tmp_path, "train/images", "train/masks", 10)
    pairs(tmp_path, "val/images", "val/masks", 2, 10)
    data = folder.load(tmp_path)
    assert [len(n) for n in names(data).values()] == [9, 1, 2]
    assert names(data)["test"] == ["10", "11"]


def test_lists_say_the_parts(tmp_path):
    pairs(tmp_path, "images", "masks", 9)
    write(tmp_path / "train.txt", "0\n3.jpg\nimages/5.jpg\n")
    write(tmp_path / "val.txt", "1\n")
    write(tmp_path / "test.txt", "7\n2\n")
    data = folder.load(tmp_path)
    assert names(data) == {"train": ["0", "3", "5"], "validation": ["1"], "test": ["7", "2"]}
    assert any("3 images are in no list" in note for note in data.notes)
    write(tmp_path / "test.txt", "7\n3\n")
    with pytest.raises(ValueError, match=r"test\.txt: 3 is in train\.txt too"):
        folder.load(tmp_path)
    write(tmp_path / "test.txt", "77\n")
    with pytest.raises(ValueError, match=r"test\.txt: it lists 77, of which there is no image"):
        folder.load(tmp_path)


def test_masks_with_a_suffix(tmp_path):
    pairs(tmp_path, "images", "masks", mask_name="{}_mask")
    with pytest.raises(ValueError, match=r"no mask named 0.*--mask-suffix _mask"):
        folder.load(tmp_path)
    assert len(folder.load(tmp_path, mask_suffix="_mask").train) == 6


def test_masks_beside_their_images(tmp_path):
    pairs(tmp_path, ".", ".", mask_name="{}_seg")
    data = folder.load(tmp_path, mask_suffix="_seg")
    assert sorted([n for of in names(data).values() for n in of]) == [str(i) for i in range(8)]


def test_images_without_masks_are_left_out_where_that_is_said(tmp_path):
    pairs(tmp_path, "images", "masks")
    draw(tmp_path / "images" / "extra.jpg", COLOR)
    with pytest.raises(ValueError, match=r"extra\.jpg: there is no mask named extra\.\* .*--unlabeled skip"):
        folder.load(tmp_path)
    data = folder.load(tmp_path, unlabeled="skip")
    assert len([n for of in names(data).values() for n in of]) == 8
    assert any("1 images without a mask are left out (extra.jpg)" in note for note in data.notes)
