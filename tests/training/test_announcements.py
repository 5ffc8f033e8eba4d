"""What a run says at its end: which checkpoint is used, and commands that can be typed as they stand."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.commands import flags
from s2sjax.commands.table import COMMANDS
from s2sjax.experiment import override, resolve
from s2sjax.learning.optim import OptimizerConfig, make_schedule
from s2sjax.training.announcements import next_commands, rescheduled
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


PAIRS = {"source": "{split}.{source_language}", "target": "{split}.{target_language}", "pairs": ("en-de", "de-en")}


@pytest.mark.parametrize(
    "values, key, name",
    [(PAIRS, "pairs", "en-de"), ({"mixture": {"one": {"prompt": "1 {source}"}, "two": {}}}, "sets", "one")],
)
def test_what_to_type_next_chooses_one_of_several_pairs_of_languages_or_sets(experiment, tmp_path, values, key, name):
    data = dataclasses.replace(experiment.data, **values)
    several = dataclasses.replace(experiment, data=data)
    write_run(tmp_path / "run", several, {1: (random_state(experiment, 0), {"loss": 1.0})})
    text = next_commands(tmp_path / "run", several, CheckpointReader(tmp_path / "run" / "checkpoints"))
    (decode,) = (shlex.split(line) for line in text.splitlines() if "s2sjax decode" in line)
    (given,) = (argument for argument in decode if argument.startswith("--config."))
    workdir = f"--workdir={tmp_path / 'run'}"
    chosen = resolve(flags.parse([workdir, given], COMMANDS["decode"])["config"])
    assert getattr(chosen.data, key) == (name,)


def test_of_equal_checkpoints_the_end_names_the_newest_and_says_why(experiment, tmp_path):
    state = random_state(experiment, 0)
    write_run(tmp_path / "run", experiment, {step: (state, {"loss": loss}) for step, loss in ((1, 2), (2, 1), (3, 1))})
    text = next_commands(tmp_path / "run", experiment, CheckpointReader(tmp_path / "run" / "checkpoints"))
    assert text.startswith("best checkpoint: step 3 (the newest of equals: 2, 3), validation loss 1.0000; newest: step")


def resumed(schedule, before, now, start):
    """What is said where a run with this schedule goes on from a step with another number of steps."""
    base = tiny(Path(), "hmm", optimizer__schedule=schedule, optimizer__warmup_steps=10)
    held, asked = (override(base, {"train.steps": steps}) for steps in (before, now))
    return list(rescheduled(held, asked, start))


@pytest.mark.parametrize("schedule", dataclasses.fields(OptimizerConfig)[2].metadata["choices"])
@pytest.mark.parametrize("before, now", [(100, 200), (200, 100)])
def test_another_number_of_steps_that_changes_the_learning_rate_is_told_and_no_other(schedule, before, now):
    config = OptimizerConfig(learning_rate=1e-2, schedule=schedule, warmup_steps=10)
    rates = [[float(make_schedule(config, steps)(step)) for step in range(90, 200)] for steps in (before, now)]
    told = resumed(schedule, before, now, 90)
    assert bool(told) == (rates[0] != rates[1])
    if told:
        first = [f"{rate[0]:.3g}" for rate in rates]
        assert f"train.steps was {before} and is {now}" in told[0] and f"schedule={schedule}" in told[0]
        assert f"falls until step {now}, no longer until step {before}; at step 91 it is {first[1]}," in told[0]
        assert told[0].endswith(f"would have been {first[0]}")


def test_the_same_steps_and_a_first_start_are_no_news():
    assert not resumed("cosine", 100, 100, 50) and not list(rescheduled(None, tiny(Path(), "hmm"), 0))


def test_without_validation_nothing_is_best(experiment, tmp_path):
    write_run(tmp_path / "run", experiment, {5: (random_state(experiment, 0), {})})
    text = next_commands(tmp_path / "run", experiment, CheckpointReader(tmp_path / "run" / "checkpoints"))
    assert text.startswith("next:\n")
