"""`s2sjax train`: train from a config file, or resume a run."""

from pathlib import Path
from typing import Any

from s2sjax import jax_settings, training
from s2sjax.experiment import resolve


def run(values: dict[str, Any]) -> int:
    experiment = resolve(values["config"])
    jax_settings.configure_jax()
    return training.train(experiment, Path(values["workdir"]), values["said"])
