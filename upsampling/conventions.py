"""How frameworks place pixels: `Convention`, and a named preset for each dialect.

Every resize is a weighted sum of a few input pixels. Frameworks agree on that and on little else: where an output
pixel lies on the input's grid, which pixel is "nearest", how sharp the cubic is, what happens beyond the edge, whether
a kernel widens when the image shrinks. A `Convention` writes those decisions down; `taps` turns them into numbers. This
module knows no JAX.
"""

import dataclasses
import math
from typing import Literal

from upsampling import _checks

METHODS = (
    "nearest",
    "nearest-exact",
    "linear",
    "cubic",
    "lanczos2",
    "lanczos3",
    "lanczos4",
    "lanczos5",
    "mitchell",
    "gaussian",
    "box",
    "hamming",
    "area",
)

# One method has several names, by the number of axes it is used on or the framework that it comes from.
SYNONYMS = {
    "bilinear": "linear",
    "trilinear": "linear",
    "bicubic": "cubic",
    "tricubic": "cubic",
    "nearest_exact": "nearest-exact",
    "mitchellcubic": "mitchell",
}


@dataclasses.dataclass(frozen=True)
class Convention:
    """The decisions that make one framework's resize differ from another's.

    Attributes:
      name: what errors call it.
      methods: the methods that the framework has without antialiasing, by their plain name.
      antialiased: the methods that it has with `antialias=True`.
      grid: where the centre of output pixel i lies on the input's grid, whose pixels sit at 0, 1, ..., n - 1, with
        `step` = n / m input pixels per output pixel (or 1 / scale, see `given_scale`):
        `"half_pixel"`, (i + 0.5) step - 0.5: both images cover the same area;
        `"corner"`, i step: the first pixels coincide;
        `"align_corners"`, i (n - 1) / (m - 1): the first and the last pixels coincide, 0 where m = 1.
      nearest_grid: the grid of method nearest where that differs; None means `grid`.
      given_scale: whether a scale given by the caller enters the coordinates as it is; otherwise the step is always
        recomputed as n / m, which differs when n * scale is not whole.
      cubic: the cubic's sharpness a (Keys 1981): -0.5 reproduces quadratics, -0.75 is sharper.
      antialias_cubic: a, when antialiasing.
      edge: what becomes of taps beyond the edge, without antialiasing: `"replicate"` reads the nearest edge pixel,
        `"renormalise"` drops them and divides by the sum of the rest. With antialiasing they are dropped everywhere.
      precision: the floating type of the framework's coordinates. It decides which pixel is nearest where two are
        equally far but for rounding.
    """

    name: str
    methods: tuple[str, ...]
    antialiased: tuple[str, ...] = ()
    grid: Literal["half_pixel", "corner", "align_corners"] = "half_pixel"
    nearest_grid: Literal["half_pixel", "corner", "align_corners"] | None = None
    given_scale: bool = False
    cubic: float = -0.5
    antialias_cubic: float = -0.5
    edge: Literal["replicate", "renormalise"] = "renormalise"
    precision: Literal["float32", "float64"] = "float64"

    def output_size(self, size: int, scale: float) -> int:
        """Returns the size that the framework gives an axis of `size` pixels that is scaled by `scale`."""
        return math.floor(size * scale)


torch = Convention(
    name="torch",
    methods=("nearest", "nearest-exact", "linear", "cubic", "area"),
    antialiased=("linear", "cubic", "lanczos3"),
    nearest_grid="corner",
    given_scale=True,
    cubic=-0.75,
    edge="replicate",
    precision="float32",
)
"""`torch.nn.functional.interpolate`, `align_corners=False`."""

torch_align_corners = dataclasses.replace(
    torch,
    name="torch_align_corners",
    methods=("linear", "cubic"),
    antialiased=("linear", "cubic"),
    grid="align_corners",
)
"""`torch.nn.functional.interpolate`, `align_corners=True`."""

PRESETS = {preset.name: preset for preset in (torch, torch_align_corners)}


def get(function: str, convention: "str | Convention") -> Convention:
    """Returns the convention that `convention` names or is; raises ValueError naming `function` for an unknown name."""
    if isinstance(convention, Convention):
        return convention
    return PRESETS[_checks.one_of(function, "convention", convention, PRESETS)]
