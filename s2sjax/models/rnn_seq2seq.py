"""Recurrent encoder-decoders, with a fixed context (Sutskever et al. 2014, arXiv:1409.3215) or with attention
(Bahdanau et al. 2015, arXiv:1409.0473; Luong et al. 2015, arXiv:1508.04025).

With attention, the decoder's top state asks the encoder for a context at each step; state and context make the
attentional vector, which predicts the next word and, with input feeding (Luong et al., section 3.3), enters the decoder
again at the next step. The decoder starts from the mean of the encoder's states (Sennrich et al. 2017,
arXiv:1703.04357, section 3). Without attention each decoder layer starts from the state in which the encoder's layer
ended, which is all that it learns of the source, and its top state predicts. Packed rows have one start per segment.

With input feeding a step needs all of the step before, and layers and attention stand inside one loop over time.
Without, each layer is a loop of its own over inputs projected at once, and attention is computed for all steps at once.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from s2sjax.api import Batch, Copying, Output, Rules, Traits
from s2sjax.config import check_at_least, check_choices, check_rate, one_of
from s2sjax.errors import UserError
from s2sjax.nn.copying import CopyGate, gate_rules
from s2sjax.nn.layers import Dense, Dropout, Embedding, Kernel
from s2sjax.nn.recurrent import Recurrent
from s2sjax.nn.source import SOURCE_RULES, embed_source, source_embedding
from s2sjax.ops.attention import segment_mask
from s2sjax.ops.copying import coverage_loss, mix
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.recurrent import Cell, Product, State, final_states, recur, scan_products, segment_starts
from s2sjax.ops.recurrent_decoder import Attended, Constants, DecoderState, RecurrentDecoder, Source, StepInputs
from s2sjax.ports import TIED, Port, Tokens, Vectors, check_copying, check_tied

TRAITS = Traits(reads=(Tokens, Vectors))


@dataclass(frozen=True)
class Config:
    """The `model` section of the family rnn_seq2seq.

    Attributes:
      cell: The recurrent cell, "rnn" being one of tanh: `ops.recurrent.advance` says what each computes.
      encoder_layers: Layers of the encoder.
      decoder_layers: Layers of the decoder.
      width: Width of every layer; the two directions of a bidirectional one have half of it each.
      bidirectional: Read the source in both directions in the bottom encoder layer.
      reverse_source: Read each source from its end to its beginning, so that its first words are the last read
        (Sutskever et al. 2014, section 3.3). Loops run from the right; tokens, positions and attention stay where they
        are.
      residual: Add to the output of each layer above the bottom that of the layer below.
      attention: How the decoder reads the source: "none"; "additive" (Bahdanau et al.); "dot", "general" or "local"
        (Luong et al., equation 8, and local-p, which scores as general does).
      window: For local attention: positions on each side of the predicted one.
      input_feeding: Feed the attentional vector of the step before to the decoder (Luong et al., section 3.3).
      tied: "decoder": target embedding and output projection share one table; "all": the source too; or "none".
      dropout: Dropout rate on embeddings, between layers and on the attentional vector (without attention, on the top
        state).
      copy: Mix what is generated with copies from the source, a pointer-generator network (See et al. 2017,
        arXiv:1704.04368): the output may be any word of its source, also one that training never wrote. Attention
        chooses what is copied; context, top state and the last word choose between the two. Needs a joint vocabulary,
        in which a word that is unknown stays unknown.
      coverage_weight: Weight of the coverage loss (See et al., section 2.3): of a word's attention, what goes where
        that of the words before it has been. Above 0, additive attention also reads the coverage, which is the sum of
        the attention so far. 0: neither. Unlike `decode.coverage`, a penalty of the search, it belongs to training.
    """

    cell: str = one_of(Cell, "lstm")
    encoder_layers: int = 1
    decoder_layers: int = 1
    width: int = 256
    bidirectional: bool = True
    reverse_source: bool = False
    residual: bool = False
    attention: str = one_of(("none", "additive", "dot", "general", "local"), "additive")
    window: int = 10
    input_feeding: bool = True
    tied: str = one_of(TIED, "decoder")
    dropout: float = 0.3
    copy: bool = False
    coverage_weight: float = 0.0

    def __post_init__(self):
        check_choices(self, "config.model")
        check_at_least(1, self, "encoder_layers", "decoder_layers", "width", "window")
        if self.bidirectional and self.width % 2:
            raise UserError(
                f"config.model.width is {self.width}, but two directions share it; make it even or set "
                "config.model.bidirectional=False"
            )
        if self.bidirectional and self.reverse_source:
            raise UserError(
                "config.model.reverse_source is for an encoder that reads in one direction; set "
                "config.model.bidirectional=False"
            )
        if self.attention == "none" and self.input_feeding:
            raise UserError(
                "config.model.input_feeding feeds the attentional vector, and config.model.attention is 'none'; set "
                "config.model.input_feeding=False"
            )
        if self.attention == "none" and self.encoder_layers != self.decoder_layers:
            raise UserError(
                f"config.model.encoder_layers is {self.encoder_layers} and decoder_layers {self.decoder_layers}, but "
                "without attention each decoder layer starts from an encoder layer's state; make them equal"
            )
        check_rate(self, "dropout")
        check_at_least(0, self, "coverage_weight")
        if self.copy and self.attention == "none":
            raise UserError(
                "config.model.copy copies what attention chooses, and config.model.attention is 'none'; set "
                "config.model.attention=additive or config.model.copy=False"
            )
        if self.coverage_weight and not (self.attention == "additive" and self.input_feeding):
            raise UserError(
                f"config.model.coverage_weight is {self.coverage_weight}, but coverage is read by additive attention, "
                "step by step; set config.model.attention=additive and config.model.input_feeding=True, or "
                "config.model.coverage_weight=0"
            )


def sharding_rules(config: Config) -> Rules:
    return (
        *SOURCE_RULES,
        *gate_rules(config.copy),
        (r"kernel$", (None, "tensor")),
        (r"(bias\w*|v|coverage)$", (None,)),
    )


def build(config: Config, reads: Port, writes: Tokens, *, precision: Precision) -> "RNNSeq2Seq":
    """Make the module.

    Raises:
        UserError: if `tied` is "all", or `copy` is set, and the vocabularies differ in size or vectors are read.
    """
    check_tied(config.tied, reads, writes)
    check_copying(config.copy, reads, writes)
    return RNNSeq2Seq(config, reads, writes, precision)


class RNNSeq2Seq(nn.Module):
    """See `api.Stepwise`. The memory holds projected keys, values, mask and the decoder's first states."""

    config: Config
    reads: Port
    writes: Tokens
    precision: Precision

    def setup(self):
        c, D, cell = self.config, self.config.width, Cell(self.config.cell)
        self.target_embedding = Embedding(self.writes.size, D)
        tied = self.target_embedding if c.tied == "all" else None
        self.source_embedding = source_embedding(self.reads, D, self.precision, tied=tied)
        if c.tied == "none":
            self.projection = Kernel((D, self.writes.size))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.writes.size,), jnp.float32)
        self.encoder_forward = Recurrent(cell, D // 2 if c.bidirectional else D, self.precision)
        if c.bidirectional:
            self.encoder_backward = Recurrent(cell, D // 2, self.precision)
        self.encoder_above = [Recurrent(cell, D, self.precision) for _ in range(c.encoder_layers - 1)]
        if c.attention != "none":
            self.initial = [Dense(D, self.precision) for _ in range(c.decoder_layers)]
        self.input = Dense(cell.gates * D, self.precision)
        # For what stands below a layer (for the bottom one, what is fed) and, in the last D rows, for its own state.
        below = [D if c.input_feeding else 0] + [D] * (c.decoder_layers - 1)
        self.recurrent = [Kernel((n + D, cell.gates * D)) for n in below]
        self.recurrent_biases = [
            self.param(f"recurrent_bias_{i}", nn.initializers.zeros, (cell.gates * D,), jnp.float32)
            for i in range(1, len(below))
        ]
        if c.attention in ("additive", "general", "local"):
            self.keys = Dense(D, self.precision, use_bias=c.attention == "additive")
        if c.attention == "additive":
            self.query = Kernel((D, D))
            self.v = self.param("v", nn.initializers.normal(D**-0.5), (D,), jnp.float32)
        if c.coverage_weight:
            self.coverage = self.param("coverage", nn.initializers.zeros, (D,), jnp.float32)
        if c.attention == "local":
            self.place = Kernel((D, D))
            self.place_v = self.param("place_v", nn.initializers.normal(D**-0.5), (D,), jnp.float32)
        if c.attention != "none":
            self.combine = Kernel((2 * D, D))
        if c.copy:
            self.copy_gate = CopyGate(self.precision)
        self.drop = Dropout(c.dropout)

    # ---- Encoder ----

    def _encode(self, batch: Batch, wanted: Array, *, train: bool) -> tuple[Array, tuple[State, ...]]:
        """The encoder's states [B, S, D], and the decoder's first states [B, T, D] for the segments `wanted` [B, T]."""
        c, segments = self.config, batch["input_segments"]
        final: list[State] = []

        def read(x: Array, *layers: tuple[Recurrent, bool]) -> Array:
            """What layers beside each other, each with its direction, make of `x`."""
            made = [(layer(x, segment_starts(segments, reverse=r), reverse=r), r) for layer, r in layers]
            if c.attention == "none":
                final.append(_join(*(final_states(states, segments, wanted, reverse=r) for states, r in made)))
            return _join(*(states for states, _ in made)).h.astype(x.dtype)

        x = self.drop(embed_source(self.source_embedding, batch, self.precision.activations), train=train)
        bottom = [(self.encoder_forward, c.reverse_source)]
        x = read(x, *bottom, *([(self.encoder_backward, True)] if c.bidirectional else []))
        for layer in self.encoder_above:
            y = read(self.drop(x, train=train), (layer, c.reverse_source))
            x = x + y if c.residual else y
        return x, tuple(final) if c.attention == "none" else self._from_mean(x, segment_mask(wanted, segments))

    def _from_mean(self, encoded: Array, mask: Array) -> tuple[State, ...]:
        """First states [B, T, D] of each layer, from the mean of the encoder's states that `mask` [B, T, S] allows."""
        share = mask / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
        mean = jnp.einsum("bts,bsd->btd", share.astype(encoded.dtype), encoded)
        made = [layer(mean) for layer in self.initial]
        if self.config.cell == Cell.LSTM:
            return tuple(State(jnp.tanh(c), c.astype(jnp.float32)) for c in made)
        return tuple(State(jnp.tanh(h).astype(jnp.float32 if self.config.cell == Cell.GRU else h.dtype)) for h in made)

    # ---- Decoder ----

    @property
    def _decoder(self) -> RecurrentDecoder:
        c = self.config
        return RecurrentDecoder(Cell(c.cell), c.residual, c.attention, c.window, c.copy)

    def _embed(self, tokens: Array, *, train: bool) -> Array:
        """The last words, as the decoder and the gate of what is copied read them."""
        x = self.target_embedding(tokens, self.precision.activations)
        return self.drop(x * self.config.width**0.5, train=train)

    def _kernels(self) -> dict[str, Array]:
        c, D = self.config, self.config.width
        kernels = {f"state_{i}": kernel()[-D:] for i, kernel in enumerate(self.recurrent)}
        kernels |= {f"below_{i}": kernel()[:-D] for i, kernel in enumerate(self.recurrent) if i or c.input_feeding}
        names = {"none": (), "additive": ("query", "combine"), "local": ("place", "combine")}
        return kernels | {name: getattr(self, name)() for name in names.get(c.attention, ("combine",))}

    def _constants(self, source: Source | None) -> Constants:
        names = {"additive": ["v"], "local": ["place_v"]}.get(self.config.attention, [])
        names += ["coverage"] if self.config.coverage_weight else []
        return Constants(tuple(self.recurrent_biases), {name: getattr(self, name) for name in names}, source)

    def _source(self, encoded: Array, batch: Batch) -> Source | None:
        if self.config.attention == "none":
            return None
        keys = encoded if self.config.attention == "dot" else self.keys(encoded)
        return Source(keys, encoded, batch["input_positions"])

    def __call__(self, batch: Batch, *, train: bool) -> Output:
        c, segments = self.config, batch["target_segments"]
        encoded, first = self._encode(batch, segments, train=train)
        mask = segment_mask(segments, batch["input_segments"])
        words = self._embed(batch["decoder_inputs"], train=train)
        gates = self.input(words)
        constants = self._constants(self._source(encoded, batch))
        run = self._step_by_step if c.input_feeding else self._layer_by_layer
        made = run(constants, gates, mask, segment_starts(segments), first, train=train)
        self._show(made.weights)
        aux = None
        if c.coverage_weight:
            assert made.weights is not None
            aux = c.coverage_weight * coverage_loss(made.weights, batch["weights"])
        copying = self._copying(made, words, batch["inputs"]) if c.copy else None
        return Output(made.features, self._kernel(), self.output_bias, aux, copying)

    def _copying(self, made: Attended, words: Array, tokens: Array) -> Copying:
        """What is copied of a source's `tokens` [B, S] after the last `words` [B, T, D]."""
        assert made.weights is not None and made.seen is not None
        return self.copy_gate((made.seen, words), _as_distributions(made.weights), tokens)

    def _step_by_step(self, constants, gates, mask, starts, first, *, train: bool) -> Attended:
        """For all positions [B, T] with input feeding: a loop over whole steps."""
        B, T, _ = gates.shape
        ones = jnp.ones((T, B, 1, self.config.width), gates.dtype)
        drops = tuple(self.drop(ones, train=train, rows=1) for _ in range(self.config.decoder_layers))
        gates, mask, first = jax.tree.map(lambda x: x.swapaxes(0, 1)[:, :, None], (gates, mask, first))
        begin = DecoderState(first, jnp.zeros_like(ones))
        zero = jax.tree.map(lambda x: jnp.zeros_like(x[0]), begin)
        if self.config.coverage_weight:
            zero = zero._replace(coverage=jnp.zeros(mask.shape[1:], jnp.float32))
        _, made = scan_products(
            self._decoder.scan_step, self._kernels(), constants, zero,
            (gates, mask, starts.T, begin, drops), precision=self.precision,
        )  # fmt: skip
        return jax.tree.map(lambda x: x[:, :, 0].swapaxes(0, 1), made)

    def _layer_by_layer(self, constants, gates, mask, starts, first, *, train: bool) -> Attended:
        """The same without input feeding: a loop for each layer, and time where attention has hypotheses."""
        c, kernels = self.config, self._kernels()
        product = self._product(kernels)
        outputs: list[Array] = []
        for i, begin in enumerate(first):
            if i:
                x = self.drop(outputs[-1], train=train)
                gates = product(f"below_{i}", x) + constants.biases[i - 1].astype(gates.dtype)
            kernel = kernels[f"state_{i}"]
            h = recur(Cell(c.cell), gates, kernel, starts, precision=self.precision, first=begin).h.astype(gates.dtype)
            outputs.append(h + outputs[-1] if i and c.residual else h)
        made = self._decoder.attend(product, constants, outputs[-1], mask)
        return made._replace(features=self.drop(made.features, train=train))

    def _show(self, attention: Array | None) -> None:
        if attention is not None and self.is_mutable_collection("attention"):
            self.sow("attention", "weights", _as_distributions(attention))

    def _product(self, kernels: dict[str, Array]) -> Product:
        return lambda name, x: project(x, kernels[name], self.precision)

    def _kernel(self) -> Array:
        return self.projection() if self.config.tied == "none" else self.target_embedding.projection_kernel()

    # ---- Stepping ----

    def encode(self, batch: Batch):
        segments = batch["input_segments"]
        encoded, first = self._encode(batch, jnp.ones_like(segments[:, :1]), train=False)
        memory = {"source": self._source(encoded, batch), "mask": segments > 0, "first": first}
        return {**memory, "tokens": batch["inputs"]} if self.config.copy else memory

    def init_cache(self, memory, *, width: int, max_len: int) -> DecoderState:
        del max_len  # the state has one size, however long the output
        layers = jax.tree.map(lambda x: jnp.repeat(x, width, axis=1), memory["first"])
        feed = jnp.zeros(layers[0].h.shape, self.precision.activations) if self.config.input_feeding else None
        B, S = memory["mask"].shape
        return DecoderState(layers, feed, jnp.zeros((B, width, S)) if self.config.coverage_weight else None)

    def decode_step(self, tokens: Array, cache: DecoderState, memory):
        B, K = tokens.shape
        mask = jnp.broadcast_to(memory["mask"][:, None], (B, K, memory["mask"].shape[1]))
        words = self._embed(tokens, train=False)
        gates = self.input(words)
        ones = (jnp.ones((), gates.dtype),) * self.config.decoder_layers
        product, constants = self._product(self._kernels()), self._constants(memory["source"])
        state, made = self._decoder.step(product, constants, cache, StepInputs(gates, mask, ones))
        self._show(made.weights)
        logits = project(made.features, self._kernel(), self.precision).astype(jnp.float32) + self.output_bias
        if self.config.copy:
            logits = mix(logits, self._copying(made, words, memory["tokens"]))
        return logits, state


def _join(*states: State) -> State:
    """Layers beside each other as one, wider."""
    return states[0] if len(states) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x, axis=-1), *states)


def _as_distributions(attention: Array) -> Array:
    """Rows that sum to one: local weights sum to less."""
    total = jnp.sum(attention, axis=-1, keepdims=True)
    return attention / jnp.where(total > 0, total, 1)
