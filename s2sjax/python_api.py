"""`s2sjax.train`: what the command of that name does, in a process that is somebody else's, such as a notebook's."""

import os
import signal
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from s2sjax import experiment as experiments
from s2sjax.commands.flags import parse
from s2sjax.commands.options import Command
from s2sjax.errors import UserError, shown
from s2sjax.experiment import Experiment
from s2sjax.files import rundir
from s2sjax.inference import inputs
from s2sjax.processes import jax_settings
from s2sjax.processes.root_logger import root_logger_untouched
from s2sjax.processes.stopping import StopRequests
from s2sjax.runs.loading import load
from s2sjax.runs.run import Run
from s2sjax.training import loop

_CONFIG_FILE = Command("train", "a config file is read as that command reads it", config="file")


@root_logger_untouched()
def train(config: ConfigDict | str | Path | None, workdir: str | Path, **changes: Any) -> Run:
    """Train a model, or resume what stands in `workdir`, as `s2sjax train` does. Returns the run, opened.

    Its `step` is the best checkpoint's, and its `metrics` are what validation said of that. Signal handlers and the
    settings of logging are afterwards what they were before. The watchdog, which would end the process, is off.
    Compiled programs are kept, as the command keeps them, unless JAX has been told another directory.

    >>> config = s2sjax.base_config(model="rnn_seq2seq")
    >>> config.data.dir, config.data.source, config.data.target = "data", "{split}.en", "{split}.de"
    >>> config.tokenizer.kind = "word"
    >>> config.model.width, config.model.encoder_layers, config.model.decoder_layers = 32, 1, 1
    >>> config.train.steps = 0
    >>> s2sjax.train(config, "runs/new")
    Traceback (most recent call last):
    s2sjax.errors.UserError: config.train.steps is 0, but must be at least 1
    >>> run = s2sjax.train(None, "runs/numbers")  # resumes a run; there is nothing left to do for this one
    >>> run.step, run.metrics["exact_match"]
    (120, 100.0)

    Args:
        config: what `base_config` returns, with values of your own; or the path of a config file, which is run, as on
            the command line; or None to resume with the config that `workdir` holds. If that was made elsewhere, what
            it asks for beyond its directory has to be among the changes: **{"data.dir": "data"}.
        changes: values to change, by dotted keys: **{"train.steps": 500}.

    Raises:
        UserError: what the command would end with: a config, data or a workdir that cannot be used.
        KeyboardInterrupt: training was interrupted (in a notebook, by its stop button), and is saved. The same call
            goes on from there.
    """
    workdir = inputs.path(workdir, "workdir")
    experiment = experiments.override(_experiment(config, workdir), changes)
    jax_settings.keep_compiled_programs()
    with jax_settings.exact_products(), StopRequests() as stop:
        code = loop.train_until(stop, experiment, workdir, None if config is not None else changes, watchdog=False)
    if code == loop.INTERRUPTED:
        if stop.name not in (None, "SIGINT"):
            signal.raise_signal(signal.Signals[stop.name])  # to whoever takes it when no training does
        raise KeyboardInterrupt(f"training was stopped by {stop.name}; the same call goes on from what was saved")
    return load(workdir)


def _experiment(config: Any, workdir: Path) -> Experiment:
    if config is None:
        with rundir.telling(workdir):
            there = os.path.lexists(workdir / "config.json")
        if there:
            return experiments.load(workdir / "config.json")
        raise UserError(
            f"config is None, which resumes a run, but {workdir} holds none: give a config, such as "
            "s2sjax.base_config() with values of your own, or the path of a config file"
        )
    if isinstance(config, str | os.PathLike):
        given = os.fspath(config)
        if not (isinstance(given, str) and os.path.isfile(given.partition(":")[0])):
            raise UserError(f"config is {shown(given)}, and there is no such file: give a config file, or a ConfigDict")
        config = parse([f"--config={given}"], _CONFIG_FILE)["config"]
    return experiments.as_experiment(config)
