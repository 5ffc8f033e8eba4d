"""Model families. Each module of this folder is one family and offers four names:

    Config           a frozen dataclass: the config section `model` without its `name`
    build(config, source_vocab, target_vocab, *, precision) -> a Linen module that is `api.Stepwise`, or an `api.Model`
                         if the family `writes_in_place`; the vocabularies' sizes are enough, but for a family that
                         `knows_start`
    sharding_rules(config) -> ordered (parameter path pattern, axes) pairs for `sharding.shard_parameters`
    TRAITS               what its models can do: `api.Traits`

`model.name` is the module's name. Adding a family is adding a file: the registry is the folder.
"""

import dataclasses
import importlib
import math
import pkgutil
from types import ModuleType
from typing import Any

from s2sjax.config import nearest
from s2sjax.errors import UserError, shown


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
