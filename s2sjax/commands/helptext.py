"""What `s2sjax --help`, `s2sjax COMMAND --help` and `s2sjax COMMAND --help=PREFIX` print. Needs no JAX."""

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from s2sjax.commands.options import Command, Option
from s2sjax.commands.reference import Key, config_keys, sections
from s2sjax.config import nearest
from s2sjax.errors import UserError
from s2sjax.upgrade import current_key

_MISSING = object()


def asked(argv: Sequence[str]) -> str | None:
    """What help is wanted for: "" is all of a command, "decode." the keys that begin so; None: none is wanted."""
    for argument in argv:
        name, _, prefix = argument.partition("=")
        if name in ("--help", "-help", "-h"):
            return prefix
    return None


def overview(commands: Mapping[str, Command]) -> str:
    """The commands, a line each."""
    width = max(map(len, commands))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in commands.items()]
    return "\n".join(
        [
            "usage: s2sjax COMMAND [--OPTION=VALUE ...] [--config.KEY=VALUE ...]",
            "",
            "commands:",
            *lines,
            "",
            "s2sjax COMMAND --help explains a command, and --help=decode. the config keys that begin with decode.",
            "s2sjax --version prints versions.",
            "",
        ]
    )


def explain(command: Command, prefix: str, values: Mapping[str, Any]) -> str:
    """All about a command, or about the config keys that begin with `prefix`.

    Args:
        values: values of the config in play by dotted key; empty: there is none.

    Raises:
        UserError: no key of this config begins so.
    """
    if prefix:
        return "\n".join(_entries(_narrowed(command, prefix, values), values)) + "\n"
    lines = [_usage(command), "", *_wrapped(command.summary)]
    if command.description:
        lines += ["", *_wrapped(command.description)]
    if command.options:
        lines += ["", "options:", *(line for option in command.options for line in _option(option))]
    if command.examples:
        lines += ["", "examples:"]
        for meaning, example in command.examples:
            lines += ["", *_wrapped(meaning, "  # "), f"  s2sjax {example}"]
    if command.config != "none":
        lines += ["", *_config(command, values)]
    return "\n".join(lines) + "\n"


def _usage(command: Command) -> str:
    must = [option.usage for option in command.options if option.default is None]
    more = ["[--OPTION=VALUE ...]"] if len(must) < len(command.options) else []
    overrides = ["[--config.KEY=VALUE ...]"] if command.config != "none" else []
    return " ".join(["usage: s2sjax", command.name, *filter(None, [command.arguments]), *must, *more, *overrides])


def _option(option: Option) -> list[str]:
    if option.default is None:
        default = " Required."
    elif option.default:
        default = f" Default: {option.default}."
    else:
        default = ""
    return [f"  {option.usage}", *_wrapped(option.meaning + default, "      ")]


def _config(command: Command, values: Mapping[str, Any]) -> list[str]:
    wanted = command.sections or sections()
    keys = [key for key in config_keys() if key.name.partition(".")[0] in (*wanted, "seed") and _in_play(key, values)]
    if command.sections:
        keys = [key for key in keys if key.name != "seed"]
    whose = "the values of this run" if values else "their defaults"
    lines = [f"config keys, with {whose}; --config.KEY=VALUE sets one, a tuple as \"('a', 'b')\":", ""]
    lines += _entries(keys, values)
    others = [section for section in sections() if section not in wanted]
    if others:
        shown = ", ".join(f"--help={section}." for section in others)
        lines += ["", *_wrapped(f"The keys of the other sections are listed by {shown}")]
    return lines


def _narrowed(command: Command, prefix: str, values: Mapping[str, Any]) -> list[Key]:
    if command.config == "none":
        raise command.misuse(f"--help={prefix} lists config keys, and {command.name} takes none")
    prefix = current_key(prefix.removeprefix("--").removeprefix("config."))
    keys = config_keys()
    found = [key for key in keys if key.name.startswith(prefix)] or [key for key in keys if prefix in key.name]
    if not found:
        known = nearest(prefix, {key.name for key in keys}).partition(" (known: ")[0]
        hint = known if known.startswith("did you") else f"sections: {', '.join(sections())}"
        raise command.misuse(f"no config key begins with '{prefix}': {hint}")
    if not any(_in_play(key, values) for key in found):
        name, kind = found[0].name, _owner_kind(found[0])
        owners = " or ".join(key.owner for key in found if key.name == name)
        raise UserError(f"config.{name} is a key of {owners}, and config.{kind} is '{values[kind]}' here")
    return found


def _in_play(key: Key, values: Mapping[str, Any]) -> bool:
    return not (values and key.owner and key.owner != values.get(_owner_kind(key)))


def _owner_kind(key: Key) -> str:
    """The key that says which owner's keys a config has."""
    return "model.name" if key.name.startswith("model.") else "task.name"


def _entries(keys: Iterable[Key], values: Mapping[str, Any]) -> list[str]:
    """A few lines for each key. Keys of some model families or tasks say which have them."""
    merged: dict[tuple, list[str]] = {}
    for key in keys:
        if _in_play(key, values):
            entry = (key.name, key.type, key.default, key.choices, key.meaning)
            merged.setdefault(entry, []).append(key.owner)
    lines: list[str] = []
    for (name, of, default, choices, meaning), families in merged.items():
        shown = values.get(name, _MISSING)
        value = default if shown is _MISSING else shown
        about = "one of " + ", ".join(map(_shown, choices)) if choices else of
        if choices and of.startswith("tuple"):
            about = f"tuple of {', '.join(choices)}"
        if value != default and _shown(value) != _shown(default):
            about += f"; default {_shown(default)}"
        if families != [""] and not values:
            about += f"; of {', '.join(families)}"
        lines += _wrapped(f"{name}={_shown(value)}  ({about})", "  ", "      ")
        lines += _wrapped(meaning[:1].upper() + meaning[1:], "      ")
    return lines


def _shown(value: Any) -> str:
    return str(value) if value != "" else "''"


def _wrapped(text: str, indent: str = "", rest: str | None = None) -> list[str]:
    """Paragraphs in lines that fit. Args: rest: the indent of all lines but the first; `indent` if None."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += [
            "",
            *textwrap.wrap(
                paragraph, max(width, 40), initial_indent=indent, subsequent_indent=indent if rest is None else rest
            ),
        ]
    return lines[1:]
