"""Features of a backbone made as fine as the image, by upsamplers that are trained without labels, and a linear probe.

A backbone gives features at a stride s. An upsampler by s is trained on the backbone's own features at two resolutions:
from those of a reduced image it is to make those of the image. Then it brings features to the image's resolution, where
a linear classifier of every pixel, trained on labels, tells what they hold.
"""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
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
from experiments import comparison, designs, devices, methods, tasks, training, trials
from experiments.comparison import Comparison
from experiments.data import Dataset, Split, loader
from experiments.data.source import Source
from experiments.models import blocks
from experiments.models.blocks import extend_to_multiple
from experiments.models.stride import Trunk
from experiments.settings import Job
from experiments.tasks import segmentation
from experiments.trials import Chunk, Programs, Trial, Watch

Objective = Literal["untrained", "jafar", "anyup"]
Backbone = Callable[[jax.Array], jax.Array]
"""A function of images `(batch, H, W, channels)` in [0, 1] to features `(batch, H / s, W / s, features)`."""

# Linear probes of DINOv2-S/14 features, mean IoU on COCO-Stuff, Pascal VOC, ADE20K and Cityscapes, as JAFAR's authors
# publish them (Couairon et al. 2025, arXiv:2506.11136).
PUBLISHED = {
    "bilinear": (59.03, 80.70, 39.23, 59.37),
    "featup": (60.10, 81.08, 38.82, 56.06),
    "lift": (58.18, 78.06, 38.73, 58.75),
    "jafar": (60.78, 84.44, 40.49, 61.47),
}
_CONSISTENCY = 0.1  # weight of AnyUp's two regularizers


# --- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features(Comparison, Source):
    """Train upsamplers of a backbone's features without labels, and probe what they made with a linear classifier.

    The default takes some minutes on two cores.
    """

    backbone: str = "trunk"
    """trunk: a small network at --stride, trained for each seed on labels averaged over its cells. random: the same
    untrained. Or your own function of images (batch, H, W, channels) to features (batch, H/s, W/s, features), as
    package.module:function."""
    objective: tuple[Objective, ...] = ("untrained", "jafar")
    """untrained: upsamplers as they are made. jafar: from features of the reduced image those of the image (Couairon et
    al. 2025). anyup: those of a crop of it, and two regularizers (Wimmer et al. 2025)."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = (
        "bilinear",
        "joint_bilateral",
        "guided_filter",
        "jbu",
        "jafar",
        "anyup",
    )
    """Upsampling methods to compare: names of the library, your own as package.module:Class, or all."""
    variants: tuple[str, ...] = ("small",)
    """Named settings that methods take where they have them, before their authors' own."""
    stride: int = 4
    """The backbone's stride, which is the upsampler's factor."""
    trunk_steps: int = 400
    """Training steps of each trunk."""
    steps: int = 200
    """Training steps of each upsampler."""
    probe_steps: int = 300
    """Training steps of each linear probe."""
    crops: int = 128
    """Training crops whose features the backbone computes once, for upsamplers and probes."""
    crop: int = 96
    """Side of the square training crops, in pixels."""
    batch: int = 8
    """Crops per step."""
    learning_rate: Annotated[tuple[float, ...], tyro.conf.arg(metavar="X")] = (4e-3,)
    """Highest learning rate of upsamplers, and of trunks, which take the first. Of several, each method takes its own:
    the best on validation, mean over the first two seeds."""
    probe_learning_rate: float = 3e-2
    """Highest learning rate of linear probes."""

    def trained(self) -> list[str]:
        """The designs: how upsamplers are trained."""
        return list(self.objective)

    def stride_of(self, design: str) -> int:
        """The backbone's stride."""
        return self.stride

    def load(self) -> Dataset:
        """The data; raises ValueError or OSError as `Source.load` does."""
        return Source.load(self)


def resolve(config: Features) -> Features:
    """The settings checked; raises ValueError."""
    config.check_source()
    if config.methods == ("all",):
        chosen = tuple(name for name, method in up.nn.available().items() if not _needs_encoder(method))
        config = dataclasses.replace(config, methods=chosen)
    config = config.resolved()
    for name in config.methods:
        if _needs_encoder(methods.find(name)):
            raise ValueError(f"--methods {name}: needs the network's own way down, which a backbone does not tell.")
    for name in ("stride", "trunk_steps", "probe_steps"):
        config.at_least(name, 2 if name == "stride" else 1)
    config.at_least("crops", config.batch)
    twice = 2 * config.stride**2
    if config.crop % twice or config.crop < twice:
        raise ValueError(
            f"--crop {config.crop}: must be a multiple of {twice}, so that the features of a reduced crop, and of half "
            f"a crop, are whole cells of stride {config.stride}."
        )
    if not config.probe_learning_rate > 0:
        raise ValueError(f"--probe-learning-rate {config.probe_learning_rate:g}: must be above 0.")
    if config.backbone not in ("trunk", "random"):
        own_backbone(config.backbone)
    return config


def _needs_encoder(method: up.nn.Method) -> bool:
    return method.ties_encoder or method.needs_pooling


def own_backbone(name: str) -> Backbone:
    """The user's function `package.module:function`; raises ValueError if there is none."""
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(f"--backbone {name}: must be trunk, random, or your own function as package.module:function.")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--backbone {name}: {error}") from error
    if not callable(found):
        raise ValueError(f"--backbone {name}: {function} is no function.")
    return found


# --- networks ---------------------------------------------------------------------------------------------------------


class FeatureUpsampler(nnx.Module):
    """An upsampling method for features that has the image, of `channels` channels, as guide."""

    def __init__(self, method: str, features: int, channels: int, scale: int, variants: tuple[str, ...], seed: int):
        found = methods.find(method)
        guided = found.uses_guide and "guide_features" in inspect.signature(found.build).parameters
        options = {"guide_features": channels} if guided else {}
        variant = methods.variant_of(method, variants)
        rngs = blocks.random_streams(seed)[1]
        self.upsampler = found.create(features, scale, variant=variant, rngs=rngs, **options)

    def __call__(self, x: jax.Array, image: jax.Array) -> jax.Array:
        return self.upsampler(x, image)


# --- objectives -------------------------------------------------------------------------------------------------------


def cosine_mse(made: jax.Array, target: jax.Array) -> jax.Array:
    """One less the cosine, and the mean squared error once the target's channels run from 0 to 1; the mean over pixels.

    Shapes: `(batch, h, w, features)` both, to a scalar.

    Source: Couairon et al. 2025 (JAFAR), and Wimmer et al. 2025 (AnyUp), which takes it from there.
    """
    made, target = made.astype(jnp.float32), target.astype(jnp.float32)
    lengths = jnp.sqrt(jnp.sum(made**2, -1) * jnp.sum(target**2, -1) + 1e-12)
    cosine = jnp.sum(made * target, -1) / lengths
    low, high = (reduce(target, -1, keepdims=True) for reduce in (jnp.min, jnp.max))
    error = (made - target) / (high - low + 1e-6)
    return jnp.mean(1 - cosine) + jnp.mean(error**2)


def views(image: jax.Array, backbone: Backbone, stride: int) -> dict[str, jax.Array]:
    """What the objectives compare: features of the reduced image, those of the image, and the guide at their size."""
    size = tuple(n // stride for n in image.shape[-3:-1])
    guide = up.bilinear(image, size, antialias=True)
    return {"low": backbone(guide), "high": backbone(image), "guide": guide}


def crop_views(image: jax.Array, backbone: Backbone, stride: int, key: jax.Array) -> dict[str, jax.Array]:
    """The same with the features of a crop of half the side, where it is in cells, and a guide of other colors."""
    batch, height, width, _ = image.shape
    where, gain, shift, noise = jax.random.split(key, 4)
    places = jax.random.randint(where, (batch, 2), 0, height // (2 * stride) + 1)
    cut = lambda of, place: jax.lax.dynamic_slice(  # noqa: E731
        of, (*(place * stride), 0), (height // 2, width // 2, of.shape[-1])
    )
    found = views(image, backbone, stride)
    guide = found["guide"]
    changed = guide * jax.random.uniform(gain, (batch, 1, 1, 1), minval=0.8, maxval=1.2)
    changed += jax.random.uniform(shift, (batch, 1, 1, 1), minval=-0.1, maxval=0.1)
    changed += 0.03 * jax.random.normal(noise, guide.shape)
    return {
        **found,
        "high": backbone(jax.vmap(cut)(image, places)),
        "place": places,
        "changed": jnp.clip(changed, 0, 1),
    }


Upsample = Callable[[jax.Array, jax.Array], jax.Array]


def jafar_loss(upsample: Upsample, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The upsampled features of the reduced image against those of the image."""
    return cosine_mse(upsample(batch["low"], batch["guide"]), batch["high"])


def anyup_loss(upsample: Upsample, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Those within a crop against the features of the crop; the same whatever the guide's colors; true to the input."""
    made, target = upsample(batch["low"], batch["guide"]), batch["high"]
    size = target.shape[1:]
    within = jax.vmap(lambda of, place: jax.lax.dynamic_slice(of, (*place, 0), size))(made, batch["place"])
    other = upsample(batch["low"], batch["changed"])
    steady = cosine_mse(other, jax.lax.stop_gradient(made))
    true = cosine_mse(up.area(made, batch["low"].shape[1:3]), batch["low"])
    return cosine_mse(within, target) + _CONSISTENCY * (steady + true)


_LOSSES = {"untrained": jafar_loss, "jafar": jafar_loss, "anyup": anyup_loss}


# --- the linear probe -------------------------------------------------------------------------------------------------


class Probe(NamedTuple):
    """A linear classifier of every pixel's features."""

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, features: jax.Array) -> jax.Array:
        return features @ self.kernel + self.bias


@functools.partial(jax.jit, static_argnames=("classes", "ignore_index", "steps", "batch", "rate"))
def train_probe(
    features: jax.Array,
    label: jax.Array,
    seed: int | jax.Array,
    *,
    classes: int,
    ignore_index: int | None,
    steps: int,
    batch: int,
    rate: float,
) -> Probe:
    """Trains a probe on `(count, H, W, features)` and labels `(count, H, W)` by cross-entropy; all in one program.

    Features are scaled to a deviation of one over all, so that a rate means the same for all of them.
    """
    spread = jnp.std(features.astype(jnp.float32)) + 1e-6
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    first = Probe(jnp.zeros((features.shape[-1], classes)), jnp.zeros(classes))

    def loss(probe: Probe, chosen: jax.Array) -> jax.Array:
        x, y = features[chosen].astype(jnp.float32) / spread, label[chosen]
        counts = jnp.ones(y.shape) if ignore_index is None else (y != ignore_index).astype(jnp.float32)
        entropy = optax.softmax_cross_entropy(probe(x), jax.nn.one_hot(y, classes))
        return jnp.sum(entropy * counts) / jnp.maximum(counts.sum(), 1)

    def step(state: tuple[Probe, Any], key: jax.Array) -> tuple[tuple[Probe, Any], None]:
        probe, memory = state
        chosen = jax.random.choice(key, len(features), (batch,), replace=False)
        updates, memory = optimizer.update(jax.grad(loss)(probe, chosen), memory, probe)
        return (optax.apply_updates(probe, updates), memory), None

    (probe, _), _ = jax.lax.scan(step, (first, optimizer.init(first)), jax.random.split(jax.random.key(seed), steps))
    return Probe(probe.kernel / spread, probe.bias)


# --- trainings --------------------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """What all trainings of one objective and seed share.

    Attributes:
      steps: of each upsampler's training.
      views: what upsamplers are trained on, by name.
      features, image, label: of the crops that probes are trained on.
      chunks: a part of the data to images with their features.
    """

    steps: int
    views: Mapping[str, np.ndarray]
    features: np.ndarray
    image: np.ndarray
    label: np.ndarray
    chunks: Callable[[str], Sequence[Chunk]]


def stage(
    job: Job,
    config: Features,
    data: Dataset,
    place: Path,
    programs: Programs,
    watch: Watch,
    network: Any = None,
) -> Stage:
    """The backbone's features of crops and images; a trunk is trained first, or taken as it is stored."""
    backbone = _backbone(job, config, data, place, programs, watch)
    batches = loader.batches(data, size=config.batch, crop=(config.crop, config.crop), seed=job.seed + 2**20)
    found: dict[str, list[np.ndarray]] = {}
    compute = jax.jit(functools.partial(_views_of, backbone, config.stride, job.design))
    for i in range(-(-config.crops // config.batch)):
        batch = next(batches)
        made = compute(batch["image"], jax.random.key(job.seed * 2**16 + i))
        for name, array in {**made, "image": batch["image"], "label": batch["label"]}.items():
            found.setdefault(name, []).append(np.asarray(array))
    whole = {name: np.concatenate(arrays) for name, arrays in found.items()}
    image, label, features = (whole.pop(name) for name in ("image", "label", "features"))

    @functools.cache
    def chunks(part: str) -> list[Chunk]:
        split: Split = getattr(data, part)
        whole = [(c, extend_to_multiple(jnp.asarray(c.inputs[0]), config.stride)) for c in segmentation.chunks(split)]
        return [c._replace(inputs=(backbone(image), image)) for c, image in whole]

    return Stage(config.steps, whole, features, image, label, chunks)


def _views_of(backbone: Backbone, stride: int, objective: str, image: jax.Array, key: jax.Array) -> dict:
    made = crop_views(image, backbone, stride, key) if objective == "anyup" else views(image, backbone, stride)
    return {**made, "features": backbone(image) if objective == "anyup" else made["high"]}


def _backbone(job: Job, config: Features, data: Dataset, place: Path, programs: Programs, watch: Watch) -> Backbone:
    """The features' function, checked on a crop.

    Raises:
      ValueError: an own function's result is not what it must be.
    """
    if config.backbone in ("trunk", "random"):
        if config.backbone == "trunk":
            trunk = designs.trained_trunk(job, config, data, place, programs, watch)
        else:
            trunk = Trunk(data.channels, config.features, config.stride, seed=job.seed)
            trunk.eval()
        structure, variables = nnx.split(trunk)
        return jax.jit(lambda image: nnx.merge(structure, variables)(image)[0])
    own = own_backbone(config.backbone)
    image = np.zeros((1, config.crop, config.crop, data.channels), np.float32)
    shape = np.shape(own(jnp.asarray(image)))
    if len(shape) != 4 or shape[:3] != (1, *(config.crop // config.stride,) * 2):
        raise ValueError(
            f"--backbone {config.backbone}: gave {shape} for images {image.shape}; with --stride {config.stride} it "
            f"must give (1, {config.crop // config.stride}, {config.crop // config.stride}, features)."
        )
    return own


def trial(
    job: Job,
    rate: float,
    config: Features,
    data: Dataset,
    shared: Stage,
) -> tuple[Trial, training.Options]:
    """What one training without labels, and then of a probe, is made of, and its options."""
    features = shared.features.shape[-1]
    model = FeatureUpsampler(job.method, features, data.channels, config.stride, config.variants, job.seed)
    structure, params, rest = nnx.split(model, nnx.Param, ...)
    objective, learns = _LOSSES[job.design], bool(jax.tree.leaves(params)) and job.design != "untrained"

    def of_batch(params: Any, rest: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, Any]:
        # Made anew, the variables belong to this trace: NNX lets a trace write its own variables only.
        trained = nnx.merge(structure, params, jax.tree.map(lambda leaf: leaf, rest))
        trained.train()
        # Of parameters there may be none.
        value = objective(trained, training.cast(batch, config.precision))
        return value, nnx.split(trained, nnx.Param, ...)[2] if learns else rest

    @jax.jit
    def upsample(params: Any, rest: Any, x: jax.Array, image: jax.Array) -> jax.Array:
        ready = nnx.merge(structure, params, rest)
        ready.eval()
        return ready(x, image)

    @jax.jit
    def labels(params: Any, rest: Any, probe: Probe, x: jax.Array, image: jax.Array) -> jax.Array:
        return jnp.argmax(probe(upsample(params, rest, x, image).astype(jnp.float32)), -1)

    def probed(params: Any, rest: Any) -> Probe:
        starts = range(0, len(shared.label), config.batch)
        parts = [(a[i : i + config.batch] for a in (shared.features, shared.image)) for i in starts]
        return train_probe(
            jnp.concatenate([upsample(params, rest, *part) for part in parts]),
            jnp.asarray(shared.label),
            job.seed,
            classes=len(data.classes),
            ignore_index=data.ignore_index,
            steps=config.probe_steps,
            batch=config.batch,
            rate=config.probe_learning_rate,
        )

    # The only validation is after the last step: its probe is that of the test images, too.
    kept: list[Probe] = []

    def predict(part: str, params: Any, rest: Any) -> list[np.ndarray]:
        if part == "validation" or not kept:
            kept[:] = [probed(params, rest)]
        return trials.predict(functools.partial(_with, labels, kept[0]), (params, rest), shared.chunks(part))

    variant = methods.variant_of(job.method, config.variants)
    made_of = Trial(
        model,
        params,
        rest,
        of_batch,
        loader.StoredBatches(shared.views, size=config.batch, seed=job.seed, part=devices.part()),
        validate=lambda *variables: segmentation.validate(predict("validation", *variables), data),
        predict=functools.partial(predict, "test"),
        measure=lambda predictions: segmentation.measure(predictions, data.test, data),
        variant=variant,
        receptive_field=blocks.receptive_field(job.method, variant, features, config.stride),
    )
    options = config.options(rate, validations=1)
    if not learns:
        # The first step's rate is zero: one step leaves everything as it is, and tells what a step costs.
        options = dataclasses.replace(options, steps=1)
    return made_of, options


def _with(labels: Callable[..., jax.Array], probe: Probe, params: Any, rest: Any, *inputs: jax.Array) -> jax.Array:
    return labels(params, rest, probe, *inputs)


# --- words ------------------------------------------------------------------------------------------------------------

_OBJECTIVES = {
    "untrained": "Upsamplers as they are made, with their first values: only the probe is trained.",
    "jafar": (
        "Upsamplers trained without labels: from the features of an image reduced by {stride} they are to make those "
        "of the image, by cosine and mean squared error (after JAFAR, Couairon et al. 2025, there with factors from 2 "
        "to 4)."
    ),
    "anyup": (
        "Upsamplers trained without labels: within a crop of half the side they are to make the features of the crop, "
        "from those of the whole image reduced by {stride}; two regularizers, weight 0.1 each: the same result from a "
        "guide of other colors, and reduced again the features that were given (after AnyUp, Wimmer et al. 2025)."
    ),
}
_BACKBONES = {
    "trunk": "For each seed the backbone is a network of {features} features at stride {stride}, trained for "
    "{trunk_steps} steps on labels averaged over its cells, then frozen.",
    "random": "For each seed the backbone is a network of {features} features at stride {stride} with random weights.",
}


def _design(name: str, settings: Mapping[str, Any]) -> str:
    backbone = _BACKBONES.get(settings["backbone"], "The backbone is {backbone}, at stride {stride}.")
    probe = (
        "A linear classifier of every pixel of the upsampled features was trained on labels for {probe_steps} steps; "
        "its label maps are measured."
    )
    return " ".join(part.format(**settings) for part in (backbone, _OBJECTIVES[name], probe))


def _settings(settings: Mapping[str, Any], designs: set[str]) -> list[str]:
    side = settings["crop"]
    return [
        *comparison.sentences(settings, f"crops, {side} × {side} pixels"),
        f"Features of {settings['crops']} crops are computed once for upsamplers and probes; probes are trained by "
        f"Adam with a learning rate of {settings['probe_learning_rate']:g} at most. The guide is the image.",
    ]


WORDS = dataclasses.replace(
    segmentation.WORDS,
    heading="What the upsampler does to a backbone's features",
    where={
        "untrained": "Untrained",
        "jafar": "Trained without labels as in JAFAR",
        "anyup": "Trained without labels as in AnyUp",
    },
    better="kept boundaries in features better",
    best="best features at any cost",
    titles={"untrained": "Untrained", "jafar": "JAFAR's objective", "anyup": "AnyUp's objective"},
    curve_says="Near the true boundary methods differ by how they render it. Far from it they do where they mix "
    "features from afar: those that attend to the whole image do so until they are trained. The other errors there "
    "are the backbone's and the probe's, which no upsampler can mend.",
    design=_design,
    settings=_settings,
)

TASK = tasks.Task(
    name="features",
    settings=Features,
    resolve=resolve,
    check=designs.check_crop,
    has_trunk=lambda config, job: config.backbone == "trunk",
    measures=segmentation.MEASURES,
    primary=segmentation.PRIMARY,
    followed=("mean_iou", segmentation.PRIMARY),
    bins=segmentation.DISTANCES,
    stage=stage,
    trial=trial,
    words=WORDS,
)
