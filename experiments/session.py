"""How a command is carried out this time: what has no part in its results, and may differ when a run goes on."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments import training


@dataclass(frozen=True)
class Session:
    """Options of one session of a run."""

    resume: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Go on with the stopped run in this folder, with its own settings."""
    redo: tuple[Literal["damaged", "diverged"], ...] = ()
    """With --resume, what to train anew: trainings whose files are damaged, or that diverged. They are left alone
    otherwise."""
    checkpoint_every: float = training.CHECKPOINT_EVERY
    """Seconds after which a checkpoint is written; a kill loses no more than these."""
    tensorboard: bool = False
    """Write the figures of every step as TensorBoard's event files, into tensorboard/ of the run's folder."""
    json_lines: bool = False
    """Write the figures of every step as lines of JSON, into steps.jsonl of each training's folder."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Of several processes, on one machine or many, the address of the first. SLURM, Open MPI, GKE and Cloud TPU tell
    it themselves."""
    processes: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many processes there are; with --coordinator."""
    process: Annotated[int | None, tyro.conf.arg(metavar="I")] = None
    """Which of them this is, from 0; with --coordinator."""
    quiet: bool = False
    """Print no progress: only what is wrong, and where the results are."""

    def check_session(self) -> None:
        """Raises ValueError for options that cannot be."""
        if not self.checkpoint_every > 0:
            raise ValueError(f"--checkpoint-every {self.checkpoint_every:g}: must be above 0 seconds.")
        if self.redo and self.resume is None:
            raise ValueError("--redo is for a run that goes on: give --resume DIR too.")


FIELDS = tuple(field.name for field in dataclasses.fields(Session))


def of(options: Session) -> dict[str, object]:
    """The session's part of a command's options."""
    return {name: getattr(options, name) for name in FIELDS}
