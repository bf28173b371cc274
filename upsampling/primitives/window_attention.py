"""Attention to windows in one kernel on a GPU, and its gradient in two; or a window sum, and its gradient in one.

    y[p, g] = sum_t softmax_t(logits[p, g, t]) x[q(p) + t, g]

where logits are similarities, queries[p, g] . keys[q(p) + t, g] + rows[p, t] + columns[p, t], or given, as networks
predict them. Queries may be a guide's pixels, which the kernels normalize. Weights may be given in place of a softmax.

Callers state it as similarities, a softmax and a window sum, which is what CPUs compute, as do programs for several
devices and those that are exported. Of that XLA for GPUs writes the similarities, as many for each pixel as its window
has taps, and reads them for their maximum, for their sum and for the window sum. The kernels here write none: each
computes them anew, in float32. Logits that are given they read as the network wrote them, and write no weights. They
are Pallas', by its back end to Triton. That of the gradient of keys and `x` gathers what each of their pixels is seen
by, so that nothing is added up in memory. Those for TPUs are in `windows_on_tpu`.

They were compiled for a GPU, and interpreted on a CPU, but have not run on a GPU so far. What is compiled with
`UPSAMPLING_GPU_KERNELS=0` in the environment is compiled without them. So it is where they do not work: for GPUs before
Ampere, for float64, for more than 2048 channels to a group, and by a JAX whose Pallas has no such back end. It is
deprecated since JAX 0.11, and compiles there only with a GPU at hand.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike

from upsampling._arguments import Edge, is_static
from upsampling.primitives import windows_on_tpu
from upsampling.primitives._common import core, lower_by_hand, varying_alike
from upsampling.primitives._kernels import block as _block
from upsampling.primitives._kernels import call as _call
from upsampling.primitives._kernels import int32 as _int
from upsampling.primitives._kernels import power as _power
from upsampling.primitives._kernels import references as _references
from upsampling.primitives._kernels import times as _times
from upsampling.primitives.resample import resample
from upsampling.primitives.taps import Taps
from upsampling.primitives.window_sum import Geometry, seen_by, window_sum

EPSILON = 1e-5  # what is added to variances

# Numbers of each array in a block of pixels, which 128 threads hold in registers.
_VALUES, _VALUES_OF_GRADIENT = 4096, 2048


# Where logits are from, and the arrays that hold them, after `x`: of two kinds, (*batch, *size, ...) as `x` and
# (*batch, *output, ...) as the result.
Source = Literal["compared", "normalized", "blocks", "sizes", "gated", "weights"]
_ARRAYS: dict[Source, int] = {
    "compared": 3,  # queries (*output, channels) and keys (*size, channels)
    "normalized": 3,  # the same, but queries are first normalized, and keys have a channel more: logits to add
    "blocks": 2,  # logits of all outputs that an input pixel has: (*size, groups * window * scale), as CARAFE has them
    "sizes": 3,  # logits of each output pixel, and of its center to add: (*output, window), (*size, window)
    "gated": 5,  # the same; (*size, 1), whose sigmoid is the share of a map, and this map (*output, channels)
    "weights": 2,  # no logits, but weights: (*output, groups * window)
}


class Form(NamedTuple):
    """The static facts of an attention.

    Attributes:
      geometry: where the windows are.
      tables: for each axis (output, window), logits to add; or none.
      most: what squares of distances are bounded by, where these are the logits; None where products are.
      source: where logits are from. All but those that are compared have neither tables nor a bound, and of these all
        but "blocks" and "weights" have one group.
      factor: of products.
    """

    geometry: Geometry
    tables: tuple[tuple[tuple[float, ...], ...], ...] = ()
    most: float | None = None
    source: Source = "compared"
    factor: float = 1.0

    @property
    def arrays(self) -> int:
        """How many the kernels take."""
        return _ARRAYS[self.source]

    @property
    def compares(self) -> bool:
        """Whether logits are of queries and keys."""
        return self.source in ("compared", "normalized")

    def logits(self, queries: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Those of some pixels, (pixels, channels), and their derivatives to queries and to keys."""
        if self.most is None:
            factor = jnp.float32(self.factor)
            return jnp.sum(queries * keys, axis=1) * factor, keys * factor, queries * factor
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
    factor: float = 1.0,
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
      factor: of products.
    """
    return _attended(pure, (x, queries, keys), _form(geometry, tables, most, factor))


def reassembled(
    pure: Callable[..., jax.Array], x: jax.Array, *given: jax.Array, geometry: Geometry, source: Source
) -> jax.Array:
    """`pure(x, *given)`, a window sum whose weights are the softmax of logits that are given, with zeros beyond edges.

    Args:
      pure: what computes it where the kernel does not. It takes any batch axes.
      x: (*batch, *size, channels).
      given: what `source` names, (*batch, ...).
      geometry: where the windows are.
      source: which arrays hold the logits.
    """
    return _attended(pure, (x, *given), Form(geometry, source=source))


@core((2, 3))
def weighted(x: jax.Array, w: jax.Array, geometry: Geometry, edge: Edge) -> jax.Array:
    """`window_sum(x, w, geometry, edge)`, by these kernels where beyond edges are zeros."""
    if edge != "zero":
        return window_sum(x, w, geometry, edge)
    flat = w.reshape(*w.shape[: -1 - len(geometry.size)], geometry.groups * math.prod(geometry.window))
    pure = lambda x, flat: window_sum(x, flat.reshape(w.shape), geometry, edge)  # noqa: E731
    return _attended(pure, (x, flat), Form(geometry, source="weights"))


def attention_of_normalized(
    pure: Callable[..., jax.Array],
    x: jax.Array,
    guide: jax.Array,
    keys: jax.Array,
    *,
    geometry: Geometry,
) -> jax.Array:
    """`pure(x, guide, keys)`, attention with the guide, each pixel normalized and followed by a 1, as queries.

    Args:
      pure: what computes it where the kernels do not. It takes any batch axes.
      x: (*batch, *size, channels).
      guide: (*batch, *output, guide channels).
      keys: (*batch, *size, guide channels + 1).
      geometry: where the windows are, of one group.
    """
    return _attended(pure, (x, guide, keys), Form(geometry, source="normalized"))


def normalized(a: jax.Array, count: int | None = None) -> tuple[jax.Array, jax.Array]:
    """The channels, on the last axis, with mean 0 and variance 1; and the factor that this took.

    After the first `count` channels come zeros, which do not count and stay.
    """
    count = count or a.shape[-1]
    apart = a - jnp.sum(a, -1, keepdims=True) / count
    if count < a.shape[-1]:
        apart = jnp.where((lax.iota(jnp.int32, a.shape[-1]) < count)[None, :], apart, jnp.zeros((), a.dtype))
    factor = lax.rsqrt(jnp.sum(apart * apart, -1, keepdims=True) / count + jnp.asarray(EPSILON, a.dtype))
    return apart * factor, factor


def _attended(pure: Callable[..., jax.Array], arrays: tuple[jax.Array, ...], form: Form) -> jax.Array:
    return _attention(pure, form, *varying_alike(*arrays)) if _fit(arrays, form) else pure(*arrays)


def attended(
    y: jax.Array,
    x: jax.Array,
    queries: jax.Array,
    keys: jax.Array,
    geometry: Geometry,
    *tables: np.ndarray,
    factor: float = 1.0,
) -> jax.Array:
    """`y`, which is that attention. On a GPU the kernel computes it, and gradients come from what `y` is made of."""
    arrays, form = (x, queries, keys), _form(geometry, tables, factor=factor)
    if not _fit(arrays, form):
        return y
    (y,) = _instead_p.bind(*varying_alike(y, *arrays), form=form, kernels=attend)
    return y


def _fit(arrays: tuple[jax.Array, ...], form: Form) -> bool:
    """Whether the kernels take them. An array without entries has no kernel; one of 2^31 has places of 64 bits."""
    size, output = form.geometry.size, form.geometry.output
    if len(size) > 2 or not all(is_static(*a.shape) and 0 < a.size < 2**31 for a in arrays):
        return False
    x, other, *_ = arrays
    channels = max(x.shape[-1], other.shape[-1] if form.compares else 0) // form.geometry.groups
    values = x.size // math.prod(size) * math.prod(output)
    return all(a.dtype.itemsize <= 4 for a in arrays) and channels <= _VALUES_OF_GRADIENT and values < 2**31


def _form(geometry: Geometry, tables: Sequence[np.ndarray], most: float | None = None, factor: float = 1.0) -> Form:
    added = any(table.any() for table in tables)
    return Form(geometry, tuple(tuple(map(tuple, t.tolist())) for t in tables) if added else (), most, factor=factor)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _attention(pure: Callable, form: Form, *arrays: jax.Array) -> jax.Array:
    (y,) = _instead_p.bind(pure(*arrays), *arrays, form=form, kernels=attend)
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
    return operands[: _results(form, kernels)]


def _results(form: Form, kernels: Callable) -> int:
    """A value, or the gradients of all arrays."""
    return 1 if kernels is attend else form.arrays


lower_elsewhere = mlir.lower_fun(_given, multiple_results=True)


def lower_on_gpu(
    context: mlir.LoweringRuleContext, *operands: Any, form: Form, kernels: Callable, run: Callable | None = None
) -> Any:
    """`run` is what runs in the place of the kernels."""
    form_by_hand = functools.partial(_by_hand, form=form, kernels=kernels, run=run or kernels)
    made = lower_by_hand(context, form_by_hand, *operands, multiple_results=True)
    return made or lower_elsewhere(context, *operands, form=form, kernels=kernels)


def lower_on_tpu(context: mlir.LoweringRuleContext, *operands: Any, form: Form, kernels: Callable) -> Any:
    run = windows_on_tpu.attend if kernels is attend else windows_on_tpu.gradients_of
    arrays = context.avals_in[_results(form, kernels) :]
    made = None
    if windows_on_tpu.takes(arrays, form):
        form_by_hand = functools.partial(_by_hand, form=form, kernels=kernels, run=run)
        made = lower_by_hand(context, form_by_hand, *operands, multiple_results=True, platform="tpu")
    return made or lower_elsewhere(context, *operands, form=form, kernels=kernels)


def _by_hand(*operands: jax.Array, form: Form, kernels: Callable, run: Callable) -> Sequence[jax.Array]:
    """What `run` makes of the arrays, in the shapes of the results that are there."""
    count, rank = _results(form, kernels), len(form.geometry.size)
    results, arrays = operands[:count], operands[count:]
    flat = [a.reshape(math.prod(a.shape[: -1 - rank]), *a.shape[-1 - rank :]) for a in arrays]
    made = run(*flat, form=form, dtype=results[0].dtype)
    return [y.reshape(given.shape) for y, given in zip(made, results, strict=True)]


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
_instead_p.def_abstract_eval(_given)
_instead_p.def_impl(jax.jit(_instead_p.bind, static_argnames=("form", "kernels")))
batching.primitive_batchers[_instead_p] = _batch
mlir.register_lowering(_instead_p, lower_elsewhere)
mlir.register_lowering(_instead_p, lower_on_gpu, platform="cuda")
mlir.register_lowering(_instead_p, lower_on_tpu, platform="tpu")


def _jvp_instead(primals: Sequence[jax.Array], tangents: Sequence[Any], *, form: Form, kernels: Callable) -> tuple:
    # Of gradients: the derivative of what XLA computes. A value's is that of `_attention`.
    return _instead_p.bind(*primals, form=form, kernels=kernels), tangents[: _results(form, kernels)]


ad.primitive_jvps[_instead_p] = _jvp_instead

# The tangent, (*what `linear` holds, *arrays, *their tangents). It is a primitive for its transpose's sake.


def _parts(operands: Sequence[Any], form: Form) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    """What is held, the arrays, and what is linear."""
    n = form.arrays
    return operands[: -2 * n], operands[-2 * n : -n], operands[-n:]


def _tangent(*operands: jax.Array, linear: Any, form: Form) -> list[jax.Array]:
    held, _, tangents = _parts(operands, form)
    return eval_jaxpr(linear.jaxpr, linear.consts, *held, *tangents)


def _transpose(cotangents: Sequence[Any], *operands: Any, linear: Any, form: Form) -> list[Any]:
    held, arrays, tangents = _parts(operands, form)
    (cotangent,) = cotangents
    nothing: list[Any] = [None] * (len(operands) - form.arrays)
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
    n = form.arrays
    held, inner = arguments[: -2 * n], dimensions[: -2 * n]
    others = _in_front(arguments[-2 * n :], dimensions[-2 * n :], _count(arguments, dimensions))
    evaluate = functools.partial(eval_jaxpr, linear.jaxpr, linear.consts)
    mapped = jax.make_jaxpr(jax.vmap(evaluate, (*inner, *[0] * n)))(*held, *others[n:])
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
    scale: tuple[int, ...]

    @classmethod
    def of(cls, geometry: Geometry) -> "_Sizes":
        missing = 2 - len(geometry.size)
        named = (geometry.size, geometry.output, geometry.window, geometry.dilation, geometry.reach, geometry.scale)
        return cls(*((fill,) * missing + tuple(a) for fill, a in zip((1, 1, 1, 1, 0, 1), named, strict=True)))


def attend(*arrays: jax.Array, form: Form, dtype: DTypeLike, interpret: bool = False) -> Sequence[jax.Array]:
    """The values, (n, *output, channels), in this dtype."""
    return _over_outputs(arrays, None, form, dtype, interpret)


def gradients_of(
    *arrays_and_cotangent: jax.Array, form: Form, dtype: DTypeLike | None = None, interpret: bool = False
) -> Sequence[jax.Array]:
    """The gradients of all arrays, each in the dtype of its own."""
    del dtype
    *arrays, cotangent = arrays_and_cotangent
    if form.source == "weights":
        return _over_padded(arrays, cotangent, form.geometry, interpret)
    by_logits, *sums = _over_outputs(arrays, cotangent, form, arrays[1].dtype, interpret)
    by_x, *by_keys = _over_inputs(arrays, cotangent, sums, form, interpret)
    if form.compares or form.source == "blocks":
        return by_x, by_logits, *by_keys
    # What all outputs of a center have of it.
    gradients = [by_x, by_logits, _at_centers(by_logits, form.geometry).astype(arrays[2].dtype)]
    if form.source == "gated":
        gate, guide = arrays[3:]
        share = jax.nn.sigmoid(gate.astype(jnp.float32))
        by_gate = share * (1 - share) * _at_centers(sums[1], form.geometry)
        by_guide = at_outputs(share, form.geometry) * cotangent.astype(jnp.float32)
        gradients += [by_gate.astype(gate.dtype), by_guide.astype(guide.dtype)]
    return gradients


def _enlarging(geometry: Geometry) -> list[tuple[int, Taps]]:
    """What gives each output pixel that of its center."""
    places = zip(geometry.size, geometry.central, strict=True)
    return [(axis, Taps(n, c[:, None], np.ones((len(c), 1)))) for axis, (n, c) in enumerate(places, start=1)]


def at_outputs(a: jax.Array, geometry: Geometry) -> jax.Array:
    """For each output pixel what `a` has at its center: (n, *size, channels) -> (n, *output, channels)."""
    return resample(a, _enlarging(geometry))


def _at_centers(a: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose."""
    return resample(a, [(axis, own.transpose) for axis, own in _enlarging(geometry)])


def _over_outputs(
    arrays: Sequence[jax.Array], cotangent: jax.Array | None, form: Form, dtype: DTypeLike, interpret: bool
) -> Sequence[jax.Array]:
    """Values; or, with a cotangent, the gradient of queries or logits, and for each output pixel and group (n, *output,
    groups) the logarithm of the sum of its exponentials and the product of its value with the cotangent. Of what is
    gated the gradient of the gate takes the place of this product, and exponentials are over the share that is left."""
    x, other, *_ = arrays
    load, store, iota, ids = _references()
    geometry, sizes = form.geometry, _Sizes.of(form.geometry)
    groups, pixels = geometry.groups, math.prod(sizes.output)
    compared, gated = form.compares, form.source == "gated"
    own, inner = x.shape[-1] // groups, other.shape[-1] // groups if compared else 1
    stride = inner + (form.source == "normalized")
    block = _block(pixels, _VALUES if cotangent is None else _VALUES_OF_GRADIENT, own, inner)
    tables = [np.zeros(1)] * (2 - len(geometry.size)) + [*geometry.central]

    def kernel(*refs: Any) -> None:
        (x_ref, *given_refs), others = refs[: form.arrays], list(refs[form.arrays :])
        c_ref = None if cotangent is None else others.pop(0)
        rows_ref, columns_ref, *others = others
        added, results = others[: len(form.tables)], others[len(form.tables) :]
        image, group = ids(1) // _int(groups), ids(1) % _int(groups)
        pixel = ids(0) * _int(block) + iota(block)
        inside = pixel < _int(pixels)
        places = _places(pixel, sizes, form)
        center = tuple(load(r, p, inside) for r, p in zip((rows_ref, columns_ref), places, strict=True))
        output = _index((image, *places, group), (*sizes.output, groups))
        query, stretch = load(given_refs[0], output, inside, inner) if compared else None, None
        if query is not None and form.source == "normalized":
            query, stretch = normalized(query, inner)

        def tap(number: jax.Array) -> tuple[jax.Array, Any, jax.Array, jax.Array]:
            """Of all pixels: the logit, its slope by the query or its place, and the index and mask of what is seen."""
            steps = (number // _int(sizes.window[1]), number % _int(sizes.window[1]))
            seen, mask = [], inside
            for middle, step, d, r, n in zip(center, steps, sizes.dilation, sizes.reach, sizes.size, strict=True):
                seen.append(middle + step * _int(d) - _int(r))
                mask = mask & (seen[-1] >= _int(0)) & (seen[-1] < _int(n))
            index = _index((image, *seen, group), (*sizes.size, groups), mask)
            if query is None:
                at, logit = _logit(load, given_refs, form, (image, group), places, center, steps, inside)
                return logit, at, index, mask
            logit, slope, _ = form.logits(query, load(given_refs[1], index, mask, inner, stride))
            if stretch is not None:
                logit = logit + load(given_refs[1], index * _int(stride) + _int(inner), mask)
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

        def gate() -> tuple[jax.Array, jax.Array]:
            """The logit of the share of the map, and this map."""
            logit = load(given_refs[2], _index((image, *center), sizes.size), inside)
            return logit, load(given_refs[3], output, inside, own)

        def add_weighted(number: jax.Array, total: jax.Array) -> jax.Array:
            weight, _, index, mask = tap(number)
            return total + _times(load(x_ref, index, mask, own), weight)

        if form.source == "weights":
            store(results[0], output, inside, own, lax.fori_loop(_int(0), taps, add_weighted, nothing(own)))
            return
        if c_ref is None:
            _, weights, total = lax.fori_loop(_int(0), taps, add, (least, zero, nothing(own)))
            value = _times(total, 1 / weights)
            if gated:
                logit, guide = gate()
                share = _sigmoid(logit)
                value = _times(guide, share) + _times(value, 1 - share)
            store(results[0], output, inside, own, value)
            return
        given = load(c_ref, output, inside, own)
        largest, weights, total = lax.fori_loop(_int(0), taps, add, (least, zero, zero))
        size, mean = largest + jnp.log(weights), total / weights
        last = mean
        if gated:
            logit, guide = gate()
            size = size + _softplus(logit)  # less the logarithm of the share that is left
            last = jnp.sum(given * guide, axis=1) - mean

        def add_gradient(number: jax.Array, total: jax.Array) -> jax.Array:
            logit, slope, index, mask = tap(number)
            gain = jnp.sum(load(x_ref, index, mask, own) * given, axis=1) - mean
            by_logit = jnp.exp(logit - size) * gain
            if compared:
                return total + _times(slope, by_logit)
            store(results[0], slope, inside, None, by_logit)
            return total

        total = lax.fori_loop(_int(0), taps, add_gradient, nothing(inner) if compared else zero)
        if query is not None and stretch is not None:
            means = [jnp.sum(a, axis=1) / inner for a in (total, total * query)]
            total = (total - means[0][:, None] - _times(query, means[1])) * stretch
        if compared:
            store(results[0], output, inside, inner, total)
        store(results[1], output, inside, None, size)
        if compared or gated:
            store(results[2], output, inside, None, last)

    n = x.shape[0]
    shape = (n, *geometry.output)
    results = [((*shape, x.shape[-1]), dtype)]
    if cotangent is not None:
        results = [(other.shape, dtype), *[((*shape, groups), jnp.float32)] * (1 + (compared or gated))]
    operands = [*arrays, *([] if cotangent is None else [cotangent])]
    operands += [*(jnp.asarray(t, jnp.int32) for t in tables), *_added(form)]
    return _call(kernel, operands, results, (pixels, block, n * groups), interpret, "window_attention")


def _over_inputs(
    arrays: Sequence[jax.Array], cotangent: jax.Array, sums: Sequence[jax.Array], form: Form, interpret: bool
) -> Sequence[jax.Array]:
    """The gradients of `x` and, if logits are not given, of keys."""
    x, *given = arrays
    load, store, iota, ids = _references()
    geometry, sizes = form.geometry, _Sizes.of(form.geometry)
    groups, pixels = geometry.groups, math.prod(sizes.size)
    compared, normalizes = form.compares, form.source == "normalized"
    given = given if form.source != "gated" else given[:2]  # the sums hold the gate
    sums = sums if compared else sums[:1]
    own, inner = x.shape[-1] // groups, given[0].shape[-1] // groups if compared else 1
    stride = inner + normalizes
    block = _block(pixels, _VALUES_OF_GRADIENT, own, inner)
    tables, most = _tables_of_seeing(geometry, padded=False)

    def kernel(*refs: Any) -> None:
        others = list(refs)
        take = lambda n: [others.pop(0) for _ in range(n)]  # noqa: E731
        x_refs, given_refs, (c_ref,), sum_refs = take(compared), take(len(given)), take(1), take(len(sums))
        seen_refs, added, results = take(4), take(len(form.tables)), others
        image, group = ids(1) // _int(groups), ids(1) % _int(groups)
        pixel = ids(0) * _int(block) + iota(block)
        inside = pixel < _int(pixels)
        places = (pixel // _int(sizes.size[1]), pixel % _int(sizes.size[1]))
        own_index = _index((image, *places, group), (*sizes.size, groups))
        value = load(x_refs[0], own_index, inside, own) if compared else None
        key = load(given_refs[1], own_index, inside, inner, stride) if compared else None
        added_index = own_index * _int(stride) + _int(inner)
        own_logit = load(given_refs[1], added_index, inside) if normalizes else None

        def add(number: jax.Array, carry: tuple) -> tuple:
            outputs, steps, mask = _seeing(load, seen_refs, number, places, most, sizes, inside)
            seen = zip(places, steps, sizes.dilation, sizes.reach, strict=True)
            center = [place - step * _int(d) + _int(r) for place, step, d, r in seen]
            index = _index((image, *outputs, group), (*sizes.output, groups), mask)
            if key is not None:
                query = load(given_refs[0], index, mask, inner)
                query = normalized(query, inner)[0] if normalizes else query
                logit, _, slope = form.logits(query, key)
                logit = logit if own_logit is None else logit + own_logit
                last = slice(2 - len(added), 2)
                for ref, place, step, length in zip(added, outputs[last], steps[last], sizes.window[last], strict=True):
                    logit = logit + load(ref, place * _int(length) + step, mask)
            else:
                slope, logit = _logit(load, given_refs, form, (image, group), outputs, center, steps, mask)
            weight = jnp.where(mask, jnp.exp(logit - load(sum_refs[0], index, mask)), jnp.float32(0))
            by_value, *by_key = carry
            output = load(c_ref, index, mask, own)
            by_value = by_value + _times(output, weight)
            if value is None:
                return (by_value,)
            by_logit = weight * (jnp.sum(value * output, axis=1) - load(sum_refs[1], index, mask))
            by_key[0] = by_key[0] + _times(slope, by_logit)
            return by_value, by_key[0], *(total + by_logit for total in by_key[1:])

        counts = (own, inner, None)[: 1 + compared + normalizes]
        nothing = tuple(jnp.zeros((block,) if n is None else (block, _power(n)), jnp.float32) for n in counts)
        totals = lax.fori_loop(_int(0), _int(math.prod(most)), add, nothing)
        store(results[0], own_index, inside, own, totals[0])
        if compared:
            store(results[1], own_index, inside, inner, totals[1], stride)
        if normalizes:
            store(results[1], added_index, inside, None, totals[2])

    results = [(a.shape, a.dtype) for a in ((x, given[1]) if compared else (x,))]
    operands = [*([x] if compared else []), *given, cotangent, *sums, *tables, *_added(form)]
    grid = (pixels, block, x.shape[0] * groups)
    return _call(kernel, operands, results, grid, interpret, "window_attention_gradient")


def _over_padded(
    arrays: Sequence[jax.Array], cotangent: jax.Array, geometry: Geometry, interpret: bool
) -> Sequence[jax.Array]:
    """The gradients of `x` and of weights. Each pair of a pixel and an output that sees it has one weight: it is
    written where it is read. So there are pairs for the zeros beyond the edges too."""
    x, w = arrays
    load, store, iota, ids = _references()
    sizes, groups = _Sizes.of(geometry), geometry.groups
    padded = tuple(n + 2 * r for n, r in zip(sizes.size, sizes.reach, strict=True))
    own, pixels = x.shape[-1] // groups, math.prod(padded)
    block = _block(pixels, _VALUES_OF_GRADIENT, own)
    tables, most = _tables_of_seeing(geometry, padded=True)

    def kernel(*refs: Any) -> None:
        x_ref, w_ref, c_ref, *seen_refs, by_x_ref, by_w_ref = refs
        image, group = ids(1) // _int(groups), ids(1) % _int(groups)
        pixel = ids(0) * _int(block) + iota(block)
        inside = pixel < _int(pixels)
        places = (pixel // _int(padded[1]), pixel % _int(padded[1]))
        pixel_of_x = [place - _int(r) for place, r in zip(places, sizes.reach, strict=True)]
        is_in_x = inside
        for place, n in zip(pixel_of_x, sizes.size, strict=True):
            is_in_x = is_in_x & (place >= _int(0)) & (place < _int(n))
        own_index = _index((image, *pixel_of_x, group), (*sizes.size, groups), is_in_x, x.size // own)
        value = load(x_ref, own_index, is_in_x, own)

        def add(number: jax.Array, total: jax.Array) -> jax.Array:
            outputs, steps, mask = _seeing(load, seen_refs, number, places, most, sizes, inside)
            output = load(c_ref, _index((image, *outputs, group), (*sizes.output, groups), mask), mask, own)
            at = _index((image, *outputs, group, *steps), (*sizes.output, groups, *sizes.window), mask, w.size)
            store(by_w_ref, at, mask, None, jnp.sum(value * output, axis=1))
            return total + _times(output, load(w_ref, at, mask))

        nothing = jnp.zeros((block, _power(own)), jnp.float32)
        total = lax.fori_loop(_int(0), _int(math.prod(most)), add, nothing)
        store(by_x_ref, own_index, is_in_x, own, total)

    results, grid = [(a.shape, a.dtype) for a in (x, w)], (pixels, block, x.shape[0] * groups)
    return _call(kernel, [x, w, cotangent, *tables], results, grid, interpret, "window_sum_gradient")


def _tables_of_seeing(geometry: Geometry, *, padded: bool) -> tuple[list[jax.Array], list[int]]:
    """For each of two axes which outputs see a pixel, and with which tap, and how many at most."""
    tables = [np.zeros((1, 1, 2), int)] * (2 - len(geometry.size))
    reach = [0] * len(geometry.size) if padded else geometry.reach
    tables += [t[r : len(t) - r] for t, r in zip(seen_by(geometry), reach, strict=True)]
    parts = [jnp.asarray(part, jnp.int32) for table in tables for part in np.moveaxis(table, -1, 0)]
    return parts, [table.shape[1] for table in tables]


def _seeing(
    load: Callable,
    refs: Sequence[Any],
    number: jax.Array,
    places: Sequence[jax.Array],
    most: Sequence[int],
    sizes: _Sizes,
    mask: jax.Array,
) -> tuple[list[jax.Array], list[jax.Array], jax.Array]:
    """One output that sees each pixel: where it is, with which tap, and whether there is one."""
    outputs, steps, sees = [], [], mask
    numbers = (number // _int(most[1]), number % _int(most[1]))
    for axis in range(2):
        entry = places[axis] * _int(most[axis]) + numbers[axis]
        place, step = (load(ref, entry, mask) for ref in refs[2 * axis : 2 * axis + 2])
        sees = sees & (place < _int(sizes.output[axis]))
        outputs.append(place)
        steps.append(step)
    return outputs, steps, sees


def _places(pixel: jax.Array, sizes: _Sizes, form: Form) -> tuple[jax.Array, jax.Array]:
    """The row and column of each output pixel. Logits in blocks are so read one after the other."""
    if form.source != "blocks":
        return pixel // _int(sizes.output[1]), pixel % _int(sizes.output[1])
    (down, across), width = sizes.scale, sizes.size[1]
    center, phase = pixel // _int(down * across), pixel % _int(down * across)
    row = center // _int(width) * _int(down) + phase // _int(across)
    return row, center % _int(width) * _int(across) + phase % _int(across)


def _logit(
    load: Callable,
    refs: Sequence[Any],
    form: Form,
    ids: Sequence[jax.Array],
    places: Sequence[jax.Array],
    center: Sequence[jax.Array],
    steps: Sequence[jax.Array],
    mask: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Of logits that are given those of one tap of each output pixel, and where they are in the first array.

    Or the weight.
    """
    sizes, (image, group) = _Sizes.of(form.geometry), ids
    if form.source == "weights":
        at = _index((image, *places, group, *steps), (*sizes.output, form.geometry.groups, *sizes.window))
        return at, load(refs[0], at, mask)
    if form.source == "blocks":
        phase = tuple(p % _int(s) for p, s in zip(places, sizes.scale, strict=True))
        lengths = (*sizes.size, form.geometry.groups, *sizes.window, *sizes.scale)
        at = _index((image, *center, group, *steps, *phase), lengths)
        return at, load(refs[0], at, mask)
    at = _index((image, *places, *steps), (*sizes.output, *sizes.window))
    low = _index((image, *center, *steps), (*sizes.size, *sizes.window))
    return at, load(refs[0], at, mask) + load(refs[1], low, mask)


def _index(
    places: Sequence[jax.Array], lengths: Sequence[int], mask: jax.Array | None = None, masked: int = 0
) -> jax.Array:
    """The index in a flat array of any number of images, whose other axes have these lengths; `masked` outside `mask`.

    What is written there must be no entry: JAX interprets writing that is masked as writing what was there before.
    """
    index, *others = places
    for place, length in zip(others, lengths, strict=True):
        index = index * _int(length) + place
    return index if mask is None else jnp.where(mask, index, _int(masked))


def _sigmoid(logit: jax.Array) -> jax.Array:
    return 1 / (1 + jnp.exp(-logit))


def _softplus(logit: jax.Array) -> jax.Array:
    return jnp.maximum(logit, jnp.float32(0)) + jnp.log1p(jnp.exp(-jnp.abs(logit)))


def _added(form: Form) -> list[jax.Array]:
    return [jnp.asarray(table, jnp.float32) for table in form.tables]
