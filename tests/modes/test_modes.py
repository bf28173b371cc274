"""Every function and layer optimized, and in the stricter modes: promotion, transfers, leaks, NaN, meshes, export."""

import gc
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import upsampling as up
from tests.compiling import AS_FOR_USERS, QUICKLY
from tests.modes.calls import CALLS, FUNCTIONS, LAYERS, METRICS, public_functions
from upsampling import metrics

# All calls in all modes take minutes. A part of them, chosen so that each primitive and each way of computing is in it,
# runs unless UPSAMPLING_ALL_MODES is set.
ALL = bool(os.environ.get("UPSAMPLING_ALL_MODES"))
PART = [
    *("bicubic", "transposed_conv", "transposed_conv, depthwise", "sub_pixel_conv", "max_unpool", "similarities"),
    *("carafe", "joint_bilateral", "guided_filter", "grid_sample", "dysample", "flow_warp"),
    *("mean_iou", "boundary_f1", "hausdorff_distance", "nearest_background", "boundary_f1.accumulate"),
    *("nn.fade_lite", "nn.transposed_conv, grouped", "unify_features", "attend_to_neighbors"),
]
CHOSEN = list(CALLS) if ALL else PART
each_call = pytest.mark.parametrize("name", CALLS)
chosen_calls = pytest.mark.parametrize("name", CHOSEN)


def test_every_public_function_and_layer_is_called():
    assert public_functions() <= CALLS.keys()
    assert {f"nn.{name}" for name in up.nn.available()} <= CALLS.keys()
    assert set(PART) <= CALLS.keys()
    assert len(FUNCTIONS) + len(METRICS) + len(LAYERS) == len(CALLS)


def forward_and_gradient(call):
    """A function of the call's arrays."""

    def both(*arrays):
        gradients = jax.grad(call.loss, call.differentiable)(*arrays) if call.differentiable else None
        return call.function(*arrays), gradients

    return both


@each_call
def test_nothing_is_promoted(name):
    """Neither ranks nor dtypes, forward and backward, in the forms of every platform.

    These are read when a program is lowered. With x64 on Python's numbers have 64 bits too, and go with no others. In
    float32 all tests of the library run in these modes.
    """
    call, given = CALLS[name], CALLS[name].arrays()
    for dtype in ("bfloat16", "float64"):
        arrays = [a.astype(dtype) if np.issubdtype(a.dtype, np.floating) else a for a in given]
        x64 = jax.enable_x64(dtype == "float64")
        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), x64:
            traced = jax.jit(forward_and_gradient(call)).trace(*arrays)
            assert all(g.dtype == dtype for g in jax.tree.leaves(traced.out_info[1]))
            if name in CHOSEN:
                traced.lower(lowering_platforms=("cpu", "cuda", "tpu"))
            elif dtype == "float64":
                traced.lower(lowering_platforms=("cpu",))


@chosen_calls
def test_eager_calls_move_nothing_to_or_from_the_host(name):
    call = CALLS[name]
    arrays = jax.device_put(call.arrays())
    with jax.transfer_guard("disallow"):
        results = call.function(*arrays)
        if isinstance(results, metrics.Accumulator):
            (results + results).compute()


@each_call
def test_as_compiled_for_users(name):
    """What users get is what the other tests see: see `tests/compiling.py`."""
    call, arrays = CALLS[name], CALLS[name].arrays()
    function = forward_and_gradient(call) if name in CHOSEN else lambda *given: (call.function(*given), None)
    lowered = jax.jit(function).lower(*arrays)
    optimized, quick = (lowered.compile(options)(*arrays) for options in (AS_FOR_USERS, None))
    # LoftUp takes sines of what it multiplied by large numbers.
    tolerance = 2e-5 if name == "nn.loftup" else 1e-6
    largest = lambda leaf: np.abs(np.asarray(leaf, np.float64)).max(initial=0, where=np.isfinite(leaf))  # noqa: E731
    of_gradients = max(map(largest, jax.tree.leaves(quick[1])), default=0)
    for part, (own, other) in enumerate(zip(optimized, quick, strict=True)):
        for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(other), strict=True):
            assert a.dtype == b.dtype
            # Of the calls that run only where all are asked for some gradients cancel, as before a normalization: they
            # are as exact as those beside them.
            size = of_gradients if part == 1 and name not in PART else largest(b)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("name", ["carafe", "max_unpool", "mean_iou", "nn.transposed_conv, grouped"])
def test_no_tracer_leaks(name):
    call = CALLS[name]
    gc.freeze()  # JAX looks for garbage at every end of a trace: not among what other tests left
    try:
        with jax.checking_leaks():
            jax.jit(call.function)(*call.arrays())
    finally:
        gc.unfreeze()


def on_devices(names):
    flags = f"{QUICKLY} --xla_force_host_platform_device_count=8"
    program = [sys.executable, "-m", "tests.modes.sharded", *names]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_meshes():
    """Automatic and explicit axes, and shard_map: see `sharded.py`, which needs eight simulated devices."""
    assert on_devices(CHOSEN) == {}


@chosen_calls
def test_export(name):
    """For three platforms, with a symbolic number of images, forward and backward; and stored, and loaded again."""
    call = CALLS[name]
    (images,) = export.symbolic_shape("images")
    described = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in call.arrays()]
    for n in range(len(call.batched)):
        described[n] = jax.ShapeDtypeStruct((images, *described[n].shape[1:]), described[n].dtype)

    both = forward_and_gradient(call)
    stored = export.export(jax.jit(both), platforms=("cpu", "cuda", "tpu"))(*described).serialize()
    loaded = export.deserialize(bytearray(stored))
    if name in ("transposed_conv, depthwise", "boundary_f1.accumulate", "grid_sample"):
        arrays = call.arrays(3)
        for a, b in zip(jax.tree.leaves(loaded.call(*arrays)), jax.tree.leaves(both(*arrays)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_export_without_sizes():
    """Height and width are symbols too, where the operation allows it; else the error says so."""
    h, w = export.symbolic_shape("h, w", constraints=["h >= 2", "w >= 2"])
    x = jax.ShapeDtypeStruct((2, h, w, 4), jnp.float32)
    positions = jax.ShapeDtypeStruct((2, 3, 5, 2), jnp.float32)
    arrays = np.random.default_rng(0).uniform(0, 4, (2, 6, 5, 4)).astype(np.float32)
    places = np.random.default_rng(1).uniform(-1, 6, (2, 3, 5, 2)).astype(np.float32)
    for function, described, given in (
        (lambda x, p: up.grid_sample(x, p, method="bicubic", edge="symmetric"), (x, positions), (arrays, places)),
        (up.max_pool_with_indices, (x,), (arrays,)),
        (lambda x: up.transposed_conv(x, jnp.ones((4, 4, 4, 1))), (x,), (arrays,)),
        (lambda x: up.transposed_conv(x, jnp.ones((3, 3, 4, 1)), padding=1, output_padding=1), (x,), (arrays,)),
        (lambda x: up.deconv(x, jnp.ones((4, 4, 1, 4)), dilation=(1, 2)), (x,), (arrays,)),
        (lambda x: up.nearest(x, scale=2), (x,), (arrays,)),
        (lambda x: up.bilinear(x, scale=(3, 2)), (x,), (arrays,)),
        (lambda x: up.bicubic(x, scale=2), (x,), (arrays,)),
        (lambda x: up.resize(x, scale=2.0, method="linear", convention="jax"), (x,), (arrays,)),
    ):
        exported = export.export(jax.jit(function))(*described)
        for a, b in zip(jax.tree.leaves(exported.call(*given)), jax.tree.leaves(function(*given)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for function in (
        lambda x: up.bilinear(x, scale=1.5),
        lambda x: up.bilinear(x, 9),
        lambda x: up.bicubic(x, scale=2, convention="jax"),
        lambda x: up.bilinear(x, scale=2, convention="torch_align_corners"),
        lambda x: up.guided_filter(x, x),
        lambda x: up.transposed_conv(x, jnp.ones((4, 4, 4, 1)), output_size=12),
        lambda x: up.deconv(x, jnp.ones((4, 4, 1, 4)), output_size=12),
        lambda x: up.sub_pixel_conv(x, jnp.ones((3, 3, 4, 4)), padding="CIRCULAR"),
    ):
        with pytest.raises(TypeError, match=r"[xy] must have spatial sizes that are numbers.*got shape \(2, h, w, 4\)"):
            export.export(jax.jit(function))(x)


ABSENT = [
    *("iou", "mean_iou", "dice", "pixel_accuracy", "frequency_weighted_iou", "boundary_iou", "boundary_f1"),
    *("trimap_iou", "error_by_distance", "hausdorff_distance", "average_surface_distance", "normalized_surface_dice"),
]


@pytest.mark.parametrize("name", ABSENT)
def test_absent_classes_need_not_be_nan(name):
    """Values and sums, where JAX stops at the first NaN. All pixels are void in the second image."""
    target = np.zeros((2, 6, 5), np.int32)
    target[0, 2:4] = 1
    target[1] = 3
    prediction = np.where(target == 3, 0, target)
    function = getattr(metrics, name)
    with_nan = np.asarray(function(prediction, target, 3, ignore_index=3))
    with jax.debug_nans(True):
        values = np.asarray(function(prediction, target, 3, ignore_index=3, absent=-7))
        if name != "average_surface_distance":
            total = function.accumulate(prediction[1:], target[1:], 3, ignore_index=3, absent=-7)
            assert set(np.ravel((total + total).compute())) >= {-7.0}
    assert np.isnan(with_nan).any()
    np.testing.assert_array_equal(values, np.where(np.isnan(with_nan), -7, with_nan))


def test_the_mean_of_no_images_need_not_be_nan():
    with jax.debug_nans(True):
        assert float(metrics.image_mean(jnp.zeros((0, 1)), absent=-7).compute()[0]) == -7
    with pytest.raises(TypeError, match="iou: absent must be a number, NaN included; got None"):
        metrics.iou([[0]], [[0]], 1, absent=None)
