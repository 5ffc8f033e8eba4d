"""Sequence-to-sequence models and causal language models in JAX.

run = s2sjax.load("runs/m30k")
run.decode(["A man rides a horse."])
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2sjax.run import Run, load

__version__ = "0.1.0"
__all__ = ["Run", "load"]


def __getattr__(name: str):
    # Lazy, so that `import s2sjax.data` needs no JAX, and the command line can set up the process before JAX starts.
    if name in __all__:
        from s2sjax import run

        return getattr(run, name)
    raise AttributeError(f"module 's2sjax' has no attribute '{name}'")
