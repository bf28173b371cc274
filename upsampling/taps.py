"""1-D resampling operators as (indices, weights), computed in float64 NumPy while tracing.

An operator from n to m pixels is a short list of taps for each output pixel:

    y[i] = sum_k  weights[i, k] * x[indices[i, k]]

Every method in every framework is such an operator, and so is its adjoint. This module knows no JAX.
"""

import dataclasses
import functools
import math

import numpy as np

from upsampling.conventions import Convention


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


# --- kernels ----------------------------------------------------------------------------------------------------------


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (Keys 1981, equation 4, with its a free)."""
    x = np.abs(x)
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    outer = a * (((x - 5.0) * x + 8.0) * x - 4.0)
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


def _lanczos(x: np.ndarray, radius: int) -> np.ndarray:
    return np.where(np.abs(x) < radius, np.sinc(x) * np.sinc(x / radius), 0.0)


def _kernel(method: str, a: float):
    if method == "linear":
        return _triangle, 1.0
    if method == "cubic":
        return functools.partial(_cubic, a=a), 2.0
    radius = int(method.removeprefix("lanczos"))
    return functools.partial(_lanczos, radius=radius), float(radius)


# --- operators --------------------------------------------------------------------------------------------------------


def step(n: int, m: int, scale: float | None, grid: str, convention: Convention) -> float:
    """Returns the input pixels per output pixel."""
    if grid == "align_corners":
        return (n - 1) / (m - 1) if m > 1 else 0.0
    if scale is not None and convention.given_scale:
        return 1.0 / scale
    return n / m


def _nearest(n: int, m: int, scale: float | None, method: str, convention: Convention) -> Taps:
    grid = convention.grid if method == "nearest-exact" else convention.nearest_grid or convention.grid
    # Ties are decided by the framework's own rounding: a step of its floating type, the product rounded to it.
    real = np.dtype(convention.precision).type
    shift = 0.5 if grid == "half_pixel" else 0.0
    position = np.float64(real(step(n, m, scale, grid, convention))) * (np.arange(m) + shift)
    index = np.floor(position.astype(real)).astype(np.int32)
    return Taps(n, np.clip(index, 0, n - 1)[:, None], np.ones((m, 1)))


def _area(n: int, m: int) -> Taps:
    i = np.arange(m)
    first, last = i * n // m, -(-(i + 1) * n // m)
    counts = last - first
    rows = np.repeat(i, counts)
    sources = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    return gathered(sources, rows, np.repeat(1.0 / counts, counts), n, m)


def _filtered(n: int, m: int, scale: float | None, method: str, convention: Convention, antialias: bool) -> Taps:
    per_output = step(n, m, scale, convention.grid, convention)
    i = np.arange(m)
    shift = 0.5 if convention.grid == "half_pixel" or antialias else 0.0
    centre = (i + shift) * per_output - shift
    kernel, radius = _kernel(method, convention.antialias_cubic if antialias else convention.cubic)
    widen = max(1.0, per_output) if antialias else 1.0
    reach = radius * widen
    first = np.floor(centre - reach).astype(int) + 1
    index = first[:, None] + np.arange(math.ceil(2 * reach))
    weights = kernel((index - centre[:, None]) / widen)
    inside = (index >= 0) & (index < n)
    if antialias or convention.edge == "renormalise":
        weights = weights * inside
    weights = weights / weights.sum(1, keepdims=True)
    rows = np.broadcast_to(i[:, None], index.shape)
    keep = weights != 0
    return gathered(np.clip(index, 0, n - 1)[keep], rows[keep], weights[keep], n, m)


@functools.lru_cache(maxsize=1024)
def axis_taps(
    n: int, m: int, scale: float | None, method: str, convention: Convention, antialias: bool = False
) -> Taps:
    """Returns the operator that resizes one axis from `n` to `m` pixels."""
    if method.startswith("nearest"):
        return _nearest(n, m, scale, method, convention)
    if method == "area":
        return _area(n, m)
    if n == m and (method == "linear" or antialias):
        return Taps(n, np.arange(n, dtype=np.int32)[:, None], np.ones((n, 1)))
    return _filtered(n, m, scale, method, convention, antialias)
