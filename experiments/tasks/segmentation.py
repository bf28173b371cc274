"""Segmentation: the network's two passes, its losses, and the measures of what it predicts."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import comparison, devices, training, trials
from experiments.data import Dataset, Split
from experiments.models.stride import coarse_labels
from experiments.settings import kind, named_stride
from experiments.statistics import Sums
from experiments.tasks import Measure, Words
from experiments.trials import CURVE, Chunk, figures
from upsampling import metrics

# --- measures ---------------------------------------------------------------------------------------------------------


def _accumulated(metric: Any, **options: Any) -> Callable[..., metrics.Ratio]:
    """A ratio of sums over pixels."""
    return functools.partial(metric.accumulate, **options)


def _image_mean(metric: Callable[..., jax.Array], **options: Any) -> Callable[..., metrics.Ratio]:
    """The mean over the images that have the class."""

    def of(*maps: Any, **arguments: Any) -> metrics.Ratio:
        return metrics.image_mean(metric(*maps, **arguments, **options), axes=())

    return of


def _iou(prediction: jax.Array, target: jax.Array, **arguments: Any) -> metrics.Ratio:
    return _iou_of(metrics.confusion_matrix(prediction, target, **arguments))


def _trimap_iou(prediction: jax.Array, target: jax.Array, width: float, **arguments: Any) -> metrics.Ratio:
    return _iou_of(metrics.trimap_confusion_matrix(prediction, target, width=width, **arguments))


def _iou_of(matrix: jax.Array) -> metrics.Ratio:
    hits = jnp.diagonal(matrix)
    return metrics.Ratio(hits, matrix.sum(0) + matrix.sum(1) - hits)


def _wrong_area(prediction: jax.Array, target: jax.Array, within: float, **arguments: Any) -> metrics.Ratio:
    """Wrong pixels near the true boundary, per pixel of its length, all classes together."""
    errors = metrics.error_by_distance.accumulate(prediction, target, distances=(0, within), **arguments)
    # Every stretch of boundary has a class on both sides. Its length is that of marching squares.
    length = metrics.average_surface_distance.accumulate(
        prediction, target, average="target", boundary="elements", **_FRAME, **arguments
    )
    return metrics.Ratio(errors.numerator.sum()[None], length.denominator.sum()[None] / 2)


def _far_error(prediction: jax.Array, target: jax.Array, beyond: float, **arguments: Any) -> metrics.Ratio:
    errors = metrics.error_by_distance.accumulate(prediction, target, distances=(beyond, float("inf")), **arguments)
    return metrics.Ratio(errors.numerator.sum()[None], errors.denominator.sum()[None])


# One rule for the image's frame in all measures: it is no boundary.
_FRAME = {"frame": False}
# A class that is in one map only is as far off as can be.
_FAR = {"missing": "diagonal"}
_CHENG = "IoU of the bands inside each class's boundary (Cheng et al. 2021)"

# What is measured of label maps: `(prediction, target, num_classes, ignore_index)`, two maps `(H, W)`, to a
# `metrics.Ratio` with one entry per class, or a single one. A data set's value is the mean over classes of the ratio of
# sums over images.
MEASURES: dict[str, Measure] = {
    "boundary_iou_1px": Measure(
        "Boundary IoU, 1 px",
        f"{_CHENG}, bands of 1 pixel",
        _accumulated(metrics.boundary_iou, width=1, unit="pixels", **_FRAME),
        brief=True,
    ),
    "boundary_iou_2px": Measure(
        "Boundary IoU, 2 px",
        f"{_CHENG}, bands of 2 pixels",
        _accumulated(metrics.boundary_iou, width=2, unit="pixels", **_FRAME),
    ),
    "boundary_iou": Measure(
        "Boundary IoU, 2 %",
        f"{_CHENG}, bands of 2 % of the diagonal, as in the paper",
        _accumulated(metrics.boundary_iou, **_FRAME),
    ),
    "wrong_area_2px": Measure(
        "wrong area, px",
        "wrong pixels within 2 pixels of the true boundary, per pixel of its length",
        functools.partial(_wrong_area, within=2),
        lower_is_better=True,
        brief=True,
    ),
    "far_error_3px": Measure(
        "error beyond 3 px",
        "share of wrong pixels 3 pixels and more from the true boundary: errors of meaning, the same for all methods "
        "where only the rendition differs",
        functools.partial(_far_error, beyond=3),
        lower_is_better=True,
    ),
    "mean_iou": Measure("mean IoU", "intersection over union of the pixels of each class", _iou, brief=True),
    "boundary_f1_1px": Measure(
        "F1, 1 px",
        "boundary F1 (Csurka et al. 2013), mean over images, tolerance 1 pixel",
        _image_mean(metrics.boundary_f1, tolerance=1, **_FRAME),
    ),
    "trimap_iou_3px": Measure(
        "trimap IoU, 3 px",
        "IoU of the pixels within 3 of the true boundary (Kohli et al. 2009)",
        functools.partial(_trimap_iou, width=3),
    ),
    "hausdorff_95": Measure(
        "HD95, px",
        "95th percentile of the distance between boundaries, mean over images",
        _image_mean(metrics.hausdorff_distance, percentile=95, **_FRAME, **_FAR),
        lower_is_better=True,
    ),
    "surface_distance": Measure(
        "surface distance, px",
        "average distance between boundaries, mean over images",
        _image_mean(metrics.average_surface_distance, **_FRAME, **_FAR),
        lower_is_better=True,
    ),
}
PRIMARY = "boundary_iou_1px"
DISTANCES = (0, 1, 2, 3, 4, 6, 8, 12, float("inf"))  # edges of the bins of the error by distance


# --- the network ------------------------------------------------------------------------------------------------------


class Network(NamedTuple):
    """A model's structure, for pure functions of its parameters and of what else it holds. Logits are float32."""

    structure: nnx.GraphDef

    def train(self, params: nnx.State, rest: nnx.State, *inputs: jax.Array) -> tuple[jax.Array, nnx.State]:
        """Logits of a batch, normalized by its own statistics, and the rest with these taken in."""
        # Made anew, the variables belong to this trace: NNX lets a trace write its own variables only.
        rest = jax.tree.map(lambda leaf: leaf, rest)
        model = nnx.merge(self.structure, params, rest)
        model.train()
        logits = model(*(x.astype(training.dtype_of(params)) for x in inputs)).astype(jnp.float32)
        return logits, nnx.split(model, nnx.Param, ...)[2]

    def apply(self, params: nnx.State, rest: nnx.State, *inputs: jax.Array) -> jax.Array:
        """What the model gives, normalized by the averages."""
        model = nnx.merge(self.structure, params, rest)
        model.eval()
        return model(*(x.astype(training.dtype_of(params)) for x in inputs))

    def labels(self, params: nnx.State, rest: nnx.State, *inputs: jax.Array) -> jax.Array:
        """The most likely label of every pixel, normalized by the averages."""
        return jnp.argmax(self.apply(params, rest, *inputs), -1)


def coarse_loss(logits: jax.Array, label: jax.Array, ignore_index: int | None = None) -> jax.Array:
    """Cross-entropy of logits at a stride with labels averaged over its cells: it favors no way of upsampling.

    Args:
      logits: `(batch, h, w, classes)`.
      label: `(batch, h * s, w * s)`.
      ignore_index: label of pixels that do not count.
    """
    stride = label.shape[1] // logits.shape[1]
    shares, weight = coarse_labels(label, stride, logits.shape[-1], ignore_index)
    return jnp.sum(weight * optax.softmax_cross_entropy(logits, shares)) / jnp.maximum(weight.sum(), 1e-6)


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
    # Of one-hot labels: looking the label's logit up would be a scatter in the gradient.
    target = jax.nn.one_hot(target, classes + 1)
    entropy = jnp.sum(optax.softmax_cross_entropy(logits, target)) / jnp.maximum(jnp.sum(~void), 1)
    dice = optax.losses.dice_loss(logits, target, axis=(0, 1, 2), reduction="none")
    return entropy + jnp.mean(dice[..., :classes])


_NEVER = -1e9  # a logit whose softmax is exactly zero


# --- prediction and evaluation ----------------------------------------------------------------------------------------


def chunks(split: Split) -> Iterator[Chunk]:
    """A split's images, a few of one shape at a time."""
    for places in trials.by_shape(example["label"].shape for example in split.examples):
        examples = [split.examples[i] for i in places]
        yield Chunk(places, (np.stack([e["image"] for e in examples]),), np.stack([e["label"] for e in examples]))


@functools.cache
def _measuring(num_classes: int, ignore_index: int | None, names: tuple[str, ...]) -> Callable[..., dict]:
    """Maps predictions and targets to each measure's sums per image.

    In one program, measures of the same boundaries share their distances.
    """
    arguments = {"num_classes": num_classes, "ignore_index": ignore_index}

    def of_image(pair):
        found = {name: MEASURES[name].of(*pair, **arguments) for name in names if name in MEASURES}
        if CURVE in names:
            errors = metrics.error_by_distance.accumulate(*pair, distances=DISTANCES, **arguments)
            found[CURVE] = metrics.Ratio(errors.numerator.sum(-1), errors.denominator.sum(-1))
        return found

    return jax.jit(lambda prediction, target: jax.lax.map(of_image, (prediction, target)))


ALL = (*MEASURES, CURVE)


def measure(
    predictions: Sequence[np.ndarray], split: Split, data: Dataset, names: Sequence[str] = ALL
) -> dict[str, Sums]:
    """The sums of each measure for every image of a split: `(1, images, classes)`, and of the error by distance."""
    found: dict[str, dict[int, tuple]] = {name: {} for name in names}
    parts = list(chunks(split))
    pairs = [(np.stack([predictions[i] for i in places]).astype(np.int32), label) for places, _, label in parts]
    measuring = _measuring(len(data.classes), data.ignore_index, tuple(names))
    sums_of = devices.in_turn(
        len(parts),
        lambda i: devices.over_rows(measuring, (), pairs[i]),
        lambda i: jax.eval_shape(measuring, *pairs[i]),
    )
    for (places, *_), sums in zip(parts, sums_of, strict=True):
        for name, ratio in jax.device_get(sums).items():
            found[name].update(zip(places, zip(ratio.numerator, ratio.denominator, strict=True), strict=True))
    stacked = {name: [np.stack([of[i][k] for i in range(len(split))]) for k in (0, 1)] for name, of in found.items()}
    return {name: Sums(*(part[None].astype(np.float64) for part in parts)) for name, parts in stacked.items()}


def evaluate(
    predictions: Sequence[np.ndarray], split: Split, data: Dataset, names: Sequence[str] = tuple(MEASURES)
) -> dict[str, dict[str, Any]]:
    """Measures of label maps against a split, each per class and as the mean over classes."""
    return figures(measure(predictions, split, data, names), data.classes)


def validate(predictions: Sequence[np.ndarray], data: Dataset) -> dict[str, float]:
    """The two means that are followed while training."""
    found = evaluate(predictions, data.validation, data, (PRIMARY, "mean_iou"))
    return {name: of["mean"] for name, of in found.items()}


def baseline(data: Dataset) -> dict[str, Any] | None:
    """Name, description and measures of the data set's baseline on its test images."""
    if data.baseline is None:
        return None
    predictions = [data.baseline.predict(example["image"]) for example in data.test.examples]
    return {
        "name": data.baseline.name,
        "description": data.baseline.description,
        "figures": evaluate(predictions, data.test, data),
    }


# --- words ------------------------------------------------------------------------------------------------------------

_NETWORKS = {"unet": "U-Net", "fpn": "feature pyramid network"}


def _design(name: str, s: Mapping[str, Any]) -> str:
    """What a design does, and what its figures can say."""
    stride = named_stride(name) or s["stride"][0]
    if kind(name) == "frozen":
        return (
            "For each seed a trunk (a block at full resolution, a strided convolution, a small U-Net at stride "
            f"{stride}) was trained for {s['trunk_steps']} steps on labels averaged over its cells, which favor "
            f"no upsampler. On its frozen features only a 1 × 1 convolution, the upsampler by {stride} and a "
            f"1 × 1 head were trained, {s['head_steps']} steps with each method. All methods see the same features, "
            "so what differs is how they render boundaries."
        )
    if name == "head":
        return (
            f"The network of a frozen trunk, trained end to end with each method for {s['steps']} steps: a trunk at "
            f"stride {stride}, the upsampler by {stride}, and a 1 × 1 head."
        )
    after = {"full": "Two 3 × 3 convolutions follow each. ", "thin": "A 1 × 1 convolution follows each. "}
    network = _NETWORKS.get(s["model"], s["model"])
    return (
        f"The network that people use, as control: a {network}, trained for {s['steps']} steps, each "
        f"step up made by the method. {after[s['decoder']] if s['model'] == 'unet' else ''}What follows an upsampler, "
        "and the skip connections beside it, can make up for what it does."
    )


def _settings(s: Mapping[str, Any], designs: set[str]) -> list[str]:
    """The settings of a run as sentences; `designs` are its kinds."""
    sentences = [
        f"AdamW with a learning rate of {_either(s['learning_rate'])} at most and weight decay {s['weight_decay']:g}; "
        f"batches of {s['batch']} crops of {s['crop']} × {s['crop']} pixels; computed in {s['precision']}."
    ]
    if "frozen" in designs:
        sentences.append(f"The heads on frozen trunks: {_either(s['head_learning_rate'])} at most.")
    if len(s["learning_rate"]) > 1 or len(s["head_learning_rate"]) > 1:
        sentences.append(
            "Each method of a design took the learning rate with the best figure on validation images, mean over the "
            "first two seeds."
        )
    if designs & {"frozen", "head"}:
        crops = f", from {s['crops']} crops whose features are computed once" if "frozen" in designs else ""
        sentences.append(f"The upsampler sees {s['features']} channels and enlarges by {_either(s['stride'])}{crops}.")
    if "unet" in designs and s["model"] in _NETWORKS:  # a user's own has none of these
        skips = {"inner": "at all levels but full resolution", "all": "at all levels", "none": "left out"}
        gate = ", gated by attention" if s["attention_gate"] else ""
        down = {"strided": "strided convolutions", "pool": "max-pooling"}[s["downsampling"]]
        sentences.append(
            f"The {_NETWORKS[s['model']]} has {s['depth']} halvings by {down}, {s['width']} channels at full "
            f"resolution and twice as many at every level below, and skip connections {skips[s['skips']]}{gate}."
        )
    sentences += comparison.seeds_together(s)
    if s["variants"]:
        sentences.append(f"A method takes the first of these variants that it has: {', '.join(s['variants'])}.")
    return sentences


def _either(values: Sequence[float]) -> str:
    return " or ".join(f"{value:g}" for value in values)


def _form(design: str, settings: Mapping[str, Any]) -> str:
    if design == "unet":
        if settings["model"] == "fpn":
            return "as a feature pyramid"
        return "with a thin decoder" if settings["decoder"] == "thin" else ""
    if kind(design) not in ("frozen", "head") or named_stride(design):
        return ""
    # The first factor is in no name; 4 is what goes without saying.
    stride = settings["stride"][0]
    return f"at factor {stride}" if stride != 4 else ""


WORDS = Words(
    heading="What the upsampler does to boundaries",
    where={
        "frozen": "On frozen trunks",
        "head": "Trained end to end",
        "unet": "In the network that people use",
    },
    better="rendered boundaries better",
    best="best boundaries at any cost",
    unit="test images",
    beyond="other scanners, cameras, patients or networks",
    titles={"frozen": "Frozen trunk", "head": "End to end", "unet": "U-Net"},
    form=_form,
    design=_design,
    settings=_settings,
    curve="Error by distance",
    curve_says="Near the true boundary methods differ by how they render it. Far from it errors are of meaning: a "
    "thing taken for another, which no upsampler can mend.",
    level="share of wrong pixels",
    across="distance to the true boundary, px",
)
