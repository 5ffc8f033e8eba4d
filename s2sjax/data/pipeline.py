"""Batches in plan order, assembled ahead of time in grain's reading threads."""

from collections.abc import Iterator

import grain
import numpy as np

from s2sjax.data.examples import assemble
from s2sjax.data.plan import Plan
from s2sjax.data.prepare import TokenizedSplit


def batches(
    plan: Plan, split: TokenizedSplit, *, start: int, stop: int, part: int = 0, parts: int = 1, threads: int = 2
) -> Iterator[dict[str, np.ndarray]]:
    """The batches `start` .. `stop - 1` of the plan; this process's `part` of `parts` of their rows.

    Starting anywhere costs nothing: there is no stream to fast-forward.
    """
    dataset = grain.MapDataset.range(start, stop).map(lambda i: assemble(plan.batch(i), split, part=part, parts=parts))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(dataset.to_iter_dataset(options))
