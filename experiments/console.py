"""What a run shows in the terminal: how far it is, and its table."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

console = Console(emoji=False)  # or a module named my:up: would show as a picture


def say(*lines: str) -> None:
    """Prints lines as they are."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


class RunProgress:
    """Two bars: the trainings of the run, and the steps of the present one."""

    def __init__(self, progress: Progress, jobs: int):
        self._progress = progress
        self._jobs = progress.add_task("all trainings", total=jobs, note="")
        self._steps = progress.add_task("", total=None, note="", visible=False)

    @contextlib.contextmanager
    def job(self, name: str, steps: int) -> Iterator[Callable[[int, float], None]]:
        """Shows the training `name`; yields what is to be told each step and its loss."""
        self._progress.reset(self._steps, total=steps, description=name, note="compiling", visible=True)

        def step(number: int, loss: float) -> None:
            self._progress.update(self._steps, completed=number, note=f"loss {loss:.3f}")

        yield step
        self._progress.update(self._steps, visible=False)
        self._progress.advance(self._jobs)

    @contextlib.contextmanager
    def part(self, name: str, steps: int) -> Iterator[Callable[[int, float], None]]:
        """The same for what several trainings share, which is no training of its own."""
        with self.job(name, steps) as step:
            yield step
        self._progress.advance(self._jobs, -1)

    def say(self, line: str) -> None:
        """Prints a line that stays, above the bars."""
        say(line)


@contextlib.contextmanager
def run_progress(jobs: int) -> Iterator[RunProgress]:
    """The bars of a run of `jobs` trainings."""
    columns = (
        TextColumn("{task.description}", justify="right"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield RunProgress(progress, jobs)


def table(title: str, rows: Sequence[Mapping[str, str]], best: Mapping[str, Sequence[int]] | None = None) -> None:
    """Prints rows of one set of columns; `best` names the rows to set in bold in a column."""
    best = best or {}
    shown = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for column in rows[0]:
        left = column == next(iter(rows[0]))
        shown.add_column(column, justify="left" if left else "right", no_wrap=left)
    for i, row in enumerate(rows):
        shown.add_row(*(Text(cell, style="bold" if i in best.get(column, ()) else "") for column, cell in row.items()))
    console.print(shown)
