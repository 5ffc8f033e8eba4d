"""What is made of integers and text only, and so is the same on every processor: batches, tokens, resolved configs."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2sjax import models
from s2sjax.files.paths import cache_root
from tests.config_files import config_names, config_of
from tests.goldens.inside import base_values, batch_text, batches, config_values, experiment

HERE = Path(__file__).parent
DATA = HERE / "data"

_PAIRS = {"data.dir": str(DATA), "data.source": "{split}.en", "data.target": "{split}.de", "batching.tokens": 512}
_TEXT = {
    "data.dir": str(DATA), "data.source": "", "data.target": "{split}.count", "batching.tokens": 512,
    "tokenizer.kind": "char", "evaluate.decode": False,
}  # fmt: skip
_SETS = {
    "data.mixture": {"there": {}, "back": {"source": "{split}.de", "target": "{split}.en", "train": "train[:20%]"}},
    "tokenizer.kind": "char",
}
_BATCHINGS = {
    "bucket": ("transformer", _PAIRS | {"tokenizer.kind": "word", "batching.buckets": 3}),
    "pack": ("transformer", _PAIRS | {"tokenizer.kind": "char", "batching.kind": "pack", "batching.pack_length": 40}),
    "right to left": ("transformer", _PAIRS | {"tokenizer.kind": "byte", "task.target_order": "right_to_left"}),
    "prompt": ("causal_lm", _PAIRS | {"tokenizer.kind": "word", "data.prompt": "German: {source}"}),
    "mixture": ("transformer", _PAIRS | _SETS | {"data.mixture_temperature": 3.0}),
    "mixture, packed": (
        "transformer",
        _PAIRS | {
            "data.mixture": {name: {**own, "weight": 1.5} for name, own in _SETS["data.mixture"].items()},
            "tokenizer.kind": "char", "batching.kind": "pack", "batching.pack_length": 40,
        },
    ),
    "lines": ("causal_lm", _TEXT),
    "windows": ("causal_lm", _TEXT | {"task.join": True, "task.context": 12, "task.stride": 6}),
    "windows with line ends": (
        "causal_lm", _TEXT | {"task.join": True, "task.context": 12, "task.keep_line_ends": True}
    ),
    "windows, packed": (
        "lstm_lm", _TEXT | {"task.join": True, "task.context": 8, "batching.kind": "pack", "batching.pack_length": 24}
    ),
}  # fmt: skip
COUNT = 40
"""Batches of each: more than an epoch of most."""


def batch_lines(cache: Path) -> dict[str, list[str]]:
    """Of each way to make batches, the first ones: the shape of the inputs and targets, and a hash of all arrays.

    Args:
        cache: where prepared data is kept.
    """
    found = {}
    for name, (family, values) in _BATCHINGS.items():
        made = batches(experiment(family, values | {"data.cache_dir": str(cache)}), COUNT)
        found[name] = [hashlib.sha256(batch_text(batch).encode()).hexdigest()[:16] for batch in made]
    return found


def resolved_configs() -> dict[str, Any]:
    """All defaults, of each family its own, and of each config file and its variants the values that are none."""
    defaults = {family: base_values(family) for family in models.families()}
    shared = {key: value for key, value in defaults["transformer"].items() if not key.startswith("model.")}
    found: dict[str, Any] = {"defaults": shared}
    for family, values in defaults.items():
        found[f"defaults of {family}"] = _without(values, shared)
    for name in config_names():
        values = {key: _named(value) for key, value in config_values(config_of(name)).items()}
        found[name] = _without(values, defaults[values["model.name"]]) | {"model.name": values["model.name"]}
    return found


def _named(value: Any) -> Any:
    """A path in the cache by the cache's name: where that is depends on whose machine this is."""
    here = str(cache_root())
    return "CACHE" + value.removeprefix(here) if isinstance(value, str) and value.startswith(here) else value


def _without(values: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    assert {key for key in known if not key.startswith(("task.", "decode."))} <= values.keys(), "a config has every key"
    return {key: value for key, value in values.items() if key not in known or known[key] != value}
