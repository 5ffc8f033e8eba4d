"""Attention: masks from segments, scaled dot products for Transformers, additive and multiplicative scores for RNNs.

Masks are True = attend. A query that may attend to nothing (padding) gets zeros, not NaN.
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

# Finite, so that a row without any allowed key stays finite before it is zeroed; fits bfloat16 and float32.
_MASKED = -1e9


def segment_mask(query: Int[Array, "B T"], key: Int[Array, "B S"], *, causal: bool = False) -> Bool[Array, "B T S"]:
    """Attend within the same segment, never to padding (segment 0); with `causal`, never to a later index.

    Segments are contiguous, so comparing indices in the row is comparing positions in the segment.
    """
    mask = (query[:, :, None] == key[:, None, :]) & (key[:, None, :] > 0)
    if causal:
        T, S = mask.shape[1:]
        mask &= lax.broadcasted_iota(jnp.int32, (T, S), 1) <= lax.broadcasted_iota(jnp.int32, (T, S), 0)
    return mask


def masked_softmax(scores: Float[Array, "*any S"], mask: Bool[Array, "*any2 S"]) -> Float[Array, "*any S"]:
    """Softmax over the last axis in float32, zero where `mask` is False, and all zero where nothing is allowed."""
    scores = jnp.where(mask, scores.astype(jnp.float32), _MASKED)
    scores = jnp.exp(scores - lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    scores = jnp.where(mask, scores, 0.0)
    return scores / jnp.maximum(jnp.sum(scores, axis=-1, keepdims=True), 1e-30)


def attention_weights(
    query: Float[Array, "B T H C"], key: Float[Array, "B S H C"], mask: Bool[Array, "B T S"]
) -> Float[Array, "B H T S"]:
    """Scaled dot-product attention weights (Vaswani et al. 2017, equation 1), float32."""
    scores = jnp.einsum("bthc,bshc->bhts", query, key, preferred_element_type=jnp.float32)
    return masked_softmax(scores * query.shape[-1] ** -0.5, mask[:, None])


def dot_product_attention(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B S H C"],
    value: Float[Array, "B S H C"],
    mask: Bool[Array, "B T S"],
) -> Float[Array, "B T H C"]:
    """Scaled dot-product attention; products in the operands' type, softmax in float32."""
    weights = attention_weights(query, key, mask).astype(value.dtype)
    return jnp.einsum("bhts,bshc->bthc", weights, value)


def additive_scores(
    query: Float[Array, "B K A"], keys: Float[Array, "B S A"], v: Float[Array, "A"]
) -> Float[Array, "B K S"]:
    """`v . tanh(query + keys)` for projected queries and keys (Bahdanau et al. 2015, arXiv:1409.0473, A.1.2)."""
    return jnp.einsum("bksa,a->bks", jnp.tanh(query[:, :, None] + keys[:, None]), v.astype(query.dtype))


def multiplicative_scores(query: Float[Array, "B K A"], keys: Float[Array, "B S A"]) -> Float[Array, "B K S"]:
    """`query . keys`: with keys `W h`, the score "general" of Luong et al. 2015 (arXiv:1508.04025, equation 8)."""
    return jnp.einsum("bka,bsa->bks", query, keys)
