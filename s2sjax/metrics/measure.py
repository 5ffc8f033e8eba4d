"""All metrics of a set of examples together, from what a model said of them."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from s2sjax.metrics.likelihood import likelihood_metrics
from s2sjax.metrics.names import LIKELIHOOD_METRICS
from s2sjax.metrics.text import TextMetrics, text_metrics

T = TypeVar("T")
S = TypeVar("S")


def references_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The right answers of an example: several where the data has several, else its target."""
    return tuple(row.get("references") or (row["target"],))


def measure(
    how: TextMetrics,
    rows: Iterable[Mapping[str, Any]],
    hypotheses: Sequence[str] | None,
    *,
    nll: float,
    tokens: float,
) -> dict[str, float | str]:
    """The metrics that `how` names, in its order, and then what belongs to them (counts, signatures).

    Args:
        how: `how.names` may hold those of likelihood too.
        rows: examples, with "source", "target" and perhaps "references"; gone through more than once.
        hypotheses: of each row; None where nothing was decoded, and then no metric of text is computed.
        nll: negative log-likelihood of all targets, nats, end-of-sentence counted.
        tokens: how many tokens that was.
    """
    found: dict[str, float | str] = {"loss": nll / tokens}
    if how.any_of(name for name in LIKELIHOOD_METRICS if name != "loss"):
        found |= likelihood_metrics(nll, tokens, (row["target"] for row in rows))
    if hypotheses is not None:
        found |= text_metrics([row["source"] for row in rows], hypotheses, [references_of(row) for row in rows], how)
    first = {name: found[name] for name in how.names if name in found}
    rest = {name: value for name, value in found.items() if name not in first and name not in LIKELIHOOD_METRICS}
    return first | rest


def measure_each(
    measure: Callable[[Iterable[T], Sequence[str] | None, S], Mapping[str, Any]],
    rows: Iterable[T],
    hypotheses: Sequence[str] | None,
    parts: Mapping[str, int],
    sums: Mapping[str, S],
) -> dict[str, dict[str, Any]]:
    """The metrics of each part of the examples that has some, with the number of its examples.

    Args:
        measure: from some examples, their hypotheses and what was summed over them to their metrics.
        parts: how many examples each has, one after the other.
        sums: of each part that has examples.
    """
    found: dict[str, dict[str, Any]] = {}
    left, stop = iter(rows), 0
    for name, length in parts.items():
        start, stop = stop, stop + length
        its_rows = list(itertools.islice(left, length))
        if length:
            texts = None if hypotheses is None else hypotheses[start:stop]
            found[name] = {"examples": length, **measure(its_rows, texts, sums[name])}
    return found
