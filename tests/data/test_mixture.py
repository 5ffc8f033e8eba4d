"""Mixtures: what a config may say of the sets, how they are opened, and what is made of each."""

import dataclasses
import json
import re

import numpy as np
import pytest

from s2sjax.data.columns import Column, Examples
from s2sjax.data.config import DataConfig
from s2sjax.data.parts import chosen, parts_of, without_prompt
from s2sjax.data.prepare import prepare
from s2sjax.data.splits import blank_of, open_split, overlap, prompt_of
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.data.windows import Windows, windowed
from s2sjax.errors import UserError
from s2sjax.experiment import load, save
from tests.tiny import tiny


@pytest.fixture
def directory(tmp_path):
    """A set of text, and one of JSON lines elsewhere."""
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    for split, count in (("train", 6), ("validation", 2)):
        for side in "st":
            (tmp_path / "x" / f"{split}.{side}").write_text("".join(f"{side}{i}\n" for i in range(count)))
        lines = [json.dumps({"in": f"in{i}", "out": f"out{i}"}) for i in range(2 * count)]
        (tmp_path / "y" / f"{split}.jsonl").write_text("\n".join(lines))
    return tmp_path


def mixture(directory, **more):
    y = {"format": "jsonl", "dir": str(directory / "y"), "file": "{split}.jsonl", "source": "in", "target": "out"}
    values = {"dir": str(directory / "x"), "source": "{split}.s", "target": "{split}.t", "prompt": "<x> {source}"}
    sets = {"x": {}, "y": {**y, "prompt": "<y> {source}"}}
    return DataConfig(**values | {"mixture": sets, "cache_dir": str(directory / "cache")} | more)


def test_sets_of_different_formats_follow_each_other_each_with_its_prompt(directory):
    data = mixture(directory)
    source = open_split(data, "train")
    assert source.parts == {"x": 6, "y": 12} and len(source) == 18
    assert source[1] == {"source": "<x> s1", "target": "t1"}
    assert source[7] == {"source": "<y> in1", "target": "out1"}
    with pytest.raises(UserError, match=re.escape("choose one with --config.data.sets=\"('x',)\"")):
        prompt_of(data)
    assert prompt_of(chosen(data, "y"))("a") == "<y> a"
    assert blank_of(data)("<x> ") and blank_of(data)("<y>  ") and not blank_of(data)("<z> ")
    assert open_split(without_prompt(data), "train")[7]["source"] == "in1"
    alone = open_split(chosen(data, "y"), "train")
    assert not alone.parts and list(alone) == [source[i] for i in range(6, 18)]


def test_the_order_in_which_sets_are_written_down_is_of_no_account(directory, tmp_path):
    """A saved config has its keys sorted, and a run that goes on by it is to have the same data."""
    data = mixture(directory)
    turned = dataclasses.replace(data, mixture=dict(reversed(data.mixture.items())))
    chosen_both = dataclasses.replace(data, sets=("y", "x"))
    prints = {open_split(each, "train").fingerprint() for each in (data, turned, chosen_both)}
    assert len(prints) == 1 and list(turned.mixture) == ["x", "y"]
    sets = {"b": {"target": ("{split}.t", "{split}.s")}, "a": {}}
    before = tiny(directory / "x", data__mixture=sets, evaluate__decode=False)
    save(before, tmp_path / "config.json")
    after = load(tmp_path / "config.json")
    assert after.data.mixture == before.data.mixture and list(parts_of(after.data)) == list(parts_of(before.data))


def test_a_slice_is_one_of_each_set_and_unreadable_records_count_for_theirs(directory):
    assert open_split(mixture(directory), "train[:50%]").parts == {"x": 3, "y": 6}
    path = directory / "y" / "train.jsonl"
    path.write_text(path.read_text().replace('{"in": "in3"', '{"in: "in3"').replace('{"in": "in0"', "{"))
    source = open_split(mixture(directory, max_bad_records=2), "train")
    assert source.parts == {"x": 6, "y": 10}
    assert source[6]["target"] == "out1" and source[5]["target"] == "t5"


@pytest.mark.parametrize("values, said", [
    ({"mixture": {"a/b": {}, "c": {}}}, "a set called 'a/b'; expected letters and digits"),
    ({"mixture": {"..": {}, "c": {}}}, "a set called '..'"),
    ({"mixture": {"": {}}}, "a set called ''"),
    ({"mixture": {3: {}}}, "a set called 3"),
    ({"mixture": {"a": {"weight": 0}, "b": {"weight": 1}}}, "config.data.mixture.a.weight is 0, but must be above 0"),
    ({"mixture": {"a": {"weight": -1.5}}}, "config.data.mixture.a.weight is -1.5, but must be above 0"),
    ({"mixture": {"a": {"weight": "2"}}}, "config.data.mixture.a.weight is '2', but a number was expected"),
    ({"mixture": {"a": {"weight": float("nan")}}}, "config.data.mixture.a.weight is nan"),
    ({"mixture": {"a": {"weight": 1}, "b": {}}}, "gives 'a' a weight and 'b' none"),
    ({"mixture": {"a": {"dri": "x"}}}, "config.data.mixture.a.dri is nothing that a set has of its own: did you mean"),
    ({"mixture": {"a": {"batch_tokens": 1}}}, "mixture.a.batch_tokens is nothing that a set has of its own"),
    ({"mixture": {"a": {"dir": 3}}}, "config.data.mixture.a.dir is 3, but a text was expected"),
    ({"mixture": {"a": 3}}, "config.data.mixture.a is 3, but a mapping was expected"),
    ({"mixture": {"a": {"format": "txt"}}}, "set 'a' of config.data.mixture: config.data.format is 'txt'"),
    ({"mixture": {"a": {"prompt": "x"}}}, "set 'a' of config.data.mixture: config.data.prompt is 'x'"),
    ({"mixture": {"a": {"source": ""}}}, "config.data.mixture.a has no source"),
    ({"mixture": {"a": {}}, "sets": ("b",)}, "config.data.sets holds 'b': known: a"),
    ({"mixture": {"a": {}}, "sets": ("a", "a")}, "config.data.sets holds a name twice"),
    ({"mixture_temperature": 2.0}, "there is no config.data.mixture"),
    ({"mixture": {"a": {}}, "mixture_temperature": 0.5}, "mixture_temperature is 0.5, but must be at least 1"),
    ({"mixture": {"a": {"weight": 1}}, "mixture_temperature": 2.0}, "its sets have weights; leave it out"),
    ({"mixture": {"a": {}}, "pairs": ("a-b",), "source": "{source_language}", "target": "{target_language}"},
     "config.data.mixture and config.data.pairs are both set"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_a_sentence(values, said):
    with pytest.raises(UserError) as error:
        parts_of(DataConfig(**values))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_set_that_is_missing_or_empty_is_named(directory):
    data = mixture(directory)
    (directory / "y" / "train.jsonl").write_text("\n")
    with pytest.raises(UserError, match="set 'y' of config.data.mixture: split 'train' has no examples"):
        open_split(data, "train")
    (directory / "y" / "train.jsonl").unlink()
    with pytest.raises(UserError, match="set 'y' of config.data.mixture: no file for split 'train'"):
        open_split(data, "train")


def test_one_vocabulary_is_learned_over_all_sets(directory):
    """Of a mixture by size, as of one set; the shares of others are part of what it is known by."""
    words = TokenizerConfig(kind="word")
    plain = prepare(mixture(directory), words).tokenizers.source
    warm = prepare(mixture(directory, mixture_temperature=9.0), words).tokenizers.source
    for tokenizer in (plain, warm):
        assert all(len(ids) == 2 and 3 not in ids for ids in tokenizer.encode(["<x> s5", "<y> in11", "t0 out3"]))
    assert len(list((directory / "cache").glob("tokenizer-*"))) == 2
    split = prepare(mixture(directory), words).splits["validation"]
    assert split.parts == {"x": 2, "y": 4}


def test_records_that_are_trained_on_too_are_found_in_each_set(directory):
    data = mixture(directory)
    sets = {"x": data.mixture["x"], "y": data.mixture["y"] | {"train": "train[:8]", "validation": "train[6:]"}}
    assert "2 of 6 validation records are trained on too" in overlap(dataclasses.replace(data, mixture=sets))


def test_no_window_of_joined_texts_reaches_from_one_set_into_the_next():
    offsets = np.arange(0, 31, 3)
    empty = Column(np.zeros(0, np.int32), np.zeros(11, np.int64))
    split = Examples.of_pairs(empty, Column(np.arange(30, dtype=np.int32), offsets), parts={"a": 4, "b": 6})
    joined = Windows(context=5, join=True)
    found = windowed(split, joined)
    rows = [found["target"][i].tolist() for i in range(len(found))]
    assert rows[:3] == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11]] and rows[3] == [12, 13, 14, 15, 16]
    assert found.parts == {"a": 3, "b": len(rows) - 3}
    alone = [windowed(split.part(*ends), joined) for ends in ((0, 4), (4, 10))]
    assert rows == [each["target"][i].tolist() for each in alone for i in range(len(each))]
    assert np.concatenate([each.given for each in alone]).tolist() == found.given.tolist()


def test_the_parts_of_equal_configs_are_made_once():
    """Of 60,000 pairs of languages that takes seconds, and commands ask for them up to fourteen times."""
    values = {
        "pairs": tuple(f"a{i}-b{i}" for i in range(3)),
        "source": "{source_language}",
        "target": "{target_language}",
    }
    found = parts_of(DataConfig(**values))
    assert parts_of(DataConfig(**values)) is found and [*found] == ["a0-b0", "a1-b1", "a2-b2"]
    mixed = DataConfig(mixture={"a": {"weight": 1}})
    assert parts_of(DataConfig(mixture={"a": {"weight": 1}})) is parts_of(mixed)
    with pytest.raises(UserError, match="weight is True"):  # which is equal to 1
        parts_of(DataConfig(mixture={"a": {"weight": True}}))
    for shared in (found, parts_of(mixed)):
        with pytest.raises(TypeError):  # whoever changed what is kept would change it for all
            shared["b"] = mixed
    assert hash(mixed) == hash(DataConfig(mixture={"b": {}})) and mixed != DataConfig(mixture={"b": {}})
