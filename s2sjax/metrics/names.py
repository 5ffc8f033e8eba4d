"""The metrics that there are: what each one needs, and which way it gets better.

`evaluate.metrics` chooses among them, `checkpoint.metric` names one, and every list of metrics elsewhere is made from
this one.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Needs(enum.Enum):
    """What a metric is computed from."""

    LIKELIHOOD = "likelihood"
    """The log-probability of the references."""
    TEXT = "text"
    """Decoded text beside references."""


@dataclass(frozen=True)
class Metric:
    needs: Needs
    sign: int
    """1 if lower is better, -1 if higher is."""


_LOSS, _ERROR, _SCORE = Metric(Needs.LIKELIHOOD, 1), Metric(Needs.TEXT, 1), Metric(Needs.TEXT, -1)

METRICS: Mapping[str, Metric] = {
    "loss": _LOSS,
    "perplexity": _LOSS,
    "word_perplexity": _LOSS,
    "bits_per_byte": _LOSS,
    "bleu": _SCORE,
    "chrf": _SCORE,
    "ter": _ERROR,
    "exact_match": _SCORE,
    "accuracy": _SCORE,
    "macro_f1": _SCORE,
    "span_f1": _SCORE,
    "sequence_error_rate": _ERROR,
    "token_error_rate": _ERROR,
    "word_error_rate": _ERROR,
    "character_error_rate": _ERROR,
    "rouge1": _SCORE,
    "rouge2": _SCORE,
    "rougeL": _SCORE,
    "rougeLsum": _SCORE,
}
LIKELIHOOD_METRICS = tuple(name for name, metric in METRICS.items() if metric.needs == Needs.LIKELIHOOD)
TEXT_METRICS = tuple(name for name, metric in METRICS.items() if metric.needs == Needs.TEXT)
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def part_and_name(metric: str) -> tuple[str, str]:
    """The set or pair of languages that a metric is of, "" for all examples, and its name in `METRICS`.

    >>> part_and_name("news/loss"), part_and_name("bleu")
    (('news', 'loss'), ('', 'bleu'))
    """
    part, _, name = metric.rpartition("/")
    return part, name


def sign_of(metric: str) -> int:
    """The best checkpoint by a metric is the one with the smallest value times this."""
    return METRICS[part_and_name(metric)[1]].sign


BLEU_TOKENIZERS = ("13a", "intl", "zh", "char", "ja-mecab", "ko-mecab", "flores200", "none")
"""13a is what papers report. "zh" parts Chinese characters, "char" all; "flores200" is spBLEU's SentencePiece model."""
ROUGE_TOKENIZERS = ("ascii", "unicode")

LABEL_METRICS = ("loss", "accuracy", "macro_f1")
TAG_METRICS = (*LABEL_METRICS, "span_f1")
"""Of labels of texts, and of their words. The others of text compare texts."""
PAIRS_DEFAULT = ("loss", "bleu", "chrf", "exact_match", "sequence_error_rate", "token_error_rate")
PLAIN_TEXT_DEFAULT = ("loss", "perplexity", "word_perplexity", "bits_per_byte")
