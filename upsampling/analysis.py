"""What an upsampler does to a signal: its response to an impulse and to waves, its faults, what it loses and costs.

Every function here takes `upsample`, a function or layer that takes `(size, size, features)` to
`(size * scale, size * scale, out_features)`. What is not linear is looked at where it is nearly so: the response is
the derivative at one input, random numbers unless another one is given. A layer that needs a guide is given one first:
`lambda x: layer(x, guide)`.
"""

import functools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from upsampling import _arguments
from upsampling._arguments import Numbers
from upsampling._operations import count

Upsample = Callable[[jax.Array], jax.Array]


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
    window = _arguments.per_axis(
        "overlap", "kernel_size", kernel_size, 1 if isinstance(kernel_size, numbers.Integral) else None
    )
    steps = _arguments.per_axis("overlap", "strides", strides, len(window))
    spacing = _arguments.per_axis("overlap", "dilation", dilation, len(window))
    counts = [np.bincount(np.arange(k) * d % s, minlength=s) for k, s, d in zip(window, steps, spacing, strict=True)]
    return functools.reduce(np.multiply.outer, counts)


def receptive_field(upsample: Upsample, features: int = 1, scale: int = 2, *, size: int = 24) -> tuple[int, int]:
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
    x, given = _input("receptive_field", upsample, features, scale, size)
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


def impulse_response(
    upsample: Upsample, features: int = 1, scale: int = 2, *, size: int = 16, at: jax.Array | None = None
) -> np.ndarray:
    """What one input pixel contributes to every output pixel: the derivative by the pixel `size // 2` of both axes.

    Args:
      upsample: a function or layer, `(size, size, features)` to `(size * scale, size * scale, any)`.
      features: channels of the input. The impulse is in the first, and so is the response.
      scale: the factor.
      size: of the input, twice the reach of the method or more.
      at: where the derivative is taken, `(size, size, features)`; random numbers if not given.

    Returns:
      `(size * scale, size * scale)`. As `(size, scale, size, scale)`, entry `[i, r, j, q]` is the weight of phase
      `(r, q)` for an input pixel that lies `(size // 2 - i, size // 2 - j)` from its own.

    Raises:
      ValueError: an output of another size.

    Example: on the half-pixel grid, linear interpolation has the weights 1/4 and 3/4.

    >>> import upsampling as up
    >>> print(up.analysis.impulse_response(lambda x: up.bilinear(x, scale=2))[16, 14:20])
    [0.     0.1875 0.5625 0.5625 0.1875 0.    ]
    """
    x, _ = _input("impulse_response", upsample, features, scale, size)
    impulse = jnp.zeros_like(x).at[size // 2, size // 2, 0].set(1)
    _, response = jax.jvp(upsample, (x if at is None else at,), (impulse,))
    return np.asarray(response[..., 0], np.float64)


def frequency_response(response: np.ndarray, scale: int, frequencies: Any, *, axis: int = 1) -> np.ndarray:
    """The amplitude of waves along one axis after upsampling, from an impulse response `h`.

    `H(f) = 1 / scale * sum_p h[p] exp(-2 pi i f x_p)`, where `h` is the mean over the other axis' phases and `x_p` is
    the distance of output pixel p from the impulse, in input pixels, both at their centers. A wave of `f` cycles per
    input pixel, up to 1/2, comes out with the amplitude `H(f)`; beyond 1/2, `H` is that of its images, which should not
    be there.

    Args:
      response: what `impulse_response` returns.
      scale: the factor.
      frequencies: in cycles per input pixel; up to `scale / 2` can be told from others.
      axis: 0 for waves along rows' numbers, 1 along columns'.

    Returns:
      Complex numbers, in the shape of `frequencies`. A symmetric method on the half-pixel grid has real ones.

    Example: nearest has `sin(pi f) / (scale sin(pi f / scale))`, which tends to the sinc.

    >>> import numpy as np
    >>> import upsampling as up
    >>> response = up.analysis.impulse_response(lambda x: up.nearest(x, scale=4), scale=4)
    >>> print(up.analysis.frequency_response(response, 4, [0, 0.5, 1]).real.round(4) + 0.0)
    [1.     0.6533 0.    ]

    Source: Oppenheim and Schafer, Discrete-Time Signal Processing, section 4.6 (interpolation by a factor).
    """
    profile, places = _profile(response, scale, axis)
    waves = np.exp(-2j * np.pi * np.multiply.outer(np.asarray(frequencies, np.float64), places))
    return waves @ profile / scale


def phase_responses(response: np.ndarray, scale: int, frequencies: Any, *, axis: int = 1) -> np.ndarray:
    """The same for each phase: what a wave becomes at output pixels `r` modulo `scale`, over what it should be there.

    Returns:
      Complex numbers `(scale, *frequencies.shape)`; 1 is right, another angle is a wave at another place. Where the
      phases differ, a wave comes with images. Their mean is `frequency_response`.
    """
    profile, places = _profile(response, scale, axis)
    waves = np.exp(-2j * np.pi * np.multiply.outer(np.asarray(frequencies, np.float64), places))
    return np.stack([waves[..., r::scale] @ profile[r::scale] for r in range(scale)])


def _profile(response: np.ndarray, scale: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The response to a line along the other axis, mean over its phases, and the places of its pixels."""
    size = response.shape[axis] // scale
    places = (np.arange(size * scale) + 0.5) / scale - (size // 2 + 0.5)
    return response.sum(1 - axis) / scale, places


class Description(NamedTuple):
    """What `describe` finds of an upsampler.

    Attributes:
      gain: what a constant input is multiplied by, mean over the phases.
      unevenness: how far the phases are from that gain, root of the mean square over the gain: the checkerboard on a
        constant input. Zero where the weights of every phase have the same sum.
      unity_error: the largest distance of a phase's sum of weights from 1.
      shift: how far the picture moves, along rows and columns, in output pixels.
      passband_ripple: the largest change of amplitude, over the gain, of waves up to 1/4 cycle per input pixel.
      imaging_energy: the share of a white input's energy that comes out beyond 1/2 cycle per input pixel, mean of both
        axes.
      equivariance_error: how much it matters by one pixel where the input lies: the difference to the shifted result,
        root of the mean square over that of the result, away from the edges.
    """

    gain: float
    unevenness: float
    unity_error: float
    shift: tuple[float, float]
    passband_ripple: float
    imaging_energy: float
    equivariance_error: float

    def faults(self, tolerance: float = 1e-3) -> list[str]:
        """What an interpolator should not do, by name: "gain", "uneven overlap", "shift", "position dependence"."""
        found = {
            "gain": abs(self.gain - 1),
            "uneven overlap": self.unevenness,
            "shift": max(map(abs, self.shift)),
            "position dependence": self.equivariance_error,
        }
        return [name for name, size in found.items() if not size <= tolerance]


def describe(
    upsample: Upsample, features: int = 1, scale: int = 2, *, size: int = 16, at: jax.Array | None = None
) -> Description:
    """The figures by which upsamplers are judged as filters, from the response to an impulse.

    Args:
      upsample, features, scale, size, at: as in `impulse_response`.

    Raises:
      ValueError: an output of another size.

    Example: linear interpolation on the corner-anchored grid of TensorFlow 1 moves the picture by half a pixel.

    >>> import upsampling as up
    >>> good = up.analysis.describe(lambda x: up.bilinear(x, scale=2))
    >>> old = up.analysis.describe(lambda x: up.bilinear(x, scale=2, convention="tensorflow1"))
    >>> good.faults(), old.faults(), round(old.shift[0], 4)
    ([], ['shift'], -0.5)
    """
    response = impulse_response(upsample, features, scale, size=size, at=at)
    sums = response.reshape(size, scale, size, scale).sum((0, 2))
    gain = sums.mean()
    places = [_profile(response, scale, axis) for axis in (0, 1)]
    shift = [float(scale * (profile @ x) / profile.sum()) if profile.sum() else float("nan") for profile, x in places]
    low = frequency_response(response, scale, np.linspace(0, 0.25, 65))
    # The energy of all frequencies is that of the taps (Parseval); that of those up to 1/2 is an integral.
    middles = (np.arange(512) + 0.5) / 1024
    passed = np.mean([np.mean(np.abs(frequency_response(response, scale, middles, axis=a)) ** 2) for a in (0, 1)])
    whole = np.mean([np.sum(profile**2) for profile, _ in places]) / scale
    return Description(
        gain=float(gain),
        unevenness=float(np.sqrt(np.mean((sums - gain) ** 2)) / abs(gain)) if gain else float("nan"),
        unity_error=float(np.abs(sums - 1).max()),
        shift=(shift[0], shift[1]),
        passband_ripple=float(np.abs(np.abs(low) / abs(gain) - 1).max()) if gain else float("nan"),
        imaging_energy=float(1 - passed / whole) if whole else float("nan"),
        equivariance_error=_equivariance_error(upsample, features, scale, size, at),
    )


def _equivariance_error(upsample: Upsample, features: int, scale: int, size: int, at: jax.Array | None) -> float:
    x = jax.random.normal(jax.random.key(0), (size, size, features)) if at is None else at
    moved = np.asarray(upsample(jnp.roll(x, (1, 1), (0, 1))), np.float64)
    still = np.roll(np.asarray(upsample(x), np.float64), (scale, scale), (0, 1))
    inner = slice(scale * size // 4, scale * size * 3 // 4)
    difference, found = (moved - still)[inner, inner], still[inner, inner]
    # About the mean: an offset that is everywhere is nothing to compare to.
    return float(np.sqrt(np.mean(difference**2) / max(np.var(found), 1e-30)))


def show(
    methods: Mapping[str, Any] | Sequence[str] | str,
    kind: Literal["responses", "phases", "edge", "boundaries", "pictures"] = "responses",
    *,
    scale: int = 2,
    picture: Any = None,
    guide: Any = None,
    columns: int = 3,
) -> Any:
    """Draws what methods do, side by side. Needs matplotlib: `pip install ".[figures]"` from a checkout.

    - "responses": the amplitude of waves by frequency, one curve per method (`frequency_response`).
    - "phases": the same for each phase, up to 1/2 cycle per input pixel (`phase_responses`).
    - "edge": an upright edge before (dots) and after: how far it moves, how wide it becomes, how much it overshoots.
    - "boundaries": where shapes end when the result is cut at one half, over where they do end, with Boundary IoU of
      one pixel and wrong pixels per pixel of boundary.
    - "pictures": the results beside the picture and its smaller copy, with their PSNR.

    Args:
      methods: names that `up.nn.create` knows, or labels with names, layers or functions, which take one map
        `(h, w, channels)`. Layers by name have their first values; those that follow a guide get the picture as
        one for edges and pictures, and zeros for waves.
      kind: what is drawn.
      scale: the factor.
      picture: of "boundaries" and "pictures", `(H, W)` or `(H, W, channels)`, in [0, 1] or of whole numbers: what the
        means of its cells are upsampled back to. A disc, lines and a corner if not given.
      guide: what methods by name follow; the picture if not given.
      columns: pictures in a row.

    Returns:
      A matplotlib figure, which a notebook shows. `.savefig(path)` writes it.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError, TypeError: an unknown name or kind, what cannot be called, sizes that do not fit.

    Example:

    >>> import upsampling as up
    >>> figure = up.analysis.show(["nearest", "bilinear", "bicubic"], "edge", scale=4)
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['nearest', 'bilinear', 'bicubic']
    """
    from upsampling import _figures  # needs what is imported after this module

    return _figures.show(methods, kind, scale=scale, picture=picture, guide=guide, columns=columns)


class RoundTrip(NamedTuple):
    """What is left of a picture that is made smaller and larger again.

    Attributes:
      frequencies: of waves along columns, in cycles per pixel of the picture, up to 1/2.
      psnr: of each wave between 0 and 1, in decibels, mean over its places.
      lost: the share of a white picture's energy in what the round trip changes, `|I - U D|^2 / N`. At least
        `1 - 1 / scale**2`, the share that any way down by `scale` takes away.
    """

    frequencies: np.ndarray
    psnr: np.ndarray
    lost: float


def round_trip(upsample: Upsample, scale: int = 2, *, downsample: Upsample | None = None, size: int = 16) -> RoundTrip:
    """How much of a picture survives being made smaller by `downsample` and larger by `upsample`.

    Args:
      upsample: of one channel, `(size, size, 1)` to `(size * scale, size * scale, 1)`.
      scale: the factor.
      downsample: the other way, the mean of each cell if not given.
      size: of the small picture.

    Raises:
      ValueError: sizes that are not those.

    Example: nearest after the mean of cells is the projection on what is constant on them, which loses no more than it
    must.

    >>> import upsampling as up
    >>> float(up.analysis.round_trip(lambda x: up.nearest(x, scale=2)).lost)
    0.75
    """
    _input("round_trip", upsample, 1, scale, size)
    wide = size * scale
    if downsample is None:
        downsample = _cell_means(scale, size)
    trip = jax.jit(jax.vmap(lambda x: upsample(downsample(x))))
    given = jax.eval_shape(downsample, jax.ShapeDtypeStruct((wide, wide, 1), jnp.float32)).shape
    if given != (size, size, 1):
        raise ValueError(f"round_trip: downsample must take {(wide, wide, 1)} to {(size, size, 1)}; got {given}.")
    # Impulses in one cell in the middle: elsewhere they are the same, moved.
    first = scale * (size // 2)
    cell = [(first + r, first + q) for r in range(scale) for q in range(scale)]
    impulses = np.zeros((len(cell), wide, wide, 1), np.float32)
    for one, (row, column) in zip(impulses, cell, strict=True):
        one[row, column] = 1
    base = np.zeros((1, wide, wide, 1), np.float32)
    changed = impulses - (np.asarray(trip(impulses)) - np.asarray(trip(base)))
    lost = float(np.mean(np.sum(changed.astype(np.float64) ** 2, axis=(1, 2, 3))))
    frequencies = np.arange(1, size * scale // 2 + 1) / wide
    turns = np.arange(4) / 4
    places = np.arange(wide)
    waves = 0.5 + 0.5 * np.cos(2 * np.pi * (np.multiply.outer(frequencies, places)[:, None] + turns[:, None]))
    waves = np.broadcast_to(waves.reshape(-1, 1, wide, 1), (len(frequencies) * len(turns), wide, wide, 1))
    inner = slice(wide // 4, wide * 3 // 4)
    error = (np.asarray(trip(np.float32(waves))) - waves)[:, inner, inner].reshape(len(frequencies), -1)
    return RoundTrip(frequencies, -10 * np.log10(np.maximum(np.mean(error**2, axis=1), 1e-20)), lost)


def _cell_means(scale: int, size: int) -> Upsample:
    return lambda x: x.reshape(size, scale, size, scale, -1).mean((1, 3))


class Cost(NamedTuple):
    """What a call costs: by the formulas of its steps, and by XLA's analysis of the program compiled for this machine.

    Attributes:
      parameters: numbers that a layer learns; 0 for a function.
      multiply_adds: by formula, those of sums of products: interpolation, convolutions, windows, samples.
      expected_operations: by formula, floating-point operations in all. A sum of k products is 2 k - 1; exponentials
        and the like are none, as in XLA's count.
      operations: the same as XLA counts them.
      bytes_moved: read and written by the program's parts, each time they are, as XLA counts them.
      bytes_needed: of arguments and results, once: what no program can do without.
      temporary_bytes: memory beyond arguments and results.
      loops: loops in the compiled program.
    """

    parameters: int
    multiply_adds: float
    expected_operations: float
    operations: float
    bytes_moved: float
    bytes_needed: int
    temporary_bytes: int
    loops: int

    @property
    def intensity(self) -> float:
        """Operations per byte that must be moved: below a machine's own ratio, its memory decides how long it takes."""
        return self.expected_operations / self.bytes_needed

    @property
    def disagreement(self) -> str | None:
        """Why XLA's count of operations is more than 10 % off the formulas'; None where it is not."""
        if abs(self.operations - self.expected_operations) <= 0.1 * self.expected_operations:
            return None
        if self.loops:
            return "XLA counts the body of a loop once"
        if not self.multiply_adds:
            return "no sums of products: what is left are comparisons and indices, which XLA simplifies"
        if self.operations > self.expected_operations:
            return "the program computes some intermediate results more than once"
        return "the program leaves out or shares what the formulas count"


def cost(upsample: Callable[..., jax.Array], *arguments: Any) -> Cost:
    """Says what a call costs. It is traced and compiled, and not carried out.

    Args:
      upsample: a function or layer.
      *arguments: arrays, or `jax.ShapeDtypeStruct` of their shapes.

    Example: bilinear interpolation by 2 takes two products and their sum per axis, of columns after rows.

    >>> import jax, upsampling as up
    >>> found = up.analysis.cost(lambda x: up.bilinear(x, scale=2), jax.ShapeDtypeStruct((64, 64, 8), "float32"))
    >>> found.expected_operations == 3 * 8 * (128 * 64 + 128 * 128), found.disagreement
    (True, None)
    >>> found.bytes_needed == 4 * 64 * 64 * 8 * (1 + 4)
    True

    Source: the formulas of separable interpolation, convolutions and reassembly as in Wang et al. 2019,
    arXiv:1905.02188, section 3.3; Williams et al. 2009, "Roofline", for the intensity.
    """
    parameters: Any = ()
    call = upsample
    if isinstance(upsample, nnx.Module):
        structure, parameters, rest = nnx.split(upsample, nnx.Param, ...)

        def call(parameters, rest, *arguments):
            return nnx.merge(structure, parameters, rest)(*arguments)

        arguments = (parameters, rest, *arguments)
    traced = jax.jit(call).trace(*arguments)
    compiled = traced.lower().compile()
    counted, found, memory = count(traced.jaxpr.jaxpr), compiled.cost_analysis() or {}, compiled.memory_analysis()
    leaves = [*jax.tree.leaves(arguments), *jax.tree.leaves(traced.out_info)]
    return Cost(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(parameters)),
        multiply_adds=counted.multiply_adds,
        expected_operations=counted.operations,
        operations=float(found.get("flops", 0)),  # absent where a program only copies
        bytes_moved=float(found.get("bytes accessed", float("nan"))),
        bytes_needed=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves),
        temporary_bytes=0 if memory is None else int(memory.temp_size_in_bytes),
        loops=(compiled.as_text() or "").count(" while("),
    )


def _input(
    function: str, upsample: Upsample, features: int, scale: int, size: int
) -> tuple[jax.Array, jax.ShapeDtypeStruct]:
    """Random numbers for `upsample`, and the shape of what it makes of them, checked."""
    for name, number in (("features", features), ("scale", scale), ("size", size)):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{function}: {name} must be a whole number of at least 1; got {number!r}.")
    x = jax.random.normal(jax.random.key(0), (size, size, features))
    given = jax.eval_shape(upsample, x)
    if given.ndim != 3 or given.shape[:2] != (size * scale, size * scale):
        raise ValueError(
            f"{function}: upsample must take {x.shape} to {(size * scale, size * scale)} and channels; got "
            f"{given.shape}."
        )
    return x, given
