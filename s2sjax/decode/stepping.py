"""The seam between search and model: what a step function is, and the checks that name a wrong one."""

from collections.abc import Callable

import jax
from jax import Array

from s2sjax.api import Cache
from s2sjax.errors import UserError

StepFn = Callable[[Array, Cache], tuple[Array, Cache]]
"""Previous tokens [B, K] int32 and the cache -> logits [B, K, V] (any float type, unnormalised) and the new cache."""


def check_cache(cache: Cache, batch: int, width: int) -> None:
    """Raise UserError if a leaf does not lead with `[batch, width]`."""
    for path, leaf in jax.tree.leaves_with_path(cache):
        if leaf.shape[:2] != (batch, width):
            raise UserError(
                f"cache leaf {jax.tree_util.keystr(path) or '(the cache itself)'} has shape {leaf.shape}; "
                f"every leaf must lead with [batch, beam_size] = [{batch}, {width}]"
            )


def checked(step: StepFn, *, eos_id: int, pad_id: int) -> StepFn:
    """The same step function, which raises UserError if its logits are not `[B, K, V]` with room for the special
    ids."""

    def checking(tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        (B, K), (logits, cache) = tokens.shape, step(tokens, cache)
        if logits.ndim != 3 or logits.shape[:2] != (B, K):
            raise UserError(f"the step function gave logits of shape {logits.shape}, expected [{B}, {K}, vocabulary]")
        if logits.shape[2] <= max(eos_id, pad_id):
            raise UserError(
                f"the step function gave logits over {logits.shape[2]} tokens, which do not hold "
                f"eos_id {eos_id} and pad_id {pad_id}"
            )
        return logits, cache

    return checking
