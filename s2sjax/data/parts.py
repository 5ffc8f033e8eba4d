"""The parts that the records of a split come from: one, the sets of a mixture, or pairs of languages."""

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping, Sized
from typing import Any

import numpy as np

from s2sjax.config import coerce, nearest
from s2sjax.data.config import DataConfig
from s2sjax.errors import UserError, shown

_OWN = (
    "format", "dir", "name", "file", "header", "separator", "quoting", "source", "target", "prompt", "train",
    "validation", "test",
)  # fmt: skip
"""What a set of a mixture may have of its own."""
_HINTS = typing.get_type_hints(DataConfig)
_NAME = re.compile(r"\w([\w+-]*\w)?")


def parts_of(config: DataConfig) -> Mapping[str, DataConfig]:
    """The config of each set of the mixture or pair of languages, by its name; of data that is neither, one under "".

    Raises:
      UserError: a set is not as it should be.
    """
    if not (config.mixture or config.pairs):
        return {"": config}
    return _parts_of(config, repr(config.mixture))


@functools.lru_cache(maxsize=8)
def _parts_of(config: DataConfig, mixture: str) -> Mapping[str, DataConfig]:
    """Thousands of parts take seconds, and several checks ask for them. Args: mixture: what tells 1 from True."""
    if config.mixture:
        base = dataclasses.replace(config, mixture={}, sets=(), mixture_temperature=1.0)
        made = {name: _of_set(base, name, own) for name, own in config.mixture.items()}
        sets = frozenset(config.sets or made)
        return types.MappingProxyType({name: part for name, part in made.items() if name in sets})
    return types.MappingProxyType({pair: _of_pair(config, pair) for pair in config.pairs})


def chosen(config: DataConfig, name: str) -> DataConfig:
    """The data with one of its parts alone."""
    if config.mixture:
        return dataclasses.replace(config, sets=(name,))
    return dataclasses.replace(config, pairs=(name,))


def without_prompt(config: DataConfig) -> DataConfig:
    """The data with its sources as they stand in their files."""
    bare = {name: {key: own[key] for key in own if key != "prompt"} for name, own in config.mixture.items()}
    return dataclasses.replace(config, prompt="{source}", mixture=bare)


def shares(config: DataConfig, sizes: Mapping[str, int]) -> np.ndarray | None:
    """What share of the examples of an epoch each part has, [parts]; None: each of its examples once.

    Args:
      sizes: how many examples each part has, by its name; empty if there are no parts.

    Raises:
      UserError: a part has none.
    """
    weights = [own["weight"] for name in sizes if "weight" in (own := config.mixture.get(name, {}))]
    if not sizes or (not weights and config.mixture_temperature == 1):
        return None
    for name, size in sizes.items():
        if not size:
            raise UserError(
                f"{name!r} of config.data.{'mixture' if config.mixture else 'pairs'} has no examples that could be "
                "trained on: leave it out, or raise config.batching.max_source_length and max_target_length"
            )
    logs = np.log(weights) if weights else np.log([*sizes.values()]) / config.mixture_temperature
    relative = np.exp(logs - logs.max())
    return relative / relative.sum()


def in_proportion(sizes: Mapping[str, int], shares: np.ndarray, limit: Callable[[int], Sized]) -> np.ndarray:
    """Numbers of examples, in these shares of the parts; each example at least once if there may be so many.

    Args:
      limit: from a number of examples to a list of as many, or of as many as there may be.
    """
    counts = np.array([*sizes.values()])
    total = len(limit(int(np.ceil((counts / shares).max()))))
    wanted = np.maximum(np.rint(shares * total).astype(np.int64), 1)
    begins = np.cumsum(counts) - counts
    return np.concatenate([b + np.arange(w) * n // w for b, n, w in zip(begins, counts, wanted, strict=True)])


def _of_set(base: DataConfig, name: str, own: Any) -> DataConfig:
    where = f"config.data.mixture.{name}"
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise UserError(
            f"config.data.mixture has a set called {shown(name)}; expected letters and digits, with - + _ between "
            "them: the name becomes part of names of files"
        )
    if not isinstance(own, Mapping):
        raise UserError(f"{where} is {shown(own)}, but a mapping was expected, such as {{'dir': 'news'}}")
    for key in own:
        if key not in (*_OWN, "weight"):
            raise UserError(f"{where}.{key} is nothing that a set has of its own: {nearest(key, (*_OWN, 'weight'))}")
    weight = coerce(own.get("weight", 1.0), float, f"{where}.weight")
    if not weight > 0:
        raise UserError(
            f"{where}.weight is {weight:g}, but must be above 0; leave out what you do not want to train on"
        )
    values = {key: coerce(value, _HINTS[key], f"{where}.{key}") for key, value in own.items() if key != "weight"}
    try:
        part = dataclasses.replace(base, **values)
    except UserError as error:
        raise UserError(f"set {name!r} of config.data.mixture: {error}") from error
    if bool(part.source) != bool(base.source):
        raise UserError(
            f"{where} has {'a' if part.source else 'no'} source, but config.data.source is {base.source!r}: either "
            "all sets have sources or none has"
        )
    return part


def _of_pair(config: DataConfig, pair: str) -> DataConfig:
    source, target = pair.split("-")

    def filled(text: str) -> str:
        return text.replace("{source_language}", source).replace("{target_language}", target)

    return dataclasses.replace(
        config, pairs=(), mixture_temperature=1.0, file=filled(config.file), source=filled(config.source),
        prompt=filled(config.prompt), target=tuple(map(filled, config.targets)),
    )  # fmt: skip
