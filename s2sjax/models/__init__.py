"""Model families. Each module of this folder is one family and offers four names:

    Config           a frozen dataclass: the config section `model` without its `name`
    build(config, reads, writes, *, precision) -> a Linen module that is `api.Stepwise`, or an `api.Model` if the family
                         `writes_in_place`. It is asked through `build` below, for ports of the kinds in its `TRAITS`
    sharding_rules(config) -> ordered (parameter path pattern, axes) pairs for `sharding.shard_parameters`
    TRAITS               what its models can do: `api.Traits`

`model.name` is the module's name. Adding a family is adding a file: the registry is the folder.
"""

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Iterable
from types import ModuleType, NoneType
from typing import Any

from flax import linen as nn

from s2sjax.config import nearest
from s2sjax.errors import UserError, shown
from s2sjax.ops.linear import Precision
from s2sjax.ports import Ports, Tokens, Vectors


def families() -> tuple[str, ...]:
    """The names of all families: the modules of this folder."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def family(name: str) -> ModuleType:
    """The module of one family.

    Raises:
        UserError: if there is no such family; the message names the nearest.
    """
    if not isinstance(name, str) or name not in families():
        raise UserError(f"config.model.name is {shown(name)}: {nearest(str(name), families())}")
    return importlib.import_module(f"{__name__}.{name}")


def build(name: str, config: Any, ports: Ports, *, precision: Precision) -> nn.Module:
    """The module of a family and its `Config`, for what is read and written.

    Raises:
        UserError: if the family reads or writes something else, or its config does not fit; the first message names
            the families that would do.
    """
    if not _accepts(name, ports):
        own = family(name).TRAITS
        others = [each for each in families() if _accepts(each, ports)]
        # What labels its source is another task's than what writes a sequence of its own.
        others = [each for each in others if family(each).TRAITS.writes_in_place == own.writes_in_place] or others
        raise UserError(
            f"config.model.name is '{name}', which reads {_kinds(own.reads)} and writes {_kinds(own.writes)}, but "
            f"{_kinds([type(ports.reads)])} {'is' if ports.reads is None else 'are'} to be read and "
            f"{_kinds([type(ports.writes)])} to be written: "
            + (f"choose {' or '.join(others)}" if others else "no family does that; choose another config.task.name")
        )
    return family(name).build(config, *ports, precision=precision)


def _accepts(name: str, ports: Ports) -> bool:
    traits = family(name).TRAITS
    reads = traits.language_model if ports.reads is None else isinstance(ports.reads, traits.reads)
    return reads and isinstance(ports.writes, traits.writes)


def _kinds(ports: Iterable[type]) -> str:
    """In words: "tokens or vectors"."""
    return " or ".join({Tokens: "tokens", Vectors: "vectors", NoneType: "nothing"}[kind] for kind in ports)


def language_models() -> tuple[str, ...]:
    """The names of the families that can read plain text without a source."""
    return tuple(name for name in families() if family(name).TRAITS.language_model)


def text_writers() -> tuple[str, ...]:
    """The names of the families that generate text: all but those that label what they read."""
    return tuple(name for name in families() if not family(name).TRAITS.writes_in_place)


def layers(config: Any) -> dict[str, int]:
    """The fields of a family's config that say how many layers a model has, which are made one after the other: those
    whose names are `layers`, or end in `_layers`, and `repeats` of a `pattern`."""
    found = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        name: len(value) if name == "pattern" else value
        for name, value in found.items()
        if name in ("layers", "pattern", "repeats") or name.endswith("_layers")
    }


def depth(config: Any) -> int:
    """The layers of a model, of encoder and decoder together."""
    found = layers(config)
    repeated = math.prod(found.pop(name, 0) for name in ("pattern", "repeats"))
    return sum(found.values()) + repeated
