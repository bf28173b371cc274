"""`create` for each method, with its options. Written by tests/nn/make_stub.py; do not edit."""

from collections.abc import Sequence
from typing import Literal, overload

import jax
from flax import nnx
from jax.typing import DTypeLike

from upsampling import conventions
from upsampling._arguments import Edge, Numbers, Padding
from upsampling.conventions import Convention, Preset
from upsampling.nn.attention import JAFAR, NAF, AnyUp, LoftUp
from upsampling.nn.convolution import Deconv, DUpsampling, MaxUnpool, ResizeConv, SubPixelConv, TransposedConv
from upsampling.nn.frequency import FreqFusion
from upsampling.nn.guided import JBU, GuidedFilter, JointBilateral, Mean, Norm
from upsampling.nn.implicit import LIIF
from upsampling.nn.initializers import Initializer
from upsampling.nn.interpolation import Bicubic, Bilinear, Nearest
from upsampling.nn.matting import A2U, Index, IndexNet
from upsampling.nn.reassembly import CARAFE, FADE, SAPA, FADELite, Similarity
from upsampling.nn.sampling import DySample, FlowAlignment, Gate, Style
from upsampling.nn.uplift import Kind, UPLiFT

MethodName = Literal[
    "nearest",
    "bilinear",
    "bicubic",
    "transposed_conv",
    "deconv",
    "sub_pixel_conv",
    "resize_conv",
    "max_unpool",
    "dupsampling",
    "naf",
    "anyup",
    "jafar",
    "loftup",
    "freqfusion",
    "joint_bilateral",
    "jbu",
    "guided_filter",
    "indexnet",
    "a2u",
    "carafe",
    "sapa",
    "fade",
    "fade_lite",
    "uplift",
    "liif",
    "dysample",
    "flow_alignment",
]

@overload
def create(
    name: Literal["nearest"],
    features: int,
    scale: float | Sequence[float] | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    size: Numbers | None = None,
    convention: Preset | Convention = "torch",
    antialias: bool | None = None,
) -> Nearest: ...
@overload
def create(
    name: Literal["bilinear"],
    features: int,
    scale: float | Sequence[float] | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    size: Numbers | None = None,
    convention: Preset | Convention = "torch",
    antialias: bool | None = None,
) -> Bilinear: ...
@overload
def create(
    name: Literal["bicubic"],
    features: int,
    scale: float | Sequence[float] | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    size: Numbers | None = None,
    convention: Preset | Convention = "torch",
    antialias: bool | None = None,
) -> Bicubic: ...
@overload
def create(
    name: Literal["transposed_conv"],
    features: int,
    scale: Numbers = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    out_features: int | None = None,
    kernel_size: Numbers | None = None,
    padding: Padding = "SAME",
    output_padding: Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer | None = None,
    bias_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> TransposedConv: ...
@overload
def create(
    name: Literal["deconv"],
    features: int,
    scale: Numbers = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    kernel: nnx.Param[jax.Array] | None = None,
    out_features: int | None = None,
    kernel_size: Numbers | None = None,
    padding: Padding = "SAME",
    dilation: Numbers = 1,
    groups: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer = ...,
    bias_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> Deconv: ...
@overload
def create(
    name: Literal["sub_pixel_conv"],
    features: int,
    scale: Numbers = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    out_features: int | None = None,
    kernel_size: Numbers = 3,
    padding: Padding = "SAME",
    use_bias: bool = True,
    kernel_init: Initializer = ...,
    bias_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> SubPixelConv: ...
@overload
def create(
    name: Literal["resize_conv"],
    features: int,
    scale: float | Sequence[float] = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    out_features: int | None = None,
    method: conventions.Method = "nearest",
    convention: Preset | Convention = "torch",
    kernel_size: Numbers = 3,
    padding: Padding = "SAME",
    use_bias: bool = True,
    kernel_init: Initializer = ...,
    bias_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> ResizeConv: ...
@overload
def create(
    name: Literal["max_unpool"],
    features: int,
    scale: Numbers = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
) -> MaxUnpool: ...
@overload
def create(
    name: Literal["dupsampling"],
    features: int,
    scale: Numbers = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    out_features: int | None = None,
    temperature: bool = False,
    kernel_init: Initializer | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> DUpsampling: ...
@overload
def create(
    name: Literal["naf"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: Literal["small"] | None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    dim: int = 256,
    kernel_size: int = 9,
    heads: int | None = 4,
    blocks: int = 2,
    groups: int = 8,
    base: float = 100.0,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> NAF: ...
@overload
def create(
    name: Literal["anyup"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: Literal["small", "natten"] | None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    dim: int = 128,
    kernel_size: int = 1,
    unify_kernel_size: int = 5,
    share: float = 0.1,
    neighborhood: bool = False,
    heads: int = 4,
    blocks: int = 2,
    groups: int = 8,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> AnyUp: ...
@overload
def create(
    name: Literal["jafar"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: Literal["small"] | None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    dim: int = 128,
    kernel_size: int = 1,
    heads: int = 4,
    blocks: int = 2,
    groups: int = 8,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> JAFAR: ...
@overload
def create(
    name: Literal["loftup"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: Literal["small"] | None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    frequencies: int = 20,
    place_frequencies: int = 5,
    highest: float = 10.0,
    heads: int | None = 4,
    blocks: int = 2,
    normalize: bool = True,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> LoftUp: ...
@overload
def create(
    name: Literal["freqfusion"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: Literal["small"] | None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    kernel_size: int = 5,
    highpass_kernel_size: int = 3,
    encoder_kernel_size: int = 3,
    compressed_features: int = 64,
    resample: bool = True,
    groups: int = 4,
    normalize: bool = True,
    hamming: bool = True,
    edge: Edge = "zero",
    kernel_init: Initializer = ...,
    filter_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> FreqFusion: ...
@overload
def create(
    name: Literal["joint_bilateral"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: Literal["features"] | None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    radius: int = 2,
    sigma_spatial: float = 0.5,
    sigma_range: float = 0.1,
) -> JointBilateral: ...
@overload
def create(
    name: Literal["jbu"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: Literal["small"] | None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    key_features: int = 32,
    radius: int = 3,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> JBU: ...
@overload
def create(
    name: Literal["guided_filter"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: Literal["small"] | None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    guide_map: bool = True,
    hidden: int = 64,
    leak: float = 0.0,
    map_bias: bool = True,
    map_norm: Norm | None = None,
    mean: Mean = "box",
    slope_hidden: int = 32,
    radius: int = 1,
    epsilon: float = 0.01,
    average: bool = False,
    convention: Preset | Convention = "torch_align_corners",
    norm: Norm | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> GuidedFilter: ...
@overload
def create(
    name: Literal["indexnet"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    index: Index = "m2o",
    nonlinear: bool = True,
    context: bool = True,
    kernel_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> IndexNet: ...
@overload
def create(
    name: Literal["a2u"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    kernel_size: int = 3,
    encoder_kernel_size: int = 6,
    share: bool = True,
    groups: int | None = None,
    kernel_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> A2U: ...
@overload
def create(
    name: Literal["carafe"],
    features: int,
    scale: Numbers = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    kernel_size: Numbers = 5,
    groups: int = 1,
    encoder_kernel_size: Numbers = 3,
    encoder_dilation: Numbers = 1,
    compressed_features: int = 64,
    compressor_init: Initializer = ...,
    encoder_init: Initializer = ...,
    bias_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> CARAFE: ...
@overload
def create(
    name: Literal["sapa"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    similarity: Similarity = "bilinear",
    kernel_size: Numbers = 5,
    embedding_features: int = 64,
    use_bias: bool = True,
    embed_values: bool = False,
    kernel_init: Initializer = ...,
    bias_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> SAPA: ...
@overload
def create(
    name: Literal["fade"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    kernel_size: Numbers = 5,
    encoder_kernel_size: Numbers = 3,
    compressed_features: int | None = 64,
    gated: bool = True,
    kernel_init: Initializer = ...,
    bias_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> FADE: ...
@overload
def create(
    name: Literal["fade_lite"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    kernel_size: Numbers = 5,
    encoder_kernel_size: Numbers = 3,
    gated: bool = True,
    kernel_init: Initializer = ...,
    bias_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> FADELite: ...
@overload
def create(
    name: Literal["uplift"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: Literal["small", "latents"] | None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    image_features: Sequence[int] = ...,
    hidden: int = 64,
    neighbors: int = 17,
    form: Kind = "features",
    steps: int | None = None,
    guide_scale: float = 1.0,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> UPLiFT: ...
@overload
def create(
    name: Literal["liif"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: Literal["small"] | None = None,
    size: Numbers | None = None,
    out_features: int | None = None,
    hidden: Sequence[int] = ...,
    ensemble: bool = True,
    unfold: bool = True,
    cell: bool = True,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> LIIF: ...
@overload
def create(
    name: Literal["dysample"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    size: Numbers | None = None,
    style: Style = "lp",
    groups: int = 4,
    dynamic_scope: bool = False,
    scope_bias: bool = False,
    kernel_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> DySample: ...
@overload
def create(
    name: Literal["flow_alignment"],
    features: int,
    scale: Numbers | None = 2,
    *,
    rngs: nnx.Rngs,
    variant: None = None,
    size: Numbers | None = None,
    guide_features: int | None = None,
    flow_features: int | None = None,
    gate: Gate | None = None,
    align_corners: bool = True,
    edge: Edge = "zero",
    kernel_init: Initializer = ...,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = ...,
) -> FlowAlignment: ...
