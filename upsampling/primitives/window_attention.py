"""Attention to windows in one kernel on a GPU, and its gradient in two.

    y[p, g] = sum_t softmax_t(queries[p, g] . keys[q(p) + t, g] + rows[p, t] + columns[p, t]) x[q(p) + t, g]

Callers state it as similarities, a softmax and a window sum, which is what CPUs and TPUs compute, as do programs for
several devices and those that are exported. Of that XLA for GPUs writes the similarities, as many for each pixel as its
window has taps, and reads them for their maximum, for their sum and for the window sum. The kernels here write none:
each computes them anew, in float32. They are Pallas', by its back end to Triton. That of the gradient of keys and `x`
gathers what each of their pixels is seen by, so that nothing is added up in memory.

They were compiled for a GPU, and interpreted on a CPU, but have not run on a GPU so far. What is compiled with
`UPSAMPLING_GPU_KERNELS=0` in the environment is compiled without them. So it is where they do not work: for GPUs before
Ampere, for float64, for more than 2048 channels to a group, and by a JAX whose Pallas has no such back end. It is
deprecated since JAX 0.11, and compiles there only with a GPU at hand.
"""

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike

from upsampling._arguments import is_static
from upsampling.primitives._common import is_alone, varying_alike
from upsampling.primitives.window_sum import Geometry, seen_by

SWITCH = "UPSAMPLING_GPU_KERNELS"

# Numbers of each array in a block of pixels, which 128 threads hold in registers.
_VALUES, _VALUES_OF_GRADIENT = 4096, 2048


class Form(NamedTuple):
    """The static facts of an attention.

    Attributes:
      geometry: where the windows are.
      tables: for each axis (output, window), logits to add; or none.
      most: what squares of distances are bounded by, where these are the logits; None where products are.
    """

    geometry: Geometry
    tables: tuple[tuple[tuple[float, ...], ...], ...]
    most: float | None = None

    def logits(self, queries: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Those of some pixels, (pixels, channels), and their derivatives to queries and to keys."""
        if self.most is None:
            return jnp.sum(queries * keys, axis=1), keys, queries
        apart = keys - queries
        squares, most = jnp.sum(apart * apart, axis=1), jnp.float32(self.most)
        apart = apart * jnp.where(squares > most, jnp.float32(0), jnp.float32(1))[:, None]
        return jnp.float32(-0.5) * jnp.minimum(squares, most), apart, -apart


def attention(
    pure: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    queries: jax.Array,
    keys: jax.Array,
    geometry: Geometry,
    *tables: np.ndarray,
    most: float | None = None,
) -> jax.Array:
    """`pure(x, queries, keys)`, which is attention as above, to windows beyond whose edges keys and `x` are zero.

    Args:
      pure: what computes it where the kernels do not. It takes any batch axes.
      x: (*batch, *size, channels).
      queries: (*batch, *output, query channels).
      keys: (*batch, *size, query channels).
      geometry: where the windows are.
      tables: for each axis (output, window), logits to add; or none.
      most: if given, logits are not products but minus half the squares of distances, of which none counts for more.
        Where a window leaves the image the tables are then minus infinity.
    """
    arrays = (x, queries, keys)
    if not _fit(arrays, geometry):
        return pure(*arrays)
    return _attention(pure, _form(geometry, tables, most), *varying_alike(*arrays))


def attended(
    y: jax.Array, x: jax.Array, queries: jax.Array, keys: jax.Array, geometry: Geometry, *tables: np.ndarray
) -> jax.Array:
    """`y`, which is that attention. On a GPU the kernel computes it, and gradients come from what `y` is made of."""
    arrays = (x, queries, keys)
    if not _fit(arrays, geometry):
        return y
    (y,) = _instead_p.bind(*varying_alike(y, *arrays), form=_form(geometry, tables), kernels=attend)
    return y


def _fit(arrays: tuple[jax.Array, jax.Array, jax.Array], geometry: Geometry) -> bool:
    """Whether the kernels take them. An array without entries has no kernel; one of 2^31 has places of 64 bits."""
    if len(geometry.size) > 2 or not all(is_static(*a.shape) and 0 < a.size < 2**31 for a in arrays):
        return False
    x, queries, _ = arrays
    channels = max(x.shape[-1], queries.shape[-1]) // geometry.groups
    values = math.prod(queries.shape[:-1]) * x.shape[-1]
    return all(a.dtype.itemsize <= 4 for a in arrays) and channels <= _VALUES_OF_GRADIENT and values < 2**31


def _form(geometry: Geometry, tables: Sequence[np.ndarray], most: float | None = None) -> Form:
    added = any(table.any() for table in tables)
    return Form(geometry, tuple(tuple(map(tuple, t.tolist())) for t in tables) if added else (), most)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _attention(pure: Callable, form: Form, x: jax.Array, queries: jax.Array, keys: jax.Array) -> jax.Array:
    (y,) = _instead_p.bind(pure(x, queries, keys), x, queries, keys, form=form, kernels=attend)
    return y


@_attention.defjvp
def _(pure: Callable, form: Form, primals: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> tuple:
    y, linear = jax.linearize(pure, *primals)
    (y,) = _instead_p.bind(y, *primals, form=form, kernels=attend)
    held, moved = _held(linear, tangents)
    (dy,) = _tangent_p.bind(*held, *primals, *tangents, linear=moved, form=form)
    return y, dy


def _held(linear: Callable, tangents: Sequence[jax.Array]) -> tuple[list[jax.Array], Any]:
    """What a linear function holds, and a closed program of that and its arguments."""
    closed = jax.make_jaxpr(linear)(*tangents)
    evaluate = lambda held, *moved: eval_jaxpr(closed.jaxpr, held, *moved)  # noqa: E731
    return closed.consts, jax.make_jaxpr(evaluate)(closed.consts, *tangents)


# What takes the place of results that are there: the first operands, which XLA then does not compute.


def _given(*operands: jax.Array, form: Form, kernels: Callable) -> Sequence[jax.Array]:
    """The results that are there. After them come the arrays, (*batch, ...), that the kernels compute them from."""
    del form
    return operands[: _RESULTS[kernels]]


lower_elsewhere = mlir.lower_fun(_given, multiple_results=True)


def lower_on_gpu(
    context: mlir.LoweringRuleContext, *operands: Any, form: Form, kernels: Callable, run: Callable | None = None
) -> Any:
    """`run` is what runs in the place of the kernels."""
    count, rank = _RESULTS[kernels], len(form.geometry.size)

    def compute(*operands: jax.Array) -> Sequence[jax.Array]:
        results, arrays = operands[:count], operands[count:]
        flat = [a.reshape(math.prod(a.shape[: -1 - rank]), *a.shape[-1 - rank :]) for a in arrays]
        made = (run or kernels)(*flat, form=form, dtype=results[0].dtype)
        return [y.reshape(given.shape) for y, given in zip(made, results, strict=True)]

    if is_alone(context) and is_on():
        # From 0.11 on JAX does not lower the kernels without a GPU at hand.
        with _quietly(), contextlib.suppress(RuntimeError):
            return mlir.lower_fun(compute, multiple_results=True)(context, *operands)
    return lower_elsewhere(context, *operands, form=form, kernels=kernels)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without JAX's word that this back end will go one day, which is for us and not for users."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Triton backend.*", category=DeprecationWarning)
        yield


def is_on() -> bool:
    """Whether there are kernels to use, and GPUs for them."""
    return os.environ.get(SWITCH, "1") != "0" and _has_triton() and _are_recent()


@functools.cache
def _has_triton() -> bool:
    try:
        from jax.experimental.pallas import triton  # noqa: F401
    except ImportError:
        return False
    return True


def _are_recent() -> bool:
    """Whether Triton knows the GPUs: those since Ampere."""
    try:
        devices = jax.local_devices(backend="gpu")
    except RuntimeError:
        return True  # compiled ahead of time for one that is not here
    return all(float(getattr(device, "compute_capability", "8.0")) >= 8 for device in devices)


def _batch(arguments: Sequence[jax.Array], dimensions: Sequence[int | None], **params: Any) -> tuple:
    results = _instead_p.bind(*_in_front(arguments, dimensions, _count(arguments, dimensions)), **params)
    return results, [0] * len(results)


def _count(arguments: Sequence[jax.Array], dimensions: Sequence[int | None]) -> int:
    return next(a.shape[d] for a, d in zip(arguments, dimensions, strict=True) if d is not None)


def _in_front(arguments: Sequence[jax.Array], dimensions: Sequence[int | None], count: int) -> list[jax.Array]:
    return [
        jnp.broadcast_to(a, (count, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
        for a, d in zip(arguments, dimensions, strict=True)
    ]


_instead_p = Primitive("window_attention")
_instead_p.multiple_results = True
_instead_p.def_abstract_eval(lambda *avals, form, kernels: avals[: _RESULTS[kernels]])
_instead_p.def_impl(jax.jit(_instead_p.bind, static_argnames=("form", "kernels")))
batching.primitive_batchers[_instead_p] = _batch
mlir.register_lowering(_instead_p, lower_elsewhere)
mlir.register_lowering(_instead_p, lower_on_gpu, platform="cuda")


def _jvp_instead(primals: Sequence[jax.Array], tangents: Sequence[Any], *, form: Form, kernels: Callable) -> tuple:
    # Of gradients: the derivative of what XLA computes. A value's is that of `_attention`.
    return _instead_p.bind(*primals, form=form, kernels=kernels), tangents[: _RESULTS[kernels]]


ad.primitive_jvps[_instead_p] = _jvp_instead

# The tangent, (*what `linear` holds, x, queries, keys, *their tangents). It is a primitive for its transpose's sake.


def _tangent(*operands: jax.Array, linear: Any, form: Form) -> list[jax.Array]:
    del form
    return eval_jaxpr(linear.jaxpr, linear.consts, *operands[:-6], *operands[-3:])


def _transpose(cotangents: Sequence[Any], *operands: Any, linear: Any, form: Form) -> list[Any]:
    held, arrays, tangents = operands[:-6], operands[-6:-3], operands[-3:]
    (cotangent,) = cotangents
    nothing: list[Any] = [None] * (len(operands) - 3)
    if type(cotangent) is ad.Zero:
        return nothing + [ad.Zero(t.aval) if ad.is_undefined_primal(t) else None for t in tangents]
    avals = [a.aval if ad.is_undefined_primal(a) else jax.typeof(a) for a in tangents]
    evaluate = functools.partial(eval_jaxpr, linear.jaxpr, linear.consts, *held)
    pull_back = jax.linear_transpose(lambda *moved: evaluate(*moved)[0], *avals)
    gradients = _instead_p.bind(*pull_back(cotangent), *arrays, cotangent, form=form, kernels=gradients_of)
    return nothing + [g if ad.is_undefined_primal(t) else None for t, g in zip(tangents, gradients, strict=True)]


_tangent_p = Primitive("window_attention_tangent")
_tangent_p.multiple_results = True
_tangent_p.def_impl(_tangent)
_tangent_p.def_abstract_eval(lambda *_, linear, form: linear.out_avals)
mlir.register_lowering(_tangent_p, mlir.lower_fun(_tangent, multiple_results=True))
ad.primitive_transposes[_tangent_p] = _transpose


@functools.partial(ad.primitive_jvps.__setitem__, _tangent_p)
def _(primals: Sequence[jax.Array], tangents: Sequence[Any], **params: Any) -> tuple:
    moved = [ad.instantiate_zeros(t) for t in tangents]
    return jax.jvp(functools.partial(_tangent, **params), tuple(primals), tuple(moved))


@functools.partial(batching.primitive_batchers.__setitem__, _tangent_p)
def _(arguments: Sequence[jax.Array], dimensions: Sequence[int | None], *, linear: Any, form: Form) -> tuple:
    held, others = arguments[:-6], _in_front(arguments[-6:], dimensions[-6:], _count(arguments, dimensions))
    evaluate = functools.partial(eval_jaxpr, linear.jaxpr, linear.consts)
    mapped = jax.make_jaxpr(jax.vmap(evaluate, (*dimensions[:-6], 0, 0, 0)))(*held, *others[3:])
    return _tangent_p.bind(*held, *others, linear=mapped, form=form), [0]


# The kernels, for (n, *size, channels of all groups). A block is some pixels of one group of an image; its arrays are
# (pixels, channels of one group, filled up to a power of two).


class _Sizes(NamedTuple):
    """Sizes in two axes, of which the first may be one."""

    size: tuple[int, ...]
    output: tuple[int, ...]
    window: tuple[int, ...]
    dilation: tuple[int, ...]
    reach: tuple[int, ...]

    @classmethod
    def of(cls, geometry: Geometry) -> "_Sizes":
        missing = 2 - len(geometry.size)
        named = (geometry.size, geometry.output, geometry.window, geometry.dilation, geometry.reach)
        return cls(*((fill,) * missing + tuple(a) for fill, a in zip((1, 1, 1, 1, 0), named, strict=True)))


def attend(
    x: jax.Array, queries: jax.Array, keys: jax.Array, *, form: Form, dtype: DTypeLike, interpret: bool = False
) -> Sequence[jax.Array]:
    """The values, (n, *output, channels), in this dtype."""
    return _over_outputs((x, queries, keys), form, dtype, interpret)


def gradients_of(
    x: jax.Array,
    queries: jax.Array,
    keys: jax.Array,
    cotangent: jax.Array,
    *,
    form: Form,
    dtype: DTypeLike | None = None,
    interpret: bool = False,
) -> Sequence[jax.Array]:
    """The gradients of x, queries and keys, each in the dtype of its own."""
    del dtype
    by_queries, *sums = _over_outputs((x, queries, keys, cotangent), form, queries.dtype, interpret)
    by_x, by_keys = _over_inputs((x, queries, keys, cotangent, *sums), form, interpret)
    return by_x, by_queries, by_keys


_RESULTS: dict[Callable, int] = {attend: 1, gradients_of: 3}


def _over_outputs(arrays: Sequence[jax.Array], form: Form, dtype: DTypeLike, interpret: bool) -> Sequence[jax.Array]:
    """Values; or, with a cotangent, the gradient of queries, and for each output pixel and group (n, *output, groups)
    the logarithm of the sum of its exponentials and the product of its value with the cotangent."""
    x, queries, _, *cotangent = arrays
    load, store, iota, ids = _pallas()
    geometry, sizes = form.geometry, _Sizes.of(form.geometry)
    groups, pixels = geometry.groups, math.prod(sizes.output)
    own, inner = x.shape[-1] // groups, queries.shape[-1] // groups
    block = _block(pixels, _VALUES_OF_GRADIENT if cotangent else _VALUES, own, inner)
    tables = [np.zeros(1)] * (2 - len(geometry.size)) + [*geometry.central]

    def kernel(*refs: Any) -> None:
        x_ref, q_ref, k_ref, *others = refs
        c_ref = others.pop(0) if cotangent else None
        rows_ref, columns_ref, *others = others
        added, results = others[: len(form.tables)], others[len(form.tables) :]
        image, group = ids(1) // _int(groups), ids(1) % _int(groups)
        pixel = ids(0) * _int(block) + iota(block)
        inside = pixel < _int(pixels)
        places = (pixel // _int(sizes.output[1]), pixel % _int(sizes.output[1]))
        row, column = (load(r, p, inside) for r, p in zip((rows_ref, columns_ref), places, strict=True))
        output = (image * _int(pixels) + pixel) * _int(groups) + group
        query = load(q_ref, output, inside, inner)

        def tap(number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            """Of all pixels: the logit, its slope by the query, and the index and mask of what is seen."""
            steps = (number // _int(sizes.window[1]), number % _int(sizes.window[1]))
            index, mask = image, inside
            for center, step, d, r, n in zip(
                (row, column), steps, sizes.dilation, sizes.reach, sizes.size, strict=True
            ):
                place = center + step * _int(d) - _int(r)
                mask = mask & (place >= _int(0)) & (place < _int(n))
                index = index * _int(n) + place
            index = jnp.where(mask, index, _int(0)) * _int(groups) + group
            logit, slope, _ = form.logits(query, load(k_ref, index, mask, inner))
            last = slice(2 - len(added), 2)
            for ref, place, step, length in zip(added, places[last], steps[last], sizes.window[last], strict=True):
                logit = logit + load(ref, place * _int(length) + step, inside)
            return logit, slope, index, mask

        zero, nothing = jnp.zeros((block,), jnp.float32), lambda n: jnp.zeros((block, _power(n)), jnp.float32)
        # Not minus infinity: its difference to the logit of a pixel that is not seen is not a number.
        least = jnp.full((block,), np.finfo(np.float32).min, jnp.float32)
        taps = _int(math.prod(sizes.window))

        def add(number: jax.Array, carry: tuple) -> tuple:
            """Sums with the largest exponential as one: of the exponentials, and of them times what is seen."""
            largest, weights, total = carry
            logit, _, index, mask = tap(number)
            now = jnp.maximum(largest, logit)
            shrink, weight = jnp.exp(largest - now), jnp.exp(logit - now)
            seen = load(x_ref, index, mask, own)
            seen = jnp.sum(seen * given, axis=1) if c_ref is not None else seen
            total = _times(total, shrink) + _times(seen, weight)
            return now, weights * shrink + weight, total

        if c_ref is None:
            _, weights, total = lax.fori_loop(_int(0), taps, add, (least, zero, nothing(own)))
            store(results[0], output, inside, own, _times(total, 1 / weights))
            return
        given = load(c_ref, output, inside, own)
        largest, weights, total = lax.fori_loop(_int(0), taps, add, (least, zero, zero))
        size, mean = largest + jnp.log(weights), total / weights

        def add_gradient(number: jax.Array, total: jax.Array) -> jax.Array:
            logit, slope, index, mask = tap(number)
            gain = jnp.sum(load(x_ref, index, mask, own) * given, axis=1) - mean
            return total + _times(slope, jnp.exp(logit - size) * gain)

        store(results[0], output, inside, inner, lax.fori_loop(_int(0), taps, add_gradient, nothing(inner)))
        store(results[1], output, inside, None, size)
        store(results[2], output, inside, None, mean)

    n = x.shape[0]
    shape = (n, *geometry.output)
    results = [((*shape, x.shape[-1]), dtype)]
    if cotangent:
        results = [(queries.shape, dtype), *[((*shape, groups), jnp.float32)] * 2]
    operands = [*arrays, *(jnp.asarray(t, jnp.int32) for t in tables), *_added(form)]
    return _call(kernel, operands, results, (pixels, block, n * groups), interpret, "window_attention")


def _over_inputs(arrays: Sequence[jax.Array], form: Form, interpret: bool) -> Sequence[jax.Array]:
    """The gradients of `x` and keys."""
    x, queries, keys, *_ = arrays
    load, store, iota, ids = _pallas()
    geometry, sizes = form.geometry, _Sizes.of(form.geometry)
    groups, pixels = geometry.groups, math.prod(sizes.size)
    own, inner = x.shape[-1] // groups, queries.shape[-1] // groups
    block = _block(pixels, _VALUES_OF_GRADIENT, own, inner)
    seen = [np.zeros((1, 1, 2), int)] * (2 - len(geometry.size))
    seen += [t[r : len(t) - r] for t, r in zip(seen_by(geometry), geometry.reach, strict=True)]
    most = [table.shape[1] for table in seen]

    def kernel(*refs: Any) -> None:
        x_ref, q_ref, k_ref, c_ref, size_ref, mean_ref, *others = refs
        seen_refs, added, results = others[:4], others[4 : 4 + len(form.tables)], others[4 + len(form.tables) :]
        image, group = ids(1) // _int(groups), ids(1) % _int(groups)
        pixel = ids(0) * _int(block) + iota(block)
        inside = pixel < _int(pixels)
        places = (pixel // _int(sizes.size[1]), pixel % _int(sizes.size[1]))
        own_index = (image * _int(pixels) + pixel) * _int(groups) + group
        value, key = load(x_ref, own_index, inside, own), load(k_ref, own_index, inside, inner)

        def add(number: jax.Array, carry: tuple) -> tuple:
            by_value, by_key = carry
            index, mask = image, inside
            numbers = (number // _int(most[1]), number % _int(most[1]))
            each = []
            for axis in range(2):
                entry = places[axis] * _int(most[axis]) + numbers[axis]
                place, step = (load(ref, entry, inside) for ref in seen_refs[2 * axis : 2 * axis + 2])
                mask = mask & (place < _int(sizes.output[axis]))
                index = index * _int(sizes.output[axis]) + place
                each.append((place, step, sizes.window[axis]))
            index = jnp.where(mask, index, _int(0)) * _int(groups) + group
            query, given = load(q_ref, index, mask, inner), load(c_ref, index, mask, own)
            logit, _, slope = form.logits(query, key)
            for ref, (place, step, length) in zip(added, each[2 - len(added) :], strict=True):
                logit = logit + load(ref, place * _int(length) + step, mask)
            size, mean = load(size_ref, index, mask), load(mean_ref, index, mask)
            weight = jnp.where(mask, jnp.exp(logit - size), jnp.float32(0))
            gain = jnp.sum(value * given, axis=1) - mean
            return by_value + _times(given, weight), by_key + _times(slope, weight * gain)

        nothing = tuple(jnp.zeros((block, _power(n)), jnp.float32) for n in (own, inner))
        sums = lax.fori_loop(_int(0), _int(math.prod(most)), add, nothing)
        for ref, total, count in zip(results, sums, (own, inner), strict=True):
            store(ref, own_index, inside, count, total)

    tables = [jnp.asarray(part, jnp.int32) for table in seen for part in np.moveaxis(table, -1, 0)]
    results = [(a.shape, a.dtype) for a in (x, keys)]
    operands = [*arrays, *tables, *_added(form)]
    grid = (pixels, block, x.shape[0] * groups)
    return _call(kernel, operands, results, grid, interpret, "window_attention_gradient")


def _added(form: Form) -> list[jax.Array]:
    return [jnp.asarray(table, jnp.float32) for table in form.tables]


def _int(value: int) -> jax.Array:
    return jnp.asarray(value, jnp.int32)


def _times(a: jax.Array, by: jax.Array) -> jax.Array:
    return a * (by if a.ndim == by.ndim else by[:, None])


def _power(n: int) -> int:
    """The least power of two that is not smaller, as Triton wants blocks."""
    return 1 << (n - 1).bit_length()


def _block(pixels: int, values: int, *channels: int) -> int:
    return max(min(values // _power(max(channels)), 64, _power(pixels)), 1)


def _pallas() -> tuple[Callable, Callable, Callable, Callable]:
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    def places(index: jax.Array, mask: jax.Array, count: int | None) -> tuple[jax.Array, jax.Array]:
        if count is None:
            return index, mask
        channel = lax.iota(jnp.int32, _power(count))
        return index[:, None] * _int(count) + channel[None, :], mask[:, None] & (channel < _int(count))[None, :]

    def load(ref: Any, index: jax.Array, mask: jax.Array, count: int | None = None) -> jax.Array:
        """Numbers at these places of a flat array, or `count` at each; floating ones in float32."""
        place, seen = places(index, mask, count)
        read = triton.load(ref.at[place], mask=seen, other=jnp.zeros((), ref.dtype))
        return read if read.dtype == jnp.int32 else read.astype(jnp.float32)

    def store(ref: Any, index: jax.Array, mask: jax.Array, count: int | None, given: jax.Array) -> None:
        place, seen = places(index, mask, count)
        triton.store(ref.at[place], given.astype(ref.dtype), mask=seen)

    return load, store, lambda n: lax.iota(jnp.int32, n), pallas.program_id


def _call(
    kernel: Callable,
    operands: Sequence[jax.Array],
    results: Sequence[tuple[tuple[int, ...], Any]],
    grid: tuple[int, int, int],
    interpret: bool,
    name: str,
) -> list[jax.Array]:
    """Runs it on flat arrays, for blocks of so many pixels, and all images and groups."""
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    pixels, block, others = grid
    shapes = [jax.typeof(operands[0]).update(shape=(math.prod(shape),), dtype=jnp.dtype(d)) for shape, d in results]
    made = pallas.pallas_call(
        kernel,
        out_shape=shapes,
        grid=(-(-pixels // block), others),
        compiler_params=None if interpret else triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name=name,
    )(*varying_alike(*(a.reshape(-1) for a in operands)))
    return [y.reshape(shape) for y, (shape, _) in zip(made, results, strict=True)]
