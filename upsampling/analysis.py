"""What an upsampler does to a signal."""

import functools
import numbers

import numpy as np

from upsampling import _arguments
from upsampling._arguments import Numbers


def overlap(kernel_size: Numbers, strides: Numbers, dilation: Numbers = 1) -> np.ndarray:
    """How many taps of a transposed convolution reach each output pixel, away from the edges.

    The pattern repeats every `strides` pixels. Where its numbers differ, kernel and stride overlap unevenly, and some
    pixels sum more terms than their neighbors: the checkerboard that training must then learn to undo. It is even
    where the stride divides the kernel's size (and has no divisor in common with the dilation). Over several axes the
    numbers multiply, which makes the unevenness worse.

    Args:
      kernel_size: the window, one number per axis. A single number means one axis.
      strides, dilation: as in `upsampling.transposed_conv`, one number or one per axis.

    Returns:
      Whole numbers of shape `strides`: entry `r` is for output pixels `r` modulo `strides` of the full result.

    Raises:
      ValueError, TypeError: numbers that are not whole, below 1, or too few.

    Example: the window of 3 at stride 2 reaches every other pixel twice, on two axes four times, twice or once; the
    window of 4 reaches all alike.

    >>> from upsampling import analysis
    >>> analysis.overlap((3, 3), 2)
    array([[4, 2],
           [2, 1]])
    >>> analysis.overlap((4, 4), 2)
    array([[4, 4],
           [4, 4]])

    Source: Odena et al. 2016, "Deconvolution and checkerboard artifacts", doi:10.23915/distill.00003.
    """
    window = _arguments.per_axis(
        "overlap", "kernel_size", kernel_size, 1 if isinstance(kernel_size, numbers.Integral) else None
    )
    steps = _arguments.per_axis("overlap", "strides", strides, len(window))
    spacing = _arguments.per_axis("overlap", "dilation", dilation, len(window))
    counts = [np.bincount(np.arange(k) * d % s, minlength=s) for k, s, d in zip(window, steps, spacing, strict=True)]
    return functools.reduce(np.multiply.outer, counts)
