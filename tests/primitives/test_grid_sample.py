"""The forms for a TPU and a GPU, run on a CPU, against those for any positions, which PyTorch is the oracle of."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from upsampling.primitives import grid_sample as primitive


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("edge", ["zero", "replicate"])
def test_forms_for_a_tpu_and_a_kernel_for_a_gpu(edge, dtype):
    """Positions within a pixel of their own, beyond the image too; two groups; values and derivatives."""
    size, scale, groups, rng = (4, 5), (2, 3), 2, np.random.default_rng(0)
    static = {"size": size, "rule": primitive.Rule("bilinear", edge), "orders": ((0, 0), (1, 0))}
    outputs = tuple(n * s for n, s in zip(size, scale, strict=True))
    axes = [np.arange(m) // s for m, s in zip(outputs, scale, strict=True)]
    own = np.stack(np.meshgrid(*axes, indexing="ij"), -1)[None, :, :, None]
    positions = own + rng.uniform(-1, 1, (2, *outputs, groups, 2))
    if edge == "replicate":
        positions = np.clip(positions, 0, np.array(size) - 1)
    positions = jnp.asarray(positions, jnp.float32)
    assert primitive._is_near(positions, static["rule"], size)
    x = jnp.asarray(rng.standard_normal((2, *size, groups, 3)), dtype)
    z = jnp.asarray(rng.standard_normal((2, *outputs, groups, 3)), dtype)
    g = jnp.asarray(rng.standard_normal((2, *outputs, groups, 2)), jnp.float32)
    # bfloat16 holds eight bits, and results are rounded once.
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2**-7, "atol": 1e-5}
    for core, (a, b) in {"sample": (x, g), "splat": (z, g), "position_gradient": (x, z)}.items():
        names = (f"_near_{core}_on_tpu", f"_{core}", "_splat" if core == "splat" else f"_{core}_on_tpu")
        forms = [functools.partial(getattr(primitive, name), **static) for name in names]
        near, far, anywhere = jax.jit(lambda *arrays, forms=forms: [form(*arrays) for form in forms])(a, b, positions)
        assert near.dtype == far.dtype == anywhere.dtype
        near, far, anywhere = (np.asarray(y, np.float64) for y in (near, far, anywhere))
        np.testing.assert_allclose(near, far, **tolerance, err_msg=core)
        # The same sums of the same reads.
        np.testing.assert_allclose(anywhere, far, rtol=1e-6, atol=1e-6, err_msg=core)
        if core == "splat" and edge == "zero":
            interpreted = jax.jit(functools.partial(primitive._splat_by_hand, **static, interpret=True))
            np.testing.assert_allclose(np.asarray(interpreted(a, b, positions), np.float64), far, **tolerance)


def test_programs_for_a_tpu_hold_kernels_for_positions_of_several_groups():
    """Of windows, for values and both gradients, in half precision too, where weights and products are in float32."""

    def kernels(groups, dtype):
        def both(x, positions, z):
            y, pull_back = jax.vjp(
                functools.partial(primitive.sample, rule=primitive.Rule("bilinear", "zero")), x, positions
            )
            return y, *pull_back(z)

        arrays = (
            jnp.zeros((1, 4, 4, groups, 8), dtype),
            jnp.zeros((1, 8, 8, groups, 2)),
            jnp.zeros((1, 8, 8, groups, 8), dtype),
        )
        program = jax.jit(both).trace(*arrays).lower(lowering_platforms=("tpu",)).as_text()
        return sorted(re.findall('kernel_name = "window_([a-z]+)"', program))

    assert kernels(2, jnp.float32) == kernels(2, jnp.bfloat16) == ["correlation", "fold", "sum"]
    assert kernels(1, jnp.float32) == []


def test_what_is_read_anywhere_lies_in_the_order_of_its_axes_on_a_tpu():
    """Positions in the lanes of vectors, for values and for the gradient of positions: four taps of each."""

    def both(x, positions, z):
        y, pull_back = jax.vjp(
            functools.partial(primitive.sample, rule=primitive.Rule("bilinear", "zero")), x, positions
        )
        return y, *pull_back(z)

    arrays = jnp.zeros((1, 4, 4, 2, 3)), jnp.zeros((1, 5, 7, 2, 2)), jnp.zeros((1, 5, 7, 2, 3))
    program = jax.jit(both).trace(*arrays).lower(lowering_platforms=("tpu",)).as_text()
    assert program.count("@LayoutConstraint") == 4 + 2 * 4
    assert "@LayoutConstraint" not in str(jax.export.export(jax.jit(both), platforms=("tpu",))(*arrays).mlir_module())


@pytest.mark.parametrize("near", [True, False])
def test_the_form_for_several_gpus(near):
    """Which form runs is decided by loops there, also under `shard_map` along a part of a mesh."""
    size, static = (2, 2), {"size": (2, 2), "rule": primitive.Rule("bilinear", "zero"), "orders": ((0, 0),)}
    rng = np.random.default_rng(1)
    z, g = (jnp.asarray(rng.standard_normal((1, 4, 4, 1, c)), jnp.float32) for c in (3, 1))
    own = np.stack(np.meshgrid(*[np.arange(4) // 2] * 2, indexing="ij"), -1)[None, :, :, None]
    positions = jnp.asarray(own + (0.3 if near else 1.3), jnp.float32)
    assert primitive._is_near(positions, static["rule"], size) == near
    by_either = functools.partial(primitive._by_either, primitive._near_splat, primitive._splat, **static)
    in_loops = jax.jit(functools.partial(by_either, cond=primitive.cond_in_loops))(z, g, positions)
    np.testing.assert_allclose(in_loops, primitive._splat(z, g, positions, **static), rtol=1e-5, atol=1e-6)
    mesh = jax.make_mesh((1, 1), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.sharding.PartitionSpec("a")
    of_part = jax.shard_map(
        functools.partial(by_either, cond=primitive.cond_in_loops),
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        axis_names={"a"},
    )
    np.testing.assert_array_equal(jax.jit(of_part)(z, g, positions), in_loops)
