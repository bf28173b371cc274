"""The forms for a TPU, run on a CPU, against those for any positions, which PyTorch is the oracle of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from upsampling.primitives import grid_sample as primitive


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("edge", ["zero", "replicate"])
def test_forms_for_a_tpu(edge, dtype):
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
        forms = (getattr(primitive, name) for name in (f"_near_{core}_on_tpu", f"_{core}"))
        near, far = (jax.jit(functools.partial(form, **static))(a, b, positions) for form in forms)
        assert near.dtype == far.dtype
        near, far = (np.asarray(y, np.float64) for y in (near, far))
        np.testing.assert_allclose(near, far, **tolerance, err_msg=core)
