"""Super-resolution: a photograph from its bicubic reduction, through networks whose way up is any upsampling method.

Low-resolution images are made as MATLAB's `imresize` makes them (bicubic, antialiased), the field's convention, and
rounded to 8 bits. Measures are those of the field: PSNR and SSIM of 8-bit luma, less a border as wide as the factor.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from scipy import ndimage

import upsampling as up
from experiments import comparison, devices, methods, tasks, training, trials
from experiments.comparison import Comparison
from experiments.data import Split, loader, pictures
from experiments.data.pictures import Pictures, as_bytes, cut_to_multiple, reduced
from experiments.models import blocks
from experiments.models.super_resolution import NETWORKS, Network
from experiments.results import shown_name
from experiments.settings import Job
from experiments.statistics import Sums
from experiments.tasks import Measure, Picture, Words
from experiments.trials import CURVE, Chunk, Trial

MEASURES = {
    "psnr": Measure("PSNR-Y, dB", "peak signal to noise of luma, without a border as wide as the factor", brief=True),
    "gain": Measure(
        "gain on bicubic, dB", "PSNR-Y less that of the untrained bicubic enlargement of the same image", brief=True
    ),
    "ssim": Measure(
        "SSIM", "structural similarity of luma (Wang et al. 2004), Gaussian window of 1.5 pixels", brief=True
    ),
    "edge_error": Measure(
        "error near edges",
        "root mean square error, in gray levels, within 2 pixels of an edge of the true image (Canny, 1.5 pixels)",
        lower_is_better=True,
        brief=True,
    ),
    "flat_error": Measure(
        "error beyond 4 px", "the same at 4 pixels and more from any edge, as control", lower_is_better=True
    ),
}
PRIMARY = "psnr"
DISTANCES = (0, 1, 2, 3, 4, 6, 8, 12, float("inf"))
_MOST = 100.0  # dB, of an image without any error
# Interpolators that nothing trains: (method, convention), the first is the one that gains are told against.
BASELINES = {
    "bicubic, untrained": ("bicubic", "matlab"),
    "nearest, untrained": ("nearest", "matlab"),
    "bilinear, untrained": ("bilinear", "matlab"),
    "lanczos2, untrained": ("lanczos2", "matlab"),
    "lanczos3, untrained": ("lanczos3", "matlab"),
    "bicubic of PyTorch, untrained": ("bicubic", "torch"),
    "mitchell, untrained": ("mitchellcubic", "tensorflow"),
}
_DIHEDRAL = 8  # ways to turn and mirror a square


# --- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SuperResolution(Comparison):
    """Compare upsampling methods in networks that enlarge photographs, and untrained interpolation beside them.

    The default takes some minutes on two cores.
    """

    data: Literal["photographs", "folder"] = "photographs"
    """photographs: those that scikit-image and scikit-learn ship. folder: the pictures at --path and --test-path."""
    path: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A folder of pictures: DIV2K's, or train, val and test, or all in one. Without it photographs."""
    test_path: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A folder whose pictures are all for testing, such as Set5 or Set14."""
    network: tuple[Network, ...] = ("espcn", "edsr")
    """espcn: all work at low resolution, nothing after the upsampler but a 1x1 convolution. edsr: residual blocks, and
    a 3x3 convolution after the upsampler. The first is trained at each factor, others at the first."""
    scale: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N")] = (2, 3, 4)
    """Factors."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = (
        "nearest",
        "bilinear",
        "transposed_conv",
        "sub_pixel_conv",
        "dysample",
    )
    """Upsampling methods to compare: names of the library, your own as package.module:Class, or all."""
    steps: int = 300
    """Training steps of each network."""
    depth: int = 4
    """Residual blocks of edsr."""
    patch: int = 16
    """Side of the low-resolution training patches, in pixels."""

    def trained(self) -> list[str]:
        """The designs: a network and a factor."""
        first, *others = self.network
        return [f"{first} x{s}" for s in self.scale] + [f"{name} x{self.scale[0]}" for name in others]

    def load(self) -> Pictures:
        """The pictures; raises ValueError or OSError as `pictures.folder` does."""
        return pictures.photographs() if self.data == "photographs" else pictures.folder(self.path, self.test_path)


def resolve(config: SuperResolution) -> SuperResolution:
    """The settings checked; raises ValueError."""
    config = config.resolved()
    for scale in config.scale:
        if scale not in (2, 3, 4):
            raise ValueError(f"--scale {scale}: must be 2, 3 or 4.")
    config.at_least("depth", 1)
    config.at_least("patch", 8)
    given = config.path is not None or config.test_path is not None
    if given != (config.data == "folder"):
        raise ValueError("--data folder goes with --path DIR, --test-path DIR or both; give both or neither.")
    found = {name: p.resolve() for name in ("path", "test_path") if (p := getattr(config, name)) is not None}
    return dataclasses.replace(config, **found)


def _check(config: SuperResolution, data: Pictures) -> None:
    for name, example in zip(data.train.names, data.train.examples, strict=True):
        least = config.patch * max(config.scale)
        if min(example["image"].shape) < least:
            height, width = example["image"].shape
            raise ValueError(f"--patch {config.patch}: picture {name} has only {height} × {width} of {least} pixels.")


# --- pairs ------------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A low- and a high-resolution image, 8-bit luma."""

    small: np.ndarray
    large: np.ndarray


@functools.lru_cache(maxsize=16)
def _pairs(data: Pictures, part: str, scale: int) -> list[Pair]:
    split: Split = getattr(data, part)
    larges = [cut_to_multiple(example["image"], scale) for example in split.examples]
    return [Pair(reduced(large, scale), large) for large in larges]


class Patches(loader.Numbered):
    """Endless batches of pairs of patches, turned and mirrored at random; the n-th depends on the seed and n alone.

    A batch is `{"small": (size, patch, patch, 1), "large": (size, patch * scale, patch * scale, 1)}`, in [0, 1].
    """

    def __init__(self, pairs: Sequence[Pair], *, scale: int, patch: int, size: int, seed: int, part: tuple[int, int]):
        self._pairs, self._scale, self._patch, self._size = pairs, scale, patch, size
        self._seed, self._part = seed, part
        areas = np.array([pair.small.size for pair in pairs], float)
        self._chances = areas / areas.sum()

    def batch(self, number: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self._seed, number))
        found = [self._one(rng) for _ in range(self._size)][self._part[0] :: self._part[1]]
        small, large = (np.stack([pair[k] for pair in found])[..., None] for k in (0, 1))
        return {"small": small.astype(np.float32) / 255, "large": large.astype(np.float32) / 255}

    def _one(self, rng: np.random.Generator) -> Pair:
        pair = self._pairs[rng.choice(len(self._pairs), p=self._chances)]
        top, left = (int(rng.integers(0, n - self._patch + 1)) for n in pair.small.shape)
        turn = int(rng.integers(_DIHEDRAL))

        def taken(image: np.ndarray, scale: int) -> np.ndarray:
            side = self._patch * scale
            cut = image[top * scale : top * scale + side, left * scale : left * scale + side]
            cut = np.rot90(cut, turn % 4)
            return cut if turn < 4 else cut[:, ::-1]

        return Pair(taken(pair.small, 1), taken(pair.large, self._scale))


# --- loss and measures ------------------------------------------------------------------------------------------------


def loss(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean absolute error (as in Lim et al. 2017)."""
    return jnp.mean(jnp.abs(predicted.astype(jnp.float32) - truth))


def psnr(image: np.ndarray, truth: np.ndarray, border: int) -> float:
    """Peak signal to noise of 8-bit images, dB, without a border; at most 100.

    Example:

    >>> truth = np.zeros((8, 8), np.uint8)
    >>> round(psnr(truth + np.uint8(1), truth, 2), 2)
    48.13
    """
    error = np.mean((_inner(image, border) - _inner(truth, border)) ** 2)
    return float(min(_MOST, 10 * np.log10(255**2 / error))) if error else _MOST


def ssim(image: np.ndarray, truth: np.ndarray, border: int = 0) -> float:
    """Structural similarity of 8-bit images, without a border, then over windows that lie within.

    The window is a Gaussian of 1.5 pixels, 11 pixels wide; K1 = 0.01, K2 = 0.03.

    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861, equation 13.
    """
    x, y = _inner(image, border), _inner(truth, border)
    mean = functools.partial(ndimage.gaussian_filter, sigma=1.5, radius=5)
    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(found[5:-5, 5:-5].mean())


def _inner(image: np.ndarray, border: int) -> np.ndarray:
    height, width = image.shape
    return image[border : height - border, border : width - border].astype(np.float64)


def edge_distance(truth: np.ndarray) -> np.ndarray:
    """The distance of every pixel to the nearest edge of an 8-bit image (Canny, 1.5 pixels); infinite without one."""
    from skimage import feature

    edges = feature.canny(truth.astype(np.float64) / 255, sigma=1.5)
    return ndimage.distance_transform_edt(~edges) if edges.any() else np.full(truth.shape, np.inf)


@functools.lru_cache(maxsize=16)
def _distances(data: Pictures, part: str, scale: int) -> list[np.ndarray]:
    return [edge_distance(pair.large) for pair in _pairs(data, part, scale)]


def measure(predictions: Sequence[np.ndarray], data: Pictures, part: str, scale: int) -> dict[str, Sums]:
    """The sums of each measure for every image of a part, `(1, images, 1)`, and of the error by distance to an edge."""
    own = _measured(predictions, data, part, scale)
    base = _measured(_interpolated(data, part, scale, *BASELINES["bicubic, untrained"]), data, part, scale)
    own["gain"] = Sums(own["psnr"].numerator - base["psnr"].numerator, own["psnr"].denominator)
    return {name: own[name] for name in (*MEASURES, CURVE)}


def _measured(predictions: Sequence[np.ndarray], data: Pictures, part: str, scale: int) -> dict[str, Sums]:
    tops: dict[str, list[list[float]]] = {name: [] for name in (*MEASURES, CURVE) if name != "gain"}
    bottoms: dict[str, list[list[float]]] = {name: [] for name in tops}

    def add(name: str, values: Sequence[float]) -> None:
        tops[name].append([0.0 if np.isnan(v) else v for v in values])
        bottoms[name].append([0.0 if np.isnan(v) else 1.0 for v in values])

    for made, pair, distance in zip(predictions, _pairs(data, part, scale), _distances(data, part, scale), strict=True):
        truth = pair.large
        add("psnr", [psnr(made, truth, scale)])
        add("ssim", [ssim(made, truth, scale)])
        squares = (_inner(made, scale) - _inner(truth, scale)) ** 2
        far = _inner(distance, scale)
        add("edge_error", [_root_mean(squares, far, 0, 2)])
        add("flat_error", [_root_mean(squares, far, 4, np.inf)])
        add(CURVE, [_root_mean(squares, far, low, high) for low, high in itertools.pairwise(DISTANCES)])
    return {name: Sums(np.array([tops[name]]), np.array([bottoms[name]])) for name in tops}


def _root_mean(squares: np.ndarray, distance: np.ndarray, low: float, high: float) -> float:
    chosen = squares[(distance >= low) & ((distance < high) | (np.isinf(distance) & np.isinf(high)))]
    return float(np.sqrt(chosen.mean())) if chosen.size else float("nan")


def _interpolated(data: Pictures, part: str, scale: int, method: Any, convention: Any) -> list[np.ndarray]:
    found = []
    for small, large in _pairs(data, part, scale):
        image = jnp.asarray(small, jnp.float32)[..., None]
        found.append(as_bytes(np.asarray(up.resize(image, large.shape, method=method, convention=convention)[..., 0])))
    return found


def _baselines(config: SuperResolution, design: str, data: Pictures) -> dict[str, tuple[str, dict[str, Sums], bool]]:
    """Every interpolation, untrained; the methods are held against bicubic."""
    scale, found = _scale(design), {}
    for name, (method, convention) in BASELINES.items():
        made = _interpolated(data, "test", scale, method, convention)
        description = f"The interpolation {method} with the convention {convention}, without a network."
        found[name] = (description, measure(made, data, "test", scale), name == next(iter(BASELINES)))
    return found


# --- the network's training -------------------------------------------------------------------------------------------


def _scale(design: str) -> int:
    return int(design.rpartition("x")[2])


def _chunks(data: Pictures, part: str, scale: int) -> list[Chunk]:
    """A part's images, a few of one shape at a time, for a network."""
    pairs, found = _pairs(data, part, scale), []
    for places in trials.by_shape(pair.small.shape for pair in pairs):
        small = np.stack([pairs[i].small for i in places]).astype(np.float32)[..., None] / 255
        found.append(Chunk(places, (small,), np.stack([pairs[i].large for i in places])))
    return found


def trial(
    job: Job,
    rate: float,
    config: SuperResolution,
    data: Pictures,
    shared: comparison.Stage,
) -> tuple[Trial, training.Options]:
    """What one training of a network is made of, and its options."""
    scale = _scale(job.design)
    kind: Any = job.design.partition(" ")[0]
    more = {"depth": config.depth} if kind == "edsr" else {}
    model = NETWORKS[kind](job.method, scale, features=config.features, variants=config.variants, seed=job.seed, **more)
    structure, params, rest = nnx.split(model, nnx.Param, ...)

    def enlarge(params: Any, rest: Any, small: jax.Array) -> jax.Array:
        return nnx.merge(structure, params, rest)(small.astype(training.dtype_of(params)))

    def of_batch(params: Any, rest: Any, batch: Any) -> tuple[jax.Array, Any]:
        return loss(enlarge(params, rest, batch["small"]), batch["large"]), rest

    @jax.jit
    def as_levels(params: Any, rest: Any, small: jax.Array) -> jax.Array:
        levels = enlarge(params, rest, small)[..., 0].astype(jnp.float32) * 255
        return jnp.floor(jnp.clip(levels, 0, 255) + 0.5)

    def predict(part: str, *variables: Any) -> list[np.ndarray]:
        return trials.predict(as_levels, variables, _chunks(data, part, scale))

    def validate(*variables: Any) -> dict[str, float]:
        sums = measure(predict("validation", *variables), data, "validation", scale)
        return {name: float(sums[name].value()[0]) for name in TASK.followed}

    step = 2 if (kind, scale) == ("edsr", 4) else scale
    variant = methods.variant_of(job.method, config.variants)
    made_of = Trial(
        model,
        params,
        rest,
        of_batch,
        Patches(
            _pairs(data, "train", scale),
            scale=scale,
            patch=config.patch,
            size=config.batch,
            seed=job.seed,
            part=devices.part(),
        ),
        validate=validate,
        predict=functools.partial(predict, "test"),
        measure=lambda made: measure(made, data, "test", scale),
        variant=variant,
        receptive_field=blocks.receptive_field(job.method, variant, config.features, step),
    )
    options = config.options(rate, validations=2)
    return made_of, options


# --- words and pictures -----------------------------------------------------------------------------------------------

_SHOWN = 76  # pixels: side of the squares that the page shows
_WITH = 4  # test images that it shows them of


def _pictures(
    design: str, found: Mapping[str, Any], data: Pictures, predictions: Mapping[str, Sequence[np.ndarray]]
) -> list[Picture]:
    """Of a few test images the square in which the methods differ most, by every method."""
    scale, shown = _scale(design), []
    pairs = _pairs(data, "test", scale)
    base = _interpolated(data, "test", scale, *BASELINES["bicubic, untrained"])
    methods = found["designs"][design]["methods"]
    names = ["true", "bicubic, untrained", *(shown_name(name, methods[name]) for name in predictions)]
    for i, name in enumerate(data.test.names[:_WITH]):
        made = [pairs[i].large, base[i], *(maps[i] for maps in predictions.values())]
        spread = np.std(np.stack(made[2:]).astype(float), axis=0) if len(made) > 3 else np.abs(made[2] - made[0] * 1.0)
        top, left = _busiest(spread, min(_SHOWN, *spread.shape))
        cuts = [m[top : top + _SHOWN, left : left + _SHOWN] for m in made]
        shown.append(Picture(name, list(zip(names, cuts, strict=True))))
    return shown


def _busiest(weight: np.ndarray, side: int) -> tuple[int, int]:
    """Top and left of the square with the largest sum."""
    sums = np.pad(weight, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    of = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(int(np.argmax(of)), of.shape)
    return int(top), int(left)


def _design(name: str, settings: Mapping[str, Any]) -> str:
    scale = _scale(name)
    if name.startswith("espcn"):
        return (
            f"Two convolutions at low resolution, the upsampler by {scale}, and a 1 × 1 convolution, whose result is "
            f"added to the bicubic enlargement (after Shi et al. 2016). {_TRAINED.format(**settings)}"
        )
    twice = "twice by 2" if scale == 4 else f"by {scale}"
    return (
        f"{settings['depth']} residual blocks at low resolution, the upsampler {twice}, and a 3 × 3 convolution, whose "
        "result is added to the bicubic enlargement (after Lim et al. 2017, much smaller). The last convolution can "
        f"make up for some of what the upsampler does. {_TRAINED.format(**settings)}"
    )


_TRAINED = "Trained on luma for {steps} steps by mean absolute error."


def _settings(settings: Mapping[str, Any], designs: set[str]) -> list[str]:
    side = settings["patch"]
    what = f"pairs, {side} × {side} pixels at low resolution, turned and mirrored"
    return [
        *comparison.sentences(settings, what),
        "Low-resolution images are bicubic reductions as by MATLAB's imresize, rounded to 8 bits; images are cut to "
        "multiples of the factor; PSNR and SSIM are of luma (BT.601, 16 to 235) rounded to 8 bits, without a border as "
        "wide as the factor.",
    ]


WORDS = Words(
    heading="What the upsampler does in super-resolution",
    where={"espcn": "In the ESPCN-style network", "edsr": "In the EDSR-style network"},
    better="enlarged photographs better",
    best="best super-resolution at any cost",
    unit="test images",
    beyond="other ways to reduce images, cameras or networks",
    titles={"espcn": "ESPCN-style", "edsr": "EDSR-style"},
    design=_design,
    settings=_settings,
    curve="Error by distance to an edge",
    curve_says="How large the error is by distance to the nearest edge of the true image: at edges lies what a method "
    "must restore.",
    level="root mean square error, gray levels",
    across="distance to an edge, px",
    pictures=(
        "Side by side",
        "Squares of test images in which the methods differ most; networks of the first seed.",
    ),
)

TASK = tasks.Task(
    name="super-resolution",
    settings=SuperResolution,
    resolve=resolve,
    check=_check,
    measures=MEASURES,
    primary=PRIMARY,
    followed=("psnr", "gain"),
    bins=DISTANCES,
    stage=comparison.stage,
    trial=trial,
    words=WORDS,
    baselines=_baselines,
    pictures=_pictures,
)
