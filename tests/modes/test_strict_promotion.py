"""Every function and layer where JAX promotes neither ranks nor dtypes."""

import jax
import jax.numpy as jnp
import pytest

import upsampling as up
from tests.modes.calls import CALLS, public_functions


def test_every_public_function_and_layer_is_called():
    assert public_functions() <= CALLS.keys()
    assert {f"nn.{name}" for name in up.nn.available()} <= CALLS.keys()


def traced(call, dtype, **flags):
    """Traces the call and its gradient."""
    arrays = call.arrays(dtype=dtype)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        y = jax.eval_shape(call.function, *arrays)
        if call.differentiable:
            jax.eval_shape(jax.grad(call.loss, call.differentiable), *arrays)
    return y


@pytest.mark.parametrize("name", CALLS)
def test_no_promotion(name):
    call = CALLS[name]
    for dtype in (jnp.float32, jnp.bfloat16):
        traced(call, dtype)
        if call.labels:
            break
