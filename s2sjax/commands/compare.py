"""`s2sjax compare`: several runs side by side, as a table and as curves in one plot."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2sjax.commands.table import COMMANDS
from s2sjax.files import jsontext
from s2sjax.reporting.display import align
from s2sjax.reporting.plots import check_format, compared_curves
from s2sjax.runs.comparison import Recorded, differing_keys, read_run, rows, shown, spread


def run(values: dict[str, Any]) -> int:
    paths = [Path(path) for path in values["arguments"]]
    if not paths:
        raise COMMANDS["compare"].misuse("no run is named: give the directories of one or more")
    if values["plot"]:
        check_format(Path(values["plot"]), "--plot")
    runs = [read_run(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    groups = rows(runs)
    if values["format"] == "json":
        record = {"runs": [str(path) for path in paths], **groups}
        print(jsontext.printed(record, indent=2))
    else:
        print("\n".join(_table(runs, groups)))
    if values["plot"]:
        compared_curves({run.name: (run.train, run.validation) for run in runs}, Path(values["plot"]), by=values["by"])
    return 0


def _names(paths: Sequence[Path]) -> list[str]:
    """Names as short as they can be and still differ: what all paths begin with is left out."""
    texts = [os.path.normpath(path) for path in paths]
    if len(set(texts)) < len(texts):
        return [f"{text} ({number})" for number, text in enumerate(texts, start=1)]
    parts = [text.split(os.sep) for text in texts]
    common = min(len(os.path.commonprefix(parts)), *(len(each) - 1 for each in parts))
    return [os.sep.join(each[common:]) for each in parts]


def _table(runs: Sequence[Recorded], groups: dict[str, dict[str, list[Any]]]) -> list[str]:
    """Lines: a column for each run and, if they differ in the seed only, one for their mean and standard deviation."""
    seeds = len(runs) > 1 and differing_keys(runs) == ["seed"]
    table: list[list[object]] = [["", *(run.name for run in runs), *(["mean ± deviation"] if seeds else [])]]
    for title, group in groups.items():
        table.append([title])
        for name, row in group.items():
            mean = [spread(row) if title != "config" and name != "seconds" else ""] if seeds else []
            table.append([f"  {name}", *(shown(name, value) for value in row), *mean])
    return [line.removeprefix("  ") for line in align(table)]
