"""What a run says at its end: which checkpoint is used, and commands that can be typed as they stand."""

import shlex

import pytest

from s2sjax.announcements import next_commands
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.commands.table import COMMANDS
from tests.tiny import random_state, tiny, write_run, write_text


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return tiny(write_text(tmp_path_factory.mktemp("data")), "hmm")


def test_the_end_names_the_best_checkpoint_the_pictures_and_what_to_type(experiment, tmp_path):
    state = random_state(experiment, 0)
    scores = {10: {"loss": 2.0}, 20: {"loss": 1.0}, 30: {"loss": 1.5}}
    workdir = tmp_path / "a run's"
    write_run(workdir, experiment, {step: (state, metrics) for step, metrics in scores.items()})
    (workdir / "plots").mkdir()
    for name in ("learning_curves.png", "notes.txt"):
        (workdir / "plots" / name).touch()
    lines = next_commands(workdir, experiment, CheckpointReader(workdir / "checkpoints")).splitlines()
    assert lines[0] == "best checkpoint: step 20, validation loss 1.0000; newest: step 30"
    assert lines[1] == f"pictures: learning_curves.png in {workdir}/plots"
    commands = [shlex.split(line) for line in lines[lines.index("next:") + 1 :]]
    for program, command, *arguments in commands:
        assert program == "s2sjax" and arguments[0] == f"--workdir={workdir}"
        options = {option.name for option in COMMANDS[command].options}
        assert {argument[2:].partition("=")[0] for argument in arguments} <= options
    assert [command for _, command, *_ in commands] == ["evaluate", "decode", "checkpoints"]


def test_of_equal_checkpoints_the_end_names_the_newest_and_says_why(experiment, tmp_path):
    state = random_state(experiment, 0)
    write_run(tmp_path / "run", experiment, {step: (state, {"loss": loss}) for step, loss in ((1, 2), (2, 1), (3, 1))})
    text = next_commands(tmp_path / "run", experiment, CheckpointReader(tmp_path / "run" / "checkpoints"))
    assert text.startswith("best checkpoint: step 3 (the newest of equals: 2, 3), validation loss 1.0000; newest: step")


def test_without_validation_nothing_is_best(experiment, tmp_path):
    write_run(tmp_path / "run", experiment, {5: (random_state(experiment, 0), {})})
    text = next_commands(tmp_path / "run", experiment, CheckpointReader(tmp_path / "run" / "checkpoints"))
    assert text.startswith("next:\n")
