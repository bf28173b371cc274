"""Max-pooling that remembers where each maximum was, and unpooling that puts values back there."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import max_dim

from upsampling import _arguments
from upsampling._arguments import Numbers
from upsampling.primitives._common import core

PoolPadding = Literal["SAME", "VALID"] | int | Sequence[int] | Sequence[tuple[int, int]]
"""A named rule, one number, one per axis, or a (low, high) pair per axis."""


@_arguments.hinted
def max_pool_with_indices(
    x: jax.Array,
    window: Numbers = 2,
    strides: Numbers | None = None,
    padding: PoolPadding = "VALID",
    *,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The largest value of each window, and where it stood.

    Args:
      x: (*batch, *spatial, channels), any number of batch axes, none included.
      window: the window's size: one number for each spatial axis, or one number for two axes.
      strides: pixels between windows, one number or one per axis; `window` if not given.
      padding: pixels around the image that are never the largest: one number, one per axis, or a (low, high) pair per
        axis, each less than the window with its dilation, as in ONNX (PyTorch has at most half of it). "VALID" means
        none; "SAME" gives `ceil(size / strides)`.
      dilation: pixels between the taps of the window, one number or one per axis.
      ceil_mode: whether a last window that reaches beyond the padding counts, as long as it starts before it, as in
        PyTorch and ONNX.

    Returns:
      The maxima, (*batch, *pooled, channels) in the dtype of `x`, and their indices, int32 of the same shape: the
      pixel's number in its image, counted row by row and without the padding. Of equal values the first one counts, of
      several NaNs the last, both as in PyTorch. A gradient goes to that pixel alone.

    Raises:
      ValueError: shapes that do not fit or numbers out of range.
      TypeError: an `x` that is not floating, or a window that is not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> x = jnp.array([[1.0, 5.0, 2.0, 2.0], [3.0, 4.0, 2.0, 0.0]])[..., None]
    >>> values, indices = up.max_pool_with_indices(x, 2)
    >>> values[..., 0], indices[..., 0]
    (Array([[5., 2.]], dtype=float32), Array([[1, 2]], dtype=int32))

    Source: Badrinarayanan et al. 2017, arXiv:1511.00561.
    """
    name = "max_pool_with_indices"
    window = _arguments.per_axis(name, "window", window, None)
    rank = len(window)
    strides = window if strides is None else _arguments.per_axis(name, "strides", strides, rank)
    x = _arguments.spatial_map(name, "x", x, rank)
    size = x.shape[-1 - rank : -1]
    dilation = _arguments.per_axis(name, "dilation", dilation, rank)
    extents = tuple(d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True))
    pads = _pool_padding(name, size, extents, strides, padding)
    if _arguments.flag(name, "ceil_mode", ceil_mode):
        if not all(map(_arguments.is_static, size)):
            raise ValueError(f"{name}: ceil_mode=True needs a size that is known; got {size}.")
        pads = _with_last_windows(size, extents, strides, pads)
    if _arguments.is_static(*size) and math.prod(size) > jnp.iinfo(jnp.int32).max:
        raise ValueError(f"{name}: x must have fewer than 2**31 pixels for int32 indices; got {size}.")
    return _pool(x, window, strides, pads, dilation)


@_arguments.hinted
def max_unpool(x: jax.Array, indices: jax.Array, output_size: Numbers) -> jax.Array:
    """Puts each value where `max_pool_with_indices` found its maximum; every other pixel is zero.

    Args:
      x: (*batch, *pooled, channels), any number of batch axes, none included.
      indices: whole numbers of the same shape, the pixels' numbers in an image of `output_size`, row by row. Those
        outside the image are dropped. Where several are equal one value is kept and each receives the gradient, as in
        PyTorch.
      output_size: the output's spatial size: one number for each spatial axis, or one number for two axes.

    Returns:
      (*batch, *output_size, channels), in the dtype of `x`.

    Raises:
      ValueError: shapes that do not fit or numbers out of range.
      TypeError: an `x` that is not floating, or indices that are not whole numbers.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> values, indices = jnp.array([[[5.0], [2.0]]]), jnp.array([[[1], [2]]])
    >>> up.max_unpool(values, indices, (2, 4))[..., 0]
    Array([[0., 5., 2., 0.],
           [0., 0., 0., 0.]], dtype=float32)

    Source: Badrinarayanan et al. 2017, arXiv:1511.00561; Zeiler and Fergus 2014, arXiv:1311.2901.
    """
    name = "max_unpool"
    size = _arguments.per_axis(name, "output_size", output_size, None)
    x = _arguments.spatial_map(name, "x", x, len(size))
    indices = _arguments.array(name, "indices", _within_32_bits(indices), floating=False)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"{name}: indices must be whole numbers; got {indices.dtype}.")
    if x.shape != indices.shape:
        raise ValueError(f"{name}: indices must have the shape of x, {x.shape}; got {indices.shape}.")
    return _unpool(x, indices, size)


def _within_32_bits(indices: Any) -> Any:
    """NumPy's 64 bits, which must not wrap into the image: those outside it are dropped anyway."""
    if isinstance(indices, np.ndarray) and np.issubdtype(indices.dtype, np.integer):
        return np.clip(indices, -1, np.iinfo(np.int32).max)
    return indices


def _pool_padding(function: str, size: tuple, window: tuple, strides: tuple, padding: PoolPadding) -> tuple:
    checked = _arguments.padding(function, padding, len(size), names=("SAME", "VALID"))
    if checked == "SAME":
        total = tuple(max_dim((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, window, strides, strict=True))
        return tuple((t // 2, t - t // 2) for t in total)
    pads = ((0, 0),) * len(size) if isinstance(checked, str) else checked
    if any(p >= k for k, pair in zip(window, pads, strict=True) for p in pair):
        raise ValueError(
            f"{function}: padding must be less than the window, {window} pixels with its dilation, on each side; "
            f"got {padding!r}."
        )
    sized = [(n, k, pair) for n, k, pair in zip(size, window, pads, strict=True) if _arguments.is_static(n)]
    if any(n + low + high < k for n, k, (low, high) in sized):
        raise ValueError(f"{function}: window={window} is larger than x of size {size} with its padding.")
    return pads


def _with_last_windows(size: tuple, extents: tuple, strides: tuple, pads: tuple) -> tuple:
    """The padding with as much more at the high end as the last windows need that start before it."""
    padded = []
    for n, k, s, (low, high) in zip(size, extents, strides, pads, strict=True):
        windows = -(-(n + low + high - k) // s) + 1
        last = (windows - 1) * s
        if last < n + low:
            high = max(high, last + k - n - low)
        padded.append((low, high))
    return tuple(padded)


@core((1, 2, 3, 4))
def _pool(x: jax.Array, window: tuple, strides: tuple, pads: tuple, dilation: tuple) -> tuple[jax.Array, jax.Array]:
    rank = len(window)
    flat = x.reshape(math.prod(x.shape[: -1 - rank]), *x.shape[-1 - rank :])
    y, place = _largest(flat, window, strides, pads, dilation)
    indices = jnp.zeros(y.shape, jnp.int32)
    inside = place
    for axis in reversed(range(rank)):
        # The window's corner, and the tap within it, give the pixel on this axis.
        corner = lax.broadcasted_iota(jnp.int32, y.shape, 1 + axis) * strides[axis] - pads[axis][0]
        inside, tap = inside // window[axis], inside % window[axis]
        indices += (corner + tap * dilation[axis]) * math.prod(x.shape[axis - rank : -1])
    shape = (*x.shape[: -1 - rank], *y.shape[1:])
    return y.reshape(shape), indices.reshape(shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def _largest(x: jax.Array, window: tuple, strides: tuple, pads: tuple, dilation: tuple) -> tuple[jax.Array, jax.Array]:
    """The maxima, and the number of the tap, row by row in the window, that holds each."""
    taps = _taps(x, window, strides, pads, dilation, -jnp.inf)
    best = next(taps)
    place = jnp.zeros(best.shape, jnp.int32)
    # A tap beyond the image is never the largest, not even where all others are as small as what stands in for it.
    inside = _inside(x.shape[1:-1], best.shape[1:-1], window, strides, pads, dilation)
    found = next(inside)
    for number, (tap, seen) in enumerate(zip(taps, inside, strict=True), start=1):
        better = (tap > best) | jnp.isnan(tap)
        if found is not None:
            assert seen is not None
            better = better & seen | seen & ~found
            found = found | seen
        best, place = jnp.where(better, tap, best), jnp.where(better, number, place)
    return best, place


def _inside(
    size: tuple, pooled: tuple, window: tuple, strides: tuple, pads: tuple, dilation: tuple
) -> Iterator[jax.Array | None]:
    """Where each tap of the window lies inside the image, (1, *pooled, 1); None where there is no padding."""
    padded = any(p for pair in pads for p in pair)
    for start in itertools.product(*map(range, window)):
        if not padded:
            yield None
            continue
        seen = jnp.ones((1, *[1] * len(size), 1), bool)
        for axis, (tap, n, count, stride, (low, _), spacing) in enumerate(
            zip(start, size, pooled, strides, pads, dilation, strict=True), start=1
        ):
            shape = [count if d == axis else 1 for d in range(len(size) + 2)]
            place = lax.broadcasted_iota(jnp.int32, shape, axis) * stride + (tap * spacing - low)
            seen = seen & (place >= 0) & (place < n)
        yield seen


@_largest.defjvp
def _largest_jvp(window, strides, pads, dilation, primals, tangents):
    (x,), (dx,) = primals, tangents
    y, place = _largest(x, window, strides, pads, dilation)
    # Selects rather than gathers, whose transpose would be a scatter.
    taps = _taps(dx, window, strides, pads, dilation, 0)
    dy = sum(jnp.where(place == number, tap, 0) for number, tap in enumerate(taps))
    return (y, place), (dy, jnp.zeros_like(place, dtype=jax.dtypes.float0))


def _taps(
    x: jax.Array, window: tuple, strides: tuple, pads: tuple, dilation: tuple, edge: float
) -> Iterator[jax.Array]:
    """The pixels at each tap of the window, (n, *pooled, channels), row by row in the window."""
    pooled = tuple(
        (n + low + high - d * (k - 1) - 1) // s + 1
        for n, k, s, d, (low, high) in zip(x.shape[1:-1], window, strides, dilation, pads, strict=True)
    )
    x = lax.pad(x, jnp.asarray(edge, x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])
    for start in itertools.product(*(range(0, d * k, d) for d, k in zip(dilation, window, strict=True))):
        stop = (f + (n - 1) * s + 1 for f, n, s in zip(start, pooled, strides, strict=True))
        yield lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))


# Images and channels keep to themselves: the partitioner need not gather them.
_BY_PIXEL = lax.ScatterDimensionNumbers(
    update_window_dims=(),
    inserted_window_dims=(1,),
    scatter_dims_to_operand_dims=(1,),
    operand_batching_dims=(0, 2),
    scatter_indices_batching_dims=(0, 2),
)


@core((2,))
def _unpool(x: jax.Array, indices: jax.Array, size: tuple) -> jax.Array:
    rank = len(size)
    batch, channels, pixels = x.shape[: -1 - rank], x.shape[-1], math.prod(size)
    x = x.reshape(math.prod(batch), math.prod(x.shape[-1 - rank : -1]), channels)
    indices = indices.reshape(x.shape)
    y = jnp.zeros((x.shape[0], pixels, channels), x.dtype)
    y = lax.scatter(y, indices[..., None], x, _BY_PIXEL, unique_indices=True, mode="drop")
    return y.reshape(*batch, *size, channels)
