"""Shapes: their coverage against supersampling and against their area, their boundary against brute force."""

import itertools

import jax
import numpy as np
import pytest

from experiments.data import shapes

SIZE = (9, 11)  # rows and columns, unequal so that they cannot change places unseen
FINE = 40  # samples per pixel and axis: an edge along the grid is half of one off, 1 / 80
TOLERANCE = 0.5 / FINE + 1e-3
S = 4


def samples(step=1.0, fine=FINE, size=SIZE):
    """Points in the middle of a fine grid over the picture, (rows, columns, 2)."""
    axes = [(np.arange(n * fine) + 0.5) / fine * step for n in size]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def supersampled(inside):
    return inside.reshape(SIZE[0], FINE, SIZE[1], FINE).mean((1, 3))


def normal(angle):
    return np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])


def within(points, polygon):
    """The even-odd rule, edge by edge."""
    inside = np.zeros(points.shape[:-1], bool)
    for (y0, x0), (y1, x1) in zip(np.float64(polygon.start), np.float64(polygon.end), strict=True):
        across = (y0 > points[..., 0]) != (y1 > points[..., 0])
        inside ^= across & (points[..., 1] < x0 + (points[..., 0] - y0) * (x1 - x0) / (y1 - y0 or 1))
    return inside


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("angle", [0, -90, 45, 89.99, 133, 251.6])
def test_half_planes_and_strips_against_supersampling(angle, step):
    point = np.array([4.37, 5.81]) * step
    ahead = (samples(step) - point) @ normal(angle)
    found = shapes.coverage(shapes.HalfPlane(point, angle), SIZE, step)
    np.testing.assert_allclose(found, supersampled(ahead <= 0), atol=TOLERANCE)
    for width in (0.3, 1.7, 4.0):
        found = shapes.coverage(shapes.Strip(point, angle, width), SIZE, step)
        np.testing.assert_allclose(found, supersampled(np.abs(ahead) <= width / 2), atol=2 * TOLERANCE)


@pytest.mark.parametrize("radius", [0.2, 0.5, 0.9, 3.9, 20.0])
@pytest.mark.parametrize("center", [(4.0, 5.5), (3.81, 6.27), (-12.3, 4.1)])
def test_discs_against_supersampling(center, radius):
    inside = np.linalg.norm(samples() - center, axis=-1) <= radius
    found = shapes.coverage(shapes.Disc(np.array(center), radius), SIZE)
    np.testing.assert_allclose(found, supersampled(inside), atol=TOLERANCE)


def test_discs_against_their_area():
    radius = np.geomspace(0.05, 30, 40)
    center = 32 + np.random.default_rng(0).uniform(-1, 1, (40, 2))
    found = np.asarray(shapes.coverage(shapes.Disc(center, radius), (64, 64)), np.float64)
    np.testing.assert_allclose(found.sum((1, 2)), np.pi * radius**2, rtol=2e-5, atol=1e-6)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6


@pytest.mark.parametrize("opening", [20, 45, 90, 135, 170])
def test_corners_against_supersampling(opening):
    apex = np.array([4.3, 5.6])
    for angle in (0, 33, 45, 90, 160, 260, 315):
        away = samples() - apex
        inside = away @ normal(angle) >= np.cos(np.deg2rad(opening / 2)) * np.linalg.norm(away, axis=-1)
        found = shapes.coverage(shapes.wedge(apex, angle, opening), SIZE)
        np.testing.assert_allclose(found, supersampled(inside), atol=2 * TOLERANCE)


def test_polygons_against_supersampling():
    """One with a dent, a hole, edges along the grid and across it, whose corners go round either way."""
    outline = np.array([(0.6, 1.2), (7.7, 0.4), (5.1, 5.0), (8.2, 9.9), (1.5, 9.9), (1.5, 7.0), (3.0, 7.0)])
    hole = np.array([(2.1, 2.5), (4.9, 3.1), (2.8, 4.4)])
    for flipped, also in itertools.product([1, -1], [1, -1]):
        made = shapes.polygon(outline[::flipped], hole[::also])
        inside = supersampled(within(samples(), made))
        np.testing.assert_allclose(shapes.coverage(made, SIZE), inside, atol=2 * TOLERANCE)
        assert float(shapes.area(made)) == pytest.approx(inside.sum(), abs=0.1)


def drawings():
    letters = [shapes.moved(p, a, (32.3, 31.7)) for p in shapes.glyphs(28, 3.6).values() for a in (0, 20)]
    return shapes.stack([*letters, shapes.spiral((32, 32), 4, 8, 2.6, 3.5)])


def test_drawings_against_their_area():
    made = drawings()
    found = np.asarray(shapes.coverage(made, (64, 64)))
    np.testing.assert_allclose(found.sum((1, 2)), shapes.area(made), atol=1e-3)
    # Their outlines do not run into themselves: where they did, Green's theorem would count twice.
    assert found.max() == 1
    for i in (1, 9, 11, 14):
        inside = within(samples(fine=4, size=(64, 64)), jax.tree.map(lambda x, i=i: x[i], made))
        assert inside.mean() * 64**2 == pytest.approx(float(shapes.area(made)[i]), abs=1)


def test_strokes_are_as_long_as_their_path_and_as_wide_as_the_pen():
    """A mitred pen's area is its path's length times its width, whatever the bends."""
    path = np.array([(0, 0), (3, 5), (9, 6), (12, 2)])
    along = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
    assert float(shapes.area(shapes.stroke(path, 1.2))) == pytest.approx(1.2 * along, rel=1e-5)
    turn = np.linspace(0, 2 * np.pi * 2, 100_000)
    radius = 5 + 6 * turn / (2 * np.pi)
    along = np.trapezoid(np.hypot(radius, 6 / (2 * np.pi)), turn)
    spiral = shapes.spiral((0, 0), 5, 6, 2, 1.5)
    assert float(shapes.area(spiral)) == pytest.approx(1.5 * along, rel=5e-3)
    assert float(shapes.length(spiral)) == pytest.approx(2 * along + 3, rel=5e-3)


@pytest.mark.parametrize("kind", ["half-plane", "strip", "disc", "corner", "drawings"])
def test_a_coarse_picture_is_the_block_mean_of_the_fine_one(kind):
    rng = np.random.default_rng(1)
    point, angle = rng.uniform(10, 54, (6, 2)), rng.uniform(-180, 180, 6)
    made = {
        "half-plane": shapes.HalfPlane(point, angle),
        "strip": shapes.Strip(point, angle, rng.uniform(0.2, 9, 6)),
        "disc": shapes.Disc(point, rng.uniform(0.2, 20, 6)),
        "corner": shapes.wedge(point, angle, rng.uniform(10, 170, 6)),
        "drawings": drawings(),
    }[kind]
    fine, coarse = shapes.coverage(made, (64, 64)), shapes.coverage(made, (16, 16), 4)
    np.testing.assert_allclose(coarse, fine.reshape(-1, 16, 4, 16, 4).mean((2, 4)), atol=5e-5)
    np.testing.assert_array_equal(shapes.labels(made, (64, 64)), np.asarray(fine) >= 0.5)


def test_share_of_a_square_at_its_ends():
    square_share = jax.jit(shapes.square_share)
    assert square_share(0.0, 0.0, 0.0) == 1  # level, at zero: all of it is at least zero
    assert square_share(-1e-9, 0.0, 0.0) == 0
    depth, across, along = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)
    share = square_share(depth, across, along)
    np.testing.assert_allclose(share + square_share(-depth, across, along), 1, atol=1e-6)
    np.testing.assert_array_equal(share, square_share(depth, -along, across))
    np.testing.assert_allclose(square_share(depth, across, 1e-12), square_share(depth, across, 0.0))


# --- the boundary -----------------------------------------------------------------------------------------------------


def test_boundary_of_lines_and_discs():
    point, angle = np.array([4.2, 5.7]), 200.0
    ahead = (samples(fine=1) - point) @ normal(angle)
    seen = shapes.boundary(shapes.HalfPlane(point, angle), SIZE)
    np.testing.assert_allclose(seen.distance, ahead, atol=1e-5)
    np.testing.assert_allclose(seen.angle, -160, atol=1e-4)
    np.testing.assert_array_equal(seen.curvature, 0)
    seen = shapes.boundary(shapes.Strip(point, angle, 3.0), SIZE)
    np.testing.assert_allclose(seen.distance, np.abs(ahead) - 1.5, atol=1e-5)
    np.testing.assert_allclose(seen.angle, np.where(ahead > 0, -160, 20), atol=1e-4)
    seen = shapes.boundary(shapes.Disc(point, 2.5), SIZE)
    away = samples(fine=1) - point
    np.testing.assert_allclose(seen.distance, np.linalg.norm(away, axis=-1) - 2.5, atol=1e-5)
    np.testing.assert_allclose(seen.angle, np.rad2deg(np.arctan2(away[..., 0], away[..., 1])), atol=1e-3)
    np.testing.assert_allclose(seen.curvature, 0.4)


def test_boundary_of_polygons():
    corners = np.array([(1.2, 1.4), (1.2, 9.3), (7.9, 9.3), (4.0, 5.0)])
    seen = shapes.boundary(shapes.polygon(corners), SIZE)
    points = samples(fine=1)
    share = np.linspace(0, 1, 2001)[:, None]
    outline = np.concatenate([a + share * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)])
    far = np.linalg.norm(points[:, :, None] - outline, axis=-1).min(-1)
    sign = np.where(within(points, shapes.polygon(corners)), -1, 1)
    np.testing.assert_allclose(seen.distance, sign * far, atol=5e-3)
    # Above the upper edge its normal points up the rows; beyond its ends the nearest point is a corner.
    np.testing.assert_allclose(seen.angle[0, 2:9], -90, atol=1e-4)
    np.testing.assert_array_equal(seen.curvature[0, 2:9], 0)
    assert np.isnan(seen.angle[0, 0])
    assert np.isnan(seen.curvature[0, 0])


def test_stacked_polygons_have_the_boundary_of_each():
    one, other = shapes.polygon([(1, 1), (1, 8), (6, 8), (6, 1)]), shapes.polygon([(2, 2), (2, 7), (7, 4)])
    both = shapes.boundary(shapes.stack([one, other]), SIZE)
    for i, alone in enumerate((one, other)):
        np.testing.assert_allclose(both.distance[i], shapes.boundary(alone, SIZE).distance, atol=1e-6)


# --- scenes to train on -----------------------------------------------------------------------------------------------


def test_random_scenes():
    key = jax.random.key(3)
    low, high = shapes.random_scenes(key, 8, 16, S, 0.5)
    assert low.shape == (8, 16, 16, 1)
    assert high.shape == (8, 16 * S, 16 * S, 1)
    np.testing.assert_allclose(low[..., 0], high.reshape(8, 16, S, 16, S).mean((2, 4)), atol=5e-5)
    plain, turned = (shapes.random_scenes(key, 8, 16, S, p)[1] for p in (0.0, 1.0))
    np.testing.assert_allclose(plain, 1 - turned, atol=1e-6)
    # At one half every scene is one or the other, and there are both.
    kept = [np.array_equal(a, b) for a, b in zip(high, plain, strict=True)]
    assert 0 < sum(kept) < 8
    assert all(k or np.array_equal(a, b) for k, a, b in zip(kept, high, turned, strict=True))
    with pytest.raises(ValueError, match="multiple of four"):
        shapes.random_scenes(jax.random.key(0), 6, 8, S)


def test_what_is_not_a_shape_is_named():
    with pytest.raises(TypeError, match="tuple"):
        shapes.coverage((np.zeros(2), 1.0), SIZE)
    with pytest.raises(TypeError, match="tuple"):
        shapes.boundary((np.zeros(2), 1.0), SIZE)
