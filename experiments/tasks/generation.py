"""Generation: a small adversarial generator whose way up is any upsampling method, and what its samples' spectra show.

Checkerboards are the known fault of learned upsampling (Odena et al. 2016), and a spectrum that is not the data's at
high frequencies that of all of it (Durall et al. 2020). Both are measured, and a kernel distance between samples and
held-out data in a fixed feature space.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from experiments import comparison, devices, methods, tasks, training
from experiments.comparison import Comparison
from experiments.data import Split, loader, pictures
from experiments.data.pictures import Pictures
from experiments.models import blocks
from experiments.models.generation import SIDE, Critic, Generator
from experiments.results import shown_name
from experiments.settings import Job
from experiments.statistics import Sums
from experiments.tasks import Measure, Picture, Words
from experiments.trials import CURVE, Trial

MEASURES = {
    "kernel_distance": Measure(
        "kernel distance",
        "the unbiased squared maximum mean discrepancy to held-out data (Bińkowski et al. 2018), kernel "
        "(x·y / d + 1)³ on the means and spreads of the maps of a fixed random convolutional network",
        lower_is_better=True,
        brief=True,
    ),
    "spectrum_error": Measure(
        "spectrum error, dB",
        "mean over spatial frequencies of the difference, without sign, between the radial power spectra of samples "
        "and held-out data (Durall et al. 2020)",
        lower_is_better=True,
        brief=True,
    ),
    "checkerboard": Measure(
        "checkerboard, dB",
        "power at the frequencies of what repeats every 2 pixels, over that around them; the data have about 0",
        lower_is_better=True,
        brief=True,
    ),
    "checkerboard_start": Measure(
        "checkerboard at first, dB", "the same before training (Odena et al. 2016)", lower_is_better=True, brief=True
    ),
}
PRIMARY = "kernel_distance"
FREQUENCIES = tuple((k + 0.5) / SIDE for k in range(SIDE // 2 + 1))  # edges of bins, in cycles per pixel
BLOCK = 64  # samples that are measured together
_AVERAGE = 0.99  # of the generator's parameters over steps; the average is what is measured


# --- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generation(Comparison):
    """Compare upsampling methods in a small adversarial generator: checkerboards, spectra, distance to the data.

    The default takes some minutes on two cores.
    """

    data: Literal["digits", "photographs", "folder"] = "digits"
    """digits: scikit-learn's, of 8 x 8 pixels, enlarged to 16 x 16. photographs: patches of those that scikit-image and
    scikit-learn ship, reduced by 2, which need many more steps. folder: patches of the pictures at --path, also reduced
    by 2."""
    path: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The folder of --data folder."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = (
        "bilinear",
        "resize_conv",
        "transposed_conv",
        "experiments.models.generation:UnevenTransposedConv",
        "sub_pixel_conv",
    )
    """Upsampling methods to compare: names of the library, your own as package.module:Class, or all."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N")] = (0, 1, 2, 3, 4, 5, 6, 7)
    """One training per method and seed; differences between methods are paired by seed. More than the other tasks have:
    adversarial training differs more from seed to seed."""
    latent: int = 32
    """Numbers that an image is made of."""
    batch: int = 32
    """Images, and samples, per step."""
    learning_rate: Annotated[tuple[float, ...], tyro.conf.arg(metavar="X")] = (2e-3,)
    """Highest learning rate of generator and critic. Of several, each method takes its own."""
    regularization: float = 1.0
    """Weight of R1, the critic's squared slope at the data (Mescheder et al. 2018), which keeps training stable."""
    samples: int = 512
    """How many samples are measured, in blocks of 64, as many as there are held-out images at most."""

    def trained(self) -> list[str]:
        """The one design."""
        return ["dcgan"]

    def load(self) -> Pictures:
        """Blocks of images; raises ValueError or OSError as `pictures.folder` does."""
        return blocks_of(self.data, self.path, self.samples)


def resolve(config: Generation) -> Generation:
    """The settings checked; raises ValueError."""
    config = config.resolved()
    config.at_least("latent", 1)
    config.at_least("samples", BLOCK)
    if not config.regularization >= 0:
        raise ValueError(f"--regularization {config.regularization:g}: must be at least 0.")
    if (config.data == "folder") != (config.path is not None):
        raise ValueError("--data folder and --path DIR go together; give both or neither.")
    return config if config.path is None else dataclasses.replace(config, path=config.path.resolve())


# --- data -------------------------------------------------------------------------------------------------------------


def blocks_of(data: str, path: Path | None = None, samples: int = 512) -> Pictures:
    """A data set as blocks of images `(64, 16, 16)`, 8-bit, in random order, of those for testing `samples` at most."""
    if data == "digits":
        whole = pictures.digits(SIDE // 8)
        found = {part: [e["image"] for e in getattr(whole, part).examples] for part in pictures.PARTS}
        description = whole.description
    else:
        whole = pictures.photographs() if path is None else pictures.folder(path)
        found = _patches(whole)
        counts = ", ".join(f"{len(found[part])} for {part}" for part in pictures.PARTS)
        description = (
            f"Patches of {SIDE} × {SIDE} pixels, luma, of {whole.name} reduced by 2 (bicubic, as MATLAB's imresize): "
            f"{counts}. Those of different parts come from different cells of the pictures and do not overlap."
        )
    rng = np.random.default_rng(0)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for part, images in found.items():
        if len(images) < BLOCK:
            raise ValueError(
                f"{whole.name}: too few or too small pictures; {part} has {len(images)} images of the {BLOCK} needed."
            )
        mixed = np.stack([images[i] for i in rng.permutation(len(images))])
        count = min(len(mixed), samples if part == "test" else len(mixed)) // BLOCK
        parts[part] = {f"block {i}": mixed[i * BLOCK : (i + 1) * BLOCK] for i in range(count)}
    return pictures.from_parts(whole.name, description, parts)


def _patches(whole: Pictures) -> dict[str, list[np.ndarray]]:
    """Patches of all pictures: each is cut into cells, which go to the parts by turns."""
    cell, step, found = 3 * SIDE, SIDE // 2, {part: [] for part in pictures.PARTS}
    turns = ("train", "test", "train", "train", "validation", "train", "test", "train", "train", "train")
    count = 0
    for split in (whole.train, whole.validation, whole.test):
        for example in split.examples:
            image = pictures.reduced(pictures.cut_to_multiple(example["image"], 2), 2)
            for top in range(0, image.shape[0] - cell + 1, cell):
                for left in range(0, image.shape[1] - cell + 1, cell):
                    part, count = turns[count % len(turns)], count + 1
                    for i in range(0, cell - SIDE + 1, step):
                        for j in range(0, cell - SIDE + 1, step):
                            found[part].append(image[top + i : top + i + SIDE, left + j : left + j + SIDE])
    return found


def _images(split: Split) -> np.ndarray:
    return np.concatenate([example["image"] for example in split.examples])


class Batches(loader.Numbered):
    """Endless batches of data and of random numbers; the n-th depends on the seed and n alone."""

    def __init__(
        self, images: np.ndarray, *, mirror: bool, latent: int, size: int, seed: int, part: tuple[int, int] = (0, 1)
    ):
        self._images, self._mirror, self._latent, self._size = images, mirror, latent, size
        self._seed, self._part = seed, part

    def batch(self, number: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self._seed, number))
        chosen = self._images[rng.integers(len(self._images), size=self._size)]
        turned = rng.random(self._size) < (0.5 if self._mirror else 0)
        chosen = np.where(turned[:, None, None], chosen[:, :, ::-1], chosen)
        batch = {"image": as_reals(chosen), "latent": _normal(rng, (self._size, self._latent))}
        return {name: array[self._part[0] :: self._part[1]] for name, array in batch.items()}


def as_reals(images: np.ndarray) -> np.ndarray:
    """`(n, H, W)` bytes to `(n, H, W, 1)` in [-1, 1]."""
    return (images[..., None].astype(np.float32) - 127.5) / 127.5


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


# --- loss -------------------------------------------------------------------------------------------------------------


def loss(
    generate: Callable[[Any, jax.Array], jax.Array],
    criticize: Callable[[Any, jax.Array], jax.Array],
    params: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    regularization: float,
) -> jax.Array:
    """The logistic losses of generator and critic as one, each of which moves its own parameters alone, and R1.

    Source: Goodfellow et al. 2014, arXiv:1406.2661 (non-saturating); Mescheder et al. 2018, arXiv:1801.04406,
    equation 9.
    """
    real, critic = batch["image"], params["critic"]
    made = generate(params["generator"], batch["latent"])
    of_generator = jnp.mean(jax.nn.softplus(-criticize(jax.lax.stop_gradient(critic), made)))

    def total(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = criticize(critic, images)
        return jnp.sum(scores), scores

    slope, scores = jax.grad(total, has_aux=True)(real)
    penalty = jnp.mean(jnp.sum(jnp.square(slope.astype(jnp.float32)), (1, 2, 3)))
    false = criticize(critic, jax.lax.stop_gradient(made))
    of_critic = jnp.mean(jax.nn.softplus(false)) + jnp.mean(jax.nn.softplus(-scores))
    return of_generator + of_critic + regularization / 2 * penalty


# --- measures ---------------------------------------------------------------------------------------------------------


def power(images: np.ndarray) -> np.ndarray:
    """Mean power spectrum `(H, W)` of images `(n, H, W)`, less their means, under a Hann window."""
    centered = images - images.mean((1, 2), keepdims=True)
    rows, columns = (np.hanning(n + 1)[:-1] for n in images.shape[1:])
    return np.mean(np.abs(np.fft.fft2(centered * rows[:, None] * columns)) ** 2, axis=0)


def radial(spectrum: np.ndarray) -> np.ndarray:
    """The mean of a square spectrum over rings, one for each of `FREQUENCIES`' bins."""
    axis = np.fft.fftfreq(len(spectrum))
    radius = np.hypot(axis[:, None], axis)
    return np.array([spectrum[(radius >= a) & (radius < b)].mean() for a, b in itertools.pairwise(FREQUENCIES)])


def checkerboard(spectrum: np.ndarray) -> float:
    """How much power lies at the three frequencies of period 2, over that two bins around each of them, in dB.

    A Hann window spreads a peak over the bins beside it, and no farther.

    Example: a constant plus what repeats every two columns, in noise.

    >>> noise = np.random.default_rng(0).normal(size=(64, 16, 16))
    >>> round(checkerboard(power(noise)), 1)
    0.1
    >>> checkerboard(power(noise + 0.5 * (-1) ** np.arange(16))) > 3
    True
    """
    half, found = len(spectrum) // 2, []
    for row, column in ((half, 0), (0, half), (half, half)):
        around = [
            spectrum[(row + i) % len(spectrum), (column + j) % len(spectrum)]
            for i in range(-2, 3)
            for j in range(-2, 3)
            if max(abs(i), abs(j)) == 2
        ]
        found.append(_decibels(spectrum[row, column]) - _decibels(np.mean(around)))
    return float(np.mean(found))


def _decibels(power: Any) -> Any:
    return 10 * np.log10(np.maximum(power, 1e-12))


@functools.cache
def _feature_network() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    widths = (1, 32, 64, 64)
    return tuple(
        rng.standard_normal((3, 3, a, b)).astype(np.float32) * np.float32(np.sqrt(2 / (9 * a)))
        for a, b in itertools.pairwise(widths)
    )


@jax.jit
def _maps(images: jax.Array) -> jax.Array:
    found = []
    for kernel in _feature_network():
        images = jax.lax.conv_general_dilated(
            images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        images = jax.nn.leaky_relu(images, 0.2)
        found += [images.mean((1, 2)), images.std((1, 2))]
    return jnp.concatenate(found, -1)


def random_features(images: np.ndarray) -> np.ndarray:
    """`(n, 16, 16)` bytes to `(n, 320)`: means and spreads of the maps of three convolutions, fixed at random."""
    filled = np.concatenate([images, np.repeat(images[-1:], -len(images) % BLOCK, 0)])
    maps = [np.asarray(_maps(as_reals(filled[i : i + BLOCK]))) for i in range(0, len(filled), BLOCK)]
    return np.concatenate(maps)[: len(images)].astype(np.float64)


def kernel_distance(samples: np.ndarray, data: np.ndarray) -> float:
    """The unbiased squared maximum mean discrepancy of features `(n, d)` and `(m, d)`, kernel (x·y / d + 1)³.

    Below 0 as often as above for two draws of one distribution.

    Source: Bińkowski et al. 2018, arXiv:1801.01401, sections 3 and 4.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> near = kernel_distance(rng.normal(size=(200, 4)), rng.normal(size=(200, 4)))
    >>> abs(near) < 0.1 < kernel_distance(rng.normal(size=(200, 4)), rng.normal(0.5, 1, (200, 4)))
    True
    """
    (n, width), m = samples.shape, len(data)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / width + 1) ** 3

    own, theirs, both = kernel(samples, samples), kernel(data, data), kernel(samples, data)
    within = (own.sum() - np.trace(own)) / (n * (n - 1)) + (theirs.sum() - np.trace(theirs)) / (m * (m - 1))
    return float(within - 2 * both.mean())


class Reference(NamedTuple):
    """What samples are held against: features of a part, their scale, and the radial spectrum in dB."""

    features: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    spectrum: np.ndarray


@functools.lru_cache(maxsize=8)
def _reference(data: Pictures, part: str) -> Reference:
    train, own = random_features(_images(data.train)), random_features(_images(getattr(data, part)))
    mean, spread = train.mean(0), train.std(0) + 1e-6
    spectrum = _decibels(radial(power(_images(getattr(data, part)).astype(float))))
    return Reference((own - mean) / spread, mean, spread, spectrum)


def measure(samples: Sequence[np.ndarray], start: float, data: Pictures, part: str) -> dict[str, Sums]:
    """The sums of each measure for every block of samples, `(1, blocks, 1)`, and of the spectrum against the data's.

    Args:
      samples: blocks `(n, 16, 16)` of bytes.
      start: the checkerboard before training, one number for all blocks.
      data: held against its `part`.
    """
    reference, found = _reference(data, part), {name: [] for name in (*MEASURES, CURVE)}
    for block in samples:
        features = (random_features(block) - reference.mean) / reference.spread
        spectrum = power(block.astype(float))
        differences = _decibels(radial(spectrum)) - reference.spectrum
        found["kernel_distance"].append([kernel_distance(features, reference.features)])
        found["spectrum_error"].append([np.abs(differences).mean()])
        found["checkerboard"].append([checkerboard(spectrum)])
        found["checkerboard_start"].append([start])
        found[CURVE].append(differences)
    return {name: Sums(np.array([rows]), np.ones((1, *np.shape(rows)))) for name, rows in found.items()}


def _baselines(config: Generation, design: str, data: Pictures) -> dict[str, tuple[str, dict[str, Sums], bool]]:
    """The training data in the samples' place: how near is near."""
    images = _images(data.train)
    own = [images[i : i + BLOCK] for i in range(0, BLOCK * len(data.test), BLOCK)]
    own = [block for block in own if len(block) == BLOCK]
    start = float(np.mean([checkerboard(power(block.astype(float))) for block in own]))
    return {
        "the data themselves": (
            "Images of the training data in the place of samples.",
            measure(own, start, data, "test"),
            False,
        )
    }


# --- training ---------------------------------------------------------------------------------------------------------


def latents(config: Generation, seed: int, count: int) -> list[np.ndarray]:
    """The numbers that blocks of samples are made of: the same for all methods of a seed."""
    rng = np.random.default_rng((seed, 2**20))
    return [_normal(rng, (BLOCK, config.latent)) for _ in range(count // BLOCK)]


def trial(
    job: Job,
    rate: float,
    config: Generation,
    data: Pictures,
    shared: comparison.Stage,
) -> tuple[Trial, training.Options]:
    """What one training of a generator and its critic is made of, and its options."""
    generator = Generator(
        job.method, features=config.features, latent=config.latent, variants=config.variants, seed=job.seed
    )
    structure, params, rest = nnx.split(generator, nnx.Param, ...)
    judge, own, remainder = nnx.split(Critic(features=config.features, seed=job.seed), nnx.Param, ...)

    def generate(params: Any, latent: jax.Array) -> jax.Array:
        return nnx.merge(structure, params, rest)(latent.astype(training.dtype_of(params))).astype(jnp.float32)

    def criticize(params: Any, image: jax.Array) -> jax.Array:
        return nnx.merge(judge, params, remainder)(image.astype(training.dtype_of(params))).astype(jnp.float32)

    def of_batch(params: Any, average: Any, batch: Any) -> tuple[jax.Array, Any]:
        value = loss(generate, criticize, params, batch, config.regularization)
        moved = jax.tree.map(
            lambda a, p: _AVERAGE * a + (1 - _AVERAGE) * p.astype(a.dtype),
            average,
            jax.lax.stop_gradient(params["generator"]),
        )
        return value, moved

    sample = jax.jit(generate)

    def samples(params: Any, count: int) -> list[np.ndarray]:
        made = [np.asarray(sample(params, block))[..., 0] for block in latents(config, job.seed, count)]
        return [np.round(127.5 + 127.5 * block).astype(np.uint8) for block in made]

    first = np.concatenate([np.asarray(sample(params, z))[..., 0] for z in latents(config, job.seed, BLOCK)])
    start = checkerboard(power(_stretched(first)))

    def validate(params: Any, average: Any) -> dict[str, float]:
        sums = measure(samples(average, BLOCK), start, data, "validation")
        return {name: float(sums[name].value()[0]) for name in TASK.followed}

    variant = methods.variant_of(job.method, config.variants)
    made_of = Trial(
        generator,
        {"generator": params, "critic": own},
        jax.tree.map(jnp.copy, params),
        of_batch,
        Batches(
            _images(data.train),
            mirror=config.data != "digits",
            latent=config.latent,
            size=config.batch,
            seed=job.seed,
            part=devices.part(),
        ),
        validate=validate,
        predict=lambda params, average: samples(average, BLOCK * len(data.test)),
        measure=lambda made: measure(made, start, data, "test"),
        variant=variant,
        receptive_field=blocks.receptive_field(job.method, variant, config.features, 2),
    )
    options = config.options(rate, validations=2, betas=(0.5, 0.99))
    return made_of, options


def _stretched(images: np.ndarray) -> np.ndarray:
    """Images with a spread of one, so that no floor of the power matters."""
    return images / max(float(images.std()), 1e-12)


# --- words and pictures -----------------------------------------------------------------------------------------------


def _sheet(images: np.ndarray, across: int = 8) -> np.ndarray:
    rows = [np.concatenate(list(images[i : i + across]), axis=1) for i in range(0, across * across, across)]
    return np.concatenate(rows)


def _pictures(
    design: str, found: Mapping[str, Any], data: Pictures, predictions: Mapping[str, Sequence[np.ndarray]]
) -> list[Picture]:
    """A sheet of data, and one of samples of each method, from the same numbers."""
    methods = found["designs"][design]["methods"]
    shown = {"data": _images(data.test)}
    shown |= {shown_name(name, methods[name]): sheets[0] for name, sheets in predictions.items()}
    return [Picture("", [(name, _sheet(_filled(images))) for name, images in shown.items()])]


def _filled(images: np.ndarray) -> np.ndarray:
    return np.concatenate([images] * -(-BLOCK // len(images)))[:BLOCK]


def _design(name: str, settings: Mapping[str, Any]) -> str:
    return (
        f"A generator makes {SIDE} × {SIDE} pixels of {settings['latent']} random numbers: twice a 3 × 3 "
        "convolution and the upsampler by 2, and a 1 × 1 convolution at the end (after Radford et al. 2016). It was "
        f"trained against a critic of two strided convolutions for {settings['steps']} steps. All methods of a seed "
        "start from the same critic and see the same data and numbers."
    )


def _settings(settings: Mapping[str, Any], designs: set[str]) -> list[str]:
    return [
        *comparison.sentences(settings, f"images of {SIDE} × {SIDE} pixels"),
        f"Logistic losses without saturation, R1 with weight {settings['regularization']:g} (Mescheder et al. 2018); "
        f"Adam's decays are 0.5 and 0.99. What is measured are samples, in blocks of {BLOCK}, of the generator's "
        f"parameters averaged over steps with a decay of {_AVERAGE:g}. The bootstrap draws blocks.",
    ]


WORDS = Words(
    heading="What the upsampler does in a generator",
    where={"dcgan": "In the DCGAN-style generator"},
    better="came nearer to the data",
    best="best samples at any cost",
    unit="blocks of samples",
    beyond="other data, networks or longer training",
    titles={"dcgan": "DCGAN-style"},
    design=_design,
    settings=_settings,
    curve="Spectrum",
    curve_says="The radial power spectrum of samples over that of held-out data, by spatial frequency: 0 is right; "
    "above 0 samples have too much of a frequency. 0.5 is the finest that pixels can show.",
    level="power against the data’s, dB",
    across="spatial frequency, cycles per pixel",
    ones="blocks of 64 samples",
    signed=True,
    panel=256,
    pictures=(
        "Samples",
        "Samples of each method’s generator of the first seed, from the same numbers, beside held-out data.",
    ),
)

TASK = tasks.Task(
    name="generation",
    settings=Generation,
    resolve=resolve,
    measures=MEASURES,
    primary=PRIMARY,
    followed=("kernel_distance", "checkerboard"),
    bins=FREQUENCIES,
    stage=comparison.stage,
    trial=trial,
    words=WORDS,
    baselines=_baselines,
    pictures=_pictures,
)
