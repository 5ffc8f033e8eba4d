"""`s2sjax goodput`: where the time went in which a run's processes ran, over all starts."""

from pathlib import Path
from typing import Any

from s2sjax.reporting import goodput


def run(values: dict[str, Any]) -> int:
    print(goodput.table(goodput.of_run(Path(values["workdir"]))))
    return 0
