"""The restart with large pages is a matter of speed: where it cannot be, everything works without."""

import os

from s2sjax.processes import hugepages


def test_where_the_interpreter_may_not_be_started_again_the_first_goes_on(monkeypatch):
    """As for a user id that may not execute it, or under a filter of system calls."""
    asked = []

    def refuse(path, arguments):
        asked.append(os.environ[hugepages.TUNABLES])
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "execv", refuse)
    monkeypatch.setattr(hugepages.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(hugepages.sys, "platform", "linux")
    monkeypatch.delenv(hugepages.TUNABLES, raising=False)
    hugepages.restart_with_huge_pages()
    assert asked == ["glibc.malloc.hugetlb=1"] and hugepages.TUNABLES not in os.environ
