"""Every public function and every layer with arguments of a few pixels, for tests that run all of them in some mode."""

import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import upsampling as up
from tests.nn.layers import METHODS, small
from upsampling import attention, frequency, guided, implicit, matting, reassembly
from upsampling.interop import flax as from_flax

SIZE, LARGE, CHANNELS = (6, 5), (12, 10), 4


@dataclasses.dataclass(frozen=True)
class Call:
    """A function, and the arrays that it is called with.

    Attributes:
      name: what the tests call it.
      function: takes the arrays; what else it needs is in it.
      batched: the shapes, without the first axis of images, of the arrays that have one.
      parameters: floating arrays that all images share, such as kernels and a layer's parameters; or what makes them,
        since making a layer compiles.
      labels: how many classes the arrays hold, where they are maps of labels.
    """

    name: str
    function: Callable[..., Any]
    batched: tuple[tuple[int, ...], ...]
    parameters: tuple[Any, ...] | Callable[[], tuple[Any, ...]] = ()
    labels: int = 0

    @property
    def shared(self) -> tuple[Any, ...]:
        """The arrays that all images share."""
        return self.parameters() if callable(self.parameters) else self.parameters

    def arrays(self, images: int = 2, dtype: Any = np.float32) -> tuple[Any, ...]:
        """The arguments, with `images` in the first axis of those that have one, as NumPy arrays."""
        random = np.random.default_rng(zlib.crc32(self.name.encode()))
        if self.labels:
            return tuple(random.integers(0, self.labels, (images, *shape)).astype(np.int32) for shape in self.batched)
        maps = tuple(random.uniform(0.1, 0.9, (images, *shape)).astype(dtype) for shape in self.batched)
        return (*maps, *(a.astype(dtype) for a in self.shared))

    def loss(self, *arrays: Any) -> jax.Array:
        """A number that depends on every floating result, for gradients with respect to `differentiable`."""
        results = jax.tree.leaves(self.function(*arrays))
        return sum((jnp.sum(y.astype(jnp.float32) ** 2) for y in results if jnp.issubdtype(y.dtype, jnp.floating)), 0.0)

    @property
    def differentiable(self) -> tuple[int, ...]:
        """The numbers of the floating arguments."""
        return () if self.labels else tuple(range(len(self.batched) + len(self.shared)))


def _weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.3, shape).astype(np.float32)


X, HIGH = (*SIZE, CHANNELS), (*LARGE, CHANNELS)
MAPS = (SIZE, SIZE)


def _metric(name: str, **options: Any) -> Call:
    function = getattr(up.metrics, name)
    return Call(name, lambda p, t: function(p, t, 3, ignore_index=2, **options), MAPS, labels=3)


def _other_definitions(prediction: Any, target: Any) -> list[jax.Array]:
    """Together, since they share most of what there is to compile."""
    given = {"num_classes": 3, "ignore_index": 2}
    union = {"percentile_of": "union", "interpolation": "step", "void": "neutral"}
    return [
        up.metrics.hausdorff_distance(prediction, target, percentile=95, boundary="elements", spacing=(2, 1), **given),
        up.metrics.hausdorff_distance(prediction, target, percentile=95, **union, **given),
        up.metrics.average_surface_distance(
            prediction, target, average="mean", boundary="between", missing="diagonal", **given
        ),
        up.metrics.normalized_surface_dice(
            prediction, target, tolerance=1e3, boundary="elements", void="uncounted", **given
        ),
        up.metrics.trimap_iou(prediction, target, width=(1, 3), **given),
    ]


def _accumulated(name: str) -> Call:
    function = getattr(up.metrics, name)
    return Call(f"{name}.accumulate", lambda p, t: function.accumulate(p, t, 3), MAPS, labels=3)


def _of_matrix(name: str) -> Call:
    return Call(name, getattr(up.metrics, name), ((3, 3),), labels=9)


@jax.jit
def _slopes(moments: jax.Array) -> jax.Array:
    return moments[..., :CHANNELS]


def _pixels(pixels: jax.Array, steps: jax.Array) -> jax.Array:
    return pixels


def _unpooled(x: Any) -> jax.Array:
    values, indices = up.max_pool_with_indices(x)
    return up.max_unpool(values, indices, x.shape[1:3])


FUNCTIONS = [
    Call("resize", lambda x: up.resize(x, LARGE, convention="jax", method="cubic"), (X,)),
    Call("nearest", lambda x: up.nearest(x, scale=2), (X,)),
    Call("bilinear", lambda x: up.bilinear(x, (9, 7)), (X,)),
    Call("bicubic", lambda x: up.bicubic(x, scale=2), (X,)),
    Call("lanczos3", lambda x: up.lanczos3(x, (4, 3), antialias=True), (X,)),
    Call("area", lambda x: up.area(x, (3, 4)), (X,)),
    Call("transposed_conv", up.transposed_conv, (X,), (_weights(4, 4, CHANNELS, 3), _weights(3))),
    Call(
        "transposed_conv, depthwise",
        lambda x, k: up.transposed_conv(x, k, groups=CHANNELS),
        (X,),
        (_weights(3, 3, 1, CHANNELS),),
    ),
    Call(
        "transposed_conv, CIRCULAR",
        lambda x, k: up.transposed_conv(x, k, padding="CIRCULAR"),
        (X,),
        (_weights(3, 3, CHANNELS, 3),),
    ),
    Call("deconv", up.deconv, (X,), (_weights(4, 4, 3, CHANNELS),)),
    Call("pixel_shuffle", lambda x: up.pixel_shuffle(x, 2), (X,)),
    Call("pixel_unshuffle", lambda x: up.pixel_unshuffle(x, 2), (HIGH,)),
    Call("sub_pixel_conv", up.sub_pixel_conv, (X,), (_weights(3, 3, CHANNELS, 8), _weights(8))),
    Call("max_pool_with_indices", up.max_pool_with_indices, (X,)),
    Call("max_unpool", _unpooled, (HIGH,)),
    Call("reassemble", up.reassemble, (X, (*LARGE, 2, 3, 3))),
    Call(
        "reassemble_to",
        lambda x, w: reassembly.reassemble_to(x, w, [(0, 1, 1, 4), (0, 2, 3)], edge="reflect"),
        (X, (4, 3, 2, 3, 3)),
    ),
    Call("similarities", lambda x, q: reassembly.similarities(x, q, (2, 2), 3), (X, HIGH)),
    Call("carafe", lambda x, w: up.carafe(x, w, kernel_size=3), (X, (*SIZE, 36))),
    Call("sapa", lambda x, q, k: up.sapa(x, q, k, kernel_size=3), (X, (*LARGE, 3), (*SIZE, 3))),
    Call("gated_queries", reassembly.gated_queries, (HIGH, X, (*SIZE, 1))),
    Call(
        "fade",
        lambda *maps: up.fade(*maps, kernel_size=3),
        (X, HIGH, (*LARGE, 9), (*SIZE, 9), (*SIZE, 1)),
    ),
    Call("attend_to_neighbors", reassembly.attend_to_neighbors, (X, (*LARGE, 17))),
    Call("index_upsample", matting.index_upsample, (X, HIGH)),
    Call("a2u", matting.a2u, (X, (*LARGE, 9))),
    Call("affinity_logits", lambda a, b, p: matting.affinity_logits(a, b, p, (11, 10)), (X, X, (36,))),
    Call("cell_convolution", matting.cell_convolution, (HIGH, (5, 5, 1))),
    Call("whole_cells", matting.whole_cells, (X,)),
    Call("low_pass", frequency.low_pass, (X, (*LARGE, 9))),
    Call("neighbor_cosines", frequency.neighbor_cosines, (X,)),
    Call("shifted", frequency.shifted, (HIGH, (*LARGE, 2, 2))),
    Call("local_ensemble", lambda x: implicit.local_ensemble(x, _pixels, size=(7, 9)), (X,)),
    Call("upsample_anything", lambda *maps: up.upsample_anything(*maps, steps=2, radius=1), (X, (*LARGE, 3))),
    Call("joint_bilateral", up.joint_bilateral, (X, (*LARGE, 3))),
    Call("bilateral_kernel", lambda e: up.bilateral_kernel(e, radius=1), (HIGH,)),
    Call("learned_bilateral", up.learned_bilateral, (X, (*LARGE, 3, 3))),
    Call("guided_filter", up.guided_filter, (X, (*LARGE, 1))),
    Call(
        "guided_filter, joint",
        lambda x, g, low: up.guided_filter(x, g, low, form="joint", average=True, convention="torch"),
        (X, (*LARGE, 3), (*SIZE, 3)),
    ),
    Call("guided_filter, covariances", lambda *maps: up.guided_filter(*maps, radius=2, form="joint"), (X, (*LARGE, 3))),
    Call(
        "convolutional_guided_filter",
        lambda x, g, low, k: guided.convolutional_guided_filter(x, g, low, k, _slopes),
        (X, HIGH, X),
        (_weights(3, 3, CHANNELS) + 2,),
    ),
    Call(
        "neighborhood_attention",
        lambda x, q: up.neighborhood_attention(x, q, kernel_size=3, heads=2),
        (X, (*LARGE, 4)),
    ),
    Call(
        "neighborhood_attention, all",
        lambda x, q, k: up.neighborhood_attention(x, q, k, kernel_size=None, heads=2),
        (X, (*LARGE, 4), X),
    ),
    Call(
        "neighborhood_attention, share",
        lambda x, q: up.neighborhood_attention(x, q, share=0.2, heads=2, average_heads=True),
        (X, (*LARGE, 4)),
    ),
    Call("rotary_embedding", attention.rotary_embedding, (X,)),
    Call("learned_rotary_embedding", attention.learned_rotary_embedding, (X,), (_weights(2, CHANNELS),)),
    Call("unify_features", attention.unify_features, (X,), (_weights(3, 3, 5),)),
    Call("fourier_features", lambda x, b: attention.fourier_features(x, b, highest=2.0), (X,), (_weights(2, 3, 6),)),
    Call("grid_sample", up.grid_sample, (X, (3, 4, 2))),
    Call("grid_sample, bicubic", lambda x, p: up.grid_sample(x, p, method="bicubic", edge="reflect"), (X, (3, 4, 2))),
    Call("grid_sample, volume", up.grid_sample, ((2, 3, 4, CHANNELS), (2, 3, 2, 3))),
    Call("affine_grid", lambda theta: up.affine_grid(theta, SIZE), ((2, 3),)),
    Call("scale_and_translate", lambda x: up.scale_and_translate(x, LARGE, 1.5, -0.5), (X,)),
    Call("positions_from_grid", lambda g: up.positions_from_grid(g, SIZE), ((3, 4, 2),)),
    Call("dysample", up.dysample, (X, (*LARGE, 2, 2), (*LARGE, 2, 2))),
    Call("flow_warp", up.flow_warp, (X, (*LARGE, 2))),
    Call("transposed_conv_kernel", from_flax.transposed_conv_kernel, (), (_weights(3, 3, 2, 3),)),
]

METRICS = [
    *map(_metric, ["confusion_matrix", "iou", "mean_iou", "dice", "pixel_accuracy", "frequency_weighted_iou"]),
    _metric("generalized_dice"),
    *map(_metric, ["boundary_iou", "boundary_f1", "error_by_distance", "normalized_surface_dice"]),
    *map(_metric, ["trimap_iou", "trimap_confusion_matrix", "average_surface_distance"]),
    _metric("hausdorff_distance", percentile=95),
    Call("metrics by other definitions", _other_definitions, MAPS, labels=3),
    *map(_accumulated, ["mean_iou", "boundary_f1", "hausdorff_distance"]),
    *map(_of_matrix, ["iou_of", "mean_iou_of", "dice_of", "pixel_accuracy_of", "frequency_weighted_iou_of"]),
    _of_matrix("generalized_dice_of"),
    Call("image_mean", lambda v: up.metrics.image_mean(v, 0), ((3,),)),
    Call("distance_transform", up.metrics.distance_transform, (SIZE,), labels=2),
    Call("signed_distance_transform", up.metrics.signed_distance_transform, (SIZE,), labels=2),
    Call("nearest_background", up.metrics.nearest_background, (SIZE,), labels=2),
    Call("level_sets", lambda t: up.metrics.level_sets(t, 3), (SIZE,), labels=3),
    Call("boundary_loss", up.metrics.boundary_loss, ((*SIZE, 3), (*SIZE, 3))),
]


def _layer(name: str) -> Call:
    method = up.nn.available()[name]
    return _called(name, lambda: small(name, CHANNELS), (X, HIGH) if method.uses_guide else (X,))


def _called(name: str, make: Callable[[], nnx.Module], maps: tuple[tuple[int, ...], ...]) -> Call:
    @functools.cache
    def parts() -> tuple[Any, Any, tuple[Any, ...]]:
        structure, state = nnx.split(make())
        parameters, tree = jax.tree.flatten(state)
        return structure, tree, tuple(map(np.asarray, parameters))

    def apply(*arrays: Any) -> jax.Array:
        structure, tree, _ = parts()
        given, parameters = arrays[: len(maps)], arrays[len(maps) :]
        return nnx.merge(structure, jax.tree.unflatten(tree, parameters))(*given)

    return Call(f"nn.{name}", apply, maps, lambda: parts()[2])


def _other(name: str, layer: Callable[..., nnx.Module], *arguments: Any, **options: Any) -> Call:
    """A layer in another than its default form."""
    own = name.partition(",")[0]
    maps = (X, HIGH) if own not in up.nn.available() or up.nn.available()[own].uses_guide else (X,)
    return _called(name, lambda: layer(*arguments, **options, rngs=nnx.Rngs(0)), maps)


LAYERS = [
    *map(_layer, METHODS),
    _other("dysample, pl", up.nn.DySample, 4, style="pl", groups=1, dynamic_scope=True),
    _other("sapa, gated", up.nn.SAPA, 4, similarity="gated", kernel_size=3, embedding_features=2),
    _other("guided_filter, conv", up.nn.GuidedFilter, 4, mean="conv", hidden=4),
    _other("jbu_stack", up.nn.JBUStack, 4, 2, guide_features=4, radius=1, key_features=4),
    _other("transposed_conv, grouped", up.nn.TransposedConv, 4, out_features=2, kernel_size=3, groups=2, padding=1),
    _other("flow_alignment, pooled", up.nn.FlowAlignment, 4, gate="pooled"),
    _other("sapa, joined", up.nn.SAPA, 4, similarity="joined", kernel_size=3, embed_values=True),
    _other("fade, not gated", up.nn.FADE, 4, gated=False, kernel_size=3),
    _called("attention_gate", lambda: up.nn.AttentionGate(4, 4, rngs=nnx.Rngs(0)), (HIGH, X)),
    _other("guided_filter, adaptive", up.nn.GuidedFilter, 4, map_norm=up.nn.AdaptiveNorm, hidden=4),
]

CALLS = {call.name: call for call in [*FUNCTIONS, *METRICS, *LAYERS]}


def public_functions() -> set[str]:
    """The names of all public functions that take arrays."""
    static = {"transposed_conv_size", "create", "find", "register", "available"}
    of = lambda module: {n for n in module.__all__ if inspect.isroutine(getattr(module, n)) and n not in static}  # noqa: E731
    return of(up) | of(up.metrics)
