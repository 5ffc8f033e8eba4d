"""Batches in plan order, assembled ahead of time in grain's reading threads."""

from collections.abc import Callable, Iterator

import grain
import numpy as np

from s2sjax.data.columns import Examples
from s2sjax.data.examples import assemble
from s2sjax.data.plan import Plan
from s2sjax.data.segmentation import Segmentation


def batches(
    plan: Plan,
    split: Examples,
    numbers: range,
    *,
    only: Callable[[int], np.ndarray] = np.arange,
    segmentation: Segmentation | None = None,
    threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of these numbers of the plan.

    Starting anywhere costs nothing: there is no stream to fast-forward.

    Args:
        only: the rows, of so many in a batch, that this process makes; ascending.
        segmentation: cuts the examples anew in each epoch.
    """

    def make(index: int) -> dict[str, np.ndarray]:
        planned = plan.batch(index)
        return assemble(planned, split, only=only(planned.shape.rows), segmentation=segmentation)

    dataset = grain.MapDataset.range(numbers.start, numbers.stop).map(make)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(dataset.to_iter_dataset(options))
