"""What a config of somebody else's run may cost: limits that an honest one does not notice, and none for one's own."""

import dataclasses
import functools
import itertools
import random
import shutil
import tempfile
from io import BytesIO

import jax
import numpy as np
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from s2sjax import experiment as experiments
from s2sjax import models
from s2sjax.config import nearest
from s2sjax.data.pieces import SentencePieceTokenizer
from s2sjax.data.tokenizer import TokenizerPair, train_tokenizers
from s2sjax.data.tokenizer import save as save_tokenizers
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.data.units import ByteTokenizer, CharTokenizer, WordTokenizer
from s2sjax.errors import UserError
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.scorers import Single
from s2sjax.inference.search_size import MARGIN, SearchSize, fitting, footprint
from s2sjax.ops.linear import Precision
from s2sjax.ops.position import _buckets
from s2sjax.ports import Tokens
from s2sjax.runs import costs, home
from s2sjax.runs.evaluate import check_search
from s2sjax.runs.loading import load
from tests.hostile import within
from tests.tiny import LETTERS, random_state, tiny, write_run

VOCAB = CharTokenizer(LETTERS).vocab_size
TOO_LONG = {"decode__max_length_offset": 60_000, "decode__beam_size": 200}


def scored(tmp_path, family, **overrides):
    """A config, its scorer, and the shapes of its parameters."""
    experiment = tiny(tmp_path, family, **overrides)
    model = models.family(family).build(experiment.model, Tokens(VOCAB), Tokens(VOCAB), precision=Precision.FLOAT32)
    params = jax.eval_shape(lambda: random_state(experiment, 0).best_params)
    return experiment, Single(model, Precision.FLOAT32), params


@pytest.fixture(scope="module", params=["transformer", "causal_lm", "rnn_seq2seq", "griffin", "hmm"])
def subject(request, tmp_path_factory):
    return scored(tmp_path_factory.mktemp("costs"), request.param)


def drawn(rng, experiment):
    """A decode section with numbers of any size."""
    method = rng.choice(["beam", "sample"])
    changes = {
        "method": method, "batch_size": rng.choice([1, 64, 300, 10**6]),
        "samples" if method == "sample" else "beam_size": rng.choice([1, 5, 16, 17, 200, 10**6]),
        "max_length_factor": rng.choice([0.0, 1.5, 100.0, 1000.0]), "max_length_offset": rng.choice([1, 60, 60000]),
        "max_new_tokens": rng.choice([0, 0, 100, 10**6]),
    }  # fmt: skip
    decode = dataclasses.replace(experiment.decode, **changes)
    return dataclasses.replace(experiment, decode=decode), changes


def test_whatever_the_settings_a_search_takes_little_more_than_by_default_or_is_refused(subject, tmp_path, monkeypatch):
    experiment, scorer, params = subject
    heads = getattr(experiment.model, "heads", 0)
    of_width = functools.cache(lambda width: footprint(scorer, params, VOCAB, width=width, heads=heads))
    monkeypatch.setattr(costs, "footprint", lambda *_, width, heads: of_width(width))
    rng, refused, lower = random.Random(7), 0, 0
    for _ in range(60):
        asked, changes = drawn(rng, experiment)
        try:
            given = costs.with_search_that_fits(asked, (), tmp_path, scorer, params, VOCAB)
        except UserError as error:
            refused += 1
            assert "--config.decode." in str(error) and "batch_size" not in str(error)
            continue
        lower += given.decode.batch_size < asked.decode.batch_size
        assert dataclasses.replace(given.decode, batch_size=asked.decode.batch_size) == asked.decode
        of = of_width(given.decode.width)
        for length in (8, 64, 128):
            default = of.bytes(SearchSize.of(DecodeConfig()), length)
            assert of.bytes(SearchSize.of(given.decode), length) <= default + MARGIN
        own = [f"decode.{name}" for name in changes]
        assert costs.with_search_that_fits(asked, own, tmp_path, scorer, params, VOCAB) == asked
    assert refused > 3 and lower > 3


@pytest.mark.parametrize(
    "settings",
    [{}, {"beam_size": 10, "nbest": 10}, {"beam_size": 1}, {"max_length_offset": 200, "max_length_factor": 1.0},
     {"batch_size": 256}, {"max_new_tokens": 100}, {"method": "sample", "samples": 50}],
)  # fmt: skip
def test_ordinary_settings_are_not_touched(settings, subject, tmp_path):
    experiment, scorer, params = subject
    asked = dataclasses.replace(experiment, decode=dataclasses.replace(DecodeConfig(), **settings))
    assert costs.with_search_that_fits(asked, (), tmp_path, scorer, params, VOCAB) == asked
    assert costs.lowered(asked, ()) == asked and not costs.beyond(asked, training=True)


@pytest.mark.parametrize(("task", "family"), [("classification", "rnn_seq2seq"), ("tagging", "rnn_encoder")])
def test_labels_are_searched_for_nowhere(tmp_path, task, family):
    experiment = tiny(tmp_path, family, task__name=task, decode__batch_size=10**6)
    assert costs.with_search_that_fits(experiment, (), tmp_path, None, None, VOCAB) is experiment


def test_what_is_estimated_is_what_a_cache_has(tmp_path):
    """Of a wide model, whose keys and values are nearly all of it: [layers, 2, K, T, D] float32, twice."""
    experiment, scorer, params = scored(tmp_path, "transformer", model__width=128, model__decoder_layers=2)
    of = footprint(scorer, params, VOCAB, width=32, heads=2)
    assert of.token == pytest.approx(2 * 2 * 2 * 128 * 4, rel=0.05)
    size = SearchSize.of(experiment.decode)
    assert fitting(size, size, of, 128) == size.batch_size
    assert fitting(dataclasses.replace(size, max_length_offset=10**6), size, of, 128) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("costs")
    experiment = tiny(place / "data")
    return write_run(place / "run", experiment, {1: (random_state(experiment, 0), {"loss": 1.0})})


def brought(run, to, **overrides):
    """The run with another config, at a place where it was not made."""
    shutil.copytree(run, to)
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    experiments.save(experiments.override(experiments.load(run / "config.json"), changes), to / "config.json")
    return to


def test_a_search_that_fills_the_memory_is_refused_of_another_s_run_until_it_is_said(run, tmp_path):
    there = brought(run, tmp_path / "run", **TOO_LONG)
    with within(20), pytest.raises(UserError, match=r"config\.decode\.beam_size=200 .*max_length_offset=60000"):
        load(there)
    said = load(there, max_length_offset=60_000, beam_size=200)
    assert said.experiment.decode.width == 200
    assert load(there, said=["config.decode.beam_size", "decode.max_length_offset"]).experiment.decode.batch_size == 64
    assert load(there, beam_size=5, max_length_offset=10).experiment.decode.max_length_offset == 10
    with pytest.raises(UserError, match="max_length_offset=60000"):
        load(there, beam_size=100)


def test_batches_of_another_s_run_are_no_larger_than_common_and_ones_own_as_they_are_said(run, tmp_path):
    huge = {"decode__batch_size": 10**6, "batching__tokens": 10**9, "batching__length_multiple": 10**6,
            "train__loss_chunk": 10**9}  # fmt: skip
    there = brought(run, tmp_path / "run", **huge)
    found = load(there)
    for key, most in costs.LOWERED.items():
        assert costs.value_of(found.experiment, key) == most
        assert costs.value_of(found.saved, key) == huge[key.replace(".", "__")]
    assert load(there, batch_size=999).experiment.decode.batch_size == 999
    own = experiments.override(found.saved, {"batching.tokens": 777_777})
    assert load(there, experiment=own).experiment.batching.tokens == 777_777
    assert load(run).experiment == load(run).saved


@pytest.mark.parametrize(
    "key, value, named",
    [
        ("decode.groups", 20, "decode.groups=20"),
        ("decode.no_repeat_ngram", 500, "decode.no_repeat_ngram=500"),
        ("model.relative_distance", 10**9, "model.relative_distance=1000000000"),
        ("model.relative_buckets", 2000, "model.relative_buckets=2000"),
        ("model.encoder_layers", 1000, "model.encoder_layers=1000"),
    ],
)
def test_loops_in_python_are_bounded(run, tmp_path, key, value, named):
    changes = {"decode.beam_size": 20} if key == "decode.groups" else {}
    changes |= {"model.relative_distance": 1000} if key == "model.relative_buckets" else {}
    there = brought(run, tmp_path / "run")
    experiment = experiments.override(experiments.load(run / "config.json"), changes)
    with_it = experiments.override(experiment, {key: value})
    experiments.save(with_it, there / "config.json")
    with within(10), pytest.raises(UserError, match=f"config.{named}"):
        load(there)
    assert not costs.beyond(experiment, training=True) and list(costs.beyond(with_it, training=False)) == [key]


def test_windows_that_are_nearly_the_same_are_bounded(tmp_path):
    text = {"data__source": "", "task__context": 100, "checkpoint__metric": "loss"}
    for stride, found in ((0, []), (2, []), (1, ["task.stride"])):
        experiment = tiny(tmp_path, "causal_lm", **text, task__stride=stride)
        assert list(costs.beyond(experiment, training=False)) == found


def test_validation_of_another_s_run_is_no_larger_than_decoding(run, tmp_path):
    pair = TokenizerPair(tokenizer := CharTokenizer(LETTERS), tokenizer)
    params = jax.eval_shape(lambda: random_state(tiny(tmp_path), 0).best_params)
    for changes, told in ((TOO_LONG, "beam_size=200"), ({"decode__batch_size": 10**6}, "decode.batch_size=16384")):
        there = brought(run, tmp_path / told, evaluate__decode=True, **changes)
        asked = experiments.load(there / "config.json")
        with pytest.raises(UserError, match=told):
            check_search(asked, there, ["data.dir"], pair, params)
        check_search(asked, there, [key.replace("__", ".") for key in changes], pair, params)
        check_search(asked, there, None, pair, params)
        quiet = experiments.override(asked, {"evaluate.decode": False})
        check_search(quiet, there, ["data.dir", "evaluate.decode"], pair, params)


def test_long_names_and_lists_of_a_config_take_no_time(tmp_path):
    with within(20):
        nearest("b" * 10**7, ["beam_size", "beta"])
        tokenizer = CharTokenizer([chr(0x4E00 + i) for i in range(8000)])
        forbidden = tuple(tokenizer.pieces(range(4, 8000))) * 50
        allowed = dataclasses.replace(DecodeConfig(), forbidden=forbidden).allowed(tokenizer)
        assert allowed is not None and np.count_nonzero(allowed) == 4 + tokenizer.vocab_size - 8000
        with pytest.raises(UserError, match="xxx") as refused:
            dataclasses.replace(DecodeConfig(), forbidden=("x" * 10**7,)).allowed(tokenizer)
        assert len(str(refused.value)) < 1000


def test_buckets_of_distances_are_those_of_the_definition():
    for buckets, most in itertools.product(range(2, 34, 3), (17, 20, 64, 128, 131)):
        exact = buckets // 2
        coarse = buckets - exact
        reached = [
            max(i for i in range(coarse) if d**coarse * exact**i >= most**i * exact**coarse) if d >= exact else None
            for d in range(most + 1)
        ]
        expected = [d if i is None else exact + i for d, i in enumerate(reached)]
        assert list(_buckets(buckets, most)) == expected
    with within(10):
        _buckets(1024, 1 << 16)


def long_words():
    return WordTokenizer([letter * 300 for letter in LETTERS])


def a_long_symbol():
    return CharTokenizer(LETTERS[1:], ["ab" * 200])


def many_symbols():
    return CharTokenizer(LETTERS[1:], [f"{number:0200d}" for number in range(6000)])


def a_long_piece():
    return sentencepiece_model(lambda model: setattr(model.pieces[-1], "piece", "a" * 300))


def a_long_replacement():
    """Each "a" is read as 400 times "b"."""
    return sentencepiece_model(normalization_rule=f"61\t{' '.join(['62'] * 400)}\n")


def sentencepiece_model(change=lambda model: None, normalization_rule=""):
    """A model of a few pieces, with rules of its own, and changed as anybody can change one."""
    model = BytesIO()
    with tempfile.NamedTemporaryFile("w") as rules:
        rules.write(normalization_rule)
        rules.flush()
        normalised = {"normalization_rule_tsv": rules.name} if normalization_rule else {}
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(["ab ba"] * 20), model_writer=model, model_type="char", vocab_size=8,
            hard_vocab_limit=False, pad_id=0, unk_id=1, bos_id=2, eos_id=3, minloglevel=2, **normalised,
        )  # fmt: skip
    message = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    change(message)
    # What a reader skips must not hide what stands behind it: a number of eight bytes, in the field 99.
    return SentencePieceTokenizer(b"\x99\x06" + bytes(8) + message.SerializeToString())


@pytest.mark.parametrize("make", [long_words, a_long_symbol, many_symbols, a_long_piece, a_long_replacement])
def test_texts_do_not_grow_by_the_vocabulary_of_another_s_run_until_it_is_said(make, run, tmp_path):
    there, own = brought(run, tmp_path / "there"), home_of(run, tmp_path / "own")
    for place in (there, own):
        tokenizer = make()
        save_tokenizers(TokenizerPair(tokenizer, tokenizer), place / "tokenizer")
    with pytest.raises(UserError, match=r"characters.* --config\.tokenizer\.kind=char"):
        load(there)
    for place, said in ((there, ["tokenizer.kind"]), (own, [])):
        try:
            load(place, said=said)
        except UserError as error:  # none of these goes with the checkpoint's six letters, or all do
            assert "is of another model" in str(error)


def home_of(run, to):
    """The same run, as if it had been made at another place."""
    shutil.copytree(run, to)
    home.record(to, experiments.load(to / "config.json"))
    return to


def test_ordinary_vocabularies_let_no_text_grow():
    trained = train_tokenizers(TokenizerConfig(kind="bpe", vocab_size=40), [("ab ba", "ba ab")] * 20).source
    nfkc = sentencepiece_model()
    assert 10 < nfkc.longest <= 64  # a ligature of eighteen letters
    for tokenizer in (trained, nfkc, ByteTokenizer(["<2de>"]), CharTokenizer(LETTERS, ["<2de>"]), WordTokenizer(["a"])):
        assert tokenizer.longest <= 64 and not costs.beyond_tokens(TokenizerPair(tokenizer, tokenizer))


@pytest.mark.parametrize(
    "key, value",
    [("data.prompt", "{source} " * 100), ("data.prompt", "x" * 20_000 + "{source}"), ("data.source", "{a}" * 100),
     ("data.target", ("a", "{a}" * 100)), ("data.mixture", {"a": {"prompt": "{source} " * 100}})],
)  # fmt: skip
def test_templates_of_another_s_run_do_not_multiply_texts_until_they_are_said(key, value, run, tmp_path):
    there = brought(run, tmp_path / "run", **{key.replace(".", "__"): value})
    key += ".a.prompt" if key == "data.mixture" else ""
    with pytest.raises(UserError, match=f"--config.{key}=") as refused:
        load(there)
    assert len(str(refused.value)) < 2000
    assert load(there, said=[key]).step == 1
