"""Labels of texts: one pass of a model over each, and nothing that is searched for."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from s2sjax.api import Batch
from s2sjax.data.columns import Column, Examples
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError
from s2sjax.inference.counts import WithCounts
from s2sjax.inference.decoding import DecodeConfig
from s2sjax.inference.details import length_scores
from s2sjax.inference.forced import batches
from s2sjax.inference.hypotheses import EMPTY, Hypothesis
from s2sjax.inference.requests import RequestFormat, RequestReader
from s2sjax.inference.scorers import Scorer
from s2sjax.plural import counted
from s2sjax.processes.memory import needing_memory
from s2sjax.sharding import to_host


@functools.partial(jax.jit, static_argnames="scorer")
def label_log_probs(scorer: Scorer, params, batch: Batch) -> jax.Array:
    """Log-probabilities of all labels at each target position of a batch, [B, T, V] float32 nats."""
    return jax.nn.log_softmax(scorer.target_logits(params, batch))


class Labeller:
    """Labels texts, with one model or several. What a text is labelled does not depend on the texts beside it.

    Attributes:
      scorer, params: as they are given; parameters perhaps rounded.
      requests: how texts are read.
      outputs: labels, or rows of them, that a text is given.
    """

    def __init__(
        self,
        scorer: Scorer,
        params: Any,
        tokenizers: TokenizerPair,
        format: RequestFormat,
        *,
        batch_size: int,
        nbest: int | None,
    ) -> None:
        """Args:
        batch_size: texts in a batch.
        nbest: labels that a text is given, the most probable first. None: every token of a text has a label of its own,
            end-of-sentence none, and is given the most probable.
        """
        self.scorer, self.outputs = scorer, nbest or 1
        self.set_params(params)
        self.requests = RequestReader(tokenizers, DecodeConfig(), format)  # nothing is asked of labels
        self._target, self._batch_size, self._each = tokenizers.target, batch_size, nbest is None
        specials = self._target.vocabulary.specials
        self._labels = np.array([i for i in range(self._target.vocab_size) if i not in specials], int)

    def length_scores(self, log_probs: Sequence[float], lengths: Sequence[int]) -> list[dict[str, float]]:
        """As `Translator.length_scores`, with the penalties that a search has by default."""
        return length_scores(log_probs, lengths, DecodeConfig())

    def set_params(self, params: Any) -> None:
        """As `Translator.set_params`."""
        self.params = None if params is None else self.scorer.rounded(params)

    def __call__(
        self,
        sources: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        phrases: Sequence[Sequence[str]] | None = None,
        choices: Sequence[str] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> WithCounts[list[list[Hypothesis]]]:
        """The most probable labels of each text; of a text whose tokens have one each, the best of each.

        Raises:
            UserError: there are prefixes, phrases or choices, which ask for parts of a text.
        """
        if not (prefixes is phrases is choices is None):
            raise UserError("labels have no parts that could be asked for: leave out prefixes, phrases and choices")
        read = self.requests.source_rows(list(sources))
        found: list[list[Hypothesis]] = [[EMPTY] for _ in read.result]
        counts = np.array([len(row) - 1 if self._each else 1 for row in read.result], int)
        asked = np.flatnonzero(counts)
        progress(len(counts) - len(asked))
        examples = Examples.of_pairs(
            Column.from_rows([read.result[i] for i in asked]),
            Column.from_rows([np.full(counts[i], self._labels[0], np.int32) for i in asked]),
            start=self._target.vocabulary.start,
        )
        for numbers, batch in batches(examples, self._batch_size):
            with needing_memory(
                f"for {counted(len(batch['inputs']), 'text')} of {counted(batch['inputs'].shape[1], 'token')}: lower "
                "config.decode.batch_size"
            ):
                scores = to_host(label_log_probs(self.scorer, self.params, batch))[:, :, self._labels]
            for row, number in enumerate(asked[numbers].tolist()):
                of_text = scores[row, : counts[number]]
                found[number] = [self._best(of_text)] if self._each else self._ranked(of_text[0])
            progress(len(numbers))
        return WithCounts(found, read.counts)

    def _best(self, scores: np.ndarray) -> Hypothesis:
        """The best label of each token, of scores [T, labels]; of equals the first."""
        best = scores.argmax(axis=-1)
        score = float(scores[np.arange(len(best)), best].sum(dtype=np.float64))
        return self._hypothesis(self._labels[best], score)

    def _ranked(self, scores: np.ndarray) -> list[Hypothesis]:
        """The best labels of a text, of scores [labels]; equals in their order."""
        order = np.argsort(-scores, kind="stable")[: self.outputs]
        return [self._hypothesis(self._labels[i : i + 1], float(scores[i])) for i in order.tolist()]

    def _hypothesis(self, ids: np.ndarray, score: float) -> Hypothesis:
        listed = ids.tolist()
        return Hypothesis(self._target.decode(ids), tuple(self._target.pieces(listed)), score, score, tuple(listed))
