"""Attention against float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.ops.attention import (
    additive_scores,
    dot_product_attention,
    masked_softmax,
    multiplicative_scores,
    segment_mask,
)

RNG = np.random.default_rng(0)
QUERY_SEGMENTS = np.array([[1, 1, 2, 2, 0], [1, 2, 3, 0, 0]])
KEY_SEGMENTS = np.array([[1, 2, 2, 2], [1, 1, 3, 0]])


@pytest.mark.parametrize("causal", [False, True])
def test_segment_mask_equals_a_loop(causal):
    query, key = (QUERY_SEGMENTS, QUERY_SEGMENTS) if causal else (QUERY_SEGMENTS, KEY_SEGMENTS)
    mask = np.asarray(segment_mask(jnp.array(query), jnp.array(key), causal=causal))
    for b, t, s in np.ndindex(mask.shape):
        expected = query[b, t] == key[b, s] and key[b, s] != 0 and (not causal or s <= t)
        assert mask[b, t, s] == expected, (b, t, s)


def test_dot_product_attention_equals_a_float64_loop():
    B, T, S, H, C = 2, 5, 4, 3, 8
    query, key, value = (RNG.normal(size=shape) for shape in ((B, T, H, C), (B, S, H, C), (B, S, H, C)))
    mask = np.asarray(segment_mask(jnp.array(QUERY_SEGMENTS), jnp.array(KEY_SEGMENTS)))
    expected = np.zeros((B, T, H, C))
    for b, t, h in np.ndindex(B, T, H):
        allowed = np.flatnonzero(mask[b, t])
        if len(allowed):
            scores = np.exp([query[b, t, h] @ key[b, s, h] / np.sqrt(C) for s in allowed])
            expected[b, t, h] = sum(w * value[b, s, h] for w, s in zip(scores / scores.sum(), allowed, strict=True))
    got = dot_product_attention(*(jnp.array(x, jnp.float32) for x in (query, key, value)), jnp.array(mask))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_query_that_may_attend_to_nothing_gets_zeros_and_a_finite_gradient():
    def total(scores):
        return jnp.sum(masked_softmax(scores, jnp.array([[True, True], [False, False]])) ** 2)

    scores = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(masked_softmax(scores, jnp.zeros((2, 2), bool)), 0)
    assert np.isfinite(jax.grad(total)(scores)).all()
    assert not np.asarray(jax.grad(total)(scores))[1].any()


def test_masked_softmax_survives_huge_scores():
    weights = masked_softmax(jnp.array([[1e30, 5.0, 1e30]]), jnp.array([[True, True, False]]))
    np.testing.assert_allclose(weights, [[1.0, 0.0, 0.0]])


def test_recurrent_attention_scores_equal_loops():
    B, K, S, A = 2, 3, 4, 5
    query, keys, v = RNG.normal(size=(B, K, A)), RNG.normal(size=(B, S, A)), RNG.normal(size=A)
    additive, multiplicative = np.zeros((B, K, S)), np.zeros((B, K, S))
    for b, k, s in np.ndindex(B, K, S):
        additive[b, k, s] = v @ np.tanh(query[b, k] + keys[b, s])
        multiplicative[b, k, s] = query[b, k] @ keys[b, s]
    query, keys, v = (jnp.array(x, jnp.float32) for x in (query, keys, v))
    np.testing.assert_allclose(additive_scores(query, keys, v), additive, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(multiplicative_scores(query, keys), multiplicative, rtol=1e-5, atol=1e-5)
