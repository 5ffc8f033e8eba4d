"""Several targets for one source: the first is trained on, and all are there to be compared with."""

import json

import pytest

from s2sjax import experiment
from s2sjax.commands import flags
from s2sjax.commands.options import Command, Option
from s2sjax.data.config import DataConfig
from s2sjax.data.splits import open_split
from s2sjax.errors import UserError
from s2sjax.metrics.measure import references_of


def write(directory, split="test", second=("x", "", "z")):
    (directory / f"{split}.en").write_text("a\nb\nc\n")
    for number, lines in enumerate((("A", "B", "C"), second)):
        (directory / f"{split}.de{number}").write_text("".join(f"{line}\n" for line in lines))


TWO = ("{split}.de0", "{split}.de1")


def test_every_row_has_its_references_and_a_blank_one_is_none(tmp_path):
    write(tmp_path)
    config = DataConfig(dir=str(tmp_path), source="{split}.en", target=TWO)
    rows = list(open_split(config, "test"))
    assert [row["target"] for row in rows] == ["A", "B", "C"]
    assert [[*references_of(row)] for row in rows] == [["A", "x"], ["B"], ["C", "z"]]
    single = open_split(DataConfig(dir=str(tmp_path), source="{split}.en", target="{split}.de0"), "test")
    assert [[*references_of(row)] for row in single] == [["A"], ["B"], ["C"]]
    assert single.fingerprint() != open_split(config, "test").fingerprint()


def test_training_reads_the_first_target_alone(tmp_path):
    write(tmp_path, "train")
    config = DataConfig(dir=str(tmp_path), source="{split}.en", target=TWO)
    (tmp_path / "train.de1").unlink()
    first = open_split(DataConfig(dir=str(tmp_path), source="{split}.en", target="{split}.de0"), "train")
    assert open_split(config, "train").fingerprint() == first.fingerprint()
    assert all("references" not in row for row in open_split(config, "train[:2]"))
    write(tmp_path, "test", second=("x",))
    with pytest.raises(UserError, match="line counts differ: .*test.en has 3, .*test.de1 has 1"):
        open_split(config, "test")


@pytest.mark.parametrize("format", ["tsv", "csv"])
def test_columns_are_references(tmp_path, format):
    rows = [("question", "answer1", "answer2"), ("q", "a", "b"), ("r", "c", " ")]
    separator = "\t" if format == "tsv" else ","
    (tmp_path / "test").write_text("".join(separator.join(row) + "\n" for row in rows))
    config = DataConfig(
        format=format, dir=str(tmp_path), file="{split}", source="question", target=("answer1", "{answer2}!")
    )
    assert [[*references_of(row)] for row in open_split(config, "test")] == [["a", "b!"], ["c", " !"]]


def test_a_json_field_may_be_a_list_of_references(tmp_path):
    lines = [{"s": "q", "t": ["a", "b"]}, {"s": "q", "t": "c"}, {"s": "q", "t": ["d"]}]
    (tmp_path / "test").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = DataConfig(format="jsonl", dir=str(tmp_path), file="{split}", source="s", target="t")
    rows = open_split(config, "test")
    assert [[*references_of(row)] for row in rows] == [["a", "b"], ["c"], ["d"]]
    assert [row["target"] for row in rows] == ["a", "c", "d"]
    (tmp_path / "bad").write_text('{"s": ["q"], "t": "a"}\n{"s": ["q", "r"], "t": "a"}\n{"s": "q", "t": []}\n')
    for number, message in ((1, "'s' is a list, expected text"), (2, "'t' is a list, expected text")):
        with pytest.raises(UserError, match=f"line {number + 1}: field {message}"):
            open_split(config, "bad")[number]


def test_a_target_is_a_text_or_several_in_config_files_on_the_command_line_and_in_run_directories(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "from s2sjax.experiment import base_config\n"
        "def get_config(argument=''):\n"
        "    config = base_config()\n"
        "    config.data.target = ('a', 'b') if argument else 'a'\n"
        "    return config\n"
    )
    train = Command("train", "", options=(Option("config", ""), Option("workdir", "")), config="file")
    for argument, override, expected in (
        ("", None, "a"),
        (":two", None, ("a", "b")),
        ("", "('c', 'd')", ("c", "d")),
        (":two", "c", "c"),
        ("", "0", "0"),
        ("", "{0}, {1}", "{0}, {1}"),
    ):
        argv = [f"--config={file}{argument}"] + ([f"--config.data.target={override}"] if override else [])
        values = flags.parse([*argv, f"--workdir={tmp_path}/new"], train)
        found = experiment.resolve(values["config"])
        assert found.data.target == expected
        experiment.save(found, tmp_path / "config.json")
        assert experiment.load(tmp_path / "config.json").data.target == expected
    for wrong in ((), ("a", "a")):
        with pytest.raises(UserError, match="expected one target, or several different ones"):
            DataConfig(target=wrong)
