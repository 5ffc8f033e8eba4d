"""Text to token files: once, in shards, kept under the hash of what they were made from.

Under the cache directory:

    tokenizer-HASH/        HASH of the training split's content and the tokenizer's config
    tokens-HASH/           HASH of a split's content, the tokenizers and how the task's rows stand
      shards-SIZE/7.npz    finished shards, gone when the split is complete
      source_tokens.npy    all rows one after another, int32, each with its end-of-sentence
      source_offsets.npy   int64 [n + 1], row i is tokens[offsets[i] : offsets[i + 1]]
      target_*.npy         likewise, as the task's rows stand
      complete.json        written last
      counts.json          what of it is unknown or blank: `data.counts`

Every file is written under a name of its own, synced and renamed. So a killed process costs one shard. Of several
processes that want the same thing one makes it and the others wait; where a disk knows no locks, all make it, and leave
the same files.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2sjax.data import tokenizer as tokenizers_lib
from s2sjax.data.cache import cache_directory, cache_errors, write
from s2sjax.data.column_files import is_whole, join_shards, load_column, write_shard
from s2sjax.data.columns import Column, Examples
from s2sjax.data.config import DataConfig
from s2sjax.data.counts import Side, count
from s2sjax.data.parts import in_proportion, shares
from s2sjax.data.records import Record, Source
from s2sjax.data.rows import PLAIN_ROWS, RowFormat
from s2sjax.data.splits import bare_prompts, open_split, overlap
from s2sjax.data.tokenizer import Tokenizer, TokenizerPair
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError
from s2sjax.plural import counted

SHARD_SIZE = 16384  # examples

Progress = Callable[[str, int, int], None]  # (what is going on, how many are done, of how many)

_FORMAT = 1  # part of every hash: raise it when the meaning of the files changes
_SIDES = ("source", "target")


@dataclass(frozen=True)
class Prepared:
    tokenizers: TokenizerPair
    splits: Mapping[str, Examples]


def prepare(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    splits: Sequence[str] = ("train", "validation"),
    *,
    rows: RowFormat = PLAIN_ROWS,
    own: TokenizerPair | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Trains or loads the tokenizers and tokenises the splits; what is there already is re-used.

    Args:
      rows: the task's.
      own: tokenizers of a run that goes on: they are its own copies, and nothing is trained.

    Raises:
      UserError: as `open_split`; training the tokenizers failed; the cache directory cannot be written; a model that
        the config names is not the run's.
    """
    if own is not None:
        tokenizers_lib.check_given(tokenizer, own)
    pair = own or prepare_tokenizers(data, tokenizer, rows, progress=progress)
    made = {split: tokenize(data, pair, split, rows=rows, progress=progress) for split in splits}
    if {"train", "validation"} <= made.keys() and (remark := overlap(data)):
        validation = made["validation"]
        made["validation"] = dataclasses.replace(validation, remarks=(*validation.remarks, remark))
    return Prepared(pair, made)


def prepare_tokenizers(
    data: DataConfig, config: TokenizerConfig, rows: RowFormat = PLAIN_ROWS, *, progress: Progress | None = None
) -> TokenizerPair:
    """The given models, or tokenizers trained on the training split, from the cache if they are there."""
    if given := tokenizers_lib.given_tokenizers(config):
        return given
    tokenizers_lib.compiled_pattern(config)  # a mistake is told before the data is read
    source = open_split(data, "train")
    values = dataclasses.asdict(config)
    if not values["symbol_pattern"]:  # it came later than others: without it, the hash is as it was
        del values["symbol_pattern"]
    for name in ("sampling", "bpe_dropout", "sampling_alpha", "sampling_slack"):  # nothing that is learned
        del values[name]
    line_ends = ["line_ends"] if rows.line_ends else []
    mixed = shares(data, source.parts)
    in_shares = [] if mixed is None else [json.dumps(mixed.round(6).tolist())]
    digest = _digest(source.fingerprint(), json.dumps(values, sort_keys=True), *line_ends, *in_shares)
    directory = cache_directory(data) / f"tokenizer-{digest}"
    with _locked(directory):
        if not os.path.exists(directory):
            sample = functools.partial(tokenizers_lib.sample_indices, config=config)
            indices = sample(len(source)) if mixed is None else in_proportion(source.parts, mixed, sample)
            if progress:
                progress(f"training the {config.kind} tokenizer on {counted(len(indices), 'example')}", 0, 1)
            examples = (source[int(i)] for i in indices)
            pairs = [(example["source"], example["target"]) for example in examples]
            pair = tokenizers_lib.train_tokenizers(config, pairs, line_ends=rows.line_ends)
            _save_tokenizers(pair, directory)
            if progress:
                progress(f"training the {config.kind} tokenizer on {counted(len(indices), 'example')}", 1, 1)
    # Read it even if just trained: where two processes trained at once, both use the one whose directory stayed.
    return tokenizers_lib.load(directory)


def tokenize(
    data: DataConfig,
    tokenizers: TokenizerPair,
    split: str,
    *,
    rows: RowFormat = PLAIN_ROWS,
    progress: Progress | None = None,
) -> Examples:
    """Tokenises one split with tokenizers that exist, for instance those of a run directory."""
    source = open_split(data, split)
    digest = fingerprint(source, tokenizers, rows)
    directory = cache_directory(data) / f"tokens-{digest}"
    complete = directory / "complete.json"
    # os.path.exists, unlike Path.exists, takes a directory that may not be read for an absent one; writing reports it.
    if os.path.exists(complete):
        _report(progress, split, len(source), len(source))
    while not os.path.exists(complete):
        with _locked(directory):
            if os.path.exists(complete):
                break
            try:
                encoder = _Encoder(tokenizers, rows, conditional=bool(data.source))
                _build(source, encoder, directory, functools.partial(_report, progress, split))
            except UserError:
                # Without locks, another process may have completed the split and removed the shards that this one used.
                if not os.path.exists(complete):
                    raise
    columns = {side: load_column(directory, side) for side in (_SIDES if data.source else _SIDES[1:])}
    sides = {}
    if data.source:
        sides["source"] = Side(
            tokenizers.source, columns["source"], lambda row: source[row]["source"], bare_prompts(data)
        )  # fmt: skip
    sides["target"] = Side(tokenizers.target, columns["target"], lambda row: source[row]["target"])
    counts = count(directory / "counts.json", sides)
    return Examples(
        columns, digest, unreadable=source.unreadable, remarks=counts.remarks(split),
        unknown_targets=counts.unknown["target"], parts=source.parts, start=tokenizers.target.vocabulary.start,
    )  # fmt: skip


def fingerprint(source: Source, tokenizers: TokenizerPair, rows: RowFormat = PLAIN_ROWS) -> str:
    """What a tokenised split is known by: a hash of its text, of the tokenizers and of how rows stand."""
    models = [f"{t.kind} {hashlib.blake2b(t.to_bytes()).hexdigest()}" for t in (tokenizers.source, tokenizers.target)]
    ways = ["right_to_left"] * rows.right_to_left + ["line_ends"] * rows.line_ends
    return _digest(source.fingerprint(), *models, *ways)


def _report(progress: Progress | None, split: str, done: int, total: int) -> None:
    if progress:
        progress(f"tokenising {split}", done, total)


@dataclass(frozen=True)
class _Encoder:
    """From records to columns of rows of tokens."""

    tokenizers: TokenizerPair
    rows: RowFormat
    conditional: bool
    """Whether there are sources."""

    def __call__(self, examples: Sequence[Record]) -> dict[str, Column]:
        targets = self._encode(self.tokenizers.target, [example["target"] for example in examples])
        target, source = Column.from_rows([self.rows.turned(row) for row in targets]), Column.of_nothing(len(examples))
        if self.conditional:
            texts = [example["source"] for example in examples]
            source = Column.from_rows(self._encode(self.tokenizers.source, texts))
        return {"source": source, "target": target}

    def _encode(self, tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
        end, rows = self.rows.end(tokenizer), tokenizer.encode(texts)
        return rows if end is None else [np.append(row, np.int32(end)) for row in rows]


def _build(source: Source, encoder: _Encoder, directory: Path, report: Callable[[int, int], None]) -> None:
    starts = range(0, len(source), SHARD_SIZE)
    # The size is in the name: shards of another size are no part of this set.
    shards = directory / f"shards-{SHARD_SIZE}"
    with cache_errors(directory):
        shards.mkdir(parents=True, exist_ok=True)
    paths = [shards / f"{number}.npz" for number in range(len(starts))]
    for start, path in zip(starts, paths, strict=True):
        stop = min(start + SHARD_SIZE, len(source))
        if not is_whole(path):
            write_shard(path, encoder([source[i] for i in range(start, stop)]))
        report(stop, len(source))
    for side in _SIDES:
        join_shards(directory, paths, side)
    record = json.dumps({"examples": len(source)}).encode()
    write(directory / "complete.json", lambda file: file.write(record))
    for leftover in directory.glob("shards-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _save_tokenizers(pair: TokenizerPair, directory: Path) -> None:
    with cache_errors(directory.parent):
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f"{directory.name}.") as temporary:
            whole = Path(temporary) / "tokenizer"
            tokenizers_lib.save(pair, whole)
            try:
                whole.rename(directory)
            except OSError:
                # Another process was faster; its tokenizer is the one to use.
                if not directory.exists():
                    raise


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Wait while another process makes this directory. Who dies lets go; on a disk without locks nobody waits."""
    path = f"{directory}.lock"
    with cache_errors(directory.parent):
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):  # whoever waits for it finds the work done
            os.unlink(path)
        os.close(lock)


def _digest(*parts: str) -> str:
    return hashlib.blake2b(json.dumps([_FORMAT, *parts]).encode(), digest_size=12).hexdigest()
