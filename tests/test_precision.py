"""Numbers of unusual ranges, and what is not a number: against the same formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import upsampling as up
from tests.compiling import as_for_users
from tests.optional import torch

RANDOM = np.random.default_rng(0)
H, W = 10, 12


def test_coordinates_are_not_in_half_precision():
    grid = RANDOM.uniform(-1, 1, (5, 2))
    for dtype in (jnp.float16, jnp.bfloat16):
        half = jnp.asarray(grid, dtype)
        positions = up.positions_from_grid(half, (192, 192))
        assert positions.dtype == jnp.float32
        np.testing.assert_allclose(positions, ((np.asarray(half, float) + 1) * 192 - 1)[..., ::-1] / 2, atol=1e-4)


def guides(channels):
    base = RANDOM.uniform(0, 1, (H, W, channels))
    gray = np.round(255 * RANDOM.uniform(0, 1, (H, W, 1)))
    yield from (np.round(base * (2**bits - 1)) for bits in (8, 12, 16))
    yield np.full((H, W, channels), 60000.0)
    yield 1000.0 * (base > 0.5)
    yield np.broadcast_to(gray, (H, W, channels)) * np.arange(1, channels + 1)


def windows(n, radius):
    """For each place on an axis, the places in its window."""
    return [range(max(i - radius, 0), min(i + radius, n - 1) + 1) for i in range(n)]


def guided_filter_64(x, guide, radius, epsilon, joint):
    """He et al.'s equations 5, 6 and 14, pixel by pixel, at one size."""
    y = np.zeros_like(x)
    for i, rows in enumerate(windows(H, radius)):
        for j, columns in enumerate(windows(W, radius)):
            p = x[np.ix_(rows, columns)].reshape(-1, x.shape[-1])
            g = guide[np.ix_(rows, columns)].reshape(-1, guide.shape[-1])
            dp, dg = p - p.mean(0), g - g.mean(0)
            if joint:
                covariance = dg.T @ dg / len(g) + epsilon * np.eye(guide.shape[-1])
                y[i, j] = (guide[i, j] - g.mean(0)) @ np.linalg.solve(covariance, dg.T @ dp / len(g)) + p.mean(0)
            else:
                a = (dg * dp).mean(0) / ((dg**2).mean(0) + epsilon)
                y[i, j] = a * (guide[i, j] - g.mean(0)) + p.mean(0)
    return y


@pytest.mark.parametrize(
    ("form", "channels", "radius"),
    [("channelwise", 1, 1), ("channelwise", 1, 2), ("joint", 3, 1), ("joint", 3, 2), ("joint", 4, 1)],
)
def test_guided_filter_of_any_guide(form, channels, radius):
    x = RANDOM.uniform(0, 1, (H, W, 2))
    ours = as_for_users(lambda x, g: up.guided_filter(x, g, g, radius=radius, epsilon=1e-4, form=form))
    for guide in guides(channels):
        expected = guided_filter_64(x, guide, radius, 1e-4, form == "joint")
        y = ours(jnp.asarray(x, jnp.float32), jnp.asarray(guide, jnp.float32))
        np.testing.assert_allclose(y, expected, atol=1e-4)


def nearly_collinear_guides(bits, random):
    """Channels that differ by little from multiples of one another: covariances in float32 are off by up to 0.4."""
    gray = (2**bits - 1) * random.uniform(0, 1, (H, W, 1))
    noise = random.integers(0, 2, (H, W, 3))
    yield np.round(gray) + noise
    yield np.round(gray * (0.31, 1, 0.7))
    yield np.round(gray * (1, -1, 1)) + np.array([0, 2**bits - 1, 0]) + noise
    yield np.round(gray * (0, 1, 1)) + np.array([7, 0, 0]) + noise * (0, 0, 1)
    if bits == 8:  # another line of colors on each side
        yield np.round(np.where((np.arange(W) > 5)[:, None], gray * (1, 0.5, 0.25), gray * (0.3, 0.9, 0.1)))


@pytest.mark.parametrize("radius", [1, 3])
def test_guided_filter_of_guides_that_are_nearly_collinear(radius):
    random = np.random.default_rng(0)
    x = random.uniform(0, 1, (H, W, 2))
    ours = as_for_users(lambda x, g: up.guided_filter(x, g, g, radius=radius, epsilon=1e-4, form="joint"))
    for bits in (8, 12, 16):
        for guide in nearly_collinear_guides(bits, random):
            y = ours(jnp.asarray(x, jnp.float32), jnp.asarray(guide, jnp.float32))
            np.testing.assert_allclose(y, guided_filter_64(x, guide, radius, 1e-4, True), atol=5e-5)


def test_guided_filter_gradients_of_guides_that_are_nearly_collinear():
    random = np.random.default_rng(0)
    x = random.uniform(0, 1, (H, W, 2))
    ours = as_for_users(
        lambda x, g: jax.vjp(lambda x, g: up.guided_filter(x, g, g, radius=2, epsilon=1e-4, form="joint"), x, g)[1](x)
    )

    def pixel(x, guide, i, j):
        places = windows(H, 2)[i], windows(W, 2)[j]
        p, g = (a[places[0][0] : places[0][-1] + 1, places[1][0] : places[1][-1] + 1].flatten(0, 1) for a in (x, guide))
        dp, dg = p - p.mean(0), g - g.mean(0)
        slope = torch.linalg.solve(dg.T @ dg / len(g) + 1e-4 * torch.eye(3, dtype=dg.dtype), dg.T @ dp / len(g))
        return (guide[i, j] - g.mean(0)) @ slope + p.mean(0)

    for guide in list(nearly_collinear_guides(8, random))[::4]:
        arrays = [torch.tensor(a, requires_grad=True) for a in (x, guide)]
        y = torch.stack([pixel(*arrays, i, j) for i in range(H) for j in range(W)])
        y.backward(torch.tensor(x).flatten(0, 1))
        for given, a in zip(ours(*(jnp.asarray(a, jnp.float32) for a in (x, guide))), arrays, strict=True):
            np.testing.assert_allclose(given, a.grad, atol=5e-5 * float(a.grad.abs().max()))


def test_rounding_decides_no_slope_of_guided_filter():
    """On each side all colors are multiples of another one: what is orthogonal to it is rounding, far above epsilon."""
    random = np.random.default_rng(0)
    x, gray = random.uniform(0, 1, (H, W, 2)), np.round(4095 * random.uniform(0, 1, (H, W, 1)))
    guide = np.where((np.arange(W) > 5)[:, None], gray * (1, 2, 3), gray * (3, 9, 1))
    y = as_for_users(lambda x, g: up.guided_filter(x, g, g, radius=1, epsilon=1e-6, form="joint"))(
        jnp.asarray(x, jnp.float32), jnp.asarray(guide, jnp.float32)
    )
    # Where both lines of colors meet in a window, float32 has no more digits. Off by 0.1 without a bound of the slope.
    np.testing.assert_allclose(y, guided_filter_64(x, guide, 1, 1e-6, True), atol=5e-3)


def joint_bilateral_64(x, guide, radius, sigma_spatial, sigma_range):
    y = np.zeros_like(x)
    for i, rows in enumerate(windows(H, radius)):
        for j, columns in enumerate(windows(W, radius)):
            at = np.array([(r, c) for r in rows for c in columns])
            squares = ((guide[i, j] - guide[at[:, 0], at[:, 1]]) ** 2).sum(-1) / sigma_range**2
            logits = -0.5 * (squares + ((at - (i, j)) ** 2).sum(-1) / sigma_spatial**2)
            weights = np.exp(logits - logits.max())
            y[i, j] = weights @ x[at[:, 0], at[:, 1]] / weights.sum()
    return y


def test_joint_bilateral_of_any_guide():
    x = RANDOM.uniform(0, 1, (H, W, 2))
    ours = as_for_users(lambda x, g: up.joint_bilateral(x, g, radius=2))
    for guide in (RANDOM.uniform(0, 1, (H, W, 3)), *guides(3)):
        y = ours(jnp.asarray(x, jnp.float32), jnp.asarray(guide, jnp.float32))
        np.testing.assert_allclose(y, joint_bilateral_64(x, guide, 2, 0.5, 0.1), atol=1e-4)


def joint_bilateral_of_all_pairs(x, guide):
    """The same for radius 1 and the default sigmas, as one softmax over all pixels, most of them left out."""
    places = np.stack(np.meshgrid(np.arange(H), np.arange(W), indexing="ij"), -1).reshape(-1, 2)
    apart = places[:, None] - places[None]
    colors = guide.reshape(H * W, -1)
    squares = ((colors[:, None] - colors[None]) ** 2).sum(-1) / 0.1**2 + (apart**2).sum(-1) / 0.5**2
    weights = jax.nn.softmax(jnp.where(abs(apart).max(-1) <= 1, -0.5 * squares, -jnp.inf))
    return (weights @ x.reshape(H * W, -1)).reshape(x.shape)


def test_joint_bilateral_gradients_of_any_guide():
    """Where values are taken by differences and slopes by products, and where both are by differences."""
    random = np.random.default_rng(1)
    x = random.uniform(0, 1, (H, W, 2)).astype(np.float32)
    near = random.uniform(0, 0.2, (H, W, 3))  # differences of about a sigma, far from the image's mean
    ramp, step = 0.3 * np.arange(W)[:, None], 200.0 * (np.arange(W) > 5)[:, None]
    pulled = lambda f: lambda x, g: jax.vjp(f, x, g)[1](jnp.cos(3 * x))  # noqa: E731
    ours = as_for_users(pulled(lambda x, g: up.joint_bilateral(x, g, radius=1)))
    for guide in ((near + apart).astype(np.float32) for apart in (ramp, step)):
        with jax.enable_x64(True):
            expected = jax.jit(pulled(joint_bilateral_of_all_pairs))(jnp.asarray(x, float), jnp.asarray(guide, float))
        given = ours(jnp.asarray(x), jnp.asarray(guide))
        for a, b in zip(given, expected, strict=True):
            assert np.abs(b).max() > 0.1
            np.testing.assert_allclose(a, b, atol=1e-4 * max(1, np.abs(b).max()))


def spread(function, *arrays, at):
    """The rows and columns of the result that are not finite where one number of the first array is NaN."""
    first = np.array(arrays[0])
    first[at] = np.nan
    bad = ~np.isfinite(np.asarray(as_for_users(function)(first, *arrays[1:])))
    return [tuple(int(n) for n in np.flatnonzero(bad.any(axes))[[0, -1]]) for axes in ((1, 2), (0, 2))]


def test_what_is_not_a_number_stays_in_its_windows():
    x, guide = (RANDOM.uniform(0, 1, (H, W, 1)).astype(np.float32) for _ in range(2))
    at = (4, 5)
    for form in ("channelwise", "joint"):
        same = lambda x, g, form=form: up.guided_filter(x, g, g, radius=1, form=form)  # noqa: E731
        assert spread(same, x, guide, at=at) == [(3, 5), (4, 6)]
        assert spread(lambda g, x, same=same: same(x, g), guide, x, at=at) == [(3, 5), (4, 6)]
    same = lambda x, g: up.joint_bilateral(x, g, radius=1)  # noqa: E731
    assert spread(same, x, guide, at=at) == [(3, 5), (4, 6)]
    assert spread(lambda g, x: same(x, g), guide, x, at=at) == [(3, 5), (4, 6)]


def test_pools_of_nothing_but_minus_infinity():
    x = np.full((4, 4, 1), -np.inf, np.float32)
    values, indices = up.max_pool_with_indices(x, 2, padding=1)
    assert (np.asarray(values) == -np.inf).all()
    np.testing.assert_array_equal(indices[..., 0], [[0, 1, 3], [4, 5, 7], [12, 13, 15]])
    # Taps three pixels apart: of each window's two the first that lies in the image, 1, 0 and 2 along either axis.
    _, indices = up.max_pool_with_indices(x, 2, padding=2, dilation=3)
    np.testing.assert_array_equal(indices[..., 0], [[5, 4, 6], [1, 0, 2], [9, 8, 10]])


def test_whole_numbers_of_64_bits_do_not_wrap():
    far = np.array([[[2**32], [2**33 + 1]]])
    np.testing.assert_array_equal(up.max_unpool(np.ones((1, 2, 1), np.float32), far, (1, 4)), np.zeros((1, 4, 1)))
    np.testing.assert_array_equal(up.metrics.distance_transform(np.array([[2**32, 1, 0]])), [[2, 1, 0]])


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda x: up.joint_bilateral(x, x, sigma_range=1e-50), "sigma_range"),
        (lambda x: up.joint_bilateral(x, x, sigma_spatial=1e-200), "sigma_spatial"),
        (lambda x: up.guided_filter(x, x, epsilon=1e-50), "epsilon"),
        (lambda x: up.nn.JointBilateral(1, sigma_range=1e-50), "sigma_range"),
    ],
)
def test_numbers_that_underflow_are_refused(call, argument):
    with pytest.raises(ValueError, match=f"{argument} must be at least 1.17"):
        call(jnp.ones((4, 4, 1)))
