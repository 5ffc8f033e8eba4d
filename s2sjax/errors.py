"""The one exception that is shown to a user as a sentence instead of a traceback, and sentences made of the others."""

import os
import re


class UserError(ValueError):
    """A mistake in what the user gave: a config, a file, a command line.

    The message names the value, what was expected, and the way out. The command line prints the message alone
    and exits with code 2; from Python it is an ordinary `ValueError`.
    """


def in_one_line(error: BaseException) -> str:
    """What to tell a user of an error from below: the operating system's words where there are any."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if type(error).__module__.startswith("s2sjax."):
        return str(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))  # tensorstore's
    first = next(iter(str(error).splitlines()), "")
    return os.strerror(int(code[1])) if code else f"{type(error).__name__}: {first[:200]}"
