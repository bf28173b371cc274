"""Every check of arguments by itself: what it lets through, and what it says of what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from upsampling import _arguments

X = np.ones((2, 5, 4, 3), np.float32)


def test_what_is_right_is_let_through_and_normalized():
    assert _arguments.one_of("f", "edge", "zero", _arguments.EDGES) == "zero"
    assert _arguments.array("f", "x", [1.0, 2.0]).shape == (2,)
    assert _arguments.array("f", "x", np.ones(2, int), floating=False).dtype == jnp.int32
    assert _arguments.spatial_map("f", "x", X, channels=3).shape == X.shape
    assert _arguments.spatial_map("f", "x", X[..., :0]).shape == (2, 5, 4, 0)
    assert _arguments.spatial_map("f", "x", X[:0], 3 - 1).shape == (0, 5, 4, 3)  # no images are still images
    assert _arguments.shaped("f", "weights", X, (2, 5, "groups", "k")).shape == X.shape
    assert _arguments.flag("f", "average", np.bool_(True)) is True
    assert _arguments.odd("f", "kernel_size", 5, 3) == (5, 5, 5)
    assert _arguments.divisor("f", "groups", np.int64(2), features=8, out_features=6) == 2
    assert _arguments.per_axis("f", "scale", 2, None) == (2, 2)
    assert _arguments.per_axis("f", "scale", np.array([2, 3]), 2) == (2, 3)
    assert _arguments.per_axis("f", "scale", (2, 1.5), None, real=True) == (2.0, 1.5)
    assert _arguments.number("f", "radius", 0, minimum=0) == 0
    names = ("SAME", "VALID")
    assert _arguments.padding("f", "SAME", 2, names=names) == "SAME"
    assert _arguments.padding("f", 1, 2, names=names) == ((1, 1), (1, 1))
    assert _arguments.padding("f", (1, 2), 2, names=names) == ((1, 1), (2, 2))
    assert _arguments.padding("f", [(1, 0), [0, 2]], 2, names=names) == ((1, 0), (0, 2))
    assert _arguments.guide("f", np.ones((2, 10, 8, 7), np.float32), X, (2, 2), 7).shape == (2, 10, 8, 7)


@pytest.mark.mixes_dtypes
def test_arrays_are_promoted_together():
    half, single = jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.float32)
    x, nothing, y = _arguments.promote(half, None, single)
    assert (x.dtype, nothing, y.dtype) == (jnp.float32, None, jnp.float32)
    assert [a.dtype for a in _arguments.promote(half, half)] == [jnp.bfloat16] * 2


@pytest.mark.parametrize(
    ("check", "error", "message"),
    [
        (
            lambda a: a.one_of("f", "edge", "zer", a.EDGES),
            ValueError,
            "f: edge='zer' is not known. Did you mean 'zero'?",
        ),
        (lambda a: a.one_of("f", "edge", 3, a.EDGES), ValueError, "f: edge=3 is not known. Known: 'zero', "),
        (lambda a: a.array("f", "x", None), TypeError, "f: x must be an array; got NoneType."),
        (lambda a: a.array("f", "x", X.astype(int)), TypeError, "f: x must be floating"),
        (
            lambda a: a.spatial_map("f", "x", X[None], 4),
            ValueError,
            "with 4 spatial axes (1, 2 or 3), none empty; got shape",
        ),
        (lambda a: a.spatial_map("f", "x", X[0, 0]), ValueError, "f: x must be (*batch, *spatial, channels) with 2"),
        (lambda a: a.spatial_map("f", "x", X[:, :0]), ValueError, "none empty; got shape (2, 0, 4, 3)"),
        (lambda a: a.spatial_map("f", "x", X, channels=4), ValueError, "f: x must have 4 channels; got shape"),
        (lambda a: a.spatial_map("f", "x", X, channels=4, what="as y"), ValueError, "must have 4 channels, as y; got"),
        (lambda a: a.shaped("f", "bias", X[0, 0, 0], (4,)), ValueError, "f: bias must have shape (4,); got (3,)."),
        (lambda a: a.shaped("f", "w", X, (2, 5, "k")), ValueError, "f: w must have shape (2, 5, k); got (2, 5, 4, 3)."),
        (lambda a: a.shaped("f", "w", X, (2, 4, "k", 3), "as x"), ValueError, "(2, 4, k, 3), as x; got (2, 5, 4, 3)."),
        (lambda a: a.flag("f", "average", "False"), TypeError, "f: average must be True or False; got 'False'."),
        (lambda a: a.flag("f", "average", 1), TypeError, "f: average must be True or False; got 1."),
        (lambda a: a.odd("f", "kernel_size", (3, 4), 2), ValueError, "f: kernel_size must be odd"),
        (lambda a: a.divisor("f", "groups", 4, i=8, o=6), ValueError, "f: groups=4 must divide i=8 and o=6."),
        (lambda a: a.divisor("f", "groups", 0, i=8), ValueError, "f: groups must be at least 1; got 0."),
        (lambda a: a.per_axis("f", "scale", (2, 2), 3), ValueError, "f: scale must be one number or 3 of them"),
        (lambda a: a.per_axis("f", "scale", True, 2), TypeError, "f: scale must be whole numbers; got True."),
        (lambda a: a.per_axis("f", "scale", "2", 2), TypeError, "f: scale must be a number or a sequence of numbers"),
        (lambda a: a.per_axis("f", "scale", 1e400, 2, real=True), ValueError, "f: scale must be finite and above 0"),
        (lambda a: a.number("f", "radius", -1, minimum=0), ValueError, "f: radius must be at least 0; got -1."),
        (lambda a: a.number("f", "radius", (1,)), TypeError, "f: radius must be whole numbers; got (1,)."),
        (
            lambda a: a.padding("f", "same", 2, names=("SAME",)),
            ValueError,
            "f: padding='same' is not known. Known: 'SAME'.",
        ),
        (lambda a: a.padding("f", ((1, 1),), 2, names=("SAME",)), ValueError, "2 of them, 2 (low, high) pairs, or one"),
        (lambda a: a.padding("f", -1, 2, names=("SAME",)), ValueError, "f: padding must be at least 0; got -1."),
        (
            lambda a: a.guide("f", None, X, (2, 2), 7),
            ValueError,
            "f: guide must be given, a map of shape (2, 10, 8, 7)",
        ),
        (lambda a: a.guide("f", X, X, (2, 2), 3), ValueError, "here (2, 10, 8, 3) for x of shape (2, 5, 4, 3)"),
    ],
)
def test_what_is_wrong_is_named(check, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check(_arguments)


def test_traced_geometry_is_refused():
    with pytest.raises(TypeError, match="f: scale must be static"):
        jax.jit(lambda s: _arguments.per_axis("f", "scale", s, 2))(2)
    with pytest.raises(TypeError, match="f: scale must be static"):
        jax.jit(lambda s: _arguments.per_axis("f", "scale", (s, 2), 2))(2)
