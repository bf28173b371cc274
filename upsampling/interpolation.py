"""Interpolation: resize with fixed weights, to the numbers of the framework that a model comes from."""

import functools
import itertools
from collections.abc import Sequence
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from upsampling import _arguments, conventions
from upsampling._arguments import Numbers
from upsampling.conventions import Convention, Method, PlainMethod, Preset
from upsampling.primitives import eight_bit, taps
from upsampling.primitives._common import accumulator, core, pad_edges
from upsampling.primitives.resample import resample

Scales = float | Sequence[float]


@_arguments.hinted
def resize(
    x: jax.Array,
    size: Numbers | None = None,
    *,
    scale: Scales | None = None,
    method: Method = "bilinear",
    convention: Preset | Convention = "torch",
    antialias: bool | None = None,
    axes: Numbers | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Resizes the spatial axes of `x` by interpolation, as the framework that `convention` names does it.

    Each axis is resized on its own, y[i] = sum_k w[i, k] x[q[i, k]], by weights that depend on the sizes alone.

    Args:
      x: (*batch, *spatial, channels), any number of batch axes, none included.
      size: the output's spatial size: one whole number for each spatial axis, or a single number for two equal axes.
      scale: the factor, in place of `size`: one number for each spatial axis, or a single number for two axes.
      method: nearest, nearest-exact, linear (bilinear, trilinear), cubic (bicubic, tricubic), cubic-pytorch,
        lanczos2 to lanczos5, mitchell (mitchellcubic), gaussian, box, hamming, mks2013, mks2021 or area. Each
        convention has some.
      convention: whose numbers: torch, torch_align_corners, jax, tensorflow, tensorflow1, tensorflow1_align_corners,
        opencv, pillow, matlab, scipy, scipy_grid, skimage, or a `Convention`, such as `conventions.onnx(...)`.
      antialias: whether the kernel widens where an axis shrinks, so that it weighs all pixels that it skips otherwise.
        Not given, MATLAB and scikit-image antialias and the others do not.
      axes: the spatial axes, where they are not the last ones before the channels: `axes=(-2, -1)` for (N, C, H, W)
        and for arrays without channels.
      dtype: uint8 for an image of 8 bits as the framework makes it of one, to the last grey level: in fixed point and
        rounded between the axes where the framework does so. Pillow, PyTorch, and OpenCV's linear, cubic and area.

    Returns:
      (*batch, *size, channels) in the dtype of `x`; half precision accumulates in float32. Of integers and booleans,
      nearest and nearest-exact keep dtype and values, the other methods return float32 unless `dtype` is given.

    Raises:
      ValueError: both or neither of size and scale; sizes or scales that are not above zero, not finite or not one
        per axis; an unknown method or convention, or one that do not go together; axes that x does not have.
      TypeError: traced or fractional sizes; complex or non-numeric x.

    A 2x2 map to 4x4. On the corner-anchored grid target pixel (1, 1) sits at 1/2 = 0.5 on both axes and takes a
    quarter of each source pixel, as introductions to bilinear interpolation tend to show it:

        >>> import jax, jax.numpy as jnp
        >>> import upsampling as up
        >>> def weights(convention):  # what each pixel of a 2x2 map contributes to target pixel (1, 1)
        ...     pixel = lambda x: up.resize(x[..., None], (4, 4), convention=convention)[1, 1, 0]
        ...     return jax.grad(pixel)(jnp.zeros((2, 2)))
        >>> print(weights("tensorflow1"))
        [[0.25 0.25]
         [0.25 0.25]]

    On the half-pixel grid, where both images cover the same area, it sits at (1 + 0.5) / 2 - 0.5 = 0.25, and
    f(x, y) = (1-a)(1-b) f00 + a(1-b) f10 + (1-a)b f01 + ab f11 has a = b = 0.25:

        >>> print(weights("torch"))
        [[0.5625 0.1875]
         [0.1875 0.0625]]

    Sizes, scales, axes:

        >>> x = jnp.ones((8, 32, 24, 3))
        >>> up.resize(x, scale=(2, 1.5), method="bicubic").shape
        (8, 64, 36, 3)
        >>> up.resize(jnp.ones((3, 32, 24)), 16, antialias=True, axes=(-2, -1)).shape
        (3, 16, 16)
        >>> up.resize(jnp.ones((100, 3)), (40,), method="linear").shape
        (40, 3)

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981; Duchon, "Lanczos filtering in
    one and two dimensions", 1979; Mitchell and Netravali, "Reconstruction filters in computer graphics", 1988; and
    the frameworks' documentation. `conventions` says where they differ.
    """
    return _resize("resize", x, size, scale, method, convention, antialias, axes, dtype)


@_arguments.hinted
def nearest(
    x: jax.Array,
    size: Numbers | None = None,
    *,
    scale: Scales | None = None,
    convention: Preset | Convention = "torch",
    axes: Numbers | None = None,
) -> jax.Array:
    """Copies the nearest pixel: `resize` with method nearest. Keeps every dtype, so it serves label maps.

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> print(up.nearest(jnp.array([[1, 2]]), scale=2, axes=(0, 1)))
    [[1 1 2 2]
     [1 1 2 2]]
    """
    return _resize("nearest", x, size, scale, "nearest", convention, None, axes)


@_arguments.hinted
def bilinear(
    x: jax.Array,
    size: Numbers | None = None,
    *,
    scale: Scales | None = None,
    convention: Preset | Convention = "torch",
    antialias: bool | None = None,
    axes: Numbers | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Weighs the two nearest pixels of each axis: `resize` with method bilinear.

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> print(up.bilinear(jnp.array([0.0, 4.0]), scale=(2,), axes=0))
    [0. 1. 3. 4.]
    """
    return _resize("bilinear", x, size, scale, "bilinear", convention, antialias, axes, dtype)


@_arguments.hinted
def bicubic(
    x: jax.Array,
    size: Numbers | None = None,
    *,
    scale: Scales | None = None,
    convention: Preset | Convention = "torch",
    antialias: bool | None = None,
    axes: Numbers | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Weighs the four nearest pixels of each axis by Keys' cubic (1981): `resize` with method bicubic.

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> step = jnp.array([0.0, 0.0, 1.0, 1.0])
    >>> [round(float(y), 2) for y in up.bicubic(step, scale=(2,), axes=0)]  # it overshoots at edges
    [0.0, -0.04, -0.11, 0.23, 0.77, 1.11, 1.04, 1.0]
    """
    return _resize("bicubic", x, size, scale, "bicubic", convention, antialias, axes, dtype)


@_arguments.hinted
def lanczos3(
    x: jax.Array,
    size: Numbers | None = None,
    *,
    scale: Scales | None = None,
    convention: Preset | Convention = "jax",
    antialias: bool | None = None,
    axes: Numbers | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Weighs the six nearest pixels of each axis by a windowed sinc (Duchon 1979): `resize` with method lanczos3.

    Its default convention is `"jax"`, the same numbers as `"tensorflow"`: PyTorch has Lanczos with `antialias=True`
    only.

        >>> import jax.numpy as jnp
        >>> import upsampling as up
        >>> up.lanczos3(jnp.ones((64, 64, 3)), scale=0.5, antialias=True).shape
        (32, 32, 3)
    """
    return _resize("lanczos3", x, size, scale, "lanczos3", convention, antialias, axes, dtype)


@_arguments.hinted
def area(
    x: jax.Array,
    size: Numbers | None = None,
    *,
    scale: Scales | None = None,
    convention: Preset | Convention = "torch",
    axes: Numbers | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Averages the pixels that each output pixel covers: `resize` with method area, for making images smaller.

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> print(up.area(jnp.arange(6.0), (2,), axes=0))
    [1. 4.]
    """
    return _resize("area", x, size, scale, "area", convention, None, axes, dtype)


def scale_and_translate(
    x: jax.Array,
    size: Numbers,
    scale: float | Sequence[float] | jax.Array,
    translation: float | Sequence[float] | jax.Array,
    *,
    method: Method = "bilinear",
    antialias: bool = True,
    axes: Numbers | None = None,
) -> jax.Array:
    """Scales and moves an image and cuts `size` out of it, as `jax.image.scale_and_translate`: crops and zooms.

    The center of output pixel i lies at (i + 0.5 - translation) / scale - 0.5 on the input's grid. Output pixels whose
    center lies beyond the image are zero. Taps beyond it are dropped, and the rest renormalized.

    Args:
      x: (*batch, *spatial, channels), any number of batch axes, none included.
      size: the output's spatial size: one whole number for each spatial axis, or a single number for two.
      scale: output pixels per input pixel, one number or one per axis. It may be traced, and has a gradient.
      translation: by how many output pixels the scaled image is moved, likewise.
      method: linear (bilinear, trilinear), cubic (bicubic, tricubic), lanczos3 or lanczos5.
      antialias: whether the kernel widens where the scale is below one.
      axes: the spatial axes, as in `resize`.

    Returns:
      (*batch, *size, channels) in the dtype of `x`; of integers float32. Half precision accumulates in float32.

    Raises:
      ValueError: sizes below one, another number of scales or translations than of axes, or an unknown method.
      TypeError: complex or non-numeric arrays.

    Where scale and size are fixed and nothing is moved, `resize` is faster: here each axis is multiplied by a matrix.

        >>> import jax.numpy as jnp
        >>> import upsampling as up
        >>> x = jnp.arange(6.0)
        >>> print(up.scale_and_translate(x, (4,), 1.0, -2.0, method="linear", axes=0))  # a crop
        [2. 3. 4. 5.]
        >>> print(up.scale_and_translate(x, (4,), 2.0, 0.0, method="linear", axes=0))
        [0.   0.25 0.75 1.25]

    Source: the documentation of `jax.image.scale_and_translate`.
    """
    name = "scale_and_translate"
    x = _arguments.array(name, "x", x, floating=False)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"{name}: x must be real; got {x.dtype}.")
    if axes is not None:
        axes = _arguments.per_axis(name, "axes", _arguments.as_sequence(axes), None, minimum=None)
    sizes = _arguments.per_axis(name, "size", size, None if axes is None else len(axes))
    positions, _ = _known_axes(name, x, len(sizes), axes)
    _arguments.one_of(name, "method", method, get_args(Method))
    plain = conventions.SYNONYMS.get(method, method)
    _arguments.one_of(name, "method", plain, ("linear", "cubic", "lanczos3", "lanczos5"))
    antialias = _arguments.flag(name, "antialias", antialias)
    numbers = []
    for argument, given in (("scale", scale), ("translation", translation)):
        values = _arguments.array(name, argument, given, floating=False)
        if jnp.issubdtype(values.dtype, jnp.complexfloating):
            raise TypeError(f"{name}: {argument} must be real; got {given!r}.")
        if values.shape not in ((), (len(sizes),)):
            raise ValueError(
                f"{name}: {argument} must be one number or {len(sizes)} of them, one per spatial axis; "
                f"got shape {values.shape}."
            )
        numbers.append(jnp.broadcast_to(values.astype(accumulator(x.dtype)), len(sizes)))
    return _scale_and_translate(x, *numbers, positions, sizes, plain, antialias)


@core((3, 4, 5, 6))
def _scale_and_translate(
    x: jax.Array,
    scale: jax.Array,
    translation: jax.Array,
    axes: tuple[int, ...],
    sizes: tuple[int, ...],
    method: PlainMethod,
    antialias: bool,
) -> jax.Array:
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.dtype(jnp.float32)
    y, (weight, _) = x.astype(scale.dtype), taps.kernel(method, -0.5)
    for axis, m, factor, moved in zip(axes, sizes, scale, translation, strict=True):
        n = x.shape[axis]
        center = (jnp.arange(m, dtype=scale.dtype) + 0.5 - moved) / factor - 0.5
        narrowing = jnp.minimum(jnp.abs(factor), 1) if antialias else jnp.ones_like(factor)
        distance = center[:, None] - jnp.arange(n, dtype=scale.dtype)[None]
        weights = weight(distance * narrowing, xp=jnp)
        total = weights.sum(1, keepdims=True)
        seen = jnp.abs(total) > 1000 * jnp.finfo(scale.dtype).eps
        weights = jnp.where(seen, weights / jnp.where(seen, total, 1), 0)
        inside = (center >= -0.5) & (center <= n - 0.5)
        weights = jnp.where(inside[:, None], weights, 0)
        y = jnp.moveaxis(jnp.tensordot(y, weights, (axis, 1), precision="highest"), -1, axis)
    return y.astype(dtype)


def _resize(
    function: str,
    x: jax.Array,
    size: Numbers | None,
    scale: Scales | None,
    method: Method,
    convention: Preset | Convention,
    antialias: bool | None,
    axes: Numbers | None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Checks and normalizes what is static, then calls the compiled function."""
    x = _arguments.array(function, "x", x, floating=False)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"{function}: x must be real; got {x.dtype}. Resize its real and imaginary parts.")
    convention = conventions.get(function, convention)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    plain, antialias = _known_method(function, method, convention, antialias, floating)
    if (size is None) == (scale is None):
        raise ValueError(f"{function}: give one of size and scale; got size={size!r}, scale={scale!r}.")
    if axes is not None:
        axes = _arguments.per_axis(function, "axes", _arguments.as_sequence(axes), None, minimum=None)
    rank = None if axes is None else len(axes)
    if scale is None:
        sizes = _arguments.per_axis(function, "size", size, rank)
        positions, given = _known_axes(function, x, len(sizes), axes)
        sizes, scales = convention.fitted_sizes(given, sizes)
    else:
        scales = _arguments.per_axis(function, "scale", scale, rank, real=True)
        whole = dtype is None and all(s == int(s) for s in scales)
        positions, given = _known_axes(function, x, len(scales), axes, symbolic=whole)
        if not _arguments.is_static(*given):
            phases = tuple(_phases(function, x, int(s), method, plain, convention, antialias) for s in scales)
            return _by_phases(x, positions, phases)
        sizes = tuple(convention.scaled_size(n, s) for n, s in zip(given, scales, strict=True))
    if max(sizes) >= 2**31:
        raise ValueError(f"{function}: size={size!r}, scale={scale!r} make an axis of {given} too long: {sizes}.")
    if min(sizes) < 1:
        raise ValueError(f"{function}: size={size!r}, scale={scale!r} make an axis of {given} vanish: {sizes}.")
    if len(convention.roi) not in (1, len(given)):
        raise ValueError(
            f"{function}: the roi of convention {convention.name!r} must have one (start, end) or {len(given)} of "
            f"them, one per spatial axis; got {len(convention.roi)}."
        )
    in_eight_bit = dtype is not None and _checked_eight_bit(function, x, dtype, plain, method, convention, len(given))
    geometry = _geometry(given, sizes, scales, convention)
    return _compiled(x, positions, geometry, plain, convention, antialias, in_eight_bit)


def _checked_eight_bit(
    function: str, x: jax.Array, dtype: DTypeLike, plain: PlainMethod, method: Method, convention: Convention, rank: int
) -> bool:
    """Whether to compute in the framework's arithmetic for 8 bits; the arguments are checked to have one."""
    try:
        known = not isinstance(dtype, (jax.Array, np.ndarray)) and jnp.dtype(dtype) == jnp.uint8
    except (TypeError, ValueError):
        known = False
    if not known or x.dtype != jnp.uint8:
        raise ValueError(
            f"{function}: dtype must be None, or uint8 for x of uint8; got dtype={dtype!r} for x of {x.dtype}. "
            "Convert the result instead."
        )
    if plain.startswith("nearest"):
        return False
    if convention.eight_bit is None:
        has = ", ".join(repr(name) for name, preset in conventions.PRESETS.items() if preset.eight_bit is not None)
        raise ValueError(
            f"{function}: convention {convention.name!r} has no arithmetic of 8 bits; these have: {has}. "
            "Without dtype the result is float32."
        )
    methods = eight_bit.METHODS[convention.eight_bit]
    if plain not in methods:
        raise ValueError(
            f"{function}: convention {convention.name!r} has no arithmetic of 8 bits for method {method!r}. "
            f"It has: {', '.join(map(repr, methods))}."
        )
    if convention.eight_bit == "opencv" and rank != 2:
        raise ValueError(f"{function}: OpenCV's arithmetic of 8 bits is for two spatial axes; got {rank}.")
    return True


def _to_size(
    x: jax.Array,
    size: tuple[int, ...],
    method: PlainMethod,
    convention: Convention = conventions.torch,
    antialias: bool = False,
) -> jax.Array:
    """`resize` to `size`, unchecked, for methods of other modules."""
    rank = len(size)
    given = x.shape[-1 - rank : -1]
    geometry = _geometry(given, *convention.fitted_sizes(given, size), convention)
    return _compiled(x, tuple(range(x.ndim - 1 - rank, x.ndim - 1)), geometry, method, convention, antialias, False)


def _geometry(
    given: Sequence[int], sizes: Sequence[int], scales: Sequence[float | None], convention: Convention
) -> tuple[taps.Axis, ...]:
    roi = convention.roi * len(given) if len(convention.roi) == 1 else convention.roi
    return tuple(map(taps.Axis, given, sizes, scales, roi))


def _known_method(
    function: str, method: Method, convention: Convention, antialias: bool | None, floating: bool = True
) -> tuple[PlainMethod, bool]:
    """The method's name in `conventions.METHODS`, checked to be one that the convention has, and whether it widens."""
    _arguments.one_of(function, "method", method, get_args(Method))
    plain = conventions.SYNONYMS.get(method, method)
    if antialias is None:
        labels = plain.startswith("nearest") and not floating
        antialias = plain in convention.antialiased_by_default and not labels
    antialias = _arguments.flag(function, "antialias", antialias)
    has, other = convention.methods, convention.antialiased
    if antialias:
        has, other = other, has
    if plain in has:
        return plain, antialias
    if plain in other:
        reason = f"has method {method!r} with antialias={not antialias} only"
    else:
        reason = f"has no method {method!r}"
    raise ValueError(
        f"{function}: convention {convention.name!r} {reason}. "
        f"With antialias={antialias} it has: {', '.join(map(repr, has)) or 'none'}."
    )


def _known_axes(
    function: str, x: jax.Array, rank: int, axes: Sequence[int] | None, symbolic: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The spatial axes, counted from the front, and their sizes, which may be symbols only if so told."""
    if axes is None:
        if x.ndim < rank + 1:
            raise ValueError(
                f"{function}: x must be (*batch, *spatial, channels) with {rank} spatial axes; got shape {x.shape}. "
                "Name the spatial axes of an array without channels with axes=."
            )
        axes = range(-1 - rank, -1)
    axes = _arguments.per_axis(function, "axes", axes, rank, minimum=None)
    if any(not -x.ndim <= axis < x.ndim for axis in axes):
        raise ValueError(f"{function}: axes={axes} must lie in [{-x.ndim}, {x.ndim}) for x of shape {x.shape}.")
    positions = tuple(axis % x.ndim for axis in axes)
    if len(set(positions)) != rank:
        raise ValueError(f"{function}: axes={axes} name an axis twice for x of shape {x.shape}.")
    sizes = tuple(x.shape[axis] for axis in positions)
    if not _arguments.is_static(*sizes):
        if symbolic:
            return positions, sizes
        raise TypeError(
            f"{function}: x must have spatial sizes that are numbers, since the computation depends on them; got shape "
            f"{x.shape}. Export a program for each size, or take a whole scale; batch axes may be symbolic."
        )
    if min(sizes) < 1:
        raise ValueError(f"{function}: x must have a pixel on each spatial axis; got shape {x.shape}.")
    return positions, sizes


# For each output that a pixel makes along an axis, the weights of the pixels around it: (offset, weight) pairs.
Phases = tuple[tuple[tuple[int, float], ...], ...]


def _phases(
    function: str,
    x: jax.Array,
    factor: int,
    method: Method,
    plain: PlainMethod,
    convention: Convention,
    antialias: bool,
) -> Phases:
    """What holds for an axis of any size; raises TypeError if nothing does."""

    def matrix(n: int) -> np.ndarray:
        geometry = _geometry((n,), (n * factor,), (float(factor),), convention)
        return taps.operators(geometry, plain, convention, antialias, wide=x.dtype == jnp.float64)[0].matrix()

    center = 16
    rows = matrix(2 * center)[center * factor :][:factor]
    phases = tuple(tuple((int(i) - center, float(row[i])) for i in np.flatnonzero(row)) for row in rows)
    reach = max(abs(offset) for phase in phases for offset, _ in phase)

    def of_size(n: int) -> np.ndarray:
        """What the phases make of an axis whose outermost pixels repeat."""
        made = np.zeros((n * factor, n))
        for pixel, (number, phase) in itertools.product(range(n), enumerate(phases)):
            for offset, weight in phase:
                made[pixel * factor + number, min(max(pixel + offset, 0), n - 1)] += weight
        return made

    plain_edges = convention.outside is None and not (convention.clip and plain == "cubic")
    sizes = (*range(1, 2 * reach + 3), 2 * center)
    if not plain_edges or any(np.abs(matrix(n) - of_size(n)).max() > 1e-5 for n in sizes):
        raise TypeError(
            f"{function}: x must have spatial sizes that are numbers, since the weights of method {method!r} in "
            f"convention {convention.name!r} depend on them; got shape {x.shape}. Export a program for each size."
        )
    return phases


@core((1, 2), inline=False)
def _by_phases(x: jax.Array, axes: tuple[int, ...], phases: tuple[Phases, ...]) -> jax.Array:
    """Enlarges axes whose sizes are symbols by whole factors."""
    copies = all(phase[0][1] == 1 and len(phase) == 1 for found in phases for phase in found)
    dtype = x.dtype if copies or jnp.issubdtype(x.dtype, jnp.floating) else jnp.dtype(jnp.float32)
    y = x if copies else x.astype(accumulator(dtype))
    for axis, found in zip(axes, phases, strict=True):
        n, reach = y.shape[axis], max(abs(offset) for phase in found for offset, _ in phase)
        padded = pad_edges(y, [(reach, reach) if a == axis else (0, 0) for a in range(y.ndim)])
        parts = []
        for phase in found:
            read = (lax.slice_in_dim(padded, reach + o, reach + o + n, axis=axis) for o, _ in phase)
            terms = [t if w == 1 else t * jnp.asarray(w, t.dtype) for t, (_, w) in zip(read, phase, strict=True)]
            parts.append(functools.reduce(jnp.add, terms))
        y = jnp.stack(parts, axis + 1)
        y = y.reshape(*y.shape[:axis], n * len(found), *y.shape[axis + 2 :])
    return y.astype(dtype)


@core((1, 2, 3, 4, 5, 6), inline=False)
def _compiled(
    x: jax.Array,
    axes: tuple[int, ...],
    geometry: tuple[taps.Axis, ...],
    method: PlainMethod,
    convention: Convention,
    antialias: bool,
    in_eight_bit: bool,
) -> jax.Array:
    if in_eight_bit:
        return eight_bit.resize_eight_bit(x, axes, geometry, method, convention, antialias)
    blurs = antialias and convention.antialias_filter == "gaussian"
    if not jnp.issubdtype(x.dtype, jnp.floating) and (blurs or not method.startswith("nearest")):
        x = x.astype(jnp.float32)
    operators = taps.operators(geometry, method, convention, antialias, wide=x.dtype == jnp.float64)
    y = resample(x, list(zip(axes, operators, strict=True)))
    if convention.edge == "constant" and convention.constant and not method.startswith("nearest"):
        inside = functools.reduce(np.multiply.outer, [found.weights.sum(1) for found in operators])
        inside = inside.transpose(np.argsort(axes))
        beyond = np.expand_dims(1 - inside, [axis for axis in range(x.ndim) if axis not in axes])
        y = y + jnp.asarray(convention.constant * beyond, y.dtype)
    if convention.clip and method == "cubic" and x.size:
        image = tuple(range(min(axes), x.ndim))
        y = jnp.clip(y, jnp.nanmin(x, image, keepdims=True), jnp.nanmax(x, image, keepdims=True))
    if convention.outside is not None:
        for axis, beyond in zip(axes, taps.outside(geometry, convention), strict=True):
            beyond = jnp.expand_dims(beyond, [other for other in range(x.ndim) if other != axis])
            y = jnp.where(beyond, jnp.asarray(convention.outside, y.dtype), y)
    return y
