"""Sequence-to-sequence models and causal language models in JAX.

run = s2sjax.load("runs/m30k")
run.decode(["A man rides a horse."])
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2sjax.loading import load
    from s2sjax.run import Run

__version__ = "0.1.0"
__all__ = ["Run", "load"]
_HOMES = {"Run": "s2sjax.run", "load": "s2sjax.loading"}


def __getattr__(name: str):
    # Lazy, so that `import s2sjax.data` needs no JAX, and the command line can set up the process before JAX starts.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 's2sjax' has no attribute '{name}'")
