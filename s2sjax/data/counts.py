"""What is worth telling of tokenised data: what is unknown, and pairs of which one side is blank."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2sjax.data.cache import write
from s2sjax.data.columns import Column
from s2sjax.data.tokenizer import Tokenizer
from s2sjax.data.unknown import Unknown, unknown_of
from s2sjax.errors import UserError
from s2sjax.files import jsontext
from s2sjax.plural import counted

_CHUNK = 1 << 22  # tokens looked at in one go


@dataclass(frozen=True)
class Side:
    """One side of a tokenised split; `text`, which gives that of a row; and the texts that are as good as blank, white
    space aside, such as a prompt alone."""

    tokenizer: Tokenizer
    rows: Column
    text: Callable[[int], str]
    bare: Collection[str] = ("",)


@dataclass(frozen=True)
class Counts:
    """What there is to tell of a split of so many rows, by side: "source", if there is one, and "target".

    Attributes:
      unknown: what the vocabulary lacks.
      blank: of how many rows this side is blank and the other is not.
    """

    rows: int
    unknown: Mapping[str, Unknown]
    blank: Mapping[str, int]

    def remarks(self, split: str) -> tuple[str, ...]:
        """A sentence for each thing that is worth telling; none if nothing is."""
        sentences = [found.sentence(side, f" of split {split!r}") for side, found in self.unknown.items() if found]
        for side, number in self.blank.items():
            other = "target" if side == "source" else "source"
            verb = "has" if self.rows == 1 else "have"
            if number:
                sentences.append(
                    f"{number:,} of {counted(self.rows, 'pair')} of split {split!r} {verb} a blank {side} and a "
                    f"{other} that is not; they are kept"
                )
        return tuple(sentences)


def count(path: Path, sides: Mapping[str, Side]) -> Counts:
    """Args: path: where the counts are kept, so that tokens are looked at once."""
    counts = _read(path, sides)
    if counts is None:
        counts = _count(sides)
        content = json.dumps(dataclasses.asdict(counts)).encode()
        with contextlib.suppress(UserError):  # a cache that cannot be written costs counting again
            write(path, lambda file: file.write(content))
    return counts


def _count(sides: Mapping[str, Side]) -> Counts:
    unknown, blank = {}, {}
    for name, side in sides.items():
        holders, blank[name] = _look(side)
        unknown[name] = unknown_of(side.tokenizer, holders, len(blank[name]), side.text)
    both = np.all(list(blank.values()), axis=0)
    return Counts(len(both), unknown, {name: int(np.count_nonzero(rows & ~both)) for name, rows in blank.items()})


def _look(side: Side) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the rows that hold an unknown token, and which rows are as good as blank, bool [n]."""
    white, unk, n = _white(side.tokenizer), side.tokenizer.vocabulary.unk, len(side.rows)
    unknown, visible = np.zeros(n, bool), np.zeros(n, np.int64)
    for begin in range(0, len(side.rows.values), _CHUNK):
        chunk = side.rows.values[begin : begin + _CHUNK]
        for counts, found in ((unknown, chunk == unk), (visible, ~np.isin(chunk, white))):
            np.add.at(counts, np.searchsorted(side.rows.offsets, np.flatnonzero(found) + begin, side="right") - 1, 1)
    blank = visible == 0
    # A visible token has a byte at least, so only short rows have to be read.
    longest = max(len(text.encode()) for text in side.bare)
    for row in np.flatnonzero(~blank & (visible <= longest)):
        blank[row] = " ".join(side.text(int(row)).split()) in side.bare
    return np.flatnonzero(unknown), blank


def _white(tokenizer: Tokenizer) -> np.ndarray:
    """Tokens that nobody sees."""
    vocabulary, blanks = tokenizer.vocabulary, ["", " ", "  ", "\t", "\n", "\r", "\u00a0", "\u3000"]
    ids = np.concatenate([[vocabulary.end], *tokenizer.encode(blanks)])
    return np.unique(ids[ids != vocabulary.unk])


def _read(path: Path, sides: Mapping[str, Side]) -> Counts | None:
    try:
        record = jsontext.parse(path.read_bytes(), path, most=None)
        unknown = {side: Unknown(**record["unknown"][side]) for side in sides}
        numbers = [record["rows"], *(record["blank"][side] for side in sides)]
        for each in unknown.values():
            numbers += [each.texts, each.of, *each.counts.values()]
        if not all(type(number) is int for number in numbers):
            return None
        return Counts(record["rows"], unknown, {side: record["blank"][side] for side in sides})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # of another version, or damaged
        return None
