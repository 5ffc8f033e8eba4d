"""Opening run directories: one, or several that decode together. It needs nothing but the directories.

A run directory is data. Reading one never runs code: the config is JSON, checkpoints are arrays and JSON, SentencePiece
models are read by SentencePiece.
"""

import dataclasses
import logging
import math
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from s2sjax import experiment as experiments
from s2sjax import sharding
from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.data import tokenizer as tokenizers_lib
from s2sjax.data.tokenizer import Tokenizer
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment
from s2sjax.inference import inputs
from s2sjax.plural import counted
from s2sjax.processes import jax_settings
from s2sjax.processes.root_logger import root_logger_untouched
from s2sjax.runs import costs, home
from s2sjax.runs.assembly import Vocabularies, assemble_run, build_scorer, check_learned, in_precision
from s2sjax.runs.depth import check_depth
from s2sjax.runs.run import Run
from s2sjax.sharding import MeshConfig

_log = logging.getLogger(__name__)


@root_logger_untouched()
@jax_settings.exact_products()
def load(
    workdir: str | Path,
    *,
    experiment: Experiment | ConfigDict | None = None,
    ensemble: Iterable[str | Path] = (),
    said: Iterable[str] = (),
    saved: Experiment | None = None,
    **changes: Any,
) -> Run:
    """Open a run directory, or several that decode together. Nothing in a run directory is executed.

    >>> run = s2sjax.load("runs/numbers")
    >>> run
    Run(runs/numbers, rnn_seq2seq, 24,944 parameters, step 120)
    >>> run.decode(["two three one"])
    [[Hypothesis('zwei drei eins', score=-0.0..., ranking_score=-0.0..., 4 tokens)]]
    >>> newest = s2sjax.load("runs/numbers", checkpoint="last", beam_size=1)
    >>> both = s2sjax.load("runs/numbers", ensemble=["runs/numbers"])

    Args:
        experiment: the run's config with other `decode`, `data` or `mesh` values; the saved one if None.
        ensemble: directories of more runs, of any family, with the vocabularies of the first, whose `decode` section
            says how to search; which checkpoint of a member is read, its own does.
        said: keys of the config whose values are the caller's own although the saved ones are the same: with "data.dir"
            among them, also a run that was made elsewhere reads its data there (see `s2sjax.runs.home`).
        saved: the config of the run directory, if `experiment` was made of it: what differs is the caller's own, and
            nothing that was written there since. It is read if None.
        changes: values to change in it, fields of `decode`, as in checkpoint="last" or checkpoint=7, or other keys with
            their section, as in **{"mesh.data": 1}.

    Raises:
        UserError: if a directory is no run, has no undamaged checkpoint, or does not go with the first; or if another
            language is asked for than the run has learned.
    """
    workdir = inputs.path(workdir, "workdir")
    members = [
        inputs.path(each, f"ensemble[{i}]") for i, each in enumerate(inputs.list_of("paths", ensemble, "ensemble"))
    ]
    saved = experiments.load(workdir / "config.json") if saved is None else experiments.as_experiment(saved)
    asked = saved if experiment is None else experiments.as_experiment(experiment)
    experiment = experiments.override(asked, changes, section="decode")
    check_learned(experiment, saved, workdir)
    own = frozenset({*inputs.texts(list(said) if isinstance(said, Set) else said, "said"), *changes})
    bounded = home.check_costs(workdir, experiment, saved, own)
    if bounded is not None:
        experiment = costs.lowered(experiment, bounded)
    mesh = _mesh_here(experiment.mesh, saved.mesh)
    tokenizers = tokenizers_lib.load(workdir / "tokenizer")
    home.check_tokens(workdir, saved, bounded, tokenizers)
    scorer = build_scorer(experiment, tokenizers.vocabularies, experiment.decode.precision)
    step, params, metrics = _restore(workdir, experiment, tokenizers.vocabularies, mesh)
    if bounded is not None:
        experiment = costs.with_search_that_fits(
            experiment, bounded, workdir, scorer, params, tokenizers.target.vocab_size
        )
    run = Run(workdir, experiment, saved, step, metrics, params, tokenizers, mesh, scorer.model, said=own)
    if members:
        run = dataclasses.replace(run, others=tuple(_member(run, member) for member in members))
    _ = run.predictor  # made now, so that a config which the model cannot follow is refused here
    return run


def _mesh_here(asked: MeshConfig, trained: MeshConfig) -> Mesh:
    """The mesh asked for or, if that is training's and does not fit these devices, all of them along `data`."""
    try:
        return sharding.make_mesh(asked)
    except UserError:
        if asked != trained:
            raise
    _log.warning("trained on a mesh that does not fit the devices here; all of them take rows (config.mesh.data)")
    return sharding.make_mesh(MeshConfig())


def _member(first: Run, workdir: Path) -> Run:
    """Another run, in the precision and on the devices of the first. Raises: UserError if it does not go with it."""
    experiment = experiments.load(workdir / "config.json")
    experiment = in_precision(experiment, first.experiment.decode.precision)
    tokenizers = tokenizers_lib.load(workdir / "tokenizer")
    for side in ("source", "target"):
        one, other = getattr(first.tokenizers, side), getattr(tokenizers, side)
        if (one.kind, one.to_bytes()) != (other.kind, other.to_bytes()):
            raise UserError(
                f"{workdir} cannot be in an ensemble with {first.workdir}: its {side} vocabulary is another "
                f"({_first_difference(one, other)}). Train it on the same data with the same config.tokenizer, or, if "
                f"that is SentencePiece, with config.tokenizer.{side}_model={first.workdir}/tokenizer/{side}.model"
            )
    mine, theirs = first.experiment.data, experiment.data
    if (first.experiment.task.name, mine.prompt) != (experiment.task.name, theirs.prompt):
        raise UserError(
            f"{workdir} cannot be in an ensemble with {first.workdir}: it reads config.data.source={theirs.source!r} "
            f"as config.data.prompt={theirs.prompt!r}, and not {mine.source!r} as {mine.prompt!r}; choose runs that "
            "read the same"
        )
    if (turned := experiment.task.rows.right_to_left) != first.experiment.task.rows.right_to_left:
        orders = [f"'{'right_to_left' if each else 'left_to_right'}'" for each in (turned, not turned)]
        raise UserError(
            f"{workdir} cannot be in an ensemble with {first.workdir}: it writes config.task.target_order={orders[0]} "
            f"and not {orders[1]}, so the two never ask for the same token; let one rerank what the other finds "
            "(s2sjax rerank)"
        )
    return load(workdir, experiment=dataclasses.replace(experiment, mesh=first.experiment.mesh))


def _first_difference(one: Tokenizer, other: Tokenizer) -> str:
    """What the other vocabulary has in place of what the one has."""
    if one.vocab_size != other.vocab_size:
        return f"of {counted(other.vocab_size, 'token')}, not {one.vocab_size}"
    pairs = zip(*(tokenizer.pieces(range(one.vocab_size)) for tokenizer in (one, other)), strict=True)
    for number, (piece, others) in enumerate(pairs):
        if piece != others:
            return f"token {number} is '{others}', not '{piece}'"
    return "of the same tokens, but it cuts text otherwise"


def _restore(workdir: Path, experiment: Experiment, vocabularies: Vocabularies, mesh: Mesh):
    """Step, parameters as they are used, and metrics of what `decode.checkpoint` names; nothing else is read."""
    reader = CheckpointReader(workdir / "checkpoints", experiment.checkpoint.metric)
    check_depth(reader, experiment.decode.checkpoint, experiment.model)
    state = assemble_run(experiment, vocabularies, mesh, precision=experiment.decode.precision, stored=False).state
    wanted = {"params": state.params} if state.ema is None else {"ema": state.ema}
    choice, metric = experiment.decode.checkpoint, experiment.checkpoint.metric
    restored = reader.restore_chosen(wanted, choice, partial=True, cast=experiment.checkpoint.cast)
    if restored is None:
        raise UserError(f"{workdir} has no checkpoint yet; train it first, or wait for its first one")
    if choice == "best" and math.isnan(restored.metrics.get(metric, math.nan)):
        _log.warning("no checkpoint of %s has config.checkpoint.metric '%s'; the newest is read", workdir, metric)
    for message in restored.messages:
        _log.warning("%s", message)
    (params,) = restored.state.values()
    return restored.step, params, restored.metrics
