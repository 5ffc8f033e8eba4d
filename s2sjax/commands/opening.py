"""A run, opened as the flags of a command say."""

from s2sjax.experiment import resolve
from s2sjax.processes import jax_settings
from s2sjax.runs.loading import load
from s2sjax.runs.run import Run


def open_run(values: dict) -> Run:
    """The run in `--workdir`, together with those that `--ensemble` names, if the command has it and it is given."""
    jax_settings.configure_jax()
    others = [name for name in values.get("ensemble", "").split(",") if name]
    experiment = resolve(values["config"])
    return load(values["workdir"], experiment=experiment, ensemble=others, said=values["said"], saved=values["saved"])
