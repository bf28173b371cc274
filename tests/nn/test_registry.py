"""`create` builds every method by name, alike; `register` and `find` make others known."""

import inspect
import sys
import types

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import upsampling as up
from tests.nn.layers import METHODS, compiled, guide_for, small
from upsampling.nn import registry

# A scale of one and sizes of one pixel are the ends of what a layer takes.
SHAPES = [((6, 5, 4), 2), ((2, 3, 5, 6, 4), 3), ((1, 1, 1, 4), (2, 3)), ((7, 4), (2,)), ((3, 2, 4, 5, 4), (1, 2, 2))]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "scale"), SHAPES)
def test_any_batch_axes_and_scales(method, shape, scale):
    factors = (scale,) * 2 if isinstance(scale, int) else scale
    if len(factors) not in up.nn.available()[method].spatial_axes:
        with pytest.raises(ValueError, match="scale must be one number or 2 of them"):
            small(method, 4, scale)
        return
    # A window of 125 taps takes a minute to compile; 27 show the same.
    wide = len(factors) == 3 and up.nn.available()[method].options.get("kernel_size") == 5
    layer = small(method, 4, scale, **({"kernel_size": 3} if wide else {}))
    batch, spatial = shape[: -len(factors) - 1], shape[-len(factors) - 1 : -1]
    expected = (*batch, *(n * s for n, s in zip(spatial, factors, strict=True)), 4)
    chex.assert_shape(compiled(layer, jnp.ones(shape), guide_for(method, expected)), expected)


@pytest.mark.parametrize("method", METHODS)
def test_under_jit_vmap_and_grad_and_in_half_precision(method):
    layer = small(method, 4)
    structure, state = nnx.split(layer)
    x = jax.random.normal(jax.random.key(0), (3, 5, 6, 4))

    guide = guide_for(method, (3, 10, 12, 4))

    def apply(state, x, guide):
        return nnx.merge(structure, state)(x, guide)

    def halved(tree, dtype):
        return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

    @jax.jit
    def transformed(state, x, guide):
        def loss(state, x):
            y = apply(state, x, guide)
            return jnp.sum(y**2), y

        gradients, y = jax.grad(loss, argnums=(0, 1), has_aux=True)(state, x)
        # With parameters in the same precision, as mixed-precision training casts them.
        halves = [apply(halved(state, dtype), x.astype(dtype), guide) for dtype in (jnp.bfloat16, jnp.float16)]
        return y, jax.vmap(apply, (None, 0, 0))(state, x, guide), gradients, halves

    y = layer(x, guide)
    assert y.dtype == jnp.float32
    alone, one_by_one, gradients, halves = transformed(state, x, guide)
    chex.assert_trees_all_close(alone, y, atol=1e-5)
    chex.assert_trees_all_close(one_by_one, y, atol=1e-5)
    chex.assert_tree_all_finite(gradients)
    for leaf in jax.tree.leaves(gradients):
        assert jnp.abs(leaf).max() > 0
    for half, dtype in zip(halves, (jnp.bfloat16, jnp.float16), strict=True):
        assert half.dtype == dtype
        # Inputs and parameters are rounded too: each sum of tens of terms moves by a few units in the last place.
        assert jnp.abs(half.astype(jnp.float32) - y).max() < 16 * float(jnp.finfo(dtype).eps) * jnp.abs(y).max()
    if not up.nn.available()[method].uses_guide:
        chex.assert_trees_all_equal(layer(x, jnp.ones((3, 10, 12, 4))), y)


FOLLOWING = [name for name in METHODS if up.nn.available()[name].uses_guide and name != "max_unpool"]


@pytest.mark.parametrize("method", FOLLOWING)
def test_a_guide_of_any_size_decides_the_size_as_in_a_u_net_of_odd_sizes(method):
    fine, coarse = small(method, 4), small(method, 4)
    features = [jax.random.normal(jax.random.key(n), (2, *size, 4)) for n, size in enumerate([(13, 9), (7, 5), (4, 3)])]

    def decoder(x, *guides):
        return fine(coarse(x, guides[1]), guides[0])

    assert jax.eval_shape(decoder, features[2], *features[:2]).shape == (2, 13, 9, 4)
    assert jax.eval_shape(coarse, features[2], features[0]).shape == (2, 13, 9, 4)  # crops: any size, not about twice
    y = compiled(fine, features[1], features[0])
    assert bool(jnp.isfinite(y).all())


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_map_channels_take_out_features(method):
    known = up.nn.available()[method]
    options = {"out_features": 3} if known.changes_channels else {}
    layer = small(method, 4, **options)
    y = jax.eval_shape(layer, jnp.ones((5, 6, 4)), guide_for(method, (10, 12, 4)))
    assert y.shape == (10, 12, 3 if known.changes_channels else 4)


def test_available_lists_families_and_papers():
    methods = up.nn.available()
    classic = {"nearest", "bilinear", "bicubic", "transposed_conv", "deconv", "sub_pixel_conv"}
    assert classic <= methods.keys()
    for name, method in methods.items():
        assert method.name == name
        assert method.family in {"interpolation", "convolution", "reassembly", "sampling"}
        assert method.paper
        # Of its default size, for which nothing needs to be drawn.
        assert isinstance(nnx.eval_shape(lambda create=method.create: create(8, rngs=nnx.Rngs(0))), up.nn.Upsampler)
    families = [method.family for method in methods.values()]
    assert families == sorted(families, key=["interpolation", "convolution", "reassembly", "sampling"].index)
    assert methods["jbu"].spatial_axes == (2,)
    assert methods["carafe"].spatial_axes == (1, 2, 3)
    assert {n for n, m in methods.items() if m.ties_encoder} == {"deconv"}
    assert {n for n, m in methods.items() if m.needs_pooling} == {"max_unpool"}
    with pytest.raises(TypeError):
        methods["mine"] = methods["nearest"]


def test_unknown_names_offer_the_nearest():
    with pytest.raises(ValueError, match=r"create: name='transpose_conv' .*Did you mean 'transposed_conv'"):
        up.nn.create("transpose_conv", 4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("features", [0, -1])
def test_features_must_be_positive(features):
    with pytest.raises(ValueError, match="create: features must be at least 1"):
        up.nn.create("nearest", features, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [0, -2])
def test_scale_must_be_positive(method, scale):
    with pytest.raises(ValueError, match=r"scale must be .*; got"):
        small(method, 4, scale)


@pytest.mark.parametrize("method", METHODS)
def test_unknown_options_are_named(method):
    with pytest.raises(TypeError, match=rf"create: '{method}' was given an option it does not have: .*colour"):
        up.nn.create(method, 4, rngs=nnx.Rngs(0), colour="red")


def test_unknown_options_offer_the_nearest_and_all():
    with pytest.raises(TypeError, match=r"'kernel_sise'. Did you mean 'kernel_size'\? It has: 'kernel_size', 'groups'"):
        up.nn.create("carafe", 4, rngs=nnx.Rngs(0), kernel_sise=3)


def test_variants_are_named_options_and_options_go_first():
    create = up.nn.available()["jbu"].create
    layers = [create(4, rngs=nnx.Rngs(0), **options) for options in ({}, {"variant": "small"})]
    assert [layer.radius for layer in layers] == [3, 2]
    assert create(4, rngs=nnx.Rngs(0), variant="small", radius=1).radius == 1
    with pytest.raises(ValueError, match=r"create: variant='smal' is not known. Did you mean 'small'"):
        create(4, rngs=nnx.Rngs(0), variant="smal")
    with pytest.raises(ValueError, match="create: 'carafe' has no variants; got variant='small'"):
        up.nn.create("carafe", 4, rngs=nnx.Rngs(0), variant="small")


def test_methods_show_their_options():
    known = up.nn.available()
    assert dict(known["joint_bilateral"].options)["sigma_range"] == 0.1
    assert list(known["max_unpool"].options) == []
    assert repr(known["joint_bilateral"]) == (
        "joint_bilateral(features, scale=2, *, size=None, guide_features=None, radius=2, sigma_spatial=0.5, "
        "sigma_range=0.1, rngs=None)  # reassembly; Kopf et al. 2007, doi:10.1145/1276377.1276497; variants: features"
    )
    assert "kernel_init=variance_scaling" in repr(known["fade"])
    assert "param_dtype=float32" in repr(known["fade"])
    # Not the (*args, **kwargs) of NNX's metaclass.
    assert list(inspect.signature(up.nn.CARAFE).parameters)[:4] == ["features", "scale", "kernel_size", "groups"]


class Box(up.nn.Upsampler):
    """A stranger's method: nearest, then a box filter."""

    def __init__(self, features, scale=2, *, size=3, rngs):
        self.scale, self.size = scale, size

    def __call__(self, x, guide=None):
        y = up.nearest(x, scale=self.scale)
        weights = jnp.broadcast_to(1 / self.size**2, (*y.shape[:-1], 1, self.size, self.size))
        return up.reassemble(y, weights, scale=1)


class Plain(nnx.Module):
    """Derived from nothing of this package, with an option that must be given and a mistake of its own."""

    def __init__(self, features, scale=2, *, twice, rngs):
        self.scale = 2 * scale if twice else int("two", colour=10)

    def __call__(self, x, guide=None):
        return up.nearest(x, scale=self.scale)


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def test_a_strangers_method_is_one_of_all(own_registry):
    register = up.nn.register("box", family="own", paper="a toy", spatial_axes=(2,), variants={"wide": {"size": 5}})
    assert register(Box) is Box
    method = up.nn.available()["box"]
    assert list(up.nn.available())[-1] == "box"
    assert (method.options, method.spatial_axes) == ({"size": 3}, (2,))
    layer = up.nn.create("box", 4, 3, rngs=nnx.Rngs(0), variant="wide")
    assert (layer.size, layer(jnp.ones((5, 6, 4))).shape) == (5, (15, 18, 4))
    # A notebook's cell that runs again defines it again.
    up.nn.register("box", family="own", paper="a better toy")(Box)
    assert up.nn.available()["box"].paper == "a better toy"


def test_a_variant_may_give_an_option_that_has_no_default(own_registry):
    up.nn.register("plain", family="own", paper="a toy", variants={"double": {"twice": True}})(Plain)
    assert up.nn.create("plain", 4, 3, variant="double", rngs=nnx.Rngs(0)).scale == 6
    with pytest.raises(TypeError, match=r"create: 'plain' needs the options \['twice'\]; got \[\]"):
        up.nn.create("plain", 4, rngs=nnx.Rngs(0))


def test_a_function_may_make_the_layer(own_registry):
    @up.nn.register("wide_box", family="reassembly", paper="a toy")
    def make(features, scale=2, *, size=5, rngs):
        return Box(features, scale, size=size, rngs=rngs)

    assert up.nn.create("wide_box", 4, rngs=nnx.Rngs(0)).size == 5

    @up.nn.register("no_layer", family="reassembly", paper="a toy")
    def make_no_layer(features, scale=2, *, rngs):
        return lambda x, guide=None: x

    with pytest.raises(TypeError, match=r"create: 'no_layer' must make a flax.nnx.Module; it made function"):
        up.nn.create("no_layer", 4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("error", "name", "options", "build", "message"),
    [
        (ValueError, "nearest", {}, Box, "register: name='nearest' is taken by upsampling.nn.interpolation.Nearest"),
        (ValueError, "my-box", {}, Box, "register: name must be letters, digits and underscores.*'my-box'"),
        (ValueError, "box", {"family": "reasembly"}, Box, "register: family='reasembly' .*Did you mean 'reassembly'"),
        (ValueError, "box", {"paper": ""}, Box, "register: paper must name the source of 'box'"),
        (ValueError, "box", {"spatial_axes": (2, 4)}, Box, "register: spatial_axes must be among 1, 2 and 3"),
        (TypeError, "box", {"uses_guide": "yes"}, Box, "register: uses_guide must be True or False"),
        (ValueError, "box", {"variants": {"wide": {"sise": 5}}}, Box, "variant 'wide'='sise' .*Did you mean 'size'"),
        (TypeError, "box", {}, 3, "register: 'box' must be a subclass of flax.nnx.Module, .* got 3"),
        (TypeError, "box", {}, dict, "register: 'box' must be a subclass of flax.nnx.Module"),
        (TypeError, "box", {}, lambda features, rngs: None, "must take features, scale and rngs by keyword"),
        (TypeError, "box", {}, lambda features, scale, rngs, /: None, "must take features, scale and rngs by keyword"),
        (TypeError, "box", {}, lambda features, scale, rngs, **options: None, "each of its options by a name"),
        (TypeError, "box", {}, lambda features, scale, rngs, variant: None, "other than 'name' and 'variant'"),
    ],
)
def test_register_checks(own_registry, error, name, options, build, message):
    before = dict(up.nn.available())
    with pytest.raises(error, match=message):
        up.nn.register(name, **({"family": "own", "paper": "a toy"} | options))(build)
    assert dict(up.nn.available()) == before


@pytest.fixture
def own_module(monkeypatch):
    module = types.ModuleType("their_package")
    module.Box, module.Plain, module.CONSTANT = Box, Plain, 3
    monkeypatch.setitem(sys.modules, "their_package", module)


def test_a_layer_that_is_not_registered_is_imported(own_module):
    layer = up.nn.create("their_package:Box", 4, rngs=nnx.Rngs(0), size=5)
    assert (type(layer), layer.size) == (Box, 5)
    method = up.nn.find("their_package:Box")
    assert (method.name, method.family, method.options) == ("their_package:Box", "own", {"size": 3})
    assert type(method.create(4, rngs=nnx.Rngs(0))) is Box
    assert type(up.nn.create("their_package:Plain", 4, 3, twice=True, rngs=nnx.Rngs(0))) is Plain
    assert up.nn.find("nearest") is up.nn.available()["nearest"]
    # Flags are those it is registered with.
    jbu = up.nn.find("upsampling.nn.guided:JBU")
    assert (jbu.family, jbu.uses_guide, jbu.spatial_axes, list(jbu.variants)) == ("own", True, (2,), ["small"])


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        (ValueError, "their_packagee:Box", "find: name='their_packagee:Box' needs the module 'their_packagee'"),
        (ValueError, "their_package.inner:Box", "find: name=.* needs the module 'their_package.inner'"),
        (
            ValueError,
            "their_package:Bax",
            "find: name='their_package:Bax': their_package has no 'Bax'. Did you mean 'Box'",
        ),
        (TypeError, "their_package:CONSTANT", "find: 'their_package:CONSTANT' must be a subclass of flax.nnx.Module"),
        (TypeError, "flax.nnx:Linear", "find: 'flax.nnx:Linear' must take features, scale and rngs by keyword"),
        (ValueError, ":Box", "must be like 'package.module:Class'"),
        (ValueError, "their_package:", "must be like 'package.module:Class'"),
        (ValueError, "bilinaer", "find: name='bilinaer' is not known. Did you mean 'bilinear'"),
        (ValueError, 3, "find: name=3 is not known"),
    ],
)
def test_find_explains(own_module, error, name, message):
    with pytest.raises(error, match=message):
        up.nn.find(name)


def test_errors_of_a_users_own_module_are_left_as_they_are(own_module, tmp_path, monkeypatch):
    with pytest.raises(TypeError, match=r"^create: 'their_package:Plain' needs the options \['twice'\]"):
        up.nn.create("their_package:Plain", 4, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="keyword argument") as caught:
        up.nn.create("their_package:Plain", 4, twice=False, rngs=nnx.Rngs(0))
    assert "create" not in str(caught.value)
    (tmp_path / "needs_another.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        up.nn.find("needs_another:Box")


def test_the_base_class_says_what_is_missing():
    class Empty(up.nn.Upsampler):
        pass

    with pytest.raises(NotImplementedError, match="Empty must define __call__"):
        Empty()(jnp.ones((2, 2, 1)))
