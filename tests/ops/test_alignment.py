"""The attention of recurrent decoders against float64 loops."""

import jax.numpy as jnp
import numpy as np

from s2sjax.ops.alignment import additive_scores, local_weights, multiplicative_scores, weighted_sum
from tests.loops import sigmoid, softmax

RNG = np.random.default_rng(0)


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


def local_loop(scores, positions, place, window):
    """One query: its scores at the positions of its own source."""
    centre, weights = len(positions) * sigmoid(place), np.zeros(len(positions))
    near = [s for s, position in enumerate(positions) if centre - window <= position <= centre + window]
    for s, weight in zip(near, softmax(scores[near]), strict=True):
        weights[s] = weight * np.exp(-((positions[s] - centre) ** 2) / (2 * (window / 2) ** 2))
    return weights


def test_local_attention_equals_a_loop_with_positions_and_lengths_of_the_own_segment():
    B, K, window = 2, 4, 2
    segments = np.array([[1, 1, 1, 1, 1, 2, 2, 2], [1, 2, 2, 2, 2, 2, 2, 0]])
    positions = np.array([[0, 1, 2, 3, 4, 0, 1, 2], [0, 0, 1, 2, 3, 4, 5, 0]])
    own = np.array([[1, 1, 2, 2], [1, 2, 2, 3]])
    scores, place = RNG.normal(size=(B, K, 8)) * 3, RNG.normal(size=(B, K)) * 2
    expected = np.zeros(scores.shape)
    for b, k in np.ndindex(B, K):
        here = np.flatnonzero(segments[b] == own[b, k])
        if len(here):
            expected[b, k, here] = local_loop(scores[b, k, here], positions[b, here], place[b, k], window)
    got = local_weights(
        jnp.array(scores, jnp.float32), jnp.array(own[:, :, None] == segments[:, None]), jnp.array(positions),
        jnp.array(place, jnp.float32), window,
    )  # fmt: skip
    assert (expected[0, 0, :5] == 0).any() and (expected.sum(axis=-1) > 0).sum() == 7, "the window must matter"
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_local_attention_finds_a_position_even_at_the_ends():
    for place in (-50.0, 50.0):
        weights = local_weights(
            jnp.zeros((1, 1, 3)), jnp.ones((1, 1, 3), bool), jnp.arange(3)[None], jnp.full((1, 1), place), 1
        )
        assert weights.sum() > 0.1


def test_the_context_is_the_weighted_sum_in_the_type_of_the_values():
    weights, values = jnp.array([[[0.25, 0.75]]]), jnp.array([[[4.0, 0.0], [0.0, 8.0]]], jnp.bfloat16)
    context = weighted_sum(weights, values)
    assert context.dtype == jnp.bfloat16
    np.testing.assert_array_equal(context, [[[1.0, 6.0]]])
