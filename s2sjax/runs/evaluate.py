"""Evaluation: the likelihood of every example once, and decoded text against references."""

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from s2sjax import sharding
from s2sjax.api import Batch
from s2sjax.config import nearest
from s2sjax.data import pipeline
from s2sjax.data.columns import Examples
from s2sjax.data.parts import parts_of
from s2sjax.data.plan import Plan, PlannedBatch, Shape, make_evaluation_plan
from s2sjax.data.prepare import Prepared
from s2sjax.data.records import Source
from s2sjax.data.splits import open_split
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError, shown
from s2sjax.experiment import Experiment
from s2sjax.inference.batching import padded_length
from s2sjax.inference.forced import cross_attention
from s2sjax.inference.gathering import gathering
from s2sjax.inference.hypotheses import best_text
from s2sjax.inference.scorers import Scorer
from s2sjax.metrics.bleu import check_bleu_tokenizer
from s2sjax.metrics.measure import measure_each, references_of
from s2sjax.metrics.names import part_and_name
from s2sjax.metrics.text import TextMetrics, suited
from s2sjax.ops.losses import LossOptions
from s2sjax.plural import counted
from s2sjax.processes import distributed
from s2sjax.processes.memory import needing_memory
from s2sjax.reporting.plots import attention_map
from s2sjax.reporting.report import Reporter
from s2sjax.runs import costs, home
from s2sjax.runs.assembly import build_scorer
from s2sjax.task import Predictor, Sums, Task, Trained


class Evaluator:
    """Sums over every example of a split, each exactly once, none left out: what `Task.evaluation` gives."""

    def __init__(
        self,
        scorer: Scorer,
        experiment: Experiment,
        split: Examples,
        mesh: Mesh,
        *,
        others: Sequence[Experiment] = (),
        gathered: Callable[[Any], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ):
        """Args:
        others: configs of the other members of an ensemble, whose positions must suffice too.
        gathered: from parameters as they are given to parameters as the scorer takes them; see `inference.gathering`.
        """
        task = experiment.task
        split = task.arrange(split, evaluation=True)
        self._make = functools.partial(task.batch, examples=split)
        self._mesh = mesh
        shards = sharding.batch_shards(mesh)
        source, target = task.lengths(split)
        longest = int(max(source.max(initial=1), target.max(initial=1)))
        for each in (experiment, *others):
            check_positions(each, source, target)
        self._plan = make_evaluation_plan(source, target, experiment.batching, shards=shards)
        ends = np.cumsum([*split.parts.values()])
        part_of = np.searchsorted(ends, np.arange(len(split)), side="right")
        self._plans = {
            name: self._plan.of(part_of == number) for number, name in enumerate(split.parts) if split.parts[name]
        }
        self._longer = longest > max(experiment.batching.max_source_length, experiment.batching.max_target_length)

        options = LossOptions(chunk=experiment.train.loss_chunk, shards=shards)
        self._sums = _compiled(task, scorer, options, gathered)

    def __call__(self, params) -> dict[str, float]:
        return self._of_batches(self._plan, params, 0, self._plan.batches_per_epoch)

    def by_part(self, params) -> dict[str, dict[str, float]]:
        """Of each set of a mixture or pair of languages that has examples; empty if there are no parts."""
        return {name: self._of_batches(plan, params, 0, plan.batches_per_epoch) for name, plan in self._plans.items()}

    def try_longest(self, params) -> None:
        """Compute the batch that needs the most memory, if training leaves out examples as long: it fails at once, not
        after an hour.

        Raises: UserError: there is not enough memory.
        """
        if self._longer:
            shapes = [self._plan.batch(number).shape for number in range(self._plan.batches_per_epoch)]
            number = max(range(len(shapes)), key=lambda n: shapes[n].source + shapes[n].target)
            self._of_batches(self._plan, params, number, number + 1)

    def _of_batches(self, plan: Plan, params, start: int, stop: int) -> dict[str, float]:
        """Over the batches `start` .. `stop - 1` of a plan."""
        total: dict[str, float] = {}
        place = sharding.batch_sharding(self._mesh)
        only = functools.partial(sharding.rows_here, place)
        for batch in pipeline.batches(plan, self._make, range(start, stop), only=only):
            with needing_memory(self._advice(batch)):
                for name, value in self._sums(params, sharding.to_devices(batch, place)).items():
                    total[name] = total.get(name, 0.0) + float(value)
        return total

    def _advice(self, batch: Mapping[str, np.ndarray]) -> str:
        longest = int(np.argmax(self._plan.source_lengths + self._plan.target_lengths))
        source, target = int(self._plan.source_lengths[longest]), int(self._plan.target_lengths[longest])
        rows = counted(len(batch["targets"]), "row")
        return (
            f"for the loss of {rows} of {batch['inputs'].shape[1]} source and "
            f"{counted(batch['targets'].shape[1], 'target token')}. Evaluation leaves nothing out, and the longest "
            f"example, number {longest + 1}, has {source} and "
            f"{counted(target, 'token')}: shorten or leave out such examples, or lower config.batching.tokens"
        )


def check_positions(experiment: Experiment, source: np.ndarray, target: np.ndarray) -> None:
    """Raise a `UserError` if examples of these lengths are longer than the positions that the model has learned."""
    lengths = source + target if experiment.is_language_model else np.maximum(source, target)
    limit = experiment.position_limit
    if limit is not None and (lengths > limit).any():
        raise UserError(
            f"{int((lengths > limit).sum())} of {counted(len(lengths), 'example')} are longer than "
            "config.model.max_positions "
            f"{counted(limit, 'token')}, the first of them number {int(np.argmax(lengths > limit)) + 1} with "
            f"{int(lengths[np.argmax(lengths > limit)])}: cut them, or train with more positions"
        )


@functools.lru_cache(maxsize=8)
def _compiled(
    task: Task, scorer: Scorer, options: LossOptions, gathered: Callable[[Any], contextlib.AbstractContextManager[Any]]
) -> Callable[[Any, Batch], Sums]:
    """The sums of a batch under `jax.jit`, which whoever asks for the same again finds compiled."""

    def sums(params, batch):
        with gathered(params) as ready:
            return task.evaluation(scorer, ready, batch, options)

    return jax.jit(sums)


class Validator:
    """What happens every `evaluate.every_steps`: validation loss, decoded metrics, samples and their attention."""

    def __init__(self, experiment: Experiment, prepared: Prepared, mesh: Mesh, report: Reporter, params):
        """Args:
        params: as they are stored before the first step.

        Raises:
            UserError: the config asks of decoding or of BLEU's tokenizer what cannot be.
        """
        self._how = text_metrics_of(experiment, experiment.validation_metrics)
        self._experiment, self._prepared, self._report = experiment, prepared, report
        part, _ = part_and_name(experiment.checkpoint.metric)
        if part and not prepared.splits["validation"].parts.get(part):
            raise UserError(
                f"config.checkpoint.metric is '{experiment.checkpoint.metric}', but validation has no example of {part}"
            )
        scorer = functools.partial(build_scorer, experiment, prepared.tokenizers.vocabularies)
        self._whole = functools.partial(sharding.gather, mesh, rules=experiment.sharding_rules)
        by_layer = functools.partial(gathering, mesh=mesh, rules=experiment.sharding_rules, by_layer=True)
        self._evaluator = Evaluator(
            scorer(experiment.train.precision), experiment, prepared.splits["validation"], mesh,
            gathered=by_layer if experiment.gathers_layers else contextlib.nullcontext,
        )  # fmt: skip
        decoding = scorer(experiment.decode.precision)
        self._source = open_split(experiment.data, "validation")
        if experiment.evaluate.decode:
            self._how, remarks = suited_to(self._source, self._how, experiment)
            for remark in remarks:
                report.message(f"warning: {remark}")
        self._attention = jax.jit(functools.partial(cross_attention, decoding.model))
        self._predictor = make_predictor(experiment, decoding, params, prepared.tokenizers, mesh)
        self._predictor.set_params(None)  # these are about to be donated

    def try_longest(self, params) -> None:
        """See `Evaluator.try_longest`. Args: params: as they are stored."""
        self._evaluator.try_longest(params if self._experiment.gathers_layers else self._whole(params))

    def __call__(self, step: int, params) -> dict[str, float]:
        """Args:
        params: as they are stored.
        """
        experiment = self._experiment
        began = time.monotonic()
        if not experiment.gathers_layers:
            params = self._whole(params)
        sums, by_part = self._evaluator(params), self._evaluator.by_part(params)
        samples = sample_rows(self._source, experiment.evaluate.samples)
        chosen = range(len(self._source)) if experiment.evaluate.decode else samples
        rows = [experiment.task.question(self._source[i]) for i in chosen]
        hypotheses: list[str] = []
        if rows:
            params = self._whole(params)
            self._predictor.set_params(params)
            try:
                found = self._predictor([row["source"] for row in rows])
                hypotheses = [best_text(each) for each in found.result]
            finally:
                self._predictor.set_params(None)  # or they would be whole on each device until the next time
        compared, texts = (rows, hypotheses) if experiment.evaluate.decode else (self._source, None)
        measure = functools.partial(experiment.task.measure, self._how)
        measured = measure(compared, texts, sums)
        metrics = {name: float(measured[name]) for name in self._how.names}
        of_each = measure_each(measure, compared, texts, self._source.parts, by_part)
        parts = {name: {key: float(each[key]) for key in metrics} for name, each in of_each.items()}
        part, name = part_and_name(experiment.checkpoint.metric)
        if part:
            metrics[experiment.checkpoint.metric] = parts[part][name]
        self._report.validation(step, metrics, seconds=time.monotonic() - began, parts=parts)
        shown = [chosen.index(i) for i in samples]
        self._report.samples(step, [(rows[j]["source"], rows[j]["target"], hypotheses[j]) for j in shown])
        if samples and "align" in experiment.task.offers:
            self._plot_attention(params, samples)
        if texts is not None:
            self._draw(experiment.task.pictures(compared, texts))
        return metrics

    def _draw(self, pictures: Mapping[str, Callable[[Path], None]]) -> None:
        """What the task draws of predictions."""
        for name, draw in pictures.items() if distributed.index() == 0 else ():
            with self._report.losing(f"plots/{name}.png"):
                draw(self._report.workdir / "plots" / f"{name}.png")

    def _plot_attention(self, params, examples: Sequence[int]) -> None:
        """Attention between the source and the reference of each sample, teacher forced."""
        split, pieces = self._prepared.splits["validation"], self._prepared.tokenizers
        sources, targets = [split["source"][i] for i in examples], [split["target"][i] for i in examples]
        shape = Shape(len(examples), *(padded_length(max(map(len, side))) for side in (sources, targets)))
        batch = self._experiment.task.batch(PlannedBatch(shape, np.array(examples), np.arange(len(examples))), split)
        weights = self._attention(params, batch)
        if weights is None:  # a family without attention
            return
        weights = sharding.to_host(weights)
        if distributed.index() != 0:
            return
        for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
            name = f"plots/attention_{number + 1}.png"
            with self._report.losing(name):
                attention_map(
                    pieces.source.pieces(source.tolist()),
                    pieces.target.pieces(target.tolist()),
                    weights[number, : len(target), : len(source)],
                    self._report.workdir / name,
                    inside=self._report.workdir,
                )


def sample_rows(source: Source, count: int) -> list[int]:
    """Rows spread evenly over a split: the same ones every time."""
    count = min(count, len(source))
    return [(2 * n + 1) * len(source) // (2 * count) for n in range(count)]


def make_predictor(
    experiment: Experiment,
    scorer: Scorer,
    params,
    tokenizers: TokenizerPair,
    mesh: Mesh,
    *,
    others: Sequence[Experiment] = (),
) -> Predictor:
    """What makes predictions of a run, or of an ensemble: then `others` are the configs of its other members, whose
    limits on the lengths of sources and outputs hold too."""
    limits = [member.limits for member in (experiment, *others)]
    trained = Trained(scorer, params, tokenizers)
    return experiment.task.predictor(trained, experiment.data, experiment.decode, limits, mesh)


def check_search(
    experiment: Experiment, workdir: Path, said: Collection[str] | None, tokenizers: TokenizerPair, params
) -> None:
    """Raise a `UserError` if validation by the saved config of somebody else's run would take much memory to decode.

    Args:
        said: config keys whose values are the user's own; None if all are.
        params: shapes and types of the parameters.
    """
    decodes = experiment.evaluate.decode or experiment.evaluate.samples
    if said is None or not decodes or home.decided(functools.partial(home.is_home, workdir, experiment, said)):
        return
    scorer = build_scorer(experiment, tokenizers.vocabularies, experiment.decode.precision)
    own = home.keys(said)
    fits = costs.with_search_that_fits(experiment, own, workdir, scorer, params, tokenizers.target.vocab_size)
    if (most := fits.decode.batch_size) != experiment.decode.batch_size:
        raise UserError(
            f"{costs.elsewhere(workdir)} Its validation would decode "
            f"{counted(experiment.decode.batch_size, 'sentence')} at a "
            f"time, which take much memory. Say whether you want that: --config.decode.batch_size={most}, for instance"
        )


def suited_to(source: Source, how: TextMetrics, experiment: Experiment) -> tuple[TextMetrics, list[str]]:
    """What is computed of a split, and for the user, before it is decoded: metrics that mean little for the language of
    its references. BLEU that means nothing for it is computed only if the config names it."""
    asked = "bleu" in (*experiment.evaluate.metrics, part_and_name(experiment.checkpoint.metric)[1])
    return suited([references_of(source[i]) for i in sample_rows(source, 500)], how, bleu_asked=asked)


def check_metric(experiment: Experiment) -> None:
    """Raise a `UserError` if checkpoints are to be chosen by a metric of a set or pair of languages that there is not.

    Only training asks: a run may be evaluated on some of its sets.
    """
    part, name = part_and_name(metric := experiment.checkpoint.metric)
    parts = parts_of(experiment.data)
    known = [f"{each}/{name}" for each in parts] if len(parts) > 1 else []
    if part and metric not in known:
        raise UserError(
            f"config.checkpoint.metric is {shown(metric)}, which validation does not report: "
            f"{nearest(metric, [name, *known])}"
        )


def text_metrics_of(experiment: Experiment, names: tuple[str, ...]) -> TextMetrics:
    """How an experiment computes metrics, before anything is decoded for them.

    Raises:
        UserError: what `evaluate.bleu_tokenize` needs is not on this machine.
    """
    how = TextMetrics(names, experiment.evaluate.bleu_tokenize, experiment.evaluate.rouge_tokenize)
    if "bleu" in names:
        check_bleu_tokenizer(how.bleu_tokenize, "config.evaluate.bleu_tokenize")
    return how
