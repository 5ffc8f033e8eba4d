"""Pairs of texts, teacher forced: what a run's `score`, `logits`, `explain` and `align` are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from s2sjax.data.prepare import Ragged, TokenizedSplit, row_end
from s2sjax.data.splits import prompt_of
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError
from s2sjax.evaluate import check_positions
from s2sjax.experiment import Experiment
from s2sjax.tasks.forced import Forced, Layers, forced_pairs
from s2sjax.tasks.translate import Hypothesis, Translator
from s2sjax.tasks.word_alignment import Alignment, align_words, read_words, written_words

_MOST_LOGITS = 1 << 24
"""Scores of words that a device computes at a time: 64 MiB."""


@dataclass(frozen=True)
class Forcing:
    """Reads pairs as a run reads them, and has its model say what it thinks of their targets."""

    translator: Translator
    """Reads sources and counts those that it cuts; its scorer is asked."""
    tokenizers: TokenizerPair
    experiments: tuple[Experiment, ...]
    """Configs of the run and of the other members of an ensemble."""

    def read(
        self, sources: Sequence[str], targets: Sequence[str | Hypothesis], *, again: bool = False
    ) -> TokenizedSplit:
        """The pairs' tokens; targets in reading order.

        Args:
            again: decoding has read the sources before.

        Raises:
            UserError: a hypothesis is of another vocabulary, or a pair is longer than the positions that were learned.
        """
        data = self.experiments[0].data
        prompt = prompt_of(data)
        source_rows = self.translator.source_rows([prompt(s) for s in sources], again=again)
        encoded = iter(self.tokenizers.target.encode([t for t in targets if isinstance(t, str)]))
        end = row_end(data, self.tokenizers.target)
        target_rows = [np.append(next(encoded), end) if isinstance(t, str) else np.array(t.ids, int) for t in targets]
        vocab = self.tokenizers.target.vocab_size
        if any(row.max(initial=0) >= vocab for row in target_rows):
            raise UserError(f"a hypothesis has a token beyond this run's {vocab}: it is another run's")
        given = None
        if not data.source:  # one text, whose first part is only read
            source_rows = [row[1:] for row in source_rows]  # without begin-of-sentence, which targets get anyway
            given = np.array([len(row) for row in source_rows], np.int32)
            target_rows = [np.concatenate(rows) for rows in zip(source_rows, target_rows, strict=True)]
            source_rows = [np.zeros(0, np.int32)] * len(target_rows)
        source, target = Ragged.from_rows(source_rows), Ragged.from_rows(target_rows)
        for experiment in self.experiments:
            check_positions(experiment, source.lengths, target.lengths)
        return TokenizedSplit(source, target, fingerprint="", given=given)

    def force(
        self, split: TokenizedSplit, layers: Layers | None, *, progress: Callable[[int], None] = lambda done: None
    ) -> list[Forced]:
        """What the model says of each pair: see `forced_pairs`."""
        experiment = self.experiments[0]
        batch_size = experiment.decode.batch_size
        if layers is None:  # logits: rows of 64 tokens over the whole vocabulary
            batch_size = max(1, min(batch_size, _MOST_LOGITS // (64 * self.tokenizers.target.vocab_size)))
        return forced_pairs(
            self.translator.scorer, self.translator.params, split, layers=layers, batch_size=batch_size,
            right_to_left=experiment.data.right_to_left, progress=progress,
        )  # fmt: skip

    def align(
        self, sources: Sequence[str], targets: Sequence[str | Hypothesis], split: TokenizedSplit, forced: list[Forced]
    ) -> list[Alignment]:
        """Which words of each pair belong together, by the attention that forcing it gave."""
        prompt = prompt_of(self.experiments[0].data)
        before = prompt("{source}").index("{source}")  # characters of the prompt before the source
        alignments = []
        for i, (source, target, pair) in enumerate(zip(sources, targets, forced, strict=True)):
            end = before + len(source)
            read = read_words(self.tokenizers.source, prompt(source), split.source[i], before, end)
            if isinstance(target, str):
                written = read_words(self.tokenizers.target, target, split.target[i])
            else:
                written = written_words(self.tokenizers.target, split.target[i])
            alignments.append(align_words(pair.attention, read, written))
        return alignments
