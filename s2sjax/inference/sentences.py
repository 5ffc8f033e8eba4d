"""Batches of sources on their way to a search, and what it found for them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s2sjax.decode.phrases import Phrases
from s2sjax.vocabulary import FILL


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
    """[B, S] int32, each source's tokens, or [B, S, W] float32, its vectors; and after them padding, which is whatever
    it is."""
    lengths: Any
    """[B] int32, how many positions of each row are its source's."""
    first: Any
    """[B] int32, the token that a search begins from."""
    limits: Any
    """[B] int32, the most tokens."""
    least: Any
    """[B] int32, the fewest tokens, or None."""
    expected: Any
    """[B] float32, how many tokens the brevity penalty expects, or None."""
    prefixes: Any
    """[B, P] int32, what outputs begin with, and after it `decode.constraints.FREE`; or None."""
    phrases: Phrases | None
    """What outputs must contain."""
    ids: Any
    """[B] int32, numbers of the sentences: what each one's random key is made from."""


def padded(rows: Sequence[np.ndarray], size: int, length: int, *, fill: int = FILL) -> np.ndarray:
    """Rows of tokens as `[size, length]` int32, of vectors as `[size, length, W]` float32; filled up at their ends and
    below."""
    width = np.shape(rows[0])[1:] if len(rows) else ()
    padded = np.full((size, length, *width), fill, np.float32 if width else np.int32)
    for row, values in zip(padded, rows, strict=False):
        row[: len(values)] = values
    return padded


def source_batch(inputs, lengths):
    """The source's part of a batch from tokens [B, S], or vectors [B, S, W]: one source a row, of which so many
    positions, `lengths` [B], are its own."""
    positions = jnp.broadcast_to(jnp.arange(inputs.shape[1], dtype=jnp.int32), inputs.shape[:2])
    segments = (positions < lengths[:, None]).astype(jnp.int32)
    return {"inputs": inputs, "input_segments": segments, "input_positions": positions}
