"""Tagging: the hidden states of a hidden Markov model on the best path through a text."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from s2sjax.api import Batch
from s2sjax.data.columns import Column, Examples
from s2sjax.inference.forced import batches
from s2sjax.sharding import to_host


@functools.partial(jax.jit, static_argnames="model")
def _states(model: nn.Module, params, batch: Batch) -> jax.Array:
    states: Any = model.apply({"params": params}, batch, method="tag")
    return states


def tags(
    model: nn.Module,
    params,
    rows: Sequence[np.ndarray],
    *,
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[list[int]]:
    """The state of each token (Viterbi) of each row of tokens, in their order. The model has a method `tag`."""
    split = Examples({"target": Column.from_rows(rows)})
    tagged: list[list[int]] = [[] for _ in rows]
    for examples, batch in batches(split, batch_size):
        states = to_host(_states(model, params, batch))
        for row, example in enumerate(examples):
            tagged[example] = states[row, : len(rows[example])].tolist()
        progress(len(examples))
    return tagged
