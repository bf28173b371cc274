"""FreqFusion against a plain statement in PyTorch, under its authors' names."""

import jax
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from tests.interop.agreement import agree, first, last, normal, shaken
from tests.optional import F, torch

Conv2d, Module = torch.nn.Conv2d, torch.nn.Module


def filtered(x, logits, hamming, edge):
    """(n, c, h, w) by logits (n, k * k, H, W): the mean of the window around the nearest pixel."""
    n, c, h, w = x.shape
    size, k = logits.shape[2:], round(logits.shape[1] ** 0.5)
    weights = logits.softmax(1)
    if hamming:
        weights = weights * torch.tensor(np.outer(np.hamming(k), np.hamming(k)).ravel()[:, None, None])
        weights = (weights / weights.sum(1, keepdim=True)).float()
    modes = {"zero": "constant", "reflect": "reflect"}
    seen = F.unfold(F.pad(x, [k // 2] * 4, mode=modes[edge]), k).reshape(n, c * k * k, h, w)
    return (F.interpolate(seen, size).reshape(n, c, k * k, *size) * weights[:, None]).sum(2)


def cosines(x):
    n, c, h, w = x.shape
    seen = F.unfold(x, 3, padding=2, dilation=2).reshape(n, c, 9, h, w)
    found = F.cosine_similarity(seen, x[:, :, None], dim=1)
    return torch.cat([found[:, :4], found[:, 5:]], 1)


class Sampler(Module):
    def __init__(self, inner, groups, norm):
        super().__init__()
        self.groups = groups
        make = lambda out: Conv2d(inner + 8, out, 3, padding=1)  # noqa: E731
        self.offset, self.direct_scale = make(8 * groups), make(8 * groups)
        self.hr_offset, self.hr_direct_scale = make(2 * groups), make(2 * groups)
        if norm:
            self.norm_hr, self.norm_lr = (torch.nn.GroupNorm(inner // 8, inner) for _ in range(2))
        self.register_buffer("init_pos", torch.zeros(1, 8 * groups, 1, 1))

    def forward(self, fine, coarse, y):
        if hasattr(self, "norm_hr"):
            fine, coarse = self.norm_hr(fine), self.norm_lr(coarse)
        inputs, size = coarse.shape[2:], fine.shape[2:]
        fine, coarse = (torch.cat([a, cosines(a)], 1) for a in (fine, coarse))
        both = lambda low, high: F.interpolate(F.pixel_shuffle(low(coarse), 2), size) + high(fine)  # noqa: E731
        moves = both(self.offset, self.hr_offset) * both(self.direct_scale, self.hr_direct_scale).sigmoid()
        moves = moves.reshape(len(y), 2, self.groups, *size)
        blocks = []
        for block, move in zip(y.chunk(self.groups, 1), moves.unbind(2), strict=True):
            column = 2 * ((torch.arange(size[1]) + 0.5) / size[1] + move[:, 0] / inputs[1]) - 1
            row = 2 * ((torch.arange(size[0]) + 0.5)[:, None] / size[0] + move[:, 1] / inputs[0]) - 1
            grid = torch.stack([column, row], -1)
            blocks.append(F.grid_sample(block, grid, padding_mode="border", align_corners=False))
        return torch.cat(blocks, 1)


class FreqFusion(Module):
    """arXiv:2408.12879; `fuse` gives the upsampled map and the sharpened guide."""

    def __init__(self, features, guide, inner, hamming=True, sampler=None, edge="zero"):
        super().__init__()
        self.hamming, self.edge = hamming, edge
        self.hr_channel_compressor, self.lr_channel_compressor = Conv2d(guide, inner, 1), Conv2d(features, inner, 1)
        self.content_encoder, self.content_encoder2 = Conv2d(inner, 25, 3, padding=1), Conv2d(inner, 9, 3, padding=1)
        if sampler is not None:
            self.dysampler = sampler
        self.register_buffer("hamming_lowpass", torch.ones(1, 1, 5, 5))
        self.register_buffer("hamming_highpass", torch.ones(1, 1, 3, 3))

    def fuse(self, x, guide):
        by = lambda a, logits: filtered(a, logits, self.hamming, self.edge)  # noqa: E731
        fine, coarse = self.hr_channel_compressor(guide), self.lr_channel_compressor(x)
        high = self.content_encoder2(fine)
        fine = fine + (fine - by(fine, high))
        low = self.content_encoder(fine)
        low = low + by(self.content_encoder(coarse), low)
        high = high + by(self.content_encoder2(coarse), low)
        y = by(x, low)
        if hasattr(self, "dysampler"):
            y = self.dysampler(fine, coarse, y)
        return y, guide + (guide - by(guide, high))

    def forward(self, x, guide):
        return self.fuse(x, guide)[0]


@pytest.mark.parametrize(
    ("size", "options", "sampler"),
    [
        ((8, 10), {}, True),
        ((7, 13), {"hamming": False}, False),
        ((8, 10), {"edge": "reflect"}, None),
    ],
)
def test_freqfusion(size, options, sampler):
    """With normalization before the offsets, without it, and without offsets."""
    made = None if sampler is None else Sampler(16, 2, sampler)
    theirs = shaken(FreqFusion(6, 3, 16, sampler=made, **options))
    settings = {"resample": sampler is not None, "normalize": bool(sampler), **options}
    layer = up.nn.FreqFusion(6, guide_features=3, compressed_features=16, groups=2, **settings, rngs=nnx.Rngs(0))
    maps = normal(0, 2, 4, 5, 6), normal(1, 2, *size, 3)
    agree(layer, theirs, lambda module, x, guide: module(x, guide), *maps)
    if sampler:
        for ours, expected in zip(jax.jit(layer.fuse)(*maps), theirs.fuse(*map(first, maps)), strict=True):
            np.testing.assert_allclose(ours, last(expected), atol=1e-4)
        layer = up.nn.FreqFusion(64, rngs=nnx.Rngs(0))
        up.interop.torch.load_state_dict(layer, FreqFusion(64, 64, 64, sampler=Sampler(64, 4, True)).state_dict())
