"""The upsamplers as Flax NNX modules; `create` builds any of them by name."""

from upsampling.nn import initializers
from upsampling.nn._create import MethodName, create
from upsampling.nn.attention import JAFAR, NAF, AnyUp, LoftUp
from upsampling.nn.convolution import Deconv, DUpsampling, MaxUnpool, ResizeConv, SubPixelConv, TransposedConv
from upsampling.nn.frequency import FreqFusion
from upsampling.nn.gate import AttentionGate
from upsampling.nn.guided import JBU, AdaptiveNorm, GuidedFilter, JBUStack, JointBilateral
from upsampling.nn.implicit import LIIF
from upsampling.nn.interpolation import Bicubic, Bilinear, Interpolate, Nearest
from upsampling.nn.matting import A2U, IndexNet
from upsampling.nn.reassembly import CARAFE, FADE, SAPA, FADELite
from upsampling.nn.registry import Method, Upsampler, available, find, register
from upsampling.nn.sampling import DySample, FlowAlignment
from upsampling.nn.uplift import UPLiFT

__all__ = [
    "A2U",
    "CARAFE",
    "FADE",
    "JAFAR",
    "JBU",
    "LIIF",
    "NAF",
    "SAPA",
    "AdaptiveNorm",
    "AnyUp",
    "AttentionGate",
    "Bicubic",
    "Bilinear",
    "DUpsampling",
    "Deconv",
    "DySample",
    "FADELite",
    "FlowAlignment",
    "FreqFusion",
    "GuidedFilter",
    "IndexNet",
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
    "UPLiFT",
    "Upsampler",
    "available",
    "create",
    "find",
    "initializers",
    "register",
]
