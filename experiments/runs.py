"""A run's folder: made once, never written over, and found again by a run that goes on."""

import contextlib
import errno
import json
import os
import platform
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None

import jax

from experiments import files
from experiments.data import Dataset, refuse_other

_CONFIG, _DATA = "config.json", "data.json"


def create(out: Path | None, task: str, config: dict[str, Any], data: dict[str, Any] | None = None) -> Path:
    """Makes the folder of a new run and stores its configuration and the identity of its data in it.

    Without `out` the folder is `runs/TASK-DATE-TIME`.

    Raises:
      FileExistsError: `out` is there already.
      OSError: it cannot be written; nothing is left behind.
    """
    folder = out or Path("runs") / f"{task}-{datetime.now():%Y%m%d-%H%M%S}"
    refuse_existing(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True)
        if data is not None:
            files.write_json(folder / _DATA, data)
        files.write_json(folder / _CONFIG, {"task": task, **config})
    except BaseException:
        (folder / _DATA).unlink(missing_ok=True)
        for place in made:
            if place.is_dir():
                place.rmdir()
        raise
    return folder.resolve()


class Stopped(Exception):
    """A run cannot go on, for a reason outside of it; the message says what is safe and what to do."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from the run in `folder`. The lock of a process that has died holds no more.

    Raises:
      Stopped: another process works on the run.
    """
    # On the file itself: a lock's own file would stay behind. It is never written anew.
    with _opened(folder / _CONFIG) as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Stopped(f"{folder}: another process is working on this run; wait for it, or stop it.") from None
            except OSError:
                pass  # a file system without locks
        yield


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb+")  # some network file systems lock what is open for writing only
    except OSError:
        return path.open("rb")


# What becomes of a machine, and not of this program.
_OUTSIDE = {
    *(errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.ENOTDIR),
    *(getattr(errno, name) for name in ("EDQUOT", "ESTALE", "EMFILE", "ENFILE", "ENODEV") if hasattr(errno, name)),
}


@contextlib.contextmanager
def told_how_to_go_on(folder: Path, command: str) -> Iterator[None]:
    """Within it a full or read-only disk, or the end of another process of the run, ends in one line, `Stopped`, which
    says what is safe and how to go on."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        told = str(error).splitlines()[0]
        raise Stopped(
            f"{told}. As a rule another process of the run has ended. Finished trainings and the last checkpoint are "
            f"safe. Go on with all processes: {command}"
        ) from error
    except OSError as error:
        if error.errno not in _OUTSIDE:
            raise
        where = f"{error.filename}: " if error.filename else f"{folder}: "
        raise Stopped(
            f"{where}{error.strerror}. Finished trainings and the last checkpoint are safe. When that is mended, go "
            f"on: {command}"
        ) from error


def refuse_existing(out: Path | None) -> None:
    """Raises FileExistsError if `out` is there: a run writes over nothing."""
    if out is not None and out.exists():
        raise FileExistsError(
            f"--out {out} is there already and nothing is written over. Give another --out, or go on with a stopped "
            f"run by --resume {out}."
        )


def stored_config(folder: Path, task: str) -> dict[str, Any]:
    """The configuration of the run in `folder`.

    Raises:
      FileNotFoundError: there is no run in it.
      ValueError: the run is of another task, or its configuration cannot be read.
    """
    found, config = _read(folder)
    if found != task:
        raise ValueError(f"{folder}: a run of {found}, not of {task}.")
    return config


def stored_task(folder: Path) -> str:
    """The name of the task of the run in `folder`; raises as `stored_config` does."""
    return _read(folder)[0]


def _read(folder: Path) -> tuple[str, dict[str, Any]]:
    path = folder / _CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no run here (there is no {path.name}).")
    try:
        config = files.read_json(path)
        return config.pop("task"), config
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not the configuration of a run ({error}).") from error


def refuse_other_data(folder: Path, found: Dataset) -> None:
    """Raises ValueError if the data of the run in `folder` have changed since it began."""
    path = folder / _DATA
    try:
        stored = files.read_json(path)
        refuse_other(stored, found, str(folder))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: what the run stored of its data cannot be read ({error!r}).") from error


def job_folder(folder: Path, design: str, method: str, seed: int) -> Path:
    """Where one training keeps its checkpoints, predictions and figures."""
    return folder / design.replace(" ", "-") / method.replace(":", ".") / f"seed{seed}"


def machine() -> dict[str, Any]:
    """What the run's times were measured on."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cores": _cores(),
        "processor": _processor(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
