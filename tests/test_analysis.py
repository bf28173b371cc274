"""The overlap of kernel and stride against a transposed convolution of ones; receptive fields known on paper."""

import jax.numpy as jnp
import numpy as np
import pytest

import upsampling as up
from upsampling.analysis import overlap, receptive_field
from upsampling.convolution import transposed_conv


@pytest.mark.parametrize(
    ("window", "strides", "dilation"),
    [((4,), (2,), (1,)), ((3,), (2,), (1,)), ((2,), (3,), (1,)), ((4,), (2,), (2,)), ((5, 3), (3, 2), (1, 3))],
)
def test_overlap_counts_what_ones_sum_to(window, strides, dilation):
    y = np.asarray(
        transposed_conv(
            np.ones((*(30,) * len(window), 1), np.float32),
            np.ones((*window, 1, 1), np.float32),
            strides=strides,
            padding="VALID",
            dilation=dilation,
        )
    )[..., 0]
    # From the middle, at a multiple of the stride, the pattern repeats.
    middle = y[tuple(slice(15 * s, 16 * s) for s in strides)]
    np.testing.assert_array_equal(overlap(window, strides, dilation), middle)


def test_overlap_is_even_where_the_stride_divides_the_kernel():
    for window in range(1, 9):
        for stride in range(1, 5):
            assert (np.ptp(overlap(window, stride)) == 0) == (window % stride == 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 2), ValueError, "overlap: kernel_size must be at least 1"),
        (((3, 3), (2, 2, 2)), ValueError, "overlap: strides must be one number or 2"),
        ((3, 1.5), TypeError, "overlap: strides must be whole numbers"),
        ((3, 2, 0), ValueError, "overlap: dilation must be at least 1"),
    ],
)
def test_errors_explain(arguments, error, message):
    with pytest.raises(error, match=message):
        overlap(*arguments)


@pytest.mark.parametrize(
    ("upsample", "scale", "expected"),
    [
        (lambda x: up.nearest(x, scale=2), 2, (1, 1)),
        (lambda x: up.bilinear(x, scale=2), 2, (2, 2)),
        (lambda x: up.lanczos3(x, scale=2, convention="jax"), 2, (6, 6)),
        # Windows of 6 x 5 at stride 2: every third row at most, every third and second column.
        (lambda x: up.transposed_conv(x, jnp.ones((6, 5, 1, 1))), 2, (3, 3)),
        (lambda x: up.transposed_conv(x, jnp.ones((4, 7, 1, 1)), strides=(3, 3)), 3, (2, 3)),
        # A gain by the mean of the map looks at all of it.
        (lambda x: up.nearest(x, scale=2) * x.mean(), 2, (24, 24)),
        (lambda x: jnp.zeros((48, 48, 1)), 2, (0, 0)),
    ],
)
def test_receptive_field(upsample, scale, expected):
    assert receptive_field(upsample, scale=scale) == expected


def test_receptive_field_refuses_another_size():
    with pytest.raises(ValueError, match=r"receptive_field: upsample must take \(24, 24, 1\) to \(48, 48\)"):
        receptive_field(lambda x: up.nearest(x, scale=3), scale=2)
