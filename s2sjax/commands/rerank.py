"""`s2sjax rerank`: hypotheses that decode wrote in another order, by minimum Bayes risk or by what more runs say."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from s2sjax import experiment as experiments
from s2sjax.commands.records import read_record
from s2sjax.commands.remarks import print_remark, print_source_remarks
from s2sjax.commands.streams import count_lines, one_line, read_lines, reading, windows, writing
from s2sjax.commands.table import COMMANDS
from s2sjax.data.parts import chosen, parts_of
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError
from s2sjax.files import jsontext
from s2sjax.inference.counts import RequestCounts
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.inference.rerank import Judge, Kind, Ranked, minimum_bayes_risk, rerank
from s2sjax.inference.risk import UTILITIES
from s2sjax.metrics.bleu import check_bleu_tokenizer
from s2sjax.metrics.text import TextMetrics, suited
from s2sjax.processes import jax_settings
from s2sjax.reporting.display import progress
from s2sjax.runs.counted import CountedRun
from s2sjax.runs.loading import load
from s2sjax.runs.run import Run
from s2sjax.tasks import check_offers

_TOGETHER = 256
"""Sources whose hypotheses are scored together."""


def run(values: dict[str, Any]) -> int:
    judges = _judges(values)
    tokenize = values["tokenize"] or "13a"
    check_bleu_tokenizer(tokenize, "--tokenize")
    original = _weight(values["original"] or "1", "--original")
    with contextlib.ExitStack() as stack:
        lines = read_lines(stack.enter_context(reading(values["input"])), values["input"])
        output = stack.enter_context(writing(values["output"], values["input"]))
        advance = stack.enter_context(progress("reranking", count_lines(values["input"])))
        name = "standard input" if values["input"] == "-" else values["input"]
        done = 0
        for window in windows(lines):
            for first in range(0, len(window), _TOGETHER):
                read = [
                    read_record(line, name, done + number)
                    for number, line in enumerate(window[first : first + _TOGETHER], start=1)
                ]
                found: list[list[Hypothesis]] = [hypotheses for _, hypotheses in read]
                if values["utility"]:
                    utility, weights = values["utility"], values["weights"] or "uniform"
                    if not done and utility == "bleu":
                        texts = [[hypothesis.text for hypothesis in hypotheses] for hypotheses in found]
                        _, remarks = suited(texts, TextMetrics(("bleu",), tokenize), bleu_key="--tokenize")
                        for remark in remarks:
                            print_remark(remark)
                    ranked = minimum_bayes_risk(found, utility=utility, weights=weights, bleu_tokenize=tokenize)
                else:
                    sources = [record["source"] for record, _ in read]
                    normalize = values["normalize"] == "length"
                    ranked = rerank(sources, found, judges, original=original, normalize=normalize)
                for (record, _), order in zip(read, ranked, strict=True):
                    output.write(_format(record, order, values["format"]))
                output.flush()
                done += len(read)
                advance(len(read))
    for judge in judges:
        assert isinstance(judge.run, _Judging)
        print_source_remarks(judge.run.run, judge.run.counts)
    return 0


@dataclasses.dataclass
class _Judging:
    """A run that judges, and the counts of all that it has judged."""

    run: Run
    counts: RequestCounts = RequestCounts()

    @property
    def tokenizers(self) -> TokenizerPair:
        return self.run.tokenizers

    def score(self, sources: Sequence[str], targets: Sequence[str], *, progress: Callable[[int], None]) -> list[float]:
        scored = CountedRun(self.run).score(sources, targets, progress=progress)
        self.counts += scored.counts
        return scored.result


def _format(record: dict, ranked: Sequence[Ranked], kind: str) -> str:
    """A line for a source: the best hypothesis's text, or all of them with what the record said of each."""
    if kind == "text":
        return one_line(ranked[0].hypothesis.text if ranked else "") + "\n"
    hypotheses = [
        record["hypotheses"][r.place] | {"ranking_score": r.hypothesis.ranking_score, "components": r.components}
        for r in ranked
    ]
    return jsontext.printed_line(record | {"hypotheses": hypotheses})


def _judges(values: dict[str, str]) -> list[Judge]:
    """The runs that are to judge, opened; none for minimum Bayes risk.

    Raises:
        UserError: the flags do not go together, or name no runs that can judge.
    """
    named = values["runs"] or values["channel"]
    if bool(values["utility"]) == bool(named):
        raise COMMANDS["rerank"].misuse(
            f"choose one: --utility={'|'.join(UTILITIES)} for minimum Bayes risk, or --runs=DIR:WEIGHT,... and "
            "--channel=DIR:WEIGHT,... for the scores of more runs"
        )
    if values["tokenize"] and values["utility"] != "bleu":
        raise COMMANDS["rerank"].misuse("--tokenize goes with --utility=bleu, which is not given")
    for name, beside in (("weights", "utility"), ("normalize", "runs"), ("original", "runs")):
        if values[name] and bool(named) == (beside == "utility"):
            raise COMMANDS["rerank"].misuse(f"--{name} goes with --{beside}, which is not given")
    if not named:
        return []
    jax_settings.configure_jax()
    return [
        _judge(entry, channel=flag == "channel")
        for flag in ("runs", "channel")
        for entry in values[flag].split(",")
        if entry
    ]


def _judge(entry: str, *, channel: bool) -> Judge:
    """The run that `DIR:WEIGHT` names, or `DIR:PAIR:WEIGHT`, which of its pairs of languages or sets too; what it says
    of hypotheses, its config knows, but not that it is a channel."""
    directory, colon, weight = entry.rpartition(":")
    if not colon:
        raise UserError(f"'{entry}' has no weight: runs are written DIR:WEIGHT, as in {entry}:0.5")
    share = _weight(weight, f"the weight of {directory}")
    name, pair = directory, ""
    if ":" in directory and not Path(directory).exists():
        directory, _, pair = directory.rpartition(":")
    experiment = experiments.load(Path(directory) / "config.json")
    data = chosen(experiment.data, pair) if pair else experiment.data
    parts = parts_of(data)
    if len(data.pairs) > 1 or len({part.prompt for part in parts.values()}) > 1:
        kind = "pairs of languages" if data.pairs else "sets"
        raise UserError(
            f"{directory} knows several {kind}; say which is meant, as in {directory}:{next(iter(parts))}:{weight}"
        )
    task = experiment.task
    check_offers(task, "rerank", directory)
    kind = Kind.CHANNEL if channel else task.judges[0]
    if kind not in task.judges:
        raise UserError(
            f"{directory} is a language model, and has no source to score: name it in --runs, for the log-probability "
            "of the hypotheses"
        )
    shown = "right_to_left" if kind == Kind.FORWARD and task.rows.right_to_left else kind.value
    opened = load(directory, experiment=dataclasses.replace(experiment, data=data))
    return Judge(f"{shown}:{name}", _Judging(opened), kind, share)


def _weight(text: str, name: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(weight := float(text)):
            return weight
    raise UserError(f"{name} is '{text}', expected a number")
