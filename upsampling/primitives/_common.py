"""What the primitives share: the dtype to accumulate in, blocks of rows, how cores and primitives are made.

A core runs on any mesh. Where the mesh has explicit axes, whose shardings are part of every type, a core computes with
the same axes left to the partitioner, and says what sharding its results have (`core`). Under `shard_map` a primitive's
operands and result vary over the same manual axes (`make_primitive`).
"""

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import AxisType, NamedSharding, PartitionSpec, get_abstract_mesh, reshard, use_abstract_mesh
from jax.typing import DTypeLike

Result = TypeVar("Result")
Shape = tuple[int, ...]

# A CPU's caches hold blocks of this size. Measured on two cores, 1 to 4 MB are alike.
BLOCK_BYTES = 2 << 20

# Taps beyond this many in one loop would take seconds to compile.
UNROLLED_TAPS = 128


def accumulator(*dtypes: DTypeLike) -> jnp.dtype:
    """The dtype to accumulate in: the widest of the given floating ones, float32 at least."""
    # Not promotion, which JAX refuses under jax_numpy_dtype_promotion="strict".
    given = [jnp.dtype(dtype) for dtype in (jnp.float32, *dtypes)]
    return max(given, key=lambda dtype: dtype.itemsize)


def floating() -> jnp.dtype:
    """The dtype of what is computed from whole numbers: float32, or float64 in 64-bit JAX."""
    return jax.dtypes.canonicalize_dtype(float)


def zeros(shape: Shape, like: Any) -> jax.Array:
    """Zeros in the dtype of what `jax.eval_shape` describes, which vary over the same manual axes."""
    varying = tuple(getattr(like.manual_axis_type, "varying", ()))
    return lax.pcast(jnp.zeros(shape, like.dtype), varying, to="varying") if varying else jnp.zeros(shape, like.dtype)


def with_axes(a: jax.Array, rank: int) -> jax.Array:
    """`a` with axes of length one in front, `rank` in all: JAX need not promote ranks (jax_numpy_rank_promotion)."""
    return a.reshape((1,) * (rank - a.ndim) + a.shape)


def pad_axis(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """`x` with so many zeros before and after it along an axis; with less, where a number is negative."""
    margins = [(0, 0, 0)] * x.ndim
    margins[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), margins)


def rows_of_parts(a: jax.Array, axis: int, parts: int, own: int, begin: int, length: int) -> jax.Array:
    """(..., rows, ...) -> (..., parts, length, ...), the rows that each part reads, of those beyond the array zeros.

    Args:
      axis: that of the rows.
      parts: how many, of which devices that share the rows have one each, or several.
      own: by how many rows parts are apart.
      begin: the first row that the first part reads. It may be before the array.
      length: how many a part reads. What is not its own neighbors send.
    """
    pieces = []
    for first in range(begin, begin + length, own):
        piece = pad_axis(a, axis, -first, first + parts * own - a.shape[axis])
        piece = piece.reshape(*a.shape[:axis], parts, own, *a.shape[axis + 1 :])
        pieces.append(lax.slice_in_dim(piece, 0, min(begin + length - first, own), axis=axis + 1))
    return lax.concatenate(pieces, axis + 1)


def pad_edges(x: jax.Array, margins: Sequence[tuple[int, int]]) -> jax.Array:
    """`x` with its outermost pixels repeated, as `jnp.pad(x, margins, mode="edge")`, which also takes pixels along axes
    without margins: in its gradient devices would exchange images."""
    for axis, counts in enumerate(margins):
        if counts == (0, 0):
            continue
        ends = (lax.slice_in_dim(x, start, start + 1, axis=axis) for start in (0, x.shape[axis] - 1))
        shapes = ((*x.shape[:axis], count, *x.shape[axis + 1 :]) for count in counts)
        before, after = map(jnp.broadcast_to, ends, shapes)
        x = jnp.concatenate([before, x, after], axis=axis)
    return x


def block_rows(height: int, row_bytes: int, least: int = 1) -> int:
    """The most rows, of which a whole number makes `height`, that fit `BLOCK_BYTES`; at least `least` if there are."""
    fitting = max(BLOCK_BYTES // max(row_bytes, 1), least)
    divisors = [n for n in range(1, height + 1) if height % n == 0]
    return max(
        (n for n in divisors if least <= n <= fitting), default=min(n for n in divisors if n >= min(least, height))
    )


# --- tiles ------------------------------------------------------------------------------------------------------------

# What takes more than this is computed tile by tile, and that of one tile takes about half.
MOST_BYTES = 64 << 20
TILE_BYTES = 32 << 20


def tile_length(total: int, most: int) -> int:
    """The length of tiles of an axis, at most `most`; none overlaps another if not much shorter ones do not."""
    if most >= total:
        return total
    exact = next((n for n in range(most, (most - 1) // 2, -1) if total % n == 0), None)
    return exact or -(-total // -(-total // most))


def tile_places(total: int, length: int) -> np.ndarray:
    """The places of an axis by tiles, (tiles, length). The last tile ends with the axis, and may overlap another."""
    return np.minimum(np.arange(0, total, length), total - length)[:, None] + np.arange(length)


def blocks_of(tables: np.ndarray) -> tuple[np.ndarray, int]:
    """What tiles read of their inputs, as a block of equally many for each: where blocks begin, and how many they are.

    Args:
      tables: (tiles, ..., inputs), not zero where an input is read.
    """
    under, inputs = np.any(tables != 0, axis=tuple(range(1, tables.ndim - 1))), tables.shape[-1]
    low, high = under.argmax(1), inputs - under[:, ::-1].argmax(1)
    block = max((high - low).tolist())
    return np.minimum(low, inputs - block), block


# Devices may share maps by rows. In a loop over all rows each would compute all of them, of maps that it gathers. So in
# programs for several devices, unless all can have images of their own, rows are cut into up to so many parts, and a
# tile is of as many rows of each. One CPU would take up to twice as long for attention in parts: they leave its caches.
PARTS = 8


def in_parts(compute: Callable[..., jax.Array], rows: Sequence[int], images: int, *arrays: jax.Array) -> jax.Array:
    """`compute(parts, *arrays)`, with the most parts that divide all numbers of rows, or 1 where devices share none."""
    parts = math.gcd(PARTS, *rows)
    alone, several = (functools.partial(compute, count) for count in (1, parts))
    return alone(*arrays) if parts == 1 else lax.cond(share_images_p.bind(images=images), several, alone, *arrays)


class Read(NamedTuple):
    """The rows that tiles read of a map: of what each part reads, a block of equally many.

    Attributes:
      first: (tiles,), the first row of the block, of those that a part reads.
      block: how many rows it has.
      begin: the first row that a part reads, counted from the first of its own.
      length: how many a part reads.
    """

    first: np.ndarray
    block: int
    begin: int
    length: int


class Cut(NamedTuple):
    """An array with an axis of parts, before that of their rows; or as it is, where there is one part."""

    array: jax.Array
    axis: int | None


class Tiles(NamedTuple):
    """The rows of an output, cut into parts, and those of each part into tiles.

    Attributes:
      parts: how many.
      places: (tiles, length), the rows of each tile, counted from the first of a part.
    """

    parts: int
    places: np.ndarray

    @classmethod
    def of(cls, rows: int, most: int, parts: int = 1) -> "Tiles":
        """Tiles of at most so many rows in all parts; where even one row of each is more, in fewer parts."""
        while parts > max(most, 1):
            parts //= 2
        own = rows // parts
        return cls(parts, tile_places(own, tile_length(own, max(most // parts, 1))))

    @property
    def length(self) -> int:
        """The rows of a tile in each part."""
        return self.places.shape[1]

    @property
    def own(self) -> int:
        """The rows of a part."""
        return int(self.places.max()) + 1

    def rows(self, beyond: int = 0) -> np.ndarray:
        """(tiles, parts, length), the rows of tiles in the whole output, and so many after them."""
        first = self.places[:, :1, None] + self.own * np.arange(self.parts)[:, None]
        return first + np.arange(self.length + beyond)

    def read(self, table: np.ndarray, beyond: int = 0) -> Read:
        """What tiles, and so many rows after them, read.

        Args:
          table: (rows of the output, inputs), not zero where one is read by the other.
        """
        inputs = table.shape[1]
        if self.parts == 1:
            begin, length = 0, inputs
        else:
            _, part, _, place = np.nonzero(table[self.rows(beyond)])
            place = place - inputs // self.parts * part
            begin, length = int(place.min()), int(np.ptp(place)) + 1
        first, block = blocks_of(self._of_parts(table, begin, length, beyond))
        return Read(first, block, begin, length)

    def table(self, table: np.ndarray, read: Read, beyond: int = 0) -> np.ndarray:
        """Of a table (rows of the output, inputs) what is of each tile and its block, (tiles, parts, length, block).

        Any other axes follow.
        """
        parts = self._of_parts(table, read.begin, read.length, beyond)
        return np.stack([part[:, :, f : f + read.block] for part, f in zip(parts, read.first.tolist(), strict=True)])

    def _of_parts(self, table: np.ndarray, begin: int, length: int, beyond: int) -> np.ndarray:
        """(tiles, parts, length, what a part reads, ...), with zeros beyond the inputs."""
        own, margins = table.shape[1] // self.parts, [(0, 0)] * table.ndim
        margins[1] = (max(-begin, 0), max(begin + length - own, 0))
        padded, rows, begin = np.pad(table, margins), self.rows(beyond), max(begin, 0)
        parts = [padded[rows[:, part], begin + own * part : begin + own * part + length] for part in range(self.parts)]
        return np.stack(parts, 1)

    def cut(self, a: jax.Array, axis: int, begin: int = 0, length: int | None = None, own: int | None = None) -> Cut:
        """What each part reads of an array: so many rows from `begin` on, counted from the first of its own.

        All that are its own if nothing is said, as many as of the output. Beyond the array are zeros.
        """
        own, axis = own or self.own, axis % a.ndim
        if self.parts == 1:
            return Cut(a, None)
        return Cut(rows_of_parts(a, axis, self.parts, own, begin, own if length is None else length), axis)


def over_tiles(
    tile: Callable[..., jax.Array], tiles: Tiles, cuts: Sequence[Cut] = (), shared: Sequence[Any] = (), own: Any = ()
) -> jax.Array:
    """The rows that `tile` makes of each tile.

    One tile is computed at a time, in all parts at once, and computed anew for the gradient. Rows are on the last axis
    but two. What a tile reads of a map it takes itself, from what its part reads: rows that are handed out would be a
    second map.

    Args:
      tile: `(first, *shared, *cuts, *own)` of one part to (..., length, columns, channels); `first` is the tile's first
        row, counted from the first of its part.
      tiles: which rows.
      cuts: arrays, of which each part is given what it reads.
      shared: arrays, whose first axis counts the tiles.
      own: trees of arrays, whose first two axes count tiles and parts.
    """
    arrays, every = [cut.array for cut in cuts], tile
    if tiles.parts == 1:
        own = jax.tree.map(lambda a: a[:, 0], own)
    else:
        every = jax.vmap(tile, (*[None] * (1 + len(shared)), *(cut.axis for cut in cuts), *[0] * len(own)), -4)
    every = jax.checkpoint(every, prevent_cse=False)
    first = jnp.asarray(tiles.places[:, 0], jnp.int32)

    # Into place: tiles that are stacked would be copied where they overlap, or where there are several images.
    def put(y: jax.Array, given: Any) -> tuple[jax.Array, None]:
        begin, shared, own = given
        return lax.dynamic_update_slice_in_dim(y, every(begin, *shared, *arrays, *own), begin, y.ndim - 3), None

    given = (first, tuple(shared), own)
    one = jax.tree.map(lambda a: a[0], given)
    made = jax.eval_shape(lambda begin, shared, own: every(begin, *shared, *arrays, *own), *one)
    nothing = zeros((*made.shape[:-3], tiles.own, *made.shape[-2:]), made)
    y = lax.scan(put, nothing, given)[0]
    return y if tiles.parts == 1 else y.reshape(*y.shape[:-4], -1, *y.shape[-2:])


# --- cores and primitives on meshes -----------------------------------------------------------------------------------


def core(
    static_argnums: int | Sequence[int] = (), *, inline: bool = True
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Compiles a core; a decorator. It takes arrays, None and static arguments, and returns arrays.

    On a mesh with explicit axes it computes with automatic ones. Its results keep the shardings of its arguments where
    they have the axis: the batch axes, space where the new size divides, and channels.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def on_any_mesh(*args: Any) -> Result:
            given = [jax.typeof(a) for a in args if isinstance(a, jax.Array)]
            meshes = (get_abstract_mesh(), *(aval.sharding.mesh for aval in given))
            mesh = next((mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types), None)
            if mesh is None:
                return function(*args)
            automatic: Any = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
            with use_abstract_mesh(automatic):
                any_sharding = lambda a: NamedSharding(automatic, PartitionSpec(*[None] * a.ndim))  # noqa: E731
                here: Any = [reshard(a, any_sharding(a)) if isinstance(a, jax.Array) else a for a in args]
                results = function(*here)
            return jax.tree.map(lambda y: reshard(y, _sharding(y.shape, given, mesh)), results)

        return jax.jit(on_any_mesh, static_argnums=static_argnums, inline=inline)

    return decorate


def _sharding(shape: Shape, given: Sequence[Any], mesh: Any) -> NamedSharding:
    """The sharding of a result of this shape: on each axis the first of the arguments' that divides it."""
    spec: list[Any] = [None] * len(shape)
    used: set[str] = set()
    for aval in given:
        for axis, entry in enumerate(aval.sharding.spec[: len(shape)]):
            names = entry if isinstance(entry, tuple) else (entry,) if entry is not None else ()
            same_axis = aval.ndim == len(shape) or aval.shape[: axis + 1] == shape[: axis + 1]
            divides = not names or shape[axis] % math.prod(mesh.shape[name] for name in names) == 0
            if names and spec[axis] is None and same_axis and divides and used.isdisjoint(names):
                spec[axis] = entry
                used.update(names)
    return NamedSharding(mesh, PartitionSpec(*spec))


@core()
def after(large: jax.Array, small: jax.Array) -> jax.Array:
    """`large`, made to depend on `small` where it is large: what makes the small one has then given its memory back."""
    if not isinstance(large.size, int) or large.size * large.dtype.itemsize <= TILE_BYTES:
        return large
    total = lax.stop_gradient(small).sum()
    # A zero whatever the sum is, but the compiler cannot know which one.
    zero = jnp.where(total > 0, jnp.zeros((), large.dtype), -jnp.zeros((), large.dtype))
    return large + with_axes(zero, large.ndim)


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, brought to vary over the same manual axes."""
    varying = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    every = frozenset().union(*varying)
    return [
        lax.pcast(a, tuple(every - own), to="varying") if every - own else a
        for a, own in zip(arrays, varying, strict=True)
    ]


class _Core(Primitive):
    """A primitive whose operands are brought to vary over the same manual axes."""

    def bind(self, *args: Any, **params: Any) -> Any:
        return super().bind(*varying_alike(*args), **params)


def make_primitive(
    name: str,
    shape: Callable[..., Shape],
    default: Callable[..., jax.Array],
    *,
    static: Sequence[str],
    cpu: Callable[..., jax.Array] | None = None,
    cpu_alone: Callable[..., jax.Array] | None = None,
    gpu: Callable[..., jax.Array] | None = None,
    by_hand: Callable[..., jax.Array] | None = None,
    by_hand_on_tpu: Callable[..., Callable[..., jax.Array] | None] | None = None,
    tpu: Callable[..., jax.Array] | None = None,
    tpu_alone: Callable[..., jax.Array] | None = None,
    tpus: Callable[..., jax.Array] | None = None,
    several: Callable[..., jax.Array] | None = None,
    like: int = 0,
) -> Primitive:
    """A primitive of one result, with a form for each platform, that batches by merging the new axis with the first.

    Args:
      name: what the program shows.
      shape: `(*shapes, **static)` to the result's shape.
      default: computes it, `(*arrays, **static)`; the form for platforms without one of their own.
      static: names of the static arguments, all keyword.
      cpu, gpu, tpu: the forms for these platforms.
      cpu_alone: the form for a CPU in programs for a single device that are not exported. The partitioner would gather
        all shards for a loop over images; and a fixed layout neither partitions nor is it part of what is exported.
      tpu_alone: the form for a TPU in programs for a single device.
      by_hand: the form with kernels by hand, where there are any (`lower_by_hand`).
      by_hand_on_tpu: `(*avals, **static)` to the form with kernels by hand for a TPU, or to None where there is none.
      several, tpus: the forms for GPUs and TPUs in programs for several devices, where maps may be cut along space.
        They take `devices`, how many, besides.
      like: the number of the operand whose dtype the result has.

    Returns:
      The primitive. Its derivatives are the caller's to define.
    """

    def nothing_of_nothing(form: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        # All are linear: a sum of nothing is zero. The forms need not think of it.
        @functools.wraps(form)
        def compute(*arrays: jax.Array, **params: Any) -> jax.Array:
            if any(isinstance(n, int) and n == 0 for a in arrays for n in a.shape):
                return jnp.zeros(shape(*(a.shape for a in arrays), **params), arrays[like].dtype)
            return form(*arrays, **params)

        return compute

    primitive = _Core(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=tuple(static)))

    def abstract(*avals: Any, **params: Any) -> ShapedArray:
        result = tuple(shape(*(aval.shape for aval in avals), **params))
        sharding = NamedSharding(avals[0].sharding.mesh, PartitionSpec(*[None] * len(result)))
        varying = avals[0].manual_axis_type
        return ShapedArray(result, avals[like].dtype, sharding=sharding, manual_axis_type=varying)

    primitive.def_abstract_eval(abstract)

    def merge_axes(arguments: Sequence[jax.Array], dimensions: Sequence[int | None], **params: Any) -> tuple:
        count = next(a.shape[d] for a, d in zip(arguments, dimensions, strict=True) if d is not None)
        merged = []
        for a, d in zip(arguments, dimensions, strict=True):
            a = jnp.broadcast_to(a, (count, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
            merged.append(a.reshape(count * a.shape[1], *a.shape[2:]))
        result = primitive.bind(*merged, **params)
        return result.reshape(count, result.shape[0] // max(count, 1), *result.shape[1:]), 0

    batching.primitive_batchers[primitive] = merge_axes

    def lower_on_cpu(context: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        form = (cpu_alone if is_alone(context) else None) or cpu or default
        return mlir.lower_fun(nothing_of_nothing(form), multiple_results=False)(context, *operands, **params)

    def lower_on_cuda(context: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        made = None if by_hand is None else lower_by_hand(context, nothing_of_nothing(by_hand), *operands, **params)
        return made or lower_on_gpu(context, *operands, **params)

    def lower_on_gpu(context: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        devices, form = _devices(context), gpu or default
        if devices > 1 and several is not None:
            form = functools.partial(several, devices=devices)
        return mlir.lower_fun(nothing_of_nothing(form), multiple_results=False)(context, *operands, **params)

    def lower_on_tpu(context: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        made, form = None, by_hand_on_tpu and by_hand_on_tpu(*context.avals_in, **params)
        if form is not None:
            made = lower_by_hand(context, nothing_of_nothing(form), *operands, platform="tpu", **params)
        devices = _devices(context)
        form = (tpu_alone if devices == 1 else None) or tpu or default
        if devices > 1 and tpus is not None:
            form = functools.partial(tpus, devices=devices)
        return made or mlir.lower_fun(nothing_of_nothing(form), multiple_results=False)(context, *operands, **params)

    mlir.register_lowering(primitive, mlir.lower_fun(nothing_of_nothing(default), multiple_results=False))
    if cpu is not None or cpu_alone is not None:
        mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    if gpu is not None or several is not None or by_hand is not None:
        mlir.register_lowering(primitive, lower_on_cuda, platform="cuda")
        mlir.register_lowering(primitive, lower_on_gpu, platform="rocm")
    if tpu is not None or tpu_alone is not None:
        mlir.register_lowering(primitive, lower_on_tpu, platform="tpu")
    return primitive


def in_order(a: jax.Array) -> jax.Array:
    """`a`, which on a TPU lies in memory as its axes say: the last one in the lanes of vectors, the one before in rows.

    For forms of primitives: it has no derivative. Exported programs say nothing of memory.
    """
    return _in_order_p.bind(a)


def _lower_in_order(context: mlir.LoweringRuleContext, a: Any) -> Any:
    if context.module_context.lowering_parameters.for_export:
        return [a]
    lay = lambda a: with_layout_constraint(a, Layout(tuple(range(a.ndim))))  # noqa: E731
    return mlir.lower_fun(lay, multiple_results=False)(context, a)


_in_order_p = Primitive("in_order")
_in_order_p.def_abstract_eval(lambda a: a)
_in_order_p.def_impl(lambda a: a)
mlir.register_lowering(_in_order_p, lambda _, a: [a])
mlir.register_lowering(_in_order_p, _lower_in_order, platform="tpu")


def written_on_tpu(a: jax.Array) -> jax.Array:
    """`a`, which on a TPU is written before what reads it, and so is its cotangent: XLA fuses neither with the other
    side."""
    return lax.platform_dependent(a, tpu=lax.optimization_barrier, default=lambda a: a)


# Whether devices may share so many images, as not all can have some of their own. It is a constant of the program: the
# compiler drops what is for others.
share_images_p = Primitive("share_images")
share_images_p.def_abstract_eval(lambda *, images: ShapedArray((), jnp.dtype(bool)))
share_images_p.def_impl(lambda *, images: np.bool_(False))


def _lower_share_images(context: mlir.LoweringRuleContext, *, images: int) -> Any:
    shared = images % _devices(context) != 0
    return mlir.lower_fun(lambda: jnp.asarray(shared), multiple_results=False)(context)


mlir.register_lowering(share_images_p, _lower_share_images)


def is_alone(context: mlir.LoweringRuleContext) -> bool:
    """Whether the program is for a single device, and for this process."""
    return not context.module_context.lowering_parameters.for_export and _devices(context) == 1


def _devices(context: mlir.LoweringRuleContext) -> int:
    """How many devices the program is partitioned over; one inside `shard_map`, where each runs its own."""
    axes: Any = context.module_context.axis_context
    mesh = getattr(axes, "mesh", None)
    if mesh is None:
        return getattr(axes, "num_devices", 1)
    return 1 if axes.manual_axes >= set(mesh.axis_names) else mesh.size


# --- kernels by hand --------------------------------------------------------------------------------------------------

SWITCH, SWITCH_ON_TPU = "UPSAMPLING_GPU_KERNELS", "UPSAMPLING_TPU_KERNELS"


def lower_by_hand(
    context: mlir.LoweringRuleContext,
    form: Callable[..., Any],
    *operands: Any,
    multiple_results: bool = False,
    platform: str = "cuda",
    **params: Any,
) -> Any:
    """Lowers a form with kernels by hand; None in programs that are to hold none."""
    if not is_alone(context):
        return None
    lower = mlir.lower_fun(form, multiple_results=multiple_results)
    if platform == "tpu":
        # Whole numbers of 64 bits, as JAX would have them of 64-bit programs, are none of Mosaic's. The form must not
        # be given floating ones of 64 bits, which would be truncated.
        with jax.enable_x64(False):
            return lower(context, *operands, **params) if is_on_for_tpus() else None
    if is_on():
        # From 0.11 on JAX does not lower the kernels without a GPU at hand.
        with _quietly(), contextlib.suppress(RuntimeError):
            return lower(context, *operands, **params)
    return None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without JAX's word that this back end will go one day, which is for us and not for users."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Triton backend.*", category=DeprecationWarning)
        yield


def is_on() -> bool:
    """Whether there are kernels to use, and GPUs for them."""
    return os.environ.get(SWITCH, "1") != "0" and _has_triton() and _are_recent()


def is_on_for_tpus() -> bool:
    """Whether there are TPUs that kernels can be for: those before the fifth hold too little on the chip."""
    if os.environ.get(SWITCH_ON_TPU, "1") == "0":
        return False
    try:
        devices = jax.local_devices(backend="tpu")
    except RuntimeError:
        return True  # compiled ahead of time for one that is not here
    return all(not device.device_kind.startswith(("TPU v2", "TPU v3", "TPU v4")) for device in devices)


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


def cond_in_loops(condition: jax.Array, if_true: Callable[..., Any], if_false: Callable[..., Any], *args: Any) -> Any:
    """`lax.cond` as loops of one turn or none. It has no derivative.

    On a GPU the partitioner gathers what a condition returns from all devices, and leaves alone what a loop does.
    """

    result = jax.tree.map(lambda y: zeros(y.shape, y), jax.eval_shape(if_false, *args))
    for wanted, branch in ((condition, if_true), (~condition, if_false)):
        turn = lambda loop, branch=branch: (~loop[0], branch(*args))  # noqa: E731
        _, result = lax.while_loop(lambda loop: loop[0], turn, (wanted, result))
    return result


# --- loops over groups ------------------------------------------------------------------------------------------------


def map_in_groups(function: Callable[..., Any], at_once: int, *arrays: jax.Array) -> Any:
    """`function(*arrays)`, whose results go by the first axis as its arguments do, for `at_once` entries at a time.

    The groups are equally large, so that there is one compiled body; the last is filled up with first entries. Where a
    program is partitioned over devices each takes as many of its own entries at a time. It has no derivative.
    """
    count = arrays[0].shape[0]
    if not isinstance(count, int) or count <= at_once:
        return function(*arrays)
    form = functools.partial(_in_groups, function, at_once)
    traced, shape = jax.make_jaxpr(functools.partial(form, 1), return_shape=True)(*arrays)
    results = _map_in_groups_p.bind(*arrays, form=form, avals=tuple(traced.out_avals))
    return jax.tree.unflatten(jax.tree.structure(shape), results)


def _in_groups(function: Callable[..., Any], at_once: int, devices: int, *arrays: jax.Array) -> Any:
    count, at_once = arrays[0].shape[0], at_once * devices
    groups = -(-count // at_once)
    if groups == 1:
        return function(*arrays)
    size = -(-count // groups)
    size += -size % devices
    groups = -(-count // size)

    def split(x: jax.Array) -> jax.Array:
        x = jnp.concatenate([x, x[: groups * size - count]]) if groups * size > count else x
        if devices == 1:
            return x.reshape(groups, size, *x.shape[1:])
        # A group has entries of all devices, not all of one.
        return jnp.moveaxis(x.reshape(size, groups, *x.shape[1:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        x = x if devices == 1 else jnp.moveaxis(x, 0, 1)
        return x.reshape(groups * size, *x.shape[2:])[:count]

    return jax.tree.map(join, lax.map(lambda group: function(*group), tuple(map(split, arrays))))


_map_in_groups_p = Primitive("map_in_groups")
_map_in_groups_p.multiple_results = True
_map_in_groups_p.def_abstract_eval(lambda *_, form, avals: avals)


@_map_in_groups_p.def_impl
def _map_on_one_device(*arrays: jax.Array, form: Callable[..., Any], avals: Any) -> list[jax.Array]:
    return jax.tree.leaves(jax.jit(functools.partial(form, 1))(*arrays))


def _lower_map(context: mlir.LoweringRuleContext, *operands: Any, form: Callable[..., Any], avals: Any) -> Any:
    leaves = lambda *arrays: jax.tree.leaves(form(_devices(context), *arrays))  # noqa: E731
    return mlir.lower_fun(leaves, multiple_results=True)(context, *operands)


def _batch_map(arguments: Sequence[jax.Array], dimensions: Sequence[int | None], *, form: Any, avals: Any) -> tuple:
    mapped = lambda devices, *arrays: jax.vmap(functools.partial(form, devices), tuple(dimensions))(*arrays)  # noqa: E731
    traced = jax.make_jaxpr(functools.partial(mapped, 1))(*arguments)
    results = _map_in_groups_p.bind(*arguments, form=mapped, avals=tuple(traced.out_avals))
    return results, [0] * len(results)


mlir.register_lowering(_map_in_groups_p, _lower_map)
batching.primitive_batchers[_map_in_groups_p] = _batch_map
