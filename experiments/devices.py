"""Many devices, on one machine or several: every batch is split over all of them, and parameters are on each.

Each process computes its rows of a batch and sees all of the results. The first process alone writes the run's folder:
the others begin from a copy of it, do the same and keep it to themselves, so that no disk need be shared. Gradients,
batch statistics and losses are those of the whole batch, as on one device, but for rounding.

How long a step takes on n devices can be estimated on paper: see `step_time`.
"""

import atexit
import contextlib
import functools
import io
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")
_AXIS = "batch"


def initialize(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the processes of a run, if there are several; to be called before anything is computed.

    By the three arguments, or by what SLURM, Open MPI or a cluster of TPUs (GKE, Cloud TPU) say in the environment.

    Raises:
      ValueError: some of the arguments without the others.
    """
    given = (coordinator, processes, process)
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise ValueError("--coordinator, --processes and --process go together; give all three or none.")
        if not 0 <= process < processes:
            raise ValueError(f"--process {process}: must be from 0 to {processes - 1}, as --processes is {processes}.")
    elif not _is_one_of_several():
        return
    if jax.distributed.is_initialized():
        return
    # SIGTERM is ours: it makes a checkpoint.
    with contextlib.suppress(AttributeError):
        jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(coordinator, processes, process)


def _is_one_of_several() -> bool:
    """Whether the environment says that this process is one of several that were started together."""
    found = os.environ
    # srun's step, not the allocation around an interactive shell.
    slurm = "SLURM_PROCID" in found and int(found.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    mpi = int(found.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    tpus = "," in found.get("TPU_WORKER_HOSTNAMES", "")  # GKE and Cloud TPU
    return slurm or mpi or tpus


def part() -> tuple[int, int]:
    """This process's number, and how many there are."""
    return jax.process_index(), jax.process_count()


def is_first() -> bool:
    """Whether this process writes the run's folder and speaks."""
    return jax.process_index() == 0


def mesh(batch: int) -> Mesh:
    """The devices that a batch is split over: all of them; on one machine as many as divide it.

    Raises:
      ValueError: the devices of several processes do not divide the batch.
    """
    devices = jax.devices()
    if jax.process_count() > 1:
        if batch % len(devices):
            raise ValueError(f"--batch {batch}: must be a multiple of the {len(devices)} devices of all processes.")
        return Mesh(np.array(devices), (_AXIS,))
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    return Mesh(np.array(devices[:count]), (_AXIS,))


def replicated(devices: Mesh) -> NamedSharding:
    """On each device the whole."""
    return NamedSharding(devices, PartitionSpec())


def split(devices: Mesh, axis: int = 0) -> NamedSharding:
    """On each device its part of an axis."""
    return NamedSharding(devices, PartitionSpec(*[None] * axis, _AXIS))


def everywhere(tree: Tree, devices: Mesh) -> Tree:
    """Arrays that all processes have, on each device."""
    return tree if devices.size == 1 else jax.device_put(tree, replicated(devices))


def spread(batch: Tree, devices: Mesh, rows: int = 0) -> Tree:
    """A batch of which this process has its rows, along the axis `rows`, split over the devices."""
    if devices.size == 1:
        return batch
    sharding = split(devices, rows)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)


def here(tree: Tree) -> Tree:
    """What is on each device, as arrays of this process's first one."""
    return jax.tree.map(lambda x: x.addressable_data(0) if len(x.sharding.device_set) > 1 else x, tree)


def leave() -> None:
    """Ends this process at once, with status 1, where it is one of several: at its end it would wait for the others,
    of which one may have ended or not know that this one does."""
    if jax.process_count() > 1:
        _remove_copies()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(np.any(multihost_utils.process_allgather(np.array(flag)))) if jax.process_count() > 1 else flag


def step_time(
    devices: int, *, alone: float, parameters: float, bandwidth: float, latency: float, overhead: float = 0.0
) -> float:
    """Seconds of a step whose batch is split over `devices`, a model on paper.

        alone / n + overhead + 2 (n - 1) / n * parameters / bandwidth + 2 (n - 1) * latency

    Each device computes its rows; then gradients are summed around a ring: 2 (n - 1) messages, each of an n-th of them.
    That sums and computing overlap in part is left out, so it is an upper bound where links are as fast as told.

    Args:
      devices: n.
      alone: seconds of a step on one device.
      parameters: bytes of all gradients.
      bandwidth: bytes per second of the slowest link of the ring.
      latency: seconds of a message.
      overhead: seconds of a step that do not shrink: starting kernels, the host's part.

    Example: 31 MB of gradients, a step of 400 ms on one device, 2 ms of overhead; eight devices by links of 300 GB/s
    and 2 us, more of them by a network of 25 GB/s and 10 us. Milliseconds, and how well the devices are used:

    >>> for n in (8, 16, 32, 64, 128, 256):
    ...     link = {"bandwidth": 300e9, "latency": 2e-6} if n <= 8 else {"bandwidth": 25e9, "latency": 10e-6}
    ...     seconds = step_time(n, alone=0.4, parameters=31e6, overhead=2e-3, **link)
    ...     print(f"{n:>3} devices: {1000 * seconds:4.1f} ms, {0.4 / n / seconds:3.0%}")
      8 devices: 52.2 ms, 96%
     16 devices: 29.6 ms, 84%
     32 devices: 17.5 ms, 71%
     64 devices: 12.0 ms, 52%
    128 devices: 10.1 ms, 31%
    256 devices: 11.1 ms, 14%

    Beyond some 64 devices so small a network waits for messages: more devices pay with larger batches only.
    """
    ring = 2 * (devices - 1) / devices * parameters / bandwidth + 2 * (devices - 1) * latency
    return alone / devices + overhead + (ring if devices > 1 else 0.0)


# --- evaluation -------------------------------------------------------------------------------------------------------


def over_rows(function: Callable[..., Tree], shared: Sequence[Any], rows: Sequence[Any]) -> Tree:
    """`function(*shared, *rows)`, whose result has a row for each row, with the rows split over this process's devices.

    `function` maps rows one by one; the last row fills up what the devices do not divide.
    """
    devices = jax.local_devices()
    if len(devices) == 1:
        return function(*shared, *rows)
    count, fill = len(rows[0]), -len(rows[0]) % len(devices)
    filled = [np.concatenate([row, np.repeat(row[-1:], fill, axis=0)]) for row in map(np.asarray, rows)]
    found = _on_each(function, len(shared), len(rows))(*jax.device_get(tuple(shared)), *filled)
    return jax.tree.map(lambda x: x[:count], jax.device_get(found))


@functools.lru_cache(maxsize=8)
def _on_each(function: Callable[..., Tree], shared: int, rows: int) -> Callable[..., Tree]:
    """The function, done by each device of this process for its rows."""
    local = Mesh(np.array(jax.local_devices()), (_AXIS,))
    whole, parts = (PartitionSpec(),) * shared, (PartitionSpec(_AXIS),) * rows
    return jax.jit(
        jax.shard_map(function, mesh=local, in_specs=(*whole, *parts), out_specs=PartitionSpec(_AXIS), check_vma=False)
    )


def in_turn(count: int, one: Callable[[int], Tree], like: Callable[[int], Tree]) -> list[Tree]:
    """`one(i)` for each i below `count`, each computed by one process and then known to all; `like` gives its shape."""
    index, processes = part()
    if processes == 1:
        return [one(i) for i in range(count)]
    own = {i: jax.device_get(one(i)) for i in range(index, count, processes)}
    found = []
    for i in range(count):
        mine = own[i] if i in own else jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), like(i))
        found.append(multihost_utils.broadcast_one_to_all(mine, is_source=i % processes == index))
    return found


# --- the folder -------------------------------------------------------------------------------------------------------


_copies: list[Path] = []


@atexit.register
def _remove_copies() -> None:
    while _copies:
        shutil.rmtree(_copies.pop(), ignore_errors=True)


def share(folder: Path | None) -> Path | None:
    """Gives the first process's folder to all others, who get the place of their copy; None if the first had none."""
    packed = _pack(folder) if is_first() and folder is not None else b""
    length = int(multihost_utils.broadcast_one_to_all(np.int64(len(packed))))
    if length == 0:
        return None
    data = np.frombuffer(packed, np.uint8) if is_first() else np.zeros(length, np.uint8)
    data = np.asarray(multihost_utils.broadcast_one_to_all(data))
    if is_first():
        return folder
    place = Path(tempfile.mkdtemp())
    _copies.append(place)
    with tarfile.open(fileobj=io.BytesIO(data.astype(np.uint8).tobytes())) as archive:
        archive.extractall(place, filter="data")
    return place / "run"


def _pack(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, "run", filter=lambda entry: None if _is_for_readers(entry.name) else entry)
    return buffer.getvalue()


def _is_for_readers(name: str) -> bool:
    """Whether a file is made of others."""
    return name.startswith(("run/figures", "run/tensorboard")) or name.endswith((".html", ".jsonl"))


@contextlib.contextmanager
def silent_but_first(say: Any) -> Iterator[None]:
    """Within it only the first process prints."""
    before, say.quiet = say.quiet, say.quiet or not is_first()
    try:
        yield
    finally:
        say.quiet = before
