"""What kernels by hand are written with: Pallas', by its back end to Triton, for flat arrays and blocks of pixels.

A block's arrays are (pixels,), or (pixels, channels of one group, filled up to a power of two). `_common.lower_by_hand`
decides which programs hold kernels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from upsampling.primitives._common import varying_alike


def int32(value: int) -> jax.Array:
    """A whole number, which JAX does not widen."""
    return jnp.asarray(value, jnp.int32)


def times(a: jax.Array, by: jax.Array) -> jax.Array:
    """Each pixel's numbers times one."""
    return a * (by if a.ndim == by.ndim else by[:, None])


def power(n: int) -> int:
    """The least power of two that is not smaller, as Triton wants blocks."""
    return 1 << (n - 1).bit_length()


def block(pixels: int, values: int, *channels: int) -> int:
    """How many pixels a block has, for so many values of each array in it."""
    return max(min(values // power(max(channels)), 64, power(pixels)), 1)


def references() -> tuple[Callable, Callable, Callable, Callable]:
    """What reads and writes at places of a flat array, the numbers up to a length, and the number of the block."""
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    def load(
        ref: Any, index: jax.Array, mask: jax.Array, count: int | None = None, stride: int | None = None
    ) -> jax.Array:
        """Numbers at these places, or `count` at each, of `stride`; floating ones in float32."""
        place, seen = _places(index, mask, count, stride)
        read = triton.load(ref.at[place], mask=seen, other=jnp.zeros((), ref.dtype))
        return read if read.dtype == jnp.int32 else read.astype(jnp.float32)

    def store(
        ref: Any, index: jax.Array, mask: jax.Array, count: int | None, given: jax.Array, stride: int | None = None
    ) -> None:
        place, seen = _places(index, mask, count, stride)
        triton.store(ref.at[place], given.astype(ref.dtype), mask=seen)

    return load, store, lambda n: lax.iota(jnp.int32, n), pallas.program_id


def add_at(ref: Any, index: jax.Array, mask: jax.Array, count: int, given: jax.Array, interpret: bool) -> None:
    """Adds `count` numbers for each of these places, which other blocks may add to at the same time."""
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    if not interpret:
        place, seen = _places(index, mask, count, None)
        triton.atomic_add(ref, (place,), given.astype(ref.dtype), mask=seen)
        return
    # JAX interprets it without a mask, and of equal places in one array adds at the last.
    (index,) = index  # so that a block is one pixel
    place = pallas.ds(index * int32(count), count)
    ref[place] = ref[place] + given.astype(ref.dtype)[0, :count]


def _places(index: jax.Array, mask: jax.Array, count: int | None, stride: int | None) -> tuple[jax.Array, jax.Array]:
    if count is None:
        return index, mask
    channel = lax.iota(jnp.int32, power(count))
    place = index[:, None] * int32(stride or count) + channel[None, :]
    return place, mask[:, None] & (channel < int32(count))[None, :]


def call(
    kernel: Callable,
    operands: Sequence[jax.Array],
    results: Sequence[tuple[tuple[int, ...], Any]],
    grid: tuple[int, int, int],
    interpret: bool,
    name: str,
    *,
    onto_zeros: bool = False,
) -> list[jax.Array]:
    """Runs it on flat arrays, for blocks of so many pixels, and all images and groups.

    Args:
      kernel: of references to all operands and results.
      operands: arrays.
      results: shape and dtype of each.
      grid: the pixels, those of a block, and the number of images times groups.
      interpret: whether JAX computes what the kernel would, on a CPU.
      name: what a program shows.
      onto_zeros: whether results are zero before, for kernels that add to them.
    """
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    pixels, length, others = grid
    shapes = [jax.typeof(operands[0]).update(shape=(math.prod(shape),), dtype=jnp.dtype(d)) for shape, d in results]
    flat = [a.reshape(-1) for a in operands]
    before = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes] if onto_zeros else []
    made = pallas.pallas_call(
        lambda *refs: kernel(*refs[: len(flat)], *refs[len(flat) + len(before) :]),
        out_shape=shapes,
        grid=(-(-pixels // length), others),
        input_output_aliases={len(flat) + i: i for i in range(len(before))},
        compiler_params=None if interpret else triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name=name,
    )(*varying_alike(*flat, *before))
    return [y.reshape(shape) for y, (shape, _) in zip(made, results, strict=True)]
