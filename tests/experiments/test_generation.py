"""Generation: the known facts of spectra, the loss and the distance against plain statements, and the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import __main__ as command
from experiments.models.generation import SIDE, Generator, UnevenTransposedConv
from experiments.tasks import generation as task

UNEVEN = f"{UnevenTransposedConv.__module__}:{UnevenTransposedConv.__qualname__}"


def at_first(method, change=lambda model: None):
    """The checkerboard of a generator before training, mean over a few, in dB."""
    found = []
    for seed in range(3):
        model = Generator(method, features=8, latent=8, seed=seed)
        change(model)
        made = model(np.random.default_rng(seed).standard_normal((64, 8)).astype(np.float32))
        assert made.shape == (64, SIDE, SIDE, 1)
        found.append(task.checkerboard(task.power(task._stretched(np.asarray(made)[..., 0]))))
    return np.mean(found)


def test_uneven_overlap_makes_a_checkerboard_at_first_and_resizing_makes_none():
    assert at_first(UNEVEN) > 6
    assert at_first("resize_conv") < 1
    assert at_first("bilinear") < 1


def test_phases_that_start_alike_keep_sub_pixel_convolution_from_checkerboards():
    def unlike(model):
        for i, step in enumerate(model.ups):
            kernel = step.upsampler.kernel
            kernel[...] = jax.random.normal(jax.random.key(i), kernel.shape) * jnp.std(kernel[...])

    assert at_first("sub_pixel_conv") < 1
    assert at_first("sub_pixel_conv", unlike) > 4


def test_a_peak_of_period_two_is_measured_and_noise_has_none():
    noise = np.random.default_rng(0).normal(size=(256, SIDE, SIDE))
    assert abs(task.checkerboard(task.power(noise))) < 1
    # An amplitude a adds a² N² w² to a spectrum of N² σ² times the mean of the squared window, which is (3/8)².
    board = 0.3 * (-1.0) ** np.add.outer(np.arange(SIDE), np.arange(SIDE))
    peak = SIDE**2 * 0.3**2 * 0.25**2 / (3 / 8) ** 2 + 1
    assert task.checkerboard(task.power(noise + board)) == pytest.approx(10 * np.log10(peak) / 3, abs=1)


def test_the_spectrum_of_white_noise_is_flat_and_a_wave_lies_in_its_ring():
    noise = np.random.default_rng(0).normal(size=(512, SIDE, SIDE))
    flat = task.radial(task.power(noise))
    assert flat.shape == (len(task.FREQUENCIES) - 1,)
    np.testing.assert_allclose(flat[1:], flat[1:].mean(), rtol=0.1)
    wave = np.cos(2 * np.pi * 5 / SIDE * np.arange(SIDE))[None, None, :] * np.ones((1, SIDE, 1))
    assert np.argmax(task.radial(task.power(wave))) == 4  # the bin around 5 cycles


def test_kernel_distance_is_the_sum_over_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(7, 3))

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    within = sum(k(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
    within += sum(k(b[i], b[j]) for i in range(7) for j in range(7) if i != j) / 42
    between = np.mean([k(x, y) for x in a for y in b])
    assert task.kernel_distance(a, b) == pytest.approx(within - 2 * between)


def test_each_loss_moves_its_own_parameters_and_r1_is_the_slope_at_the_data():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(6, 2, 2, 1)).astype(np.float32),
        "latent": rng.normal(size=(6, 3)).astype(np.float32),
    }
    params = {
        "generator": rng.normal(size=(3, 4)).astype(np.float32),
        "critic": rng.normal(size=4).astype(np.float32),
    }

    def generate(w, z):
        return (z @ w).reshape(-1, 2, 2, 1)

    def criticize(v, x):
        return x.reshape(len(x), 4) @ v

    value, slope = jax.value_and_grad(lambda p: task.loss(generate, criticize, p, batch, 3.0))(params)
    w, v = params["generator"].astype(float), params["critic"].astype(float)
    z, x = batch["latent"].astype(float), batch["image"].reshape(6, 4).astype(float)
    made, real = z @ w @ v, x @ v
    expected = np.mean(np.log1p(np.exp(-made))) + np.mean(np.log1p(np.exp(made))) + np.mean(np.log1p(np.exp(-real)))
    assert value == pytest.approx(expected + 1.5 * v @ v, rel=1e-4)  # a linear critic's slope is its weights

    def sigmoid(t):
        return 1 / (1 + np.exp(-t))

    of_generator = -np.einsum("n,ni,j->ij", sigmoid(-made), z, v) / 6
    of_critic = (sigmoid(made) @ (z @ w) - sigmoid(-real) @ x) / 6 + 3 * v
    np.testing.assert_allclose(slope["generator"], of_generator, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(slope["critic"], of_critic, rtol=1e-3, atol=1e-5)


def test_a_batch_depends_on_the_seed_and_its_number_alone():
    images = np.random.default_rng(0).integers(0, 256, (10, SIDE, SIDE)).astype(np.uint8)
    batches = task.Batches(images, mirror=True, latent=4, size=6, seed=3)
    next(batches)
    second, state = next(batches), batches.get_state()
    assert state == {"next": 2}
    other = task.Batches(images, mirror=True, latent=4, size=6, seed=3, part=(0, 2))
    other.set_state({"next": 1})
    np.testing.assert_array_equal(next(other)["latent"], second["latent"][::2])
    assert second["image"].min() >= -1
    assert second["image"].max() <= 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    small = "--data digits --steps 2 --batch 4 --features 4 --samples 128 --methods nearest sub_pixel_conv --seeds 0 1"
    assert command.main(["generation", *small.split(), "--out", str(out)]) == 0
    return out


def test_a_run_measures_samples_in_blocks_and_shows_them(finished):
    found = json.loads((finished / "results.json").read_text())
    assert found["task"] == "generation"
    assert found["data"]["test_images"] == ["block 0", "block 1"]
    of = found["designs"]["dcgan"]
    assert of["baselines"]["the data themselves"]["figures"]["kernel_distance"]["mean"] < 1
    for method in of["methods"].values():
        assert method["summary"].keys() == task.MEASURES.keys()
        assert method["summary"]["kernel_distance"]["mean"] > 1  # two steps are no training
    with np.load(finished / "dcgan" / "nearest" / "seed0" / "predictions.npz") as stored:
        assert stored["label1"].shape == (64, SIDE, SIDE)
        assert stored["label1"].dtype == np.uint8
    page = (finished / "report.html").read_text()
    assert "What the upsampler does in a generator" in page
    assert page.count('<div class="panels"><figure>') == 1
    before = (finished / "results.json").read_bytes()
    (finished / "dcgan" / "nearest" / "seed0" / "result.json").unlink()  # its checkpoint stays
    assert command.main(["generation", "--resume", str(finished)]) == 0
    assert (finished / "results.json").read_bytes() == before


def test_choice_reads_it_with_less_as_better(finished, capsys):
    assert command.main(["choose", "--from", str(finished)]) == 0
    told = capsys.readouterr().out
    found = json.loads((finished / "results.json").read_text())["designs"]["dcgan"]["methods"]
    best = min(found, key=lambda name: found[name]["summary"]["kernel_distance"]["mean"])
    assert f"best samples at any cost: {best}" in told


def test_what_cannot_be_is_one_clear_line(capsys):
    assert command.main(["generation", "--data", "folder"]) == 2
    assert "--data folder and --path DIR go together" in capsys.readouterr().out
    assert command.main(["generation", "--samples", "3"]) == 2
    assert "--samples 3: must be at least 64" in capsys.readouterr().out
