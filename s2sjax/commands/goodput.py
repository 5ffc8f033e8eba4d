"""`s2sjax goodput`: where a run's wall time went, over all its starts."""

from pathlib import Path

from s2sjax import goodput
from s2sjax.flags import parse


def run(argv: list[str]) -> int:
    values = parse(argv, {"workdir": None})
    print(goodput.table(goodput.of_run(Path(values["workdir"]))))
    return 0
