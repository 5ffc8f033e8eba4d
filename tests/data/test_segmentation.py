"""Sampled segmentation of planned batches: in every epoch the same texts, in other pieces, always in their places."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from s2sjax.data.batching import BatchingConfig
from s2sjax.data.columns import Column, Examples
from s2sjax.data.config import DataConfig
from s2sjax.data.examples import assemble
from s2sjax.data.pieces import SentencePieceTokenizer
from s2sjax.data.pipeline import batches
from s2sjax.data.plan import PlannedBatch, Shape, make_plan
from s2sjax.data.prepare import prepare_tokenizers
from s2sjax.data.rows import PLAIN_ROWS, RowFormat, turn_round
from s2sjax.data.segmentation import planned_lengths, sampled_segmentation
from s2sjax.data.tokenizer import TokenizerPair, train_tokenizers
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.data.units import CharTokenizer
from s2sjax.data.windows import Windows, windowed
from s2sjax.errors import UserError
from s2sjax.vocabulary import EOS
from tests.tiny import tiny, write_text

WORDS = ["lower", "low", "newest", "widest", "wider", "lowest", "new", "Straße", "straßen", "über"]
BATCHING = BatchingConfig(
    tokens=256, row_multiple=4, buckets=3, pack_length=64, max_source_length=40, max_target_length=48
)
BATCHINGS = pytest.mark.parametrize("batch_kind", ["bucket", "pack"])


@functools.cache
def texts(count=120):
    rng = np.random.default_rng(0)
    return [[" ".join(rng.choice(WORDS, rng.integers(0, 7))) for _ in range(count)] for _ in range(2)]


@functools.cache
def tokenizers(kind="bpe"):
    return train_tokenizers(TokenizerConfig(kind=kind, vocab_size=70), list(zip(*texts(), strict=True)))


def config(**changes):
    return TokenizerConfig(
        **{"sampling": "both", "bpe_dropout": 0.3, "sampling_alpha": 0.2, "sampling_slack": 2.0} | changes
    )


@functools.cache
def split(kind="bpe", *, right_to_left=False):
    def rows(side, turned):
        encoded = [np.append(row, np.int32(EOS)) for row in tokenizers(kind).source.encode(side)]
        return Column.from_rows([turn_round(row) for row in encoded] if turned else encoded)

    sources, targets = texts()
    return Examples.of_pairs(rows(sources, False), rows(targets, right_to_left))


def segmentation(seed=0, kind="bpe", rows=PLAIN_ROWS, batching=BATCHING, **changes):
    return sampled_segmentation(rows, batching, config(kind=kind, **changes), tokenizers(kind), seed)


def planned(batching=BATCHING, whole=None, **changes):
    whole = whole or split()
    lengths = planned_lengths(whole["source"].lengths, whole["target"].lengths, batching, config(**changes))
    return make_plan(*lengths, batching, seed=0)


NAMES = {"source": ("inputs", "input_segments"), "target": ("targets", "target_segments")}


def rows_of(batch, side="target"):
    """The tokens of each example of a batch, in order."""
    pairs = zip(*(batch[name] for name in NAMES[side]), strict=True)
    return [row[segments == n] for row, segments in pairs for n in range(1, segments.max() + 1)]


@BATCHINGS
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_every_batch_has_the_texts_that_are_planned_and_other_pieces_in_every_epoch(batch_kind, kind):
    batching = dataclasses.replace(BATCHING, kind=batch_kind)
    plan, draws = planned(batching, split(kind)), segmentation(kind=kind)
    per_epoch, drawn = plan.batches_per_epoch, {"source": [], "target": []}
    for epoch in range(2):
        found = {"source": {}, "target": {}}
        for i in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            made = assemble(plan.batch(i), split(kind), segmentation=draws)
            assert made["targets"].shape == plan.batch(i).shape[::2]
            for side in found:
                for example, row in zip(plan.batch(i).examples, rows_of(made, side), strict=True):
                    found[side][example] = row
        for side, whole in (("source", split(kind)["source"]), ("target", split(kind)["target"])):
            decode = tokenizers(kind).source.decode
            assert all(decode(row) == decode(whole[example]) for example, row in found[side].items())
            assert all(row[-1] == EOS for row in found[side].values())
            assert len(found[side]) == len(whole)
            drawn[side].append(found[side])
            others = np.mean([row.tolist() != whole[example].tolist() for example, row in found[side].items()])
            assert others > 0.2
    for first, second in drawn.values():
        assert np.mean([first[example].tolist() != second[example].tolist() for example in first]) > 0.2


@BATCHINGS
def test_a_draw_is_of_seed_epoch_example_and_side_whoever_makes_it(batch_kind):
    plan = planned(dataclasses.replace(BATCHING, kind=batch_kind))
    for i in (0, plan.batches_per_epoch, plan.batches_per_epoch + 1):
        whole = assemble(plan.batch(i), split(), segmentation=segmentation())
        for only in np.array_split(np.arange(plan.batch(i).shape.rows), 3):
            part = assemble(plan.batch(i), split(), only=only, segmentation=segmentation())
            for name in whole:
                np.testing.assert_array_equal(part[name], whole[name][only], err_msg=name)


def test_a_draw_depends_on_the_seed_the_epoch_the_example_and_the_side():
    def drawn(seed=0, epoch=0, examples=(5, 6, 7), **changes):
        batch = PlannedBatch(Shape(3, 999, 999), np.array(examples), np.arange(len(examples)), epoch)
        made = assemble(
            batch, split().with_columns({"source": split()["target"]}), segmentation=segmentation(seed, **changes)
        )
        return tuple([row.tolist() for row in rows_of(made, side)] for side in NAMES)

    source, target = drawn()
    assert drawn() == (source, target)
    assert drawn(sampling="target")[1] == target and drawn(sampling="source")[0] == source
    assert drawn(examples=(7, 5)) == tuple([side[2], side[0]] for side in (source, target))
    assert source != target
    assert all(other != own for other, own in zip(drawn(seed=1) + drawn(epoch=1), (source, target) * 2, strict=True))


def test_the_pipeline_goes_on_anywhere_with_the_same_samples():
    plan = planned(dataclasses.replace(BATCHING, kind="pack"))
    stop = 2 * plan.batches_per_epoch + 1
    make = functools.partial(assemble, split=split(), segmentation=segmentation())
    whole = list(batches(plan, make, range(stop)))
    for start in (1, plan.batches_per_epoch, stop - 1):
        tail = batches(plan, make, range(start, stop), threads=4)
        for expected, found in zip(whole[start:], tail, strict=True):
            for name in expected:
                np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_batch_that_was_left_out_leaves_the_epochs_of_the_others_as_they_were():
    plan = planned()
    shorter = plan.without(1, 3)
    for i in range(1, 2 * plan.batches_per_epoch):
        assert shorter.batch(i).epoch == plan.batch(i + 2).epoch


@settings(max_examples=40)
@given(width=st.integers(30, 120), seed=st.integers(0, 99))
def test_a_sample_stands_in_its_row_if_there_is_room_and_what_is_usual_if_there_is_not(width, seed):
    rng = np.random.default_rng(seed)
    examples, lengths = rng.permutation(120)[:12], split()["target"].lengths
    rows, filled = [], 0
    for example in examples:  # rows that what is usual fits in
        last = rows[-1] if rows else 0
        filled = filled + lengths[example] if rows and filled + lengths[example] <= width else lengths[example]
        rows.append(last if filled > lengths[example] or not rows else last + 1)
    batch = PlannedBatch(Shape(rows[-1] + 1, 999, width), examples, np.array(rows))
    found = rows_of(assemble(batch, split(), segmentation=segmentation()))
    free = rows_of(assemble(batch._replace(shape=Shape(12, 999, 999)), split(), segmentation=segmentation()))
    chosen = [row.tolist() for row in found]
    for n, (example, row, sample) in enumerate(zip(examples, chosen, free, strict=True)):
        usual = split()["target"][example].tolist()
        before = sum(len(chosen[m]) for m in range(n) if rows[m] == rows[n])
        after = sum(lengths[examples[m]] for m in range(n + 1, 12) if rows[m] == rows[n])
        fits = len(sample) <= 48 and before + len(sample) + after <= width
        assert row == (sample.tolist() if fits else usual)


def test_no_sample_is_over_the_length_limits():
    longest = int(split()["target"].lengths.max())
    batching = dataclasses.replace(BATCHING, max_target_length=longest)
    plan, draws = planned(batching), segmentation(batching=batching)
    made = (assemble(plan.batch(i), split(), segmentation=draws) for i in range(plan.batches_per_epoch))
    lengths = [len(row) for batch in made for row in rows_of(batch)]
    assert max(lengths) == longest < max(shape.target for shape in plan.shapes)


@given(st.lists(st.integers(0, 99), min_size=1), st.floats(1, 4) | st.just(1e30), st.integers(1, 80))
def test_planned_lengths_have_slack_within_the_limits_and_leave_out_the_same_examples(lengths, slack, most):
    lengths = np.array(lengths)
    batching = BatchingConfig(max_source_length=most, max_target_length=999)
    source, target = planned_lengths(
        lengths, lengths, batching, TokenizerConfig(sampling="source", sampling_slack=slack)
    )
    np.testing.assert_array_equal(target, lengths)
    np.testing.assert_array_equal(source > most, lengths > most)
    assert (source >= lengths).all()
    assert (source[lengths <= most] == np.minimum(np.ceil(lengths * slack), most)[lengths <= most]).all()


def test_targets_from_right_to_left_are_sampled_as_they_are_read():
    wide = PlannedBatch(Shape(9, 999, 999), np.arange(9), np.arange(9))
    draws = segmentation(rows=RowFormat(right_to_left=True))
    turned = rows_of(assemble(wide, split(right_to_left=True), segmentation=draws))
    straight = rows_of(assemble(wide, split(), segmentation=segmentation()))
    assert [turn_round(row).tolist() for row in turned] == [row.tolist() for row in straight]


def test_what_a_window_only_reads_stays_and_the_rest_is_sampled():
    batching = BatchingConfig(max_target_length=20)
    whole = windowed(split().with_columns({"source": split()["target"]}), Windows(context=12, join=True))
    whole = dataclasses.replace(whole, given=whole.given + 2)
    wide = PlannedBatch(Shape(20, 0, 40), np.arange(20), np.arange(20))
    made = assemble(wide, whole, segmentation=segmentation(batching=batching, sampling="target"))
    usual = assemble(wide, whole)
    decode = tokenizers().target.decode
    changed = 0
    for n, (row, before) in enumerate(zip(rows_of(made), rows_of(usual), strict=True)):
        given = int(whole.given[n])
        assert row[:given].tolist() == before[:given].tolist()
        assert [decode(part) for part in np.split(row, np.flatnonzero(row == EOS) + 1)] == [
            decode(part) for part in np.split(before, np.flatnonzero(before == EOS) + 1)
        ]
        assert made["weights"][n].sum() == len(row) - given
        changed += row.tolist() != before.tolist()
    assert changed > 10


def test_windows_that_begin_and_end_within_words_are_cut_anew_within_themselves():
    ids = {piece: n for n, piece in enumerate(tokenizers().target.pieces(range(tokenizers().target.vocab_size)))}
    letters = np.array([ids[letter] for letter in "lowestnewestlowest"], np.int32)
    windows = Column.from_rows([letters[:6], letters[5:12], letters[10:]])
    whole = Examples.of_pairs(windows, windows, given=np.array([0, 1, 2], np.int32))
    found = [set(), set(), set()]
    for epoch in range(20):
        batch = PlannedBatch(Shape(3, 99, 99), np.arange(3), np.arange(3), epoch)
        for n, row in enumerate(rows_of(assemble(batch, whole, segmentation=segmentation()))):
            assert "".join(tokenizers().target.pieces(row)) == "".join(tokenizers().target.pieces(windows[n]))
            assert row[: whole.given[n]].tolist() == windows[n][: whole.given[n]].tolist()
            found[n].add(tuple(row.tolist()))
    assert min(map(len, found)) > 3


def test_only_the_sides_that_are_named_are_sampled_and_none_means_none():
    batch = planned().batch(0)
    made = assemble(batch, split(), segmentation=segmentation(sampling="target"))
    usual = assemble(batch, split())
    np.testing.assert_array_equal(made["inputs"], usual["inputs"])
    assert (made["targets"] != usual["targets"]).any()
    assert segmentation(sampling="none") is None


def test_sampling_learns_no_other_vocabulary(tmp_path):
    data = DataConfig(
        dir=str(write_text(tmp_path)), source="{split}.src", target="{split}.tgt", cache_dir=str(tmp_path / "cache")
    )
    plain, sampled = (
        prepare_tokenizers(data, TokenizerConfig(vocab_size=30, sampling=name)) for name in ("none", "both")
    )
    assert plain.source.to_bytes() == sampled.source.to_bytes()
    assert len([path for path in (tmp_path / "cache").glob("tokenizer-*") if path.is_dir()]) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokenizer__kind": "char", "tokenizer__sampling": "both"}, "source of kind 'char' is cut in one way only"),
        (
            {"tokenizer__kind": "bpe", "tokenizer__target_kind": "char", "tokenizer__joint": False,
             "tokenizer__sampling": "both"},
            "target of kind 'char' is cut",
        ),
        ({"tokenizer__sampling": "bpe"}, "config.tokenizer.sampling is 'bpe'"),
        ({"tokenizer__bpe_dropout": 1.0}, "below 1"),
        ({"tokenizer__sampling_slack": 0.9}, "at least 1"),
        ({"tokenizer__sampling_alpha": -0.1}, "at least 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_sampled_is_refused_in_one_sentence(values, message):
    with pytest.raises(UserError, match=message):
        tiny(Path("data"), **values)


def test_a_language_models_windows_need_room_and_it_has_no_sources_to_sample():
    plain = {"data__source": "", "task__join": True, "task__context": 64, "batching__max_target_length": 64}
    sampled = plain | {"tokenizer__kind": "bpe", "tokenizer__sampling": "target"}
    with pytest.raises(UserError, match="set config.batching.max_target_length=80"):
        tiny(Path("data"), "causal_lm", **sampled)
    assert tiny(Path("data"), "causal_lm", **sampled | {"batching__max_target_length": 80})
    with pytest.raises(UserError, match="'source', but config.data.source is empty"):
        tiny(Path("data"), "causal_lm", **sampled | {"tokenizer__sampling": "source"})


def test_a_model_of_characters_is_refused_when_it_is_seen():
    tokenizer = CharTokenizer("abc")
    with pytest.raises(UserError, match="the source's tokenizer is of kind char, and only bpe and unigram"):
        sampled_segmentation(PLAIN_ROWS, BATCHING, config(), TokenizerPair(tokenizer, tokenizer), 0)


def test_a_model_whose_scores_are_no_numbers_is_refused():
    proto = ModelProto.FromString(tokenizers().source.to_bytes())
    proto.pieces[9].score = float("nan")
    broken = SentencePieceTokenizer(proto.SerializeToString())
    with pytest.raises(UserError, match="has a score that is no number"):
        sampled_segmentation(PLAIN_ROWS, BATCHING, config(), TokenizerPair(broken, broken), 0)
