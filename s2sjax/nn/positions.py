"""How a stack of Transformer blocks knows where its tokens stand: what is added to embeddings, scores, or angles."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from s2sjax.nn.attention import View
from s2sjax.nn.block_config import BlockConfig
from s2sjax.nn.layers import Embedding
from s2sjax.ops.attention import window_mask
from s2sjax.ops.position import alibi_slopes, relative_buckets, rotary_frequencies, rotation, sinusoids


class Positions(nn.Module):
    """How a stack knows where its tokens stand."""

    config: BlockConfig
    bidirectional: bool
    """Whether keys ahead of a query have relative buckets of their own."""

    def setup(self):
        c = self.config
        if c.positions == "learned":
            self.learned = Embedding(c.max_positions, c.width)
        if c.positions == "relative":
            init = nn.initializers.normal(c.width**-0.5)
            self.relative_bias = self.param("relative_bias", init, (c.relative_buckets, c.heads), jnp.float32)

    def add(self, x: Array, positions: Array) -> Array:
        """To embeddings `x` [B, T, D] of tokens at `positions` [B, T]."""
        if self.config.positions == "sinusoidal":
            return x + sinusoids(positions, self.config.width).astype(x.dtype)
        return x + self.learned(positions, x.dtype) if self.config.positions == "learned" else x

    def view(self, mask: Array, positions: Array, query: Array, key: Array) -> View:
        """How queries see keys.

        Args:
            mask: [B, T, S], what they may see at all.
            positions: of the queries, [B, T].
            query, key: [B, T] and [B, S], or [1, T] and [1, S] for all rows: numbers whose differences are distances
                wherever `mask` is True. Indices will do, since segments are contiguous.
        """
        c = self.config
        bias = angles = None
        if c.window:
            mask = mask & window_mask(query, key, c.window)
        if c.positions == "rotary":
            angles = rotation(
                positions,
                rotary_frequencies(
                    c.query_width,
                    base=c.rotary_base,
                    scaling=c.rotary_scaling,
                    factor=c.rotary_factor,
                    original_length=c.rotary_length,
                ),
            )
        distance = key[:, None, :] - query[:, :, None]
        if c.positions == "relative":
            buckets = relative_buckets(
                distance,
                bidirectional=self.bidirectional,
                buckets=c.relative_buckets,
                max_distance=c.relative_distance,
            )
            bias = jnp.moveaxis(self.relative_bias[buckets], -1, 1)
        if c.positions == "alibi":
            bias = -alibi_slopes(c.heads)[:, None, None] * jnp.abs(distance)[:, None]
        return View(mask, bias, angles)
