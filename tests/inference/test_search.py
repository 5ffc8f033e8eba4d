"""Every way to decode, through text in and text out, with a small model of random parameters."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2sjax import models, sharding
from s2sjax.data.columns import Column, Examples
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.data.units import CharTokenizer
from s2sjax.data.unknown import Unknown
from s2sjax.decode.penalty import LEAST_COVERAGE
from s2sjax.errors import UserError
from s2sjax.inference.counts import RequestCounts
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.forced import cross_attention
from s2sjax.inference.requests import PositionLimit, RequestFormat, Requests
from s2sjax.inference.scorers import Single, attention_layers
from s2sjax.inference.search import Search
from s2sjax.inference.search_size import footprint
from s2sjax.inference.translator import Translator
from s2sjax.ops.linear import Precision
from s2sjax.ports import Ports, Tokens, Vectors
from s2sjax.vocabulary import EOS, own_vocabulary
from tests.tiny import compiling_once
from tests.tolerance import allowed

FLOAT32 = Precision.FLOAT32
TOKENIZER = CharTokenizer("abcdefgh")
SOURCES = ["abc", "h", "gfedcba", "cc", "bad", "decade", "abc"]
BASE = DecodeConfig(max_length_factor=1.0, max_length_offset=6, batch_size=8)

WAYS = {
    "diverse beam": {"beam_size": 4, "nbest": 4, "groups": 2, "diversity": 0.5, "length_penalty": "power"},
    "constrained beam": {
        "nbest": 3, "no_repeat_ngram": 2, "repetition_penalty": 1.3, "min_length_factor": 1.0,
        "forbidden": ("c", "<unk>"), "length_penalty": "sockeye", "beta": 1.0, "brevity": 0.5,
    },
    "first to finish": {"stop": "first", "nbest": 5},
    "sampling": {"method": "sample", "samples": 3, "temperature": 1.3, "top_p": 0.9, "seed": 7},
    "without replacement": {"method": "stochastic", "samples": 4, "seed": 7},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def compiled_in_a_hurry(tmp_path_factory):
    with compiling_once(tmp_path_factory.mktemp("xla")):
        yield


@pytest.fixture(scope="module")
def model():
    family = models.family("transformer")
    config = family.Config(width=16, hidden=16, heads=2, encoder_layers=1, decoder_layers=1, dropout=0.0)
    return family.build(config, Tokens(TOKENIZER.vocab_size), Tokens(TOKENIZER.vocab_size), precision=Precision.FLOAT32)


@pytest.fixture(scope="module")
def params(model):
    batch = assemble(PlannedBatch(Shape(1, 8, 8), np.arange(1), np.arange(1)), split(["a"], [[5, EOS]]))
    params = jax.jit(lambda key, batch: model.init(key, batch, train=False))(jax.random.key(0), batch)["params"]
    return jax.tree.map(lambda p: 2.5 * p, params)  # sure enough of something to be worth searching


def translator(model, params, **fields):
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    config = dataclasses.replace(BASE, **fields)
    scorer = Single(model, Precision.FLOAT32)
    pair = TokenizerPair(TOKENIZER, TOKENIZER)
    return Translator(scorer, params, pair, config, RequestFormat(max_source_length=20), mesh=mesh)


def split(sources, targets):
    encoded = [np.append(row, EOS) for row in TOKENIZER.encode(list(sources))]
    return Examples.of_pairs(Column.from_rows(encoded), Column.from_rows([np.array(t) for t in targets]))


@pytest.mark.fast_grid(2)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.replace(" ", "-"))
def test_scores_are_teacher_forcings_and_nothing_depends_on_the_batch(model, params, way):
    search = translator(model, params, **WAYS[way])
    answer = search(SOURCES)
    together = answer.result
    assert all(together) and answer.counts == RequestCounts(sources=7, unknown=Unknown(of=7))

    pairs = [(source, h) for source, found in zip(SOURCES, together, strict=True) for h in found]
    rows = split([source for source, _ in pairs], [h.ids for _, h in pairs])
    batch = assemble(PlannedBatch(Shape(len(pairs), 8, 16), np.arange(len(pairs)), np.arange(len(pairs))), rows)
    scorer = Single(model, Precision.FLOAT32)
    score = jax.jit(lambda p, b: jnp.sum(scorer.token_log_probs(p, b) * b["weights"], axis=1))
    tolerance = allowed(lambda p: score(p, batch), params)
    np.testing.assert_allclose([h.score for _, h in pairs], score(params, batch), rtol=0, atol=tolerance)

    shuffled = dict(zip(SOURCES[::-1], search(SOURCES[::-1]).result, strict=True))
    for source, found in zip(SOURCES, together, strict=True):
        for a, b in ((found, shuffled[source]), (found, search([source]).result[0])):
            assert [h.ids for h in a] == [h.ids for h in b]
            ranks = [[h.ranking_score for h in hypotheses] for hypotheses in (a, b)]
            np.testing.assert_allclose(*ranks, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["diverse beam", "sampling"], ids=lambda way: way.replace(" ", "-"))
def test_so_do_searches_from_vectors(way):
    """And what is asked of a scorer before there is a source: how much a search takes, which layers attend."""
    width, family, rng = 3, models.family("rnn_seq2seq"), np.random.default_rng(0)
    ports = Ports(Vectors(width), Tokens(TOKENIZER.vocab_size))
    config = family.Config(width=16, encoder_layers=1, decoder_layers=1, dropout=0.0)
    scorer = Single(models.build("rnn_seq2seq", config, ports, precision=FLOAT32), FLOAT32, ports.reads)
    rows = [rng.standard_normal((length, width)).astype(np.float32) for length in (3, 1, 9, 2, 5, 3)]

    def forced(found):
        targets = Column.from_rows([np.array(ids) for _, ids, _ in found])
        sources = Column.from_rows([rows[number] for number, _, _ in found], np.zeros((0, width), np.float32))
        whole = PlannedBatch(Shape(len(found), 16, 16), np.arange(len(found)), np.arange(len(found)))
        return assemble(whole, Examples.of_pairs(sources, targets))

    one = [(0, [5, EOS], 0.0)]
    params = jax.jit(lambda batch: scorer.model.init(jax.random.key(0), batch, train=False)["params"])(forced(one))
    params = jax.tree.map(lambda p: 2.5 * p, params)
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    decode = dataclasses.replace(BASE, **WAYS[way])
    search = Search(scorer, decode, RequestFormat(max_source_length=20), TOKENIZER, mesh)

    def found(numbers):
        made = []
        for order, of_batch in search(params, Requests([rows[i] for i in numbers], numbers)):
            for place, tokens, lengths, scores in zip(order, *of_batch[:3], strict=True):
                hypotheses = zip(tokens, lengths, scores, strict=True)
                made += [(numbers[place], row[:n].tolist(), float(score)) for row, n, score in hypotheses if n]
        return sorted(made)

    together = found(range(len(rows)))
    assert {number for number, _, _ in together} == set(range(len(rows)))
    score = jax.jit(lambda p, b: jnp.sum(scorer.token_log_probs(p, b) * b["weights"], axis=1))
    batch = forced(together)
    tolerance = allowed(lambda p: score(p, batch), params)
    np.testing.assert_allclose([x for *_, x in together], score(params, batch), rtol=0, atol=tolerance)
    for number in range(len(rows)):
        alone, beside = found([number]), [each for each in together if each[0] == number]
        assert [ids for _, ids, _ in alone] == [ids for _, ids, _ in beside]
    assert attention_layers(scorer, params) == (1,)
    assert footprint(scorer, params, TOKENIZER.vocab_size, width=4, heads=0).hypothesis > 0


def test_what_is_asked_for_is_what_comes(model, params):
    constrained = translator(model, params, **WAYS["constrained beam"])(SOURCES).result
    for source, found in zip(SOURCES, constrained, strict=True):
        for h in found:
            assert len(h.ids) >= len(source) + 1 and h.ids[-1] == EOS
            assert "c" not in h.text and "<unk>" not in h.tokens
            pairs = list(zip(h.ids, h.ids[1:], strict=False))
            assert len(set(pairs)) == len(pairs)
    drawn = translator(model, params, **WAYS["without replacement"])(SOURCES).result
    assert all(len({h.ids for h in found}) == 4 for found in drawn)


def test_whoever_asks_for_the_same_search_again_finds_it_compiled(model, params):
    def compiled(**fields):
        return translator(model, params, **fields)._search._compiled

    assert compiled(nbest=2) is compiled(nbest=2) is not compiled(nbest=2, forbidden=("a",))
    assert compiled(nbest=2, forbidden=("a",)) is not compiled(nbest=2, forbidden=("b",))


def test_draws_follow_the_seed_and_the_source(model, params):
    first = translator(model, params, **WAYS["sampling"])(SOURCES).result
    assert [h.ids for h in first[0]] == [h.ids for h in first[-1]], "the same source twice, the same draws"
    again = translator(model, params, **WAYS["sampling"])(SOURCES).result
    other = translator(model, params, **{**WAYS["sampling"], "seed": 8})(SOURCES).result
    assert first == again
    assert [[h.ids for h in found] for found in first] != [[h.ids for h in found] for found in other]
    assert len({h.ids for found in first for h in found}) > 5


def test_outputs_begin_with_their_prefixes_and_prefixes_count(model, params):
    prefixes = ["fed", "", "a", "bbbbbbbbbb", "h", "", "g"]
    search = translator(model, params, nbest=2)
    free, forced = search(SOURCES).result, search(SOURCES, prefixes=prefixes).result
    for prefix, found, unforced in zip(prefixes, forced, free, strict=True):
        assert all(h.text.startswith(prefix) for h in found)
        if not prefix:
            assert [h.ids for h in found] == [h.ids for h in unforced]
    (alone,) = search(SOURCES[:1], prefixes=prefixes[:1]).result
    assert [h.ids for h in alone] == [h.ids for h in forced[0]]


@pytest.mark.parametrize("late", [False, True], ids=["", "expanded late"])
def test_the_coverage_penalty_is_that_of_teacher_forcings_attention(model, params, late):
    search = translator(model, params, nbest=3, coverage=0.3, alpha=0.5, expand_late=late)
    found = search(SOURCES).result
    pairs = [(source, h) for source, hypotheses in zip(SOURCES, found, strict=True) for h in hypotheses]
    rows = split([source for source, _ in pairs], [h.ids for _, h in pairs])
    batch = assemble(PlannedBatch(Shape(len(pairs), 8, 16), np.arange(len(pairs)), np.arange(len(pairs))), rows)
    attend = jax.jit(lambda p, b: cross_attention(model, p, b))
    attention, apart = np.asarray(attend(params, batch)), allowed(lambda p: attend(p, batch), params)
    for (source, h), weights in zip(pairs, attention, strict=True):
        covered = weights[: len(h.ids), : len(source) + 1].sum(axis=0)
        expected = h.score / ((5 + len(h.ids)) / 6) ** 0.5 + 0.3 * np.log(np.clip(covered, LEAST_COVERAGE, 1)).sum()
        # The penalty is 0.3 times the sum of logarithms of sums of T weights each, which are at least LEAST_COVERAGE.
        logarithms = np.sum(len(h.ids) * apart / np.clip(covered, LEAST_COVERAGE, 1))
        np.testing.assert_allclose(h.ranking_score, expected, rtol=1e-6, atol=0.3 * logarithms)
    plain = translator(model, params, nbest=3, alpha=0.5)(SOURCES).result
    assert [[h.ids for h in hypotheses] for hypotheses in found] != [[h.ids for h in hs] for hs in plain]


def test_coverage_of_a_model_without_attention_is_refused_before_anything_is_computed():
    family = models.family("hmm")
    module = family.build(family.Config(states=3), *[Tokens(TOKENIZER.vocab_size)] * 2, precision=Precision.FLOAT32)
    batch = assemble(PlannedBatch(Shape(1, 4, 4), np.arange(1), np.arange(1)), split(["a"], [[5, EOS]]))
    init = lambda key, batch: module.init(key, batch, train=False)["params"]  # noqa: E731
    shapes = jax.eval_shape(init, jax.random.key(0), batch)
    with pytest.raises(UserError, match=r"decode.coverage is 0.2, but the model has no attention over a source"):
        translator(module, shapes, coverage=0.2)
    assert translator(module, shapes)([]).result == []


def test_outputs_contain_their_phrases_whatever_is_beside_them(model, params):
    phrases = [["fed"], [], ["ab", "ba"], ["hh", "g"], ["e"], [" "], ["dd"]]
    search = translator(model, params, beam_size=8, nbest=2)
    free, forced = search(SOURCES).result, search(SOURCES, phrases=phrases).result
    for wanted, found, unforced in zip(phrases, forced, free, strict=True):
        assert found and all(phrase in h.text for h in found for phrase in wanted if phrase.strip())
        if not any(phrase.strip() for phrase in wanted):
            assert [h.ids for h in found] == [h.ids for h in unforced]
    (alone,) = search(SOURCES[2:3], phrases=phrases[2:3]).result
    assert [h.ids for h in alone] == [h.ids for h in forced[2]]


@pytest.mark.parametrize("way", [{"nbest": 3}, WAYS["sampling"]], ids=["beam", "sampling"])
def test_outputs_are_among_the_choices(model, params, way):
    choices = ["abba", "h", "deaf", "cabbage" * 2]
    search = translator(model, params, **way)
    for found in search(SOURCES, choices=choices).result:
        assert found and all(h.text in choices for h in found)
    for asked, message in (
        ({"choices": [" "]}, "nothing to choose from"),
        ({"choices": ["a", "ż"]}, "'ż' cannot be asked for"),
        ({"choices": ["a"], "phrases": [["a"]] * 7}, "do not go together"),
    ):
        with pytest.raises(UserError, match=message):
            search(SOURCES, **asked)


@pytest.mark.parametrize(
    "asked, message",
    [
        (
            {"choices": ["a", "ab" * 50_000]},
            "a choice cannot have 100,000 tokens .'abababababababababab...'.: .* has 26",
        ),
        ({"prefixes": ["a" * 26, *[""] * 6]}, "a prefix cannot have 26 tokens"),
        ({"phrases": [*[[]] * 6, ["ab" * 10, "h" * 6]]}, "phrases of one source cannot have 26 tokens"),
    ],
)
def test_what_no_output_has_room_for_is_refused_before_anything_is_built(model, params, monkeypatch, asked, message):
    search = translator(model, params)
    for name in ("asked.build_tries", "search.build_phrases"):
        monkeypatch.setattr(f"s2sjax.inference.{name}", None)
    monkeypatch.setattr(search._search, "_compiled", None)
    with pytest.raises(UserError, match=message):
        search(SOURCES, **asked)


def test_where_nothing_meets_the_constraints_there_is_nothing_and_it_is_counted(model, params):
    search = translator(model, params, forbidden=("</s>",))
    answer = search(["abc", "", "h"])
    assert answer.result[0] == [] and answer.counts.unmet == 2


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"method": "bean"}, "config.decode.method is 'bean': did you mean 'beam'"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"groups": 2}, "cannot be divided into 2 groups"),
        ({"diversity": 1.0}, "set groups above 1"),
        ({"min_length_offset": -1}, "min_length_offset is -1, but must not be negative"),
        ({"stop": "early"}, "stop is 'early'"),
        ({"method": "sample", "nbest": 5}, "nbest is 5, but sample draws"),
        ({"coverage": float("inf")}, "coverage is inf, but a number of at most 1,000,000 was"),
        ({"method": "sample", "temperature": 1e-46}, "temperature is 1e-46, which float32 cannot tell from 0"),
        ({"method": "sample", "top_p": 1e-50}, "top_p is 1e-50, which float32 cannot tell from 0"),
        ({"method": "sample", "temperature": 1e-37}, "temperature is 1e-37, and what is divided by it is no float32"),
        ({"method": "sample", "temperature": 1e39}, "temperature is 1e\\+39, but a number of at most 1,000,000 was"),
        ({"seed": 2**64}, "seed is 18446744073709551616, but a number of at most"),
        ({"max_length_offset": 10**11}, "max_length_offset is 100000000000, but a number of at most 1,000,000 was"),
        ({"max_length_factor": 1e300}, "max_length_factor is 1e\\+300, but a number of at most 1,000 was"),
        ({"alpha": 1e300}, "alpha is 1e\\+300, but a number of at most 5 was"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        DecodeConfig(**fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"method": "sample", "top_k": 12}, "top_k is 12, and the vocabulary has 12 tokens: it cuts off nothing"),
        ({"groups": 5}, "groups is 5 and diversity 0: every group finds the same"),
        ({"length_penalty": "none", "alpha": 1.0}, "alpha is 1.0, but length_penalty is 'none'"),
        ({"beta": 1.0}, "beta is 1.0, but length_penalty is 'gnmt' and not 'sockeye'"),
        ({"reference_ratio": 1.5}, "reference_ratio is 1.5, but brevity is 0"),
        (
            {"min_length_offset": 9, "min_length_factor": 1.0},
            "for sources of 1 to 20 tokens: the greatest length counts",
        ),
        (
            {"min_length_offset": 9},
            "config.decode.min_length_offset=9 asks for more tokens than max_length_factor=1.0 with "
            "max_length_offset=6 allows, for sources of 1 to 2 tokens",
        ),
        ({"min_length_factor": 1.5}, "allows, for sources of 14 to 20 tokens"),
        (
            {"min_length_offset": 6, "max_length_offset": 4, "max_length_factor": 1.0},
            "min_length_offset=6 asks for more tokens than max_length_factor=1.0 with max_length_offset=4 allows, for "
            "sources of 1 token:",
        ),
        ({"min_length_factor": 1.0, "min_length_offset": 6}, ""),
        ({"method": "sample", "beam_size": 7}, "beam_size is 7, but method is 'sample': it is not looked at"),
        ({"method": "stochastic", "length_penalty": "power"}, "length_penalty is power, but method is 'stochastic'"),
        ({"seed": 3}, "seed is 3, but method is 'beam'"),
        ({}, ""),
    ],
)
def test_settings_without_effect_are_told(model, params, caplog, fields, message):
    translator(model, params, **fields)
    assert len(caplog.messages) == bool(message) and message in caplog.text


ELSEWHERE = {"method", "checkpoint", "precision", "batch_size", "ensemble", "forbidden", "expand_late", "alpha"}
"""Fields that are looked at whatever the method is; alpha by `--details=tokens` too."""


@pytest.mark.parametrize("method", ["beam", "sample", "stochastic"])
@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(DecodeConfig) if f.name not in ELSEWHERE])
def test_every_setting_has_an_effect_or_is_told_or_refused(method, field):
    sources, vocabulary = np.arange(1, 21), own_vocabulary(100)

    def effect(config: DecodeConfig):
        how = (config.beam if config.method == "beam" else config.sampling)(9, vocabulary)
        lengths = config.max_length(sources).tolist(), str(config.min_length(sources))
        return how, lengths, config.coverage, config.method != "beam" and config.seed

    other = {"length_penalty": "power", "stop": "never", "top_p": 0.5, "typical": 0.5, "max_new_tokens": 15}
    plain = DecodeConfig(method=method)
    try:
        value = other[field] if field in other else getattr(plain, field) + 1
        changed = dataclasses.replace(plain, **{field: value})
    except UserError as error:
        assert field in str(error)
        return
    told = any(text.startswith(f"{field} is ") for text in changed.without_effect(100, 20))
    assert told or effect(changed) != effect(plain)


LENGTHS = {
    "min_length_factor": (0.0, 3.0), "min_length_offset": (0, 40), "max_length_factor": (2.0, 1.0),
    "max_length_offset": (10, 4), "max_new_tokens": (0, 3),
}  # fmt: skip


@pytest.mark.parametrize("chosen", itertools.product((0, 1), repeat=len(LENGTHS)))
def test_a_warning_about_lengths_names_what_was_set_and_counts_and_nothing_else(chosen):
    values = {name: pair[i] for (name, pair), i in zip(LENGTHS.items(), chosen, strict=True)}
    told = [text for text in DecodeConfig(**values).without_effect(100, 20) if "min_length" in text]
    for text in told:
        named = {name for name in LENGTHS if f"{name}=" in text}
        expected = {name for (name, pair), i in zip(LENGTHS.items(), chosen, strict=True) if i}
        if "max_new_tokens" in expected:
            expected -= {"max_length_factor", "max_length_offset"}
        assert named == expected, text
    assert bool(told) == bool(chosen[0] or chosen[1])


@settings(max_examples=300)
@given(data=st.data())
def test_numbers_that_are_accepted_are_numbers_to_float32_and_int32(data):
    """Whatever is asked for: refused in a sentence, or a length, a divisor, a share that a device can hold."""
    numbers = {"int": st.integers(), "float": st.floats()}
    fields = [field for field in dataclasses.fields(DecodeConfig) if field.type in (int, float)]
    field = data.draw(st.sampled_from(fields))
    value = data.draw(numbers[field.type.__name__])
    method = data.draw(st.sampled_from(["beam", "sample", "stochastic"]))
    try:
        config = DecodeConfig(**{"method": method, field.name: value})
    except UserError as error:
        assert field.name in str(error)
        return
    with np.errstate(all="raise"):
        assert value == 0 or 0 < abs(np.float32(value)) < np.inf
        assert 0 < config.max_length(np.arange(2000)).max() < 2**31
        n = np.float32(1e6)
        assert (
            0 < n ** np.float32(config.alpha) < np.inf and np.float32(-1e3) / np.float32(config.temperature) > -np.inf
        )
        list(config.without_effect(100, 100))


def test_a_search_that_memory_does_not_hold_is_a_sentence(model, params, monkeypatch):
    def search(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 143000003112 bytes.")

    refused = translator(model, params)
    monkeypatch.setattr(refused._search, "_compiled", search)
    with pytest.raises(UserError, match="not enough memory for 1 source of 8 tokens with 5 hypotheses of up to 14"):
        refused(["abc"])


def test_the_settings_that_a_least_length_contradicts_are_named():
    (sentence,) = dataclasses.replace(BASE, min_length_offset=50).without_effect(100, 20)
    allowed = f"max_length_factor={BASE.max_length_factor} with max_length_offset={BASE.max_length_offset}"
    assert f"min_length_offset=50 asks for more tokens than {allowed} allows, for sources of 1 to 20 tokens" in sentence
    (sentence,) = DecodeConfig(min_length_offset=50, max_new_tokens=9).without_effect(100, 20)
    assert (
        "min_length_offset=50 asks for more tokens than max_new_tokens=9 allows, for sources of 1 to 20 tokens"
        in sentence
    )


@pytest.mark.parametrize("limit", [{"max_new_tokens": 1}, {"max_length_factor": 0.0, "max_length_offset": 1}])
def test_a_limit_that_leaves_every_output_empty_is_told(limit):
    (sentence,) = DecodeConfig(**limit).without_effect(100, 20)
    assert " with ".join(f"{name}={value}" for name, value in limit.items()) in sentence and "is empty" in sentence
    assert not list(DecodeConfig(**limit).without_effect(100, 20, runs_on=True))
    assert not list(DecodeConfig(**limit | {name: value + 1 for name, value in limit.items()}).without_effect(100, 20))


def test_no_output_is_longer_than_the_positions_a_model_has(model, params):
    """Neither is what is read: sources are cut, and counted."""
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    pair = TokenizerPair(TOKENIZER, TOKENIZER)
    scorer = Single(model, Precision.FLOAT32)
    format = RequestFormat(max_source_length=20, positions=(PositionLimit(6),))
    short = Translator(scorer, params, pair, BASE, format, mesh=mesh)
    found = short([*SOURCES, "abcdefgh"])
    assert all(len(h.ids) <= 6 for hypotheses in found.result for h in hypotheses) and found.counts.truncated == 3
    assert max(len(row) for row in short.requests.source_rows(["abcdefgh"]).result) == 6


def test_a_language_models_prompt_and_answer_fit_into_its_positions_together():
    family = models.family("causal_lm")
    config = family.Config(width=16, hidden=16, heads=2, layers=1, positions="learned", max_positions=10, dropout=0.0)
    model = family.build(
        config, Tokens(TOKENIZER.vocab_size), Tokens(TOKENIZER.vocab_size), precision=Precision.FLOAT32
    )
    batch = assemble(PlannedBatch(Shape(1, 4, 4), np.arange(1), np.arange(1)), split(["a"], [[5, EOS]]))
    params = jax.jit(lambda key, batch: model.init(key, batch, train=False))(jax.random.key(0), batch)["params"]
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    format = RequestFormat(max_source_length=20, positions=(PositionLimit(10, one_sequence=True),))
    scorer = Single(model, Precision.FLOAT32)
    search = Translator(scorer, params, TokenizerPair(TOKENIZER, TOKENIZER), BASE, format, mesh=mesh)
    sources = ["a", "abcdef", "abcdefghabcdefgh"]
    rows = search.requests.source_rows(sources).result
    for row, found in zip(rows, search(sources).result, strict=True):
        assert found and all(len(row) + len(h.ids) <= 10 and np.isfinite(h.score) for h in found)


def test_a_forbidden_token_that_is_none_is_refused(model, params):
    with pytest.raises(UserError, match="forbidden holds 'B', which is no token of this run; like it: b"):
        translator(model, params, forbidden=("B",))
