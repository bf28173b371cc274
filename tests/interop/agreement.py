"""Whether a layer computes what a PyTorch module does: values, gradients, other precisions."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.optional import torch
from upsampling.interop.torch import load_state_dict


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def first(x):
    """Channels first, as a tensor."""
    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def last(x):
    """Channels last, as an array."""
    return np.moveaxis(x.detach().numpy(), 1, -1)


def shaken(module, size=0.2, seed=0):
    """No parameter, and no running average, at a value that hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer += size * torch.rand(buffer.shape, generator=generator)
    return module.eval()


def agree(layer, theirs, call, *maps, prefix="", **options):
    """Loads the module's weights, and compares.

    Args:
      layer: ours; called with the maps and the options.
      theirs: the module. Its names get the prefix.
      call: takes the module and the maps, channels first.
      maps: what both are called with, channels last.
    """
    named = lambda entries: {prefix + name: value for name, value in entries.items()}  # noqa: E731
    load_state_dict(layer, named(theirs.state_dict()))
    structure, state = nnx.split(layer)

    def ours(state, *maps):
        return nnx.merge(structure, state)(*maps, **options)

    tensors = [first(a).requires_grad_() for a in maps]
    expected = call(theirs, *tensors)
    weights = normal(99, *last(expected).shape)

    @jax.jit
    def both(state, *maps):
        value, pull = jax.vjp(ours, state, *maps)
        return value, pull(jnp.asarray(weights))

    value, (own, *others) = both(state, *map(jnp.asarray, maps))
    np.testing.assert_allclose(value, last(expected), atol=1e-4 * max(1, np.abs(last(expected)).max()))
    expected.backward(first(weights))
    for gradient, tensor in zip(others, tensors, strict=True):
        close(gradient, last(tensor.grad))
    # PyTorch's gradients in our layout, by way of the loader.
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    wanted = load_state_dict(nnx.clone(layer), named(theirs.state_dict() | gradients))
    pairs = zip(*(jax.tree.leaves(nnx.filter_state(s, nnx.Param)) for s in (own, nnx.state(wanted))), strict=True)
    for ours_, theirs_ in pairs:
        close(ours_, theirs_)
    # Bfloat16 is the same to its precision, but for what the network makes of rounding.
    half = jax.jit(ours)(jax.tree.map(lambda a: a.astype(jnp.bfloat16), state), *(jnp.bfloat16(a) for a in maps))
    assert half.dtype == jnp.bfloat16
    error = np.abs(np.asarray(half, np.float32) - value)
    assert error.max() < 0.1 * np.abs(value).max() + 0.05, error.max()
    return value


def close(ours, theirs):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * max(1, np.abs(theirs).max()))
