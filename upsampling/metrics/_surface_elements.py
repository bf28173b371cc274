"""The size of the surface element where 2^n pixels meet: marching squares and cubes, with edges cut in the middle.

The boundary of a mask runs through the blocks of two pixels per axis that have pixels inside and outside. In a block it
cuts off the corners inside (or outside, if those are fewer), each group of corners joined by edges on its own. That is
the symmetric form of marching cubes (Lorensen & Cline 1987), as Nikolov et al. 2018 use it for surface distances.
"""

import functools
import itertools
import math

import numpy as np

_Corner = tuple[int, ...]


def corners(rank: int) -> list[_Corner]:
    """The pixels of a block, in the order of a code's bits."""
    return list(itertools.product((0, 1), repeat=rank))


@functools.cache
def element_sizes(spacing: tuple[float, ...]) -> np.ndarray:
    """Length (2 axes), area (3 axes) or number (1 axis) of the boundary in a block, for each of its 2^(2^n) codes.

    Bit k of a code says whether the block's k-th corner is inside. The sizes are in the unit of `spacing`.
    """
    rank = len(spacing)
    block = corners(rank)
    sizes = np.zeros(2 ** len(block), np.float32)
    for code in range(sizes.size):
        inside = {corner for k, corner in enumerate(block) if code >> k & 1}
        fewer = inside if 2 * len(inside) <= len(block) else set(block) - inside
        sizes[code] = sum(_cut(group, spacing) for group in _groups(fewer))
    return sizes


def _adjacent(a: _Corner, b: _Corner) -> bool:
    return sum(i != j for i, j in zip(a, b, strict=True)) == 1


def _groups(some: set[_Corner]) -> list[list[_Corner]]:
    """Corners grouped by the edges that join them."""
    rest, groups = sorted(some), []
    while rest:
        group = [rest.pop(0)]
        for corner in group:
            joined = [other for other in rest if _adjacent(corner, other)]
            rest = [other for other in rest if other not in joined]
            group += joined
        groups.append(group)
    return groups


def _cut(group: list[_Corner], spacing: tuple[float, ...]) -> float:
    """Size of the polygon through the middles of the edges that lead out of a group of corners."""
    rank = len(spacing)
    along = [len({corner[axis] for corner in group}) == 2 for axis in range(rank)]
    if rank == 1:
        return 1.0
    if rank == 2:
        return spacing[along.index(True)] if len(group) == 2 else math.hypot(*spacing) / 2
    faces = tuple(math.prod(spacing) / s for s in spacing)  # area of a block's side across each axis
    corner = math.hypot(*faces) / 8  # the triangle that cuts off one corner
    match len(group), sum(along):
        case 1, _:
            return corner
        case 2, _:  # a rectangle along the edge of the two
            axis = along.index(True)
            return spacing[axis] * math.hypot(*spacing[:axis], *spacing[axis + 1 :]) / 2
        case 3, _:  # a pentagon: half a side and three triangles
            return faces[along.index(False)] / 2 + 3 * corner
        case 4, 2:  # a whole side
            return faces[along.index(False)]
    ends = [(a, [b for b in group if _adjacent(a, b)]) for a in group]
    ends = [(a, near[0]) for a, near in ends if len(near) == 1]
    if len(ends) == 3:  # a corner and its three neighbours: a flat hexagon
        return 6 * corner
    # A chain of four, along each axis once: a bent hexagon.
    first, last = ([i != j for i, j in zip(*end, strict=True)].index(True) for end in ends)
    middle = 3 - first - last
    return (
        4 * corner
        + spacing[first] * math.hypot(spacing[middle], spacing[last]) / 4
        + spacing[last] * math.hypot(spacing[middle], spacing[first]) / 4
    )
