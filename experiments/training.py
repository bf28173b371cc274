"""One training loop for every task: compiled step, checkpoints, and a stop that can be resumed to the same numbers."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

Params = Any
Statistics = Any
Batch = Any
Loss = Callable[[Params, Statistics, Batch], tuple[jax.Array, Statistics]]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
      steps: number of updates.
      learning_rate: reached after the first tenth of the steps, then lowered to zero along a cosine.
      weight_decay: AdamW's.
      precision: what forward and backward pass compute in. Parameters and their updates stay float32.
      validations: how often to validate, evenly spaced, the last time after the last step.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 1e-4
    precision: Precision = "float32"
    validations: int = 5


@dataclass
class History:
    """What happened: the loss of every step, the measures of every validation, and what the machine needed for it.

    `seconds` holds the time of each step but the first, in which the device allocates its memory.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


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
    """The compiled update `(state, batch) -> (state, loss)`, and its cost."""

    update: Callable[[Any, Batch], tuple[Any, jax.Array]]
    cost: Cost


class Fit(NamedTuple):
    """The outcome of `fit`. `program` can serve other trainings of the same shapes, whatever seed and learning rate."""

    params: Params
    statistics: Statistics
    history: History
    program: Program

    @property
    def cost(self) -> Cost:
        return self.program.cost


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
    program: Program | None = None,
) -> Fit:
    """Trains `params`, going on from the last checkpoint in `folder` if there is one.

    A checkpoint holds parameters, optimiser, history and the place in `batches`; it is written at every validation and
    when Ctrl-C stops the run, so that a run that was stopped ends with the same numbers as one that was not.

    Args:
      params: first values of what is trained.
      statistics: first values of what the forward pass keeps account of (batch normalization's averages), and of what
        it uses without training it.
      loss: `(params, statistics, batch)` to a scalar and the new statistics; parameters arrive in `options.precision`.
      batches: what to train on.
      options: how.
      folder: for the checkpoints, an absolute path; None for none.
      validate: measures of parameters and statistics, entered into the history with the step.
      progress: told the step number and loss after each step.
      program: of an earlier training with the same loss, shapes and options but for the learning rate, used again
        rather than compiled anew.

    Raises:
      KeyboardInterrupt: after Ctrl-C, once the checkpoint is written.
      FloatingPointError: the loss is not finite.
    """
    optimizer = _optimizer(options)
    state, history = (params, statistics, optimizer.init(params)), History()
    marks = {round(options.steps * (i + 1) / options.validations) for i in range(options.validations)}
    with _checkpoints(folder) as manager:
        if program is None:
            place = batches.get_state()
            program = _compile(loss, optimizer, options, state, next(batches))
            batches.set_state(place)
        step = (manager and manager.latest_step()) or 0
        if manager and step:
            state, history = _restore(manager, step, state, batches)
        with _interruptible() as interrupted:
            while step < options.steps:
                batch = next(batches)
                start = time.perf_counter()
                state, value = program.update(state, batch)
                value = float(value)  # waits for the step
                step += 1
                if history.loss:
                    history.seconds.append(time.perf_counter() - start)
                history.loss.append(value)
                progress(step, value)
                if not np.isfinite(value):
                    raise FloatingPointError(f"the loss is {value} at step {step}; try a lower --learning-rate.")
                if step in marks:
                    history.validation.append({"step": step, **validate(*state[:2])})
                if manager and (step in marks or interrupted()):
                    _save(manager, step, state, history, batches)
                if interrupted():
                    raise KeyboardInterrupt
    return Fit(*state[:2], history, program)


def _optimizer(options: Options) -> optax.GradientTransformation:
    warm_up = max(1, options.steps // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, warm_up, max(options.steps, warm_up + 1))
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=options.weight_decay),
        _times(options.learning_rate),
    )


def _times(rate: float) -> optax.GradientTransformation:
    """Updates times a number that is part of the state: one compiled update serves every learning rate."""

    def update(updates, rate, params=None):
        return jax.tree.map(lambda u: u * rate, updates), rate

    return optax.GradientTransformation(lambda params: jnp.float32(rate), update)


def _compile(loss: Loss, optimizer, options: Options, state, batch) -> Program:
    """Compiles the update ahead, so that its cost is known."""

    def update(state, batch):
        params, statistics, memory = state

        def cast_loss(params, statistics):
            return loss(cast(params, options.precision), statistics, batch)

        (value, statistics), gradient = jax.value_and_grad(cast_loss, has_aux=True)(params, statistics)
        updates, memory = optimizer.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), statistics, memory), value

    start = time.perf_counter()
    compiled = jax.jit(update, donate_argnums=0).lower(state, batch).compile()
    seconds = time.perf_counter() - start
    analysis, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    temporaries = 0 if memory is None else int(memory.temp_size_in_bytes)
    return Program(compiled, Cost(float(analysis.get("flops", float("nan"))), temporaries, seconds))


def cast(params: Params, precision: Precision) -> Params:
    """The floating arrays of `params` in `precision`."""

    def to(leaf: jax.Array) -> jax.Array:
        return leaf.astype(precision) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(to, params)


def _checkpoints(folder: Path | None) -> contextlib.AbstractContextManager[ocp.CheckpointManager | None]:
    if folder is None:
        return contextlib.nullcontext()
    return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=1))


def _save(manager: ocp.CheckpointManager, step: int, state, history: History, batches: Batches) -> None:
    place = {"history": asdict(history), "batches": batches.get_state()}
    manager.save(
        step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), place=ocp.args.JsonSave(place)), force=True
    )
    manager.wait_until_finished()


def _restore(manager: ocp.CheckpointManager, step: int, state, batches: Batches) -> tuple[Any, History]:
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    stored = manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes), place=ocp.args.JsonRestore())
    )
    batches.set_state(stored.place["batches"])
    return stored.state, History(**stored.place["history"])


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether Ctrl-C was pressed; a second Ctrl-C stops at once.

    Stopping between two steps rather than within one leaves a state that can be stored.
    """
    pressed = False

    def note(*_: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, previous)

    try:
        previous = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread, where Ctrl-C does not arrive either
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)
