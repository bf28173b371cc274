"""What all boundary metrics have in common: jit, vmap, batches, streaming, errors, and what they are worth."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.metrics.metric_maps import drawn
from upsampling import metrics
from upsampling.metrics import _labels

HD95 = {"percentile": 95, "boundary": "elements"}
PER_IMAGE = {
    "boundary_iou": metrics.boundary_iou,
    "boundary_f1": metrics.boundary_f1,
    "trimap_iou": metrics.trimap_iou,
    "trimap_confusion_matrix": metrics.trimap_confusion_matrix,
    "error_by_distance": metrics.error_by_distance,
    "hausdorff_distance": metrics.hausdorff_distance,
    "hausdorff_95": functools.partial(metrics.hausdorff_distance, **HD95),
    "average_surface_distance": metrics.average_surface_distance,
    "normalized_surface_dice": metrics.normalized_surface_dice,
}
ACCUMULATE = {name: function.accumulate for name, function in PER_IMAGE.items() if hasattr(function, "accumulate")} | {
    "hausdorff_95": functools.partial(metrics.hausdorff_distance.accumulate, **HD95)
}
EVERY = [f for name, f in PER_IMAGE.items() if name != "hausdorff_95"]
by_name = pytest.mark.parametrize("function", EVERY, ids=lambda f: f.__name__)


def batches(first=0):
    """Six pairs in two batch axes: one shape for most of these tests, so that each metric compiles once for it."""
    return tuple(x[first : first + 6].reshape(2, 3, 40, 40) for x in drawn())


@pytest.mark.parametrize("name", ACCUMULATE)
def test_jit_vmap_and_sums_over_batches_and_devices(name):
    """Two batch axes at once, and single images of both mapped over: values, and sums that add up."""
    function, accumulate = PER_IMAGE[name], ACCUMULATE[name]

    def of_an_image(prediction, target):
        mine = accumulate(prediction, target, 3)
        return function(prediction, target, 3), mine, jax.lax.psum(mine, ("device", "image"))

    mapped = jax.jit(jax.vmap(jax.vmap(of_an_image, axis_name="image"), axis_name="device"))
    for first in (0, 6):
        prediction, target = map(jnp.asarray, batches(first))
        whole, total = function(prediction, target, 3), accumulate(prediction, target, 3)
        assert np.isfinite(whole).any()
        values, mine, across = mapped(prediction, target)
        chex.assert_trees_all_close(values, whole, rtol=1e-6)
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[1, 2], across), total, rtol=1e-6)
        parts = [jax.tree.map(lambda x, i=i: x[i], mine) for i in np.ndindex(2, 3)]
        chex.assert_trees_all_close(jax.tree.map(jnp.asarray, sum(parts)), total, rtol=1e-6)
        assert np.isfinite(total.compute()).any()


@pytest.mark.parametrize("images_at_once", [1, 3, 4, 7, 100])
def test_a_few_images_at_a_time(monkeypatch, images_at_once):
    """A batch too large for one go gives what its images give one by one."""
    monkeypatch.setattr(_labels, "_IN_FLIGHT", images_at_once * 2 * 20)
    maps = np.random.default_rng(0).normal(size=(2, 7, 1, 4, 5))

    def function(a, b):
        assert len(a) <= images_at_once
        return {"sum": (a + b).sum((1, 2)), "first": a[:, 0]}

    got = _labels.over_images(function, 2, 2, *maps)
    np.testing.assert_allclose(got["sum"], maps.sum((0, 3, 4)), rtol=1e-5)
    np.testing.assert_allclose(got["first"], maps[0, ..., 0, :], rtol=1e-6)


def test_constants_inside_jit_are_checked_too():
    """Labels that are known while tracing, in a step that closes over them."""
    known = jnp.zeros((4, 4), jnp.int32)
    np.testing.assert_array_equal(jax.jit(lambda p: metrics.iou(p, known, 2))(known), [1, np.nan])
    wild = known + 7
    with pytest.raises(ValueError, match=r"^iou: target has label 7"):
        jax.jit(lambda p: metrics.iou(p, wild, 2))(known)


def test_other_axes():
    prediction, target = batches()
    for function in (metrics.boundary_iou, metrics.boundary_f1, metrics.error_by_distance):
        moved = function(*(np.moveaxis(x, (0, 1), (2, 3)) for x in (prediction, target)), 3, axes=(0, 1))
        chex.assert_trees_all_close(moved, function(prediction, target, 3))


@by_name
def test_no_images(function):
    """Batches of none give values of none, and sums of nothing."""
    maps = np.zeros((0, 4, 4), int)

    def both(maps):
        return function(maps, maps, 2), getattr(function, "accumulate", lambda *_: ())(maps, maps, 2)

    got, nothing = both(maps)
    one, sums = jax.eval_shape(both, jax.ShapeDtypeStruct((1, 4, 4), jnp.int32))
    assert got.shape == (0, *one.shape[1:])
    assert got.dtype == one.dtype
    chex.assert_trees_all_equal_shapes_and_dtypes(nothing, sums)
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))


def test_widths_and_tolerances_beyond_the_image():
    """However large, as if all of the image were near."""
    prediction, target = (np.minimum(x[0, 0, :8, :9], 1) for x in batches())
    prediction[3, 4] = 2  # a class in one map only is infinitely far from the other's
    large = {
        metrics.boundary_iou: "width",
        metrics.boundary_f1: "tolerance",
        metrics.trimap_iou: "width",
        metrics.normalized_surface_dice: "tolerance",
    }

    @jax.jit
    def figures(*maps):
        pairs = [
            [function(*maps, 3, **{argument: x, "unit": "pixels"}) for x in (1e30, 100)]
            for function, argument in large.items()
        ]
        return pairs, [metrics.error_by_distance(*maps, 3, distances=d) for d in ((0, 100, 1e30), (0, np.inf))]

    pairs, (huge, unlimited) = figures(prediction, target)
    for one, other in pairs:
        chex.assert_trees_all_equal(one, other)
    assert pairs[-1][0][2] == 0
    assert np.isnan(huge[1]).all()
    chex.assert_trees_all_equal(huge[0], unlimited[0])


def test_one_class():
    maps = np.zeros((6, 8), int)
    iou, dice, distance = jax.jit(
        lambda x: (
            metrics.boundary_iou(x, x, 1),
            metrics.normalized_surface_dice(x, x, 1),
            metrics.average_surface_distance(x, x, 1),
        )
    )(maps)
    np.testing.assert_array_equal([iou, dice, distance], [[1], [1], [0]])


def test_void_everywhere():
    """Nothing is left to measure."""
    target = np.full((6, 8), 255)

    @jax.jit
    def figures(*maps):
        f1 = [metrics.boundary_f1(*maps, 2, 255, void=void) for void in ("background", "neutral", "uncounted")]
        functions = (metrics.boundary_iou, metrics.trimap_iou, metrics.average_surface_distance)
        return f1 + [function(*maps, 2, 255) for function in functions]

    for values in figures(np.zeros_like(target), target):
        assert np.isnan(values).all()


def test_a_perfect_prediction():
    _, target = batches()
    for name, function in PER_IMAGE.items():
        got = np.asarray(function(target, target, 3))
        if name == "trimap_confusion_matrix":
            assert not got[..., ~np.eye(3, dtype=bool)].any()
            continue
        best = 0 if "distance" in name or "hausdorff" in name else 1
        assert set(got[~np.isnan(got)]) == {best}, name


@by_name
def test_labels(function):
    """Logits are refused, whatever their precision; labels out of range are errors outside jit."""
    name = function.__name__
    maps = jnp.zeros((4, 4), jnp.int32)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        with pytest.raises(TypeError, match=rf"^{name}: prediction .*{jnp.dtype(dtype)}.*argmax"):
            function(maps.astype(dtype), maps, 2)
        with pytest.raises(TypeError, match=rf"^{name}: target"):
            jax.jit(lambda p, t: function(p, t, 2))(maps, maps.astype(dtype))
    for bad in (-1, 2, 9, 255):
        with pytest.raises(ValueError, match=rf"^{name}: prediction has label {bad} .*allows 0 to 1\."):
            function(maps.at[1, 2].set(bad), maps, 2, 9)
    with pytest.raises(ValueError, match=rf"^{name}: target has label 255 .*allows 0 to 1, or ignore_index=9\."):
        function(maps, maps.at[1, 2].set(255), 2, 9)


@by_name
def test_arguments(function):
    name = function.__name__
    maps = jnp.zeros((4, 4), jnp.int32)
    wrong = [
        ({"num_classes": 0}, ValueError, "num_classes"),
        ({"num_classes": 2.0}, TypeError, "num_classes"),
        ({"ignore_index": "7"}, TypeError, "ignore_index"),
        ({"void": "neutrall"}, ValueError, "void='neutrall' is not known. Did you mean 'neutral'"),
        ({"axes": (0, 0)}, ValueError, "axes"),
        ({"axes": (0, 2)}, ValueError, "axes"),
        ({"spacing": (1, -1)}, ValueError, "spacing"),
        ({"spacing": (1, 1), "axes": (0,)}, ValueError, "spacing"),
        ({"boundary": "outside"}, ValueError, "boundary='outside'"),
        ({"boundary": "elements", "void": "neutral", "ignore_index": 7}, ValueError, 'void="neutral"'),
        ({"frame": 1}, TypeError, "frame"),
        ({"missing": "zero"}, ValueError, "missing='zero'"),
        ({"average": "median"}, ValueError, "average='median'"),
        ({"percentile": 101}, ValueError, "percentile"),
        ({"percentile": -1}, ValueError, "percentile"),
        ({"percentile": "95"}, TypeError, "percentile"),
        ({"percentile_of": "both"}, ValueError, "percentile_of='both'"),
        ({"interpolation": "cubic"}, ValueError, "interpolation='cubic'"),
        ({"interpolation": "linear", "boundary": "elements"}, ValueError, "interpolation"),
        ({"unit": "mm"}, ValueError, "unit='mm'"),
        ({"tolerance": -1}, ValueError, "tolerance"),
        ({"tolerance": np.nan}, ValueError, "tolerance"),
        ({"tolerance": "1"}, TypeError, "tolerance"),
        ({"tolerance": True}, TypeError, "tolerance"),
        ({"tolerance": 2, "unit": "diagonal"}, ValueError, 'tolerance=2 is a fraction .*unit="pixels"'),
        ({"width": 5, "unit": "diagonal"}, ValueError, 'width=5 is a fraction .*unit="pixels"'),
        ({"width": -1}, ValueError, "width"),
    ]
    taken = inspect.signature(function).parameters
    tried = 0
    for arguments, error, message in wrong:
        if set(arguments) <= set(taken):
            tried += 1
            with pytest.raises(error, match=rf"^{name}: {message}"):
                function(maps, maps, **{"num_classes": 2, **arguments})
    assert tried >= 6
    with pytest.raises(ValueError, match=rf"^{name}: prediction and target must have the same shape"):
        function(maps, maps[None], 2)
    with pytest.raises(ValueError, match=rf"^{name}: .*at least 1 pixel"):
        function(maps[:0], maps[:0], 2)
    with pytest.raises(TypeError, match=rf"^{name}: num_classes must be static"):
        jax.jit(function)(maps, maps, 2)


def test_widths_of_boundary_iou_in_pixels():
    maps = np.zeros((4, 4), int)
    for width in (0, 1.5):
        with pytest.raises(ValueError, match="boundary_iou: width in pixels must be whole"):
            metrics.boundary_iou(maps, maps, 2, width=width, unit="pixels")


def test_the_mean_of_two_directions_does_not_stream():
    maps = np.zeros((4, 4), int)
    with pytest.raises(ValueError, match=r"average_surface_distance.accumulate: .*image_mean"):
        metrics.average_surface_distance.accumulate(maps, maps, 2, average="mean")


def test_labels_out_of_range_inside_jit():
    """For the boundary's metrics as if there were one more class, of which nothing is asked.

    Near the boundary they do not count in the target; in the prediction they do not count for IoU, and are errors by
    distance.
    """
    maps = batches()
    maps[0][..., 10:14, 20:30] = 3
    maps[1][..., 30:33, 5:9] = 3
    wild = [jnp.asarray(np.where(x == 3, np.where(np.arange(40) % 2, -5, 77), x)) for x in maps]
    prediction, target = maps
    wrong = np.where(prediction == 3, (target + 1) % 3, prediction)
    of = (metrics.boundary_iou, metrics.boundary_f1, metrics.error_by_distance, metrics.trimap_confusion_matrix)
    iou, f1, errors, counts = jax.jit(lambda p, t: [function(p, t, 3) for function in of])(*wild)
    chex.assert_trees_all_close(iou, metrics.boundary_iou(*maps, 4)[..., :3], rtol=1e-6)
    chex.assert_trees_all_close(f1, metrics.boundary_f1(*maps, 4)[..., :3], rtol=1e-6)
    chex.assert_trees_all_close(errors, metrics.error_by_distance(wrong, target, 3, ignore_index=3), rtol=1e-6)
    chex.assert_trees_all_equal(counts, metrics.trimap_confusion_matrix(prediction, target, 4)[..., :3, :3])


def test_64_bits():
    prediction, target = batches()
    expected = np.asarray(PER_IMAGE["hausdorff_95"](prediction, target, 3))
    with jax.enable_x64(True):
        got = PER_IMAGE["hausdorff_95"](prediction, target, 3)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, expected, rtol=1e-6)
