"""Beam search against enumeration and a slow twin in plain Python, on cases worked by hand, and by its laws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from s2sjax.decode.beam import BLOCK, BeamConfig, _best_candidates, beam_search
from s2sjax.errors import UserError

PAD, UNK, BOS, EOS = 0, 1, 2, 3
PENALTIES = {"none": lambda n, a: 1.0, "power": lambda n, a: n**a, "gnmt": lambda n, a: ((5 + n) / 6) ** a}
CASES = 240


# Random models whose logits depend on the whole history, through a cache: a hypothesis that is handed another's cache
# gets other logits. The same integer arithmetic runs in JAX and in numpy, so both see the same models.


def mix(x):
    """A 32-bit integer hash (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def to_logits(state, xp, vocabulary):
    """`[...] -> [..., V]`, uniform in [-3, 3), padding included."""
    bits = mix(state[..., None] + xp.arange(1, vocabulary + 1, dtype=xp.uint32) * np.uint32(0x9E3779B9))
    return (bits >> 8).astype(xp.float32) * np.float32(6 / 2**24) - np.float32(3)


def hash_step(tokens, cache, *, vocabulary):
    """A step function whose state is spread over leaves of several ranks and types."""
    wide = cache["wide"][:, :, 1, 0].astype(jnp.uint32)
    state = mix(cache["state"] * np.uint32(31) + wide + tokens.astype(jnp.uint32))
    cache = {"state": state, "wide": jnp.full_like(cache["wide"], 7) + (state % 1024)[..., None, None]}
    return to_logits(state, jnp, vocabulary), cache


def hash_cache(seeds, beam_size):
    state = jnp.broadcast_to(jnp.asarray(seeds, jnp.uint32)[:, None], (len(seeds), beam_size))
    return {"state": state, "wide": jnp.zeros((*state.shape, 2, 3), jnp.float32)}


class PlainModel:
    """The same models for plain Python: log-probabilities after a tuple of tokens, float64."""

    def __init__(self, seed, vocabulary):
        self.vocabulary, self.states = vocabulary, {}
        self.seed = seed

    @functools.cache  # noqa: B019 - a model lives for one test
    def state(self, prefix):
        if not prefix:
            state, wide, token = np.uint32(self.seed), 0, BOS
        else:
            state, token = self.state(prefix[:-1]), prefix[-1]
            wide = 7 + int(state) % 1024
        with np.errstate(over="ignore"):
            return mix(state * np.uint32(31) + np.uint32(wide) + np.uint32(token))

    @functools.cache  # noqa: B019
    def log_probs(self, prefix):
        with np.errstate(over="ignore"):
            logits = to_logits(self.state(prefix)[None], np, self.vocabulary)[0].astype(np.float64)
        return logits - np.log(np.exp(logits).sum())

    def rescore(self, tokens):
        return sum(self.log_probs(tuple(tokens[:i]))[token] for i, token in enumerate(tokens))


def every_hypothesis(model, max_len, prefix=(), log_prob=0.0):
    """Yield (tokens, log-probability) of all that end within `max_len` tokens."""
    log_probs = model.log_probs(prefix)
    yield (*prefix, EOS), log_prob + log_probs[EOS]
    if len(prefix) + 1 < max_len:
        for token in range(model.vocabulary):
            if token not in (PAD, EOS):
                yield from every_hypothesis(model, max_len, (*prefix, token), log_prob + log_probs[token])


def plain_beam_search(log_probs, vocabulary, config, max_len, *, stop_at_first=False):
    """The slow twin: beam search of one sentence in plain Python. Returns the pool, [(score, log_prob, tokens)]."""
    K = config.beam_size
    penalty = functools.partial(PENALTIES[config.length_penalty], a=config.alpha)
    live, pool = [(0.0, ())], []
    for n in range(1, max_len + 1):
        continuations = [EOS] if n == max_len else [t for t in range(vocabulary) if t != config.pad_id]
        candidates = [(lp + log_probs(h)[t], (*h, t)) for lp, h in live for t in continuations]
        candidates = sorted((c for c in candidates if c[0] > -math.inf), key=lambda c: -c[0])[: 2 * K if K > 1 else 1]
        pool += [(lp / penalty(n), lp, h) for lp, h in candidates[:K] if h[-1] == EOS]
        if stop_at_first and len(pool) >= K:
            break
        pool = sorted(pool, key=lambda f: -f[0])[:K]
        live = [(lp, h) for lp, h in candidates if h[-1] != EOS][:K]
        if not live or (len(pool) == K and live[0][0] / penalty(max_len) <= pool[-1][0]):
            break
    return sorted(pool, key=lambda f: -f[0])[:K]


# One compilation for each (config, vocabulary, batch), shared by all tests.


@functools.partial(jax.jit, static_argnames=("config", "vocabulary"))
def search_hash(seeds, max_lengths, *, config, vocabulary):
    step = functools.partial(hash_step, vocabulary=vocabulary)
    bos = jnp.full(seeds.shape, BOS, jnp.int32)
    return beam_search(step, hash_cache(seeds, config.beam_size), bos, config, max_lengths=max_lengths)


@functools.partial(jax.jit, static_argnames=("config",))
def search_table(tables, max_lengths, *, config):
    """Markov models: `tables` [B, V, V] holds the logits of what follows each token."""

    def step(tokens, sentence):
        return tables[sentence, tokens], sentence

    B = tables.shape[0]
    sentence = jnp.broadcast_to(jnp.arange(B)[:, None], (B, config.beam_size))
    return beam_search(step, sentence, jnp.full(B, BOS, jnp.int32), config, max_lengths=max_lengths)


def run_hash(seeds, *, config, vocabulary=6, max_lengths=None):
    limits = np.full(len(seeds), config.max_len) if max_lengths is None else max_lengths
    seeds, limits = jnp.asarray(seeds, jnp.uint32), jnp.asarray(limits, jnp.int32)
    return jax.tree.map(np.asarray, search_hash(seeds, limits, config=config, vocabulary=vocabulary))


def run_table(table, config):
    table = np.asarray(table, np.float32)
    tables = table if table.ndim == 3 else table[None]
    limits = jnp.full(len(tables), config.max_len, jnp.int32)
    return jax.tree.map(np.asarray, search_table(jnp.asarray(tables), limits, config=config))


def hypotheses(result, row):
    """[(tokens, score, log_prob)] of one sentence, without the places left over."""
    return [
        (tuple(tokens[:length].tolist()), float(score), float(log_prob))
        for tokens, score, log_prob, length in zip(*(x[row] for x in result), strict=True)
        if length
    ]


def assert_same(left, right, rows_left=slice(None), rows_right=slice(None)):
    for name, a, b in zip(left._fields, left, right, strict=True):
        np.testing.assert_array_equal(a[rows_left], b[rows_right], err_msg=name)


NARROW = BeamConfig(beam_size=3, nbest=3, max_len=8, length_penalty="gnmt", alpha=0.6)
SEEDS = np.arange(CASES) * 7919 + 1


@pytest.mark.parametrize(("kind", "alpha"), [("none", 0.6), ("power", 1.0), ("gnmt", 0.6), ("gnmt", 3.0)])
def test_the_widest_beam_finds_what_enumeration_finds(kind, alpha):
    # 5 tokens but padding, at most 4 of them: 85 hypotheses, and fewer candidates in any step.
    config = BeamConfig(beam_size=85, nbest=85, max_len=4, length_penalty=kind, alpha=alpha)
    result = run_hash(SEEDS, config=config)
    for row, seed in enumerate(SEEDS):
        scored = [(h, lp / PENALTIES[kind](len(h), alpha)) for h, lp in every_hypothesis(PlainModel(seed, 6), 4)]
        expected = sorted(scored, key=lambda x: -x[1])
        found = hypotheses(result, row)
        assert len(found) == len(expected) == 85
        assert found[0][0] == expected[0][0]
        np.testing.assert_allclose([score for _, score, _ in found], [score for _, score in expected], atol=1e-5)
        assert {h for h, _, _ in found} == {h for h, _ in expected}


@pytest.mark.parametrize(
    "config",
    [
        NARROW,
        BeamConfig(beam_size=2, nbest=2, max_len=8, length_penalty="power", alpha=1.5),
        BeamConfig(beam_size=5, nbest=5, max_len=8, length_penalty="none"),
    ],
)
def test_a_narrow_beam_equals_its_plain_twin(config):
    limits = SEEDS % config.max_len + 1
    result = run_hash(SEEDS, config=config, max_lengths=limits)
    for row, seed in enumerate(SEEDS):
        expected = plain_beam_search(PlainModel(seed, 6).log_probs, 6, config, limits[row])
        found = hypotheses(result, row)
        assert [h for h, _, _ in found] == [h for _, _, h in expected]
        np.testing.assert_allclose([score for _, score, _ in found], [score for score, _, _ in expected], atol=1e-5)


def test_scores_equal_rescoring_of_the_returned_tokens():
    result = run_hash(SEEDS, config=NARROW)
    for row, seed in enumerate(SEEDS):
        model = PlainModel(seed, 6)
        for tokens, score, log_prob in hypotheses(result, row):
            assert tokens[-1] == EOS and EOS not in tokens[:-1]
            assert log_prob == pytest.approx(model.rescore(tokens), abs=1e-5)
            assert score == pytest.approx(log_prob / ((5 + len(tokens)) / 6) ** 0.6, abs=1e-5)


def test_hypotheses_do_not_depend_on_the_batch_or_its_order():
    whole = run_hash(SEEDS, config=NARROW)
    order = np.random.default_rng(0).permutation(CASES)
    assert_same(run_hash(SEEDS[order], config=NARROW), whole, rows_right=order)
    for row in range(8):
        alone = run_hash(SEEDS[row : row + 1], config=NARROW)
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[row])
        # Another batch size is another program, whose sums may round differently.
        np.testing.assert_allclose(alone.scores[0], whole.scores[row], rtol=3e-6)


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


@pytest.mark.parametrize("kind", PENALTIES)
def test_a_beam_of_one_is_argmax_decoding(kind):
    config = BeamConfig(beam_size=1, max_len=8, length_penalty=kind, alpha=2.0)
    result = run_hash(SEEDS, config=config)
    for row, seed in enumerate(SEEDS):
        model, tokens = PlainModel(seed, 6), ()
        while len(tokens) < 7 and EOS not in tokens:
            tokens += (1 + int(np.argmax(model.log_probs(tokens)[1:])),)
        tokens = tokens if EOS in tokens else (*tokens, EOS)
        assert hypotheses(result, row)[0][0] == tokens


def log_table(vocabulary, rows):
    """Logits from rows of probabilities: {token: {next: probability}}; what is not named ends at once."""
    table = np.full((vocabulary, vocabulary), -np.inf)
    table[:, EOS] = 0.0
    for token, follows in rows.items():
        table[token] = -np.inf
        for following, probability in follows.items():
            table[token, following] = math.log(probability)
    return table


A, B = 4, 5
LATTICE = log_table(6, {BOS: {A: 0.60, B: 0.40}, A: {B: 0.55, EOS: 0.45}, B: {B: 0.10, EOS: 0.90}})


def test_the_lattice_of_the_docstring():
    mean = BeamConfig(beam_size=2, nbest=2, max_len=4, length_penalty="power", alpha=1.0)
    found = hypotheses(run_table(LATTICE, mean), 0)
    assert [h for h, _, _ in found] == [(A, B, EOS), (B, EOS)]
    np.testing.assert_allclose([[s, lp] for _, s, lp in found], [[-0.405, -1.214], [-0.511, -1.022]], atol=5e-4)
    plain = BeamConfig(beam_size=2, nbest=2, max_len=4, length_penalty="none")
    assert hypotheses(run_table(LATTICE, plain), 0)[0][0] == (B, EOS)
    greedy = BeamConfig(beam_size=1, max_len=4, length_penalty="none")
    assert hypotheses(run_table(LATTICE, greedy), 0)[0][0] == (A, B, EOS)


def test_search_goes_on_past_the_first_k_finished_while_a_longer_hypothesis_can_win():
    # Two short hypotheses fill the pool in step 2, at means of -0.55 and -0.65 a token; x z w u eos has -0.30.
    x, y, z, w, u = 4, 5, 6, 7, 8
    rows = {BOS: {x: 0.55, y: 0.45}, x: {EOS: 0.60, z: 0.40}, y: {EOS: 0.60, z: 0.40}, z: {w: 1.0}, w: {u: 1.0}}
    table, config = log_table(9, rows), BeamConfig(beam_size=2, max_len=6, length_penalty="power", alpha=1.0)
    first = plain_beam_search(lambda h: table[h[-1] if h else BOS], 9, config, 6, stop_at_first=True)
    assert first[0][2] == (x, EOS) and first[0][0] == pytest.approx(math.log(0.33) / 2)
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
        return jax.tree.map(np.asarray, beam_search(step, cache, jnp.full(lengths, BOS, jnp.int32), config))

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
    batch, width, config = 64, 4, BeamConfig(beam_size=4)
    logits = jnp.asarray(rng.integers(-20, 21, (batch, width, vocabulary)), jnp.float32)
    logits = logits.at[:, :, UNK].set(-jnp.inf).at[:, :, PAD].set(25)
    live = jnp.asarray(rng.integers(-2, 1, (batch, width)), jnp.float32).at[::3, 1:].set(-jnp.inf)
    must_end = jnp.arange(batch) % 5 == 0
    (log_probs, parents, tokens), broken = jax.jit(_best_candidates, static_argnums=3)(logits, live, must_end, config)

    allowed = jnp.where(must_end[:, None], jnp.arange(vocabulary) == EOS, jnp.arange(vocabulary) != PAD)
    totals = live[..., None] + jnp.where(allowed[:, None], jax.nn.log_softmax(logits), -jnp.inf)
    totals = np.asarray(totals).reshape(batch, -1)
    flat = np.argsort(-totals, axis=1, kind="stable")[:, : 2 * width]  # of equals, the earlier
    expected = np.take_along_axis(totals, flat, axis=1)
    np.testing.assert_allclose(log_probs, expected, atol=1e-6)
    possible = expected > -np.inf
    np.testing.assert_array_equal(np.asarray(parents * vocabulary + tokens)[possible], flat[possible])
    assert possible.any(axis=1).all() and not broken.any()


@settings(max_examples=30, deadline=None)
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
        found = hypotheses(result, row)
        assert len({h for h, _, _ in found}) == len(found)
        for tokens, score, log_prob in found:
            assert tokens[-1] == EOS and EOS not in tokens[:-1] and PAD not in tokens
            rescored = sum(log_probs[row, a, b] for a, b in zip((BOS, *tokens), tokens, strict=False))
            assert -math.inf < log_prob == pytest.approx(rescored, rel=1e-5, abs=1e-5)
            assert score == pytest.approx(log_prob / ((5 + len(tokens)) / 6) ** alpha, rel=1e-5, abs=1e-5)
        for tokens, length in zip(result.tokens[row], result.lengths[row], strict=True):
            assert (tokens[length:] == PAD).all()


def test_sentences_spread_over_devices_give_the_same():
    if jax.device_count() < 2:
        pytest.skip("one device only")
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    seeds = jax.device_put(jnp.asarray(SEEDS, jnp.uint32), rows)
    limits = jax.device_put(jnp.full(CASES, NARROW.max_len, jnp.int32), rows)
    spread = search_hash(seeds, limits, config=NARROW, vocabulary=6)
    together = run_hash(SEEDS, config=NARROW)
    np.testing.assert_array_equal(spread.tokens, together.tokens)
    # Another split is another program, whose sums may round differently.
    np.testing.assert_allclose(spread.scores, together.scores, rtol=3e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nbest": 6}, "nbest is 6, but a beam of 5"),
        ({"beam_size": 0}, "beam_size is 0"),
        ({"max_len": 0}, "max_len is 0"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"length_penalty": "wu"}, "expected one of none, power, gnmt"),
        ({"pad_id": 3}, "two different token ids"),
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
    with pytest.raises(UserError, match="over 3 tokens, which do not hold eos_id 3"):
        beam_search(lambda tokens, cache: (jnp.zeros((2, 3, 3)), cache), {}, bos, config)
