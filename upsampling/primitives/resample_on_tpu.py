"""Taps along rows and columns by hand on a TPU: what `resample` lowers to there, where that moves less memory.

How a map lies in memory is the compiler's choice, and a kernel by hand has it in one layout, or a copy in that. There
are three kernels, for the layouts that matter:

* Convolutions of 4 images and more have pixels outermost, and images and channels in the vectors. There every tap is
  products and sums of whole vectors (`by_taps`). It is for maps whose images and channels fill vectors.
* Of less channels programs have channels and columns in the vectors of what they are given and return. There columns
  are interpolated by products of matrices, or moved by permutations where they are only copied, and rows as above
  (`by_columns`). Between convolutions the copies cost what the kernel saves.
* Of still less, or in other numbers than eights, they have rows and columns there: products of matrices along both
  (`of_planes`). It is for long axes. XLA's own products are ahead for short ones, since it takes what follows in; for
  long ones, cut into blocks, they take longer, and up to a hundred seconds to compile.

All read each input once or little more, and write each result once. Columns are interpolated first, for the input rows
that a block of rows reads, and are held on the chip. They were compiled for TPUs, and interpreted on a CPU, but have
not run on a TPU so far. What is compiled with `UPSAMPLING_TPU_KERNELS=0` in the environment is compiled without them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from upsampling._arguments import is_static
from upsampling.primitives._mosaic import LANES, parts, permuted, run, whole
from upsampling.primitives.taps import Taps

Operators = Sequence[tuple[int, Taps]]

_SUBLANES = 8
# Less full vectors are moved for nothing: of 64 channels, half, a twentieth is gained between two convolutions, and
# more than that lost after them.
_FULL = 0.6
_IMAGES = 4  # of fewer the compiler makes more, by cutting them, for its convolutions
_TAPS = 64  # written out
_NUMBERS = 1 << 16  # that tables may have
# XLA keeps no maps where a kernel needs the chip: of twice as much, gradients between convolutions were 1.3 of this.
# More is taken where blocks would read most of their rows twice. The rest is what a kernel takes besides.
_BLOCK_BYTES, _MOST_BYTES, _REST_BYTES = 14 << 20, 36 << 20, 10 << 20
_HELD = 16  # vectors that are summed at once
_PRODUCT_ROWS = 512  # of a product of matrices: few do not pay for loading the matrix
_MOVED = 16  # taps that are permutations and no product


def choose(x: Any, operators: Operators, dense: int) -> Callable[..., jax.Array] | None:
    """The kernel for an array of this shape and dtype, if there is one; `dense` is the longest of short axes."""
    if not _has_kernels(x, operators):
        return None
    if _are_few(x, operators) and _plan_by_taps(x, operators) is not None:
        return by_taps
    if takes_by_columns(x, operators) and _has_columns(x, operators):
        return by_columns
    # Products along rows would spread a NaN of what is only copied.
    long = max(max(taps.size, taps.outputs) for _, taps in operators) > dense
    copied = all(taps.selection for _, taps in operators)
    if long and not copied and _is_planes(x, operators) and _plan_of_planes(x, operators) is not None:
        return of_planes
    return None


def takes_by_columns(x: Any, operators: Operators) -> bool:
    """Whether `by_columns` computes it, in whatever layout the array is."""
    taken = _has_kernels(x, operators) and _are_few(x, operators) and [axis for axis, _ in operators] == [1, 2]
    return taken and x.shape[3] % _SUBLANES == 0 and _plan_by_columns(x, operators) is not None


def _has_kernels(x: Any, operators: Operators) -> bool:
    return len(operators) == 2 and x.dtype in (jnp.float32, jnp.bfloat16) and is_static(*x.shape)


def _are_few(x: Any, operators: Operators) -> bool:
    """Whether taps of a map are few enough to be written out, and to be looked up."""
    widths = [taps.indices.shape[1] for _, taps in operators]
    return x.ndim == 4 and max(widths) <= _TAPS and sum(taps.indices.size for _, taps in operators) <= _NUMBERS


class _Plan(NamedTuple):
    """How the output rows are cut into blocks.

    Attributes:
      rows: how many a block has.
      first: of each block the first input row that it reads.
      span: how many input rows a block reads.
      bytes: what a block takes on the chip.
    """

    rows: int
    first: np.ndarray
    span: int
    bytes: int


def _plan(taps: Taps, bytes_of: Callable[[int, int], int], unit: int = 1, longest: int | None = None) -> _Plan | None:
    """Blocks that the chip holds, as large as is worth it; None if it holds none.

    Args:
      taps: of the rows.
      bytes_of: what a block of so many rows, which reads so many, takes.
      unit: rows, and those that are read, are multiples of this, as the size must be; the first ones too.
      longest: how many rows a block may read, unless it is the smallest.
    """
    rows, held = whole(taps.outputs, unit), None
    while True:
        blocks = [taps.indices[i : i + rows] for i in range(0, taps.outputs, rows)]
        first = np.asarray([block.min() for block in blocks]) // unit * unit
        last = np.asarray([block.max() + 1 for block in blocks])
        span = whole(int((last - first).max()), unit)
        plan = _Plan(rows, np.minimum(first, taps.size - span), span, bytes_of(rows, span))
        if plan.bytes <= _MOST_BYTES and (longest is None or span <= longest or rows == unit):
            held = held or plan
            if plan.bytes <= _BLOCK_BYTES:
                return plan if span * taps.outputs <= 2 * rows * taps.size else held
        if rows == unit:
            return held
        rows = whole(-(-rows // 2), unit)


def _sum_rows(
    block: Any, plan: _Plan, taps: Taps, tables: tuple[Any, Any], held: Any, store: Callable, count: int
) -> None:
    """Interpolates between the rows that are held, (rows, length, ...), for `count` of the length at once."""
    from jax.experimental import pallas

    (indices, weights), width, length = tables, taps.indices.shape[1], held.shape[1]
    count = min(count, length)

    def sum_some(row: Any, start: Any, count: int) -> None:
        first = (block * plan.rows + row) * width
        places = pallas.ds(start, count)
        terms = [weights[first + tap] * held[indices[first + tap], places] for tap in range(width)]
        store(row, places, functools.reduce(jnp.add, terms))

    def sum_row(row: Any, carry: Any) -> Any:
        def some(number: Any, carry: Any) -> Any:
            sum_some(row, pallas.multiple_of(number * count, count), count)
            return carry

        lax.fori_loop(0, length // count, some, 0)
        if length % count:
            sum_some(row, length // count * count, length % count)
        return carry

    lax.fori_loop(0, plan.rows, sum_row, 0)


def _tables_of_rows(plan: _Plan, taps: Taps) -> tuple[np.ndarray, jax.Array]:
    """Taps counted from a block's first row, for whole blocks: nothing reads what becomes of rows below the image."""
    blocks = len(plan.first)
    more = ((0, blocks * plan.rows - taps.outputs), (0, 0))
    indices = np.pad(taps.indices, more, mode="edge") - np.repeat(plan.first, plan.rows)[:, None]
    return indices, _numbers(np.pad(taps.weights, more, mode="edge"))


def _numbers(a: np.ndarray) -> jax.Array:
    return jnp.asarray(a.reshape(-1), jnp.float32)


# --- images and channels in the vectors -------------------------------------------------------------------------------


def _layout_of_convolutions(shape: Sequence[int], operators: Operators) -> tuple[int, int] | None:
    """Which of the other axes a TPU's convolutions have in a vector's rows and columns: those that fill it better.

    None for few images, and where they fill it badly.
    """
    outer, inner = (axis for axis in range(4) if axis not in (operators[0][0], operators[1][0]))
    candidates = [(outer, inner), (inner, outer)]
    down, across = min(candidates, key=lambda axes: _tile_of(shape, axes))
    sublanes = whole(shape[down], 4 if shape[down] <= 4 else _SUBLANES)
    filled = shape[down] * shape[across] / (sublanes * whole(shape[across], LANES))
    return (down, across) if filled >= _FULL and min(shape[down], shape[across]) >= _IMAGES else None


def _tile_of(shape: Sequence[int], axes: tuple[int, int]) -> int:
    down, across = axes
    return whole(shape[down], _SUBLANES) * whole(shape[across], LANES)


def _block_by_taps(shape: Sequence[int], operators: Operators) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The axes in vectors, and how much of each a block has."""
    axes = _layout_of_convolutions(shape, operators)
    if axes is None:
        return None
    down, across = (shape[axis] for axis in axes)
    return axes, (_SUBLANES if down % _SUBLANES == 0 else down, LANES if across % LANES == 0 else across)


def _plan_by_taps(x: Any, operators: Operators) -> _Plan | None:
    found = _block_by_taps(x.shape, operators)
    if found is None:
        return None
    (_, rows), (_, columns), itemsize = *operators, jnp.dtype(x.dtype).itemsize
    numbers = _tile_of(found[1], (0, 1))

    def bytes_of(height: int, span: int) -> int:
        moved = itemsize * (height * columns.outputs + span * columns.size)
        return numbers * (2 * moved + 4 * span * columns.outputs)

    return _plan(rows, bytes_of)


def by_taps(x: jax.Array, *, operators: Operators, interpret: bool = False) -> jax.Array:
    """Rows and columns outermost: all taps are sums of whole vectors."""
    from jax.experimental import pallas
    from jax.experimental.pallas import tpu

    found, plan = _block_by_taps(x.shape, operators), _plan_by_taps(x, operators)
    assert found is not None
    assert plan is not None
    (axes, (sublanes, lanes)), (row_axis, rows), (column_axis, columns) = found, *operators
    order = (row_axis, column_axis, *axes)
    x = x.transpose(order)
    down, across = x.shape[2:]
    row_indices, row_weights = _tables_of_rows(plan, rows)
    width = columns.indices.shape[1]

    def kernel(first: Any, at: Any, column_at: Any, by: Any, column_by: Any, x_ref: Any, y_ref: Any, held: Any) -> None:
        def sum_column(column: Any, carry: Any) -> Any:
            for start in range(0, plan.span, _HELD):
                some, terms = slice(start, min(start + _HELD, plan.span)), []
                for tap in (column * width + tap for tap in range(width)):
                    terms.append(column_by[tap] * x_ref[some, column_at[tap]].astype(jnp.float32))
                held[some, column] = functools.reduce(jnp.add, terms)
            return carry

        def store(row: Any, places: Any, a: jax.Array) -> None:
            y_ref[row, places] = a.astype(y_ref.dtype)

        lax.fori_loop(0, columns.outputs, sum_column, 0)
        _sum_rows(pallas.program_id(2), plan, rows, (at, by), held, store, _SUBLANES)

    in_numbers = pallas.BlockSpec(memory_space=tpu.SMEM)
    shape = (plan.span, columns.size, sublanes, lanes)
    # An index that is not known to be a whole number of vectors is none to Mosaic, were it always zero.
    place = lambda i, part, length: i * part if length > part else 0  # noqa: E731
    specs = [
        in_numbers,
        in_numbers,
        pallas.BlockSpec(
            tuple(map(pallas.Element, shape)),
            lambda i, j, block, first, *_: (first[block], 0, place(i, sublanes, down), place(j, lanes, across)),
        ),
    ]
    result = jax.ShapeDtypeStruct((rows.outputs, columns.outputs, down, across), x.dtype)
    of_result = pallas.BlockSpec(
        (plan.rows, columns.outputs, sublanes, lanes), lambda i, j, block, *_: (block, 0, i, j)
    )
    (y,) = run(
        kernel,
        (down // sublanes, across // lanes, len(plan.first)),
        [plan.first, row_indices, columns.indices],
        ([row_weights, _numbers(columns.weights), x], specs),
        ([result], [of_result]),
        [(plan.span, columns.outputs, sublanes, lanes)],
        most_bytes=plan.bytes + _REST_BYTES,
        interpret=interpret,
        name="resample_by_taps",
    )
    return y.transpose(np.argsort(order))


# --- channels and columns in the vectors ------------------------------------------------------------------------------


def _has_columns(x: Any, operators: Operators) -> bool:
    """Whether programs have columns in the vectors of (n, rows, columns, channels) that they are given."""
    return min(x.shape[2], operators[1][1].outputs) > x.shape[3]


class _Products(NamedTuple):
    """An operator along columns as products of matrices.

    Attributes:
      blocks: for each vector of outputs the first and last input, whole vectors of them, and which matrix.
      matrices: different ones, each in half precision, (parts, inputs, 128).
    """

    blocks: list[tuple[int, int, int]]
    matrices: list[np.ndarray]

    @classmethod
    def of(cls, taps: Taps, dtype: DTypeLike) -> "_Products":
        blocks, different = [], {}
        for start in range(0, taps.outputs, LANES):
            part = taps[start : start + LANES].matrix()
            read = np.flatnonzero(np.any(part != 0, axis=0))
            first, last = (int(read[0]), int(read[-1]) + 1) if len(read) else (0, 1)
            first, last = first // LANES * LANES, min(whole(last, LANES), taps.size)
            matrix = _halves(np.pad(part[:, first:last].T, [(0, 0), (0, LANES - len(part))]), dtype)
            number, _ = different.setdefault((matrix.shape, matrix.tobytes()), (len(different), matrix))
            blocks.append((first, last, number))
        return cls(blocks, [matrix for _, matrix in different.values()])

    @property
    def bytes(self) -> int:
        return sum(2 * matrix.nbytes for matrix in self.matrices)

    @property
    def outputs(self) -> int:
        return len(self.blocks) * LANES

    @property
    def constants(self) -> list[jax.Array]:
        return list(map(jnp.asarray, self.matrices))

    def apply(self, x: Any, some: Any, held: Any, matrices: Sequence[Any]) -> None:
        """Interpolates some rows of `x` (1, rows, channels, columns) along columns, into the same rows of `held`."""
        count, (_, _, channels, _) = some.size, x.shape
        for i, (begin, end, which) in enumerate(self.blocks):
            seen = x[0, some, :, begin:end].reshape(count * channels, end - begin)
            y = _product(_split(seen), matrices[which], x.dtype)
            held[some, :, i * LANES : (i + 1) * LANES] = y.reshape(count, channels, LANES)


class _Moves(NamedTuple):
    """An operator along columns whose weights are ones as permutations, which keep a NaN in its place.

    Attributes:
      blocks: for each vector of outputs and each tap the vectors of inputs that it reads, and which table.
      tables: the places in such a vector, (tables, 1, 128), below zero for outputs that read none of it.
    """

    blocks: list[list[list[tuple[int, int]]]]
    tables: np.ndarray

    @classmethod
    def of(cls, taps: Taps) -> "_Moves":
        blocks, tables = [], []
        for start in range(0, taps.outputs, LANES):
            part, of_taps = taps[start : start + LANES], []
            for indices, weights in zip(part.indices.T, part.weights.T, strict=True):
                read = []
                for vector in np.unique(indices[weights != 0] // LANES).tolist():
                    own = (weights != 0) & (indices // LANES == vector)
                    read.append((vector, len(tables)))
                    tables.append(np.pad(np.where(own, indices % LANES, -1), (0, LANES - len(own)), constant_values=-1))
                of_taps.append(read)
            blocks.append(of_taps)
        return cls(blocks, np.asarray(tables, np.int32)[:, None])

    @property
    def bytes(self) -> int:
        return 2 * _SUBLANES * self.tables.nbytes

    @property
    def outputs(self) -> int:
        return len(self.blocks) * LANES

    @property
    def constants(self) -> list[jax.Array]:
        return [jnp.asarray(self.tables)]

    def apply(self, x: Any, some: Any, held: Any, constants: Sequence[Any]) -> None:
        """As of products."""
        from jax.experimental import pallas

        (tables,), (_, _, channels, size) = constants, x.shape
        zero = jnp.zeros((_SUBLANES, LANES), jnp.float32)
        step = math.gcd(channels, _SUBLANES * (4 // x.dtype.itemsize))
        places = [jnp.broadcast_to(tables[number], zero.shape) for number in range(len(self.tables))]

        def move(number: Any, carry: Any) -> Any:
            groups = jnp.int32(channels // step)  # and not Python's division, which asks what TPU is here
            row = some.start + lax.div(number, groups)
            at = pallas.multiple_of(lax.rem(number, groups) * step, step)
            seen = [
                _vectors_of(x[0, row, pallas.ds(at, step), i : min(i + LANES, size)]) for i in range(0, size, LANES)
            ]
            for i, of_taps in enumerate(self.blocks):
                for part in range(step // _SUBLANES):
                    total = zero
                    for read in of_taps:
                        term = zero
                        for vector, table in read:
                            moved = permuted(seen[vector][part], jnp.maximum(places[table], 0))
                            term = jnp.where(places[table] >= 0, moved, term)
                        total = term if total is zero else total + term
                    rows = pallas.ds(at + part * _SUBLANES, _SUBLANES)
                    held[row, rows, i * LANES : (i + 1) * LANES] = total
            return carry

        lax.fori_loop(0, some.size * (channels // step), move, 0)


def _vectors_of(a: jax.Array) -> list[jax.Array]:
    """Whole vectors of what has at most 128 columns, in float32."""
    a = a.astype(jnp.float32)
    if a.shape[1] < LANES:
        a = jnp.concatenate([a, jnp.zeros((a.shape[0], LANES - a.shape[1]), a.dtype)], 1)
    return [a[i : i + _SUBLANES] for i in range(0, a.shape[0], _SUBLANES)]


def _along_columns(taps: Taps, dtype: DTypeLike) -> _Products | _Moves:
    if taps.indices.shape[1] <= _MOVED and np.isin(taps.weights, (0, 1)).all():
        return _Moves.of(taps)
    return _Products.of(taps, dtype)


def _digits(dtype: DTypeLike) -> int:
    """How many parts in half precision have the digits of a sum: one more than those of its result, or all."""
    return 3 if dtype == jnp.float32 else 2


def _halves(matrix: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """A matrix in half precision, (parts, ...): those of twice the size have one, since their weights are in 256ths."""
    first, *others = parts(matrix.astype(np.float32), _digits(dtype))
    return np.stack([first, *filter(np.any, others)])


def _plan_by_columns(x: Any, operators: Operators) -> _Plan | None:
    (_, rows), (_, columns), itemsize = *operators, jnp.dtype(x.dtype).itemsize
    along, channels, size = _along_columns(columns, x.dtype), x.shape[3], whole(columns.size, LANES)

    def bytes_of(height: int, span: int) -> int:
        moved = itemsize * (height * along.outputs + span * size)
        return channels * (2 * moved + 4 * span * along.outputs) + along.bytes

    return _plan(rows, bytes_of)


def _product(a: Sequence[jax.Array], b: Sequence[jax.Array], dtype: DTypeLike) -> jax.Array:
    """The product of matrices that are given in parts, to the digits that the dtype of the result needs."""
    pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if i + j < _digits(dtype)]
    small_first = sorted(pairs, key=sum, reverse=True)
    return functools.reduce(jnp.add, (jnp.dot(a[i], b[j], preferred_element_type=jnp.float32) for i, j in small_first))


def _split(a: jax.Array) -> list[jax.Array]:
    return [a] if a.dtype == jnp.bfloat16 else parts(a, 3)


def by_columns(x: jax.Array, *, operators: Operators, interpret: bool = False) -> jax.Array:
    """Columns innermost, by products of matrices or permutations; rows are sums of whole vectors."""
    from jax.experimental import pallas
    from jax.experimental.pallas import tpu

    plan = _plan_by_columns(x, operators)
    assert plan is not None
    (_, rows), (_, columns) = operators
    x = jnp.swapaxes(x, 2, 3)
    n, _, channels, size = x.shape
    along = _along_columns(columns, x.dtype)
    row_indices, row_weights = _tables_of_rows(plan, rows)
    at_once = min(max(_PRODUCT_ROWS // channels, 1), plan.span)

    def kernel(first: Any, at: Any, by: Any, *refs: Any) -> None:
        *constants, x_ref, y_ref, held = refs

        def sum_columns(number: Any, carry: Any) -> Any:
            some = pallas.ds(jnp.minimum(number * at_once, plan.span - at_once), at_once)
            along.apply(x_ref, some, held, constants)
            return carry

        def store(row: Any, places: Any, a: jax.Array) -> None:
            y_ref[0, row, places] = a[:, : columns.outputs].astype(y_ref.dtype)

        lax.fori_loop(0, -(-plan.span // at_once), sum_columns, 0)
        count = min(max(_HELD // (2 * len(along.blocks)), 1) * 2 * _SUBLANES, channels)
        _sum_rows(pallas.program_id(1), plan, rows, (at, by), held, store, count)

    spec = pallas.BlockSpec(
        tuple(map(pallas.Element, (1, plan.span, channels, size))),
        lambda image, block, first, *_: (image, first[block], 0, 0),
    )
    constants = along.constants
    specs = [pallas.BlockSpec(a.shape, lambda *_: (0, 0, 0)) for a in constants]
    result = jax.ShapeDtypeStruct((n, rows.outputs, channels, columns.outputs), x.dtype)
    shape = (1, plan.rows, channels, columns.outputs)
    of_result = pallas.BlockSpec(shape, lambda image, block, *_: (image, block, 0, 0))
    (y,) = run(
        kernel,
        (n, len(plan.first)),
        [plan.first, row_indices],
        ([row_weights, *constants, x], [pallas.BlockSpec(memory_space=tpu.SMEM), *specs, spec]),
        ([result], [of_result]),
        [(plan.span, channels, along.outputs)],
        most_bytes=plan.bytes + _REST_BYTES,
        interpret=interpret,
        name="resample_by_columns",
    )
    return jnp.swapaxes(y, 2, 3)


# --- rows and columns in the vectors ----------------------------------------------------------------------------------


def _is_planes(x: Any, operators: Operators) -> bool:
    """Whether programs have rows and columns in the vectors: they fill most of them, and more than channels do."""
    (_, rows), (column_axis, columns) = operators
    sizes = (rows.size, columns.size), (rows.outputs, columns.outputs)
    filled = min(height * width / _tile_of((height, width), (0, 1)) for height, width in sizes)
    of_channels = x.shape[-1] / whole(x.shape[-1], LANES) if column_axis < x.ndim - 1 else 0
    return filled > max(of_channels, 0.5)


def _plan_of_planes(x: Any, operators: Operators) -> _Plan | None:
    (_, rows), (_, columns), itemsize = *operators, jnp.dtype(x.dtype).itemsize
    products, size = _Products.of(columns, x.dtype), whole(columns.size, LANES)

    def bytes_of(height: int, span: int) -> int:
        moved = itemsize * (height * products.outputs + span * size)
        held = 4 * span * products.outputs + 2 * 2 * _digits(x.dtype) * height * whole(span, LANES)
        return 2 * moved + held + products.bytes

    # No more rows than the matrix unit is long: most of a longer row of the matrix is zeros.
    in_eights = Taps(whole(rows.size, _SUBLANES), rows.indices, rows.weights)
    return _plan(in_eights, bytes_of, _SUBLANES, longest=LANES)


def of_planes(x: jax.Array, *, operators: Operators, interpret: bool = False) -> jax.Array:
    """Rows and columns innermost, each by products of matrices."""
    from jax.experimental import pallas

    plan = _plan_of_planes(x, operators)
    assert plan is not None
    (row_axis, rows), (column_axis, columns) = operators
    order = (*(axis for axis in range(x.ndim) if axis not in (row_axis, column_axis)), row_axis, column_axis)
    x = x.transpose(order)
    given, (size, width) = x.shape[:-2], x.shape[-2:]
    x, more = x.reshape(-1, size, width), -size % _SUBLANES
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, more, 0), (0, 0, 0)])
    products, digits = _Products.of(columns, x.dtype), _digits(x.dtype)
    dense = np.pad(rows.matrix(), [(0, len(plan.first) * plan.rows - rows.outputs), (0, more)])
    blocks = [dense[i * plan.rows : (i + 1) * plan.rows, f : f + plan.span] for i, f in enumerate(plan.first)]
    by = np.moveaxis(_halves(np.stack(blocks), x.dtype), 0, 1)

    def kernel(first: Any, by_ref: Any, *refs: Any) -> None:
        *matrices, x_ref, y_ref, held = refs
        for i, (begin, end, which) in enumerate(products.blocks):
            seen = _split(x_ref[0, :, begin:end])
            held[:, i * LANES : (i + 1) * LANES] = _product(seen, matrices[which], x_ref.dtype)
        for i in range(len(products.blocks)):
            last = min((i + 1) * LANES, columns.outputs)
            y = _product(by_ref[0], parts(held[:, i * LANES : last], digits), x_ref.dtype)
            y_ref[0, :, i * LANES : last] = y.astype(y_ref.dtype)

    constants = list(map(jnp.asarray, products.matrices))
    specs = [
        pallas.BlockSpec((1, *by.shape[1:]), lambda plane, block, *_: (block, 0, 0, 0)),
        *(pallas.BlockSpec(a.shape, lambda *_: (0, 0, 0)) for a in constants),
        pallas.BlockSpec(
            tuple(map(pallas.Element, (1, plan.span, width))),
            lambda plane, block, first: (plane, pallas.multiple_of(first[block], _SUBLANES), 0),
        ),
    ]
    result = jax.ShapeDtypeStruct((x.shape[0], rows.outputs, columns.outputs), x.dtype)
    of_result = pallas.BlockSpec((1, plan.rows, columns.outputs), lambda plane, block, *_: (plane, block, 0))
    (y,) = run(
        kernel,
        (x.shape[0], len(plan.first)),
        [plan.first],
        ([jnp.asarray(by), *constants, x], specs),
        ([result], [of_result]),
        [(plan.span, products.outputs)],
        most_bytes=plan.bytes + _REST_BYTES,
        interpret=interpret,
        name="resample_of_planes",
    )
    return y.reshape(*given, rows.outputs, columns.outputs).transpose(np.argsort(order))
