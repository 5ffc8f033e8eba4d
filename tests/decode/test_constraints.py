"""Constraints against enumeration, a slow twin, and their laws: always met, or reported as not met."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from s2sjax.decode.beam import BeamConfig
from s2sjax.decode.constraints import (
    FREE,
    Constraints,
    Trie,
    block_ngrams,
    build_tries,
    next_states,
    penalise_repetition,
)
from s2sjax.errors import UserError
from tests.decode.toys import (
    BOS,
    EOS,
    LATTICE,
    PAD,
    WORDS,
    A,
    B,
    PlainModel,
    assert_complete,
    assert_lawful,
    assert_same,
    every_hypothesis,
    hypotheses,
    plain_beam_search,
    repeats,
    run_hash,
    run_table,
    score,
)

CASES = 1000
SEEDS = np.arange(CASES) * 104729 + 3


class Rules:
    """Random constraints of many sentences, as arrays and as a predicate; every other sentence has few of them."""

    def __init__(self, seed, count, max_len, *, vocabulary=6, tries=20):
        rng = np.random.default_rng(seed)
        strict = rng.random((4, count)) < 0.5
        self.limits = rng.integers(1, max_len + 1, count)
        self.minimums = np.where(strict[0], rng.integers(1, max_len + 1, count), 1)
        self.allowed = (rng.random((count, vocabulary)) < 0.75) | ~strict[1, :, None]
        self.prefix = np.where(
            np.arange(max_len - 1) < (rng.integers(0, max_len, count) * strict[2])[:, None],
            rng.choice([*WORDS, EOS], (count, max_len - 1), p=[0.23] * 4 + [0.08]),
            FREE,
        )
        self.prefix[np.cumsum(self.prefix == EOS, axis=1) - (self.prefix == EOS) > 0] = FREE  # nothing after the end
        everything = [h[:-1] for h in every_hypothesis(vocabulary, max_len)]
        self.groups = [everything]
        self.groups += [[everything[i] for i in rng.choice(len(everything), 30)] for _ in range(tries)]
        self.roots = np.where(strict[3], rng.integers(1, tries + 1, count), 0)
        self._sets = [{(*h[:i],) for h in group for i in range(len(h) + 1)} for group in self.groups]
        self._whole = [{(*h, EOS) for h in group} for group in self.groups]
        self.arrays = Constraints(
            self.allowed,
            self.prefix.astype(np.int32),
            build_tries(self.groups, vocabulary, (EOS,)),
            self.roots.astype(np.int32),
        )

    def may_begin(self, row, tokens):
        """Whether a hypothesis of sentence `row` may be or begin with these tokens; the lengths are not looked at."""
        prefix = [token for token in self.prefix[row] if token != FREE]
        known = self._whole if tokens[-1] == EOS else self._sets
        return (
            tokens in known[self.roots[row]]
            and self.allowed[row][list(tokens)].all()
            and list(tokens[: len(prefix)]) == prefix[: len(tokens)]
            and (tokens[-1] != EOS or len(tokens) >= len(prefix))
        )

    def obeys(self, row, tokens, ngram=0):
        return (
            self.minimums[row] <= len(tokens) <= self.limits[row]
            and self.may_begin(row, tokens)
            and not (ngram and repeats(tokens, ngram))
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"length_penalty": "none", "no_repeat_ngram": 1},
        {"length_penalty": "power", "alpha": 1.0, "repetition_penalty": 1.7},
        {"length_penalty": "sockeye", "beta": 2.0, "brevity": 0.8, "no_repeat_ngram": 2, "repetition_penalty": 0.5},
    ],
)
def test_the_widest_beam_finds_the_best_of_those_that_obey(fields):
    config = BeamConfig(beam_size=85, nbest=85, max_len=4, **fields)
    rules, references = Rules(0, CASES, 4), SEEDS % 5 + 0.5
    result = run_hash(
        SEEDS,
        config=config,
        max_lengths=rules.limits,
        min_lengths=rules.minimums,
        references=references,
        constraints=rules.arrays,
    )
    model, every, impossible = PlainModel(SEEDS, 6), every_hypothesis(6, 4), 0
    words = {h: [model.log_probs(h[:i])[:, token] for i, token in enumerate(h)] for h in every}
    for row in range(CASES):
        expected = {}
        for h in every:
            if rules.obeys(row, h, config.no_repeat_ngram):
                log_probs = [word[row] for word in words[h]]
                ranked = [
                    p * (config.repetition_penalty if t in h[:i] else 1)
                    for i, (t, p) in enumerate(zip(h, log_probs, strict=True))
                ]
                expected[h] = (score(config, sum(ranked), len(h), references[row]), sum(log_probs))
        assert_complete(result, row, expected)
        impossible += not expected
    assert 100 < impossible < 600, "both kinds are common"


def test_a_narrow_beam_under_constraints_equals_its_plain_twin():
    config = BeamConfig(
        beam_size=3, nbest=3, max_len=5, length_penalty="power", alpha=0.7, no_repeat_ngram=3, repetition_penalty=1.3
    )
    rules, count = Rules(1, 240, 5), 240
    result = run_hash(
        SEEDS[:count],
        config=config,
        max_lengths=rules.limits,
        min_lengths=rules.minimums,
        constraints=rules.arrays,
    )
    for row in range(count):
        expected = plain_beam_search(
            PlainModel(SEEDS[row], 6).log_probs,
            6,
            config,
            rules.limits[row],
            minimum=rules.minimums[row],
            obeys=lambda tokens, row=row: rules.may_begin(row, tokens),
        )
        found = hypotheses(result, row)
        assert [h for h, _, _ in found] == [h for _, _, h in expected]
        np.testing.assert_allclose([f[1:] for f in found], [e[:2] for e in expected], atol=1e-5)


RANDOM, OBEYING = 16, BeamConfig(beam_size=4, nbest=4, max_len=4, no_repeat_ngram=2, repetition_penalty=1.5)
"""Sentences of a case of the next tests, which share a compilation."""


@pytest.mark.parametrize("seed", range(4))
def test_which_numbers_tokens_have_changes_nothing(seed):
    """The same model, constraints and special tokens under other numbers: 0 is an ordinary word there."""
    rng, number = np.random.default_rng(seed), np.array([4, 1, 5, 2, 0, 3])
    rules, table = Rules(seed, RANDOM, 4, tries=3), np.float32(rng.normal(size=(RANDOM, 6, 6)))
    moved, allowed = np.empty_like(table), np.empty_like(rules.allowed)
    moved[:, number[:, None], number], allowed[:, number] = table, rules.allowed
    prefix = np.where(rules.prefix == FREE, FREE, number[rules.prefix]).astype(np.int32)
    (bos, end, pad), limits = number[[BOS, EOS, PAD]].tolist(), rules.limits.astype(np.int32)
    trie = build_tries([[tuple(number[list(h)].tolist()) for h in group] for group in rules.groups], 6, (end,))
    own, trie = (padded_trie(each, states=300, edges=500) for each in (rules.arrays.trie, trie))
    named = run_table(table, OBEYING, rules.arrays._replace(trie=own), limits)
    constraints = Constraints(allowed, prefix, trie, rules.arrays.roots)
    found = run_table(moved, dataclasses.replace(OBEYING, ends=(end,), pad=pad), constraints, limits, bos=bos)
    np.testing.assert_array_equal(found.lengths, named.lengths)
    there = np.arange(4) < named.lengths[..., None]
    assert there.sum() > RANDOM
    np.testing.assert_array_equal(found.tokens[there], number[named.tokens[there]])
    np.testing.assert_allclose(found.scores, named.scores, atol=1e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.1, 3.0, 300.0]))
def test_laws_under_random_constraints(seed, scale):
    count = RANDOM
    rng = np.random.default_rng(seed)
    rules = Rules(seed, count, 4, tries=3)
    rules.minimums[:] = 1
    table = rng.normal(size=(count, 6, 6)) * scale
    table[rng.random((count, 6)) < 0.05] = -np.inf  # nothing may follow
    table[rng.random(table.shape) < 0.1] = -np.inf
    config, limits = OBEYING, rules.limits.astype(np.int32)
    # The size of a random trie differs from case to case; padded, it need not be compiled for each.
    trie = padded_trie(rules.arrays.trie, states=300, edges=500)
    constraints = rules.arrays._replace(trie=trie)
    result = run_table(table, config, constraints, limits)

    assert not np.isnan(result.scores).any() and not np.isnan(result.log_probs).any()
    assert (result.scores[:, :-1] >= result.scores[:, 1:]).all()
    with np.errstate(invalid="ignore"):
        log_probs = special.log_softmax(table, axis=-1)
    for row in range(count):
        found = assert_lawful(result, row, log_probs[row])
        for tokens, ranked, log_prob in found:
            assert rules.obeys(row, tokens, 2)
            assert -math.inf < ranked <= score(config, log_prob, len(tokens)) * (1 - 1e-5) + 1e-5
        assert (result.lengths[row][len(found) :] == 0).all() and (result.scores[row][len(found) :] == -np.inf).all()

    order = rng.permutation(count)
    constraints = Constraints(rules.arrays.allowed[order], rules.arrays.prefix[order], trie, rules.arrays.roots[order])
    assert_same(run_table(table[order], config, constraints, limits[order]), result, rows_right=order)


def padded_trie(trie: Trie, states: int, edges: int) -> Trie:
    """With places that nothing leads to."""
    spare = states - len(trie.first)
    rows, first, targets = (np.asarray(x) for x in trie)
    return Trie(
        np.pad(rows, ((0, spare), (0, 0))), np.pad(first, (0, spare)), np.pad(targets, (0, edges - len(targets)))
    )


def test_a_forced_prefix_is_part_of_the_hypothesis_and_of_its_log_probability():
    # The example of `Constraints`' module.
    config = BeamConfig(beam_size=2, nbest=2, max_len=4, length_penalty="none")
    prefixes = [[A, FREE], [B, B], [A, EOS], [A, A], [FREE, FREE]]
    constraints = Constraints(prefix=np.array(prefixes, np.int32))
    result = run_table(np.stack([LATTICE] * 5), config, constraints)
    found = [[(h, round(math.exp(lp), 4)) for h, _, lp in hypotheses(result, row)] for row in range(5)]
    assert found[0] == [((A, B, EOS), 0.297), ((A, EOS), 0.27)]
    assert found[1] == [((B, B, EOS), 0.036), ((B, B, B, EOS), 0.0036)]
    assert found[2] == [((A, EOS), 0.27)]
    assert found[3] == [], "a never follows a"
    assert found[4] == [((B, EOS), 0.36), ((A, B, EOS), 0.297)]


def test_the_repetition_penalty_ranks_but_the_log_probability_stays_the_models():
    # "b b eos" costs 0.916 + 2.303 + 0.105 nats; with a penalty of 2 the second b costs 4.605.
    config = BeamConfig(beam_size=4, nbest=4, max_len=3, length_penalty="none", repetition_penalty=2.0)
    found = {h: (ranked, lp) for h, ranked, lp in hypotheses(run_table(LATTICE, config), 0)}
    assert found[(B, B, EOS)] == pytest.approx((-5.627, -3.324), abs=5e-4)
    assert found[(A, B, EOS)] == pytest.approx((-1.214, -1.214), abs=5e-4)


@pytest.mark.parametrize(("size", "blocked"), [(1, {4, 5, 6}), (2, {6}), (3, {6}), (4, set())])
def test_ngrams_of_the_docstring(size, blocked):
    sequences = np.array([[[4, 5, 6, 4, 5, PAD, PAD]]])
    block = jax.jit(lambda *arrays: block_ngrams(*arrays, size))
    log_probs = block(np.zeros((1, 1, 8), np.float32), sequences, np.int32(5))
    assert set(np.flatnonzero(np.isneginf(log_probs[0, 0]))) == blocked


def test_a_repeated_word_is_penalised_once_and_the_others_not():
    sequences = np.array([[[4, 5, 4, PAD, PAD]], [[6, 6, 6, PAD, PAD]]])
    penalise = jax.jit(lambda *arrays: penalise_repetition(*arrays, 1.5))
    log_probs = penalise(np.full((2, 1, 8), -2.0, np.float32), sequences, np.int32(3))
    np.testing.assert_array_equal(log_probs[:, 0], [[-2, -2, -2, -2, -3, -3, -2, -2], [-2] * 6 + [-3, -2]])


def test_a_trie_knows_every_edge_over_several_words_of_bits():
    rng = np.random.default_rng(0)
    sequences = [tuple(rng.integers(4, 100, rng.integers(1, 5)).tolist()) for _ in range(300)]
    groups = [sequences[:100], sequences[100:]]
    trie = build_tries(groups, 100, (EOS,))
    roots = np.repeat([0, 1], [100, 200])
    prefixes = [{h[:i] for h in (*group, *((*h, EOS) for h in group)) for i in range(len(h) + 1)} for group in groups]
    bits = np.unpackbits(np.asarray(trie.allowed).view(np.uint8), axis=1, bitorder="little")
    walk, states = jax.jit(next_states), jnp.asarray(roots[:, None], jnp.int32)
    padded = np.array([[*h, EOS, *[PAD] * (4 - len(h))] for h in sequences])
    for i in range(5):
        for row, h in enumerate(sequences):
            if i <= len(h):
                following = {t for t in range(100) if (*h[:i], t) in prefixes[roots[row]]}
                assert set(np.flatnonzero(bits[states[row, 0]])) == following
        states = walk(trie, states, jnp.asarray(padded[:, i, None], jnp.int32))
        ended = padded[:, i] == EOS
        assert not bits[np.asarray(states)[ended, 0]].any(), "nothing follows end-of-sentence"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[[4, 5]], []], "trie 1 has no sequences"),
        ([[[4, EOS]]], "without end-of-sentence"),
        ([[[99]]], r"\[99\] of trie 0"),
    ],
)
def test_a_trie_that_cannot_be_is_named(groups, message):
    with pytest.raises(UserError, match=message):
        build_tries(groups, 50, (EOS,))


def test_constraints_over_another_vocabulary_are_named():
    config = BeamConfig(beam_size=2, max_len=4)
    with pytest.raises(UserError, match="vocabulary mask is over 7 tokens, the step function's logits over 6"):
        run_table(LATTICE, config, Constraints(allowed=np.ones(7, bool)))
    with pytest.raises(UserError, match="trie is over about 96 tokens"):
        run_table(LATTICE, config, Constraints(trie=build_tries([[[4]]], 96, (EOS,))))
