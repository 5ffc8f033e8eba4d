"""A few steps of training as `s2sjax.train` computes them, on any mesh: what is compared where one computation is to be
the same everywhere."""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from s2sjax import sharding
from s2sjax.data import pipeline
from s2sjax.data.plan import Plan, make_plan
from s2sjax.data.prepare import prepare
from s2sjax.experiment import Experiment
from s2sjax.learning.state import TrainState, shardings
from s2sjax.runs.assembly import assemble_run
from s2sjax.training.step import make_step, stream_key


class Started(NamedTuple):
    """Training before its first step."""

    mesh: Mesh
    plan: Plan
    step: Any
    state: TrainState
    batches: Iterator[Mapping[str, jax.Array]]
    """Of `train.steps` steps, on the devices; a process makes its own rows only."""


class Computed(NamedTuple):
    losses: np.ndarray
    """Nats a target token, of each step."""
    batches: list[str]
    """A hash of what each step was given, of all processes together."""


def start(experiment: Experiment, devices: int | None = None) -> Started:
    """Training on so many devices, or on all there are, of all processes."""
    config, split_time = experiment.train, experiment.splits_time
    mesh = sharding.make_mesh(experiment.mesh, jax.devices()[:devices])
    task = experiment.task
    prepared = prepare(experiment.data, task.tokenizer(experiment.tokenizer), ("train",), rows=task.rows)
    examples = task.arrange(prepared.splits["train"])
    plan = make_plan(
        *task.lengths(examples), experiment.batching, seed=experiment.seed,
        divisor=sharding.batch_shards(mesh, split_time=split_time) * config.accumulate,
    )  # fmt: skip
    parts = assemble_run(experiment, prepared.tokenizers.vocabularies, mesh)
    places = shardings(parts.state)
    state = jax.jit(parts.init, out_shardings=places)(stream_key(experiment.seed, "init"))
    place = sharding.batch_sharding(mesh, split_time=split_time)
    only = functools.partial(sharding.rows_here, place)
    feed = pipeline.batches(plan, functools.partial(task.batch, examples=examples), range(config.steps), only=only)
    batches = (sharding.to_devices(batch, place) for batch in feed)
    return Started(mesh, plan, make_step(parts.model, parts.optimizer, experiment, mesh, places), state, batches)


def compute(experiment: Experiment, devices: int | None = None) -> Computed:
    """All `train.steps` of an experiment."""
    _, _, step, state, batches = start(experiment, devices)
    losses, given = [], []
    for batch in batches:
        whole = sharding.to_host(dict(batch))
        given.append(hashlib.sha256(b"".join(whole[name].tobytes() for name in sorted(whole))).hexdigest())
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]) / float(metrics["weight"]))
    return Computed(np.array(losses), given)
