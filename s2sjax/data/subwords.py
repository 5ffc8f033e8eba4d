"""Draws of how a SentencePiece model's pieces make up a word: BPE-dropout, and sampling from a unigram model.

A draw starts from the pieces that a text was cut into, not from the text: what is no ordinary piece (unknown
characters, bytes, user symbols, ends) stays where it stands, and words stay words, so that every sample decodes to the
same text. SentencePiece samples too, but its generator belongs to a thread and cannot be set for each example.
"""

import bisect
import functools
import itertools
import math
import struct
from collections.abc import Callable
from typing import Protocol

import numpy as np

Random = Callable[[], float]
"""Uniform in [0, 1)."""

_WORDS = 1 << 14
"""Words of which it is kept how a draw begins: the most frequent ones are nearly all of a text."""
_LONG = 32
"""A longer word hardly comes twice: nothing is kept of it."""
_MARK = "▁"


class Pieces:
    """The pieces of a SentencePiece model, by id."""

    def __init__(self, model: bytes) -> None:
        from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec  # type: ignore[attr-defined]

        proto = ModelProto.FromString(model)
        self.kind = TrainerSpec.ModelType.Name(proto.trainer_spec.model_type).lower()
        """"unigram", "bpe", "word" or "char"."""
        self.texts = [piece.piece for piece in proto.pieces]
        self.scores = [piece.score for piece in proto.pieces]
        ordinary = [piece.type == ModelProto.SentencePiece.NORMAL for piece in proto.pieces]
        self.ids = {self.texts[i]: i for i in np.flatnonzero(ordinary).tolist()}
        """Ids of the ordinary pieces, which others can be exchanged for."""
        self.fixed = ~np.array(ordinary)
        """Which pieces stay as they are, bool [V]."""
        crossing = any(_MARK in text.lstrip(_MARK) for text in self.ids)
        self._begins = np.array([text.startswith(_MARK) and not crossing for text in self.texts])
        self._ends = np.array([text.endswith(_MARK) for text in self.texts])

    def word_starts(self, tokens: np.ndarray) -> np.ndarray:
        """Which tokens begin a word, bool [n]. No piece of the model is in two words, and a fixed one is a word."""
        starts, fixed = self._begins[tokens], self.fixed[tokens]
        starts[1:] &= ~self._ends[tokens[:-1]]  # a run of spaces is not cut
        starts |= fixed
        starts[1:] |= fixed[:-1]
        starts[:1] = True
        return starts

    def text(self, word: bytes) -> str:
        """The characters of a word, given by its ids, int32."""
        return "".join(self.texts[i] for i in np.frombuffer(word, np.int32).tolist())


class Draw(Protocol):
    """A word of ordinary pieces, cut anew: ids to ids, both as the bytes of int32."""

    def __call__(self, word: bytes, random: Random) -> bytes: ...


class BpeDropout:
    """BPE-dropout (Provilkov, Emelianenko and Voita 2020, arXiv:1910.13267, algorithm 1).

    A word begins as its characters. In every round each merge that is possible is left out with probability `rate`, and
    the best of the others is done; a round that leaves out all of them is the last. A merge is of one place; of merges
    into equal pieces the leftmost is best. With rate 0 this is BPE as SentencePiece does it.
    """

    def __init__(self, pieces: Pieces, rate: float) -> None:
        self._pieces, self._rate = pieces, rate
        self._ranks = np.unique(-np.array(pieces.scores), return_inverse=True)[1].tolist()
        self._characters = functools.lru_cache(maxsize=_WORDS)(self._make_characters)

    def __call__(self, word: bytes, random: Random) -> bytes:
        kept = len(word) <= 4 * _LONG
        characters, first = self._characters(word) if kept else self._make_characters(word)
        if not first:
            return word
        ids, merges, rate = list(characters), first, self._rate
        while merges:
            n = 0
            while n < len(merges) and random() < rate:
                n += 1
            if n == len(merges):
                break
            _, place, piece = merges[n]
            ids[place : place + 2] = [piece]
            # The pairs before and after the piece are others now, and what stands behind has moved.
            merges = [
                merge if merge[1] < place else (merge[0], merge[1] - 1, merge[2])
                for merge in merges
                if not -2 < merge[1] - place < 2
            ]
            if place and (merge := self._merge(ids, place - 1)):
                merges.append(merge)
            if place + 1 < len(ids) and (merge := self._merge(ids, place)):
                merges.append(merge)
            merges.sort()
        return struct.pack(f"{len(ids)}i", *ids)

    def _make_characters(self, word: bytes) -> tuple[list[int], list[tuple[int, int, int]]]:
        """A word as its characters, and the merges of these, the best first."""
        ids = [self._pieces.ids.get(character, -1) for character in self._pieces.text(word)]
        if -1 in ids:  # a character that is no piece of its own, as in a vocabulary that was cut down: the word stays
            return ids, []
        found = (self._merge(ids, place) for place in range(len(ids) - 1))
        return ids, sorted(filter(None, found))

    def _merge(self, ids: list[int], place: int) -> tuple[int, int, int] | None:
        """Of a place whose piece can be merged with the next: rank of the merge, place, and the piece made."""
        texts = self._pieces.texts
        piece = self._pieces.ids.get(texts[ids[place]] + texts[ids[place + 1]])
        return None if piece is None else (self._ranks[piece], place, piece)


_Lattice = list[tuple[list[float], list[int], list[bytes]]]
"""For each end of a piece in a word: sums of the probabilities of the pieces that end there, given that one does; where
they begin; their ids."""


class UnigramSampling:
    """Segmentations drawn by their probability in a unigram model to the power of `alpha` (Kudo 2018,
    arXiv:1804.10959, section 3.3, with l infinite): all of them can come, by forward filtering and backward sampling.

    With alpha 0 all are as probable; the greater it is, the more often the best comes.
    """

    def __init__(self, pieces: Pieces, alpha: float) -> None:
        self._pieces = pieces
        self._bytes = [np.int32(i).tobytes() for i in range(len(pieces.texts))]
        self._scores = {text: alpha * pieces.scores[i] for text, i in pieces.ids.items()}
        self._longest = max(map(len, pieces.ids), default=1)
        self._lattice = functools.lru_cache(maxsize=_WORDS)(self._make_lattice)

    def __call__(self, word: bytes, random: Random) -> bytes:
        known = len(word) <= 4 * _LONG
        lattice = self._lattice(word) if known else self._make_lattice(word)
        end, drawn = len(lattice) - 1, []
        while end:
            reached, begins, ids = lattice[end]
            # The last sum may be a little less than 1.
            n = min(bisect.bisect_right(reached, random()), len(begins) - 1) if len(begins) > 1 else 0
            drawn.append(ids[n])
            end = begins[n]
        return b"".join(reversed(drawn))

    def _make_lattice(self, word: bytes) -> _Lattice:
        text = self._pieces.text(word)
        log_sums = [0.0]
        lattice: _Lattice = [([], [], [])]
        for end in range(1, len(text) + 1):
            begins, ids, logs = [], [], []
            for begin in range(max(0, end - self._longest), end):
                piece = text[begin:end]
                score = self._scores.get(piece)
                if score is not None and log_sums[begin] > -math.inf:
                    begins.append(begin)
                    ids.append(self._bytes[self._pieces.ids[piece]])
                    logs.append(log_sums[begin] + score)
            most = max(logs, default=-math.inf)
            shares = [math.exp(log - most) for log in logs]
            total = sum(shares)
            log_sums.append(most + math.log(total) if shares else -math.inf)
            lattice.append(([share / total for share in itertools.accumulate(shares)], begins, ids))
        return lattice
