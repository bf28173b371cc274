"""Constructors refuse what they cannot use; every parameter of every layer is found by its signature."""

import inspect
import math
import re
import typing
from collections.abc import Sequence

import jax.numpy as jnp
import pytest
from flax import nnx

import upsampling as up
from upsampling import guided

EXPORTED = (kind for kind in vars(up.nn).values() if inspect.isclass(kind) and issubclass(kind, up.nn.Upsampler))
LAYERS = {kind.__name__: kind for kind in EXPORTED if kind is not up.nn.Upsampler}
PARAMETERS = [(name, parameter) for name in LAYERS for parameter in inspect.signature(LAYERS[name]).parameters]
# Nothing of this is an array's geometry, a name, a function, a dtype, a flag or a source of random numbers.
BAD = [object(), "no such thing", -7, 2.5, math.nan, (), (1, 2, 3, 4), 0, True, None]
BAD_DTYPES = [jnp.ones(()), nnx.Rngs(0)]
# These may be zero: a window of one pixel, no more blocks than the stem, no padding, a plain ReLU.
ZERO = {"radius", "blocks", "padding", "output_padding", "leak"}
SIGNED = {"highest"}  # a logarithm


def allowed(kind, parameter, bad):
    """Whether the annotation admits it after all."""
    annotation = typing.get_type_hints(kind.__init__)[parameter]
    kinds = typing.get_args(annotation) or (annotation,)
    if bad is None or bad is True:
        return type(bad) in kinds
    if isinstance(bad, tuple):
        return typing.get_origin(annotation) is Sequence  # channels of several layers
    if isinstance(bad, int | float):
        if parameter in SIGNED:
            return math.isfinite(bad)
        return (float in kinds and bad > 0) or (bad == 0 and parameter in ZERO)
    return False


def test_all_layers_are_here():
    assert {method.build for method in up.nn.available().values()} <= set(LAYERS.values())
    assert len(PARAMETERS) > 150


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_constructors_refuse_what_is_no_value_of_a_parameter(name, parameter):
    kind = LAYERS[name]
    given = {"features": 8, "scale": 2, "rngs": nnx.Rngs(0)}
    if parameter == "size":
        del given["scale"]
    for bad in [*BAD, *(BAD_DTYPES if parameter.endswith("dtype") else ())]:
        if allowed(kind, parameter, bad):
            continue
        with pytest.raises((TypeError, ValueError)) as caught:
            kind(**(given | {parameter: bad}))
        message = str(caught.value)
        # Layer, argument, what was given; what is allowed follows.
        assert re.match(rf"{name}: .*\b{parameter}\b", message), (bad, message)
        assert repr(bad) in message or type(bad).__name__ in message, (bad, message)


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_are_checked_before_they_are_drawn(name):
    """So that a layer that is refused leaves the random numbers where they were."""
    kind = LAYERS[name]
    parameters = inspect.signature(kind).parameters
    if "dtype" not in parameters:
        pytest.skip("a layer without parameters")
    rngs = nnx.Rngs(0)
    with pytest.raises(TypeError):
        kind(8, 2, rngs=rngs, dtype=jnp.int32)
    assert int(rngs.params.count[...]) == 0


RNGS = nnx.Rngs(0)


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (
            ValueError,
            lambda: up.nn.TransposedConv(8, groups=0, rngs=RNGS),
            "TransposedConv: groups must be at least 1; got 0",
        ),
        (
            ValueError,
            lambda: up.nn.TransposedConv(8, out_features=0, rngs=RNGS),
            "TransposedConv: out_features must be at least 1; got 0",
        ),
        (
            ValueError,
            lambda: up.nn.TransposedConv(8, out_features=6, groups=4, rngs=RNGS),
            "TransposedConv: groups=4 must divide features=8 and out_features=6",
        ),
        (
            ValueError,
            lambda: up.nn.TransposedConv(8, padding="SAMEE", rngs=RNGS),
            "TransposedConv: padding='SAMEE' is not known. Did you mean 'SAME'",
        ),
        (
            ValueError,
            lambda: up.nn.TransposedConv(8, output_padding=1, rngs=RNGS),
            "TransposedConv: output_padding must be 0 with padding='SAME'",
        ),
        (
            ValueError,
            lambda: up.nn.TransposedConv(8, padding=3, output_padding=2, rngs=RNGS),
            "TransposedConv: output_padding must be below",
        ),
        (
            ValueError,
            lambda: up.nn.TransposedConv(8, (2, 2), kernel_size=(3, 3, 3), rngs=RNGS),
            "TransposedConv: kernel_size must be one number or 2",
        ),
        (
            TypeError,
            lambda: up.nn.TransposedConv(8, rngs=0),
            r"TransposedConv: rngs must be a flax.nnx.Rngs, such as nnx.Rngs\(0\); got 0",
        ),
        (
            TypeError,
            lambda: up.nn.TransposedConv(8, dtype=jnp.int32, rngs=RNGS),
            "TransposedConv: dtype must be a floating dtype .*int32",
        ),
        (
            TypeError,
            lambda: up.nn.TransposedConv(8, param_dtype="float33", rngs=RNGS),
            "TransposedConv: param_dtype must be a floating dtype .*'float33'",
        ),
        (
            TypeError,
            lambda: up.nn.Deconv(8, kernel=jnp.ones((4, 4, 8, 8)), rngs=RNGS),
            "Deconv: kernel must be the nnx.Param",
        ),
        (
            ValueError,
            lambda: up.nn.Deconv(8, kernel=nnx.Param(jnp.ones((4, 4, 6, 8))), out_features=4, rngs=RNGS),
            r"Deconv: kernel must be .* here \(4, 4, 4, 8\); got shape \(4, 4, 6, 8\)",
        ),
        (
            ValueError,
            lambda: up.nn.Deconv(8, kernel=nnx.Param(jnp.ones((3, 4, 6, 8))), kernel_size=3, rngs=RNGS),
            r"Deconv: kernel must be .* here \(3, 3, 6, 8\)",
        ),
        (
            ValueError,
            lambda: up.nn.Deconv(8, (2,), kernel=nnx.Param(jnp.ones((4, 4, 6, 8))), rngs=RNGS),
            "Deconv: kernel must be .* with 1 window axes",
        ),
        (ValueError, lambda: up.nn.SubPixelConv(-8, rngs=RNGS), "SubPixelConv: features must be at least 1; got -8"),
        (
            ValueError,
            lambda: up.nn.ResizeConv(8, convention="jax", method="nearest-exact", rngs=RNGS),
            "ResizeConv: convention 'jax' has no method 'nearest-exact'",
        ),
        (TypeError, lambda: up.nn.CARAFE(8.0, rngs=RNGS), "CARAFE: features must be whole numbers; got 8.0"),
        (
            ValueError,
            lambda: up.nn.CARAFE(8, (2, 2, 2, 2), rngs=RNGS),
            "CARAFE: scale must have .* 1, 2 or 3 spatial axes",
        ),
        (
            TypeError,
            lambda: up.nn.FADE(8, kernel_init=0.1, rngs=RNGS),
            "FADE: kernel_init must be a function, .*; got 0.1",
        ),
        (
            ValueError,
            lambda: up.nn.JBU(8, guide_features=0, rngs=RNGS),
            "JBU: guide_features must be at least 1; got 0",
        ),
        (
            ValueError,
            lambda: up.nn.JointBilateral(8, sigma_range=0.0),
            "JointBilateral: sigma_range must be finite and above 0; got 0.0",
        ),
        (
            TypeError,
            lambda: up.nn.GuidedFilter(8, guide_map="no", rngs=RNGS),
            "GuidedFilter: guide_map must be True or False; got 'no'",
        ),
        (
            ValueError,
            lambda: up.nn.GuidedFilter(8, epsilon=-1.0, rngs=RNGS),
            "GuidedFilter: epsilon must be finite and above 0",
        ),
        (
            ValueError,
            lambda: up.nn.GuidedFilter(8, convention="pillow2", rngs=RNGS),
            "GuidedFilter: convention='pillow2' is not known. Did you mean 'pillow'",
        ),
        (ValueError, lambda: up.nn.NAF(6, rngs=RNGS), "NAF: heads=4 must divide features=6"),
        (ValueError, lambda: up.nn.NAF(8, blocks=-1, rngs=RNGS), "NAF: blocks must be at least 0; got -1"),
        (
            ValueError,
            lambda: up.nn.FlowAlignment(8, edge="border", rngs=RNGS),
            "FlowAlignment: edge='border' is not known. .*'zero', 'replicate'",
        ),
        (
            ValueError,
            lambda: up.nn.create("bilinear", 8, convention="pytorch", rngs=RNGS),
            "Bilinear: convention='pytorch' is not known. Did you mean 'torch'",
        ),
        (
            ValueError,
            lambda: up.nn.create("bilinear", 3, rngs=RNGS)(jnp.ones((4, 4, 8))),
            r"Bilinear: x must have features=3 channels; got shape \(4, 4, 8\)",
        ),
        (ValueError, lambda: up.nn.Nearest(), "Nearest: give one of size and scale; got size=None, scale=None"),
        (ValueError, lambda: up.nn.Bicubic(2, convention="jax", size=4), "Bicubic: give one of size and scale"),
        (
            ValueError,
            lambda: up.nn.Nearest(2, antialias=True),
            "Nearest: convention 'torch' has method 'nearest' with antialias=False only",
        ),
    ],
)
def test_errors_name_layer_argument_given_and_allowed(error, call, message):
    with pytest.raises(error, match=message):
        call()


# Functions whose defaults are those of a layer of another name.
OTHERS = {
    "transposed_conv": [up.transposed_conv_size],
    "fade_lite": [up.fade],
    "jbu": [up.bilateral_kernel],
    "guided_filter": [guided.convolutional_guided_filter],
    "naf": [up.neighborhood_attention],
    "flow_alignment": [up.flow_warp],
    "max_unpool": [up.max_pool_with_indices],
}
SYNONYMS = {"strides": "scale", "window": "scale"}


def test_functions_and_layers_agree_on_defaults():
    compared = set()
    for name, method in up.nn.available().items():
        options = method.signature.parameters
        for function in [f for f in [getattr(up, name, None)] if f is not None] + OTHERS.get(name, []):
            for parameter in inspect.signature(function).parameters.values():
                ours = options.get(SYNONYMS.get(parameter.name, parameter.name))
                if ours is None or inspect.Parameter.empty in (ours.default, parameter.default):
                    continue
                if (name, parameter.name) == ("max_unpool", "strides"):
                    assert parameter.default is None  # the window's
                    continue
                assert ours.default == parameter.default, (name, function.__name__, parameter.name)
                compared.add((name, parameter.name))
    assert {
        ("transposed_conv", "padding"),
        ("transposed_conv", "strides"),
        ("guided_filter", "radius"),
        ("guided_filter", "average"),
        ("guided_filter", "convention"),
        ("joint_bilateral", "sigma_range"),
        ("naf", "kernel_size"),
        ("naf", "heads"),
        ("jbu", "radius"),
        ("flow_alignment", "edge"),
    } <= compared
