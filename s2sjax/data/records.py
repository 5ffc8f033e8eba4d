"""Records by number: what a model learns from, wherever it comes from."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NotRequired, TypedDict

from s2sjax.data.lines import BadRecord


class Record(TypedDict):
    """A source and its target, which is trained on. `references` are there where a source has several targets: all of
    them, for evaluation; blank ones are none."""

    source: str
    target: str
    references: NotRequired[list[str]]


def make_record(source: str, targets: Sequence[str]) -> Record:
    """Args: targets: the first is trained on; of several, those that are blank are no references."""
    if len(targets) == 1:
        return {"source": source, "target": targets[0]}
    filled = [text for text in targets if text.strip()]
    return {"source": source, "target": targets[0], "references": filled or [targets[0]]}


class Source(ABC):
    """Records by number. Raises `BadRecord` for one that cannot be read."""

    unreadable = ""
    """For the user: what is left out of this source, because it could not be read."""
    parts: Mapping[str, int] = {}
    """How many records each set of a mixture or pair of languages has, one after the other; empty if there is one."""

    def __init__(self, *parts: str) -> None:
        self._fingerprint = digest(*parts)

    def fingerprint(self) -> str:
        """Hash of the content, the same on every machine and under every path."""
        return self._fingerprint

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Record: ...

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))


class InMemory(Source):
    """Args: records: records, or what is wrong with them."""

    def __init__(self, records: Sequence[Record | BadRecord], *parts: str) -> None:
        super().__init__(*parts)
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        if isinstance(record, BadRecord):
            raise record
        return record


def digest(*parts: str) -> str:
    """blake2b of the parts, each preceded by its length so that no two lists of parts run together."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode()
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()
