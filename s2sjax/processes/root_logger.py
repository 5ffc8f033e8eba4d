"""The root logger, kept for the user."""

import contextlib
import logging
from collections.abc import Iterator

from s2sjax.errors import without_controls


class Formatter(logging.Formatter):
    """For messages on a terminal, which may hold values from files."""

    def format(self, record: logging.LogRecord) -> str:
        return without_controls(super().format(record))


@contextlib.contextmanager
def root_logger_untouched() -> Iterator[None]:
    """Within it, no library gives the root logger a handler for good; absl does with its first message, upon which a
    user's own `logging.basicConfig` would do nothing. Also a decorator."""
    before = list(logging.root.handlers)
    try:
        yield
    finally:
        for handler in set(logging.root.handlers) - set(before):
            logging.root.removeHandler(handler)
