"""Model families. Each module of this folder is one family and offers three names:

    Config           a frozen dataclass: the config section `model` without its `name`
    build(config, source_vocab, target_vocab, *, precision) -> a Linen module that is `api.Stepwise`
    sharding_rules(config) -> ordered (parameter path pattern, axes) pairs for `sharding.shard_parameters`

A family of language models, which can read plain text without a source, also says `LANGUAGE_MODEL = True`. One whose
layers mix positions by attention alone, so that devices can share a row's positions, says `SPLITS_TIME = True`. One
all of whose stacks gather their layers' parameters by themselves (`nn.gathering`) says `GATHERS_LAYERS = True`.

`model.name` is the module's name. Adding a family is adding a file: the registry is the folder.
"""

import importlib
import pkgutil
from types import ModuleType

from s2sjax.config import nearest
from s2sjax.errors import UserError


def families() -> tuple[str, ...]:
    """The names of all families: the modules of this folder."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def family(name: str) -> ModuleType:
    """The module of one family.

    Raises:
        UserError: if there is no such family; the message names the nearest.
    """
    if name not in families():
        raise UserError(f"config.model.name is '{name}': {nearest(name, families())}")
    return importlib.import_module(f"{__name__}.{name}")
