"""What else there is to know of a hypothesis: its tokens one by one, other length conventions, its alignment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from s2sjax.decode.penalty import LENGTH_PENALTIES, length_penalty
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.word_alignment import Alignment


@dataclass(frozen=True, eq=False)
class Details:
    token_log_probs: tuple[float, ...]
    """Of each token, in nats; their sum is the score."""
    scores: Mapping[str, float]
    """The score over each length penalty of `decode.penalty`, with the config's alpha and beta. Other terms of the
    ranking score are not in it."""
    alignment: Alignment | None
    """None for a model without attention over a source."""


@dataclass(frozen=True, eq=False)
class Logits:
    """What a model says at each token of a target that it is given (teacher forcing)."""

    values: np.ndarray = field(repr=False)
    """[T, V] float32: row t scores every word of the vocabulary as token t, after those before it; the softmax of a row
    is a distribution. Those of an ensemble, of a model that copies and of a hidden Markov model are log-probabilities
    already."""
    ids: tuple[int, ...]
    """The target's T tokens, end-of-sentence included, which are columns of `values`."""
    tokens: tuple[str, ...]
    """The same as the tokenizer writes them."""

    @property
    def log_probs(self) -> np.ndarray:
        """[T, V] float32, nats: the log-softmax of `values`."""
        shifted = self.values - self.values.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def length_scores(log_probs: Sequence[float], lengths: Sequence[int], config: DecodeConfig) -> list[dict[str, float]]:
    """Each hypothesis's log-probability over each length penalty; of no tokens, 0."""
    n = jnp.maximum(jnp.asarray(lengths, jnp.int32), 1)
    columns = {
        kind: np.asarray(log_probs) / np.asarray(length_penalty(kind, config.alpha, n, beta=config.beta))
        for kind in LENGTH_PENALTIES
    }
    return [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
