"""What search and likelihood are given of trained models: one model, or several that speak as one.

A scorer is static and hashable; parameters come as an argument, so that they are not compiled in.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from s2sjax.api import Batch, Cache, Memory, batch_shapes
from s2sjax.decode.ensemble import combine, ensemble_step
from s2sjax.decode.stepping import StepFn
from s2sjax.inference.likelihood import at_position, by_position, logits, loss_sums
from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import LossOptions, token_losses
from s2sjax.ports import Port, Ports, Tokens
from s2sjax.sharding import path_name

# Not the gates of linear recurrences, which multiply in the type of the activations, nor tables, which are looked up.
_OPERAND = re.compile(r"(?<!_gate)/kernel$")

WatchedStep = Callable[[Array, Cache], tuple[Array, Cache, Array]]


class Scorer(Protocol):
    """Stepping and teacher forcing, with parameters of whatever form the scorer's own are."""

    def __hash__(self) -> int: ...

    @property
    def reads(self) -> Port | None:
        """What its source is."""
        ...

    def rounded(self, params):
        """The parameters with those that are operands of products already in the products' type.

        All methods compute the same with either, and with these a search need not begin by rounding them: a sixth of
        what it costs on a CPU with bfloat16 products.
        """
        ...

    def encode(self, params, batch: Batch) -> Memory: ...

    def init_cache(self, params, memory: Memory, *, width: int, max_len: int) -> Cache: ...

    def step(self, params, memory: Memory) -> StepFn: ...

    def watched_step(self, params, memory: Memory) -> WatchedStep:
        """`step` that also gives attention over the source [B, K, S], the mean over heads, layers and those of the
        models that have any; one has to."""
        ...

    def token_log_probs(self, params, batch: Batch) -> Array:
        """Log-probability of each target in nats, float32 [B, T], whatever its weight. One segment a row."""
        ...

    def target_logits(self, params, batch: Batch) -> Array:
        """Scores of every word as each target, float32 [B, T, V], whose softmax is what `token_log_probs` takes."""
        ...

    def watched_log_probs(self, params, batch: Batch) -> tuple[Array, list[list[Array]]]:
        """`token_log_probs` and, from the same pass, how each model's layers attend to the source: float32 [B, T, S]
        each, averaged over heads, the lowest layer first."""
        ...

    def nll(self, params, batch: Batch, *, chunk: int, shards: int) -> Array:
        """Negative log-likelihood of a batch's targets in nats, a float32 scalar.

        Args:
            chunk: about how many tokens' logits may exist at one time, on each of `shards` devices.
        """
        ...


@dataclass(frozen=True)
class Single:
    """One model. Its parameters are the model's tree."""

    model: nn.Module
    precision: Precision
    reads: Port | None = None
    """What its source is; None: tokens of what it writes, or nothing."""

    def rounded(self, params):
        if self.precision == Precision.FLOAT32:
            return params

        def convert(path, leaf):
            return leaf.astype(jnp.bfloat16) if _OPERAND.search(path_name(path)) else leaf

        return jax.tree.map_with_path(convert, params)

    def encode(self, params, batch: Batch) -> Memory:
        return self.model.apply({"params": params}, batch, method="encode")

    def init_cache(self, params, memory: Memory, *, width: int, max_len: int) -> Cache:
        return self.model.apply({"params": params}, memory, width=width, max_len=max_len, method="init_cache")

    def step(self, params, memory: Memory) -> StepFn:
        def step(tokens: Array, cache: Cache) -> Any:
            return self.model.apply({"params": params}, tokens, cache, memory, method="decode_step")

        return step

    def watched_step(self, params, memory: Memory) -> WatchedStep:
        def step(tokens: Array, cache: Cache) -> tuple[Array, Cache, Array]:
            logits, cache, layers = self._watched(params, memory, tokens, cache)
            return logits, cache, mean_attention([layers])

        return step

    def _watched(self, params, memory: Memory, tokens: Array, cache: Cache) -> tuple[Array, Cache, list[Array]]:
        applied: Any = self.model.apply(
            {"params": params}, tokens, cache, memory, method="decode_step", mutable=["attention"]
        )
        (logits, cache), sown = applied
        return logits, cache, jax.tree.leaves(sown)

    def token_log_probs(self, params, batch: Batch) -> Array:
        return _forced([self], [params], batch, lambda scores: scores[0])[0]

    def target_logits(self, params, batch: Batch) -> Array:
        return _forced([self], [params], batch, lambda scores: scores[0], per_position=_logits)[0]

    def watched_log_probs(self, params, batch: Batch) -> tuple[Array, list[list[Array]]]:
        return _forced([self], [params], batch, lambda scores: scores[0], watch=True)

    def nll(self, params, batch: Batch, *, chunk: int, shards: int) -> Array:
        options = LossOptions(chunk=chunk, shards=shards, precision=self.precision)
        return loss_sums(self.model, params, batch, options, dropout_key=None).nll


@dataclass(frozen=True)
class Ensemble:
    """Models of one vocabulary as one (`decode.ensemble`). Its parameters are the tuple of theirs."""

    members: tuple[Single, ...]
    kind: str
    """One of `decode.ensemble.KINDS`."""

    @property
    def reads(self) -> Port | None:
        """All members read the same."""
        return self.members[0].reads

    def rounded(self, params):
        return tuple(member.rounded(own) for member, own in self._with(params))

    def encode(self, params, batch: Batch) -> Memory:
        return tuple(member.encode(own, batch) for member, own in self._with(params))

    def init_cache(self, params, memory: Memory, *, width: int, max_len: int) -> Cache:
        return tuple(
            member.init_cache(own, read, width=width, max_len=max_len)
            for member, own, read in self._with(params, memory)
        )

    def step(self, params, memory: Memory) -> StepFn:
        return ensemble_step([member.step(own, read) for member, own, read in self._with(params, memory)], self.kind)

    def watched_step(self, params, memory: Memory) -> WatchedStep:
        def step(tokens: Array, caches: Cache) -> tuple[Array, Cache, Array]:
            stepped = [
                member._watched(own, read, tokens, cache)
                for member, own, read, cache in self._with(params, memory, caches)
            ]
            logits, advanced, layers = zip(*stepped, strict=True)
            return combine(logits, self.kind), advanced, mean_attention(layers)

        return step

    def token_log_probs(self, params, batch: Batch) -> Array:
        return _forced(self.members, params, batch, lambda scores: combine(scores, self.kind))[0]

    def target_logits(self, params, batch: Batch) -> Array:
        """Log-probabilities, as the members' distributions make them."""
        return _forced(self.members, params, batch, lambda scores: combine(scores, self.kind), per_position=_logits)[0]

    def watched_log_probs(self, params, batch: Batch) -> tuple[Array, list[list[Array]]]:
        return _forced(self.members, params, batch, lambda scores: combine(scores, self.kind), watch=True)

    def nll(self, params, batch: Batch, *, chunk: int, shards: int) -> Array:
        """One position of every row at a time, which is the chunk here."""
        return -jnp.sum(self.token_log_probs(params, batch) * batch["weights"])

    def _with(self, *values):
        return zip(self.members, *values, strict=True)


def attention_layers(scorer: Scorer, params) -> tuple[int, ...]:
    """How many layers of each of a scorer's models attend to the source. Nothing is computed.

    Args:
        params: the scorer's, or their shapes and types.
    """
    batch = batch_shapes(Ports(scorer.reads, Tokens(1)), 1, 1, 1)
    _, watched = jax.eval_shape(scorer.watched_log_probs, params, batch)
    return tuple(map(len, watched))


def mean_attention(models: Sequence[Sequence[Array]]) -> Array:
    """The mean over models of the mean over each one's layers; models without any do not count, and one has some."""
    means = [jnp.mean(jnp.stack(layers), axis=0) for layers in models if layers]
    return jnp.mean(jnp.stack(means), axis=0)


def _target_log_prob(scores: Array, targets: Array) -> Array:
    return -token_losses(scores, targets, label_smoothing=0.0, z_loss=0.0)[1]


def _logits(scores: Array, targets: Array) -> Array:
    return scores


def _forced(
    models: Sequence[Single],
    params: Sequence[Any],
    batch: Batch,
    together: Callable[[list[Array]], Array],
    *,
    watch: bool = False,
    per_position: Callable[[Array, Array], Array] = _target_log_prob,
) -> tuple[Array, list[list[Array]]]:
    """`Scorer.watched_log_probs` of what several models' logits `[B, V]` are `together`; those of one position at a
    time, since the members' whole distributions are needed, and not only what they say of the targets.

    Args:
        per_position: what is wanted of a position, given its logits `[B, V]` and targets `[B]`; `[B, ...]`.
    """
    applied: list[Any] = [
        each.model.apply({"params": own}, batch, train=False, mutable=["attention"] if watch else [])
        for each, own in zip(models, params, strict=True)
    ]
    outputs = [output for output, _ in applied]

    def one_position(positions_and_targets):
        positions, targets = positions_and_targets
        scores = [
            logits(at_position(output, own), each.precision)
            for each, output, own in zip(models, outputs, positions, strict=True)
        ]
        return per_position(together(scores), targets)

    positions = [by_position(output) for output in outputs]
    values = jax.lax.map(one_position, (positions, batch["targets"].T)).swapaxes(0, 1)
    return values, [jax.tree.leaves(sown) for _, sown in applied]
