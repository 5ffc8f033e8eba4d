"""Tokenizers of fixed units: characters, bytes, and words between spaces."""

import codecs
import functools
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from s2sjax.files import jsontext
from s2sjax.vocabulary import UNK, Vocabulary, own_vocabulary

LARGEST = jsontext.Bound(3 << 24, 2_000_000)
"""What one of these vocabularies may have as JSON: a million words of 20 bytes have 24 MB."""
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")


class _UnitTokenizer(ABC):
    """What characters and bytes share: a text is a row of units, a unit's id stands in a table, symbols come first."""

    def __init__(self, symbols: Sequence[str], table: np.ndarray, first_symbol: int) -> None:
        self.symbols = tuple(symbols)
        self._table = table  # id of every unit, int32
        self._symbol_ids = {self._units(s): first_symbol + i for i, s in enumerate(symbols)}

    @property
    @abstractmethod
    def vocab_size(self) -> int: ...

    @property
    def vocabulary(self) -> Vocabulary:
        return own_vocabulary(self.vocab_size)

    @functools.cached_property
    def _pattern(self) -> re.Pattern | None:
        """Finds symbols. It takes 150 bytes for each of their characters, so it is not made before it is needed."""
        longest_first = sorted(self._symbol_ids, key=len, reverse=True)
        return re.compile(self._units("|").join(map(re.escape, longest_first))) if longest_first else None

    @property
    def longest(self) -> int:
        return max(map(len, self.symbols), default=1)

    @abstractmethod
    def _units(self, text: str) -> Any:
        """The text as a string of units that can be sliced, joined and searched."""

    @abstractmethod
    def _codes(self, units: Any) -> np.ndarray:
        """The place of each unit in the table."""

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        # One table look-up for the whole list. No symbol holds a line end, so none is found across two texts.
        rows = [self._units(text) for text in texts]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ends = np.cumsum(lengths + 1) - 1
        starts = ends - lengths
        joined = self._units("\n").join(rows)
        ids = self._table[self._codes(joined)]
        if self._pattern:
            kept = np.ones(len(ids), bool)
            for match in self._pattern.finditer(joined):
                ids[match.start()] = self._symbol_ids[match.group()]
                kept[match.start() + 1 : match.end()] = False
            moved = np.concatenate([[0], np.cumsum(kept)])
            ids, starts, ends = ids[kept], moved[starts], moved[ends]
        return [ids[start:end] for start, end in zip(starts, ends, strict=True)]

    def encode_spans(self, text: str) -> np.ndarray:
        units = self._units(text)
        begins = np.ones(len(units), bool)
        for match in self._pattern.finditer(units) if self._pattern else ():
            begins[match.start() + 1 : match.end()] = False
        starts = np.flatnonzero(begins)
        return self._spans(units, np.diff(np.append(starts, len(units))))

    def decode_spans(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        nothing, text = self._units(""), in_text(ids, self.vocabulary)
        written = [self._written(i) if there else nothing for i, there in zip(ids, text, strict=True)]
        return self._spans(nothing.join(written), np.array(list(map(len, written)), int))

    def _spans(self, units: Any, lengths: np.ndarray) -> np.ndarray:
        """Characters [n, 2] of tokens that are so many units long each, one after the other."""
        ends = np.cumsum(lengths)
        characters = np.append(self._places(units), 0)  # and one more, for empty spans at the end
        first, last = characters[ends - lengths], characters[np.maximum(ends - 1, 0)]
        return np.where((lengths > 0)[:, None], np.stack([first, last + 1], axis=1), 0)

    @abstractmethod
    def _written(self, token: int) -> Any:
        """What a token, which is no special, is decoded to, in units."""

    @abstractmethod
    def _places(self, units: Any) -> np.ndarray:
        """Which character of the text each unit belongs to."""


class CharTokenizer(_UnitTokenizer):
    """Characters: specials, user symbols, then characters in the order given; another character is unk."""

    kind = "char"

    def __init__(self, characters: Sequence[str], symbols: Sequence[str] = ()) -> None:
        self._vocabulary = [*SPECIALS, *symbols, *characters]
        self._characters = tuple(characters)
        first = len(SPECIALS) + len(symbols)
        table = np.full(0x110000, UNK, np.int32)
        table[[ord(c) for c in characters]] = np.arange(first, first + len(characters), dtype=np.int32)
        super().__init__(symbols, table, len(SPECIALS))

    @property
    def vocab_size(self) -> int:
        return len(self._vocabulary)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return "".join(self.pieces(text_ids(ids, self.vocabulary)))

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        return [self._vocabulary[i] for i in ids]

    def to_bytes(self) -> bytes:
        return json.dumps({"symbols": self.symbols, "characters": "".join(self._characters)}).encode()

    def _units(self, text: str) -> str:
        return text

    def _codes(self, units: str) -> np.ndarray:
        return np.frombuffer(units.encode("utf-32-le"), np.dtype("<u4"))

    def _written(self, token: int) -> str:
        return self._vocabulary[token]

    def _places(self, units: str) -> np.ndarray:
        return np.arange(len(units))


class ByteTokenizer(_UnitTokenizer):
    """UTF-8 bytes as ids 4 to 259 (ByT5, Xue et al. 2021, arXiv:2105.13626, with our specials), then user symbols."""

    kind = "byte"

    def __init__(self, symbols: Sequence[str] = ()) -> None:
        first = len(SPECIALS)
        self._bytes = [b""] * first + [bytes([b]) for b in range(256)] + [s.encode() for s in symbols]
        super().__init__(symbols, np.arange(first, first + 256, dtype=np.int32), first + 256)

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return b"".join(self._bytes[i] for i in text_ids(ids, self.vocabulary)).decode(errors="replace")

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        def show(i: int) -> str:
            if i < len(SPECIALS):
                return SPECIALS[i]
            piece = self._bytes[i]
            return piece.decode() if len(piece) > 1 or 32 <= piece[0] < 127 else f"<0x{piece[0]:02X}>"

        return [show(int(i)) for i in ids]

    def to_bytes(self) -> bytes:
        return json.dumps({"symbols": self.symbols}).encode()

    def _units(self, text: str) -> bytes:
        return text.encode()

    def _codes(self, units: bytes) -> np.ndarray:
        return np.frombuffer(units, np.uint8)

    def _written(self, token: int) -> bytes:
        return self._bytes[token]

    def _places(self, units: bytes) -> np.ndarray:
        # Bytes that are no UTF-8 become replacement characters, and how many the decoder knows best.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        count, characters = 0, []
        for i in range(len(units)):
            made = len(decoder.decode(units[i : i + 1]))
            count += made
            characters.append(count - (made > 0))
        return np.array(characters, int)


class WordTokenizer:
    """Words between white space: specials, user symbols, then words in the order given; another word is unk.

    The text "<unk>" is unk too, as corpora with a closed vocabulary write it. Decoding puts one space between words.
    """

    kind = "word"

    def __init__(self, words: Sequence[str], symbols: Sequence[str] = ()) -> None:
        self.symbols, self._words = tuple(symbols), tuple(words)
        self._vocabulary = [*SPECIALS, *symbols, *words]
        self._ids = {word: i for i, word in enumerate(self._vocabulary) if i >= len(SPECIALS)}

    @property
    def vocab_size(self) -> int:
        return len(self._vocabulary)

    @property
    def vocabulary(self) -> Vocabulary:
        return own_vocabulary(self.vocab_size)

    @property
    def longest(self) -> int:
        return max(map(len, self._vocabulary))

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        get = self._ids.get
        return [np.array([get(word, UNK) for word in text.split()], np.int32) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        # An unknown word is a word of the text, unlike padding: it is shown.
        return " ".join(self.pieces(text_ids(ids, self.vocabulary, keep=(UNK,))))

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        return [self._vocabulary[i] for i in ids]

    def encode_spans(self, text: str) -> np.ndarray:
        return np.array([word.span() for word in re.finditer(r"\S+", text)], int).reshape(-1, 2)

    def decode_spans(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        spans, end = np.zeros((len(ids), 2), int), -1
        for n in np.flatnonzero(in_text(ids, self.vocabulary, keep=(UNK,))).tolist():
            spans[n] = end + 1, end + 1 + len(self._vocabulary[ids[n]])
            end = spans[n, 1]
        return spans

    def to_bytes(self) -> bytes:
        return json.dumps({"symbols": self.symbols, "words": self._words}, ensure_ascii=False).encode()


def text_ids(ids: Sequence[int] | np.ndarray, vocabulary: Vocabulary, *, keep: Sequence[int] = ()) -> list[int]:
    """The ids before the first end-of-sentence as Python integers, without specials but for those in `keep`."""
    dropped = vocabulary.specials.difference(keep)
    text = itertools.takewhile(lambda i: i not in vocabulary.ends, np.asarray(ids, np.int64).tolist())
    return [i for i in text if i not in dropped]


def in_text(ids: Sequence[int] | np.ndarray, vocabulary: Vocabulary, *, keep: Sequence[int] = ()) -> np.ndarray:
    """Which ids are of the text, bool [n]: those that `text_ids` gives."""
    ids, dropped = np.asarray(ids, np.int64), vocabulary.specials.difference(keep)
    return ~np.isin(ids, list(dropped)) & ~np.logical_or.accumulate(np.isin(ids, vocabulary.ends))
