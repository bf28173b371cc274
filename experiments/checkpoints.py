"""Checkpoints: one file that is whole or absent, and is not read if a bit of it has changed."""

import hashlib
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import files

_PLACE, _DIGEST = "place", "digest"


# What reading a damaged archive, array or JSON may raise.
FAULTS = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, SyntaxError)
FAULTS += (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, MemoryError, struct.error)


class Damaged(ValueError):
    """A stored file that cannot be trusted; the message names it."""


def save(path: Path, state: Any, place: Any) -> None:
    """Writes a tree of arrays, and what JSON can hold, in place of the checkpoint that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: _stored(leaf) for name, leaf in _named(state).items()}
    arrays[_PLACE] = np.frombuffer(json.dumps(place).encode(), np.uint8)
    with files.atomic(path) as temporary:
        np.savez(temporary, **arrays, **{_DIGEST: np.array(_digest(arrays))})


def load(path: Path, like: Any) -> tuple[Any, Any]:
    """What `save` wrote.

    Args:
      path: the file.
      like: a tree of arrays of the structure, shapes and types that are expected.

    Raises:
      Damaged: the file is not what was written, or not of this training.
    """
    try:
        arrays = _trusted(path)
        place = json.loads(arrays.pop(_PLACE).tobytes())
        leaves = _named(like)
        if arrays.keys() != leaves.keys():
            raise ValueError(f"it is of another network: {min(arrays.keys() ^ leaves.keys())} is in one of them only")
        restored = [_restored(name, arrays[name], leaf) for name, leaf in leaves.items()]
    except FAULTS as error:
        raise Damaged(f"{path}: damaged ({error}).") from error
    return jax.tree.unflatten(jax.tree.structure(like), restored), place


def examine(path: Path) -> None:
    """Raises `Damaged` if a checkpoint is not what was written."""
    try:
        _trusted(path)
    except FAULTS as error:
        raise Damaged(f"{path}: damaged ({error}).") from error


def _trusted(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    digest = str(arrays.pop(_DIGEST))
    if digest != _digest(arrays):
        raise ValueError("its contents have changed")
    return arrays


def _named(tree: Any) -> dict[str, Any]:
    return {f"state{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _stored(leaf: Any) -> np.ndarray:
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    # NumPy's files know no bfloat16.
    return array if array.dtype.isbuiltin == 1 else array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _restored(name: str, array: np.ndarray, leaf: Any) -> Any:
    expected = _stored(leaf)
    if array.shape != expected.shape or array.dtype != expected.dtype:
        raise ValueError(f"{name} is {array.dtype}{array.shape}, not {expected.dtype}{expected.shape}")
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    return jnp.asarray(array.view(leaf.dtype))


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """Of names, types, shapes and values: the archive's own checksums cover values alone."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        found.update(repr((name, str(arrays[name].dtype), arrays[name].shape)).encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()
