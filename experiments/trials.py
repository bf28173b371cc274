"""One training, whatever the task: from its parts to the files that it leaves, and back."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from flax import nnx

import upsampling as up
from experiments import checkpoints, devices, files, methods, runs, training
from experiments.settings import Job
from experiments.statistics import Sums


class Watch(NamedTuple):
    """Who is told of a training: of each step's loss, for the eye, and of all figures, for the record."""

    progress: Callable[[int, float], None] = lambda step, loss: None
    log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None


Programs = dict[tuple[str, str, int], training.Program]
"""The compiled step of each design and method, for so many seeds at once: one serves all seeds."""


class Outcome(NamedTuple):
    """What a training found: its stored figures, each measure's sums per test image, and the predicted label maps."""

    result: Mapping[str, Any]
    sums: Mapping[str, Sums]
    predictions: Sequence[np.ndarray]


class Split(Protocol):
    """A part of a data set: what is measured one by one, and the names."""

    names: Sequence[str]

    def __len__(self) -> int: ...


class Trial(NamedTuple):
    """What a training is made of.

    Attributes:
      model: the network, or whatever the task trains, whose parameters are counted.
      params, statistics: as `training.fit` takes them.
      loss: the same.
      batches: the same.
      validate: the same.
      predict: the two trees that a training ends with to what is made of every test image: arrays of bytes.
      measure: these to each measure's sums, the curve's among them.
      variant: the named settings of the method; None for its authors' own.
      receptive_field: rows and columns of the upsampler's input that one of its output pixels depends on.
    """

    model: nnx.Module
    params: Any
    statistics: Any
    loss: training.Loss
    batches: training.Batches
    validate: Callable[[Any, Any], dict[str, float]]
    predict: Callable[[Any, Any], list[np.ndarray]]
    measure: Callable[[Sequence[np.ndarray]], dict[str, Sums]]
    variant: str | None
    receptive_field: tuple[int, int]


class Part(NamedTuple):
    """One of the trainings that are carried out together: what it is made of, whose it is, and who is told."""

    trial: Trial
    job: Job
    place: Path
    watch: Watch


def carry_out(
    parts: Sequence[Part], options: training.Options, data: Any, programs: Programs, *, checkpoint_every: float
) -> list[Outcome | training.Diverged]:
    """Trains one, or several seeds of one design and method together, or goes on with them.

    Stores each one's figures, sums and predictions in its folder. The compiled step is that of the design and method
    in `programs`, or is put there.
    """
    lanes = [
        training.Lane(t.params, t.statistics, t.batches, t.validate, *watch, folder=place)
        for t, _, place, watch in parts
    ]
    key = (parts[0].job.design, parts[0].job.method, len(parts))
    fitted = training.fit_together(
        lanes, parts[0].trial.loss, options, program=programs.get(key), checkpoint_every=checkpoint_every
    )
    for found in fitted:
        if isinstance(found, training.Fit):
            programs[key] = found.program
    return [
        found if isinstance(found, training.Diverged) else _concluded(part, found, options, data)
        for part, found in zip(parts, fitted, strict=True)
    ]


def _concluded(part: Part, fitted: training.Fit, options: training.Options, data: Any) -> Outcome:
    trial, job, place, _ = part
    place.mkdir(parents=True, exist_ok=True)
    predictions = trial.predict(fitted.params, fitted.statistics)
    sums = trial.measure(predictions)
    # Numbered, since images differ in size and a name may be anything.
    numbered = {f"label{i}": prediction for i, prediction in enumerate(predictions)}
    files.write_arrays(place / "predictions.npz", names=np.array(data.test.names), **numbered)
    parts = {f"{name}/{k}": part for name, of in sums.items() for k, part in enumerate((of.numerator, of.denominator))}
    files.write_arrays(place / "sums.npz", **parts)
    result = files.write_sealed(
        place / "result.json",
        {
            "variant": trial.variant,
            "learning_rate": options.learning_rate,
            "receptive_field": trial.receptive_field,
            "figures": figures(sums, data.classes),
            "curve": curve(sums),
            "parameters": count(nnx.state(trial.model, nnx.Param)),
            "upsampler_parameters": upsampler_parameters(trial.model, job.method),
            "operations_per_step": fitted.cost.operations,
            "temporary_bytes": fitted.cost.temporary_bytes,
            "loss": fitted.history.loss,
            "validation": fitted.history.validation,
            "timing": {
                "step_ms": 1000 * float(np.median(fitted.history.seconds or [np.nan])),
                "compile_s": fitted.cost.compile_seconds,
                "machine": runs.machine(),
            },
        },
    )
    return Outcome(result, sums, predictions)


# --- prediction and figures -------------------------------------------------------------------------------------------

CHUNK = 8  # images predicted and measured at a time


def by_shape(shapes: Iterable[tuple[int, ...]]) -> Iterator[list[int]]:
    """The places of images of one shape, a few at a time, for images of these shapes.

    >>> list(by_shape([(4, 4), (2, 2), (4, 4)]))
    [[0, 2], [1]]
    """
    found: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(shapes):
        found.setdefault(shape, []).append(i)
    for members in found.values():
        yield from (members[start : start + CHUNK] for start in range(0, len(members), CHUNK))


class Chunk(NamedTuple):
    """Images of one shape: their places in the split, what the network takes, and their label maps or other truth."""

    places: list[int]
    inputs: tuple[np.ndarray | jax.Array, ...]
    label: np.ndarray


def predict(labels: Callable[..., jax.Array], variables: tuple[Any, Any], parts: Sequence[Chunk]) -> list[np.ndarray]:
    """What a network makes of every image, as bytes: its label map. Cut to the size of the truth."""
    predictions: dict[int, np.ndarray] = {}
    found = devices.in_turn(
        len(parts),
        lambda i: devices.over_rows(labels, variables, parts[i].inputs),
        lambda i: jax.eval_shape(labels, *variables, *parts[i].inputs),
    )
    for (places, _, label), of in zip(parts, found, strict=True):
        maps = np.asarray(of).astype(np.uint8)
        predictions.update(zip(places, maps[:, : label.shape[1], : label.shape[2]], strict=True))
    return [predictions[i] for i in range(len(predictions))]


CURVE = "curve"  # the name of the curve's sums


def figures(sums: Mapping[str, Sums], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Each measure of a data set: per class, where it has classes, and as the mean over those present."""
    result = {}
    for name in sums:
        if name != CURVE:
            values = _ratio(sums[name])
            named = dict(zip(classes, values.tolist(), strict=True)) if values.size == len(classes) else {}
            known = values[~np.isnan(values)]
            result[name] = {"mean": float(known.mean()) if known.size else float("nan"), "classes": named}
    return result


def curve(sums: Mapping[str, Sums]) -> list[float]:
    """The curve that is measured beside the measures: one value per bin."""
    return _ratio(sums[CURVE]).tolist()


def _ratio(sums: Sums) -> np.ndarray:
    """One value per class of a single training, NaN where nothing was there to measure."""
    top, bottom = (part.sum((0, 1)) for part in (sums.numerator, sums.denominator))
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), np.nan)


def is_done(place: Path) -> bool:
    """Whether a job's folder holds all that a finished training leaves; its result is written last."""
    return (place / "result.json").exists()


def stored(place: Path, test: Split) -> Outcome:
    """What a finished training left in its folder.

    Raises:
      checkpoints.Damaged: a file of it cannot be trusted.
    """
    with _trusted(place / "sums.npz") as path, np.load(path) as found:
        names = dict.fromkeys(key.rpartition("/")[0] for key in found)
        sums = {name: Sums(found[f"{name}/0"], found[f"{name}/1"]) for name in names}
    with _trusted(place / "predictions.npz") as path, np.load(path) as found:
        if found["names"].tolist() != list(test.names):
            raise ValueError("it is of other images")
        predictions = [found[f"label{i}"] for i in range(len(test))]
    with _trusted(place / "result.json") as path:
        result = files.read_sealed(path)
    return Outcome(result, sums, predictions)


def examine(place: Path, test: Split, *, together: bool = False) -> None:
    """Raises `checkpoints.Damaged` if what is in a training's folder cannot be trusted.

    A checkpoint of several trainings `together` matters even where the one that holds it is done.
    """
    if is_done(place):
        stored(place, test)
    if (place / training.CHECKPOINT).exists() and (together or not is_done(place)):
        checkpoints.examine(place / training.CHECKPOINT)
    training.divergence(place)


@contextlib.contextmanager
def _trusted(path: Path) -> Iterator[Path]:
    try:
        yield path
    except checkpoints.FAULTS as error:
        raise checkpoints.Damaged(f"{path}: damaged ({error}).") from error


def count(params: Any) -> int:
    """How many numbers a state holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def upsampler_parameters(model: nnx.Module, method: str) -> int:
    """Parameters that the upsamplers add: a kernel shared with the encoder is the encoder's."""
    found = methods.find(method)
    own = (up.nn.Upsampler, found.build) if isinstance(found.build, type) else up.nn.Upsampler
    layers = [module for _, module in nnx.iter_modules(model) if isinstance(module, own)]
    # A layer may be made of layers.
    inner = {id(part) for layer in layers for _, part in nnx.iter_modules(layer) if part is not layer}
    layers = [layer for layer in layers if id(layer) not in inner]
    added = sum(count(nnx.state(layer, nnx.Param)) for layer in layers)
    if found.ties_encoder:
        added -= sum(layer.kernel[...].size for layer in layers if isinstance(layer.kernel, nnx.Param))
    return added
