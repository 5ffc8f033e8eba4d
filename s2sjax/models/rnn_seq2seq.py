"""The LSTM encoder-decoder with attention (Bahdanau et al. 2015, arXiv:1409.0473; Luong et al. 2015, arXiv:1508.04025).

The bottom encoder layer reads in both directions. At each step the decoder's top state asks the encoder for a context;
state and context make the attentional vector, which predicts the next word and, with input feeding (Luong et al.,
section 3.3), enters the decoder again at the next step. The decoder starts from the mean of the encoder's states
(Sennrich et al. 2017, arXiv:1703.04357, section 3), which packed rows have one of per segment.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from s2sjax.api import Batch, Output, Rules
from s2sjax.config import choose
from s2sjax.errors import UserError
from s2sjax.nn.layers import Dense, Dropout, Embedding, xavier
from s2sjax.ops.attention import additive_scores, masked_softmax, multiplicative_scores, segment_mask
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.recurrent import LSTMState, lstm, lstm_cell, segment_starts


@dataclass(frozen=True)
class Config:
    encoder_layers: int = 1
    decoder_layers: int = 1
    width: int = 256
    """Width of every layer; the two directions of the bottom encoder layer have half of it each."""
    attention: str = "additive"
    """"additive" (Bahdanau) or "multiplicative" (Luong's "general")."""
    input_feeding: bool = True
    tied: str = "decoder"
    """"decoder": target embedding and output projection share one table; "all": the source too; or "none"."""
    dropout: float = 0.3
    """On embeddings, between layers and on the attentional vector."""

    def __post_init__(self):
        choose(self.attention, ("additive", "multiplicative"), "config.model.attention")
        choose(self.tied, ("all", "decoder", "none"), "config.model.tied")
        if self.width % 2 or self.width < 2:
            raise UserError(f"config.model.width is {self.width}, but two directions need an even number, 2 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"config.model.dropout is {self.dropout}, but must be in 0..1, below 1")
        if min(self.encoder_layers, self.decoder_layers) < 1:
            raise UserError("config.model.encoder_layers and decoder_layers must be at least 1")


def sharding_rules(config: Config) -> Rules:
    return (
        (r"table$", ("tensor", "fsdp")),
        # Never along the state: with it split over fsdp, and data and tensor axes beside, XLA (jax 0.10.2) computes
        # wrong gradients through the loop of the encoder, without a word (tests/contract, on a mesh of 2 x 2 x 2).
        (r"recurrent\w*/kernel$", (None, ("fsdp", "tensor"))),
        (r"kernel$", ("fsdp", "tensor")),
        (r"(bias\w*|v)$", (None,)),
    )


def build(config: Config, source_vocab: int, target_vocab: int, *, precision: Precision) -> "RNNSeq2Seq":
    """Make the module.

    Raises:
        UserError: if `tied` is "all" and the vocabularies differ in size.
    """
    if config.tied == "all" and source_vocab != target_vocab:
        raise UserError(
            f"config.model.tied is 'all', but the vocabularies have {source_vocab} and {target_vocab} entries; "
            "set config.tokenizer.joint=True or config.model.tied=decoder"
        )
    return RNNSeq2Seq(config, source_vocab, target_vocab, precision)


class Kernel(nn.Module):
    """A matrix without a layer around it: steps run as pure functions of arrays inside `lax.scan`."""

    shape: tuple[int, int]
    kernel_init: nn.initializers.Initializer = xavier

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", self.kernel_init, self.shape, jnp.float32)


class EncoderLayer(nn.Module):
    """One LSTM layer over a whole sequence, in one direction."""

    features: int
    precision: Precision
    reverse: bool = False

    def setup(self):
        self.input = Dense(4 * self.features, self.precision)
        self.recurrent = Kernel((self.features, 4 * self.features), nn.initializers.orthogonal())

    def __call__(self, x: Array, segments: Array) -> Array:
        starts = segment_starts(segments, reverse=self.reverse)
        return lstm(self.input(x), self.recurrent(), starts, precision=self.precision, reverse=self.reverse)


class Source(NamedTuple):
    """What attention reads: keys [B, S, A] and values [B, S, D] of the encoder's states."""

    keys: Array
    values: Array


class StepWeights(NamedTuple):
    """The decoder's parameters as plain arrays."""

    layers: tuple[Array, ...]
    """For each layer [2D, 4D], for what stands below it (the fed vector, for the bottom one) and its own state; [D, 4D]
    for the bottom one without input feeding."""
    biases: tuple[Array, ...]
    """For each layer above the bottom [4D]; the bottom one's is in its projected input."""
    query: Array | None
    v: Array | None
    combine: Array


class DecoderState(NamedTuple):
    """Every leaf leads with [B, K]: the LSTM states of each layer and the last attentional vector."""

    layers: tuple[LSTMState, ...]
    feed: Array


class RNNSeq2Seq(nn.Module):
    """See `api.Stepwise`. The memory holds projected keys, values, mask and the decoder's first state."""

    config: Config
    source_vocab: int
    target_vocab: int
    precision: Precision

    def setup(self):
        c, D = self.config, self.config.width
        self.target_embedding = Embedding(self.target_vocab, D)
        self.source_embedding = self.target_embedding if c.tied == "all" else Embedding(self.source_vocab, D)
        if c.tied == "none":
            self.projection = Kernel((D, self.target_vocab))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.target_vocab,), jnp.float32)
        self.encoder_forward = EncoderLayer(D // 2, self.precision)
        self.encoder_backward = EncoderLayer(D // 2, self.precision, reverse=True)
        self.encoder_above = [EncoderLayer(D, self.precision) for _ in range(c.encoder_layers - 1)]
        self.initial = [Dense(D, self.precision) for _ in range(c.decoder_layers)]
        self.input = Dense(4 * D, self.precision)
        below = [D if c.input_feeding else 0] + [D] * (c.decoder_layers - 1)
        self.recurrent = [Kernel((n + D, 4 * D)) for n in below]
        self.recurrent_biases = [
            self.param(f"recurrent_bias_{i}", nn.initializers.zeros, (4 * D,), jnp.float32)
            for i in range(1, len(below))
        ]
        self.keys = Dense(D, self.precision, use_bias=c.attention == "additive")
        if c.attention == "additive":
            self.query = Kernel((D, D))
            self.v = self.param("v", nn.initializers.normal(D**-0.5), (D,), jnp.float32)
        self.combine = Kernel((2 * D, D))
        self.drop = Dropout(c.dropout)

    def _encode(self, batch: Batch, *, train: bool) -> Array:
        segments = batch["input_segments"]
        x = self.source_embedding(batch["inputs"], self.precision.activations)
        x = self.drop(x * self.config.width**0.5, train=train)
        x = jnp.concatenate([self.encoder_forward(x, segments), self.encoder_backward(x, segments)], axis=-1)
        for layer in self.encoder_above:
            x = x + layer(self.drop(x, train=train), segments)
        return x

    def _embed_target(self, tokens: Array, *, train: bool) -> Array:
        x = self.target_embedding(tokens, self.precision.activations)
        return self.input(self.drop(x * self.config.width**0.5, train=train))

    def _initial_states(self, encoded: Array, mask: Array) -> tuple[LSTMState, ...]:
        """First states [B, T, D] of each layer, from the mean of the encoder's states that `mask` [B, T, S] allows."""
        share = mask / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
        mean = jnp.einsum("bts,bsd->btd", share.astype(encoded.dtype), encoded)
        cells = [layer(mean) for layer in self.initial]
        return tuple(LSTMState(jnp.tanh(c), c.astype(jnp.float32)) for c in cells)

    def _weights(self) -> StepWeights:
        additive = self.config.attention == "additive"
        return StepWeights(
            layers=tuple(kernel() for kernel in self.recurrent),
            biases=tuple(self.recurrent_biases),
            query=self.query() if additive else None,
            v=self.v if additive else None,
            combine=self.combine(),
        )

    def _step(self, weights: StepWeights, state: DecoderState, gates: Array, source: Source, mask: Array, drops):
        """One decoder step: `gates` [B, K, 4D] from the last word, `mask` [B, K, S], `drops` a factor a layer."""
        c, precision = self.config, self.precision
        layers: list[LSTMState] = []
        below = state.feed if c.input_feeding else None
        for i, previous in enumerate(state.layers):
            h = previous.h if below is None else jnp.concatenate([below, previous.h], axis=-1)
            y = project(h, weights.layers[i], precision)
            y = y + (gates if i == 0 else weights.biases[i - 1].astype(y.dtype))
            layers.append(lstm_cell(y, previous.c))
            below = layers[i].h * drops[i]
        top = layers[-1].h
        if weights.query is not None and weights.v is not None:
            scores = additive_scores(project(top, weights.query, precision), source.keys, weights.v)
        else:
            scores = multiplicative_scores(top, source.keys)
        attention = masked_softmax(scores, mask)
        context = jnp.einsum("bks,bsd->bkd", attention.astype(source.values.dtype), source.values)
        attentional = (
            jnp.tanh(project(jnp.concatenate([top, context], axis=-1), weights.combine, precision)) * drops[-1]
        )
        return DecoderState(tuple(layers), attentional), attention

    def __call__(self, batch: Batch, *, train: bool) -> Output:
        encoded = self._encode(batch, train=train)
        mask = segment_mask(batch["target_segments"], batch["input_segments"])
        starts = segment_starts(batch["target_segments"])
        first = self._initial_states(encoded, mask)
        gates = self._embed_target(batch["decoder_inputs"], train=train)
        source = Source(self.keys(encoded), encoded)
        weights = self._weights()
        B, T, _ = gates.shape
        D = self.config.width
        ones = jnp.ones((T, B, 1, D), gates.dtype)
        drops = tuple(self.drop(ones, train=train) for _ in range(self.config.decoder_layers))

        def body(state: DecoderState, x):
            gates, mask, start, first, drops = x
            begin = DecoderState(first, jnp.zeros_like(state.feed))
            state = DecoderState(*(_select(start, new, old) for new, old in zip(begin, state, strict=True)))
            state, attention = self._step(weights, state, gates, source, mask, drops)
            return state, (state.feed, attention)

        def time_major(x: Array) -> Array:  # [B, T, ...] -> [T, B, 1, ...]
            return x.swapaxes(0, 1)[:, :, None]

        first = tuple(LSTMState(time_major(s.h), time_major(s.c)) for s in first)
        zero = DecoderState(
            tuple(LSTMState(jnp.zeros_like(s.h[0]), jnp.zeros_like(s.c[0])) for s in first), ones[0] * 0
        )
        xs = (time_major(gates), time_major(mask), time_major(starts), first, drops)
        _, (features, attention) = lax.scan(body, zero, xs)
        if self.is_mutable_collection("attention"):
            self.sow("attention", "weights", attention[:, :, 0].swapaxes(0, 1))
        return Output(features[:, :, 0].swapaxes(0, 1), self._kernel(), self.output_bias)

    def _kernel(self) -> Array:
        return self.projection() if self.config.tied == "none" else self.target_embedding.projection_kernel()

    def encode(self, batch: Batch):
        encoded = self._encode(batch, train=False)
        mask = batch["input_segments"] > 0
        first = self._initial_states(encoded, mask[:, None])
        return {"source": Source(self.keys(encoded), encoded), "mask": mask, "first": first}

    def init_cache(self, memory, *, width: int, max_len: int):
        del max_len  # the state has one size, however long the output
        layers = tuple(LSTMState(*(jnp.repeat(x, width, axis=1) for x in state)) for state in memory["first"])
        return DecoderState(layers, jnp.zeros_like(layers[0].h))

    def decode_step(self, tokens: Array, cache: DecoderState, memory):
        B, K = tokens.shape
        mask = jnp.broadcast_to(memory["mask"][:, None], (B, K, memory["mask"].shape[1]))
        gates = self._embed_target(tokens, train=False)
        drops = (jnp.ones((), gates.dtype),) * self.config.decoder_layers
        cache, _ = self._step(self._weights(), cache, gates, memory["source"], mask, drops)
        logits = project(cache.feed, self._kernel(), self.precision).astype(jnp.float32) + self.output_bias
        return logits, cache


def _select(start: Array, new, old):
    """Leaf by leaf, `new` where `start` [B, 1] is True, else `old` [B, 1, ...]."""

    return jax.tree.map(lambda n, o: jnp.where(start[..., None], n, o), new, old)
