"""`s2sjax train`: train from a config file, or resume a run."""

from pathlib import Path

from s2sjax import environment, training
from s2sjax.experiment import resolve
from s2sjax.flags import parse


def run(argv: list[str]) -> int:
    values = parse(argv, {"workdir": None}, config_file=True)
    environment.configure_jax()
    return training.train(resolve(values["config"]), Path(values["workdir"]))
