"""How much memory a search takes, estimated before it begins: of settings that somebody else chose.

What grows are keys and values of what was written, logits, and the hypotheses themselves. They are estimated as so many
bytes for each hypothesis and each of its tokens, from the shapes of a model's cache; nothing is computed.
"""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from s2sjax.api import source_shape
from s2sjax.inference.batching import LENGTHS, padded_length, rows_together
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.scorers import Scorer
from s2sjax.inference.sentences import source_batch
from s2sjax.nn.transformer import MOST_ANCHORED

MARGIN = 1 << 28
"""Bytes that a search may take beyond what it would take by default."""
_COPIES = 2  # a loop reads what was and writes what will be
_HYPOTHESIS = 32  # bytes of a token in the lists of hypotheses that live and that are done, and of who wrote it
_WORD = 16  # bytes of a word of the vocabulary: a logit, and what is made of it


@dataclass(frozen=True)
class SearchSize:
    """What decides how large a search is, with the names of `DecodeConfig`.

    Attributes:
      width: hypotheses of a sentence.
    """

    width: int
    batch_size: int
    max_length_factor: float
    max_length_offset: int
    max_new_tokens: int

    @classmethod
    def of(cls, config: DecodeConfig) -> "SearchSize":
        names = [field.name for field in dataclasses.fields(cls) if field.name != "width"]
        return cls(config.width, **{name: getattr(config, name) for name in names})

    def rows(self, length: int) -> int:
        """Sentences in a batch of sources of this many tokens."""
        return rows_together(self.batch_size, length, self.width)

    def tokens(self, length: int) -> int:
        """The most tokens of an output."""
        return self.max_new_tokens or int(self.max_length_factor * length) + self.max_length_offset


@dataclass(frozen=True)
class Footprint:
    """Bytes of a search with one model.

    Attributes:
      token: of each token that a hypothesis may have.
      hypothesis: of each hypothesis besides.
    """

    token: float
    hypothesis: float

    def bytes(self, size: SearchSize, length: int) -> float:
        """Of a batch of sources of this many tokens."""
        return size.rows(length) * size.width * (self.token * size.tokens(length) + self.hypothesis)


def footprint(scorer: Scorer, params, vocab_size: int, *, width: int, heads: int) -> Footprint:
    """Args: params: the scorer's, or their shapes and types. width: hypotheses of a sentence. heads: of attention."""

    def read(params):
        inputs = source_shape(scorer.reads, 1, 8)
        return scorer.encode(params, source_batch(jnp.zeros(inputs.shape, inputs.dtype), jnp.full(1, 8)))

    memory = jax.eval_shape(read, params)

    def cache_bytes(max_len: int) -> int:
        of_width = functools.partial(scorer.init_cache, width=width, max_len=max_len)
        leaves = jax.tree.leaves(jax.eval_shape(of_width, params, memory))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    few, more = cache_bytes(8), cache_bytes(16)
    token = (more - few) / 8
    seen = width if width <= MOST_ANCHORED else 1  # hypotheses whose tokens each one's query meets
    attention = 4 * (heads + 1) * seen
    return Footprint(
        _COPIES * token / width + attention + _HYPOTHESIS,
        _COPIES * max(few - 8 * token, 0) / width + _WORD * vocab_size,
    )


def fitting(size: SearchSize, default: SearchSize, of: Footprint, longest: int) -> int | None:
    """The largest number of sentences in a batch, at most `size.batch_size`, with which a search takes at most `MARGIN`
    more than the default one, for sources of any length; None if there is none.

    Args:
        longest: most tokens of a source that are read.
    """
    room = [(length, of.bytes(default, length) + MARGIN) for length in _lengths(longest)]
    batch_size = size.batch_size
    while any(of.bytes(dataclasses.replace(size, batch_size=batch_size), length) > most for length, most in room):
        if batch_size == 1:
            return None
        batch_size //= 2
    return batch_size


def _lengths(longest: int) -> Iterator[int]:
    yield from (length for length in LENGTHS if length < longest)
    yield padded_length(longest)
