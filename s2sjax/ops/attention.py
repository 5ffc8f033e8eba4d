"""Attention: masks from segments, and scaled dot products (`alignment` has the scores of recurrent decoders).

Masks are True = attend. A query that may attend to nothing (padding) gets zeros, not NaN.
"""

import functools
import operator
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int

# Finite, so that a row without any allowed key stays finite before it is zeroed; fits bfloat16 and float32.
MASKED = -1e9


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
    scores = jnp.where(mask, scores.astype(jnp.float32), MASKED)
    # With an initial value there may also be no keys at all: an empty prompt.
    most = jnp.max(scores, axis=-1, keepdims=True, initial=MASKED)
    scores = jnp.exp(scores - lax.stop_gradient(most))
    scores = jnp.where(mask, scores, 0.0)
    return scores / jnp.maximum(jnp.sum(scores, axis=-1, keepdims=True), 1e-30)


def window_mask(query: Int[Array, "b T"], key: Int[Array, "b S"], window: int) -> Bool[Array, "b T S"]:
    """Attend no further than `window - 1` positions away, on either side (Beltagy et al. 2020, arXiv:2004.05150)."""
    return jnp.abs(query[:, :, None] - key[:, None, :]) < window


def attention_weights(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B S G C"],
    mask: Bool[Array, "B T S"],
    *,
    bias: Float[Array, "b H T S"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B H T S"]:
    """Scaled dot-product attention weights (Vaswani et al. 2017, equation 1), float32.

    Args:
        key: `G` heads; query heads `h * H / G` to `(h + 1) * H / G - 1` share head `h` of the keys (grouped queries,
            Ainslie et al. 2023, arXiv:2305.13245), which are not repeated for it.
        bias: added to the scaled scores; its first dimension is `B`, or 1 for the whole batch.
        scale: of the scores; by default `C ** -0.5`.
    """
    return _softmax(_scores(query, key), mask, bias, query.shape[-1] ** -0.5 if scale is None else scale)


def dot_product_attention(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B S G C"],
    value: Float[Array, "B S G C"],
    mask: Bool[Array, "B T S"],
    *,
    bias: Float[Array, "b H T S"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B T H C"]:
    """Scaled dot-product attention, as in `attention_weights`; products in the operands' type, softmax in float32."""
    return _contexts(attention_weights(query, key, mask, bias=bias, scale=scale), value)


def step_attention(
    query: Float[Array, "B K H C"],
    key: Float[Array, "B K L G C"],
    value: Float[Array, "B K L G C"],
    mask: Bool[Array, "B K N"],
    *,
    shared: tuple[Float[Array, "B G C S"], Float[Array, "B G S C"]] | None = None,
    bias: Float[Array, "b H K N"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B K H C"]:
    """One query a hypothesis over `N = S + L` keys in one softmax: those it shares with all others, then its own.

    Args:
        key: of each hypothesis.
        shared: keys and values, laid out as in `shared_attention`, that all K hypotheses of a row have in common and
            of which no copy is made; `S` is 0 without them.
    """
    B, K, H, C = query.shape
    L, G = key.shape[2:4]
    own = jnp.einsum(
        "bkgrc,bklgc->bgrkl", query.reshape(B, K, G, H // G, C), key, preferred_element_type=jnp.float32
    ).reshape(B, H, K, L)
    scores = own if shared is None else jnp.concatenate([_shared_scores(query, shared[0]), own], axis=-1)
    weights = _softmax(scores, mask, bias, C**-0.5 if scale is None else scale)
    S = scores.shape[-1] - L
    grouped = weights[..., S:].astype(value.dtype).reshape(B, G, H // G, K, L)
    context = jnp.einsum("bgrkl,bklgc->bkgrc", grouped, value).reshape(query.shape)
    return context if shared is None else context + _shared_contexts(weights[..., :S], shared[1])


def shared_attention(
    query: Float[Array, "B K H C"],
    parts: Sequence[tuple[Float[Array, "B G C _"], Float[Array, "B G _ C"]]],
    mask: Bool[Array, "B K N"],
    *,
    bias: Float[Array, "b H K N"] | None = None,
    scale: float | None = None,
) -> tuple[Float[Array, "B K H C"], Float[Array, "B H K N"]]:
    """One query a hypothesis over keys of which none has copies, in one softmax; and its weights.

    A row's K queries meet its keys in one matrix product for each head. The keys may be those of the K hypotheses, each
    query being masked from what is not its past: K times the products, which are few, but nothing is moved.

    Args:
        parts: keys and values, `N` in all, each as the matrix that its product takes: on a CPU the scores of 4
            hypotheses cost a third of what they cost with keys in rows, and contexts a tenth of what `einsum` makes of
            them.
    """
    weights = _softmax(
        jnp.concatenate([_shared_scores(query, key) for key, _ in parts], axis=-1),
        mask, bias, query.shape[-1] ** -0.5 if scale is None else scale,
    )  # fmt: skip
    ends = np.cumsum([key.shape[3] for key, _ in parts])[:-1]
    contexts = [_shared_contexts(w, v) for w, (_, v) in zip(jnp.split(weights, ends, axis=-1), parts, strict=True)]
    return functools.reduce(operator.add, contexts), weights


def _shared_scores(query: Array, key: Array) -> Array:
    """[B, K, H, C] and [B, G, C, S] to float32 [B, H, K, S]."""
    (B, K, H, C), (_, G, _, S) = query.shape, key.shape
    grouped = query.reshape(B, K, G, H // G, C).transpose(0, 2, 3, 1, 4).reshape(B, G, H // G * K, C)
    products = (((3,), (2,)), ((0, 1), (0, 1)))
    return lax.dot_general(grouped, key, products, preferred_element_type=jnp.float32).reshape(B, H, K, S)


def _shared_contexts(weights: Array, value: Array) -> Array:
    """[B, H, K, S] and [B, G, S, C] to [B, K, H, C], in the values' type."""
    (B, H, K, S), (_, G, _, C) = weights.shape, value.shape
    grouped = weights.astype(value.dtype).reshape(B, G, H // G * K, S)
    contexts = lax.dot_general(grouped, value, (((3,), (2,)), ((0, 1), (0, 1))))
    return contexts.reshape(B, H, K, C).swapaxes(1, 2)


def _scores(query: Array, key: Array) -> Array:
    """[B, T, H, C] and [B, S, G, C] to float32 [B, H, T, S]."""
    (B, T, H, C), (_, S, G, _) = query.shape, key.shape
    grouped = query.reshape(B, T, G, H // G, C)
    return jnp.einsum("btgrc,bsgc->bgrts", grouped, key, preferred_element_type=jnp.float32).reshape(B, H, T, S)


def _softmax(scores: Array, mask: Array, bias: Array | None, scale: float) -> Array:
    scores = scores * scale
    return masked_softmax(scores if bias is None else scores + bias, mask[:, None])


def _contexts(weights: Array, value: Array) -> Array:
    """[B, H, T, S] and [B, S, G, C] to [B, T, H, C], in the values' type."""
    (B, H, T, S), (_, _, G, C) = weights.shape, value.shape
    grouped = weights.astype(value.dtype).reshape(B, G, H // G, T, S)
    return jnp.einsum("bgrts,bsgc->btgrc", grouped, value).reshape(B, T, H, C)
