"""`s2sjax inspect`: what a config would train and what that takes, on devices that need not be there."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from s2sjax.commands.options import whole_number
from s2sjax.experiment import resolve
from s2sjax.files import jsontext
from s2sjax.inspection.compiled import Compiled, compile_step
from s2sjax.inspection.cost import Cost, Parameter, estimate_cost, list_parameters
from s2sjax.inspection.subject import Subject, describe, described_devices
from s2sjax.plural import counted
from s2sjax.processes import jax_settings
from s2sjax.reporting.display import progress
from s2sjax.runs import home
from s2sjax.runs.workdir import own_tokenizers


def run(values: dict[str, Any]) -> int:
    experiment, vocab = resolve(values["config"]), _number(values["vocab"], "--vocab")
    own = None
    if values["said"] is not None:  # the config is the run directory's
        workdir = Path(values["workdir"])
        home.check_costs(workdir, experiment, values["saved"], values["said"])
        if vocab is None:  # and its data is read
            home.check(workdir, experiment, values["said"])
            own = own_tokenizers(workdir)
            home.check_tokens(workdir, experiment, values["said"], own)
    jax_settings.configure_jax()
    devices = described_devices(_number(values["devices"], "--devices"))
    with progress("preparing data") as advance:
        subject = describe(experiment, devices, vocab, advance, own=own)
    platform = values["platform"] or subject.mesh.devices.flat[0].platform
    parameters, cost = list_parameters(subject), estimate_cost(subject, platform)
    compiled = compile_step(subject) if values["compile"] else None
    if values["format"] == "json":
        record = {"platform": platform, **_record(subject, parameters, cost, compiled)}
        print(jsontext.dumps(record, indent=2))
        return 0
    for line in _heading(subject, parameters, from_data=vocab is None):
        print(line)
    _table(["parameter", "shape", "type", "split over", "bytes a device"], _parameter_rows(parameters))
    _table(["memory a device", "bytes", ""], _memory_rows(cost, platform))
    for line in _operations(subject, cost):
        print(line)
    if compiled:
        print(f"\nCompiled for {_devices(subject)} in {compiled.seconds:.0f} s; XLA's figures:")
        _table(["memory a device", "bytes"], _compiled_rows(compiled))
        _table(["collective", "along", "a step", "bytes a device", "of them sent"], _collective_rows(compiled))
        if not compiled.bounded:
            print("XLA does not know the length of a loop with collectives in it: one iteration is counted")
    return 0


def _number(text: str, flag: str) -> int | None:
    return whole_number(text, flag, 1) if text else None


def _heading(subject: Subject, parameters: Sequence[Parameter], *, from_data: bool) -> list[str]:
    shape, (source, target) = subject.shape, subject.vocabularies
    count = sum(math.prod(p.shape) for p in parameters)
    origin = "the longest rows that the config allows"
    if from_data:
        origin = "the only shape of its plan" if len(subject.shapes) == 1 else f"the biggest of {len(subject.shapes)}"
    return [
        f"{subject.experiment.model_name}, {counted(count, 'parameter')}, {subject.experiment.train.precision}, "
        f"vocabulary {source:,}" + ("" if source == target else f" and {target:,}"),
        f"on {_devices(subject)}; a batch of {shape.rows}x({shape.source}+{shape.target}) tokens, {origin}",
    ]


def _devices(subject: Subject) -> str:
    mesh = subject.mesh
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    plural = "" if mesh.size == 1 else "s"
    return f"{mesh.size} {mesh.devices.flat[0].platform} device{plural}" + (f" ({axes})" if axes else "")


def _parameter_rows(parameters: Sequence[Parameter]) -> list[list[str]]:
    rows = [
        [p.path, "x".join(map(str, p.shape)), p.type, ", ".join(axes or "-" for axes in p.split), f"{p.bytes:,}"]
        for p in parameters
    ]
    whole, here = sum(math.prod(p.shape) for p in parameters), sum(p.bytes for p in parameters)
    return [*rows, ["total", f"{whole:,}", "", "", f"{here:,}"]]


def _memory_rows(cost: Cost, platform: str) -> list[list[str]]:
    memory = cost.memory
    return [
        ["parameters", f"{memory.parameters:,}", ""],
        ["optimizer state", f"{memory.optimizer:,}", ""],
        ["moving average", f"{memory.average:,}", ""],
        ["counters", f"{memory.rest:,}", ""],
        ["batch", f"{memory.batch:,}", ""],
        [
            "what a step makes",
            f"{memory.step:,}",
            f"estimate for a {platform}: activations, gradients, gathered parameters",
        ],
        ["all together", f"{memory.peak:,}", "estimate"],
    ]


def _operations(subject: Subject, cost: Cost) -> list[str]:
    shape = subject.shape
    tokens = shape.rows * (shape.source + shape.target)
    return [
        f"\n{counted(cost.flops.total, 'operation')} a step in matrix products, {round(cost.flops.device):,} a device, "
        f"{cost.flops.total // max(tokens, 1):,} a position",
        "(two for a multiplication and its addition; forward, backward, and what the backward pass computes again)",
    ]


def _compiled_rows(compiled: Compiled) -> list[list[str]]:
    return [
        ["arguments", f"{compiled.arguments:,}"],
        ["outputs", f"{compiled.outputs:,}"],
        ["outputs in place of arguments", f"{compiled.aliased:,}"],
        ["temporaries", f"{compiled.temporaries:,}"],
        ["all together", f"{compiled.peak:,}"],
    ]


def _collective_rows(compiled: Compiled) -> list[list[str]]:
    rows = [[c.kind, "+".join(c.axes), f"{c.runs:,}", f"{c.payload:,}", f"{c.sent:,}"] for c in compiled.collectives]
    sent = sum(c.sent for c in compiled.collectives)
    return [*rows, ["total", "", f"{sum(c.runs for c in compiled.collectives):,}", "", f"{sent:,}"]]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Numbers to the right. Where there is no terminal, as wide as it has to be."""
    table = Table(*names, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, name in zip(table.columns, names, strict=True):
        column.no_wrap = not sys.stdout.isatty()
        column.justify = "right" if name.startswith(("bytes", "of them", "a step")) else "left"
    for row in rows:
        table.add_row(*row)
    console = Console() if sys.stdout.isatty() else Console(width=1000, color_system=None)
    with console.capture() as captured:
        console.print(table)
    print()
    for line in captured.get().splitlines():
        print(line.rstrip())


def _record(subject: Subject, parameters: Sequence[Parameter], cost: Cost, compiled: Compiled | None) -> dict[str, Any]:
    record = {
        "mesh": dict(subject.mesh.shape),
        "batch": subject.shape._asdict(),
        "vocabularies": subject.vocabularies,
        "parameters": [dataclasses.asdict(p) for p in parameters],
        "memory": dataclasses.asdict(cost.memory) | {"peak": cost.memory.peak},
        "flops": dataclasses.asdict(cost.flops),
    }
    if compiled:
        collectives = [row._asdict() for row in compiled.collectives]
        record["compiled"] = dataclasses.asdict(compiled) | {"peak": compiled.peak, "collectives": collectives}
    return record
