"""The order of hypotheses, by risk and by judges whose log-probabilities are known."""

import math

import pytest

from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.data.units import CharTokenizer
from s2sjax.errors import UserError
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.inference.rerank import Judge, Kind, minimum_bayes_risk, rerank

TOKENIZER = CharTokenizer("abcdef")


def hypothesis(text: str, score: float = -1.0) -> Hypothesis:
    ids = (*TOKENIZER.encode([text])[0].tolist(), 3)
    return Hypothesis(text, tuple(TOKENIZER.pieces(ids)), score, 0.0, ids)


class Told:
    """A run that says what it is told to say, and remembers what it was asked."""

    tokenizers = TokenizerPair(TOKENIZER, TOKENIZER)

    def __init__(self, log_probs: dict[tuple[str, str], float]):
        self.log_probs, self.asked = log_probs, []

    def score(self, sources, targets, *, progress):
        pairs = list(zip(sources, targets, strict=True))
        self.asked += pairs
        progress(len(pairs))
        return [self.log_probs[pair] for pair in pairs]


def texts(ranked) -> list[list[str]]:
    return [[r.hypothesis.text for r in hypotheses] for hypotheses in ranked]


def test_risk_prefers_what_the_others_agree_with_and_ties_keep_their_order():
    found = [[hypothesis(t) for t in ("fff", "abcd", "abce", "abcd")], [], [hypothesis("f"), hypothesis("a")]]
    ranked = minimum_bayes_risk(found)
    assert texts(ranked) == [["abcd", "abcd", "abce", "fff"], [], ["f", "a"]]
    assert [r.place for r in ranked[0]] == [1, 3, 2, 0]
    assert ranked[0][0].hypothesis.ranking_score == ranked[0][1].hypothesis.ranking_score
    assert ranked[0][3].hypothesis.ranking_score == pytest.approx(25), "of itself only, one in four"
    assert ranked[0][3].hypothesis.score == -1.0, "nothing else about it changes"


def test_the_weights_of_an_nbest_list_are_the_models_probabilities():
    found = [[hypothesis("a", math.log(0.06)), hypothesis("b", math.log(0.03)), hypothesis("b", math.log(0.01))]]
    (ranked,) = minimum_bayes_risk(found, utility="exact_match", weights="model")
    assert [r.hypothesis.ranking_score for r in ranked] == pytest.approx([60, 40, 40])
    assert [r.components["probability"] for r in ranked] == pytest.approx([0.6, 0.3, 0.1])
    (ranked,) = minimum_bayes_risk(found, utility="exact_match")
    assert [r.hypothesis.text for r in ranked] == ["b", "b", "a"], "as draws, b came twice"


def test_a_judge_is_asked_for_what_its_kind_says_and_for_each_pair_once():
    found = [[hypothesis("ab"), hypothesis("c"), hypothesis("ab", -2.0)]]
    for kind, asked in {
        Kind.FORWARD: [("fe", "ab"), ("fe", "c")],
        Kind.CHANNEL: [("ab", "fe"), ("c", "fe")],
        Kind.LANGUAGE_MODEL: [("", "ab"), ("", "c")],
    }.items():
        run, told = Told(dict.fromkeys(asked, -1.0)), []
        rerank(["fe"], found, [Judge("x", run, kind)], progress=told.append)
        assert run.asked == asked and told == [2]


def test_the_ranking_score_is_the_weighted_sum_of_log_probabilities():
    sources, found = ["fe", "d"], [[hypothesis("ab", -1.0), hypothesis("c", -2.0)], [hypothesis("a", -3.0)]]
    forward = Told({("fe", "ab"): -6.0, ("fe", "c"): -1.0, ("d", "a"): -5.0})
    channel = Told({("ab", "fe"): -4.0, ("c", "fe"): -8.0, ("a", "d"): -7.0})
    judges = [Judge("big", forward, weight=0.5), Judge("back", channel, Kind.CHANNEL, 0.25)]
    ranked = rerank(sources, found, judges)
    assert texts(ranked) == [["c", "ab"], ["a"]]
    assert [r.hypothesis.ranking_score for r in ranked[0]] == pytest.approx([-2 - 0.5 - 2, -1 - 3 - 1])
    assert ranked[0][0].components == {"original": -2.0, "big": -1.0, "back": -8.0} and ranked[0][0].place == 1
    assert texts(rerank(sources, found, judges, original=4.0)) == [["ab", "c"], ["a"]]
    # Each over its own tokens with end-of-sentence: 3 and 2 of the hypotheses, 3 of the source.
    (first, second), _ = rerank(sources, found, judges, normalize=True)
    assert first.hypothesis.ranking_score == pytest.approx(-1 / 3 - 0.5 * 6 / 3 - 0.25 * 4 / 3)
    assert second.hypothesis.ranking_score == pytest.approx(-2 / 2 - 0.5 * 1 / 2 - 0.25 * 8 / 3)


def test_equal_scores_keep_their_order_and_a_source_without_hypotheses_stays_one():
    several = [a + b + c for a in "fad" for b in "abc" for c in "cde"]  # sorting three would prove nothing
    run = Told({("f", text): -1.0 for text in several})
    listed = [hypothesis(text, -1.0 - n % 3) for n, text in enumerate(several)]
    ranked = rerank(["f", "e"], [listed, []], [Judge("x", run)])
    assert texts(ranked) == [several[::3] + several[1::3] + several[2::3], []]


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="utility is 'chfr': did you mean 'chrf'"):
        minimum_bayes_risk([], utility="chfr")
    with pytest.raises(UserError, match="weights is 'even': .*known: model, uniform"):
        minimum_bayes_risk([], weights="even")
    with pytest.raises(UserError, match="two judges have the same name: original, x, x; name each once"):
        rerank([], [], [Judge("x", Told({})), Judge("x", Told({}))])
