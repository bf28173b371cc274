"""Images of 8 bits against Pillow, OpenCV, PyTorch and torchvision: every grey level is theirs."""

import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import PIL
import PIL.Image
import pytest

import upsampling as up
from tests import frameworks
from tests.compiling import as_for_users
from tests.optional import F, torch
from tests.references import make_torchvision
from upsampling import conventions
from upsampling.primitives.eight_bit import METHODS

# (rows, columns) before and after: larger, smaller, both, one axis alone, whole factors, an image of a few pixels.
SIZES = [((17, 22), (43, 31)), ((37, 41), (20, 13)), ((40, 21), (9, 27)), ((16, 11), (16, 30)), ((26, 14), (13, 7))]
PILLOW_13 = int(PIL.__version__.split(".")[0]) >= 13
IPP = cv2.__version__.startswith("5.") and cv2.ipp.useIPP()


def grey_levels(shape, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, channels)).astype(np.uint8)


@pytest.mark.parametrize("method", METHODS["pillow"])
def test_pillow(method):
    if method not in frameworks._PILLOW:
        pytest.skip(f"Pillow {PIL.__version__} has no filter {method}")
    for shape, size in SIZES[:3]:
        if size[0] < shape[0] and not PILLOW_13:
            continue  # older ones always start with the columns
        x = grey_levels(shape, 3)
        expected = PIL.Image.fromarray(x).resize(size[::-1], frameworks._PILLOW[method])
        np.testing.assert_array_equal(up.resize(x, size, method=method, convention="pillow", dtype=jnp.uint8), expected)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS["opencv"])
def test_opencv(method, channels):
    if method == "cubic" and channels != 2 and not IPP:
        pytest.skip("OpenCV's cubic of 1, 3 and 4 channels is reproduced as IPP computes it")
    for shape, size in (*SIZES, ((3, 20), (7, 33))):
        x = grey_levels(shape, channels)
        expected = cv2.resize(x, size[::-1], interpolation=frameworks._CV2[method]).reshape(*size, channels)
        found = up.resize(x, size, method=method, convention="opencv", dtype=jnp.uint8)
        np.testing.assert_array_equal(found, expected, err_msg=f"{shape} {size}")


def test_opencv_s_cubic_of_four_channels():
    """Sums that lie between two grey levels, at edges and where vectors end: one value in a million tells the order."""
    if not IPP:
        pytest.skip("OpenCV's cubic of 1, 3 and 4 channels is reproduced as IPP computes it")
    # As users get it: how sums are contracted decides, too.
    resize = as_for_users(lambda x: up.resize(x, (2300, 11), method="cubic", convention="opencv", dtype=jnp.uint8))
    for seed in (19, 33, 36, 56, 103):
        x = grey_levels((1500, 6), 4, seed)
        expected = cv2.resize(x, (11, 2300), interpolation=cv2.INTER_CUBIC)
        if "AVX2" in cv2.ipp.getIppVersion():
            # IPP writes other loops for processors without AVX-512, and XLA too: here two sums of 100000 round apart.
            apart = np.abs(np.asarray(resize(x), int) - expected)
            assert apart.max() <= 1
            assert apart.sum() <= 2
        else:
            np.testing.assert_array_equal(resize(x), expected)


def test_opencv_with_a_scale_and_channels_first():
    x = grey_levels((19, 33), 3)
    expected = cv2.resize(x, None, fy=1.37, fx=0.61, interpolation=cv2.INTER_LINEAR)
    options = {"scale": (1.37, 0.61), "convention": "opencv", "dtype": "uint8"}
    np.testing.assert_array_equal(up.bilinear(x, **options), expected)
    first = up.bilinear(x.transpose(2, 0, 1), axes=(-2, -1), **options)
    np.testing.assert_array_equal(first, expected.transpose(2, 0, 1))
    # A batch of images is each image, mapped or not.
    batch = jnp.asarray(np.stack([x, x[::-1]]))
    np.testing.assert_array_equal(up.bilinear(batch, **options)[0], expected)
    np.testing.assert_array_equal(jax.vmap(lambda x: up.bilinear(x, **options))(batch)[0], expected)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", METHODS["torch"])
def test_torch(method, antialias):
    for shape, size in SIZES[:3]:
        x = grey_levels(shape, 3)
        y = torch.from_numpy(x)[None].movedim(-1, 1)  # channels last, in memory too
        y = F.interpolate(y, size, mode={"linear": "bilinear", "cubic": "bicubic"}[method], antialias=antialias)
        found = up.resize(x, size, method=method, antialias=antialias, dtype=jnp.uint8)
        np.testing.assert_array_equal(found, y[0].movedim(0, -1).numpy())


def assert_as_torchvision(reference):
    """`reference` maps a case to what torchvision returns for it."""
    for key, x, size, method, antialias in make_torchvision.cases():
        found = up.resize(x, size, method=method, antialias=antialias, dtype=jnp.uint8)
        np.testing.assert_array_equal(found, reference(key, x, size, method, antialias), err_msg=f"{x.shape} {size}")


def test_torchvision_as_recorded():
    with np.load(make_torchvision.PATH) as recorded:
        assert_as_torchvision(lambda key, *case: recorded[key])


def test_torchvision_live():
    pytest.importorskip("torchvision", reason="torchvision is not installed; test_torchvision_as_recorded stands in")
    assert_as_torchvision(lambda key, *case: make_torchvision.resize(*case))


def test_without_dtype_nothing_is_rounded():
    x = grey_levels((5, 6), 3)
    assert up.bilinear(x, 9).dtype == jnp.float32
    np.testing.assert_array_equal(up.resize(x, 9, method="nearest", dtype=jnp.uint8), up.nearest(x, 9))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: up.bilinear(x, 9, dtype=jnp.uint16), "bilinear: dtype must be None, or uint8 for x of uint8; got"),
        (lambda x: up.bilinear(x, 9, dtype="integer"), "dtype='integer' for x of uint8"),
        (lambda x: up.bilinear(x.astype(jnp.float32), 9, dtype=jnp.uint8), "for x of float32"),
        (lambda x: up.bicubic(x, 9, convention="jax", dtype=jnp.uint8), "convention 'jax' has no arithmetic of 8 bits"),
        (
            lambda x: up.resize(x, 9, method="lanczos4", convention="opencv", dtype=jnp.uint8),
            "no arithmetic of 8 bits for method 'lanczos4'. It has: 'linear', 'cubic', 'area'.",
        ),
        (
            lambda x: up.resize(x, (9,), method="linear", convention="opencv", dtype=jnp.uint8),
            "OpenCV's arithmetic of 8 bits is for two spatial axes; got 1.",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(jnp.zeros((4, 4, 3), jnp.uint8))


def test_every_arithmetic_is_a_preset_s():
    named = {preset.eight_bit for preset in conventions.PRESETS.values()} - {None}
    assert named == set(METHODS)
    for preset in conventions.PRESETS.values():
        if preset.eight_bit:
            assert set(METHODS[preset.eight_bit]) <= set(preset.methods)
