"""From attention between tokens to links between words.

Words are what stands between white space in the texts as they were given; where a script puts none, the whole text
between two spaces is one word. The attention of a target word to a source word is the mean over its own tokens of the
sum over the source word's. Each target word is linked to the source word that it attends to most, which is one
direction only: a target word has one link, a source word may have several or none. End-of-sentence and a prompt around
the source are nobody's words, and attention to them is not looked at.
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from s2sjax.data.tokenizer import Tokenizer

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which words of a source and a target belong together, and the attention that says so."""

    links: tuple[tuple[int, int], ...]
    """(source word, target word), both counted from 0, in the order of the target's words."""
    attention: np.ndarray = field(repr=False)
    """[n, S] float32: of each target token, end-of-sentence included, over the source's tokens as they were read."""
    source_tokens: tuple[str, ...]
    target_tokens: tuple[str, ...]

    def pharaoh(self) -> str:
        """The links as "0-0 2-1 1-2", source first."""
        return " ".join(f"{source}-{target}" for source, target in self.links)

    def rounded(self) -> list[list[float]]:
        """The attention in four decimals, which is less than half as long in JSON."""
        return [[round(weight, 4) for weight in row] for row in self.attention.tolist()]


class Side(NamedTuple):
    """One side of a pair."""

    tokens: tuple[str, ...]
    words: np.ndarray
    """[n, words] bool: which words each token belongs to. Seldom more than one: a piece may go across white space."""


def read_words(tokenizer: Tokenizer, text: str, ids: np.ndarray, begin: int = 0, end: int | None = None) -> Side:
    """A text that was read as `ids`: its tokens, perhaps cut, and end-of-sentence.

    Args:
        begin, end: words are those of `text[begin:end]`.
    """
    spans = np.zeros((len(ids), 2), int)
    spans[:-1] = tokenizer.encode_spans(text)[: len(ids) - 1]
    return Side(tuple(tokenizer.pieces(ids.tolist())), token_words(spans, text, begin, end))


def written_words(tokenizer: Tokenizer, ids: np.ndarray) -> Side:
    """The words of what `ids` are decoded to."""
    listed = ids.tolist()
    return Side(tuple(tokenizer.pieces(listed)), token_words(tokenizer.decode_spans(listed), tokenizer.decode(listed)))


def token_words(spans: np.ndarray, text: str, begin: int = 0, end: int | None = None) -> np.ndarray:
    """Which words of `text[begin:end]` tokens that stand at `spans` [n, 2] of the text belong to: [n, words] bool."""
    found = [word.span() for word in _WORD.finditer(text, begin, len(text) if end is None else end)]
    words = np.array(found, int).reshape(-1, 2)
    first, last = spans[:, :1], spans[:, 1:]
    return (first < last) & (first < words[:, 1]) & (words[:, 0] < last)


def align_words(attention: np.ndarray, source: Side, target: Side) -> Alignment:
    """The alignment of a pair by the attention [n, S] between its tokens."""
    links = best_links(word_attention(attention, source.words, target.words))
    return Alignment(links, attention, source.tokens, target.tokens)


def word_attention(attention: np.ndarray, source_words: np.ndarray, target_words: np.ndarray) -> np.ndarray:
    """Attention of words over words from that of tokens [n, S]: mean over a target word's tokens, sum over a source's.

    Args:
        source_words, target_words: which words tokens belong to, [S, source words] and [n, target words] bool.

    Returns:
        [target words, source words]; zeros for a word without a token.
    """
    share = target_words / np.maximum(target_words.sum(axis=0), 1)
    return share.T @ attention @ source_words


def best_links(weights: np.ndarray) -> tuple[tuple[int, int], ...]:
    """(source word, target word) for each target word: the source word that it attends to most, of equals the first.

    Args:
        weights: [target words, source words]; a row of zeros has no link.
    """
    return tuple((int(row.argmax()), j) for j, row in enumerate(weights) if row.any())
