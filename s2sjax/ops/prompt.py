"""Prompt and answer as one sequence, for language models.

A batch keeps a row's inputs and its targets apart, each with padding of its own and, in packed rows, with several
segments. A language model reads each segment's inputs and then the same segment's decoder inputs without a gap:

    inputs           a a b b b .      segments of a row; . is padding
    decoder_inputs   A A A B . .
    joined           a a A A A b b b B . . .
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int, Shaped

from s2sjax.ops.recurrent import segment_starts


class Joined(NamedTuple):
    """Rows of L = S + T tokens: the segments in their order, each one's prompt before its answer, padding last."""

    tokens: Int[Array, "B L"]
    segments: Int[Array, "B L"]
    order: Int[Array, "B L"]
    """Which column of `[inputs | decoder inputs]` stands here."""
    answers: Int[Array, "B T"] | None
    """Which column of the joined row each column of the decoder inputs became; None if each is where it was."""

    @property
    def starts(self) -> Bool[Array, "B L"]:
        """True where a segment begins."""
        return segment_starts(self.segments)

    @property
    def positions(self) -> Int[Array, "B L"]:
        """Position within the segment, from 0: an answer's positions go on where its prompt's end."""
        columns = jnp.broadcast_to(jnp.arange(self.tokens.shape[1]), self.tokens.shape)
        return columns - jnp.maximum.accumulate(jnp.where(self.starts, columns, 0), axis=1)

    def gather_answers(self, x: Array) -> Array:
        """What stands at the answers: [B, L, ...] -> [B, T, ...]."""
        if self.answers is None:
            return x
        index = self.answers.reshape(*self.answers.shape, *(1,) * (x.ndim - 2))
        return jnp.take_along_axis(x, index, axis=1)


def join(
    inputs: Int[Array, "B S"],
    input_segments: Int[Array, "B S"],
    answers: Int[Array, "B T"],
    answer_segments: Int[Array, "B T"],
) -> Joined:
    """Join each segment's inputs with the tokens of its answer. S may be 0."""
    if inputs.shape[1] == 0:  # nothing moves, also where positions are split over devices
        order = jnp.broadcast_to(jnp.arange(answers.shape[1]), answers.shape)
        return Joined(answers, answer_segments, order, None)
    tokens = jnp.concatenate([inputs, answers], axis=1)
    segments = jnp.concatenate([input_segments, answer_segments], axis=1)
    # Stable: within a segment the inputs, which stand to the left, come first.
    order = jnp.argsort(jnp.where(segments > 0, segments, jnp.iinfo(jnp.int32).max), axis=1, stable=True)
    return Joined(
        tokens=jnp.take_along_axis(tokens, order, axis=1),
        segments=jnp.take_along_axis(segments, order, axis=1),
        order=order,
        answers=jnp.argsort(order, axis=1)[:, inputs.shape[1] :],
    )


def ending(x: Shaped[Array, "B S *any"], lengths: Int[Array, "B"], count: int) -> Shaped[Array, "B count *any"]:
    """What is kept of a prompt: the last `count` of each row's first `lengths` columns, with zeros before the first."""
    x = jnp.pad(x, ((0, 0), (count, 0)) + ((0, 0),) * (x.ndim - 2))
    columns = lengths[:, None] + jnp.arange(count)
    return jnp.take_along_axis(x, columns.reshape(*columns.shape, *(1,) * (x.ndim - 2)), axis=1)
