"""Help: every option and every config key is explained, by the classes and tables that decide what is accepted."""

import dataclasses
import inspect
import math
import re
import subprocess
import sys
import typing

import pytest

from s2sjax import models, tasks
from s2sjax.cli import run_command
from s2sjax.commands.flags import help_for
from s2sjax.commands.helptext import overview
from s2sjax.commands.reference import attributes, config_keys, sections
from s2sjax.commands.table import COMMANDS
from s2sjax.config import build
from s2sjax.decode.beam_config import BeamConfig
from s2sjax.decode.sampling import SampleConfig
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment, base_config, config_dict, resolve, save
from s2sjax.inference.decoding import DecodeConfig, LabelConfig, PassConfig
from s2sjax.inference.risk import UTILITIES

HINTS = typing.get_type_hints(Experiment)
SECTIONS = {name: HINTS[name] for name in HINTS if dataclasses.is_dataclass(HINTS[name])}
NAMES = {"model.name", "task.name"}
"""Keys that decide which others their sections have."""
TASKS = {name: tasks.named(name) for name in tasks.names()}
SHARED = {field.name for field in dataclasses.fields(PassConfig)}
"""Keys of `decode` that all tasks have."""
FAMILIES = {name: models.family(name).Config for name in models.families()}
OF_TASKS = [*TASKS.values(), PassConfig, LabelConfig, DecodeConfig]
CONFIGS = [*SECTIONS.values(), *FAMILIES.values(), *OF_TASKS, BeamConfig, SampleConfig]


@pytest.mark.parametrize("cls", CONFIGS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_field_is_documented_and_nothing_else_is(cls):
    found: dict[str, str] = {}
    for base in cls.__mro__[:-1]:
        found |= attributes(inspect.cleandoc(base.__doc__ or ""))
    assert set(found) == {field.name for field in dataclasses.fields(cls)}
    assert not [name for name, text in found.items() if len(text) < 5]


def test_keys_read_from_the_source_are_those_of_the_classes():
    expected = {("seed", "", 0, ())}
    for section, cls, owner in [
        *((section, cls, "") for section, cls in SECTIONS.items()), *(("model", c, f) for f, c in FAMILIES.items()),
        *(("task", c, t) for t, c in TASKS.items()), *(("decode", c.decode, t) for t, c in TASKS.items()),
    ]:  # fmt: skip
        for field in dataclasses.fields(cls):
            default = field.default if field.default_factory is dataclasses.MISSING else repr(field.default_factory())
            having = "" if section == "decode" and field.name in SHARED else owner
            expected.add((f"{section}.{field.name}", having, default, field.metadata.get("choices", ())))
    found = {(key.name, key.owner, key.default, key.choices) for key in config_keys() if key.name not in NAMES}
    assert found == expected
    (name,) = (key for key in config_keys() if key.name == "model.name")
    assert name.choices == models.families() and name.default == base_config().model.name
    (name,) = (key for key in config_keys() if key.name == "task.name")
    assert name.choices == tasks.names() and name.default == base_config().task.name
    assert all(key.meaning for key in config_keys()) and set(sections()) == {*SECTIONS, "model", *tasks.SECTIONS}


@pytest.mark.parametrize("key", [key for key in config_keys() if key.choices and key.name not in NAMES],
                         ids=lambda key: f"{key.owner or key.name}-{key.name}")  # fmt: skip
def test_choices_in_help_are_those_that_validation_knows(key):
    section = key.name.partition(".")[0]
    classes = {"model": FAMILIES, "task": TASKS, "decode": {"": PassConfig} | {n: t.decode for n, t in TASKS.items()}}
    cls = classes[section][key.owner] if section in classes else SECTIONS[section]
    field = key.name.rpartition(".")[2]
    wrong = ("nonsense",) if key.type.startswith("tuple") else "nonsense"
    with pytest.raises(UserError, match="is 'nonsense'") as error:
        build(cls, {field: wrong}, "config." + key.name.partition(".")[0])
    assert key.name in str(error.value) and all(choice in str(error.value) for choice in key.choices)


NUMBERS = (10**400, -(10**400), 10**5000, 2**64, -(2**63) - 1, 2**32, -1, math.inf, -math.inf, math.nan, 1e308, 5e-324)


@pytest.mark.parametrize("cls", [*SECTIONS.values(), *FAMILIES.values(), *OF_TASKS], ids=lambda cls: cls.__name__)
def test_a_number_that_overflows_is_told_and_never_raised(cls):
    for field in dataclasses.fields(cls):
        if type(field.default) not in (int, float):
            continue
        for value in NUMBERS:
            try:
                made = getattr(build(cls, {field.name: value}, "config.x"), field.name)
            except UserError as error:
                assert field.name in str(error) and len(str(error)) < 400
            else:
                assert math.isfinite(made) and abs(made) <= (2**63 if "most" in field.metadata else 3.5e38)
                assert type(field.default) is float or "most" in field.metadata or abs(made) < 2**31


@pytest.mark.parametrize("seed", [-1, 2**63, 10**5000, 1.5, True], ids=["negative", "64", "5000", "float", "bool"])
def test_a_seed_out_of_range_is_told(seed):
    values = config_dict(resolve(base_config())).to_dict()
    assert resolve(values | {"seed": 2**63 - 1}).seed == 2**63 - 1
    with pytest.raises(UserError, match="config.seed is"):
        resolve(values | {"seed": seed})


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_help_of_a_command_explains_every_option_without_a_run(command):
    text = help_for(["--help"], command, "")
    lines = text.splitlines()
    for option in command.options:
        assert len(option.meaning) > 5
        assert f"  {option.usage}" in lines and option.meaning.split()[0] in text
    assert command.examples and all(f"  s2sjax {example}" in lines for _, example in command.examples)
    assert max(map(len, lines)) <= 120


def test_help_of_train_lists_every_config_key():
    listed = help_for(["--help"], COMMANDS["train"], "")
    for key in config_keys():
        found = re.findall(rf"^  {re.escape(key.name)}=.*(?:\n      .*)*", listed, re.MULTILINE)
        assert any(all(choice in entry for choice in key.choices) for entry in found), key.name
    for command in COMMANDS.values():  # the others name the sections that they do not list
        text = help_for(["--help"], command, "")
        assert command.config == "none" or all(f"  {s}." in text or f"--help={s}." in text for s in sections())


def test_a_prefix_narrows_help_to_keys():
    narrowed = lambda prefix: [  # noqa: E731
        line.split("=")[0].strip()
        for line in help_for([], COMMANDS["decode"], prefix).splitlines()
        if line.startswith("  ") and line[2] != " "
    ]
    assert narrowed("decode.beam_size") == narrowed("config.decode.beam_size") == ["decode.beam_size"]
    assert {*narrowed("decode.")} == {f"decode.{field.name}" for field in dataclasses.fields(DecodeConfig)}
    assert len(narrowed("decode.")) == len({*narrowed("decode.")}) + 1, "nbest is another thing of labels"
    assert "batching.tokens" in narrowed("batch")
    with pytest.raises(UserError, match="no config key begins with 'deocde.': .*s2sjax decode --help explains"):
        narrowed("deocde.")
    with pytest.raises(UserError, match="goodput takes none"):
        help_for([], COMMANDS["goodput"], "decode.")


def test_help_of_a_run_shows_its_values(tmp_path):
    config = base_config("hmm")
    config.model.states = 7
    save(resolve(config), tmp_path / "config.json")
    argv = [f"--workdir={tmp_path}", "--help", "--config.decode.beam_size=9"]
    text = help_for(argv, COMMANDS["train"], "")
    assert "  model.states=7  (whole number; default 64)" in text and "  decode.beam_size=9  (" in text
    assert "model.width" not in text, "another family's"


def test_help_of_a_run_says_whose_a_key_is_that_it_lacks(tmp_path):
    save(resolve(base_config("hmm", "language")), tmp_path / "config.json")
    lacking = {
        "model.dropout": "causal_lm or .*, and config.model.name is 'hmm' here",
        "data.target_order": "config.task.target_order is a key of text, and config.task.name is 'language' here",
    }
    for prefix, whose in lacking.items():
        with pytest.raises(UserError, match=whose):
            help_for([f"--workdir={tmp_path}"], COMMANDS["decode"], prefix)


def test_options_with_choices_take_what_the_code_takes():
    choices = {(c.name, o.name): o.choices for c in COMMANDS.values() for o in c.options if o.choices}
    assert choices["rerank", "utility"] == tuple(UTILITIES)


def test_the_overview_names_every_command():
    assert all(f"\n  {name} " in overview(COMMANDS) for name in COMMANDS)


def test_help_does_not_load_jax():
    code = (
        "import sys; from s2sjax.cli import run_command\n"
        "for argv in (['--help'], ['train', '--help'], ['decode', '--help=decode.'], ['--version']):\n"
        "    try: run_command(argv)\n"
        "    except SystemExit as ended: assert ended.code == 0, ended.code\n"
        "assert not {'jax', 'numpy', 'flax'} & set(sys.modules), 'slow'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and result.stderr == "", result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_versions_as_the_program_does(name, capsys):
    said = []
    for argv in (["--version"], [name, "--version"]):
        with pytest.raises(SystemExit) as stopped:
            run_command(argv)
        assert stopped.value.code == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and said[0].startswith("s2sjax ")
