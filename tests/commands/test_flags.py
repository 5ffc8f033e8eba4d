"""Flags of a command: what they become, and what is said of those that are wrong."""

import dataclasses
import re

import pytest

from s2sjax.commands import flags
from s2sjax.commands.options import Command, Option
from s2sjax.commands.reference import config_keys
from s2sjax.commands.table import COMMANDS
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment, base_config, resolve, save

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
        "--config.batching.shuffle=False", "--config.decode.forbidden=('a','b')",
    ]  # fmt: skip
    experiment = resolve(flags.parse(arguments, RUN)["config"])
    assert isinstance(experiment, Experiment)
    assert (experiment.decode.beam_size, experiment.decode.alpha) == (7, 1.0)
    assert experiment.batching.shuffle is False and experiment.decode.forbidden == ("a", "b")


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


GARBAGE = (
    "", "two", "1e5", "-1", "3.5", "None", "maybe", "(1,", "('a', 'b')", "{}", "[]", "0x10", "nan", "inf", "1" * 30,
    "9" * 5000, "a\nb", "é", "((((", "--x", "lambda: 1", "$HOME", "a" * 300,
)  # fmt: skip
RAW = re.compile(
    r"Errno|invalid literal|could not convert|base 10|Traceback|Non-boolean|object at 0x|<class|ConfigDict:|Error\b|"
    r"\b(int|str|float|bool|NoneType|dict)\b"
)
"""What only Python's own messages have."""


def said_of(arguments, command):
    """What is said of a command line; empty if it is understood."""
    try:
        values = flags.parse(arguments, command)
        if "config" in values:
            resolve(values["config"])
    except UserError as error:
        return str(error)
    return ""


KEYS = {key.name: (key.type, bool(key.choices)) for key in config_keys() if key.owner in ("", "hmm", "text")}
ONE_OF_EACH_TYPE = [*{kind: name for name, kind in KEYS.items()}.values()]


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=[] if key in ONE_OF_EACH_TYPE else pytest.mark.slow) for key in KEYS]
)
def test_whatever_a_config_key_is_given_is_taken_or_refused_in_our_words(workdir, key):
    for value in GARBAGE:
        said = said_of([f"--workdir={workdir}", "--input=a", f"--config.{key}={value}"], RUN)
        known = said.partition("known: ")[0].replace(repr(value), "").replace(value or " ", "")
        assert not said or (not RAW.search(known) and key.rpartition(".")[2] in said and len(said) < 1200), said


@pytest.mark.parametrize("name", COMMANDS)
def test_whatever_an_option_is_given_is_taken_or_refused_in_our_words(workdir, name):
    command = COMMANDS[name]
    needed = [f"--{option.name}=x" for option in command.options if option.default is None]
    needed += [f"--workdir={workdir}"] * (command.config != "none")
    refused = 0
    for option in (*command.options, Option("nonsense", ""), Option("flagfile", ""), Option("undefok", "")):
        for value in (None, *GARBAGE[::5]):
            words = [*needed, f"--{option.name}" if value is None else f"--{option.name}={value}"]
            said = said_of(words, command)
            refused += bool(said)
            assert not said or (not RAW.search(said) and len(said) < 6000), said
            if said and option.name != "workdir":
                assert f"--{option.name}" in said or "there is no config file" in said, said
    assert refused > 3 * len(GARBAGE[::5])


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--config.seed=two", "--config.seed is 'two', but a whole number was expected"),
        ("--config.decode.alpha=two", "--config.decode.alpha is 'two', but a number was expected"),
        ("--config.batching.shuffle=maybe", "--config.batching.shuffle is 'maybe', but True or False was expected"),
        ("--config.decode.forbidden=(1,", "--config.decode.forbidden is '(1,', but a tuple, as in \"('a', 'b')\", was"),
        ("--config.seed=" + "9" * 5000, "but a smaller number was expected"),
        ("--config.seed=9223372036854775808", "but a number of at most 9,223,372,036,854,775,807 was expected"),
        ("--config.decode=3", "config.decode is a section of the config: set its keys, such as config.decode."),
        ("--config=x.py", "--config is for train and inspect, and decode takes the config of the run in --workdir"),
        ("--config.model.name=gnmt", "config.model.name is 'gnmt', but the other keys of config.model are those of"),
        ("--inptu=a", "--inptu is no option: did you mean 'input'?"),
        ("--input", "--input has no value: write --input=VALUE"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_what_was_expected(workdir, argument, message):
    assert message in said_of([f"--workdir={workdir}", "--input=a", argument], RUN)


@pytest.mark.parametrize(
    "content, message",
    [
        ("def get_config(:\n", ", line 1: SyntaxError: invalid syntax"),
        ("x = 1\n", " has no function get_config"),
        ("import nosuchmodule\n", ", line 1: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("def get_config():\n    return 3\n", " returns 3, but a ConfigDict was expected"),
        ("def get_config():\n    open('/none/x')\n", ", line 2: FileNotFoundError: No such file or directory: /none/x"),
        ("def get_config():\n    return {}['a']\n", ", line 2: KeyError: 'a'"),
        ("def get_config(x):\n    return 3\n", ": TypeError: get_config() missing 1 required positional argument: 'x'"),
        ("from s2sjax.experiment import base_config\ndef get_config():\n    c = base_config('hmm')\n"
         "    c.decode.beam_sizes = 3\n", ", line 4: beam_sizes is not a config key: did you mean 'beam_size'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_config_file_is_said_with_its_line(tmp_path, content, message):
    path = tmp_path / "config.py"
    path.write_text(content)
    said = said_of([f"--workdir={tmp_path / 'run'}", f"--config={path}", "--config.train.steps=3"], TRAIN)
    assert f"config file {path}{message}" in said and "\n" not in said


def test_an_argument_for_a_config_file_that_takes_none_is_refused(tmp_path):
    (tmp_path / "config.py").write_text("def get_config():\n    return 3\n")
    said = said_of([f"--workdir={tmp_path / 'run'}", f"--config={tmp_path / 'config.py'}:small"], TRAIN)
    assert "config.py has no variants: leave out what follows it, ':small'" in said


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
    with pytest.raises(UserError, match=r"there is no config file .*none.py'; give --config=FILE.py"):
        parse(new, f"--config={tmp_path / 'none.py'}")
