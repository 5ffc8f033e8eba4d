"""What a compiled program says to other devices: its collectives, read from XLA's text.

XLA's optimised program is the only account of what will cross the network: which collectives the partitioner chose,
what it merged, and what it moved that nobody asked for.
"""

import collections
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)[\w]*\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Collective:
    """One collective instruction, as often as a step runs it."""

    kind: str
    """One of `KINDS`."""
    axes: tuple[str, ...]
    """Mesh axes along which it goes; ("?",) if its groups of devices are not whole axes."""
    size: int
    """Devices that take part in each group."""
    payload: int
    """Bytes on each device of what it works on, whole: the operand of an all-reduce, what an all-gather makes and a
    reduce-scatter takes."""
    runs: int
    """Times a step runs it: 1, or the product of the trip counts of the loops around it."""
    bounded: bool
    """Whether XLA knows the trip counts of all of these loops; of others one iteration is counted."""

    @property
    def sent(self) -> int:
        """Bytes that a device sends in a step, by rings (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce
        algorithms for clusters of workstations"), which no algorithm undercuts."""
        share = {"all-reduce": 2 * (self.size - 1) / self.size, "collective-permute": 1.0}
        return round(share.get(self.kind, (self.size - 1) / self.size) * self.payload) * self.runs


def read_collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """The collectives in the text of a compiled program.

    Args:
        text: `compiled.as_text()`.
        mesh: its axes and their sizes, in order; devices are numbered along it.
    """
    computations, entry = _computations(text)
    found = []
    for name, (runs, bounded) in _runs(computations, entry).items():
        for shape, operation, rest in computations[name]:
            kind = operation.removesuffix("-start")
            if kind not in KINDS:
                continue
            groups = _groups(rest, math.prod(mesh.values()))
            size = groups.shape[1]
            if size == 1:
                continue  # every group is one device: nothing moves
            if kind == "collective-permute":
                size = 2
            payload = _payload(kind, shape, operation != kind, groups.shape[1])
            found.append(Collective(kind, _axes(groups, mesh, kind), size, payload, runs, bounded))
    return found


class Row(NamedTuple):
    """Collectives of one kind along the same axes."""

    kind: str
    axes: tuple[str, ...]
    runs: int
    """In a step."""
    payload: int
    """Bytes a device and step, whole."""
    sent: int
    """Bytes that a device sends in a step."""


def summary(collectives: Sequence[Collective]) -> list[Row]:
    """One row a kind and set of axes, what sends most first."""
    groups: dict[tuple[str, tuple[str, ...]], list[Collective]] = collections.defaultdict(list)
    for collective in collectives:
        groups[collective.kind, collective.axes].append(collective)
    rows = [
        Row(*key, sum(c.runs for c in those), sum(c.payload * c.runs for c in those), sum(c.sent for c in those))
        for key, those in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row.sent, row))


Instruction = tuple[str, str, str]
"""Shape, operation, and what stands behind its opening bracket."""


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Instructions of each computation, and the name of the one that is the program."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (instruction := _INSTRUCTION.match(line)):
            current.append((instruction[1], instruction[2], instruction[3]))
    return computations, entry


def _runs(computations: Mapping[str, list[Instruction]], entry: str) -> dict[str, tuple[int, bool]]:
    """How often a step runs each computation, and whether that is known."""
    runs: dict[str, tuple[int, bool]] = {}

    def visit(name: str, times: int, bounded: bool) -> None:
        before, known = runs.get(name, (0, True))
        runs[name] = before + times, known and bounded
        for _, operation, rest in computations[name]:
            trips = _TRIPS.search(rest)
            of_loop = operation == "while"
            inside = times * int(trips[1]) if of_loop and trips else times
            for called in _called(rest):
                if called in computations:
                    visit(called, inside, bounded and (not of_loop or trips is not None))

    visit(entry, 1, True)
    return runs


def _called(rest: str) -> Iterator[str]:
    yield from _CALLED.findall(rest)
    if branches := _BRANCHES.search(rest):
        yield from (name.strip().lstrip("%") for name in branches[1].split(","))


def _payload(kind: str, shape: str, asynchronous: bool, size: int) -> int:
    """Bytes of the whole, from the shape of an instruction's result."""
    sizes = [_bytes(match) for match in _ARRAY.finditer(shape)]
    if asynchronous and kind in ("all-gather", "reduce-scatter", "all-to-all", "collective-permute"):
        # The result of its start holds operands and results, and for a permute two counters.
        sizes = sizes[len(sizes) // 2 :] if kind != "collective-permute" else sizes[:1]
    return sum(sizes) * (size if kind == "reduce-scatter" else 1)


def _bytes(array: re.Match) -> int:
    digits = re.sub(r"\D", "", array[1])
    bits = _BITS[array[1]] if array[1] in _BITS else int(digits)
    return math.prod(int(n) for n in array[2].split(",") if n) * bits // 8


def _groups(rest: str, devices: int) -> np.ndarray:
    """The groups of devices, [groups, size], of a collective in any of XLA's notations.

    `{{0,1},{2,3}}` lists them. `[4,2]<=[8]` numbers all devices and reshapes them, `[4,2]<=[2,4]T(1,0)` transposes
    them before. `mesh['a'=4,'b'=2] {'a'}` names a mesh of its own and the axes that a group runs along; with
    `device_ids=([2,4]T(1,0))` that mesh's devices are numbered so. A permutation has pairs in place of groups.
    """
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        return np.array([int(n) for n in re.findall(r"\d+", pairs[1])]).reshape(-1, 2)
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\)(?= \{))? \{([^}]*)\}", rest):
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        along = re.findall(r"'(\w+)'", named[3])
        if re.search(r"\(\d+\)", named[3]):
            raise ValueError(f"a collective along part of an axis, which this reader does not know: {named[0]}")
        ids = (_iota(named[2]) if named[2] else np.arange(devices)).reshape(*axes.values())
        names = list(axes)
        order = [names.index(n) for n in names if n not in along] + [names.index(n) for n in along]
        return ids.transpose(order).reshape(-1, math.prod(axes[n] for n in along))
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", rest):
        return np.array([[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[1])])
    if numbered := re.search(r"replica_groups=(\[[\d,]+\])<=(\[[\d,]+\](?:T\([\d,]+\))?)", rest):
        return _iota(numbered[2]).reshape([int(n) for n in numbered[1][1:-1].split(",")])
    return np.arange(devices)[None]  # `{}`: all of them


def _iota(text: str) -> np.ndarray:
    """`[2,4]T(1,0)`: the numbers from 0 in a shape, transposed."""
    shape = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    assert shape is not None, text
    sizes = [int(n) for n in shape[1].split(",")]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return numbers.transpose([int(n) for n in shape[2].split(",")]) if shape[2] else numbers


def _axes(groups: np.ndarray, mesh: Mapping[str, int], kind: str) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ."""
    places = np.stack(np.unravel_index(groups, tuple(mesh.values())))  # [axes, groups, size]
    differ = (places != places[:, :, :1]).any(axis=2)  # [axes, groups]
    along = tuple(axis for axis, here in zip(mesh, differ.any(axis=1), strict=True) if here)
    if kind == "collective-permute":
        return along
    whole = groups.shape[1] == math.prod(mesh[axis] for axis in along)
    return along if whole else ("?",)
