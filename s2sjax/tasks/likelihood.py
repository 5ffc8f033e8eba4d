"""Maximum likelihood: the loss of a batch, and the logits of a model's output."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from s2sjax.api import Batch, Mixture, Output
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.losses import LossSums, chunked_cross_entropy, finite_log, mixture_cross_entropy


def loss_sums(
    model: nn.Module,
    params,
    batch: Batch,
    *,
    dropout_key: Array | None,
    label_smoothing: float,
    z_loss: float,
    chunk: int,
    shards: int,
    precision: Precision,
) -> LossSums:
    """Sums of the loss over a batch's tokens; with a dropout key as in training, without one as in evaluation.

    A model's auxiliary loss is part of `loss` in training only, and never of `nll`.
    """
    train = dropout_key is not None
    output = _apply(model, params, batch, train=train, rngs={"dropout": dropout_key} if train else None)
    if isinstance(output, Mixture):
        sums = mixture_cross_entropy(
            output.features, output.kernel, batch["targets"], batch["weights"], label_smoothing=label_smoothing
        )
    else:
        sums = chunked_cross_entropy(
            output.features, output.kernel, output.bias, batch["targets"], batch["weights"],
            label_smoothing=label_smoothing, z_loss=z_loss, chunk=chunk, shards=shards, precision=precision,
        )  # fmt: skip
    return sums._replace(loss=sums.loss + output.aux) if train and output.aux is not None else sums


def logits(output: Output | Mixture, precision: Precision) -> Float[Array, "*any V"]:
    """Float32 scores `[..., V]` of every word, whose softmax is its probability. A mixture's are log-probabilities."""
    if isinstance(output, Mixture):
        return finite_log(output.features @ output.kernel)
    scores = project(output.features, output.kernel, precision).astype(jnp.float32)
    return scores if output.bias is None else scores + output.bias


def _apply(model: nn.Module, params, batch: Batch, **options) -> Output | Mixture:
    output = model.apply({"params": params}, batch, **options)
    assert isinstance(output, Output | Mixture), f"{type(model).__name__} returned {type(output).__name__}"
    return output
