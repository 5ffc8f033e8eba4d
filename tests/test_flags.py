"""Flags of a command: what they become, and what is said of those that are wrong."""

import dataclasses

import pytest

from s2sjax import flags
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment, base_config, resolve, save
from s2sjax.options import Command, Option

RUN = Command(
    "decode", "", options=(Option("workdir", "", default=None), Option("input", "", default=None)), config="run"
)
TRAIN = Command("train", "", options=(Option("config", ""), Option("workdir", "", default=None)), config="file")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run's config: all that flags are read by."""
    workdir = tmp_path_factory.mktemp("flags")
    save(resolve(base_config("hmm")), workdir / "config.json")
    return workdir


def test_an_override_has_the_type_of_the_value_that_it_replaces(workdir):
    arguments = [
        f"--workdir={workdir}", "--input=a", "--config.decode.beam_size=7", "--config.decode.alpha=1",
        "--config.data.shuffle=False", "--config.decode.forbidden=('a','b')",
    ]  # fmt: skip
    experiment = resolve(flags.parse(arguments, RUN)["config"])
    assert isinstance(experiment, Experiment)
    assert (experiment.decode.beam_size, experiment.decode.alpha) == (7, 1.0)
    assert experiment.data.shuffle is False and experiment.decode.forbidden == ("a", "b")


def test_what_is_not_given_has_its_default_and_of_several_the_last_counts(workdir):
    options = (*RUN.options, Option("output", "", default="-"), Option("fast", "", switch=True))
    command = dataclasses.replace(RUN, options=options)
    values = flags.parse(["--workdir=none", f"--workdir={workdir}", "--input", "a", "--input=b"], command)
    assert (values["workdir"], values["input"], values["output"]) == (str(workdir), "b", "-")
    assert values["fast"] is False
    alone = Command("rerank", "", options=(Option("input", "", default="-"),))
    assert flags.parse(["--input=a"], alone) == {"input": "a", "given": {"input"}}, "no run, no config"
    assert flags.parse(["--input="], alone)["given"] == {"input"} and not flags.parse([], alone)["given"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--workdir is missing (s2sjax decode --help explains)"),
        (["--workdir={run}"], "--input is missing (s2sjax decode --help explains)"),
        (["--workdir={run}", "--input=a", "b"], "'b' is not expected: options are written --name=value"),
        (["--workdir={run}", "--input=a", "--config.decode.beamsize=2"], "config.decode.beamsize is not a config key: "
         "did you mean 'beam_size'"),
        (["--workdir={run}", "--input=a", "--config.deocde.beam_size=2"], "config.deocde is not a config key: did you"),
        (["--workdir={run}", "--input=a", "--config.decode.beam_size=two"], "beam_size"),
        (["--workdir={run}", "--inptu=a"], "inptu"),
        (["--workdir={run}", "--input=a", "--config.beam_size=2"], "did you mean 'config.decode.beam_size'?"),
        (["--workdir={run}", "--input=a", "--config.decode.steps=2"], "did you mean 'config.train.steps'?"),
        (["--workdir={run}", "--input=a", "--beam_size=2"], "is no option: did you mean 'config.decode.beam_size'?"),
        (["{run}"], "is not expected: options are written --name=value, and a run directory is --workdir=DIR"),
        (["--workdir={run}/none", "--input=a"], "is not a run directory: it has no config.json"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(workdir, arguments, message):
    with pytest.raises(UserError) as error:
        flags.parse([argument.format(run=workdir) for argument in arguments], RUN)
    assert message in str(error.value)


def test_an_argument_of_a_config_file_is_passed_on_and_the_file_that_is_missing_is_named(tmp_path):
    (tmp_path / "config.py").write_text(
        "from s2sjax.experiment import base_config\n\n\n"
        "def get_config(argument=''):\n    config = base_config('hmm')\n    config.seed = int(argument)\n"
        "    return config\n"
    )
    parse = lambda *argv: flags.parse(list(argv), TRAIN)  # noqa: E731
    new = f"--workdir={tmp_path / 'run'}"
    assert parse(new, f"--config={tmp_path / 'config.py'}:7", "--config.train.steps=3")["config"].seed == 7
    with pytest.raises(UserError, match="--config is missing"):
        parse(new)
    with pytest.raises(UserError, match=r"there is no config file .*none.py; give --config=FILE.py"):
        parse(new, f"--config={tmp_path / 'none.py'}")
