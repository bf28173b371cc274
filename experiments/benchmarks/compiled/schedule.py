"""Counts the cycles of a kernel by hand for a TPU, in the schedule that its compiler writes out.

XLA estimates its own operations and says so in the program; of a kernel by hand it says nothing. But libtpu can write
what it makes of an operation, one bundle of instructions a line, which the machine issues one after the other, one a
cycle. A loop is a branch back to the start of a region, and ends by a comparison with a number, or with what data say.

Writing takes long for a large program. So each kernel is compiled once more, alone, in a process of its own:
`python -m experiments.benchmarks.compiled.schedule` is given a kernel as JSON, and prints the cycles.
"""

import dataclasses
import functools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

TARGET = "tpu_custom_call"  # what programs call


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel by hand.

    Attributes:
      machine: a name of `targets.TARGETS`.
      config: the kernel itself, as JAX gives it to the compiler.
      operands: shape and dtype of each.
      results: the same.
    """

    machine: str
    config: str
    operands: tuple[tuple[tuple[int, ...], str], ...]
    results: tuple[tuple[tuple[int, ...], str], ...]

    @functools.cached_property
    def body(self) -> str | None:
        """What tells it from others, in a program as it is given to the compiler and as it is made."""
        return body(self.config)


def body(config: str) -> str | None:
    """What tells a kernel from others."""
    found = re.search(r'"body\\*": *\\*"([^"\\]*)', config)
    return found[1] if found else None


def kernels(machine: str, lowered: Any) -> Iterator[Kernel]:
    """Those of a lowered program."""
    for operation in _operations(lowered.compiler_ir("stablehlo").operation):
        if operation.name == "stablehlo.custom_call":
            attributes = operation.attributes
            if attributes["call_target_name"].value == TARGET:
                of = lambda values: tuple(_array(str(v.type)) for v in values)  # noqa: E731
                config = attributes["backend_config"].value
                yield Kernel(machine, config, of(operation.operands), of(operation.results))


def _operations(operation: Any) -> Iterator[Any]:
    for region in operation.regions:
        for block in region:
            for inner in block:
                yield inner.operation
                yield from _operations(inner.operation)


def _array(type_: str) -> tuple[tuple[int, ...], str]:
    *sizes, kind = type_.removeprefix("tensor<").removesuffix(">").split("x")
    words = {"f": "float", "bf": "bfloat", "i": "int", "ui": "uint"}
    letters, bits = re.fullmatch(r"([a-z]+)(\d+)", kind).groups()  # type: ignore[union-attr]
    return tuple(map(int, sizes)), words[letters] + bits


@functools.cache
def cycles(kernel: Kernel, turns: float) -> float:
    """How many bundles a kernel issues.

    Args:
      kernel: the kernel.
      turns: how often loops are run whose length is not in the program, in the mean.

    Raises:
      RuntimeError: the compiler wrote no schedule.
    """
    return counted(_schedule(kernel), turns)


@functools.cache
def _schedule(kernel: Kernel) -> str:
    with tempfile.TemporaryDirectory(prefix="schedule-") as folder:
        wanted = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        wanted += " --xla_jf_dump_llo_pass_label_regex=.*final_bundles.*"
        given = os.environ.get("LIBTPU_INIT_ARGS", "")
        made = subprocess.run(
            [sys.executable, "-m", __spec__.name],
            input=json.dumps(dataclasses.asdict(kernel)),
            env=os.environ | {"LIBTPU_INIT_ARGS": f"{given} {wanted}".strip(), "JAX_PLATFORMS": "cpu"},
            cwd=Path(__file__).parents[3],
            text=True,
            capture_output=True,
        )
        names = made.stdout.split()
        files = list(Path(folder).glob(f"*-{names[-1]}-*-final_bundles.txt")) if made.returncode == 0 and names else []
        written = [file for file in files if "analysis" not in file.name]
        if len(written) != 1:
            raise RuntimeError(f"{kernel.machine}: no schedule of a kernel by hand.\n{made.stderr[-2000:]}")
        return written[0].read_text()


def _compile(kernel: Kernel) -> str:
    """Compiles a kernel alone, and returns its name in the program."""
    from experiments.benchmarks.compiled import targets

    results = [jax.ShapeDtypeStruct(*a) for a in kernel.results]
    call = jax.ffi.ffi_call(TARGET, results, custom_call_api_version=1, legacy_backend_config=kernel.config)
    sharding = targets.on(kernel.machine)
    specs = [jax.ShapeDtypeStruct(shape, np.dtype(dtype), sharding=sharding) for shape, dtype in kernel.operands]
    text = jax.jit(lambda *operands: call(*operands)).lower(*specs).compile().as_text()
    return re.search(rf'%([\w.\-]+) = [^\n]*custom_call_target="{TARGET}"', text)[1]  # type: ignore[index]


# --- what libtpu writes -----------------------------------------------------------------------------------------------

_BUNDLE = re.compile(r"^ *(?:0x[0-9a-f]+|0) +(?:[A-Z]{2})? *: ?>* *\{")
_EDGES = re.compile(r"\b(Start|End) region (\d+)")
_BACK = re.compile(r"\bsbr\.rel \(!?(%p\w+)\)[^;]*? target = \$region(\d+)|\bsbr\.rel target = \$region(\d+)")
_EXIT = re.compile(r"(%p\w+) = scmp\.ge\.s32\.totalorder [^;]*?(%\w+|\d+) /\* loop exit test")
_OF_BLOCKS = "iteration index, stage"  # a remark on what counts blocks


def counted(text: str, turns: float = 1) -> float:
    """How many bundles a schedule issues.

    Args:
      text: what libtpu wrote.
      turns: how often loops are run whose length is not in the program, in the mean.
    """
    rows = text.splitlines()
    numbers, count = [], -1  # of the bundle that each row is of
    for row in rows:
        count += bool(_BUNDLE.match(row))
        numbers.append(count)
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, row in zip(numbers, rows, strict=True):
        for edge, region in _EDGES.findall(row):
            if edge == "Start":
                first.setdefault(region, number)
            else:
                last[region] = number
    # What a branch back asks, and the number that it is about.
    exits = dict(found for row in rows for found in _EXIT.findall(row))
    loops = set()
    for number, row in zip(numbers, rows, strict=True):
        for asked, region, always in _BACK.findall(row):
            begin = first.get(region or always, math.inf)
            if begin <= number:
                loops.add((begin, max(last.get(region or always, number), number), exits.get(asked, "")))
    of_blocks = {number for number, row in zip(numbers, rows, strict=True) if _OF_BLOCKS in row}
    weights = np.ones(count + 1)
    for begin, end, limit in loops:
        trips = float(limit) if limit.isdigit() else turns
        trips -= 2 * (begin in of_blocks)  # the first turn and the last only copy
        weights[begin : end + 1] *= trips
    return float(weights.sum())


if __name__ == "__main__":
    fields = json.load(sys.stdin)
    arrays = {key: tuple((tuple(shape), dtype) for shape, dtype in fields.pop(key)) for key in ("operands", "results")}
    print(_compile(Kernel(**fields, **arrays)))
