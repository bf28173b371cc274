"""The settings of the segmentation study, their presets, and what of them cannot be done."""

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import jax
import tyro

import upsampling as up
from experiments import methods, runs, session, tasks, training
from experiments.data import source
from experiments.data.source import Source
from experiments.models import Model
from experiments.models.blocks import Decoder, Downsampling, Skips, fits
from experiments.session import Session

CLASSIC = ("nearest", "bilinear", "bicubic", "transposed_conv", "deconv", "sub_pixel_conv")

Design = Literal["analytic", "frozen", "head", "unet"]
TRAINED: tuple[Design, ...] = ("frozen", "head", "unet")
Preset = Literal["cpu", "accelerator", "paper"]

_Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
_Number = Annotated[int | None, tyro.conf.arg(metavar="N")]
_Numbers = Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="N")]
_Rates = Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="X")]
_Names = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME")]


class Job(NamedTuple):
    """One training.

    Attributes:
      design: a design that trains, with its stride where there are several: frozen, "frozen x8".
      method: an upsampling method.
      seed: of data order and first values.
    """

    design: str
    method: str
    seed: int


@dataclass(frozen=True)
class Segmentation(Session, Source):
    """Compare how upsampling methods render segmentation boundaries, all else equal, and report it with intervals.

    Settings without a value take it from a preset: a small one on a CPU (minutes on two cores), a larger one on an
    accelerator.
    """

    preset: Preset | None = None
    """Where settings without a value take it from. cpu and accelerator: chosen by the machine. paper: every design,
    all methods with their authors' settings, 10 seeds; hours on an accelerator, days on a CPU."""
    design: tuple[Design, ...] | None = None
    """analytic: shapes whose boundary is known exactly, no training. frozen: one trunk per seed, trained without any
    upsampler; only a 1x1 convolution, the upsampler and a 1x1 head are trained. head: the same network end to end.
    unet: a network around the upsampler, which can mend what it does: the control. Preset: analytic frozen unet."""
    methods: _Names = None
    """Upsampling methods to compare: names of the library, your own as package.module:Class, or all. Preset: the six
    classics and guided_filter."""
    against: str = "bilinear"
    """The method that all others are held against."""
    seeds: _Numbers = None
    """One training per method and seed; differences between methods are paired by seed. Preset: 0 to 4."""
    variants: tuple[str, ...] | None = None
    """Named settings that methods take where they have them, before their authors' own. Preset: features small on a
    CPU, features on an accelerator."""
    stride: _Numbers = None
    """The upsampler's factor. Of several, the design frozen is done with each, head with the first. Preset: 4; of
    paper, 4 8."""
    analytic_stride: _Numbers = None
    """Factors of the design analytic. Preset: those of --stride; of paper, 2 4 8."""
    shapes_steps: _Number = None
    """Training steps of each method on random shapes, for the design analytic; 0 for the bare interpolators alone.
    Preset: 0; of paper, 1600."""
    features: _Number = None
    """Channels that the upsampler sees in the designs frozen and head. Preset: 16, or 32 on an accelerator."""
    trunk_steps: _Number = None
    """Training steps of each trunk. Preset: 400, or 4000 on an accelerator."""
    head_steps: _Number = None
    """Training steps of each head on a frozen trunk. Preset: 400, or 2000 on an accelerator."""
    crops: int = 512
    """Training crops whose features a frozen trunk computes once, and all its heads share."""
    steps: _Number = None
    """Training steps of each network of the designs head and unet. Preset: 240, or 4000 on an accelerator."""
    control: _Names = None
    """Methods of the design unet, where it stands beside others. Preset: nearest bilinear."""
    control_seeds: _Numbers = None
    """Seeds of the design unet, where it stands beside others. Preset: 0 1 2."""
    seeds_at_once: int = 1
    """Seeds of a method that are trained together, in one program: for accelerators, which one small network leaves
    idle; a CPU is slower so. Results differ from those of single seeds by rounding."""
    model: Model = "unet"
    """The network of the design unet. unet: U-Net. fpn: feature pyramid network, all of whose levels are fused."""
    decoder: Decoder = "full"
    """What follows the upsampler in the U-Net. full: two 3x3 convolutions. thin: one of a single pixel."""
    width: _Number = None
    """The U-Net's channels at full resolution; doubled at every level below. Preset: 8, or 32 on an accelerator."""
    depth: _Number = None
    """The U-Net's number of halvings. Preset: 3, or 4 on an accelerator."""
    skips: Skips = "inner"
    """Levels of the U-Net with a skip connection. inner: all but the full resolution."""
    attention_gate: bool = False
    """Gate each skip connection by the features of the level below (Oktay et al. 2018)."""
    downsampling: Downsampling = "strided"
    """How the U-Net goes down: by strided convolutions (deconv needs them) or by max-pooling (max_unpool does)."""
    batch: _Number = None
    """Crops per step. Preset: 8, or 32 on an accelerator."""
    crop: _Number = None
    """Side of the square training crops, in pixels. Preset: 96, or 128 on an accelerator."""
    learning_rate: _Rates = None
    """Highest learning rate of AdamW in the designs head and unet; trunks take the first. Of several, each method of a
    design takes its own: that with the best Boundary IoU on validation images, mean over the first two seeds. Preset:
    0.004; of paper, 0.004 0.001."""
    head_learning_rate: _Rates = None
    """The same of the heads on a frozen trunk. Preset: 0.03, which suits the classics; 0.03 0.01 on an accelerator; of
    paper, 0.03 0.01 0.003."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    precision: training.Precision = "float32"
    """What the network computes in."""
    out: _Folder = None
    """A new folder for the results; by default one below runs/ named by date and time."""

    def methods_of(self, design: Design) -> tuple[str, ...]:
        """The methods that a design compares, in order."""
        return self.control if design == "unet" and self.control else self.methods

    def seeds_of(self, design: Design) -> tuple[int, ...]:
        """The seeds of a design."""
        return self.control_seeds if design == "unet" and self.control_seeds else self.seeds

    def trained(self) -> list[str]:
        """The designs that train; frozen once for every stride."""
        return [
            name
            for design in self.design
            if design in TRAINED
            for name in (map(self._at_stride, self.stride) if design == "frozen" else [design])
        ]

    def _at_stride(self, stride: int) -> str:
        return "frozen" if stride == self.stride[0] else f"frozen x{stride}"

    def stride_of(self, design: str) -> int:
        """The upsampler's factor in a design that trains."""
        return next((s for s in self.stride if self._at_stride(s) == design), self.stride[0])

    def rates_of(self, design: str) -> tuple[float, ...]:
        """The learning rates that a design's trainings are tried with."""
        return self.head_learning_rate if kind(design) == "frozen" else self.learning_rate

    def jobs(self) -> list[Job]:
        """All trainings, in the order in which they are done."""
        return [
            Job(design, method, seed)
            for design in self.trained()
            for seed in self.seeds_of(design)
            for method in self.methods_of(design)
        ]


def kind(design: str) -> str:
    """What a design is, whatever its stride."""
    return design.partition(" ")[0]


def named_stride(design: str) -> str:
    """The stride in a design's name; empty for the first one."""
    return design.partition(" x")[2]


# Fields that say where things are, or what the jobs are: a table of results names them elsewhere.
_NOT_CONDITIONS = {"preset", "design", *source.FIELDS, *session.FIELDS, "methods", "against", "seeds", "out"}
_PRESET_OF_ALL = {"design": ("analytic", "frozen", "unet"), "methods": (*CLASSIC, "guided_filter")}
_PRESET_OF_ALL |= {"seeds": (0, 1, 2, 3, 4), "stride": (4,), "shapes_steps": 0, "learning_rate": (4e-3,)}
_PRESETS: dict[Preset, dict[str, object]] = {
    "cpu": {
        "variants": ("features", "small"),
        "features": 16,
        "trunk_steps": 400,
        "head_steps": 400,
        "steps": 240,
        "width": 8,
        "depth": 3,
        "batch": 8,
        "crop": 96,
        "head_learning_rate": (3e-2,),
    },
    "accelerator": {
        "variants": ("features",),
        "features": 32,
        "trunk_steps": 4000,
        "head_steps": 2000,
        "steps": 4000,
        "width": 32,
        "depth": 4,
        "batch": 32,
        "crop": 128,
        "head_learning_rate": (3e-2, 1e-2),
    },
}
_PRESETS["paper"] = _PRESETS["accelerator"] | {
    "design": ("analytic", "frozen", "head", "unet"),
    "methods": ("all",),
    "seeds": tuple(range(10)),
    "stride": (4, 8),
    "analytic_stride": (2, 4, 8),
    "shapes_steps": 1600,
    "learning_rate": (4e-3, 1e-3),
    "head_learning_rate": (3e-2, 1e-2, 3e-3),
    "head_steps": 4000,
}


def conditions(config: Any) -> dict[str, object]:
    """What a table of results must say of how they came about."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in _NOT_CONDITIONS}


def resolve(config: Segmentation) -> Segmentation:
    """The configuration with the preset of this machine filled in, checked.

    Raises:
      ValueError: a setting that is out of range or does not go with another, naming its option.
    """
    name = config.preset or ("cpu" if jax.default_backend() == "cpu" else "accelerator")
    preset = _PRESET_OF_ALL | _PRESETS[name]
    missing = {name: value for name, value in preset.items() if getattr(config, name) is None}
    if config.analytic_stride is None and (config.stride is not None or "analytic_stride" not in preset):
        missing["analytic_stride"] = missing.get("stride", config.stride)
    alone = config.design is not None and len([d for d in config.design if d in TRAINED]) == 1
    if not alone and config.control is None and config.methods is None:
        missing |= {"control": CLASSIC if name == "paper" else ("nearest", "bilinear")}
        if config.control_seeds is None and config.seeds is None:
            missing |= {"control_seeds": tuple(range(5 if name == "paper" else 3))}
    config = dataclasses.replace(config, **missing)
    _check_numbers(config)
    lists = ("design", "methods", "seeds", "control", "control_seeds", "stride", "analytic_stride")
    for name in (*lists, "learning_rate", "head_learning_rate"):
        chosen = getattr(config, name)
        if chosen is not None and (not chosen or len(set(chosen)) < len(chosen)):
            raise ValueError(f"--{_option(name)}: give at least one, each once; got {_listed(chosen)}.")
    config = _with_methods(config)
    config.check_source()
    config.check_session()
    return config


def _check_numbers(config: Segmentation) -> None:
    sizes = ("features", "width", "depth", "batch", "crop")
    counted = ("steps", "trunk_steps", "head_steps", "crops", "seeds_at_once", *sizes)
    for name in counted:
        if getattr(config, name) < 1:
            raise ValueError(f"--{_option(name)} {getattr(config, name)}: must be at least 1.")
    if config.shapes_steps < 0:
        raise ValueError(f"--shapes-steps {config.shapes_steps}: must be at least 0.")
    for name in ("stride", "analytic_stride"):
        for stride in getattr(config, name):
            if stride not in (2, 4, 8, 16):
                raise ValueError(f"--{_option(name)} {stride}: must be 2, 4, 8 or 16.")
    for design in config.trained():
        stride = config.stride_of(design)
        if kind(design) in ("frozen", "head") and config.crop % stride:
            raise ValueError(f"--crop {config.crop}: must be a multiple of --stride {stride}.")
    if "frozen" in config.design and config.crops < config.batch:
        raise ValueError(f"--crops {config.crops}: must be at least --batch {config.batch}.")
    for name in ("learning_rate", "head_learning_rate"):
        if not all(rate > 0 for rate in getattr(config, name)):
            raise ValueError(f"--{_option(name)} {_listed(getattr(config, name))}: must be above 0.")
    if not config.weight_decay >= 0:
        raise ValueError(f"--weight-decay {config.weight_decay}: must be at least 0.")
    for name in ("seeds", "control_seeds"):
        if any(seed < 0 for seed in getattr(config, name) or ()):
            raise ValueError(f"--{_option(name)} {_listed(getattr(config, name))}: must be at least 0.")


def _with_methods(config: Segmentation) -> Segmentation:
    """The configuration with `all` spelled out, and every method known and fitting."""
    unet = "unet" in config.design
    trained = [design for design in config.design if design in TRAINED]
    if config.methods == ("all",):
        # The trunk of the designs frozen and head has everything that any method needs.
        needed = config.downsampling if unet and config.control is None else None
        fitting = (n for n, m in up.nn.available().items() if needed is None or fits(m, needed))
        config = dataclasses.replace(config, methods=tuple(fitting))
    for method in (*config.methods, *(config.control or ())):
        methods.find(method)
    for method in config.methods_of("unet") if unet else ():
        if not fits(methods.find(method), config.downsampling):
            other = "strided" if config.downsampling == "pool" else "pool"
            raise ValueError(f"--methods {method}: needs --downsampling {other}.")
    methods.find(config.against, "--against")
    if trained and config.against not in config.methods:
        fallback = config.methods[0]
        if config.against != Segmentation.against:
            raise ValueError(
                f"--against {config.against}: must be one of the methods compared: {_listed(config.methods)}."
            )
        config = dataclasses.replace(config, against=fallback)
    return config


def _option(field: str) -> str:
    return field.replace("_", "-")


def _listed(values: tuple) -> str:
    return " ".join(map(str, values)) or "none"


def stored(folder: Path, task: tasks.Task) -> Any:
    """The settings stored with the run of a task in `folder`, checked like new ones: the file may have been edited.

    Raises:
      FileNotFoundError, ValueError: no run of this version is there, or its settings cannot be.
    """
    found, options = runs.stored_config(folder, task.name), task.settings
    fields = {field.name: field for field in dataclasses.fields(options) if field.name not in session.FIELDS}
    # A setting that came later was as its default is. None stands for a preset, which may have been another.
    later = {name for name, field in fields.items() if field.default is not None}
    if not fields.keys() - later <= found.keys() <= fields.keys():
        differ = (found.keys() - fields.keys()) | (fields.keys() - later - found.keys())
        raise ValueError(f"{folder}: stored by another version; its settings differ in {differ}.")
    try:
        return task.resolve(options(**{name: typed(name, value, fields[name].type) for name, value in found.items()}))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error


def typed(name: str, value: object, of: Any) -> Any:
    """A value from JSON as the type of its field.

    Raises:
      ValueError: it is of another type.

    Example:

    >>> typed("seeds", [0, 1], tuple[int, ...] | None)
    (0, 1)
    """
    kind, arguments = get_origin(of), get_args(of)
    if kind is Annotated:
        return typed(name, value, arguments[0])
    if kind is Literal:
        fitting = value in arguments
    elif kind in (Union, UnionType):
        for one in arguments:
            with contextlib.suppress(ValueError):
                return typed(name, value, one)
        fitting = False
    elif kind is tuple and isinstance(value, list):
        each = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(each) == len(value):
            return tuple(typed(name, item, one) for item, one in zip(value, each, strict=True))
        fitting = False
    elif of is Path and isinstance(value, str):
        return Path(value)
    elif of is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    else:
        fitting = kind is None and type(value) is of
    if not fitting:
        raise ValueError(f"{name} {value!r}: must be {_spelled(of)}.")
    return value


def _spelled(of: Any, plural: str = "") -> str:
    """A type in words."""
    kind, arguments = get_origin(of), get_args(of)
    if kind is Annotated:
        return _spelled(arguments[0], plural)
    if kind is Literal:
        return " or ".join(map(repr, arguments))
    if kind in (Union, UnionType):
        return " or ".join(_spelled(one, plural) for one in arguments)
    if kind is tuple:
        return f"a list of {_spelled(arguments[0], 's')}"
    words = {int: "whole number", float: "number", Path: "path"}
    if of in words:
        return words[of] + plural if plural else f"a {words[of]}"
    return {str: "text", bool: "true or false", NoneType: "null"}[of]


def resumed(config: Any) -> Any:
    """The settings stored with the run to go on with, and how this session is to be carried out."""
    config.check_session()
    if dataclasses.replace(type(config)(), **session.of(config)) != config:
        raise ValueError(
            "--resume takes its settings from the run's folder; give no other option of the study beside it."
        )
    return dataclasses.replace(stored(config.resume, tasks.of(config)), **session.of(config))


assert set(TRAINED) < set(get_args(Design))
