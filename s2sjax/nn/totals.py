"""Sums over the whole batch that are more than the sum of what parts of it compute, such as the load of an expert.

They are a collection of variables, "totals". Whoever computes a batch in parts (`s2sjax.training.step`) first applies
the model to each with the collection mutable, adds up what it holds then, and gives the model the sums when it computes
the parts. Where nobody gives any, the batch is whole.
"""

import flax.linen as nn
from jax import Array

TOTALS = "totals"


def total(module: nn.Module, name: str, own: Array) -> Array:
    """The sum over the whole batch; `own` is that over the batch at hand."""
    record_total(module, name, own)
    known = batch_total(module, name)
    return own if known is None else known


def batch_total(module: nn.Module, name: str):
    """What was given under this name, or None."""
    return module.get_variable(TOTALS, name) if module.has_variable(TOTALS, name) else None


def record_total(module: nn.Module, name: str, own) -> None:
    if module.is_mutable_collection(TOTALS):
        module.put_variable(TOTALS, name, own)
