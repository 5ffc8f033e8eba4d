"""`s2sjax evaluate`: loss and metrics of a split, as a table and as files."""

from typing import Any

from s2sjax.commands.opening import open_run
from s2sjax.commands.remarks import print_source_remarks
from s2sjax.reporting.display import align
from s2sjax.runs.counted import CountedRun


def run(values: dict[str, Any]) -> int:
    opened = open_run(values)
    evaluated = CountedRun(opened).evaluate(values["split"])
    results = evaluated.result
    parts = {kind: results.pop(f"{kind}s") for kind in ("pair", "set") if f"{kind}s" in results}
    rows = [(name, _shown(value)) for name, value in results.items()]
    print(f"{values['workdir']}, {values['split']}:", *align(rows), sep="\n  ")
    for kind, each in parts.items():
        print("", *align(_by_part(kind, each, results)), sep="\n  ")
    print_source_remarks(opened, evaluated.counts)
    return 0


def _by_part(kind: str, parts: dict[str, dict[str, Any]], results: dict[str, Any]) -> list[list[str]]:
    """A row for each pair of languages or set of a mixture, and one for all of them."""
    names = [name for name, value in next(iter(parts.values())).items() if isinstance(value, float)]
    whole = {"examples": sum(each["examples"] for each in parts.values())} | results
    rows = [*parts.items(), ("all", whole)]
    return [
        [kind, "examples", *names],
        *([part, *(_shown(each[name]) for name in ("examples", *names))] for part, each in rows),
    ]


def _shown(value: float | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
