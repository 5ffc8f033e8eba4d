"""When checkpoints are written, where else they are kept, and which ones stay."""

import dataclasses
from collections.abc import Sequence

from s2sjax.config import check_choices, one_of
from s2sjax.errors import UserError
from s2sjax.metrics.names import METRICS, part_and_name


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """The `checkpoint` section: when a checkpoint is written, which ones stay, and how one is read back.

    Attributes:
      every_steps: Steps from one checkpoint to the next. Each validated step is saved too.
      keep_last: Newest checkpoints that stay.
      keep_best: Besides the last ones, this many of the best by `metric`.
      metric: What the best is chosen by; of equals the newest is the best. Which way each metric gets better is known.
        Validation computes it, whether `evaluate.metrics` names it or not. Of a mixture or several pairs of languages
        it may be that of one: "news/loss", "en-de/bleu".
      copy_to: A directory or bucket (s3://, gs://: whatever fsspec has a driver for) in which the run directory gets a
        second copy under its own name; empty: none.
      cast: Restore arrays that were saved in another floating-point type, and say so, instead of refusing them.
    """

    every_steps: int = 1000
    keep_last: int = 3
    keep_best: int = 1
    metric: str = one_of(METRICS, "loss")
    copy_to: str = ""
    cast: bool = False

    def __post_init__(self) -> None:
        part, name = part_and_name(self.metric)
        if not part or name not in METRICS:
            check_choices(self, "config.checkpoint")
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
