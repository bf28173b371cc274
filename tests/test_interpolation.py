"""`resize` end to end: the frameworks' numbers, arrays of any shape and dtype, transforms, sharding, cost, errors."""

import functools
import re
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.transform

import upsampling as up
from tests import frameworks
from tests.compiling import planned_as_for_users
from tests.optional import F, torch
from tests.references import make_tensorflow
from upsampling import conventions, implicit
from upsampling.interpolation import _compiled
from upsampling.primitives import resample as resampling
from upsampling.primitives import taps

METHODS = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")


def image(seed, *shape):
    return np.random.default_rng(seed).random(shape, np.float32)


# --- numbers; tests/test_conventions.py has many more sizes -----------------------------------------------------------


@pytest.mark.parametrize(("name", "method", "antialias"), frameworks.combinations(conventions.PRESETS))
def test_numbers_are_the_framework_s(name, method, antialias):
    """A random size, in an array of random axis order."""
    seed = [*map(ord, name + method), antialias]
    generator = np.random.default_rng(seed)
    shape, size = generator.integers(1, 41, 2), tuple(int(m) for m in generator.integers(1, 41, 2))
    x = generator.random((*shape, 4), np.float32)
    expected = frameworks.FRAMEWORKS[name](x, size, None, method, antialias)
    # scikit-image's limits are those of the image; with other axes, it is not known which ones the image has.
    kept = name == "skimage" and method == "cubic"
    order = (0, 1, 2) if kept else tuple(int(axis) for axis in generator.permutation(3))
    back = np.argsort(order)
    axes = tuple(int(back[axis]) - 3 * int(generator.integers(2)) for axis in (0, 1))
    axes = None if kept else axes
    actual = up.resize(x.transpose(order), size, method=method, convention=name, antialias=antialias, axes=axes)
    tolerance = 0 if method.startswith("nearest") and not antialias else 1e-5
    np.testing.assert_allclose(np.asarray(actual).transpose(back), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", make_tensorflow.METHODS)
def test_numbers_are_tensorflow_s(name):
    first = {}
    for key, convention, *case in make_tensorflow.cases():
        if convention == name:
            first.setdefault(tuple(case[:2]), (key, *case[2:]))
    assert set(first) == set(make_tensorflow.METHODS[name])

    @jax.jit
    def compute(images):
        return {
            (method, antialias): up.resize(x, size, method=method, convention=name, antialias=antialias)
            for ((method, antialias), (_, _, size)), x in zip(first.items(), images, strict=True)
        }

    actual = compute([x for _, x, _ in first.values()])
    with np.load(make_tensorflow.PATH) as recorded:
        for (method, antialias), (key, _, _) in first.items():
            tolerance = 0 if method == "nearest" else 1e-5
            found = actual[method, antialias]
            np.testing.assert_allclose(found, recorded[key], rtol=0, atol=tolerance, err_msg=method)


@pytest.mark.parametrize("method", METHODS)
def test_one_and_three_spatial_axes(method):
    for rank, scale in ((1, (2.5,)), (3, (2, 1.5, 0.5))):
        if rank != 2 and method == "bicubic":
            continue  # PyTorch has it for images only; tests/test_taps.py has its taps
        x = image(rank, 2, *(5, 6, 7)[:rank], 3)
        mode = {"bilinear": {1: "linear", 3: "trilinear"}[rank]}.get(method, method)
        y = F.interpolate(torch.from_numpy(x).movedim(-1, 1), scale_factor=scale, mode=mode).movedim(1, -1)
        np.testing.assert_allclose(up.resize(x, scale=scale, method=mode), y, rtol=0, atol=1e-5)


def test_onnx_crop_end_to_end():
    attributes = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    roi = ((-0.2, 0.7), (0.1, 1.3))
    x = image(0, 9, 11, 2)
    expected = frameworks.onnx_runtime(x, (12, 8), None, "linear", False, roi=roi, **attributes)
    actual = up.resize(x, (12, 8), method="linear", convention=conventions.onnx(**attributes, roi=roi))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    assert np.any(expected == 7)
    far = conventions.onnx(**attributes, roi=((2, 3),), exclude_outside=True)
    value, gradient = jax.value_and_grad(lambda x: up.bicubic(x, 5, convention=far).sum())(x)
    assert value == 7 * 5 * 5 * 2
    np.testing.assert_array_equal(gradient, 0)


def test_onnx_aspect_end_to_end():
    convention = conventions.onnx(keep_aspect_ratio_policy="not_larger")
    assert up.resize(image(0, 10, 20, 3), (8, 8), convention=convention).shape == (4, 8, 3)


def test_worked_example():
    """A 2x2 map to 4x4: target pixel (1, 1) on the corner-anchored and on the half-pixel grid."""

    def weights(convention):
        return jax.grad(lambda x: up.bilinear(x[..., None], (4, 4), convention=convention)[1, 1, 0])(jnp.zeros((2, 2)))

    np.testing.assert_array_equal(weights("tensorflow1"), [[0.25, 0.25], [0.25, 0.25]])
    np.testing.assert_array_equal(weights("torch"), [[0.5625, 0.1875], [0.1875, 0.0625]])


def test_antialiasing_is_the_convention_s_choice_unless_one_is_made():
    """MATLAB antialiases all but nearest; here the others do when told to."""
    x = image(0, 12, 10, 3)
    options = {"scale": 1 / 3, "convention": "matlab"}
    for method, other in (("bicubic", False), ("box", False), ("nearest", None)):
        found = up.resize(x, method=method, **options)
        assert found.shape == (4, 4, 3)
        widened = method != "nearest"
        expected = frameworks.matlab(x, None, (1 / 3, 1 / 3), method.removeprefix("bi"), widened)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(found, up.resize(x, method=method, antialias=widened, **options))
        if other is not None:
            assert np.abs(found - up.resize(x, method=method, antialias=other, **options)).max() > 1e-2
    np.testing.assert_array_equal(up.bicubic(x, **options), up.nn.Bicubic(1 / 3, convention="matlab")(x))
    np.testing.assert_array_equal(up.bicubic(x, scale=0.5), up.bicubic(x, scale=0.5, antialias=False))
    with pytest.raises(TypeError, match=re.escape("bicubic: antialias must be True or False; got 'no'")):
        up.bicubic(x, antialias="no", **options)


def test_scipy_in_three_dimensions_and_in_float64():
    volume = np.random.default_rng(1).random((7, 9, 6))
    options = {"mode": "grid-constant", "cval": 2.0, "grid_mode": True}
    expected = scipy.ndimage.zoom(volume, (1.5, 0.7, 2), **options)
    with jax.enable_x64(True):
        x = volume.transpose(1, 2, 0)
        convention = conventions.scipy_zoom(**options)
        found = up.resize(x, scale=(0.7, 1.5, 2), method="tricubic", convention=convention, axes=(0, 2, 1))
    np.testing.assert_allclose(found.transpose(2, 0, 1), expected, rtol=0, atol=1e-12)


def test_scikit_image_leaves_labels_alone_and_keeps_the_range_of_each_image():
    labels = np.random.default_rng(0).integers(0, 5, (12, 10, 1))
    expected = skimage.transform.resize(labels, (5, 4), order=0, preserve_range=True)
    np.testing.assert_array_equal(up.nearest(labels, (5, 4), convention="skimage"), expected)
    x = (image(2, 2, 12, 10, 3) > 0.5) * np.array([1, 5], np.float32)[:, None, None, None]
    y = up.bicubic(x, (20, 30), convention="skimage")
    for given, found in zip(x, y, strict=True):
        expected = skimage.transform.resize(given, (20, 30), order=3)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos3", "lanczos5"])
def test_scale_and_translate_is_jax_image_s(method):
    x = image(3, 2, 9, 8, 3)
    jax_s = {"bilinear": "linear", "bicubic": "cubic"}.get(method, method)

    @jax.jit
    def compute(x, scale, translation):
        pairs = []
        for antialias in (False, True):
            ours = functools.partial(up.scale_and_translate, size=(7, 12), method=method, antialias=antialias)
            theirs = functools.partial(
                jax.image.scale_and_translate,
                shape=(2, 7, 12, 3),
                spatial_dims=(1, 2),
                method=jax_s,
                antialias=antialias,
            )
            for function in (ours, theirs):
                value = function(x, scale=scale, translation=translation)
                # Not at the scale of one, where the antialiasing kernel has a kink.
                slopes = jax.grad(lambda s, t, f=function: (f(x, scale=s, translation=t) ** 2).sum(), (0, 1))
                pairs.append((value, *slopes(scale, translation)))
        return pairs

    plain, expected_plain, wide, expected_wide = compute(x, np.float32([0.6, 1.7]), np.float32([0.3, -2.2]))
    for found, expected in ((plain, expected_plain), (wide, expected_wide)):
        np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-5)
        for ours, theirs in zip(found[1:], expected[1:], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_scale_and_translate_refuses():
    x = jnp.zeros((8, 9, 3))
    with pytest.raises(ValueError, match="method='nearest' is not known"):
        up.scale_and_translate(x, 4, 1.0, 0.0, method="nearest")
    with pytest.raises(
        ValueError, match=r"scale must be one number or 2 of them, one per spatial axis; got shape \(3,\)"
    ):
        up.scale_and_translate(x, 4, (1.0, 1.0, 1.0), 0.0)
    assert up.scale_and_translate(x.astype(jnp.bfloat16), 4, 0.5, 0).dtype == jnp.bfloat16


def test_named_functions_are_resize():
    x = image(0, 6, 8, 3)
    for name, options in (
        ("nearest", {}),
        ("bilinear", {"antialias": True}),
        ("bicubic", {"convention": "opencv"}),
        ("lanczos3", {"antialias": True}),
        ("area", {}),
    ):
        resized = up.resize(x, (4, 9), method=name, **({"convention": "jax"} if name == "lanczos3" else {}) | options)
        np.testing.assert_array_equal(getattr(up, name)(x, (4, 9), **options), resized)
        np.testing.assert_array_equal(
            getattr(up, name)(x.transpose(2, 0, 1), scale=1, axes=(-2, -1)), x.transpose(2, 0, 1)
        )
    same = functools.partial(up.resize, x, (9, 5))
    np.testing.assert_array_equal(same(method="trilinear"), same(method="linear"))
    np.testing.assert_array_equal(same(method="tricubic"), same(method="bicubic"))


def test_scale_and_size_agree_where_they_should():
    x = image(0, 6, 8, 3)
    np.testing.assert_array_equal(up.bicubic(x, scale=2), up.bicubic(x, (12, 16)))
    np.testing.assert_array_equal(up.bicubic(x, scale=(2, 0.5)), up.bicubic(x, (12, 4)))
    np.testing.assert_array_equal(up.bicubic(x, 7), up.bicubic(x, [7, 7]))
    assert up.bicubic(x, scale=(1.5, 1.49)).shape == (9, 11, 3)
    assert up.bicubic(x, scale=(1.5, 1.49), convention="opencv").shape == (9, 12, 3)
    # PyTorch's coordinates take the scale that was given; TensorFlow has no scale.
    assert np.abs(up.bicubic(x, scale=1.3) - up.bicubic(x, (7, 10))).max() > 1e-3
    tensorflow = functools.partial(up.bicubic, x, convention="tensorflow")
    np.testing.assert_array_equal(tensorflow(scale=1.3), tensorflow((7, 10)))


# --- shapes and dtypes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (2,), (2, 1, 3), (0,)])
def test_any_batch(batch):
    x = image(0, *batch, 5, 4, 3)
    y = up.bicubic(x, (7, 9))
    assert y.shape == (*batch, 7, 9, 3)
    for index in np.ndindex(*batch):
        np.testing.assert_allclose(y[index], up.bicubic(x[index], (7, 9)), rtol=0, atol=1e-6)


def test_resizing_by_one_changes_nothing():
    x = image(0, 2, 5, 4, 3)
    cases = frameworks.combinations(conventions.PRESETS)
    resized = jax.jit(lambda x: [up.resize(x, scale=1, method=m, convention=c, antialias=a) for c, m, a in cases])(x)
    for case, y in zip(cases, resized, strict=True):
        np.testing.assert_array_equal(y, x, err_msg=str(case))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("method", "antialias"), [("bilinear", False), ("bicubic", False), ("bicubic", True)])
def test_half_precision_is_float32_rounded(dtype, method, antialias):
    x = jnp.asarray(image(0, 2, 9, 7, 5), dtype)
    for size in ((20, 15), (4, 3)):
        y = up.resize(x, size, method=method, antialias=antialias)
        assert y.dtype == dtype
        exact = up.resize(x.astype(jnp.float32), size, method=method, antialias=antialias).astype(dtype)
        _, exponent = np.frexp(np.asarray(exact, np.float64))
        last_place = np.ldexp(float(jnp.finfo(dtype).eps), exponent - 1)
        assert np.all(np.abs(np.asarray(y, np.float64) - np.asarray(exact, np.float64)) <= last_place)


def test_half_precision_gradients_accumulate_in_float32():
    x = jnp.zeros((8, 1), jnp.bfloat16)
    # 512 outputs feed each input; summed in bfloat16 one by one they would stop at 256.
    gradient = jax.grad(lambda x: up.nearest(x, (4096,)).sum(dtype=jnp.float32))(x)
    np.testing.assert_array_equal(gradient, 512)


def test_float64():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).random((6, 7, 2))
        for method, mode in (("bilinear", "bilinear"), ("bicubic", "bicubic")):
            y = up.resize(x, (11, 5), method=method)
            assert y.dtype == jnp.float64
            expected = F.interpolate(torch.from_numpy(x).movedim(-1, 0)[None], (11, 5), mode=mode)
            np.testing.assert_allclose(y, expected[0].movedim(0, -1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_integers(dtype):
    x = np.random.default_rng(0).integers(0, 2 if dtype is bool else 120, (5, 6, 2)).astype(dtype)
    for method in ("nearest", "nearest-exact"):
        y = up.resize(x, (9, 4), method=method)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, up.resize(x.astype(np.float32), (9, 4), method=method).astype(dtype))
    assert up.nearest(x, scale=2).dtype == dtype
    assert up.nearest(x, scale=0.5).dtype == dtype
    y = up.bilinear(x, (9, 4))
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, up.bilinear(x.astype(np.float32), (9, 4)))


def test_large_integers_keep_every_value():
    x = np.array([[2**31 - 1, -(2**31), 2**24 + 1]], np.int32)
    np.testing.assert_array_equal(up.nearest(x, scale=3, axes=(0, 1)), x.repeat(3, 0).repeat(3, 1))


def test_what_is_not_finite_stays_where_it_is():
    x = image(0, 12, 1)
    x[5] = np.nan
    for method, reach in (("nearest", 0.5), ("bilinear", 1), ("bicubic", 2)):
        y = np.asarray(up.resize(x, (24,), method=method))[:, 0]
        center = (np.arange(24) + 0.5) / 2 - 0.5
        np.testing.assert_array_equal(np.isnan(y), np.abs(center - 5) < reach)
        # The same for the adjoint: a pixel of it sums only the outputs that it feeds.
        g = np.zeros((24, 1), np.float32)
        g[3] = np.nan
        _, pull_back = jax.vjp(lambda x, m=method: up.resize(x, (24,), method=m), jnp.zeros((12, 1)))
        fed = taps.operators((taps.Axis(12, 24),), method.removeprefix("bi"), conventions.torch)[0].matrix()[3] != 0
        np.testing.assert_array_equal(np.isnan(pull_back(g)[0])[:, 0], fed)


# --- how taps are applied ---------------------------------------------------------------------------------------------

# Each way of applying them: one loop, intermediate written, many taps, copies, repeats and strides.
WAYS = {
    "fused": ((3, 6, 7, 16), (9, 11), "linear", False),
    "written": ((2, 6, 7, 3), (12, 14), "cubic", False),
    "many taps": ((2, 90, 5, 3), (2, 3), "lanczos3", True),
    "copies": ((2, 6, 7, 3), (9, 5), "nearest", False),
    "repeats": ((2, 6, 7, 3), (18, 14), "nearest", False),
    "strides": ((2, 6, 9, 3), (3, 3), "nearest", False),
    "one row": ((2, 6, 7, 3), (1, 14), "cubic", True),
}


def matrices(shape, size, method, antialias):
    axes = tuple(map(taps.Axis, shape[1:3], size))
    return [found.matrix() for found in taps.operators(axes, method, conventions.torch, antialias)]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_the_matrix_product_and_its_transforms_too(way):
    shape, size, method, antialias = WAYS[way]
    rows, columns = matrices(shape, size, method, antialias)
    resize = functools.partial(up.resize, size=size, method=method, antialias=antialias)
    x, y = image(0, *shape), image(1, shape[0], *size, shape[3])
    forward = np.einsum("hi,wj,nijc->nhwc", rows, columns, x)
    backward = np.einsum("hi,wj,nhwc->nijc", rows, columns, y)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5)

    @jax.jit
    def compute(x, y):
        value, pull_back = jax.vjp(resize, x)
        transpose = jax.linear_transpose(resize, x)
        tangent = jax.jvp(resize, (x,), (x[::-1],))[1]
        return (
            tangent,
            value,
            pull_back(y)[0],
            transpose(y)[0],
            jax.linear_transpose(lambda y: transpose(y)[0], y)(x)[0],
        )

    tangent, value, pulled_back, transposed, transposed_twice = compute(x, y)
    close(resize(x), forward)
    close(tangent, forward[::-1])
    close(value, forward)
    close(pulled_back, backward)
    close(transposed, backward)
    close(transposed_twice, forward)
    # <Ax, y> = <x, A'y>
    left, right = np.vdot(forward, y), np.vdot(x, pulled_back)
    assert abs(left - right) <= 1e-6 * abs(left)


@pytest.mark.parametrize("way", ["written", "copies", "many taps"])
def test_vmap(way):
    shape, size, method, antialias = WAYS[way]
    resize = functools.partial(up.resize, size=size, method=method, antialias=antialias)
    gradient = jax.grad(lambda x: jnp.sum(resize(x) ** 2))

    @jax.jit
    def compute(x):
        mapped = [
            jnp.moveaxis(jax.vmap(resize, in_axes=axis, out_axes=axis)(jnp.moveaxis(x, 0, axis)), axis, 0)
            for axis in (0, 2, 4)
        ]
        return resize(x), mapped, gradient(x), jax.vmap(gradient)(x)

    expected, mapped, gradient_of_all, gradients = compute(image(0, 2, *shape))
    for actual in mapped:
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(gradients, gradient_of_all, rtol=1e-5, atol=1e-5)


def test_gradients_agree_with_finite_differences_to_any_order():
    with jax.enable_x64(True):
        generator = np.random.default_rng(0)
        for method, antialias, size in (("bicubic", False, (7, 3)), ("bilinear", True, (3, 2))):
            resize = functools.partial(up.resize, size=size, method=method, antialias=antialias)
            x, v, w = generator.standard_normal((3, 4, 5, 2))

            def f(x, resize=resize):
                return jnp.sum(jnp.sin(resize(x)) * jnp.cos(resize(x**2)))

            def difference(g, x, v, h=1e-5):
                return (g(x + h * v) - g(x - h * v)) / (2 * h)

            @jax.jit  # one program, and not an eager one for every step
            def compute(x, v, w, f=f):
                gradient = jax.grad(f)

                def curvature(x):
                    return jax.jvp(gradient, (x,), (v,))[1]

                return {
                    "first, reverse": (jnp.vdot(gradient(x), v), difference(f, x, v)),
                    "first, forward": (jax.jvp(f, (x,), (v,))[1], difference(f, x, v)),
                    "second": (curvature(x), difference(gradient, x, v)),
                    "second, reverse": (jax.grad(lambda x: jnp.vdot(gradient(x), v))(x), curvature(x)),
                    "third": (jax.grad(lambda x: jnp.vdot(curvature(x), w))(x), difference(curvature, x, w)),
                }

            tolerances = {
                "first, reverse": (1e-7, 0),
                "first, forward": (1e-7, 0),
                "second": (1e-6, 1e-8),
                "second, reverse": (1e-10, 1e-12),
                "third": (1e-5, 1e-7),
            }
            for name, (actual, expected) in compute(x, v, w).items():
                rtol, atol = tolerances[name]
                np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=name)


def test_checkpointed_and_scanned():
    x = image(0, 3, 4, 4, 2)

    def loss(x):
        return jnp.sum(jnp.sin(up.bicubic(x, scale=2)))

    expected = jax.grad(loss)(x)
    np.testing.assert_allclose(jax.grad(jax.checkpoint(loss))(x), expected, rtol=1e-6, atol=1e-6)
    one_by_one = jax.lax.map(jax.grad(loss), x)
    np.testing.assert_allclose(one_by_one, expected, rtol=1e-6, atol=1e-6)


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_with_and_without_jit_and_device(self):
        x = image(0, 2, 5, 6, 3)
        resize = self.variant(functools.partial(up.resize, size=(9, 4), method="bicubic"))
        expected = np.einsum("hi,wj,nijc->nhwc", *matrices(x.shape, (9, 4), "cubic", False), x)
        np.testing.assert_allclose(resize(x), expected, rtol=0, atol=1e-5)


def test_the_same_geometry_is_compiled_once():
    x = image(0, 2, 5, 6, 3)
    up.bicubic(x, scale=3)
    before = _compiled._cache_size()
    up.bicubic(x + 1, scale=(3, 3))
    up.resize(x, scale=3.0, method="bicubic", axes=(-3, -2))
    up.resize(x, scale=3.0, method="tricubic", convention=conventions.torch)
    assert _compiled._cache_size() == before
    up.bicubic(x, scale=4)
    assert _compiled._cache_size() == before + 1


# --- what is compiled -------------------------------------------------------------------------------------------------


def opcodes(function, *arguments):
    """The opcodes of the optimised program."""
    text = planned_as_for_users(function).lower(*arguments).compile().as_text()
    return set(re.findall(r" ([a-z][a-z-]*)\(", text))


@pytest.mark.parametrize("way", WAYS)
def test_neither_forward_nor_gradients_scatter(way):
    shape, size, method, antialias = WAYS[way]
    resize = functools.partial(up.resize, size=size, method=method, antialias=antialias)
    x = image(0, *shape)

    def loss(x):
        return jnp.sum(jnp.sin(resize(x)))

    second = jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2))
    functions = (resize, jax.grad(loss), jax.vmap(jax.grad(loss)), second)
    found = opcodes(lambda x: [function(x) for function in functions], x)
    assert "scatter" not in found
    assert found & {"gather", "broadcast", "slice"}  # the names are those of the program


def test_a_scatter_would_be_seen():
    x = image(0, 3, 4)
    assert "scatter" in opcodes(jax.grad(lambda x: jnp.sum(x[jnp.array([0, 0])] ** 2)), x)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
def test_temporaries_are_smaller_than_the_output(method):
    x = jnp.zeros((2, 32, 32, 16))
    y = jnp.zeros((2, 64, 64, 16))

    def both(x, y):
        value, pull_back = jax.vjp(functools.partial(up.resize, scale=2, method=method), x)
        return value, pull_back(y)

    forward = (
        planned_as_for_users(functools.partial(up.resize, scale=2, method=method)).lower(x).compile().memory_analysis()
    )
    assert forward.temp_size_in_bytes < y.nbytes
    # Two results in one program: XLA must not lay one of them out otherwise and copy it in order.
    gradient = planned_as_for_users(both).lower(x, y).compile().memory_analysis()
    assert gradient.temp_size_in_bytes < 1.2 * y.nbytes * (method == "bicubic") + 1e5


@pytest.mark.parametrize(("platform", "has", "lacks"), [("tpu", "dot_general", "gather"), ("cuda", "gather", "dot")])
def test_other_platforms_have_their_own_program(platform, has, lacks):
    """What runs there cannot run here, so its program is read."""
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.bfloat16)
    gradient = jax.grad(lambda x: jnp.sum(up.bicubic(x, scale=2).astype(jnp.float32) ** 2))
    text = jax.jit(gradient).trace(x).lower(lowering_platforms=(platform,)).as_text()
    assert f"stablehlo.{has}" in text
    assert f"stablehlo.{lacks}" not in text
    assert "scatter" not in text
    assert "LayoutConstraint" not in text


def test_matrices_and_plain_gathers_give_the_same():
    """The programs of the other platforms, run on this one."""
    for shape, size, method, antialias in WAYS.values():
        x = jnp.asarray(image(0, *shape))
        axes = tuple(map(taps.Axis, shape[1:3], size))
        operators = tuple(zip((1, 2), taps.operators(axes, method, conventions.torch, antialias), strict=True))
        expected = resampling.resample(x, operators)
        on_tpus = [functools.partial(resampling._on_tpu, devices=devices) for devices in (2, 4)]
        for rule in (resampling._on_tpu, *on_tpus, resampling._by_gathers, resampling._by_shifts):
            actual = jax.jit(functools.partial(rule, operators=operators))(x)
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
            if taps.operators(axes, method, conventions.torch, antialias)[0].selection:
                assert rule(x.astype(jnp.uint8), operators=operators).dtype == jnp.uint8


@pytest.mark.parametrize("convention", ["torch", "torch_align_corners", "jax", "matlab"])
def test_shifts_are_the_taps_and_carry_what_is_not_a_number_no_further(convention):
    """At any ratio of sizes, on edges of any kind, and backward."""
    x = image(0, 3, 12)
    for size, antialias in ((24, False), (18, False), (6, convention != "torch_align_corners"), (13, False)):
        (operator,) = taps.operators((taps.Axis(12, size),), "linear", conventions.get("f", convention), antialias)
        for taken, given in ((operator, x), (operator.transpose, image(1, 3, size))):
            given = given.copy()
            given[:, 1] = np.nan
            dense = taken.matrix()
            shifted = jax.jit(functools.partial(resampling._by_shifts, operators=((1, taken),)))
            actual = np.asarray(shifted(given))
            np.testing.assert_array_equal(np.isnan(actual), np.broadcast_to(dense[:, 1] != 0, actual.shape))
            expected = np.where(dense[:, 1] != 0, np.nan, np.nan_to_num(given) @ dense.T)
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_few_outputs_of_many_pixels_are_summed_up_each():
    """As devices that share an axis add up what each has; what is not a number comes no further than the taps."""
    (operator,) = taps.operators((taps.Axis(160, 3),), "linear", conventions.torch, True)
    x = image(0, 2, 160)
    x[0, 5] = np.nan
    dense, known = operator.matrix(), np.nan_to_num(x)
    actual = np.asarray(resampling._by_shifts(jnp.asarray(x), operators=((1, operator),)))
    np.testing.assert_array_equal(np.isnan(actual), [dense[:, 5] != 0, [False] * 3])
    np.testing.assert_allclose(np.nan_to_num(actual[1]), dense @ known[1], atol=1e-6)
    assert not np.isnan(actual).all()


def test_copies_on_a_tpu_keep_what_is_no_number_in_its_place():
    """Whole factors of both axes, of one, and of neither; and the sum that is the gradient."""
    x = image(0, 2, 5, 6, 3)
    x[0, 1, 2, 0], x[1, 4, 5, 2], x[1, 0, 0, 1] = np.nan, np.inf, -np.inf
    for size in ((10, 18), (5, 12), (7, 12), (7, 8), (2, 3)):
        axes = tuple(map(taps.Axis, (5, 6), size))
        operators = tuple(zip((1, 2), taps.operators(axes, "nearest", conventions.torch, False), strict=True))
        rows, columns = (o.indices[:, 0] for _, o in operators)
        actual = resampling._on_tpu(jnp.asarray(x), operators=operators)
        np.testing.assert_array_equal(actual, x[:, rows][:, :, columns])
        if size == (10, 18):
            y = image(1, 2, 10, 18, 3)
            y[0, 4, 7, 1] = np.nan
            sums = y.reshape(2, 5, 2, 6, 3, 3).sum((2, 4))
            transposed = tuple((axis, o.transpose) for axis, o in operators)
            np.testing.assert_allclose(resampling._on_tpu(jnp.asarray(y), operators=transposed), sums, atol=1e-5)
            axes = tuple(map(taps.Axis, (10, 18), (5, 6)))
            means = tuple(zip((1, 2), taps.operators(axes, "area", conventions.torch, False), strict=True))
            np.testing.assert_allclose(resampling._on_tpu(jnp.asarray(y), operators=means), sums / 6, atol=1e-6)
            back = tuple((axis, o.transpose) for axis, o in means)
            spread = np.repeat(np.repeat(x, 2, 1), 3, 2) / 6
            np.testing.assert_allclose(resampling._on_tpu(jnp.asarray(x), operators=back), spread, atol=1e-6)


@pytest.mark.parametrize(("n", "m", "side"), [(8, 16, 0), (8, 16, 1), (12, 8, 0), (6, 15, 1), (8, 12, 0), (8, 12, 1)])
def test_copies_that_read_beside_their_own_group(n, m, side):
    """As several devices copy what a cut axis holds: bit by bit, at the ends too, of any dtype."""
    places = implicit.nearest_pixels(n, m, side)
    operator = taps.Taps(n, places[:, None], np.ones((m, 1)))
    for x in (image(0, 2, n, 3), np.arange(2 * n * 3, dtype=np.uint8).reshape(2, n, 3)):
        y = resampling._take_in_groups(jnp.asarray(x), 1, operator)
        assert y is not None
        np.testing.assert_array_equal(y, x[:, places])
        assert y.dtype == x.dtype
    assert (
        resampling._take_in_groups(jnp.ones((1, 8)), 1, taps.Taps(8, np.arange(8)[::-1, None], np.ones((8, 1)))) is None
    )


def test_matrices_of_long_axes_are_multiplied_block_by_block():
    x = image(0, 1, 300, 2, 3)
    (operator,) = taps.operators((taps.Axis(300, 431),), "cubic", conventions.torch, False)
    for operators in (((1, operator),), ((1, operator), (2, operator.transpose))):
        given = x if len(operators) == 1 else np.repeat(x, 431 // 2 + 1, 2)[:, :, :431]
        expected = np.einsum("nhwc,Hh->nHwc", given.astype(np.float64), operator.matrix())
        if len(operators) == 2:
            expected = np.einsum("nhwc,wW->nhWc", expected, operator.matrix())
        actual = resampling._by_matrices(jnp.asarray(given), operators=operators)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)


def test_matrices_spread_what_is_no_number_over_their_block():
    """The limit of interpolation on a TPU that the page on accelerators states: no farther, and along the axis only."""
    for n, m, first, last in ((12, 24, 0, 24), (300, 600, 256, 384)):
        (operator,) = taps.operators((taps.Axis(n, m),), "linear", conventions.torch, False)
        x = image(0, 1, n, 2, 1)
        x[0, n // 2 + 10 * (n > 256), 1] = np.nan
        y = np.isnan(resampling._on_tpu(jnp.asarray(x), operators=((1, operator),)))[0, :, :, 0]
        outputs = np.arange(m)
        np.testing.assert_array_equal(y[:, 1], (outputs >= first) & (outputs < last))
        assert not y[:, 0].any()


SHARDED = """
    import functools, jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    import upsampling as up

    x = np.random.default_rng(0).random((4, 8, 10, 3), np.float32)

    def loss(x, method):
        return jnp.sum(jnp.sin(up.resize(x, scale=1.5, method=method)))

    def collectives(f, *x):
        text = f.lower(*x).compile().as_text()
        names = ("all-gather", "all-reduce", "all-to-all", "collective-permute")
        return {name for name in names if f" {name}(" in text}

    assert len(jax.devices()) == 4
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((2, 2), ("batch", "space"), axis_types=(kind, kind))
        for method in ("nearest", "bicubic"):
            resize = jax.jit(lambda x: up.resize(x, scale=1.5, method=method))
            gradient = jax.jit(jax.grad(lambda x: loss(x, method)))
            expected, expected_gradient = np.asarray(resize(x)), np.asarray(gradient(x))
            for spec in (P("batch"), P(("batch", "space")), P("batch", "space"), P(None, "space", "batch")):
                with jax.set_mesh(mesh):
                    sharded = jax.device_put(x, NamedSharding(mesh, spec))
                    y, g = resize(sharded), gradient(sharded)
                    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)
                    np.testing.assert_allclose(g, expected_gradient, rtol=0, atol=1e-5)
                    if len(spec) == 1:
                        assert y.sharding.is_equivalent_to(NamedSharding(mesh, spec), 4), y.sharding
                        assert not collectives(resize, sharded) | collectives(gradient, sharded)
    # Of maps cut along space neighbors exchange a few pixels: by the form for CPUs and GPUs, and by that for TPUs.
    from upsampling import conventions, implicit, matting
    from upsampling.primitives import _common, resample, taps, window_sum

    operators = [
        tuple(enumerate(taps.operators((taps.Axis(16, size),) * 2, method, conventions.torch, antialias), 1))
        for size, method, antialias in ((24, "cubic", False), (32, "linear", False), (8, "linear", True))
    ]
    # Rows that are seen by every second output, and none by the others.
    operators.append(((1, taps.Taps(32, np.arange(1, 32, 2)[:, None], np.ones((16, 1))).transpose),))
    forms = [
        lambda x: up.resize(x, scale=1.5, method="nearest"),
        lambda x: up.bicubic(x, scale=1.5),
        lambda x: implicit.local_ensemble(x, lambda pixels, steps: jnp.sin(pixels + steps[None, ..., :1])),
        *(lambda x, o=o: resample._on_tpu(x, operators=o, devices=4) for o in operators),
        lambda x: resample.resample(x, operators[-1]),
    ]
    mesh = jax.make_mesh((4,), ("space",), axis_types=(AxisType.Auto,))
    x = np.random.default_rng(1).random((2, 16, 16, 3), np.float32)
    for spec in (P(None, "space"), P(None, None, "space")):
        for number, form in enumerate(forms):
            def both(x, form=form):
                y, pull_back = jax.vjp(form, x)
                return y, pull_back(y)[0]

            both, sharded = jax.jit(both), jax.device_put(x, NamedSharding(mesh, spec))
            for a, b in zip(both(sharded), both(x), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
            found = collectives(both, sharded)
            # Of an ensemble the columns of all sides stand side by side, and move.
            if number != 2 or len(spec) == 2:
                assert found <= {"collective-permute"}, (number, spec, found)
    # The mean of all rows is added up, also as on TPUs, where means over fewer are sums over windows.
    average = taps.Taps(16, np.arange(16)[None], np.full((1, 16), 1 / 16))
    mean = jax.jit(lambda x: resample._on_tpu(x, operators=((1, average),), devices=4))
    rows = jax.device_put(x, NamedSharding(mesh, P(None, "space")))
    np.testing.assert_allclose(mean(rows), x.mean(1, keepdims=True), rtol=0, atol=1e-6)
    assert collectives(mean, rows) == {"all-reduce"}
    # Windows that move inward at the edges, by the forms for GPUs and TPUs.
    centers = (tuple(np.clip(np.arange(32) // 2, 2, 13).tolist()), tuple((np.arange(8) // 2).tolist()))
    windows = window_sum.Geometry((16, 4), (), centers, (5, 3), (1, 1), 1)
    shapes = ((2, 16, 4, 3), (2, 32, 8, 1, 5, 3), (2, 32, 8, 3))
    arrays = [np.random.default_rng(2).random(shape, np.float32) for shape in shapes]
    shared = [jax.device_put(a, NamedSharding(mesh, P(None, "space"))) for a in arrays]

    def of_windows(x, w, y, platform, **devices):
        x, own = window_sum._pad_zeros(x, (2, 1)), dict(geometry=windows, **devices)
        sums, products, folds = (getattr(window_sum, f"{form}_on_{platform}") for form in names)
        return sums(x, w, **own), products(x, y, **own), folds(w, y, **own)[:, 2:-2, 1:-1]

    names = ("_window_sum", "_window_correlation", "_fold")
    for platform in ("gpus", "tpus"):
        several = jax.jit(functools.partial(of_windows, platform=platform, devices=4))
        one = jax.jit(functools.partial(of_windows, platform="gpu"))
        for a, b in zip(several(*shared), one(*arrays), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6)
        assert collectives(several, *shared) <= {"collective-permute"}, platform
    # Which are what the primitives compute there: gathers and products for each group.
    padded = lambda x: window_sum._pad_zeros(x, (2, 1))
    bound = {
        "window_sum": lambda x, w, y: window_sum.window_sum_p.bind(padded(x), w, geometry=windows),
        "window_correlation": lambda x, w, y: window_sum.window_correlation_p.bind(padded(x), y, geometry=windows),
        "fold": lambda x, w, y: window_sum.fold_p.bind(w, y, geometry=windows),
    }
    for name, form in bound.items():
        for platform, of_groups in (("cuda", "operand_batching_dims"), ("tpu", "batching_dims")):
            for arguments, expected in ((shared, True), (arrays, False)):
                lowered = jax.jit(form).trace(*arguments).lower(lowering_platforms=(platform,))
                assert (of_groups in lowered.as_text()) == expected, (name, platform, expected)
    # Large maps, by tiles of rows of all devices. These share images if not all can have some.
    share = jax.jit(lambda x, n: x + _common.share_images_p.bind(images=n), static_argnums=1)
    cases = ((shared[0], 2, 1), (shared[0], 8, 0), (arrays[0], 2, 0))
    assert all(jnp.array_equal(share(a, n), a + more) for a, n, more in cases)
    _common.MOST_BYTES, _common.TILE_BYTES = 0, 16384
    attend = lambda x, q, k: up.neighborhood_attention(x, q, k, kernel_size=3, heads=2)
    ensemble = lambda x: implicit.local_ensemble(x, lambda pixels, steps: jnp.sin(pixels + steps[None, ..., :1]))
    shapes = ((1, 16, 8, 4), (1, 32, 16, 8), (1, 16, 8, 8))
    maps = [np.random.default_rng(3).random(shape, np.float32) for shape in shapes]
    shared = [jax.device_put(a, NamedSharding(mesh, P(None, "space"))) for a in maps]
    for form, count in ((attend, 3), (ensemble, 1)):
        def both(*arrays, form=form):
            y, pull_back = jax.vjp(form, *arrays)
            return y, *pull_back(y)

        both = jax.jit(both)
        assert "stablehlo.while" in both.lower(*maps[:count]).as_text()
        for a, b in zip(both(*shared[:count]), both(*maps[:count]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6)
        assert collectives(both, *shared[:count]) <= {"collective-permute"}
    for_tpus = jax.jit(up.bilinear, static_argnames="scale").trace(sharded, scale=2).lower(lowering_platforms=("tpu",))
    assert "batching_dims" in for_tpus.as_text()  # matrices for each device
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    # Of images that are groups of one convolution, as on TPUs.
    of_images = lambda *shape: jax.device_put(jnp.ones(shape), NamedSharding(mesh, P("batch")))
    x, kernels = of_images(4, 8, 8, 3), of_images(4, 3, 3, 3)
    pull_back = lambda x, k: jax.vjp(matting._by_convolution, x, k, k)[1]((x[:, ::2, ::2],) * 2)
    assert not collectives(jax.jit(pull_back), x, kernels)
    x = np.random.default_rng(0).random((4, 8, 10, 3), np.float32)
    mapped = jax.shard_map(jax.grad(lambda x: loss(x, "bicubic")), mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
    np.testing.assert_allclose(jax.jit(mapped)(x), jax.grad(lambda x: loss(x, "bicubic"))(x), rtol=0, atol=1e-5)
    print("sharded")
"""


def test_sharded_batch_and_space():
    """On four devices: the same numbers, nothing exchanged of a batch, and of space the pixels beside a cut."""
    program = "import jax; jax.config.update('jax_num_cpu_devices', 4)\n" + textwrap.dedent(SHARDED)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "sharded", done.stderr[-3000:]


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "resize: give one of size and scale; got size=None, scale=None."),
        ({"size": 4, "scale": 2}, ValueError, "resize: give one of size and scale"),
        ({"size": 0}, ValueError, "resize: size must be at least 1; got 0."),
        ({"size": (4, -1)}, ValueError, "resize: size must be at least 1; got -1."),
        ({"size": 2.5}, TypeError, "resize: size must be whole numbers; got 2.5."),
        ({"size": "big"}, TypeError, "resize: size must be a number or a sequence of numbers"),
        ({"scale": 0}, ValueError, "resize: scale must be finite and above 0"),
        ({"scale": -2.0}, ValueError, "resize: scale must be finite and above 0"),
        ({"scale": float("nan")}, ValueError, "resize: scale must be finite and above 0; got nan."),
        ({"scale": float("inf")}, ValueError, "resize: scale must be finite and above 0"),
        ({"scale": 0.01}, ValueError, "make an axis of (8, 9) vanish: (0, 0)"),
        ({"size": (4, 4, 4)}, ValueError, "x must be (*batch, *spatial, channels) with 3 spatial axes"),
        ({"size": (4, 4), "axes": (0,)}, ValueError, "resize: size must be one number or 1 of them"),
        ({"scale": (2, 2, 2), "axes": (0, 1)}, ValueError, "resize: scale must be one number or 2 of them"),
        ({"size": ()}, ValueError, "resize: size must be one number or at least 1 of them"),
        ({"size": 4, "method": "bilinea"}, ValueError, "Did you mean 'bilinear'?"),
        ({"size": 4, "method": None}, ValueError, "resize: method=None is not known"),
        ({"size": 4, "convention": "tenserflow"}, ValueError, "Did you mean 'tensorflow'?"),
        ({"size": 4, "convention": 3}, ValueError, "resize: convention=3 is not known"),
        ({"size": 4, "method": "mitchell"}, ValueError, "convention 'torch' has no method 'mitchell'"),
        ({"size": 4, "method": "lanczos3"}, ValueError, "'torch' has method 'lanczos3' with antialias=True only"),
        ({"size": 4, "antialias": True, "convention": "opencv"}, ValueError, "With antialias=True it has: none."),
        ({"size": 4, "antialias": True, "convention": "tensorflow1"}, ValueError, "antialias=False only"),
        ({"size": 4, "antialias": True, "method": "nearest"}, ValueError, "antialias=False only"),
        ({"size": 4, "antialias": 1}, TypeError, "resize: antialias must be True or False; got 1."),
        ({"size": 4, "axes": (0, 3)}, ValueError, "resize: axes=(0, 3) must lie in [-3, 3)"),
        ({"size": 4, "axes": (-4, 0)}, ValueError, "resize: axes=(-4, 0) must lie in [-3, 3)"),
        ({"size": 4, "axes": (1, -2)}, ValueError, "name an axis twice"),
        ({"size": 4, "axes": (0.0, 1)}, TypeError, "resize: axes must be whole numbers"),
        ({"size": 4, "axes": ()}, ValueError, "resize: axes must be one number or at least 1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        up.resize(jnp.zeros((8, 9, 3)), **arguments)


def test_traced_geometry_is_refused():
    with pytest.raises(TypeError, match="resize: size must be static"):
        jax.jit(up.resize)(jnp.zeros((8, 8, 3)), jnp.asarray([4, 4]))
    with pytest.raises(TypeError, match="bilinear: scale must be static"):
        jax.jit(lambda x, s: up.bilinear(x, scale=(s, 2)))(jnp.zeros((8, 8, 3)), 2.0)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ("image", TypeError, "nearest: x must be an array; got str"),
        (np.zeros((4, 4, 1), np.complex64), TypeError, "nearest: x must be real; got complex64"),
        (np.zeros((0, 4, 1)), ValueError, "nearest: x must have a pixel on each spatial axis"),
        (np.zeros((4, 4)), ValueError, "Name the spatial axes of an array without channels with axes="),
    ],
)
def test_bad_arrays(x, error, message):
    with pytest.raises(error, match=re.escape(message)):
        up.nearest(x, scale=2)


def test_a_roi_for_the_wrong_number_of_axes_is_refused():
    convention = conventions.onnx(coordinate_transformation_mode="tf_crop_and_resize", roi=((0, 1), (0, 1), (0, 1)))
    with pytest.raises(ValueError, match="roi of convention 'onnx' must have one"):
        up.resize(jnp.zeros((8, 9, 3)), 4, convention=convention)


def test_errors_name_the_function_called():
    for function in (up.nearest, up.bilinear, up.bicubic, up.lanczos3, up.area):
        with pytest.raises(ValueError, match=f"{function.__name__}: give one of size and scale"):
            function(jnp.zeros((8, 8, 3)))
