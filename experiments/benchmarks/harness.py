"""Fair timing: every contender warmed up, then run in turns, so that what disturbs the machine disturbs all alike."""

import ctypes
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import files

_LEAST, _MOST = 3, 100  # repetitions
_PAUSE = 0.005  # seconds before each run, in which the threads of the contender before stop waiting for work


@dataclass(frozen=True)
class Contender:
    """One way of doing it.

    Attributes:
      run: does it once and waits for the result.
      compile_seconds, temporary_bytes: what XLA needed, None for others.
    """

    run: Callable[[], Any]
    compile_seconds: float | None = None
    temporary_bytes: int | None = None


@dataclass(frozen=True)
class Case:
    """One task, done by several contenders; the first is ours, the others are held against it.

    Attributes:
      name: what the task is.
      contenders: the contenders by name, or a function that makes them when it is the case's turn.
    """

    name: str
    contenders: Mapping[str, Contender] | Callable[[], Mapping[str, Contender]]

    def made(self) -> Mapping[str, Contender]:
        """The contenders."""
        return self.contenders() if callable(self.contenders) else self.contenders


def keep_memory() -> None:
    """Makes this process keep the memory that it frees, where its C library can be told to.

    Otherwise every large result is new memory, which the system clears page by page as it is first written: the same
    for all contenders, and with large results more than their own work. To be called before JAX is first used: threads
    that have begun keep memory of their own.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        trim_threshold, mmap_max, arena_max = -1, -4, -8
        for option, value in ((trim_threshold, 2**31 - 1), (mmap_max, 0), (arena_max, 1)):
            set_option(option, value)


def compiled(function: Callable, *arguments: Any) -> Contender:
    """A JAX function compiled for these arguments, on the default device."""
    arguments = jax.device_put(arguments)
    start = time.perf_counter()
    executable = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    return Contender(
        run=lambda: jax.block_until_ready(executable(*arguments)),
        compile_seconds=seconds,
        temporary_bytes=None if memory is None else int(memory.temp_size_in_bytes),
    )


def with_gradient(function: Callable, arguments: int | Sequence[int] = 0) -> Callable:
    """The function together with its pull-back of a cotangent, which is the last argument: `(value, gradients)`."""
    wanted = (arguments,) if isinstance(arguments, int) else tuple(arguments)

    @functools.wraps(function)
    def both(*given: Any) -> tuple[Any, Any]:
        *inputs, cotangent = given

        def of(*changing: Any) -> Any:
            filled = list(inputs)
            for place, value in zip(wanted, changing, strict=True):
                filled[place] = value
            return function(*filled)

        value, pull_back = jax.vjp(of, *(inputs[i] for i in wanted))
        return value, pull_back(cotangent)

    return both


def fastest(contenders: Mapping[str, Contender], name: str) -> dict[str, Contender]:
    """The quickest of several ways of one peer (channels first or last, say), under one name."""
    best = min(contenders.values(), key=lambda contender: min(_time(contender.run) for _ in range(_LEAST)))
    return {name: best}


def measure(case: Case, seconds: float = 2.0) -> dict[str, Any]:
    """Times a case's contenders in turns.

    Returns:
      `name`, and for each contender milliseconds (`median`, `low` and `high` quartile, `least`), `compile_seconds`,
      `temporary_bytes`, `ratio`, our median over its, and `ratio_of_least`, our least time over its: what others on
      the machine disturb less.
    """
    contenders = case.made()
    once = {name: min(_time(c.run) for _ in range(2)) for name, c in contenders.items()}
    repetitions = int(np.clip(seconds / sum(once.values()), _LEAST, _MOST))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repetitions):
        for name, contender in contenders.items():
            time.sleep(_PAUSE)
            times[name].append(_time(contender.run))
    ours, our_least = (float(of(next(iter(times.values())))) for of in (np.median, min))
    figures = {}
    for name, contender in contenders.items():
        low, median, high = (1000 * float(q) for q in np.percentile(times[name], (25, 50, 75)))
        figures[name] = {
            "median": median,
            "low": low,
            "high": high,
            "least": 1000 * min(times[name]),
            "ratio": 1000 * ours / median,
            "ratio_of_least": our_least / min(times[name]),
            "compile_seconds": contender.compile_seconds,
            "temporary_bytes": contender.temporary_bytes,
        }
    return {"name": case.name, "repetitions": repetitions, "contenders": figures}


def _time(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def line(row: Mapping[str, Any]) -> str:
    """A row in words, for the terminal."""
    parts = [f"{name} {f['median']:.2f} ms" for name, f in row["contenders"].items()]
    ratios = [f"{f['ratio']:.2f} of {name}" for name, f in list(row["contenders"].items())[1:]]
    return f"{row['name']}: {', '.join(parts)}; {', '.join(ratios)}"


def summary(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """For each peer the geometric mean and the worst of the ratios."""
    ratios: dict[str, list[tuple[float, float, str]]] = {}
    for row in rows:
        for name, figures in list(row["contenders"].items())[1:]:
            ratios.setdefault(name, []).append((figures["ratio"], figures["ratio_of_least"], row["name"]))
    lines = []
    for name, cells in ratios.items():
        worst, _, where = max(cells)
        medians, leasts = [ratio for ratio, _, _ in cells], [least for _, least, _ in cells]
        lines.append(
            f"- against {name}: geometric mean {_mean(medians):.2f}, worst {worst:.2f} ({where}), "
            f"{sum(ratio <= 1 for ratio in medians)} of {len(cells)} cells at or ahead of it; "
            f"of the least times: geometric mean {_mean(leasts):.2f}, worst {max(leasts):.2f}"
        )
    return lines


def _mean(ratios: Iterable[float]) -> float:
    return math.exp(float(np.mean([math.log(ratio) for ratio in ratios])))


def write(path: Path, description: str, rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> None:
    """Writes PATH.json and PATH.md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path.with_name(path.name + ".json"), {"machine": machine, "rows": rows})
    files.write_text(path.with_name(path.name + ".md"), _markdown(description, rows, machine))


def _markdown(description: str, rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    peers = list(dict.fromkeys(name for row in rows for name in list(row["contenders"])[1:]))
    ours = next(iter(rows[0]["contenders"]))
    head = ["case", f"{ours}, ms (quartiles)", *(f"{p}, ms" for p in peers), *(f"{ours} / {p}" for p in peers)]
    head += ["temporaries, MB", "compile, s", *(f"{p}, compile, s" for p in peers if _compiles(rows, p))]
    lines = [
        description,
        "",
        "Measured on " + ", ".join(f"{key} {value}" for key, value in machine.items()) + ".",
        "Medians of interleaved repetitions in one process, which keeps the memory that it frees; "
        "a ratio below 1 means ours is faster.",
        "",
        *summary(rows),
        "",
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * (len(head) - 1),
    ]
    for row in rows:
        mine, others = row["contenders"][ours], row["contenders"]
        cells = [row["name"], f"{mine['median']:.2f} ({mine['low']:.2f} to {mine['high']:.2f})"]
        cells += [f"{others[p]['median']:.2f}" if p in others else "" for p in peers]
        cells += [f"{others[p]['ratio']:.2f}" if p in others else "" for p in peers]
        cells.append("" if mine["temporary_bytes"] is None else f"{mine['temporary_bytes'] / 1e6:.2f}")
        cells.append(_seconds(mine))
        cells += [_seconds(others.get(p)) for p in peers if _compiles(rows, p)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _compiles(rows: Sequence[Mapping[str, Any]], peer: str) -> bool:
    return any(row["contenders"].get(peer, {}).get("compile_seconds") is not None for row in rows)


def _seconds(figures: Mapping[str, Any] | None) -> str:
    return "" if figures is None or figures["compile_seconds"] is None else f"{figures['compile_seconds']:.2f}"
