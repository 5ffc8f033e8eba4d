"""Metrics of labels: accuracy, F1, and F1 of the spans that tags mark."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


def label_metrics(predicted: Sequence[str], right: Sequence[str]) -> dict[str, float]:
    """`accuracy`, the percentage of labels that are right; and `macro_f1`, the mean of the F1 of each label that is
    predicted or right anywhere, in percent. The F1 of a label that is never predicted rightly is 0.

    >>> label_metrics(["a", "a", "b"], ["a", "b", "b"])["accuracy"]
    66.66666666666667
    """
    scores = [values["f1"] for values in scores_of_each(predicted, right).values()]
    equal = sum(ours == theirs for ours, theirs in zip(predicted, right, strict=True))
    return {"accuracy": 100.0 * equal / max(len(right), 1), "macro_f1": 100.0 * sum(scores) / max(len(scores), 1)}


def scores_of_each(predicted: Iterable[str], right: Iterable[str]) -> dict[str, dict[str, float]]:
    """`precision`, `recall` and `f1` (0 to 1) of each label, and how often it is right (`support`); in the order of how
    often that is, of equals in alphabetical order."""
    both = list(zip(predicted, right, strict=True))
    given, wanted = Counter(ours for ours, _ in both), Counter(theirs for _, theirs in both)
    hits = Counter(ours for ours, theirs in both if ours == theirs)
    found = {}
    for label in sorted(given | wanted, key=lambda label: (-wanted[label], label)):
        found[label] = {
            "precision": hits[label] / max(given[label], 1),
            "recall": hits[label] / max(wanted[label], 1),
            "f1": 2 * hits[label] / (given[label] + wanted[label]),
            "support": wanted[label],
        }
    return found


def confusion(predicted: Sequence[str], right: Sequence[str], most: int = 30) -> tuple[list[str], np.ndarray]:
    """Labels, and how often each, of the rows, was taken for each, of the columns. [n, n] int

    Args:
        most: labels beyond that number, those that are right the least often, are one, "...".
    """
    labels = list(scores_of_each(predicted, right))
    if len(labels) > most:
        labels = [*labels[: most - 1], "..."]
    numbers: Mapping[str, int] = {label: n for n, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), int)
    for ours, theirs in zip(predicted, right, strict=True):
        counts[numbers.get(theirs, len(labels) - 1), numbers.get(ours, len(labels) - 1)] += 1
    return labels, counts


def span_f1(predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> float:
    """F1, in percent, of the spans that tags mark: of a span, kind and both ends have to be right, as CoNLL-2000's
    conlleval counts (Tjong Kim Sang and Buchholz 2000).

    >>> span_f1([["B-who", "I-who", "O", "B-when"]], [["B-who", "I-who", "O", "O"]])
    66.66666666666667
    """
    ours, theirs = ({(n, *span) for n, tags in enumerate(rows) for span in spans(tags)} for rows in (predicted, right))
    return 100.0 * 2 * len(ours & theirs) / max(len(ours) + len(theirs), 1)


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The spans that tags mark, as (kind, first token, the one after the last).

    "B-kind" begins one and "I-kind" goes on with it; an "I-kind" after another kind, or after none, begins one too. Any
    other tag is outside.

    >>> spans(["B-a", "I-a", "I-b", "O", "I-b", "B-b"])
    [('a', 0, 2), ('b', 2, 3), ('b', 4, 5), ('b', 5, 6)]
    """
    found: list[tuple[str, int, int]] = []
    inside = ""
    for n, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark not in ("B", "I") or not kind:
            inside = ""
        elif mark == "I" and kind == inside:
            found[-1] = (kind, found[-1][1], n + 1)
        else:
            inside = kind
            found.append((kind, n, n + 1))
    return found
