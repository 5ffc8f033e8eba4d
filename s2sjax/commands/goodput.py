"""`s2sjax goodput`: where a run's wall time went, over all its starts."""

from pathlib import Path
from typing import Any

from s2sjax import goodput


def run(values: dict[str, Any]) -> int:
    print(goodput.table(goodput.of_run(Path(values["workdir"]))))
    return 0
