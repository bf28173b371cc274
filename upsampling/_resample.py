"""Taps applied to arrays: one linear primitive, whose transpose is the same primitive with the transposed taps.

JAX's own transpose of a gather is a scatter, which is slow everywhere and not deterministic on a GPU. The transpose of
taps is again taps, so a primitive that swaps the two has gradients of the speed of the forward pass, to any order.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from upsampling.taps import Taps

Operators = tuple[tuple[int, Taps], ...]  # (axis, taps), each axis at most once


def resample(x: jax.Array, operators: Sequence[tuple[int, Taps]]) -> jax.Array:
    """Applies each operator along its axis. Linear in x; half precision accumulates in float32."""
    operators = tuple((axis, taps) for axis, taps in operators if not taps.identity)
    return _resample_p.bind(x, operators=operators) if operators else x


def _apply(x: jax.Array, *, operators: Operators) -> jax.Array:
    dtype = x.dtype
    if all(taps.selection for _, taps in operators):
        for axis, taps in operators:
            x = x.take(taps.indices[:, 0], axis, mode="clip")
        return x
    accumulator = jnp.promote_types(dtype, jnp.float32)
    x = x.astype(accumulator)
    for axis, taps in operators:
        x = _gather(x, axis, taps)
    return x.astype(dtype)


def _gather(x: jax.Array, axis: int, taps: Taps) -> jax.Array:
    shape = [1] * x.ndim
    shape[axis] = taps.outputs
    weights = taps.weights.astype(x.dtype)
    terms = [
        x.take(taps.indices[:, k], axis, mode="clip") * weights[:, k].reshape(shape)
        for k in range(taps.indices.shape[1])
    ]
    return functools.reduce(jnp.add, terms)


def _transposed(operators: Operators) -> Operators:
    return tuple((axis, taps.transpose) for axis, taps in reversed(operators))


_resample_p = Primitive("resample")
_resample_p.def_impl(jax.jit(_apply, static_argnames="operators"))


@_resample_p.def_abstract_eval
def _abstract(x, *, operators: Operators):
    # Tracing the implementation keeps whatever an abstract value carries besides its shape (sharding, weak types).
    return jax.make_jaxpr(functools.partial(_apply, operators=operators))(x).out_avals[0]


def _transpose_rule(cotangent, *, operators: Operators):
    return [resample(cotangent, _transposed(operators))]


def _batch_rule(arguments, dimensions, *, operators: Operators):
    (x,), (batch,) = arguments, dimensions
    moved = tuple((axis + (axis >= batch), taps) for axis, taps in operators)
    return resample(x, moved), batch


ad.deflinear2(_resample_p, lambda cotangent, x, *, operators: _transpose_rule(cotangent, operators=operators))
batching.primitive_batchers[_resample_p] = _batch_rule
mlir.register_lowering(_resample_p, mlir.lower_fun(_apply, multiple_results=False))
