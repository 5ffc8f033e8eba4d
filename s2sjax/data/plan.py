"""The plan: which examples stand in which batch, as a pure function of (lengths, config, seed, batch index).

Batch `i` needs nothing but the integer `i`, so resuming is exact and instant, and every process can make its own rows
of the same global batch. All shapes are known before the first step, and so is the padding.

Bucketed: an epoch's examples are shuffled, dealt to buckets by length, and each bucket is cut into batches of its own
number of rows, under one token budget. Packed: examples share rows by first-fit. In both, every example stands in
exactly one batch an epoch, and the last batch of a bucket is filled up with empty rows rather than dropped.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from s2sjax.data.batching import BatchingConfig
from s2sjax.errors import UserError
from s2sjax.plural import counted

OPEN_ROWS = 512
"""First-fit looks at this many open rows; with more, packing gets slower and hardly denser."""


class Shape(NamedTuple):
    """The shape of a batch: rows, and source and target positions a row."""

    rows: int
    source: int
    target: int


class PlannedBatch(NamedTuple):
    """One batch: example `examples[j]` stands in row `rows[j]`; examples of one row are neighbours, in order."""

    shape: Shape
    examples: np.ndarray
    rows: np.ndarray
    epoch: int = 0
    """Of the plan, from 0. Sampled segmentation depends on it."""


class Rows(NamedTuple):
    """Rows of examples: `examples[starts[i] : starts[i + 1]]` stand in row i."""

    examples: np.ndarray
    starts: np.ndarray

    @property
    def total(self) -> int:
        return len(self.starts) - 1

    def take(self, order: np.ndarray) -> "Rows":
        """These rows, in this order."""
        begins, lengths = self.starts[order], np.diff(self.starts)[order]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return Rows(self.examples[np.repeat(begins - starts[:-1], lengths) + np.arange(starts[-1])], starts)

    def batch(self, shape: Shape, number: int) -> PlannedBatch:
        """One of the batches that so many rows a batch make of these, one after the other."""
        starts = self.starts[number * shape.rows : (number + 1) * shape.rows + 1]
        return PlannedBatch(
            shape, self.examples[starts[0] : starts[-1]], np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """All batches of all epochs. `index` is global: epoch `index // batches_per_epoch`, if none is left out."""

    source_lengths: np.ndarray
    target_lengths: np.ndarray
    groups: tuple["Bucket | Packing", ...]
    seed: int
    shuffle: bool
    too_long: np.ndarray
    """Indices of examples over the length limits, which stand in no batch."""
    left_out: tuple[tuple[int, int], ...] = ()
    """Spans (first, end) of batches that the run does without, ascending: `index` counts only the others."""
    notes: tuple[str, ...] = ()
    """For the user: what is worth knowing of it."""

    def of(self, wanted: np.ndarray) -> "Plan":
        """The batches, of the same shapes, of the examples alone that are wanted, `[n]` booleans. Bucketed only."""
        buckets = [dataclasses.replace(group, members=group.members[wanted[group.members]]) for group in self.groups]
        return dataclasses.replace(self, groups=tuple(bucket for bucket in buckets if len(bucket.members)))

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return tuple(group.shape for group in self.groups)

    @property
    def batches_per_epoch(self) -> int:
        return sum(group.batches for group in self.groups)

    @property
    def examples_per_epoch(self) -> int:
        return sum(len(group.members) for group in self.groups)

    @property
    def padding(self) -> float:
        """Share of positions, source and target, that hold padding."""
        cells = sum(
            group.batches * group.shape.rows * (group.shape.source + group.shape.target) for group in self.groups
        )
        members = np.concatenate([group.members for group in self.groups])
        return 1 - float(self.source_lengths[members].sum() + self.target_lengths[members].sum()) / cells

    def batch(self, index: int) -> PlannedBatch:
        """The batch at global `index` >= 0."""
        epoch, position = self._place(self.number(index))
        order, rows = self._epoch(epoch)
        group, number = order[position]
        return rows[group].batch(self.groups[group].shape, number)._replace(epoch=epoch)

    def _place(self, number: int) -> tuple[int, int]:
        """The epoch of a batch, and its number within it."""
        return divmod(number, self.batches_per_epoch)

    def number(self, index: int) -> int:
        """The place among all batches, those left out included, of the batch at `index`."""
        for first, end in self.left_out:
            if index < first:
                break
            index += end - first
        return index

    def without(self, first: int, end: int) -> "Plan":
        """The same plan less its batches `first` .. `end - 1`, whose followers move up."""
        span = self.number(first), self.number(end - 1) + 1
        others = [(a, b) for a, b in self.left_out if not span[0] < a < span[1]]
        return dataclasses.replace(self, left_out=tuple(sorted([*others, span])))

    # Two epochs are kept: workers of a prefetching pipeline straddle their border.
    @functools.lru_cache(maxsize=2)  # noqa: B019 - a plan lives as long as its run
    def _epoch(self, epoch: int) -> tuple[list[tuple[int, int]], list[Rows]]:
        """Order of (group, batch number) pairs, and the rows of each group."""
        rng = np.random.default_rng([self.seed, epoch]) if self.shuffle else None
        rows = self._rows(epoch, rng)
        order = [
            (g, number)
            for g, group in enumerate(self.groups)
            for number in range(-(-rows[g].total // group.shape.rows))
        ]
        if rng is not None:
            order = [order[i] for i in rng.permutation(len(order))]
        return order, rows

    def _rows(self, epoch: int, rng: np.random.Generator | None) -> list[Rows]:
        """The rows of each group in an epoch, in the order in which they are cut into batches."""
        return [group.arrange(rng) for group in self.groups]


@dataclass(frozen=True, eq=False)
class Bucket:
    """Examples of similar length, one a row."""

    shape: Shape
    members: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.members)

    @property
    def batches(self) -> int:
        return -(-self.rows // self.shape.rows)

    def arrange(self, rng: np.random.Generator | None) -> Rows:
        members = self.members if rng is None else rng.permutation(self.members)
        return Rows(members, np.arange(len(members) + 1))


@dataclass(frozen=True, eq=False)
class Packing:
    """Examples that share rows. Which lengths share a row is fixed, so that every epoch has as many batches; which
    examples of those lengths is drawn anew each epoch."""

    shape: Shape
    members: np.ndarray
    """Examples in slot order: row by row."""
    row_starts: np.ndarray
    """Slot at which each row begins, and the number of slots at the end."""
    length_keys: np.ndarray
    """For each slot a number that names its (source, target) lengths."""

    @property
    def rows(self) -> int:
        return len(self.row_starts) - 1

    @property
    def batches(self) -> int:
        return -(-self.rows // self.shape.rows)

    def arrange(self, rng: np.random.Generator | None) -> Rows:
        members, order = self.members, np.arange(self.rows)
        if rng is not None:
            slots = np.argsort(self.length_keys, kind="stable")
            drawn = np.lexsort((rng.permutation(len(members)), self.length_keys))
            members = np.empty_like(members)
            members[slots] = self.members[drawn]
            order = rng.permutation(order)
        return Rows(members, self.row_starts).take(order)


def make_plan(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    config: BatchingConfig,
    *,
    seed: int,
    divisor: int = 1,
    shuffle: bool = True,
) -> Plan:
    """Plan batches for examples of these lengths (tokens, end-of-sentence counted).

    Args:
        divisor: parts that a batch is shared out to, data shards times accumulation steps; checked, not planned with.
        shuffle: False for evaluation: examples in order of length.

    Raises:
        UserError: if no example is within the length limits, the token budget holds too few rows, or they do
            not divide.
    """
    fits = (source_lengths <= config.max_source_length) & (target_lengths <= config.max_target_length)
    members, too_long = np.flatnonzero(fits), np.flatnonzero(~fits)
    if not len(members):
        raise UserError(
            f"none of the {counted(len(source_lengths), 'example')} is within config.batching.max_source_length "
            f"{config.max_source_length} and max_target_length {counted(config.max_target_length, 'token')}; raise "
            "these limits"
        )
    make_groups = _buckets if config.kind == "bucket" else _packing
    groups = make_groups(source_lengths, target_lengths, members, config, seed, divisor)
    return Plan(source_lengths, target_lengths, groups, seed, shuffle and config.shuffle, too_long)


FAR = 2
"""An example is far over the limits if it is longer than so many times the longer one of them."""


def make_evaluation_plan(
    source_lengths: np.ndarray, target_lengths: np.ndarray, config: BatchingConfig, *, shards: int
) -> Plan:
    """Plan batches that hold every example, in order of length: the length limits give way.

    Examples far over the limits stand in batches of their own, none larger than one row of the longest on each shard.
    The other batches are what they are without them: a single long example raises neither their token budget nor their
    padding.
    """
    longest = np.maximum(source_lengths, target_lengths)
    near = longest <= FAR * max(config.max_source_length, config.max_target_length)
    groups: list[Bucket | Packing] = []
    for chosen, budget in ((near, config.tokens), (~near, 0)):
        members = np.flatnonzero(chosen)
        if not len(members):
            continue
        most = int(longest[members].max())
        limits = dataclasses.replace(
            config,
            kind="bucket",
            buckets=min(config.buckets, 3),  # each shape costs a compilation, and this is a small split
            max_source_length=most,
            max_target_length=most,
            row_multiple=shards,
            tokens=max(budget, shards * (most + config.length_multiple)),
        )
        groups += _buckets(source_lengths, target_lengths, members, limits, 0, shards)
    return Plan(source_lengths, target_lengths, tuple(groups), 0, False, np.zeros(0, np.int64))


def _round_up(value: int, multiple: int) -> int:
    return -(-int(value) // multiple) * multiple


def _rows(config: BatchingConfig, length: int, divisor: int, wanted: int) -> int:
    """Rows of `length` positions under the token budget: a multiple of `row_multiple`, no more than `wanted` needs."""
    multiple = config.row_multiple
    rows = config.tokens // length // multiple * multiple
    if rows == 0:
        raise UserError(
            f"config.batching.tokens {config.tokens} does not hold {counted(multiple, 'row')} "
            "(config.batching.row_multiple) "
            f"of {counted(length, 'token')}; raise it to {multiple * length}, or lower row_multiple or the length "
            "limits"
        )
    rows = min(rows, _round_up(wanted, multiple))
    if rows % divisor:
        raise UserError(
            f"a batch of {counted(rows, 'row')} is not divisible by {divisor} (data shards times "
            f"config.train.accumulate); set config.batching.row_multiple={math.lcm(multiple, divisor)}"
        )
    return rows


def bucket_boundaries(lengths: np.ndarray, buckets: int, multiple: int) -> list[int]:
    """At most `buckets` upper length limits, multiples of `multiple`, that waste the least padding.

    Exact, by dynamic programming over the histogram of rounded lengths: O(buckets * n^2) for n distinct values.
    """
    values, counts = np.unique(-(-lengths // multiple) * multiple, return_counts=True)
    n, total = len(values), np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: fewest padded positions for the first j values, the last bucket ending at value j - 1
    cost, cuts = np.concatenate([[0.0], np.full(n, np.inf)]), []
    for _ in range(min(buckets, n)):
        # candidate[i, j]: buckets so far end before value i, and one more holds values i..j-1
        candidate = cost[:, None] + (total[None, :] - total[:, None]) * np.concatenate([[0], values])[None, :]
        candidate[np.tril_indices(n + 1)] = np.inf
        cuts.append(np.argmin(candidate, axis=0))
        cost = np.minimum(np.min(candidate, axis=0), np.concatenate([[0.0], np.full(n, np.inf)]))
    boundaries, j = [], n
    for cut in reversed(cuts):
        if j == 0:
            break
        boundaries.append(int(values[j - 1]))
        j = int(cut[j])
    return boundaries[::-1]


def _buckets(source, target, members, config, seed, divisor) -> tuple[Bucket, ...]:
    longest = np.maximum(source[members], target[members])
    limits = bucket_boundaries(longest, config.buckets, config.length_multiple)
    groups, low = [], 0
    for high in limits:
        chosen = members[(longest > low) & (longest <= high)]
        # In order of length, so that without shuffling neighbours cost the same.
        chosen = chosen[np.lexsort((chosen, target[chosen], source[chosen]))]
        S = _round_up(source[chosen].max(), config.length_multiple)
        T = _round_up(target[chosen].max(), config.length_multiple)
        groups.append(Bucket(Shape(_rows(config, max(S, T), divisor, len(chosen)), S, T), chosen))
        low = high
    return tuple(groups)


def _packing(source, target, members, config, seed, divisor) -> tuple[Packing, ...]:
    # The longer side of a row has pack_length positions, the other its share by the data's ratio of lengths.
    totals = np.array([source[members].sum(), target[members].sum()])
    room = np.ceil(config.pack_length * totals / totals.max())
    S, T = (
        _round_up(max(space, lengths[members].max()), config.length_multiple)
        for space, lengths in zip(room, (source, target), strict=True)
    )
    packed = pack(source, target, members, Shape(0, S, T), seed)
    return (dataclasses.replace(packed, shape=Shape(_rows(config, max(S, T), divisor, packed.rows), S, T)),)


def pack(source: np.ndarray, target: np.ndarray, members: np.ndarray, shape: Shape, seed: int) -> Packing:
    """These examples in rows of this shape, as few as first-fit makes of a random order."""
    slots = np.random.default_rng([seed, 0x9AC7]).permutation(members)
    rows = first_fit(np.stack([source[slots], target[slots]], axis=1), np.array([shape.source, shape.target]))
    order = np.argsort(rows, kind="stable")
    slots, rows = slots[order], rows[order]
    row_starts = np.concatenate([[0], np.flatnonzero(np.diff(rows)) + 1, [len(rows)]])
    keys = source[slots].astype(np.int64) * (int(target.max()) + 1) + target[slots]
    return Packing(shape, slots, row_starts, keys)


def first_fit(sizes: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Assign each item, in order, to the first of the `OPEN_ROWS` last opened rows that holds it; else open a row.

    Args:
        sizes: [n, d] item sizes; an item fits when it fits in every one of the d dimensions.
        capacity: [d]. No item may exceed it.

    Returns:
        [n] row numbers from 0.
    """
    free = np.zeros((OPEN_ROWS, len(capacity)), np.int64)
    assigned, opened = np.empty(len(sizes), np.int64), 0
    for i, size in enumerate(sizes):
        low = max(0, opened - OPEN_ROWS)
        candidates = np.arange(low, opened) % OPEN_ROWS
        fits = np.flatnonzero((free[candidates] >= size).all(axis=1))
        if len(fits):
            row = low + int(fits[0])
        else:
            row, opened = opened, opened + 1
            free[row % OPEN_ROWS] = capacity
        free[row % OPEN_ROWS] -= size
        assigned[i] = row
    return assigned
