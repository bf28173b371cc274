"""The analysis of methods as filters: what the command finds, writes and refuses."""

import json

import numpy as np
import pytest

from experiments import __main__ as command
from experiments.models import blocks

LATE = """
import jax.numpy as jnp
import upsampling as up
from flax import nnx

class Late(nnx.Module):
    \"\"\"Nearest, a pixel late and a tenth too bright.\"\"\"

    def __init__(self, features, scale=2, *, rngs):
        self.features, self.scale = features, scale

    def __call__(self, x, guide=None):
        return 1.1 * jnp.roll(up.nearest(x, scale=self.scale), 1, -2)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("analysis")
    (place / "late_upsampler.py").write_text(LATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        names = ("bilinear", "sub_pixel_conv", "late_upsampler:Late")
        assert command.main(["analyse", "--methods", *names, "--features", "4", "--out", str(place / "out")]) == 0
    return place / "out"


def test_what_is_wrong_is_named(folder):
    methods = json.loads((folder / "results.json").read_text())["methods"]
    assert methods["bilinear"]["faults"] == []
    assert methods["late_upsampler:Late"]["faults"] == ["gain", "shift"]
    np.testing.assert_allclose(methods["late_upsampler:Late"]["shift"], [0, 1], atol=1e-6)
    assert methods["sub_pixel_conv"]["faults"] is None  # chance, before it is trained
    assert methods["sub_pixel_conv"]["parameters"] == 3 * 3 * 4 * 16 + 16
    # A sum of two products per axis, once for half of the pixels, in four channels; and as XLA counts it.
    assert methods["bilinear"]["operations_per_pixel"] == 3 * 4 * 1.5
    assert methods["bilinear"]["counted"] == pytest.approx(1)


def test_what_a_layer_sees_is_not_what_its_first_values_let_it_see():
    """DySample's first offsets are next to nothing: it starts as bilinear interpolation, which sees two pixels."""
    assert blocks.receptive_field("dysample", None, 16, 4) == (3, 3)
    assert blocks.receptive_field("bilinear", None, 16, 4) == (2, 2)
    # Weights by likeness do not hide pixels of its window.
    assert blocks.receptive_field("joint_bilateral", None, 16, 4) == (5, 5)


def test_page_and_figures_are_written(folder):
    page = (folder / "report.html").read_text()
    assert "Gain: late_upsampler:Late." in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert {p.name for p in (folder / "figures").iterdir()} >= {
        f"responses-{family}.{kind}" for family in ("interpolation", "convolution") for kind in ("png", "svg")
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "bilinera"), "Did you mean bilinear"),
        (("--methods", "nearest", "nearest"), "each once"),
        (("--scale", "1"), "--scale 1: must be at least 2"),
        (("--out", "."), "is there already"),
    ],
)
def test_what_cannot_be_is_refused(options, message, capsys):
    assert command.main(["analyse", *options]) == 2
    assert message in " ".join(capsys.readouterr().out.split())
