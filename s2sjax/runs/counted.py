"""What a run is asked, answered with the counts of the texts, for commands that tell of them."""

import functools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2sjax.data.splits import prompt_of
from s2sjax.errors import UserError
from s2sjax.experiment import Experiment
from s2sjax.inference import inputs
from s2sjax.inference.counts import WithCounts
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.inference.word_alignment import Alignment
from s2sjax.processes import distributed, jax_settings
from s2sjax.runs import home
from s2sjax.runs.evaluate import text_metrics_of
from s2sjax.runs.forcing import Forcing
from s2sjax.runs.measurement import Measured, Measurement, best_texts
from s2sjax.runs.results import decoded_records, result_name, write_results
from s2sjax.tasks import check_offers

if TYPE_CHECKING:
    from s2sjax.runs.run import Run

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CountedRun:
    """A run whose answers come with counts: how many sources were cut, what the vocabulary lacks. It checks what it is
    given as `Run` does, which returns the answers alone."""

    run: "Run"

    @jax_settings.exact_products()
    def decode(
        self,
        sources: Iterable[str],
        *,
        prefixes: Iterable[str] | None = None,
        phrases: Iterable[Iterable[str]] | None = None,
        choices: Iterable[str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> WithCounts[list[list[Hypothesis]]]:
        """What `Run.decode` returns, and what was met in the texts."""
        sources, told = inputs.texts(sources, "sources"), inputs.callback(progress, "progress")
        if prefixes is not None:
            prefixes = inputs.for_each(sources, inputs.texts(prefixes, "prefixes"), "prefixes")
        if phrases is not None:
            phrases = inputs.phrases(phrases, sources)
        if choices is not None:
            choices = inputs.texts(choices, "choices")
        prompt = prompt_of(self.run.experiment.data)
        prompted = [prompt(source) for source in sources]
        return self.run.predictor(prompted, prefixes=prefixes, phrases=phrases, choices=choices, progress=told)

    @jax_settings.exact_products()
    def score(
        self,
        sources: Iterable[str],
        targets: Iterable[str | Hypothesis],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> WithCounts[list[float]]:
        """What `Run.score` returns, and what was met in the texts."""
        check_offers(self.run.experiment.task, "score", self.run.workdir)
        sources, told = inputs.texts(sources, "sources"), inputs.callback(progress, "progress")
        return self.forcing.score(sources, inputs.targets(targets, sources), progress=told)

    @jax_settings.exact_products()
    def align(
        self,
        sources: Iterable[str],
        targets: Iterable[str | Hypothesis],
        *,
        layer: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> WithCounts[list[Alignment]]:
        """What `Run.align` returns, and what was met in the texts."""
        check_offers(self.run.experiment.task, "align", self.run.workdir)
        if not any(self.forcing.attention_layers):
            raise UserError(
                f"{self.run.experiment.model_name} as it is in {self.run.workdir} has no attention over a source to "
                "align by; transformer, gnmt, and rnn_seq2seq with config.model.attention have"
            )
        sources, told = inputs.texts(sources, "sources"), inputs.callback(progress, "progress")
        return self.forcing.align(sources, inputs.targets(targets, sources), layer, progress=told)

    @jax_settings.exact_products()
    def evaluate(self, split: str) -> WithCounts[dict[str, Any]]:
        """What `Run.evaluate` returns, and what was met in the sources that were decoded."""
        split = inputs.text(split, "split", "the name of a split, such as 'test',")
        began, experiment = time.monotonic(), self.run.experiment
        how = text_metrics_of(experiment, experiment.metrics)
        home.check_data(self.run.workdir, experiment.data, self.run.saved, self.run.said)
        measurement = Measurement(self.run.predictor, self.run.tokenizers, self._experiments, self.run.mesh)
        measured = measurement.measure(split, how)
        results: dict[str, Any] = dict(measured.metrics)
        results |= {"step": self.run.step, "seconds": time.monotonic() - began}
        if measured.tokenized.unreadable:
            results["unreadable"] = measured.tokenized.unreadable
        if self.run.others:
            listed = ", ".join(f"{member.workdir} ({member.step})" for member in (self.run, *self.run.others))
            results["ensemble"] = f"mean of {experiment.decode.ensemble} of {listed}"
        if measured.parts:
            results["pairs" if experiment.data.pairs else "sets"] = measured.parts
        if distributed.index() == 0:
            name = result_name(split, experiment.data.pairs or experiment.data.sets, ensemble=bool(self.run.others))
            kind = "pair" if experiment.data.pairs else "set"
            decoded = None if measured.found is None else decoded_records(measured.source, measured.found, kind)
            write_results(self.run.workdir, name, results, decoded)
            self._draw(name, measured)
        return WithCounts(results, measured.counts)

    def _draw(self, name: str, measured: Measured) -> None:
        """What the task draws of predictions, beside the results. What cannot be written costs a warning."""
        texts = best_texts(measured.found)
        pictures = {} if texts is None else self.run.experiment.task.pictures(measured.source, texts)
        for kind, draw in pictures.items():
            path = self.run.workdir / "results" / f"{name}.{kind}.png"
            try:
                draw(path)
            except (OSError, UserError) as error:
                _log.warning("%s is not drawn: %s", path, error)

    @functools.cached_property
    def forcing(self) -> Forcing:
        return Forcing(self.run.predictor, self.run.tokenizers, self._experiments)

    @property
    def _experiments(self) -> tuple[Experiment, ...]:
        return tuple(run.experiment for run in (self.run, *self.run.others))
