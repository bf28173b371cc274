"""The command line: `python -m experiments --help`."""

import functools
import inspect
import operator
import signal
import sys
from typing import Annotated, Any

import tyro

from experiments import analyse, benchmarks, check, choose, console, devices, evidence, interruption, runs, study, tasks

# Each command by name, with an example for its help; a task without one here has that of a few methods.
_EXAMPLES = {
    "segmentation": "--design frozen --methods bilinear carafe fade --seeds 0 1 2 3 4",
    "super-resolution": "--methods bilinear transposed_conv sub_pixel_conv",
    "features": "--methods bilinear joint_bilateral guided_filter jbu",
    "report": "runs/FOLDER",
    "check": "--data folder --path DIR",
    "analyse": "--methods all --scale 4",
    "choose": "--from runs/FOLDER",
    "evidence": "--from runs/FOLDER experiments/RESULTS.json",
    "benchmark": "--group interpolation",
}
_NAMED: dict[str, type] = {
    **{task.name: task.settings for task in tasks.known()},
    "report": study.Report,
    "check": check.Check,
    "analyse": analyse.Analyse,
    "choose": choose.Choose,
    "evidence": evidence.Evidence,
    "benchmark": benchmarks.Benchmark,
}
_ABOUT = """What upsampling methods do to boundaries, to pictures and to features, and what they cost.

Start with `python -m experiments segmentation`, which takes minutes on a CPU and writes a page below runs/.
"""


def example_of(name: str) -> str:
    """Options of an example of a command."""
    return _EXAMPLES.get(name, "--methods bilinear bicubic sub_pixel_conv")


def _described(name: str, command: type) -> Any:
    told = f"{inspect.getdoc(command)}\n\nExample: python -m experiments {name} {example_of(name)}"
    return Annotated[command, tyro.conf.subcommand(name, description=told)]


_COMMANDS = functools.reduce(operator.or_, (_described(name, command) for name, command in _NAMED.items()))
_CARRIED_OUT = (
    study.COMMANDS | check.COMMANDS | analyse.COMMANDS | choose.COMMANDS | evidence.COMMANDS | benchmarks.COMMANDS
)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the process's exit status.

    0: done. 1: stopped by what is outside the program, as a full disk; what is safe, and how to go on, is said.
    2: it cannot be done as asked. 130: Ctrl-C. 143: SIGTERM.
    """
    with console.accept_any_reader(), interruption.terminable():
        try:
            return _carry_out(tyro.cli(_COMMANDS, prog="python -m experiments", description=_ABOUT, args=arguments))
        except interruption.Terminated:
            return 128 + signal.SIGTERM
        except KeyboardInterrupt:
            return 128 + signal.SIGINT


def _carry_out(command: object) -> int:
    # What was asked for wrongly is found out here, and is one clear line. A fault of ours keeps its traceback.
    try:
        prepare, carry_out = _CARRIED_OUT[type(command)]
        prepared = prepare(command)
    except (ValueError, OSError) as error:
        console.fail(error)
        return 2
    try:
        carry_out(prepared)
    except runs.Stopped as error:
        console.fail(error)
        devices.leave()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
