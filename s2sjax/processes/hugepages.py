"""Large pages for what a process allocates, which is decided before it starts."""

import contextlib
import os
import platform
import sys

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
    # Where an interpreter may not be started again (no permission, a seccomp filter), this one goes on as it is.
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    del os.environ[TUNABLES]
