"""Every config key with its meaning, type, choices and default, as the config dataclasses document themselves.

The source is read, not imported: help and completion answer before JAX could be loaded. So a config dataclass keeps to
what can be read: defaults are literals, `one_of(choices, default)`, `up_to(most, default)` or `named()`, and its
docstring has an `Attributes:` section that documents each field. A test holds all of this to the classes themselves.
"""

import ast
import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parents[1]
_TASK = (
    "What is learned: text from a source (text), a language (language: data.source is empty), one label for a text "
    "(classification), or one for each of its words (tagging). It decides which other keys `task` has."
)
_TYPES = {"int": "whole number", "float": "number", "bool": "True or False", "str": "text", "Sets": "mapping"}


@dataclass(frozen=True)
class Key:
    """One config key.

    Attributes:
      name: dotted, "decode.beam_size".
      type: "whole number", "number", "True or False", "text", or made of these: "tuple of text".
      default: the value that it has if nothing sets it; of a mapping, which is empty then, "{}".
      choices: the values that it takes; empty: any of its type.
      meaning: what it is, in one paragraph.
      owner: the model family or the task that has it; empty: every config has it.
    """

    name: str
    type: str
    default: Any
    choices: tuple[str, ...]
    meaning: str
    owner: str = ""


@functools.cache
def config_keys() -> tuple[Key, ...]:
    """All config keys, section by section; those of `model` family by family, those of `task` and `decode` by task."""
    module = _Module("experiment")
    families, tasks = (
        tuple(sorted(path.stem for path in (_PACKAGE / folder).glob("*.py") if not path.stem.startswith("_")))
        for folder in ("models", "tasks")
    )
    meaning = "Model family; it decides which other keys `model` has."
    keys = [Key("model.name", "text", "transformer", families, meaning)]
    for family in families:
        keys += _Module("models", family).keys("Config", "model.", family)
    keys.append(Key("task.name", "text", "text", tasks, _TASK))
    for task in tasks:
        file, cls = _task(task)
        keys += file.keys(cls, "task.", task)
    for field, annotation in module.fields("Experiment"):
        if field == "seed":
            keys[:0] = [key for key in module.keys("Experiment", "") if key.name == "seed"]
        elif field == "decode":
            keys += _decode_keys(tasks)
        elif field not in ("model", "model_name", "task"):
            owner, cls = module.find(ast.unparse(annotation))
            keys += owner.keys(cls.name, f"{field}.")
    return tuple(keys)


def _task(name: str) -> tuple["_Module", str]:
    """The module of a task, and what its class is called there."""
    file = _Module("tasks", name)
    return file, ast.unparse(file.find("TASK")[1])


def _decode_keys(tasks: Iterable[str]) -> Iterator[Key]:
    """The keys of the section that each task says, those of a search first; what all have, once."""
    having: dict[Key, list[str]] = {}
    for task in sorted(tasks, key=lambda task: task != "text"):
        file, name = _task(task)
        module, cls = file.attribute(name, "decode")
        for key in module.keys(cls, "decode."):
            having.setdefault(key, []).append(task)
    for key, owners in having.items():
        yield from [key] if len(owners) == len({*tasks}) else (dataclasses.replace(key, owner=each) for each in owners)


def sections() -> tuple[str, ...]:
    """The names of the sections, `seed` left out."""
    return tuple(dict.fromkeys(key.name.partition(".")[0] for key in config_keys() if "." in key.name))


class _Module:
    """The source of one module of the package."""

    def __init__(self, *parts: str) -> None:
        path = _PACKAGE.joinpath(*parts)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self._body = ast.parse(path.read_text(encoding="utf-8")).body

    def find(self, name: str) -> tuple["_Module", Any]:
        """The statement that defines a name here or in the module it is imported from, and that module."""
        for node in self._body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return self, node
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return self, node.value
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                return self, node.value
            if isinstance(node, ast.ImportFrom) and node.module and any(a.name == name for a in node.names):
                return _Module(*node.module.split(".")[1:]).find(name)
        raise LookupError(name)

    def fields(self, name: str) -> Iterator[tuple[str, ast.expr]]:
        """Names and annotations of a dataclass's own fields."""
        for node in self.find(name)[1].body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id, node.annotation

    def attribute(self, name: str, attribute: str) -> tuple["_Module", str]:
        """The class that an attribute of a class is set to, there or in the first base that has it, and its module."""
        cls = self.find(name)[1]
        for node in cls.body:
            if isinstance(node, ast.AnnAssign) and node.value is not None and ast.unparse(node.target) == attribute:
                module, found = self.find(ast.unparse(node.value))
                return module, found.name
        for module, base in self._bases(cls):
            with contextlib.suppress(LookupError):
                return module.attribute(base, attribute)
        raise LookupError(f"{name}.{attribute}")

    def _bases(self, cls: ast.ClassDef) -> Iterator[tuple["_Module", str]]:
        for base in map(ast.unparse, cls.bases):
            if base != "ABC":
                module, found = self.find(base)
                yield module, found.name

    def keys(self, name: str, prefix: str, owner: str = "") -> Iterator[Key]:
        """The keys that the fields of a config dataclass are, those of its bases first."""
        cls = self.find(name)[1]
        for module, base in self._bases(cls):
            yield from module.keys(base, prefix, owner)
        meanings = attributes(ast.get_docstring(cls) or "")
        for node in cls.body:
            if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
                if ast.unparse(node.annotation).startswith("ClassVar"):
                    continue
                field, value = node.target.id, node.value
                choices: tuple[str, ...] = ()
                if isinstance(value, ast.Call):
                    maker = ast.unparse(value.func)
                    if maker not in ("one_of", "up_to", "named"):
                        continue  # a section of its own
                    choices = self._choices(value.args[0]) if maker == "one_of" else ()
                    value = ast.Constant("{}") if maker == "named" else value.args[1]
                default, meaning = ast.literal_eval(value), meanings.get(field, "")
                yield Key(prefix + field, _type(node.annotation), default, choices, meaning, owner)

    def _choices(self, node: ast.expr | ast.ClassDef) -> tuple[str, ...]:
        """The strings of a tuple, the keys of a dict, or the values of an enumeration, by its name or as it stands."""
        match node:
            case ast.Constant():
                return (str(node.value),)
            case ast.Starred():
                return self._choices(node.value)
            case ast.Name():
                owner, found = self.find(node.id)
                return owner._choices(found)
            case ast.Dict():
                return tuple(choice for key in node.keys if key is not None for choice in self._choices(key))
            case ast.Tuple():
                return tuple(choice for item in node.elts for choice in self._choices(item))
            case ast.ClassDef():
                return tuple(str(ast.literal_eval(n.value)) for n in node.body if isinstance(n, ast.Assign))
        raise LookupError(ast.unparse(node))


def _type(annotation: ast.expr) -> str:
    """An annotation in words: `int | None` is "whole number or None"."""
    match annotation:
        case ast.BinOp():
            return f"{_type(annotation.left)} or {_type(annotation.right)}"
        case ast.Subscript(slice=ast.Tuple(elts=[item, *_])):
            return f"tuple of {_type(item)}"
    name = ast.unparse(annotation)
    return _TYPES.get(name, name)


def attributes(docstring: str) -> dict[str, str]:
    """The `Attributes:` section of a docstring, names to meanings. Names may share an entry: `a, b: meaning`."""
    found: dict[str, str] = {}
    names: list[str] = []
    _, _, section = docstring.partition("Attributes:\n")
    for line in section.splitlines():
        entry = re.match(r"  (\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2].strip())
        elif names and line.startswith("    "):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        elif line.strip():
            break
    return found
