"""Labels and tags: learned, written down, read again; rows without an end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.data.config import DataConfig
from s2sjax.data.labels import LabelTokenizer
from s2sjax.data.prepare import prepare
from s2sjax.data.tokenizer import TokenizerPair, load, save, train_tokenizers
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.data.unknown import unknown_in
from s2sjax.errors import UserError
from s2sjax.vocabulary import UNK
from tests.tiny import write_split

LABELS = st.text(min_size=1, max_size=12).map(str.strip).filter(bool)


def config(kind: str, **values) -> TokenizerConfig:
    return TokenizerConfig(kind="word", joint=False, target_kind=kind, vocab_size=20, **values)


@given(st.lists(LABELS, min_size=1, max_size=8, unique=True))
def test_a_label_is_one_token_whatever_it_is_made_of(names):
    names = [name for name in names if name not in ("<pad>", "<unk>", "<s>", "</s>")] or ["x"]
    tokenizer = LabelTokenizer(names)
    rows = tokenizer.encode([f" {name}\t" for name in names])
    assert [len(row) for row in rows] == [1] * len(names)
    assert [tokenizer.decode(row) for row in rows] == names
    for name, row in zip(names, rows, strict=True):
        ((begin, end),) = tokenizer.encode_spans(f" {name} ").tolist()
        assert f" {name} "[begin:end] == name
        ((begin, end),) = tokenizer.decode_spans(row).tolist()
        assert tokenizer.decode(row)[begin:end] == name
    assert tokenizer.encode(["no such label"])[0].tolist() == [UNK] or "no such label" in names


@pytest.mark.parametrize("kind, targets", [("label", ["two words", "one", "one"]), ("tag", ["N V", "N", "N V D"])])
def test_all_labels_are_learned_the_most_frequent_first_and_kept(tmp_path, kind, targets):
    pair = train_tokenizers(config(kind), [("a b", target) for target in targets])
    expected = ["one", "two words"] if kind == "label" else ["N", "V", "D"]
    assert pair.target.pieces(range(4, pair.target.vocab_size)) == expected
    save(pair, tmp_path / "tokenizer")
    again = load(tmp_path / "tokenizer")
    assert again.target.kind == kind and again.target.to_bytes() == pair.target.to_bytes()
    assert [row.tolist() for row in again.target.encode(targets)] == [r.tolist() for r in pair.target.encode(targets)]


@pytest.mark.parametrize("kind, target", [("label", "two words"), ("tag", "N V")])
def test_rows_of_labels_have_no_end(tmp_path, kind, target):
    write_split(tmp_path, "train", ["a b"], [target])
    data = DataConfig(dir=str(tmp_path), source="{split}.src", target="{split}.tgt", cache_dir=str(tmp_path / "cache"))
    (row,) = (prepare(data, config(kind), ("train",)).splits["train"]["target"][i] for i in range(1))
    assert len(row) == (1 if kind == "label" else 2)


def test_a_label_that_was_never_seen_is_told():
    pair = train_tokenizers(config("label"), [("a", "cold"), ("b", "hot")])
    assert unknown_in(pair.target, ["cold", "luke warm"]).sentence("target") == (
        "1 of 2 targets hold labels that the vocabulary lacks, 1 in all, and they are read as unknown: 'luke warm' (1)"
    )


@pytest.mark.parametrize("content", [b'{"labels": [1]}', b'{"labels": ["a", "a"]}', b"{}"])
def test_a_damaged_vocabulary_of_labels_is_told(tmp_path, content):
    tokenizer = LabelTokenizer(["a"])
    save(TokenizerPair(tokenizer, LabelTokenizer(["b"])), tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "target.model").write_bytes(content)
    with pytest.raises(UserError, match="'labels' is no list of different texts"):
        load(tmp_path / "tokenizer")
