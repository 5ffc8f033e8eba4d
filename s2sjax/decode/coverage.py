"""What source positions got of a hypothesis's attention, carried along by search for GNMT's coverage penalty.

    memory = ...                                            the source, under a mask [B, S]
    beam_search(
        with_coverage(step),                                step returns attention too
        uncovered(cache, mask, width),
        bos,
        config,
        bonus=lambda cache: coverage_penalty(cache.coverage, mask, weight),
    )

`coverage_penalty` stands with the other conventions, in `s2sjax.decode.penalty`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from s2sjax.api import Cache
from s2sjax.decode.stepping import StepFn
from s2sjax.errors import UserError


class Covered(NamedTuple):
    """A step function's cache, and beside it what the source got of attention in all steps so far."""

    cache: Cache
    coverage: Float[Array, "B K S"]
    """Float32."""


def uncovered(cache: Cache, mask: Bool[Array, "B S"], width: int) -> Covered:
    """The cache before the first step, of `width` hypotheses, and no coverage."""
    return Covered(cache, jnp.zeros((mask.shape[0], width, mask.shape[1]), jnp.float32))


def with_coverage(step: Callable[[Array, Cache], tuple[Array, Cache, Array]]) -> StepFn:
    """The step function over `Covered` caches, from one that returns attention `[B, K, S]` beside logits and cache.

    The step that scores end-of-sentence attends too, and its attention counts.

    Raises:
        UserError: when it is traced, if the attention is of another shape than the coverage.
    """

    def covering(tokens: Array, cache: Covered) -> tuple[Array, Covered]:
        logits, inner, attention = step(tokens, cache.cache)
        if attention.shape != cache.coverage.shape:
            raise UserError(
                f"the step function gave attention of shape {attention.shape}, expected {cache.coverage.shape}: a row "
                "over the source for each hypothesis, averaged over layers and heads"
            )
        return logits, Covered(inner, cache.coverage + attention.astype(jnp.float32))

    return covering
