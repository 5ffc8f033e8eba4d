"""Rows of tab- or comma-separated files. A row that has not as many columns as the first one is unreadable.

Where quotes are text (`data.quoting` "none", as in TSV), a line is a row: the file is only indexed. Where they may
stand around fields ("double", as in CSV), a field may hold separators, doubled quotes and line ends (RFC 4180), and the
rows are held in memory. Blank lines are no rows.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from s2sjax.data.config import DataConfig
from s2sjax.data.fields import Fields, alternatives
from s2sjax.data.lines import BadRecord, Lines
from s2sjax.data.records import InMemory, Record, Source
from s2sjax.errors import UserError
from s2sjax.plural import counted

_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", " ": "space"}


def open_table(lines: Lines, config: DataConfig) -> Source:
    """The rows of a file by number.

    Raises:
      UserError: a column is not there, or stands there twice; quotes are not closed; with `max_bad_records` 0, a row
        that does not fit, if quotes may stand around fields.
    """
    return _quoted(lines, config) if config.quoted else _Plain(lines, config)


@dataclass(frozen=True)
class _Columns:
    """What the columns of a file are.

    Attributes:
      numbers: by name, of those that are read.
      width: how many there are.
      advice: what to do about a row that has not as many.
    """

    fields: Fields
    numbers: dict[str, int]
    width: int
    advice: str

    @classmethod
    def of(cls, config: DataConfig, first: Sequence[str], name: object) -> "_Columns":
        """Args: first: the first row, of names if there is a header."""
        fields = Fields.of(config)
        find = _by_name if config.header else _by_number
        numbers = {field: find(field, first, name) for field in fields.names} if first else {}
        return cls(fields, numbers, len(first), _advice(config))

    def record(self, row: Sequence[str]) -> Record:
        if len(row) != self.width:
            cause = self.advice if len(row) > self.width else "a column is missing"
            raise BadRecord(
                f"{counted(len(row), 'column')}, expected {self.width} as in the first row; {cause}, or leave such "
                "rows out with config.data.max_bad_records"
            )
        return self.fields.record(row, self._get)

    def _get(self, row: Sequence[str], name: str) -> str:
        return row[self.numbers[name]]

    def changed(self, counts: np.ndarray) -> list[str]:
        """A part for the fingerprint if rows of so many columns were once read although they do not fit."""
        once_read = (counts != self.width) & (counts > max(self.numbers.values(), default=0))
        return ["columns fit"] if once_read.any() else []


def _by_name(field: str, first: Sequence[str], name: object) -> int:
    if field not in first:
        raise UserError(f"{name}: no column {field!r}; {alternatives(field, first)}{_hint(first)}")
    if first.count(field) > 1:
        raise UserError(
            f"{name}: the header names column {field!r} {counted(first.count(field), 'time')}; rename the others"
        )
    return first.index(field)


def _by_number(field: str, first: Sequence[str], name: object) -> int:
    if not (field.isascii() and field.isdecimal()):
        raise UserError(
            f"config.data.header is false, so columns are numbers from 0, but {field!r} was given for {name}"
        )
    digits = field.lstrip("0") or "0"
    if len(digits) > len(str(len(first))) or int(digits) >= len(first):
        raise UserError(
            f"{name}: no column {field[:20]}; the first row has {counted(len(first), 'column')}, numbered from "
            f"0{_hint(first)}"
        )
    return int(digits)


def _hint(first: Sequence[str]) -> str:
    """What may be wrong where a first row is one column."""
    return "; config.data.separator says what separates columns" if len(first) == 1 else ""


def _advice(config: DataConfig) -> str:
    separator = config.column_separator
    called = _NAMES.get(separator, repr(separator))
    if config.quoted:
        return f'a field that holds a {called} needs quotes, "a{separator} b", and a quote in such a field two, ""'
    return f"a field cannot hold a {called}, unless fields that do stand in quotes and config.data.quoting is 'double'"


class _Plain(Source):
    def __init__(self, lines: Lines, config: DataConfig) -> None:
        self._lines, self._separator = lines, config.column_separator
        rows = lines.filled()
        first = lines[int(rows[0])].split(self._separator) if len(rows) else []
        self._columns = columns = _Columns.of(config, first, lines.path)
        self._rows = rows[int(config.header) :]
        parts = ["tsv", str(config.header), *columns.fields.parts, lines.digest()]
        if config.format == "tsv" and self._separator == "\t":
            parts += columns.changed(lines.count("\t")[self._rows] + 1)
            parts += ["without blank lines"] * (len(rows) != len(lines))
        else:
            parts += ["separator", self._separator]
        super().__init__(*parts)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        line = int(self._rows[index])
        row = self._lines[line].split(self._separator)
        try:
            return self._columns.record(row)
        except BadRecord as error:
            raise BadRecord(f"{self._lines.where(line)}: {error}") from None


def _quoted(lines: Lines, config: DataConfig) -> Source:
    records: list[Record | BadRecord] = []
    counts: list[int] = []
    columns: _Columns | None = None
    for row, where in _read_quoted(lines, config.column_separator):
        if columns is None:
            columns = _Columns.of(config, row, lines.path)
            if config.header:
                continue
        counts.append(len(row))
        try:
            record = columns.record(row)
            "".join([record["source"], record["target"], *record.get("references", [])]).encode()
            records.append(record)
        except (BadRecord, UnicodeError) as error:
            bad = BadRecord(f"{where}: {error if isinstance(error, BadRecord) else 'not valid UTF-8'}")
            if not config.max_bad_records:
                raise bad from None
            records.append(bad)
    columns = columns or _Columns.of(config, [], lines.path)
    parts = ["csv", str(config.header), *columns.fields.parts, lines.digest()]
    if config.format == "csv" and config.column_separator == ",":
        parts += columns.changed(np.array(counts, int))
    else:
        parts += ["separator", config.column_separator]
    return InMemory(records, *parts)


def _read_quoted(lines: Lines, separator: str) -> Iterator[tuple[list[str], str]]:
    """Rows, and where each begins."""
    # Of lines that were not checked, the bytes that are no UTF-8 become lone surrogates, which make their record bad.
    text = lines.data[:].decode("utf-8-sig", "surrogateescape")
    # One limit for the whole process, which has no other use for it: a field may be as long as the file.
    csv.field_size_limit(sys.maxsize)
    # Where the first line ends with a line feed, a carriage return alone is no end: without quotes it is an error.
    first = re.search("\r\n|\n|\r", text)
    end = "" if first and first.group() == "\r" else "\n"
    reader = csv.reader(io.StringIO(text, newline=end), delimiter=separator, strict=True)
    begin = 1
    try:
        for row in reader:
            if row:
                yield row, f"{lines.path}, line {begin}"
            begin = reader.line_num + 1
    except csv.Error as error:
        place = f"line {begin}" if reader.line_num <= begin else f"lines {begin} to {reader.line_num}"
        raise UserError(
            f"{lines.path}, {place}: not valid CSV ({error}). A field that holds a line end stands in quotes, and a "
            "quote in such a field is doubled; if quotes are text in this file, set config.data.quoting=none"
        ) from None
