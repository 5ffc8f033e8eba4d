"""The Transformer's blocks, composed from choices, and a stack of them.

A block is the residual sub-layers of Vaswani et al. 2017: self-attention, in some decoders cross-attention, and an MLP.
A stack adds positions to embeddings, runs its blocks one after the other and normalises what comes out. Encoders,
decoders and language models are stacks that differ in their masks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from s2sjax.api import Rules
from s2sjax.nn.attention import KeyValue, MultiHeadAttention, View
from s2sjax.nn.block_config import BlockConfig
from s2sjax.nn.experts import Experts
from s2sjax.nn.layers import MLP, Dropout, Embedding, LayerNorm, RMSNorm
from s2sjax.ops.attention import window_mask
from s2sjax.ops.linear import Precision
from s2sjax.ops.position import alibi_slopes, relative_buckets, rotary_frequencies, rotation, sinusoids


def make_norm(config: BlockConfig) -> nn.Module:
    return RMSNorm(config.norm_epsilon) if config.norm_kind == "rms" else LayerNorm(config.norm_epsilon, config.biases)


class Positions(nn.Module):
    """How a stack knows where its tokens stand."""

    config: BlockConfig
    bidirectional: bool
    """Whether keys ahead of a query have relative buckets of their own."""

    def setup(self):
        c = self.config
        if c.positions == "learned":
            self.learned = Embedding(c.max_positions, c.width)
        if c.positions == "relative":
            init = nn.initializers.normal(c.width**-0.5)
            self.relative_bias = self.param("relative_bias", init, (c.relative_buckets, c.heads), jnp.float32)

    def add(self, x: Array, positions: Array) -> Array:
        """To embeddings `x` [B, T, D] of tokens at `positions` [B, T]."""
        if self.config.positions == "sinusoidal":
            return x + sinusoids(positions, self.config.width).astype(x.dtype)
        return x + self.learned(positions, x.dtype) if self.config.positions == "learned" else x

    def view(self, mask: Array, positions: Array, query: Array, key: Array) -> View:
        """How queries see keys.

        Args:
            mask: [B, T, S], what they may see at all.
            positions: of the queries, [B, T].
            query, key: [B, T] and [B, S], or [1, T] and [1, S] for all rows: numbers whose differences are distances
                wherever `mask` is True. Indices will do, since segments are contiguous.
        """
        c = self.config
        bias = angles = None
        if c.window:
            mask = mask & window_mask(query, key, c.window)
        if c.positions == "rotary":
            angles = rotation(
                positions,
                rotary_frequencies(
                    c.query_width,
                    base=c.rotary_base,
                    scaling=c.rotary_scaling,
                    factor=c.rotary_factor,
                    original_length=c.rotary_length,
                ),
            )
        distance = key[:, None, :] - query[:, :, None]
        if c.positions == "relative":
            buckets = relative_buckets(
                distance,
                bidirectional=self.bidirectional,
                buckets=c.relative_buckets,
                max_distance=c.relative_distance,
            )
            bias = jnp.moveaxis(self.relative_bias[buckets], -1, 1)
        if c.positions == "alibi":
            bias = -alibi_slopes(c.heads)[:, None, None] * jnp.abs(distance)[:, None]
        return View(mask, bias, angles)


class Residual(nn.Module):
    """The residual connection around a sub-layer, with normalisation before or after it."""

    config: BlockConfig

    def setup(self):
        self.norm = make_norm(self.config)
        self.drop = Dropout(self.config.dropout)

    def before(self, x: Array) -> Array:
        return self.norm(x) if self.config.norm == "pre" else x

    def after(self, x: Array, y: Array, *, train: bool) -> Array:
        x = x + self.drop(y, train=train)
        return x if self.config.norm == "pre" else self.norm(x)


class BlockOutput(NamedTuple):
    x: Array
    balance: Array
    """The balance loss of its experts, a scalar; 0 without experts."""
    weights: Array | None
    """Of cross-attention, averaged over heads [B, T, S], if they were asked for."""


class Block(nn.Module):
    config: BlockConfig
    precision: Precision
    cross: bool
    """Whether it attends to a source."""

    def setup(self):
        c = self.config

        def attention():
            return MultiHeadAttention(
                c.width, c.heads, c.key_value_heads, c.query_width, self.precision,
                use_bias=c.biases, qk_norm=c.qk_norm, scale=c.scale_attention,
            )  # fmt: skip

        self.attention, self.around_attention = attention(), Residual(c)
        if self.cross:
            self.cross_attention, self.around_cross = attention(), Residual(c)
        if c.experts:
            self.experts = Experts(
                c.hidden, c.mlp, c.hidden_dropout, self.precision,
                experts=c.experts, per_token=c.experts_per_token, routing=c.routing, capacity_factor=c.capacity_factor,
            )  # fmt: skip
        else:
            self.mlp = MLP(c.hidden, c.mlp, c.hidden_dropout, self.precision, use_bias=c.biases)
        self.around_mlp = Residual(c)

    def __call__(
        self, x: Array, view: View, filled: Array, source: Array | None, source_view: View | None, *, train: bool,
        watch: bool = False,
    ) -> BlockOutput:  # fmt: skip
        """`x` [B, T, D], of which `filled` [B, T] are tokens, with cross-attention to the source [B, S, D]."""
        y = self.attention(self.around_attention.before(x), view)
        x = self.around_attention.after(x, y, train=train)
        keys_values = None if source is None else self.source_keys_values(source)
        return self._rest(x, filled, keys_values, source_view, train=train, watch=watch)

    def source_keys_values(self, source: Array) -> KeyValue:
        return self.cross_attention.keys_values(source)

    def read(self, x: Array, view: View, filled: Array) -> tuple[Array, KeyValue]:
        """A prompt, and its keys and values [B, S, G, C]."""
        h = self.around_attention.before(x)
        keys_values = self.attention.keys_values(h, view.rotation)
        x = self.around_attention.after(x, self.attention.attend(h, keys_values, view), train=False)
        return self._rest(x, filled, None, None, train=False).x, keys_values

    def step(
        self, x: Array, slot: Array, cache: KeyValue, view: View, memory: KeyValue, source_view: View | None
    ) -> tuple[Array, KeyValue]:
        """A step of K hypotheses, `x` [B, K, D]. The memory is the source's or, without cross-attention, a prompt's."""
        prompt, source = (None, memory) if self.cross else (memory, None)
        y, cache = self.attention.step(self.around_attention.before(x), slot, cache, view, prompt)
        x = self.around_attention.after(x, y, train=False)
        return self._rest(x, jnp.ones(slot.shape, bool), source, source_view, train=False).x, cache

    def _rest(
        self, x: Array, filled: Array, source: KeyValue | None, source_view: View | None, *, train: bool,
        watch: bool = False,
    ) -> BlockOutput:  # fmt: skip
        weights = None
        if source is not None:
            assert source_view is not None
            h = self.around_cross.before(x)
            weights = self.cross_attention.weights(h, source, source_view) if watch else None
            x = self.around_cross.after(x, self.cross_attention.attend(h, source, source_view), train=train)
        h = self.around_mlp.before(x)
        if self.config.experts:
            y, balance = self.experts(h, filled, train=train)
        else:
            y, balance = self.mlp(h, train=train), jnp.zeros(())
        return BlockOutput(self.around_mlp.after(x, y, train=train), balance, weights)


class StackOutput(NamedTuple):
    x: Array
    """[B, T, D]"""
    balance: Array
    """The sum of the blocks' balance losses, a scalar."""


class Stack(nn.Module):
    """`depth` blocks of equal shape, between positions and, with pre-norm, a last normalisation.

    A block is a function of its parameters. They are the stack's own: `layers_0`, `layers_1` .. or, with `scan`, one
    tree `layers` with a leading dimension of `depth`. Teacher forcing applies it to them in turn or in a loop,
    with the same dropout keys in either; stepping, always in turn.
    """

    config: BlockConfig
    depth: int
    precision: Precision
    bidirectional: bool = False
    """Whether relative positions tell keys ahead apart; what is seen at all is for masks to say."""
    cross: bool = False
    """Whether its blocks attend to a source."""

    def setup(self):
        self.positions = Positions(self.config, self.bidirectional)
        self.drop = Dropout(self.config.dropout)
        if self.config.norm == "pre":
            self.norm = make_norm(self.config)
        if self.config.scan:
            init = jax.vmap(self._init)
            self.stacked = self._parameter("layers", lambda key: init(jax.random.split(key, self.depth)))
        else:
            self.unstacked = [self._parameter(f"layers_{i}", self._init) for i in range(self.depth)]

    def _parameter(self, name: str, init: Callable[[Array], Any]):
        # `self.param` alone would trace the initialiser at each use, to compare shapes.
        return self.get_variable("params", name) if self.has_variable("params", name) else self.param(name, init)

    def _init(self, key: Array):
        x, one = jnp.zeros((1, 1, self.config.width), self.precision.activations), jnp.ones((1, 1), bool)
        source = (x, View(one[None])) if self.cross else (None, None)
        return self._block().init(key, x, View(one[None]), one, *source, train=False)["params"]

    def _block(self) -> Block:
        return Block(self.config, self.precision, self.cross, parent=None)

    def _layers(self) -> list[Any]:
        """Each block's parameters."""
        if self.config.scan:
            return [jax.tree.map(lambda stack, i=i: stack[i], self.stacked) for i in range(self.depth)]
        return self.unstacked

    def __call__(
        self, x: Array, positions: Array, filled: Array, mask: Array, source: Array | None = None,
        source_mask: Array | None = None, *, train: bool,
    ) -> StackOutput:  # fmt: skip
        """Teacher forcing.

        Args:
            x: embeddings [B, T, D] of tokens at `positions` [B, T], of which `filled` [B, T] are no padding.
            mask: [B, T, T], what they may see of each other.
            source: what blocks with cross-attention see, [B, S, D], under `source_mask` [B, T, S].
        """
        x, view = self._begin(x, positions, filled, mask)
        source_view = None if source_mask is None else View(source_mask)
        keys = jax.random.split(self.make_rng("dropout"), self.depth) if train and self.has_rng("dropout") else None
        watch = self.cross and self.is_mutable_collection("attention")

        def layer(state: StackOutput, parameters_and_key) -> tuple[StackOutput, Array | None]:
            parameters, key = parameters_and_key
            applied = self._block().apply(
                {"params": parameters}, state.x, view, filled, source, source_view, train=train, watch=watch,
                rngs=None if key is None else {"dropout": key},
            )  # fmt: skip
            output = cast(BlockOutput, applied)
            return StackOutput(output.x, state.balance + output.balance), output.weights

        layer = self._rematerialised(layer)
        state = StackOutput(self.drop(x, train=train), jnp.zeros(()))
        if self.config.scan:
            state, weights = lax.scan(layer, state, (self.stacked, keys))
        else:
            weights = []
            for i, parameters in enumerate(self.unstacked):
                state, seen = layer(state, (parameters, None if keys is None else keys[i]))
                weights.append(seen)
        if watch:
            for i in range(self.depth):  # one leaf a layer in either case
                self.sow("attention", "weights", weights[i])
        return state._replace(x=self._end(state.x))

    def _begin(self, x: Array, positions: Array, filled: Array, mask: Array) -> tuple[Array, View]:
        """What enters the first block, and how tokens see each other."""
        # Padding may be numbered beyond a learned table; its NaN would reach others, since 0 * NaN is NaN.
        positions, index = jnp.where(filled, positions, 0), jnp.arange(x.shape[1])[None]
        return self.positions.add(x, positions), self.positions.view(mask, positions, index, index)

    def _rematerialised(self, layer: Callable) -> Callable:
        if self.config.remat == "none":
            return layer
        policies = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
        return jax.checkpoint(layer, policy=policies[self.config.remat], prevent_cse=not self.config.scan)

    def _end(self, x: Array) -> Array:
        return self.norm(x) if self.config.norm == "pre" else x

    def source_memory(self, source: Array, mask: Array):
        """What stepping needs of a source [B, S, D] under `mask` [B, S]: each block's keys and values."""
        block = self._block()
        layers = [block.apply({"params": p}, source, method="source_keys_values") for p in self._layers()]
        return {"layers": layers, "mask": mask}

    def prompt_memory(self, x: Array, positions: Array, filled: Array, mask: Array):
        """What stepping needs of a prompt's embeddings [B, S, D] under `mask` [B, S, S], one prompt a row."""
        block, layers = self._block(), []
        x, view = self._begin(x, positions, filled, mask)
        for parameters in self._layers():
            x, keys_values = block.apply({"params": parameters}, x, view, filled, method="read")
            layers.append(keys_values)
        return {"layers": layers, "mask": filled, "positions": positions}

    def init_cache(self, memory, *, width: int, max_len: int):
        """Empty keys and values of `width` hypotheses, and how many steps each has made."""
        c, B = self.config, memory["mask"].shape[0]
        shape = (B, width, max_len, c.key_value_heads, c.query_width)
        zeros = jnp.zeros(shape, self.precision.activations)
        return {"layers": [KeyValue(zeros, zeros)] * self.depth, "position": jnp.zeros((B, width), jnp.int32)}

    def step(self, x: Array, cache, memory):
        """From the embeddings [B, K, D] of the tokens that K hypotheses chose last, features of what follows."""
        slot, (B, K, _) = cache["position"], x.shape
        here = jnp.arange(cache["layers"][0].key.shape[2])[None]
        mask = here[None] <= slot[..., None]
        # The hypotheses stand where time stands in teacher forcing: K queries a row, one memory.
        shared = jnp.broadcast_to(memory["mask"][:, None], (B, K, memory["mask"].shape[1]))
        if self.cross:
            position, source_view = slot, View(shared)
            keys = jnp.broadcast_to(here, (B, here.shape[1]))
        else:
            length = jnp.sum(memory["mask"], axis=1, dtype=jnp.int32)[:, None]
            position, source_view = length + slot, None
            keys = jnp.concatenate([memory["positions"], length + here], axis=1)
            mask = jnp.concatenate([shared, mask], axis=-1)
        view = self.positions.view(mask, position, position, keys)
        block, layers = self._block(), []
        x = self.positions.add(x, position)
        for parameters, own, kept in zip(self._layers(), cache["layers"], memory["layers"], strict=True):
            x, own = block.apply({"params": parameters}, x, slot, own, view, kept, source_view, method="step")
            layers.append(own)
        return self._end(x), {"layers": layers, "position": slot + 1}


def block_rules(config: BlockConfig) -> Rules:
    """Sharding rules of a stack's parameters; embeddings and projections are the model's."""
    rules: list[tuple[str, tuple[str | None, ...]]] = [
        (r"(query|key|value)/kernel$", ("fsdp", "tensor")),
        (r"output/kernel$", ("tensor", "fsdp")),
        (r"scale$", (None,)),
    ]
    if config.experts:
        rules += [
            (r"(up|gate)_kernels$", (None, "fsdp", "tensor")),
            (r"down_kernels$", (None, "tensor", "fsdp")),
            (r"router$", ("fsdp", None)),
        ]
    else:
        rules += [(r"(up|gate)/kernel$", ("fsdp", "tensor")), (r"down/kernel$", ("tensor", "fsdp"))]
    if config.positions == "relative":
        rules.append((r"relative_bias$", (None, None)))
    if config.biases:
        rules.append((r"bias$", (None,)))
    return tuple(rules)
