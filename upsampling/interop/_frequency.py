"""The loader for FreqFusion."""

from upsampling.interop._sampling import groups_first
from upsampling.interop._states import Loaded, State, conv_shape, convolution, from_conv, loads, normalization
from upsampling.nn.frequency import FreqFusion


@loads(FreqFusion)
def _freqfusion(layer: FreqFusion, state: State) -> Loaded:
    """The authors' `FreqFusion`; its buffers, Hamming windows and first positions, follow from its settings."""
    state.skip("hamming_lowpass", "hamming_highpass", "dysampler.init_pos")
    for name, part in {
        "hr_channel_compressor": layer.guide_compressor,
        "lr_channel_compressor": layer.map_compressor,
        "content_encoder": layer.low,
        "content_encoder2": layer.high,
    }.items():
        yield from convolution(state, f"{name}.", part)
    if layer.resampler is None:
        return
    sampler = layer.resampler
    for name, norm in zip(("hr", "lr"), sampler.norms, strict=False):
        yield from normalization(state, f"dysampler.norm_{name}.", norm)
    for name, part in {
        "offset": sampler.offset,
        "direct_scale": sampler.scope,
        "hr_offset": sampler.guide_offset,
        "hr_direct_scale": sampler.guide_scope,
    }.items():
        weight = from_conv(state.take(f"dysampler.{name}.weight", conv_shape(part.kernel.shape)))
        yield part.kernel, groups_first(weight, sampler.groups)
        yield part.bias, groups_first(state.take(f"dysampler.{name}.bias", part.bias.shape), sampler.groups)
