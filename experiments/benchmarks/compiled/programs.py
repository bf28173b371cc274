"""What is compiled, by the same groups as what is timed: arrays are described, none is made."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import upsampling as up
from experiments import methods

GROUPS = ("interpolation", "convolution", "reassembly", "sampling", "metrics", "layers")

# Several devices, and small maps of which each has an image of a batch, or some rows of one image.
DEVICES = 8
SMALL, ONE_IMAGE = (DEVICES, 8, 8, 8), (1, 8 * DEVICES, 16, 8)

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Program:
    """A function to compile, and what does the same elsewhere.

    Attributes:
      name: what it does, with the shape of the map.
      function: of the arguments, to one array.
      arguments: trees of `jax.ShapeDtypeStruct`.
      wanted: how many of the first arguments get a gradient; 0 for functions that have none.
      peer: a function of the same arguments that people use instead, or None.
      shared: the number of the argument that all images share, the parameters, or None.
    """

    name: str
    function: Callable
    arguments: tuple[Any, ...]
    wanted: int = 1
    peer: Callable | None = None
    shared: int | None = None

    def in_dtype(self, dtype: Any) -> "Program":
        """The same with floating arrays of another dtype."""

        def cast(a: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return a.update(dtype=dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

        name = self.name if dtype == jnp.float32 else f"{self.name}, {jnp.dtype(dtype).name}"
        return Program(name, self.function, jax.tree.map(cast, self.arguments), self.wanted, self.peer, self.shared)

    def with_gradient(self, function: Callable) -> tuple[Callable, tuple[Any, ...]]:
        """`function` (ours or the peer's) with its pull-back of a cotangent, and the arguments, the cotangent first."""

        def both(cotangent: jax.Array, *arguments: Any) -> tuple[Any, ...]:
            wanted, rest = arguments[: self.wanted], arguments[self.wanted :]
            y, pull_back = jax.vjp(lambda *changing: function(*changing, *rest), *wanted)
            return (y, *pull_back(cotangent))

        return both, (jax.eval_shape(function, *self.arguments), *self.arguments)


def programs(group: str, names: Sequence[str] = (), shape: Shape | None = None) -> Iterator[Program]:
    """The programs of a group, in float32; of layers all, or those named.

    Args:
      group: one of `GROUPS`.
      names: methods, for the group "layers".
      shape: of small maps, which compile sooner.
    """
    made = _MAKERS[group]
    yield from made(shape, names) if group == "layers" else made(shape)


def _spec(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _words(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _interpolation(small: Shape | None) -> Iterator[Program]:
    shapes = (small,) if small else ((8, 128, 128, 32), (1, 1080, 1920, 3))
    cases = [(m, 2.0) for m in ("bilinear", "bicubic", "nearest", "lanczos3")] + [("bilinear", 1.5), ("bilinear", 0.5)]
    for shape in shapes:
        # The matrices of a large image take long to compile for a TPU, one method's like another's.
        for method, factor in cases if shape[-1] > 3 else cases[:2]:
            size = (int(shape[1] * factor), int(shape[2] * factor))
            antialias = method == "lanczos3" or factor < 1
            yield Program(
                f"{method} ×{factor:g} {_words(shape)}",
                functools.partial(up.resize, size=size, method=method, antialias=antialias),
                (_spec(*shape),),
                peer=functools.partial(
                    jax.image.resize, shape=(shape[0], *size, shape[3]), method=method, antialias=antialias
                ),
            )

    # Maps lie otherwise there than in what a program is given: the layout of the convolutions.
    shapes = ((*small[:3], 128),) if small else ((8, 64, 64, 128), (8, 128, 128, 128), (8, 128, 128, 32))
    for n, height, width, channels in shapes:
        shape, size = (n, height, width, channels), (2 * height, 2 * width)
        yield Program(
            f"bilinear ×2 between convolutions {_words(shape)}",
            functools.partial(_between_convolutions, functools.partial(up.bilinear, size=size)),
            (_spec(*shape), (_spec(3, 3, channels, channels),) * 2),
            wanted=2,
            peer=functools.partial(
                _between_convolutions,
                functools.partial(jax.image.resize, shape=(n, *size, channels), method="bilinear"),
            ),
            shared=1,
        )


def _between_convolutions(resize: Callable, x: jax.Array, kernels: tuple[jax.Array, jax.Array]) -> jax.Array:
    convolve = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return convolve(resize(jax.nn.relu(convolve(x, kernels[0]))), kernels[1])


def _convolution(small: Shape | None) -> Iterator[Program]:
    shape, out = (small, small[3]) if small else ((8, 64, 64, 64), 32)
    inner = shape[-1]

    def lax_transposed(x: jax.Array, kernel: jax.Array, stride: int = 2) -> jax.Array:
        return jax.lax.conv_transpose(x, kernel, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    for window, stride in ((2, 2), (3, 2), (4, 2), (4, 4), (8, 4)):
        yield Program(
            f"transposed_conv {window}/{stride} {_words(shape)} to {out}",
            functools.partial(up.transposed_conv, strides=stride),
            (_spec(*shape), _spec(window, window, inner, out)),
            wanted=2,
            peer=functools.partial(lax_transposed, stride=stride),
            shared=1,
        )
    arguments = (_spec(*shape), _spec(3, 3, inner, 4 * out))
    yield Program(f"sub_pixel_conv {_words(shape)} to {out}", up.sub_pixel_conv, arguments, wanted=2, shared=1)
    arguments = (_spec(*shape[:-1], 4 * out),)
    yield Program(
        f"pixel_shuffle {_words(arguments[0].shape)}", functools.partial(up.pixel_shuffle, scale=2), arguments
    )


def _reassembly(small: Shape | None) -> Iterator[Program]:
    n, height, width, _ = shape = small or (2, 64, 64, 64)
    high = (n, 2 * height, 2 * width)
    yield Program(
        f"reassemble 5×5 {_words(shape)}",
        functools.partial(up.reassemble, scale=2),
        (_spec(*shape), _spec(*high, 1, 5, 5)),
        wanted=2,
    )
    # Similarities alone: keys at the low resolution, queries at the high.
    yield Program(
        f"sapa 5×5 {_words(shape)}",
        functools.partial(up.sapa, kernel_size=5),
        (_spec(*shape), _spec(*high, 32), _spec(n, height, width, 32)),
        wanted=3,
    )
    yield Program(
        f"neighborhood_attention 9×9, 4 heads, {_words(shape)}",
        up.neighborhood_attention,
        (_spec(*shape), _spec(*high, 32), _spec(n, height, width, 32)),
        wanted=3,
    )
    if small == ONE_IMAGE:
        yield Program(
            f"neighborhood_attention 9×9, 4 heads, ×8 by tiles, {_words(shape)}",
            up.neighborhood_attention,
            (_spec(*shape), _spec(n, 8 * height, 8 * width, 32), _spec(n, height, width, 32)),
            wanted=3,
        )


def _sampling(small: Shape | None) -> Iterator[Program]:
    n, height, width, _ = shape = small or (2, 64, 64, 64)
    high = (n, 2 * height, 2 * width)
    yield Program(f"grid_sample {_words(shape)}", up.grid_sample, (_spec(*shape), _spec(*high, 2)), wanted=2)
    offsets = _spec(*high, 4, 2)
    yield Program(
        f"dysample, 4 groups, {_words(shape)}",
        functools.partial(up.dysample, scale=2),
        (_spec(*shape), offsets),
        wanted=2,
    )


def _metrics(small: Shape | None) -> Iterator[Program]:
    few = (small[0], 2 * small[1], 2 * small[2]) if small else None
    masks = few or (8, 512, 512)
    yield Program(
        f"distance_transform {_words(masks)}", up.metrics.distance_transform, (_spec(*masks, dtype=bool),), wanted=0
    )
    labels = few or (8, 360, 480)
    maps = (_spec(*labels, dtype=jnp.int32),) * 2
    of_labels = {
        "confusion_matrix": up.metrics.confusion_matrix,
        "boundary_iou": up.metrics.boundary_iou,
        "boundary_f1, within 5 px,": functools.partial(up.metrics.boundary_f1, tolerance=5, boundary="between"),
        "hausdorff_distance": up.metrics.hausdorff_distance,
    }
    for name, function in of_labels.items():
        function = functools.partial(function, num_classes=3 if small else 11)
        yield Program(f"{name} {_words(labels)}", function, maps, wanted=0)


def _layers(small: Shape | None, names: Sequence[str]) -> Iterator[Program]:
    for name in names or up.nn.available():
        if small:
            yield _layer(name, small)
            continue
        yield _layer(name, (2, 32, 32, 32))
        if name in _WIDE:
            yield _layer(name, (2, 32, 32, 256))


# Layers that networks have at many channels, beside which a window's weights are few.
_WIDE = ("joint_bilateral", "jbu", "guided_filter", "carafe", "sapa", "fade", "fade_lite", "dysample", "flow_alignment")


def _layer(name: str, shape: Shape) -> Program:
    n, height, width, channels = shape
    method = methods.find(name)
    structure, state = nnx.split(nnx.eval_shape(lambda: method.create(channels, 2, rngs=nnx.Rngs(0))))
    state = jax.tree.map(lambda a: _spec(*a.shape, dtype=a.dtype), state)
    guide = (_spec(n, 2 * height, 2 * width, channels),) if method.uses_guide else ()

    def apply(x: jax.Array, state: nnx.State, *guide: jax.Array) -> jax.Array:
        return nnx.merge(structure, state)(x, *guide)

    return Program(f"{name} {_words(shape)}", apply, (_spec(*shape), state, *guide), wanted=2 + len(guide), shared=1)


_MAKERS: dict[str, Callable] = dict(
    zip(GROUPS, (_interpolation, _convolution, _reassembly, _sampling, _metrics, _layers), strict=True)
)
