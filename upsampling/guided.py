"""Upsampling with a high-resolution guide by image filters: the joint bilateral and the guided filter."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from upsampling import _arguments, conventions, interpolation
from upsampling.conventions import Convention, Preset
from upsampling.primitives._common import accumulator, core, with_axes
from upsampling.primitives.resample import resample
from upsampling.primitives.taps import Taps
from upsampling.primitives.window_sum import Geometry, window_correlation, window_softmax, window_sum

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
    sigma_spatial = _arguments.number(name, "sigma_spatial", sigma_spatial, real=True)
    sigma_range = _arguments.number(name, "sigma_range", sigma_range, real=True)
    return _joint_bilateral(x, guide, radius, sigma_spatial, sigma_range)


@core((2, 3, 4))
def _joint_bilateral(
    x: jax.Array, guide: jax.Array, radius: int, sigma_spatial: float, sigma_range: float
) -> jax.Array:
    sizes = tuple(zip(x.shape[-3:-1], guide.shape[-3:-1], strict=True))
    # Distances do not change with the mean, but their rounding does.
    guide = _widen(guide)
    guide = (guide - lax.stop_gradient(guide.mean((-3, -2), keepdims=True))) / sigma_range
    under_centers = (Taps(m, _pixel_under(m, n)[:, None], np.ones((n, 1))) for n, m in sizes)
    low = resample(guide, list(enumerate(under_centers, guide.ndim - 3)))
    # -|a - b|^2 / 2 = a b - |b|^2 / 2 - |a|^2 / 2, whose last term is the same for all q and cancels.
    ones, squares = jnp.ones((*guide.shape[:-1], 1), guide.dtype), -0.5 * jnp.sum(low**2, -1, keepdims=True)
    queries, keys = jnp.concatenate([guide, ones], -1), jnp.concatenate([low, squares], -1)
    centers = tuple(_pixel_under(n, m) for n, m in sizes)
    geometry = Geometry.around(x.shape[-3:-1], centers, (2 * radius + 1,) * 2)
    logits = window_correlation(keys, queries, geometry, "zero")
    weights = window_softmax(logits, 2, *(_spatial_logits(n, m, radius, sigma_spatial) for n, m in sizes))
    return window_sum(x.astype(weights.dtype), weights, geometry, "zero").astype(x.dtype)


def _pixel_under(n: int, m: int) -> np.ndarray:
    """The pixel, of n on an axis, that the center of each of m output pixels lies in."""
    return (2 * np.arange(m) + 1) * n // (2 * m)


def _spatial_logits(n: int, m: int, radius: int, sigma: float) -> np.ndarray:
    """The logarithm of f along one axis, (m, window); minus infinity outside the image."""
    q = _pixel_under(n, m)[:, None] + np.arange(-radius, radius + 1)
    p = (np.arange(m)[:, None] + 0.5) * n / m - 0.5
    return np.where((q >= 0) & (q < n), -((p - q) ** 2) / (2 * sigma**2), -np.inf)


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
    kernel = jax.nn.softmax(temperature.astype(logits.dtype) * logits, axis=(-2, -1))
    kernel = kernel * with_axes(jnp.exp(-squares), kernel.ndim)
    # The floor is the authors': where the Gaussian is zero at all pixels that the softmax chose, the kernel fades.
    return kernel / jnp.maximum(kernel.sum((-2, -1), keepdims=True), 1e-7)


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
    large = interpolation._to_size(x, size, "cubic").astype(weights.dtype)
    return window_sum(large, weights, _same_size(size, window), "reflect").astype(x.dtype)


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
    epsilon = _arguments.number(name, "epsilon", epsilon, real=True)
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
    mean = functools.partial(box_mean, radius=radius)
    fit = local_moments(x, guide, guide_low, mean, joint=joint)
    if not joint:
        slope = fit.covariance / (fit.variance + epsilon)
    elif fit.variance.shape[-1] == 1:
        slope = fit.covariance / (fit.variance[..., 0] + epsilon)[..., None]
    else:
        eye = epsilon * jnp.eye(fit.variance.shape[-1], dtype=fit.variance.dtype)
        slope = jnp.linalg.solve(fit.variance + with_axes(eye, fit.variance.ndim), fit.covariance)
    return apply_linear_model(fit, slope, x.dtype, mean=mean if average else None, joint=joint, convention=convention)


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
    return local_moments(
        x, guide, guide_low, functools.partial(dilated_mean, kernel=kernel, radius=radius), joint=False
    )


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


def local_moments(x: jax.Array, guide: jax.Array, guide_low: jax.Array | None, mean: Mean, *, joint: bool) -> Moments:
    """The moments of `x` and its guide under a local `mean`; arguments as in `guided_filter`, already checked."""
    x, guide = _widen(x), _widen(guide)
    low = interpolation._to_size(guide, x.shape[-3:-1], "area") if guide_low is None else _widen(guide_low)
    # A fit does not change with the origin, but the rounding of E[ab] - E[a] E[b] does.
    origin, offset = (lax.stop_gradient(a.mean((-3, -2), keepdims=True)) for a in (low, x))
    low, x = low - origin, x - offset
    mean_guide, mean_x = mean(low), mean(x)
    if joint:
        pairs = lambda a, b: a[..., :, None] * b[..., None, :]  # noqa: E731
        flat = lambda a: a.reshape(*a.shape[:-2], -1)  # noqa: E731
        products, squares = pairs(low, x), pairs(low, low)
        covariance = mean(flat(products)).reshape(products.shape) - pairs(mean_guide, mean_x)
        variance = mean(flat(squares)).reshape(squares.shape) - pairs(mean_guide, mean_guide)
    else:
        covariance = mean(low * x) - mean_guide * mean_x
        variance = mean(low * low) - mean_guide * mean_guide
    return Moments(guide - origin, offset, mean_guide, mean_x, covariance, variance)


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
    times = (lambda a, g: jnp.einsum("...gc,...g->...c", a, g)) if joint else (lambda a, g: a * g)
    intercept = fit.mean_x - times(slope, fit.mean_guide)
    parts = [slope.reshape(*slope.shape[:-2], -1) if joint else slope, intercept]
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
