"""Taps applied to arrays: one linear primitive, whose transpose is the same primitive with the transposed taps.

JAX's own transpose of a gather is a scatter, which is slow everywhere and not deterministic on a GPU. The transpose of
taps is again taps, so a primitive that swaps the two has gradients as fast as its forward pass, to any order.

How it is computed depends on the platform:

* CPU and GPU: a sum of gathers for each axis, one per tap, which XLA fuses into one loop. Several axes in one loop
  cost the product of their taps but no intermediate array; where that product is large the intermediate is written.
* TPU: kernels by hand along two axes, where channels fill vectors (`resample_on_tpu`). Elsewhere, since gathers are
  slow there and the matrix unit is not, a dense matrix per axis; of a long axis, those blocks of it that hold taps.
  Matrices spread a NaN to all outputs of a block: what would not is dearer, see docs/accelerators.md. Pixels that are
  only copied go through no product: whole factors are one sum over windows of zeros and one pixel, and so is the
  gradient, as are averages; other sizes are moved by permutations, in a kernel, or gathered.
* Several devices: where an axis is cut over them only the pixels beside a cut move. On CPUs and GPUs it is a sum of
  shifted images, which on one GPU would be two kernels and 1.8 times the traffic of one sum of gathers. On TPUs it is
  matrices for as many groups of an axis as there are devices: for a group's own pixels and some of its neighbors'. That
  takes a sixth longer along rows, and up to two thirds along columns, which are left whole where all devices can have
  images of their own.

The figures behind the constants are in experiments/benchmarks.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.experimental.layout import Layout, with_layout_constraint
from jax.interpreters import ad, batching

from upsampling._arguments import is_static
from upsampling.primitives import resample_on_tpu
from upsampling.primitives._common import accumulator, make_primitive, pad_axis
from upsampling.primitives.taps import Taps

Operators = tuple[tuple[int, Taps], ...]  # (axis, taps); each axis at most once

# On a GPU, whose memory is slow beside its arithmetic: the most taps in one kernel for several axes.
FUSED = 64

# Taps beyond this many run in a loop over groups: unrolled they would take seconds to compile, and run no faster.
UNROLLED = 32
GROUP = 16

# On several devices: beyond this many terms an axis is gathered; or, of no more outputs than this, each summed up by
# itself, or by a matrix on TPUs, so that devices add up what each has of it.
SHIFTED = 64
FEW = 16

# On a TPU: the longest axis to multiply by a dense matrix, the outputs in a block of a longer one, and how many blocks
# at most, since each is compiled by itself.
DENSE = 256
BLOCK = 128
BLOCKS = 16


def resample(x: jax.Array, operators: Sequence[tuple[int, Taps]]) -> jax.Array:
    """Applies each operator along its axis. Linear in x; half precision accumulates in float32.

    Args:
      x: any shape. Operators that do arithmetic need a floating dtype; those that only copy pixels take any.
      operators: (axis, taps) pairs, each axis at most once, from 0 to x.ndim - 1.

    Returns:
      `x` with the size of each named axis replaced by its operator's number of outputs, in the dtype of `x`.
    """
    operators = tuple(sorted((o for o in operators if not o[1].identity), key=lambda o: o[0]))
    if not operators:
        return x
    return _resample_p.bind(x, operators=operators)


def _shape(shape: Sequence[int], operators: Operators) -> tuple[int, ...]:
    sizes = list(shape)
    for axis, taps in operators:
        sizes[axis] = taps.outputs
    return tuple(sizes)


# --- how the operators are applied ------------------------------------------------------------------------------------


def _by_gathers(x: jax.Array, *, operators: Operators) -> jax.Array:
    """Applies the operators by sums of gathers."""
    if all(taps.selection for _, taps in operators):
        return _select(x, operators)
    dtype = x.dtype
    x = x.astype(accumulator(dtype))
    groups: list[list[tuple[int, Taps]]] = []
    for axis, taps, _ in _schedule(x.shape, operators):
        joined = [*groups[-1], (axis, taps)] if groups else []
        if joined and math.prod(taps.indices.shape[1] for _, taps in joined) <= FUSED:
            groups[-1] = joined
        else:
            groups.append([(axis, taps)])
    for number, group in enumerate(groups):
        x = lax.optimization_barrier(x) if number else x
        x = _sum_together(x, group) if len(group) > 1 else _sum(x, *group[0])
    return x.astype(dtype)


def _sum_together(x: jax.Array, operators: Sequence[tuple[int, Taps]]) -> jax.Array:
    """A sum over the taps of all axes: of sums one inside another XLA makes a kernel each."""
    total: Any = None
    for places in itertools.product(*(range(taps.indices.shape[1]) for _, taps in operators)):
        term = x
        for place, (axis, taps) in zip(places, operators, strict=True):
            term = term.take(taps.indices[:, place], axis, mode="clip")
        for place, (axis, taps) in zip(places, operators, strict=True):
            term = term * _along(jnp.asarray(taps.weights[:, place], x.dtype), axis, x.ndim)
        total = term if total is None else total + term
    return total


def _by_gathers_on_cpu(
    x: jax.Array, *, operators: Operators, order: Callable[[jax.Array], jax.Array] = lambda x: x
) -> jax.Array:
    """The same, worded so that XLA:CPU makes good loops of it; `order` fixes the order of the axes in memory."""
    if all(taps.selection for _, taps in operators):
        return order(_select(x, operators))
    dtype = x.dtype
    x = x.astype(accumulator(dtype))
    for axis, taps, written in _schedule(x.shape, operators):
        half = taps.outputs // 2
        if written and half:
            # Optimisation barriers are dropped before loops are fused; but a concatenation is never fused into what
            # reads it.
            x = order(lax.concatenate([_sum(x, axis, taps[:half]), _sum(x, axis, taps[half:])], axis))
        else:
            x = _sum(x, axis, taps)
    return order(x.astype(dtype))


def _row_major(x: jax.Array) -> jax.Array:
    """Keeps XLA:CPU from laying a gather's result out with the gathered axis outermost and copying it later."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _select(x: jax.Array, operators: Operators, *, in_groups: bool = False) -> jax.Array:
    """Copies pixels; needs no arithmetic, so any dtype will do. By groups for several devices: `_take_in_groups`."""
    if all(taps.repeats for _, taps in operators):
        return _repeat(x, operators)
    for axis, taps in operators:
        if taps.stride is not None:
            start, step = taps.stride
            x = lax.slice_in_dim(x, start, start + step * (taps.outputs - 1) + 1, step, axis)
            continue
        y = _take_in_groups(x, axis, taps) if in_groups else None
        x = x.take(taps.indices[:, 0], axis, mode="clip") if y is None else y
    return x


def _schedule(shape: Sequence[int], operators: Operators) -> list[tuple[int, Taps, bool]]:
    """Returns the operators in the order to apply, each with whether a CPU is to write its result to memory.

    The order makes arrays small early: shrinking axes first, the outermost of them first, then growing axes, the
    innermost first, since a pass over an outer axis runs along longer contiguous rows.

    A fused loop spends the product of the taps on each output; writing in between spends their sum, and the traffic of
    the intermediate array, which is small where the image grows. As measured, writing pays from 32 taps on, or from 4
    where fewer than 8 adjacent values move together, so that taps do not vectorise (RGB images, channels-first).
    """
    shrinking = [o for o in operators if o[1].outputs < o[1].size]
    growing = [o for o in operators if o[1].outputs >= o[1].size]
    order = shrinking + growing[::-1]
    innermost = max(axis for axis, _ in operators)
    limit = 32 if math.prod(shape[innermost + 1 :]) >= 8 else 4
    schedule = []
    fused = order[0][1].indices.shape[1]
    for (axis, taps), (_, following) in itertools.pairwise(order):
        count = following.indices.shape[1]
        written = fused * count > limit * min(1.0, following.size / following.outputs)
        schedule.append((axis, taps, written))
        fused = count if written else fused * count
    return [*schedule, (*order[-1], False)]


def _repeat(x: jax.Array, operators: Operators) -> jax.Array:
    """Repeats every pixel: a broadcast, which reads no indices."""
    shape = _shape(x.shape, operators)
    for axis, _ in reversed(operators):
        x = jnp.expand_dims(x, axis + 1)
    widened = list(x.shape)
    for before, (axis, taps) in enumerate(operators):
        widened[axis + 1 + before] = taps.repeats
    return jnp.broadcast_to(x, widened).reshape(shape)


def _sum(x: jax.Array, axis: int, taps: Taps) -> jax.Array:
    """Sums one gather per tap."""
    count = taps.indices.shape[1]
    if count > UNROLLED:
        return _looped_sum(x, axis, taps)
    weights = jnp.asarray(taps.weights, x.dtype)
    terms = [x.take(taps.indices[:, k], axis, mode="clip") * _along(weights[:, k], axis, x.ndim) for k in range(count)]
    return functools.reduce(jnp.add, terms)


def _looped_sum(x: jax.Array, axis: int, taps: Taps) -> jax.Array:
    """Sums many taps, a group in each step of a loop."""
    outputs, count = taps.indices.shape
    missing = -count % GROUP
    indices = np.pad(taps.indices, ((0, 0), (0, missing)), mode="edge").T.reshape(-1, GROUP, outputs)
    weights = np.pad(taps.weights, ((0, 0), (0, missing))).T.reshape(-1, GROUP, outputs)

    def step(total, group):
        terms = [x.take(i, axis, mode="clip") * _along(w, axis, x.ndim) for i, w in zip(*group, strict=True)]
        return total + functools.reduce(jnp.add, terms), None

    start = jnp.zeros_like(x, shape=_shape(x.shape, ((axis, taps),)))
    return lax.scan(step, start, (jnp.asarray(indices), jnp.asarray(weights, x.dtype)))[0]


def _along(vector: jax.Array, axis: int, rank: int) -> jax.Array:
    return lax.broadcast_in_dim(vector, [1] * axis + [vector.size] + [1] * (rank - axis - 1), [axis])


def _by_shifts(x: jax.Array, *, operators: Operators, devices: int | None = None) -> jax.Array:
    """Applies the operators by sums of shifted images, of which XLA's partitioner moves the edges alone.

    Of a gather along an axis that is cut it would add up the whole result on every device.
    """
    del devices
    if all(taps.selection for _, taps in operators):
        return _select(x, operators, in_groups=True)
    dtype = x.dtype
    x = x.astype(accumulator(dtype))
    for axis, taps, _ in _schedule(x.shape, operators):
        x = _sum_of_shifts(x, axis, taps)
    return x.astype(dtype)


def _sum_of_shifts(x: jax.Array, axis: int, taps: Taps) -> jax.Array:
    """Cuts the axis into as many groups of `a` inputs as of `b` outputs; all groups read the groups beside them alike.

    Output q of group u sums over inputs f of groups u + e: what differs from group to group is the weights.
    """
    groups = math.gcd(taps.size, taps.outputs)
    a, b = taps.size // groups, taps.outputs // groups
    group = np.arange(groups)[:, None, None]
    away, inputs = np.divmod(_in_groups(taps, groups), a)
    weights = taps.weights.reshape(away.shape)
    outputs = np.broadcast_to(np.arange(b)[None, :, None], away.shape)
    terms, which = np.unique(np.stack([outputs, away, inputs], -1).reshape(-1, 3), axis=0, return_inverse=True)
    if len(terms) > SHIFTED:
        return _reduce(x, axis, taps) if taps.outputs <= FEW else _sum(x, axis, taps)
    factors = np.zeros((len(terms), groups))
    np.add.at(factors, (which.ravel(), np.broadcast_to(group, away.shape).ravel()), weights.ravel())
    x = x.reshape(*x.shape[:axis], groups, a, *x.shape[axis + 1 :])
    zero, moved = jnp.zeros((), x.dtype), {}
    sums: list[Any] = [None] * b
    for (q, e, f), factor in zip(terms.tolist(), factors, strict=True):
        if e not in moved:
            moved[e] = pad_axis(x, axis, -e, e)
        term = lax.index_in_dim(moved[e], f, axis + 1, keepdims=False)
        by = _along(jnp.asarray(factor, x.dtype), axis, term.ndim)
        # A group without this tap does not read it, or a NaN would spread; beyond the image there are zeros.
        reads = factor[max(-e, 0) : groups - max(e, 0)] != 0
        term = term * by if reads.all() else jnp.where(by != 0, term * by, zero)
        sums[q] = term if sums[q] is None else sums[q] + term
    y = jnp.stack(sums, axis + 1)
    return y.reshape(*y.shape[:axis], taps.outputs, *y.shape[axis + 2 :])


def _reduce(x: jax.Array, axis: int, taps: Taps) -> jax.Array:
    """A sum along the whole axis for each output."""
    by = jnp.asarray(taps.matrix(), x.dtype)
    by = by.reshape(*(1,) * axis, *by.shape, *(1,) * (x.ndim - axis - 1))
    return jnp.where(by != 0, jnp.expand_dims(x, axis) * by, jnp.zeros((), x.dtype)).sum(axis + 1)


def _in_groups(taps: Taps, groups: int) -> np.ndarray:
    """What is read, counted from the first input of a group's own: (groups, outputs of one, taps).

    What has no weight, wherever it lies, counts as that first input.
    """
    own = np.arange(groups)[:, None, None] * (taps.size // groups)
    shape = (groups, taps.outputs // groups, -1)
    return np.where(taps.weights.reshape(shape) != 0, taps.indices.reshape(shape) - own, 0)


def _with_neighbors(x: jax.Array, axis: int, low: int, high: int) -> list[tuple[int, jax.Array]]:
    """Of (..., groups, inputs of one, ...) what is from `low` to `high`, which may be in the groups beside.

    In pieces of one group each, with where they begin. Beyond the image are zeros.
    """
    a, pieces = x.shape[axis + 1], []
    for away in range(low // a, -(-high // a)):
        first, last = max(low, away * a), min(high, (away + 1) * a)
        piece = lax.slice_in_dim(x, first - away * a, last - away * a, axis=axis + 1)
        pieces.append((first, pad_axis(piece, axis, -away, away)))
    return pieces


def _take_in_groups(x: jax.Array, axis: int, taps: Taps) -> jax.Array | None:
    """Copies pixels in as many groups as there are; None where these read from far, or not alike.

    They read alike but at the ends of the image, where outermost pixels come for those beyond.
    """
    groups = math.gcd(taps.size, taps.outputs)
    a, b = taps.size // groups, taps.outputs // groups
    pattern = _in_groups(taps, groups)[groups // 2, :, 0]
    low, high = int(pattern.min()), int(pattern.max()) + 1
    alike = np.clip(np.arange(groups)[:, None] * a + pattern, 0, taps.size - 1)
    if low < -a or high > 2 * a or not np.array_equal(alike.ravel(), taps.indices[:, 0]):
        return None
    split = x.reshape(*x.shape[:axis], groups, a, *x.shape[axis + 1 :])
    pieces = []
    for first, piece in _with_neighbors(split, axis, low, high):
        if first < 0 or first >= a:
            # Each group has its own outermost pixel at hand.
            outermost, end = (0, 0) if first < 0 else (groups - 1, a - 1)
            last = _along(jnp.asarray(np.arange(groups) == outermost), axis, split.ndim)
            piece = jnp.where(last, lax.index_in_dim(split, end, axis + 1), piece)
        pieces.append(piece)
    y = lax.concatenate(pieces, axis + 1).take(pattern - low, axis + 1, mode="clip")
    return y.reshape(*x.shape[:axis], groups * b, *x.shape[axis + 1 :])


def _on_tpu(x: jax.Array, *, operators: Operators, devices: int = 1) -> jax.Array:
    select = functools.partial(_select, in_groups=devices > 1)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return select(x, operators)
    factor, ones = _unweighted(operators)
    # Sums over windows along an axis that is cut into more parts than there are windows would bring it together.
    few = any(taps.outputs <= FEW and taps.outputs % devices for _, taps in operators)
    if not few and all(taps.transpose.repeats for _, taps in ones):
        return (_sum_repeats(x.astype(accumulator(x.dtype)), ones) * factor).astype(x.dtype)
    if factor != 1 and all(taps.repeats for _, taps in ones):
        return _spread((x.astype(accumulator(x.dtype)) * factor).astype(x.dtype), ones)
    if not all(taps.selection for _, taps in operators):
        return _by_matrices(x, operators=operators, devices=devices)
    x = select(x, tuple((axis, taps) for axis, taps in operators if not taps.repeats))
    return _spread(x, [(axis, taps) for axis, taps in operators if taps.repeats])


def _unweighted(operators: Operators) -> tuple[float, Operators]:
    """What all weights have in common, and the operators without it: an average over whole factors is a sum."""
    if any(np.ptp(taps.weights) for _, taps in operators):
        return 1.0, operators
    ones = tuple((axis, Taps(taps.size, taps.indices, np.ones_like(taps.weights))) for axis, taps in operators)
    return math.prod(float(taps.weights.flat[0]) for _, taps in operators), ones


def _spread(x: jax.Array, operators: Sequence[tuple[int, Taps]]) -> jax.Array:
    """`_repeat` as one sum over windows of one pixel each: a TPU lays a broadcast of two out as one of eight."""
    if not operators:
        return x
    times = [1] * x.ndim
    for axis, taps in operators:
        times[axis] = taps.repeats
    margins = [(t - 1, t - 1) for t in times]
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, times, [1] * x.ndim, margins, times)


def _sum_repeats(x: jax.Array, operators: Operators) -> jax.Array:
    """The transpose of `_spread`."""
    times = [1] * x.ndim
    for axis, taps in operators:
        times[axis] = taps.transpose.repeats
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, times, times, "VALID")


def _by_matrices(x: jax.Array, *, operators: Operators, devices: int = 1) -> jax.Array:
    """Multiplies by a matrix for each axis, those that shrink first, and of alike ones the outermost.

    That, and the matrix on the right, is what XLA lays out with the fewest copies, of forward pass and gradient.
    """
    dtype = x.dtype
    # Three passes in bfloat16 round to 16 bits, of which half precision keeps 8 or 11.
    precision = lax.Precision.HIGHEST if dtype == accumulator(dtype) else lax.Precision.HIGH
    x = x.astype(accumulator(dtype))
    first = min(axis for axis, _ in operators)
    images = x.shape[:first]
    cut = (first,) if is_static(*images) and math.prod(images) % devices == 0 else range(x.ndim)
    for axis, taps in sorted(operators, key=lambda o: (o[1].outputs >= o[1].size, o[0])):
        y = _multiply_in_groups(x, axis, taps, devices, precision) if axis in cut else None
        x = _multiply_in_blocks(x, axis, taps, precision) if y is None else y
    return x.astype(dtype)


def _multiply_in_blocks(x: jax.Array, axis: int, taps: Taps, precision: lax.Precision) -> jax.Array:
    parts = [
        _multiply(lax.slice_in_dim(x, first, last, axis=axis), block, axis, precision)
        for first, last, block in _blocks(taps)
    ]
    return lax.concatenate(parts, axis)


def _multiply_in_groups(
    x: jax.Array, axis: int, taps: Taps, devices: int, precision: lax.Precision
) -> jax.Array | None:
    """By matrices for each of as many groups as there are devices; None where there are not so many, or one device, and
    where a group reads from far.

    Of fewer XLA might cut the axis where devices have images of their own. What groups read beside their own are
    products of their own: joined to them it would be written.
    """
    groups = math.gcd(taps.size, taps.outputs, devices)
    a, b = taps.size // groups, taps.outputs // groups
    read = _in_groups(taps, groups)
    low, high = int(read.min()), int(read.max()) + 1
    if groups == 1 or groups < devices or low < -a or high > 2 * a:
        return None
    matrices = np.zeros((groups, b, high - low))
    np.add.at(
        matrices,
        (np.arange(groups)[:, None, None], np.arange(b)[:, None], read - low),
        taps.weights.reshape(read.shape),
    )
    total: Any = 0
    for first, piece in _with_neighbors(x.reshape(*x.shape[:axis], groups, a, *x.shape[axis + 1 :]), axis, low, high):
        part = jnp.asarray(matrices[:, :, first - low :][:, :, : piece.shape[axis + 1]], x.dtype)
        y = lax.dot_general(piece, part, (((axis + 1,), (2,)), ((axis,), (0,))), precision=precision)
        total = total + y
    return jnp.moveaxis(total, (0, -1), (axis, axis + 1)).reshape(*x.shape[:axis], groups * b, *x.shape[axis + 1 :])


def _multiply(x: jax.Array, matrix: np.ndarray, axis: int, precision: lax.Precision) -> jax.Array:
    y = lax.dot_general(x, jnp.asarray(matrix, x.dtype), (((axis,), (1,)), ((), ())), precision=precision)
    return jnp.moveaxis(y, -1, axis)


def _blocks(taps: Taps) -> list[tuple[int, int, np.ndarray]]:
    """The matrix of an operator as blocks of rows, each from the first to the last input that it reads."""
    matrix = taps.matrix()
    if max(matrix.shape) <= DENSE:
        return [(0, taps.size, matrix)]
    step = max(BLOCK, -(-taps.outputs // (BLOCKS * BLOCK)) * BLOCK)
    blocks = []
    for start in range(0, taps.outputs, step):
        indices, rows = taps.indices[start : start + step], matrix[start : start + step]
        first, last = int(indices.min()), int(indices.max()) + 1
        blocks.append((first, last, rows[:, first:last]))
    return blocks


def _by_hand_on_tpu(x: ShapedArray, *, operators: Operators) -> Callable | None:
    # Regular copies, and sums of what was copied, XLA computes in any layout.
    copied = all(taps.repeats or taps.stride for _, taps in operators)
    left = copied or all(taps.transpose.repeats for _, taps in operators)
    return None if left else resample_on_tpu.choose(x, operators, DENSE)


# --- the primitive ----------------------------------------------------------------------------------------------------


_resample_p = make_primitive(
    "resample",
    lambda x, *, operators: _shape(x, operators),
    _by_gathers,
    static=("operators",),
    cpu=_by_shifts,
    several=_by_shifts,
    # The partitioner knows no layout constraints and would gather all shards for them.
    cpu_alone=functools.partial(_by_gathers_on_cpu, order=_row_major),
    tpu=_on_tpu,
    tpus=_on_tpu,
    by_hand_on_tpu=_by_hand_on_tpu,
)


def _transpose(cotangent, x, *, operators: Operators):
    return [resample(cotangent, [(axis, taps.transpose) for axis, taps in operators])]


def _batch(arguments, dimensions, *, operators: Operators):
    # No axis is special here: the new one stays where it is.
    (x,), (batch,) = arguments, dimensions
    return resample(x, [(axis + (axis >= batch), taps) for axis, taps in operators]), batch


ad.deflinear2(_resample_p, _transpose)
batching.primitive_batchers[_resample_p] = _batch
