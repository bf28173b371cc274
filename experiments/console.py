"""What a run shows, in a terminal or a file: how far it is, and its table."""

import codecs
import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Step = Callable[[int, float], None]
"""What is to be told each step and its loss."""

_PLAIN = {"±": "+-", "×": "x", "–": "-", "…": "...", "²": "2", "°": " deg", "−": "-"}
_EVERY = 60.0  # seconds between two lines on the same training, where there are no bars
_BARS = 60  # columns of a terminal: in fewer nothing can be read beside bars


console = Console(emoji=False)  # or a module named my:up: would show as a picture


class _Lasting(io.FileIO):
    """A stream whose reader may leave, as `head -1` does, or whose disk may fill up: what follows is lost, and no run
    ends for that."""

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):  # a reader that has left misses nothing
                self.lost = error
            return memoryview(data).nbytes


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks, in characters that all have."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("experiments.plainly", _plainly)


@contextlib.contextmanager
def accept_any_reader() -> Iterator[None]:
    """Within it all can be printed: to a reader that leaves, to a full disk, and to an ASCII terminal, which is shown
    what it can; names of files may be no text. What was lost is told at the end, where there is an end to tell it."""
    before = sys.stdout, sys.stderr
    out, err = map(_lasting, before)
    sys.stdout, sys.stderr = out, err
    if hasattr(out, "reconfigure"):
        out.reconfigure(errors="experiments.plainly")
    try:
        yield
    finally:
        out.flush()
        raw = getattr(getattr(out, "buffer", None), "raw", None)
        if isinstance(raw, _Lasting) and raw.lost:
            err.write(f"error: what is printed could not all be written: {raw.lost.strerror}.\n")
        err.flush()
        sys.stdout, sys.stderr = before


def _lasting(stream: Any) -> Any:
    """A standard stream as one that lasts; a terminal, and what others put in place of a stream, as it is."""
    if stream is None:  # closed, as by >&-
        return open(os.devnull, "w", encoding="utf-8")
    if stream not in (sys.__stdout__, sys.__stderr__) or stream.isatty():
        return stream
    stream.flush()
    raw, lines = _Lasting(stream.fileno(), "wb", closefd=False), stream.line_buffering
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=lines)


def say(*lines: str) -> None:
    """Prints lines as they are."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def fail(error: Exception) -> None:
    """Prints what is wrong."""
    console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)


# --- progress ---------------------------------------------------------------------------------------------------------


class RunProgress(Protocol):
    """How far a run is."""

    def job(self, name: str, steps: int, trainings: int = 1) -> contextlib.AbstractContextManager[Step]:
        """Shows the training `name`, or several in one; yields what is to be told each step and its loss."""

    def part(self, name: str, steps: int) -> contextlib.AbstractContextManager[Step]:
        """The same for what several trainings share, which is no training of its own."""

    def say(self, line: str) -> None:
        """Prints a line that stays."""


class _Bars:
    """Two bars: the trainings of the run, and the steps of the present one."""

    def __init__(self, progress: Progress, jobs: int):
        self._progress = progress
        self._jobs = progress.add_task("all trainings", total=jobs, note="")
        self._steps = progress.add_task("", total=None, note="", visible=False)

    @contextlib.contextmanager
    def job(self, name: str, steps: int, trainings: int = 1) -> Iterator[Step]:
        with self.part(name, steps) as step:
            yield step
        self._progress.advance(self._jobs, trainings)

    @contextlib.contextmanager
    def part(self, name: str, steps: int) -> Iterator[Step]:
        self._progress.reset(self._steps, total=steps, description=name, note="compiling", visible=True)

        def step(number: int, loss: float) -> None:
            self._progress.update(self._steps, completed=number, note=f"loss {loss:.3f}")

        yield step
        self._progress.update(self._steps, visible=False)

    def say(self, line: str) -> None:
        say(line)


class _Lines:
    """A line now and then, for a file or a narrow terminal: with the time, and none that would be overwritten."""

    def __init__(self, jobs: int, quiet: bool, clock: Callable[[], float] = time.monotonic):
        self._jobs, self._quiet, self._clock, self._done = jobs, quiet, clock, 0

    @contextlib.contextmanager
    def job(self, name: str, steps: int, trainings: int = 1) -> Iterator[Step]:
        with self.part(name, steps) as step:
            yield step
        self._done += trainings

    @contextlib.contextmanager
    def part(self, name: str, steps: int) -> Iterator[Step]:
        told = began = self._clock()
        first = None

        def step(number: int, loss: float) -> None:
            nonlocal told, first, began
            now = self._clock()
            if first is None:  # where a training begins that goes on
                first, began = number, now
            if now - told < _EVERY or self._quiet:
                return
            told = now
            left = (now - began) / max(number - first, 1) * (steps - number)
            say(
                f"{time.strftime('%H:%M:%S')} {self._done} of {self._jobs} trainings done; {name}: step {number} of "
                f"{steps}, loss {loss:.3f}, {_duration(left)} left"
            )

        yield step

    def say(self, line: str) -> None:
        if not self._quiet:
            say(line)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"about {minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"about {max(minutes, 1)} min"


@contextlib.contextmanager
def run_progress(jobs: int, *, quiet: bool = False) -> Iterator[RunProgress]:
    """How far a run of `jobs` trainings is: bars in a terminal, lines in a file or narrow terminal, or nothing."""
    if quiet or not console.is_terminal or console.width < _BARS:
        yield _Lines(jobs, quiet)
        return
    columns = (
        TextColumn("{task.description}", justify="right"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bars(progress, jobs)


# --- tables -----------------------------------------------------------------------------------------------------------


def table(title: str, rows: Sequence[Mapping[str, str]], best: Mapping[str, Sequence[int]] | None = None) -> None:
    """Prints rows of one set of columns; `best` names the rows to set in bold in a column.

    In a terminal too narrow for the columns, each row is printed as lines of its own.
    """
    best = best or {}
    shown = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for column in rows[0]:
        left = column == next(iter(rows[0]))
        shown.add_column(column, justify="left" if left else "right", no_wrap=left)
    for i, row in enumerate(rows):
        shown.add_row(*(Text(cell, style="bold" if i in best.get(column, ()) else "") for column, cell in row.items()))
    room = Measurement.get(console, console.options.update(max_width=10_000), shown)
    if not console.is_terminal:
        Console(file=console.file, width=max(room.maximum, console.width)).print(shown)
    elif room.minimum <= console.width:
        console.print(shown)
    else:
        say(title)
        for row in rows:
            say("", *(f"{column}: {cell}" for column, cell in row.items()))
