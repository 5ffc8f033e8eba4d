"""The sample of a grid's cases meets every value, and turns take all cases once."""

import itertools
from types import SimpleNamespace

import pytest

from tests.sampling import in_sample, sample


@pytest.mark.parametrize("share", [2, 3, 4])
@pytest.mark.parametrize("sizes", [(7, 4), (4, 5), (3, 4, 2), (25,)], ids=str)
def test_turns_try_every_case_once(share, sizes):
    for case in itertools.product(*map(range, sizes)):
        assert sum(in_sample(case, share, turn) for turn in range(share)) == 1


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_every_value_is_met_where_another_parameter_has_as_many_values_as_the_share(turn):
    sampled = [case for case in itertools.product(range(7), range(3)) if in_sample(case, 3, turn)]
    assert len(sampled) == 7
    assert [set(values) for values in zip(*sampled, strict=True)] == [set(range(7)), set(range(3))]


class Item:
    def __init__(self, name: str, *marks: pytest.Mark, **params):
        self.nodeid, self.own_markers, self.callspec = f"{name}[{params}]", list(marks), SimpleNamespace(params=params)

    def get_closest_marker(self, name: str):
        return next((mark for mark in self.own_markers if mark.name == name), None)

    def add_marker(self, name: str):
        self.own_markers.append(getattr(pytest.mark, name).mark)

    def marks(self):
        return {mark.name for mark in self.own_markers}


def test_slow_cases_outside_the_sample_are_exhaustive_and_no_others_change():
    grid, slow = pytest.mark.grid(3).mark, pytest.mark.slow.mark
    crossed = [Item("crossed", grid, slow, model=m, mesh=n) for m in "abc" for n in "xyz"]
    fast = [Item("fast", grid, model=m) for m in "abc"]
    plain = [Item("plain", slow, model=m) for m in "abc"]
    sample([*crossed, *fast, *plain])
    stayed = [item for item in crossed if item.marks() == {"grid", "slow"}]
    assert len(stayed) == 3 and all(item in stayed or item.marks() == {"grid", "exhaustive"} for item in crossed)
    assert {item.callspec.params["model"] for item in stayed} == {*"abc"}
    assert {item.callspec.params["mesh"] for item in stayed} == {*"xyz"}
    assert all(item.marks() == {"grid"} for item in fast) and all(item.marks() == {"slow"} for item in plain)


def test_fast_cases_of_a_fast_grid_outside_the_sample_are_exhaustive_and_a_grid_may_be_both():
    grid, fast_grid, slow = pytest.mark.grid(4).mark, pytest.mark.fast_grid(2).mark, pytest.mark.slow.mark
    pairs = [[Item("both", grid, fast_grid, *more, model=m + n, precision=p) for p in "xy"]
             for m in "abcd" for n, more in (("1", ()), ("2", (slow,)))]  # fmt: skip
    fast, others = ([item for pair in pairs[n::2] for item in pair] for n in (0, 1))
    sample([item for pair in pairs for item in pair])
    stayed = [item for item in fast if item.marks() == {"grid", "fast_grid"}]
    assert len(stayed) == 4 and [item.callspec.params["model"][0] for item in stayed] == [*"abcd"]
    assert {item.callspec.params["precision"] for item in stayed} == {*"xy"}, "slow ones between them do not count"
    assert all(item in stayed or item.marks() == {"grid", "fast_grid", "exhaustive"} for item in fast)
    assert sum("slow" in item.marks() for item in others) == 2
    assert all(item.marks() & {"slow", "exhaustive"} for item in others)
