"""Rematerialisation: what the backward pass computes again instead of keeping (Chen et al. 2016, arXiv:1604.06174)."""

from collections.abc import Callable

import jax

REMAT = {"none": None, "full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
"""Nothing; all but a layer's input; all but the products with parameters."""


def rematerialised(layer: Callable, kind: str, *, looped: bool) -> Callable:
    """The same function of arrays, of which the backward pass keeps what `kind`, one of `REMAT`, says.

    Args:
        looped: it is the body of a loop, over which XLA merges no equal expressions anyway.
    """
    return layer if kind == "none" else jax.checkpoint(layer, policy=REMAT[kind], prevent_cse=not looped)
