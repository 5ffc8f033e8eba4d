"""What a run recorded, read back: the numbers that were written, in memory that the file's size bounds."""

import json
import random
import tracemalloc

import pytest

from s2sjax.reporting import history
from s2sjax.reporting.history import Records, read_history


def test_records_are_the_numbers_that_were_written():
    rng = random.Random(5)
    names = ("step", "loss", "bleu", "seconds", "accuracy")
    written = [
        {name: rng.choice([7, -2, 0.5, 1e-9, None, 10**12]) for name in rng.sample(names, rng.randint(1, 5))}
        for _ in range(300)
    ]
    records = Records()
    for record in written:
        records.append({"kind": "train", **record, "time": "2026", "list": [[]], "flag": True})
    assert list(records) == written and records[-1] == written[-1] and records[3:9:2] == written[3:9:2]
    assert [type(value) for record in records for value in record.values()] == [
        type(value) for record in written for value in record.values()
    ]
    with pytest.raises(IndexError):
        records[300]


def test_of_more_than_a_million_records_evenly_spaced_ones_are_kept_and_the_last(monkeypatch):
    monkeypatch.setattr(history, "_MOST_RECORDS", 100)
    for count in (100, 101, 102, 199, 200, 201, 203, 1000):
        records = Records()
        for step in range(count):
            records.append({"step": step, "loss": step / 2})
        steps = [record["step"] for record in records]
        assert len(steps) <= 100 and steps[-1] == count - 1
        assert len(set(step - last for last, step in zip(steps[:-1], steps[1:-1], strict=False))) == 1
        assert all(record["loss"] == record["step"] / 2 for record in records)
        assert steps == list(range(count)) or count > 100


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1, "kind": "train", "x": [' + "[]," * 300_000 + "0]}",
        '{"step": 1, "kind": "train", "x": [' + "[]," * 20_000 + "0]}",
        json.dumps({"step": 1, "kind": "train", **{str(i): 1.5 for i in range(40)}}),
        json.dumps({"step": 1, "kind": "train", "x" * 200: 1.5}),
    ],
)
def test_a_line_that_is_larger_than_any_of_ours_is_bad(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "kind": "train", "loss": 2.5}\n' + line + "\n")
    found = read_history(path)
    assert list(found.train) == [{"step": 1, "loss": 2.5}] and found.bad >= 1


def test_lines_of_ever_new_names_are_bad_after_a_thousand():
    records = Records()
    for i in range(1000):
        records.append({"step": i, str(i): 1.0})
    with pytest.raises(ValueError, match="kinds"):
        records.append({"step": 1, "new": 1.0})
    records.append({"step": 1, "7": 1.0})


@pytest.mark.parametrize(
    "line", ['{"step":1,"kind":"train"}', '{"step":1,"kind":"train",' + ",".join(f'"{i}":1' for i in range(31)) + "}"]
)
def test_records_take_less_than_twice_the_memory_that_the_file_has_bytes(tmp_path, line):
    """As dictionaries they took up to eight times as much."""
    path = tmp_path / "metrics.jsonl"
    path.write_text((line + "\n") * (300_000 // len(line)))
    tracemalloc.start()
    try:
        found = read_history(path)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.train) == 300_000 // len(line)
    assert taken < 2 * path.stat().st_size
