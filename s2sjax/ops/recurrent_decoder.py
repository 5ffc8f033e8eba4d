"""One step of a recurrent decoder: its layers, the attention of the top one, and what predicts the next words."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from s2sjax.ops.alignment import additive_scores, local_weights, multiplicative_scores, weighted_sum
from s2sjax.ops.attention import masked_softmax
from s2sjax.ops.recurrent import Cell, Product, State, advance, restart


class Source(NamedTuple):
    """What attention reads: keys [B, S, A] and values [B, S, D] of the encoder's states, and their positions [B, S]."""

    keys: Array
    values: Array
    positions: Array


class Constants(NamedTuple):
    """What a step reads beside its kernels and its state."""

    biases: tuple[Array, ...]
    """For each layer above the bottom [G]; the bottom one's is in its projected input."""
    vectors: dict[str, Array]
    """`v` of additive attention, `coverage` if it reads that, `place_v` of local attention, [A]."""
    source: Source | None


class DecoderState(NamedTuple):
    """Every leaf leads with [B, K]: the states of each layer; with input feeding, the last attentional vector; with
    coverage, what each position of the source got of attention so far, [B, K, S] float32."""

    layers: tuple[State, ...]
    feed: Array | None
    coverage: Array | None = None


class Attended(NamedTuple):
    """What the top states find in the source."""

    features: Array
    """What predicts the next words, [B, K, D]."""
    weights: Array | None
    """Attention [B, K, S]."""
    seen: Array | None
    """State and context, [B, K, 2 D], where copying asks for them."""


class StepInputs(NamedTuple):
    gates: Float[Array, "B K G"]
    """From the last words."""
    mask: Bool[Array, "B K S"]
    drops: tuple[Array, ...]
    """A factor for each layer's output."""


@dataclass(frozen=True)
class RecurrentDecoder:
    """What one computes; `models.rnn_seq2seq.Config` says what each setting means.

    Its products are with the kernels `below_i` and `state_i` of layer i, with `combine`, which makes an attentional
    vector, and with those of the queries: `query` of additive attention, `place` of local attention.
    """

    cell: Cell
    residual: bool
    attention: str
    window: int
    copies: bool

    def scan_step(
        self, product: Product, constants: Constants, state: DecoderState, x
    ) -> tuple[DecoderState, Attended]:
        """The body of a scan over positions (`ops.recurrent.Body`), which begins anew where a segment starts."""
        gates, mask, start, begin, drops = x
        begin = begin._replace(coverage=None if state.coverage is None else jnp.zeros_like(state.coverage))
        return self.step(product, constants, restart(start, begin, state), StepInputs(gates, mask, drops))

    def step(
        self, product: Product, constants: Constants, state: DecoderState, inputs: StepInputs
    ) -> tuple[DecoderState, Attended]:
        """The new state, and what predicts the next words."""
        gates, mask, drops = inputs
        layers: list[State] = []
        outputs: list[Array] = []
        for i, previous in enumerate(state.layers):
            if i:
                below = product(f"below_{i}", outputs[-1] * drops[i - 1]) + constants.biases[i - 1].astype(gates.dtype)
            else:
                below = gates if state.feed is None else gates + product("below_0", state.feed)
            layers.append(advance(self.cell, below, product(f"state_{i}", previous.h), previous))
            h = layers[-1].h.astype(gates.dtype)
            outputs.append(h + outputs[-1] if i and self.residual else h)
        made = self.attend(product, constants, outputs[-1], mask, state.coverage)
        made = made._replace(features=made.features * drops[-1])
        coverage = state.coverage
        if coverage is not None:
            assert made.weights is not None
            coverage = coverage + made.weights
        return DecoderState(tuple(layers), None if state.feed is None else made.features, coverage), made

    def attend(
        self, product: Product, constants: Constants, top: Array, mask: Array, coverage: Array | None = None
    ) -> Attended:
        """What is found after the top states [B, K, D] under `mask` [B, K, S], attention so far being `coverage`."""
        if constants.source is None:
            return Attended(top, None, None)
        keys, values, positions = constants.source
        if self.attention == "additive":
            covered = None if coverage is None else (coverage, constants.vectors["coverage"])
            scores = additive_scores(product("query", top), keys, constants.vectors["v"], covered)
            attention = masked_softmax(scores, mask)
        else:
            scores = multiplicative_scores(top, keys)
            if self.attention == "local":
                place = jnp.tanh(product("place", top)).astype(jnp.float32) @ constants.vectors["place_v"]
                attention = local_weights(scores, mask, positions, place, self.window)
            else:
                attention = masked_softmax(scores, mask)
        seen = jnp.concatenate([top, weighted_sum(attention, values)], axis=-1)
        return Attended(jnp.tanh(product("combine", seen)), attention, seen if self.copies else None)
