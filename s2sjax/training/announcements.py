"""What a training run says before its first step and after its last."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.data.parts import parts_of
from s2sjax.data.plan import Plan
from s2sjax.errors import UserError, flag, listed
from s2sjax.experiment import Experiment
from s2sjax.files import rundir
from s2sjax.learning.optim import make_schedule
from s2sjax.learning.state import TrainState
from s2sjax.plural import counted
from s2sjax.reporting import events, goodput
from s2sjax.reporting.report import Reporter
from s2sjax.training.unused import without_effect


def describe(report: Reporter, experiment: Experiment, plan: Plan, mesh: Mesh, state: TrainState, start: int) -> None:
    """What is about to happen, before the first step."""
    count = sum(p.size for p in jax.tree.leaves(state.params))
    devices = counted(mesh.size, f"{mesh.devices.flat[0].platform} device")
    report.message(
        f"{experiment.model_name}, {counted(count, 'parameter')}, {experiment.train.precision}, on {devices}"
        + (f"; resuming at step {start}" if start else "")
    )
    for sentence in without_effect(experiment):
        report.message(f"warning: {sentence}")
    shapes = ", ".join(f"{s.rows}x({s.source}+{s.target})" for s in plan.shapes)
    report.message(
        f"{counted(plan.examples_per_epoch, 'example')}, {counted(plan.batches_per_epoch, 'batch')} an epoch, "
        f"{experiment.train.steps / plan.batches_per_epoch:.1f} epochs; {counted(len(plan.shapes), 'shape')}: "
        f"{shapes}; "
        f"padding {plan.padding:.1%}"
    )
    for note in plan.notes:
        report.message(note)
    tokenizer = experiment.tokenizer
    if tokenizer.sampled_sides:
        report.message(
            f"sampled segmentation of {' and '.join(f'{side}s' for side in tokenizer.sampled_sides)}: batches are "
            f"planned for {tokenizer.sampling_slack:g} times their tokens (config.tokenizer.sampling_slack)"
        )
    if len(plan.too_long):
        report.message(
            f"{len(plan.too_long):,} of {counted(len(plan.source_lengths), 'training example')} are over "
            f"{experiment.batching.max_source_length} source or "
            f"{counted(experiment.batching.max_target_length, 'target token')} and are "
            "left out (config.batching.max_source_length, max_target_length)"
        )


def rescheduled(held: Experiment | None, experiment: Experiment, start: int) -> Iterator[str]:
    """A warning if the learning rate of the steps to come is another one because `train.steps` has changed.

    Args:
        held: the config of the last start; None if this is the first.
        start: the step that the run goes on from.
    """
    if held is None or held.train.steps == experiment.train.steps:
        return
    before, now = held.train.steps, experiment.train.steps
    old, new = (make_schedule(experiment.optimizer, steps) for steps in (before, now))
    ahead = np.unique(np.linspace(start, max(before, now, start), 64, dtype=int))  # from the update that comes next on
    if not np.allclose(old(ahead), new(ahead), rtol=1e-5, atol=0):
        yield (
            f"warning: config.train.steps was {before:,} and is {now:,}, and the learning rate depends on it "
            f"(config.optimizer.schedule={experiment.optimizer.schedule}): it now falls until step {now:,}, no longer "
            f"until step {before:,}; at step {start + 1:,} it is {float(new(start)):.3g}, and would have been "
            f"{float(old(start)):.3g}"
        )


def say_goodput(report: Reporter, workdir: Path) -> None:
    """What share of the run's time went into steps that count."""
    with report.losing("goodput"), contextlib.suppress(UserError):
        if jax.process_index() == 0:
            found = goodput.line(goodput.compute(events.read(workdir / events.NAME)))
            report.message(
                f"goodput {found}, went into steps that count; s2sjax goodput --workdir={shlex.quote(str(workdir))} "
                "says where the rest went"
            )


def say_next(report: Reporter, workdir: Path, experiment: Experiment, checkpoints: CheckpointReader) -> None:
    """`next_commands`, by process 0."""
    with report.losing("what to do next"):
        if jax.process_index() == 0:
            report.message(next_commands(workdir, experiment, checkpoints))


def next_commands(workdir: Path, experiment: Experiment, checkpoints: CheckpointReader) -> str:
    """Which checkpoint is used from now on, where the pictures are, and what to type next."""
    metric, lines = experiment.checkpoint.metric, []
    best, newest = checkpoints.best_step(), checkpoints.latest_step()
    if best is not None:
        value = checkpoints.metrics(best)[metric]
        equals = [str(s) for s in checkpoints.steps() if s != best and checkpoints.metrics(s).get(metric) == value]
        also = f" (the newest of equals: {listed([*equals, str(best)])})" if equals else ""
        lines.append(f"best checkpoint: step {best}{also}, validation {metric} {value:.4f}; newest: step {newest}")
    pictures = [name for name in rundir.names(workdir, "plots") if name.endswith(".png")]
    if pictures:
        lines.append(f"pictures: {', '.join(pictures[:4])}{', ...' * (len(pictures) > 4)} in {workdir / 'plots'}")
    run = f"--workdir={shlex.quote(str(workdir))}"
    data, parts = experiment.data, parts_of(experiment.data)
    one = ""
    if len(data.pairs) > 1 or len({part.prompt for part in parts.values()}) > 1:  # decode asks which is meant
        key = f"config.data.{'pairs' if data.pairs else 'sets'}"
        one = f" {flag(key, (next(iter(parts)),))}"
    commands = [f"evaluate {run}", f"decode {run}{one} --input=FILE --output=FILE", f"checkpoints {run}"]
    return "\n".join([*lines, "next:", *(f"  s2sjax {command}" for command in commands)])
