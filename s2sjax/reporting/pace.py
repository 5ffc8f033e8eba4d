"""How long work still takes, from how long it took lately: the one estimate that bars and lines show."""

import time
from collections import deque

_LINES = 30
"""Marks that are looked back over: in training enough to average over validations and checkpoints."""


class Pace:
    """Of work that is `done` of `total` units when this is made; None: how many there are is unknown."""

    def __init__(self, done: int, total: int | None) -> None:
        self._total = total
        self._left_out = 0.0
        self._marks: deque[tuple[int, float]] = deque([(done, time.monotonic())], maxlen=_LINES)

    def mark(self, done: int) -> None:
        """Note how far the work is. The estimate looks back as far as the oldest of the last marks."""
        self._marks.append((done, self._now()))

    def leave_out(self, seconds: float) -> None:
        """Time that has just been spent and will not be again, such as compiling."""
        self._left_out += seconds

    def left(self, done: int) -> float | None:
        """Seconds from now until all is done; None while nothing is known."""
        first, began = self._marks[0]
        if self._total is None or done <= first:
            return None
        return max(self._total - done, 0) * max(self._now() - began, 0.0) / (done - first)

    def _now(self) -> float:
        return time.monotonic() - self._left_out


def duration(seconds: float | None) -> str:
    """3725.0 -> "1:02:05"; None -> "-:--:--"."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
