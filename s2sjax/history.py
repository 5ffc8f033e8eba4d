"""What a run records of itself: files of one object a line that only grow, and `metrics.jsonl` read back.

A run directory is data, also a stranger's. A flipped bit costs a line, not the rest of them.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from s2sjax import jsontext, rundir
from s2sjax.errors import UserError

_LONGEST = 1 << 20
"""Bytes of a line."""
_LONGEST_KEPT = 1 << 26
"""Bytes of a line whose step is looked at when a file is cut: samples may be long texts."""
_BEYOND = 1e30  # what is larger can be neither drawn nor averaged: sums and squares of it leave the range of floats


@dataclass(frozen=True)
class History:
    """Attributes:
    train: records of training, in their order; each has a number as its "step". Numbers from 1e30 on are None in them.
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
    kinds: dict[str, list[Mapping[str, Any]]] = {"train": [], "validation": []}
    bad = 0
    with rundir.open_for_reading(path.parent, path.name) as handle, open(handle, "rb", closefd=False) as file:
        if (size := os.fstat(handle).st_size) > rundir.LARGEST_RECORD:
            raise UserError(f"{path} has {size:,} bytes, expected at most {rundir.LARGEST_RECORD:,}")
        while line := file.readline(_LONGEST):
            try:
                record = jsontext.parse(line, path)
                if not is_number(record["step"]):
                    raise ValueError("a step that is no number")
                kinds[record["kind"]].append({name: _drawable(value) for name, value in record.items()})
            except (ValueError, KeyError, TypeError):
                bad += line.endswith(b"\n")
    return History(kinds["train"], kinds["validation"], bad)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a file is a number below 1e30, which true, false and NaN are not."""
    return type(value) in (int, float) and abs(value) < _BEYOND


def _drawable(value: Any) -> Any:
    return None if isinstance(value, float) and not is_number(value) else value


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
            raise UserError(f"it has {size:,} bytes, expected at most {rundir.LARGEST_RECORD:,}; move it away")
        kept, last = 0, b""
        with open(self._file.fileno(), "rb", closefd=False) as file:
            file.seek(0)
            while line := file.readline(_LONGEST_KEPT):
                length, end = len(line), line[-1:]
                while end != b"\n" and (more := file.readline(_LONGEST_KEPT)):
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
        return int(jsontext.parse(line, "a line")["step"])
    except (ValueError, TypeError, KeyError):
        return -1
