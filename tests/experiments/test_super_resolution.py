"""Super-resolution: its pairs and measures against independent statements, its networks, and the command."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from experiments import __main__ as command
from experiments.data import pictures
from experiments.models.super_resolution import EDSR, ESPCN, enlarged
from experiments.tasks import super_resolution as task

LETTERS = np.random.default_rng(0).integers(0, 256, (12, 15))


def picture(seed=0, size=(48, 60)):
    """Smooth blobs with edges, 8-bit."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    wave = np.sin(rows / rng.uniform(2, 9)) * np.cos(columns / rng.uniform(2, 9))
    return np.uint8(120 + 60 * wave + 40 * (np.hypot(rows - 24, columns - 30) < rng.uniform(8, 18)))


def matlab_matrix(size, out):
    """MATLAB's imresize along one axis as a matrix, after its own rule: cubic, widened to shrink, mirrored edges."""
    scale = out / size
    wide = min(scale, 1)

    def cubic(x):
        x = np.abs(x)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x <= 1, near, np.where(x <= 2, far, 0))

    matrix = np.zeros((out, size))
    for i in range(out):
        center = (i + 0.5) / scale - 0.5
        taps = np.arange(int(np.floor(center - 2 / wide)), int(np.ceil(center + 2 / wide)) + 1)
        weights = cubic((center - taps) * wide)
        mirrored = np.where(taps % (2 * size) < size, taps % (2 * size), 2 * size - 1 - taps % (2 * size))
        np.add.at(matrix[i], mirrored, weights / weights.sum())
    return matrix


@pytest.mark.parametrize("scale", [2, 3])
def test_bicubic_psnr_is_that_of_an_independent_pipeline(scale):
    large = picture()
    down = [matlab_matrix(n, n // scale) for n in large.shape]
    small = np.floor(np.clip(down[0] @ large.astype(float) @ down[1].T, 0, 255) + 0.5)
    up = [matlab_matrix(n // scale, n) for n in large.shape]
    again = np.floor(np.clip(up[0] @ small @ up[1].T, 0, 255) + 0.5)
    error = np.mean((again - large)[scale:-scale, scale:-scale] ** 2)
    data = pictures.from_parts("one", "", {part: {"a": large} for part in ("train", "validation", "test")})
    own = task._baselines(None, f"espcn x{scale}", data)["bicubic, untrained"][1]["psnr"].value()[0]
    assert own == pytest.approx(10 * np.log10(255**2 / error), abs=0.01)
    assert 15 < own < 60


def test_ssim_is_that_of_scikit_image():
    a, noise = picture(), np.random.default_rng(1).normal(0, 12, (48, 60))
    b = np.clip(a + noise, 0, 255).astype(np.uint8)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    assert task.ssim(b, a) == pytest.approx(structural_similarity(b, a, **options), abs=1e-4)
    inner = (slice(3, -3), slice(3, -3))
    assert task.ssim(b, a, 3) == pytest.approx(structural_similarity(b[inner], a[inner], **options), abs=1e-4)
    assert task.ssim(a, a) == 1


def test_psnr_of_an_image_without_error_is_finite():
    assert task.psnr(picture(), picture(), 2) == 100


def test_patches_of_a_pair_show_the_same_place_and_a_place_in_the_order_can_be_taken_up():
    pairs = [task.Pair(np.uint8(LETTERS), np.kron(LETTERS, np.ones((3, 3))).astype(np.uint8))]
    batches = task.Patches(pairs, scale=3, patch=8, size=16, seed=1, part=(0, 1))
    batch = next(batches)
    assert batch["small"].shape == (16, 8, 8, 1)
    np.testing.assert_array_equal(np.kron(batch["small"][..., 0], np.ones((1, 3, 3))), batch["large"][..., 0])
    assert len({patch.tobytes() for patch in batch["small"]}) > 8
    place = batches.get_state()
    second = next(batches)
    other = task.Patches(pairs, scale=3, patch=8, size=16, seed=1, part=(1, 2))
    other.set_state(place)
    np.testing.assert_array_equal(next(other)["small"], second["small"][1::2])


@pytest.mark.parametrize(
    ("network", "method", "scale"),
    [
        (ESPCN, "sub_pixel_conv", 3),
        (ESPCN, "max_unpool", 2),
        (ESPCN, "joint_bilateral", 2),
        (EDSR, "deconv", 2),
        (EDSR, "dysample", 4),
    ],
)
def test_networks_start_as_bicubic_whatever_the_method(network, method, scale):
    model = network(method, scale, features=4, variants=("features", "small"))
    image = jnp.asarray(picture()[None, :12, :10, None], jnp.float32) / 255
    made = model(image)
    assert made.shape == (1, 12 * scale, 10 * scale, 1)
    np.testing.assert_allclose(made, enlarged(image, scale), atol=1e-6)
    model.outward.kernel[...] += 1.0
    assert np.abs(model(image) - made).max() > 1e-3  # what the upsampler makes is added


def test_the_error_near_an_edge_is_told_from_that_far_away():
    truth = np.full((40, 40), 60, np.uint8)
    truth[:, 20:] = 200
    data = pictures.from_parts("one", "", {part: {"a": truth} for part in ("train", "validation", "test")})
    made = truth.copy()
    made[:, 19:21] = 130
    found = task.measure([made], data, "test", 2)
    assert found["edge_error"].value()[0] > 30
    assert found["flat_error"].value()[0] == 0
    curve = found["curve"]
    assert (curve.numerator[0, 0, 3:] == 0).all()
    assert curve.denominator[0, 0, 0] == 1


def save(path, *names):
    path.mkdir(parents=True)
    for i, name in enumerate(names):
        Image.fromarray(picture(i)).save(path / f"{name}.png")


def test_folders_are_read_in_their_layouts(tmp_path):
    save(tmp_path / "DIV2K" / "DIV2K_train_HR", *(f"{i:04d}" for i in range(1, 12)))
    save(tmp_path / "DIV2K" / "DIV2K_valid_HR", "0801", "0802")
    save(tmp_path / "DIV2K" / "DIV2K_valid_LR_bicubic" / "X2", "0801x2")
    for scale in (2, 3):
        save(tmp_path / "Set5" / f"image_SRF_{scale}", f"baby_SRF_{scale}_HR", f"baby_SRF_{scale}_LR")
    save(tmp_path / "Set14" / "original", "comic", "zebra")
    save(tmp_path / "Set14" / "LRbicx2", "comic")
    found = pictures.folder(tmp_path / "DIV2K")
    assert found.test.names == ("0801", "0802")
    assert found.validation.names == ("0010",)
    assert len(found.train) == 10
    assert pictures.folder(tmp_path / "DIV2K", tmp_path / "Set5").test.names == ("baby_SRF_2_HR",)
    assert pictures.folder(tmp_path / "DIV2K", tmp_path / "Set14").test.names == ("comic", "zebra")
    save(tmp_path / "flat", *"abcdefghij")
    found = pictures.folder(tmp_path / "flat")
    assert [split.names for split in (found.train, found.validation, found.test)] == [
        tuple("abcfgh"),
        ("d", "i"),
        ("e", "j"),
    ]
    with pytest.raises(FileNotFoundError, match="no such folder"):
        pictures.folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures here"):
        pictures.folder(tmp_path / "empty")


SMALL = {"--network": "espcn", "--scale": "2", "--steps": "3", "--batch": "2", "--patch": "8", "--features": "4"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    save(place / "flat", *"abcdefghij")
    methods = ("--methods", "nearest", "sub_pixel_conv")
    options = ("--data", "folder", "--path", str(place / "flat"), *itertools.chain(*SMALL.items()), "--seeds", "0", "1")
    assert command.main(["super-resolution", *options, *methods, "--out", str(place / "run")]) == 0
    return place / "run"


def test_a_run_compares_methods_with_each_other_and_with_untrained_interpolation(finished):
    found = json.loads((finished / "results.json").read_text())
    assert (found["task"], found["primary"], found["against"]) == ("super-resolution", "psnr", "nearest")
    of = found["designs"]["espcn x2"]
    base = of["baselines"]["bicubic, untrained"]
    assert set(of["baselines"]) == set(task.BASELINES)
    for name, method in of["methods"].items():
        gain = method["summary"]["psnr"]["mean"] - base["figures"]["psnr"]["mean"]
        assert method["summary"]["gain"]["mean"] == pytest.approx(gain)
        assert base["ahead"]["psnr"][name]["mean"] == pytest.approx(gain)
        assert base["ahead"]["psnr"][name]["bootstrap_low"] is not None
        assert len(method["curve"]) == len(task.DISTANCES) - 1
    assert of["methods"]["sub_pixel_conv"]["paired"]["psnr"]["seeds"] == 2
    page = (finished / "report.html").read_text()
    for told in ("What the upsampler does in super-resolution", "less that of bicubic, untrained", "Error by distance"):
        assert told in page
    assert "boundar" not in page.split("<style>")[0] + page.split("</style>")[-1].split("<script>")[0].replace(
        "boundary-", ""
    )


def test_a_run_goes_on_and_its_page_is_written_anew(finished):
    before = (finished / "results.json").read_bytes()
    (finished / "espcn-x2" / "nearest" / "seed1" / "result.json").unlink()  # its checkpoint stays
    assert command.main(["super-resolution", "--resume", str(finished)]) == 0
    assert (finished / "results.json").read_bytes() == before
    page = (finished / "report.html").read_bytes()
    assert command.main(["report", str(finished)]) == 0
    assert (finished / "report.html").read_bytes() == page


def test_choice_and_evidence_read_it(finished, tmp_path, capsys):
    assert command.main(["choose", "--from", str(finished)]) == 0
    assert "best super-resolution at any cost" in capsys.readouterr().out
    assert command.main(["evidence", "--from", str(finished), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| bicubic, untrained |" in text
    assert "less that of bicubic, untrained, by seed and image" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--scale", "5"), "--scale 5: must be 2, 3 or 4"),
        (("--path", "x"), "--data folder goes with --path"),
        (("--methods", "nearest", "nearest"), "--methods: give at least one, each once"),
        (("--patch", "4"), "--patch 4: must be at least 8"),
        (("--against", "carafe"), "--against carafe: must be one of the methods compared"),
        (("--learning-rate", "0"), "--learning-rate 0: must be above 0"),
    ],
)
def test_what_cannot_be_is_one_clear_line(options, told, capsys):
    assert command.main(["super-resolution", *options]) == 2
    assert told in capsys.readouterr().out
