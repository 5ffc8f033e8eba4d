import math
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF, TER

from s2sjax.errors import UserError
from s2sjax.metrics.likelihood import likelihood_metrics
from s2sjax.metrics.measure import measure
from s2sjax.metrics.names import METRICS, PAIRS_DEFAULT, TEXT_METRICS, sign_of
from s2sjax.metrics.text import TextMetrics, suited, text_metrics

REFERENCES = ["Ein Mann reitet auf einem Pferd.", "Zwei Hunde spielen im Schnee.", "Eine Frau liest ein Buch."]
ALL = TextMetrics(names=TEXT_METRICS, rouge_tokenize="unicode")
NUMBERS = ["1", "2", "3"]


def scores_of(hypotheses, references, **how):
    return text_metrics([str(n) for n in range(len(hypotheses))], hypotheses, references, TextMetrics(**how))


def test_bleu_is_what_the_paper_says_by_hand():
    """One sentence, "the cat sat on the mat" for "the cat sat on a mat": 5/6, 3/5, 2/4 and 1/3 of its 1- to 4-grams."""
    scores = scores_of(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert scores["bleu"] == pytest.approx(100 * math.exp(sum(map(math.log, (5 / 6, 3 / 5, 2 / 4, 1 / 3))) / 4))
    short = scores_of(["the cat sat on"], ["the cat sat on a mat"])
    assert short["bleu"] == pytest.approx(100 * math.exp(1 - 6 / 4))  # all n-grams right, and the brevity penalty


def test_equal_text_is_perfect_by_every_metric_and_nothing_is_right_by_none():
    tagged = [f"{text} B-x" for text in REFERENCES]  # a span, for the metric of spans
    perfect = text_metrics(NUMBERS, tagged, tagged, ALL)
    nothing = text_metrics(NUMBERS, ["", "", ""], tagged, ALL)
    for name in TEXT_METRICS:
        best, worst = (100, 0) if sign_of(name) == -1 else (0, 100)
        assert (perfect[name], nothing[name]) == pytest.approx((best, worst)), name


def test_case_and_inner_spaces_count_and_spaces_at_the_ends_do_not():
    hypotheses = [" " + REFERENCES[0] + "\n", REFERENCES[1].lower(), REFERENCES[2].replace(" ", "  ")]
    scores = scores_of(hypotheses, REFERENCES)
    assert scores["exact_match"] == pytest.approx(100 / 3)
    assert scores["bleu"] < 90


def test_the_signatures_say_how_it_was_measured():
    scores = text_metrics(NUMBERS, REFERENCES, REFERENCES, ALL)
    assert scores["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert scores["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    assert scores["ter_signature"].startswith("nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:")
    assert scores["rouge_signature"].startswith("nrefs:1|multi:best|mean:f1|case:lc|stem:no|tok:unicode|version:s2sjax")
    ragged = text_metrics(NUMBERS, REFERENCES, [REFERENCES, *REFERENCES[1:]], ALL)
    signatures = [value for name, value in ragged.items() if name.endswith("_signature")]
    assert len(signatures) == 4 and all(signature.startswith("nrefs:var|") for signature in signatures)


def test_only_what_is_asked_for_is_computed():
    assert scores_of(["a"], ["a"], names=("accuracy",)) == {"accuracy": 100.0}
    assert set(scores_of(["a"], ["a"], names=("ter", "loss"))) == {"ter", "ter_signature"}
    parts = {f"word_{kind}" for kind in ("substitutions", "deletions", "insertions")}
    assert set(scores_of(["a"], ["a"], names=("word_error_rate",))) == {"word_error_rate", *parts}


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match="no sentences to score"):
        text_metrics([], [], [])
    with pytest.raises(UserError, match="1 source and 1 hypothesis but 2 references"):
        text_metrics(["x"], ["a"], ["a", "b"])
    with pytest.raises(UserError, match="example 2 has no reference"):
        text_metrics(["x", "y"], ["a", "b"], [["a"], []])
    with pytest.raises(UserError, match="bleu_tokenize is '13b': did you mean '13a'"):
        TextMetrics(bleu_tokenize="13b")


def test_several_references_are_scored_as_sacrebleu_does_and_any_of_them_is_right():
    hypotheses = ["a man rides a horse", "two dogs play in snow", "the woman reads"]
    references = [["a man is riding a horse", "a man rides a horse"], ["two dogs play in the snow"],
                  ["a woman reads a book", "the woman is reading", "reading woman"]]  # fmt: skip
    scores = text_metrics(NUMBERS, hypotheses, references, TextMetrics(names=TEXT_METRICS))
    streams = [[several[i] if i < len(several) else None for several in references] for i in range(3)]
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF()), ("ter", TER())):
        assert scores[name] == metric.corpus_score(hypotheses, streams).score
    assert scores["exact_match"] == scores["accuracy"] == pytest.approx(100 / 3)
    assert scores["word_error_rate"] == pytest.approx(100 * (0 + 1 + 2) / (5 + 6 + 2)), (
        "the nearest of three is the shortest"
    )


WORDS = ("the", "cat", "sat.", "Öl", "漢字", "a", "-", "ночь")
TEXTS = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
CORPORA = st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=6)


@settings(max_examples=60)
@given(CORPORA, st.randoms(use_true_random=False))
def test_scores_are_bounded_and_do_not_depend_on_the_order_of_the_texts(corpus: list, order: random.Random):
    sources = [str(n) for n in range(len(corpus))]
    hypotheses, references = [list(side) for side in zip(*corpus, strict=True)]
    scores = text_metrics(sources, hypotheses, references, ALL)
    for name in TEXT_METRICS:
        assert scores[name] >= 0
        if sign_of(name) == -1 or name == "sequence_error_rate":
            assert scores[name] <= 100 + 1e-9
    rows = list(zip(sources, hypotheses, references, strict=True))
    order.shuffle(rows)
    assert text_metrics(*zip(*rows, strict=True), ALL) == pytest.approx(scores)


@settings(max_examples=60)
@given(CORPORA)
def test_another_right_answer_makes_no_score_worse(corpus: list):
    """Not so by BLEU, whose reference length may change, by chrF and TER, and by the error rates, whose nearest
    reference may be a shorter one: those divide by what the reference has."""
    sources = [str(n) for n in range(len(corpus))]
    hypotheses, references = [list(side) for side in zip(*corpus, strict=True)]
    several = text_metrics(sources, hypotheses, references, ALL)
    one = text_metrics(sources, hypotheses, [some[:1] for some in references], ALL)
    for name in ("exact_match", "accuracy", "sequence_error_rate", "rouge1", "rouge2", "rougeL", "rougeLsum"):
        assert sign_of(name) * several[name] <= sign_of(name) * one[name] + 1e-9, name


def test_a_source_with_several_answers_is_right_with_any_of_them():
    sources = ["read", "read", "bow", "bow", "lead", "dog"]
    hypotheses = ["R EH D", "R EH D", "B OW", "B OW", "L IY", "D AO"]
    references = ["R IY D", "R EH D", "B OW", "B AW", "L IY D", "D AO G"]
    rates = text_metrics(sources, hypotheses, references, TextMetrics(TEXT_METRICS))
    assert rates["sequence_error_rate"] == pytest.approx(100 * 2 / 4), "four words, two of them wrong"
    assert rates["accuracy"] == pytest.approx(50)
    assert rates["token_error_rate"] == pytest.approx(100 * 2 / 11)
    as_lists = text_metrics(["read", "bow", "lead", "dog"], ["R EH D", "B OW", "L IY", "D AO"],
                            [references[:2], references[2:4], [references[4]], [references[5]]],
                            TextMetrics(TEXT_METRICS))  # fmt: skip
    assert as_lists["token_error_rate"] == rates["token_error_rate"] and as_lists["accuracy"] == 50


def test_every_metric_is_measured_and_all_of_them_can_be_chosen_together():
    rows = [{"source": "x", "target": "ab c", "references": ("ab c", "d")}, {"source": "y", "target": ""}]
    found = measure(TextMetrics(tuple(METRICS)), rows, ["d", ""], nll=12 * math.log(2), tokens=6)
    assert list(found)[: len(METRICS)] == list(METRICS), "in the order in which they are asked for"
    assert found["loss"] == pytest.approx(2 * math.log(2)) and found["exact_match"] == 100
    plain = measure(TextMetrics(("loss", "bits_per_byte")), rows, None, nll=12 * math.log(2), tokens=6)
    assert plain == pytest.approx({"loss": 2 * math.log(2), "bits_per_byte": 2, "tokens": 6, "words": 4, "bytes": 6})


@pytest.mark.parametrize(
    "text, how, remark",
    [
        ("我们在这里见面吧，明天上午。", {}, r"\(Han\), and BLEU's tokenizer '13a' .*bleu_tokenize=zh$"),
        ("我们在这里见面吧。", {"bleu_tokenize": "intl"}, "bleu_tokenize=zh$"),
        ("私は学生ですから、ここで会いましょう。", {}, "bleu_tokenize=ja-mecab"),
        ("ここであいましょう", {"bleu_tokenize": "zh"}, "'zh' takes a whole sentence .*bleu_tokenize=ja-mecab"),
        ("พบกันที่นี่พรุ่งนี้", {}, r"\(Thai\).*bleu_tokenize=char"),
        ("我们在这里", {"names": ("ter", "word_error_rate")}, "ter, word_error_rate count .*character_error_rate"),
        ("Ötzi mag Öl und süßen Käse", {"names": ("rougeL",)}, "not ASCII, and ROUGE drops them.*unicode"),
    ],
)
def test_a_metric_that_means_little_for_a_language_is_told_with_the_way_out(text, how, remark):
    _, remarks = suited([(text,)] * 3, TextMetrics(**how))
    assert any(re.search(remark, said) for said in remarks), remarks


@pytest.mark.parametrize(
    "text, how",
    [
        ("Ein Mann reitet auf einem Pferd.", {"names": TEXT_METRICS}),
        ("Wir sagen 你好 und lesen weiter", {}),
        ("나는 학생입니다 여기에서 만나요", {}),
        ("我们在这里见面吧", {"bleu_tokenize": "zh", "names": ("bleu", "chrf", "character_error_rate")}),
        ("ここであいましょう", {"bleu_tokenize": "char", "names": ("bleu",)}),
        ("我们在这里", {"names": ("rouge1",), "rouge_tokenize": "unicode"}),
        ("", {}),
        ("123 ... 456", {}),
    ],
)
def test_a_metric_that_fits_is_not_remarked_on(text, how):
    assert suited([(text,)] * 3, TextMetrics(**how), bleu_asked=False) == (TextMetrics(**how), [])


def test_perplexities_are_over_what_their_names_say():
    """Two lines, "ab c" and an empty one: 3 + 1 words with line ends, 4 + 1 bytes and one more for the empty line."""
    metrics = likelihood_metrics(12 * math.log(2), 6, ["ab c", ""])
    assert metrics["tokens"] == 6 and metrics["words"] == 4 and metrics["bytes"] == 6
    assert metrics["perplexity"] == pytest.approx(4)
    assert metrics["word_perplexity"] == pytest.approx(8)
    assert metrics["bits_per_byte"] == pytest.approx(2)


def test_a_third_of_the_texts_decides_whichever_language_stands_first():
    german, chinese = ("Ein Mann reitet.",), ("我们在这里见面吧。",)
    assert suited([german] * 7 + [chinese] * 3, TextMetrics())[1] == []
    for corpus in ([german] * 6 + [chinese] * 4, [chinese] * 4 + [german] * 6):
        how, (remark,) = suited(corpus, TextMetrics(), bleu_asked=False)
        assert remark.startswith("40% of the texts are in a script without spaces (Han)")
        assert how == TextMetrics(), "BLEU of the others means something"


@given(st.integers(0, 9), st.integers(0, 9), st.booleans(), st.sampled_from(["13a", "zh"]))
def test_bleu_that_means_nothing_is_left_out_unless_somebody_asked_for_it(chinese, german, asked, tokenize):
    corpus = [("我们在这里见面吧。",)] * chinese + [("Ein Mann reitet.",)] * german
    how = TextMetrics(PAIRS_DEFAULT, bleu_tokenize=tokenize)
    found, remarks = suited(corpus, how, bleu_asked=asked)
    left_out = tokenize == "13a" and not asked and 0 < chinese >= german
    assert found.names == tuple(name for name in PAIRS_DEFAULT if name != "bleu" or not left_out)
    assert any("so there is no BLEU: set config.evaluate.bleu_tokenize=zh" in said for said in remarks) == left_out
