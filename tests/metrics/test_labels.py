"""Metrics of labels against their definitions, counted plainly."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.metrics import labels
from s2sjax.metrics.labels import confusion, label_metrics, span_f1, spans

PAIRS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=30)
TAGS = st.lists(st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y", "X", "B-"]), max_size=12)


def test_the_examples_run():
    assert doctest.testmod(labels).failed == 0


@given(PAIRS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(pairs):
    ours, theirs = zip(*pairs, strict=True)
    scores = []
    for label in {*ours, *theirs}:
        hits = sum(a == b == label for a, b in pairs)
        precision, recall = hits / max(ours.count(label), 1), hits / max(theirs.count(label), 1)
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    found = label_metrics(ours, theirs)
    assert found["macro_f1"] == pytest.approx(100 * sum(scores) / len(scores))
    assert found["accuracy"] == pytest.approx(100 * sum(a == b for a, b in pairs) / len(pairs))


@given(PAIRS, st.integers(2, 6))
def test_a_confusion_matrix_counts_every_pair_once(pairs, most):
    ours, theirs = zip(*pairs, strict=True)
    names, counts = confusion(ours, theirs, most)
    assert counts.shape == (len(names), len(names)) and len(names) <= most and counts.sum() == len(pairs)
    for row, name in enumerate(names):
        if name != "...":
            assert counts[row].sum() == theirs.count(name)
            assert counts[row, row] == sum(a == b == name for a, b in pairs)


@given(TAGS)
def test_spans_cover_what_is_marked_and_nothing_twice(tags):
    """Against the rules of conlleval, token by token: where one begins, and where one ends."""
    kinds = [tag[2:] if tag[:2] in ("B-", "I-") and tag[2:] else "" for tag in tags]
    begins = [
        bool(kind) and (tag[0] == "B" or n == 0 or kinds[n - 1] != kind)
        for n, (tag, kind) in enumerate(zip(tags, kinds, strict=True))
    ]
    expected = []
    for n in np.flatnonzero(begins).tolist():
        end = n + 1
        while end < len(tags) and kinds[end] == kinds[n] and not begins[end]:
            end += 1
        expected.append((kinds[n], n, end))
    assert spans(tags) == expected


@given(st.lists(TAGS, min_size=1, max_size=4))
def test_f1_of_spans_is_100_of_the_same_and_0_of_none(rows):
    if any(spans(tags) for tags in rows):
        assert span_f1(rows, rows) == 100
    assert span_f1([["O"] * len(tags) for tags in rows], rows) == 0
