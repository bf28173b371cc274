"""Run as a program, on eight simulated devices: prints, as JSON, what goes wrong with each call on meshes."""

import json
import re
import sys

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.modes.calls import CALLS

DEVICES = 8


def placed(call, mesh, images=DEVICES):
    """The arguments on the mesh: one image on each device, and everywhere what images share."""
    batched = NamedSharding(mesh, PartitionSpec("d"))
    whole = NamedSharding(mesh, PartitionSpec())
    arrays = call.arrays(images)
    count = len(call.batched)
    return (*jax.device_put(arrays[:count], batched), *jax.device_put(arrays[count:], whole))


def with_gradient(call):
    """The results, and the gradients of a loss by all floating arguments."""
    if not call.differentiable:
        return call.function
    return lambda *arrays: (call.function(*arrays), jax.grad(call.loss, call.differentiable)(*arrays))


def gathered(text):
    """The lines of a compiled program that gather an array from all devices."""
    return re.findall(r"= .*? (?:all-gather|all-to-all)(?:-start)?\(.*", text)


def check(call):
    """What is wrong, as a list of sentences."""
    wrong = []
    automatic = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Auto,))
    explicit = jax.make_mesh((DEVICES,), ("d",), axis_types=(AxisType.Explicit,))
    function = with_gradient(call)
    program = jax.jit(function).lower(*placed(call, automatic)).compile()
    for line in gathered(program.as_text()):
        wrong.append(f"gathers: {line[:200]}")
    with jax.set_mesh(explicit):
        typed = jax.jit(function).lower(*placed(call, explicit))
        for y in jax.tree.leaves(typed.out_info[0] if call.differentiable else typed.out_info):
            if y.shape[:1] == (DEVICES,) and y.sharding.spec[0] != "d":
                wrong.append(f"result of shape {y.shape} is sharded as {y.sharding.spec}")
    return wrong


def main(names):
    found = {}
    for name in names or CALLS:
        try:
            wrong = check(CALLS[name])
        except Exception as error:
            wrong = [f"{type(error).__name__}: {str(error)[:300]}"]
        if wrong:
            found[name] = wrong
            print(name, *wrong[:3], sep="\n   ", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
