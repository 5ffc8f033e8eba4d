"""Lines that are to be what decode writes: they are read, or refused in a sentence that names the line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.commands.records import read_record
from s2sjax.errors import UserError
from s2sjax.files import jsontext

ENTRY = {"text": "a", "tokens": ["a", "</s>"], "score": -1.5, "ranking_score": -1, "ids": [4, 3]}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**18, 10**400) | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(value=VALUES, key=st.sampled_from(["source", "hypotheses", "entry", "whole", *ENTRY]))
def test_whatever_stands_in_a_record_is_read_or_refused_by_its_line(value, key):
    record = {"source": "s", "hypotheses": [ENTRY]}
    if key in ENTRY:
        record["hypotheses"] = [ENTRY | {key: value}]
    elif key == "entry":
        record["hypotheses"] = [value]
    elif key != "whole":
        record[key] = value
    line = json.dumps(value if key == "whole" else record)
    try:
        read, hypotheses = read_record(line, "file", 7)
    except UserError as error:
        assert str(error).startswith("file, line 7: not what decode --format=jsonl writes")
        return
    assert jsontext.printed_line(read).encode()
    for h in hypotheses:
        assert h.text.encode() is not None and float(h.score) + float(h.ranking_score) < float("inf")
        assert all(0 <= i < 2**31 for i in h.ids)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"source": None}, "field 'source' is null, expected a text"),
        ({"hypotheses": ...}, "field 'hypotheses' is missing"),
        ({"hypotheses": "a"}, "field 'hypotheses' is a text, expected a list"),
        ({"hypotheses": [7]}, "a hypothesis is a number, expected an object"),
        ({"hypotheses": [{"text": "a"}]}, "field 'tokens' of a hypothesis is missing"),
        (
            {"hypotheses": [ENTRY | {"score": True}]},
            "field 'score' of a hypothesis is true or false, expected a number",
        ),
        ({"hypotheses": [ENTRY | {"ids": [-1]}]}, "field 'ids' of a hypothesis holds what is no number of a token"),
    ],
)
def test_what_is_missing_is_named(change, what):
    record = {name: value for name, value in ({"source": "s", "hypotheses": [ENTRY]} | change).items() if value != ...}
    with pytest.raises(UserError) as caught:
        read_record(json.dumps(record), "file", 7)
    assert str(caught.value) == f"file, line 7: not what decode --format=jsonl writes ({what})"


@pytest.mark.parametrize("line", ["", "{", "[" * 100_000, "\x00", '{"source": "a"}', '{"source": "\\ud800"}', "7"])
def test_what_is_no_record_is_refused(line):
    with pytest.raises(UserError, match="file, line 1: not what decode"):
        read_record(line, "file", 1)
