"""The one exception that is shown to a user as a sentence instead of a traceback."""


class UserError(ValueError):
    """A mistake in what the user gave: a config, a file, a command line.

    The message names the value, what was expected, and the way out. The command line prints the message alone
    and exits with code 2; from Python it is an ordinary `ValueError`.
    """
