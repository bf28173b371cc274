"""The upsamplers as Flax NNX modules; `create` builds any of them by name."""

from upsampling.nn import initializers
from upsampling.nn.convolution import Deconv, DUpsampling, MaxUnpool, ResizeConv, SubPixelConv, TransposedConv
from upsampling.nn.interpolation import Bicubic, Bilinear, Interpolate, Nearest
from upsampling.nn.registry import Method, Upsampler, available, create

__all__ = [
    "Bicubic",
    "Bilinear",
    "DUpsampling",
    "Deconv",
    "Interpolate",
    "MaxUnpool",
    "Method",
    "Nearest",
    "ResizeConv",
    "SubPixelConv",
    "TransposedConv",
    "Upsampler",
    "available",
    "create",
    "initializers",
]
