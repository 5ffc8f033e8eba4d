"""A trained model with all that belongs to it: decode, score, evaluate. `loading.load` opens one."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from s2sjax import experiment as experiments
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment
from s2sjax.inference import inputs
from s2sjax.inference.details import Details, Logits
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.inference.scorers import Ensemble, Scorer
from s2sjax.inference.tagging import tags
from s2sjax.inference.word_alignment import Alignment
from s2sjax.plural import counted
from s2sjax.processes import jax_settings
from s2sjax.runs.assembly import build_model, check_changes, check_learned, in_precision, scorer_of
from s2sjax.runs.counted import CountedRun
from s2sjax.runs.evaluate import make_predictor
from s2sjax.task import Predictor
from s2sjax.tasks import check_offers


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
    """A trained model with all that belongs to it. Made by `load` and `train`.

    The examples below are of a run that translates numbers from one to six from English into German.

    >>> run = s2sjax.load("runs/numbers")
    >>> run.experiment.model_name, run.tokenizers.target.vocab_size
    ('rnn_seq2seq', 16)
    """

    workdir: Path
    experiment: Experiment
    """The config that it decodes, scores and evaluates by."""
    saved: Experiment
    """The config that it was trained with."""
    step: int
    """Of the checkpoint that was read."""
    metrics: Mapping[str, float]
    """Validation metrics of that checkpoint; of a step that was not validated there are none."""
    params: dict
    """The parameter tree; the moving average if the run kept one."""
    tokenizers: TokenizerPair
    mesh: Mesh
    model: nn.Module
    """The Linen module, in `decode.precision`."""
    others: tuple["Run", ...] = ()
    """The other members of an ensemble. It decodes, scores and evaluates as one; step, params and model are those of
    the first."""
    said: frozenset[str] = frozenset()
    """Config keys whose values are the user's own, even if they are the saved ones."""

    @functools.cached_property
    def predictor(self) -> Predictor:
        """What makes predictions, as `decode` in the config says, by this run or all members of the ensemble."""
        precision, runs = self.experiment.decode.precision, (self, *self.others)
        members = tuple(scorer_of(run.model, run.experiment, run.tokenizers.vocabularies, precision) for run in runs)
        scorer: Scorer = members[0]
        params: Any = self.params
        if self.others:
            scorer, params = Ensemble(members, self.experiment.decode.ensemble), tuple(run.params for run in runs)
        others = [run.experiment for run in self.others]
        return make_predictor(self.experiment, scorer, params, self.tokenizers, self.mesh, others=others)

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        others = "".join(f" + {run.workdir}" for run in self.others)
        return (
            f"Run({self.workdir}{others}, {self.experiment.model_name}, {counted(size, 'parameter')}, step {self.step})"
        )

    def with_config(self, **changes: Any) -> "Run":
        """The same run with other settings, checked as on the command line. Nothing is loaded: parameters are shared.

        >>> greedy = run.with_config(beam_size=1)
        >>> best_three = run.with_config(beam_size=4, nbest=3)
        >>> [len(hypotheses) for hypotheses in best_three.decode(["one two", "six"])]
        [3, 3]
        >>> draws = run.with_config(method="sample", samples=2, seed=1)
        >>> run.with_config(beam=3)
        Traceback (most recent call last):
        s2sjax.errors.UserError: config.decode.beam is not a config key: did you mean 'beam_size'? (known: ...

        Args:
            changes: fields of `decode`, as in beam_size=3; or keys of `data`, `batching`, `task`, `decode` and
                `evaluate` with their section, as in **{"batching.max_source_length": 50}.

        Raises:
            UserError: a key is unknown or of another section, or a value is not accepted.
        """
        check_changes(changes, self.workdir)
        made = self._with_experiment(experiments.override(self.experiment, changes, section="decode"))
        made = dataclasses.replace(made, said=self.said.union(changes))
        predictor = made.predictor  # a config that the model cannot follow is refused here
        if made.experiment.decode.precision == self.experiment.decode.precision:
            predictor.set_params(self.predictor.params)  # rounded already, and once for all
        return made

    def _with_experiment(self, experiment: Experiment) -> "Run":
        check_learned(experiment, self.saved, self.workdir)
        model, others = self.model, self.others
        if experiment.decode.precision != self.experiment.decode.precision:
            model = build_model(experiment, self.tokenizers.vocabularies, experiment.decode.precision)
            others = tuple(
                run._with_experiment(in_precision(run.experiment, experiment.decode.precision)) for run in others
            )
        return dataclasses.replace(self, experiment=experiment, model=model, others=others)

    def decode(
        self,
        sources: Iterable[str],
        *,
        prefixes: Iterable[str] | None = None,
        phrases: Iterable[Iterable[str]] | None = None,
        choices: Iterable[str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """The `decode.nbest` best translations of each source, best first, or `decode.samples` draws.

        A blank source gives an empty one, whatever the prompt; where nothing meets the constraints, there is none. A
        language model of plain text gives continuations instead, of an empty source a text from its beginning.

        >>> found = run.decode(["two three one", "six"])
        >>> found[0][0].text, found[0][0].tokens
        ('zwei drei eins', ('zwei', 'drei', 'eins', '</s>'))
        >>> [hypotheses[0].text for hypotheses in run.decode(["two three"], choices=["eins", "drei zwei", "vier"])]
        ['drei zwei']

        Args:
            prefixes: what each translation has to begin with.
            phrases: what each translation has to contain, as the tokenizer cuts it, anywhere (a beam only).
            choices: what each translation has to be one of.

        Raises:
            UserError: the run knows several pairs of languages, and `data.pairs` names more than one.
        """
        asked: dict[str, Any] = {"prefixes": prefixes, "phrases": phrases, "choices": choices}
        return self._counted.decode(sources, **asked, progress=progress).result

    def score(
        self,
        sources: Iterable[str],
        targets: Iterable[str | Hypothesis],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[float]:
        """Log-probability of each target given its source, cut as for decoding, in nats, end-of-sentence counted.

        Of a text it is that of the tokens which the tokenizer cuts it into, of a hypothesis that of its own, which is
        its `score` again. A language model of plain text gives the log-probability of the target after the source.

        >>> right, wrong = run.score(["two three", "two three"], ["zwei drei", "drei zwei"])
        >>> right > wrong
        True

        Raises:
            UserError: a hypothesis is of another vocabulary.
        """
        return self._counted.score(sources, targets, progress=progress).result

    @jax_settings.exact_products()
    def explain(self, sources: Iterable[str], found: Iterable[Iterable[Hypothesis]]) -> list[list[Details]]:
        """More about each hypothesis that `decode` found for each source, by one teacher-forced pass over all of them.

        Alignments are by the average attention of all layers. They are None where the model has none over a source: of
        language models, the fixed context, the hidden Markov model.

        >>> found = run.decode(["two three"])
        >>> ((details,),) = run.explain(["two three"], found)
        >>> list(zip(found[0][0].tokens, details.token_log_probs))
        [('zwei', -0.0...), ('drei', -0.0...), ('</s>', -0.0...)]
        >>> details.alignment.links
        ((0, 0), (1, 1))

        Raises:
            UserError: a hypothesis is of another vocabulary.
        """
        sources = inputs.texts(sources, "sources")
        return self._counted.forcing.explain(sources, inputs.hypotheses(found, sources))

    @jax_settings.exact_products()
    def logits(
        self,
        sources: Iterable[str],
        targets: Iterable[str | Hypothesis],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[Logits]:
        """What the model says at each token of each target, over the whole vocabulary: `score` is made of it.

        All of it is kept, 4 bytes for each word of the vocabulary at each token: take many pairs in parts.

        >>> (pair,) = run.logits(["two three"], ["zwei drei"])
        >>> pair.tokens, pair.values.shape
        (('zwei', 'drei', '</s>'), (3, 16))
        >>> run.tokenizers.target.pieces(pair.values.argmax(axis=-1).tolist())
        ['zwei', 'drei', '</s>']
        >>> log_probs = pair.log_probs[range(3), list(pair.ids)]
        >>> bool(abs(log_probs.sum() - run.score(["two three"], ["zwei drei"])[0]) < 1e-5)
        True

        Raises:
            UserError: a hypothesis is of another vocabulary.
        """
        sources, told = inputs.texts(sources, "sources"), inputs.callback(progress, "progress")
        return self._counted.forcing.logits(sources, inputs.targets(targets, sources), progress=told)

    def align(
        self,
        sources: Iterable[str],
        targets: Iterable[str | Hypothesis],
        *,
        layer: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Alignment]:
        """Which words of a source and its target belong together, by the attention with which the target is predicted.

        A source is cut as for decoding; words beyond have no links.

        >>> (alignment,) = run.align(["two three one"], ["zwei drei eins"])
        >>> alignment.links, alignment.pharaoh()
        (((0, 0), (1, 1), (2, 2)), '0-0 1-1 2-2')
        >>> alignment.attention.shape, alignment.source_tokens
        ((4, 4), ('two', 'three', 'one', '</s>'))

        Args:
            layer: whose attention to take, averaged over heads: 1 is the lowest, -1 the highest, None the average of
                all. Of a Transformer, the one below the highest, -2, is often the best (Garg et al. 2019,
                arXiv:1909.02074).

        Raises:
            UserError: the model has no attention over a source, or no such layer.
        """
        return self._counted.align(sources, targets, layer=layer, progress=progress).result

    @functools.cached_property
    def _counted(self) -> CountedRun:
        return CountedRun(self)

    @jax_settings.exact_products()
    def tag(
        self, texts: Iterable[str], *, progress: Callable[[int], None] | None = None
    ) -> list[list[tuple[str, int]]]:
        """Each text's tokens with the hidden state of each, on the best path (Viterbi); end-of-sentence is the last.

        Raises:
            UserError: the task or the model has no hidden states, or there are several models.
        """
        if self.others:
            raise UserError("an ensemble has no hidden states in common: tag with one run")
        check_offers(self.experiment.task, "tag", self.workdir)
        if not hasattr(self.model, "tag"):
            name = self.experiment.model_name
            raise UserError(f"{name} has no hidden states to tag with; a hidden Markov model has")
        told = inputs.callback(progress, "progress")
        end, encode = self.tokenizers.target.vocabulary.end, self.tokenizers.target.encode
        rows = [np.append(ids, end) for ids in encode(inputs.texts(texts, "texts"))]
        stand = self.experiment.task.rows
        written = [stand.turned(row) for row in rows]
        batch_size = self.experiment.decode.batch_size
        found = tags(self.model, self.params, written, batch_size=batch_size, progress=told)
        states = [stand.turned(np.array(path)).tolist() for path in found]
        pieces = self.tokenizers.target.pieces
        return [list(zip(pieces(row), path, strict=True)) for row, path in zip(rows, states, strict=True)]

    def evaluate(self, split: str) -> dict[str, Any]:
        """The metrics of one split: the loss, and those of `evaluate.metrics`.

        They are written to `WORKDIR/results/SPLIT.json`, and what was decoded to `SPLIT.hyp.jsonl`: a line for each
        example with its number `n` from 1, its "source" as it is read, its "references", the "hypothesis", its "score"
        (log-probability in nats) and how many "tokens" that is of, end-of-sentence counted. Where the directory cannot
        be written, that is a warning. Of several pairs of languages, "pairs" has the metrics of each; of a mixture,
        "sets". An ensemble's are those of the members' combined distribution, and stand in `SPLIT.ensemble.json`.

        >>> run.evaluate("test")["exact_match"]
        100.0

        Raises:
            UserError: for a split that is missing, or a tokenizer of BLEU that is not there.
        """
        return self._counted.evaluate(split).result
