"""Operations of a traced program, by the formula of each of its steps: what the mathematics needs on any machine."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from upsampling.primitives._common import share_images_p

Shape = tuple[int, ...]


class Counts(NamedTuple):
    """Multiply-adds of the sums of products, and floating-point operations in all. Exponentials and the like are none.

    A sum of k products is k multiply-adds and 2 k - 1 operations.
    """

    multiply_adds: float = 0
    operations: float = 0

    def __add__(self, other: "Counts") -> "Counts":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Counts(self[0] + other[0], self[1] + other[1])

    def times(self, factor: float) -> "Counts":
        return Counts(self[0] * factor, self[1] * factor)


def count(jaxpr: Any) -> Counts:
    """The operations of a jaxpr: loops as often as they run, of branches the longest, nothing that is not used.

    Where devices that share images have a branch of their own, it is that of others.
    """
    total, used = Counts(), {id(v) for v in jaxpr.outvars}
    shared: set[int] = set()  # whether devices share images, as a truth value and as the number of a branch
    for step in jaxpr.eqns:
        told = step.primitive is share_images_p
        if told or (step.primitive.name == "convert_element_type" and id(step.invars[0]) in shared):
            shared.add(id(step.outvars[0]))
    for step in reversed(jaxpr.eqns):
        wanted = any(id(v) in used and id(v) not in shared for v in step.outvars)
        if step.effects or wanted:
            used.update(map(id, step.invars))
            alone = step.primitive.name == "cond" and id(step.invars[0]) in shared
            total += count(step.params["branches"][0].jaxpr) if alone else _of_step(step)
    return total


def _of_this_platform(parameters: Any) -> Sequence[Any]:
    """The branches of a `cond` that may run here: all, but where the platform chooses."""
    branches, platforms = parameters["branches"], parameters.get("branches_platforms")
    if platforms is None:
        return branches
    here = {"gpu": {"cuda", "rocm"}}.get(jax.default_backend(), {jax.default_backend()})
    return [next(b for b, own in zip(branches, platforms, strict=True) if own is None or here & set(own))]


def _of_step(step: Any) -> Counts:
    name, parameters = step.primitive.name, step.params
    if name == "cond":
        return max(count(branch.jaxpr) for branch in _of_this_platform(parameters))
    if name == "scan":
        return count(parameters["jaxpr"].jaxpr).times(parameters["length"])
    if name == "while":  # how often is known only when it runs
        return count(parameters["body_jaxpr"].jaxpr)
    inner = parameters.get("jaxpr", parameters.get("call_jaxpr"))
    if inner is not None:
        return count(getattr(inner, "jaxpr", inner))
    shapes = [tuple(getattr(v.aval, "shape", ())) for v in step.invars]
    result = tuple(step.outvars[0].aval.shape)
    if name in _SUMS:
        return _SUMS[name](shapes, result, parameters)
    if name.startswith(("reduce_window", "cumsum")):
        window = math.prod(parameters.get("window_dimensions", (2,)))
        return Counts(0, (window - 1) * math.prod(result))
    if name.startswith("reduce_"):
        return Counts(0, math.prod(shapes[0]) - math.prod(result))
    if name == "integer_pow":
        return Counts(0, max(abs(parameters["y"]).bit_length() - 1, 1) * math.prod(result))
    return Counts(0, _EACH.get(name, 0) * math.prod(result))


_EACH = dict.fromkeys(
    [
        "abs",
        "add",
        "and",
        "clamp",
        "convert_element_type",
        "div",
        "eq",
        "floor",
        "ceil",
        "ge",
        "gt",
        "is_finite",
        "le",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "not",
        "or",
        "rem",
        "round",
        "select_n",
        "sign",
        "sub",
        "xor",
    ],
    1,
) | {"logistic": 3, "erf_inv": 37, "erfc": 60}  # these are polynomials and more, as XLA writes them


def _sums(results: float, terms: float) -> Counts:
    """`results` sums of `terms` products each."""
    return Counts(results * terms, results * max(2 * terms - 1, 0))


def _dot(shapes: list[Shape], result: Shape, parameters: Any) -> Counts:
    (left, _), _ = parameters["dimension_numbers"]
    return _sums(math.prod(result), math.prod(shapes[0][axis] for axis in left))


def _conv(shapes: list[Shape], result: Shape, parameters: Any) -> Counts:
    numbers = parameters["dimension_numbers"]
    kernel = [shapes[1][axis] for axis in numbers.rhs_spec]
    image = [shapes[0][axis] for axis in numbers.lhs_spec]
    out = [result[axis] for axis in numbers.out_spec]
    axes = zip(
        image[2:],
        kernel[2:],
        out[2:],
        parameters["window_strides"],
        parameters["padding"],
        parameters["lhs_dilation"],
        parameters["rhs_dilation"],
        strict=True,
    )
    met = math.prod(_met(*axis) for axis in axes)
    return _sums(out[0] * out[1] * met, kernel[1])


def _met(n: int, k: int, m: int, stride: int, pad: tuple[int, int], spread: int, dilation: int) -> int:
    """Pairs of an input pixel and a tap that meet in an output pixel: taps on the padding cost nothing."""
    at = np.add.outer(np.arange(m) * stride - pad[0], np.arange(k) * dilation)
    return int(np.sum((at >= 0) & (at <= (n - 1) * spread) & (at % spread == 0)))


def _transposed_conv(shapes: list[Shape], result: Shape, parameters: Any) -> Counts:
    """Each input pixel meets each tap of the kernel once, but for those that are cropped."""
    return _stamped(shapes[0][0], shapes[1], result, parameters["sizes"])


def _kernel_gradient(shapes: list[Shape], result: Shape, parameters: Any) -> Counts:
    return _stamped(shapes[0][0], result, result, parameters["sizes"])


def _stamped(batch: int, kernel: Shape, result: Shape, sizes: Any) -> Counts:
    geometry, met = sizes.geometry, 1
    for n, k, s, d, low, m in zip(
        sizes.inputs, sizes.window, geometry.strides, geometry.dilation, geometry.low, geometry.size, strict=True
    ):
        at = np.add.outer(np.arange(n) * s, np.arange(k) * d) - low
        met *= int(np.sum((at >= 0) & (at < m)))
    products = batch * met * kernel[-1] * kernel[-2]
    return Counts(products, 2 * products - math.prod(result))


def _resample(shapes: list[Shape], result: Shape, parameters: Any) -> Counts:
    """One axis after the other, as separable kernels are applied."""
    (shape,) = shapes
    found = Counts()
    for axis, taps in parameters["operators"]:
        shape = (*shape[:axis], taps.outputs, *shape[axis + 1 :])
        if not taps.selection:
            found += _sums(math.prod(shape), taps.indices.shape[1])
    return found


def _window_sum(shapes: list[Shape], result: Shape, parameters: Any) -> Counts:
    return _sums(math.prod(result), math.prod(parameters["geometry"].window))


def _window_correlation(shapes: list[Shape], result: Shape, parameters: Any) -> Counts:
    return _sums(math.prod(result), shapes[1][-1] / parameters["geometry"].groups)


def _fold(shapes: list[Shape], result: Shape, parameters: Any) -> Counts:
    products = math.prod(shapes[1]) * math.prod(parameters["geometry"].window)
    return Counts(products, 2 * products - math.prod(result))


def _sample(shapes: list[Shape], result: Shape, parameters: Any) -> Counts:
    """All taps around a position, each with its weight; a derivative by position is another such sum."""
    rank, orders = len(parameters["size"]), len(parameters["orders"])
    taps = {"nearest": 1, "bilinear": 2, "bicubic": 4}[parameters["rule"].method] ** rank
    positions = math.prod(result[:-1])
    return _sums(math.prod(result), taps * orders) + Counts(0, positions * taps * _PER_TAP)


_PER_TAP = 8  # a tap's pixel and weight: rounded down, fraction, the weight of each axis, clipped, numbered


def _splat(shapes: list[Shape], result: Shape, parameters: Any) -> Counts:
    """The transpose, which does as much for each value that it spreads."""
    return _sample(shapes, shapes[0], parameters)


_SUMS: dict[str, Callable[[list[Shape], Shape, Any], Counts]] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "transposed_conv": _transposed_conv,
    "transposed_conv_input_gradient": _transposed_conv,
    "transposed_conv_kernel_gradient": _kernel_gradient,
    "resample": _resample,
    "window_sum": _window_sum,
    "window_correlation": _window_correlation,
    "fold": _fold,
    "sample": _sample,
    "splat": _splat,
}
