"""1-D resampling operators as (indices, weights), computed in float64 NumPy while tracing.

An operator from n to m pixels is a short list of taps for each output pixel:

    y[i] = sum_k  weights[i, k] * x[indices[i, k]]

Every method in every framework is such an operator, and so is its adjoint. Most are found by the steps of ResizeRight:
the projected grid, where the output's pixels lie on the input's grid; each one's field of view, the input pixels that
it sees; and the weights of these. `resample` then applies them. This module knows no JAX.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from upsampling.conventions import Arithmetic, Convention, Edge, Grid, PlainMethod, Rounding


@dataclasses.dataclass(frozen=True, eq=False)
class Taps:
    """A linear operator from `size` to `len(indices)` pixels.

    Attributes:
      size: number of input pixels, n.
      indices: (m, k) integers in [0, n).
      weights: (m, k) float64. Rows shorter than k are filled with weight 0 on a pixel that the row reads anyway, so
        that a NaN spreads no further than the method itself spreads it.
    """

    size: int
    indices: np.ndarray
    weights: np.ndarray

    def __post_init__(self):
        # Operators are cached and shared.
        self.indices.setflags(write=False)
        self.weights.setflags(write=False)

    @functools.cached_property
    def _key(self) -> tuple:
        return self.size, self.indices.shape, self.indices.tobytes(), self.weights.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taps) and (self is other or self._key == other._key)

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Taps({self.size} -> {self.outputs}, {self.indices.shape[1]} each)"

    def __getitem__(self, outputs: slice) -> "Taps":
        """The same operator, of which only some outputs are wanted."""
        return Taps(self.size, self.indices[outputs], self.weights[outputs])

    @property
    def outputs(self) -> int:
        """Number of output pixels, m."""
        return len(self.indices)

    @functools.cached_property
    def selection(self) -> bool:
        """Whether every output copies one input: no arithmetic, so any dtype."""
        return self.weights.shape[1] == 1 and bool((self.weights == 1).all())

    @functools.cached_property
    def repeats(self) -> int:
        """How often each input stands in the output, one after the other; 0 unless that is all the operator does."""
        times, rest = divmod(self.outputs, self.size)
        repeated = not rest and self.selection and np.array_equal(self.indices[:, 0], np.arange(self.outputs) // times)
        return times if repeated else 0

    @functools.cached_property
    def stride(self) -> tuple[int, int] | None:
        """(start, step) if output i copies input start + i step, the step above zero."""
        if not self.selection:
            return None
        index = self.indices[:, 0]
        start, step = int(index[0]), int(index[1] - index[0]) if self.outputs > 1 else 1
        regular = step > 0 and np.array_equal(index, start + step * np.arange(self.outputs))
        return (start, step) if regular else None

    @functools.cached_property
    def identity(self) -> bool:
        """Whether the output is the input."""
        return self.selection and np.array_equal(self.indices[:, 0], np.arange(self.size))

    def matrix(self) -> np.ndarray:
        """Returns the operator as a dense (m, n) matrix."""
        dense = np.zeros((self.outputs, self.size))
        np.add.at(dense, (np.arange(self.outputs)[:, None], self.indices), self.weights)
        return dense

    @functools.cached_property
    def transpose(self) -> "Taps":
        """The adjoint, from m to n pixels: for each input pixel, the outputs that it feeds."""
        rows, columns = np.repeat(np.arange(self.outputs), self.indices.shape[1]), self.indices.ravel()
        values = self.weights.ravel()
        keep = values != 0
        return gathered(rows[keep], columns[keep], values[keep], self.outputs, self.size)


def gathered(sources: np.ndarray, targets: np.ndarray, values: np.ndarray, size: int, outputs: int) -> Taps:
    """Returns the operator y[targets] += values * x[sources] as taps; sources that repeat in a row are summed."""
    pairs, inverse = np.unique(targets * size + sources, return_inverse=True)
    values = np.bincount(inverse, values, len(pairs))
    targets, sources = pairs // size, pairs % size
    counts = np.bincount(targets, minlength=outputs)
    slots = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(1, int(counts.max(initial=0)))
    indices = np.zeros((outputs, width), np.int32)
    weights = np.zeros((outputs, width))
    indices[targets, slots] = sources
    weights[targets, slots] = values
    # A free slot repeats its row's first pixel; a row with no taps at all reads pixel 0 with weight 0.
    free = np.arange(width) >= counts[:, None]
    indices = np.where(free, indices[:, :1], indices)
    return Taps(size, indices, weights)


def composed(outer: Taps, inner: Taps) -> Taps:
    """Returns the operator that applies `inner`, then `outer`."""
    indices = inner.indices[outer.indices]
    weights = outer.weights[..., None] * inner.weights[outer.indices]
    rows = np.broadcast_to(np.arange(outer.outputs)[:, None, None], indices.shape)
    keep = weights != 0
    return gathered(indices[keep], rows[keep], weights[keep], inner.size, outer.outputs)


# --- kernels: the weight of a pixel at distance x from the center, zero from the radius on ---------------------------


# `xp` is NumPy, or what stands in for it where the distances are traced.


def _triangle(x: np.ndarray, xp: Any = np) -> np.ndarray:
    return xp.maximum(0.0, 1.0 - xp.abs(x))


def _box(x: np.ndarray) -> np.ndarray:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _cubic(x: np.ndarray, b: float, c: float, xp: Any = np) -> np.ndarray:
    """The cubics of Mitchell and Netravali (1988, equation 8); b = 0 gives those of Keys (1981, equation 4), a = -c."""
    x = xp.abs(x)
    inner = ((12 - 9 * b - 6 * c) * x + (-18 + 12 * b + 6 * c)) * x**2 + (6 - 2 * b)
    outer = (((-b - 6 * c) * x + (6 * b + 30 * c)) * x + (-12 * b - 48 * c)) * x + (8 * b + 24 * c)
    return xp.where(x < 1.0, inner, xp.where(x < 2.0, outer, 0.0)) / 6


def _sinc(x: np.ndarray, xp: Any = np) -> np.ndarray:
    """sin(pi x) / (pi x), and exactly zero at the whole numbers, so that resizing by one is the identity."""
    return xp.where((x != 0) & (x == xp.rint(x)), 0.0, xp.sinc(x))


def _lanczos(x: np.ndarray, radius: int, xp: Any = np) -> np.ndarray:
    """Duchon (1979): a sinc under the main lobe of a wider sinc."""
    return xp.where(xp.abs(x) < radius, _sinc(x, xp) * xp.sinc(x / radius), 0.0)


def _hamming(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1.0, _sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)


def _gaussian(x: np.ndarray) -> np.ndarray:
    """Standard deviation half a pixel, cut at three of them."""
    return np.where(np.abs(x) < 1.5, np.exp(-2 * x**2), 0.0)


def _mks2013(x: np.ndarray) -> np.ndarray:
    """Costella's Magic Kernel Sharp 2013."""
    x = np.abs(x)
    return np.select(
        [x < 0.5, x < 1.5, x < 2.5], [17 / 16 - 7 / 4 * x**2, (1 - x) * (7 / 4 - x), -((x - 5 / 2) ** 2) / 8]
    )


def _mks2021(x: np.ndarray) -> np.ndarray:
    """Costella's Magic Kernel Sharp 2021."""
    x = np.abs(x)
    return np.select(
        [x < 0.5, x < 1.5, x < 2.5, x < 3.5, x < 4.5],
        [
            577 / 576 - 239 / 144 * x**2,
            35 / 36 * (x - 1) * (x - 239 / 140),
            (x - 2) * (65 / 24 - x) / 6,
            (x - 3) * (x - 15 / 4) / 36,
            -((x - 9 / 2) ** 2) / 288,
        ],
    )


def _b_spline(x: np.ndarray) -> np.ndarray:
    """The cubic B-spline, the box convolved with itself three times."""
    return _cubic(x, b=1.0, c=0.0)


def kernel(method: PlainMethod, a: float) -> tuple[Callable[..., Any], float]:
    """Returns the kernel of a method and its radius in pixels; `a` is the cubic's sharpness."""
    if method.startswith("lanczos"):
        radius = int(method.removeprefix("lanczos"))
        return functools.partial(_lanczos, radius=radius), float(radius)
    return {
        "linear": (_triangle, 1.0),
        "cubic": (functools.partial(_cubic, b=0.0, c=-a), 2.0),
        "mitchell": (functools.partial(_cubic, b=1 / 3, c=1 / 3), 2.0),
        "box": (_box, 0.5),
        "hamming": (_hamming, 1.0),
        "mks2013": (_mks2013, 2.5),
        "mks2021": (_mks2021, 4.5),
        "gaussian": (_gaussian, 1.5),
    }[method]


# --- the projected grid -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis to resize: from `n` to `m` pixels, with the scale that the caller gave and the part to look at."""

    n: int
    m: int
    scale: float | None = None
    roi: tuple[float, float] = (0.0, 1.0)

    def step(self, convention: Convention) -> float:
        """Input pixels per output pixel."""
        return 1 / self.scale if self.scale is not None and convention.given_scale else self.n / self.m

    def factor(self, convention: Convention) -> float:
        """Output pixels per input pixel."""
        return self.scale if self.scale is not None and convention.given_scale else self.m / self.n

    @property
    def corner_step(self) -> float:
        """Input pixels per output pixel, where first and last pixels coincide."""
        return (self.n - 1) / (self.m - 1) if self.m > 1 else 0.0


class ProjectedGrid(NamedTuple):
    """Where the centers of an axis's output pixels lie on the input's grid, rounded as the framework rounds it.

    Attributes:
      from_pixel_center: (m,) in input pixels from the center of the first input pixel.
      from_edge: (m,) from the image's edge, half a pixel more. Kept beside it since adding a half rounds.
    """

    from_pixel_center: np.ndarray
    from_edge: np.ndarray


def projected_grid(
    axis: Axis, grid: Grid, convention: Convention, arithmetic: Arithmetic, real: np.dtype
) -> ProjectedGrid:
    """Returns where output pixels lie; `Convention` gives the formula of each grid."""
    n, m = axis.n, axis.m
    if arithmetic == "affine":
        scale = real.type(axis.factor(convention))
        return _from_pixel_center(((np.arange(m, dtype=real) + 1) / scale + 0.5 * (1 - 1 / scale)) - 1, real)
    if arithmetic == "single":
        exact = projected_grid(axis, grid, convention, "inverse", np.dtype("float64"))
        return ProjectedGrid(*(part.astype(np.float32).astype(real) for part in exact))
    i = np.arange(m, dtype=real)
    if grid == "half_pixel" or (grid == "pytorch_half_pixel" and m > 1):
        return _from_edge(_steps(i + 0.5, axis, convention, arithmetic), real)
    if grid == "half_pixel_symmetric":
        # The output is cut to whole pixels; its center stays the center of the input.
        scale = real.type(m) / real.type(n) if axis.scale is None else real.type(axis.scale)
        moved = real.type(n) / 2 * (1 - real.type(m) / (scale * real.type(n)))
        center = np.float64(moved) + (np.arange(m) + 0.5) / np.float64(scale) - 0.5
        return _from_pixel_center(center.astype(real), real)
    if grid == "half_pixel_of_corners":
        return _from_edge((i + 0.5) * real.type(axis.corner_step), real)
    if grid == "corner":
        return _from_pixel_center(_steps(i, axis, convention, arithmetic), real)
    if grid == "tf_half_pixel_for_nn":
        return _from_pixel_center(_steps(i + 0.5, axis, convention, arithmetic), real)
    if grid == "align_corners":
        exact = arithmetic == "quotient"
        return _from_pixel_center(i * (n - 1) / max(m - 1, 1) if exact else i * real.type(axis.corner_step), real)
    if grid == "crop":
        start, end = (real.type(part) for part in axis.roi)
        if m == 1:
            return _from_pixel_center(np.array([0.5 * float(start + end) * (n - 1)]), real)
        return _from_pixel_center(start * (n - 1) + i * (end - start) * (n - 1) / (m - 1), real)
    return _from_pixel_center(np.zeros_like(i), real)  # pytorch_half_pixel with a single output pixel


def _from_edge(center: np.ndarray, real: np.dtype) -> ProjectedGrid:
    return ProjectedGrid((center - 0.5).astype(real), center.astype(real))


def _from_pixel_center(center: np.ndarray, real: np.dtype) -> ProjectedGrid:
    return ProjectedGrid(center.astype(real), (center + 0.5).astype(real))


def _steps(i: np.ndarray, axis: Axis, convention: Convention, arithmetic: Arithmetic) -> np.ndarray:
    """Returns i steps, in the floating type of `i` and rounded as the framework's arithmetic rounds them."""
    real = i.dtype.type
    given = axis.scale if convention.given_scale else None
    if arithmetic == "quotient":
        return i / (real(axis.m) / real(axis.n) if given is None else real(given))
    if arithmetic == "reciprocal":
        return i * (real(axis.n) * (real(1) / real(axis.m)))
    if arithmetic == "inverse":
        return i * (real(1) / (real(axis.m) / real(axis.n) if given is None else real(given)))
    if arithmetic == "sum":
        step = real(axis.n) / real(axis.m)
        return np.cumsum(np.concatenate([i[:1] * step, np.full(len(i) - 1, step)]))
    step = real(axis.n) / real(axis.m) if given is None else real(1 / given)
    # A fused multiply-add rounds only after what is added next.
    return i * step if arithmetic == "product" else i.astype(np.float64) * float(step)


# --- operators that copy or average pixels ----------------------------------------------------------------------------


def _identity(n: int) -> Taps:
    return Taps(n, np.arange(n, dtype=np.int32)[:, None], np.ones((n, 1)))


def _nearest(axis: Axis, method: PlainMethod, convention: Convention, real: np.dtype) -> Taps:
    n, m = axis.n, axis.m
    if method == "nearest":
        grid, rounding = convention.nearest_grid or convention.grid, convention.nearest_rounding
        projected = projected_grid(axis, grid, convention, convention.nearest_arithmetic, real)
    else:
        rounding = "cell"
        projected = projected_grid(axis, "half_pixel", convention, convention.nearest_exact_arithmetic, real)
    if convention.precision == "data":
        # PyTorch computes in the data's precision, and then rounds in float32.
        projected = ProjectedGrid(*(part.astype(np.float32) for part in projected))
    index = _within(_rounded(projected, rounding, convention.nearest_tie), n, convention.edge).astype(np.int32)
    return Taps(n, index[:, None], np.ones((m, 1)))


def _rounded(projected: ProjectedGrid, rounding: Rounding, tie: float) -> np.ndarray:
    """The number of the pixel that each center is nearest to."""
    center = projected.from_pixel_center
    below = np.floor(center)
    if rounding == "cell":
        return np.floor(projected.from_edge)
    if rounding == "floor":
        return below
    if rounding == "ceil":
        return np.ceil(center)
    over = center - below - 0.5
    up = over > 0 if rounding == "half_down" else over >= 0
    return below + np.where(np.abs(over) < tie, rounding == "half_up", up)


def _bins(n: int, m: int) -> Taps:
    """The mean of all pixels that an output pixel touches."""
    i = np.arange(m)
    first, last = i * n // m, -(-(i + 1) * n // m)
    counts = last - first
    sources = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    return gathered(sources, np.repeat(i, counts), np.repeat(1.0 / counts, counts), n, m)


def _overlap(axis: Axis, convention: Convention, real: np.dtype) -> Taps:
    """The mean over an output pixel's area, each input pixel weighed by the part that is covered."""
    n, m = axis.n, axis.m
    i = np.arange(m + 1, dtype=real)
    corners = convention.grid == "align_corners" and m > 1
    borders = i * real.type(axis.corner_step) if corners else _steps(i, axis, convention, "product")
    start, end = borders[:-1, None], borders[1:, None]
    if convention.area == "overlap_sum":
        end = start + borders[1]
    if borders[-1] == 0:  # one pixel, stretched between its own corners
        return Taps(n, np.zeros((m, 1), np.int32), np.ones((m, 1)))
    index = np.floor(start).astype(int) + np.arange(math.ceil((end - start).max()) + 1)
    weights = np.clip(np.minimum(index + 1, end) - np.maximum(index, start), 0, None)
    weights = np.where((index < start) & (index + 1 > end), borders[1], weights)  # an output pixel within one pixel
    if convention.area == "overlap_or_linear":
        # The area ends with the image, and slivers of a pixel are left out.
        weights = np.where((index < n) & (weights > 1e-3), weights, 0) / np.minimum(end - start, n - start)
    elif convention.area == "overlap_sum":
        weights = np.where(index < n, weights, 0)
        weights = weights / weights.sum(1, keepdims=True)
    else:
        weights = weights / borders[1]
    return _from_windows(index, weights.astype(np.float64), n)


def _flat_linear(axis: Axis, convention: Convention) -> Taps:
    """Linear interpolation at the border between two pixels, a copy within one."""
    i = np.arange(axis.m, dtype=float)
    index = np.floor(_steps(i, axis, convention, "inverse")).astype(int)
    fraction = (i + 1) - (index + 1) / axis.step(convention)
    fraction = np.where(fraction <= 0, 0.0, fraction - np.floor(fraction))
    return _from_windows(index[:, None] + [0, 1], np.stack([1 - fraction, fraction], 1), axis.n)


# --- operators that weigh pixels with a kernel: projected grid, field of view, weights -------------------------------


class _Filter(NamedTuple):
    """What a convention decides about a method that weighs with a kernel.

    Attributes:
      method: whose kernel.
      sharpness: the cubic's a.
      edge, grid, arithmetic: as in `Convention`.
      table: the number of steps per pixel to which the grid is rounded; None means no rounding.
      centered: whether distances are taken between pixel centers, or from the edge and half a pixel more. They round
        differently.
    """

    method: PlainMethod
    sharpness: float
    edge: Edge
    grid: Grid
    arithmetic: Arithmetic
    table: int | None
    centered: bool


def _filter(method: PlainMethod, convention: Convention, antialias: bool) -> _Filter:
    sharpness, edge = convention.cubic, convention.edge
    if antialias:
        sharpness, edge = convention.antialias_cubic, convention.antialias_edge
    elif method == "cubic-pytorch":
        sharpness, edge = -0.75, "replicate"
    method = "cubic" if method == "cubic-pytorch" else method
    plain = method in ("linear", "cubic") and not antialias
    arithmetic = convention.arithmetic if plain else convention.antialias_arithmetic
    return _Filter(
        method,
        sharpness,
        edge,
        grid=(antialias and convention.antialias_grid) or convention.grid,
        arithmetic=arithmetic,
        table=convention.cubic_table if plain and method == "cubic" else None,
        centered=plain or arithmetic in ("fused", "single"),
    )


def _filtered(axis: Axis, method: PlainMethod, convention: Convention, antialias: bool, real: np.dtype) -> Taps:
    """Weighs the pixels around each center with a kernel."""
    chosen = _filter(method, convention, antialias)
    projected = projected_grid(axis, chosen.grid, convention, chosen.arithmetic, real)
    if chosen.table:
        projected = _to_table(projected, chosen.table, real)
    widening = _widening(axis, chosen, convention, real) if antialias else real.type(1)
    narrowing = 1 / widening
    weight, radius = kernel(chosen.method, chosen.sharpness)
    reach = real.type(radius) * widening
    if chosen.arithmetic == "affine":
        # The kernel alone decides which pixels are in, at distances times the scale and not over its inverse.
        narrowing = real.type(min(1.0, axis.factor(convention))) if antialias else real.type(1)
        reach += 1
    index, seen = _field_of_view(projected, reach, closed=chosen.method == "gaussian")
    weights = _weights(projected, index, weight, narrowing, chosen.centered, real)
    if chosen.edge == "renormalize":
        seen = seen & (index >= 0) & (index < axis.n)
    weights = np.where(seen, weights, 0)
    total = weights.sum(1, keepdims=True)
    # Nothing is left of a window that lies outside altogether.
    return _from_windows(index, weights / np.where(total == 0, 1, total), axis.n, chosen.edge)


def _to_table(projected: ProjectedGrid, table: int, real: np.dtype) -> ProjectedGrid:
    """The grid rounded to `table` steps per pixel, for which the framework has the weights in a table."""
    below = np.floor(projected.from_pixel_center)
    steps = np.rint((projected.from_pixel_center - below) * table)
    return _from_pixel_center(below + steps / table, real)


def _widening(axis: Axis, chosen: _Filter, convention: Convention, real: np.dtype) -> np.floating:
    """How many times wider the kernel is that antialiases: as wide as a step between output pixels, where they skip."""
    corners = chosen.grid == "half_pixel_of_corners"
    step = axis.corner_step if corners else _steps(np.ones(1, real), axis, convention, chosen.arithmetic)[0]
    return max(real.type(1), real.type(step))


def _field_of_view(projected: ProjectedGrid, reach: np.floating, *, closed: bool) -> tuple[np.ndarray, np.ndarray]:
    """The pixels within `reach` of each center, (m, k), and which of them count where others have fewer.

    Which pixels a window takes is rounded apart from their weights. It matters where weights jump: a `closed` window
    takes pixels at just that distance, on both sides.
    """
    center = projected.from_edge
    if closed:
        first, last = np.ceil(center - reach - 0.5), np.floor(center + reach - 0.5)
    else:
        first, last = np.floor(center - reach + 0.5), np.floor(center + reach + 0.5) - 1
    index = first.astype(int)[:, None] + np.arange(int((last - first).max()) + 1)
    return index, index <= last[:, None]


def _weights(
    projected: ProjectedGrid,
    index: np.ndarray,
    weight: Callable[[np.ndarray], np.ndarray],
    narrowing: np.floating,
    centered: bool,
    real: np.dtype,
) -> np.ndarray:
    """The kernel at each pixel's distance from the center, (m, k) float64, not normalized."""
    if centered:
        distance = index.astype(real) - projected.from_pixel_center[:, None]
    else:
        distance = (index.astype(real) - projected.from_edge[:, None]) + real.type(0.5)
    return weight((distance * narrowing).astype(np.float64))


def _from_windows(index: np.ndarray, weights: np.ndarray, n: int, edge: Edge = "replicate") -> Taps:
    """Returns taps from windows of pixels (m, k); those beyond the edge are read within the image."""
    rows = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
    keep = weights != 0
    if edge == "constant":
        keep &= (index >= 0) & (index < n)
    return gathered(_within(index, n, edge)[keep], rows[keep], weights[keep], n, len(index))


def _within(index: np.ndarray, n: int, edge: Edge) -> np.ndarray:
    """The pixels that stand for those beyond the edge."""
    if edge == "symmetric":
        index = index % (2 * n)
        return np.minimum(index, 2 * n - 1 - index)
    if edge == "reflect":
        index = index % max(2 * n - 2, 1)
        return np.minimum(index, 2 * n - 2 - index)
    if edge == "wrap":
        return index % n
    return np.clip(index, 0, n - 1)


# --- the interpolating spline, and blurring before a method ----------------------------------------------------------

# The spline that interpolates is the B-spline of coefficients that fall off by this factor from pixel to pixel.
_POLE = math.sqrt(3) - 2
# SciPy continues the image by so many pixels where the coefficients beyond the edge have no closed form.
_CONTINUED = 12


def _spline(axis: Axis, convention: Convention, wide: bool, real: np.dtype) -> Taps:
    """The cubic B-spline through all pixels: y = B c, with coefficients c[i] = sum_k sqrt(3) p^|k| x[i + k]."""
    n, edge = axis.n, convention.edge
    if n == axis.m:
        return _identity(n)
    center = projected_grid(axis, convention.grid, convention, convention.arithmetic, real).from_pixel_center
    first = np.floor(center).astype(int)[:, None] - 1
    index = first + np.arange(4)
    weights = _b_spline(index - center[:, None])
    # What falls short of the data's precision is left out.
    reach = np.arange(-30, 31) if wide else np.arange(-14, 15)
    filtering = math.sqrt(3) * _POLE ** np.abs(reach)
    filtering /= filtering.sum()
    if edge in ("symmetric", "reflect", "wrap"):
        coefficients = np.arange(n)[:, None] + reach
        return composed(
            _from_windows(index, weights, n, edge),
            _from_windows(coefficients, np.broadcast_to(filtering, coefficients.shape), n, edge),
        )
    # The image is continued, and the coefficients are those of what that gives.
    size = n + 2 * _CONTINUED
    coefficients = np.arange(size)[:, None] + reach
    continued = _from_windows(np.arange(size)[:, None] - _CONTINUED, np.ones((size, 1)), n, edge)
    filtered = _from_windows(coefficients, np.broadcast_to(filtering, coefficients.shape), size, "symmetric")
    return composed(_from_windows(index + _CONTINUED, weights, size), composed(filtered, continued))


def _blur(axis: Axis, edge: Edge) -> Taps:
    """A Gaussian as wide as the step between output pixels asks, where they skip input pixels."""
    deviation = max(0.0, (axis.n / axis.m - 1) / 2)
    reach = np.arange(-int(4 * deviation + 0.5), int(4 * deviation + 0.5) + 1)
    weights = np.exp(-0.5 * (reach / deviation) ** 2) if len(reach) > 1 else np.ones(1)
    index = np.arange(axis.n)[:, None] + reach
    return _from_windows(index, np.broadcast_to(weights / weights.sum(), index.shape), axis.n, edge)


# --- all methods ------------------------------------------------------------------------------------------------------


def _one(
    axis: Axis, method: PlainMethod, convention: Convention, antialias: bool, axes: tuple[Axis, ...], wide: bool
) -> Taps:
    """Returns the operator of one of `axes`."""
    real = _real(convention, wide)
    if antialias and convention.antialias_filter == "gaussian":
        sharp = _one(axis, method, convention, False, axes, wide)
        return composed(sharp, _blur(axis, convention.antialias_edge))
    if method == "area":
        if convention.area == "bins":
            return _bins(axis.n, axis.m)
        if convention.area == "overlap_or_linear" and any(other.step(convention) < 1 for other in axes):
            return _flat_linear(axis, convention)
        return _overlap(axis, convention, real)
    same = axis.n == axis.m
    if convention.unchanged == "unit_scale" and (axis.step(convention) == 1 or (same and antialias)):
        return _identity(axis.n)
    if convention.unchanged == "smooth":
        if same and (antialias or method == "linear"):
            return _identity(axis.n)
        times, rest = divmod(axis.m, axis.n)
        if method == "nearest" and len(axes) == 2 and times in (1, 2) and not rest:
            return Taps(axis.n, (np.arange(axis.m, dtype=np.int32) // times)[:, None], np.ones((axis.m, 1)))
    if method.startswith("nearest"):
        return _nearest(axis, method, convention, real)
    if method == "cubic" and convention.spline:
        return _spline(axis, convention, wide, real)
    return _filtered(axis, method, convention, antialias, real)


def _real(convention: Convention, wide: bool) -> np.dtype:
    return np.dtype({"data": "float64" if wide else "float32"}.get(convention.precision, convention.precision))


def _all_copied(axes: tuple[Axis, ...], convention: Convention) -> bool:
    return convention.unchanged in ("all", "unit_scale") and all(axis.n == axis.m for axis in axes)


@functools.lru_cache(maxsize=1024)
def operators(
    axes: tuple[Axis, ...], method: PlainMethod, convention: Convention, antialias: bool = False, wide: bool = False
) -> tuple[Taps, ...]:
    """Returns the operator of each axis.

    Args:
      axes: what to resize, all axes together since a convention may look at all of them.
      method: one of `conventions.METHODS` that the convention has.
      convention: whose numbers.
      antialias: whether kernels widen where an axis shrinks.
      wide: whether the data are float64.
    """
    if _all_copied(axes, convention):
        return tuple(_identity(axis.n) for axis in axes)
    antialias = antialias or convention.always_antialias
    return tuple(_one(axis, method, convention, antialias, axes, wide) for axis in axes)


def outside(axes: tuple[Axis, ...], convention: Convention) -> tuple[np.ndarray, ...]:
    """Returns for each axis which output pixels have their center outside the image: booleans (m,)."""
    masks, real = [], _real(convention, False)
    for axis in axes:
        projected = projected_grid(axis, convention.grid, convention, convention.arithmetic, real)
        center = projected.from_pixel_center
        unit = convention.unchanged == "unit_scale" and axis.step(convention) == 1
        copied = unit or _all_copied(axes, convention)
        masks.append(np.zeros(axis.m, bool) if copied else (center < 0) | (center > axis.n - 1))
    return tuple(masks)
