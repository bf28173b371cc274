"""Interpolation against PyTorch, jax.image and OpenCV."""

import functools
from collections.abc import Iterator

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import torch.nn.functional as F

import upsampling as up
from experiments.benchmarks import peers
from experiments.benchmarks.harness import Case, Contender, compiled, with_gradient

DESCRIPTION = (
    "`up.resize` and, on a CPU, PyTorch's `F.interpolate` (the faster of channels first and last, as many threads as "
    "cores), `jax.image.resize`, `cv2.resize` (forward, one image after the other), and a copy of as many bytes as "
    "the input and the output have. Float32. Factor 0.5 is antialiased, but for nearest."
)

PEERS = ("torch", "opencv-python-headless")

_SHAPES = ((8, 64, 64, 64), (8, 128, 128, 32), (1, 512, 512, 3), (1, 1080, 1920, 3), (16, 16, 16, 512))
_TORCH = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic", "lanczos3": "lanczos"}
_CV2 = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
_CV2_CHANNELS = 128
_FACTORS = (2, 4, 1.5, 0.5)


def cases() -> Iterator[Case]:
    """Every shape, method and factor, forward and with the gradient."""
    for shape in _SHAPES:
        x = np.random.default_rng(0).random(shape, np.float32)
        for method in _TORCH:
            for factor in _FACTORS:
                for gradient in (False, True):
                    name = "x".join(map(str, shape)) + f" {method} x{factor:g}" + " with gradient" * gradient
                    yield Case(name, functools.partial(_contenders, x, method, factor, gradient))


def _contenders(x: np.ndarray, method: str, factor: float, gradient: bool) -> dict[str, Contender]:
    size = (int(x.shape[1] * factor), int(x.shape[2] * factor))
    # PyTorch's Lanczos always antialiases, which changes nothing where the image grows.
    antialias = method == "lanczos3" or (factor < 1 and method != "nearest")
    y = np.ones((x.shape[0], *size, x.shape[3]), np.float32)
    ours = functools.partial(up.resize, size=size, method=method, antialias=antialias)
    jax_image = functools.partial(jax.image.resize, shape=y.shape, method=method, antialias=antialias)
    if gradient:
        arguments, ours, jax_image = (x, y), with_gradient(ours), with_gradient(jax_image)
    else:
        arguments = (x,)
    contenders = {"upsampling": compiled(ours, *arguments)}
    if jax.default_backend() == "cpu":
        contenders |= _peers(x, y, method, antialias, gradient)
    contenders["jax.image"] = compiled(jax_image, *arguments)
    contenders["copy"] = compiled(jnp.copy, np.ones((x.size + y.size) // 2 * (1 + gradient), np.float32))
    return contenders


def _peers(x: np.ndarray, y: np.ndarray, method: str, antialias: bool, gradient: bool) -> dict[str, Contender]:
    options = {} if method == "nearest" else {"align_corners": False, "antialias": antialias}
    resize = functools.partial(F.interpolate, size=y.shape[1:3], mode=_TORCH[method], **options)
    contenders = peers.fastest_in_torch(resize, (x,), y, gradient)
    if method in _CV2 and not gradient and not antialias and x.shape[3] <= _CV2_CHANNELS:
        size = (y.shape[2], y.shape[1])
        contenders["cv2"] = Contender(lambda: [cv2.resize(image, size, interpolation=_CV2[method]) for image in x])
    return contenders
