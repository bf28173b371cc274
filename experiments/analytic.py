"""The analytic design: what an upsampler does to a boundary whose place is known.

Scenes are rendered by exact coverage (`experiments.data.shapes`) at stride s, enlarged, and cut at one half: a pixel
is foreground where its value is at least 0.5. Then the areas of what came out and of the scene itself are compared. So
an edge's displacement is an area divided by a length, in pixels of the high resolution, positive where the shape grows.
Nothing here is trained, but for what `train_on_shapes` makes.

    >>> found = measure(interpolator("nearest", "torch", 2, finer=3), 2)
    >>> found["edges"]["curve"]["worst"]  # nearest moves an edge by half a cell at most: s / 2, next to where it jumps
    0.98438

How areas are taken. Values are known at pixels, and the line where they pass 0.5 runs between pixels. `contour=True`,
the default, takes a pixel's value for the value at its center, on a plane with the slopes that the neighbors tell
(`_slope`), and counts the share of the pixel above 0.5. A jump between two pixels that are each level with their other
neighbor stays where it is: of maps of zeros and ones whole pixels are counted. `contour=False` counts whole pixels of
any map: labels as a segmentation has them, each edge exact to half a pixel. The exact picture itself, rendered at the
high resolution, has errors in this too (`reference`), and no method that gives one value per pixel can be told from it
below them.

A bare interpolator is a function of the plane, and is evaluated at `finer` points per pixel and axis (`interpolator`),
which makes displacements exact to a hundredth of a pixel.

The frame is 16 x 16 cells, a cell being a pixel at stride s. Measured is the middle of it, at least four cells from the
frame, so that what a method does there (it differs) is left out.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import upsampling as up
from experiments import methods, training
from experiments.data import shapes
from experiments.models.stride import Head
from upsampling.conventions import Convention

Upsample = Callable[..., jax.Array]
Figures = dict[str, Any]

CELLS = 16
ANGLES = tuple(range(0, 91, 5))  # of an edge's normal, degrees
OFFSETS = 16  # places of an edge within a cell
CURVE = 64  # the same, for the curve of an edge along the grid
RADII = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # of discs, cells
OPENINGS = (45, 90, 135)  # of corners, degrees
WIDTHS = (1, 2, 3, 4, 5, 6)  # of thin lines, pixels
_WINDOW = 3  # cells to either side of the middle in which straight edges and lines are measured
_CHUNK = 32  # scenes at a time: one shape, so that each method is compiled once

BARE = {
    "nearest": ("nearest", "torch"),
    "bilinear": ("bilinear", "torch"),
    "bicubic": ("bicubic", "torch"),
    "jax_bicubic": ("bicubic", "jax"),
    "lanczos3": ("lanczos3", "jax"),
    "mitchell": ("mitchell", "tensorflow"),
    "tensorflow1_bilinear": ("bilinear", "tensorflow1"),
    "torch_align_corners_bilinear": ("bilinear", "torch_align_corners"),
}


# --- the methods ------------------------------------------------------------------------------------------------------


@functools.cache  # and so compiled once
def interpolator(method: str, convention: str | Convention, s: int, finer: int = 1) -> Upsample:
    """`up.resize` by s, evaluated at `finer` points per pixel and axis.

    The interpolant that a convention means is a function of the plane, of which the pixels of its picture are samples
    at their centers. Here the same function is sampled more densely. On half-pixel grids that is resizing by
    `s * finer`. On corner-anchored grids it is not: pixel i of the picture has its center at i + 1/2 and reads input
    coordinate i / s (tensorflow1) or i (n - 1) / (n s - 1) (align_corners). Sample j lies at (j + 1/2) / finer, on
    pixel coordinate i = (j - (finer - 1) / 2) / finer, and reads the input there. So with an odd `finer` the samples
    are those of the convention's own picture at s * finer (or of (n s - 1) finer + 1 samples), which starts
    (finer - 1) / 2 samples late; edge samples repeat before and behind. For every convention the samples
    (finer - 1) / 2, and each finer-th from there, are the picture itself.

    Nearest is constant on pixels: each is repeated.

    Args:
      method, convention: as in `up.resize`.
      s: the factor.
      finer: an odd number.

    Returns:
      A function from (n, h, w, channels) to (n, h * s * finer, w * s * finer, channels).

    Raises:
      ValueError: an even `finer`, or a grid of which no finer one is known.

    >>> import jax.numpy as jnp
    >>> ramp = jnp.arange(3.0)[None, None, :, None]
    >>> fine = interpolator("bilinear", "tensorflow1", 2, finer=3)(ramp)
    >>> print(fine[0, 0, 1::3, 0], (6 * fine[0, 0, :7, 0]).round().astype(int))
    [0.  0.5 1.  1.5 2.  2. ] [0 0 1 2 3 4 5]
    """
    if finer < 1 or finer % 2 == 0:
        raise ValueError(f"interpolator: finer must be odd; got {finer}.")
    preset = up.conventions.get("interpolator", convention)
    resize = functools.partial(up.resize, method=method, convention=preset)
    if finer == 1:
        return jax.jit(lambda low: resize(low, scale=s))
    if method.startswith("nearest"):
        return jax.jit(lambda low: resize(low, scale=s).repeat(finer, 1).repeat(finer, 2))
    grid, late = preset.grid, (finer - 1) // 2
    if grid == "crop":
        raise ValueError(f"interpolator: no finer grid is known for convention {preset.name!r}, grid {grid!r}.")

    def fine(low: jax.Array) -> jax.Array:
        h, w = low.shape[1:3]
        if grid == "align_corners":
            size = tuple((n * s - 1) * finer + 1 for n in (h, w))
        else:
            size = (h * s * finer, w * s * finer)
        high = resize(low, size)
        if grid in ("corner", "align_corners"):
            high = jnp.pad(high, ((0, 0), (late, late), (late, late), (0, 0)), mode="edge")
        return high[:, : h * s * finer, : w * s * finer]

    return jax.jit(fine)


def enough(s: int) -> int:
    """The smallest odd `finer` that gives 12 samples per cell, with which displacements are exact to 0.01 pixel."""
    return next(finer for finer in range(1, 13, 2) if s * finer >= 12)


def bare(s: int, names: Any = None) -> dict[str, Figures]:
    """What the interpolators do, without any training.

    Args:
      s: the factor.
      names: some of those in `BARE` and of those that `up.nn.available()` has in the family interpolation; all if not
        given.

    Returns:
      The figures of each, by name.
    """
    known = _interpolators(s)
    return {name: measure(known[name], s) for name in (known if names is None else names)}


def reference(s: int) -> Figures:
    """The figures of the exact picture itself, at one value per pixel: what is left of a perfect method."""
    return measure(lambda low, high: high, s, guided=True)


def _interpolators(s: int) -> dict[str, Upsample]:
    """Each interpolator by name: those of the registry, and then those that it does not have."""
    known: dict[str, Any] = {}
    for name, method in up.nn.available().items():
        if method.family == "interpolation":
            layer = up.nn.create(name, 1, s, rngs=nnx.Rngs(0))
            known[name] = (layer.method, layer.convention) if hasattr(layer, "convention") else jax.jit(layer)
    known |= {name: what for name, what in BARE.items() if name not in known and what not in known.values()}
    finer = enough(s)
    return {name: interpolator(*what, s, finer) if isinstance(what, tuple) else what for name, what in known.items()}


# --- the figures ------------------------------------------------------------------------------------------------------


def measure(upsample: Upsample, s: int, *, guided: bool = False, contour: bool = True) -> Figures:
    """Everything that is measured of a method.

    Args:
      upsample: (n, 16, 16, 1) coverage at stride s to (n, 16 s, 16 s, 1) values, or to a multiple of that size
        (`interpolator`); foreground is where a value is at least 0.5.
      s: the factor.
      guided: whether `upsample` is also given the scenes' (n, 16 s, 16 s, 1) coverage at the high resolution.
      contour: whether the line through 0.5 is followed within pixels, or whole pixels are counted.

    Returns:
      Plain numbers, strings and lists of them, ready for JSON; lengths in pixels of the high resolution.

      scale, samples_per_pixel, contour.
      edges: straight edges at `angles` (of the normal, degrees), each at 16 places within a cell, inside on either
        side. Displacement along the outward normal, averaged over six cells: `bias` (mean), `rms` and `worst` of all,
        and each `by_angle`. `curve` has the edge along the grid that faces higher columns: `displacement` by `offset`,
        its place within the cell, and bias, rms and worst.
      discs: displacement by radius (`radii`, pixels, and their `curvature`): the area gained over the circumference;
        `bias`, `rms` and `worst` over 16 places within a cell, and the share that `vanished`.
      corners: area lost at corners of `openings` degrees, square pixels, beyond what their two edges lose: `loss`
        (mean over directions and places), and `loss_along_grid` of 90 degrees with edges along the grid.
      lines: thin lines of `widths` pixels, mean over angles and offsets: `recall`, the share of their area that is
        found; `area`, what is found in all, over the true area; `broken`, the share that is interrupted or gone. And
        the means over widths, `mean_recall` and `mean_broken`.
      strokes: wrong area per length of boundary, pixels, of letters (pen of 1.25 cells) and of spirals (pens of 0.75, 1
        and 1.5 cells): `names`, `wrong`, and their `mean`.
      shift: how far the centroids of discs move: `row` and `column`, and `stretch`, how much farther outwards at the
        frame's border than in its middle.

    Raises:
      ValueError: results of another size.
    """
    look = _Look(upsample, s, guided, contour)
    shift = _shift(look)
    return {
        "scale": s,
        "samples_per_pixel": look.finer,
        "contour": contour,
        "edges": _edges(look),
        "discs": _discs(look),
        "corners": _corners(look, (shift["row"], shift["column"])),
        "lines": _lines(look),
        "strokes": _strokes(look),
        "shift": shift,
    }


class _Look:
    """Shows scenes to a method, a few at a time, and reduces what comes out to a few numbers per scene."""

    def __init__(self, upsample: Upsample, s: int, guided: bool, contour: bool):
        self.upsample, self.s, self.guided, self.contour = upsample, s, guided, contour
        self.size = CELLS * s
        low = jax.ShapeDtypeStruct((_CHUNK, CELLS, CELLS, 1), jnp.float32)
        high = jax.ShapeDtypeStruct((_CHUNK, self.size, self.size, 1), jnp.float32)
        given = jax.eval_shape(upsample, low, *([high] if guided else [])).shape
        self.finer = given[1] // self.size
        if self.finer < 1 or given != (_CHUNK, self.size * self.finer, self.size * self.finer, 1):
            raise ValueError(f"measure: upsample must give (n, {self.size}, {self.size}, 1) or more; got {given}.")

    @property
    def middle(self) -> float:
        return self.size / 2

    def __call__(self, shape: Any, reduce: Callable[..., Any], *arrays: Any) -> tuple[np.ndarray, ...]:
        """`reduce(inside, pixel, *arrays)` of all scenes: the share of each sample that is foreground, the samples'
        distance in pixels, and what else belongs to the scenes, each with the scenes first."""
        n = len(jax.tree.leaves(shape)[0])
        found = [reduce(*given) for given in self._inside(n, shape, arrays)]
        return tuple(np.concatenate([np.asarray(x, np.float64) for x in part])[:n] for part in zip(*found, strict=True))

    def _inside(self, n: int, shape: Any, arrays: tuple) -> Iterator[tuple]:
        for start in range(0, n, _CHUNK):
            # The last scenes are filled up with the first.
            scenes = np.arange(start, start + _CHUNK) % n
            some, *others = jax.tree.map(lambda x, scenes=scenes: np.asarray(x)[scenes], (shape, *arrays))
            low = shapes.coverage(some, (CELLS, CELLS), self.s)[..., None]
            guide = [shapes.coverage(some, (self.size, self.size))[..., None]] if self.guided else []
            yield _inside(self.upsample(low, *guide), self.contour), 1 / self.finer, *others


@functools.partial(jax.jit, static_argnames="contour")
def _inside(values: jax.Array, contour: bool) -> jax.Array:
    """The share of every pixel that is foreground: (n, h, w, 1) to (n, h, w)."""
    values = values[..., 0].astype(jnp.float32) - 0.5
    if not contour:
        return (values >= 0).astype(jnp.float32)
    return shapes.square_share(values, _slope(values, 1), _slope(values, 2))


def _slope(values: jax.Array, axis: int) -> jax.Array:
    """How steep `values` are along an axis in each pixel: the difference to the neighbor beyond zero, or if there is
    none the smaller of both; zero where both sides do not go the same way, or one is level.

    On a ramp that is the straight line from pixel to pixel. The difference to one side counts for no more than eight
    times that to the other, so that what is level but for rounding is level.
    """
    step = jnp.diff(values, axis=axis)
    ends = [[(0, 0)] * 3 for _ in range(2)]
    ends[0][axis], ends[1][axis] = (1, 0), (0, 1)
    before, after = (jnp.pad(step, end) for end in ends)
    above, back, ahead = values >= 0, jnp.abs(before), jnp.abs(after)
    crossed = jnp.where((values - before >= 0) != above, jnp.minimum(back, 8 * ahead), jnp.minimum(back, ahead))
    crossed = jnp.where((values + after >= 0) != above, jnp.minimum(ahead, 8 * back), crossed)
    return jnp.where(before * after > 0, crossed, 0)


@jax.jit
def _areas(inside: jax.Array, pixel: float, boxes: jax.Array) -> tuple[jax.Array]:
    """Foreground within boxes: (n, boxes, 2 axes, 2 ends) in pixels to (n, boxes) square pixels."""

    def covered(axis: int) -> jax.Array:
        low, high = (boxes[:, :, axis, end, None] / pixel for end in (0, 1))
        at = jnp.arange(inside.shape[1 + axis])
        return jnp.clip(jnp.minimum(at + 1, high) - jnp.maximum(at, low), 0, 1)

    return (jnp.einsum("nhw,nbh,nbw->nb", inside, covered(0), covered(1)) * pixel**2,)


def _spread(values: np.ndarray, axis: Any = None) -> Figures:
    """Mean, root of the mean square, and largest size."""
    return {
        "bias": _plain(values.mean(axis)),
        "rms": _plain(np.sqrt(np.square(values).mean(axis))),
        "worst": _plain(np.abs(values).max(axis)),
    }


def _plain(values: Any) -> Any:
    """Floats or lists of floats with five decimals: what is beyond differs from machine to machine."""
    return (np.round(np.asarray(values, np.float64), 5) + 0.0).tolist()


def _within(n: int) -> np.ndarray:
    """n places in a cell, evenly spread about its middle: never in the middle itself for even n, where ties are."""
    return (np.arange(n) + 0.5) / n - 0.5


def _grid(*parts: Any) -> list[np.ndarray]:
    """All combinations, each flattened."""
    return [x.ravel() for x in np.meshgrid(*parts, indexing="ij")]


# --- straight edges ---------------------------------------------------------------------------------------------------


def _edges(look: _Look) -> Figures:
    angle, offset, side = _grid(ANGLES, _within(OFFSETS), (0, 180))
    found = _displacement(look, angle, offset, side).reshape(len(ANGLES), -1)
    return {**_spread(found), "angles": list(ANGLES), "by_angle": _spread(found, 1), "curve": _edges_curve(look)}


def _edges_curve(look: _Look) -> Figures:
    # It starts at a cell's border: the middle of the frame is one.
    places = _within(CURVE) + 0.5
    found = _displacement(look, *_grid([0], places, [0]))
    return {"offset": _plain(places * look.s), "displacement": _plain(found), **_spread(found)}


def _displacement(look: _Look, angle: np.ndarray, offset: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Displacement of edges `offset` cells from the middle of the frame; (n,) each.

    The offset is along the axis that the edge crosses more steeply, which passes all places within a cell; measured is
    between two lines along that axis, where a displacement times the edge's length is the area gained.
    """
    step, point, box, length = _crossing(look, angle, offset)
    edges = shapes.HalfPlane(point, angle + side)
    (gained,) = look(edges, _areas, box[:, None])
    # The boxes are of whole cells, and the coverage of cells is exact.
    low = shapes.coverage(edges, (CELLS, CELLS), step)
    (true,) = _areas(low, float(step), jnp.asarray(box[:, None]))
    return (gained - np.asarray(true, np.float64))[:, 0] / length


def _crossing(look: _Look, angle: np.ndarray, offset: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """For lines with this normal: the stride, a point of each, the box to measure in, and its length there."""
    s, middle = look.s, look.middle
    normal = np.stack([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))], -1)
    steep = np.abs(normal[:, 0]) > np.abs(normal[:, 1])  # the normal is closer to the rows
    along_rows = np.where(steep[:, None], [1.0, 0.0], [0.0, 1.0])
    point = middle + s * offset[:, None] * along_rows
    ends = middle + np.array([-1, 1]) * _WINDOW * s
    whole = np.array([0, look.size])
    box = np.where(along_rows[..., None] == 1, whole, ends)
    return s, point, box, 2 * _WINDOW * s / np.abs(normal).max(1)


# --- discs ------------------------------------------------------------------------------------------------------------


def _discs(look: _Look) -> Figures:
    radius, row, column = _grid(np.array(RADII) * look.s, _within(4), _within(4))
    discs = shapes.Disc(look.middle + look.s * np.stack([row, column], -1), radius)
    (found,) = look(discs, _areas, np.broadcast_to([[[0, look.size]] * 2], (len(radius), 1, 2, 2)))
    found, radius = found.reshape(len(RADII), -1), radius.reshape(len(RADII), -1)
    moved = (found - np.pi * radius**2) / (2 * np.pi * radius)
    return {
        "radii": _plain(radius[:, 0]),
        "curvature": _plain(1 / radius[:, 0]),
        **_spread(moved, 1),
        "vanished": _plain((found == 0).mean(1)),
    }


def _shift(look: _Look) -> Figures:
    """Discs of two cells' radius, in the middle and three cells away from it."""
    row, column, down, right = _grid([-3, 0, 3], [-3, 0, 3], _within(2), _within(2))
    far = look.s * np.stack([row, column], -1)
    away = far + look.s * np.stack([down, right], -1)
    discs = shapes.Disc(look.middle + away, np.full(len(away), 2.0 * look.s))
    (center,) = look(discs, _centroids)
    moved = center - look.middle - away
    # Regressed on whole cells, of which a disc's place within its cell tells nothing.
    stretch = np.sum(far * moved) / np.sum(far**2) * look.middle
    return {"row": _plain(moved[:, 0].mean()), "column": _plain(moved[:, 1].mean()), "stretch": _plain(stretch)}


@jax.jit
def _centroids(inside: jax.Array, pixel: float) -> tuple[jax.Array]:
    rows, columns = inside.sum(2), inside.sum(1)
    at = (jnp.arange(rows.shape[1]) + 0.5) * pixel
    total = jnp.maximum(rows.sum(1), 1e-9)
    return (jnp.stack([rows @ at / total, columns @ at / total], -1),)


# --- corners ----------------------------------------------------------------------------------------------------------


def _corners(look: _Look, shift: tuple[float, float]) -> Figures:
    """A corner's edges lose or gain an area that grows with their length, the corner itself one that does not: from
    the areas in a square about the apex and in one twice as wide, the second is found. The squares move with the
    method's shift, so that a picture shifted as a whole loses nothing."""
    opening, turn, row, column = _grid(OPENINGS, np.arange(4), _within(8), _within(8))
    bisector = (turn * 112.5 + 45) % 360  # every 22.5 degrees of a quadrant, each in another quadrant
    apex = look.middle + look.s * np.stack([row, column], -1)
    half = look.s * np.array([2.0, 4.0])
    seen = (apex + np.array(shift))[:, None, :, None]
    (found,) = look(shapes.wedge(apex, bisector, opening), _areas, seen + half[None, :, None, None] * np.array([-1, 1]))
    # The true area is exact too: the coverage of a single pixel as large as the square.
    true = [
        shapes.coverage(shapes.wedge(np.full_like(apex, h), bisector, opening), (1, 1), 2 * h)[:, 0, 0] * (2 * h) ** 2
        for h in half
    ]
    gained = found - np.stack(true, -1)
    loss = gained[:, 1] - 2 * gained[:, 0]
    along = (opening == 90) & (bisector % 90 == 45)
    return {
        "openings": list(OPENINGS),
        "loss": _plain(loss.reshape(len(OPENINGS), -1).mean(1)),
        "loss_along_grid": _plain(loss[along].mean()),
    }


# --- thin lines, strokes ----------------------------------------------------------------------------------------------


def _lines(look: _Look) -> Figures:
    width, angle, offset = _grid(WIDTHS, np.arange(0, 91, 10), _within(8))
    _, point, box, _ = _crossing(look, angle, offset)
    lines = shapes.Strip(point, angle, width)
    steep = box[:, 0, 0] == 0
    found = look(lines, functools.partial(_line, half=_WINDOW * look.s), lines, steep)
    recall, area, broken = (x.reshape(len(WIDTHS), -1).mean(1) for x in found)
    return {
        "widths": list(WIDTHS),
        "recall": _plain(recall),
        "area": _plain(area),
        "broken": _plain(broken),
        "mean_recall": _plain(recall.mean()),
        "mean_broken": _plain(broken.mean()),
    }


@functools.partial(jax.jit, static_argnames="half")
def _line(
    inside: jax.Array, pixel: float, lines: shapes.Strip, steep: jax.Array, half: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Recall, area and breaks of lines within `half` pixels of the middle of the frame."""
    size = inside.shape[1:]
    # In samples in place of pixels.
    scaled = shapes.Strip(lines.point / pixel, lines.angle, lines.width / pixel)
    true = shapes.coverage(scaled, size)
    # Cross-sections along the columns of both.
    inside, true = (jnp.where(steep[:, None, None], x, x.mT) for x in (inside, true))
    at = (jnp.arange(size[1]) + 0.5) * pixel - size[1] * pixel / 2
    window = jnp.abs(at) < half
    inside, true = inside * window, true * window
    total = true.sum((1, 2))
    # A sample that both cut is cut by both on the same side, as long as the method is roughly right.
    recall = jnp.minimum(inside, true).sum((1, 2)) / total
    crossed = jnp.any((inside >= 0.5) & (true > 0), 1)
    return recall, inside.sum((1, 2)) / total, ~jnp.all(crossed | ~window, 1)


def _strokes(look: _Look) -> Figures:
    names, drawn = _drawings(look.s)
    true = _drawn(look.s, look.finer)
    (wrong,) = look(drawn, _wrong, true)
    wrong = wrong / np.asarray(shapes.length(drawn), np.float64)
    by_name = {name: _plain(wrong[[n == name for n in names]].mean()) for name in dict.fromkeys(names)}
    return {
        "names": list(by_name),
        "wrong": list(by_name.values()),
        "mean": _plain(np.mean(list(by_name.values()))),
    }


@jax.jit
def _wrong(inside: jax.Array, pixel: float, true: jax.Array) -> tuple[jax.Array]:
    return (jnp.abs(inside - true).sum((1, 2)) * pixel**2,)


@functools.cache
def _drawings(s: int) -> tuple[list[str], shapes.Polygon]:
    """Letters at three angles, away from the grid's lines, and spirals with gaps as wide as the pen."""
    middle = np.full(2, CELLS * s / 2)
    drawn = [
        (name, shapes.moved(letter, angle, middle + s * np.array([0.13, 0.29])))
        for name, letter in shapes.glyphs(8.0 * s, 1.25 * s).items()
        for angle in (0, 20, 45)
    ]
    for pen in (0.75, 1.0, 1.5):
        drawn.append((f"spiral {pen:g}", shapes.spiral(middle, pen * s, 2 * pen * s, 2, pen * s)))
    names, polygons = zip(*drawn, strict=True)
    return list(names), shapes.stack(polygons)


@functools.cache
def _drawn(s: int, finer: int) -> np.ndarray:
    """The drawings at `finer` samples per pixel; kept, since every method is compared to them."""
    size = CELLS * s * finer
    return np.asarray(shapes.coverage(_drawings(s)[1], (size, size), 1 / finer))


# --- learned methods --------------------------------------------------------------------------------------------------

Loss = Callable[[jax.Array, jax.Array], jax.Array]
RATES = (3e-2, 1e-2)
"""Learning rates that a method is trained on shapes with; the better one counts."""


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Mean binary cross-entropy of logits and labels 0 or 1, of one shape.

    >>> import jax.numpy as jnp
    >>> round(float(cross_entropy(jnp.zeros((1, 4, 4, 1)), jnp.ones((1, 4, 4, 1)))), 6)  # log 2
    0.693147
    """
    return optax.sigmoid_binary_cross_entropy(logits, label).mean()


def dice(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Soft Dice loss (Milletari et al. 2016, arXiv:1606.04797) of the batch, the mean of foreground and background.

    Smoothed by one, as in `experiments.tasks.segmentation`.
    """
    loss = 0.0
    for p, t in ((jax.nn.sigmoid(logits), label), (jax.nn.sigmoid(-logits), 1 - label)):
        loss += 0.5 * (1 - (2 * jnp.sum(p * t) + 2) / (jnp.sum(p) + jnp.sum(t) + 2))
    return loss


def cross_entropy_and_dice(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Both: the loss of the study's networks."""
    return cross_entropy(logits, label) + dice(logits, label)


class Trained(NamedTuple):
    """What `train_on_shapes` returns.

    Attributes:
      upsample: for `measure`: coverage, and the exact picture if `guided`, to the probability of foreground.
      guided: whether it takes the picture.
      learning_rate: the one that was kept.
      losses: of each step.
      unseen_loss: of scenes that it was not trained on.
    """

    upsample: Upsample
    guided: bool
    learning_rate: float
    losses: list[float]
    unseen_loss: float


class _Scenes:
    """Endless batches of random scenes, the n-th a function of seed and n; with a key for the guide's noise."""

    def __init__(self, seed: int, batch: int, s: int, complement: float):
        self._key, self._make, self._next = jax.random.key(seed), (batch, CELLS, s, complement), 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        where, noises = jax.random.split(jax.random.fold_in(self._key, self._next))
        self._next += 1
        return *shapes.random_scenes(where, *self._make), noises

    def get_state(self) -> dict[str, int]:
        return {"next": self._next}

    def set_state(self, state: Mapping[str, int]) -> None:
        self._next = state["next"]


def train_on_shapes(
    method: str,
    s: int,
    seed: int = 0,
    steps: int = 800,
    *,
    loss: Loss = cross_entropy,
    features: int = 16,
    batch: int = 8,
    learning_rates: Sequence[float] = RATES,
    noise: float = 0.1,
    complement: float = 0.5,
    variant: str | None = None,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Trained:
    """Trains a method on random shapes (`shapes.random_scenes`), between two 1x1 convolutions (`models.stride.Head`).

    It sees coverage at stride s and learns the label of every pixel at the high resolution: 1 where the shape covers
    half of it. A method with a guide sees the exact picture at the high resolution, with noise, by a 1x1 convolution.

    Args:
      method: a name that `methods.find` knows.
      s: the factor.
      seed: of parameters and scenes.
      steps: Adam's. After a few hundred an edge may still lie 0.1 pixels off, since the threshold is found more slowly
        than the slope.
      loss: of logits and labels, (batch, H, W, 1) both.
      features: channels that the method works on.
      batch: scenes per step, a multiple of four.
      learning_rates: as in `training.Options`. Of several, the one with the least loss on unseen scenes is kept.
      noise: standard deviation of the guide's noise; the picture's range is 0 to 1.
      complement: probability that inside and outside change places (`shapes.random_scenes`); at one half, a loss that
        treats both classes alike has no reason to move an edge to either side. At zero the foreground is what bulges
        and what is thin. Interpolation makes such shapes smaller, training makes up for it by a lower threshold, and
        straight edges end up 0.2 pixels outwards (bilinear, s = 4), whether the loss has a Dice term or not.
      variant: named settings of the method.
      progress: told the step number and loss after each step.

    Raises:
      training.Diverged: with every learning rate.

    >>> trained = train_on_shapes("bilinear", 4, steps=2)
    >>> trained.upsample(jnp.zeros((1, 16, 16, 1))).shape
    (1, 64, 64, 1)
    """
    guided = methods.find(method).uses_guide
    rngs = nnx.Rngs(seed)
    # As a trunk's strided convolution would be, for a method that undoes one.
    kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs(), (2 * s, 2 * s, features, features)))
    variants = () if variant is None else (variant,)
    model = Head(features, 1, method, s, in_features=1, guide_features=1, kernel=kernel, variants=variants, seed=seed)
    structure, params, rest = nnx.split(model, nnx.Param, ...)

    def logits(params: nnx.State, low: jax.Array, high: jax.Array, key: jax.Array) -> jax.Array:
        guide = high + noise * jax.random.normal(key, high.shape) if guided else None
        return nnx.merge(structure, params, rest)(low, guide)

    def of_batch(params: nnx.State, rest: nnx.State, batch: tuple) -> tuple[jax.Array, nnx.State]:
        return loss(logits(params, *batch), (batch[1] >= 0.5).astype(jnp.float32)), rest

    unseen = list(itertools.islice(_Scenes(seed + 2**20, batch, s, complement), 16))
    losses = jax.jit(lambda params, rest: jnp.mean(jnp.stack([of_batch(params, rest, b)[0] for b in unseen])))
    fitted = None
    for rate in learning_rates:
        try:
            tried = training.fit(
                jax.tree.map(jnp.copy, params),  # the update takes its memory
                jax.tree.map(jnp.copy, rest),
                of_batch,
                _Scenes(seed, batch, s, complement),
                training.Options(steps, rate, weight_decay=0.0, validations=1),
                folder=None,
                validate=lambda *variables: {"loss": float(losses(*variables))},
                progress=progress,
                program=fitted and fitted.program,
            )
        except training.Diverged:
            if fitted is None and rate == learning_rates[-1]:
                raise
            continue
        if fitted is None or tried.history.validation[-1]["loss"] < fitted.history.validation[-1]["loss"]:
            fitted, best = tried, rate

    @jax.jit
    def upsample(low: jax.Array, high: jax.Array | None = None) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), steps)
        return jax.nn.sigmoid(logits(fitted.params, low, low if high is None else high, key))

    return Trained(upsample, guided, best, fitted.history.loss, fitted.history.validation[-1]["loss"])
