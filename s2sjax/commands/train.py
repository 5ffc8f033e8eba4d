"""`s2sjax train`: train from a config file, or resume a run."""

from pathlib import Path
from typing import Any

from s2sjax.experiment import resolve
from s2sjax.processes import jax_settings
from s2sjax.training import loop


def run(values: dict[str, Any]) -> int:
    experiment = resolve(values["config"])
    jax_settings.configure_jax()
    return loop.train(experiment, Path(values["workdir"]), values["said"])
