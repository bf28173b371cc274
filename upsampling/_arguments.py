"""Checks at the door: each error names the function, the argument, what was given and what is allowed.

A public function or a layer checks and normalizes its arguments here, once, and then calls cores that check nothing.
All checks look at static facts only (shapes, dtypes, Python values), so they run while tracing and cost a compiled
function nothing.
"""

import difflib
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Name = TypeVar("Name", bound=str)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

Numbers = int | Sequence[int]
"""One whole number for all spatial axes, or one per axis."""

Padding = Literal["SAME", "VALID", "CIRCULAR"] | int | Sequence[int] | Sequence[tuple[int, int]]
"""A named rule, one number, one per axis, or a (low, high) pair per axis."""

Edge = Literal["zero", "replicate", "reflect", "symmetric"]
"""What lies beyond the image: zeros; its nearest pixel; its mirror image about the centers of its outermost pixels; or
about their outer edges, which repeats them. Without an argument it is what the method's authors publish, and "zero" for
plain operators on windows, "replicate" for plain sampling."""

EDGES: tuple[Edge, ...] = get_args(Edge)


def one_of(function: str, argument: str, given: Any, known: Collection[Name]) -> Name:
    """Returns `given` if it is a known name, else raises ValueError with the nearest known one."""
    for name in known:
        if isinstance(given, str) and given == name:
            return name
    near = difflib.get_close_matches(given, known, n=1) if isinstance(given, str) else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{function}: {argument}={given!r} is not known.{hint} Known: {', '.join(map(repr, known))}.")


def array(function: str, argument: str, given: Any, *, floating: bool = True) -> jax.Array:
    """Returns `given` as a JAX array; raises TypeError unless it is numeric and, if asked, floating."""
    if not isinstance(given, (jax.Array, np.ndarray, np.generic, numbers.Number, list, tuple)):
        raise TypeError(f"{function}: {argument} must be an array; got {type(given).__name__}.")
    if isinstance(given, (list, tuple)):
        given = _from_lists(function, argument, given)
    if isinstance(given, numbers.Real) and not isinstance(given, np.generic):
        # Explicitly: a default that is a number must not be refused by jax.transfer_guard.
        try:
            with np.errstate(over="raise"):
                given = jax.device_put(np.asarray(given, jax.dtypes.canonicalize_dtype(type(given))))
        except (OverflowError, FloatingPointError):
            raise ValueError(f"{function}: {argument} must be a number of 32 bits; got {given!r}.") from None
    if isinstance(given, (np.ndarray, np.generic)):
        known = given.dtype == np.bool_ or jnp.issubdtype(given.dtype, jnp.number)
        if not known:
            raise TypeError(f"{function}: {argument} must be an array of numbers; got dtype {given.dtype}.")
    given = jnp.asarray(given)
    if floating and not jnp.issubdtype(given.dtype, jnp.floating):
        raise TypeError(
            f"{function}: {argument} must be floating (float64, float32, bfloat16 or float16); got {given.dtype}. "
            f"Convert it first, for instance {argument}.astype(jnp.float32)."
        )
    return given


def _from_lists(function: str, argument: str, given: Sequence[Any]) -> Any:
    """Lists as an array; raises TypeError where they hold what is no number or have no common shape."""
    leaves = jax.tree.leaves(given, is_leaf=lambda a: a is None)
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        wrong = not all(isinstance(leaf, (jax.Array, np.ndarray, np.generic, numbers.Number)) for leaf in leaves)
        if wrong or len({np.shape(leaf) for leaf in leaves}) > 1:
            raise TypeError(f"{function}: {argument} must be an array; got lists of {len(leaves)} unlike things.")
        return given
    try:
        array = np.asarray(given)
    except ValueError:
        array = np.asarray(None)
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise TypeError(f"{function}: {argument} must be an array of numbers; got {given!r:.200}.")
    return given


def spatial_map(
    function: str,
    argument: str,
    given: Any,
    rank: int = 2,
    *,
    channels: int | None = None,
    floating: bool = True,
    what: str = "",
) -> jax.Array:
    """Returns `given` as a JAX array, checked to be `(*batch, *spatial, channels)` with `rank` spatial axes.

    Args:
      function, argument: names for the error.
      given: the array.
      rank: number of spatial axes, 1 to 3.
      channels: how many it must have; any number if not given.
      floating: whether it must be floating.
      what: says in the error why it must have that many channels.

    Raises:
      TypeError: not an array, or not floating where it must be.
      ValueError: too few axes, an empty spatial axis, or the wrong number of channels.
    """
    given = array(function, argument, given, floating=floating)
    if not 1 <= rank <= 3 or given.ndim < rank + 1 or 0 in given.shape[-1 - rank : -1]:
        raise ValueError(
            f"{function}: {argument} must be (*batch, *spatial, channels) with {rank} spatial axes (1, 2 or 3), none "
            f"empty; got shape {given.shape}."
        )
    if channels is not None and given.shape[-1] != channels:
        why = what and f", {what}"
        raise ValueError(
            f"{function}: {argument} must have {channels} channels{why}; got shape {given.shape}."
            f"{channels_first_hint(given.shape, rank, channels)}"
        )
    return given


def channels_first_hint(shape: tuple[int, ...], rank: int, channels: int) -> str:
    """What to say of an array that may have its channels before space, as PyTorch has them."""
    if len(shape) < rank + 1 or shape[-1 - rank] != channels:
        return ""
    return f" Channels come last here: from PyTorch's order, move them there with jnp.moveaxis(x, {-1 - rank}, -1)."


def is_static(*sizes: Any) -> bool:
    """Whether sizes are numbers, and not the symbols that `jax.export` takes for sizes to be given later."""
    return all(isinstance(n, int) for n in sizes)


def static_size(function: str, argument: str, given: jax.Array, rank: int, last: int = 1) -> None:
    """Raises TypeError if the spatial axes, `rank` of them before the `last` ones, have symbolic sizes."""
    if not is_static(*given.shape[given.ndim - last - rank : given.ndim - last]):
        raise TypeError(
            f"{function}: {argument} must have spatial sizes that are numbers, since the computation depends on them; "
            f"got shape {given.shape}. Export a program for each size; batch axes may be symbolic."
        )


def shaped(function: str, argument: str, given: Any, shape: tuple[int | str, ...], what: str = "") -> jax.Array:
    """Returns `given` as a floating JAX array of this shape, in which a name stands for any number.

    `what` says in the error why it is that shape.
    """
    given = array(function, argument, given)
    fits = given.ndim == len(shape) and all(
        isinstance(n, str) or m == n for m, n in zip(given.shape, shape, strict=True)
    )
    if not fits:
        wanted = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        raise ValueError(f"{function}: {argument} must have shape {wanted}{what and f', {what}'}; got {given.shape}.")
    return given


def flag(function: str, argument: str, given: Any) -> bool:
    """Returns a Python truth value; raises TypeError for anything else, such as the string "False"."""
    if not isinstance(given, (bool, np.bool_)):
        raise TypeError(f"{function}: {argument} must be True or False; got {given!r}.")
    return bool(given)


# What other libraries call it; of several, the first that names an argument that there is.
_OTHER_WORDS: dict[str, str | tuple[str, ...]] = {
    "scale_factor": "scale",
    "upscale_factor": "scale",
    "downscale_factor": "scale",
    "zoom": "scale",
    "dsize": "size",
    "shape": "size",
    "output_shape": ("size", "output_size"),
    "output_size": "size",
    "mode": ("method", "name"),
    "interpolation": ("method", "name"),
    "resample": "method",
    "align_corners": (
        'convention: "torch_align_corners" is align_corners=True',
        "positions; positions_from_grid, which takes align_corners, makes them of PyTorch's grid",
    ),
    "coordinate_transformation_mode": "convention, which conventions.onnx makes",
    "data_format": "axes",
    "padding_mode": "edge",
    "kernel_size": "window",
    "stride": "strides, in layers scale",
    "window_strides": "strides",
    "strides": "scale",
    "dilations": "dilation",
    "kernel_dilation": "dilation",
    "dilation_rate": "dilation",
    "rhs_dilation": "dilation",
    "feature_group_count": "groups",
    "in_channels": "features",
    "in_features": "features",
    "num_features": "features",
    "out_channels": "out_features",
    "filters": "out_features",
    "bias": "use_bias",
    "weight": "kernel",
    "input": "x",
    "grid": "positions; positions_from_grid makes them of PyTorch's grid",
    "window_size": "window",
    "kernel_shape": "kernel_size",
}


def other_word(argument: str, known: Collection[str]) -> str:
    """A hint for an argument that another library has, if what it is called here is among the known ones."""
    found = _OTHER_WORDS.get(argument, ())
    for here in (found,) if isinstance(found, str) else found:
        if any(name in known for name in here.replace(",", "").replace(":", "").replace(";", "").split()):
            return f" Here it is {here}."
    return ""


def hinted(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Makes a function, or a layer's constructor, say what a keyword of another library is called here; a decorator."""
    known = inspect.signature(function).parameters
    name = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        for argument in kwargs:
            if argument not in known and (hint := other_word(argument, known)):
                raise TypeError(f"{name}: there is no argument {argument!r}.{hint}")
        return function(*args, **kwargs)

    return call


def odd(function: str, argument: str, given: Any, rank: int | None) -> tuple[int, ...]:
    """Returns a window's sizes, one odd number per axis."""
    window = per_axis(function, argument, given, rank)
    if not all(k % 2 for k in window):
        raise ValueError(f"{function}: {argument} must be odd, so that it has a center; got {window}.")
    return window


def divisor(function: str, argument: str, given: Any, **channels: int) -> int:
    """Returns a number of groups, checked to divide each of the named numbers of channels."""
    groups = number(function, argument, given)
    if any(n % groups for n in channels.values()):
        named = " and ".join(f"{name}={n}" for name, n in channels.items())
        raise ValueError(f"{function}: {argument}={groups} must divide {named}.")
    return groups


def promote(*arrays: jax.Array | None) -> tuple[Any, ...]:
    """The arrays in the dtype that they promote to together; None stays None."""
    dtype = jnp.result_type(*(a for a in arrays if a is not None))
    return tuple(None if a is None else a.astype(dtype) for a in arrays)


def per_axis(
    function: str,
    argument: str,
    given: Any,
    rank: int | None,
    *,
    minimum: int | None = 1,
    real: bool = False,
    zero: bool = False,
) -> tuple:
    """Returns `given` as a tuple of `rank` Python numbers.

    Args:
      function, argument: names for the error.
      given: one number, meaning the same on every axis, or a sequence with one number per axis.
      rank: number of spatial axes; None means the length of `given`, or two for a single number.
      minimum: the least value allowed, None for any.
      real: whether fractions are allowed; then every number must also be finite and above zero.
      zero: whether real numbers may be zero.

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
    elif isinstance(given, Sequence) and not isinstance(given, (str, bytes, bytearray)):
        # Numbers that were computed are arrays without axes.
        values = tuple(v.item() if isinstance(v, (np.ndarray, jax.Array)) and v.ndim == 0 else v for v in given)
    else:
        raise TypeError(f"{function}: {argument} must be a number or a sequence of numbers; got {given!r}.")
    if not values or (rank is not None and len(values) != rank):
        raise ValueError(
            f"{function}: {argument} must be one number or {rank or 'at least 1'} of them, one per spatial axis; "
            f"got {len(values)}: {given!r}."
        )
    return tuple(_number(function, argument, v, minimum=minimum, real=real, zero=zero) for v in values)


def as_sequence(given: Any) -> Any:
    """One number, an array without axes included, as a sequence of one; anything else as it is."""
    single = isinstance(given, (numbers.Number, np.generic)) or getattr(given, "ndim", None) == 0
    return (given,) if single else given


def number(
    function: str, argument: str, given: Any, *, minimum: int | None = 1, real: bool = False, zero: bool = False
) -> Any:
    """Returns one Python number, with the checks of `per_axis`."""
    return per_axis(function, argument, (given,), 1, minimum=minimum, real=real, zero=zero)[0]


def widths(function: str, argument: str, given: Any) -> tuple[int, ...]:
    """Returns a sequence of numbers of channels, one for each layer of a small network, as a tuple."""
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)) or not given:
        raise TypeError(f"{function}: {argument} must be a sequence of whole numbers, one per layer; got {given!r}.")
    return tuple(number(function, argument, n) for n in given)


def finite(function: str, argument: str, given: Any) -> float:
    """Returns a real number, which may be below zero; raises TypeError or ValueError for anything else."""
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, numbers.Real):
        raise TypeError(f"{function}: {argument} must be a real number; got {given!r}.")
    if not math.isfinite(given):
        raise ValueError(f"{function}: {argument} must be finite; got {given!r}.")
    return float(given)


def width(function: str, argument: str, given: Any) -> float:
    """Returns the width of a kernel or a penalty: a real number above zero that 32 bits hold."""
    value = number(function, argument, given, real=True)
    if not _SMALLEST <= value <= _LARGEST:
        raise ValueError(
            f"{function}: {argument} must be at least {_SMALLEST:.4g} and at most {_LARGEST:.4g}, which 32 bits hold; "
            f"got {given!r}."
        )
    return value


_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def _number(function: str, argument: str, value: Any, *, minimum: int | None, real: bool, zero: bool) -> Any:
    allowed: Any = numbers.Real if real else numbers.Integral
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, allowed):
        raise TypeError(f"{function}: {argument} must be {'real' if real else 'whole'} numbers; got {value!r}.")
    if real:
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            bound = "at least 0" if zero else "above 0"
            raise ValueError(f"{function}: {argument} must be finite and {bound}; got {value!r}.")
        return float(value)
    if minimum is not None and value < minimum:
        raise ValueError(f"{function}: {argument} must be at least {minimum}; got {value!r}.")
    if not -(2**31) <= value < 2**31:
        raise ValueError(f"{function}: {argument} must be a number of 32 bits; got {value!r}.")
    return int(value)


def padding(function: str, given: Any, rank: int, *, names: Collection[Name]) -> Name | tuple[tuple[int, int], ...]:
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
    any_size: bool = False,
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
      any_size: whether the guide may have any size of at least that of `x`, and not that by `scale` alone.

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
    rank = len(size)
    if any_size and given.ndim == x.ndim and all(map(int.__ge__, given.shape[-1 - rank : -1], x.shape[-1 - rank : -1])):
        shape = (*shape[: -1 - rank], *given.shape[-1 - rank : -1], features)
    if given.shape != shape:
        factor = "" if scale is None else f" and scale={tuple(scale)}"
        raise ValueError(
            f"{function}: {argument} must be (*batch, *size, {features} channels), here {shape} for x of shape "
            f"{x.shape}{factor}; got shape {given.shape}."
        )
    return given
