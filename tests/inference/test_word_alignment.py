"""From attention to links, by hand."""

import numpy as np
import pytest

from s2sjax.data.tokenizer import train_tokenizers
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.data.units import CharTokenizer, WordTokenizer
from s2sjax.inference.word_alignment import (
    align_words,
    best_links,
    read_words,
    token_words,
    word_attention,
    written_words,
)
from s2sjax.vocabulary import EOS, UNK


def spans(*pairs):
    return np.array(pairs, int).reshape(-1, 2)


def words(*numbers, count):
    """Tokens that belong to one word each, or (-1) to none."""
    return np.array([[number == word for word in range(count)] for number in numbers])


def test_a_words_attention_is_the_mean_over_its_own_tokens_of_the_sum_over_the_others():
    attention = np.array([[0.5, 0.3, 0.2, 0.0], [0.1, 0.1, 0.6, 0.2], [0.0, 0.0, 0.1, 0.9]])
    weights = word_attention(attention, words(0, 0, 1, -1, count=2), words(0, 0, -1, count=1))
    np.testing.assert_allclose(weights, [[(0.8 + 0.2) / 2, (0.2 + 0.6) / 2]])
    # A single token attends most to the second word's, and to end-of-sentence even more; all in all the first wins.
    assert best_links(weights) == ((0, 0),)


def test_each_target_word_has_the_first_of_the_best_sources_and_none_where_there_is_no_attention():
    weights = np.array([[0.1, 0.7, 0.2], [0.3, 0.3, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.4]])
    assert best_links(weights) == ((1, 0), (0, 1), (2, 3))
    assert best_links(np.zeros((0, 3))) == best_links(np.zeros((2, 0))) == ()


def test_words_are_those_of_the_text_without_its_prompt():
    text = "to de: a bc"  # read as 4 tokens, the first of which goes across both of the prompt's words
    found = token_words(spans((0, 5), (5, 8), (8, 9), (9, 11)), text, begin=7)
    np.testing.assert_array_equal(found, [[0, 0], [1, 0], [0, 0], [0, 1]])
    assert token_words(spans((0, 1)), "年月日 が").tolist() == [[True, False]], "without spaces, all is one word"


def test_a_piece_of_nothing_belongs_to_no_word():
    assert not token_words(spans((0, 0), (2, 2)), "abcd").any()


def test_a_source_that_was_cut_and_an_unknown_word_keep_their_numbers():
    tokenizer = WordTokenizer(["a", "b", "c"])
    row = np.append(tokenizer.encode(["a zzz b c c"])[0][:3], EOS)
    source = read_words(tokenizer, "a zzz b c c", row)
    assert source.tokens == ("a", "<unk>", "b", "</s>")
    np.testing.assert_array_equal(source.words, np.eye(4, 5) * [[1], [1], [1], [0]])
    target = written_words(tokenizer, np.array([5, UNK, 4, EOS, 6]))
    assert target.tokens == ("b", "<unk>", "a", "</s>", "c") and target.words.shape == (5, 3)
    attention = np.array([[0, 0, 1, 0], [0, 0.4, 0, 0.6], [0.3, 0.2, 0.1, 0.4], [0, 0, 0, 1], [1, 0, 0, 0]])
    alignment = align_words(attention, source, target)
    assert alignment.links == ((2, 0), (1, 1), (0, 2)) and alignment.pharaoh() == "2-0 1-1 0-2"


def test_letters_that_decoding_drops_belong_to_no_word():
    tokenizer = CharTokenizer("ab ")
    ids = np.array([4, UNK, 6, 6, 5, EOS])  # "a", unknown, two spaces, "b"
    np.testing.assert_array_equal(written_words(tokenizer, ids).words, [[1, 0], [0, 0], [0, 0], [0, 0], [0, 1], [0, 0]])


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char", "byte", "word"])
def test_attention_of_each_token_to_the_one_opposite_reverses_the_words(kind):
    """With a tag in front of the source, in every unit."""
    config = TokenizerConfig(kind=kind, vocab_size=280, user_symbols=("<2de>",))
    tokenizer = train_tokenizers(config, [("ab cde üf", "üf cde ab")] * 50).source
    source_text, target_text = "<2de> ab cde üf", "üf cde ab"
    source_row, target_row = (np.append(tokenizer.encode([text])[0], EOS) for text in (source_text, target_text))
    source = read_words(tokenizer, source_text, source_row, len("<2de> "))
    target = read_words(tokenizer, target_text, target_row)
    assert source.words.shape[1] == target.words.shape[1] == 3
    attention = (target.words.astype(float) @ np.eye(3)[::-1] @ source.words.T) + 0.01
    expected = ((2, 0), (1, 1), (0, 2))
    assert align_words(attention, source, target).links == expected
    assert align_words(attention, source, written_words(tokenizer, target_row)).links == expected
