"""What is told of data when it is prepared: unknown tokens, and pairs with a blank side."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s2sjax.data import counts
from s2sjax.data.config import DataConfig
from s2sjax.data.prepare import prepare
from s2sjax.data.rows import PLAIN_ROWS, RowFormat
from s2sjax.data.tokenizer_config import KINDS, TokenizerConfig
from s2sjax.data.unknown import unknown_in

SIDE = st.sampled_from(["a b", "", " ", "\u3000", "\t \u00a0", "b"])


def prepared(directory, pairs, kind, validation=(("a b", "a b"),), stand=PLAIN_ROWS, **options):
    for split, rows in (("train", [("a \u3000\t\u00a0b", "a b"), *pairs, ("a", "b")]), ("validation", validation)):
        for side, name in enumerate(("en", "de")):
            (directory / f"{split}.{name}").write_text("".join(f"{row[side]}\n" for row in rows))
    files = {"source": "{split}.en", "target": "{split}.de"}
    data = DataConfig(dir=str(directory), cache_dir=str(directory / "cache"), **files, **options)
    return prepare(data, TokenizerConfig(kind=kind, vocab_size=30), rows=stand)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("counts")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(
    pairs=st.lists(st.tuples(SIDE, SIDE), max_size=5),
    prompt=st.sampled_from(["{source}", "<b> {source}", "b:{source} a"]),
)
@example(pairs=[("\u3000", "a b")], prompt="b a{source}")
def test_pairs_with_one_blank_side_are_counted_with_a_prompt_and_without(directory, kind, pairs, prompt):
    sides = [[bool(text.strip()) for text in pair] for pair in pairs]
    source, target = sum(not s and t for s, t in sides), sum(s and not t for s, t in sides)
    told = prepared(directory, pairs, kind, prompt=prompt).splits["train"].remarks
    expected = [
        f"{number} of {len(pairs) + 2} pairs of split 'train' have a blank {side} and a {other} that is not; they are "
        "kept"
        for number, side, other in ((source, "source", "target"), (target, "target", "source"))
        if number
    ]
    assert list(told) == expected


def test_unknown_tokens_are_counted_once_and_the_counts_are_kept(tmp_path, monkeypatch):
    validation = [("a \u017c b", "\u017c\u017c")]
    first = prepared(tmp_path, [], "char", validation).splits["validation"].remarks
    assert first == (
        "1 of 1 source of split 'validation' holds characters that the vocabulary lacks, 1 in all, and they are read "
        "as unknown: '\u017c' (1)",
        "1 of 1 target of split 'validation' holds characters that the vocabulary lacks, 2 in all, and they are read "
        "as unknown: '\u017c' (2)",
    )
    monkeypatch.setattr(counts, "_count", None)
    assert prepared(tmp_path, [], "char", validation).splits["validation"].remarks == first
    monkeypatch.undo()
    earlier = {"source_tokens": 6, "source_unknown": 1, "source_blank": 0, "target_tokens": 3, "target_unknown": 2}
    unknown = {side: {"counts": {"\u017c": "many"}} for side in ("source", "target")}
    damaged = {"rows": 1, "blank": {"source": 0, "target": 0}, "unknown": unknown}
    for record in ({"rows": "many"}, earlier | {"target_blank": 0, "rows": 1}, damaged, []):
        for listing in tmp_path.rglob("counts.json"):
            listing.write_text(json.dumps(record))
        assert prepared(tmp_path, [], "char", validation).splits["validation"].remarks == first


def test_a_corpus_that_spells_its_unknown_words_lacks_nothing(tmp_path):
    """As WikiText-2 does; what else its vocabulary lacks is counted without them, in the words of `decode`."""
    validation = [("a <unk> b", "<unk>"), ("<unk> c d", "a")]
    splits = prepared(tmp_path, [("a <unk>", "<unk> b <unk>")], "word", validation).splits
    assert splits["train"].remarks == ()
    texts = [source for source, _ in validation]
    tokenizers = prepared(tmp_path, [("a <unk>", "<unk> b <unk>")], "word", validation).tokenizers
    expected = unknown_in(tokenizers.source, texts).sentence("source", " of split 'validation'")
    assert splits["validation"].remarks == (expected,)
    assert expected.startswith("1 of 2 sources of split 'validation' hold words that the vocabulary lacks, 2 in all")


def test_targets_that_are_turned_round_lack_what_they_lack(tmp_path):
    told = prepared(tmp_path, [], "char", [("a", "ab\u017c")], RowFormat(right_to_left=True)).splits["validation"]
    assert told.unknown_targets.counts == {"\u017c": 1}
