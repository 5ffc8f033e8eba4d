"""`s2sjax checkpoints`: what it lists is what decoding chooses by."""

import json
import math
import shutil

import pytest

from s2sjax.checkpoints.manifest import seal
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.cli import run_command
from s2sjax.runs.loading import load
from tests.hostile import forbid
from tests.tiny import random_state, tiny, write_run, write_text

SCORES = {10: {"loss": 2.0, "bleu": 9.0}, 20: {"loss": 1.5, "bleu": 7.0}, 30: {"loss": 1.75, "bleu": math.nan}, 40: {}}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    place = tmp_path_factory.mktemp("checkpoints")
    experiment = tiny(write_text(place / "data"), "hmm", evaluate__decode=True, checkpoint__keep_last=9)
    state = random_state(experiment, 0)
    return write_run(place / "run", experiment, {step: (state, scores) for step, scores in SCORES.items()})


def listed(capsys, workdir, *arguments):
    with pytest.raises(SystemExit) as stopped:
        run_command(["checkpoints", f"--workdir={workdir}", *arguments])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_the_listing_has_every_checkpoint_with_its_scores_and_marks(workdir, capsys):
    found = json.loads(listed(capsys, workdir, "--format=json"))
    assert [entry["step"] for entry in found["checkpoints"]] == [10, 20, 30, 40] and found["damaged"] == []
    assert found["checkpoints"][1]["metrics"] == SCORES[20] and found["checkpoints"][2]["metrics"]["bleu"] is None
    assert all(entry["bytes"] > 1000 and entry["time"].endswith("Z") for entry in found["checkpoints"])
    marks = {mark: [e["step"] for e in found["checkpoints"] if e[mark]] for mark in ("best", "newest", "used")}
    assert marks == {"best": [20], "newest": [40], "used": [20]}


@pytest.mark.parametrize(
    "settings", [{}, {"checkpoint.metric": "bleu"}, {"decode.checkpoint": "last"}, {"decode.checkpoint": "30"}]
)
def test_the_one_that_is_marked_as_used_is_the_one_that_loading_takes(workdir, capsys, settings):
    arguments = [f"--config.{key}={value}" for key, value in settings.items()]
    found = json.loads(listed(capsys, workdir, "--format=json", *arguments))
    sections = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        sections[section] = {name: value}
    from s2sjax import experiment as experiments

    values = experiments.config_dict(experiments.load(workdir / "config.json")).to_dict()
    for section, changed in sections.items():
        values[section] |= changed
    assert found["used"] == load(workdir, experiment=experiments.resolve(values)).step


def test_the_table_shows_the_same(workdir, capsys):
    lines = listed(capsys, workdir).splitlines()
    assert lines[0].split() == ["step", "saved", "(UTC)", "MB", "loss", "bleu"]
    assert lines[2].endswith("1.5000  7.0000  best, used") and lines[4].endswith("-       newest")
    assert "decode and evaluate use step 20" in lines[-1]


def test_where_no_checkpoint_has_the_metric_none_is_called_the_best(workdir, capsys):
    out = listed(capsys, workdir, "--config.checkpoint.metric=ter")
    assert out.splitlines()[-1].startswith("no checkpoint has config.checkpoint.metric=ter, so none is best; decode")


def test_a_step_that_is_not_there_is_not_said_to_be_used(workdir, capsys):
    asked = "--config.decode.checkpoint=25"
    found = json.loads(listed(capsys, workdir, "--format=json", asked))
    assert found["used"] is None and not any(entry["used"] for entry in found["checkpoints"])
    assert listed(capsys, workdir, asked).endswith(
        "decode and evaluate refuse config.decode.checkpoint=25: it is not there\n"
    )


def test_what_a_training_deletes_meanwhile_is_passed_over_and_links_are_damage(workdir, tmp_path, capsys, monkeypatch):
    run = shutil.copytree(workdir, tmp_path / "run")
    steps = CheckpointReader.steps

    def before_two_go(reader):
        found = steps(reader)
        shutil.rmtree(run / "checkpoints" / "20", ignore_errors=True)
        for file in (run / "checkpoints" / "10").rglob("*"):  # half of it
            if file.is_file() and file.name != "manifest.json":
                file.unlink()
        (run / "checkpoints" / "10").rename(run / "checkpoints" / "tmp-10-old")
        monkeypatch.undo()
        return found

    (run / "checkpoints" / "40" / "state" / "more").symlink_to(tmp_path)
    monkeypatch.setattr(CheckpointReader, "steps", before_two_go)
    found = json.loads(listed(capsys, run, "--format=json"))
    assert [entry["step"] for entry in found["checkpoints"]] == [30] and found["damaged"] == [40]
    assert found["used"] == 30 and found["checkpoints"][0]["best"] and found["checkpoints"][0]["newest"]


def test_a_run_without_checkpoints_and_one_with_a_damaged_one_are_told(workdir, tmp_path, capsys):
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "20" / "manifest.json").write_text("{")
    out = listed(capsys, tmp_path / "run")
    assert "damaged, and passed over: 20" in out and "use step 30" in out
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert "has no checkpoint yet" in listed(capsys, tmp_path / "run")


@pytest.mark.parametrize("command", ["checkpoints", "decode"])
def test_checkpoints_that_may_not_be_read_are_a_message(workdir, capsys, monkeypatch, command):
    forbid(monkeypatch, "checkpoints")
    with pytest.raises(SystemExit) as stopped:
        run_command([command, f"--workdir={workdir}"])
    _, err = capsys.readouterr()
    assert stopped.value.code == 2 and f"cannot read {workdir / 'checkpoints'}: Permission denied" in err


def test_names_of_metrics_do_not_steer_the_terminal(workdir, tmp_path, capsys):
    copy = shutil.copytree(workdir, tmp_path / "run")
    manifest = copy / "checkpoints" / "40" / "manifest.json"
    body = json.loads(manifest.read_text())["body"]
    manifest.unlink()
    seal(manifest.parent, body | {"metrics": {"\x1b]0;owned\x07\nFAKE": 1.0}})
    out = listed(capsys, copy)
    assert "\ufffd]0;owned\ufffd\ufffdFAKE" in out and "\x1b" not in out and "\x07" not in out
