import math

import pytest

from s2sjax.errors import UserError
from s2sjax.metrics import TOKENIZERS, text_metrics

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
