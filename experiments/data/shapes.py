"""Scenes whose boundary is known exactly: half-planes, discs, strips, corners, strokes, rendered by exact coverage.

A pixel's value is the share of its square that the shape covers. Every share is a closed form, so there is no
supersampling anywhere: a half-plane's is the distribution of a sum of two uniform numbers, a disc's an integral of its
chords, a polygon's a sum over its edges (Green's theorem). Curves other than circles are polygons, and are exact as
such.

Places are `(row, column)` in pixels of the high resolution; pixel `(i, j)` covers `[i, i + 1] x [j, j + 1]`. Rendered
with `step=s`, a pixel covers s x s of them: the exact mean of what `step=1` gives. An angle is that of the outward
normal `(sin, cos)` in degrees: 0 points along the columns, 90 along the rows, downwards.

Every field of a shape may have leading batch axes, `*n`, and they broadcast. All functions work under `jit`.

    >>> import jax.numpy as jnp
    >>> edge = HalfPlane(point=jnp.array([0.0, 1.25]), angle=jnp.array(0.0))  # all that lies before column 1.25
    >>> print(coverage(edge, (1, 4)))
    [[1.   0.25 0.   0.  ]]
    >>> print(coverage(edge, (1, 2), step=2))
    [[0.625 0.   ]]
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Size = tuple[int, int]


class HalfPlane(NamedTuple):
    """All that lies behind a line: `(p - point) . normal <= 0`.

    Attributes:
      point: (*n, 2), a point on the line.
      angle: (*n,), of the outward normal, degrees.
    """

    point: jax.Array
    angle: jax.Array


class Strip(NamedTuple):
    """A straight line of some width, without ends: what two half-planes have apart.

    Attributes:
      point: (*n, 2), a point on its middle line.
      angle: (*n,), of the normal, degrees.
      width: (*n,), pixels.
    """

    point: jax.Array
    angle: jax.Array
    width: jax.Array


class Disc(NamedTuple):
    """A disc.

    Attributes:
      center: (*n, 2).
      radius: (*n,), pixels.
    """

    center: jax.Array
    radius: jax.Array


class Polygon(NamedTuple):
    """A polygon by its edges, in any order; holes run the other way round than the outline. `polygon` builds one.

    Attributes:
      start, end: (*n, edges, 2). With `(drow, dcolumn)` the direction of an edge, `(dcolumn, -drow)` points outwards.
        An edge that starts where it ends counts for nothing, so that polygons can be stacked.
    """

    start: jax.Array
    end: jax.Array


Shape = HalfPlane | Strip | Disc | Polygon


# --- building polygons ------------------------------------------------------------------------------------------------


def polygon(outline: Any, *holes: Any) -> Polygon:
    """The polygon with this outline, (corners, 2), and these holes, each of either sense.

    >>> square = polygon([(0, 0), (0, 4), (4, 4), (4, 0)], [(1, 1), (1, 2), (2, 2), (2, 1)])
    >>> float(area(square)), float(length(square))
    (15.0, 20.0)
    """
    rings = []
    for ring, sign in [(outline, 1), *((hole, -1) for hole in holes)]:
        ring = np.asarray(ring, np.float64)
        after = np.roll(ring, -1, 0)
        turns = np.sum((after[:, 1] - ring[:, 1]) * (after[:, 0] + ring[:, 0]))
        rings.append((ring, after) if turns * sign > 0 else (after, ring))
    start, end = (np.concatenate(part).astype(np.float32) for part in zip(*rings, strict=True))
    return Polygon(start, end)


def stack(polygons: Sequence[Polygon]) -> Polygon:
    """Polygons side by side, (n, edges, 2); those with fewer edges are filled with empty ones.

    >>> stack([polygon([(0, 0), (0, 1), (1, 0)]), polygon([(0, 0), (0, 1), (1, 1), (1, 0)])]).start.shape
    (2, 4, 2)
    """
    edges = max(len(p.start) for p in polygons)

    def filled(points: np.ndarray, p: Polygon) -> np.ndarray:
        return np.concatenate([points, np.broadcast_to(p.end[-1:], (edges - len(points), 2))])

    return Polygon(np.stack([filled(p.start, p) for p in polygons]), np.stack([filled(p.end, p) for p in polygons]))


def wedge(apex: jax.Array, angle: jax.Array, opening: jax.Array, reach: float = 1000.0) -> Polygon:
    """A corner: what lies within half of `opening` (below 180 degrees) of the direction `angle`, seen from `apex`.

    Args:
      apex: (*n, 2).
      angle: (*n,), of the bisector, which points into the shape, degrees.
      opening: (*n,), degrees.
      reach: how far the corner goes on, in pixels; beyond the frame it does not matter.

    >>> import jax.numpy as jnp
    >>> quadrant = wedge(jnp.array([1.5, 1.5]), jnp.array(45.0), jnp.array(90.0))
    >>> print(coverage(quadrant, (3, 3)).round(4))
    [[0.   0.   0.  ]
     [0.   0.25 0.5 ]
     [0.   0.5  1.  ]]
    """
    turned = jnp.stack(jnp.broadcast_arrays(angle + opening / 2, angle, angle - opening / 2), -1)
    far = apex[..., None, :] + reach * direction(turned)
    corners = jnp.concatenate([jnp.broadcast_to(apex[..., None, :], (*far.shape[:-2], 1, 2)), far], -2)
    return Polygon(corners, jnp.roll(corners, -1, -2))


def stroke(points: Any, width: float) -> Polygon:
    """A pen's path with mitred bends and flat ends.

    Args:
      points: (m, 2), the path; it turns gently enough that its two sides do not meet themselves.
      width: pixels.

    >>> bend = stroke([(0, 0), (0, 4), (4, 4)], 2)
    >>> float(area(bend))
    16.0
    """
    points = np.asarray(points, np.float64)
    ahead = np.diff(points, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    normal = np.stack([ahead[:, 1], -ahead[:, 0]], 1)
    before, after = np.concatenate([normal[:1], normal]), np.concatenate([normal, normal[-1:]])
    miter = (before + after) / (1 + np.sum(before * after, 1, keepdims=True)) * width / 2
    return polygon(np.concatenate([points + miter, (points - miter)[::-1]]))


def spiral(center: Any, inner: float, pitch: float, turns: float, width: float, segments: int = 24) -> Polygon:
    """An Archimedean spiral drawn with a pen: its radius grows from `inner` by `pitch` per turn.

    Args:
      center: (2,).
      inner, pitch, width: pixels; the gap between two turns is `pitch - width`.
      turns: how many.
      segments: straight pieces per turn.

    >>> spiral((32, 32), inner=6, pitch=10, turns=2, width=4).start.shape
    (98, 2)
    """
    turn = np.linspace(0, turns, math.ceil(turns * segments) + 1)
    radius = inner + pitch * turn
    return stroke(np.asarray(center) + radius[:, None] * _direction(360 * turn), width)


def glyphs(height: float, width: float) -> dict[str, Polygon]:
    """Strokes like those of letters, about their middle: bars, bends, ends, forks, a bow and a ring.

    Args:
      height: of the letters, pixels; they are three quarters as wide.
      width: of the pen, pixels.

    >>> print(*glyphs(28, 4))
    E H T Z N S O
    """
    h, v, w = height / 2, 3 * height / 8, width
    bar = w / 2
    bow = np.linspace(-90, 180, 13)
    r = (height - w) / 4  # both bows of an S, of one radius
    upper = np.stack([-r - r * np.sin(np.deg2rad(bow)), -r * np.cos(np.deg2rad(bow))], 1)[::-1]
    ring = _direction(np.linspace(0, 360, 33)[:-1])
    return {
        "E": polygon([(-h, -v), (-h, v), (w - h, v), (w - h, w - v), (-bar, w - v), (-bar, v / 2), (bar, v / 2),
                      (bar, w - v), (h - w, w - v), (h - w, v), (h, v), (h, -v)]),
        "H": polygon([(-h, -v), (-h, w - v), (-bar, w - v), (-bar, v - w), (-h, v - w), (-h, v), (h, v), (h, v - w),
                      (bar, v - w), (bar, w - v), (h, w - v), (h, -v)]),
        "T": polygon([(-h, -v), (-h, v), (w - h, v), (w - h, bar), (h, bar), (h, -bar), (w - h, -bar), (w - h, -v)]),
        "Z": stroke([(bar - h, -v), (bar - h, v - w), (h - bar, w - v), (h - bar, v)], w),
        "N": stroke([(h, bar - v), (-h + w, bar - v), (h - w, v - bar), (-h, v - bar)], w),
        "S": stroke(np.concatenate([upper, -upper[::-1][1:]]), w),
        "O": polygon(ring * (h, v), ring * (h - w, v - w)),
    }  # fmt: skip


def moved(shape: Polygon, angle: float, shift: Any) -> Polygon:
    """A polygon turned about the origin, by `angle` degrees from columns to rows, and then shifted by `(row, column)`.

    >>> bar = polygon([(-1, -3), (-1, 3), (1, 3), (1, -3)])
    >>> print(coverage(moved(bar, 90, (3, 2)), (2, 4)))
    [[0. 1. 1. 0.]
     [0. 1. 1. 0.]]
    """
    sin, cos = _direction(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    return Polygon(*((np.asarray(p) @ turn.T + np.asarray(shift)).astype(np.float32) for p in shape))


# --- rendering --------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("size", "step"))
def coverage(shape: Shape, size: Size, step: float = 1.0) -> jax.Array:
    """The exact share of every pixel that `shape` covers.

    Args:
      shape: with batch axes `*n`.
      size: rows and columns of the picture.
      step: side of its pixels, in pixels of the high resolution.

    Returns:
      (*n, rows, columns) float32 in [0, 1].

    >>> import jax.numpy as jnp
    >>> disc = Disc(center=jnp.array([8.0, 8.0]), radius=jnp.array([3.0, 5.0]))
    >>> [round(float(total), 3) for total in coverage(disc, (16, 16)).sum((1, 2)) / jnp.pi]
    [9.0, 25.0]
    """
    match shape:
        case HalfPlane():
            return _halfplane(_depth(shape, size, step), shape.angle)
        case Strip():
            depth, half = _depth(shape, size, step), _pixelwise(shape.width) / (2 * step)
            return _halfplane(depth + half, shape.angle) - _halfplane(depth - half, shape.angle)
        case Disc():
            return _disc(shape, size, step)
        case Polygon():
            return _polygon(shape, size, step)
    raise TypeError(f"coverage: shape must be a HalfPlane, Strip, Disc or Polygon; got {type(shape).__name__}.")


def labels(shape: Shape, size: Size, step: float = 1.0) -> jax.Array:
    """Where `shape` covers at least half of a pixel: (*n, rows, columns) int32. Arguments as of `coverage`.

    >>> import jax.numpy as jnp
    >>> print(labels(Disc(jnp.array([2.0, 2.0]), jnp.array(1.5)), (4, 4)))
    [[0 0 0 0]
     [0 1 1 0]
     [0 1 1 0]
     [0 0 0 0]]
    """
    return (coverage(shape, size, step) >= 0.5).astype(jnp.int32)


def square_share(depth: jax.Array, across: jax.Array, along: jax.Array) -> jax.Array:
    """The share of the unit square, u and v within 1/2 of zero, on which `depth + across * u + along * v >= 0`.

    A sum of two uniform numbers has a trapezoid for density; this is the area under it. All three broadcast, and signs
    of `across` and `along` do not matter.

    >>> print(square_share(0.25, 1.0, 0.0), square_share(0.0, 1.0, 1.0), square_share(0.5, 1.0, 1.0))
    0.75 0.5 0.875
    """
    depth, across, along = (jnp.asarray(x, jnp.float32) for x in (depth, jnp.abs(across), jnp.abs(along)))
    wide, narrow, far = jnp.maximum(across, along), jnp.minimum(across, along), jnp.abs(depth)
    flat = 0.5 + far / jnp.maximum(wide, _TINY)
    rest = jnp.maximum((wide + narrow) / 2 - far, 0)
    sloped = 1 - rest**2 / jnp.maximum(2 * wide * narrow, _TINY)
    share = jnp.where(far <= (wide - narrow) / 2, flat, sloped)
    # A square that is level lies above zero as a whole, or not at all.
    return jnp.where(wide == 0, depth >= 0, jnp.where(depth >= 0, share, 1 - share))


_TINY = 1e-30


def _halfplane(depth: jax.Array, angle: jax.Array) -> jax.Array:
    normal = direction(angle)
    return square_share(depth, _pixelwise(normal[..., 0]), _pixelwise(normal[..., 1]))


def _depth(shape: HalfPlane | Strip, size: Size, step: float) -> jax.Array:
    """How far behind the line through `shape.point` pixels' centers lie, in pixels of the picture."""
    normal = direction(shape.angle)
    rows, columns = _centers(size)
    ahead = (rows - _pixelwise(shape.point[..., 0]) / step) * _pixelwise(normal[..., 0])
    return -(ahead + (columns - _pixelwise(shape.point[..., 1]) / step) * _pixelwise(normal[..., 1]))


def _disc(disc: Disc, size: Size, step: float) -> jax.Array:
    """Every pixel is cut at the disc's two axes, and the parts are mirrored into the first quadrant."""
    radius = _pixelwise(disc.radius) / step
    rows, columns = (x - 0.5 - _pixelwise(disc.center[..., i]) / step for i, x in enumerate(_centers(size)))
    total = 0.0
    for bottom, top in _folded(rows):
        for left, right in _folded(columns):
            total += _quadrant(left, right, bottom, top, radius)
    return total


def _folded(low: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """The part of [low, low + 1] above zero, and the part below it, mirrored."""
    return [(jnp.maximum(low, 0), jnp.maximum(low + 1, 0)), (jnp.maximum(-low - 1, 0), jnp.maximum(-low, 0))]


def _quadrant(left: jax.Array, right: jax.Array, bottom: jax.Array, top: jax.Array, radius: jax.Array) -> jax.Array:
    """The area of [left, right] x [bottom, top], both above zero, within `radius` of the origin.

    That is the integral of the circle's height y, cut to [bottom, top]. The circle leaves the top at `near` and the
    bottom at `far`; between them lies a trapezoid below the chord, and the segment that the chord cuts off.
    """

    def height(x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.maximum((radius - x) * (radius + x), 0))

    near, far = (jnp.clip(height(y), left, right) for y in (top, bottom))
    width, rise = far - near, height(near) - height(far)
    trapezoid = width * ((height(near) - bottom) + (height(far) - bottom)) / 2
    half_chord = jnp.sqrt(width**2 + rise**2) / 2
    angle = 2 * jnp.arcsin(jnp.clip(half_chord / radius, 0, 1))
    # angle - sin(angle), as a series where the difference would cancel.
    series = angle**3 / 6 * (1 - angle**2 / 20 * (1 - angle**2 / 42 * (1 - angle**2 / 72)))
    segment = radius**2 / 2 * jnp.where(angle < 0.5, series, angle - jnp.sin(angle))
    # Past the disc there is no arc: the heights are zero there and the cuts coincide.
    return (near - left) * (top - bottom) + jnp.where(width > 0, jnp.maximum(trapezoid, 0) + segment, 0)


def _polygon(shape: Polygon, size: Size, step: float) -> jax.Array:
    """Green's theorem: the area of a pixel's part of the polygon is the sum over edges of the integral of the edge's
    height above the pixel's first row, cut to [0, 1], over the columns that the edge has in common with the pixel."""
    rows, columns = (x - 0.5 for x in _centers(size))

    def add(total: jax.Array, edge: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        (y0, x0), (y1, x1) = ((_pixelwise(p[..., 0]) / step, _pixelwise(p[..., 1]) / step) for p in edge)
        left, right = (jnp.clip(x, columns, columns + 1) for x in (x0, x1))
        slope = (y1 - y0) / jnp.where(x1 == x0, 1, x1 - x0)
        # From the nearer end, so that a long edge loses nothing to rounding.
        heights = [
            jnp.where(jnp.abs(x - x0) < jnp.abs(x - x1), y0 + (x - x0) * slope, y1 + (x - x1) * slope)
            for x in (left, right)
        ]
        return total + (right - left) * _mean_clipped(heights[0] - rows, heights[1] - rows), None

    batch = jnp.broadcast_shapes(shape.start.shape[:-2], shape.end.shape[:-2])
    edges = tuple(jnp.moveaxis(jnp.asarray(p, jnp.float32), -2, 0) for p in (shape.start, shape.end))
    return jnp.clip(jax.lax.scan(add, jnp.zeros((*batch, *size), jnp.float32), edges)[0], 0, 1)


def _mean_clipped(a: jax.Array, b: jax.Array) -> jax.Array:
    """The mean of clip(t, 0, 1) over the t between a and b."""
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    low_cut, high_cut = jnp.clip(low, 0, 1), jnp.clip(high, 0, 1)
    within = (high_cut - low_cut) * (high_cut + low_cut) / 2
    above = jnp.maximum(high, 1) - jnp.maximum(low, 1)
    level = high - low < 1e-6
    return jnp.where(level, low_cut, (within + above) / jnp.where(level, 1, high - low))


# --- the boundary -----------------------------------------------------------------------------------------------------


class Boundary(NamedTuple):
    """The boundary as each pixel's center sees it: (*n, rows, columns) each.

    Attributes:
      distance: to the boundary in pixels of the high resolution, below zero inside.
      angle: of the outward normal at the nearest point of the boundary, degrees in (-180, 180]; NaN where there is
        none: nearest to a corner, at the center of a disc, in the middle of a strip.
      curvature: there, 1 / pixels: 1 / radius on a disc, 0 on straight edges, NaN where nearest to a corner.
    """

    distance: jax.Array
    angle: jax.Array
    curvature: jax.Array


@functools.partial(jax.jit, static_argnames=("size", "step"))
def boundary(shape: Shape, size: Size, step: float = 1.0) -> Boundary:
    """Exact signed distance, orientation and curvature. Arguments as of `coverage`.

    >>> import jax.numpy as jnp
    >>> seen = boundary(Disc(jnp.array([0.5, 0.5]), jnp.array(2.0)), (1, 4))
    >>> print(seen.distance, seen.angle, seen.curvature)
    [[-2. -1.  0.  1.]] [[nan  0.  0.  0.]] [[0.5 0.5 0.5 0.5]]
    """
    match shape:
        case HalfPlane():
            distance = -step * _depth(shape, size, step)
            return Boundary(distance, _wrapped(_pixelwise(shape.angle) + 0 * distance), 0 * distance)
        case Strip():
            ahead = -step * _depth(shape, size, step)
            angle = jnp.where(ahead == 0, jnp.nan, _pixelwise(shape.angle) + jnp.where(ahead > 0, 0, 180))
            return Boundary(jnp.abs(ahead) - _pixelwise(shape.width) / 2, _wrapped(angle), 0 * ahead)
        case Disc():
            rows, columns = (x * step - _pixelwise(shape.center[..., i]) for i, x in enumerate(_centers(size)))
            far = jnp.hypot(rows, columns)
            angle = jnp.where(far == 0, jnp.nan, jnp.rad2deg(jnp.arctan2(rows, columns)))
            return Boundary(far - _pixelwise(shape.radius), angle, 1 / _pixelwise(shape.radius) + 0 * far)
        case Polygon():
            return _polygon_boundary(shape, size, step)
    raise TypeError(f"boundary: shape must be a HalfPlane, Strip, Disc or Polygon; got {type(shape).__name__}.")


def _polygon_boundary(shape: Polygon, size: Size, step: float) -> Boundary:
    rows, columns = (x * step for x in _centers(size))

    def nearer(best: tuple, edge: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
        square, angle, curvature, inside = best
        (y0, x0), (y1, x1) = ((_pixelwise(p[..., 0]), _pixelwise(p[..., 1])) for p in edge)
        dy, dx = y1 - y0, x1 - x0
        share = ((rows - y0) * dy + (columns - x0) * dx) / jnp.maximum(dy**2 + dx**2, _TINY)
        corner = (share < 0) | (share > 1)
        share = jnp.clip(share, 0, 1)
        found = (rows - y0 - share * dy) ** 2 + (columns - x0 - share * dx) ** 2
        closer = (found < square) & ((dy != 0) | (dx != 0))
        angle = jnp.where(closer, jnp.where(corner, jnp.nan, jnp.rad2deg(jnp.arctan2(dx, -dy))), angle)
        curvature = jnp.where(closer, jnp.where(corner, jnp.nan, 0.0), curvature)
        # A ray along the columns crosses the outline an odd number of times from within.
        across = (y0 > rows) != (y1 > rows)
        crossed = across & (columns < x0 + (rows - y0) * dx / jnp.where(dy == 0, 1, dy))
        return (jnp.where(closer, found, square), angle, curvature, inside ^ crossed), None

    batch = (*jnp.broadcast_shapes(shape.start.shape[:-2], shape.end.shape[:-2]), *size)
    first = (jnp.full(batch, jnp.inf), jnp.zeros(batch), jnp.zeros(batch), jnp.zeros(batch, bool))
    edges = tuple(jnp.moveaxis(jnp.asarray(p, jnp.float32), -2, 0) for p in (shape.start, shape.end))
    (square, angle, curvature, inside), _ = jax.lax.scan(nearer, first, edges)
    return Boundary(jnp.where(inside, -1, 1) * jnp.sqrt(square), angle, curvature)


def area(shape: Disc | Polygon) -> jax.Array:
    """The area in square pixels, (*n,)."""
    if isinstance(shape, Disc):
        return jnp.pi * jnp.asarray(shape.radius) ** 2
    middle = (shape.start[..., 0] + shape.end[..., 0]) / 2
    return jnp.sum((shape.end[..., 1] - shape.start[..., 1]) * middle, -1)


def length(shape: Disc | Polygon) -> jax.Array:
    """The length of the boundary in pixels, (*n,).

    >>> import jax.numpy as jnp
    >>> round(float(length(Disc(jnp.zeros(2), jnp.array(1.0)))), 3)
    6.283
    """
    if isinstance(shape, Disc):
        return 2 * jnp.pi * jnp.asarray(shape.radius)
    return jnp.sum(jnp.sqrt(jnp.sum((jnp.asarray(shape.end) - shape.start) ** 2, -1)), -1)


# --- scenes to train on -----------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("n", "cells", "s"))
def random_scenes(key: jax.Array, n: int, cells: int, s: int, complement: float = 0.5) -> tuple[jax.Array, jax.Array]:
    """Random half-planes, discs, strips and corners, as many of each, at stride s and at the high resolution.

    Discs have radii of 0.25 to 5 cells, strips widths of 1 pixel to 3 cells, corners openings of 30 to 150 degrees;
    each lies anywhere in the frame and at any angle.

    Args:
      key: a random key.
      n: number of scenes, a multiple of four.
      cells: side of the frame, in pixels at stride s.
      s: the stride.
      complement: probability that inside and outside change places. At one half, neither class is the rarer one.

    Returns:
      Coverages (n, cells, cells, 1) and (n, cells * s, cells * s, 1).

    >>> low, high = random_scenes(jax.random.key(0), 8, 16, 4, 0.5)
    >>> low.shape, high.shape
    ((8, 16, 16, 1), (8, 64, 64, 1))
    >>> blocks = high.reshape(8, 16, 4, 16, 4).mean((2, 4))
    >>> bool(abs(blocks - low[..., 0]).max() < 1e-5)
    True
    """
    many, rest = divmod(n, 4)
    if rest:
        raise ValueError(f"random_scenes: n must be a multiple of four; got {n}.")
    keys = jax.random.split(key, 4)
    point = jax.random.uniform(keys[0], (4, many, 2), maxval=cells * s)
    angle = jax.random.uniform(keys[1], (4, many), maxval=360.0)
    share = jax.random.uniform(keys[2], (4, many))
    made = (
        HalfPlane(point[0], angle[0]),
        Disc(point[1], s * 0.25 * 20 ** share[1]),
        Strip(point[2], angle[2], (3 * s) ** share[2]),
        wedge(point[3], angle[3], 30 + 120 * share[3]),
    )
    turned = jax.random.bernoulli(keys[3], complement, (n, 1, 1, 1))

    def rendered(size: int, step: int) -> jax.Array:
        inside = jnp.concatenate([coverage(shape, (size, size), step) for shape in made])[..., None]
        return jnp.where(turned, 1 - inside, inside)

    return rendered(cells, s), rendered(cells * s, 1)


# --- small things -----------------------------------------------------------------------------------------------------


def direction(angle: jax.Array) -> jax.Array:
    """Unit vectors `(row, column)` of angles in degrees: (*n,) to (*n, 2)."""
    radians = jnp.deg2rad(jnp.asarray(angle, jnp.float32))
    return jnp.stack([jnp.sin(radians), jnp.cos(radians)], -1)


def _direction(angle: Any) -> np.ndarray:
    return np.stack([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))], -1)


def _centers(size: Size) -> tuple[jax.Array, jax.Array]:
    """Pixels' centers in pixels: (rows, 1) and (columns,)."""
    return jnp.arange(size[0], dtype=jnp.float32)[:, None] + 0.5, jnp.arange(size[1], dtype=jnp.float32) + 0.5


def _pixelwise(x: jax.Array) -> jax.Array:
    """(*n,) to (*n, 1, 1)."""
    return jnp.asarray(x, jnp.float32)[..., None, None]


def _wrapped(angle: jax.Array) -> jax.Array:
    """The same angle in (-180, 180]."""
    return 180 - (180 - angle) % 360
