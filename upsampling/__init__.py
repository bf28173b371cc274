"""Every way that matters to make a feature map or an image larger, in JAX.

    import upsampling as up

Names by family; `up.nn` has them as Flax layers, `up.metrics` measures what they do to boundaries.
"""

from upsampling import analysis, conventions, interop, metrics, nn
from upsampling.anything import upsample_anything
from upsampling.attention import neighborhood_attention
from upsampling.convolution import (
    deconv,
    pixel_shuffle,
    pixel_unshuffle,
    sub_pixel_conv,
    transposed_conv,
    transposed_conv_size,
)
from upsampling.guided import bilateral_kernel, guided_filter, joint_bilateral, learned_bilateral
from upsampling.interpolation import area, bicubic, bilinear, lanczos3, nearest, resize, scale_and_translate
from upsampling.pooling import max_pool_with_indices, max_unpool
from upsampling.reassembly import carafe, fade, reassemble, sapa
from upsampling.sampling import affine_grid, dysample, flow_warp, grid_sample, positions_from_grid

__all__ = [
    "affine_grid",
    "analysis",
    "area",
    "bicubic",
    "bilateral_kernel",
    "bilinear",
    "carafe",
    "conventions",
    "deconv",
    "dysample",
    "fade",
    "flow_warp",
    "grid_sample",
    "guided_filter",
    "interop",
    "joint_bilateral",
    "lanczos3",
    "learned_bilateral",
    "max_pool_with_indices",
    "max_unpool",
    "metrics",
    "nearest",
    "neighborhood_attention",
    "nn",
    "pixel_shuffle",
    "pixel_unshuffle",
    "positions_from_grid",
    "reassemble",
    "resize",
    "sapa",
    "scale_and_translate",
    "sub_pixel_conv",
    "transposed_conv",
    "transposed_conv_size",
    "upsample_anything",
]

__version__ = "0.1.0"
