"""Teacher forcing over pairs that are known: the log-probability of every token, and attention over the source.

Row t of an attention matrix belongs to the decoder position that predicts token t and has read the tokens before it.
That holds for every family: the Transformer's position t, the RNN's state after token t - 1, which asks for the context
that predicts token t, and GNMT's bottom layer, whose context the layers above read at the same step.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from s2sjax.api import Batch
from s2sjax.data.columns import Column, Examples
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.data.rows import turn_round
from s2sjax.errors import UserError, shown
from s2sjax.inference.batching import padded_length, serving_batches
from s2sjax.inference.scorers import Scorer, mean_attention
from s2sjax.ops.losses import token_losses
from s2sjax.plural import counted
from s2sjax.processes.memory import needing_memory
from s2sjax.sharding import to_host

Layers = tuple[tuple[int, ...], ...]
"""Which layers' attention is looked at, of each of a scorer's models, counted from 0 at the bottom."""


class Forced(NamedTuple):
    """What teacher forcing says of a batch, in arrays of jax; or of one pair, in numpy's, without B and padding."""

    log_probs: Any
    """[B, T] float32, nats, end-of-sentence counted; 0 where the batch's weights are."""
    attention: Any
    """[B, T, S] float32, rows that sum to 1; None if no layer was looked at."""
    logits: Any = None
    """[B, T, V] float32, of every word as each target; None if they were not asked for."""


@functools.partial(jax.jit, static_argnames=("scorer", "layers"))
def force(scorer: Scorer, params, batch: Batch, *, layers: Layers = ()) -> Forced:
    """One forward pass over a batch with one segment a row.

    Args:
        layers: attention is averaged over those of each model, and then over the models that have any.
    """
    if not any(layers):
        return Forced(scorer.token_log_probs(params, batch) * batch["weights"], None)
    log_probs, watched = scorer.watched_log_probs(params, batch)
    looked_at = [[own[i] for i in chosen] for own, chosen in zip(watched, layers, strict=True)]
    return Forced(log_probs * batch["weights"], mean_attention(looked_at))


@functools.partial(jax.jit, static_argnames="scorer")
def force_logits(scorer: Scorer, params, batch: Batch) -> Forced:
    """`force` that keeps the whole distributions, and looks at no attention."""
    scores = scorer.target_logits(params, batch)
    nll = token_losses(scores, batch["targets"], label_smoothing=0.0, z_loss=0.0)[1]
    return Forced(-nll * batch["weights"], None, scores)


def cross_attention(model: nn.Module, params, batch: Batch):
    """Attention of each target position over the source, [B, T, S], averaged over layers and heads; models sow it.

    None for a model without attention over a source.
    """
    _, sown = model.apply({"params": params}, batch, train=False, mutable=["attention"])
    weights = jax.tree.leaves(sown)
    return mean_attention([weights]) if weights else None


def choose_layers(layer: int | None, counts: Sequence[int]) -> Layers:
    """One layer of each model that has any, or all of them.

    Args:
        layer: 1 is the lowest, -1 the highest, None all.
        counts: as `scorers.attention_layers` gives them.

    Raises:
        UserError: there is no such layer.
    """
    if layer is None:
        return tuple(tuple(range(count)) for count in counts)
    if not isinstance(layer, int | np.integer) or isinstance(layer, bool):
        raise UserError(f"layer is {shown(layer)}, expected a whole number, 1 for the lowest, or None for all")
    for count in filter(None, counts):
        if not 1 <= abs(layer) <= count:
            raise UserError(
                f"layer {layer} is asked for, but the model's layers that attend to the source are 1, the lowest, to "
                f"{count}, or counted from the highest -1 to -{count}"
            )
    return tuple((layer - 1 if layer > 0 else count + layer,) if count else () for count in counts)


@dataclass(frozen=True)
class ForcedOptions:
    """How pairs are forced.

    Attributes:
      batch_size: see `serving_batches`.
      layers: whose attention to look at; None for logits instead.
      right_to_left: the models write a target's last token first. The split's targets, and what is said of their
        tokens, are in reading order all the same.
    """

    batch_size: int
    layers: Layers | None = ()
    right_to_left: bool = False


def forced_pairs(
    scorer: Scorer,
    params,
    split: Examples,
    options: ForcedOptions,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Forced]:
    """What teacher forcing says of each pair, in their order: `log_probs` [n]; `attention` [n, S] or `logits` [n, V].

    Tokens that are only given, at the beginning of a target, are left out.
    """
    layers = options.layers
    copied: Callable[[np.ndarray], np.ndarray] = np.copy  # or the padding would stay in memory
    if options.right_to_left:
        copied = turn_round
        rows = [turn_round(split["target"][i]) for i in range(len(split))]
        split = split.with_columns({"target": Column.from_rows(rows)})
    pairs: list[Forced] = [Forced(np.zeros(0, np.float32), None)] * len(split)
    for examples, batch in batches(split, options.batch_size):
        rows, tokens = batch["targets"].shape
        with needing_memory(
            f"for {counted(rows, 'pair')} of {batch['inputs'].shape[1]} source and {counted(tokens, 'target token')}: "
            "lower config.decode.batch_size, or leave out or cut the longest targets"
        ):
            forced = to_host(
                force_logits(scorer, params, batch) if layers is None else force(scorer, params, batch, layers=layers)
            )
        for row, example in enumerate(examples):
            first = 0 if split.given is None else int(split.given[example])
            predicted = slice(first, int(split["target"].lengths[example]))
            attention = None
            if forced.attention is not None:
                attention = copied(forced.attention[row, predicted, : split["source"].lengths[example]])
            logits = None if forced.logits is None else copied(forced.logits[row, predicted])
            pairs[example] = Forced(copied(forced.log_probs[row, predicted]), attention, logits)
        progress(len(examples))
    return pairs


def batches(split: Examples, batch_size: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The numbers of some examples and their batch, until all have come. Args: batch_size: see `serving_batches`."""
    source, target = split["source"].lengths, split["target"].lengths
    for planned in serving_batches(source, target, batch_size=batch_size):
        S, T = (int(lengths[planned.requests].max()) for lengths in (source, target))
        shape = Shape(planned.rows, padded_length(S) if S else 0, padded_length(T))
        rows = np.arange(len(planned.requests))
        yield planned.requests, assemble(PlannedBatch(shape, planned.requests, rows), split)
