"""Flags of one command, overrides of the config among them, and what is said when they are wrong."""

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from s2sjax.config import choose, nearest
from s2sjax.errors import UserError
from s2sjax.helptext import explain
from s2sjax.options import Command

_NOT_EXPECTED = "'{}' is not expected: options are written --name=value, and a run directory is --workdir=DIR"


def parse(argv: Sequence[str], command: Command) -> dict[str, Any]:
    """The values of a command's options by their names; `config` is a ConfigDict, overridden, if the command has one,
    and `said` the config keys that were overridden, None if the config is a file of the user's own; `given` the options
    that stand on the command line; `arguments` are those that are no options, if it takes any.

    Raises:
        UserError: for what is unknown, missing, or none of an option's choices.
    """
    values, rest = _read(argv, command)
    if rest and not command.arguments:
        raise command.misuse(_NOT_EXPECTED.format(rest[0]))
    found = {name: values[name].value for name in (*_names(command), "config") if name in values}
    found["given"] = frozenset(name for name in _names(command) if values[name].present)
    if command.arguments:
        found["arguments"] = rest
    missing = [o.name for o in command.options if o.default is None and found[o.name] is None]
    if "config" in found and found["config"] is None:
        missing.append("config" if command.config == "file" else "workdir")
    if missing:
        raise command.misuse(f"--{missing[0]} is missing")
    if "config" in found:
        found["said"] = None if _given(argv, "config") else _overridden(argv)
    for option in command.options:
        if option.choices and (value := found[option.name]) != option.default:
            choose(str(value), option.choices, f"--{option.name}")
    return found


def help_for(argv: Sequence[str], command: Command, prefix: str) -> str:
    """The help of a command, with the values of the config if its run or its config file is given."""
    config = None
    workdir, path = _given(argv, "workdir"), _given(argv, "config")
    if command.config != "none" and (path or (workdir and (Path(workdir) / "config.json").is_file())):
        values, _ = _read([argument for argument in argv if not argument.startswith(("--help", "-h"))], command)
        config = values["config"].value
    shown: dict[str, Any] = {}
    if isinstance(config, ConfigDict):
        for name, value in config.to_dict().items():
            shown |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return explain(command, prefix, shown)


def _names(command: Command) -> list[str]:
    return [option.name for option in command.options if option.name != "config"]


def _read(argv: Sequence[str], command: Command) -> tuple[flags.FlagValues, list[str]]:
    """All flags, and the arguments that are none."""
    values = flags.FlagValues()
    for option in command.options:
        if option.name == "config":
            continue  # ml-collections defines it
        if option.switch:
            flags.DEFINE_bool(option.name, False, option.meaning, flag_values=values)
        else:
            flags.DEFINE_string(option.name, option.default, option.meaning, flag_values=values)
    argv = ["s2sjax", *argv]
    workdir, path = _given(argv, "workdir"), _given(argv, "config")
    # Training begins from a config file; a run that exists, from the config that it keeps.
    saved = path is None and workdir is not None and (Path(workdir) / "config.json").is_file()
    if command.config == "file" and not saved:
        if path is not None and not Path(path.partition(":")[0]).is_file():
            raise UserError(f"there is no config file {path}; give --config=FILE.py, for instance one in configs/")
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    elif command.config != "none":
        if workdir is None:
            bare = [argument for argument in argv[1:] if not argument.startswith("-")]
            raise command.misuse(_NOT_EXPECTED.format(bare[0]) if bare else "--workdir is missing")
        config = _saved_config(Path(workdir))
        _check_overrides(argv, config)
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        rest = values(argv)
    except UserError:
        raise
    except flags.Error as error:
        raise command.misuse(_flag_message(error, argv, values)) from error
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError, NameError) as error:
        raise UserError(_flag_message(error, argv, values)) from error
    return values, rest[1:]


def _given(argv: Sequence[str], name: str) -> str | None:
    """The value of `--name=value` or `--name value`, before flags are defined; of several the last, as absl has it."""
    given = None
    for argument, after in itertools.zip_longest(argv, argv[1:]):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            given = value if equals else after
    return given


def _overridden(argv: Iterable[str]) -> frozenset[str]:
    """The config keys that the command line has, such as "config.data.dir"."""
    names = (argument.partition("=")[0].lstrip("-") for argument in argv if argument.startswith("-"))
    return frozenset(name for name in names if name.startswith("config."))


def _saved_config(workdir: Path) -> ConfigDict:
    from s2sjax import experiment

    return experiment.config_dict(experiment.load(workdir / "config.json"))


def _check_overrides(argv: Iterable[str], config: ConfigDict) -> None:
    """Raise a `UserError` for the first `--config.a.b` that names no key."""
    for argument in argv:
        if argument.startswith(("--config.", "-config.")):
            section, where = config, "config"
            for key in argument.split("=", 1)[0].split(".")[1:]:
                if not isinstance(section, ConfigDict) or key not in section:
                    meant = _sections_with(key, config) or nearest(key, _keys(section))
                    raise UserError(f"{where}.{key} is not a config key: {meant}")
                section, where = section[key], f"{where}.{key}"


def _sections_with(key: str, config: ConfigDict) -> str:
    """The way out for a key whose section was left out or is another; empty if no section has it."""
    found = [f"'config.{name}.{key}'" for name, section in config.items() if key in _keys(section)]
    return f"did you mean {' or '.join(found)}?" if found else ""


def _keys(section: Any) -> Iterable[str]:
    return section.keys() if isinstance(section, ConfigDict) else ()


def _flag_message(error: Exception, argv: list[str], values: flags.FlagValues) -> str:
    """An absl or ml-collections error as one sentence of ours."""
    config = values["config"].value if "config" in values else None
    unknown = error.flagname if isinstance(error, flags.UnrecognizedFlagError) else ""
    if isinstance(config, ConfigDict) and (meant := _sections_with(unknown, config)):
        return f"--{unknown} is no option: {meant}"
    path = _given(argv, "config")
    if path is not None and "config" in values:
        config = None
        with contextlib.suppress(Exception):  # a mistake in the file itself is what `error` is about
            config = _run_config_file(path)
        if config:
            _check_overrides(argv, config)
    text = str(error).strip()
    return text if len(text) <= 500 else f"{text[:400]} ... {text[-80:]}"


def _run_config_file(path: str) -> ConfigDict:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["s2sjax"])
    values(["s2sjax", f"--config={path}"])
    return values["config"].value
