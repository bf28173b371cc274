"""Images of every depth, orientation and number of pages: read without loss, in ranges found over the set."""

import os
import unicodedata

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from experiments import files
from experiments.data import PARTS, folder, identity, pixels

ROWS, COLUMNS = 12, 16
RNG = np.random.default_rng(0)
MASK = np.uint8(np.indices((ROWS, COLUMNS)).sum(0) > 13)


def folder_of(path, images, ending=".tif", save=tifffile.imwrite, names=None):
    """A folder of pairs with these images, and one mask for all."""
    for kind in ("images", "masks"):
        (path / kind).mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        name = names[i] if names else str(i)
        save(path / "images" / f"{name}{ending}", image)
        Image.fromarray(MASK).save(path / "masks" / f"{name}.png")
    return path


def images(data):
    """Every image by name."""
    parts = (getattr(data, part) for part in PARTS)
    return {n: e["image"] for s in parts for n, e in zip(s.names, s.examples, strict=True)}


def noise(high, dtype, count=8, low=0):
    values = RNG.uniform(low, high, (count, ROWS, COLUMNS))
    values[0, 0, :2] = low, high
    return values.astype(dtype)


def said(data, text):
    return any(text in note for note in data.notes)


@pytest.mark.parametrize(
    ("stored", "low", "high"),
    [
        (noise(1, np.float32), 0, 1),
        (noise(255, np.uint8).astype(np.float32), 0, 255),  # bytes stored as floating numbers
        (noise(5.5, np.float32, low=-2.5), -2.5, 5.5),
        (noise(4095, np.uint16), 0, 4095),  # 12 bits of a camera
        (noise(200, np.uint16), 0, 255),
        (noise(65535, np.uint16), 0, 65535),
        (noise(1000, np.int32), 0, 1023),
        (noise(3000, np.int32, low=-1024), -1024, 3000),  # Hounsfield units
        (noise(70000, np.int32), 0, 70000),
        (noise(900, np.int16, low=-100), -100, 900),
        (noise(100, np.int8, low=-50), -50, 100),
        (noise(4e9, np.uint32), 0, 4e9),  # more than a signed number of 32 bits holds
    ],
)
def test_ranges_are_found_over_the_set_and_stated(tmp_path, stored, low, high):
    data = folder.load(folder_of(tmp_path, list(stored)))
    assert said(data, f"images: {low:g} becomes 0 and {high:g} becomes 1")
    assert data.channels == 1
    for name, image in images(data).items():
        expected = (stored[int(name)].astype(np.float64) - low) / (high - low)
        np.testing.assert_allclose(image[..., 0], expected, atol=2e-7)


def test_a_range_that_is_told_is_kept_and_cuts(tmp_path):
    stored = noise(3000, np.int32, low=-1024)
    data = folder.load(folder_of(tmp_path, list(stored)), intensities=(-100.0, 300.0))
    expected = np.clip((stored[3] + 100.0) / 400, 0, 1)
    np.testing.assert_allclose(images(data)["3"][..., 0], expected, atol=1e-6)


def test_twelve_bits_keep_all_their_grey_levels(tmp_path):
    ramp = np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS) * 21
    data = folder.load(folder_of(tmp_path, [ramp] * 8, ".png", cv2_write))
    assert len(np.unique(images(data)["0"])) == ROWS * COLUMNS


def cv2_write(path, array):
    cv2.imwrite(str(path), array)


@pytest.mark.parametrize("kind", ["png", "png with alpha", "tiff", "big-endian tiff", "deflated tiff"])
def test_colors_of_sixteen_bits_are_read_whole(tmp_path, kind):
    colors = RNG.integers(0, 65535, (ROWS, COLUMNS, 3)).astype(np.uint16)
    path = tmp_path / ("image.png" if "png" in kind else "image.tif")
    if kind == "png":
        cv2.imwrite(str(path), colors[..., ::-1])
    elif kind == "png with alpha":
        cv2.imwrite(str(path), np.concatenate([colors[..., ::-1], colors[..., :1]], -1))
    else:
        options = {"big-endian tiff": {"byteorder": ">"}, "deflated tiff": {"compression": "deflate"}}.get(kind, {})
        tifffile.imwrite(path, colors, photometric="rgb", **options)
    look = pixels.Content(path).image()
    assert look.depth == "16-bit"
    np.testing.assert_array_equal(look.array, colors)


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (np.zeros((3, ROWS, COLUMNS), np.uint16), {"photometric": "rgb", "planarconfig": "separate"}),
        (np.zeros((ROWS, COLUMNS, 3), np.float32), {"photometric": "rgb"}),
        (np.zeros((ROWS, COLUMNS)), {}),  # float64
    ],
)
def test_what_cannot_be_read_without_loss_is_refused(tmp_path, array, options):
    tifffile.imwrite(tmp_path / "image.tif", array, **options)
    with pytest.raises(ValueError, match=r"image\.tif: cannot be read as an image"):
        pixels.Content(tmp_path / "image.tif").image()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_an_image_as_pillow_does(tmp_path, orientation):
    stored = Image.fromarray(noise(255, np.uint8)[0])
    exif = stored.getexif()
    exif[0x0112] = orientation
    for ending in ("png", "jpg"):
        stored.save(tmp_path / f"a.{ending}", exif=exif, quality=100)
        look = pixels.Content(tmp_path / f"a.{ending}").image()
        with Image.open(tmp_path / f"a.{ending}") as opened:
            np.testing.assert_array_equal(look.array, np.asarray(ImageOps.exif_transpose(opened)))
        assert look.turned == (orientation != 1)


def test_a_turned_photograph_fits_its_upright_mask(tmp_path):
    path = folder_of(tmp_path, list(noise(255, np.uint8)), ".png", cv2_write)
    lying = Image.fromarray(noise(255, np.uint8)[0].T)
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(path / "images" / "3.png", exif=exif)
    data = folder.load(path)
    assert said(data, "1 images are turned as their EXIF says")
    np.testing.assert_allclose(images(data)["3"][..., 0] * 255, np.asarray(lying).T[:, ::-1], atol=1e-4)
    Image.fromarray(MASK.T).save(path / "masks" / "3.png")  # drawn on the picture as it lies in the file
    with pytest.raises(ValueError, match=r"3\.png: the mask is 12 × 16 pixels, .* 16 × 12 once it is turned"):
        folder.load(path)


def test_odd_images_are_named(tmp_path):
    stored = noise(1, np.float32)
    stored[5] = 0.25
    path = folder_of(tmp_path, list(stored))
    data = folder.load(path)
    assert said(data, f"1 images are one value all over ({path / 'images' / '5.tif'})")
    stored[2, 3, 3] = np.nan
    tifffile.imwrite(path / "images" / "2.tif", stored[2])
    with pytest.raises(ValueError, match=r"images/2\.tif: the image holds numbers that are not finite"):
        folder.load(path)


def test_mixed_depths_are_a_warning_that_names_a_file(tmp_path):
    path = folder_of(tmp_path, list(noise(255, np.uint8)))
    tifffile.imwrite(path / "images" / "6.tif", np.full((ROWS, COLUMNS), 1023, np.uint16))
    data = folder.load(path)
    assert said(data, f"several depths (7 of 8-bit, 1 of 16-bit), each scaled by its own: {path / 'images' / '6.tif'}")
    assert images(data)["6"].min() == 1


def test_images_in_other_units_than_the_rest_are_named(tmp_path):
    stored = noise(1, np.float32)
    stored[3] *= 255
    data = folder.load(folder_of(tmp_path, list(stored)))
    assert said(data, "7 images span less than a hundredth of that range")
    stored = noise(255, np.uint8)
    stored[3] //= 64  # dark, not black
    assert not said(folder.load(folder_of(tmp_path / "dark", list(stored))), "hundredth")


def stack(path, name, pages):
    tifffile.imwrite(path / "images" / f"{name}.tif", noise(255, np.uint8, pages), photometric="minisblack")
    tifffile.imwrite(
        path / "masks" / f"{name}.tif", np.stack([np.roll(MASK, i) for i in range(pages)]), photometric="minisblack"
    )


def test_every_page_of_a_volume_is_an_image_and_neighbors_are_not_torn_apart(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    stack(tmp_path, "volume", 14)
    data = folder.load(tmp_path)
    stored = tifffile.imread(tmp_path / "images" / "volume.tif")
    parts = [[int(n.removeprefix("volume:")) for n in getattr(data, part).names] for part in PARTS]
    assert parts == [[*range(1, 9)], [10, 11], [13, 14]]
    for name, image in images(data).items():
        np.testing.assert_allclose(image[..., 0] * 255, stored[int(name[7:]) - 1], atol=1e-4)
    np.testing.assert_array_equal(data.train.examples[2]["label"], np.roll(MASK, 2))
    assert not said(data, "held-out")  # pages of one file, whose digest they share


def test_several_volumes_stay_whole(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for name in "abcde":
        stack(tmp_path, name, 3)
    data = folder.load(tmp_path)
    parts = [{n[0] for n in getattr(data, part).names} for part in PARTS]
    assert [len(p) for p in parts] == [3, 1, 1]
    assert set.union(*parts) == set("abcde")
    assert len(data.test) == 3
    tifffile.imwrite(tmp_path / "masks" / "c.tif", np.stack([MASK] * 2), photometric="minisblack")
    with pytest.raises(ValueError, match=r"masks/c\.tif: the mask has 2 pages, its image c\.tif has 3"):
        folder.load(tmp_path)


def test_pages_are_read_anew_where_memory_is_short(tmp_path, monkeypatch):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    stack(tmp_path, "volume", 14)
    kept = folder.load(tmp_path)
    monkeypatch.setattr(folder, "_IN_MEMORY", 0)
    for one, other in zip(kept.test.examples, folder.load(tmp_path).test.examples, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])


def test_names_match_in_either_form_of_unicode_and_sort_whatever_they_hold(tmp_path):
    names = ["é1", "5²", "10", "9", "½", "٣", "a 1", "ü"]
    path = folder_of(tmp_path, list(noise(255, np.uint8)), ".png", cv2_write, names)
    for file in (path / "masks").iterdir():
        file.rename(file.with_name(unicodedata.normalize("NFD", file.name)))
    data = folder.load(path)
    assert set(images(data)) == {unicodedata.normalize("NFC", name) for name in names}


def test_names_that_are_not_utf_8_can_be_stored(tmp_path):
    names = [os.fsdecode(b"caf\xe9"), *"abcdefg"]
    path = folder_of(tmp_path, list(noise(255, np.uint8)), ".png", pillow_write, names)
    data = folder.load(path)
    assert r"caf\xe9" in images(data)
    stored = files.write_json(tmp_path / "data.json", identity(data))
    assert files.read_json(tmp_path / "data.json") == stored
    # The folder's own name, and any path that a run stores.
    odd = {"path": os.fsdecode(b"/data/caf\xe9")}
    files.write_json(tmp_path / "odd.json", odd)
    assert files.read_json(tmp_path / "odd.json") == odd
    assert (tmp_path / "odd.json").read_bytes().decode("utf-8")


def pillow_write(path, array):
    Image.fromarray(array).save(path)


def test_images_in_two_parts_are_told(tmp_path):
    path = folder_of(tmp_path, list(noise(255, np.uint8)), ".png", cv2_write)
    first = (path / "images" / "0.png").read_bytes()
    for i in range(1, 8):
        (path / "images" / f"{i}.png").write_bytes(first)
    assert said(folder.load(path), "2 held-out images are training images too")


def test_a_folder_is_named_the_same_however_its_path_is_written(tmp_path, monkeypatch):
    path = folder_of(tmp_path / "cells", list(noise(255, np.uint8)), ".png", cv2_write)
    (tmp_path / "link").symlink_to(path)
    monkeypatch.chdir(path)
    spelled = [folder.load(p) for p in (path, tmp_path / "link", path / "images" / "..", path.relative_to(path))]
    assert {data.name for data in spelled} == {"cells"}
    assert len({data.digest for data in spelled}) == 1


def test_the_digest_tells_files_parts_and_meaning_apart(tmp_path):
    path = folder_of(tmp_path, list(noise(255, np.uint8)), ".png", cv2_write)
    first = folder.load(path).digest
    assert folder.load(path).digest == first
    assert folder.load(path, seed=1).digest != first
    assert folder.load(path, labels="1=a,0=b").digest != first
    assert folder.load(path, intensities=(0.0, 200.0)).digest != first
    Image.fromarray(noise(255, np.uint8)[1]).save(path / "images" / "3.png")
    assert folder.load(path).digest != first
