"""Upsampling with a high-resolution guide by image filters: the joint bilateral and the guided filter."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from upsampling import _arguments, conventions, interpolation
from upsampling.conventions import Convention, Preset
from upsampling.primitives import _common, taps
from upsampling.primitives._common import (
    Tiles,
    accumulator,
    core,
    in_parts,
    over_tiles,
    with_axes,
)
from upsampling.primitives.box_covariance import box_covariance
from upsampling.primitives.box_factor import box_factor
from upsampling.primitives.resample import resample
from upsampling.primitives.taps import Taps
from upsampling.primitives.window_attention import attention
from upsampling.primitives.window_sum import (
    Geometry,
    window_correlation,
    window_distances,
    window_softmax,
    window_sum,
)

Mean = Callable[[jax.Array], jax.Array]
Form = Literal["joint", "channelwise"]


# --- joint bilateral upsampling ---------------------------------------------------------------------------------------


def joint_bilateral(
    x: jax.Array,
    guide: jax.Array,
    *,
    radius: int = 2,
    sigma_spatial: float = 0.5,
    sigma_range: float = 0.1,
) -> jax.Array:
    """Averages the pixels around each output pixel, with weights that fall with distance in space and in the guide.

        y[p] = sum_q f(|p - q|) g(|guide[p] - guide[q]|) x[q] / sum_q f(|p - q|) g(|guide[p] - guide[q]|)

    over the pixels q of `x` in a square of `2 * radius + 1` around p that lie inside the image. f is a Gaussian of the
    distance in pixels of `x`, with p placed by the half-pixel grid, and g a Gaussian of the distance between values of
    the guide. As in the paper, the guide is read at p and at the single pixel under the center of q (where that falls
    between two pixels, as for even factors, at the later one).

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      guide: (*batch, H, W, guide channels), of any size; the result has that size.
      radius: how far the square reaches from its central pixel, in pixels of `x`.
      sigma_spatial: standard deviation of f, in pixels of `x`. The default is the paper's.
      sigma_range: standard deviation of g, in units of the guide. The default is the paper's, for images in [0, 1].

    Returns:
      (*batch, H, W, channels) in the dtype of `x`.

    Raises:
      ValueError: batch axes that differ, empty images, or numbers out of range.
      TypeError: arrays that are not floating, or numbers that are not static.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> x, guide = jnp.array([0.0, 1.0]), jnp.array([5.0, 5.0, 5.0, 6.0])  # the edge is a pixel further to the right
    >>> up.joint_bilateral(x[None, :, None], guide[None, :, None], radius=1)[0, :, 0].round(2)
    Array([0., 0., 0., 1.], dtype=float32)

    Source: Kopf et al. 2007, doi:10.1145/1276377.1276497, section 3.
    """
    name = "joint_bilateral"
    x, guide = _map_and_guide(name, x, guide)
    _static_sizes(name, x, guide)
    radius = _arguments.number(name, "radius", radius, minimum=0)
    sigma_spatial = _arguments.width(name, "sigma_spatial", sigma_spatial)
    sigma_range = _arguments.width(name, "sigma_range", sigma_range)
    # Beyond the image nothing counts.
    return _joint_bilateral(x, guide, min(radius, max(x.shape[-3:-1])), sigma_spatial, sigma_range)


@core((2, 3, 4))
def _joint_bilateral(
    x: jax.Array, guide: jax.Array, radius: int, sigma_spatial: float, sigma_range: float
) -> jax.Array:
    sizes = tuple(zip(x.shape[-3:-1], guide.shape[-3:-1], strict=True))
    guide = _widen(guide)
    # Distances do not change with the mean, but their rounding does.
    guide = (guide - _finite_mean(guide)) / sigma_range
    under_centers = (Taps(m, _pixel_under(m, n)[:, None], np.ones((n, 1))) for n, m in sizes)
    low = resample(guide, list(enumerate(under_centers, guide.ndim - 3)))
    centers = tuple(_pixel_under(n, m) for n, m in sizes)
    geometry = Geometry.around(x.shape[-3:-1], centers, (2 * radius + 1,) * 2)
    forms = _range_logits_by_products, _range_logits_with_slopes_by_products, _range_logits_by_differences
    forms = tuple(lambda low, guide, form=form: form(low, guide, geometry) for form in forms)
    by_differences = forms[-1]

    def by_any(low: jax.Array, guide: jax.Array) -> jax.Array:
        largest = jnp.max(jnp.sum(lax.stop_gradient(guide) ** 2, -1), initial=0)
        # Of what is not a number the last.
        form = sum(jnp.where(largest <= square, 0, 1) for square in (_SMALL_SQUARE, _MIDDLING_SQUARE))
        return lax.switch(form, forms, low, guide)

    tables = tuple(_spatial_logits(n, m, radius, sigma_spatial) for n, m in sizes)

    def pure(x: jax.Array, guide: jax.Array, low: jax.Array) -> jax.Array:
        # Differences are no slower on a GPU; and devices that share the images would gather what a condition returns
        # there.
        logits: jax.Array = lax.platform_dependent(low, guide, cuda=by_differences, rocm=by_differences, default=by_any)
        weights = window_softmax(logits, 2, *tables)
        return window_sum(x.astype(weights.dtype), weights, geometry, "zero").astype(x.dtype)

    return attention(pure, x, guide, low, geometry, *tables, most=_most_square(guide.dtype))


# Squares up to this lose less than 1e-4 where their differences are taken; up to that, their slopes.
_SMALL_SQUARE, _MIDDLING_SQUARE = 256.0, 1e6


def _range_logits_by_products(low: jax.Array, guide: jax.Array, geometry: Geometry) -> jax.Array:
    """The logarithm of g, but for a number that is the same for all q and cancels: (*batch, H, W, 1, *window)."""
    # -|a - b|^2 / 2 = a b - |b|^2 / 2 - |a|^2 / 2, whose last term is that number.
    ones, squares = jnp.ones((*guide.shape[:-1], 1), guide.dtype), -0.5 * jnp.sum(low**2, -1, keepdims=True)
    queries, keys = jnp.concatenate([guide, ones], -1), jnp.concatenate([low, squares], -1)
    return window_correlation(keys, queries, geometry, "zero")


def _range_logits_by_differences(low: jax.Array, guide: jax.Array, geometry: Geometry) -> jax.Array:
    """The same for any guide: the squares of large numbers would round away the difference of two of them."""
    squares = window_distances(low, guide, geometry)
    limit = _most_square(guide.dtype)
    # Bounded, so that the nearest of far values has a weight; NaN stays.
    return -0.5 * jnp.where(squares > limit, limit, squares)


def _most_square(dtype: DTypeLike) -> float:
    return float(jnp.finfo(dtype).max) / 16


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _range_logits_with_slopes_by_products(low: jax.Array, guide: jax.Array, geometry: Geometry) -> jax.Array:
    """The logarithm of g by differences, its derivative by products, which is several times faster on a CPU.

    The two differ by a number that is the same for all q, and so do their derivatives.
    """
    return _range_logits_by_differences(low, guide, geometry)


@_range_logits_with_slopes_by_products.defjvp
def _(geometry: Geometry, primals: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (low, guide), by_products = primals, functools.partial(_range_logits_by_products, geometry=geometry)
    slope = jax.jvp(by_products, (low, guide), tuple(tangents))[1]
    return _range_logits_by_differences(low, guide, geometry), slope


def _finite_mean(x: jax.Array) -> jax.Array:
    """About the mean of each image's finite values: an origin, which need not be exact and takes no gradient.

    XLA computes a sum once for each of its readers, not always in the same order: of 8 binary digits all have the same.
    """
    x = _some_pixels(x)
    return _rounded(jnp.where(jnp.isfinite(x), x, 0).mean((-3, -2), keepdims=True))


def _rounded(x: jax.Array) -> jax.Array:
    """To 8 binary digits, whose products with a guide of 16 bits have 24, all that float32 has."""
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _some_pixels(x: jax.Array) -> jax.Array:
    """16 to 31 pixels along each axis, without gradient: all would be read once more, and on a GPU written."""
    steps = (max(n // 16, 1) for n in x.shape[-3:-1])
    for axis, step in zip((x.ndim - 3, x.ndim - 2), steps, strict=True):
        x = lax.slice_in_dim(x, step // 2, None, step, axis)
    return lax.stop_gradient(x)


def _pixel_under(n: int, m: int) -> np.ndarray:
    """The pixel, of n on an axis, that the center of each of m output pixels lies in."""
    return (2 * np.arange(m) + 1) * n // (2 * m)


def _spatial_logits(n: int, m: int, radius: int, sigma: float) -> np.ndarray:
    """The logarithm of f along one axis, (m, window); minus infinity outside the image."""
    q = _pixel_under(n, m)[:, None] + np.arange(-radius, radius + 1)
    p = (np.arange(m)[:, None] + 0.5) * n / m - 0.5
    logits = np.where((q >= 0) & (q < n), -(((p - q) / sigma) ** 2) / 2, -np.inf)
    # Only differences count, and what is far below the largest would not fit 32 bits.
    return logits - logits.max(1, keepdims=True)


def bilateral_kernel(
    embedding: jax.Array,
    *,
    radius: int = 3,
    temperature: float | jax.Array = 1.0,
    sigma_spatial: float | jax.Array = 1.0,
) -> jax.Array:
    """The kernel of FeatUp's bilateral filter: the weight that each pixel gives to each of its neighbors.

        kernel[p, o] = softmax over o of (temperature * embedding[p] . embedding[p + o]),
                       times exp(-|o|^2 / (2 radius^2 sigma_spatial^2)), divided by its sum over o

    with offsets o of up to `radius` pixels on both axes. Beyond the edge the image is reflected about its last pixel.

    Args:
      embedding: (*batch, H, W, channels), what the guide was mapped to. The paper learns the map.
      radius: how far the kernel reaches, in pixels.
      temperature: factor of the inner products; a number or an array without axes.
      sigma_spatial: standard deviation of the spatial Gaussian in units of `radius`, as the authors' code has it; a
        number or an array without axes.

    Returns:
      (*batch, H, W, k, k), k = 2 * radius + 1, at least in float32: for each pixel, rows and columns of neighbors.

    Raises:
      ValueError: too few axes, an empty image, or a radius below 0.
      TypeError: an array that is not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> kernel = up.bilateral_kernel(jnp.zeros((2, 4, 1)), radius=1)  # one colour: the Gaussian alone
    >>> print(kernel.shape, [f"{weight:.3f}" for weight in kernel[0, 0, 0]])
    (2, 4, 3, 3) ['0.075', '0.124', '0.075']

    Source: Fu et al. 2024, arXiv:2403.10516, section 3.2, with the range kernel's inner products in place of distances.
    """
    name = "bilateral_kernel"
    embedding = _arguments.spatial_map(name, "embedding", embedding)
    radius = _arguments.number(name, "radius", radius, minimum=0)
    temperature = _arguments.shaped(name, "temperature", temperature, ())
    sigma_spatial = _arguments.shaped(name, "sigma_spatial", sigma_spatial, ())
    return _bilateral_kernel(embedding, temperature, sigma_spatial, radius)


@core(3)
def _bilateral_kernel(embedding: jax.Array, temperature: jax.Array, sigma_spatial: jax.Array, radius: int) -> jax.Array:
    embedding = _widen(embedding)
    # An image smaller than the radius is reflected again and again; one of a single pixel is repeated.
    geometry = _same_size(embedding.shape[-3:-1], 2 * radius + 1)
    logits = window_correlation(embedding, embedding, geometry, "reflect")[..., 0, :, :]
    offsets = jnp.linspace(-1, 1, 2 * radius + 1, dtype=logits.dtype) if radius else jnp.zeros(1, logits.dtype)
    squares = (offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * sigma_spatial.astype(logits.dtype) ** 2)
    logits = temperature.astype(logits.dtype) * logits
    # The softmax's own sum cancels, but for the floor: both sums are one pass.
    powers = jnp.exp(logits - lax.stop_gradient(logits.max((-2, -1), keepdims=True)))
    kernel = powers * with_axes(jnp.exp(-squares), powers.ndim)
    total, of_softmax = (a.sum((-2, -1), keepdims=True) for a in (kernel, powers))
    # The floor is the authors': where the Gaussian is zero at all pixels that the softmax chose, the kernel fades.
    return kernel / jnp.maximum(total, 1e-7 * of_softmax)


def learned_bilateral(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Enlarges a map by bicubic interpolation and filters it with a kernel predicted for each pixel, as FeatUp does.

        y[p] = sum over o of kernel[p, o] * enlarged[p + o]

    Bicubic is PyTorch's; beyond the edge the enlarged map is reflected about its last pixel.

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      kernel: (*batch, H, W, k, k), k odd, such as `bilateral_kernel` gives. The result has the size (H, W).

    Returns:
      (*batch, H, W, channels) in the dtype of `x`.

    Raises:
      ValueError: shapes that do not fit.
      TypeError: arrays that are not floating.

    Example:

    >>> import jax.numpy as jnp
    >>> import upsampling as up
    >>> kernel = jnp.zeros((8, 8, 3, 3)).at[..., 1, 1].set(1.0)  # each pixel takes itself
    >>> x = jnp.arange(16.0).reshape(4, 4, 1)
    >>> bool(jnp.allclose(up.learned_bilateral(x, kernel), up.bicubic(x, scale=2), atol=1e-5))
    True

    Source: Fu et al. 2024, arXiv:2403.10516, section 3.2, and the authors' code. They differ: the paper's sum runs over
    the pixels of the low-resolution map, the code's over those that bicubic interpolation makes of it, as here.
    """
    name = "learned_bilateral"
    x = _arguments.spatial_map(name, "x", x)
    _arguments.static_size(name, "x", x, 2)
    shape = (*x.shape[:-3], "H", "W", "k", "k")
    kernel = _arguments.shaped(name, "kernel", kernel, shape, f"the batch axes of x {x.shape} and k odd")
    window = _arguments.odd(name, "the window of kernel", kernel.shape[-2:], 2)
    if window[0] != window[1] or 0 in kernel.shape[-4:]:
        raise ValueError(
            f"{name}: kernel must be (*batch, H, W, k, k), square and not empty; got shape {kernel.shape}."
        )
    return _learned_bilateral(x, kernel)


@core()
def _learned_bilateral(x: jax.Array, kernel: jax.Array) -> jax.Array:
    size, window = kernel.shape[-4:-2], kernel.shape[-1]
    weights = _widen(kernel)[..., None, :, :]
    batch, channels = x.shape[:-3], x.shape[-1]
    images = math.prod(batch) if _arguments.is_static(*batch) else 1
    row_bytes = images * size[1] * channels * weights.dtype.itemsize
    if row_bytes * size[0] > _common.MOST_BYTES:
        tiles_of = functools.partial(Tiles.of, size[0], _common.TILE_BYTES // row_bytes)
        y = in_parts(
            lambda parts, x, weights: _learned_bilateral_in_tiles(x, weights, tiles_of(parts)),
            (x.shape[-3], size[0]),
            images,
            x.reshape(math.prod(batch), *x.shape[-3:]).astype(weights.dtype),
            weights.reshape(math.prod(batch), *weights.shape[-5:]),
        )
        return y.reshape(*batch, *size, channels).astype(x.dtype)
    large = interpolation._to_size(x, size, "cubic").astype(weights.dtype)
    return window_sum(large, weights, _same_size(size, window), "reflect").astype(x.dtype)


def _learned_bilateral_in_tiles(x: jax.Array, weights: jax.Array, tiles: Tiles) -> jax.Array:
    """(n, h, w, channels), (n, H, W, 1, k, k) -> (n, H, W, channels), by some rows at a time.

    The enlarged map is as large as the output, and so is what pads it: only some rows of it are made at once.
    """
    (height, width), window = weights.shape[1:3], weights.shape[-1]
    reach = window // 2
    mirrored = np.pad(np.arange(height), reach, mode="reflect")
    (enlarge,) = taps.operators((taps.Axis(x.shape[1], height),), "cubic", conventions.torch)
    table = enlarge.matrix()[mirrored]
    read = tiles.read(table, 2 * reach)
    columns = interpolation._to_size(x, (x.shape[1], width), "cubic")
    columns = jnp.pad(columns, [(0, 0), (0, 0), (reach, reach), (0, 0)], mode="reflect")
    geometry = _same_size((tiles.length, width), window)

    def tile(top: jax.Array, begin: jax.Array, columns: jax.Array, weights: jax.Array, matrix: jax.Array) -> jax.Array:
        kernel = lax.dynamic_slice_in_dim(weights, top, tiles.length, 1)
        low = lax.dynamic_slice_in_dim(columns, begin, read.block, 1)
        large = jnp.einsum("rh,nhwc->nrwc", matrix, low, precision=lax.Precision.HIGHEST)
        return window_sum(large, kernel, geometry, None)

    cuts = [tiles.cut(columns, 1, read.begin, read.length, own=x.shape[1] // tiles.parts), tiles.cut(weights, 1)]
    matrices = jnp.asarray(tiles.table(table, read, 2 * reach), x.dtype)
    return over_tiles(tile, tiles, cuts, [jnp.asarray(read.first, jnp.int32)], (matrices,))


def _same_size(size: tuple[int, ...], window: int) -> Geometry:
    """A window around each pixel."""
    return Geometry(size, (1, 1), (), (window, window), (1, 1), 1)


# --- guided filter ----------------------------------------------------------------------------------------------------


def guided_filter(
    x: jax.Array,
    guide: jax.Array,
    guide_low: jax.Array | None = None,
    *,
    radius: int = 1,
    epsilon: float = 1e-2,
    form: Form = "channelwise",
    average: bool = False,
    convention: Preset | Convention = "torch_align_corners",
) -> jax.Array:
    """Makes each output pixel a linear function of the guide, fitted to `x` around it: the fast guided filter.

    In a box of `2 * radius + 1` pixels around each pixel of `x`, cropped at the image's edge, a and b minimise the sum
    of `(a . guide_low + b - x)^2 + epsilon |a|^2`. They are averaged over the same box, if asked for, and enlarged by
    bilinear interpolation, and then `y = a . guide + b`.

    The defaults are those of Wu et al.'s fast guided filtering layer, with the epsilon of their networks for
    segmentation, saliency and depth. He and Sun's filter is `form="joint", average=True, convention="torch"`.

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      guide: (*batch, H, W, guide channels), of any size; the result has that size.
      guide_low: (*batch, h, w, guide channels), the guide at the size of `x`; if not given, the mean of the guide's
        pixels under each pixel of `x`.
      radius: of the box, in pixels of `x`. Wu et al. have 1 here, and 4 or 8 where they filter at full resolution.
      epsilon: the penalty on a, in squared units of the guide. Edges of the guide whose variance in the box is well
        above it are kept, those well below are smoothed away. Wu et al. have 1e-2, and 1e-4 to process images.
      form: "channelwise", each channel of `x` is fitted by its own channel of the guide, or by the guide's only one
        (Wu et al.); or "joint", each channel of `x` is fitted by all channels of the guide together (He et al. 2013,
        equation 14), which solves a system of equations as large as the guide's channels in each pixel of `x`.
      average: whether to average a and b. He and Sun do, Wu et al.'s fast layer does not.
      convention: how a and b are enlarged, as in `upsampling.resize`. Wu et al. have "torch_align_corners"; He and Sun
        enlarge on the half-pixel grid, "torch", which fits a `guide_low` that is not given or was averaged.

    Returns:
      (*batch, H, W, channels) in the dtype of `x`; half precision computes in float32.

    Raises:
      ValueError: batch axes or channels that do not fit, empty images, an unknown form, or numbers out of range.
      TypeError: arrays that are not floating, or numbers that are not static.

    Example:

    >>> import jax
    >>> import upsampling as up
    >>> guide = jax.random.uniform(jax.random.key(0), (8, 8, 1))
    >>> x = 3 * up.area(guide, (4, 4)) + 1  # linear in the guide, which brings back what was lost
    >>> bool(abs(up.guided_filter(x, guide, radius=1, epsilon=1e-6) - (3 * guide + 1)).max() < 1e-2)
    True

    Source: He and Sun 2015, arXiv:1505.00996, algorithm 2; He et al. 2013, doi:10.1109/TPAMI.2012.213; Wu et al. 2018,
    arXiv:1803.05619.
    """
    name = "guided_filter"
    x, guide = _map_and_guide(name, x, guide)
    _arguments.one_of(name, "form", form, get_args(Form))
    radius = _arguments.number(name, "radius", radius, minimum=0)
    epsilon = _arguments.width(name, "epsilon", epsilon)
    average, convention = _arguments.flag(name, "average", average), _enlarging(name, convention, x, guide)
    channels, guide_channels = x.shape[-1], guide.shape[-1]
    if form == "channelwise" and guide_channels not in (1, channels):
        raise ValueError(
            f"{name}: guide must have one channel or those of x, {channels}, for form='channelwise'; "
            f"got shape {guide.shape}. With form='joint' it may have any number."
        )
    if guide_low is not None:
        shape = (*x.shape[:-1], guide_channels)
        guide_low = _arguments.shaped(name, "guide_low", guide_low, shape, "the size of x and the channels of guide")
    radius = min(radius, max(x.shape[-3:-1]))  # beyond the image nothing counts
    return _guided_filter(x, guide, guide_low, radius, epsilon, form == "joint", average, convention)


@core((3, 4, 5, 6, 7))
def _guided_filter(
    x: jax.Array,
    guide: jax.Array,
    guide_low: jax.Array | None,
    radius: int,
    epsilon: float,
    joint: bool,
    average: bool,
    convention: Convention,
) -> jax.Array:
    mean = BoxMean(radius)
    guide, low = _widen(guide), _low_guide(guide, guide_low, x.shape[-3:-1])
    shares = None
    if joint and 1 < low.shape[-1] <= _WRITTEN_OUT_CHANNELS:
        shares, low, guide = _without_what_they_share(low, guide)
    fit = local_moments(x, guide, low, mean, joint=joint)  # what is not read of it is not computed
    if not joint:
        slope = fit.covariance / (fit.variance + epsilon)
    elif fit.variance.shape[-1] == 1:
        slope = fit.covariance / (fit.variance[..., 0] + epsilon)[..., None]
    elif shares is not None:
        slope = _slope_by_factor(fit, _widen(x), low, shares, radius, epsilon)
    else:
        # What is below the rounding of the variances says nothing: where channels of the guide are multiples of each
        # other it would decide the slope.
        trace = jnp.trace(fit.variance, axis1=-2, axis2=-1)[..., None, None] / fit.variance.shape[-1]
        least = _rounding(fit.variance) * lax.stop_gradient(trace)
        penalty = jnp.maximum(least, epsilon) * with_axes(
            jnp.eye(fit.variance.shape[-1], dtype=fit.variance.dtype), trace.ndim
        )
        system = fit.variance + penalty
        slope = _solve(system, fit.covariance, functools.partial(_eliminated, system))
    averaging = mean.of if average else None
    return apply_linear_model(fit, slope, x.dtype, mean=averaging, joint=joint, convention=convention)


def _solve(a: jax.Array, b: jax.Array, solution: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """x of a x = b; a is (..., n, n), symmetric and positive definite, and b (..., n, m)."""
    times = functools.partial(jnp.matmul, a, precision=lax.Precision.HIGHEST)
    return lax.custom_linear_solve(times, b, lambda _, b: solution(b), symmetric=True)


def _eliminated(a: jax.Array, b: jax.Array) -> jax.Array:
    """By elimination, pixel by pixel in fused loops.

    `jnp.linalg.solve` calls LAPACK, whose batches XLA shares among the threads that wait for them: on few cores they
    can all wait, for ever.
    """
    n = a.shape[-1]
    if not n:
        return b

    def eliminate(k: Any, rows: jax.Array) -> jax.Array:
        pivot = lax.dynamic_index_in_dim(rows, k, -2)
        pivot = pivot / lax.dynamic_index_in_dim(pivot, k, -1)
        others = rows - lax.dynamic_index_in_dim(rows, k, -1) * pivot
        return jnp.where(with_axes(jnp.arange(n)[:, None] == k, rows.ndim), pivot, others)

    return lax.fori_loop(0, n, eliminate, jnp.concatenate([a, b], -1))[..., n:]


def _rounding(x: jax.Array) -> float:
    """What sums of a few numbers can be off by, in units of the largest."""
    return 16 * float(jnp.finfo(x.dtype).eps)


# Steps are written out for as many channels of a guide: more take long to compile.
_WRITTEN_OUT_CHANNELS = 8


def _without_what_they_share(*guides: jax.Array) -> tuple[jax.Array, ...]:
    """Each channel of the guides less its share of the channel that varies most, which comes first and stays as it is.

    The fit is the same, if its penalty accounts for the shares. Channels that are nearly multiples of one another, as
    in a gray image, become what they differ by, exactly.

    Returns:
      The shares, (*batch, 1, 1, channels), that of the first 0, found in the first of the guides; and the guides.
    """
    pixels = _some_pixels(guides[0]) - _finite_mean(guides[0])
    pixels = jnp.where(jnp.isfinite(pixels).all(-1, keepdims=True), pixels, 0)
    place = with_axes(jnp.arange(pixels.shape[-1]), pixels.ndim)
    largest = place == jnp.argmax((pixels**2).sum((-3, -2), keepdims=True), -1, keepdims=True)

    def largest_first(a: jax.Array) -> jax.Array:
        first = jnp.where(largest, a, 0).sum(-1, keepdims=True)
        return jnp.where(place == 0, first, jnp.where(largest, a[..., :1], a))

    pixels = largest_first(pixels)
    products = (pixels[..., :1] * pixels).sum((-3, -2), keepdims=True)
    square = products[..., :1]
    shares = products / jnp.where(square == 0, 1, square)
    shares = jnp.where(place == 0, 0, _rounded(shares))
    turned = (largest_first(guide) for guide in guides)
    return shares, *(guide - shares * guide[..., :1] for guide in turned)


def _slope_by_factor(
    fit: "Moments", x: jax.Array, guide: jax.Array, shares: jax.Array, radius: int, epsilon: float
) -> jax.Array:
    """The slopes of x to the guide less what its channels share, from the triangular factor of their covariance.

    They minimise the sum of `(a . guide + b - x)^2 + epsilon |slopes of the guide itself|^2` in each box; those are a,
    but for the first channel, of which `shares . a` is taken off.

    Args:
      fit: of x to the guide. x: (*batch, h, w, channels). guide: (*batch, h, w, guide channels).

    Returns:
      (*batch, h, w, guide channels, channels).
    """
    channels = guide.shape[-1]
    unit = np.eye(channels, dtype=guide.dtype)
    first, unit = (with_axes(jnp.asarray(a), guide.ndim + 1) for a in (unit[:, :1], unit))
    penalty = math.sqrt(epsilon) * (unit - first * shares[..., None, :])
    few = _few_pixels(radius, guide.shape)
    columns = jnp.concatenate([guide, x], -1) if few else guide
    rows = box_factor(lax.stop_gradient(columns), penalty, radius)
    factor = rows[..., :channels]
    # What is below the rounding of a channel says nothing: where channels of the guide are multiples of each other it
    # would decide the slope.
    rounding = _rounding(guide) ** 2 * (factor**2).sum(-2, keepdims=True)
    factor += unit * rounding / (factor * unit).sum(-1, keepdims=True)
    system = fit.variance + (penalty[..., :, None] * penalty[..., None, :]).sum(-3)
    if few:
        return _with_slope(_eliminated(factor, rows[..., channels:]), factor, system, fit.covariance)
    return _solve(system, fit.covariance, functools.partial(_solved_by_factor, factor))


def _few_pixels(radius: int, shape: tuple[int, ...]) -> bool:
    """Whether the smallest box has few pixels for the guide's channels, and the rounding of a covariance with x tells.

    Then slopes come from the factor of the guide and x together.
    """
    return math.prod(min(radius + 1, n) for n in shape[-3:-1]) < 2 * (shape[-1] + 1)


def _solved_by_factor(factor: jax.Array, b: jax.Array) -> jax.Array:
    return _eliminated(factor, _eliminated(factor.mT, b))


@jax.custom_jvp
def _with_slope(slope: jax.Array, factor: jax.Array, system: jax.Array, covariance: jax.Array) -> jax.Array:
    """The slope, whose derivatives are those of the solution of `system x = covariance`."""
    return slope


@_with_slope.defjvp
def _(primals: Sequence[jax.Array], tangents: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (_, factor, system, _), (*_, system_dot, covariance_dot) = primals, tangents
    slope = _with_slope(*primals)
    change = covariance_dot - (system_dot[..., None] * slope[..., None, :, :]).sum(-2)
    return slope, _solve(system, change, functools.partial(_solved_by_factor, factor))


def convolutional_guided_filter(
    x: jax.Array,
    guide: jax.Array,
    guide_low: jax.Array,
    kernel: jax.Array,
    slopes: Mean,
    *,
    radius: int = 1,
    convention: Preset | Convention = "torch_align_corners",
) -> jax.Array:
    """The guided filter, channel by channel, with learned means and slopes: the convolutional form of Wu et al.

    Args:
      x, guide_low: (*batch, h, w, channels), with the same channels.
      guide: (*batch, H, W, channels).
      kernel: (3, 3, channels), the weights of the means, of pixels `radius` apart; see `dilated_mean`.
      slopes: maps covariance and variance, (*batch, h, w, 2 * channels), to the slopes, (*batch, h, w, channels).
      radius: the dilation of the means' convolution.
      convention: how slopes and intercepts are enlarged.

    Returns:
      (*batch, H, W, channels) in the dtype of `x`.

    Raises:
      ValueError: batch axes or channels that do not fit, empty images, or numbers out of range.
      TypeError: arrays that are not floating, or numbers that are not static.

    Source: Wu et al. 2018, arXiv:1803.05619, section 3.3.
    """
    name = "convolutional_guided_filter"
    x, guide = _map_and_guide(name, x, guide, channels=x.shape[-1])
    guide_low = _arguments.shaped(name, "guide_low", guide_low, x.shape, "the shape of x")
    kernel = _arguments.shaped(name, "kernel", kernel, (3, 3, x.shape[-1]), f"for x of shape {x.shape}")
    radius = _arguments.number(name, "radius", radius, minimum=0)
    convention = _enlarging(name, convention, x, guide)
    fit = _dilated_moments(x, guide, guide_low, kernel, radius)
    slope = slopes(jnp.concatenate([fit.covariance, fit.variance], axis=-1))
    return _apply_slope(*fit, slope, jnp.dtype(x.dtype), convention)


@core(4)
def _dilated_moments(x: jax.Array, guide: jax.Array, guide_low: jax.Array, kernel: jax.Array, radius: int) -> "Moments":
    return local_moments(x, guide, guide_low, DilatedMean(kernel, radius), joint=False)


@core((7, 8))
def _apply_slope(*arguments: Any) -> jax.Array:
    *moments, slope, dtype, convention = arguments
    return apply_linear_model(Moments(*moments), slope, dtype, convention=convention)


class Moments(NamedTuple):
    """Means, covariance and variance around each pixel: what the fit of `x` to the guide is computed from.

    Attributes:
      guide: (*batch, H, W, guide channels), the high-resolution guide less its image's mean.
      offset: (*batch, 1, 1, channels), the mean of the image `x`.
      mean_guide, mean_x: means of guide and x, both less their image's mean.
      covariance: of guide and x, (*batch, h, w, channels); of each channel of the guide with each of x, (*batch, h, w,
        guide channels, channels), where the fit is joint.
      variance: of the guide, (*batch, h, w, guide channels), and once more guide channels where the fit is joint.
    """

    guide: jax.Array
    offset: jax.Array
    mean_guide: jax.Array
    mean_x: jax.Array
    covariance: jax.Array
    variance: jax.Array


def local_moments(
    x: jax.Array, guide: jax.Array, guide_low: jax.Array | None, mean: "LocalMean", *, joint: bool
) -> Moments:
    """The moments of `x` and its guide under a local `mean`; arguments as in `guided_filter`, already checked.

    Covariances are means of products of deviations, since the difference of the means of large squares rounds away.
    """
    x, guide, low = _widen(x), _widen(guide), _low_guide(guide, guide_low, x.shape[-3:-1])
    # A fit does not change with the origin, but the rounding of E[ab] - E[a] E[b] does.
    origin, offset = _finite_mean(low), _finite_mean(x)
    low, x = low - origin, x - offset
    mean_guide, mean_x = mean.of(low), mean.of(x)
    if joint:
        covariance, variance = _joint_covariance(mean, low, x), _joint_covariance(mean, low, low)
    else:
        covariance, variance = mean.of_products(low, x), mean.of_products(low, low)
    return Moments(guide - origin, offset, mean_guide, mean_x, covariance, variance)


def _low_guide(guide: jax.Array, guide_low: jax.Array | None, size: tuple[int, ...]) -> jax.Array:
    """The guide at the size of the map that it guides."""
    return interpolation._to_size(_widen(guide), size, "area") if guide_low is None else _widen(guide_low)


def _joint_covariance(mean: "LocalMean", a: jax.Array, b: jax.Array) -> jax.Array:
    """The covariance of each channel of a with each of b, (*batch, h, w, channels of a, channels of b)."""
    shape = (*a.shape, b.shape[-1])
    flat = (*a.shape[:-1], a.shape[-1] * b.shape[-1])
    pairs = (jnp.broadcast_to(part, shape).reshape(flat) for part in (a[..., :, None], b[..., None, :]))
    return mean.of_products(*pairs).reshape(shape)


def apply_linear_model(
    fit: Moments,
    slope: jax.Array,
    dtype: DTypeLike,
    *,
    mean: Mean | None = None,
    joint: bool = False,
    convention: Convention,
) -> jax.Array:
    """The output `a . guide + b` for slopes a shaped as `fit.covariance`; `mean`, if given, averages a and b."""
    times = (lambda a, g: (a * g[..., None]).sum(-2)) if joint else (lambda a, g: a * g)
    intercept = fit.mean_x - times(slope, fit.mean_guide)
    parts = [slope.reshape(*slope.shape[:-2], math.prod(slope.shape[-2:])) if joint else slope, intercept]
    parts = [part if mean is None else mean(part) for part in parts]
    size = fit.guide.shape[-3:-1]
    slope_high, intercept = (interpolation._to_size(part, size, "linear", convention) for part in parts)
    if joint:
        slope_high = slope_high.reshape(*slope_high.shape[:-1], *slope.shape[-2:])
    return (times(slope_high, fit.guide) + intercept + fit.offset).astype(dtype)


def box_mean(x: jax.Array, radius: int) -> jax.Array:
    """The mean of the pixels inside the image in a box of `2 * radius + 1`; x is (*batch, H, W, channels)."""
    for axis in (x.ndim - 3, x.ndim - 2):
        window, pads = [1] * x.ndim, [(0, 0)] * x.ndim
        window[axis], pads[axis] = 2 * radius + 1, (radius, radius)
        x = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, [1] * x.ndim, pads)
    places = [np.arange(n) for n in x.shape[-3:-1]]
    rows, columns = (np.minimum(p + radius, p[-1]) - np.maximum(p - radius, 0) + 1 for p in places)
    return x / with_axes(jnp.asarray((rows[:, None] * columns)[..., None], x.dtype), x.ndim)


def dilated_mean(x: jax.Array, kernel: jax.Array, radius: int) -> jax.Array:
    """A mean of 3x3 pixels `radius` apart, weighted by kernel (3, 3, channels or 1); pixels outside do not count.

    Wu et al. 2018 use it in place of the box.
    """
    kernel, ones = kernel.astype(x.dtype), jnp.ones((*x.shape[-3:-1], 1), x.dtype)
    total, weight = jnp.zeros_like(x), jnp.zeros((*x.shape[-3:-1], kernel.shape[-1]), x.dtype)
    for row in range(3):
        for column in range(3):
            shift = ((row - 1) * radius, (column - 1) * radius)
            total += with_axes(kernel[row, column], x.ndim) * _shifted(x, shift)
            weight += with_axes(kernel[row, column], weight.ndim) * _shifted(ones, shift)
    return total / with_axes(weight, x.ndim)


class LocalMean(Protocol):
    """A weighted mean around each pixel of (*batch, H, W, channels)."""

    def of(self, x: jax.Array) -> jax.Array:
        """The mean of x."""
        ...

    def of_products(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The mean of the products of deviations, (a - mean of a) (b - mean of b)."""
        ...


class BoxMean(NamedTuple):
    """`box_mean`, and the covariance in the same box."""

    radius: int

    def of(self, x: jax.Array) -> jax.Array:
        """The mean of x."""
        return box_mean(x, self.radius)

    def of_products(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The mean of the products of deviations."""
        return box_covariance(a, b, self.radius)


class DilatedMean(NamedTuple):
    """`dilated_mean`, and the covariance with the same weights."""

    kernel: jax.Array
    radius: int

    def of(self, x: jax.Array) -> jax.Array:
        """The mean of x."""
        return dilated_mean(x, self.kernel, self.radius)

    def of_products(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The mean of the products of deviations."""
        kernel, ones = self.kernel.astype(a.dtype), jnp.ones((*a.shape[-3:-1], 1), a.dtype)
        means = self.of(a), self.of(b)
        total, weight = jnp.zeros_like(a), jnp.zeros((*a.shape[-3:-1], kernel.shape[-1]), a.dtype)
        for row in range(3):
            for column in range(3):
                shift = ((row - 1) * self.radius, (column - 1) * self.radius)
                inside, w = _shifted(ones, shift), with_axes(kernel[row, column], a.ndim)
                product = (_shifted(a, shift) - means[0]) * (_shifted(b, shift) - means[1])
                total += jnp.where(with_axes(inside, a.ndim) > 0, w * product, 0)
                weight += with_axes(kernel[row, column], weight.ndim) * inside
        return total / with_axes(weight, a.ndim)


def _shifted(x: jax.Array, shift: Sequence[int]) -> jax.Array:
    """The pixels `shift` further on each axis, zero outside the image."""
    config = [(0, 0, 0)] * (x.ndim - 3) + [(-s, s, 0) for s in shift] + [(0, 0, 0)]
    return lax.pad(x, np.zeros((), x.dtype), config)


# --- shared by the functions above ------------------------------------------------------------------------------------


def _map_and_guide(
    function: str, x: jax.Array, guide: jax.Array, channels: int | None = None
) -> tuple[jax.Array, jax.Array]:
    x = _arguments.spatial_map(function, "x", x)
    guide = _arguments.spatial_map(function, "guide", guide, channels=channels)
    if x.shape[:-3] != guide.shape[:-3]:
        raise ValueError(f"{function}: guide must have the batch axes of x, {x.shape[:-3]}; got shape {guide.shape}.")
    return x, guide


def _static_sizes(function: str, x: jax.Array, guide: jax.Array) -> None:
    for argument, given in (("x", x), ("guide", guide)):
        _arguments.static_size(function, argument, given, 2)


def _enlarging(function: str, convention: Preset | Convention, x: jax.Array, guide: jax.Array) -> Convention:
    """The convention, checked to have bilinear interpolation from the size of `x` to that of `guide`."""
    _static_sizes(function, x, guide)
    convention = conventions.get(function, convention)
    interpolation._known_method(function, "bilinear", convention, False)
    size, output = x.shape[-3:-1], guide.shape[-3:-1]
    if len(convention.roi) not in (1, 2) or convention.fitted_sizes(size, output)[0] != output:
        raise ValueError(f"{function}: convention {convention.name!r} cannot enlarge images of {size} to {output}.")
    return convention


def _widen(x: jax.Array) -> jax.Array:
    """At least float32."""
    return x.astype(accumulator(x.dtype))
