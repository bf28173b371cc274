"""The page's pictures show what they say: boundaries between pixels, and the place where methods differ most."""

import base64
import io

import numpy as np
from PIL import Image

from experiments.data import Example, Split
from experiments.report import figures


def test_edges_run_between_pixels_of_different_labels():
    labels = np.array([[0, 0, 1], [0, 0, 1]])
    assert figures.edges(labels).tolist() == [[[1.5, -0.5], [1.5, 0.5]], [[1.5, 0.5], [1.5, 1.5]]]
    assert figures.edges(labels.T).tolist() == [[[-0.5, 1.5], [0.5, 1.5]], [[0.5, 1.5], [1.5, 1.5]]]
    assert len(figures.edges(np.zeros((4, 5)))) == 0


def test_the_window_holds_most_of_what_differs():
    differs = np.zeros((200, 300), bool)
    differs[10, 10] = True
    differs[150:160, 222:230] = True
    top, left, side = figures._window(differs)
    assert side == 40
    assert differs[top : top + side, left : left + side].sum() == 80


def test_the_window_fits_small_images():
    top, left, side = figures._window(np.ones((9, 30), bool))
    assert side == 9
    assert (top, left) == (0, 0)


def test_pictures_come_from_all_of_the_split_and_show_disagreement():
    truth = np.zeros((12, 12), np.int32)
    split = Split(tuple("abcdefgh"), [Example(image=np.zeros((12, 12, 1), np.float32), label=truth)] * 8)
    same = [truth] * 8
    other = [truth.copy() for _ in range(8)]
    for i in (1, 2, 5, 7):
        other[i][:3] = 1
    assert figures.telling(split, {"one": same, "other": other}) == [1, 2, 5, 7]
    assert figures.telling(split, {"other": other}) == [1, 2, 5, 7]  # one method alone: where it is wrong
    assert len(figures.telling(Split(("a",), split.examples[:1]), {"one": same[:1]})) == 1


def test_a_picture_shows_both_boundaries_in_their_colours():
    truth = np.zeros((40, 40), np.int32)
    truth[:, 20:] = 1
    wrong = np.roll(truth, 5, axis=1)
    uri = figures.boundaries(Example(image=np.zeros((40, 40, 1), np.float32), label=truth), {"bilinear": wrong}, None)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")).astype(int)
    for colour in ((0, 229, 255), (255, 45, 85)):
        assert (np.abs(picture - colour).max(axis=-1) < 8).sum() > 500


def test_the_same_run_gives_the_same_curves():
    methods = {
        "bilinear": {
            "seeds": {
                "0": {
                    "loss": [2.0, 1.0, 0.5],
                    "validation": [{"step": 3, "mean_iou": 0.5, "boundary_iou": None}],
                }
            }
        }
    }
    assert figures.curves(methods) == figures.curves(methods)
    assert figures.curves(methods).startswith("data:image/svg+xml;base64,")


def test_smoothing_keeps_a_constant_and_the_length():
    np.testing.assert_allclose(figures._smoothed(np.full(100, 3.0)), 3.0)
    assert len(figures._smoothed(np.arange(7.0))) == 7


def test_many_methods_are_told_apart():
    looks = figures.colours([f"method {i}" for i in range(28)]).values()
    assert len({(colour, dash) for colour, dash, _ in looks}) == 28
    assert len({(colour, marker) for colour, _, marker in looks}) == 28
