"""Run as a program, on eight simulated devices: prints, as JSON, what goes wrong with each call on meshes."""

import json
import math
import re
import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import upsampling as up
from tests.modes.calls import CALLS
from upsampling.primitives._common import map_in_groups

DEVICES = 8
# What has a form of its own for programs on several devices: its values are compared with those of one device.
OWN_FORMS = {
    "bicubic",
    "transposed_conv",
    "transposed_conv, depthwise",
    "nn.transposed_conv, grouped",
    "similarities",
    "max_unpool",
    "hausdorff_distance",
}


# Functions of maps whose rows are cut over the devices, and of what these share.
ROWS = {
    "bicubic": (lambda x: up.bicubic(x, scale=(1.5, 2)), ((1, 32, 6, 4),), ()),
    "transposed_conv": (up.transposed_conv, ((1, 32, 6, 4),), ((4, 4, 4, 3),)),
    "transposed_conv, depthwise": (
        lambda x, kernel: up.transposed_conv(x, kernel, groups=4),
        ((1, 32, 6, 4),),
        ((3, 3, 1, 4),),
    ),
    "carafe": (lambda x, w: up.carafe(x, w, kernel_size=3), ((1, 32, 6, 4), (1, 32, 6, 36)), ()),
}


def placed(call, mesh):
    """The arguments on the mesh: one image on each device, and everywhere what images share."""
    arrays, count = call.arrays(DEVICES), len(call.batched)
    batched = jax.device_put(arrays[:count], NamedSharding(mesh, P("d")))
    return (*batched, *jax.device_put(arrays[count:], NamedSharding(mesh, P())))


def with_gradient(call):
    """The results, and the gradients of a loss by all floating arguments."""
    if not call.differentiable:
        return call.function
    return lambda *arrays: (call.function(*arrays), jax.grad(call.loss, call.differentiable)(*arrays))


COLLECTIVES = "all-gather|all-to-all|collective-permute|reduce-scatter|all-reduce"
# What is added up over images beside the gradients of parameters and a few numbers, on which loops and forms depend.
A_FEW = 64
TWICE = {"nn.fade_lite": "the encoder's kernel: its gradients by the guide and by the map are two sums"}
ADDED = dict.fromkeys(["learned_rotary_embedding", "nn.anyup"], "the gradient of a map of angles that all images share")


def exchanged(text):
    """Each collective of a compiled program, and the shapes of what it results in on one device."""
    text = re.sub(r"/\*.*?\*/", "", text)
    for types, kind in re.findall(rf"= (.*?) ({COLLECTIVES})(?:-start)?\(", text):
        yield kind, [tuple(map(int, filter(None, dims.split(",")))) for dims in re.findall(r"\[([\d,]*)\]", types)]


def moved(text):
    """Those that bring arrays from one device to another, which programs for a batch do not need."""
    return [f"{kind}: {shapes}" for kind, shapes in exchanged(text) if kind != "all-reduce"]


def added(text):
    """The shapes of what is added up over devices, where it is more than a few numbers."""
    shapes = [shape for kind, shapes in exchanged(text) if kind == "all-reduce" for shape in shapes]
    return [shape for shape in shapes if math.prod(shape) > A_FEW]


def check_automatic(call):
    """No array goes from one device to another, and no more than gradients of parameters is added up."""
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
    arrays, function = placed(call, mesh), with_gradient(call)
    program = jax.jit(function).lower(*arrays).compile()
    yield from moved(program.as_text())
    shared = (2 if call.name in TWICE else 1) * sum(a.size for a in arrays[len(call.batched) :])
    if call.name not in ADDED and sum(map(math.prod, added(program.as_text()))) > shared:
        yield f"adds up: {added(program.as_text())}"
    if call.name in OWN_FORMS:
        alone = jax.jit(function)(*call.arrays(DEVICES))
        for a, b in zip(jax.tree.leaves(program(*arrays)), jax.tree.leaves(alone), strict=True):
            if not np.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True):
                yield f"result of shape {a.shape} differs from that of one device"


def check_rows(call):
    """Of maps whose rows are cut only the edges move, forward and backward, and the results are cut alike."""
    function, maps, shared = ROWS[call.name]
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
    random = np.random.default_rng(0)
    arrays = [random.uniform(0.1, 0.9, shape).astype(np.float32) for shape in (*maps, *shared)]
    places = [P(None, "d")] * len(maps) + [P()] * len(shared)
    cut = [jax.device_put(a, NamedSharding(mesh, place)) for a, place in zip(arrays, places, strict=True)]
    every = tuple(range(len(arrays)))
    both = jax.jit(lambda *a: (function(*a), jax.grad(lambda *a: (function(*a) ** 2).sum(), every)(*a)))
    program = both.lower(*cut).compile()
    yield from (f"gathers: {line}" for line in moved(program.as_text()) if not line.startswith("collective-permute"))
    # The gradients of what is shared are added up over the devices, and no map is.
    if max(map(math.prod, added(program.as_text())), default=0) > max(map(math.prod, shared), default=0):
        yield f"adds up maps: {added(program.as_text())}"
    y, gradients = program(*cut)
    for result in (y, *gradients[: len(maps)]):
        if result.sharding.spec[:2] != (None, "d"):
            yield f"result of shape {result.shape} is sharded as {result.sharding.spec}"
    for a, b in zip(jax.tree.leaves((y, gradients)), jax.tree.leaves(both(*arrays)), strict=True):
        if not np.allclose(a, b, rtol=1e-4, atol=1e-4):
            yield f"result of shape {a.shape} differs from that of one device"


def check_groups(_):
    """Of more entries than are worked on at once, each device takes as many of its own at a time."""
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
    x = np.arange(DEVICES * 32 * 3, dtype=np.float32).reshape(-1, 3)
    cut = jax.device_put(x, NamedSharding(mesh, P("d")))
    program = jax.jit(lambda x: map_in_groups(lambda x: 2 * x, 4, x)).lower(cut).compile()
    yield from moved(program.as_text())
    if not np.array_equal(program(cut), 2 * x):
        yield "results are out of order"


def check_explicit(call):
    """Types with shardings go in and come out, forward and backward."""
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(with_gradient(call), *placed(call, mesh))
    for y in jax.tree.leaves(shapes[0] if call.differentiable else shapes):
        if y.shape[:1] == (DEVICES,) and y.sharding.spec[0] != "d":
            yield f"result of shape {y.shape} is sharded as {y.sharding.spec}"


def check_manual(call):
    """Each device runs its own image under `shard_map`, which checks what varies."""
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
    arrays, count = call.arrays(DEVICES), len(call.batched)
    of = lambda n: P("d") if n < count else P()  # noqa: E731
    map_over = lambda f, out: jax.shard_map(f, mesh=mesh, in_specs=tuple(map(of, range(len(arrays)))), out_specs=out)  # noqa: E731
    total = lambda *own: jax.tree.map(lambda y: jax.lax.psum(y, "d"), call.function(*own))  # noqa: E731
    if count:
        jax.eval_shape(map_over(total, P()), *arrays)
    if call.differentiable:
        gradients = lambda *own: jax.grad(call.loss, call.differentiable)(*own)  # noqa: E731
        jax.eval_shape(map_over(gradients, tuple(map(of, call.differentiable))), *arrays)
    yield from ()


def main(names):
    found = {}
    for name in names or CALLS:
        for check in (
            check_automatic,
            check_explicit,
            check_manual,
            *[check_rows] * (name in ROWS),
            *[check_groups] * (name == "hausdorff_distance"),
        ):
            try:
                wrong = list(check(CALLS[name]))
            except Exception as error:
                wrong = [f"{type(error).__name__}: {str(error)[:300]}"]
            if wrong:
                found[f"{name}: {check.__name__}"] = wrong
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
