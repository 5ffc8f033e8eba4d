"""Config keys that hold one text or several, `target = "de"` or `target = ("de", "fr")`, on the command line too.

ml-collections keeps every key at the type of its default, and gives each type one parser.
"""

import ast
from abc import ABC

from absl import flags
from ml_collections import FieldReference, config_flags


class OneOrSeveral(ABC):  # noqa: B024 - a union, in a form that `isinstance` with one type takes
    """The type of such a key."""


OneOrSeveral.register(str)
OneOrSeveral.register(tuple)


class _Parser(flags.ArgumentParser):
    """A Python tuple or list of texts is several; all else is one text, as it is written."""

    def parse(self, argument):
        if isinstance(argument, str) and argument.startswith(("(", "[")):
            try:
                found = ast.literal_eval(argument)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return argument
            if isinstance(found, tuple | list) and all(isinstance(item, str) for item in found):
                return tuple(found)
        return argument


config_flags.config_flags._FIELD_TYPE_TO_PARSER[OneOrSeveral] = _Parser()


def one_or_several(value: str | tuple[str, ...]) -> FieldReference:
    """The value as it stands in a ConfigDict."""
    return FieldReference(value, field_type=OneOrSeveral)
