"""What the primitives share: the dtype to accumulate in, blocks of rows, and how a primitive is made."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.typing import DTypeLike

# A CPU's caches hold blocks of this size. Measured on two cores, 1 to 4 MB are alike.
BLOCK_BYTES = 2 << 20

# Taps beyond this many in one loop would take seconds to compile.
UNROLLED_TAPS = 128


def accumulator(*dtypes: DTypeLike) -> jnp.dtype:
    """The dtype to accumulate in: the widest of the given floating ones, float32 at least."""
    # Not promotion, which JAX refuses under jax_numpy_dtype_promotion="strict".
    return max((jnp.dtype(jnp.float32), *map(jnp.dtype, dtypes)), key=lambda dtype: dtype.itemsize)


def floating() -> jnp.dtype:
    """The dtype of what is computed from whole numbers: float32, or float64 in 64-bit JAX."""
    return jax.dtypes.canonicalize_dtype(float)


def with_axes(a: jax.Array, rank: int) -> jax.Array:
    """`a` with axes of length one in front, `rank` in all: JAX need not promote ranks (jax_numpy_rank_promotion)."""
    return a.reshape((1,) * (rank - a.ndim) + a.shape)


def block_rows(height: int, row_bytes: int, least: int = 1) -> int:
    """The most rows, of which a whole number makes `height`, that fit `BLOCK_BYTES`; at least `least` if there are."""
    fitting = max(BLOCK_BYTES // max(row_bytes, 1), least)
    divisors = [n for n in range(1, height + 1) if height % n == 0]
    return max(
        (n for n in divisors if least <= n <= fitting), default=min(n for n in divisors if n >= min(least, height))
    )


def make_primitive(
    name: str,
    abstract: Callable[..., Any],
    default: Callable[..., jax.Array],
    *,
    static: Sequence[str],
    cpu: Callable[..., jax.Array] | None = None,
    cpu_alone: Callable[..., jax.Array] | None = None,
    tpu: Callable[..., jax.Array] | None = None,
) -> Primitive:
    """A primitive of one result, with a form for each platform, that batches by merging the new axis with the first.

    Args:
      name: what the program shows.
      abstract: `(*avals, **static)` to the result's aval.
      default: computes it, `(*arrays, **static)`; the form for platforms without one of their own.
      static: names of the static arguments, all keyword.
      cpu, tpu: the forms for these platforms.
      cpu_alone: the form for a CPU in programs for a single device. The partitioner would gather all shards for a loop
        over images, or for a fixed layout.

    Returns:
      The primitive. Its derivatives are the caller's to define.
    """
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=tuple(static)))
    primitive.def_abstract_eval(abstract)

    def merge_axes(arguments: Sequence[jax.Array], dimensions: Sequence[int | None], **params: Any) -> tuple:
        count = next(a.shape[d] for a, d in zip(arguments, dimensions, strict=True) if d is not None)
        merged = []
        for a, d in zip(arguments, dimensions, strict=True):
            a = jnp.broadcast_to(a, (count, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
            merged.append(a.reshape(-1, *a.shape[2:]))
        result = primitive.bind(*merged, **params)
        return result.reshape(count, -1, *result.shape[1:]), 0

    batching.primitive_batchers[primitive] = merge_axes

    def lower_on_cpu(context: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        alone = getattr(context.module_context.axis_context, "num_devices", None) == 1
        form = (cpu_alone if alone else None) or cpu or default
        return mlir.lower_fun(form, multiple_results=False)(context, *operands, **params)

    mlir.register_lowering(primitive, mlir.lower_fun(default, multiple_results=False))
    if cpu is not None or cpu_alone is not None:
        mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    if tpu is not None:
        mlir.register_lowering(primitive, mlir.lower_fun(tpu, multiple_results=False), platform="tpu")
    return primitive
