"""Draws of how a SentencePiece model's pieces make up a word: BPE-dropout, and sampling from a unigram model.

A draw starts from the pieces that a text was cut into, not from the text: what is no ordinary piece (unknown
characters, bytes, user symbols, ends) stays where it stands, and words stay words, so that every sample decodes to the
same text. SentencePiece samples too, but its generator belongs to a thread and cannot be set for each example.
"""

import bisect
import functools
import itertools
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

Random = Callable[[], float]
"""Uniform in [0, 1)."""

_WORDS = 1 << 14
"""Words whose lattices are kept: the most frequent ones are nearly all of a text."""
_SPLITS = 1 << 17
"""Ways to split words that are kept: some 100 MB."""
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
        self._words: dict[bytes, _Split] = {}
        self._kept = 0

    def __call__(self, word: bytes, random: Random) -> bytes:
        split, rate = self._words.get(word) or self._characters(word), self._rate
        while merges := split.merges:
            n = 0
            while n < len(merges) and random() < rate:
                n += 1
            if n == len(merges):
                break
            split = split.after[n] or self._merge(split, n)
        return split.ids or word

    def _characters(self, word: bytes) -> "_Split":
        text = self._pieces.text(word)
        split = self._split(list(text))
        if len(text) <= _LONG:
            self._keep()
            self._words[word] = split
        return split

    def _merge(self, split: "_Split", n: int) -> "_Split":
        pieces, place = split.pieces, split.merges[n]
        merged = self._split([*pieces[:place], pieces[place] + pieces[place + 1], *pieces[place + 2 :]])
        if sum(map(len, pieces)) <= _LONG:
            self._keep()
            split.after[n] = merged
        return merged

    def _keep(self) -> None:
        self._kept += 1
        if self._kept > _SPLITS:  # to forget everything is simple, and rare
            self._words, self._kept = {}, 0

    def _split(self, pieces: list[str]) -> "_Split":
        ids, scores = self._pieces.ids, self._pieces.scores
        found = ((ids.get(left + right), place) for place, (left, right) in enumerate(itertools.pairwise(pieces)))
        ranked = sorted((-scores[piece], place) for piece, place in found if piece is not None)
        return _Split(pieces, self._ids(pieces), [place for _, place in ranked])

    def _ids(self, pieces: list[str]) -> bytes | None:
        known = [self._pieces.ids.get(piece) for piece in pieces]
        return None if None in known else np.array(known, np.int32).tobytes()


class _Split:
    """A word in pieces on the way from its characters to its last merge."""

    __slots__ = ("after", "ids", "merges", "pieces")

    def __init__(self, pieces: list[str], ids: bytes | None, merges: list[int]) -> None:
        self.pieces = pieces
        self.ids = ids
        """None where a character is no piece of its own, as in models whose vocabulary was cut down."""
        self.merges = merges
        """Places of the pieces that can be merged with the next, the best first."""
        self.after: list[_Split | None] = [None] * len(merges)
        """The word after each merge, once it was needed."""


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
