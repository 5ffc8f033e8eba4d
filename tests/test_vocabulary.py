"""Vocabularies with other special tokens: which numbers tokens have changes nothing but the numbers.

A run has a twin: its SentencePiece model has the same pieces in another order, special ones among them, and its
parameters have their rows and columns in that order. Other tests train with models laid out as T5's and Llama's are.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import s2sjax
from s2sjax.data.examples import assemble
from s2sjax.data.mixing import training_plan
from s2sjax.data.prepare import prepare, tokenize
from s2sjax.data.segmentation import sampled_segmentation
from s2sjax.data.tokenizer import TokenizerPair, save, train_tokenizers
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.likelihood import loss_sums
from s2sjax.inference.requests import RequestFormat, RequestReader
from s2sjax.inference.running_text import decode_lines, encode_lines
from s2sjax.ops.losses import LossOptions
from s2sjax.runs.assembly import build_model
from s2sjax.training.loop import train
from s2sjax.vocabulary import Vocabulary, own_vocabulary
from tests.renumbered import like_llama, like_t5, renumbered, shuffled
from tests.tiny import compiling_once, on_devices, random_state, records, tiny, write_run, write_text

TEXT = {"data__source": "", "data__target": "{split}.src"}
FAMILIES = {
    "transformer": {}, "rnn_seq2seq": {}, "gnmt": {}, "causal_lm": {}, "griffin": TEXT, "lstm_lm": TEXT, "hmm": TEXT,
}  # fmt: skip
SOURCES = ["abc", "", "fedcba", "a żb", "cabcab"]


@pytest.fixture(scope="module", autouse=True)
def one_device_and_one_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, compiling_once(tmp_path_factory.mktemp("xla")):
        on_devices(patch, 1)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("data"), train=300, longest=6)


@pytest.fixture(scope="module")
def own(data):
    lines = (data / "train.src").read_text().splitlines()
    return train_tokenizers(TokenizerConfig(kind="bpe", vocab_size=23), [(line, line[::-1]) for line in lines]).source


def moved(tree, order):
    """The same numbers for a vocabulary in another order: of every axis that is as long."""

    def move(leaf):
        for axis in (axis for axis, size in enumerate(leaf.shape) if size == len(order)):
            leaf = np.take(leaf, order, axis)
        return leaf

    return jax.tree.map(lambda leaf: move(np.asarray(leaf)), tree)


def run_of(workdir, experiment, tokenizer, params):
    write_run(workdir, experiment, {1: ({"params": jax.tree.map(jnp.asarray, params)}, {"loss": 1.0})})
    save(TokenizerPair(tokenizer, tokenizer), workdir / "tokenizer")
    return s2sjax.load(workdir)


def assert_alike(found, expected, order):
    """Hypotheses with the same texts and scores, whose tokens have the twin's numbers."""
    for twins, ours in zip(found, expected, strict=True):
        assert [(h.text, h.tokens) for h in twins] == [(h.text, h.tokens) for h in ours]
        assert [[order[i] for i in h.ids] for h in twins] == [list(h.ids) for h in ours]
        for name in ("score", "ranking_score"):
            np.testing.assert_allclose(*([getattr(h, name) for h in each] for each in (twins, ours)), atol=2e-4)


@pytest.mark.slow
@pytest.mark.grid(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_whose_pieces_have_other_numbers_says_the_same(data, own, tmp_path, family):
    experiment = tiny(
        data, family, tokenizer__kind="bpe", decode__beam_size=3, decode__nbest=3, decode__max_length_factor=1.0,
        decode__max_length_offset=6, decode__batch_size=8, **FAMILIES[family],
    )  # fmt: skip
    twin, order = shuffled(own)
    assert twin.vocabulary.specials.isdisjoint(own.vocabulary.specials)
    params = random_state(experiment, 0, own.vocab_size).params
    ours = run_of(tmp_path / "ours", experiment, own, params)
    theirs = run_of(tmp_path / "theirs", experiment, twin, moved(params, order))

    found = ours.decode(SOURCES)
    assert sum(map(len, found)) > 6 and all(h.ids[-1] == own.vocabulary.end for each in found for h in each if h.ids)
    assert_alike(theirs.decode(SOURCES), found, order)
    asked = {"prefixes": ["b", "", "ca", "a", "f"], "phrases": [["dd"], ["a", "ef"], [], ["b"], ["c"]]}
    assert_alike(*(run.decode(SOURCES, **asked) for run in (theirs, ours)), order)
    choices = ["abc", "cab", "ffd", "a"]
    assert_alike(*(run.decode(SOURCES, choices=choices) for run in (theirs, ours)), order)
    drawn = {"method": "sample", "top_k": 1, "repetition_penalty": 1.5, "nbest": 1}
    assert_alike(*(run.with_config(**drawn).decode(SOURCES) for run in (theirs, ours)), order)

    targets = [source[::-1] for source in SOURCES]
    np.testing.assert_allclose(theirs.score(SOURCES, targets), ours.score(SOURCES, targets), atol=2e-4)
    flat = [(source, h) for source, each in zip(SOURCES, theirs.decode(SOURCES), strict=True) for h in each if h.ids]
    np.testing.assert_allclose(theirs.score(*zip(*flat, strict=True)), [h.score for _, h in flat], atol=2e-4)
    results = [run.evaluate("test") for run in (theirs, ours)]
    assert results[0].keys() == results[1].keys()
    for name in results[1].keys() - {"seconds"}:
        ours_is = results[1][name]
        assert results[0][name] == (pytest.approx(ours_is, rel=1e-4) if isinstance(ours_is, float) else ours_is), name
    if family == "hmm":
        assert theirs.tag(SOURCES) == ours.tag(SOURCES)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["transformer", "hmm"])
def test_a_training_step_of_the_twin_moves_the_same_numbers(data, own, tmp_path, family):
    experiment = tiny(data, family, tokenizer__kind="bpe", **FAMILIES[family])
    twin, order = shuffled(own)
    params, number = random_state(experiment, 0, own.vocab_size).params, np.argsort(order)
    gradients = []
    for name, tokenizer in (("own", own), ("twin", twin)):
        (tmp_path / f"{name}.model").write_bytes(tokenizer.to_bytes())
        given = dataclasses.replace(experiment.tokenizer, source_model=str(tmp_path / f"{name}.model"))
        split = prepare(experiment.data, given, ("train",)).splits["train"]
        plan = training_plan(split, experiment.data, experiment.batching, given, seed=0, divisor=1)
        batch = {key: jnp.asarray(values) for key, values in assemble(plan.batch(0), split).items()}
        model = build_model(experiment, (tokenizer.vocabulary,) * 2, "float32")
        weights = params if name == "own" else moved(params, order)

        def loss(weights, model=model, batch=batch):
            return loss_sums(model, weights, batch, LossOptions(), dropout_key=jax.random.key(0)).loss

        gradients.append((batch, jax.jit(jax.value_and_grad(loss))(weights)))
    (mine, expected), (other, found) = gradients
    for side, tokens in (("input", "inputs"), ("target", "targets"), ("target", "decoder_inputs")):
        there = mine[f"{side}_segments"] > 0
        np.testing.assert_array_equal(other[f"{side}_segments"], mine[f"{side}_segments"])
        np.testing.assert_array_equal(other[tokens][there], number[mine[tokens][there]])
    assert mine["target_segments"].min() == 0, "some of it is padding"
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(moved(expected[1], order)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1, np.abs(b).max()))


JOINED = {"task__join": True, "task__context": 16, "task__stride": 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "family", "options"),
    [
        (like_t5, "transformer", {}),
        (like_llama, "causal_lm", TEXT | JOINED),
        (lambda own: renumbered(own, [*range(4, own.vocab_size), 3, 1]), "rnn_seq2seq", {"batching__kind": "pack"}),
    ],
)
def test_given_models_of_all_layouts_train_and_decode(data, own, tmp_path, change, family, options):
    """T5's, without begin-of-sentence; Llama's, without padding; and one that has neither."""
    tokenizer, path = change(own), tmp_path / "given.model"
    path.write_bytes(tokenizer.to_bytes())
    experiment = tiny(
        data, family, tokenizer__kind="bpe", tokenizer__source_model=str(path), train__steps=30, evaluate__samples=1,
        evaluate__decode="task__join" not in options, evaluate__every_steps=30, train__label_smoothing=0.0, **options,
    )  # fmt: skip
    train(experiment, tmp_path / "run")
    losses = [line["loss"] for line in records(tmp_path / "run")]
    assert losses[-1] < 0.95 * losses[0]
    path.unlink()  # the run has a copy
    run = s2sjax.load(tmp_path / "run").with_config(beam_size=3, nbest=2)
    assert run.tokenizers.target.vocabulary == tokenizer.vocabulary
    found = [(source, h) for source, each in zip(SOURCES, run.decode(SOURCES), strict=True) for h in each if h.ids]
    assert len(found) > 5 and {h.ids[-1] for _, h in found} == {tokenizer.vocabulary.end}
    scores = run.score(*zip(*found, strict=True))
    np.testing.assert_allclose(scores, [h.score for _, h in found], atol=1e-4)
    assert all(math.isfinite(value) for value in run.evaluate("test").values() if isinstance(value, float))
    if options:
        drawing = run.with_config(method="sample", max_new_tokens=40, beam_size=5, nbest=1)
        lengths = {len(h.ids) for each in drawing.decode(["ab", ""]) for h in each}
        assert lengths == {40} if "task__join" in options else max(lengths) <= 40


@pytest.mark.slow
def test_a_hypothesis_ends_by_any_end_and_is_scored_with_it(data, own, tmp_path):
    experiment = tiny(data, "hmm", tokenizer__kind="bpe", decode__beam_size=4, decode__nbest=4, **TEXT)
    params = random_state(experiment, 0, own.vocab_size).params
    run = run_of(tmp_path / "run", experiment, own, params)
    end, other = own.vocabulary.end, int(own.encode(["a"])[0][-1])
    tokenizer = type(own)(own.to_bytes())
    tokenizer.vocabulary = dataclasses.replace(own.vocabulary, ends=(end, other))
    run = dataclasses.replace(run, tokenizers=TokenizerPair(tokenizer, tokenizer))
    sources = [source for source in ("b", "cd", "e") for _ in range(4)]
    for how in ({}, {"method": "sample", "samples": 4, "nbest": 1}, {"method": "stochastic", "samples": 4, "nbest": 1}):
        found = [h for each in run.with_config(**how).decode(sources[::4]) for h in each]
        assert {h.ids[-1] for h in found} == {end, other}
        assert all(not {end, other} & set(h.ids[:-1]) for h in found)
        np.testing.assert_allclose(run.score(sources, found), [h.score for h in found], atol=1e-4)


def test_rows_of_data_end_and_begin_as_the_vocabulary_says(data, own, tmp_path):
    experiment = tiny(data, tokenizer__kind="bpe", tokenizer__sampling="both", data__cache_dir=str(tmp_path))
    pair = TokenizerPair(like_t5(own), like_llama(own))
    split = tokenize(experiment.data, pair, "validation")
    assert split.start == split.part(2, 5).start == pair.target.vocabulary.start == 1
    sections = experiment.batching, experiment.tokenizer
    plan = training_plan(split, experiment.data, *sections, seed=0, divisor=1)
    segmentation = sampled_segmentation(experiment.task.rows, *sections, pair, seed=0)
    for batch in (assemble(plan.batch(0), split, segmentation=cut) for cut in (None, segmentation)):
        for side, tokens, end in (("input", "inputs", 1), ("target", "targets", 2)):
            there = batch[f"{side}_segments"] > 0
            last = there & ~np.pad(there[:, 1:], ((0, 0), (0, 1)))
            assert (batch[tokens][last] == end).all() and not (batch[tokens][there & ~last] == end).any()
        begins = (batch["target_positions"] == 0) & (batch["target_segments"] > 0)
        assert (batch["decoder_inputs"][begins] == 1).all() and begins.any()


def test_requests_begin_and_end_as_their_vocabularies_say(own):
    t5, llama = like_t5(own), like_llama(own)
    cases = (
        (llama, t5, RequestFormat(4), lambda ids: [*ids[:3], 2]),  # a source ends as its own vocabulary says
        (t5, t5, RequestFormat(4, continues=True), lambda ids: [0, *ids[-3:]]),
        (llama, llama, RequestFormat(4, continues=True), lambda ids: [1, *ids[-3:]]),
    )
    for source, target, format, expected in cases:
        reader = RequestReader(TokenizerPair(source, target), DecodeConfig(), format)
        for text in ("", "ab", "fedcbafedcba"):
            (row,) = reader.source_rows([text]).result
            assert row.tolist() == expected(source.encode([text])[0].tolist())
    two_ends = like_llama(own)
    two_ends.vocabulary = dataclasses.replace(two_ends.vocabulary, ends=(2, 5))
    (row,) = encode_lines(two_ends, ["ab\ncd\n"])
    assert [i for i in row.tolist() if i in (2, 5)] == [2, 2]
    assert [decode_lines(two_ends, np.where(row == 2, end, row)) for end in (2, 5)] == ["ab\ncd\n"] * 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ends": ()}, "has no end-of-sentence"),
        ({"ends": (3, 3)}, "must be different token ids"),
        ({"pad": 3}, "must be different token ids, from 0; padding that is an end is None"),
        ({"start": 9}, "special id 9 is outside a vocabulary of 9 tokens"),
        ({"unk": -1}, "special id -1 is outside"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(own_vocabulary(9), **fields)


def test_special_tokens_may_be_missing_and_mean_two_things():
    assert Vocabulary(4, None, None, 2, (2,)).specials == {2}
    assert Vocabulary(4, 0, 2, 0, (1, 3)).specials == {0, 1, 2, 3}
