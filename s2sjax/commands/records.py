"""The lines of JSON that decode writes, read again: a source and its hypotheses each."""

import dataclasses
from typing import Any

from s2sjax.errors import UserError
from s2sjax.jsontext import parse
from s2sjax.tasks.translate import Hypothesis


def read_record(line: str, path: str, number: int) -> tuple[dict[str, Any], list[Hypothesis]]:
    """A record as it stands there, and its hypotheses.

    Raises:
        UserError: line `number` of `path` is no such record.
    """
    where = f"{path}, line {number}"
    try:
        record = parse(line, where)
        if not isinstance(record["source"], str):
            raise TypeError("source")
        hypotheses = [_hypothesis(entry) for entry in record["hypotheses"]]
    except (UserError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: not what decode --format=jsonl writes ({error!r:.160})") from error
    return record, hypotheses


def _hypothesis(entry: dict[str, Any]) -> Hypothesis:
    """Raises: LookupError, TypeError or AttributeError if the entry is none."""
    found = Hypothesis(**{field.name: entry[field.name] for field in dataclasses.fields(Hypothesis)})
    for name in ("score", "ranking_score"):
        if type(getattr(found, name)) not in (int, float):
            raise TypeError(name)
    if not (isinstance(found.text, str) and all(type(i) is int and 0 <= i < 2**31 for i in found.ids)):
        raise TypeError("text or ids")
    return dataclasses.replace(found, tokens=tuple(map(str, found.tokens)), ids=tuple(found.ids))
