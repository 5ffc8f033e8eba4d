"""One update of the train state: gradients of a batch, the optimizer, the moving average; jitted and sharded."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from s2sjax import sharding
from s2sjax.api import Batch
from s2sjax.experiment import Experiment
from s2sjax.inference.gathering import gathering
from s2sjax.inference.likelihood import bound, part_totals
from s2sjax.learning import faults
from s2sjax.learning.state import TrainState
from s2sjax.ops.dropout import rows_of_batch
from s2sjax.ops.linear import Precision
from s2sjax.ops.losses import LossOptions


def make_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    experiment: Experiment,
    mesh: Mesh,
    state_shardings: TrainState,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """One step, jitted once a shape, its state donated; its update is taken unless `faults` finds it bad.

    Metrics are sums over the batch, the norms of gradient and update, and what `faults` says and knew before it.
    """
    config, shards = experiment.train, sharding.batch_shards(mesh, split_time=experiment.splits_time)
    task, dropout = experiment.task, stream_key(experiment.seed, "dropout")
    options = LossOptions(
        label_smoothing=config.label_smoothing, z_loss=config.z_loss, chunk=config.loss_chunk, shards=shards,
        time_shards=mesh.shape["sequence"] if experiment.splits_time else 1, precision=Precision(config.precision),
    )  # fmt: skip

    def within_mesh() -> contextlib.AbstractContextManager:
        return sharding.with_mesh(mesh) if experiment.knows_mesh else contextlib.nullcontext()

    # Without rematerialisation a layer's parameters are kept for the backward pass whenever they are gathered.
    by_layer = experiment.gathers_layers and experiment.model.remat != "none"
    gathered = functools.partial(gathering, mesh=mesh, rules=experiment.sharding_rules, by_layer=by_layer)

    def loss(params, batch: Batch, key: Array, totals: Mapping[str, Any] | None = None):
        with within_mesh(), gathered(params) as ready:
            apply = bound(model, ready, dropout_key=key, totals=totals)
            sums = task.loss(apply, batch, options, train=True)
        return sums["loss"], sums

    def gradient(*args):
        """Sums of the loss and of its gradient over a batch, or a part of one."""
        made, sums = jax.grad(loss, has_aux=True)(*args)
        # What was gathered is parted again at once, each device keeping its share of the sum.
        return jax.lax.with_sharding_constraint(made, state_shardings.params), sums

    def in_parts(params, batch: Batch, key: Array):
        """The same in `accumulate` parts of the batch's rows, one after the other."""
        count = len(batch["targets"])

        def split(x: Array) -> Array:  # [B, ...] -> [parts, B / parts, ...]; strided, so that no row changes its device
            return x.reshape(len(x) // config.accumulate, config.accumulate, *x.shape[1:]).swapaxes(0, 1)

        def added(function):
            def part(sums, rows_and_batch):
                rows, batch = rows_and_batch
                with rows_of_batch(rows, count):  # dropout draws for them what it draws in the whole batch
                    return jax.tree.map(jnp.add, sums, function(batch)), None

            parts = split(jnp.arange(count)), jax.tree.map(split, dict(batch))
            first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), parts[1])
            zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, first))
            return jax.lax.scan(part, zero, parts)[0]

        def counted(batch: Batch):
            with within_mesh(), gathered(params) as ready:
                return part_totals(model, ready, batch, dropout_key=key)

        totals = added(counted) if getattr(experiment.model, "experts", 0) else {}
        return added(lambda batch: gradient(params, batch, key, totals))

    gradients = gradient if config.accumulate == 1 else in_parts

    def step(state: TrainState, batch: Batch):
        grads, sums = gradients(state.params, batch, jax.random.fold_in(dropout, state.step))
        # One division by the weight of the whole batch: accumulation and sharding cannot change what is computed.
        grads = jax.tree.map(lambda g: g / sums["weight"], grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None
        if state.ema is not None:
            # Young averages forget faster, so that the first, random parameters do not linger.
            decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))
            ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema, params)
        norms = {"gradient_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
        taken, health = faults.judge(experiment.faults, state.health, loss=sums["loss"] / sums["weight"], **norms)
        new, old = (params, opt_state, ema), (state.params, state.opt_state, state.ema)
        params, opt_state, ema = faults.choose_tree(taken, new, old)
        metrics = {
            **sums,
            **norms,
            "cells": batch["input_segments"].size + batch["target_segments"].size,
            "filled": sum(jnp.sum(batch[name] > 0) for name in ("input_segments", "target_segments")),
            "taken": taken,
            "bad_steps": jax.lax.population_count(health.bad_steps),
            "updates": state.health.updates,
            "usual_loss": state.health.loss,
            "usual_gradient_norm": state.health.gradient_norm,
        }
        return TrainState(state.step + 1, params, opt_state, ema, health), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(state_shardings, None))


def stream_key(seed: int, stream: str) -> Array:
    """The key of one use of randomness ("init", "dropout"): distinct streams never meet."""
    return jax.random.fold_in(jax.random.key(seed), ("init", "dropout").index(stream))
