"""Records that cannot be read: located, listed, left out up to a limit."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.data import unreadable
from s2sjax.data.config import DataConfig
from s2sjax.data.lines import BadRecord
from s2sjax.data.prepare import prepare
from s2sjax.data.records import InMemory, make_record
from s2sjax.data.splits import open_split
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.errors import UserError

GOOD = [("a", "A"), ("b", "B"), ("c", "C")]


def pairs_of(source):
    return [(pair["source"], pair["target"]) for pair in source]


def write(directory, format):
    """The three good pairs with a bad record before, between and after them; where each bad one is, and why."""
    if format == "text":
        (directory / "train.en").write_bytes(b"x\na\n\xff\nb\nc\ny\xe9\n")
        (directory / "train.de").write_bytes(b"\xc3\nA\nx\nB\nC\ny\n")
        config = DataConfig(source="{split}.en", target="{split}.de")
        bad = ["train.de, line 1, byte offset 0: not valid UTF-8", "train.en, line 3, byte offset 4: not valid UTF-8",
               "train.en, line 6, byte offset 11: not valid UTF-8"]  # fmt: skip
    elif format == "jsonl":
        lines = ["nothing", *(json.dumps({"source": s, "target": t}) for s, t in GOOD), '{"source": "x"}']
        lines.insert(2, '{"source": 3, "target": "x"}')
        (directory / "train.jsonl").write_text("\n".join(lines) + "\n")
        config = DataConfig(format="jsonl", file="{split}.jsonl")
        bad = ["train.jsonl, line 1 is not valid JSON", "train.jsonl, line 3: field 'source' is a int",
               "train.jsonl, line 6: no field 'target'"]  # fmt: skip
    else:
        separator = "\t" if format == "tsv" else ","
        rows = ["source{}target", "x", "a{}A", "é{}x", "b{}B", "c{}C", "z"]
        text = "\n".join(row.format(separator) for row in rows) + "\n"
        (directory / f"train.{format}").write_bytes(text.encode("latin1"))
        config = DataConfig(format=format, file=f"{{split}}.{format}")
        bad = [f"train.{format}, line 2: 1 column", f"train.{format}, line 4", f"train.{format}, line 7: 1 column"]
    return dataclasses.replace(config, dir=str(directory), cache_dir=str(directory / "cache")), bad


@pytest.mark.parametrize("format", ["text", "jsonl", "tsv", "csv"])
def test_bad_records_are_left_out_located_and_listed(tmp_path, format):
    config, bad = write(tmp_path, format)
    with pytest.raises(UserError):  # as ever: the first one stops everything
        pairs_of(open_split(config, "train"))
    source = open_split(dataclasses.replace(config, max_bad_records=3), "train")
    assert pairs_of(source) == GOOD and len(source) == 3
    (listing,) = (tmp_path / "cache").glob("unreadable-*.jsonl")
    listed = [json.loads(line) for line in listing.read_text().splitlines()]
    assert [entry["index"] for entry in listed] == [0, 2, 5]
    for entry, expected in zip(listed, bad, strict=True):
        assert expected in entry["reason"]
    assert source.unreadable.startswith("3 of 6 records of split 'train' cannot be read and are left out. The first: ")
    assert bad[0] in source.unreadable and str(listing) in source.unreadable

    message = r"3 of 6 records of split 'train' cannot be read, more than config.data.max_bad_records=2 may be left out"
    with pytest.raises(UserError, match=message) as error:
        open_split(dataclasses.replace(config, max_bad_records=2), "train")
    assert bad[0] in str(error.value) and str(listing) in str(error.value)


def test_reasons_with_what_utf8_cannot_spell_are_listed_too(tmp_path):
    """Half of a character in the name of a field, and a byte in the name of the file that is no UTF-8."""
    config = DataConfig(format="jsonl", file="{split}-\udcff.jsonl", dir=str(tmp_path), max_bad_records=1,
                        cache_dir=str(tmp_path / "cache"))  # fmt: skip
    (tmp_path / "train-\udcff.jsonl").write_text('{"source": "a", "target": "A"}\n{"\\ud800": "b", "target": "B"}\n')
    source = open_split(config, "train")
    assert pairs_of(source) == [("a", "A")]
    assert r"train-\udcff.jsonl, line 2: no field 'source'" in source.unreadable
    assert r"there are: \ud800, target" in source.unreadable


def test_they_are_looked_for_once_and_again_if_the_listing_is_damaged(tmp_path, monkeypatch):
    config = dataclasses.replace(write(tmp_path, "jsonl")[0], max_bad_records=9)
    first = open_split(config, "train")
    with monkeypatch.context() as patch:
        patch.setattr(unreadable, "_find", None)
        again = open_split(config, "train")
    assert pairs_of(again) == GOOD and again.fingerprint() == first.fingerprint()
    (listing,) = (tmp_path / "cache").glob("unreadable-*.jsonl")
    listing.write_text("{")
    assert pairs_of(open_split(config, "train")) == GOOD
    listing.write_text(listing.read_text().partition("\n")[0])
    assert open_split(config, "train").fingerprint() != first.fingerprint(), "another selection is other data"


def test_what_is_left_out_is_part_of_the_fingerprint_and_nothing_else_is(tmp_path):
    config, _ = write(tmp_path, "jsonl")
    prints = {n: open_split(dataclasses.replace(config, max_bad_records=n), "train").fingerprint() for n in (0, 3, 4)}
    assert prints[3] == prints[4] != prints[0]
    (tmp_path / "train.jsonl").write_text('{"source": "a", "target": "A"}\n')
    prints = {n: open_split(dataclasses.replace(config, max_bad_records=n), "train").fingerprint() for n in (0, 3)}
    assert prints[0] == prints[3], "good data is the same data"


def test_slices_and_several_languages_are_of_all_records_before_any_is_left_out(tmp_path):
    config = dataclasses.replace(write(tmp_path, "text")[0], max_bad_records=9)
    assert pairs_of(open_split(dataclasses.replace(config, train="train[1:4]"), "train")) == [("a", "A"), ("b", "B")]
    both = dataclasses.replace(
        config, pairs=("en-de", "de-en"), source="{split}.{source_language}", target="{split}.{target_language}"
    )
    source = open_split(both, "train")
    assert pairs_of(source) == [*GOOD, *((target, source) for source, target in GOOD)]
    assert source.unreadable.startswith("6 of 12 records")


def test_the_user_hears_of_them_when_data_is_prepared(tmp_path):
    config = dataclasses.replace(write(tmp_path, "text")[0], max_bad_records=3)
    split = prepare(config, TokenizerConfig(kind="char"), ("train",)).splits["train"]
    assert len(split) == 3 and split.unreadable.startswith("3 of 6 records")


@given(st.lists(st.booleans(), max_size=12))
def test_the_others_keep_their_order(good):
    records = [make_record(str(i), [""]) if fine else BadRecord("bad") for i, fine in enumerate(good)]
    bad = np.flatnonzero(~np.array(good, bool))
    source = unreadable._Readable(InMemory(records, "x"), bad, "")
    assert [pair["source"] for pair in source] == [str(i) for i, fine in enumerate(good) if fine]
    with pytest.raises(IndexError):
        source[len(source)]
