"""Checkpoint averaging: one set of parameters from several checkpoints of a run, written as a run of its own.

The mean of the last few checkpoints is usually better than any of them: the learning rate makes each of them one draw
from a neighbourhood, whose middle is what was looked for (Vaswani et al. 2017, arXiv:1706.03762, section 6.1).

The new run is there to be decoded, evaluated and scored. It cannot be trained on: the moments of an optimizer belong to
the parameters that it saw, so none are averaged and none are kept, and `check_trainable` says so.
"""

import dataclasses
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from s2sjax import experiment as experiments
from s2sjax.checkpoints.checkpointer import Checkpointer
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.data import tokenizer as tokenizers_lib
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment
from s2sjax.files import rundir
from s2sjax.runs import home

RECORD = "average.json"
"""Says of an averaged run what it is made of: the fields of an `Average`."""


@dataclasses.dataclass(frozen=True)
class Average:
    """What was averaged."""

    workdir: str
    """The run whose checkpoints they were."""
    rule: str
    """How they were chosen and weighed: "last 3", "best 3 by loss" or "ema 0.5"."""
    parameters: str
    """Which part of the train state: "ema" of a run that keeps a moving average, else "params". It is what decoding
    reads, and it stands under the same name in the new checkpoint."""
    weights: dict[int, float]
    """The share of each step's parameters, from the oldest to the newest; they sum to 1."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which checkpoints to average, and how they are weighed: by exactly one of these.

    Attributes:
      last: so many of the newest, equally.
      best: so many of the best by `checkpoint.metric`, equally.
      ema: all that there are; the share of the n-th of N is d^(N - n) / (1 + d + ... + d^(N - 1)), so that the newest
        counts the most, and each one before it d times as much as the next.
    """

    last: int | None = None
    best: int | None = None
    ema: float | None = None

    def __post_init__(self):
        if sum(given is not None for given in (self.last, self.best, self.ema)) != 1:
            raise UserError("say which checkpoints to average, by exactly one of last=N, best=N and ema=DECAY")


def average(
    workdir: Path,
    output: Path,
    choice: Choice,
    *,
    experiment: Experiment | None = None,
    said: Collection[str] = (),
) -> Average:
    """Average checkpoints of the run in `workdir` into the new run `output`, whose step is that of the newest of them.

    Sums are float64, one checkpoint is in memory at a time, and each is verified before it is believed. The new run
    appears whole or not at all.

    Args:
        experiment: the run's config, where other values of `checkpoint` or `decode` are to hold; it becomes the new
            run's, but for `decode.checkpoint`, since there is only one.
        said: config keys whose values are other than the run directory's.

    Raises:
        UserError: `output` exists or cannot be written; there are too few checkpoints, or one is damaged; or the
            choice's value makes no sense.
    """
    if os.path.lexists(output):
        raise UserError(f"{output} exists already; an average is a new run, so choose another output")
    experiment = experiment or experiments.load(workdir / "config.json")
    tokenizers = tokenizers_lib.load(workdir / "tokenizer")
    reader = CheckpointReader(workdir / "checkpoints", experiment.checkpoint.metric)
    parameters = "ema" if experiment.train.ema_decay > 0 else "params"

    def choose_and_read() -> tuple[str, dict[int, float], dict[str, np.ndarray]]:
        rule, weights = _weights(choice, reader, workdir, experiment)
        return rule, weights, _mean(reader, weights, parameters)

    rule, weights, arrays = reader.choosing_again(choose_and_read)
    total = sum(weights.values())
    record = Average(str(workdir), rule, parameters, {step: weight / total for step, weight in weights.items()})
    ours = home.is_home(workdir, experiment, said)
    _write(output, experiment, tokenizers, arrays, record, ours=ours)
    return record


def check_trainable(workdir: Path) -> None:
    """Raise a `UserError` if a run is an average, which has parameters and no optimizer's state."""
    if rundir.exists(workdir, RECORD):
        raise UserError(
            f"{workdir} holds averaged parameters and no optimizer state to go on training from; go on with the run "
            f"that {RECORD} in it names, and average again"
        )


def _weights(
    choice: Choice, reader: CheckpointReader, workdir: Path, experiment: Experiment
) -> tuple[str, dict[int, float]]:
    """How checkpoints are chosen, in words, and what each of them counts, by step, ascending."""
    steps = _steps(reader, workdir)
    if choice.last is not None:
        return f"last {choice.last}", dict.fromkeys(_last(steps, choice.last, workdir, experiment), 1.0)
    if choice.best is not None:
        rule = f"best {choice.best} by {experiment.checkpoint.metric}"
        return rule, dict.fromkeys(_best(reader, steps, choice.best, workdir, experiment), 1.0)
    assert choice.ema is not None
    return f"ema {choice.ema:g}", _geometric(steps, choice.ema)


def _steps(reader: CheckpointReader, workdir: Path) -> list[int]:
    """All checkpoints, ascending, if none is damaged: a damaged one might be one of those that are asked for."""
    for step in reader.unreadable():
        raise UserError(
            f"checkpoint {step} in {reader.directory} is damaged: {reader.verify(step)}; move it away to average others"
        )
    steps = reader.steps()
    if not steps:
        raise UserError(f"{workdir} has no checkpoint yet; train it first, or wait for its first one")
    return steps


def _last(steps: list[int], count: int, workdir: Path, experiment: Experiment) -> list[int]:
    _check_count("last", count)
    if count > len(steps):
        raise UserError(
            f"{workdir} has {_listed(steps)}, of which the last {count} cannot be taken; a run keeps more with "
            f"config.checkpoint.keep_last, here {experiment.checkpoint.keep_last}"
        )
    return steps[-count:]


def _best(
    reader: CheckpointReader, steps: list[int], count: int, workdir: Path, experiment: Experiment
) -> list[int]:  # fmt: skip
    _check_count("best", count)
    ranked, config = reader.ranked(steps), experiment.checkpoint
    if count > len(ranked):
        raise UserError(
            f"{workdir} has {_listed(sorted(ranked))} with the metric '{config.metric}', of which the best {count} "
            f"cannot be taken; a run keeps more with config.checkpoint.keep_best, here {config.keep_best}, and has the "
            f"metric where config.evaluate.every_steps, here {experiment.evaluate.every_steps}, meets a checkpoint"
        )
    return sorted(ranked[:count])


def _geometric(steps: list[int], decay: float) -> dict[int, float]:
    if not 0 < decay < 1:
        raise UserError(f"ema is {decay}, expected a number above 0 and below 1; for equal shares take last=N")
    return {step: decay ** (len(steps) - n) for n, step in enumerate(steps, start=1)}


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise UserError(f"{name} is {count}, expected at least 1")


def _listed(steps: list[int]) -> str:
    if not steps:
        return "no checkpoint"
    return f"{len(steps)} checkpoint{'s' * (len(steps) > 1)} ({', '.join(map(str, steps))})"


def _mean(reader: CheckpointReader, weights: Mapping[int, float], parameters: str) -> dict[str, np.ndarray]:
    """The weighted mean of one part of the states, by path. Raises: UserError if one is damaged or of another model."""
    total: dict[str, np.ndarray] = {}
    wanted = _part(reader, next(iter(weights)), parameters)
    for step, weight in weights.items():
        if _part(reader, step, parameters) != wanted:
            raise UserError(
                f"checkpoint {step} in {reader.directory} is of another model than the one before; move it away"
            )
        restored = reader.restore(wanted, step, partial=True)
        assert restored is not None
        for path, array in restored.state.items():
            part = weight * np.asarray(array, np.float64)
            total[path] = total[path] + part if path in total else part
    return {path: (array / sum(weights.values())).astype(wanted[path].dtype) for path, array in total.items()}


def _part(reader: CheckpointReader, step: int, name: str) -> dict[str, jax.ShapeDtypeStruct]:
    found = {path: leaf for path, leaf in reader.arrays(step).items() if path.startswith(f"{name}/")}
    if not found:
        raise UserError(f"checkpoint {step} in {reader.directory} has no '{name}', which its config says it has")
    return found


def _write(
    output: Path,
    experiment: Experiment,
    tokenizers: TokenizerPair,
    arrays: Mapping[str, np.ndarray],
    record: Average,
    *,
    ours: bool,
) -> None:
    """Write a run directory beside `output`, and give it its name when it is whole. Args: ours: for home.json."""
    decode = dataclasses.replace(experiment.decode, checkpoint="last")
    temporary = output.with_name(f"{output.name}.tmp-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        tokenizers_lib.save(tokenizers, temporary / "tokenizer")
        with Checkpointer(temporary / "checkpoints", experiment.checkpoint) as checkpoints:
            checkpoints.save(max(record.weights), {path: jnp.asarray(array) for path, array in arrays.items()})
        rundir.write_json(temporary, RECORD, dataclasses.asdict(record))
        # Last: without it a directory is no run, so neither is what a kill leaves behind.
        averaged = dataclasses.replace(experiment, decode=decode)
        if ours:
            home.record(temporary, averaged, path=output)
        experiments.save(averaged, temporary / "config.json")
        temporary.rename(output)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}; choose another output") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
