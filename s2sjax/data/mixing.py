"""The plan of a mixture whose sets have shares of their own (weights, or a temperature).

An epoch draws as many examples as all sets together have, from each set its share. A set is an endless stream of
passes: a pass has every example once, in an order of its own, so that none is seen twice before all were seen once. An
epoch takes from the stream of each set what follows on the epoch before, and shuffles that. So after any number of
epochs a set has had its share to within one row: an example where batches are bucketed, a packed row (of examples of
one set) where they are packed.

How long the examples are that an epoch draws, and so how many batches it has, differs by a few from epoch to epoch. A
pass takes lengths in turn, in a fixed order, and only which examples of a length is drawn: so the number of batches of
all epochs is known without drawing any, and batch `i` remains a function of `i`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from s2sjax.data.batching import BatchingConfig
from s2sjax.data.columns import Examples
from s2sjax.data.config import DataConfig
from s2sjax.data.parts import shares
from s2sjax.data.plan import Bucket, Packing, Plan, Rows, make_plan, pack
from s2sjax.data.segmentation import planned_lengths
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.plural import counted

_UNIT = 1 << 16
"""Rows of a set in an epoch are counted in parts of one, so that where an epoch ends is exact on every machine."""


@dataclass(frozen=True, eq=False)
class Stream:
    """The rows of one set, pass after pass.

    Attributes:
      groups: its rows in each group of the plan.
      rate: rows an epoch, in parts of 1 / 65,536.
    """

    groups: tuple[Bucket | Packing, ...]
    rate: int

    @functools.cached_property
    def turns(self) -> list[np.ndarray]:
        """For each group, where its rows stand in a pass: spread evenly, so that every stretch has all lengths."""
        times = [(np.arange(group.rows) + 0.5) / max(group.rows, 1) for group in self.groups]
        order = np.argsort(np.concatenate(times), kind="stable")
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        return np.split(places, np.cumsum([group.rows for group in self.groups])[:-1])

    def before(self, epochs: np.ndarray) -> np.ndarray:
        """How many rows of each group all epochs before these take, `[epochs, groups]`."""
        passes, rest = np.divmod(epochs.astype(np.int64) * self.rate // _UNIT, sum(group.rows for group in self.groups))
        counts = [passes * len(turns) + np.searchsorted(turns, rest) for turns in self.turns]
        return np.stack(counts, axis=-1)


@dataclass(frozen=True, eq=False)
class MixedPlan(Plan):
    """Attributes:
    streams: of each set.
    """

    streams: tuple[Stream, ...] = ()

    @property
    def batches_per_epoch(self) -> int:
        """Of the first epoch."""
        return int(self._ends(1)[0])

    @property
    def examples_per_epoch(self) -> int:
        """Of the first epoch."""
        return sum(len(rows.examples) for rows in self._epoch(0)[1])

    @property
    def padding(self) -> float:
        """Of the first epoch."""
        order, rows = self._epoch(0)
        cells = sum(shape.rows * (shape.source + shape.target) for shape in (self.shapes[group] for group, _ in order))
        drawn = np.concatenate([each.examples for each in rows])
        return 1 - float(self.source_lengths[drawn].sum() + self.target_lengths[drawn].sum()) / cells

    def _place(self, number: int) -> tuple[int, int]:
        epochs = 64
        while (ends := self._ends(epochs))[-1] <= number:
            epochs *= 2
        epoch = int(np.searchsorted(ends, number, side="right"))
        return epoch, number - int(ends[epoch - 1] if epoch else 0)

    @functools.lru_cache(maxsize=2)  # noqa: B019 - as that of Plan
    def _ends(self, epochs: int) -> np.ndarray:
        """How many batches the first, the first two, .. epochs have. [epochs]"""
        taken = sum(np.diff(stream.before(np.arange(epochs + 1)), axis=0) for stream in self.streams)
        rows = np.array([shape.rows for shape in self.shapes])
        return np.cumsum((-(-taken // rows)).sum(axis=1))

    def _rows(self, epoch: int, rng: np.random.Generator | None) -> list[Rows]:
        found = []
        begins_ends = [stream.before(np.array([epoch, epoch + 1])) for stream in self.streams]
        for g in range(len(self.groups)):
            pieces = [
                piece
                for k, (begin, end) in enumerate(begins_ends)
                for piece in self._stretch(k, g, int(begin[g]), int(end[g]))
            ]
            rows = _joined(pieces)
            found.append(rows if rng is None else rows.take(rng.permutation(rows.total)))
        return found

    def _stretch(self, k: int, g: int, begin: int, end: int) -> list[Rows]:
        """Rows `begin` .. `end - 1` of the endless stream of set k in group g."""
        group, pieces = self.streams[k].groups[g], []
        while begin < end:
            number, first = divmod(begin, group.rows)
            stop = min(first + end - begin, group.rows)
            rng = np.random.default_rng([self.seed, k, g, number, 0x317]) if self.shuffle else None
            pieces.append(group.arrange(rng).take(np.arange(first, stop)))
            begin += stop - first
        return pieces


def _joined(pieces: list[Rows]) -> Rows:
    lengths = [np.diff(piece.starts) for piece in pieces]
    starts = np.concatenate([[0], *lengths]).cumsum()
    return Rows(np.concatenate([np.zeros(0, np.int64), *(piece.examples for piece in pieces)]), starts)


def training_plan(
    split: Examples,
    data: DataConfig,
    batching: BatchingConfig,
    tokenizer: TokenizerConfig,
    *,
    seed: int,
    divisor: int,
) -> Plan:
    """The plan of a training split: each example once an epoch, or the sets of a mixture in their shares.

    Args:
      split: windows where there are any.
      tokenizer: says what room sampled segmentations have.
      divisor: as `make_plan`.

    Raises:
      UserError: as `make_plan`; of a mixture, a set has no example within the limits.
    """
    source, target = planned_lengths(split["source"].lengths, split["target"].lengths, batching, tokenizer)
    plan = make_plan(source, target, batching, seed=seed, divisor=divisor)
    if not split.parts:
        return plan
    part_of = np.repeat(np.arange(len(split.parts)), [*split.parts.values()])
    part_of[plan.too_long] = -1
    sizes = {name: int((part_of == k).sum()) for k, name in enumerate(split.parts)}
    relative = shares(data, sizes)
    if relative is None:
        return plan
    streams = []
    for k, (share, size) in enumerate(zip(relative, sizes.values(), strict=True)):
        groups = _groups_of(plan, part_of == k, seed)
        passes = share * sum(sizes.values()) / size
        rows = sum(group.rows for group in groups)
        streams.append(Stream(groups, max(1, round(passes * rows * _UNIT))))
    values = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    return MixedPlan(**values | {"streams": tuple(streams), "notes": tuple(_notes(sizes, relative))})


def _groups_of(plan: Plan, wanted: np.ndarray, seed: int) -> tuple[Bucket | Packing, ...]:
    """The rows of one set in each group of the plan; there may be none of them."""
    groups: list[Bucket | Packing] = []
    for group in plan.groups:
        members = group.members[wanted[group.members]]
        if isinstance(group, Packing):
            groups.append(pack(plan.source_lengths, plan.target_lengths, np.sort(members), group.shape, seed))
        else:
            groups.append(Bucket(group.shape, members))
    return tuple(groups)


def _notes(sizes: Mapping[str, int], relative: np.ndarray) -> list[str]:
    """For the user: how often each set is gone through."""
    total = sum(sizes.values())
    return [
        f"{name}: {counted(size, 'example')}, {share:.1%} of what is drawn, {share * total / size:.3g} passes an epoch"
        for (name, size), share in zip(sizes.items(), relative, strict=True)
    ]
