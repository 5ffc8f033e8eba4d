"""Sequence-to-sequence models and causal language models in JAX.

    base_config   every config key with its default, for one model family
    train         train a model, or resume a run; returns it, opened
    load          open a run directory, or several that decode together
    Run           decode, score, logits, explain, align, tag, evaluate; with_config for other settings
    Hypothesis    what decode finds
    UserError     what is raised for a mistake of the caller's: a ValueError of one sentence

>>> import s2sjax
>>> run = s2sjax.load("runs/numbers")
>>> run.decode(["two three one"])[0][0].text
'zwei drei eins'
"""

import importlib as _importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2sjax.errors import UserError
    from s2sjax.experiment import base_config
    from s2sjax.inference.hypotheses import Hypothesis
    from s2sjax.python_api import train
    from s2sjax.runs.loading import load
    from s2sjax.runs.run import Run

__version__ = "0.1.0"
__all__ = ["Hypothesis", "Run", "UserError", "base_config", "load", "train"]
_HOMES = {
    "Hypothesis": "inference.hypotheses",
    "Run": "runs.run",
    "UserError": "errors",
    "base_config": "experiment",
    "load": "runs.loading",
    "train": "python_api",
}


def __getattr__(name: str):
    # Lazy, so that `import s2sjax.data` needs no JAX, and the command line can set up the process before JAX starts.
    if name in _HOMES:
        from s2sjax.processes.root_logger import root_logger_untouched

        with root_logger_untouched():  # orbax and grain speak while they are imported
            return getattr(_importlib.import_module(f"s2sjax.{_HOMES[name]}"), name)
    raise AttributeError(f"module 's2sjax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"TYPE_CHECKING"})
