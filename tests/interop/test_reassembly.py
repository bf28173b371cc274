"""The reassembly family against plain PyTorch statements of the papers, under the authors' parameter names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
import torch
import torch.nn.functional as F
from flax import nnx

import upsampling as up
from upsampling.interop.torch import load_state_dict
from upsampling.nn._layers import encode


def first(x):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def windows(x, k, scale):
    """(n, c, h, w) -> (n, c, k * k, h * scale, w * scale): what every output pixel sees, with zeros around."""
    n, c, h, w = x.shape
    seen = F.unfold(x, k, padding=k // 2).reshape(n, c * k * k, h, w)
    return F.interpolate(seen, scale_factor=scale).reshape(n, c, k * k, h * scale, w * scale)


def reassemble(x, weights, scale, groups=1):
    """Weights (n, groups, k * k, h * scale, w * scale)."""
    seen = windows(x, round(weights.shape[2] ** 0.5), scale)
    grouped = seen.reshape(seen.shape[0], groups, -1, *seen.shape[2:])
    return (grouped * weights[:, :, None]).sum(3).reshape(x.shape[0], x.shape[1], *seen.shape[3:])


class CARAFE(torch.nn.Module):
    def __init__(self, channels, scale, k, groups, compressed, dilation):
        super().__init__()
        self.scale, self.k, self.groups = scale, k, groups
        self.channel_compressor = torch.nn.Conv2d(channels, compressed, 1)
        self.content_encoder = torch.nn.Conv2d(
            compressed, groups * k * k * scale**2, 3, padding=dilation, dilation=dilation
        )

    def forward(self, x, guide):
        logits = F.pixel_shuffle(self.content_encoder(self.channel_compressor(x)), self.scale)
        n, _, h, w = logits.shape
        weights = logits.reshape(n, self.groups, self.k**2, h, w).softmax(2)
        return reassemble(x, weights, self.scale, self.groups)


class SAPA(torch.nn.Module):
    def __init__(self, channels, guide_channels, scale, k, inner, similarity, bias=True, values=False):
        super().__init__()
        self.scale, self.kernel, self.similarity = scale, k, similarity
        self.norm_x, self.norm_y = torch.nn.LayerNorm(channels), torch.nn.LayerNorm(guide_channels)
        linear = lambda inputs, out: torch.nn.Linear(inputs, out, bias=bias)  # noqa: E731
        if similarity != "inner":
            self.k = linear(channels, inner)
            both = guide_channels + channels * (similarity == "joined")
            setattr(self, "qy" if similarity == "gated" else "q", linear(both, inner))
        if similarity == "gated":
            self.qx, self.gate = linear(channels, inner), linear(channels, 1)
        if values:
            self.v = linear(channels, channels)

    def forward(self, x, guide):
        value = x
        x, y = x.movedim(1, -1), self.norm_y(guide.movedim(1, -1))
        normal = self.norm_x(x)
        big = lambda a: a.repeat_interleave(self.scale, 1).repeat_interleave(self.scale, 2)  # noqa: E731
        if hasattr(self, "v"):
            value = self.v(normal).movedim(-1, 1)
        if self.similarity == "inner":
            queries, keys = y, normal
        elif self.similarity == "bilinear":
            queries, keys = self.q(y), self.k(normal)
        elif self.similarity == "joined":
            queries, keys = self.q(torch.cat([y, big(x)], -1)), self.k(normal)
        else:
            gate = torch.sigmoid(self.gate(big(normal)))
            queries, keys = gate * self.qy(y) + (1 - gate) * self.qx(big(x)), self.k(normal)
        seen = windows(keys.movedim(-1, 1), self.kernel, self.scale)
        weights = (seen * queries.movedim(-1, 1)[:, :, None]).sum(1).softmax(1)
        return reassemble(value, weights[:, None], self.scale)


class FADE(torch.nn.Module):
    def __init__(self, channels, guide_channels, scale, k, inner, lite=False, align=False, gated=True):
        super().__init__()
        self.scale = scale
        if gated:
            self.gate_generator = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(channels, 1, 1)})
        inner = k * k if lite else inner
        self.ker_generator = torch.nn.ModuleDict(
            {
                "compressor_en": torch.nn.Conv2d(guide_channels, inner, 1),
                "compressor_de": torch.nn.Conv2d(channels, inner, 1, bias=False),
                "content_encoder": torch.nn.Conv2d(inner, k * k, 3, padding=1, groups=inner if lite else 1),
            }
        )
        if align:
            self.aligner = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(guide_channels, channels, 1)})

    def forward(self, x, guide):
        g = self.ker_generator
        low, high = g["content_encoder"](g["compressor_de"](x)), g["content_encoder"](g["compressor_en"](guide))
        weights = (high + F.interpolate(low, scale_factor=self.scale)).softmax(1)
        if not hasattr(self, "gate_generator"):
            return reassemble(x, weights[:, None], self.scale)
        gate = torch.sigmoid(F.interpolate(self.gate_generator["conv"](x), scale_factor=self.scale))
        if hasattr(self, "aligner"):
            guide = self.aligner["conv"](guide)
        return gate * guide + (1 - gate) * reassemble(x, weights[:, None], self.scale)


# Name, scale, PyTorch's module, our options, channels of the guide.
CASES = {
    "carafe": ("carafe", 2, lambda: CARAFE(6, 2, 5, 1, 4, 1), {"compressed_features": 4}, 0),
    "carafe, groups": (
        "carafe",
        3,
        lambda: CARAFE(6, 3, 3, 2, 5, 2),
        {"compressed_features": 5, "kernel_size": 3, "groups": 2, "encoder_dilation": 2},
        0,
    ),
    "sapa": (
        "sapa",
        2,
        lambda: SAPA(6, 4, 2, 5, 8, "bilinear"),
        {"guide_features": 4, "embedding_features": 8},
        4,
    ),
    "sapa, gated": (
        "sapa",
        4,
        lambda: SAPA(6, 4, 4, 3, 5, "gated"),
        {"guide_features": 4, "embedding_features": 5, "kernel_size": 3, "similarity": "gated"},
        4,
    ),
    "sapa, joined": (
        "sapa",
        2,
        lambda: SAPA(6, 4, 2, 3, 5, "joined", bias=False, values=True),
        {"guide_features": 4, "embedding_features": 5, "kernel_size": 3, "similarity": "joined"}
        | {"use_bias": False, "embed_values": True},
        4,
    ),
    "fade, no gate": (
        "fade",
        2,
        lambda: FADE(6, 4, 2, 3, 7, gated=False),
        {"compressed_features": 7, "kernel_size": 3, "guide_features": 4, "gated": False},
        4,
    ),
    "sapa, inner": ("sapa", 2, lambda: SAPA(6, 6, 2, 5, 0, "inner"), {"similarity": "inner"}, 6),
    "fade": ("fade", 2, lambda: FADE(6, 6, 2, 5, 7), {"compressed_features": 7}, 6),
    "fade, aligned": (
        "fade",
        3,
        lambda: FADE(6, 4, 3, 3, 7, align=True),
        {"compressed_features": 7, "kernel_size": 3, "guide_features": 4},
        4,
    ),
    "fade_lite": ("fade_lite", 2, lambda: FADE(6, 6, 2, 3, 0, lite=True), {"kernel_size": 3}, 6),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients(case):
    method, scale, make, options, guide_channels = CASES[case]
    torch.manual_seed(0)
    theirs = make()
    with torch.no_grad():
        for parameter in theirs.parameters():
            # The authors' first values are so small that every weight is nearly alike.
            parameter.copy_(0.5 * torch.randn_like(parameter))
    layer = up.nn.create(method, 6, scale, rngs=nnx.Rngs(0), **options)
    load_state_dict(layer, theirs.state_dict())
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 4, 6)).astype(np.float32)
    guide = rng.standard_normal((2, 5 * scale, 4 * scale, guide_channels)).astype(np.float32)
    y = rng.standard_normal((2, 5 * scale, 4 * scale, 6)).astype(np.float32)
    structure, state = nnx.split(layer)

    @jax.jit
    def both(state, x, guide):
        value, pull = jax.vjp(lambda *a: nnx.merge(structure, a[0])(*a[1:]), state, x, guide)
        return value, pull(jnp.asarray(y))

    value, (dstate, dx, dguide) = both(state, x, guide if guide_channels else None)
    given = [first(x).requires_grad_(), first(guide).requires_grad_()]
    expected = theirs(*given)
    np.testing.assert_allclose(value, last(expected), atol=1e-4)
    expected.backward(first(y))
    np.testing.assert_allclose(dx, last(given[0].grad), atol=1e-3)
    if guide_channels:
        np.testing.assert_allclose(dguide, last(given[1].grad), atol=1e-3)
    # PyTorch's gradients in our layout, by way of the loader.
    wanted = load_state_dict(
        up.nn.create(method, 6, scale, rngs=nnx.Rngs(0), **options), {n: p.grad for n, p in theirs.named_parameters()}
    )
    leaves = list(zip(jax.tree.leaves(dstate), jax.tree.leaves(nnx.state(wanted)), strict=True))
    assert sum(ours.size for ours, _ in leaves) == sum(p.numel() for p in theirs.parameters())
    for ours, other in leaves:
        np.testing.assert_allclose(ours, other, atol=1e-3 * max(1, np.abs(other).max()))


def test_both_published_forms_of_fade_load():
    theirs = FADE(6, 6, 2, 3, 7)
    names = {
        "ker_generator.compressor_en": "kernel_generator.conv1_en",
        "ker_generator.compressor_de": "kernel_generator.conv1_de",
        "ker_generator.content_encoder.weight": "kernel_generator.conv2_kernels",
        "ker_generator.content_encoder.bias": "kernel_generator.conv2_bias",
    }
    other = {}
    for name, value in theirs.state_dict().items():
        for old, new in names.items():
            if name.startswith(old):
                name = name.replace(old, new)
        other[name] = value
    # The second is made with a size, and has no factor.
    options = {"kernel_size": 3, "compressed_features": 7}
    a, b = (up.nn.FADE(6, size=size, **options, rngs=nnx.Rngs(i)) for i, size in enumerate((None, (9, 8))))
    load_state_dict(a, theirs.state_dict())
    load_state_dict(b, other)
    assert len({k.split(".")[0] for k in other}) == 2
    jax.tree.map(np.testing.assert_array_equal, nnx.state(a), nnx.state(b))


def test_the_semi_shift_convolution_is_one_convolution_per_phase():
    """The authors' first form: the guide padded on two sides and convolved with stride 2, once for each phase."""
    rng = torch.Generator().manual_seed(0)
    guide, kernel = torch.randn(1, 5, 8, 6, generator=rng), torch.randn(9, 5, 3, 3, generator=rng)
    phases = [F.conv2d(F.pad(guide, (1 - b, b, 1 - a, a)), kernel, stride=2) for a in range(2) for b in range(2)]
    expected = torch.stack(phases, -1).reshape(1, 9, 4, 3, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(1, 8, 6, 9)
    ours = encode(jnp.asarray(last(guide)), jnp.asarray(kernel.permute(2, 3, 1, 0).numpy()), jnp.zeros(9))
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5)


def test_wrong_states_are_named():
    state = CARAFE(6, 2, 3, 1, 4, 1).state_dict()
    layer = up.nn.CARAFE(6, kernel_size=3, compressed_features=4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"state lacks 'neck\.channel_compressor\.weight'"):
        load_state_dict(layer, state, "neck.")
    with pytest.raises(ValueError, match=r"'content_encoder\.weight' must have shape"):
        load_state_dict(up.nn.CARAFE(6, compressed_features=4, rngs=nnx.Rngs(0)), state)
