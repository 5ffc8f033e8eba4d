"""What a process must be told before JAX starts: how to allocate memory, and where to keep compiled programs."""

import os
import platform
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"


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


def cache_compilations() -> None:
    """Keep compiled programs in $S2SJAX_CACHE/xla (default ~/.cache/s2sjax): 2 GiB, least recently used go first."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        base = Path(os.environ.get("S2SJAX_CACHE") or Path.home() / ".cache" / "s2sjax")
        jax.config.update("jax_compilation_cache_dir", str(base / "xla"))
        jax.config.update("jax_compilation_cache_max_size", 2 * 2**30)
