"""Flags of one command, overrides of the config among them, and what is said when they are wrong."""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from s2sjax.commands.config_file import read_config_file
from s2sjax.commands.helptext import explain
from s2sjax.commands.options import Command
from s2sjax.commands.reference import config_keys
from s2sjax.config import choose, nearest
from s2sjax.errors import UserError, in_one_line, shown
from s2sjax.files import rundir
from s2sjax.upgrade import accept_key, moved_from

_WORDS = {bool: "True or False", int: "a whole number", float: "a number", tuple: "a tuple, as in \"('a', 'b')\","}
_OF_ABSL = ("flagfile", "undefok")
"""Flags that absl has by itself. One reads more flags from a file, the other lets unknown ones pass."""
_NOT_EXPECTED = "'{}' is not expected: options are written --name=value, and a run directory is --workdir=DIR"


def parse(argv: Sequence[str], command: Command) -> dict[str, Any]:
    """The values of a command's options by their names; `config` is a ConfigDict, overridden, if the command has one,
    and `said` the config keys that were overridden, None if the config is a file of the user's own; `saved` is the
    `Experiment` of the run directory before that, None likewise; `given` the options that stand on the command line;
    `arguments` are those that are no options, if it takes any.

    Raises:
        UserError: for what is unknown, missing, or none of an option's choices.
    """
    argv = _with_current_keys(argv)
    values, rest, saved = _read(argv, command)
    if rest and not command.arguments:
        raise command.misuse(_NOT_EXPECTED.format(rest[0]))
    found = {name: values[name].value for name in (*_names(command), "config") if name in values}
    found["given"] = frozenset(name for name in _names(command) if values[name].present)
    if command.arguments:
        found["arguments"] = rest
    missing = [o.name for o in command.options if o.default is None and not found[o.name]]
    if command.config != "none" and found.get("config") is None:
        missing.append("config" if command.config == "file" else "workdir")
    if missing:
        raise command.misuse(f"--{missing[0]} is missing")
    if "config" in found:
        found |= {"said": None if _given(argv, "config") else _overridden(argv), "saved": saved}
        if "config.model.name" in _overridden(argv):
            _check_family(found["config"])
    for option in command.options:
        if option.choices and (value := found[option.name]) != option.default:
            choose(str(value), option.choices, f"--{option.name}")
    return found


def help_for(argv: Sequence[str], command: Command, prefix: str) -> str:
    """The help of a command, with the values of the config if its run or its config file is given."""
    config = None
    argv = _with_current_keys(argv)
    workdir, path = _given(argv, "workdir"), _given(argv, "config")
    if command.config != "none" and (path or (workdir and _holds_config(workdir))):
        values, *_ = _read([argument for argument in argv if not argument.startswith(("--help", "-h"))], command)
        config = values["config"].value
    shown: dict[str, Any] = {}
    if isinstance(config, ConfigDict):
        for name, value in config.to_dict().items():
            shown |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return explain(command, prefix, shown)


def _with_current_keys(argv: Iterable[str]) -> list[str]:
    """The arguments, with config keys by their names of today."""
    return [re.sub(r"^(--?(?:no)?config\.)([\w.]+)", lambda found: found[1] + accept_key(found[2]), a) for a in argv]


def _names(command: Command) -> list[str]:
    return [option.name for option in command.options if option.name != "config"]


def _read(argv: Sequence[str], command: Command) -> tuple[flags.FlagValues, list[str], Any]:
    """All flags, the arguments that are none, and the `Experiment` of the run directory if the config is its."""
    values = flags.FlagValues()
    for option in command.options:
        if option.name == "config":
            continue  # ml-collections defines it
        if option.switch:
            flags.DEFINE_bool(option.name, False, option.meaning, flag_values=values)
        else:
            flags.DEFINE_string(option.name, option.default, option.meaning, flag_values=values)
    for argument in argv:
        if (name := argument.partition("=")[0].lstrip("-")) in _OF_ABSL and argument.startswith("-"):
            raise command.misuse(f"--{name} is no option: {nearest(name, _names(command))}")
    config = None if command.config == "none" else _config(argv, command)
    saved = None if config is None or _given(argv, "config") else _resolved(config)
    if config is not None:
        _add_keys_of_tasks(argv, config)
        # ml-collections would read the file by itself, and wrap what goes wrong in it.
        argv = list(_without(argv, "config")) if command.config == "file" else list(argv)
        _check_overrides(argv, config)
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["s2sjax", *argv])
    try:
        rest = values(["s2sjax", *argv])
    except flags.Error as error:
        raise _mistake(error, argv, config, command) from error
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, SyntaxError, MemoryError) as error:
        raise command.misuse(f"an option cannot be read: {in_one_line(error)}") from error
    return values, rest[1:], saved


def _config(argv: Sequence[str], command: Command) -> ConfigDict | None:
    """The config that the command begins with: that of its run, or of its config file; None if there is neither."""
    workdir, path = _given(argv, "workdir"), _given(argv, "config")
    # Training begins from a config file; a run that exists, from the config that it keeps.
    if command.config == "file" and path is not None:
        return read_config_file(path)
    if command.config == "run" and path is not None:
        raise command.misuse(
            f"--config is for train and inspect, and {command.name} takes the config of the run in --workdir: set keys "
            "of it with --config.KEY=VALUE"
        )
    if command.config == "file" and not (workdir and _holds_config(workdir)):
        return None
    if not workdir:
        bare = [argument for argument in argv if not argument.startswith("-")]
        raise command.misuse(_NOT_EXPECTED.format(bare[0]) if bare else "--workdir is missing")
    return _saved_config(Path(workdir))


def _holds_config(workdir: str) -> bool:
    """Raises: UserError if that cannot be known, because a folder lets nobody in."""
    path = Path(workdir) / "config.json"
    with rundir.telling(path):
        return path.is_file()


def _without(argv: Sequence[str], name: str) -> Iterator[str]:
    """The arguments that are neither `--name=value` nor the two of `--name value`."""
    left = iter(argv)
    for argument in left:
        flag, equals, _ = argument.partition("=")
        if flag not in (f"--{name}", f"-{name}"):
            yield argument
        elif not equals:
            next(left, None)


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
    keys = (name.removeprefix("no").partition("[")[0] for name in names)  # --noconfig.train.x, --config.data.pairs[0]
    return frozenset(key for key in keys if key.startswith("config."))


def _resolved(config: ConfigDict) -> Any:
    """The `Experiment` that a config is, before flags change it."""
    from s2sjax import experiment

    return experiment.resolve(config)


def _saved_config(workdir: Path) -> ConfigDict:
    from s2sjax import experiment

    return experiment.config_dict(experiment.load(workdir / "config.json"))


def _add_keys_of_tasks(argv: Iterable[str], config: ConfigDict) -> None:
    """Let flags set keys of another task than the config's: which task it is, flags may say too. `resolve` refuses what
    is not the task's own."""
    defaults = {key.name: key.default for key in config_keys() if key.owner and not key.name.startswith("model.")}
    for name in sorted(_overridden(argv)):
        section, _, key = (full := name.removeprefix("config.")).partition(".")
        keys = config.get(section)
        if full in defaults and isinstance(keys, ConfigDict) and key not in keys:
            with keys.unlocked():
                keys[key] = defaults[full]


def _check_overrides(argv: Iterable[str], config: ConfigDict) -> None:
    """Raise a `UserError` for the first `--config.a.b` that names no key."""
    for argument in argv:
        if argument.startswith(("--config.", "-config.", "--noconfig.", "-noconfig.")):
            section, where = config, "config"
            for key in argument.split("=", 1)[0].split(".")[1:]:
                if not isinstance(section, ConfigDict) or key not in section:
                    near = nearest(key, _keys(section), moved_from(where.partition(".")[2]))
                    meant = _sections_with(key, config) or near
                    raise UserError(f"{where}.{key} is not a config key: {meant}")
                section, where = section[key], f"{where}.{key}"
            if isinstance(section, ConfigDict):
                keys = f"set its keys, such as {where}.{min(section)}" if len(section) else "a config file fills it"
                raise UserError(f"{where} is a section of the config: {keys}")


def _check_family(config: ConfigDict) -> None:
    """Raise a `UserError` if `model.name` was changed to a family that has other keys than `config.model` has."""
    family = config.model.name
    keys = {key.name for key in config_keys() if key.name.startswith("model.") and key.owner == family}
    if keys and keys != {f"model.{key}" for key in config.model if key != "name"}:
        raise UserError(
            f"config.model.name is '{family}', but the other keys of config.model are those of another family: begin "
            f"with a config of this one, as s2sjax.base_config('{family}') makes; a run that exists keeps its family"
        )


def _sections_with(key: str, config: ConfigDict) -> str:
    """The way out for a key whose section was left out or is another; empty if no section has it."""
    found = [f"config.{name}.{key}" for name, section in config.items() if key in _keys(section)]
    found += [new for old, new in moved_from().items() if old == key and new not in found]
    return f"did you mean {' or '.join(map(repr, found))}?" if found else ""


def _keys(section: Any) -> Iterable[str]:
    return section.keys() if isinstance(section, ConfigDict) else ()


def _mistake(error: flags.Error, argv: Sequence[str], config: ConfigDict | None, command: Command) -> UserError:
    """An error of absl, as one sentence of ours."""
    if isinstance(error, flags.UnrecognizedFlagError):
        unknown = error.flagname.partition("=")[0]
        meant = _sections_with(unknown, config) if config is not None else ""
        return command.misuse(f"--{unknown} is no option: {meant or nearest(unknown, _names(command))}")
    if found := re.match(r"flag --([^=]+)=", str(error)):  # a value that could not be read
        name = found[1]
        value = _given(argv, name) or ""
        kind: type = bool  # of the options only switches have a type
        if config is not None and name.startswith("config."):
            kind = type(functools.reduce(lambda section, key: section[key], name.split(".")[1:], config))
        expected = _WORDS.get(kind, "a value as Python writes it")
        if kind is int and re.fullmatch(r"[-+]?[0-9]+", value):
            expected = "a smaller number"
        return command.misuse(f"--{name} is {shown(value)}, but {expected} was expected")
    if found := re.fullmatch(r"Missing value for flag --(.+)", str(error)):
        return command.misuse(f"--{found[1]} has no value: write --{found[1]}=VALUE")
    return command.misuse(str(error).splitlines()[0][:400])
