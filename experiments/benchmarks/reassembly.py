"""Reassembly with predicted weights against PyTorch's unfold, and the methods written with it."""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx

import upsampling as up
from experiments.benchmarks import peers
from experiments.benchmarks.harness import Case, Contender, compiled, with_gradient

DESCRIPTION = (
    "`up.reassemble` with windows of 5 by 5, CARAFE, SAPA, FADE and FADE-Lite, scale 2, and, on a CPU, the same "
    "written plainly in PyTorch (channels first, as many threads as cores): `F.unfold`, with the windows repeated for "
    "each output pixel, weighed and summed; and `F.unfold`, with a product of matrices for each input pixel. Float32. "
    "With gradient: the output and the gradients of map and weights, or of map, guide and parameters."
)

PEERS = ("torch",)

_WAYS = ("unfold", "unfold and products")

_SHAPES = ((2, 64, 64, 64), (4, 32, 32, 128), (1, 128, 128, 64))


def cases() -> Iterator[Case]:
    """Every shape, forward and with the gradient."""
    for shape in _SHAPES:
        channels = shape[-1]
        layers: dict[str, tuple] = {"CARAFE": (up.nn.CARAFE, CARAFE, ())}
        if shape == _SHAPES[0]:
            layers |= {
                "SAPA": (up.nn.SAPA, SAPA, ()),
                "FADE": (up.nn.FADE, FADE, ()),
                "FADE-Lite": (up.nn.FADELite, FADE, (True,)),
            }
        for gradient in (False, True):
            size, suffix = "x".join(map(str, shape)), ", with gradient" * gradient
            yield Case(f"{size} reassemble{suffix}", functools.partial(_reassembly, shape, gradient))
            for name, (ours, theirs, options) in layers.items():
                layer = ours(channels, rngs=nnx.Rngs(0))
                ways = [theirs(channels, way, *options) for way in (_by_repeating, _by_products)]
                yield Case(
                    f"{size} {name}, {peers.parameters(ways[0])} parameters{suffix}",
                    functools.partial(_layers, layer, ways, shape, gradient, name != "CARAFE"),
                )


def _by_repeating(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Windows (n, c, 25, h, w) repeated for each output pixel, times (n, 25, 2h, 2w), summed."""
    n, c, h, w = x.shape
    seen = F.interpolate(F.unfold(x, 5, padding=2).reshape(n, c * 25, h, w), scale_factor=2)
    return (seen.reshape(n, c, 25, 2 * h, 2 * w) * weights[:, None]).sum(2)


def _by_products(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """For each input pixel the product of its window (c, 25) and the weights (25, 4) of its output pixels."""
    n, c, h, w = x.shape
    seen = F.unfold(x, 5, padding=2).reshape(n, c, 25, h * w).permute(0, 3, 1, 2)
    blocks = weights.reshape(n, 25, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w, 25, 4)
    return (seen @ blocks).reshape(n, h, w, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, c, 2 * h, 2 * w)


class CARAFE(torch.nn.Module):
    """Wang et al. 2019."""

    def __init__(self, features: int, reassemble):
        super().__init__()
        self.reassemble = reassemble
        self.channel_compressor = torch.nn.Conv2d(features, 64, 1)
        self.content_encoder = torch.nn.Conv2d(64, 100, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = F.pixel_shuffle(self.content_encoder(self.channel_compressor(x)), 2)
        return self.reassemble(x, logits.softmax(1))


class SAPA(torch.nn.Module):
    """Lu et al. 2022, the bilinear form."""

    def __init__(self, features: int, reassemble):
        super().__init__()
        self.reassemble = reassemble
        self.norm_x, self.norm_y = torch.nn.LayerNorm(features), torch.nn.LayerNorm(features)
        self.q, self.k = torch.nn.Linear(features, 64), torch.nn.Linear(features, 64)

    def forward(self, x: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        queries = self.q(self.norm_y(guide.movedim(1, -1)))
        keys = self.k(self.norm_x(x.movedim(1, -1))).movedim(-1, 1)
        n, c, h, w = keys.shape
        seen = F.unfold(keys, 5, padding=2).reshape(n, c, 25, h * w).permute(0, 3, 1, 2)
        blocks = queries.reshape(n, h, 2, w, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h * w, 4, c)
        logits = (blocks @ seen).reshape(n, h, w, 2, 2, 25).permute(0, 5, 1, 3, 2, 4).reshape(n, 25, 2 * h, 2 * w)
        return self.reassemble(x, logits.softmax(1))


class FADE(torch.nn.Module):
    """Lu et al. 2022, and Lu et al. 2024."""

    def __init__(self, features: int, reassemble, lite: bool = False):
        super().__init__()
        self.reassemble = reassemble
        inner = 25 if lite else 64
        self.gate_generator = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(features, 1, 1)})
        self.ker_generator = torch.nn.ModuleDict(
            {
                "compressor_en": torch.nn.Conv2d(features, inner, 1),
                "compressor_de": torch.nn.Conv2d(features, inner, 1, bias=False),
                "content_encoder": torch.nn.Conv2d(inner, 25, 3, padding=1, groups=inner if lite else 1),
            }
        )

    def forward(self, x: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        parts = self.ker_generator
        high = parts["content_encoder"](parts["compressor_en"](guide))
        low = parts["content_encoder"](parts["compressor_de"](x))
        weights = (high + F.interpolate(low, scale_factor=2)).softmax(1)
        gate = torch.sigmoid(F.interpolate(self.gate_generator["conv"](x), scale_factor=2))
        return gate * guide + (1 - gate) * self.reassemble(x, weights)


def _reassembly(shape: tuple[int, ...], gradient: bool) -> dict[str, Contender]:
    rng = np.random.default_rng(0)
    n, height, width, channels = shape
    x, y = (rng.standard_normal((n, s * height, s * width, channels), np.float32) for s in (1, 2))
    weights = rng.uniform(0, 0.08, (*y.shape[:-1], 25)).astype(np.float32)
    arguments = (x, weights.reshape(*y.shape[:-1], 1, 5, 5))
    ours = with_gradient(up.reassemble, (0, 1)) if gradient else up.reassemble
    contenders = {"upsampling": compiled(ours, *arguments, y) if gradient else compiled(ours, *arguments)}
    if jax.default_backend() == "cpu":
        given = torch.from_numpy(weights).movedim(-1, 1).contiguous()
        ways = [functools.partial(way, weights=given) for way in (_by_repeating, _by_products)]
        contenders |= _peers(ways, (x,), y, gradient, [(given,)] * 2)
    return contenders


def _layers(
    layer: nnx.Module, ways: list[torch.nn.Module], shape: tuple[int, ...], gradient: bool, guided: bool
) -> dict[str, Contender]:
    rng = np.random.default_rng(0)
    n, height, width, channels = shape
    x, y = (rng.standard_normal((n, s * height, s * width, channels), np.float32) for s in (1, 2))
    ways[1].load_state_dict(ways[0].state_dict())
    maps = (x, y) if guided else (x,)
    contenders = {"upsampling": peers.layer(layer, ways[0], maps, y, gradient)}
    if jax.default_backend() == "cpu":
        contenders |= _peers(ways, maps, y, gradient, [tuple(way.parameters()) for way in ways])
    return contenders


def _peers(
    ways: Sequence[Callable], maps: tuple[np.ndarray, ...], y: np.ndarray, gradient: bool, others: Sequence[tuple]
) -> dict[str, Contender]:
    made = (peers.in_torch(way, maps, y, gradient, more) for way, more in zip(ways, others, strict=True))
    return dict(zip(_WAYS, made, strict=True))
