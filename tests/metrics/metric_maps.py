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
