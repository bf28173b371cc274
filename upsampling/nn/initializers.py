"""Initializers for layers that upsample by convolution, to be used wherever Flax takes an initializer."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from upsampling import _arguments

Initializer = Callable[..., jax.Array]


def icnr(scale: int | Sequence[int], initializer: Initializer | None = None, order: str = "CRD") -> Initializer:
    """For the kernel of a convolution before `pixel_shuffle`: all phases of an output channel start alike.

    The layer then starts as a convolution followed by nearest-neighbor upsampling, without a checkerboard.

    Args:
      scale: the factor of the pixel shuffle: one number for each spatial axis, or one number for two axes.
      initializer: draws the kernel that the phases share, `(key, shape, dtype) -> array`; LeCun normal if not given.
      order: the channel order of the pixel shuffle, as in `upsampling.pixel_shuffle`.

    Returns:
      An initializer `(key, shape, dtype=float32)` for shapes (*window, in, out * prod(scale)).

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
    scale = _arguments.per_axis("icnr", "scale", scale, None)
    _arguments.one_of("icnr", "order", order, ("CRD", "DCR"))
    phases = math.prod(scale)
    draw = jax.nn.initializers.lecun_normal() if initializer is None else initializer

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        if shape[-1] % phases:
            raise ValueError(
                f"icnr: shape must end in a multiple of {phases} output channels for scale={scale}; got {tuple(shape)}."
            )
        kernel = draw(key, (*shape[:-1], shape[-1] // phases), dtype)
        if isinstance(kernel, nnx.VariableMetadata):  # of an initializer with a partitioning
            return dataclasses.replace(kernel, raw_value=spread(kernel.raw_value))
        return spread(kernel)

    def spread(kernel: jax.Array) -> jax.Array:
        if order == "CRD":
            return jnp.repeat(kernel, phases, axis=-1)
        return jnp.tile(kernel, (1,) * (kernel.ndim - 1) + (phases,))

    return init


def bilinear(strides: int | Sequence[int]) -> Initializer:
    """For the kernel of a transposed convolution: each channel starts as linear interpolation of itself.

    Along each axis the window holds the triangle `1 - |offset from the window's center| / stride`. With a window of
    `2 * stride - stride % 2` and `padding="SAME"`, the transposed convolution is, away from the edges, the bilinear
    (linear, trilinear) resizing that PyTorch computes with align_corners=False.

    Args:
      strides: the transposed convolution's: one number, the same for every axis, or one per axis.

    Returns:
      An initializer `(key, shape, dtype=float32)` for shapes (*window, in // groups, out). Input channel `i` goes to
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
    _arguments.per_axis("bilinear", "strides", strides, None)

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        *window, inner, out = shape
        steps = _arguments.per_axis("bilinear", "strides", strides, len(window))
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


def label_blocks(labels: jax.Array | np.ndarray, num_classes: int) -> Initializer:
    """For `upsampling.nn.DUpsampling`: the matrix that best rebuilds blocks of one-hot labels from few numbers.

    With `v` the one-hot labels of a block of `scale` pixels, it is the `W` of `min over P, W of sum |v - W P v|^2`: the
    blocks' leading principal directions, here taken without removing the mean, since the layer adds none.

    Args:
      labels: (n, *spatial), whole numbers; label maps of the training set. Labels outside `0 .. num_classes - 1`, such
        as an ignore index, count as no class. Rows and columns that do not fill a block are left out.
      num_classes: number of classes.

    Returns:
      An initializer `(key, shape, dtype=float32)` for shapes (*scale, features, num_classes). The key is not used.

    Raises:
      ValueError: when called, a shape that does not fit the labels, or more features than a block has numbers.

    Example:

    >>> import jax, numpy as np
    >>> import upsampling as up
    >>> labels = np.array([[[0, 0, 1, 1], [0, 0, 1, 1]]])
    >>> kernel = up.nn.initializers.label_blocks(labels, 2)(jax.random.key(0), (2, 2, 2, 2))
    >>> block = jax.nn.one_hot(labels[0, :, :2], 2)
    >>> code = (kernel * block[:, :, None]).sum((0, 1, 3))
    >>> bool(np.allclose((kernel * code[:, None]).sum(2), block, atol=1e-6))
    True

    Source: Tian et al. 2019, arXiv:1903.02120, equation 2.
    """
    labels = np.asarray(labels)
    num_classes = _arguments.number("label_blocks", "num_classes", num_classes)
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim < 2:
        raise ValueError(
            f"label_blocks: labels must be whole numbers (n, *spatial); got {labels.dtype} of shape {labels.shape}."
        )

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        *scale, features, classes = shape
        numbers = math.prod(scale) * num_classes
        if len(scale) != labels.ndim - 1 or classes != num_classes or features > numbers:
            raise ValueError(
                f"label_blocks: shape must be (*scale, features, {num_classes}) with {labels.ndim - 1} spatial axes "
                f"and at most {numbers} features, the numbers in a block; got {tuple(shape)}."
            )
        rank = len(scale)
        blocks = tuple(n // s for n, s in zip(labels.shape[1:], scale, strict=True))
        if 0 in blocks:
            raise ValueError(f"label_blocks: labels {labels.shape} hold no whole block of {tuple(scale)} pixels.")
        whole = labels[(slice(None), *(slice(0, n * s) for n, s in zip(blocks, scale, strict=True)))]
        whole = whole.reshape(-1, *(m for pair in zip(blocks, scale, strict=True) for m in pair))
        whole = whole.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2)).reshape(-1, math.prod(scale))
        one_hot = (whole[..., None] == np.arange(num_classes)).reshape(len(whole), -1).astype(np.float64)
        directions = np.linalg.eigh(one_hot.T @ one_hot)[1][:, ::-1][:, :features]
        kernel = directions.reshape(*scale, num_classes, features).swapaxes(-1, -2)
        return jnp.asarray(kernel, dtype)

    return init
