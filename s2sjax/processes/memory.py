"""Memory that a device has not got: a user's mistake in sizes, which XLA reports as an error of its own."""

import contextlib
from collections.abc import Iterator

import jax

from s2sjax.errors import UserError


@contextlib.contextmanager
def needing_memory(advice: str) -> Iterator[None]:
    """Within it, memory that does not suffice is a `UserError`; any other error passes.

    Args:
        advice: what there is not enough memory for, and the way out: what follows "there is not enough memory ".
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"there is not enough memory {advice}") from error
