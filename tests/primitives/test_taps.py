"""The algebra of 1-D operators: what every set of taps must satisfy, whoever's numbers it has."""

import dataclasses
import itertools

import numpy as np
import pytest

from upsampling import conventions
from upsampling.primitives.taps import Axis, Taps, gathered, operators

CONVENTIONS = {
    **conventions.PRESETS,
    "onnx": conventions.onnx(),
    "onnx asymmetric": conventions.onnx(coordinate_transformation_mode="asymmetric", exclude_outside=True),
}
COMBINATIONS = [
    (name, method, antialias)
    for name, convention in CONVENTIONS.items()
    for antialias, methods in ((False, convention.methods), (True, convention.antialiased))
    for method in methods
]
SIZES = [(1, 1), (1, 7), (7, 1), (5, 5), (6, 13), (13, 6), (8, 16), (16, 8), (40, 3), (3, 40)]


def taps(name, method, antialias, n, m):
    (found,) = operators((Axis(n, m),), method, CONVENTIONS[name], antialias)
    return found


@pytest.mark.parametrize(("name", "method", "antialias"), COMBINATIONS)
def test_taps_are_a_partition_of_unity_within_the_image(name, method, antialias):
    for n, m in SIZES:
        found = taps(name, method, antialias, n, m)
        assert found.size == n
        assert found.indices.shape == found.weights.shape
        assert found.outputs == m
        assert found.indices.min() >= 0
        assert found.indices.max() < n
        # OpenCV leaves slivers of up to 1/1000 pixel out of its areas.
        slivers = 2e-3 if (name, method) == ("opencv", "area") else 0
        np.testing.assert_allclose(found.weights.sum(1), 1, rtol=0, atol=1e-5 + slivers)


@pytest.mark.parametrize(("name", "method", "antialias"), COMBINATIONS)
def test_the_transpose_is_the_adjoint(name, method, antialias):
    generator = np.random.default_rng(0)
    for n, m in SIZES:
        found = taps(name, method, antialias, n, m)
        x, y = generator.standard_normal(n), generator.standard_normal(m)
        forward = (found.weights * x[found.indices]).sum(1)
        transposed = found.transpose
        backward = (transposed.weights * y[transposed.indices]).sum(1)
        np.testing.assert_allclose(forward @ y, x @ backward, rtol=0, atol=1e-12 * n * m)
        np.testing.assert_array_equal(transposed.matrix(), found.matrix().T)
        np.testing.assert_array_equal(transposed.transpose.matrix(), found.matrix())


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(
            (name, "linear")
            for name in ("torch", "torch_align_corners", "jax", "tensorflow", "opencv", "pillow", "onnx")
        ),
        # Of the cubics only a = -0.5 reproduces ramps (Keys 1981); PyTorch, OpenCV and ONNX have -0.75.
        *((name, "cubic") for name in ("jax", "tensorflow", "pillow")),
    ],
)
def test_ramps_are_reproduced_inside_the_image(name, method):
    convention = CONVENTIONS[name]
    # TensorFlow's table puts the cubic up to 1/2048 of a pixel aside.
    tolerance = 1 / 2048 if convention.cubic_table and method == "cubic" else 1e-5
    for n, m in ((12, 31), (12, 24), (9, 33)):
        ramp = taps(name, method, False, n, m).matrix() @ np.arange(n)
        i = np.arange(m)
        expected = i * (n - 1) / (m - 1) if name == "torch_align_corners" else (i + 0.5) * n / m - 0.5
        inside = (expected >= 1) & (expected <= n - 2)
        assert inside.sum() > m / 2
        np.testing.assert_allclose(ramp[inside], expected[inside], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "method", "antialias"),
    # Gaussian and Mitchell do not interpolate: they blur.
    [combination for combination in COMBINATIONS if combination[1] not in ("gaussian", "mitchell")],
)
def test_resizing_to_the_same_size_is_the_identity(name, method, antialias):
    for n in (1, 2, 7, 40):
        assert taps(name, method, antialias, n, n).identity


@pytest.mark.parametrize("name", ["opencv", "pillow"])
def test_the_half_pixel_grid_is_symmetric(name):
    for method, (n, m) in itertools.product(("linear", "cubic"), SIZES):
        matrix = taps(name, method, False, n, m).matrix()
        np.testing.assert_allclose(matrix, matrix[::-1, ::-1], rtol=0, atol=1e-12)


def test_a_kernel_widens_only_where_the_axis_shrinks():
    for method in ("linear", "cubic", "lanczos3"):
        for n, m in ((7, 7), (7, 12)):
            assert taps("jax", method, True, n, m) == taps("jax", method, False, n, m)
        shrinking = taps("jax", method, True, 40, 10)
        assert shrinking.indices.shape[1] > taps("jax", method, False, 40, 10).indices.shape[1]


def test_opencv_looks_at_all_axes():
    shrinks, grows, stays = Axis(10, 4), Axis(10, 15), Axis(10, 10)
    alone = operators((shrinks,), "area", conventions.opencv)[0]
    with_another = operators((shrinks, grows), "area", conventions.opencv)[0]
    assert alone != with_another
    assert operators((shrinks, stays), "area", conventions.opencv)[0] == alone


def test_opencv_leaves_slivers_out():
    """What an output pixel covers of an input pixel counts from 1/1000 on (OpenCV's computeResizeAreaTab)."""

    def area(n, m, convention=conventions.opencv):
        return operators((Axis(n, m),), "area", convention)[0].matrix()

    # From 2003 to 2000 pixels of 1.0015 each: the first covers 0.0015 of the second, which counts.
    np.testing.assert_allclose(area(2003, 2000)[0, :3], np.array([1, 0.0015, 0]) / 1.0015, rtol=0, atol=1e-6)
    # From 2001 to 2000 pixels of 1.0005 each: 0.0005 of the second does not, but still divides.
    np.testing.assert_allclose(area(2001, 2000)[0, :3], np.array([1, 0, 0]) / 1.0005, rtol=0, atol=1e-6)
    np.testing.assert_allclose(area(2001, 2000)[2, :5], np.array([0, 0, 0.999, 0.0015, 0]) / 1.0005, rtol=0, atol=1e-6)
    whole = area(2001, 2000, dataclasses.replace(conventions.opencv, name="all", area="overlap"))
    np.testing.assert_allclose(whole[0, :3], np.array([1, 0.0005, 0]) / 1.0005, rtol=0, atol=1e-6)


def test_known_weights():
    half, corner = taps("torch", "linear", False, 2, 4), taps("tensorflow1", "linear", False, 2, 4)
    np.testing.assert_allclose(half.matrix(), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    np.testing.assert_allclose(corner.matrix(), [[1, 0], [0.5, 0.5], [0, 1], [0, 1]])
    # Keys' kernel at 0.5: (-a, 4 - 3a... ) / 8 = (-1, 9, 9, -1) / 16 for a = -0.5, (-3, 19, 19, -3) / 32 for -0.75.
    middle = taps("jax", "cubic", False, 6, 12).matrix()
    np.testing.assert_allclose(middle[5, 1:5], np.array([-3, 29, 111, -9][::-1]) / 128, atol=1e-6)
    np.testing.assert_allclose(taps("torch", "area", False, 5, 2).matrix()[0], [1 / 3, 1 / 3, 1 / 3, 0, 0])


@pytest.mark.parametrize("radius", [2, 3, 4, 5])
def test_lanczos_of_every_radius(radius):
    """Against the definition: a sinc times the main lobe of a sinc `radius` times as wide, taps beyond dropped."""
    method = f"lanczos{radius}"
    every = dataclasses.replace(conventions.pillow, name="every", methods=(method,), always_antialias=False)
    (found,) = operators((Axis(9, 23),), method, every)
    distance = np.arange(9) - ((np.arange(23)[:, None] + 0.5) * 9 / 23 - 0.5)
    weights = np.where(np.abs(distance) < radius, np.sinc(distance) * np.sinc(distance / radius), 0)
    np.testing.assert_allclose(found.matrix(), weights / weights.sum(1, keepdims=True), rtol=0, atol=1e-12)


def test_gathered_sums_what_meets():
    found = gathered(np.array([2, 2, 0, 1]), np.array([1, 1, 1, 3]), np.array([1.0, 2.0, 4.0, 8.0]), 3, 4)
    np.testing.assert_array_equal(found.matrix(), [[0, 0, 0], [4, 0, 3], [0, 0, 0], [0, 8, 0]])
    # A free slot reads what its row reads anyway.
    assert found.indices[3].tolist() == [1, 1]
    assert found.weights[3].tolist() == [8, 0]


def test_taps_are_values():
    one, other = taps("torch", "linear", False, 5, 9), taps("pillow", "linear", False, 5, 9)
    rebuilt = Taps(5, one.indices.copy(), one.weights.copy())
    assert rebuilt == one
    assert hash(rebuilt) == hash(one)
    assert one != taps("torch", "cubic", False, 5, 9)
    assert one != taps("torch", "linear", False, 6, 9)
    assert taps("torch", "linear", False, 5, 9) is one  # cached
    assert repr(other) == "Taps(5 -> 9, 2 each)"
    np.testing.assert_array_equal(one[2:5].matrix(), one.matrix()[2:5])
    with pytest.raises(ValueError, match="read-only"):
        one.weights[0, 0] = 2


@pytest.mark.parametrize(
    ("name", "n", "m", "times"), [("torch", 5, 15, 3), ("torch", 5, 14, 0), ("jax", 4, 8, 2), ("torch", 6, 3, 0)]
)
def test_repeats(name, n, m, times):
    found = taps(name, "nearest", False, n, m)
    assert found.repeats == times
    assert found.selection
    assert not found.identity
    assert taps(name, "linear", False, n, m).repeats == 0


def test_strides():
    assert taps("torch", "nearest", False, 12, 4).stride == (0, 3)
    assert taps("pillow", "nearest", False, 12, 4).stride == (1, 3)
    assert taps("jax", "nearest", False, 12, 1).stride == (6, 1)
    assert taps("torch", "nearest", False, 12, 24).stride is None
    assert taps("torch", "nearest", False, 12, 5).stride is None
    assert taps("torch", "linear", False, 12, 8).stride is None


def test_float64_data_have_float64_coordinates():
    axis, exact = Axis(1000, 1777), (np.arange(1777) + 0.5) * 1000 / 1777 - 0.5
    inside = slice(10, -10)

    def ramp(wide):
        return (operators((axis,), "linear", conventions.torch, wide=wide)[0].matrix() @ np.arange(1000.0))[inside]

    assert np.abs(ramp(True) - exact[inside]).max() < 1e-10
    assert np.abs(ramp(False) - exact[inside]).max() > 1e-6
