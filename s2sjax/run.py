"""A trained model with all that belongs to it: decode, score, evaluate. `loading.load` opens one."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from s2sjax import distributed
from s2sjax.data import prepare as preparation
from s2sjax.data.prepare import Ragged, TokenizedSplit, turn_round
from s2sjax.data.sources import Source
from s2sjax.data.splits import open_split, prompt_of
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError
from s2sjax.evaluate import LikelihoodEvaluator, check_positions, write_json
from s2sjax.experiment import Experiment
from s2sjax.metrics import error_rates, likelihood_metrics, text_metrics
from s2sjax.report import progress
from s2sjax.tasks.details import Details, length_scores
from s2sjax.tasks.forced import Forced, Layers, choose_layers, forced_pairs
from s2sjax.tasks.scorers import attention_layers
from s2sjax.tasks.tagging import tags
from s2sjax.tasks.translate import Hypothesis, Translator, best_text
from s2sjax.tasks.word_alignment import Alignment, align_words, read_words, written_words
from s2sjax.vocabulary import EOS


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
    others: tuple["Run", ...] = ()
    """The other members of an ensemble. It decodes, scores and evaluates as one; step, params and model are those of
    the first."""

    def decode(
        self,
        sources: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        phrases: Sequence[Sequence[str]] | None = None,
        choices: Sequence[str] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[list[Hypothesis]]:
        """The `decode.nbest` best translations of each source, best first, or `decode.samples` draws.

        A blank source gives an empty one, whatever the prompt; where nothing meets the constraints, there is none. A
        language model of plain text gives continuations instead, of an empty source a text from its beginning.

        Args:
            prefixes: what each translation has to begin with.
            phrases: what each translation has to contain, as the tokenizer cuts it, anywhere (a beam only).
            choices: what each translation has to be one of.

        Raises:
            UserError: the run knows several pairs of languages, and `data.pairs` names more than one.
        """
        prompt = prompt_of(self.experiment.data)
        prompted = [prompt(source) for source in sources]
        return self.translator(prompted, prefixes=prefixes, phrases=phrases, choices=choices, progress=progress)

    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str | Hypothesis],
        *,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[float]:
        """Log-probability of each target given its source, cut as for decoding, in nats, end-of-sentence counted.

        Of a text it is that of the tokens which the tokenizer cuts it into, of a hypothesis that of its own, which is
        its `score` again. A language model of plain text gives the log-probability of the target after the source.

        Raises:
            UserError: a hypothesis is of another vocabulary.
        """
        _, forced = self._force(sources, targets, (), progress=progress)
        return [float(pair.log_probs.sum(dtype=np.float64)) for pair in forced]

    def explain(self, sources: Sequence[str], found: Sequence[Sequence[Hypothesis]]) -> list[list[Details]]:
        """More about each hypothesis that `decode` found for each source, by one teacher-forced pass over all of them.

        Alignments are by the average attention of all layers. They are None where the model has none over a source: of
        language models, the fixed context, the hidden Markov model.

        Raises:
            UserError: a hypothesis is of another vocabulary.
        """
        pairs = [(source, h) for source, hypotheses in zip(sources, found, strict=True) for h in hypotheses]
        of_each = [source for source, _ in pairs]
        listed = [hypothesis for _, hypothesis in pairs]
        split, forced = self._force(of_each, listed, choose_layers(None, self._attention_layers), again=True)
        alignments: Sequence[Alignment | None] = [None] * len(pairs)
        if any(self._attention_layers):
            alignments = self._aligned(of_each, listed, split, forced)
        scores = length_scores([h.score for h in listed], [len(h.ids) for h in listed], self.experiment.decode)
        details = map(Details, (tuple(pair.log_probs.tolist()) for pair in forced), scores, alignments)
        return [list(itertools.islice(details, len(hypotheses))) for hypotheses in found]

    def align(
        self,
        sources: Sequence[str],
        targets: Sequence[str | Hypothesis],
        *,
        layer: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Alignment]:
        """Which words of a source and its target belong together, by the attention with which the target is predicted.

        A source is cut as for decoding; words beyond have no links.

        Args:
            layer: whose attention to take, averaged over heads: 1 is the lowest, -1 the highest, None the average of
                all. Of a Transformer, the one below the highest, -2, is often the best (Garg et al. 2019,
                arXiv:1909.02074).

        Raises:
            UserError: the model has no attention over a source, or no such layer.
        """
        if not any(self._attention_layers):
            raise UserError(
                f"{self.experiment.model_name} as it is in {self.workdir} has no attention over a source to align by; "
                "transformer, gnmt, and rnn_seq2seq with config.model.attention have"
            )
        split, forced = self._force(sources, targets, choose_layers(layer, self._attention_layers), progress=progress)
        return self._aligned(sources, targets, split, forced)

    @functools.cached_property
    def _attention_layers(self) -> tuple[int, ...]:
        return attention_layers(self.translator.scorer, self.translator.params)

    def _force(
        self,
        sources: Sequence[str],
        targets: Sequence[str | Hypothesis],
        layers: Layers,
        *,
        again: bool = False,
        progress: Callable[[int], None] = lambda done: None,
    ) -> tuple[TokenizedSplit, list[Forced]]:
        """The pairs' tokens, and what teacher forcing says of them; targets in reading order.

        Args:
            again: decoding has read the sources before.
        """
        prompt = prompt_of(self.experiment.data)
        source_rows = self.translator.source_rows([prompt(s) for s in sources], again=again)
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
        for member in (self, *self.others):
            check_positions(member.experiment, source.lengths, target.lengths)
        split = TokenizedSplit(source, target, fingerprint="", given=given)
        forced = forced_pairs(
            self.translator.scorer, self.translator.params, split, layers=layers,
            batch_size=self.experiment.decode.batch_size, right_to_left=self.experiment.data.right_to_left,
            progress=progress,
        )  # fmt: skip
        return split, forced

    def _aligned(
        self, sources: Sequence[str], targets: Sequence[str | Hypothesis], split: TokenizedSplit, forced: list[Forced]
    ) -> list[Alignment]:
        prompt = prompt_of(self.experiment.data)
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

    def tag(
        self, texts: Sequence[str], *, progress: Callable[[int], None] = lambda done: None
    ) -> list[list[tuple[str, int]]]:
        """Each text's tokens with the hidden state of each, on the best path (Viterbi); end-of-sentence is the last.

        Raises:
            UserError: the model has no hidden states, or there are several.
        """
        if self.others:
            raise UserError("an ensemble has no hidden states in common: tag with one run")
        if not hasattr(self.model, "tag"):
            raise UserError(f"{self.experiment.model_name} has no hidden states to tag with; a hidden Markov model has")
        rows = [np.append(ids, EOS) for ids in self.tokenizers.target.encode(list(texts))]
        written = [turn_round(row) for row in rows] if self.experiment.data.right_to_left else rows
        batch_size = self.experiment.decode.batch_size
        states = tags(self.model, self.params, written, batch_size=batch_size, progress=progress)
        if self.experiment.data.right_to_left:
            states = [turn_round(np.array(path)).tolist() for path in states]
        pieces = self.tokenizers.target.pieces
        return [list(zip(pieces(row), path, strict=True)) for row, path in zip(rows, states, strict=True)]

    def evaluate(self, split: str) -> dict[str, float | str]:
        """Loss and decoded metrics on one split; also written to `WORKDIR/results/SPLIT.json`.

        An ensemble's are those of the members' combined distribution, and stand in `SPLIT.ensemble.json`.

        Raises:
            UserError: for a split that is missing, or a results directory that cannot be written.
        """
        began = time.monotonic()
        source = open_split(self.experiment.data, split)
        with progress(f"tokenising {split}") as advance:
            tokenized = preparation.tokenize(self.experiment.data, self.tokenizers, split, progress=advance)
        others = [member.experiment for member in self.others]
        likelihood = LikelihoodEvaluator(
            self.translator.scorer, self.experiment, tokenized, self.mesh, others=others
        )(self.translator.params)  # fmt: skip
        results: dict[str, float | str] = {"loss": likelihood.loss}
        if self.experiment.data.source:
            results |= self._decoded_scores(split, source)
        else:
            results |= likelihood_metrics(*likelihood, (row["target"] for row in source))
        results |= {"step": self.step, "seconds": time.monotonic() - began}
        if tokenized.unreadable:
            results["unreadable"] = tokenized.unreadable
        name = "".join(f".{pair}" for pair in self.experiment.data.pairs)
        if self.others:
            listed = ", ".join(f"{member.workdir} ({member.step})" for member in (self, *self.others))
            results["ensemble"] = f"mean of {self.experiment.decode.ensemble} of {listed}"
            name += ".ensemble"
        if distributed.index() == 0:
            write_json(self.workdir / "results" / f"{split.replace('/', '_')}{name}.json", results)
        return results

    def _decoded_scores(self, split: str, source: Source) -> dict[str, float | str]:
        sources, references = zip(*((row["source"], row["target"]) for row in source), strict=True)
        with progress(f"decoding {split}", len(sources)) as advance:
            hypotheses = [best_text(found) for found in self.translator(sources, progress=advance)]
        return text_metrics(hypotheses, references) | error_rates(sources, hypotheses, references)
