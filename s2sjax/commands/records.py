"""The lines of JSON that decode writes, read again: a source and its hypotheses each."""

import dataclasses
from typing import Any

from s2sjax.errors import UserError
from s2sjax.files.jsontext import NAMES, Bound, parse
from s2sjax.inference.hypotheses import Hypothesis

LARGEST = Bound(1 << 25, 3_000_000)
"""What a record may have: 1,000 hypotheses of 1,000 tokens have 2 million separators and 20 MB."""
_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,), "tokens": (list,), "score": (float, int), "ranking_score": (float, int), "ids": (list,),
}  # fmt: skip


def read_record(line: str, path: str, number: int) -> tuple[dict[str, Any], list[Hypothesis]]:
    """A record as it stands there, and its hypotheses.

    Raises:
        UserError: line `number` of `path` is no such record.
    """
    try:
        record = parse(line, "it", most=LARGEST)
        _field(record, "source", (str,))
        hypotheses = [_hypothesis(entry) for entry in _field(record, "hypotheses", (list,))]
    except UserError as error:
        raise UserError(f"{path}, line {number}: not what decode --format=jsonl writes ({error})") from None
    return record, hypotheses


def _hypothesis(entry: Any) -> Hypothesis:
    fields = dataclasses.fields(Hypothesis)
    found = Hypothesis(
        **{field.name: _field(entry, field.name, _TYPES[field.name], " of a hypothesis") for field in fields}
    )
    if not all(type(i) is int and 0 <= i < 2**31 for i in found.ids):
        raise UserError("field 'ids' of a hypothesis holds what is no number of a token")
    return dataclasses.replace(found, tokens=tuple(map(str, found.tokens)), ids=tuple(found.ids))


def _field(record: Any, name: str, types: tuple[type, ...], of: str = "") -> Any:
    if not isinstance(record, dict):
        raise UserError(f"a hypothesis is {NAMES[type(record)]}, expected an object")
    if name not in record:
        raise UserError(f"field {name!r}{of} is missing")
    if type(record[name]) not in types:
        raise UserError(f"field {name!r}{of} is {NAMES[type(record[name])]}, expected {NAMES[types[0]]}")
    return record[name]
