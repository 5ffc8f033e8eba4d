"""What a training run is made of, top to bottom: config, mesh, data, model, optimizer, state, step function."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import optax
from jax import Array
from jax.sharding import Mesh

from s2sjax import sharding
from s2sjax.data.columns import Examples
from s2sjax.data.mixing import training_plan
from s2sjax.data.plan import Plan
from s2sjax.data.prepare import Prepared, prepare
from s2sjax.data.segmentation import Segmentation, sampled_segmentation
from s2sjax.experiment import Experiment
from s2sjax.learning import optim
from s2sjax.learning.state import TrainState, shardings
from s2sjax.reporting.display import progress
from s2sjax.runs import home
from s2sjax.runs.assembly import assemble_run, check_one_table
from s2sjax.runs.evaluate import check_metric, check_search, text_metrics_of
from s2sjax.runs.workdir import check_workdir, claim_workdir, own_tokenizers
from s2sjax.training.step import make_step

Metrics = Mapping[str, Array]


@dataclass(frozen=True)
class Setup:
    """What a run is made of, whatever step it is at."""

    experiment: Experiment
    held: Experiment | None
    """What the workdir held before: of a run that goes on, the config of its last start."""
    workdir: Path
    mesh: Mesh
    prepared: Prepared
    split: Examples
    plan: Plan
    segmentation: Segmentation | None
    init: Callable[[Array], TrainState]
    abstract: TrainState
    schedule: optax.Schedule
    step: Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, Metrics]]


def set_up(experiment: Experiment, workdir: Path, said: Collection[str] | None = None) -> Setup:
    # ---- Config and mesh ----
    home.check(workdir, experiment, said)
    check_metric(experiment)
    text_metrics_of(experiment, experiment.validation_metrics)
    mesh = sharding.make_mesh(experiment.mesh)
    held = check_workdir(experiment, workdir)

    # ---- Data ----
    with progress("preparing data") as advance:
        own = own_tokenizers(workdir)
        home.check_tokens(workdir, experiment, said, own)
        tokenizer, rows = experiment.task.tokenizer(experiment.tokenizer), experiment.task.rows
        prepared = prepare(experiment.data, tokenizer, rows=rows, own=own, progress=advance)
    if held is None:
        check_one_table(experiment, prepared.tokenizers)
    split = experiment.task.arrange(prepared.splits["train"])
    divisor = sharding.batch_shards(mesh, split_time=experiment.splits_time) * experiment.train.accumulate
    sections = experiment.batching, experiment.tokenizer
    plan = training_plan(split, experiment.data, *sections, seed=experiment.seed, divisor=divisor)
    segmentation = sampled_segmentation(rows, *sections, prepared.tokenizers, experiment.seed)

    # ---- Model, optimizer, state ----
    parts = assemble_run(experiment, prepared.tokenizers.vocabularies, mesh)
    schedule = optim.make_schedule(experiment.optimizer, experiment.train.steps)
    check_search(experiment, workdir, said, prepared.tokenizers, parts.state.best_params)
    claim_workdir(experiment, workdir, prepared)

    # ---- Step function ----
    step = make_step(parts.model, parts.optimizer, experiment, mesh, shardings(parts.state))
    return Setup(
        experiment, held, workdir, mesh, prepared, split, plan, segmentation, parts.init, parts.state, schedule, step
    )
