"""Phrases that must occur: against enumeration, by their laws, and the examples of the docstrings."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from s2sjax.decode.beam import BeamConfig
from s2sjax.decode.candidates import Following, best_candidates
from s2sjax.decode.constraints import FREE, Asked, Constraints
from s2sjax.decode.lexical import holds_place
from s2sjax.decode.phrases import (
    BLANK,
    Phrases,
    build_phrases,
    enough,
    fewest,
    next_tokens,
    no_progress,
    update_progress,
)
from s2sjax.decode.sampling import SampleConfig, sample, sentence_keys
from s2sjax.decode.stochastic import stochastic_beam_search
from s2sjax.errors import UserError
from tests.decode.toys import (
    BOS,
    EOS,
    LATTICE,
    PAD,
    SCORE,
    UNK,
    WORDS,
    A,
    B,
    PlainModel,
    assert_complete,
    assert_lawful,
    assert_same,
    every_hypothesis,
    hypotheses,
    repeats,
    run_hash,
    run_table,
    score,
)
from tests.tolerance import assert_close

PLAIN = BeamConfig(beam_size=2, nbest=2, max_len=4, length_penalty="none")


def contains(tokens, phrase):
    return any(tuple(tokens[i : i + len(phrase)]) == tuple(phrase) for i in range(len(tokens) - len(phrase) + 1))


def random_groups(rng, count, words, most=3, longest=3):
    """Phrases of sentences, in every fifth none; of few words, so that they overlap and repeat."""
    return [
        [tuple(rng.choice(words, rng.integers(1, longest + 1)).tolist()) for _ in range(rng.integers(1, most + 1))]
        if row % 5
        else []
        for row in range(count)
    ]


def arrays(groups, vocabulary=6):
    return build_phrases(groups, vocabulary, (EOS,))


def test_the_widest_beam_finds_the_best_of_those_that_contain_the_phrases():
    # 4 tokens but padding, at most 5 of them: 121 hypotheses.
    count, vocabulary, rng = 150, 5, np.random.default_rng(0)
    config = BeamConfig(beam_size=121, nbest=121, max_len=5, length_penalty="power", alpha=1.0, no_repeat_ngram=2)
    seeds, words = np.arange(count) * 7919 + 5, (UNK, BOS, A)
    groups = random_groups(rng, count, words)
    limits, minimums = rng.integers(3, 6, count), np.where(rng.random(count) < 0.3, 4, 1)
    prefix = np.where(rng.random((count, 1)) < 0.3, rng.choice(words, (count, 1)), FREE)
    allowed = (rng.random((count, vocabulary)) < 0.85) | (np.arange(vocabulary) == EOS)
    result = run_hash(
        seeds,
        config=config,
        vocabulary=vocabulary,
        max_lengths=limits,
        min_lengths=minimums,
        constraints=Constraints(allowed, prefix.astype(np.int32), phrases=arrays(groups, vocabulary)),
    )
    every, model = every_hypothesis(vocabulary, 5), PlainModel(seeds, vocabulary)
    log_probs = {h: model.rescore(h) for h in every}
    impossible = 0
    for row in range(count):
        begun = tuple(token for token in prefix[row] if token != FREE)
        expected = {
            h: (score(config, log_probs[h][row], len(h)), log_probs[h][row])
            for h in every
            if minimums[row] <= len(h) <= limits[row]
            and h[: len(begun)] == begun
            and all(allowed[row][list(h)])
            and all(contains(h, phrase) for phrase in groups[row])
            and not repeats(h, 2)
        }
        assert_complete(result, row, expected)
        impossible += not expected
    assert 30 < impossible < 120, "both kinds are common"


NARROW = BeamConfig(beam_size=3, nbest=3, max_len=12, length_penalty="gnmt", alpha=0.6)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    config=st.sampled_from([NARROW, dataclasses.replace(NARROW, beam_size=4, groups=2, diversity=0.5, stop="first")]),
    scale=st.sampled_from([0.1, 3.0, 30.0]),
)
def test_laws_on_random_step_tables_and_phrases(seed, config, scale):
    count, rng = 16, np.random.default_rng(seed)
    table = (rng.normal(size=(count, 6, 6)) * scale).astype(np.float32)
    groups = random_groups(rng, count, WORDS)
    groups[1] = [(A, B, A), (B, A, B), (UNK, A, A)]  # so that C and L are always the same
    limits = rng.integers(2, 13, count).astype(np.int32)
    result = run_table(table, config, Constraints(phrases=arrays(groups)), limits)
    assert not np.isnan(result.scores).any() and (result.scores[:, :-1] >= result.scores[:, 1:]).all()
    log_probs = special.log_softmax(table, axis=-1)
    for row in range(count):
        found = assert_lawful(result, row, log_probs[row])
        # There is a hypothesis for sure if the phrases fit one after another, and none if their longest does not fit.
        kept = np.asarray(arrays(groups[row : row + 1]).tokens)[0] != BLANK
        assert found or limits[row] < kept.sum() + 1
        assert not found or limits[row] > kept.sum(axis=1).max()
        for tokens, ranked, log_prob in found:
            assert all(contains(tokens, phrase) for phrase in groups[row]) and len(tokens) <= limits[row]
            if config.groups == 1:
                assert ranked == pytest.approx(log_prob / ((5 + len(tokens)) / 6) ** 0.6, rel=1e-5, abs=1e-4)
    order = rng.permutation(count)
    moved = Constraints(phrases=arrays([groups[row] for row in order]))
    assert_same(run_table(table[order], config, moved, limits[order]), result, rows_right=order)


def reached(tokens, phrase):
    """How many tokens the longest beginning of the phrase has that these end with."""
    return next(n for n in range(min(len(phrase), len(tokens)), -1, -1) if tokens[len(tokens) - n :] == phrase[:n])


def plain_places(candidates, most, width):
    """Who of [(total, bank, ...)] gets a place: what is left of a bank's goes to the next, and round once more."""
    banks = [[c for c in sorted(candidates, key=lambda c: -c[0]) if c[1] == b] for b in range(most + 1)]
    given = [width // (most + 1)] * (most + 1)
    given[0] += width % (most + 1)
    taken, spare = [0] * (most + 1), 0
    for again in (0, 1):
        for b, bank in enumerate(banks):
            new = min(len(bank) - taken[b], spare + (0 if again else given[b]))
            spare += (0 if again else given[b]) - new
            taken[b] += new
    return sorted((c for bank, n in zip(banks, taken, strict=True) for c in bank[:n]), key=lambda c: -c[0])


def plain_search(log_probs, config, limit, phrases):
    """The slow twin: dynamic beam allocation for one sentence in plain Python. Returns [(score, log_prob, tokens)]."""
    K, most = config.beam_size, sum(map(len, phrases))
    shared = [max((reached(other, p[:-1]) for other in phrases if other != p), default=0) for p in phrases]
    live, pool = [(0.0, 0, ())], []
    for n in range(1, limit + 1):
        every = {}
        for total, _, h in live:
            met = all(contains(h, phrase) for phrase in phrases)
            for token in [EOS] if n == limit else range(1, 6):
                if token != EOS or met:
                    every[(*h, token)] = total + log_probs(h)[token]
        chosen = set(sorted(every, key=every.get, reverse=True)[: 2 * K])
        for _, _, h in live:
            its = {new for new in every if new[:-1] == h}
            chosen |= set(sorted(its, key=every.get, reverse=True)[:1])
            wanted = {EOS} | {phrase[reached(h, phrase)] for phrase in phrases if not contains(h, phrase)}
            chosen |= {new for new in its if new[-1] in wanted}
        candidates = []
        for h in chosen:
            unmet = [(phrase, s) for phrase, s in zip(phrases, shared, strict=True) if not contains(h, phrase)]
            bank = sum(len(p) for p, _ in unmet) - max((reached(h, p) for p, _ in unmet), default=0)
            ahead = max((reached(h, p) - s for p, s in unmet), default=0)
            fewest = sum(len(p) - s for p, s in unmet) - max(ahead, 0)
            if h[-1] == EOS or fewest + 1 <= limit - n:
                candidates.append((every[h], bank, h))
        ended = [(score(config, t, n), t, h) for t, _, h in plain_places(candidates, most, K) if h[-1] == EOS]
        pool = sorted(pool + ended, key=lambda f: -f[0])[:K]
        live = plain_places([c for c in candidates if c[2][-1] != EOS], most, K)
        if len(pool) == K and live and score(config, live[0][0], limit) <= pool[-1][0]:
            break
    return pool


def test_a_narrow_beam_equals_its_plain_twin():
    count, rng = 200, np.random.default_rng(1)
    config = BeamConfig(beam_size=4, nbest=4, max_len=9, length_penalty="power", alpha=0.8)
    groups, seeds = random_groups(rng, count, WORDS, most=2), np.arange(count) * 104729 + 13
    groups[1] = [(A, B, A), (B, UNK, A)]
    limits, phrases = rng.integers(2, 10, count), arrays(groups)
    result = run_hash(seeds, config=config, max_lengths=limits, constraints=Constraints(phrases=phrases))
    for row in range(count):
        kept = [tuple(t for t in phrase if t != BLANK) for phrase in np.asarray(phrases.tokens)[row].tolist()]
        expected = plain_search(PlainModel(seeds[row], 6).log_probs, config, limits[row], [p for p in kept if p])
        found = hypotheses(result, row)
        assert [h for h, _, _ in found] == [h for _, _, h in expected]
        np.testing.assert_allclose([f[1:] for f in found], [e[:2] for e in expected], atol=1e-5)
    padding = [(0, 0), (0, 2)]
    wider = Phrases(
        jnp.pad(phrases.tokens, [*padding, (0, 4)], constant_values=BLANK), jnp.pad(phrases.shared, padding)
    )
    padded = run_hash(seeds, config=config, max_lengths=limits, constraints=Constraints(phrases=wider))
    assert_same(padded, result)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_sentences_without_phrases_are_searched_as_ever(beam_size):
    seeds = np.arange(300) * 31 + 2
    config = dataclasses.replace(NARROW, beam_size=beam_size, nbest=beam_size)
    groups = [[(A, B), (B, UNK)] if row % 3 == 0 else [] for row in range(300)]
    limits, minimums = seeds % 10 + 3, seeds % 4
    run = functools.partial(run_hash, seeds, config=config, max_lengths=limits, min_lengths=minimums)
    mixed, plain = run(constraints=Constraints(phrases=arrays(groups))), run()
    free = np.arange(300) % 3 > 0
    # Two programs, which need not round every copy of a sum alike.
    assert_same(mixed._replace(scores=mixed.tokens), plain._replace(scores=plain.tokens), free, free)
    assert_close(mixed.scores[free], plain.scores[free], roundings=SCORE)
    assert (mixed.tokens[~free] != plain.tokens[~free]).any()


def test_the_lattice_of_the_docstring():
    groups = [[], [(A,)], [(B, B)], [(B, B), (A, B)], [(B, A)]]
    result = run_table(np.stack([LATTICE] * 5), PLAIN, Constraints(phrases=arrays(groups)))
    found = [[(h, round(math.exp(lp), 4)) for h, _, lp in hypotheses(result, row)] for row in range(5)]
    assert found[0] == [((B, EOS), 0.36), ((A, B, EOS), 0.297)]
    assert found[1] == [((A, B, EOS), 0.297), ((A, B, B, EOS), 0.0297)]
    assert found[2] == [((B, B, EOS), 0.036), ((A, B, B, EOS), 0.0297)]
    assert found[3] == [((A, B, B, EOS), 0.0297)]
    assert found[4] == [], "a never follows b"


needs = jax.jit(lambda phrases, progress: (enough(phrases, progress), fewest(phrases, progress)))
step = jax.jit(lambda *state: (new := update_progress(*state), next_tokens(state[0], new)))
empty = jax.jit(lambda phrases: no_progress(phrases, 1))


def follow(phrases, tokens):
    """Of one hypothesis of one sentence, after each token: its progress, what is needed, and what comes next."""
    progress = empty(phrases)
    for token in tokens:
        progress, following = step(phrases, progress, jnp.full((1, 1), token, jnp.int32))
        yield progress, *(int(n[0, 0]) for n in needs(phrases, progress)), np.asarray(following)[0, 0].tolist()


def test_an_interrupted_phrase_goes_on_from_its_longest_beginning_that_fits():
    x, y = 4, 5
    phrases = arrays([[(x, x, y)]])
    after = list(follow(phrases, [x, x, x, y]))
    assert [upper for _, upper, _, _ in after] == [2, 1, 1, 0]
    assert [following for *_, following in after] == [[x], [y], [y], [BLANK]]
    assert [upper for _, upper, _, _ in follow(phrases, [x, y, x])] == [2, 3, 2]


def test_what_is_needed_is_between_the_bounds_and_a_next_token_lowers_the_upper_one():
    rng, tight = np.random.default_rng(0), 0
    for _ in range(40):
        (group,) = random_groups(rng, 2, (4, 5, 6), most=2, longest=3)[1:]
        phrases = arrays([[*group, (7, 7, 7), (7, 8)]], 9)  # so that C and L are always the same
        tokens = rng.choice([4, 5, 6, 7, 8], 6).tolist()
        for n, (progress, upper, lower, following) in enumerate(follow(phrases, tokens), 1):
            wanted = [tuple(t for t in row if t != BLANK) for row in np.asarray(phrases.tokens)[0].tolist()]
            wanted = [phrase for phrase in wanted if phrase and not contains(tokens[:n], phrase)]
            assert bool(upper) == bool(lower) == bool(wanted)
            needed = shortest(tuple(tokens[:n]), wanted)
            assert lower <= needed <= upper
            tight += lower == needed
            if wanted:
                after = [step(phrases, progress, jnp.full((1, 1), t, jnp.int32))[0] for t in following if t != BLANK]
                assert min(int(needs(phrases, state)[0][0, 0]) for state in after) < upper
    assert tight > 200


def shortest(text, wanted):
    """How many tokens the shortest continuation has that brings all that is wanted, by trying all orders."""
    if not wanted:
        return 0
    best = 99
    for phrase in wanted:
        n = reached(text, phrase)
        new = (*text, *phrase[n:])
        left = [other for other in wanted if not contains(new, other)]
        best = min(best, len(phrase) - n + shortest(new, left))
    return best


@pytest.mark.parametrize(
    ("banks", "most", "width", "expected"),
    [
        ([0, 0, 0, 0], 0, 3, [1, 1, 1, 0]),  # one bank gets all
        ([2, 2, 2, 1, 1, 1, 0, 0, 0], 2, 5, [1, 0, 0, 1, 0, 0, 1, 1, 1]),  # 1 each, and the remainder to bank 0
        ([2, 2, 2, 1, 1, 1, 0], 2, 6, [1, 1, 0, 1, 1, 1, 1]),  # bank 0 has 2 places, one candidate
        ([2, 1, 1, 1, 0, 0, 0], 2, 6, [1, 1, 1, 0, 1, 1, 1]),  # what the last cannot fill goes round
        ([4, 4, 3, 3, 3], 4, 2, [0, 0, 1, 1, 0]),  # fewer places than banks: the least that have candidates
        ([1, 1, 0], 1, 8, [1, 1, 1]),
    ],
)
def test_the_beam_is_divided_among_banks(banks, most, width, expected):
    totals = jnp.where(jnp.arange(9) < len(banks), -jnp.arange(9.0), -jnp.inf)[None]
    bank = jnp.zeros((1, 9), jnp.int32).at[0, : len(banks)].set(jnp.array(banks))
    held = jax.jit(holds_place, static_argnums=(3, 4))(totals, bank, jnp.array([most]), 6, width)
    assert held[0].astype(int).tolist() == expected + [0] * (9 - len(banks))


def test_candidates_are_the_best_of_all_the_best_of_each_and_what_was_asked_for():
    rng, (count, width, vocabulary) = np.random.default_rng(0), (48, 4, 70)
    logits = rng.normal(size=(count, width, vocabulary)).astype(np.float32) * 3
    live = -rng.exponential(6, (count, width)).astype(np.float32)  # far apart: the best of all are mostly one's
    live[::7, 2:] = -np.inf
    also = rng.integers(0, vocabulary, (count, width, 3)).astype(np.int32)
    also[:, :, 2] = also[:, :, 0]
    forced = np.where(np.arange(count) % 5 == 0, also[:, 0, 0], FREE).astype(np.int32)[:, None]
    early = rng.random((count, width)) < 0.5
    found, _ = jax.jit(functools.partial(best_candidates, width=8, ends=(EOS,), pad=PAD))(
        logits, live, Following(forced, early, also=also)
    )
    log_probs = special.log_softmax(logits, axis=-1)
    for row in range(count):
        totals = {
            (k, t): live[row, k] + log_probs[row, k, t]
            for k in range(width)
            for t in range(vocabulary)
            if live[row, k] > -np.inf and t != PAD and forced[row] in (t, FREE) and not (t == EOS and early[row, k])
        }
        wanted = set(sorted(totals, key=totals.get, reverse=True)[:8])
        for k in range(width):
            wanted |= {(k, t) for t in also[row, k]} & set(totals)
            wanted |= set(sorted((c for c in totals if c[0] == k), key=totals.get, reverse=True)[:1])
        total, log_prob, parents, tokens = (np.asarray(x)[row] for x in found)
        got = [(int(k), int(t)) for k, t, x in zip(parents, tokens, total, strict=True) if x > -np.inf]
        assert len(set(got)) == len(got) and set(got) == wanted
        np.testing.assert_allclose(total[total > -np.inf], [totals[c] for c in got], atol=1e-5)
        np.testing.assert_allclose(log_prob[total > -np.inf], [log_probs[row][c] for c in got], atol=1e-5)


def test_phrases_that_others_contain_are_left_out():
    phrases = build_phrases([[(4, 5), (4, 5), (5,), (9, 4, 5)], [], [(4, 5), (5, 6), (5, 5)]], 10, (EOS,))
    assert phrases.tokens.shape == (3, 4, 4) and (phrases.tokens[1] == BLANK).all()
    assert phrases.tokens[0, 0].tolist() == [9, 4, 5, BLANK] and (phrases.tokens[0, 1:] == BLANK).all()
    assert phrases.shared.tolist() == [[0] * 4, [0] * 4, [0, 1, 1, 0]]


@pytest.mark.parametrize("phrase", [[], [4, EOS], [17], [-1]])
def test_a_phrase_that_cannot_be_is_named(phrase):
    with pytest.raises(UserError, match=r"phrase \[.*\] of sentence 1 needs at least one token, ids from 0 to 9"):
        build_phrases([[], [[4], phrase]], 10, (EOS,))


@pytest.mark.parametrize("draw", [sample, stochastic_beam_search])
def test_draws_refuse_phrases(draw):
    constraints, keys = Constraints(phrases=arrays([[(A,)]])), sentence_keys(0, jnp.arange(1))
    with pytest.raises(UserError, match="cannot be made to use given phrases.*use beam search"):
        draw(
            lambda tokens, cache: (jnp.zeros((1, 2, 6)), cache),
            jnp.zeros((1, 2)),
            jnp.full(1, BOS, jnp.int32),
            SampleConfig(samples=2, max_len=4),
            keys,
            Asked(constraints=constraints),
        )
