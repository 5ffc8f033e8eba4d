"""Rows and their columns: what a spreadsheet writes comes back, and what does not fit is never read as another pair."""

import contextlib
import csv
import dataclasses
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2sjax.data.config import DataConfig
from s2sjax.data.splits import open_split
from s2sjax.errors import UserError

TEXT = st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"]), max_size=12)
PLAIN = st.text(st.characters(exclude_characters="\0\ufeff\t\r\n", exclude_categories=["Cs"]), max_size=12)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


def table(directory, **fields) -> DataConfig:
    fields = {"format": "csv", "file": "{split}", "cache_dir": str(directory / "cache"), **fields}
    return DataConfig(dir=str(directory), **fields)


def read(directory, content: bytes, **fields) -> list[tuple[str, str]]:
    (directory / "train").write_bytes(content)
    return [(pair["source"], pair["target"]) for pair in open_split(table(directory, **fields), "train")]


@given(
    rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    blank=st.integers(0, 3),
)
@pytest.mark.parametrize("format", ["csv", "tsv"])
def test_what_pythons_csv_writes_comes_back(directory, format, rows, quoting, separator, end, blank):
    if end != "\r\n":  # then Python's writer leaves the other line end in a field without quotes: no reader could tell
        quoting = csv.QUOTE_ALL
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=quoting, delimiter=separator, lineterminator=end)
    writer.writerows([("source", "target"), *rows])
    content = (out.getvalue() + end * blank).encode()
    assert read(directory, content, format=format, quoting="double", separator=separator) == rows


@given(rows=st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=6), blank=st.integers(0, 3))
def test_a_tab_separated_file_comes_back_quotes_and_all(directory, rows, blank):
    text = "".join(f"{source}\t{target}\n" for source, target in rows) + "\n" * blank
    assert read(directory, text.encode(), format="tsv", header=False, source="0", target="1") == rows


BYTES = st.lists(st.sampled_from([b",", b"\t", b'"', b"\n", b"\r", b"a", b"\xc3\xa4", b"\xff", b"\0"]), max_size=30)


@given(content=BYTES.map(b"".join), most=st.sampled_from([0, 1000]), header=st.booleans(), quoting=st.booleans())
@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "text"])
def test_any_bytes_are_pairs_or_a_message(directory, format, content, most, header, quoting):
    column = ("a", "\u00e4") if header else ("0", "1")
    fields = dict(format=format, max_bad_records=most, source=column[0], target=column[1])
    if format == "text":
        fields |= dict(source="{split}", target="{split}")
    elif format != "jsonl":
        fields |= dict(header=header, quoting="double" if quoting else "none")
    with contextlib.suppress(UserError):
        assert all(isinstance(text, str) for pair in read(directory, content, **fields) for text in pair)


LINES = st.sampled_from(["", "\r", "a\tb", "a\tb\tc", "a", "\t", '"a\t"b', "é\té"])


@given(lines=st.lists(LINES, max_size=12), ended=st.booleans())
def test_records_unreadable_lines_and_blank_lines_are_all_lines(directory, lines, ended):
    text = "\n".join(["source\ttarget", *lines]) + "\n" * ended
    (directory / "train").write_bytes(text.encode())
    config = table(directory, format="tsv", max_bad_records=1000)
    blank = sum(line in ("", "\r") for line in lines)
    good = [line.split("\t") for line in lines if line.count("\t") == 1]
    unreadable = len(lines) - blank - len(good)
    if not good:
        with pytest.raises(UserError, match="has no examples"):
            open_split(config, "train")
        return
    source = open_split(config, "train")
    assert [[pair["source"], pair["target"]] for pair in source] == good
    expected = f"{unreadable} of {unreadable + len(good)} records" if unreadable else ""
    assert source.unreadable.startswith(expected) and bool(source.unreadable) == bool(unreadable)


@pytest.mark.parametrize(
    "format, content, line, cause",
    [
        ("csv", "source,target\na,A\nA man, a dog and a ball.,Ein Mann, ein Hund und ein Ball.\n", 3, "a field .*quot"),
        ("csv", "source,target\nx\n", 2, "a column is missing"),
        ("tsv", "source\ttarget\na\tA\nb\tB\tsomething\n", 3, "a field .*quot"),
        ("tsv", "source\tmore\ttarget\nx\ty\tz\na\tb\n", 3, "a column is missing"),
    ],
)
def test_a_row_that_does_not_fit_its_columns_is_unreadable(directory, format, content, line, cause):
    message = f"line {line}: . columns?, expected . as in the first row; {cause}.*config.data.max_bad_records"
    with pytest.raises(UserError, match=message):
        read(directory, content.encode(), format=format)
    (directory / "train").write_text(content)
    config = table(directory, format=format, max_bad_records=1)
    if content.count("\n") > 2:
        assert f"line {line}: " in open_split(config, "train").unreadable


def test_data_that_was_once_read_with_rows_that_do_not_fit_is_other_data_now(directory):
    """Its cache holds wrong pairs, and a run that was trained on it cannot go on with other ones."""
    (directory / "train").write_text("source\ttarget\na\tA\nb\tB\tsomething\n")
    (directory / "old").write_text("source,target\na,A\nb,B,something\n")
    (directory / "lines").write_text("a\n\nb\n\n")
    lines = open_split(table(directory, format="text", source="", target="{split}", file=""), "lines")
    assert [pair["target"] for pair in lines] == ["a", "", "b"]
    found = {
        open_split(table(directory, format="tsv"), "train").fingerprint(),
        open_split(table(directory, max_bad_records=1), "old")._source.fingerprint(),
        lines.fingerprint(),
    }
    once = {"747159a59b599a6001fb8b34b931112c", "fc1efa0dec26b68544fe329aab9803c1", "09c7605d29f81fb8386ca0fe17a970e5"}
    assert not once & found


def test_a_row_that_fits_leaves_the_fingerprint_as_it_was(directory):
    """These were computed before rows were held to their columns: caches and run directories hold them."""
    (directory / "train").write_text("source\ttarget\na\tA\nb\tB\n")
    (directory / "old").write_text("source,target\na,A\n\nb,B\n")
    (directory / "lines").write_text('{"source": "a", "target": "b"}\n')
    prints = [
        open_split(table(directory, format="tsv"), "train"),
        open_split(table(directory), "old"),
        open_split(table(directory, format="jsonl"), "lines"),
        open_split(table(directory, format="text", source="{split}", target="{split}", file=""), "old"),
        open_split(table(directory, format="text", source="", target="{split}", file=""), "old"),
    ]
    assert [source.fingerprint() for source in prints] == [
        "b1d6f1d854f0e5cfbde05841caf82961",
        "2354ca53d3fc92c48cdd65f2844ae473",
        "1dbb4383db8e80295f87ea5208ec31e9",
        "9d1811d2249d14e52ce393d12cb2f251",
        "11e6a938779391462e221c4d79c496f4",
    ]


def test_fields_may_be_longer_than_pythons_limit(directory):
    long = "word " * 50_000
    assert read(directory, f'source,target\n"{long}",x\n'.encode()) == [(long, "x")]


def test_quotes_that_are_not_closed_name_where_the_row_begins(directory):
    with pytest.raises(UserError, match=r"lines 3 to 5: not valid CSV \(unexpected end of data\).*quoting=none"):
        read(directory, b'source,target\na,A\nb,"B\nc,C\nd,D\n')
    assert read(directory, b'source,target\nb,"B\n', quoting="none") == [("b", '"B')]


def test_a_carriage_return_in_a_field_without_quotes_does_not_part_a_row(directory):
    with pytest.raises(UserError, match="line 2: not valid CSV .*A field that holds a line end stands in quotes"):
        read(directory, b"text\none\rtwo\nthree\n", source="", target="text")
    assert read(directory, b'text\n"one\rtwo"\n', source="", target="text") == [("", "one\rtwo")]


def test_columns_may_be_separated_by_anything(directory):
    bars = {"quoting": "none", "separator": " ||| ", "header": False, "source": "0", "target": "1"}
    assert read(directory, b"a ||| A\nb ||| B\n", **bars) == [("a", "A"), ("b", "B")]
    assert read(directory, b"source\ttarget\na\tA\n", separator="\\t") == [("a", "A")]
    with pytest.raises(UserError, match="no column 'source'; .*there are: source;target; config.data.separator says"):
        read(directory, b"source;target\na;A\n")
    with pytest.raises(UserError, match="no column 1; the first row has 1 column, .*; config.data.separator says"):
        read(directory, b"a;A\n", header=False, source="0", target="1")
    for wrong in ({"separator": "||"}, {"separator": '"'}, {"separator": "\n", "quoting": "none"}):
        with pytest.raises(UserError, match="config.data.separator is"):
            table(directory, **wrong)
    with pytest.raises(UserError, match="for tsv and csv"):
        DataConfig(separator=";")


def test_columns_that_are_not_there_or_twice_are_told(directory):
    with pytest.raises(UserError, match="names column 'source' 2 times"):
        read(directory, b"source,source,target\na,b,c\n")
    for number in ("2", "9" * 5000):
        with pytest.raises(UserError, match="no column [29]+; the first row has 2 columns"):
            read(directory, b"a,b\n", header=False, source="0", target=number)


def test_a_template_is_made_of_several_columns_in_every_format(directory):
    import json

    (directory / "train").write_bytes(b"")
    rows = [("gehen", "V;PST", "ging"), ("{sein}", "V", "ist")]
    contents = {
        "tsv": "lemma\tfeatures\tform\n" + "".join("\t".join(row) + "\n" for row in rows),
        "csv": "lemma,features,form\n" + "".join(",".join(row) + "\n" for row in rows),
        "jsonl": "".join(json.dumps(dict(zip(("lemma", "features", "form"), row, strict=True))) + "\n" for row in rows),
    }
    expected = [("{gehen} V;PST", "<ging>"), ("{{sein}} V", "<ist>")]
    for format, content in contents.items():
        fields = {"format": format, "source": "{{{lemma}}} {features}", "target": "<{form}>"}
        assert read(directory, content.encode(), **fields) == expected
    numbered = {"source": "{0} {1}", "target": "2", "header": False, "format": "tsv"}
    assert read(directory, contents["tsv"].encode(), **numbered)[1] == ("gehen V;PST", "ging")
    for wrong in ("{lemma", "lemma}", "{}", "{{lemma}}", "{a{b}}"):
        with pytest.raises(UserError, match="config.data.source is .*expected the name of a field, or text"):
            read(directory, contents["tsv"].encode(), format="tsv", source=wrong, target="form")
    with pytest.raises(UserError, match="no column 'feature'; did you mean 'features'"):
        read(directory, contents["tsv"].encode(), format="tsv", source="{lemma} {feature}", target="form")


def test_one_file_is_parted_by_slices(directory):
    (directory / "pairs.tsv").write_text("source\ttarget\n" + "".join(f"{i}\t{i}\n" for i in range(10)))
    config = table(directory, format="tsv", file="pairs.tsv", train="all[:90%]", validation="all[90%:]")
    assert [len(open_split(config, split)) for split in ("train", "validation", "all[:]")] == [9, 1, 10]
    with pytest.raises(UserError, match="'test' would be the same file as every other split.*validation='all"):
        open_split(config, "test")
    lines = dataclasses.replace(config, format="text", file="", source="pairs.tsv", target="pairs.tsv")
    assert len(open_split(lines, "train")) == 9


@pytest.mark.parametrize("bound", ["9" * 20, "9" * 99, "-" + "9" * 20, "9" * 30 + "%", "-" + "9" * 30 + "%"])
def test_a_slice_may_reach_as_far_as_it_likes(directory, bound):
    (directory / "train").write_text("a\nb\n")
    config = table(directory, format="text", source="{split}", target="{split}", file="")
    for name in (f"train[:{bound}]", f"train[{bound}:]"):
        if name.startswith("train[:") != ("-" in bound):
            assert len(open_split(config, name)) == 2
        else:
            with pytest.raises(UserError, match="has no examples"):
                open_split(config, name)
    with pytest.raises(UserError, match="is no slice"):
        open_split(config, f"train[:{'9' * 5000}]")


def test_paths_that_cannot_be_looked_at_are_told(directory):
    for name in ("x" * 300, "zero\0byte", "file/below"):
        with pytest.raises(UserError):
            open_split(table(directory, format="text", source="{split}", target="{split}", file=""), name)
