"""Multi-head attention: one set of parameters, run over whole sequences or one step at a time with a cache."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from s2sjax.nn.layers import Dense
from s2sjax.ops.attention import attention_weights, dot_product_attention
from s2sjax.ops.linear import Precision


class KeyValue(NamedTuple):
    """Projected keys and values: `[B, S, H, C]` of a memory, `[B, K, L, H, C]` of a cache."""

    key: Array
    value: Array


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2), width D split over `heads`."""

    heads: int
    width: int
    precision: Precision
    sow_weights: bool = False
    """Sow the weights, averaged over heads [B, T, S], where the caller makes the collection "attention" mutable."""

    def setup(self):
        for name in ("query", "key", "value", "output"):
            setattr(self, name, Dense(self.width, self.precision))

    def _split(self, x: Array) -> Array:  # [..., D] -> [..., H, C]
        return x.reshape(*x.shape[:-1], self.heads, self.width // self.heads)

    def project_memory(self, memory: Array) -> KeyValue:
        """Keys and values `[B, S, H, C]` of a sequence `[B, S, D]`: for a memory, computed once a sentence."""
        return KeyValue(self._split(self.key(memory)), self._split(self.value(memory)))

    def attend(self, x: Array, memory: KeyValue, mask: Array) -> Array:
        """Attend from `x` [B, T, D] to projected keys and values under `mask` [B, T, S]: [B, T, D]."""
        query = self._split(self.query(x))
        if self.sow_weights and self.is_mutable_collection("attention"):
            self.sow("attention", "weights", jnp.mean(attention_weights(query, memory.key, mask), axis=1))
        context = dot_product_attention(query, memory.key, memory.value, mask)
        return self.output(context.reshape(x.shape))

    def __call__(self, x: Array, mask: Array) -> Array:
        """Self-attention over `x` [B, T, D] under `mask` [B, T, T]."""
        return self.attend(x, self.project_memory(x), mask)

    def empty_cache(self, batch: int, width: int, max_len: int) -> KeyValue:
        """Zeroed keys and values `[B, K, L, H, C]` for `max_len` steps."""
        shape = (batch, width, max_len, self.heads, self.width // self.heads)
        return KeyValue(jnp.zeros(shape, self.precision.activations), jnp.zeros(shape, self.precision.activations))

    def step(self, x: Array, position: Array, cache: KeyValue) -> tuple[Array, KeyValue]:
        """One step of causal self-attention: `x` [B, K, D] at `position` [B, K] sees itself and what is before."""
        B, K, L, H, C = cache.key.shape
        here = lax.broadcasted_iota(jnp.int32, (B, K, L), 2) == position[..., None]
        new = self.project_memory(x)
        # A select over the cache, not a scatter: rows may stand at different positions, and XLA fuses it everywhere.
        cache = KeyValue(*(jnp.where(here[..., None, None], n[:, :, None], c) for n, c in zip(new, cache, strict=True)))
        mask = lax.broadcasted_iota(jnp.int32, (B, K, L), 2) <= position[..., None]
        folded = [
            a.reshape(B * K, *a.shape[2:]) for a in (self._split(self.query(x))[:, :, None], *cache, mask[:, :, None])
        ]
        context = dot_product_attention(*folded)
        return self.output(context.reshape(B, K, H * C)), cache
