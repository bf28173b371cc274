"""The study of segmentation, from top to bottom: what is done in which order, and what it leaves behind."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from experiments import analytic, console, designs, files, methods, rates, report, results, runs, settings
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


def prepare_report(command: Report) -> tuple[Run, dict[Job, Outcome]]:
    """Finds the run whose page is to be written, and what its trainings stored.

    Raises:
      ValueError, OSError: there is none, or not all of it is trained.
    """
    config = settings.stored(command.folder)
    run = Run(config, _load_again(config, command.folder), command.folder.resolve())

    def done(job: Job, rate: float, own: Path) -> Outcome:
        if not designs.is_done(own):
            raise ValueError(
                f"{command.folder}: {job.method}, seed {job.seed} of design {job.design} is not trained yet; go on "
                "with --resume."
            )
        return designs.stored(own, run.data.test)

    return run, _each(run, done)


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
    """What methods do to boundaries that are known exactly: measured once for each factor, then stored.

    The bare interpolators are measured as they are; with `shapes_steps`, all methods once they are trained on shapes.
    The first factor comes first, the others as `others`.
    """
    measured = []
    for stride in config.analytic_stride if "analytic" in config.design else ():
        path = place / f"analytic-x{stride}.json"
        if not path.exists():
            found = {"stride": stride, "methods": analytic.bare(stride), "trained": _on_shapes(config, stride)}
            found = files.write_json(path, found)
            title = f"Edges known exactly, factor {stride}, hundredths of a pixel"
            console.table(title, results.analytic_rows(found["methods"]))
            if found["trained"]:
                console.table(f"{title}, trained on shapes", results.analytic_rows(found["trained"]))
        measured.append(files.read_json(path))
    return {**measured[0], "others": measured[1:]} if measured else None


def _on_shapes(config: Segmentation, stride: int) -> dict[str, Any]:
    """Figures of each method that a run compares, trained on shapes."""
    if not config.shapes_steps:
        return {}
    found = {}
    with console.run_progress(len(config.methods)) as progress:
        for name in config.methods:
            variant = methods.variant_of(name, config.variants)
            steps = len(analytic.RATES) * config.shapes_steps
            with progress.job(f"{name}, on shapes, factor {stride}", steps) as step:
                trained = analytic.train_on_shapes(
                    name, stride, steps=config.shapes_steps, variant=variant, progress=step
                )
                figures = analytic.measure(trained.upsample, stride, guided=trained.guided)
            shown = name if variant is None else f"{name} ({variant})"
            found[shown] = figures | {"learning_rate": trained.learning_rate, "unseen_loss": trained.unseen_loss}
    return found


def _train_all(run: Run) -> dict[Job, Outcome]:
    """The outcome of every job: trained now, or stored by the run that was stopped."""
    config, data, _ = run
    programs: designs.Programs = {}
    stage_of = functools.lru_cache(maxsize=1)(functools.partial(_stage, run, programs))
    with console.run_progress(sum(rates.count(config, job) for job in config.jobs())) as progress:

        def one(job: Job, rate: float, own: Path) -> Outcome:
            if designs.is_done(own):
                outcome = designs.stored(own, data.test)
                with progress.job(job.method, 1):
                    pass
            else:
                stage = stage_of(progress, job.design, job.seed)
                with progress.job(f"{job.design} {job.method}, seed {job.seed}", stage.steps) as step:
                    outcome = designs.train(job, rate, config, data, stage, own, programs, step)
            figures = outcome.result["figures"]
            told = ", ".join(f"{MEASURES[m].title} {figures[m]['mean']:.3f}" for m in (PRIMARY, "mean_iou"))
            at = f", learning rate {rate:g}" if rates.count(config, job) > 1 else ""
            progress.say(f"{job.design:>8} {job.method:>16}, seed {job.seed}{at}: {told}")
            return outcome

        return _each(run, one)


def _each(run: Run, one: Callable[[Job, float, Path], Outcome]) -> dict[Job, Outcome]:
    """The outcome of every job at its method's own learning rate; `one` gives that of a job at a rate."""
    config, _, place = run
    found: dict[tuple[Job, float], Outcome] = {}
    for job in config.jobs():
        own = runs.job_folder(place, *job)
        for rate in rates.wanted(config, job, found):
            found[job, rate] = one(job, rate, own if len(config.rates_of(job.design)) == 1 else own / f"rate{rate:g}")
    return {job: found[job, rates.best(config, job, found)] for job in config.jobs()}


def _stage(
    run: Run, programs: designs.Programs, progress: console.RunProgress, design: str, seed: int
) -> designs.Stage:
    config, data, place = run
    job = Job(design, "", seed)
    if settings.kind(design) != "frozen":
        return designs.stage(job, config, data, place, programs, lambda step, loss: None)
    with progress.part(f"trunk, seed {seed}", config.trunk_steps) as step:
        return designs.stage(job, config, data, place, programs, step)


# --- after ------------------------------------------------------------------------------------------------------------


def report_again(prepared: tuple[Run, dict[Job, Outcome]]) -> None:
    """Writes the results and the page of a run that is trained."""
    run, outcomes = prepared
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
