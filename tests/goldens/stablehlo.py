"""StableHLO as text that two commits can be compared by: without locations, and without names that Python gave.

Values (`%12`, `%arg3`, `%cst_4`) are numbered by MLIR's printer in the order in which they come, so they say nothing of
the source. What is left to take away: where in which file an operation was made, what the jitted function, the ones
that it calls, its arguments and its results are called.
"""

import hashlib
import re
from collections import Counter
from typing import Any

_LOCATION = re.compile(r' loc\((?:[^()"]|"[^"]*"|\([^()]*\))*\)')
"""A place, by number, by name, or both: `loc(#loc3)`, `loc("sort:"(#loc3))`, `loc("step.py":1:2)`."""
_ALIAS = re.compile(r"^#loc\d* = .*\n", re.MULTILINE)
_RESULT_NAME = re.compile(r'(?:, )?jax\.result_info = "[^"]*"(?:, )?')
_MODULE = re.compile(r"^module @\S+", re.MULTILINE)
_FUNCTION = re.compile(r"(?:func\.func (?:public |private )?|call )(@[\w.$-]+|@\"[^\"]*\")")
_OPERATION = re.compile(r"(?:^|= )\"?((?:stablehlo|chlo|sdy|func|mhlo)\.[a-z_]+|call|return)\b", re.MULTILINE)


def normalised(text: str) -> str:
    """The text of a module, as `Lowered.as_text` or `JAX_DUMP_IR_TO` writes it, without what is no computation."""
    text = _LOCATION.sub("", _ALIAS.sub("", text))
    text = _MODULE.sub("module", _RESULT_NAME.sub("", text))
    names: dict[str, str] = {}
    for match in _FUNCTION.finditer(text):
        names.setdefault(match[1], f"@f{len(names)}")
    return _FUNCTION.sub(lambda match: match[0].replace(match[1], names[match[1]]), text).strip() + "\n"


def operations(text: str) -> dict[str, int]:
    """How often each operation stands in a normalised text."""
    lines = (line.strip() for line in text.splitlines())
    return dict(sorted(Counter(m[1] for line in lines for m in _OPERATION.finditer(line)).items()))


def summary(text: str) -> dict[str, Any]:
    """What is kept of a normalised text: a hash, and enough to see what kind of change it was."""
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "operations": operations(text)}
