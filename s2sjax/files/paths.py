"""Paths that a user gives, in the config or in the environment: `~` in them, and what stands in their place."""

import errno
import functools
import logging
import os
import pwd
import stat
import sys
import tempfile
from pathlib import Path

from s2sjax.errors import UserError
from s2sjax.plural import counted

_log = logging.getLogger(__name__)


def expand(path: str | Path) -> Path:
    """A path with `~`, or `~NAME`, at its beginning replaced by that user's home directory.

    Raises:
        UserError: that user has none.
    """
    first, *rest = Path(path).parts or ("",)
    if first == "~":
        if (home := _home()) is None:
            raise UserError(
                f"{path} begins with ~, but there is no home directory: HOME is not set, and the system does not know "
                f"the user id {os.getuid()}; give the whole path, or set HOME"
            )
        return home.joinpath(*rest)
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path} begins with {first}, but there is no such user; give the whole path") from None


def read(path: str | Path, most: int) -> bytes:
    """The content of a file that a config names, `~` expanded. A FIFO or device, which may never end, is not opened.

    Raises:
        OSError: it cannot be read, is no file, or has more than `most` bytes. UserError: as `expand`.
    """
    with open(expand(path), "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it has {counted(found.st_size, 'byte')}, expected at most {most:,}")
        return file.read(most)


def cache_root(*, writable: bool = False) -> Path:
    """Where prepared data and compiled programs are kept: $S2SJAX_CACHE if it is set and not empty, else
    ~/.cache/s2sjax, else, for a user without a home directory to write to, a directory of their own among temporary
    files.

    Args:
        writable: it is going to be written to. Else a ~/.cache/s2sjax that can only be read is taken too: what was
            prepared there is as good as ever.

    Raises:
        UserError: `~` in $S2SJAX_CACHE means nothing here, or another user could write where temporary files go.
    """
    if given := os.environ.get("S2SJAX_CACHE"):
        return expand(given)
    cache = _home_cache(writable=writable)
    return cache if cache else _temporary_cache()


def has_writable_home() -> bool:
    """Whether libraries can keep what they want to keep in the home directory."""
    return _home_cache(writable=True) is not None


def _home_cache(*, writable: bool) -> Path | None:
    """Containers say HOME=/ for a user whom they do not know, and systems HOME=/nonexistent for nobody."""
    home = _home()
    if home is None:
        return None
    cache = home / ".cache" / "s2sjax"
    there = next(path for path in (cache, *cache.parents) if os.path.exists(path))
    can_be_written = os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)
    return cache if can_be_written or (there == cache and not writable) else None


def _home() -> Path | None:
    """An empty HOME is none; then the system's list of users is asked, which knows no user of many a container."""
    if given := os.environ.get("HOME"):
        return Path(given)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir or "/")
    except KeyError:
        return None


@functools.cache
def _temporary_cache() -> Path:
    directory = Path(tempfile.gettempdir()) / f"s2sjax-{os.getuid()}"
    way_out = "set S2SJAX_CACHE to a directory that can be written"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise UserError(
            f"no home directory can be written to, and {directory} cannot be made: {error}; {way_out}"
        ) from error
    # Its name is known to everybody: it must not be a link, nor another user's, nor open to others.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(f"no home directory can be written to, and others can write to {directory}; {way_out}")
    _log.warning(
        "no home directory can be written to: prepared data and compiled programs are kept in %s (S2SJAX_CACHE says "
        "where else)",
        directory,
    )
    return directory


def configure_matplotlib() -> None:
    """Have matplotlib keep its list of fonts in our cache if it cannot keep it in a home directory, and obey no
    settings of the directory that a user stands in. Called before it is imported.

    That directory may be a stranger's run, and a setting of matplotlib's is to run LaTeX on a text of one's own.

    Raises:
        UserError: what it would read there is no file.
    """
    if not has_writable_home():
        os.environ.setdefault("MPLCONFIGDIR", str(cache_root(writable=True) / "matplotlib"))
    if "matplotlib" in sys.modules:  # of a user's own program, with the user's settings
        return
    if os.path.lexists(_MATPLOTLIB) and not (os.path.isfile(_MATPLOTLIB) or os.path.isdir(_MATPLOTLIB)):
        raise UserError(f"{_MATPLOTLIB} in this directory is no file, and matplotlib would read it; remove it")
    import matplotlib

    if matplotlib.matplotlib_fname() == _MATPLOTLIB:
        matplotlib.rcParams.update(matplotlib.rcParamsDefault)
        _log.warning("%s in this directory is not obeyed; your own belongs where MATPLOTLIBRC says", _MATPLOTLIB)


_MATPLOTLIB = "matplotlibrc"
