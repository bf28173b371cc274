"""Speed and memory, side by side with the peers in one process: `python -m experiments benchmark --group NAME`.

A group is a module of this folder with a function `cases() -> Iterator[Case]`, which makes one case at a time (or names
it, and makes its contenders when it is its turn), a constant `DESCRIPTION`, a sentence for the head of the table, and
a constant `PEERS`, the distributions whose versions belong there.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from experiments import console, runs
from experiments.benchmarks import harness

_RESULTS = Path(__file__).parent / "results"
_NOT_GROUPS = {"harness", "peers"}


def groups() -> tuple[str, ...]:
    """Names of the groups there are."""
    return tuple(sorted({module.name for module in pkgutil.iter_modules(__path__)} - _NOT_GROUPS))


@dataclass(frozen=True)
class Benchmark:
    """Time a group of functions against their peers and write the table, as Markdown and JSON."""

    group: str
    """What to time: interpolation, convolution, and so on."""
    seconds: float = 2.0
    """Time for each case, shared by the contenders; each runs three times at least."""
    only: tuple[str, ...] = ()
    """Only the cases whose name holds all of these words."""
    out: Path = _RESULTS
    """Folder for GROUP-DEVICE.md and .json, which are written over."""

    def prepare(self) -> None:
        """Raises ValueError for what cannot be timed."""
        if self.group not in groups():
            raise ValueError(f"--group {self.group!r} is not known. Known: {', '.join(groups())}.")
        if not self.seconds > 0:
            raise ValueError(f"--seconds {self.seconds}: must be above 0.")

    def run(self, prepared: None) -> None:
        module = importlib.import_module(f"experiments.benchmarks.{self.group}")
        harness.keep_memory()
        machine = runs.machine() | {name: version(name) for name in module.PEERS}
        rows = []
        for case in module.cases():
            if all(word in case.name for word in self.only):
                rows.append(harness.measure(case, self.seconds))
                console.say(harness.line(rows[-1]))
        if not rows:
            console.say(f"no case of {self.group} has a name with {' '.join(self.only)}")
            return
        path = self.out / f"{self.group}-{machine['platform']}"
        harness.write(path, module.DESCRIPTION, rows, machine)
        console.say("", *harness.summary(rows), "", f"Table: {path}.md")
