"""A checkpoint on its way to be one: the temporary directory that it is put together in."""

import dataclasses
import errno
import logging
import os
import shutil
import time
from pathlib import Path

from s2sjax.files import rundir

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Save:
    """A checkpoint that is being written.

    Attributes:
      step: of the training.
      temporary: its directory, until it is committed.
    """

    step: int
    temporary: Path
    _handle: int = -1

    def open(self) -> None:
        """Make the directory, through whose descriptor it is written from now on. Raises: OSError, ForeignError."""
        self._handle = rundir.folder_descriptor(self.temporary.parent, self.temporary.name, make=True)

    @property
    def is_open(self) -> bool:
        return self._handle >= 0

    @property
    def through(self) -> Path:
        """The way to what `open` made, whatever has its name by now."""
        return rundir.path_of(self._handle, self.temporary)

    def close(self) -> None:
        """Let go of the directory. May be called again, or before `open`."""
        if self.is_open:
            os.close(self._handle)
            self._handle = -1


def open_again(handle: int, directory: Path) -> None:
    """Have the descriptor of a directory lead to what is mounted there now, which may be read-only since, say.

    Raises:
        OSError: it cannot be opened, or another directory has its name now; nobody would find what is saved here.
    """
    with rundir.open_folder(directory.parent, directory.name) as now:
        if not os.path.sameopenfile(now, handle):
            raise FileExistsError(errno.EEXIST, f"{directory} is not the directory that this run began with")
        os.dup2(now, handle, inheritable=False)


def remove(directory: Path, known_as: Path) -> None:
    """Delete a `tmp-` directory, if it is there, into which threads of a failed save may still write for a moment.

    Args:
        known_as: how the user knows the directory, for the warning if it stays.
    """
    for pause in (0.0, 0.1, 0.5):
        time.sleep(pause)
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
    _log.warning("%s could not be removed; the next run will try again", known_as)
