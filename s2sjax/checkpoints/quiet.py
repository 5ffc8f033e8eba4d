"""Silence where a library says in pages what a sentence of ours says too."""

import functools
import logging
import sys


@functools.cache
def quieten_orbax() -> None:
    """Of a failed write, orbax and what is under it print dozens of tracebacks; `Checkpointer` reports a sentence.

    For good: the other writes of the same array notice last, and report to an event loop that orbax has closed.
    """
    hook = sys.unraisablehook

    def hook_without_stragglers(unraisable: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            hook(unraisable)

    def not_of_orbax(record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in f"{record.pathname} {record.getMessage()}")

    sys.unraisablehook = hook_without_stragglers
    logging.getLogger("absl").addFilter(not_of_orbax)
    logging.getLogger("asyncio").addFilter(not_of_orbax)
