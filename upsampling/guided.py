"""Upsampling that follows a high-resolution guide by rules of image filtering: joint bilateral and guided filters."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from upsampling import _arguments, _windows, interpolation
from upsampling.conventions import Convention
from upsampling.primitives._common import accumulator
from upsampling.primitives.resample import resample
from upsampling.primitives.taps import Taps

Mean = Callable[[jax.Array], jax.Array]


# --- joint bilateral upsampling ---------------------------------------------------------------------------------------


def joint_bilateral(
    x: jax.Array,
    guide: jax.Array,
    *,
    radius: int = 2,
    sigma_spatial: float = 0.5,
    sigma_range: float = 0.1,
) -> jax.Array:
    """Averages the pixels around each output pixel, those the more that are near it and look like it in the guide.

        y[p] = sum_q f(|p - q|) g(|guide[p] - guide[q]|) x[q] / sum_q f(|p - q|) g(|guide[p] - guide[q]|)

    over the `(2 * radius + 1)`-squared pixels q of `x` around p, those outside the image left out. f is a Gaussian of
    the distance in pixels of `x`, where p has its place on the half-pixel grid; g one of the distance of the guide's
    values. The guide is read, as in the paper, at p and at the single pixel under the middle of q (where that falls
    between two, as for even factors, at the later one).

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      guide: (*batch, H, W, guide channels), of any size; the result has that size.
      radius: pixels of `x` to each side of the middle one.
      sigma_spatial: standard deviation of f, in pixels of `x`.
      sigma_range: standard deviation of g, in units of the guide. The paper's 0.1 is for images in [0, 1].

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
    x, guide = _pair(name, x, guide)
    radius = _arguments.number(name, "radius", radius, minimum=0)
    sigma_spatial = _arguments.number(name, "sigma_spatial", sigma_spatial, real=True)
    sigma_range = _arguments.number(name, "sigma_range", sigma_range, real=True)
    return _joint_bilateral(x, guide, radius, sigma_spatial, sigma_range)


@functools.partial(jax.jit, static_argnums=(2, 3, 4), inline=True)
def _joint_bilateral(x, guide, radius: int, sigma_spatial: float, sigma_range: float):
    sizes = tuple(zip(x.shape[-3:-1], guide.shape[-3:-1], strict=True))
    # Distances do not change with the mean, but their rounding does.
    guide = _widen(guide)
    guide = (guide - lax.stop_gradient(guide.mean((-3, -2), keepdims=True))) / sigma_range
    middles = (Taps(m, _windows.under(m, n)[:, None], np.ones((n, 1))) for n, m in sizes)
    low = resample(guide, list(enumerate(middles, guide.ndim - 3)))
    # -|a - b|^2 / 2 = a b - |b|^2 / 2 - |a|^2 / 2, whose last term is the same for all q and cancels.
    ones, squares = jnp.ones((*guide.shape[:-1], 1), guide.dtype), -0.5 * jnp.sum(low**2, -1, keepdims=True)
    centres = tuple(_windows.under(n, m) for n, m in sizes)
    logits = _windows.products(
        jnp.concatenate([guide, ones], -1), jnp.concatenate([low, squares], -1), centres, 2 * radius + 1
    )
    rows, columns = (_spatial_logits(n, m, radius, sigma_spatial) for n, m in sizes)
    weights = _windows.softmax(logits, rows, columns)
    return _windows.reassemble(x, weights, centres)


def _spatial_logits(n: int, m: int, radius: int, sigma: float) -> np.ndarray:
    """The logarithm of f along one axis, (m, window); minus infinity outside the image."""
    q = _windows.under(n, m)[:, None] + np.arange(-radius, radius + 1)
    p = (np.arange(m)[:, None] + 0.5) * n / m - 0.5
    return np.where((q >= 0) & (q < n), -((p - q) ** 2) / (2 * sigma**2), -np.inf)


def bilateral_kernel(
    embedding: jax.Array,
    *,
    radius: int = 3,
    temperature: float | jax.Array = 1.0,
    sigma_spatial: float | jax.Array = 1.0,
) -> jax.Array:
    """The kernel of FeatUp's bilateral filter: how much each pixel takes from each of its neighbours.

        kernel[p, o] = softmax over o of (temperature * embedding[p] . embedding[p + o]),
                       times exp(-|o|^2 / (2 radius^2 sigma_spatial^2)), divided by its sum over o

    with offsets o of up to `radius` pixels on both axes. Beyond the edge the image is mirrored about its last pixel.

    Args:
      embedding: (*batch, H, W, channels), what the guide was mapped to. The paper learns the map.
      radius: how far the kernel reaches, in pixels.
      temperature: factor of the inner products; a number or an array without axes.
      sigma_spatial: standard deviation of the spatial Gaussian in units of `radius`, as the authors' code has it; a
        number or an array without axes.

    Returns:
      (*batch, H, W, k, k), k = 2 * radius + 1, at least in float32: for each pixel, rows and columns of neighbours.

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
    embedding = _map(name, "embedding", embedding)
    radius = _arguments.number(name, "radius", radius, minimum=0)
    return _bilateral_kernel(embedding, _scalar(name, temperature), _scalar(name, sigma_spatial), radius)


def _scalar(function: str, given: Any) -> jax.Array:
    given = _arguments.array(function, "temperature and sigma_spatial", given)
    if given.ndim:
        raise ValueError(f"{function}: temperature and sigma_spatial must have no axes; got shape {given.shape}.")
    return given


@functools.partial(jax.jit, static_argnums=3, inline=True)
def _bilateral_kernel(embedding, temperature, sigma_spatial, radius: int):
    embedding = _widen(embedding)
    window = 2 * radius + 1
    # Beyond the edge the image is mirrored; again and again where it is smaller than the radius, one pixel is repeated.
    centres = tuple(np.arange(n) for n in embedding.shape[-3:-1])
    logits = _windows.products(embedding, embedding, centres, window, edge="reflect")[..., 0, :, :]
    offsets = jnp.linspace(-1, 1, window, dtype=logits.dtype) if radius else jnp.zeros(1, logits.dtype)
    squares = (offsets[:, None] ** 2 + offsets**2) / (2 * sigma_spatial.astype(logits.dtype) ** 2)
    kernel = jax.nn.softmax(temperature.astype(logits.dtype) * logits, axis=(-2, -1)) * jnp.exp(-squares)
    # The floor is the authors': where the Gaussian cuts off all that the softmax chose, the kernel fades.
    return kernel / jnp.maximum(kernel.sum((-2, -1), keepdims=True), 1e-7)


def learned_bilateral(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Enlarges a map bicubically and filters it by the kernel predicted for each pixel: FeatUp's upsampling.

        y[p] = sum over o of kernel[p, o] * enlarged[p + o]

    Bicubic is PyTorch's; beyond the edge the enlarged map is mirrored about its last pixel.

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
    x, kernel = _map(name, "x", x), _arguments.array(name, "kernel", kernel)
    window = kernel.shape[-1] if kernel.ndim else 0
    if kernel.ndim != x.ndim + 1 or kernel.shape[-2] != window or window % 2 != 1 or 0 in kernel.shape:
        raise ValueError(
            f"{name}: kernel must be (*batch, H, W, k, k) with k odd and the batch axes of x {x.shape}; "
            f"got shape {kernel.shape}."
        )
    if kernel.shape[:-4] != x.shape[:-3]:
        raise ValueError(f"{name}: kernel must have the batch axes of x, {x.shape[:-3]}; got shape {kernel.shape}.")
    return _learned_bilateral(x, kernel)


@functools.partial(jax.jit, inline=True)
def _learned_bilateral(x, kernel):
    size = kernel.shape[-4:-2]
    centres = tuple(np.arange(n) for n in size)
    kernel = _widen(kernel)[..., None, :, :]
    return _windows.reassemble(interpolation.bicubic(x, size), kernel, centres, edge="reflect")


# --- guided filter ----------------------------------------------------------------------------------------------------


def guided_filter(
    x: jax.Array,
    guide: jax.Array,
    guide_low: jax.Array | None = None,
    *,
    radius: int = 2,
    epsilon: float = 1e-2,
    form: str = "joint",
    average: bool = True,
    convention: str | Convention = "torch",
) -> jax.Array:
    """Makes each output pixel a linear function of the guide, fitted to `x` around it: the fast guided filter.

    Around each pixel of `x`, in a box of `2 * radius + 1` pixels (less at the image's edge), the a and b are found that
    minimise `sum (a . guide_low + b - x)^2 + epsilon |a|^2`; a and b are averaged over the same box, enlarged
    bilinearly, and `y = a . guide + b`.

    Args:
      x: (*batch, h, w, channels), any number of batch axes, none included.
      guide: (*batch, H, W, guide channels), of any size; the result has that size.
      guide_low: (*batch, h, w, guide channels), the guide at the size of `x`; if not given, the mean of the guide's
        pixels under each pixel of `x`.
      radius: of the box, in pixels of `x`.
      epsilon: how much a steep a costs, in squared units of the guide. Edges of the guide whose variance in the box is
        well above it are taken over, those well below are smoothed away.
      form: "joint", all channels of the guide together explain each channel of `x` (He et al. 2013, equation 14; a
        system of equations as large as the guide's channels is solved in each pixel of `x`); or "channelwise", each
        channel of `x` is explained by its own channel of the guide, or by the guide's only one (Wu et al. 2018).
      average: whether to average a and b. He and Sun do, Wu et al. do not.
      convention: how a and b are enlarged, as in `upsampling.resize`. Wu et al. have "torch_align_corners".

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
    x, guide = _pair(name, x, guide)
    _arguments.one_of(name, "form", form, ("joint", "channelwise"))
    channels, guide_channels = x.shape[-1], guide.shape[-1]
    if form == "channelwise" and guide_channels not in (1, channels):
        raise ValueError(
            f"{name}: guide must have one channel or those of x, {channels}, for form='channelwise'; "
            f"got shape {guide.shape}."
        )
    if guide_low is not None:
        guide_low = _arguments.array(name, "guide_low", guide_low)
        if guide_low.shape != (*x.shape[:-1], guide_channels):
            raise ValueError(
                f"{name}: guide_low must have the size of x and the channels of guide, "
                f"{(*x.shape[:-1], guide_channels)}; got shape {guide_low.shape}."
            )
    radius = _arguments.number(name, "radius", radius, minimum=0)
    epsilon = _arguments.number(name, "epsilon", epsilon, real=True)
    return _guided_filter(x, guide, guide_low, radius, epsilon, form == "joint", bool(average), convention)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6, 7), inline=True)
def _guided_filter(x, guide, guide_low, radius: int, epsilon: float, joint: bool, average: bool, convention):
    mean = functools.partial(box_mean, radius=radius)
    fit = local_moments(x, guide, guide_low, mean, joint=joint)
    if not joint:
        slope = fit.covariance / (fit.variance + epsilon)
    elif fit.variance.shape[-1] == 1:
        slope = fit.covariance / (fit.variance[..., 0] + epsilon)[..., None]
    else:
        eye = epsilon * jnp.eye(fit.variance.shape[-1], dtype=fit.variance.dtype)
        slope = jnp.linalg.solve(fit.variance + eye, fit.covariance)
    return follow(fit, slope, x.dtype, mean=mean if average else None, joint=joint, convention=convention)


def guided_filter_by(
    x: jax.Array,
    guide: jax.Array,
    guide_low: jax.Array,
    kernel: jax.Array,
    slopes: Mean,
    *,
    radius: int,
    convention: str | Convention = "torch",
) -> jax.Array:
    """The guided filter, channel by channel, whose means and slopes are learned: the convolutional form of Wu et al.

    Args:
      x, guide_low: (*batch, h, w, channels), with the same channels.
      guide: (*batch, H, W, channels).
      kernel: (3, 3, channels), the weights of the means, taken of pixels `radius` apart; see `dilated_mean`.
      slopes: maps covariance and variance, (*batch, h, w, 2 * channels), to the slopes, (*batch, h, w, channels).
      convention: how slopes and intercepts are enlarged.

    Returns:
      (*batch, H, W, channels) in the dtype of `x`.

    Source: Wu et al. 2018, arXiv:1803.05619, section 3.3.
    """
    mean = functools.partial(dilated_mean, kernel=kernel, radius=radius)
    fit = local_moments(x, guide, guide_low, mean, joint=False)
    slope = slopes(jnp.concatenate([fit.covariance, fit.variance], axis=-1))
    return follow(fit, slope, x.dtype, convention=convention)


class Moments(NamedTuple):
    """What a linear fit of `x` to the guide needs to know of each pixel's neighbourhood.

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
    low = interpolation.area(guide, x.shape[-3:-1]) if guide_low is None else _widen(guide_low)
    # A fit does not change with the origin, but the rounding of E[ab] - E[a] E[b] does.
    centre, offset = (lax.stop_gradient(a.mean((-3, -2), keepdims=True)) for a in (low, x))
    low, x = low - centre, x - offset
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
    return Moments(guide - centre, offset, mean_guide, mean_x, covariance, variance)


def follow(
    fit: Moments,
    slope: jax.Array,
    dtype: Any,
    *,
    mean: Mean | None = None,
    joint: bool = False,
    convention: str | Convention = "torch",
) -> jax.Array:
    """The output `a . guide + b` of slopes a, shaped as `fit.covariance`; `mean`, if given, averages a and b."""
    times = (lambda a, g: jnp.einsum("...gc,...g->...c", a, g)) if joint else (lambda a, g: a * g)
    intercept = fit.mean_x - times(slope, fit.mean_guide)
    parts = [slope.reshape(*slope.shape[:-2], -1) if joint else slope, intercept]
    parts = [part if mean is None else mean(part) for part in parts]
    size = fit.guide.shape[-3:-1]
    slope_high, intercept = (interpolation.bilinear(part, size, convention=convention) for part in parts)
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
    return x / jnp.asarray((rows[:, None] * columns)[..., None], x.dtype)


def dilated_mean(x: jax.Array, kernel: jax.Array, radius: int) -> jax.Array:
    """A mean of 3x3 pixels `radius` apart, weighed by kernel (3, 3, channels or 1) and divided by its sum in the image.

    Wu et al. 2018 put it in the box's place. Pixels outside the image do not count.
    """
    ones = jnp.ones((*x.shape[-3:-1], 1), x.dtype)
    total, weight = jnp.zeros_like(x), jnp.zeros((*x.shape[-3:-1], kernel.shape[-1]), x.dtype)
    for row in range(3):
        for column in range(3):
            shift = ((row - 1) * radius, (column - 1) * radius)
            total += kernel[row, column] * _shifted(x, shift)
            weight += kernel[row, column] * _shifted(ones, shift)
    return total / weight


def _shifted(x: jax.Array, shift: Sequence[int]) -> jax.Array:
    """What stands `shift` pixels further on, zero outside the image."""
    config = [(0, 0, 0)] * (x.ndim - 3) + [(-s, s, 0) for s in shift] + [(0, 0, 0)]
    return lax.pad(x, np.zeros((), x.dtype), config)


# --- checks shared by the functions above -----------------------------------------------------------------------------


def _map(function: str, argument: str, given: Any) -> jax.Array:
    given = _arguments.array(function, argument, given)
    if given.ndim < 3 or 0 in given.shape[-3:]:
        raise ValueError(
            f"{function}: {argument} must be (*batch, height, width, channels), none of the last three empty; "
            f"got shape {given.shape}."
        )
    return given


def _pair(function: str, x: Any, guide: Any) -> tuple[jax.Array, jax.Array]:
    x, guide = _map(function, "x", x), _map(function, "guide", guide)
    if x.shape[:-3] != guide.shape[:-3]:
        raise ValueError(f"{function}: guide must have the batch axes of x, {x.shape[:-3]}; got shape {guide.shape}.")
    return x, guide


def _widen(x: jax.Array) -> jax.Array:
    """At least float32."""
    return x.astype(accumulator(x.dtype))
