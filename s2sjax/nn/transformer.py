"""The Transformer's blocks, composed from choices, and a stack of them.

A block is the residual sub-layers of Vaswani et al. 2017: self-attention, in some decoders cross-attention, and an MLP.
A stack adds positions to embeddings, runs its blocks one after the other and normalises what comes out. Encoders,
decoders and language models are stacks that differ in their masks.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from s2sjax.api import Anchored, Rules
from s2sjax.nn.attention import KeyValue, LocalView, MultiHeadAttention, View
from s2sjax.nn.block_config import BlockConfig
from s2sjax.nn.experts import Experts
from s2sjax.nn.gathering import gathered
from s2sjax.nn.layers import MLP, Dropout, LayerNorm, RMSNorm
from s2sjax.nn.positions import Positions
from s2sjax.nn.remat import rematerialised
from s2sjax.nn.totals import TOTALS, batch_total, record_total
from s2sjax.ops.linear import Precision
from s2sjax.ops.local_attention import Band

MOST_ANCHORED = 16
"""Hypotheses of a row, beyond which each has keys and values of its own."""


def make_norm(config: BlockConfig) -> nn.Module:
    return RMSNorm(config.norm_epsilon) if config.norm_kind == "rms" else LayerNorm(config.norm_epsilon, config.biases)


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


class Source(NamedTuple):
    """What a stack with cross-attention sees."""

    x: Array
    """[B, S, D]"""
    mask: Array
    """[B, T, S]"""


class _Seen(NamedTuple):
    """A source as a block sees it."""

    source: Any
    """[B, S, D] or, of a step, its keys and values."""
    view: View


class BlockOutput(NamedTuple):
    x: Array
    balance: Array
    """The balance loss of its experts, a scalar; 0 without experts."""
    weights: Array | None
    """Of cross-attention, averaged over heads [B, T, S], if they were asked for."""


class StepOutput(NamedTuple):
    x: Array
    """[B, K, D]"""
    cache: KeyValue | Anchored
    weights: Array | None
    """Of cross-attention, averaged over heads [B, K, S]."""


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
        self, x: Array, view: View | LocalView, filled: Array, seen: _Seen | None, *, train: bool, watch: bool = False
    ) -> BlockOutput:
        """`x` [B, T, D], of which `filled` [B, T] are tokens, with cross-attention to what is seen of a source."""
        y = self.attention(self.around_attention.before(x), view)
        x = self.around_attention.after(x, y, train=train)
        weights = None
        if seen is not None:
            h, keys_values = self.around_cross.before(x), self.cross_attention.keys_values(seen.source)
            weights = self.cross_attention.weights(h, keys_values, seen.view) if watch else None
            x = self.around_cross.after(x, self.cross_attention.attend(h, keys_values, seen.view), train=train)
        return self._feed_forward(x, filled, train=train, weights=weights)

    def source_memory(self, source: Array) -> KeyValue:
        return self.cross_attention.keys_values(source).shared()

    def read(self, x: Array, view: View | LocalView, filled: Array) -> tuple[Array, KeyValue]:
        """A prompt, and its keys and values [B, G, S, C]."""
        h = self.around_attention.before(x)
        keys_values = self.attention.keys_values(h, view.rotation)
        x = self.around_attention.after(x, self.attention.attend(h, keys_values, view), train=False)
        return self._feed_forward(x, filled, train=False).x, keys_values.shared()

    def step(
        self, x: Array, place: Array | None, slot: Array, cache: KeyValue | Anchored, view: View,
        memory: _Seen | KeyValue,
    ) -> StepOutput:  # fmt: skip
        """A step of K hypotheses, `x` [B, K, D]. The memory is the source's or, without cross-attention, a prompt's."""
        prompt, seen = (None, memory) if isinstance(memory, _Seen) else (memory, None)
        h = self.around_attention.before(x)
        if isinstance(cache, Anchored):
            y, own = self.attention.step_anchored(h, place, cache.tree, view, prompt)
            cache = Anchored(own)
        else:
            y, cache = self.attention.step(h, slot, cache, view, prompt)
        x = self.around_attention.after(x, y, train=False)
        weights = None
        if seen is not None:
            y, weights = self.cross_attention.attend_shared(self.around_cross.before(x), seen.source, seen.view)
            x = self.around_cross.after(x, y, train=False)
        return StepOutput(self._feed_forward(x, jnp.ones(slot.shape, bool), train=False).x, cache, weights)

    def _feed_forward(self, x: Array, filled: Array, *, train: bool, weights: Array | None = None) -> BlockOutput:
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
    pointing: Array | None = None
    """How the last block attends to the source, [B, T, S] float32, averaged over heads, of a stack that `points`."""


class Stepped(NamedTuple):
    x: Array
    """[B, K, D]"""
    cache: Any
    pointing: Array | None
    """As in `StackOutput`, [B, K, S]."""


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
    points: bool = False
    """Whether it also gives the attention of its last block to the source."""

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
        seen = _Seen(x, View(one[None])) if self.cross else None
        return self._block().init(key, x, View(one[None]), one, seen, train=False)["params"]

    def _block(self) -> Block:
        return Block(self.config, self.precision, self.cross, parent=None)

    def _layers(self) -> list[Any]:
        """Each block's parameters."""
        if self.config.scan:
            return [jax.tree.map(lambda stack, i=i: stack[i], self.stacked) for i in range(self.depth)]
        return self.unstacked

    def __call__(
        self, x: Array, positions: Array, filled: Array, mask: Array | Band, source: Source | None = None, *,
        train: bool,
    ) -> StackOutput:  # fmt: skip
        """Teacher forcing.

        Args:
            x: embeddings [B, T, D] of tokens at `positions` [B, T], of which `filled` [B, T] are no padding.
            mask: [B, T, T], or a band of T positions: what they may see of each other.
            source: what blocks with cross-attention see.
        """
        x, view = self._begin(x, positions, filled, mask)
        attended = None if source is None else _Seen(source.x, View(source.mask))
        keys = jax.random.split(self.make_rng("dropout"), self.depth) if train and self.has_rng("dropout") else None
        watch = self.cross and self.is_mutable_collection("attention")
        count = bool(self.config.experts) and self.is_mutable_collection(TOTALS)
        totals = batch_total(self, "layers") or {}

        first = "layers" if self.config.scan else "layers_0"  # all layers are stored alike

        def layer(state: StackOutput, of_layer, *, watch: bool) -> tuple[StackOutput, tuple[Array | None, Any]]:
            parameters, key, totals = of_layer
            parameters = gathered((*self.path, first), parameters)
            applied = self._block().apply(
                {"params": parameters, TOTALS: totals}, state.x, view, filled, attended, train=train, watch=watch,
                rngs=None if key is None else {"dropout": key}, mutable=[TOTALS] if count else False,
            )  # fmt: skip
            output, counted = cast(tuple[BlockOutput, Any], applied if count else (applied, {TOTALS: {}}))
            return StackOutput(output.x, state.balance + output.balance), (output.weights, counted[TOTALS])

        def made(watch: bool, looped: bool):
            return rematerialised(functools.partial(layer, watch=watch), self.config.remat, looped=looped)

        state, pointing = StackOutput(self.drop(x, train=train), jnp.zeros(())), None
        if self.config.scan:
            layers = self.stacked, keys, totals
            # The last block stands behind the loop where it points: a loop would keep every block's attention.
            looped = jax.tree.map(lambda stack: stack[:-1], layers) if self.points else layers
            state, (weights, counted) = lax.scan(made(watch, True), state, looped)
            if self.points:
                own = jax.tree.map(lambda stack: stack[-1], layers)
                state, (pointing, more) = made(True, False)(state, own)
                weights = [*weights, pointing] if watch else None
                counted = jax.tree.map(lambda stack, x: jnp.concatenate([stack, x[None]]), counted, more)
        else:
            seen = []
            for i, parameters in enumerate(self.unstacked):
                own = jax.tree.map(lambda stack, i=i: stack[i], (keys, totals))
                state, of_layer = made(watch or (self.points and i == self.depth - 1), False)(state, (parameters, *own))
                seen.append(of_layer)
            weights, each = zip(*seen, strict=True)
            pointing = weights[-1] if self.points else None
            counted = jax.tree.map(lambda *x: jnp.stack(x), *each)
        if count:
            record_total(self, "layers", counted)
        if watch:
            for i in range(self.depth):  # one leaf a layer in either case
                self.sow("attention", "weights", weights[i])
        return state._replace(x=self._end(state.x), pointing=pointing)

    def _begin(self, x: Array, positions: Array, filled: Array, mask: Array | Band) -> tuple[Array, View | LocalView]:
        """What enters the first block, and how tokens see each other."""
        # Padding may be numbered beyond a learned table; its NaN would reach others, since 0 * NaN is NaN.
        positions, index = jnp.where(filled, positions, 0), jnp.arange(x.shape[1])[None]
        x = self.positions.add(x, positions)
        if isinstance(mask, Band):
            return x, self.positions.local_view(mask, positions)
        return x, self.positions.view(mask, positions, index, index)

    def _end(self, x: Array) -> Array:
        return self.norm(x) if self.config.norm == "pre" else x

    def source_memory(self, source: Array, mask: Array):
        """What stepping needs of a source [B, S, D] under `mask` [B, S]: each block's keys and values."""
        block = self._block()
        layers = [block.apply({"params": p}, source, method="source_memory") for p in self._layers()]
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
        """Empty keys and values of `width` hypotheses, and how many steps each has made.

        Those of a few hypotheses are anchored: search copies nothing but a table of who wrote what they descend from.
        Attention then multiplies `width` times too much, which many hypotheses would pay for more dearly than for the
        copies.
        """
        c, B = self.config, memory["mask"].shape[0]
        G, C, dtype = c.key_value_heads, c.query_width, self.precision.activations
        position = jnp.zeros((B, width), jnp.int32)
        if width > MOST_ANCHORED:
            own = KeyValue(*(jnp.zeros((B, width, max_len, G, C), dtype) for _ in range(2)))
            return {"layers": [own] * self.depth, "position": position}
        N = max_len * width
        return {
            "layers": [Anchored(KeyValue(jnp.zeros((B, G, C, N), dtype), jnp.zeros((B, G, N, C), dtype)))] * self.depth,
            "position": position,
            "ancestors": jnp.zeros((B, width, max_len), jnp.int32),
        }

    def step(self, x: Array, cache, memory) -> Stepped:
        """From the embeddings [B, K, D] of the tokens that K hypotheses chose last, features of what follows."""
        slot, (B, K, _), kept = cache["position"], x.shape, memory["mask"]
        new, place = {"position": slot + 1}, None
        if "ancestors" in cache:
            # Hypotheses that are searched together have made equally many steps; each has its `places` in the cache.
            here, time = jnp.arange(cache["ancestors"].shape[2]), jnp.max(slot)
            places = cache["layers"][0].tree.value.shape[2] // len(here)
            new["ancestors"] = jnp.where(here == time, jnp.arange(K)[:, None], cache["ancestors"])
            mine = (new["ancestors"][..., None] == jnp.arange(places)) & (here <= time)[:, None]  # [B, K, L, places]
            mask, here, place = mine.reshape(B, K, -1), jnp.repeat(here, places)[None], time * places
        else:
            here = jnp.arange(cache["layers"][0].key.shape[2])[None]
            mask = here[None] <= slot[..., None]
        # The hypotheses stand where time stands in teacher forcing: K queries a row, one memory.
        shared = jnp.broadcast_to(kept[:, None], (B, K, kept.shape[1]))
        if self.cross:
            position, source_view = slot, View(shared)
            keys = jnp.broadcast_to(here, (B, here.shape[1]))
        else:
            length = jnp.sum(kept, axis=1, dtype=jnp.int32)[:, None]
            position, source_view = length + slot, None
            keys = jnp.concatenate([memory["positions"], length + here], axis=1)
            mask = jnp.concatenate([shared, mask], axis=-1)
        view = self.positions.view(mask, position, position, keys)
        block, layers = self._block(), []
        x, weights = self.positions.add(x, position), None
        for parameters, past, seen in zip(self._layers(), cache["layers"], memory["layers"], strict=True):
            read = seen if source_view is None else _Seen(seen, source_view)
            applied = block.apply({"params": parameters}, x, place, slot, past, view, read, method="step")
            x, past, weights = cast(StepOutput, applied)
            layers.append(past)
            if self.cross and self.is_mutable_collection("attention"):
                self.sow("attention", "weights", weights)
        return Stepped(self._end(x), {"layers": layers, **new}, weights if self.points else None)


def block_rules(config: BlockConfig) -> Rules:
    """Sharding rules of a stack's parameters; embeddings and projections are the model's."""
    rules: list[tuple[str, tuple[str | None, ...]]] = [
        (r"(query|key|value)/kernel$", (None, "tensor")),
        (r"output/kernel$", ("tensor", None)),
        (r"scale$", (None,)),
    ]
    if config.experts:
        rules += [
            (r"(up|gate)_kernels$", ("expert", None, "tensor")),
            (r"down_kernels$", ("expert", "tensor", None)),
            (r"router$", (None, None)),
        ]
    else:
        rules += [(r"(up|gate)/kernel$", (None, "tensor")), (r"down/kernel$", ("tensor", None))]
    if config.positions == "relative":
        rules.append((r"relative_bias$", (None, None)))
    if config.biases:
        rules.append((r"bias$", (None,)))
    return tuple(rules)
