"""Beam search against enumeration and a slow twin in plain Python, on cases worked by hand, and by its laws."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from s2sjax.decode.beam import BeamConfig, beam_search
from s2sjax.decode.candidates import BLOCK, Following, best_candidates
from s2sjax.decode.constraints import FREE, UNCONSTRAINED, force
from s2sjax.errors import UserError
from tests.decode.toys import (
    BOS,
    EOS,
    LATTICE,
    PAD,
    SCORE,
    UNK,
    A,
    B,
    PlainModel,
    assert_complete,
    assert_lawful,
    assert_same,
    every_hypothesis,
    hypotheses,
    log_table,
    plain_beam_search,
    run_hash,
    run_table,
    score,
    search_hash,
)
from tests.tolerance import assert_close

CASES = 240
NARROW = BeamConfig(beam_size=3, nbest=3, max_len=8, length_penalty="gnmt", alpha=0.6)
SEEDS = np.arange(CASES) * 7919 + 1


MANY = np.arange(1000) * 7919 + 1


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize(
    "fields",
    [
        {"length_penalty": "none"},
        {"length_penalty": "power", "alpha": 1.0},
        {"length_penalty": "gnmt", "alpha": 3.0},
        {"length_penalty": "sockeye", "alpha": 1.5, "beta": 2.0, "brevity": 0.7},
        {"length_penalty": "power", "alpha": 0.5, "ends": (EOS, A, PAD), "pad": None},
        {"length_penalty": "power", "alpha": 0.5, "ends": (PAD,), "pad": EOS},
    ],
)
def test_the_widest_beam_finds_what_enumeration_finds(fields):
    # 5 tokens but padding, at most 4 of them: 85 hypotheses, and fewer candidates in any step; with 3 ends 120.
    size = 120 if fields.get("ends", ())[1:] else 85
    config = BeamConfig(beam_size=size, nbest=size, max_len=4, **fields)
    references = MANY % 7 / 2 + 1
    result = run_hash(MANY, config=config, references=references)
    every, model = every_hypothesis(6, 4, ends=config.ends, pad=config.pad), PlainModel(MANY, 6)
    log_probs = np.stack([model.rescore(h) for h in every], axis=1)
    for row in range(len(MANY)):
        ranked = [(score(config, lp, len(h), references[row]), lp) for h, lp in zip(every, log_probs[row], strict=True)]
        assert_complete(result, row, dict(zip(every, ranked, strict=True)))


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize(
    "config",
    [
        NARROW,
        BeamConfig(beam_size=2, nbest=2, max_len=8, length_penalty="power", alpha=1.5, stop="first"),
        BeamConfig(beam_size=2, nbest=2, max_len=8, length_penalty="power", alpha=1.5, stop="present"),
        BeamConfig(beam_size=5, nbest=5, max_len=8, length_penalty="none"),
        BeamConfig(
            beam_size=6, nbest=6, max_len=6, length_penalty="sockeye", beta=1.0, brevity=1.0, groups=3, diversity=0.7
        ),
        BeamConfig(beam_size=3, nbest=3, max_len=8, ends=(A, PAD), pad=None, no_repeat_ngram=2, repetition_penalty=1.5),
        BeamConfig(beam_size=4, nbest=4, max_len=8, ends=(EOS, A, B), pad=UNK, groups=2, diversity=0.5),
    ],
)
def test_a_narrow_beam_equals_its_plain_twin(config):
    limits, references = SEEDS % config.max_len + 1, SEEDS % 9
    result = run_hash(SEEDS, config=config, max_lengths=limits, references=references)
    for row, seed in enumerate(SEEDS):
        model = PlainModel(seed, 6)
        expected = plain_beam_search(model.log_probs, 6, config, limits[row], reference=references[row])
        found = hypotheses(result, row)
        assert [h for h, _, _ in found] == [h for _, _, h in expected]
        np.testing.assert_allclose([s[1:] for s in found], [s[:2] for s in expected], atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"length_penalty": "power", "alpha": 1.5},
        {"length_penalty": "sockeye", "alpha": 0.5, "beta": 3.0, "brevity": 2.0},
    ],
)
def test_the_bound_loses_nothing_that_going_on_to_the_limit_would_find(fields):
    # The reference length lies beyond some limits: there the brevity term of the bound is not 0.
    limits, references = MANY % 9 + 2, MANY % 13
    bound = BeamConfig(beam_size=2, nbest=2, max_len=10, **fields)
    never = dataclasses.replace(bound, stop="never")
    assert_same(*(run_hash(MANY, config=c, max_lengths=limits, references=references) for c in (bound, never)))


def test_search_ends_at_any_end_and_a_hypothesis_keeps_the_one_that_it_wrote():
    """The lattice of `beam_search`, where "b" ends, too."""
    config = BeamConfig(beam_size=2, nbest=2, max_len=4, length_penalty="none", ends=(EOS, B))
    found, at_limit = (hypotheses(run_table(LATTICE, config, max_lengths=[most]), 0) for most in (4, 1))
    assert [h for h, _, _ in found] == [(B,), (A, B)]
    np.testing.assert_allclose([np.exp(p) for _, _, p in found], [0.40, 0.60 * 0.55], atol=1e-6)
    assert [h for h, _, _ in at_limit] == [(B,)], "the one that may follow"


def test_scores_equal_rescoring_of_the_returned_tokens():
    result = run_hash(SEEDS, config=NARROW)
    for row, seed in enumerate(SEEDS):
        model = PlainModel(seed, 6)
        for tokens, ranked, log_prob in hypotheses(result, row):
            assert tokens[-1] == EOS and EOS not in tokens[:-1]
            assert log_prob == pytest.approx(model.rescore(tokens), abs=1e-5)
            assert ranked == pytest.approx(log_prob / ((5 + len(tokens)) / 6) ** 0.6, abs=1e-5)


def test_hypotheses_do_not_depend_on_the_batch_or_its_order():
    whole = run_hash(SEEDS, config=NARROW)
    order = np.random.default_rng(0).permutation(CASES)
    assert_same(run_hash(SEEDS[order], config=NARROW), whole, rows_right=order)
    for row in range(8):
        alone = run_hash(SEEDS[row : row + 1], config=NARROW)
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[row])
        # Another batch size is another program, whose sums may round differently.
        assert_close(alone.scores[0], whole.scores[row], roundings=SCORE)


def test_one_best_equals_the_best_of_n():
    best = run_hash(SEEDS, config=BeamConfig(beam_size=3, nbest=1, max_len=8, length_penalty="gnmt", alpha=0.6))
    for one, many in zip(best, run_hash(SEEDS, config=NARROW), strict=True):
        np.testing.assert_array_equal(one[:, 0], many[:, 0])


def test_a_longer_buffer_changes_nothing_under_the_same_limits():
    limits = SEEDS % 8 + 1
    short = run_hash(SEEDS, config=NARROW, max_lengths=limits)
    long = run_hash(
        SEEDS, config=BeamConfig(beam_size=3, nbest=3, max_len=13, length_penalty="gnmt", alpha=0.6), max_lengths=limits
    )
    assert (long.tokens[:, :, 8:] == PAD).all()
    assert_same(long._replace(tokens=long.tokens[:, :, :8]), short)
    assert (short.lengths <= limits[:, None]).all() and (short.lengths.max(1) == limits).any()


def test_limits_are_clipped_to_the_buffer():
    result = run_hash(SEEDS[:2], config=NARROW, max_lengths=[0, 99])
    assert hypotheses(result, 0)[0][0] == (EOS,)
    assert_same(result, run_hash(SEEDS[:2], config=NARROW), slice(1, 2), slice(1, 2))


@pytest.mark.parametrize("kind", ["none", "sockeye"])
def test_a_beam_of_one_is_argmax_decoding(kind):
    config = BeamConfig(beam_size=1, max_len=8, length_penalty=kind, alpha=2.0)
    result = run_hash(SEEDS, config=config)
    for row, seed in enumerate(SEEDS):
        model, tokens = PlainModel(seed, 6), ()
        while len(tokens) < 7 and EOS not in tokens:
            tokens += (1 + int(np.argmax(model.log_probs(tokens)[1:])),)
        tokens = tokens if EOS in tokens else (*tokens, EOS)
        assert hypotheses(result, row)[0][0] == tokens


def test_the_lattice_of_the_docstring():
    mean = BeamConfig(beam_size=2, nbest=2, max_len=4, length_penalty="power", alpha=1.0)
    found = hypotheses(run_table(LATTICE, mean), 0)
    assert [h for h, _, _ in found] == [(A, B, EOS), (B, EOS)]
    np.testing.assert_allclose([[s, lp] for _, s, lp in found], [[-0.405, -1.214], [-0.511, -1.022]], atol=5e-4)
    plain = BeamConfig(beam_size=2, nbest=2, max_len=4, length_penalty="none")
    assert hypotheses(run_table(LATTICE, plain), 0)[0][0] == (B, EOS)
    greedy = BeamConfig(beam_size=1, max_len=4, length_penalty="none")
    assert hypotheses(run_table(LATTICE, greedy), 0)[0][0] == (A, B, EOS)


def test_diverse_groups_of_the_docstring():
    groups = BeamConfig(beam_size=2, nbest=2, max_len=4, length_penalty="none", groups=2)
    assert [h for h, _, _ in hypotheses(run_table(LATTICE, groups), 0)] == [(A, B, EOS)], "both found the same"
    found = hypotheses(run_table(LATTICE, dataclasses.replace(groups, diversity=1.0)), 0)
    assert [h for h, _, _ in found] == [(B, EOS), (A, B, EOS)]
    np.testing.assert_allclose([f[1:] for f in found], [[-1.022, -1.022], [-1.214, -1.214]], atol=5e-4)


def test_search_goes_on_past_the_first_k_finished_while_a_longer_hypothesis_can_win():
    # Two short hypotheses fill the pool in step 2, at means of -0.55 and -0.65 a token; x z w u eos has -0.30.
    x, y, z, w, u = 4, 5, 6, 7, 8
    rows = {BOS: {x: 0.55, y: 0.45}, x: {EOS: 0.60, z: 0.40}, y: {EOS: 0.60, z: 0.40}, z: {w: 1.0}, w: {u: 1.0}}
    table, config = log_table(9, rows), BeamConfig(beam_size=2, max_len=6, length_penalty="power", alpha=1.0)
    first = hypotheses(run_table(table, dataclasses.replace(config, stop="first")), 0)
    assert first[0][0] == (x, EOS) and first[0][1] == pytest.approx(math.log(0.33) / 2, abs=1e-6)
    ((tokens, score, _),) = hypotheses(run_table(table, config), 0)
    assert tokens == (x, z, w, u, EOS) and score == pytest.approx(math.log(0.22) / 5, abs=1e-6)


def test_a_finished_sentence_is_frozen_while_others_go_on():
    # Its step function turns mad when the sentence is done; whoever still looked would return NaN.
    config = BeamConfig(beam_size=2, nbest=2, max_len=12, length_penalty="none")

    def search(lengths):
        def step(tokens, cache):
            position, sentence = cache["position"], cache["sentence"]
            sane = jnp.asarray(LATTICE, jnp.float32)[tokens]
            slow = jnp.where(jnp.arange(6) == jnp.where(position < 9, A, EOS)[..., None], 0.0, -30.0)
            logits = jnp.where((sentence == 1)[..., None], slow, jnp.where((position < 3)[..., None], sane, jnp.nan))
            return logits, {"position": position + 1, "sentence": sentence}

        sentence = jnp.broadcast_to(jnp.arange(lengths)[:, None], (lengths, 2))
        cache = {"position": jnp.zeros_like(sentence), "sentence": sentence}
        search = jax.jit(lambda cache: beam_search(step, cache, jnp.full(lengths, BOS, jnp.int32), config))
        return jax.tree.map(np.asarray, search(cache))

    alone, together = search(1), search(2)
    assert [h for h, _, _ in hypotheses(alone, 0)] == [(B, EOS), (A, B, EOS)]
    assert hypotheses(together, 1)[0][0] == (A,) * 9 + (EOS,)
    assert_same(together, alone, rows_left=slice(0, 1))


def test_fewer_hypotheses_than_places_leave_empty_places():
    config = BeamConfig(beam_size=8, nbest=8, max_len=3, length_penalty="gnmt")
    result = run_table(LATTICE, config)
    found = hypotheses(result, 0)
    assert {h for h, _, _ in found} == {(B, EOS), (A, EOS), (A, B, EOS), (B, B, EOS)}
    assert (result.scores[0, 4:] == -np.inf).all() and (result.log_probs[0, 4:] == -np.inf).all()
    assert (result.tokens[0, 4:] == PAD).all()


def test_padding_is_never_a_candidate_and_nothing_is_renormalised():
    table = log_table(6, {BOS: {PAD: 0.7, A: 0.3}, A: {PAD: 0.9, EOS: 0.1}})
    ((tokens, _, log_prob),) = hypotheses(run_table(table, BeamConfig(beam_size=2, max_len=4)), 0)
    assert tokens == (A, EOS) and log_prob == pytest.approx(math.log(0.03), abs=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_logits_end_their_sentence_with_nan_scores_and_no_other(poison):
    poisoned = LATTICE.copy()
    poisoned[A, UNK] = poison
    config = BeamConfig(beam_size=2, nbest=2, max_len=4)
    result, clean = run_table(np.stack([poisoned, LATTICE]), config), run_table(LATTICE, config)
    assert np.isnan(result.scores[0]).all() and np.isnan(result.log_probs[0]).all()
    assert (result.lengths[0] == 0).all() and (result.tokens[0] == PAD).all()
    assert_same(result, clean, rows_left=slice(1, 2))


def test_a_hypothesis_without_any_possible_token_dies_quietly():
    dead_end = LATTICE.copy()
    dead_end[B] = -np.inf
    result = run_table(dead_end, BeamConfig(beam_size=2, nbest=2, max_len=4))
    assert [h for h, _, _ in hypotheses(result, 0)] == [(A, EOS)]
    assert result.scores[0, 1] == -np.inf


@pytest.mark.parametrize("vocabulary", [5, BLOCK, 3 * BLOCK + 7])
def test_candidates_by_blocks_equal_one_top_k_over_everything(vocabulary):
    # Whole numbers, so that there are many ties; one word is impossible, and padding would be the best.
    rng = np.random.default_rng(vocabulary)
    batch, width = 64, 4
    logits = rng.integers(-20, 21, (batch, width, vocabulary)).astype(np.float32)
    logits[:, :, UNK], logits[:, :, PAD] = -np.inf, 25
    live = rng.integers(-2, 1, (batch, width)).astype(np.float32)
    live[::3, 1:] = -np.inf
    row = np.arange(batch)
    forced = np.where(row % 5 == 0, EOS, np.where(row % 5 == 1, row % vocabulary, FREE)).astype(np.int32)[:, None]
    too_short = row % 4 == 0
    special = {"ends": (EOS,), "pad": PAD}

    @jax.jit
    def both(logits, live, forced, too_short):
        words = jax.nn.log_softmax(logits)
        totals = live[..., None] + force(words, forced, too_short, **special)
        early = jnp.broadcast_to(too_short[:, None], live.shape)
        return best_candidates(logits, live, Following(forced, early), width=2 * width, **special), words, totals

    ((found, log_probs, parents, tokens), broken), words, totals = both(logits, live, forced, too_short)
    totals = np.asarray(totals).reshape(batch, -1)
    flat = np.argsort(-totals, axis=1, kind="stable")[:, : 2 * width]  # of equals, the earlier
    expected = np.take_along_axis(totals, flat, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    possible = expected > -np.inf
    np.testing.assert_array_equal(np.asarray(parents * vocabulary + tokens)[possible], flat[possible])
    own = np.take_along_axis(np.asarray(words).reshape(batch, -1), flat, axis=1)
    np.testing.assert_allclose(np.asarray(log_probs)[possible], own[possible], atol=1e-6)
    assert possible.any(axis=1).mean() > 0.5 and not broken.any()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), alpha=st.sampled_from([0.6, 2.0]), scale=st.sampled_from([0.1, 3.0, 300.0]))
def test_laws_on_random_step_tables(seed, alpha, scale):
    rng = np.random.default_rng(seed)
    config = BeamConfig(beam_size=4, nbest=4, max_len=6, length_penalty="gnmt", alpha=alpha)
    ordinary = rng.normal(size=(16, 5, 5)) * scale
    special = rng.choice([-np.inf, -1e30, 0.0, 0.0, 30.0], (16, 5, 5))  # ties, impossible and certain words
    table = np.where(rng.random((16, 1, 1)) < 0.5, ordinary, special)
    table[rng.random((16, 5)) < 0.1] = -np.inf  # nothing may follow
    result = run_table(table, config)

    assert not np.isnan(result.scores).any() and not np.isnan(result.log_probs).any()
    assert (result.scores[:, :-1] >= result.scores[:, 1:]).all()
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(table, jnp.float32)))
    for row in range(16):
        for tokens, ranked, log_prob in assert_lawful(result, row, log_probs[row]):
            assert ranked == pytest.approx(log_prob / ((5 + len(tokens)) / 6) ** alpha, rel=1e-5, abs=1e-5)
        for tokens, length in zip(result.tokens[row], result.lengths[row], strict=True):
            assert (tokens[length:] == PAD).all()


def test_sentences_spread_over_devices_give_the_same():
    if jax.device_count() < 2:
        pytest.skip("one device only")
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    seeds = jax.device_put(jnp.asarray(SEEDS, jnp.uint32), rows)
    limits = jax.device_put(jnp.full(CASES, NARROW.max_len, jnp.int32), rows)
    spread = search_hash(seeds, limits, None, None, UNCONSTRAINED, config=NARROW, vocabulary=6)
    together = run_hash(SEEDS, config=NARROW)
    np.testing.assert_array_equal(spread.tokens, together.tokens)
    # Another split is another program, whose sums may round differently.
    assert_close(spread.scores, together.scores, roundings=SCORE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nbest": 6}, "nbest is 6, but a beam of 5"),
        ({"beam_size": 0}, "beam_size is 0"),
        ({"max_len": 0}, "max_len is 0"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"brevity": -0.1}, "brevity is -0.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"stop": "early"}, "expected one of bound, first, never, present"),
        ({"groups": 2}, "beam_size 5 cannot be divided into 2 groups"),
        ({"diversity": 0.5}, "there is one group"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"length_penalty": "wu"}, "expected one of none, power, gnmt, sockeye"),
        ({"pad": 3}, "must be different token ids"),
        ({"ends": (4, -1)}, "must be different token ids"),
        ({"ends": ()}, "expected 1 to 31 of the tokens"),
    ],
)
def test_a_bad_config_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        BeamConfig(**fields)


def test_a_step_function_of_the_wrong_shape_is_named():
    bos, config = jnp.full(2, BOS, jnp.int32), BeamConfig(beam_size=3, max_len=4)
    with pytest.raises(UserError, match=r"cache leaf \['key'\] has shape \(2, 7\).*\[2, 3\]"):
        beam_search(lambda tokens, cache: (jnp.zeros((2, 3, 6)), cache), {"key": jnp.zeros((2, 7))}, bos, config)
    with pytest.raises(UserError, match=r"logits of shape \(2, 6\), expected \[2, 3, vocabulary\]"):
        beam_search(lambda tokens, cache: (jnp.zeros((2, 6)), cache), {}, bos, config)
    with pytest.raises(UserError, match="brevity is 1.0, but there are no reference_lengths"):
        beam_search(
            lambda tokens, cache: (jnp.zeros((2, 3, 6)), cache), {}, bos, dataclasses.replace(config, brevity=1.0)
        )
    with pytest.raises(UserError, match="over 3 tokens, which do not hold ends \\(3,\\)"):
        beam_search(lambda tokens, cache: (jnp.zeros((2, 3, 3)), cache), {}, bos, config)
