"""`s2sjax checkpoints`: the checkpoints of a run, their scores, and which of them is used."""

import datetime
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from s2sjax.checkpoints import manifest
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.experiment import Experiment, resolve
from s2sjax.report import align


def run(values: dict[str, Any]) -> int:
    workdir, experiment = Path(values["workdir"]), resolve(values["config"])
    found = listing(workdir, experiment)
    if values["format"] == "json":
        print(json.dumps(found, indent=2, allow_nan=False))
        return 0
    entries = found["checkpoints"]
    if not entries:
        print(f"{workdir} has no checkpoint yet")
    else:
        print("\n".join(line.removeprefix("  ") for line in _table(entries, found["metric"])))
    if found["damaged"]:
        print(f"damaged, and passed over: {', '.join(map(str, found['damaged']))}")
    if entries:
        print(f"best by config.checkpoint.metric={found['metric']}; decode and evaluate use step {found['used']}, by "
              f"config.decode.checkpoint={experiment.decode.checkpoint}")  # fmt: skip
    return 0


def listing(workdir: Path, experiment: Experiment) -> dict[str, Any]:
    """The checkpoints as JSON values, ascending; only manifests are read, files are not verified."""
    reader = CheckpointReader(workdir / "checkpoints", experiment.checkpoint.metric)
    steps = reader.steps()
    best, newest = reader.best_step(), max(steps, default=None)
    choice = experiment.decode.checkpoint
    used = int(choice) if choice.isdecimal() else newest
    if choice == "best" and best is not None:
        used = best
    entries = []
    for step in steps:
        time, size = _time_and_size(reader.directory / str(step))
        metrics = {k: v if math.isfinite(v) else None for k, v in reader.metrics(step).items()}
        marks = {"best": step == best, "newest": step == newest, "used": step == used}
        entries.append({"step": step, "time": time, "bytes": size, "metrics": metrics, **marks})
    return {
        "workdir": str(workdir), "metric": experiment.checkpoint.metric, "used": used, "checkpoints": entries,
        "damaged": reader.unreadable(),
    }  # fmt: skip


def _table(entries: list[dict[str, Any]], metric: str) -> list[str]:
    listed = dict.fromkeys(name for entry in entries for name in entry["metrics"])
    names = sorted(listed, key=lambda name: (name != metric, name != "loss"))
    rows: list[list[object]] = [["step", "saved (UTC)", "MB", *names, ""]]
    for entry in entries:
        scores = [entry["metrics"].get(name) for name in names]
        cells = ["-" if value is None else f"{value:.4f}" for value in scores]
        marks = ", ".join(mark for mark in ("best", "newest", "used") if entry[mark])
        time = entry["time"].replace("T", " ").removesuffix("Z")
        rows.append([f"{entry['step']:,}", time, f"{entry['bytes'] / 1e6:,.1f}", *cells, marks])
    return align(rows)


def _time_and_size(directory: Path) -> tuple[str, int]:
    """When the manifest was written, which is last, and the bytes of all files; links are not followed."""
    at = datetime.datetime.fromtimestamp((directory / manifest.NAME).lstat().st_mtime, datetime.UTC)
    files = (os.lstat(os.path.join(where, name)) for where, _, names in os.walk(directory) for name in names)
    size = sum(found.st_size for found in files if stat.S_ISREG(found.st_mode))
    return at.isoformat(timespec="seconds").replace("+00:00", "Z"), size
