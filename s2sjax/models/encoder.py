"""The Transformer encoder, which labels what it reads: BERT's (Devlin et al. 2019, arXiv:1810.04805, section 3).

A text is classified by what is encoded at its first token, and tagged by what is encoded at each (`ops.in_place`).
Each is a few values of `Config`, all others as they are:

    BERT          norm="post", positions="learned", mlp="gelu", scale_embeddings=False (without its normalisation of
                  embeddings, its segment embeddings and the layer of its own that reads the first token)
    RoFormer      BERT's with positions="rotary" (Su et al. 2021, arXiv:2104.09864)
    ModernBERT    positions="rotary", mlp="gated_gelu", biases=False, scale_embeddings=False (Warner et al. 2024,
                  arXiv:2412.13663, all of whose layers see as far here)
    long inputs   encoder_window=128, encoder_global_tokens=1: see `ops.local_attention`
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp

from s2sjax.api import Batch, Output, Rules, Traits
from s2sjax.config import check_at_least
from s2sjax.nn.encoder import EncoderConfig, encoder_mask
from s2sjax.nn.layers import Kernel
from s2sjax.nn.source import SOURCE_RULES, embed_source, source_embedding
from s2sjax.nn.totals import total
from s2sjax.nn.transformer import Stack, block_rules
from s2sjax.ops.in_place import read_in_place
from s2sjax.ops.linear import Precision
from s2sjax.ports import Port, Tokens, Vectors

TRAITS = Traits(reads=(Tokens, Vectors), splits_time=True, gathers_layers=True, writes_in_place=True)


@dataclass(frozen=True)
class Config(EncoderConfig):
    """The `model` section of the family encoder.

    Attributes:
      layers: Transformer blocks.
    """

    layers: int = 4

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "layers")


def sharding_rules(config: Config) -> Rules:
    return (*SOURCE_RULES, (r"projection/kernel$", (None, "tensor")), *block_rules(config))


def build(config: Config, reads: Port, writes: Tokens, *, precision: Precision) -> "Encoder":
    """Make the module."""
    return Encoder(config, reads, writes, precision)


class Encoder(nn.Module):
    """See `api.Model`."""

    config: Config
    reads: Port
    writes: Tokens
    precision: Precision

    def setup(self):
        c = self.config
        self.source_embedding = source_embedding(self.reads, c.width, self.precision, use_bias=c.biases)
        self.encoder = Stack(c, c.layers, self.precision, bidirectional=True)
        self.projection = Kernel((c.width, self.writes.size), nn.initializers.normal(c.width**-0.5))
        if c.biases:
            self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.writes.size,), jnp.float32)

    def __call__(self, batch: Batch, *, train: bool) -> Output:
        c, positions, filled = self.config, batch["input_positions"], batch["input_segments"] > 0
        x = embed_source(self.source_embedding, batch, self.precision.activations, scaled=c.scale_embeddings)
        x, balance, _ = self.encoder(x, positions, filled, encoder_mask(c, batch), train=train)
        aux = c.balance * balance * total(self, "tokens", jnp.sum(batch["weights"])) if c.experts else None
        return Output(read_in_place(x, batch), self.projection(), self.output_bias if c.biases else None, aux)
