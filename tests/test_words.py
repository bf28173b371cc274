"""Numbers and arrays of unusual kinds, and the words of other libraries."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

import upsampling as up

X = jnp.ones((4, 6, 3))
LABELS = np.zeros((4, 6), np.int32)


def test_numbers_of_numpy_and_jax_are_numbers():
    assert up.transposed_conv_size(np.int64(5), 3, 2) == (10,)
    assert up.analysis.overlap(np.int64(3), 2).shape == (2,)
    np.testing.assert_array_equal(up.nearest(jnp.arange(2.0), scale=(2,), axes=np.int64(0)), [0, 0, 1, 1])
    maps = {"prediction": LABELS, "target": LABELS, "num_classes": np.int64(2)}
    for number in (np.float32(50), np.array(50), jnp.array(50.0)):
        assert float(up.metrics.hausdorff_distance(**maps, percentile=number)[0]) == 0
        assert float(up.metrics.boundary_f1(**maps, tolerance=number, frame=True)[0]) == 1
        assert float(up.metrics.boundary_iou(**maps, width=number, unit="pixels")[0]) == 1


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (TypeError, lambda: up.bilinear("map", 4), "bilinear: x must be an array; got str"),
        (TypeError, lambda: up.bilinear([[1.0, 2.0], [3.0]], 4), "bilinear: x must be an array of numbers"),
        (TypeError, lambda: up.bilinear([None], 4), r"bilinear: x must be an array of numbers; got \[None\]"),
        (TypeError, lambda: up.resize(X, size=b"ab"), "resize: size must be a number or a sequence of numbers"),
        (ValueError, lambda: up.bilateral_kernel(X, radius=10**30), "bilateral_kernel: radius must be a number of 32"),
        (
            ValueError,
            lambda: up.metrics.hausdorff_distance(LABELS, LABELS, 2, percentile=0.95),
            "percentile must be 0, or from 1 to 100, in percent; got 0.95",
        ),
        (ValueError, lambda: up.metrics.iou(LABELS, LABELS, 2, 2**40), "iou: ignore_index must be a number of 32 bits"),
        (ValueError, lambda: up.metrics.iou(LABELS, LABELS, 46341), "iou: num_classes must be at most 46340"),
        (
            ValueError,
            lambda: up.conventions.onnx(cubic_coeff_a=math.nan),
            "conventions.onnx: cubic_coeff_a must be finite",
        ),
        (TypeError, lambda: up.conventions.onnx(extrapolation_value="0"), "extrapolation_value must be a real number"),
        (ValueError, lambda: up.conventions.onnx(roi=(0, 1)), "conventions.onnx: roi must be .start, end. pairs"),
        # Words of other libraries.
        (
            TypeError,
            lambda: up.resize(X, scale_factor=2),
            "resize: there is no argument 'scale_factor'. Here it is scale",
        ),
        (TypeError, lambda: up.resize(X, 4, mode="bilinear"), "'mode'. Here it is method"),
        (TypeError, lambda: up.bilinear(X, 4, align_corners=True), "Here it is convention: .torch_align_corners"),
        (TypeError, lambda: up.transposed_conv(X, X[None], stride=2), "'stride'. Here it is strides"),
        (TypeError, lambda: up.grid_sample(X, X[..., :2], padding_mode="zeros"), "'padding_mode'. Here it is edge"),
        (
            TypeError,
            lambda: up.nn.TransposedConv(8, out_channels=3, rngs=nnx.Rngs(0)),
            "TransposedConv: there is no argument 'out_channels'. Here it is out_features",
        ),
        (
            TypeError,
            lambda: up.nn.create("carafe", 8, scale_factor=2, rngs=nnx.Rngs(0)),
            "create: 'carafe' was given an option it does not have: 'scale_factor'. Here it is scale",
        ),
        (
            ValueError,
            lambda: up.nn.create("pixel_shuffle", 8, rngs=nnx.Rngs(0)),
            "create: name='pixel_shuffle' is not known. Here it is 'sub_pixel_conv'",
        ),
        *(
            (
                ValueError,
                lambda name=name: up.nn.create(name, 8, rngs=nnx.Rngs(0)),
                f"{name}' is not known. Here it is '{here}'",
            )
            for name, here in (
                ("PixelShuffle", "sub_pixel_conv"),
                ("ConvTranspose2d", "transposed_conv"),
                ("Conv2DTranspose", "transposed_conv"),
                ("MaxUnpool2d", "max_unpool"),
                ("CARAFE", "carafe"),
            )
        ),
        (TypeError, lambda: up.grid_sample(X, X[..., :2], align_corners=True), "Here it is positions; positions_from_"),
        (TypeError, lambda: up.max_pool_with_indices(X, kernel_size=2), "'kernel_size'. Here it is window"),
        (TypeError, lambda: up.resize(X, dsize=(8, 8)), "'dsize'. Here it is size"),
        (TypeError, lambda: up.nn.create("bilinear", 3, mode="nearest", rngs=nnx.Rngs(0)), "'mode'. Here it is name"),
        (
            ValueError,
            lambda: up.nn.create("carafe", 3, rngs=nnx.Rngs(0))(jnp.ones((1, 3, 32, 32))),
            "CARAFE: x must have features=3 channels; got shape .1, 3, 32, 32.. Channels come last here",
        ),
    ],
)
def test_errors(error, call, message):
    with pytest.raises(error, match=message):
        call()


def test_a_size_takes_the_place_of_the_default_scale():
    layer = up.nn.create("bilinear", 3, size=(13, 19), rngs=nnx.Rngs(0))
    assert layer(X).shape == (13, 19, 3)


def test_a_radius_beyond_the_image_is_the_image():
    guide = jax.random.uniform(jax.random.key(0), (4, 6, 3))
    for function in (up.guided_filter, up.joint_bilateral):
        np.testing.assert_allclose(function(X, guide, radius=1000), function(X, guide, radius=6), rtol=1e-6)


@pytest.mark.parametrize(
    "state",
    [
        *(None, [1.0], {"weight": np.ones((8, 3, 4, 4), complex), "bias": np.ones(3)}),
        {"weight": [[1.0], [2.0, 3.0]], "bias": np.ones(3)},
    ],
)
def test_states_that_are_none(state):
    layer = up.nn.TransposedConv(8, out_features=3, kernel_size=4, padding=1, rngs=nnx.Rngs(0))
    before = np.asarray(layer.kernel[...])
    with pytest.raises(TypeError, match=r"load_state_dict: ('weight'|state) must be"):
        up.interop.torch.load_state_dict(layer, state)
    np.testing.assert_array_equal(layer.kernel[...], before)


def test_a_whole_checkpoint():
    layer = up.nn.TransposedConv(8, out_features=3, kernel_size=4, padding=1, rngs=nnx.Rngs(0))
    state = {"weight": np.full((8, 3, 4, 4), 2.0, np.float32), "bias": np.ones(3, np.float32)}
    up.interop.torch.load_state_dict(layer, {"state_dict": state, "epoch": 3})
    assert float(layer.kernel[0, 0, 0, 0]) == 2


def test_initializers_with_a_partitioning():
    partitioned = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, None, None, "model"))
    with jax.set_mesh(jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))):
        layer = up.nn.SubPixelConv(4, kernel_init=partitioned, rngs=nnx.Rngs(0))
    assert layer.kernel.shape == (3, 3, 4, 16)
    assert layer.kernel.get_metadata()["out_sharding"][-1] == "model"


def test_layers_under_nnx_jit_remat_and_linen():
    layer = up.nn.CARAFE(4, kernel_size=3, compressed_features=2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 4))
    y = nnx.jit(lambda layer, x: layer(x))(layer, x)
    np.testing.assert_allclose(nnx.remat(lambda layer, x: layer(x))(layer, x), y, atol=1e-6)
    linen = nnx.bridge.to_linen(up.nn.CARAFE, 4, kernel_size=3, compressed_features=2)
    assert linen.apply(linen.init(jax.random.key(0), x), x).shape == y.shape
