import functools
import math

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
def test_near_is_that_of_scipy_distances(shape, spacing, radius):
    """For more classes than a word has bits; a distance of exactly the radius is near."""
    members = np.random.default_rng(0).random((2, 35, *shape)) < 0.01
    members[0, 3] = False
    rows = _dilation.rows_of(spacing, radius)
    assert rows is not None
    got = jax.jit(functools.partial(_dilation.near, rows=rows))(members)
    for image, c in [(0, 0), (0, 3), (1, 31), (1, 32), (1, 34)]:
        far = ndimage.distance_transform_edt(~members[image, c], sampling=spacing)
        expected = far <= radius * (1 + 1e-9) if members[image, c].any() else np.zeros(shape, bool)
        np.testing.assert_array_equal(got[image, c], expected)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.3), (1e-9, 1.0), (1.0, 1e-9), (2.0, 1.0, 1.0)])
def test_large_disks_are_left_to_distances(spacing):
    assert _dilation.rows_of(spacing, 1000.0) is None
    assert _dilation.rows_of(spacing, 0.0) == {(0,) * (len(spacing) - 1): 0}


def test_rows_of_a_disk():
    assert _dilation.rows_of((1.0, 1.0), math.sqrt(2)) == {(-1,): 1, (0,): 1, (1,): 1}
    assert _dilation.rows_of((1.0, 1.0), 2) == {(-2,): 0, (-1,): 1, (0,): 2, (1,): 1, (2,): 0}
    # Three pixels of 0.7 are within 2.1, which is less than 3 * 0.7 in floating point.
    assert _dilation.rows_of((0.7,), 2.1) == {(): 3}
    assert bool(_dilation.within_squared(jnp.float32(0.7 * 3) ** 2, 2.1))
