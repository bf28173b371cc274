"""The frameworks whose resize is reproduced, each as a function of (height, width, channels) arrays.

    resize(image, size, scale, method, antialias) -> image

One of size and scale is None. These are the oracles: none of our code is in them.
"""

import math
import warnings

import cv2
import jax
import numpy as np
import onnx.helper
import onnxruntime
import PIL.Image
import scipy.ndimage
import skimage.transform
from onnx import TensorProto

from tests.optional import F, torch

_TORCH = {"linear": "bilinear", "cubic": "bicubic", "lanczos3": "lanczos"}


def pytorch(image, size, scale, method, antialias, align_corners=False):
    options = {"align_corners": align_corners, "antialias": antialias} if method in _TORCH else {}
    # PyTorch 2.13 antialiases contiguous (N, C, H, W) to an output of width 1 wrongly: every row equals the first.
    x = torch.from_numpy(image)[None].movedim(-1, 1).contiguous(memory_format=torch.channels_last)
    y = F.interpolate(x, size, scale, _TORCH.get(method, method), **options)
    return y[0].movedim(0, -1).numpy()


def pytorch_align_corners(image, size, scale, method, antialias):
    return pytorch(image, size, scale, method, antialias, align_corners=True)


def jax_image(image, size, scale, method, antialias):
    shape = (*size, image.shape[2])
    return np.asarray(jax.image.resize(image, shape, method, antialias=antialias))


_CV2 = {
    "nearest": cv2.INTER_NEAREST,
    "nearest-exact": cv2.INTER_NEAREST_EXACT,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "lanczos4": cv2.INTER_LANCZOS4,
    "area": cv2.INTER_AREA,
}


def opencv(image, size, scale, method, antialias):
    how = {"dsize": None, "fy": scale[0], "fx": scale[1]} if size is None else {"dsize": size[::-1]}
    y = cv2.resize(image, interpolation=_CV2[method], **how)
    return y.reshape(*y.shape[:2], image.shape[2])


_PILLOW = {
    "nearest": PIL.Image.Resampling.NEAREST,
    "box": PIL.Image.Resampling.BOX,
    "linear": PIL.Image.Resampling.BILINEAR,
    "hamming": PIL.Image.Resampling.HAMMING,
    "cubic": PIL.Image.Resampling.BICUBIC,
    "lanczos3": PIL.Image.Resampling.LANCZOS,
    # Pillow 13 has these.
    **{
        name.lower(): PIL.Image.Resampling[name]
        for name in ("MKS2013", "MKS2021")
        if name in PIL.Image.Resampling.__members__
    },
}


def pillow(image, size, scale, method, antialias):
    channels = [PIL.Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])]
    return np.stack([np.asarray(c.resize(size[::-1], _PILLOW[method])) for c in channels], -1)


def onnx_runtime(image, size, scale, method, antialias, roi=None, **attributes):
    """The Resize operator, version 19, on the first two axes of a matrix per channel."""
    session = _resize_operator(image.shape[:2], size, scale, method, antialias, roi, attributes)
    return np.stack([session.run(None, {"x": np.ascontiguousarray(x)})[0] for x in np.moveaxis(image, -1, 0)], -1)


def _resize_operator(shape, size, scale, method, antialias, roi, attributes):
    given = {"roi": roi and [part[0] for part in roi] + [part[1] for part in roi], "scales": scale, "sizes": size}
    names = ["x", *(name if value is not None else "" for name, value in given.items())]
    constants = [
        onnx.helper.make_tensor(name, TensorProto.INT64 if name == "sizes" else TensorProto.FLOAT, [len(value)], value)
        for name, value in given.items()
        if value is not None
    ]
    node = onnx.helper.make_node(
        "Resize", names, ["y"], mode=method, antialias=int(antialias), axes=[0, 1], **attributes
    )
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "resize",
            [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", 19)],
        ir_version=9,
    )
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    quiet.intra_op_num_threads = 1  # nothing here is worth a thread
    return onnxruntime.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])


_MATLAB = {
    "nearest": (lambda x: (x >= -0.5) & (x < 0.5), 1),
    "box": (lambda x: (x >= -0.5) & (x < 0.5), 1),
    "linear": (lambda x: np.maximum(1 - np.abs(x), 0), 2),
    "cubic": (
        lambda x: np.select(
            [np.abs(x) <= 1, np.abs(x) <= 2],
            [
                1.5 * np.abs(x) ** 3 - 2.5 * x**2 + 1,
                -0.5 * np.abs(x) ** 3 + 2.5 * x**2 - 4 * np.abs(x) + 2,
            ],
        ),
        4,
    ),
    "lanczos2": (lambda x: np.sinc(x) * np.sinc(x / 2) * (np.abs(x) < 2), 4),
    "lanczos3": (lambda x: np.sinc(x) * np.sinc(x / 3) * (np.abs(x) < 3), 6),
}


def matlab(image, size, scale, method, antialias):
    """imresize's algorithm in float64: MATLAB itself is not at hand. Pixels are counted from one, as there."""
    if size is None:
        size = tuple(math.ceil(s * n) for s, n in zip(scale, image.shape, strict=False))
    else:
        scale = tuple(m / n for m, n in zip(size, image.shape, strict=False))
    rows, columns = (
        _matlab_contributions(n, m, s, *_MATLAB[method], antialias)
        for n, m, s in zip(image.shape, size, scale, strict=False)
    )
    return np.einsum("wj,hjc->hwc", columns, np.einsum("hi,ijc->hjc", rows, image.astype(np.float64), optimize=True))


def _matlab_contributions(n, m, scale, kernel, width, antialias):
    """The weights as a matrix, (m, n)."""
    shrinks = scale < 1 and antialias
    width = width / scale if shrinks else width
    center = np.arange(1, m + 1) / scale + 0.5 * (1 - 1 / scale)
    pixels = np.floor(center - width / 2)[:, None] + np.arange(math.ceil(width) + 2)
    distance = center[:, None] - pixels
    weights = scale * kernel(scale * distance) if shrinks else kernel(distance).astype(float)
    weights = weights / weights.sum(1, keepdims=True)
    mirrored = np.concatenate([np.arange(n), np.arange(n)[::-1]])
    matrix = np.zeros((m, n))
    np.add.at(matrix, (np.arange(m)[:, None], mirrored[(pixels.astype(int) - 1) % (2 * n)]), weights)
    return matrix


_ORDERS = {"nearest": 0, "linear": 1, "cubic": 3}


def scipy_zoom(image, size, scale, method, antialias, **options):
    scale = scale or tuple(m / n for m, n in zip(size, image.shape, strict=False))
    with warnings.catch_warnings(action="ignore"):  # that grid_mode has better modes than the default
        channels = [scipy.ndimage.zoom(c, scale, order=_ORDERS[method], **options) for c in np.moveaxis(image, -1, 0)]
    return np.stack(channels, -1)


def scipy_zoom_grid(image, size, scale, method, antialias):
    return scipy_zoom(image, size, scale, method, antialias, grid_mode=True)


def scikit_image(image, size, scale, method, antialias):
    size = size or tuple(max(round(s * n), 1) for s, n in zip(scale, image.shape, strict=False))
    return skimage.transform.resize(image, size, order=_ORDERS[method], anti_aliasing=antialias, preserve_range=True)


FRAMEWORKS = {
    "torch": pytorch,
    "torch_align_corners": pytorch_align_corners,
    "jax": jax_image,
    "opencv": opencv,
    "pillow": pillow,
    "matlab": matlab,
    "scipy": scipy_zoom,
    "scipy_grid": scipy_zoom_grid,
    "skimage": scikit_image,
}


def combinations(presets):
    """(framework, method, antialias) for all that the presets of the frameworks say they have."""
    return [
        (name, method, antialias)
        for name in FRAMEWORKS
        for antialias, methods in ((False, presets[name].methods), (True, presets[name].antialiased))
        for method in methods
        if name != "pillow" or method in _PILLOW
    ]
