"""The same functions compiled for accelerators: `python -m experiments benchmark --compiled v5e --group NAME`.

`programs` says what is compiled, `targets` compiles it for a machine that need not be there, `program` reads what came
out. The tables stand beside those of times, as GROUP-compiled-TARGET.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import console, files
from experiments.benchmarks.compiled import programs, targets
from experiments.benchmarks.compiled.notes import NOTES
from experiments.benchmarks.compiled.programs import GROUPS
from experiments.benchmarks.compiled.targets import TARGETS

__all__ = ["GROUPS", "SHARDING", "TARGETS", "check", "measure", "table"]

SHARDING = "sharding"  # all groups in small, for several devices

_DTYPES = (jnp.float32, jnp.bfloat16)
_GPU = (
    "Kernels: what one run starts. Traffic over need: bytes that kernels read and write, against arguments and results "
    "once."
)
_TPU = (
    "µs: what the schedule of the compiler estimates. Over need: that against the time in which the memory reads the "
    "arguments and writes the results once. The estimate is good to a factor of about three, and adding two arrays "
    "comes to 2.8 on v5e and 2.3 on v6e: compare rows, and do not quote them. It leaves out what the compiler gives no "
    "estimate for: gathers, scatters, changes of layout, reductions over windows. The bytes that pass through those, "
    "with the padding of their layouts, are in a column of their own. Not told: libtpu cannot write the program out."
)
_ALIKE = (
    "Temporaries, MB: memory beside arguments and results. Float32, MB: what is written in float32, which "
    "in half precision should be no map. Apart: what is not fused with others, and custom calls. "
    "Gathers and scatters are those that the compiler was given. Loops count once for every trip; where data decide "
    "about a loop or a branch, one trip, and the dearest branch. Compile: seconds of processors, all threads together."
)


def check(group: str, wanted: Sequence[str]) -> None:
    """Raises ValueError for a target or a group that is not known, or that nothing here compiles for."""
    if group not in (*GROUPS, SHARDING):
        raise ValueError(f"--group {group!r} has nothing to compile. Known: {', '.join((*GROUPS, SHARDING))}.")
    for target in wanted:
        if target not in TARGETS:
            raise ValueError(f"--compiled {target!r} is not known. Known: {', '.join(TARGETS)}.")
        reason = targets.missing(target)
        if reason is not None:
            raise ValueError(f"--compiled {target}: {reason}.")


def measure(group: str, target: str, only: Sequence[str], names: Sequence[str], out: Path | None) -> None:
    """Compiles the programs of a group for a target, and writes the table to the folder, if there is one.

    A part of a group takes the place of its own rows where the same compilers made the table that is there.
    """
    jax.config.update("jax_platforms", "cpu")  # or jax looks for a GPU to go with the plug-in
    machine = targets.versions(target)
    path = None if out is None else out / f"{group}-compiled-{target}"
    rows = {} if path is None or not (only or names) else _table(path, machine)
    made = 0
    head, cells = _columns(group, target)
    for row in _rows(group, target, only, names) if group != SHARDING else _sharding_rows(target, only, names):
        made, rows[row["name"]] = made + 1, row
        words = (f"{word} {cell}" for word, cell in zip(head, cells(row["figures"]), strict=True))
        console.say(f"{target} {row['name']}: {', '.join(words)}")
        if path is not None:
            # After every row: a group can take an hour.
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(path.with_name(path.name + ".json"), {"compilers": machine, "rows": list(rows.values())})
            files.write_text(path.with_name(path.name + ".md"), table(group, target, machine, list(rows.values())))
    if not made:
        console.say(f"no program of {group} has a name with {' '.join(only)}")
    elif path is not None:
        console.say(f"Table: {path}.md")


def _table(path: Path, machine: Mapping[str, str]) -> dict[str, Any]:
    """The rows that stand there by name, if these compilers made them."""
    source = path.with_name(path.name + ".json")
    table = json.loads(source.read_text()) if source.exists() else {"compilers": None}
    return {row["name"]: row for row in table["rows"]} if table["compilers"] == machine else {}


def _rows(group: str, target: str, only: Sequence[str], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    # Layers are made of the other groups' functions, and take longest to compile.
    for dtype in _DTYPES[: 1 if group == "layers" else None]:
        for program in programs.programs(group, names):
            made = program.in_dtype(dtype)
            if dtype != jnp.float32 and made.arguments == program.arguments:
                continue
            for gradient in (False, True)[: 1 + (program.wanted > 0)]:
                for peer, function in ((False, made.function), (True, made.peer)):
                    name = made.name + ", with gradient" * gradient + ", the peer" * peer
                    if function is None or not all(word in name for word in only):
                        continue
                    call, arguments = made.with_gradient(function) if gradient else (function, made.arguments)
                    try:
                        figures = targets.compile_for(target, call, *arguments)
                    except jax.errors.JaxRuntimeError:
                        if not peer:
                            raise
                        figures = None  # the compiler itself fails
                    except targets.UnreadableError:
                        figures = {}
                    yield {"name": name, "figures": figures}


def _head(target: str) -> list[str]:
    first = (
        ["µs", "over need", "without estimate, MB"] if TARGETS[target].topology else ["kernels", "traffic over need"]
    )
    return [*first, "temporaries, MB", "float32, MB", "gathers", "scatters", "loops", "apart", "compile, s"]


def _cells(target: str, figures: Mapping[str, Any] | None) -> list[str]:
    if not figures:
        return ["does not compile" if figures is None else "not told", *[""] * (len(_head(target)) - 1)]
    if TARGETS[target].topology:
        first = [f"{figures['microseconds']:.0f}", f"{figures['ratio']:.1f}", f"{figures['unestimated'] / 1e6:.1f}"]
    else:
        first = [str(figures["kernels"]), f"{figures['ratio']:.2f}"]
    apart = sorted((figures["apart"] | figures["collectives"]).items(), key=lambda item: -item[1])
    return [
        *first,
        f"{figures['temporaries'] / 1e6:.2f}",
        f"{figures['float32'] / 1e6:.2f}",
        str(figures["gathers"]),
        str(figures["scatters"]),
        " ".join("?" if n is None else str(n) for n in figures["loops"]),
        ", ".join(f"{count} {kind}" for kind, count in apart),
        f"{figures['compile_seconds']:.1f}",
    ]


def _sharding_rows(target: str, only: Sequence[str], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for shape, axis, words in ((programs.SMALL, 0, ""), (programs.ONE_IMAGE, 1, ", rows cut")):
        for group in GROUPS:
            for program in programs.programs(group, names, shape):
                name = program.name + words
                if not all(word in name for word in only):
                    continue
                call, arguments, shared = program.function, program.arguments, program.shared
                if program.wanted:
                    call, arguments = program.with_gradient(program.function)
                    shared = None if shared is None else shared + 1  # the cotangent is first
                whole = () if shared is None else (shared,)
                figures = targets.collectives_for(
                    target, call, *arguments, devices=programs.DEVICES, axis=axis, shared=whole
                )
                yield {"name": name, "figures": figures}


_HEAD_SHARDING = ["collectives", "exchanged, kB"]


def _cells_sharding(figures: Mapping[str, Any]) -> list[str]:
    kinds = sorted(figures["collectives"].items(), key=lambda item: -item[1])
    return [", ".join(f"{count} {kind}" for kind, count in kinds) or "none", f"{figures['exchanged'] / 1e3:.2f}"]


def _text(group: str, target: str, machine: Mapping[str, str]) -> list[str]:
    """What stands above a table."""
    compilers = "Compiled by " + ", ".join(f"{name} {version}" for name, version in machine.items()) + "."
    if group == SHARDING:
        return [
            f"Small programs compiled for {programs.DEVICES} devices of {target}, of which each holds one image of the "
            "batch or, where rows are cut, an eighth of the rows of one image; all hold the parameters. Nothing ran. "
            "Functions and layers with their gradients, metrics without.",
            "",
            compilers,
            "",
            "Exchanged: the results of all collectives on one device. The gradients of parameters are added up over "
            "devices. What else is of images: the few numbers that say how long the distance transform's loops run, "
            "and which form samplers and, but on a GPU, joint bilateral take, since the data of all images decide.",
            "",
            "Of rows that are cut neighbors exchange what windows reach beyond a cut, by collective-permute, and "
            "normalizations add up sums. Maps are gathered where data decide which pixels are read, by samplers, "
            "max-unpooling and the layers made of them; and by attention to all pixels, JAFAR's and LoftUp's. Metrics "
            "gather the lengths that they sort. Where images are a multiple of the devices each is taken to hold some "
            "of its own: rows that are cut all the same are gathered by attention whose windows move inward, and by "
            "what is computed by tiles of rows.",
        ]
    tpu = bool(TARGETS[target].topology)
    return [
        f"The group {group}, compiled for {target}; nothing ran. With gradient: the value, and the gradients of all "
        "arguments. The peer: `jax.image.resize`, `jax.lax.conv_transpose`.",
        "",
        compilers,
        "",
        _TPU if tpu else _GPU,
        _ALIKE,
        "",
        f"What the compiler makes of it, and what was tried, with figures of {'v5e' if tpu else 'h100'}:",
        "",
        *(f"- {note}" for note in NOTES[group][tpu]),
    ]


def _columns(group: str, target: str) -> tuple[list[str], Callable[[Any], list[str]]]:
    """The heads of a table's columns, and what makes a row's cells of its figures."""
    if group == SHARDING:
        return _HEAD_SHARDING, _cells_sharding
    return _head(target), functools.partial(_cells, target)


def table(group: str, target: str, machine: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown of a table, of what is stored beside it."""
    head, cells = _columns(group, target)
    lines = [
        *_text(group, target, machine),
        "",
        "| program | " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * len(head),
        *(f"| {row['name']} | " + " | ".join(cells(row["figures"])) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"
