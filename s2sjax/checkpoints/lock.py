"""One run at a time in a directory, whatever ends it."""

import fcntl
import os
from pathlib import Path

from s2sjax.errors import UserError
from s2sjax.files import rundir


class RunLock:
    """The file `lock` in a directory, held until `release` or death. A record lock: child processes do not inherit it.

    Args:
        directory: where it is.
        known_as: how the user knows the directory, for messages.

    Raises:
        UserError: another process holds it, or it is a link or no file.
        OSError: the directory cannot be written.
    """

    def __init__(self, directory: Path, known_as: Path) -> None:
        self._file: int | None = None
        try:
            self._file = rundir.open_for_appending(directory, "lock")
        except rundir.ForeignError as error:
            raise rundir.ForeignError(rundir.in_the_users_words(str(error), directory, known_as)) from None
        self.problem: OSError | None = None
        """Why nothing is locked, on a file system that has no locks."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self.release()
            raise UserError(
                f"another process is training in {known_as}; wait for it, stop it, or choose another workdir"
            ) from error
        except OSError as error:
            self.problem = error

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
