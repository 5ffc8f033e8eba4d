"""One update of the train state: gradients of a batch, the optimizer, the moving average; jitted and sharded."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from s2sjax import sharding
from s2sjax.api import Batch
from s2sjax.experiment import Experiment
from s2sjax.ops.linear import Precision
from s2sjax.state import TrainState
from s2sjax.tasks.likelihood import loss_sums


def make_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    experiment: Experiment,
    mesh: Mesh,
    state_shardings: TrainState,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """One update, jitted once a shape, its state donated. Metrics are sums over the batch, and the gradient's norm."""
    config, shards = experiment.train, sharding.batch_shards(mesh)
    dropout = stream_key(experiment.seed, "dropout")

    def loss(params, batch: Batch, key: Array):
        sums = loss_sums(
            model, params, batch, dropout_key=key, label_smoothing=config.label_smoothing, z_loss=config.z_loss,
            chunk=config.loss_chunk, shards=shards, precision=Precision(config.precision),
        )  # fmt: skip
        return sums.loss, sums

    def gradients(params, batch: Batch, key: Array):
        """Sums of the loss and of its gradient over the batch, in `accumulate` parts of its rows."""
        gradient = jax.grad(loss, has_aux=True)
        if config.accumulate == 1:
            return gradient(params, batch, key)

        def split(x: Array) -> Array:  # [B, ...] -> [parts, B / parts, ...]; strided, so that no row changes its device
            return x.reshape(-1, config.accumulate, *x.shape[1:]).swapaxes(0, 1)

        def part(total, x):
            number, batch = x
            return jax.tree.map(jnp.add, total, gradient(params, batch, jax.random.fold_in(key, number))), None

        parts = jnp.arange(config.accumulate), jax.tree.map(split, dict(batch))
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, params, batch, key))
        return jax.lax.scan(part, zero, parts)[0]

    def step(state: TrainState, batch: Batch):
        grads, sums = gradients(state.params, batch, jax.random.fold_in(dropout, state.step))
        # One division by the weight of the whole batch: accumulation and sharding cannot change what is computed.
        grads = jax.tree.map(lambda g: g / sums.weight, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None
        if state.ema is not None:
            # Young averages forget faster, so that the first, random parameters do not linger.
            decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
            ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema, params)
        cells = batch["inputs"].size + batch["targets"].size
        filled = sum(jnp.sum(batch[name] > 0) for name in ("input_segments", "target_segments"))
        metrics = {**sums._asdict(), "gradient_norm": optax.tree.norm(grads), "cells": cells, "filled": filled}
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, None))


@functools.cache
def stream_key(seed: int, stream: str) -> Array:
    """The key of one use of randomness ("init", "dropout"): distinct streams never meet."""
    return jax.random.fold_in(jax.random.key(seed), ("init", "dropout").index(stream))
