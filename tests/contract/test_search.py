"""Search with a model of every family: against every sequence there is, against teacher forcing, in other company."""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s2sjax import models, sharding
from s2sjax.data.columns import Column, Examples
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.data.units import CharTokenizer
from s2sjax.decode.beam import BeamConfig, beam_search
from s2sjax.decode.constraints import FREE, Asked, Constraints
from s2sjax.decode.coverage import uncovered, with_coverage
from s2sjax.decode.penalty import LEAST_COVERAGE, coverage_penalty
from s2sjax.decode.phrases import build_phrases
from s2sjax.decode.sampling import SampleConfig, sample, sentence_keys
from s2sjax.decode.stepping import narrow
from s2sjax.decode.stochastic import stochastic_beam_search
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.requests import RequestFormat
from s2sjax.inference.scorers import Single
from s2sjax.inference.sentences import source_batch
from s2sjax.inference.translator import Translator
from s2sjax.ops.linear import Precision
from s2sjax.ports import Tokens
from s2sjax.vocabulary import BOS, EOS, PAD, UNK
from tests.contract.conftest import FIRST, SUBJECTS, VOCAB, bucketed
from tests.tolerance import allowed

pytestmark = pytest.mark.grid(4)

SOURCES, LONGEST_SOURCE, DRAWS = 16, 6, 3
ATTENTIVE = ("transformer", "rnn_seq2seq", "gnmt", "copying")
"""Of what is searched with, what attends to a source."""


class Space(NamedTuple):
    """All sequences over a vocabulary of at most this many tokens."""

    vocab: int
    longest: int

    @property
    def words(self) -> list[int]:
        return [token for token in range(self.vocab) if token not in (PAD, EOS)]

    @property
    def width(self) -> int:
        """Of a beam that never drops anything: the most candidates of a step, reached at the last but one."""
        return len(self.words) ** (self.longest - 2) * (len(self.words) + 1)

    @property
    def sequences(self) -> list[list[int]]:
        lengths = range(self.longest)
        return [[*words, EOS] for n in lengths for words in itertools.product(self.words, repeat=n)]


FEW, MANY = Space(5, 3), Space(7, 4)
"""Beams of 12 and 150, on both sides of `nn.transformer.MOST_ANCHORED`, at which caches change their form."""

CONVENTIONS = {
    "none": (FEW, lambda n, alpha: np.ones_like(n), {}),
    "power": (MANY, lambda n, alpha: n**alpha, {}),
    "gnmt": (MANY, lambda n, alpha: ((5 + n) / 6) ** alpha, {}),
    "sockeye": (MANY, lambda n, alpha: ((2 + n) / 3) ** alpha, {"beta": 2.0, "brevity": 0.7}),
}
"""Of each length penalty: what is searched, the divisor, and what else is set."""
ALPHAS = (0.6, 1.0, 2.0)
SEARCHED = {
    **{family: FIRST[family] for family in models.text_writers()},
    "copying": next(s for s in SUBJECTS if ("copy", True) in s.options),
}
"""A variant of each family, and one that gives log-probabilities which it mixed."""
FAMILIES = sorted(SEARCHED)


def every_family_with(others, *, fast: tuple[str, str] | None = None):
    """Family by family; slow, but for the `fast` one."""
    return [
        pytest.param(family, other, marks=[] if (family, other) == fast else pytest.mark.slow, id=f"{family}-{other}")
        for family in FAMILIES
        for other in others
    ]


@functools.cache
def scorer(family: str, vocab: int) -> Single:
    config = SEARCHED[family].model.config
    model = models.family(SEARCHED[family].family).build(
        config, Tokens(vocab), Tokens(vocab), precision=Precision.FLOAT32
    )
    return Single(model, Precision.FLOAT32)


@functools.cache
def parameters(family: str, vocab: int, seed: int):
    """Random ones, great enough for a model to be sure of something; nothing is compiled for them."""
    rng, model = np.random.default_rng(seed), scorer(family, vocab).model
    batch = forced_batch([[EOS]], [[EOS]], 1)
    shapes = jax.eval_shape(lambda *args: model.init(*args, train=False)["params"], jax.random.key(0), batch)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def forced_batch(sources, targets, longest: int, source: int = LONGEST_SOURCE):
    """Pairs of token rows, one a row of the batch."""
    rows = np.arange(len(sources))
    split = Examples.of_pairs(
        Column.from_rows([np.array(row) for row in sources]), Column.from_rows([np.array(row) for row in targets])
    )
    return assemble(PlannedBatch(Shape(len(sources), source, longest), rows, rows), split)


def random_sources(vocab: int, seed: int) -> list[list[int]]:
    """Of 1 to 6 tokens."""
    rng = np.random.default_rng(seed)
    words = [UNK, *range(4, vocab)]
    return [[*rng.choice(words, rng.integers(LONGEST_SOURCE)), EOS] for _ in range(SOURCES)]


def padded(rows, width: int, fill: int = PAD):
    return jnp.asarray([[*row, *[fill] * (width - len(row))] for row in rows], jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def forced_scores(scorer, params, batch):
    return jnp.sum(scorer.token_log_probs(params, batch) * batch["weights"], axis=1)


@functools.partial(jax.jit, static_argnums=0)
def forced_attention(scorer, params, batch):
    layers = scorer.watched_log_probs(params, batch)[1][0]
    return jnp.mean(jnp.stack(layers), axis=0)


@functools.partial(jax.jit, static_argnums=(0, 4))
def beam(scorer, params, inputs, asked, how):
    """The unconstrained search, as `Translator` begins it."""
    memory = scorer.encode(params, source_batch(inputs, (inputs != PAD).sum(axis=1)))
    cache = scorer.init_cache(params, memory, width=how.beam_size, max_len=how.max_len)
    return beam_search(scorer.step(params, memory), cache, jnp.full(len(inputs), BOS, jnp.int32), how, asked)


class Case(NamedTuple):
    """One set of parameters, the sources, their limits, and the log-probability of every sequence."""

    params: dict
    inputs: jax.Array
    least: np.ndarray
    limits: np.ndarray
    expected: np.ndarray
    log_probs: np.ndarray
    tolerance: float
    """Of a log-probability."""


@functools.cache
def enumerated(family: str, space: Space) -> list[Case]:
    """By teacher forcing, in float32: [SOURCES, sequences] for each draw of parameters."""
    cases = []
    for seed in range(DRAWS):
        rng, sources = np.random.default_rng(100 + seed), random_sources(space.vocab, seed)
        limits = rng.integers(1, 2 * space.longest, SOURCES).clip(max=space.longest)
        pairs = list(itertools.product(sources, space.sequences))
        batch = forced_batch(*zip(*pairs, strict=True), space.longest)
        params = parameters(family, space.vocab, seed)
        score = functools.partial(forced_scores, scorer(family, space.vocab), batch=batch)
        cases.append(
            Case(
                params, padded(sources, LONGEST_SOURCE), rng.integers(0, limits + 1), limits,
                rng.uniform(0, 5, SOURCES), np.asarray(score(params), np.float64).reshape(SOURCES, -1),
                allowed(score, params),
            )
        )  # fmt: skip
    return cases


@pytest.mark.parametrize("family, convention", every_family_with(CONVENTIONS, fast=("causal_lm", "none")))
def test_the_widest_beam_finds_the_best_of_all_sequences(family, convention):
    """And the whole order below it. 48 cases: 16 sources with limits of their own, for 3 draws of parameters."""
    space, penalty, more = CONVENTIONS[convention]
    alpha = ALPHAS[(FAMILIES.index(family) + list(CONVENTIONS).index(convention)) % len(ALPHAS)]
    how = BeamConfig(space.width, space.width, space.longest, convention, alpha, **more)
    lengths = np.array([len(sequence) for sequence in space.sequences])
    best_lengths = set()
    for case in enumerated(family, space):
        expected = jnp.asarray(case.expected, jnp.float32)
        asked = Asked(jnp.asarray(case.limits), jnp.asarray(case.least), expected)
        found = jax.tree.map(np.asarray, beam(scorer(family, space.vocab), case.params, case.inputs, asked, how))
        for row in range(SOURCES):
            scores = case.log_probs[row] / penalty(lengths.astype(float), alpha)
            scores += how.brevity * np.minimum(0, 1 - case.expected[row] / lengths)
            scores[(lengths > case.limits[row]) | (lengths < case.least[row])] = -np.inf
            order = np.argsort(-scores)
            possible = min(space.width, np.isfinite(scores).sum())
            best_scores = scores[order[:possible]]
            np.testing.assert_allclose(found.scores[row, :possible], best_scores, rtol=0, atol=case.tolerance)
            assert (found.scores[row, possible:] == -np.inf).all()
            best = found.tokens[row, 0, : found.lengths[row, 0]].tolist()
            assert best == space.sequences[order[0]], "the best, and not one that is nearly as good"
            best_lengths.add(len(best))
    assert len(best_lengths) > 1


FORBIDDEN, LIMIT, NGRAM, WEIGHT = (UNK, BOS, 5, 11), 10, 2, 0.2
METHODS = {
    "beam": BeamConfig(4, 3, LIMIT, "gnmt", 0.8, brevity=0.3, no_repeat_ngram=NGRAM),
    "sample": SampleConfig(3, LIMIT, repetition_penalty=1.3, no_repeat_ngram=NGRAM, temperature=1.2, top_p=0.95),
    "stochastic": SampleConfig(3, LIMIT, repetition_penalty=1.3, no_repeat_ngram=NGRAM),
}


class Wanted(NamedTuple):
    """What is asked of the outputs, as lists: of each source its prefix and its phrases."""

    prefixes: list[list[int]]
    phrases: list[list[list[int]]]
    least: np.ndarray
    expected: np.ndarray


def wanted() -> Wanted:
    rng, free = np.random.default_rng(0), [token for token in range(4, VOCAB) if token not in FORBIDDEN]

    def words(fewest: int):
        return rng.choice(free, rng.integers(fewest, 3), replace=False).tolist()

    return Wanted(
        prefixes=[words(0) for _ in range(SOURCES)],
        phrases=[[words(1) for _ in range(rng.integers(0, 3))] for _ in range(SOURCES)],
        least=rng.integers(1, LIMIT, SOURCES),
        expected=rng.uniform(1, LIMIT, SOURCES),
    )


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def constrained(scorer, params, inputs, asked, method, covers):
    """Tokens, lengths, log-probabilities, and what ranks them."""
    how, bonus, mask = METHODS[method], None, inputs != PAD
    width = how.beam_size if method == "beam" else how.samples
    memory = scorer.encode(params, source_batch(inputs, (inputs != PAD).sum(axis=1)))
    step, cache = scorer.step(params, memory), scorer.init_cache(params, memory, width=width, max_len=LIMIT)
    if covers:
        step, cache = with_coverage(scorer.watched_step(params, memory)), uncovered(cache, mask, width)
        bonus = lambda cache: coverage_penalty(cache.coverage, mask, WEIGHT)  # noqa: E731
    start = step, narrow(cache), jnp.full(len(inputs), BOS, jnp.int32), how
    if method == "beam":
        found = beam_search(*start, asked, bonus=bonus)
        return found.tokens, found.lengths, found.log_probs, found.scores
    keys = sentence_keys(7, jnp.arange(len(inputs)))
    drawn = (sample if method == "sample" else stochastic_beam_search)(*start, keys, asked)
    return drawn.tokens, drawn.lengths, drawn.log_probs, drawn.drawn


@pytest.mark.parametrize("family, method", every_family_with(METHODS, fast=("lstm_lm", "beam")))
def test_scores_are_teacher_forcings_under_all_constraints_at_once(family, method):
    """Prefixes, a shortest length, forbidden words, no bigram twice; of a beam phrases and coverage too, and of draws a
    penalty on repetition, none of which may show in the log-probabilities."""
    sources, want, params = random_sources(VOCAB, 0), wanted(), parameters(family, VOCAB, 0)
    covers = method == "beam" and family in ATTENTIVE
    phrases = build_phrases(want.phrases, VOCAB, (EOS,)) if method == "beam" else None
    permitted = jnp.asarray([token not in FORBIDDEN for token in range(VOCAB)])
    asked = Asked(
        min_lengths=jnp.asarray(want.least),
        reference_lengths=jnp.asarray(want.expected, jnp.float32),
        constraints=Constraints(permitted, padded(want.prefixes, 2, FREE), phrases=phrases),
    )
    searched = constrained(scorer(family, VOCAB), params, padded(sources, LONGEST_SOURCE), asked, method, covers)
    tokens, lengths, log_probs, ranking = map(np.asarray, searched)
    assert (lengths[:, 0] > 0).all(), "all of this can be met"

    places = [(b, n) for b, n in np.ndindex(*lengths.shape) if lengths[b, n]]
    written = [tokens[place][: lengths[place]].tolist() for place in places]
    rows = [*written, *[[EOS]] * (lengths.size - len(written))]
    batch = forced_batch([*(sources[b] for b, _ in places), *[[EOS]] * (len(rows) - len(written))], rows, LIMIT)
    score = functools.partial(forced_scores, scorer(family, VOCAB), batch=batch)
    forced, tolerance = np.asarray(score(params))[: len(written)], allowed(score, params)
    np.testing.assert_allclose([log_probs[place] for place in places], forced, rtol=0, atol=tolerance)
    attend = functools.partial(forced_attention, scorer(family, VOCAB), batch=batch)
    attention, apart = (np.asarray(attend(params)), allowed(attend, params)) if covers else (None, 0)
    for i, ((b, n), row) in enumerate(zip(places, written, strict=True)):
        assert row[: len(want.prefixes[b])] == want.prefixes[b] and len(row) >= want.least[b] and row[-1] == EOS
        assert not set(row) & set(FORBIDDEN) and len(set(itertools.pairwise(row))) == len(row) - 1
        if method != "beam":
            continue
        for phrase in want.phrases[b]:
            assert any(row[at : at + len(phrase)] == phrase for at in range(len(row)))
        ranked, rounding = forced[i] / ((5 + len(row)) / 6) ** 0.8 + 0.3 * min(0, 1 - want.expected[b] / len(row)), 1e-6
        if attention is not None:
            covered = np.clip(attention[i, : len(row), : len(sources[b])].sum(axis=0), LEAST_COVERAGE, 1)
            ranked += WEIGHT * np.log(covered).sum()
            rounding += WEIGHT * np.sum(len(row) * apart / covered)  # of a logarithm of a sum over the row
        np.testing.assert_allclose(ranking[b, n], ranked, rtol=1e-6, atol=tolerance + rounding)


TOKENIZER = CharTokenizer("abcdefgh")
TEXTS = ["abc", "h", "gfedcba", "cc", "bad", "decade", "abba", "fee"]
WAYS = {
    "greedy": {"beam_size": 1},
    "beam": {"beam_size": 5, "nbest": 5},
    "sampling": {"method": "sample", "samples": 2, "seed": 3},
}


def translated(family: str, devices: int = 1, **fields):
    """The hypotheses of each text, by a new translator."""
    vocab = TOKENIZER.vocab_size
    config = dataclasses.replace(DecodeConfig(max_length_factor=1.0, max_length_offset=4, batch_size=8), **fields)
    translator = Translator(
        scorer(family, vocab), parameters(family, vocab, 0), TokenizerPair(TOKENIZER, TOKENIZER), config,
        RequestFormat(max_source_length=20), mesh=sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:devices]),
    )  # fmt: skip
    return lambda texts: dict(zip(texts, translator(texts).result, strict=True))


@pytest.mark.parametrize("family, way", every_family_with(WAYS))
def test_outputs_do_not_depend_on_company_order_padding_nbest_or_devices(family, way):
    search, on_eight = translated(family, **WAYS[way]), translated(family, devices=8, **WAYS[way])
    together = search(TEXTS)
    written = [(text, h.ids) for text, found in together.items() for h in found]
    sides = [[*TOKENIZER.encode([text])[0], EOS] for text, _ in written], [list(ids) for _, ids in written]
    batch = forced_batch(*sides, max(len(ids) for _, ids in written), source=max(map(len, sides[0])))
    vocab = TOKENIZER.vocab_size
    score = functools.partial(forced_scores, scorer(family, vocab), batch=batch)
    tolerance = allowed(score, parameters(family, vocab, 0))
    companies = {
        "in another order": search(TEXTS[::-1]),
        "alone": {text: search([text])[text] for text in TEXTS},
        "beside a longer one, on eight devices": on_eight([*TEXTS[:7], "abcdefgh" * 2]),
    }
    if way == "beam":
        companies["one of five"] = translated(family, **{**WAYS[way], "nbest": 1})(TEXTS)
    for name, found in companies.items():
        for text in TEXTS:
            if text in found:
                pairs = list(zip(together[text], found[text], strict=name != "one of five"))
                assert [a.ids for a, _ in pairs] == [b.ids for _, b in pairs], f"{name}: {text}"
                for a, b in pairs:  # a ranking score is a score over a penalty of at least one, or less a noise
                    np.testing.assert_allclose(a.score, b.score, rtol=0, atol=tolerance)
                    np.testing.assert_allclose(a.ranking_score, b.ranking_score, rtol=0, atol=2 * tolerance)
    assert len({h.ids for found in together.values() for h in found}) > 2, "the same for all would prove nothing"


@pytest.mark.fast_grid(2)
@pytest.mark.thorough
@pytest.mark.parametrize("precision", [precision for precision in Precision if precision != Precision.FLOAT32])
def test_operands_rounded_beforehand_change_nothing(subject, precision):
    batch = jax.tree.map(jnp.asarray, dict(subject.given(bucketed())))
    scorer = Single(subject.build(precision), precision)
    rounded = scorer.rounded(subject.params)
    halved = [a.dtype != b.dtype for a, b in zip(*map(jax.tree.leaves, (subject.params, rounded)), strict=True)]
    assert any(halved) == (subject.family != "hmm"), "a mixture of distributions multiplies in float32 always"

    @jax.jit
    def scores(params):
        forced = scorer.token_log_probs(params, batch)
        if subject.family not in models.text_writers():
            return (forced,)
        memory = scorer.encode(params, source_batch(batch["inputs"], (batch["input_segments"] > 0).sum(axis=1)))
        cache = scorer.init_cache(params, memory, width=2, max_len=3)
        stepped, _ = scorer.step(params, memory)(batch["targets"][:, :2], cache)
        return forced, stepped

    for expected, got in zip(scores(subject.params), scores(rounded), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
