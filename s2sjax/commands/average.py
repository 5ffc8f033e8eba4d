"""`s2sjax average`: several checkpoints of a run, averaged into a run of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from s2sjax.errors import UserError
from s2sjax.experiment import resolve
from s2sjax.processes import jax_settings
from s2sjax.runs.average import Choice, average

Number = TypeVar("Number", int, float)


def run(values: dict[str, Any]) -> int:
    jax_settings.configure_jax()
    experiment = resolve(values["config"])
    choice = Choice(_number(values, "last", int), _number(values, "best", int), _number(values, "ema", float))
    workdir, output = Path(values["workdir"]), Path(values["output"])
    made = average(workdir, output, choice, experiment=experiment, said=values["said"] or ())
    averaged = "parameters"
    if made.parameters == "ema":
        averaged = f"moving average of the parameters (config.train.ema_decay={experiment.train.ema_decay:g})"
    print(f"{values['output']}: the {averaged} of {made.workdir}, {made.rule}:")
    for step, share in made.weights.items():
        print(f"  step {step}: {share:.4g}")
    return 0


def _number(values: dict, name: str, kind: Callable[[str], Number]) -> Number | None:
    try:
        return kind(values[name]) if values[name] else None
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise UserError(f"--{name} is '{values[name]}', expected {expected}") from None
