"""Flax transposed convolutions give the same numbers after conversion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from upsampling.interop import flax


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize(
    ("window", "strides", "padding", "dilation"),
    [
        ((4, 3), (2, 2), "SAME", 1),
        ((2, 3), (3, 1), "VALID", 1),
        ((4, 2), (2, 2), "CIRCULAR", 1),
        ((3, 3), (2, 1), ((1, 2), (0, 1)), 1),
        ((3, 2), (2, 3), "VALID", 2),
        ((3, 3), None, ((2, 2), (2, 2)), (2, 1)),
    ],
)
def test_nnx_layers(window, strides, padding, dilation, transpose_kernel):
    theirs = nnx.ConvTranspose(
        3,
        2,
        window,
        strides=strides,
        padding=padding,
        kernel_dilation=dilation,
        transpose_kernel=transpose_kernel,
        bias_init=nnx.initializers.normal(),
        rngs=nnx.Rngs(0),
    )
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    ours = flax.from_nnx(theirs)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)


def test_the_dtype_to_compute_in_comes_along():
    theirs = nnx.ConvTranspose(3, 2, (2, 2), strides=2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 3, 3, 3))
    assert flax.from_nnx(theirs)(x).dtype == theirs(x).dtype == jnp.bfloat16


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_linen_parameters(transpose_kernel):
    theirs = linen.ConvTranspose(
        2, (3,), strides=(2,), padding="SAME", transpose_kernel=transpose_kernel, use_bias=True
    )
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    params = theirs.init(jax.random.key(1), x)["params"]
    ours = flax.transposed_conv(params["kernel"], params["bias"], strides=2, transpose_kernel=transpose_kernel)
    np.testing.assert_allclose(ours(x), theirs.apply({"params": params}, x), atol=1e-5)


def test_errors_explain():
    kernel = jnp.ones((3, 3, 4, 2))
    with pytest.raises(ValueError, match=r"kernel must be .* with 1, 2 or 3 window axes"):
        flax.transposed_conv_kernel(jnp.ones((3, 3)))
    with pytest.raises(TypeError, match="kernel must be floating"):
        flax.transposed_conv_kernel(jnp.ones((3, 3, 3), int))
    with pytest.raises(ValueError, match=r"padding='CIRCULAR' with transpose_kernel .* cannot be converted"):
        flax.transposed_conv(kernel, strides=2, padding="CIRCULAR", transpose_kernel=True)
    with pytest.raises(ValueError, match="cannot be converted: it reaches beyond the kernel"):
        flax.transposed_conv(kernel, strides=2, padding=5)
    with pytest.raises(ValueError, match=r"bias must have shape \(2,\); got \(4,\)"):
        flax.transposed_conv(kernel, jnp.ones(4))
    with pytest.raises(TypeError, match=r"from_nnx: layer must be a flax.nnx.ConvTranspose; got Conv"):
        flax.from_nnx(nnx.Conv(2, 2, (3,), rngs=nnx.Rngs(0)))
    masked = nnx.ConvTranspose(2, 2, (3,), mask=jnp.ones((3, 2, 2)), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="from_nnx: layer must have no mask"):
        flax.from_nnx(masked)
