"""Where examples come from: text, JSON lines, TSV, CSV, TFDS and the embedded phrases, all by random access.

`data.splits` opens splits with these; it also knows of slices, of several pairs of languages and of prompts.
"""

import csv
import difflib
import hashlib
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from s2sjax.data.config import DataConfig
from s2sjax.data.lines import BadRecord, Lines, misalignment
from s2sjax.errors import UserError
from s2sjax.paths import expand


class Source(ABC):
    """Sentence pairs by number: `source[i]` is `{"source": str, "target": str}`. Raises `BadRecord` if it is none."""

    unreadable = ""
    """For the user: what is left out of this source, because it could not be read."""

    def __init__(self, *parts: str) -> None:
        self._fingerprint = _digest(*parts)

    def fingerprint(self) -> str:
        """Hash of the content, the same on every machine and under every path."""
        return self._fingerprint

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, str]: ...

    def __iter__(self) -> Iterator[dict[str, str]]:
        return (self[i] for i in range(len(self)))


def open_source(config: DataConfig, name: str) -> Source:
    """Opens what is called `name` on disk.

    Plain files are memory-mapped and only indexed; compressed files and CSV are held in memory, which suits a few GB:
    decompress what is larger.

    Raises:
      UserError: a file or builder is missing, line counts differ, text is not UTF-8, or the field or column is not
        there. A broken line of JSON or TSV is reported when it is read; so is whatever is wrong with one record only,
        if `data.max_bad_records` allows for some.
    """

    def lines(field: str) -> Lines:
        return Lines(_find_file(config, field, name), strict=not config.max_bad_records)

    match config.format:
        case "text" if not config.source:
            return _Targets(lines("target"))
        case "text":
            return _Text(lines("source"), lines("target"))
        case "jsonl":
            return _JsonLines(lines("file"), config.source, config.target)
        case "tsv":
            return _Tsv(lines("file"), config)
        case "csv":
            return _read_csv(lines("file"), config)
        case "tfds":
            return _Tfds(config, name)
        case _:
            from s2sjax.data.phrases import phrases

            pairs = [(pair["source"] if config.source else "", pair["target"]) for pair in phrases(name)]
            return InMemory(pairs, "phrases", json.dumps(pairs))


class _Text(Source):
    def __init__(self, source: Lines, target: Lines) -> None:
        if len(source) != len(target):
            raise UserError(misalignment(source, target))
        super().__init__("text", source.digest(), target.digest())
        self._source, self._target = source, target

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, str]:
        return {"source": self._source[index], "target": self._target[index]}


class _Targets(Source):
    """The lines of one file, without a source."""

    def __init__(self, lines: Lines) -> None:
        super().__init__("targets", lines.digest())
        self._lines = lines

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict[str, str]:
        return {"source": "", "target": self._lines[index]}


class _JsonLines(Source):
    def __init__(self, lines: Lines, source: str, target: str) -> None:
        super().__init__("jsonl", source, target, lines.digest())
        self._lines, self._fields = lines, (source, target)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict[str, str]:
        where = self._lines.where(index)
        try:
            record = json.loads(self._lines[index])
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"{where}: not a JSON value ({error}); expected one object a line") from None
        return _pair(record, self._fields, where)


class _Tsv(Source):
    def __init__(self, lines: Lines, config: DataConfig) -> None:
        super().__init__("tsv", str(config.header), config.source, config.target, lines.digest())
        self._lines, self._first = lines, int(config.header)
        self._columns = _columns(config, lines[0].split("\t"), lines.path) if len(lines) else (None, 0)

    def __len__(self) -> int:
        return max(0, len(self._lines) - self._first)

    def __getitem__(self, index: int) -> dict[str, str]:
        line = index + self._first
        return _row_pair(self._lines[line].split("\t"), self._columns, self._lines.where(line))


class InMemory(Source):
    """Args: pairs: source and target each, or what is wrong with the record."""

    def __init__(self, pairs: Sequence[tuple[str, str] | BadRecord], *parts: str) -> None:
        super().__init__(*parts)
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, str]:
        pair = self._pairs[index]
        if isinstance(pair, BadRecord):
            raise pair
        return {"source": pair[0], "target": pair[1]}


def _read_csv(lines: Lines, config: DataConfig) -> Source:
    """CSV as in RFC 4180: quoted fields may hold commas, doubled quotes and line ends. Blank lines are no rows."""
    # Of lines that were not checked, the bytes that are no UTF-8 become lone surrogates, which make their record bad.
    text = lines.data[:].decode("utf-8-sig", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    pairs: list[tuple[str, str] | BadRecord] = []
    columns: tuple[int | None, int] | None = None
    try:
        for row in reader:
            if not row:
                continue
            if columns is None:
                columns = _columns(config, row, lines.path)
                if config.header:
                    continue
            where = f"{lines.path}, line {reader.line_num}"
            try:
                pair = _row_pair(row, columns, where)
                "".join(pair.values()).encode()
                pairs.append((pair["source"], pair["target"]))
            except UnicodeError:
                pairs.append(BadRecord(f"{where}: not valid UTF-8"))
            except BadRecord as error:
                if not config.max_bad_records:
                    raise
                pairs.append(error)
    except csv.Error as error:
        raise UserError(f"{lines.path}, line {reader.line_num}: not valid CSV ({error})") from None
    return InMemory(pairs, "csv", str(config.header), config.source, config.target, lines.digest())


class _Tfds(Source):
    """A prepared TFDS data set in the array_record format, read without TensorFlow."""

    def __init__(self, config: DataConfig, split: str) -> None:
        import tensorflow_datasets as tfds

        directory = str(expand(config.dir)) if config.dir else None
        try:
            builder = tfds.builder(config.name, data_dir=directory, file_format="array_record")
            self._records = builder.as_data_source(split)
        # TFDS says "no such builder", "no such config", "not prepared" and "no such split" in all these ways.
        except (ValueError, LookupError, AssertionError, NotImplementedError, ImportError, OSError) as error:
            raise UserError(_tfds_message(config, split, error)) from error
        self._fields = (config.source, config.target)
        self._where = f"{builder.info.full_name}, split {split}"
        shards = sorted((s.name, s.num_bytes, list(s.shard_lengths or ())) for s in builder.info.splits.values())
        parts = ["tfds", builder.info.full_name, split, config.source, config.target, json.dumps(shards)]
        # Names and sizes alone would miss a builder that was edited and prepared again under the same version.
        ends = [self[0], self[len(self) - 1]] if len(self) else []
        super().__init__(*parts, json.dumps(ends))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, str]:
        return _pair(self._records[index], self._fields, f"{self._where}, example {index}")


def _tfds_message(config: DataConfig, split: str, error: Exception) -> str:
    import tensorflow_datasets as tfds

    reason = str(error.args[0] if error.args else error).partition("\n")[0]
    where = f"TFDS config.data.name={config.name!r} in config.data.dir={config.dir!r}"
    message = f"cannot open split {split!r} of {where}: {reason}."
    if isinstance(error, tfds.core.DatasetNotFoundError):
        # Community data sets would be looked up in a bucket, through TensorFlow.
        names = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(re.split("[/:]", config.name)[0], names, n=3)
        message += f" Near names: {', '.join(near)}." if near else ""
    place = f", data_dir={json.dumps(config.dir)}" if config.dir else ""
    return (
        f"{message} If it is not prepared yet: python -c 'import tensorflow_datasets as tfds; "
        f'tfds.builder({json.dumps(config.name)}{place}, file_format="array_record").download_and_prepare()\''
    )


def _find_file(config: DataConfig, field: str, split: str) -> Path:
    """The file of a split: the pattern in `data.<field>` as it is, or with .gz or .xz after it."""
    pattern = getattr(config, field)
    if "{split}" not in pattern:
        raise UserError(
            f"config.data.{field} is {pattern!r}; expected a file name with {{split}} in it, such as {{split}}.en"
        )
    path = expand(config.dir) / pattern.replace("{split}", split)
    tried = [path, path.with_name(path.name + ".gz"), path.with_name(path.name + ".xz")]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    if not path.parent.is_dir():
        raise UserError(f"no file {path}: the directory {path.parent} does not exist (config.data.dir={config.dir!r})")
    names = [entry.name for entry in path.parent.iterdir()]
    near = sorted(difflib.get_close_matches(path.name, names, n=8, cutoff=0.4))
    raise UserError(
        f"no file for split {split!r}; tried {', '.join(map(str, tried))}. Near names in {path.parent}: "
        f"{', '.join(near) or 'none'}. Set config.data.dir, config.data.{field}, or what the split is "
        "called (config.data.validation=...)"
    )


def _columns(config: DataConfig, first: Sequence[str], path: Path) -> tuple[int | None, int]:
    """Numbers of the source (if there is one) and target columns, from the first row of a TSV or CSV file."""

    def number(name: str) -> int:
        if config.header:
            if name not in first:
                raise UserError(f"{path}: no column {name!r}; {_alternatives(name, first)}")
            return first.index(name)
        if not name.isdecimal():
            raise UserError(
                f"config.data.header is false, so columns are numbers from 0, but {name!r} was given for {path}"
            )
        return int(name)

    return number(config.source) if config.source else None, number(config.target)


def _row_pair(row: Sequence[str], columns: tuple[int | None, int], where: str) -> dict[str, str]:
    source, target = columns
    if (last := max(source or 0, target)) >= len(row):
        raise BadRecord(f"{where}: {len(row)} columns, expected at least {last + 1}")
    return {"source": "" if source is None else row[source], "target": row[target]}


def _pair(record: Any, fields: tuple[str, str], where: str) -> dict[str, str]:
    source, target = fields
    return {"source": _field(record, source, where) if source else "", "target": _field(record, target, where)}


def _field(record: Any, name: str, where: str) -> str:
    """The text in a field of a nested record, "translation.en" for `record["translation"]["en"]`."""
    value = record
    for part in [name] if isinstance(record, Mapping) and name in record else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise BadRecord(f"{where}: no field {name!r}; {_alternatives(name, list(_names(record)))}")
        value = value[part]
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            value.encode()  # JSON can spell a lone surrogate, which no tokenizer could encode
            return value
    except UnicodeError as error:
        raise BadRecord(f"{where}: field {name!r} is not valid Unicode ({error})") from None
    raise BadRecord(f"{where}: field {name!r} is a {type(value).__name__}, expected text")


def _names(record: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(record, Mapping):
        for key, value in record.items():
            if isinstance(value, Mapping):
                yield from _names(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"


def _alternatives(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"there are: {', '.join(names) or 'none'}"


def _digest(*parts: str) -> str:
    """blake2b of the parts, each preceded by its length so that no two lists of parts run together."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode()
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()
