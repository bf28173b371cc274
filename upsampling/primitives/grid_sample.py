"""Sampling an image at positions that the data decide, and its derivatives to any order.

Write `S_r[p]` for the image `x` sampled at position `p` and differentiated `r = (rows, columns)` times along each axis.
Three primitives work with it; `g` has one factor for each position and each `r` in `orders`:

- `sample` takes a weighted sum of derivatives, `y[p, c] = sum_r g_r[p] S_r[p, c]`. With `g = 1` and `r = (0, 0)` it is
  plain sampling;
- `splat` is its transpose in the image: it adds values `z[p]`, with the same weights, to the pixels that were sampled;
- `position_gradient` is its transpose in the factors, `g_r[p] = sum_c z[p, c] S_r[p, c]`. With `r` one higher along an
  axis it is the gradient of the result with respect to the positions.

Each is bilinear in its first two arguments, and the transposes of each are the other two. Its derivative with respect
to the positions is the same primitive with every order one higher. So forward and reverse mode work to any order, and
run nothing but these three.

`sample` and `position_gradient` gather a row of channels for each tap. `splat` would scatter, which is slow, and on a
GPU not deterministic, by XLA as by a kernel by hand, which reads values once. But upsamplers predict outputs a whole
number of times larger, at positions within a pixel of those without an offset. Then the taps lie in a 3x3 window around
a pixel that is known beforehand, and `splat` needs shifted images only. Which form runs is decided at run time, for all
positions together, so that the result is exact for any positions. On a TPU, where a gather is as slow as a scatter, all
three are sums over this window.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import max_dim
from jax.extend.core import Primitive
from jax.interpreters import ad
from numpy.polynomial import Polynomial

from upsampling._arguments import Edge, is_static
from upsampling.primitives import _kernels
from upsampling.primitives._common import cond_in_loops, in_order, make_primitive
from upsampling.primitives.window_sum import (
    Geometry,
    fold_on_tpu,
    fold_p,
    window_correlation_like_on_tpu,
    window_correlation_like_p,
    window_sum_on_tpu,
    window_sum_p,
)

Size = tuple[int, int]
Orders = tuple[tuple[int, int], ...]


class Rule(NamedTuple):
    """How a value is computed from pixels.

    Attributes:
      method: the kernel, "nearest", "bilinear" or "bicubic".
      edge: what a tap beyond the image reads, as in `upsampling.grid_sample`.
    """

    method: str
    edge: Edge


_CUBIC = -0.75  # PyTorch's a
_NEAR = Polynomial([1, 0, -(_CUBIC + 3), _CUBIC + 2])  # of distances up to 1
_FAR = Polynomial([-4 * _CUBIC, 8 * _CUBIC, -5 * _CUBIC, _CUBIC])  # from 1 to 2
_FRACTION = Polynomial([0, 1])

# Each tap's offset from the position rounded down, and its weight as a polynomial of the fraction.
_KERNELS = {
    "nearest": ((0, Polynomial([1])),),
    "bilinear": ((0, 1 - _FRACTION), (1, _FRACTION)),
    "bicubic": (
        (-1, _FAR(1 + _FRACTION)),
        (0, _NEAR(_FRACTION)),
        (1, _NEAR(1 - _FRACTION)),
        (2, _FAR(2 - _FRACTION)),
    ),
}


def sample(x: jax.Array, positions: jax.Array, rule: Rule) -> jax.Array:
    """Samples the image at each position.

    Args:
      x: (n, H, W, groups, channels).
      positions: (n, H', W', groups, 2), row and column, at least float32. Finite, and near enough that they fit
        int32.
      rule: the kernel and what lies beyond the edge.

    Returns:
      (n, H', W', groups, channels), in the dtype of `x`.
    """
    ones = jnp.ones((*positions.shape[:-1], 1), positions.dtype)
    return _sample_p.bind(x, ones, positions, size=x.shape[1:3], rule=rule, orders=((0, 0),))


# Taps.


def mirror(position: jax.Array, size: int, edge: Edge) -> jax.Array:
    """Mirrors positions into the image about its outermost pixels' centers ("reflect") or outer edges ("symmetric")."""
    low = 0.0 if edge == "reflect" else -0.5
    if size == 1 and edge == "reflect":
        return jnp.zeros_like(position)
    span = jnp.asarray(size - 1 if edge == "reflect" else size, position.dtype)
    twice = 2 * span
    distance = lax.rem(jnp.abs(position - low), twice)
    return jnp.where(distance > span, twice - distance, distance) + low


def _start(position: jax.Array, rule: Rule, size: int) -> tuple[jax.Array, jax.Array]:
    """The pixel that taps are counted from, still a float, and the fraction beyond it."""
    if rule.method == "nearest":
        start = jnp.round(position)
    elif rule == Rule("bilinear", "replicate"):
        # Positions were clipped to the image: its last pixel is reached as a second tap.
        start = jnp.clip(jnp.floor(position), 0, max_dim(size - 2, 0))
    else:
        start = jnp.floor(position)
    return start, position - start


def _weights(rule: Rule, order: int, fraction: jax.Array) -> list[tuple[int, jax.Array]]:
    """Offset and weight of each tap along an axis, differentiated `order` times; taps without weight are left out."""
    found = []
    for place, kernel in _KERNELS[rule.method]:
        coefficients = (kernel.deriv(order) if order else kernel).coef
        if np.any(coefficients):
            weight = jnp.full(fraction.shape, coefficients[-1], fraction.dtype)
            for coefficient in coefficients[-2::-1]:
                weight = weight * fraction + coefficient
            found.append((place, weight))
    return found


# The forms for any positions. Pixels are (n, H * W, groups, channels); positions, and arrays with an entry for each
# position, are (n, H' * W', groups, ...).


def _axis_taps(position: jax.Array, rule: Rule, order: int, size: int) -> list[tuple[jax.Array, jax.Array]]:
    """Pixel and weight of each tap along an axis; the pixel lies inside the image."""
    start, fraction = _start(position, rule, size)
    taps = []
    for place, weight in _weights(rule, order, fraction):
        pixel = start + place
        if rule.edge == "zero":
            weight = jnp.where((pixel >= 0) & (pixel <= size - 1), weight, 0)
        elif rule.edge != "replicate":
            pixel = mirror(pixel, size, rule.edge)
        taps.append((jnp.clip(pixel, 0, size - 1).astype(jnp.int32), weight))
    return taps


def _taps(positions: jax.Array, rule: Rule, order: tuple[int, int], size: Size) -> Iterator[tuple[Any, Any]]:
    """Pixel number and weight of each tap."""
    rows, columns = (_axis_taps(positions[..., axis], rule, order[axis], size[axis]) for axis in (0, 1))
    for (row, row_weight), (column, column_weight) in itertools.product(rows, columns):
        yield row * size[1] + column, row_weight * column_weight


_GATHER = lax.GatherDimensionNumbers(
    offset_dims=(3,),
    collapsed_slice_dims=(1,),
    start_index_map=(1,),
    operand_batching_dims=(0, 2),
    start_indices_batching_dims=(0, 2),
)
_GATHER_LAST = lax.GatherDimensionNumbers(
    offset_dims=(2,),
    collapsed_slice_dims=(3,),
    start_index_map=(3,),
    operand_batching_dims=(0, 1),
    start_indices_batching_dims=(0, 1),
)
_SCATTER = lax.ScatterDimensionNumbers(
    update_window_dims=(3,),
    inserted_window_dims=(1,),
    scatter_dims_to_operand_dims=(1,),
    operand_batching_dims=(0, 2),
    scatter_indices_batching_dims=(0, 2),
)


def _read(pixels: jax.Array, number: jax.Array) -> jax.Array:
    slices = (1, 1, 1, pixels.shape[-1])
    return lax.gather(pixels, number[..., None], _GATHER, slices, mode="promise_in_bounds")


def _read_on_tpu(pixels: jax.Array, number: jax.Array) -> jax.Array:
    """The same with pixels and positions in the last axis of memory, where channels would fill few lanes."""
    slices = (1, 1, pixels.shape[-1], 1)
    pixels, number = pixels.transpose(0, 2, 3, 1), number.transpose(0, 2, 1)
    read = lax.gather(pixels, number[..., None], _GATHER_LAST, slices, mode="promise_in_bounds")
    return in_order(read).transpose(0, 3, 1, 2)


def _flat(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Each (n, A, B, ...) as (n, A * B, ...)."""
    return tuple(a.reshape(a.shape[0], -1, *a.shape[3:]) for a in arrays)


def _sample(x, g, positions, *, size: Size, rule: Rule, orders: Orders, read: Callable = _read):
    shape = (*positions.shape[:-1], x.shape[-1])
    pixels, g, positions = _flat(x, g, positions)
    y = jnp.zeros((*positions.shape[:-1], x.shape[-1]), g.dtype)
    for k, order in enumerate(orders):
        for number, weight in _taps(positions, rule, order, size):
            y += (g[..., k] * weight)[..., None] * read(pixels, number).astype(g.dtype)
    return y.astype(x.dtype).reshape(shape)


def _sample_on_cpu(x, g, positions, *, size: Size, rule: Rule, orders: Orders):
    """The same in two halves, since XLA never fuses a concatenation into the operations after it.

    Callers merge groups and channels into one axis. A loop fused with that would look up a row for every channel, which
    is five to eight times slower than once for a group's channels.
    """
    half = positions.shape[1] // 2
    if positions.shape[-2] == 1 or not isinstance(half, int) or not half:
        return _sample(x, g, positions, size=size, rule=rule, orders=orders)
    parts = (slice(half), slice(half, None))
    return lax.concatenate(
        [_sample(x, g[:, part], positions[:, part], size=size, rule=rule, orders=orders) for part in parts], 1
    )


def _splat(z, g, positions, *, size: Size, rule: Rule, orders: Orders):
    values, g, positions = _flat(z, g, positions)
    n, _, groups, channels = values.shape
    x = jnp.zeros((n, math.prod(size), groups, channels), g.dtype)
    for k, order in enumerate(orders):
        for number, weight in _taps(positions, rule, order, size):
            update = (g[..., k] * weight)[..., None] * values.astype(g.dtype)
            x = lax.scatter_add(x, number[..., None], update, _SCATTER, mode="promise_in_bounds")
    return x.astype(z.dtype).reshape(n, *size, groups, channels)


def _splat_by_hand(z, g, positions, *, size: Size, rule: Rule, orders: Orders, interpret: bool = False):
    """The same in one kernel for a GPU, where XLA reads all values for each of several taps."""
    if rule.method == "nearest" or not _fits(z, g, positions, size):
        return _splat(z, g, positions, size=size, rule=rule, orders=orders)
    n, rows, columns, groups, channels = z.shape
    pixels, int32 = rows * columns, _kernels.int32
    block = 1 if interpret else _kernels.block(pixels, _VALUES, channels)

    def kernel(z_ref: Any, g_ref: Any, p_ref: Any, x_ref: Any) -> None:
        load, _, iota, ids = _kernels.references()
        image, group = ids(1) // int32(groups), ids(1) % int32(groups)
        pixel = ids(0) * int32(block) + iota(block)
        inside = pixel < int32(pixels)
        entry = (image * int32(pixels) + pixel) * int32(groups) + group
        values = load(z_ref, entry, inside, channels)
        position = [load(p_ref, entry * int32(2) + int32(axis), inside) for axis in (0, 1)]
        for k, order in enumerate(orders):
            factor = load(g_ref, entry * int32(len(orders)) + int32(k), inside)
            taps = (_axis_taps(p, rule, o, m) for p, o, m in zip(position, order, size, strict=True))
            for (row, row_weight), (column, column_weight) in itertools.product(*taps):
                place = ((image * int32(size[0]) + row) * int32(size[1]) + column) * int32(groups) + group
                given = _kernels.times(values, factor * row_weight * column_weight)
                _kernels.add_at(x_ref, place, inside, channels, given, interpret)

    shape = (n, *size, groups, channels)
    grid = (pixels, block, n * groups)
    (x,) = _kernels.call(kernel, [z, g, positions], [(shape, g.dtype)], grid, interpret, "splat", onto_zeros=True)
    return x.astype(z.dtype)


# Numbers of each array in a block of pixels.
_VALUES = 4096


def _fits(z: jax.Array, g: jax.Array, positions: jax.Array, size: Size) -> bool:
    """Whether the kernel takes them: whose places in memory have 32 bits, and what it adds up."""
    dtypes = z.dtype.itemsize <= 4 and {g.dtype, positions.dtype} == {jnp.dtype(jnp.float32)}
    if not dtypes or not is_static(*z.shape, *size) or z.shape[-1] > _VALUES // 2:
        return False
    return all(a < 2**31 for a in (z.size, g.size, positions.size, z.shape[0] * math.prod((*size, *z.shape[3:]))))


def _position_gradient(
    x,
    z,
    positions,
    *,
    size: Size,
    rule: Rule,
    orders: Orders,
    read: Callable = _read,
    joined: Callable = tuple,
):
    shape = positions.shape[:-1]
    pixels, values, positions = _flat(x, z, positions)
    gradients = []
    for order in orders:
        y = jnp.zeros(values.shape, positions.dtype)
        for number, weight in _taps(positions, rule, order, size):
            y += weight[..., None] * read(pixels, number).astype(y.dtype)
        gradients.append(_channel_sum(y * values.astype(y.dtype)))
    return jnp.stack(joined(gradients), axis=-1).reshape(*shape, len(orders))


_sample_on_tpu = functools.partial(_sample, read=_read_on_tpu)
_position_gradient_on_tpu = functools.partial(_position_gradient, read=_read_on_tpu)


def _channel_sum(products: jax.Array) -> jax.Array:
    """The sum over the last axis, as a product with ones: XLA:CPU's own takes ten times as long."""
    ones = jnp.ones((products.shape[-1], 1), products.dtype)
    rows = products.reshape(-1, products.shape[-1])
    return jnp.dot(rows, ones, precision=lax.Precision.HIGHEST).reshape(products.shape[:-1])


# The forms for an output (s, t) times larger. Pixel (i, j) owns the s x t outputs from (i * s, j * t) on, and all their
# taps lie in the window (i - 1 .. i + 1, j - 1 .. j + 1).

_PLACES = (-1, 0, 1)
_UNROLLED = 4  # phases


def _by_pixel(array: jax.Array, size: Size) -> jax.Array:
    """(n, H', W', ...) as (n, H, s, W, t, ...)."""
    n, rows, columns, *rest = array.shape
    return array.reshape(n, size[0], rows // size[0], size[1], columns // size[1], *rest)


def _start_after_own(positions: jax.Array, axis: int, rule: Rule, size: Size) -> tuple[jax.Array, jax.Array]:
    """How far the first tap lies from the output's own pixel, and the fraction beyond it."""
    start, fraction = _start(positions[..., axis], rule, size[axis])
    factor = start.shape[1 + axis] // size[axis]
    own = lax.broadcasted_iota(jnp.int32, start.shape, 1 + axis) // factor
    return start - own.astype(start.dtype), fraction


def _is_near(positions: jax.Array, rule: Rule, size: Size) -> jax.Array:
    starts = (_start_after_own(positions, axis, rule, size)[0] for axis in (0, 1))
    return functools.reduce(jnp.logical_and, (jnp.all((start == -1) | (start == 0)) for start in starts))


def _window_weights(positions: jax.Array, rule: Rule, orders: Orders, size: Size) -> list[tuple[list, list]]:
    """For each order the weights of the window's rows and of its columns."""
    weights = []
    for order in orders:
        both = []
        for axis in (0, 1):
            start, fraction = _start_after_own(positions, axis, rule, size)
            taps = _weights(rule, order[axis], fraction)
            both.append([sum(jnp.where(start + place == at, w, 0) for place, w in taps) for at in _PLACES])
        weights.append(tuple(both))
    return weights


def _near_splat(z, g, positions, *, size: Size, rule: Rule, orders: Orders):
    weights = _window_weights(positions, rule, orders, size)
    margin = ((0, 0), (1, 1), (0, 0), (1, 1), (0, 0), (0, 0))
    scaled = [
        (
            [jnp.pad(_by_pixel(g[..., k] * w, size), margin) for w in rows],
            [jnp.pad(_by_pixel(w, size), margin) for w in columns],
        )
        for k, (rows, columns) in enumerate(weights)
    ]
    values = jnp.pad(_by_pixel(z, size), (*margin, (0, 0)))

    def add_phase(x, i, j):
        def of(array, row, column):
            phase = lax.dynamic_index_in_dim(array, i, 2, keepdims=False)
            phase = lax.dynamic_index_in_dim(phase, j, 3, keepdims=False)
            # A pixel is at (row, column) in the window of the output whose owner is that far off the other way.
            return phase[:, 2 - row : 2 - row + size[0], 2 - column : 2 - column + size[1]]

        for row, column in itertools.product(range(3), range(3)):
            weight = sum(of(rows[row], row, column) * of(columns[column], row, column) for rows, columns in scaled)
            x += jnp.expand_dims(weight, -1) * of(values, row, column).astype(x.dtype)
        return x

    n, _, s, _, t, groups, channels = values.shape
    x = jnp.zeros((n, *size, groups, channels), g.dtype)
    if s * t <= _UNROLLED:
        for i, j in itertools.product(range(s), range(t)):
            x = add_phase(x, i, j)
    else:
        x = lax.fori_loop(0, s * t, lambda phase, x: add_phase(x, phase // t, phase % t), x)
    return x.astype(z.dtype)


def _window_of(size: Size, positions: jax.Array) -> Geometry:
    scale = tuple(m // n for n, m in zip(size, positions.shape[1:3], strict=True))
    return Geometry(size, scale, (), (3, 3), (1, 1), positions.shape[3])


def _products(rows: list, columns: list) -> jax.Array:
    """The weights of a window, (n, H', W', groups, 3, 3)."""
    return jnp.stack([jnp.stack([row * column for column in columns], -1) for row in rows], -2)


def _scaled_window(g: jax.Array, positions: jax.Array, rule: Rule, orders: Orders, size: Size) -> jax.Array:
    """The weights of the window, each order's times its factor."""
    weights = enumerate(_window_weights(positions, rule, orders, size))
    return functools.reduce(
        jnp.add, [_products([g[..., k] * row for row in rows], columns) for k, (rows, columns) in weights]
    )


def _bordered(x: jax.Array) -> jax.Array:
    """(n, H, W, groups, channels) -> (n, H + 2, W + 2, groups * channels)."""
    return jnp.pad(x.reshape(*x.shape[:3], -1), ((0, 0), (1, 1), (1, 1), (0, 0)))


# Of several groups kernels by hand are ahead, for which primitives are bound; of one XLA's loop, which makes weights
# where it takes them. Of maps in half precision weights and products are in the dtype of positions.


def _near_sample_on_tpu(x, g, positions, *, size: Size, rule: Rule, orders: Orders):
    w = _scaled_window(g, positions, rule, orders, size)
    form = window_sum_p.bind if x.shape[3] > 1 else window_sum_on_tpu
    y = form(_bordered(x), w, geometry=_window_of(size, positions))
    return y.reshape(*positions.shape[:-1], x.shape[-1])


def _near_splat_on_tpu(z, g, positions, *, size: Size, rule: Rule, orders: Orders):
    w = _scaled_window(g, positions, rule, orders, size)
    form = fold_p.bind if z.shape[3] > 1 else fold_on_tpu
    x = form(w, z.reshape(*z.shape[:3], -1), geometry=_window_of(size, positions)).astype(z.dtype)
    return x[:, 1:-1, 1:-1].reshape(z.shape[0], *size, *z.shape[3:])


def _near_position_gradient_on_tpu(x, z, positions, *, size: Size, rule: Rule, orders: Orders):
    form = window_correlation_like_p.bind if x.shape[3] > 1 else window_correlation_like_on_tpu
    products = form(_bordered(x), z.reshape(*z.shape[:3], -1), positions, geometry=_window_of(size, positions))
    weights = _window_weights(positions, rule, orders, size)
    return jnp.stack([(_products(rows, columns) * products).sum((-2, -1)) for rows, columns in weights], -1)


# The primitives.


def _by_either(
    near: Callable,
    far: Callable,
    a: Any,
    b: Any,
    positions: Any,
    *,
    size: Size,
    rule: Rule,
    orders: Orders,
    cond: Callable = lax.cond,
    devices: int | None = None,
) -> jax.Array:
    """By the form for positions near their own pixels, if they all are."""
    del devices
    near, far = (functools.partial(f, size=size, rule=rule, orders=orders) for f in (near, far))
    if rule.method != "bilinear" or any(m % n for n, m in zip(size, positions.shape[1:3], strict=True)):
        return far(a, b, positions)
    return cond(_is_near(positions, rule, size), near, far, a, b, positions)


def _on_tpu(near: Callable, far: Callable) -> Callable:
    """The same for a TPU, which has no float64 to speak of."""

    def form(a, b, positions, **static):
        if jnp.float64 in (a.dtype, positions.dtype):
            return far(a, b, positions, **static)
        return _by_either(near, far, a, b, positions, **static)

    return form


_STATIC = ("size", "rule", "orders")

# x (n, H, W, groups, channels), g (n, H', W', groups, orders), z (n, H', W', groups, channels), positions (..., 2).
_sample_p = make_primitive(
    "sample",
    lambda x, g, p, *, size, rule, orders: (*p[:-1], x[-1]),
    _sample,
    static=_STATIC,
    cpu=_sample_on_cpu,
    tpu=_on_tpu(_near_sample_on_tpu, _sample_on_tpu),
)
_splat_shape = lambda z, g, p, *, size, rule, orders: (z[0], *size, *z[3:])  # noqa: E731
# One of its own, so that a kernel that does not lower leaves nothing of a condition behind.
_splat_anywhere_p = make_primitive("splat_anywhere", _splat_shape, _splat, static=_STATIC, by_hand=_splat_by_hand)
_splat_p = make_primitive(
    "splat",
    _splat_shape,
    functools.partial(_by_either, _near_splat, _splat_anywhere_p.bind),
    static=_STATIC,
    several=functools.partial(_by_either, _near_splat, _splat, cond=cond_in_loops),
    tpu=_on_tpu(_near_splat_on_tpu, _splat),
)
_position_gradient_p = make_primitive(
    "position_gradient",
    lambda x, z, p, *, size, rule, orders: (*p[:-1], len(orders)),
    _position_gradient,
    static=_STATIC,
    like=2,
    # Or XLA computes one of two sums of few channels in the kernel of what reads it, where both maps are read anew.
    gpu=functools.partial(_position_gradient, joined=lax.optimization_barrier),
    tpu=_on_tpu(_near_position_gradient_on_tpu, _position_gradient_on_tpu),
)


def _transposed(first: Callable, second: Callable) -> Callable:
    """The transpose of a bilinear primitive: `first` of (ct, b) to its argument a, `second` of (ct, a) to b."""

    def rule(ct, a, b, positions, **static):
        if type(ct) is ad.Zero:
            return [None, None, None]
        if ad.is_undefined_primal(a):
            return [first(ct, b, positions, **static), None, None]
        return [None, second(ct, a, positions, **static), None]

    return rule


ad.primitive_transposes[_sample_p] = _transposed(
    lambda ct, g, p, **static: _splat_p.bind(ct, g, p, **static),
    lambda ct, x, p, **static: _position_gradient_p.bind(x, ct, p, **static),
)
ad.primitive_transposes[_splat_p] = _transposed(
    lambda ct, g, p, **static: _sample_p.bind(ct, g, p, **static),
    lambda ct, z, p, **static: _position_gradient_p.bind(ct, z, p, **static),
)
ad.primitive_transposes[_position_gradient_p] = _transposed(
    lambda ct, z, p, **static: _splat_p.bind(z, ct, p, **static),
    lambda ct, x, p, **static: _sample_p.bind(x, ct, p, **static),
)


def _raised(rule: Rule, orders: Orders) -> tuple[Orders, list[tuple[int, int]]]:
    """The orders one derivative higher, without those that are zero, and for each the order and axis it comes from."""
    most = max(kernel.degree() for _, kernel in _KERNELS[rule.method])
    found = {
        (k, axis): (order[0] + (axis == 0), order[1] + (axis == 1))
        for k, order in enumerate(orders)
        for axis in (0, 1)
        if order[axis] < most
    }
    return tuple(found.values()), list(found)


def _along_positions(primitive: Primitive) -> Callable:
    """The tangent of `sample` or `splat` for a tangent of the positions: the same primitive, orders one higher."""

    def tangent(dp, a, g, positions, *, size, rule, orders):
        raised, origins = _raised(rule, orders)
        if not raised:
            return jnp.zeros_like(primitive.bind(a, g, positions, size=size, rule=rule, orders=orders))
        moved = jnp.stack([g[..., k] * dp[..., axis] for k, axis in origins], axis=-1)
        return primitive.bind(a, moved, positions, size=size, rule=rule, orders=raised)

    return tangent


def _gradient_along_positions(dp, x, z, positions, *, size, rule, orders):
    raised, origins = _raised(rule, orders)
    sums = [jnp.zeros(positions.shape[:-1], positions.dtype) for _ in orders]
    if raised:
        gradients = _position_gradient_p.bind(x, z, positions, size=size, rule=rule, orders=raised)
        for i, (k, axis) in enumerate(origins):
            sums[k] += gradients[..., i] * dp[..., axis]
    return jnp.stack(sums, axis=-1)


for _p, _along in (
    (_sample_p, _along_positions(_sample_p)),
    (_splat_p, _along_positions(_splat_p)),
    (_position_gradient_p, _gradient_along_positions),
):
    ad.defjvp(
        _p,
        lambda t, a, b, positions, _p=_p, **static: _p.bind(t, b, positions, **static),
        lambda t, a, b, positions, _p=_p, **static: _p.bind(a, t, positions, **static),
        _along,
    )
