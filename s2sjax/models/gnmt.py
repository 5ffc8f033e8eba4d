"""Google's neural machine translation system (Wu et al. 2016, arXiv:1609.08144, section 3): deep LSTMs on both sides.

The bottom encoder layer reads in both directions, the others from the left. In both stacks residual connections start
at the third layer. At each step the decoder's bottom layer queries the encoder through an additive score; the context
it finds is read by every layer above at the same step, beside the output of the layer below, and by the bottom layer at
the next. (In the paper's notation all layers of a step read the context that the bottom layer's output of the step
before asked for. For the bottom layer that is the same; those above get the newer one here, as in tensorflow/nmt's
gnmt_v2.) The top layer's output alone predicts. States begin at zero, as the first context does: all that the decoder
knows of the source it finds by attention.

Since attention depends on the bottom layer only, teacher forcing runs layer by layer: one loop over time for the bottom
layer and its attention, then one for each layer above, over inputs that were projected at once. The layers from the
third on have one shape: their parameters are stacked and a scan runs over them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from s2sjax.api import Batch, Output, Rules, Traits
from s2sjax.config import check_at_least, check_choices, check_rate, one_of
from s2sjax.errors import UserError
from s2sjax.nn.copying import CopyGate, gate_rules
from s2sjax.nn.gathering import gathered
from s2sjax.nn.layers import Dense, Dropout, Embedding, Kernel
from s2sjax.nn.recurrent import Recurrent
from s2sjax.nn.remat import REMAT
from s2sjax.nn.source import SOURCE_RULES, embed_source, source_embedding
from s2sjax.ops.alignment import additive_scores, weighted_sum
from s2sjax.ops.attention import masked_softmax, segment_mask
from s2sjax.ops.copying import coverage_loss, mix
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.recurrent import (
    Cell,
    Product,
    State,
    advance,
    restart,
    scan_products,
    segment_starts,
    zero_state,
)
from s2sjax.ports import TIED, Port, Tokens, Vectors, check_copying, check_tied

TRAITS = Traits(reads=(Tokens, Vectors), gathers_layers=True)


@dataclass(frozen=True)
class Config:
    """The `model` section of the family gnmt.

    Attributes:
      encoder_layers: Layers of the encoder; the bidirectional one counts as one.
      decoder_layers: Layers of the decoder.
      width: Width of embeddings, and of every layer and direction.
      tied: "decoder": target embedding and output projection share one table; "all": the source too; or "none".
      dropout: Dropout rate on embeddings and on what each layer above the bottom reads.
      remat: What the backward pass computes again, of the layers from the third on: "none", "full" (all but each
        layer's input), "dots" (all but the products with parameters).
      copy: Mix what is generated with copies from the source, a pointer-generator network (See et al. 2017,
        arXiv:1704.04368): the output may be any word of its source, also one that training never wrote. Attention
        chooses what is copied; context, top output and the last word choose between the two. Needs a joint vocabulary,
        in which a word that is unknown stays unknown.
      coverage_weight: Weight of the coverage loss (See et al., section 2.3): of a word's attention, what goes where
        that of the words before it has been. Above 0, attention also reads the coverage, which is the sum of the
        attention so far. 0: neither. Unlike `decode.coverage`, a penalty of the search, it belongs to training.
    """

    encoder_layers: int = 8
    decoder_layers: int = 8
    width: int = 1024
    tied: str = one_of(TIED, "decoder")
    dropout: float = 0.2
    remat: str = one_of(REMAT, "none")
    copy: bool = False
    coverage_weight: float = 0.0

    def __post_init__(self):
        check_choices(self, "config.model")
        for name in ("encoder_layers", "decoder_layers"):
            if getattr(self, name) < 2:
                raise UserError(
                    f"config.model.{name} is {getattr(self, name)}, but GNMT has 2 or more; for less, "
                    "config.model.name=rnn_seq2seq"
                )
        check_at_least(1, self, "width")
        check_at_least(0, self, "coverage_weight")
        check_rate(self, "dropout")


def sharding_rules(config: Config) -> Rules:
    return (
        *SOURCE_RULES,
        *gate_rules(config.copy),
        (r"kernel$", (None, "tensor")),
        (r"(bias|v|coverage)$", (None,)),
    )


def build(config: Config, reads: Port, writes: Tokens, *, precision: Precision) -> "GNMT":
    """Make the module.

    Raises:
        UserError: if `tied` is "all", or `copy` is set, and the vocabularies differ in size or vectors are read.
    """
    check_tied(config.tied, reads, writes)
    check_copying(config.copy, reads, writes)
    return GNMT(config, reads, writes, precision)


class Layer(nn.Module):
    """A layer above the bottom. In the decoder it reads the context beside what is below it."""

    config: Config
    precision: Precision

    def setup(self):
        self.lstm = Recurrent(Cell.LSTM, self.config.width, self.precision)
        self.drop = Dropout(self.config.dropout)

    def __call__(self, x: Array, context: Array | None, starts: Array, *, train: bool) -> Array:
        """What stands above `x` [B, T, .], without the residual connection: [B, T, D]."""
        return self.lstm(self.drop(_beside(x, context), train=train), starts).h

    def step(self, x: Array, context: Array, state: State) -> State:
        return self.lstm.step(_beside(x, context), state)


class Upper(nn.Module):
    """The layers from the second on: it has no residual connection, and those above it are a stack."""

    config: Config
    depth: int
    """Layers of the stack."""
    precision: Precision

    def setup(self):
        self.second = Layer(self.config, self.precision)
        if self.depth:
            self.layers = Layer(self.config, self.precision)

    def __call__(self, x: Array, context: Array | None, starts: Array, *, train: bool) -> Array:
        x = self.second(x, context, starts, train=train)
        if not self.depth:
            return x

        def residual(layer: Layer, x: Array, _: None) -> tuple[Array, None]:
            return x + layer(x, context, starts, train=train), None

        def whole(variables: dict) -> dict:
            return {"params": gathered(self.layers.path, variables["params"])}

        kind = self.config.remat
        body = nn.map_variables(residual, "params", whole, init=self.is_initializing())
        body = body if kind == "none" else nn.remat(body, policy=REMAT[kind], prevent_cse=False)
        over = nn.scan(
            body, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True}, length=self.depth
        )
        return over(self.layers, x, None)[0]

    def step(self, x: Array, context: Array, states: tuple[State, ...]) -> tuple[Array, tuple[State, ...]]:
        """One step from `x` [B, K, D] and the context. States: the second layer's and, if there is one, the stack's."""
        second = self.second.step(x, context, states[0])
        if not self.depth:
            return second.h, (second,)

        def residual(layer: Layer, x: Array, state: State) -> tuple[Array, State]:
            state = layer.step(x, context, state)
            return x + state.h, state

        over = nn.scan(residual, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=2, out_axes=2)
        x, stack = over(self.layers, second.h, states[1])
        return x, (second, stack)


class Source(NamedTuple):
    """What attention reads: keys and values of the encoder's states, [B, S, D]."""

    keys: Array
    values: Array


class BottomState(NamedTuple):
    """Every leaf leads with [B, K]: the bottom layer's state, the context that it asked for last, [B, K, D], and, where
    attention reads it, what each position of the source got of attention so far, [B, K, S] float32."""

    lstm: State
    context: Array
    coverage: Array | None = None


class Asked(NamedTuple):
    """What the bottom layer gives to the others at each position [B, T]."""

    h: Array
    context: Array
    attention: Array
    """[B, T, S]"""


class Bottom(nn.Module):
    """The decoder's bottom layer and its attention."""

    config: Config
    precision: Precision

    def setup(self):
        D = self.config.width
        self.input = Dense(4 * D, self.precision)
        self.feed = Kernel((D, 4 * D))
        self.recurrent = Kernel((D, 4 * D), nn.initializers.orthogonal())
        self.keys = Dense(D, self.precision)
        self.query = Kernel((D, D))
        self.v = self.param("v", nn.initializers.normal(D**-0.5), (D,), jnp.float32)
        self.coverage = None
        if self.config.coverage_weight:
            self.coverage = self.param("coverage", nn.initializers.zeros, (D,), jnp.float32)

    def source(self, encoded: Array) -> Source:
        return Source(self.keys(encoded), encoded)

    def zero(self, batch: int, width: int, source_length: int) -> BottomState:
        shape, dtype = (batch, width, self.config.width), self.precision.activations
        coverage = None if self.coverage is None else jnp.zeros((batch, width, source_length), jnp.float32)
        return BottomState(zero_state(Cell.LSTM, shape, dtype), jnp.zeros(shape, dtype), coverage)

    def _kernels(self) -> dict[str, Array]:
        return {name: getattr(self, name)() for name in ("feed", "recurrent", "query")}

    def __call__(self, x: Array, source: Source, mask: Array, starts: Array) -> Asked:
        """What is asked after the embeddings `x` [B, T, D] under `mask` [B, T, S]."""
        xs = jax.tree.map(lambda a: a.swapaxes(0, 1)[:, :, None], (self.input(x), mask))
        _, ys = scan_products(
            _scan_bottom, self._kernels(), (source, self._vectors), self.zero(x.shape[0], 1, mask.shape[2]),
            (*xs, starts.T), precision=self.precision,
        )  # fmt: skip
        asked = Asked(*(y[:, :, 0].swapaxes(0, 1) for y in ys))
        self._show(asked.attention)
        return asked

    @property
    def _vectors(self) -> tuple[Array, Array | None]:
        return self.v, self.coverage

    def _show(self, attention: Array) -> None:
        if self.is_mutable_collection("attention"):
            self.sow("attention", "weights", attention)

    def step(self, x: Array, source: Source, mask: Array, state: BottomState) -> tuple[BottomState, Array]:
        """One step from `x` [B, K, D] under `mask` [B, K, S]; also the attention [B, K, S]."""
        kernels = self._kernels()
        product = lambda name, x: project(x, kernels[name], self.precision)  # noqa: E731
        state, attention = _step_bottom(product, source, self._vectors, state, self.input(x), mask)
        self._show(attention)
        return state, attention


class GNMT(nn.Module):
    """See `api.Stepwise`. The memory holds projected keys, values and the mask."""

    config: Config
    reads: Port
    writes: Tokens
    precision: Precision

    def setup(self):
        c, D = self.config, self.config.width
        self.target_embedding = Embedding(self.writes.size, D)
        tied = self.target_embedding if c.tied == "all" else None
        self.source_embedding = source_embedding(self.reads, D, self.precision, tied=tied)
        if c.tied == "none":
            self.projection = Kernel((D, self.writes.size))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.writes.size,), jnp.float32)
        self.encoder_forward = Recurrent(Cell.LSTM, D, self.precision)
        self.encoder_backward = Recurrent(Cell.LSTM, D, self.precision)
        self.encoder_upper = Upper(c, c.encoder_layers - 2, self.precision)
        self.decoder_bottom = Bottom(c, self.precision)
        self.decoder_upper = Upper(c, c.decoder_layers - 2, self.precision)
        if c.copy:
            self.copy_gate = CopyGate(self.precision)
        self.drop = Dropout(c.dropout)

    def _embed(self, tokens: Array, *, train: bool) -> Array:
        x = self.target_embedding(tokens, self.precision.activations)
        return self.drop(x * self.config.width**0.5, train=train)

    def _encode(self, batch: Batch, *, train: bool) -> Array:
        x = self.drop(embed_source(self.source_embedding, batch, self.precision.activations), train=train)
        segments = batch["input_segments"]
        starts = segment_starts(segments)
        forward = self.encoder_forward(x, starts)
        backward = self.encoder_backward(x, segment_starts(segments, reverse=True), reverse=True)
        return self.encoder_upper(_beside(forward.h, backward.h), None, starts, train=train)

    def __call__(self, batch: Batch, *, train: bool) -> Output:
        source = self.decoder_bottom.source(self._encode(batch, train=train))
        mask = segment_mask(batch["target_segments"], batch["input_segments"])
        starts = segment_starts(batch["target_segments"])
        words = self._embed(batch["decoder_inputs"], train=train)
        h, context, attention = self.decoder_bottom(words, source, mask, starts)
        features = self.decoder_upper(h, context, starts, train=train)
        weight = self.config.coverage_weight
        aux = weight * coverage_loss(attention, batch["weights"]) if weight else None
        copying = self.copy_gate((features, context, words), attention, batch["inputs"]) if self.config.copy else None
        return Output(features, self._kernel(), self.output_bias, aux, copying)

    def _kernel(self) -> Array:
        return self.projection() if self.config.tied == "none" else self.target_embedding.projection_kernel()

    def encode(self, batch: Batch):
        source = self.decoder_bottom.source(self._encode(batch, train=False))
        memory = {"source": source, "mask": batch["input_segments"] > 0}
        return {**memory, "tokens": batch["inputs"]} if self.config.copy else memory

    def init_cache(self, memory, *, width: int, max_len: int):
        del max_len  # the state has one size, however long the output
        (B, S), c, dtype = memory["mask"].shape, self.config, self.precision.activations
        upper = [zero_state(Cell.LSTM, (B, width, c.width), dtype)]
        if depth := c.decoder_layers - 2:
            upper.append(zero_state(Cell.LSTM, (B, width, depth, c.width), dtype))
        return {"bottom": self.decoder_bottom.zero(B, width, S), "upper": tuple(upper)}

    def decode_step(self, tokens: Array, cache, memory):
        B, K = tokens.shape
        mask = jnp.broadcast_to(memory["mask"][:, None], (B, K, memory["mask"].shape[1]))
        words = self._embed(tokens, train=False)
        bottom, attention = self.decoder_bottom.step(words, memory["source"], mask, cache["bottom"])
        features, upper = self.decoder_upper.step(bottom.lstm.h, bottom.context, cache["upper"])
        logits = project(features, self._kernel(), self.precision).astype(jnp.float32) + self.output_bias
        if self.config.copy:
            logits = mix(logits, self.copy_gate((features, bottom.context, words), attention, memory["tokens"]))
        return logits, {"bottom": bottom, "upper": upper}


def _beside(x: Array, y: Array | None) -> Array:
    return x if y is None else jnp.concatenate([x, y], axis=-1)


def _scan_bottom(product: Product, constants: tuple[Source, tuple[Array, Array | None]], state: BottomState, x):
    (source, vectors), (gates, mask, start) = constants, x
    state = restart(start, jax.tree.map(jnp.zeros_like, state), state)
    state, attention = _step_bottom(product, source, vectors, state, gates, mask)
    return state, (state.lstm.h, state.context, attention)


def _step_bottom(
    product: Product, source: Source, vectors: tuple[Array, Array | None], state: BottomState, gates: Array, mask: Array
) -> tuple[BottomState, Array]:
    """One step from the projected embedding `gates` [B, K, 4D]; also the attention [B, K, S].

    Args:
        vectors: of additive attention: `v`, and that of the coverage if attention reads it.
    """
    gates = gates + product("feed", state.context)
    lstm = advance(Cell.LSTM, gates, product("recurrent", state.lstm.h), state.lstm)
    v, of_coverage = vectors
    covered = None if of_coverage is None or state.coverage is None else (state.coverage, of_coverage)
    attention = masked_softmax(additive_scores(product("query", lstm.h), source.keys, v, covered), mask)
    coverage = None if state.coverage is None else state.coverage + attention
    return BottomState(lstm, weighted_sum(attention, source.values), coverage), attention
