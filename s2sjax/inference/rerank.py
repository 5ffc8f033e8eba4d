"""Another order of what a search found: by minimum Bayes risk, or by what other models say of the same hypotheses."""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from s2sjax.config import choose
from s2sjax.data.tokenizer import TokenizerPair
from s2sjax.errors import UserError, listed
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.inference.risk import UTILITIES, expected_utilities


@dataclass(frozen=True)
class Ranked:
    hypothesis: Hypothesis
    """With its new `ranking_score`."""
    place: int
    """Where it stood before, from 0."""
    components: Mapping[str, float]
    """What the ranking score is made of: the log-probabilities in nats that it is a sum of, not yet weighted; of
    minimum Bayes risk, the probability that the hypothesis was given."""


class Kind(enum.StrEnum):
    """What a judge gives the log-probability of, in nats, end-of-sentence counted."""

    FORWARD = "forward"
    """The hypothesis given the source. Also of a run that was trained right to left."""
    CHANNEL = "channel"
    """The source given the hypothesis: the judge translates the other way (the noisy channel)."""
    LANGUAGE_MODEL = "language_model"
    """The hypothesis alone."""


class Scoring(Protocol):
    """What is needed of a `Run`."""

    @property
    def tokenizers(self) -> TokenizerPair: ...

    def score(
        self, sources: Sequence[str], targets: Sequence[str], *, progress: Callable[[int], None]
    ) -> list[float]: ...


@dataclass(frozen=True)
class Judge:
    """A trained run that has a say in the order."""

    name: str
    run: Scoring
    kind: Kind = Kind.FORWARD
    weight: float = 1.0


def minimum_bayes_risk(
    found: Sequence[Sequence[Hypothesis]],
    *,
    utility: str = "chrf",
    weights: str = "uniform",
    bleu_tokenize: str = "13a",
) -> list[list[Ranked]]:
    """The hypotheses of each source, the greatest expected utility first (see `risk`); of equals the earlier one.

    Args:
        utility: "chrf", "bleu" or "exact_match".
        weights: what is expected of each hypothesis: "uniform", the same, for independent draws, of which one that came
            twice counts twice; or "model", its probability over that of all that are there, for an n-best list.
        bleu_tokenize: how the utility "bleu" cuts texts into words, one of `metrics.names.BLEU_TOKENIZERS`.

    Raises:
        UserError: the utility, weights or tokenizer are none of these.
    """
    choose(utility, UTILITIES, "utility")
    choose(weights, ("uniform", "model"), "weights")
    ranked = []
    for hypotheses in found:
        log_weights = np.array([h.score if weights == "model" else 0.0 for h in hypotheses])
        probabilities = np.exp(log_weights - log_weights.max(initial=-np.inf))
        probabilities /= probabilities.sum()
        texts = [h.text for h in hypotheses]
        expected = expected_utilities(texts, utility, probabilities, bleu_tokenize=bleu_tokenize)
        ranked.append(_best_first(hypotheses, expected, [{"probability": float(p)} for p in probabilities]))
    return ranked


def rerank(
    sources: Sequence[str],
    found: Sequence[Sequence[Hypothesis]],
    judges: Sequence[Judge],
    *,
    original: float = 1.0,
    normalize: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> list[list[Ranked]]:
    """The hypotheses of each source by a weighted sum of log-probabilities, the greatest first; of equals the earlier.

    As Ng et al. 2019, arXiv:1907.06616, section 4.4: a channel model and a language model beside the model that found
    the hypotheses. Judges read texts, which they cut into tokens of their own, and so need not share a vocabulary.

    Args:
        original: the weight of each hypothesis's own `score`, which is over no length penalty.
        normalize: each log-probability is divided by how many tokens it is of, end-of-sentence counted, before it is
            weighted; else it is the whole sum, which suits hypotheses of about the same length.
        progress: is told how many pairs each finished batch held.

    Raises:
        UserError: two judges have the same name.
    """
    names = ["original", *(judge.name for judge in judges)]
    if len(set(names)) < len(names):
        raise UserError(f"two judges have the same name: {listed(names)}; name each once, with one weight")
    weights = [original, *(judge.weight for judge in judges)]
    of_judges = [_log_probs(judge, sources, found, progress) for judge in judges]
    ranked = []
    for number, hypotheses in enumerate(found):
        columns = [[(h.score, len(h.ids)) for h in hypotheses], *(each[number] for each in of_judges)]
        scores, components = np.zeros(len(hypotheses)), []
        for weight, column in zip(weights, columns, strict=True):
            scores += [weight * log_prob / (max(tokens, 1) if normalize else 1) for log_prob, tokens in column]
        for values in zip(*columns, strict=True):
            components.append({name: log_prob for name, (log_prob, _) in zip(names, values, strict=True)})
        ranked.append(_best_first(hypotheses, scores, components))
    return ranked


def _log_probs(
    judge: Judge, sources: Sequence[str], found: Sequence[Sequence[Hypothesis]], progress: Callable[[int], None]
) -> list[list[tuple[float, int]]]:
    """A judge's log-probability of each hypothesis of each source, and how many tokens it is of."""

    def pair(source: str, hypothesis: Hypothesis) -> tuple[str, str]:
        match judge.kind:
            case Kind.FORWARD:
                return source, hypothesis.text
            case Kind.CHANNEL:
                return hypothesis.text, source
            case Kind.LANGUAGE_MODEL:
                return "", hypothesis.text

    pairs = [[pair(s, h) for h in hypotheses] for s, hypotheses in zip(sources, found, strict=True)]
    distinct = list(dict.fromkeys(each for listed in pairs for each in listed))
    given, scored = [first for first, _ in distinct], [second for _, second in distinct]
    log_probs = judge.run.score(given, scored, progress=progress)
    lengths = [len(row) + 1 for row in judge.run.tokenizers.target.encode(scored)]
    by_pair = dict(zip(distinct, zip(log_probs, lengths, strict=True), strict=True))
    return [[by_pair[each] for each in listed] for listed in pairs]


def _best_first(
    hypotheses: Sequence[Hypothesis], scores: np.ndarray, components: Sequence[Mapping[str, float]]
) -> list[Ranked]:
    order = np.argsort(-scores, kind="stable").tolist()
    return [Ranked(dataclasses.replace(hypotheses[i], ranking_score=float(scores[i])), i, components[i]) for i in order]
