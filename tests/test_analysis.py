"""The overlap of kernel and stride against a transposed convolution of ones."""

import numpy as np
import pytest

from upsampling.analysis import overlap
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
