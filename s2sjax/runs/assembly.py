"""Parts of a run that its config decides: its model, and what it may be asked."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from flax import linen as nn

from s2sjax import models
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment
from s2sjax.ops.linear import Precision


def build_model(experiment: Experiment, tokenizers: TokenizerPair) -> nn.Module:
    """The module of a trained run, in `decode.precision`."""
    sizes = (tokenizers.source.vocab_size, tokenizers.target.vocab_size)
    family = models.family(experiment.model_name)
    return family.build(experiment.model, *sizes, precision=Precision(experiment.decode.precision))


def in_precision(experiment: Experiment, precision: str) -> Experiment:
    """The config of a run that decodes together with others, in this precision."""
    return dataclasses.replace(experiment, decode=dataclasses.replace(experiment.decode, precision=precision))


def check_changes(keys: Iterable[str], workdir: Path) -> None:
    """Raise a `UserError` for the first key that is none of those which `Run.with_config` can change."""
    for key in keys:
        section, _, name = key.removeprefix("config.").rpartition(".")
        if section in ("checkpoint", "mesh") or (section in ("", "decode") and name == "checkpoint"):
            raise UserError(
                f"{key} decides what is loaded, and with_config loads nothing: open the run again with "
                f's2sjax.load("{workdir}", **{{"{key}": ...}})'
            )
        if section not in ("", "data", "decode", "evaluate"):
            raise UserError(f"{key} is not with_config's to change, which takes keys of decode, data and evaluate")


def check_languages(experiment: Experiment, saved: Experiment, workdir: Path) -> None:
    """Raise a `UserError` if `data.pairs` asks for a language that the run, with its saved config, has not learned."""
    learned, asked = (
        {language for pair in each.data.pairs for language in pair.split("-")} for each in (saved, experiment)
    )
    if learned and not asked <= learned:
        raise UserError(
            f"config.data.pairs names {', '.join(sorted(asked - learned))}, and what {workdir} has learned is "
            f"{', '.join(sorted(learned))}"
        )
