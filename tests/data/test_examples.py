"""Batch arrays against a loop, and slices against the whole."""

import functools

import numpy as np
import pytest

from s2sjax.data.batching import BatchingConfig
from s2sjax.data.columns import Column, Examples
from s2sjax.data.examples import assemble
from s2sjax.data.pipeline import batches
from s2sjax.data.plan import make_plan

RNG = np.random.default_rng(0)


def ragged(n: int) -> Column:
    return Column.from_rows([np.append(RNG.integers(4, 99, RNG.integers(0, 20)), 3) for _ in range(n)])


SPLIT = Examples.of_pairs(ragged(100), ragged(100))


def frames(column: Column, *width: int) -> Column:
    """Vectors, or numbers, in place of a column's tokens."""
    return Column(RNG.standard_normal((len(column.values), *width)).astype(np.float32), column.offsets)


SPLITS = {
    "tokens": SPLIT,
    "vectors": SPLIT.with_columns({"source": frames(SPLIT["source"], 3)}),
    "numbers": SPLIT.with_columns({"source": frames(SPLIT["source"])}),
}


def plan(kind: str, divisor: int = 1):
    config = BatchingConfig(kind=kind, tokens=200, pack_length=40, buckets=2, row_multiple=4)
    return make_plan(SPLIT["source"].lengths, SPLIT["target"].lengths, config, seed=0, divisor=divisor)


def by_loop(planned, split=SPLIT) -> dict[str, np.ndarray]:
    rows, S, T = planned.shape
    names = ("inputs", "input_segments", "input_positions"), ("targets", "target_segments", "target_positions")
    out = {name: np.zeros((rows, n), int) for side, n in zip(names, (S, T), strict=True) for name in side}
    out["inputs"] = np.zeros((rows, S, *split["source"].values.shape[1:]), split["source"].values.dtype)
    out["decoder_inputs"] = np.zeros((rows, T), int)
    filled, members = np.zeros((rows, 2), int), np.zeros(rows, int)
    for example, row in zip(planned.examples, planned.rows, strict=True):
        members[row] += 1
        for side, tokens in enumerate((split["source"][example], split["target"][example])):
            for position, token in enumerate(tokens):
                column = filled[row, side] + position
                for name, value in zip(names[side], (token, members[row], position), strict=True):
                    out[name][row, column] = value
                if side == 1:
                    out["decoder_inputs"][row, column] = 2 if position == 0 else tokens[position - 1]
            filled[row, side] += len(tokens)
    return out | {"weights": (out["target_segments"] > 0).astype(float)}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("kind", ["bucket", "pack"])
def test_arrays_equal_a_loop_over_examples_and_what_stands_in_them(kind, split):
    made, floats = plan(kind), {"weights"} | ({"inputs"} if split is not SPLIT else set())
    for i in range(made.batches_per_epoch):
        expected, got = by_loop(made.batch(i), split), assemble(made.batch(i), split)
        assert got.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
            assert got[name].dtype == (np.float32 if name in floats else np.int32)


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("kind", ["bucket", "pack"])
def test_any_rows_of_a_batch_are_made_as_they_stand_in_the_whole(kind, split):
    made = plan(kind, divisor=4)
    for i in range(made.batches_per_epoch):
        whole = assemble(made.batch(i), split)
        rows = np.random.default_rng(i).permutation(len(whole["inputs"]))
        for mine in (np.sort(part) for part in np.array_split(rows, 3)):
            part = assemble(made.batch(i), split, only=mine)
            for name in whole:
                np.testing.assert_array_equal(part[name], whole[name][mine], err_msg=name)


def test_the_pipeline_starts_anywhere_and_stays_in_order():
    made = plan("pack")
    stop = 2 * made.batches_per_epoch + 3
    make = functools.partial(assemble, split=SPLIT)
    whole = list(batches(made, make, range(stop)))
    tail = list(batches(made, make, range(7, stop), threads=3))
    assert len(whole) == stop and len(tail) == stop - 7
    for a, b in zip(whole[7:], tail, strict=True):
        np.testing.assert_array_equal(a["inputs"], b["inputs"])
