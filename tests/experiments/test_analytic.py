"""The analytic design against closed forms: where interpolants of exact coverage pass one half."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from experiments import analytic, methods
from experiments.data import shapes
from tests.compiling import as_for_users

S = 4


@pytest.fixture(scope="module", autouse=True)
def _what_runs_long_is_optimized():
    """The two programs that a measure spends its time in, if they are not; what they compute is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analytic, "_inside", as_for_users(analytic._inside.__wrapped__, static_argnames="contour"))
        patch.setattr(analytic, "_line", as_for_users(analytic._line.__wrapped__, static_argnames="half"))
        yield


def interpolated(method, convention="torch", s=S):
    return analytic.interpolator(method, convention, s, analytic.enough(s))


@pytest.fixture(scope="module")
def nearest():
    return analytic.measure(interpolated("nearest"), S)


@pytest.fixture(scope="module")
def bilinear():
    return analytic.measure(interpolated("bilinear"), S)


def look(upsample, s=S, guided=False, contour=True):
    return analytic._Look(upsample, s, guided, contour)


# --- edges along the grid ---------------------------------------------------------------------------------------------


def linear_displacement(c):
    """The edge covers c of a cell; the cell before it is 1, the one behind it 0, at their centers -1, 0 and 1.

    The true edge lies at c - 1/2. The interpolant passes 1/2 on the straight line from 1 to c, or on that from c to 0:
    c (1 - t) = 1/2, or 1 - (1 - c) (t + 1) = 1/2.
    """
    crossing = np.where(c >= 0.5, 1 - 0.5 / np.maximum(c, 0.5), 0.5 / (1 - np.minimum(c, 0.5)) - 1)
    return crossing - (c - 0.5)


def kernel_displacement(kernel, radius, c):
    """The same by bisection in float64, for cells ..., 1, 1, c, 0, 0, ... under any kernel."""
    cells = np.arange(-radius - 2, radius + 3)
    values = np.where(cells < 0, 1.0, 0.0)
    values[cells == 0] = c
    low, high = -1.5, 1.5
    for _ in range(60):
        middle = (low + high) / 2
        weights = kernel(middle - cells)
        low, high = (middle, high) if weights @ values / weights.sum() > 0.5 else (low, middle)
    return middle - (c - 0.5)


def keys(a):
    def kernel(x):
        x = np.abs(x)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        return np.where(x <= 1, near, np.where(x < 2, far, 0))

    return kernel


def lanczos(x):
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


def test_nearest_is_a_sawtooth_of_half_a_cell(nearest):
    curve = nearest["edges"]["curve"]
    offset = np.array(curve["offset"])
    # The cell becomes foreground as a whole where the edge covers half of it.
    np.testing.assert_allclose(curve["displacement"], np.where(offset >= S / 2, S - offset, -offset), atol=2e-5)
    assert curve["worst"] == pytest.approx(S / 2, abs=S / analytic.CURVE)
    assert curve["bias"] == pytest.approx(0, abs=1e-5)
    assert curve["rms"] == pytest.approx(S / np.sqrt(12), rel=1e-3)


@pytest.mark.parametrize("s", [2, 4, 8])
def test_a_straight_edge_under_linear_interpolation(s):
    curve = analytic._edges_curve(look(interpolated("bilinear", s=s), s))
    expected = s * linear_displacement(np.array(curve["offset"]) / s)
    np.testing.assert_allclose(curve["displacement"], expected, atol=0.01)
    # The largest is where c = 1 / sqrt(2): 3/2 - sqrt(2) cells.
    assert curve["worst"] == pytest.approx(s * (1.5 - np.sqrt(2)), abs=0.01)


@pytest.mark.parametrize(
    ("method", "convention", "kernel", "radius"),
    [("bicubic", "torch", keys(-0.75), 2), ("bicubic", "jax", keys(-0.5), 2), ("lanczos3", "jax", lanczos, 3)],
)
def test_a_straight_edge_under_cubics_and_lanczos(method, convention, kernel, radius):
    curve = analytic._edges_curve(look(interpolated(method, convention)))
    expected = [S * kernel_displacement(kernel, radius, offset / S) for offset in curve["offset"]]
    np.testing.assert_allclose(curve["displacement"], expected, atol=0.01)


def test_linear_is_the_kernel_of_a_triangle():
    """The two closed forms of this file against one another."""
    shares = np.linspace(0.02, 0.98, 25)
    found = [kernel_displacement(lambda x: np.maximum(0, 1 - np.abs(x)), 1, c) for c in shares]
    np.testing.assert_allclose(found, linear_displacement(shares), atol=1e-12)


# --- other edges and discs, against counting densely in float64 -------------------------------------------------------

DENSE = 48  # samples per cell


def dense_bilinear(low):
    """The bilinear interpolant of (16, 16) cells at the middles of a dense grid over them."""
    at = np.clip((np.arange(16 * DENSE) + 0.5) / DENSE - 0.5, 0, 15)
    matrix = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(16)))
    return matrix @ np.asarray(low, np.float64) @ matrix.T


@pytest.mark.parametrize(("angle", "side"), [(20.0, 0), (45.0, 180), (65.0, 180)])
def test_slanted_edges_under_linear_interpolation(angle, side):
    offset = np.array([-0.4, -0.1, 0.0625, 0.3])
    found = analytic._displacement(look(interpolated("bilinear")), *np.broadcast_arrays(angle, offset, side))
    _, point, box, length = analytic._crossing(look(interpolated("bilinear")), np.full(4, angle), offset)
    for i in range(4):
        edge = shapes.HalfPlane(point[i], angle + side)
        (top, bottom), (left, right) = (box[i] / S * DENSE).astype(int)
        gained = (dense_bilinear(shapes.coverage(edge, (16, 16), S)) >= 0.5)[top:bottom, left:right].mean()
        true = np.asarray(shapes.coverage(edge, (64, 64)), np.float64)
        true = true[int(box[i, 0, 0]) : int(box[i, 0, 1]), int(box[i, 1, 0]) : int(box[i, 1, 1])].mean()
        area = np.prod(box[i, :, 1] - box[i, :, 0])
        assert found[i] == pytest.approx((gained - true) * area / length[i], abs=0.01)


def test_discs_under_linear_interpolation(bilinear):
    """By counting, in one place of a cell; and what is measured over places is within what the places differ by."""
    found = bilinear["discs"]
    for radius, mean, rms in zip(found["radii"], found["bias"], found["rms"], strict=True):
        gained = []
        for row, column in analytic._within(4)[np.array([[0, 0], [0, 1], [1, 0], [1, 1]])]:
            disc = shapes.Disc(32 + S * np.array([row, column]), radius)
            inside = dense_bilinear(shapes.coverage(disc, (16, 16), S)) >= 0.5
            gained.append(inside.mean() * 64**2 - np.pi * radius**2)
        # The other places are these, mirrored.
        gained = np.array(gained) / (2 * np.pi * radius)
        assert mean == pytest.approx(gained.mean(), abs=0.01)
        assert rms == pytest.approx(np.sqrt((gained**2).mean()), abs=0.01)
    # The interpolant lies below the cone that would keep it: what bulges shrinks, the more the smaller it is.
    assert all(np.diff(found["bias"]) > 0)
    assert max(found["bias"]) < 0


# --- corners, lines ---------------------------------------------------------------------------------------------------


def test_a_right_corner_under_nearest_by_hand(nearest):
    """With edges along the grid nothing is lost but the corner's own cell: where both edges cover more than half of
    their cells and yet less than half of the cell that they have in common."""
    share = (np.arange(8) + 0.5) / 8
    lost = (share[:, None] > 0.5) & (share > 0.5) & (np.outer(share, share) < 0.5)
    assert nearest["corners"]["loss_along_grid"] == pytest.approx(S**2 * lost.mean(), abs=1e-3)
    # Over all places that is (1/4 - (1/2 - ln(2) / 2)) of a cell.
    assert nearest["corners"]["loss_along_grid"] == pytest.approx(S**2 * (np.log(2) / 2 - 0.25), abs=0.1)


def test_sharper_corners_lose_more(nearest, bilinear):
    for figures in (nearest, bilinear):
        assert figures["corners"]["openings"] == [45, 90, 135]
        assert figures["corners"]["loss"] == sorted(figures["corners"]["loss"], reverse=True)
        assert min(figures["corners"]["loss"]) > 0


def test_lines_that_cover_less_than_half_of_every_cell_vanish(nearest, bilinear):
    for figures in (nearest, bilinear):
        lines = figures["lines"]
        assert (lines["recall"][0], lines["area"][0], lines["broken"][0]) == (0, 0, 1)
        assert lines["broken"][-1] == 0
        assert all(np.diff(lines["recall"]) > 0)
        assert lines["mean_recall"] == pytest.approx(np.mean(lines["recall"]), abs=1e-5)


def test_a_line_along_the_grid_under_nearest_by_hand():
    """Of a line of 3 pixels at offset 0.5 + 1/16 cells from a border 2.25 - 1.5 to 2.25 + 1.5 are covered: one cell by
    3 of 4 pixels. So the cell is found, the line with it, and a pixel too much."""
    values = up.nearest(jnp.zeros((1, 16, 16, 1)).at[:, :, 8].set(1), scale=S)
    line = shapes.Strip(np.array([[32.0, 34.25]]), np.array([0.0]), np.array([3.0]))
    inside = analytic._inside(values, True)
    recall, area, broken = analytic._line(inside, 1.0, line, np.array([False]), half=12)
    assert (float(recall[0]), float(area[0]), bool(broken[0])) == (1.0, pytest.approx(4 / 3, rel=1e-5), False)
    # A gap of one pixel in the window, of 24, breaks it; one outside does not.
    for at, is_broken in ((30, True), (12, False)):
        _, _, broken = analytic._line(inside.at[:, at].set(0), 1.0, line, np.array([False]), half=12)
        assert bool(broken[0]) is is_broken


# --- methods that are known through and through -----------------------------------------------------------------------


def test_the_exact_picture_is_nearly_free_of_error():
    found = analytic.reference(S)
    # Not quite: its pixels are interpolated linearly, with kinks at their centers.
    assert found["edges"]["worst"] < 0.13
    assert max(map(abs, found["edges"]["by_angle"]["bias"])) < 1e-4
    assert max(map(abs, found["corners"]["loss"])) < 0.3
    assert found["lines"]["broken"][1:] == [0] * 5
    assert found["lines"]["recall"][-1] > 0.98
    assert found["strokes"]["mean"] < 0.13
    assert max(map(abs, found["shift"].values())) < 0.01


def test_growth_by_a_pixel_is_found_as_such():
    """Labels of the exact picture, dilated by a square of three pixels: edges along the grid move by one pixel, others
    by |sin| + |cos|, on both sides."""

    def dilated(low, high):
        return jax.lax.reduce_window((high >= 0.5) * 1.0, 0.0, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    for contour in (True, False):
        angle, offset, side = analytic._grid([0, 30, 45, 90], analytic._within(16), (0, 180))
        found = analytic._displacement(look(dilated, guided=True, contour=contour), angle, offset, side)
        radians = np.deg2rad([0, 30, 45, 90])
        expected = np.abs(np.sin(radians)) + np.abs(np.cos(radians))
        np.testing.assert_allclose(found.reshape(4, -1).mean(1), expected, atol=0.05)


def test_nothing_found_is_counted_as_nothing():
    found = analytic.measure(lambda low: jnp.zeros((low.shape[0], 64, 64, 1)), S)
    assert found["discs"]["vanished"] == [1] * len(analytic.RADII)
    assert found["lines"]["mean_recall"] == 0
    assert found["lines"]["mean_broken"] == 1
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found


def test_whole_pixels_are_counted_if_asked_for():
    values = jnp.array([0.0, 0.0, 0.4, 0.9, 1.0])[None, None, :, None]
    assert analytic._inside(values, False)[0, 0].tolist() == [0, 0, 0, 1, 1]
    # The straight line from 0.4 to 0.9 passes 1/2 after a fifth of a pixel: 0.3 of the first are foreground.
    assert analytic._inside(values, True)[0, 0].tolist() == pytest.approx([0, 0, 0.3, 1, 1])
    # A jump is no line, whatever it jumps over, also where the level before it is rounded; in both directions.
    values = jnp.array([0.2, 0.49, 0.49 + 1e-6, 1.0, 1.0])[None, None, :, None]
    assert analytic._inside(values, True)[0, 0].tolist() == [0, 0, 0, 1, 1]
    assert analytic._inside(values[:, :, ::-1], True)[0, 0].tolist() == [1, 1, 0, 0, 0]


def test_results_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(n, 64, 64, 1\)"):
        analytic.measure(lambda low: low, S)


# --- conventions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "convention"),
    [
        ("bilinear", "torch"),
        ("bicubic", "tensorflow1"),
        ("bilinear", "tensorflow1"),
        ("nearest", "tensorflow1"),
        ("bilinear", "tensorflow1_align_corners"),
        ("bicubic", "torch_align_corners"),
        ("lanczos3", "jax"),
        ("bilinear", up.conventions.onnx(coordinate_transformation_mode="tf_half_pixel_for_nn")),
    ],
)
def test_a_finer_picture_holds_the_picture(method, convention):
    low = jax.random.uniform(jax.random.key(0), (2, 7, 5, 1))
    picture = up.resize(low, scale=S, method=method, convention=convention)
    for finer in (3, 5):
        fine = analytic.interpolator(method, convention, S, finer)(low)
        assert fine.shape == (2, 7 * S * finer, 5 * S * finer, 1)
        late = (finer - 1) // 2
        np.testing.assert_allclose(fine[:, late::finer, late::finer], picture, atol=2e-4)


def test_finer_grids_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="odd"):
        analytic.interpolator("bilinear", "torch", S, 2)
    crop = up.conventions.onnx(coordinate_transformation_mode="tf_crop_and_resize")
    with pytest.raises(ValueError, match="crop"):
        analytic.interpolator("bilinear", crop, S, 3)


@pytest.mark.parametrize("s", [2, 4])
def test_corner_anchored_grids_shift_by_half_a_cell_less_half_a_pixel(s):
    found = analytic._shift(look(interpolated("bilinear", "tensorflow1", s), s))
    assert found["row"] == pytest.approx(-(s - 1) / 2, abs=0.01)
    assert found["column"] == pytest.approx(-(s - 1) / 2, abs=0.01)
    assert found["stretch"] == pytest.approx(0, abs=0.01)


def test_aligned_corners_stretch_the_picture():
    """By (n s - 1) / (s (n - 1)): half of n s pixels from the middle that is (s - 1) n / (n - 1) / 2."""
    found = analytic._shift(look(interpolated("bilinear", "torch_align_corners")))
    assert found["row"] == pytest.approx(0, abs=0.01)
    assert found["column"] == pytest.approx(0, abs=0.01)
    assert found["stretch"] == pytest.approx((S - 1) / 2 * 16 / 15, abs=0.01)


def test_half_pixel_grids_do_not_shift(nearest, bilinear):
    for figures in (nearest, bilinear):
        assert max(map(abs, figures["shift"].values())) < 1e-3
        assert abs(figures["edges"]["bias"]) < 1e-4


def test_bare_has_every_interpolator_once(bilinear):
    names = list(analytic._interpolators(S))
    assert set(names) >= {"nearest", "bilinear", "bicubic", "lanczos3", "tensorflow1_bilinear"}
    assert len(names) == len(set(names))
    found = analytic.bare(S, ["bilinear"])
    assert found == {"bilinear": bilinear}


# --- learned methods --------------------------------------------------------------------------------------------------


def test_losses():
    logits = jax.random.normal(jax.random.key(0), (2, 5, 4, 1))
    label = jax.random.bernoulli(jax.random.key(1), 0.3, (2, 5, 4, 1)) * 1.0
    p, t = 1 / (1 + np.exp(-np.asarray(logits, np.float64))), np.asarray(label)
    entropy = -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p))
    both = [1 - (2 * (a * b).sum() + 2) / (a.sum() + b.sum() + 2) for a, b in ((p, t), (1 - p, 1 - t))]
    assert jax.jit(analytic.cross_entropy)(logits, label) == pytest.approx(entropy, rel=1e-5)
    assert jax.jit(analytic.dice)(logits, label) == pytest.approx(np.mean(both), rel=1e-5)
    assert jax.jit(analytic.cross_entropy_and_dice)(logits, label) == pytest.approx(entropy + np.mean(both), rel=1e-5)


def test_training_puts_edges_where_they_are_unless_the_foreground_alone_bulges():
    """Interpolation makes what bulges smaller. Where that is always the foreground, training makes up for it by a lower
    threshold, and straight edges move outwards; where inside and outside change places, it has no reason to."""
    found = {}
    for complement in (0.5, 0.0):
        trained = analytic.train_on_shapes("bilinear", S, steps=200, complement=complement, learning_rates=(0.03,))
        assert not trained.guided
        assert len(trained.losses) == 200
        assert np.mean(trained.losses[-50:]) < trained.losses[0] / 5
        angle, offset, side = analytic._grid([0, 30, 45], analytic._within(8), (0, 180))
        found[complement] = analytic._displacement(look(trained.upsample), angle, offset, side).mean()
    assert abs(found[0.5]) < 0.05
    assert 0.12 < found[0.0] < 0.3


class Sum(nnx.Module):
    """A method of two lines: the nearest value plus the guide."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x, guide):
        return up.nearest(x, scale=self.scale) + guide


def test_a_guide_reaches_the_method(monkeypatch):
    method = types.SimpleNamespace(
        uses_guide=True,
        ties_encoder=False,
        variants={},
        create=lambda features, scale, *, rngs, variant: Sum(scale),
    )
    monkeypatch.setattr(methods, "find", lambda name: method)
    trained, again = (analytic.train_on_shapes("sum", S, steps=2, features=2, learning_rates=(0.03,)) for _ in range(2))
    assert trained.guided
    assert trained.losses == again.losses
    low, high = jnp.zeros((1, 16, 16, 1)), jnp.zeros((1, 64, 64, 1))
    one, other = (trained.upsample(low, high.at[:, 5].set(value)) for value in (0.0, 1.0))
    moved = np.abs(one - other)[0, :, :, 0].max(1) > 1e-3
    assert np.flatnonzero(moved).tolist() == [5]
    # The guide is noisy.
    assert len(np.unique(one)) > 1000
    np.testing.assert_array_equal(one, again.upsample(low, high))
