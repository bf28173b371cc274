"""Segmentation: one small U-Net per upsampling method and seed, all else equal, and what it does to boundaries."""

import csv
import dataclasses
import difflib
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import upsampling as up
from experiments import console, files, report, runs, training
from experiments.data import Dataset, Split, brain, loader
from experiments.data import folder as image_folder
from experiments.models.unet import Downsampling, Skips, UNet, fits
from experiments.statistics import estimate
from upsampling import metrics

CLASSIC = ("nearest", "bilinear", "bicubic", "transposed_conv", "deconv", "sub_pixel_conv")

_Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
_Number = Annotated[int | None, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True)
class Segmentation:
    """Train one small U-Net per upsampling method and seed, all else equal, and report what each does to boundaries.

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
    width: _Number = None
    """Channels at full resolution; doubled at every level below. Preset: 8, or 32 on an accelerator."""
    depth: _Number = None
    """Number of halvings. Preset: 3, or 4 on an accelerator."""
    skips: Skips = "inner"
    """Levels with a skip connection. inner: all but the full resolution."""
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
            if not (job_folder(self.folder, method, seed) / "result.json").exists():
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
    config, data, folder = run
    console.say(f"{data.name}: {data.description}", f"Results go to {_shown(folder)}")
    if data.generated:
        _store_test_images(folder / "test.npz", data.test)
    try:
        with console.run_progress(len(config.jobs())) as progress:
            for method, seed in config.jobs():
                place = job_folder(folder, method, seed)
                with progress.job(f"{method}, seed {seed}", config.steps) as step:
                    if not (place / "result.json").exists():
                        _train(config, data, method, seed, place, step)
                figures = files.read_json(place / "result.json")["figures"]
                progress.say(
                    f"{method:>16}, seed {seed}: mean IoU {figures['mean_iou']['mean']:.3f}, "
                    f"Boundary IoU {figures['boundary_iou']['mean']:.3f}"
                )
    except KeyboardInterrupt:
        console.say(f"Stopped. To go on: python -m experiments segmentation --resume {_shown(folder)}")
        raise
    _conclude(run)


def _conclude(run: Run) -> None:
    """Gathers the figures of all trainings into the run's files, its table and its page."""
    config, data, folder = run
    results, timing = _collect(run)
    table, best = rows(results, timing)
    # A terminal is narrow: the page has all columns.
    columns = ("method", *MEASURES.values(), "params", "ms/step")
    shown = [{column: row[column] for column in columns} for row in table]
    console.table(f"{data.name}, {config.steps} steps, test images", shown, best)
    predictions = {}
    for method in config.methods:  # the pictures show the networks of the first seed
        with np.load(job_folder(folder, method, config.seeds[0]) / "predictions.npz") as stored:
            predictions[method] = [stored[name] for name in data.test.names]
    page = report.write(
        folder / "report.html",
        results=results,
        machine=timing["machine"],
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
    data = brain.load() if config.data == "brain" else image_folder.load(config.path, config.layout)
    for name, example in zip(data.train.names, data.train.examples, strict=True):
        if min(example["label"].shape) < config.crop:
            height, width = example["label"].shape
            raise ValueError(f"--crop {config.crop}: image {name} has only {height} × {width} pixels.")
    return data


def job_folder(folder: Path, method: str, seed: int) -> Path:
    """Where one training keeps its checkpoints, predictions and figures."""
    return folder / "methods" / method / f"seed{seed}"


def _shown(path: Path) -> str:
    """The path as the reader would type it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# Training


def _train(
    config: Segmentation, data: Dataset, method: str, seed: int, place: Path, progress: Callable[[int, float], None]
) -> None:
    """Trains one network, or goes on with it, and stores its figures and predictions below `place`."""
    num_classes = len(data.classes)
    model = UNet(
        data.channels,
        num_classes,
        method,
        width=config.width,
        depth=config.depth,
        downsampling=config.downsampling,
        skips=config.skips,
        seed=seed,
    )
    structure, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    network = Network(structure)
    predict = functools.partial(_predict, jax.jit(network.labels))

    def batch_loss(params, statistics, batch):
        logits, statistics = network.train(params, statistics, batch["image"])
        return loss(logits, batch["label"], data.ignore_index), statistics

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
        validate=lambda *variables: _validation(predict(variables, data.validation), data),
        progress=progress,
    )
    predictions = predict((outcome.params, outcome.statistics), data.test)
    files.write_arrays(place / "predictions.npz", **dict(zip(data.test.names, predictions, strict=True)))
    files.write_json(
        place / "result.json",
        {
            "figures": evaluate(predictions, data.test, data),
            "parameters": _count(params),
            "upsampler_parameters": _upsampler_parameters(model),
            "operations_per_step": outcome.cost.operations,
            "temporary_bytes": outcome.cost.temporary_bytes,
            "loss": outcome.history.loss,
            "validation": outcome.history.validation,
            "timing": {
                "step_ms": 1000 * float(np.median(outcome.history.seconds or [np.nan])),
                "compile_s": outcome.cost.compile_seconds,
            },
        },
    )


class Network(NamedTuple):
    """The model's structure, for pure functions of its parameters and statistics. Logits are float32."""

    structure: nnx.GraphDef

    def train(self, params: nnx.State, statistics: nnx.State, image: jax.Array) -> tuple[jax.Array, nnx.State]:
        """Logits of a batch, normalised by its own statistics, and the averages with these taken in."""
        # Made anew, the variables belong to this trace: NNX lets a trace write its own variables only.
        statistics = jax.tree.map(lambda leaf: leaf, statistics)
        model = nnx.merge(self.structure, params, statistics)
        model.train()
        logits = model(image.astype(_dtype(params))).astype(jnp.float32)
        return logits, nnx.state(model, nnx.BatchStat)

    def labels(self, params: nnx.State, statistics: nnx.State, image: jax.Array) -> jax.Array:
        """The most likely label of every pixel, normalised by the averages."""
        model = nnx.merge(self.structure, params, statistics)
        model.eval()
        return jnp.argmax(model(image.astype(_dtype(params))), -1)


def _dtype(params: nnx.State) -> jnp.dtype:
    return jax.tree.leaves(params)[0].dtype


def loss(logits: jax.Array, label: jax.Array, ignore_index: int | None = None) -> jax.Array:
    """Cross-entropy plus soft Dice (Milletari et al. 2016, arXiv:1606.04797), the mean over classes.

    Args:
      logits: `(batch, H, W, classes)`.
      label: `(batch, H, W)`.
      ignore_index: label of pixels that do not count.

    Returns:
      A scalar. Dice takes the batch as one image, so that a class absent from one crop does not upset it.
    """
    # Pixels that do not count get a class of their own, predicted with certainty: nothing is lost there or learnt.
    classes = logits.shape[-1]
    void = jnp.zeros(label.shape, bool) if ignore_index is None else label == ignore_index
    target = jnp.where(void, classes, label)
    own = jnp.where(void, 0.0, _NEVER)[..., None]
    logits = jnp.concatenate([jnp.where(void[..., None], _NEVER, logits), own.astype(logits.dtype)], axis=-1)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    entropy = jnp.sum(entropy) / jnp.maximum(jnp.sum(~void), 1)
    dice = optax.losses.dice_loss(logits, jax.nn.one_hot(target, classes + 1), axis=(0, 1, 2), reduction="none")
    return entropy + jnp.mean(dice[..., :classes])


_NEVER = -1e9  # a logit whose softmax is exactly zero


# Evaluation

_CHUNK = 8  # images predicted and measured at a time


def _chunks(split: Split) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Places in the split, images and labels, a few of one shape at a time."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, example in enumerate(split.examples):
        by_shape.setdefault(example["label"].shape, []).append(i)
    for members in by_shape.values():
        for start in range(0, len(members), _CHUNK):
            chunk = members[start : start + _CHUNK]
            examples = [split.examples[i] for i in chunk]
            yield chunk, np.stack([e["image"] for e in examples]), np.stack([e["label"] for e in examples])


def _predict(labels: Callable[..., jax.Array], variables: tuple[Any, Any], split: Split) -> list[np.ndarray]:
    """The label map of every image of a split, as bytes."""
    predictions: dict[int, np.ndarray] = {}
    for chunk, image, _ in _chunks(split):
        maps = np.asarray(labels(*variables, image)).astype(np.uint8)
        predictions.update(zip(chunk, maps, strict=True))
    return [predictions[i] for i in range(len(split))]


def _validation(predictions: Sequence[np.ndarray], data: Dataset) -> dict[str, float]:
    figures = evaluate(predictions, data.validation, data)
    return {name: figures[name]["mean"] for name in ("mean_iou", "boundary_iou")}


def evaluate(predictions: Sequence[np.ndarray], split: Split, data: Dataset) -> dict[str, dict[str, Any]]:
    """Measures of label maps against a split, each per class and as the mean over classes.

    IoU and Boundary IoU are of the split's summed pixel counts; boundary F1, as Csurka et al. define it, is the mean
    over the images that have the class.
    """
    arguments = {"num_classes": len(data.classes), "ignore_index": data.ignore_index}
    confusion, bands, f1 = 0, 0, dict.fromkeys((1, 2), 0)
    for chunk, _, label in _chunks(split):
        pair = (np.stack([predictions[i] for i in chunk]).astype(np.int32), label)
        confusion += np.asarray(metrics.confusion_matrix(*pair, **arguments), np.int64).sum(0)
        bands += metrics.boundary_iou_sums(*pair, **arguments)
        for tolerance in f1:
            f1[tolerance] += metrics.image_mean(metrics.boundary_f1(*pair, **arguments, tolerance=tolerance))
    per_class = {"mean_iou": metrics.iou_of(confusion), "boundary_iou": bands.value()}
    per_class |= {f"boundary_f1_{tolerance}px": sums.value() for tolerance, sums in f1.items()}
    return {
        name: {
            "mean": float(np.nanmean(values)),
            "classes": dict(zip(data.classes, np.asarray(values).tolist(), strict=True)),
        }
        for name, values in per_class.items()
    }


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _upsampler_parameters(model: UNet) -> int:
    """Parameters that the upsamplers add: a kernel shared with the encoder is the encoder's."""
    own = _count(nnx.state(model, nnx.Param))
    for level in range(model.depth):
        model.upsamplers[level] = up.nn.Nearest(2)
    return own - _count(nnx.state(model, nnx.Param))


# Results

_SETTINGS = ("steps", "width", "depth", "skips", "downsampling", "batch", "crop", "learning_rate", "precision")
MEASURES = {
    "mean_iou": "mean IoU",
    "boundary_iou": "Boundary IoU",
    "boundary_f1_1px": "F1 at 1 px",
    "boundary_f1_2px": "F1 at 2 px",
}


def _collect(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes results.json, timing.json and results.csv from what the trainings stored; returns the first two.

    Times are kept apart so that two runs with the same seed give the same results.json, byte for byte.
    """
    config, data, folder = run
    known = up.nn.available()
    methods, timing = {}, {"machine": runs.machine(), "methods": {}}
    for method in config.methods:
        jobs = {seed: files.read_json(job_folder(folder, method, seed) / "result.json") for seed in config.seeds}
        timing["methods"][method] = {str(seed): job.pop("timing") for seed, job in jobs.items()}
        first = jobs[config.seeds[0]]
        methods[method] = {
            "family": known[method].family,
            "paper": known[method].paper,
            **{k: first[k] for k in ("parameters", "upsampler_parameters", "operations_per_step", "temporary_bytes")},
            "summary": {
                measure: estimate([job["figures"][measure]["mean"] for job in jobs.values()])._asdict()
                for measure in MEASURES
            },
            "seeds": {str(seed): {k: job[k] for k in ("figures", "loss", "validation")} for seed, job in jobs.items()},
        }
    results = {
        "data": {"name": data.name, "description": data.description, "classes": data.classes},
        "settings": {k: getattr(config, k) for k in _SETTINGS},
        "baseline": _baseline(data),
        "methods": methods,
    }
    files.write_json(folder / "timing.json", timing)
    files.write_json(folder / "results.json", results)
    files.write_text(folder / "results.csv", _csv(results))
    return files.read_json(folder / "results.json"), files.read_json(folder / "timing.json")


def _baseline(data: Dataset) -> dict[str, Any] | None:
    if data.baseline is None:
        return None
    predictions = [data.baseline.predict(example["image"]) for example in data.test.examples]
    return {
        "name": data.baseline.name,
        "description": data.baseline.description,
        "figures": evaluate(predictions, data.test, data),
    }


def _csv(results: Mapping[str, Any]) -> str:
    """A row per training, a column per measure and class."""
    rows = [
        ((method, seed), entry["figures"])
        for method, outcome in results["methods"].items()
        for seed, entry in outcome["seeds"].items()
    ]
    if results["baseline"]:
        rows.append(((results["baseline"]["name"], ""), results["baseline"]["figures"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [(measure, name) for measure in MEASURES for name in ("mean", *results["data"]["classes"])]
    writer.writerow(["method", "seed", *(f"{measure} {name}" for measure, name in columns)])
    for head, figures in rows:
        flat = {m: {"mean": f["mean"], **f["classes"]} for m, f in figures.items()}
        writer.writerow([*head, *(flat[measure][name] for measure, name in columns)])
    return text.getvalue()


def rows(results: Mapping[str, Any], timing: Mapping[str, Any]) -> tuple[list[dict[str, str]], dict[str, int]]:
    """The table of a run: its rows, and for each measure the row of the best method."""
    table = []
    for method, outcome in results["methods"].items():
        seconds = [job["step_ms"] for job in timing["methods"][method].values() if job["step_ms"] is not None]
        table.append(
            {"method": method}
            | {title: _figure(outcome["summary"][measure]) for measure, title in MEASURES.items()}
            | {
                "params": f"{outcome['parameters']:,}",
                "upsamplers'": f"{outcome['upsampler_parameters']:,}",
                "ms/step": f"{np.median(seconds):.0f}" if seconds else "–",
                "temporaries MB": f"{outcome['temporary_bytes'] / 1e6:.0f}",
            }
        )
    best = {
        title: int(np.argmax([outcome["summary"][measure]["mean"] for outcome in results["methods"].values()]))
        for measure, title in MEASURES.items()
    }
    if results["baseline"]:
        figures = {t: f"{results['baseline']['figures'][m]['mean']:.3f}" for m, t in MEASURES.items()}
        table.append(dict.fromkeys(table[0], "–") | {"method": results["baseline"]["name"]} | figures)
    return table, best


def _figure(summary: Mapping[str, float | None]) -> str:
    interval = "" if summary["half_width"] is None else f" ± {summary['half_width']:.3f}"
    return f"{summary['mean']:.3f}{interval}"
