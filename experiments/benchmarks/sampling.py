"""Sampling at predicted positions against PyTorch's `F.grid_sample` and the methods written with it."""

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx

import upsampling as up
from experiments.benchmarks import peers
from experiments.benchmarks.harness import Case, Contender, compiled, with_gradient

DESCRIPTION = (
    "`up.grid_sample`, DySample and flow alignment, scale 2, and, on a CPU, `F.grid_sample` and the layers written "
    "plainly with it in PyTorch (the faster of channels first and last, as many threads as cores). Float32. With "
    "gradient: the output and the gradients of image and positions, or of image, guide and parameters. Near: positions "
    "within a pixel of bilinear's, as layers predict them; far: anywhere in the image."
)

PEERS = ("torch",)

_SHAPES = ((2, 64, 64, 64), (4, 32, 32, 128), (1, 128, 128, 64))


def cases() -> Iterator[Case]:
    """Every shape, forward and with the gradient."""
    for shape in _SHAPES:
        for gradient in (False, True):
            size, suffix = "x".join(map(str, shape)), ", with gradient" * gradient
            for near in (True, False):
                name = f"{size} grid_sample, {'near' if near else 'far'}{suffix}"
                yield Case(name, functools.partial(_sampling, shape, near, gradient))
            for options in ({}, {"dynamic_scope": True}, {"style": "pl"}, {"style": "pl", "dynamic_scope": True}):
                theirs = DySample(shape[-1], **options)
                words = f"{options.get('style', 'lp')}{', dynamic scope' * theirs.dynamic_scope}"
                name = f"{size} DySample {words}, {peers.parameters(theirs)} parameters{suffix}"
                layer = up.nn.DySample(shape[-1], rngs=nnx.Rngs(0), **options)
                yield Case(name, functools.partial(_layers, layer, theirs, shape, gradient))
            theirs = AlignedModule(shape[-1])
            name = f"{size} flow alignment, {peers.parameters(theirs)} parameters{suffix}"
            layer = up.nn.FlowAlignment(shape[-1], rngs=nnx.Rngs(0))
            yield Case(name, functools.partial(_layers, layer, theirs, shape, gradient, guided=True))


class DySample(torch.nn.Module):
    """Liu et al. 2023, with 4 groups: channels run over x and y, groups, then the pixels of a block."""

    def __init__(self, features: int, style: str = "lp", dynamic_scope: bool = False):
        super().__init__()
        self.style, self.dynamic_scope = style, dynamic_scope
        shape = (features, 32) if style == "lp" else (features // 4, 8)
        self.offset = torch.nn.Conv2d(*shape, 1)
        torch.nn.init.normal_(self.offset.weight, std=0.001)
        if dynamic_scope:
            self.scope = torch.nn.Conv2d(*shape, 1, bias=False)  # as the authors have had it since 2024

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, features, height, width = x.shape
        source = F.pixel_shuffle(x, 2) if self.style == "pl" else x
        moves = self.offset(source)
        moves = moves * self.scope(source).sigmoid() * 0.5 if self.dynamic_scope else moves * 0.25
        if self.style == "lp":
            moves = F.pixel_shuffle(moves, 2)
        moves = moves.reshape(n, 2, 4, 2 * height, 2 * width)
        columns = (torch.arange(2 * width) + 0.5) / 2 + moves[:, 0]
        rows = ((torch.arange(2 * height) + 0.5) / 2)[:, None] + moves[:, 1]
        grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], -1).flatten(0, 1)
        blocks = x.reshape(n * 4, features // 4, height, width)
        y = F.grid_sample(blocks, grid, padding_mode="border", align_corners=False)
        return y.reshape(n, features, 2 * height, 2 * width)


class AlignedModule(torch.nn.Module):
    """The flow alignment of Li et al. 2020."""

    def __init__(self, features: int):
        super().__init__()
        hidden = features // 2
        self.down_h = torch.nn.Conv2d(features, hidden, 1, bias=False)
        self.down_l = torch.nn.Conv2d(features, hidden, 1, bias=False)
        self.flow_make = torch.nn.Conv2d(2 * hidden, 2, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        height, width = guide.shape[2:]
        low = F.interpolate(self.down_h(x), (height, width), mode="bilinear", align_corners=True)
        flow = self.flow_make(torch.cat([low, self.down_l(guide)], 1))
        rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        grid = torch.stack([columns + flow[:, 0] / width, rows + flow[:, 1] / height], -1)
        return F.grid_sample(x, grid, align_corners=True)


def _sampling(shape: tuple[int, ...], near: bool, gradient: bool) -> dict[str, Contender]:
    rng = np.random.default_rng(0)
    n, height, width, channels = shape
    x, y = (rng.standard_normal((n, s * height, s * width, channels), np.float32) for s in (1, 2))
    axes = ((np.arange(2 * m) + 0.5) / 2 - 0.5 for m in (height, width))
    positions = np.stack(np.meshgrid(*axes, indexing="ij"), -1) + rng.uniform(-0.2, 0.2, (*y.shape[:-1], 2))
    if not near:
        positions = rng.uniform(0, (height - 1, width - 1), positions.shape)
    positions = positions.astype(np.float32)
    ours: Callable = up.grid_sample
    arguments: tuple[np.ndarray, ...] = (x, positions)
    if gradient:
        ours, arguments = with_gradient(ours, (0, 1)), (x, positions, y)
    contenders = {"upsampling": compiled(ours, *arguments)}
    if jax.default_backend() == "cpu":
        grid = torch.from_numpy(((positions * 2 + 1) / (height, width) - 1)[..., ::-1].astype(np.float32))
        sample = functools.partial(F.grid_sample, padding_mode="border", align_corners=False)
        contenders |= peers.fastest_in_torch(lambda x: sample(x, grid), (x,), y, gradient, (grid,))
    return contenders


def _layers(
    layer: nnx.Module, theirs: torch.nn.Module, shape: tuple[int, ...], gradient: bool, guided: bool = False
) -> dict[str, Contender]:
    rng = np.random.default_rng(0)
    n, height, width, channels = shape
    x, y = (rng.standard_normal((n, s * height, s * width, channels), np.float32) for s in (1, 2))
    maps = (x, y) if guided else (x,)
    contenders = {"upsampling": peers.layer(layer, theirs, maps, y, gradient)}
    if jax.default_backend() == "cpu":
        contenders |= peers.fastest_in_torch(theirs, maps, y, gradient, tuple(theirs.parameters()))
    return contenders
