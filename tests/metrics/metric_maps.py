"""Label maps that the metric tests share: random blobs, real frames, and the shapes that break things."""

import pathlib

import numpy as np
import pytest
from scipy import ndimage

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"


def blobs(shape, num_classes, seed, smooth=3.0):
    """Random label map of blobs: the largest of smoothed noise fields."""
    noise = np.random.default_rng(seed).normal(size=(num_classes, *shape))
    fields = [ndimage.gaussian_filter(n, smooth) for n in noise]
    return np.argmax(fields, axis=0).astype(np.int32)


def perturbed(labels, seed, amount=1.5):
    """The same map seen through a smooth random displacement: a prediction that is right but for its boundaries."""
    rng = np.random.default_rng(seed)
    moved = [
        c + amount * 4 * ndimage.gaussian_filter(rng.normal(size=labels.shape), 4)
        for c in np.indices(labels.shape).astype(float)
    ]
    return ndimage.map_coordinates(labels, moved, order=0, mode="nearest")


def camvid(count):
    """`count` real label maps of CamVid's test set, 360x480, classes 0 to 10 and void 11."""
    folder = SHARED / "camvid" / "testannot"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/camvid")
    from PIL import Image

    return np.stack([np.asarray(Image.open(p)) for p in sorted(folder.glob("*.png"))[:count]]).astype(np.int32)


def membranes(count):
    """`count` real masks of neuron membranes, 512x512 bool."""
    folder = SHARED / "isbi2012" / "masks"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/isbi2012")
    from PIL import Image

    return np.stack([np.asarray(Image.open(p)) > 0 for p in sorted(folder.glob("*.png"))[:count]])


def drawn():
    """Pairs 40x40 of three classes: blobs, thin lines, empty, full and one-pixel masks, a class in one map only."""
    line = np.zeros((40, 40), int)
    line[20] = 1
    line[:, 7] = 2
    dot = np.zeros((40, 40), int)
    dot[3, 4] = 1
    full = np.ones((40, 40), int)
    maps = [blobs((40, 40), 3, 0), blobs((40, 40), 3, 1), line, dot, full, np.zeros_like(full)]
    pairs = [(perturbed(m, 5), m) for m in maps] + [(np.roll(m, 2, 1), m) for m in maps]
    pairs += [(maps[2], maps[3]), (maps[4], maps[5]), (maps[3], maps[4]), (maps[5], maps[3])]
    return tuple(np.stack(x) for x in zip(*pairs, strict=True))


def volumes():
    """Pairs 9x14x11 of three classes: blobs, a plane, a rod, one voxel, a class in one map only."""
    plane, rod, dot = (np.zeros((9, 14, 11), int) for _ in range(3))
    plane[4], rod[:, 6, 5], dot[2, 3, 4] = 1, 1, 1
    maps = [blobs((9, 14, 11), 3, 0, 2.0), blobs((9, 14, 11), 3, 1, 1.0), plane, rod, dot]
    pairs = (
        [(perturbed(m, 5, 1.0), m) for m in maps]
        + [(np.roll(m, 2, 1), m) for m in maps]
        + [(rod, plane), (dot, 0 * dot)]
    )
    return tuple(np.stack(x) for x in zip(*pairs, strict=True))
