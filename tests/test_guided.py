"""Joint bilateral and guided filters, against their formulas written out in float64 NumPy and in PyTorch."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import upsampling as up
from tests.optional import F, torch
from upsampling import guided
from upsampling.primitives import _common


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def uniform(seed, *shape):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def first(x):
    return torch.tensor(np.moveaxis(np.asarray(x, np.float64), -1, -3))


def last(x):
    return np.moveaxis(x.detach().numpy(), -3, -1)


def compare(ours, theirs, *arrays, atol=1e-4):
    """Compares values and vector-Jacobian products with PyTorch's, for a fixed cotangent."""
    leaves = [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in arrays]
    expected = theirs(*leaves)
    cotangent = normal(9, *expected.shape)

    @jax.jit
    def pulled(cotangent, *arrays):
        y, pull = jax.vjp(ours, *arrays)
        return y, pull(cotangent)

    y, given = pulled(cotangent, *arrays)
    np.testing.assert_allclose(y, expected.detach(), atol=atol)
    for a, b in zip(given, torch.autograd.grad(expected, leaves, torch.tensor(cotangent).double()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * max(1.0, float(abs(b).max())))


# --- joint bilateral: Kopf et al. 2007, pixel by pixel ----------------------------------------------------------------


def kopf(x, guide, radius, sigma_spatial, sigma_range):
    x, guide = np.asarray(x, np.float64), np.asarray(guide, np.float64)
    (h, w, _), (height, width, _) = x.shape, guide.shape
    y = np.zeros((height, width, x.shape[-1]))
    for i in range(height):
        for j in range(width):
            # p in pixels of x, the image's edges being those of both.
            p = (i + 0.5) * h / height - 0.5, (j + 0.5) * w / width - 0.5
            total = 0.0
            for a in range(int(np.floor(p[0] + 0.5)) - radius, int(np.floor(p[0] + 0.5)) + radius + 1):
                for b in range(int(np.floor(p[1] + 0.5)) - radius, int(np.floor(p[1] + 0.5)) + radius + 1):
                    if 0 <= a < h and 0 <= b < w:
                        under = guide[int((a + 0.5) * height / h), int((b + 0.5) * width / w)]
                        f = np.exp(-((p[0] - a) ** 2 + (p[1] - b) ** 2) / (2 * sigma_spatial**2))
                        g = np.exp(-((guide[i, j] - under) ** 2).sum() / (2 * sigma_range**2))
                        y[i, j] += f * g * x[a, b]
                        total += f * g
            y[i, j] /= total
    return y


@pytest.mark.parametrize(
    ("size", "output", "radius"), [((3, 4), (6, 8), 2), ((3, 4), (9, 16), 1), ((5, 3), (7, 8), 2), ((1, 1), (2, 3), 1)]
)
def test_joint_bilateral_is_kopfs_formula(size, output, radius):
    x, guide = normal(0, *size, 2), uniform(1, *output, 3)
    y = up.joint_bilateral(x, guide, radius=radius, sigma_spatial=0.7, sigma_range=0.3)
    np.testing.assert_allclose(y, kopf(x, guide, radius, 0.7, 0.3), atol=1e-4)


def torch_kopf(x, guide):
    """For factor 2, radius 1, both sigmas a half, with PyTorch's gradients: windows by unfolding."""
    h, w, _ = x.shape

    def windows(a):
        taps = F.unfold(a.permute(2, 0, 1)[None], 3, padding=1).reshape(1, -1, h, w)
        return F.interpolate(taps, scale_factor=2, mode="nearest")[0].reshape(a.shape[-1], 9, 2 * h, 2 * w)

    differ = windows(guide[1::2, 1::2]) - guide.permute(2, 0, 1)[:, None]
    inside = windows(torch.ones(h, w, 1, dtype=x.dtype))[0]
    offsets = torch.arange(-1, 2)
    place = torch.tensor([-0.25, 0.25])
    rows = (place.repeat(h)[:, None] - offsets) ** 2
    columns = (place.repeat(w)[:, None] - offsets) ** 2
    squares = (rows.T[:, None, :, None] + columns.T[None, :, None, :]).reshape(9, 2 * h, 2 * w)
    weights = inside * torch.exp(-2 * squares - 2 * (differ**2).sum(0))
    return ((weights / weights.sum(0)) * windows(x)).sum(1).permute(1, 2, 0)


def test_joint_bilateral_gradients():
    x, guide = normal(0, 3, 4, 2), uniform(1, 6, 8, 3)
    ours = functools.partial(up.joint_bilateral, radius=1, sigma_spatial=0.5, sigma_range=0.5)
    compare(ours, torch_kopf, x, guide)


def test_joint_bilateral_keeps_what_it_must():
    x, guide = normal(0, 4, 5, 2), uniform(1, 8, 10, 3)
    y = up.joint_bilateral(x, guide)
    # An average: constants stay, and the range is kept.
    np.testing.assert_allclose(up.joint_bilateral(np.full_like(x, 3), guide), 3, atol=1e-5)
    assert y.min() >= x.min() - 1e-5
    assert y.max() <= x.max() + 1e-5
    # The guide's origin does not matter, nor its unit with sigma_range in it. float32 keeps 4 digits beside 1000.
    np.testing.assert_allclose(up.joint_bilateral(x, guide + 1000), y, atol=5e-3)
    np.testing.assert_allclose(up.joint_bilateral(x, 255 * guide, sigma_range=25.5), y, atol=1e-4)


# --- FeatUp's bilateral filter ----------------------------------------------------------------------------------------


def torch_kernel(embedding, radius, temperature, sigma):
    """(H, W, channels) to (H, W, k, k), by unfolding."""
    k, (height, width, channels) = 2 * radius + 1, embedding.shape
    mirrored = F.pad(embedding.permute(2, 0, 1)[None], [radius] * 4, mode="reflect")
    windows = F.unfold(mirrored, k).reshape(channels, k * k, height, width)
    ranges = torch.softmax(temperature * torch.einsum("cphw,hwc->hwp", windows, embedding), -1)
    steps = torch.arange(-radius, radius + 1, dtype=embedding.dtype) / radius
    gaussian = torch.exp(-(steps[:, None] ** 2 + steps**2) / (2 * sigma**2)).reshape(-1)
    kernel = ranges * gaussian
    return (kernel / kernel.sum(-1, keepdim=True)).reshape(height, width, k, k)


def torch_filter(x, kernel):
    """(h, w, c), (H, W, k, k) to (H, W, c)."""
    height, width, k, _ = kernel.shape
    large = F.interpolate(x.permute(2, 0, 1)[None], (height, width), mode="bicubic")
    windows = F.unfold(F.pad(large, [k // 2] * 4, mode="reflect"), k).reshape(x.shape[-1], k, k, height, width)
    return torch.einsum("cijhw,hwij->hwc", windows, kernel)


@pytest.mark.parametrize(("size", "radius"), [((5, 6), 3), ((4, 7), 2)])
def test_bilateral_kernel(size, radius):
    embedding, temperature, sigma = normal(0, *size, 3), np.float32(0.7), np.float32(0.8)

    def ours(e, t, s):
        return up.bilateral_kernel(e, radius=radius, temperature=t, sigma_spatial=s)

    def theirs(e, t, s):
        return torch_kernel(e, radius, t, s)

    compare(ours, theirs, embedding, temperature, sigma, atol=1e-5)


def test_bilateral_kernel_fades_where_the_gaussian_leaves_nothing():
    """Without the floor it would be divided by zero."""
    e = jnp.array([[[1.0], [2.0]]])  # the softmax of the first pixel chooses the second
    kernel = up.bilateral_kernel(e, radius=1, temperature=1e4, sigma_spatial=0.05)
    np.testing.assert_array_equal(kernel[0, 0], 0)


def test_bilateral_kernel_fades_by_the_share_that_the_softmax_leaves_the_gaussian():
    """The floor is of the softmax's weights times the Gaussian, here some 1.5e-8, and not of the exponentials."""
    e = jnp.full((3, 3, 1), 30.0).at[1, 1].set(1)
    kernel = up.bilateral_kernel(e, radius=1, sigma_spatial=0.17)[1, 1]
    logits, gaussian = np.full((3, 3), 30.0), np.exp(-np.array([[2, 1, 2], [1, 0, 1], [2, 1, 2]]) / (2 * 0.17**2))
    logits[1, 1] = 1
    shares = np.exp(logits) / np.exp(logits).sum() * gaussian
    assert shares.sum() < 1e-7 < (np.exp(logits - 30) * gaussian).sum()
    np.testing.assert_allclose(kernel, shares / 1e-7, rtol=5e-6)


def test_bilateral_kernel_of_tiny_images():
    # Mirrored about the last pixel, again and again; PyTorch refuses where the radius reaches the size.
    e = normal(0, 2, 1, 3)
    kernel = up.bilateral_kernel(e, radius=3)
    mirrored = np.pad(e, [(3, 3), (3, 3), (0, 0)], mode="reflect")
    logits = np.einsum("ijc,c->ij", mirrored[0:7, 0:7], e[0, 0])
    steps = np.linspace(-1, 1, 7)
    weights = np.exp(logits - (steps[:, None] ** 2 + steps**2) / 2)
    np.testing.assert_allclose(kernel[0, 0], weights / weights.sum(), atol=1e-5)


@pytest.mark.parametrize(("size", "output", "window"), [((3, 4), (6, 12), 5), ((4, 3), (7, 5), 3)])
def test_learned_bilateral(size, output, window):
    x, kernel = normal(0, *size, 3), normal(1, *output, window, window)
    compare(up.learned_bilateral, torch_filter, x, kernel)


HE = {"form": "joint", "average": True, "convention": "torch"}  # He and Sun's; the defaults are Wu et al.'s

# --- guided filter: least squares, window by window -------------------------------------------------------------------


def he(x, guide, low, radius, epsilon, *, average, align):
    """Every channel of x explained by all channels of the guide, by ridge regression in each window."""
    x, guide, low = (np.asarray(a, np.float64) for a in (x, guide, low))
    h, w, c = x.shape
    g = guide.shape[-1]
    slopes, intercepts = np.zeros((h, w, g, c)), np.zeros((h, w, c))
    box = lambda i, j: np.s_[max(i - radius, 0) : i + radius + 1, max(j - radius, 0) : j + radius + 1]  # noqa: E731
    for i in range(h):
        for j in range(w):
            values, outputs = low[box(i, j)].reshape(-1, g), x[box(i, j)].reshape(-1, c)
            # min |A a + b - y|^2 / n + epsilon |a|^2, solved as an ordinary least squares problem
            n = len(values)
            design = np.block([[values, np.ones((n, 1))], [np.sqrt(n * epsilon) * np.eye(g), np.zeros((g, 1))]])
            solution = np.linalg.lstsq(design, np.concatenate([outputs, np.zeros((g, c))]), rcond=None)[0]
            slopes[i, j], intercepts[i, j] = solution[:-1], solution[-1]
    parts = [slopes.reshape(h, w, -1), intercepts]
    if average:
        parts = [np.array([[p[box(i, j)].mean((0, 1)) for j in range(w)] for i in range(h)]) for p in parts]
    large = [
        last(F.interpolate(first(p)[None], guide.shape[:2], mode="bilinear", align_corners=align))[0] for p in parts
    ]
    return np.einsum("ijgc,ijg->ijc", large[0].reshape(*guide.shape[:2], g, c), guide) + large[1]


@pytest.mark.parametrize(("guide_channels", "average"), [(3, True), (3, False), (1, True)])
def test_guided_filter_is_a_regression_in_each_window(guide_channels, average):
    x, guide = normal(0, 5, 4, 2), uniform(1, 10, 12, guide_channels)
    low = last(F.adaptive_avg_pool2d(first(guide), (5, 4)))
    y = up.guided_filter(x, guide, radius=1, epsilon=0.01, **HE | {"average": average})
    np.testing.assert_allclose(y, he(x, guide, low, 1, 0.01, average=average, align=False), atol=1e-4)


def test_guided_filter_with_its_own_low_resolution_guide_and_corners():
    x, guide, low = normal(0, 4, 5, 2), uniform(1, 7, 9, 2), uniform(2, 4, 5, 2)
    y = up.guided_filter(x, guide, low, radius=2, epsilon=0.05, **HE | {"convention": "torch_align_corners"})
    np.testing.assert_allclose(y, he(x, guide, low, 2, 0.05, average=True, align=True), atol=1e-4)


@pytest.mark.parametrize("guide_channels", [1, 3])
def test_channelwise_guided_filter(guide_channels):
    """Each channel alone is a joint fit of one channel to one."""
    x, guide = normal(0, 5, 4, 3), uniform(1, 10, 12, guide_channels)
    low = last(F.adaptive_avg_pool2d(first(guide), (5, 4)))
    y = up.guided_filter(x, guide, radius=1, epsilon=0.01, convention="torch")
    for c in range(3):
        part = np.s_[..., c % guide_channels : c % guide_channels + 1]
        expected = he(x[..., c : c + 1], guide[part], low[part], 1, 0.01, average=False, align=False)
        np.testing.assert_allclose(y[..., c : c + 1], expected, atol=1e-4)


def torch_fast_guided(x, guide, radius, epsilon, average=True, align=False):
    """The covariance form, every guide channel for its channel of x."""
    x, guide = x.permute(2, 0, 1)[None], guide.permute(2, 0, 1)[None]
    mean = lambda a: F.avg_pool2d(a, 2 * radius + 1, 1, radius, count_include_pad=False)  # noqa: E731
    low = F.adaptive_avg_pool2d(guide, x.shape[-2:])
    a = (mean(low * x) - mean(low) * mean(x)) / (mean(low * low) - mean(low) ** 2 + epsilon)
    b = mean(x) - a * mean(low)
    a, b = (mean(p) if average else p for p in (a, b))
    a, b = (F.interpolate(p, guide.shape[-2:], mode="bilinear", align_corners=align) for p in (a, b))
    return (a * guide + b)[0].permute(1, 2, 0)


def test_guided_filters_defaults_are_wus():
    """The fast layer: radius 1, no average, corners aligned, with the epsilon of segmentation."""
    theirs = functools.partial(torch_fast_guided, radius=1, epsilon=1e-2, average=False, align=True)
    compare(up.guided_filter, theirs, normal(0, 5, 4, 2), uniform(1, 10, 12, 2))


def torch_convolutional(x, guide, low, kernel, radius):
    """Wu et al.'s form, its slopes made of covariance and variance by a fixed function."""
    x, guide, low = (a.permute(2, 0, 1)[None] for a in (x, guide, low))
    weight = kernel.permute(2, 0, 1)[:, None]
    conv = functools.partial(F.conv2d, weight=weight, padding=radius, dilation=radius, groups=x.shape[1])
    mean = lambda a: conv(a) / conv(torch.ones_like(x))  # noqa: E731
    covariance, variance = mean(low * x) - mean(low) * mean(x), mean(low * low) - mean(low) ** 2
    a = covariance + 2 * variance
    b = mean(x) - a * mean(low)
    a, b = (F.interpolate(p, guide.shape[-2:], mode="bilinear", align_corners=True) for p in (a, b))
    return (a * guide + b)[0].permute(1, 2, 0)


def test_convolutional_guided_filter():
    def slopes(moments):
        covariance, variance = jnp.split(moments, 2, -1)
        return covariance + 2 * variance

    ours = functools.partial(guided.convolutional_guided_filter, slopes=slopes, radius=2)
    theirs = functools.partial(torch_convolutional, radius=2)
    arrays = normal(0, 5, 4, 2), uniform(1, 10, 12, 2), uniform(2, 5, 4, 2), uniform(3, 3, 3, 2)
    compare(ours, theirs, *arrays)


def test_guided_filter_gradients():
    x, guide = normal(0, 5, 4, 2), uniform(1, 10, 12, 2)
    ours = functools.partial(up.guided_filter, radius=1, epsilon=0.05, **HE | {"form": "channelwise"})
    theirs = functools.partial(torch_fast_guided, radius=1, epsilon=0.05)
    compare(ours, theirs, x, guide)
    # One channel, where both forms are the same.
    ours = functools.partial(up.guided_filter, radius=1, epsilon=0.05, **HE)
    compare(ours, theirs, x[..., :1], guide[..., :1])

    def joint(x, guide, channels, radius):
        # The same as a fit to more channels, the others always zero.
        more = jnp.concatenate([guide, *[jnp.zeros_like(guide)] * (channels - 1)], -1)
        return up.guided_filter(x, more, radius=radius, epsilon=0.05, **HE)

    # By the factor of guide and x, by that of the guide, and by elimination.
    for channels, radius in ((2, 1), (2, 2), (9, 1)):
        theirs = functools.partial(torch_fast_guided, radius=radius, epsilon=0.05)
        compare(functools.partial(joint, channels=channels, radius=radius), theirs, x[..., :1], guide[..., :1])


@pytest.mark.parametrize("radius", [1, 3])
def test_second_derivatives_of_joint_guided_filters(radius):
    """Against differences of the gradient: the system is solved by other factors than those that are differentiated."""
    x, guide = normal(0, 5, 4, 2), uniform(1, 5, 4, 3)
    joint = functools.partial(up.guided_filter, radius=radius, epsilon=0.01, form="joint")
    with jax.enable_x64(True):
        point, direction = (jnp.asarray(a, float) for a in (guide, uniform(2, 5, 4, 3)))
        slope = jax.jit(jax.grad(lambda g: jnp.sum(jnp.sin(joint(jnp.asarray(x, float), g)))))
        expected = (slope(point + 1e-5 * direction) - slope(point - 1e-5 * direction)) / 2e-5
        given = jax.jit(lambda p, d: jax.jvp(slope, (p,), (d,))[1])(point, direction)
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(given, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("guide_channels", [2, 9])
def test_systems_of_equations_are_solved_without_lapack(guide_channels):
    """Its batches are shared among the threads that wait for them: on two cores programs waited for ever."""
    x, guide = normal(0, 5, 4, 2), uniform(1, 5, 4, guide_channels)
    joint = functools.partial(up.guided_filter, radius=3, epsilon=0.01, **HE)
    program = jax.jit(lambda x, guide: jax.vjp(joint, x, guide)[1](x)).lower(x, guide).as_text()
    assert "lapack" not in program
    expected = he(x, guide, guide, 3, 0.01, average=True, align=False)
    np.testing.assert_allclose(joint(x, guide), expected, atol=1e-4)


def test_guided_filter_far_from_the_origin():
    x, guide = normal(0, 5, 4, 2), uniform(1, 10, 12, 3)
    y = up.guided_filter(x, guide, **HE)
    np.testing.assert_allclose(up.guided_filter(x, guide + 100, **HE), y, atol=1e-3)
    np.testing.assert_allclose(up.guided_filter(x + 100, guide, **HE) - 100, y, atol=1e-3)


def test_means_leave_out_what_is_outside():
    x = normal(0, 2, 5, 4, 3)
    for radius in (0, 1, 4, 7):
        expected = F.avg_pool2d(F.pad(first(x), [radius] * 4), 2 * radius + 1, 1)
        inside = F.avg_pool2d(F.pad(torch.ones(1, 1, 5, 4, dtype=torch.float64), [radius] * 4), 2 * radius + 1, 1)
        np.testing.assert_allclose(guided.box_mean(jnp.asarray(x), radius), last(expected / inside), atol=1e-5)
    kernel = uniform(1, 3, 3, 3)
    weight = first(kernel)[:, None]
    for radius in (1, 2, 6):
        conv = functools.partial(F.conv2d, weight=weight, padding=radius, dilation=radius, groups=3)
        expected = conv(first(x)) / conv(torch.ones(1, 3, 5, 4, dtype=torch.float64))
        ours = guided.dilated_mean(jnp.asarray(x), jnp.asarray(kernel), radius)
        np.testing.assert_allclose(ours, last(expected), atol=1e-5)


# --- all of them ------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "joint_bilateral": lambda x, guide: up.joint_bilateral(x, guide, radius=1, sigma_range=0.5),
    "guided_filter": lambda x, guide: up.guided_filter(x, guide, **HE),
    "channelwise": lambda x, guide: up.guided_filter(x, guide),
    "learned_bilateral": lambda x, guide: up.learned_bilateral(x, up.bilateral_kernel(guide, radius=1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_batches_and_transforms(name):
    function = FUNCTIONS[name]
    x, guide = jnp.asarray(normal(0, 2, 3, 4, 5, 2)), jnp.asarray(uniform(1, 2, 3, 8, 15, 2))
    y = function(x, guide)
    chex.assert_shape(y, (2, 3, 8, 15, 2))
    np.testing.assert_allclose(function(x[1, 2], guide[1, 2]), y[1, 2], atol=1e-5)
    # Forward and reverse derivatives agree: <J v, u> = <v, J' u>.
    dx, dguide, dy = normal(2, *x.shape), normal(3, *guide.shape), normal(4, *y.shape)

    @jax.jit  # one program, which shares what they have in common
    def transformed(x, guide, dx, dguide, dy):
        same, forward = jax.jvp(function, (x, guide), (dx, dguide))
        return same, jax.vmap(function, 1, 1)(x, guide), forward, jax.vjp(function, x, guide)[1](dy)

    same, mapped, forward, backward = transformed(x, guide, dx, dguide, dy)
    np.testing.assert_allclose(mapped, y, atol=1e-5)
    np.testing.assert_allclose(same, y, atol=1e-5)
    expected = np.sum(forward * dy)
    given = np.sum(dx * backward[0]) + np.sum(dguide * backward[1])
    np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtypes(name):
    function = FUNCTIONS[name]
    x, guide = normal(0, 4, 5, 2), uniform(1, 8, 10, 2)
    with jax.enable_x64(True):
        exact = function(jnp.asarray(x, jnp.float64), jnp.asarray(guide, jnp.float64))
        assert exact.dtype == jnp.float64
        np.testing.assert_allclose(function(x, guide), exact, atol=1e-4)
    for dtype in (jnp.bfloat16, jnp.float16):
        y = function(jnp.asarray(x, dtype), jnp.asarray(guide))
        assert y.dtype == dtype
        # Only x was rounded, and the result.
        error = jnp.abs(y.astype(jnp.float32) - exact.astype(np.float32)).max()
        assert error < 4 * float(jnp.finfo(dtype).eps) * float(np.abs(exact).max())


ROI = up.conventions.onnx(coordinate_transformation_mode="tf_crop_and_resize", roi=[(0.0, 0.5)] * 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, g: up.joint_bilateral(x[0], g), r"joint_bilateral: guide must have the batch axes of x, \(\)"),
        (lambda x, g: up.joint_bilateral(x, g[0, 0]), "joint_bilateral: guide must be .*channels.*got shape"),
        (lambda x, g: up.joint_bilateral(x, g[:, :0]), "joint_bilateral: guide must be .*none empty"),
        (lambda x, g: up.joint_bilateral(x, g, radius=-1), "joint_bilateral: radius must be at least 0; got -1"),
        (lambda x, g: up.joint_bilateral(x, g, sigma_range=0.0), "joint_bilateral: sigma_range must be .*above 0"),
        (lambda x, g: up.joint_bilateral(x, g, sigma_spatial=-1.0), "sigma_spatial must be .*above 0; got -1"),
        (lambda x, g: up.bilateral_kernel(g[0, 0]), "bilateral_kernel: embedding must be .*got shape"),
        (lambda x, g: up.bilateral_kernel(g, temperature=jnp.ones(3)), r"temperature must have shape \(\); got \(3,\)"),
        (
            lambda x, g: up.learned_bilateral(x, g),
            r"learned_bilateral: kernel must have shape \(2, H, W, k, k\).*k odd",
        ),
        (lambda x, g: up.learned_bilateral(x, jnp.ones((2, 8, 8, 2, 2))), "the window of kernel must be odd"),
        (
            lambda x, g: up.learned_bilateral(x, jnp.ones((3, 8, 8, 3, 3))),
            r"shape \(2, H, W, k, k\), the batch axes of x",
        ),
        (lambda x, g: up.guided_filter(x, g, form="chanelwise"), "guided_filter: form.*Did you mean 'channelwise'"),
        (lambda x, g: up.guided_filter(x, g), "guide must have one channel or those of x, 2"),
        (
            lambda x, g: up.guided_filter(x, g, g, form="joint"),
            r"guided_filter: guide_low must have shape \(2, 4, 4, 3\), the size of x",
        ),
        (lambda x, g: up.guided_filter(x, g, epsilon=0.0), "guided_filter: epsilon must be .*above 0; got 0"),
        (lambda x, g: up.guided_filter(x, g, radius=-2), "guided_filter: radius must be at least 0; got -2"),
        (lambda x, g: up.guided_filter(x, g, convention="tourch"), "guided_filter: .*Did you mean 'torch'"),
        (lambda x, g: up.guided_filter(x, g, convention=ROI), "guided_filter: convention .* cannot enlarge"),
    ],
)
def test_errors_explain(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((2, 4, 4, 2)), jnp.ones((2, 8, 8, 3)))


def test_type_errors_explain():
    x, guide = jnp.ones((4, 4, 2)), jnp.ones((8, 8, 3))
    with pytest.raises(TypeError, match=r"joint_bilateral: guide must be floating.*got int32"):
        up.joint_bilateral(x, guide.astype(jnp.int32))
    with pytest.raises(TypeError, match=r"guided_filter: radius must be whole numbers; got 1\.5"):
        up.guided_filter(x, guide, radius=1.5)
    with pytest.raises(TypeError, match=r"guided_filter: average must be True or False; got 'False'"):
        up.guided_filter(x, guide, average="False")


@pytest.mark.parametrize(
    ("size", "output", "radius", "parts"),
    [((4, 5), (23, 13), 2, 1), ((2, 1), (7, 3), 3, 1), ((24, 3), (29, 4), 2, 1), ((6, 4), (14, 5), 3, 2)],
)
def test_the_learned_bilateral_filter_by_tiles_of_rows(size, output, radius, parts):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(2, *output, 2 * radius + 1, 2 * radius + 1)).astype(np.float32)
    y, pull = jax.vjp(up.learned_bilateral, x, kernel)
    tiles = _common.Tiles.of(output[0], 6, parts)
    in_tiles = lambda x, k: guided._learned_bilateral_in_tiles(x, k[..., None, :, :], tiles)  # noqa: E731
    tiled, pull_tiled = jax.vjp(in_tiles, x, kernel)
    for a, b in zip((tiled, *pull_tiled(y)), (y, *pull(y)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-7 * np.abs(b).max())
