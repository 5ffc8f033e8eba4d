"""Silence where a library says in pages what a sentence of ours says too."""

import functools
import logging
import sys


@functools.cache
def quieten_orbax() -> None:
    """Of a failed write or read, orbax and what is under it print dozens of tracebacks; we report a sentence.

    For good: others of the same checkpoint notice last, and report to an event loop that orbax has closed, or never.
    """
    hook = sys.unraisablehook

    def hook_without_stragglers(unraisable: "sys.UnraisableHookArgs") -> None:
        closed = isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine that nobody waits for any more
        if not closed and not (code and "/orbax/" in code.co_filename):
            hook(unraisable)

    def not_of_orbax(record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in f"{record.pathname} {record.getMessage()}")

    sys.unraisablehook = hook_without_stragglers
    logging.getLogger("absl").addFilter(not_of_orbax)
    logging.getLogger("asyncio").addFilter(not_of_orbax)
