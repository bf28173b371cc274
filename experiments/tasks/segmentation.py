"""Segmentation: the network's two passes, its loss, and the measures of what it predicts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.data import Dataset, Split
from upsampling import metrics


class Measure(NamedTuple):
    """What is measured of label maps.

    Attributes:
      title: for tables.
      sums: `(prediction, target, num_classes=..., ignore_index=...)` to sums that add up over batches.
      value: the sums' value per class.
      lower_is_better: distances and errors.
      brief: whether it stands in the table that a terminal shows.
    """

    title: str
    sums: Callable[..., Any]
    value: Callable[[Any], Any]
    lower_is_better: bool = False
    brief: bool = True


def _confusion(metric: Callable[..., jax.Array], **options: Any) -> tuple[Callable[..., np.ndarray], Callable]:
    """IoU of pixels counted over the whole data set."""
    return lambda *maps, **a: np.asarray(metric(*maps, **a, **options), np.int64).sum(0), metrics.iou_of


def _per_image(metric: Callable[..., jax.Array], **options: Any) -> tuple[Callable[..., metrics.Ratio], Callable]:
    """The mean over the images that have the class."""
    return lambda *maps, **a: metrics.image_mean(metric(*maps, **a, **options)), metrics.Ratio.value


# A class that is in one map only is as far off as can be.
_FAR = {"missing": "diagonal"}

MEASURES = {
    "mean_iou": Measure("mean IoU", *_confusion(metrics.confusion_matrix)),
    "boundary_iou": Measure("Boundary IoU", metrics.boundary_iou_sums, metrics.Ratio.value),
    "boundary_f1_1px": Measure("F1 at 1 px", *_per_image(metrics.boundary_f1, tolerance=1)),
    "boundary_f1_2px": Measure("F1 at 2 px", *_per_image(metrics.boundary_f1, tolerance=2)),
    "trimap_iou_3px": Measure("trimap IoU, 3 px", *_confusion(metrics.trimap_confusion_matrix, width=3), brief=False),
    "hausdorff_95": Measure(
        "HD95, px",
        *_per_image(metrics.hausdorff_distance, percentile=95, **_FAR),
        lower_is_better=True,
        brief=False,
    ),
    "surface_distance": Measure(
        "surface distance, px",
        *_per_image(metrics.average_surface_distance, **_FAR),
        lower_is_better=True,
        brief=False,
    ),
}


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
    # Of one-hot labels: looking the label's logit up would be a scatter in the gradient.
    target = jax.nn.one_hot(target, classes + 1)
    entropy = jnp.sum(optax.softmax_cross_entropy(logits, target)) / jnp.maximum(jnp.sum(~void), 1)
    dice = optax.losses.dice_loss(logits, target, axis=(0, 1, 2), reduction="none")
    return entropy + jnp.mean(dice[..., :classes])


_NEVER = -1e9  # a logit whose softmax is exactly zero


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


def predict(labels: Callable[..., jax.Array], variables: tuple[Any, Any], split: Split) -> list[np.ndarray]:
    """The label map of every image of a split, as bytes."""
    predictions: dict[int, np.ndarray] = {}
    for chunk, image, _ in _chunks(split):
        maps = np.asarray(labels(*variables, image)).astype(np.uint8)
        predictions.update(zip(chunk, maps, strict=True))
    return [predictions[i] for i in range(len(split))]


def validate(predictions: Sequence[np.ndarray], data: Dataset) -> dict[str, float]:
    """The two means that are followed while training."""
    figures = evaluate(predictions, data.validation, data, ("mean_iou", "boundary_iou"))
    return {name: found["mean"] for name, found in figures.items()}


def evaluate(
    predictions: Sequence[np.ndarray], split: Split, data: Dataset, measures: Sequence[str] = tuple(MEASURES)
) -> dict[str, dict[str, Any]]:
    """Measures of label maps against a split, each per class and as the mean over classes.

    IoU, Boundary IoU and trimap IoU are of the split's summed pixel counts. Boundary F1, as Csurka et al. define it,
    and distances are means over the images that have the class; a class in one map only is an image's diagonal away.
    """
    arguments = {"num_classes": len(data.classes), "ignore_index": data.ignore_index}
    sums: dict[str, Any] = dict.fromkeys(measures, 0)
    for chunk, _, label in _chunks(split):
        pair = (np.stack([predictions[i] for i in chunk]).astype(np.int32), label)
        for name in measures:
            sums[name] += MEASURES[name].sums(*pair, **arguments)
    per_class = {name: np.asarray(MEASURES[name].value(total)) for name, total in sums.items()}
    return {
        name: {
            "mean": float(np.nanmean(values)),
            "classes": dict(zip(data.classes, values.tolist(), strict=True)),
        }
        for name, values in per_class.items()
    }


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
