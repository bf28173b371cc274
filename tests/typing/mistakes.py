"""What a type checker must find: an error on each line marked `wrong`, and on no other."""

import jax
from flax import nnx

import upsampling as up


def mistakes(x: jax.Array, weights: jax.Array, positions: jax.Array, rngs: nnx.Rngs) -> None:
    up.resize(x, scale=2, method="bilinear")
    up.resize(x, scale=2, method="bilinera")  # wrong
    up.resize(x, scale=2, convention="opencv")
    up.resize(x, scale=2, convention="open_cv")  # wrong
    up.reassemble(x, weights, edge="reflect")
    up.reassemble(x, weights, edge="mirror")  # wrong
    up.grid_sample(x, positions, method="bicubic")
    up.grid_sample(x, positions, method="cubic")  # wrong
    up.nn.create("bilinear", 8, rngs=rngs)
    up.nn.create("bilinera", 8, rngs=rngs)  # wrong
    up.nn.create("bilinear", 8)  # wrong
    up.nn.create("carafe", 8, kernel_size=3, rngs=rngs)
    up.nn.create("carafe", 8, kernel_sise=3, rngs=rngs)  # wrong
    up.nn.create("naf", 8, variant="small", rngs=rngs)
    up.nn.create("naf", 8, variant="tiny", rngs=rngs)  # wrong
    up.nn.create("bilinear", 8, rngs=rngs, convention="opencv")
    up.nn.create("bilinear", 8, rngs=rngs, convention="pytorch")  # wrong
    up.nn.create("transposed_conv", 8, rngs=rngs, kernel_size=4)
    up.nn.create("transposed_conv", 8, rngs=rngs, kernel=4)  # wrong
