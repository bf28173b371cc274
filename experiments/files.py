"""Files that are whole or absent: written under a temporary name, then renamed."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; on leaving without an error the file written there takes its place."""
    # The ending stays last: np.savez and matplotlib go by it.
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # or a power failure could leave a file that is named and empty
        os.replace(temporary, path)
    except BaseException:
        # What went wrong first is what the reader should hear of.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        # A path need not be UTF-8. What JSON cannot hold of it becomes an escape that JSON readers take back.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> Any:
    """Writes JSON that every reader takes: NaN, which JSON lacks, becomes null. Returns what a reader would find."""
    value = _plain(value)
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return value


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_sealed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Writes JSON with a digest of itself. Returns what a reader would find."""
    value = _plain(value)
    write_json(path, {**value, _SEAL: _seal(value)})
    return value


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote.

    Raises:
      ValueError: it has changed since, or is no JSON.
    """
    value = read_json(path)
    if value.pop(_SEAL) != _seal(value):
        raise ValueError("its contents have changed")
    return value


_SEAL = "digest"


def _seal(value: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
