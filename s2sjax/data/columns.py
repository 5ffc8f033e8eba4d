"""Columns: rows of different lengths, one after another; and sets of examples, which are named columns.

A task says which columns its examples have, and which of them a plan of batches measures (`s2sjax.task`).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from s2sjax.data.unknown import Unknown
from s2sjax.vocabulary import BOS


@dataclass(frozen=True, eq=False)
class Column:
    """Rows of different lengths, one after another.

    Attributes:
      values: [sum of lengths, ...]: int32 tokens [sum of lengths], say, or float32 frames [sum of lengths, width].
      offsets: int64 [n + 1]: row i is `values[offsets[i] : offsets[i + 1]]`.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_rows(cls, rows: Sequence[np.ndarray], empty: np.ndarray | None = None) -> "Column":
        """Args: empty: no values, `[0, ...]`, of the type that rows have; int32 tokens if None."""
        empty = np.zeros(0, np.int32) if empty is None else empty
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return cls(np.concatenate([empty, *rows]).astype(empty.dtype, copy=False), offsets)

    @classmethod
    def of_nothing(cls, count: int) -> "Column":
        """So many rows without a token."""
        return cls(np.zeros(0, np.int32), np.zeros(count + 1, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def part(self, start: int, stop: int) -> "Column":
        """The rows from `start` to before `stop`."""
        offsets = self.offsets[start : stop + 1]
        return Column(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


@dataclass(frozen=True, eq=False)
class Examples:
    """Every example of a split, none dropped: columns of equally many rows. On disk they are read-only memory maps.

    Rows of tokens stand as their task says (`data.rows`): targets as a model writes them.
    """

    columns: Mapping[str, Column]
    fingerprint: str = ""
    """Hash of what they were made from; empty for those that are kept nowhere."""
    given: np.ndarray | None = None
    """For each example the number of its first target tokens that are read and not predicted; None: 0."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """How many examples are of each set of a mixture or pair of languages, one after the other; empty: of one."""
    unreadable: str = ""
    """For the user: how many records could not be read and are left out, and where they are listed."""
    remarks: tuple[str, ...] = ()
    """For the user: what else is worth knowing of this data."""
    unknown_targets: Unknown = Unknown()
    """What the vocabulary lacks of the targets; `remarks` says it too."""
    start: int = BOS
    """What a decoder reads before the first token of each target."""

    @classmethod
    def of_pairs(cls, source: Column, target: Column, **others: Any) -> "Examples":
        """Sources and their targets, and other attributes."""
        return cls({"source": source, "target": target}, **others)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Column:
        """A column; where the examples have none of that name, rows without a token."""
        return self.columns.get(name, self._nothing)

    @functools.cached_property
    def _nothing(self) -> Column:
        return Column.of_nothing(len(self))

    def with_columns(self, columns: Mapping[str, Column], **changes: Any) -> "Examples":
        """The same with these columns in place of those of their names, and other changes."""
        return dataclasses.replace(self, columns={**self.columns, **columns}, **changes)

    def part(self, start: int, stop: int) -> "Examples":
        """The examples from `start` to before `stop`."""
        given = None if self.given is None else self.given[start:stop]
        columns = {name: column.part(start, stop) for name, column in self.columns.items()}
        return Examples(columns, given=given, start=self.start)
