"""`s2sjax train`: train from a config file, or resume a run."""

from pathlib import Path
from typing import Any

from s2sjax import environment, home, training
from s2sjax.experiment import resolve


def run(values: dict[str, Any]) -> int:
    experiment, workdir = resolve(values["config"]), Path(values["workdir"])
    if values["said"] is not None:  # the config is the run directory's, not the user's own file
        home.check(workdir, experiment, values["said"])
    environment.configure_jax()
    return training.train(experiment, workdir)
