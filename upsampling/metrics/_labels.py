"""What every metric does first: check the label maps, and bring them to (images, *spatial)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from upsampling import _arguments
from upsampling.primitives._common import core, map_in_groups

LabelMap = jax.typing.ArrayLike | Sequence[Any]
"""Integer labels: an array, or nested lists."""

Spacing = float | Sequence[float]
"""The size of a pixel: one number for all spatial axes, or one per axis."""

Axes = int | Sequence[int]
"""The spatial axes of an array."""

_Tree = TypeVar("_Tree")

# Pixel sizes up to this have squared distances that 32 bits hold.
_LARGEST = 1e15
# Pixels x classes worked on at a time: enough to fill an accelerator, few enough for a processor's cache.
_IN_FLIGHT = 2**21
# The square of more classes does not fit 32 bits.
_MOST_CLASSES = 46340


def geometry(
    function: str, ndim: int, axes: Axes | None, spacing: Spacing | None = None
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The spatial axes as negative numbers, and the pixel's size along each.

    The axes are those named, or the last ones: as many as `spacing` has, or two. The size is 1 unless given.
    """
    sizes = _arguments.per_axis(function, "spacing", 1 if spacing is None else spacing, None, minimum=None, real=True)
    single = spacing is None or (isinstance(_arguments.as_sequence(spacing), tuple) and not isinstance(spacing, tuple))
    if axes is None:
        axes = tuple(range(-len(sizes), 0))  # per_axis takes a single number for two axes
    axes = _arguments.per_axis(function, "axes", _arguments.as_sequence(axes), None, minimum=None)
    if len(axes) > 3:
        raise ValueError(f"{function}: axes must name 1 to 3 spatial axes; got {len(axes)}: {axes!r}.")
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) != len(axes):
        raise ValueError(
            f"{function}: axes={axes} must be different axes of the labels or the mask, an array with {ndim} axes. "
            "The spatial axes are the last two unless axes=, or a spacing per axis, says otherwise."
        )
    if single:
        sizes = sizes[:1] * len(axes)
    if len(sizes) != len(axes):
        raise ValueError(
            f"{function}: spacing must be one number or {len(axes)} of them, one per spatial axis; got {spacing!r}."
        )
    if not all(1 / _LARGEST <= size <= _LARGEST for size in sizes):
        raise ValueError(
            f"{function}: spacing must be from {1 / _LARGEST:g} to {_LARGEST:g}, as distances are squared in 32 bits; "
            f"got {spacing!r}. Take another unit."
        )
    return tuple(a % ndim - ndim for a in axes), sizes


def check_classes(function: str, num_classes: int, ignore_index: int | None) -> tuple[int, int | None]:
    """The number of classes, and the label that is none of them, as Python numbers."""
    num_classes = _arguments.number(function, "num_classes", num_classes)
    if num_classes > _MOST_CLASSES:
        raise ValueError(
            f"{function}: num_classes must be at most {_MOST_CLASSES}, so that the cells of a confusion matrix can be "
            f"counted in 32 bits; got {num_classes}."
        )
    if ignore_index is not None:
        ignore_index = int(_arguments.number(function, "ignore_index", ignore_index, minimum=None))
        if not -(2**31) <= ignore_index < 2**31:
            raise ValueError(f"{function}: ignore_index must be a number of 32 bits; got {ignore_index}.")
    return num_classes, ignore_index


def check_labels(
    function: str, argument: str, labels: LabelMap, num_classes: int, ignore_index: int | None = None
) -> jax.Array:
    """Returns a label map as int32; raises TypeError unless it is integer, ValueError if a label is out of range.

    Inside jit, vmap or grad the labels are not known, so not checked: one out of range belongs to no class. Outside the
    check waits until the labels are computed, unless their dtype holds no others.
    """
    if not isinstance(labels, (jax.Array, np.ndarray, np.generic, int, list, tuple)):
        raise TypeError(f"{function}: {argument} must be an array; got {type(labels).__name__}.")
    if not isinstance(labels, jax.Array):
        try:
            labels = np.asarray(labels)
        except ValueError:
            raise TypeError(f"{function}: {argument} must be an array; got lists of unlike lengths.") from None
    if not (jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == bool):
        raise TypeError(
            f"{function}: {argument} must be a map of integer labels; got {labels.dtype}. "
            f"Logits are not labels: take jnp.argmax({argument}, axis=-1) first."
        )
    if _readable(labels) and labels.size and _may_be_lost(labels.dtype, num_classes):
        find = _lost if isinstance(labels, np.ndarray) else _lost_on_device
        # A constant inside someone's jit is readable too, if nothing about it is traced. One program and one explicit
        # transfer, since each call waits for it.
        with jax.ensure_compile_time_eval():
            count, place = map(int, jax.device_get(find(labels, num_classes, ignore_index)))
        if count:
            example = jax.device_get(labels).reshape(-1)[place]
            allowed = f"0 to {num_classes - 1}"
            allowed += "" if ignore_index is None else f", or ignore_index={ignore_index}"
            raise ValueError(
                f"{function}: {argument} has label {int(example)} ({count} pixels are out of range); "
                f"num_classes={num_classes} allows {allowed}."
            )
    if isinstance(labels, np.ndarray):
        # NumPy's labels are checked with their own 64 bits, which must not wrap into range on their way to 32.
        return jnp.asarray(np.clip(labels, -(2**31), 2**31 - 1).astype(np.int32))
    return _narrow(labels)


def _readable(labels: jax.Array | np.ndarray) -> bool:
    """Whether the values are known here: not while tracing, nor where other hosts hold a part of them."""
    if isinstance(labels, jax.core.Tracer):
        return False
    return isinstance(labels, np.ndarray) or labels.is_fully_addressable


def _may_be_lost(dtype: Any, num_classes: int) -> bool:
    """Whether a label of this dtype can be out of range."""
    if np.issubdtype(dtype, np.bool_):
        return num_classes < 2
    limits = jnp.iinfo(dtype)
    return limits.min < 0 or int(limits.max) >= num_classes


def _lost(labels: Any, num_classes: int, ignore_index: int | None) -> tuple[Any, Any]:
    """How many labels are out of range, and the number of the first pixel that has such a label."""
    limits = jnp.iinfo(jnp.uint8 if labels.dtype == bool else labels.dtype)
    labels = labels.astype(np.uint8) if labels.dtype == bool else labels
    lost = labels < 0
    # Numbers that the dtype does not hold are no label's, and JAX would wrap them.
    if num_classes <= int(limits.max):
        lost |= labels >= num_classes
    if ignore_index is not None and int(limits.min) <= ignore_index <= int(limits.max):
        lost &= labels != ignore_index
    return lost.sum(), lost.reshape(-1).argmax()


_lost_on_device = core((1, 2), inline=False)(_lost)


@core(inline=False)
def _narrow(labels: jax.Array) -> jax.Array:
    """int32 labels; what does not fit (uint32, 64 bits) is out of range anyway, and must not wrap into it."""
    if jnp.iinfo(jnp.int8 if labels.dtype == bool else labels.dtype).max > 2**31 - 1:
        labels = jnp.clip(labels, max=2**31 - 1)
        if jnp.issubdtype(labels.dtype, jnp.signedinteger):
            labels = jnp.clip(labels, min=-(2**31))
    return labels.astype(jnp.int32)


def check_pair(
    function: str,
    prediction: LabelMap,
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None,
    axes: Axes | None,
    spacing: Spacing | None = None,
) -> tuple[jax.Array, jax.Array, int, int | None, tuple[float, ...]]:
    """Checks what all metrics take.

    Returns:
      Both maps as int32, spatial axes last; num_classes; ignore_index; the pixel's size along each spatial axis.
    """
    num_classes, ignore_index = check_classes(function, num_classes, ignore_index)
    prediction = check_labels(function, "prediction", prediction, num_classes)
    target = check_labels(function, "target", target, num_classes, ignore_index)
    if prediction.shape != target.shape:
        raise ValueError(
            f"{function}: prediction and target must have the same shape; got {prediction.shape} and {target.shape}."
        )
    axes, sizes = geometry(function, prediction.ndim, axes, spacing)
    last = tuple(range(-len(axes), 0))
    if axes != last:
        prediction, target = (jnp.moveaxis(x, axes, last) for x in (prediction, target))
    if 0 in prediction.shape[-len(axes) :]:
        raise ValueError(f"{function}: prediction must have at least 1 pixel; got shape {prediction.shape}.")
    return prediction, target, num_classes, ignore_index, sizes


def over_images(function: Callable[..., _Tree], rank: int, num_classes: int, *maps: jax.Array) -> _Tree:
    """Calls function(*maps) with arrays (images, *spatial), a few images at a time; gives the batch axes back.

    `function` returns a pytree of arrays whose first axis is images.
    """
    batch, spatial = maps[0].shape[:-rank], maps[0].shape[-rank:]
    images, pixels = math.prod(batch), math.prod(spatial)
    flat = [x.reshape(images, *spatial) for x in maps]
    if images == 0 or pixels == 0:  # the shapes of one image's results, none of them
        shapes = jax.eval_shape(function, *(jax.ShapeDtypeStruct((1, *spatial), x.dtype) for x in flat))
        return jax.tree.map(lambda x: jnp.zeros((*batch, *x.shape[1:]), x.dtype), shapes)
    out = map_in_groups(function, max(1, _IN_FLIGHT // (pixels * num_classes)), *flat)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), out)


def count_labels(labels: jax.Array, where: jax.Array, num_classes: int) -> jax.Array:
    """Pixels of each class where `where` holds: (images, *spatial) -> (images, num_classes) int32."""
    images, *spatial = labels.shape
    labels, where = (x.reshape(images, math.prod(spatial)) for x in (labels, where))
    # One bin past the classes takes what is not counted.
    slot = jnp.where(where & (labels >= 0) & (labels < num_classes), labels, num_classes)
    return per_slot(jnp.zeros((images, num_classes + 1), jnp.int32), slot, jnp.int32(1))[:, :-1]


def per_slot(
    start: jax.Array, slot: Any, values: jax.Array, combine: Literal["add", "min", "max"] = "add"
) -> jax.Array:
    """What values come to in each slot: `start`, (images, *slots), combined with those that `slot` sends there.

    Args:
      slot: (images, *elements), or a tuple of such where slots have several axes.
      values: (images, *elements), or one for all.
      combine: how.
    """

    # Image by image: the partitioner would not see that an image's elements stay in its own slots, and would gather.
    def of_image(start: jax.Array, slot: Any, values: jax.Array) -> jax.Array:
        return getattr(start.at[slot], combine)(values)

    return jax.vmap(of_image, (0, 0, 0 if values.ndim else None))(start, slot, values)
