"""`s2sjax evaluate`: loss and metrics of a split, as a table and as a file."""

from typing import Any

from s2sjax.commands.opening import open_run
from s2sjax.commands.remarks import say_cut
from s2sjax.report import align


def run(values: dict[str, Any]) -> int:
    opened = open_run(values)
    results = opened.evaluate(values["split"])
    rows = [(name, _shown(value)) for name, value in results.items()]
    print(f"{values['workdir']}, {values['split']}:", *align(rows), sep="\n  ")
    say_cut(opened)
    return 0


def _shown(value: float | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
