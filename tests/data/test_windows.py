"""Windows over long texts: each token predicted exactly once, with the context that was asked for."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.data.batching import BatchingConfig
from s2sjax.data.columns import Column, Examples
from s2sjax.data.config import DataConfig
from s2sjax.data.examples import assemble
from s2sjax.data.plan import make_plan
from s2sjax.data.windows import Windows, windowed
from s2sjax.errors import UserError
from s2sjax.tasks.language import Language
from tests.tiny import tiny


def split_of(rows) -> Examples:
    nothing = Column(np.zeros(0, np.int32), np.zeros(len(rows) + 1, np.int64))
    return Examples.of_pairs(nothing, Column.from_rows([np.asarray(row, np.int32) for row in rows]))


def test_the_example_of_the_docstring():
    letters = [ord(c) for c in "abcdefg"]
    cut = windowed(split_of([letters]), Windows(context=4, stride=2), evaluation=True)
    windows = ["".join(map(chr, cut["target"][i])) for i in range(len(cut))]
    predicted = [text[given:] for text, given in zip(windows, cut.given, strict=True)]
    assert (windows, predicted) == (["abcd", "cdef", "efg"], ["abcd", "ef", "g"])


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(2, 12),
    st.integers(0, 11),
    st.booleans(),
    st.booleans(),
)
def test_every_token_is_predicted_once_in_order_with_enough_before_it(lengths, context, stride, join, evaluation):
    rows = [np.arange(n) + 100 * i + 4 for i, n in enumerate(lengths)]
    cut_as = Windows(context=context, stride=stride % context, join=join)
    cut = windowed(split_of(rows), cut_as, evaluation=evaluation)
    windows = [cut["target"][i] for i in range(len(cut))]
    assert len(cut["source"]) == len(cut) == len(cut.given)
    assert all(0 < len(w) <= context for w in windows)
    predicted = np.concatenate([w[given:] for w, given in zip(windows, cut.given, strict=True)])
    np.testing.assert_array_equal(predicted, np.concatenate(rows))
    assert all(len(w) > given for w, given in zip(windows, cut.given, strict=True)), "no window predicts nothing"
    text = np.concatenate(rows)
    for window in windows:  # what is read is what stands there
        at = int(np.flatnonzero(text == window[0])[0])
        np.testing.assert_array_equal(text[at : at + len(window)], window)
    step = cut_as.stride if evaluation and cut_as.stride else context - 1
    assert set(cut.given.tolist()) <= {0, context - step}


def test_examples_stay_as_they_are_without_a_context():
    split = split_of([[4, 5, 3], [6, 3]])
    assert windowed(split, Windows()) is split


@pytest.mark.parametrize("kind", ["bucket", "pack"])
def test_what_is_only_given_weighs_nothing(kind):
    rows = [np.arange(n) % 90 + 4 for n in (3, 9, 25, 14)]
    cut = windowed(split_of(rows), Windows(context=8))
    batching = BatchingConfig(kind=kind, pack_length=20, tokens=80, row_multiple=1, max_target_length=8)
    plan = make_plan(cut["source"].lengths, cut["target"].lengths, batching, seed=0)
    seen = []
    for i in range(plan.batches_per_epoch):
        batch = assemble(plan.batch(i), cut)
        assert batch["inputs"].shape == (batch["targets"].shape[0], 0)
        assert not batch["weights"][batch["target_segments"] == 0].any()
        later = (batch["target_positions"] > 0) & (batch["target_segments"] > 0)
        assert batch["weights"][later].all(), "all but a window's first token is predicted"
        seen += batch["targets"][batch["weights"] > 0].tolist()
    assert sorted(seen) == sorted(np.concatenate(rows).tolist())


def test_settings_that_contradict_each_other_are_refused():
    for fields, words in (
        ({"context": 8, "stride": 8}, "stride below it"),
        ({"context": 1}, "at least 2"),
        ({"join": True}, "set config.task.context"),
        ({"context": 8, "keep_line_ends": True}, "for a joined text"),
    ):
        with pytest.raises(UserError, match=words):
            Language(**fields)
    for fields, words in (
        ({"source": "", "prompt": "Say {source}"}, "nothing to put into it"),
        ({"pairs": ("en-de",)}, "every pair would read the same text"),
        ({"prompt": "<2{target_language}> {source}"}, "config.data.pairs is empty"),
    ):
        with pytest.raises(UserError, match=words):
            DataConfig(**fields)
    with pytest.raises(UserError, match="config.task.context is 300, .*raise config.batching.max_target_length"):
        tiny(Path(), "causal_lm", task__name="language", task__context=300, data__source="")
    with pytest.raises(UserError, match="config.data.source is '{split}.src', and plain text has none"):
        tiny(Path(), "causal_lm", task__name="language", task__context=8)
