"""How frameworks place pixels: `Convention`, and a named preset for each dialect.

Every resize is a weighted sum of a few input pixels. Frameworks agree on that and on little else: where an output
pixel lies on the input's grid, which pixel is "nearest", how sharp the cubic is, what happens beyond the edge, whether
a kernel widens when the image shrinks. A `Convention` writes those decisions down; `taps` turns them into numbers. This
module knows no JAX.

    >>> from upsampling import conventions
    >>> print(*conventions.PRESETS)
    torch torch_align_corners jax tensorflow tensorflow1 tensorflow1_align_corners opencv pillow matlab
    scipy scipy_grid skimage
    >>> conventions.torch.cubic, conventions.tensorflow.cubic
    (-0.75, -0.5)

A variation is `dataclasses.replace` away, for instance PyTorch's grid and edges with the cubic of TensorFlow:

    >>> import dataclasses
    >>> softer = dataclasses.replace(conventions.torch, name="torch, a = -0.5", cubic=-0.5)

and so is a kernel that a framework lacks:

    >>> lanczos = dataclasses.replace(conventions.jax, name="jax and more", methods=("lanczos2", "lanczos4"))
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np

from upsampling import _arguments

PlainMethod = Literal[
    "nearest",
    "nearest-exact",
    "linear",
    "cubic",
    "cubic-pytorch",
    "lanczos2",
    "lanczos3",
    "lanczos4",
    "lanczos5",
    "mitchell",
    "gaussian",
    "box",
    "hamming",
    "mks2013",
    "mks2021",
    "area",
]
"""The methods."""

Synonym = Literal["bilinear", "trilinear", "bicubic", "tricubic", "bicubic-pytorch", "mitchellcubic"]
"""Other names of some, by the number of axes that they are used on or the framework that they come from."""

Method = Literal[PlainMethod, Synonym]
"""What `resize` takes as a method."""

METHODS: tuple[PlainMethod, ...] = get_args(PlainMethod)

SYNONYMS: dict[str, PlainMethod] = {
    "bilinear": "linear",
    "trilinear": "linear",
    "bicubic": "cubic",
    "tricubic": "cubic",
    "bicubic-pytorch": "cubic-pytorch",
    "mitchellcubic": "mitchell",
}

Preset = Literal[
    "torch",
    "torch_align_corners",
    "jax",
    "tensorflow",
    "tensorflow1",
    "tensorflow1_align_corners",
    "opencv",
    "pillow",
    "matlab",
    "scipy",
    "scipy_grid",
    "skimage",
]
"""The names of the conventions in `PRESETS`."""

Grid = Literal[
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "corner",
    "align_corners",
    "half_pixel_of_corners",
    "crop",
]

Rounding = Literal["cell", "floor", "ceil", "half_down", "half_up"]
Aspect = Literal["stretch", "not_larger", "not_smaller"]
Arithmetic = Literal["product", "fused", "inverse", "reciprocal", "quotient", "affine", "sum", "single"]
Edge = Literal["replicate", "renormalize", "symmetric", "reflect", "wrap", "constant"]


@dataclasses.dataclass(frozen=True)
class Convention:
    """The decisions that make one framework's resize differ from another's.

    Attributes:
      name: what errors call it.
      methods: the methods that the framework has with `antialias=False`, by the names in `METHODS`.
      antialiased: the methods that it has with `antialias=True`.
      antialiased_by_default: those of them that antialias unless told not to.
      always_antialias: whether kernels widen when an axis shrinks even with `antialias=False`, as Pillow's do.
      grid: where the center of output pixel i of m lies on the input's grid, whose pixel centers are 0, 1, ..., n - 1.
        With `step` = n / m input pixels per output pixel (or 1 / scale, see `given_scale`):
        `"half_pixel"`, (i + 0.5) step - 0.5: both images cover the same area;
        `"half_pixel_symmetric"`, the same about the center of the image when n * scale is not whole;
        `"pytorch_half_pixel"`, the same, but 0 where m = 1;
        `"tf_half_pixel_for_nn"`, (i + 0.5) step: half a pixel off, but right for a nearest that rounds down;
        `"corner"`, i step: the first pixels coincide;
        `"align_corners"`, i (n - 1) / (m - 1): the first and the last pixels coincide, 0 where m = 1;
        `"half_pixel_of_corners"`, (i + 0.5) (n - 1) / (m - 1) - 0.5, with kernels as wide as that step says;
        `"crop"`, align_corners on the part of the axis that `roi` names, the middle of it where m = 1.
      nearest_grid: the grid of method nearest, where that differs.
      antialias_grid: the grid when antialiasing, where that differs.
      nearest_rounding: which pixel is nearest to a center: `"cell"`, on the half-pixel grid, the one whose area it
        falls in, floor((i + 0.5) step); `"floor"` and `"ceil"`, always the one before or after; `"half_down"` and
        `"half_up"`, the closer one, and halves go down or up.
      nearest_tie: fractions this close to a half count as halves.
      arithmetic: how the framework computes multiples of the step: `"product"`, times n / m; `"fused"`, the same
        rounded only after - 0.5; `"inverse"`, times 1 / (m / n); `"reciprocal"`, times n (1 / m); `"quotient"`,
        divided by m / n; `"affine"`, (i + 1) / (m / n) + (1 - n / m) / 2 counted from one; `"sum"`, steps n / m added
        up from pixel to pixel, whatever scale was given; `"single"`, times 1 / (m / n) in float64, and the coordinate
        rounded to float32. Together with `precision` it decides ties of nearest; and a float32 coordinate on a wide
        image is some 1e-4 off.
      antialias_arithmetic: the same when antialiasing, and for all kernels but linear and cubic.
      nearest_arithmetic: the same for method nearest.
      nearest_exact_arithmetic: the same for method nearest-exact, which has the half-pixel grid in every convention.
      precision: the floating type of the coordinates; `"data"` is float64 for float64 arrays and else float32.
      given_scale: whether a scale given by the caller enters the coordinates as it is; otherwise the step is always
        recomputed as n / m, which differs when n * scale is not whole.
      size_rule: the size of an axis of n pixels that is scaled: `"floor"`, n * scale rounded down; `"floor32"`, the
        same in float32; `"round"`, rounded, halves to even; `"ceil"`, rounded up.
      aspect: what becomes of the aspect ratio when sizes are given: `"stretch"`, nothing; `"not_larger"`, one scale
        for all axes, the largest with which no axis exceeds its size; `"not_smaller"`, the smallest with which none
        falls short of it.
      unchanged: which axes are copied, whatever the grid says: `"none"`; `"smooth"`, those whose size does not
        change, in method linear, when antialiasing, and in nearest on two axes, which likewise doubles the pixels
        where the size doubles; `"all"`, all of them when no size changes; `"unit_scale"`, all when no size changes
        and those whose scale is one, or when antialiasing those whose size does not change.
      cubic: the cubic's sharpness a (Keys 1981): -0.5 reproduces quadratics, -0.75 is sharper.
      antialias_cubic: a, when antialiasing.
      spline: whether method cubic is the interpolating cubic B-spline (Unser 1999), which weighs all pixels of an axis,
        and not Keys' cubic.
      cubic_table: the number of steps per pixel to which the cubic's position is rounded; None means no rounding.
      edge: what becomes of taps beyond the edge: `"replicate"` reads the nearest edge pixel, `"renormalize"` drops
        them and divides by the sum of the rest, which for linear is the same; `"symmetric"` reads the mirror image
        about the outer borders of the edge pixels, `"reflect"` the one about their centers; `"wrap"` reads the image
        anew from its other side; `"constant"` reads `constant`.
      constant: what edge `"constant"` reads.
      antialias_edge: the same, when antialiasing.
      area: what method area averages: `"bins"`, whole pixels, all that an output pixel touches (adaptive average
        pooling); `"overlap"`, each pixel by the part of it that is covered, over the step; `"overlap_sum"`, the same
        over the sum of the parts; `"overlap_or_linear"`, the same where all axes shrink, and otherwise linear with
        flat steps: where an output pixel lies within one input pixel it copies that.
      antialias_filter: how images that shrink are antialiased: `"kernel"`, by widening the method's own kernel;
        `"gaussian"`, by a Gaussian of standard deviation (n / m - 1) / 2, cut at four of them, before the method.
      clip: whether the results of cubic are kept within the range of the image: its spatial axes, and all axes behind
        the first of them.
      outside: the value of output pixels whose center lies outside the image; None means that edge pixels extend.
      eight_bit: whose arithmetic images of 8 bits have when the result is to be one too, with `dtype=uint8`: Pillow's,
        PyTorch's or OpenCV's; None means that there is none.
      roi: for the grid `"crop"`, the (start, end) of the part to resize as fractions of each axis, one pair per
        spatial axis or one for all.
    """

    name: str
    methods: tuple[PlainMethod, ...]
    antialiased: tuple[PlainMethod, ...] = ()
    antialiased_by_default: tuple[PlainMethod, ...] = ()
    always_antialias: bool = False
    grid: Grid = "half_pixel"
    nearest_grid: Grid | None = None
    antialias_grid: Grid | None = None
    nearest_rounding: Rounding = "cell"
    nearest_tie: float = 0.0
    arithmetic: Arithmetic = "product"
    antialias_arithmetic: Arithmetic = "product"
    nearest_arithmetic: Arithmetic = "product"
    nearest_exact_arithmetic: Arithmetic = "product"
    precision: Literal["float32", "float64", "data"] = "float64"
    given_scale: bool = False
    size_rule: Literal["floor", "floor32", "round", "ceil"] = "floor"
    aspect: Aspect = "stretch"
    unchanged: Literal["none", "smooth", "all", "unit_scale"] = "none"
    cubic: float = -0.5
    antialias_cubic: float = -0.5
    spline: bool = False
    cubic_table: int | None = None
    edge: Edge = "renormalize"
    constant: float = 0.0
    antialias_edge: Edge = "renormalize"
    area: Literal["bins", "overlap", "overlap_sum", "overlap_or_linear"] = "overlap"
    antialias_filter: Literal["kernel", "gaussian"] = "kernel"
    clip: bool = False
    outside: float | None = None
    eight_bit: Literal["pillow", "torch", "opencv"] | None = None
    roi: tuple[tuple[float, float], ...] = ((0.0, 1.0),)

    def __post_init__(self):
        for name, kind in get_type_hints(Convention).items():
            allowed = [
                value for part in (kind, *get_args(kind)) if get_origin(part) is Literal for value in get_args(part)
            ]
            given = getattr(self, name)
            for value in given if get_origin(kind) is tuple else (given,):
                if allowed and value is not None:
                    _arguments.one_of("Convention", name, value, allowed)

    def scaled_size(self, n: int, scale: float) -> int:
        """Returns the size that the framework gives an axis of `n` pixels that is scaled by `scale`."""
        if self.size_rule == "round":
            return round(n * scale)
        if self.size_rule == "ceil":
            return math.ceil(n * scale)
        if self.size_rule == "floor32":
            return math.floor(np.float32(n) * np.float32(scale))
        return math.floor(n * scale)

    def fitted_sizes(
        self, shape: Sequence[int], sizes: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
        """Returns the sizes that the framework gives when `sizes` are asked for, and the scales that it then uses."""
        if self.aspect == "stretch":
            return tuple(sizes), (None,) * len(shape)
        scales = [np.float32(m) / np.float32(n) for n, m in zip(shape, sizes, strict=True)]
        scale = min(scales) if self.aspect == "not_larger" else max(scales)
        fitted = tuple(math.floor(np.float32(n) * scale + np.float32(0.5)) for n in shape)
        return fitted, (float(scale),) * len(shape)


torch = Convention(
    name="torch",
    methods=("nearest", "nearest-exact", "linear", "cubic", "area"),
    antialiased=("linear", "cubic", "lanczos3"),
    nearest_grid="corner",
    nearest_rounding="floor",
    arithmetic="fused",
    precision="data",
    given_scale=True,
    unchanged="smooth",
    cubic=-0.75,
    edge="replicate",
    area="bins",
    eight_bit="torch",
)
"""`torch.nn.functional.interpolate(align_corners=False)`, PyTorch 2.13.

Its quirks: nearest sits on the corner grid, nearest-exact on the half-pixel grid. A `scale_factor` enters the
coordinates as it is, except that linear and antialiased resizing, and nearest on two axes, copy an axis whose size does
not change. Bilinear clamps its source coordinate, bicubic does not but repeats the edge pixel. The cubic has a = -0.75,
but a = -0.5 when antialiasing, where taps beyond the edge are dropped. Lanczos exists with `antialias=True` only. Area
is adaptive average pooling: whole pixels, never fractions. PyTorch antialiases two spatial axes only; here any number.

PyTorch's kernels of nearest and nearest-exact differ from one another where a center lies exactly between two pixels (2
to 41 pixels, for instance) and where a scale leaves a size as it is. The preset has the choices of the two-dimensional
channels-last kernel for four channels and more.

With `dtype=uint8`, bilinear and bicubic images of 8 bits become what PyTorch makes of such tensors in channels-last
memory on a CPU with AVX2, and torchvision with it: weights of 15 bits, and 8 bits between the axes.
"""

torch_align_corners = dataclasses.replace(
    torch,
    name="torch_align_corners",
    methods=("linear", "cubic"),
    antialiased=("linear", "cubic"),
    grid="align_corners",
    antialias_grid="half_pixel_of_corners",
    eight_bit=None,
)
"""`torch.nn.functional.interpolate(align_corners=True)`, PyTorch 2.13.

The first and the last pixels of both images coincide; a given scale decides the size and no more. Its quirk: when
antialiasing, the corners do not coincide: PyTorch takes the step of that grid, but places pixels by half-pixel centers.
"""

jax = Convention(
    name="jax",
    methods=("nearest", "linear", "cubic", "cubic-pytorch", "lanczos3", "lanczos5", "area"),
    antialiased=("nearest", "linear", "cubic", "cubic-pytorch", "lanczos3", "lanczos5", "area"),
    arithmetic="fused",
    antialias_arithmetic="fused",
    nearest_arithmetic="reciprocal",
    precision="float32",
    area="overlap_sum",
)
"""`jax.image.resize`, JAX 0.10.

Half-pixel centers throughout, nearest included; a = -0.5; taps beyond the edge are dropped and the rest renormalized.
`cubic-pytorch` is PyTorch's bicubic: a = -0.75 and repeated edges, and with antialiasing the same as cubic.
Antialiasing changes nothing for nearest and area, as there. `jax.image.resize` antialiases unless told not to; here
one asks for it.
"""

tensorflow = Convention(
    name="tensorflow",
    methods=("nearest", "linear", "cubic", "lanczos3", "lanczos5", "mitchell", "gaussian", "area"),
    antialiased=("nearest", "linear", "cubic", "lanczos3", "lanczos5", "mitchell", "gaussian", "area"),
    antialias_arithmetic="inverse",
    precision="float32",
    cubic_table=1024,
)
"""`tf.image.resize`, TensorFlow 2.

Half-pixel centers throughout, nearest included; a = -0.5; taps beyond the edge are dropped and the rest renormalized.
Its quirk: bicubic without antialiasing looks its weights up in a table, at positions rounded to 1/1024 of a pixel.
Mitchell and gaussian do not interpolate: they blur even an image whose size does not change. Antialiasing changes
nothing for nearest and area, as there.
"""

tensorflow1 = Convention(
    name="tensorflow1",
    methods=("nearest", "linear", "cubic", "area"),
    grid="corner",
    nearest_rounding="floor",
    cubic=-0.75,
    cubic_table=1024,
    edge="replicate",
    precision="float32",
)
"""`tf.compat.v1.image.resize(align_corners=False)`: the corner-anchored grid, src = dst / scale.

The first pixels coincide and the image drifts by half a pixel per scale. The cubic has a = -0.75 and repeats the edge
pixel, unlike TensorFlow 2's, and looks its weights up in the same table of 1024 steps.
"""

tensorflow1_align_corners = dataclasses.replace(
    tensorflow1,
    name="tensorflow1_align_corners",
    grid="align_corners",
    nearest_rounding="half_up",
)
"""`tf.compat.v1.image.resize(align_corners=True)`: the first and the last pixels coincide.

Nearest rounds, halves up, where the corner grid rounds down. Area spreads over the step (n - 1) / (m - 1) from
pixel 0 on, so its last column averages the last pixel alone.
"""

opencv = Convention(
    name="opencv",
    methods=("nearest", "nearest-exact", "linear", "cubic", "lanczos4", "area"),
    nearest_grid="corner",
    nearest_rounding="floor",
    antialias_arithmetic="single",
    nearest_arithmetic="inverse",
    nearest_exact_arithmetic="sum",
    given_scale=True,
    size_rule="round",
    unchanged="all",
    cubic=-0.75,
    edge="replicate",
    area="overlap_or_linear",
    eight_bit="opencv",
)
"""`cv2.resize` on floats, OpenCV 5.0.

Edge pixels repeat in every method. Nearest sits on the corner grid; nearest-exact on the half-pixel grid, its
coordinates added up from step to step (OpenCV 4 computes them in fixed point of 16 bits and has other ties). A given
scale (fx, fy) enters the coordinates as it is, though not in nearest-exact, and sizes are rounded, halves to even.
Where no size changes, the image is copied. Area averages where all axes shrink, without slivers of less than 1/1000
pixel; as soon as one axis grows, all take a linear interpolation with flat steps instead. Only area antialiases.

With `dtype=uint8`, images of 8 bits become what OpenCV makes of them by linear, cubic and area: in fixed point, or, by
cubic for 1, 3 and 4 channels, as the Intel IPP computes it that its packages for x86 bring.

Coordinates are float64, and float32 for Lanczos, as OpenCV has them on x86 for images of 1, 3 and 4 channels. For
other channel counts, and elsewhere, OpenCV has float32 throughout: up to 1e-4 apart where a thousand pixels and more
are resized by a factor that is not whole.
"""

pillow = Convention(
    name="pillow",
    methods=("nearest", "box", "linear", "hamming", "cubic", "lanczos3", "mks2013", "mks2021"),
    antialiased=("box", "linear", "hamming", "cubic", "lanczos3", "mks2013", "mks2021"),
    always_antialias=True,
    nearest_arithmetic="sum",
    size_rule="round",
    unchanged="smooth",
    eight_bit="pillow",
)
"""`PIL.Image.Image.resize` of images in mode F, Pillow 13.

Kernels widen whenever an axis shrinks; there is no switch, so `antialias` may be given or not. a = -0.5; taps beyond
the edge are dropped and the rest renormalized. With a scale, sizes are rounded as `PIL.ImageOps.scale` does.

With `dtype=uint8`, images of 8 bits become what Pillow makes of them, channel by channel: weights in fixed point, and
8 bits between the axes. Pillow 13 starts with the rows where it loses more than twice as many of them as columns, and
with the columns otherwise; earlier versions always start with the columns. (Modes LA and RGBA are multiplied by alpha
first, which is left to the caller.)
"""

matlab = Convention(
    name="matlab",
    methods=("nearest", "linear", "cubic", "lanczos2", "lanczos3", "box"),
    antialiased=("linear", "cubic", "lanczos2", "lanczos3", "box"),
    antialiased_by_default=("linear", "cubic", "lanczos2", "lanczos3", "box"),
    nearest_rounding="half_up",
    arithmetic="affine",
    antialias_arithmetic="affine",
    nearest_arithmetic="affine",
    given_scale=True,
    size_rule="ceil",
    edge="symmetric",
    antialias_edge="symmetric",
)
"""`imresize`, MATLAB: what super-resolution makes its low-resolution images with.

Half-pixel centers throughout, nearest included; a = -0.5; beyond the edge the image is mirrored, edge pixels repeated,
and weights are divided by their sum. Where an axis shrinks, kernels widen unless `antialias=False`; nearest never
does, and `box` is its antialiased form. A scale gives the size n * scale rounded up, and enters the coordinates as it
is, so that the image is resampled even where its size stays. MATLAB rounds images of integers in ways of its own, up to
a grey level from these numbers.
"""

ZoomMode = Literal["constant", "grid-constant", "nearest", "reflect", "grid-mirror", "mirror", "grid-wrap"]

_ZOOM_EDGES: dict[ZoomMode, Edge] = {
    "constant": "reflect",
    "grid-constant": "constant",
    "nearest": "replicate",
    "reflect": "symmetric",
    "grid-mirror": "symmetric",
    "mirror": "reflect",
    "grid-wrap": "wrap",
}


def scipy_zoom(*, grid_mode: bool = False, mode: ZoomMode = "constant", cval: float = 0.0) -> Convention:
    """`scipy.ndimage.zoom`, SciPy 1.17: orders 0, 1 and 3 as nearest, linear and cubic, the last with its prefilter.

    Args:
      grid_mode: whether both images cover the same area; otherwise their first and last pixels coincide.
      mode: what lies beyond the edge, by SciPy's names: constant, grid-constant, nearest, reflect, grid-mirror, mirror
        or grid-wrap. (SciPy's `"wrap"` has a period that is a pixel short.) Under `"constant"` an output pixel whose
        center lies beyond the outermost centers is `cval`, and so are all pixels of the border where `grid_mode`
        enlarges; `"grid-constant"` is what SciPy advises there.
      cval: the constant.

    Raises:
      ValueError: an unknown mode.
      TypeError: a `grid_mode` that is not True or False, a `cval` that is not a number.

    Source: Unser, "Splines: a perfect fit for signal and image processing", 1999, for the cubic.

        >>> from upsampling import conventions
        >>> conventions.scipy_zoom(grid_mode=True, mode="nearest").grid
        'half_pixel'
    """
    where = "conventions.scipy_zoom"
    grid_mode = _arguments.flag(where, "grid_mode", grid_mode)
    _arguments.one_of(where, "mode", mode, get_args(ZoomMode))
    cval = _arguments.finite(where, "cval", cval)
    return Convention(
        name="scipy_grid" if grid_mode else "scipy",
        methods=("nearest", "linear", "cubic"),
        grid="half_pixel" if grid_mode else "align_corners",
        nearest_rounding="half_up",
        size_rule="round",
        unchanged="all",
        spline=True,
        edge=_ZOOM_EDGES[mode],
        constant=cval,
        outside=cval if mode == "constant" else None,
    )


scipy = scipy_zoom()
"""`scipy.ndimage.zoom`, SciPy 1.17, as it is without further arguments.

The first and the last pixels coincide, and bicubic is the interpolating B-spline, which weighs all pixels of an axis.
Sizes are rounded, halves to even; a given scale decides the size and no more. Its quirk: pixels outside the image are
zero, and for 3 % of all pairs of sizes (8 to 26 pixels, for instance) rounding puts the last pixel there. `scipy_zoom`
makes the conventions of its other edge modes, which have no such pixels.
"""

scipy_grid = scipy_zoom(grid_mode=True)
"""`scipy.ndimage.zoom(grid_mode=True)`, SciPy 1.17: half-pixel centers.

Its quirk: beyond the outermost centers the image is zero, so that an enlarged image has a border of zeros.
`scipy_zoom(grid_mode=True, mode="grid-constant")`, or another mode, does without.
"""

skimage = Convention(
    name="skimage",
    methods=("nearest", "linear", "cubic"),
    antialiased=("nearest", "linear", "cubic"),
    antialiased_by_default=("nearest", "linear", "cubic"),
    nearest_rounding="half_up",
    size_rule="round",
    unchanged="all",
    spline=True,
    edge="reflect",
    antialias_edge="reflect",
    antialias_filter="gaussian",
    clip=True,
)
"""`skimage.transform.resize`, scikit-image 0.26: orders 0, 1 and 3 as nearest, linear and cubic.

Half-pixel centers; beyond the edge the image is mirrored about the centers of its edge pixels. Bicubic is the
interpolating B-spline, kept within the range of the image. Where an axis shrinks, a Gaussian blurs it first, unless
`antialias=False`; method nearest too, though not of integers and booleans. Sizes are rounded, halves to even, as
`rescale` does, and a given scale decides the size and no more. Integers keep their range, as under
`preserve_range=True`.
"""

PRESETS: dict[str, Convention] = {
    preset.name: preset
    for preset in (
        torch,
        torch_align_corners,
        jax,
        tensorflow,
        tensorflow1,
        tensorflow1_align_corners,
        opencv,
        pillow,
        matlab,
        scipy,
        scipy_grid,
        skimage,
    )
}

OnnxGrid = Literal[
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
]
OnnxRounding = Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]

_ONNX_GRIDS: dict[OnnxGrid, Grid] = {
    "half_pixel": "half_pixel",
    "half_pixel_symmetric": "half_pixel_symmetric",
    "pytorch_half_pixel": "pytorch_half_pixel",
    "align_corners": "align_corners",
    "asymmetric": "corner",
    "tf_half_pixel_for_nn": "tf_half_pixel_for_nn",
    "tf_crop_and_resize": "crop",
}
_ONNX_ROUNDING: dict[OnnxRounding, Rounding] = {
    "round_prefer_floor": "half_down",
    "round_prefer_ceil": "half_up",
    "floor": "floor",
    "ceil": "ceil",
}


def onnx(
    *,
    coordinate_transformation_mode: OnnxGrid = "half_pixel",
    nearest_mode: OnnxRounding = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: bool = False,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: Aspect = "stretch",
    roi: Sequence[tuple[float, float]] = ((0.0, 1.0),),
) -> Convention:
    """The Resize operator of ONNX, as onnxruntime computes it.

    The operator's other attributes are arguments of `resize`: `mode` is `method` (nearest, linear, cubic), and
    `antialias` and `axes` keep their names.

    Args:
      coordinate_transformation_mode: half_pixel, half_pixel_symmetric, pytorch_half_pixel, align_corners, asymmetric,
        tf_half_pixel_for_nn (until opset 12) or tf_crop_and_resize.
      nearest_mode: round_prefer_floor, round_prefer_ceil, floor or ceil.
      cubic_coeff_a: the cubic's sharpness, with antialiasing too.
      exclude_outside: whether taps beyond the edge are dropped and the rest renormalized; otherwise edge pixels
        repeat. onnxruntime has it for cubic and for antialiased methods only.
      extrapolation_value: under tf_crop_and_resize, the value of pixels whose center lies outside the image.
      keep_aspect_ratio_policy: stretch, not_larger or not_smaller, when sizes are given.
      roi: under tf_crop_and_resize, the (start, end) of the part to resize, as fractions of each axis: one pair for
        each spatial axis or one for all. (ONNX lists all starts, then all ends.)

    Raises:
      ValueError: an unknown mode or policy.
      TypeError: an `exclude_outside` that is not True or False.

    Source: https://onnx.ai/onnx/operators/onnx__Resize.html, version 19.

        >>> from upsampling import conventions
        >>> conventions.onnx(coordinate_transformation_mode="asymmetric", nearest_mode="floor").grid
        'corner'
    """
    where = "conventions.onnx"
    _arguments.one_of(where, "coordinate_transformation_mode", coordinate_transformation_mode, _ONNX_GRIDS)
    _arguments.one_of(where, "nearest_mode", nearest_mode, _ONNX_ROUNDING)
    _arguments.one_of(where, "keep_aspect_ratio_policy", keep_aspect_ratio_policy, get_args(Aspect))
    exclude_outside = _arguments.flag(where, "exclude_outside", exclude_outside)
    for argument, value in (("cubic_coeff_a", cubic_coeff_a), ("extrapolation_value", extrapolation_value)):
        _arguments.finite(where, argument, value)
    pairs = list(roi) if isinstance(roi, Sequence) and not isinstance(roi, (str, bytes)) else []
    if not pairs or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"{where}: roi must be (start, end) pairs, one or one per spatial axis; got {roi!r}.")
    for value in (value for pair in pairs for value in pair):
        _arguments.finite(where, "roi", value)
    grid = _ONNX_GRIDS[coordinate_transformation_mode]
    edge = "renormalize" if exclude_outside else "replicate"
    return Convention(
        name="onnx",
        methods=("cubic",) if exclude_outside else ("nearest", "linear", "cubic"),
        antialiased=("linear", "cubic"),
        grid=grid,
        nearest_rounding=_ONNX_ROUNDING[nearest_mode],
        nearest_tie=1e-6,
        arithmetic="quotient",
        antialias_arithmetic="quotient",
        nearest_arithmetic="quotient",
        precision="float32",
        given_scale=True,
        size_rule="floor32",
        aspect=keep_aspect_ratio_policy,
        unchanged="unit_scale",
        cubic=float(cubic_coeff_a),
        antialias_cubic=float(cubic_coeff_a),
        edge=edge,
        antialias_edge=edge,
        outside=float(extrapolation_value) if grid == "crop" else None,
        roi=tuple((float(start), float(end)) for start, end in roi),
    )


def get(function: str, convention: Preset | Convention) -> Convention:
    """Returns the convention that `convention` names or is; raises ValueError naming `function` for an unknown name."""
    if isinstance(convention, Convention):
        return convention
    return PRESETS[_arguments.one_of(function, "convention", convention, PRESETS)]
