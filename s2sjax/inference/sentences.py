"""Batches of sources on their way to a search, and what it found for them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s2sjax.decode.phrases import Phrases
from s2sjax.vocabulary import PAD


class Found(NamedTuple):
    """What a search found for a batch: N hypotheses of each sentence, of length 0 where there are fewer."""

    tokens: jax.Array
    """[B, N, T]"""
    lengths: jax.Array
    """[B, N]"""
    log_probs: jax.Array
    """[B, N]"""
    ranking: jax.Array
    """[B, N]"""


class Sentences(NamedTuple):
    """A batch of sources and what is asked of each one's output: arrays of numpy, or of jax inside a search."""

    inputs: Any
    """[B, S] int32, each source padded at the end."""
    first: Any
    """[B] int32, the token that a search begins from."""
    limits: Any
    """[B] int32, the most tokens."""
    least: Any
    """[B] int32, the fewest tokens, or None."""
    expected: Any
    """[B] float32, how many tokens the brevity penalty expects, or None."""
    prefixes: Any
    """[B, P] int32, what outputs begin with, padded at the end, or None."""
    phrases: Phrases | None
    """What outputs must contain."""
    ids: Any
    """[B] int32, numbers of the sentences: what each one's random key is made from."""


def padded(rows: Sequence[np.ndarray], size: int, length: int) -> np.ndarray:
    """Rows of tokens as `[size, length]` int32, padded at their ends and below."""
    padded = np.full((size, length), PAD, np.int32)
    for row, tokens in zip(padded, rows, strict=False):
        row[: len(tokens)] = tokens
    return padded


def source_batch(inputs):
    """The source's part of a batch from padded tokens [B, S], one sentence a row, padded at the end."""
    positions = jnp.broadcast_to(jnp.arange(inputs.shape[1], dtype=jnp.int32), inputs.shape)
    return {"inputs": inputs, "input_segments": (inputs != PAD).astype(jnp.int32), "input_positions": positions}
