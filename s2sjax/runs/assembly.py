"""Parts of a run that its config decides: model, optimizer, the shapes of its state; and what it may be asked."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import optax
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from s2sjax import models
from s2sjax.config import differences, to_json
from s2sjax.data.labels import LABEL_KINDS
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError, listed, shown
from s2sjax.experiment import Experiment
from s2sjax.inference.scorers import Single
from s2sjax.learning import optim
from s2sjax.learning.state import TrainState, abstract_state, initializer
from s2sjax.ops.linear import Precision
from s2sjax.upgrade import current_key
from s2sjax.vocabulary import Vocabulary

Vocabularies = tuple[Vocabulary, Vocabulary]
"""Of source and target."""


def build_model(experiment: Experiment, vocabularies: Vocabularies, precision: str) -> nn.Module:
    """The module of a run."""
    ports = experiment.task.ports(*vocabularies)
    return models.build(experiment.model_name, experiment.model, ports, precision=Precision(precision))


def build_scorer(experiment: Experiment, vocabularies: Vocabularies, precision: str) -> Single:
    """The same, as search and evaluation ask it."""
    return scorer_of(build_model(experiment, vocabularies, precision), experiment, vocabularies, precision)


def scorer_of(model: nn.Module, experiment: Experiment, vocabularies: Vocabularies, precision: str) -> Single:
    """A module of a run that was built already, as search and evaluation ask it."""
    return Single(model, Precision(precision), experiment.task.ports(*vocabularies).reads)


class Parts(NamedTuple):
    """What a run is made of, before there is a number in it."""

    model: nn.Module
    optimizer: optax.GradientTransformation
    init: Callable[[Array], TrainState]
    """From a random key to the state before the first update."""
    state: TrainState
    """Shapes, types and shardings in place of arrays."""


def assemble_run(
    experiment: Experiment,
    vocabularies: Vocabularies,
    mesh: Mesh,
    *,
    precision: str | None = None,
    stored: bool = True,
) -> Parts:
    """Model, optimizer and state of a run.

    Args:
        precision: of the model's products; `train.precision` if None.
        stored: the state's parameters are laid out on the mesh as training stores them; or as they are used.
    """
    config = experiment.train
    model = build_model(experiment, vocabularies, precision or config.precision)
    optimizer = optim.make_optimizer(experiment.optimizer, config.steps)
    init = initializer(model, experiment.task.ports(*vocabularies), optimizer, ema=config.ema_decay > 0)
    return Parts(model, optimizer, init, abstract_state(init, mesh, experiment.sharding_rules, stored=stored))


def in_precision(experiment: Experiment, precision: str) -> Experiment:
    """The config of a run that decodes together with others, in this precision."""
    return dataclasses.replace(experiment, decode=dataclasses.replace(experiment.decode, precision=precision))


def check_changes(keys: Iterable[str], workdir: Path) -> None:
    """Raise a `UserError` for the first key that is none of those which `Run.with_config` can change."""
    for key in keys:
        section, _, name = current_key(key.removeprefix("config.")).rpartition(".")
        if section in ("checkpoint", "mesh") or (section in ("", "decode") and name == "checkpoint"):
            raise UserError(
                f"{key} decides what is loaded, and with_config loads nothing: open the run again with "
                f's2sjax.load("{workdir}", **{{"{key}": ...}})'
            )
        if section not in ("", "data", "batching", "task", "decode", "evaluate") or (section, name) == ("task", "name"):
            raise UserError(
                f"{key} is not with_config's to change, which takes keys of decode, data, batching, task and evaluate"
            )


def check_one_table(experiment: Experiment, tokenizers: TokenizerPair) -> None:
    """Raise a `UserError` if two vocabularies are to have one table, in which an id of the one is another word of the
    other. It is asked where a run begins; those that have begun so go on."""
    one = tokenizers.joint or tokenizers.source.to_bytes() == tokenizers.target.to_bytes()
    if getattr(experiment.model, "tied", None) == "all" and not one:
        raise UserError(
            "config.model.tied is 'all', but source and target have vocabularies of their own: set "
            "config.model.tied=decoder, or config.tokenizer.joint=True"
        )


def check_learned(experiment: Experiment, saved: Experiment, workdir: Path) -> None:
    """Raise a `UserError` if a run, with its saved config, is asked for what it has not learned: labels in place of
    text, targets in another order, or a language of `data.pairs`."""
    asked, learned = experiment.task, saved.task
    kinds = [each.task.tokenizer(each.tokenizer).target_kind for each in (experiment, saved)]
    # Not of any two tasks: a language model may be given pairs, and one of pairs plain text.
    if asked.name != learned.name and set(kinds) & set(LABEL_KINDS):
        raise UserError(f"config.task.name is '{asked.name}', but what {workdir} has learned is '{learned.name}'")
    if asked.name == learned.name and asked.rows != learned.rows:
        changed = differences(to_json(learned), to_json(asked), "config.task.")
        told = " and ".join(f"{key} is {shown(new)}, not {shown(old)}" for key, (old, new) in changed.items())
        raise UserError(f"{told}, as {workdir} has learned it: leave it out")
    known, wanted = (
        {language for pair in each.data.pairs for language in pair.split("-")} for each in (saved, experiment)
    )
    if known and not wanted <= known:
        raise UserError(
            f"config.data.pairs names {listed(sorted(wanted - known))}, and what {workdir} has learned is "
            f"{listed(sorted(known))}"
        )
