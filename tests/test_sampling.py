"""Sampling against PyTorch's grid_sample, and against the sum of hats that Jaderberg et al. define it by."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import upsampling as up
from tests.optional import F, torch
from upsampling.primitives import grid_sample as primitive

PADDING = {"replicate": "border", "zero": "zeros", "reflect": "reflection", "symmetric": "reflection"}
METHODS = ("nearest", "bilinear", "bicubic")


def hats(x, positions):
    """The sum over all pixels, each weighted by the hat around it (Jaderberg et al., equation 5)."""
    height, width = x.shape[-3:-1]
    rows, columns = positions[..., 0, None], positions[..., 1, None]
    rows = torch.clamp(1 - torch.abs(rows - torch.arange(height)), min=0)
    columns = torch.clamp(1 - torch.abs(columns - torch.arange(width)), min=0)
    return torch.einsum("npqi,npqj,nijc->npqc", rows, columns, x)


def pulled(ours, z, *arrays):
    """Value and gradients, in one compiled program."""

    @jax.jit
    def program(z, *arrays):
        y, pull = jax.vjp(ours, *arrays)
        return y, *pull(z)

    return program(z, *arrays)


def doubles(*arrays):
    return [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in arrays]


@pytest.fixture(scope="module")
def example():
    """Image, normalised grid that reaches far beyond it, and cotangent."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 7, 3)).astype(np.float32)
    grid = rng.uniform(-3.5, 3.5, (2, 6, 9, 2)).astype(np.float32)
    grid[:, :3] = rng.uniform(-1, 1, (2, 3, 9, 2))
    return x, grid, rng.standard_normal((2, 6, 9, 3)).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("edge", PADDING)
def test_numbers_and_gradients_are_pytorchs(method, edge, example):
    x, grid, z = example
    for align in (True, False):
        if edge in ("reflect", "symmetric") and align != (edge == "reflect"):
            continue
        image, places = (torch.tensor(a, requires_grad=True) for a in (np.moveaxis(x, -1, 1).copy(), grid))
        theirs = F.grid_sample(image, places, mode=method, padding_mode=PADDING[edge], align_corners=align)
        cotangent = torch.tensor(np.moveaxis(z, -1, 1).copy())
        d_image, d_grid = (g.numpy() for g in torch.autograd.grad(theirs, (image, places), cotangent))

        def ours(x, grid, align=align):
            positions = up.positions_from_grid(grid, x.shape[-3:-1], align_corners=align)
            return up.grid_sample(x, positions, method=method, edge=edge)

        y, dx, d_positions = pulled(ours, z, x, grid)
        np.testing.assert_allclose(y, np.moveaxis(theirs.detach().numpy(), 1, -1), atol=2e-5)
        np.testing.assert_allclose(dx, np.moveaxis(d_image, 1, -1), atol=2e-5)
        np.testing.assert_allclose(d_positions, d_grid, atol=2e-4)


@pytest.mark.parametrize("edge", PADDING)
def test_on_pixels_and_edges_gradients_are_pytorchs(edge):
    """Whole positions, where the derivative jumps, the outermost pixels and outer edges."""
    x = np.random.default_rng(1).standard_normal((1, 4, 4, 2)).astype(np.float32)
    line = np.array([-2.5, -2, -1, -0.5, 0, 1, 2.5, 3, 3.5, 4, 6], np.float32)
    positions = np.stack(np.meshgrid(line, line, indexing="ij"), -1)[None]
    align = edge == "reflect"
    n = np.float32(4)
    grid = positions[..., ::-1] * 2 / (n - 1) - 1 if align else (positions[..., ::-1] * 2 + 1) / n - 1
    np.testing.assert_allclose(up.positions_from_grid(grid, 4, align_corners=align), positions, atol=1e-6)
    # What rounding leaves of whole numbers decides: PyTorch is given float64, and grids that are exact in it.
    image, places = doubles(
        np.moveaxis(x, -1, 1), grid if not align else positions[..., ::-1].astype(float) * 2 / 3 - 1
    )
    theirs = F.grid_sample(image, places, padding_mode=PADDING[edge], align_corners=align)
    z = np.random.default_rng(2).standard_normal((*positions.shape[:-1], 2)).astype(np.float32)
    d_image, d_grid = torch.autograd.grad(theirs, (image, places), torch.tensor(np.moveaxis(z, -1, 1).astype(float)))
    y, dx, dp = pulled(functools.partial(up.grid_sample, edge=edge), z, x, positions)
    np.testing.assert_allclose(y, np.moveaxis(theirs.detach().numpy(), 1, -1), atol=1e-5)
    np.testing.assert_allclose(dx, np.moveaxis(d_image.numpy(), 1, -1), atol=1e-5)
    if not align:  # with align_corners PyTorch's own grid falls beside whole positions by rounding
        np.testing.assert_allclose(dp, d_grid.numpy()[..., ::-1] * 2 / n, atol=1e-5)


def near_positions(rng, batch, size, scale, reach):
    """Those of upsampling without an offset, and up to `reach` of one."""
    axes = [(np.arange(n * s) + 0.5) / s - 0.5 for n, s in zip(size, scale, strict=True)]
    first = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return (first + rng.uniform(-reach, reach, (*batch, *first.shape))).astype(np.float32)


@pytest.mark.parametrize("scale", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("edge", ["replicate", "zero"])
def test_both_ways_to_spread_gradients_agree(scale, edge):
    """The one that shifts images and the one that scatters; and which of them runs is decided by the positions."""
    rng = np.random.default_rng(0)
    x, positions = rng.standard_normal((2, 4, 5, 3)).astype(np.float32), near_positions(rng, (2,), (4, 5), scale, 0.4)
    z = rng.standard_normal((*positions.shape[:-1], 3)).astype(np.float32)
    pull = jax.jit(lambda p: jax.vjp(lambda x, p: up.grid_sample(x, p, edge=edge), x, p)[1](z))
    for away in (0, 1.5):  # a single position too far turns all
        positions[1, 2, 2] += away
        dx, dp = pull(positions)
        theirs = doubles(x, positions)
        kept = theirs[1]
        if edge == "replicate":
            kept = torch.minimum(torch.clamp(kept, min=0), torch.tensor([3.0, 4.0], dtype=torch.float64))
        expected = torch.autograd.grad(hats(theirs[0], kept), theirs, torch.tensor(z.astype(float)))
        np.testing.assert_allclose(dx, expected[0], atol=1e-5)
        np.testing.assert_allclose(dp, expected[1], atol=1e-5)


def test_near_positions_take_no_scatter():
    rng = np.random.default_rng(0)
    positions = near_positions(rng, (1,), (4, 4), (2, 2), 0.2)[..., None, :]
    rule = primitive.Rule("bilinear", "zero")
    assert primitive._is_near(positions, rule, (4, 4))
    assert not primitive._is_near(positions.copy() + np.float32(0.9), rule, (4, 4))
    x = np.ones((1, 4, 4, 1, 2), np.float32)
    z, g = np.ones((1, 8, 8, 1, 2), np.float32), np.ones((1, 8, 8, 1, 1), np.float32)
    text = str(
        jax.make_jaxpr(lambda z: primitive._near_splat(z, g, positions, size=(4, 4), rule=rule, orders=((0, 0),)))(z)
    )
    assert "scatter" not in text
    assert "gather" not in text
    compiled = jax.jit(jax.grad(lambda x: primitive.sample(x, positions, rule).sum())).lower(x).as_text()
    assert "stablehlo.case" in compiled  # both programs are there, and one runs


@pytest.mark.parametrize("method", METHODS)
def test_derivatives_of_any_order_and_mode(method):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal((3, 4, 2)))
        # Inside and outside, not on whole numbers or halves, where derivatives jump.
        positions = jnp.asarray(rng.integers(-2, 5, (6, 8, 2)) + rng.choice([0.2, 0.3, 0.7, 0.8], (6, 8, 2)))
        f = lambda x, p: jnp.sin(up.grid_sample(x, p, method=method, edge="zero"))  # noqa: E731
        order = 1 if method == "nearest" else 2
        check_grads(f, (x, positions), order=order, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4, eps=1e-4)


def test_positions_that_are_not_numbers_count_as_before_the_image():
    x = jnp.arange(1.0, 13).reshape(3, 4, 1)
    nan, inf = np.nan, np.inf
    positions = jnp.array([[[nan, 1.0], [2.0, -inf], [nan, nan], [inf, inf]]])
    for method in METHODS:
        sampled = {edge: up.grid_sample(x, positions, method=method, edge=edge)[0, :, 0] for edge in PADDING}
        np.testing.assert_array_equal(sampled["replicate"], [2, 9, 1, 12])
        np.testing.assert_array_equal(sampled["zero"], [0, 0, 0, 0])
        np.testing.assert_array_equal(sampled["reflect"], [2, 9, 1, 1])
        np.testing.assert_array_equal(sampled["symmetric"], [2, 9, 1, 1])
    for edge in PADDING:
        gradient = jax.grad(lambda p, e=edge: up.grid_sample(x, p, edge=e).sum())(positions)
        assert jnp.isfinite(gradient).all()
    far = jnp.array([[[1e30, -1e30]]])
    assert up.grid_sample(x, far)[0, 0, 0] == 9
    assert up.grid_sample(x, far, edge="zero", method="bicubic")[0, 0, 0] == 0


@pytest.mark.parametrize("batch", [(), (2,), (2, 1, 3)])
def test_any_batch_and_transforms(batch):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((*batch, 3, 4, 2)), jnp.float32)
    positions = jnp.asarray(rng.uniform(-1, 4, (*batch, 5, 3, 2)), jnp.float32)
    y = jax.jit(up.grid_sample)(x, positions)
    assert y.shape == (*batch, 5, 3, 2)
    flat = up.grid_sample(x.reshape(-1, 3, 4, 2), positions.reshape(-1, 5, 3, 2))
    np.testing.assert_allclose(y.reshape(flat.shape), flat, atol=1e-6)
    if batch:
        gradient = jax.grad(lambda x, p: jnp.sum(up.grid_sample(x, p) ** 2), (0, 1))

        @jax.jit
        def mapped(x, positions):
            each, one = jax.vmap(up.grid_sample)(x, positions), jax.vmap(up.grid_sample, (None, 0))(x[0], positions)
            return each, one, jax.vmap(gradient, (None, 0))(x[0], positions)

        each, one, pull = mapped(x, positions)
        np.testing.assert_allclose(each, y, atol=1e-6)
        np.testing.assert_allclose(one[-1], up.grid_sample(x[0], positions[-1]), atol=1e-6)
        for all_of_them, expected in zip(pull, jax.jit(gradient)(x[0], positions[-1]), strict=True):
            np.testing.assert_allclose(all_of_them[-1], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16, jnp.float16])
def test_dtypes(dtype):
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == jnp.float64):
        x = jnp.asarray(rng.standard_normal((9, 7, 4)), dtype)
        positions = jnp.asarray(rng.uniform(0, 6, (5, 6, 2)), jnp.float64 if dtype == jnp.float64 else jnp.float32)
        y, dx, dp = jax.jit(lambda x, p: (lambda y, pull: (y, *pull(y)))(*jax.vjp(up.grid_sample, x, p)))(x, positions)
        assert (y.dtype, dx.dtype, dp.dtype) == (dtype, dtype, positions.dtype)
        eps = float(jnp.finfo(dtype).eps)
        exact = hats(*(a[None] for a in doubles(x, positions)))[0].detach()
        np.testing.assert_allclose(np.asarray(y, float), exact, atol=2 * eps * float(jnp.abs(x).max()) + 1e-15)


def test_one_pixel_and_nothing():
    x = jnp.full((1, 1, 2), 3.0)
    positions = jnp.array([[[0.0, 0.0], [0.5, -0.25], [9.0, -9.0]]])
    for edge in ("replicate", "reflect", "symmetric"):
        for method in METHODS:
            np.testing.assert_allclose(up.grid_sample(x, positions, method=method, edge=edge), 3.0, rtol=1e-6)
    np.testing.assert_allclose(up.grid_sample(x, positions, edge="zero")[0, :, 0], [3, 3 * 0.5 * 0.75, 0])
    np.testing.assert_array_equal(jax.grad(lambda p: up.grid_sample(x, p).sum())(positions), 0)
    assert up.grid_sample(jnp.ones((0, 3, 3, 2)), jnp.ones((0, 4, 4, 2))).shape == (0, 4, 4, 2)
    assert up.grid_sample(jnp.ones((3, 3, 2)), jnp.ones((0, 4, 2))).shape == (0, 4, 2)


@pytest.mark.parametrize(
    ("to", "groups", "scoped"),
    [
        ({"scale": 2}, 2, False),
        ({"scale": 3}, 1, True),
        ({"scale": (4, 2)}, 4, True),
        ({"scale": (3, 1)}, 2, False),
        ({"size": (9, 7)}, 4, True),
    ],
)
def test_dysample_is_its_formula(to, groups, scoped):
    """Equations 3 to 6: a quarter of the offset beside bilinear's position, or up to a half of it by the scope."""
    rng = np.random.default_rng(0)
    size = to["size"] if "size" in to else tuple(np.multiply((5, 3), to["scale"]).tolist())
    factors = np.divide(size, (5, 3))
    x = rng.standard_normal((2, 5, 3, 8)).astype(np.float32)
    offsets, scope = (rng.standard_normal((2, *size, groups, 2)).astype(np.float32) for _ in range(2))
    z = rng.standard_normal((2, *size, 8)).astype(np.float32)
    given = (x, offsets, scope) if scoped else (x, offsets)
    y, *gradients = pulled(functools.partial(up.dysample, **to), z, *given)
    image, moves, *rest = theirs = doubles(*given)
    axes = [torch.tensor((np.arange(m) + 0.5) / s - 0.5) for m, s in zip(size, factors, strict=True)]
    first = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[:, :, None]
    positions = first + (0.5 * torch.sigmoid(rest[0]) * moves if scoped else 0.25 * moves)
    positions = torch.minimum(torch.clamp(positions, min=0), torch.tensor([4.0, 2.0]))
    blocks = [hats(b, positions[..., g, :]) for g, b in enumerate(torch.chunk(image, groups, -1))]
    expected = torch.cat(blocks, -1)
    np.testing.assert_allclose(y, expected.detach(), atol=1e-5)
    for ours, gradient in zip(gradients, torch.autograd.grad(expected, theirs, torch.tensor(z).double()), strict=True):
        np.testing.assert_allclose(ours, gradient, atol=1e-4)


def test_dysample_without_offsets_is_bilinear():
    x = jax.random.normal(jax.random.key(0), (2, 1, 5, 4, 6))
    for scale in (2, (1, 3)):
        y = up.bilinear(x, scale=scale)
        np.testing.assert_allclose(up.dysample(x, jnp.zeros((*y.shape[:-1], 3, 2)), scale=scale), y, atol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(10, 8), (7, 9), (1, 1)])
def test_flow_warp_is_its_formula(align_corners, size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 4, 3)).astype(np.float32)
    flow, z = (rng.standard_normal((2, *size, c)).astype(np.float32) for c in (2, 3))
    y, *ours = pulled(lambda x, f: up.flow_warp(x, 3 * f, align_corners=align_corners), z, x, flow)
    image, moves = doubles(np.moveaxis(x, -1, 1), flow)
    lines = [torch.linspace(-1, 1, n) if align_corners else (2 * torch.arange(n) + 1) / n - 1 for n in size]
    grid = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1) + 3 * moves / torch.tensor(size)
    expected = F.grid_sample(image, grid.flip(-1), align_corners=align_corners)
    np.testing.assert_allclose(y, np.moveaxis(expected.detach().numpy(), 1, -1), atol=1e-5)
    cotangent = torch.tensor(np.moveaxis(z, -1, 1).astype(float))
    dx, df = (g.numpy() for g in torch.autograd.grad(expected, (image, moves), cotangent))
    np.testing.assert_allclose(ours[0], np.moveaxis(dx, 1, -1), atol=1e-4)
    np.testing.assert_allclose(ours[1], df, atol=1e-4)


def test_sharded_over_devices_gives_the_same():
    # One device suffices to see that the primitives go through the partitioner.
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x, positions = jnp.ones((2, 4, 4, 2)), jnp.ones((2, 8, 8, 2))
    y = jax.jit(up.grid_sample, in_shardings=(sharding, sharding), out_shardings=sharding)(x, positions)
    np.testing.assert_array_equal(y, up.grid_sample(x, positions))


X, P = jnp.ones((2, 4, 4, 6)), jnp.ones((2, 8, 8, 2))
OFFSETS = jnp.ones((2, 8, 8, 3, 2))
HUGE = jax.ShapeDtypeStruct((1 << 16, 1 << 15, 1), jnp.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: up.grid_sample(X[0, 0], P), ValueError, r"grid_sample: x must be \(\*batch, \*spatial, channels\)"),
        (lambda: up.grid_sample(X[:, :0], P), ValueError, "grid_sample: x must be .* none empty"),
        (lambda: jax.eval_shape(up.grid_sample, HUGE, P[0]), ValueError, r"fewer than 2\*\*31 pixels an image"),
        (lambda: up.grid_sample(X.astype(int), P), TypeError, "grid_sample: x must be floating"),
        (lambda: up.grid_sample(X, P.astype(int)), TypeError, "grid_sample: positions must be floating"),
        (
            lambda: up.grid_sample(X, P[..., :1]),
            ValueError,
            r"grid_sample: positions must have shape \(2, H', W', 2\), for x",
        ),
        (
            lambda: up.grid_sample(X, P[0]),
            ValueError,
            r"grid_sample: positions must have shape \(2, H', W', 2\), for x",
        ),
        (lambda: up.grid_sample(X, P, method="linear"), ValueError, "grid_sample: method='linear' is not known"),
        (lambda: up.grid_sample(X, P, edge="zeros"), ValueError, "edge='zeros' is not known. Did you mean 'zero'"),
        (
            lambda: up.positions_from_grid(P[..., :1], 4),
            ValueError,
            r"grid must have shape \(\.\.\., \.\.\., \.\.\., 2\)",
        ),
        (lambda: up.positions_from_grid(P, 0), ValueError, "positions_from_grid: size must be at least 1"),
        (
            lambda: up.dysample(X, OFFSETS[:, :7]),
            ValueError,
            r"dysample: offsets must have shape \(2, 8, 8, groups, 2\), for x",
        ),
        (
            lambda: up.dysample(X, OFFSETS, OFFSETS[:1]),
            ValueError,
            r"dysample: scope must have shape \(2, 8, 8, 3, 2\), that of offsets",
        ),
        (
            lambda: up.dysample(X[..., :4], OFFSETS),
            ValueError,
            "dysample: the groups of offsets=3 must divide channels=4",
        ),
        (lambda: up.dysample(X, OFFSETS, scale=0), ValueError, "dysample: scale must be at least 1"),
        (lambda: up.flow_warp(X, P[:1]), ValueError, r"flow_warp: flow must have shape \(2, H', W', 2\), for x"),
        (lambda: up.flow_warp(X, P, edge="wrap"), ValueError, "flow_warp: edge='wrap' is not known"),
        (
            lambda: up.flow_warp(X, P, align_corners=1),
            TypeError,
            "flow_warp: align_corners must be True or False; got 1",
        ),
    ],
)
def test_errors_explain(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
@pytest.mark.parametrize("edge", PADDING)
def test_volumes_and_their_gradients_are_pytorchs(method, edge):
    rng = np.random.default_rng(1)
    x, z = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 5, 4, 2), (2, 2, 3, 7, 2)))
    grid = rng.uniform(-2, 2, (2, 2, 3, 7, 3)).astype(np.float32)
    align = edge == "reflect"
    image, places = (torch.tensor(a, requires_grad=True) for a in (np.moveaxis(x, -1, 1).copy(), grid))
    options = {"mode": method, "padding_mode": PADDING[edge], "align_corners": align}
    expected = F.grid_sample(image, places, **options).movedim(1, -1)
    gradients = torch.autograd.grad(expected, (image, places), torch.from_numpy(z))

    def ours(x, grid):
        return up.grid_sample(
            x, up.positions_from_grid(grid, x.shape[1:4], align_corners=align), method=method, edge=edge
        )

    y, dx, dgrid = pulled(ours, z, x, grid)
    np.testing.assert_allclose(y, expected.detach(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(dx, gradients[0].movedim(1, -1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(dgrid, gradients[1], rtol=0, atol=1e-4)


def test_volumes_refuse_what_pytorch_has_for_images_alone():
    x, positions = jnp.zeros((4, 4, 4, 1)), jnp.zeros((2, 2, 2, 3))
    with pytest.raises(ValueError, match="grid_sample: method='bicubic' is for images"):
        up.grid_sample(x, positions, method="bicubic")
    with pytest.raises(ValueError, match=r"grid_sample: positions must have shape \(D', H', W', 3\)"):
        up.grid_sample(x, positions[0])
    assert up.grid_sample(x.astype(jnp.bfloat16), positions).dtype == jnp.bfloat16


@pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid behavior has changed for unit-size grids")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(3, 5), (1, 4), (2, 3, 4)])
def test_affine_grids_are_pytorchs(size, align_corners):
    rank = len(size)
    theta = np.random.default_rng(0).standard_normal((2, rank, rank + 1)).astype(np.float32)
    expected = F.affine_grid(torch.from_numpy(theta), (2, 1, *size), align_corners=align_corners)
    found = up.affine_grid(theta, size, align_corners=align_corners)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(up.affine_grid(theta[0], size, align_corners=align_corners), found[0])


def test_affine_grid_refuses():
    with pytest.raises(ValueError, match=r"affine_grid: theta must be \(\*batch, 2, 3\) or \(\*batch, 3, 4\); got"):
        up.affine_grid(jnp.zeros((3, 2)), 4)
    with pytest.raises(TypeError, match="affine_grid: theta must be floating"):
        up.affine_grid(jnp.zeros((2, 3), int), 4)
