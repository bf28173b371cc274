"""The figures of the pages and of the README, made by `upsampling.analysis.show`: `python -m docs.making.figures`."""

import functools
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import upsampling as up

show = up.analysis.show

INTERPOLATION = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos3": functools.partial(up.lanczos3, scale=4, convention="jax"),
}
SIX = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bilinear, TensorFlow 1": functools.partial(up.bilinear, scale=4, convention="tensorflow1"),
    "bicubic": "bicubic",
    "lanczos3": functools.partial(up.lanczos3, scale=4, convention="jax"),
    "joint bilateral, by a guide": "joint_bilateral",
}
"""The methods of the README's picture, none of which is trained."""


def uneven(x: Any) -> Any:
    """A transposed convolution whose window of 3 overlaps unevenly at stride 2, as it may be initialized."""
    return up.transposed_conv(x, jnp.ones((3, 3, 1, 1)) * 4 / 9, padding=((0, 1), (0, 1)))


def even(x: Any) -> Any:
    """The same with a window of 4 and the weights of bilinear interpolation."""
    taps = jnp.asarray([1.0, 3.0, 3.0, 1.0]) / 4
    return up.transposed_conv(x, (taps[:, None] * taps)[..., None, None])


def _checkerboard() -> Any:
    flat = np.full((24, 24), 0.5)
    return show({"kernel 3, stride 2": uneven, "kernel 4, stride 2": even}, "pictures", picture=flat, columns=4)


def _noisy_guide() -> Any:
    """Guided methods with a guide that has noise, and an edge that is not in the picture."""
    from upsampling import _figures

    truth = _figures.scene(4)
    noise = np.random.default_rng(0).normal(0, 0.15, truth.shape)
    guide = np.clip(0.2 + 0.6 * truth + noise, 0, 1)
    guide[:, 44:48] = 0.9
    return show(
        {"bilinear": "bilinear", "joint bilateral": "joint_bilateral", "guided filter": _guided_filter(guide)},
        "boundaries",
        scale=4,
        guide=guide,
    )


def _guided_filter(guide: Any) -> Callable:
    """The guided filter as a function, which has nothing to learn."""
    return lambda x: up.guided_filter(x, jnp.asarray(guide, jnp.float32))


FIGURES: dict[str, Callable[[], Any]] = {
    "boundaries": lambda: show(SIX, "boundaries", scale=4),
    "edge": lambda: show(SIX, "edge", scale=4),
    "responses": lambda: show(INTERPOLATION, "responses", scale=4),
    "phases": lambda: show({k: v for k, v in INTERPOLATION.items() if k != "nearest"}, "phases", scale=4),
    "checkerboard": _checkerboard,
    "uneven": lambda: show({"kernel 3, stride 2": uneven, "kernel 4, stride 2": even}, "responses"),
    "guide": _noisy_guide,
}
"""By name; a page shows one as `figures/NAME.png`."""


def png(name: str, dpi: int = 110) -> bytes:
    """A figure as a file."""
    written = io.BytesIO()
    FIGURES[name]().savefig(written, format="png", dpi=dpi, metadata={"Software": None})
    return written.getvalue()


def main(folder: Path = Path(__file__).parents[1] / "images") -> None:
    """Writes the picture of the README, the one that is committed."""
    folder.mkdir(exist_ok=True)
    (folder / "boundaries.png").write_bytes(png("boundaries", 100))


if __name__ == "__main__":
    sys.exit(main())
