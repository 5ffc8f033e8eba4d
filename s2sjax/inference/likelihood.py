"""Maximum likelihood: the loss of a batch, and the logits of a model's output."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from s2sjax.api import Batch, Mixture, Output
from s2sjax.nn.totals import TOTALS
from s2sjax.ops.copying import chunked_copying_cross_entropy, mix
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.losses import LossOptions, LossSums, chunked_cross_entropy, finite_log, mixture_cross_entropy


def loss_sums(
    model: nn.Module,
    params,
    batch: Batch,
    options: LossOptions,
    *,
    dropout_key: Array | None,
    totals: Mapping[str, Any] | None = None,
) -> LossSums:
    """Sums of the loss over a batch's tokens; with a dropout key as in training, without one as in evaluation.

    A model's auxiliary loss is part of `loss` in training only, and never of `nll`.

    Args:
        totals: of the whole batch, if this is a part of one: the sum of what `part_totals` gives of each.
    """
    output = bound(model, params, dropout_key=dropout_key, totals=totals)(batch)
    return cross_entropy_sums(output, batch, options, train=dropout_key is not None)


def bound(
    model: nn.Module, params, *, dropout_key: Array | None, totals: Mapping[str, Any] | None = None
) -> Callable[[Batch], Output | Mixture]:
    """A model with its parameters: what it makes of a batch. Args: as those of `loss_sums`."""
    variables = {"params": params, TOTALS: totals or {}}
    rngs = None if dropout_key is None else {"dropout": dropout_key}

    def apply(batch: Batch) -> Output | Mixture:
        output = model.apply(variables, batch, train=dropout_key is not None, rngs=rngs)
        assert isinstance(output, Output | Mixture), f"{type(model).__name__} returned {type(output).__name__}"
        return output

    return apply


def cross_entropy_sums(output: Output | Mixture, batch: Batch, options: LossOptions, *, train: bool) -> LossSums:
    """Sums of the loss over a batch's tokens, of what a model made of it. Args: train: with its auxiliary loss."""
    if isinstance(output, Mixture):
        sums = mixture_cross_entropy(
            output.features,
            output.kernel,
            batch["targets"],
            batch["weights"],
            label_smoothing=options.label_smoothing,
        )
    elif output.copying is not None:
        sums = chunked_copying_cross_entropy(output, batch["targets"], batch["weights"], options)
    else:
        sums = chunked_cross_entropy(
            output.features, output.kernel, output.bias, batch["targets"], batch["weights"], options
        )
    return sums._replace(loss=sums.loss + output.aux) if train and output.aux is not None else sums


def part_totals(model: nn.Module, params, batch: Batch, *, dropout_key: Array) -> Mapping[str, Any]:
    """The sums over a part of a batch of which a model needs those over the whole batch (`nn.totals`), in training."""
    variables = {"params": params, TOTALS: {}}
    _, made = model.apply(variables, batch, train=True, rngs={"dropout": dropout_key}, mutable=[TOTALS])
    return made.get(TOTALS, {})


def logits(output: Output | Mixture, precision: Precision) -> Float[Array, "*any V"]:
    """Float32 scores `[..., V]` of every word, whose softmax is its probability.

    Those of a mixture, and of a model that copies, are log-probabilities.
    """
    if isinstance(output, Mixture):
        return finite_log(output.features @ output.kernel)
    scores = project(output.features, output.kernel, precision).astype(jnp.float32)
    scores = scores if output.bias is None else scores + output.bias
    return scores if output.copying is None else mix(scores, output.copying)


def by_position(output: Output | Mixture) -> tuple[Array, ...]:
    """What an output has of its own at each position, `[T, B, ...]`: features and, if it copies, gate and masses."""
    copying = output.copying if isinstance(output, Output) else None
    own = (output.features,) if copying is None else (output.features, copying.gate, copying.masses)
    return tuple(x.swapaxes(0, 1) for x in own)


def at_position(output: Output | Mixture, own: tuple[Array, ...]) -> Output | Mixture:
    """The output with one position, of those that `by_position` gives, in place of all."""
    features, *copied = own
    if isinstance(output, Output) and output.copying is not None:
        gate, masses = copied
        return output._replace(features=features, copying=output.copying._replace(gate=gate, masses=masses))
    return output._replace(features=features)
