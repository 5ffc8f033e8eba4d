"""The seam between search and model: what a step function is, and the checks that name a wrong one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from s2sjax.api import Anchored, Cache
from s2sjax.decode.candidates import rows
from s2sjax.errors import UserError
from s2sjax.plural import counted

StepFn = Callable[[Array, Cache], tuple[Array, Cache]]
"""Previous tokens [B, K] int32 and the cache -> logits [B, K, V] (any float type, unnormalised) and the new cache."""


def check_cache(cache: Cache, batch: int, width: int) -> int:
    """How many hypotheses the cache is of: `width`, or one, as which all of them begin.

    Raises:
        UserError: if a leaf that is not anchored leads with something else than `[batch, width]`, or not all lead with
            `[batch, 1]`.
    """
    leaves = [(path, x) for path, x in jax.tree.leaves_with_path(cache, is_leaf=_is_anchored) if not _is_anchored(x)]
    one = width > 1 and bool(leaves) and all(leaf.shape[:2] == (batch, 1) for _, leaf in leaves)
    for path, leaf in leaves:
        if not one and leaf.shape[:2] != (batch, width):
            raise UserError(
                f"cache leaf {jax.tree_util.keystr(path) or '(the cache itself)'} has shape {leaf.shape}; "
                f"every leaf must lead with [batch, beam_size] = [{batch}, {width}], or every one with [{batch}, 1]"
            )
    return 1 if one else width


def reorder(cache: Cache, parents: Int[Array, "B W"]) -> Cache:
    """The cache of W hypotheses that go on from `parents`; what is anchored stays where it is.

    W may be another number than before: with parents [B, 1] of zeros only the first hypothesis is left, and K zeros
    make K of one.
    """
    return jax.tree.map(lambda part: part if _is_anchored(part) else rows(part, parents), cache, is_leaf=_is_anchored)


def widen(cache: Cache, width: int) -> Cache:
    """The cache of `width` hypotheses that are all the same, from that of one; what is anchored stays where it is."""

    def repeated(part):
        return part if _is_anchored(part) else jnp.broadcast_to(part, (part.shape[0], width, *part.shape[2:]))

    return jax.tree.map(repeated, cache, is_leaf=_is_anchored)


def narrow(cache: Cache) -> Cache:
    """The cache of the first hypothesis alone: what search may begin with, if all are the same before the first step.

    What is anchored keeps the room it has for all of them.
    """
    return jax.tree.map(lambda part: part if _is_anchored(part) else part[:, :1], cache, is_leaf=_is_anchored)


def expanding(step: StepFn) -> StepFn:
    """The step function for the first step of hypotheses that are all the same: it is made once, and given to all.

    It takes tokens `[B, K]` and the cache of one hypothesis, and returns the logits and the cache of K.
    """

    def once(tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        logits, cache = step(tokens[:, :1], cache)
        return widen(logits, tokens.shape[1]), widen(cache, tokens.shape[1])

    return once


def _is_anchored(part) -> bool:
    return isinstance(part, Anchored)


def checked(step: StepFn, *, ends: tuple[int, ...], pad: int | None) -> StepFn:
    """The same step function, which raises UserError if its logits are not `[B, K, V]` with room for the special
    ids."""
    special = (*ends, *(() if pad is None else (pad,)))

    def checking(tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        (B, K), (logits, cache) = tokens.shape, step(tokens, cache)
        if logits.ndim != 3 or logits.shape[:2] != (B, K):
            raise UserError(f"the step function gave logits of shape {logits.shape}, expected [{B}, {K}, vocabulary]")
        if logits.shape[2] <= max(special, default=0):
            raise UserError(
                f"the step function gave logits over {counted(logits.shape[2], 'token')}, which do not hold "
                f"ends {ends} and pad {pad}"
            )
        return logits, cache

    return checking
