"""Multi-head attention: one set of parameters, run over whole sequences or one step at a time with a cache."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from s2sjax.nn.layers import Dense, RMSNorm
from s2sjax.ops.attention import shared_attention, step_attention
from s2sjax.ops.linear import Precision
from s2sjax.ops.local_attention import Band, BandBias, local_attention
from s2sjax.ops.position import Rotation, rotate
from s2sjax.ops.sequence_parallel import split_attention, split_weights


class KeyValue(NamedTuple):
    """Projected keys and values. Keys are rotated already.

    `[B, S, G, C]` of a sequence, `[B, K, L, G, C]` in a cache in which each hypothesis has its own. Where hypotheses
    look at the same ones, in a memory and in a cache that is anchored, keys are `[B, G, C, S]`, values `[B, G, S, C]`.
    """

    key: Array
    value: Array

    def shared(self) -> "KeyValue":
        """Of a sequence, as a memory has them."""
        return KeyValue(self.key.transpose(0, 2, 3, 1), self.value.swapaxes(1, 2))


class View(NamedTuple):
    """What queries see of keys, and from where: the same in all layers of a stack."""

    mask: Array
    """[B, T, S], True = attend."""
    bias: Array | None = None
    """[B, H, T, S] or [1, H, T, S] float32, added to the scores."""
    rotation: Rotation | None = None
    """Of queries, and of keys made at the same positions."""


class LocalView(NamedTuple):
    """What the positions of a sequence see of each other, where that is a band."""

    band: Band
    bias: BandBias = BandBias()
    rotation: Rotation | None = None
    """Of queries and keys."""


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2): `heads` of `head_width` in a model of `width`."""

    width: int
    heads: int
    kv_heads: int
    """Heads of keys and values, each shared by `heads / kv_heads` heads of queries (Ainslie et al. 2023)."""
    head_width: int
    precision: Precision
    use_bias: bool = True
    qk_norm: bool = False
    """RMS normalisation of every head's queries and keys, before they turn (Henry et al. 2020, arXiv:2010.04245, with
    the learned scale for each dimension that later models have)."""
    scale: bool = True
    """Divide scores by the root of the head width. Without it the queries' kernel begins that much smaller (T5)."""

    def setup(self):
        smaller = nn.initializers.variance_scaling(1 if self.scale else 1 / self.head_width, "fan_avg", "uniform")
        self.query = Dense(self.heads * self.head_width, self.precision, self.use_bias, smaller)
        self.key, self.value = (Dense(self.kv_heads * self.head_width, self.precision, self.use_bias) for _ in range(2))
        self.output = Dense(self.width, self.precision, self.use_bias)
        if self.qk_norm:
            self.query_norm, self.key_norm = RMSNorm(), RMSNorm()

    def _split(self, x: Array, heads: int) -> Array:  # [..., H * C] -> [..., H, C]
        return x.reshape(*x.shape[:-1], heads, self.head_width)

    def _join(self, x: Array) -> Array:  # [..., H, C] -> [..., H * C]
        return x.reshape(*x.shape[:-2], self.heads * self.head_width)

    def _queries(self, x: Array, rotation: Rotation | None) -> Array:
        query = self._split(self.query(x), self.heads)
        query = self.query_norm(query) if self.qk_norm else query
        return query if rotation is None else rotate(query, rotation)

    @property
    def _scale(self) -> float | None:
        return None if self.scale else 1.0

    def keys_values(self, x: Array, rotation: Rotation | None = None) -> KeyValue:
        """Keys and values `[B, S, G, C]` of a sequence `[B, S, D]`: for a memory, computed once a sentence."""
        key = self._split(self.key(x), self.kv_heads)
        key = self.key_norm(key) if self.qk_norm else key
        value = self._split(self.value(x), self.kv_heads)
        return KeyValue(key if rotation is None else rotate(key, rotation), value)

    def attend(self, x: Array, memory: KeyValue, view: View | LocalView) -> Array:
        """Attend from `x` [B, T, D] to keys and values `[B, S, G, C]`: [B, T, D]. A local view is of `x` itself."""
        query = self._queries(x, view.rotation)
        if isinstance(view, LocalView):
            context = local_attention(query, *memory, view.band, bias=view.bias, scale=self._scale)
        else:
            context = split_attention(query, *memory, view.mask, bias=view.bias, scale=self._scale)
        return self.output(self._join(context))

    def weights(self, x: Array, memory: KeyValue, view: View) -> Array:
        """The weights by which `attend` attends, averaged over heads: [B, T, S] float32."""
        query = self._queries(x, view.rotation)
        return split_weights(query, memory.key, view.mask, bias=view.bias, scale=self._scale)

    def __call__(self, x: Array, view: View | LocalView) -> Array:
        """Self-attention over `x` [B, T, D]."""
        return self.attend(x, self.keys_values(x, view.rotation), view)

    def empty_cache(self, batch: int, width: int, max_len: int) -> KeyValue:
        """Zeroed keys and values `[B, K, L, G, C]` for `max_len` steps."""
        shape = (batch, width, max_len, self.kv_heads, self.head_width)
        return KeyValue(jnp.zeros(shape, self.precision.activations), jnp.zeros(shape, self.precision.activations))

    def attend_shared(self, x: Array, memory: KeyValue, view: View) -> tuple[Array, Array]:
        """What `attend` gives for `x` [B, K, D] and a memory of S, and what `weights` does, [B, K, S]."""
        query = self._queries(x, view.rotation)
        context, weights = shared_attention(query, [memory], view.mask, bias=view.bias, scale=self._scale)
        return self.output(self._join(context)), jnp.mean(weights, axis=1)

    def step_anchored(
        self, x: Array, place: Array, cache: KeyValue, view: View, prompt: KeyValue | None
    ) -> tuple[Array, KeyValue]:
        """One step of self-attention of K hypotheses, `x` [B, K, D], whose keys and values stay where they are written.

        Args:
            place: scalar, where in the cache the K new keys and values go.
            view: of [B, K] queries on the S keys of the prompt and those of the cache; it masks what is another's past.
            prompt: S keys and values that all hypotheses share, or None.
        """
        key, value = self.keys_values(x, view.rotation).shared()
        # Updated in place: XLA copies neither, as long as nothing but the products reads them.
        cache = KeyValue(
            lax.dynamic_update_slice_in_dim(cache.key, key, place, axis=3),
            lax.dynamic_update_slice_in_dim(cache.value, value, place, axis=2),
        )
        parts = [cache] if prompt is None else [prompt, cache]
        query = self._queries(x, view.rotation)
        context, _ = shared_attention(query, parts, view.mask, bias=view.bias, scale=self._scale)
        return self.output(self._join(context)), cache

    def step(
        self, x: Array, slot: Array, cache: KeyValue, view: View, prompt: KeyValue | None = None
    ) -> tuple[Array, KeyValue]:
        """One step of self-attention of K hypotheses, `x` [B, K, D].

        Args:
            slot: [B, K], where in the cache the new keys and values go.
            view: of [B, K] queries, one a hypothesis, on the S keys of the prompt and the L of the cache.
            prompt: S keys and values that all hypotheses share, or None.
        """
        B, K, L, _, _ = cache.key.shape
        here = lax.broadcasted_iota(jnp.int32, (B, K, L), 2) == slot[..., None]
        new = self.keys_values(x, view.rotation)
        # A select over the cache, not a scatter: rows may stand at different positions, and XLA fuses it everywhere.
        cache = KeyValue(*(jnp.where(here[..., None, None], n[:, :, None], c) for n, c in zip(new, cache, strict=True)))
        context = step_attention(
            self._queries(x, view.rotation), *cache, view.mask, shared=prompt, bias=view.bias, scale=self._scale
        )
        return self.output(self._join(context)), cache
