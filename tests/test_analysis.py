"""Analysis against closed forms: overlaps, receptive fields, frequency responses, round trips; and what is flagged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import upsampling as up
from upsampling import _figures, _operations, attention
from upsampling.analysis import (
    cost,
    describe,
    frequency_response,
    impulse_response,
    overlap,
    phase_responses,
    receptive_field,
    round_trip,
)
from upsampling.convolution import transposed_conv
from upsampling.primitives import _common


@pytest.mark.parametrize(
    ("window", "strides", "dilation"),
    [((4,), (2,), (1,)), ((3,), (2,), (1,)), ((2,), (3,), (1,)), ((4,), (2,), (2,)), ((5, 3), (3, 2), (1, 3))],
)
def test_overlap_counts_what_ones_sum_to(window, strides, dilation):
    y = np.asarray(
        transposed_conv(
            np.ones((*(30,) * len(window), 1), np.float32),
            np.ones((*window, 1, 1), np.float32),
            strides=strides,
            padding="VALID",
            dilation=dilation,
        )
    )[..., 0]
    # From the middle, at a multiple of the stride, the pattern repeats.
    middle = y[tuple(slice(15 * s, 16 * s) for s in strides)]
    np.testing.assert_array_equal(overlap(window, strides, dilation), middle)


def test_overlap_is_even_where_the_stride_divides_the_kernel():
    for window in range(1, 9):
        for stride in range(1, 5):
            assert (np.ptp(overlap(window, stride)) == 0) == (window % stride == 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 2), ValueError, "overlap: kernel_size must be at least 1"),
        (((3, 3), (2, 2, 2)), ValueError, "overlap: strides must be one number or 2"),
        ((3, 1.5), TypeError, "overlap: strides must be whole numbers"),
        ((3, 2, 0), ValueError, "overlap: dilation must be at least 1"),
    ],
)
def test_errors_explain(arguments, error, message):
    with pytest.raises(error, match=message):
        overlap(*arguments)


@pytest.mark.parametrize(
    ("upsample", "scale", "expected"),
    [
        (lambda x: up.nearest(x, scale=2), 2, (1, 1)),
        (lambda x: up.bilinear(x, scale=2), 2, (2, 2)),
        (lambda x: up.lanczos3(x, scale=2, convention="jax"), 2, (6, 6)),
        # Windows of 6 x 5 at stride 2: every third row at most, every third and second column.
        (lambda x: up.transposed_conv(x, jnp.ones((6, 5, 1, 1))), 2, (3, 3)),
        (lambda x: up.transposed_conv(x, jnp.ones((4, 7, 1, 1)), strides=(3, 3)), 3, (2, 3)),
        # A gain by the mean of the map looks at all of it.
        (lambda x: up.nearest(x, scale=2) * x.mean(), 2, (24, 24)),
        (lambda x: jnp.zeros((48, 48, 1)), 2, (0, 0)),
    ],
)
def test_receptive_field(upsample, scale, expected):
    assert receptive_field(upsample, scale=scale) == expected


def test_receptive_field_refuses_another_size():
    with pytest.raises(ValueError, match=r"receptive_field: upsample must take \(24, 24, 1\) to \(48, 48\)"):
        receptive_field(lambda x: up.nearest(x, scale=3), scale=2)


# --- responses --------------------------------------------------------------------------------------------------------

WAVES = np.linspace(0, 2, 41)


def resized(method, scale, convention="torch"):
    return functools.partial(up.resize, scale=scale, method=method, convention=convention)


def dirichlet(f, s):
    """The response of s equal samples: the sinc, periodic in s."""
    with np.errstate(invalid="ignore"):
        return np.where(f % s == 0, 1.0, np.sin(np.pi * f) / (s * np.sin(np.pi * f / s)))


@pytest.mark.parametrize(("method", "scale", "power"), [("nearest", 3, 1), ("nearest", 4, 1), ("bilinear", 3, 2)])
def test_nearest_is_a_sinc_and_linear_its_square(method, scale, power):
    response = impulse_response(resized(method, scale), scale=scale, size=8)
    for axis in (0, 1):
        found = frequency_response(response, scale, WAVES, axis=axis)
        np.testing.assert_allclose(found, dirichlet(WAVES, scale) ** power, atol=1e-6)


def keys_response(f, a=-0.5):
    """Keys' cubic kernel, of continuous space (Keys 1981, equation 15, for a = -1/2), by its moments."""
    x = (np.arange(200_000) + 0.5) / 100_000
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return 2 * np.mean(np.where(x <= 1, near, far) * np.cos(2 * np.pi * np.multiply.outer(f, x)), -1) * 2


@pytest.mark.parametrize(
    ("method", "expected", "terms"),
    [("nearest", np.sinc, 0), ("bilinear", lambda f: np.sinc(f) ** 2, 200), ("bicubic", keys_response, 8)],
)
def test_dense_sampling_tends_to_the_response_of_the_kernel(method, expected, terms):
    """By Poisson's formula a kernel sampled s times per pixel has the images of its response, s apart, added to it; by
    turns with either sign where its middle lies between two samples, as on the half-pixel grid for even s."""
    s, f = 32, np.linspace(0, 1, 9)
    response = impulse_response(resized(method, s, "jax"), scale=s, size=8)
    if method == "nearest":  # images fall off as 1 / f: their sum has a closed form
        images = dirichlet(f, s) - np.sinc(f)
    else:
        images = sum((-1) ** k * expected(np.abs(f + sign * k * s)) for k in range(1, terms + 1) for sign in (-1, 1))
    np.testing.assert_allclose(frequency_response(response, s, f), expected(f) + images, atol=1e-6)


def test_phases_average_to_the_whole_and_show_where_a_wave_comes_out():
    linear = impulse_response(resized("bilinear", 2), scale=2)
    f = np.array([0.0, 0.125, 0.5])
    phases = phase_responses(linear, 2, f)
    np.testing.assert_allclose(phases.mean(0), frequency_response(linear, 2, f), atol=1e-7)
    # A quarter of a pixel off the nearest input: 3/4 there, 1/4 a whole pixel to the other side.
    by_hand = 0.75 * np.exp(-2j * np.pi * f * 0.25) + 0.25 * np.exp(2j * np.pi * f * 0.75)
    np.testing.assert_allclose(
        np.sort_complex(phases[:, 1]), np.sort_complex([by_hand[1], by_hand[1].conj()]), atol=1e-6
    )


def test_imaging_energy_and_ripple_of_nearest():
    found = describe(resized("nearest", 4), scale=4)
    middles = (np.arange(4000) + 0.5) / 8000
    # By Parseval the energy of four equal taps is 1; the rest is outside of the passband.
    assert found.imaging_energy == pytest.approx(1 - np.mean(dirichlet(middles, 4) ** 2), abs=1e-5)
    assert found.passband_ripple == pytest.approx(1 - dirichlet(np.array(0.25), 4), abs=1e-6)


def uneven(x):
    return up.transposed_conv(x, jnp.ones((3, 3, 1, 1)) * 4 / 9, padding=((0, 1), (0, 1)))


@pytest.mark.parametrize(
    ("bad", "faults"),
    [
        (lambda x: up.bilinear(x, scale=2), []),
        (lambda x: 1.1 * up.bilinear(x, scale=2), ["gain"]),
        (lambda x: jnp.roll(up.bilinear(x, scale=2), 1, 1), ["shift"]),
        (resized("bilinear", 2, "tensorflow1"), ["shift"]),
        (uneven, ["uneven overlap"]),
        (resized("bilinear", 2, "torch_align_corners"), ["position dependence"]),
    ],
)
def test_faults_are_named(bad, faults):
    found = describe(bad).faults()
    assert set(faults) <= set(found)
    assert faults or not found


def test_an_uneven_overlap_in_numbers():
    found = describe(uneven)
    sums = overlap((3, 3), 2) * 4 / 9
    assert found.gain == pytest.approx(sums.mean())
    assert found.unevenness == pytest.approx(sums.std() / sums.mean())
    assert found.unity_error == pytest.approx(np.abs(sums - 1).max())


def test_a_method_that_is_not_linear_is_described_where_it_is_asked_for():
    squared = lambda x: up.nearest(x, scale=2) ** 2  # noqa: E731
    np.testing.assert_allclose(impulse_response(squared, at=jnp.full((16, 16, 1), 3.0)).max(), 6.0)


# --- what is lost, what it costs --------------------------------------------------------------------------------------


def test_a_round_trip_loses_what_the_matrix_of_both_says():
    """With circular edges the map is the same everywhere, and small enough to be written out."""
    size, s = 8, 2

    def upsample(x):
        wide = up.bilinear(jnp.pad(x, ((2, 2), (2, 2), (0, 0)), mode="wrap"), scale=s)
        return wide[2 * s : -2 * s, 2 * s : -2 * s]

    basis = np.eye((size * s) ** 2, dtype=np.float32).reshape(-1, size * s, size * s, 1)
    small = basis.reshape(-1, size, s, size, s, 1).mean((2, 4))
    kept = np.asarray(jax.vmap(upsample)(small)).reshape(len(basis), -1)
    expected = np.sum((np.eye(len(basis)) - kept) ** 2) / len(basis)
    found = round_trip(upsample, s, size=size)
    assert found.lost == pytest.approx(expected, rel=1e-5)


def test_the_round_trip_of_a_wave():
    """Means of three pixels lower a wave, and so does the linear interpolant, which adds two images of it."""
    found = round_trip(resized("bilinear", 3), 3)
    f = found.frequencies[5]
    assert f == 1 / 8
    mean = dirichlet(np.array(3 * f), 3)
    low, *images = (mean * dirichlet(np.array(wave), 3) ** 2 for wave in (3 * f, 1 - 3 * f, 1 + 3 * f))
    error = (1 - low) ** 2 + sum(image**2 for image in images)
    assert found.psnr[5] == pytest.approx(-10 * np.log10(error / 8), abs=1e-3)


def test_cost_of_a_layer():
    layer = up.nn.create("transposed_conv", 8, rngs=nnx.Rngs(0))
    found = cost(layer, jax.ShapeDtypeStruct((1, 16, 16, 8), jnp.float32))
    assert found.parameters == 4 * 4 * 8 * 8 + 8
    # 4 x 4 taps for each of 16 x 16 pixels, without the one line at each border that "SAME" crops; 8 to 8 channels.
    assert found.multiply_adds == (16 * 4 - 2) ** 2 * 8 * 8
    # A sum of k products is 2 k - 1 operations, and then there is the bias.
    assert found.expected_operations == 2 * found.multiply_adds
    assert found.disagreement is None
    assert found.bytes_needed == 4 * (16 * 16 * 8 + found.parameters + 32 * 32 * 8)
    assert found.intensity == found.expected_operations / found.bytes_needed


SMALL = jnp.ones((1, 12, 12, 4))


@pytest.mark.parametrize(
    ("upsample", "multiply_adds"),
    [
        (lambda x: up.nearest(x, scale=2), 0),
        # Rows first, 12 to 24, then columns.
        (lambda x: up.bicubic(x, scale=2), 4 * 4 * (24 * 12 + 24 * 24)),
        (lambda x: up.reassemble(x, jnp.ones((1, 24, 24, 1, 5, 5))), 25 * 24 * 24 * 4),
        (lambda x: up.grid_sample(x, jnp.ones((1, 7, 5, 2)) * 3.3), 4 * 7 * 5 * 4),
        (lambda x: jax.lax.conv(x, jnp.ones((3, 12, 3, 1)), (2, 1), ((1, 1), (0, 0))), (6 * 3 - 1) * 3 * 12 * 4),
    ],
)
def test_multiply_adds_by_formula(upsample, multiply_adds):
    found = cost(upsample, SMALL)
    assert found.multiply_adds == multiply_adds
    assert multiply_adds == 0 or found.expected_operations >= 1.5 * multiply_adds


def test_each_gradient_of_a_convolution_costs_as_much_as_the_convolution():
    kernel = jnp.ones((4, 4, 4, 3))
    forward = cost(transposed_conv, SMALL, kernel).multiply_adds
    both = cost(lambda x, k: jax.vjp(transposed_conv, x, k)[1](jnp.ones((1, 24, 24, 3))), SMALL, kernel)
    assert both.multiply_adds == 2 * forward


@pytest.mark.parametrize("name", ["bicubic", "sub_pixel_conv", "carafe", "dysample"])
def test_formulas_agree_with_xla(name):
    method = up.nn.find(name)
    layer = method.create(8, rngs=nnx.Rngs(0))
    shapes = [(1, 24, 24, 8), (1, 48, 48, 8)][: 1 + method.uses_guide]
    found = cost(layer, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    assert found.operations == pytest.approx(found.expected_operations, rel=0.1)
    assert found.disagreement is None


def test_where_they_do_not_agree_it_is_said_why():
    loop = cost(lambda x: jax.lax.scan(lambda y, _: (jnp.sin(y) @ y, None), x, length=50)[0], jnp.eye(8))
    assert loop.multiply_adds == 50 * 8**3
    assert loop.disagreement == "XLA counts the body of a loop once"


# --- figures ----------------------------------------------------------------------------------------------------------

show = up.analysis.show


def test_figures_of_an_edge():
    """0.3 into a pixel, so that pixel holds 0.7: nearest passes one half between pixels 7 and 8, linear in between."""
    by_nearest, by_linear, by_cubic = (
        _figures.edge_figures(*_figures.edge_profile(_figures._call(name, 8), 8)[1:])
        for name in ("nearest", "bilinear", "bicubic")
    )
    assert by_nearest["place"] == pytest.approx(-0.3, abs=1 / 16)
    # Linear: from 0 at the center of pixel 7, 0.8 before the edge, to 0.7 one pixel on.
    assert by_linear["place"] == pytest.approx(-0.8 + 0.5 / 0.7, abs=1e-3)
    assert by_linear["overshoot"] == 0 < by_cubic["overshoot"]
    assert by_linear["width"] > by_cubic["width"]


def test_figures_of_boundaries():
    truth = np.zeros((12, 12))
    truth[3:9, 3:9] = 1
    assert _figures.boundary_figures(truth, truth) == {"boundary_iou": 1, "wrong": 0}
    moved = _figures.boundary_figures(np.roll(truth, 1, 0), truth)
    assert moved["wrong"] == 12 / 24  # two rows of six pixels, along a border of 24
    assert moved["boundary_iou"] == pytest.approx(10 / 30)  # rings of 20 pixels; ten are of both


@pytest.mark.parametrize(("kind", "axes"), [("responses", 1), ("phases", 2), ("edge", 2), ("boundaries", 2)])
def test_what_is_drawn(kind, axes):
    figure = show({"nearest": "nearest", "my own": lambda x: up.bilinear(x, scale=2)}, kind)
    assert len(figure.axes) == axes
    assert figure._repr_png_().startswith(b"\x89PNG")
    if kind == "responses":
        (curves,) = [axes.get_lines()[:2] for axes in figure.axes]
        f, amplitude = curves[1].get_data()
        np.testing.assert_allclose(amplitude, np.abs(np.cos(np.pi * f / 2)) ** 3, atol=1e-6)
        assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["nearest", "my own"]


def test_pictures_have_their_figures():
    picture = np.tile(np.uint8([0, 255]), (4, 2))  # columns in turn: their means are all one half
    figure = show("nearest", "pictures", picture=picture)
    assert "PSNR 6.0 dB" in figure.axes[2].texts[0].get_text()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: show("nearest", "respones"), ValueError, "show: kind='respones'.*Did you mean 'responses'"),
        (lambda: show("bilinera"), ValueError, "show: name='bilinera'.*bilinear"),
        (lambda: show({"mine": 3}), TypeError, "show: methods must be names, layers or functions; got int"),
        (lambda: show([]), ValueError, "show: methods must hold at least one"),
        (lambda: show("nearest", picture=np.ones((4, 4))), ValueError, "show: kind='responses' takes no picture"),
        (lambda: show("nearest", "pictures", picture=np.ones((5, 4))), ValueError, "show: picture must be .* of 2"),
    ],
)
def test_figures_refuse_what_they_cannot_draw(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: describe(lambda x: x, scale=2), r"impulse_response: upsample must take \(16, 16, 1\)"),
        (lambda: impulse_response(lambda x: x, scale=0), "impulse_response: scale must be a whole number"),
        (lambda: round_trip(resized("nearest", 2), downsample=lambda x: x), "round_trip: downsample must take"),
    ],
)
def test_wrong_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_operations_are_those_of_a_program_for_one_device(monkeypatch):
    """Not of the branch for devices that share images, whose tiles read more."""
    x, queries, keys = (jnp.ones((1, *shape)) for shape in ((16, 8, 4), (32, 16, 8), (16, 8, 8)))

    def counted():
        core = attention._neighborhood_attention.__wrapped__
        attend = lambda x, q: core(x, q, keys, (7, 3), None, 2, False, None)  # noqa: E731
        pulled = lambda x, q: jax.vjp(attend, x, q)[1](x[..., :1, :1, :] * jnp.ones((1, 32, 16, 4)))  # noqa: E731
        return [_operations.count(jax.make_jaxpr(f)(x, queries).jaxpr) for f in (attend, jax.jit(pulled))]

    monkeypatch.setattr(_common, "MOST_BYTES", 0)
    monkeypatch.setattr(_common, "TILE_BYTES", 16384)
    in_parts = counted()
    monkeypatch.setattr(_common, "PARTS", 1)
    assert in_parts == counted()
