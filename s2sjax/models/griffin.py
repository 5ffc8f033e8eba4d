"""Griffin: a language model of gated linear recurrences and local attention (De et al. 2024, arXiv:2402.19427).

Each block is a residual temporal mixing and a residual gated MLP. What mixes is, by a pattern that repeats, either the
recurrent block (a short convolution and the RG-LRU, gated) or sliding-window attention with one head of keys and
values. What the past leaves behind does not grow with it: a state and three inputs of each recurrent block, and the
keys and values of a window of each attention block.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from s2sjax.api import Batch, Output, Rules, Traits
from s2sjax.config import check_at_least, check_choices, check_rate, one_of
from s2sjax.errors import UserError
from s2sjax.nn.attention import KeyValue, MultiHeadAttention, View
from s2sjax.nn.gathering import gathered
from s2sjax.nn.layers import MLP, Dropout, Embedding, RMSNorm
from s2sjax.nn.linear_recurrence import Recurrence, RecurrentState
from s2sjax.nn.remat import REMAT, rematerialised
from s2sjax.ops.attention import segment_mask, window_mask
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.position import rotary_frequencies, rotation
from s2sjax.ops.prompt import ending, join
from s2sjax.ports import Tokens, check_prompts

TRAITS = Traits(language_model=True, gathers_layers=True)


@dataclass(frozen=True)
class Config:
    """The `model` section of the family griffin.

    Attributes:
      pattern: What mixes in one block after the other: "recurrent" or "attention".
      repeats: How often the pattern stands: blocks are repeats times its length.
      width: Width of embeddings and of every block.
      hidden: Width of the MLP; the paper's is three times `width`.
      recurrent_width: Channels of the RG-LRU; the paper's are about four thirds of `width`.
      heads: Heads of queries, and blocks that the kernels of the RG-LRU's gates have along their diagonal.
      window: Positions that attention sees, its own included.
      dropout: Dropout rate after the embedding and each sub-layer.
      remat: What the backward pass computes again: "none", "full" (all but the input of each repeat of the pattern),
        "dots" (all but the products with parameters).
    """

    pattern: tuple[str, ...] = one_of(("recurrent", "attention"), ("recurrent", "recurrent", "attention"))
    repeats: int = 2
    width: int = 128
    hidden: int = 384
    recurrent_width: int = 128
    heads: int = 4
    window: int = 128
    dropout: float = 0.1
    remat: str = one_of(REMAT, "none")

    def __post_init__(self):
        check_choices(self, "config.model")
        if not self.pattern:
            raise UserError("config.model.pattern is empty, but must name at least one block")
        check_at_least(1, self, "repeats", "width", "hidden", "recurrent_width", "heads", "window")
        if self.width % (2 * self.heads):
            raise UserError(
                f"config.model.width {self.width} is not divisible by twice config.model.heads {self.heads}: rotary "
                "positions turn pairs; set another number of heads"
            )
        if self.recurrent_width % self.heads:
            raise UserError(
                f"config.model.recurrent_width {self.recurrent_width} is not divisible by config.model.heads "
                f"{self.heads}; set another width"
            )
        check_rate(self, "dropout")


def sharding_rules(config: Config) -> Rules:
    rules: list[tuple[str, tuple[str | None, ...]]] = []
    if "recurrent" in config.pattern:
        rules += [
            (r"_gate/kernel$", ("tensor", None)),
            (r"_gate/bias$", ("tensor",)),
            (r"input/kernel$", (None, "tensor")),
            (r"(decay|convolution_bias)$", ("tensor",)),
            (r"convolution$", (None, "tensor")),
        ]
    if "attention" in config.pattern:
        rules.append((r"(query|key|value)/kernel$", (None, "tensor")))
    rules += [
        (r"table$", ("tensor", None)),
        (r"(up|gate)/kernel$", (None, "tensor")),
        (r"(output|down)/kernel$", ("tensor", None)),
        (r"scale$", (None,)),
    ]
    return tuple(rules)


def build(config: Config, reads: Tokens | None, writes: Tokens, *, precision: Precision) -> "Griffin":
    """Make the module.

    Raises:
        UserError: if the vocabularies differ in size: prompt and answer are one sequence.
    """
    check_prompts(reads, writes)
    return Griffin(config, writes.size, precision)


class Reading(NamedTuple):
    """Rows as every block reads them."""

    segments: Array
    """[B, T]"""
    view: View
    """Of the positions of each segment that a window holds."""


class Block(nn.Module):
    """A residual temporal mixing and a residual MLP (section 2.1)."""

    mixing: str
    config: Config
    precision: Precision

    def setup(self):
        c = self.config
        if self.mixing == "recurrent":
            self.recurrence = Recurrence(c.width, c.recurrent_width, c.heads, self.precision)
        else:
            self.attention = MultiHeadAttention(
                c.width, c.heads, kv_heads=1, head_width=c.width // c.heads, precision=self.precision, use_bias=False
            )
        self.mlp = MLP(c.hidden, "gated_gelu", 0.0, self.precision, use_bias=False)
        self.mixing_norm, self.mlp_norm = RMSNorm(), RMSNorm()
        self.drop = Dropout(c.dropout)

    def __call__(self, x: Array, reading: Reading, *, train: bool) -> Array:
        h = self.mixing_norm(x)
        recurrent = self.mixing == "recurrent"
        y = self.recurrence(h, reading.segments) if recurrent else self.attention(h, reading.view)
        return self._rest(x, y, train=train)

    def _rest(self, x: Array, mixed: Array, *, train: bool) -> Array:
        x = x + self.drop(mixed, train=train)
        return x + self.drop(self.mlp(self.mlp_norm(x), train=train), train=train)

    def read(self, x: Array, reading: Reading) -> tuple[Array, RecurrentState | KeyValue]:
        """One prompt a row, and what is kept of it: a state, or the keys and values of a window."""
        h = self.mixing_norm(x)
        if self.mixing == "recurrent":
            y, state = self.recurrence.read(h, reading.segments)
            return self._rest(x, y, train=False), state
        keys_values = self.attention.keys_values(h, reading.view.rotation)
        y = self.attention.attend(h, keys_values, reading.view)
        lengths, seen = jnp.sum(reading.segments > 0, axis=1), min(self.config.window - 1, x.shape[1])
        return self._rest(x, y, train=False), KeyValue(*(ending(z, lengths, seen) for z in keys_values)).shared()

    def init_cache(self, kept, *, width: int, length: int):
        if self.mixing == "recurrent":
            return RecurrentState(*(jnp.repeat(x[:, None], width, axis=1) for x in kept))
        return self.attention.empty_cache(kept.key.shape[0], width, length)

    def step(self, x: Array, past, kept, slot: Array, view: View):
        """One step of K hypotheses, `x` [B, K, D], whose keys and values go to `slot` [B, K]."""
        h = self.mixing_norm(x)
        if self.mixing == "recurrent":
            y, past = self.recurrence.step(h, past)
        else:
            y, past = self.attention.step(h, slot, past, view, kept)
        return self._rest(x, y, train=False), past


class Group(nn.Module):
    """The blocks of one repeat of the pattern."""

    config: Config
    precision: Precision

    def setup(self):
        self.blocks = [Block(mixing, self.config, self.precision) for mixing in self.config.pattern]

    def __call__(self, x: Array, reading: Reading, *, train: bool) -> Array:
        for block in self.blocks:
            x = block(x, reading, train=train)
        return x

    def read(self, x: Array, reading: Reading):
        memory = []
        for block in self.blocks:
            x, kept = block.read(x, reading)
            memory.append(kept)
        return x, memory

    def init_cache(self, memory, *, width: int, length: int):
        return [
            block.init_cache(kept, width=width, length=length) for block, kept in zip(self.blocks, memory, strict=True)
        ]

    def step(self, x: Array, cache, memory, slot: Array, view: View):
        new = []
        for block, past, kept in zip(self.blocks, cache, memory, strict=True):
            x, past = block.step(x, past, kept, slot, view)
            new.append(past)
        return x, new


class Griffin(nn.Module):
    """See `api.Stepwise`. The memory holds what each block keeps of the prompt, the cache that and what came after it.

    The parameters of all repeats of the pattern are one tree, `layers`, stacked. Training loops over it; stepping and
    reading a prompt take the repeats in turn.
    """

    config: Config
    vocab_size: int
    precision: Precision

    def setup(self):
        c = self.config
        self.target_embedding = Embedding(self.vocab_size, c.width)
        self.norm = RMSNorm()
        self.drop = Dropout(c.dropout)
        # `self.param` alone would trace the initialiser at each use, to compare shapes.
        known = self.has_variable("params", "layers")
        self.stacked = self.get_variable("params", "layers") if known else self.param("layers", self._init_stacked)

    def _init_stacked(self, key: Array):
        one = jnp.ones((1, 1), jnp.int32)
        x = jnp.zeros((1, 1, self.config.width), self.precision.activations)

        def init(key):
            return self._group().init(key, x, self._reading(one, one), train=False)["params"]

        return jax.vmap(init)(jax.random.split(key, self.config.repeats))

    def _group(self) -> Group:
        return Group(self.config, self.precision, parent=None)

    def _repeat(self, i: int, method: str, *args, **kwargs):
        parameters = jax.tree.map(lambda stack: stack[i], self.stacked)
        return self._group().apply({"params": parameters}, *args, method=method, **kwargs)

    def _embed(self, tokens: Array) -> Array:
        return self.target_embedding(tokens, self.precision.activations) * self.config.width**0.5

    def _view(self, mask: Array, positions: Array) -> View:
        frequencies = rotary_frequencies(self.config.width // self.config.heads)
        return View(mask, rotation=rotation(positions, frequencies))

    def _reading(self, segments: Array, positions: Array) -> Reading:
        columns = jnp.arange(segments.shape[1])[None]  # segments are contiguous: differences of columns are distances
        mask = segment_mask(segments, segments, causal=True) & window_mask(columns, columns, self.config.window)
        return Reading(segments, self._view(mask, positions))

    def __call__(self, batch: Batch, *, train: bool) -> Output:
        joined = join(batch["inputs"], batch["input_segments"], batch["decoder_inputs"], batch["target_segments"])
        reading, c = self._reading(joined.segments, joined.positions), self.config
        keys = jax.random.split(self.make_rng("dropout"), c.repeats) if train and self.has_rng("dropout") else None

        def group(x: Array, parameters_and_key):
            parameters, key = parameters_and_key
            parameters = gathered((*self.path, "layers"), parameters)
            rngs = None if key is None else {"dropout": key}
            return self._group().apply({"params": parameters}, x, reading, train=train, rngs=rngs), None

        x = self.drop(self._embed(joined.tokens), train=train)
        x, _ = lax.scan(rematerialised(group, c.remat, looped=True), x, (self.stacked, keys))
        return Output(self.norm(joined.gather_answers(x)), self.target_embedding.projection_kernel())

    def encode(self, batch: Batch):
        segments = batch["input_segments"]
        reading, groups = self._reading(segments, batch["input_positions"]), []
        x, lengths = self._embed(batch["inputs"]), jnp.sum(segments > 0, axis=1)
        for i in range(self.config.repeats):
            x, kept = self._repeat(i, "read", x, reading)
            groups.append(kept)
        seen = min(self.config.window - 1, segments.shape[1])
        return {"groups": groups, "lengths": lengths, "positions": lengths[:, None] - seen + jnp.arange(seen)}

    def init_cache(self, memory, *, width: int, max_len: int):
        length = min(self.config.window, max_len)
        groups = [self._repeat(i, "init_cache", m, width=width, length=length) for i, m in enumerate(memory["groups"])]
        start = jnp.repeat(memory["lengths"][:, None], width, axis=1)
        # No key has been kept yet: a position that is not there.
        return {"groups": groups, "position": start, "kept": jnp.full((*start.shape, length), -1)}

    def decode_step(self, tokens: Array, cache, memory):
        position, (B, K) = cache["position"], tokens.shape
        # Keys and values go round in as many slots as the window has positions; `kept` says what stands in each.
        length = cache["kept"].shape[2]
        slot = (position - memory["lengths"][:, None]) % length
        kept = jnp.where(jnp.arange(length) == slot[..., None], position[..., None], cache["kept"])
        of_prompt = jnp.broadcast_to(memory["positions"][:, None], (B, K, memory["positions"].shape[1]))
        keys = jnp.concatenate([of_prompt, kept], axis=-1)
        mask = (keys >= 0) & (position[..., None] - keys < self.config.window)
        view, x, groups = self._view(mask, position), self._embed(tokens), []
        for i, (own, prompt) in enumerate(zip(cache["groups"], memory["groups"], strict=True)):
            x, new = self._repeat(i, "step", x, own, prompt, slot, view)
            groups.append(new)
        logits = project(self.norm(x), self.target_embedding.projection_kernel(), self.precision)
        return logits.astype(jnp.float32), {"groups": groups, "position": position + 1, "kept": kept}
