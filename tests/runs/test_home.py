"""What a run directory asks for is obeyed where it was made, and has to be said again where it was brought."""

import contextlib
import functools
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import s2sjax
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.data.columns import Column, Examples
from s2sjax.data.prepare import Prepared, fingerprint
from s2sjax.data.splits import open_split
from s2sjax.data.tokenizer import TokenizerPair, check_given, given_tokenizers
from s2sjax.data.tokenizer import save as save_tokenizers
from s2sjax.data.tokenizer_config import TokenizerConfig
from s2sjax.data.units import CharTokenizer
from s2sjax.errors import UserError
from s2sjax.experiment import load, save
from s2sjax.files import rundir
from s2sjax.processes import distributed, jax_settings
from s2sjax.reporting import events
from s2sjax.runs import home
from s2sjax.runs.workdir import claim_workdir
from tests.hostile import within
from tests.tiny import LETTERS, tiny, write_text


@pytest.fixture
def run(tmp_path):
    """A run directory as training leaves it, with a second copy, but without checkpoints."""
    workdir = tmp_path / "runs" / "mine"
    workdir.mkdir(parents=True)
    made(workdir)
    return workdir


def made(workdir, **overrides):
    """Write a config into a run directory as training does."""
    save(experiment := config_of(workdir, **overrides), workdir / "config.json")
    home.record(workdir, experiment)


def config_of(workdir, **overrides):
    return tiny(workdir.parent / "data", **({"checkpoint__copy_to": "s3://bucket"} | overrides))


def ours(workdir):
    return functools.partial(home.is_home, workdir, load(workdir / "config.json"))


def reasons(workdir, *said, **overrides):
    """What is not done unasked."""
    experiment, own = config_of(workdir, **overrides), ours(workdir)
    return home.unasked_data(workdir, experiment.data, said, own), home.unasked_copy(workdir, experiment, said, own)


def copied(workdir, to):
    return shutil.copytree(workdir, to)


def unpacked(workdir, to):
    subprocess.run(["tar", "-C", workdir, "-cf", f"{to}.tar", "."], check=True)
    to.mkdir()
    subprocess.run(["tar", "-C", to, "-xpf", f"{to}.tar"], check=True)
    return to


def test_a_run_of_ones_own_is_asked_nothing(run, tmp_path):
    assert reasons(run) == ("", "")
    (tmp_path / "link").symlink_to(run)
    assert reasons(tmp_path / "link") == ("", "")
    assert reasons(run, data__source="/etc/{split}") == ("", "")


def test_a_run_that_was_moved_reads_its_data_and_asks_before_it_sends(run, tmp_path):
    run.rename(tmp_path / "moved")
    data, copy = reasons(tmp_path / "moved")
    assert data == "" and "--config.checkpoint.copy_to=s3://bucket" in copy


@pytest.mark.parametrize("bring", [copied, unpacked])
def test_a_run_that_was_brought_asks_for_both(run, tmp_path, bring):
    brought = bring(run, tmp_path / "brought")
    data, copy = reasons(brought)
    assert f"--config.data.dir='{tmp_path}/data'" in data.replace("/runs/data", "/data") or "--config.data.dir=" in data
    assert "--config.checkpoint.copy_to=s3://bucket" in copy
    assert reasons(brought, "data.dir", "checkpoint.copy_to") == ("", "")
    assert reasons(brought, "data.dir", checkpoint__copy_to="") == ("", "")
    with pytest.raises(UserError, match="made elsewhere"):
        home.check(brought, tiny(tmp_path), ())
    made(brought)  # as training does once it was said
    assert reasons(brought) == ("", "")


def test_python_trains_a_run_that_was_brought_only_as_the_command_does(run, tmp_path, monkeypatch):
    brought = copied(run, tmp_path / "brought")
    monkeypatch.setattr(jax_settings, "keep_compiled_programs", lambda: None)  # a setting of the whole process
    for changes in ({}, {"data.dir": str(tmp_path)}, {"config.checkpoint.copy_to": ""}):
        with pytest.raises(UserError, match="made elsewhere"):
            s2sjax.train(None, brought, **changes)
    with pytest.raises(UserError, match=f"{tmp_path}/nothing does not exist"):  # what was said is looked for
        s2sjax.train(None, brought, **{"config.data.dir": f"{tmp_path}/nothing", "checkpoint.copy_to": ""})


def test_models_of_tokenizers_that_a_run_which_was_brought_names_are_not_read_unasked(run, tmp_path):
    brought = copied(run, tmp_path / "brought")
    values = {"tokenizer__kind": "bpe", "tokenizer__source_model": "/dev/zero", "checkpoint__copy_to": ""}
    experiment = tiny(tmp_path, **values)
    with pytest.raises(UserError, match="--config.tokenizer.source_model='?/dev/zero"):
        home.check(brought, experiment, ["data.dir"])
    home.check(brought, experiment, ["data.dir", "tokenizer.source_model"])
    made(run, **values)
    home.check(run, config_of(run, **values), ())


@pytest.mark.parametrize("kind", ["fifo", "device", "large", "folder"])
def test_a_model_of_a_tokenizer_is_a_file_of_sane_size(tmp_path, monkeypatch, kind):
    model = Path("/dev/zero") if kind == "device" else tmp_path / "model"
    match kind:
        case "fifo":
            os.mkfifo(model)
        case "large":
            model.touch()
            os.truncate(model, rundir.LARGEST + 1)
        case "folder":
            model.mkdir()
    config = TokenizerConfig(kind="bpe", source_model=str(model))
    with within(10), pytest.raises(UserError, match="cannot read config.tokenizer.source_model="):
        given_tokenizers(config)
    tokenizer = CharTokenizer(LETTERS)
    with within(10):
        check_given(config, TokenizerPair(tokenizer, tokenizer))  # as if it had moved: the run has a copy


def test_a_run_with_nothing_left_to_do_keeps_its_config_and_stays_somebody_elses(run, tmp_path, monkeypatch):
    brought = copied(run, tmp_path / "brought")
    tokenizer = CharTokenizer(LETTERS)
    split = Examples({"target": Column.from_rows([])}, "fingerprint")
    prepared = Prepared(TokenizerPair(tokenizer, tokenizer), {"train": split})
    strangers = (brought / "config.json").read_text()
    mine = tiny(tmp_path / "data")
    for latest, config, is_home in ((10**9, strangers, False), (0, None, True)):
        monkeypatch.setattr(CheckpointReader, "latest_step", lambda self, latest=latest: latest)
        claim_workdir(mine, brought, prepared)
        assert home.is_home(brought, load(brought / "config.json")) == is_home
        assert ((brought / "config.json").read_text() == config) == (not is_home)


@pytest.mark.parametrize("value", ["s3://x/$(touch x)", "a'; touch x; '", "a b", "`x`", "\x1b[2Jx", "x\ny", "\u202ex"])
def test_advice_is_one_option_to_a_shell_and_shows_all_that_is_in_it(run, tmp_path, value):
    brought = copied(run, tmp_path / "brought")
    options = {"data__dir": value, "data__test": f"../{value}", "checkpoint__copy_to": value}
    data, copy = reasons(brought, **options)
    models = home.unasked_models(brought, TokenizerConfig(source_model=value), (), ours(brought))
    shown = "".join(c if c.isprintable() else "\ufffd" for c in value)
    assert all(each.isprintable() for each in (data, copy, models))
    given = {word for each in (data, copy, models) for word in shlex.split(each[each.index("--config") :])}
    expected = {f"--config.data.dir={shown}", f"--config.data.test=../{shown}"}
    assert expected <= given
    assert {f"--config.checkpoint.copy_to={shown},", f"--config.tokenizer.source_model={shown}."} <= given


def test_process_0_decides_for_all(run, tmp_path, monkeypatch):
    """The directory's number may be another on another host."""
    brought, told = copied(run, tmp_path / "brought"), []
    monkeypatch.setattr(distributed, "shared", lambda items: told.append(items) or [items[0] if items else told[0]])
    experiment = config_of(run)
    for number, workdir, decided in ((0, run, ""), (1, brought, ""), (1, run, "made elsewhere")):
        monkeypatch.setattr(distributed, "index", lambda number=number: number)
        told[:] = [decided]
        for check in (
            lambda workdir=workdir: home.check(workdir, experiment, ()),
            lambda workdir=workdir: home.check_data(workdir, experiment.data, experiment, ()),
        ):
            with pytest.raises(UserError, match=decided) if decided else contextlib.nullcontext():
                check()
        assert told[1:] == [[""] if number == 0 else None] * 2


def test_keys_that_are_said_may_have_config_before_them(run, tmp_path):
    brought = copied(run, tmp_path / "brought")
    assert reasons(brought, "config.data.dir", "config.checkpoint.copy_to") == ("", "")


def test_what_leads_out_of_the_directory_of_the_data_is_said_too(run, tmp_path):
    brought = copied(run, tmp_path / "brought")
    for name, value in (
        ("source", "/etc/{split}"),
        ("target", "../x/{split}"),
        ("test", "../secret"),
        ("source", "~/x"),
    ):
        data, _ = reasons(brought, "data.dir", **{f"data__{name}": value})
        assert f"--config.data.{name}={shlex.quote(value)}" in data and "data.dir=" not in data
        assert reasons(brought, "data.dir", f"data.{name}", **{f"data__{name}": value})[0] == ""
    assert reasons(brought, data__format="phrases", data__source="source", data__target="target")[0] == ""


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (
            {"pairs": ("..-secret",), "source": "{source_language}/x", "target": "{target_language}"},
            {"source", "pairs"},
        ),
        (
            {"pairs": (".-secret",), "source": "a", "target": ".{source_language}/{target_language}"},
            {"target", "pairs"},
        ),
        (
            {"test": "./secret", "source": ".{split}", "target": "{split}.tgt"},
            {"source", "train", "validation", "test"},
        ),
        ({"train": ".[:9]", "target": ("x", ".{split}/secret")}, {"target", "train", "validation", "test"}),
    ],
)
def test_what_leads_out_only_when_it_is_put_together_is_said_too(run, tmp_path, values, named):
    brought = copied(run, tmp_path / "brought")
    values = {f"data__{name}": value for name, value in values.items()}
    data, _ = reasons(brought, "data.dir", **values)
    assert {each for each in vars(tiny(tmp_path).data) if f"--config.data.{each}=" in data} == named
    assert reasons(brought, "data.dir", *(f"data.{name}" for name in named), **values)[0] == ""


def test_every_set_of_a_mixture_is_asked_for_by_itself(run, tmp_path):
    brought = copied(run, tmp_path / "brought")
    sets = {"a": {"dir": "/etc"}, "b": {"source": "../{split}"}, "c": {"format": "phrases"}}
    data, _ = reasons(brought, "data.dir", data__mixture=sets)
    assert "--config.data.mixture.a.dir=/etc" in data and "--config.data.mixture.b.source='../{split}'" in data
    assert "mixture.c" not in data and "data.dir=" not in data
    for said in (("data.mixture.a.dir", "data.mixture.b.source"), ("data.mixture",)):
        assert reasons(brought, "data.dir", *said, data__mixture=sets)[0] == ""
    assert "--config.data.dir=" in reasons(brought, "data.mixture", data__mixture=sets)[0]
    made(run, data__mixture=sets)
    assert reasons(run, data__mixture=sets) == ("", "")


def test_a_language_of_a_pair_is_no_path(tmp_path):
    with pytest.raises(UserError, match="expected languages as in 'en-de'"):
        tiny(tmp_path, data__pairs=("../a-b",), data__source="{source_language}", data__target="{target_language}")


def test_data_that_has_the_hash_of_the_runs_is_not_read_unasked_either(run, tmp_path):
    """A stranger knows the hash of what stands on every machine, and asks for another split of that directory."""
    brought = copied(run, tmp_path / "brought")
    data = tiny(write_text(tmp_path / "data")).data
    pair = TokenizerPair(tokenizer := CharTokenizer(LETTERS), tokenizer)
    save_tokenizers(pair, brought / "tokenizer")
    known = {split: fingerprint(open_split(data, split), pair) for split in ("validation", "train")}
    rundir.write(brought, "data.json", json.dumps(known).encode())
    assert "--config.data.dir=" in reasons(brought)[0]


def test_a_record_that_is_replaced_while_it_is_read_does_not_help(run, tmp_path, monkeypatch):
    brought = copied(run, tmp_path / "brought")
    valid = json.dumps({"inode": os.stat(brought).st_ino, "path": str(brought)}).encode()
    fstat, own = os.fstat, ours(brought)

    def replaced_after(handle):
        found = fstat(handle)
        monkeypatch.setattr(os, "fstat", fstat)
        (tmp_path / "next").write_bytes(valid)
        os.replace(tmp_path / "next", brought / home.RECORD)
        return found

    monkeypatch.setattr(os, "fstat", replaced_after)
    assert not own()


def test_a_record_that_was_brought_along_or_is_another_users_does_not_help(run, tmp_path, monkeypatch):
    brought = copied(run, tmp_path / "brought")
    for content in (
        b"",
        b"[]",
        b'{"inode": "1"}',
        b"[" * 9999,
        json.dumps({"inode": 1, "path": str(brought)}).encode(),
    ):
        rundir.write(brought, home.RECORD, content)
        assert all(reasons(brought))
    os.unlink(brought / home.RECORD)
    (brought / home.RECORD).symlink_to(run / home.RECORD)
    with pytest.raises(UserError, match="is a link"):
        reasons(brought)
    somebody = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody)
    assert all(reasons(run))


def test_a_run_from_before_there_was_a_record_says_both_again_once(run):
    os.unlink(run / home.RECORD)
    with events.Ledger(run / events.NAME, lambda text: None) as ledger:
        ledger.add("start")  # a stranger can write that, too
    assert all(reasons(run))
    made(run)  # as training does once it was said
    assert reasons(run) == ("", "")


@pytest.mark.parametrize(
    "edit",
    [
        {"checkpoint__copy_to": "s3://evil"},
        {"data__dir": "/etc"},
        {"data__format": "tfds", "data__name": "x"},
        {"decode__beam_size": 200},
        {"tokenizer__symbol_pattern": "(a|a)*b"},
    ],
)
def test_a_config_that_somebody_else_edited_is_not_obeyed(run, edit):
    """As whoever shares a group with the user may, in a directory that the group can write to."""
    os.chmod(run, 0o770)
    assert reasons(run) == ("", "")
    experiment = config_of(run, **edit)
    save(experiment, run / "config.json")
    assert all(reasons(run, **edit))
    with pytest.raises(UserError, match="its config was edited"):
        home.check(run, experiment, ())
    home.check(run, experiment, [*edit, "data.dir", "checkpoint.copy_to", "tokenizer.symbol_pattern"])
    # The same values, of the user's own mouth.
    home.check(run, experiment, [key.replace("__", ".") for key in edit])


def test_what_the_user_says_does_not_make_a_run_somebody_elses(run):
    experiment = config_of(run, train__steps=99, decode__beam_size=7, data__cache_dir="/elsewhere")
    assert home.is_home(run, experiment, ["config.train.steps", "decode.beam_size"])
    assert not home.is_home(run, experiment, ["config.train.steps"])


@pytest.mark.parametrize("mode, counts", [(0o700, True), (0o755, True), (0o775, False), (0o757, False)])
def test_a_record_from_before_it_held_the_config_counts_where_only_the_user_writes(run, mode, counts):
    def forget():
        values = json.loads((run / home.RECORD).read_text())
        del values["config"]
        (run / home.RECORD).write_text(json.dumps(values))

    forget()
    os.chmod(run / "config.json", 0o644)
    os.chmod(run, mode)
    assert (reasons(run) == ("", "")) == counts
    os.chmod(run, 0o755)
    os.chmod(run / "config.json", mode)
    assert (reasons(run) == ("", "")) == counts


@pytest.mark.parametrize("config", [None, [], {}, {"model": 1}, {"model": {"name": "transformer", "layers": 10**400}}])
def test_a_record_whose_config_is_none_does_not_count(run, config):
    values = json.loads((run / home.RECORD).read_text()) | {"config": config}
    (run / home.RECORD).write_text(json.dumps(values))
    assert all(reasons(run))


def test_a_regular_expression_of_a_run_that_was_brought_is_neither_compiled_nor_matched_unasked(run, tmp_path):
    slow = "(?i:" + "[\0-\U0010ffff]" * 4000 + ")"  # which takes half a minute to compile
    brought = copied(run, tmp_path / "brought")
    for pattern in (slow, "(a|a)*b", "("):
        with within(5):
            experiment = config_of(run, tokenizer__symbol_pattern=pattern, checkpoint__copy_to="")
            save(experiment, brought / "config.json")
            load(brought / "config.json")
            with pytest.raises(UserError, match="--config.tokenizer.symbol_pattern="):
                home.check(brought, experiment, ["data.dir"])
            home.check(brought, experiment, ["data.dir", "tokenizer.symbol_pattern"])
    rundir.write(brought, "data.json", b"{}")  # a run that has begun has its vocabulary
    home.check(brought, experiment, ["data.dir"])


def test_more_layers_than_a_model_has_are_not_made_unasked(run, tmp_path):
    brought = copied(run, tmp_path / "brought")
    said = ["data.dir"]
    for sizes, refused in (({"encoder_layers": 200, "decoder_layers": 57}, True), ({"encoder_layers": 255}, False)):
        overrides = {f"model__{name}": value for name, value in sizes.items()}
        experiment = config_of(run, checkpoint__copy_to="", **overrides)
        with (
            pytest.raises(UserError, match="encoder_layers=200 .*decoder_layers=57")
            if refused
            else contextlib.nullcontext()
        ):
            home.check(brought, experiment, said)
        save(experiment, brought / "config.json")
        with pytest.raises(UserError, match="encoder_layers=200") if refused else contextlib.nullcontext():
            home.check_costs(brought, experiment, experiment, said)
        home.check_costs(brought, experiment, experiment, [f"model.{name}" for name in sizes])
        home.record(brought, experiment)
        home.check_costs(brought, experiment, experiment, said)
