"""How kernels by hand for TPUs are run: Pallas', by its back end to Mosaic."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from upsampling.primitives._common import varying_alike

LANES = 128  # of a vector, which has 8 of them for 32 bits


def run(
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    numbers: Sequence[np.ndarray],
    given: tuple[Sequence[jax.Array], Sequence[Any]],
    made: tuple[Sequence[Any], Sequence[Any]],
    scratch: Sequence[tuple[int, ...]],
    *,
    most_bytes: int,
    interpret: bool,
    name: str,
    turns: float = 1.0,
) -> list[jax.Array]:
    """Runs a kernel for all blocks, one after the other along the last axis of the grid.

    Args:
      kernel: of references to the numbers, to what is given and made, and to what is held on the chip.
      grid: how many blocks there are, along each axis.
      numbers: tables that the kernel looks up, and that tell which part of an array a block has.
      given: arrays, and which part of each a block has.
      made: the same of the results.
      scratch: shapes of what is held, in float32.
      most_bytes: what all of a block may take on the chip.
      interpret: whether JAX computes what the kernel would, on a CPU.
      name: what a program shows.
      turns: of loops whose length the program does not tell, in the mean, for who reads the program.
    """
    from jax.experimental import pallas
    from jax.experimental.pallas import tpu

    # Blocks of rows follow each other, so that one fetches what the next needs.
    semantics: Any = (*["parallel"] * (len(grid) - 1), "arbitrary")
    operands = varying_alike(*(jnp.asarray(a.reshape(-1), jnp.int32) for a in numbers), *given[0])
    like = jax.typeof(operands[-1])
    call = pallas.pallas_call(
        kernel,
        out_shape=[like.update(shape=a.shape, dtype=jnp.dtype(a.dtype)) for a in made[0]],
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(numbers),
            grid=grid,
            in_specs=given[1],
            out_specs=made[1],
            scratch_shapes=[tpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        compiler_params=tpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=most_bytes),
        interpret=interpret,
        name=name,
        metadata={"turns": str(turns)},
    )
    # What a kernel makes varies over devices as what it is given, which JAX does not say of it.
    return varying_alike(*call(*operands), operands[-1])[:-1]


def whole(n: int, unit: int) -> int:
    """`n`, filled up to a multiple of the unit."""
    return -(-n // unit) * unit


def parts(a: Any, count: int) -> list[Any]:
    """Numbers of half precision whose sum is `a` to 8 bits for each; three have all the digits of float32."""
    found = []
    for _ in range(count):
        found.append(a.astype(jnp.bfloat16))
        a = a - found[-1].astype(jnp.float32)
    return found


def permuted(a: jax.Array, places: jax.Array) -> jax.Array:
    """In each row the numbers at these places."""
    batched = lax.GatherDimensionNumbers(
        offset_dims=(),
        collapsed_slice_dims=(1,),
        start_index_map=(1,),
        operand_batching_dims=(0,),
        start_indices_batching_dims=(0,),
    )
    within = lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return lax.gather(a, places[..., None], batched, (1, 1), mode=within)
