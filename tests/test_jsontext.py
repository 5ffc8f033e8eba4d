import json
import random

import pytest

from s2sjax import jsontext
from s2sjax.errors import UserError


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "not valid JSON"),
        (b'{"a" 1}', "config.json is not valid JSON: Expecting ':' delimiter \\(column 6\\)$"),
        (b'{"a": 1,\n "b"}\n', "Expecting ':' delimiter \\(line 2, column 5\\)$"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested"),
        (b'{"a": ' + b"7" * 5_000 + b"}", "64 bits"),
        (b'{"a": ' + b"7" * 400 + b"}", "64 bits"),
        (b'{"a": 18446744073709551616}', "64 bits"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b"[]", "a list, expected an object"),
        (b"null", "null, expected an object"),
        (b"7", "a number, expected an object"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(content, told):
    with pytest.raises(UserError, match=told) as caught:
        jsontext.parse(content, "run/config.json")
    assert str(caught.value).startswith("run/config.json")
    assert len(str(caught.value)) < 400


def test_records_of_a_data_set_may_hold_what_nobody_reads():
    found = jsontext.parse('{"text": "a", "id": 123456789012345678901234567890, "x": NaN}', "line", strict=False)
    assert found["text"] == "a"


def test_what_json_writes_is_read_back():
    value = {"a": [1, -(2**63), 2**64 - 1, 0.5, None, True, "ä\U0001f600 \\u"], "b": {"c": {}}}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value).encode()):
        assert jsontext.parse(text, "here") == value


def test_mutated_json_is_a_value_or_a_sentence():
    rng = random.Random(7)
    seeds = [json.dumps({"a": [1.5, {"b": "\ud800é"}], "n": 10**15, "x": None}).encode(), b"[" * 70 + b"]" * 70]
    for _ in range(2000):
        content = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(len(content))] = rng.choice(b'"\\{}[]:,0123456789eE+-.NIu \xff\xc3\x00')
        try:
            value = jsontext.parse(bytes(content), "here", of=object)
        except UserError:
            continue
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
