"""The upsamplers as Flax NNX modules; `create` builds any of them by name."""

from upsampling.nn import initializers
from upsampling.nn._create import MethodName, create
from upsampling.nn.attention import JAFAR, NAF, AnyUp, LoftUp
from upsampling.nn.convolution import Deconv, DUpsampling, MaxUnpool, ResizeConv, SubPixelConv, TransposedConv
from upsampling.nn.guided import JBU, GuidedFilter, JBUStack, JointBilateral
from upsampling.nn.interpolation import Bicubic, Bilinear, Interpolate, Nearest
from upsampling.nn.reassembly import CARAFE, FADE, SAPA, FADELite
from upsampling.nn.registry import Method, Upsampler, available, find, register
from upsampling.nn.sampling import DySample, FlowAlignment

__all__ = [
    "CARAFE",
    "FADE",
    "JAFAR",
    "JBU",
    "NAF",
    "SAPA",
    "AnyUp",
    "Bicubic",
    "Bilinear",
    "DUpsampling",
    "Deconv",
    "DySample",
    "FADELite",
    "FlowAlignment",
    "GuidedFilter",
    "Interpolate",
    "JBUStack",
    "JointBilateral",
    "LoftUp",
    "MaxUnpool",
    "Method",
    "MethodName",
    "Nearest",
    "ResizeConv",
    "SubPixelConv",
    "TransposedConv",
    "Upsampler",
    "available",
    "create",
    "find",
    "initializers",
    "register",
]
