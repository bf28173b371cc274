"""Initialisers for layers that upsample by convolution, to be used wherever Flax takes an initialiser."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from upsampling import _checks

Initializer = Callable[..., jax.Array]


def icnr(scale: int | Sequence[int], initializer: Initializer | None = None, order: str = "CRD") -> Initializer:
    """For the kernel of a convolution before `pixel_shuffle`: all phases of an output channel start alike.

    The layer then starts as a convolution followed by nearest-neighbour upsampling, without a checkerboard.

    Args:
      scale: the factor of the pixel shuffle: one number for each spatial axis, or one number for two axes.
      initializer: draws the kernel that the phases share, `(key, shape, dtype) -> array`; LeCun normal if not given.
      order: the channel order of the pixel shuffle, as in `upsampling.pixel_shuffle`.

    Returns:
      An initialiser `(key, shape, dtype=float32)` for shapes (*window, in, out * prod(scale)).

    Raises:
      ValueError: a scale below 1, an unknown order, or, when called, channels that `prod(scale)` does not divide.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> import upsampling as up
    >>> kernel = up.nn.initializers.icnr(2)(jax.random.key(0), (3, 3, 8, 5 * 4))
    >>> y = up.sub_pixel_conv(jax.random.normal(jax.random.key(1), (4, 4, 8)), kernel, scale=2)
    >>> bool(jnp.allclose(y[0::2, 0::2], y[1::2, 1::2]))
    True

    Source: Aitken et al. 2017, arXiv:1707.02937, section 3.
    """
    scale = _checks.per_axis("icnr", "scale", scale, None)
    _checks.one_of("icnr", "order", order, ("CRD", "DCR"))
    phases = math.prod(scale)
    draw = jax.nn.initializers.lecun_normal() if initializer is None else initializer

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        if shape[-1] % phases:
            raise ValueError(
                f"icnr: shape must end in a multiple of {phases} output channels for scale={scale}; got {tuple(shape)}."
            )
        kernel = draw(key, (*shape[:-1], shape[-1] // phases), dtype)
        if order == "CRD":
            return jnp.repeat(kernel, phases, axis=-1)
        return jnp.tile(kernel, (1,) * (len(shape) - 1) + (phases,))

    return init


def bilinear(strides: int | Sequence[int]) -> Initializer:
    """For the kernel of a transposed convolution: each channel starts as linear interpolation of itself.

    Along each axis the window holds the triangle `1 - |offset from the window's centre| / stride`. With a window of
    `2 * stride - stride % 2` and `padding="SAME"`, the transposed convolution is, away from the edges, the bilinear
    (linear, trilinear) resizing that PyTorch computes with align_corners=False.

    Args:
      strides: the transposed convolution's: one number, the same for every axis, or one per axis.

    Returns:
      An initialiser `(key, shape, dtype=float32)` for shapes (*window, in // groups, out). Input channel `i` goes to
      output channel `i` alone where the shape has as many of both; a depthwise kernel (in // groups == 1) has the
      triangle in every channel. The key is not used.

    Raises:
      ValueError: a stride below 1, or, when called, channels that fit neither.

    Example:

    >>> import jax, jax.numpy as jnp
    >>> import upsampling as up
    >>> kernel = up.nn.initializers.bilinear(2)(jax.random.key(0), (4, 1, 1))
    >>> kernel[:, 0, 0]
    Array([0.25, 0.75, 0.75, 0.25], dtype=float32)
    >>> up.transposed_conv(jnp.array([[0.0], [4.0], [8.0], [0.0]]), kernel, strides=2)[:, 0]
    Array([0., 1., 3., 5., 7., 6., 2., 0.], dtype=float32)

    Source: Long et al. 2015, arXiv:1411.4038, section 3.3.
    """
    _checks.per_axis("bilinear", "strides", strides, None)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        *window, inner, out = shape
        steps = _checks.per_axis("bilinear", "strides", strides, len(window))
        if inner not in (1, out):
            raise ValueError(
                "bilinear: shape must have as many input as output channels, or one input channel per group; "
                f"got {tuple(shape)}."
            )
        kernel = np.eye(inner) if inner == out else np.ones((1, out))
        for n, stride in zip(reversed(window), reversed(steps), strict=True):
            triangle = np.maximum(0.0, 1 - np.abs(np.arange(n) - (n - 1) / 2) / stride)
            kernel = triangle.reshape(-1, *(1,) * kernel.ndim) * kernel
        return jnp.asarray(kernel, dtype)

    return init
