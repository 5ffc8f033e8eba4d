import math

import pytest

from s2sjax.errors import UserError
from s2sjax.metrics import TOKENIZERS, edit_distance, error_rates, likelihood_metrics, text_metrics

REFERENCES = ["Ein Mann reitet auf einem Pferd.", "Zwei Hunde spielen im Schnee.", "Eine Frau liest ein Buch."]


def test_bleu_is_what_the_paper_says_by_hand():
    """One sentence, "the cat sat on the mat" for "the cat sat on a mat": 5/6, 3/5, 2/4 and 1/3 of its 1- to 4-grams."""
    scores = text_metrics(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert scores["bleu"] == pytest.approx(100 * math.exp(sum(map(math.log, (5 / 6, 3 / 5, 2 / 4, 1 / 3))) / 4))
    short = text_metrics(["the cat sat on"], ["the cat sat on a mat"])
    assert short["bleu"] == pytest.approx(100 * math.exp(1 - 6 / 4))  # all n-grams right, and the brevity penalty


def test_equal_text_scores_a_hundred_and_nothing_in_common_scores_nothing():
    perfect = text_metrics(REFERENCES, REFERENCES)
    assert [perfect[name] for name in ("bleu", "chrf", "exact_match")] == pytest.approx([100, 100, 100])
    nothing = text_metrics(["", "", ""], REFERENCES)
    assert [nothing[name] for name in ("bleu", "chrf", "exact_match")] == [0, 0, 0]


def test_case_and_inner_spaces_count_and_spaces_at_the_ends_do_not():
    hypotheses = [" " + REFERENCES[0] + "\n", REFERENCES[1].lower(), REFERENCES[2].replace(" ", "  ")]
    scores = text_metrics(hypotheses, REFERENCES)
    assert scores["exact_match"] == pytest.approx(100 / 3)
    assert scores["bleu"] < 90


def test_the_signatures_say_how_it_was_measured():
    scores = text_metrics(REFERENCES, REFERENCES)
    assert scores["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


@pytest.mark.parametrize("tokenize", TOKENIZERS)
def test_every_tokenizer_that_is_offered_works(tokenize):
    scores = text_metrics(["我们在这里见面吧。"], ["我们在这里见面吧。"], tokenize=tokenize)
    assert f"tok:{tokenize}" in scores["bleu_signature"] and scores["exact_match"] == 100


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="no sentences to score"):
        text_metrics([], [])
    with pytest.raises(UserError, match="1 hypotheses but 2 references"):
        text_metrics(["a"], ["a", "b"])
    with pytest.raises(UserError, match="tokenize '13b' is not one of 13a"):
        text_metrics(["a"], ["a"], tokenize="13b")


def test_a_source_with_several_answers_is_right_with_any_of_them():
    sources = ["read", "read", "bow", "bow", "lead", "dog"]
    hypotheses = ["R EH D", "R EH D", "B OW", "B OW", "L IY", "D AO"]
    references = ["R IY D", "R EH D", "B OW", "B AW", "L IY D", "D AO G"]
    rates = error_rates(sources, hypotheses, references)
    assert rates["sequence_error_rate"] == pytest.approx(100 * 2 / 4), "four words, two of them wrong"
    assert rates["token_error_rate"] == pytest.approx(100 * 2 / 11)
    assert error_rates(["a"], [""], ["x y"]) == {"sequence_error_rate": 100.0, "token_error_rate": 100.0}


@pytest.mark.parametrize("a, b, distance", [("kitten", "sitting", 3), ("", "abc", 3), ("a", "a", 0), ("ab", "ba", 2)])
def test_edit_distance_is_levenshteins(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_perplexities_are_over_what_their_names_say():
    """Two lines, "ab c" and an empty one: 3 + 1 words with line ends, 4 + 1 bytes and one more for the empty line."""
    metrics = likelihood_metrics(12 * math.log(2), 6, ["ab c", ""])
    assert metrics["tokens"] == 6 and metrics["words"] == 4 and metrics["bytes"] == 6
    assert metrics["perplexity"] == pytest.approx(4)
    assert metrics["word_perplexity"] == pytest.approx(8)
    assert metrics["bits_per_byte"] == pytest.approx(2)
