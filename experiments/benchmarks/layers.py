"""Every upsampling layer by name against bilinear interpolation of the same map: what a method costs."""

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from flax import nnx

import upsampling as up
from experiments import methods
from experiments.benchmarks.harness import Case, Contender, compiled, with_gradient

DESCRIPTION = (
    "Every method that `up.nn.create` knows, with its authors' settings, by 2 on a map of 2x32x32x32 (guides have 32 "
    "channels too), beside the bilinear layer: the ratio is what a method costs in bilinear interpolations. Float32. "
    "With gradient: the output and the gradients of parameters, map and guide."
)

PEERS = ("flax",)

_SHAPE = (2, 32, 32, 32)


def cases(names: Sequence[str] = ()) -> Iterator[Case]:
    """Every method, or those named, forward and with the gradient."""
    for gradient in (False, True):
        for name in names or up.nn.available():
            case = f"{name} {'x'.join(map(str, _SHAPE))}{', with gradient' * gradient}"
            yield Case(case, functools.partial(_contenders, name, gradient))


def _contenders(name: str, gradient: bool) -> dict[str, Contender]:
    return {"upsampling": _layer(name, gradient), "bilinear": _layer("bilinear", gradient)}


def _layer(name: str, gradient: bool) -> Contender:
    method, rng = methods.find(name), np.random.default_rng(0)
    channels = _SHAPE[-1]
    structure, state = nnx.split(method.create(channels, 2, rngs=nnx.Rngs(0)))
    high = (_SHAPE[0], 2 * _SHAPE[1], 2 * _SHAPE[2], channels)
    shapes = (_SHAPE, high) if method.uses_guide else (_SHAPE,)
    maps = [rng.standard_normal(shape, np.float32) for shape in shapes]
    if method.needs_pooling:
        maps[0] = up.max_pool_with_indices(maps[1], 2)[0]

    def apply(state: nnx.State, *maps: jax.Array) -> jax.Array:
        return nnx.merge(structure, state)(*maps)

    if gradient:
        cotangent = rng.standard_normal(high, np.float32)
        return compiled(with_gradient(apply, range(1 + len(maps))), state, *maps, cotangent)
    return compiled(apply, state, *maps)
