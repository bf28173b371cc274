"""What the boundary of a class is, and how far two of them lie apart: the part that all boundary metrics share."""

import itertools
import math
from collections.abc import Sequence
from functools import partial, reduce
from operator import and_, or_
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax

from upsampling import _arguments
from upsampling.metrics import _labels
from upsampling.metrics._dilation import as_words, count, dilate, disk, holds, within_squared
from upsampling.metrics._surface_elements import corners, element_sizes
from upsampling.metrics.distance_transform import shift, squared_distance, steps
from upsampling.primitives._common import pad_edges

Boundary = Literal["inside", "between", "elements", "pixels"]
Distance = Literal["euclidean", "chessboard", "taxicab"]
Void = Literal["background", "neutral", "uncounted"]
Unit = Literal["pixels", "diagonal"]

# What stands in a map for pixels without a class: of no class, void, and beyond the image.
NO_CLASS, VOID, BEYOND = -1, -2, -3


class BoundaryDefinition(NamedTuple):
    """What the boundary of a class is. Static and hashable."""

    num_classes: int
    ignore_index: int | None
    spacing: tuple[float, ...]
    void: Void
    boundary: Boundary
    frame: bool
    connectivity: int = 1
    distance: Distance = "euclidean"

    @property
    def of_pixels(self) -> bool:
        """Whether boundaries are made of pixels, and not of points between them."""
        return self.boundary in ("inside", "pixels")


def checked(
    function: str,
    prediction: _labels.LabelMap,
    target: _labels.LabelMap,
    num_classes: int,
    ignore_index: int | None,
    spacing: _labels.Spacing | None,
    axes: _labels.Axes | None,
    void: Void,
    boundary: Boundary = "inside",
    frame: bool = False,
    connectivity: int = 1,
    distance: Distance = "euclidean",
) -> tuple[jax.Array, jax.Array, BoundaryDefinition]:
    """Checks what all boundary metrics take: both maps as int32, spatial axes last, and the definition."""
    prediction, target, num_classes, ignore_index, sizes = _labels.check_pair(
        function, prediction, target, num_classes, ignore_index, axes, spacing
    )
    _arguments.static_size(function, "prediction", prediction, len(sizes), 0)
    _arguments.one_of(function, "void", void, get_args(Void))
    _arguments.one_of(function, "boundary", boundary, get_args(Boundary))
    frame = _arguments.flag(function, "frame", frame)
    if boundary == "elements" and void == "neutral" and ignore_index is not None:
        raise ValueError(
            f'{function}: void="neutral" leaves open how large the elements of boundary="elements" are. '
            'Take void="background" or "uncounted", or boundary="between".'
        )
    connectivity = _arguments.number(function, "connectivity", connectivity)
    if connectivity > (len(sizes) if boundary == "inside" else 1):
        raise ValueError(
            f'{function}: connectivity must be from 1 to {len(sizes)}, the spatial axes, for boundary="inside", and 1 '
            f"otherwise; got {connectivity} with boundary={boundary!r}."
        )
    _arguments.one_of(function, "distance", distance, get_args(Distance))
    if distance != "euclidean" and set(sizes) != {1.0}:
        raise ValueError(f"{function}: distance={distance!r} counts pixels, so spacing must be 1; got {sizes}.")
    definition = BoundaryDefinition(num_classes, ignore_index, sizes, void, boundary, frame, connectivity, distance)
    return prediction, target, definition


def length(
    function: str, argument: str, value: float, unit: Unit, shape: tuple[int, ...], spacing: tuple[float, ...]
) -> float:
    """A static length in the unit of `spacing`, given as it is or as a fraction of the image's diagonal.

    The image is the last axes of `shape`, as many as `spacing` has.
    """
    _arguments.one_of(function, "unit", unit, get_args(Unit))
    value = _arguments.number(function, argument, value, real=True, zero=True)
    if unit == "pixels":
        return value
    if value > 1:
        raise ValueError(
            f'{function}: {argument}={value:g} is a fraction of the diagonal, at most 1. For pixels give unit="pixels".'
        )
    return value * diagonal(shape, spacing)


def diagonal(shape: tuple[int, ...], spacing: tuple[float, ...]) -> float:
    """The image's diagonal, in the unit of `spacing`. The image is the last axes of `shape`."""
    return math.hypot(*(n * s for n, s in zip(shape[-len(spacing) :], spacing, strict=True)))


def encode(
    prediction: jax.Array, target: jax.Array, definition: BoundaryDefinition
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Both maps with codes for what has no class, and which pixels count (None: all of them)."""
    ignored = definition.ignore_index
    void = None if ignored is None else target == ignored
    prediction, target = (
        jnp.where((x >= 0) & (x < definition.num_classes) & (True if ignored is None else x != ignored), x, NO_CLASS)
        for x in (prediction, target)
    )
    if void is None:
        return prediction, target, None
    if definition.void == "uncounted":
        return prediction, target, ~void
    code = VOID if definition.void == "neutral" else NO_CLASS
    return jnp.where(void, code, prediction), jnp.where(void, code, target), None


class SurfaceElements(NamedTuple):
    """What the boundaries of a map consist of, `(images, places, rows, columns)`: pixels, with one place, or points
    between pixels, where several classes may meet.

    slot: the class; num_classes for what is no surface element.
    size: length or area; None if each counts as 1.
    """

    slot: jax.Array
    size: jax.Array | None

    def total(self, num_classes: int, where: jax.Array | bool = True, each: jax.Array | None = None) -> jax.Array:
        """Sum of the sizes, times `each`, where `where` holds: (images, classes)."""
        values = jnp.ones(self.slot.shape, jnp.int32) if self.size is None else self.size
        values = values if each is None else values.astype(each.dtype) * each
        # Row by row, then all rows: float32 would lose additions to one long running sum.
        if self.slot.shape[1] == num_classes:  # a place per class
            return jnp.where(where & (self.slot < num_classes), values, 0).sum(-1).sum(-1)
        slot = jnp.where(where, self.slot, num_classes)
        slot, values = (part.reshape(part.shape[0], -1, part.shape[-1]) for part in (slot, values))
        images, rows, _ = slot.shape
        sums = jnp.zeros((images, rows, num_classes + 1), values.dtype)
        row = jnp.broadcast_to(jnp.arange(rows)[:, None], slot.shape)
        sums = _labels.per_slot(sums, (row, slot), values)
        return sums.sum(1)[:, :-1]


# The surface elements of a map, and what was found out about each.
Measured = tuple[SurfaceElements, jax.Array]


def distances(
    prediction: jax.Array, target: jax.Array, definition: BoundaryDefinition, by_class: bool = False
) -> list[Measured]:
    """The surface elements of both maps `(images, *spatial)`, and how far each is, squared, from the other map's
    boundary of its class; `by_class` gives points a place per class, of which sums are cheaper."""
    where, judged, slots, sizes = _find(prediction, target, definition, by_class)
    if definition.distance == "euclidean":
        squared = squared_distance(_of_the_other(where), definition.spacing, needed=_side_by_side(judged))
    else:
        squared = steps(_of_the_other(where), len(definition.spacing), definition.distance) ** 2
    return _by_map(_at_class(squared, slots), slots, sizes)


def within(
    prediction: jax.Array, target: jax.Array, definition: BoundaryDefinition, tolerance: float
) -> list[tuple[jax.Array, jax.Array]]:
    """For both maps, how much of the boundary is within `tolerance` of the other map's of its class, and how much there
    is, (images, classes)."""
    tolerance = min(tolerance, 2 * diagonal(target.shape, definition.spacing))  # its square must fit 32 bits
    element = disk(definition.spacing, tolerance)
    dilated = []
    if element is not None:
        sets, judged = _sets(prediction, target, definition)
        dilated = [dilate(words, element) for words in sets[::-1]]
        if definition.boundary != "elements":
            # Kept apart from the counts, or XLA computes the sets again for every class.
            near = lax.optimization_barrier([own & other for own, other in zip(judged, dilated, strict=True)])
            counts = partial(count, num_classes=definition.num_classes)
            return [(counts(a), counts(b)) for a, b in zip(near, judged, strict=True)]
    where, judged, slots, sizes = _find(prediction, target, definition)
    if element is None:
        squared = squared_distance(_of_the_other(where), definition.spacing, tolerance, _side_by_side(judged))
        matched = _at_class(within_squared(squared, tolerance), slots)
    else:
        matched = [holds(words, slot) for words, slot in zip(dilated, slots, strict=True)]
    total = partial(SurfaceElements.total, num_classes=definition.num_classes)
    return [(total(x, where=near), total(x)) for x, near in _by_map(matched, slots, sizes)]


def _side_by_side(maps: Sequence[jax.Array]) -> jax.Array:
    """The classes of both maps, (images, 2 * classes, *spatial). Devices share the images, so those keep their axis."""
    return jnp.concatenate(maps, axis=1)


def _of_the_other(maps: Sequence[jax.Array]) -> jax.Array:
    """Side by side what each map's surface elements look for."""
    return _side_by_side(maps[::-1])


def _at_class(x: jax.Array, slots: Sequence[jax.Array]) -> list[jax.Array]:
    """What `x`, of both maps side by side, has at the class of each map's `slot`, (images, places, *grid)."""
    halves = jnp.split(x, 2, axis=1)
    if slots[0].shape[1] == halves[0].shape[1]:  # a place per class
        return halves
    clipped = [jnp.clip(slot, 0, half.shape[1] - 1) for half, slot in zip(halves, slots, strict=True)]
    return [jnp.take_along_axis(half, slot, axis=1) for half, slot in zip(halves, clipped, strict=True)]


def _by_map(
    measured: Sequence[jax.Array], slots: Sequence[jax.Array], sizes: Sequence[jax.Array | None]
) -> list[Measured]:
    """The surface elements of each map with what was measured, all spatial axes but the last as one: there are rows and
    columns whatever the rank."""

    def in_rows(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], -1, x.shape[-1])

    return [
        (SurfaceElements(in_rows(slot), None if size is None else in_rows(size)), in_rows(x))
        for x, slot, size in zip(measured, slots, sizes, strict=True)
    ]


def _find(
    prediction: jax.Array, target: jax.Array, definition: BoundaryDefinition, by_class: bool = False
) -> list[tuple]:
    """What `_inside` or `_between` finds, each in both maps."""
    *maps, counted = encode(prediction, target, definition)
    find = _inside if definition.of_pixels else partial(_between, by_class=by_class)
    return list(zip(*(find(x, counted, definition) for x in maps), strict=True))


def _classes(definition: BoundaryDefinition) -> jax.Array:
    return jnp.arange(definition.num_classes, dtype=jnp.int32).reshape(1, -1, *[1] * len(definition.spacing))


def _sets(
    prediction: jax.Array, target: jax.Array, definition: BoundaryDefinition
) -> tuple[list[jax.Array], list[jax.Array]]:
    """The classes that have a surface element at a pixel or between pixels, in both maps, as words: all, and those that
    count."""
    *maps, counted = encode(prediction, target, definition)
    if definition.of_pixels:
        sets = [as_words(jnp.where(_edge(x, definition), x, NO_CLASS), definition.num_classes) for x in maps]
    else:
        sets = [_meeting(_blocks(x, definition.frame), definition.num_classes) for x in maps]
        counted = None if counted is None else reduce(and_, _blocks(counted, definition.frame, True))
    sets = lax.optimization_barrier(sets)
    judged = sets if counted is None else [jnp.where(counted[:, None], words, jnp.uint32(0)) for words in sets]
    return sets, judged


def _meeting(pixels: list[jax.Array], num_classes: int) -> jax.Array:
    """The classes of a block's pixels if there are several of them, as words; what is void is none."""
    lowest = reduce(jnp.minimum, [jnp.where(pixel == VOID, num_classes, pixel) for pixel in pixels])
    highest = reduce(jnp.maximum, [jnp.where(pixel == VOID, BEYOND, pixel) for pixel in pixels])
    present = reduce(or_, [as_words(pixel, num_classes) for pixel in pixels])
    return jnp.where((lowest < highest)[:, None], present, jnp.uint32(0))


def _edge(x: jax.Array, definition: BoundaryDefinition) -> jax.Array | bool:
    """Which pixels have a neighbor of another class; all of them where these are what is compared."""
    everywhere = definition.boundary == "pixels"
    return True if everywhere else touches_another(x, definition.frame, definition.connectivity)


def _inside(x: jax.Array, counted: jax.Array | None, definition: BoundaryDefinition) -> tuple:
    """Pixels of a class beside one that is not: where, judged (images, classes, *spatial); slot and size of the one
    place (images, 1, *spatial)."""
    own = jnp.where(_edge(x, definition) & (x >= 0), x, definition.num_classes)
    judged = own if counted is None else jnp.where(counted, own, definition.num_classes)
    # Kept apart from what follows, or XLA computes the edge again for every class.
    own, judged = lax.optimization_barrier((own, judged))
    where, judge = (slot[:, None] == _classes(definition) for slot in (own, judged))
    return where, judge, judged[:, None], None


def _between(x: jax.Array, counted: jax.Array | None, definition: BoundaryDefinition, by_class: bool) -> tuple:
    """Points between pixels of a class and others: where, judged (images, classes, *grid); slot and size of each place
    (images, places, *grid).

    In a point no more classes meet than pixels: there is a place per class or per pixel, whichever are fewer, if not
    `by_class`.
    """
    classes, none = _classes(definition), definition.num_classes
    pixels = _blocks(x, definition.frame)
    counts = True if counted is None else reduce(and_, _blocks(counted, definition.frame, True))[:, None]

    met = _meeting(pixels, none)
    where = holds(met, classes)
    judged = where & counts
    if by_class or none <= len(pixels):
        of, slot = classes, jnp.where(judged, classes, none)
    else:
        of = jnp.stack(pixels, axis=1)
        # The first pixel of a class stands for it.
        first = [reduce(and_, [pixel != other for other in pixels[:k]], pixel >= 0) for k, pixel in enumerate(pixels)]
        slot = jnp.where(jnp.stack(first, axis=1) & holds(met, of) & counts, of, none)
    if definition.boundary == "between":
        return where, judged, slot, None
    code = sum((pixel[:, None] == of).astype(jnp.int32) << k for k, pixel in enumerate(pixels))
    return where, judged, slot, jnp.asarray(element_sizes(definition.spacing))[code]


def touches_another(x: jax.Array, frame: bool, connectivity: int = 1) -> jax.Array:
    """Whether a pixel of an encoded map has a neighbor of another class, or beyond the image's frame.

    Neighbors share a side; with a connectivity of 2 an edge or a corner too, each axis beyond the first by one pixel.
    """
    touches = jnp.zeros(x.shape, bool)
    for shifts in itertools.product((0, 1, -1), repeat=x.ndim - 1):
        if not 1 <= sum(map(abs, shifts)) <= connectivity:
            continue
        other = x
        for axis, by in enumerate(shifts, start=1):
            other = shift(other, by, axis, BEYOND) if by else other
        touches |= (other != x) & (other != VOID) & (frame | (other != BEYOND))
    return touches & (x != VOID)


def _blocks(x: jax.Array, frame: bool, beyond: int = BEYOND) -> list[jax.Array]:
    """Every block's pixels, corner by corner. With the frame, blocks reach one pixel beyond the image on either side;
    without, the last row repeats, as in the boundary maps of DAVIS, so that there is a block for every pixel."""
    inner = [(0, 0)] + [(1, 1) if frame else (0, 1)] * (x.ndim - 1)
    padded = jnp.pad(x, inner, constant_values=beyond) if frame else pad_edges(x, inner)
    blocks = []
    for corner in corners(x.ndim - 1):
        ends = (None if offset else -1 for offset in corner)
        blocks.append(padded[(slice(None), *(slice(o, e) for o, e in zip(corner, ends, strict=True)))])
    return blocks
