"""The laws of the plan, for random lengths and settings."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2sjax.data.batching import BatchingConfig
from s2sjax.data.plan import FAR, bucket_boundaries, first_fit, make_evaluation_plan, make_plan
from s2sjax.errors import UserError


@st.composite
def plans(draw):
    n = draw(st.integers(1, 80))
    lengths = st.lists(st.integers(1, 40), min_size=n, max_size=n)
    source, target = np.array(draw(lengths)), np.array(draw(lengths))
    source[0] = target[0] = 3  # at least one example is within the limits
    config = BatchingConfig(
        kind=draw(st.sampled_from(["bucket", "pack"])),
        tokens=draw(st.integers(160, 600)),
        buckets=draw(st.integers(1, 5)),
        length_multiple=draw(st.sampled_from([1, 4])),
        row_multiple=draw(st.sampled_from([1, 2])),
        pack_length=draw(st.integers(8, 64)),
        max_source_length=draw(st.integers(3, 40)),
        max_target_length=draw(st.integers(3, 40)),
    )
    return make_plan(source, target, config, seed=draw(st.integers(0, 5)), divisor=config.row_multiple), config


def epoch(plan, number):
    n = plan.batches_per_epoch
    return [plan.batch(i) for i in range(number * n, (number + 1) * n)]


@given(plans())
@settings(max_examples=150)
def test_each_example_within_the_limits_stands_in_exactly_one_batch_of_every_epoch(made):
    plan, config = made
    short = (plan.source_lengths <= config.max_source_length) & (plan.target_lengths <= config.max_target_length)
    for number in range(2):
        seen = np.sort(np.concatenate([batch.examples for batch in epoch(plan, number)]))
        np.testing.assert_array_equal(seen, np.flatnonzero(short))
    np.testing.assert_array_equal(plan.too_long, np.flatnonzero(~short))


@given(plans())
@settings(max_examples=150)
def test_batches_fit_their_shapes_and_shapes_the_token_budget(made):
    plan, config = made
    for batch in epoch(plan, 1):
        assert batch.shape in plan.shapes
        assert batch.shape.rows * max(batch.shape.source, batch.shape.target) <= config.tokens
        assert (np.diff(batch.rows) >= 0).all() and batch.rows.max() < batch.shape.rows
        for lengths, room in ((plan.source_lengths, batch.shape.source), (plan.target_lengths, batch.shape.target)):
            assert np.bincount(batch.rows, weights=lengths[batch.examples]).max() <= room


def test_the_plan_is_the_same_on_one_device_and_on_eight():
    config = BatchingConfig(tokens=500)
    one, eight = (make_plan(*lengths(), config, seed=0, divisor=divisor) for divisor in (1, 8))
    for i in range(2 * one.batches_per_epoch):
        for a, b in zip(one.batch(i), eight.batch(i), strict=True):
            np.testing.assert_array_equal(a, b)


@given(plans())
@settings(max_examples=50)
def test_padding_is_what_counting_says(made):
    plan, _ = made
    batches = epoch(plan, 0)
    cells = sum(b.shape.rows * (b.shape.source + b.shape.target) for b in batches)
    tokens = sum(plan.source_lengths[b.examples].sum() + plan.target_lengths[b.examples].sum() for b in batches)
    assert plan.padding == pytest.approx(1 - tokens / cells)


def lengths(n=500, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(3, 40, n), rng.integers(3, 40, n)


@pytest.mark.parametrize("kind", ["bucket", "pack"])
def test_a_batch_is_a_function_of_its_index_however_the_plan_is_asked(kind):
    config = BatchingConfig(kind=kind, tokens=600, pack_length=64)
    one, two = (make_plan(*lengths(), config, seed=3) for _ in range(2))
    indices = list(range(3 * one.batches_per_epoch))
    forward = {i: one.batch(i) for i in indices}
    for i in reversed(indices[::5]):
        for a, b in zip(forward[i], two.batch(i), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["bucket", "pack"])
def test_epochs_and_seeds_differ_and_without_shuffling_they_do_not(kind):
    config = BatchingConfig(kind=kind, tokens=600, pack_length=64)

    def order(seed, number, **options):
        batches = epoch(make_plan(*lengths(), config, seed=seed, **options), number)
        return np.concatenate([batch.examples for batch in batches]).tolist()

    drawn = [order(0, 0), order(0, 1), order(1, 0), order(1, 1)]
    assert all(a != b for a, b in itertools.combinations(drawn, 2))
    assert order(0, 0, shuffle=False) == order(0, 1, shuffle=False)


def test_packing_draws_new_neighbours_every_epoch():
    plan = make_plan(*lengths(2000), BatchingConfig(kind="pack", tokens=600, pack_length=64), seed=0)

    def neighbours(number):
        pairs = set()
        for batch in epoch(plan, number):
            for a, b in itertools.pairwise(range(len(batch.rows))):
                if batch.rows[a] == batch.rows[b]:
                    pairs.add((int(batch.examples[a]), int(batch.examples[b])))
        return pairs

    first, second = neighbours(0), neighbours(1)
    assert len(first & second) < 0.6 * len(first)


def test_bucket_boundaries_are_the_best_of_all_possible_ones():
    rng = np.random.default_rng(1)
    for _ in range(30):
        values, buckets = rng.integers(1, 12, 40), int(rng.integers(1, 5))

        def waste(limits, values=values):
            return sum(min(limit for limit in limits if limit >= v) for v in values)

        top = values.max()
        choices = itertools.chain.from_iterable(itertools.combinations(range(1, top), k) for k in range(buckets))
        best = min(waste((*choice, top)) for choice in choices)
        assert waste(bucket_boundaries(values, buckets, 1)) == best


def test_first_fit_by_hand():
    rows = first_fit(np.array([[5, 1], [6, 1], [4, 1], [5, 1], [1, 9]]), np.array([10, 10]))
    assert rows.tolist() == [0, 1, 0, 2, 1]


def test_messages_name_the_value_and_the_way_out():
    source, target = lengths()
    with pytest.raises(UserError, match=r"config.batching.tokens 50 does not hold 8 rows.*raise it to"):
        make_plan(source, target, BatchingConfig(tokens=50), seed=0)
    with pytest.raises(UserError, match=r"a batch of \d+ rows is not divisible by 16.*row_multiple=16"):
        make_plan(source, target, BatchingConfig(tokens=500), seed=0, divisor=16)
    with pytest.raises(UserError, match=r"none of the 500 examples.*max_source_length 2"):
        make_plan(source, target, BatchingConfig(max_source_length=2), seed=0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=5))
def test_what_a_plan_is_without_is_all_that_it_is_without(spans):
    """Spans of a plan's own batches are left out of it, one after the other: what is left keeps its order."""
    plan = make_plan(np.full(40, 3), np.full(40, 3), BatchingConfig(tokens=32, row_multiple=1), seed=0)
    left = [*range(200)]
    for first, count in spans:
        plan = plan.without(first, first + count)
        del left[first : first + count]
    assert [plan.number(i) for i in range(60)] == left[:60]
    whole = dataclasses.replace(plan, left_out=())
    for index in (0, 7, 30):
        np.testing.assert_array_equal(plan.batch(index).examples, whole.batch(left[index]).examples)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=40),
    st.lists(st.integers(FAR * 30 + 1, 20_000), max_size=4), st.integers(1, 4), st.sampled_from([1, 2]), st.data(),
)  # fmt: skip
def test_examples_far_over_the_limits_leave_the_other_batches_of_an_evaluation_alone(near, far, buckets, shards, data):
    """The first lengths are of up to twice the limits, at 30 and 20."""
    config = BatchingConfig(
        max_source_length=30, max_target_length=20, tokens=64, buckets=buckets, length_multiple=4, pack_length=9,
        kind=data.draw(st.sampled_from(["bucket", "pack"])),
    )  # fmt: skip
    rows = data.draw(st.permutations([*range(len(near) + len(far))]))
    pairs = np.array([*near, *((length, 1) for length in far)])[rows]
    plan = make_evaluation_plan(*pairs.T, config, shards=shards)
    alone = make_evaluation_plan(*np.array(near).T, config, shards=shards)
    batches, without = (epoch(each, 0) for each in (plan, alone))
    assert sorted(np.concatenate([batch.examples for batch in batches])) == [*range(len(rows))]
    for batch, expected in zip(batches, without, strict=False):
        assert batch.shape == expected.shape
        # Examples of the same lengths may change places.
        assert (pairs[batch.examples] == np.array(near)[expected.examples]).all()
        assert {rows[example] for example in batch.examples} <= {*range(len(near))}
    for batch in batches[len(without) :]:
        assert max(batch.shape[1:]) * batch.shape.rows <= shards * (max(far) + config.length_multiple)
