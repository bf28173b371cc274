"""What the boundary of a class is, and how far two of them lie apart: the part that all boundary metrics share."""

import math
from functools import reduce
from operator import and_, or_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from upsampling import _arguments
from upsampling.metrics._dilation import near, rows_of, within_squared
from upsampling.metrics._surface_elements import corners, element_sizes
from upsampling.metrics.distance_transform import shift, squared_distance

BOUNDARIES = ("inside", "between", "elements")
VOIDS = ("background", "neutral", "uncounted")
UNITS = ("pixels", "diagonal")

# What stands in a map for pixels without a class: of no class, void, and beyond the image.
NO_CLASS, VOID, BEYOND = -1, -2, -3


class Rule(NamedTuple):
    """Which definition of a boundary. Static and hashable."""

    num_classes: int
    ignore_index: int | None
    spacing: tuple[float, ...]
    void: str
    boundary: str = "inside"
    frame: bool = False


def rule(
    function: str,
    num_classes: int,
    ignore_index: int | None,
    spacing: tuple[float, ...],
    void: str,
    boundary: str = "inside",
    frame: bool = False,
) -> Rule:
    """Checks the arguments that choose a definition."""
    _arguments.one_of(function, "void", void, VOIDS)
    _arguments.one_of(function, "boundary", boundary, BOUNDARIES)
    if not isinstance(frame, bool):
        raise TypeError(f"{function}: frame must be True or False; got {frame!r}.")
    if boundary == "elements" and void == "neutral" and ignore_index is not None:
        raise ValueError(
            f'{function}: void="neutral" leaves open how large the elements of boundary="elements" are. '
            'Take void="background" or "uncounted", or boundary="between".'
        )
    return Rule(num_classes, ignore_index, spacing, void, boundary, frame)


def length(
    function: str, argument: str, value: Any, unit: str, shape: tuple[int, ...], spacing: tuple[float, ...]
) -> float:
    """A static length in the unit of `spacing`, given as it is or as a fraction of the image's diagonal."""
    _arguments.one_of(function, "unit", unit, UNITS)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{function}: {argument} must be a Python number; got {value!r}.")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{function}: {argument} must be finite and at least 0; got {value!r}.")
    if unit == "pixels":
        return float(value)
    if value > 1:
        raise ValueError(
            f'{function}: {argument}={value!r} is a fraction of the diagonal, at most 1. For pixels give unit="pixels".'
        )
    return value * diagonal(shape, spacing)


def diagonal(shape: tuple[int, ...], spacing: tuple[float, ...]) -> float:
    """The image's diagonal, in the unit of `spacing`."""
    return math.hypot(*(n * s for n, s in zip(shape, spacing, strict=True)))


def encode(prediction: jax.Array, target: jax.Array, rule: Rule) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Both maps with codes for what has no class, and which pixels count (None: all of them)."""
    ignored = rule.ignore_index
    void = None if ignored is None else target == ignored
    prediction, target = (
        jnp.where((x >= 0) & (x < rule.num_classes) & (True if ignored is None else x != ignored), x, NO_CLASS)
        for x in (prediction, target)
    )
    if void is None:
        return prediction, target, None
    if rule.void == "uncounted":
        return prediction, target, ~void
    code = VOID if rule.void == "neutral" else NO_CLASS
    return jnp.where(void, code, prediction), jnp.where(void, code, target), None


class Elements(NamedTuple):
    """The elements of a map's boundaries: pixels `(images, rows, columns)`, each of one class, or points between pixels
    `(images, classes, rows, columns)`, which may be of several.

    slot: the class; num_classes for what is no element.
    size: length or area; None if each counts as 1.
    """

    slot: jax.Array
    size: jax.Array | None

    def total(self, num_classes: int, where: jax.Array | bool = True, each: jax.Array | None = None) -> jax.Array:
        """Sum of the sizes, times `each`, where `where` holds: (images, classes)."""
        values = jnp.ones(self.slot.shape, jnp.int32) if self.size is None else self.size
        values = values if each is None else values * each
        # Row by row, then all rows: no long chain of additions that float32 could lose.
        if self.slot.ndim == 4:
            return jnp.where(where & (self.slot < num_classes), values, 0).sum(-1).sum(-1)
        images, rows, _ = self.slot.shape
        slot = jnp.where(where, self.slot, num_classes)
        sums = jnp.zeros((images, rows, num_classes + 1), values.dtype)
        sums = sums.at[jnp.arange(images)[:, None, None], jnp.arange(rows)[:, None], slot].add(values)
        return sums.sum(1)[:, :-1]


def distances(prediction: jax.Array, target: jax.Array, rule: Rule) -> list[tuple[Elements, jax.Array]]:
    """The boundary elements of both maps `(images, *spatial)`, and how far each is, squared, from the other map's
    boundary of its class."""
    where, judged, slots, sizes = _found(prediction, target, rule)
    # Each map's elements look for those of the other.
    squared = squared_distance(jnp.concatenate(where[::-1]), rule.spacing, needed=jnp.concatenate(judged))
    out = []
    for far, judge, slot, size in zip(jnp.split(squared, 2), judged, slots, sizes, strict=True):
        if rule.boundary == "inside":  # a pixel is of one class at most
            far = jnp.min(jnp.where(judge, far, jnp.inf), axis=1)
        out.append((Elements(*_in_rows(rule, slot, size)), _in_rows(rule, far)[0]))
    return out


def matches(prediction: jax.Array, target: jax.Array, rule: Rule, tolerance: float) -> list[tuple[Elements, jax.Array]]:
    """The boundary elements of both maps, and whether each lies within `tolerance` of the other map's of its class."""
    where, judged, slots, sizes = _found(prediction, target, rule)
    tolerance = min(tolerance, 2 * diagonal(target.shape[1:], rule.spacing))  # its square must fit 32 bits
    disk = rows_of(rule.spacing, tolerance)
    both = jnp.concatenate(where[::-1])
    if disk is None:
        squared = squared_distance(both, rule.spacing, tolerance, jnp.concatenate(judged))
        matched = within_squared(squared, tolerance)
    else:
        matched = near(both, disk)
    out = []
    for found, judge, slot, size in zip(jnp.split(matched, 2), judged, slots, sizes, strict=True):
        if rule.boundary == "inside":
            found = jnp.any(judge & found, axis=1)
        out.append((Elements(*_in_rows(rule, slot, size)), _in_rows(rule, found)[0]))
    return out


def _found(prediction: jax.Array, target: jax.Array, rule: Rule) -> list[tuple]:
    """What `_inside` or `_between` finds in both maps."""
    *maps, counted = encode(prediction, target, rule)
    find = _inside if rule.boundary == "inside" else _between
    return list(zip(*(find(x, counted, rule) for x in maps), strict=True))


def _in_rows(rule: Rule, *arrays: jax.Array | None) -> list:
    """All spatial axes but the last as one, so that there are rows and columns whatever the rank."""
    kept = 1 if rule.boundary == "inside" else 2
    return [None if x is None else x.reshape(*x.shape[:kept], -1, x.shape[-1]) for x in arrays]


def _classes(rule: Rule) -> jax.Array:
    return jnp.arange(rule.num_classes).reshape(-1, *[1] * len(rule.spacing))


def _inside(x: jax.Array, counted: jax.Array | None, rule: Rule) -> tuple:
    """Pixels of a class beside one that is not: where, judged (images, classes, *spatial); slot (images, *spatial)."""
    edge = touches_another(x, rule.frame)
    own = jnp.where(edge & (x >= 0), x, rule.num_classes)
    judged = own if counted is None else jnp.where(counted, own, rule.num_classes)
    # Kept apart from what follows, or XLA computes the edge again for every class.
    own, judged = lax.optimization_barrier((own, judged))
    where, judge = (slot[:, None] == _classes(rule) for slot in (own, judged))
    return where, judge, judged, None


def _between(x: jax.Array, counted: jax.Array | None, rule: Rule) -> tuple:
    """Points between pixels of a class and others: where, judged, slot and size, (images, classes, *grid)."""
    classes = _classes(rule)
    pixels = [pixel[:, None] for pixel in _blocks(x, rule.frame)]
    members = [pixel == classes for pixel in pixels]
    others = [(pixel != classes) & (pixel != VOID) for pixel in pixels]
    where = judged = reduce(or_, members) & reduce(or_, others)
    if counted is not None:
        judged = where & reduce(and_, _blocks(counted, rule.frame, True))[:, None]
    slot = jnp.where(judged, classes, rule.num_classes)
    if rule.boundary == "between":
        return where, judged, slot, None
    code = sum(member.astype(jnp.int32) << k for k, member in enumerate(members))
    return where, judged, slot, jnp.asarray(element_sizes(rule.spacing))[code]


def touches_another(x: jax.Array, frame: bool) -> jax.Array:
    """Whether a pixel of an encoded map shares a side with one of another class, or with the image's frame."""
    touches = jnp.zeros(x.shape, bool)
    for axis in range(1, x.ndim):
        for by in (1, -1):
            other = shift(x, by, axis, BEYOND)
            touches |= (other != x) & (other != VOID) & (frame | (other != BEYOND))
    return touches & (x != VOID)


def _blocks(x: jax.Array, frame: bool, beyond: int = BEYOND) -> list[jax.Array]:
    """Every block's pixels, corner by corner. With the frame, blocks reach one pixel beyond the image on either side;
    without, the last row repeats, as in the boundary maps of DAVIS, so that there is a block for every pixel."""
    inner = [(0, 0)] + [(1, 1) if frame else (0, 1)] * (x.ndim - 1)
    padded = jnp.pad(x, inner, constant_values=beyond) if frame else jnp.pad(x, inner, mode="edge")
    blocks = []
    for corner in corners(x.ndim - 1):
        ends = (None if offset else -1 for offset in corner)
        blocks.append(padded[(slice(None), *(slice(o, e) for o, e in zip(corner, ends, strict=True)))])
    return blocks
