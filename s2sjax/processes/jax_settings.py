"""JAX's own settings: how exact products are, and where compiled programs are kept."""

import contextlib
import functools
import logging
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from s2sjax.files.paths import cache_root

_log = logging.getLogger(__name__)
_EXACT = "highest"
_PROGRAM = "-cache"
"""How JAX ends the name of a file that holds a compiled program."""


def configure_jax() -> None:
    """For a process of our own: products of float32 in float32, and compiled programs kept.

    By default JAX lets GPUs round float32 operands to TF32, and TPUs to bfloat16; here bfloat16 is asked for by its
    name.
    """
    import jax

    if jax.config.jax_default_matmul_precision is None:  # type: ignore[attr-defined]
        jax.config.update("jax_default_matmul_precision", _EXACT)
    keep_compiled_programs()


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Within it, products of float32 are in float32, as in a process of our own. Also a decorator.

    For Python, where the process is somebody else's. A precision that the caller has set stands.
    """
    import jax

    exact = jax.config.jax_default_matmul_precision is None  # type: ignore[attr-defined]
    with jax.default_matmul_precision(_EXACT) if exact else contextlib.nullcontext():
        yield


def keep_compiled_programs() -> None:
    """Keep what XLA compiles in the directory xla of `paths.cache_root`, unless JAX has been told another.

    The cache holds 2 GiB, and the least recently used go first. Where it cannot be, a warning says so, and every
    process compiles for itself.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        cache = cache_root(writable=True) / "xla"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            names = set(os.listdir(cache))
        except OSError as error:
            reason = error.strerror
            _log.warning("compiled programs are not kept in %s: %s; S2SJAX_CACHE names another place", cache, reason)
            return
        _remove_unfinished(cache, names)
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_compilation_cache_max_size", 2 * 2**30)
        _accept_unknown_owners()


def _remove_unfinished(cache: Path, names: Collection[str]) -> None:
    """Remove what a process that was killed, or a full disk, left half written: a program without the file that says
    when it was used, which JAX writes after it. JAX would take the half for the whole, and keep no other program.

    Args:
        names: the files in the cache.
    """
    programs = [name for name in names if name.endswith(_PROGRAM)]
    if any(_used(name) not in names for name in programs):
        import filelock

        # JAX holds this lock while it writes. Where it cannot be had, JAX says itself that it keeps nothing.
        with contextlib.suppress(OSError), filelock.FileLock(cache / ".lockfile", timeout=10):
            for name in programs:
                if not (cache / _used(name)).exists():
                    (cache / name).unlink(missing_ok=True)


def _used(program: str) -> str:
    return program.removesuffix(_PROGRAM) + "-atime"


@functools.cache
def _accept_unknown_owners() -> None:
    """Have etils give the number of a file's owner or group whose name the system does not know, as in a container.

    JAX asks it for the sizes of the files in the cache. etils looks up the owner's name too, fails, and then JAX keeps
    nothing.
    """
    from etils.epath import backend, stat_utils

    with_names = backend._OsPathBackend.stat

    @functools.wraps(with_names)
    def with_names_or_numbers(self, path):
        try:
            return with_names(self, path)
        except KeyError:
            found = os.stat(path)
            return stat_utils.StatResult(
                is_directory=stat.S_ISDIR(found.st_mode), length=found.st_size, mtime=int(found.st_mtime),
                owner=str(found.st_uid), group=str(found.st_gid), mode=found.st_mode,
            )  # fmt: skip

    backend._OsPathBackend.stat = with_names_or_numbers
