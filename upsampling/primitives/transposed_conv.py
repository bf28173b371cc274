"""The one linear map of the convolution family: the transposed convolution.

Along each axis `f[i * stride + j * dilation] += x[i] * kernel[j]`, and a stretch of `f` is the output. An output pixel
`m * stride + r` sums over the taps `j` with `j * dilation = r (mod stride)` and over no others. The pixels of one phase
`r` are thus an ordinary convolution of the input with every `stride`-th tap, and all phases together are one ordinary
convolution with `prod(strides)` times the channels and a pixel shuffle. No zeros are multiplied, so that a NaN reaches
those outputs alone whose window holds it.

The map is written in several forms. They differ in what XLA makes of them and of their transposes, which are what a
gradient runs:

- `_by_product`, `_by_products`: matrix products, where kernel size and stride are equal;
- `_by_phases`: one ordinary convolution for all phases that have as many taps; the fastest to compute;
- `_by_dilation`: a convolution of the input with zeros between its pixels; its transpose to the input is a strided
  convolution, the fastest gradient. On a TPU, which skips the zeros and has no fast way to interleave, the fastest;
- `_by_cudnn` and its transpose `_by_strides`: the same on a GPU, where cuDNN has all three and nothing is shuffled;
- `_by_taps` and `_by_columns`: products of matrices; their transposes to the kernel are products too, where that of a
  convolution has a window as large as the image, which XLA computes slowly on a CPU;
- `_by_shifts`: a sum of shifted inputs, where the stride is one: times a number for each channel, if every one is a
  group of its own, or times matrices, if one TPU has few images and channels.

`transposed_conv` computes by one form and differentiates by others. It is a primitive, linear in both arguments, and so
are its gradients to the input and to the kernel: the transposes of each are the other two, so any derivative works.
Half precision accumulates in float32: convolutions and products of GPUs and TPUs do so inside, and read and write half
precision; sums, and a CPU's forms, are widened here.
`convolve` is the ordinary convolution of stride 1, which is a transposed one with the flipped kernel.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from upsampling._arguments import is_static
from upsampling.primitives import _common
from upsampling.primitives._common import UNROLLED_TAPS, block_rows, in_order, make_primitive, with_axes

_IMAGES = 8  # that fill the rows of a TPU's vector
_CHANNELS = 32  # that fill enough of its lanes


class Geometry(NamedTuple):
    """The static facts of a transposed convolution, one entry per spatial axis (`groups` aside).

    `low` is what is cropped before the first output pixel; `size` is the output's size. Pixels that no tap reaches
    are zero.
    """

    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    low: tuple[int, ...]
    size: tuple[int, ...]
    groups: int


def full_size(
    size: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
    """The size of the full result, of which nothing is cropped."""
    axes = zip(size, window, strides, dilation, strict=True)
    return tuple((n - 1) * s + d * (k - 1) + 1 for n, k, s, d in axes)


def transposed_conv(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(n, *spatial, in), (*window, in // groups, out) -> (n, *geometry.size, out)."""
    if 0 in x.shape:
        return jnp.zeros((x.shape[0], *geometry.size, kernel.shape[-1]), x.dtype)
    rank = len(geometry.strides)
    static = _Sizes(geometry, x.shape[1:-1], kernel.shape[:rank])
    return _transposed_conv_p.bind(x, kernel, sizes=static)


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    pads: Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
    groups: int,
) -> jax.Array:
    """An ordinary convolution of stride 1 of `x` with `pads` zeros around it, by the fastest form and gradients.

    (n, *spatial, in), (*window, in // groups, out) -> (n, *size, out). It is a transposed one with the flipped kernel.
    """
    rank = len(dilation)
    reach = tuple(d * (k - 1) for k, d in zip(kernel.shape[:rank], dilation, strict=True))
    low = tuple(r - first for r, (first, _) in zip(reach, pads, strict=True))
    size = tuple(n + sum(p) - r for n, r, p in zip(x.shape[1:-1], reach, pads, strict=True))
    geometry = Geometry((1,) * rank, dilation, low, size, groups)
    return transposed_conv(geometry, x, lax.rev(kernel, tuple(range(rank))))


class _Sizes(NamedTuple):
    """The static facts of the primitives: the geometry, and the spatial sizes of `x` and of the kernel."""

    geometry: Geometry
    inputs: tuple[int, ...]
    window: tuple[int, ...]


# The forms of the primitives. The map is linear in `x` and in the kernel, and its gradients are its transposes to each:
# each is that of the form whose transpose is the fastest.


def _transposed_conv(x: jax.Array, kernel: jax.Array, *, sizes: _Sizes) -> jax.Array:
    return _form(sizes.geometry, x, kernel, product=_by_product, other=_in_one_piece)(sizes.geometry, x, kernel)


def _transposed_conv_on_gpu(x: jax.Array, kernel: jax.Array, *, sizes: _Sizes) -> jax.Array:
    # cuDNN has this one convolution, also where kernel and stride are equal; in groups or dilated XLA finds none.
    form = _by_cudnn if _is_plain(sizes.geometry) else _in_one_piece
    if _is_sum_of_shifts(sizes.geometry, kernel):
        form = _by_shifts
    return form(sizes.geometry, x, kernel)


def _is_plain(geometry: Geometry) -> bool:
    """Whether it is what cuDNN has: neither in groups nor dilated."""
    return geometry.groups == 1 and set(geometry.dilation) == {1}


def _transposed_conv_on_gpus(x: jax.Array, kernel: jax.Array, *, sizes: _Sizes, devices: int) -> jax.Array:
    del devices
    return _form(sizes.geometry, x, kernel, product=_by_product, other=_by_dilation)(sizes.geometry, x, kernel)


def _transposed_conv_on_cpus(x: jax.Array, kernel: jax.Array, *, sizes: _Sizes) -> jax.Array:
    return _form(sizes.geometry, x, kernel, product=_by_products, other=_on_cpus)(sizes.geometry, x, kernel)


def _transposed_conv_on_one_cpu(x: jax.Array, kernel: jax.Array, *, sizes: _Sizes) -> jax.Array:
    product = functools.partial(_by_products, joined=True)
    return _form(sizes.geometry, x, kernel, product=product, other=_on_one_cpu)(sizes.geometry, x, kernel)


def _transposed_conv_on_tpu(x: jax.Array, kernel: jax.Array, *, sizes: _Sizes) -> jax.Array:
    y = _form(sizes.geometry, x, kernel, product=_by_dilation, other=_by_dilation)(sizes.geometry, x, kernel)
    return _in_rows(y) if set(sizes.geometry.strides) == {1} else y


def _transposed_conv_on_one_tpu(x: jax.Array, kernel: jax.Array, *, sizes: _Sizes) -> jax.Array:
    if _is_sum_of_products(sizes, x, kernel.shape[-1]):
        return _by_shifts(sizes.geometry, x, kernel)
    return _transposed_conv_on_tpu(x, kernel, sizes=sizes)


def _is_sum_of_products(sizes: _Sizes, x: jax.Array, out: int) -> bool:
    """Whether one TPU computes a convolution of stride 1, to `out` channels, faster as a product for each tap.

    It is 1.2 to 3 times as fast where neither images fill the rows of vectors nor channels the lanes. Several devices
    would exchange most rows for each product.
    """
    geometry, taps = sizes.geometry, math.prod(sizes.window)
    pays = taps == 1 or (taps <= UNROLLED_TAPS and out <= _CHANNELS)
    return pays and _has_few_images(x) and geometry.groups == 1 and set(geometry.strides) == {1}


def _has_few_images(a: jax.Array) -> bool:
    return is_static(a.shape[0]) and a.shape[0] < _IMAGES


def _in_rows(a: jax.Array) -> jax.Array:
    """With pixels in the rows of a TPU's vectors, where its convolutions would have images, which do not fill them.

    Else what is computed of it, and what the gradient of a kernel makes of it first, goes over vectors nearly empty. Of
    few channels, which are in the lanes, these would be as empty.
    """
    return in_order(a) if _has_few_images(a) and a.shape[-1] >= _CHANNELS else a


def _form(geometry: Geometry, x: jax.Array, kernel: jax.Array, *, product: Callable, other: Callable) -> Callable:
    if _is_product(geometry, x, kernel):
        return product
    return _by_shifts if _is_sum_of_shifts(geometry, kernel) else other


def _input_gradient(
    y: jax.Array, kernel: jax.Array, *, sizes: _Sizes, product: Callable | None = None, other: Callable | None = None
) -> jax.Array:
    """(n, *geometry.size, out), (*window, in // groups, out) -> (n, *inputs, in): a strided convolution."""
    geometry = sizes.geometry
    x = jax.ShapeDtypeStruct((y.shape[0], *sizes.inputs, kernel.shape[-2] * geometry.groups), y.dtype)
    form = product or _by_product if _is_product(geometry, x, kernel) else other or _by_dilation
    return jax.linear_transpose(lambda x: form(geometry, x, kernel), x)(y)[0]


def _input_gradient_on_tpu(y: jax.Array, kernel: jax.Array, *, sizes: _Sizes) -> jax.Array:
    return _in_rows(_input_gradient(y, kernel, sizes=sizes, product=_by_dilation))


def _input_gradient_on_one_tpu(y: jax.Array, kernel: jax.Array, *, sizes: _Sizes) -> jax.Array:
    if not _is_sum_of_products(sizes, y, kernel.shape[-2]):
        return _input_gradient_on_tpu(y, kernel, sizes=sizes)
    # A convolution too, by the kernel turned around.
    geometry, rank = sizes.geometry, len(sizes.inputs)
    reach = (d * (k - 1) for d, k in zip(geometry.dilation, sizes.window, strict=True))
    low = tuple(r - first for r, first in zip(reach, geometry.low, strict=True))
    back = geometry._replace(low=low, size=sizes.inputs)
    return _by_shifts(back, y, lax.rev(kernel, tuple(range(rank))).swapaxes(-2, -1))


def _kernel_gradient(
    x: jax.Array, y: jax.Array, *, sizes: _Sizes, product: Callable | None = None, other: Callable | None = None
) -> jax.Array:
    """(n, *inputs, in), (n, *geometry.size, out) -> (*window, in // groups, out)."""
    geometry = sizes.geometry
    kernel = jax.ShapeDtypeStruct((*sizes.window, x.shape[-1] // geometry.groups, y.shape[-1]), x.dtype)
    form = product or _by_product if _is_product(geometry, x, kernel) else other or _by_one_convolution
    return jax.linear_transpose(lambda kernel: form(geometry, x, kernel), kernel)(y)[0]


def _input_gradient_on_gpu(y: jax.Array, kernel: jax.Array, *, sizes: _Sizes) -> jax.Array:
    if _is_plain(sizes.geometry):
        return _by_strides(sizes.geometry, y, kernel, sizes.inputs)
    form = _by_dilation if set(sizes.geometry.dilation) == {1} else _by_convolutions
    return _input_gradient(y, kernel, sizes=sizes, product=_by_dilation, other=form)


def _kernel_gradient_on_gpu(x: jax.Array, y: jax.Array, *, sizes: _Sizes) -> jax.Array:
    """The transpose of the input's gradient, a strided convolution: cuDNN has a gradient of it."""
    kernel = jax.ShapeDtypeStruct((*sizes.window, x.shape[-1] // sizes.geometry.groups, y.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _input_gradient_on_gpu(y, kernel, sizes=sizes), kernel)(x)[0]


def _kernel_gradient_on_tpu(x: jax.Array, y: jax.Array, *, sizes: _Sizes) -> jax.Array:
    return _kernel_gradient(x, _in_rows(y), sizes=sizes, product=_by_dilation, other=_by_dilation)


def _is_uneven(geometry: Geometry, kernel: jax.Array) -> bool:
    """Whether some phases have more taps than others, as with a window of 3 at stride 2."""
    axes = zip(kernel.shape, geometry.strides, geometry.dilation, strict=False)
    return any(d == 1 and k > s and k % s for k, s, d in axes)


def _in_one_piece(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One convolution, of few zeros: on a GPU several, whose results are then joined, move twice as much."""
    return (_by_dilation if _is_uneven(geometry, kernel) else _by_convolutions)(geometry, x, kernel)


# The fastest forms on a CPU, by measurement. XLA has fast convolutions there for one and two axes, slow ones for three
# and for channels by themselves. On several devices the partitioner gathers all images for a loop over them, and for a
# convolution in groups.


def _convolves_slowly(geometry: Geometry, kernel: jax.Array) -> bool:
    return len(geometry.strides) > 2 or _is_depthwise(geometry, kernel)


def _on_one_cpu(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return (_by_columns if _convolves_slowly(geometry, kernel) else _on_cpu)(geometry, x, kernel)


def _on_cpu(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    rank = len(geometry.strides)
    window, (inner, out) = kernel.shape[:rank], kernel.shape[rank:]
    if geometry.groups > 1 or rank > 2 or set(geometry.dilation) != {1}:
        return _by_convolutions(geometry, x, kernel)
    # Each of the four phases of a window of 3 at stride 2 is a convolution of its own. Where that computes little, and
    # where XLA is kept busy anyway, one convolution with zeros between the pixels costs less, or one product.
    uneven = _is_uneven(geometry, kernel)
    filled = math.prod(-(-k // s) * s for k, s in zip(window, geometry.strides, strict=True))
    if rank == 2 and 2 * filled >= 3 * math.prod(window) and (inner >= 64 or (uneven and out < 16)):
        return _by_dilation(geometry, x, kernel)
    return (_by_products_of_columns if uneven and inner < 16 else _by_convolutions)(geometry, x, kernel)


def _on_cpus(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    convolve = _convolve if geometry.groups == 1 else functools.partial(_convolve_by_columns, joined=False)
    return _by_aligned_phases(geometry, x, kernel, convolve=convolve)


def _for_input_gradient_on_cpus(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return (_by_dilation if geometry.groups == 1 else _on_cpus)(geometry, x, kernel)


def _for_kernel_gradient_on_cpus(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _on_cpus(geometry, x, kernel)


def _for_input_gradient_on_one_cpu(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    if _convolves_slowly(geometry, kernel) or (len(geometry.strides) == 2 and kernel.shape[-2] >= 128):
        return _by_columns(geometry, x, kernel)
    return _by_dilation(geometry, x, kernel)


def _for_kernel_gradient_on_one_cpu(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    # That with the smaller matrix.
    rank, groups = len(geometry.strides), geometry.groups
    window, out = kernel.shape[:rank], kernel.shape[-1]
    phases = math.prod(geometry.strides)
    shared = math.prod(-(-k // s) for k, s in zip(window, geometry.strides, strict=True))
    if math.prod(window) * out <= 2 * (shared * kernel.shape[-2] * groups + phases * out):
        return _by_taps(geometry, x, kernel)
    return _by_columns(geometry, x, kernel)


# Forms.


_Array = jax.Array | jax.ShapeDtypeStruct


def _is_product(geometry: Geometry, x: _Array, kernel: _Array) -> bool:
    """Whether every output pixel belongs to one input pixel and one tap."""
    whole = tuple(n * s for n, s in zip(x.shape[1:-1], geometry.strides, strict=True))
    return (
        kernel.shape[:-2] == geometry.strides
        and set(geometry.dilation) == {1}
        and set(geometry.low) == {0}
        and geometry.size == whole
    )


def _by_product(geometry: Geometry, x: jax.Array, kernel: jax.Array, *, joined: bool = False) -> jax.Array:
    """A matrix product and a pixel shuffle."""
    strides, groups = geometry.strides, geometry.groups
    rank, out = len(strides), kernel.shape[-1]
    taps = kernel.reshape(math.prod(strides), -1, groups, out // groups).transpose(2, 1, 0, 3)
    taps = taps.reshape(groups, kernel.shape[-2], -1)
    y = _grouped_product(x, taps, math.prod(strides), joined=joined).reshape(*x.shape[:-1], *strides, out)
    order = itertools.chain(*((1 + a, 1 + rank + a) for a in range(rank)))
    return y.transpose(0, *order, 1 + 2 * rank).reshape(x.shape[0], *geometry.size, out)


_by_joined_product = functools.partial(_by_product, joined=True)


def _by_products(geometry: Geometry, x: jax.Array, kernel: jax.Array, *, joined: bool = False) -> jax.Array:
    """A matrix product for each tap of the first axis, which gives whole rows: less to shuffle."""
    stride, *rest = geometry.strides
    part = geometry._replace(strides=(1, *rest), size=(x.shape[1], *geometry.size[1:]))
    rows = [_by_product(part, x, taps, joined=joined) for taps in jnp.split(kernel, stride)]
    return jnp.stack(rows, 2).reshape(x.shape[0], *geometry.size, kernel.shape[-1])


def _is_depthwise(geometry: Geometry, kernel: _Array) -> bool:
    """Whether every input channel is a group of its own."""
    return geometry.groups > 1 and kernel.shape[-2] == 1


def _is_sum_of_shifts(geometry: Geometry, kernel: jax.Array) -> bool:
    """Whether channels keep to themselves, at stride one, with few enough taps to write out."""
    alone = _is_depthwise(geometry, kernel) and kernel.shape[-1] == geometry.groups
    return alone and set(geometry.strides) == {1} and math.prod(kernel.shape[:-2]) <= UNROLLED_TAPS


def _by_shifts(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A sum over the taps of the shifted input, by its channels, which XLA fuses into one loop, or by a matrix each."""
    dtype, wide, alone = x.dtype, _common.accumulator(x.dtype), geometry.groups > 1
    x, kernel = (a.astype(wide) if alone else a for a in (x, kernel))
    reach = tuple(d * (k - 1) for d, k in zip(geometry.dilation, kernel.shape, strict=False))
    margins = [
        (r - low, low + size - n, 0)
        for r, low, size, n in zip(reach, geometry.low, geometry.size, x.shape[1:], strict=False)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *margins, (0, 0, 0)])
    terms = []
    for tap in itertools.product(*map(range, kernel.shape[: len(reach)])):
        first = tuple(r - t * d for r, t, d in zip(reach, tap, geometry.dilation, strict=True))
        seen = x[(slice(None), *(slice(f, f + n) for f, n in zip(first, geometry.size, strict=True)))]
        if alone:
            terms.append(seen * with_axes(kernel[(*tap, 0)], x.ndim))
        else:
            terms.append(jnp.matmul(seen, kernel[tap], preferred_element_type=wide))
    return functools.reduce(jnp.add, terms).astype(dtype)


def _by_dilation(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One convolution of the input with zeros between its pixels."""
    rank = len(geometry.strides)
    pads = []
    for axis, (s, d, low, size) in enumerate(
        zip(geometry.strides, geometry.dilation, geometry.low, geometry.size, strict=True)
    ):
        reach = d * (kernel.shape[axis] - 1)
        pads.append((reach - low, size - 1 + low - (x.shape[1 + axis] - 1) * s))
    return lax.conv_general_dilated(
        x,
        lax.rev(kernel, tuple(range(rank))),
        (1,) * rank,
        pads,
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_dimension_numbers(rank),
        feature_group_count=geometry.groups,
    )


def _for_cudnn(geometry: Geometry, window: tuple[int, ...], inputs: tuple[int, ...]) -> tuple[Geometry, tuple]:
    """The geometry for an input with so many zeros around it that cuDNN has the convolution, and these margins.

    cuDNN's is the transpose of a convolution with as many zeros at both ends of an axis, whose last step may end before
    the axis does. A window of 3 at stride 2 with the padding of JAX and Keras is none: XLA would cut its result.
    """
    margins, low = [], []
    for s, k, n, first, size in zip(geometry.strides, window, inputs, geometry.low, geometry.size, strict=True):
        least = (n - 1) * s + k - size - first
        before, after = -(-max(least - first, 0) // s), -(-max(first - least - s + 1, 0) // s)
        margins.append((before, after, 0))
        low.append(first + before * s)
    return geometry._replace(low=tuple(low)), ((0, 0, 0), *margins, (0, 0, 0))


def _by_cudnn(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`_by_dilation` of the input with the zeros around it that cuDNN needs."""
    geometry, margins = _for_cudnn(geometry, kernel.shape[:-2], x.shape[1:-1])
    return _by_dilation(geometry, lax.pad(x, jnp.zeros((), x.dtype), margins), kernel)


def _by_strides(geometry: Geometry, y: jax.Array, kernel: jax.Array, inputs: tuple[int, ...]) -> jax.Array:
    """The transpose of `_by_cudnn` to the input: a strided convolution."""
    geometry, margins = _for_cudnn(geometry, kernel.shape[:-2], inputs)
    x = lax.conv_general_dilated(
        y,
        kernel.swapaxes(-2, -1),
        geometry.strides,
        [(low, low) for low in geometry.low],
        dimension_numbers=_dimension_numbers(len(inputs)),
    )
    return lax.pad(x, jnp.zeros((), x.dtype), [(-before, -after, 0) for before, after, _ in margins])


def _by_taps(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A matrix product of all pixels with all taps, and each tap's share scattered by the stride and added up."""
    strides, dilation, groups = geometry.strides, geometry.dilation, geometry.groups
    rank, out, window = len(strides), kernel.shape[-1], kernel.shape[: len(strides)]
    count = math.prod(window)
    extents = tuple(d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True))
    taps = kernel.reshape(count, -1, groups, out // groups).transpose(2, 1, 0, 3).reshape(groups, kernel.shape[-2], -1)

    def block(x: jax.Array, taps: jax.Array) -> jax.Array:
        y = _grouped_product(x, taps, count, joined=True)
        zero, scattered = jnp.zeros((), x.dtype), []
        shares = lax.split(y, (out,) * count, axis=rank)
        for tap, share in zip(itertools.product(*map(range, window)), shares, strict=True):
            margins = [
                (j * d, e - 1 - j * d, s - 1) for j, d, e, s in zip(tap, dilation, extents, strides, strict=True)
            ]
            scattered.append(lax.pad(share, zero, [*margins, (0, 0, 0)]))
        return functools.reduce(jnp.add, scattered)

    # Whole images, or blocks of rows no shorter than what sticks out of a block into the next.
    tail = max(extents[0] - strides[0], 0)
    row = math.prod(x.shape[2:-1]) * count * out * x.dtype.itemsize
    rows = block_rows(x.shape[1], row, least=-(-tail // strides[0]))
    y = _scan(block, x.reshape(-1, rows, *x.shape[2:]), taps)
    step, parts = rows * strides[0], x.shape[1] // rows
    if extents[0] < strides[0]:
        y = lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), (0, strides[0] - extents[0], 0), *[(0, 0, 0)] * rank])
    y = y.reshape(x.shape[0], parts, *y.shape[1:])
    if tail and parts > 1:
        y, over = lax.split(y, (step, tail), axis=2)
        zero, rest = jnp.zeros((), y.dtype), [(0, 0, 0)] * rank
        y = lax.pad(y, zero, [(0, 0, 0), (0, 1, 0), (0, 0, 0), *rest])
        y = y + lax.pad(over, zero, [(0, 0, 0), (1, 0, 0), (0, step - tail, 0), *rest])
    y = y.reshape(x.shape[0], -1, *y.shape[3:])
    pads = ((-low, low + size - n, 0) for low, size, n in zip(geometry.low, geometry.size, y.shape[1:], strict=False))
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *pads, (0, 0, 0)])


class _Phase(NamedTuple):
    """Along one axis: output pixels `m * stride + residue` sum `x[m - shift - u * spacing] * taps[u]` over `u`.

    Their taps are `kernel[first::every]`. Without dilation those of several `residues`, `first, first + 1, ...`, are
    one `_Phase`: they have the same shift and spacing, and each as many taps, or one less and a zero.
    """

    first: int
    every: int
    residues: int
    shift: int
    spacing: int


def _phases(window: int, stride: int, dilation: int, *, joined: bool = False) -> list[_Phase]:
    """The phases of one axis in the order of their residues, which are multiples of `gcd(stride, dilation)`.

    Without dilation they are one where all have as many taps, or `joined`; else two. A zero in the place of a tap
    carries a NaN to outputs whose window does not hold it.
    """
    if dilation == 1:
        longer = min(window, stride) if joined else window % stride or stride
        shorter = min(window, stride) - longer
        phases = [_Phase(0, stride, longer, 0, 1), _Phase(longer, stride, shorter, 0, 1)]
        return [phase for phase in phases if phase.residues > 0]
    common = math.gcd(stride, dilation)
    every = stride // common
    first = sorted(range(every), key=lambda p: p * dilation % stride)
    return [_Phase(p, every, 1, p * dilation // stride, dilation // common) for p in first]


def _by_phases(
    geometry: Geometry,
    x: jax.Array,
    kernel: jax.Array,
    *,
    convolve: Callable,
    joined: bool = False,
    phases: Sequence[Sequence[_Phase]] = (),
) -> jax.Array:
    """Ordinary convolutions, by `convolve`, whose results are interleaved.

    `phases`, where given, are those of each axis, which count from the first output and not from the full result's.
    """
    rank = len(geometry.strides)
    low = (0,) * rank if phases else geometry.low
    axes = tuple(zip(low, geometry.size, geometry.strides, strict=True))
    rows = tuple((low // s, -(-(low + n) // s)) for low, n, s in axes)
    spacings = zip(kernel.shape, geometry.strides, geometry.dilation, strict=False)
    phases = phases or [_phases(*spacing, joined=joined) for spacing in spacings]

    def interleave(chosen: tuple[_Phase, ...]) -> jax.Array:
        """(n, rows, phases, rows, phases, ..., out), the last axes complete, the first as `chosen`."""
        axis = len(chosen)
        if axis == rank:
            return _one_phase(x, kernel, chosen, rows, geometry.groups, convolve)
        y = lax.concatenate([interleave((*chosen, phase)) for phase in phases[axis]], 2 + 2 * axis)
        # What no tap reaches is zero: residues between the multiples of the common divisor, or beyond a short kernel.
        stride, dense = geometry.strides[axis], geometry.dilation[axis] == 1
        gap = 0 if dense else stride // y.shape[2 + 2 * axis] - 1
        margin = [(0, 0, 0)] * y.ndim
        margin[2 + 2 * axis] = (0, stride - y.shape[2 + 2 * axis] if dense else gap, gap)
        return lax.pad(y, jnp.zeros((), y.dtype), margin)

    y = interleave(())
    y = y.reshape(y.shape[0], *((stop - start) * s for (start, stop), (_, _, s) in zip(rows, axes, strict=True)), -1)
    first = tuple(low - start * s for (start, _), (low, _, s) in zip(rows, axes, strict=True))
    last = tuple(f + n for f, n in zip(first, geometry.size, strict=True))
    return lax.slice(y, (0, *first, 0), (y.shape[0], *last, y.shape[-1]))


def _one_phase(
    x: jax.Array, kernel: jax.Array, phases: tuple[_Phase, ...], rows: tuple, groups: int, convolve: Callable
) -> jax.Array:
    """(n, rows, count, rows, count, ..., out), the residues that `phases` hold."""
    rank, counts = len(phases), tuple(p.residues for p in phases)
    windows = tuple(len(range(p.first, k, p.every)) for p, k in zip(phases, kernel.shape, strict=False))
    lengths = tuple(stop - start for start, stop in rows)
    out = kernel.shape[-1]
    pads = tuple(
        (p.shift + (w - 1) * p.spacing - start, stop - p.shift - n)
        for p, w, n, (start, stop) in zip(phases, windows, x.shape[1:], rows, strict=False)
    )
    if 0 in windows or any(-p >= n for n, pair in zip(x.shape[1:], pads, strict=False) for p in pair):
        # No tap, or no input pixel, reaches this phase.
        return jnp.zeros((x.shape[0], *itertools.chain(*zip(lengths, counts, strict=True)), out), x.dtype)
    # The taps of each residue: (window, count, ...) per axis, then the counts to the output channels of each group.
    margins = [(-p.first, p.first + w * p.every - k, 0) for p, w, k in zip(phases, windows, kernel.shape, strict=False)]
    taps = lax.pad(kernel, jnp.zeros((), kernel.dtype), [*margins, (0, 0, 0), (0, 0, 0)])
    taps = taps.reshape(*itertools.chain(*((w, p.every) for p, w in zip(phases, windows, strict=True))), -1, out)
    taps = taps[tuple(itertools.chain(*((slice(None), slice(n)) for n in counts)))]
    taps = taps.reshape(*taps.shape[:-1], groups, out // groups)
    even, odd = tuple(range(0, 2 * rank, 2)), tuple(range(1, 2 * rank, 2))
    taps = taps.transpose(*even, 2 * rank, 2 * rank + 1, *odd, 2 * rank + 2)
    taps = lax.rev(taps, tuple(range(rank))).reshape(*windows, kernel.shape[-2], -1)
    y = convolve(x, taps, pads, tuple(p.spacing for p in phases), groups)
    y = y.reshape(*y.shape[: 1 + rank], groups, *counts, out // groups)
    order = itertools.chain(*((1 + a, 2 + rank + a) for a in range(rank)))
    y = y.transpose(0, *order, 1 + rank, 2 + 2 * rank)
    return y.reshape(*y.shape[: 1 + 2 * rank], out)


def _by_convolutions(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _by_phases(geometry, x, kernel, convolve=_convolve)


def _by_one_convolution(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same with zeros for the taps that some phases have less. Its transpose to the kernel drops them."""
    return _by_phases(geometry, x, kernel, convolve=_convolve, joined=True)


def _by_products_of_columns(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _by_phases(geometry, x, kernel, convolve=_convolve_by_columns)


def _by_aligned_phases(geometry: Geometry, x: jax.Array, kernel: jax.Array, *, convolve: Callable) -> jax.Array:
    """`_by_phases`, none of which begins before the output: where an image is cut over devices, so is each phase."""
    axes = zip(geometry.low, geometry.size, geometry.strides, geometry.dilation, strict=True)
    if any(size % stride or dilation > 1 for _, size, stride, dilation in axes):
        return _by_phases(geometry, x, kernel, convolve=convolve)
    phases = [
        [_Phase(p % s, s, 1, -(p // s), 1) for p in range(low, low + s)]
        for low, s in zip(geometry.low, geometry.strides, strict=True)
    ]
    return _by_phases(geometry, x, kernel, convolve=convolve, phases=phases)


def _convolve(x: jax.Array, taps: jax.Array, pads: tuple, spacing: tuple, groups: int) -> jax.Array:
    """An ordinary convolution of stride 1."""
    rank = len(spacing)
    cut = [(0, 0, 0), *((min(low, 0), min(high, 0), 0) for low, high in pads), (0, 0, 0)]
    return lax.conv_general_dilated(
        lax.pad(x, jnp.zeros((), x.dtype), cut),
        taps,
        (1,) * rank,
        [(max(low, 0), max(high, 0)) for low, high in pads],
        rhs_dilation=spacing,
        dimension_numbers=_dimension_numbers(rank),
        feature_group_count=groups,
    )


def _convolve_by_columns(
    x: jax.Array, taps: jax.Array, pads: tuple, spacing: tuple, groups: int, *, joined: bool = True
) -> jax.Array:
    """`_convolve` as the product of a matrix of shifted inputs, side by side, with a matrix of taps.

    Its transpose to the taps is a product of matrices too, where that of a convolution would be one with a window as
    large as an image, for which XLA has no fast code on a CPU.
    """
    rank, windows = len(spacing), taps.shape[: len(spacing)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])
    lengths = tuple(n - (w - 1) * d for n, w, d in zip(x.shape[1:], windows, spacing, strict=False))
    columns = [
        lax.slice(x, (0, *start, 0), (x.shape[0], *(f + n for f, n in zip(start, lengths, strict=True)), x.shape[-1]))
        for start in itertools.product(*(range(0, w * d, d) for w, d in zip(windows, spacing, strict=True)))
    ]
    count, pixels = len(columns), (x.shape[0], *lengths)
    columns = jnp.stack(columns, rank + 1).reshape(*pixels, count, groups, -1)
    columns = columns.swapaxes(-3, -2).reshape(*pixels, -1)
    taps = taps.reshape(count, -1, groups, taps.shape[-1] // groups)
    taps = taps.transpose(2, 0, 1, 3).reshape(groups, -1, taps.shape[-1])
    return _grouped_product(columns, taps, 1, joined=joined)


def _by_columns(geometry: Geometry, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`_by_phases` with `_convolve_by_columns`, block by block of rows."""
    (stride, *_), (low, *_), (size, *_) = geometry.strides, geometry.low, geometry.size
    row = math.prod(geometry.size[1:]) * kernel.shape[-1] * x.dtype.itemsize
    if x.shape[0] * size * row <= _common.BLOCK_BYTES:
        return _by_products_of_columns(geometry, x, kernel)
    # A block is the output of `step` input rows. It reads rows from `first` on, counted from its own first row, and
    # `halo` more than `step`.
    first = -((geometry.dilation[0] * (kernel.shape[0] - 1) - low) // stride)
    halo = max((stride - 1 + low) // stride - first, 0)
    step = block_rows(size // stride, row * stride, least=halo) if size % stride == 0 else -(-size // stride)
    blocks = max(size // (step * stride), 1)
    rest = [(0, 0, 0)] * (x.ndim - 2)
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (-first, first + blocks * step + halo - x.shape[1], 0), *rest])
    if blocks == 1:
        x = x[:, None]
    else:
        shape = (x.shape[0], blocks, step, *x.shape[2:])
        own = lax.slice_in_dim(x, 0, blocks * step, axis=1).reshape(shape)
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (-step, step - halo, 0), *rest]).reshape(shape)
        x = lax.concatenate([own, lax.slice_in_dim(x, 0, halo, axis=2)], 2)
    rows = size if blocks == 1 else step * stride
    part = geometry._replace(low=(low - first * stride, *geometry.low[1:]), size=(rows, *geometry.size[1:]))

    def block(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _by_phases(part, x[None], kernel, convolve=_convolve_by_columns)[0]

    y = _scan(block, x.reshape(-1, *x.shape[2:]), kernel)
    return y.reshape(x.shape[0], *geometry.size, kernel.shape[-1])


# Pieces.


def _grouped_product(x: jax.Array, taps: jax.Array, count: int, *, joined: bool) -> jax.Array:
    """(..., groups * in), (groups, in, count * out) -> (..., count * groups * out).

    `joined`: with all pixels in one axis. On a CPU the product's transpose to the taps is then two to five times
    faster, but of such an axis no device could keep its part of the image.
    """
    groups, pixels = taps.shape[0], x.shape[:-1]
    x = x.reshape(-1, x.shape[-1]) if joined else x
    if groups == 1:
        y = lax.dot_general(x, taps[0], (((x.ndim - 1,), (0,)), ((), ())))
    else:
        y = jnp.einsum("...gi,gio->...go", x.reshape(*x.shape[:-1], groups, -1), taps)
        y = y.reshape(*x.shape[:-1], groups, count, -1).swapaxes(-3, -2)
    return y.reshape(*pixels, -1)


def _scan(block: Callable, x: jax.Array, taps: jax.Array) -> jax.Array:
    """`block(x[i], taps)` for every i, one after the other. Nothing of a block is kept for its gradient."""
    if x.shape[0] == 1:
        return block(x[0], taps)[None]
    kept = jax.checkpoint(block, prevent_cse=False)
    return lax.scan(lambda carry, x: (carry, kept(x, taps)), None, x)[1]


def _dimension_numbers(rank: int) -> tuple[str, str, str]:
    axes = "DHW"[-rank:]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


def _wide(form: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The form computed in float32 at least: a CPU rounds what it sums in half precision after every step."""

    @functools.wraps(form)
    def compute(a: jax.Array, b: jax.Array, *, sizes: _Sizes) -> jax.Array:
        wide = _common.accumulator(a.dtype)
        return form(a.astype(wide), b.astype(wide), sizes=sizes).astype(a.dtype)

    return compute


# The primitives.


_transposed_conv_p = make_primitive(
    "transposed_conv",
    lambda x, kernel, *, sizes: (x[0], *sizes.geometry.size, kernel[-1]),
    _transposed_conv,
    static=("sizes",),
    cpu=_wide(_transposed_conv_on_cpus),
    cpu_alone=_wide(_transposed_conv_on_one_cpu),
    gpu=_transposed_conv_on_gpu,
    several=_transposed_conv_on_gpus,
    tpu=_transposed_conv_on_tpu,
    tpu_alone=_transposed_conv_on_one_tpu,
)
_input_gradient_p = make_primitive(
    "transposed_conv_input_gradient",
    lambda y, kernel, *, sizes: (y[0], *sizes.inputs, kernel[-2] * sizes.geometry.groups),
    _input_gradient,
    static=("sizes",),
    cpu=_wide(functools.partial(_input_gradient, other=_for_input_gradient_on_cpus)),
    cpu_alone=_wide(
        functools.partial(_input_gradient, product=_by_joined_product, other=_for_input_gradient_on_one_cpu)
    ),
    gpu=_input_gradient_on_gpu,
    tpu=_input_gradient_on_tpu,
    tpu_alone=_input_gradient_on_one_tpu,
)
_kernel_gradient_p = make_primitive(
    "transposed_conv_kernel_gradient",
    lambda x, y, *, sizes: (*sizes.window, x[-1] // sizes.geometry.groups, y[-1]),
    _kernel_gradient,
    static=("sizes",),
    cpu=_wide(functools.partial(_kernel_gradient, other=_for_kernel_gradient_on_cpus)),
    cpu_alone=_wide(
        functools.partial(_kernel_gradient, product=_by_joined_product, other=_for_kernel_gradient_on_one_cpu)
    ),
    gpu=_kernel_gradient_on_gpu,
    tpu=_kernel_gradient_on_tpu,
)

ad.defbilinear(
    _transposed_conv_p,
    lambda y, x, kernel, *, sizes: _input_gradient_p.bind(y, kernel, sizes=sizes),
    lambda y, x, kernel, *, sizes: _kernel_gradient_p.bind(x, y, sizes=sizes),
)
ad.defbilinear(
    _input_gradient_p,
    lambda x, y, kernel, *, sizes: _transposed_conv_p.bind(x, kernel, sizes=sizes),
    lambda x, y, kernel, *, sizes: _kernel_gradient_p.bind(x, y, sizes=sizes),
)
ad.defbilinear(
    _kernel_gradient_p,
    lambda kernel, x, y, *, sizes: _input_gradient_p.bind(y, kernel, sizes=sizes),
    lambda kernel, x, y, *, sizes: _transposed_conv_p.bind(x, kernel, sizes=sizes),
)


def _batch(primitive: Primitive, arguments: Sequence[jax.Array], dimensions: Sequence[int | None], *, sizes: _Sizes):
    """Maps become images where they share the kernel; else each mapped pair is a group of channels."""
    (first, *_), (first_axis, second_axis) = arguments, dimensions
    if second_axis is None and primitive is not _kernel_gradient_p:
        assert first_axis is not None
        a, kernel = jnp.moveaxis(first, first_axis, 0), arguments[1]
        result = primitive.bind(a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), kernel, sizes=sizes)
        return result.reshape(*a.shape[:2], *result.shape[1:]), 0
    count = next(a.shape[d] for a, d in zip(arguments, dimensions, strict=True) if d is not None)
    merged = []
    for a, d in zip(arguments, dimensions, strict=True):
        a = jnp.broadcast_to(a, (count, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
        # To the channels: those of a kernel's groups lie in its last axis.
        merged.append(jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], count * a.shape[-1]))
    geometry = sizes.geometry._replace(groups=count * sizes.geometry.groups)
    result = primitive.bind(*merged, sizes=sizes._replace(geometry=geometry))
    result = result.reshape(*result.shape[:-1], count, -1)
    return result, result.ndim - 2


for _p in (_transposed_conv_p, _input_gradient_p, _kernel_gradient_p):
    batching.primitive_batchers[_p] = functools.partial(_batch, _p)
