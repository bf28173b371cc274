"""The study of segmentation: its settings, and what is done in which order."""

import dataclasses
import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
from flax import nnx

import upsampling as up
from experiments import console, files, report, results, runs, training
from experiments.data import Dataset, Split, brain, folder, loader
from experiments.models import FPN, MODELS, Model, UNet
from experiments.models.blocks import Downsampling, Skips, fits
from experiments.tasks import segmentation as task

CLASSIC = ("nearest", "bilinear", "bicubic", "transposed_conv", "deconv", "sub_pixel_conv")

_Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
_Number = Annotated[int | None, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True)
class Segmentation:
    """Train one small network per upsampling method and seed, all else equal, and report what each does to boundaries.

    Settings without a value take it from a preset: a small one on a CPU (minutes on two cores), a larger one on an
    accelerator.
    """

    data: Literal["brain", "folder"] = "brain"
    """brain: MRI slices that come with nilearn. folder: images and masks at --path."""
    path: _Folder = None
    """The folder of --data folder."""
    layout: str = "pairs"
    """How --path is laid out: pairs (images/NAME, masks/NAME), camvid, isbi2012."""
    methods: tuple[str, ...] = CLASSIC
    """Upsampling methods to compare; all: every one that goes with --downsampling."""
    steps: _Number = None
    """Training steps of each network. Preset: 300, or 4000 on an accelerator."""
    seeds: tuple[int, ...] = (0,)
    """One network is trained per method and seed; several seeds give an interval."""
    model: Model = "unet"
    """The network around the upsampler. unet: U-Net. fpn: feature pyramid network, all of whose levels are fused."""
    width: _Number = None
    """Channels at full resolution; doubled at every level below. Preset: 8, or 32 on an accelerator."""
    depth: _Number = None
    """Number of halvings. Preset: 3, or 4 on an accelerator."""
    skips: Skips = "inner"
    """Levels with a skip connection. inner: all but the full resolution."""
    attention_gate: bool = False
    """Gate each skip connection by the features of the level below (Oktay et al. 2018)."""
    downsampling: Downsampling = "strided"
    """How the encoder goes down: by strided convolutions (deconv needs them) or by max-pooling (max_unpool does)."""
    batch: _Number = None
    """Crops per step. Preset: 8, or 32 on an accelerator."""
    crop: _Number = None
    """Side of the square training crops, in pixels. Preset: 96, or 128 on an accelerator."""
    learning_rate: float = 4e-3
    """Highest learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    precision: training.Precision = "float32"
    """What the network computes in."""
    out: _Folder = None
    """A new folder for the results; by default one below runs/ named by date and time."""
    resume: _Folder = None
    """Go on with the stopped run in this folder, with its own settings. Takes no other option."""

    def jobs(self) -> list[tuple[str, int]]:
        """Method and seed of each training, in the order in which they are done."""
        return [(method, seed) for seed in self.seeds for method in self.methods]

    def prepare(self) -> "Run":
        """Checks everything that can be checked before training, and makes the run's folder.

        Raises:
          ValueError, OSError: what was asked for cannot be done; nothing is left behind.
        """
        if self.resume is not None:
            config = _resumed(self)
            return Run(config, _load(config), self.resume.resolve())
        config = resolve(self)
        runs.refuse_existing(config.out)
        data = _load(config)
        # The folder is made last, so that what was refused leaves nothing behind. A run may go on from elsewhere.
        stored = dataclasses.replace(config, path=config.path and config.path.resolve())
        return Run(config, data, runs.create(config.out, "segmentation", dataclasses.asdict(stored)))

    def run(self, prepared: "Run") -> None:
        train(prepared)


@dataclass(frozen=True)
class Report:
    """Write a run's report.html anew from what the run stored."""

    folder: tyro.conf.Positional[Path]
    """The run's folder."""

    def prepare(self) -> "Run":
        config = _stored(self.folder)
        for method, seed in config.jobs():
            if not (runs.job_folder(self.folder, method, seed) / "result.json").exists():
                raise ValueError(f"{self.folder}: {method}, seed {seed} is not trained yet; go on with --resume.")
        return Run(config, _load(config), self.folder.resolve())

    def run(self, prepared: "Run") -> None:
        _conclude(prepared)


class Run(NamedTuple):
    """What a run works with: its settings, all filled in, its data and its folder."""

    config: Segmentation
    data: Dataset
    folder: Path


def train(run: Run) -> None:
    """Trains, evaluates and reports, showing progress; trainings that are done already are not done again.

    Raises:
      KeyboardInterrupt: after Ctrl-C, with everything stored that `--resume` needs.
    """
    config, data, place = run
    console.say(f"{data.name}: {data.description}", f"Results go to {_shown(place)}")
    if data.generated:
        _store_test_images(place / "test.npz", data.test)
    try:
        with console.run_progress(len(config.jobs())) as progress:
            for method, seed in config.jobs():
                job = runs.job_folder(place, method, seed)
                with progress.job(f"{method}, seed {seed}", config.steps) as step:
                    if not (job / "result.json").exists():
                        _train(config, data, method, seed, job, step)
                figures = files.read_json(job / "result.json")["figures"]
                progress.say(
                    f"{method:>16}, seed {seed}: mean IoU {figures['mean_iou']['mean']:.3f}, "
                    f"Boundary IoU {figures['boundary_iou']['mean']:.3f}"
                )
    except KeyboardInterrupt:
        console.say(f"Stopped. To go on: python -m experiments segmentation --resume {_shown(place)}")
        raise
    _conclude(run)


def _conclude(run: Run) -> None:
    """Gathers the figures of all trainings into the run's files, its table and its page."""
    config, data, place = run
    settings = {name: getattr(config, name) for name in _SETTINGS}
    found, timing = results.collect(place, data, config.methods, config.seeds, settings)
    table, best = results.rows(found, timing)
    # A terminal is narrow: the page has all columns.
    columns = ("method", *(m.title for m in task.MEASURES.values() if m.brief), "params", "ms/step")
    shown = [{column: row[column] for column in columns} for row in table]
    console.table(f"{data.name}, {config.steps} steps, test images", shown, best)
    predictions = {}
    for method in config.methods:  # the pictures show the networks of the first seed
        with np.load(runs.job_folder(place, method, config.seeds[0]) / "predictions.npz") as stored:
            predictions[method] = [stored[f"label{i}"] for i in range(len(data.test))]
    page = report.write(
        place / "report.html",
        results=found,
        machine=timing[config.methods[0]][str(config.seeds[0])]["machine"],
        table=table,
        best=best,
        data=data,
        predictions=predictions,
    )
    console.say(f"Report: {_shown(page)}")


def _store_test_images(path: Path, test: Split) -> None:
    image, label = (np.stack([example[key] for example in test.examples]) for key in ("image", "label"))
    files.write_arrays(path, names=np.array(test.names), image=image, label=label.astype(np.uint8))


# Settings


# What a table of results must say of how they came about.
_SETTINGS = (
    "steps",
    "model",
    "width",
    "depth",
    "skips",
    "attention_gate",
    "downsampling",
    "batch",
    "crop",
    "learning_rate",
    "weight_decay",
    "precision",
)
_PRESETS = {
    "cpu": {"steps": 300, "width": 8, "depth": 3, "batch": 8, "crop": 96},
    "accelerator": {"steps": 4000, "width": 32, "depth": 4, "batch": 32, "crop": 128},
}


def resolve(config: Segmentation) -> Segmentation:
    """The configuration with the preset of this machine filled in, checked.

    Raises:
      ValueError: a setting that is out of range or does not go with another, naming its option.
    """
    preset = _PRESETS["cpu" if jax.default_backend() == "cpu" else "accelerator"]
    missing = {name: value for name, value in preset.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **missing)
    for name in ("steps", "width", "depth", "batch", "crop"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name} {getattr(config, name)}: must be at least 1.")
    if not config.learning_rate > 0 or not config.weight_decay >= 0:
        raise ValueError("--learning-rate must be above 0 and --weight-decay at least 0.")
    for name in ("methods", "seeds"):
        chosen = getattr(config, name)
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"--{name}: give at least one, each once; got {' '.join(map(str, chosen)) or 'none'}.")
    if any(seed < 0 for seed in config.seeds):
        raise ValueError(f"--seeds {' '.join(map(str, config.seeds))}: must be at least 0.")
    known = up.nn.available()
    if config.methods == ("all",):
        fitting = tuple(name for name, method in known.items() if fits(method, config.downsampling))
        config = dataclasses.replace(config, methods=fitting)
    for method in config.methods:
        if method not in known:
            near = difflib.get_close_matches(method, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"--methods {method}: not known.{hint} Known: {' '.join(known)}.")
        if not fits(known[method], config.downsampling):
            other = "strided" if config.downsampling == "pool" else "pool"
            raise ValueError(f"--methods {method}: needs --downsampling {other}.")
    if (config.data == "folder") != (config.path is not None):
        raise ValueError("--data folder and --path DIR go together; give both or neither.")
    return config


def _resumed(config: Segmentation) -> Segmentation:
    """The settings stored with the run to go on with."""
    if dataclasses.replace(config, resume=None) != Segmentation():
        raise ValueError("--resume takes its settings from the run's folder; give no other option beside it.")
    return _stored(config.resume)


def _stored(folder: Path) -> Segmentation:
    """The settings stored with the run in `folder`."""
    stored = runs.stored_config(folder, "segmentation")
    fields = {field.name for field in dataclasses.fields(Segmentation)}
    if stored.keys() != fields:
        raise ValueError(f"{folder}: stored by another version; its settings differ in {stored.keys() ^ fields}.")
    stored.update({name: tuple(stored[name]) for name in ("methods", "seeds")})
    stored.update({name: Path(stored[name]) for name in ("path", "out") if stored[name] is not None})
    return Segmentation(**stored)


def _load(config: Segmentation) -> Dataset:
    data = brain.load() if config.data == "brain" else folder.load(config.path, config.layout)
    for name, example in zip(data.train.names, data.train.examples, strict=True):
        if min(example["label"].shape) < config.crop:
            height, width = example["label"].shape
            raise ValueError(f"--crop {config.crop}: image {name} has only {height} × {width} pixels.")
    return data


def _shown(path: Path) -> str:
    """The path as the reader would type it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# One training


def _train(
    config: Segmentation, data: Dataset, method: str, seed: int, place: Path, progress: Callable[[int, float], None]
) -> None:
    """Trains one network, or goes on with it, and stores its figures and predictions below `place`."""
    num_classes = len(data.classes)
    model = MODELS[config.model](
        data.channels,
        num_classes,
        method,
        width=config.width,
        depth=config.depth,
        downsampling=config.downsampling,
        skips=config.skips,
        attention_gate=config.attention_gate,
        seed=seed,
    )
    structure, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    network = task.Network(structure)
    predict = functools.partial(task.predict, jax.jit(network.labels))

    def batch_loss(params, statistics, batch):
        logits, statistics = network.train(params, statistics, batch["image"])
        return task.loss(logits, batch["label"], data.ignore_index), statistics

    outcome = training.fit(
        params,
        statistics,
        batch_loss,
        loader.batches(data, size=config.batch, crop=(config.crop, config.crop), seed=seed),
        training.Options(
            steps=config.steps,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            precision=config.precision,
        ),
        folder=place / "checkpoints",
        validate=lambda *variables: task.validate(predict(variables, data.validation), data),
        progress=progress,
    )
    predictions = predict((outcome.params, outcome.statistics), data.test)
    # Numbered, since images differ in size and a name may be anything.
    numbered = {f"label{i}": prediction for i, prediction in enumerate(predictions)}
    files.write_arrays(place / "predictions.npz", names=np.array(data.test.names), **numbered)
    files.write_json(
        place / "result.json",
        {
            "figures": task.evaluate(predictions, data.test, data),
            "parameters": _count(params),
            "upsampler_parameters": _upsampler_parameters(model),
            "operations_per_step": outcome.cost.operations,
            "temporary_bytes": outcome.cost.temporary_bytes,
            "loss": outcome.history.loss,
            "validation": outcome.history.validation,
            "timing": {
                "step_ms": 1000 * float(np.median(outcome.history.seconds or [np.nan])),
                "compile_s": outcome.cost.compile_seconds,
                "machine": runs.machine(),
            },
        },
    )


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _upsampler_parameters(model: UNet | FPN) -> int:
    """Parameters that the upsamplers add: a kernel shared with the encoder is the encoder's."""
    own = _count(nnx.state(model, nnx.Param))
    for level in range(model.depth):
        model.upsamplers[level] = up.nn.Nearest(2)
    return own - _count(nnx.state(model, nnx.Param))
