"""What there is to tell of the texts of requests, returned beside what came of them."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from s2sjax.data.unknown import Unknown

T = TypeVar("T")


@dataclass(frozen=True)
class RequestCounts:
    """What was met in the texts of some requests. Adding two gives that of all of their requests.

    Attributes:
      sources: how many sources there were.
      truncated: those that were cut to the most tokens that are read.
      unknown: what the vocabulary lacks of the sources.
      unknown_targets: what it lacks of the texts that were given as targets.
      unmet: sources without an output that meets the constraints.
    """

    sources: int = 0
    truncated: int = 0
    unknown: Unknown = Unknown()
    unknown_targets: Unknown = Unknown()
    unmet: int = 0

    def __add__(self, other: "RequestCounts") -> "RequestCounts":
        return RequestCounts(
            self.sources + other.sources,
            self.truncated + other.truncated,
            self.unknown + other.unknown,
            self.unknown_targets + other.unknown_targets,
            self.unmet + other.unmet,
        )


@dataclass(frozen=True, eq=False)
class WithCounts(Generic[T]):
    """A result, and the counts of the requests that it answers."""

    result: T
    counts: RequestCounts
