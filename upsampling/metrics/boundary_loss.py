"""The boundary loss: a differentiable distance between boundaries, for training."""

import jax
import jax.numpy as jnp

from upsampling import _arguments
from upsampling.metrics import _labels
from upsampling.metrics._labels import Axes, LabelMap, Spacing
from upsampling.metrics.distance_transform import squared_distance
from upsampling.primitives._common import accumulator, core


def level_sets(
    target: LabelMap,
    num_classes: int,
    ignore_index: int | None = None,
    *,
    spacing: Spacing | None = None,
    axes: Axes | None = None,
) -> jax.Array:
    """The signed distance to each class's boundary, by which `boundary_loss` weights the probabilities.

    It is that of Kervadec et al. (2019) as their code computes it, measured between pixel centers. Outside of the class
    it is the distance to the class. In the class it is 1 - d, where d is the distance to the nearest pixel outside, so
    that it is 0 on the pixels along the boundary and negative farther in. With `spacing` the 1 is the smallest pixel
    size.

    Args:
      target: `(*batch, H, W)` integer labels, 0 to num_classes - 1, or `ignore_index`.
      num_classes: number of classes (static).
      ignore_index: label of void pixels (static). Void is in no class, and the value there is 0: it is not trained.
      spacing: size of a pixel, one number or one per axis (static).
      axes: the spatial axes of the target (static); the last ones if None, as many as `spacing` has, or two.

    Returns:
      `(*target.shape, num_classes)` float32 (float64 for 64-bit JAX). 0 for a class that is not in the image, or that
      fills it: it has no boundary. It depends on the labels alone: compute it with the data where time matters.

    Raises:
      TypeError: labels that are not integers.
      ValueError: labels out of range. Inside jit labels cannot be read, and one out of range belongs to no class.

    >>> import jax.numpy as jnp
    >>> level_sets(jnp.array([[0, 0, 1, 1, 1]]), num_classes=2)[..., 1]
    Array([[ 2.,  1.,  0., -1., -2.]], dtype=float32)
    """
    name = "level_sets"
    num_classes, ignore_index = _labels.check_classes(name, num_classes, ignore_index)
    target = _labels.check_labels(name, "target", target, num_classes, ignore_index)
    axes, spacing = _labels.geometry(name, target.ndim, axes, spacing)
    target = jnp.moveaxis(target, axes, range(-len(axes), 0))
    _arguments.static_size(name, "target", target, len(axes), 0)
    return _level_sets(target, num_classes, ignore_index, spacing, axes)


@core((1, 2, 3, 4), inline=False)
def _level_sets(target, num_classes, ignore_index, spacing, axes):
    """With the spatial axes last; the result has them at `axes`, before the classes."""

    def images(target):
        void = jnp.zeros(target.shape, bool) if ignore_index is None else target == ignore_index
        inside = (target[:, None] == jnp.arange(num_classes, dtype=jnp.int32).reshape(1, -1, *[1] * len(axes))) & ~void[
            :, None
        ]
        out, into = (jnp.sqrt(squared_distance(seeds, spacing)) for seeds in (inside, ~inside))
        signed = jnp.where(inside, min(spacing) - into, out)
        signed = jnp.where(jnp.isfinite(signed) & ~void[:, None], signed, 0)
        return jnp.moveaxis(signed, 1, -1)

    signed = _labels.over_images(images, len(axes), num_classes, target)
    return jnp.moveaxis(signed, range(-len(axes) - 1, -1), [a - 1 for a in axes])


def boundary_loss(probabilities: jax.typing.ArrayLike, level_sets: jax.typing.ArrayLike) -> jax.Array:
    """Boundary loss (Kervadec et al. 2019, equation 5): mean over pixels and classes of probability x signed distance.

    Up to a constant it is the integral over the area between the predicted and the true boundary of the distance to the
    true one. It is linear in the probabilities and differentiable; it is lowest, and negative, for the true map. Add it
    to a regional loss such as cross-entropy, as the authors do.

    Args:
      probabilities: `(*batch, *spatial, classes)` floating, such as a softmax of logits.
      level_sets: the same shape: `level_sets(target, classes)`, or some of its classes. Takes no gradient.

    Returns:
      `(*batch, *spatial)` reduced to a scalar: the mean over all of them, in the unit of the distances. Half precision
      is summed in float32.

    Raises:
      TypeError: an argument that is not floating.
      ValueError: shapes that differ.

    >>> import jax, jax.numpy as jnp
    >>> target = jnp.array([[0, 0, 1, 1, 1]])
    >>> loss = lambda logits: boundary_loss(jax.nn.softmax(logits), level_sets(target, 2))
    >>> bool(loss(9 * jax.nn.one_hot(target, 2)) < loss(jnp.zeros((1, 5, 2))))
    True
    """
    probabilities = _arguments.array("boundary_loss", "probabilities", probabilities)
    level_sets = _arguments.array("boundary_loss", "level_sets", level_sets)
    if probabilities.shape != level_sets.shape:
        raise ValueError(
            "boundary_loss: probabilities and level_sets must have the same shape (*batch, *spatial, classes); got "
            f"{probabilities.shape} and {level_sets.shape}."
        )
    return _boundary_loss(probabilities, level_sets)


@core(inline=False)
def _boundary_loss(probabilities, level_sets):
    kind = accumulator(probabilities.dtype)
    return jnp.mean(probabilities.astype(kind) * jax.lax.stop_gradient(level_sets).astype(kind))
