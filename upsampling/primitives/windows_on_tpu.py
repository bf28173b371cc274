"""Sums over windows, and attention to them, by hand on a TPU: what `window_attention` and `window_sum` lower to there.

A TPU's vectors are 8 x 128 numbers. Here they are 8 channels of 128 columns of one row, so that every tap is products
and sums of whole vectors. What the taps of a column of the window read is the same rows of the input, their columns
moved and repeated, by any amounts, by the unit that permutes them. A block of rows does this once for all of its pixels
and taps; a window's rows need no move. The sum over 8 channels is one over vectors that are read with a stride.

Attention is one kernel, and one for its gradient, which holds a block's weights, and what the gradient makes of them,
on the chip. It sums what each input row is seen by, still in the places of the outputs, and moves columns back by
products with matrices of zeros and ones, in three parts, which is exact. Queries may be normalized, logits given, and
values gated before or after, by XLA. Window sum, correlation and fold are a kernel each, of the same parts.

They are Pallas', by its back end to Mosaic. They were compiled for TPUs, and interpreted on a CPU, but have not run on
a TPU so far. What is compiled with `UPSAMPLING_TPU_KERNELS=0` in the environment is compiled without them. So it is
where they do not work: for TPUs before the fifth, for one axis or three, and in 64 and 16 bits, but for bfloat16.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from upsampling._arguments import is_static
from upsampling.primitives._mosaic import LANES, parts, permuted, run, whole
from upsampling.primitives.window_sum import Geometry, as_images, from_images

if TYPE_CHECKING:
    from upsampling.primitives.window_attention import Form

_HELD = 32  # vectors that a loop keeps in registers, of 64
_APART = 8  # sums that a loop adds to in turn
# Products of vectors in the body of a loop: longer ones have fewer gaps, but take longer to trace, also where XLA drops
# the sums, as those in whose place attention by hand is.
_WRITTEN_OUT, _WRITTEN_OUT_OF_SUMS = 512, 128
# On the chip, of 64 to 128 MB: for a block of rows, the gradients of a whole image, and logits to add.
_BLOCK_BYTES, _MAP_BYTES, _TABLE_BYTES = 20 << 20, 16 << 20, 2 << 20
_MOST_BYTES = _BLOCK_BYTES + 2 * (_MAP_BYTES + _TABLE_BYTES)


class _Plan(NamedTuple):
    """How the outputs of an image are cut into blocks.

    Attributes:
      rows: how many a block has.
      first: of each block of rows the first row that its windows reach, in the padded input.
      span: how many rows they reach.
      columns: how many a block has, at most as many as a vector.
      begin: of each block of columns the first that its windows reach, in the padded input.
      places: (blocks of columns, columns of a window, 128), what each output's tap is, counted from there.
    """

    rows: int
    first: tuple[int, ...]
    span: int
    columns: int
    begin: tuple[int, ...]
    places: np.ndarray


def takes(arrays: Sequence[Any], form: "Form") -> bool:
    """Whether `attend` and `gradients_of` compute it. For weights that are given there is `window_sum`."""
    if form.source == "weights":
        return False
    plan = _plan_that_fits(form.geometry, _channels(arrays, form), [a.dtype for a in arrays])
    if plan is None:
        return False
    filled = _filled(math.prod(form.geometry.window))
    return len(_rows_of_tables(form)[0]) * len(plan.begin) * filled * LANES * 4 <= _TABLE_BYTES


def _plan_that_fits(geometry: Geometry, channels: tuple[int, int], dtypes: Sequence[Any]) -> _Plan | None:
    """The blocks, if it is in float32 or bfloat16, along two axes, with windows in order, and the chip holds it."""
    if len(geometry.size) != 2 or geometry.extent[1] > LANES // 2:
        return None
    if any(dtype not in (jnp.float32, jnp.bfloat16) for dtype in dtypes) or not is_static(*geometry.size):
        return None
    if any(np.any(np.diff(c) < 0) for c in geometry.central):
        return None
    plan = _plan(geometry, channels)
    of_map = (plan.first[-1] + plan.span) * sum(channels) * LANES * 4
    fits = _block_bytes(geometry, channels, plan.rows, plan.span) <= _BLOCK_BYTES and of_map <= _MAP_BYTES
    return plan if fits else None


def attend(*arrays: jax.Array, form: "Form", dtype: DTypeLike, interpret: bool = False) -> Sequence[jax.Array]:
    """The values, (n, *output, channels), in this dtype."""
    plan = _plan(form.geometry, _channels(arrays, form))
    y = _values(_prepared(arrays, form, plan), arrays, form, plan, dtype, interpret)
    return (_gated(y, arrays[3], arrays[4], form.geometry).astype(dtype) if form.source == "gated" else y,)


def gradients_of(
    *arrays_and_cotangent: jax.Array, form: "Form", dtype: DTypeLike | None = None, interpret: bool = False
) -> Sequence[jax.Array]:
    """The gradients of all arrays, each in the dtype of its own."""
    del dtype
    *arrays, cotangent = arrays_and_cotangent
    plan, of_gate = _plan(form.geometry, _channels(arrays, form)), ()
    prepared, pull_back = jax.vjp(lambda *arrays: _prepared(arrays, form, plan), *arrays[: form.arrays])
    if form.source == "gated":
        y = _values(prepared, arrays, form, plan, jnp.float32, interpret)
        gated, of_its_arguments = jax.vjp(functools.partial(_gated, geometry=form.geometry), y, *arrays[3:])
        cotangent, *of_gate = of_its_arguments(cotangent.astype(gated.dtype))
        cotangent = cotangent.astype(arrays[0].dtype)
    (x, outputs, *keys), of_outputs = prepared, _outputs(cotangent, form.geometry, plan)
    # Sums over blocks of rows are in float32.
    results = [outputs, *(jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in (x, *keys))]
    by_outputs, *by_inputs = _call(form, plan, prepared, of_outputs, results, interpret)
    by_x, *by_keys = (a.astype(b.dtype) for a, b in zip(by_inputs, (x, *keys), strict=True))
    gradients = pull_back([by_x, by_outputs, *by_keys])
    if form.source == "blocks":
        # Or else XLA sums them for a bias before they are put together, with small axes last.
        gradients = gradients[0], lax.optimization_barrier(gradients[1])
    return [*gradients[:3], *of_gate] if form.source == "gated" else gradients


def _values(
    prepared: Sequence[jax.Array],
    arrays: Sequence[jax.Array],
    form: "Form",
    plan: _Plan,
    dtype: DTypeLike,
    interpret: bool,
) -> jax.Array:
    """Without a gate."""
    x, outputs, *_ = prepared
    shape = jax.ShapeDtypeStruct((*outputs.shape[:2], *x.shape[2:]), dtype)
    (y,) = _call(form, plan, prepared, None, [shape], interpret)
    return _outputs_back(y, form.geometry, plan, arrays[0].shape[-1] // form.geometry.groups)


def _gated(y: jax.Array, gate: jax.Array, guide: jax.Array, geometry: Geometry) -> jax.Array:
    from upsampling.primitives.window_attention import at_outputs

    share = jax.nn.sigmoid(at_outputs(gate.astype(jnp.float32), geometry))
    return share * guide.astype(jnp.float32) + (1 - share) * y.astype(jnp.float32)


# --- what the kernels are given: rows of channels by columns, for each image, group and block of columns --------------


def _prepared(arrays: Sequence[jax.Array], form: "Form", plan: _Plan) -> list[jax.Array]:
    """`x`; queries or logits; and keys, if there are any."""
    from upsampling.primitives.window_attention import normalized

    (x, outputs, *others), geometry = arrays, form.geometry
    if form.source == "normalized":
        outputs, _ = normalized(outputs.astype(jnp.float32))
        outputs = jnp.concatenate([outputs, jnp.ones((*outputs.shape[:-1], 1), outputs.dtype)], -1)
    if not form.compares:
        outputs, others = _logits([outputs, *others], form), []
    inputs = [_inputs(a, geometry, plan) for a in (x, *others)]
    return [inputs[0], _outputs(outputs, geometry, plan), *inputs[1:]]


def _logits(given: Sequence[jax.Array], form: "Form") -> jax.Array:
    """Logits that are given: (n, *output, groups * taps)."""
    from upsampling.primitives.window_attention import at_outputs

    geometry = form.geometry
    if form.source == "blocks":
        shape = (-1, *geometry.size, geometry.groups, *geometry.window, *geometry.scale)
        logits = given[0].reshape(shape).transpose(0, 1, 6, 2, 7, 3, 4, 5)
    else:
        # In float32: logits are exponentiated.
        logits = given[0].astype(jnp.float32) + at_outputs(given[1].astype(jnp.float32), geometry)
    return _flat(logits, geometry)


def _inputs(
    a: jax.Array, geometry: Geometry, plan: _Plan, padded: bool = False, channels: int | None = None
) -> jax.Array:
    """(n, *size, channels of all groups), or what is padded, -> (images, padded rows, channels of one, 128).

    Channels are filled up to so many, or to whole vectors.
    """
    a = as_images(geometry, a)
    channels = channels or a.shape[2] + _up(a.shape[2], a.dtype)
    rows, columns = (0, 0) if padded else geometry.reach
    below = _padded_rows(geometry, plan) - rows - a.shape[1]
    right = max(plan.begin[-1] + LANES - columns - a.shape[3], 0)
    a = _padded(a, (0, 0), (rows, below), (0, channels - a.shape[2]), (columns, right))
    blocks = [lax.slice_in_dim(a, begin, begin + LANES, axis=3) for begin in plan.begin]
    return jnp.stack(blocks, 1).reshape(-1, *a.shape[1:3], LANES)


def _padded_rows(geometry: Geometry, plan: _Plan) -> int:
    return max(plan.first[-1] + plan.span, geometry.padded[0])


def _outputs(a: jax.Array, geometry: Geometry, plan: _Plan) -> jax.Array:
    """(n, *output, channels of all groups) -> (images, rows, channels of one, 128)."""
    a, count = as_images(geometry, a), len(plan.begin)
    a = _padded(a, (0, 0), (0, 0), (0, _up(a.shape[2], a.dtype)), (0, count * plan.columns - a.shape[3]))
    a = a.reshape(*a.shape[:3], count, plan.columns).transpose(0, 3, 1, 2, 4)
    a = a.reshape(-1, *a.shape[2:])
    return _padded(a, (0, 0), (0, 0), (0, 0), (0, LANES - plan.columns))


def _outputs_back(y: jax.Array, geometry: Geometry, plan: _Plan, channels: int) -> jax.Array:
    """The inverse."""
    count = len(plan.begin)
    y = y[:, :, :channels, : plan.columns].reshape(-1, count, y.shape[1], channels, plan.columns)
    y = y.transpose(0, 2, 3, 1, 4).reshape(y.shape[0], y.shape[2], channels, -1)
    return from_images(geometry, y[..., : geometry.output[1]])


def _padded(a: jax.Array, *margins: tuple[int, int]) -> jax.Array:
    return lax.pad(a, jnp.zeros((), a.dtype), [(*margin, 0) for margin in margins])


def _up(channels: int, dtype: DTypeLike) -> int:
    """How many channels fill the last vector, whose rows are twice as many in half precision."""
    return -channels % (8 if jnp.dtype(dtype).itemsize == 4 else 16)


def _channels(arrays: Sequence[Any], form: "Form") -> tuple[int, int]:
    """Those of `x` and of keys, of one group, filled up; no keys where logits are given."""
    own, inner = (arrays[i].shape[-1] // form.geometry.groups for i in (0, 2 if form.compares else 0))
    return _filled_up(own), form.compares * _filled_up(inner)


def _filled_up(channels: int) -> int:
    """What they are in any dtype at most."""
    return channels + _up(channels, jnp.bfloat16)


def _filled(taps: int) -> int:
    return whole(taps, 8)


def _window_rows(geometry: Geometry) -> range:
    """The rows of a window's taps, counted from its first."""
    return range(0, geometry.extent[0], geometry.dilation[0])


# --- blocks -----------------------------------------------------------------------------------------------------------


def _plan(geometry: Geometry, channels: tuple[int, int]) -> _Plan:
    rows, columns = geometry.central
    width = min(len(columns), LANES)
    while any(_reached(columns[i : i + width], geometry.extent[1]) > LANES for i in range(0, len(columns), width)):
        width -= 1
    cuts = range(0, len(columns), width)
    begin = tuple(int(columns[i]) for i in cuts)
    places = np.zeros((len(cuts), geometry.window[1], LANES), np.int32)
    for block, i in enumerate(cuts):
        own = columns[i : i + width] - begin[block]
        places[block, :, : len(own)] = own + np.arange(geometry.window[1])[:, None] * geometry.dilation[1]
    height = len(rows)
    while True:
        cuts = range(0, len(rows), height)
        span = max(_reached(rows[i : i + height], geometry.extent[0]) for i in cuts)
        if height == 1 or _block_bytes(geometry, channels, height, span) <= _BLOCK_BYTES:
            break
        height = -(-height // 2)
    return _Plan(height, tuple(int(rows[i]) for i in cuts), span, width, begin, places)


def _reached(centers: np.ndarray, extent: int) -> int:
    return int(centers[-1] - centers[0]) + extent


def _block_bytes(geometry: Geometry, channels: tuple[int, int], rows: int, span: int) -> int:
    """What a block of rows holds on the chip."""
    own, inner = channels
    taps = _filled(math.prod(geometry.window))
    vectors = span * (geometry.window[1] + 2) * (own + inner) + 8 * taps  # spread, and twice as they come
    held = 4 * rows * (own + (inner or taps)) + 2 * rows * taps
    return (vectors + held) * LANES * 4


def _rows_of_tables(form: "Form") -> tuple[list[tuple[float, ...]], np.ndarray]:
    """The different rows of the table of rows, and which of them each output row has."""
    if not form.tables:
        return [(0.0,) * form.geometry.window[0]], np.zeros(form.geometry.output[0], np.int32)
    different = sorted(set(form.tables[0]))
    numbers = {row: number for number, row in enumerate(different)}
    return different, np.asarray([numbers[row] for row in form.tables[0]], np.int32)


def _tables(form: "Form", plan: _Plan) -> tuple[np.ndarray, np.ndarray]:
    """Logits to add, (different rows, blocks of columns, taps filled up, 128), and the number of each output row's."""
    window, count = form.geometry.window, len(plan.begin)
    different, numbers = _rows_of_tables(form)
    columns = np.zeros((count * plan.columns, window[1]))
    if form.tables:
        columns[: len(form.tables[1])] = form.tables[1]
    columns = np.pad(columns.reshape(count, plan.columns, -1), [(0, 0), (0, LANES - plan.columns), (0, 0)])
    if not form.tables:
        columns = columns[:1]
    added = np.asarray(different)[:, None, :, None, None] + columns.transpose(0, 2, 1)[None, :, None, :, :]
    added = added.reshape(len(different), len(columns), -1, LANES)
    filled = _filled(added.shape[2]) - added.shape[2]
    return np.pad(added, [(0, 0), (0, 0), (0, filled), (0, 0)], constant_values=-np.inf).astype(np.float32), numbers


# --- the kernels ------------------------------------------------------------------------------------------------------


def _call(
    form: "Form",
    plan: _Plan,
    arrays: Sequence[jax.Array],
    cotangent: jax.Array | None,
    results: Sequence[Any],
    interpret: bool,
) -> list[jax.Array]:
    """Values; or, with a cotangent, the gradients of queries or logits, of `x` and of keys.

    Arguments of the kernels are, in turn, tables of numbers, the operands, constants, the results, and what is held on
    the chip.
    """
    from jax.experimental import pallas

    gradient, compares = cotangent is not None, form.compares
    (x, outputs, *keys), operands = arrays, [*arrays, *([] if cotangent is None else [cotangent])]
    height, down, across = outputs.shape[1], _window_rows(form.geometry), form.geometry.window[1]
    own, taps = x.shape[2], len(down) * across
    filled, sides = _filled(taps), len(plan.begin)
    added, kinds = _tables(form, plan)
    rows = _Rows.of(form.geometry, plan, height, seen=gradient)
    numbers = [*rows.tables, np.pad(kinds, (0, len(plan.first) * plan.rows - height), mode="edge")]
    at_once = rows.at_once

    def kernel(*refs: Any) -> None:
        remaining = list(refs)
        take = lambda n: [remaining.pop(0) for _ in range(n)]  # noqa: E731
        first, start, *seen, kind = take(len(numbers))
        x_ref, outputs_ref, *keys_ref = take(len(arrays))
        cotangent_ref = take(1)[0] if gradient else None
        places, added_ref, *matrices = take(2 + gradient)
        results_refs, (spread_x, part, weights, *others) = take(len(results)), remaining
        spread_keys, by_logits = others if compares and gradient else (*others, None, None)[:2]
        block = pallas.program_id(1)
        _clear_after(part, taps)
        _spread(x_ref, spread_x, places)
        if compares:
            _spread(keys_ref[0], spread_keys, places)

        def softmax(row: Any, begin: Any, turn: int) -> tuple[list[jax.Array], list[jax.Array] | None]:
            """Weights of one row's taps, 8 in each array, and where their logits have a slope, if not all do."""
            sloping = None
            if not compares:
                given = _vectors(outputs_ref, row, 0, outputs.shape[2])[: filled // 8]
            else:
                given = _products(outputs_ref, row, spread_keys, begin, down, part.at[turn], form.most is not None)
            if form.most is not None:
                most = jnp.float32(form.most)
                sloping = [jnp.where(a > most, jnp.float32(0), jnp.float32(1)) for a in given]
                given = [jnp.float32(-0.5) * jnp.where(a > most, most, a) for a in given]  # NaN stays
            elif form.factor != 1:
                given = [a * jnp.float32(form.factor) for a in given]
            number = kind[block * plan.rows + row]
            given = [a + added_ref[number, 0, 8 * i : 8 * i + 8] for i, a in enumerate(given)]
            largest = jnp.max(functools.reduce(jnp.maximum, given), 0, keepdims=True)
            powers = [jnp.exp(a - largest) for a in given]
            share = 1 / jnp.sum(functools.reduce(jnp.add, powers), 0, keepdims=True)
            return [a * share for a in powers], sloping

        def value(row: Any, turn: int) -> None:
            begin = start[block * plan.rows + row]
            _hold(weights, turn, softmax(row, begin, turn)[0])
            _sums(weights, turn, spread_x, begin, down, results_refs[0], row)

        def gradient_of(row: Any, turn: int) -> None:
            begin = start[block * plan.rows + row]
            own_weights, sloping = softmax(row, begin, turn)
            _hold(weights, row, own_weights)
            gains = _products(cotangent_ref, row, spread_x, begin, down, part.at[turn])
            means = functools.reduce(jnp.add, (w * g for w, g in zip(own_weights, gains, strict=True)))
            mean = jnp.sum(means, 0, keepdims=True)
            slopes = [w * (g - mean) for w, g in zip(own_weights, gains, strict=True)]
            if not compares:
                _store_taps(results_refs[0], row, slopes)
                return
            if sloping is not None:
                slopes = [a * s for a, s in zip(slopes, sloping, strict=True)]
            elif form.factor != 1:
                slopes = [a * jnp.float32(form.factor) for a in slopes]
            _hold(by_logits, row, slopes)
            less = None if form.most is None else outputs_ref
            _sums(by_logits, row, spread_keys, begin, down, results_refs[0], row, less)

        rows.each(gradient_of if gradient else value)
        if not gradient:
            return
        tables = (start, *seen, rows.alike)
        _fold(spread_x, weights, cotangent_ref, tables, block, down, apart=False)
        _move_back(spread_x, matrices[0], results_refs[1], first, block)
        if compares:
            _fold(spread_keys, by_logits, outputs_ref, tables, block, down, apart=form.most is not None)
            _move_back(spread_keys, matrices[0], results_refs[2], first, block)

    specs_of = _Specs(plan, x.shape[1])
    constants = [jnp.asarray(plan.places[:, :, None]), jnp.asarray(added)]
    added_spec = pallas.BlockSpec(
        (len(added), 1, filled, LANES), lambda image, *_: (0, image % sides if form.tables else 0, 0, 0)
    )
    specs = [specs_of.reached(own), specs_of.rows(outputs.shape[2]), *(specs_of.reached(a.shape[2]) for a in keys)]
    specs += [*[specs_of.rows(own)] * gradient, specs_of.side(across, 1, LANES), added_spec]
    scratch = [(plan.span, across, own), (at_once, filled * 8), (plan.rows if gradient else at_once, filled)]
    scratch += [(plan.span, across, a.shape[2]) for a in keys]
    if gradient:
        constants.append(jnp.asarray(_matrices(plan), jnp.bfloat16))
        specs.append(specs_of.side(across, LANES, LANES))
        scratch += [(plan.rows, filled)] * compares
    of_results = [specs_of.rows(own)]
    if gradient:
        of_results = [specs_of.rows(outputs.shape[2]), specs_of.image(own), *(specs_of.image(a.shape[2]) for a in keys)]
    return run(
        kernel,
        (x.shape[0], len(plan.first)),
        numbers,
        ([*operands, *constants], specs),
        (results, of_results),
        [(*shape, LANES) for shape in scratch],
        most_bytes=_MOST_BYTES,
        interpret=interpret,
        name="window_attention_gradient" if gradient else "window_attention",
        turns=rows.turns,
    )


class _Rows(NamedTuple):
    """How kernels go over the rows of a block.

    Attributes:
      tables: of each block the first row that it reaches, of each output row the first of its window, counted from
        there; and, where outputs are summed, of each row that a block reaches the first output that sees it, and the
        one after the last.
      length: how many a block has.
      at_once: how many are computed in one turn, so that one waits less for its sums while the other goes on.
      alike: how many outputs that follow each other have one window, and are summed together.
      turns: of these sums, which the program does not tell, in the mean.
    """

    tables: list[np.ndarray]
    length: int
    at_once: int
    alike: int
    turns: float

    @classmethod
    def of(cls, geometry: Geometry, plan: _Plan, height: int, seen: bool) -> "_Rows":
        starts = np.pad(geometry.central[0], (0, len(plan.first) * plan.rows - height), mode="edge")
        starts = (starts - np.repeat(plan.first, plan.rows)).reshape(-1, plan.rows)
        at_once = 2 - plan.rows % 2
        paired = at_once == 2 and height % 2 == 0 and np.all(starts[:, ::2] == starts[:, 1::2])
        tables, turns = [np.asarray(plan.first), starts], 1.0
        if seen:
            tables += _seen_by_rows(starts, height, plan.span, geometry.extent[0])
            turns = float(np.mean(tables[-1] - tables[-2])) / (1 + paired)
        return cls(tables, plan.rows, at_once, 2 if paired else 1, turns)

    def each(self, compute: Callable[[Any, int], None]) -> None:
        """`compute(row, turn)` for all rows, turn below `at_once`.

        For rows below the image too, of what lies in memory there: nothing reads what becomes of them.
        """

        def some(number: Any, carry: Any) -> Any:
            for turn in range(self.at_once):
                compute(number * self.at_once + turn, turn)
            return carry

        lax.fori_loop(0, self.length // self.at_once, some, 0)


class _Specs(NamedTuple):
    """Which part of an array a block has: of (images, rows, n, 128), or of a constant."""

    plan: _Plan
    height: int  # of the padded input

    def rows(self, n: int) -> Any:
        """Rows of the output."""
        from jax.experimental import pallas

        return pallas.BlockSpec((1, self.plan.rows, n, LANES), lambda image, block, *_: (image, block, 0, 0))

    def reached(self, n: int) -> Any:
        """Those rows of the input that their windows reach."""
        from jax.experimental import pallas

        shape = tuple(map(pallas.Element, (1, self.plan.span, n, LANES)))
        return pallas.BlockSpec(shape, lambda image, block, first, *_: (image, first[block], 0, 0))

    def image(self, n: int) -> Any:
        """All rows of the input, to add to."""
        from jax.experimental import pallas

        return pallas.BlockSpec((1, self.height, n, LANES), lambda image, *_: (image, 0, 0, 0))

    def side(self, *shape: int) -> Any:
        """What a block of columns has of a constant."""
        from jax.experimental import pallas

        sides = len(self.plan.begin)
        return pallas.BlockSpec((1, *shape), lambda image, *_: (image % sides, *[0] * len(shape)))


# --- sums over windows whose weights are given ------------------------------------------------------------------------

Sum = Literal["sum", "correlation", "fold"]


def takes_sums(geometry: Geometry, channels: int, *dtypes: DTypeLike) -> bool:
    """Whether `window_sum`, `window_correlation` and `fold` compute it, of so many channels in all."""
    return _plan_that_fits(geometry, (_filled_up(channels // geometry.groups), 0), dtypes) is not None


def window_sum(x: jax.Array, w: jax.Array, *, geometry: Geometry, interpret: bool = False) -> jax.Array:
    """(n, *padded, channels), (n, *output, groups, *window) -> (n, *output, channels)."""
    plan = _plan(geometry, (_filled_up(x.shape[-1] // geometry.groups), 0))
    operands = _inputs(x, geometry, plan, padded=True), _outputs(_flat(w, geometry), geometry, plan)
    y = _sum("sum", geometry, plan, *operands, x.dtype, interpret)
    return _outputs_back(y, geometry, plan, x.shape[-1] // geometry.groups)


def window_correlation(
    x: jax.Array, y: jax.Array, *, geometry: Geometry, dtype: DTypeLike | None = None, interpret: bool = False
) -> jax.Array:
    """(n, *padded, channels), (n, *output, channels) -> (n, *output, groups, *window), in a dtype if it is given."""
    plan = _plan(geometry, (_filled_up(x.shape[-1] // geometry.groups), 0))
    operands = _inputs(x, geometry, plan, padded=True), _outputs(y, geometry, plan)
    w = _sum("correlation", geometry, plan, *operands, dtype or x.dtype, interpret)
    w = _outputs_back(w, geometry, plan, math.prod(geometry.window))
    return w.reshape(*w.shape[:3], geometry.groups, *geometry.window)


def fold(w: jax.Array, y: jax.Array, *, geometry: Geometry, interpret: bool = False) -> jax.Array:
    """(n, *output, groups, *window), (n, *output, channels) -> (n, *padded, channels), in the dtype of `w`."""
    plan = _plan(geometry, (_filled_up(y.shape[-1] // geometry.groups), 0))
    operands = _outputs(y, geometry, plan), _outputs(_flat(w, geometry), geometry, plan)
    x = _sum("fold", geometry, plan, *operands, w.dtype, interpret)
    shape = jax.typeof(y).update(shape=(y.shape[0], *geometry.padded, y.shape[-1]), dtype=w.dtype)
    inputs = functools.partial(_inputs, geometry=geometry, plan=plan, padded=True, channels=x.shape[2])
    (x,) = jax.linear_transpose(inputs, shape)(x.astype(w.dtype))
    return x


def _sum(
    what: Sum, geometry: Geometry, plan: _Plan, a: jax.Array, b: jax.Array, dtype: DTypeLike, interpret: bool
) -> jax.Array:
    """Of `x` and weights; of `x` and outputs; or of outputs and weights."""
    from jax.experimental import pallas

    own, down, across = a.shape[2], _window_rows(geometry), geometry.window[1]
    filled = _filled(len(down) * across)
    padded, height = _padded_rows(geometry, plan), b.shape[1]
    rows = _Rows.of(geometry, plan, height, seen=what == "fold")
    at_once = rows.at_once

    def kernel(*refs: Any) -> None:
        (first, start, *seen), (a_ref, b_ref, constant, result, spread, held) = (
            refs[: len(rows.tables)],
            refs[len(rows.tables) :],
        )
        block = pallas.program_id(1)
        if what != "fold":
            _spread(a_ref, spread, constant)

        def row_of(row: Any, turn: int) -> None:
            begin = start[block * plan.rows + row]
            if what == "correlation":
                made = _products(b_ref, row, spread, begin, down, held.at[turn], most=_WRITTEN_OUT_OF_SUMS)
                _store_taps(result, row, made)
                return
            _hold(held, turn if what == "sum" else row, _vectors(b_ref, row, 0, b.shape[2])[: filled // 8])
            if what == "sum":
                _sums(held, turn, spread, begin, down, result, row, most=_WRITTEN_OUT_OF_SUMS)

        if what == "correlation":
            _clear_after(held, len(down) * across)
        rows.each(row_of)
        if what == "fold":
            _fold(spread, held, a_ref, (start, *seen, rows.alike), block, down, apart=False)
            _move_back(spread, constant, result, first, block)

    specs_of = _Specs(plan, padded)
    constant, of_constant = jnp.asarray(plan.places[:, :, None]), specs_of.side(across, 1, LANES)
    if what == "fold":
        constant, of_constant = jnp.asarray(_matrices(plan), jnp.bfloat16), specs_of.side(across, LANES, LANES)
    of_a = (specs_of.rows if what == "fold" else specs_of.reached)(own)
    channels = filled + _up(filled, dtype) if what == "correlation" else own
    result = jax.ShapeDtypeStruct((a.shape[0], height, channels, LANES), dtype)
    of_result = specs_of.rows(channels)
    if what == "fold":
        result, of_result = jax.ShapeDtypeStruct((a.shape[0], padded, own, LANES), jnp.float32), specs_of.image(own)
    holds = {"sum": (at_once, filled), "correlation": (at_once, filled * 8), "fold": (plan.rows, filled)}
    (made,) = run(
        kernel,
        (a.shape[0], len(plan.first)),
        rows.tables,
        ([a, b, constant], [of_a, specs_of.rows(b.shape[2]), of_constant]),
        ([result], [of_result]),
        [(plan.span, across, own, LANES), (*holds[what], LANES)],
        most_bytes=_MOST_BYTES,
        interpret=interpret,
        name=f"window_{what}",
        turns=rows.turns,
    )
    return made


def _flat(w: jax.Array, geometry: Geometry) -> jax.Array:
    """Weights or logits, (n, *output, groups, *window), with those of all groups on one axis."""
    return w.reshape(-1, *geometry.output, geometry.groups * math.prod(geometry.window))


def _seen_by_rows(starts: np.ndarray, height: int, span: int, extent: int) -> list[np.ndarray]:
    """Of each block's input rows the first output whose window reaches it, and the one after the last.

    Two of (blocks, span).
    """
    ends = np.zeros((2, len(starts), span), int)
    for block, own in enumerate(starts):
        own = own[: height - block * len(own)]
        ends[0, block] = np.searchsorted(own, np.arange(span) - extent, side="right")
        ends[1, block] = np.searchsorted(own, np.arange(span), side="right")
    return list(ends)


def _matrices(plan: _Plan) -> np.ndarray:
    """What moves columns of outputs to those of their taps: (blocks of columns, columns of a window, 128, 128)."""
    ones = plan.places[..., None] == np.arange(LANES)
    return ones & (np.arange(LANES) < plan.columns)[:, None]


def _vectors(ref: Any, row: Any, begin: int, end: int) -> list[jax.Array]:
    """A row's channels from one to another, 8 in each array, in float32."""
    step = 8 if ref.dtype.itemsize == 4 else 16
    read = (ref[0, row, i : i + step].astype(jnp.float32) for i in range(begin, end, step))
    return [a[i : i + 8] for a in read for i in range(0, step, 8)]


def _each(count: int, work: int, body: Callable[[Any, Any], Any], carry: Any, most: int | None = None) -> Any:
    """A loop, which is written out where that is not too long."""
    if count * work > (_WRITTEN_OUT if most is None else most):
        return lax.fori_loop(0, count, body, carry)
    return functools.reduce(lambda carry, i: body(i, carry), range(count), carry)


def _chunks(channels: int, most: int) -> Iterator[tuple[int, int]]:
    """Where stretches of at most so many vectors of channels begin and end."""
    return ((begin, min(begin + 8 * most, channels)) for begin in range(0, channels, 8 * most))


def _spread(ref: Any, spread: Any, places: Any) -> None:
    """Moves the columns of each row to the outputs that see them, for each column of a window."""
    span, across, channels, _ = spread.shape

    def column(row: Any, begin: int, vectors: list[jax.Array], col: Any, carry: Any) -> Any:
        place = jnp.broadcast_to(places[0, col], (8, LANES))
        for i, a in enumerate(vectors):
            spread[row, col, begin + 8 * i : begin + 8 * i + 8] = permuted(a, place)
        return carry

    def move(row: Any, carry: Any) -> Any:
        for begin, end in _chunks(channels, _HELD):
            vectors = _vectors(ref, row, begin, end)
            _each(across, len(vectors), functools.partial(column, row, begin, vectors), 0, _WRITTEN_OUT_OF_SUMS)
        return carry

    lax.fori_loop(0, span, move, 0)


def _products(
    ref: Any, row: Any, spread: Any, begin: Any, down: range, part: Any, squared: bool = False, most: int | None = None
) -> list[jax.Array]:
    """Of an output row with what each tap sees, for 8 taps in each array: (8, 128). Or their squared distances."""
    from jax.experimental import pallas

    _, across, channels, _ = spread.shape

    def column(chunk: int, values: list[jax.Array], col: Any, carry: Any) -> Any:
        for tap, below in enumerate(down):
            seen = [spread[begin + below, col, chunk + 8 * i : chunk + 8 * i + 8] for i in range(len(values))]
            terms = [(a - b) * (a - b) if squared else a * b for a, b in zip(values, seen, strict=True)]
            total, at = functools.reduce(jnp.add, terms), _at((tap * across + col) * 8)
            part[at] = total if chunk == 0 else part[at] + total
        return carry

    for chunk, end in _chunks(channels, _HELD):
        values = _vectors(ref, row, chunk, end)
        _each(across, len(down) * len(values), functools.partial(column, chunk, values), 0, most)
    sums = []
    for first in range(0, part.shape[0], 64):
        sums.append(functools.reduce(jnp.add, (part[pallas.ds(first + i, 8, stride=8)] for i in range(8))))
    return sums


def _at(first: Any) -> Any:
    """8 rows from one that is a multiple of 8."""
    from jax.experimental import pallas

    return pallas.ds(first if isinstance(first, int) else pallas.multiple_of(first, 8), 8)


def _hold(held: Any, row: Any, vectors: Sequence[jax.Array]) -> None:
    for i, a in enumerate(vectors):
        held[row, 8 * i : 8 * i + 8] = a


def _of_tap(held: Any, row: Any, tap: Any) -> jax.Array:
    """One tap's, for 8 channels."""
    from jax.experimental import pallas

    return jnp.broadcast_to(held[row, pallas.ds(tap, 1)], (8, LANES))


def _sums(
    held: Any,
    index: Any,
    spread: Any,
    begin: Any,
    down: range,
    result: Any,
    row: Any,
    less: Any = None,
    most: int | None = None,
) -> None:
    """Writes an output row: the sum of what the taps see, or of its difference to the row of `less`, times weights."""
    _, across, channels, _ = spread.shape

    def column(chunk: int, origin: list[jax.Array] | None, col: Any, given: Any) -> Any:
        totals = [list(total) for total in given]
        for tap, below in enumerate(down):
            weight, total = _of_tap(held, index, tap * across + col), totals[tap % len(totals)]
            for i in range(len(total)):
                seen = spread[begin + below, col, chunk + 8 * i : chunk + 8 * i + 8]
                total[i] = total[i] + weight * (seen if origin is None else seen - origin[i])
        return tuple(map(tuple, totals))

    for chunk, end in _chunks(channels, _HELD // 2):
        origin, count = None if less is None else _vectors(less, row, chunk, end), (end - chunk) // 8
        # Several sums for each vector: an addition waits for the one before.
        nothing = ((jnp.zeros((8, LANES), jnp.float32),) * count,) * min(max(_APART // count, 1), len(down))
        some = functools.partial(column, chunk, origin)
        totals = _each(across, len(down) * count, some, nothing, most)
        _store(result, row, chunk, [functools.reduce(jnp.add, terms) for terms in zip(*totals, strict=True)])


def _store(ref: Any, row: Any, begin: int, vectors: Sequence[jax.Array]) -> None:
    step = 1 if ref.dtype.itemsize == 4 else 2
    for i in range(0, len(vectors), step):
        a = vectors[i] if step == 1 else jnp.concatenate(vectors[i : i + step])
        ref[0, row, begin + 8 * i : begin + 8 * (i + step)] = a.astype(ref.dtype)


def _store_taps(ref: Any, row: Any, vectors: Sequence[jax.Array]) -> None:
    """Those of all taps, and zeros for what fills them up."""
    nothing = [jnp.zeros((8, LANES), jnp.float32)] * (ref.shape[2] // 8 - len(vectors))
    _store(ref, row, 0, [*vectors, *nothing])


def _clear_after(part: Any, taps: int) -> None:
    """Zeros for the sums of taps that there are not, which fill vectors up."""
    at_once, count, _ = part.shape
    if count > taps * 8:
        part[:, taps * 8 :] = jnp.zeros((at_once, count - taps * 8, LANES), jnp.float32)


def _fold(spread: Any, held: Any, outputs: Any, tables: Sequence[Any], block: Any, down: range, apart: bool) -> None:
    """Puts into the place of what a column of a window sees its gradient, still in the places of the outputs.

    The sum over all outputs of a block that see a row of these outputs times weights; or of their differences to it.
    """
    start, first, last, at_once = tables
    span, across, channels, _ = spread.shape
    rows = outputs.shape[1]

    def add(
        row: Any, chunk: tuple[int, int], columns: range, less: list[jax.Array] | None, number: Any, totals: Any
    ) -> Any:
        for output in (number * at_once + turn for turn in range(at_once)):
            below, values = row - start[block * rows + output], _vectors(outputs, output, *chunk)
            tap = below if down.step == 1 else lax.div(below, jnp.int32(down.step))
            weights = [_of_tap(held, output, tap * across + col) for col in columns]
            if down.step > 1:  # of the rows between the taps of a window nothing is seen
                seen = lax.rem(below, jnp.int32(down.step)) == 0
                weights = [jnp.where(seen, weight, jnp.float32(0)) for weight in weights]
            terms = [(w, a) for w in weights for a in values]
            if less is not None:
                terms = [(w, a - b) for (w, a), b in zip(terms, less, strict=True)]
            totals = tuple(total + w * a for total, (w, a) in zip(totals, terms, strict=True))
        return totals

    def fold(row: Any, carry: Any) -> Any:
        lower, upper = (lax.div(table[block * span + row], jnp.int32(at_once)) for table in (first, last))
        for begin, end in _chunks(channels, _HELD // 2):
            most = max(_HELD // ((end - begin) // 8), 1)
            for side in range(0, across, most):
                columns = range(side, min(side + most, across))
                places = [(row, col, slice(at, at + 8)) for col in columns for at in range(begin, end, 8)]
                less = [spread[place] for place in places] if apart else None
                nothing = tuple(jnp.zeros((8, LANES), jnp.float32) for _ in places)
                some = functools.partial(add, row, (begin, end), columns, less)
                for place, total in zip(places, lax.fori_loop(lower, upper, some, nothing), strict=True):
                    spread[place] = total
        return carry

    lax.fori_loop(0, span, fold, 0)


def _move_back(spread: Any, matrices: Any, result: Any, first: Any, block: Any) -> None:
    """Adds to the input rows of a block what was spread, each column to that which the output's tap is."""
    from jax.experimental import pallas

    span, across, channels, _ = spread.shape
    at_once = max(min(LANES // channels, span), 1)

    @pallas.when(block == 0)
    def _() -> None:
        def clear(row: Any, carry: Any) -> Any:
            result[0, row] = jnp.zeros((channels, LANES), jnp.float32)
            return carry

        lax.fori_loop(0, result.shape[1], clear, 0)

    def move(row: Any, count: int) -> None:
        def column(col: Any, total: jax.Array) -> jax.Array:
            given = spread[pallas.ds(row, count), col].reshape(count * channels, LANES)
            moved = lax.dot_general(
                jnp.concatenate(parts(given, 3)),
                matrices[0, col],
                (((1,), (0,)), ((), ())),
                preferred_element_type=jnp.float32,
            )
            return total + functools.reduce(jnp.add, jnp.split(moved, 3))

        total = _each(across, LANES, column, jnp.zeros((count * channels, LANES), jnp.float32))
        place = (0, pallas.ds(first[block] + row, count))
        result[place] = result[place] + total.reshape(count, channels, LANES)

    whole = span // at_once

    def several(number: Any, carry: Any) -> Any:
        move(number * at_once, at_once)
        return carry

    lax.fori_loop(0, whole, several, 0)
    if span % at_once:
        move(whole * at_once, span % at_once)
