"""Covariances in a box around each pixel, and their gradient, which are not differences of large numbers.

With `mean_p(a)` the mean of the n_p pixels of the image that lie in the box around p:

- the covariance is `mean_p((a - mean_p(a)) (b - mean_p(b)))`;
- its gradient to `a` is `sum_p g_p / n_p (b_q - mean_p(b))`, over the boxes that hold q.

Each is linear in both of its arguments, and its derivatives are these two. They are primitives with these rules, so
that derivatives of any order, forward or reverse, are as fast as the functions. Both go along one axis and then the
other.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad

from upsampling.primitives._common import make_primitive


def box_covariance(a: jax.Array, b: jax.Array, radius: int) -> jax.Array:
    """The covariance of a and b in a box of `2 * radius + 1` pixels, cropped by the image.

    (*batch, h, w, channels), both, or one of them with one channel -> (*batch, h, w, channels).
    """
    a, b = jnp.broadcast_arrays(a, b)
    flat = (math.prod(a.shape[:-3]), *a.shape[-3:])
    return _covariance_p.bind(a.reshape(flat), b.reshape(flat), radius=radius).reshape(a.shape)


def _covariance(a: jax.Array, b: jax.Array, *, radius: int) -> jax.Array:
    # In each column of the box, and of the columns' means.
    a_means, b_means = (_mean_along(1, radius, x) for x in (a, b))
    within = _sum_along(1, radius, _product_of_deviations, (a, b), (a_means, b_means)) / _count(a, 1, radius)
    means = tuple(_mean_along(2, radius, x) for x in (a_means, b_means))
    between = _sum_along(2, radius, _product_of_deviations, (a_means, b_means), means) / _count(a, 2, radius)
    return _mean_along(2, radius, within) + between


def _product_of_deviations(a: jax.Array, b: jax.Array, a_mean: jax.Array, b_mean: jax.Array) -> jax.Array:
    return (a - a_mean) * (b - b_mean)


def _covariance_gradient(g: jax.Array, b: jax.Array, *, radius: int) -> jax.Array:
    # b_q - mean_p = (b_q - mean_q) + (mean_q - mean_p), and the last difference is one along a row and one along a
    # column: of numbers that are near, none is rounded away.
    mean = _mean_along(2, radius, _mean_along(1, radius, b))
    share = g / (_count(g, 1, radius) * _count(g, 2, radius))
    in_row = _sum_along(2, radius, lambda share: share, (share,))
    across = _sum_along(2, radius, lambda share, mean, own: share * (own - mean), (share, mean), (mean,))
    total = _sum_along(1, radius, lambda in_row: in_row, (in_row,))
    drift = _sum_along(
        1,
        radius,
        lambda in_row, across, mean, own: across + in_row * (own - mean),
        (in_row, across, mean),
        (mean,),
    )
    return (b - mean) * total + drift


def _mean_along(axis: int, radius: int, x: jax.Array) -> jax.Array:
    return _sum_along(axis, radius, lambda x: x, (x,)) / _count(x, axis, radius)


def _count(x: jax.Array, axis: int, radius: int) -> np.ndarray:
    """The number of pixels inside the image within the radius along an axis, in a shape that broadcasts."""
    places = np.arange(x.shape[axis])
    count = np.minimum(places + radius, places[-1]) - np.maximum(places - radius, 0) + 1
    return _on_axis(count.astype(x.dtype), axis)


def _on_axis(values: np.ndarray, axis: int) -> np.ndarray:
    return values.reshape([-1 if d == axis else 1 for d in range(4)])


def _sum_along(
    axis: int,
    radius: int,
    term: Callable[..., jax.Array],
    moving: tuple[jax.Array, ...],
    still: tuple[jax.Array, ...] = (),
) -> jax.Array:
    """The sum of `term(*moving, *still)` over all pixels within the radius; `still` is read in the middle."""
    n = moving[0].shape[axis]
    reach, places = min(radius, n - 1), np.arange(n)
    margin = [(reach, reach, 0) if d == axis else (0, 0, 0) for d in range(4)]
    padded = [lax.pad(x, jnp.zeros((), x.dtype), margin) for x in moving]

    def add(first: Any, total: jax.Array) -> jax.Array:
        inside = (first + places >= reach) & (first + places < n + reach)
        parts = (lax.dynamic_slice_in_dim(x, first, n, axis) for x in padded)
        return total + jnp.where(_on_axis(inside, axis), term(*parts, *still), 0)

    total = jnp.zeros_like(moving[0])
    if 2 * reach + 1 > _UNROLLED_SHIFTS:
        return lax.fori_loop(0, 2 * reach + 1, add, total)
    for first in range(2 * reach + 1):
        total = add(first, total)
    return total


# Shifts beyond this many run in a loop.
_UNROLLED_SHIFTS = 33

_covariance_p, _covariance_gradient_p = (
    make_primitive(name, lambda a, b, *, radius: a, form, static=("radius",))
    for name, form in (("box_covariance", _covariance), ("box_covariance_gradient", _covariance_gradient))
)

ad.defbilinear(
    _covariance_p,
    lambda y, a, b, *, radius: _covariance_gradient_p.bind(y, b, radius=radius),
    lambda y, a, b, *, radius: _covariance_gradient_p.bind(y, a, radius=radius),
)
ad.defbilinear(
    _covariance_gradient_p,
    lambda y, g, b, *, radius: _covariance_p.bind(y, b, radius=radius),
    lambda y, g, b, *, radius: _covariance_gradient_p.bind(g, y, radius=radius),
)
