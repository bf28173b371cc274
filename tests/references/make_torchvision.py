"""Makes torchvision.npz, what torchvision's resize returns for images of 8 bits, where torchvision is installed:

    python tests/references/make_torchvision.py

The inputs are drawn anew from the case's number, here and in the test.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("torchvision.npz")

# (rows, columns) before and after: larger, smaller, both, one axis alone, an image of a few pixels.
SIZES = (((13, 17), (29, 23)), ((31, 38), (14, 9)), ((24, 15), (7, 22)), ((16, 11), (16, 25)), ((3, 2), (10, 7)))


def cases() -> Iterator[tuple[str, np.ndarray, tuple[int, int], str, bool]]:
    """Yields (key, image, size, method, antialias), images (height, width, 3)."""
    number = 0
    for method in ("bilinear", "bicubic"):
        for antialias in (True, False):
            for shape, size in SIZES:
                number += 1
                image = np.random.default_rng(number).integers(0, 256, (*shape, 3)).astype(np.uint8)
                # Steep edges, where cubic leaves the range of 8 bits.
                yield f"{number}", np.uint8(255) * (image > 127) if number % 2 else image, size, method, antialias


def resize(image: np.ndarray, size: tuple[int, int], method: str, antialias: bool) -> np.ndarray:
    """torchvision's resize of (height, width, channels), which lie last in memory as of a decoded picture."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    x = torch.from_numpy(image).permute(2, 0, 1)
    y = functional.resize(x, list(size), interpolation=InterpolationMode(method), antialias=antialias)
    return y.permute(1, 2, 0).numpy()


if __name__ == "__main__":
    np.savez_compressed(PATH, **{key: resize(*case) for key, *case in cases()})
