"""What a process must be told before JAX starts: how to allocate memory, and where to keep compiled programs."""

import contextlib
import functools
import logging
import os
import platform
import stat
import sys
from collections.abc import Iterator

from s2sjax.paths import cache_root, has_writable_home

TUNABLES = "GLIBC_TUNABLES"
_EXACT = "highest"


def restart_with_huge_pages() -> None:
    """Restart this very command with transparent huge pages for malloc, if it runs on Linux without them.

    Large buffers go back to the kernel after every step and come back page by page; with huge pages a step on a CPU
    takes a quarter less. glibc (2.35 and later) reads the setting at a process's start, so setting it means another.
    A user's own GLIBC_TUNABLES are left alone.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or TUNABLES in os.environ:
        return
    os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def configure_jax() -> None:
    """For a process of our own: products of float32 in float32, and compiled programs kept.

    By default JAX lets GPUs round float32 operands to TF32, and TPUs to bfloat16; here bfloat16 is asked for by its
    name.
    """
    import jax

    if jax.config.jax_default_matmul_precision is None:  # type: ignore[attr-defined]
        jax.config.update("jax_default_matmul_precision", _EXACT)
    keep_compiled_programs()


def keep_compiled_programs() -> None:
    """Keep what XLA compiles in the directory xla of `paths.cache_root`, unless JAX has been told another.

    The cache holds 2 GiB, and the least recently used go first.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_root(writable=True) / "xla"))
        jax.config.update("jax_compilation_cache_max_size", 2 * 2**30)
        _accept_unknown_owners()


@functools.cache
def _accept_unknown_owners() -> None:
    """Have etils give the number of a file's owner or group whose name the system does not know, as in a container.

    JAX asks it for the sizes of the files in the cache. etils looks up the owner's name too, fails, and then JAX keeps
    nothing.
    """
    from etils.epath import backend, stat_utils

    with_names = backend._OsPathBackend.stat

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


def configure_matplotlib() -> None:
    """Have matplotlib keep its list of fonts in our cache if it cannot keep it in a home directory. Called before it is
    imported."""
    if not has_writable_home():
        os.environ.setdefault("MPLCONFIGDIR", str(cache_root(writable=True) / "matplotlib"))


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


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Within it, products of float32 are in float32, as in a process of our own. Also a decorator.

    For Python, where the process is somebody else's. A precision that the caller has set stands.
    """
    import jax

    exact = jax.config.jax_default_matmul_precision is None  # type: ignore[attr-defined]
    with jax.default_matmul_precision(_EXACT) if exact else contextlib.nullcontext():
        yield
