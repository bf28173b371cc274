"""Every convention's weights against its framework, over many sizes; in NumPy, so that nothing is compiled."""

import dataclasses
import re
from typing import get_args

import cv2
import jax
import numpy as np
import pytest

from tests import frameworks
from tests.optional import F, torch
from tests.references import make_tensorflow
from upsampling import conventions
from upsampling.primitives.taps import Axis, operators, outside


def resized(image, size, scale, method, convention, antialias):
    """Resizes (height, width, channels) by the convention's taps, in float64 NumPy."""
    shape = image.shape[:2]
    if scale is None:
        sizes, scales = convention.fitted_sizes(shape, size)
    else:
        sizes, scales = tuple(map(convention.scaled_size, shape, scale)), scale
    roi = convention.roi * 2 if len(convention.roi) == 1 else convention.roi
    axes = tuple(map(Axis, shape, sizes, scales, roi))
    rows, columns = operators(axes, method, convention, antialias)
    y = np.einsum("hkwc,hk->hwc", image.astype(np.float64)[rows.indices], rows.weights)
    y = np.einsum("hwkc,wk->hwc", y[:, columns.indices], columns.weights)
    if convention.edge == "constant":
        y += convention.constant * (1 - np.multiply.outer(rows.weights.sum(1), columns.weights.sum(1)))[..., None]
    if convention.clip and method == "cubic":
        y = np.clip(y, image.min(), image.max())
    if convention.outside is not None:
        rows, columns = outside(axes, convention)
        beyond = rows[:, None] | columns
        y = np.where(beyond[..., None], convention.outside, y)
    return y


def cases(seed, count, scales=True):
    """Yields (image, size, scale): images of 1 to 40 pixels a side, made larger, smaller, and left as they are."""
    generator = np.random.default_rng(seed)
    for i in range(count):
        shape = generator.integers(1, 41, 2)
        image = generator.random((*shape, 4), np.float32)
        if i % 2 and scales:
            scale = generator.uniform(1 / shape, 3)
            scale = np.where(generator.random(2) < 0.3, generator.integers(1, 4, 2), scale)
            # A size that rounding leaves as it is has its own rules.
            scale = np.where(generator.random(2) < 0.2, 1 + generator.random(2) / shape / 2, scale)
            yield image, None, tuple(float(s) for s in scale)
        else:
            size = np.where(generator.random(2) < 0.2, shape, generator.integers(1, 41, 2))
            yield image, tuple(int(m) for m in size), None


def wide(seed):
    """Yields (image, size): over a thousand pixels, where float32 coordinates go astray."""
    generator = np.random.default_rng(seed)
    for n, m in ((1000, 1777), (1920, 2880), (1234, 999), (3000, 1234)):
        yield generator.random((4, n, 4), np.float32), (4, m)


@pytest.mark.parametrize(("name", "method", "antialias"), frameworks.combinations(conventions.PRESETS))
def test_weights_are_the_framework_s(name, method, antialias):
    if (name, method) == ("opencv", "nearest-exact") and not cv2.__version__.startswith("5."):
        pytest.skip(f"OpenCV {cv2.__version__} decides ties of nearest-exact otherwise than OpenCV 5")
    convention, framework = conventions.PRESETS[name], frameworks.FRAMEWORKS[name]
    tolerance = 0 if method.startswith("nearest") and not antialias else 1e-5
    # jax.image compiles anew for every size.
    few = name == "jax"
    for image, size, scale in cases(7, 3 if few else 150, scales=name not in ("jax", "pillow")):
        expected = framework(image, size, scale, method, antialias)
        actual = resized(image, size, scale, method, convention, antialias)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=f"{image.shape} {size} {scale}")
    if (name, method) == ("jax", "nearest") and jax.__version_info__ >= (0, 12):
        pytest.skip(f"JAX {jax.__version__} rounds otherwise than JAX 0.10 on wide images")
    for image, size in list(wide(8))[: 1 if few else None]:
        expected = framework(image, size, None, method, antialias)
        actual = resized(image, size, None, method, convention, antialias)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=f"{image.shape} {size}")


GRIDS = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_onnx_nearest(grid, rounding):
    attributes = {"coordinate_transformation_mode": grid, "nearest_mode": rounding}
    convention = conventions.onnx(**attributes)
    for image, size, scale in (*cases(3, 25), *((image, size, None) for image, size in wide(4))):
        expected = frameworks.onnx_runtime(image, size, scale, "nearest", False, **attributes)
        actual = resized(image, size, scale, "nearest", convention, False)
        np.testing.assert_array_equal(actual, expected, err_msg=f"{image.shape} {size} {scale}")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("method", "antialias", "exclude_outside"),
    [
        ("linear", False, False),
        ("linear", True, False),
        ("linear", True, True),
        ("cubic", False, False),
        ("cubic", False, True),
        ("cubic", True, False),
        ("cubic", True, True),
    ],
)
def test_onnx_smooth(grid, method, antialias, exclude_outside):
    attributes = {"coordinate_transformation_mode": grid, "cubic_coeff_a": -0.6}
    convention = conventions.onnx(**attributes, exclude_outside=exclude_outside)
    # The grid that is half a pixel off leaves the last pixels as little as 0.03 of the cubic's weight inside the image.
    # Dividing by that magnifies the rounding of onnxruntime's float32 weights.
    magnified = exclude_outside and not antialias and grid == "tf_half_pixel_for_nn"
    tolerance = 1e-4 if magnified else 1e-5
    for image, size, scale in (*cases(5, 25), *((image, size, None) for image, size in wide(6))):
        expected = frameworks.onnx_runtime(
            image, size, scale, method, antialias, exclude_outside=int(exclude_outside), **attributes
        )
        actual = resized(image, size, scale, method, convention, antialias)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=f"{image.shape} {size} {scale}")


@pytest.mark.parametrize(
    ("method", "antialias", "exclude_outside"),
    [
        ("nearest", False, False),
        ("linear", False, False),
        ("linear", True, True),
        ("cubic", False, True),
        ("cubic", True, False),
    ],
)
def test_onnx_crop(method, antialias, exclude_outside):
    """Parts of the image, parts of what is around it, and, in every fifth case, only what is around it."""
    attributes = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    generator = np.random.default_rng(9)
    single = ((generator.random((9, 7, 4), np.float32), size, None) for size in ((1, 5), (6, 1)))
    for i, (image, size, scale) in enumerate((*cases(10, 30), *single)):
        edges = np.sort(generator.uniform(-0.3, 1.3, (2, 2))) + (3 if i % 5 == 4 else 0)
        roi = tuple((float(start), float(end)) for start, end in edges)
        expected = frameworks.onnx_runtime(
            image, size, scale, method, antialias, roi=roi, exclude_outside=int(exclude_outside), **attributes
        )
        convention = conventions.onnx(**attributes, roi=roi, exclude_outside=exclude_outside)
        actual = resized(image, size, scale, method, convention, antialias)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5, err_msg=f"{image.shape} {size} {scale} {roi}")


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize("method", ["nearest", "linear", "cubic"])
def test_onnx_aspect(policy, method):
    convention = conventions.onnx(keep_aspect_ratio_policy=policy)
    for image, size, _ in cases(11, 30, scales=False):
        if 0 in convention.fitted_sizes(image.shape[:2], size)[0]:
            continue
        expected = frameworks.onnx_runtime(image, size, None, method, False, keep_aspect_ratio_policy=policy)
        actual = resized(image, size, None, method, convention, False)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=0 if method == "nearest" else 1e-5)


@pytest.mark.parametrize("method", ["nearest", "nearest-exact"])
def test_torch_chooses_pixels_of_float64_data_in_float64(method):
    generator = np.random.default_rng(12)
    for n, m in generator.integers(1, 200, (300, 2)):
        pixels = torch.arange(float(n), dtype=torch.float64)[None, None]
        expected = F.interpolate(pixels, int(m), mode=method)[0, 0].numpy()
        (found,) = operators((Axis(int(n), int(m)),), method, conventions.torch, wide=True)
        np.testing.assert_array_equal(found.indices[:, 0], expected, err_msg=f"{n} to {m}")


@pytest.mark.parametrize("grid_mode", [False, True])
@pytest.mark.parametrize("mode", get_args(conventions.ZoomMode))
def test_scipy_s_edge_modes(mode, grid_mode):
    options = {"mode": mode, "cval": 7.0, "grid_mode": grid_mode}
    convention = conventions.scipy_zoom(**options)
    for image, size, scale in cases(13, 20):
        if mode in ("reflect", "grid-mirror") and min(image.shape[:2]) < 5:
            continue  # SciPy's prefilter reads a coefficient that it has overwritten; from 5 pixels on that is 1e-6.
        for method in convention.methods:
            expected = frameworks.scipy_zoom(image, size, scale, method, False, **options)
            actual = resized(image, size, scale, method, convention, False)
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5, err_msg=f"{image.shape} {size} {method}")


def test_scipy_s_arguments():
    with pytest.raises(ValueError, match=re.escape("scipy_zoom: mode='wrap' is not known. Did you mean 'grid-wrap'?")):
        conventions.scipy_zoom(mode="wrap")
    with pytest.raises(TypeError, match=re.escape("scipy_zoom: cval must be a real number; got '0'.")):
        conventions.scipy_zoom(cval="0")
    with pytest.raises(TypeError, match=re.escape("scipy_zoom: grid_mode must be True or False; got 1.")):
        conventions.scipy_zoom(grid_mode=1)


def test_scipy_s_zero_where_rounding_puts_the_last_pixel_outside():
    ones = np.ones((8, 1, 4), np.float32)
    zoomed = frameworks.scipy_zoom(ones, (26, 1), None, "linear", False)
    assert zoomed[-1].max() == 0
    np.testing.assert_array_equal(resized(ones, (26, 1), None, "linear", conventions.scipy, False), zoomed)


MATLAB_IMAGE = np.array(
    [
        [116, 227, 153, 69, 146, 194, 59, 130, 139, 106],
        [2, 47, 137, 249, 90, 75, 16, 24, 158, 44],
        [155, 68, 46, 84, 166, 156, 69, 204, 32, 152],
        [71, 221, 137, 230, 210, 153, 192, 115, 30, 118],
        [107, 143, 108, 52, 51, 73, 101, 21, 175, 90],
        [54, 158, 143, 77, 26, 168, 113, 229, 165, 225],
        [9, 47, 133, 135, 130, 207, 236, 43, 19, 73],
        [129, 60, 59, 243, 64, 181, 249, 56, 32, 86],
    ]
)

# What MATLAB returned: (image, scale or size, method, antialias, result, tolerance).
MATLAB = [
    # From questions that users asked about it.
    ([[0, 1, 2]], (1, 5), "linear", True, [[0, 0.4, 1, 1.6, 2]], 1e-6),
    ([[1, 4, 7, 4, 3, 6]], (1, 9), "nearest", False, [[1, 4, 4, 7, 4, 4, 3, 6, 6]], 0),
    (
        [[1, 1.25, 1.75, 2], [1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5], [3, 3.25, 3.75, 4]],
        (2, 2),
        "linear",
        True,
        [[1.5625, 2.1875], [2.8125, 3.4375]],
        1e-6,
    ),
    # From the tests of Octave's image package, recorded with MATLAB on integers: right to a grey level.
    (
        MATLAB_IMAGE,
        0.5,
        "linear",
        True,
        [[108, 136, 125, 89, 107], [111, 132, 143, 114, 99], [106, 110, 106, 127, 136], [75, 124, 154, 142, 75]],
        1,
    ),
    (MATLAB_IMAGE, 1 / 3, "linear", True, [[115, 131, 101, 102], [114, 117, 120, 121], [91, 147, 116, 76]], 1),
    (
        MATLAB_IMAGE,
        0.5,
        "cubic",
        False,
        [[92, 164, 123, 38, 118], [139, 116, 188, 167, 69], [121, 87, 67, 108, 180], [54, 153, 141, 149, 42]],
        1,
    ),
    (
        MATLAB_IMAGE,
        0.5,
        "cubic",
        True,
        [[105, 140, 126, 81, 109], [110, 134, 153, 114, 93], [108, 108, 94, 127, 146], [67, 126, 162, 149, 62]],
        1,
    ),
    # The size stays, and the image is resampled.
    (
        MATLAB_IMAGE[:2],
        0.91,
        "linear",
        False,
        [[115, 208, 134, 100, 163, 117, 101, 136, 109, 103]],
        1,
    ),
]


@pytest.mark.parametrize(("image", "wanted", "method", "antialias", "expected", "tolerance"), MATLAB)
def test_what_matlab_returned(image, wanted, method, antialias, expected, tolerance):
    x, expected = np.asarray(image, np.float64)[..., None], np.asarray(expected)
    size, scale = (wanted, None) if isinstance(wanted, tuple) else (None, (wanted, wanted))
    ours = resized(x, size, scale, method, conventions.matlab, antialias)[..., 0]
    oracle = frameworks.matlab(x, size, scale, method, antialias)[..., 0]
    for found in (ours, oracle):
        np.testing.assert_allclose(found[: len(expected)], expected, rtol=0, atol=tolerance)


def test_matlab_s_weights_at_half_the_size_are_those_of_super_resolution():
    """The eight weights of the low-resolution images that super-resolution is trained on."""
    (found,) = operators((Axis(32, 16),), "cubic", conventions.matlab, True)
    expected = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    np.testing.assert_allclose(found.matrix()[8, 13:21], expected, rtol=0, atol=1e-12)
    assert conventions.matlab.scaled_size(85, 1 / 3) == 29


def assert_as_tensorflow(reference):
    """`reference` maps a case to what TensorFlow returns for it."""
    for key, name, method, antialias, image, size in make_tensorflow.cases():
        method = conventions.SYNONYMS.get(method, method)
        actual = make_tensorflow.kept(resized(image, size, None, method, conventions.PRESETS[name], antialias))
        np.testing.assert_allclose(
            actual,
            reference(key, name, method, antialias, image, size),
            rtol=0,
            atol=0 if method == "nearest" else 1e-5,
            err_msg=f"{name} {method} antialias={antialias} {image.shape} {size}",
        )


def test_tensorflow_as_recorded():
    with np.load(make_tensorflow.PATH) as recorded:
        assert_as_tensorflow(lambda key, *case: recorded[key])


def test_tensorflow_live():
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed; test_tensorflow_as_recorded stands in")
    names = {plain: name for name, plain in conventions.SYNONYMS.items() if name in ("bilinear", "bicubic")}
    names["mitchell"] = "mitchellcubic"

    def live(key, name, method, antialias, image, size):
        return make_tensorflow.kept(make_tensorflow.resize(name, image, size, names.get(method, method), antialias))

    assert_as_tensorflow(live)


def test_presets_are_known_by_name():
    assert {name: preset.name for name, preset in conventions.PRESETS.items()} == {n: n for n in conventions.PRESETS}
    assert get_args(conventions.Preset) == tuple(conventions.PRESETS)
    assert {name: vars(conventions)[name] for name in conventions.PRESETS} == conventions.PRESETS
    assert conventions.get("resize", "opencv") is conventions.opencv
    own = dataclasses.replace(conventions.torch, name="own", cubic=-0.5)
    assert conventions.get("resize", own) is own
    with pytest.raises(ValueError, match=r"resize: convention='pytorch' is not known\. Did you mean 'torch'\?"):
        conventions.get("resize", "pytorch")


def test_methods_are_known_by_name():
    assert get_args(conventions.Synonym) == tuple(conventions.SYNONYMS)
    assert get_args(conventions.Method) == (*conventions.METHODS, *conventions.SYNONYMS)
    assert set(conventions.SYNONYMS.values()) <= set(conventions.METHODS)
    has = {method for preset in conventions.PRESETS.values() for method in (*preset.methods, *preset.antialiased)}
    assert set(conventions.METHODS) == has


def test_onnx_is_equal_where_its_attributes_are():
    assert conventions.onnx(nearest_mode="ceil") == conventions.onnx(nearest_mode="ceil")
    assert hash(conventions.onnx(roi=[(0, 1)])) == hash(conventions.onnx())
    assert conventions.onnx() != conventions.onnx(cubic_coeff_a=-0.5)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"coordinate_transformation_mode": "half_pixels"}, "Did you mean 'half_pixel'?"),
        ({"nearest_mode": "round"}, "nearest_mode='round' is not known"),
        ({"keep_aspect_ratio_policy": "keep"}, "Known: 'stretch', 'not_larger', 'not_smaller'"),
    ],
)
def test_onnx_refuses_unknown_attributes(attributes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        conventions.onnx(**attributes)


def test_onnx_refuses_numbers_for_truth_values():
    with pytest.raises(TypeError, match=r"conventions\.onnx: exclude_outside must be True or False; got 1"):
        conventions.onnx(exclude_outside=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"grid": "half"},
        {"nearest_grid": "half"},
        {"edge": "mirror"},
        {"nearest_rounding": "up"},
        {"methods": ("bilinear",)},
        {"antialiased": ("cubic", "bicubic")},
        {"area": "mean"},
    ],
)
def test_a_convention_refuses_unknown_decisions(wrong):
    with pytest.raises(ValueError, match=f"Convention: {next(iter(wrong))}="):
        dataclasses.replace(conventions.torch, **wrong)


@pytest.mark.parametrize(
    ("rule", "n", "scale", "size"),
    [
        ("floor", 5, 1.5, 7),
        ("round", 5, 1.5, 8),
        ("round", 5, 0.5, 2),
        ("floor", 3, 2.9999999999, 8),
        ("floor32", 3, 2.9999999999, 9),
        ("ceil", 5, 0.5, 3),
    ],
)
def test_scaled_sizes(rule, n, scale, size):
    assert dataclasses.replace(conventions.torch, size_rule=rule).scaled_size(n, scale) == size
