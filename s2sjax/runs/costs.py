"""What a config may cost that comes with somebody else's run directory: numbers beyond which it has to be said.

A number of the config decides how long a program is traced, or how much memory a batch takes, before anything that the
user brings is looked at. The limits are far above what is common. In a run of one's own there are none.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from s2sjax import models
from s2sjax.data.config import DataConfig
from s2sjax.data.parts import parts_of
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError, flag
from s2sjax.experiment import Experiment
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.scorers import Scorer
from s2sjax.inference.search_size import MARGIN, SearchSize, fitting, footprint
from s2sjax.plural import counted

MOST_LAYERS = 256
"""Each takes some hundredths of a second before its checkpoint is read."""
MOST: Mapping[str, int] = {
    "model.relative_distance": 1 << 16, "model.relative_buckets": 1 << 10, "decode.groups": 16,
    "decode.no_repeat_ngram": 16,
}  # fmt: skip
"""Each of these is a loop in Python."""
MOST_OF_TRAINING: Mapping[str, int] = {
    "batching.tokens": 1 << 18, "batching.length_multiple": 1 << 10, "train.loss_chunk": 1 << 16,
}  # fmt: skip
"""What a step computes at a time. It decides what is computed, so it cannot be lowered."""
MOST_FIELDS, LONGEST_TEMPLATE = 64, 1 << 14
"""Fields and characters of a text that is made of others: so many times as long a source may become."""
LONGEST_TOKEN = 256
"""Characters that a token is written as, or bytes that a character is read as: so many times as long a text becomes."""
MOST_OF_SYMBOLS = 1 << 20
"""Characters of all user symbols, which are searched for together. Each takes 150 bytes."""
LOWERED: Mapping[str, int] = {
    "decode.batch_size": 256, "batching.tokens": 1 << 14, "batching.length_multiple": 128, "train.loss_chunk": 1 << 11,
}  # fmt: skip
"""What evaluation and decoding compute at a time. The result is the same with less."""


def elsewhere(workdir: Path) -> str:
    """What a message about such a run begins with."""
    return f"{workdir} was made elsewhere, by somebody else or by an old version, or its config was edited."


def beyond(experiment: Experiment, *, training: bool) -> dict[str, str]:
    """Keys of a config whose values cost too much to be obeyed unasked, each with what is too much of it."""
    found = {}
    for key, most in {**MOST, **(MOST_OF_TRAINING if training else {})}.items():
        if (value_of(experiment, key) or 0) > most:
            found[key] = f"more than {most:,}"
    if models.depth(experiment.model) > MOST_LAYERS:
        sizes = (name for name, value in models.layers(experiment.model).items() if value > 1)
        found |= {f"model.{name}": f"more than {counted(MOST_LAYERS, 'layer')} together" for name in sizes}
    found |= {f"task.{name}": why for name, why in experiment.task.costly().items()}
    return found | {
        f"data.{key}": f"texts of more than {counted(MOST_FIELDS, 'field')} or {counted(LONGEST_TEMPLATE, 'character')}"
        for key in _long_templates(experiment.data)
    }


def _long_templates(data: DataConfig) -> Iterator[str]:
    """The keys of `data`, also those of a set of a mixture, that make long texts of short ones."""
    for part_name, part in parts_of(data).items():
        for name, texts in (("prompt", [part.prompt]), ("source", [part.source]), ("target", part.targets)):
            if any(text.count("{") > MOST_FIELDS or len(text) > LONGEST_TEMPLATE for text in texts):
                yield f"mixture.{part_name}.{name}" if name in data.mixture.get(part_name, {}) else name


def beyond_tokens(tokenizers: TokenizerPair) -> str:
    """What is too much of a run's vocabularies to be used unasked, because texts would grow by it; empty if nothing."""
    for tokenizer in (tokenizers.source, tokenizers.target):
        if (longest := tokenizer.longest) > LONGEST_TOKEN:
            return f"tokens or replacements of up to {counted(longest, 'character')}"
        if (length := sum(map(len, tokenizer.symbols))) > MOST_OF_SYMBOLS:
            return f"user symbols of {counted(length, 'character')} together"
    return ""


def lowered(experiment: Experiment, own: Collection[str]) -> Experiment:
    """A config to decode and evaluate by, with less computed at a time. Args: own: keys that stay as they are."""
    changes: dict[str, dict[str, Any]] = {}
    for key, most in LOWERED.items():
        if key == "batching.length_multiple":  # of which devices may share a part each
            most = max(most // experiment.mesh.sequence, 1) * experiment.mesh.sequence
        if key not in own and value_of(experiment, key) > most:
            section, _, name = key.partition(".")
            changes.setdefault(section, {})[name] = most
    sections = {name: dataclasses.replace(getattr(experiment, name), **values) for name, values in changes.items()}
    return dataclasses.replace(experiment, **sections)


def with_search_that_fits(
    experiment: Experiment, own: Collection[str], workdir: Path, scorer: Scorer, params: Any, vocab_size: int
) -> Experiment:
    """A config whose search takes at most `MARGIN` bytes more than one by default settings: with fewer sentences in a
    batch, which changes no output.

    Args:
        own: config keys whose values are the user's own, whatever they cost.
        params: the scorer's, or their shapes and types.

    Raises:
        UserError: one sentence takes more, because of what is not the user's own.
    """
    decode = experiment.decode
    asked, default = experiment.task.search_size(decode), SearchSize.of(DecodeConfig())
    if asked is None:
        return experiment
    width = "beam_size" if decode.method == "beam" else "samples"
    keys = {name: f"decode.{width if name == 'width' else name}" for name in vars(asked)}
    differing = {name: value for name, value in vars(asked).items() if value != getattr(default, name)}
    default = dataclasses.replace(default, **{name: v for name, v in differing.items() if keys[name] in own})
    unsaid = [keys[name] for name in differing if keys[name] not in own]
    if not unsaid:
        return experiment
    of = footprint(scorer, params, vocab_size, width=decode.width, heads=getattr(experiment.model, "heads", 0))
    longest = experiment.batching.max_source_length
    fits = fitting(asked, default, of, longest)
    if fits is None:
        taken = of.bytes(dataclasses.replace(asked, batch_size=1), longest)
        settings = {key: value_of(experiment, key) for key in unsaid if key != "decode.batch_size"}
        raise UserError(
            f"{elsewhere(workdir)} Its search would take up to {taken / 1e9:,.1f} GB for one source, and more than "
            f"{MARGIN >> 20} MiB beyond the default is not taken unasked. If you want that, say so, or give less: "
            + " ".join(flag(f"config.{key}", value) for key, value in settings.items())
        )
    return dataclasses.replace(experiment, decode=dataclasses.replace(decode, batch_size=fits))


def value_of(experiment: Experiment, key: str) -> Any:
    """The value of a config key, "decode.beam_size"; None if there is none, as a family may lack some."""
    value: Any = experiment
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return value
