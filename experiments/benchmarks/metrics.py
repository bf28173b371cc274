"""Segmentation metrics against scipy, OpenCV, scikit-image's disks, NumPy and surface-distance."""

import functools
import math
from collections.abc import Callable, Iterator

import cv2
import jax
import numpy as np
import surface_distance
from scipy import ndimage
from skimage import morphology

from experiments.benchmarks.harness import Case, Contender, compiled
from upsampling import metrics

DESCRIPTION = (
    "`up.metrics` and what is in use elsewhere: scipy's `distance_transform_edt` and OpenCV's with its exact mask; "
    "Boundary IoU by OpenCV's erosion, as its authors compute it; the F of DAVIS by OpenCV's dilation; "
    "surface-distance; a bincount by NumPy. These take one image and class after the other. Maps are of 11 classes, "
    "drawn: 360x480 is the size of SegNet's CamVid, 720x960 that of the original. `evaluation` is one pass over the "
    "frames, eight at a time, with every metric: confusion matrix, Boundary IoU, boundary F1, trimap IoU, Hausdorff "
    "distance and its 95th percentile, average surface distance, normalized surface Dice, error by distance; there "
    "scipy and OpenCV compute a class's distances once for all of them."
)

PEERS = ("scipy", "opencv-python-headless", "scikit-image", "numpy", "surface-distance")

_CLASSES, _FRAMES, _CHUNK = 11, 233, 8
_SMALL, _FULL = (360, 480), (720, 960)
_WIDTH, _TOLERANCE = 0.02, 0.008  # of the diagonal: Boundary IoU's width, DAVIS's tolerance
_DISTANCES = (0, 1, 2, 4, 8, 16, math.inf)
_TRIMAP, _NEAR = 3, 2  # pixels


def cases() -> Iterator[Case]:
    """The distance transform of several masks, every metric against its tool, and a whole test set."""
    for name, shape, masks in _masks():
        yield Case(f"distance_transform {name}", functools.partial(_distance_transform, masks, len(shape)))
    for count, size in ((_CHUNK, _SMALL), (1, _FULL)):
        for what, contenders in _AGAINST.items():
            name = f"{what} {count}x{size[0]}x{size[1]}"
            yield Case(name, functools.partial(_against, contenders, count, size))
    for count, size in ((_CHUNK, _SMALL), (2, _FULL), (_FRAMES, _SMALL)):
        name = f"evaluation {count}x{size[0]}x{size[1]}"
        yield Case(name, functools.partial(_evaluation, count, size))


def _fields(shape: tuple[int, ...], count: int, seed: int, smooth: float) -> np.ndarray:
    """Smooth random fields `(count, *shape)` of variance 1."""
    noise = np.random.default_rng(seed).standard_normal((count, *shape), np.float32)
    fields = np.stack([ndimage.gaussian_filter(field, smooth) for field in noise])
    return fields / fields.std()


def _masks() -> Iterator[tuple[str, tuple[int, ...], np.ndarray]]:
    """Name, spatial shape and masks `(images, *shape)`: what is easy for one algorithm is hard for another."""
    shape = (512, 512)
    blobs = _fields(shape, 8, 0, 12.0) > 0
    dot = np.ones((1, *shape), bool)
    dot[0, 200, 300] = False
    corners = np.ones((1, *shape), bool)
    corners[0, 0, 0] = corners[0, -1, -1] = False
    yield "512x512 blobs", shape, blobs[:1]
    yield "512x512 noise", shape, np.random.default_rng(0).random((1, *shape)) < 0.5
    yield "512x512 lines", shape, ~(blobs ^ np.roll(blobs, 1, -1))[:1]
    yield "512x512 few points", shape, np.random.default_rng(0).random((1, *shape)) > 1e-4
    yield "512x512 one point", shape, dot
    yield "512x512 two corners", shape, corners
    yield "8x512x512 blobs", shape, blobs
    yield "64x64x64 blobs", (64,) * 3, _fields((64,) * 3, 1, 0, 5.0) > 0


@functools.cache
def _frames(count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true label maps of drawn scenes, int32."""
    scale = size[0] / _SMALL[0]
    predictions, targets = [], []
    for scene in range(count):
        fields = _fields(size, _CLASSES, scene, 14 * scale)
        targets.append(np.argmax(fields, 0))
        predictions.append(np.argmax(fields + 0.15 * _fields(size, _CLASSES, 100 + scene, 4 * scale), 0))
    return np.stack(predictions).astype(np.int32), np.stack(targets).astype(np.int32)


def _distance_transform(masks: np.ndarray, rank: int) -> dict[str, Contender]:
    transform = functools.partial(metrics.distance_transform, spacing=(1,) * rank)
    contenders = {
        "upsampling": compiled(transform, masks),
        "scipy": Contender(lambda: [ndimage.distance_transform_edt(mask) for mask in masks]),
    }
    if rank == 2:
        exact = functools.partial(cv2.distanceTransform, distanceType=cv2.DIST_L2, maskSize=cv2.DIST_MASK_PRECISE)
        contenders["opencv"] = Contender(lambda: [exact(mask.view(np.uint8)) for mask in masks])
    return contenders


def _against(contenders: tuple[Callable, str, Callable], count: int, size: tuple[int, int]) -> dict[str, Contender]:
    ours, name, theirs = contenders
    prediction, target = _frames(count, size)
    return {
        "upsampling": compiled(functools.partial(ours, num_classes=_CLASSES), prediction, target),
        name: Contender(lambda: [theirs(p, t) for p, t in zip(prediction, target, strict=True)]),
    }


def _per_class(tool: Callable) -> Callable:
    """`tool` of two masks, for each class that both maps have."""

    def of(prediction: np.ndarray, target: np.ndarray) -> list:
        pairs = ((prediction == c, target == c) for c in range(_CLASSES))
        return [tool(p, t) for p, t in pairs if p.any() and t.any()]

    return of


def _boundary_region(mask: np.ndarray) -> np.ndarray:
    width = max(1, round(_WIDTH * math.hypot(*mask.shape)))
    padded = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)
    return mask.view(np.uint8) - eroded[1:-1, 1:-1] > 0


def _opencv_boundary_iou(prediction: np.ndarray, target: np.ndarray) -> float:
    p, t = _boundary_region(prediction), _boundary_region(target)
    return np.count_nonzero(p & t) / max(np.count_nonzero(p | t), 1)


def _between(mask: np.ndarray) -> np.ndarray:
    """DAVIS's boundary map: a pixel that differs from its neighbour to the right, below, or below to the right."""
    padded = np.pad(mask, (0, 1), mode="edge")
    here, right, below, corner = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (here ^ right) | (here ^ below) | (here ^ corner)


def _davis_f(prediction: np.ndarray, target: np.ndarray) -> float:
    p, t = _between(prediction), _between(target)
    disk = morphology.disk(math.ceil(_TOLERANCE * math.hypot(*prediction.shape)))
    near_p, near_t = (cv2.dilate(x.view(np.uint8), disk) > 0 for x in (p, t))
    precision = np.count_nonzero(p & near_t) / max(np.count_nonzero(p), 1)
    recall = np.count_nonzero(t & near_p) / max(np.count_nonzero(t), 1)
    return 2 * precision * recall / max(precision + recall, 1e-9)


def _boundary_f1_of_davis(prediction: jax.Array, target: jax.Array, num_classes: int) -> jax.Array:
    tolerance = math.ceil(_TOLERANCE * math.hypot(*target.shape[-2:]))
    return metrics.boundary_f1(prediction, target, num_classes, tolerance=tolerance, boundary="between")


def _surface_distance(*figures: Callable) -> Callable:
    def of(prediction: np.ndarray, target: np.ndarray) -> list:
        distances = surface_distance.compute_surface_distances(target, prediction, (1, 1))
        return [figure(distances) for figure in figures]

    return _per_class(of)


def _together(*functions: Callable) -> Callable:
    """Several metrics in one program."""
    return lambda *maps, num_classes: [function(*maps, num_classes) for function in functions]


_HD95 = functools.partial(metrics.hausdorff_distance, percentile=95, boundary="elements")
_ASD = functools.partial(metrics.average_surface_distance, boundary="elements")
_NSD = functools.partial(metrics.normalized_surface_dice, tolerance=_NEAR, boundary="elements")
_THEIR_HD95 = functools.partial(surface_distance.compute_robust_hausdorff, percent=95)
_THEIR_ASD = surface_distance.compute_average_surface_distance
_THEIR_NSD = functools.partial(surface_distance.compute_surface_dice_at_tolerance, tolerance_mm=_NEAR)


def _bincount(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """IoU per class."""
    pairs = target.ravel() * _CLASSES + prediction.ravel()
    matrix = np.bincount(pairs, minlength=_CLASSES**2).reshape(_CLASSES, _CLASSES)
    hits = np.diag(matrix)
    return hits / np.maximum(matrix.sum(0) + matrix.sum(1) - hits, 1)


_AGAINST = {
    "mean_iou": (metrics.mean_iou, "numpy", lambda *maps: _bincount(*maps).mean()),
    "boundary_iou": (metrics.boundary_iou, "opencv", _per_class(_opencv_boundary_iou)),
    "boundary_f1, DAVIS": (_boundary_f1_of_davis, "opencv", _per_class(_davis_f)),
    "HD95": (_HD95, "surface-distance", _surface_distance(_THEIR_HD95)),
    "ASSD": (_ASD, "surface-distance", _surface_distance(_THEIR_ASD)),
    "NSD": (_NSD, "surface-distance", _surface_distance(_THEIR_NSD)),
    "HD95, ASSD and NSD": (
        _together(_HD95, _ASD, _NSD),
        "surface-distance",
        _surface_distance(_THEIR_HD95, _THEIR_ASD, _THEIR_NSD),
    ),
}


def _of_a_frame(prediction: jax.Array, target: jax.Array) -> list[metrics.Accumulator]:
    """What a frame contributes to every figure of a test set."""
    maps = prediction, target, _CLASSES
    means = (
        metrics.average_surface_distance(*maps, missing="diagonal"),
        metrics.boundary_f1(*maps, tolerance=_TOLERANCE, unit="diagonal", frame=True),
    )
    return [
        metrics.iou.accumulate(*maps),
        metrics.trimap_iou.accumulate(*maps, width=_TRIMAP),
        metrics.boundary_iou.accumulate(*maps, width=_WIDTH),
        metrics.normalized_surface_dice.accumulate(*maps, tolerance=_NEAR),
        metrics.error_by_distance.accumulate(*maps, distances=_DISTANCES),
        metrics.hausdorff_distance.accumulate(*maps, missing="diagonal"),
        metrics.hausdorff_distance.accumulate(*maps, percentile=95, missing="diagonal"),
        *(metrics.image_mean(values, axes=()) for values in means),
    ]


@jax.jit
def _of_frames(prediction: jax.Array, target: jax.Array) -> list[metrics.Accumulator]:
    # One frame at a time: XLA then sees that several metrics take the same distances.
    each = jax.lax.map(lambda maps: _of_a_frame(*maps), (prediction, target))
    return jax.tree.map(lambda x: x.sum(0), each)


def _evaluation(count: int, size: tuple[int, int]) -> dict[str, Contender]:
    scenes = _frames(min(count, _CHUNK), size)

    def ours() -> list:
        total = None
        for start in range(0, count, _CHUNK):
            moved = (np.roll(maps[: count - start], start, (1, 2)) for maps in scenes)
            sums = _of_frames(*moved)
            total = sums if total is None else [a + b for a, b in zip(total, sums, strict=True)]
        return jax.block_until_ready([sums.compute() for sums in total])

    contenders = {"upsampling": Contender(ours)}
    if count <= _CHUNK:  # the tools take minutes for a whole test set
        tools = lambda: [_tools(p, t) for p, t in zip(*scenes, strict=True)]  # noqa: E731
        contenders["scipy and opencv"] = Contender(tools)
    return contenders


def _tools(prediction: np.ndarray, target: np.ndarray) -> list:
    """The same figures of a frame by scipy, OpenCV and NumPy."""
    tolerance = _TOLERANCE * math.hypot(*target.shape)
    per_class = _per_class(lambda p, t: [_opencv_boundary_iou(p, t), *_by_distances(p, t, tolerance)])
    return [_bincount(prediction, target), *_by_true_boundary(prediction, target), per_class(prediction, target)]


def _by_distances(prediction: np.ndarray, target: np.ndarray, tolerance: float) -> list:
    """Hausdorff distance, its 95th percentile, average surface distance, surface Dice and F1 of two masks."""
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, target)]
    to_p, to_t = (ndimage.distance_transform_edt(~edge)[other] for edge, other in zip(edges, edges[::-1], strict=True))
    both = np.concatenate([to_p, to_t])
    hd95 = max(np.percentile(to_p, 95), np.percentile(to_t, 95))
    precision, recall = (to_t <= tolerance).mean(), (to_p <= tolerance).mean()
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    return [both.max(), hd95, both.mean(), (both <= _NEAR).mean(), f1]


def _by_true_boundary(prediction: np.ndarray, target: np.ndarray) -> list:
    """Trimap IoU and the error by distance, from the distance to the nearest pixel that touches the true boundary."""
    touches = np.zeros(target.shape, bool)
    for axis in (0, 1):
        one, other = (np.take(target, range(k, target.shape[axis] - 1 + k), axis) for k in (0, 1))
        for k in (0, 1):
            np.moveaxis(touches, axis, 0)[k : target.shape[axis] - 1 + k] |= np.moveaxis(one != other, axis, 0)
    far = ndimage.distance_transform_edt(~touches)
    near = far < _TRIMAP
    slot = (np.digitize(far, _DISTANCES) - 1) * _CLASSES + target
    wrong = np.bincount(slot[prediction != target], minlength=len(_DISTANCES) * _CLASSES)
    pixels = np.bincount(slot.ravel(), minlength=len(_DISTANCES) * _CLASSES)
    return [_bincount(prediction[near], target[near]), wrong / np.maximum(pixels, 1)]
