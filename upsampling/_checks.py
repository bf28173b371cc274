"""Errors that explain: each names the function, the argument, what was given and what is allowed.

All checks look at static facts only (shapes, dtypes, Python values), so they run while tracing and cost a compiled
function nothing.
"""

import difflib
import math
import numbers
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def one_of(function: str, argument: str, given: Any, known: Collection[str]) -> str:
    """Returns `given` if it is a known name, else raises ValueError with the nearest known one."""
    if isinstance(given, str) and given in known:
        return given
    near = difflib.get_close_matches(given, known, n=1) if isinstance(given, str) else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{function}: {argument}={given!r} is not known.{hint} Known: {', '.join(map(repr, known))}.")


def array(function: str, argument: str, given: Any, *, floating: bool = True) -> jax.Array:
    """Returns `given` as a JAX array; raises TypeError unless it is numeric and, if asked, floating."""
    if not isinstance(given, (jax.Array, np.ndarray, np.generic, numbers.Number, list, tuple)):
        raise TypeError(f"{function}: {argument} must be an array; got {type(given).__name__}.")
    given = jnp.asarray(given)
    if floating and not jnp.issubdtype(given.dtype, jnp.floating):
        raise TypeError(
            f"{function}: {argument} must be floating (float64, float32, bfloat16 or float16); got {given.dtype}. "
            f"Convert it first, for instance {argument}.astype(jnp.float32)."
        )
    return given


def per_axis(
    function: str,
    argument: str,
    given: Any,
    rank: int | None,
    *,
    minimum: int | None = 1,
    real: bool = False,
) -> tuple:
    """Returns `given` as a tuple of `rank` Python numbers.

    Args:
      function, argument: names for the error.
      given: one number, meaning the same on every axis, or a sequence with one number per axis.
      rank: number of spatial axes; None means the length of `given`, or two for a single number.
      minimum: the least value allowed, None for any.
      real: whether fractions are allowed; then every number must also be finite and above zero.

    Raises:
      TypeError: not numbers, or traced values (geometry is static).
      ValueError: the wrong length, or a number out of range.
    """
    if isinstance(given, Tracer) or (isinstance(given, Sequence) and any(isinstance(n, Tracer) for n in given)):
        raise TypeError(
            f"{function}: {argument} must be static (Python numbers), since it decides shapes; got a traced array. "
            "Mark it with static_argnames, or close over it."
        )
    if isinstance(given, (np.ndarray, jax.Array)):
        given = np.asarray(given).tolist()
    if isinstance(given, (numbers.Number, np.generic)):
        values = (given,) * (2 if rank is None else rank)
    elif isinstance(given, Sequence) and not isinstance(given, str):
        values = tuple(given)
    else:
        raise TypeError(f"{function}: {argument} must be a number or a sequence of numbers; got {given!r}.")
    if not values or (rank is not None and len(values) != rank):
        raise ValueError(
            f"{function}: {argument} must be one number or {rank or 'at least 1'} of them, one per spatial axis; "
            f"got {len(values)}: {given!r}."
        )
    return tuple(_number(function, argument, v, minimum=minimum, real=real) for v in values)


def number(function: str, argument: str, given: Any, *, minimum: int | None = 1, real: bool = False) -> Any:
    """Returns one Python number, with the checks of `per_axis`."""
    return per_axis(function, argument, (given,), 1, minimum=minimum, real=real)[0]


def _number(function: str, argument: str, value: Any, *, minimum: int | None, real: bool) -> Any:
    allowed: Any = numbers.Real if real else numbers.Integral
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, allowed):
        raise TypeError(f"{function}: {argument} must be {'real' if real else 'whole'} numbers; got {value!r}.")
    if real:
        if not math.isfinite(value) or value <= 0:
            raise ValueError(f"{function}: {argument} must be finite and above 0; got {value!r}.")
        return float(value)
    if minimum is not None and value < minimum:
        raise ValueError(f"{function}: {argument} must be at least {minimum}; got {value!r}.")
    return int(value)


def padding(function: str, given: Any, rank: int, *, names: Collection[str]) -> str | tuple[tuple[int, int], ...]:
    """Returns `given` as one of `names`, or as a tuple of `rank` (low, high) pairs of whole numbers of at least 0."""
    if isinstance(given, str):
        return one_of(function, "padding", given, names)
    if isinstance(given, Sequence) and any(isinstance(pair, Sequence) for pair in given):
        if len(given) != rank or not all(isinstance(p, Sequence) and not isinstance(p, str) for p in given):
            raise ValueError(
                f"{function}: padding must be a whole number, {rank} of them, {rank} (low, high) pairs, "
                f"or one of {', '.join(map(repr, names))}; got {given!r}."
            )
        pairs = tuple(per_axis(function, "padding", tuple(pair), 2, minimum=0) for pair in given)
        return tuple((low, high) for low, high in pairs)
    return tuple((p, p) for p in per_axis(function, "padding", given, rank, minimum=0))


def guide(
    function: str,
    given: Any,
    x: jax.Array,
    scale: Sequence[int] | None,
    features: int,
    *,
    size: Sequence[int] | None = None,
    argument: str = "guide",
) -> jax.Array:
    """Returns the high-resolution guide of `x`, `(*batch, *size, features)`, as a JAX array.

    Args:
      function: name for the error.
      given: the guide, or None where a layer was called without one.
      x: (*batch, *spatial, channels), the map to be upsampled, already checked.
      scale: the guide's size over that of `x`, one whole number per spatial axis; or None, with `size` given.
      features: the guide's channels.
      size: the guide's size, one number per spatial axis, for those that are not a whole number of times larger.
      argument: its name for the error.

    Raises:
      TypeError: a guide that is not a floating array.
      ValueError: no guide, or one of another shape.
    """
    if size is None:
        assert scale is not None
        size = tuple(n * s for n, s in zip(x.shape[-1 - len(scale) : -1], scale, strict=True))
    shape = (*x.shape[: -1 - len(size)], *size, features)
    if given is None:
        raise ValueError(
            f"{function}: {argument} must be given, a map of shape {shape} for x of shape {x.shape}; got none."
        )
    given = array(function, argument, given)
    if given.shape != shape:
        factor = "" if scale is None else f" and scale={tuple(scale)}"
        raise ValueError(
            f"{function}: {argument} must be (*batch, *size, {features} channels), here {shape} for x of shape "
            f"{x.shape}{factor}; got shape {given.shape}."
        )
    return given
