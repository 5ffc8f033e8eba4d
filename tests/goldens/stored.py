"""What the tests hold, as JSON beside them: read, and written anew."""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.goldens.integers import batch_lines, resolved_configs
from tests.goldens.stablehlo import summary
from tests.goldens.steps import STEPS

HERE = Path(__file__).parent
COMPILERS = ("jax", "flax", "optax")
"""Packages that write StableHLO: other versions write other programs for the same step."""

HONEST = (
    "If this change was wanted: write both commits down (python -m tests.goldens --write DIR), see with diff -r that "
    "nothing else changed, renew what is held (python -m tests.goldens --renew), and say in the log why. If it was "
    "not wanted, for instance in a move or a renaming, the change has a fault: renewing would hide it."
)


def versions() -> dict[str, str]:
    return {name: version(name) for name in COMPILERS}


def read(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def renew() -> None:
    """Write anew what `test_steps.py` and `test_integers.py` hold."""
    _write("steps", {"versions": versions(), "steps": {name: summary(step.text()) for name, step in STEPS.items()}})
    with tempfile.TemporaryDirectory() as cache:
        batches = batch_lines(Path(cache))
    _write("integers", {"batches": batches, "configs": resolved_configs()})


def _write(name: str, values: dict[str, Any]) -> None:
    """One line for each entry of an entry, so that a diff shows which one changed."""
    parts = []
    for key, entries in values.items():
        lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in entries.items())
        parts.append(f"{json.dumps(key)}: {{\n{lines}\n}}")
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
