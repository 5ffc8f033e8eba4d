"""Where tokens stand in the text that they were cut from, and in the text that they are decoded to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2sjax.data.tokenizer import train_tokenizers
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.inference.word_alignment import token_words
from s2sjax.vocabulary import EOS, UNK

KINDS = {
    "bpe": {"vocab_size": 90},
    "bpe with bytes": {"kind": "bpe", "vocab_size": 340, "byte_fallback": True},
    "unigram": {"vocab_size": 60},
    "char": {},
    "byte": {},
    "word": {},
}
TEXTS = [
    "the cat", "<2de> über  das\tdach", " 3 Straße ", "<2de>the cat", "", "年月 と日", "q é\u3000\u00a0zzz the",
    "▁ a▁b", "\ud7ff\U0001f600", "the<2de>cat", "   ",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    sentences = ["the cat sat on the roof", "die Katze saß auf dem Dach über der Straße 3", "<2de> a b c"] * 20
    options = {name: {"kind": name, "user_symbols": ("<2de>",), **fields} for name, fields in KINDS.items()}
    pairs = [(sentence, sentence) for sentence in sentences]
    return {name: train_tokenizers(TokenizerConfig(**fields), pairs).source for name, fields in options.items()}


def assert_every_word_has_its_tokens_in_order(spans, text):
    words = token_words(spans, text)
    assert words.shape[1] == len(text.split()) and words.any(axis=0).all()
    first = [row.argmax() for row in words if row.any()]
    assert first == sorted(first)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(text=st.one_of(st.sampled_from(TEXTS), st.text(st.characters(exclude_categories=["Cs"]))))
def test_every_word_of_a_text_has_its_tokens_in_order(trained, kind, text):
    spans = trained[kind].encode_spans(text)
    assert len(spans) == len(trained[kind].encode([text])[0])
    assert_every_word_has_its_tokens_in_order(spans, text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(data=st.data())
def test_every_word_that_tokens_are_decoded_to_has_its_tokens_in_order(trained, kind, data):
    """Whatever the tokens: specials in the middle, bytes that are no UTF-8, more after end-of-sentence."""
    ids = data.draw(st.lists(st.integers(0, trained[kind].vocab_size - 1)))
    text, spans = trained[kind].decode(ids), trained[kind].decode_spans(ids)
    assert spans.shape == (len(ids), 2) and (spans[:, 0] <= spans[:, 1]).all()
    assert_every_word_has_its_tokens_in_order(spans, text)
    ended = ids.index(EOS) if EOS in ids else len(ids)
    assert not spans[ended:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_spans_in_the_text_and_in_what_it_is_decoded_to_are_the_same(trained, kind):
    text = "<2de> the cat sat über der Straße 3"
    (ids,) = trained[kind].encode([text])
    assert trained[kind].decode(ids) == text
    spans = trained[kind].encode_spans(text)
    np.testing.assert_array_equal(trained[kind].decode_spans([*ids.tolist(), EOS]), [*spans, [0, 0]])
    shown = [(piece, text[begin:end]) for piece, (begin, end) in zip(trained[kind].pieces(ids), spans, strict=True)]
    # Bytes have their character's span, and the mark alone that of the word's first character too.
    assert all(len(piece) == 6 or piece in ("▁", part, part.replace(" ", "▁"), f"▁{part}") for piece, part in shown)


def test_a_word_of_unknown_characters_is_a_word_when_read_and_is_not_written(trained):
    text = "the q漢q cat"
    for kind in ("char", "unigram", "bpe"):
        (ids,) = trained[kind].encode([text])
        assert UNK in ids and token_words(trained[kind].encode_spans(text), text)[ids == UNK, 1].all()
        assert not trained[kind].decode_spans(ids)[ids == UNK].any()


def test_the_bytes_of_a_character_and_the_mark_before_it_belong_to_its_word(trained):
    tokenizer, text = trained["bpe with bytes"], "the 年 cat"
    pieces = tokenizer.pieces(tokenizer.encode([text])[0])
    words = dict(zip(pieces, token_words(tokenizer.encode_spans(text), text).tolist(), strict=True))
    assert [words[piece] for piece in ("▁", "<0xE5>", "<0xB9>", "<0xB4>")] == [[False, True, False]] * 4


def test_a_piece_across_white_space_belongs_to_both_words(trained):
    """SentencePiece makes one unknown piece of what it does not know, tabs too."""
    text = "the 0\t0 cat"
    spans = trained["bpe"].encode_spans(text)
    assert token_words(spans, text).sum(axis=1).max() == 2
