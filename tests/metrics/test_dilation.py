import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from upsampling.metrics import _dilation


@pytest.mark.parametrize(
    ("shape", "spacing", "radius"),
    [
        ((30,), (0.7,), 2.1),
        ((19, 23), (1.0, 1.0), 0),
        ((19, 23), (1.0, 1.0), 5),
        ((19, 23), (0.7, 2.0), 4.2),
        ((3, 40), (1.0, 1.0), 30),
        ((7, 9, 11), (2.0, 0.5, 1.25), 2.5),
    ],
)
def test_dilation_is_that_of_scipy_distances(shape, spacing, radius):
    """For more classes than a word has bits, each of which is counted; a distance of exactly the radius is near."""
    members = np.random.default_rng(0).random((2, 35, *shape)) < 0.01
    members[0, 3] = False
    element = _dilation.disk(spacing, radius)
    assert element is not None
    classes = np.arange(35).reshape(-1, *[1] * len(shape))

    @jax.jit
    def dilated(members):
        named = jnp.where(members, classes, -1)
        words = functools.reduce(operator.or_, [_dilation.as_words(named[:, c], 35) for c in range(35)])
        words = _dilation.dilate(words, element)
        return _dilation.holds(words, jnp.broadcast_to(classes, members.shape)), _dilation.count(words, 35)

    got, counts = dilated(members)
    np.testing.assert_array_equal(counts, got.reshape(2, 35, -1).sum(-1))
    for image, c in [(0, 0), (0, 3), (1, 31), (1, 32), (1, 34)]:
        far = ndimage.distance_transform_edt(~members[image, c], sampling=spacing)
        expected = far <= radius * (1 + 1e-9) if members[image, c].any() else np.zeros(shape, bool)
        np.testing.assert_array_equal(got[image, c], expected)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.3), (1e-9, 1.0), (1.0, 1e-9), (2.0, 1.0, 1.0)])
def test_large_disks_are_left_to_distances(spacing):
    assert _dilation.disk(spacing, 1000.0) is None
    assert _dilation.disk(spacing, 0.0) == {(0,) * (len(spacing) - 1): 0}


def test_rows_of_a_disk():
    assert _dilation.disk((1.0, 1.0), math.sqrt(2)) == {(-1,): 1, (0,): 1, (1,): 1}
    assert _dilation.disk((1.0, 1.0), 2) == {(-2,): 0, (-1,): 1, (0,): 2, (1,): 1, (2,): 0}


@pytest.mark.parametrize(("size", "radius"), [(0.7, 2.1), (0.1, 0.3), (0.3, 2.1), (1.1, 3.3)])
def test_rounding_loses_no_pixel(size, radius):
    """A radius of three pixels, or seven, reaches that far along every axis, though it rounds to more or less."""
    steps = round(radius / size)
    assert _dilation.disk((size,), radius) == {(): steps}
    row, column = (_dilation.disk(spacing, radius) for spacing in ((1e3, size), (size, 1e3)))
    assert row == {(0,): steps}
    assert column == {(k,): 0 for k in range(-steps, steps + 1)}
    assert bool(_dilation.within_squared(jnp.float32(steps * size) ** 2, radius))
    # No farther than rounding: a pixel that is 1/1000 too far is not near.
    assert _dilation.disk((size,), radius * 0.999) == {(): steps - 1}
    assert not bool(_dilation.within_squared(jnp.float32(steps * size) ** 2, radius * 0.999))
