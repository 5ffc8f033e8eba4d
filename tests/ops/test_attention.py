"""Attention against float64 loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.ops.attention import (
    dot_product_attention,
    masked_softmax,
    segment_mask,
    shared_attention,
    step_attention,
    window_mask,
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


def loop(query, key, value, mask, bias, scale):
    """Attention one score at a time in float64; query head h reads head h * G // H of keys and values."""
    (B, T, H, C), G = query.shape, key.shape[2]
    context = np.zeros((B, T, H, C))
    for b, t, h in np.ndindex(B, T, H):
        allowed, g = np.flatnonzero(mask[b, t]), h * G // H
        if len(allowed):
            scores = np.array([query[b, t, h] @ key[b, s, g] * scale + bias[b % len(bias), h, t, s] for s in allowed])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            context[b, t, h] = sum(w * value[b, s, g] for w, s in zip(weights, allowed, strict=True))
    return context


@pytest.mark.parametrize("G", [4, 2, 1], ids="{} heads of keys".format)
@pytest.mark.parametrize("rows, scale", [(None, None), (1, 1.0), (2, None)], ids=["plain", "T5", "bias by row"])
def test_dot_product_attention_equals_a_float64_loop(G, rows, scale):
    B, T, S, H, C = 2, 5, 4, 4, 8
    query, key, value = (RNG.normal(size=shape) for shape in ((B, T, H, C), (B, S, G, C), (B, S, G, C)))
    mask = np.asarray(segment_mask(jnp.array(QUERY_SEGMENTS), jnp.array(KEY_SEGMENTS)))
    bias = None if rows is None else RNG.normal(size=(rows, H, T, S))
    expected = loop(query, key, value, mask, np.zeros((1, H, T, S)) if bias is None else bias, scale or C**-0.5)
    arrays = (jnp.array(x, jnp.float32) for x in (query, key, value))
    bias = None if bias is None else jnp.array(bias, jnp.float32)
    got = dot_product_attention(*arrays, jnp.array(mask), bias=bias, scale=scale)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("G", [4, 2], ids="{} heads of keys".format)
@pytest.mark.parametrize("S", [3, 0], ids="{} shared keys".format)
def test_a_step_over_shared_and_own_keys_equals_a_float64_loop_over_all_of_them(G, S):
    B, K, L, H, C = 2, 3, 4, 4, 8
    query, key, value = (RNG.normal(size=shape) for shape in ((B, K, H, C), (B, K, L, G, C), (B, K, L, G, C)))
    shared = [RNG.normal(size=(B, S, G, C)) for _ in range(2)]
    mask, bias = RNG.random((B, K, S + L)) < 0.6, RNG.normal(size=(B, H, K, S + L))
    everything = [
        np.concatenate([np.repeat(common[:, None], K, axis=1), own], axis=2).reshape(B * K, S + L, G, C)
        for common, own in zip(shared, (key, value), strict=True)
    ]
    expected = loop(
        query.reshape(B * K, 1, H, C), *everything, mask.reshape(B * K, 1, S + L),
        np.moveaxis(bias, 2, 1).reshape(B * K, H, 1, S + L), C**-0.5,
    ).reshape(B, K, H, C)  # fmt: skip
    shared = [shared[0].transpose(0, 2, 3, 1), shared[1].swapaxes(1, 2)]
    query, key, value, bias, *shared = (jnp.array(x, jnp.float32) for x in (query, key, value, bias, *shared))
    got = step_attention(query, key, value, jnp.array(mask), shared=tuple(shared) if S else None, bias=bias)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("G", [4, 2], ids="{} heads of keys".format)
@pytest.mark.parametrize("sizes", [(7,), (3, 4), (0, 7)], ids=str)
def test_a_step_over_keys_that_nobody_owns_equals_a_float64_loop(G, sizes):
    B, K, S, H, C = 2, 3, 7, 4, 8
    query, key, value = (RNG.normal(size=shape) for shape in ((B, K, H, C), (B, S, G, C), (B, S, G, C)))
    mask, bias = RNG.random((B, K, S)) < 0.6, RNG.normal(size=(B, H, K, S))
    expected = loop(query, key, value, mask, bias, C**-0.5)
    key, value = key.transpose(0, 2, 3, 1), value.swapaxes(1, 2)
    parts = [np.split(key, [sizes[0]], axis=3), np.split(value, [sizes[0]], axis=2)]
    parts = [tuple(jnp.array(x, jnp.float32) for x in part) for part in zip(*parts, strict=True)][: len(sizes)]
    query, bias = jnp.array(query, jnp.float32), jnp.array(bias, jnp.float32)
    got, weights = shared_attention(query, parts, jnp.array(mask), bias=bias)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(weights.sum(axis=-1), np.broadcast_to(mask.any(-1)[:, None], (B, H, K)), rtol=1e-6)


def test_grouped_queries_do_not_repeat_keys():
    query, key = jnp.zeros((2, 5, 8, 4)), jnp.zeros((2, 7, 2, 4))
    jaxpr = jax.make_jaxpr(dot_product_attention)(query, key, key, jnp.ones((2, 5, 7), bool))
    repeated = math.prod((2, 7, 8, 4))
    assert not [v.aval for e in jaxpr.eqns for v in e.outvars if v.aval.ndim >= 4 and v.aval.size == repeated]


def test_a_window_counts_the_position_itself_and_looks_to_both_sides():
    positions = jnp.arange(5)[None]
    mask = np.asarray(window_mask(positions, positions, 2))[0]
    np.testing.assert_array_equal(mask[2], [False, True, True, True, False])


def test_no_keys_at_all_give_no_weights():
    assert masked_softmax(jnp.zeros((2, 0)), jnp.zeros((2, 0), bool)).shape == (2, 0)


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
