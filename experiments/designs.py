"""Segmentation's designs that train: what the trainings of one design and seed share, and one training."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import devices, methods, settings, tasks, training, trials
from experiments.data import Dataset, Split, loader
from experiments.models import MODELS, blocks
from experiments.models.blocks import extend_to_multiple
from experiments.models.stride import CoarseClassifier, Frozen, Head, StrideNet, Trunk
from experiments.settings import Job, Segmentation, kind
from experiments.tasks import segmentation as task
from experiments.trials import Programs, Trial, Watch

Network = Callable[..., nnx.Module]
"""Called as `network(channels, num_classes, method, seed=0)`: a module that maps images `(batch, H, W, channels)` of
any size to logits `(batch, H, W, num_classes)`, and steps up by `upsampling.nn.create(method, ...)`."""


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
        program=programs.get((job.design, "trunk", 1)),
    )
    programs[job.design, "trunk", 1] = outcome.program
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


def trial(
    job: Job,
    rate: float,
    config: Segmentation,
    data: Dataset,
    shared: Stage,
) -> tuple[Trial, training.Options]:
    """What one training of a network is made of, and its options."""
    model = shared.model(job.method)
    structure, params, rest = nnx.split(model, nnx.Param, ...)
    network, names = task.Network(structure), shared.inputs(job.method)
    labels = jax.jit(network.labels)

    def predict(variables: tuple, split: Split) -> list[np.ndarray]:
        return trials.predict(
            labels, variables, [c._replace(inputs=c.inputs[: len(names)]) for c in shared.chunks(split)]
        )

    def loss(params, rest, batch):
        logits, rest = network.train(params, rest, *(batch[name] for name in names))
        return task.loss(logits, batch["label"], data.ignore_index), rest

    made_of = Trial(
        model,
        params,
        rest,
        loss,
        shared.batches(job.method),
        validate=lambda *variables: task.validate(predict(variables, data.validation), data),
        predict=lambda *variables: predict(variables, data.test),
        measure=lambda predictions: task.measure(predictions, data.test, data),
        variant=methods.variant_of(job.method, config.variants),
        receptive_field=receptive_field(job, config),
    )
    options = _options(config, shared.steps, rate, shared.validations)
    return made_of, options


def _options(config: Segmentation, steps: int, rate: float, validations: int) -> training.Options:
    return training.Options(
        steps=steps,
        learning_rate=rate,
        weight_decay=config.weight_decay,
        precision=config.precision,
        validations=validations,
    )


def receptive_field(job: Job, config: Segmentation) -> tuple[int, int]:
    """Rows and columns of the upsampler's input that one of its output pixels depends on."""
    unet = job.design == "unet"
    features, scale = (config.width, 2) if unet else (config.features, config.stride_of(job.design))
    return blocks.receptive_field(job.method, methods.variant_of(job.method, config.variants), features, scale)


# --- for the engine ---------------------------------------------------------------------------------------------------


def check_crop(config: Any, data: Dataset) -> None:
    """Raises ValueError for crops that are larger than a training image."""
    for name, example in zip(data.train.names, data.train.examples, strict=True):
        if min(example["label"].shape) < config.crop:
            height, width = example["label"].shape
            raise ValueError(f"--crop {config.crop}: image {name} has only {height} × {width} pixels.")


TASK = tasks.Task(
    name="segmentation",
    settings=Segmentation,
    resolve=settings.resolve,
    check=check_crop,
    has_trunk=lambda config, job: kind(job.design) == "frozen",
    measures=task.MEASURES,
    primary=task.PRIMARY,
    followed=(task.PRIMARY, "mean_iou"),
    bins=task.DISTANCES,
    stage=stage,
    trial=trial,
    words=task.WORDS,
)
