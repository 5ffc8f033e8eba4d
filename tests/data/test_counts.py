"""What is told of data when it is prepared: unknown tokens, and pairs with a blank side."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2sjax.data import counts
from s2sjax.data.config import DataConfig
from s2sjax.data.prepare import prepare
from s2sjax.data.tokenizer import KINDS, TokenizerConfig

SIDE = st.sampled_from(["a b", "", " ", "\u3000", "\t \u00a0", "b"])


def prepared(directory, pairs, kind, validation=(("a b", "a b"),)):
    for split, rows in (("train", [("a \u3000\t\u00a0b", "a b"), *pairs, ("a", "b")]), ("validation", validation)):
        for side, name in enumerate(("en", "de")):
            (directory / f"{split}.{name}").write_text("".join(f"{row[side]}\n" for row in rows))
    data = DataConfig(dir=str(directory), cache_dir=str(directory / "cache"), source="{split}.en", target="{split}.de")
    return prepare(data, TokenizerConfig(kind=kind, vocab_size=30))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("counts")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(pairs=st.lists(st.tuples(SIDE, SIDE), max_size=5))
def test_pairs_with_one_blank_side_are_counted(directory, kind, pairs):
    sides = [[bool(text.strip()) for text in pair] for pair in pairs]
    source, target = sum(not s and t for s, t in sides), sum(s and not t for s, t in sides)
    numbers = [f"{source} a blank source"] * bool(source) + [f"{target} a blank target"] * bool(target)
    told = prepared(directory, pairs, kind).splits["train"].remarks
    expected = (
        f"of {len(pairs) + 2} pairs of split 'train', {' and '.join(numbers)} and something beside it: they are kept"
    )
    assert told == ((expected,) if numbers else ())


def test_unknown_tokens_are_counted_once_and_the_counts_are_kept(tmp_path, monkeypatch):
    validation = [("a \u017c b", "\u017c\u017c")]
    first = prepared(tmp_path, [], "char", validation).splits["validation"].remarks
    assert first == (
        "1 of 6 source tokens of split 'validation' are unknown: characters that the vocabulary of 10 lacks",
        "2 of 3 target tokens of split 'validation' are unknown: characters that the vocabulary of 10 lacks",
    )
    monkeypatch.setattr(counts, "_count", None)
    assert prepared(tmp_path, [], "char", validation).splits["validation"].remarks == first
    monkeypatch.undo()
    for listing in tmp_path.rglob("counts.json"):
        listing.write_text(json.dumps({"rows": "many"}))
    assert prepared(tmp_path, [], "char", validation).splits["validation"].remarks == first
