"""Where the figures of a training go while it trains: files of JSON lines, TensorBoard, or any function of the user's.

A sink is a function that takes an `Entry`. To send a run to Weights & Biases:

    run = wandb.init(project="boundaries")
    study.run(config, sinks=[lambda e: run.log({f"{e.training}/{k}": v for k, v in e.metrics.items()})])
"""

import json
import os
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple


class Entry(NamedTuple):
    """The figures of one step.

    Attributes:
      training: design, method and seed, as `frozen/carafe/seed0`.
      step: the step they are of, from 1.
      metrics: `loss` and `seconds` of a step; `validation/NAME` after a validation.
    """

    training: str
    step: int
    metrics: Mapping[str, float]


Sink = Callable[[Entry], None]


class _FilePerTraining:
    """What both sinks are: they write to one file at a time, that of the training that an entry is of."""

    def __init__(self, folder: Path):
        self._folder, self._training = folder, ""
        self._file: Any = None

    def __call__(self, entry: Entry) -> None:
        if entry.training != self._training:
            self.close()
            self._training, self._file = entry.training, self._open(entry)
            self._begin(entry)
        self._add(entry)
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._training = None, ""

    def _open(self, entry: Entry) -> Any:
        raise NotImplementedError

    def _begin(self, entry: Entry) -> None:
        """Writes what stands before the first entry."""

    def _add(self, entry: Entry) -> None:
        raise NotImplementedError


class JsonLines(_FilePerTraining):
    """Writes every entry as a line of JSON into `steps.jsonl` of its training's folder.

    A training that goes on from a checkpoint does some steps again: their former lines are dropped first.
    """

    def _open(self, entry: Entry) -> IO[str]:
        path = self._folder / entry.training / "steps.jsonl"
        _keep_before(path, entry.step)
        return path.open("a", encoding="utf-8")

    def _add(self, entry: Entry) -> None:
        line = {"step": entry.step, **{k: v if abs(v) < float("inf") else None for k, v in entry.metrics.items()}}
        self._file.write(json.dumps(line) + "\n")


def _keep_before(path: Path, step: int) -> None:
    """Keeps the lines of the steps before `step`, and makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    kept = 0
    with path.open("rb+") as file:
        for line in file:
            try:
                if json.loads(line)["step"] >= step or not line.endswith(b"\n"):
                    break
            except (ValueError, KeyError):  # the last line of a run that was killed
                break
            kept += len(line)
        file.truncate(kept)


class TensorBoard(_FilePerTraining):
    """Writes TensorBoard's event files, one per training and session, below a folder: `tensorboard --logdir FOLDER`.

    An event file is a sequence of records: length, its checksum, bytes, their checksum (TFRecord). The bytes are the
    protocol buffer `tensorflow.Event`, of which wall_time, step, file_version, summary and session_log are written.
    """

    def _open(self, entry: Entry) -> IO[bytes]:
        place = self._folder / entry.training
        place.mkdir(parents=True, exist_ok=True)
        return (place / f"events.out.tfevents.{time.time_ns() // 1000}.{os.getpid()}").open("wb")

    def _begin(self, entry: Entry) -> None:
        self._write(_bytes(3, b"brain.Event:2"))
        # Steps that an earlier session did beyond its last checkpoint are done again: START purges them.
        self._write(_varint_field(2, entry.step) + _bytes(7, _varint_field(1, 1)))

    def _add(self, entry: Entry) -> None:
        values = b"".join(
            _bytes(1, _bytes(1, name.encode()) + _float_field(2, value)) for name, value in entry.metrics.items()
        )
        self._write(_varint_field(2, entry.step) + _bytes(5, values))

    def _write(self, event: bytes) -> None:
        event = _double_field(1, time.time()) + event
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))


# --- protocol buffers and checksums -----------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    pieces = []
    while value > 127:
        pieces.append(value & 127 | 128)
        value >>= 7
    return bytes([*pieces, value])


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _double_field(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _float_field(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _table() -> list[int]:
    """Of CRC-32C, the polynomial of Castagnoli."""
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """The checksum of TFRecord files.

    Example:

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def _checksum(data: bytes) -> bytes:
    """Masked, so that a checksum of data with checksums in it stays one."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
