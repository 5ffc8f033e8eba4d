"""Texts of requests as rows of tokens, and what is counted of them."""

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.data.units import CharTokenizer
from s2sjax.data.unknown import Unknown
from s2sjax.inference.counts import RequestCounts
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.hypotheses import best_text, read_found
from s2sjax.inference.requests import PositionLimit, RequestFormat, RequestReader
from s2sjax.inference.sentences import Found
from s2sjax.vocabulary import BOS, EOS

TOKENIZER = CharTokenizer("abcdefgh")
NOTHING = {"prefixes": None, "phrases": None, "choices": None}


def reader(config=DecodeConfig(), **fields):  # noqa: B008 - it is frozen
    return RequestReader(
        TokenizerPair(TOKENIZER, TOKENIZER), config, RequestFormat(**{"max_source_length": 6} | fields)
    )


READERS = {
    "sources": reader(),
    "continued": reader(continues=True),
    "lines": reader(DecodeConfig(method="sample", max_new_tokens=9), continues=True, joined=8),
}


@settings(max_examples=150)
@given(
    texts=st.lists(st.text("abcżß \n", max_size=9), max_size=12),
    cut=st.integers(0, 12),
    name=st.sampled_from(sorted(READERS)),
)
def test_counts_of_parts_add_up_to_those_of_the_whole_and_are_no_state(texts, cut, name):
    read = functools.partial(READERS[name].read, **NOTHING)
    whole, again = read(texts), read(texts)
    assert whole.counts == again.counts == read(texts[:cut]).counts + read(texts[cut:]).counts
    # By the texts themselves.
    continues, blank = name != "sources", [not text.strip() for text in texts]
    assert whole.counts.sources == whole.counts.unknown.of == len(texts)
    here = [text for text, nothing in zip(texts, blank, strict=True) if continues or not nothing]
    lacks = [set(text) & (set("żß ") if name == "lines" else set("żß \n")) for text in here]
    assert whole.counts.unknown.texts == sum(map(bool, lacks))
    assert set(whole.counts.unknown.counts) == set().union(*lacks)
    assert whole.counts.truncated == sum(len(text) > 5 for text in here)
    assert [texts[place] for place in whole.result.places] == here
    for row, text in zip(whole.result.rows, here, strict=True):
        assert len(row) == 1 + min(len(text), 5) and row[0 if continues else -1] == (BOS if continues else EOS)


def test_requests_keep_what_is_asked_beside_their_sources():
    texts, prefixes, phrases = ["abc", " ", "d", "hh"], ["a", "b", "", "c"], [["ab"], [], ["c", " "], []]
    requests = reader().read(texts, prefixes=prefixes, phrases=phrases, choices=None).result
    assert list(requests.places) == [0, 2, 3]
    part = requests.part([2, 0])
    assert [TOKENIZER.decode(row[:-1]) for row in part.rows] == ["hh", "abc"] and list(part.places) == [3, 0]
    assert [TOKENIZER.decode(row) for row in part.prefixes] == ["c", "a"]
    assert [[TOKENIZER.decode(row) for row in rows] for rows in part.phrases] == [[], ["ab"]]
    chosen = reader().read(texts, **NOTHING | {"choices": ["ab", "abcd"]}).result
    assert chosen.part([1]).longest == 4 and chosen.part([1]).trie is chosen.trie


def test_the_least_room_of_all_positions_is_the_most_that_is_read():
    for positions, most in (((), 6), ([PositionLimit(4)], 4), ([PositionLimit(6), PositionLimit(4, True)], 3)):
        limited = reader(positions=tuple(positions))
        assert limited.max_source_length == most
        (row,) = limited.source_rows(["abcdefgh"]).result
        assert len(row) == most


def test_every_count_is_added():
    one = RequestCounts(1, 2, Unknown({"x": 3}, 1, 4), Unknown({"y": 5}, 1, 6), 7)
    two = RequestCounts(10, 20, Unknown({"x": 30}, 10, 40), Unknown({"y": 50}, 10, 60), 70)
    assert one + two == RequestCounts(11, 22, Unknown({"x": 33}, 11, 44), Unknown({"y": 55}, 11, 66), 77)
    assert one + RequestCounts() == one == RequestCounts() + one


def test_what_was_found_is_read_without_its_padding_in_reading_order():
    ids = TOKENIZER.encode(["abc", "d"])
    tokens = np.zeros((1, 3, 5), np.int32)
    for place, row in zip(tokens[0], ids, strict=False):
        place[: len(row) + 1] = [*row, EOS]
    found = Found(tokens, np.array([[4, 2, 0]]), np.array([[-1.5, -2.0, 0.0]]), np.array([[-0.5, -1.0, 0.0]]))
    ((first, second),) = read_found(found, TOKENIZER)
    assert (first.text, first.tokens, first.score, first.ranking_score) == ("abc", (*"abc", "</s>"), -1.5, -0.5)
    assert second.ids == (*ids[1].tolist(), EOS)
    ((turned, _),) = read_found(found, TOKENIZER, right_to_left=True)
    assert (turned.text, turned.ids) == ("cba", (*ids[0][::-1].tolist(), EOS))
    assert best_text([first, second]) == "abc" and best_text([]) == ""
