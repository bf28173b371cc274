"""State dicts of AnyUp, JAFAR and LoftUp give their numbers. The modules are stated anew, with the same names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
import torch
import torch.nn.functional as F
from flax import nnx
from torch.nn import (
    GELU,
    BatchNorm2d,
    Conv2d,
    GroupNorm,
    Identity,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    MultiheadAttention,
    Parameter,
    ReLU,
    RMSNorm,
    Sequential,
    SiLU,
)

import upsampling as up
from upsampling import attention
from upsampling.interop.torch import load_state_dict

SIZES = {"any": ((4, 5), (9, 13), (11, 14)), "one pixel": ((1, 1), (3, 2), (2, 4))}


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shaken(module, seed=0):
    """No parameter, and no running average, at a value that hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if "num_batches" not in name:
                noise = 0.2 * torch.randn(value.shape, generator=generator)
                value += noise.abs() if "running_var" in name else noise.to(value.dtype)
    return module.eval()


def rotated(x, frequencies):
    """(n, c, h, w) with pairs of channels turned by the pixel's place."""
    h, w = x.shape[-2:]
    places = torch.stack(torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij"), -1)
    angles = (places @ frequencies).permute(2, 0, 1)
    first, second = x.chunk(2, 1)
    return x * angles.cos() + torch.cat([-second, first], 1) * angles.sin()


class NamedBlock(Module):
    """JAFAR's residual block."""

    def __init__(self, dim, groups):
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(groups, dim), GroupNorm(groups, dim)
        self.conv1, self.conv2 = Conv2d(dim, dim, 1, bias=False), Conv2d(dim, dim, 1, bias=False)

    def forward(self, x):
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class NumberedBlock(Module):
    """AnyUp's, which computes the same."""

    def __init__(self, dim, groups):
        super().__init__()
        conv = lambda: Conv2d(dim, dim, 1, bias=False)  # noqa: E731
        self.block = Sequential(GroupNorm(groups, dim), SiLU(), conv(), GroupNorm(groups, dim), SiLU(), conv())
        self.shortcut = Identity()

    def forward(self, x):
        return x + self.block(x)


def encoder(block, channels, dim, groups, k=1):
    first = Conv2d(channels, dim, k, padding=k // 2, padding_mode="reflect", bias=False) if channels else Basis(dim)
    return Sequential(first, block(dim, groups), block(dim, groups))


class Basis(Module):
    def __init__(self, dim, k=5):
        super().__init__()
        self.basis = Parameter(torch.randn(dim, 1, k, k))

    def forward(self, x):
        k = self.basis.shape[-1]
        inside = F.conv2d(torch.ones(1, 1, *x.shape[-2:]), torch.ones(1, 1, k, k), padding=k // 2)
        likeness = [F.conv2d(channel, self.basis, padding=k // 2) / inside for channel in x.split(1, 1)]
        return torch.stack([channel.softmax(1) for channel in likeness]).mean(0)


class CrossDecode(Module):
    """Both methods' attention; `mask`, (output pixels, pixels), is true where nothing is seen."""

    def __init__(self, dim, heads, values=None):
        super().__init__()
        self.cross_attn = Module()
        self.cross_attn.norm_q, self.cross_attn.norm_k = RMSNorm(dim), RMSNorm(dim)
        if values:
            self.cross_attn.norm_v = RMSNorm(values)
        self.cross_attn.attention = MultiheadAttention(dim, heads, vdim=values, batch_first=True)
        self.conv2d = Conv2d(dim, dim, 3, padding=1, bias=False)

    def forward(self, q, k, v, mask):
        q = self.conv2d(q)
        flat = lambda a: a.flatten(2).transpose(1, 2)  # noqa: E731
        inner, n = self.cross_attn, q.shape[0]
        unused = flat(v) if hasattr(inner, "norm_v") else flat(k)
        _, weights = inner.attention(inner.norm_q(flat(q)), inner.norm_k(flat(k)), unused, attn_mask=mask)
        return (weights @ flat(v)).transpose(1, 2).reshape(n, -1, *q.shape[-2:])


class JAFAR(Module):
    def __init__(self, features, dim, heads, groups):
        super().__init__()
        self.image_encoder = encoder(NamedBlock, 3, dim, groups)
        self.key_encoder, self.query_encoder = (encoder(NamedBlock, dim, dim, groups) for _ in range(2))
        self.key_features_encoder = encoder(NamedBlock, features, dim, groups)
        self.cross_decode = CrossDecode(dim, heads, features)
        self.sft_key = Module()
        self.sft_key.gamma, self.sft_key.beta = (Conv2d(dim, dim, 1, bias=False) for _ in range(2))
        self.rope = Module()
        self.rope.freqs = Parameter(torch.tensor(attention.rotary_frequencies(dim), dtype=torch.float32))
        self.norm = GroupNorm(groups, dim, affine=False)

    def forward(self, image, x, size):
        image = rotated(self.image_encoder(image), self.rope.freqs)
        q = self.norm(F.adaptive_avg_pool2d(self.query_encoder(image), size))
        k = F.adaptive_avg_pool2d(self.key_encoder(image), x.shape[-2:])
        own = self.key_features_encoder(F.normalize(x, dim=1))
        return self.cross_decode(q, self.sft_key.gamma(own) * self.norm(k) + self.sft_key.beta(own), x, None)


class AnyUp(Module):
    def __init__(self, dim, heads, groups):
        super().__init__()
        self.image_encoder = encoder(NumberedBlock, 3, dim, groups)
        self.key_encoder, self.query_encoder = (encoder(NumberedBlock, dim, dim, groups) for _ in range(2))
        self.key_features_encoder = encoder(NumberedBlock, None, dim, groups)
        self.cross_decode = CrossDecode(dim, heads)
        self.aggregation = encoder(NumberedBlock, 2 * dim, dim, groups, 3)
        self.rope = Module()
        self.rope.freqs = Parameter(torch.tensor(attention.rotary_frequencies(dim), dtype=torch.float32))

    def forward(self, image, x, size, hidden):
        """`hidden` says, for an axis of the input and one of the output, which pixels are not seen."""
        image = rotated(self.image_encoder(image), self.rope.freqs)
        q = F.adaptive_avg_pool2d(self.query_encoder(image), size)
        k = F.adaptive_avg_pool2d(self.key_encoder(image), x.shape[-2:])
        k = torch.cat([k, self.key_features_encoder(F.normalize(x, dim=1))], 1)
        rows, columns = (hidden(n, m) for n, m in zip(x.shape[-2:], size, strict=True))
        mask = (rows[:, None, :, None] | columns[None, :, None, :]).reshape(size[0] * size[1], -1)
        # PyTorch reflects no image of one pixel; its neighbors are itself.
        first = self.aggregation[0]
        first.padding_mode = "replicate" if 1 in x.shape[-2:] else "reflect"
        first._reversed_padding_repeated_twice = [1] * 4
        return self.cross_decode(q, self.aggregation(k), x, mask)


def outside_share(n, m):
    center = (torch.arange(m) + 0.5) / m
    first, end = ((center - 0.1).clamp(0, 1) * n).floor(), ((center + 0.1).clamp(0, 1) * n).ceil()
    return (torch.arange(n) < first[:, None]) | (torch.arange(n) >= end[:, None])


def outside_neighborhood(n, m):
    """NATTEN's, of three pixels, for whole factors."""
    first = np.clip(np.arange(m) // (m // n) - 1, 0, n - 3)[:, None]
    return torch.tensor((np.arange(n) < first) | (np.arange(n) >= first + 3))


class Waves(Module):
    def __init__(self, values, frequencies):
        super().__init__()
        self.biases = Parameter(torch.randn(2, values, frequencies))

    def forward(self, x):
        n, _, h, w = x.shape
        _, values, frequencies = self.biases.shape
        places = torch.stack(torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij"))
        v = torch.cat([places.expand(n, 2, h, w), x], 1)[:, None]
        angles = v * torch.linspace(-2, 10, frequencies).exp()[:, None, None, None]
        sin, cos = ((angles + b.reshape(frequencies, values, 1, 1)).flatten(1, 2) for b in self.biases)
        return torch.cat([sin.sin(), cos.cos(), x], 1)


class Extremes(Module):
    def forward(self, x):
        low, high = x.amin((0, 2, 3), True), x.amax((0, 2, 3), True)
        return (x - low) / (high - low).clamp_min(1e-4) - 0.5


class ChannelNorm(Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = LayerNorm(dim)

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class SmallChannelNorm(Module):
    def __init__(self, dim):
        super().__init__()
        self.weight, self.bias = Parameter(torch.ones(dim)), Parameter(torch.zeros(dim))

    def forward(self, x):
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class LoftUp(Module):
    def __init__(self, features, heads, channels=3, frequencies=20):
        super().__init__()
        width, inward = features + 20, 2 * frequencies * (2 + channels) + channels
        self.lr_pe = Waves(2, 5)
        self.fourier_feat = Sequential(Extremes(), Waves(2 + channels, frequencies))
        conv = lambda n: Conv2d(n, width, 3, padding=1)  # noqa: E731
        self.first_conv = Sequential(
            ChannelNorm(inward), conv(inward), BatchNorm2d(width), ReLU(), conv(width), BatchNorm2d(width), ReLU()
        )
        self.final_conv = Sequential(Conv2d(width, features, 1), SmallChannelNorm(features))
        self.ca_transformer = Module()
        self.ca_transformer.norm = LayerNorm(width)
        self.ca_transformer.layers = ModuleList()
        for _ in range(2):
            cross, forward = Module(), Module()
            cross.norm_q, cross.norm_kv = LayerNorm(width), LayerNorm(width)
            cross.attention = MultiheadAttention(width, heads, batch_first=True)
            linear = (Linear(width, features), Linear(features, width))
            forward.net = Sequential(LayerNorm(width), linear[0], GELU(), Identity(), linear[1], Identity())
            self.ca_transformer.layers.append(ModuleList([cross, forward]))

    def forward(self, x, image):
        y = self.first_conv(self.fourier_feat(image))
        n, _, h, w = y.shape
        y = y.flatten(2).transpose(1, 2)
        # The waves have no channels to end with.
        seen = torch.cat([x, self.lr_pe(x[:, :0])], 1).flatten(2).transpose(1, 2)
        for cross, forward in self.ca_transformer.layers:
            kv = cross.norm_kv(seen)
            y = y + cross.attention(cross.norm_q(y), kv, kv)[0]
            y = y + forward.net(y)
        return self.final_conv(self.ca_transformer.norm(y).transpose(1, 2).reshape(n, -1, h, w))


class WithChannelNorm(Module):
    def __init__(self, upsampler, features):
        super().__init__()
        self.upsampler, self.channelnorm = upsampler, ChannelNorm(features)

    def forward(self, x, image):
        return self.upsampler(self.channelnorm(x), image)


def agree(layer, theirs, forward, x, guide, size=None, dtype=torch.float32):
    """Values to 1e-4, gradients of input, guide and all parameters to 1e-3: theirs are loaded as weights are."""
    load_state_dict(layer, theirs.state_dict())
    structure, parameters, rest = nnx.split(layer, nnx.Param, ...)
    leaves = [torch.tensor(np.moveaxis(a, -1, 1).copy(), dtype=dtype, requires_grad=True) for a in (x, guide)]
    expected = forward(*leaves)
    cotangent = normal(9, *expected.shape).astype(x.dtype)
    expected.backward(torch.tensor(cotangent, dtype=dtype))

    @jax.jit
    def pulled(parameters, x, guide, cotangent):
        given = {} if size is None else {"size": size}
        y, pull = jax.vjp(lambda p, x, g: nnx.merge(structure, p, rest)(x, g, **given), parameters, x, guide)
        return y, pull(cotangent)

    y, (of_parameters, *of_maps) = pulled(parameters, x, guide, np.moveaxis(cotangent, 1, -1))
    np.testing.assert_allclose(y, np.moveaxis(expected.detach().numpy(), 1, -1), atol=1e-4)
    for ours, leaf in zip(of_maps, leaves, strict=True):
        same(ours, np.moveaxis(leaf.grad.numpy(), 1, -1))
    state = theirs.state_dict()
    for name, parameter in theirs.named_parameters():
        state[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    load_state_dict(layer, state)
    gradients = nnx.state(layer, nnx.Param)
    for (path, a), b in zip(jax.tree.leaves_with_path(of_parameters), jax.tree.leaves(gradients), strict=True):
        same(a, b, jax.tree_util.keystr(path))


def same(ours, theirs, name="a map"):
    """To 1e-3, of the largest where that is above 1."""
    scale = max(1.0, float(abs(theirs).max()))
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("case", SIZES)
def test_jafar(case):
    size, output, image = SIZES[case]
    theirs = shaken(JAFAR(6, 16, 2, 4))
    layer = up.nn.JAFAR(6, size=output, guide_features=3, dim=16, heads=2, groups=4, rngs=nnx.Rngs(0))
    agree(layer, theirs, lambda x, g: theirs(g, x, output), normal(0, 2, *size, 6), normal(1, 2, *image, 3))


@pytest.mark.parametrize("case", SIZES)
def test_anyup(case):
    size, output, image = SIZES[case]
    theirs = shaken(AnyUp(16, 2, 4))
    layer = up.nn.AnyUp(6, guide_features=3, dim=16, heads=2, groups=4, rngs=nnx.Rngs(0))
    forward = lambda x, g: theirs(g, x, output, outside_share)  # noqa: E731
    agree(layer, theirs, forward, normal(0, 2, *size, 6), normal(1, 2, *image, 3), output)


def test_anyup_in_the_form_for_natten():
    """The same weights, in names of their own."""
    theirs = shaken(AnyUp(16, 2, 4))
    x, guide = normal(0, 2, 5, 6, 3), normal(1, 2, 10, 18, 3)
    options = {"guide_features": 3, "dim": 16, "heads": 2, "groups": 4, "rngs": nnx.Rngs(0)}
    layer = up.nn.create("anyup", 3, variant="natten", **options)
    agree(layer, theirs, lambda x, g: theirs(g, x, (10, 18), outside_neighborhood), x, guide)
    state = theirs.state_dict()
    inner = "cross_decode.cross_attn."
    kept = {name: value for name, value in state.items() if not name.startswith(inner)}
    for part, n in (("q", 0), ("k", 1)):
        kept[f"{inner}{part}_proj.weight"] = state[inner + "attention.in_proj_weight"].chunk(3)[n][:, :, None, None]
        kept[f"{inner}{part}_proj.bias"] = state[inner + "attention.in_proj_bias"].chunk(3)[n]
        kept[f"cross_decode.norm_{part}.weight"] = state[f"{inner}norm_{part}.weight"]
    expected = load_state_dict(layer, state)(x, guide)
    again = load_state_dict(up.nn.create("anyup", 3, variant="natten", **options), kept)
    np.testing.assert_array_equal(again(x, guide), expected)


@pytest.fixture
def double():
    """The highest of LoftUp's frequencies make a thousandth of the last bit of float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("case", SIZES)
def test_loftup(case, double):
    size, output, image = SIZES[case]
    theirs = shaken(WithChannelNorm(LoftUp(4, 2), 4))
    layer = up.nn.LoftUp(4, guide_features=3, heads=2, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    x, guide = (a.astype(np.float64) for a in (normal(0, 1, *size, 4), normal(1, 1, *image, 3)))

    def forward(x, g):
        return theirs(x, F.interpolate(g, output, mode="bilinear"))

    agree(layer, theirs, forward, x, guide, output, torch.float64)


# Flax keeps running averages in float32.
@pytest.mark.mixes_dtypes
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning")
def test_loftup_alone_and_in_training(double):
    """Without the normalization of its input; and with the batch's own averages."""
    theirs = shaken(LoftUp(4, 4))
    layer = up.nn.LoftUp(4, (2, 3), guide_features=3, normalize=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    load_state_dict(layer, theirs.state_dict())
    layer.train()
    theirs.train()
    x, guide = (a.astype(np.float64) for a in (normal(0, 1, 3, 4, 4), normal(1, 1, 6, 12, 3)))
    first = lambda a: torch.tensor(np.moveaxis(a, -1, 1).copy())  # noqa: E731
    expected = np.moveaxis(theirs(first(x), first(guide)).detach().numpy(), 1, -1)
    np.testing.assert_allclose(layer(x, guide), expected, atol=1e-6)
    np.testing.assert_allclose(layer.norms[1].mean[...], theirs.first_conv[5].running_mean, atol=1e-6)


def test_published_sizes_have_the_published_names():
    """Every name and shape of the authors' models at their own settings."""
    load_state_dict(up.nn.create("jafar", 384, guide_features=3, rngs=nnx.Rngs(0)), JAFAR(384, 128, 4, 8).state_dict())
    load_state_dict(up.nn.create("anyup", 384, guide_features=3, rngs=nnx.Rngs(0)), AnyUp(128, 4, 8).state_dict())
    state = WithChannelNorm(LoftUp(32, 4), 32).state_dict()
    load_state_dict(up.nn.create("loftup", 32, guide_features=3, rngs=nnx.Rngs(0)), state)
    # Values of as many channels as queries have no weights of their own in PyTorch.
    joint = JAFAR(16, 16, 4, 8)
    inner = joint.cross_decode.cross_attn
    inner.attention = MultiheadAttention(16, 4)
    layer = up.nn.JAFAR(16, guide_features=3, dim=16, rngs=nnx.Rngs(0))
    load_state_dict(layer, joint.state_dict())
    expected = inner.attention.in_proj_weight[16:32].detach().T
    np.testing.assert_array_equal(layer.attention.key.kernel[...], expected)


def test_what_does_not_fit_is_named():
    layer = up.nn.AnyUp(6, guide_features=3, dim=16, heads=2, groups=4, rngs=nnx.Rngs(0))
    state = AnyUp(16, 2, 4).state_dict()
    with pytest.raises(ValueError, match=r"state lacks 'rope\.freqs'"):
        load_state_dict(layer, {name: value for name, value in state.items() if name != "rope.freqs"})
    with pytest.raises(ValueError, match=r"state has 'aggregation\.3\..*', which the layer has no use for"):
        load_state_dict(layer, state | {"aggregation.3.block.0.weight": torch.zeros(16)})
