"""Sampling against exact distributions, with and without replacement; a sentence's draws are its own."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from s2sjax.decode import truncation
from s2sjax.decode.constraints import FREE, UNCONSTRAINED, Asked, Constraints, build_tries
from s2sjax.decode.sampling import SampleConfig, sample, sentence_keys
from s2sjax.decode.stochastic import stochastic_beam_search
from s2sjax.errors import UserError
from tests.decode.toys import (
    BOS,
    EOS,
    LATTICE,
    PAD,
    A,
    B,
    PlainModel,
    assert_same,
    every_hypothesis,
    hash_cache,
    hash_step,
    repeats,
    table_step,
)

UNLIKELY = 1e-4
"""Of chi-squared tests: seeds are fixed, so a test that passes goes on passing."""


# What is left of a distribution (a dict from token to probability), in plain Python.


def cut(probs, kept):
    total = sum(probs[token] for token in kept)
    return {token: probs[token] / total for token in kept}


def plain_top_k(probs, k):
    return cut(probs, sorted(probs, key=probs.get, reverse=True)[:k])


def plain_mass(probs, mass, key):
    kept, total = [], 0.0
    for token in sorted(probs, key=key):
        if total < mass:
            kept.append(token)
            total += probs[token]
    return cut(probs, kept)


def plain_top_p(probs, mass):
    return plain_mass(probs, mass, lambda token: -probs[token])


def plain_min_p(probs, share):
    return cut(probs, [token for token in probs if probs[token] >= share * max(probs.values())])


def plain_typical(probs, mass):
    entropy = -sum(p * math.log(p) for p in probs.values())
    return plain_mass(probs, mass, lambda token: abs(-math.log(probs[token]) - entropy))


def plain_proposal(model, prefix, config, limit):
    """What token is drawn after `prefix`, in the order of `SampleConfig`."""
    log_probs = dict(enumerate(np.asarray(model.log_probs(prefix), np.float64).tolist()))
    log_probs.pop(config.pad, None)
    if len(prefix) + 1 == limit:
        log_probs = {token: log_probs[token] for token in config.ends}
    for token in log_probs:
        log_probs[token] *= config.repetition_penalty if token in prefix else 1
    if config.no_repeat_ngram:
        log_probs = {t: lp for t, lp in log_probs.items() if not repeats((*prefix, t), config.no_repeat_ngram)}
    probs = cut(weights := {t: math.exp(lp / config.temperature) for t, lp in log_probs.items()}, weights)
    if config.top_k:
        probs = plain_top_k(probs, config.top_k)
    if config.top_p < 1:
        probs = plain_top_p(probs, config.top_p)
    if config.min_p:
        probs = plain_min_p(probs, config.min_p)
    return plain_typical(probs, config.typical) if config.typical < 1 else probs


def distribution(model, config, vocabulary=6):
    """The probability of every hypothesis that can be drawn."""
    found = {}
    for h in every_hypothesis(vocabulary, config.max_len, ends=config.ends, pad=config.pad):
        steps = [plain_proposal(model, h[:i], config, config.max_len).get(t, 0.0) for i, t in enumerate(h)]
        if probability := math.prod(steps):
            found[h] = probability
    return found


@functools.partial(jax.jit, static_argnames=("config", "draw"))
def draw_hash(seeds, keys, limits, minimums, constraints, *, config, draw):
    return draw(
        functools.partial(hash_step, vocabulary=6),
        hash_cache(seeds, config.samples),
        jnp.full(seeds.shape, BOS, jnp.int32),
        config,
        keys,
        Asked(limits, minimums, constraints=constraints),
    )


def run(seeds, config, *, ids=None, limits=None, minimums=None, constraints=UNCONSTRAINED, draw=sample):
    ids = jnp.arange(len(seeds)) if ids is None else jnp.asarray(ids)
    numbers = [None if x is None else jnp.asarray(x, jnp.int32) for x in (limits, minimums)]
    keys, seeds = sentence_keys(5, ids), jnp.asarray(seeds, jnp.uint32)
    constraints = jax.tree.map(jnp.asarray, constraints)
    return jax.tree.map(np.asarray, draw_hash(seeds, keys, *numbers, constraints, config=config, draw=draw))


def drawn(result):
    """Tokens of all samples, [B][N]."""
    return [
        [tuple(t[:n].tolist()) for t, n in zip(*row, strict=True)]
        for row in zip(result.tokens, result.lengths, strict=True)
    ]


def p_value(counts, probabilities):
    """Of a chi-squared test; cells that expect fewer than 5 are taken together."""
    counts, expected = np.asarray(counts, float), np.asarray(probabilities) * np.sum(counts)
    rare = expected < 5
    if rare.any():
        counts, expected = (
            np.append(counts[~rare], counts[rare].sum()),
            np.append(expected[~rare], expected[rare].sum()),
        )
    if len(counts) == 1:
        return 1.0
    return stats.chisquare(counts, expected * (counts.sum() / expected.sum())).pvalue


PLAIN = SampleConfig(samples=8, max_len=3)


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.5, "top_k": 3},
        {"top_p": 0.6},
        {"min_p": 0.3},
        {"typical": 0.5},
        {"temperature": 1.5, "repetition_penalty": 2.0, "no_repeat_ngram": 2, "top_k": 4, "top_p": 0.9, "min_p": 0.05},
        {"ends": (A, PAD), "pad": None, "repetition_penalty": 1.5, "temperature": 2.0},
    ],
)
def test_samples_have_the_exact_distribution(fields):
    config, seed = dataclasses.replace(PLAIN, **fields), 12
    result, model = run(np.full(2000, seed), config), PlainModel(seed, 6)
    expected = distribution(model, config)
    counts = dict.fromkeys(expected, 0)
    for h in itertools.chain(*drawn(result)):
        assert h in expected, "drawn although it was cut off"
        counts[h] += 1
    assert p_value(list(counts.values()), list(expected.values())) > UNLIKELY
    other = distribution(model, dataclasses.replace(config, temperature=config.temperature * 1.5))
    if set(other) == set(expected):
        assert p_value(list(counts.values()), list(other.values())) < UNLIKELY, "the test would see a small change"
    for row in range(20):
        for h, log_prob, log_q in zip(drawn(result)[row], result.log_probs[row], result.drawn[row], strict=True):
            assert log_prob == pytest.approx(model.rescore(h), abs=1e-5)
            assert log_q == pytest.approx(math.log(expected[h]), abs=1e-4)


@pytest.mark.parametrize(
    ("function", "plain", "setting"),
    [
        (truncation.top_k, plain_top_k, 3),
        (truncation.top_p, plain_top_p, 0.7),
        (truncation.min_p, plain_min_p, 0.2),
        (truncation.typical, plain_typical, 0.6),
    ],
)
def test_truncations_keep_what_their_plain_twins_keep(function, plain, setting):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 9)).astype(np.float32) * 2
    logits[100:] = rng.permuted(np.tile(np.arange(-6, 3) / 2, (100, 1)), axis=1)  # numbers with few bits
    logits[:, 4] = -np.inf
    logits[:3, :] = -np.inf  # nothing to draw at all
    kept = np.asarray(function(jnp.asarray(logits), setting))
    assert (kept[:3] == -np.inf).all()
    for row in range(3, 200):
        probs = cut(
            {t: math.exp(x) for t, x in enumerate(logits[row]) if x > -np.inf}, np.flatnonzero(logits[row] > -np.inf)
        )
        assert set(np.flatnonzero(kept[row] > -np.inf)) == set(plain(probs, setting))
        np.testing.assert_array_equal(kept[row][kept[row] > -np.inf], logits[row][kept[row] > -np.inf])


@pytest.mark.parametrize(
    ("function", "setting", "kept"),
    [
        (truncation.top_k, 2, [0, 1, 2]),
        (truncation.top_p, 0.6 - 1e-6, [0, 1, 2]),
        (truncation.min_p, 0.4, [0, 1, 2]),
        (truncation.typical, 0.5, [1, 2, 3]),
    ],
)
def test_truncations_of_the_docstring(function, setting, kept):
    log_probs = jnp.log(jnp.array([0.4, 0.2, 0.2, 0.15, 0.05]))
    assert np.flatnonzero(function(log_probs, setting) > -jnp.inf).tolist() == kept


@pytest.mark.parametrize("draw", [sample, stochastic_beam_search])
def test_draws_do_not_depend_on_the_batch_its_order_or_the_buffer(draw):
    seeds, ids = np.arange(1000) * 31 + 7, np.arange(1000) + 100
    config = SampleConfig(samples=3, max_len=6, top_p=0.95)
    limits = seeds % 6 + 1
    whole = run(seeds, config, ids=ids, limits=limits, draw=draw)
    order = np.random.default_rng(0).permutation(1000)
    assert_same(run(seeds[order], config, ids=ids[order], limits=limits[order], draw=draw), whole, rows_right=order)
    longer = run(seeds[:50], dataclasses.replace(config, max_len=9), ids=ids[:50], limits=limits[:50], draw=draw)
    np.testing.assert_array_equal(longer.tokens[:, :, :6], whole.tokens[:50])
    assert len({tuple(h) for row in drawn(whole) for h in row}) > 300
    fewer = run(seeds[:50], dataclasses.replace(config, samples=2), ids=ids[:50], limits=limits[:50], draw=draw)
    np.testing.assert_array_equal(fewer.tokens, whole.tokens[:50, :2])


def test_other_keys_give_other_samples_and_the_same_keys_the_same():
    seeds = np.full(200, 12)
    result = run(seeds, PLAIN)
    assert_same(run(seeds, PLAIN), result)
    assert (run(seeds, PLAIN, ids=np.arange(200) + 1).tokens[:-1] == result.tokens[1:]).all(), (
        "a key is a sentence's own"
    )
    assert (result.tokens[0] != result.tokens[1]).any()


@pytest.mark.parametrize("draw", [sample, stochastic_beam_search])
def test_constraints_hold_for_samples_and_what_cannot_be_met_is_reported(draw):
    config = SampleConfig(samples=4, max_len=4)
    tries = [[(A, B), (A,), (B, B, A)], [(A, A)]]
    constraints = Constraints(
        allowed=np.array([[1] * 6, [1] * 6, [1, 1, 1, 1, 0, 1], [1] * 6], bool),
        prefix=np.array([[A, FREE], [FREE, FREE], [FREE, FREE], [A, B]], np.int32),
        trie=build_tries(tries, 6, (EOS,)),
        roots=np.array([0, 0, 1, 1], np.int32),
    )
    result = run([1, 2, 3, 4], config, minimums=[1, 4, 1, 1], constraints=constraints, draw=draw)
    tokens = drawn(result)
    assert {h for h in tokens[0] if h} <= {(A, B, EOS), (A, EOS)} and tokens[0][0]
    assert {h for h in tokens[1] if h} == {(B, B, A, EOS)}
    assert set(tokens[2]) == set(tokens[3]) == {()}
    assert (result.log_probs[2:] == -np.inf).all() and (result.drawn[2:] == -np.inf).all()
    assert (result.tokens[2:] == PAD).all()
    if draw is stochastic_beam_search:
        assert tokens[1] == [(B, B, A, EOS), (), (), ()], "without replacement there is only one"


@pytest.mark.parametrize("draw", [sample, stochastic_beam_search])
def test_nan_logits_are_reported_by_the_sentence_that_met_them(draw):
    tables = np.stack([LATTICE, LATTICE, LATTICE]).astype(np.float32)
    tables[0, BOS, A] = np.nan
    tables[1, BOS] = -np.inf
    step, cache = table_step(jnp.asarray(tables))
    config = SampleConfig(samples=2, max_len=4)
    result = jax.jit(lambda keys: draw(step, cache(2), jnp.full(3, BOS, jnp.int32), config, keys))(
        sentence_keys(0, jnp.arange(3))
    )
    assert np.isnan(result.log_probs[0]).all() and np.isnan(result.drawn[0]).all()
    assert (result.log_probs[1] == -np.inf).all() and (result.drawn[1] == -np.inf).all()
    assert (result.lengths[:2] == 0).all() and (result.tokens[:2] == PAD).all()
    assert np.isfinite(result.log_probs[2]).all() and (result.lengths[2] > 1).all()


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize("special", [{}, {"ends": (A, PAD), "pad": None}])
def test_stochastic_beam_search_draws_without_replacement_in_the_right_proportions(special):
    config, seed, count = SampleConfig(samples=3, max_len=3, **special), 12, 20_000
    result = run(np.full(count, seed), config, draw=stochastic_beam_search)
    q = distribution(PlainModel(seed, 6), config)
    tokens = drawn(result)
    assert all(len(set(row)) == 3 for row in tokens), "without replacement"
    assert (result.perturbed[:, :-1] >= result.perturbed[:, 1:]).all()
    # The second is drawn from what the first leaves: P(x, y) = q(x) q(y) / (1 - q(x)).
    pairs = {(x, y): q[x] * q[y] / (1 - q[x]) for x, y in itertools.permutations(q, 2)}
    counts = dict.fromkeys(pairs, 0)
    for first, second, _ in tokens:
        counts[first, second] += 1
    assert p_value(list(counts.values()), list(pairs.values())) > UNLIKELY
    # How often each is among the three.
    included = dict.fromkeys(q, 0.0)
    for x, y, z in itertools.permutations(q, 3):
        probability = pairs[x, y] * q[z] / (1 - q[x] - q[y])
        for h in (x, y, z):
            included[h] += probability
    for h, probability in included.items():
        among = sum(h in row for row in tokens) / count
        assert among == pytest.approx(probability, abs=5 * math.sqrt(probability * (1 - probability) / count) + 1e-9)
    # Observation 4: an expectation without bias, here of 1 and of the length.
    threshold = result.perturbed[:, -1:]
    weights = np.exp(result.log_probs[:, :-1]) / -np.expm1(-np.exp(result.drawn[:, :-1] - threshold))
    p = {h: math.exp(PlainModel(seed, 6).rescore(h)) for h in q}
    for values, expected in (
        (weights, sum(p.values())),
        (weights * result.lengths[:, :-1], sum(p[h] * len(h) for h in p)),
    ):
        estimates = values.sum(axis=1)
        assert float(estimates.mean()) == pytest.approx(expected, abs=4 * float(estimates.std()) / math.sqrt(count))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"typical": 1.1}, "typical is 1.1"),
        ({"min_p": 1.0}, "min_p is 1.0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"samples": 0}, "samples is 0"),
    ],
)
def test_a_bad_config_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        SampleConfig(**fields)
