"""Interpolation: resize with fixed weights, to the numbers of the framework that a model comes from."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from upsampling import _checks, conventions
from upsampling._resample import resample
from upsampling.conventions import SYNONYMS, Convention
from upsampling.taps import axis_taps

Sizes = int | Sequence[int]
Scales = float | Sequence[float]


def resize(
    x: jax.Array,
    size: Sizes | None = None,
    *,
    scale: Scales | None = None,
    method: str = "bilinear",
    convention: str | Convention = "torch",
    antialias: bool = False,
    axes: Sequence[int] | None = None,
) -> jax.Array:
    """Resizes the spatial axes of `x` by interpolation.

    Args:
      x: (*batch, *spatial, channels), any number of batch axes, none included.
      size: the output's spatial size: one whole number for each spatial axis, or one number for two equal axes.
      scale: the factor, instead of `size`: one number for each spatial axis, or one number for two axes.
      method: the interpolation.
      convention: whose pixels and edges to reproduce: a preset's name, or a `Convention`.
      antialias: whether to widen the kernel when an axis shrinks.
      axes: the spatial axes, where they are not the last ones before the channels.

    Returns:
      (*batch, *size, channels) in the dtype of `x`. Half precision accumulates in float32. Of integers and booleans,
      nearest keeps dtype and values, other methods return float32.

    Raises:
      ValueError, TypeError: anything above that is not allowed; nothing is guessed.
    """
    return _resize("resize", x, size, scale, method, convention, antialias, axes)


def nearest(x, size=None, *, scale=None, convention="torch", axes=None) -> jax.Array:
    """`resize` with method nearest."""
    return _resize("nearest", x, size, scale, "nearest", convention, False, axes)


def bilinear(x, size=None, *, scale=None, convention="torch", antialias=False, axes=None) -> jax.Array:
    """`resize` with method bilinear."""
    return _resize("bilinear", x, size, scale, "bilinear", convention, antialias, axes)


def bicubic(x, size=None, *, scale=None, convention="torch", antialias=False, axes=None) -> jax.Array:
    """`resize` with method bicubic."""
    return _resize("bicubic", x, size, scale, "bicubic", convention, antialias, axes)


def _resize(function, x, size, scale, method, convention, antialias, axes) -> jax.Array:
    x = _checks.array(function, "x", x, floating=False)
    convention = conventions.get(function, convention)
    method = _method(function, method, convention, antialias)
    if (size is None) == (scale is None):
        raise ValueError(f"{function}: give one of size and scale; got size={size!r}, scale={scale!r}.")
    rank = None if axes is None else len(axes)
    if size is not None:
        sizes = _checks.per_axis(function, "size", size, rank)
        scales = (None,) * len(sizes)
        axes = _axes(function, x, len(sizes), axes)
    else:
        scales = _checks.per_axis(function, "scale", scale, rank, real=True)
        axes = _axes(function, x, len(scales), axes)
        sizes = tuple(convention.output_size(x.shape[a], s) for a, s in zip(axes, scales, strict=True))
        if min(sizes) < 1:
            raise ValueError(f"{function}: scale={scale!r} makes an axis of x vanish: shape {x.shape} to {sizes}.")
    given = tuple(x.shape[a] for a in axes)
    if min(given) < 1:
        raise ValueError(f"{function}: x must have at least one pixel on each spatial axis; got {given}.")
    return _jitted(x, axes, sizes, scales, method, convention, bool(antialias))


def _method(function: str, method: str, convention: Convention, antialias: bool) -> str:
    known = (*conventions.METHODS, *SYNONYMS)
    method = _checks.one_of(function, "method", method, known)
    method = SYNONYMS.get(method, method)
    allowed = convention.antialiased if antialias else convention.methods
    if method not in allowed:
        kind = "antialiased methods" if antialias else "methods without antialiasing"
        raise ValueError(
            f"{function}: convention {convention.name!r} has no method {method!r} with antialias={antialias}. "
            f"Its {kind}: {', '.join(map(repr, allowed)) or 'none'}."
        )
    return method


def _axes(function: str, x: jax.Array, rank: int, axes: Sequence[int] | None) -> tuple[int, ...]:
    if axes is None:
        if x.ndim < rank + 1:
            raise ValueError(
                f"{function}: x must be (*batch, *spatial, channels) with {rank} spatial axes; got shape {x.shape}. "
                "For arrays without channels name the spatial axes with axes=."
            )
        return tuple(range(x.ndim - 1 - rank, x.ndim - 1))
    axes = _checks.per_axis(function, "axes", axes, rank, minimum=None)
    if any(not -x.ndim <= a < x.ndim for a in axes):
        raise ValueError(f"{function}: axes={axes} must lie in [{-x.ndim}, {x.ndim}) for x of shape {x.shape}.")
    positive = tuple(a % x.ndim for a in axes)
    if len(set(positive)) != rank:
        raise ValueError(f"{function}: axes={axes} names an axis twice for x of shape {x.shape}.")
    return positive


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5, 6))
def _jitted(x, axes, sizes, scales, method, convention, antialias):
    if not jnp.issubdtype(x.dtype, jnp.floating) and not method.startswith("nearest"):
        x = x.astype(jnp.float32)
    operators = [
        (axis, axis_taps(x.shape[axis], m, s, method, convention, antialias))
        for axis, m, s in zip(axes, sizes, scales, strict=True)
    ]
    return resample(x, operators)
