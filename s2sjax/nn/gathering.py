"""Layers whose parameters are stored in parts and gathered when they run (Rajbhandari et al. 2020, arXiv:1910.02054,
stage 3)."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

Gather = Callable[[tuple[str, ...], Any], Any]
"""From where a stack's parameters stand in the model's tree, and those of one of its layers, to the latter, whole."""

_GATHER: contextvars.ContextVar[Gather | None] = contextvars.ContextVar("how layers are gathered", default=None)


@contextlib.contextmanager
def layers_gathered(gather: Gather | None) -> Iterator[None]:
    """While a model is traced in this context, its stacks gather each layer's parameters where they use them.

    A context and not an argument, because models know of no devices. It is opened within the function that `jax.jit`
    traces: what is traced belongs to that function, and no other trace can be mistaken for it.
    """
    token = _GATHER.set(gather)
    try:
        yield
    finally:
        _GATHER.reset(token)


def gathered(path: tuple[str, ...], parameters: Any) -> Any:
    """A layer's parameters, whole. Called inside of what is rematerialised: the backward pass does not keep them."""
    gather = _GATHER.get()
    return parameters if gather is None else gather(path, parameters)
