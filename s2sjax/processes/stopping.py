"""Requests to stop: the signals by which users and schedulers ask a run to save and go.

SIGTERM is what Slurm, Kubernetes and machines that are taken away send; SIGUSR1 is for `sbatch --signal=USR1@90`;
SIGINT is Ctrl-C. Machines that give notice in another way have an address that is asked; see `NOTICE`.
"""

import contextlib
import http.client
import logging
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from types import FrameType, TracebackType

from s2sjax.errors import UserError, in_one_line

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
NOTICE = "S2SJAX_PREEMPTION_NOTICE"
"""Environment variable: a URL that answers TRUE as soon as this machine is about to be taken away, as
http://metadata.google.internal/computeMetadata/v1/instance/preempted does on Google's."""
_ASK_EVERY = 1.0  # seconds; Google's spot machines have 30 left

_log = logging.getLogger(__name__)


class Stopped(BaseException):
    """Raised out of `StopRequests.raising` by a request, as KeyboardInterrupt is: no `except Exception` keeps it."""


class StopRequests:
    """A context manager that takes the signals; between steps the loop looks at `name`.

    Only a process's main thread can take signals. In another thread nobody can ask.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        """The signal that asked, "SIGTERM"; None as long as nobody did."""
        self._raises = False

    def __enter__(self) -> "StopRequests":
        main = threading.current_thread() is threading.main_thread()
        url = os.environ.get(NOTICE)
        self._notices = _Notices(url) if url and main else None
        self._before = {number: signal.signal(number, self._ask) for number in SIGNALS} if main else {}
        if self._notices:
            self._notices.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._notices:
            self._notices.stop()
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


class _Notices(threading.Thread):
    """Asks a URL for notice of preemption, and passes it on as the SIGTERM that other machines would send."""

    def __init__(self, url: str) -> None:
        super().__init__(name="preemption notices", daemon=True)
        self._url, self._over = url, threading.Event()
        try:
            self._request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        except ValueError as error:
            raise UserError(f"{NOTICE} is '{url}', but a URL was expected") from error
        # A metadata server belongs to the machine: no proxy stands between.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        reported = False
        while not self._over.wait(_ASK_EVERY):
            try:
                with self._opener.open(self._request, timeout=_ASK_EVERY) as answer:
                    taken = answer.read(10).strip().upper() == b"TRUE"
            except (OSError, http.client.HTTPException) as error:
                if not reported:
                    _log.warning("%s=%s cannot be asked (%s)", NOTICE, self._url, in_one_line(error))
                reported = True
                continue
            if taken and not self._over.is_set():
                _log.warning("%s gives notice: this machine will be taken away", self._url)
                os.kill(os.getpid(), signal.SIGTERM)
                return
