import contextlib
import json
import math
import random
import re
import time
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import pytest

from s2sjax import experiment
from s2sjax.checkpoints import manifest
from s2sjax.errors import UserError
from s2sjax.files import jsontext, rundir
from s2sjax.runs import home
from s2sjax.runs.average import Average
from s2sjax.runs.results import write_results
from s2sjax.training.skipped import Skipped, write_skipped
from tests.tiny import tiny


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


@pytest.mark.parametrize("kwargs", [{}, {"indent": 2}, {"indent": 1, "sort_keys": True}, {"ascii": False}])
def test_what_is_written_is_what_the_standard_library_writes(kwargs):
    value = {"b": [1, 2.5, (True, None)], "a": {"z": "Grüße \u2028\n", 3: 1e-05}, "c": []}
    if "sort_keys" in kwargs:
        del value["a"][3]
    standard = {"ensure_ascii" if name == "ascii" else name: setting for name, setting in kwargs.items()}
    assert jsontext.dumps(value, **kwargs) == json.dumps(value, **standard)


def test_what_json_has_no_number_for_is_null_at_any_depth():
    value = {"a": math.nan, "b": [math.inf, (-math.inf, {"c": math.nan, "d": 1.0})], "e": "NaN"}
    assert jsontext.dumps(value) == '{"a": null, "b": [null, [null, {"c": null, "d": 1.0}]], "e": "NaN"}'
    assert jsontext.parse(jsontext.dumps(value), "it")["a"] is None


PACKAGE = Path(jsontext.__file__).parents[1]
ELSEWHERE = {
    "processes/peers.py": "messages between processes",
    "processes/distributed.py": "messages between processes",
    "data/counts.py": "the cache",
    "data/prepare.py": "the cache, and fingerprints",
    "data/unreadable.py": "the cache",
    "data/sources.py": "fingerprints",
    "data/splits.py": "fingerprints",
    "data/fields.py": "a list of references as one text",
    "data/labels.py": "what a tokenizer learned, bytes to everybody else",
    "data/units.py": "what a tokenizer learned, bytes to everybody else",
}


def test_everything_else_is_written_by_one_function():
    """So that no file of a run directory holds a NaN that other readers refuse."""
    writers = re.compile(r"json\.dump|JSONEncoder")
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if writers.search(path.read_text("utf-8"))
    }
    assert found == {"files/jsontext.py", *ELSEWHERE}


def test_files_of_a_run_directory_have_the_bytes_that_they_always_had(tmp_path):
    """Checksums in manifests, and what is compared with an older copy, hang on each of them."""
    write_skipped(tmp_path, Skipped(((3, 5), (7, 9)), ("step 5: Größe",)))
    write_results(tmp_path, "test", {"loss": 1.5, "bleu": math.nan, "pairs": {"en-de": {"loss": math.inf}}}, [])
    rundir.write_json(tmp_path, "average.json", asdict(Average("runs/a", "last 2", "params", {4: 0.5, 8: 0.5})))
    home.record(tmp_path, tiny(tmp_path), path=Path("/runs/a"))
    (tmp_path / "part").mkdir()
    manifest.seal(tmp_path / "part", {"step": 3, "metrics": {"loss": math.nan, "bleu": 2.0}})
    names = ("skipped.json", "results/test.json", "average.json", "home.json", "part/manifest.json")
    content = {name: (tmp_path / name).read_text("ascii") for name in names}
    assert content["skipped.json"] == (
        '{\n  "left_out": [\n    [\n      3,\n      5\n    ],\n    [\n      7,\n      9\n    ]\n  ],\n'
        '  "roll_backs": [\n    "step 5: Gr\\u00f6\\u00dfe"\n  ]\n}\n'
    )
    assert content["results/test.json"] == (
        '{\n  "loss": 1.5,\n  "bleu": null,\n  "pairs": {\n    "en-de": {\n      "loss": null\n    }\n  }\n}\n'
    )
    assert content["average.json"] == (
        '{\n  "workdir": "runs/a",\n  "rule": "last 2",\n  "parameters": "params",\n'
        '  "weights": {\n    "4": 0.5,\n    "8": 0.5\n  }\n}\n'
    )
    begin = f'{{"inode": {tmp_path.stat().st_ino}, "path": "/runs/a", "config": {{'
    assert content["home.json"].startswith(begin) and content["home.json"].endswith("}\n")
    assert content["home.json"].count("\n") == 1
    assert content["part/manifest.json"] == (
        '{\n "body": {\n  "metrics": {\n   "bleu": 2.0,\n   "loss": null\n  },\n  "step": 3\n },\n "files": {},\n'
        ' "format": "s2sjax-manifest",\n'
        ' "sha256": "e3188904681670f78142e71821971ac4eee8d9f29ac30bd3fe0b3a407c2bb55b",\n "version": 1\n}\n'
    )


# ---- What a text may have ----

FEW = jsontext.Bound(1 << 26, 10)
UNITS = ("[]", "{}", "[0]", '{"":0}', '"ab"', '"\u65e5\u672c"', "1.5", "null", "[[]]", '[{"":[]}]')


@pytest.mark.parametrize("unit", UNITS)
def test_a_text_takes_the_memory_that_its_bound_says(unit):
    """9 bytes for each byte, 90 for each separator: some 6 MB here, of which nothing is left when it is refused."""
    text = "[" + ",".join([unit] * (60_000 // (1 + sum(map(unit.count, "[{,:"))))) + "]"
    tracemalloc.start()
    try:
        jsontext.parse(text, "it", of=list, most=jsontext.Bound(1 << 22, 60_000))
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        with pytest.raises(UserError, match="it holds more than 1,000 values"):
            jsontext.parse(text, "it", of=list, most=jsontext.Bound(1 << 22, 1_000))
        refused = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < 9 * len(text.encode()) + 90 * 60_000
    assert refused < 2 * len(text.encode()) + 100_000


@pytest.mark.parametrize("most", [jsontext.SMALL, jsontext.LINE, experiment.LARGEST])
def test_what_is_within_a_bound_takes_less_than_300_mb(most):
    assert 9 * most.size + 90 * most.separators < 300e6


def test_what_is_within_the_bound_of_a_manifest_does_too():
    """It is ASCII, so that its text and its strings have a byte a character."""
    assert 3 * manifest.LARGEST.size + 90 * manifest.LARGEST.separators < 300e6


def test_separators_within_strings_are_text():
    text = json.dumps(["[{,:" * 100_000, 'a"b\\', "\\"])
    for content in (text, text.encode()):
        assert jsontext.parse(content, "it", of=list, most=FEW) == json.loads(text)


def test_separators_are_counted_as_a_parser_would():
    rng = random.Random(3)

    def value(depth: int):
        kind = rng.randrange(7 if depth else 4)
        if kind < 4:
            return rng.choice(["", 'a"', "\\", "x,y:[{", 1.5, None, "\u2028", '\\"'])
        items = [value(depth - 1) for _ in range(rng.randrange(4))]
        return items if kind < 6 else {f'{i}"\\,': item for i, item in enumerate(items)}

    def separators(found) -> int:
        if not isinstance(found, list | dict):
            return 0
        inner = found.values() if isinstance(found, dict) else found
        return max(len(found), 1) + isinstance(found, dict) * len(found) + sum(map(separators, inner))

    for _ in range(500):
        found = value(4)
        for text in (json.dumps(found), json.dumps(found, indent=1).encode()):
            jsontext.check(text, "it", jsontext.Bound(1 << 20, separators(found)))
            if separators(found):
                with pytest.raises(UserError):
                    jsontext.check(text, "it", jsontext.Bound(1 << 20, separators(found) - 1))


@pytest.mark.parametrize(
    "content", [b'"' * 2_000_001, b'"' + b'\\"' * 1_000_000, b'["' + b"\\" * 2_000_001, b",[" * 10**6]
)
def test_strings_that_do_not_end_are_counted_in_one_pass(content):
    began = time.monotonic()
    with contextlib.suppress(UserError):
        jsontext.check(content, "it", FEW)
    assert time.monotonic() - began < 2
