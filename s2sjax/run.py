"""A run directory, opened for use: decode, score, evaluate. It needs nothing but the directory.

A run directory is data. Reading one never runs code: the config is JSON, checkpoints are arrays and JSON, SentencePiece
models are read by SentencePiece.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from s2sjax import experiment as experiments
from s2sjax import models, optim, sharding
from s2sjax.api import Rules
from s2sjax.checkpoint import CheckpointReader
from s2sjax.data import prepare as preparation
from s2sjax.data import tokenizer as tokenizers_lib
from s2sjax.data.examples import assemble
from s2sjax.data.plan import PlannedBatch, Shape
from s2sjax.data.prepare import Ragged, TokenizedSplit
from s2sjax.data.sources import Source
from s2sjax.data.splits import open_split, prompt_of
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError
from s2sjax.evaluate import LikelihoodEvaluator, check_positions, make_translator, write_json
from s2sjax.experiment import Experiment
from s2sjax.metrics import error_rates, likelihood_metrics, text_metrics
from s2sjax.ops.linear import Precision
from s2sjax.report import progress
from s2sjax.state import abstract_state, initializer
from s2sjax.tasks.likelihood import sentence_log_probs
from s2sjax.tasks.translate import Hypothesis, Translator, best_text, padded_length
from s2sjax.vocabulary import EOS

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with all that belongs to it. Made by `load`."""

    workdir: Path
    experiment: Experiment
    step: int
    """Of the checkpoint that was read."""
    params: dict
    """The parameter tree; the moving average if the run kept one."""
    tokenizers: TokenizerPair
    mesh: Mesh
    model: nn.Module
    """The Linen module, in `decode.precision`."""
    translator: Translator

    def decode(
        self,
        sources: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[list[Hypothesis]]:
        """The `decode.nbest` best translations of each source, best first, or `decode.samples` draws.

        An empty source gives an empty one; where nothing meets the constraints, there is none. A language model of
        plain text gives continuations instead.

        Args:
            prefixes: what each translation has to begin with.

        Raises:
            UserError: the run knows several pairs of languages, and `data.pairs` names more than one.
        """
        prompt = prompt_of(self.experiment.data)
        sources = [prompt(s) if s.strip() else s for s in sources]
        return self.translator(sources, prefixes=prefixes, progress=progress)

    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str | Hypothesis],
        *,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[float]:
        """Log-probability of each target given its source, in nats, end-of-sentence counted.

        Of a text it is that of the tokens which the tokenizer cuts it into, of a hypothesis that of its own, which is
        its `score` again. A language model of plain text gives the log-probability of the target after the source.

        Raises:
            UserError: a hypothesis is of another vocabulary.
        """
        prompt = prompt_of(self.experiment.data)
        source_rows = self.translator.source_rows([prompt(s) for s in sources])
        encoded = iter(self.tokenizers.target.encode([t for t in targets if isinstance(t, str)]))
        target_rows = [np.append(next(encoded), EOS) if isinstance(t, str) else np.array(t.ids, int) for t in targets]
        vocab = self.tokenizers.target.vocab_size
        if any(row.max(initial=0) >= vocab for row in target_rows):
            raise UserError(f"a hypothesis has a token beyond this run's {vocab}: it is another run's")
        given = None
        if not self.experiment.data.source:  # one text, whose first part is only read
            source_rows = [row[1:] for row in source_rows]  # without begin-of-sentence, which targets get anyway
            given = np.array([len(row) for row in source_rows], np.int32)
            target_rows = [np.concatenate(rows) for rows in zip(source_rows, target_rows, strict=True)]
            source_rows = [np.zeros(0, np.int32)] * len(target_rows)
        source, target = Ragged.from_rows(source_rows), Ragged.from_rows(target_rows)
        check_positions(self.experiment, source.lengths, target.lengths)
        split = TokenizedSplit(source, target, fingerprint="", given=given)
        scores = np.zeros(len(sources))
        score = jax.jit(sentence_log_probs, static_argnums=0, static_argnames="precision")
        order = np.lexsort((source.lengths, target.lengths))[::-1]
        done = 0
        while done < len(order):
            # The next rows are the longest left in the target; their sources may be of any length.
            T = padded_length(int(target.lengths[order[done]]))
            rows = max(1, min(self.experiment.decode.batch_size, self.experiment.decode.batch_size * 64 // T))
            batch = order[done : done + rows]
            shape = Shape(rows if len(order) > 1 else 1, padded_length(int(source.lengths[batch].max())), T)
            arrays = assemble(PlannedBatch(shape, batch, np.arange(len(batch))), split)
            precision = Precision(self.experiment.decode.precision)
            scores[batch] = np.asarray(score(self.model, self.params, arrays, precision=precision))[: len(batch)]
            done += len(batch)
            progress(len(batch))
        return scores.tolist()

    def tag(self, texts: Sequence[str]) -> list[list[tuple[str, int]]]:
        """Each text's tokens with the hidden state of each, on the best path (Viterbi); end-of-sentence is the last.

        Raises:
            UserError: the model has no hidden states.
        """
        if not hasattr(self.model, "tag"):
            raise UserError(f"{self.experiment.model_name} has no hidden states to tag with; a hidden Markov model has")
        path = jax.jit(lambda params, batch: self.model.apply({"params": params}, batch, method="tag"))
        tagged = []
        for ids in self.tokenizers.target.encode(list(texts)):
            row = np.append(ids, EOS)
            nothing = Ragged.from_rows([np.zeros(0, np.int32)])
            split = TokenizedSplit(nothing, Ragged.from_rows([row]), fingerprint="")
            shape = Shape(1, 0, padded_length(len(row)))
            states = np.asarray(path(self.params, assemble(PlannedBatch(shape, np.arange(1), np.arange(1)), split)))
            tagged.append(list(zip(self.tokenizers.target.pieces(row), states[0, : len(row)].tolist(), strict=True)))
        return tagged

    def evaluate(self, split: str) -> dict[str, float | str]:
        """Loss and decoded metrics on one split; also written to `WORKDIR/results/SPLIT.json`.

        Raises:
            UserError: for a split that is missing, or a results directory that cannot be written.
        """
        began = time.monotonic()
        source = open_split(self.experiment.data, split)
        with progress(f"tokenising {split}") as advance:
            tokenized = preparation.tokenize(self.experiment.data, self.tokenizers, split, progress=advance)
        precision = Precision(self.experiment.decode.precision)
        likelihood = LikelihoodEvaluator(self.model, self.experiment, tokenized, self.mesh, precision=precision)(
            self.params
        )
        results: dict[str, float | str] = {"loss": likelihood.loss}
        if self.experiment.data.source:
            results |= self._decoded_scores(split, source)
        else:
            results |= likelihood_metrics(*likelihood, (row["target"] for row in source))
        results |= {"step": self.step, "seconds": time.monotonic() - began}
        name = "".join(f".{pair}" for pair in self.experiment.data.pairs)
        write_json(self.workdir / "results" / f"{split.replace('/', '_')}{name}.json", results)
        return results

    def _decoded_scores(self, split: str, source: Source) -> dict[str, float | str]:
        sources, references = zip(*((row["source"], row["target"]) for row in source), strict=True)
        with progress(f"decoding {split}", len(sources)) as advance:
            hypotheses = [best_text(found) for found in self.translator(sources, progress=advance)]
        return text_metrics(hypotheses, references) | error_rates(sources, hypotheses, references)


def load(workdir: str | Path, *, experiment: Experiment | None = None) -> Run:
    """Open a run directory.

    Args:
        experiment: the run's config with other `decode`, `data` or `mesh` values; the saved one if None.

    Raises:
        UserError: if the directory is no run, or has no undamaged checkpoint.
    """
    workdir = Path(workdir)
    experiment = experiment or experiments.load(workdir / "config.json")
    mesh = sharding.make_mesh(experiment.mesh)
    tokenizers = tokenizers_lib.load(workdir / "tokenizer")
    family = models.family(experiment.model_name)
    sizes = (tokenizers.source.vocab_size, tokenizers.target.vocab_size)
    model = family.build(experiment.model, *sizes, precision=Precision(experiment.decode.precision))
    step, params = _restore(workdir, experiment, model, mesh, family.sharding_rules(experiment.model))
    translator = make_translator(experiment, model, params, tokenizers, mesh)
    return Run(workdir, experiment, step, params, tokenizers, mesh, model, translator)


def _restore(workdir: Path, experiment: Experiment, model: nn.Module, mesh: Mesh, rules: Rules):
    """The step and parameters that `decode.checkpoint` names; nothing else of the state is read."""
    reader = CheckpointReader(workdir / "checkpoints", experiment.checkpoint.metric)
    optimizer = optim.make_optimizer(experiment.optimizer, experiment.train.steps)
    ema = experiment.train.ema_decay > 0
    abstract = abstract_state(initializer(model, optimizer, ema=ema), mesh, rules)
    wanted = {"ema": abstract.ema} if ema else {"params": abstract.params}
    choice = experiment.decode.checkpoint
    step = reader.best_step() if choice == "best" else None if choice == "last" else int(choice)
    restored = reader.restore(wanted, step, partial=True)
    if restored is None:
        raise UserError(f"{workdir} has no checkpoint yet; train it first, or wait for its first one")
    for message in restored.rejected:
        _log.warning("%s", message)
    (params,) = restored.state.values()
    return restored.step, params
