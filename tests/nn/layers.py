"""Layers by name for the tests of all of them."""

import jax
from flax import nnx

import upsampling as up

METHODS = sorted(up.nn.available())


def small(name, features, scale=2, **options):
    """The layer in its smallest named variant, for tests in which size does not matter."""
    method = up.nn.available()[name]
    variant = "small" if "small" in method.variants else None
    return method.create(features, scale, variant=variant, rngs=nnx.Rngs(0), **options)


def guide_for(name, shape):
    """A guide, for the methods that cannot do without one."""
    return jax.random.normal(jax.random.key(1), shape) if up.nn.available()[name].uses_guide else None


def compiled(layer, *arguments):
    """The layer's output by one compiled program, which is cheaper than one for each operation."""
    structure, state = nnx.split(layer)
    return jax.jit(lambda state, *given: nnx.merge(structure, state)(*given))(state, *arguments)
