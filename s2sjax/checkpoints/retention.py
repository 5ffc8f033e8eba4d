"""When checkpoints are written, where else they are kept, and which ones stay."""

import dataclasses
from collections.abc import Sequence

from s2sjax.checkpoints.restore import METRIC_SIGNS
from s2sjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When a checkpoint is written, which ones stay, and how one is read back."""

    every_steps: int = 1000
    keep_last: int = 3
    keep_best: int = 1
    """Besides the last ones, this many of the best by `metric`."""
    metric: str = "loss"
    """A validation metric: 'loss' (lower is better), 'bleu', 'chrf' or 'exact_match' (higher is better)."""
    copy_to: str = ""
    """A directory or bucket (s3://, gs://: whatever fsspec has a driver for) in which the run directory gets a second
    copy under its own name; empty: none."""
    cast: bool = False
    """Restore arrays that were saved in another floating-point type, and say so, instead of refusing them."""

    def __post_init__(self) -> None:
        if self.metric not in METRIC_SIGNS:
            raise UserError(f"config.checkpoint.metric '{self.metric}' is not one of {', '.join(METRIC_SIGNS)}")
        for name, least in (("every_steps", 1), ("keep_last", 1), ("keep_best", 0)):
            if getattr(self, name) < least:
                raise UserError(f"config.checkpoint.{name} {getattr(self, name)} is too small: at least {least}")


def staying(config: CheckpointConfig, steps: Sequence[int], ranked: Sequence[int], *, going_back: int = 0) -> set[int]:
    """Which of `steps` stay: the last ones, the best ones, and one to go back to.

    Args:
        steps: ascending, at least one.
        ranked: those that have the metric, best first.
        going_back: steps that the run may want to go back; 0: none.
    """
    kept = {*steps[-config.keep_last :], *ranked[: config.keep_best]}
    if going_back:
        latest = steps[-1] - going_back  # the newest of those is kept, and what will be it in its time
        kept |= {*[s for s in steps if s <= latest][-1:], *[s for s in steps if s > latest][:1]}
    return kept
