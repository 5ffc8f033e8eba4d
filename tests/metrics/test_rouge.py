"""ROUGE against what the package rouge-score 0.1.2 said of the same texts, and what it cannot say."""

import random

import pytest

from s2sjax.metrics.names import ROUGE
from s2sjax.metrics.rouge import rouge, rouge_overlaps, rouge_tokens

# Hypothesis, reference, and F1 of rouge1, rouge2, rougeL and rougeLsum by rouge-score 0.1.2 (use_stemmer=False).
GOLDEN = [
    ("The cat was found under the bed.", "The cat was under the bed, they say.",
     (0.7999999999999999, 0.6153846153846153, 0.7999999999999999, 0.7999999999999999)),
    ("Police killed the gunman.\nThe gunman killed police officers in 2019.",
     "Police kill the gunman in 2019.\nThe officers were killed.\nNobody knows why.",
     (0.6666666666666667, 0.1818181818181818, 0.41666666666666663, 0.5833333333333334)),
    ("He doesn't like U.S. coffee at 3:15 p.m.; a naïve café-owner said so.",
     "a cafe owner who doesnt like US coffee said so at 3 15", (0.5625, 0.2, 0.3125, 0.3125)),
    ("one two three four five six\nseven eight\n", "six five four three two one eight seven one two",
     (0.888888888888889, 0.125, 0.22222222222222224, 0.33333333333333326)),
    ("a c", "a\nc a", (0.8, 0.6666666666666666, 0.8, 0.8)),  # of two longest subsequences, the later one
    ("nothing shared here", "x y z", (0, 0, 0, 0)),
    ("", "a reference", (0, 0, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize("hypothesis, reference, expected", GOLDEN)
def test_scores_are_those_of_rouge_score(hypothesis, reference, expected):
    overlaps = rouge_overlaps(hypothesis, reference)
    assert [overlaps[name].f1 for name in ROUGE] == pytest.approx(expected, abs=1e-9)


def test_random_texts_have_the_scores_of_the_package_where_it_is_installed():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(list(ROUGE))
    rng = random.Random(0)
    words = ["the", "The", "cat", "sat", "mat.", "Don't", "3.14", "naïve", "a", "b", "--", "", "x_y", "漢字", "runs"]

    def text() -> str:
        return "\n".join(" ".join(rng.choices(words, k=rng.randrange(14))) for _ in range(rng.randrange(1, 5)))

    for _ in range(300):
        hypothesis, reference = text(), text()
        theirs = scorer.score(reference, hypothesis)
        for name, overlap in rouge_overlaps(hypothesis, reference).items():
            assert tuple(overlap) == pytest.approx(tuple(theirs[name]), abs=1e-9)


def test_the_reference_with_the_greatest_f1_counts_and_the_mean_is_over_texts():
    hypothesis, references = GOLDEN[0][0], [golden[1] for golden in GOLDEN[:3]]
    scores = rouge([hypothesis, GOLDEN[1][0]], [references, references])
    single = [[rouge_overlaps(h, r) for r in references] for h in (hypothesis, GOLDEN[1][0])]
    for name in ROUGE:
        best = [max(overlaps[name].f1 for overlaps in each) for each in single]
        assert scores[name] == pytest.approx(100 * sum(best) / 2)


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("Schöne Öl-Fässer, 3,5 €", ["schöne", "öl", "fässer", "3", "5"]),
        ("Scho\u0308ne", ["scho\u0308ne"]),
        ("मैं हिन्दी बोलता हूँ।", ["मैं", "हिन्दी", "बोलता", "हूँ"]),
        ("我们3点见abc。", ["我", "们", "3", "点", "见", "abc"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("snake_case it's", ["snake", "case", "it", "s"]),
        ("", []),
    ],
)
def test_unicode_keeps_words_of_every_language(text, tokens):
    assert rouge_tokens(text, "unicode") == tokens


def test_what_the_package_drops_unicode_mode_scores():
    assert rouge_overlaps("我们见面", "我们见面吧")["rouge1"].f1 == 0
    unicode = rouge_overlaps("我们见面", "我们见面吧", tokenize="unicode")
    assert unicode["rouge1"] == pytest.approx((1, 4 / 5, 8 / 9))
    english = GOLDEN[1][:2]
    assert rouge_overlaps(*english, tokenize="unicode") == rouge_overlaps(*english), "in English nothing changes"
