"""The page's figures show what they say: places, intervals and letters, boundaries between pixels, apt close-ups."""

import base64
import io
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from experiments.data import Example, Split
from experiments.report import closeups, differences, drawing, edge, figures, series
from experiments.report.drawing import NARROW, WIDE, Area, Dot, Line, Scale, Text
from tests.experiments import synthetic

PRIMARY = "boundary_iou_1px"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return synthetic.study(tmp_path_factory.mktemp("study"), design=("frozen",), images=3)


def marks(drawn, kind, of=None):
    return [m for m in drawn.marks if isinstance(m, kind) and (of is None or m.of == of)]


# --- drawings ---------------------------------------------------------------------------------------------------------


def test_scales_go_from_values_to_pixels():
    even, log = Scale(0, 10, 100, 200), Scale(1, 100, 0, 50, log=True)
    assert (even(0), even(5), even(10)) == (100, 150, 200)
    assert (even(-1), even(11)) == (100, 200)  # what is beyond is drawn at the end
    assert (log(1), log(10), log(0)) == (0, pytest.approx(25), 0)
    assert even.ticks(5) == [0, 2, 4, 6, 8, 10]
    assert log.ticks(9) == [1, 2, 5, 10, 20, 50, 100]
    assert log.ticks(4) == [1, 10, 100]


def test_a_drawing_is_the_same_as_an_element_and_as_files(tmp_path):
    drawn = drawing.Drawing(200, 100, "a <title>")
    drawn.add(
        Line([(0, 0), (200, 100)], "warn", 3, (4, 2)),
        Area(drawing.box(10, 10, 60, 60), "accent", 0.5),
        Dot(150, 30, 8, "c2", hint="here"),
        Text(20, 90, "a < b", "ink", bold=True),
    )
    root = ElementTree.fromstring(drawing.svg(drawn))
    assert root.get("viewBox") == "0 0 200 100"
    assert root.get("aria-label") == "a <title>"
    assert [child.tag for child in root] == ["path", "path", "circle", "text"]
    assert root[3].text == "a < b"
    drawing.save(drawn, tmp_path / "it")
    picture = np.asarray(Image.open(tmp_path / "it.png").convert("RGB")).astype(int)
    assert picture.shape == (200, 400, 3)  # two pixels for each
    green = tuple(int(drawing.COLORS["c2"][0][k : k + 2], 16) for k in (1, 3, 5))
    assert tuple(picture[60, 300]) == green
    assert tuple(picture[10, 390]) == (255, 255, 255)
    assert "a &lt; b" in (tmp_path / "it.svg").read_text()


def test_colors_are_defined_for_light_and_dark():
    css = drawing.css()
    for name, (light, dark) in drawing.COLORS.items():
        assert f"--{name}:{light};" in css.partition("@media")[0]
        assert f"--{name}:{dark};" in css.partition("@media")[2]


def test_many_methods_are_told_apart():
    looks = series.looks([f"method {i}" for i in range(21)])
    assert len(set(looks.values())) == 21


def test_of_many_methods_the_best_and_worst_are_colored(study):
    of = study[0]["designs"]["frozen"]
    chosen = series.distinct(of, PRIMARY, lower_is_better=False)
    assert set(chosen) == {"bilinear", "guided_filter", "sub_pixel_conv", "bicubic", "carafe", "nearest"}
    few = {**of, "methods": {name: of["methods"][name] for name in ("carafe", "deconv")}}
    assert series.distinct(few, PRIMARY, lower_is_better=False) == ["carafe", "deconv"]


# --- the forest plot --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_forest_plot_draws_the_paired_differences(study, width):
    found = study[0]
    of, info = found["designs"]["frozen"], found["measures"][PRIMARY]
    drawn = differences.forest(of, PRIMARY, info, width)
    rows = differences.forest_rows(of, PRIMARY, False)
    assert [row.name for row in rows][::7] == ["guided_filter", "nearest"]
    zero = marks(drawn, Dot, "bilinear")[0].x
    # One pixel is as much for every method.
    per_pixel = {}
    for row in rows:
        if row.name != "bilinear":
            paired = of["methods"][row.name]["paired"][PRIMARY]
            (dot,) = marks(drawn, Dot, row.name)
            per_pixel[row.name] = (dot.x - zero) / paired["mean"]
            (band,) = marks(drawn, Area, row.name)
            low, high = (zero + per_pixel[row.name] * paired[f"bootstrap_{end}"] for end in ("low", "high"))
            assert [band.points[0][0], band.points[1][0]] == pytest.approx([low, high], abs=1e-6)
            interval = marks(drawn, Line, row.name)[0]
            half = per_pixel[row.name] * paired["half_width"]
            assert [x for x, _ in interval.points] == pytest.approx([dot.x - half, dot.x + half], abs=1e-6)
    assert max(per_pixel.values()) == pytest.approx(min(per_pixel.values()))
    letters = {row.name: row.letters for row in rows}
    assert letters == of["groups"][PRIMARY]
    written = {text.text for text in marks(drawn, Text)}
    assert "guided_filter (small)" in written
    assert f"{drawing.signed(of['methods']['nearest']['paired'][PRIMARY]['mean'])}" in " ".join(written)


def test_the_forest_plot_colors_only_what_is_told_apart(study):
    of = study[0]["designs"]["frozen"]
    against = set(of["groups"][PRIMARY]["bilinear"])
    assert [row.color for row in differences.forest_rows(of, PRIMARY, False)].count(
        "soft"
    ) == 2  # bilinear, one like it
    for row in differences.forest_rows(of, PRIMARY, False):
        apart = not set(row.letters) & against
        assert (row.color != "soft") == apart
        if apart:
            assert row.color == ("accent" if row.mean > 0 else "warn")
    # Of an error less is better.
    (worst,) = [row for row in differences.forest_rows(of, "wrong_area_2px", True) if row.name == "nearest"]
    assert (worst.mean > 0, worst.color) == (True, "warn")


def test_an_interval_that_goes_on_ends_in_an_arrow(study):
    of = study[0]["designs"]["frozen"]
    wide = dict(of["methods"]["carafe"])
    wide["paired"] = {PRIMARY: {**wide["paired"][PRIMARY], "half_width": 9.0}}
    drawn = differences.forest(
        {**of, "methods": {**of["methods"], "carafe": wide}}, PRIMARY, {"title": "it", "lower_is_better": False}, WIDE
    )
    _, left, right = marks(drawn, Line, "carafe")
    assert (len(left.points), len(right.points)) == (3, 3)
    assert all(0 <= x <= WIDE for mark in (left, right) for x, _ in mark.points)
    assert len(marks(drawn, Line, "nearest")[1].points) == 2


def test_a_single_small_difference_is_drawn_with_its_whole_interval(study):
    of = study[0]["designs"]["frozen"]
    like = dict(of["methods"]["nearest"])
    like["paired"] = {
        PRIMARY: {**like["paired"][PRIMARY], "mean": -5e-6, "half_width": 0.012}
        | {"bootstrap_low": -0.008, "bootstrap_high": 0.008}
    }
    two = {**of, "methods": {"bilinear": of["methods"]["bilinear"], "nearest": like}}
    drawn = differences.forest(two, PRIMARY, {"title": "it", "lower_is_better": False}, WIDE)
    assert [len(end.points) for end in marks(drawn, Line, "nearest")[1:]] == [2, 2]  # bars, no arrows
    assert [row.text for row in differences.forest_rows(two, PRIMARY, False) if row.half] == ["−0.000 ± 0.012"]


# --- other charts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_displacements_are_drawn_to_scale(width):
    analytic = synthetic.analytic()
    drawn = edge.displacement_range(analytic, width)
    at = {name: marks(drawn, Area, name)[0].points for name in analytic["methods"]}
    zero = marks(drawn, Dot, "nearest")[0].x
    curve = analytic["methods"]["nearest"]["edges"]["curve"]["displacement"]
    pixel = (at["nearest"][1][0] - zero) / max(curve)
    for name, corners in at.items():
        displaced = analytic["methods"][name]["edges"]["curve"]["displacement"]
        assert corners[0][0] == pytest.approx(zero + pixel * min(displaced))
        assert corners[1][0] == pytest.approx(zero + pixel * max(displaced))
    assert pixel > 60  # large
    assert marks(drawn, Dot, "tensorflow1_bilinear")[0].color == "warn"
    assert edge.by_shift(analytic) == ["bicubic", "bilinear", "nearest", "tensorflow1_bilinear"]


def test_error_by_distance_is_drawn_where_there_is_any(study):
    of = study[0]["designs"]["frozen"]
    drawn = figures.by_distance(of, PRIMARY, False, "share of wrong pixels", "distance to the true boundary, px", WIDE)
    shares = [m for m in marks(drawn, Line, "nearest") if len(m.points) > 2]
    assert [len(line.points) for line in shares] == [7, 8]  # the last bin has no wrong pixel; its difference is 0
    heights = [y for _, y in shares[0].points]
    assert heights == sorted(heights)  # less and less, downwards
    assert {"0–1", "12+"} <= {text.text for text in marks(drawn, Text)}


def test_the_front_joins_the_methods_worth_their_cost(study):
    found, timing, *_ = study
    drawn = figures.pareto(found["designs"]["frozen"], timing["frozen"], PRIMARY, found["measures"][PRIMARY], WIDE)
    filled = {dot.of for dot in marks(drawn, Dot) if not dot.hollow}
    assert filled == {"nearest", "bilinear", "bicubic", "sub_pixel_conv", "guided_filter"}
    assert {dot.of for dot in marks(drawn, Dot)} == set(found["designs"]["frozen"]["methods"])
    cheapest, dearest = (marks(drawn, Dot, name)[0].x for name in ("nearest", "carafe"))
    assert cheapest < dearest


def test_smoothing_keeps_a_constant_and_the_length():
    np.testing.assert_allclose(figures._smoothed(np.full(100, 3.0)), 3.0)
    assert len(figures._smoothed(np.arange(7.0))) == 7


# --- close-ups --------------------------------------------------------------------------------------------------------


def test_edges_run_between_pixels_of_different_labels():
    labels = np.array([[0, 0, 1], [0, 0, 1]])
    assert closeups.edges(labels).tolist() == [[[1.5, -0.5], [1.5, 0.5]], [[1.5, 0.5], [1.5, 1.5]]]
    assert closeups.edges(labels.T).tolist() == [[[-0.5, 1.5], [0.5, 1.5]], [[0.5, 1.5], [1.5, 1.5]]]
    assert len(closeups.edges(np.zeros((4, 5)))) == 0


def test_distance_is_0_at_the_boundary_as_in_the_measures():
    truth = np.zeros((5, 8), int)
    truth[:, 4:] = 1
    np.testing.assert_array_equal(closeups.distance(truth), np.tile([3, 2, 1, 0, 0, 1, 2, 3], (5, 1)))
    assert np.isinf(closeups.distance(np.zeros((3, 3)))).all()


def test_the_window_holds_most_of_what_differs_near_the_boundary():
    truth = np.zeros((200, 300), int)
    truth[:, 150:] = 1
    one, other = truth.copy(), truth.copy()
    one[20:24, 148:150] = 1
    one[150:160, 148:150] = 1
    w = closeups.window(0, truth, [one, other], None)
    assert (w.side, w.differing, w.far) == (50, 20, 0)
    assert w.top <= 150
    assert w.top + w.side >= 160


def test_a_window_without_errors_of_meaning_comes_first():
    """Most differs below, but there all methods also take a thing for another, far from the boundary on both sides."""
    truth = np.zeros((200, 300), int)
    truth[:, 150:] = 1
    one, other = truth.copy(), truth.copy()
    one[150:170, 147:150] = 1
    one[10:14, 150:152] = 0
    for predicted in (one, other):
        predicted[130:200, 100:147] = 1
        predicted[130:200, 153:200] = 0
    w = closeups.window(0, truth, [one, other], None)
    assert w.far == 0
    assert w.differing < 60
    # Errors in pixels that do not count are none.
    truth[130:200, 100:140] = truth[130:200, 160:200] = 255
    for predicted in (one, other):
        predicted[130:200, 140:147] = 0
        predicted[130:200, 153:160] = 1
    assert closeups.window(0, truth, [one, other], 255).differing == 60


def test_a_window_shows_what_differs_and_not_what_all_have_wrong_alike():
    truth = np.zeros((200, 300), int)
    truth[:, 150:] = 1
    one, other = truth.copy(), truth.copy()
    one[20:24, 148:150] = 1
    one[150:160, 148:150] = 1
    one[162:190, 150:152] = other[162:190, 150:152] = 0
    assert closeups.window(0, truth, [one, other], None).shared == 0


def test_the_window_fits_small_images():
    w = closeups.window(0, np.zeros((9, 30), int), [np.ones((9, 30), int)] * 2, None)
    assert (w.top, w.left, w.side) == (0, 0, 9)


def test_close_ups_come_from_different_images_and_show_disagreement():
    truth = np.zeros((40, 40), np.int32)
    truth[:, 20:] = 1
    split = Split(tuple("abcdefgh"), [Example(image=np.zeros((40, 40, 1), np.float32), label=truth)] * 8)
    same, other = [truth] * 8, [truth.copy() for _ in range(8)]
    for i, rows in ((1, 3), (2, 5), (5, 2), (7, 4)):
        other[i][:rows, 20:22] = 0
    found = closeups.clear_examples(split, {"one": same, "other": other}, None)
    assert [w.image for w in found] == [2, 7, 1, 5]
    assert [w.image for w in closeups.clear_examples(split, {"other": other}, None)] == [2, 7, 1, 5]
    assert len(closeups.clear_examples(split, {"one": same}, None)) == closeups.MOST  # all alike: any will do


def test_label_maps_are_packed_without_loss():
    labels = np.random.default_rng(0).integers(0, 4, (12, 12)).repeat(3, 1)
    packed = closeups.runs(labels)
    assert np.repeat(packed[::2], packed[1::2]).tolist() == labels.ravel().tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_images(channels):
    image = np.random.default_rng(0).random((30, 20, channels)).astype(np.float32)
    uri = closeups.png(closeups.as_bytes(image))
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))), float) / 255
    np.testing.assert_allclose(read, image[..., 0] if channels == 1 else image, atol=1 / 255)
    small = Image.open(io.BytesIO(base64.b64decode(closeups.png(closeups.as_bytes(image), 15).split(",")[1])))
    assert small.size == (10, 15)


def test_a_sheet_shows_both_boundaries_in_their_colors(tmp_path):
    truth = np.zeros((40, 40), np.int32)
    truth[:, 20:] = 1
    example = Example(image=np.zeros((40, 40, 1), np.float32), label=truth)
    w = closeups.Window(0, 0, 0, 40, 0, 0, 0)
    drawing.save_figure(closeups.sheet(example, w, {"bilinear": np.roll(truth, 5, axis=1)}), tmp_path / "sheet")
    picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    for color in (closeups.TRUTH, closeups.PREDICTED):
        wanted = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
        assert (np.abs(picture - wanted).max(axis=-1) < 8).sum() > 500


def test_made_up_methods_differ_near_boundaries_alone():
    """What the tests of the page stand on."""
    data = synthetic.dataset(2)
    maps = synthetic.rendered(data, 0.52, 0)
    truth = data.test.examples[0]["label"]
    wrong = maps[0] != truth
    assert 0 < wrong.mean() < 0.2
    assert not wrong[closeups.distance(truth) > 4].any()
    assert not math.isclose(ndimage.mean(maps[1] != data.test.examples[1]["label"]), 0)


@pytest.mark.parametrize("count", [6, 7, 12])
def test_letters_of_many_groups_stay_on_the_drawing(count):
    letters = [chr(ord("a") + i) for i in range(count)]
    rows = [differences.Row(c, c, 0.0, None, None, c, "soft", "") for c in letters]
    columns, width = differences._columns(rows)
    assert width == (6 if count == 6 else 1)
    drawn = [differences._letters(row, 100, 0, columns)[0] for row in rows]
    assert [text.text for text in drawn] == letters
    assert {text.x for text in drawn} == {100 + 10 * i for i in range(width)}
