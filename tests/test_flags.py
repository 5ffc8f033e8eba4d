"""Flags of a command: what they become, what is said of those that are wrong, and that the help names each of them."""

import importlib
import re

import pytest

from s2sjax import flags
from s2sjax.commands import COMMANDS
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment, base_config, resolve, save

HELP = re.split(r"\n\n", flags.USAGE)[1]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run's config: all that flags are read by."""
    workdir = tmp_path_factory.mktemp("flags")
    save(resolve(base_config("hmm")), workdir / "config.json")
    return workdir


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_names_the_options_of_every_command_and_no_others(command, monkeypatch):
    class Asked(Exception):
        """What the command would read its arguments by."""

    def parse(argv, options, *, config_file=False, switches=()):
        raise Asked([*options, *switches, *(["config"] if config_file else [])])

    module = importlib.import_module(f"s2sjax.commands.{command}")
    monkeypatch.setattr(module, "parse", parse)
    with pytest.raises(Asked) as asked:
        module.run([])
    (lines,) = re.findall(rf"^  {command} .*(?:\n   .*)*", HELP, flags=re.MULTILINE)
    assert set(re.findall(r"--(\w+)", lines)) == set(asked.value.args[0])


def test_commands_stand_in_the_help_as_they_are():
    assert sorted(re.findall(r"^  (\w+)", HELP, flags=re.MULTILINE)) == sorted(COMMANDS)


def test_an_override_has_the_type_of_the_value_that_it_replaces(workdir):
    arguments = [
        f"--workdir={workdir}", "--config.decode.beam_size=7", "--config.decode.alpha=1", "--config.data.shuffle=False",
        "--config.decode.forbidden=('a','b')",
    ]  # fmt: skip
    experiment = resolve(flags.parse(arguments, {"workdir": None})["config"])
    assert isinstance(experiment, Experiment)
    assert (experiment.decode.beam_size, experiment.decode.alpha) == (7, 1.0)
    assert experiment.data.shuffle is False and experiment.decode.forbidden == ("a", "b")


def test_what_is_not_given_has_its_default_and_of_several_the_last_counts(workdir):
    options = {"workdir": None, "input": "-", "output": "-"}
    values = flags.parse(["--workdir=none", f"--workdir={workdir}", "--input", "a", "--input=b"], options)
    assert (values["workdir"], values["input"], values["output"]) == (str(workdir), "b", "-")
    assert "config" not in flags.parse(["--input=a"], {"input": "-"}), "no run, no config"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--workdir is missing\n\nusage: "),
        (["--workdir={run}"], "--input is missing\n\nusage: "),
        (["--workdir={run}", "--input=a", "b"], "'b' is not expected: options are written --name=value"),
        (["--workdir={run}", "--input=a", "--config.decode.beamsize=2"], "config.decode.beamsize is not a config key: "
         "did you mean 'beam_size'"),
        (["--workdir={run}", "--input=a", "--config.deocde.beam_size=2"], "config.deocde is not a config key: did you"),
        (["--workdir={run}", "--input=a", "--config.decode.beam_size=two"], "beam_size"),
        (["--workdir={run}", "--inptu=a"], "inptu"),
        (["--workdir={run}/none", "--input=a"], "is not a run directory: it has no config.json"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(workdir, arguments, message):
    with pytest.raises(UserError) as error:
        flags.parse([argument.format(run=workdir) for argument in arguments], {"workdir": None, "input": None})
    assert message in str(error.value)


def test_help_lists_the_config_of_the_run_and_ends_well(workdir, capsys):
    with pytest.raises(SystemExit) as ended:
        flags.parse([f"--workdir={workdir}", "--help"], {"workdir": None, "input": None})
    said = capsys.readouterr().out
    assert ended.value.code == 0 and said.startswith(flags.USAGE) and "beam_size: 5" in said


def test_an_argument_of_a_config_file_is_passed_on_and_the_file_that_is_missing_is_named(tmp_path):
    (tmp_path / "config.py").write_text(
        "from s2sjax.experiment import base_config\n\n\n"
        "def get_config(argument=''):\n    config = base_config('hmm')\n    config.seed = int(argument)\n"
        "    return config\n"
    )
    parse = lambda *argv: flags.parse(list(argv), {"workdir": None}, config_file=True)  # noqa: E731
    new = f"--workdir={tmp_path / 'run'}"
    assert parse(new, f"--config={tmp_path / 'config.py'}:7", "--config.train.steps=3")["config"].seed == 7
    with pytest.raises(UserError, match="--config is missing"):
        parse(new)
    with pytest.raises(UserError, match=r"there is no config file .*none.py; give --config=FILE.py"):
        parse(new, f"--config={tmp_path / 'none.py'}")
