"""Calls with one argument out of place end in a right shape, or in an error that names function and argument.

Set UPSAMPLING_FUZZ=3000 for as many calls, or a larger number for all. They are traced and not run.
"""

import inspect
import os
import random
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from tests.modes.calls import public_functions

X, LOW, HIGH = (np.ones(shape, np.float32) for shape in ((2, 4, 6, 4), (2, 4, 6, 9), (2, 8, 12, 4)))
LABELS = np.zeros((2, 4, 6), np.int32)
KERNEL = np.ones((3, 3, 4, 8), np.float32)


def metrics_of(argument):
    """The metrics whose first argument this is."""
    functions = (getattr(up.metrics, name) for name in up.metrics.__all__)
    return [f for f in functions if inspect.isfunction(f) and next(iter(inspect.signature(f).parameters)) == argument]


# Functions with arguments that are right.
VALID = {
    up.resize: {"x": X, "size": (8, 8)},
    up.nearest: {"x": X, "scale": 2},
    up.area: {"x": X, "size": 2},
    up.transposed_conv: {"x": X, "kernel": KERNEL},
    up.transposed_conv_size: {"size": (4, 6), "kernel_size": 3},
    up.deconv: {"y": X, "kernel": np.ones((3, 3, 8, 4), np.float32)},
    up.pixel_shuffle: {"x": X, "scale": 2},
    up.pixel_unshuffle: {"x": X, "scale": 2},
    up.sub_pixel_conv: {"x": X, "kernel": KERNEL},
    up.max_pool_with_indices: {"x": X},
    up.max_unpool: {"x": X, "indices": np.zeros(X.shape, np.int32), "output_size": (8, 12)},
    up.reassemble: {"x": X, "weights": np.ones((2, 8, 12, 1, 3, 3), np.float32)},
    up.carafe: {"x": X, "logits": np.ones((2, 4, 6, 36), np.float32), "kernel_size": 3},
    up.sapa: {"x": X, "queries": HIGH, "keys": X, "kernel_size": 3},
    up.joint_bilateral: {"x": X, "guide": HIGH},
    up.bilateral_kernel: {"embedding": HIGH, "radius": 1},
    up.learned_bilateral: {"x": X, "kernel": np.ones((2, 8, 12, 3, 3), np.float32)},
    up.guided_filter: {"x": X, "guide": HIGH},
    up.upsample_anything: {"x": X, "guide": HIGH, "steps": 1, "radius": 1},
    up.neighborhood_attention: {"x": X, "queries": HIGH, "kernel_size": 3},
    up.grid_sample: {"x": X, "positions": np.ones((2, 3, 3, 2), np.float32)},
    up.positions_from_grid: {"grid": np.ones((2, 3, 3, 2), np.float32), "size": 4},
    up.dysample: {"x": X, "offsets": np.ones((2, 8, 12, 1, 2), np.float32)},
    up.flow_warp: {"x": X, "flow": np.ones((2, 8, 12, 2), np.float32)},
    up.bilinear: {"x": X, "scale": 2},
    up.bicubic: {"x": X, "scale": (1.5, 2)},
    up.lanczos3: {"x": X, "size": (3, 9)},
    up.scale_and_translate: {"x": X, "size": 8, "scale": 2, "translation": 0.5},
    up.fade: {
        "x": X,
        "guide": HIGH,
        "guide_logits": HIGH[..., :1].repeat(9, -1),
        "map_logits": LOW,
        "gate_logits": X[..., :1],
        "kernel_size": 3,
    },
    up.affine_grid: {"theta": np.ones((2, 2, 3), np.float32), "size": (4, 6)},
    **{f: {"prediction": LABELS, "target": LABELS, "num_classes": 3} for f in metrics_of("prediction")},
    **{f: {"matrix": np.ones((3, 3), np.int32)} for f in metrics_of("matrix")},
    **{f: {"mask": LABELS} for f in metrics_of("mask")},
    up.metrics.level_sets: {"target": LABELS, "num_classes": 3},
    up.metrics.boundary_loss: {"probabilities": X, "level_sets": X},
    up.metrics.image_mean: {"values": X},
    up.conventions.scipy_zoom: {},
    up.conventions.onnx: {},
}
ODD = [
    *(
        None,
        True,
        "False",
        "no such",
        b"ab",
        "",
        0,
        1,
        2,
        -1,
        7,
        2.5,
        0.95,
        -0.5,
        1e-60,
        1e300,
        float("nan"),
        float("inf"),
    ),
    *(
        10**30,
        2**31,
        2**40,
        -(2**40),
        50000,
        np.int64(2),
        np.float32(1.5),
        np.array(3),
        np.array([2, 2]),
        np.bool_(True),
    ),
    *((), (2,), (2, 2), (2, 0), (1, 2, 3), ((1, 0), (0, 1)), [1, [2, 3]], [None], ["a", "b"], [[1.0, 2.0], [3.0]], {}),
    *(np.zeros((2, 4, 6, 0), np.float32), np.zeros((0, 4, 6, 4), np.float32), np.ones((2, 4, 6, 4), complex)),
    *(
        np.ones((2, 4, 6, 4), int),
        np.array("text"),
        np.array([object()]),
        np.ones(3, np.float16),
        jnp.ones(()),
        X,
        LABELS,
    ),
    *(object(), len, up, slice(3), nnx.Rngs(0), "SAME", "bilinear", "zero", 3 + 2j),
]


def is_array(value):
    return isinstance(value, np.ndarray) and value.ndim > 1 and np.issubdtype(value.dtype, np.floating)


def complaint(function, argument, odd):
    """What is wrong with how a function takes an odd value for one argument, or nothing."""
    arguments = {**VALID[function], argument: odd}
    traced = {name: value for name, value in arguments.items() if is_array(value)}
    static = {name: value for name, value in arguments.items() if name not in traced}
    try:
        with warnings.catch_warnings(action="error"):
            jax.eval_shape(lambda traced: (function(**static, **traced), None)[1], traced)
    except (TypeError, ValueError) as error:
        message, parameters = str(error), inspect.signature(function).parameters
        if not re.match(rf"(conventions\.)?{function.__name__}: ", message):
            return f"names no function: {message}"
        return "" if re.search(rf"\b({'|'.join(parameters)})\b", message) else f"names no argument: {message}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_every_function_is_called():
    assert public_functions() <= {function.__name__ for function in VALID}


def test_what_a_longer_run_found():
    for axes in ([1, [2, 3]], None, {}, [None]):
        assert complaint(up.metrics.image_mean, "axes", axes) == ""
    assert complaint(up.upsample_anything, "radius", 50000) == ""
    nothing = np.zeros((2, 4, 6, 0), np.float32)
    assert complaint(up.neighborhood_attention, "queries", nothing) == ""
    assert complaint(up.upsample_anything, "guide", nothing) == ""
    with pytest.raises(TypeError, match="image_mean: axes must"):
        up.metrics.image_mean(X, [1, [2, 3]])


def test_one_argument_out_of_place():
    calls = [(f, argument, odd) for f in VALID for argument in inspect.signature(f).parameters for odd in ODD]
    count = min(int(os.environ.get("UPSAMPLING_FUZZ", "250")), len(calls))
    wrong = {}
    for function, argument, odd in random.Random(0).sample(calls, count):
        if found := complaint(function, argument, odd):
            wrong[f"{function.__name__}({argument}={odd!r:.60})"] = found
    assert wrong == {}
