"""Where records come from: text, JSON lines, TSV, CSV, TFDS and the embedded phrases, all by random access.

`data.splits` opens splits with these; it also knows of slices, of several pairs of languages and of prompts.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s2sjax.config import closest
from s2sjax.data.config import DataConfig
from s2sjax.data.fields import Fields, alternatives
from s2sjax.data.lines import BadRecord, Lines, misalignment
from s2sjax.data.records import InMemory, Record, Source, make_record
from s2sjax.data.tables import open_table
from s2sjax.data.tfds_guard import only_own_classes
from s2sjax.errors import UserError, listed
from s2sjax.files import jsontext
from s2sjax.files.paths import expand
from s2sjax.plural import counted


def open_source(config: DataConfig, name: str, *, sliced: bool = False) -> Source:
    """Opens what is called `name` on disk.

    Plain files are memory-mapped and only indexed; compressed files and CSV are held in memory, which suits a few GB:
    decompress what is larger.

    Args:
      sliced: only a part of it is wanted; then file names need no {split} in them, as slices tell splits apart.

    Raises:
      UserError: a file or builder is missing, line counts differ, text is not UTF-8, or the field or column is not
        there. A broken line of JSON or TSV is reported when it is read; so is whatever is wrong with one record only,
        if `data.max_bad_records` allows for some.
    """

    def lines(field: str, pattern: str) -> Lines:
        # A reader of quoted fields knows of itself that a carriage return may end a line.
        path = _find_file(config, field, pattern, name, sliced=sliced)
        return Lines(path, strict=not config.max_bad_records, only_line_feeds=not config.quoted)

    match config.format:
        case "text":
            source = lines("source", config.source) if config.source else None
            return _Text(source, [lines("target", pattern) for pattern in config.targets])
        case "jsonl":
            return _JsonLines(lines("file", config.file), Fields.of(config))
        case "tsv" | "csv":
            return open_table(lines("file", config.file), config)
        case "tfds":
            return _Tfds(config, name)
        case _:
            from s2sjax.data.phrases import phrases

            pairs = [(pair["source"] if config.source else "", pair["target"]) for pair in phrases(name)]
            return InMemory([make_record(source, [target]) for source, target in pairs], "phrases", json.dumps(pairs))


class _Text(Source):
    """Lines side by side: of sources, if there are any, and of one or several targets.

    Lines that are empty on all sides at the end of the files are no records: editors and scripts leave them there.
    """

    def __init__(self, source: Lines | None, targets: Sequence[Lines]) -> None:
        files = [*([] if source is None else [source]), *targets]
        ends = [int(filled[-1]) + 1 if len(filled := lines.filled()) else 0 for lines in files]
        self._count = max(ends)
        longest = ends.index(self._count)
        for number, lines in enumerate(files):
            if len(lines) < self._count:
                raise UserError(misalignment(*(files[n] for n in sorted((number, longest)))))
        kind = "targets" if source is None else "text"
        cut = [counted(self._count, "line")] * any(len(lines) > self._count for lines in files)
        super().__init__(kind, *(lines.digest() for lines in files), *cut)
        self._source, self._targets = source, targets

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self._count:
            raise IndexError(f"line {index} of {self._count}")
        source = "" if self._source is None else self._source[index]
        return make_record(source, [lines[index] for lines in self._targets])


_WHOLE_LIST = ". If the file is one list of objects, make lines of them: jq -c '.[]' OLD > NEW"


class _JsonLines(Source):
    """One JSON object a line. Blank lines are no records."""

    def __init__(self, lines: Lines, fields: Fields) -> None:
        self._lines, self._fields, self._filled = lines, fields, lines.filled()
        blank = len(self._filled) < len(lines)
        super().__init__("jsonl", *fields.parts, lines.digest(), *["without blank lines"] * blank)

    def __len__(self) -> int:
        return len(self._filled)

    def __getitem__(self, index: int) -> Record:
        line = int(self._filled[index])
        text = self._lines[line]
        try:
            # Without a name, which takes time and is needed for messages only: they go on after it.
            record = jsontext.parse(text, "", most=None, strict=False)
            return self._fields.record(record, _field)
        except BadRecord as error:
            raise BadRecord(f"{self._lines.where(line)}: {error}") from None
        except UserError as error:
            whole = "" if not text.lstrip().startswith("[") else _WHOLE_LIST
            raise BadRecord(f"{self._lines.where(line)}{error}; expected one object a line{whole}") from None


class _Tfds(Source):
    """A prepared TFDS data set in the array_record format, read without TensorFlow."""

    def __init__(self, config: DataConfig, split: str) -> None:
        import tensorflow_datasets as tfds

        directory = str(expand(config.dir)) if config.dir else None
        try:
            with only_own_classes(config.name):
                builder = tfds.builder(config.name, data_dir=directory, file_format="array_record")
                self._records = builder.as_data_source(split)
        except UserError:
            raise
        # TFDS says "no such builder", "no such config", "not prepared" and "no such split" in many ways; and files that
        # are not its own end in whatever they lead to.
        except Exception as error:
            raise UserError(_tfds_message(config, split, error)) from error
        self._fields = Fields.of(config)
        self._where = f"{builder.info.full_name}, split {split}"
        shards = sorted((s.name, s.num_bytes, list(s.shard_lengths or ())) for s in builder.info.splits.values())
        parts = ["tfds", builder.info.full_name, split, *self._fields.parts, json.dumps(shards)]
        # Names and sizes alone would miss a builder that was edited and prepared again under the same version.
        ends = [self[0], self[len(self) - 1]] if len(self) else []
        super().__init__(*parts, json.dumps(ends))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        try:
            return self._fields.record(record, _field)
        except BadRecord as error:
            raise BadRecord(f"{self._where}, example {index}: {error}") from None


def _tfds_message(config: DataConfig, split: str, error: Exception) -> str:
    import tensorflow_datasets as tfds

    reason = str(error.args[0] if error.args else error).partition("\n")[0]
    where = f"TFDS config.data.name={config.name!r} in config.data.dir={config.dir!r}"
    message = f"cannot open split {split!r} of {where}: {reason}."
    if isinstance(error, tfds.core.DatasetNotFoundError):
        # Community data sets would be looked up in a bucket, through TensorFlow.
        names = tfds.list_builders(with_community_datasets=False)
        near = closest(re.split("[/:]", config.name)[0], names, most=3)
        message += f" Near names: {listed(near)}." if near else ""
    place = f", data_dir={json.dumps(config.dir)}" if config.dir else ""
    code = (
        "import tensorflow_datasets as tfds; "
        f'tfds.builder({json.dumps(config.name)}{place}, file_format="array_record").download_and_prepare()'
    )
    return f"{message} If it is not prepared yet: python -c {shlex.quote(code)}"


def _find_file(config: DataConfig, field: str, pattern: str, split: str, *, sliced: bool) -> Path:
    """The file of a split: the pattern in `data.<field>` as it is, or with .gz or .xz after it."""
    if "{split}" not in pattern and not sliced:
        raise UserError(
            f"config.data.{field} is {pattern!r}; expected a file name with {{split}} in it, such as {{split}}.en: "
            f"{split!r} would be the same file as every other split. If they are parts of one file, say which, as in "
            "config.data.train='all[:90%]' and config.data.validation='all[90%:]'"
        )
    path = expand(config.dir) / pattern.replace("{split}", split)
    tried = [path, path.with_name(path.name + ".gz"), path.with_name(path.name + ".xz")]
    try:
        for candidate in tried:
            if candidate.is_file():
                return candidate
        if not path.parent.is_dir():
            raise UserError(
                f"no file {path}: the directory {path.parent} does not exist (config.data.dir={config.dir!r})"
            )
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError as error:
        raise UserError(f"cannot look for {path}: {error.strerror} (config.data.dir={config.dir!r})") from error
    near = sorted(closest(path.name, names, most=8, cutoff=0.4))
    raise UserError(
        f"no file for split {split!r}; tried {', '.join(map(str, tried))}. Near names in {path.parent}: "
        f"{listed(near) or 'none'}. Set config.data.dir, config.data.{field}, or what the split is "
        "called (config.data.validation=...)"
    )


def _field(record: Any, name: str) -> str | list[str]:
    """What is in a field of a nested record, "translation.en" for `record["translation"]["en"]`: one text, or several
    if it is a list of them."""
    value = record
    for part in [name] if isinstance(record, Mapping) and name in record else name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise BadRecord(f"no field {name!r}; {alternatives(name, list(_names(record)))}")
        value = value[part]
    if isinstance(value, np.ndarray):  # a tensor of TFDS
        value = value.tolist()
    if isinstance(value, list) and value:
        return [_text(each, name) for each in value]
    return _text(value, name)


def _text(value: Any, name: str) -> str:
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            value.encode()  # JSON can spell a lone surrogate, which no tokenizer could encode
            return value
    except UnicodeError as error:
        raise BadRecord(f"field {name!r} is not valid Unicode ({error})") from None
    raise BadRecord(f"field {name!r} is a {type(value).__name__}, expected text")


def _names(record: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(record, Mapping):
        for key, value in record.items():
            if isinstance(value, Mapping):
                yield from _names(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"
