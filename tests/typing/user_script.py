# pyright: strict
"""What a user writes. mypy --strict and pyright's strict mode find nothing here, and it runs: see test_typing.py."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import upsampling as up
from upsampling.interop.torch import load_state_dict


@up.nn.register("user_script", family="own", paper="a toy")
class Smooth(up.nn.Upsampler):
    """Nearest, then a 3x3 box filter: a method of the user's own."""

    def __init__(self, features: int, scale: int | tuple[int, ...] = 2, *, width: int = 3, rngs: nnx.Rngs) -> None:
        self.scale, self.width = scale, width

    def __call__(self, x: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        y = up.resize(x, scale=self.scale, method="nearest")
        box = jnp.broadcast_to(1 / self.width**2, (*y.shape[:-1], 1, self.width, self.width))
        return up.reassemble(y, box, scale=1)


def decoder(features: int, rngs: nnx.Rngs) -> list[up.nn.Upsampler]:
    """Layers by name, with options; the first with PyTorch's parameters."""
    learned = up.nn.create("transposed_conv", features, 2, kernel_size=2, padding=0, rngs=rngs)
    state = {"weight": np.ones((features, features, 2, 2), np.float32), "bias": np.zeros(features, np.float32)}
    learned = load_state_dict(learned, state)
    return [
        learned,
        up.nn.find("user_script").create(features, rngs=rngs, width=1),
        up.nn.Bilinear(2),
    ]


def main() -> None:
    rngs = nnx.Rngs(0)
    x: jax.Array = jax.random.normal(rngs.params(), (1, 4, 4, 2))
    larger = up.resize(x, (8, 8), method="bicubic", convention="pillow", antialias=True)
    larger += up.transposed_conv(x, jax.random.normal(rngs.params(), (2, 2, 2, 2)), strides=2, padding="VALID")
    target = jnp.argmax(larger, -1)
    for layer in decoder(2, rngs):
        larger += layer(x)

    prediction = jnp.argmax(larger, -1)
    per_image: jax.Array = up.metrics.boundary_iou(prediction, target, num_classes=2)
    sums = up.metrics.boundary_iou.accumulate(prediction, target, num_classes=2)
    whole: jax.Array = sums.merge(sums).compute()
    print(per_image.shape, whole.shape, [method.name for method in up.nn.available().values()])


if __name__ == "__main__":
    main()
