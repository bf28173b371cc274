"""Made-up studies, to test what is made of results: label maps of smooth blobs, and methods that render them worse or
better, with figures drawn around values chosen for each. Nothing is trained and nothing measured.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from experiments import files, results, settings, statistics, trials
from experiments.data import Dataset, Example, Split
from experiments.settings import Job, Segmentation
from experiments.statistics import Sums
from experiments.tasks import segmentation as task
from experiments.trials import Outcome

# How well each renders a boundary, on a scale of Boundary IoU, and its milliseconds for a step.
METHODS = {
    "nearest": (0.27, 4.9),
    "bilinear": (0.383, 5.1),
    "bicubic": (0.424, 5.8),
    "transposed_conv": (0.386, 12.0),  # too close to bilinear to be told from it
    "deconv": (0.405, 9.0),
    "sub_pixel_conv": (0.446, 15.0),
    "carafe": (0.414, 40.0),
    "guided_filter": (0.52, 31.0),
}
CLASSES = ("background", "grey matter", "white matter")
SIDE = 160


def dataset(images: int = 16, seed: int = 0) -> Dataset:
    """Noisy pictures of blobs of three classes."""
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(images):
        depth = _field(rng)
        label = np.digitize(depth, (-0.35, 0.55)).astype(np.int32)
        image = 0.15 + 0.35 * label + rng.normal(0, 0.05, label.shape)
        examples.append(Example(image=np.clip(image, 0, 1)[..., None].astype(np.float32), label=label))
    test = Split(tuple(f"blobs {i}" for i in range(images)), examples)
    return Dataset(
        name="blobs",
        description=f"{images} made-up images of blobs, {SIDE} × {SIDE} pixels.",
        classes=CLASSES,
        channels=1,
        ignore_index=None,
        train=test,
        validation=test,
        test=test,
        augment=lambda example, rng: example,
        flips=(),
    )


def _field(rng: np.random.Generator) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 7)
    return field / field.std()


def rendered(data: Dataset, quality: float, seed: int) -> list[np.ndarray]:
    """Label maps whose boundaries are jagged by less the higher the quality; one blot far from any boundary in two."""
    rng = np.random.default_rng(seed)
    maps = []
    for i, example in enumerate(data.test.examples):
        shift = (0.75 - quality) * 2.5 * np.stack([_field(rng), _field(rng)])
        at = np.indices(example["label"].shape) + shift
        map_ = ndimage.map_coordinates(example["label"], at, order=0, mode="nearest")
        if i % 2:
            map_[-12:, -12:] = 0
        maps.append(map_.astype(np.uint8))
    return maps


def study(
    folder: Path,
    *,
    design: tuple[str, ...] = ("analytic", "frozen", "unet"),
    methods: tuple[str, ...] = tuple(METHODS),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    images: int = 16,
    **options: Any,
) -> tuple[dict, dict, Dataset, dict]:
    """A study's results, timing, data and predictions, as `report.write` takes them; its files are in `folder`."""
    config = settings.resolve(Segmentation(design=design, methods=methods, seeds=seeds, **options))
    data, folder = dataset(images), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "config.json", {"task": "segmentation", **dataclasses.asdict(config)})
    outcomes = {job: _outcome(job, data, images) for job in config.jobs()}
    draws = functools.partial(statistics.crossed_bootstrap, draws=40)
    kept, statistics.crossed_bootstrap = statistics.crossed_bootstrap, draws
    try:
        found, timing = results.collect(folder, config, data, outcomes, analytic() if "analytic" in design else None)
    finally:
        statistics.crossed_bootstrap = kept
    predictions = {
        d: {n: rendered(data, _quality(Job(d, n, 0)), i) for i, n in enumerate(of["methods"])}
        for d, of in found["designs"].items()
    }
    return found, timing, data, predictions


def _quality(job: Job) -> float:
    quality, _ = METHODS.get(job.method, (0.4, 10.0))
    return 0.4 + 0.02 * quality if job.design == "unet" else quality


def _outcome(job: Job, data: Dataset, images: int) -> Outcome:
    # A seed moves all methods together; what it does to each by itself is much less.
    own = np.random.default_rng((job.seed, sum(job.method.encode())))
    quality = _quality(job) + np.random.default_rng(job.seed).normal(0, 0.02) + own.normal(0, 0.006)
    sums = {name: _sums(name, quality, images, own) for name in task.MEASURES}
    rates = np.array(
        [0.75 * (0.85 - quality), 0.4 * (0.7 - quality), 0.1 * (0.7 - quality), 0.004, 0.002, 0.001, 0.0005]
    )
    curve = Sums(*np.broadcast_arrays(1000 * np.append(rates, 0.0), np.full((1, images, 8), 1000.0)))
    _, milliseconds = METHODS.get(job.method, (0.4, 10.0))
    steps = np.arange(1, 41)
    result = {
        "variant": "small" if job.method == "guided_filter" else None,
        "learning_rate": 4e-3,
        "receptive_field": [4, 4],
        "figures": trials.figures(sums, data.classes),
        "curve": trials.curve({"curve": curve}),
        "parameters": 12345,
        "upsampler_parameters": 345,
        "operations_per_step": 1e6 * milliseconds,
        "temporary_bytes": 2_500_000,
        "loss": (1.5 * np.exp(-steps / 12) + 1 - quality + own.normal(0, 0.02, 40)).tolist(),
        "validation": [{"step": 40, "mean_iou": 0.7, "boundary_iou_1px": quality}],
        "timing": {
            "step_ms": milliseconds * (1 + 0.01 * job.seed),
            "compile_s": 1.0,
            "machine": {
                "platform": "cpu",
                "device": "cpu",
                "devices": 1,
                "cores": 2,
                "processor": "a made-up processor",
                "python": "3.11.0",
                "jax": "0.10.0",
            },
        },
    }
    return Outcome(result, sums, [])


def _sums(name: str, quality: float, images: int, rng: np.random.Generator) -> Sums:
    """A measure's sums: the classes lie around the quality, and images vary."""
    lower = task.MEASURES[name].lower_is_better
    value = {"far_error_3px": 0.0008, "wrong_area_2px": 1.6 - quality}.get(
        name, 6 * (1 - quality) if lower else quality
    )
    classes = 1 if name in ("wrong_area_2px", "far_error_3px") else len(CLASSES)
    spread = 1 + 0.02 * rng.standard_normal((1, images, classes)) + 0.1 * (np.arange(classes) - (classes - 1) / 2)
    total = np.full((1, images, classes), 500.0)
    return Sums(total * value * spread, total)


def analytic(stride: int = 4) -> dict[str, Any]:
    """The analytic figures of four interpolators, in the shape that `analytic.measure` gives them."""
    places = (np.arange(64) + 0.5) / 64 * stride
    wave = np.sin(2 * np.pi * places / stride)
    saw = np.where(places < stride / 2, -places, stride - places)
    curves = {
        "nearest": saw,
        "bilinear": -0.34 * wave,
        "bicubic": -0.26 * wave,
        "tensorflow1_bilinear": -1.5 - 0.34 * wave,
    }
    found = {name: _edge_figures(curve, places) for name, curve in curves.items()}
    trained = {"bilinear": found["bilinear"], "guided_filter (small)": found["bicubic"]} if stride == 4 else {}
    others = [analytic(8)] if stride == 4 else []
    return {"stride": stride, "methods": found, "trained": trained, "others": others}


def _edge_figures(curve: np.ndarray, places: np.ndarray) -> dict[str, Any]:
    spread = {"bias": 0.0, "rms": float(np.sqrt(np.mean(curve**2))), "worst": float(np.abs(curve).max())}
    angles, radii, widths = list(range(0, 91, 5)), [2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0], [1, 2, 3, 4, 5, 6]
    by_angle = {key: [value * abs(np.cos(np.deg2rad(2 * a))) for a in angles] for key, value in spread.items()}
    recall = [float(1 / (1 + np.exp(2.5 - w))) for w in widths]
    return {
        "scale": 4,
        "samples_per_pixel": 3,
        "contour": True,
        "edges": {
            **spread,
            "angles": angles,
            "by_angle": by_angle,
            "curve": {
                "offset": places.tolist(),
                "displacement": curve.tolist(),
                **spread,
                "bias": float(curve.mean()),
            },
        },
        "discs": {
            "radii": radii,
            "curvature": [1 / r for r in radii],
            "bias": [-2 / r for r in radii],
            "rms": [2 / r for r in radii],
            "worst": [3 / r for r in radii],
            "vanished": [0.0] * len(radii),
        },
        "corners": {"openings": [45, 90, 135], "loss": [7.2, 3.7, 1.7], "loss_along_grid": 3.8},
        "lines": {
            "widths": widths,
            "recall": recall,
            "area": recall,
            "broken": [1.0, 1.0, 0.5, 0.0, 0.0, 0.0],
            "mean_recall": float(np.mean(recall)),
            "mean_broken": 0.4,
        },
        "strokes": {"names": ["E", "spiral 1"], "wrong": [0.4, 0.6], "mean": 0.5},
        "shift": {"row": float(curve.mean()), "column": float(curve.mean()), "stretch": 0.0},
    }
