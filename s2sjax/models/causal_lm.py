"""Causal Transformer language models: one stack that reads a prompt and its answer as one sequence.

Each is a few values of `Config`, all others as they are:

    GPT-2       positions="learned", mlp="gelu_tanh", scale_embeddings=False (Radford et al. 2019)
    Llama       norm_kind="rms", positions="rotary", mlp="swiglu", kv_heads=2, biases=False, scale_embeddings=False,
                tied=False; Llama 3.1 adds rotary_base=500_000, rotary_scaling="llama3" (Grattafiori et al. 2024,
                arXiv:2407.21783)
    prefix-LM   prefix=True: a prompt's tokens see each other in both directions (Raffel et al. 2020, section 3.2.1)
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from s2sjax.api import Batch, Output, Rules, Traits
from s2sjax.config import check_at_least
from s2sjax.nn.block_config import BlockConfig
from s2sjax.nn.layers import Embedding, Kernel
from s2sjax.nn.totals import total
from s2sjax.nn.transformer import Stack, block_rules
from s2sjax.ops.attention import segment_mask
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.prompt import join
from s2sjax.ports import Tokens, check_prompts

TRAITS = Traits(language_model=True, splits_time=True, gathers_layers=True)


@dataclass(frozen=True)
class Config(BlockConfig):
    """The `model` section of the family causal_lm.

    Attributes:
      layers: Transformer blocks.
      tied: Embedding and output projection share one table.
      prefix: Let the tokens of a prompt see each other in both directions.
    """

    layers: int = 4
    tied: bool = True
    prefix: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "layers")


def sharding_rules(config: Config) -> Rules:
    projection = () if config.tied else ((r"projection/kernel$", (None, "tensor")),)
    return ((r"table$", ("tensor", None)), *projection, *block_rules(config))


def build(config: Config, reads: Tokens | None, writes: Tokens, *, precision: Precision) -> "CausalLM":
    """Make the module.

    Raises:
        UserError: if the vocabularies differ in size: prompt and answer are one sequence.
    """
    check_prompts(reads, writes)
    return CausalLM(config, writes.size, precision)


class CausalLM(nn.Module):
    """See `api.Stepwise`. The memory holds each block's keys and values of the prompt, which hypotheses share."""

    config: Config
    vocab: int
    precision: Precision

    def setup(self):
        c = self.config
        self.target_embedding = Embedding(self.vocab, c.width)
        if not c.tied:
            self.projection = Kernel((c.width, self.vocab), nn.initializers.normal(c.width**-0.5))
        self.decoder = Stack(c, c.layers, self.precision, bidirectional=c.prefix)

    def _embed(self, tokens: Array) -> Array:
        x = self.target_embedding(tokens, self.precision.activations)
        return x * self.config.width**0.5 if self.config.scale_embeddings else x

    def _kernel(self) -> Array:
        return self.target_embedding.projection_kernel() if self.config.tied else self.projection()

    def __call__(self, batch: Batch, *, train: bool) -> Output:
        joined = join(batch["inputs"], batch["input_segments"], batch["decoder_inputs"], batch["target_segments"])
        mask = segment_mask(joined.segments, joined.segments, causal=True)
        if self.config.prefix:
            of_prompt = joined.order < batch["inputs"].shape[1]
            mask |= segment_mask(joined.segments, jnp.where(of_prompt, joined.segments, 0))
        filled = joined.segments > 0
        x, balance, _ = self.decoder(self._embed(joined.tokens), joined.positions, filled, mask, train=train)
        aux = None
        if self.config.experts:
            aux = self.config.balance * balance * total(self, "tokens", jnp.sum(batch["weights"]))
        return Output(joined.gather_answers(x), self._kernel(), None, aux)

    def encode(self, batch: Batch):
        segments = batch["input_segments"]
        mask = segment_mask(segments, segments, causal=not self.config.prefix)
        x = self._embed(batch["inputs"])
        return self.decoder.prompt_memory(x, batch["input_positions"], segments > 0, mask)

    def init_cache(self, memory, *, width: int, max_len: int):
        return self.decoder.init_cache(memory, width=width, max_len=max_len)

    def decode_step(self, tokens: Array, cache, memory):
        x, cache, _ = self.decoder.step(self._embed(tokens), cache, memory)
        return project(x, self._kernel(), self.precision).astype(jnp.float32), cache
