"""The Transformer encoder-decoder (Vaswani et al. 2017, arXiv:1706.03762)."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from s2sjax.api import Batch, Output, Rules
from s2sjax.config import choose
from s2sjax.errors import UserError
from s2sjax.nn.attention import KeyValue, MultiHeadAttention
from s2sjax.nn.layers import Dense, Dropout, Embedding, LayerNorm
from s2sjax.ops.attention import segment_mask
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.position import sinusoids


@dataclass(frozen=True)
class Config:
    encoder_layers: int = 4
    decoder_layers: int = 4
    width: int = 128
    hidden: int = 256
    heads: int = 4
    norm: str = "pre"
    """Where layer normalisation stands: "pre" (before each sub-layer, and at the end) or "post" (the original)."""
    tied: str = "all"
    """Which embeddings share one table: "all" (source, target, output; needs a joint vocabulary), "decoder" (target and
    output) or "none"."""
    dropout: float = 0.3
    """After embeddings and sub-layers."""
    hidden_dropout: float = 0.0
    """Inside the MLP, after its non-linearity."""

    def __post_init__(self):
        choose(self.norm, ("pre", "post"), "config.model.norm")
        choose(self.tied, ("all", "decoder", "none"), "config.model.tied")
        for name in ("encoder_layers", "decoder_layers", "width", "hidden", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"config.model.{name} is {getattr(self, name)}, but must be at least 1")
        for name in ("dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"config.model.{name} is {getattr(self, name)}, but must be in 0..1, below 1")
        if self.width % self.heads:
            raise UserError(f"config.model.width {self.width} is not divisible by config.model.heads {self.heads}")


def sharding_rules(config: Config) -> Rules:
    return (
        (r"table$", ("tensor", "fsdp")),
        (r"(query|key|value|up|projection)/kernel$", ("fsdp", "tensor")),
        (r"(output|down)/kernel$", ("tensor", "fsdp")),
        (r"(bias|scale)$", (None,)),
    )


def build(config: Config, source_vocab: int, target_vocab: int, *, precision: Precision) -> "Transformer":
    """Make the module.

    Raises:
        UserError: if `tied` is "all" and the vocabularies differ in size.
    """
    if config.tied == "all" and source_vocab != target_vocab:
        raise UserError(
            f"config.model.tied is 'all', but the vocabularies have {source_vocab} and {target_vocab} entries; "
            "set config.tokenizer.joint=True or config.model.tied=decoder"
        )
    return Transformer(config, source_vocab, target_vocab, precision)


class MLP(nn.Module):
    config: Config
    precision: Precision

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        h = nn.relu(Dense(self.config.hidden, self.precision, name="up")(x))
        h = Dropout(self.config.hidden_dropout)(h, train=train)
        return Dense(self.config.width, self.precision, name="down")(h)


class SubLayer(nn.Module):
    """The residual connection around a sub-layer, with normalisation before or after it."""

    config: Config

    def setup(self):
        self.norm = LayerNorm()
        self.drop = Dropout(self.config.dropout)

    def before(self, x: Array) -> Array:
        return self.norm(x) if self.config.norm == "pre" else x

    def after(self, x: Array, y: Array, *, train: bool) -> Array:
        x = x + self.drop(y, train=train)
        return x if self.config.norm == "pre" else self.norm(x)


class EncoderLayer(nn.Module):
    config: Config
    precision: Precision

    def setup(self):
        self.attention = MultiHeadAttention(self.config.heads, self.config.width, self.precision)
        self.mlp = MLP(self.config, self.precision)
        self.around_attention, self.around_mlp = SubLayer(self.config), SubLayer(self.config)

    def __call__(self, x: Array, mask: Array, *, train: bool) -> Array:
        y = self.attention(self.around_attention.before(x), mask)
        x = self.around_attention.after(x, y, train=train)
        y = self.mlp(self.around_mlp.before(x), train=train)
        return self.around_mlp.after(x, y, train=train)


class DecoderLayer(nn.Module):
    config: Config
    precision: Precision

    def setup(self):
        self.attention = MultiHeadAttention(self.config.heads, self.config.width, self.precision)
        self.cross_attention = MultiHeadAttention(
            self.config.heads, self.config.width, self.precision, sow_weights=True
        )
        self.mlp = MLP(self.config, self.precision)
        self.around_attention, self.around_cross, self.around_mlp = (SubLayer(self.config) for _ in range(3))

    def __call__(self, x: Array, mask: Array, memory: KeyValue, memory_mask: Array, *, train: bool) -> Array:
        y = self.attention(self.around_attention.before(x), mask)
        x = self.around_attention.after(x, y, train=train)
        return self._rest(x, memory, memory_mask, train=train)

    def step(self, x: Array, position: Array, cache: KeyValue, memory: KeyValue, memory_mask: Array):
        y, cache = self.attention.step(self.around_attention.before(x), position, cache)
        x = self.around_attention.after(x, y, train=False)
        return self._rest(x, memory, memory_mask, train=False), cache

    def _rest(self, x: Array, memory: KeyValue, memory_mask: Array, *, train: bool) -> Array:
        y = self.cross_attention.attend(self.around_cross.before(x), memory, memory_mask)
        x = self.around_cross.after(x, y, train=train)
        y = self.mlp(self.around_mlp.before(x), train=train)
        return self.around_mlp.after(x, y, train=train)


class Transformer(nn.Module):
    """See `api.Stepwise`. The memory holds each decoder layer's cross-attention keys and values: once a sentence."""

    config: Config
    source_vocab: int
    target_vocab: int
    precision: Precision

    def setup(self):
        c = self.config
        self.target_embedding = Embedding(self.target_vocab, c.width)
        self.source_embedding = self.target_embedding if c.tied == "all" else Embedding(self.source_vocab, c.width)
        if c.tied == "none":
            self.projection = Projection(c.width, self.target_vocab)
        self.encoder = [EncoderLayer(c, self.precision) for _ in range(c.encoder_layers)]
        self.decoder = [DecoderLayer(c, self.precision) for _ in range(c.decoder_layers)]
        if c.norm == "pre":
            self.encoder_norm, self.decoder_norm = LayerNorm(), LayerNorm()
        self.drop = Dropout(c.dropout)

    def _embed(self, embedding: Embedding, tokens: Array, positions: Array, *, train: bool) -> Array:
        dtype, width = self.precision.activations, self.config.width
        x = embedding(tokens, dtype) * width**0.5 + sinusoids(positions, width).astype(dtype)
        return self.drop(x, train=train)

    def _encode(self, batch: Batch, *, train: bool) -> Array:
        mask = segment_mask(batch["input_segments"], batch["input_segments"])
        x = self._embed(self.source_embedding, batch["inputs"], batch["input_positions"], train=train)
        for layer in self.encoder:
            x = layer(x, mask, train=train)
        return self.encoder_norm(x) if self.config.norm == "pre" else x

    def __call__(self, batch: Batch, *, train: bool) -> Output:
        encoded = self._encode(batch, train=train)
        mask = segment_mask(batch["target_segments"], batch["target_segments"], causal=True)
        memory_mask = segment_mask(batch["target_segments"], batch["input_segments"])
        x = self._embed(self.target_embedding, batch["decoder_inputs"], batch["target_positions"], train=train)
        for layer in self.decoder:
            memory = layer.cross_attention.project_memory(encoded)
            x = layer(x, mask, memory, memory_mask, train=train)
        x = self.decoder_norm(x) if self.config.norm == "pre" else x
        return Output(x, self._kernel())

    def _kernel(self) -> Array:
        return self.projection() if self.config.tied == "none" else self.target_embedding.projection_kernel()

    def encode(self, batch: Batch):
        encoded = self._encode(batch, train=False)
        keys_values = [layer.cross_attention.project_memory(encoded) for layer in self.decoder]
        return {"layers": keys_values, "mask": batch["input_segments"] > 0}

    def init_cache(self, memory, *, width: int, max_len: int):
        B = memory["mask"].shape[0]
        layers = [layer.attention.empty_cache(B, width, max_len) for layer in self.decoder]
        return {"layers": layers, "position": jnp.zeros((B, width), jnp.int32)}

    def decode_step(self, tokens: Array, cache, memory):
        B, K = tokens.shape
        position = cache["position"]
        # The beam axis stands where time stands in teacher forcing: K queries a sentence, one memory.
        memory_mask = jnp.broadcast_to(memory["mask"][:, None], (B, K, memory["mask"].shape[1]))
        x = self._embed(self.target_embedding, tokens, position, train=False)
        layers = []
        for layer, layer_cache, layer_memory in zip(self.decoder, cache["layers"], memory["layers"], strict=True):
            x, layer_cache = layer.step(x, position, layer_cache, layer_memory, memory_mask)
            layers.append(layer_cache)
        x = self.decoder_norm(x) if self.config.norm == "pre" else x
        logits = project(x, self._kernel(), self.precision).astype(jnp.float32)
        return logits, {"layers": layers, "position": position + 1}


class Projection(nn.Module):
    """An untied output projection's kernel [D, V]."""

    width: int
    vocab_size: int

    @nn.compact
    def __call__(self) -> Array:
        return self.param(
            "kernel", nn.initializers.normal(self.width**-0.5), (self.width, self.vocab_size), jnp.float32
        )
