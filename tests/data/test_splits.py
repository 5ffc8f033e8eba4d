"""Slices, several pairs of languages, prompts, and text without sources."""

import dataclasses
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from s2sjax.data import splits
from s2sjax.data.config import DataConfig
from s2sjax.data.splits import blank_of, open_split, overlap, prompt_of
from s2sjax.errors import UserError


@pytest.fixture
def directory(tmp_path):
    for language in ("en", "de", "fr"):
        text = "".join(f"{language}{i}\n" for i in range(10))
        (tmp_path / f"train.{language}").write_text(text)
    return tmp_path


def config(directory, **fields) -> DataConfig:
    return DataConfig(dir=str(directory), **{"source": "{split}.en", "target": "{split}.de", **fields})


@pytest.mark.parametrize(
    "name, rows",
    [
        ("train[:30%]", range(3)),
        ("train[30%:]", range(3, 10)),
        ("train[2:4]", range(2, 4)),
        ("train[-3:]", range(7, 10)),
        ("train[:-80%]", range(2)),
        ("train[8:99]", range(8, 10)),
    ],
)
def test_a_slice_is_what_python_and_tfds_say(directory, name, rows):
    source = open_split(config(directory, train=name), "train")
    assert [e["source"] for e in source] == [f"en{i}" for i in rows]
    assert source.fingerprint() != open_split(config(directory), "train").fingerprint()


def test_a_slice_of_a_renamed_split_is_of_what_it_is_called(directory):
    source = open_split(config(directory, test="train"), "test[:2]")
    assert [e["source"] for e in source] == ["en0", "en1"]


def test_a_slice_of_a_slice_is_of_the_slice(directory):
    sliced = config(directory, test="train[1:4]")
    assert [e["source"] for e in open_split(sliced, "test")] == ["en1", "en2", "en3"]
    assert [e["source"] for e in open_split(sliced, "test[1:]")] == ["en2", "en3"]
    assert [e["source"] for e in open_split(sliced, "test[1:][:1]")] == ["en2"]


def test_a_split_without_examples_says_what_it_is_a_slice_of(directory):
    with pytest.raises(UserError, match=r"split 'test' \(config.data.test='train\[90%:95%\]'\) .*slice of \d+ records"):
        open_split(config(directory, test="train[90%:95%]"), "test")


def test_a_slice_that_is_none_or_empty_is_refused(directory):
    with pytest.raises(UserError, match="is no slice"):
        open_split(config(directory, train="train[1:2:3]"), "train")
    with pytest.raises(UserError, match="no examples"):
        open_split(config(directory, train="train[5:5]"), "train")
    with pytest.raises(IndexError):
        open_split(config(directory, train="train[:2]"), "train")[2]


def test_pairs_of_languages_follow_each_other_each_with_its_tag(directory):
    multi = config(
        directory,
        source="{split}.{source_language}",
        target="{split}.{target_language}",
        prompt="<2{target_language}> {source}",
        pairs=("en-de", "fr-en"),
    )
    source = open_split(multi, "train")
    assert len(source) == 20
    assert source[1] == {"source": "<2de> en1", "target": "de1"}
    assert source[12] == {"source": "<2en> fr2", "target": "en2"}
    with pytest.raises(IndexError):
        source[20]
    with pytest.raises(UserError, match="choose one with --config.data.pairs"):
        prompt_of(multi)
    assert prompt_of(dataclasses.replace(multi, pairs=("en-fr",)))("x") == "<2fr> x"
    with pytest.raises(UserError, match="expected languages as in 'en-de'"):
        dataclasses.replace(multi, pairs=("en",))


def test_a_prompt_stands_around_the_source_whatever_the_source_holds(directory):
    prompted = config(directory, prompt="Q: {source}\tA:")
    assert open_split(prompted, "train")[3] == {"source": "Q: en3\tA:", "target": "de3"}
    assert prompt_of(prompted)("a {source} b") == "Q: a {source} b\tA:"
    assert prompt_of(config(directory))("x") == "x"
    assert open_split(prompted, "train").fingerprint() != open_split(config(directory), "train").fingerprint()
    with pytest.raises(UserError, match="expected {source} in it"):
        config(directory, prompt="Translate:")


def test_without_a_source_every_format_gives_targets_alone(directory, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a b"}\n')
    (tmp_path / "x.tsv").write_text("id\ttext\n1\ta b\n")
    (tmp_path / "x.csv").write_text("id,text\n1,a b\n")
    expected = [{"source": "", "target": "a b"}]
    for kind in ("jsonl", "tsv", "csv"):
        data = DataConfig(format=kind, dir=str(tmp_path), file=f"{{split}}.{kind}", source="", target="text")
        assert list(open_split(data, "x")) == expected, kind
    text = open_split(config(directory, source=""), "train")
    assert text[4] == {"source": "", "target": "de4"}


SPACES = st.text(st.sampled_from(" \t\u3000\u2009\x0b"))


@given(before=st.text("ab< "), after=st.text("ab> "), source=st.one_of(SPACES, st.text()))
@example(before="a", after="b", source="")
@example(before="a", after="b", source=" ")
@example(before="", after="", source="\n")
def test_a_source_is_blank_with_its_prompt_where_it_is_without(before, after, source):
    data = DataConfig(prompt=f"{before}{{source}}{after}")
    assert blank_of(data)(prompt_of(data)(source)) == (not source.strip())


def test_a_blank_source_is_blank_in_whatever_languages(directory):
    multi = config(
        directory,
        source="{split}.{source_language}",
        target="{split}.{target_language}",
        prompt="<2{target_language}> {source}",
        pairs=("en-de", "fr-en"),
    )
    (directory / "train.fr").write_text("\n \nfr\n" + "fr\n" * 7)
    assert [i for i, row in enumerate(open_split(multi, "train")) if blank_of(multi)(row["source"])] == [10, 11]


SLICES = ("all", "all[:50%]", "all[50%:]", "all[5:12]", "all[-3:]", "all[:90%][-4:]", "all[7:8]")


@pytest.mark.parametrize("trained, validated", itertools.product(SLICES, SLICES))
@pytest.mark.parametrize("format", ["tsv", "text"])
def test_what_is_trained_on_and_validated_is_counted(tmp_path, format, trained, validated):
    numbers = [str(i) for i in range(20)]
    if format == "tsv":
        (tmp_path / "all.tsv").write_text("s\tt\n" + "".join(f"{n}\t{n}\n" for n in numbers))
        files = {"file": "{split}.tsv", "source": "s", "target": "t"}
    else:
        for side in ("s", "t"):
            (tmp_path / f"all.{side}").write_text("".join(f"{n}\n" for n in numbers))
        files = {"source": "{split}.s", "target": "{split}.t"}
    config = DataConfig(format=format, dir=str(tmp_path), train=trained, validation=validated, **files)
    read, asked = ({row["source"] for row in open_split(config, split)} for split in ("train", "validation"))
    said = overlap(config)
    assert said.startswith(f"warning: {len(read & asked)} of {len(asked)} validation record") == bool(read & asked)
    assert bool(said) == bool(read & asked)


def test_splits_of_several_files_are_not_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "_open_part", lambda *arguments: pytest.fail("opened"))
    assert overlap(DataConfig(dir=str(tmp_path), source="{split}.s", target="{split}.t")) == ""
