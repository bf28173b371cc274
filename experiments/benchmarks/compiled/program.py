"""Reads the text of a program that XLA compiled, and counts what it launches, moves and loops over.

The text lists computations, one of them the entry. An instruction is one line, `%name = shape opcode(operands),
attributes`. What the entry lists is run one after the other; a `fusion` is one kernel whose computation it names, and
loops, branches and calls name the computations that they run.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator

from experiments.benchmarks.compiled import schedule

_BYTES = {
    "f64": 8,
    "s64": 8,
    "u64": 8,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "s4": 0.5,
}
_BYTES |= {"pred": 1, "s8": 1, "u8": 1, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](?:\{([\d,]*)(?::T\(([\d,]*)\))?)?")
_HEAD = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = ")
_WORDS = re.compile(r"(?<=kernel_metadata)=\{\n(.*)\n\}")  # of a kernel by hand, in lines of their own
_NAME = re.compile(r"%([\w.\-]+)")

# What takes no time: names for memory, and the ends of copies whose beginnings are counted.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
_FREE |= {"copy-done", "slice-done", "async-done", "async-update", "all-gather-done", "all-reduce-done"}
_FREE |= {"collective-permute-done", "opt-barrier"}
_FREE_CALLS = {"AllocateBuffer", "ConcatBitcast"}
_COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
_SLICES = {"slice", "dynamic-slice", "gather"}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern in the attributes, or None."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    @property
    def kind(self) -> str:
        """The opcode, or what a custom call calls."""
        target = self.attribute(r'custom_call_target="([^"]*)"') if self.opcode == "custom-call" else None
        return target or self.opcode.removesuffix("-start")


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one run of a program does; loops count once for every trip, a branch as its most expensive case.

    Attributes:
      kernels: operations started: kernels on a GPU.
      traffic: bytes that they read and write. Of an operand that is only sliced, what is sliced.
      cycles: those that the compiler's schedule estimates; TPU only.
      unestimated: bytes that operations without an estimate read and write, with the padding of their layout; TPU only.
      apart: how many operations of each kind stand apart, not fused with others.
    """

    kernels: float = 0
    traffic: float = 0
    cycles: float = 0
    unestimated: float = 0
    apart: Counter = dataclasses.field(default_factory=Counter)

    def __add__(self, other: "Costs") -> "Costs":
        sums = (getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self))
        return Costs(*sums)

    def times(self, trips: int) -> "Costs":
        """The costs of so many trips."""
        apart = Counter({kind: trips * count for kind, count in self.apart.items()})
        return Costs(*(trips * n for n in (self.kernels, self.traffic, self.cycles, self.unestimated)), apart)


class Program:
    """A compiled program.

    Args:
      text: of the program.
      by_hand: the cycles of a kernel by hand for a TPU, of its attributes, the bytes that it reads and writes, and how
        often loops are run in it whose length is not known.

    Attributes:
      computations: the instructions of each, by name; the entry's name is "ENTRY".
    """

    def __init__(self, text: str, by_hand: Callable[[str, float, float], float] | None = None):
        self._by_hand = by_hand
        text = _WORDS.sub(r"={\1}", text)
        self.computations: dict[str, list[Instruction]] = {}
        current: list[Instruction] = []
        for row in text.splitlines():
            head = _HEAD.match(row)
            if head:
                current = self.computations.setdefault("ENTRY" if head[1] else head[2], [])
            elif _LINE.match(row):
                current.append(_parse(row))
        self._of = {i.name: i for body in self.computations.values() for i in body}

    @functools.cached_property
    def costs(self) -> Costs:
        """What one run does."""
        return self._costs("ENTRY")

    @property
    def loops(self) -> list[int | None]:
        """The number of trips of every loop, None where the data decide."""
        return [self._trips(i) for i in self._all() if i.opcode == "while"]

    @property
    def collectives(self) -> Counter:
        """How many of each there are."""
        kinds = (i.opcode.removesuffix("-start") for i in self._all())
        return Counter(kind for kind in kinds if kind in _COLLECTIVES)

    @property
    def exchanged(self) -> float:
        """Bytes of the results of all collectives."""
        return sum(_size(i.shape) for i in self._all() if i.opcode.removesuffix("-start") in _COLLECTIVES)

    @property
    def custom_calls(self) -> Counter:
        """How many there are of each target, without those that only name memory."""
        kinds = (i.kind for i in self._all() if i.opcode == "custom-call")
        return Counter(kind for kind in kinds if kind not in _FREE_CALLS)

    def written(self, dtype: str) -> float:
        """Bytes of this dtype that one operation or another writes to memory, each counted once."""
        bodies = {"ENTRY"} | {name for i in self._all() for name in _called(i) if i.opcode != "fusion"}
        instructions = (i for name in bodies for i in self.computations.get(name, ()) if i.opcode not in _FREE)
        loops = {"while", "conditional", "call"}
        return sum(_size(i.shape, dtype) for i in instructions if i.opcode not in loops)

    def _all(self) -> Iterator[Instruction]:
        for body in self.computations.values():
            yield from body

    def _trips(self, loop: Instruction) -> int | None:
        """As the compiler says; or, where it is silent, the constant that a counter from zero is compared with."""
        known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
        if known is not None:
            return int(known)
        condition = self.computations.get(loop.attribute(r"\bcondition=%([\w.\-]+)") or "", [])
        test = condition[-1] if condition else None
        if test is None or test.opcode != "compare" or "direction=LT" not in test.attributes:
            return None
        limit = self._of.get(test.operands[1])
        value = limit.attribute(r"^(\d+)\)") if limit and limit.opcode == "constant" else None
        return None if value is None else int(value)

    def _costs(self, computation: str) -> Costs:
        return sum((self._cost(i) for i in self.computations.get(computation, ())), Costs())

    def _cost(self, i: Instruction) -> Costs:
        if i.opcode in _FREE or i.kind in _FREE_CALLS:
            return Costs()
        called = _called(i)
        if i.opcode == "while":
            return sum(map(self._costs, called), Costs()).times(self._trips(i) or 1)
        if i.opcode == "conditional":
            return max(map(self._costs, called), key=lambda c: (c.cycles, c.traffic), default=Costs())
        if i.opcode == "call":
            return sum(map(self._costs, called), Costs())
        cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', i.attributes)))
        if self._by_hand is not None and i.kind == schedule.TARGET:
            turns = float(i.attribute(r'"turns":"([\d.]+)"') or 1)
            cycles = self._by_hand(i.attributes, self._traffic(i, called), turns)
        overlapped = i.opcode.endswith("-start")
        shapes = [i.shape, *(self._of[o].shape for o in i.operands if o in self._of)]
        unestimated = 0 if cycles or overlapped else sum(map(_padded, shapes))
        apart = Counter() if i.opcode == "fusion" else Counter({i.kind: 1})
        if i.opcode == "fusion" and not cycles:
            inside = {j.opcode for name in called for j in self.computations.get(name, ())}
            apart = Counter(
                kind for kind in ("gather", "scatter", "sort") if kind in inside and "kCustom" in i.attributes
            )
        return Costs(1, self._traffic(i, called), cycles, unestimated, apart)

    def _traffic(self, i: Instruction, called: tuple[str, ...]) -> float:
        """Bytes read and written. A part of a larger array is counted as the part."""
        sizes = [_size(self._of[o].shape) if o in self._of else 0 for o in i.operands]
        written = _size(i.shape)
        body = self.computations.get(called[0], []) if i.opcode == "fusion" and called else []
        if not body:
            if i.opcode == "dynamic-update-slice":
                return 2 * sizes[1]
            return written + (min(sizes[0], written) + sum(sizes[1:]) if i.opcode in _SLICES else sum(sizes))
        uses: dict[str, list[Instruction]] = {}
        for inner in body:
            for operand in inner.operands:
                uses.setdefault(operand, []).append(inner)
        parameters = {int(p.attribute(r"^(\d+)") or 0): p.name for p in body if p.opcode == "parameter"}
        for number, name in parameters.items():
            names, users = {name}, []
            for user in (waiting := [*uses.get(name, [])]):
                if user.opcode == "bitcast":
                    names.add(user.name)
                    waiting += uses.get(user.name, [])
                else:
                    users.append(user)
            kinds = {u.opcode if u.operands[0] in names else "other" for u in users}
            updates = [u for u in users if u.opcode == "dynamic-update-slice"]
            if not users or number >= len(sizes) or not kinds <= {*_SLICES, "dynamic-update-slice"}:
                continue
            whole = sizes[number]
            sizes[number] = min(sizes[number], sum(_size(u.shape) for u in users if u not in updates))
            if updates:
                # Written in place: of what is replaced only slices are read, and the rest of the result is not written.
                written += sum(_size(self._of[u.operands[1]].shape) for u in updates) - whole
        return written + sum(sizes)


def _called(i: Instruction) -> tuple[str, ...]:
    """The computations that an instruction runs; of a loop its body."""
    if i.opcode == "conditional":
        listed = i.attribute(r"branch_computations=\{([^}]*)\}")
        return tuple(_NAME.findall(listed or i.attributes.split("metadata=")[0]))
    word = {"while": "body", "fusion": "calls", "call": "to_apply"}.get(i.opcode)
    name = i.attribute(rf"\b{word}=%([\w.\-]+)") if word else None
    return (name,) if name else ()


def _parse(row: str) -> Instruction:
    name = _LINE.match(row)
    assert name is not None
    rest = row[name.end() :]
    cut = _matching(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:cut], rest[cut:].lstrip()
    opcode, rest = rest.split("(", 1)
    end = _matching("(" + rest) - 2
    operands = () if opcode in ("parameter", "constant") else tuple(_NAME.findall(rest[:end]))
    attributes = rest if opcode in ("parameter", "constant") else rest[end:]  # a parameter's number, a constant's value
    return Instruction(name[1], shape, opcode, operands, attributes)


def _matching(text: str) -> int:
    """The place after the parenthesis that closes the first."""
    depth = 0
    for place in re.finditer(r"[()]", text):
        depth += 1 if place[0] == "(" else -1
        if not depth:
            return place.end()
    return len(text)


def _size(shape: str, dtype: str | None = None) -> float:
    """Bytes of an array or a tuple of arrays; of those with a dtype, if one is given."""
    return sum(
        _BYTES.get(kind, 1) * math.prod(map(int, filter(None, sizes.split(","))))
        for kind, sizes, _, _ in _ARRAY.findall(shape)
        if dtype is None or kind == dtype
    )


def _padded(shape: str) -> float:
    """The same with the last axes of the layout filled up to whole tiles."""
    total = 0.0
    for kind, sizes, order, tile in _ARRAY.findall(shape):
        axes, tiles = [int(n) for n in filter(None, sizes.split(","))], [int(n) for n in filter(None, tile.split(","))]
        major_first = [axes[int(a)] for a in reversed(list(filter(None, order.split(","))))] or axes
        tiles = tiles[-len(major_first) :] if major_first else []
        for back, least in enumerate(reversed(tiles), start=1):
            major_first[-back] = -(-major_first[-back] // least) * least
        total += _BYTES.get(kind, 1) * math.prod(major_first)
    return total
