"""What is worth telling of tokenised data: tokens that are unknown, and pairs of which one side is blank."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from s2sjax import jsontext
from s2sjax.data.cache import write
from s2sjax.data.tokenizer import Tokenizer
from s2sjax.errors import UserError
from s2sjax.vocabulary import EOS, UNK

_CHUNK = 1 << 22  # tokens looked at in one go

Side = tuple[np.ndarray, np.ndarray]
"""Tokens of all rows, and where each row begins in them."""


def remarks(path: Path, split: str, sides: Mapping[str, tuple[Tokenizer, Side]]) -> tuple[str, ...]:
    """A sentence for each thing that is worth telling; none if nothing is.

    Args:
      path: where the counts are kept, so that tokens are looked at once.
      sides: "source", if there is one, and "target".
    """
    counts = _read(path, set(sides))
    if counts is None:
        counts = _count(sides)
        with contextlib.suppress(UserError):  # a cache that cannot be written costs counting again
            write(path, lambda file: file.write(json.dumps(counts).encode()))
    told = [
        f"{counts[f'{side}_unknown']:,} of {counts[f'{side}_tokens']:,} {side} tokens of split {split!r} are unknown: "
        f"{'words' if tokenizer.kind == 'word' else 'characters'} that the vocabulary of {tokenizer.vocab_size:,} lacks"
        for side, (tokenizer, _) in sides.items()
        if counts[f"{side}_unknown"]
    ]
    blank = {side: counts[f"{side}_blank"] for side in sides}
    if len(sides) > 1 and any(blank.values()):
        numbers = " and ".join(f"{number:,} a blank {side}" for side, number in blank.items() if number)
        told.append(f"of {counts['rows']:,} pairs of split {split!r}, {numbers} and something beside it: they are kept")
    return tuple(told)


def _count(sides: Mapping[str, tuple[Tokenizer, Side]]) -> dict[str, int]:
    counts, blank = {}, {}
    for side, (tokenizer, (tokens, offsets)) in sides.items():
        counts[f"{side}_tokens"] = len(tokens)
        counts[f"{side}_unknown"], blank[side] = _look(tokens, offsets, _white(tokenizer))
    for side in sides:
        others = [blank[other] for other in sides if other != side]
        counts[f"{side}_blank"] = int(np.sum(blank[side] & ~np.any(others, axis=0))) if others else 0
    return counts | {"rows": len(next(iter(blank.values())))}


def _look(tokens: np.ndarray, offsets: np.ndarray, white: np.ndarray) -> tuple[int, np.ndarray]:
    """How many tokens are unknown, and which rows hold white space only, bool [n]."""
    unknown, blank = 0, np.ones(len(offsets) - 1, bool)
    for begin in range(0, len(tokens), _CHUNK):
        chunk = tokens[begin : begin + _CHUNK]
        unknown += int(np.count_nonzero(chunk == UNK))
        seen = np.flatnonzero(~np.isin(chunk, white)) + begin
        blank[np.searchsorted(offsets, seen, side="right") - 1] = False
    return unknown, blank


def _white(tokenizer: Tokenizer) -> np.ndarray:
    """Tokens that nobody sees."""
    ids = np.concatenate([[EOS], *tokenizer.encode(["", " ", "  ", "\t", "\n", "\r", "\u00a0", "\u3000"])])
    return np.unique(ids[ids != UNK])


def _read(path: Path, sides: set[str]) -> dict[str, int] | None:
    try:
        counts = jsontext.parse(path.read_bytes(), path)
        names = {"rows", *(f"{side}_{what}" for side in sides for what in ("tokens", "unknown", "blank"))}
        return counts if counts.keys() == names and all(type(n) is int for n in counts.values()) else None
    except (OSError, ValueError):
        return None
