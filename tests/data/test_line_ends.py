"""A joined text that keeps its line ends: one token each, where otherwise end-of-sentence stands."""

import numpy as np
import pytest

from s2sjax.data.config import DataConfig
from s2sjax.data.prepare import prepare, tokenize
from s2sjax.data.rows import RowFormat
from s2sjax.data.tokenizer import train_tokenizers
from s2sjax.data.tokenizer_config import KINDS, TokenizerConfig
from s2sjax.data.windows import Windows, windowed
from s2sjax.errors import UserError
from s2sjax.vocabulary import EOS

PLAY = ["First Citizen:", "Before we proceed any further, hear me speak.", "", "All:", "Speak, speak."] * 8
LINES = RowFormat(line_ends=True)


@pytest.fixture
def data(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("\n".join([*PLAY, "end"]) + "\n")
    return DataConfig(
        dir=str(tmp_path), cache_dir=str(tmp_path / "cache"), source="", target="{split}.txt",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["char", "byte", "unigram", "bpe"])
def test_a_joined_text_comes_back_line_ends_and_all(data, kind):
    prepared = prepare(data, TokenizerConfig(kind=kind, vocab_size=100), rows=LINES)
    tokens = prepared.splits["train"]["target"].values
    tokenizer = prepared.tokenizers.target
    assert EOS not in tokens
    assert tokenizer.decode(tokens) == "\n".join([*PLAY, "end"]) + "\n"
    assert np.count_nonzero(tokens == LINES.end(tokenizer)) == len(PLAY) + 1
    # A prompt of several lines is read as training reads it.
    prompt = "First Citizen:\nBefore we"
    assert np.array_equal(tokenizer.encode([prompt])[0], tokens[: len(tokenizer.encode([prompt])[0])])
    cut = windowed(prepared.splits["train"], Windows(context=16, join=True))
    assert cut["target"].values.max() < tokenizer.vocab_size


def test_words_have_no_line_ends_and_other_data_keeps_end_of_sentence(data):
    with pytest.raises(UserError, match="keep_line_ends needs a vocabulary in which a line end is one token"):
        prepare(data, TokenizerConfig(kind="word"), rows=LINES)
    prepared = prepare(data, TokenizerConfig(kind="char"))
    assert np.count_nonzero(prepared.splits["train"]["target"].values == EOS) == len(PLAY) + 1
    with pytest.raises(UserError, match="a line end is one token"):
        tokenize(data, prepared.tokenizers, "train", rows=LINES)


@pytest.mark.parametrize("kind", KINDS)
def test_without_line_ends_tokenizers_are_what_they_were(kind):
    pairs = [(line, line) for line in PLAY]
    config = TokenizerConfig(kind=kind, vocab_size=60)
    tokenizers = train_tokenizers(config, pairs), train_tokenizers(config, pairs, line_ends=False)
    assert tokenizers[0].source.to_bytes() == tokenizers[1].source.to_bytes()
