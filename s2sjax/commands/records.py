"""The lines of JSON that decode writes, read again: a source and its hypotheses each."""

import dataclasses
import json
import math
from typing import Any

from s2sjax.errors import UserError
from s2sjax.tasks.translate import Hypothesis


def read_record(line: str, path: str, number: int) -> tuple[dict[str, Any], list[Hypothesis]]:
    """A record as it stands there, and its hypotheses.

    Raises:
        UserError: line `number` of `path` is no such record.
    """
    try:
        record = json.loads(line)
        record["source"].encode()  # text, and none that cannot be written
        hypotheses = []
        for entry in record["hypotheses"]:
            found = Hypothesis(**{field.name: entry[field.name] for field in dataclasses.fields(Hypothesis)})
            found.text.encode()
            if not all(type(i) is int and 0 <= i < 2**31 for i in found.ids):
                raise TypeError("ids")
            if not (math.isfinite(found.score) and math.isfinite(found.ranking_score)):
                raise ValueError("score")
            found = dataclasses.replace(found, tokens=tuple(map(str, found.tokens)), ids=tuple(found.ids))
            hypotheses.append(found)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}, line {number}: not what decode --format=jsonl writes ({error!r:.80})") from error
    return record, hypotheses
