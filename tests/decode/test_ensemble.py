"""Ensembles of step functions, against the definition and against search in plain Python."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.decode.beam import BeamConfig, beam_search
from s2sjax.decode.ensemble import KINDS, combine, ensemble_step
from s2sjax.errors import UserError
from tests.decode.toys import (
    BOS,
    PlainModel,
    every_hypothesis,
    hash_cache,
    hash_step,
    hypotheses,
    plain_beam_search,
    score,
)

V, T = 6, 4
CONFIG = BeamConfig(beam_size=4, nbest=4, max_len=T, length_penalty="gnmt", alpha=0.6)
WIDEST = BeamConfig(beam_size=4 ** (T - 1), nbest=1, max_len=T, length_penalty="gnmt", alpha=0.6)


@functools.partial(jax.jit, static_argnames=("config", "kind"))
def search(seeds, *, config, kind):
    """Of an ensemble with as many members as `seeds` [M, B] has rows; of the one model if `kind` is None."""
    step = functools.partial(hash_step, vocabulary=V)
    caches = tuple(hash_cache(row, config.beam_size) for row in seeds)
    bos = jnp.full(seeds.shape[1], BOS, jnp.int32)
    if kind is None:
        return beam_search(step, caches[0], bos, config)
    return beam_search(ensemble_step([step] * len(seeds), kind), caches, bos, config)


def run(seeds, kind, config=CONFIG):
    return jax.tree.map(np.asarray, search(jnp.asarray(seeds, jnp.uint32), config=config, kind=kind))


def together(log_probs, kind):
    """The definition, float64: members' log-probabilities [M, V] as one."""
    if kind == "probabilities":
        return np.log(np.exp(log_probs).mean(axis=0))
    mean = log_probs.mean(axis=0)
    return mean - np.log(np.exp(mean).sum())


def plain(seeds, kind):
    """The same for a sentence of toys: log-probabilities after a tuple of tokens."""
    models = [PlainModel(seed, V) for seed in seeds]
    return functools.cache(lambda prefix: together(np.stack([model.log_probs(prefix) for model in models]), kind))


SEEDS = np.random.default_rng(0).integers(0, 2**32, (3, 12))


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble_finds_what_plain_search_finds_and_scores_are_the_definitions(kind):
    result = run(SEEDS, kind)
    for row, seeds in enumerate(SEEDS.T):
        log_probs = plain(seeds, kind)
        expected = plain_beam_search(log_probs, V, CONFIG, T)
        found = hypotheses(result, row)
        assert [tokens for tokens, _, _ in found] == [tokens for _, _, tokens in expected]
        for tokens, ranking, log_prob in found:
            forced = sum(log_probs(tokens[:i])[token] for i, token in enumerate(tokens))
            assert log_prob == pytest.approx(forced, abs=1e-5)
            assert ranking == pytest.approx(score(CONFIG, forced, len(tokens)), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_widest_beam_of_an_ensemble_finds_the_true_best(kind):
    seeds = SEEDS[:2]
    result = run(seeds, kind, WIDEST)
    for row, own in enumerate(seeds.T):
        log_probs = plain(own, kind)
        scored = [
            (score(CONFIG, sum(log_probs(h[:i])[token] for i, token in enumerate(h)), len(h)), h)
            for h in every_hypothesis(V, T)
        ]
        assert hypotheses(result, row)[0][0] == max(scored)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble_of_one_model_with_itself_is_that_model(kind):
    alone = run(SEEDS[:1], None)
    for members in (SEEDS[:1], SEEDS[[0, 0, 0]]):
        result = run(members, kind)
        np.testing.assert_array_equal(result.tokens, alone.tokens)
        np.testing.assert_allclose(result.log_probs, alone.log_probs, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_the_order_of_members_nor_the_batch_matters(kind):
    result, turned, shuffled = run(SEEDS, kind), run(SEEDS[::-1], kind), run(SEEDS[:, ::-1], kind)
    np.testing.assert_array_equal(result.tokens, turned.tokens)
    np.testing.assert_allclose(result.scores, turned.scores, atol=1e-5)
    np.testing.assert_array_equal(result.tokens, shuffled.tokens[::-1])
    np.testing.assert_array_equal(result.scores, shuffled.scores[::-1])


def test_the_two_means_differ_and_both_are_distributions():
    log_probs = np.log(np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]))
    arithmetic, geometric = (np.exp(combine(list(jnp.asarray(log_probs)), kind)) for kind in KINDS)
    np.testing.assert_allclose(arithmetic, [0.45, 0.45, 0.1], rtol=1e-6)
    g = math.sqrt(0.08)
    np.testing.assert_allclose(geometric, np.array([g, g, 0.1]) / (2 * g + 0.1), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_normalised_before_they_are_mixed_in_float32(kind):
    logits = np.random.default_rng(1).normal(size=(2, 5, V))
    half = [jnp.asarray(logits[0] + 3, jnp.bfloat16), jnp.asarray(logits[1] - 70, jnp.float32)]
    known = np.stack([np.asarray(x, np.float64) for x in half])
    expected = together(known - np.log(np.exp(known).sum(axis=-1, keepdims=True)), kind)
    if kind == "log_probabilities":
        expected = expected + np.log(np.exp(expected).sum())
        expected -= np.log(np.exp(expected).sum(axis=-1, keepdims=True))
    result = combine(half, kind)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_words_without_a_chance_and_broken_members():
    none, some, broken = jnp.full(3, -jnp.inf), jnp.log(jnp.array([0.5, 0.5, 0.0])), jnp.array([0.0, jnp.nan, 0.0])
    sure = jnp.log(jnp.array([0.0, 0.25, 0.75]))
    np.testing.assert_allclose(np.exp(combine([some, sure], "probabilities")), [0.25, 0.375, 0.375], rtol=1e-6)
    np.testing.assert_allclose(np.exp(combine([some, sure], "log_probabilities")), [0, 1, 0], rtol=1e-6)
    # A member without any possible word: nothing is possible together, or what the others say, as logits.
    assert np.all(combine([some, none], "log_probabilities") == -np.inf)
    np.testing.assert_allclose(jax.nn.softmax(combine([some, none], "probabilities")), [0.5, 0.5, 0.0], rtol=1e-6)
    for kind in KINDS:
        assert np.all(combine([none, none], kind) == -np.inf)
        assert np.all(np.isnan(combine([some, broken], kind)))


def test_vocabularies_of_different_sizes_are_refused():
    with pytest.raises(UserError, match=r"logits of shapes \(1, 2, 5\), \(1, 2, 6\); they must have one vocabulary"):
        combine([jnp.zeros((1, 2, 5)), jnp.zeros((1, 2, 6))], "probabilities")
