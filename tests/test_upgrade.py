"""What earlier versions wrote, and users still write: configs, flags and calls with keys by their old names."""

import copy
import dataclasses
import doctest
import json
import pickle
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from s2sjax import tasks, upgrade
from s2sjax.commands import flags
from s2sjax.commands.config_file import read_config_file
from s2sjax.commands.reference import config_keys
from s2sjax.commands.table import COMMANDS
from s2sjax.config_dict import Config
from s2sjax.errors import UserError
from s2sjax.experiment import as_json, base_config, config_dict, from_json, load, override, resolve, save
from s2sjax.runs import home
from s2sjax.runs.assembly import check_changes
from s2sjax.runs.workdir import check_workdir
from s2sjax.tasks.language import Language
from s2sjax.tasks.text import TARGET_ORDERS, Text
from s2sjax.upgrade import MOVED, VERSION, current_key, moved_from
from tests.config_files import config_names, config_of
from tests.tiny import s2s, tiny

KEYS = {key.name for key in config_keys()}
OLDS = [old for moved in MOVED.values() for old in moved]
OTHERS = {
    "join": (False, True), "context": (0, 64), "stride": (0, 8), "keep_line_ends": (False, True),
    "target_order": ("left_to_right", "right_to_left"),
}  # fmt: skip
"""Keys that some tasks have, each with its default and another value."""


def earlier(values, version):
    """The JSON that a config of today had in an earlier version."""
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    if version < 3:  # then every config had the keys of all tasks
        values["task"] = {**tasks.settings("task"), **values["task"]}
        values["decode"] = {**json.loads(json.dumps(tasks.settings("decode"))), **values["decode"]}
    for since in sorted(MOVED, reverse=True):
        for old, new in MOVED[since].items() if since > version else ():
            (old_section, old_name), (section, name) = old.split("."), new.split(".")
            values.setdefault(old_section, {})[old_name] = values[section].pop(name)
    numbered = values if version == 1 else values | {"version": version}
    return {key: value for key, value in numbered.items() if value != {} and (key != "version" or version > 1)}


@pytest.fixture
def said(caplog):
    """What is said of old names, as if nothing of the kind had been said in this process."""
    upgrade.say_moved.cache_clear()
    return lambda: [record.getMessage() for record in caplog.records if record.name == "s2sjax.upgrade"]


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(upgrade).failed == 0


def test_old_names_are_of_no_key_of_today_and_lead_to_one():
    assert [*MOVED] == [*range(2, VERSION + 1)]
    assert len(set(OLDS)) == len(OLDS)
    for old in OLDS:
        assert old not in KEYS and current_key(old) in KEYS
    assert all(current_key(key) == key for key in KEYS)


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_every_config_is_read_from_the_json_of_every_version(version, said):
    for name in config_names():
        experiment = resolve(config_of(name))
        values = json.loads(json.dumps(as_json(experiment)))
        assert values["version"] == VERSION
        before = earlier(values, version)
        held = copy.deepcopy(before)
        assert from_json(before) == experiment and before == held
    assert said() == [], "nobody wrote these names"


@pytest.mark.parametrize("version", [VERSION + 1, 10**40, 0, -1, 1.0, True, "2", None, [1], {}])
def test_a_version_that_is_not_known_is_refused_in_one_sentence(version, tmp_path, capsys):
    save(resolve(base_config("hmm")), tmp_path / "config.json")
    values = json.loads((tmp_path / "config.json").read_text()) | {"version": version}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert s2s("decode", f"--workdir={tmp_path}") == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text.startswith(f"s2sjax: {tmp_path}/config.json is ")
    if version != 10**40:  # JSON of ours has no number of more than 64 bits
        assert f"this s2sjax reads versions 1 to {VERSION}" in text


@pytest.mark.parametrize("change, message", [
    ({"data": {"batch_tokens": 1}, "batching": {"tokens": 1}}, "config.data.batch_tokens and config.batching.tokens"),
    ({"data": 5}, "config.data is 5"),
    ({"data": {"batch_tokens": 1}, "batching": 3}, "config.batching is 3|config.data.batch_tokens is not a config key"),
    ({"data": {"batch_tokens": "x"}}, "config.batching.tokens is 'x'"),
    ({"data": {"batch_tokens": 0}}, "config.batching.tokens is 0, but must be at least 1"),
])  # fmt: skip
def test_what_is_wrong_in_the_json_of_an_earlier_version_is_a_sentence(change, message):
    values = earlier(config_dict(resolve(base_config("hmm"))).to_dict(), 1)
    with pytest.raises(UserError, match=message):
        from_json(values | change)


def test_a_run_of_version_1_is_ones_own_and_goes_on_as_it_was(tmp_path, said):
    """Both records are as they were written then."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    experiment = tiny(tmp_path / "data", "hmm", batching__tokens=96, data__cache_dir="")
    save(experiment, workdir / "config.json")
    home.record(workdir, experiment)
    record = json.loads((workdir / home.RECORD).read_text())
    record["config"] = earlier(record["config"], 1)
    (workdir / home.RECORD).write_text(json.dumps(record))
    values = earlier(json.loads((workdir / "config.json").read_text()), 1)
    assert values["data"]["batch_tokens"] == 96 and not {"version", "batching"} & values.keys()
    (workdir / "config.json").write_text(json.dumps(values))
    assert load(workdir / "config.json") == experiment
    assert home.is_home(workdir, experiment)
    assert check_workdir(experiment, workdir) == experiment
    with pytest.raises(UserError, match="another config: config.batching.tokens was 96 and is 64. Use"):
        check_workdir(override(experiment, {"batching.tokens": 64}), workdir)
    record["config"]["data"]["batch_tokens"] = 97
    (workdir / home.RECORD).write_text(json.dumps(record))
    assert not home.is_home(workdir, experiment)
    assert home.is_home(workdir, experiment, ["data.batch_tokens"])
    shutil.rmtree(workdir)
    assert said() == []


def ways_to_set(config):
    config.data.batch_tokens = 96
    config.data["pack_length"] = 33
    config.data.update(max_source_length=50, dir="there")
    config.update({"data": {"max_target_length": 51}})
    config.update_from_flattened_dict({"data.buckets": 3})
    with config.unlocked():
        config.data.length_multiple = 2
    config.data.row_multiple = config.data.get_ref("length_multiple")
    if isinstance(config, Config):
        config.data = config.data.to_dict()
    config.data.shuffle = not config.data.get("shuffle")


@pytest.mark.parametrize("way", [
    lambda config: config, copy.deepcopy, ConfigDict.copy_and_resolve_references, ConfigDict,
    lambda config: pickle.loads(pickle.dumps(config)),
], ids=["itself", "deepcopy", "copy", "shallow", "pickle"])  # fmt: skip
def test_a_config_takes_keys_by_their_old_names(way, said):
    config = way(base_config("hmm"))
    assert config == base_config("hmm") and base_config("hmm") == config and config.is_locked
    ways_to_set(config)
    config.data.batch_tokens += 1
    batching, data = config.batching, config.data
    assert (batching.tokens, batching.pack_length, batching.buckets, batching.shuffle) == (97, 33, 3, False)
    assert (batching.max_source_length, batching.max_target_length, batching.row_multiple) == (50, 51, 2)
    assert data.dir == "there" and data.batch_tokens == 97
    assert not {old.partition(".")[2] for old in OLDS} & {*data}
    assert config != base_config("hmm")
    resolve(config)
    assert len(said()) == len(set(said())) == 8, "each once"
    assert said()[0].startswith("config.data.batch_tokens is now config.batching.tokens; the old name still works")


def test_types_and_typos_are_seen_through_old_names():
    config = base_config("hmm")
    with pytest.raises(TypeError, match="tokens"):
        config.data.batch_tokens = "many"
    for section, key in ((config.data, "batch_token"), (config.model, "batch_tokens"), (config, "batch_tokens")):
        with pytest.raises(AttributeError, match="does not exist"):
            setattr(section, key, 3)
        with pytest.raises(AttributeError):
            getattr(section, key)


def test_a_config_without_the_alias_is_resolved_by_its_old_names(said):
    values = earlier(base_config("hmm").to_dict(), 1)
    values["data"]["batch_tokens"] = 96
    for config in (values, ConfigDict(values)):
        assert resolve(config).batching.tokens == 96
    assert len(said()) == len(OLDS)
    with pytest.raises(UserError, match="config.data.batch_tokens and config.batching.tokens are one key"):
        resolve(base_config("hmm").to_dict() | {"data": {"batch_tokens": 3}})


def test_flags_and_config_files_have_keys_by_their_old_names(tmp_path, said):
    file = tmp_path / "config.py"
    file.write_text(
        "from s2sjax.experiment import base_config\n\n\ndef get_config(argument=''):\n"
        "    config = base_config('hmm')\n    config.data.batch_tokens = 96\n"
        "    setattr(config.data, argument or 'batching', 'pack')\n    return config\n"
    )
    argv = [f"--config={file}", "--workdir=x", "--config.data.pack_length", "33", "--noconfig.data.shuffle"]
    values = flags.parse([*argv, "-config.data.buckets=3"], COMMANDS["train"])
    batching = resolve(values["config"]).batching
    assert (batching.kind, batching.tokens, batching.pack_length, batching.buckets) == ("pack", 96, 33, 3)
    assert batching.shuffle is False and len(said()) == 5
    save(resolve(values["config"]), tmp_path / "config.json")
    values = flags.parse([f"--workdir={tmp_path}", "--config.data.batch_tokens=64"], COMMANDS["decode"])
    assert values["said"] == {"batching.tokens"} or values["said"] == {"config.batching.tokens"}
    assert "batching.tokens=64 " in flags.help_for(
        [f"--workdir={tmp_path}", "--config.data.batch_tokens=64"], COMMANDS["decode"], "data.batch_tokens"
    )
    with pytest.raises(UserError, match=r"line 7: batch_tokns is not a config key: did you mean 'config.batching.tok"):
        read_config_file(f"{file}:batch_tokns")


@pytest.mark.parametrize("argument, meant", [
    ("--config.data.batch_tokns=1", "'config.batching.tokens'"),
    ("--config.data.pakc_length=1", "'config.batching.pack_length'"),
    ("--config.batch_tokens=1", "'config.batching.tokens'"),
    ("--batch_tokens=1", "'config.batching.tokens'"),
    ("--config.data.dri=1", "'dir'"),
])  # fmt: skip
def test_a_typo_of_an_old_name_is_told_todays(argument, meant, tmp_path):
    save(resolve(base_config("hmm")), tmp_path / "config.json")
    with pytest.raises(UserError, match=f"did you mean {meant}"):
        flags.parse([f"--workdir={tmp_path}", argument], COMMANDS["decode"])


def test_changes_in_python_have_keys_by_their_old_names(tmp_path, said):
    experiment = resolve(base_config("hmm"))
    check_changes(["data.batch_tokens", "config.batching.tokens"], tmp_path)
    for key in ("data.batch_tokens", "config.data.batch_tokens"):
        assert override(experiment, {key: 96}, section="decode").batching.tokens == 96
    assert home.keys(["config.data.batch_tokens", "batching.tokens", "beam_size"]) == {
        "batching.tokens", "decode.beam_size",
    }  # fmt: skip
    assert len(said()) == 1
    with pytest.raises(UserError, match="config.data.batch_tokns is not a config key: did you mean 'config.batching.t"):
        override(experiment, {"data.batch_tokns": 96})
    with pytest.raises(UserError, match="config.data.batch_tokns is not a config key: did you mean 'config.batching.t"):
        resolve({"model": {"name": "hmm"}, "data": {"batch_tokns": 96}})


LANGUAGE = [("join", True), ("context", 64), ("stride", 8), ("keep_line_ends", True)]


@given(st.permutations([*LANGUAGE, ("source", "")]), st.lists(st.booleans(), min_size=5, max_size=5))
def test_keys_of_a_task_may_be_set_by_either_name_before_it_is_known_which_task_it_is(settings, by_old_name):
    config = base_config("causal_lm")
    config.evaluate.decode = False
    assert config.data.context == config.task.context == 0 and "context" not in config.task
    for (key, value), old in zip(settings, by_old_name, strict=True):
        config["data" if old or key == "source" else "task"][key] = value
    assert resolve(config).task == Language(**dict(LANGUAGE))
    assert {*config_dict(resolve(config)).task} == {"name", *dict(LANGUAGE)}, "and its keys alone are shown"


@st.composite
def chosen(draw):
    """A task, and any values of its fields that it accepts."""
    name = draw(st.sampled_from(tasks.names()))
    if name == "text":
        return name, {"target_order": draw(st.sampled_from(TARGET_ORDERS))}
    if name == "language" and (context := draw(st.sampled_from((0, 2, 64, 256)))):
        joined = draw(st.booleans())
        ends = joined and draw(st.booleans())
        stride = draw(st.integers(0, context - 1))
        return name, {"context": context, "stride": stride, "join": joined, "keep_line_ends": ends}
    return name, {}


def experiment_of(name, settings):
    config = base_config({"tagging": "encoder", "classification": "rnn_seq2seq"}.get(name, "causal_lm"), name)
    config.task.update(settings)
    return resolve(config)


@given(chosen(), st.integers(1, VERSION))
def test_an_experiment_of_any_task_comes_back_from_every_version(task, version):
    experiment = experiment_of(*task)
    before = earlier(json.loads(json.dumps(as_json(experiment))), version)
    assert from_json(before) == experiment
    if experiment.task == Language() and version < 3:
        assert from_json(before | {"task": {"name": "text"}}) == experiment, "what it was before there were tasks"


@given(chosen(), st.sampled_from(sorted(OTHERS)), st.integers(1, VERSION))
def test_a_key_of_another_task_is_refused_unless_it_has_its_default(task, key, version):
    experiment = experiment_of(*task)
    own, (default, other) = experiment.task, OTHERS[key]
    values = json.loads(json.dumps(as_json(experiment)))
    for value, wrong in ((default, False), (other, True), ([], True)):
        before = earlier(values, version)
        section = before["data"] if version < 3 else before.setdefault("task", {})
        section[key] = value
        if key in {field.name for field in dataclasses.fields(own)}:
            continue
        if not wrong:
            assert from_json(before) == experiment
            continue
        with pytest.raises(UserError, match=f"config.task.{key} is ") as told:
            from_json(before)
        assert "\n" not in str(told.value)
        if value == other:
            (owner,) = tasks.with_setting("task", key)
            assert f"a key of the task {owner.name}, and config.task.name is '{own.name}'" in str(told.value)


def test_tasks_agree_on_the_defaults_of_keys_that_they_share():
    for name in tasks.names():
        for section in tasks.SECTIONS:
            for field in dataclasses.fields(tasks.section_of(tasks.named(name), section)):
                assert tasks.settings(section)[field.name] == field.default
                assert tasks.named(name) in tasks.with_setting(section, field.name)
    assert tasks.with_setting("data", "batch_size") == () and not tasks.settings("data")


@pytest.mark.parametrize("name", ["classification", "tagging"])
def test_settings_of_a_search_have_no_effect_on_labels_and_that_is_said_to_whoever_wrote_them(name, tmp_path, caplog):
    experiment = experiment_of(name, {})
    shown = {*config_dict(experiment).decode}
    assert shown - {"nbest"} == {"ensemble", "batch_size", "precision", "checkpoint"}
    assert ("nbest" in shown) == (name == "classification")
    values = json.loads(json.dumps(as_json(experiment)))
    for version in range(1, VERSION):
        before = earlier(values, version)
        before["decode"] |= {"beam_size": 3, "alpha": 0.0, "method": "sample", "batch_size": 7}
        assert from_json(before) == override(experiment, {"decode.batch_size": 7})
    assert not caplog.records, "nobody wrote that now"
    config = config_dict(experiment)
    config.decode.beam_size, config.decode.alpha = 3, config.decode.alpha
    assert resolve(config) == override(experiment, {"beam_size": 3}, section="decode") == experiment
    (record,) = caplog.records
    assert f"config.decode.beam_size is 3, but the predictions of {name} are not searched" in record.getMessage()
    save(experiment, tmp_path / "config.json")
    parsed = flags.parse([f"--workdir={tmp_path}", "--config.decode.beam_size=3"], COMMANDS["decode"])
    assert resolve(parsed["config"]) == experiment
    for wrong, why in (("beam_sise", "is not a config key"), ("beam_size", "is 'x', but a whole number was expected")):
        with pytest.raises(UserError, match=f"config.decode.{wrong} {why}"):
            override(experiment, {f"decode.{wrong}": "x"})
    assert "decode.batch_size" in (text := flags.help_for([f"--workdir={tmp_path}"], COMMANDS["decode"], "decode."))
    assert "beam_size" not in text


@pytest.mark.parametrize("arguments", [
    ["--config.data.context=64", "--config.data.source=", "--config.data.join=True"],
    ["--config.data.source=", "--config.task.join=True", "--config.task.context=64"],
    ["--config.task.context=64", "--config.task.join", "--config.task.name=language", "--config.data.source="],
])  # fmt: skip
def test_the_command_line_may_choose_the_task_and_set_its_keys(arguments, tmp_path, said):
    file = tmp_path / "config.py"
    file.write_text(
        "from s2sjax.experiment import base_config\n\n\ndef get_config():\n    config = base_config('causal_lm')\n"
        "    config.evaluate.decode = False\n    return config\n"
    )
    read = lambda *more: resolve(flags.parse([f"--config={file}", "--workdir=x", *more], COMMANDS["train"])["config"])  # noqa: E731
    assert read(*arguments).task == Language(join=True, context=64)
    assert len(said()) == sum("data.context" in a or "data.join" in a for a in arguments)
    assert read("--config.data.context=0", "--config.task.join=False", "--config.evaluate.decode").task == Text()
    with pytest.raises(UserError, match="config.task.context is 64, but it is a key of the task language"):
        read("--config.task.context=64")
    with pytest.raises(UserError, match="right_to_left', .* is 'language' .config.data.source is empty.: leave it out"):
        read("--config.task.target_order=right_to_left", "--config.data.source=")
    with pytest.raises(UserError, match="did you mean 'config.task.context'"):
        read("--config.data.contxt=64")
    save(read(*arguments), tmp_path / "config.json")
    shown = flags.help_for([f"--workdir={tmp_path}"], COMMANDS["inspect"], "task.")
    assert "task.context=64  (whole number; default 0)" in shown and "target_order" not in shown
    assert "Most tokens of an example" in shown


def test_advice_knows_the_old_names_of_a_section_or_of_all():
    assert moved_from("data")["batching"] == "config.batching.kind" and moved_from("model") == {}
    assert moved_from().keys() == {old.partition(".")[2] for old in OLDS}
