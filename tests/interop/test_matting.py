"""IndexNet and A2U against plain statements in PyTorch, under their authors' names."""

import chex
import jax
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from tests.interop.agreement import agree, normal, shaken
from tests.optional import F, torch
from upsampling import matting

Conv2d, Sequential = torch.nn.Conv2d, torch.nn.Sequential


class Index(torch.nn.Module):
    """The three index blocks, arXiv:1908.00672, and what the decoder does with them."""

    def __init__(self, channels, index, nonlinear, context):
        super().__init__()
        self.index = index
        window, margin = (4, 1) if context else (2, 0)
        groups = channels if index == "o2o" else 1
        out, inner = (4, 2 * channels) if index == "holistic" else (channels, channels)

        def block():
            first = Conv2d(channels, inner if nonlinear else out, window, 2, margin, groups=groups, bias=False)
            if not nonlinear:
                return first if index == "holistic" else Sequential(first)
            last = Conv2d(inner, out, 1, groups=groups, bias=False)
            return Sequential(first, torch.nn.BatchNorm2d(inner), torch.nn.ReLU6(), last)

        if index == "holistic":
            self.indexnet = block()
        else:
            self.indexnet1, self.indexnet2, self.indexnet3, self.indexnet4 = (block() for _ in range(4))

    def forward(self, x, guide):
        high = F.pad(guide, (0, guide.shape[3] % 2, 0, guide.shape[2] % 2), mode="replicate")
        if self.index == "holistic":
            cells = torch.sigmoid(self.indexnet(high))
        else:
            blocks = [getattr(self, f"indexnet{n}")(high) for n in range(1, 5)]
            cells = torch.sigmoid(torch.stack(blocks, 2)).flatten(1, 2)
        indices = F.pixel_shuffle(cells, 2)[..., : guide.shape[2], : guide.shape[3]]
        return indices * F.interpolate(x, guide.shape[2:])


@pytest.mark.parametrize(
    ("index", "nonlinear", "context", "size"),
    [
        ("m2o", True, True, (8, 10)),
        ("m2o", False, False, (7, 11)),
        ("o2o", True, True, (7, 11)),
        ("holistic", True, False, (8, 10)),
        ("holistic", False, True, (7, 11)),
    ],
)
def test_indexnet(index, nonlinear, context, size):
    theirs = shaken(Index(6, index, nonlinear, context))
    layer = up.nn.IndexNet(6, index=index, nonlinear=nonlinear, context=context, rngs=nnx.Rngs(0))
    agree(layer, theirs, lambda module, x, guide: module(x, guide), normal(0, 2, 4, 5, 6), normal(1, 2, *size, 6))


class InterChannelUpDown(torch.nn.Module):
    """A2U, arXiv:2011.14288, and the window sum that its weights are for."""

    def __init__(self, channels, s, k, share, groups):
        super().__init__()
        self.s, self.k = s, k
        norm = lambda: Sequential(torch.nn.GroupNorm(groups, channels), torch.nn.LeakyReLU())  # noqa: E731
        self.bnu, self.bnv = norm(), norm()
        pool = lambda side, out: Sequential(torch.nn.AdaptiveAvgPool2d(side), Conv2d(channels, out, 1))  # noqa: E731
        self.bconv_UP, self.bconv_DP = pool(1, 4 * s * s), pool(1, 4 * s * s)
        self.bconv_U, self.bconv_V = (pool(k, 1 if share else channels) for _ in range(2))

    def forward(self, x, guide):
        high = F.pad(guide, (0, guide.shape[3] % 2, 0, guide.shape[2] % 2), mode="replicate")
        c, s, pad = guide.shape[1], self.s, (self.k - 1) // 2
        logits = []
        for image in high[:, None]:
            kernels = (pool(image)[0][:, None].expand(c, 1, -1, -1) for pool in (self.bconv_U, self.bconv_V))
            found = [F.conv2d(image, kernel, stride=2, padding=pad, groups=c) for kernel in kernels]
            affinity = (self.bnu(found[0]) * self.bnv(found[1])).sum(1, keepdim=True) / c**0.5
            logits.append(F.pixel_shuffle(affinity * self.bconv_UP(image), 2))
        logits = torch.cat(logits)[..., : guide.shape[2], : guide.shape[3]]
        weights = torch.sigmoid(logits).softmax(1)
        n, channels, h, w = x.shape
        seen = F.unfold(x, s, padding=s // 2).reshape(n, channels * s * s, h, w)
        seen = F.interpolate(seen, guide.shape[2:]).reshape(n, channels, s * s, *guide.shape[2:])
        return (seen * weights[:, None]).sum(2)


@pytest.mark.parametrize(
    ("s", "k", "share", "size"),
    [(3, 6, True, (8, 10)), (5, 5, False, (7, 11)), (3, 3, True, (9, 5)), (3, 4, True, (8, 10))],
)
def test_a2u(s, k, share, size):
    theirs = shaken(InterChannelUpDown(6, s, k, share, 2))
    layer = up.nn.A2U(
        4, guide_features=6, kernel_size=s, encoder_kernel_size=k, share=share, groups=2, rngs=nnx.Rngs(0)
    )
    agree(layer, theirs, lambda module, x, guide: module(x, guide), normal(0, 2, 4, 5, 4), normal(1, 2, *size, 6))


def test_published_sizes():
    """The authors' settings are the defaults, and 32 groups."""
    theirs = InterChannelUpDown(64, 3, 6, True, 32)
    layer = up.nn.A2U(64, rngs=nnx.Rngs(0))
    up.interop.torch.load_state_dict(layer, theirs.state_dict())
    assert layer.first_norm.num_groups == 32
    up.interop.torch.load_state_dict(up.nn.IndexNet(8, rngs=nnx.Rngs(0)), Index(8, "m2o", True, True).state_dict())


@pytest.mark.parametrize("k", [1, 2, 5])
def test_forms_of_convolutions_of_cells(k):
    """Of one kernel and of two at once, forward and backward, by all images of a batch and under vmap."""
    x, kernels = normal(0, 2, 6, 8, 4), normal(1, 2, k, k, 4)
    cotangents = tuple(normal(i, 2, 3, 4, 4) for i in (2, 3))

    def pulled(forms, *arrays):
        y, pull_back = jax.vjp(forms, *arrays)
        return y, pull_back(cotangents)

    def apart(form):
        return lambda x, *own: tuple(form(x, k) for k in own)

    for own in ((kernels, kernels[..., ::-1]), (kernels[..., :1], kernels[..., 1:2])):
        expected = pulled(apart(matting._by_windows), x, *own)
        for form in (apart(matting._by_taps), matting._by_convolution, jax.vmap(matting._by_convolution)):
            chex.assert_trees_all_close(pulled(form, x, *own), expected, rtol=0, atol=6e-6)
    (alone,) = matting._by_convolution(x, kernels)
    np.testing.assert_allclose(alone, matting._by_windows(x, kernels), rtol=0, atol=6e-6)
