"""One training loop for every task: compiled step, checkpoints, and a stop that can be resumed to the same numbers."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import checkpoints, devices, files, interruption

Params = Any
Statistics = Any
Batch = Any
Loss = Callable[[Params, Statistics, Batch], tuple[jax.Array, Statistics]]
Precision = Literal["float32", "bfloat16"]

CHECKPOINT_EVERY = 300.0  # seconds
CHECKPOINT, DIVERGED = "checkpoint.npz", "diverged.json"


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
      steps: number of updates.
      learning_rate: reached after the first tenth of the steps, then lowered to zero along a cosine.
      weight_decay: AdamW's.
      precision: what forward and backward pass compute in. Parameters and their updates stay float32.
      validations: how often to validate, evenly spaced, the last time after the last step.
      betas: AdamW's decays of the first and second moment.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 1e-4
    precision: Precision = "float32"
    validations: int = 5
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass
class History:
    """What happened: the loss of every step, the measures of every validation, and what the machine needed for it.

    `seconds` holds the time of each step but the first, in which the device allocates its memory; of a step that
    several trainings take together, their share.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Diverged(FloatingPointError):
    """A loss that is not finite, at step `step`, with what happened until then."""

    def __init__(self, step: int, loss: float, history: History):
        what = "parameters are not finite" if np.isfinite(loss) else f"the loss is {loss}"
        super().__init__(f"{what} at step {step}; try a lower --learning-rate.")
        self.step, self.loss, self.history = step, loss, history


class Cost(NamedTuple):
    """What XLA says of the compiled step: floating-point operations, bytes of temporaries, seconds to compile."""

    operations: float
    temporary_bytes: int
    compile_seconds: float


class Batches(Iterator[Batch], Protocol):
    """An endless iterator whose place can be stored; grain's is one."""

    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


class Program(NamedTuple):
    """The compiled update `(state, batch) -> (state, loss)`, its cost, and the devices that it splits batches over.

    Of several lanes, arrays of state, batch and loss have a first axis for them.
    """

    update: Callable[[Any, Batch], tuple[Any, jax.Array]]
    cost: Cost
    over: Mesh
    lanes: int = 1


class Fit(NamedTuple):
    """The outcome of `fit`. `program` can serve other trainings of the same shapes, whatever seed and learning rate."""

    params: Params
    statistics: Statistics
    history: History
    program: Program

    @property
    def cost(self) -> Cost:
        """One training's share, where several share a step."""
        cost, lanes = self.program.cost, self.program.lanes
        return Cost(cost.operations / lanes, cost.temporary_bytes // lanes, cost.compile_seconds / lanes)


class Lane(NamedTuple):
    """One of the trainings that take their steps together: the same network and method with other seeds.

    Attributes:
      params, statistics, batches, validate, progress, log: as `fit` takes them.
      folder: for the file that tells of its divergence; None stores nothing.
    """

    params: Params
    statistics: Statistics
    batches: Batches
    validate: Callable[[Params, Statistics], dict[str, float]]
    progress: Callable[[int, float], None] = lambda step, loss: None
    log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None
    folder: Path | None = None


def fit(
    params: Params,
    statistics: Statistics,
    loss: Loss,
    batches: Batches,
    options: Options,
    *,
    folder: Path | None,
    validate: Callable[[Params, Statistics], dict[str, float]],
    progress: Callable[[int, float], None] = lambda step, loss: None,
    log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
    program: Program | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
) -> Fit:
    """Trains `params`, going on from the checkpoint in `folder` if there is one.

    A checkpoint holds parameters, optimizer, history and the place in `batches`. It is written at every validation,
    every `checkpoint_every` seconds, and when Ctrl-C or SIGTERM stops the run, so that a run that was stopped, or
    killed at any moment, ends with the same numbers as one that was not.

    Args:
      params: first values of what is trained.
      statistics: first values of what the forward pass keeps account of (batch normalization's averages), and of what
        it uses without training it.
      loss: `(params, statistics, batch)` to a scalar and the new statistics; parameters arrive in `options.precision`.
      batches: what to train on; of several processes each has its rows of every batch.
      options: how.
      folder: for the checkpoint; None stores nothing.
      validate: measures of parameters and statistics, entered into the history with the step.
      progress: told the step number and loss after each step.
      log: told the step number and the figures of each step, and of each validation.
      program: of an earlier training with the same loss, shapes and options but for the learning rate, used again
        rather than compiled anew.
      checkpoint_every: seconds after which a checkpoint is written, whatever the step; a kill loses no more.

    Raises:
      KeyboardInterrupt: after Ctrl-C, or SIGTERM (`interruption.Terminated`), once the checkpoint is written.
      Diverged: the loss is not finite, or was when this was trained before; the state is stored beside the checkpoint,
        which stays.
      checkpoints.Damaged: the checkpoint cannot be trusted.
      OSError: it cannot be written; the one before it stays.
    """
    before = folder and divergence(folder)
    if before:
        raise Diverged(before["step"], float(before["loss"]), History())
    lane = Lane(params, statistics, batches, validate, progress, log, folder)
    (found,) = fit_together([lane], loss, options, program=program, checkpoint_every=checkpoint_every)
    if isinstance(found, Diverged):
        raise found
    return found


def fit_together(
    lanes: Sequence[Lane],
    loss: Loss,
    options: Options,
    *,
    program: Program | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
) -> list[Fit | Diverged]:
    """Trains several lanes step by step together, in one program: `fit` for each, to rounding.

    One checkpoint, in the folder of the first lane, holds them all. A lane that diverges does not keep the others from
    going on.

    Returns:
      What became of each lane.

    Raises:
      KeyboardInterrupt, checkpoints.Damaged, OSError: as `fit`.
    """
    optimizer, count = _optimizer(options), len(lanes)
    state = _stacked([(lane.params, lane.statistics, optimizer.init(lane.params)) for lane in lanes])
    histories, lost = [History() for _ in lanes], dict[int, Diverged]()
    step = 0
    marks = {round(options.steps * (i + 1) / options.validations) for i in range(options.validations)}
    if program is None:
        places = [lane.batches.get_state() for lane in lanes]
        program = _compile(loss, optimizer, options, state, _next(lanes), count)
        for lane, place in zip(lanes, places, strict=True):
            lane.batches.set_state(place)
    over = program.over
    path = lanes[0].folder and lanes[0].folder / CHECKPOINT
    if path is not None and path.exists():
        found = _restore(path, state)
        # Where a lane is to be trained anew that is lost in the checkpoint, so are all.
        if all((folder := lanes[i].folder) and divergence(folder) for i in found.lost):
            state, histories = found.state, found.histories
            step = max(len(history.loss) for history in histories)
            for i in found.lost:
                lost[i] = Diverged(len(histories[i].loss), histories[i].loss[-1], histories[i])
            for lane, place in zip(lanes, found.batches, strict=True):
                lane.batches.set_state(place)
    state = devices.everywhere(state, over)
    with interruption.deferred() as interrupted:
        stored = time.monotonic()

        def here(i: int) -> Any:
            """The state of a lane, as it is now."""
            return _lane(devices.here(state), i, count)

        while step < options.steps and len(lost) < count:
            batch = devices.spread(_next(lanes), over, rows=_rows(count))
            start = time.perf_counter()
            state, value = program.update(state, batch)
            values = np.asarray(value).reshape(count)  # waits for the step
            seconds = (time.perf_counter() - start) / count
            step += 1
            for i, (lane, history) in enumerate(zip(lanes, histories, strict=True)):
                if i in lost:
                    continue
                value = float(values[i])
                if history.loss:
                    history.seconds.append(seconds)
                history.loss.append(value)
                lane.progress(step, value)
                lane.log(step, {"loss": value, "seconds": seconds})
                # What the last step broke, no loss would tell.
                broken = step == options.steps and not _all_finite(here(i)[0])
                if not np.isfinite(value) or broken:
                    _note_divergence(lane, step, value, here(i), history)
                    lost[i] = Diverged(step, value, history)
                elif step in marks:
                    measured = lane.validate(*here(i)[:2])
                    history.validation.append({"step": step, **measured})
                    lane.log(step, {f"validation/{name}": measure for name, measure in measured.items()})
            stop = interrupted()
            stopping = devices.any_of(stop is not None)  # by all processes after the same step
            if len(lost) < count and (step in marks or stopping or time.monotonic() - stored > checkpoint_every):
                _save(path, devices.here(state), histories, lanes, lost)
                stored = time.monotonic()
            if stopping:
                raise stop or interruption.Terminated
    return [lost[i] if i in lost else Fit(*here(i)[:2], history, program) for i, history in enumerate(histories)]


def _stacked(trees: Sequence[Any]) -> Any:
    """Trees of arrays as one with an axis for them; one alone as it is."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _lane(tree: Any, i: int, count: int) -> Any:
    """One of the trees that `_stacked` made one of."""
    return tree if count == 1 else jax.tree.map(lambda leaf: leaf[i], tree)


def _next(lanes: Sequence[Lane]) -> Batch:
    batches = [next(lane.batches) for lane in lanes]
    return batches[0] if len(lanes) == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _rows(lanes: int) -> int:
    """The axis of a batch's rows."""
    return 0 if lanes == 1 else 1


def _all_finite(params: Params) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))


def _optimizer(options: Options) -> optax.GradientTransformation:
    warm_up = max(1, options.steps // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, warm_up, max(options.steps, warm_up + 1))
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, *options.betas, weight_decay=options.weight_decay),
        _times(options.learning_rate),
    )


def _times(rate: float) -> optax.GradientTransformation:
    """Updates times a number that is part of the state: one compiled update serves every learning rate."""

    def update(updates, rate, params=None):
        return jax.tree.map(lambda u: u * rate, updates), rate

    return optax.GradientTransformation(lambda params: jnp.float32(rate), update)


def _compile(loss: Loss, optimizer, options: Options, state, batch, lanes: int) -> Program:
    """Compiles the update ahead, so that its cost is known."""

    def update(state, batch):
        params, statistics, memory = state

        def cast_loss(params, statistics):
            return loss(cast(params, options.precision), statistics, batch)

        (value, statistics), gradient = jax.value_and_grad(cast_loss, has_aux=True)(params, statistics)
        updates, memory = optimizer.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), statistics, memory), value

    start, axis = time.perf_counter(), _rows(lanes)
    over = devices.mesh(jax.tree.leaves(batch)[0].shape[axis] * jax.process_count())
    whole, rows = devices.replicated(over), devices.split(over, axis)
    how = {} if over.size == 1 else {"in_shardings": (whole, rows), "out_shardings": whole}
    arguments = devices.everywhere(state, over), devices.spread(batch, over, rows=axis)
    updates = update if lanes == 1 else jax.vmap(update)
    compiled = jax.jit(updates, donate_argnums=0, **how).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    analysis, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    temporaries = 0 if memory is None else int(memory.temp_size_in_bytes)
    return Program(compiled, Cost(float(analysis.get("flops", float("nan"))), temporaries, seconds), over, lanes)


def cast(params: Params, precision: Precision) -> Params:
    """The floating arrays of `params` in `precision`."""

    def to(leaf: jax.Array) -> jax.Array:
        return leaf.astype(precision) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(to, params)


def dtype_of(params: Params) -> jnp.dtype:
    """What the parameters are in, and are to be computed in."""
    return jax.tree.leaves(params)[0].dtype


class _Stored(NamedTuple):
    """What a checkpoint holds; of a lane that diverged, whose number is in `lost`, the history until then."""

    state: Any
    histories: list[History]
    batches: list[Any]
    lost: list[int]


def _save(
    path: Path | None, state, histories: Sequence[History], lanes: Sequence[Lane], lost: Iterable[int] = ()
) -> None:
    if path is not None:
        place = {
            "histories": [asdict(history) for history in histories],
            "batches": [lane.batches.get_state() for lane in lanes],
            "lost": sorted(lost),
        }
        checkpoints.save(path, state, place)


def _restore(path: Path, state) -> _Stored:
    state, place = checkpoints.load(path, state)
    histories = [History(**history) for history in place.pop("histories")]
    return _Stored(state, histories, **place)


def _note_divergence(lane: Lane, step: int, loss: float, state, history: History) -> None:
    """Stores what there is to look into: how the loss went, and the state it ended in."""
    if lane.folder is not None:
        _save(lane.folder / "diverged.npz", state, [history], [lane])
        files.write_json(lane.folder / DIVERGED, {"step": step, "loss": repr(loss), "losses": history.loss})


def divergence(folder: Path) -> dict[str, Any] | None:
    """What is stored of a training that diverged in `folder`: its step, and its last loss as text; None if it did not.

    Raises:
      checkpoints.Damaged: it cannot be read.
    """
    path = folder / DIVERGED
    if not path.exists():
        return None
    try:
        found = files.read_json(path)
        return {"step": int(found["step"]), "loss": str(found["loss"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise checkpoints.Damaged(f"{path}: damaged ({error}).") from error
