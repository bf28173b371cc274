"""The designs that train: what the trainings of one design and seed share, and one training."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import upsampling as up
from experiments import checkpoints, devices, files, methods, runs, training
from experiments.data import Dataset, Split, loader
from experiments.models import MODELS, blocks
from experiments.models.blocks import extend_to_multiple
from experiments.models.stride import CoarseClassifier, Frozen, Head, StrideNet, Trunk
from experiments.settings import Job, Segmentation, kind
from experiments.statistics import Sums
from experiments.tasks import segmentation as task


class Watch(NamedTuple):
    """Who is told of a training: of each step's loss, for the eye, and of all figures, for the record."""

    progress: Callable[[int, float], None] = lambda step, loss: None
    log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None


Network = Callable[..., nnx.Module]
"""Called as `network(channels, num_classes, method, seed=0)`: a module that maps images `(batch, H, W, channels)` of
any size to logits `(batch, H, W, num_classes)`, and steps up by `upsampling.nn.create(method, ...)`."""

Programs = dict[tuple[str, str], training.Program]
"""The compiled step of each design and method: one serves all seeds."""


class Stage(NamedTuple):
    """What all trainings of one design and seed share.

    Attributes:
      steps: of each training.
      validations: how often each training validates.
      model: a method's name to a fresh network.
      batches: a method's name to fresh batches, the same for every method but for what its network does not take.
      inputs: a method's name to the names of what its network takes from a batch.
      chunks: a split to what the network takes of its images.
    """

    steps: int
    validations: int
    model: Callable[[str], nnx.Module]
    batches: Callable[[str], training.Batches]
    inputs: Callable[[str], tuple[str, ...]]
    chunks: Callable[[Split], Sequence[task.Chunk]]


class Outcome(NamedTuple):
    """What a training found: its stored figures, each measure's sums per test image, and the predicted label maps."""

    result: Mapping[str, Any]
    sums: Mapping[str, Sums]
    predictions: Sequence[np.ndarray]


# --- stages -----------------------------------------------------------------------------------------------------------


def stage(
    job: Job,
    config: Segmentation,
    data: Dataset,
    place: Path,
    programs: Programs,
    watch: Watch,
    network: Network | None = None,
) -> Stage:
    """The stage of a job. For the design frozen it trains the seed's trunk, or takes the one that is stored.

    `network` makes a user's own network in place of that of the design unet.
    """
    if kind(job.design) == "frozen":
        return _frozen(job, config, data, place, programs, watch)
    build: Callable = {"head": _stride_net, "unet": _unet}[job.design]
    if job.design == "unet" and network is not None:
        build = functools.partial(_own, network)
    return Stage(
        steps=config.steps,
        validations=5,
        model=functools.partial(build, config, data, job.seed),
        batches=lambda method: _crops(config, data, job.seed),
        inputs=lambda method: ("image",),
        chunks=lambda split: list(task.chunks(split)),
    )


def _crops(config: Segmentation, data: Dataset, seed: int) -> training.Batches:
    return loader.batches(data, size=config.batch, crop=(config.crop, config.crop), seed=seed, part=devices.part())


def _own(network: Network, config: Segmentation, data: Dataset, seed: int, method: str) -> nnx.Module:
    return network(data.channels, len(data.classes), method, seed=seed)


def _unet(config: Segmentation, data: Dataset, seed: int, method: str) -> nnx.Module:
    options = {"decoder": config.decoder} if config.model == "unet" else {}
    return MODELS[config.model](
        data.channels,
        len(data.classes),
        method,
        width=config.width,
        depth=config.depth,
        downsampling=config.downsampling,
        skips=config.skips,
        attention_gate=config.attention_gate,
        variants=config.variants,
        seed=seed,
        **options,
    )


def _head(config: Segmentation, data: Dataset, job: Job, kernel: nnx.Variable) -> Head:
    return Head(
        config.features,
        len(data.classes),
        job.method,
        config.stride_of(job.design),
        kernel=kernel,
        variants=config.variants,
        seed=job.seed,
    )


def _stride_net(config: Segmentation, data: Dataset, seed: int, method: str) -> StrideNet:
    stride = config.stride_of("head")
    trunk = Trunk(data.channels, config.features, stride, seed=seed)
    return StrideNet(trunk, _head(config, data, Job("head", method, seed), trunk.down.kernel), stride)


def _frozen(job: Job, config: Segmentation, data: Dataset, place: Path, programs: Programs, watch: Watch) -> Stage:
    seed, stride = job.seed, config.stride_of(job.design)
    trunk = trained_trunk(job, config, data, place, programs, watch)
    structure, variables = nnx.split(trunk)

    @jax.jit
    def compute(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        return nnx.merge(structure, variables)(extend_to_multiple(image, stride))

    @functools.cache
    def chunks(part: str) -> list[task.Chunk]:
        """Computed once for all methods; a split can be no key."""
        return [c._replace(inputs=compute(*c.inputs)) for c in task.chunks(getattr(data, part))]

    def inputs(method: str) -> tuple[str, ...]:
        return ("features", "guide") if methods.find(method).uses_guide else ("features",)

    parts = {id(getattr(data, part)): part for part in ("train", "validation", "test")}
    crops = _stored_features(config, data, seed, compute)
    kernel = np.asarray(trunk.down.kernel[...])
    return Stage(
        steps=config.head_steps,
        validations=2,
        model=lambda method: _head(config, data, job._replace(method=method), Frozen(jnp.asarray(kernel))),
        batches=lambda method: loader.StoredBatches(
            {name: crops[name] for name in (*inputs(method), "label")},
            size=config.batch,
            seed=seed,
            part=devices.part(),
        ),
        inputs=inputs,
        chunks=lambda split: chunks(parts[id(split)]),
    )


def trained_trunk(
    job: Job, config: Segmentation, data: Dataset, place: Path, programs: Programs, watch: Watch
) -> Trunk:
    """The seed's trunk, trained on labels averaged to the stride, which favor no upsampler; ready for evaluation."""
    seed, stride = job.seed, config.stride_of(job.design)
    trunk = Trunk(data.channels, config.features, stride, seed=seed)
    model = CoarseClassifier(trunk, config.features, len(data.classes), seed=seed)
    structure, params, rest = nnx.split(model, nnx.Param, ...)
    network = task.Network(structure)
    validation_loss = jax.jit(
        lambda variables, image, label: task.coarse_loss(network.apply(*variables, image), label, data.ignore_index)
    )

    def loss(params, rest, batch):
        logits, rest = network.train(params, rest, batch["image"])
        return task.coarse_loss(logits, batch["label"], data.ignore_index), rest

    def validate(*variables: Any) -> dict[str, float]:
        images = [(c.inputs[0], c.label) for c in task.chunks(data.validation)]
        losses = [validation_loss(variables, *(_extended(a, stride) for a in pair)) for pair in images]
        return {"loss": float(np.mean(losses))}

    outcome = training.fit(
        params,
        rest,
        loss,
        _crops(config, data, seed),
        # A trunk serves all methods: it takes the first of the learning rates.
        _options(config, config.trunk_steps, config.learning_rate[0], validations=2),
        folder=trunk_folder(place, config, job),
        validate=validate,
        **watch._asdict(),
        checkpoint_every=config.checkpoint_every,
        program=programs.get((job.design, "trunk")),
    )
    programs[job.design, "trunk"] = outcome.program
    model = nnx.merge(structure, outcome.params, outcome.statistics)
    model.eval()
    return model.trunk


def trunk_folder(place: Path, config: Segmentation, job: Job) -> Path:
    """Where a run keeps the trunk of a job's seed and stride."""
    return place / "trunks" / f"stride{config.stride_of(job.design)}" / f"seed{job.seed}"


def _extended(array: np.ndarray, stride: int) -> jax.Array:
    """Images `(batch, H, W, channels)` or labels `(batch, H, W)` to multiples of the stride."""
    image = jnp.asarray(array)
    return (
        extend_to_multiple(image, stride) if array.ndim == 4 else extend_to_multiple(image[..., None], stride)[..., 0]
    )


def _stored_features(
    config: Segmentation, data: Dataset, seed: int, compute: Callable[[jax.Array], tuple]
) -> dict[str, np.ndarray]:
    """Features, guides and labels of augmented training crops: other ones than the trunk was trained on."""
    batches = loader.batches(data, size=config.batch, crop=(config.crop, config.crop), seed=seed + 2**20)
    found: dict[str, list] = {"features": [], "guide": [], "label": []}
    for _ in range(-(-config.crops // config.batch)):
        batch = next(batches)
        features, guide = compute(batch["image"])
        for name, array in (("features", features), ("guide", guide), ("label", batch["label"])):
            found[name].append(np.asarray(array))
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


# --- one training -----------------------------------------------------------------------------------------------------


def train(
    job: Job,
    rate: float,
    config: Segmentation,
    data: Dataset,
    shared: Stage,
    place: Path,
    programs: Programs,
    watch: Watch,
) -> Outcome:
    """Trains one network, or goes on with it; stores its figures, sums and predictions in the folder `place`."""
    model = shared.model(job.method)
    structure, params, rest = nnx.split(model, nnx.Param, ...)
    network, names = task.Network(structure), shared.inputs(job.method)
    labels = jax.jit(network.labels)

    def predict(variables: tuple, split: Split) -> list[np.ndarray]:
        return task.predict(
            labels, variables, [c._replace(inputs=c.inputs[: len(names)]) for c in shared.chunks(split)]
        )

    def loss(params, rest, batch):
        logits, rest = network.train(params, rest, *(batch[name] for name in names))
        return task.loss(logits, batch["label"], data.ignore_index), rest

    fitted = training.fit(
        params,
        rest,
        loss,
        shared.batches(job.method),
        _options(config, shared.steps, rate, shared.validations),
        folder=place,
        validate=lambda *variables: task.validate(predict(variables, data.validation), data),
        **watch._asdict(),
        checkpoint_every=config.checkpoint_every,
        program=programs.get((job.design, job.method)),
    )
    programs[job.design, job.method] = fitted.program
    predictions = predict((fitted.params, fitted.statistics), data.test)
    return _store(place, data, job, rate, model, fitted, predictions, config)


def _options(config: Segmentation, steps: int, rate: float, validations: int) -> training.Options:
    return training.Options(
        steps=steps,
        learning_rate=rate,
        weight_decay=config.weight_decay,
        precision=config.precision,
        validations=validations,
    )


def _store(
    place: Path,
    data: Dataset,
    job: Job,
    rate: float,
    model: nnx.Module,
    fitted: training.Fit,
    predictions: list[np.ndarray],
    config: Segmentation,
) -> Outcome:
    sums = task.measure(predictions, data.test, data)
    # Numbered, since images differ in size and a name may be anything.
    numbered = {f"label{i}": prediction for i, prediction in enumerate(predictions)}
    files.write_arrays(place / "predictions.npz", names=np.array(data.test.names), **numbered)
    parts = {f"{name}/{k}": part for name, of in sums.items() for k, part in enumerate((of.numerator, of.denominator))}
    files.write_arrays(place / "sums.npz", **parts)
    result = files.write_sealed(
        place / "result.json",
        {
            "variant": methods.variant_of(job.method, config.variants),
            "learning_rate": rate,
            "receptive_field": receptive_field(job, config),
            "figures": task.figures(sums, data.classes),
            "curve": task.curve(sums),
            "parameters": count(nnx.state(model, nnx.Param)),
            "upsampler_parameters": upsampler_parameters(model, job.method),
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


def examine(place: Path, test: Split) -> None:
    """Raises `checkpoints.Damaged` if what is in a training's folder cannot be trusted."""
    if is_done(place):
        stored(place, test)
    elif (place / training.CHECKPOINT).exists():
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


def receptive_field(job: Job, config: Segmentation) -> tuple[int, int]:
    """Rows and columns of the upsampler's input that one of its output pixels depends on."""
    unet = job.design == "unet"
    features, scale = (config.width, 2) if unet else (config.features, config.stride_of(job.design))
    return blocks.receptive_field(job.method, methods.variant_of(job.method, config.variants), features, scale)
