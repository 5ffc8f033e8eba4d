"""What evaluating a split leaves in a run directory: its metrics, and what was decoded."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from s2sjax.data.records import Source
from s2sjax.errors import UserError
from s2sjax.files import jsontext, rundir
from s2sjax.inference.hypotheses import Hypothesis
from s2sjax.metrics.measure import references_of

_log = logging.getLogger(__name__)
_LONGEST = 150
"""Bytes of a name; file systems take 255, and endings come after it."""


def result_name(split: str, parts: Sequence[str] = (), *, ensemble: bool = False) -> str:
    """What the files of a split's results are called, without their ending.

    Args:
        parts: names of the pairs of languages, or of the sets of a mixture if those are chosen.

    Splits may be named by paths and slices, so what cannot be in the name of a file here becomes "_".
    """
    parts = [split, *parts, *(["ensemble"] if ensemble else [])]
    name = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in ".".join(parts))
    if len(name.encode(errors="replace")) <= _LONGEST:
        return name
    digest = hashlib.blake2b(name.encode(errors="replace"), digest_size=8).hexdigest()
    return f"{name.encode(errors='replace')[: _LONGEST - 17].decode(errors='ignore')}-{digest}"


def write_results(
    workdir: Path, name: str, results: Mapping[str, Any], hypotheses: Iterable[Mapping[str, Any]] | None
) -> None:
    """Write `results/NAME.json` and, where something was decoded, `results/NAME.hyp.jsonl`.

    A run directory that cannot be written costs a warning and not the results, which took long and are printed.
    """
    contents = {f"{name}.json": jsontext.dumps(results, indent=2) + "\n"}
    if hypotheses is not None:
        contents[f"{name}.hyp.jsonl"] = "".join(map(jsontext.printed_line, hypotheses))
    for file, content in contents.items():
        try:
            rundir.write(workdir, f"results/{file}", content.encode(errors="replace"))
        except OSError as error:
            _log.warning("%s is not written: %s", workdir / "results" / file, error.strerror or error)
        except UserError as error:  # what stands there leads elsewhere
            _log.warning("%s is not written: %s", workdir / "results" / file, error)


def decoded_records(source: Source, found: Sequence[Sequence[Hypothesis]], kind: str) -> Iterator[dict[str, Any]]:
    """What is recorded of each example.

    Args:
        kind: what a part of the source is called, "set" or "pair".
    """
    part_of = [part for part, length in source.parts.items() for _ in range(length)]
    for number, (row, hypotheses) in enumerate(zip(source, found, strict=True)):
        best = hypotheses[0] if hypotheses else None
        yield {
            "n": number + 1,
            **({kind: part_of[number]} if part_of else {}),
            "source": row["source"],
            "references": references_of(row),
            "hypothesis": best.text if best else "",
            "score": best.score if best else None,
            "tokens": len(best.ids) if best else 0,
        }
