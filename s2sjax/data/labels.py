"""Labels of texts and tags of words: rows of tokens that have no end of their own."""

import json
from collections.abc import Sequence

import numpy as np

from s2sjax.data.units import SPECIALS, WordTokenizer, text_ids
from s2sjax.vocabulary import UNK, Vocabulary, own_vocabulary

LABEL_KINDS = ("label", "tag")
"""Kinds of tokenizers whose rows do not end with end-of-sentence: as many tokens as there are labels."""


class TagTokenizer(WordTokenizer):
    """Tags between white space, one for each token of a source."""

    kind = "tag"


class LabelTokenizer:
    """A text, but for white space around it, is one label: specials, then labels in the order given; another is unk."""

    kind = "label"
    symbols: tuple[str, ...] = ()

    def __init__(self, labels: Sequence[str]) -> None:
        self._pieces = [*SPECIALS, *labels]
        self._ids = {label: i for i, label in enumerate(self._pieces) if i >= len(SPECIALS)}

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    @property
    def vocabulary(self) -> Vocabulary:
        return own_vocabulary(self.vocab_size)

    @property
    def longest(self) -> int:
        return max(map(len, self._pieces))

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array([self._ids.get(text.strip(), UNK)], np.int32) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return " ".join(self.pieces(text_ids(ids, self.vocabulary)))

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        return [self._pieces[i] for i in ids]

    def encode_spans(self, text: str) -> np.ndarray:
        begin = len(text) - len(text.lstrip())
        return np.array([[begin, begin + len(text.strip())]])

    def decode_spans(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        spans, end = np.zeros((len(ids), 2), int), -1
        known = set(text_ids(ids, self.vocabulary))
        for n, i in enumerate(ids):
            if i in known:
                spans[n] = end + 1, end + 1 + len(self._pieces[i])
                end = spans[n, 1]
        return spans

    def to_bytes(self) -> bytes:
        return json.dumps({"labels": self._pieces[len(SPECIALS) :]}, ensure_ascii=False).encode()
