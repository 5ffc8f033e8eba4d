"""`s2sjax evaluate`: loss and metrics of a split, as a table and as files."""

from typing import Any

from s2sjax.commands.opening import open_run
from s2sjax.commands.remarks import print_source_remarks
from s2sjax.reporting.display import align


def run(values: dict[str, Any]) -> int:
    opened = open_run(values)
    results = opened.evaluate(values["split"])
    pairs = results.pop("pairs", {})
    rows = [(name, _shown(value)) for name, value in results.items()]
    print(f"{values['workdir']}, {values['split']}:", *align(rows), sep="\n  ")
    if pairs:
        print("", *align(_by_pair(pairs, results)), sep="\n  ")
    print_source_remarks(opened)
    return 0


def _by_pair(pairs: dict[str, dict[str, Any]], results: dict[str, Any]) -> list[list[str]]:
    """A row for each pair of languages, and one for all of them."""
    names = [name for name, value in next(iter(pairs.values())).items() if isinstance(value, float)]
    whole = {"examples": sum(each["examples"] for each in pairs.values())} | results
    rows = [*pairs.items(), ("all", whole)]
    return [
        ["pair", "examples", *names],
        *([pair, *(_shown(each[name]) for name in ("examples", *names))] for pair, each in rows),
    ]


def _shown(value: float | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
