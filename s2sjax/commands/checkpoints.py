"""`s2sjax checkpoints`: the checkpoints of a run, their scores, and which of them is used."""

import datetime
import math
from pathlib import Path
from typing import Any

from s2sjax.checkpoints.restore import CheckpointReader, GoneError
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment, resolve
from s2sjax.files import jsontext
from s2sjax.reporting.display import align


def run(values: dict[str, Any]) -> int:
    workdir, experiment = Path(values["workdir"]), resolve(values["config"])
    found = listing(workdir, experiment)
    if values["format"] == "json":
        print(jsontext.dumps(found, indent=2))
        return 0
    entries = found["checkpoints"]
    if not entries:
        print(f"{workdir} has no checkpoint yet")
    else:
        print("\n".join(line.removeprefix("  ") for line in _table(entries, found["metric"])))
    if found["damaged"]:
        print(f"damaged, and passed over: {', '.join(map(str, found['damaged']))}")
    if entries:
        choice = f"config.decode.checkpoint={experiment.decode.checkpoint}"
        used = (
            f"use step {found['used']}, by {choice}"
            if found["used"] is not None
            else f"refuse {choice}: it is not there"
        )
        metric = f"config.checkpoint.metric={found['metric']}"
        ranked = any(entry["best"] for entry in entries)
        best = f"best by {metric}, of equals the newest" if ranked else f"no checkpoint has {metric}, so none is best"
        print(f"{best}; decode and evaluate {used}")
    return 0


def listing(workdir: Path, experiment: Experiment) -> dict[str, Any]:
    """The checkpoints as JSON values, ascending; only manifests are read, files are not verified. A checkpoint that a
    training deletes meanwhile is not among them."""
    reader = CheckpointReader(workdir / "checkpoints", experiment.checkpoint.metric)
    found: dict[int, dict[str, Any]] = {}
    damaged = reader.unreadable()
    for step in reader.steps():
        try:
            at, size = reader.written(step)
            metrics = dict(reader.metrics(step))
        except GoneError:
            continue
        except UserError:
            damaged.append(step)
            continue
        time = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds")
        found[step] = {"step": step, "time": time.replace("+00:00", "Z"), "bytes": size, "metrics": metrics}
    best, newest = reader.chosen("best", list(found)), max(found, default=None)
    chosen = reader.chosen(experiment.decode.checkpoint, list(found))
    used = newest if chosen is None else chosen if chosen in found else None
    for step, entry in found.items():
        entry |= {"best": step == best, "newest": step == newest, "used": step == used}
    return {
        "workdir": str(workdir), "metric": experiment.checkpoint.metric, "used": used,
        "checkpoints": list(found.values()), "damaged": sorted(damaged),
    }  # fmt: skip


def _table(entries: list[dict[str, Any]], metric: str) -> list[str]:
    listed = dict.fromkeys(name for entry in entries for name in entry["metrics"])
    names = sorted(listed, key=lambda name: (name != metric, name != "loss"))
    rows: list[list[object]] = [["step", "saved (UTC)", "MB", *names, ""]]
    for entry in entries:
        scores = [entry["metrics"].get(name) for name in names]
        cells = ["-" if value is None or math.isnan(value) else f"{value:.4f}" for value in scores]
        marks = ", ".join(mark for mark in ("best", "newest", "used") if entry[mark])
        time = entry["time"].replace("T", " ").removesuffix("Z")
        rows.append([f"{entry['step']:,}", time, f"{entry['bytes'] / 1e6:,.1f}", *cells, marks])
    return align(rows)
