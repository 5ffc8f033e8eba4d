"""The coverage penalty: against enumeration, under every stop rule, and on cases worked by hand."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax.decode.beam import BeamConfig, beam_search
from s2sjax.decode.constraints import Asked
from s2sjax.decode.coverage import uncovered, with_coverage
from s2sjax.decode.penalty import LEAST_COVERAGE, coverage_penalty
from s2sjax.errors import UserError
from tests.decode.toys import (
    BOS,
    EOS,
    LATTICE,
    SCORE,
    A,
    B,
    PlainModel,
    assert_same,
    every_hypothesis,
    hash_cache,
    hash_step,
    hypotheses,
    mix,
    score,
    table_step,
    to_logits,
)
from tests.tolerance import assert_close

S = 5
SEEDS = np.arange(300) * 7919 + 11
MASK = np.arange(S) < (SEEDS % S + 1)[:, None]
WEIGHT = 0.7


def attention(state, mask, xp):
    """Random attention of each state: a softmax over the source, without its padding."""
    weights = xp.where(mask, xp.exp(to_logits(mix(state ^ np.uint32(12345)), xp, S)), 0)
    return weights / weights.sum(axis=-1, keepdims=True)


@functools.partial(jax.jit, static_argnames=("config", "narrow"))
def search(seeds, mask, limits, *, config, narrow=False):
    def step(tokens, cache):
        logits, cache = hash_step(tokens, cache, vocabulary=6)
        return logits, cache, attention(cache["state"], mask[:, None], jnp)

    width = 1 if narrow else config.beam_size
    return beam_search(
        with_coverage(step),
        uncovered(hash_cache(seeds, width), mask, width),
        jnp.full(seeds.shape, BOS, jnp.int32),
        config,
        Asked(max_lengths=limits),
        bonus=lambda cache: coverage_penalty(cache.coverage, mask, WEIGHT),
    )


def run(config, limits=None, **how):
    limits = np.full(len(SEEDS), config.max_len) if limits is None else limits
    arrays = jnp.asarray(SEEDS, jnp.uint32), jnp.asarray(MASK), jnp.asarray(limits, jnp.int32)
    return jax.tree.map(np.asarray, search(*arrays, config=config, **how))


def plain_bonus(model, h):
    """Of one hypothesis in all sentences, [B]."""
    with np.errstate(over="ignore"):
        covered = sum(attention(np.asarray(model.state(h[:i])), MASK, np) for i in range(len(h)))
    return WEIGHT * np.where(MASK, np.log(np.clip(covered, LEAST_COVERAGE, 1)), 0).sum(axis=-1)


def test_the_widest_beam_finds_what_enumeration_finds():
    config = BeamConfig(beam_size=85, nbest=85, max_len=4, length_penalty="power", alpha=1.0)
    result, model, every = run(config), PlainModel(SEEDS, 6), every_hypothesis(6, 4)
    log_probs = np.stack([model.rescore(h) for h in every], axis=1)
    bonuses = np.stack([plain_bonus(model, h) for h in every], axis=1)
    changed = 0
    for row in range(len(SEEDS)):
        plain = np.array([score(config, lp, len(h)) for h, lp in zip(every, log_probs[row], strict=True)])
        expected = dict(zip(every, zip(plain + bonuses[row], log_probs[row], strict=True), strict=True))
        found = {h: (ranked, log_prob) for h, ranked, log_prob in hypotheses(result, row)}
        assert next(iter(found)) == max(expected, key=expected.get)
        np.testing.assert_allclose([found[h] for h in every], [expected[h] for h in every], atol=2e-5)
        changed += every[np.argmax(plain)] != next(iter(found))
    assert changed > 50, "the penalty decides nothing here"


NARROW = BeamConfig(beam_size=4, nbest=4, max_len=8, length_penalty="gnmt", alpha=0.9)


@pytest.mark.parametrize(
    "fields", [{}, {"stop": "first"}, {"stop": "never", "groups": 2, "diversity": 0.4, "length_penalty": "none"}]
)
def test_scores_are_the_models_over_the_penalty_plus_the_bonus(fields):
    config, model = dataclasses.replace(NARROW, **fields), PlainModel(SEEDS, 6)
    result = run(config, SEEDS % 8 + 1)
    for row in range(0, len(SEEDS), 5):
        for i, (h, ranked, log_prob) in enumerate(hypotheses(result, row)):
            assert log_prob == pytest.approx(model.rescore(h)[row], abs=1e-5)
            expected = score(config, log_prob, len(h)) + plain_bonus(model, h)[row]
            # Diversity is lost by all groups but the first, and only they may rank lower.
            assert ranked == pytest.approx(expected, abs=2e-5) or (config.diversity and ranked < expected)
            assert i == 0 or ranked <= result.scores[row, i - 1]


def test_the_bound_loses_nothing_that_going_on_to_the_limit_would_find():
    bound, limits = dataclasses.replace(NARROW, beam_size=2, nbest=2), SEEDS % 8 + 1
    assert_same(run(bound, limits), run(dataclasses.replace(bound, stop="never"), limits))


def test_coverage_begins_from_one_hypothesis_too():
    every, one = run(NARROW), run(NARROW, narrow=True)
    assert_same(every._replace(scores=every.tokens), one._replace(scores=one.tokens))
    # The step function's softmax over [B, 1, S] may round otherwise than over [B, K, S].
    assert_close(every.scores, one.scores, roundings=SCORE)


def lattice(weight, focus, bonus=None, positions=2):
    """The lattice of `beam_search`; while a word is read, attention is on the source position that `focus` gives it."""
    step, cache = table_step(jnp.asarray(LATTICE, jnp.float32)[None])
    focus = jnp.zeros(6, jnp.int32).at[jnp.array(list(focus))].set(jnp.array(list(focus.values())))
    mask = jnp.ones((1, 2), bool)

    @jax.jit
    def search(cache):
        return beam_search(
            with_coverage(lambda tokens, cache: (*step(tokens, cache), jax.nn.one_hot(focus[tokens], positions))),
            uncovered(cache, mask, 2),
            jnp.full(1, BOS, jnp.int32),
            BeamConfig(beam_size=2, nbest=2, max_len=3, length_penalty="none"),
            bonus=bonus or (lambda cache: coverage_penalty(cache.coverage, mask, weight)),
        )

    return jax.tree.map(np.asarray, search(cache(2)))


def test_the_penalty_prefers_what_covers_its_source():
    # bos and b look at the first word, a at the second: "b eos" leaves it out, "a b eos" looks at both. The step that
    # scores end-of-sentence reads the word before it, and counts: "a eos" covers both too.
    without = hypotheses(lattice(0.0, {A: 1, B: 0}), 0)
    assert [h for h, _, _ in without] == [(B, EOS), (A, B, EOS)]
    covering = hypotheses(lattice(0.1, {A: 1, B: 0}), 0)
    assert [h for h, _, _ in covering] == [(A, B, EOS), (B, EOS)]
    assert covering[0][1] == covering[0][2] == pytest.approx(math.log(0.297), abs=1e-6)
    assert covering[1][1] == pytest.approx(math.log(0.36) + 0.1 * math.log(LEAST_COVERAGE), abs=1e-5)
    assert covering[1][2] == pytest.approx(math.log(0.36), abs=1e-6), "the log-probability stays the model's"


def test_coverage_beyond_one_and_padding_count_for_nothing():
    coverage = jnp.array([[[0.5, 3.0, 0.0], [1.0, 1.0, 0.25]]])
    lacking = coverage_penalty(coverage, jnp.array([[True, True, False]]), 2.0)
    np.testing.assert_allclose(lacking, [[2 * math.log(0.5), 0.0]], rtol=1e-6)
    assert coverage_penalty(coverage, jnp.ones((1, 3), bool), 1.0)[0, 0] == pytest.approx(
        math.log(0.5) + math.log(LEAST_COVERAGE)
    )


@pytest.mark.parametrize("bonus", [math.nan, 0.5])
def test_a_bonus_that_is_no_penalty_is_an_error_of_its_sentence(bonus):
    result = lattice(0.0, {A: 1, B: 0}, bonus=lambda cache: jnp.full((1, 2), bonus))
    assert np.isnan(result.scores).all() and (result.lengths == 0).all()


def test_attention_over_another_source_is_named():
    with pytest.raises(UserError, match=r"attention of shape \(1, 2, 3\), expected \(1, 2, 2\)"):
        lattice(0.1, {A: 1, B: 0}, positions=3)
