"""Which cases of a grid are tried whenever all slow tests run, and which only if somebody asks for the whole grid.

A test of every model by every mesh has so many cases that the whole takes longer than it finds faults. `grid(share)`
marks such a test: one of `share` of its slow cases stays slow, the others become `exhaustive`. `fast_grid(share)` does
the same with its fast cases: one of `share` stays fast.

The rule: each parameter's values are numbered in the order in which they come, among slow cases or among fast ones, the
numbers of a case are added to the test's own and to the turn, and the case is sampled if `share` divides the sum. With
three meshes and a share of 3:

    transformer   x . .
    gnmt          . . x
    lstm_lm       . x .

So every model meets a mesh, every mesh meets models, and a model that one test leaves out is in another's sample. The
turn comes from the environment (`S2SJAX_TEST_TURN`, 0 if unset). `.ci/run` takes the number of commits, so that `share`
commits in a row try everything.
"""

import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import pytest

TURN = int(os.environ.get("S2SJAX_TEST_TURN", "0"))


def in_sample(numbers: Iterable[int], share: int, turn: int = TURN) -> bool:
    """Whether a case is tried: the numbers are those of its parameters' values and of its test."""
    return (sum(numbers) + turn) % share == 0


def sample(items: Sequence[pytest.Item]) -> None:
    """Of a grid's cases, give those outside the sample the marker `exhaustive`: of a `grid` the slow ones, which lose
    their marker `slow`, of a `fast_grid` the others."""
    grids: dict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        kind = "grid" if item.get_closest_marker("slow") else "fast_grid"
        if item.get_closest_marker(kind):
            grids[item.nodeid.split("[")[0], kind].append(item)
    for (test, kind), cases in grids.items():
        values: dict[str, dict[str, int]] = defaultdict(dict)
        for item in cases:
            numbers = [
                values[name].setdefault(repr(value), len(values[name])) for name, value in item.callspec.params.items()
            ]
            (share,) = item.get_closest_marker(kind).args
            if not in_sample([zlib.crc32(test.encode()), *numbers], share):
                item.own_markers = [mark for mark in item.own_markers if mark.name != "slow"]
                item.add_marker("exhaustive")
