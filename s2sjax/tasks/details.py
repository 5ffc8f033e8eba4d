"""What else there is to know of a hypothesis: its tokens one by one, other length conventions, its alignment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from s2sjax.decode.penalty import LENGTH_PENALTIES, length_penalty
from s2sjax.tasks.decoding import DecodeConfig
from s2sjax.tasks.word_alignment import Alignment


@dataclass(frozen=True, eq=False)
class Details:
    token_log_probs: tuple[float, ...]
    """Of each token, in nats; their sum is the score."""
    scores: Mapping[str, float]
    """The score over each length penalty of `decode.penalty`, with the config's alpha and beta. Other terms of the
    ranking score are not in it."""
    alignment: Alignment | None
    """None for a model without attention over a source."""


def length_scores(log_probs: Sequence[float], lengths: Sequence[int], config: DecodeConfig) -> list[dict[str, float]]:
    """Each hypothesis's log-probability over each length penalty; of no tokens, 0."""
    n = jnp.maximum(jnp.asarray(lengths, jnp.int32), 1)
    columns = {
        kind: np.asarray(log_probs) / np.asarray(length_penalty(kind, config.alpha, n, beta=config.beta))
        for kind in LENGTH_PENALTIES
    }
    return [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
