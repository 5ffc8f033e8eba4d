"""An ensemble: several step functions over one vocabulary as one, by the mean of their distributions.

    probabilities       p(word) = sum over members of p_m(word) / M: what M models say that are each right now and then
    log_probabilities   p(word) = product of p_m(word)^(1 / M) / Z: what all of them can agree on

Both are distributions: the second is normalised anew at every step, which not every toolkit does, so that the score of
a hypothesis is a log-probability under either. Sockeye calls them "linear" and "log_linear"; fairseq has the first.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from s2sjax.api import Cache
from s2sjax.decode.stepping import StepFn
from s2sjax.errors import UserError

KINDS = ("probabilities", "log_probabilities")


def ensemble_step(steps: Sequence[StepFn], kind: str) -> StepFn:
    """One step function from several. Its cache is the tuple of their caches, in the same order.

    Raises:
        UserError: as `combine`, when it is called.
    """

    def step(tokens: Array, caches: Cache) -> tuple[Array, Cache]:
        logits, advanced = zip(*(step(tokens, cache) for step, cache in zip(steps, caches, strict=True)), strict=True)
        return combine(logits, kind), advanced

    return step


def combine(logits: Sequence[Array], kind: str) -> Array:
    """The members' distributions over the next word as one.

    Where a member gives a word no chance, the mean of log-probabilities does not either. A member that gives none to
    any word, all its logits -inf, adds nothing to the mean of probabilities. NaN in a member is NaN in the result.

    Args:
        logits: of each member `[..., V]`, unnormalised, of any float type.
        kind: one of `KINDS`.

    Returns:
        Float32 log-probabilities `[..., V]`.

    Raises:
        UserError: the members' vocabularies differ in size.
    """
    if len({member.shape for member in logits}) > 1:
        raise UserError(
            f"the members of an ensemble gave logits of shapes {', '.join(str(member.shape) for member in logits)}; "
            "they must have one vocabulary"
        )
    members = jnp.stack([_log_softmax(member.astype(jnp.float32)) for member in logits])
    if kind == "probabilities":
        return jax.nn.logsumexp(members, axis=0) - math.log(len(logits))
    return _log_softmax(members.mean(axis=0))


def _log_softmax(logits: Array) -> Array:
    """As `jax.nn.log_softmax`, but where no word has a chance, none gets one: -inf in place of NaN."""
    none = jnp.all(logits == -jnp.inf, axis=-1, keepdims=True)
    return jnp.where(none, -jnp.inf, jax.nn.log_softmax(jnp.where(none, 0.0, logits), axis=-1))
