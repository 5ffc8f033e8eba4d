"""What a training run says before its first step and after its last."""

import shlex
from pathlib import Path

import jax
from jax.sharding import Mesh

from s2sjax import rundir
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.data.plan import Plan
from s2sjax.experiment import Experiment
from s2sjax.report import Reporter
from s2sjax.state import TrainState
from s2sjax.unused import without_effect


def describe(report: Reporter, experiment: Experiment, plan: Plan, mesh: Mesh, state: TrainState, start: int) -> None:
    """What is about to happen, before the first step."""
    count = sum(p.size for p in jax.tree.leaves(state.params))
    devices = _count(mesh.size, f"{mesh.devices.flat[0].platform} device")
    report.message(
        f"{experiment.model_name}, {count:,} parameters, {experiment.train.precision}, on {devices}"
        + (f"; resuming at step {start}" if start else "")
    )
    for sentence in without_effect(experiment):
        report.message(f"warning: {sentence}")
    shapes = ", ".join(f"{s.rows}x({s.source}+{s.target})" for s in plan.shapes)
    report.message(
        f"{plan.examples_per_epoch:,} examples, {plan.batches_per_epoch:,} batches an epoch, "
        f"{experiment.train.steps / plan.batches_per_epoch:.1f} epochs; {_count(len(plan.shapes), 'shape')}: {shapes}; "
        f"padding {plan.padding:.1%}"
    )
    if len(plan.too_long):
        report.message(
            f"{len(plan.too_long):,} of {len(plan.source_lengths):,} training examples are over "
            f"{experiment.data.max_source_length} source or {experiment.data.max_target_length} target tokens and are "
            "left out (config.data.max_source_length, max_target_length)"
        )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def next_commands(workdir: Path, experiment: Experiment, checkpoints: CheckpointReader) -> str:
    """Which checkpoint is used from now on, where the pictures are, and what to type next."""
    metric, lines = experiment.checkpoint.metric, []
    best, newest = checkpoints.best_step(), checkpoints.latest_step()
    if best is not None:
        value = checkpoints.metrics(best)[metric]
        equals = [str(s) for s in checkpoints.steps() if s != best and checkpoints.metrics(s).get(metric) == value]
        also = f" (the newest of equals: {', '.join([*equals, str(best)])})" if equals else ""
        lines.append(f"best checkpoint: step {best}{also}, validation {metric} {value:.4f}; newest: step {newest}")
    pictures = [name for name in rundir.names(workdir, "plots") if name.endswith(".png")]
    if pictures:
        lines.append(f"pictures: {', '.join(pictures[:4])}{', ...' * (len(pictures) > 4)} in {workdir / 'plots'}")
    run = f"--workdir={shlex.quote(str(workdir))}"
    commands = [f"evaluate {run}", f"decode {run} --input=FILE --output=FILE", f"checkpoints {run}"]
    return "\n".join([*lines, "next:", *(f"  s2sjax {command}" for command in commands)])
