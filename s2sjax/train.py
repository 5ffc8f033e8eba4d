"""The training loop, top to bottom: config, mesh, data, shapes, init, restore, step function, loop, close.

A run is a pure function of its config: batch, dropout and learning rate of step `i` follow from the seed and from `i`,
so a run that was interrupted anywhere and resumed ends with the same bits as one that was left alone.
"""

import contextlib
import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import jax
from jax import Array
from jax.sharding import Mesh

from s2sjax import models, optim, sharding
from s2sjax.checkpoint import Checkpointer
from s2sjax.data import pipeline
from s2sjax.data.plan import Plan, make_plan
from s2sjax.data.prepare import prepare
from s2sjax.data.windows import windowed
from s2sjax.errors import UserError
from s2sjax.evaluate import Validator
from s2sjax.experiment import Experiment
from s2sjax.ops.linear import Precision
from s2sjax.plots import learning_curves
from s2sjax.report import Reporter, progress
from s2sjax.state import TrainState, abstract_state, initializer, shardings
from s2sjax.step import make_step, stream_key
from s2sjax.workdir import check_workdir, claim_workdir

INTERRUPTED = 75
"""Exit code of a run that saved and stopped on SIGTERM or SIGINT: EX_TEMPFAIL, "try again"."""

def train(experiment: Experiment, workdir: Path) -> int:
    """Train from scratch, or resume what stands in `workdir`. Returns the exit code: 0, or `INTERRUPTED`.

    Raises:
        UserError: for bad data, a workdir of another config, a checkpoint of another shape, a disk that is full.
    """
    # ---- Config and mesh ----
    mesh = sharding.make_mesh(experiment.mesh)
    check_workdir(experiment, workdir)
    config, precision = experiment.train, Precision(experiment.train.precision)

    # ---- Data ----
    with progress("preparing data") as advance:
        prepared = prepare(experiment.data, experiment.tokenizer, ("train", "validation"), progress=advance)
    train_split = windowed(prepared.splits["train"], experiment.data)
    divisor = sharding.batch_shards(mesh) * config.accumulate
    plan = make_plan(
        train_split.source.lengths, train_split.target.lengths, experiment.data, seed=experiment.seed, divisor=divisor
    )

    # ---- Model, optimizer, state ----
    family = models.family(experiment.model_name)
    vocabularies = (prepared.tokenizers.source.vocab_size, prepared.tokenizers.target.vocab_size)
    model = family.build(experiment.model, *vocabularies, precision=precision)
    optimizer = optim.make_optimizer(experiment.optimizer, config.steps)
    init = initializer(model, optimizer, ema=config.ema_decay > 0)
    abstract = abstract_state(init, mesh, family.sharding_rules(experiment.model))
    claim_workdir(experiment, workdir, prepared)

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpointer(workdir / "checkpoints", experiment.checkpoint))
        # ---- Restore or init ----
        restored = checkpoints.restore(abstract, set_aside=True)
        start = restored.step if restored else 0
        report = stack.enter_context(Reporter(workdir, total_steps=config.steps, resumed_from=start))
        for message in restored.rejected if restored else ():
            report.message(message)
        if restored:
            state = restored.state
        else:
            state = jax.jit(init, out_shardings=shardings(abstract))(stream_key(experiment.seed, "init"))
        describe(report, experiment, plan, mesh, state, start)
        validator = Validator(experiment, prepared, mesh, report)

        # ---- Step function ----
        step_fn = make_step(model, optimizer, experiment, mesh, shardings(abstract))
        schedule = optim.make_schedule(experiment.optimizer, config.steps)
        feed = sharding.prefetch(
            pipeline.batches(
                plan, train_split, start=start, stop=config.steps, part=jax.process_index(), parts=jax.process_count()
            ),
            lambda batch: sharding.to_devices(batch, sharding.batch_sharding(mesh)),
        )
        stack.callback(feed.close)
        stop = stack.enter_context(_stop_requests())

        # ---- Loop ----
        window = Window()
        pending: tuple[int, Mapping[str, Array]] | None = None
        compiled: set[tuple[int, ...]] = set()

        def settle() -> None:
            """Read the metrics of the last dispatched step. Called after the next one is on its way."""
            nonlocal pending
            if pending is None:
                return
            step, metrics = pending
            pending = None
            window.add({name: float(value) for name, value in metrics.items()})
            if not math.isfinite(window.last_loss):
                raise UserError(
                    f"the loss is {window.last_loss} at step {step} (last checkpoint: "
                    f"{checkpoints.latest_step() or 'none'}): lower config.optimizer.learning_rate or set "
                    "config.optimizer.clip_norm, and use another workdir"
                )
            if step % config.log_every == 0 or step == config.steps:
                report.step_line(step, {**window.summary(), "learning_rate": float(schedule(step - 1))})
            report.advance(step)

        for step in range(start + 1, config.steps + 1):
            batch = next(feed)
            shape = batch["inputs"].shape + batch["targets"].shape[1:]
            if shape not in compiled:
                settle()
                began = time.monotonic()
            state, metrics = step_fn(state, batch)
            if shape not in compiled:
                compiled.add(shape)
                window.skip(time.monotonic() - began)
                report.message(
                    f"compiled shape {len(compiled)} of {len(set(plan.shapes))}, "
                    f"{shape[0]}x({shape[1]}+{shape[2]}), in {time.monotonic() - began:.1f} s"
                )
            settle()
            pending = step, metrics

            last = step == config.steps
            evaluate = last or step % experiment.evaluate.every_steps == 0
            if evaluate or stop() or step % experiment.checkpoint.every_steps == 0:
                settle()
                began = time.monotonic()
                scores = validator(step, state.best_params) if evaluate else None
                checkpoints.save(step, state, scores)
                window.skip(time.monotonic() - began)
            for problem in checkpoints.poll():
                report.message(problem)
            if stop() and not last:
                checkpoints.wait()
                report.message(f"stopped at step {step}, which is saved; the same command goes on from there")
                return INTERRUPTED

        # ---- Close ----
        if start >= config.steps:
            report.message(
                f"nothing to do: this run is at step {start} of {config.steps}; raise config.train.steps to go on"
            )
        else:
            with report.losing("plots/learning_curves.png"):
                learning_curves(workdir / "metrics.jsonl", workdir / "plots" / "learning_curves.png")
    return 0


class Window:
    """Metrics since the last line: sums and weights until the last moment, and the time they took."""

    def __init__(self) -> None:
        self.last_loss = 0.0
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._began = time.monotonic()

    def add(self, metrics: Mapping[str, float]) -> None:
        self.last_loss = metrics["loss"]
        self._steps += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def skip(self, seconds: float) -> None:
        """Leave out time that was not spent on steps: compiling, evaluating."""
        self._began += seconds

    def summary(self) -> dict[str, float]:
        """Means a target token (nats), rates, and shares (0..1); the window begins anew."""
        s, seconds = self._sums, max(time.monotonic() - self._began, 1e-9)
        result = {
            "loss": s["loss"] / s["weight"],
            "perplexity": math.exp(min(s["nll"] / s["weight"], 700)),
            "accuracy": s["correct"] / s["weight"],
            "tokens_per_second": s["weight"] / seconds,
            "padding": 1 - s["filled"] / s["cells"],
            "gradient_norm": s["gradient_norm"] / self._steps,
        }
        self._reset()
        return result


def describe(report: Reporter, experiment: Experiment, plan: Plan, mesh: Mesh, state: TrainState, start: int) -> None:
    """What is about to happen, before the first step."""
    count = sum(p.size for p in jax.tree.leaves(state.params))
    devices = _count(mesh.size, f"{mesh.devices.flat[0].platform} device")
    report.message(
        f"{experiment.model_name}, {count:,} parameters, {experiment.train.precision}, on {devices}"
        + (f"; resuming at step {start}" if start else "")
    )
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


@contextlib.contextmanager
def _stop_requests():
    """SIGTERM and SIGINT ask the loop to save and stop; a second SIGINT does not wait."""
    asked = False

    def ask(number, frame):
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
