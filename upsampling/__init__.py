"""Every way that matters to make a feature map or an image larger, in JAX.

    import upsampling as up

Names by family; `up.nn` has them as Flax layers, `up.metrics` measures what they do to boundaries.
"""

from upsampling import analysis, conventions, interop, metrics, nn
from upsampling.convolution import (
    deconv,
    pixel_shuffle,
    pixel_unshuffle,
    sub_pixel_conv,
    transposed_conv,
    transposed_conv_size,
)
from upsampling.interpolation import area, bicubic, bilinear, lanczos3, nearest, resize
from upsampling.pooling import max_pool_with_indices, max_unpool

__all__ = [
    "analysis",
    "area",
    "bicubic",
    "bilinear",
    "conventions",
    "deconv",
    "interop",
    "lanczos3",
    "max_pool_with_indices",
    "max_unpool",
    "metrics",
    "nearest",
    "nn",
    "pixel_shuffle",
    "pixel_unshuffle",
    "resize",
    "sub_pixel_conv",
    "transposed_conv",
    "transposed_conv_size",
]

__version__ = "0.1.0"
