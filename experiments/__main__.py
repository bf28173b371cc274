"""The command line: `python -m experiments --help`."""

import logging
import sys
from typing import Annotated

import tyro

from experiments import benchmarks, check, choose, evidence, study
from experiments.console import console

_COMMANDS = (
    Annotated[study.Segmentation, tyro.conf.subcommand("segmentation")]
    | Annotated[study.Report, tyro.conf.subcommand("report")]
    | Annotated[check.Check, tyro.conf.subcommand("check")]
    | Annotated[choose.Choose, tyro.conf.subcommand("choose")]
    | Annotated[evidence.Evidence, tyro.conf.subcommand("evidence")]
    | Annotated[benchmarks.Benchmark, tyro.conf.subcommand("benchmark")]
)
_CARRIED_OUT = study.COMMANDS | check.COMMANDS | choose.COMMANDS | evidence.COMMANDS | benchmarks.COMMANDS


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the process's exit status: 2 for what cannot be done as asked, 130 after Ctrl-C."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax remarks on every slow disk, across the progress bars
    command = tyro.cli(_COMMANDS, prog="python -m experiments", args=arguments)
    try:
        # What was asked for wrongly is found out here, and is one clear line. A fault of ours keeps its traceback.
        try:
            prepare, carry_out = _CARRIED_OUT[type(command)]
            prepared = prepare(command)
        except (ValueError, OSError) as error:
            console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
            return 2
        carry_out(prepared)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
