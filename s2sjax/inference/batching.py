"""Batches of requests: sources to search for, pairs to score, texts to tag, in few shapes and of bounded size.

Each shape of a batch is a compilation. So lengths are padded to a few (`LENGTHS`), and numbers of rows are few too: 1,
since a single request need not pay for a batch; 8 or less, for a remainder; and the most that fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Lengths that rows are padded to; beyond the last, multiples of it."""


@dataclass(frozen=True, eq=False)
class ServingBatch:
    """Which requests are computed together.

    Attributes:
      requests: their numbers, [n] int.
      rows: of the batch's arrays, at least n; those after the n-th are padding.
      length: tokens that the longest request is padded to.
    """

    requests: np.ndarray
    rows: int
    length: int


def serving_batches(
    *lengths: np.ndarray, batch_size: int, width: int = 1, by_length: bool = True
) -> Iterator[ServingBatch]:
    """Batches that hold every request once, the longest requests first.

    So what is going to need the most memory fails at once, not after an hour.

    >>> [batch.requests.tolist() for batch in serving_batches(np.array([3, 70, 5, 1]), batch_size=2)]
    [[1], [2, 0], [3]]

    Args:
        lengths: tokens of each request, [N] each: of its source, say, and its target. The greatest counts; among
            requests of which that is equal, those of the last array come before those of the first.
        batch_size: rows of a batch of up to 64 tokens; of longer ones there are fewer (`rows_together`).
        width: hypotheses of a request that are computed together.
        by_length: False keeps the requests in their order, and pads all of them to the longest.
    """
    longest = np.max(lengths, axis=0)
    if by_length:
        order = np.lexsort((*lengths, longest))[::-1]
    else:
        order, longest = np.arange(len(longest)), np.full_like(longest, longest.max(initial=0))
    while len(order):
        length = padded_length(int(longest[order[0]]))
        most = rows_together(batch_size, length, width)
        requests, order = order[:most], order[most:]
        rows = next(n for n in (1, min(8, most), most) if n >= len(requests))
        yield ServingBatch(requests, rows, length)


def padded_length(length: int) -> int:
    """The length that a row of `length` tokens is padded to."""
    return next((limit for limit in LENGTHS if length <= limit), -(-length // LENGTHS[-1]) * LENGTHS[-1])


def rows_together(batch_size: int, length: int, width: int) -> int:
    """Rows of this length in a batch: as many as fit where a row has 64 tokens and 5 hypotheses."""
    return max(1, min(batch_size, batch_size * 64 * 5 // (length * max(width, 5))))
