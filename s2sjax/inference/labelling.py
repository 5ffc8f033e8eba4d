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
    """

    def __init__(
        self,
        scorer: Scorer,
        params: Any,
        tokenizers: TokenizerPair,
        config: DecodeConfig,
        format: RequestFormat,
        *,
        each: bool,
    ) -> None:
        """Args:
        each: every token of a text has a label of its own, end-of-sentence none; otherwise a text has one.

        Raises:
            UserError: config asks for draws.
        """
        if config.method != "beam":
            raise UserError(
                f"config.decode.method is '{config.method}', but labels are not drawn: leave it out; "
                "config.decode.nbest gives the most probable ones, each with its log-probability"
            )
        self.scorer = scorer
        self.set_params(params)
        self.requests = RequestReader(tokenizers, config, format)
        self._config, self._target, self._each = config, tokenizers.target, each
        specials = self._target.vocabulary.specials
        self._labels = np.array([i for i in range(self._target.vocab_size) if i not in specials], int)

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
        """The `decode.nbest` most probable labels of each text; of a text whose tokens have one each, the best of each.

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
        for numbers, batch in batches(examples, self._config.batch_size):
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
        order = np.argsort(-scores, kind="stable")[: self._config.nbest]
        return [self._hypothesis(self._labels[i : i + 1], float(scores[i])) for i in order.tolist()]

    def _hypothesis(self, ids: np.ndarray, score: float) -> Hypothesis:
        listed = ids.tolist()
        return Hypothesis(self._target.decode(ids), tuple(self._target.pieces(listed)), score, score, tuple(listed))
