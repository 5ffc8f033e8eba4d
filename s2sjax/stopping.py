"""Requests to stop: the signals by which users and schedulers ask a run to save and go.

SIGTERM is what Slurm, Kubernetes and machines that are taken away send; SIGUSR1 is for `sbatch --signal=USR1@90`;
SIGINT is Ctrl-C.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(BaseException):
    """Raised out of `StopRequests.raising` by a request, as KeyboardInterrupt is: no `except Exception` keeps it."""


class StopRequests:
    """A context manager that takes the signals; between steps the loop looks at `name`."""

    def __init__(self) -> None:
        self.name: str | None = None
        """The signal that asked, "SIGTERM"; None as long as nobody did."""
        self._raises = False

    def __enter__(self) -> "StopRequests":
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Where a request need not wait, since nothing would be lost: it raises `Stopped`."""
        if self.name:
            raise Stopped(f"by {self.name}")
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.name and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second time it does not wait
        self.name = signal.Signals(number).name
        if self._raises:
            self._raises = False  # what is cleaned up on the way out is left alone
            raise Stopped(f"by {self.name}")
