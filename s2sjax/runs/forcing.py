"""Pairs of texts, teacher forced: a run's `score`, `logits`, `explain` and `align`."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from s2sjax.data.columns import Column, Examples
from s2sjax.data.splits import prompt_of
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.data.unknown import unknown_in
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment
from s2sjax.inference.counts import RequestCounts, WithCounts
from s2sjax.inference.details import Details, Logits
from s2sjax.inference.forced import Forced, ForcedOptions, Layers, choose_layers, forced_pairs
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.inference.scorers import attention_layers
from s2sjax.inference.word_alignment import Alignment, align_words, read_words, written_words
from s2sjax.runs.evaluate import check_positions
from s2sjax.task import Predictor

_MOST_LOGITS = 1 << 24
"""Scores of words that a device computes at a time: 64 MiB."""

Target = str | Hypothesis
Advance = Callable[[int], None]


def _silent(done: int) -> None:
    """For nobody who wants to know how far it is."""


@dataclass(frozen=True)
class Forcing:
    """Reads pairs as a run reads them, and has its model say what it thinks of their targets."""

    predictor: Predictor
    """Its requests read sources, its scorer is asked."""
    tokenizers: TokenizerPair
    experiments: tuple[Experiment, ...]
    """Configs of the run and of the other members of an ensemble."""

    def read(self, sources: Sequence[str], targets: Sequence[Target]) -> WithCounts[Examples]:
        """The pairs' tokens; targets in reading order.

        Raises:
            UserError: a hypothesis is of another vocabulary, or a pair is longer than the positions that were learned.
        """
        prompt = prompt_of(self.experiments[0].data)
        read = self.predictor.requests.source_rows([prompt(s) for s in sources])
        source_rows = read.result
        texts = [t for t in targets if isinstance(t, str)]
        rows = self.tokenizers.target.encode(texts)
        counts = read.counts + RequestCounts(unknown_targets=unknown_in(self.tokenizers.target, texts, rows))
        encoded = iter(rows)
        end = self.experiments[0].task.rows.end(self.tokenizers.target)
        added = [] if end is None else [end]
        target_rows = [np.append(next(encoded), added) if isinstance(t, str) else np.array(t.ids, int) for t in targets]
        vocab = self.tokenizers.target.vocab_size
        if any(row.max(initial=0) >= vocab for row in target_rows):
            raise UserError(f"a hypothesis has a token beyond this run's {vocab}: it is another run's")
        pairs = self.experiments[0].task.pairs(source_rows, target_rows)
        source, target = Column.from_rows(pairs.sources), Column.from_rows(pairs.targets)
        for experiment in self.experiments:
            check_positions(experiment, source.lengths, target.lengths)
        start = self.tokenizers.target.vocabulary.start
        return WithCounts(Examples.of_pairs(source, target, given=pairs.given, start=start), counts)

    def force(self, split: Examples, layers: Layers | None, *, progress: Advance = _silent) -> list[Forced]:
        """What the model says of each pair: see `forced_pairs`."""
        experiment = self.experiments[0]
        batch_size = experiment.decode.batch_size
        if layers is None:  # logits: rows of 64 tokens over the whole vocabulary
            batch_size = max(1, min(batch_size, _MOST_LOGITS // (64 * self.tokenizers.target.vocab_size)))
        options = ForcedOptions(batch_size, layers, experiment.task.rows.right_to_left)
        return forced_pairs(self.predictor.scorer, self.predictor.params, split, options, progress=progress)

    def score(
        self, sources: Sequence[str], targets: Sequence[Target], *, progress: Advance = _silent
    ) -> WithCounts[list[float]]:
        """The log-probability of each target, nats."""
        read = self.read(sources, targets)
        forced = self.force(read.result, (), progress=progress)
        return WithCounts([float(pair.log_probs.sum(dtype=np.float64)) for pair in forced], read.counts)

    def logits(self, sources: Sequence[str], targets: Sequence[Target], *, progress: Advance = _silent) -> list[Logits]:
        """What the model says at each token of each target, over the whole vocabulary."""
        split = self.read(sources, targets).result
        logits = [pair.logits for pair in self.force(split, None, progress=progress)]
        pieces, given = self.tokenizers.target.pieces, split.given
        rows = [split["target"][i][0 if given is None else given[i] :].tolist() for i in range(len(split))]
        return [Logits(values, tuple(ids), tuple(pieces(ids))) for values, ids in zip(logits, rows, strict=True)]

    def explain(self, sources: Sequence[str], found: Sequence[Sequence[Hypothesis]]) -> list[list[Details]]:
        """More about each hypothesis of each source, by one pass over all of them."""
        of_each = [source for source, hypotheses in zip(sources, found, strict=True) for _ in hypotheses]
        listed = [hypothesis for hypotheses in found for hypothesis in hypotheses]
        split = self.read(of_each, listed).result
        forced = self.force(split, choose_layers(None, self.attention_layers))
        alignments: Sequence[Alignment | None] = [None] * len(listed)
        if any(self.attention_layers):
            alignments = self._alignments(of_each, listed, split, forced)
        scores = self.predictor.length_scores([h.score for h in listed], [len(h.ids) for h in listed])
        details = map(Details, (tuple(pair.log_probs.tolist()) for pair in forced), scores, alignments)
        return [list(itertools.islice(details, len(hypotheses))) for hypotheses in found]

    def align(
        self, sources: Sequence[str], targets: Sequence[Target], layer: int | None, *, progress: Advance = _silent
    ) -> WithCounts[list[Alignment]]:
        """Which words of each pair belong together. Args: layer: as `choose_layers` takes it."""
        read = self.read(sources, targets)
        forced = self.force(read.result, choose_layers(layer, self.attention_layers), progress=progress)
        return WithCounts(self._alignments(sources, targets, read.result, forced), read.counts)

    @functools.cached_property
    def attention_layers(self) -> tuple[int, ...]:
        """How many layers of each model attend to the source."""
        return attention_layers(self.predictor.scorer, self.predictor.params)

    def _alignments(
        self, sources: Sequence[str], targets: Sequence[Target], split: Examples, forced: list[Forced]
    ) -> list[Alignment]:
        """By the attention that forcing gave."""
        prompt = prompt_of(self.experiments[0].data)
        before = prompt("{source}").index("{source}")  # characters of the prompt before the source
        alignments = []
        for i, (source, target, pair) in enumerate(zip(sources, targets, forced, strict=True)):
            end = before + len(source)
            read = read_words(self.tokenizers.source, prompt(source), split["source"][i], before, end)
            if isinstance(target, str):
                written = read_words(self.tokenizers.target, target, split["target"][i])
            else:
                written = written_words(self.tokenizers.target, split["target"][i])
            alignments.append(align_words(pair.attention, read, written))
        return alignments
