"""Prompt and answer as one sequence: the worked example of `ops.prompt`, and what is kept of a prompt."""

import jax.numpy as jnp
import numpy as np

from s2sjax.ops.prompt import ending, join

INPUT_SEGMENTS = jnp.array([[1, 1, 2, 2, 2, 0], [0, 0, 0, 0, 0, 0]])
ANSWER_SEGMENTS = jnp.array([[1, 1, 1, 2, 0, 0], [1, 1, 2, 2, 2, 0]])
INPUTS = jnp.array([[11, 12, 21, 22, 23, 0], [0, 0, 0, 0, 0, 0]])
ANSWERS = jnp.array([[13, 14, 15, 24, 0, 0], [11, 12, 21, 22, 23, 0]])


def test_each_segments_answer_follows_its_prompt_and_padding_comes_last():
    joined = join(INPUTS, INPUT_SEGMENTS, ANSWERS, ANSWER_SEGMENTS)
    np.testing.assert_array_equal(joined.tokens[0], [11, 12, 13, 14, 15, 21, 22, 23, 24, 0, 0, 0])
    np.testing.assert_array_equal(joined.segments[0], [1] * 5 + [2] * 4 + [0] * 3)
    np.testing.assert_array_equal(joined.positions[0, :9], [0, 1, 2, 3, 4, 0, 1, 2, 3])
    np.testing.assert_array_equal(np.flatnonzero(joined.starts[0]), [0, 5, 9])
    np.testing.assert_array_equal(joined.tokens[1, :5], [11, 12, 21, 22, 23])
    np.testing.assert_array_equal(joined.gather_answers(joined.tokens), ANSWERS)
    np.testing.assert_array_equal(joined.gather_answers(joined.tokens[..., None])[..., 0], ANSWERS)


def test_without_inputs_nothing_moves():
    nothing = jnp.zeros((2, 0), jnp.int32)
    joined = join(nothing, nothing, ANSWERS, ANSWER_SEGMENTS)
    np.testing.assert_array_equal(joined.tokens, ANSWERS)
    x = jnp.arange(24.0).reshape(2, 6, 2)
    assert joined.gather_answers(x) is x, "a gather along positions that are split over devices would collect them"


def test_what_is_kept_of_a_prompt_is_its_end_padded_in_front():
    x = jnp.arange(1, 9).reshape(2, 4)
    np.testing.assert_array_equal(ending(x, jnp.array([3, 1]), 2), [[2, 3], [0, 5]])
    np.testing.assert_array_equal(ending(x[..., None], jnp.array([0, 4]), 3)[..., 0], [[0, 0, 0], [6, 7, 8]])
