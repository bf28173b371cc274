"""A study, from top to bottom, whatever its task: what is done in which order, and what it leaves behind."""

import contextlib
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

from experiments import (
    analytic,
    checkpoints,
    console,
    designs,
    devices,
    files,
    logs,
    methods,
    rates,
    report,
    results,
    runs,
    session,
    settings,
    tasks,
    training,
    trials,
)
from experiments.data import Dataset, Split, identity
from experiments.data.own import adapt
from experiments.result import Result
from experiments.settings import Job, Segmentation
from experiments.trials import Outcome


@dataclass(frozen=True)
class Report:
    """Write a run's results and page anew from what its trainings stored."""

    folder: tyro.conf.Positional[Path]
    """The run's folder."""


class Run(NamedTuple):
    """What a run works with: its settings, all filled in, its data and its folder; and a user's own network, if any."""

    config: Any
    data: Any
    folder: Path
    network: designs.Network | None = None

    @property
    def task(self) -> tasks.Task:
        return tasks.of(self.config)


Found = Outcome | results.Divergence
"""What becomes of a training."""


class Trained(NamedTuple):
    """What became of the trainings: the outcomes of those that ended, and where the others diverged."""

    outcomes: dict[Job, Outcome]
    diverged: dict[Job, results.Divergence]


# --- before -----------------------------------------------------------------------------------------------------------


def run(
    config: Any = None,
    *,
    data: Any = None,
    model: designs.Network | None = None,
    sinks: Sequence[logs.Sink] = (),
    out: Path | str | None = None,
) -> Result:
    """Runs the study from Python, as in a notebook; `experiments/example.py` shows it with all that can be one's own.

    Args:
      config: the settings; those of the command line, of any task: `Segmentation(...)`, `SuperResolution(...)`,
        `Generation(...)`. `methods` may hold classes of your own beside names.
      data: your own data, any object with the attributes that `data.own.adapt` tells; without it those of `config`.
      model: your own network in place of the U-Net of the design unet, called as `model(channels, num_classes, method,
        seed=0)`; it maps images `(batch, H, W, channels)` of any size to logits `(batch, H, W, num_classes)`, and makes
        its upsamplers by `upsampling.nn.create(method, ...)`.
      sinks: functions that are given each step's figures while it trains, as `logs.Entry`.
      out: a new folder to store the run in, with its page; without it nothing is stored.

    Returns:
      Figures, label maps and drawings, as `Result`.

    Raises:
      ValueError, TypeError, OSError: what was asked for cannot be done.
      runs.Stopped: the folder cannot be written, or another process is working in it.
    """
    config = config or Segmentation()
    if config.methods is not None:
        config = dataclasses.replace(config, methods=tuple(map(_method_name, config.methods)))
    if model is not None and config.variants is None and config.resume is None:
        config = dataclasses.replace(config, variants=())  # an own network makes its upsamplers itself
    own = None if data is None else adapt(data)
    if out is not None or config.out is not None or config.resume is not None:
        config = config if out is None else dataclasses.replace(config, out=Path(out))
        return train(prepare(config, own)._replace(network=model), sinks)
    with tempfile.TemporaryDirectory() as place:
        config = dataclasses.replace(config, out=Path(place) / "run")
        result = train(prepare(config, own)._replace(network=model), sinks, page=False)
    return dataclasses.replace(result, folder=None)


def _method_name(method: Any) -> str:
    """A class by the name under which it can be found."""
    return method if isinstance(method, str) else f"{method.__module__}:{method.__qualname__}"


def prepare(config: Any, own: Dataset | None = None) -> Run:
    """Checks everything that can be checked before training, and makes the run's folder.

    Args:
      config: the settings.
      own: the user's own data, in place of those of the settings.

    Raises:
      ValueError, OSError: what was asked for cannot be done; nothing is left behind.
    """
    devices.initialize(config.coordinator, config.processes, config.process)
    if jax.process_count() > 1:
        return _prepare_together(config, own)
    return _prepare(config, own)


def _prepare_together(config: Any, own: Dataset | None) -> Run:
    """The run of several processes: the first one's folder, and copies of it that the others begin from."""
    try:
        run = _prepare(config, own) if devices.is_first() else None
        failed = None
    except (ValueError, OSError) as error:
        run, failed = None, error
    place = devices.share(run and run.folder)
    if place is None:
        raise failed or ValueError("the first process could not begin; it says why.")
    if run is None:
        run = _prepare(dataclasses.replace(type(config)(), **session.of(config) | {"resume": place}), own)
    return run


def _prepare(config: Any, own: Dataset | None) -> Run:
    if config.resume is not None:
        place, config = config.resume.resolve(), settings.resumed(config)
        devices.mesh(config.batch)
        data = _load_again(config, place, own)
        if "damaged" not in config.redo:
            _refuse_damaged(Run(config, data, place))
        return Run(config, data, place)
    task = tasks.of(config)
    config = task.resolve(config)
    devices.mesh(config.batch)
    runs.refuse_existing(config.out)
    data = _load(config, own)
    # The folder is made last, so that what was refused leaves nothing behind. A run may go on from elsewhere.
    found = {name: place.resolve() for name in ("path", "classes") if (place := getattr(config, name, None))}
    stored = dataclasses.asdict(dataclasses.replace(config, **found))
    stored = {name: value for name, value in stored.items() if name not in session.FIELDS}
    return Run(config, data, runs.create(config.out, task.name, stored, identity(data)))


def prepare_report(command: Report) -> tuple[Run, Trained]:
    """Finds the run whose page is to be written, and what its trainings stored.

    Raises:
      ValueError, OSError: there is none, or not all of it is trained.
    """
    task = tasks.named(runs.stored_task(command.folder))
    config, place = settings.stored(command.folder, task), command.folder.resolve()
    run = Run(config, _load_again(config, place), place)

    def done(job: Job, rate: float) -> Found:
        found = _stored(run, job, _folder(run, job, rate))
        if found is None:
            raise ValueError(
                f"{command.folder}: {job.method}, seed {job.seed} of design {job.design} is not trained yet; go on "
                "with --resume."
            )
        return found

    try:
        return run, _each(run, lambda jobs, rate: [done(job, rate) for job in jobs])
    except checkpoints.Damaged as error:
        raise ValueError(_remedy(error, run)) from error


def _load(config: Any, own: Dataset | None = None) -> Any:
    data = config.load() if own is None else own
    tasks.of(config).check(config, data)
    return data


def _load_again(config: Any, place: Path, own: Dataset | None = None) -> Any:
    """The data of a run that goes on, which must be those that it began with."""
    try:
        data = _load(config, own)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} The run's data are where {place / 'config.json'} says: change it there."
        ) from error
    runs.refuse_other_data(place, data)
    return data


def _folders(run: Run) -> list[Path]:
    """Where the run's trainings keep what they store: the trunks' folders, then the jobs'."""
    config, place = run.config, run.folder
    jobs = config.jobs()
    with_trunk = (job for job in jobs if run.task.has_trunk(config, job))
    trunks = dict.fromkeys(designs.trunk_folder(place, config, job) for job in with_trunk)
    return [*trunks, *(_folder(run, job, rate) for job in jobs for rate in config.rates_of(job.design))]


def _folder(run: Run, job: Job, rate: float) -> Path:
    """Where a job keeps what it stores of its training at a learning rate."""
    own = runs.job_folder(run.folder, *job)
    return own if len(run.config.rates_of(job.design)) == 1 else own / f"rate{rate:g}"


def _refuse_damaged(run: Run) -> None:
    """Raises ValueError if a stored file cannot be trusted; the message names it and the remedy."""
    try:
        for place in _folders(run):
            _examine(run, place)
    except checkpoints.Damaged as error:
        raise ValueError(_remedy(error, run)) from error


def _examine(run: Run, place: Path) -> None:
    """Raises `checkpoints.Damaged` if what a training stored in its folder cannot be trusted."""
    trials.examine(place, run.data.test, together=run.config.seeds_at_once > 1)


def _remedy(error: checkpoints.Damaged, run: Run) -> str:
    return f"{error} To train this one anew, and nothing else: {_resume(run)} --redo damaged"


def _resume(run: Run) -> str:
    """The command that goes on with a run."""
    return f"python -m experiments {run.task.name} --resume {_shown(run.folder)}"


# --- the run ----------------------------------------------------------------------------------------------------------


def train(run: Run, sinks: Sequence[logs.Sink] = (), *, page: bool = True) -> Result:
    """Measures, trains, evaluates and reports, showing progress; what is done already is not done again.

    Args:
      run: what to work with.
      sinks: who is told the figures of every step.
      page: whether to write the page, and to say where things are.

    Raises:
      KeyboardInterrupt: after Ctrl-C or SIGTERM, with everything stored that `--resume` needs.
      runs.Stopped: another process is working on the run, or its folder cannot be written or trusted.
    """
    config, data, place = run[:3]
    if not config.quiet and devices.is_first():
        console.say(f"{data.name}: {data.description}", *data.notes)
        console.say(*([f"Results go to {_shown(place)}"] if page else []))
    with (
        devices.silent_but_first(console.console),
        runs.locked(place),
        runs.told_how_to_go_on(place, _resume(run)),
    ):
        try:
            if data.generated:
                _store_test_images(place / "test.npz", data.test)
            _clear(run)
            measured = _analytic(config, place)
            trained = _train_all(run, [*sinks, *_own_sinks(run)])
            return conclude(run, trained, measured, page=page)
        except KeyboardInterrupt:
            console.say(*([f"Stopped. To go on: {_resume(run)}"] if page else []))
            raise
        except checkpoints.Damaged as error:
            raise runs.Stopped(_remedy(error, run)) from error


def _own_sinks(run: Run) -> list[logs.Sink]:
    config = run.config
    lines = [logs.JsonLines(run.folder)] if config.json_lines else []
    return [*lines, *([logs.TensorBoard(run.folder / "tensorboard")] if config.tensorboard else [])]


def _clear(run: Run) -> None:
    """Takes away what is to be trained anew."""
    for place in _folders(run) if run.config.redo else ():
        redo = "diverged" in run.config.redo and (place / training.DIVERGED).exists()
        try:
            _examine(run, place)
        except checkpoints.Damaged:
            redo = redo or "damaged" in run.config.redo
        if redo:
            shutil.rmtree(place)


def _analytic(config: Any, place: Path) -> dict[str, Any] | None:
    """What methods do to boundaries that are known exactly: measured once for each factor, then stored.

    The bare interpolators are measured as they are; with `shapes_steps`, all methods once they are trained on shapes.
    The first factor comes first, the others as `others`.
    """
    measured = []
    if not isinstance(config, Segmentation):
        return None
    for stride in config.analytic_stride if "analytic" in config.design else ():
        path = place / f"analytic-x{stride}.json"
        found = None
        with contextlib.suppress(*checkpoints.FAULTS):  # what is missing or damaged is measured
            found = files.read_sealed(path)
        if found is None:
            found = {"stride": stride, "methods": analytic.bare(stride), "trained": _on_shapes(config, stride)}
            found = files.write_sealed(path, found)
            title = f"Edges known exactly, factor {stride}, hundredths of a pixel"
            console.table(title, results.analytic_rows(found["methods"]))
            if found["trained"]:
                console.table(f"{title}, trained on shapes", results.analytic_rows(found["trained"]))
        measured.append(found)
    return {**measured[0], "others": measured[1:]} if measured else None


def _on_shapes(config: Segmentation, stride: int) -> dict[str, Any]:
    """Figures of each method that a run compares, trained on shapes."""
    if not config.shapes_steps:
        return {}
    found = {}
    with console.run_progress(len(config.methods), quiet=config.quiet) as progress:
        for name in config.methods:
            variant = methods.variant_of(name, config.variants)
            steps = len(analytic.RATES) * config.shapes_steps
            with progress.job(f"{name}, on shapes, factor {stride}", steps) as step:
                trained = analytic.train_on_shapes(
                    name, stride, steps=config.shapes_steps, variant=variant, progress=step
                )
                figures = analytic.measure(trained.upsample, stride, guided=trained.guided)
            found[results.shown_name(name, {"variant": variant})] = figures | {
                "learning_rate": trained.learning_rate,
                "unseen_loss": trained.unseen_loss,
            }
    return found


def _train_all(run: Run, sinks: Sequence[logs.Sink]) -> Trained:
    """What becomes of every job: trained now, or stored by the run that was stopped."""
    config, data, _ = run[:3]
    programs: trials.Programs = {}
    stage_of = functools.lru_cache(maxsize=config.seeds_at_once)(functools.partial(_stage, run, programs, sinks))
    with console.run_progress(sum(rates.count(config, job) for job in config.jobs()), quiet=config.quiet) as progress:

        def trained(jobs: Sequence[Job], rate: float) -> dict[Job, Found]:
            """Jobs that differ in the seed alone, trained together if they are several.

            All of them are trained even where some are stored: what a program makes of one depends, in its last digits,
            on how many it is made for.
            """
            stages, found = {}, {}
            for job in jobs:
                try:
                    stages[job] = stage_of(progress, job.design, job.seed)
                except training.Diverged as error:
                    found[job] = results.Divergence(error.step, repr(error.loss), True)
            if not stages:
                return found
            seeds = " ".join(str(job.seed) for job in stages)
            name = f"{jobs[0].design} {jobs[0].method}, {'seed' if len(stages) == 1 else 'seeds'} {seeds}"
            with progress.job(name, next(iter(stages.values())).steps, trainings=len(jobs)) as step:
                parts = []
                for job, stage in stages.items():
                    own = _folder(run, job, rate)
                    # One is shown of those that go in step.
                    watch = trials.Watch(log=_logging(sinks, own.relative_to(run.folder)))
                    made_of, options = run.task.trial(job, rate, config, data, stage)
                    parts.append(trials.Part(made_of, job, own, watch if parts else watch._replace(progress=step)))
                every = config.checkpoint_every
                outcomes = trials.carry_out(parts, options, data, programs, checkpoint_every=every)
            for job, of in zip(stages, outcomes, strict=True):
                diverged = isinstance(of, training.Diverged)
                found[job] = results.Divergence(of.step, repr(of.loss), False) if diverged else of
            return found

        def some(jobs: Sequence[Job], rate: float) -> list[Found]:
            found = {job: of for job in jobs if (of := _stored(run, job, _folder(run, job, rate))) is not None}
            if len(found) < len(jobs):
                found = trained(jobs, rate)
            else:
                with progress.job(jobs[0].method, 1, trainings=len(jobs)):
                    pass
            for job in jobs:
                at = f", learning rate {rate:g}" if rates.count(config, job) > 1 else ""
                told = _told(run.task, found[job])
                progress.say(f"{job.design:>8} {job.method:>16}, seed {job.seed}{at}: {told}")
            return [found[job] for job in jobs]

        return _each(run, some)


def _told(task: tasks.Task, found: Found) -> str:
    if isinstance(found, results.Divergence):
        return found.told()
    figures = found.result["figures"]
    return ", ".join(f"{task.measures[m].title} {figures[m]['mean']:.3f}" for m in task.followed)


def _each(run: Run, some: Callable[[Sequence[Job], float], Sequence[Found]]) -> Trained:
    """What becomes of every job at its method's own learning rate; `some` gives what becomes of jobs at a rate."""
    config = run.config
    found: dict[tuple[Job, float], Found] = {}
    for jobs in rates.together(config):
        for rate in rates.wanted(config, jobs[0], found):
            found.update(zip(((job, rate) for job in jobs), some(jobs, rate), strict=True))
    own = {job: found[job, rates.best(config, job, found)] for job in config.jobs()}
    return Trained(
        {job: of for job, of in own.items() if isinstance(of, Outcome)},
        {job: of for job, of in own.items() if isinstance(of, results.Divergence)},
    )


def _stored(run: Run, job: Job, own: Path) -> Found | None:
    """What is stored of a training: its outcome, or where it or its trunk diverged; None if it is not done."""
    if trials.is_done(own):
        return trials.stored(own, run.data.test)
    trunk = designs.trunk_folder(run.folder, run.config, job) if run.task.has_trunk(run.config, job) else None
    for place in (own, trunk):
        found = place and training.divergence(place)
        if found:
            return results.Divergence(found["step"], found["loss"], place is trunk)
    return None


def _stage(
    run: Run,
    programs: trials.Programs,
    sinks: Sequence[logs.Sink],
    progress: console.RunProgress,
    design: str,
    seed: int,
) -> designs.Stage:
    config, data, place = run[:3]
    job = Job(design, "", seed)
    if not run.task.has_trunk(run.config, job):
        return run.task.stage(job, config, data, place, programs, trials.Watch(), run.network)
    own = designs.trunk_folder(place, config, job)
    with progress.part(f"trunk, seed {seed}", config.trunk_steps) as step:
        watch = trials.Watch(step, _logging(sinks, own.relative_to(place)))
        return run.task.stage(job, config, data, place, programs, watch)


def _logging(sinks: Sequence[logs.Sink], place: Path) -> Callable[[int, dict[str, float]], None]:
    def log(step: int, metrics: dict[str, float]) -> None:
        for sink in sinks:
            sink(logs.Entry(place.as_posix(), step, metrics))

    return log


# --- after ------------------------------------------------------------------------------------------------------------


def report_again(prepared: tuple[Run, Trained]) -> None:
    """Writes the results and the page of a run that is trained."""
    run, trained = prepared
    with runs.locked(run.folder), runs.told_how_to_go_on(run.folder, f"python -m experiments report {run.folder}"):
        conclude(run, trained, _analytic(run.config, run.folder))


def conclude(run: Run, trained: Trained, measured: dict[str, Any] | None, *, page: bool = True) -> Result:
    """Gathers all outcomes into the run's files, its table and its page."""
    config, data, place = run[:3]
    outcomes = trained.outcomes
    network = run.network and getattr(run.network, "__name__", type(run.network).__name__)
    found, timing = results.collect(place, config, data, outcomes, measured, trained.diverged, network)
    if not config.quiet:
        for design in found["designs"]:
            table, best = results.rows(found, timing, design)
            # A terminal is narrow: the page has all columns.
            console.table(f"{data.name}, {design}, {run.task.words.unit}", results.brief(table, run.task), best)
        console.say(*results.verdict(found))
    if page:
        written = report.write(
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
        console.say(f"Report: {_shown(written)}")
    return Result(found, timing, data, outcomes, place)


def _store_test_images(path: Path, test: Split) -> None:
    image, label = (np.stack([example[key] for example in test.examples]) for key in ("image", "label"))
    files.write_arrays(path, names=np.array(test.names), image=image, label=label.astype(np.uint8))


def _shown(path: Path) -> str:
    """The path as the reader would type it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


COMMANDS: dict[type, tuple[Callable, Callable]] = {
    **{task.settings: (prepare, train) for task in tasks.known()},
    Report: (prepare_report, report_again),
}
"""For each command what checks it and what carries it out."""
