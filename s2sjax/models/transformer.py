"""The Transformer encoder-decoder (Vaswani et al. 2017, arXiv:1706.03762), and what came of it by other choices.

Each is a few values of `Config`, all others as they are:

    original    norm="post"
    T5 v1.1     norm_kind="rms", positions="relative", mlp="gated_gelu", biases=False, scale_attention=False,
                tied="none" (Raffel et al. 2020, arXiv:1910.10683; Shazeer 2020, arXiv:2002.05202)
    BART        norm="post", positions="learned", mlp="gelu", scale_embeddings=False (Lewis et al. 2020,
                arXiv:1910.13461, without its normalisation of embeddings)
    Marian      norm="post", mlp="swish" (Junczys-Dowmunt et al. 2018, arXiv:1804.00344)
    modern      norm_kind="rms", positions="rotary", mlp="swiglu", kv_heads=2, qk_norm=True, biases=False
    long inputs encoder_window=128, encoder_global_tokens=1: see `ops.local_attention`
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from s2sjax.api import Batch, Copying, Output, Rules, Traits
from s2sjax.config import check_at_least, one_of
from s2sjax.nn.copying import CopyGate, gate_rules
from s2sjax.nn.encoder import EncoderConfig, encoder_mask
from s2sjax.nn.layers import Embedding, Kernel
from s2sjax.nn.source import SOURCE_RULES, embed_source, source_embedding
from s2sjax.nn.totals import total
from s2sjax.nn.transformer import Source, Stack, StackOutput, block_rules
from s2sjax.ops.attention import segment_mask
from s2sjax.ops.copying import coverage_loss, mix
from s2sjax.ops.linear import Precision, project
from s2sjax.ports import TIED, Port, Tokens, Vectors, check_copying, check_tied

TRAITS = Traits(reads=(Tokens, Vectors), splits_time=True, gathers_layers=True)


@dataclass(frozen=True)
class Config(EncoderConfig):
    """The `model` section of the family transformer.

    Attributes:
      encoder_layers: Blocks of the encoder.
      decoder_layers: Blocks of the decoder.
      tied: Which embeddings share one table: "all" (source, target, output; needs a joint vocabulary), "decoder"
        (target and output) or "none".
      copy: Mix what is generated with copies from the source, as a pointer-generator network does (See et al. 2017,
        arXiv:1704.04368): the output may be any word of its source, also one that training never wrote. Needs a joint
        vocabulary, in which a word that is unknown stays unknown. The last decoder block chooses what is copied, by the
        mean of its heads' attention to the source; its output and the last word choose between the two, as in
        fairseq's transformer_pointer_generator.
      coverage_weight: Weight of the coverage loss (See et al., equation 12) on that attention: of a word's attention,
        what goes where that of the words before it has been. 0: none. No attention sees the coverage here. Unlike
        `decode.coverage`, a penalty of the search, it belongs to training.
    """

    encoder_layers: int = 4
    decoder_layers: int = 4
    tied: str = one_of(TIED, "all")
    copy: bool = False
    coverage_weight: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "encoder_layers", "decoder_layers")
        check_at_least(0, self, "coverage_weight")

    @property
    def points(self) -> bool:
        """Whether the attention of the last decoder block is more than a means to its context."""
        return self.copy or self.coverage_weight > 0


def sharding_rules(config: Config) -> Rules:
    projection = ((r"projection/kernel$", (None, "tensor")),) if config.tied == "none" else ()
    return (*SOURCE_RULES, *projection, *gate_rules(config.copy), *block_rules(config))


def build(config: Config, reads: Port, writes: Tokens, *, precision: Precision) -> "Transformer":
    """Make the module.

    Raises:
        UserError: if `tied` is "all", or `copy` is set, and the vocabularies differ in size or vectors are read.
    """
    check_tied(config.tied, reads, writes)
    check_copying(config.copy, reads, writes)
    return Transformer(config, reads, writes, precision)


class Transformer(nn.Module):
    """See `api.Stepwise`. The memory holds each decoder block's cross-attention keys and values: once a sentence."""

    config: Config
    reads: Port
    writes: Tokens
    precision: Precision

    def setup(self):
        c = self.config
        self.target_embedding = Embedding(self.writes.size, c.width)
        tied = self.target_embedding if c.tied == "all" else None
        self.source_embedding = source_embedding(self.reads, c.width, self.precision, use_bias=c.biases, tied=tied)
        if c.tied == "none":
            self.projection = Kernel((c.width, self.writes.size), nn.initializers.normal(c.width**-0.5))
        self.encoder = Stack(c, c.encoder_layers, self.precision, bidirectional=True)
        self.decoder = Stack(c, c.decoder_layers, self.precision, cross=True, points=c.points)
        if c.copy:
            self.copy_gate = CopyGate(self.precision)

    def _embed(self, tokens: Array) -> Array:
        x = self.target_embedding(tokens, self.precision.activations)
        return x * self.config.width**0.5 if self.config.scale_embeddings else x

    def _kernel(self) -> Array:
        return self.projection() if self.config.tied == "none" else self.target_embedding.projection_kernel()

    def _encode(self, batch: Batch, *, train: bool) -> StackOutput:
        c = self.config
        x = embed_source(self.source_embedding, batch, self.precision.activations, scaled=c.scale_embeddings)
        mask = encoder_mask(c, batch)
        return self.encoder(x, batch["input_positions"], batch["input_segments"] > 0, mask, train=train)

    def __call__(self, batch: Batch, *, train: bool) -> Output:
        source, source_balance, _ = self._encode(batch, train=train)
        segments = batch["target_segments"]
        mask = segment_mask(segments, segments, causal=True)
        seen = Source(source, segment_mask(segments, batch["input_segments"]))
        words = self._embed(batch["decoder_inputs"])
        x, balance, pointing = self.decoder(words, batch["target_positions"], segments > 0, mask, seen, train=train)
        aux = None
        if self.config.experts:
            tokens = total(self, "tokens", jnp.sum(batch["weights"]))
            aux = self.config.balance * (source_balance + balance) * tokens
        if self.config.coverage_weight:
            assert pointing is not None
            coverage = self.config.coverage_weight * coverage_loss(pointing, batch["weights"])
            aux = coverage if aux is None else aux + coverage
        copying = self._copying(x, words, pointing, batch["inputs"]) if self.config.copy else None
        return Output(x, self._kernel(), None, aux, copying)

    def _copying(self, x: Array, words: Array, pointing: Array | None, tokens: Array) -> Copying:
        """What is copied of a source's `tokens`, given the decoder's output and the last words, both [B, T, D]."""
        assert pointing is not None
        return self.copy_gate((x, words), pointing, tokens)

    def encode(self, batch: Batch):
        memory = self.decoder.source_memory(self._encode(batch, train=False).x, batch["input_segments"] > 0)
        return {**memory, "tokens": batch["inputs"]} if self.config.copy else memory

    def init_cache(self, memory, *, width: int, max_len: int):
        return self.decoder.init_cache(memory, width=width, max_len=max_len)

    def decode_step(self, tokens: Array, cache, memory):
        words = self._embed(tokens)
        x, cache, pointing = self.decoder.step(words, cache, memory)
        logits = project(x, self._kernel(), self.precision).astype(jnp.float32)
        if self.config.copy:
            logits = mix(logits, self._copying(x, words, pointing, memory["tokens"]))
        return logits, cache
