"""The algorithms of hidden Markov models against the sum, and the best, over all paths of states, in float64."""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.ops.hmm import forward, viterbi
from s2sjax.ops.recurrent import segment_starts

N, V = 3, 4
SEGMENTS = np.array([[1, 1, 1, 1, 1, 0, 0], [1, 1, 2, 2, 2, 3, 0], [0, 0, 0, 0, 0, 0, 0], [1, 2, 2, 2, 2, 2, 2]])
SILENT = np.array([[1, 0, 0, 1, 0, 0, 0], [1, 0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]], bool)
"""Tokens of these segments that nothing emitted, first, middle and last ones among them."""
OBSERVED = (SEGMENTS > 0) & ~SILENT
TOKENS = np.random.default_rng(1).integers(0, V, SEGMENTS.shape)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def parameters(seed=0, scale=2.0):
    """Logarithms of initial, transition and emission probabilities, float64."""
    rng = np.random.default_rng(seed)
    return tuple(log_softmax(rng.normal(size=shape) * scale) for shape in ((N,), (N, N), (N, V)))


@dataclass
class Enumerated:
    """What all paths of states say of one sequence."""

    log_likelihood: float
    following: np.ndarray
    """Distribution of the state after the last token."""
    posteriors: np.ndarray
    transitions: np.ndarray
    """Expected number of times that each transition was taken."""
    best: tuple[int, ...]
    best_log_prob: float


def enumerate_paths(tokens, log_initial, log_transition, log_emission) -> Enumerated:
    paths = list(itertools.product(range(N), repeat=len(tokens)))

    def log_prob(path):
        moves = sum(log_transition[i, j] for i, j in itertools.pairwise(path))
        return log_initial[path[0]] + moves + sum(log_emission[s, x] for s, x in zip(path, tokens, strict=True))

    log_probs = np.array([log_prob(path) for path in paths])
    log_likelihood = np.log(np.exp(log_probs).sum())
    share = np.exp(log_probs - log_likelihood)
    gamma, xi, following = np.zeros((len(tokens), N)), np.zeros((N, N)), np.zeros(N)
    for path, p in zip(paths, share, strict=True):
        gamma[np.arange(len(tokens)), path] += p
        following += p * np.exp(log_transition[path[-1]])
        for i, j in itertools.pairwise(path):
            xi[i, j] += p
    best = int(np.argmax(log_probs))
    return Enumerated(log_likelihood, following, gamma, xi, paths[best], log_probs[best])


def chains():
    """(row, columns of observed tokens, columns of the segment) of every segment."""
    for row, segments in enumerate(SEGMENTS):
        for segment in sorted(set(segments) - {0}):
            here = np.flatnonzero(segments == segment)
            yield row, here[OBSERVED[row, here]], here


def arguments(log_initial, log_transition, log_emission, tokens=TOKENS):
    likelihoods = np.moveaxis(log_emission[:, tokens], 0, -1)
    arrays = (jnp.asarray(x, jnp.float32) for x in (log_initial, log_transition, likelihoods))
    return *arrays, jnp.asarray(OBSERVED), segment_starts(jnp.asarray(SEGMENTS, jnp.int32))


def test_forward_equals_the_sum_over_all_paths_at_every_token_of_every_segment():
    model = parameters()
    predicted, evidence = map(np.asarray, jax.jit(forward)(*arguments(*model)))
    for row, observed, here in chains():
        before, seen = 0.0, 0
        for column in here:
            if column in observed:
                seen += 1
                expected = enumerate_paths(TOKENS[row, observed[:seen]], *model)
                assert evidence[row, column] == pytest.approx(expected.log_likelihood - before, abs=1e-5)
                before, following = expected.log_likelihood, expected.following
            else:
                assert evidence[row, column] == 0
                following = following if seen else np.exp(model[0])
            np.testing.assert_allclose(predicted[row, column], following, atol=1e-6)
    np.testing.assert_array_equal(evidence[SEGMENTS == 0], 0)


def test_viterbi_finds_the_best_of_all_paths_and_its_probability():
    for seed in range(4):
        model = parameters(seed)
        states, log_probs = map(np.asarray, jax.jit(viterbi)(*arguments(*model)))
        np.testing.assert_array_equal(states == -1, ~OBSERVED)
        totals = np.zeros(len(SEGMENTS))
        for row, observed, _ in chains():
            if len(observed):
                expected = enumerate_paths(TOKENS[row, observed], *model)
                assert tuple(states[row, observed]) == expected.best
                totals[row] += expected.best_log_prob
        np.testing.assert_allclose(log_probs, totals, rtol=1e-5)


def test_gradients_by_log_probabilities_are_expected_counts():
    """Eisner 2016: the derivative of the log-likelihood by log p of an event is how often the event is expected."""
    model = parameters()
    *chain, likelihoods, observed, starts = arguments(*model)

    def log_likelihood(log_initial, log_transition):
        return jnp.sum(forward(log_initial, log_transition, likelihoods, observed, starts)[1])

    begins, moves = jax.jit(jax.grad(log_likelihood, argnums=(0, 1)))(*chain)
    expected = [enumerate_paths(TOKENS[row, columns], *model) for row, columns, _ in chains() if len(columns)]
    np.testing.assert_allclose(begins, sum(e.posteriors[0] for e in expected), rtol=1e-4)
    np.testing.assert_allclose(moves, sum(e.transitions for e in expected), rtol=1e-4)


def test_long_and_unlikely_sequences_neither_underflow_nor_lose_their_gradient():
    """3,000 tokens of about 90 nats each; the state that explains the next token best was all but ruled out before."""
    T = 3000
    stay = np.log(np.array([[1 - 1e-6, 1e-6], [1e-6, 1 - 1e-6]]))
    explained = np.arange(T) // 100 % 2
    likelihoods = np.where(explained[:, None] == np.arange(2), -60.0, -120.0)
    alpha, total = np.log([0.5, 0.5]), 0.0
    for x in likelihoods:  # float64
        joint = alpha + x
        step = np.logaddexp(*joint)
        total, alpha = total + step, np.logaddexp(*(joint - step + stay.T).T)

    def log_likelihood(log_transition):
        arrays = jnp.log(jnp.array([0.5, 0.5])), log_transition, jnp.asarray(likelihoods, jnp.float32)[None]
        return jnp.sum(forward(*arrays, jnp.ones((1, T), bool), jnp.zeros((1, T), bool))[1])

    value, gradient = jax.jit(jax.value_and_grad(log_likelihood))(jnp.asarray(stay, jnp.float32))
    assert float(value) == pytest.approx(total, rel=1e-5)
    assert float(jnp.sum(gradient)) == pytest.approx(T - 1, rel=1e-3), "every move but the last is counted"
    assert float(gradient[0, 1] + gradient[1, 0]) == pytest.approx(T // 100 - 1, rel=1e-3)
