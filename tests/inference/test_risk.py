"""Utilities of all pairs at once against sacreBLEU's of one pair at a time, and what is expected of them."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from s2sjax.inference.risk import UTILITIES, expected_utilities, pairwise_bleu, pairwise_chrf, pairwise_exact_match

WORDS = ["the", "cat", "sat", "a", "on", "mat.", "Don't!", "3.14", "(x)", "ß", "漢字", "na\u0308ive", "&amp;", "--"]
ODD = ["", " ", "a", "aa", " a\t b ", "a b", "the the the", "the the", "a\u2028b", ".", "😀😀 😀"]


def random_texts(count: int, seed: int) -> list[str]:
    """Of few words, so that n-grams are shared, and repeated within a text."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(0, 12))) for _ in range(count)]


@pytest.mark.parametrize(
    "pairwise, metric", [(pairwise_chrf, CHRF()), (pairwise_bleu, BLEU(effective_order=True))], ids=["chrf", "bleu"]
)
def test_every_pair_has_sacrebleus_sentence_score(pairwise, metric):
    texts = ODD + random_texts(40, seed=0)
    expected = [[metric.sentence_score(text, [reference]).score for reference in texts] for text in texts]
    np.testing.assert_allclose(pairwise(texts), expected, rtol=0, atol=1e-9)
    assert len(np.unique(expected)) > 500, "the texts are worth comparing"


@pytest.mark.parametrize("tokenize", ["zh", "char", "intl", "none"])
def test_bleu_is_of_words_as_its_tokenizer_cuts_them(tokenize):
    texts = ["我们在这里见面吧。", "我们明天在这里见面。", "在这里。", "", "Don't! 3.14", *random_texts(8, seed=2)]
    metric = BLEU(effective_order=True, tokenize=tokenize)
    expected = [[metric.sentence_score(text, [reference]).score for reference in texts] for text in texts]
    np.testing.assert_allclose(pairwise_bleu(texts, tokenize=tokenize), expected, rtol=0, atol=1e-9)
    mean = expected_utilities(texts, "bleu", bleu_tokenize=tokenize)
    np.testing.assert_allclose(mean, np.mean(expected, axis=1), atol=1e-8)


def test_exact_match_looks_past_white_space_at_the_ends_only():
    np.testing.assert_array_equal(
        pairwise_exact_match(["a b", " a b\t", "a  b", ""]),
        [[100, 100, 0, 0], [100, 100, 0, 0], [0, 0, 100, 0], [0, 0, 0, 100]],
    )


@pytest.mark.parametrize("utility", UTILITIES)
def test_the_expectation_is_the_mean_over_all_draws_and_a_text_drawn_twice_counts_twice(utility):
    texts = random_texts(6, seed=1)
    drawn = [texts[i] for i in (0, 3, 3, 1, 5, 3, 2, 4, 0)]
    scores = UTILITIES[utility](drawn)
    np.testing.assert_allclose(expected_utilities(drawn, utility), scores.mean(axis=1), atol=1e-8)
    weights = np.arange(1, 10) / 45
    np.testing.assert_allclose(expected_utilities(drawn, utility, weights), scores @ weights, atol=1e-8)


def test_exact_match_expects_of_a_text_how_often_it_was_drawn():
    np.testing.assert_allclose(expected_utilities(["a", "b", "a", "c"], "exact_match"), [50, 25, 50, 25])


def test_there_may_be_one_text_or_none():
    for utility in UTILITIES:
        assert expected_utilities([], utility).shape == (0,)
        np.testing.assert_allclose(expected_utilities(["a cat"], utility), [100])
    np.testing.assert_array_equal(expected_utilities(["", ""], "chrf"), [0, 0])


def test_what_is_equal_but_for_the_order_of_summation_is_equal():
    """Each of these shares one word with each of the others: rotations of one another, so no text is better."""
    texts = ["ab cd", "cd ef", "ef ab"]
    for utility in ("chrf", "bleu"):
        assert len(set(expected_utilities(texts, utility).tolist())) == 1
