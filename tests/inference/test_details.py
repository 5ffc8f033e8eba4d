"""The score of a hypothesis under each length convention, as the papers write them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2sjax.decode.penalty import LENGTH_PENALTIES
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.details import length_scores


@settings(max_examples=30)
@given(
    hypotheses=st.lists(st.tuples(st.floats(-500, 0, width=32), st.integers(1, 300)), min_size=1, max_size=5),
    alpha=st.floats(0, 2, width=32, allow_subnormal=False),  # what float32 cannot hold is refused
    beta=st.floats(0, 9, width=32, allow_subnormal=False),
)
def test_scores_are_the_log_probability_over_each_penalty_whichever_one_searched(hypotheses, alpha, beta):
    log_probs, lengths = zip(*hypotheses, strict=True)
    config = DecodeConfig(length_penalty="sockeye", alpha=alpha, beta=beta)
    for x, n, scores in zip(log_probs, lengths, length_scores(log_probs, lengths, config), strict=True):
        expected = {
            "none": x,
            "power": x / n**alpha,
            "gnmt": x / ((5 + n) / 6) ** alpha,
            "sockeye": x / ((beta + n) / (beta + 1)) ** alpha,
        }
        assert scores.keys() == expected.keys() == set(LENGTH_PENALTIES)
        assert scores == pytest.approx(expected, rel=1e-4)


def test_a_hypothesis_without_tokens_has_the_score_zero_under_each():
    """As an empty line's: no penalty of length 0 is asked for, which may be 0."""
    assert length_scores([0.0], [0], DecodeConfig()) == [dict.fromkeys(LENGTH_PENALTIES, 0.0)]
    assert length_scores([], [], DecodeConfig()) == []
