"""The cache directory, and files in it that are whole or not there."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from s2sjax.data.config import DataConfig
from s2sjax.errors import UserError
from s2sjax.files.paths import cache_root, expand


def cache_directory(data: DataConfig) -> Path:
    return expand(data.cache_dir) if data.cache_dir else cache_root()


def write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under a name of its own, syncs it and renames it: `path` is absent, or whole."""
    with cache_errors(path.parent):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def cache_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot use the cache directory {directory}: {error.strerror or error}; "
            "make room there, or set config.data.cache_dir (or S2SJAX_CACHE) to a directory that can be written"
        ) from error
