"""The study of segmentation, from top to bottom: what is done in which order, and what it leaves behind."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from experiments import analytic, console, designs, files, report, results, runs, settings
from experiments.data import Dataset, Split, identity
from experiments.designs import Outcome
from experiments.settings import Job, Segmentation
from experiments.tasks.segmentation import MEASURES, PRIMARY


@dataclass(frozen=True)
class Report:
    """Write a run's results and page anew from what its trainings stored."""

    folder: tyro.conf.Positional[Path]
    """The run's folder."""


class Run(NamedTuple):
    """What a run works with: its settings, all filled in, its data and its folder."""

    config: Segmentation
    data: Dataset
    folder: Path


# --- before -----------------------------------------------------------------------------------------------------------


def prepare(config: Segmentation) -> Run:
    """Checks everything that can be checked before training, and makes the run's folder.

    Raises:
      ValueError, OSError: what was asked for cannot be done; nothing is left behind.
    """
    if config.resume is not None:
        place, config = config.resume.resolve(), settings.resumed(config)
        return Run(config, _load_again(config, place), place)
    config = settings.resolve(config)
    runs.refuse_existing(config.out)
    data = _load(config)
    # The folder is made last, so that what was refused leaves nothing behind. A run may go on from elsewhere.
    found = {name: place.resolve() for name in ("path", "classes") if (place := getattr(config, name))}
    stored = dataclasses.asdict(dataclasses.replace(config, **found))
    return Run(config, data, runs.create(config.out, "segmentation", stored, identity(data)))


def prepare_report(command: Report) -> Run:
    """Finds the run whose page is to be written.

    Raises:
      ValueError, OSError: there is none, or not all of it is trained.
    """
    config = settings.stored(command.folder)
    for job in config.jobs():
        if not designs.is_done(runs.job_folder(command.folder, *job)):
            raise ValueError(
                f"{command.folder}: {job.method}, seed {job.seed} of design {job.design} is not trained yet; go on "
                "with --resume."
            )
    return Run(config, _load_again(config, command.folder), command.folder.resolve())


def _load(config: Segmentation) -> Dataset:
    data = config.load()
    for name, example in zip(data.train.names, data.train.examples, strict=True):
        if min(example["label"].shape) < config.crop:
            height, width = example["label"].shape
            raise ValueError(f"--crop {config.crop}: image {name} has only {height} × {width} pixels.")
    return data


def _load_again(config: Segmentation, place: Path) -> Dataset:
    """The data of a run that goes on, which must be those that it began with."""
    data = _load(config)
    runs.refuse_other_data(place, data)
    return data


# --- the run ----------------------------------------------------------------------------------------------------------


def train(run: Run) -> None:
    """Measures, trains, evaluates and reports, showing progress; what is done already is not done again.

    Raises:
      KeyboardInterrupt: after Ctrl-C, with everything stored that `--resume` needs.
    """
    config, data, place = run
    console.say(f"{data.name}: {data.description}", *data.notes, f"Results go to {_shown(place)}")
    if data.generated:
        _store_test_images(place / "test.npz", data.test)
    try:
        measured = _analytic(config, place)
        outcomes = _train_all(run)
    except KeyboardInterrupt:
        console.say(f"Stopped. To go on: python -m experiments segmentation --resume {_shown(place)}")
        raise
    conclude(run, outcomes, measured)


def _analytic(config: Segmentation, place: Path) -> dict[str, Any] | None:
    """What the bare interpolators do to boundaries that are known exactly: measured once, then stored."""
    if "analytic" not in config.design:
        return None
    path = place / "analytic.json"
    if path.exists():
        return files.read_json(path)
    found = files.write_json(path, {"stride": config.stride, "methods": analytic.bare(config.stride)})
    console.table(
        f"Edges known exactly, factor {config.stride}, hundredths of a pixel", results.analytic_rows(found["methods"])
    )
    return found


def _train_all(run: Run) -> dict[Job, Outcome]:
    """The outcome of every job: trained now, or stored by the run that was stopped."""
    config, data, place = run
    outcomes: dict[Job, Outcome] = {}
    programs: designs.Programs = {}
    stage_of = functools.lru_cache(maxsize=1)(functools.partial(_stage, run, programs))
    jobs = config.jobs()
    with console.run_progress(len(jobs)) as progress:
        for job in jobs:
            own = runs.job_folder(place, *job)
            if designs.is_done(own):
                outcomes[job] = designs.stored(own, data.test)
                with progress.job(job.method, 1):
                    pass
            else:
                stage = stage_of(progress, job.design, job.seed)
                with progress.job(f"{job.design} {job.method}, seed {job.seed}", stage.steps) as step:
                    outcomes[job] = designs.train(job, config, data, stage, own, programs, step)
            figures = outcomes[job].result["figures"]
            told = ", ".join(f"{MEASURES[m].title} {figures[m]['mean']:.3f}" for m in (PRIMARY, "mean_iou"))
            progress.say(f"{job.design:>8} {job.method:>16}, seed {job.seed}: {told}")
    return outcomes


def _stage(
    run: Run, programs: designs.Programs, progress: console.RunProgress, design: str, seed: int
) -> designs.Stage:
    config, data, place = run
    job = Job(design, "", seed)
    if design != "frozen":
        return designs.stage(job, config, data, place, programs, lambda step, loss: None)
    with progress.part(f"trunk, seed {seed}", config.trunk_steps) as step:
        return designs.stage(job, config, data, place, programs, step)


# --- after ------------------------------------------------------------------------------------------------------------


def report_again(run: Run) -> None:
    """Writes the results and the page of a run that is trained."""
    outcomes = {job: designs.stored(runs.job_folder(run.folder, *job), run.data.test) for job in run.config.jobs()}
    conclude(run, outcomes, _analytic(run.config, run.folder))


def conclude(run: Run, outcomes: dict[Job, Outcome], measured: dict[str, Any] | None) -> None:
    """Gathers all outcomes into the run's files, its table and its page."""
    config, data, place = run
    found, timing = results.collect(place, config, data, outcomes, measured)
    for design in found["designs"]:
        table, best = results.rows(found, timing, design)
        # A terminal is narrow: the page has all columns.
        console.table(f"{data.name}, {design}, test images", results.brief(table), best)
    console.say(*results.verdict(found))
    page = report.write(
        place / "report.html",
        results=found,
        timing=timing,
        data=data,
        # The pictures show the networks of the first seed.
        predictions={
            design: {name: outcomes[Job(design, name, of["seeds"][0])].predictions for name in of["methods"]}
            for design, of in found["designs"].items()
        },
    )
    console.say(f"Report: {_shown(page)}")


def _store_test_images(path: Path, test: Split) -> None:
    image, label = (np.stack([example[key] for example in test.examples]) for key in ("image", "label"))
    files.write_arrays(path, names=np.array(test.names), image=image, label=label.astype(np.uint8))


def _shown(path: Path) -> str:
    """The path as the reader would type it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


COMMANDS: dict[type, tuple[Callable, Callable]] = {
    Segmentation: (prepare, train),
    Report: (prepare_report, report_again),
}
"""For each command what checks it and what carries it out."""
