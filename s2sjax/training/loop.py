"""The training loop: restore, or begin; steps, validations and checkpoints; roll-backs; close.

A run is a pure function of its config and of the batches that it leaves out: batch and dropout of step `i` follow from
the seed and from `i`, so a run that was interrupted anywhere and resumed ends with the same bits as one left alone.
"""

import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import jax
from jax import Array

from s2sjax import sharding
from s2sjax.checkpoints.checkpointer import Checkpointer
from s2sjax.checkpoints.restore import replaces_best
from s2sjax.data import pipeline
from s2sjax.experiment import Experiment
from s2sjax.learning import faults
from s2sjax.learning.faults import TooManyBadSteps
from s2sjax.learning.state import TrainState, shardings
from s2sjax.plural import counted
from s2sjax.processes import distributed
from s2sjax.processes.memory import needing_memory
from s2sjax.processes.stopping import Stopped, StopRequests
from s2sjax.processes.watchdog import Watchdog
from s2sjax.reporting import events
from s2sjax.reporting.plots import learning_curves
from s2sjax.reporting.report import Reporter
from s2sjax.runs.evaluate import Validator
from s2sjax.runs.workdir import open_copy
from s2sjax.training import announcements
from s2sjax.training.setup import Metrics, Setup, set_up
from s2sjax.training.skipped import Skipped, leave_out, read_skipped
from s2sjax.training.step import stream_key
from s2sjax.training.window import Window

INTERRUPTED = 75
"""Exit code of a run that saved and stopped on a signal: EX_TEMPFAIL, "try again"."""


def train(experiment: Experiment, workdir: Path, said: Collection[str] | None = None) -> int:
    """Train from scratch, or resume what stands in `workdir`. Returns the exit code: 0, or `INTERRUPTED`.

    Args:
        said: config keys whose values are the user's own where the others are those that `workdir` holds (see
            `s2sjax.runs.home`); None: the whole config is the user's.

    Raises:
        UserError: for bad data, a workdir of another config, a checkpoint of another shape, a disk that is full, too
            many steps that went wrong; for what the config of somebody else's run asks for and nobody here said.
    """
    with StopRequests() as stop:
        return train_until(stop, experiment, workdir, said)


def train_until(
    stop: StopRequests, experiment: Experiment, workdir: Path, said: Collection[str] | None, *, watchdog: bool = True
) -> int:
    """`train`, until `stop` asks to end.

    Args:
        watchdog: a run that is stuck ends the process, as `config.faults.watchdog_seconds` says; False: it never does.
    """
    began = time.monotonic()
    try:
        with stop.raising():
            setup = set_up(experiment, workdir, said)
        return train_loop(setup, stop, began, watchdog=watchdog)
    except Stopped as stopped:
        print(f"stopped {stopped} where there was nothing to save; the same command goes on", file=sys.stderr)
        return INTERRUPTED


def train_loop(setup: Setup, stop: StopRequests, began: float, *, watchdog: bool) -> int:
    """Train from the newest checkpoint, and again from an older one after every roll-back."""
    experiment, workdir = setup.experiment, setup.workdir
    with contextlib.ExitStack() as stack:
        copy = open_copy(experiment, workdir)
        going_back = faults.WINDOW if experiment.faults.beyond_max_skips == "rollback" else 0
        checkpoints = stack.enter_context(
            Checkpointer(workdir / "checkpoints", experiment.checkpoint, copy, going_back=going_back)
        )
        ledger = stack.enter_context(events.Ledger(workdir / events.NAME, lambda text: print(text, file=sys.stderr)))
        ledger.start(time.monotonic() - began)
        seconds = experiment.faults.watchdog_seconds if watchdog else 0
        watched = stack.enter_context(Watchdog(workdir, seconds, lambda text: ledger.add("stuck", reason=text)))
        loop = Loop(setup, checkpoints, ledger, watched, stop)
        while True:
            try:
                return loop()
            except TooManyBadSteps as bad:
                loop.roll_back(bad)


class Loop:
    """From the newest checkpoint to the last step, and again after a roll-back; and all that this holds."""

    def __init__(
        self, setup: Setup, checkpoints: Checkpointer, ledger: events.Ledger, watchdog: Watchdog, stop: StopRequests
    ) -> None:
        self.setup, self.experiment = setup, setup.experiment
        self.skipped = read_skipped(setup.workdir)
        self.plan = replace(setup.plan, left_out=self.skipped.left_out)
        self.checkpoints, self.ledger, self.watchdog, self.stop = checkpoints, ledger, watchdog, stop
        self.compiled: set[tuple[int, ...]] = set()
        self.best: tuple[int, float] | None = None
        """The best validated step by `checkpoint.metric`, and its value."""
        self.news: tuple[str, ...] = ()
        # Of an attempt: what is between two roll-backs.
        self.report: Reporter
        self.validator: Validator
        self.window: Window
        self.pending: tuple[int, Metrics] | None
        """The last step that was dispatched, whose metrics nobody has waited for."""

    def __call__(self) -> int:
        """Train from the newest checkpoint to the last step, or until asked to stop. Returns the exit code."""
        with contextlib.ExitStack() as stack:
            self.window, self.pending = Window(self.experiment.task.summary), None
            with self.stop.raising(), self.watchdog.phase("restore"):
                state, start, validated = self._restore(stack)
            feed = stack.enter_context(contextlib.closing(self._feed(start)))
            self.ledger.add("train", step=start)
            # A request to stop may have cut the last validation short, and this one may be.
            if start and self._evaluates(start) and not validated and not self._save(start, state):
                return INTERRUPTED
            shape = max(self.plan.shapes, key=lambda s: s.rows * (s.source + s.target))
            with needing_memory(
                f"to train on batches of {counted(shape.rows, 'row')} of {shape.source} source and "
                f"{counted(shape.target, 'target token')}: lower config.batching.tokens, or compute a batch in "
                "parts, config.train.accumulate"
            ):
                whole = self._train(state, start, feed)
            if not whole:
                return INTERRUPTED
            self._close(start)
        return 0

    def _restore(self, stack: contextlib.ExitStack) -> tuple[TrainState, int, bool]:
        """The state to begin with, its step, and whether it was validated; and whom to tell, `stack` to close."""
        setup, experiment, began = self.setup, self.experiment, time.monotonic()
        restored = self.checkpoints.restore(setup.abstract, set_aside=True)
        start = restored.step if restored else 0
        self.report = stack.enter_context(
            Reporter(
                setup.workdir,
                total_steps=experiment.train.steps,
                resumed_from=start,
                smoothed=experiment.train.label_smoothing > 0,
            )
        )
        remarks = [text for split in setup.prepared.splits.values() for text in (split.unreadable, *split.remarks)]
        remarks += announcements.rescheduled(setup.held, experiment, start)
        for message in filter(None, (*self.news, *(restored.messages if restored else ()), *remarks)):
            self.report.message(message)
        self.best = None
        if restored:
            state = restored.state
            if (best := self.checkpoints.best_step()) is not None:
                self.best = best, self.checkpoints.metrics(best)[experiment.checkpoint.metric]
            self.ledger.add("restore", step=start, seconds=time.monotonic() - began)
        else:
            state = jax.jit(setup.init, out_shardings=shardings(setup.abstract))(stream_key(experiment.seed, "init"))
        announcements.describe(self.report, experiment, self.plan, setup.mesh, state, start)
        self.validator = Validator(experiment, setup.prepared, setup.mesh, self.report, state.best_params)
        if start < experiment.train.steps:
            self.validator.try_longest(state.best_params)
        return state, start, bool(restored and restored.metrics)

    def _feed(self, start: int) -> Generator[dict[str, Array], None, None]:
        """Batches from after a step on, on the devices."""
        place = sharding.batch_sharding(self.setup.mesh, split_time=self.experiment.splits_time)
        rows = functools.partial(sharding.rows_here, place)
        make = functools.partial(
            self.experiment.task.batch, examples=self.setup.split, segmentation=self.setup.segmentation
        )
        batches = pipeline.batches(self.plan, make, range(start, self.experiment.train.steps), only=rows)
        return sharding.prefetch(batches, lambda batch: sharding.to_devices(batch, place))

    def _train(self, state: TrainState, start: int, feed: Iterator[dict[str, Array]]) -> bool:
        """The steps after `start`. Whether that is all of them, and nobody asked to stop before."""
        steps, every = self.experiment.train.steps, self.experiment.checkpoint.every_steps
        for step in range(start + 1, steps + 1):
            state, metrics = self._dispatch(step, state, next(feed))
            self._settle()
            self.pending = step, metrics

            last, asked = step == steps, self._asked(step)
            if last or asked or self._evaluates(step) or step % every == 0:
                self._settle()
                whole = self._save(step, state)
                asked = None if last and whole else asked or self._asked(step)
            for problem in self.checkpoints.poll():
                self.report.message(problem)
            if asked:
                self.ledger.add("preempt", step=step, reason=asked)
                with self._waiting("save", step):
                    self.checkpoints.wait()
                self.report.message(f"stopped at step {step}, which is saved; the same command goes on from there")
                return False
        return True

    def _dispatch(self, step: int, state: TrainState, batch: Mapping[str, Array]) -> tuple[TrainState, Metrics]:
        """Set a step going, and compile it first if no batch had this shape before."""
        shape = batch["input_segments"].shape + batch["target_segments"].shape[1:]
        if shape in self.compiled:
            return self.setup.step(state, batch)
        self._settle()
        with self._waiting("compile", step - 1) as waited:
            state, metrics = self.setup.step(state, batch)
        self.compiled.add(shape)
        self.report.message(
            f"compiled shape {len(self.compiled)} of {len(set(self.plan.shapes))}, "
            f"{shape[0]}x({shape[1]}+{shape[2]}), in {waited():.1f} s"
        )
        return state, metrics

    def _settle(self) -> None:
        """Read the metrics of the last dispatched step. Called when the next one is on its way."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}  # together
        self.window.add(values)
        if not values["taken"]:
            self._not_taken(step, values)
        if step % self.experiment.train.log_every == 0 or step == self.experiment.train.steps:
            rate = {"learning_rate": float(self.setup.schedule(values["updates"]))}
            self.report.step_line(step, self.window.summary() | rate)
        self.report.advance(step)
        self.ledger.progress(step)
        self.watchdog.step(step)

    def _tell_best(self, step: int, scores: Mapping[str, float]) -> None:
        """Say so if this step is the best so far: decoding is going to use it."""
        metric = self.experiment.checkpoint.metric
        value = scores.get(metric, math.nan)
        before, best = self.best or (0, math.nan)
        if not replaces_best(metric, value, best):
            return
        if self.best is not None:
            why = f"the same as at step {before}, of equals the newest" if value == best else ""
            self.report.message(f"new best {metric} {value:.4f}: {why or f'before, {best:.4f} at step {before}'}")
        self.best = step, value

    def _close(self, start: int) -> None:
        steps, workdir = self.experiment.train.steps, self.setup.workdir
        if start >= steps:
            self.report.message(
                f"nothing to do: this run is at step {start} of {steps}; raise config.train.steps to go on"
            )
            announcements.say_next(self.report, workdir, self.experiment, self.checkpoints)
            return
        with self._waiting("save", steps):
            self.checkpoints.wait()
        if jax.process_index() == 0:
            with self._waiting("plot", steps), self.report.losing("plots/learning_curves.png"):
                out = workdir / "plots" / "learning_curves.png"
                smoothing = self.experiment.train.label_smoothing
                if bad := learning_curves(workdir / "metrics.jsonl", out, smoothing=smoothing, inside=workdir):
                    self.report.message(
                        f"warning: {counted(bad, 'line')} of {workdir}/metrics.jsonl cannot be read; the plot is "
                        "without them"
                    )
        announcements.say_goodput(self.report, workdir)
        announcements.say_next(self.report, workdir, self.experiment, self.checkpoints)

    def _not_taken(self, step: int, values: Mapping[str, float]) -> None:
        """Tell of a bad step. Raises: TooManyBadSteps if it is one too many."""
        reason, bad = faults.reason(values), int(values["bad_steps"])
        self.ledger.add("skip", step=step, reason=reason)
        self.report.message(
            f"step {step} is skipped: {reason}; {bad} of the last {faults.WINDOW} were "
            f"(config.faults.max_skips={self.experiment.faults.max_skips})"
        )
        if bad > self.experiment.faults.max_skips:
            raise TooManyBadSteps(step, reason)

    def roll_back(self, bad: TooManyBadSteps) -> None:
        """Give up the steps in which too many were bad, for good. Raises: UserError if the run has to stop instead."""
        config, before = self.experiment.faults, self.skipped
        self.checkpoints.wait()
        faults.check_roll_back(config, bad, len(before.roll_backs), self.checkpoints.latest_step())
        plan = self.plan.without(bad.before, bad.step)
        self.skipped = Skipped(plan.left_out, (*before.roll_backs, f"step {bad.step}: {bad}"))
        if jax.process_index() == 0:
            leave_out(self.setup.workdir, self.skipped, after=bad.before)
        distributed.barrier("rolled-back")
        self.ledger.add("rollback", step=bad.before, reason=str(bad))
        first, last = self.plan.number(bad.before), self.plan.number(bad.step - 1)
        self.plan = plan
        self.news = (
            f"roll-back {len(self.skipped.roll_backs)} of at most {config.max_rollbacks} "
            f"(config.faults.max_rollbacks): back to before step {bad.before + 1}; "
            f"batches {first} to {last} of the data are left out from now on",
        )

    def _asked(self, step: int) -> str | None:
        """Who asks all processes to stop after this step."""
        stopping = distributed.agree(step, self.stop.name is not None)
        return (self.stop.name or "a signal to another process") if stopping else None

    def _evaluates(self, step: int) -> bool:
        return step == self.experiment.train.steps or step % self.experiment.evaluate.every_steps == 0

    def _save(self, step: int, state: TrainState) -> bool:
        """Save, after validating if that is due. Whether it was not cut short by a request to stop."""
        scores, whole = None, True
        if self._evaluates(step):
            # One process among several cannot leave the others alone in the middle of it.
            alone = self.stop.raising() if jax.process_count() == 1 else contextlib.nullcontext()
            try:
                with self._waiting("validate", step), alone:
                    scores = self.validator(step, state.best_params)
                self._tell_best(step, scores)
            except Stopped:
                whole = False
        with self._waiting("save", step):
            self.checkpoints.save(step, state, scores)
        return whole

    @contextlib.contextmanager
    def _waiting(self, event: str, step: int) -> Iterator[Callable[[], float]]:
        """Time that is not spent on steps: into the ledger, and out of the rates. Gives a clock of it, in seconds."""
        began = time.monotonic()
        with self.watchdog.phase(event):
            yield lambda: time.monotonic() - began
        seconds = time.monotonic() - began
        self.window.skip(seconds)
        if event == "compile":
            self.report.leave_out(seconds)
        self.ledger.add(event, step=step, seconds=seconds)
