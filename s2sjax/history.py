"""What a run recorded of itself, read back: `metrics.jsonl`, one object a line, as `report` writes it.

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
