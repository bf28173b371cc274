"""Makes tensorflow.npz, what TensorFlow's resize returns, where TensorFlow is installed:

    python tests/references/make_tensorflow.py

The inputs are drawn anew from the case's number, here and in the test.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("tensorflow.npz")

METHODS = {
    "tensorflow": (
        *((method, False) for method in ("nearest", "bilinear", "bicubic", "area")),
        *((method, flag) for method in ("lanczos3", "lanczos5", "mitchellcubic", "gaussian") for flag in (False, True)),
        *((method, True) for method in ("nearest", "bilinear", "bicubic", "area")),
    ),
    "tensorflow1": tuple((method, False) for method in ("nearest", "bilinear", "bicubic", "area")),
    "tensorflow1_align_corners": tuple((method, False) for method in ("nearest", "bilinear", "bicubic", "area")),
}


def cases() -> Iterator[tuple[str, str, str, bool, np.ndarray, tuple[int, int]]]:
    """Yields (key, convention, method, antialias, image, size): one long axis or two short ones, and a wide one."""
    number = 0
    for convention, methods in METHODS.items():
        for method, antialias in methods:
            for kind in ("long", "long", "long", "short", "short", "short", "wide"):
                number += 1
                generator = np.random.default_rng(number)
                if kind == "long":
                    shape, size = generator.integers(1, 41, 2), generator.integers(1, 41, 2)
                    shape[1], size[1] = 2, 3
                elif kind == "short":
                    shape, size = generator.integers(1, 14, 2), generator.integers(1, 14, 2)
                else:
                    # Float32 coordinates go astray on wide images. Every eleventh column is kept.
                    shape, size = np.array((1, 1500 + number)), np.array((1, 2111 - 3 * number))
                image = generator.random((*shape, 1), np.float32)
                yield f"{number}", convention, method, antialias, image, (int(size[0]), int(size[1]))


def kept(y: np.ndarray) -> np.ndarray:
    """The part of a result that is committed."""
    return y[:, ::11] if y.shape[1] > 100 else y


def resize(convention: str, image: np.ndarray, size: tuple[int, int], method: str, antialias: bool) -> np.ndarray:
    """TensorFlow's resize of (height, width, channels)."""
    import tensorflow as tf

    if convention == "tensorflow":
        return tf.image.resize(image, size, method=method, antialias=antialias).numpy()
    corners = convention == "tensorflow1_align_corners"
    return tf.compat.v1.image.resize(image, size, method=method, align_corners=corners).numpy()


if __name__ == "__main__":
    np.savez_compressed(
        PATH,
        **{
            key: kept(resize(convention, image, size, method, antialias))
            for key, convention, method, antialias, image, size in cases()
        },
    )
