"""What a run records of itself: files of one object a line that only grow, and `metrics.jsonl` read back.

A run directory is data, also a stranger's. A flipped bit costs a line, not the rest of them.
"""

import math
import os
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeGuard, overload

from s2sjax.errors import UserError
from s2sjax.files import jsontext, rundir
from s2sjax.plural import counted

_LONGEST_KEPT = jsontext.Bound(1 << 24, jsontext.LINE.separators)
"""What a line may have whose step is looked at when a file is cut: samples may be long texts."""
_MOST_RECORDS = 1 << 20
"""Records of a kind that are kept: of more, every second, fourth and so on, so that 2,000,000 steps that are recorded
one by one are a curve of as many points as a million."""
_MOST_NUMBERS, _LONGEST_NAME, _MOST_KINDS = 32, 100, 1000
"""What a record has at most, and how many different sets of names there are: a run has some ten."""
_BEYOND = 1e30  # what is larger can be neither drawn nor averaged: sums and squares of it leave the range of floats


@dataclass(frozen=True)
class History:
    """Attributes:
    train: records of training, in their order: their numbers, None in place of those from 1e30 on. Each has a "step".
    validation: those of validation.
    bad: how many lines are no record. A last line that a kill left unfinished is not counted.
    """

    train: Sequence[Mapping[str, Any]]
    validation: Sequence[Mapping[str, Any]]
    bad: int


def read_history(path: Path) -> History:
    """Read a `metrics.jsonl`.

    Raises:
        FileNotFoundError: there is none. OSError: it cannot be read.
        UserError: it is a link or no file, or has more than `rundir.LARGEST_RECORD` bytes.
    """
    kinds = {"train": Records(), "validation": Records()}
    bad = 0
    with rundir.open_for_reading(path.parent, path.name) as handle, open(handle, "rb", closefd=False) as file:
        rundir.check_size(path, handle, rundir.LARGEST_RECORD)
        while line := file.readline(jsontext.LINE.size):
            try:
                record = jsontext.parse(line, path, most=jsontext.LINE)
                if not is_number(record["step"]):
                    raise ValueError("a step that is no number")
                kinds[record["kind"]].append(record)
            except (ValueError, KeyError, TypeError):
                bad += line.endswith(b"\n")
    return History(kinds["train"], kinds["validation"], bad)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a file is a number below 1e30, which true, false and NaN are not."""
    return type(value) in (int, float) and abs(value) < _BEYOND


class Records(Sequence[Mapping[str, Any]]):
    """Records of numbers in 8 bytes a number, where a dictionary takes a hundred: a run may have a million of them.

    Of more than `_MOST_RECORDS`, evenly spaced ones are kept, and the last.
    """

    def __init__(self) -> None:
        self._names: list[tuple[tuple[str, type], ...]] = []  # of each kind of records, and which are integers
        self._kinds: dict[tuple[tuple[str, type], ...], int] = {}
        self._last: tuple[tuple[str, Any], ...] = ()
        self._appended, self._every = 0, 1
        self._kind, self._begins, self._numbers = array("H"), array("Q"), array("d")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record. What is no number in it is left out. Raises: ValueError for one that is none of ours."""
        found = tuple(
            (name, value if is_number(value) else None)
            for name, value in record.items()
            if type(value) in (int, float, NoneType)
        )
        if len(found) > _MOST_NUMBERS or any(len(name) > _LONGEST_NAME for name, _ in found):
            raise ValueError(f"more than {counted(_MOST_NUMBERS, 'number')}, or names longer than {_LONGEST_NAME}")
        kind = tuple((sys.intern(name), type(value)) for name, value in found)
        if kind not in self._kinds:
            if len(self._kinds) == _MOST_KINDS:
                raise ValueError(f"more than {counted(_MOST_KINDS, 'kind')} of records")
            self._kinds[kind] = len(self._names)
            self._names.append(kind)
        self._last = found
        if self._appended % self._every == 0:
            self._begins.append(len(self._numbers))
            self._kind.append(self._kinds[kind])
            self._numbers.extend(math.nan if value is None else value for _, value in found)
        self._appended += 1
        if len(self._kind) > _MOST_RECORDS:
            self._thin()

    def _thin(self) -> None:
        """Keep every second record."""
        kept, begins = array("d"), array("Q")
        for begin, end in zip(self._begins[::2], [*self._begins[1::2], len(self._numbers)], strict=False):
            begins.append(len(kept))
            kept.extend(self._numbers[begin:end])
        self._kind, self._begins, self._numbers = self._kind[::2], begins, kept
        self._every *= 2

    def __len__(self) -> int:
        return len(self._kind)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | Sequence[Mapping[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        if at == len(self) - 1:
            return dict(self._last)
        names = self._names[self._kind[at]]
        numbers = self._numbers[self._begins[at] : self._begins[at] + len(names)]
        return {
            name: None if kind is NoneType else kind(number)
            for (name, kind), number in zip(names, numbers, strict=True)
        }


class Record:
    """A file that only grows, by whole entries: what a full disk tears is taken back."""

    def __init__(self, workdir: Path, name: str) -> None:
        self._file = open(rundir.open_for_appending(workdir, name), "ab+", buffering=0)  # noqa: SIM115

    def append(self, entry: bytes) -> None:
        size = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(entry) != len(entry):
                raise OSError("No space left on device")
        except OSError:
            self._file.truncate(size)
            raise

    def cut_after(self, step: int) -> bytes:
        """Cut off the lines of later steps, and a last line that a kill left unfinished. Returns the last line kept,
        b"" in place of one that is longer than any of ours.

        Raises: UserError if the file is larger than any of ours.
        """
        size = self._file.seek(0, os.SEEK_END)
        if size > rundir.LARGEST_RECORD:
            raise UserError(f"it has {counted(size, 'byte')}, expected at most {rundir.LARGEST_RECORD:,}; move it away")
        kept, last = 0, b""
        with open(self._file.fileno(), "rb", closefd=False) as file:
            file.seek(0)
            while line := file.readline(_LONGEST_KEPT.size):
                length, end = len(line), line[-1:]
                while end != b"\n" and (more := file.readline(_LONGEST_KEPT.size)):
                    length, end, line = length + len(more), more[-1:], b""
                if end != b"\n" or _step_of(line) > step:
                    break
                kept, last = kept + length, line
        if kept < size:
            self._file.truncate(kept)
        return last

    def close(self) -> None:
        self._file.close()


def _step_of(line: bytes) -> int:
    """The step of a line of JSON; a line that is none belongs to no later step."""
    try:
        return int(jsontext.parse(line, "a line", most=_LONGEST_KEPT)["step"])
    except (ValueError, TypeError, KeyError):
        return -1
