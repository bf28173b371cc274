"""The study with an upsampler, data and a network of one's own: `python -m experiments.example`, or cell by cell.

Each stands for itself. Leave out the network, and the study's own are trained; leave out the data, and they are the
brain's slices.
"""

from types import SimpleNamespace

import jax
import numpy as np
from flax import nnx

import upsampling as up
from experiments import study


class Blurred(up.nn.Upsampler):
    """An upsampler of one's own: nearest, then a box filter. Any module with these arguments will do."""

    def __init__(self, features, scale=2, *, rngs):
        self.scale = scale

    def __call__(self, x, guide=None):
        y = up.nearest(x, scale=self.scale)
        window = (1, self.scale, self.scale, 1)
        return jax.lax.reduce_window(y, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME") / self.scale**2


def discs(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Noisy images, `(H, W)` in about [0, 1], and their label maps."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((32, 32))
    found = []
    for _ in range(count):
        label = (np.hypot(rows - rng.uniform(8, 24), columns - rng.uniform(8, 24)) < rng.uniform(4, 10)).astype(int)
        found.append((0.3 + 0.4 * label + rng.normal(0, 0.1, label.shape), label))
    return found


# Data of one's own: an object with these attributes, and of `Dataset`'s others those that there are.
data = SimpleNamespace(
    name="discs", classes=("background", "disc"), train=discs(16, 0), validation=discs(4, 1), test=discs(6, 2)
)


class TwoSteps(nnx.Module):
    """A network of one's own: down twice, up twice. It takes images of any size that four divides."""

    def __init__(self, channels, num_classes, method, *, seed=0):
        rngs = nnx.Rngs(seed)
        self.down = nnx.List([nnx.Conv(channels, 8, (4, 4), strides=2, rngs=rngs)])
        self.down.append(nnx.Conv(8, 8, (4, 4), strides=2, rngs=rngs))
        self.up = nnx.List([up.nn.create(method, 8, scale=2, rngs=rngs) for _ in range(2)])
        self.head = nnx.Conv(8, num_classes, (1, 1), rngs=rngs)

    def __call__(self, image):
        x = image
        for layer in self.down:
            x = jax.nn.relu(layer(x))
        for layer in self.up:
            x = layer(x)
        return self.head(x)


def main(steps: int = 400, **options) -> study.Result:
    """Compares the own upsampler with bilinear interpolation in the own network."""
    losses = []
    config = study.Segmentation(
        design=("unet",), methods=("bilinear", Blurred), seeds=(0, 1), steps=steps, batch=4, crop=32, **options
    )
    found = study.run(
        config,
        data=data,
        model=TwoSteps,
        # A sink: here it keeps what it is told; one that writes to Weights & Biases looks the same.
        sinks=[lambda entry: losses.append((entry.training, entry.step, entry.metrics))],
    )
    for method, values in found.values("unet").items():
        print(f"{method}: Boundary IoU {values.mean():.3f} over {len(values)} seeds")
    print(f"figures: {', '.join(found.figures())}")
    print(f"the label map of the first test image: {found.predictions('unet', 'bilinear', 0)[0].shape}")
    print(f"entries told while training: {len(losses)}")
    return found


if __name__ == "__main__":
    main(quiet=True)
