"""State dicts of FeatUp's, Wu et al.'s and NAF's upsamplers give their numbers.

The modules are stated anew, with the same names.
"""

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
import torch
import torch.nn.functional as F
from flax import nnx
from torch.nn import Conv2d, Dropout2d, GroupNorm, Module, Parameter, Sequential

import upsampling as up
from tests.interop.agreement import agree, first, last, normal, shaken
from upsampling.interop.torch import load_state_dict


class JBULearnedRange(Module):
    """FeatUp's layer: arXiv:2403.10516 and the names of its published checkpoints."""

    def __init__(self, guide, keys, radius):
        super().__init__()
        self.radius, k = radius, (2 * radius + 1) ** 2
        self.range_temp = Parameter(torch.tensor(0.0))
        self.sigma_spatial = Parameter(torch.tensor(1.0))
        gelu = torch.nn.GELU
        self.range_proj = Sequential(Conv2d(guide, keys, 1), gelu(), Dropout2d(0.1), Conv2d(keys, keys, 1))
        self.fixup_proj = Sequential(Conv2d(guide + k, k, 1), gelu(), Dropout2d(0.1), Conv2d(k, k, 1))

    def windows(self, x):
        """(n, c, h, w) to (n, c, k * k, h, w)"""
        n, c, h, w = x.shape
        x = F.pad(x, [self.radius] * 4, mode="reflect")
        return F.unfold(x, 2 * self.radius + 1).reshape(n, c, -1, h, w)

    def forward(self, source, guide):
        embedding = self.range_proj(guide)
        likeness = (self.windows(embedding) * embedding[:, :, None]).sum(1)
        kernel = torch.softmax(self.range_temp.exp() * likeness, 1)
        steps = torch.linspace(-1, 1, 2 * self.radius + 1)
        gaussian = torch.exp(-(steps[:, None] ** 2 + steps**2) / (2 * self.sigma_spatial**2)).reshape(1, -1, 1, 1)
        kernel = kernel * gaussian
        kernel = kernel / kernel.sum(1, keepdim=True)
        kernel = kernel + 0.1 * self.fixup_proj(torch.cat([kernel, guide], 1))
        large = F.interpolate(source, guide.shape[-2:], mode="bicubic")
        return (self.windows(large) * kernel[:, None]).sum(2)


class JBUStack(Module):
    def __init__(self, features, keys, radius):
        super().__init__()
        self.up1, self.up2 = (JBULearnedRange(3, keys, radius) for _ in range(2))
        self.fixup_proj = Sequential(Dropout2d(0.2), Conv2d(features, features, 1))

    def forward(self, x, guide):
        for layer in (self.up1, self.up2):
            x = layer(x, F.adaptive_avg_pool2d(guide, [2 * n for n in x.shape[-2:]]))
        return x + 0.1 * self.fixup_proj(x)


def test_jbu():
    theirs = shaken(JBULearnedRange(3, 5, 2))
    layer = up.nn.JBU(4, (2, 3), guide_features=3, key_features=5, radius=2, rngs=nnx.Rngs(0))
    assert load_state_dict(layer, theirs.state_dict()) is layer
    agree(layer, theirs, lambda module, x, guide: module(x, guide), normal(0, 2, 4, 5, 4), normal(1, 2, 8, 15, 3))


def test_jbu_stack():
    theirs = shaken(JBUStack(4, 6, 1))
    layer = up.nn.JBUStack(4, 4, key_features=6, radius=1, rngs=nnx.Rngs(0))
    state = {f"upsampler.{name}": value.numpy() for name, value in theirs.state_dict().items()}
    load_state_dict(layer, state, prefix="upsampler.")
    x, guide = normal(0, 2, 3, 4, 4), normal(1, 2, 12, 16, 3)
    np.testing.assert_allclose(layer(x, guide), last(theirs(first(x), first(guide))), atol=1e-4)
    # Features of stride 14 come with an image that is less than 16 times as large.
    guide = normal(2, 2, 11, 15, 3)
    np.testing.assert_allclose(layer(x, guide, any_guide=True), last(theirs(first(x), first(guide))), atol=1e-4)


class Branch(Sequential):
    def __init__(self, channels, width, window, groups):
        conv = lambda n: Conv2d(n, width, window, padding=window // 2, padding_mode="reflect")  # noqa: E731
        super().__init__(conv(channels))
        for _ in range(2):
            block = Module()
            block.norm1, block.norm2 = GroupNorm(groups, width), GroupNorm(groups, width)
            block.conv1, block.conv2 = (
                Conv2d(width, width, window, padding=window // 2, padding_mode="zeros" if window == 1 else "reflect")
                for _ in range(2)
            )
            self.append(block)

    def forward(self, x):
        x = self[0](x)
        for block in list(self)[1:]:
            x = block.conv1(F.silu(block.norm1(x)))
            x = block.conv2(F.silu(block.norm2(x)))
        return x


class NAF(Module):
    """NAF for whole factors: arXiv:2511.18452 and the names of its published checkpoint."""

    def __init__(self, dim, heads, window, groups):
        super().__init__()
        self.heads, self.window = heads, window
        self.image_encoder = Module()
        self.image_encoder.encoder = Branch(3, dim // 2, 1, groups)
        self.image_encoder.sem_encoder = Branch(3, dim // 2, 3, groups)
        self.image_encoder.rope = Module()
        quarter = dim // heads // 4
        self.image_encoder.rope.register_buffer("periods", 100.0 ** (torch.arange(quarter) / quarter))

    def rotated(self, x):
        n, _, h, w = x.shape
        turns = [(torch.arange(0.5, m) / m * 2 - 1)[:, None] / self.image_encoder.rope.periods for m in (h, w)]
        angles = torch.cat([turns[0][:, None].expand(h, w, -1), turns[1].expand(h, w, -1)], -1).permute(2, 0, 1)
        pairs = x.reshape(n, self.heads, 2, -1, h, w)
        points = torch.complex(pairs[:, :, 0], pairs[:, :, 1]) * torch.exp(2j * torch.pi * angles)
        return torch.stack([points.real, points.imag], 2).reshape(x.shape)

    def forward(self, image, x, size):
        limit = 4 * min(size)
        if image.shape[-2] > 4 * size[0] or image.shape[-1] > 4 * size[1]:
            image = F.interpolate(image, [min(n, limit) for n in image.shape[-2:]], mode="bilinear")
        encoder = self.image_encoder
        queries = torch.cat([encoder.encoder(image), encoder.sem_encoder(image)], 1)
        queries = self.rotated(F.adaptive_avg_pool2d(queries, size))
        n, c, h, w = x.shape
        keys = F.adaptive_avg_pool2d(queries, (h, w))
        y = torch.zeros(n, c, *size)
        split = lambda a: a.reshape(n, self.heads, -1, *a.shape[2:])  # noqa: E731
        queries, keys, values = split(queries), split(keys), split(x)
        for i in range(size[0]):
            for j in range(size[1]):
                a, b = (min(max(p * m // s - self.window // 2, 0), m - self.window)
                        for p, m, s in ((i, h, size[0]), (j, w, size[1])))  # fmt: skip
                k = keys[..., a : a + self.window, b : b + self.window].flatten(3)
                v = values[..., a : a + self.window, b : b + self.window].flatten(3)
                logits = torch.einsum("nhd,nhdp->nhp", queries[..., i, j], k) / k.shape[2] ** 0.5
                y[..., i, j] = torch.einsum("nhp,nhcp->nhc", logits.softmax(-1), v).flatten(1)
        return y


@pytest.mark.parametrize(("size", "image"), [((8, 10), (8, 10)), ((12, 20), (9, 30)), ((4, 5), (40, 22))])
def test_naf(size, image):
    """At the guide's size, from a guide of another size, and from one that is first made smaller."""
    theirs = shaken(NAF(16, 2, 3, 4))
    layer = up.nn.NAF(6, guide_features=3, dim=16, heads=2, kernel_size=3, blocks=2, groups=4, rngs=nnx.Rngs(0))
    load_state_dict(layer, theirs.state_dict())
    x, guide = normal(0, 2, 4, 5, 6), normal(1, 2, *image, 3)
    expected = last(theirs(first(guide), first(x), size))
    np.testing.assert_allclose(layer(x, guide, size=size), expected, atol=1e-4)
    if size == image:
        agree(layer, theirs, lambda module, x, guide: module(guide, x, size), x, guide)


def test_published_sizes_have_the_published_names():
    """Every name and shape of the authors' models at their own settings."""
    layer = up.nn.NAF(384, guide_features=3, rngs=nnx.Rngs(0))
    load_state_dict(layer, NAF(256, 4, 9, 8).state_dict())
    stack = up.nn.JBUStack(384, 16, rngs=nnx.Rngs(0))
    state = {
        f"up{n}.{name}": value for n in range(1, 5) for name, value in JBULearnedRange(3, 32, 3).state_dict().items()
    }
    convolution = Conv2d(384, 384, 1).state_dict()
    load_state_dict(stack, state | {f"fixup_proj.1.{name}": value for name, value in convolution.items()})
    np.testing.assert_array_equal(
        stack.layers[2].fixup_proj[1].kernel[...], state["up3.fixup_proj.3.weight"][..., 0, 0].T
    )


class AdaptiveNorm(Module):
    def __init__(self, n):
        super().__init__()
        self.w_0, self.w_1 = Parameter(torch.ones(1)), Parameter(torch.zeros(1))
        self.bn = torch.nn.BatchNorm2d(n, momentum=0.999, eps=0.001)

    def forward(self, x):
        return self.w_0 * x + self.w_1 * self.bn(x)


class DeepGuidedFilter(Module):
    """Wu et al. 2018, arXiv:1803.05619: a map of the guide, in three forms, and the fast guided filter of two."""

    def __init__(self, form, epsilon):
        super().__init__()
        self.form, self.epsilon = form, epsilon
        if form == "segmentation":
            self.guided_map_conv1, self.guided_map_conv2 = Conv2d(3, 7, 1), Conv2d(7, 3, 1)
            return
        first = Conv2d(3, 7, 1, bias=False)
        self.guided_map = Sequential(first, AdaptiveNorm(7), torch.nn.LeakyReLU(0.2), Conv2d(7, 3, 1))
        if form == "convolution":
            self.gf = Module()
            self.gf.box_filter = Conv2d(3, 3, 3, padding=1, bias=False, groups=3)
            layers = []
            for a, b in ((6, 5), (5, 5)):
                layers += [Conv2d(a, b, 1, bias=False), torch.nn.BatchNorm2d(b), torch.nn.ReLU()]
            self.gf.conv_a = Sequential(*layers, Conv2d(5, 3, 1, bias=False))

    def mapped(self, guide):
        if self.form == "segmentation":
            return self.guided_map_conv2(torch.relu(self.guided_map_conv1(guide)))
        return self.guided_map(guide)

    def forward(self, y, guide):
        high, x = self.mapped(guide), self.mapped(F.adaptive_avg_pool2d(guide, y.shape[2:]))
        conv = self.form == "convolution"
        weight = self.gf.box_filter.weight if conv else torch.ones(3, 1, 3, 3)
        total = lambda a: F.conv2d(a, weight, padding=1, groups=3)  # noqa: E731
        mean = lambda a: total(a) / total(torch.ones_like(a))  # noqa: E731
        covariance, variance = mean(x * y) - mean(x) * mean(y), mean(x * x) - mean(x) ** 2
        both = torch.cat([covariance, variance], 1)
        slope = self.gf.conv_a(both) if conv else covariance / (variance + self.epsilon)
        intercept = mean(y) - slope * mean(x)
        large = [F.interpolate(a, guide.shape[2:], mode="bilinear", align_corners=True) for a in (slope, intercept)]
        return large[0] * high + large[1]


@pytest.mark.parametrize(
    "form", ["segmentation", "images", pytest.param("convolution", marks=pytest.mark.mixes_dtypes)]
)
def test_guided_filter(form):
    theirs = DeepGuidedFilter(form, 0.1)
    if form == "convolution":
        torch.nn.init.ones_(theirs.gf.box_filter.weight)
    theirs = shaken(theirs)
    options = {"hidden": 7, "epsilon": 0.1, "slope_hidden": 5, "mean": "conv" if form == "convolution" else "box"}
    if form != "segmentation":
        options |= {"leak": 0.2, "map_bias": False, "map_norm": up.nn.AdaptiveNorm, "norm": nnx.BatchNorm}
    layer = up.nn.GuidedFilter(3, guide_features=3, **options, rngs=nnx.Rngs(0))
    layer.eval()
    # Both are positive on average: a mean whose weights add up to nothing would be no mean.
    agree(layer, theirs, lambda module, x, guide: module(x, guide), normal(0, 2, 5, 4, 3), normal(1, 2, 10, 9, 3))


class GridAttentionBlock2D(Module):
    """Oktay et al.'s gate, with the names of their code."""

    def __init__(self, features, gating, hidden):
        super().__init__()
        self.W = Sequential(Conv2d(features, features, 1), torch.nn.BatchNorm2d(features))
        self.theta = Conv2d(features, hidden, 2, stride=2, bias=False)
        self.phi, self.psi = Conv2d(gating, hidden, 1), Conv2d(hidden, 1, 1)

    def forward(self, skip, gating):
        own = self.theta(skip)
        added = torch.relu(own + F.interpolate(self.phi(gating), own.shape[-2:], mode="bilinear"))
        weight = F.interpolate(torch.sigmoid(self.psi(added)), skip.shape[-2:], mode="bilinear")
        return self.W(weight * skip)


def test_attention_gate():
    theirs, rngs = shaken(GridAttentionBlock2D(4, 6, 3), 0.5), nnx.Rngs(0)
    maps = normal(0, 2, 7, 9, 4), normal(1, 2, 2, 3, 6)
    agree(up.nn.AttentionGate(4, 6, hidden=3, rngs=rngs), theirs, lambda module, *maps: module(*maps), *maps)
    with pytest.raises(ValueError, match=r"state has 'W\.0\.bias', .*which the layer has no use for"):
        load_state_dict(up.nn.AttentionGate(4, 6, hidden=3, projected=False, rngs=rngs), theirs.state_dict())
    with pytest.raises(ValueError, match=r"AttentionGate: skip must have at least 2 rows .*its batch axes; got shapes"):
        up.nn.AttentionGate(4, 6, rngs=rngs)(maps[0], maps[1][:1])


def test_what_does_not_fit_is_named():
    layer = up.nn.JBU(4, guide_features=3, key_features=5, radius=2, rngs=nnx.Rngs(0))
    state = JBULearnedRange(3, 5, 2).state_dict()
    with pytest.raises(
        ValueError, match=r"'fixup_proj.0.weight' must have shape \(25, 28, 1, 1\); got \(9, 12, 1, 1\)"
    ):
        load_state_dict(layer, state | {"fixup_proj.0.weight": torch.zeros(9, 12, 1, 1)})
    with pytest.raises(ValueError, match="state lacks 'range_temp'"):
        load_state_dict(layer, {name: value for name, value in state.items() if name != "range_temp"})
    naf = up.nn.NAF(6, guide_features=3, dim=16, heads=2, blocks=2, groups=4, base=50.0, rngs=nnx.Rngs(0))
    before = np.asarray(naf.pixels.stem.bias[...])
    with pytest.raises(ValueError, match=r"'image_encoder.rope.periods' must be those of the layer's base=50"):
        load_state_dict(naf, shaken(NAF(16, 2, 3, 4)).state_dict())
    np.testing.assert_array_equal(naf.pixels.stem.bias[...], before)


def test_parameters_keep_their_dtype():
    layer = up.nn.JBU(
        4, guide_features=3, key_features=5, radius=2, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )
    load_state_dict(layer, shaken(JBULearnedRange(3, 5, 2)).state_dict())
    assert layer.range_temp[...].dtype == jnp.bfloat16
    assert layer(normal(0, 4, 5, 4), normal(1, 8, 10, 3)).dtype == jnp.bfloat16
