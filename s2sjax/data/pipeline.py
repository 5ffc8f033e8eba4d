"""Batches in plan order, assembled ahead of time in grain's reading threads."""

from collections.abc import Callable, Iterator

import grain
import numpy as np

from s2sjax.data.plan import Plan


def batches(
    plan: Plan,
    make: Callable[..., dict[str, np.ndarray]],
    numbers: range,
    *,
    only: Callable[[int], np.ndarray] = np.arange,
    threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of these numbers of the plan.

    Starting anywhere costs nothing: there is no stream to fast-forward.

    Args:
        make: from a planned batch and, as `only`, the rows of it that are wanted to its arrays: `Task.batch` with its
            examples.
        only: the rows, of so many in a batch, that this process makes; ascending.
    """

    def made(index: int) -> dict[str, np.ndarray]:
        planned = plan.batch(index)
        return make(planned, only=only(planned.shape.rows))

    dataset = grain.MapDataset.range(numbers.start, numbers.stop).map(made)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(dataset.to_iter_dataset(options))
