"""What of a text the vocabulary lacks, by every kind of tokenizer."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.data.tokenizer import train_tokenizers
from s2sjax.data.tokenizer_config import KINDS, TokenizerConfig
from s2sjax.data.unknown import Unknown, unknown_in
from s2sjax.vocabulary import EOS

LINES = ["ab ba abba", "baa <t> b"]


@pytest.fixture(scope="module")
def tokenizers():
    config = TokenizerConfig(user_symbols=("<t>",), vocab_size=20)
    return {
        kind: train_tokenizers(
            TokenizerConfig(**{**vars(config), "kind": kind}), [(line, line) for line in LINES]
        ).source
        for kind in KINDS
    }


@pytest.mark.parametrize("kind", ["char", "unigram", "bpe"])
@given(texts=st.lists(st.text("ab <t>żé日", max_size=12), max_size=5))
def test_every_character_that_is_not_in_the_vocabulary_is_counted(tokenizers, kind, texts):
    tokenizer = tokenizers[kind]
    known = set("ab <t>") if kind == "char" else set("ab ")  # the characters of a symbol are characters of the text
    expected = Counter(c for text in texts for c in text.replace("<t>", "") if c not in known)
    held = sum(any(c not in known for c in text.replace("<t>", "")) for text in texts)
    found = unknown_in(tokenizer, texts)
    assert (Counter(found.counts), found.texts, found.of) == (expected, held, len(texts))
    rows = [np.append(row, EOS) for row in tokenizer.encode(texts)]
    assert unknown_in(tokenizer, texts, rows) == found


def test_bytes_lack_nothing_and_words_are_counted_as_words(tokenizers):
    assert not unknown_in(tokenizers["byte"], ["żé日", ""])
    found = unknown_in(tokenizers["word"], ["ab żé <unk> żé", "ba", "<unk>"])
    assert (found.counts, found.texts, found.of, found.units) == ({"żé": 2}, 1, 3, "words")


def test_counts_add_up_and_are_told_in_one_sentence(tokenizers):
    parts = [unknown_in(tokenizers["char"], [text]) for text in ("abż", "ab", "żżé")]
    total = sum(parts, Unknown())
    assert total == unknown_in(tokenizers["char"], ["abż", "ab", "żżé"])
    assert total.sentence("source") == (
        "2 of 3 sources hold characters that the vocabulary lacks, 4 in all, and they are read as unknown: 'ż' (3), "
        "'é' (1)"
    )
