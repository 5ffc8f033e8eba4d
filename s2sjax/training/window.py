"""What a line of the training log says of the steps since the one before."""

import time
from collections.abc import Callable, Mapping


class Window:
    """Metrics since the last line: sums and weights until the last moment, and the time they took."""

    def __init__(self, of_sums: Callable[[Mapping[str, float]], Mapping[str, float]]) -> None:
        """Args: of_sums: what sums over the steps say: `Task.summary`."""
        self._of_sums = of_sums
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = self._skipped = 0
        self._began = time.monotonic()

    def add(self, metrics: Mapping[str, float]) -> None:
        """Those of one step. What is known of a bad one is not a number, or no measure of the others."""
        if not metrics["taken"]:
            self._skipped += 1
            return
        self._steps += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def skip(self, seconds: float) -> None:
        """Leave out time that was not spent on steps: compiling, evaluating."""
        self._began += seconds

    def summary(self) -> dict[str, float]:
        """What the task says of the sums, rates, shares (0..1), and the number of bad steps; the window begins anew."""
        s, seconds = self._sums, max(time.monotonic() - self._began, 1e-9)
        result: dict[str, float] = {"skipped": self._skipped}
        if self._steps:
            result |= {
                **self._of_sums(s),
                "tokens_per_second": s["weight"] / seconds,
                "padding": 1 - s["filled"] / s["cells"],
                "gradient_norm": s["gradient_norm"] / self._steps,
            }
        self._reset()
        return result
