"""Records that cannot be read: located, listed in a file, and left out, up to a limit.

They are looked for once, in a pass over all records, and listed in the cache directory under the hash of the data: one
JSON object a line, `{"index": 3, "reason": "train.jsonl, line 4: is not valid JSON ..."}`, `index` counting the records
of the split from 0. Of line-aligned text both sides of a pair go.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from s2sjax.data.cache import cache_directory, cache_errors, write
from s2sjax.data.config import DataConfig
from s2sjax.data.lines import BadRecord
from s2sjax.data.records import Record, Source
from s2sjax.errors import UserError
from s2sjax.files import jsontext
from s2sjax.plural import counted


def leave_out_unreadable(source: Source, config: DataConfig, split: str) -> Source:
    """The same examples less those that cannot be read; with `data.max_bad_records` 0 the same source, unlooked at.

    Raises:
        UserError: they are more than `data.max_bad_records`.
    """
    limit = config.max_bad_records
    if not limit:
        return source
    listing = cache_directory(config) / f"unreadable-{source.fingerprint()}.jsonl"
    bad = _read(listing)
    if bad is None:
        bad = _find(source)
        with cache_errors(listing.parent):
            listing.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"index": index, "reason": reason}, ensure_ascii=False) for index, reason in bad.items()]
        write(listing, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))
    if not bad:
        return source
    number = f"{len(bad):,} of {counted(len(source), 'record')} of split {split!r} cannot be read"
    more = f"The first: {next(iter(bad.values()))}. All: {listing}"
    if len(bad) > limit:
        raise UserError(f"{number}, more than config.data.max_bad_records={limit} may be left out. {more}")
    return _Readable(source, np.array([*bad], np.int64), f"{number} and are left out. {more}")


class _Readable(Source):
    def __init__(self, source: Source, bad: np.ndarray, unreadable: str) -> None:
        digest = hashlib.blake2b(bad.astype("<i8").tobytes(), digest_size=16).hexdigest()
        super().__init__("readable", source.fingerprint(), digest)
        self.unreadable = unreadable
        self._source, self._count = source, len(source) - len(bad)
        ends = np.cumsum([*source.parts.values()])
        left = np.diff(ends - np.searchsorted(bad, ends), prepend=0)
        self.parts = dict(zip(source.parts, map(int, left), strict=True))
        # Readable records before each of the others: what is at or past it moves up by one.
        self._before = bad - np.arange(len(bad))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self._source[index + int(np.searchsorted(self._before, index, side="right"))]


def _find(source: Source) -> dict[int, str]:
    """Reasons by index, ascending."""
    bad = {}
    for index in range(len(source)):
        try:
            source[index]
        except BadRecord as error:
            bad[index] = str(error)
    return bad


def _read(listing: Path) -> dict[int, str] | None:
    """None if there is no listing, or it is damaged."""
    try:
        entries = [jsontext.parse(line, listing) for line in listing.read_bytes().splitlines()]
        return {int(entry["index"]): str(entry["reason"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return None
