"""The LSTM language model, with the regularisers of AWD-LSTM (Merity et al. 2018, arXiv:1708.02182), off by default.

A sequence is a segment's inputs (the prompt) and then its decoder inputs, read as one. What reading a prompt leaves
behind are the states of the layers. Variational dropout (Gal and Ghahramani 2016, arXiv:1512.05287) draws one mask for
all steps of a row; the segments of a packed row share it.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from s2sjax.api import Batch, Output, Rules, Traits
from s2sjax.config import check_at_least, check_rate
from s2sjax.errors import UserError
from s2sjax.nn.layers import Dropout, Embedding, Kernel
from s2sjax.nn.recurrent import Recurrent
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.prompt import join
from s2sjax.ops.recurrent import Cell, State, final_states, segment_starts
from s2sjax.ports import Tokens, check_prompts

TRAITS = Traits(language_model=True)


@dataclass(frozen=True)
class Config:
    """The `model` section of the family lstm_lm.

    Attributes:
      layers: LSTM layers.
      width: Width of every layer; with `tied`, the top one is as wide as the embedding.
      embedding_width: Width of the embedding.
      tied: The output projection is the embedding (Press and Wolf 2017, arXiv:1608.05859).
      word_dropout: Share of the vocabulary whose words are zero wherever they are read in the batch.
      input_dropout: Rate of variational dropout on embeddings.
      dropout: Rate of variational dropout between layers.
      output_dropout: Rate of variational dropout on the top layer's output.
      weight_dropout: Dropout rate of the weights from one step's state to the next, one mask a batch.
      activation_penalty: Activation regularisation (AR): weight of the mean square of the top layer's output after
        dropout, nats a token.
      change_penalty: Temporal activation regularisation (TAR): weight of the mean square of that output's change since
        the step before, before dropout, nats a token.
    """

    layers: int = 2
    width: int = 256
    embedding_width: int = 256
    tied: bool = True
    word_dropout: float = 0.0
    input_dropout: float = 0.0
    dropout: float = 0.0
    output_dropout: float = 0.0
    weight_dropout: float = 0.0
    activation_penalty: float = 0.0
    change_penalty: float = 0.0

    def __post_init__(self):
        check_at_least(1, self, "layers", "width", "embedding_width")
        check_rate(self, "word_dropout", "input_dropout", "dropout", "output_dropout", "weight_dropout")
        for name in ("activation_penalty", "change_penalty"):
            if not getattr(self, name) >= 0:
                raise UserError(f"config.model.{name} is {getattr(self, name)}, but must not be negative")
        if self.dropout and self.layers == 1:
            raise UserError(
                "config.model.dropout is between layers, and there is one; set config.model.dropout=0 and use "
                "config.model.input_dropout or output_dropout"
            )


def sharding_rules(config: Config) -> Rules:
    return (
        (r"table$", ("tensor", None)),
        (r"kernel$", (None, "tensor")),
        (r"bias$", (None,)),
    )


def build(config: Config, reads: Tokens | None, writes: Tokens, *, precision: Precision) -> "LSTMLM":
    """Make the module.

    Raises:
        UserError: if source and target do not share a vocabulary.
    """
    check_prompts(reads, writes)
    return LSTMLM(config, writes.size, precision)


class LSTMLM(nn.Module):
    """See `api.Stepwise`. The memory holds each layer's state at the end of the prompt; the cache, the latest."""

    config: Config
    vocab_size: int
    precision: Precision

    def setup(self):
        c = self.config
        top = c.embedding_width if c.tied else c.width
        self.embedding = Embedding(self.vocab_size, c.embedding_width)
        self.stack = [
            Recurrent(Cell.LSTM, width, self.precision, weight_dropout=c.weight_dropout)
            for width in (*(c.width,) * (c.layers - 1), top)
        ]
        if not c.tied:
            self.projection = Kernel((top, self.vocab_size))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.vocab_size,), jnp.float32)
        self.drop_words, self.drop_input = Dropout(c.word_dropout), Dropout(c.input_dropout)
        self.drop_between, self.drop_output = Dropout(c.dropout), Dropout(c.output_dropout)

    def _embed(self, tokens: Array, *, train: bool) -> Array:
        x = self.embedding(tokens, self.precision.activations) * self.config.embedding_width**0.5
        kept = self.drop_words(jnp.ones((self.vocab_size, 1), x.dtype), train=train, rows=None)
        return _locked(self.drop_input, x * jnp.take(kept, tokens, axis=0), train=train)

    def _read(self, tokens: Array, starts: Array, *, train: bool) -> list[State]:
        """The states of every layer after every token: leaves [B, L, .]."""
        x, states = self._embed(tokens, train=train), []
        for i, layer in enumerate(self.stack):
            x = _locked(self.drop_between, x, train=train) if i else x
            states.append(layer(x, starts, train=train))
            x = states[-1].h
        return states

    def __call__(self, batch: Batch, *, train: bool) -> Output:
        joined = join(batch["inputs"], batch["input_segments"], batch["decoder_inputs"], batch["target_segments"])
        h = self._read(joined.tokens, joined.starts, train=train)[-1].h
        features = joined.gather_answers(_locked(self.drop_output, h, train=train))
        aux = None
        if train and (self.config.activation_penalty or self.config.change_penalty):
            change = joined.gather_answers(_mean_square_change(h, joined.starts))
            activation = jnp.mean(features.astype(jnp.float32) ** 2, axis=-1)
            penalty = self.config.activation_penalty * activation + self.config.change_penalty * change
            aux = jnp.sum(penalty * batch["weights"])
        return Output(features, self._kernel(), self.output_bias, aux)

    def _kernel(self) -> Array:
        return self.embedding.projection_kernel() if self.config.tied else self.projection()

    def encode(self, batch: Batch):
        segments = batch["input_segments"]
        states = self._read(batch["inputs"], segment_starts(segments), train=False)
        one = jnp.ones((segments.shape[0], 1), segments.dtype)
        return {"states": tuple(final_states(state, segments, one) for state in states)}

    def init_cache(self, memory, *, width: int, max_len: int) -> tuple[State, ...]:
        del max_len  # the state has one size, however long the output
        return jax.tree.map(lambda x: jnp.repeat(x, width, axis=1), memory["states"])

    def decode_step(self, tokens: Array, cache: tuple[State, ...], memory):
        del memory  # what the prompt left behind began the cache
        x, states = self._embed(tokens, train=False), []
        for layer, state in zip(self.stack, cache, strict=True):
            states.append(layer.step(x, state))
            x = states[-1].h
        logits = project(x, self._kernel(), self.precision).astype(jnp.float32) + self.output_bias
        return logits, tuple(states)


def _locked(drop: Dropout, x: Array, *, train: bool) -> Array:
    """Dropout of `x` [B, L, D] by one mask [B, 1, D]."""
    return x * drop(jnp.ones_like(x[:, :1]), train=train) if train else x


def _mean_square_change(h: Array, starts: Array) -> Array:
    """The mean over D of (h_t - h_{t-1})^2, [B, L, D] -> [B, L] float32; zero where a segment begins."""
    h = h.astype(jnp.float32)
    change = h - jnp.pad(h, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return jnp.where(starts, 0.0, jnp.mean(change**2, axis=-1))
