"""Bidirectional recurrent layers that label what they read (Graves and Schmidhuber 2005, "Framewise phoneme
classification with bidirectional LSTM and other neural network architectures"; for tagging, Huang et al. 2015,
arXiv:1508.01991, without a CRF).

Each layer reads the text in both directions, and the next one reads the states of both. A text is classified by the
states at its first token, of which one direction has read all of it, and tagged by the states at each (`ops.in_place`).
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp

from s2sjax.api import Batch, Output, Rules, Traits
from s2sjax.config import check_at_least, check_choices, check_rate, one_of
from s2sjax.errors import UserError
from s2sjax.nn.layers import Dropout, Kernel
from s2sjax.nn.recurrent import Recurrent
from s2sjax.nn.source import SOURCE_RULES, embed_source, source_embedding
from s2sjax.ops.in_place import read_in_place
from s2sjax.ops.linear import Precision
from s2sjax.ops.recurrent import Cell, segment_starts
from s2sjax.ports import Port, Tokens, Vectors

TRAITS = Traits(reads=(Tokens, Vectors), writes_in_place=True)


@dataclass(frozen=True)
class Config:
    """The `model` section of the family rnn_encoder.

    Attributes:
      cell: The recurrent cell, "rnn" being one of tanh: `ops.recurrent.advance` says what each computes.
      layers: Layers, each of two directions.
      width: Width of the embedding and of every layer; its two directions have half of it each.
      residual: Add to the output of each layer above the bottom that of the layer below.
      dropout: Dropout rate on embeddings, between layers and on the top states.
    """

    cell: str = one_of(Cell, "lstm")
    layers: int = 1
    width: int = 256
    residual: bool = False
    dropout: float = 0.3

    def __post_init__(self):
        check_choices(self, "config.model")
        check_at_least(1, self, "layers", "width")
        if self.width % 2:
            raise UserError(f"config.model.width is {self.width}, but two directions share it; make it even")
        check_rate(self, "dropout")


def sharding_rules(config: Config) -> Rules:
    return (*SOURCE_RULES, (r"kernel$", (None, "tensor")), (r"bias$", (None,)))


def build(config: Config, reads: Port, writes: Tokens, *, precision: Precision) -> "RNNEncoder":
    """Make the module."""
    return RNNEncoder(config, reads, writes, precision)


class RNNEncoder(nn.Module):
    """See `api.Model`."""

    config: Config
    reads: Port
    writes: Tokens
    precision: Precision

    def setup(self):
        c, D = self.config, self.config.width
        self.source_embedding = source_embedding(self.reads, D, self.precision)
        self.forward, self.backward = (
            [Recurrent(Cell(c.cell), D // 2, self.precision) for _ in range(c.layers)] for _ in range(2)
        )
        self.projection = Kernel((D, self.writes.size))
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.writes.size,), jnp.float32)
        self.drop = Dropout(c.dropout)

    def __call__(self, batch: Batch, *, train: bool) -> Output:
        c, segments = self.config, batch["input_segments"]
        starts, ends = segment_starts(segments), segment_starts(segments, reverse=True)
        x = self.drop(embed_source(self.source_embedding, batch, self.precision.activations), train=train)
        for i, (forward, backward) in enumerate(zip(self.forward, self.backward, strict=True)):
            read = self.drop(x, train=train) if i else x
            states = forward(read, starts).h, backward(read, ends, reverse=True).h
            y = jnp.concatenate(states, axis=-1).astype(x.dtype)
            x = x + y if i and c.residual else y
        features = read_in_place(self.drop(x, train=train), batch)
        return Output(features, self.projection(), self.output_bias)
