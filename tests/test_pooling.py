"""Max-pooling with indices and unpooling against PyTorch and ONNX Runtime."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from jax import lax
from onnx import TensorProto, helper

from tests.optional import F, torch
from upsampling.pooling import max_pool_with_indices, max_unpool

POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
UNPOOL = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}
# Size, window, strides, padding.
CASES = [
    ((8,), (2,), (2,), (0,)),
    ((7,), (3,), (2,), (1,)),
    ((1,), (1,), (1,), (0,)),
    ((6, 8), (2, 2), (2, 2), (0, 0)),
    ((7, 5), (3, 2), (2, 1), (1, 1)),
    ((9, 4), (2, 4), (3, 4), (0, 2)),
    ((4, 5, 6), (2, 3, 2), (2, 2, 1), (1, 0, 1)),
]


def first(x):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("size", "window", "strides", "padding"), CASES)
def test_values_indices_and_gradient_are_pytorchs(size, window, strides, padding, ties):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 3)).astype(np.float32)
    if ties:
        x = np.round(x)
    theirs = first(x).requires_grad_()
    values, indices = POOL[len(size)](theirs, window, strides, padding, return_indices=True)
    g = rng.standard_normal(last(values).shape).astype(np.float32)

    @jax.jit
    def compute(x, g):
        results, pull = jax.vjp(lambda x: max_pool_with_indices(x, window, strides, padding), x)
        return *results, pull((g, np.zeros(g.shape, jax.dtypes.float0)))[0]

    y, places, actual = compute(x, g)
    np.testing.assert_array_equal(y, last(values))
    np.testing.assert_array_equal(places, last(indices))
    assert places.dtype == jnp.int32
    (expected,) = torch.autograd.grad(values, theirs, first(g))
    np.testing.assert_allclose(actual, last(expected), atol=1e-6)


# Size, window, strides, padding, dilation.
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("size", "window", "strides", "padding", "dilation"),
    [
        ((9,), (2,), (2,), (1,), (3,)),
        ((8, 11), (2, 3), (3, 2), (1, 1), (1, 2)),
        ((5, 6), (3, 2), (2, 4), (0, 0), (2, 1)),
    ],
)
def test_dilation_and_ceil_mode_are_pytorchs(size, window, strides, padding, dilation, ceil_mode):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    options = {"dilation": dilation, "ceil_mode": ceil_mode}
    theirs = first(x).requires_grad_()
    expected = POOL[len(size)](theirs, window, strides, padding, return_indices=True, **options)

    @jax.jit
    def compute(x):
        y, indices = max_pool_with_indices(x, window, strides, padding, **options)
        return y, indices, jax.grad(lambda x: max_pool_with_indices(x, window, strides, padding, **options)[0].sum())(x)

    y, indices, gradient = compute(x)
    np.testing.assert_array_equal(y, last(expected[0]))
    np.testing.assert_array_equal(indices, last(expected[1]))
    np.testing.assert_allclose(gradient, last(torch.autograd.grad(expected[0].sum(), theirs)[0]), atol=1e-6)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("size", "window", "strides", "pads", "dilation"),
    [((5, 7), (3, 4), (2, 3), ((2, 1), (3, 2)), (1, 1)), ((8, 6), (3, 2), (2, 2), ((0, 2), (1, 0)), (2, 1))],
)
def test_padding_beyond_half_the_window_is_onnxs(size, window, strides, pads, dilation, ceil_mode):
    x = np.random.default_rng(0).standard_normal((1, *size, 1)).astype(np.float32)
    attributes = {"kernel_shape": window, "strides": strides, "dilations": dilation, "ceil_mode": int(ceil_mode)}
    ordered = [pair[side] for side in (0, 1) for pair in pads]
    node = helper.make_node("MaxPool", ["x"], ["y", "i"], pads=ordered, **attributes)
    (given,) = (helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, *size)),)
    results = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("i", TensorProto.INT64, None),
    ]
    model = helper.make_model(
        helper.make_graph([node], "g", [given], results), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": np.moveaxis(x, -1, 1)})
    actual = max_pool_with_indices(x, window, strides, pads, dilation=dilation, ceil_mode=ceil_mode)
    for found, right in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(found, np.moveaxis(right, 1, -1))


def test_nan_wins_and_minus_infinity_is_found():
    x = np.array([[0, np.nan, np.nan, 1], [-np.inf] * 4], np.float32).reshape(1, 8, 1)
    values, indices = F.max_pool1d(first(x), 4, return_indices=True)
    y, places = max_pool_with_indices(x, (4,))
    np.testing.assert_array_equal(y, last(values))
    np.testing.assert_array_equal(places, last(indices))


@pytest.mark.parametrize(("size", "window"), [((8,), (2,)), ((7, 9), (2, 3)), ((4, 6, 5), (2, 2, 2))])
def test_unpooling_is_pytorchs(size, window):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 3)).astype(np.float32)
    y, indices = max_pool_with_indices(x, window)
    theirs = first(y).requires_grad_()
    expected = UNPOOL[len(size)](theirs, first(indices).long(), window, output_size=size)
    actual, pull = jax.vjp(lambda y: max_unpool(y, indices, size), y)
    np.testing.assert_array_equal(actual, last(expected))
    g = rng.standard_normal(actual.shape).astype(np.float32)
    np.testing.assert_array_equal(pull(g)[0], last(torch.autograd.grad(expected, theirs, first(g))[0]))


def test_unpooling_is_onnxs():
    x = np.random.default_rng(0).standard_normal((1, 6, 8, 1)).astype(np.float32)
    y, indices = max_pool_with_indices(x, 2)
    inputs = {"x": np.moveaxis(np.asarray(y), -1, 1), "i": np.moveaxis(np.asarray(indices, np.int64), -1, 1)}
    node = helper.make_node("MaxUnpool", ["x", "i"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs["x"].shape),
        helper.make_tensor_value_info("i", TensorProto.INT64, inputs["i"].shape),
    ]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(max_unpool(y, indices, (6, 8)), np.moveaxis(session.run(None, inputs)[0], 1, -1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_transformations_and_dtypes(dtype):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5, 4, 2)), dtype)
    unpool = lambda y, i: max_unpool(y, i, (5, 4))  # noqa: E731

    @jax.jit
    def compute(x):
        y, indices = max_pool_with_indices(x)
        return {
            "pooled": (y, indices),
            "mapped": jax.vmap(max_pool_with_indices)(x),
            "alone": max_pool_with_indices(x[0, 0])[1],
            "unpooled": unpool(y, indices),
            "unpooled, mapped": jax.vmap(unpool)(y, indices),
            "tangent": jax.jvp(lambda x: max_pool_with_indices(x)[0], (x,), (x,))[1],
            "tangent of unpooling": jax.jvp(lambda y: unpool(y, indices), (y,), (y,))[1],
        }

    found = jax.tree.map(np.asarray, compute(x))
    y, indices = found["pooled"]
    assert y.dtype == dtype
    assert y.shape == (2, 3, 2, 2, 2)
    np.testing.assert_array_equal(found["mapped"][0], y)
    np.testing.assert_array_equal(found["mapped"][1], indices)
    np.testing.assert_array_equal(found["alone"], indices[0, 0])
    assert found["unpooled"].dtype == dtype
    np.testing.assert_array_equal(found["unpooled, mapped"], found["unpooled"])
    assert (found["unpooled"] != 0).sum() == y.size
    # Along the direction of the input itself, pooling and unpooling are their own derivatives.
    np.testing.assert_array_equal(found["tangent"], y)
    np.testing.assert_array_equal(found["tangent of unpooling"], found["unpooled"])


def test_float64():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).standard_normal((1, 4, 4, 1))
        y, indices = max_pool_with_indices(x)
        assert y.dtype == jnp.float64
        assert indices.dtype == jnp.int32
        np.testing.assert_array_equal(y, last(F.max_pool2d(first(x), 2)))


def test_same_padding_is_xlas():
    """Of an odd number of pixels the one more comes after the image; and no pixel of the padding is the largest."""
    x = -np.random.default_rng(0).random((5, 4, 1), np.float32)
    y, indices = max_pool_with_indices(x, 3, 2, "SAME")
    assert y.shape == (3, 2, 1)
    np.testing.assert_array_equal(y, lax.reduce_window(x, -np.inf, lax.max, (3, 3, 1), (2, 2, 1), "SAME"))
    np.testing.assert_array_equal(y[..., 0], x.ravel()[indices[..., 0]])


def test_indices_outside_are_dropped():
    x = jnp.array([[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(max_unpool(x, jnp.array([[-1], [0], [7]]), (4,))[:, 0], [2, 0, 0, 0])


X = np.ones((2, 4, 4, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: max_pool_with_indices(X.astype(int)), TypeError, "max_pool_with_indices: x must be floating"),
        (lambda: max_pool_with_indices(X, 0), ValueError, "window must be at least 1"),
        (lambda: max_pool_with_indices(X, 2, 0), ValueError, "strides must be at least 1"),
        (lambda: max_pool_with_indices(X, 2, (1, 1, 1)), ValueError, "strides must be one number or 2"),
        (lambda: max_pool_with_indices(X, 5), ValueError, r"window=\(5, 5\) is larger than x"),
        (lambda: max_pool_with_indices(X, 2, padding=2), ValueError, "padding must be less than the window"),
        (
            lambda: max_pool_with_indices(X, 2, padding=3, dilation=2),
            ValueError,
            r"window, \(3, 3\) pixels with its dilation, on each side; got 3",
        ),
        (lambda: max_pool_with_indices(X, 2, ceil_mode="yes"), TypeError, "ceil_mode must be True or False; got 'yes'"),
        (lambda: max_pool_with_indices(X, 2, padding="same"), ValueError, "padding='same' is not known"),
        (lambda: max_pool_with_indices(X[0, 0]), ValueError, "x must be .* 2 spatial axes"),
        (lambda: max_pool_with_indices(X, (1,) * 4), ValueError, "x must be .* 4 spatial axes"),
        (lambda: max_pool_with_indices(X[:, :0]), ValueError, "none empty"),
        (lambda: max_unpool(X, X, 8), TypeError, "max_unpool: indices must be whole numbers; got float32"),
        (lambda: max_unpool(X, X[:1].astype(int), 8), ValueError, "indices must have the shape of x"),
        (lambda: max_unpool(X, X.astype(int), 0), ValueError, "output_size must be at least 1"),
        (lambda: max_unpool(X[0, 0], X[0, 0].astype(int), 8), ValueError, "x must be .* 2 spatial axes"),
    ],
)
def test_errors_explain(call, error, message):
    with pytest.raises(error, match=message):
        call()
