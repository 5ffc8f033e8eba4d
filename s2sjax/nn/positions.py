"""How a stack of Transformer blocks knows where its tokens stand: what is added to embeddings, scores, or angles."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from s2sjax.nn.attention import LocalView, View
from s2sjax.nn.block_config import BlockConfig
from s2sjax.nn.layers import Embedding
from s2sjax.ops.attention import window_mask
from s2sjax.ops.local_attention import Band, BandBias
from s2sjax.ops.position import Rotation, alibi_slopes, relative_buckets, rotary_frequencies, rotation, sinusoids


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
        if self.config.window:
            mask = mask & window_mask(query, key, self.config.window)
        turned = self._rotation(positions)
        return View(mask, self._bias(key[:, None, :] - query[:, :, None]), turned)

    def local_view(self, band: Band, positions: Array) -> LocalView:
        """How tokens at `positions` [B, T] see each other within a band."""
        far = back = None
        if band.far is not None:
            far = band.far_distances()
            back = -far.swapaxes(2, 3)
        bias = BandBias(*(None if each is None else self._bias(each) for each in (band.near_distances(), far, back)))
        return LocalView(band, bias, self._rotation(positions))

    def _rotation(self, positions: Array) -> Rotation | None:
        c = self.config
        if c.positions != "rotary":
            return None
        frequencies = rotary_frequencies(
            c.query_width,
            base=c.rotary_base,
            scaling=c.rotary_scaling,
            factor=c.rotary_factor,
            original_length=c.rotary_length,
        )
        return rotation(positions, frequencies)

    def _bias(self, distance: Array) -> Array | None:
        """What is added to scores, float32 [..., H, T, S], at distances from query to key [..., T, S]."""
        c = self.config
        if c.positions == "relative":
            buckets = relative_buckets(
                distance,
                bidirectional=self.bidirectional,
                buckets=c.relative_buckets,
                max_distance=c.relative_distance,
            )
            return jnp.moveaxis(self.relative_bias[buckets], -1, -3)
        if c.positions == "alibi":
            return -alibi_slopes(c.heads)[:, None, None] * jnp.abs(distance)[..., None, :, :]
        return None
