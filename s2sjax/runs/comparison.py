"""Several runs side by side: what differs in their configs, how far they came, and what was measured of them.

Run directories are data, also those of strangers: they are read by `rundir` and `jsontext`, and nothing of theirs is
written into. A line of metrics that cannot be read is passed over; the run itself does the same.
"""

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2sjax import experiment as experiments
from s2sjax.checkpoints.restore import replaces_best
from s2sjax.errors import UserError
from s2sjax.files import jsontext, rundir
from s2sjax.reporting.history import History, is_number, read_history
from s2sjax.reporting.pace import duration

_RESULTS = 1 << 22
"""Bytes of all the files of results of a run: 10,000 pairs of languages have 3 MB."""

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Recorded:
    """What a run directory says of its run.

    Attributes:
      name: how the run is called in tables and plots.
      config: values by dotted key.
      metric: what chooses its best checkpoint.
      train: records of `metrics.jsonl` of training, in their order.
      validation: those of validation.
      results: what `evaluate` wrote, by split; numbers only.
    """

    name: str
    config: Mapping[str, Any]
    metric: str
    train: Sequence[Mapping[str, Any]]
    validation: Sequence[Mapping[str, Any]]
    results: Mapping[str, Mapping[str, float]]

    @property
    def best(self) -> Mapping[str, Any]:
        """The validation record with the best metric, the newest of equals; empty if there is none."""
        best: Mapping[str, Any] = {}
        for record in self.validation:
            value, before = (_number(r.get(self.metric)) for r in (record, best))
            if replaces_best(self.metric, value, before):
                best = record
        return best


def read_run(workdir: Path, name: str) -> Recorded:
    """Read a run directory. Raises: UserError if it is none, or what is in it cannot be read."""
    with rundir.telling(workdir):
        there = workdir.is_dir()
    if not there:
        raise UserError(f"{workdir} is not a run directory: there is no such directory")
    experiment = experiments.load(workdir / "config.json")
    values = experiments.config_dict(experiment).to_dict()
    config = {"seed": values.pop("seed")}
    for section, keys in values.items():
        config |= {f"{section}.{key}": value for key, value in keys.items()}
    history = History((), (), 0)
    with rundir.telling(workdir / "metrics.jsonl"), contextlib.suppress(FileNotFoundError):
        history = read_history(workdir / "metrics.jsonl")
    results, left = {}, _RESULTS
    with rundir.telling(workdir / "results"):
        files = rundir.names(workdir, "results")
    for file in files:
        if file.endswith(".json"):
            path = workdir / "results" / file
            with rundir.telling(path):
                content = rundir.read(workdir, f"results/{file}", most=left)
            left -= len(content)
            values = jsontext.parse(content, path)
            results[file.removesuffix(".json")] = {k: v for k, v in values.items() if not math.isnan(_number(v))}
    return Recorded(name, config, experiment.checkpoint.metric, history.train, history.validation, results)


def differing_keys(runs: Sequence[Recorded]) -> list[str]:
    """The config keys whose values are not the same in all runs; a family's own keys count where another has none."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    return [key for key in keys if len({repr(run.config.get(key, "(none)")) for run in runs}) > 1]


def rows(runs: Sequence[Recorded]) -> dict[str, dict[str, list[Value]]]:
    """The table: groups of rows by title; a row is one value for each run, None where a run has none."""
    config = {key: [_plain(run.config.get(key)) for run in runs] for key in differing_keys(runs)}
    last = [run.train[-1] if run.train else {} for run in runs]
    smoothed = [run.config.get("train.label_smoothing", 0) > 0 for run in runs]
    losses = [record.get("loss") for record in last]
    measured: dict[str, list[Value]] = {  # as the log calls them: a loss of smoothed targets is no other's equal
        "loss": [None if smooth else loss for loss, smooth in zip(losses, smoothed, strict=True)],
        "smoothed loss": [loss if smooth else None for loss, smooth in zip(losses, smoothed, strict=True)],
        "perplexity": [record.get("perplexity") for record in last],
    }
    training: dict[str, list[Value]] = {
        "steps": [record.get("step") for record in last],
        "seconds": [record.get("seconds") for record in last],
        **{name: row for name, row in measured.items() if any(value is not None for value in row)},
    }
    names = dict.fromkeys(name for run in runs for name in run.best if name not in ("kind", "time", "seconds"))
    validation = {name: [run.best.get(name) for run in runs] for name in names}
    metrics = dict.fromkeys(run.metric for run in runs)
    groups = {
        "config": config,
        "training, last line": training,
        f"validation, best by {', '.join(metrics)}": validation,
    }
    for split in dict.fromkeys(split for run in runs for split in run.results):
        listed = dict.fromkeys(name for run in runs for name in run.results.get(split, {}))
        groups[f"results/{split}.json"] = {
            name: [run.results.get(split, {}).get(name) for run in runs] for name in listed
        }
    return {title: group for title, group in groups.items() if group}


def spread(values: Sequence[Value]) -> str:
    """Mean and sample standard deviation, "36.1 ± 0.2"; empty if not all are numbers."""
    numbers = [value for value in values if is_number(value)]
    if len(numbers) < len(values) or len(numbers) < 2:
        return ""
    return f"{statistics.fmean(numbers):.4g} ± {statistics.stdev(numbers):.2g}"


def shown(name: str, value: Value) -> str:
    """A value of the table."""
    if value is None:
        return "-"
    if name == "seconds" and isinstance(value, int | float):
        return duration(value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    text = f"{value:,}" if type(value) is int else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _plain(value: Any) -> Value:
    return value if value is None or isinstance(value, float | int | str) else str(value)


def _number(value: Any) -> float:
    """A finite number of a file; NaN for anything else."""
    return float(value) if is_number(value) else math.nan
