"""What masks mean: label maps as they stand, or the option that settles it; nothing is misread in silence."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.data import folder, labels

SIDE = 16


def discs(count=8):
    """Filled discs, as truth values."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((SIDE, SIDE)) + 0.5
    return [np.hypot(rows - rng.uniform(6, 10), columns - rng.uniform(6, 10)) < rng.uniform(3, 6) for _ in range(count)]


def folder_of(path, masks, suffix=".png"):
    """A folder of pairs with these masks: arrays, or images that Pillow saves."""
    for kind in ("images", "masks"):
        (path / kind).mkdir(parents=True)
    for i, mask in enumerate(masks):
        grey = (np.arange(SIDE * SIDE, dtype=np.uint8) + i).reshape(SIDE, SIDE)
        Image.fromarray(grey).save(path / "images" / f"{i}.png")
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        image.save(path / "masks" / f"{i}{suffix}")
    return path


def label_maps(data):
    """The label map of every image by name."""
    parts = (data.train, data.validation, data.test)
    return {n: e["label"] for s in parts for n, e in zip(s.names, s.examples, strict=True)}


def byte(array):
    return np.asarray(array, np.uint8)


def test_masks_saved_as_jpeg_are_refused_and_settled_by_ranges(tmp_path):
    masks = discs()
    path = folder_of(tmp_path, [byte(255 * m) for m in masks], ".jpg")
    with pytest.raises(
        labels.Misread, match=r"hold \d+ values .*JPEG.*--labels 0-127=background,128-255=NAME"
    ) as found:
        folder.load(path)
    assert len(found.value.census.rows) > 20
    data = folder.load(path, labels="0-127=background,128-255=cell")
    assert data.classes == ("background", "cell")
    assert data.ignore_index is None
    assert any("8 masks are JPEG" in note for note in data.notes)
    for name, label in label_maps(data).items():
        stored = np.asarray(Image.open(path / "masks" / f"{name}.jpg"))
        np.testing.assert_array_equal(label, stored > 127)


def test_small_labels_saved_as_jpeg_are_refused_though_there_is_no_gap(tmp_path):
    """What JPEG makes of 0 and 2 is 0 to 4."""
    path = folder_of(tmp_path, [byte(2 * m) for m in discs()], ".jpg")
    with pytest.raises(
        labels.Misread, match=r"8 of 8 masks are JPEG.*0 .*, 4 .*may be no labels\..*--labels 0=NAME,1="
    ):
        folder.load(path)
    assert folder.load(path, labels="0=background,1-9=cell").classes == ("background", "cell")


def test_soft_edges_are_refused(tmp_path):
    soft = [np.asarray(Image.fromarray(byte(255 * m)).resize((40, 40)).resize((SIDE, SIDE))) for m in discs()]
    with pytest.raises(labels.Misread, match="smoothed"):
        folder.load(folder_of(tmp_path, soft))


@pytest.mark.parametrize(
    ("levels", "message", "option", "classes"),
    [
        (
            (0, 85, 170, 255),
            r"0 .*, 85 .*, 170 .*, 255 .*which are no labels.*1, 2, \.\.\., 169 are missing.*--labels "
            r"0=NAME,85=NAME,170=NAME,255=NAME",
            "0=sky,85=road,170=car,255=tree",
            ("sky", "road", "car", "tree"),
        ),
        ((0, 128), r"1, 2, \.\.\., 127 are missing.*--labels 0=NAME,128=NAME", "0=rest,128=cell", ("rest", "cell")),
        ((1, 2), r"0 is missing.*--labels 1=NAME,2=NAME", "1=rest,2=cell", ("rest", "cell")),
        # Oxford-IIIT Pet's trimaps given as pairs.
        ((1, 2, 3), r"0 is missing.*--labels 1=NAME,2=NAME,3=NAME", "1=pet,2=rest,3=edge", ("pet", "rest", "edge")),
    ],
)
def test_values_with_gaps_are_refused_and_settled_by_names(tmp_path, levels, message, option, classes):
    rng = np.random.default_rng(0)
    masks = [rng.choice(levels, (SIDE, SIDE)).astype(np.uint8) for _ in range(8)]
    path = folder_of(tmp_path, masks)
    with pytest.raises(labels.Misread, match=message):
        folder.load(path)
    data = folder.load(path, labels=option)
    assert data.classes == classes
    for name, label in label_maps(data).items():
        np.testing.assert_array_equal(label, np.searchsorted(levels, masks[int(name)]))


def test_a_value_that_the_option_leaves_out_is_refused_or_ignored(tmp_path):
    masks = [byte(128 * m) for m in discs()]
    masks[3][0, :5] = 77
    path = folder_of(tmp_path, masks)
    with pytest.raises(labels.Misread, match=r"masks/3\.png: the mask holds 77; allowed are 0, 128"):
        folder.load(path, labels="0=rest,128=cell")
    data = folder.load(path, labels="0=rest,128=cell", ignore="77")
    assert data.ignore_index == 2
    np.testing.assert_array_equal(label_maps(data)["3"] == 2, masks[3] == 77)


def test_a_stray_label_does_not_turn_the_foreground_into_what_is_ignored(tmp_path):
    masks = [byte(255 * m) for m in discs()]
    masks[5][0, 0] = 1
    path = folder_of(tmp_path, masks)
    with pytest.raises(
        labels.Misread, match=r"255 would be ignored, and it is .*label 1 is below 0\.1 %, .*5\.png.*--labels"
    ):
        folder.load(path)
    assert folder.load(path, ignore="255").ignore_index == 2  # who says so may
    with pytest.raises(labels.Misread, match=r"5\.png: the mask holds 1"):
        folder.load(path, labels="0=rest,255=cell")


def test_a_mask_of_ones_among_masks_of_255_is_refused(tmp_path):
    """Two programs, two conventions: what one ignores is the other's foreground."""
    masks = [byte((1 if i < 5 else 255) * m) for i, m in enumerate(discs())]
    with pytest.raises(labels.Misread, match="255 would be ignored"):
        folder.load(folder_of(tmp_path, masks))


@pytest.mark.parametrize(("ignored", "refused"), [(4, False), (5, True)])  # of 16 rows: 25 %, 31 %
def test_much_that_would_be_ignored_is_refused_though_labels_are_more(tmp_path, ignored, refused):
    masks = [byte(np.indices((SIDE, SIDE))[0] % 2) for _ in range(8)]
    for mask in masks:
        mask[:ignored] = 255
    path = folder_of(tmp_path, masks)
    if refused:
        with pytest.raises(labels.Misread, match=r"255 would be ignored, and it is 31\.2% of all pixels.*--ignore 255"):
            folder.load(path)
    assert folder.load(path, ignore="255" if refused else None).ignore_index == 2


def test_a_thin_ignored_border_is_taken_as_it_is_meant(tmp_path):
    masks = [byte(m) for m in discs()]
    masks[2][0, :9] = 255
    data = folder.load(folder_of(tmp_path, masks))
    assert (data.classes, data.ignore_index) == (("0", "1"), 2)


def test_one_bit_masks_keep_their_foreground_beside_any_others(tmp_path):
    masks = discs()
    for name, level in (("ones", 1), ("bytes", 255)):
        mixed = [Image.fromarray(m) if i == 4 else Image.fromarray(byte(level * m)) for i, m in enumerate(masks)]
        path = folder_of(tmp_path / name, mixed)
        assert Image.open(path / "masks" / "4.png").mode == "1"
        data = folder.load(path)
        for i, label in label_maps(data).items():
            np.testing.assert_array_equal(label, masks[int(i)])
        assert any(f"1 masks have one bit per pixel (4.png); their ones are taken for {level}" in n for n in data.notes)
    data = folder.load(folder_of(tmp_path / "bits", [Image.fromarray(m) for m in masks]))
    np.testing.assert_array_equal(label_maps(data)["0"], masks[0])


def test_colored_masks_need_a_palette_and_are_read_by_it(tmp_path):
    colors = byte([[0, 0, 0], [128, 64, 128], [0, 255, 255]])
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 3, (SIDE, SIDE)) for _ in range(8)]
    path = folder_of(tmp_path / "data", [colors[m] for m in maps])
    with pytest.raises(labels.Misread, match=r"hold colors \(#000000 .*, #00ffff .*, #804080 .*--labels '#000000=NAME"):
        folder.load(path)
    data = folder.load(path, labels="#000000=void,#804080=road,#00ffff=car")
    assert data.classes == ("void", "road", "car")
    for name, label in label_maps(data).items():
        np.testing.assert_array_equal(label, maps[int(name)])
    ignoring = folder.load(path, labels="#804080=road,#00ffff=car", ignore="#000000")
    np.testing.assert_array_equal(label_maps(ignoring)["0"], (maps[0] + 2) % 3)
    listed = tmp_path / "colors.txt"
    listed.write_text("0 0 0\tvoid\n128 64 128\tmain road\n0 255 255\tcar\n")
    data = folder.load(path, classes=listed)
    assert data.classes == ("void", "main road", "car")
    np.testing.assert_array_equal(label_maps(data)["1"], maps[1])


def test_grey_masks_stored_as_colors_are_grey(tmp_path):
    masks = discs()
    data = folder.load(folder_of(tmp_path, [byte(m)[..., None].repeat(3, -1) for m in masks]))
    np.testing.assert_array_equal(label_maps(data)["0"], masks[0])


def paletted(indices, *colors):
    image = Image.fromarray(byte(indices))
    image.putpalette([*np.ravel(colors).tolist(), *[0] * (768 - 3 * len(colors))])
    return image


def test_palettes_that_contradict_one_another_are_refused_and_read_by_color(tmp_path):
    """Programs that store colors as palettes number them anew for every image."""
    masks = discs()
    red, black = (255, 0, 0), (0, 0, 0)
    images = [paletted(m, black, red) if i != 3 else paletted(~m, red, black) for i, m in enumerate(masks)]
    path = folder_of(tmp_path, images)
    with pytest.raises(
        ValueError, match=r"masks/3\.png: index 0 of its palette is #ff0000, and in .*\.png it is #000000"
    ):
        folder.load(path)
    data = folder.load(path, labels="#000000=rest,#ff0000=cell")
    for name, label in label_maps(data).items():
        np.testing.assert_array_equal(label, masks[int(name)])
    by_index = folder.load(path, labels="0=rest,1=cell")  # who says so may
    np.testing.assert_array_equal(label_maps(by_index)["3"], ~masks[3])


def test_names_from_a_file(tmp_path):
    masks = [byte(m * 2) for m in discs()]  # label 1 is in no mask
    path = folder_of(tmp_path / "data", masks)
    with pytest.raises(labels.Misread, match="1 is missing"):
        folder.load(path)
    names = tmp_path / "classes.txt"
    names.write_text("background\nbird\ncar\n")
    data = folder.load(path, classes=names)
    assert data.classes == ("background", "bird", "car")
    assert any("No mask has a pixel of bird" in note for note in data.notes)
    names.write_text("0 background\n2 fast car\n")
    assert folder.load(path, classes=names).classes == ("background", "fast car")


def test_very_many_labels_without_names_are_refused(tmp_path):
    path = folder_of(tmp_path / "data", [byte(np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 100)] * 8)
    with pytest.raises(labels.Misread, match=r"100 values .*too many for labels without names"):
        folder.load(path)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"kind {i}" for i in range(100)))
    assert len(folder.load(path, classes=names).classes) == 100


def test_floating_masks_must_hold_whole_numbers(tmp_path):
    masks = discs()
    path = folder_of(tmp_path, [np.float32(m) for m in masks], ".tif")
    np.testing.assert_array_equal(label_maps(folder.load(path))["0"], masks[0])
    Image.fromarray(np.float32(masks[0]) / 2).save(path / "masks" / "0.tif")
    with pytest.raises(ValueError, match=r"masks/0\.tif: a mask holds labels; .* not whole"):
        folder.load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "0=a,b"}, "--labels 0=a,b: write VALUE=NAME"),
        ({"labels": "0=a,x=b"}, "--labels 0=a,x=b: 'x' is no value"),
        ({"labels": "0=a,9-3=b"}, "'9-3' is no value"),
        ({"labels": "0=a,0=b"}, "0 is given twice"),
        ({"labels": "0=a"}, "2 to 255 classes; got 1"),
        ({"labels": "0=a,#ff0000=b"}, "give values or colors, not both"),
        ({"labels": "0=a,1=b", "ignore": "1"}, "1 is given twice"),
        ({"labels": "0=a,1=b", "classes": Path("names")}, "say the same in two ways"),
        ({"ignore": "white"}, "--ignore white: 'white' is no value"),
    ],
)
def test_options_that_say_nothing_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        folder.load(folder_of(tmp_path, [byte(m) for m in discs()]), **options)


def test_a_census_counts_pixels_and_masks(tmp_path):
    masks = [byte(m) for m in discs()]
    masks[7][:] = 0
    found = folder.survey(folder_of(tmp_path, masks), folder.Options()).census
    share = np.mean(masks)
    assert [(row.value, row.images) for row in found.rows] == [(0, 8), (1, 7)]
    assert found.rows[1].share == pytest.approx(share)
    rows = labels.table(found, labels.Meaning(("rest", "cell"), {0: 0, 1: 1}))
    assert rows[1] == {"value": "1", "class": "cell", "pixels": f"{100 * share:.1f} %", "images": "7 of 8"}


def test_bytes_of_a_file_are_read_once(tmp_path, monkeypatch):
    path = folder_of(tmp_path, [byte(m) for m in discs()])
    reads = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda p: reads.append(p.name) or io.BytesIO(read_bytes(p)).getvalue())
    folder.load(path)
    assert len(reads) == 16
