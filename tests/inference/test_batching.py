"""Batches of requests: every request once, few shapes, bounded size, the longest first."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2sjax.inference import batching
from s2sjax.inference.batching import LENGTHS, padded_length, rows_together, serving_batches
from s2sjax.inference.sentences import padded, source_batch

lists = st.lists(st.tuples(*[st.integers(0, 1500)] * 2), max_size=120)
sizes = st.integers(1, 40)


@settings(max_examples=200)
@given(pairs=lists, batch_size=sizes, width=st.integers(1, 12))
def test_every_request_comes_once_the_longest_first_in_batches_of_bounded_size(pairs, batch_size, width):
    lengths = np.array(pairs, int).reshape(-1, 2)
    longest = lengths.max(axis=1)
    made = list(serving_batches(*lengths.T, batch_size=batch_size, width=width))
    order = np.concatenate([batch.requests for batch in made]) if made else np.zeros(0, int)
    assert sorted(order.tolist()) == list(range(len(pairs)))
    assert (np.diff(longest[order]) <= 0).all()
    for batch in made:
        assert batch.length == padded_length(int(longest[batch.requests[0]]))
        most = rows_together(batch_size, batch.length, width)
        assert len(batch.requests) <= batch.rows <= most and batch.rows in (1, 8, most)
        assert batch.rows == 1 or batch.rows * batch.length * max(width, 5) <= batch_size * 64 * 5
        assert len(batch.requests) == most or batch is made[-1], "only the last is not full"


@settings(max_examples=100)
@given(pairs=lists, batch_size=sizes)
def test_requests_in_their_order_are_all_padded_to_the_longest(pairs, batch_size):
    lengths = np.array([source for source, _ in pairs], int)
    made = list(serving_batches(lengths, batch_size=batch_size, by_length=False))
    assert [number for batch in made for number in batch.requests] == list(range(len(pairs)))
    assert {batch.length for batch in made} <= {padded_length(int(lengths.max(initial=0)))}
    assert all(batch.rows >= len(batch.requests) for batch in made)


def test_of_equally_long_requests_the_last_array_decides_and_then_the_number():
    source, target = np.array([5, 9, 9, 9, 9]), np.array([9, 1, 9, 1, 4])
    (batch,) = serving_batches(source, target, batch_size=8)
    assert batch.requests.tolist() == [2, 0, 4, 3, 1] and (batch.rows, batch.length) == (8, 16)


@pytest.mark.parametrize("count, rows", [(1, 1), (2, 8), (8, 8), (9, 20), (20, 20)])
def test_a_single_request_and_a_remainder_do_not_pay_for_a_whole_batch(count, rows):
    (batch,) = serving_batches(np.full(count, 3), batch_size=20)
    assert batch.rows == rows


def test_many_lengths_are_padded_to_few():
    padded = [padded_length(n) for n in range(5000)]
    assert all(n <= length for n, length in enumerate(padded)) and padded == sorted(padded)
    assert set(padded) == {*LENGTHS, 2048, 3072, 4096, 5120}


def test_the_example_in_the_docstring_is_so():
    found = doctest.testmod(batching)
    assert found.attempted and not found.failed


def test_padding_is_what_lengths_say_and_no_token_by_its_number():
    rows = [np.array([0, 3, 0]), np.array([], int), np.array([0])]
    inputs = padded(rows, 4, 3)
    batch = source_batch(inputs, np.array([3, 0, 1, 0]))
    assert batch["input_segments"].tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert inputs.tolist() == [[0, 3, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
