"""What an upsampler does to a signal."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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
    window = _arguments.per_axis("overlap", "kernel_size", kernel_size, 1 if isinstance(kernel_size, int) else None)
    steps = _arguments.per_axis("overlap", "strides", strides, len(window))
    spacing = _arguments.per_axis("overlap", "dilation", dilation, len(window))
    counts = [np.bincount(np.arange(k) * d % s, minlength=s) for k, s, d in zip(window, steps, spacing, strict=True)]
    return functools.reduce(np.multiply.outer, counts)


def receptive_field(
    upsample: Callable[[jax.Array], jax.Array], features: int = 1, scale: int = 2, *, size: int = 24
) -> tuple[int, int]:
    """How many pixels of the input, along rows and columns, one pixel of the output depends on.

    Found by differentiation in the middle of an input of random numbers: a pixel counts if the output's derivative by
    it is not zero. Of the phases, that is the pixels of one cell of the output, the widest counts. A layer's own values
    must not hide what it can look at: after an initialization with zeros it looks at less than once it is trained.

    Args:
      upsample: a function or layer, `(size, size, features)` to `(size * scale, size * scale, any)`.
      features: channels of the input.
      scale: the factor.
      size: of the input. A method that looks at all of it gets this number.

    Returns:
      Rows and columns, from the first pixel to the last that counts.

    Raises:
      ValueError: an output of another size.

    Example: the cubic kernel has four taps per axis, whatever the factor.

    >>> import upsampling as up
    >>> up.analysis.receptive_field(lambda x: up.bicubic(x, scale=4), scale=4)
    (4, 4)

    Source: Luo et al. 2016, arXiv:1701.04128, section 2, by the support of the gradient.
    """
    x = jax.random.normal(jax.random.key(0), (size, size, features))
    given = jax.eval_shape(upsample, x)
    if given.ndim != 3 or given.shape[:2] != (size * scale, size * scale):
        raise ValueError(
            f"receptive_field: upsample must take {x.shape} to {(size * scale, size * scale)} and channels; got "
            f"{given.shape}."
        )
    mixed = jax.random.normal(jax.random.key(1), given.shape[2:]).astype(given.dtype)

    _, pull = jax.vjp(upsample, x)

    @jax.jit
    def touched(pull: Callable, at: jax.Array) -> jax.Array:
        (slope,) = pull(jnp.zeros(given.shape, given.dtype).at[at[0], at[1]].set(mixed))
        return jnp.any(slope != 0, -1)

    first = scale * (size // 2)
    extents = []
    for phase in np.ndindex(scale, scale):
        seen = np.asarray(touched(pull, jnp.asarray(phase) + first))
        extents.append((_extent(np.any(seen, axis=1)), _extent(np.any(seen, axis=0))))
    rows, columns = zip(*extents, strict=True)
    return max(rows), max(columns)


def _extent(seen: Any) -> int:
    """From the first true entry to the last."""
    places = np.flatnonzero(seen)
    return int(places[-1] - places[0] + 1) if places.size else 0
