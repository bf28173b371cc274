"""What layers share: checks of their arguments, the dtype they compute in, first values, projections and encoders.

A constructor checks all that it is given, before it draws a parameter; a call checks `x` and `guide`. Errors name the
layer and the argument.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from upsampling import _arguments, conventions, interpolation
from upsampling.nn.initializers import Initializer
from upsampling.primitives._common import accumulator, core, with_axes
from upsampling.primitives.transposed_conv import convolve

LECUN = nnx.initializers.lecun_normal()
ZEROS = nnx.initializers.zeros


# --- arguments of constructors ----------------------------------------------------------------------------------------


def sizes(
    layer: str, features: Any, scale: Any, axes: Sequence[int] = (1, 2, 3), *, real: bool = False
) -> tuple[int, tuple]:
    """Returns the number of channels, and the scale as one number per axis; `axes` are the numbers of axes allowed."""
    features = _arguments.number(layer, "features", features)
    return features, per_axis(layer, "scale", scale, axes[0] if len(axes) == 1 else None, real=real)


def per_axis(layer: str, argument: str, given: Any, rank: int | None, *, real: bool = False) -> tuple:
    """Returns `given` as one number for each of at most three spatial axes."""
    numbers = _arguments.per_axis(layer, argument, given, rank, real=real)
    if len(numbers) > 3:
        raise ValueError(f"{layer}: {argument} must have one number for each of 1, 2 or 3 spatial axes; got {given!r}.")
    return numbers


def or_features(layer: str, argument: str, given: object, features: int) -> int:
    """Returns a number of channels, `features` where none is given."""
    return features if given is None else _arguments.number(layer, argument, given)


def check_parameters(
    layer: str, rngs: object, param_dtype: object, dtype: object = None, **initializers: object
) -> None:
    """Checks what parameters are made from: random numbers, dtypes, and functions by the names of their arguments.

    Raises:
      TypeError: what is not an `nnx.Rngs`, a floating dtype or a function; None counts as a dtype for `dtype` alone.
    """
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"{layer}: rngs must be a flax.nnx.Rngs, such as nnx.Rngs(0); got {rngs!r}.")
    _check_dtype(layer, "param_dtype", param_dtype)
    if dtype is not None:
        _check_dtype(layer, "dtype", dtype)
    for argument, given in initializers.items():
        check_callable(layer, argument, given)


def check_unused(layer: str, rngs: object) -> None:
    """Raises TypeError unless the `rngs` of a layer without parameters is an `nnx.Rngs` or None."""
    if rngs is not None and not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"{layer}: rngs must be a flax.nnx.Rngs or None; got {rngs!r}.")


def check_callable(layer: str, argument: str, given: object) -> None:
    """Raises TypeError unless `given` can be called."""
    if not callable(given):
        raise TypeError(
            f"{layer}: {argument} must be a function, such as nnx.initializers.lecun_normal(); got {given!r}."
        )


def check_interpolation(layer: str, method: Any, convention: Any, antialias: Any = None) -> None:
    """Raises ValueError unless the convention is known and has the method."""
    interpolation._known_method(layer, method, conventions.get(layer, convention), antialias)


def _check_dtype(layer: str, argument: str, given: Any) -> None:
    try:
        kind = given is not None and not isinstance(given, (jax.Array, np.ndarray))
        floating = kind and jnp.issubdtype(jnp.dtype(given), jnp.floating)
    except (TypeError, ValueError):
        floating = False
    if not floating:
        raise TypeError(
            f"{layer}: {argument} must be a floating dtype (float64, float32, bfloat16 or float16); got {given!r}."
        )


# --- arguments of calls -----------------------------------------------------------------------------------------------


def checked_map(
    layer: str, given: object, features: int, rank: int, argument: str = "x", *, floating: bool = True
) -> jax.Array:
    """Returns `given` as a JAX array, checked to be `(*batch, *spatial, features)` with `rank` spatial axes."""
    x = _arguments.spatial_map(layer, argument, given, rank, floating=floating)
    if x.shape[-1] != features:
        hint = _arguments.channels_first_hint(x.shape, rank, features)
        raise ValueError(f"{layer}: {argument} must have features={features} channels; got shape {x.shape}.{hint}")
    return x


def cast(dtype: DTypeLike | None, *arrays: jax.Array | None) -> tuple[Any, ...]:
    """The arrays in the dtype they are computed in: `dtype`, or the one they promote to."""
    if dtype is None:
        return _arguments.promote(*arrays)
    return tuple(None if a is None else a.astype(dtype) for a in arrays)


def value(parameter: nnx.Variable | None) -> jax.Array | None:
    """The array that a parameter holds; None where the layer has no such parameter."""
    return None if parameter is None else parameter[...]


# --- parameters -------------------------------------------------------------------------------------------------------


def parameter(rngs: nnx.Rngs, draw: Initializer, shape: Sequence[int], dtype: DTypeLike) -> nnx.Param:
    """A parameter with its first value."""
    return nnx.Param(draw(rngs.params(), tuple(shape), dtype))


def keep_variance(strides: Sequence[int]) -> Initializer:
    """Keeps the variance of the input: an output pixel sums `kernel_size / stride` taps per axis, not `kernel_size`."""
    return nnx.initializers.variance_scaling(float(math.prod(strides)), "fan_in", "truncated_normal")


# --- what layers predict with -----------------------------------------------------------------------------------------


def project(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """(..., in), (in, out), (out,) -> (..., out): a convolution by one pixel. Half precision accumulates in float32."""
    wide = accumulator(x.dtype)
    y = jnp.matmul(x, kernel, preferred_element_type=wide)
    return (y if bias is None else y + with_axes(bias.astype(wide), y.ndim)).astype(x.dtype)


@core()
def project_both(a: jax.Array, b: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """`project` of both side by side. They are not written so, since on a TPU they may lie differently."""
    wide, channels = accumulator(a.dtype), a.shape[-1]
    y, more = (
        jnp.matmul(x, part, preferred_element_type=wide) for x, part in ((a, kernel[:channels]), (b, kernel[channels:]))
    )
    return (y + more + (0 if bias is None else with_axes(bias.astype(wide), y.ndim))).astype(a.dtype)


def encode(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    dilation: tuple[int, ...] | None = None,
    groups: int = 1,
) -> jax.Array:
    """A convolution that keeps the size: (*batch, *spatial, in), (*window, in // groups, out) -> (..., out)."""
    return _encode(x, kernel, bias, dilation or (1,) * (kernel.ndim - 2), groups)


@core((3, 4))
def _encode(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, dilation: tuple[int, ...], groups: int
) -> jax.Array:
    rank = kernel.ndim - 2
    reach = tuple(d * (k - 1) for k, d in zip(kernel.shape[:rank], dilation, strict=True))
    pads = tuple((r - r // 2, r // 2) for r in reach)
    y = x.reshape(math.prod(x.shape[: -1 - rank]), *x.shape[-1 - rank :])
    y = convolve(y, kernel.astype(x.dtype), pads=pads, dilation=dilation, groups=groups)
    y = y if bias is None else y + with_axes(bias.astype(y.dtype), y.ndim)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def project_and_encode(
    x: jax.Array,
    projection: jax.Array,
    projection_bias: jax.Array | None,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    dilation: tuple[int, ...] | None = None,
    groups: int = 1,
) -> jax.Array:
    """`encode(project(x, projection, projection_bias), kernel, bias)`: what a method predicts its weights by.

    On CPUs and GPUs one convolution by the product of both kernels, where that is fewer operations: where what is meant
    to compress has more channels than `x`. A GPU would write the map between the two and read it.
    """
    rank = kernel.ndim - 2
    taps, inner, out = math.prod(kernel.shape[:rank]), *kernel.shape[rank:]
    fewer = x.shape[-1] * (taps * out - inner) < taps * inner * out
    if groups > 1 or not fewer or not _arguments.is_static(*x.shape[-1 - rank : -1]):
        return encode(project(x, projection, projection_bias), kernel, bias, dilation=dilation, groups=groups)
    return _project_and_encode(x, projection, projection_bias, kernel, bias, dilation or (1,) * rank)


@core(5)
def _project_and_encode(
    x: jax.Array,
    projection: jax.Array,
    projection_bias: jax.Array | None,
    kernel: jax.Array,
    bias: jax.Array,
    dilation: tuple[int, ...],
) -> jax.Array:
    def apart(x: jax.Array, projection: jax.Array, kernel: jax.Array, bias: jax.Array, *added: jax.Array) -> jax.Array:
        return _encode(project(x, projection, *added), kernel, bias, dilation, 1)

    at_once = functools.partial(_in_one_convolution, dilation=dilation)
    added = () if projection_bias is None else (projection_bias,)
    return lax.platform_dependent(x, projection, kernel, bias, *added, tpu=apart, default=at_once)


def _in_one_convolution(
    x: jax.Array,
    projection: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    projection_bias: jax.Array | None = None,
    *,
    dilation: tuple[int, ...],
) -> jax.Array:
    wide, rank = accumulator(x.dtype), kernel.ndim - 2
    kernel, bias = kernel.astype(wide), bias.astype(wide)
    rows = [projection] if projection_bias is None else [projection, projection_bias[None]]
    # A product for each tap: for one with the taps in its columns a GPU would copy the kernel.
    rows = jnp.concatenate([a.astype(wide) for a in rows])
    rows = jnp.broadcast_to(rows, (*kernel.shape[:rank], *rows.shape))
    made = jnp.matmul(rows, kernel, precision=lax.Precision.HIGHEST)
    both = made[..., : x.shape[-1], :].astype(x.dtype)
    if projection_bias is None:
        return _encode(x, both, bias, dilation, 1)
    # What each tap adds; but none of those beyond the edge, where what is encoded is zero.
    added = made[..., -1, :]
    y = _encode(x, both, bias + added.sum(range(rank)), dilation, 1)
    for axis, (n, k, d) in enumerate(zip(x.shape[-1 - rank : -1], kernel.shape, dilation, strict=False)):
        # `added` is (*size of the axes that are done, *window of the others, out).
        taps = np.arange(n)[:, None] + d * (np.arange(k) - k // 2)
        beyond = (taps < 0) | (taps >= n)
        low, high = min(d * (k // 2), n), max(n - d * (k // 2), min(d * (k // 2), n))
        rest = tuple(range(axis + 1, rank))
        for rows in (slice(0, low), slice(high, n)):
            if beyond[rows].any():
                less = -_over_taps(beyond[rows], added, axis).sum(rest, keepdims=True)
                y = _add_rows(y.ndim - 1 - rank + axis, rows.start, y, less.astype(y.dtype))
        added = _over_taps(~beyond, added, axis)
    return y


def _over_taps(table: np.ndarray, added: jax.Array, axis: int) -> jax.Array:
    """The sums over those taps of an axis that a table (places, taps) marks."""
    table = table.reshape(*(1,) * axis, *table.shape, *(1,) * (added.ndim - axis - 1))
    return jnp.where(table, jnp.expand_dims(added, axis), jnp.zeros((), added.dtype)).sum(axis + 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _add_rows(axis: int, start: int, y: jax.Array, rows: jax.Array) -> jax.Array:
    """Adds rows, which have no batch axes, to those of an axis from `start` on, in place where the compiler can."""
    stop = start + rows.shape[axis - y.ndim]
    part = lax.slice_in_dim(y, start, stop, axis=axis) + with_axes(rows, y.ndim)
    return lax.dynamic_update_slice_in_dim(y, part, start, axis)


@_add_rows.defjvp
def _(axis: int, start: int, primals: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> tuple:
    (y, rows), (dy, drows) = primals, tangents
    # Its transpose reads the cotangent of `y` as it is.
    drows = jnp.broadcast_to(
        with_axes(drows, y.ndim), (*y.shape[:axis], rows.shape[axis - y.ndim], *y.shape[axis + 1 :])
    )
    margins = [(0, 0, 0)] * y.ndim
    margins[axis] = (start, y.shape[axis] - start - drows.shape[axis], 0)
    return _add_rows(axis, start, y, rows), dy + lax.pad(drows, jnp.zeros((), y.dtype), margins)


def convolution(x: jax.Array, conv: nnx.Conv) -> jax.Array:
    """What `conv` computes, a convolution of stride 1, by the form whose gradient to the kernel is fast on a CPU.

    XLA takes that of `nnx.Conv` for a convolution with a window as large as the image: on a CPU LoftUp's gradient took
    fifty times as long as its output.
    """
    x, kernel, bias = cast(conv.dtype, x, value(conv.kernel), value(conv.bias))
    y = _convolution(x, kernel, conv.padding)
    return y if bias is None else y + with_axes(bias, y.ndim)


@core(2)
def _convolution(x: jax.Array, kernel: jax.Array, padding: str | Sequence[tuple[int, int]]) -> jax.Array:
    rank = kernel.ndim - 2
    pads = tuple(((k - 1) // 2, k // 2) for k in kernel.shape[:rank]) if isinstance(padding, str) else padding
    y = x.reshape(math.prod(x.shape[: -1 - rank]), *x.shape[-1 - rank :])
    if padding == "REFLECT":
        y, pads = jnp.pad(y, ((0, 0), *pads, (0, 0)), mode="reflect"), ((0, 0),) * rank
    y = convolve(y, kernel, pads=tuple(pads), dilation=(1,) * rank, groups=1)
    return y.reshape(*x.shape[: -1 - rank], *y.shape[1:])


def group_norm(x: jax.Array, norm: nnx.GroupNorm) -> jax.Array:
    """Each image's groups of channels with mean 0 and variance 1, then scaled and shifted.

    For x (*batch, H, W, channels) what `norm` computes, but for any number of batch axes, and without promotion of
    dtypes in half precision.
    """
    assert norm.scale is not None
    assert norm.bias is not None
    return _group_norm(x, norm.scale[...], norm.bias[...], norm.num_groups, norm.epsilon)


@core((3, 4))
def _group_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, epsilon: float) -> jax.Array:
    return _normalized(x, groups, epsilon, scale, bias)


@core(1)
def normalize_groups(x: jax.Array, groups: int) -> jax.Array:
    """`group_norm` without parameters."""
    return _normalized(x, groups, 1e-5)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Each pixel's channels with mean 0 and variance 1, then scaled and shifted."""
    return _layer_norm(x, scale, bias, epsilon)


@core(3)
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    return _normalized(x, None, epsilon, scale, bias)


@core()
def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Each pixel's channels with a mean square of 1, then scaled."""
    wide = x.astype(accumulator(x.dtype))
    # PyTorch's epsilon, that of float32.
    wide = wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + 2.0**-23)
    return (wide * with_axes(scale.astype(wide.dtype), wide.ndim)).astype(x.dtype)


@core()
def unit_length(x: jax.Array) -> jax.Array:
    """Each pixel's channels as a vector of length 1. Where all are zero they stay so, without a gradient."""
    wide = x.astype(accumulator(x.dtype))
    square, least = (wide**2).sum(-1, keepdims=True), 1e-24
    factor = jnp.where(square > least, jax.lax.rsqrt(jnp.maximum(square, least)), 0.0)
    return (wide * factor).astype(x.dtype)


def make_batch_norm(features: int, param_dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """PyTorch's `BatchNorm2d`, with its running averages in use until the layer's `train()` is called."""
    return nnx.BatchNorm(
        features,
        use_running_average=True,
        momentum=0.9,
        epsilon=1e-5,
        use_fast_variance=False,
        param_dtype=param_dtype,
        rngs=rngs,
    )


def batch_norm(x: jax.Array, norm: nnx.BatchNorm) -> jax.Array:
    """What `norm` computes, without promotion of dtypes; with running averages, for any sharding."""
    if not norm.use_running_average:
        return norm(x).astype(x.dtype)
    assert norm.scale is not None
    assert norm.bias is not None
    return _batch_norm(x, norm.mean[...], norm.var[...], norm.scale[...], norm.bias[...], norm.epsilon)


@core(5)
def _batch_norm(
    x: jax.Array, mean: jax.Array, variance: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    wide = x.astype(accumulator(x.dtype))
    factor = scale.astype(wide.dtype) * jax.lax.rsqrt(variance.astype(wide.dtype) + epsilon)
    factor, mean, bias = (with_axes(a.astype(wide.dtype), wide.ndim) for a in (factor, mean, bias))
    return ((wide - mean) * factor + bias).astype(x.dtype)


def _normalized(
    x: jax.Array,
    groups: int | None,
    epsilon: float,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
) -> jax.Array:
    """With mean 0 and variance 1 what `_mean` takes together, then scaled and shifted."""
    wide = x.astype(accumulator(x.dtype))
    scale, bias = (None if a is None else with_axes(a.astype(wide.dtype), x.ndim) for a in (scale, bias))
    mean, variance = _moments(groups, wide)
    factor = lax.rsqrt(variance + epsilon)
    if scale is not None and groups is not None:
        # One factor for each channel: the gradients of factor and mean are two sums over the map, read together.
        factor, scale = factor * scale, None
    y = (wide - mean) * factor
    y = y if scale is None else y * scale
    return (y if bias is None else y + bias).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moments(groups: int | None, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance, as `_mean` has them.

    The derivative of the variance does not depend on that of the mean, around which deviations add up to zero. JAX does
    not know that, and would read the map once more.
    """
    mean = _mean(groups, x)
    return mean, _mean(groups, (x - mean) ** 2)


@_moments.defjvp
def _(groups: int | None, primals: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> tuple[tuple, tuple]:
    (x,), (dx,) = primals, tangents
    mean, variance = _moments(groups, x)
    return (mean, variance), (_mean(groups, dx), 2 * _mean(groups, (x - mean) * dx))


def _mean(groups: int | None, x: jax.Array) -> jax.Array:
    """Of each image's groups of channels, (..., 1, 1, channels), or, where there are none, of a pixel's channels."""
    if groups is None:
        return x.mean(-1, keepdims=True)
    each = x.shape[-1] // groups
    y = x.reshape(*x.shape[:-1], groups, each).mean((-4, -3, -1), keepdims=True)
    return jnp.broadcast_to(y, (*y.shape[:-1], each)).reshape(*y.shape[:-2], x.shape[-1])


@core()
def add_in_place(x: jax.Array, y: jax.Array) -> jax.Array:
    """`x + y`, on a CPU with pixels in one axis, as its products of matrices have them: in another shape XLA writes the
    sum beside them."""
    shape = (math.prod(x.shape[:-1]), x.shape[-1])
    flat = lambda x, y: (x.reshape(shape) + y.reshape(shape)).reshape(x.shape)  # noqa: E731
    return lax.platform_dependent(x, y, cpu=flat, default=jnp.add)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def relu(x: jax.Array, leak: float = 0.0) -> jax.Array:
    """`x` where it is positive, else `leak` times `x`.

    Its derivative is told from its value, at zero PyTorch's: so nothing else reads `x`, and what makes it makes the
    value in the same kernel.
    """
    return jnp.where(x > 0, x, leak * x) if leak else jnp.maximum(x, jnp.zeros((), x.dtype))


@relu.defjvp
def _(leak: float, primals: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    y, (dx,) = relu(*primals, leak), tangents
    return y, jnp.where(y > 0, dx, leak * dx)


@core()
def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution's integral up to x, as PyTorch computes it.

    JAX's own says it by erfc, which is more digits far below zero, and on a TPU more arrays that are written.
    """
    wide = x.astype(accumulator(x.dtype))
    return (wide * (0.5 * (1 + lax.erf(wide * math.sqrt(0.5))))).astype(x.dtype)


@core(2)
def add_share(x: jax.Array, correction: jax.Array, share: float) -> jax.Array:
    """`x + share * correction`, in the dtype of `x`."""
    return x + share * correction.astype(x.dtype)
