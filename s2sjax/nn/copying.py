"""What decides between generating a word and copying one from the source."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from s2sjax.api import Copying, Rules
from s2sjax.nn.layers import Dense
from s2sjax.ops.copying import copied_masses
from s2sjax.ops.linear import Precision


class CopyGate(nn.Module):
    """The generation probability of a pointer-generator network (See et al. 2017, arXiv:1704.04368, equation 8)."""

    precision: Precision

    def setup(self):
        self.generation = Dense(1, self.precision)

    def __call__(self, seen: Sequence[Array], attention: Array, tokens: Array) -> Copying:
        """What is copied, given how each position attends to the source's `tokens` [B, S].

        Args:
            seen: what the gate is computed from, each [B, T, .]: the paper's are context, decoder state and input.
            attention: [B, T, S], distributions over the source.
        """
        gate = self.generation(jnp.concatenate(seen, axis=-1))[..., 0].astype(jnp.float32)
        return Copying(gate, copied_masses(attention, tokens), tokens)


def gate_rules(copy: bool) -> Rules:
    """Sharding rules of a gate, if a model has one. They stand before rules of other kernels: its output is 1 wide."""
    return ((r"generation/kernel$", (None, None)), (r"generation/bias$", (None,))) if copy else ()
