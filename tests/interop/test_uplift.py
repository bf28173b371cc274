"""UPLiFT against a plain statement in PyTorch, under its authors' names."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from tests.interop.agreement import agree, normal, shaken
from tests.optional import F, torch
from upsampling.nn import uplift

Module, Sequential, Conv2d = torch.nn.Module, torch.nn.Sequential, torch.nn.Conv2d


def added(x, y):
    """`x` without its last channels, or with zeros for those that it lacks, and `y`."""
    more = max(y.shape[1] - x.shape[1], 0)
    return y + F.pad(x[:, : y.shape[1]], (0, 0, 0, 0, 0, more))


class LayerNorm(Module):
    """Over the channels of each pixel."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = (torch.nn.Parameter(value(width)) for value in (torch.ones, torch.zeros))

    def forward(self, x):
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class Block(Module):
    def __init__(self, inputs, width, count, norm):
        super().__init__()
        layers = []
        for n in range(count):
            conv = Conv2d(inputs if n == 0 else width, width, 3, padding=1, bias=False)
            layers += [conv, norm(width), torch.nn.ReLU()]
        self.conv = Sequential(*layers, Conv2d(width, width, 1))

    def forward(self, x):
        return added(x, self.conv(x))


def group(inputs, width, counts, norm=torch.nn.BatchNorm2d):
    holder = Module()
    holder.blocks = Sequential(*(Block(width if n else inputs, width, count, norm) for n, count in enumerate(counts)))
    return holder


def noise(shape):
    """What stands for noise, (batch, height, width, channels)."""
    return np.sin(np.arange(math.prod(shape)) * 1.7, dtype=np.float32).reshape(shape)


class UPLiFT(Module):
    """The authors' network with a shared encoder; for latents with noise, layer normalization and a refiner."""

    def __init__(self, features, image, hidden, offsets, latents=False):
        super().__init__()
        self.offsets, self.latents, extra = offsets, latents, 4 * latents
        counts = ([1, 1], [1], [1, 1]) if latents else ([1], [2], [2])
        norm = LayerNorm if latents else torch.nn.BatchNorm2d
        self.encoder, self.decoder, self.attender = Module(), Module(), Module()
        for n, (a, b) in enumerate(zip([3, *image], image, strict=False)):
            setattr(self.encoder, f"block_{n}", group(a, b, counts[0], norm))
        self.decoder.block_0 = group(features + image[-1] + extra, hidden, counts[1], norm)
        self.decoder.up_1 = Module()
        self.decoder.up_1.up = torch.nn.ConvTranspose2d(hidden, hidden, 2, 2)
        self.decoder.block_1 = group(hidden + image[-2] + extra, hidden, counts[2], norm)
        self.attender.conv1 = Conv2d(hidden, len(offsets), 1)
        if latents:
            self.refiner = group(features + image[-1] + extra, hidden, [1, 1], norm)
            self.ref_outc = Conv2d(hidden, features, 1)
        self.image = len(image)

    def joined(self, x, seen):
        """With the image's features, and the noise."""
        parts = [x, F.interpolate(seen, x.shape[2:])]
        if self.latents:
            parts.append(torch.tensor(noise((len(x), *x.shape[2:], 4))).movedim(-1, 1))
        return torch.cat(parts, 1)

    def step(self, x, seen):
        d, large = self.decoder, [2 * n for n in x.shape[2:]]
        y = d.block_0.blocks(self.joined(x, seen[-1]))
        y = d.up_1.up(y) + F.interpolate(y, large, mode="bilinear", align_corners=True)
        y = d.block_1.blocks(self.joined(y, seen[-2]))
        weights = added(y, self.attender.conv1(y)).softmax(1)
        reach = max(max(map(abs, offset)) for offset in self.offsets)
        padded = F.pad(x, [reach] * 4, mode="replicate")
        h, w = x.shape[2:]
        views = [padded[:, :, reach + a : reach + a + h, reach + b : reach + b + w] for a, b in self.offsets]
        big = [view.repeat_interleave(2, 2).repeat_interleave(2, 3) for view in views]
        picked = sum(view * weights[:, n, None] for n, view in enumerate(big))
        return self.ref_outc(self.refiner.blocks(self.joined(picked, seen[-1]))) if self.latents else picked

    def forward(self, x, image, steps, size):
        seen = [image]
        for n in range(self.image):
            seen.append(getattr(self.encoder, f"block_{n}").blocks(seen[-1]))
        for _ in range(steps):
            x = self.step(x, seen)
        return F.interpolate(x, size, mode="bilinear", antialias=True)


SQUARE = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
STAR = [(-2, -2), (-2, 0), (-2, 2), (-1, -1), (-1, 0), (-1, 1), (0, -2), (0, -1), (0, 0)]
STAR += [(-a, -b) for a, b in STAR[-2::-1]]
DIAMOND = [(a, b) for a in range(-2, 3) for b in range(-2, 3) if abs(a) + abs(b) <= 2]


@pytest.mark.parametrize(
    ("features", "offsets", "size", "steps"),
    [(6, STAR, (7, 10), 1), (3, SQUARE, (13, 17), 2), (6, DIAMOND, (8, 10), 1)],
)
def test_uplift(features, offsets, size, steps):
    theirs = shaken(UPLiFT(features, (4, 5, 6), 20, offsets), 0.1)
    layer = up.nn.UPLiFT(
        features, guide_features=3, image_features=(4, 5, 6), hidden=20, neighbors=len(offsets), rngs=nnx.Rngs(0)
    )
    maps = normal(0, 2, 4, 5, features), normal(1, 2, *size, 3)
    agree(layer, theirs, lambda module, x, image: module(x, image, steps, size), *maps)


def test_latents(monkeypatch):
    """The form for an autoencoder's latents; the noise of each size is given."""
    draw = uplift._noise
    monkeypatch.setattr(uplift, "_noise", lambda key, number, shape, dtype: jnp.asarray(noise(shape), dtype))
    published = nnx.eval_shape(lambda: up.nn.create("uplift", 4, variant="latents", guide_features=3, rngs=nnx.Rngs(0)))
    assert [len(blocks) for blocks in (*published.encoder, published.before, published.after)] == [2] * 5 + [1, 2]
    assert published.refiner[11].last.shape == (512, 512)
    # Compiled with fewer blocks, that are all alike.
    monkeypatch.setitem(uplift._FORMS, "latents", uplift._FORMS["latents"]._replace(refiner=(1, 1)))
    theirs = shaken(UPLiFT(4, (4, 6), 8, SQUARE, latents=True), 0.1)
    options = {"guide_features": 3, "image_features": (4, 6), "hidden": 8, "neighbors": 9, "rngs": nnx.Rngs(0)}
    layer = up.nn.create("uplift", 4, variant="latents", **options)
    maps, key = (normal(0, 2, 4, 5, 4), normal(1, 2, 7, 9, 3)), jax.random.key(3)
    agree(layer, theirs, lambda module, x, image: module(x, image, 1, (7, 9)), *maps, key=key)
    monkeypatch.setattr(uplift, "_noise", draw)
    draws = [layer._draw(jax.random.key(n)) for n in (3, 4)]
    parts = [part for draw in draws for _ in range(3) for part in draw(maps[0])]
    assert {part.shape for part in parts} == {(2, 4, 5, 4)}
    assert len({float(part.ravel()[0]) for part in parts}) == 6  # none is drawn twice
    with pytest.raises(ValueError, match="form='latents' draws noise: give key="):
        layer(*maps)
    with pytest.raises(ValueError, match="form='features' draws no noise: it takes no key="):
        up.nn.create("uplift", 4, variant="small", rngs=nnx.Rngs(0))(*maps, key=key)
    with pytest.raises(ValueError, match=r"form='latent' is not known\. Did you mean 'latents'"):
        up.nn.UPLiFT(4, form="latent", rngs=nnx.Rngs(0))


def test_patches_of_14_pixels():
    """The image is first made larger, and the result brought back to its size."""
    theirs = shaken(UPLiFT(4, (4, 4), 8, SQUARE), 0.1)
    options = {"guide_features": 3, "image_features": (4, 4), "hidden": 8, "neighbors": 9}
    layer = up.nn.UPLiFT(4, **options, guide_scale=16 / 14, rngs=nnx.Rngs(0))
    x, image = normal(0, 1, 2, 3, 4), normal(1, 1, 28, 42, 3)

    def call(module, x, image):
        large = F.interpolate(image, (32, 48), mode="bilinear", antialias=True)
        return module(x, large, 4, (28, 42))

    agree(layer, theirs, call, x, image)
    assert math.log2(28 / 2) < 4
    np.testing.assert_allclose(layer(x, image, size=(28, 42)), layer(x, image), atol=1e-6)


def test_published_names():
    theirs = UPLiFT(384, (16, 32, 64, 128, 128), 64, STAR)
    up.interop.torch.load_state_dict(up.nn.UPLiFT(384, guide_features=3, rngs=nnx.Rngs(0)), theirs.state_dict())
