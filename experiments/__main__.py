"""The command line: `python -m experiments --help`."""

import functools
import operator
import signal
import sys
from typing import Annotated

import tyro

from experiments import analyse, benchmarks, check, choose, console, evidence, interruption, runs, study, tasks

_TASKS = functools.reduce(
    operator.or_, [Annotated[task.settings, tyro.conf.subcommand(task.name)] for task in tasks.known()]
)
_COMMANDS = (
    _TASKS
    | Annotated[study.Report, tyro.conf.subcommand("report")]
    | Annotated[check.Check, tyro.conf.subcommand("check")]
    | Annotated[analyse.Analyse, tyro.conf.subcommand("analyse")]
    | Annotated[choose.Choose, tyro.conf.subcommand("choose")]
    | Annotated[evidence.Evidence, tyro.conf.subcommand("evidence")]
    | Annotated[benchmarks.Benchmark, tyro.conf.subcommand("benchmark")]
)
_CARRIED_OUT = (
    study.COMMANDS | check.COMMANDS | analyse.COMMANDS | choose.COMMANDS | evidence.COMMANDS | benchmarks.COMMANDS
)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the process's exit status.

    0: done. 1: stopped by what is outside the program, as a full disk; what is safe, and how to go on, is said.
    2: it cannot be done as asked. 130: Ctrl-C. 143: SIGTERM.
    """
    console.accept_any_encoding()
    with interruption.terminable():
        try:
            return _carry_out(tyro.cli(_COMMANDS, prog="python -m experiments", args=arguments))
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
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
