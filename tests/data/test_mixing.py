"""The laws of the plan of a mixture, for random sizes, lengths, weights and settings."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2sjax.data import pipeline
from s2sjax.data.batching import BatchingConfig
from s2sjax.data.columns import Column, Examples
from s2sjax.data.config import DataConfig
from s2sjax.data.examples import assemble
from s2sjax.data.mixing import MixedPlan, training_plan
from s2sjax.data.parts import in_proportion, shares
from s2sjax.data.plan import make_plan
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError

EPOCHS = 7


def split_of(sizes, rng, longest=20):
    n = sum(sizes.values())

    def side():
        lengths = rng.integers(1, longest + 1, n)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Column(rng.integers(4, 99, offsets[-1]).astype(np.int32), offsets)

    return Examples.of_pairs(side(), side(), parts=sizes)


@st.composite
def mixtures(draw):
    """A split, a config of data and one of batches, and a seed."""
    sizes = {name: draw(st.integers(1, 60)) for name in "abcd"[: draw(st.integers(2, 4))]}
    split = split_of(sizes, np.random.default_rng(draw(st.integers(0, 99))))
    weights = draw(st.none() | st.lists(st.floats(0.01, 50), min_size=len(sizes), max_size=len(sizes)))
    sets = {name: {} if weights is None else {"weight": weights[i]} for i, name in enumerate(sizes)}
    config = DataConfig(
        mixture=sets,
        mixture_temperature=1.0 if weights is not None else draw(st.floats(1.01, 100)),
    )
    batching = BatchingConfig(
        kind=draw(st.sampled_from(["bucket", "pack"])),
        tokens=draw(st.integers(160, 600)),
        buckets=draw(st.integers(1, 5)),
        length_multiple=draw(st.sampled_from([1, 4])),
        row_multiple=draw(st.sampled_from([1, 2])),
        pack_length=draw(st.integers(20, 64)),
        shuffle=draw(st.booleans()),
    )
    return split, config, batching, draw(st.integers(0, 5))


def plan_of(split, config, batching, seed):
    return training_plan(split, config, batching, TokenizerConfig(), seed=seed, divisor=batching.row_multiple)


def epochs_of(plan):
    """The batches of each of the first epochs."""
    batches = {}
    for number in itertools.count():
        epoch, position = plan._place(number)
        if epoch == EPOCHS:
            return [batches[e] for e in range(EPOCHS)]
        assert position == len(batches.setdefault(epoch, []))
        batches[epoch].append(plan.batch(number))


def rows_of(plan, batches, part_of):
    """How many rows are of each set, each of which is of one set alone."""
    counts = np.zeros(part_of.max() + 1, int)
    for batch in batches:
        rows = {(row, part_of[example]) for row, example in zip(batch.rows, batch.examples, strict=True)}
        assert len(rows) == len({row for row, _ in rows})
        counts += np.bincount([part for _, part in rows], minlength=len(counts))
    return counts


@given(mixtures())
@settings(max_examples=25)
def test_sets_have_their_shares_to_within_a_row_after_every_epoch(made):
    split, config, batching, seed = made
    plan = plan_of(split, config, batching, seed)
    assert isinstance(plan, MixedPlan)
    sizes = np.array([*split.parts.values()])
    part_of = np.repeat(np.arange(len(sizes)), sizes)
    passes = shares(config, split.parts) * sizes.sum() / sizes
    rows = np.array([sum(group.rows for group in stream.groups) for stream in plan.streams])
    total = np.zeros(len(sizes), int)
    for number, batches in enumerate(epochs_of(plan), start=1):
        total += rows_of(plan, batches, part_of)
        assert (np.abs(total - number * np.maximum(passes * rows, 2**-16)) < 1 + 1e-3).all()
    if batching.kind == "bucket":
        assert (rows == sizes).all()


@given(mixtures())
@settings(max_examples=25)
def test_no_example_of_a_set_is_seen_twice_before_all_were_seen_once(made):
    split, config, batching, seed = made
    plan = plan_of(split, config, batching, seed)
    seen = np.zeros(len(split), int)
    for batches in epochs_of(plan):
        seen += np.bincount(np.concatenate([batch.examples for batch in batches]), minlength=len(split))
        for of_set in np.split(seen, np.cumsum([*split.parts.values()])[:-1]):
            assert of_set.max() - of_set.min() <= 1


@given(mixtures())
@settings(max_examples=25)
def test_batches_are_never_empty_and_fit_their_shapes(made):
    split, config, batching, seed = made
    plan = plan_of(split, config, batching, seed)
    for batch in itertools.chain(*epochs_of(plan)):
        assert batch.shape in plan.shapes and len(batch.examples)
        assert (np.diff(batch.rows) >= 0).all() and batch.rows.max() < batch.shape.rows
        for side, room in ((split["source"], batch.shape.source), (split["target"], batch.shape.target)):
            assert np.bincount(batch.rows, weights=side.lengths[batch.examples]).max() <= room


@given(mixtures(), st.integers(0, 10**6))
@settings(max_examples=25)
def test_a_batch_is_a_function_of_its_number(made, number):
    """Whatever was asked before: a run that resumes asks first for a batch in the middle."""
    split, config, batching, seed = made
    resumed, uninterrupted = plan_of(split, config, batching, seed), plan_of(split, config, batching, seed)
    for i in range(20):
        uninterrupted.batch(i)
    for i in (number, number + 1, number // 2):
        one, other = resumed.batch(i), uninterrupted.batch(i)
        assert one.shape == other.shape
        np.testing.assert_array_equal(one.examples, other.examples)
        np.testing.assert_array_equal(one.rows, other.rows)


def test_several_processes_make_the_rows_of_the_same_batches():
    split = split_of({"a": 40, "b": 9}, np.random.default_rng(0))
    config = DataConfig(mixture={"a": {"weight": 1}, "b": {"weight": 2.5}})
    for kind in ("bucket", "pack"):
        plan = plan_of(split, config, BatchingConfig(kind=kind, tokens=300, row_multiple=2, pack_length=40), 3)
        make = functools.partial(assemble, split=split)
        whole = list(pipeline.batches(plan, make, range(5, 30)))
        halves = [
            list(
                pipeline.batches(
                    plan, functools.partial(assemble, split=split), range(5, 30), only=lambda n, p=p: np.arange(n)[p::2]
                )
            )
            for p in (0, 1)
        ]
        for batch, *parts in zip(whole, *halves, strict=True):
            for name, values in batch.items():
                for p, part in enumerate(parts):
                    np.testing.assert_array_equal(part[name], values[p::2])


def test_batches_that_a_roll_back_left_out_move_those_after_up():
    split = split_of({"a": 40, "b": 9}, np.random.default_rng(0))
    config = DataConfig(mixture={"a": {}, "b": {}}, mixture_temperature=5.0)
    plan = plan_of(split, config, BatchingConfig(tokens=400), 0)
    shorter = plan.without(3, 6)
    np.testing.assert_array_equal(shorter.batch(3).examples, plan.batch(6).examples)


def test_sets_by_their_sizes_are_planned_as_one_set():
    split = split_of({"a": 40, "b": 9}, np.random.default_rng(0))
    batching = BatchingConfig(tokens=400)
    plan = plan_of(split, DataConfig(mixture={"a": {}, "b": {}}), batching, 3)
    plain = make_plan(split["source"].lengths, split["target"].lengths, batching, seed=3)
    assert type(plan) is type(plain)
    for i in range(40):
        np.testing.assert_array_equal(plan.batch(i).examples, plain.batch(i).examples)


def test_temperature_goes_from_sizes_to_equal_shares():
    sizes = {"a": 900, "b": 100}

    def share(temperature):
        found = shares(DataConfig(mixture={"a": {}, "b": {}}, mixture_temperature=temperature), sizes)
        return None if found is None else found[1]

    assert share(1) is None
    assert share(2) == pytest.approx(1 / 4) and share(1e6) == pytest.approx(1 / 2, rel=1e-4)
    weighted = DataConfig(mixture={"a": {"weight": 3}, "b": {"weight": 1.0}})
    assert shares(weighted, sizes)[1] == pytest.approx(1 / 4)


def test_a_set_that_is_all_too_long_is_named():
    split = split_of({"a": 40, "b": 9}, np.random.default_rng(0))
    split["target"].offsets[-9:] += 1000 * np.arange(1, 10)
    config = DataConfig(mixture={"a": {}, "b": {}}, mixture_temperature=2.0)
    with pytest.raises(UserError, match="'b' of config.data.mixture has no examples that could be trained on"):
        plan_of(split, config, BatchingConfig(), 0)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=4), st.integers(1, 400), st.floats(1.01, 100))
@settings(max_examples=25)
def test_a_vocabulary_is_learned_from_sets_in_their_shares(counts, most, temperature):
    sizes = {f"s{i}": count for i, count in enumerate(counts)}
    config = DataConfig(mixture={name: {} for name in sizes}, mixture_temperature=temperature)
    relative = shares(config, sizes)
    indices = in_proportion(sizes, relative, lambda wanted: range(min(wanted, most)))
    part_of = np.repeat(np.arange(len(counts)), counts)
    found = np.bincount(part_of[indices], minlength=len(counts))
    total = min(most, int(np.ceil((np.array(counts) / relative).max())))
    assert (np.abs(found - np.maximum(relative * total, 1)) <= 0.5 + 1e-9).all()
    if total < most:
        assert set(indices.tolist()) == set(range(sum(counts)))
