"""Compilers for accelerators that are not here: XLA compiles ahead of time for a described machine.

They come with `pip install -e .[compilers]`: the plug-in for NVIDIA GPUs without the CUDA libraries, NVIDIA's
assembler, and libtpu. Nothing runs, so there are no times. The compiled program is the same on every machine, and
`program` reads it.
"""

import functools
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from experiments.benchmarks.compiled import schedule
from experiments.benchmarks.compiled.program import Program


class UnreadableError(RuntimeError):
    """A compiler that does not tell what it made."""


class Target(NamedTuple):
    """A machine to compile for.

    Attributes:
      packages: the distributions that compile for it.
      topology: the name of the smallest topology that libtpu knows; empty for a GPU.
      clock: cycles a second, which the estimates are in.
      bandwidth: of its memory, bytes a second.
    """

    packages: tuple[str, ...]
    topology: str
    clock: float
    bandwidth: float


TARGETS = {
    "h100": Target(("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc"), "", 1.98e9, 3352e9),
    "v5e": Target(("libtpu",), "v5e:2x2", 940e6, 819e9),
    "v6e": Target(("libtpu",), "v6e:2x2", 1750e6, 1640e9),
}

# What a driver would tell about the card, in XLA's own form.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 cuda_compute_capability { major: 9 }
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84978434048
}
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3" dnn_version_info { major: 9 minor: 10 }
"""


def missing(target: str) -> str | None:
    """Why this machine cannot compile for the target, or None where it can."""
    for name in TARGETS[target].packages:
        try:
            version(name)
        except PackageNotFoundError:
            return f"{name} is not installed; `pip install -e .[compilers]` installs it"
    if not TARGETS[target].topology and _assembler() is None:
        return "ptxas, NVIDIA's assembler, is not on the PATH"
    return None


def versions(target: str) -> dict[str, str]:
    """The versions of what compiles for the target."""
    return {name: version(name) for name in ("jax", "jaxlib", *TARGETS[target].packages)}


def compile_for(target: str, function: Callable, *specs: Any) -> dict[str, Any]:
    """Compiles a function of arrays that are given as trees of `jax.ShapeDtypeStruct`.

    Returns:
      What has to be read and written, arguments and results once, as `need`; `temporaries`, both in bytes;
      `compile_seconds`, of processors; `kernels`; `loops`, the trips of each; `custom_calls`, `collectives` and
      `apart`, how many of each kind; `gathers` and `scatters`, of those that the compiler was given; `float32`, bytes
      of float32 that are written. For a GPU `traffic`, in bytes, and for a TPU `microseconds`, as the compiler
      estimates them, and `unestimated`, the bytes that pass through operations for which it gives no estimate. And
      `ratio`, traffic over need, or the estimate over the time that reading and writing the need takes at the memory's
      bandwidth.

    Raises:
      UnreadableError: the compiler cannot tell what it made, as libtpu sometimes.
    """
    machine, sharding = TARGETS[target], on(target)
    specs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), specs)
    start = time.process_time()
    lowered = jax.jit(function).lower(*specs)
    executable = lowered.compile()
    seconds = time.process_time() - start  # of all threads; nothing else runs here, but elsewhere on the machine
    memory, given = executable.memory_analysis(), lowered.as_text()
    try:
        program = Program(executable.as_text(), _cycles(target, lowered) if machine.topology else None)
    except jax.errors.JaxRuntimeError as error:
        raise UnreadableError(f"{target}: {error}") from None
    costs, need = program.costs, memory.argument_size_in_bytes + memory.output_size_in_bytes
    figures = {
        "need": need,
        "temporaries": memory.temp_size_in_bytes,
        "compile_seconds": seconds,
        "kernels": int(costs.kernels),
        "loops": program.loops,
        "custom_calls": dict(program.custom_calls),
        "collectives": dict(program.collectives),
        "apart": dict(costs.apart),
        "gathers": given.count('stablehlo.gather"') + given.count("stablehlo.dynamic_gather"),
        "scatters": given.count('stablehlo.scatter"'),
        "float32": program.written("f32"),
    }
    if not machine.topology:
        return figures | {"traffic": costs.traffic, "ratio": costs.traffic / need}
    microseconds = 1e6 * costs.cycles / machine.clock
    least = 1e6 * need / machine.bandwidth
    return figures | {
        "microseconds": microseconds,
        "unestimated": costs.unestimated,
        "ratio": microseconds / least,
    }


def collectives_for(
    target: str, function: Callable, *specs: Any, devices: int, axis: int, shared: Sequence[int]
) -> dict[str, Any]:
    """Compiles for several devices, which share an axis of the arguments.

    Args:
      shared: the numbers of the arguments that every device holds whole.

    Returns:
      `collectives`, how many of each kind there are, and `exchanged`, the bytes of their results on one device.
    """
    mesh = Mesh(np.asarray(_devices(target, devices)), ("cut",))
    cut, whole = NamedSharding(mesh, PartitionSpec(*[None] * axis, "cut")), NamedSharding(mesh, PartitionSpec())
    specs = tuple(
        jax.tree.map(
            lambda a, held=whole if number in shared else cut: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=held),
            spec,
        )
        for number, spec in enumerate(specs)
    )
    program = Program(jax.jit(function).lower(*specs).compile().as_text())
    return {"collectives": dict(program.collectives), "exchanged": program.exchanged}


def on(target: str) -> SingleDeviceSharding:
    """Where arrays are that a program for one machine takes."""
    return SingleDeviceSharding(_device(target))


def _cycles(target: str, lowered: Any) -> Callable[[str, float, float], float]:
    """Of a program's kernels by hand, in which copying goes on beside computing: what takes longer."""
    machine, known = TARGETS[target], {kernel.body: kernel for kernel in schedule.kernels(target, lowered)}

    def cycles(config: str, traffic: float, turns: float) -> float:
        return max(schedule.cycles(known[schedule.body(config)], turns), traffic * machine.clock / machine.bandwidth)

    return cycles


def _device(target: str) -> Any:
    return _devices(target, 1)[0]


@functools.cache
def _devices(target: str, count: int) -> Any:
    reason = missing(target)
    if reason is not None:
        raise RuntimeError(f"{target}: {reason}.")
    if TARGETS[target].topology:
        # libtpu would look for a TPU, ask the cloud's metadata service about it, and keep to one process.
        wanted = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_WORKER_HOSTNAMES": "localhost"}
        wanted |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "true"}
        for name, value in wanted.items():
            os.environ.setdefault(name, value)
        name = TARGETS[target].topology if count == 1 else TARGETS[target].topology.split(":")[0] + f":2x{count // 2}"
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices[:count]
    assembler = _assembler()
    if shutil.which("ptxas") is None and assembler is not None:
        os.environ["PATH"] = f"{assembler.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    devices = topologies.get_topology_desc(
        target, platform="cuda", target_config=_H100, topology=f"1x1x{count}"
    ).devices
    return devices[:count]


def _assembler() -> Path | None:
    """NVIDIA's assembler: that on the PATH, or the wheel's."""
    found = shutil.which("ptxas")
    if found is not None:
        return Path(found)
    package = importlib.util.find_spec("nvidia")
    folders = [] if package is None else [Path(place) for place in package.submodule_search_locations or ()]
    return next((path for folder in folders for path in sorted(folder.glob("*/bin/ptxas"))), None)
