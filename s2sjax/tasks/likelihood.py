"""Maximum likelihood: the loss of a batch, and the log-probability of each of its examples."""

from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from s2sjax.api import Batch, Output
from s2sjax.ops.linear import Precision, project
from s2sjax.ops.losses import LossSums, chunked_cross_entropy, token_losses


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
    """Sums of the loss over a batch's tokens; with a dropout key as in training, without one as in evaluation."""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    output = cast(Output, model.apply({"params": params}, batch, train=dropout_key is not None, rngs=rngs))
    return chunked_cross_entropy(
        output.features, output.kernel, output.bias, batch["targets"], batch["weights"],
        label_smoothing=label_smoothing, z_loss=z_loss, chunk=chunk, shards=shards, precision=precision,
    )  # fmt: skip


def sentence_log_probs(model: nn.Module, params, batch: Batch, *, precision: Precision) -> Float[Array, "B"]:
    """Log-probability of each row's target given its source, in nats, end-of-sentence counted. One segment a row."""
    output = cast(Output, model.apply({"params": params}, batch, train=False))

    def one_position(features_and_targets):  # [B, D], [B] -> [B]: one position's logits at a time
        features, targets = features_and_targets
        logits = project(features, output.kernel, precision).astype(jnp.float32)
        logits = logits if output.bias is None else logits + output.bias
        return -token_losses(logits, targets, label_smoothing=0.0, z_loss=0.0)[1]

    log_probs = jax.lax.map(one_position, (output.features.swapaxes(0, 1), batch["targets"].T))
    return jnp.sum(log_probs.T * batch["weights"], axis=1)
