"""Speed and memory, side by side with the peers in one process: `python -m experiments benchmark --group NAME`.

A group is a module of this folder with a function `cases() -> Iterator[Case]`, which makes one case at a time (or names
it, and makes its contenders when it is its turn), a constant `DESCRIPTION`, a sentence for the head of the table, and
a constant `PEERS`, the distributions whose versions belong there. With `--compiled h100 v5e v6e` a group is compiled
for machines that need not be here, rather than timed: see `compiled`.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments import console, methods, runs
from experiments.benchmarks import compiled, harness

_RESULTS = Path(__file__).parent / "results"
_NOT_GROUPS = {"compiled", "harness", "peers"}


def groups() -> tuple[str, ...]:
    """Names of the groups there are."""
    return tuple(sorted({module.name for module in pkgutil.iter_modules(__path__)} - _NOT_GROUPS))


@dataclass(frozen=True)
class Benchmark:
    """Time a group of functions against their peers, or compile it for accelerators, and write the table."""

    group: str
    """What to time: interpolation, convolution, and so on; layers: every method by name. With --compiled also sharding:
    what all of them exchange between devices."""
    compiled: tuple[str, ...] = ()
    """Compile for these accelerators, which need not be here, rather than time: h100, v5e, v6e. Needs the extra
    `compilers`."""
    seconds: float = 2.0
    """Time for each case, shared by the contenders; each runs three times at least."""
    only: tuple[str, ...] = ()
    """Only the cases whose name holds all of these words. Then a table is written where --out says, or none."""
    methods: tuple[str, ...] = ()
    """For --group layers: these methods, your own as package.module:Class among them, rather than all. Then a table is
    written where --out says, or none."""
    out: Path | None = None
    """Folder for GROUP-DEVICE.md and .json (GROUP-compiled-DEVICE), which are written over. By default the one with the
    committed tables."""


def check(command: Benchmark) -> Benchmark:
    """Raises ValueError for what cannot be timed."""
    known = (*groups(), compiled.SHARDING)
    if command.group not in known:
        raise ValueError(f"--group {command.group!r} is not known. Known: {', '.join(known)}.")
    if command.compiled:
        compiled.check(command.group, command.compiled)
    elif command.group == compiled.SHARDING:
        raise ValueError(f"--group {command.group} is not timed: say --compiled, and for what.")
    else:
        _module(command.group)
    if not command.seconds > 0:
        raise ValueError(f"--seconds {command.seconds}: must be above 0.")
    if command.methods and command.group not in ("layers", compiled.SHARDING):
        raise ValueError(f"--methods goes with --group layers; got --group {command.group}.")
    for name in command.methods:
        methods.find(name)
    return command


def _module(group: str) -> tuple[Any, dict[str, str]]:
    """A group, and the versions of its peers; raises ValueError if one is not installed."""
    try:
        module = importlib.import_module(f"experiments.benchmarks.{group}")
        return module, {name: version(name) for name in module.PEERS}
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--group {group}: {error.name} is not installed; `pip install torch==2.13.0` and then "
            f"`pip install -e .[experiments,test]` install all peers."
        ) from error


def measure(command: Benchmark) -> None:
    """Times or compiles the cases of a group and writes its table; a part never takes the place of a whole table."""
    out = command.out or (None if command.only or command.methods else _RESULTS)
    if command.compiled:
        for target in command.compiled:
            compiled.measure(command.group, target, command.only, command.methods, out)
        return
    module, versions = _module(command.group)
    harness.keep_memory()
    machine = runs.machine() | versions
    rows = []
    for case in module.cases(command.methods) if command.methods else module.cases():
        if all(word in case.name for word in command.only):
            rows.append(harness.measure(case, command.seconds))
            console.say(harness.line(rows[-1]))
    if not rows:
        console.say(f"no case of {command.group} has a name with {' '.join(command.only)}")
        return
    console.say("", *harness.summary(rows), "")
    if out is None:
        console.say("A part of the cases: no table is written without --out.")
        return
    path = out / f"{command.group}-{machine['platform']}"
    harness.write(path, module.DESCRIPTION, rows, machine)
    console.say(f"Table: {path}.md")


COMMANDS: dict[type, tuple[Callable, Callable]] = {Benchmark: (check, measure)}
